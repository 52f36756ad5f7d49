"""The reward of a conversation, from any folder that holds a reward model."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from teachfair.errors import CheckpointError, InputError

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Message = Mapping[str, str]

FRAMED = "teachfair_framed"  # in config.json: the tokenizer was framed by reward_models.rendering
_BATCH_TOKENS = {"cpu": 1024, "other": 16384}
CALIBRATION = "teachfair_calibration"  # in config.json: {"threshold", "temperature", …}


class RewardModel:
    """A scalar reward model: full, LoRA merged, or an encoder; ours, or anyone's with one output.

    Ours see the ids of a plain tokenizer call on the rendered conversation (``rendering``); another's folder
    is used through its own chat template, without further special tokens, as TRL's trainers do.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, name: str = "") -> None:
        """Raises: CheckpointError if the model has not exactly one output, or no chat template to render
        with."""
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.name = name or str(getattr(model.config, "_name_or_path", ""))
        self.is_framed = bool(getattr(model.config, FRAMED, False))
        self.calibration: dict[str, Any] | None = getattr(model.config, CALIBRATION, None)
        if model.config.num_labels != 1:
            raise CheckpointError(
                f"a reward model has one output, this one has {model.config.num_labels}",
                where=self.name,
                fix="give a folder made by recipes/reward_model.py, or any classifier with num_labels=1",
            )
        if not tokenizer.chat_template:
            raise CheckpointError(
                "its tokenizer has no chat template, so it is not known how to show it an answer",
                where=self.name,
                fix="save the tokenizer with the template that the reward model was trained with",
            )

    @classmethod
    def load(cls, path: str | Path, *, dtype: str = "float32", device: str | None = None) -> RewardModel:
        """Load a folder or hub id. ``device`` None: the accelerator if there is one, else the CPU.

        Raises: CheckpointError if there is no such model, it is an unmerged adapter, or it has not one
        output.
        """
        import torch
        from safetensors import SafetensorError
        from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

        folder = Path(path)
        if (folder / "adapter_config.json").exists():
            raise CheckpointError(
                "this is an adapter, not a whole reward model",
                where=str(path),
                fix="give the folder above it, in which recipes/reward_model.py merged it",
            )
        try:
            config = AutoConfig.from_pretrained(path)
            if any("ForCausalLM" in name for name in config.architectures or []):
                raise CheckpointError(
                    "this is a language model without a reward head",
                    where=str(path),
                    fix="train a reward model from it with recipes/reward_model.py",
                )
            if list((config.id2label or {}).values()) == ["unfair", "fair"]:
                raise CheckpointError(
                    "this is a classifier face, whose outputs are no reward",
                    where=str(path),
                    fix="give the reward-model folder that it lies in",
                )
            model, info = AutoModelForSequenceClassification.from_pretrained(
                path, dtype=getattr(torch, dtype), output_loading_info=True
            )
            tokenizer = AutoTokenizer.from_pretrained(path)
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            raise CheckpointError(
                f"the reward model cannot be loaded ({str(error).splitlines()[0][:200]})",
                where=str(path),
                fix="give a folder made by recipes/reward_model.py, or the hub id of a reward model",
            ) from error
        if info["missing_keys"]:  # transformers draws them at random: a reward of noise
            raise CheckpointError(
                f"its weights lack {', '.join(sorted(info['missing_keys'])[:3])}",
                where=str(path),
                fix="give a trained reward model, not a base model",
            )
        where = device or ("cuda" if torch.cuda.is_available() else "cpu")
        return cls(model.to(where), tokenizer, name=str(path))

    @property
    def max_tokens(self) -> int:
        """The longest conversation it can read, in tokens."""
        limits = [int(self.tokenizer.model_max_length)]
        stated = getattr(self.model.config, "max_position_embeddings", None)
        if stated and stated > 0:
            limits.append(int(stated))
        return min(limits)

    def token_ids(self, messages: Sequence[Message]) -> list[int]:
        """The ids that the model sees of a conversation."""
        from teachfair.models.chat import render, tokenize
        from teachfair.reward_models import rendering

        if self.is_framed:
            return rendering.token_ids(self.tokenizer, messages)
        return tokenize(self.tokenizer, render(self.tokenizer, messages))

    def score(self, conversations: Sequence[Sequence[Message]], *, batch_size: int = 64) -> np.ndarray:
        """Rewards (n,) float64 of whole conversations, each ending with the answer to judge. Higher = fairer.

        Raises: InputError naming the row if a conversation is longer than the model's context (nothing is cut
        off in silence), or a reward is not finite.
        """
        return self.score_ids([self.token_ids(messages) for messages in conversations], batch_size=batch_size)

    def score_texts(self, texts: Sequence[str], *, batch_size: int = 64) -> np.ndarray:
        """Rewards (n,) float64 of texts as they are: the numbers of a stock
        pipeline("text-classification")."""
        ids = self.tokenizer(list(texts), verbose=False)["input_ids"] if len(texts) else []
        return self.score_ids(ids, batch_size=batch_size)

    def score_pairs(self, pairs: Dataset, *, batch_size: int = 64) -> tuple[np.ndarray, np.ndarray]:
        """Rewards of the chosen and of the rejected conversation of each preference pair, (n,) float64
        each."""
        rows = list(pairs)
        both = [[*row["prompt"], *row[side]] for side in ("chosen", "rejected") for row in rows]
        rewards = self.score(both, batch_size=batch_size)
        return rewards[: len(rows)], rewards[len(rows) :]

    def score_ids(
        self, ids: Sequence[Sequence[int]], *, batch_size: int = 64, batch_tokens: int | None = None
    ) -> np.ndarray:
        """Rewards (n,) float64 of token ids; equal ids are computed once.

        Padded on the right in batches of similar length; the numbers of one at a time, to fp32 rounding.

        Args:
            batch_size: the most sequences in a batch.
            batch_tokens: the most tokens in a batch, padding included (default: 1,024 on a CPU, where larger
                batches fall out of the cache; 16,384 elsewhere).
        """
        import torch

        from teachfair.models.cpu_inference import fast_on_cpu

        for row, one in enumerate(ids):
            if len(one) > self.max_tokens or not one:
                raise InputError(
                    f"a text of {len(one)} tokens; the reward model reads 1 to {self.max_tokens}",
                    where=f"row {row}",
                    fix="leave it out or shorten it; nothing is cut off in silence",
                )
        places: dict[tuple[int, ...], list[int]] = {}
        for row, one in enumerate(ids):
            places.setdefault(tuple(one), []).append(row)
        rewards = np.full(len(ids), np.nan)
        pad = self.model.config.get_text_config().pad_token_id
        device = next(self.model.parameters()).device
        batch_size = 1 if pad is None else batch_size  # without a pad token the model refuses a batch
        batch_tokens = batch_tokens or _BATCH_TOKENS.get(device.type, _BATCH_TOKENS["other"])
        with torch.inference_mode(), fast_on_cpu(self.model):
            for batch in batches(list(places), batch_size, batch_tokens):
                tokens = torch.full((len(batch), len(batch[0])), pad or 0)
                mask = torch.zeros_like(tokens)
                for place, one in enumerate(batch):
                    tokens[place, : len(one)] = torch.tensor(one)
                    mask[place, : len(one)] = 1
                logits = self.model(input_ids=tokens.to(device), attention_mask=mask.to(device)).logits
                for one, reward in zip(batch, logits[:, 0].double().cpu().numpy(), strict=True):
                    rewards[places[one]] = reward
        if not np.isfinite(rewards).all():
            row = int(np.flatnonzero(~np.isfinite(rewards))[0])
            raise InputError(
                "the reward is not a finite number",
                where=f"row {row} of {self.name}",
                fix="the reward model is broken: train it again",
            )
        return rewards


def batches(
    sequences: Sequence[tuple[int, ...]], batch_size: int, batch_tokens: int
) -> Iterator[list[tuple[int, ...]]]:
    """Sequences, the longest first (out of memory comes at once), in batches of at most ``batch_size`` of them
    and ``batch_tokens`` tokens, padding included; one sequence may be longer than that."""
    batch: list[tuple[int, ...]] = []
    for one in sorted(sequences, key=lambda one: (-len(one), one)):
        if batch and (len(batch) == batch_size or len(batch[0]) * (len(batch) + 1) > batch_tokens):
            yield batch
            batch = []
        batch.append(one)
    if batch:
        yield batch


def accuracy_per_kind(
    kinds: Sequence[str], reward_chosen: np.ndarray, reward_rejected: np.ndarray
) -> list[dict[str, Any]]:
    """How often the chosen answer has the higher reward, over all pairs and per kind.

    Args: one kind, and one reward of each side, per pair.
    Returns: dicts ``kind, n, ties, accuracy, low, high, mean_margin``: accuracy in 0..1 (a tie counts one
    half) with Wilson's 95 % interval over pairs; the margin is the mean reward difference, in logits.
    """
    from teachfair.data.shortcuts import accuracy_of

    margins = np.asarray(reward_chosen, dtype=float) - np.asarray(reward_rejected, dtype=float)
    names = np.asarray(list(kinds), dtype=object)
    found = []
    for kind in ("all", *sorted(set(names.tolist()))):
        chosen = margins if kind == "all" else margins[names == kind]
        if len(chosen):
            wins = [0.5 if margin == 0 else float(margin > 0) for margin in chosen]
            found.append({"kind": kind, **accuracy_of(wins), "mean_margin": float(chosen.mean())})
    return found


def read_calibration(path: str | Path) -> dict[str, Any] | None:
    """The calibration in a reward-model folder's config, or None; reads JSON only."""
    try:
        found = json.loads((Path(path) / "config.json").read_text(encoding="utf-8")).get(CALIBRATION)
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
