"""Re-analyse a large study from its per-item records: time and memory.

    python benchmarks/statistics_scale.py                      # 10,000 cells x 5,000 items; goal: 5 minutes, 8 GiB, 2 cores
    python benchmarks/statistics_scale.py --cells 500          # the same, smaller

Writes one parquet file a cell (50 M rows in all, about 1.5 GB), as `teachfair survival` leaves them, then reads them with
``survival_from_files``, which is what a study does. Generation is not counted. Files are kept with --folder, and reused.
"""

from __future__ import annotations

import argparse
import math
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

SEEDS, CONDITIONS = 5, ("ambiguous", "disambiguated", "definitional", "decision", "neutral")
SHARES = (0.4, 0.3, 0.1, 0.1, 0.1)


def plan(n_cells: int) -> list[tuple[str, str, str, int]]:
    """(teach, adapt, compress, seed): arms x compressions x five seeds, and an untaught cell per compression."""
    compressions = ["none", *(f"c{i:03}" for i in range(99))]
    cells = [("untaught", "none", compress, -1) for compress in compressions]
    n_arms = math.ceil((n_cells - len(cells)) / (SEEDS * len(compressions)))
    for arm in range(max(n_arms, 1)):
        cells += [(f"dpo{arm:03}", "lora", compress, seed) for compress in compressions for seed in range(SEEDS)]
    return cells[:n_cells] if n_cells >= len(cells) else _whole(cells, n_cells)


def _whole(cells: list[tuple[str, str, str, int]], n_cells: int) -> list[tuple[str, str, str, int]]:
    """A prefix in which every arm has its reference: untaught cells, then whole compressions."""
    return cells[: 100 + (n_cells - 100) // SEEDS * SEEDS]


def write_cells(folder: Path, n_cells: int, n_items: int) -> list[Path]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    counts = [round(share * n_items) for share in SHARES]
    counts[0] += n_items - sum(counts)
    condition = np.repeat(CONDITIONS, counts)
    number = np.concatenate([np.arange(n) for n in counts])
    items = {
        "benchmark": pa.array(["big"] * n_items).dictionary_encode(),
        "item_id": pa.array([f"{c}-{i}" for c, i in zip(condition, number, strict=True)]),
        "cluster": pa.array([f"{c}-{i // 4}" for c, i in zip(condition, number, strict=True)]).dictionary_encode(),
        "condition": pa.array(condition).dictionary_encode(),
        "problem": pa.array([""] * n_items).dictionary_encode(),
    }
    level = np.random.default_rng(0).normal(2, 1, n_items)
    paths = []
    for i, (teach, adapt, compress, seed) in enumerate(plan(n_cells)):
        path = folder / f"{i:05}.parquet"
        paths.append(path)
        if path.exists():
            continue
        rng = np.random.default_rng([1, i])
        margin = level + rng.normal(0, 0.3, n_items) - (0 if teach == "untaught" else 1.5 + rng.normal(0, 0.1))
        margin[condition != "ambiguous"] = np.nan
        right = (rng.random(n_items) < 0.95).astype(float)
        right[condition == "ambiguous"] = np.nan
        role = np.where(condition == "ambiguous", np.where(margin > 0, "stereotype", "unknown"), "evidence")
        role[(condition == "disambiguated") & (right == 0)] = "unknown"
        keys = {"base": "b", "teach": teach, "adapt": adapt, "compress": compress, "order": "align-then-compress"}
        columns = items | {
            "margin_nats": pa.array(margin.astype(np.float32)), "correct": pa.array(right.astype(np.float32)),
            "chosen_role": pa.array(role).dictionary_encode(),
        }  # fmt: skip
        columns |= {name: pa.array([value] * n_items).dictionary_encode() for name, value in keys.items()}
        columns["seed"] = pa.array(np.full(n_items, seed))
        aside = path.with_suffix(".aside")
        pq.write_table(pa.table(columns), aside, compression="zstd")
        aside.rename(path)
    return paths


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=10_000)
    parser.add_argument("--items", type=int, default=5_000)
    parser.add_argument("--folder", type=Path, default=None, help="keep the files here, and reuse them")
    parser.add_argument("--resamples", type=int, default=2000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        begun = time.perf_counter()
        paths = write_cells(folder, arguments.cells, arguments.items)
        size = sum(path.stat().st_size for path in paths) / 2**30
        rows = len(paths) * arguments.items
        wall = time.perf_counter() - begun
        print(f"{len(paths)} files, {rows:,} rows, {size:.2f} GiB, written in {wall:.0f} s", flush=True)

        from teachfair.evaluation.statistics import survival_from_files

        before = _peak_gib()
        begun = time.perf_counter()
        found = survival_from_files(paths, random_state=0, n_resamples=arguments.resamples)
        wall = time.perf_counter() - begun
        survives = sum(row.verdict == "survives" for row in found)
        print(f"{len(found)} rows of R ({survives} survive), each with {len(found[0].guard_rails)} guard-rails, "
              f"{arguments.resamples} resamples")  # fmt: skip
        print(f"re-analysed in {wall:.1f} s; peak memory {_peak_gib():.2f} GiB ({before:.2f} before)")


def _peak_gib() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**30 if sys.platform == "darwin" else 2**20)


if __name__ == "__main__":
    main()
