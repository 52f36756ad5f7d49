"""Two one-sided tests: a difference is called absent only where the data show that it is small, never for lack of data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from teachfair.errors import InputError
from teachfair.evaluation.statistics.interval import NAN, Interval, Ratio


@dataclass(frozen=True)
class Equivalence:
    """``p_low``: of "at or below the lower bound"; ``p_high``: of "at or above the upper bound"; ``p`` is the larger.

    ``equivalent``: p <= (1 - confidence) / 2, the same as the ``confidence`` interval lying strictly between the bounds
    (95 % interval: each side at 2.5 %, stricter than the customary TOST at 5 %, whose interval is the 90 % one).
    """

    low: float
    high: float
    p_low: float
    p_high: float
    equivalent: bool
    reason: str = ""

    @property
    def p(self) -> float:
        return max(self.p_low, self.p_high)  # either is NaN only if both are

    def as_dict(self) -> dict[str, Any]:
        numbers = {"low": self.low, "high": self.high, "p_low": self.p_low, "p_high": self.p_high}
        return {k: v if math.isfinite(v) else None for k, v in numbers.items()} | {
            "equivalent": self.equivalent, "reason": self.reason,
        }  # fmt: skip


def equivalence(value: Interval, low: float, high: float, *, df: float, confidence: float = 0.95) -> Equivalence:
    """TOST of a mean or a difference with a standard error and ``df`` degrees of freedom against the bounds (low, high).

    t_low = (value - low) / se, t_high = (value - high) / se. Source: Schuirmann 1987, J. Pharmacokinet. Biopharm. 15.
    An undefined standard error gives NaN, the reason, and "not equivalent"; one of 0 compares the value itself.
    """
    from scipy.special import stdtr

    _check_bounds(low, high)
    if not (math.isfinite(value.value) and math.isfinite(value.se)):
        return Equivalence(low, high, NAN, NAN, False, value.reason or "no standard error")
    if value.se == 0:
        p_low, p_high = float(value.value <= low), float(value.value >= high)
    else:
        p_low = float(stdtr(df, -(value.value - low) / value.se))
        p_high = float(stdtr(df, (value.value - high) / value.se))
    return Equivalence(low, high, p_low, p_high, max(p_low, p_high) <= (1 - confidence) / 2 + 1e-12)


def ratio_equivalence(ratio: Ratio, low: float = 0.80, high: float = 1.25, *, confidence: float = 0.95) -> Equivalence:
    """TOST of a ratio such as R: "no less than 80 % and no more than 125 % of the lesson is left" (bounds of
    bioequivalence).

    Its one-sided tests invert Fieller's interval, so it agrees with the printed one. PROTOCOL's verdict "survives" is
    the lower of the two tests alone (non-inferiority at .80: more effect than was taught is no loss), and "lost" the
    upper one at .20.
    """
    _check_bounds(low, high)
    p_low, p_high = ratio.p_value(low, "greater"), ratio.p_value(high, "less")
    return Equivalence(low, high, p_low, p_high, max(p_low, p_high) <= (1 - confidence) / 2 + 1e-12)


def _check_bounds(low: float, high: float) -> None:
    if not low < high:
        raise InputError(f"bounds {low} and {high}", where="equivalence", fix="give a lower bound below the upper one")
