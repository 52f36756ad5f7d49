"""The secondary benchmarks of a study: the same retention as the primary outcome, corrected by Benjamini-Hochberg.

PROTOCOL: Holm over the compressions of one study for the primary outcome, Benjamini-Hochberg over secondary benchmarks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from teachfair.errors import InputError
from teachfair.evaluation.statistics.counts import benjamini_hochberg
from teachfair.evaluation.statistics.guards import guards_among
from teachfair.evaluation.statistics.survival import ABOVE, BELOW, INCONCLUSIVE, LOST, SURVIVES, survival

if TYPE_CHECKING:
    import pandas as pd


def secondary_survival(
    records: pd.DataFrame, cards: Mapping[str, Mapping[str, Any]], *, primary: str, random_state: int,
    n_resamples: int = 2000, confidence: float = 0.95,
) -> dict[str, Any]:  # fmt: skip
    """Rows of :func:`~teachfair.evaluation.statistics.survival` for every benchmark but the ``primary`` one.

    Args: records: of all cells and benchmarks. cards: ``CARD`` by benchmark.
    Returns: "rows": as dicts, each with its "benchmark" (verdicts are not yet corrected over benchmarks:
        :func:`adjusted_secondary` does it); "left_out": benchmark -> why it has no rows. Guard-rails alone are neither.
    """
    rows: list[dict[str, Any]] = []
    left_out: dict[str, str] = {}
    for name, card in cards.items():
        if name == primary or card.get("measures") == "guard":
            continue
        condition = card.get("outcome_condition", "ambiguous")
        if condition is None:
            left_out[name] = "it has no log-odds margin that retention could be read on"
            continue
        try:
            found = survival(
                records, benchmark=name, guards=guards_among(cards), condition=condition,
                parity=bool(card.get("parity", False)), random_state=random_state, n_resamples=n_resamples,
                confidence=confidence,
            )  # fmt: skip
        except InputError as error:
            left_out[name] = f"{error.what} ({error.where})"
            continue
        rows += [{"benchmark": name} | row.as_dict() for row in found if not row.own_outcome]
    return {"rows": rows, "left_out": left_out}


def adjusted_secondary(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows (``SurvivalRow.as_dict()``) with verdicts by Benjamini-Hochberg over all that were tested.

    One family: every secondary benchmark x taught arm x compression; controls form a family of their own, as they do under
    Holm. ``p_adjusted`` becomes the adjusted ``p_value`` (twice the smaller one-sided p of R <= .80 and R >= .20);
    "survives" or "lost" needs it to be <= 1 - confidence, which implies that the printed interval lies above .80 or below
    .20. Of two-sided tests whose direction is then read off, this bounds the rate of false directions too (Benjamini &
    Yekutieli 2005, J. Am. Stat. Assoc. 100). ``n_tests``: how many the family has.
    """
    found = [dict(row) for row in rows]
    for control in (False, True):
        family = [row for row in found if bool(row["control"]) is control and row.get("p_value") is not None]
        adjusted = benjamini_hochberg([row["p_value"] for row in family])
        for row, p in zip(family, adjusted, strict=True):
            low, high = row["r_c"]["low"], row["r_c"]["high"]
            clear = SURVIVES if low is not None and low > ABOVE else LOST if high is not None and high < BELOW else ""
            decided = p <= 1 - row["confidence"] and clear
            if decided:
                reason = "R is below 0: the effect is reversed" if clear == LOST and high < 0 else ""
            elif clear:
                reason = f"clear alone, not after Benjamini-Hochberg over {len(family)} tests (adjusted p = {p:.3f})"
            else:
                reason = f"the interval of R reaches into {BELOW:.2f} to {ABOVE:.2f}"
            row |= {"p_adjusted": p, "verdict": decided or INCONCLUSIVE, "reason": reason, "n_tests": len(family)}
    return found
