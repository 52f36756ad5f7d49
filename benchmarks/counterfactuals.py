"""How often the counterfactual texts are wrong, by class of phenomenon, beside a plain exchange of words.

    python benchmarks/counterfactuals.py                    # the tables
    python benchmarks/counterfactuals.py --failures         # and every sentence that is wrong
    python benchmarks/counterfactuals.py --write            # put the tables into docs/counterfactuals.md
    python benchmarks/counterfactuals.py --winobias FOLDER  # English pronouns in sentences that others wrote
    python benchmarks/counterfactuals.py --draw fr --data FOLDER --part reserved --count 80  # to be judged by eye

A sentence is right if the whole of it is as expected, to the character; left undecided if it should have changed and was
left as it was because of a doubt (``unsure="leave"``, the default); else wrong. "Word exchange": the word pairs of the
same lists, exchanged without grammar (``data/swapping.py``), what most counterfactual data is made with.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from teachfair.data.counterfactuals import Swapped, swap
from teachfair.data.counterfactuals.texts import name_pairs, read_list
from teachfair.data.swapping import swapped_text

ROOT = Path(__file__).resolve().parent.parent
DOC = ROOT / "docs" / "counterfactuals.md"
BEGIN, END = "<!-- error rates: written by benchmarks/counterfactuals.py --write -->", "<!-- end of error rates -->"
NAMES = {"en": "English", "fr": "French"}
HELD_OUT, OLD = "held-out", "held-out 1, mended on since"
PARTS = (HELD_OUT, OLD, "in-sample by hand", "in-sample by rule")


def sentences(lang: str) -> list[dict[str, str]]:
    """The known-answer set, every row with ``part`` as one of :data:`PARTS`."""
    path = ROOT / "tests" / "data" / f"counterfactuals_{lang}.tsv"
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    parts = {"held-out": HELD_OUT, "held-out-1": OLD}
    return [{**r, "part": parts.get(r["part"], f"in-sample by {r['made']}")} for r in rows]


def counterfactual(row: dict[str, str], lang: str, text: str, parser: Any = None, unsure: str = "leave") -> Swapped:
    if row["class"] in ("origin", "religion"):
        return swap(text, lang, row["class"], groups=row["groups"].split("+"))
    return swap(text, lang, parser=parser, unsure=unsure)


def word_exchange(lang: str) -> list[list[str]]:
    """The one-to-one pairs of the lists, and her/his, il/elle: what can be exchanged without grammar."""
    pairs = [["his", "her"]] if lang == "en" else [["il", "elle"], ["ils", "elles"], ["le", "la"], ["un", "une"]]
    for row in read_list("english_gender" if lang == "en" else "french_gender"):
        pairs.append([row["male"], row["female"]])
    for name, (other, gender, _) in name_pairs(lang).items():
        if gender == "m":
            pairs.append([name, other.lower()])
    seen: set[str] = set()
    kept = []
    for one, other in pairs:
        if not {one, other} & seen and one != other:
            seen |= {one, other}
            kept.append([one, other])
    return kept


def wilson(wrong: int, n: int) -> str:
    """95 % interval of a rate, in percent."""
    from scipy.stats import binomtest

    low, high = binomtest(wrong, n).proportion_ci(method="wilson")
    return f"{100 * low:.0f}–{100 * high:.0f}"


def judged(lang: str, parser: Any = None) -> list[dict[str, Any]]:
    """Every row with ``got`` and ``outcome`` ("right", "left" or "wrong"), the same of ``unsure="swap"`` as ``guess`` and
    ``guess_wrong``, ``back`` (the inverse gives the text back; None of a text left undecided) and ``exchanged_wrong``.
    """
    plain = word_exchange(lang)
    made = []
    for row in sentences(lang):
        got = counterfactual(row, lang, row["text"], parser)
        guess = counterfactual(row, lang, row["text"], parser, "swap")
        right = got.text == row["expected"]
        again = counterfactual(row, lang, guess.text, parser, "swap").text
        made.append(
            {
                **row, "got": got.text, "outcome": "right" if right else "left" if got.undecided else "wrong",
                "why": "; ".join(f"{left.word}: {left.reason}" for left in got.doubts),
                "guess": guess.text, "guess_wrong": guess.text != row["expected"], "back": again == row["text"],
                "exchanged_wrong": swapped_text(row["text"], plain) != row["expected"],
            }
        )  # fmt: skip
    return made


def tables(failures: bool = False) -> str:
    lines: list[str] = []
    for lang, name in NAMES.items():
        found = judged(lang)
        lines += [f"### {name} ({len(found)} sentences)", ""]
        lines += ["| part | sentences | right | left undecided | **wrong** | wrong, % | 95 % interval | "
                  "wrong with `unsure=\"swap\"`, % | word exchange wrong, % | inverse right, % |",
                  "|---|---|---|---|---|---|---|---|---|---|"]  # fmt: skip
        for part in PARTS:
            rows = [row for row in found if row["part"] == part]
            if not rows:
                continue
            n, counts = len(rows), Counter(row["outcome"] for row in rows)
            wrong = counts["wrong"]
            gendered = [row for row in rows if row["class"] not in ("origin", "religion")]
            exchanged = 100 * sum(row["exchanged_wrong"] for row in gendered) / len(gendered)
            back = 100 * sum(row["back"] for row in rows) / n
            guess = 100 * sum(row["guess_wrong"] for row in rows) / n
            lines.append(
                f"| {part} | {n} | {counts['right']} | {counts['left']} | {wrong} | {100 * wrong / n:.1f} | "
                f"{wilson(wrong, n)} | {guess:.1f} | {exchanged:.1f} | {back:.1f} |"
            )
        lines += [
            "",
            f"| class | {' | '.join(f'{part}: wrong + left of' for part in PARTS)} |",
            f"|---|{'---|' * len(PARTS)}",
        ]
        by_class: dict[str, dict[str, Counter[str]]] = defaultdict(lambda: {part: Counter() for part in PARTS})
        for row in found:
            by_class[row["class"]][row["part"]][row["outcome"]] += 1
        for kind in sorted(by_class):
            cells = [
                f"{c['wrong']} + {c['left']} of {c.total()}" if c.total() else "–"
                for c in (by_class[kind][p] for p in PARTS)
            ]
            lines.append(f"| {kind} | {' | '.join(cells)} |")
        lines.append("")
        if failures:
            for row in found:
                if row["outcome"] != "right":
                    lines += [
                        f"[{row['part']}, {row['class']}, {row['outcome']}] {row['text']}",
                        f"    got      {row['guess']}   {row['why']}",
                        f"    expected {row['expected']}",
                    ]
            lines.append("")
    return "\n".join(lines)


def winobias(folder: Path, unsure: str = "swap") -> dict[str, tuple[int, int]]:
    """Pronoun of the source → (sentences, wrong), on WinoBias (Zhao et al. 2018): each line once by each gender.

    Lines whose two versions differ in more than the one pronoun are left out; only that pronoun is judged.
    """
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for name in ("type1", "type2"):
        for part in ("dev", "test"):
            files = [folder / f"{side}_stereotyped_{name}.txt.{part}" for side in ("pro", "anti")]
            lines = [file.read_text(encoding="utf-8").splitlines() for file in files]
            for pair in zip(*lines, strict=True):
                texts = [re.sub(r"[\[\]]", "", re.sub(r"^\d+\s+", "", line.strip())) for line in pair]
                words = [text.split() for text in texts]
                if len(words[0]) != len(words[1]):
                    continue
                places = [i for i, (a, b) in enumerate(zip(*words, strict=True)) if a != b]
                if len(places) != 1:
                    continue
                for source, wanted in ((0, 1), (1, 0)):
                    got = swap(texts[source], "en", unsure=unsure).text.split()
                    found = counts[words[source][places[0]].lower().rstrip(".,")]
                    found[0] += 1
                    found[1] += got[places[0]] != words[wanted][places[0]]
    return {word: (n, wrong) for word, (n, wrong) in sorted(counts.items())}


def real_sentences(lang: str, data: Path) -> dict[str, list[str]]:
    """Sentences that others wrote: "mending" (the rules may be mended on them) and "reserved" (judged only).

    CrowS-Pairs as revised in both languages (``crows_pairs_multilingual/``), in English StereoSet too
    (``stereoset/dev.json``, the two sentences that are not "unrelated"). One sentence of a pair; a pair is reserved or not
    by the hash of its text, in hash order.
    """
    name = "crows_eng.csv" if lang == "en" else "crows_french.csv"
    with (data / "crows_pairs_multilingual" / name).open(encoding="utf-8", newline="") as file:
        pairs = [(row["sent_more"].strip(), row["sent_less"].strip()) for row in csv.DictReader(file)]
    if lang == "en":
        for item in json.loads((data / "stereoset" / "dev.json").read_text(encoding="utf-8")):
            told = [entry["sentence"].strip() for entry in item["sentences"] if entry["gold_label"] != "unrelated"]
            pairs.append((told[0], told[1]))
    parts: dict[str, list[tuple[str, str]]] = {"mending": [], "reserved": []}
    for pair in dict.fromkeys(pairs):
        digest = hashlib.sha256(" ".join(sorted(pair)).encode()).hexdigest()
        parts["reserved" if int(digest[0], 16) % 2 else "mending"].append((digest, pair[int(digest[1], 16) % 2]))
    return {part: list(dict.fromkeys(text for _, text in sorted(found))) for part, found in parts.items()}


def draw(lang: str, data: Path, part: str, count: int, skip: int = 0) -> list[tuple[str, Any]]:
    """The first ``count`` sentences of a part, after ``skip``, that the rules (``unsure="swap"``) change."""
    found = [(text, swap(text, lang, unsure="swap")) for text in real_sentences(lang, data)[part]]
    return [(text, made) for text, made in found if made.changes][skip : skip + count]


def published(document: str) -> str:
    """The tables as they stand in the document."""
    return document.split(BEGIN, 1)[1].split(END, 1)[0].strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--failures", action="store_true", help="list every sentence that is wrong")
    parser.add_argument("--write", action="store_true", help="write the tables into docs/counterfactuals.md")
    parser.add_argument(
        "--spacy", metavar="PIPELINE", help="French with an installed spaCy pipeline: only the rates of its parts"
    )
    parser.add_argument("--winobias", metavar="FOLDER", type=Path, help="a folder with WinoBias' authors' files")
    parser.add_argument(
        "--draw", choices=sorted(NAMES), help="print real sentences of this language and their counterfactuals"
    )
    parser.add_argument("--data", metavar="FOLDER", type=Path, help="holds crows_pairs_multilingual/ and stereoset/")
    parser.add_argument("--part", choices=("mending", "reserved"), default="reserved", help="the part to draw from")
    parser.add_argument("--count", type=int, default=80, help="sentences to draw")
    parser.add_argument("--skip", type=int, default=0, help="sentences of the part to pass over")
    options = parser.parse_args()
    if options.draw:
        if options.data is None:
            parser.error("--draw needs --data FOLDER")
        for number, (text, made) in enumerate(
            draw(options.draw, options.data, options.part, options.count, options.skip), 1
        ):
            doubts = "; ".join(f"{left.word}: {left.reason}" for left in made.doubts)
            print(f"{number}. {text}\n   {made.text}" + (f"\n   LEFT  {doubts}" if doubts else ""))
        return
    if options.winobias:
        found_by_word = winobias(options.winobias)
        for word, (n, wrong) in found_by_word.items():
            print(f"{word}: {wrong} of {n} wrong")
        total, wrong = (sum(pair[i] for pair in found_by_word.values()) for i in (0, 1))
        print(f"all: {wrong} of {total} wrong ({100 * wrong / total:.1f} %, 95 % interval {wilson(wrong, total)} %)")
        return
    if options.spacy:
        from teachfair.data.counterfactuals.parsing import spacy_parser

        found = judged("fr", spacy_parser(options.spacy))
        for part in PARTS:
            rows = [row for row in found if row["part"] == part and row["class"] not in ("origin", "religion")]
            wrong = sum(row["guess_wrong"] for row in rows)
            print(f"{part}: {wrong} of {len(rows)} wrong with {options.spacy} (gender only)")
            if options.failures:
                print("\n".join(f"  {row['text']} -> {row['guess']}" for row in rows if row["guess_wrong"]))
        return
    if options.write:
        document = DOC.read_text(encoding="utf-8")
        before, after = document.split(BEGIN, 1)[0], document.split(END, 1)[1]
        DOC.write_text(f"{before}{BEGIN}\n\n{tables().strip()}\n\n{END}{after}", encoding="utf-8")
    print(tables(options.failures))


if __name__ == "__main__":
    main()
