"""Sentence-transformers folders as the backbone of a reward model: what of them a stock classifier takes, what it leaves.

Such a folder is a chain of modules named in ``modules.json``: a transformer first, then pooling and perhaps more. The
reward model is an ``AutoModelForSequenceClassification``, so it takes the transformer and its tokenizer and reads a reward
off its own head; the modules behind the transformer stay behind, and it is said which. Reads JSON only.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from teachfair.errors import CheckpointError

MODULES = "modules.json"
_SETTINGS = "sentence_*_config.json"  # sentence_bert_config.json, by older versions sentence_roberta_config.json and so on
_LEGACY_MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


@dataclass(frozen=True)
class SentenceEncoder:
    """``folder``: where the transformer lies; ``inside``: that place in the checkpoint ("." or ``0_Transformer``).
    ``max_seq_length``: tokens that the sentence encoder reads, None where it does not say. ``pooling``: how it made one
    vector of a text, "" where it does not say. ``left_behind``: what the reward model does not take along, in words."""

    folder: Path
    inside: str
    max_seq_length: int | None
    pooling: str
    left_behind: tuple[str, ...]

    def facts(self) -> dict[str, Any]:
        """For the run record."""
        return {
            "transformer": self.inside, "max_seq_length": self.max_seq_length, "pooling": self.pooling,
            "left_behind": list(self.left_behind),
        }  # fmt: skip


def sentence_encoder(path: str | os.PathLike[str]) -> SentenceEncoder | None:
    """What a sentence-transformers folder or hub id is made of; None for any other checkpoint.

    Raises: CheckpointError if its first module is not a text transformer (static embeddings, word embeddings, CLIP, a router
        of several encoders), or its ``modules.json`` or the transformer's folder cannot be read.
    """
    folder = _local(path)
    if folder is None or not (folder / MODULES).is_file():
        return None
    modules = _modules(folder)
    first = folder / modules[0]["path"]
    kind = modules[0]["type"].rsplit(".", 1)[-1]
    config = _json(first / "config.json") if (first / "config.json").is_file() else None
    if kind != "Transformer" or config is None or not _reads_text(config):
        model_type = (config or {}).get("model_type") or ""
        what = kind if kind != "Transformer" else f"Transformer of type {model_type or 'unknown'}"
        raise CheckpointError(
            f"this sentence-transformers model is not a text transformer: its first module is {what}, and no reward head "
            "fits on that",
            where=f"{path}: {MODULES}",
            fix="give one whose first module is a Transformer with a text model's config.json, e.g. all-MiniLM-L6-v2",
        )
    settings: dict[str, Any] = next((_json(file) for file in sorted(first.glob(_SETTINGS))), {})
    stated = settings.get("max_seq_length")
    pooling, behind = "", []
    for module in modules[1:]:
        name, place = module["type"].rsplit(".", 1)[-1], folder / module["path"] / "config.json"
        own = _json(place) if module["path"] and place.is_file() else {}
        if name == "Pooling":
            pooling = _pooling(own)
            behind.append(f"Pooling ({pooling or 'mode not stated'}): the reward is read off the classifier's own head")
        elif name == "Dense":
            behind.append(f"Dense ({own.get('in_features', '?')} to {own.get('out_features', '?')}, weights not used)")
        else:
            behind.append(name)
    if settings.get("do_lower_case"):
        behind.append("do_lower_case: lower-casing before the tokenizer")
    extra = folder / "config_sentence_transformers.json"
    prompt = _json(extra).get("default_prompt_name") if extra.is_file() else None
    if prompt:
        behind.append(f"the default prompt {prompt!r}")
    length = stated if isinstance(stated, int) and not isinstance(stated, bool) and stated > 0 else None
    return SentenceEncoder(first, modules[0]["path"] or ".", length, pooling, tuple(behind))


def _local(path: str | os.PathLike[str]) -> Path | None:
    """The folder of a path or hub id with all its modules' files; None where there is no such model (its loader says so)."""
    from teachfair.models.checkpoint import local_folder

    if Path(path).is_dir():
        return Path(path)
    try:
        folder = local_folder(path)
    except CheckpointError:
        return None
    if (folder / MODULES).is_file():
        from huggingface_hub import snapshot_download

        inside = [module["path"] for module in _modules(folder) if module["path"]]
        wanted = [f"{place}/*{suffix}" for place in inside for suffix in (".json", ".txt", ".model", ".safetensors")]
        if wanted:
            snapshot_download(os.fspath(path), allow_patterns=wanted)
    return folder


def _modules(folder: Path) -> list[dict[str, str]]:
    found = _json(folder / MODULES, list)
    good = [
        {"type": one["type"], "path": one["path"]}
        for one in found
        if isinstance(one, dict) and isinstance(one.get("type"), str) and isinstance(one.get("path"), str)
    ]
    inside = all((folder / one["path"]).resolve().is_relative_to(folder.resolve()) for one in good)
    if not good or len(good) != len(found) or not inside:
        raise CheckpointError(
            "a list of modules {type, path}, with paths inside of the folder, was wanted",
            where=str(folder / MODULES),
            fix="save the model again with sentence-transformers",
        )
    return good


def _reads_text(config: dict[str, Any]) -> bool:
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES

    return config.get("model_type") in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES


def _pooling(config: dict[str, Any]) -> str:
    mode = config.get("pooling_mode")
    if mode is None:
        mode = [name for key, name in _LEGACY_MODES.items() if config.get(key) is True]
    return mode if isinstance(mode, str) else "+".join(str(one) for one in mode)


def _json(file: Path, kind: type = dict) -> Any:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"it cannot be read as JSON ({error})", where=str(file), fix="copy or download the checkpoint again"
        ) from error
    if not isinstance(found, kind):
        raise CheckpointError(
            f"a JSON {'list' if kind is list else 'object'} was wanted", where=str(file),
            fix="copy or download the checkpoint again",
        )  # fmt: skip
    return found
