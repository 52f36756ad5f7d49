"""The reward model decides which answer is chosen: over the two of a pair, or over several sampled ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from teachfair.errors import DataError, InputError, unknown_name

if TYPE_CHECKING:
    from datasets import Dataset

    from teachfair.reward_models.ensemble import RewardEnsemble
    from teachfair.reward_models.scoring import RewardModel

OnDisagreement = Literal["keep", "drop", "flip"]
ON_DISAGREEMENT = ("keep", "drop", "flip")


def rank_pairs(
    pairs: Dataset,
    reward_model: RewardModel | RewardEnsemble,
    *,
    on_disagreement: OnDisagreement = "keep",
    batch_size: int = 64,
) -> tuple[Dataset, dict[str, Any]]:
    """Preference pairs with the reward of each side, and how often the reward model disagrees with the
    labels.

    Args:
        on_disagreement: what happens to a pair whose rejected side has the higher reward. "keep": the label
            stands;
            "drop": the pair is left out; "flip": the sides change places (``flipped`` is True, and ``kind``
            becomes
            "unspecified", because it would name the sides the wrong way round). Ties keep their label.

    Returns: (pairs with the columns ``reward_chosen``, ``reward_rejected``, ``flipped`` besides; report):
    report has ``on_disagreement, n_in, n_out`` and ``per_kind``: dicts ``kind, n, agree, disagree, ties,
    accuracy, low, high, mean_margin``.
    Raises: ConfigError for an unknown ``on_disagreement``; DataError if no pair is left.
    """
    from teachfair.data.pairs import MARGIN
    from teachfair.reward_models.scoring import accuracy_per_kind

    if on_disagreement not in ON_DISAGREEMENT:
        raise unknown_name("on_disagreement", on_disagreement, ON_DISAGREEMENT)
    chosen, rejected = reward_model.score_pairs(pairs, batch_size=batch_size)
    kinds = list(pairs["kind"])
    per_kind = []
    for row in accuracy_per_kind(kinds, chosen, rejected):
        inside = [place for place, kind in enumerate(kinds) if row["kind"] in ("all", kind)]
        agree = sum(bool(chosen[place] > rejected[place]) for place in inside)
        per_kind.append({**row, "agree": agree, "disagree": row["n"] - row["ties"] - agree})
    disagree = rejected > chosen
    rows = []
    for place, row in enumerate(pairs):
        flipped = bool(disagree[place]) and on_disagreement == "flip"
        if disagree[place] and on_disagreement == "drop":
            continue
        if flipped:
            row = {**row, "chosen": row["rejected"], "rejected": row["chosen"], "kind": "unspecified"}
            if MARGIN in row:
                row[MARGIN] = 0.0  # it said how much worse the side is that is now the better one
        better, worse = float(chosen[place]), float(rejected[place])
        if flipped:
            better, worse = worse, better
        rows.append({**row, "reward_chosen": better, "reward_rejected": worse, "flipped": flipped})
    if not rows:
        raise DataError(
            "the reward model disagrees with every pair, so none is left",
            where=f"{len(pairs)} pairs, reward model {reward_model.name}",
            fix="look at the reward model first; --on_disagreement keep leaves the labels as they are",
        )
    report = {
        "on_disagreement": on_disagreement,
        "n_in": len(pairs),
        "n_out": len(rows),
        "per_kind": per_kind,
    }
    return _ranked_dataset(rows, pairs), report


def _ranked_dataset(rows: list[dict[str, Any]], like: Dataset) -> Dataset:
    from datasets import Dataset, Features, Value

    features = Features(
        {
            **like.features,
            "reward_chosen": Value("float64"),
            "reward_rejected": Value("float64"),
            "flipped": Value("bool"),
        }
    )
    return Dataset.from_dict({name: [row[name] for row in rows] for name in features}, features=features)


def rank_candidates(
    prompts: Sequence[str | Sequence[Mapping[str, str]]],
    candidates: Sequence[Sequence[str]],
    reward_model: RewardModel | RewardEnsemble,
    *,
    rows: Sequence[Mapping[str, Any]] | None = None,
    source: str = "sampled",
    batch_size: int = 64,
) -> tuple[Dataset, dict[str, Any]]:
    """Several answers per prompt -> pairs of the best and the worst by reward.

    Args:
        prompts: n texts, or lists of messages.
        candidates: n lists of answers (texts), in the same order.
        rows: n mappings whose ``axis, groups, cluster, lang`` the pairs take over (the rows that the prompts
            are from).

    A prompt whose answers are all the same, or all have one reward, prefers nothing: it gives no pair and is
    counted.

    Returns: (pairs with ``reward_chosen, reward_rejected, flipped``; report ``n_prompts, n_pairs, all_equal,
    mean_candidates, mean_margin``).
    Raises: InputError if the lengths differ; DataError if no prompt gives a pair.
    """
    from teachfair.data.pairs import checked, pairs_dataset

    if len(prompts) != len(candidates) or (rows is not None and len(rows) != len(prompts)):
        raise InputError(
            f"{len(prompts)} prompts, {len(candidates)} lists of candidates"
            + ("" if rows is None else f", {len(rows)} rows"),
            where="rank_candidates",
            fix="give one list of candidates (and one row) per prompt",
        )
    asked = [
        [{"role": "user", "content": prompt}] if isinstance(prompt, str) else [dict(turn) for turn in prompt]
        for prompt in prompts
    ]
    answers = [[text for text in dict.fromkeys(texts) if text.strip()] for texts in candidates]
    flat = [
        [*turns, {"role": "assistant", "content": text}]
        for turns, texts in zip(asked, answers, strict=True)
        for text in texts
    ]
    rewards = reward_model.score(flat, batch_size=batch_size)
    made, margins, at = [], [], 0
    for place, texts in enumerate(answers):
        own = rewards[at : at + len(texts)]
        at += len(texts)
        if len(own) < 2 or own.max() == own.min():
            continue
        best, worst = int(own.argmax()), int(own.argmin())
        if " ".join(texts[best].split()) == " ".join(texts[worst].split()):
            continue
        kept = (
            {name: rows[place][name] for name in ("axis", "groups", "cluster", "lang") if name in rows[place]}
            if rows
            else {}
        )
        pair = {"prompt": asked[place], "chosen": texts[best], "rejected": texts[worst], "source": source}
        made.append({**pair, **kept})
        margins.append((float(own[best]), float(own[worst])))
    if not made:
        raise DataError(
            "no prompt has two answers that the reward model tells apart",
            where=f"{len(prompts)} prompts",
            fix="sample more answers per prompt, at a higher temperature",
        )
    complete, _ = checked(made, source)
    ranked = [
        {**row, "reward_chosen": high, "reward_rejected": low, "flipped": False}
        for row, (high, low) in zip(complete, margins, strict=True)
    ]
    report = {
        "n_prompts": len(prompts),
        "n_pairs": len(ranked),
        "all_equal": len(prompts) - len(ranked),
        "mean_candidates": len(flat) / len(prompts),
        "mean_margin": sum(high - low for high, low in margins) / len(margins),
    }
    return _ranked_dataset(ranked, pairs_dataset(complete)), report
