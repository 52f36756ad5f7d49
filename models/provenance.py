"""What the records behind a checkpoint say: which reward models had a hand in it.

A checkpoint's ``run.json`` names what it was made from: a compressed one its source, a merged one its adapter, a taught
one its base, its pairs or prompts and its reward model, each by folder and, for models, by content hash. These records are
followed as far as the named folders are still there. Reads JSON (and, to hash it, a named reward model's files); loads
nothing.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from teachfair.errors import TeachfairError
from teachfair.models.checkpoint import content_hash, member_folders, read_manifest
from teachfair.runs import RUN_RECORD, read_record

# What a record was made from. A study's steps are named, not placed: they lie side by side.
# Not followed: ``prompts_of``, whose prompts they are (who ranked pairs had no hand in their prompts), and ``placebo_of``.
_MADE_FROM = ("source", "base", "policy", "dataset", "pairs_step", "prompts_step")
_REWARD_MODEL_FOLDERS = ("reward_model", "ranked_by", "scorer")
_BESIDE_A_FILE = ".provenance.json"  # as recipes/sample_pairs.py writes it beside its pairs


@dataclass(frozen=True)
class RewardModelUse:
    """A record behind a checkpoint that names a reward model; ``folder`` as the record calls it, "" where it does not."""

    record: Path
    folder: str


def hashes_of(reward_model: str | Path) -> list[str]:
    """Content hashes of a reward model's folder: its own, and those of its members where it is an ensemble.

    A model is another's teacher if they share one: a member of the ensemble, or an ensemble that it is in.
    """
    return [content_hash(reward_model), *(content_hash(member) for member in member_folders(reward_model))]


def named_by_hash(reward_model: str | Path) -> dict[str, Any]:
    """For a run record: ``reward_model_hash`` and, of an ensemble, ``reward_model_members``."""
    own, *members = hashes_of(reward_model)
    return {"reward_model_hash": own, **({"reward_model_members": members} if members else {})}


def reward_model_use(policy: str | Path, reward_model_hash: str | Collection[str]) -> RewardModelUse | None:
    """The first record behind ``policy`` that names the reward model of this content hash (one of these), or None.

    Args: reward_model_hash: :func:`hashes_of` it, so that members and the ensembles they are in are found as well.

    A copy of the reward model's folder has the same hash, so it is found wherever it lies. None means that no record
    names it, not that it had no hand in a checkpoint without records.
    """
    wanted = {reward_model_hash} if isinstance(reward_model_hash, str) else set(reward_model_hash)
    for path, record in records_behind(policy):
        for key, value, beside in _strings(record):
            if value in wanted:
                return RewardModelUse(path, _folder(beside) or _folder(record))
            if key in _REWARD_MODEL_FOLDERS and wanted & set(_hashes_of(value)):
                return RewardModelUse(path, value)
    return None


def records_behind(policy: str | Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """(file, record) of a checkpoint, then of what it says it was made from, and so on; each file once."""
    waiting, seen = [Path(policy)], set()
    while waiting:
        place = waiting.pop(0)
        base = (_manifest(place) or {}).get("base")
        waiting += [Path(base)] if isinstance(base, str) and base else []
        for file, record in _records_at(place):
            if file.resolve() in seen:
                continue
            seen.add(file.resolve())
            yield file, record
            for key in _MADE_FROM:
                value = record.get(key)
                if isinstance(value, str) and value and "\0" not in value:
                    # a study that was moved keeps its steps side by side
                    waiting += [Path(value), file.parent.parent / Path(value).name]


def _manifest(place: Path) -> dict[str, Any] | None:
    try:
        return read_manifest(place)
    except (OSError, TeachfairError):
        return None


def _records_at(place: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    try:
        if place.is_dir():
            record = read_record(place)
            if record is not None:
                yield place / RUN_RECORD, record
            return
        beside = place.with_name(place.name + _BESIDE_A_FILE) if place.name else place
        found = json.loads(beside.read_text(encoding="utf-8")) if place.name and beside.is_file() else None
    except (OSError, ValueError):
        return
    if isinstance(found, dict):
        yield beside, found
    elif place.is_file() and (record := read_record(place.parent)) is not None:
        yield place.parent / RUN_RECORD, record


def _strings(
    node: Any, key: str = "", beside: Mapping[str, Any] | None = None
) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """(key, text, the mapping it stands in) of every text in a record."""
    if isinstance(node, Mapping):
        for name, value in node.items():
            yield from _strings(value, str(name), node)
    elif isinstance(node, list):
        for value in node:
            yield from _strings(value, key, beside)
    elif isinstance(node, str):
        yield key, node, beside or {}


def _folder(node: Mapping[str, Any]) -> str:
    for key, value, _ in _strings(node):
        if key in _REWARD_MODEL_FOLDERS and Path(value).name and ("/" in value or "\\" in value or Path(value).is_dir()):
            return value
    return ""


def _hashes_of(folder: str) -> list[str]:
    try:
        return hashes_of(folder) if Path(folder).is_dir() else []
    except (OSError, ValueError, TeachfairError):
        return []
