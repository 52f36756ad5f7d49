"""The study: teach × adapt × compress × order × seed × base, resumable, judged on the same items.

A study is a YAML file (``recipes/configs/demo.yaml``). Each step — a policy, a reward model, the ranked pairs, a taught
checkpoint, a compressed one, an evaluation — is a folder under ``<output_dir>/steps`` (``steps.py``); a step whose folder
is complete is never computed again, so a killed study goes on where it stopped and a changed study recomputes only what
changed. Steps run in worker processes, one chain per arm and seed; this process only plans, shows progress and writes
the report, and never loads torch. With ``grid.py`` and ``steps.py`` it is the one place that knows every floor.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TYPE_CHECKING, Any

from teachfair import runs, steps
from teachfair.errors import RunFolderError, TeachfairError
from teachfair.evaluation.benchmarks.template import TemplateBenchmark
from teachfair.evaluation.evaluate import RECORDS
from teachfair.grid import COMPRESS_ALIGN, StudyConfig, benchmark_modules, cells, step_counts, with_kept_templates

if TYPE_CHECKING:
    import pandas as pd


_LISTS = ("roles", "logps_first", "logps_whole", "n_tokens")  # one value for each option of an item
_FILES_AT_ONCE = 64  # bounds the memory


def run_study(study: StudyConfig, *, source: str = "") -> Path:
    """Run what is missing of the grid, analyse it, write the report; returns the path of ``report.html``.

    Raises: TeachfairError from any step (finished steps are kept); RunFolderError if the folder is in use.
    """
    start = time.monotonic()
    output = study.output_dir
    with runs.claimed(output):
        kept = with_kept_templates(study)
        results, found, reused = _run_grid(kept)
        report = _analyse(kept, results, found, source=source, start=start, reused=reused, as_asked=study)
    return report


def _run_grid(study: StudyConfig) -> tuple[list[dict[str, Any]], list[dict[str, Any]], tuple[int, int]]:
    import multiprocessing

    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    total = sum(step_counts(study).values())
    plain = study.model_dump()
    results: list[dict[str, Any]] = []
    foundations: list[dict[str, Any]] = []
    threads = max(1, (os.cpu_count() or 1) // study.workers)
    pool = ProcessPoolExecutor(study.workers, mp_context=context, initializer=steps.start_worker, initargs=(queue, threads))
    progress = _Progress(queue, total)
    with pool, progress:
        try:
            for found in progress.results(
                [pool.submit(steps.guarded, steps.foundation, plain, base) for base in study.bases]
            ):
                foundations.append(found)
            foundations.sort(key=lambda found: study.bases.index(found["base"]))
            jobs: list[Future[Any]] = []
            for found in foundations:
                jobs += [
                    pool.submit(steps.guarded, steps.arm_chain, plain, found, arm.model_dump(), seed)
                    for seed in study.seeds
                    for arm in study.arms
                ]
                jobs.append(pool.submit(steps.guarded, steps.untaught_chain, plain, found))
            for chain in progress.results(jobs):
                results += chain
            first = study.replanted_arm
            if study.replant and first is not None:
                late = [
                    pool.submit(steps.guarded, steps.replant_chain, plain, found, first.model_dump(), seed)
                    for found in foundations
                    for seed in study.seeds
                ]
                for chain in progress.results(late):
                    results += chain
        except BrokenProcessPool as error:
            raise RunFolderError(
                "a worker process was killed (most often: out of memory)", where=str(study.output_dir),
                fix="give the same command again, it goes on where it stopped; with --workers 1 it needs less memory",
            ) from error  # fmt: skip
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    progress.drain()  # a step's last message may come after its result; now that the workers have ended, all are there
    order = {_key(cell): index for index, cell in enumerate(cells(study))}
    results.sort(key=lambda result: order[_key(result)])
    return results, foundations, (progress.made, progress.reused)


def _key(cell: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(cell[name] for name in ("teach", "adapt", "compress", "order", "seed", "base"))


class _Progress:
    """A bar that counts finished steps and names what the workers are doing; plain lines where there is no terminal."""

    def __init__(self, queue: Any, total: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        self.queue, self.made, self.reused = queue, 0, 0
        self.console = Console(stderr=False)
        self.live = self.console.is_terminal
        self.bar = Progress(
            TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            console=self.console, transient=True, disable=not self.live,
        )  # fmt: skip
        self.task = self.bar.add_task("start the workers", total=total)
        self.doing: dict[int, str] = {}
        self.start = time.monotonic()

    def __enter__(self) -> _Progress:
        self.bar.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        self.bar.__exit__(*exception)

    def results(self, futures: list[Future[Any]]) -> Iterator[Any]:
        """Yield each finished job's value; raise a job's error in this process."""
        pending = set(futures)
        while pending:
            finished, pending = wait(pending, timeout=0.2, return_when=FIRST_COMPLETED)
            self.drain()
            for future in finished:
                answer = future.result()
                if "error" in answer:
                    for other in pending:
                        other.cancel()
                    raise _rebuilt(*answer["error"])
                if "traceback" in answer:
                    for other in pending:
                        other.cancel()
                    raise RuntimeError("a step of the study failed; the worker's traceback:\n" + answer["traceback"])
                yield answer["value"]
        self.drain()

    def drain(self) -> None:
        import queue as queues

        while True:
            try:
                message = self.queue.get_nowait()
            except queues.Empty:
                break
            self._show(message)
        if self.doing:
            self.bar.update(self.task, description=" · ".join(self.doing.values())[:100])

    def _show(self, message: dict[str, Any]) -> None:
        if message["kind"] == "begin":
            self.doing[message["pid"]] = message["what"]
            if not self.live:
                print(f"[{time.monotonic() - self.start:6.1f} s] {message['what']}", flush=True)
        elif message["kind"] == "share":
            self.doing[message["pid"]] = f"{message['what']} {message['done']}/{message['total']}"
        else:
            self.made += not message["cached"]
            self.reused += message["cached"]
            self.bar.advance(self.task)


def _rebuilt(module: str, name: str, what: str, where: str, fix: str) -> TeachfairError:
    kind = getattr(sys.modules.get(module), name, TeachfairError)
    rebuilt: TeachfairError = kind(what, where=where, fix=fix)
    return rebuilt


def load_study_records(results: list[dict[str, Any]], noted: Mapping[str, str] | None = None) -> pd.DataFrame:
    """All cells' per-item records under one another, without their lists: log-probabilities by option are two thirds of the
    memory, and nothing that is reported is computed from them here.

    Args: noted: hashes of records by step folder, as this study's last report noted them. A step that was made anew since
        has others and is not held to them.
    Raises: RunFolderError naming the file if a cell's records are not those that were written, or that were reported on.
    """
    import pandas as pd
    import pyarrow.parquet as pq

    from teachfair.evaluation.evaluate import records_file

    cells = []
    for evaluation in (one for result in results for one in result["evaluations"]):
        folder = Path(evaluation["folder"])
        file = pq.ParquetFile(
            records_file(folder, expected=(noted or {}).get(folder.name) if evaluation["reused"] else None)
        )
        names = [name for name in file.schema_arrow.names if name not in _LISTS]
        cells.append(file.read(columns=names, use_threads=False).to_pandas())
    return pd.concat(cells, ignore_index=True)


def _write_records(results: list[dict[str, Any]], path: Path) -> None:
    """All columns of all cells' records in one file, some cells at a time: never all of them in memory."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    files = [Path(one["folder"]) / RECORDS for result in results for one in result["evaluations"]]
    schemas = [pq.read_schema(file).remove_metadata() for file in files]
    aside = path.with_name(f".{path.name}.partial")
    # what one benchmark's records lack is null there
    whole = pa.unify_schemas(schemas, promote_options="permissive").empty_table()
    with pq.ParquetWriter(aside, whole.schema, compression="zstd") as writer:
        for start in range(0, len(files), _FILES_AT_ONCE):
            tables = [pq.ParquetFile(file).read(use_threads=False) for file in files[start : start + _FILES_AT_ONCE]]
            tables = [table.replace_schema_metadata(None) for table in tables]
            writer.write_table(pa.concat_tables([whole, *tables], promote_options="permissive"))
    os.replace(aside, path)


def _analyse(
    study: StudyConfig, results: list[dict[str, Any]], found: list[dict[str, Any]], *, source: str, start: float,
    reused: tuple[int, int], as_asked: StudyConfig,
) -> Path:  # fmt: skip
    from rich.console import Console

    from teachfair.evaluation.figures import forest
    from teachfair.evaluation.report import print_table, write_report, write_tables
    from teachfair.evaluation.statistics import secondary_survival, survival_from_files
    from teachfair.evaluation.statistics.guards import guards_among

    records = load_study_records(results, (runs.read_record(study.output_dir) or {}).get("cell_records"))
    benchmark, modules = study.outcome, benchmark_modules(study)
    facts = _benchmark_facts(study, modules, as_asked.benchmarks)
    grid = records[~records["teach"].str.startswith("replant-")]
    cards = {name: module.CARD for name, module in modules.items()}
    guards = guards_among(cards)
    options = _outcome_options(study, cards[benchmark]) | {"guards": guards}
    on_taught_axis = _by_taught_axis(grid)[0]
    # another benchmark may have a condition of the same name, and axes that this one has not
    asked, transfer = _by_taught_axis(grid[grid["benchmark"] == benchmark])
    files = [
        Path(one["folder"]) / RECORDS
        for result in results
        for one in result["evaluations"]
        if {benchmark, *guards}.intersection(one["benchmarks"]) and not result["teach"].startswith("replant-")
    ]
    on_axis, off_axis = _axis_filters() if transfer is not None else (None, None)
    rows = survival_from_files(files, only=on_axis, **options)
    transfer_rows = survival_from_files(files, only=off_axis, **options) if transfer is not None else []
    forced = []
    if "margin_parity_nats" in asked and asked["margin_parity_nats"].notna().any():
        forced = survival_from_files(files, only=on_axis, **(options | {"outcome": "margin_parity_nats"}))
    planted = records[records["teach"].str.startswith("replant-") | (records["compress"] == "none")]
    summary = {
        "title": study.title,
        "created": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "commands": [f"teachfair survival --config {source}" if source else "teachfair survival"],
        "versions": runs.versions(),
        "bases": [
            {"name": item["base"], "hash": item["policy_hash"], "reward_model": item["reward_model"]} for item in found
        ],
        "cells": _with_kept_bytes(results),
        "reward_model": _reward_model_page(found),
        "calibration": _calibration(study, planted),
        "transfer": [row.as_dict() for row in transfer_rows],
        "forced": [row.as_dict() for row in forced],
        "secondary": secondary_survival(
            on_taught_axis, cards, primary=benchmark, random_state=study.random_state, n_resamples=study.n_resamples,
        ),
        "judged": _judged(grid, options),
        "judge": _judge_page(found),
        "norm": cards[benchmark].get("norm", ""),
        "benchmarks": facts,
        "guards": guards,
        "config": runs.plain(as_asked.model_dump()),
        "limits": [*_weak_reward_model(found), *_without_guards(benchmark, guards), *_about_templates(facts)],
        "platform": _platform(),
        "wall_seconds": round(time.monotonic() - start, 1),
        "steps_made": reused[0],
        "steps_reused": reused[1],
        "peak_gib": _peak_memory(study.output_dir / "steps"),
        "leaks": _leaks(found),
        "learning": _learning(study, found),
    }
    console = Console(width=None if sys.stdout.isatty() else 150)  # a log file has no width: do not fold the table
    print_table(rows, console)
    write_tables(rows, study.output_dir)
    runs.write_text(study.output_dir / "survival.svg", forest(rows))
    runs.write_json(study.output_dir / "calibration.json", summary["calibration"])
    _write_records(results, study.output_dir / RECORDS)
    beside = on_taught_axis[on_taught_axis["benchmark"].isin({benchmark, *guards})]
    path = write_report(summary, beside, rows, study.output_dir / "report.html")
    runs.write_record(
        study.output_dir, kind="study", config=summary["config"], wall_seconds=summary["wall_seconds"],
        steps_made=reused[0], steps_reused=reused[1], report_hash=runs.hash_file(path), leaks=summary["leaks"],
        cell_records={
            folder.name: runs.hash_file(folder / RECORDS)
            for result in results
            for folder in (Path(one["folder"]) for one in result["evaluations"])
        },
        benchmarks=facts,
        records_hash=runs.hash_file(study.output_dir / RECORDS),
        verdicts=[
            {"teach": row.teach, "adapt": row.adapt, "order": row.order, "compress": row.compress, "verdict": row.verdict}
            for row in rows
        ],
    )  # fmt: skip
    return path


def _outcome_options(study: StudyConfig, card: Mapping[str, Any]) -> dict[str, Any]:
    """Of the statistics: how they resample, and what the verdicts are about."""
    return {
        "random_state": study.random_state, "n_resamples": study.n_resamples, "benchmark": study.outcome,
        "condition": card.get("outcome_condition", "ambiguous"), "parity": bool(card.get("parity", False)),
    }  # fmt: skip


def _benchmark_facts(study: StudyConfig, modules: Mapping[str, Any], words: list[str]) -> list[dict[str, Any]]:
    """What each benchmark's card says, for the record; of a template also its file as the study named it (``words``), the
    hash of its content and where the study folder keeps a copy."""
    facts = []
    for (name, module), word in zip(modules.items(), words, strict=True):
        keys = ("version", "meaning", "paper", "licence", "norm", "problems")
        fact = {"name": name} | {key: module.CARD.get(key) for key in keys}
        if isinstance(module, TemplateBenchmark):
            copy = module.path.relative_to(study.output_dir)
            fact |= {"template": word, "content_hash": module.content_hash(study.data_dir), "copy": copy.as_posix()}
        facts.append(fact)
    return facts


def _without_guards(outcome: str, guards: list[str]) -> list[str]:
    if guards:
        return []
    return [
        f"No guard-rail was measured beside {outcome}: less bias may be damage. Add definitional and utility, which need no "
        "files, to the study's benchmarks."
    ]


def _about_templates(facts: list[dict[str, Any]]) -> list[str]:
    """A sentence for the report on each template: nobody but its author has said what it is worth."""
    return [
        f"Benchmark {fact['name']} is a template of this study ({Path(fact['template']).name}, version {fact['version']}, "
        f"content {fact['content_hash'][:12]}): {fact['meaning']} Citation: {fact['paper']}. Licence: {fact['licence']}. "
        f"Norm: {fact['norm']}. Known problems: {'; '.join(fact['problems'])}"
        for fact in facts
        if "template" in fact
    ]


def _by_taught_axis(records: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """The primary outcome is read on the axis that was taught (unseen items); the other axis is transfer."""
    if "taught_axis" not in records or records["taught_axis"].isna().all():
        return records, None
    axis, taught = records["axis"], records["taught_axis"].fillna("")
    shared = axis.isin(["none", ""]) | (taught == "")
    return records[shared | (axis == taught)], records[shared | (axis != taught)]


def _axis_filters() -> tuple[Any, Any]:
    """:func:`_by_taught_axis` as filters of the cells' files."""
    import pyarrow.compute as pc

    axis, taught = pc.field("axis"), pc.field("taught_axis")
    shared = axis.isin(["none", ""]) | taught.is_null() | (taught == "")
    return shared | (axis == taught), shared | (axis != taught)


def _judged(records: pd.DataFrame, options: dict[str, Any]) -> list[dict[str, Any]]:
    """Survival of the judge's score, each row with what the answers cost; none where nobody judged.

    The condition is the lesson's (ambiguous), or the first that the prompts have.
    """
    from teachfair.evaluation.statistics import survival

    rows = records[records["benchmark"] == "judged"]
    if rows.empty:
        return []
    conditions = sorted(rows["condition"].unique())
    condition = "ambiguous" if "ambiguous" in conditions else conditions[0]
    found = survival(
        rows, **(options | {"benchmark": "judged", "condition": condition, "outcome": "judge_unfairness", "parity": False})
    )
    keys = ["teach", "adapt", "compress", "order"]
    costs = rows.groupby(keys)[["correct", "counterfactual_gap", "abstention", "refusal", "answer_tokens"]].mean()
    judged = []
    for row in found:
        mean = costs.loc[(row.teach, row.adapt, row.compress, row.order)]
        plain = {name: float(value) if value == value else None for name, value in mean.items()}
        judged.append(row.as_dict() | {"costs": plain})
    return judged


def _judge_page(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Who judged the first base's policies, and how often it is right on held-out pairs, where its record says so."""
    from teachfair.models.checkpoint import content_hash

    judge = found[0].get("judge") if found else None
    if judge is None:
        return {}
    rows = (runs.read_record(judge) or {}).get("accuracy") or []
    accuracy = next((row["accuracy"] for row in rows if row["kind"] == "all"), None)
    return {"folder": judge, "hash": content_hash(judge), "accuracy": accuracy}


def _with_kept_bytes(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Fill in what a cell's folder weighs; an adapter kept on its 4-bit base weighs the base and the adapter."""
    base_bytes = {
        (cell["base"], cell["compress"]): cell
        for cell in results
        if cell["teach"] == "untaught" and cell.get("bytes_on_disk")
    }
    filled = []
    for cell in results:
        cell = dict(cell)
        if cell["order"] == COMPRESS_ALIGN and (cell["base"], "nf4") in base_bytes:
            base = base_bytes[cell["base"], "nf4"]
            cell["bytes_on_disk"] = base["bytes_on_disk"] + cell.get("adapter_bytes", 0)
            share = cell["bytes_on_disk"] / base["bytes_on_disk"]
            cell["bits_per_parameter"] = base["bits_per_parameter"] * share
        cell["bytes"] = cell.get("bytes_on_disk")
        filled.append(cell)
    return filled


def _reward_model_page(found: list[dict[str, Any]]) -> dict[str, Any]:
    """What the first base's reward model is worth: accuracies beside the rulers, and its disagreements."""
    record = runs.read_record(found[0]["reward_model"]) if found and found[0]["reward_model"] else None
    pairs = (runs.read_record(found[0]["pairs"]) if found else None) or {}
    page = {key: (record or {}).get(key) for key in ("accuracy", "shortcuts", "calibration", "n_train", "n_eval")}
    page |= {key: pairs.get(key) for key in ("ranking", "untaught_axis")}
    return page | {"hash": (record or {}).get("hash")}


def _weak_reward_model(found: list[dict[str, Any]]) -> list[str]:
    """A sentence for the report where a reward model is wrong more than once in ten: what it does was taught, or judged."""
    kinds = {
        "reward_model": ("The reward model", "its errors were taught too."),
        "placebo_reward_model": ("The placebo's reward model", "the placebo was taught the less clearly."),
        "judge": ("The judge", "its scores of the answers are as uncertain."),
    }
    weak = []
    for item in found:
        for key, (who, so) in kinds.items():
            record = (runs.read_record(item[key]) if item.get(key) else None) or {}
            weak += [
                f"{who} of {item['base']} is right on only {row['accuracy']:.0%} of held-out {row['kind']} pairs; {so}"
                for row in record.get("accuracy") or []
                if row["accuracy"] < 0.9
            ]
    return weak


def _calibration(study: StudyConfig, records: pd.DataFrame) -> list[dict[str, Any]]:
    """Planted survival: expected share left against the R that the statistics read for it.

    Each re-planted policy is handed to the statistics as if it were a compression of the taught one whose compressed
    base is the untaught policy itself; share 0 is the taught policy.
    """
    import pandas as pd

    from teachfair.evaluation.statistics import survival

    arm = study.replanted_arm
    if not study.replant or arm is None:
        return []
    primary, _ = _by_taught_axis(records[records["benchmark"] == study.outcome])
    options = _outcome_options(study, benchmark_modules(study)[study.outcome].CARD)
    untaught = primary[(primary["teach"] == "untaught")]
    taught = primary[(primary["teach"] == arm.label) & (primary["adapt"] == arm.adapt)]
    found = []
    for share in [0.0, *study.replant]:
        name = f"replant-{share:g}"
        left = taught if share == 0 else primary[primary["teach"] == name]
        parts = [
            untaught, untaught.assign(compress=name), taught,
            left.assign(teach=arm.label, adapt=arm.adapt, compress=name),
        ]  # fmt: skip
        row = survival(
            pd.concat(parts, ignore_index=True), one_seed=True, **options
        )[0]  # fmt: skip
        measured = row.r_c.as_dict()  # None, with a reason, where R is undefined
        found.append(
            {"expected": 1 - share, "R": measured["value"], "low": measured["low"], "high": measured["high"],
             "reason": measured["reason"], "n_seeds": row.n_seeds}
        )  # fmt: skip
    return found


def _platform() -> dict[str, Any]:
    import platform

    return {"python": platform.python_version(), "system": platform.platform(), "cpus": os.cpu_count()}


def _peak_memory(steps: Path) -> float | None:
    """The largest peak of any worker, GiB. ``workers`` of them run side by side."""
    peaks = [
        record["peak_gib"] for folder in steps.glob("*/") if (record := runs.read_record(folder)) and record.get("peak_gib")
    ]
    return max(peaks, default=None)


def _learning(study: StudyConfig, found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """How each lesson went: the taught steps' logs, thinned to what a picture shows, and the hack watch's alarms."""
    lessons = []
    for item in found:
        for arm in study.arms:
            for seed in study.seeds:
                record = runs.read_record(steps._taught(study, item, arm, seed)[0]) or {}
                watch = record.get("hack_watch") or {}
                lessons.append(
                    {"method": arm.teach, "control": getattr(arm, "control", "none"), "adapt": arm.adapt, "seed": seed,
                     "base": item["base"], "log": _thinned(record.get("log") or []), "alarms": watch.get("alarms") or [],
                     "watched": bool(watch)}
                )  # fmt: skip
    return lessons


def _thinned(log: list[dict[str, Any]], points: int = 40) -> list[dict[str, Any]]:
    """At most ``points`` entries: means over equally many neighbours each, at the last one's step; only what is drawn."""
    from teachfair.evaluation.figures import ONLINE_CURVES, PREFERENCE_CURVES, series

    names = [name for name, _ in dict.fromkeys((*ONLINE_CURVES, *PREFERENCE_CURVES))]
    log = [entry for entry in log if any(series([entry], name) for name in names)]
    size = max(1, -(-len(log) // points))
    thinned = []
    for start in range(0, len(log), size):
        entries = log[start : start + size]
        means = {name: [value for _, value in series(entries, name)] for name in names}
        thinned.append(
            {"step": entries[-1]["step"]}
            | {name: float(f"{sum(values) / len(values):.5g}") for name, values in means.items() if values}
        )
    return thinned


def _leaks(found: list[dict[str, Any]]) -> dict[str, Any]:
    """What the wall found before anything was taught, over all bases: training rows by kind of match with evaluation items.

    ``shared_prompts``: rows that match an item exactly. Rows that only a reward model or the judge learned from are counted
    apart, under their names: most of them are the lesson's own pairs.
    """
    walls = _walls(found, ("pairs", "prompts", "placebo_prompts"))
    kinds: dict[str, int] = {}
    for wall in walls:
        for kind, number in wall.get("train_rows", {}).items():
            kinds[kind] = kinds.get(kind, 0) + number
    apart = {}
    for name in ("reward_model", "placebo_reward_model", "judge"):
        if held := _walls(found, (name,)):
            leaks, rows = (sum(wall.get(what, 0) for wall in held) for what in ("leaks", "n_train"))
            apart[f"{name}'s rows".replace("_", " ")] = f"{leaks} of {rows}"
    return {
        "checked": "training rows against all evaluation items, before teaching",
        "rows": sum(wall.get("n_train", 0) for wall in walls),
        "shared_prompts": kinds.pop("exact", 0),
        **{kind: number for kind, number in kinds.items() if number},
        **apart,
    }


def _walls(found: list[dict[str, Any]], keys: tuple[str, ...]) -> list[dict[str, Any]]:
    """The wall's reports in the records of this study's own steps (a judge may be a folder from elsewhere)."""
    folders = [Path(item[key]) for item in found for key in keys if item.get(key) and _is_own(item, key)]
    return [wall for folder in folders if (wall := (runs.read_record(folder) or {}).get("wall"))]


def _is_own(item: dict[str, Any], key: str) -> bool:
    return Path(item[key]).parent == Path(item["pairs"]).parent
