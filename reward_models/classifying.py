"""The reward model as a bias classifier: one label per text."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from teachfair.reward_models.calibrating import probability
from teachfair.reward_models.scoring import RewardModel

logger = logging.getLogger(__name__)

LABELS = ("unfair", "fair")


def classify(
    path: str | Path | RewardModel, texts: Iterable[str], *, batch_size: int = 64
) -> Iterator[dict[str, Any]]:
    """Label texts, in order, with memory for ``8 * batch_size`` of them at a time.

    A text is scored as it is, as a stock pipeline does (to judge an answer to a question, hand over the text
    of ``rendering.render``). A text that cannot be scored (empty, or longer than the model's context) keeps
    its place in the output, with None and a ``reason``.

    Returns: dicts ``text, label`` ("fair" or "unfair"), ``probability`` (of fair, 0..1), ``reward`` (logits),
    ``calibrated``. Without a calibration in the folder the threshold is reward 0, and ``calibrated`` is
    False.
    Raises: CheckpointError if the folder is not a reward model.
    """
    model = path if isinstance(path, RewardModel) else RewardModel.load(path)
    if model.calibration is None:
        logger.warning(
            "%s is uncalibrated: labels are cut at reward 0, and the probability is only a squashed reward",
            model.name,
        )
    lines = iter(texts)
    while chunk := list(itertools.islice(lines, 8 * batch_size)):
        yield from _classified(model, chunk, batch_size)


def _classified(model: RewardModel, texts: list[str], batch_size: int) -> Iterator[dict[str, Any]]:
    ids = [list(model.tokenizer(text, verbose=False)["input_ids"]) if text.strip() else [] for text in texts]
    usable = [row for row, one in enumerate(ids) if 0 < len(one) <= model.max_tokens]
    rewards = model.score_ids([ids[row] for row in usable], batch_size=batch_size)
    probabilities = probability(rewards, model.calibration)
    scored = dict(zip(usable, zip(rewards, probabilities, strict=True), strict=True))
    for row, text in enumerate(texts):
        found: dict[str, Any] = {"text": text, "label": None, "probability": None, "reward": None}
        found["calibrated"] = model.calibration is not None
        if row in scored:
            reward, share = scored[row]
            found.update(label=LABELS[bool(share >= 0.5)], probability=float(share), reward=float(reward))
        elif ids[row]:
            found["reason"] = f"{len(ids[row])} tokens, the model reads {model.max_tokens}"
        else:
            found["reason"] = "empty"
        yield found
