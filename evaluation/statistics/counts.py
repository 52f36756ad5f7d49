"""Counts and proportions: Wilson, exact McNemar, Holm, Benjamini-Hochberg, flips, and what single items did."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from teachfair.errors import InputError
from teachfair.evaluation.statistics.interval import NAN, Interval

if TYPE_CHECKING:
    import pandas as pd

    from teachfair.evaluation.statistics.interval import Array


def wilson(successes: int, n: int, confidence: float = 0.95) -> Interval:
    """Wilson's score interval of a proportion; NaN with a reason if n == 0. Source: Wilson 1927, by scipy."""
    from scipy.stats import binomtest

    if n == 0:
        return Interval(NAN, reason="no trials")
    if not 0 <= successes <= n:
        raise InputError(f"{successes} successes of {n} trials", where="wilson", fix="give 0 <= successes <= n")
    p = successes / n
    ci = binomtest(successes, n).proportion_ci(confidence, method="wilson")
    return Interval(p, float(ci.low), float(ci.high), math.sqrt(p * (1 - p) / n))


def mcnemar_exact(only_first: int, only_second: int) -> float:
    """Exact two-sided McNemar p-value of paired binary items from the two discordant counts; 1.0 if there are none.

    Source: McNemar 1947; the exact form is the binomial test of one half on the discordant pairs.
    """
    from scipy.stats import binomtest

    n = only_first + only_second
    return float(binomtest(only_first, n, 0.5).pvalue) if n else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values, in the order given. Source: Holm 1979, Scand. J. Stat. 6."""
    p = _p_values(p_values, "holm")
    order = np.argsort(p, kind="stable")
    adjusted = np.minimum(np.maximum.accumulate(p[order] * np.arange(p.size, 0, -1)), 1.0)
    result = np.empty_like(p)
    result[order] = adjusted
    return [float(x) for x in result]


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """Step-up adjusted p-values that bound the false discovery rate, in the order given.

    For independent or positively dependent tests. Source: Benjamini & Hochberg 1995, J. R. Stat. Soc. B 57; by scipy.
    """
    from scipy.stats import false_discovery_control

    p = _p_values(p_values, "benjamini_hochberg")
    return [float(x) for x in false_discovery_control(p, method="bh")] if p.size else []


def _p_values(p_values: Sequence[float], where: str) -> Array:
    p = np.asarray(p_values, dtype=float)
    if p.size and (not np.isfinite(p).all() or p.min() < 0 or p.max() > 1):
        raise InputError("a p-value is not in [0, 1]", where=f"{where}: {p.tolist()}", fix="drop undefined tests first")
    return p


def flip_factor(rate: float) -> float:
    """1 - 2f: what symmetric flips of a binary answer at rate f leave of any difference of rates (PROTOCOL)."""
    if not 0 <= rate <= 1:
        raise InputError(f"flip rate {rate}", where="flip_factor", fix="give a share between 0 and 1")
    return 1 - 2 * rate


def correct_for_flips(retention: float, rate: float) -> tuple[float, str]:
    """R of a binary rate divided by 1 - 2f, with a reason where that is undefined. Print the raw R beside it."""
    factor = flip_factor(rate)
    if factor <= 0:
        return NAN, f"flip rate {rate:.2f}: answers at this rate carry no information about the difference"
    return retention / factor, ""


def transitions(untaught: pd.DataFrame, taught: pd.DataFrame, compressed: pd.DataFrame) -> dict[str, float]:
    """What single items did: counts over the items of one condition and one seed, by ``chosen_role``.

    Args: frames with ``item_id`` and ``chosen_role`` of untaught/none, taught/none, taught/compressed; and ``cluster``, if
        clusters are to be counted.
    Returns: ``n``; ``taught_gain`` (stereotype untaught, not when taught); of the compressed model against the
        taught one: ``kept_fair``, ``lost_fairness`` (fair when taught; stereotype when compressed; it was
        stereotype untaught), ``new_bias`` (the same, but it was not stereotype untaught), ``gained_fairness``.
        ``p_compressed``: exact McNemar of taught against compressed (lost and new against gained); ``p_taught``: of
        untaught against taught. Both take items as independent. ``clusters``, ``clusters_worse`` and ``clusters_better``
        (more stereotyped answers when compressed than when taught, or fewer), with ``p_clusters``, the sign test over
        clusters, which does not take twins of one template for independent: read that one where clusters have several items.
    Raises: InputError if the three do not hold the same items, once each.
    """
    frames = [f.set_index("item_id")["chosen_role"] for f in (untaught, taught, compressed)]
    if any(not f.index.is_unique for f in frames) or any(set(f.index) != set(frames[0].index) for f in frames):
        raise InputError(
            "the three cells do not hold the same items once each", where="transitions",
            fix="give one condition and one seed of each cell",
        )  # fmt: skip
    was, now, then = (f.reindex(frames[0].index).to_numpy() == "stereotype" for f in frames)
    lost, gained = int((~now & then).sum()), int((now & ~then).sum())
    counts: dict[str, float] = {
        "n": len(was),
        "taught_gain": int((was & ~now).sum()),
        "kept_fair": int((~now & ~then).sum()),
        "lost_fairness": int((was & ~now & then).sum()),
        "new_bias": int((~was & ~now & then).sum()),
        "gained_fairness": gained,
        "p_compressed": mcnemar_exact(lost, gained),
        "p_taught": mcnemar_exact(int((was & ~now).sum()), int((~was & now).sum())),
    }
    if "cluster" in untaught.columns:
        names, slots = np.unique(untaught["cluster"].astype(str).to_numpy(), return_inverse=True)
        net = np.bincount(slots, weights=then.astype(float) - now.astype(float), minlength=len(names))
        worse, better = int((net > 0).sum()), int((net < 0).sum())
        counts |= {
            "clusters": len(names), "clusters_worse": worse, "clusters_better": better,
            "p_clusters": mcnemar_exact(worse, better),
        }  # fmt: skip
    return counts
