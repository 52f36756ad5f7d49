"""The revised CrowS-Pairs in English and French, aligned by id, as preference pairs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from teachfair.data.gathering import Gathering, Place, check_names, check_split, files_of, place_of
from teachfair.data.reading import csv_text_rows, decoded, hub_rows, read_bytes
from teachfair.data.sources.crows_pairs import AXES, COLUMNS, add_pair

if TYPE_CHECKING:
    from datasets import Dataset

FILES = {"crows_eng.csv": "en", "crows_french.csv": "fr"}
# Emptiness that is known of the published files: dropped and counted, not refused.
DEFECTS = {"en": {}, "fr": {"0129": "an empty sentence in the published file (French, id 129)"}}

CARD = {
    "name": "crows_pairs_revised",
    "meaning": "CrowS-Pairs revised in English and adapted to French: the less stereotypical sentence is chosen",
    "paper": (
        "Névéol, Dupont, Bezançon and Fort (2022), French CrowS-Pairs, ACL; files of Strazda and Spanakis (2025), Dutch "
        "CrowS-Pairs, RANLP"
    ),
    "public_id": "github: jerryspan/Dutch-CrowS-Pairs, commit 7cf51965; hub: BigScienceBiasEval/crows_pairs_multilingual",
    "hub": "BigScienceBiasEval/crows_pairs_multilingual",
    "licence": "CC BY-SA 4.0 (the original's; the repository says CC0 of its own, Dutch, part)",
    "language": "en, fr",
    "norm": "stereotypes held in the United States, and in France as volunteers of a citizen-science platform judged them",
    "version": 1,
    "formats": ["folder with crows_eng.csv and crows_french.csv, or one of them (UTF-8 or cp1252)", "hub id"],
    "problems": [
        "French id 129 has an empty sentence (dropped) and id 379 two equal ones (dropped as equal)",
        "French rows may have another bias_type than the English row of the same id",
        "cp1252 copies are in circulation: read as such, and said; a file that mixes encodings is refused",
        "shares its English rows with crows_pairs (1,408 of 1,463 word for word): same clusters, so a split cuts alike",
        "the problems of crows_pairs hold here too",
    ],
}  # fmt: skip


def load(
    path_or_id: str | Path | None = None,
    split: str = "train",
    *,
    languages: Sequence[str] = ("en", "fr"),
    axes: Sequence[str] = AXES,
    test_share: float = 0.0,
    drop_equal: bool = True,
    exclude_ids: str | Path | None = None,
    limit_errors: int = 20,
) -> Dataset:
    """Pairs of both languages, 1,463 rows each, kind ``anti-vs-stereotype``; the cluster is the id, whatever the language.

    Args: as of ``crows_pairs``; ``languages``: which to read. A file on its own is told by its name.
    Raises: DataError that lists every malformed row; ConfigError for an unknown axis, language or split.
    """
    check_split(split, test_share)
    check_names("axis", axes, AXES)
    check_names("language", languages, tuple(FILES.values()))
    place = place_of(path_or_id, CARD)
    gathering = Gathering("crows_pairs_revised", limit_errors)
    tables = []
    if isinstance(place, str):
        for lang in languages:
            rows = hub_rows(place, {"en": "english", "fr": "french"}[lang], "test", converted=True)
            tables.append((lang, place, list(range(1, len(rows) + 1)), rows))
    else:
        names = [name for name, lang in FILES.items() if lang in languages]
        gathering.note_absent(place, names)
        for path in files_of(place, names, CARD):
            content, encoding = decoded(path, read_bytes(path))
            if encoding != "utf-8":
                gathering.note(f"{path.name} was read as {encoding}")
            lines, rows = csv_text_rows(path, content, needed=(*COLUMNS, "id"))
            lang = FILES.get(path.name) or ("fr" if "fr" in path.stem.lower() else "en")
            tables.append((lang, path.name, lines, rows))
    for lang, name, lines, rows in tables:
        for line, raw in zip(lines, rows, strict=True):
            at = Place(name, line)
            record = gathering.record(raw, at)
            if record is None:
                continue
            identity = gathering.identity(record, "id", at, scope=name)
            if identity:
                identity = identity.zfill(4)
                add_pair(gathering, record, at, identity=identity, lang=lang, defects=DEFECTS[lang])
    return gathering.dataset(
        where=str(path_or_id), split=split, test_share=test_share, exclude_ids=exclude_ids,
        wanted=lambda row: row["axis"] in axes,
    )  # fmt: skip
