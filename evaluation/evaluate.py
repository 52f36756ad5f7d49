"""Score a checkpoint on benchmarks: one row per item, a summary, and a record of what ran."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import math
import platform
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from teachfair.errors import DataError, InputError, NonFiniteError, RunFolderError
from teachfair.evaluation.benchmarks import get
from teachfair.evaluation.readings import summarise_evaluation
from teachfair.models import score_cache as caching
from teachfair.models.checkpoint import content_hash, inspect_checkpoint
from teachfair.models.pseudo_likelihood import MaskedScorer
from teachfair.models.scorer import PolicyScorer, Scorer, load_scorer
from teachfair.models.scoring_path import scoring_path
from teachfair.runs import claimed, hash_file, peak_memory_gib, read_record, whole_folder, write_json, write_record

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
    score_cache: str | Path | None = None,
    scorer: Scorer | None = None,
    identity: str | None = None,
) -> Path:
    """Score ``policy`` on ``benchmarks``: ``records.parquet``, ``summary.json`` and, last, ``run.json``.

    A run that is killed goes on where it stopped when it is started again: every batch of scores is kept in
    ``<out>.unfinished``, which is removed when ``out`` is whole. The records are, to the last bit, those of an unbroken run.
    An item that cannot be scored has its ``problem`` in the records, NaN numbers, and is counted.

    Args:
        policy: a checkpoint folder of any kind that ``load_policy`` reads, or a hub id. With ``scorer``: its name.
        benchmarks: names of ``BENCHMARKS``, or benchmark objects.
        data_dir: folder with the benchmarks' files; None for those that need none.
        out: a new folder; it appears whole or not at all.
        limit: at most so many questions of each benchmark (items that share a ``base_id`` are one), evenly spaced over
            its order so that conditions stay mixed.
        cell: study keys (teach, adapt, compress, order, seed, base), added to every row as columns.
        options: keyword arguments of a benchmark's ``items``, by benchmark name.
        dtype, device: as in ``load_policy``.
        progress: called with (benchmark name, sequences done, of how many).
        score_cache: a folder in which scores are kept for good, for all runs (and processes) that name it, in the file
            ``scores.sqlite``. Default: they are kept beside ``out`` until it is whole.
        scorer: something else than a checkpoint that can answer a benchmark's questions; ``identity`` then stands in place
            of the checkpoint's content hash. It brings its own cache, if any.

    Returns: ``out``.
    Raises: ConfigError on an unknown benchmark, or one that refuses this policy (``check_policy``); CheckpointError,
        DataError, RunFolderError (``out`` is taken, in use or cannot be written); NonFiniteError or InputError where no item
        of a benchmark can be scored. Nothing is visible under ``out`` then.
    """
    import pandas as pd

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
    if (scorer is None) != (identity is None):
        raise InputError(
            "scorer and identity go together", where="evaluate",
            fix="give with a scorer the string that tells it from every other one (model, revision, settings)",
        )  # fmt: skip
    started, out = time.time(), Path(out)
    info = None if scorer is not None else inspect_checkpoint(policy)
    admitted = {
        name: module.check_policy(policy, **dict((options or {}).get(name, {})))
        for module, name in zip(modules, names, strict=True)
        if hasattr(module, "check_policy") and scorer is None
    }
    with _unfinished(out) as working, whole_folder(out) as aside:
        # Items before the model: a missing or malformed file shows in a second, not after a long load.
        chosen, available = {}, {}
        for module, name in zip(modules, names, strict=True):
            found = module.items(data_dir, **dict((options or {}).get(name, {})))
            _require_unique_ids(name, found)
            chosen[name], available[name] = _evenly(found, limit), len(found)
        data_hashes = {
            str(path): hash_file(path)
            for module in modules
            if hasattr(module, "data_files")
            for path in module.data_files(data_dir)
        }
        frames, summaries, facts = [], {}, {}
        with _asked(policy, scorer, dtype, device, working if score_cache is None else Path(score_cache)) as asked:
            for module, name in zip(modules, names, strict=True):
                report = None if progress is None else _for(name, progress)
                records, facts[name] = _scored(module, name, asked, chosen[name], report)
                summaries[name] = _counted(module.summarise(records), facts[name])
                frames.append(records)
            cache = asked.cache.report() if isinstance(asked, PolicyScorer) and asked.cache is not None else None
        rows = pd.concat(frames, ignore_index=True)
        hashed = result_hash(rows)
        for key, value in (cell or {}).items():
            rows[key] = value
        with _written(out):
            rows.to_parquet(aside / RECORDS, index=False, compression="zstd")
            write_json(aside / SUMMARY, _summary(rows, dict(zip(names, modules, strict=True)), summaries, cell))
            write_record(
                aside,
                what="evaluate",
                policy=str(policy),
                policy_kind="scorer" if info is None else info.kind,
                policy_hash=identity if info is None else content_hash(policy),
                base=None if info is None or info.base is None else str(info.base),
                quantization=None if info is None else info.quantization,
                cell=dict(cell or {}),
                benchmarks={
                    name: {
                        "version": module.CARD["version"],
                        "norm": module.CARD["norm"],
                        "items": len(chosen[name]),
                        "items_available": available[name],
                        "options": dict((options or {}).get(name, {})),
                        **facts[name],
                        **admitted.get(name, {}),
                    }
                    for module, name in zip(modules, names, strict=True)
                },
                limit=limit,
                data_dir=None if data_dir is None else str(data_dir),
                data_hashes=data_hashes,
                dtype=dtype if info is not None else None,
                device=str(asked.model.device) if isinstance(asked, PolicyScorer) else None,
                prompt_format=_prompt_format(asked),
                scoring_path=scoring_path(asked.model) if isinstance(asked, PolicyScorer) else None,
                notes=list(getattr(asked, "notes", ())),
                score_cache=cache and {**cache, "folder": None if score_cache is None else str(score_cache)},
                environment=_environment(),
                seconds=round(time.time() - started, 3),
                peak_memory_gib=round(peak_memory_gib(), 3),
                result_hash=hashed,
                records_hash=hash_file(aside / RECORDS),
                summary_hash=hash_file(aside / SUMMARY),
            )
    return out


def _scored(
    module: Any, name: str, scorer: Scorer, items: list[Any], report: Callable[[int, int], None] | None
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """One benchmark's records, and what its entry in the run record says about the scoring."""
    import pandas as pd

    begun = time.time()
    problems, tokens = sum(getattr(scorer, "problems", {}).values()), getattr(scorer, "tokens", 0)
    records = pd.DataFrame(module.score(scorer, items, progress=report))
    absent = [column for column in RECORD_COLUMNS if column not in records.columns]
    if absent:
        raise InputError(
            f"the records lack the columns {', '.join(absent)}",
            where=f"benchmark {name}",
            fix="its score() returns one dict per item with all of RECORD_COLUMNS",
        )
    twice = records["item_id"][records["item_id"].duplicated()]
    if len(twice):
        raise InputError(
            f"{len(twice)} records stand twice", where=f"benchmark {name}, item {twice.iloc[0]}",
            fix="its score() returns one dict per item",
        )  # fmt: skip
    records["problem"] = records["problem"].fillna("") if "problem" in records else ""
    if isinstance(scorer, MaskedScorer) and "scored_by" not in records:
        records["scored_by"] = "pseudo-log-likelihood"  # no number of a causal model compares with it
    problems = sum(getattr(scorer, "problems", {}).values()) - problems
    counts = {str(word): int(n) for word, n in records["problem"].value_counts().sort_index().items() if word}
    if problems and not counts:
        raise InputError(
            f"{problems} scores are not numbers, and no record says so", where=f"benchmark {name}",
            fix="its score() puts models.scorer.problem_of(scores) into the column problem, and NaN for the numbers",
        )  # fmt: skip
    if sum(counts.values()) == len(records):
        _refuse(name, records, counts)
    seconds = time.time() - begun
    facts = {
        "seconds": round(seconds, 3), "items_per_second": round(len(items) / max(seconds, 1e-9), 2),
        "scored_tokens": getattr(scorer, "tokens", 0) - tokens, "n_unscored": sum(counts.values()), "problems": counts,
    }  # fmt: skip
    if "prefix_mismatch" in records:
        facts["n_prefix_mismatch"] = int(records["prefix_mismatch"].fillna(False).astype(bool).sum())
    return records, facts


_FIXES = {
    "not finite": "the weights are damaged or training diverged; check the checkpoint first",
    "too long": "take a model with a longer context, or a benchmark with shorter items; a cut text would be another",
    "no options": "give each item one or more options",
    "equal options": "give each item different options",
}


def _refuse(name: str, records: pd.DataFrame, counts: Mapping[str, int]) -> None:
    what = ", ".join(f"{n} × {word}" for word, n in counts.items())
    examples = ", ".join(f"{row.item_id} ({row.problem})" for row in records.head(3).itertuples())
    most = max(counts, key=lambda word: counts[word]) if counts else ""
    raise (NonFiniteError if set(counts) == {"not finite"} else InputError)(
        f"no item can be scored: {what or 'there is none'}", where=f"benchmark {name}, items {examples or 'none'}",
        fix=_FIXES.get(most, "check that the items suit this model and its tokenizer"),
    )  # fmt: skip


def _counted(summary: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Any]:
    """A benchmark's summary; how many items it leaves out, and why, unless it says so itself."""
    return {"n_unscored": facts["n_unscored"], "unscored_by_problem": dict(facts["problems"]), **summary}


def _summary(
    records: pd.DataFrame, modules: Mapping[str, Any], summaries: Mapping[str, Any], cell: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Each benchmark's numbers, the bias readings with their guard-rails, and why a number is not defined (by its path)."""
    cards = {name: module.CARD for name, module in modules.items()}
    found = summarise_evaluation(records, cards, modules=modules, summaries=summaries)
    benchmarks, undefined = without_nan(found.pop("benchmarks"))
    plain, _ = without_nan(found)
    return {"benchmarks": benchmarks, **plain, "undefined": undefined, "cell": dict(cell or {})}


def result_hash(records: pd.DataFrame) -> str:
    """sha256 of what was measured: every record's every column but a study's cell keys, sorted, not rounded.

    Equal for two runs if and only if all their numbers are the same to the last bit; file format, order and time play no
    part. The columns are taken before cell keys are added.
    """
    columns = sorted(records.columns)
    places = {column: place for place, column in enumerate(records.columns)}
    lines = sorted(
        json.dumps([_canonical(row[places[column]]) for column in columns], ensure_ascii=False)
        for row in records.itertuples(index=False, name=None)
    )
    return hashlib.sha256("\n".join([json.dumps(columns), *lines]).encode("utf-8", "surrogatepass")).hexdigest()


def _canonical(value: Any) -> Any:
    """``value`` for JSON: numpy's numbers as Python's (floats print all their digits), None for every kind of missing."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_canonical(one) for one in value]
    if isinstance(value, Mapping):
        return {str(key): _canonical(one) for key, one in sorted(value.items())}
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) or math.isinf(value) else None
    return value if value is None or isinstance(value, str | int | bool) else str(value)


@contextlib.contextmanager
def _unfinished(out: Path) -> Iterator[Path]:
    """``<out>.unfinished``: the lock and the scores of a run that is under way. Kept if it holds scores when the run fails.

    Raises: RunFolderError if another process evaluates into ``out``, or the place cannot be written.
    """
    folder = out.with_name(f"{out.name}.unfinished")
    scores = folder / caching.FILE
    with _without_empty(folder), claimed(folder):
        # What a killed run left aside: its name is tempfile's, and whoever holds the claim is the only one to have any.
        for stale in out.parent.glob(f".{glob.escape(out.name)}.*.partial"):
            if re.fullmatch(r"[a-z0-9_]{8}", stale.name.removeprefix(f".{out.name}.").removesuffix(".partial")):
                shutil.rmtree(stale, ignore_errors=True)
        try:
            yield folder
        except BaseException:
            if not caching.holds_rows(scores):
                caching.remove(scores)
            raise
        else:
            caching.remove(scores)


@contextlib.contextmanager
def _without_empty(folder: Path) -> Iterator[None]:
    """Remove ``folder`` at the end, unless scores are kept in it or another process has claimed it since."""
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            folder.rmdir()


@contextlib.contextmanager
def _asked(
    policy: str | Path, scorer: Scorer | None, dtype: str, device: str | None, cache: Path
) -> Iterator[Scorer]:
    """The scorer to ask: the one that was given, or the checkpoint's, with its cache open."""
    if scorer is not None:
        yield scorer
        return
    loaded = load_scorer(policy, dtype=dtype, device=device, cache=cache / caching.FILE, strict=False)
    try:
        yield loaded
    finally:
        if isinstance(loaded, PolicyScorer) and loaded.cache is not None:
            loaded.cache.close()


@contextlib.contextmanager
def _written(out: Path) -> Iterator[None]:
    """A full disk in the words of a user's error; what was scored is kept for the next start."""
    try:
        yield
    except OSError as error:
        raise RunFolderError(
            f"the results cannot be written ({error.strerror or error})", where=str(out),
            fix="make room and give the same command again: what has been scored is not scored again",
        ) from error  # fmt: skip


def _prompt_format(scorer: Scorer) -> dict[str, Any] | None:
    tokenizer = scorer.tokenizer
    if tokenizer is None:
        return None
    return {
        "chat_template": "added" if getattr(scorer, "template_added", False) else "the policy's own",
        "sha256": hashlib.sha256(str(tokenizer.chat_template).encode()).hexdigest(),
        "text": str(tokenizer.chat_template),
        "bos": tokenizer.bos_token,
    }


def _environment() -> dict[str, Any]:
    """Where a run took place, beside the versions that every run record has."""
    import torch

    return {
        "commit": _commit(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "system": platform.platform(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "cuda": torch.version.cuda,
    }


def _commit() -> str | None:
    """The commit of the checkout that this code lies in, "+changes" if files differ from it; None where it is installed."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    answers = []
    for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"]):
        try:
            done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, timeout=20)
        except (OSError, subprocess.TimeoutExpired):
            return None
        if done.returncode:
            return None
        answers.append(done.stdout.strip())
    return answers[0] + ("+changes" if answers[1] else "")


def records_file(folder: str | Path, *, expected: str | None = None) -> Path:
    """The parquet file of a finished evaluation, after its hash has been compared with the one in the run record.

    Args: expected: the records' hash as somebody else noted it (a study does): who edits both the records and the hash in
        their run record is found out by it.
    Raises: RunFolderError if the folder is not complete or its records are not the ones that were written.
    """
    folder = Path(folder)
    record = read_record(folder)
    if record is None or not (folder / RECORDS).is_file():
        raise RunFolderError(
            "the folder holds no finished evaluation", where=str(folder), fix="run the evaluation again"
        )
    found = hash_file(folder / RECORDS)
    if found != record.get("records_hash") or expected not in (None, found):
        raise RunFolderError(
            "the records have changed since they were written",
            where=str(folder / RECORDS),
            fix="run the evaluation again; edited numbers are not reported",
        )
    return folder / RECORDS


def load_records(folder: str | Path, *, expected: str | None = None) -> pd.DataFrame:
    """The per-item records of a finished evaluation; list columns are lists. Arguments and errors: :func:`records_file`."""
    import pandas as pd

    rows = pd.read_parquet(records_file(folder, expected=expected))
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
    """The items of ``limit`` evenly spaced questions: all formats and option orders of one question or none."""
    questions = list(dict.fromkeys(item.get("base_id", item["id"]) for item in items))
    if limit is None or limit >= len(questions):
        return items
    kept = {questions[index * len(questions) // limit] for index in range(limit)}
    return [item for item in items if item.get("base_id", item["id"]) in kept]


def _for(name: str, progress: Progress) -> Callable[[int, int], None]:
    return lambda done, total: progress(name, done, total)
