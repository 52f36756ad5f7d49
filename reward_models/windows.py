"""Texts longer than the reward model reads: overlapping windows, and never a silent cut.

A text is unfair if one passage of it is, so **the least fair window decides**: its reward is the text's. A mean would
let one unfair sentence vanish in twenty fair pages. The price is that more windows are more chances for a wrong low
reward: with the length of a text its reward sinks a little even if nothing in it is unfair. So the number of windows and
their mean are given beside it, and the calibration, which was fitted on texts of one window, is exact for those alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from teachfair.errors import InputError

if TYPE_CHECKING:
    from teachfair.reward_models.ensemble import RewardEnsemble
    from teachfair.reward_models.scoring import RewardModel

Message = Mapping[str, str]


def windowed_ids(ids: Sequence[int], max_tokens: int, frame: tuple[int, int]) -> list[list[int]]:
    """Token ids in windows of at most ``max_tokens``, which overlap by half; ids that fit are one window, as they are.

    Args:
        frame: how many ids at the start and at the end stand in every window (the start and the end token, or the
            start token and a whole prompt); the windows move over what is between them.
    Returns: the windows in order; all but a single one have ``max_tokens`` ids, the last ends where the text ends.
    Raises: InputError if the frame leaves no room for text.
    """
    return [[ids[place] for place in places] for places in _places(len(ids), max_tokens, frame)]


def _places(length: int, max_tokens: int, frame: tuple[int, int]) -> list[list[int]]:
    """The positions of each window's ids."""
    if length <= max_tokens:
        return [list(range(length))]
    before, after = frame
    room = max_tokens - before - after
    if room < 1:
        raise InputError(
            f"{before + after} tokens stand in every window of {max_tokens}, which leaves no room for the text",
            where="windows", fix="shorten the prompt, or take a reward model with a longer context",
        )  # fmt: skip
    last = length - after - room  # where the body of the last window starts
    starts = [*range(before, last, max(1, room // 2)), last]
    head, tail = list(range(before)), list(range(length - after, length))
    return [[*head, *range(start, start + room), *tail] for start in starts]


@dataclass(frozen=True)
class Windows:
    """The windows of one text: token ids of each, and where the part that moves stands in the text (characters)."""

    ids: list[list[int]]
    spans: list[tuple[int, int]]


def windows_of_text(model: RewardModel | RewardEnsemble, text: str) -> Windows:
    """A text as it is, between the start and the end token."""
    found = model.tokenizer(text, verbose=False, return_offsets_mapping=True, return_special_tokens_mask=True)
    special = found["special_tokens_mask"]
    before = next((place for place, one in enumerate(special) if not one), len(special))
    after = next((place for place, one in enumerate(reversed(special)) if not one), 0)
    return _windows(list(found["input_ids"]), found["offset_mapping"], (before, after), model.max_tokens)


def windows_of_conversation(model: RewardModel | RewardEnsemble, messages: Sequence[Message]) -> Windows:
    """A conversation, whose prompt stands in every window; spans count in the rendered text (``rendering.render``; for
    another's reward model, the text of its own chat template).

    Raises: InputError if the prompt takes more than half of the context: a window would then be a glimpse of the answer,
        and what is left out of a prompt changes what is fair to say.
    """
    from teachfair.models.chat import render
    from teachfair.reward_models import rendering

    text = (rendering.render if model.is_framed else render)(model.tokenizer, messages)
    found = model.tokenizer(text, verbose=False, add_special_tokens=model.is_framed, return_offsets_mapping=True)
    ids = list(found["input_ids"])
    before, after = len(ids), 0
    if len(ids) > model.max_tokens:
        # what stays the same whatever the answer is: two stand-ins, because the answer may begin like one of them
        others = [model.token_ids([*messages[:-1], {**messages[-1], "content": word}]) for word in ("a", "7")]
        before = min(_shared(ids, other) for other in others)
        after = min(_shared(ids[::-1], other[::-1]) for other in others)
        if before > model.max_tokens // 2:
            raise InputError(
                f"the prompt takes {before} of the {model.max_tokens} tokens that the model reads, more than half",
                where="a conversation", fix="shorten the prompt, or take a reward model with a longer context",
            )  # fmt: skip
    return _windows(ids, found["offset_mapping"], (before, after), model.max_tokens)


def _shared(ids: Sequence[int], other: Sequence[int]) -> int:
    """How many ids at the start are the same."""
    pairs = enumerate(zip(ids, other, strict=False))
    return next((place for place, (one, two) in pairs if one != two), min(len(ids), len(other)))


def _windows(ids: list[int], offsets: Sequence[tuple[int, int]], frame: tuple[int, int], max_tokens: int) -> Windows:
    places, (before, after) = _places(len(ids), max_tokens, frame), frame
    spans = []
    for some in places:
        body = [offsets[place] for place in some if len(places) == 1 or before <= place < len(ids) - after]
        inside = [(start, end) for start, end in body if end > start] or [(0, 0)]
        spans.append((min(start for start, _ in inside), max(end for _, end in inside)))
    return Windows([[ids[place] for place in some] for some in places], spans)


def score_long_texts(
    model: RewardModel | RewardEnsemble, texts: Sequence[str], *, batch_size: int = 64
) -> list[dict[str, Any]]:
    """Rewards of texts of any length, as they are (as :meth:`RewardModel.score_texts`, without its limit).

    Returns: for each text a dict with ``reward`` (of its least fair window; of the whole text where it fits),
    ``mean_reward`` (over its windows), ``n_windows``, ``least_fair_window`` (its number, from 0) and ``span`` (where that
    window starts and ends in the text, characters).
    Raises: InputError as :meth:`RewardModel.score_ids`.
    """
    return _scored(model, [windows_of_text(model, text) for text in texts], batch_size)


def score_long_conversations(
    model: RewardModel | RewardEnsemble, conversations: Sequence[Sequence[Message]], *, batch_size: int = 64
) -> list[dict[str, Any]]:
    """Rewards of conversations whose answer may be of any length: the prompt stands in every window.

    Returns: as :func:`score_long_texts`.
    Raises: InputError naming the row, as :func:`windows_of_conversation`.
    """
    found = []
    for row, messages in enumerate(conversations):
        try:
            found.append(windows_of_conversation(model, messages))
        except InputError as error:
            raise InputError(error.what, where=f"row {row}", fix=error.fix) from error
    return _scored(model, found, batch_size)


def _scored(model: RewardModel | RewardEnsemble, rows: Sequence[Windows], batch_size: int) -> list[dict[str, Any]]:
    rewards = model.score_ids([ids for row in rows for ids in row.ids], batch_size=batch_size)
    found = []
    for row, own in zip(rows, np.split(rewards, np.cumsum([len(row.ids) for row in rows])[:-1]), strict=True):
        least = int(np.argmin(own))
        found.append({
            "reward": float(own[least]), "mean_reward": float(own.mean()), "n_windows": len(own), "least_fair_window": least,
            "span": row.spans[least],
        })  # fmt: skip
    return found
