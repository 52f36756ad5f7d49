"""Survival from the cells' parquet files, one after another: studies larger than memory.

Of each file only the columns that are needed are read; what is kept of a cell is its cluster means and the sums of its
guard-rails. Cells of a study hold the same items, mostly in the same order: then the order of the items, their clusters and
conditions are worked out once and recognised in the next file by comparing columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from teachfair.errors import InputError
from teachfair.evaluation.statistics.cells import (
    CONTROLS,
    KEYS,
    NOT_FINITE,
    UNTAUGHT,
    Cell,
    CellMeans,
    Gathering,
    Layout,
    untaught,
)
from teachfair.evaluation.statistics.guards import RAILS, RailSums, check_tolerances
from teachfair.evaluation.statistics.survival import SurvivalRow, check_arguments, is_placebo, survival_of

if TYPE_CHECKING:
    import pyarrow
    import pyarrow.compute
    from numpy.typing import NDArray

_AT_ONCE = 32  # files read ahead; bounds the memory
_THREADS = 2
_ITEM_COLUMNS = ("benchmark", "item_id", "cluster", "condition")


@dataclass
class _Part:
    """The records of one condition in a file's layout: where they stand, and their items and clusters."""

    rows: NDArray[np.intp]
    layout: Layout
    names: tuple[str, ...]
    slots: NDArray[np.intp]  # of the records, in the file's order


@dataclass
class _Scan:
    """What one pass over the files gathers."""

    outcome: str
    condition: str
    benchmark: str | None
    own_condition: str | None
    placebo: str
    main: Gathering
    own: Gathering
    rails: RailSums | None
    guards: tuple[str, ...] = ()  # benchmarks that count as guard-rails in conditions other than ``own_conditions``
    own_conditions: frozenset[str] = frozenset()
    own_problem: str = ""
    left_out: dict[str, dict[tuple[str, str, str], str]] = field(default_factory=dict)  # base -> item -> problem
    _known: list[tuple[pyarrow.Table, str, dict[str, _Part]]] = field(default_factory=list)

    def add(self, table: pyarrow.Table) -> None:
        """Records of one file: of one cell, or of several."""
        keys = [_distinct(table, key) for key in KEYS]
        if all(len(values) == 1 for values in keys):
            self._add_cell([values[0] for values in keys], table)
            return
        frame = table.select(list(KEYS)).to_pandas()
        for key, index in sorted(frame.groupby(list(KEYS), sort=True).indices.items(), key=lambda kv: str(kv[0])):
            self._add_cell(list(key), table.take(index))

    def _add_cell(self, key: Sequence[Any], table: pyarrow.Table) -> None:
        base, teach, adapt, compress, order = (str(x) for x in key[:5])
        seed, cell = int(key[5]), Cell(teach, adapt, compress, order)
        parts = self._parts(table, base)
        if (part := parts.get(self.condition)) is not None:
            self.main.add(cell, base, seed, part.layout, _floats(table, self.outcome)[part.rows])
        if (
            self.own_condition in parts and not self.own_problem
            and (teach == UNTAUGHT or is_placebo(teach, self.placebo))
        ):  # fmt: skip
            part = parts[self.own_condition]
            try:
                self.own.add(cell, base, seed, part.layout, _floats(table, self.outcome)[part.rows])
            except InputError as error:
                self.own_problem = f"the placebo's own outcome is unusable: {error.what} ({error.where})"
        if self.rails is None:
            return
        named = untaught(compress) if teach == UNTAUGHT else cell
        self.rails.cells.add(named)
        for condition, part in parts.items():
            wanted = {name for rail in RAILS if rail.condition == condition for name in rail.columns}
            if wanted:
                names = [name for name in (*wanted, "problem") if name in table.column_names]
                columns = {name: _column(table, name)[part.rows] for name in names}
                self.rails.add(named, condition, part.names, part.slots, columns)

    def _parts(self, table: pyarrow.Table, base: str) -> dict[str, _Part]:
        items = table.select([name for name in _ITEM_COLUMNS if name in table.column_names])
        for known, of_base, parts in self._known:
            if of_base == base and items.equals(known):
                return parts
        found = self._worked_out(items, base)
        self._known = [(items, base, found), *self._known[:7]]
        return found

    def _worked_out(self, items: pyarrow.Table, base: str) -> dict[str, _Part]:
        columns = {name: _column(items, name) for name in items.column_names}
        benchmark = columns.get("benchmark", np.full(len(items), "", dtype=object))
        keep = np.ones(len(items), dtype=bool)
        if self.benchmark is not None and "benchmark" in columns:
            keep = benchmark == self.benchmark
            if self.guards:
                keep |= np.isin(benchmark, self.guards) & np.isin(columns["condition"], self._of_guards())
        gone = self.left_out.get(base, {})
        if gone:
            triples = zip(benchmark, columns["condition"], columns["item_id"], strict=True)
            keep &= np.array([(str(b), str(c), str(i)) not in gone for b, c, i in triples], dtype=bool)
        here = set(benchmark[keep & (columns["condition"] == self.condition)])
        if len(here) > 1:
            raise InputError(
                f"several benchmarks have condition {self.condition!r}: {', '.join(sorted(map(str, here)))}",
                where="records", fix="name one by benchmark=...",
            )  # fmt: skip
        found = {}
        for condition in sorted(set(columns["condition"][keep])):
            rows = np.flatnonzero(keep & (columns["condition"] == condition))
            ids, clusters = (columns[name][rows].astype(str) for name in ("item_id", "cluster"))
            if condition in self._of_guards():  # several may name their items and clusters alike
                ids, clusters = (benchmark[rows].astype(str) + "\x1f" + names for names in (ids, clusters))
            layout = Layout.of(ids, clusters)
            names, slots = np.unique(clusters, return_inverse=True)
            found[str(condition)] = _Part(rows, layout, tuple(names.tolist()), slots)
        return found

    def _of_guards(self) -> list[str]:
        """Conditions of guard-rails that other benchmarks are asked for."""
        theirs = {rail.condition for rail in RAILS} - self.own_conditions - {self.condition, self.own_condition}
        return sorted(theirs) if self.guards else []


def cell_means_from_files(
    paths: Sequence[str | Path], *, outcome: str, condition: str, benchmark: str | None = None, parity: bool = False,
    only: pyarrow.compute.Expression | None = None,
) -> CellMeans:  # fmt: skip
    """:func:`~teachfair.evaluation.statistics.cells.cell_means` of records in parquet files, without ever holding them all.

    Args: paths: files of per-item records with the cells' key columns, one cell a file or several. only: rows to read.
    Raises: InputError as ``cell_means``; also if a file lacks a column, naming it.
    """
    scan = _scanned(paths, outcome, condition, benchmark, parity, None, "placebo", False, only)
    return scan.main.means(_counted(scan.left_out, condition))


def survival_from_files(
    paths: Sequence[str | Path], *, random_state: int, confidence: float = 0.95, n_resamples: int = 2000,
    outcome: str = "margin_nats", condition: str = "ambiguous", benchmark: str | None = None, guards: Sequence[str] = (),
    parity: bool = False, controls: Sequence[str] = CONTROLS, placebo: str = "placebo", placebo_condition: str = "placebo",
    tolerance: float = 0.02, one_seed: bool = False, only: pyarrow.compute.Expression | None = None,
) -> list[SurvivalRow]:  # fmt: skip
    """:func:`~teachfair.evaluation.statistics.survival` of records in parquet files, in one pass over them; the same
    numbers.

    Memory: 8 bytes per cell and item cluster of each condition that is read, and about 0.15 MB per arm and compression.
    Args: only: rows to read, such as those of the axis that was taught; the others as ``survival``'s.
    """
    check_arguments(confidence, n_resamples)
    check_tolerances(tolerance, None)
    scan = _scanned(paths, outcome, condition, benchmark, parity, placebo_condition, placebo, True, only, tuple(guards))
    assert scan.rails is not None
    own: CellMeans | str = scan.own_problem or f"the records hold no condition {placebo_condition!r}"
    if not scan.own_problem and not scan.own.empty:
        own = scan.own.means(_counted(scan.left_out, placebo_condition))
    return survival_of(
        scan.main.means(_counted(scan.left_out, condition)), scan.rails.rails(tolerance, confidence, {}), own,
        random_state=random_state, confidence=confidence, n_resamples=n_resamples, controls=controls, placebo=placebo,
        one_seed=one_seed,
    )  # fmt: skip


def _scanned(
    paths: Sequence[str | Path], outcome: str, condition: str, benchmark: str | None, parity: bool,
    own_condition: str | None, placebo: str, rails: bool, only: pyarrow.compute.Expression | None,
    guards: tuple[str, ...] = (),
) -> _Scan:  # fmt: skip
    conditions = {condition} | ({own_condition} if own_condition else set())
    conditions |= {rail.condition for rail in RAILS} if rails else set()
    scan = _Scan(
        outcome, condition, benchmark, own_condition, placebo, Gathering(outcome, condition, parity),
        Gathering(outcome, own_condition or "", False), RailSums.empty() if rails else None,
        guards if benchmark is not None else (), _conditions_of(benchmark, paths) if guards else frozenset(),
    )  # fmt: skip
    for path in paths:
        _note_problems(Path(path), scan.left_out)
    wanted = [*KEYS, *_ITEM_COLUMNS, outcome, "problem"]
    wanted += [name for rail in RAILS for name in rail.columns] if rails else []
    for table in _tables(paths, list(dict.fromkeys(wanted)), sorted(conditions), only):
        scan.add(table)
    return scan


def _tables(
    paths: Sequence[str | Path], columns: list[str], conditions: list[str], only: pyarrow.compute.Expression | None
) -> Iterator[pyarrow.Table]:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    condition = pc.field("condition").isin(conditions)
    rows = condition if only is None else condition & only
    needed = [*KEYS, "item_id", "cluster", "condition"]

    def read(path: str | Path) -> pyarrow.Table:
        file = pq.ParquetFile(path)
        there = set(file.schema_arrow.names)
        lacking = [name for name in needed if name not in there]
        if lacking:
            raise InputError(
                f"the records lack the columns {', '.join(lacking)}", where=str(path),
                fix="records of a cell carry the keys " + ", ".join(KEYS) + " beside the item's own columns",
            )  # fmt: skip
        extra = [] if only is None else ["axis", "taught_axis"]
        names = list(dict.fromkeys(name for name in [*columns, *extra] if name in there))
        table: pyarrow.Table = file.read(columns=names, use_threads=False)
        if "problem" in names and pc.all(pc.equal(pc.fill_null(table["problem"], ""), "")).as_py():
            table = table.drop_columns("problem")
        for name in extra:
            if name not in there:  # benchmarks without axes have files of their own
                table = table.append_column(name, pa.nulls(len(table), pa.string()))
        table = table.filter(rows)
        return table.drop_columns([name for name in extra if name not in columns]).combine_chunks()

    with ThreadPoolExecutor(_THREADS) as pool:
        for start in range(0, len(paths), _AT_ONCE):
            yield from pool.map(read, paths[start : start + _AT_ONCE])


def _conditions_of(benchmark: str | None, paths: Sequence[str | Path]) -> frozenset[str]:
    """The conditions that a benchmark has, from the first file that holds it: cells of a study hold the same items."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    for path in paths:
        if "benchmark" in pq.read_schema(path).names:
            table = pq.ParquetFile(path).read(columns=["benchmark", "condition"], use_threads=False)
            found = table.filter(pc.equal(table["benchmark"].cast("string"), benchmark))["condition"]
            if len(found):
                return frozenset(map(str, found.unique().to_pylist()))
    return frozenset()


def _note_problems(path: Path, left_out: dict[str, dict[tuple[str, str, str], str]]) -> None:
    """Adds the items of a file that could not be scored; most files have none, and their footer says so."""
    import pyarrow.parquet as pq

    file = pq.ParquetFile(path)
    names = file.schema_arrow.names
    if "problem" not in names:
        return
    column = names.index("problem")
    groups = [file.metadata.row_group(i).column(column) for i in range(file.metadata.num_row_groups)]
    if all(g.is_stats_set and g.statistics.has_min_max and g.statistics.max == "" for g in groups):
        return
    wanted = [name for name in ("base", "benchmark", "condition", "item_id", "problem") if name in names]
    for row in file.read(columns=wanted, use_threads=False).to_pylist():
        problem = row["problem"] or ""
        if problem and problem != NOT_FINITE:
            item = (str(row.get("benchmark", "")), str(row["condition"]), str(row["item_id"]))
            left_out.setdefault(str(row.get("base", "")), {}).setdefault(item, str(problem))


def _counted(left_out: dict[str, dict[tuple[str, str, str], str]], condition: str) -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, int]] = {}
    for base, items in left_out.items():
        for (_, where, _), problem in items.items():
            if where == condition:
                of_base = counts.setdefault(base, {})
                of_base[problem] = of_base.get(problem, 0) + 1
    return counts


def _distinct(table: pyarrow.Table, name: str) -> list[Any]:
    values: list[Any] = table[name].unique().to_pylist()
    return values


def _column(table: pyarrow.Table, name: str) -> NDArray[Any]:
    column = table[name]
    import pyarrow.types as types

    if types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if types.is_floating(column.type) or types.is_integer(column.type):
        return _floats(table, name)
    values: NDArray[Any] = column.to_numpy(zero_copy_only=False)
    return values


def _floats(table: pyarrow.Table, name: str) -> NDArray[np.float64]:
    if name not in table.column_names:
        raise InputError(f"the records lack the outcome {name!r}", where="records", fix="name an existing column")
    values = table[name].to_numpy(zero_copy_only=False)
    return np.asarray(values, dtype=np.float64)
