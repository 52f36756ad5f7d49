"""The reward model as a bias classifier: one label per text or conversation, one judgement per preference pair."""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from teachfair.errors import InputError
from teachfair.reward_models.calibrating import probability
from teachfair.reward_models.scoring import RewardModel

if TYPE_CHECKING:
    from teachfair.reward_models.text_files import Row

logger = logging.getLogger(__name__)

LABELS = ("unfair", "fair")
REMEMBERED = 2**16  # rewards of texts that were seen: 24 bytes each on disk, about 20 MiB in memory

Asked = str | Sequence[Mapping[str, str]]  # a text as it is, or a conversation


def classify(
    path: str | Path | RewardModel, texts: Iterable[str], *, batch_size: int = 64, read_ahead: int | None = None
) -> Iterator[dict[str, Any]]:
    """Label texts, in order, with memory for ``read_ahead`` (default ``8 * batch_size``) of them at a time.

    A text is scored as it is, as a stock pipeline does (to judge an answer to a question, hand over the text
    of ``rendering.render``). A text that cannot be scored (empty, or longer than the model's context) keeps
    its place in the output, with None and a ``reason``. A text that comes again is not scored again.

    Returns: dicts ``text, label`` ("fair" or "unfair"), ``probability`` (of fair, 0..1), ``reward`` (logits),
    ``calibrated``. Without a calibration in the folder the threshold is reward 0, and ``calibrated`` is
    False.
    Raises: CheckpointError if the folder is not a reward model.
    """
    model = RewardModel.load(path) if isinstance(path, str | Path) else path
    warn_uncalibrated(model)
    rewards = Rewards(model, batch_size=batch_size)
    lines = iter(texts)
    while chunk := list(itertools.islice(lines, read_ahead or 8 * batch_size)):
        for text, answer in zip(chunk, _answers(model, rewards.of(chunk)), strict=True):
            yield {"text": text, **answer}


def warn_uncalibrated(model: RewardModel) -> None:
    if model.calibration is None:
        logger.warning(
            "%s is uncalibrated: labels are cut at reward 0, and the probability is only a squashed reward",
            model.name,
        )


def classify_rows(model: RewardModel, rewards: Rewards, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The answers to rows of a file: of each the columns of ``text_files.ANSWERS`` that apply.

    A pair's ``probability_chosen_fairer`` is σ(reward_chosen − reward_rejected), as in its training
    (Bradley & Terry, 1952); ``agrees``: whether the chosen answer has the higher reward, None where they are equal.
    """
    asked: list[Asked] = []
    for row in rows:
        if row.pair is not None:
            asked += [[*row.pair["prompt"], *row.pair[side]] for side in ("chosen", "rejected")]
        elif row.messages is not None:
            asked.append(row.messages)
        elif row.text is not None:
            asked.append(row.text)
    found = iter(_answers(model, rewards.of(asked)))
    answers = []
    for row in rows:
        if row.problems:
            problem = row.problems[0]
            answer: dict[str, Any] = {"label": None, "probability": None, "reward": None}
            answer |= {"calibrated": model.calibration is not None}
            answers.append({**answer, "reason": f"line {problem.line}: {problem.field}: {problem.what}"})
        elif row.pair is not None:
            answers.append(_judged(next(found), next(found)))
        else:
            answers.append(next(found))
    return answers


def _answers(model: RewardModel, found: Sequence[float | str]) -> Iterator[dict[str, Any]]:
    scored = [reward for reward in found if not isinstance(reward, str)]
    shares = iter(probability(np.array(scored, dtype=float), model.calibration))
    for reward in found:
        answer: dict[str, Any] = {"label": None, "probability": None, "reward": None}
        answer["calibrated"] = model.calibration is not None
        if isinstance(reward, str):
            answer["reason"] = reward
        else:
            share = float(next(shares))
            answer.update(label=LABELS[share >= 0.5], probability=share, reward=reward)
        yield answer


def _judged(chosen: dict[str, Any], rejected: dict[str, Any]) -> dict[str, Any]:
    from scipy.special import expit

    answer: dict[str, Any] = {
        "reward_chosen": chosen["reward"],
        "reward_rejected": rejected["reward"],
        "probability_chosen": chosen["probability"],
        "probability_rejected": rejected["probability"],
        "probability_chosen_fairer": None,
        "agrees": None,
        "calibrated": chosen["calibrated"],
    }
    reasons = [f"{side}: {one['reason']}" for side, one in (("chosen", chosen), ("rejected", rejected)) if "reason" in one]
    if reasons:
        answer["reason"] = "; ".join(reasons)
        return answer
    margin = chosen["reward"] - rejected["reward"]
    answer["probability_chosen_fairer"] = float(expit(margin))
    if margin:
        answer["agrees"] = margin > 0
    else:
        answer["reason"] = "both rewards are equal"
    return answer


class Rewards:
    """Rewards of texts and conversations; each distinct one is computed once, also where it comes again later.

    Of the last ``remembered`` distinct ones the reward is kept (not the text: a digest of it).
    """

    def __init__(self, model: RewardModel, *, batch_size: int = 64, remembered: int = REMEMBERED) -> None:
        self.model, self.batch_size, self.remembered = model, batch_size, remembered
        self.n_asked = self.n_computed = 0
        self._known: OrderedDict[bytes, float] = OrderedDict()

    def of(self, asked: Sequence[Asked]) -> list[float | str]:
        """For each its reward, or in words why it has none."""
        keys = [_digest(one) for one in asked]
        new = {key: one for key, one in zip(keys, asked, strict=True) if key not in self._known}
        found: dict[bytes, float | str] = {key: self._known[key] for key in keys if key in self._known}
        ids = dict(zip(new, self._token_ids(list(new.values())), strict=True))
        usable: dict[bytes, list[int]] = {}
        for key, one in ids.items():
            if isinstance(one, str):
                found[key] = one
            elif not one:
                found[key] = "empty"
            elif len(one) > self.model.max_tokens:  # the one place where a text is too long to be read
                found[key] = f"{len(one)} tokens, the model reads {self.model.max_tokens}"
            else:
                usable[key] = one
        rewards = self.model.score_ids(list(usable.values()), batch_size=self.batch_size)
        found.update(zip(usable, rewards.tolist(), strict=True))
        self.n_asked += len(asked)
        self.n_computed += len(usable)
        for key in keys:
            reward = found[key]
            if not isinstance(reward, str):
                self._known[key] = reward
                self._known.move_to_end(key)
        while len(self._known) > self.remembered:
            self._known.popitem(last=False)
        return [found[key] for key in keys]

    def _token_ids(self, asked: Sequence[Asked]) -> list[list[int] | str]:
        found: list[list[int] | str] = [[] for _ in asked]
        texts = [place for place, one in enumerate(asked) if isinstance(one, str) and one.strip()]
        if texts:
            encoded = self.model.tokenizer([asked[place] for place in texts], verbose=False)["input_ids"]
            for place, ids in zip(texts, encoded, strict=True):
                found[place] = list(ids)
        for place, one in enumerate(asked):
            if not isinstance(one, str):
                try:
                    found[place] = self.model.token_ids(one)
                except InputError as error:  # the chat template refuses this conversation, not the others
                    found[place] = error.what
        return found

    def saved(self) -> bytes:
        """What is remembered, oldest first: 16 bytes of digest and a float64 each."""
        values = np.array(list(self._known.values()), dtype="<f8").tobytes()
        return b"".join(self._known) + values

    def restore(self, saved: bytes) -> None:
        """Go on from :meth:`saved`: what comes again gets the very same number."""
        n = len(saved) // 24
        values = np.frombuffer(saved, dtype="<f8", offset=16 * n).tolist()
        self._known = OrderedDict((saved[16 * i : 16 * i + 16], value) for i, value in enumerate(values))


def _digest(asked: Asked) -> bytes:
    text = asked if isinstance(asked, str) else json.dumps([[m["role"], m["content"]] for m in asked])
    return hashlib.blake2b(text.encode("utf-8"), digest_size=16, key=b"" if isinstance(asked, str) else b"talk").digest()
