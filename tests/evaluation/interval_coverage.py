"""Simulated studies with a known R: how often does the 95 % interval contain it?

    python tests/evaluation/interval_coverage.py [simulations per row, 2000]

prints the table of docs/decisions/0003-interval-for-retention.md, the plain percentile bootstrap beside ours.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import numpy as np

from teachfair.evaluation.statistics.interval import Estimate, Ratio, Resampler, combine, crossed

D0 = 3.0
CLUSTERS, PER_CLUSTER = 30, 4


@dataclass(frozen=True)
class World:
    """Standard deviations in nats (``kept_*``: of R itself) between seeds, clusters, both, single items, bases;
    ``damage``: of what compression does to the untaught margin; ``scatter``: to single answers of one taught model."""

    name: str
    seed: float = 0.2
    cluster: float = 0.8
    both: float = 0.3
    item: float = 0.5
    scatter: float = 0.5
    damage: float = 0.3
    kept_seed: float = 0.03
    kept_cluster: float = 0.1
    base: float = 0.0
    kept_base: float = 0.0


ONE_BASE = (
    World("balanced"),
    World(
        "seeds dominate",
        seed=0.8,
        cluster=0.3,
        both=0.1,
        item=0.2,
        scatter=0.1,
        damage=0.1,
        kept_seed=0.10,
        kept_cluster=0.05,
    ),
    World("clusters dominate", seed=0.02, cluster=1.2, both=0.1, damage=0.8, kept_seed=0.0, kept_cluster=0.25),
    World("residual dominates", seed=0.02, cluster=0.1, both=1.0, item=1.5, damage=0.1, kept_seed=0.0, kept_cluster=0.0),
)
SEVERAL_BASES = (World("bases differ", base=0.5, kept_base=0.10),)


def simulate(world: World, retained: float, seeds: int, bases: int, rng: np.random.Generator) -> np.ndarray:
    """(4, bases, seeds, K) cluster means of untaught/none, taught/none, untaught/c, taught/c.

    The compressed model loses the lesson item by item: each (seed, item) keeps it with probability ``retained``
    (a flip back to the untaught margin otherwise), times noise in what is kept. E[D_c] = retained * E[D0].
    """
    shape = (bases, seeds, CLUSTERS, PER_CLUSTER)
    untaught = 2 + rng.normal(0, 1, (1, 1, CLUSTERS, 1)) + rng.normal(0, world.item, (1, 1, CLUSTERS, PER_CLUSTER))
    effect = (
        D0
        + rng.normal(0, 1, (bases, 1, 1, 1)) * world.base
        + rng.normal(0, 1, (bases, seeds, 1, 1)) * world.seed
        + rng.normal(0, 1, (1, 1, CLUSTERS, 1)) * world.cluster
        + rng.normal(0, 1, (bases, seeds, CLUSTERS, 1)) * world.both
        + rng.normal(0, 1, shape) * world.item
    )
    kept = (
        (rng.random(shape) < retained)
        + rng.normal(0, 1, (bases, 1, 1, 1)) * world.kept_base
        + rng.normal(0, 1, (bases, seeds, 1, 1)) * world.kept_seed
        + rng.normal(0, 1, (1, 1, CLUSTERS, 1)) * world.kept_cluster
    )
    damaged = untaught + rng.normal(0, 1, (bases, 1, CLUSTERS, 1)) * world.damage
    cells = (untaught, untaught - effect, damaged, damaged - kept * effect + rng.normal(0, 1, shape) * world.scatter)
    return np.stack([np.broadcast_to(c, shape).mean(axis=-1) for c in cells])


def paired(values: np.ndarray, draws: Resampler) -> tuple[Estimate, Estimate]:
    """D0 and D_c as ``survival`` estimates them: rows are the seeds of one base, or several bases."""
    sizes = np.full(CLUSTERS, float(PER_CLUSTER))
    rows = values[:, 0] if values.shape[1] == 1 else values.mean(axis=2)
    names = [str(i) for i in range(rows.shape[1])]
    clusters = [str(k) for k in range(CLUSTERS)]
    untaught, taught, untaught_c, taught_c = crossed(rows, sizes, names, clusters, draws)
    return combine((1, untaught), (-1, taught)), combine((1, untaught_c), (-1, taught_c))


def percentile_covers(values: np.ndarray, retained: float, draws: Resampler) -> bool:
    """The rival: percentile interval of the ratio, rows and clusters resampled with replacement at once."""
    rows = values[:, 0] if values.shape[1] == 1 else values.mean(axis=2)
    n = rows.shape[1]
    w = draws.weights("rows", [str(i) for i in range(n)]) / n
    v = draws.weights("clusters", [str(k) for k in range(CLUSTERS)]) / CLUSTERS
    d0, d_c = rows[0] - rows[1], rows[2] - rows[3]
    top, bottom = (np.einsum("br,rk,bk->b", w, d, v, optimize=True) for d in (d_c, d0))
    low, high = np.quantile(top / bottom, [0.025, 0.975])
    return bool(low <= retained <= high)


def coverage(
    world: World, retained: float, seeds: int, bases: int, n: int, random_state: int, rival: bool = False
) -> tuple[float, float]:
    """Share of ``n`` simulated studies whose 95 % interval contains ``retained``: (ours, percentile or NaN)."""
    rng = np.random.default_rng(random_state)
    pool = [Resampler(i, 1000) for i in range(25)]  # so that no single set of draws decides
    ours = theirs = 0
    for i in range(n):
        values = simulate(world, retained, seeds, bases, rng)
        d0, d_c = paired(values, pool[i % len(pool)])
        ours += Ratio(d_c, d0).covers(retained, 0.95)
        theirs += rival and percentile_covers(values, retained, pool[i % len(pool)])
    return ours / n, theirs / n if rival else float("nan")


def main() -> None:
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    print("| world | bases | seeds | R | coverage | percentile bootstrap |\n| --- | --- | --- | --- | --- | --- |")
    settings = [(w, 1, s) for w in ONE_BASE for s in (3, 5)] + [(w, b, 3) for w in SEVERAL_BASES for b in (3, 5)]
    for world, bases, seeds in settings:
        for retained in (0.0, 0.5, 1.0):
            ours, theirs = coverage(world, retained, seeds, bases, n, random_state=round(7 + 10 * retained), rival=True)
            print(f"| {world.name} | {bases} | {seeds} | {retained} | {ours:.3f} | {theirs:.3f} |", flush=True)


if __name__ == "__main__":
    main()
