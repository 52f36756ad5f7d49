"""Write on-policy pairs: one file that the teaching door reads, and beside it where its pairs came from."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from teachfair.data.pairs import PAIR_COLUMNS
from teachfair.errors import ConfigError
from teachfair.runs import versions, write_json, write_text

if TYPE_CHECKING:
    from datasets import Dataset

COLUMNS = (*PAIR_COLUMNS, "reward_chosen", "reward_rejected")
PROVENANCE = ".provenance.json"


def check_output(output: str | Path, *, overwrite: bool = False) -> Path:
    """The output file's path, if pairs can be written there. Called before anything is sampled.

    Raises: ConfigError for another ending than .jsonl or .parquet, or a file that is already there.
    """
    path = Path(output)
    if path.suffix not in (".jsonl", ".parquet"):
        raise ConfigError(
            f"unknown output format {path.suffix!r}", where="--output", fix="end the name in .jsonl or .parquet"
        )
    if path.is_dir() or (path.exists() and not overwrite):
        raise ConfigError(
            "the output file is already there", where=str(path), fix="choose another name, or pass --overwrite"
        )
    return path


def write_pairs(pairs: Dataset, output: str | Path, provenance: dict[str, Any], *, overwrite: bool = False) -> Path:
    """Write ``pairs`` whole or not at all, after ``<output>.provenance.json`` with the data's sha256 in it.

    Each row holds the pair's columns and the two rewards. Returns: the path. Raises: as :func:`check_output`.
    """
    path = check_output(output, overwrite=overwrite)
    rows = pairs.select_columns(list(COLUMNS))
    if path.suffix == ".jsonl":
        content = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows).encode()
    else:
        stream = io.BytesIO()
        rows.to_parquet(stream)
        content = stream.getvalue()
    digest = hashlib.sha256(content).hexdigest()
    write_json(
        path.with_name(path.name + PROVENANCE),
        {**provenance, "sha256": digest, "n_pairs": len(rows), "versions": versions()},
    )
    if path.suffix == ".jsonl":
        return write_text(path, content.decode())
    handle, aside = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as out:
            out.write(content)
            out.flush()
            os.fsync(out.fileno())
        os.chmod(aside, 0o644)
        os.replace(aside, path)
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise
    return path
