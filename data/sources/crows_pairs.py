"""CrowS-Pairs as preference pairs: the less stereotypical of two minimally different sentences is chosen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from teachfair.data.axes import OF_SOURCE
from teachfair.data.gathering import Gathering, Place, check_names, check_split, files_of, place_of
from teachfair.data.reading import csv_text_rows, decoded, hub_rows, read_bytes

if TYPE_CHECKING:
    from datasets import Dataset

FILE = "crows_pairs_anonymized.csv"
AXES = tuple(OF_SOURCE["crows_pairs"].values())
PROMPTS = {"en": "Write one sentence.", "fr": "Écris une phrase."}
COLUMNS = ("sent_more", "sent_less", "stereo_antistereo", "bias_type")

CARD = {
    "name": "crows_pairs",
    "meaning": "two sentences that differ in the group they speak of; the less stereotypical one is chosen",
    "paper": (
        "Nangia, Vania, Bhalerao and Bowman (2020), CrowS-Pairs: A Challenge Dataset for Measuring Social Biases in Masked "
        "Language Models, EMNLP"
    ),
    "public_id": "github: nyu-mll/crows-pairs, commit 8aaac11c; hub: nyu-mll/crows_pairs",
    "hub": "nyu-mll/crows_pairs",
    "licence": "CC BY-SA 4.0",
    "language": "en",
    "norm": "stereotypes held in the United States, written and validated by crowd workers (five annotations a pair)",
    "version": 1,
    "formats": [f"folder with {FILE}, or that file", "hub id"],
    "problems": [
        "the sentence without the stereotype is not always fair: often it only speaks of another group, so that a model "
        "learns to say the same of others. Kind anti-vs-stereotype: weigh and report it apart",
        "sent_more is the more stereotypical sentence in every row, antistereo ones too: no row is swapped",
        "documented validity problems: Blodgett et al. (2021), Stereotyping Norwegian Salmon, ACL",
        "evaluating on CrowS-Pairs after training on it is leakage",
        "the sentences answer no question: all pairs share one prompt, so a reward model sees the answer only",
    ],
}


def load(
    path_or_id: str | Path | None = None,
    split: str = "train",
    *,
    axes: Sequence[str] = AXES,
    test_share: float = 0.0,
    drop_equal: bool = True,
    exclude_ids: str | Path | None = None,
    limit_errors: int = 20,
) -> Dataset:
    """Pairs of ``crows_pairs_anonymized.csv``: 1,508 rows, kind ``anti-vs-stereotype``, every row a cluster of its own.

    Ids (``crows_pairs-0000`` …, by the row's number) are those of the benchmark ``crows_pairs``. A cluster is shared
    with the same row of ``crows_pairs_revised``.

    Args:
        split, test_share: the file has no splits: "train" is everything, unless "test" takes a share of the clusters.
        axes: which to keep.
        drop_equal: accepted because every source takes it; equal pairs are always dropped (the file has none).
        exclude_ids: a file with the ids, one a line, of pairs to leave out (see ``teachfair.data.excluding``).

    Raises: DataError that lists every malformed row; ConfigError for an unknown axis or split.
    """
    check_split(split, test_share)
    check_names("axis", axes, AXES)
    place = place_of(path_or_id, CARD)
    gathering = Gathering("crows_pairs", limit_errors)
    if isinstance(place, str):
        rows = hub_rows(place, "crows_pairs", "test", converted=True)
        lines = list(range(1, len(rows) + 1))
        name = place
    else:
        (path,) = files_of(place, [FILE], CARD)
        content, encoding = decoded(path, read_bytes(path))
        if encoding != "utf-8":
            gathering.note(f"{path.name} was read as {encoding}")
        lines, rows = csv_text_rows(path, content, needed=COLUMNS)
        name = path.name
    for number, (line, raw) in enumerate(zip(lines, rows, strict=True)):
        at = Place(name, line)
        record = gathering.record(raw, at)
        if record is not None:
            add_pair(gathering, record, at, identity=f"{number:04d}", lang="en", defects={})
    return gathering.dataset(
        where=str(path_or_id), split=split, test_share=test_share, exclude_ids=exclude_ids,
        wanted=lambda row: row["axis"] in axes,
    )  # fmt: skip


def add_pair(
    gathering: Gathering, record: dict[str, Any], at: Place, *, identity: str, lang: str, defects: dict[str, str]
) -> None:
    """One row in CrowS-Pairs' columns. ``defects``: ids whose emptiness is known of the published file -> the reason for
    which they are dropped; any other empty sentence is a problem."""
    found = len(gathering.problems)
    known = identity in defects and not all((record.get(name) or "").strip() for name in COLUMNS[:2])
    more = gathering.text(record, "sent_more", at, optional=known)
    less = gathering.text(record, "sent_less", at, optional=known)
    gathering.label(record, "stereo_antistereo", at, ("stereo", "antistereo"))
    axis = gathering.label(record, "bias_type", at, OF_SOURCE["crows_pairs"])
    if len(gathering.problems) > found:
        return
    if known:
        gathering.drop(defects[identity])
        return
    gathering.pair(
        PROMPTS[lang], less, more,
        kind="anti-vs-stereotype", axis=OF_SOURCE["crows_pairs"][axis], cluster=f"crows_pairs-{identity}",
        lang=lang, id=f"{gathering.source}-{identity}" if lang == "en" else f"{gathering.source}-{lang}-{identity}",
    )  # fmt: skip
