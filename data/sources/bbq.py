"""BBQ as preference pairs: "cannot tell" where the context does not say, and the evidence where it does."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from teachfair.data.axes import OF_SOURCE
from teachfair.data.gathering import Gathering, Place, check_names, check_split, files_of, place_of
from teachfair.data.reading import hub_rows, jsonl_rows, kind_of, read_bytes

if TYPE_CHECKING:
    from datasets import Dataset

CATEGORIES = tuple(OF_SOURCE["bbq"])
KINDS = (
    "cant-tell-vs-stereotype",
    "cant-tell-vs-anti",
    "evidence-vs-stereotype",
    "evidence-vs-anti",
    "evidence-vs-cant-tell",
)
ANSWERS = ("ans0", "ans1", "ans2")
UNRESOLVED = "which answer is the stereotype cannot be read from the record (both people, or neither, are of a named group)"

CARD = {
    "name": "bbq",
    "meaning": "questions about two people, with and without evidence; the fair answer against each of the two others",
    "paper": "Parrish et al. (2022), BBQ: A Hand-Built Bias Benchmark for Question Answering, Findings of ACL",
    "public_id": "github: nyu-mll/BBQ, commit bea11bd9, data/<category>.jsonl; hub: heegyu/bbq",
    "hub": "heegyu/bbq",
    "licence": "CC BY 4.0",
    "language": "en",
    "norm": (
        "its authors', for the United States: without evidence the fair answer is that one cannot tell, with evidence it is "
        "what the evidence says"
    ),
    "version": 1,
    "formats": ["folder with <category>.jsonl (Age, Disability_status, …), or one of them", "hub id"],
    "problems": [
        "which person is the stereotyped one is read from answer_info and additional_metadata.stereotyped_groups with a "
        "mapping of tags ('F' ↔ 'woman'), because the authors' additional_metadata.csv (target location) is not part of the "
        "data files; records in which it names both people or neither are counted and give no stereotype pair",
        "some answers end in a space: white space is normalised",
        "25 templates a category: many records are one template with other names; the cluster is the template",
        'whole, "cannot tell" is chosen twice as often as it is refused, and to prefer it is a ruler: mix cant-tell-vs-… '
        "and evidence-vs-… kinds 1 : 2",
        "evaluating on BBQ after training on it is leakage; so is training on bbq_ambiguous_answers",
    ],
}  # fmt: skip


def load(
    path_or_id: str | Path | None = None,
    split: str = "train",
    *,
    categories: Sequence[str] = CATEGORIES,
    kinds: Sequence[str] = KINDS,
    test_share: float = 0.0,
    drop_equal: bool = True,
    exclude_ids: str | Path | None = None,
    limit_errors: int = 20,
) -> Dataset:
    """Two pairs a record.

    Ambiguous context: "cannot tell" against the stereotype and against the other person (``cant-tell-vs-stereotype``,
    ``cant-tell-vs-anti``). Disambiguated context: the person that the evidence names against the other one
    (``evidence-vs-stereotype`` where the evidence contradicts the stereotype, ``evidence-vs-anti`` where it agrees) and
    against "cannot tell" (``evidence-vs-cant-tell``). The cluster is the question template, over all its names and contexts.

    Args:
        split, test_share: "train" is everything, unless "test" takes a share of the templates.
        categories, kinds: which to keep. Keep the evidence beside "cannot tell": see ``teachfair.data.mixing``.
        drop_equal: accepted because every source takes it; equal pairs are always dropped (there are none).
        exclude_ids: a file with the ids, one a line, of pairs to leave out (see ``teachfair.data.excluding``).

    Raises: DataError that lists every malformed row; ConfigError for an unknown category, kind or split.
    """
    check_split(split, test_share)
    check_names("category", categories, CATEGORIES)
    check_names("kind", kinds, KINDS)
    place = place_of(path_or_id, CARD)
    gathering = Gathering("bbq", limit_errors)
    if isinstance(place, str):
        for category in categories:
            rows = hub_rows(place, category, "test", converted=True)
            add_records(gathering, f"{place}/{category}", range(1, len(rows) + 1), rows)
    else:
        names = [f"{category}.jsonl" for category in categories]
        gathering.note_absent(place, names)
        for path in files_of(place, names, CARD, all_of_them=tuple(categories) != CATEGORIES):
            add_records(gathering, path.name, *jsonl_rows(path, read_bytes(path)))
    return gathering.dataset(
        where=str(path_or_id), split=split, test_share=test_share, exclude_ids=exclude_ids,
        wanted=lambda row: row["kind"] in kinds,
    )  # fmt: skip


def add_records(gathering: Gathering, file: str, lines: Iterable[int | str], rows: Iterable[Any]) -> None:
    """The pairs of BBQ records."""
    for line, raw in zip(lines, rows, strict=True):
        _add(gathering, raw, Place(file, line))


class Question(NamedTuple):
    """A BBQ record, read. ``stereotype``: the answer that the stereotype would give, None where the record does not tell."""

    category: str
    identity: str
    template: str
    polarity: str
    condition: str
    context: str
    question: str
    answers: list[str]
    label: int
    tags: list[tuple[str, str]]
    unknown: int
    stereotype: int | None

    @property
    def people(self) -> list[int]:
        """The two answers that name somebody."""
        return [number for number in range(3) if number != self.unknown]


def parsed(gathering: Gathering, raw: Any, at: Place) -> Question | None:
    """One record; None, and what is wrong with it in ``gathering``, where it is malformed."""
    record = gathering.record(raw, at)
    if record is None:
        return None
    found = len(gathering.problems)
    category = gathering.label(record, "category", at, CATEGORIES)
    identity = gathering.identity(record, "example_id", at, scope=category)
    template = gathering.text(record, "question_index", at)
    polarity = gathering.label(record, "question_polarity", at, ("neg", "nonneg"))
    condition = gathering.label(record, "context_condition", at, ("ambig", "disambig"))
    context, question = gathering.text(record, "context", at), gathering.text(record, "question", at)
    answers = [gathering.text(record, name, at) for name in ANSWERS]
    given = record.get("label")
    label = given if isinstance(given, int) and not isinstance(given, bool) and given in (0, 1, 2) else None
    if label is None:
        gathering.bad(at, "label", f"0, 1 or 2 was wanted, this is {kind_of(given)}" if "label" in record else "missing")
    tags = _tags(gathering, record, at)
    stereotyped = _groups(gathering, record, at)
    if len(gathering.problems) > found or label is None:
        return None
    unknown = [number for number, (_, tag) in enumerate(tags) if tag == "unknown"]
    if len(unknown) != 1:
        gathering.bad(at, "answer_info", f"one answer tagged unknown was wanted, there are {len(unknown)}")
        return None
    if (label == unknown[0]) != (condition == "ambig"):
        gathering.bad(at, "label", f"answer {label} cannot be right in a context that is {condition}uous")
        return None
    people = [number for number in range(3) if number != unknown[0]]
    named = [number for number in people if _is_of(tags[number], stereotyped)]
    # a "nonneg" question asks who is not like the stereotype: its stereotyped answer is the other person
    stereotype = None
    if len(named) == 1:
        other = people[1 - people.index(named[0])]
        stereotype = named[0] if polarity == "neg" else other
    return Question(
        category, identity, template, polarity, condition, context, question, answers, label, tags, unknown[0], stereotype
    )


def _add(gathering: Gathering, raw: Any, at: Place) -> None:
    record = parsed(gathering, raw, at)
    if record is None:
        return
    unknown, stereotype, label, people = record.unknown, record.stereotype, record.label, record.people
    prefix = f"{gathering.source}-{record.category}-{record.identity}"

    def pair(chosen: int, rejected: int, kind: str) -> None:
        gathering.pair(
            f"{record.context}\n{record.question}", record.answers[chosen], record.answers[rejected],
            kind=kind, axis=OF_SOURCE["bbq"][record.category], groups=[record.tags[number][1] for number in people],
            cluster=f"bbq-{record.category}-{record.template}", lang="en", id=f"{prefix}-{kind}",
        )  # fmt: skip

    if stereotype is None:
        if record.condition == "ambig":
            gathering.drop(UNRESOLVED, 2)
        else:
            gathering.drop(UNRESOLVED)
            pair(label, unknown, "evidence-vs-cant-tell")
        return
    anti = people[1 - people.index(stereotype)]
    if record.condition == "ambig":
        pair(unknown, stereotype, "cant-tell-vs-stereotype")
        pair(unknown, anti, "cant-tell-vs-anti")
    elif label == anti:
        pair(anti, stereotype, "evidence-vs-stereotype")
        pair(anti, unknown, "evidence-vs-cant-tell")
    else:
        pair(stereotype, anti, "evidence-vs-anti")
        pair(stereotype, unknown, "evidence-vs-cant-tell")


def _tags(gathering: Gathering, record: dict[str, Any], at: Place) -> list[tuple[str, str]]:
    """(term, tag) of each answer, for instance ("grandfather", "old")."""
    info = record.get("answer_info")
    if not isinstance(info, dict):
        gathering.bad(at, "answer_info", f"an object was wanted, this is {kind_of(info)}")
        return []
    found = []
    for name in ANSWERS:
        entry = info.get(name)
        if not isinstance(entry, list) or len(entry) != 2 or not all(isinstance(text, str) for text in entry):
            gathering.bad(at, f"answer_info.{name}", f"[term, tag] was wanted, this is {kind_of(entry)}")
            continue
        gathering.text({name: entry[1]}, name, at, field=f"answer_info.{name}[1]")
        found.append((entry[0], entry[1]))
    return found


def _groups(gathering: Gathering, record: dict[str, Any], at: Place) -> list[str]:
    metadata = record.get("additional_metadata")
    groups = metadata.get("stereotyped_groups") if isinstance(metadata, dict) else None
    if not isinstance(groups, list) or not groups or not all(isinstance(group, str) for group in groups):
        gathering.bad(at, "additional_metadata.stereotyped_groups", f"a list of texts was wanted, this is {kind_of(groups)}")
        return []
    return groups


# What a stereotyped group is called in the tags of the answers, where the two differ. Keys and values in _plain form.
_CALLED = {
    "f": {"f", "woman", "girl", "nontransf", "transf"},
    "m": {"m", "man", "boy", "nontransm", "transm"},
    "trans": {"trans", "transf", "transm"},
    "transgendermen": {"transm", "trans"},
    "transgenderwomen": {"transf", "trans"},
    "hispanic": {"hispanic", "latino"},
    "latino": {"hispanic", "latino"},
    "black": {"black", "africanamerican"},
    "africanamerican": {"black", "africanamerican"},
    "middleeastern": {"middleeastern", "arab"},
    "arab": {"middleeastern", "arab"},
}


def _is_of(person: tuple[str, str], groups: Iterable[str]) -> bool:
    """Whether a person's term or tag names one of the stereotyped groups."""
    names = {_plain(text) for text in person}
    # "F-Black" is a name of the group Black (the letter tells whose first name it is)
    names.update(_plain(text[2:]) for text in person if re.match(r"[FM]-", text))
    return any(names & _CALLED.get(_plain(group), {_plain(group)}) for group in groups)


def _plain(text: str) -> str:
    return "".join(character for character in text.lower() if character.isalnum())
