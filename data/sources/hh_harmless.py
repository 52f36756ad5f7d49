"""Anthropic's HH, harmless part: transcripts of people with an assistant, as conversational pairs of several turns."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from teachfair.data.gathering import Gathering, Place, digest, place_of
from teachfair.data.reading import hub_rows, jsonl_rows, read_bytes
from teachfair.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset

ROLES = {"Human": "user", "Assistant": "assistant"}
SUFFIXES = (".jsonl.gz", ".jsonl")

EMPTY_TURN = "a turn without text"
SAME_SPEAKER = "one speaker has two turns in a row"
PART_EARLY = "the two transcripts part before their last answer"
NO_ANSWER = "the last turn is the human's"

CARD = {
    "name": "hh_harmless",
    "meaning": "conversations with the less and the more harmful of two last answers, as red-teaming annotators judged",
    "paper": (
        "Bai et al. (2022), Training a Helpful and Harmless Assistant with Reinforcement Learning from Human Feedback, "
        "arXiv 2204.05862"
    ),
    "public_id": "github: anthropics/hh-rlhf, commit 354e5c3c, harmless-base; hub: Anthropic/hh-rlhf",
    "hub": "Anthropic/hh-rlhf",
    "licence": "MIT",
    "language": "en",
    "norm": "annotators in the United States who tried to provoke harm and chose the less harmful answer; no written rule",
    "version": 1,
    "formats": ["folder with <split>.jsonl.gz or <split>.jsonl: {chosen, rejected} transcripts, or such a file", "hub id"],
    "problems": [
        "harmless is not fair: few pairs are about groups at all, and the better of two bad answers is chosen; kind "
        "unspecified",
        "rows whose transcripts part early, in which a speaker has two turns in a row, or with an empty turn, are dropped "
        "and counted: they are no pair of two answers to one conversation",
        "many rows share their beginning: the cluster is the first question",
        "the rejected answers are offensive by design",
    ],
}  # fmt: skip


def load(
    path_or_id: str | Path | None = None,
    split: str = "train",
    *,
    drop_equal: bool = True,
    exclude_ids: str | Path | None = None,
    limit_errors: int = 20,
) -> Dataset:
    """Pairs of a split: the conversation so far is the prompt, ``chosen`` and ``rejected`` are two answers to it.

    Args:
        split: which file of the folder ("train", "test"); of a file on its own it is not looked at.
        drop_equal: accepted because every source takes it; equal pairs are always dropped and counted.
        exclude_ids: a file with the ids, one a line, of pairs to leave out (see ``teachfair.data.excluding``).

    Ids are the row's number: ``hh_harmless-test-00041``. The axis is "" (not stated).
    Raises: DataError that lists every malformed row.
    """
    place = place_of(path_or_id, CARD)
    gathering = Gathering("hh_harmless", limit_errors)
    if isinstance(place, str):
        rows = hub_rows(place, None, split, data_dir="harmless-base")
        lines, name, part = list(range(1, len(rows) + 1)), place, split
    else:
        path = place if place.is_file() else _of_split(place, split)
        name = path.name
        part = re.sub(r"\W+", "_", name.removesuffix(".gz").removesuffix(".jsonl"))
        lines, rows = jsonl_rows(path, read_bytes(path))
    for number, (line, raw) in enumerate(zip(lines, rows, strict=True)):
        at = Place(name, line)
        record = gathering.record(raw, at)
        if record is not None:
            _add(gathering, record, at, f"hh_harmless-{part}-{number:05d}")
    return gathering.dataset(where=str(path_or_id), exclude_ids=exclude_ids)


def _of_split(folder: Path, split: str) -> Path:
    for suffix in SUFFIXES:
        path = folder / f"{split}{suffix}"
        if path.is_file():
            return path
    there = sorted(path.name for path in folder.iterdir() if path.name.endswith(SUFFIXES))
    raise DataError(
        f"there is no {split}.jsonl.gz in this folder",
        where=str(folder),
        fix=f"name a split that is there ({', '.join(there[:6]) or 'none is'}), or add it ({CARD['public_id']})",
    )


def _add(gathering: Gathering, record: dict[str, Any], at: Place, identity: str) -> None:
    found = len(gathering.problems)
    sides = []
    for side in ("chosen", "rejected"):
        # white space inside of a turn is the answer's own (lists, paragraphs): checked here, not normalised
        if gathering.text(record, side, at):
            turns = turns_of(record[side])
            if not turns or turns[0][0] != "user":
                gathering.bad(at, side, 'a transcript that begins with "\\n\\nHuman:" was wanted')
            sides.append(turns)
    if len(gathering.problems) > found:
        return
    chosen, rejected = sides
    reason = _unusable(chosen, rejected)
    if reason:
        gathering.drop(reason)
        return
    prompt = [{"role": role, "content": text} for role, text in chosen[:-1]]
    gathering.pair(
        prompt, chosen[-1][1], rejected[-1][1],
        kind="unspecified", axis="", cluster=f"hh-{digest(chosen[0][1].lower())}", lang="en", id=identity,
    )  # fmt: skip


def turns_of(transcript: str) -> list[tuple[str, str]]:
    """(role, text) of each turn of "\\n\\nHuman: … \\n\\nAssistant: …"; [] where something stands before the first."""
    parts = re.split(r"(?:\A|\n\n)(Human|Assistant):", transcript)
    if parts[0].strip():
        return []
    return [(ROLES[who], text.strip()) for who, text in zip(parts[1::2], parts[2::2], strict=True)]


def _unusable(chosen: list[tuple[str, str]], rejected: list[tuple[str, str]]) -> str:
    """Why two transcripts are no pair of answers to one conversation; "" where they are."""
    for turns in (chosen, rejected):
        if any(one[0] == other[0] for one, other in itertools.pairwise(turns)):
            return SAME_SPEAKER
        if not all(text for _, text in turns):
            return EMPTY_TURN
        if turns[-1][0] != "assistant":
            return NO_ANSWER
    return PART_EARLY if chosen[:-1] != rejected[:-1] else ""
