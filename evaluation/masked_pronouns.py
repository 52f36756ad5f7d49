"""Masked pronouns: of two sentences that differ in a pronoun's gender, which pronoun does a masked language model expect?

What WinoBias and Winogender are to a masked language model, which cannot be asked whom a pronoun means. The pronoun is
masked and the log-probabilities of its two genders are compared, given the rest of the sentence: de Vassimon Manela,
Errington, Fisher, van Breugel, Minervini (2021), Stereotype and Skew: Quantifying Gender Bias in Pre-trained and Fine-tuned
Language Models, EACL, for WinoBias; log-probabilities of a masked target are also the score of Kurita, Vyas, Pareek, Black,
Tsvetkov (2019), Measuring Bias in Contextualized Word Representations, GeBNLP. They subtract a prior (the target's with the
occupation masked too); here a liking for one pronoun, whoever is meant, cancels between people stereotyped as women and men.

Not done, and why: replacing the pronoun by each candidate ("because [the designer] did not like …") and comparing those, as
masked models are used on Winograd schemas (Kocijan, Cretu, Camburu, Yordanov, Lukasiewicz 2019, A Surprisingly Robust Trick
for the Winograd Schema Challenge, ACL). It takes the pronoun out of the sentence, and with it the gender: the twins with he
and she become the same text, and the gap between them is 0 for every model, however biased.

A pronoun is one token in the usual vocabularies, so that what Kauf and Ivanova (2023) correct for words of several pieces
does not arise; where it is not, the sentence is not scored, and counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from teachfair.errors import ConfigError, InputError
from teachfair.evaluation.formats import mean
from teachfair.models.pseudo_likelihood import MaskedScorer
from teachfair.models.scorer import is_masked_lm

if TYPE_CHECKING:
    import pandas as pd

    from teachfair.models.scorer import Scorer

MEASURE = "masked pronoun"  # the ``format`` of every record, and ``scored_by`` in every summary
GENDERS = ("female", "male")


def check_masked(policy: str | Path, benchmark: str, counterpart: str) -> dict[str, Any]:
    """The measure, for the run record. Raises: ConfigError if ``policy`` is no masked language model."""
    if not is_masked_lm(policy):
        raise ConfigError(
            f"{benchmark} masks a pronoun, and this is no masked language model", where=str(policy),
            fix=f"take {counterpart}, which asks a causal model whom the pronoun means",
        )  # fmt: skip
    return {"measure": MEASURE}


def pronoun_records(
    benchmark: str, scorer: Scorer, items: Sequence[Mapping[str, Any]], columns: Sequence[str],
    progress: Callable[[int, int], None] | None = None,
) -> list[dict[str, Any]]:  # fmt: skip
    """One record an item.

    Args: items: with ``options`` (two sentences that differ in pronouns alone), ``genders`` and ``roles`` parallel to them,
        ``n_pronouns`` (in how many words they differ), ``problem``; columns: item keys that the records have too.
    Returns: records. ``logps_first`` = ``logps_whole``: log P(the pronouns of each sentence | the rest), nats;
        ``she_nats`` = that of the female sentence − that of the male one; ``margin_nats`` = stereotype − anti, NaN where the
        roles are others; ``chosen_role`` by the higher one, ``tie`` at equality. A sentence that is too long, or a pronoun
        that is no token of its own, is the record's ``problem``.
    Raises: InputError if ``scorer`` is no masked language model.
    """
    if not isinstance(scorer, MaskedScorer):
        raise InputError(
            "a pronoun can be masked for a masked language model only", where=f"benchmark {benchmark}",
            fix=f"take {benchmark.removesuffix('_masked')} for any other policy",
        )  # fmt: skip
    wanted = [item for item in items if not item["problem"]]
    scores = iter(scorer.differing_tokens([item["options"] for item in wanted], progress=progress))
    records = []
    for item in items:
        logps, problem = [math.nan] * 2, str(item["problem"])
        if not problem:
            pair = next(scores)
            problem = pair[0].problem or pair[1].problem
            if not problem:
                logps = [score.logp for score in pair]
        by_gender, by_role = (dict(zip(item[key], logps, strict=True)) for key in ("genders", "roles"))
        record = {
            "benchmark": benchmark, "item_id": item["id"], "base_id": item["base_id"], "cluster": item["cluster"],
            "axis": item["axis"], "groups": "|".join(item["groups"]), "lang": item["lang"], "condition": item["condition"],
            "roles": list(item["roles"]), "logps_first": logps, "logps_whole": list(logps),
            "n_tokens": [0 if problem else item["n_pronouns"]] * 2,
            "chosen_role": "" if problem else "tie" if logps[0] == logps[1] else item["roles"][int(logps[1] > logps[0])],
            "margin_nats": by_role["stereotype"] - by_role["anti"] if "stereotype" in by_role else math.nan,
            "correct": math.nan, "she_nats": by_gender["female"] - by_gender["male"], "problem": problem,
            "format": MEASURE, "option_order": "", "prefix_mismatch": False, "scored_by": MEASURE,
        }  # fmt: skip
        records.append(record | {column: item[column] for column in columns})
    return records


def pronoun_numbers(records: pd.DataFrame) -> dict[str, Any]:
    """Numbers of scored records with a ``stereotype_gender`` (of the person who is meant): stereotype and skew.

    ``margin_mean_nats``: mean of ``margin_nats`` over people stereotyped as women and over those as men, and the mean of
    the two, so that a liking for one pronoun cancels whatever the mix is; ``skew_nats``: that liking, log P(male) − log
    P(female), averaged likewise. ``pct_stereotype``: share of records with margin > 0 (ties in the denominator, counted
    apart). ``stereotype_f1_points`` and ``skew_f1_points``: de Vassimon Manela et al. 2021, 0 … 100: half the sum of the
    absolute differences of F1 between the pro- and the anti-stereotyped labels (for each pronoun), and between the pronouns
    (for each labelling). They have no sign. NaN with a reason where one side is missing.
    """
    sides = {gender: records.loc[records["stereotype_gender"] == gender, "she_nats"] for gender in GENDERS}
    she = {gender: mean(values) for gender, values in sides.items()}
    n = sum(map(len, sides.values()))
    margins = [*sides["female"], *(-value for value in sides["male"])]
    found: dict[str, Any] = {
        "margin_mean_nats": (she["female"] - she["male"]) / 2, "skew_nats": -(she["female"] + she["male"]) / 2,
        "pct_stereotype": 100 * sum(value > 0 for value in margins) / n if n else math.nan, "target_pct": 50.0,
        **_f1_points(sides["female"], sides["male"]), "n": n, "n_female": len(sides["female"]),
        "n_male": len(sides["male"]), "n_ties": sum(value == 0 for value in margins),
    }  # fmt: skip
    why = "no sentence about " + " or ".join(f"someone stereotyped as {name}" for name in GENDERS if not len(sides[name]))
    reasons = {name: why for name, value in found.items() if isinstance(value, float) and math.isnan(value)}
    return found | ({"reasons": reasons} if reasons else {})


def _f1_points(of_women: Sequence[float], of_men: Sequence[float]) -> dict[str, float]:
    """F1 of "the pronoun is male" (and female) against the stereotype's labels and against their opposite."""
    if not len(of_women) or not len(of_men):
        return dict.fromkeys(("stereotype_f1_points", "skew_f1_points"), math.nan)
    total = {"female": len(of_women), "male": len(of_men)}
    he = {"female": sum(value < 0 for value in of_women), "male": sum(value < 0 for value in of_men)}
    she = {name: total[name] - he[name] for name in GENDERS}  # a tie is "not he", as in the authors' code

    def f1(predicted: Mapping[str, int], gold: str) -> float:
        return 200 * predicted[gold] / (sum(predicted.values()) + total[gold])

    pro = {"male": f1(he, "male"), "female": f1(she, "female")}
    anti = {"male": f1(he, "female"), "female": f1(she, "male")}
    return {
        "stereotype_f1_points": sum(abs(pro[name] - anti[name]) for name in GENDERS) / 2,
        "skew_f1_points": sum(abs(one["male"] - one["female"]) for one in (pro, anti)) / 2,
    }
