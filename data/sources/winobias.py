"""WinoBias as preference pairs: sentences whose pronoun agrees or disagrees with a stereotype of an occupation."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from teachfair.data.gathering import Gathering, Place, check_names, check_split, place_of
from teachfair.data.reading import decoded, read_bytes, text_problems
from teachfair.errors import DataError, unknown_name

if TYPE_CHECKING:
    from datasets import Dataset

TYPES = ("type1", "type2")
PARTS = ("dev", "test")
FORMS = ("sentences", "questions")
PROMPT = "Write one sentence."
FEMALE = (
    "attendant cashier teacher nurse assistant secretary auditor cleaner receptionist clerk counselor designer hairdresser "
    "writer housekeeper baker accountant editor librarian tailor"
).split()
MALE = [
    *(
        "driver supervisor janitor cook mover laborer chief developer carpenter manager lawyer farmer salesperson physician "
        "guard analyst mechanic sheriff ceo"
    ).split(),
    "construction worker",
]
PRONOUNS = {
    "he": "male", "him": "male", "his": "male", "himself": "male",
    "she": "female", "her": "female", "hers": "female", "herself": "female",
}  # fmt: skip
COUNTERPARTS = {("he", "she"), ("him", "her"), ("his", "her"), ("his", "hers"), ("himself", "herself")}

OTHER_WORDS = "other words than the pronouns differ between the two lines"
EXCHANGED = "the two lines name the occupations in exchanged roles"
DIFFERENT = "the two lines are different sentences"
NOT_TWO = "the sentence does not name two occupations of the authors' lists"
CONTRADICTS = "the pronoun does not fit the file (pro- or anti-stereotyped) by the authors' occupation lists"

CARD = {
    "name": "winobias",
    "meaning": "sentences with two occupations and a pronoun that agrees (pro) or disagrees (anti) with a stereotype",
    "paper": "Zhao, Wang, Yatskar, Ordonez and Chang (2018), Gender Bias in Coreference Resolution, NAACL",
    "public_id": "github: uclanlp/corefBias, commit 0bce984d, WinoBias/wino/data",
    "licence": "MIT",
    "language": "en",
    "norm": "which occupations are stereotypically whose: United States labour statistics of the time",
    "version": 1,
    "formats": ["folder with pro_stereotyped_type1.txt.dev, anti_stereotyped_type1.txt.dev, … (type1, type2; dev, test)"],
    "problems": [
        "form 'sentences' prefers the anti-stereotypical sentence: the opposite association, not parity",
        "form 'questions' asks whom the pronoun means; every line has one right answer, so that pro and anti lines together "
        "teach to use the evidence and nothing about groups (evidence-vs-anti, evidence-vs-stereotype)",
        'as questions, type 2 is answered by "the occupation named second" (1,575 of 1,579 that name both so); in type 1 '
        "either is right as often: types=('type1',)",
        "the files are not fully aligned: pairs of different sentences, with exchanged roles, or in which other words "
        "differ, are dropped and counted by reason; where more than one pronoun differs (he … his) a pair is kept",
        "double and trailing spaces, and 'the the', tell lines apart: normalised",
        "the authors' female_occupations.txt ends without a line break: joining both lists makes 'tailordriver'",
        "evaluating on WinoBias after training on it is leakage",
    ],
}


class Line(NamedTuple):
    words: list[str]
    referent: str  # without article, lower case
    pronouns: list[str]


def load(
    path_or_id: str | Path | None = None,
    split: str = "train",
    *,
    form: str = "sentences",
    types: Sequence[str] = TYPES,
    parts: Sequence[str] = PARTS,
    test_share: float = 0.0,
    drop_equal: bool = True,
    exclude_ids: str | Path | None = None,
    limit_errors: int = 20,
) -> Dataset:
    """Pairs of the line-by-line files (396 lines each), axis ``gender``; the cluster is the two occupations.

    Args:
        split, test_share: "train" is every part, unless "test" takes a share of the clusters.
        form: "sentences": the anti-stereotyped line is chosen over the pro-stereotyped one, where only pronouns differ.
            "questions": whom does the pronoun mean? The right occupation over the other one, one pair a line.
        types, parts: which files. Type 1 needs knowledge of the world, type 2 syntax only.
        drop_equal: accepted because every source takes it; equal pairs are always dropped (there are none).
        exclude_ids: a file with the ids, one a line, of pairs to leave out (see ``teachfair.data.excluding``).

    Raises: DataError that lists every malformed line, or says which file is absent; ConfigError for an unknown name.
    """
    check_split(split, test_share)
    if form not in FORMS:
        raise unknown_name("form", form, FORMS)
    check_names("type", types, TYPES)
    check_names("part", parts, PARTS)
    folder = Path(place_of(path_or_id, CARD))
    gathering = Gathering("winobias", limit_errors)
    for kind in types:
        for part in parts:
            pro, anti = (file_of(folder, f"{side}_stereotyped_{kind}.txt.{part}") for side in ("pro", "anti"))
            read = [lines_of(gathering, path) for path in (pro, anti)]
            shorter, longer = (pro, anti) if len(read[0]) < len(read[1]) else (anti, pro)
            for number in range(min(map(len, read)) + 1, max(map(len, read)) + 1):
                gathering.bad(Place(shorter.name, number), "line", f"missing: {longer.name} has one, and they are aligned")
            name = f"winobias-{kind}-{part}"
            if form == "sentences":
                for number, (one, other) in enumerate(zip(*read, strict=False), start=1):
                    if one is not None and other is not None:
                        _add_sentences(gathering, one, other, f"{name}-{number:03d}")
            else:
                for side, lines in zip(("pro", "anti"), read, strict=True):
                    for number, line in enumerate(lines, start=1):
                        if line is not None:
                            _add_question(gathering, line, side, f"{name}-{number:03d}-{side}")
    return gathering.dataset(where=str(path_or_id), split=split, test_share=test_share, exclude_ids=exclude_ids)


def file_of(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.is_file():
        raise DataError(
            f"there is no {name}", where=str(folder),
            fix=f"add it ({CARD['public_id']}), or leave its type or part out; pro and anti files are read together",
        )  # fmt: skip
    return path


def lines_of(gathering: Gathering, path: Path) -> list[Line | None]:
    """The lines of a file, None (and a problem) where one is malformed."""
    text, encoding = decoded(path, read_bytes(path))
    if encoding != "utf-8":
        gathering.note(f"{path.name} was read as {encoding}")
    found: list[Line | None] = []
    for number, raw in enumerate(text.rstrip("\r\n").split("\n"), start=1):
        at = Place(path.name, number)
        gathering.counts.records += 1
        problems = list(text_problems("line", raw))
        line = None
        if problems:
            gathering.bad(at, *problems[0])
        else:
            line = _parsed(gathering, raw, at)
        found.append(line)
    return found


def _parsed(gathering: Gathering, raw: str, at: Place) -> Line | None:
    numbered = re.match(r"\s*(\d{1,6})\s+(.*)", raw)
    if numbered is None or int(numbered[1]) != at.line:
        gathering.bad(at, "number", "the line does not begin with its number")
        return None
    sentence = numbered[2]
    marks = [" ".join(mark.split()).lower() for mark in re.findall(r"\[([^\[\]]*)\]", sentence)]
    pronouns = [mark for mark in marks if mark in PRONOUNS]
    referents = [re.sub(r"^(the|an?) ", "", mark) for mark in marks if mark and mark not in PRONOUNS]
    if not pronouns:
        gathering.bad(at, "pronoun", "no [pronoun] is marked")
    if len(referents) != 1:
        gathering.bad(at, "referent", f"one [occupation] was wanted, {len(referents)} are marked")
    if not pronouns or len(referents) != 1:
        return None
    words = sentence.replace("[", " ").replace("]", " ").split()
    joined = " ".join(words)
    plain = re.sub(r"\b([Tt]he) the\b", r"\1", re.sub(r" (?=[.,;?!'])", "", joined))
    if re.search(r"\bthe the\b", joined, re.IGNORECASE):
        gathering.correct("a doubled 'the' made one")
    return Line(plain.split(), referents[0], pronouns)


def _add_sentences(gathering: Gathering, pro: Line, anti: Line, identity: str) -> None:
    reason = misaligned(pro.words, anti.words)
    if reason:
        gathering.drop(reason)
        return
    gathering.pair(
        PROMPT, " ".join(anti.words), " ".join(pro.words),
        kind="anti-vs-stereotype", axis="gender", groups=["female", "male"], cluster=cluster_of(pro.words, identity),
        lang="en", id=identity,
    )  # fmt: skip


def misaligned(pro: list[str], anti: list[str]) -> str:
    """Why two lines make no pair; "" where they differ in pronouns only."""
    one, other = ([word.strip(".,;?!").lower() for word in words] for words in (pro, anti))
    if len(one) == len(other):
        differing = [pair for pair in zip(one, other, strict=True) if pair[0] != pair[1]]
        if all(pair in COUNTERPARTS or pair[::-1] in COUNTERPARTS for pair in differing):
            return ""
    rest = [sorted(word for word in words if word not in PRONOUNS) for words in (one, other)]
    if rest[0] == rest[1] and occupations_of(pro) != occupations_of(anti):
        return EXCHANGED
    return OTHER_WORDS if sorted(occupations_of(pro)) == sorted(occupations_of(anti)) and _alike(one, other) else DIFFERENT


def _alike(one: list[str], other: list[str]) -> bool:
    import difflib

    return difflib.SequenceMatcher(None, one, other, autojunk=False).ratio() > 0.6


def _add_question(gathering: Gathering, line: Line, side: str, identity: str) -> None:
    occupations = occupations_of(line.words)
    others = [name for name in occupations if name != line.referent]
    if len(occupations) != 2 or len(others) != 1:
        gathering.drop(NOT_TWO)
        return
    fits = PRONOUNS[line.pronouns[0]] == ("male" if line.referent in MALE else "female")
    if fits != (side == "pro"):
        gathering.drop(CONTRADICTS)
        return
    gathering.pair(
        f"{' '.join(line.words)}\nWho is meant by \"{line.pronouns[0]}\"?", f"The {spelled(line.referent)}.",
        f"The {spelled(others[0])}.",
        kind="evidence-vs-anti" if side == "pro" else "evidence-vs-stereotype", axis="gender",
        groups=[PRONOUNS[line.pronouns[0]]], cluster=cluster_of(line.words, identity), lang="en", id=identity,
    )  # fmt: skip


def spelled(occupation: str) -> str:
    return "CEO" if occupation == "ceo" else occupation


def occupations_of(words: Sequence[str]) -> list[str]:
    """The occupations of the authors' lists that a sentence names, in its order, each once."""
    text = " ".join(words).lower()
    found = {match[0]: match.start() for name in (*FEMALE, *MALE) if (match := re.search(rf"\b{name}\b", text))}
    return sorted(found, key=lambda name: found[name])


def cluster_of(words: Sequence[str], identity: str) -> str:
    occupations = occupations_of(words)
    if len(occupations) != 2:
        return identity
    return "winobias-" + "-".join(sorted(name.replace(" ", "_") for name in occupations))
