"""StereoSet's sentences as preference pairs: the anti-stereotype chosen, the stereotype rejected."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from teachfair.data.excluding import exclude
from teachfair.data.gathering import digest, in_test
from teachfair.data.pairs import Counts, pairs_dataset, read_rows, validate_rows
from teachfair.data.reading import Problem, refuse
from teachfair.errors import DataError, unknown_name

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

AXES = ("gender", "profession", "race", "religion")

CARD = {
    "name": "stereoset_pairs",
    "meaning": "StereoSet dev and test, intrasentence and intersentence, as prompt, chosen and rejected",
    "paper": "Nadeem, Bethke and Reddy (2021), StereoSet, ACL; pairs: xiaoxuanli-a/PhD_StereoSet 1f49e90b",
    "public_id": "github: xiaoxuanli-a/PhD_StereoSet",
    "licence": "CC BY-SA 4.0",
    "language": "en",
    "norm": "StereoSet's crowd workers in the United States: which of two sentences is the stereotype",
    "version": 1,
    "formats": ["folder with <axis>_data.json: a list of {prompt, chosen, rejected}"],
    "problems": [
        "anti-stereotype is not fair: 'He is crazy and is always throwing stones at women' is a chosen "
        "sentence. "
        "A model taught on these pairs learns the opposite association, not parity; their kind is "
        "anti-vs-stereotype, so that they can be weighted, filtered and reported apart",
        "it holds StereoSet's dev and test: evaluating on StereoSet after training on it is leakage",
        "an intrasentence prompt is the sentence with BLANK, kept as it is; the answer is the whole sentence",
        "documented validity problems: Blodgett et al. (2021), Stereotyping Norwegian Salmon, ACL",
    ],
}


def load(
    path_or_id: str | Path | None = None,
    split: str = "train",
    *,
    axes: Sequence[str] = AXES,
    contexts: Sequence[str] = ("intra", "inter"),
    test_share: float = 0.0,
    drop_equal: bool = True,
    exclude_ids: str | Path | None = None,
    limit_errors: int = 20,
) -> Dataset:
    """Pairs of a folder with ``gender_data.json``, ``profession_data.json``, ``race_data.json``,
    ``religion_data.json``.

    ``<axis>_intra_data.json`` repeats a part of ``<axis>_data.json`` and is read only where the latter is
    absent. Whitespace is normalised (it tells the sides apart in public preference sets); pairs that are
    equal after that are dropped and counted in a warning.

    Args:
        split: the files have no split of their own. "train" is everything unless ``test_share`` > 0: then
            "test" holds that share of the *prompts* (by their hash, so that no prompt is in both) and "train"
            the others.
        axes, contexts: which to keep; "intra" prompts hold the word BLANK.
        drop_equal: accepted because every source takes it; equal pairs are always dropped here (see above).
        exclude_ids: a file with the ids, one a line, of pairs to leave out (see ``teachfair.data.excluding``).

    Returns: a Dataset of pairs: kind ``anti-vs-stereotype``, ``axis`` of the file, one cluster per prompt.
    Raises: DataError if the folder or its files are absent or malformed; ConfigError for an unknown axis or
    split.
    """
    for axis in axes:
        if axis not in AXES:
            raise unknown_name("axis", axis, AXES)
    for context in contexts:
        if context not in ("intra", "inter"):
            raise unknown_name("context", context, ("intra", "inter"))
    if split not in ("train", "test"):
        raise unknown_name("split", split, ("train", "test"))
    folder = Path(path_or_id) if path_or_id else None
    if folder is None or not folder.is_dir():
        raise DataError(
            "the StereoSet pairs are read from a folder, and there is none",
            where=str(path_or_id),
            fix=f"give the folder that holds gender_data.json … ({CARD['public_id']})",
        )
    rows: list[dict[str, Any]] = []
    counts = Counts()
    problems: list[Problem] = []
    for axis in axes:
        of_axis, read, found = _axis_rows(folder, axis)
        rows, counts, problems = rows + of_axis, counts + read, problems + found
    refuse(
        problems,
        bad=counts.read - counts.kept - counts.dropped_equal,
        read=counts.read,
        rows="preference rows",
        limit=limit_errors,
        fix="restore the published files, or mend these rows",
    )
    rows = [row for row in rows if ("intra" if _is_intra(row) else "inter") in contexts]
    rows = [row for row in rows if in_test(row["cluster"], test_share) == (split == "test")]
    counts.not_asked += counts.kept - len(rows)
    counts.kept = len(rows)
    if not rows:
        raise DataError(
            "no pairs are left",
            where=f"{folder}: split {split}, axes {', '.join(axes)}",
            fix="set test_share > 0 for a test split, or keep more axes and contexts",
        )
    return pairs_dataset(exclude(rows, counts, exclude_ids), counts)


def _axis_rows(folder: Path, axis: str) -> tuple[list[dict[str, Any]], Counts, list[Problem]]:
    path = folder / f"{axis}_data.json"
    if not path.exists():
        path = folder / f"{axis}_intra_data.json"
    if not path.exists():
        raise DataError(
            f"there is no {axis}_data.json", where=str(folder), fix="add it, or leave the axis out of `axes`"
        )
    lines, raw = read_rows(path)
    counts = Counts()
    rows, problems = validate_rows(
        raw, path.name, lines=lines, drop_equal=True, source="stereoset_pairs", counts=counts
    )
    if counts.dropped_equal and not problems:
        logger.warning("%s: dropped %d pairs with equal sides", path.name, counts.dropped_equal)
    for row in rows:
        for side in ("prompt", "chosen", "rejected"):
            for message in row[side]:
                message["content"] = " ".join(message["content"].split())
        prompt = row["prompt"][0]["content"]
        row.update(
            kind="anti-vs-stereotype",
            axis=axis,
            lang="en",
            id=f"{axis}-{row['id']}",
            cluster=f"stereoset-{digest(prompt)}",
        )
    return rows, counts, problems


def _is_intra(row: dict[str, Any]) -> bool:
    return "BLANK" in row["prompt"][0]["content"]
