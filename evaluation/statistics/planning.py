"""Before a study: what effect can it detect? After: where did the variance come from?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from teachfair.errors import InputError
from teachfair.evaluation.statistics.cells import KEYS, UNTAUGHT, Cell, cell_means, untaught
from teachfair.evaluation.statistics.interval import NAN, Interval, half_width

if TYPE_CHECKING:
    import pandas as pd


def detectable_effect(
    *, n_clusters: int, n_seeds: int, sd_cluster: float, sd_seed: float, sd_residual: float = 0.0,
    power: float = 0.8, confidence: float = 0.95, gate_se: float = 3.0,
) -> Interval:  # fmt: skip
    """The smallest true D0 that passes the gate with the given power, in the unit of the standard deviations.

    Args: sd_cluster: of D0 between item clusters (of the untaught margin, if nothing else is known yet); sd_seed:
        between training seeds; sd_residual: of cluster x seed.
    Returns: value = max(half width, 3 SE) + z_power * SE with SE^2 = sd_seed^2/S + sd_cluster^2/K + sd_residual^2/(SK) and
        ``interval.half_width``; ``se`` is that SE. NaN with a reason for one seed or one cluster.
    """
    from scipy.special import ndtri

    if min(n_clusters, n_seeds) < 1 or min(sd_cluster, sd_seed, sd_residual) < 0 or not 0 < power < 1:
        raise InputError(
            "a size below 1, a negative standard deviation or a power outside (0, 1)", where="detectable_effect",
            fix="give the sizes of the planned study",
        )  # fmt: skip
    if n_seeds == 1 or n_clusters == 1:
        return Interval(NAN, reason=f"one {'training seed' if n_seeds == 1 else 'item cluster'}: no standard error")
    residual = sd_residual**2 / (n_seeds * n_clusters)
    levels = (sd_seed**2 / n_seeds + residual, sd_cluster**2 / n_clusters + residual, residual)
    se = math.sqrt(max(levels[0] + levels[1] - levels[2], 0.0))
    threshold = max(half_width(0.5 + confidence / 2, levels, n_seeds, n_clusters), gate_se * se)
    return Interval(threshold + float(ndtri(power)) * se, se=se)


def minimum_detectable(se: float, df: float, *, power: float = 0.8, confidence: float = 0.95) -> float:
    """The smallest true effect that a two-sided t test with this standard error finds with the given power, exactly.

    From the noncentral t distribution: delta * se with P(T(df, delta) > t) = power. NaN where se is.
    """
    from scipy.optimize import brentq
    from scipy.special import nctdtr, stdtrit

    if not 0.5 <= power < 1 or not 0.5 < confidence < 1:
        raise InputError(
            f"power {power}, confidence {confidence}", where="minimum_detectable",
            fix="give shares from one half to below 1",
        )  # fmt: skip
    if not math.isfinite(se) or df < 1:
        return NAN
    critical = float(stdtrit(df, 0.5 + confidence / 2))

    def short(delta: float) -> float:
        # the far tail is left out: below 1e-4 from here on, and scipy gives NaN for it where delta is large
        return float(1 - nctdtr(df, delta, critical)) - power

    high = critical + 1.0
    while short(high) < 0:
        high *= 1.25
    return se * float(brentq(short, 0.0, high))


def power_table(
    records: pd.DataFrame, baseline: pd.DataFrame | None = None, *, outcome: str = "margin_nats",
    conditions: Mapping[str, str] | None = None, sizes: Sequence[int | None] = (100, 500, None), power: float = 0.8,
    confidence: float = 0.95,
) -> list[dict[str, Any]]:  # fmt: skip
    """What each benchmark could detect at each size (``--limit``; None: all of it), from one or two checkpoints' records.

    Args: baseline: another checkpoint on the same items: the effect is then the mean paired difference, and ``mde`` how
        far two checkpoints have to be apart; None: the distance of one checkpoint's mean from 0. conditions: which
        condition a benchmark's outcome is read on; "ambiguous", else "parity", if not given.
    Returns: per benchmark and size ``n_items, n_clusters, sd_cluster, sd_item, se, mde, bias`` (the baseline's mean, or the
        checkpoint's own) and ``verdict``: "too small to see the bias vanish" where mde > |bias|, "too small to see it
        halved" where mde > |bias| / 2, else "large enough to see it halved"; "undefined: …" with the reason.
        se^2 = sd_cluster^2 * sum_k (m_k / n)^2 + sd_item^2 / n with the m_k items that cluster k keeps at that size;
        variance components by the unbalanced one-way analysis of variance (Searle, Casella & McCulloch 1992, section 3.6).
    """
    table: list[dict[str, Any]] = []
    for name, mine in records.groupby("benchmark", sort=True):
        there = set(mine["condition"].astype(str))
        condition = (conditions or {}).get(str(name)) or ("ambiguous" if "ambiguous" in there else "parity")
        rows = mine[mine["condition"].astype(str) == condition]
        rows = rows[np.isfinite(rows[outcome].to_numpy(dtype=float, na_value=np.nan))]
        bias = float(rows[outcome].mean()) if len(rows) else NAN
        values = rows.set_index(rows["item_id"].astype(str))[outcome].astype(float)
        if baseline is not None:
            other = baseline[(baseline["benchmark"] == name) & (baseline["condition"].astype(str) == condition)]
            theirs = other.set_index(other["item_id"].astype(str))[outcome].astype(float)
            bias = float(theirs.mean()) if len(theirs) else NAN
            values = (values - theirs.reindex(values.index)).dropna()
            rows = rows[rows["item_id"].astype(str).isin(values.index)]
        names = question_names(rows).to_numpy()
        of_question = list(dict.fromkeys(names))
        clusters = rows["cluster"].astype(str).to_numpy()
        for size in sizes:
            if size is not None and size >= len(of_question):
                continue  # the whole benchmark stands there already
            kept = of_question if size is None else [of_question[i * len(of_question) // size] for i in range(size)]
            here = clusters[np.isin(names, kept)]
            entry: dict[str, Any] = {
                "benchmark": str(name), "condition": condition, "size": "all" if size is None else size,
                "n_items": len(here), "n_clusters": len(set(here)), "sd_cluster": NAN, "sd_item": NAN, "se": NAN, "mde": NAN,
                "bias": bias, "paired": baseline is not None,
            }  # fmt: skip
            if entry["n_clusters"] < 2 or len(set(clusters)) < 2:
                entry["verdict"] = f"undefined: {'no items' if len(here) == 0 else 'one item cluster'}"
            else:
                between, within = _components(values.to_numpy(), clusters)
                shares = np.unique(here, return_counts=True)[1] / len(here)
                se = math.sqrt(between * float((shares**2).sum()) + within / len(here))
                mde = minimum_detectable(se, entry["n_clusters"] - 1, power=power, confidence=confidence)
                entry |= {"sd_cluster": math.sqrt(between), "sd_item": math.sqrt(within), "se": se, "mde": mde}
                entry["verdict"] = size_verdict(mde, bias)
            table.append(entry)
    return table


def question_names(rows: pd.DataFrame) -> pd.Series:
    """What ``--limit`` counts: each record's ``base_id``, or its ``item_id`` where it has none."""
    names = rows["item_id"]
    if "base_id" in rows.columns:  # of records of several benchmarks, missing where one does not have it
        names = rows["base_id"].fillna(names)
    return names.astype(str)


def size_verdict(mde: float, bias: float) -> str:
    """Whether a benchmark of this size could show what one would want to claim about a bias of this size."""
    if not (math.isfinite(mde) and math.isfinite(bias)):
        return "undefined: no standard error"
    if mde > abs(bias):
        return "too small to see the bias vanish"
    return "too small to see it halved" if mde > abs(bias) / 2 else "large enough to see it halved"


def _components(values: np.ndarray, clusters: np.ndarray) -> tuple[float, float]:
    """(between, within) variance of clusters of unequal sizes. With one item a cluster all of it is between."""
    _, slots, sizes = np.unique(clusters, return_inverse=True, return_counts=True)
    n, k = len(values), len(sizes)
    means = np.bincount(slots, weights=values) / sizes
    if n == k:
        return float(values.var(ddof=1)), 0.0
    within = float(((values - means[slots]) ** 2).sum() / (n - k))
    mean_square = float((sizes * (means - values.mean()) ** 2).sum() / (k - 1))
    typical = (n - float((sizes**2).sum()) / n) / (k - 1)
    return max((mean_square - within) / typical, 0.0), within


def variance_ledger(
    records: pd.DataFrame, *, outcome: str = "margin_nats", condition: str = "ambiguous", benchmark: str | None = None
) -> list[dict[str, Any]]:
    """Where the variance of each arm's taught effect comes from: seed, item cluster, residual (their interaction).

    One entry per arm, order and compression, ``none`` included, and base: variances of D = m(untaught, c) - m(T, c)
    per seed and cluster in squared units of the outcome (two-way ANOVA, clusters weighted alike; a negative
    component is 0), and the share that each takes of the variance of the mean. NaN with ``reason`` for one seed or
    one cluster. Beside them ``format`` and ``calibration``, the components between prompt formats and between calibration
    seeds (columns ``format`` and ``calibration_seed``), crossed with the clusters that have every level; NaN where there
    is one level, with "not estimable: …" in ``not_estimable`` by level's name. They are parts of how the cells were
    measured, not of the items and seeds that the interval resamples: averaging over more of them lowers them.
    """
    levels = {"format": "format", "calibration": "calibration_seed"}
    all_records = records
    if "calibration_seed" in records.columns and records["calibration_seed"].nunique() > 1:
        others = [c for c in (*KEYS, "benchmark", "item_id", "cluster", "condition", "format") if c in records.columns]
        records = records.groupby(others, as_index=False, dropna=False)[outcome].mean()
    means = cell_means(records, outcome=outcome, condition=condition, benchmark=benchmark)
    ledger: list[dict[str, Any]] = []
    for cell in sorted(means.means):
        if cell.teach == UNTAUGHT or untaught(cell.compress) not in means.means:
            continue
        for base in sorted({b for b, _ in means.means[cell]}):
            plain = [m for (b, _), m in means.means[untaught(cell.compress)].items() if b == base]
            if not plain:
                continue
            taught = np.stack([m for (b, _), m in sorted(means.means[cell].items()) if b == base])
            d_SK = np.mean(plain, axis=0) - taught
            n_seeds, n_clusters = d_SK.shape
            entry: dict[str, Any] = {
                **cell._asdict(), "base": base, "n_seeds": n_seeds, "n_clusters": n_clusters,
                "effect": float(d_SK.mean()), "seed": NAN, "cluster": NAN, "residual": NAN, "reason": "",
            }  # fmt: skip
            if n_seeds == 1 or n_clusters == 1:
                entry["reason"] = f"one {'training seed' if n_seeds == 1 else 'item cluster'}"
            else:
                rows, columns = d_SK.mean(axis=1, keepdims=True), d_SK.mean(axis=0, keepdims=True)
                residual = float(((d_SK - rows - columns + d_SK.mean()) ** 2).sum() / ((n_seeds - 1) * (n_clusters - 1)))
                entry["seed"] = max(float(rows.var(ddof=1)) - residual / n_clusters, 0.0)
                entry["cluster"] = max(float(columns.var(ddof=1)) - residual / n_seeds, 0.0)
                entry["residual"] = residual
                parts = {
                    "seed": entry["seed"] / n_seeds, "cluster": entry["cluster"] / n_clusters,
                    "residual": residual / (n_seeds * n_clusters),
                }  # fmt: skip
                total = sum(parts.values())
                entry |= {f"share_{k}": v / total if total > 0 else NAN for k, v in parts.items()}
            entry["not_estimable"] = {}
            for level, column in levels.items():
                entry[level], why = _between(all_records, cell, base, column, outcome, condition, benchmark)
                if why:
                    entry["not_estimable"][level] = f"not estimable: {why}"
            ledger.append(entry)
    return ledger


def _between(
    records: pd.DataFrame, cell: Cell, base: str, column: str, outcome: str, condition: str, benchmark: str | None
) -> tuple[float, str]:
    """The variance component of D between the levels of ``column``, or NaN and why there is none."""
    name = column.replace("_", " ")
    if column not in records.columns:
        return NAN, f"one {name}"
    rows = records[(records["condition"] == condition) & (records["base"].astype(str) == base)]
    if benchmark is not None and "benchmark" in rows.columns:
        rows = rows[rows["benchmark"] == benchmark]
    taught = rows[[tuple(map(str, key)) == tuple(cell) for key in rows[list(cell._fields)].itertuples(index=False)]]
    plain = rows[(rows["teach"] == UNTAUGHT) & (rows["compress"].astype(str) == cell.compress)]
    if taught[column].nunique() < 2:
        return NAN, f"one {name}"
    here, there = (part.groupby([column, "cluster"])[outcome].mean().unstack() for part in (taught, plain))
    if set(there.index) != set(here.index):
        return NAN, f"the untaught policy has other levels of {name}"
    difference = (there - here).dropna(axis=1)
    if difference.shape[1] < 2:
        return NAN, f"fewer than two item clusters have every {name}"
    d_LK = difference.to_numpy(dtype=float)
    n_levels, n_clusters = d_LK.shape
    rows_L, columns_K = d_LK.mean(axis=1, keepdims=True), d_LK.mean(axis=0, keepdims=True)
    residual = float(((d_LK - rows_L - columns_K + d_LK.mean()) ** 2).sum() / ((n_levels - 1) * (n_clusters - 1)))
    return max(float(rows_L.var(ddof=1)) - residual / n_clusters, 0.0), ""
