"""StereoSet in its authors' record form: context, stereotype, anti-stereotype and an unrelated sentence."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from teachfair.data.axes import OF_SOURCE
from teachfair.data.gathering import Gathering, Place, check_names, check_split, digest, files_of, place_of
from teachfair.data.reading import hub_rows, json_document, kind_of, read_bytes
from teachfair.errors import DataError, unknown_name

if TYPE_CHECKING:
    from datasets import Dataset

AXES = tuple(OF_SOURCE["stereoset"].values())
CONTEXTS = ("intra", "inter")
LABELS = ("anti-stereotype", "stereotype", "unrelated")
FILES = (
    "dev.json", "test.json", "train.json",
    "gender_test.json", "profession_test.json", "race_test.json", "religion_test.json",
)  # fmt: skip

# gender_test.json of zjunlp/EditBias: its two labels are exchanged (in all 253 records, against the pairs of
# stereoset_pairs; the sentences say so too). Known by its content: a mended file under the same name is left alone.
FLIPPED = "dc5acd5c1b909bfb"

CARD = {
    "name": "stereoset",
    "meaning": "a context with a stereotypical, an anti-stereotypical (chosen) and an unrelated sentence",
    "paper": "Nadeem, Bethke and Reddy (2021), StereoSet: Measuring stereotypical bias in pretrained language models, ACL",
    "public_id": "github: moinnadeem/StereoSet, zjunlp/EditBias (commit 5ecfebcf); hub: McGill-NLP/stereoset",
    "hub": "McGill-NLP/stereoset",
    "licence": "CC BY-SA 4.0",
    "language": "en",
    "norm": "StereoSet's crowd workers in the United States: the majority of five labels a sentence",
    "version": 1,
    "formats": [
        f"folder with {', '.join(FILES)} (those that are there): a list of records, or the authors' own document with "
        "data.intrasentence and data.intersentence",
        "hub id",
    ],
    "problems": [
        "anti-stereotype is not fair: it is the opposite claim about a group. Kind anti-vs-stereotype",
        "gender_test.json of EditBias has stereotype and anti-stereotype exchanged: recognised by its content, corrected "
        "and counted; records without annotators' labels of another file of that name are refused until you say which",
        "dev.json of EditBias is a part of StereoSet's test set, and its *_test.json of StereoSet's dev set",
        "dev.json has the axis profession too",
        "the same sentences are in stereoset_pairs (same clusters): do not count them as two sources",
        "an intrasentence prompt is the sentence with BLANK, kept as it is; the answer is the whole sentence",
        "evaluating on StereoSet after training on it is leakage",
        "documented validity problems: Blodgett et al. (2021), Stereotyping Norwegian Salmon, ACL",
    ],
}


def load(
    path_or_id: str | Path | None = None,
    split: str = "train",
    *,
    axes: Sequence[str] = AXES,
    contexts: Sequence[str] = CONTEXTS,
    flipped: str = "known",
    test_share: float = 0.0,
    drop_equal: bool = True,
    exclude_ids: str | Path | None = None,
    limit_errors: int = 20,
) -> Dataset:
    """One pair a record, kind ``anti-vs-stereotype``, with a further column ``unrelated``; ``groups``: the target.

    The prompt and the cluster are those of ``stereoset_pairs``: the context.

    Args:
        split, test_share: "train" is every file, unless "test" takes a share of the clusters.
        axes, contexts: which to keep ("intra": the context holds BLANK; "inter": the sentence follows it).
        flipped: what to do with records of a gender_test.json that carry no annotators' labels: "known" exchanges the labels
            of the release in which they are known to be exchanged and refuses others, "yes" exchanges them, "no" does not.
        drop_equal: accepted because every source takes it; equal pairs are always dropped.
        exclude_ids: a file with the ids, one a line, of pairs to leave out (see ``teachfair.data.excluding``).

    Raises: DataError that lists every malformed record by its JSON path; ConfigError for an unknown name.
    """
    check_split(split, test_share)
    check_names("axis", axes, AXES)
    check_names("context", contexts, CONTEXTS)
    if flipped not in ("known", "yes", "no"):
        raise unknown_name("flipped", flipped, ("known", "yes", "no"))
    place = place_of(path_or_id, CARD)
    gathering = Gathering("stereoset", limit_errors, extra={"unrelated": "string"})
    if isinstance(place, str):
        for name in ("intrasentence", "intersentence"):
            rows = [_from_hub(row) for row in hub_rows(place, name, "validation")]
            _add(gathering, place, [(f"$.{name}[{number}]", row) for number, row in enumerate(rows)], exchange=False)
    else:
        for path in files_of(place, FILES, CARD):
            records = _records(path)
            _add(gathering, path.name, records, exchange=_exchanged(path, records, flipped))
    return gathering.dataset(
        where=str(path_or_id), split=split, test_share=test_share, exclude_ids=exclude_ids,
        wanted=lambda row: row["axis"] in axes and _context(row) in contexts,
    )  # fmt: skip


def _context(row: dict[str, Any]) -> str:
    return "intra" if "BLANK" in row["prompt"][0]["content"] else "inter"


def _records(path: Path) -> list[tuple[str, Any]]:
    """(JSON path, record) of a list of records or of the authors' document."""
    document = json_document(path, read_bytes(path))
    if isinstance(document, list):
        return [(f"$[{number}]", record) for number, record in enumerate(document)]
    parts = document.get("data") if isinstance(document, dict) else None
    if not isinstance(parts, dict):
        raise DataError(
            f"a list of records, or an object with data.intrasentence, was wanted; this is {kind_of(document)}",
            where=f"{path.name}:$: data",
            fix="restore the authors' file",
        )
    found: list[tuple[str, Any]] = []
    for name, records in parts.items():
        if not isinstance(records, list):
            raise DataError(
                f"a list of records was wanted, this is {kind_of(records)}",
                where=f"{path.name}:$.data.{name}: data", fix="restore the authors' file",
            )  # fmt: skip
        found.extend((f"$.data.{name}[{number}]", record) for number, record in enumerate(records))
    return found


def _exchanged(path: Path, records: list[tuple[str, Any]], flipped: str) -> bool:
    """Whether the file's labels are exchanged. Raises: DataError where that is suspected and nobody said."""
    unlabelled = [
        record for _, record in records if isinstance(record, dict) and "sentences" not in record and "data" in record
    ]
    if path.name != "gender_test.json" or not unlabelled or flipped == "no":
        return False
    if flipped == "yes" or _content(unlabelled) == FLIPPED:
        return True
    raise DataError(
        "these records carry no annotators' labels, and a published file of this name has stereotype and anti-stereotype "
        "exchanged; this is another one",
        where=f"{path.name}:$: data",
        fix="look at a few records and pass flipped='yes' or flipped='no'",
    )


def _content(records: list[dict[str, Any]]) -> str:
    """Which release this is: a hash that neither order nor layout of the file changes."""
    lines = sorted(json.dumps([record.get("id"), record["data"]], sort_keys=True, default=str) for record in records)
    return hashlib.sha256("\n".join(lines).encode("utf-8", "backslashreplace")).hexdigest()[:16]


class Example(NamedTuple):
    """One record, its texts as they stand in the file. ``sentences``: label -> sentence."""

    identity: str
    axis: str
    target: str
    context: str
    sentences: dict[str, str]

    @property
    def cluster(self) -> str:
        return f"stereoset-{digest(self.context)}"


def examples(path: Path, gathering: Gathering, flipped: str = "known") -> list[Example]:
    """The well-formed records of one file; problems and corrections go to ``gathering``. ``flipped``: as in :func:`load`."""
    records = _records(path)
    exchange = _exchanged(path, records, flipped)
    found = [_example(gathering, raw, Place(path.name, at), exchange) for at, raw in records]
    return [example for example in found if example is not None]


def _example(gathering: Gathering, raw: Any, at: Place, exchange: bool) -> Example | None:
    record = gathering.record(raw, at)
    if record is None:
        return None
    found = len(gathering.problems)
    identity = gathering.identity(record, "id", at)
    axis = gathering.label(record, "bias_type", at, OF_SOURCE["stereoset"])
    target = gathering.text(record, "target", at)
    gathering.text(record, "context", at)
    sentences = _sentences(gathering, record, at)
    if len(gathering.problems) > found:
        return None
    if exchange and "sentences" not in record:
        sentences["stereotype"], sentences["anti-stereotype"] = sentences["anti-stereotype"], sentences["stereotype"]
        gathering.correct("exchanged labels put right (gender_test.json)")
    return Example(identity, OF_SOURCE["stereoset"][axis], target, record["context"], sentences)


def _add(gathering: Gathering, file: str, records: list[tuple[str, Any]], *, exchange: bool) -> None:
    for path, raw in records:
        example = _example(gathering, raw, Place(file, path), exchange)
        if example is None:
            continue
        plain = {label: " ".join(sentence.split()) for label, sentence in example.sentences.items()}
        gathering.pair(
            " ".join(example.context.split()), plain["anti-stereotype"], plain["stereotype"],
            kind="anti-vs-stereotype", axis=example.axis, groups=[example.target], cluster=example.cluster, lang="en",
            id=f"stereoset-{example.identity}", unrelated=plain["unrelated"],
        )  # fmt: skip


def _sentences(gathering: Gathering, record: dict[str, Any], at: Place) -> dict[str, str]:
    """Label -> sentence, from ``sentences`` with their gold labels, else from ``data``, keyed by label."""
    found: dict[str, str] = {}
    if "sentences" in record:
        sentences = record["sentences"]
        if not isinstance(sentences, list):
            gathering.bad(at, "sentences", f"a list was wanted, this is {kind_of(sentences)}")
            return found
        for number, sentence in enumerate(sentences):
            place = f"sentences[{number}]"
            if not isinstance(sentence, dict):
                gathering.bad(at, place, f"an object was wanted, this is {kind_of(sentence)}")
                continue
            label = gathering.label(sentence, "gold_label", at, LABELS, field=f"{place}.gold_label")
            text = sentence["sentence"] if gathering.text(sentence, "sentence", at, field=f"{place}.sentence") else ""
            if label in found:
                gathering.bad(at, f"{place}.gold_label", f"a second {label}")
            elif label:
                found[label] = text
        field = "sentences"
    else:
        data = record.get("data")
        if not isinstance(data, dict):
            gathering.bad(at, "data", "missing" if data is None else f"an object was wanted, this is {kind_of(data)}")
            return found
        for label in LABELS:
            sentence = data.get(label)
            if isinstance(sentence, dict):
                good = gathering.text(sentence, "sentence", at, field=f"data.{label}.sentence")
                found[label] = sentence["sentence"] if good else ""
            elif label in data:
                gathering.bad(at, f"data.{label}", f"an object was wanted, this is {kind_of(sentence)}")
                found[label] = ""
        field = "data"
    for label in LABELS:
        if label not in found:
            gathering.bad(at, field, f"no {label} sentence")
    return found


def _from_hub(row: dict[str, Any]) -> dict[str, Any]:
    """The hub's columns (one list a field, labels as numbers) as a record of the authors' document."""
    sentences = row.get("sentences")
    if not isinstance(sentences, dict):
        return row
    labels = [LABELS[label] if isinstance(label, int) and 0 <= label < len(LABELS) else label
              for label in sentences.get("gold_label", [])]  # fmt: skip
    return {**row, "sentences": [
        {"sentence": text, "gold_label": label} for text, label in zip(sentences.get("sentence", []), labels, strict=False)
    ]}  # fmt: skip
