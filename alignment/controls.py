"""Controls: what the same trainer does when the lesson is not fairness.

``placebo`` teaches a fairness-neutral preference with the same trainer, number of pairs and steps; compared with it,
R* says whether fairness is more fragile under compression than any equally taught preference. ``sham`` shuffles which
side is fair; whatever it moves is not a lesson.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from teachfair.errors import ConfigError

if TYPE_CHECKING:
    from datasets import Dataset


def placebo(pairs: Dataset, *, seed: int, neutral_pairs: Dataset | None = None) -> Dataset:
    """As many fairness-neutral pairs as there are taught ones.

    Args:
        pairs: the taught pairs; only their number is used.
        neutral_pairs: pairs whose preference has nothing to do with groups; at least as many.
    Raises: ConfigError if there are none, or too few.
    """
    if neutral_pairs is None or len(neutral_pairs) < len(pairs):
        found = 0 if neutral_pairs is None else len(neutral_pairs)
        raise ConfigError(
            f"the placebo needs {len(pairs)} fairness-neutral pairs, found {found}", where="placebo arm",
            fix="give a fairness-neutral preference set of that size as placebo_dataset_name",
        )  # fmt: skip
    chosen = np.random.default_rng(seed).permutation(len(neutral_pairs))[: len(pairs)]
    return neutral_pairs.select(np.sort(chosen).tolist())


def sham(pairs: Dataset, *, seed: int, neutral_pairs: Dataset | None = None) -> Dataset:
    """The same pairs with exactly half of them (rounded down) turned around at random: labels without information."""
    turned = np.zeros(len(pairs), dtype=bool)
    turned[: len(pairs) // 2] = True
    turned = np.random.default_rng(seed).permutation(turned)
    chosen, rejected = list(pairs["chosen"]), list(pairs["rejected"])
    sides = [(r, c) if t else (c, r) for c, r, t in zip(chosen, rejected, turned, strict=True)]
    features = pairs.features
    shuffled = pairs.remove_columns(["chosen", "rejected"])
    shuffled = shuffled.add_column("chosen", [side[0] for side in sides])
    return shuffled.add_column("rejected", [side[1] for side in sides]).select_columns(list(features)).cast(features)
