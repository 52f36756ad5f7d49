"""How often the counterfactual texts are wrong, by class of phenomenon, beside a plain exchange of words.

    python benchmarks/counterfactuals.py                    # the tables
    python benchmarks/counterfactuals.py --failures         # and every sentence that is wrong
    python benchmarks/counterfactuals.py --write            # put the tables into docs/counterfactuals.md
    python benchmarks/counterfactuals.py --winobias FOLDER  # English pronouns in sentences that others wrote

A sentence counts as wrong unless the whole of it is as expected, to the character. "Word exchange": the word pairs of the
same lists, exchanged without grammar (``data/swapping.py``), what most counterfactual data is made with.
"""

from __future__ import annotations

import argparse
import csv
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

from teachfair.data.counterfactuals import swap
from teachfair.data.counterfactuals.texts import name_pairs, read_list
from teachfair.data.swapping import swapped_text

ROOT = Path(__file__).resolve().parent.parent
DOC = ROOT / "docs" / "counterfactuals.md"
BEGIN, END = "<!-- error rates: written by benchmarks/counterfactuals.py --write -->", "<!-- end of error rates -->"
NAMES = {"en": "English", "fr": "French"}
PARTS = ("held-out", "in-sample by hand", "in-sample by rule")


def sentences(lang: str) -> list[dict[str, str]]:
    """The known-answer set, every row with ``part`` as one of :data:`PARTS`."""
    path = ROOT / "tests" / "data" / f"counterfactuals_{lang}.tsv"
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    return [{**r, "part": r["part"] if r["part"] == "held-out" else f"in-sample by {r['made']}"} for r in rows]


def counterfactual(row: dict[str, str], lang: str, text: str, parser: Any = None) -> str:
    if row["class"] in ("origin", "religion"):
        return swap(text, lang, row["class"], groups=row["groups"].split("+")).text
    return swap(text, lang, parser=parser).text


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
    """Every row with ``got``, ``wrong``, ``back`` (the inverse gives the text back) and ``exchanged_wrong``."""
    plain = word_exchange(lang)
    made = []
    for row in sentences(lang):
        got = counterfactual(row, lang, row["text"], parser)
        made.append(
            {
                **row, "got": got, "wrong": got != row["expected"],
                "back": counterfactual(row, lang, got, parser) == row["text"],
                "exchanged_wrong": swapped_text(row["text"], plain) != row["expected"],
            }
        )  # fmt: skip
    return made


def tables(failures: bool = False) -> str:
    lines: list[str] = []
    for lang, name in NAMES.items():
        found = judged(lang)
        lines += [f"### {name} ({len(found)} sentences)", ""]
        lines += ["| part | sentences | wrong | error rate, % | 95 % interval | word exchange wrong, % | inverse right, % |",
                  "|---|---|---|---|---|---|---|"]  # fmt: skip
        for part in PARTS:
            rows = [row for row in found if row["part"] == part]
            wrong, n = sum(row["wrong"] for row in rows), len(rows)
            gendered = [row for row in rows if row["class"] not in ("origin", "religion")]
            exchanged = 100 * sum(row["exchanged_wrong"] for row in gendered) / len(gendered)
            back = 100 * sum(row["back"] for row in rows) / n
            lines.append(
                f"| {part} | {n} | {wrong} | {100 * wrong / n:.1f} | {wilson(wrong, n)} | {exchanged:.1f} | {back:.1f} |"
            )
        lines += [
            "",
            "| class | held-out: wrong of | in-sample by hand: wrong of | in-sample by rule: wrong of |",
            "|---|---|---|---|",
        ]
        counts: dict[str, dict[str, list[int]]] = defaultdict(lambda: {part: [0, 0] for part in PARTS})
        for row in found:
            counts[row["class"]][row["part"]][0] += row["wrong"]
            counts[row["class"]][row["part"]][1] += 1
        for kind in sorted(counts):
            cells = [f"{wrong} of {n}" if n else "–" for wrong, n in (counts[kind][part] for part in PARTS)]
            lines.append(f"| {kind} | {' | '.join(cells)} |")
        lines.append("")
        if failures:
            for row in found:
                if row["wrong"]:
                    lines += [
                        f"[{row['part']}, {row['class']}] {row['text']}",
                        f"    got      {row['got']}",
                        f"    expected {row['expected']}",
                    ]
            lines.append("")
    return "\n".join(lines)


def winobias(folder: Path) -> dict[str, tuple[int, int]]:
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
                    got = swap(texts[source], "en").text.split()
                    found = counts[words[source][places[0]].lower().rstrip(".,")]
                    found[0] += 1
                    found[1] += got[places[0]] != words[wanted][places[0]]
    return {word: (n, wrong) for word, (n, wrong) in sorted(counts.items())}


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
    options = parser.parse_args()
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
            wrong = sum(row["wrong"] for row in rows)
            print(f"{part}: {wrong} of {len(rows)} wrong with {options.spacy} (gender only)")
            if options.failures:
                print("\n".join(f"  {row['text']} -> {row['got']}" for row in rows if row["wrong"]))
        return
    if options.write:
        document = DOC.read_text(encoding="utf-8")
        before, after = document.split(BEGIN, 1)[0], document.split(END, 1)[1]
        DOC.write_text(f"{before}{BEGIN}\n\n{tables().strip()}\n\n{END}{after}", encoding="utf-8")
    print(tables(options.failures))


if __name__ == "__main__":
    main()
