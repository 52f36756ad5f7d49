"""A linear model with a random intercept per cluster, by restricted maximum likelihood; numpy and scipy only.

For y = Xβ + b_g + ε with b_g ~ N(0, ψσ²) and ε ~ N(0, σ²) the covariance of a cluster of n rows is σ²(I + ψ11ᵀ), whose
inverse and determinant are known: I − ψ/(1 + nψ) 11ᵀ, and 1 + nψ. β and σ² have closed forms given ψ, so the restricted
likelihood is a function of one number. (Laird and Ware 1982, Biometrics; Lindstrom and Bates 1988, JASA.) Clusters may be of
any sizes. A test compares with statsmodels' ``MixedLM``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from teachfair.errors import InputError

_LARGEST_RATIO = 1e6


@dataclass(frozen=True)
class MixedFit:
    """``coefficients`` and ``standard_errors``: one a column, in y's unit; ``sd_cluster`` and ``sd_residual``."""

    coefficients: np.ndarray
    standard_errors: np.ndarray
    sd_cluster: float
    sd_residual: float
    n: int
    n_clusters: int

    def interval(self, column: int, level: float = 0.95) -> tuple[float, float]:
        """Wald's interval with t quantiles on (clusters − 1) degrees of freedom: few clusters widen it."""
        from scipy.stats import t

        half = float(t.ppf(0.5 + level / 2, max(self.n_clusters - 1, 1))) * float(self.standard_errors[column])
        return float(self.coefficients[column]) - half, float(self.coefficients[column]) + half


def random_intercept(y: Sequence[float] | np.ndarray, design: np.ndarray, clusters: Sequence[Any]) -> MixedFit:
    """Fit y = design · β + intercept of the cluster + noise by REML.

    Args: y: (n,); design: (n, p), the intercept's column included; clusters: (n,) labels.
    Raises: InputError if sizes differ, a value is not finite, there are fewer than two clusters or no more rows than
        columns, or the columns are not independent (a level that always comes with another).
    """
    from scipy.optimize import minimize_scalar

    y, design = np.asarray(y, dtype=float), np.asarray(design, dtype=float)
    _, index = np.unique(np.asarray([str(name) for name in clusters]), return_inverse=True)
    if design.ndim != 2 or len(y) != len(design) or len(y) != len(index):
        raise InputError("y, design and clusters differ in length", where="random_intercept", fix="pass one row each")
    n, p = design.shape
    if not (np.isfinite(y).all() and np.isfinite(design).all()):
        raise InputError("a value is not finite", where="random_intercept", fix="leave unscored records out")
    sizes = np.bincount(index).astype(float) if n else np.zeros(0)
    if len(sizes) < 2 or n <= p:
        raise InputError(
            f"{n} rows in {len(sizes)} clusters for {p} coefficients", where="random_intercept",
            fix="score more decisions; two clusters and more rows than coefficients are the least",
        )  # fmt: skip
    if np.linalg.matrix_rank(design) < p:
        raise InputError(
            "the columns of the design are not independent", where="random_intercept",
            fix="two groups always occur together: leave one out",
        )  # fmt: skip
    sums = np.zeros((len(sizes), p + 1))
    both = np.column_stack([design, y])
    np.add.at(sums, index, both)
    products = both.T @ both

    def fitted(ratio: float) -> tuple[float, np.ndarray, np.ndarray, float]:
        shrink = ratio / (1 + sizes * ratio)
        weighted = products - sums.T @ (sums * shrink[:, None])
        information, target = weighted[:p, :p], weighted[:p, p]
        beta = np.linalg.solve(information, target)
        variance = max(float(weighted[p, p] - target @ beta), 1e-300) / (n - p)
        deviance = (
            (n - p) * math.log(variance) + float(np.log1p(sizes * ratio).sum()) + float(np.linalg.slogdet(information)[1])
        )
        return deviance, beta, information, variance

    # One basin is not promised: a coarse look over 18 decades first, then the best neighbourhood.
    grid = np.linspace(-12 * math.log(10), math.log(_LARGEST_RATIO), 73)
    best = int(np.argmin([fitted(math.exp(value))[0] for value in grid]))
    low, high = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    found = minimize_scalar(
        lambda value: fitted(math.exp(value))[0], bounds=(low, high), method="bounded", options={"xatol": 1e-10}
    )
    ratio = math.exp(float(found.x))
    if fitted(0.0)[0] <= fitted(ratio)[0]:
        ratio = 0.0
    _, beta, information, variance = fitted(ratio)
    errors = np.sqrt(variance * np.diag(np.linalg.inv(information)))
    return MixedFit(beta, errors, math.sqrt(ratio * variance), math.sqrt(variance), n, len(sizes))
