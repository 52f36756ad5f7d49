"""Pair audit: what tells the fair answer from the unfair one without reading it, and which pairs are no pairs.

A reward model learns the easiest thing that separates the two sides. If that is length, an opening or a full stop, its
accuracy is an accuracy of that. Each check has a threshold and a test over whole clusters; nothing is removed, only named.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from teachfair.data.identity_terms import IDENTITY_TERMS
from teachfair.data.near_duplicates import WordStore, near_duplicates
from teachfair.data.wall import Masking, words_of
from teachfair.errors import InputError

if TYPE_CHECKING:
    from datasets import Dataset

Features = dict[Hashable, float]

MIN_CLUSTERS = 20  # fewer say nothing about a shortcut
MIN_ACCURACY = 0.6  # a ruler below this is no shortcut worth a name …
MIN_Z = 4.0  # … nor one whose accuracy is within four standard errors (over clusters) of chance
NEAR_DUPLICATE = 0.8  # Jaccard of word bigrams, prompt and answers together, identity terms as they are
MIN_REPEATED_SHARE = 0.01


def audit_pairs(
    pairs: Dataset | Sequence[Mapping[str, Any]], *, folds: int = 5, seed: int = 0, dropped_equal: int = 0
) -> dict[str, Any]:
    """Audit preference pairs.

    Args:
        pairs: rows with ``prompt, chosen, rejected`` (messages or text); ``cluster``, ``kind``, ``source``, ``id`` if known.
        folds: of the cross-validation; whole clusters are held out.
        dropped_equal: pairs that a reader left out because their sides are equal.
    Returns: JSON-able: ``n, clusters, kinds, sources, checks, found`` (names), ``settings``. A check: ``name, found``,
        ``value`` (accuracy of the ruler in 0..1, or a share of the rows; None if undefined), ``low, high`` (95 %, over
        clusters), ``unit``, ``told`` (one sentence), ``examples`` (row ids).
    Raises: InputError if there are no pairs.
    """
    rows = [_Row(row, number) for number, row in enumerate(pairs)]
    if not rows:
        raise InputError("there are no pairs to audit", where="pairs", fix="give at least one pair")
    checks = [_equal_sides(rows, dropped_equal), _repeated(rows)]
    names = {row.cluster: number for number, row in enumerate(rows)}
    clusters = np.array([names[row.cluster] for row in rows])
    for name, (kind, features, told) in RULERS.items():
        checks.append(_ruled(name, kind, features, told, rows, clusters, folds, seed))
    return {
        "n": len(rows),
        "clusters": len(names),
        "kinds": dict(sorted(Counter(row.kind for row in rows).items())),
        "sources": dict(sorted(Counter(row.source for row in rows).items())),
        "checks": checks,
        "found": [check["name"] for check in checks if check["found"]],
        "settings": {
            "folds": folds, "seed": seed, "min_clusters": MIN_CLUSTERS, "min_accuracy": MIN_ACCURACY, "min_z": MIN_Z,
            "near_duplicate": NEAR_DUPLICATE, "min_repeated_share": MIN_REPEATED_SHARE,
        },
    }  # fmt: skip


class _Row:
    def __init__(self, row: Mapping[str, Any], number: int) -> None:
        self.prompt, self.chosen, self.rejected = (_text(row.get(side)) for side in ("prompt", "chosen", "rejected"))
        self.id = str(row.get("id") or number)
        self.cluster = str(row.get("cluster") or f"prompt {self.prompt}")
        self.kind, self.source = str(row.get("kind") or "unspecified"), str(row.get("source") or "not named")
        self.sides = (self.chosen, self.rejected)


def _text(messages: Any) -> str:
    if isinstance(messages, str):
        return messages
    return "\n".join(str(message["content"]) for message in messages or ())


# -- what a ruler sees of one side: features of (answer, prompt) ---------------------------------------------------------

_TERMS = Masking(IDENTITY_TERMS)


def _length(answer: str, prompt: str) -> Features:
    return {"characters": float(len(answer)), "words": float(len(answer.split()))}


def _white_space(answer: str, prompt: str) -> Features:
    return {"odd": float(len(answer) - len(" ".join(answer.split())) + sum(answer.count(c) for c in "\n\t\u00a0"))}


def _first_token(answer: str, prompt: str) -> Features:
    return dict.fromkeys(words_of(answer)[:1], 1.0)


def _opening(answer: str, prompt: str) -> Features:
    words = words_of(answer)[:5]
    return {tuple(words[:length]): 1.0 for length in range(2, len(words) + 1)}


def _punctuation(answer: str, prompt: str) -> Features:
    marks: Features = {("holds", mark): float(n) for mark, n in Counter(re.findall(r"[^\w\s]", answer)).items()}
    last = answer.rstrip()[-1:]
    marks["ends with", last if last and not last.isalnum() else "no mark"] = 1.0
    return marks


def _mentions(answer: str, prompt: str) -> Features:
    return {"terms": float(sum(word.startswith("\x00") and word != "\x00blank" for word in _TERMS(words_of(answer))))}


def _order(answer: str, prompt: str) -> Features:
    # where in the prompt the answer is offered: the first of the listed options, say
    at = prompt.casefold().find(answer.strip().strip(".").casefold()) if answer.strip(" .") else -1
    return {"position": at / max(len(prompt), 1), "offered": 1.0} if at >= 0 else {}


def _bag_of_words(answer: str, prompt: str) -> Features:
    words = words_of(answer)
    counts: Counter[Hashable] = Counter(words)
    counts.update(itertools.pairwise(words))
    return {word: float(n) for word, n in counts.items()}


def _identity_terms(answer: str, prompt: str) -> Features:
    words = words_of(answer)
    return {word: float(n) for word, n in Counter(word for word in words if word in IDENTITY_TERMS).items()}


# name -> (kind of ruler, features, what it means when it is found)
RULERS: dict[str, tuple[str, Callable[[str, str], Features], str]] = {
    "length": ("regression", _length, "the number of characters and words alone tells the chosen answer"),
    "white space": ("sign", _white_space, "line breaks, double or trailing spaces tell the chosen answer"),
    "first token": ("regression", _first_token, "the first word alone tells the chosen answer"),
    "stock opening": ("regression", _opening, "the first two to five words tell the chosen answer"),
    "punctuation": ("regression", _punctuation, "punctuation alone tells the chosen answer"),
    "mention count": ("sign", _mentions, "how often a group is mentioned tells the chosen answer"),
    "order in the prompt": ("order", _order, "the chosen answer is mostly the one that the prompt offers first, or last"),
    "identity terms": ("regression", _identity_terms, "which groups are named tells the chosen answer"),
    "bag of words": ("regression", _bag_of_words, "single words and word pairs tell the chosen answer"),
}


# -- checks --------------------------------------------------------------------------------------------------------------


def _equal_sides(rows: list[_Row], dropped: int) -> dict[str, Any]:
    equal = [row.id for row in rows if words_of(row.chosen) == words_of(row.rejected) and words_of(row.chosen)]
    share = (len(equal) + dropped) / (len(rows) + dropped)
    told = f"{len(equal)} pairs have equal sides up to case and punctuation"
    if dropped:
        told += f"; {dropped} equal up to white space were left out on reading"
    return {
        "name": "equal sides", "found": bool(equal or dropped), "value": share, "low": None, "high": None,
        "unit": "share of rows", "told": told, "examples": equal[:5],
    }  # fmt: skip


def _repeated(rows: list[_Row]) -> dict[str, Any]:
    """Rows with an equal or nearly equal row in another cluster: a random split puts one of them on each side."""
    store, of_words, numbers = WordStore(), dict[tuple[str, ...], int](), []
    for row in rows:
        words = tuple(words_of(f"{row.prompt} {row.chosen} {row.rejected}"))
        if words not in of_words:
            of_words[words] = store.add(words)
        numbers.append(of_words[words])
    clusters: dict[int, set[str]] = {}
    for row, number in zip(rows, numbers, strict=True):
        clusters.setdefault(number, set()).add(row.cluster)
    every = np.arange(len(store))
    found = near_duplicates(store, every, every, NEAR_DUPLICATE)
    near = {number for number, of in clusters.items() if len(of) > 1}
    for one, other in zip(found.left.tolist(), found.right.tolist(), strict=True):
        if len(clusters[one] | clusters[other]) > 1:
            near |= {one, other}
    repeated = [row.id for row, number in zip(rows, numbers, strict=True) if number in near]
    share = len(repeated) / len(rows)
    return {
        "name": "near-duplicates", "found": share >= MIN_REPEATED_SHARE and len(repeated) > 1, "value": share, "low": None,
        "high": None, "unit": "share of rows",
        "told": f"{len(repeated)} rows have a nearly equal row in another cluster: a split can put one on either side",
        "examples": repeated[:5],
    }  # fmt: skip


def _ruled(
    name: str, kind: str, features: Callable[[str, str], Features], told: str, rows: list[_Row], clusters: np.ndarray,
    folds: int, seed: int,
) -> dict[str, Any]:  # fmt: skip
    sides = [tuple(features(side, row.prompt) for side in row.sides) for row in rows]
    if kind == "order":  # only where both answers are offered
        used = np.array([bool(chosen) and bool(rejected) for chosen, rejected in sides])
    else:
        used = np.ones(len(rows), dtype=bool)
    entry: dict[str, Any] = {
        "name": name, "found": False, "value": None, "low": None, "high": None, "unit": "accuracy", "told": told,
        "examples": [],
    }  # fmt: skip
    here = np.flatnonzero(used)
    groups = len(np.unique(clusters[here])) if len(here) else 0
    if groups < MIN_CLUSTERS:
        entry["told"] = f"not judged: {groups} clusters to judge it on, at least {MIN_CLUSTERS} were wanted"
        return entry
    differences = [{key: sides[i][0].get(key, 0.0) - sides[i][1].get(key, 0.0) for key in {**sides[i][0], **sides[i][1]}}
                   for i in here]  # fmt: skip
    wins = _cross_validated(differences, clusters[here], folds, seed, by_sign=kind != "regression")
    means = np.array([wins[clusters[here] == group].mean() for group in np.unique(clusters[here])])
    accuracy, error = float(means.mean()), float(means.std(ddof=1) / math.sqrt(len(means)))
    # an accuracy of exactly 1 has no scatter: the smallest error is that of one undecided cluster
    error = max(error, 0.5 / len(means))
    entry |= {
        "value": accuracy, "low": max(0.0, accuracy - 1.96 * error), "high": min(1.0, accuracy + 1.96 * error),
        "found": accuracy >= MIN_ACCURACY and (accuracy - 0.5) / error >= MIN_Z,
    }  # fmt: skip
    if entry["found"]:
        entry["examples"] = [rows[i].id for i in here[wins == 1.0][:5]]
    return entry


def _cross_validated(
    differences: list[Features], clusters: np.ndarray, folds: int, seed: int, *, by_sign: bool
) -> np.ndarray:
    """(n,) 1 where the ruler fitted on the other clusters prefers the chosen answer, 0 where it does not, .5 for a tie."""
    from scipy.sparse import vstack
    from sklearn.feature_extraction import DictVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GroupKFold

    decisions = np.zeros(len(differences))
    parts = list(
        GroupKFold(n_splits=min(folds, len(np.unique(clusters))), shuffle=True, random_state=seed).split(
            decisions, groups=clusters
        )
    )
    if by_sign:
        first = np.array([next(iter(entry.values()), 0.0) for entry in differences])
        for fitted, judged in parts:
            decisions[judged] = first[judged] * math.copysign(1, np.sign(first[fitted]).sum())
        return _wins(decisions)
    # sort=False: words and tuples of words cannot be put in one order; "": a column where no side has any feature
    table = DictVectorizer(sort=False).fit_transform([{**entry, "": 0.0} for entry in differences]).tocsr()
    scale = np.sqrt(np.asarray(table.multiply(table).mean(axis=0)).ravel())
    table = table.multiply(1 / np.maximum(scale, 1.0)).tocsr()  # counts of characters beside flags of 0 and 1
    for fitted, judged in parts:
        model = LogisticRegression(fit_intercept=False, max_iter=300)
        # both ways round: otherwise there is one label only
        model.fit(vstack([table[fitted], -table[fitted]]), [1] * len(fitted) + [0] * len(fitted))
        decisions[judged] = table[judged] @ model.coef_[0]
    return _wins(decisions)


def _wins(decisions: np.ndarray) -> np.ndarray:
    decisions = np.round(decisions, 9)
    return np.where(decisions == 0, 0.5, (decisions > 0).astype(float))


# -- the page ------------------------------------------------------------------------------------------------------------

_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


def audit_page(audit: Mapping[str, Any], title: str) -> str:
    """One self-contained HTML page: no script, no request, all data escaped."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    environment.filters["text"] = lambda text: (
        _CONTROL.sub("\ufffd", str(text)).encode("utf-8", "replace").decode("utf-8")
    )
    environment.filters["num"] = lambda value: "–" if value is None else f"{value:.3f}"
    return environment.get_template("audit.html.j2").render(audit=audit, title=title)


def audit_lines(audit: Mapping[str, Any]) -> list[str]:
    """The audit for a terminal."""
    found, checks = len(audit["found"]), len(audit["checks"])
    lines = [f"{audit['n']} pairs in {audit['clusters']} clusters; {found} of {checks} checks found something"]
    for check in audit["checks"]:
        value = "  –  " if check["value"] is None else f"{check['value']:.3f}"
        lines.append(f"  {'FOUND' if check['found'] else '     '} {check['name']:<20} {value} {check['unit']}")
    return lines
