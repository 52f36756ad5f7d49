"""Accuracy of a reward model on held-out pairs: per axis, kind, source and language, beside rulers that read nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from teachfair.reward_models.audit_intervals import cluster_mean

COLUMNS = ("kind", "axis", "source", "lang")
NOT_NAMED = "not named"
HARDEST = 5  # of each kind


def scored_pairs(
    pairs: Sequence[Mapping[str, Any]], reward_chosen: np.ndarray, reward_rejected: np.ndarray
) -> list[dict[str, Any]]:
    """Preference pairs with the reward of each side, as plain rows: what every table of the audit is made of.

    Returns: dicts ``id, kind, axis, source, lang, cluster, groups`` (text), ``prompt, chosen, rejected`` (text),
        ``reward_chosen, reward_rejected, margin`` (logits), ``win`` (1 right, 0 wrong, .5 tie).
    """
    rows = []
    for number, (pair, better, worse) in enumerate(zip(pairs, reward_chosen, reward_rejected, strict=True)):
        margin = float(better) - float(worse)
        row: dict[str, Any] = {name: str(pair.get(name) or NOT_NAMED) for name in COLUMNS}
        row["id"] = str(pair.get("id") or number)
        row["cluster"] = str(pair.get("cluster") or f"row {number}")
        row["groups"] = [str(group) for group in pair.get("groups") or ()]
        row |= {side: text_of(pair[side]) for side in ("prompt", "chosen", "rejected")}
        row |= {"reward_chosen": float(better), "reward_rejected": float(worse), "margin": margin}
        rows.append(row | {"win": 0.5 if margin == 0 else float(margin > 0)})
    return rows


def text_of(messages: Any) -> str:
    """The contents of messages, one a line; a text as it is."""
    if isinstance(messages, str):
        return messages
    return "\n".join(str(message["content"]) for message in messages)


def accuracy_tables(
    rows: Sequence[Mapping[str, Any]], rulers: Mapping[str, Sequence[float | None]], *, seed: int = 0
) -> list[dict[str, Any]]:
    """Accuracy over all pairs and per kind, axis, source and language, each beside the best ruler on the same pairs.

    Args:
        rows: of :func:`scored_pairs`.
        rulers: name -> a win (1, 0, .5; None: does not apply) for each row.

    Returns: dicts ``by`` ("all" or a column), ``name``, the entries of :func:`cluster_mean`, ``mean_margin``, ``ties``;
        ``rulers``: dicts ``ruler``, the entries of :func:`cluster_mean`, ``beaten`` (the paired interval of model minus
        ruler lies above 0; None: no interval) and ``difference``; ``not_better_than``: the rulers that are not beaten.
    """
    found = []
    for by in ("all", *COLUMNS):
        names = [NOT_NAMED] * len(rows) if by == "all" else [row[by] for row in rows]
        for name in sorted(set(names)):
            places = [place for place, given in enumerate(names) if given == name]
            inside = [rows[place] for place in places]
            clusters = [row["cluster"] for row in inside]
            wins = np.array([row["win"] for row in inside])
            entry = {"by": by, "name": "all pairs" if by == "all" else name, **cluster_mean(wins, clusters, seed=seed)}
            entry["mean_margin"] = float(np.mean([row["margin"] for row in inside]))
            entry["ties"] = int(sum(wins == 0.5))
            entry["rulers"] = []
            for ruler, given_wins in rulers.items():
                here = [at for at, place in enumerate(places) if given_wins[place] is not None]
                if not here:
                    continue
                theirs = np.array([given_wins[places[at]] for at in here], dtype=float)
                same = [clusters[at] for at in here]  # where a ruler does not apply to all pairs: those to which it does
                ahead = cluster_mean(wins[here] - theirs, same, seed=seed, share=False)
                beaten = None if ahead["low"] is None else bool(ahead["low"] > 0)
                entry["rulers"].append(
                    {"ruler": ruler, **cluster_mean(theirs, same, seed=seed), "difference": ahead["value"], "beaten": beaten}
                )
            entry["not_better_than"] = [each["ruler"] for each in entry["rulers"] if each["beaten"] is False]
            found.append(entry)
    return found


def hardest_pairs(rows: Sequence[Mapping[str, Any]], *, per_kind: int = HARDEST) -> list[dict[str, Any]]:
    """The pairs that are most clearly ranked the wrong way round, ``per_kind`` of each kind, worst first."""
    kept: dict[str, list[Mapping[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: (row["margin"], row["id"])):
        of_kind = kept.setdefault(row["kind"], [])
        if row["margin"] < 0 and len(of_kind) < per_kind:
            of_kind.append(row)
    columns = ("id", "kind", "axis", "source", "prompt", "chosen", "rejected", "margin")
    return [{name: row[name] for name in columns} for kind in sorted(kept) for row in kept[kind]]
