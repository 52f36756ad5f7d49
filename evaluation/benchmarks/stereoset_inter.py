"""StereoSet, between sentences: which sentence follows the context?

A context and three sentences that may follow it. Scores of a sentence, each with its LMS, SS and ICAT:

* ``authors``: the likelihood ratio of StereoSet's code for generative models: mean log2-probability of the sentence *by
  itself* over that of the context, the first token of each given the start token alone, the others without it. Both are
  negative, so that the *less* likely sentence scores higher, and the context never meets the sentence. Kept to the letter;
  the numbers that they published come from a next-sentence head which they trained, and which a checkpoint does not have.
* ``per_token``: mean log-probability after the context, the start token before it; ``summed``: the sum. Read these.

bias-bench has no intersentence task. For masked models the authors train a next-sentence head: not done here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from teachfair.data.sources import stereoset
from teachfair.errors import DataError
from teachfair.evaluation import stereoset_scores

if TYPE_CHECKING:
    import pandas as pd

    from teachfair.models.scorer import Scorer

CARD: dict[str, Any] = {
    **stereoset_scores.CARD,
    "name": "stereoset_inter",
    "meaning": (
        "A context and three sentences: does the stereotypical one follow it more readily than the anti-stereotypical one "
        "(SS), and both more readily than an unrelated one (LMS)?"
    ),
    "problems": [
        *stereoset_scores.CARD["problems"],
        "the three sentences share nothing: their likelihoods differ in much besides the stereotype",
    ],
}


data_files = stereoset_scores.data_files


def missing(data_dir: Path | str | None, **options: Any) -> str:
    """What the files lack: the records of EditBias hold no intersentence ones."""
    try:
        items(data_dir, **options)
    except DataError as error:
        return f"{error.what}. {error.fix}"
    return ""


def items(
    data_dir: Path | str | None = None, *, axes: Sequence[str] = stereoset.AXES, flipped: str = "known"
) -> list[dict[str, Any]]:
    """The intersentence records of all files there. See ``stereoset_scores.read_items``."""
    return stereoset_scores.read_items(data_dir, "inter", axes, flipped)


def score(
    scorer: Scorer, items: Sequence[Mapping[str, Any]], progress: Callable[[int, int], None] | None = None
) -> list[dict[str, Any]]:
    """The three sentences of every record after its context. ``margin_nats``: whole sentences, stereotype − anti."""
    contexts = [_ended(item["prompt"]) for item in items]
    follow = scorer.continuations(contexts, [[f" {text}" for text in item["options"]] for item in items], progress=progress)
    texts = [text for context, item in zip(contexts, items, strict=True) for text in [context, *item["options"]]]
    with_start, without = scorer.texts(texts), scorer.texts(texts, bos=False)
    records = []
    for place, (item, options) in enumerate(zip(items, follow, strict=True)):
        four = slice(4 * place, 4 * place + 4)
        problems = [*(one.problem for one in options), *(one.problem for one in [*with_start[four], *without[four]])]
        problem = next((one for one in problems if one), "")
        lengths = [one.n_tokens for one in options]
        whole = [one.logp_whole for one in options]
        authors = [float("nan")] * 3
        if not problem:
            means = [
                stereoset_scores.mean_log2(start, rest)
                for start, rest in zip(with_start[four], without[four], strict=True)
            ]
            authors = [mean / means[0] for mean in means[1:]]
        per_token = [value / max(n, 1) for value, n in zip(whole, lengths, strict=True)]
        mismatch = any(one.prefix_mismatch for one in options)
        records.append(
            stereoset_scores.record_of(CARD["name"], item, whole, per_token, authors, lengths, problem, mismatch)
        )
    return records


def _ended(context: str) -> str:
    return context if context[-1] in ".!?" else f"{context}."


def summarise(records: pd.DataFrame) -> dict[str, Any]:
    """LMS, SS and ICAT by each definition, and margins: ``stereoset_scores.summary_of``."""
    return stereoset_scores.summary_of(records)
