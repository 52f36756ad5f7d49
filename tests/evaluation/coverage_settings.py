"""Simulated studies of many sizes: how often does a 95 % interval contain the truth?

    python tests/evaluation/coverage_settings.py [simulations per setting, 2000]

prints the table of docs/statistics.md. Standard error of a coverage of .95 at 2,000 simulations: .0049.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import ndtri

from teachfair.evaluation.statistics import at_equal_utility, front_of, worst_group
from teachfair.evaluation.statistics.guards import _difference
from teachfair.evaluation.statistics.interval import Resampler, crossed, mean_interval
from teachfair.evaluation.statistics.jackknife import jackknife

N = 2000
SEED_SD, RESIDUAL_SD, ITEM_SD = 0.2, 0.3, 0.5  # in standard deviations between clusters


@dataclass(frozen=True)
class Setting:
    """A study of D0. ``effect`` in standard deviations between clusters; ``sizes``: items per cluster; ``tail``: of
    clusters."""

    clusters: int
    seeds: int
    effect: float
    unbalanced: bool = False
    tail: str = "normal"  # normal, t3 (heavy), binary (each item's answer is stereotyped or not)

    @property
    def name(self) -> str:
        sizes = "1 to 40 items" if self.unbalanced else "4 items"
        return f"{self.clusters} clusters of {sizes}, {self.seeds} seeds, effect {self.effect:g}, {self.tail}"


SETTINGS = (
    Setting(20, 3, 0.0),
    Setting(20, 5, 1.0, unbalanced=True),
    Setting(20, 10, 3.0),
    Setting(50, 3, 1.0, unbalanced=True),
    Setting(50, 5, 0.0),
    Setting(50, 10, 2.0, tail="t3"),
    Setting(100, 3, 2.0),
    Setting(100, 5, 3.0, unbalanced=True),
    Setting(100, 10, 0.0, tail="t3"),
    Setting(200, 5, 1.0, unbalanced=True, tail="t3"),
    Setting(400, 3, 0.0, unbalanced=True),
    Setting(400, 10, 3.0),
    Setting(50, 5, 0.0, tail="binary"),
    Setting(200, 5, 1.0, tail="binary"),
)


def sizes_of(setting: Setting, rng: np.random.Generator) -> np.ndarray:
    if not setting.unbalanced:
        return np.full(setting.clusters, 4.0)
    return np.clip(np.round(np.exp(rng.normal(1.4, 0.9, setting.clusters))), 1, 40)


def covers_effect(setting: Setting, rng: np.random.Generator, draws: Resampler) -> bool:
    """D0 of one simulated study: seeds, clusters, their crossing and single items all vary."""
    k, s = setting.clusters, setting.seeds
    sizes = sizes_of(setting, rng)
    cluster = rng.standard_t(3, k) / math.sqrt(3) if setting.tail == "t3" else rng.normal(0, 1, k)
    latent = setting.effect + cluster + SEED_SD * rng.normal(0, 1, (s, 1)) + RESIDUAL_SD * rng.normal(0, 1, (s, k))
    if setting.tail == "binary":
        # untaught: stereotyped with probability Phi(1); taught: the latent effect lowers it. Truth: E of the difference.
        from scipy.special import ndtr

        total = math.sqrt(1 + 1 + SEED_SD**2 + RESIDUAL_SD**2)
        truth = float(ndtr(1.0) - ndtr((1.0 - setting.effect) / total))
        values = ndtr(1.0) - rng.binomial(4, ndtr(1.0 - latent)) / 4
    else:
        truth, values = setting.effect, latent + ITEM_SD * rng.normal(0, 1, (s, k)) / np.sqrt(sizes)
    names = tuple(str(i) for i in range(k))
    (estimate,) = crossed(values[None], sizes, [str(i) for i in range(s)], names, draws)
    interval = mean_interval(estimate, 0.95)
    return interval.low <= truth <= interval.high


def covers_guard_rail(rng: np.random.Generator) -> bool:
    """The change of an accuracy from .95 to .90 over 100 unbalanced clusters, both models on the same items."""
    sizes = sizes_of(Setting(100, 1, 0, unbalanced=True), rng)
    hard = rng.normal(0, 0.5, 100)
    from scipy.special import expit, logit

    def expected(level: float) -> np.ndarray:
        return expit(logit(level) + hard)

    sums = [np.stack([rng.binomial(sizes.astype(int), expected(p)), sizes], axis=1).astype(float) for p in (0.90, 0.95)]
    grid = np.random.default_rng(0).normal(0, 0.5, 200_000)
    truth = float(np.mean(expit(logit(0.90) + grid) - expit(logit(0.95) + grid)))
    interval = _difference(sums[0], sums[1], 0.95, False)
    return interval.low <= truth <= interval.high


def covers_worst_group(rng: np.random.Generator, random_state: int, *, naive: bool = False) -> bool:
    """Eight groups of 25 clusters with the same true mean: the worst seen one looks worse than it is."""
    name = np.repeat([f"g{i}" for i in range(8)], 50)
    cluster = np.repeat(np.arange(200), 2)
    value = rng.normal(0, 1, 200)[cluster] + rng.normal(0, 0.5, 400)
    frame = pd.DataFrame({"groups": name, "cluster": cluster.astype(str), "value": value})
    found = worst_group(frame, outcome="value", random_state=random_state, n_resamples=500)
    if not naive:
        return found.value.low <= 0 <= found.value.high
    worst = found.groups[0].mean
    return abs(worst.value) <= 2.064 * worst.se  # t(24): the worst group's own interval, as if nobody had chosen it


def covers_jackknife(rng: np.random.Generator) -> bool:
    """A ratio of two means over 300 clusters of unequal size, as a benchmark's own score may be one."""
    sizes = sizes_of(Setting(300, 1, 0, unbalanced=True), rng).astype(int)
    cluster = np.repeat(np.arange(300), sizes)
    top = (2 + rng.normal(0, 1, 300))[cluster] + rng.normal(0, 1, len(cluster))
    bottom = (4 + rng.normal(0, 1, 300))[cluster]
    frame = pd.DataFrame({"cluster": cluster.astype(str), "top": top, "bottom": bottom})
    found = jackknife(frame, lambda rows: float(rows["top"].mean() / rows["bottom"].mean())).interval()
    return found.low <= 0.5 <= found.high


def covers_equal_utility(rng: np.random.Generator, clusters: int = 60) -> bool | None:
    """A model between the second and the third point of a front of four, whose bias falls with its accuracy along a line:
    is the true difference at equal utility in the interval? None: the ranges did not meet, so that there was none."""
    level, hard = rng.normal(0, 0.6, clusters), rng.normal(0, 1, 2 * clusters)

    def scored(bias: float, right: float) -> pd.DataFrame:
        margins = np.repeat(bias + level + rng.normal(0, 0.3, clusters), 2) + rng.normal(0, 0.3, 2 * clusters)
        ability = 0.9 * hard + math.sqrt(1 - 0.81) * rng.normal(0, 1, 2 * clusters)
        parts = {"ambiguous": (margins, np.nan), "disambiguated": (np.nan, (ability < ndtri(right)).astype(float))}
        return pd.concat([
            pd.DataFrame({"condition": name, "cluster": np.repeat([f"{name[0]}{k}" for k in range(clusters)], 2),
                          "margin_nats": margin, "correct": correct})
            for name, (margin, correct) in parts.items()
        ])  # fmt: skip

    front = front_of([(step, scored(2 - 0.5 * step, 0.95 - 0.08 * step)) for step in range(4)], n_resamples=400)
    model = front_of([("model", scored(1.0, 0.83))], n_resamples=400)
    found = at_equal_utility(model, front).difference
    truth = 1.0 - (2 - 0.5 * 1.5)
    return bool(found.low <= truth <= found.high) if math.isfinite(found.low) else None


def equal_utility(n: int, random_state: int = 3) -> float:
    rng = np.random.default_rng(random_state)
    return _share(covered for _ in range(n) if (covered := covers_equal_utility(rng)) is not None)


def coverage(setting: Setting, n: int, random_state: int = 1) -> float:
    rng = np.random.default_rng([random_state, setting.clusters, setting.seeds, round(setting.effect)])
    pool = [Resampler(i, 1000) for i in range(5)]  # so that no single set of draws decides
    for draws in pool:  # weights of clusters of unequal sizes differ in every study: do not keep them
        draws.shares = lambda names, sizes, draws=draws: _shares(draws, names, sizes)  # type: ignore[method-assign]
    return sum(covers_effect(setting, rng, pool[i % len(pool)]) for i in range(n)) / n


def _shares(draws: Resampler, names: tuple[str, ...], sizes: np.ndarray) -> np.ndarray:
    weights = draws.weights("clusters", names) * sizes
    return weights / weights.sum(axis=1, keepdims=True)


def others(n: int, random_state: int = 2) -> dict[str, float]:
    rng = np.random.default_rng(random_state)
    return {
        "guard-rail: change of an accuracy, 100 clusters of 1 to 40 items": _share(covers_guard_rail(rng) for _ in range(n)),
        "worst of 8 equal groups, 25 clusters each": _share(covers_worst_group(rng, i % 7) for i in range(n)),
        "headline by the jackknife: a ratio, 300 clusters of 1 to 40 items": _share(covers_jackknife(rng) for _ in range(n)),
    }


def _share(covered: Iterator[bool]) -> float:
    return float(np.mean(list(covered)))


def main() -> None:
    n = int(sys.argv[1]) if len(sys.argv) > 1 else N
    print("| setting | coverage |\n| --- | --- |")
    for setting in SETTINGS:
        print(f"| {setting.name} | {coverage(setting, n):.3f} |", flush=True)
    for name, share in others(n // 2).items():
        print(f"| {name} | {share:.3f} |", flush=True)
    print(f"| equal utility: a model on a front of four points, 60 clusters | {equal_utility(n // 4):.3f} |", flush=True)
    rng = np.random.default_rng(2)
    naive = sum(covers_worst_group(rng, i % 7, naive=True) for i in range(n // 2)) / (n // 2)
    print(f"| the same worst group by its own interval | {naive:.3f} |")


if __name__ == "__main__":
    main()
