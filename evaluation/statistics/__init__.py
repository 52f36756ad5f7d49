"""The statistics of survival: pure functions over per-item records (PROTOCOL: "Retention").

Nothing here reads a model. A record is one row per item and cell (teach, adapt, compress, order, seed, base);
:func:`survival` turns a frame of them into rows with intervals, verdicts and guard-rails.
"""

from teachfair.evaluation.statistics.counts import (
    benjamini_hochberg,
    correct_for_flips,
    flip_factor,
    holm,
    mcnemar_exact,
    transitions,
    wilson,
)
from teachfair.evaluation.statistics.equal_utility import EqualUtility, Front, at_equal_utility, front_of
from teachfair.evaluation.statistics.equivalence import Equivalence, equivalence, ratio_equivalence
from teachfair.evaluation.statistics.files import cell_means_from_files, survival_from_files
from teachfair.evaluation.statistics.groups import GroupMean, WorstGroup, intersections, worst_group
from teachfair.evaluation.statistics.guards import GuardRail, guard_rails
from teachfair.evaluation.statistics.interval import Interval
from teachfair.evaluation.statistics.item_changes import item_changes
from teachfair.evaluation.statistics.planning import detectable_effect, minimum_detectable, power_table, variance_ledger
from teachfair.evaluation.statistics.secondary import adjusted_secondary, secondary_survival
from teachfair.evaluation.statistics.survival import SurvivalRow, survival

__all__ = [
    "EqualUtility",
    "Equivalence",
    "Front",
    "GroupMean",
    "GuardRail",
    "Interval",
    "SurvivalRow",
    "WorstGroup",
    "adjusted_secondary",
    "at_equal_utility",
    "benjamini_hochberg",
    "cell_means_from_files",
    "correct_for_flips",
    "detectable_effect",
    "equivalence",
    "flip_factor",
    "front_of",
    "guard_rails",
    "holm",
    "intersections",
    "item_changes",
    "mcnemar_exact",
    "minimum_detectable",
    "power_table",
    "ratio_equivalence",
    "secondary_survival",
    "survival",
    "survival_from_files",
    "transitions",
    "variance_ledger",
    "wilson",
    "worst_group",
]
