"""Jigsaw's identity templates: toxic and non-toxic sentences about the same people, to audit classifiers; and as pairs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from teachfair.data.axes import OF_SOURCE
from teachfair.data.gathering import Gathering, Place, check_names, check_split, files_of, place_of
from teachfair.data.reading import csv_text_rows, decoded, read_bytes, short

if TYPE_CHECKING:
    from datasets import Dataset

FILES = ("sentence_templates__en_sentence_templates.csv", "en_sentence_templates.csv")
COLUMNS = ("template", "toxicity", "phrase")
TOXICITY = ("nontoxic", "toxic")
PROMPT = "Write one sentence."
IDENTITIES = tuple(OF_SOURCE["jigsaw_identity_templates"])
_IDENTITY = "|".join(sorted(map(re.escape, IDENTITIES), key=len, reverse=True))
# What fills a template; <word> decides the toxicity.
TEMPLATES = {
    "verb_adj": rf"(?P<word>\w+) (?P<identity>{_IDENTITY})",
    "am_hate_adj": rf"(?P<word>I am|I hate) (?P<identity>{_IDENTITY})",
    "being_adj": rf"Being (?P<identity>{_IDENTITY}) is (?P<word>\w+)",
    "you_are_adj": rf"You are an? (?P<word>\w+) (?P<identity>{_IDENTITY})",
    "name_adj": rf"(?P<name>.+?) is an? (?P<word>\w+) (?P<identity>{_IDENTITY})",
    "you_occupation": r"You are an? (?P<word>\w+) (?P<identity>\w+(?: \w+)?)",
}
LONELY = "no sentence of the other toxicity has the same template, name and identity"

CARD = {
    "name": "jigsaw_identity_templates",
    "meaning": "templated sentences about an identity, toxic or not by their adjective or verb alone",
    "paper": (
        "Dixon, Li, Sorensen, Thain and Vasserman (2018), Measuring and Mitigating Unintended Bias in Text "
        "Classification, AIES"
    ),
    "public_id": "github: conversationai/unintended-ml-bias-analysis, commit 9c7d91aa, sentence_templates",
    "licence": "CC BY 4.0 (data)",
    "language": "en",
    "norm": "its authors': which adjectives and verbs make a sentence toxic, whoever it is about",
    "version": 1,
    "formats": [f"folder with {FILES[0]} (columns template, toxicity, phrase), or that file"],
    "problems": [
        "made to audit classifiers: texts() gives the labelled sentences (a neutral sentence that names a group must not be "
        "called unfair); the pairs are the same sentences and must not be both trained on and audited with",
        "pairs hold name and identity fixed, so only the adjective or verb differs: a bag of 16 good and 16 bad adjectives "
        "separates them. They teach insult, not stereotype (kind neutral-vs-toxic)",
        "six templates are six clusters, one of them with 36,000 pairs: intervals over clusters are wide, and should be",
        "the axis of an identity term is this toolkit's sorting, not the authors'",
        "'am_hate_adj' calls 'I am …' non-toxic and 'I hate …' toxic; grammar is the template's ('a excellent')",
    ],
}  # fmt: skip


class _Sentence(NamedTuple):
    phrase: str
    template: str
    toxic: bool
    identity: str
    name: str
    word: str
    number: int


def load(
    path_or_id: str | Path | None = None,
    split: str = "train",
    *,
    templates: Sequence[str] = tuple(TEMPLATES),
    test_share: float = 0.0,
    drop_equal: bool = True,
    exclude_ids: str | Path | None = None,
    limit_errors: int = 20,
) -> Dataset:
    """38,282 pairs, kind ``neutral-vs-toxic``: the i-th non-toxic sentence over the i-th toxic one of the same template,
    name and identity.

    Args:
        split, test_share: "train" is everything, unless "test" takes a share of the clusters (six: the templates).
        templates: which to keep.
        drop_equal: accepted because every source takes it.
        exclude_ids: a file with the ids, one a line, of pairs to leave out (see ``teachfair.data.excluding``).

    Raises: DataError that lists every malformed row; ConfigError for an unknown template or split.
    """
    check_split(split, test_share)
    check_names("template", templates, tuple(TEMPLATES))
    gathering = Gathering("jigsaw_identity_templates", limit_errors)
    sides: dict[tuple[str, str, str], tuple[list[_Sentence], list[_Sentence]]] = {}
    for sentence in _sentences(gathering, path_or_id):
        key = (sentence.template, sentence.name, sentence.identity)
        sides.setdefault(key, ([], []))[sentence.toxic].append(sentence)
    for (template, _, identity), (kind, toxic) in sides.items():
        for good, bad in zip(kind, toxic, strict=False):
            gathering.pair(
                PROMPT, good.phrase, bad.phrase,
                kind="neutral-vs-toxic", axis=_axis(template, identity), groups=[identity], cluster=f"jigsaw-{template}",
                lang="en", id=f"jigsaw-{good.number}-{bad.number}",
            )  # fmt: skip
        if len(kind) != len(toxic):
            gathering.drop(LONELY, abs(len(kind) - len(toxic)))
    return gathering.dataset(
        where=str(path_or_id), split=split, test_share=test_share, exclude_ids=exclude_ids,
        wanted=lambda row: row["cluster"].removeprefix("jigsaw-") in templates,
    )  # fmt: skip


def texts(
    path_or_id: str | Path | None = None,
    *,
    templates: Sequence[str] = tuple(TEMPLATES),
    toxicity: Sequence[str] = TOXICITY,
    limit_errors: int = 20,
) -> list[dict[str, Any]]:
    """The sentences themselves, for auditing a classifier; 76,564 of them.

    Returns: dicts with ``text, label (nontoxic, toxic), identity, axis, groups, template, name, cluster, source, lang, id``.

    Raises: as :func:`load`.
    """
    check_names("template", templates, tuple(TEMPLATES))
    check_names("toxicity", toxicity, TOXICITY)
    gathering = Gathering("jigsaw_identity_templates", limit_errors)
    found = list(_sentences(gathering, path_or_id))
    gathering.refuse()
    return [
        {
            "text": sentence.phrase, "label": TOXICITY[sentence.toxic], "identity": sentence.identity,
            "axis": _axis(sentence.template, sentence.identity), "groups": [sentence.identity],
            "template": sentence.template, "name": sentence.name, "cluster": f"jigsaw-{sentence.template}",
            "source": gathering.source, "lang": "en", "id": f"jigsaw-{sentence.number}",
        }
        for sentence in found
        if sentence.template in templates and TOXICITY[sentence.toxic] in toxicity
    ]  # fmt: skip


def _sentences(gathering: Gathering, path_or_id: str | Path | None) -> Iterator[_Sentence]:
    (path,) = files_of(Path(place_of(path_or_id, CARD)), FILES, CARD)[:1]
    text, encoding = decoded(path, read_bytes(path))
    if encoding != "utf-8":
        gathering.note(f"{path.name} was read as {encoding}")
    lines, rows = csv_text_rows(path, text, needed=COLUMNS)
    for number, (line, raw) in enumerate(zip(lines, rows, strict=True)):
        at = Place(path.name, line)
        record = gathering.record(raw, at)
        if record is None:
            continue
        found = len(gathering.problems)
        template = gathering.label(record, "template", at, TEMPLATES)
        toxicity = gathering.label(record, "toxicity", at, TOXICITY)
        phrase = gathering.text(record, "phrase", at)
        if len(gathering.problems) > found:
            continue
        filled = re.fullmatch(TEMPLATES[template], phrase)
        if filled is None:
            gathering.bad(at, "phrase", f"{short(phrase)!r} does not fill the template {template}")
            continue
        parts = filled.groupdict()
        yield _Sentence(
            phrase, template, toxicity == "toxic", parts["identity"], parts.get("name") or "", parts["word"], number
        )


def _axis(template: str, identity: str) -> str:
    return "profession" if template == "you_occupation" else OF_SOURCE["jigsaw_identity_templates"][identity]
