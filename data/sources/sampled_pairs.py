"""On-policy pairs: what a policy answered and a reward model judged, as recipes/sample_pairs.py wrote them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from teachfair.data.excluding import exclude
from teachfair.data.gathering import place_of
from teachfair.data.pairs import pairs_dataset, read_preference_file
from teachfair.data.reading import Problem, json_document, jsonl_rows, kind_of, parquet_rows, read_bytes, refuse, short
from teachfair.errors import DataError
from teachfair.runs import hash_file

if TYPE_CHECKING:
    from datasets import Dataset

SUFFIXES = (".jsonl", ".parquet")
PROVENANCE = ".provenance.json"
REWARDS = ("reward_chosen", "reward_rejected")
ORIGIN = ("policy_hash", "reward_model_hash", "seed", "temperature", "num_candidates")

CARD = {
    "name": "sampled_pairs",
    "meaning": "the best and the worst of a policy's own answers to a prompt, by a fairness reward model",
    "paper": "",
    "public_id": "a file written by recipes/sample_pairs.py",
    "licence": "that of the prompts; the answers are the policy's",
    "language": "that of the prompts",
    "norm": "the reward model's, and so of the pairs that it was trained on; its errors are in here too",
    "version": 1,
    "formats": ["<name>.jsonl or <name>.parquet with <name>.…provenance.json beside it"],
    "problems": [
        "a reward model that is wrong about an axis writes wrong pairs about it: read its accuracy per kind first",
        "pairs that were edited after they were written no longer have the origin that is claimed: refused by hash",
    ],
}


def load(
    path_or_id: str | Path | None = None,
    split: str = "train",
    *,
    drop_equal: bool = False,
    exclude_ids: str | Path | None = None,
    limit_errors: int = 20,
) -> Dataset:
    """Pairs with two further columns, ``reward_chosen`` and ``reward_rejected`` (logits); the provenance is in the counts'
    notes (policy and reward model by hash, seed, temperature, number of answers).

    Args:
        split: the file is one split; not looked at.
        exclude_ids: a file with the ids, one a line, of pairs to leave out (see ``teachfair.data.excluding``).

    Raises: DataError if there is no provenance beside the file, it is incomplete, or the file is not the one it speaks of;
        and for each malformed row.
    """
    path = Path(place_of(path_or_id, CARD))
    if path.suffix not in SUFFIXES or not path.is_file():
        raise DataError(
            "a .jsonl or .parquet file was wanted", where=str(path), fix="give the file that recipes/sample_pairs.py wrote"
        )
    provenance = read_provenance(path)
    rows, counts = read_preference_file(path, drop_equal=drop_equal, limit_errors=limit_errors, source="policy")
    if counts.read != provenance["n_pairs"]:
        raise DataError(
            f"{counts.read} pairs, but its provenance speaks of {short(str(provenance['n_pairs']))}",
            where=str(path),
            fix="sample them again",
        )
    rewards = _rewards(path, limit_errors)
    # rows that were dropped as equal have no reward to keep: match by id, which write_pairs always gives
    rows = [row | rewards[row["id"]] for row in rows if row["id"] in rewards]
    counts.notes.append("; ".join(f"{key} {short(str(provenance[key]), 64)}" for key in ORIGIN))
    counts.ignored_columns = [name for name in counts.ignored_columns if name not in REWARDS]
    return pairs_dataset(exclude(rows, counts, exclude_ids), counts, extra=dict.fromkeys(REWARDS, "float64"))


def read_provenance(path: Path) -> dict[str, Any]:
    """What ``<path>.provenance.json`` says, after checking that it speaks of this very file.

    Raises: DataError if it is absent, incomplete, or of another content (sha256).
    """
    beside = path.with_name(path.name + PROVENANCE)
    if not beside.is_file():
        raise DataError(
            f"there is no {beside.name} beside it, so nobody knows whose answers these are", where=str(path),
            fix="keep both files together, or read it as dataset_source preference_file",
        )  # fmt: skip
    found = json_document(beside, read_bytes(beside))
    if not isinstance(found, dict):
        what = f"an object was wanted, this is {kind_of(found)}"
        raise DataError(what, where=f"{beside.name}:$: file", fix="sample again")
    missing = [key for key in ("sha256", "n_pairs", *ORIGIN) if found.get(key) is None]
    if missing:
        raise DataError(f"it does not say: {', '.join(missing)}", where=f"{beside.name}:$: {missing[0]}", fix="sample again")
    if hash_file(path) != found["sha256"]:
        raise DataError(
            "the file is not the one that its provenance speaks of (other sha256): it was changed since", where=str(path),
            fix="sample again, or read it as dataset_source preference_file",
        )  # fmt: skip
    return found


def _rewards(path: Path, limit_errors: int) -> dict[str, dict[str, float]]:
    content = read_bytes(path)
    lines, rows = (parquet_rows if path.suffix == ".parquet" else jsonl_rows)(path, content)
    problems: list[Problem] = []
    found: dict[str, dict[str, float]] = {}
    for line, row in zip(lines, rows, strict=True):
        bad = [Problem(path.name, line, name, what) for name in (*REWARDS, "id") if (what := _wrong(row, name))]
        problems.extend(bad)
        if not bad:
            found[str(row["id"])] = {name: float(row[name]) for name in REWARDS}
    bad_rows = len({problem.line for problem in problems})
    refuse(problems, bad=bad_rows, read=len(rows), rows="sampled pairs", limit=limit_errors)
    return found


def _wrong(row: Any, name: str) -> str:
    """What is wrong with a field of a row that is known to be a mapping; "" where nothing is."""
    if name not in row or row[name] is None:
        return "missing"
    value = row[name]
    if name == "id":
        return ""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return f"a finite number was wanted, this is {kind_of(value)}"
    return ""
