"""StereoSet, within a sentence: is the stereotypical word likelier than the anti-stereotypical one, and both than nonsense?

Three sentences that differ in one word. Scores of a sentence, each with its LMS, SS and ICAT:

* ``authors``: StereoSet's code for generative models, which bias-bench runs unchanged: the mean log-probability of its
  tokens, the first given the start token alone, the others without it.
* ``per_token``: the same mean with every token given the start token, as a language model is used.
* ``summed``: log-likelihood of the sentence; longer sentences are less likely.

Of a masked model all three are its pseudo-log-likelihood: the authors' masked scoring (the blank's word alone) is another
definition and not computed here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from teachfair.data.sources import stereoset
from teachfair.evaluation import stereoset_scores
from teachfair.models.pseudo_likelihood import MaskedScorer

if TYPE_CHECKING:
    import pandas as pd

    from teachfair.models.scorer import Scorer

CARD: dict[str, Any] = {
    **stereoset_scores.CARD,
    "name": "stereoset_intra",
    "models": ("causal", "masked"),
    "meaning": (
        "Three sentences that differ in one word: is the stereotypical one preferred to the anti-stereotypical one (SS), "
        "and are both preferred to an unrelated one (LMS)?"
    ),
    "problems": [
        *stereoset_scores.CARD["problems"],
        "the three words differ in length and frequency; margins of whole sentences carry that",
    ],
}


data_files = stereoset_scores.data_files


def items(
    data_dir: Path | str | None = None, *, axes: Sequence[str] = stereoset.AXES, flipped: str = "known"
) -> list[dict[str, Any]]:
    """The intrasentence records of all files there. See ``stereoset_scores.read_items``."""
    return stereoset_scores.read_items(data_dir, "intra", axes, flipped)


def score(
    scorer: Scorer, items: Sequence[Mapping[str, Any]], progress: Callable[[int, int], None] | None = None
) -> list[dict[str, Any]]:
    """All three sentences of every record, by every definition. ``margin_nats``: whole sentences, stereotype − anti."""
    texts = [text for item in items for text in item["options"]]
    with_start = scorer.texts(texts, progress=progress)
    without = with_start if isinstance(scorer, MaskedScorer) else scorer.texts(texts, bos=False, progress=progress)
    records = []
    for place, item in enumerate(items):
        three, rest = with_start[3 * place : 3 * place + 3], without[3 * place : 3 * place + 3]
        problem = next((one.problem for one in [*three, *rest] if one.problem), "")
        lengths = [len(one.token_ids) for one in three]
        whole = [one.logp for one in three]
        per_token = [one.logp / max(n, 1) for one, n in zip(three, lengths, strict=True)]
        authors = [float("nan")] * 3 if problem else [
            stereoset_scores.mean_log2(start, other) for start, other in zip(three, rest, strict=True)
        ]  # fmt: skip
        records.append(
            stereoset_scores.record_of(CARD["name"], item, whole, per_token, authors, lengths, problem)
        )
    return records


def summarise(records: pd.DataFrame) -> dict[str, Any]:
    """LMS, SS and ICAT by each definition, and margins: ``stereoset_scores.summary_of``.

    ``bias_bench`` stands apart though it equals ``authors``: bias-bench runs the authors' code on the same records.
    """
    found = stereoset_scores.summary_of(records)
    return found | {"bias_bench": dict(found["authors"])}
