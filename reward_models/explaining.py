"""Which words moved a score: by taking them out, by exchanging the group, by integrated gradients.

**Occlusion**: each word of a text is taken out by itself and the text is scored again. ``change`` is the reward of the
whole text minus that of the text without the word: > 0 means that the word makes the text look fairer. With a mask token
(encoders) the word is replaced by it, so that its neighbours keep their places; else it is deleted. Words that say the same
thing twice hide each other: neither changes much alone.

**Identity swap**: the same text about the other group (``data.counterfactuals``), which should get the same reward where
the group does not matter.

**Integrated gradients** (Sundararajan, Taly & Yan, 2017; captum, an extra): attributions of tokens that sum to the
difference between the reward and that of a baseline text of mask, pad or unknown tokens.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from teachfair.errors import ConfigError, InputError, unknown_name
from teachfair.reward_models.calibrating import probability

if TYPE_CHECKING:
    from rich.text import Text

    from teachfair.reward_models.ensemble import RewardEnsemble
    from teachfair.reward_models.scoring import RewardModel
    from teachfair.reward_models.text_files import Row

WORD = re.compile(r"\w+(?:['’‑-]\w+)*|[^\w\s]")
EXPLANATIONS = ("occlusion", "swap", "both", "captum")

Message = Mapping[str, str]


def explain_rows(
    model: RewardModel | RewardEnsemble, rows: Sequence[Row], *, how: str, lang: str = "en", batch_size: int = 64
) -> list[dict[str, Any] | None]:
    """The explanation of each row of texts or conversations; None where a row has no reward.

    Returns: dicts with the keys that ``how`` asks for: ``occlusion`` (:func:`occlusion`), ``swap`` (:func:`swapped`),
    ``captum`` (:func:`integrated_gradients`).
    Raises: ConfigError for an unknown ``how``, for captum where it is not installed, and for pairs.
    """
    if how not in EXPLANATIONS:
        raise unknown_name("explain", how, EXPLANATIONS)
    asked: list[str | list[dict[str, str]]] = []
    places = []
    for place, row in enumerate(rows):
        if row.pair is not None:
            raise ConfigError(
                "pairs are judged, not explained", where="--explain",
                fix="give the chosen and the rejected conversations as rows with `messages`",
            )  # fmt: skip
        one = row.text if row.text is not None else row.messages
        if one and (not isinstance(one, str) or one.strip()) and len(_ids(model, one)) <= model.max_tokens:
            asked.append(one)
            places.append(place)
    parts: dict[str, list[dict[str, Any]]] = {}
    if how in ("occlusion", "both"):
        parts["occlusion"] = occlusion(model, asked, batch_size=batch_size)
    if how in ("swap", "both"):
        parts["swap"] = swapped(model, asked, lang=lang, batch_size=batch_size)
    if how == "captum":
        parts["captum"] = [integrated_gradients(model, one) for one in asked]
    explained: list[dict[str, Any] | None] = [None] * len(rows)
    for number, place in enumerate(places):
        explained[place] = {name: made[number] for name, made in parts.items()}
    return explained


def occlusion(
    model: RewardModel | RewardEnsemble,
    asked: Sequence[str | Sequence[Message]],
    *,
    method: str = "auto",
    batch_size: int = 64,
) -> list[dict[str, Any]]:
    """How the reward and P(fair) change with each word of each text or conversation.

    Args:
        asked: texts as they are, or conversations (every message's words are tried).
        method: "mask", "delete", or "auto": mask where the tokenizer is an encoder's and has a mask token.

    Returns: per text ``method, reward, words``; each word ``word, start, end`` (characters in its text or message),
    ``message`` (its number, conversations only), ``change`` (reward with it minus without), ``probability_change``; the
    word whose absence moves the reward most comes first. A word without which the text is empty or not readable has None.
    Raises: ConfigError for "mask" without a mask token.
    """
    from teachfair.reward_models.rendering import is_encoder_tokenizer

    mask = getattr(model.tokenizer, "mask_token", None)
    if method not in ("auto", "mask", "delete"):
        raise unknown_name("method", method, ("auto", "mask", "delete"))
    if method == "mask" and not mask:
        raise ConfigError("the tokenizer has no mask token", where="occlusion", fix='use method="delete"')
    masked = method == "mask" or (method == "auto" and bool(mask) and is_encoder_tokenizer(model.tokenizer))
    variants: list[list[int]] = []
    plans: list[list[tuple[dict[str, Any], int]]] = []
    bases = []
    for one in asked:
        bases.append(len(variants))
        variants.append(_ids(model, one))
        plan = []
        for number, text in enumerate([one] if isinstance(one, str) else [message["content"] for message in one]):
            for found in WORD.finditer(text):
                word: dict[str, Any] = {"word": found[0], "start": found.start(), "end": found.end()}
                if not isinstance(one, str):
                    word["message"] = number
                plan.append((word, len(variants)))
                variants.append(_ids(model, _put(one, number, _without(text, found, mask if masked else None))))
        plans.append(plan)
    rewards = _rewards(model, variants, batch_size)
    shares = probability(rewards, model.calibration)
    explained = []
    for base, plan in zip(bases, plans, strict=True):
        words = []
        for word, place in plan:
            known = bool(np.isfinite(rewards[place]))
            word["change"] = float(rewards[base] - rewards[place]) if known else None
            word["probability_change"] = float(shares[base] - shares[place]) if known else None
            words.append(word)
        words.sort(key=lambda one: -abs(one["change"] or 0.0))
        explained.append({"method": "mask" if masked else "delete", "reward": float(rewards[base]), "words": words})
    return explained


def swapped(
    model: RewardModel | RewardEnsemble,
    asked: Sequence[str | Sequence[Message]],
    *,
    lang: str = "en",
    axis: str = "gender",
    groups: Sequence[str] | None = None,
    batch_size: int = 64,
) -> list[dict[str, Any]]:
    """The reward before and after the group words are exchanged (``data.counterfactuals.swap``).

    Returns: per text ``reward, swapped_reward, change`` (reward minus swapped reward), ``probability_change``, ``swapped``
    (the text, or the contents of the messages), ``changes`` (``old, new, start, end, message``) and ``left`` (group words
    that cannot be exchanged, with the reason). Without a group word ``changes`` is empty and ``swapped_reward`` None.
    """
    from teachfair.data.counterfactuals import swap

    variants: list[list[int]] = []
    found = []
    for one in asked:
        contents = [one] if isinstance(one, str) else [message["content"] for message in one]
        made = [swap(content, lang, axis, groups=groups) for content in contents]
        numbers = [{}] if isinstance(one, str) else [{"message": number} for number in range(len(made))]
        row: dict[str, Any] = {
            "axis": axis,
            "changes": [
                {"old": change.old, "new": change.new, "start": change.start, "end": change.end, **number}
                for each, number in zip(made, numbers, strict=True) for change in each.changes
            ],
            "left": [
                {"word": left.word, "reason": left.reason, **number}
                for each, number in zip(made, numbers, strict=True) for left in each.left
            ],
            "swapped": made[0].text if isinstance(one, str) else [each.text for each in made],
        }  # fmt: skip
        found.append(row)
        other = one
        for number, each in enumerate(made):
            other = _put(other, number, each.text)
        variants += [_ids(model, one), _ids(model, other) if row["changes"] else []]
    rewards = _rewards(model, variants, batch_size)
    shares = probability(rewards, model.calibration)
    for place, row in enumerate(found):
        before, after = rewards[2 * place : 2 * place + 2]
        known = bool(np.isfinite(after))
        row["reward"], row["swapped_reward"] = float(before), float(after) if known else None
        row["change"] = float(before - after) if known else None
        row["probability_change"] = float(shares[2 * place] - shares[2 * place + 1]) if known else None
    return found


def integrated_gradients(
    model: RewardModel | RewardEnsemble, one: str | Sequence[Message], *, n_steps: int = 64
) -> dict[str, Any]:
    """Attributions of a text's tokens by captum's LayerIntegratedGradients on the embedding.

    The baseline is the same text with every token but the special ones replaced by the mask token, else the pad token, else
    the unknown one.

    Returns: ``reward, baseline_reward, tokens`` (``token, attribution``, in order) and ``completeness_error``: how far the
    attributions' sum is from reward − baseline reward (0 with endlessly many steps).
    Raises: ConfigError if captum is not installed, or the reward model has no single network to differentiate.
    """
    import torch

    try:
        from captum.attr import LayerIntegratedGradients
    except ImportError as error:
        raise ConfigError(
            "captum is not installed", where="--explain captum", fix='pip install "teachfair[explain]"'
        ) from error
    network = getattr(model, "model", None)
    if network is None:
        raise ConfigError(
            "integrated gradients need one network, this is an ensemble", where=model.name,
            fix="give the folder of one member, or use --explain occlusion",
        )  # fmt: skip
    ids = _ids(model, one)
    tokenizer = model.tokenizer
    stand_ins = (tokenizer.mask_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id)
    stand_in = next((number for number in stand_ins if number is not None), None)
    if stand_in is None:
        raise InputError("the tokenizer has no mask, pad or unknown token", where=model.name, fix="use --explain occlusion")
    special = set(tokenizer.all_special_ids)
    device = next(network.parameters()).device
    tokens = torch.tensor([ids], device=device)
    baseline = torch.tensor([[number if number in special else stand_in for number in ids]], device=device)

    def reward(input_ids: Any) -> Any:
        return network(input_ids=input_ids, attention_mask=torch.ones_like(input_ids)).logits[:, 0]

    with torch.enable_grad():
        method = LayerIntegratedGradients(reward, network.get_input_embeddings())
        found = method.attribute(tokens, baselines=baseline, n_steps=n_steps, internal_batch_size=16)
    with torch.inference_mode():
        whole, empty = float(reward(tokens)), float(reward(baseline))
    attributions = found.sum(-1)[0].double().cpu().numpy()
    names = tokenizer.convert_ids_to_tokens(ids)
    return {
        "reward": whole,
        "baseline_reward": empty,
        "tokens": [
            {"token": name, "attribution": float(value)} for name, value in zip(names, attributions, strict=True)
        ],
        "completeness_error": float(attributions.sum() - (whole - empty)),
    }


def _ids(model: RewardModel | RewardEnsemble, one: str | Sequence[Message]) -> list[int]:
    if not isinstance(one, str):
        return model.token_ids(one)
    return list(model.tokenizer(one, verbose=False)["input_ids"]) if one.strip() else []


def _put(one: str | Sequence[Message], number: int, text: str) -> Any:
    if isinstance(one, str):
        return text
    return [{**message, "content": text if place == number else message["content"]} for place, message in enumerate(one)]


def _without(text: str, found: re.Match[str], mask: str | None) -> str:
    before, after = text[: found.start()], text[found.end() :]
    if mask is not None:
        return before + mask + after
    if before.endswith(" ") and (not after or after[0].isspace() or not WORD.match(after[0]) or not after[0].isalnum()):
        before = before[:-1]  # no two spaces where the word was
    elif not before:
        after = after.lstrip(" ")
    return before + after


def _rewards(model: RewardModel | RewardEnsemble, ids: Sequence[Sequence[int]], batch_size: int) -> np.ndarray:
    """Rewards (n,); NaN where there is nothing to read, or more than the model reads."""
    rewards = np.full(len(ids), np.nan)
    usable = [place for place, one in enumerate(ids) if 0 < len(one) <= model.max_tokens]
    rewards[usable] = model.score_ids([ids[place] for place in usable], batch_size=batch_size)
    return rewards


def as_terminal_text(row: Row, answer: Mapping[str, Any]) -> Text:
    """A row and its explanation for a terminal: green words make it look fairer, red ones less fair."""
    from rich.text import Text

    label = answer["label"] or f"no label ({answer.get('reason', '')})"
    shown = Text()
    shown.append(_printable(str(label)), style="bold green" if answer["label"] == "fair" else "bold red")
    if answer["label"]:
        shown.append(f"  P(fair) {answer['probability']:.3f}  reward {answer['reward']:+.3f}")
    explanation = answer.get("explanation") or {}
    contents = [message["content"] for message in row.messages] if row.messages else [row.text or ""]
    words = explanation.get("occlusion", {}).get("words", [])
    largest = max((abs(word["change"] or 0.0) for word in words), default=0.0)
    for number, content in enumerate(contents):
        shown.append("\n  ")
        at = 0
        mine = [word for word in words if word.get("message", 0) == number and word["change"] is not None]
        for word in sorted(mine, key=lambda word: word["start"]):
            shown.append(_printable(content[at : word["start"]]))
            shown.append(_printable(word["word"]), style=_colour(word["change"], largest))
            at = word["end"]
        shown.append(_printable(content[at:]))
    for word in words[:3]:
        if word["change"]:
            share = 100 * word["probability_change"]
            shown.append(f"\n    {word['change']:+.3f} ({share:+.1f} points of P(fair))  {_printable(word['word'])}")
    swap = explanation.get("swap")
    if swap:
        exchanged = ", ".join(f"{change['old']} → {change['new']}" for change in swap["changes"]) or "no group word"
        shown.append(f"\n    swapped: {_printable(exchanged)}")
        if swap["change"] is not None:
            shown.append(f"; reward {swap['reward']:+.3f} → {swap['swapped_reward']:+.3f}")
    if captum := explanation.get("captum"):
        for one in sorted(captum["tokens"], key=lambda one: -abs(one["attribution"]))[:5]:
            shown.append(f"\n    {one['attribution']:+.3f}  {_printable(one['token'])}")
    return shown


def _colour(change: float, largest: float) -> str:
    if not largest or abs(change) < largest / 4:
        return ""
    return ("bold " if abs(change) > largest / 2 else "") + ("green" if change > 0 else "red")


def _printable(text: str) -> str:
    """No character that would move the terminal's cursor or change its state."""
    return "".join(letter if letter.isprintable() or letter == " " else ascii(letter)[1:-1] for letter in text)
