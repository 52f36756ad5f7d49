"""The statistics of survival: pure functions over per-item records (PROTOCOL: "Retention").

Nothing here reads a model. A record is one row per item and cell (teach, adapt, compress, order, seed, base);
:func:`survival` turns a frame of them into rows with intervals, verdicts and guard-rails.
"""

from teachfair.evaluation.statistics.counts import (
    correct_for_flips,
    flip_factor,
    holm,
    mcnemar_exact,
    transitions,
    wilson,
)
from teachfair.evaluation.statistics.guards import GuardRail, guard_rails
from teachfair.evaluation.statistics.interval import Interval
from teachfair.evaluation.statistics.planning import detectable_effect, variance_ledger
from teachfair.evaluation.statistics.survival import SurvivalRow, survival

__all__ = [
    "GuardRail",
    "Interval",
    "SurvivalRow",
    "correct_for_flips",
    "detectable_effect",
    "flip_factor",
    "guard_rails",
    "holm",
    "mcnemar_exact",
    "survival",
    "transitions",
    "variance_ledger",
    "wilson",
]
