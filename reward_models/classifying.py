"""The reward model as a bias classifier: one label per text or conversation, one judgement per preference pair."""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from teachfair.errors import InputError
from teachfair.reward_models.calibrating import probability

if TYPE_CHECKING:
    from teachfair.reward_models.ensemble import RewardEnsemble
    from teachfair.reward_models.scoring import RewardModel
    from teachfair.reward_models.text_files import Row

logger = logging.getLogger(__name__)

LABELS = ("unfair", "fair")
REMEMBERED = 2**16  # rewards of texts that were seen: 24 bytes each on disk, about 20 MiB in memory

Asked = str | Sequence[Mapping[str, str]]  # a text as it is, or a conversation


def classify(
    path: str | Path | RewardModel | RewardEnsemble,
    texts: Iterable[str],
    *,
    batch_size: int = 64,
    read_ahead: int | None = None,
    long_texts: str = "window",
) -> Iterator[dict[str, Any]]:
    """Label texts, in order, with memory for ``read_ahead`` (default ``8 * batch_size``) of them at a time.

    A text is scored as it is, as a stock pipeline does (to judge an answer to a question, hand over the text
    of ``rendering.render``). One that is longer than the model's context is read in windows, of which the least fair one
    decides, or has no label (``long_texts="refuse"``). A text that cannot be scored keeps its place in the output, with
    None and a ``reason``. A text that comes again is not scored again.

    Returns: dicts ``text, label`` ("fair" or "unfair"), ``probability`` (of fair, 0..1), ``reward`` (logits),
    ``calibrated``; ``windows`` where there were several; ``disagreement`` of an ensemble's members (standard deviation of
    their standardised rewards). Without a calibration in the folder the threshold is reward 0, and ``calibrated`` is False.
    Raises: CheckpointError if the folder is not a reward model.
    """
    from teachfair.reward_models.ensemble import load_reward_model

    model = load_reward_model(path) if isinstance(path, str | Path) else path
    warn_uncalibrated(model)
    rewards = Rewards(model, batch_size=batch_size, long_texts=long_texts)
    lines = iter(texts)
    while chunk := list(itertools.islice(lines, read_ahead or 8 * batch_size)):
        for text, answer in zip(chunk, _answers(model, rewards.of(chunk)), strict=True):
            yield {"text": text, **answer}


def warn_uncalibrated(model: RewardModel | RewardEnsemble) -> None:
    if model.calibration is None:
        logger.warning(
            "%s is uncalibrated: labels are cut at reward 0, and the probability is only a squashed reward",
            model.name,
        )


def classify_rows(
    model: RewardModel | RewardEnsemble, rewards: Rewards, rows: Sequence[Row]
) -> list[dict[str, Any]]:
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
    scored = rewards.of(asked)
    found = zip(scored, _answers(model, scored), strict=True)
    answers = []
    for row in rows:
        if row.problems:
            problem = row.problems[0]
            answer: dict[str, Any] = {"label": None, "probability": None, "reward": None}
            answer |= {"calibrated": model.calibration is not None}
            answers.append({**answer, "reason": f"line {problem.line}: {problem.field}: {problem.what}"})
        elif row.pair is not None:
            answers.append(_judged(model, next(found), next(found)))
        else:
            answers.append(next(found)[1])
    return answers


def _answers(model: RewardModel | RewardEnsemble, found: Sequence[Scored | str]) -> Iterator[dict[str, Any]]:
    scored = [one for one in found if not isinstance(one, str)]
    members = np.array([one.members for one in scored], dtype=float).reshape(len(scored), -1).T
    rewards = reward_of(model, members) if scored else np.zeros(0)
    shares = probability(rewards, model.calibration)
    apart = _uncertainty(members)
    place = 0
    for one in found:
        answer: dict[str, Any] = {"label": None, "probability": None, "reward": None}
        if isinstance(one, str):
            answer |= {"calibrated": model.calibration is not None, "reason": one}
        else:
            answer |= {"label": LABELS[int(shares[place] >= 0.5)], "probability": float(shares[place])}
            answer["reward"] = float(rewards[place])
            answer |= {name: float(values[place]) for name, values in apart.items()}
            if one.windows > 1:
                answer["windows"] = one.windows
            answer["calibrated"] = model.calibration is not None
            place += 1
        yield answer


def _uncertainty(members: np.ndarray) -> dict[str, np.ndarray]:
    """Of an ensemble: how far its members (k, n) are apart (n,), standard deviation, ddof = 1; of one model nothing."""
    from teachfair.reward_models.ensemble import spread_of

    return {"disagreement": spread_of(members)} if len(members) > 1 else {}


def _judged(
    model: RewardModel | RewardEnsemble, chosen: tuple[Scored | str, Any], rejected: tuple[Scored | str, Any]
) -> dict[str, Any]:
    from scipy.special import expit

    sides = {"chosen": chosen[1], "rejected": rejected[1]}
    one, other = chosen[0], rejected[0]
    answer: dict[str, Any] = {
        **{f"reward_{side}": found["reward"] for side, found in sides.items()},
        **{f"probability_{side}": found["probability"] for side, found in sides.items()},
        "probability_chosen_fairer": None,
        "agrees": None,
    }
    if isinstance(one, str) or isinstance(other, str):
        reasons = [f"{side}: {found['reason']}" for side, found in sides.items() if "reason" in found]
        return {**answer, "calibrated": model.calibration is not None, "reason": "; ".join(reasons)}
    margin = answer["reward_chosen"] - answer["reward_rejected"]
    answer["probability_chosen_fairer"] = float(expit(margin))
    apart = _uncertainty((np.array(one.members) - np.array(other.members))[:, None])
    answer |= {name: float(values[0]) for name, values in apart.items()}
    if max(one.windows, other.windows) > 1:
        answer["windows"] = max(one.windows, other.windows)
    answer["calibrated"] = model.calibration is not None
    if margin:
        answer["agrees"] = margin > 0
    else:
        answer["reason"] = "both rewards are equal"
    return answer


@dataclass(frozen=True)
class Scored:
    """What is known of a text: ``members``, the reward, or the standardised rewards of an ensemble's members; ``windows``,
    how many it took to read it."""

    members: tuple[float, ...]
    windows: int


class Rewards:
    """Rewards of texts and conversations; each distinct one is computed once, also where it comes again later.

    Of the last ``remembered`` distinct ones the rewards are kept (not the text: a digest of it).

    Args:
        long_texts: "window": what is longer than the model reads is read in overlapping windows, of which the least fair
            one decides (``windows``). "refuse": it has no reward.
    """

    def __init__(
        self, model: RewardModel | RewardEnsemble, *, batch_size: int = 64, long_texts: str = "window",
        remembered: int = REMEMBERED,
    ) -> None:  # fmt: skip
        self.model, self.batch_size, self.remembered = model, batch_size, remembered
        self.long_texts = long_texts
        self.n_computed = 0
        self._known: OrderedDict[bytes, Scored] = OrderedDict()

    def of(self, asked: Sequence[Asked]) -> list[Scored | str]:
        """For each its rewards, or in words why it has none."""
        keys = [_digest(one) for one in asked]
        new = {key: one for key, one in zip(keys, asked, strict=True) if key not in self._known}
        found: dict[bytes, Scored | str] = {key: self._known[key] for key in keys if key in self._known}
        ids = dict(zip(new, self._token_ids(list(new.values())), strict=True))
        usable: dict[bytes, list[list[int]]] = {}
        for key, one in ids.items():
            if isinstance(one, str):
                found[key] = one
            elif not one:
                found[key] = "empty"
            elif len(one) <= self.model.max_tokens:
                usable[key] = [one]
            elif self.long_texts == "refuse":
                found[key] = f"{len(one)} tokens, the model reads {self.model.max_tokens}"
            else:
                windows = self._windows(new[key])
                if isinstance(windows, str):
                    found[key] = windows
                else:
                    usable[key] = windows
        members = self._members([one for windows in usable.values() for one in windows])
        place = 0
        for key, windows in usable.items():
            own = members[:, place : place + len(windows)]
            place += len(windows)
            least = int(np.argmin(reward_of(self.model, own)))
            found[key] = Scored(tuple(own[:, least].tolist()), len(windows))
        self.n_computed += len(usable)
        for key in keys:
            scored = found[key]
            if not isinstance(scored, str):
                self._known[key] = scored
                self._known.move_to_end(key)
        while len(self._known) > self.remembered:
            self._known.popitem(last=False)
        return [found[key] for key in keys]

    def _members(self, ids: Sequence[Sequence[int]]) -> np.ndarray:
        from teachfair.reward_models.ensemble import RewardEnsemble

        if isinstance(self.model, RewardEnsemble):
            return self.model.member_rewards_ids(ids, batch_size=self.batch_size)
        return self.model.score_ids(ids, batch_size=self.batch_size)[None]

    def _windows(self, one: Asked) -> list[list[int]] | str:
        from teachfair.reward_models.windows import windows_of_conversation, windows_of_text

        try:
            windows = windows_of_text(self.model, one) if isinstance(one, str) else windows_of_conversation(self.model, one)
        except InputError as error:
            return error.what
        return windows.ids

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
        """What is remembered, oldest first: digests of 16 bytes, then float64 numbers (members and windows of each)."""
        values = np.array([[*one.members, one.windows] for one in self._known.values()], dtype="<f8").tobytes()
        return b"".join(self._known) + values

    def restore(self, saved: bytes) -> None:
        """Go on from :meth:`saved`: what comes again gets the very same number."""
        width = len(getattr(self.model, "members", (self.model,))) + 1
        n = len(saved) // (16 + 8 * width)
        values = np.frombuffer(saved, dtype="<f8", offset=16 * n).reshape(n, width).tolist()
        self._known = OrderedDict(
            (saved[16 * i : 16 * i + 16], Scored(tuple(members), int(windows)))
            for i, (*members, windows) in enumerate(values)
        )


def reward_of(model: RewardModel | RewardEnsemble, members: np.ndarray) -> np.ndarray:
    """The reward (n,) of what :class:`Scored` keeps of n texts, (k, n); k = 1 unless the model is an ensemble."""
    from teachfair.reward_models.ensemble import RewardEnsemble

    return model.reward_of(members) if isinstance(model, RewardEnsemble) else members[0]


def _digest(asked: Asked) -> bytes:
    text = asked if isinstance(asked, str) else json.dumps([[m["role"], m["content"]] for m in asked])
    return hashlib.blake2b(text.encode("utf-8"), digest_size=16, key=b"" if isinstance(asked, str) else b"talk").digest()
