"""The wall between what is taught and what is measured: no training row shares item, template or near-duplicate with an
evaluation item, whatever file either came from, identity swaps included.

    report = wall(pairs, {"crows_pairs": crows_items, "stereoset": stereoset_items})
    record["wall"] = report.as_dict()
    report.raise_if_leaky(allow=arguments.allow_leaks)

What is compared, and what each kind of match means: docs/wall.md.
"""

from __future__ import annotations

import logging
import re
import time
import unicodedata
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from teachfair.data.identity_terms import IDENTITY_TERMS
from teachfair.data.near_duplicates import BANDS, ROWS_PER_BAND, SEED, WordStore, near_duplicates, quotations
from teachfair.errors import DataError, InputError

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

Numbers = NDArray[np.int64]

# strongest first: a row is counted under the first that holds
KINDS = ("exact", "identity-swapped", "template", "quoted", "near-duplicate", "paraphrase")
VIEWS = (
    "prompt", "stem", "chosen", "rejected", "option", "text", "prompt + chosen", "prompt + rejected", "prompt + option",
)  # fmt: skip
_JOINED = ("prompt + chosen", "prompt + rejected", "prompt + option")


@dataclass(frozen=True)
class WallSettings:
    """What counts as a match. Every field travels with the report.

    ``min_words``: shorter texts name no item and are not compared. ``min_answer_words``: the same for an option of an
    evaluation item that has a prompt of its own ("the old man" is not an item). ``quoted_min_words``: the shortest text
    whose presence inside a longer one is a match. ``near_duplicate``: Jaccard similarity of word bigrams, after masking.
    ``paraphrase``: cosine of sentence embeddings, used when a model is given. ``stock_clusters``: an evaluation text
    found in more clusters than this ("complete the sentence", "not enough information") names no item. ``limit``:
    matches listed in the report; the counts have no limit.
    """

    min_words: int = 3
    min_answer_words: int = 6
    near_duplicate: float = 0.6
    near_duplicate_min_words: int = 4
    quoted_min_words: int = 6
    paraphrase: float = 0.9
    stock_clusters: int = 10
    limit: int = 50
    seed: int = SEED

    def __post_init__(self) -> None:
        for name in ("near_duplicate", "paraphrase"):
            if not 0 < getattr(self, name) <= 1:
                raise InputError(f"{getattr(self, name)!r} is no similarity", where=name, fix="give a number in (0, 1]")


@dataclass
class WallReport:
    """What was found. ``train_rows[kind]`` and ``evaluation_items[benchmark][kind]`` count rows, each under its strongest
    kind; ``matches`` lists some of them, strongest first."""

    train_rows: dict[str, int]
    evaluation_items: dict[str, dict[str, int]]
    matches: list[dict[str, Any]]
    n_train: int
    n_evaluation: dict[str, int]
    not_comparable: dict[str, int]  # rows without a text long enough to name an item
    stock_texts: int  # evaluation texts left out because they name no item
    settings: dict[str, Any]
    versions: dict[str, str]
    leaking: NDArray[np.bool_] = field(repr=False)  # (n_train,) True: the row has a match
    crowded: int = 0  # > 0: so many texts are alike that near-duplicates were looked for in samples of some buckets
    seconds: float = 0.0

    @property
    def leaks(self) -> int:
        """Training rows that match an evaluation item."""
        return sum(self.train_rows.values())

    def as_dict(self) -> dict[str, Any]:
        """Everything but the row mask, JSON-able: what run.json holds."""
        found = {name: value for name, value in vars(self).items() if name != "leaking"}
        return {"leaks": self.leaks, **found}

    def summary(self) -> str:
        """One line per count."""
        total = sum(self.n_evaluation.values())
        lines = [f"{self.leaks} of {self.n_train} training rows match one of {total} evaluation items"]
        lines += [f"  {kind}: {self.train_rows[kind]}" for kind in KINDS if self.train_rows[kind]]
        for name, kinds in self.evaluation_items.items():
            if sum(kinds.values()):
                told = ", ".join(f"{kind} {n}" for kind, n in kinds.items() if n)
                lines.append(f"  {name}: {sum(kinds.values())} of {self.n_evaluation[name]} items ({told})")
        return "\n".join(lines)

    def raise_if_leaky(self, allow: bool = False) -> None:
        """Raises: DataError naming the first leaks, unless there are none. ``allow``: a warning instead."""
        if not self.leaks:
            return
        if allow:
            logger.warning("training goes on although %s", self.summary())
            return
        first = [
            f"training row {match['train_id']} ({match['train_view']}) = {match['benchmark']} item "
            f"{match['evaluation_id']} ({match['evaluation_view']}), {match['kind']}"
            for match in self.matches[:3]
        ]
        raise DataError(
            f"what would be taught is in what would be measured: {self.summary()}",
            where="; ".join(first),
            fix="drop the matching rows (WallReport.leaking marks them) or evaluate on another benchmark; to train anyway, "
            "pass --allow_leaks (in a study: allow_leaks: true); the count stays in run.json",
        )


def wall(
    train: Dataset | Sequence[Mapping[str, Any] | str],
    evaluation: Mapping[str, Iterable[Any]] | Iterable[Any],
    *,
    terms: Mapping[str, str] | None = None,
    settings: WallSettings | None = None,
    paraphrase_model: Any = None,
) -> WallReport:
    """Compare every training row with every evaluation item.

    Args:
        train: preference pairs (``prompt, chosen, rejected``: text or messages), items, or plain texts.
        evaluation: benchmark name -> its items (``prompt, options``), pairs or texts; or one collection of them.
        terms: identity term -> class; terms of one class are taken for each other. None: ``IDENTITY_TERMS``.
        paraphrase_model: a sentence-transformers model, its name or folder, or anything with
            ``encode(texts) -> (n, d)``; None: paraphrases are not looked for.
    Returns: a report; it does not depend on the order of the rows, except for which of several partners is listed.
    Raises: DataError for a row without any text.
    """
    began = time.monotonic()
    settings = settings or WallSettings()
    benchmarks = evaluation if isinstance(evaluation, Mapping) else {"evaluation": evaluation}
    items: list[Any] = []
    bounds = [0]
    for rows in benchmarks.values():
        items.extend(rows)
        bounds.append(len(items))
    rows_of_train = train if hasattr(train, "__getitem__") else list(train)  # read again for the matches' texts
    mask = Masking(IDENTITY_TERMS if terms is None else terms)
    store, numbers = WordStore(), dict[int, int]()
    ours = _Side("train", rows_of_train, mask, settings, store, numbers)
    theirs = _Side("evaluation", items, mask, settings, store, numbers)
    stock = theirs.without_stock_texts(settings.stock_clusters)

    verdicts = _Verdicts(len(ours), len(theirs))
    verdicts.equal("exact", ours, theirs, ours.exact, theirs.exact)
    verdicts.equal("identity-swapped", ours, theirs, ours.masked, theirs.masked)
    verdicts.clusters(ours, theirs)
    left, right = (np.unique(side.texts[side.texts >= 0]) for side in (ours, theirs))
    done = np.zeros(len(store), dtype=bool)
    done[np.intersect1d(left, right)] = True  # equal after masking: found already, by hash
    quoted = quotations(store, left, right, settings.quoted_min_words, left_done=done, right_done=done)
    near = near_duplicates(
        store, left, right, settings.near_duplicate, left_done=done, right_done=done, seed=settings.seed
    )
    for kind, found in (("quoted", quoted), ("near-duplicate", near)):
        verdicts.similar(kind, ours, theirs, found.left, found.right, found.jaccard)
    if paraphrase_model is not None:
        one, other, cosine = _paraphrases(ours, theirs, paraphrase_model, settings)
        verdicts.similar("paraphrase", ours, theirs, one, other, cosine)

    names = list(benchmarks)
    return WallReport(
        train_rows=_counted(verdicts.of_train),
        evaluation_items={
            name: _counted(verdicts.of_evaluation[bounds[i] : bounds[i + 1]]) for i, name in enumerate(names)
        },
        matches=verdicts.listed(ours, theirs, names, bounds, settings.limit),
        n_train=len(ours),
        n_evaluation={name: bounds[i + 1] - bounds[i] for i, name in enumerate(names)},
        not_comparable={"train": ours.mute(), "evaluation": theirs.mute()},
        stock_texts=stock,
        settings={
            **asdict(settings), "bands": BANDS, "rows_per_band": ROWS_PER_BAND, "shingle": "word bigrams with ends",
            "terms": len(mask), "paraphrase_model": None if paraphrase_model is None else _model_name(paraphrase_model),
        },
        versions=_versions(paraphrase_model is not None),
        leaking=verdicts.of_train < len(KINDS),
        crowded=quoted.crowded + near.crowded,
        seconds=round(time.monotonic() - began, 2),
    )  # fmt: skip


# -- texts ---------------------------------------------------------------------------------------------------------------

_BLANKS = re.compile(r"_{2,}|\[mask\]|<mask>|\[blank\]|<blank>|\bblank\b")
# the CJK scripts write no spaces: every character is a word
_WORDS = re.compile(r"[぀-ヿ㐀-䶿一-鿿豈-﫿]|[^\W_぀-ヿ㐀-䶿一-鿿豈-﫿]+")
_LISTED_OPTION = re.compile(r"(?m)^[ \t]*(?:[-*•]|\(?[A-Ha-h1-8][).:])[ \t]+\S.*$")
_BLANK = "\x00blank"
_GAPS = re.compile(r"_{2,}|\[MASK\]|<mask>|\[BLANK\]|\bBLANK\b")


def words_of(text: str) -> list[str]:
    """The words of a text for comparison: lower case, no punctuation, no Latin diacritics, any blank as one word.

    >>> words_of("The nurse said: ____ can’t  be LATE!")
    ['the', 'nurse', 'said', '\\x00blank', 'can', 't', 'be', 'late']
    """
    text = text.casefold()
    if not text.isascii():
        text = unicodedata.normalize("NFKD", text)
        text = "".join(letter for letter in text if not "\u0300" <= letter <= "\u036f")
        text = unicodedata.normalize("NFKC", text).casefold()
    text = text.replace("a/an", "a")
    if "__" in text or "blank" in text or "mask" in text:
        parts = [_WORDS.findall(part) for part in _BLANKS.split(text)]
        return parts[0] + [word for part in parts[1:] for word in (_BLANK, *part)]
    return _WORDS.findall(text)


class Masking:
    """Identity terms replaced by their class: "the woman is a nurse" and "the man is a nurse" become one text."""

    def __init__(self, terms: Mapping[str, str]) -> None:
        self._single: dict[str, str] = {"an": "a"}  # "an old man", "a young man"
        self._compound: dict[str, list[tuple[list[str], str]]] = {}
        for term, name in terms.items():
            words = words_of(term)
            if not words:
                raise InputError(f"{term!r} holds no word", where="terms", fix="leave it out")
            if len(words) == 1:
                self._single[words[0]] = f"\x00{name}"
            else:
                self._compound.setdefault(words[0], []).append((words, f"\x00{name}"))
        for found in self._compound.values():
            found.sort(key=lambda entry: -len(entry[0]))
        self._size = len(terms)

    def __len__(self) -> int:
        return self._size

    def __call__(self, words: list[str]) -> list[str]:
        """``words`` with every term of one word, or the longest of several, as one placeholder."""
        single = self._single
        if self._compound.keys().isdisjoint(words):
            return [single.get(word, word) for word in words]
        found, at = [], 0
        while at < len(words):
            for term, name in self._compound.get(words[at], ()):
                if words[at : at + len(term)] == term:
                    found.append(name)
                    at += len(term)
                    break
            else:
                found.append(single.get(words[at], words[at]))
                at += 1
        return found


def texts_of(row: Mapping[str, Any] | str) -> Iterator[tuple[str, str]]:
    """What can be compared of a row: (view, text) for the prompt's messages, the answers or options, and both in one.

    "stem" is a prompt without the answers that it lists. A blank in the prompt is also filled with each answer.
    """
    if isinstance(row, str):
        yield "text", row
        return
    prompts = _contents(row.get("prompt"))
    for prompt in prompts:
        yield "prompt", prompt
        if "\n" in prompt:
            stem = _LISTED_OPTION.sub("", prompt)
            if stem != prompt:
                yield "stem", stem
    answers = [(name, answer) for name in ("chosen", "rejected") for answer in _contents(row.get(name))]
    answers += [("option", answer) for option in row.get("options") or () for answer in _contents(option)]
    last = prompts[-1] if prompts else ""
    for name, answer in answers:
        yield name, answer
        if last:
            yield f"prompt + {name}", f"{last} {answer}"
            blanks = _GAPS.findall(last)
            if len(blanks) == 1:
                yield f"prompt + {name}", last.replace(blanks[0], answer)
    if not prompts and not answers:
        for name in ("text", "sentence"):
            yield from (("text", text) for text in _contents(row.get(name)))


def _each(rows: Any) -> Iterator[Any]:
    """The rows; those of a Dataset a thousand at a time (one by one they take longer than the comparison)."""
    if not hasattr(rows, "with_format"):
        yield from rows
        return
    for table in rows.with_format("arrow").iter(batch_size=1000):
        yield from table.to_pylist()


def _contents(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value] if value.strip() else []
    if isinstance(value, Mapping):
        return _contents(value.get("content"))
    if isinstance(value, Sequence):
        return [text for part in value for text in _contents(part)]
    return []


class _Side:
    """The texts of all rows of one side as flat arrays: row, view, hash of the words, hash of the masked words, and the
    number of the masked text in the common store (-1: too short to be a near-duplicate)."""

    def __init__(
        self, name: str, rows: Any, mask: Masking, settings: WallSettings, store: WordStore, numbers: dict[int, int]
    ) -> None:
        self.name, self.rows = name, rows
        of_row, views, exact, masked, texts = array("i"), array("b"), array("q"), array("q"), array("i")
        clusters: list[str] = []
        self.ids: list[str] = []
        view_number = {view: number for number, view in enumerate(VIEWS)}
        for number, row in enumerate(_each(rows)):
            given = row if isinstance(row, Mapping) else {}
            self.ids.append(str(given.get("id") or number))
            clusters.append(str(given.get("cluster") or ""))
            views_of_row = list(texts_of(row))
            if not views_of_row:
                raise DataError(
                    "no text to compare: neither prompt, chosen, rejected nor options",
                    where=f"{name} row {number}, id {self.ids[-1]}", fix="give pairs, evaluation items or texts",
                )  # fmt: skip
            asked = False  # does the row have a prompt that names its item?
            seen = set()
            for view, text in views_of_row:
                words = words_of(text)
                least = settings.min_words
                if view == "prompt":
                    asked = asked or len(words) >= least
                elif view == "option" and asked:
                    least = settings.min_answer_words
                key = hash("".join(words))
                if len(words) < least or (key, view) in seen:
                    continue
                seen.add((key, view))
                hidden = mask(words)
                hidden_key = hash("".join(hidden))
                kept = -1
                # prompt and answer in one text are near-duplicates where the prompts are: only a new one is looked at
                if len(hidden) >= settings.near_duplicate_min_words and not (view in _JOINED and asked):
                    kept = numbers.get(hidden_key, -1)
                    if kept < 0:
                        kept = numbers[hidden_key] = store.add(hidden)
                of_row.append(number)
                views.append(view_number[view])
                exact.append(key)
                masked.append(hidden_key)
                texts.append(kept)
        self.clusters = clusters
        self.of_row = np.array(of_row, dtype=np.int32)
        self.views = np.array(views, dtype=np.int8)
        self.exact = np.array(exact, dtype=np.int64)
        self.masked = np.array(masked, dtype=np.int64)
        self.texts = np.array(texts, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.ids)

    def mute(self) -> int:
        """Rows of which no text is compared."""
        return len(self) - len(np.unique(self.of_row))

    def without_stock_texts(self, clusters: int) -> int:
        """Leave out texts found word for word in more than ``clusters`` clusters; returns how many texts those are.

        Prompt and answer in one are never stock.
        """
        number = {name: i for i, name in enumerate(sorted(set(self.clusters)))}
        of_cluster = np.array(
            [number[name] if name else len(number) + i for i, name in enumerate(self.clusters)], dtype=np.int64
        )
        if not len(self.of_row):
            return 0
        values, inverse = np.unique(self.exact, return_inverse=True)
        pairs = np.unique(np.stack([inverse, of_cluster[self.of_row]]), axis=1)
        stock = np.bincount(pairs[0], minlength=len(values)) > clusters
        joined = np.isin(self.views, [VIEWS.index(view) for view in _JOINED])
        kept = ~stock[inverse] | joined
        for name in ("of_row", "views", "exact", "masked", "texts"):
            setattr(self, name, getattr(self, name)[kept])
        return int(stock.sum())

    def text(self, row: int, view: str) -> str:
        """The first text of a row under a view."""
        return next((text for name, text in texts_of(self.rows[row]) if name == view), "")


# -- verdicts ------------------------------------------------------------------------------------------------------------


class _Verdicts:
    """For every row of both sides: the strongest kind of match (len(KINDS): none) and one partner."""

    def __init__(self, n_train: int, n_evaluation: int) -> None:
        self.of_train = np.full(n_train, len(KINDS), dtype=np.int8)
        self.of_evaluation = np.full(n_evaluation, len(KINDS), dtype=np.int8)
        # (train row, evaluation row) -> (kind, train view, evaluation view, similarity)
        self.pairs: dict[tuple[int, int], tuple[int, int, int, float]] = {}

    def equal(self, kind: str, ours: _Side, theirs: _Side, keys: Numbers, others: Numbers) -> None:
        """Rows that share a hash."""
        for mine, other in (_partners(keys, others), _partners(others, keys)[::-1]):
            self._note(kind, ours, theirs, mine, other, np.ones(len(mine)))

    def similar(
        self, kind: str, ours: _Side, theirs: _Side, left: Numbers, right: Numbers, similarity: NDArray[np.float64]
    ) -> None:
        """Rows whose texts are in the list of similar texts."""
        if not len(left):
            return
        # a text may be several rows': each of them gets one partner
        for mine, other, flip in ((left, right, False), (right, left, True)):
            side, opposite = (theirs.texts, ours.texts) if flip else (ours.texts, theirs.texts)
            order = np.lexsort((-similarity, mine))
            best = order[np.unique(mine[order], return_index=True)[1]]
            at = np.searchsorted(mine[best], side)
            at[at == len(best)] = 0
            here = np.flatnonzero(mine[best][at] == side)
            there = _first_positions(opposite, other[best][at[here]])
            scores = similarity[best][at[here]]
            first, second = (there, here) if flip else (here, there)
            self._note(kind, ours, theirs, first, second, scores)

    def clusters(self, ours: _Side, theirs: _Side) -> None:
        """Rows that name the same cluster. Bare numbers name nothing outside of their own file."""
        shared = {name for name in set(ours.clusters) & set(theirs.clusters) if name and not name.isdigit()}
        if not shared:
            return
        kind = KINDS.index("template")
        first_of = [{}, {}]  # type: list[dict[str, int]]
        for side, found in zip((ours, theirs), first_of, strict=True):
            for row, name in enumerate(side.clusters):
                if name in shared:
                    found.setdefault(name, row)
        for row, name in enumerate(ours.clusters):
            if name in shared and self.of_train[row] > kind:
                self.of_train[row] = kind
                self.pairs.setdefault((row, first_of[1][name]), (kind, 0, 0, 1.0))
        for row, name in enumerate(theirs.clusters):
            if name in shared and self.of_evaluation[row] > kind:
                self.of_evaluation[row] = kind
                self.pairs.setdefault((first_of[0][name], row), (kind, 0, 0, 1.0))

    def _note(
        self, kind: str, ours: _Side, theirs: _Side, mine: Numbers, other: Numbers, similarity: NDArray[np.float64]
    ) -> None:
        number = KINDS.index(kind)
        rows, items = ours.of_row[mine], theirs.of_row[other]
        new = (self.of_train[rows] > number) | (self.of_evaluation[items] > number)
        self.of_train[rows] = np.minimum(self.of_train[rows], number)
        self.of_evaluation[items] = np.minimum(self.of_evaluation[items], number)
        for at in np.flatnonzero(new)[:10_000]:
            pair = (int(rows[at]), int(items[at]))
            views = int(ours.views[mine[at]]), int(theirs.views[other[at]])
            self.pairs.setdefault(pair, (number, *views, float(similarity[at])))

    def listed(
        self, ours: _Side, theirs: _Side, names: Sequence[str], bounds: Sequence[int], limit: int
    ) -> list[dict[str, Any]]:
        """The first ``limit`` matches, strongest first, with the texts."""
        found = []
        for (row, item), (kind, view, other_view, similarity) in sorted(
            self.pairs.items(), key=lambda entry: (entry[1][0], -entry[1][3], entry[0])
        )[:limit]:
            benchmark = int(np.searchsorted(bounds, item, "right")) - 1
            found.append(
                {
                    "kind": KINDS[kind], "similarity": round(similarity, 4), "train_id": ours.ids[row], "train_row": row,
                    "train_view": VIEWS[view], "train_text": _short(ours.text(row, VIEWS[view])),
                    "benchmark": names[benchmark], "evaluation_id": theirs.ids[item],
                    "evaluation_row": item - bounds[benchmark], "evaluation_view": VIEWS[other_view],
                    "evaluation_text": _short(theirs.text(item, VIEWS[other_view])),
                }
            )  # fmt: skip
        return found


def _partners(keys: Numbers, others: Numbers) -> tuple[Numbers, Numbers]:
    """Positions of ``keys`` that are among ``others``, and the first position of each among them."""
    if not len(keys) or not len(others):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    values, first = np.unique(others, return_index=True)
    at = np.searchsorted(values, keys)
    at[at == len(values)] = 0
    here = np.flatnonzero(values[at] == keys)
    return here, first[at[here]]


def _first_positions(values: Numbers, wanted: Numbers) -> Numbers:
    known, first = np.unique(values, return_index=True)
    return first[np.searchsorted(known, wanted)]


def _counted(kinds: NDArray[np.int8]) -> dict[str, int]:
    return {kind: int((kinds == number).sum()) for number, kind in enumerate(KINDS)}


def _paraphrases(
    ours: _Side, theirs: _Side, model: Any, settings: WallSettings
) -> tuple[Numbers, Numbers, NDArray[np.float64]]:
    """Texts (their numbers) with cosine >= the threshold: for every text of either side its nearest one."""
    encode = _encoder(model)
    numbers, vectors = [], []
    for side in (ours, theirs):
        positions = np.flatnonzero(side.texts >= 0)
        kept, first = np.unique(side.texts[positions], return_index=True)
        texts = [
            side.text(int(side.of_row[at]), VIEWS[side.views[at]]) for at in positions[first]
        ]
        found = np.asarray(encode(texts), dtype=np.float32) if texts else np.zeros((0, 1), np.float32)
        if len(texts) and (found.ndim != 2 or len(found) != len(texts) or not np.isfinite(found).all()):
            raise InputError(
                f"the paraphrase model gave {found.shape} for {len(texts)} texts, or values that are not finite",
                where="paraphrase_model", fix="give a sentence-transformers model",
            )  # fmt: skip
        numbers.append(kept)
        vectors.append(found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12))
    if not len(numbers[0]) or not len(numbers[1]):
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)
    one, other, cosine = [], [], []
    best_of_theirs = np.full(len(numbers[1]), -1.0)
    partner_of_theirs = np.zeros(len(numbers[1]), dtype=np.int64)
    for begin in range(0, len(numbers[0]), 2048):
        similarity = vectors[0][begin : begin + 2048] @ vectors[1].T
        nearest = similarity.argmax(axis=1)
        score = similarity[np.arange(len(nearest)), nearest]
        close = np.flatnonzero(score >= settings.paraphrase)
        one.append(numbers[0][begin + close])
        other.append(numbers[1][nearest[close]])
        cosine.append(score[close])
        back = similarity.argmax(axis=0)
        better = similarity[back, np.arange(len(back))] > best_of_theirs
        best_of_theirs[better] = similarity[back, np.arange(len(back))][better]
        partner_of_theirs[better] = numbers[0][begin + back[better]]
    close = np.flatnonzero(best_of_theirs >= settings.paraphrase)
    one.append(partner_of_theirs[close])
    other.append(numbers[1][close])
    cosine.append(best_of_theirs[close])
    return np.concatenate(one), np.concatenate(other), np.minimum(np.concatenate(cosine).astype(np.float64), 1.0)


def _encoder(model: Any) -> Callable[[list[str]], Any]:
    if not isinstance(model, str | Path):
        return lambda texts: model.encode(texts)
    from sentence_transformers import SentenceTransformer

    try:
        loaded = SentenceTransformer(str(model))
    except (OSError, ValueError) as error:
        raise InputError(
            f"not a sentence-transformers model: {error}", where=f"paraphrase_model {model}", fix="give its folder or id"
        ) from error
    return lambda texts: loaded.encode(texts, batch_size=256, show_progress_bar=False)


def _model_name(model: Any) -> str:
    return str(model) if isinstance(model, str | Path) else type(model).__name__


def _versions(with_model: bool) -> dict[str, str]:
    from importlib.metadata import version

    names = ["datasketch", "numpy", *(["sentence-transformers"] if with_model else [])]
    return {name: version(name) for name in names}


def _short(text: str, width: int = 160) -> str:
    text = " ".join(text.split())
    return text if len(text) <= width else text[: width - 1] + "…"
