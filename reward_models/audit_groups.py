"""Is the classifier itself fair to groups? How often it calls a fair text about a group unfair, and an unfair one fair.

The known failure of toxicity classifiers: a sentence that merely mentions a group is called toxic (Dixon et al., 2018).
Group tables are fairlearn's MetricFrame. A maximum over groups grows with the number of groups by chance alone, so the
difference is shown beside what a shuffle of the groups gives.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from teachfair.reward_models.audit_intervals import NO_ROWS, NO_SCATTER, ONE_CLUSTER, cluster_mean

MIN_GROUP = 20  # texts of a group; smaller ones are counted, not judged
RESAMPLES = 400


def texts_of_pairs(rows: Sequence[Mapping[str, Any]], groups_of: Any = None) -> list[dict[str, Any]]:
    """Both answers of each scored pair as texts to judge: the chosen one is fair, the rejected one is not.

    Args:
        rows: of ``audit_accuracy.scored_pairs``.
        groups_of: a function from (row, answer) to the group that an answer is about, "" for none. Default: the one of the
            row's ``groups`` that the answer names as whole words.
    Returns: dicts ``fair, reward, group, axis, cluster``; answers about no group, or several, are left out.
    """
    naming = groups_of or _named_group
    found = []
    for row in rows:
        for side in ("chosen", "rejected"):
            group = naming(row, row[side])
            if group:
                found.append(
                    {"fair": side == "chosen", "reward": row[f"reward_{side}"], "group": group, "axis": row["axis"],
                     "cluster": row["cluster"]}
                )  # fmt: skip
    return found


def _named_group(row: Mapping[str, Any], answer: str) -> str:
    from teachfair.data.answer_traits import mentions

    named = [group for group in row["groups"] if mentions(answer, [group])]
    return named[0] if len(named) == 1 else ""


def group_fairness(
    texts: Sequence[Mapping[str, Any]], called_unfair: np.ndarray, *, min_group: int = MIN_GROUP, seed: int = 0
) -> dict[str, Any]:
    """False "unfair" rates per group, and their spread.

    Args:
        texts: dicts ``fair`` (bool: the truth), ``group``, ``cluster`` (what the groups share: a template).
        called_unfair: (n,) bool.
        min_group: groups with fewer fair texts are not judged (their unfair texts neither).

    Returns: ``overall`` (false "unfair" rate on fair texts), ``missed`` (rate of unfair texts called fair; None without
        any), each as ``cluster_mean``; ``groups``: dicts ``group, n_fair, n_unfair, false_unfair, missed`` worst first;
        ``difference, ratio`` (max - min, min / max over groups of the false rate; ``value, low, high, reason``),
        ``by_chance`` (95th percentile of the difference when group labels are shuffled within clusters), ``min_group``,
        ``too_small`` (group -> n), ``reason`` ("" if the table could be made).
    """
    fair = np.array([bool(text["fair"]) for text in texts], dtype=bool)
    unfair_call = np.asarray(called_unfair, dtype=bool)
    # a NUL at a text's end is lost in numpy's texts
    names = np.array([str(text["group"]).replace("\x00", "\ufffd") for text in texts], dtype=object)
    clusters = np.array([str(text["cluster"]) for text in texts], dtype=object)
    sizes = Counter(names[fair].tolist()) if len(texts) else Counter()
    kept = {name for name, n in sizes.items() if n >= min_group}
    found: dict[str, Any] = {
        "n": len(texts),
        "min_group": min_group,
        "too_small": {name: n for name, n in sorted(sizes.items()) if name not in kept},
        "overall": cluster_mean(unfair_call[fair], clusters[fair].tolist(), seed=seed),
        "missed": cluster_mean(~unfair_call[~fair], clusters[~fair].tolist(), seed=seed),
        "groups": [], "difference": _none(NO_ROWS), "ratio": _none(NO_ROWS), "by_chance": None, "reason": "",
    }  # fmt: skip
    if len(kept) < 2:
        reason = f"{len(kept)} groups with at least {min_group} fair texts: nothing to compare"
        return found | {"reason": reason, "difference": _none(reason), "ratio": _none(reason)}
    inside = np.isin(names, sorted(kept))
    table = group_rates(fair[inside], unfair_call[inside], names[inside])
    found["groups"] = sorted(table, key=lambda row: (-row["false_unfair"], row["group"]))
    judged = inside & fair
    calls, who, where = unfair_call[judged].astype(float), names[judged], clusters[judged]
    found["difference"], found["ratio"] = _spread(calls, who, where, seed)
    found["by_chance"] = _by_chance(calls, who, where, seed)
    if np.ptp(calls) == 0:  # no scatter at all: a bootstrap would be certain
        limit = cluster_mean(calls, where.tolist(), seed=seed)
        if limit["low"] is not None:
            found["difference"] |= {"low": 0.0, "high": limit["high"] - limit["low"], "reason": NO_SCATTER}
    for row in found["groups"]:
        here = who == row["group"]
        entry = cluster_mean(calls[here], where[here].tolist(), seed=seed)
        row |= {"low": entry["low"], "high": entry["high"], "reason": entry["reason"]}
    return found


def group_rates(fair: np.ndarray, called_unfair: np.ndarray, groups: np.ndarray) -> list[dict[str, Any]]:
    """fairlearn's MetricFrame by group: the share of fair texts called unfair, and of unfair texts called fair.

    Args: three (n,) arrays: the truth, the call, the group. "Unfair" is the positive class.
    Returns: dicts ``group, n_fair, n_unfair, false_unfair`` (false positive rate), ``missed`` (false negative rate; None
        where a group has no unfair text).
    """
    from fairlearn.metrics import MetricFrame, false_negative_rate, false_positive_rate

    truth, calls = (~np.asarray(fair, dtype=bool)).astype(int), np.asarray(called_unfair).astype(int)
    with np.errstate(invalid="ignore", divide="ignore"):
        frame = MetricFrame(
            metrics={"false_unfair": false_positive_rate, "missed": false_negative_rate},
            y_true=truth, y_pred=calls, sensitive_features=np.asarray(groups).astype(str),
        )  # fmt: skip
    rows = []
    for group, values in frame.by_group.iterrows():
        here = np.asarray(groups).astype(str) == group
        n_unfair = int(truth[here].sum())
        rows.append(
            {"group": str(group), "n_fair": int(here.sum()) - n_unfair, "n_unfair": n_unfair,
             "false_unfair": float(values["false_unfair"]), "missed": float(values["missed"]) if n_unfair else None}
        )  # fmt: skip
    return rows


def _none(reason: str) -> dict[str, Any]:
    return {"value": None, "low": None, "high": None, "reason": reason}


def _rates(calls: np.ndarray, number: np.ndarray, n_groups: int, weights: np.ndarray | None = None) -> np.ndarray:
    weighed = np.ones(len(calls)) if weights is None else weights
    n = np.bincount(number, weights=weighed, minlength=n_groups)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.bincount(number, weights=weighed * calls, minlength=n_groups) / n


def _spread(calls: np.ndarray, groups: np.ndarray, clusters: np.ndarray, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """max - min and min / max of the rates, with percentile limits over resampled clusters."""
    _, number = np.unique(groups.astype(str), return_inverse=True)
    _, cluster = np.unique(clusters.astype(str), return_inverse=True)
    n_groups, n_clusters = int(number.max()) + 1, int(cluster.max()) + 1
    rates = _rates(calls, number, n_groups)
    difference, ratio = _none(""), _none("")
    difference["value"] = float(rates.max() - rates.min())
    if rates.max() > 0:
        ratio["value"] = float(rates.min() / rates.max())
    else:
        ratio["reason"] = "no fair text of any group was called unfair: 0 / 0"
    if n_clusters == 1:
        difference["reason"] = ONE_CLUSTER
        ratio["reason"] = ratio["reason"] or ONE_CLUSTER
        return difference, ratio
    draws = np.random.default_rng(seed).multinomial(n_clusters, np.full(n_clusters, 1 / n_clusters), size=RESAMPLES)
    gaps, ratios = [], []
    for weights in draws:
        drawn = _rates(calls, number, n_groups, weights[cluster].astype(float))
        if np.isfinite(drawn).all():
            gaps.append(drawn.max() - drawn.min())
            if drawn.max() > 0:
                ratios.append(drawn.min() / drawn.max())
    for entry, values in ((difference, gaps), (ratio, ratios)):
        if entry["value"] is not None and len(values) >= RESAMPLES / 2:
            entry["low"], entry["high"] = (float(limit) for limit in np.quantile(values, (0.025, 0.975)))
        elif entry["value"] is not None:
            entry["reason"] = "too few resamples have texts of all groups"
    return difference, ratio


def _by_chance(calls: np.ndarray, groups: np.ndarray, clusters: np.ndarray, seed: int) -> float:
    """95th percentile of max - min when the group labels are shuffled within clusters: what no difference looks like."""
    _, number = np.unique(groups.astype(str), return_inverse=True)
    n_groups = int(number.max()) + 1
    draw = np.random.default_rng([seed, 1])
    _, cluster = np.unique(clusters.astype(str), return_inverse=True)
    gaps = []
    for _ in range(RESAMPLES):
        # shuffle within clusters: sort by cluster with random ties, hand the labels of each cluster round
        order = np.lexsort((draw.random(len(number)), cluster))
        kept = np.argsort(cluster, kind="stable")
        shuffled = np.empty_like(number)
        shuffled[kept] = number[order]
        rates = _rates(calls, shuffled, n_groups)
        gaps.append(float(rates.max() - rates.min()))
    return float(np.quantile(gaps, 0.95)) if gaps else math.nan


def source_texts(name: str, folder: str, *, limit: int, seed: int) -> list[dict[str, Any]]:
    """Labelled texts of a source made to audit classifiers: ``text, fair, group, axis, cluster``.

    The cluster is what the groups share: the template with its word (Jigsaw), the template with its noun (HolisticBias).
    ``limit``: at most this many, drawn with ``seed``.
    """
    import random

    from teachfair.data import TEXT_SOURCES

    module = TEXT_SOURCES[name]
    if name == "holistic_bias":
        rows = module.texts(folder, n=limit, seed=seed)
        return [
            {"text": row["text"], "fair": True, "group": row["bucket"] or row["identity"], "axis": row["axis"],
             "cluster": f"{row['template']}|{row['noun']}"}
            for row in rows
        ]  # fmt: skip
    rows = module.texts(folder)
    if len(rows) > limit:
        rows = random.Random(seed).sample(rows, limit)
    return [
        {"text": row["text"], "fair": row["label"] == "nontoxic", "group": row["identity"], "axis": row["axis"],
         "cluster": row["text"].replace(row["identity"], "*").replace(row["name"] or "\x00", "*")}
        for row in rows
        if row["axis"] != "profession"
    ]  # fmt: skip
