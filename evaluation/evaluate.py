"""Score a checkpoint on benchmarks: one row per item, a summary, and a record of what ran."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from teachfair.errors import DataError, InputError, RunFolderError
from teachfair.evaluation.benchmarks import get
from teachfair.models.chat import ensure_chat_template
from teachfair.models.checkpoint import content_hash, inspect_checkpoint, load_policy
from teachfair.models.scorer import PolicyScorer
from teachfair.runs import hash_file, peak_memory_gib, read_record, whole_folder, write_json, write_record

if TYPE_CHECKING:
    import pandas as pd

RECORDS = "records.parquet"
SUMMARY = "summary.json"
RECORD_COLUMNS = (
    "benchmark",
    "item_id",
    "cluster",
    "axis",
    "groups",
    "lang",
    "condition",
    "roles",
    "logps_first",
    "logps_whole",
    "n_tokens",
    "chosen_role",
    "margin_nats",
    "correct",
)

Progress = Callable[[str, int, int], None]


def evaluate(
    policy: str | Path,
    benchmarks: Sequence[Any],
    data_dir: str | Path | None,
    out: str | Path,
    *,
    limit: int | None = None,
    cell: Mapping[str, Any] | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    dtype: str = "float32",
    device: str | None = None,
    progress: Progress | None = None,
) -> Path:
    """Score ``policy`` on ``benchmarks``: ``records.parquet``, ``summary.json`` and, last, ``run.json``.

    Args:
        policy: a checkpoint folder of any kind that ``load_policy`` reads, or a hub id.
        benchmarks: names of ``BENCHMARKS``, or benchmark objects.
        data_dir: folder with the benchmarks' files; None for those that need none.
        out: a new folder; it appears whole or not at all.
        limit: at most so many items of each benchmark, evenly spaced over its order so that conditions stay
        mixed. cell: study keys (teach, adapt, compress, order, seed, base), added to every row as columns.
        options: keyword arguments of a benchmark's ``items``, by benchmark name.
        dtype, device: as in ``load_policy``.
        progress: called with (benchmark name, sequences done, of how many).

    Returns: ``out``.
    Raises: ConfigError on an unknown benchmark, or one that refuses this policy (``check_policy``); CheckpointError,
        DataError, InputError, NonFiniteError, RunFolderError, all before anything is visible under ``out``.
    """
    import pandas as pd
    import pyarrow
    import pyarrow.parquet

    modules = [get(benchmark) for benchmark in benchmarks]
    names = [module.CARD["name"] for module in modules]
    if not modules or len(set(names)) < len(names):
        raise InputError(
            "no benchmark was named" if not modules else "a benchmark was named twice",
            where=f"benchmarks {names}",
            fix="name each benchmark once",
        )
    if limit is not None and limit < 1:
        raise InputError(f"limit is {limit}", where="--limit", fix="a number of items, 1 or more, or none")
    started = time.time()
    info = inspect_checkpoint(policy)
    admitted = {
        name: module.check_policy(policy, **dict((options or {}).get(name, {})))
        for module, name in zip(modules, names, strict=True)
        if hasattr(module, "check_policy")
    }
    with whole_folder(out) as aside:
        # Items before the model: a missing or malformed file shows in a second, not after a long load.
        chosen = {}
        for module, name in zip(modules, names, strict=True):
            found = module.items(data_dir, **dict((options or {}).get(name, {})))
            _require_unique_ids(name, found)
            chosen[name] = _evenly(found, limit)
        data_hashes = {
            str(path): hash_file(path)
            for module in modules
            if hasattr(module, "data_files")
            for path in module.data_files(data_dir)
        }
        model, tokenizer = load_policy(policy, dtype=dtype, device=device)
        template_added = ensure_chat_template(tokenizer)
        scorer = PolicyScorer(model, tokenizer)
        frames, summaries, seconds = [], {}, {}
        for module, name in zip(modules, names, strict=True):
            begun = time.time()
            report = None if progress is None else _for(name, progress)
            records = pd.DataFrame(module.score(scorer, chosen[name], progress=report))
            absent = [column for column in RECORD_COLUMNS if column not in records.columns]
            if absent:
                raise InputError(
                    f"the records lack the columns {', '.join(absent)}",
                    where=f"benchmark {name}",
                    fix="its score() returns one dict per item with all of RECORD_COLUMNS",
                )
            summaries[name] = module.summarise(records)
            frames.append(records)
            seconds[name] = round(time.time() - begun, 3)
        rows = pd.concat(frames, ignore_index=True)
        for key, value in (cell or {}).items():
            rows[key] = value
        table = pyarrow.Table.from_pandas(rows, preserve_index=False)
        pyarrow.parquet.write_table(table, aside / RECORDS, compression="zstd")
        plain, undefined = without_nan(summaries)
        write_json(aside / SUMMARY, {"benchmarks": plain, "undefined": undefined, "cell": dict(cell or {})})
        write_record(
            aside,
            what="evaluate",
            policy=str(policy),
            policy_kind=info.kind,
            policy_hash=content_hash(policy),
            base=None if info.base is None else str(info.base),
            quantization=info.quantization,
            cell=dict(cell or {}),
            benchmarks={
                name: {
                    "version": module.CARD["version"],
                    "norm": module.CARD["norm"],
                    "items": len(chosen[name]),
                    "options": dict((options or {}).get(name, {})),
                    "seconds": seconds[name],
                    **admitted.get(name, {}),
                }
                for module, name in zip(modules, names, strict=True)
            },
            limit=limit,
            data_dir=None if data_dir is None else str(data_dir),
            data_hashes=data_hashes,
            dtype=dtype,
            device=str(model.device),
            prompt_format={
                "chat_template": "added" if template_added else "the policy's own",
                "sha256": hashlib.sha256(str(tokenizer.chat_template).encode()).hexdigest(),
                "text": str(tokenizer.chat_template),
                "bos": tokenizer.bos_token,
            },
            seconds=round(time.time() - started, 3),
            peak_memory_gib=round(peak_memory_gib(), 3),
            records_hash=hash_file(aside / RECORDS),
        )
    return Path(out)


def load_records(folder: str | Path) -> pd.DataFrame:
    """The per-item records of a finished evaluation; list columns are lists.

    Raises: RunFolderError if the folder is not complete or its records are not the ones that were written.
    """
    import pandas as pd

    folder = Path(folder)
    record = read_record(folder)
    if record is None or not (folder / RECORDS).is_file():
        raise RunFolderError(
            "the folder holds no finished evaluation", where=str(folder), fix="run the evaluation again"
        )
    if record.get("records_hash") not in (None, hash_file(folder / RECORDS)):
        raise RunFolderError(
            "the records have changed since they were written",
            where=str(folder / RECORDS),
            fix="run the evaluation again; edited numbers are not reported",
        )
    rows = pd.read_parquet(folder / RECORDS)
    for column in rows.columns:
        if rows[column].map(lambda value: hasattr(value, "tolist") and getattr(value, "ndim", 0) == 1).any():
            rows[column] = rows[column].map(
                lambda value: value.tolist() if hasattr(value, "tolist") else value
            )
    return rows


def without_nan(value: Any) -> tuple[Any, dict[str, str]]:
    """A JSON-able copy in which NaN and infinity are None, and {path of each: why}.

    The reason is taken from a ``reasons`` dict that stands beside the number, which a benchmark's summary may
    have.
    """
    undefined: dict[str, str] = {}

    def plain(node: Any, path: str, reason: str) -> Any:
        if isinstance(node, Mapping):
            reasons = node.get("reasons") or {}
            return {
                str(key): plain(child, f"{path}.{key}" if path else str(key), reasons.get(key, reason))
                for key, child in node.items()
            }
        if isinstance(node, list | tuple):
            return [plain(child, path, reason) for child in node]
        if hasattr(node, "tolist"):  # numpy numbers and arrays
            return plain(node.tolist(), path, reason)
        if isinstance(node, float) and not math.isfinite(node):
            undefined[path] = reason
            return None
        return node

    return plain(value, "", "undefined for these records"), undefined


def _require_unique_ids(name: str, items: Sequence[Mapping[str, Any]]) -> None:
    seen: set[str] = set()
    for item in items:
        if item["id"] in seen:
            raise DataError(
                "two items have the same id",
                where=f"benchmark {name}, id {item['id']}",
                fix="give each item its own id; cells are paired by it",
            )
        seen.add(item["id"])


def _evenly(items: list[Any], limit: int | None) -> list[Any]:
    if limit is None or limit >= len(items):
        return items
    return [items[index * len(items) // limit] for index in range(limit)]


def _for(name: str, progress: Progress) -> Callable[[int, int], None]:
    return lambda done, total: progress(name, done, total)
