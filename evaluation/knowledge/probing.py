"""Can a linear probe read a person's group off the hidden states, for names that it has never seen?

A probe that is tested on names of its training set may have learned the names by heart. So folds are made of *names*; and
a control task (Hewitt & Liang 2019, arXiv:1909.03368) gives every name a random label. Two splits are shown:

- by name: no name of a test fold is in its training fold. The control is at chance by construction, unless something
  leaks: that is what it checks here. Selectivity = accuracy − control accuracy.
- by template: the names are seen, the contexts are new. This is Hewitt & Liang's own setting: the control says how much
  of the accuracy plain memory could give.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from teachfair.errors import InputError
from teachfair.evaluation.statistics.front import share_mean
from teachfair.evaluation.statistics.interval import Interval, Resampler, crossed, mean_interval

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from teachfair.evaluation.knowledge.hidden_states import GroupText

    Array = NDArray[np.float64]

RESAMPLES = 2000
PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)  # inverse strength C of the L2 penalty, on standardised features


@dataclass(frozen=True)
class LayerProbe:
    """One site. ``accuracy``, ``control``, ``selectivity``: split by name; ``seen_*``: split by template.

    Intervals are over names (each name's mean counts once as a cluster).
    """

    site: int
    accuracy: Interval
    control: Interval
    selectivity: Interval
    seen_accuracy: Interval
    seen_control: Interval


@dataclass(frozen=True)
class Decodability:
    """All sites, and the best one chosen without peeking: in each fold by the training names alone (``nested``).

    ``correct``: word → share of its texts that the nested probe got right, so that two models can be paired by word.
    """

    axis: str
    chance: float
    n_words: int
    n_texts: int
    layers: tuple[LayerProbe, ...]
    nested: Interval
    nested_selectivity: Interval
    correct: dict[str, float]

    @property
    def decodable(self) -> bool:
        """The nested accuracy's interval lies above chance, and the selectivity's above 0."""
        return self.nested.low > self.chance and self.nested_selectivity.low > 0

    def as_dict(self) -> dict[str, Any]:
        return {
            "axis": self.axis, "chance": self.chance, "n_words": self.n_words, "n_texts": self.n_texts,
            "nested_accuracy": self.nested.as_dict(), "nested_selectivity": self.nested_selectivity.as_dict(),
            "decodable": self.decodable,
            "layers": [
                {"site": layer.site} | {
                    name: getattr(layer, name).as_dict()
                    for name in ("accuracy", "control", "selectivity", "seen_accuracy", "seen_control")
                }
                for layer in self.layers
            ],
        }  # fmt: skip


def decodability(
    states: NDArray[Any],
    texts: Sequence[GroupText],
    axis: str,
    *,
    folds: int = 5,
    controls: int = 5,
    seed: int = 0,
    penalties: Sequence[float] = PENALTIES,
) -> Decodability:
    """Probe each site of ``states`` (n_texts, n_sites, width) for the texts' group on ``axis``.

    The probe: logistic regression on features standardised by the training fold, its penalty chosen within the training
    fold by names again. A control is fitted with the penalty of the true task in that fold (the same probe) and averaged
    over ``controls`` random labellings with the true class counts.
    Raises: InputError for one group only, or a group with fewer words than folds.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    labels = np.array([text.groups[axis] for text in texts])
    clusters = [text.word for text in texts]
    names = np.array(clusters)
    templates = np.array([text.template for text in texts])
    words, first = np.unique(names, return_index=True)
    of_word = labels[first]
    classes, sizes = np.unique(of_word, return_counts=True)
    if len(classes) < 2 or sizes.min() < 2 * folds:
        raise InputError(
            f"axis {axis!r}: words per group {dict(zip(classes.tolist(), sizes.tolist(), strict=True))}",
            where="decodability", fix=f"give at least two groups with {2 * folds} words each, or fewer folds",
        )  # fmt: skip
    rng = np.random.default_rng(seed)
    word_place = {word: i for i, word in enumerate(words.tolist())}
    place = np.array([word_place[name] for name in names.tolist()])
    random_labels = [rng.permutation(of_word)[place] for _ in range(controls)]
    by_name = list(StratifiedGroupKFold(folds, shuffle=True, random_state=seed).split(names, labels, names))
    by_template = _by_template(templates, folds)
    n_sites = states.shape[1]
    right = np.zeros((n_sites, len(texts)))
    control, seen, seen_control = np.zeros_like(right), np.zeros_like(right), np.zeros_like(right)
    inner_scores = np.zeros((n_sites, folds))
    for site in range(n_sites):
        x = states[:, site].astype(np.float64)
        chosen = []
        for fold, (train, test) in enumerate(by_name):
            inner = list(
                StratifiedGroupKFold(3, shuffle=True, random_state=seed).split(train, labels[train], names[train])
            )
            scores = [
                np.mean([
                    (_predict(x[train[a]], labels[train[a]], x[train[b]], c) == labels[train[b]]).mean() for a, b in inner
                ])
                for c in penalties
            ]  # fmt: skip
            best = int(np.argmax(scores))  # the strongest penalty among equals
            inner_scores[site, fold] = scores[best]
            chosen.append(penalties[best])
            right[site, test] = _predict(x[train], labels[train], x[test], penalties[best]) == labels[test]
            for drawn in random_labels:
                control[site, test] += (_predict(x[train], drawn[train], x[test], penalties[best]) == drawn[test]) / controls
        middle = float(np.median(chosen))
        for train, test in by_template:
            seen[site, test] = _predict(x[train], labels[train], x[test], middle) == labels[test]
            for drawn in random_labels:
                seen_control[site, test] += (_predict(x[train], drawn[train], x[test], middle) == drawn[test]) / controls
    layers = tuple(
        LayerProbe(
            site, share_mean(right[site].tolist(), clusters), share_mean(control[site].tolist(), clusters),
            clustered(right[site] - control[site], clusters),
            *(
                share_mean(found[site].tolist(), clusters) if by_template
                else Interval(float("nan"), reason="one template only")
                for found in (seen, seen_control)
            ),
        )
        for site in range(n_sites)
    )  # fmt: skip
    nested, nested_control = np.zeros(len(texts)), np.zeros(len(texts))
    for fold, (_, test) in enumerate(by_name):
        best = int(np.argmax(inner_scores[:, fold]))
        nested[test], nested_control[test] = right[best, test], control[best, test]
    return Decodability(
        axis, float(sizes.max() / sizes.sum()), len(words), len(texts), layers, share_mean(nested.tolist(), clusters),
        clustered(nested - nested_control, clusters),
        {word: float(nested[names == word].mean()) for word in words.tolist()},
    )  # fmt: skip


def _by_template(templates: NDArray[Any], folds: int) -> list[tuple[NDArray[Any], NDArray[Any]]]:
    from sklearn.model_selection import GroupKFold

    n = len(np.unique(templates))
    return list(GroupKFold(min(n, folds)).split(templates, groups=templates)) if n > 1 else []


def clustered(values: Sequence[float] | Array, clusters: Sequence[str]) -> Interval:
    """Mean of paired differences over items, 95 % over item clusters. (``cluster_mean`` reads an all-zero column as a
    share and gives it Wilson's one-sided bounds; of a difference 0 everywhere is just 0.)
    """
    numbers = np.asarray(values, dtype=float)
    if len(numbers) == 0:
        return Interval(float("nan"), reason="no items")
    names, slots = np.unique(np.asarray(clusters, dtype=str), return_inverse=True)
    sizes = np.bincount(slots).astype(float)
    means = np.bincount(slots, weights=numbers) / sizes
    (mean,) = crossed(means[None, None, :], sizes, None, tuple(names.tolist()), Resampler(0, RESAMPLES))
    return mean_interval(mean, 0.95)


def _predict(x: Array, labels: NDArray[Any], new: Array, penalty: float) -> NDArray[Any]:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    if len(np.unique(labels)) == 1:
        return np.full(len(new), labels[0])
    scaler = StandardScaler().fit(x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # separable: the direction has settled long before
        probe = LogisticRegression(C=penalty, max_iter=200, tol=1e-3).fit(scaler.transform(x), labels)
    return np.asarray(probe.predict(scaler.transform(new)))
