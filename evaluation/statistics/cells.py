"""Per-item records of one condition -> one matrix of cluster means per cell, checked for pairing.

The same items must stand in every cell, once per seed and base: a comparison of different items is refused, not
averaged away.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from teachfair.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

    from teachfair.evaluation.statistics.interval import Array

KEYS = ("base", "teach", "adapt", "compress", "order", "seed")
UNTAUGHT = "untaught"
CONTROLS = ("placebo", "sham", "erased")


class Cell(NamedTuple):
    """What is averaged: seeds and bases are its replicates. Untaught cells are found by ``compress`` alone."""

    teach: str
    adapt: str
    compress: str
    order: str

    def __str__(self) -> str:
        return "/".join(self)


@dataclass(frozen=True)
class CellMeans:
    """``means[cell][(base, seed)]``: (K,) mean outcome of each item cluster. ``sizes``: items per cluster, per base.

    ``clusters[base]`` names the K clusters. ``shared_items``: every base was scored on the same items, so clusters
    are crossed with bases; otherwise they are nested in them.
    """

    outcome: str
    condition: str
    means: dict[Cell, dict[tuple[str, int], Array]]
    sizes: dict[str, Array]
    clusters: dict[str, tuple[str, ...]]
    shared_items: bool
    parity: bool = False

    @property
    def n_items(self) -> int:
        """Items per base (of the largest, if they differ)."""
        return max(int(s.sum()) for s in self.sizes.values())


def select(records: pd.DataFrame, *, condition: str, benchmark: str | None) -> pd.DataFrame:
    """The rows of one condition of one benchmark.

    Raises: InputError if a column is missing, the condition is empty, or several benchmarks have it and none is named.
    """
    needed = [*KEYS, "item_id", "cluster", "condition"]
    missing = [c for c in needed if c not in records.columns]
    if missing:
        raise InputError(
            f"the records lack the columns {', '.join(missing)}", where="records",
            fix="records of a cell carry the keys " + ", ".join(KEYS) + " beside the item's own columns",
        )  # fmt: skip
    rows = records[records["condition"] == condition]
    if "benchmark" in records.columns:
        if benchmark is not None:
            rows = rows[rows["benchmark"] == benchmark]
        elif rows["benchmark"].nunique() > 1:
            raise InputError(
                f"several benchmarks have condition {condition!r}: {', '.join(sorted(rows['benchmark'].unique()))}",
                where="records", fix="name one by benchmark=...",
            )  # fmt: skip
    if rows.empty:
        raise InputError(
            f"no records of condition {condition!r}" + (f" in benchmark {benchmark!r}" if benchmark else ""),
            where="records", fix=f"conditions here: {', '.join(sorted(map(str, records['condition'].unique())))}",
        )  # fmt: skip
    return rows


def cell_means(
    records: pd.DataFrame, *, outcome: str, condition: str, benchmark: str | None = None, parity: bool = False
) -> CellMeans:
    """Aggregate to cluster means.

    Args: parity: multiply each model's records by the sign of its mean, so that cell means become distances from
        parity and overshoot into the reverse bias counts as bias. Near parity the sign is a guess: a distance is
        then biased upwards by noise, which makes a taught effect look smaller, never larger.
    Raises: InputError naming cell and item if a value is not finite, an item occurs twice in a cell, or two cells
        of one base hold different items.
    """
    rows = select(records, condition=condition, benchmark=benchmark)
    if outcome not in rows.columns:
        raise InputError(f"the records lack the outcome {outcome!r}", where="records", fix="name an existing column")
    values = rows[outcome].to_numpy(dtype=float, na_value=np.nan)
    if not np.isfinite(values).all():
        first = rows.iloc[int(np.flatnonzero(~np.isfinite(values))[0])]
        raise InputError(
            f"{outcome} is not finite in {int((~np.isfinite(values)).sum())} of {len(values)} records of condition "
            f"{condition!r}", where=f"cell {_name(first)}, item {first['item_id']}",
            fix="score the cell again; a model with non-finite weights must not be averaged",
        )  # fmt: skip
    items = rows["item_id"].astype(str)
    per_model: dict[tuple[Cell, str, int], Any] = {}
    item_sets: dict[str, tuple[str, dict[str, str]]] = {}
    sizes: dict[str, Array] = {}
    clusters: dict[str, tuple[str, ...]] = {}
    frame = {k: rows[k].astype(str).to_numpy() for k in ("base", "teach", "adapt", "compress", "order", "cluster")}
    seeds = rows["seed"].to_numpy(dtype=int)
    ids = items.to_numpy()
    groups = rows.reset_index(drop=True).groupby(list(KEYS), sort=True).indices
    for index in groups.values():
        i = index[0]
        base, seed = frame["base"][i], int(seeds[i])
        cell = Cell(frame["teach"][i], frame["adapt"][i], frame["compress"][i], frame["order"][i])
        if cell.teach == UNTAUGHT:
            cell = untaught(cell.compress)
        here = dict(zip(ids[index], frame["cluster"][index], strict=True))
        label = f"{cell}, seed {seed}, base {base}"
        if len(here) != len(index):
            names, counts = np.unique(ids[index], return_counts=True)
            raise InputError(
                "an item stands twice in one cell", where=f"cell {label}, item {names[counts > 1][0]}",
                fix="pass each cell's records once",
            )  # fmt: skip
        if base not in item_sets:
            names, counts = np.unique(frame["cluster"][index], return_counts=True)
            item_sets[base] = (label, here)
            clusters[base], sizes[base] = tuple(names.tolist()), counts.astype(float)
        elif here != item_sets[base][1]:
            other_label, other = item_sets[base]
            odd = sorted(set(here.items()) ^ set(other.items()))[0][0]
            raise InputError(
                f"two cells hold different items (or clusters) of condition {condition!r}",
                where=f"cell {label} against cell {other_label}, item {odd}",
                fix="score every cell on the same items: D0 and R are paired",
            )  # fmt: skip
        slot = np.searchsorted(clusters[base], frame["cluster"][index])
        y = values[index]
        if parity:
            y = y * np.sign(y.mean())
        per_model[cell, base, seed] = np.bincount(slot, weights=y, minlength=len(sizes[base])) / sizes[base]
    means: dict[Cell, dict[tuple[str, int], Array]] = {}
    for (cell, base, seed), mean in per_model.items():
        if (base, seed) in means.setdefault(cell, {}):
            raise InputError(
                "two untaught cells differ only in adapt or order", where=f"cell {cell}, base {base}",
                fix="score the untaught policy once per compression",
            )  # fmt: skip
        means[cell][base, seed] = mean
    shared = len({tuple(sorted(here.items())) for _, here in item_sets.values()}) == 1
    return CellMeans(outcome, condition, means, sizes, clusters, shared, parity)


def untaught(compress: str) -> Cell:
    return Cell(UNTAUGHT, "none", compress, "align-then-compress")


def control_and_method(teach: str, controls: Sequence[str] = CONTROLS) -> tuple[str, str]:
    """What a ``teach`` label says: ``placebo-ppo`` → ("placebo", "ppo"), ``dpo`` → ("", "dpo").

    A control's label is ``<control>-<method>``, or ``<control>`` alone where the method is not told: ("placebo", "").
    Any other label, also one that merely begins with a control's letters (``shamrock``), is a method's.
    """
    control, dash, method = teach.partition("-")
    if control not in controls or (dash and not method):
        return "", teach
    return control, method


def _name(row: Any) -> str:
    return "/".join(str(row[k]) for k in ("teach", "adapt", "compress", "order")) + (
        f", seed {row['seed']}, base {row['base']}"
    )
