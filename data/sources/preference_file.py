"""Any preference set in TRL's format: a local file or folder, or a dataset on the hub."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from teachfair.data.excluding import exclude
from teachfair.data.pairs import checked, local_file, pairs_dataset, read_preference_file
from teachfair.data.reading import hub_rows
from teachfair.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset

CARD = {
    "name": "preference_file",
    "meaning": "pairs of any origin in TRL's preference format, plain or conversational",
    "paper": "",
    "public_id": "any dataset id with chosen and rejected columns",
    "licence": "the file's own: find out before you publish a model",
    "language": "the file's own",
    "norm": "whoever labelled the file; not known to this toolkit",
    "version": 2,
    "formats": ["JSONL", "JSON list", "parquet", "CSV", "hub id"],
    "problems": [
        "public sets leak format (length, whitespace, stock openings): read the shortcut baselines",
        "`margin` (a number >= 0, in reward units) is the reward model's; DPO does not read it",
        "columns beyond those of a pair and `margin` are not used",
    ],
}


def load(
    path_or_id: str | Path | None = None,
    split: str = "train",
    *,
    name: str | None = None,
    drop_equal: bool = False,
    limit_errors: int = 20,
    exclude_ids: str | Path | None = None,
) -> Dataset:
    """Pairs of a file, of ``<split>.jsonl|json|parquet|csv`` in a folder, or of a hub dataset's split.

    Args:
        name: the configuration of a hub dataset.
        drop_equal: leave out (and count) pairs whose sides are equal; an error otherwise.
        exclude_ids: a file with the ids, one a line, of pairs to leave out (see ``teachfair.data.excluding``).

    Raises: DataError that lists every malformed row as ``file:line: field: what``, or says that there is no
    such file.
    """
    if path_or_id is None:
        raise DataError("no file was named", where="preference_file", fix="give a path or a hub id")
    path = local_file(path_or_id, split)
    if path is not None:
        rows, counts = read_preference_file(path, drop_equal=drop_equal, limit_errors=limit_errors)
        return pairs_dataset(exclude(rows, counts, exclude_ids), counts)
    rows, counts = checked(
        hub_rows(str(path_or_id), name, split),
        f"{path_or_id}[{split}]",
        drop_equal=drop_equal,
        source=str(path_or_id),
        limit_errors=limit_errors,
    )
    return pairs_dataset(exclude(rows, counts, exclude_ids), counts)
