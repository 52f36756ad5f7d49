"""The study grid: teach × adapt × compress × order × seed × base, resumable, judged on the same items.

The one module that knows every floor. A study is a YAML file (``recipes/configs/demo.yaml``). Each step — a policy, a
reward model, the ranked pairs, a taught checkpoint, a compressed one, an evaluation — is a folder under
``<output_dir>/steps`` whose name carries the fingerprint of everything that decides it. A step whose folder is complete
is never computed again, so a killed study goes on where it stopped and a changed study recomputes only what changed.

Steps run in worker processes (``workers``), one chain per arm and seed; this process only plans, shows progress and
writes the report, and never loads torch.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from teachfair import runs
from teachfair.alignment import CONTROLS, METHODS
from teachfair.compression import COMPRESSIONS
from teachfair.doors import read_config
from teachfair.errors import ConfigError, RunFolderError, TeachfairError, unknown_name
from teachfair.evaluation.benchmarks import BENCHMARKS

if TYPE_CHECKING:
    import pandas as pd

UNTAUGHT_SEED = -1  # the untaught policy has no training seed: its cells are shared by all seeds
ALIGN_COMPRESS, COMPRESS_ALIGN, MERGE_RECOMPRESS = "align-then-compress", "compress-then-align", "merge-then-recompress"
# Seconds a step took on two cores of a shared cloud machine; only for --plan, replaced by a study's own once it has some.
_TYPICAL_SECONDS = {"policy": 70.0, "reward-model": 45.0, "pairs": 8.0, "teach": 14.0, "compress": 1.5, "evaluate": 3.0}


class Arm(BaseModel):
    """One way of teaching: a method or control, an adaptation, and the config file of its door."""

    model_config = ConfigDict(extra="forbid")
    teach: str
    adapt: Literal["full", "lora", "qlora"]
    config: Path
    max_steps: int | None = None

    @field_validator("teach")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in METHODS and value not in CONTROLS:
            raise ValueError(f"unknown teach {value!r}; known: {', '.join([*METHODS, *CONTROLS])}")
        return value


class StudyConfig(BaseModel):
    """A study's YAML, validated. Paths of config files are relative to the YAML's own folder."""

    model_config = ConfigDict(extra="forbid")
    title: str = "Does taught fairness survive compression?"
    output_dir: Path = Path("runs/study")
    policy: str | None = None  # None: the sandbox
    world_seeds: list[int] = Field(default=[0], min_length=1)
    bias: float = Field(default=2.0, ge=0)
    num_sandbox_pairs: int = Field(default=1000, ge=2)
    dataset_name: str | None = None
    dataset_source: str = "preference_file"
    placebo_dataset_name: str | None = None
    reward_model: Path | None = None  # the config of recipes/reward_model.py; None: labels are taken as they are
    on_disagreement: Literal["flip", "keep", "drop"] = "flip"
    arms: list[Arm] = Field(min_length=1)
    seeds: list[int] = Field(default=[0, 1, 2], min_length=1)
    compressions: list[str] = Field(min_length=1)
    benchmarks: list[str] = ["sandbox"]
    outcome_benchmark: str | None = None  # default: the first of benchmarks
    data_dir: Path | None = None
    limit: int | None = None
    replant: list[float] = []
    workers: int = Field(default=2, ge=1)
    n_resamples: int = Field(default=4000, ge=200)
    random_state: int = 0

    @field_validator("compressions")
    @classmethod
    def _known_compressions(cls, names: list[str]) -> list[str]:
        for name in names:
            if name not in COMPRESSIONS:
                raise ValueError(f"unknown compression {name!r}; known: {', '.join(sorted(COMPRESSIONS))}")
        return names

    @field_validator("benchmarks")
    @classmethod
    def _known_benchmarks(cls, names: list[str]) -> list[str]:
        for name in names:
            if name not in BENCHMARKS:
                raise ValueError(f"unknown benchmark {name!r}; known: {', '.join(sorted(BENCHMARKS))}")
        return names

    @property
    def bases(self) -> list[str]:
        return [f"world-{seed}" for seed in self.world_seeds] if self.policy is None else [str(self.policy)]


def read_study(path: str | Path) -> StudyConfig:
    """Raises: ConfigError naming the key, its value and what is allowed."""
    path = Path(path)
    values = read_config(path)
    try:
        study = StudyConfig(**values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ConfigError(
            f"{key}: {first['msg']} (given: {first.get('input')!r})", where=str(path), fix="mend that key"
        ) from error
    here = path.parent
    for arm in study.arms:
        arm.config = here / arm.config
        if not arm.config.is_file():
            raise ConfigError("no such config file", where=f"{path}: arms: {arm.config}", fix="check the path")
    if study.reward_model is not None:
        study.reward_model = here / study.reward_model
        if not study.reward_model.is_file():
            raise ConfigError("no such config file", where=f"{path}: reward_model", fix="check the path")
    return study


# ----------------------------------------------------------------------------------------------------------------
# Cells and plan


def cells(study: StudyConfig) -> list[dict[str, Any]]:
    """Every cell of the grid, in the order of the table; each a dict of the cell keys."""
    found = []
    for base in study.bases:
        for compress in ["none", *study.compressions]:
            found.append(_cell("untaught", "none", compress, ALIGN_COMPRESS, UNTAUGHT_SEED, base))
        for arm in study.arms:
            for seed in study.seeds:
                order = MERGE_RECOMPRESS if arm.adapt == "qlora" else ALIGN_COMPRESS
                found.append(_cell(arm.teach, arm.adapt, "none", order, seed, base))
                if arm.adapt == "qlora":
                    found.append(_cell(arm.teach, arm.adapt, "nf4", COMPRESS_ALIGN, seed, base))
                for compress in study.compressions:
                    found.append(_cell(arm.teach, arm.adapt, compress, order, seed, base))
        for share in study.replant:
            found.append(_cell(f"replant-{share:g}", "full", "none", ALIGN_COMPRESS, study.seeds[0], base))
    return found


def _cell(teach: str, adapt: str, compress: str, order: str, seed: int, base: str) -> dict[str, Any]:
    return {"teach": teach, "adapt": adapt, "compress": compress, "order": order, "seed": seed, "base": base}


def plan(study: StudyConfig) -> dict[str, Any]:
    """Number of steps of each kind and estimated seconds; runs nothing."""
    n_bases, n_arms = len(study.bases), len(study.arms) * len(study.seeds)
    grid = cells(study)
    counts = {
        "policy": n_bases if study.policy is None else 0,
        "reward-model": n_bases if study.reward_model else 0,
        "pairs": n_bases,
        "teach": n_bases * (n_arms + len(study.replant)),
        "compress": sum(cell["compress"] != "none" and cell["order"] != COMPRESS_ALIGN for cell in grid),
        "evaluate": len(grid),
    }
    seconds = dict(_TYPICAL_SECONDS)
    seen: dict[str, list[float]] = {}
    for folder in (study.output_dir / "steps").glob("*/"):
        record = runs.read_record(folder)
        if record and isinstance(record.get("seconds"), int | float) and record.get("step"):
            seen.setdefault(record["step"], []).append(float(record["seconds"]))
    seconds |= {kind: sum(values) / len(values) for kind, values in seen.items()}
    serial = n_bases and sum(seconds[kind] * counts[kind] for kind in ("policy", "reward-model", "pairs"))
    parallel = sum(seconds[kind] * counts[kind] for kind in ("teach", "compress", "evaluate"))
    workers = min(study.workers, max(n_arms, 1))
    return {
        "cells": grid,
        "steps": counts,
        "seconds_per_step": {kind: round(value, 1) for kind, value in seconds.items()},
        "estimated_seconds": round(serial / min(study.workers, n_bases) + parallel / workers, 1),
        "estimate_from": "this study's own finished steps" if seen else "a two-core machine",
    }


# ----------------------------------------------------------------------------------------------------------------
# Steps. These functions run in worker processes.

_messages: Any = None


def _start_worker(queue: Any, threads: int) -> None:
    global _messages
    _messages = queue
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    import torch
    import transformers

    torch.set_num_threads(threads)
    # The orchestrator's bar shows what is running; fifty small bars of the trainers would tear it apart.
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    import datasets

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity_error()
    import logging
    import warnings

    warnings.filterwarnings("ignore")
    logging.getLogger("accelerate").setLevel(logging.ERROR)


def _tell(kind: str, **message: Any) -> None:
    if _messages is not None:
        _messages.put({"kind": kind, "pid": os.getpid(), **message})


@contextlib.contextmanager
def _doing(what: str, done: bool = False) -> Iterator[None]:
    if not done:
        _tell("begin", what=what)
    yield
    _tell("step", what=what, cached=done)


def _step(folder: Path, kind: str, what: str, make: Callable[[Path], dict[str, Any] | None], *, aside: bool = True) -> Path:
    """Make a step's folder unless it is complete. ``make`` gets the folder to fill and returns fields for its record.

    ``aside=False`` is for steps that write, resume and seal their folder themselves.
    """
    with _doing(what, done=runs.read_record(folder) is not None):
        if runs.read_record(folder) is None:
            start = time.monotonic()
            if aside:
                with runs.whole_folder(_cleared(folder)) as partial:
                    fields = make(partial) or {}
                    runs.write_record(
                        partial, step=kind, what=what, seconds=round(time.monotonic() - start, 3),
                        peak_gib=runs.peak_memory_gib(), **fields,
                    )  # fmt: skip
            else:
                make(folder)
                record = runs.read_record(folder) or {}
                record |= {"step": kind, "what": what, "seconds": round(time.monotonic() - start, 3)}
                runs.write_json(folder / runs.RUN_RECORD, record)
    return folder


def _cleared(folder: Path) -> Path:
    import shutil

    if folder.exists():  # a killed run's folder without a complete record
        shutil.rmtree(folder)
    return folder


def _name(kind: str, label: str, decides: dict[str, Any]) -> str:
    key = runs.fingerprint({"kind": kind, **decides})
    safe = "".join(letter if letter.isalnum() or letter in "-.+" else "-" for letter in label)
    return f"{kind}-{safe}-{key[:12]}"


def _foundation(study: dict[str, Any], base: str) -> dict[str, Any]:
    """Policy, reward model and ranked pairs of one base; returns where they are."""
    from teachfair.alignment import lesson

    config = StudyConfig(**study)
    steps = config.output_dir / "steps"
    sandbox = None
    if config.policy is None:
        sandbox = lesson.sandbox(seed=_world_seed(base), bias=config.bias)
        with _doing(f"pretrain the sandbox policy ({base})", done=lesson.is_cached(sandbox)):
            policy = lesson.sandbox_policy(sandbox, progress=_progress("pretrain"))
    else:
        policy = Path(config.policy)
    from teachfair.models.checkpoint import content_hash

    policy_hash = content_hash(policy)
    reward_model: Path | None = None
    if config.reward_model is not None:
        decides = {"policy": policy_hash, "config": config.reward_model.read_text(), "bias": config.bias,
                   "dataset": config.dataset_name, "base": base}  # fmt: skip
        reward_model = _step(
            steps / _name("reward-model", base, decides), "reward-model", f"train the reward model ({base})",
            lambda folder: lesson.train_reward_model_from_config(
                config.reward_model, policy, folder, sandbox=sandbox, dataset_name=config.dataset_name,
                dataset_source=config.dataset_source,
            ),
            aside=False,
        )  # fmt: skip
    decides = {
        "policy": policy_hash, "dataset": config.dataset_name, "n": config.num_sandbox_pairs, "bias": config.bias,
        "reward_model": content_hash(reward_model) if reward_model else None, "base": base,
        "on_disagreement": config.on_disagreement,
    }  # fmt: skip

    def make_pairs(folder: Path) -> dict[str, Any]:
        pairs, report = lesson.ranked_pairs(
            sandbox=sandbox, dataset_name=config.dataset_name, dataset_source=config.dataset_source,
            num_pairs=config.num_sandbox_pairs, reward_model=reward_model, on_disagreement=config.on_disagreement,
        )  # fmt: skip
        pairs.to_parquet(str(folder / "pairs.parquet"))
        neutral = lesson.placebo_pairs(sandbox=sandbox, dataset_name=config.placebo_dataset_name, n=len(pairs))
        if neutral is not None:
            neutral.to_parquet(str(folder / "placebo.parquet"))
        return {"ranking": report, "n_pairs": len(pairs), **decides}

    pairs = _step(steps / _name("pairs", base, decides), "pairs", f"rank the pairs ({base})", make_pairs)
    return {
        "base": base, "policy": str(policy), "policy_hash": policy_hash, "pairs": str(pairs),
        "reward_model": str(reward_model) if reward_model else None,
    }  # fmt: skip


def _world_seed(base: str) -> int:
    return int(base.removeprefix("world-"))


def _progress(label: str) -> Callable[[int, int], None]:
    """A callback ``(done, total)`` that tells the orchestrator how far a long step is, a few times a second."""
    last = 0.0

    def report(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last > 0.3 or done == total:
            last = now
            _tell("share", what=label, done=done, total=total)

    return report


def _untaught_chain(study: dict[str, Any], found: dict[str, Any]) -> list[dict[str, Any]]:
    config = StudyConfig(**study)
    policy = Path(found["policy"])
    done = []
    for compress in ["none", *config.compressions]:
        cell = _cell("untaught", "none", compress, ALIGN_COMPRESS, UNTAUGHT_SEED, found["base"])
        done.append(_compress_and_evaluate(config, policy, found["policy_hash"], cell))
    return done


def _arm_chain(study: dict[str, Any], found: dict[str, Any], arm: dict[str, Any], seed: int) -> list[dict[str, Any]]:
    """Teach one arm with one seed, compress it every way, evaluate every cell."""
    from teachfair.alignment import lesson
    from teachfair.models.checkpoint import content_hash, merge

    config, chosen = StudyConfig(**study), Arm(**arm)
    base, steps = found["base"], config.output_dir / "steps"
    label = f"{chosen.teach}-{chosen.adapt}-seed{seed}-{base}"
    decides = {
        "policy": found["policy_hash"], "pairs": Path(found["pairs"]).name, "config": chosen.config.read_text(),
        "arm": arm | {"config": chosen.config.name}, "seed": seed,
    }  # fmt: skip
    taught = _step(
        steps / _name("teach", label, decides), "teach", f"teach {chosen.teach} {chosen.adapt}, seed {seed} ({base})",
        lambda folder: lesson.teach_from_config(
            chosen.config, Path(found["policy"]), Path(found["pairs"]), folder, teach=chosen.teach, seed=seed,
            max_steps=chosen.max_steps,
            reward_model=found["reward_model"],
        ),
        aside=False,
    )  # fmt: skip
    taught_hash = content_hash(taught)
    order = MERGE_RECOMPRESS if chosen.adapt == "qlora" else ALIGN_COMPRESS
    done = []
    reference = taught
    if chosen.adapt == "qlora":
        def make_merged(folder: Path) -> dict[str, Any]:
            merge(taught, folder / "checkpoint")
            return {"route": "dequantise the 4-bit base, then merge, fp32"}

        reference = _step(
            steps / _name("merge", label, {"taught": taught_hash}), "compress", f"merge {label}", make_merged
        ) / "checkpoint"  # fmt: skip
        kept = _cell(chosen.teach, chosen.adapt, "nf4", COMPRESS_ALIGN, seed, base)
        done.append(_evaluate_cell(config, taught, taught_hash, kept, accounting=_adapter_accounting(taught)))
    done.append(
        _evaluate_cell(
            config, reference, content_hash(reference), _cell(chosen.teach, chosen.adapt, "none", order, seed, base)
        )
    )
    for compress in config.compressions:
        cell = _cell(chosen.teach, chosen.adapt, compress, order, seed, base)
        done.append(_compress_and_evaluate(config, taught, taught_hash, cell))
    return done


def _replant_chain(study: dict[str, Any], found: dict[str, Any], taught_arm: dict[str, Any]) -> list[dict[str, Any]]:
    """Fine-tune a known share of the bias back into the first taught full arm: what R ought to read."""
    from teachfair.alignment import lesson
    from teachfair.models.checkpoint import content_hash

    config, arm = StudyConfig(**study), Arm(**taught_arm)
    seed, base, steps = config.seeds[0], found["base"], config.output_dir / "steps"
    label = f"{arm.teach}-{arm.adapt}-seed{seed}-{base}"
    decides = {
        "policy": found["policy_hash"], "pairs": Path(found["pairs"]).name, "config": arm.config.read_text(),
        "arm": taught_arm | {"config": arm.config.name}, "seed": seed,
    }  # fmt: skip
    taught = steps / _name("teach", label, decides)
    done = []
    for share in config.replant:
        step = _step(
            steps / _name("replant", f"{share:g}-{label}", {"taught": content_hash(taught), "share": share}), "teach",
            f"re-plant {share:.0%} of the bias ({base})",
            lambda folder, share=share: lesson.replant_into(
                taught, folder / "checkpoint", untaught=Path(found["policy"]), share=share,
                world_seed=_world_seed(base), bias=config.bias,
            ),
        )  # fmt: skip
        checkpoint = step / "checkpoint"
        cell = _cell(f"replant-{share:g}", "full", "none", ALIGN_COMPRESS, seed, base)
        done.append(_evaluate_cell(config, checkpoint, content_hash(checkpoint), cell))
    return done


def _compress_and_evaluate(config: StudyConfig, source: Path, source_hash: str, cell: dict[str, Any]) -> dict[str, Any]:
    from teachfair.models.checkpoint import content_hash

    if cell["compress"] == "none":
        return _evaluate_cell(config, source, source_hash, cell)
    compression = COMPRESSIONS[cell["compress"]]
    label = f"{cell['compress']}-{cell['teach']}-{cell['adapt']}-seed{cell['seed']}-{cell['base']}"
    folder = config.output_dir / "steps" / _name("compress", label, {"source": source_hash, "how": repr(compression)})
    _step(folder, "compress", f"compress {label}", lambda out: compression.apply(source, out) and None, aside=False)
    record = runs.read_record(folder) or {}
    accounting = {key: record.get(key) for key in ("bytes_on_disk", "bits_per_parameter", "n_quantised_layers")}
    return _evaluate_cell(config, folder, content_hash(folder), cell, accounting=accounting)


def _adapter_accounting(adapter: Path) -> dict[str, Any]:
    """Bytes of the adapter alone; the report adds those of its 4-bit base."""
    size = sum(path.stat().st_size for path in adapter.glob("*.safetensors"))
    return {"adapter_bytes": size}


def _evaluate_cell(
    config: StudyConfig, checkpoint: Path, checkpoint_hash: str, cell: dict[str, Any], accounting: dict[str, Any] | None = None
) -> dict[str, Any]:
    from teachfair.evaluation.evaluate import evaluate

    label = f"{cell['teach']}-{cell['adapt']}-{cell['compress']}-{cell['order']}-seed{cell['seed']}-{cell['base']}"
    decides = {"checkpoint": checkpoint_hash, "benchmarks": config.benchmarks, "cell": cell, "limit": config.limit,
               "data_dir": str(config.data_dir), "cards": [BENCHMARKS[name].CARD.get("version") for name in config.benchmarks],
               "options": _benchmark_options(config, cell["base"])}  # fmt: skip
    folder = config.output_dir / "steps" / _name("evaluate", label, decides)

    def make(out: Path) -> None:
        evaluate(
            checkpoint, config.benchmarks, config.data_dir, out, limit=config.limit, cell=cell,
            options=_benchmark_options(config, cell["base"]),
        )  # fmt: skip

    _step(folder, "evaluate", f"evaluate {label}", make, aside=False)
    record = runs.read_record(folder) or {}
    return {**cell, "folder": str(folder), "hash": checkpoint_hash, "seconds": record.get("seconds"), **(accounting or {})}


def _benchmark_options(config: StudyConfig, base: str) -> dict[str, dict[str, Any]]:
    if config.policy is not None:
        return {}
    from teachfair.data.sandbox.world import SandboxConfig

    return {"sandbox": {"world": SandboxConfig(seed=_world_seed(base), bias=config.bias)}}


# ----------------------------------------------------------------------------------------------------------------
# The orchestrator


def run_study(study: StudyConfig, *, source: str = "") -> Path:
    """Run what is missing of the grid, analyse it, write the report; returns the path of ``report.html``.

    Raises: TeachfairError from any step (finished steps are kept); RunFolderError if the folder is in use.
    """
    start = time.monotonic()
    output = study.output_dir
    with runs.claimed(output):
        results, found, reused = _run_grid(study)
        report = _analyse(study, results, found, source=source, start=start, reused=reused)
    return report


def _run_grid(study: StudyConfig) -> tuple[list[dict[str, Any]], list[dict[str, Any]], tuple[int, int]]:
    import multiprocessing

    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    total = len(cells(study)) * 2 + len(study.arms) * len(study.seeds)
    plain = study.model_dump()
    results: list[dict[str, Any]] = []
    foundations: list[dict[str, Any]] = []
    threads = max(1, (os.cpu_count() or 1) // study.workers)
    pool = ProcessPoolExecutor(study.workers, mp_context=context, initializer=_start_worker, initargs=(queue, threads))
    progress = _Progress(queue, total)
    with pool, progress:
        try:
            for found in progress.results([pool.submit(_guarded, _foundation, plain, base) for base in study.bases]):
                foundations.append(found)
            foundations.sort(key=lambda found: study.bases.index(found["base"]))
            jobs: list[Future[Any]] = []
            for found in foundations:
                jobs += [
                    pool.submit(_guarded, _arm_chain, plain, found, arm.model_dump(), seed)
                    for seed in study.seeds
                    for arm in study.arms
                ]
                jobs.append(pool.submit(_guarded, _untaught_chain, plain, found))
            for chain in progress.results(jobs):
                results += chain
            if study.replant:
                first = next(arm for arm in study.arms if arm.teach in METHODS and arm.adapt == "full")
                late = [pool.submit(_guarded, _replant_chain, plain, found, first.model_dump()) for found in foundations]
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
    order = {_key(cell): index for index, cell in enumerate(cells(study))}
    results.sort(key=lambda result: order[_key(result)])
    return results, foundations, (progress.made, progress.reused)


def _key(cell: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(cell[name] for name in ("teach", "adapt", "compress", "order", "seed", "base"))


def _guarded(function: Callable[..., Any], *args: Any) -> Any:
    """Run in a worker. A user's error travels as data: exceptions with keyword arguments do not survive pickling."""
    try:
        return {"value": function(*args)}
    except TeachfairError as error:
        kind = type(error)
        return {"error": (kind.__module__, kind.__name__, error.what, error.where, error.fix)}
    except Exception:
        return {"traceback": traceback.format_exc()}


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
            self._drain()
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
        self._drain()

    def _drain(self) -> None:
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
    return kind(what, where=where, fix=fix)  # type: ignore[no-any-return]


# ----------------------------------------------------------------------------------------------------------------
# Analysis and report


def load_study_records(results: list[dict[str, Any]]) -> pd.DataFrame:
    """All cells' per-item records under one another."""
    import pandas as pd

    from teachfair.evaluation.evaluate import load_records

    return pd.concat([load_records(Path(result["folder"])) for result in results], ignore_index=True)


def _analyse(
    study: StudyConfig, results: list[dict[str, Any]], found: list[dict[str, Any]], *, source: str, start: float,
    reused: tuple[int, int],
) -> Path:  # fmt: skip
    from rich.console import Console

    from teachfair.evaluation.report import print_table, write_report, write_tables
    from teachfair.evaluation.statistics import survival

    records = load_study_records(results)
    benchmark = study.outcome_benchmark or study.benchmarks[0]
    card = BENCHMARKS[benchmark].CARD
    grid = records[~records["teach"].str.startswith("replant-")]
    options: dict[str, Any] = {
        "random_state": study.random_state, "n_resamples": study.n_resamples, "benchmark": benchmark,
        "condition": card.get("outcome_condition", "ambiguous"), "parity": bool(card.get("parity", False)),
    }  # fmt: skip
    primary, transfer = _by_taught_axis(grid)
    rows = survival(primary, **options)
    transfer_rows = survival(transfer, **options) if transfer is not None else []
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
        "norm": card.get("norm", ""),
        "config": runs.plain(study.model_dump()),
        "platform": _platform(),
        "wall_seconds": round(time.monotonic() - start, 1),
        "steps_made": reused[0],
        "steps_reused": reused[1],
        "peak_gib": _peak_memory(study.output_dir / "steps"),
        "leaks": _leaks(study, found),
    }
    console = Console()
    print_table(rows, console)
    write_tables(rows, study.output_dir)
    records.to_parquet(study.output_dir / "records.parquet")
    path = write_report(summary, primary, rows, study.output_dir / "report.html")
    runs.write_record(
        study.output_dir, kind="study", config=summary["config"], wall_seconds=summary["wall_seconds"],
        steps_made=reused[0], steps_reused=reused[1], report_hash=runs.hash_file(path), leaks=summary["leaks"],
        verdicts=[
            {"teach": row.teach, "adapt": row.adapt, "order": row.order, "compress": row.compress, "verdict": row.verdict}
            for row in rows
        ],
    )  # fmt: skip
    return path


def _by_taught_axis(records: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """The primary outcome is read on the axis that was taught (unseen items); the other axis is transfer."""
    if "taught_axis" not in records:
        return records, None
    axis, taught = records["axis"], records["taught_axis"].fillna("")
    shared = axis.isin(["none", ""]) | (taught == "")
    return records[shared | (axis == taught)], records[shared | (axis != taught)]


def _with_kept_bytes(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Fill in what a cell's folder weighs; an adapter kept on its 4-bit base weighs the base and the adapter."""
    base_bytes = {
        (cell["base"], cell["compress"]): cell for cell in results if cell["teach"] == "untaught" and cell.get("bytes_on_disk")
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
    return page | {"ranking": pairs.get("ranking"), "hash": (record or {}).get("hash")}


def _calibration(study: StudyConfig, records: pd.DataFrame) -> list[dict[str, Any]]:
    """Planted survival: expected share left against the R that the statistics read for it.

    Each re-planted policy is handed to the statistics as if it were a compression of the taught one whose compressed
    base is the untaught policy itself; share 0 is the taught policy.
    """
    import pandas as pd

    from teachfair.evaluation.statistics import survival

    if not study.replant:
        return []
    arm = next(arm for arm in study.arms if arm.teach in METHODS and arm.adapt == "full")
    seed = study.seeds[0]
    primary, _ = _by_taught_axis(records[records["benchmark"] == (study.outcome_benchmark or study.benchmarks[0])])
    untaught = primary[(primary["teach"] == "untaught")]
    taught = primary[(primary["teach"] == arm.teach) & (primary["adapt"] == arm.adapt) & (primary["seed"] == seed)]
    found = []
    for share in [0.0, *study.replant]:
        name = f"replant-{share:g}"
        left = taught if share == 0 else primary[primary["teach"] == name]
        parts = [
            untaught, untaught.assign(compress=name), taught,
            left.assign(teach=arm.teach, adapt=arm.adapt, compress=name),
        ]  # fmt: skip
        row = survival(
            pd.concat(parts, ignore_index=True), random_state=study.random_state, n_resamples=study.n_resamples,
            one_seed=True,
        )[0]  # fmt: skip
        found.append(
            {"expected": 1 - share, "R": row.r_c.value, "low": row.r_c.low, "high": row.r_c.high, "n_seeds": 1}
        )
    return found


def _platform() -> dict[str, Any]:
    import platform

    return {"python": platform.python_version(), "system": platform.platform(), "cpus": os.cpu_count()}


def _peak_memory(steps: Path) -> float | None:
    """The largest peak of any worker, GiB. ``workers`` of them run side by side."""
    peaks = [record["peak_gib"] for folder in steps.glob("*/") if (record := runs.read_record(folder)) and record.get("peak_gib")]
    return max(peaks, default=None)


def _leaks(study: StudyConfig, found: list[dict[str, Any]]) -> dict[str, Any]:
    """Training prompts that are, letter for letter, prompts of the evaluation: there must be none."""
    import pandas as pd

    if study.policy is not None or "sandbox" not in study.benchmarks:
        return {"checked": "not checked: no benchmark of this study shares its source with the pairs"}
    shared = 0
    for item in found:
        rows = pd.read_parquet(Path(item["pairs"]) / "pairs.parquet")["prompt"]
        trained = {turn["content"] for prompt in rows for turn in prompt}
        options = _benchmark_options(study, item["base"])["sandbox"]
        asked = {row["prompt"] for row in BENCHMARKS["sandbox"].items(None, **options)}
        shared += len(trained & asked)
    return {"checked": "exact prompts, training pairs against evaluation items", "shared_prompts": shared}


def plan_lines(study: StudyConfig) -> list[str]:
    """What ``--plan`` prints: cells, steps, time."""
    found = plan(study)
    lines = [f"{study.title}", f"bases: {', '.join(study.bases)}; seeds: {study.seeds}; benchmarks: {study.benchmarks}", ""]
    header = ("teach", "adapt", "compress", "order", "seed", "base")
    lines.append("  ".join(f"{name:<12}" if name != "order" else f"{name:<22}" for name in header))
    for cell in found["cells"]:
        seed = "-" if cell["seed"] == UNTAUGHT_SEED else cell["seed"]
        values = [cell["teach"], cell["adapt"], cell["compress"], cell["order"], seed, cell["base"]]
        lines.append("  ".join(f"{value!s:<22}" if i == 3 else f"{value!s:<12}" for i, value in enumerate(values)))
    steps = ", ".join(f"{count} {kind}" for kind, count in found["steps"].items() if count)
    minutes = found["estimated_seconds"] / 60
    lines += [
        "", f"{len(found['cells'])} cells; steps: {steps}",
        f"estimated time: {minutes:.1f} min with {study.workers} workers (from {found['estimate_from']}); "
        "finished steps are not run again; nothing was run now",
    ]  # fmt: skip
    return lines
