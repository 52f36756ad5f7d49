"""BiasFreeBench's ambiguous half of two BBQ categories as preference pairs: "cannot tell" is chosen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from teachfair.data.gathering import Gathering, check_names, check_split, files_of, place_of
from teachfair.data.reading import json_rows, read_bytes
from teachfair.data.sources.bbq import CATEGORIES, KINDS, add_records

if TYPE_CHECKING:
    from datasets import Dataset

CARD = {
    "name": "bbq_ambiguous_answers",
    "meaning": 'BBQ questions without evidence (Gender_identity, Race_ethnicity); "cannot tell" against both people',
    "paper": "Parrish et al. (2022), BBQ, Findings of ACL; files of BiasFreeBench",
    "public_id": "github: xxupiano/BiasFreeBench, commit ac70f519",
    "licence": "CC BY 4.0 (BBQ)",
    "language": "en",
    "norm": "BBQ's authors', for the United States: without evidence the fair answer is that one cannot tell",
    "version": 1,
    "formats": ["folder with <category>.json (Gender_identity, Race_ethnicity): a list of BBQ records, or one of them"],
    "problems": [
        'only "cannot tell" is ever right here: alone it teaches that it always is. Mix it with pairs that use the evidence '
        "(teachfair.data.mixing refuses it alone)",
        "the problems of bbq hold here too; same clusters as bbq, so that a split cuts both alike",
    ],
}


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
    """Two pairs a record: ``cant-tell-vs-stereotype`` and ``cant-tell-vs-anti``.

    Args and Raises: as of ``bbq``; a problem is named by the JSON path of its record.
    """
    check_split(split, test_share)
    check_names("category", categories, CATEGORIES)
    check_names("kind", kinds, KINDS)
    place = place_of(path_or_id, CARD)
    gathering = Gathering("bbq_ambiguous_answers", limit_errors)
    names = [f"{category}.json" for category in categories]
    for path in files_of(Path(place), names, CARD, all_of_them=tuple(categories) != CATEGORIES):
        content = read_bytes(path)
        lines, rows = json_rows(path, content)
        is_list = content.lstrip().startswith(b"[")  # else one object a line
        add_records(gathering, path.name, [f"$[{number}]" for number in range(len(lines))] if is_list else lines, rows)
    return gathering.dataset(
        where=str(path_or_id), split=split, test_share=test_share, exclude_ids=exclude_ids,
        wanted=lambda row: row["kind"] in kinds,
    )  # fmt: skip
