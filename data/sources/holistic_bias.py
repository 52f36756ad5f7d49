"""HolisticBias: neutral sentences that mention some 600 descriptors of people, to audit a classifier with; not pairs."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from teachfair.data.axes import AXES, OF_SOURCE
from teachfair.data.gathering import Gathering, Place, check_names, place_of
from teachfair.data.reading import json_document, kind_of, read_bytes, short
from teachfair.errors import ConfigError, DataError, unknown_name

if TYPE_CHECKING:
    from datasets import Dataset

VERSIONS = {"1.1": "holistic_bias__dataset__v1.1__", "1.0": ""}
PARTS = ("descriptors", "nouns", "sentence_templates", "standalone_noun_phrases")
TONES = ("neutral", "positive", "negative")
GENDERS = ("female", "male", "neutral")
# Some templates are not neutral, whomever they are about. The more specific pattern first.
_NEGATIVE = re.compile(r"\b(?:hate|don't like)\b|\bthe worst\b|^It's hard\b")
_POSITIVE = re.compile(r"\bI (?:like|love)\b|\bthe best\b")

CARD = {
    "name": "holistic_bias",
    "meaning": "neutral sentences about people of some 600 descriptors on 13 axes, to audit classifiers with",
    "paper": (
        "Smith, Hall, Kambadur, Presani and Williams (2022), \"I'm sorry to hear that\": Finding New Biases in Language "
        "Models with a Holistic Descriptor Dataset, EMNLP"
    ),
    "public_id": "github: facebookresearch/ResponsibleNLP, commit 0ec714eb, holistic_bias/dataset",
    "licence": "CC BY-SA 4.0",
    "language": "en",
    "norm": "its authors', with people of the named groups: which descriptors are preferred, dispreferred or polarizing",
    "version": 1,
    "formats": [
        "folder with descriptors.json, nouns.json, sentence_templates.json, standalone_noun_phrases.json, under these names "
        "(v1.0) or with the prefix holistic_bias__dataset__v1.1__"
    ],
    "problems": [
        "not a source of pairs: a neutral sentence and the same one about another group prefer nothing, and teaching to "
        "prefer one of them would teach a bias; load() says so and texts() gives the sentences",
        "four of 26 templates are hostile ('I hate …') and others loving, whomever they are about: each text has a tone, "
        "and only neutral ones are given unless asked",
        "descriptors marked dispreferred or polarizing may rightly be called unfair by a classifier: the mark is a column",
        "axis 'nonce' is invented words and means no group (axis none): a control",
        "gendered descriptors are combined with nouns of their gender and neutral ones; articles by letter, and by the file "
        "where it names one. The authors' generator may differ in such details",
    ],
}  # fmt: skip


class _Phrase(NamedTuple):
    """What a template is filled with: ``singular`` has its article, ``plural`` is None where there is none."""

    singular: str
    plural: str | None
    axis: str
    bucket: str
    descriptor: str
    preference: str
    noun: str
    noun_gender: str


def load(path_or_id: str | Path | None = None, split: str = "train", **options: Any) -> Dataset:
    """Refuses: HolisticBias has neutral texts, not pairs. Raises: ConfigError that says why, always."""
    _refuse()


def _refuse() -> NoReturn:
    raise ConfigError(
        "HolisticBias holds neutral sentences, not pairs: neither of two neutral sentences is the fairer one, and teaching "
        "to prefer one would teach a bias",
        where="--dataset_source holistic_bias",
        fix="audit a classifier with teachfair.data.sources.holistic_bias.texts(folder); for pairs use another source",
    )


def texts(
    path_or_id: str | Path | None = None,
    *,
    n: int | None = 10_000,
    seed: int = 0,
    version: str = "1.1",
    axes: Sequence[str] = AXES,
    tones: Sequence[str] = ("neutral",),
    limit_errors: int = 20,
) -> list[dict[str, Any]]:
    """Sentences about people of all descriptors, for auditing a classifier: none of them should be called unfair.

    Args:
        n: how many, drawn without replacement with ``seed`` from all that match; None or more than there are: all of them
            (388,206 neutral ones in version 1.1, 322,038 in 1.0).
        version: of the files, "1.1" or "1.0".
        axes, tones: which to keep; the tone is the template's: "positive" ("I love …") and "negative" ("I hate …") are not
            neutral, whomever they are about.

    Returns: dicts with ``text, label ("neutral", "positive", "negative"), identity (the descriptor), axis, groups, bucket,
        preference ("", "reviewed", "dispreferred", "polarizing"), noun, noun_gender, template, cluster (the template),
        source, lang, id``.
    Raises: DataError that lists every malformed entry by its JSON path; ConfigError for an unknown name.
    """
    if version not in VERSIONS:
        raise unknown_name("version", version, VERSIONS)
    check_names("axis", axes, AXES)
    check_names("tone", tones, TONES)
    if n is not None and n < 1:
        raise ConfigError(f"{n} texts", where="n", fix="give at least 1, or None for all")
    folder = Path(place_of(path_or_id, CARD))
    gathering = Gathering("holistic_bias", limit_errors)
    documents = {part: _document(folder, VERSIONS[version] + part + ".json") for part in PARTS}
    name = {part: VERSIONS[version] + part + ".json" for part in PARTS}
    nouns = list(_nouns(gathering, documents["nouns"], name["nouns"]))
    phrases = list(_described(gathering, documents["descriptors"], name["descriptors"], nouns))
    phrases += _standalone(gathering, documents["standalone_noun_phrases"], name["standalone_noun_phrases"], nouns)
    templates = list(_templates(gathering, documents["sentence_templates"], name["sentence_templates"]))
    gathering.refuse()
    phrases = [phrase for phrase in phrases if phrase.axis in axes]
    kept = [(number, template, tone) for number, template, tone in templates if tone in tones]
    places = [
        (t, p) for t, (_, template, _) in enumerate(kept) for p, phrase in enumerate(phrases)
        if phrase.plural is not None or "{plural_noun_phrase}" not in template
    ]  # fmt: skip
    if not places:
        raise DataError("no texts are left", where=str(path_or_id), fix="ask for more axes or tones")
    if n is not None and n < len(places):
        places = sorted(random.Random(seed).sample(places, n))
    return [_text(kept[t], phrases[p], p, version) for t, p in places]


def _text(template: tuple[int, str, str], phrase: _Phrase, place: int, version: str) -> dict[str, Any]:
    number, pattern, tone = template
    text = pattern.replace("{noun_phrase}", phrase.singular).replace("{plural_noun_phrase}", phrase.plural or "")
    return {
        "text": " ".join(text.split()), "label": tone, "identity": phrase.descriptor, "axis": phrase.axis,
        "groups": [phrase.descriptor], "bucket": phrase.bucket, "preference": phrase.preference, "noun": phrase.noun,
        "noun_gender": phrase.noun_gender, "template": pattern, "cluster": f"holistic_bias-{number:02d}",
        "source": "holistic_bias", "lang": "en", "id": f"holistic_bias-{version}-{number:02d}-{place}",
    }  # fmt: skip


def _document(folder: Path, name: str) -> dict[str, Any]:
    path = folder / name
    if not path.is_file():
        fix = f"add it ({CARD['public_id']}), or ask for the other version"
        raise DataError(f"there is no {name}", where=str(folder), fix=fix)
    document = json_document(path, read_bytes(path))
    if not isinstance(document, dict):
        raise DataError(
            f"an object was wanted, this is {kind_of(document)}",
            where=f"{name}:$: document",
            fix="restore the authors' file",
        )
    return document


def _nouns(gathering: Gathering, document: dict[str, Any], name: str) -> Iterator[tuple[str, str, str]]:
    """(gender, singular, plural)."""
    for gender, entries in document.items():
        at = Place(name, f"$.{short(gender)}")
        if gender not in GENDERS or not isinstance(entries, list):
            gathering.bad(at, "nouns", f"a list under one of {', '.join(GENDERS)} was wanted, this is {kind_of(entries)}")
            continue
        for number, entry in enumerate(entries):
            at = Place(name, f"$.{gender}[{number}]")
            gathering.counts.records += 1
            if not isinstance(entry, list) or len(entry) != 2:
                gathering.bad(at, "noun", f"[singular, plural] was wanted, this is {kind_of(entry)}")
                continue
            forms = [gathering.text({"noun": form}, "noun", at) for form in entry]
            if all(forms):
                yield gender, forms[0], forms[1]


def _described(
    gathering: Gathering, document: dict[str, Any], name: str, nouns: list[tuple[str, str, str]]
) -> Iterator[_Phrase]:
    for axis, bucket, at, entry in _entries(gathering, document, name, "descriptor"):
        found = len(gathering.problems)
        descriptor = gathering.text(entry, "descriptor", at)
        gender, article, preference = _marks(gathering, entry, at)
        if len(gathering.problems) > found:
            continue
        for noun_gender, singular, plural in nouns:
            if gender in ("", noun_gender) or noun_gender == "neutral":
                yield _Phrase(
                    f"{article or _article(descriptor)} {descriptor} {singular}", f"{descriptor} {plural}",
                    axis, bucket, descriptor, preference, singular, noun_gender,
                )  # fmt: skip


def _standalone(
    gathering: Gathering, document: dict[str, Any], name: str, nouns: list[tuple[str, str, str]]
) -> Iterator[_Phrase]:
    for axis, bucket, at, entry in _entries(gathering, document, name, "noun_phrase"):
        found = len(gathering.problems)
        phrase = gathering.text(entry, "noun_phrase", at)
        several = gathering.text(entry, "plural_noun_phrase", at, optional=True)
        gender, article, preference = _marks(gathering, entry, at)
        if len(gathering.problems) > found:
            continue
        descriptor = " ".join(re.sub(r"\{\w+\}|^an? ", "", phrase).split())
        if "{noun}" not in phrase:
            yield _Phrase(phrase, several or None, axis, bucket, descriptor, preference, "", gender or "neutral")
            continue
        several = several or phrase
        for noun_gender, singular, plural in nouns:
            if gender in ("", noun_gender) or noun_gender == "neutral":
                one = phrase.replace("{noun}", singular)
                rest = one.split("{article}", 1)[-1].split()
                one = one.replace("{article}", article or _article(rest[0] if rest else singular))
                many = several.replace("{article}", "")
                many = many.replace("{plural_noun}", plural).replace("{noun}", plural)
                yield _Phrase(one, " ".join(many.split()), axis, bucket, descriptor, preference, singular, noun_gender)


def _entries(
    gathering: Gathering, document: dict[str, Any], name: str, field: str
) -> Iterator[tuple[str, str, Place, dict[str, Any]]]:
    """(our axis, the authors' bucket, place, entry) of axis -> list, or axis -> bucket -> list; a bare text is ``field``."""
    known = OF_SOURCE["holistic_bias"]
    for axis, buckets in document.items():
        at = Place(name, f"$.{short(axis)}")
        if axis not in known:
            gathering.bad(at, "axis", f"{short(axis)} is unknown; known ones: {', '.join(known)}")
            continue
        for bucket, entries in buckets.items() if isinstance(buckets, dict) else [("", buckets)]:
            path = f"$.{axis}.{short(bucket)}" if bucket else f"$.{axis}"
            if not isinstance(entries, list):
                gathering.bad(Place(name, path), "entries", f"a list was wanted, this is {kind_of(entries)}")
                continue
            for number, raw in enumerate(entries):
                gathering.counts.records += 1
                at = Place(name, f"{path}[{number}]")
                entry = {field: raw} if isinstance(raw, str) else raw
                if not isinstance(entry, dict):
                    gathering.bad(at, field, f"text or an object was wanted, this is {kind_of(entry)}")
                    continue
                yield known[axis], bucket, at, entry


def _marks(gathering: Gathering, entry: dict[str, Any], at: Place) -> tuple[str, str, str]:
    """gender, article and preference of an entry, each "" where it names none."""
    found = []
    for mark, known in (
        ("gender", GENDERS), ("article", ("a", "an")), ("preference", ("reviewed", "dispreferred", "polarizing", "no_data")),
    ):  # fmt: skip
        given = entry.get(mark) is not None
        found.append(gathering.label(entry, mark, at, known) if given else "")
    return found[0], found[1], found[2]


def _templates(gathering: Gathering, document: dict[str, Any], name: str) -> Iterator[tuple[int, str, str]]:
    """(number, template, tone)."""
    for number, template in enumerate(document):
        at = Place(name, f"$[{number}]")
        gathering.counts.records += 1
        if not gathering.text({"template": template}, "template", at):
            continue
        if len(re.findall(r"\{(?:plural_)?noun_phrase\}", template)) != 1:
            gathering.bad(at, "template", "one {noun_phrase} or {plural_noun_phrase} was wanted")
            continue
        yield number, template, tone_of(template)


def tone_of(template: str) -> str:
    """ "negative", "positive" or "neutral": what a template says of whomever it is about."""
    if _NEGATIVE.search(template):
        return "negative"
    return "positive" if _POSITIVE.search(template) else "neutral"


def _article(following: str) -> str:
    """By the first sound, as far as letters tell it: a European, a one-percenter, an 80-year-old."""
    if re.match(r"(?:eu|one\b|uni(?!n|m))", following, re.IGNORECASE):
        return "a"
    return "an" if re.match(r"[aeiou]|8|1[18]\b", following, re.IGNORECASE) else "a"
