"""The wall's time, peak memory, recall and precision on made texts with planted copies.

    python benchmarks/wall.py                              # 100,000 × 100,000 texts
    python benchmarks/wall.py --shape pairs                # 100,000 preference pairs × 100,000 items with three options
    python benchmarks/wall.py --shape templates            # rows of 40 templates, each side's close to the other's
    python benchmarks/wall.py --rows 10000 --datasketch    # beside datasketch's own MinHash and MinHashLSH

Words are drawn from a Zipf law (so common word pairs are shared by chance, as in real text). Of the training rows, 1 % are
copies in other case and punctuation, 1 % copies with an identity term exchanged, 1 % copies behind an instruction, and 5 %
copies with some words replaced, inserted or dropped. The latter are sorted by the exact Jaccard similarity of what they
became; those under the threshold must not be reported. All other rows share nothing but chance.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import random
import resource
import time
from collections import defaultdict
from typing import Any

import numpy as np

from teachfair.data.identity_terms import IDENTITY_TERMS
from teachfair.data.wall import Masking, WallSettings, wall, words_of

TERMS: dict[str, list[str]] = defaultdict(list)
for _term, _name in IDENTITY_TERMS.items():
    if _term.isalpha() and _name in ("gender", "origin", "religion"):
        TERMS[_name].append(_term)
LEVELS = (0.6, 0.65, 0.7, 0.75, 0.8, 0.9, 1.0)
WORDS_IN_VOCABULARY = 30_000


class Maker:
    """Texts of a Zipf law over invented words, one identity term in two of three."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        numbers = np.random.default_rng(seed)
        letters = "bcdfghklmnprstvz"
        spelled = {
            "".join(self.rng.choice(letters) + self.rng.choice("aeiou") for _ in range(self.rng.choice((1, 2, 3, 4))))
            for _ in range(3 * WORDS_IN_VOCABULARY)
        }
        self.words = sorted(spelled - set(IDENTITY_TERMS))
        self.rng.shuffle(self.words)
        weights = 1 / (np.arange(len(self.words)) + 2.7)
        self._cumulated = np.cumsum(weights / weights.sum())
        self._numbers = numbers
        self._drawn: list[str] = []

    def word(self) -> str:
        if not self._drawn:
            at = np.searchsorted(self._cumulated, self._numbers.random(100_000))
            self._drawn = [self.words[i] for i in np.minimum(at, len(self.words) - 1)]
        return self._drawn.pop()

    def text(self, low: int, high: int) -> list[str]:
        words = [self.word() for _ in range(self.rng.randint(low, high))]
        if self.rng.random() < 2 / 3:
            words[self.rng.randrange(len(words))] = self.rng.choice(TERMS[self.rng.choice(sorted(TERMS))])
        return words

    def spelled(self, words: list[str]) -> str:
        return " ".join(words).capitalize() + self.rng.choice(".?!")

    def disguised(self, words: list[str]) -> str:
        marks = ("", "", "", ",", " -", ";", "  ")
        return " ".join(
            (word.upper() if self.rng.random() < 0.2 else word) + self.rng.choice(marks) for word in words
        )

    def swapped(self, words: list[str]) -> list[str] | None:
        at = [i for i, word in enumerate(words) if word in IDENTITY_TERMS]
        if not at:
            return None
        new = list(words)
        for i in at:
            new[i] = self.rng.choice([term for term in TERMS[IDENTITY_TERMS[words[i]]] if term != words[i]])
        return new

    def edited(self, words: list[str]) -> list[str]:
        new = list(words)
        for _ in range(self.rng.randint(1, max(1, len(words) // 5))):
            at = self.rng.randrange(len(new))
            action = self.rng.random()
            if action < 0.6:
                new[at] = self.word()
            elif action < 0.8:
                new.insert(at, self.word())
            elif len(new) > 4:
                del new[at]
        return new


def planted(maker: Maker, words: list[str], kind: str) -> list[str] | str | None:
    if kind == "exact":
        return maker.disguised(words)
    if kind == "identity-swapped":
        return maker.swapped(words)
    if kind == "quoted":
        return ["please", "read", *maker.text(3, 9), *words, "thank", "you"] if len(words) >= 6 else None
    return maker.edited(words)


def bigrams(mask: Masking, text: str) -> set[tuple[str, str]]:
    words = ["", *mask(words_of(text)), ""]
    return set(itertools.pairwise(words))


def made(n: int, shape: str, seed: int) -> tuple[list[Any], list[Any], dict[int, tuple[str, float]]]:
    """(training rows, items, training row -> (planted kind, exact Jaccard with its original))."""
    maker, mask = Maker(seed), Masking(IDENTITY_TERMS)
    low, high = (12, 40) if shape == "pairs" else (6, 30)
    templates = [maker.text(12, 16) for _ in range(20)]
    # the other side's templates: the same beginning; alike, and not the same
    others = [words[:7] + maker.text(len(words) - 7, len(words) - 7) for words in templates]

    def drawn(of: list[list[str]]) -> list[str]:
        if shape != "templates":
            return maker.text(low, high)
        words = list(maker.rng.choice(of))
        for at in (3, 10):
            words[at] = maker.words[maker.rng.randrange(2000)]
        return words

    originals = [drawn(templates) for _ in range(n)]
    shares = (("exact", 0.01), ("identity-swapped", 0.01), ("quoted", 0.01), ("near-duplicate", 0.05))
    texts: list[str] = []
    truth: dict[int, tuple[str, float]] = {}
    for kind, share in shares:
        for _ in range(int(n * share)):
            words = originals[maker.rng.randrange(n)]
            new = planted(maker, words, kind)
            if new is None:
                continue
            text = new if isinstance(new, str) else maker.spelled(new)
            one, other = bigrams(mask, text), bigrams(mask, " ".join(words))
            truth[len(texts)] = (kind, len(one & other) / len(one | other))
            texts.append(text)
    texts += [maker.spelled(drawn(others)) for _ in range(n - len(texts))]
    order = list(range(n))
    maker.rng.shuffle(order)
    truth = {new: truth[old] for new, old in enumerate(order) if old in truth}
    texts = [texts[old] for old in order]
    items: list[Any] = [maker.spelled(words) for words in originals]
    if shape != "pairs":
        return texts, items, truth
    pairs = [
        {"prompt": [{"role": "user", "content": text}], "id": f"t{i}", "cluster": f"train-{i}",
         "chosen": [{"role": "assistant", "content": maker.spelled(maker.text(6, 20))}],
         "rejected": [{"role": "assistant", "content": maker.spelled(maker.text(6, 20))}]}
        for i, text in enumerate(texts)
    ]  # fmt: skip
    items = [
        {"prompt": text, "id": f"e{i}", "cluster": f"item-{i}",
         "options": [*(maker.spelled(maker.text(2, 9)) for _ in range(2)), "Not enough information to tell."]}
        for i, text in enumerate(items)
    ]  # fmt: skip
    return pairs, items, truth


def megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def with_datasketch(train: list[str], items: list[str], threshold: float) -> tuple[float, set[int]]:
    """datasketch's own way, its batch API, as many bands as ours: seconds, and the training rows found (verified)."""
    from datasketch import MinHash, MinHashLSH

    mask = Masking(IDENTITY_TERMS)
    began = time.monotonic()
    sets = [[bigrams(mask, text) for text in side] for side in (train, items)]

    def sketches(of: list[set[tuple[str, str]]]) -> Any:
        return MinHash.generator(([" ".join(pair).encode() for pair in one] for one in of), num_perm=96)

    index = MinHashLSH(num_perm=96, params=(32, 3))
    for number, sketch in enumerate(sketches(sets[1])):
        index.insert(number, sketch, check_duplication=False)
    found = set()
    for number, (sketch, one) in enumerate(zip(sketches(sets[0]), sets[0], strict=True)):
        if any(len(one & sets[1][at]) >= threshold * len(one | sets[1][at]) for at in index.query(sketch)):
            found.add(number)
    return time.monotonic() - began, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--shape", choices=("texts", "pairs", "templates"), default="texts")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--datasketch", action="store_true", help="time the library's own index too (small --rows)")
    parser.add_argument("--json", help="write the numbers here")
    own = parser.parse_args()
    train, items, truth = made(own.rows, own.shape, own.seed)
    before = megabytes()
    settings = WallSettings()
    report = wall(train, {"made": items}, settings=settings)
    peak = megabytes()
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print(f"{own.rows:,} × {own.rows:,} {own.shape}: {report.seconds:.1f} s, peak {peak:,.0f} MiB ({before:,.0f} before)")
    table: dict[str, tuple[int, int]] = {}
    for kind in ("exact", "identity-swapped", "quoted"):
        rows = [row for row, (planted_kind, _) in truth.items() if planted_kind == kind]
        table[kind] = (int(report.leaking[rows].sum()), len(rows))
    near = {row: jaccard for row, (kind, jaccard) in truth.items() if kind == "near-duplicate"}
    for low, high in itertools.pairwise(LEVELS):
        rows = [row for row, jaccard in near.items() if low <= jaccard < high]
        table[f"near-duplicate, J {low:.2f} to {high:.2f}"] = (int(report.leaking[rows].sum()), len(rows))
    print("| planted | found | of | recall |\n| --- | ---: | ---: | ---: |")
    for name, (found, total) in table.items():
        print(f"| {name} | {found} | {total} | {found / total if total else float('nan'):.4f} |")
    under = [row for row, jaccard in near.items() if jaccard < settings.near_duplicate]
    unplanted = np.ones(own.rows, dtype=bool)
    unplanted[list(truth)] = False
    false = int(report.leaking[unplanted].sum())
    reported = report.leaks
    print(f"reported: {reported}; of rows with nothing planted: {false}; of {len(under)} edited beyond the threshold: "
          f"{int(report.leaking[under].sum())}; precision {1 - false / max(reported, 1):.4f}")  # fmt: skip
    numbers = {
        "rows": own.rows, "shape": own.shape, "seconds": report.seconds, "peak_mib": round(peak),
        "before_mib": round(before), "table": table, "unplanted": false, "reported": reported, "crowded": report.crowded,
    }  # fmt: skip
    if own.datasketch:
        seconds, found = with_datasketch(train, items, settings.near_duplicate)
        wanted = {row for row, jaccard in near.items() if jaccard >= settings.near_duplicate}
        print(f"datasketch's own MinHash.bulk and MinHashLSH: {seconds:.1f} s ({seconds / report.seconds:.1f} times ours), "
              f"recall of near-duplicates {len(found & wanted) / len(wanted):.4f}, peak {megabytes():,.0f} MiB")  # fmt: skip
        numbers["datasketch_seconds"] = round(seconds, 1)
    if own.json:
        with open(own.json, "w", encoding="utf-8") as file:
            json.dump(numbers, file, indent=1)


if __name__ == "__main__":
    main()
