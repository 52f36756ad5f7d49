"""What the benchmarks of training say over seeds; found beside the scripts, because a script's folder is on the path."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence


def interval(values: Sequence[float], *, digits: int = 2) -> str:
    """Mean and 95 % interval of runs with different seeds (Student's t), as text.

    A run that has no value (NaN) is left out, and how many had one is said; a single run has no interval.
    """
    from scipy import stats

    there = [value for value in values if math.isfinite(value)]
    if not there:
        return "not reached"
    mean = statistics.fmean(there)
    text = f"{mean:.{digits}f}"
    if len(there) > 1:
        wide = float(stats.t.ppf(0.975, len(there) - 1)) * statistics.stdev(there) / math.sqrt(len(there))
        text += f" [{mean - wide:.{digits}f}, {mean + wide:.{digits}f}]"
    return text if len(there) == len(values) else f"{text} ({len(there)} of {len(values)})"
