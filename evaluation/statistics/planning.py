"""Before a study: what effect can it detect? After: where did the variance come from?"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from teachfair.errors import InputError
from teachfair.evaluation.statistics.cells import UNTAUGHT, cell_means, untaught
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


def variance_ledger(
    records: pd.DataFrame, *, outcome: str = "margin_nats", condition: str = "ambiguous", benchmark: str | None = None
) -> list[dict[str, Any]]:
    """Where the variance of each arm's taught effect comes from: seed, item cluster, residual (their interaction).

    One entry per arm, order and compression, ``none`` included, and base: variances of D = m(untaught, c) - m(T, c)
    per seed and cluster in squared units of the outcome (two-way ANOVA, clusters weighted alike; a negative
    component is 0), and the share that each takes of the variance of the mean. NaN with ``reason`` for one seed or
    one cluster.
    """
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
            ledger.append(entry)
    return ledger
