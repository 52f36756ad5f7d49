"""Shortcut baselines: how far rulers that do not understand an answer get on the same pairs.

Public preference sets are often solved by "take the longer answer". A reward model's accuracy means something
only beside what such a ruler reaches on the same test pairs.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from teachfair.errors import InputError

if TYPE_CHECKING:
    from datasets import Dataset

# Words that name a person's group; a row's own `groups` are added. Only counted, never judged.
_IDENTITY_TEXT = (
    "woman women man men female male girl girls boy boys mother mothers father fathers mom dad daughter "
    "son sister brother wife husband aunt uncle grandmother grandfather lady ladies gentleman she he her "
    "him his hers transgender nonbinary gay lesbian bisexual queer straight homosexual heterosexual black "
    "white asian latino latina hispanic african european american arab jewish jew jews muslim muslims "
    "christian christians hindu hindus buddhist catholic protestant atheist islam islamic immigrant "
    "immigrants refugee refugees foreigner old young elderly aged teenager disabled blind deaf autistic "
    "wheelchair poor rich indian chinese japanese korean mexican russian ethiopian ghanaian nigerian "
    "iraqi iranian afghan syrian turkish french german italian spanish british "
)
IDENTITY_WORDS = frozenset(_IDENTITY_TEXT.split())

# Where a kind tells which side is the anti-stereotype or the stereotype: preferring the former (and, without
# one, avoiding the latter) is right on the first set and wrong on the second.
_ANTI_IS_RIGHT = {
    "anti-vs-stereotype",
    "neutral-vs-stereotype",
    "evidence-vs-stereotype",
    "cant-tell-vs-stereotype",
}
_ANTI_IS_WRONG = {"evidence-vs-anti", "cant-tell-vs-anti"}

RULERS = (
    "length",
    "whitespace",
    "first token",
    "bag of words",
    "identity mentions",
    "always anti-stereotype",
)


def shortcut_baselines(
    train: Dataset | Sequence[Mapping[str, Any]],
    test: Dataset | Sequence[Mapping[str, Any]] | None = None,
    *,
    folds: int = 5,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Accuracy of content-blind rulers on preference pairs, per kind and over all.

    A ruler reads the two answers only, not the prompt. What it fits (the direction "longer" or "shorter",
    first words, word weights) is fitted on ``train`` and judged on ``test``; without ``test`` it is
    cross-validated over ``folds`` groups of whole clusters of ``train``.

    Returns: one dict per ruler and kind ("all" first): ``ruler, kind, n, ties, accuracy, low, high``.
    Accuracy in 0..1, higher = more of the pairs are solved without understanding; a tie counts one half.
    ``low, high``: Wilson's 95 % interval over pairs (clusters are not taken into account). "always
    anti-stereotype" is given for kinds that tell where the anti-stereotype is.
    Raises: InputError if there are no pairs, or fewer than two clusters to cross-validate over.
    """
    test_rows, wins = _judged(train, test, folds, seed)
    found = []
    for ruler in RULERS:
        for kind in ("all", *sorted({row.kind for row in test_rows})):
            scores = [
                win
                for row, win in zip(test_rows, wins[ruler], strict=True)
                if kind in ("all", row.kind) and win is not None
            ]
            if scores:
                found.append({"ruler": ruler, "kind": kind, **accuracy_of(scores)})
    return found


def ruler_wins(
    train: Dataset | Sequence[Mapping[str, Any]],
    test: Dataset | Sequence[Mapping[str, Any]] | None = None,
    *,
    folds: int = 5,
    seed: int = 0,
) -> dict[str, list[float | None]]:
    """ruler -> 1 (prefers the chosen answer), 0 or .5 (tie) for each test pair; None where it does not apply.

    As :func:`shortcut_baselines`, pair by pair: for a comparison with a reward model on the same pairs.
    """
    return _judged(train, test, folds, seed)[1]


def _judged(
    train: Dataset | Sequence[Mapping[str, Any]],
    test: Dataset | Sequence[Mapping[str, Any]] | None,
    folds: int,
    seed: int,
) -> tuple[list[_Answers], dict[str, list[float | None]]]:
    train_rows = [_Answers(row) for row in train]
    if not train_rows:
        raise InputError("there are no pairs to fit a ruler on", where="train", fix="give at least one pair")
    if test is None:
        return train_rows, _cross_validated(train_rows, folds, seed)
    test_rows = [_Answers(row) for row in test]
    if not test_rows:
        raise InputError(
            "there are no pairs to judge a ruler on", where="test", fix="give at least one pair"
        )
    return test_rows, _wins(train_rows, test_rows)


def anti_stereotype_share(kinds: Mapping[str, int]) -> float | None:
    """Share of the pairs that "choose the less stereotypical side" gets right, where the kind tells (0..1; None: nowhere).

    Args:
        kinds: kind -> number of pairs.
    """
    right, wrong = (sum(kinds.get(kind, 0) for kind in known) for known in (_ANTI_IS_RIGHT, _ANTI_IS_WRONG))
    return right / (right + wrong) if right + wrong else None


def accuracy_of(wins: Sequence[float]) -> dict[str, Any]:
    """``n, ties, accuracy, low, high`` of pairwise wins (1 right, 0 wrong, .5 tie); NaN-free, n >= 1.

    The interval is Wilson's, 95 %, with half of the ties (rounded down) counted as right.
    """
    from scipy.stats import binomtest

    n, ties = len(wins), sum(win == 0.5 for win in wins)
    right = sum(win == 1.0 for win in wins)
    interval = binomtest(right + ties // 2, n).proportion_ci(method="wilson")
    return {
        "n": n,
        "ties": ties,
        "accuracy": (right + ties / 2) / n,
        "low": float(interval.low),
        "high": float(interval.high),
    }


class _Answers:
    """What a ruler may see of a pair: the two answers, and nothing of the prompt."""

    def __init__(self, row: Mapping[str, Any]) -> None:
        self.kind = str(row.get("kind") or "unspecified")
        self.cluster = str(row.get("cluster") or "")
        self.chosen, self.rejected = _answer(row["chosen"]), _answer(row["rejected"])
        self.identity = IDENTITY_WORDS.union(
            word for group in row.get("groups") or [] for word in _words(group)
        )


def _answer(messages: Any) -> str:
    if isinstance(messages, str):
        return messages
    return "\n".join(message["content"] for message in messages)


def _words(text: str) -> list[str]:
    return re.findall(r"\w+|[^\w\s]", text.lower())


def _cross_validated(rows: list[_Answers], folds: int, seed: int) -> dict[str, list[float | None]]:
    from sklearn.model_selection import GroupKFold

    clusters = [row.cluster or f"row {number}" for number, row in enumerate(rows)]
    folds = min(folds, len(set(clusters)))
    if folds < 2:
        raise InputError(
            "all pairs are in one cluster, so nothing can be held out",
            where="train",
            fix="give test pairs, or pairs of at least two clusters",
        )
    wins: dict[str, list[float | None]] = {ruler: [None] * len(rows) for ruler in RULERS}
    splitter = GroupKFold(n_splits=folds, shuffle=True, random_state=seed)
    for fitted_on, judged_on in splitter.split(rows, groups=clusters):
        held_out = [rows[number] for number in judged_on]
        for ruler, found in _wins([rows[number] for number in fitted_on], held_out).items():
            for number, win in zip(judged_on, found, strict=True):
                wins[ruler][number] = win
    return wins


def _wins(train: list[_Answers], test: list[_Answers]) -> dict[str, list[float | None]]:
    """1, 0 or .5 per test pair and ruler; None where a ruler does not apply."""
    first_words = Counter({word: 1 for row in train for word in _first_words(row)})
    margin = Counter[str]()
    for row in train:
        chosen, rejected = _first_words(row)
        margin[chosen] += 1
        margin[rejected] -= 1
        first_words[chosen] += 1
        first_words[rejected] += 1
    return {
        "length": _with_fitted_sign(train, test, lambda row: len(row.chosen) - len(row.rejected)),
        "whitespace": _with_fitted_sign(train, test, lambda row: _spaces(row.chosen) - _spaces(row.rejected)),
        "first token": [
            _win(_share(margin, first_words, row.chosen) - _share(margin, first_words, row.rejected))
            for row in test
        ],
        "bag of words": _bag_of_words(train, test),
        "identity mentions": _with_fitted_sign(train, test, _mentions),
        "always anti-stereotype": [
            1.0 if row.kind in _ANTI_IS_RIGHT else 0.0 if row.kind in _ANTI_IS_WRONG else None for row in test
        ],
    }


def _win(difference: float) -> float:
    return 0.5 if difference == 0 else float(difference > 0)


def _with_fitted_sign(
    train: list[_Answers], test: list[_Answers], measure: Callable[[_Answers], float]
) -> list[float | None]:
    sign = math.copysign(1, sum(_win(measure(row)) - 0.5 for row in train))
    return [_win(sign * measure(row)) for row in test]


def _spaces(text: str) -> int:
    return sum(character.isspace() for character in text) + (text != text.strip()) + text.count("  ")


def _mentions(row: _Answers) -> float:
    chosen, rejected = (
        sum(word in row.identity for word in _words(side)) for side in (row.chosen, row.rejected)
    )
    return chosen - rejected


def _first_words(row: _Answers) -> tuple[str, str]:
    return _first_word(row.chosen), _first_word(row.rejected)


def _first_word(text: str) -> str:
    return next(iter(_words(text)), "")


def _share(margin: Counter[str], seen: Counter[str], answer: str) -> float:
    word = _first_word(answer)
    return margin[word] / (seen[word] + 1)


def _bag_of_words(train: list[_Answers], test: list[_Answers]) -> list[float | None]:
    from scipy.sparse import csr_matrix, vstack
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression

    vectorizer = CountVectorizer(analyzer=_words_and_neighbours, min_df=1)
    vectorizer.fit(_both(train))

    def differences(rows: list[_Answers]) -> csr_matrix:
        chosen = vectorizer.transform(row.chosen for row in rows)
        return chosen - vectorizer.transform(row.rejected for row in rows)

    one_way = differences(train)
    # Every pair both ways round: without that, all labels are the same and there is nothing to fit.
    model = LogisticRegression(fit_intercept=False, max_iter=300)
    model.fit(vstack([one_way, -one_way]), [1] * len(train) + [0] * len(train))
    decisions = differences(test) @ model.coef_[0]
    return [_win(round(float(decision), 9)) for decision in decisions]


def _words_and_neighbours(text: str) -> list[str]:
    words = _words(text)
    return words + [f"{left} {right}" for left, right in itertools.pairwise(words)]


def _both(rows: list[_Answers]) -> Iterable[str]:
    for row in rows:
        yield row.chosen
        yield row.rejected
