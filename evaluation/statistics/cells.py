"""Per-item records of one condition -> one matrix of cluster means per cell, checked for pairing.

The same items must stand in every cell, once per seed and base: a comparison of different items is refused, not
averaged away.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from teachfair.errors import InputError

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from teachfair.evaluation.statistics.interval import Array

KEYS = ("base", "teach", "adapt", "compress", "order", "seed")
UNTAUGHT = "untaught"
CONTROLS = ("placebo", "sham", "erased")
NOT_FINITE = "not finite"  # the one problem of an item that is the model's, not the tokenizer's


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
    left_out: dict[str, dict[str, int]] = field(default_factory=dict)

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

    Items with a ``problem`` of tokenisation (too long, no tokens …) in any cell of a base are left out of all its cells, and
    counted. Args: parity: multiply each model's records by the sign of its mean, so that cell means become distances from
        parity and overshoot into the reverse bias counts as bias. Near parity the sign is a guess: a distance is
        then biased upwards by noise, which makes a taught effect look smaller, never larger.
    Raises: InputError naming cell and item if a value is not finite, an item occurs twice in a cell, or two cells
        of one base hold different items.
    """
    rows = select(records, condition=condition, benchmark=benchmark)
    if outcome not in rows.columns:
        raise InputError(f"the records lack the outcome {outcome!r}", where="records", fix="name an existing column")
    rows, left_out = without_problem_items(rows)
    values = rows[outcome].to_numpy(dtype=float, na_value=np.nan)
    gathering = Gathering(outcome, condition, parity)
    text = ("base", "teach", "adapt", "compress", "order", "cluster", "item_id")
    frame = {k: rows[k].astype(str).to_numpy() for k in text}
    seeds = rows["seed"].to_numpy(dtype=int)
    for index in rows.reset_index(drop=True).groupby(list(KEYS), sort=True).indices.values():
        i = index[0]
        cell = Cell(frame["teach"][i], frame["adapt"][i], frame["compress"][i], frame["order"][i])
        layout = Layout.of(frame["item_id"][index], frame["cluster"][index])
        gathering.add(cell, frame["base"][i], int(seeds[i]), layout, values[index])
    return gathering.means(left_out)


def without_problem_items(records: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, dict[str, int]]]:
    """Records without the items that some cell of their base could not score, and how many items, by base and problem.

    "not finite" is a broken model and no reason to leave an item out: it stays, and is refused where it is averaged.
    """
    if "problem" not in records.columns:
        return records, {}
    problem = records["problem"].fillna("").astype(str).to_numpy()
    bad = (problem != "") & (problem != NOT_FINITE)
    if not bad.any():
        return records, {}
    import pandas as pd

    names = [name for name in ("base", "benchmark", "condition", "item_id") if name in records.columns]
    keys = pd.MultiIndex.from_frame(records[names].astype(str))
    counts: dict[str, dict[str, int]] = {}
    gone = records.loc[bad, names].astype(str).assign(problem=problem[bad]).drop_duplicates(names)
    for base, what in zip(gone["base"] if "base" in names else [""] * len(gone), gone["problem"], strict=True):
        of_base = counts.setdefault(str(base), {})
        of_base[what] = of_base.get(what, 0) + 1
    return records[~keys.isin(keys[bad])], counts


@dataclass(frozen=True, eq=False)
class Layout:
    """The items of one cell in the order of their names, and their clusters. ``order``: where each stands in the records."""

    items: NDArray[Any]
    clusters: NDArray[Any]  # of each item
    order: NDArray[np.intp]
    names: tuple[str, ...]  # of the clusters, sorted
    slots: NDArray[np.intp]  # the cluster of each item, as a place in ``names``
    sizes: Array

    @classmethod
    def of(cls, items: NDArray[Any], clusters: NDArray[Any]) -> Layout:
        order = np.argsort(items, kind="stable")
        names, slots, sizes = np.unique(clusters[order].astype(str), return_inverse=True, return_counts=True)
        return cls(items[order], clusters[order], order, tuple(names.tolist()), slots, sizes.astype(float))

    def same_as(self, other: Layout) -> bool:
        return self is other or (
            len(self.items) == len(other.items)
            and bool((self.items == other.items).all() and (self.clusters == other.clusters).all())
        )


class Gathering:
    """Cell means, built from one model's records at a time: the one place that checks pairing, for frames and for files."""

    def __init__(self, outcome: str, condition: str, parity: bool) -> None:
        self.outcome, self.condition, self.parity = outcome, condition, parity
        self._layouts: dict[str, tuple[str, Layout]] = {}
        self._means: dict[Cell, dict[tuple[str, int], Array]] = {}

    @property
    def empty(self) -> bool:
        return not self._means

    def add(self, cell: Cell, base: str, seed: int, layout: Layout, values: Array) -> None:
        """Args: values: in the order of the records; ``layout`` says which item each is."""
        label = f"{cell}, seed {seed}, base {base}"
        finite = np.isfinite(values)
        if not finite.all():
            first = layout.items[np.flatnonzero(layout.order == np.flatnonzero(~finite)[0])[0]]
            raise InputError(
                f"{self.outcome} is not finite in {int((~finite).sum())} of {len(values)} records of condition "
                f"{self.condition!r}", where=f"cell {label}, item {first}",
                fix="score the cell again; a model with non-finite weights must not be averaged",
            )  # fmt: skip
        label_there, reference = self._layouts.setdefault(base, (label, layout))
        if layout is not reference or label == label_there:
            twice = np.flatnonzero(layout.items[1:] == layout.items[:-1])
            if len(twice):
                raise InputError(
                    "an item stands twice in one cell", where=f"cell {label}, item {layout.items[twice[0]]}",
                    fix="pass each cell's records once",
                )  # fmt: skip
        if not layout.same_as(reference):
            here, there = (set(zip(x.items, x.clusters, strict=True)) for x in (layout, reference))
            raise InputError(
                f"two cells hold different items (or clusters) of condition {self.condition!r}",
                where=f"cell {label} against cell {label_there}, item {sorted(here ^ there)[0][0]}",
                fix="score every cell on the same items: D0 and R are paired",
            )  # fmt: skip
        y = values[layout.order]
        if self.parity:
            y = y * np.sign(y.mean())
        if cell.teach == UNTAUGHT:
            cell = untaught(cell.compress)
        seen = self._means.setdefault(cell, {})
        if (base, seed) in seen:
            twice_fix = (
                ("two untaught cells differ only in adapt or order", "score the untaught policy once per compression")
                if cell.teach == UNTAUGHT
                else ("one cell stands in several files", "pass each cell's records once")
            )
            raise InputError(twice_fix[0], where=f"cell {cell}, base {base}", fix=twice_fix[1])
        seen[base, seed] = np.bincount(layout.slots, weights=y, minlength=len(layout.sizes)) / layout.sizes

    def means(self, left_out: dict[str, dict[str, int]]) -> CellMeans:
        layouts = {base: layout for base, (_, layout) in sorted(self._layouts.items())}
        if not layouts:
            raise InputError(
                f"no item of condition {self.condition!r} is left that every cell could score",
                where=f"problems: {left_out}",
                fix="use a shorter prompt or another tokenizer, or leave this benchmark out",
            )  # fmt: skip
        first = next(iter(layouts.values()))
        return CellMeans(
            self.outcome, self.condition, self._means, {base: layout.sizes for base, layout in layouts.items()},
            {base: layout.names for base, layout in layouts.items()},
            all(layout.same_as(first) for layout in layouts.values()), self.parity, left_out,
        )  # fmt: skip


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

