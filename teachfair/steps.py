"""The steps of a study. These functions run in worker processes and are the ones that load torch.

A step is a folder named by the fingerprint of everything that decides it. It is made once, whole, and found again.
"""

from __future__ import annotations

import contextlib
import functools
import os
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from teachfair import runs
from teachfair.compression import COMPRESSIONS
from teachfair.errors import TeachfairError
from teachfair.evaluation.benchmarks import BENCHMARKS
from teachfair.grid import ALIGN_COMPRESS, COMPRESS_ALIGN, MERGE_RECOMPRESS, UNTAUGHT_SEED, Arm, StudyConfig, cell_keys

_messages: Any = None


def start_worker(queue: Any, threads: int) -> None:
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
    for chatty in ("accelerate", "bitsandbytes", "bitsandbytes.backends.cpu.ops"):
        logging.getLogger(chatty).setLevel(logging.ERROR)


def _tell(kind: str, **message: Any) -> None:
    if _messages is not None:
        _messages.put({"kind": kind, "pid": os.getpid(), **message})


@contextlib.contextmanager
def _doing(what: str, done: bool = False) -> Iterator[None]:
    if not done:
        _tell("begin", what=what)
    yield
    _tell("step", what=what, cached=done)


def _step(folder: Path, kind: str, what: str, make: Callable[[Path], Any], *, aside: bool = True) -> Path:
    """Make a step's folder unless it is complete. ``make`` gets the folder to fill and returns fields for its record.

    ``aside=False`` is for steps that write, resume and seal their folder themselves.
    """
    with _doing(what, done=runs.read_record(folder) is not None):
        if runs.read_record(folder) is None:
            start = time.monotonic()
            if aside:
                with runs.whole_folder(_cleared(folder)) as partial:
                    fields: dict[str, Any] = make(partial) or {}
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


def foundation(study: dict[str, Any], base: str) -> dict[str, Any]:
    """Policy, reward model and ranked pairs of one base; returns where they are."""
    from teachfair.alignment import lesson

    config = StudyConfig(**study)
    steps = config.output_dir / "steps"
    sandbox = None
    if config.policy is None:
        sandbox = lesson.sandbox(seed=world_seed(base), bias=config.bias)
        with _doing(f"pretrain the sandbox policy ({base})", done=lesson.is_cached(sandbox)):
            policy = lesson.sandbox_policy(sandbox, progress=_progress("pretrain"))
    else:
        policy = Path(config.policy)
    from teachfair.models.checkpoint import content_hash

    policy_hash = content_hash(policy)
    reward_model: Path | None = None
    recipe = config.reward_model
    if recipe is not None:
        decides = {"policy": policy_hash, "config": recipe.read_text(), "bias": config.bias,
                   "dataset": config.dataset_name, "base": base}  # fmt: skip
        reward_model = _step(
            steps / _name("reward-model", base, decides), "reward-model", f"train the reward model ({base})",
            lambda folder: lesson.train_reward_model_from_config(
                recipe, policy, folder, sandbox=sandbox, dataset_name=config.dataset_name,
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
        elsewhere = None
        if sandbox is not None and reward_model is not None:
            elsewhere = lesson.untaught_axis_accuracy(sandbox, reward_model)
        return {"ranking": report, "n_pairs": len(pairs), "untaught_axis": elsewhere, **decides}

    pairs = _step(steps / _name("pairs", base, decides), "pairs", f"rank the pairs ({base})", make_pairs)
    return {
        "base": base, "policy": str(policy), "policy_hash": policy_hash, "pairs": str(pairs),
        "reward_model": str(reward_model) if reward_model else None,
    }  # fmt: skip


def world_seed(base: str) -> int:
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


def untaught_chain(study: dict[str, Any], found: dict[str, Any]) -> list[dict[str, Any]]:
    config = StudyConfig(**study)
    policy = Path(found["policy"])
    done = []
    for compress in ["none", *config.compressions]:
        cell = cell_keys("untaught", "none", compress, ALIGN_COMPRESS, UNTAUGHT_SEED, found["base"])
        done.append(_compress_and_evaluate(config, policy, found["policy_hash"], cell))
    return done


def _taught(config: StudyConfig, found: dict[str, Any], arm: Arm, seed: int) -> tuple[Path, str]:
    """The folder of one taught checkpoint, made or not, and its readable label."""
    label = f"{arm.teach}-{arm.adapt}-seed{seed}-{found['base']}"
    decides = {
        "policy": found["policy_hash"], "pairs": Path(found["pairs"]).name, "config": arm.config.read_text(),
        "arm": arm.model_dump() | {"config": arm.config.name}, "seed": seed,
    }  # fmt: skip
    return config.output_dir / "steps" / _name("teach", label, decides), label


def arm_chain(study: dict[str, Any], found: dict[str, Any], arm: dict[str, Any], seed: int) -> list[dict[str, Any]]:
    """Teach one arm with one seed, compress it every way, evaluate every cell."""
    from teachfair.alignment import lesson
    from teachfair.models.checkpoint import content_hash, merge

    config, chosen = StudyConfig(**study), Arm(**arm)
    base, steps = found["base"], config.output_dir / "steps"
    place, label = _taught(config, found, chosen, seed)
    taught = _step(
        place, "teach", f"teach {chosen.teach} {chosen.adapt}, seed {seed} ({base})",
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
        kept = cell_keys(chosen.teach, chosen.adapt, "nf4", COMPRESS_ALIGN, seed, base)
        done.append(_evaluate_cell(config, taught, taught_hash, kept, accounting=_adapter_accounting(taught)))
    done.append(
        _evaluate_cell(
            config, reference, content_hash(reference), cell_keys(chosen.teach, chosen.adapt, "none", order, seed, base)
        )
    )
    for compress in config.compressions:
        cell = cell_keys(chosen.teach, chosen.adapt, compress, order, seed, base)
        done.append(_compress_and_evaluate(config, taught, taught_hash, cell))
    return done


def replant_chain(
    study: dict[str, Any], found: dict[str, Any], taught_arm: dict[str, Any], seed: int
) -> list[dict[str, Any]]:
    """Fine-tune known shares of the bias back into one taught full arm: what R ought to read."""
    from teachfair.alignment import lesson
    from teachfair.models.checkpoint import content_hash

    config, arm = StudyConfig(**study), Arm(**taught_arm)
    base, steps = found["base"], config.output_dir / "steps"
    taught, label = _taught(config, found, arm, seed)
    done = []
    for share in config.replant:
        step = _step(
            steps / _name("replant", f"{share:g}-{label}", {"taught": content_hash(taught), "share": share}), "teach",
            f"re-plant {share:.0%} of the bias, seed {seed} ({base})",
            functools.partial(
                lesson.replant_into, taught, untaught=Path(found["policy"]), share=share, world_seed=world_seed(base),
                bias=config.bias, seed=seed,
            ),
        )  # fmt: skip
        checkpoint = step / "checkpoint"
        cell = cell_keys(f"replant-{share:g}", "full", "none", ALIGN_COMPRESS, seed, base)
        done.append(_evaluate_cell(config, checkpoint, content_hash(checkpoint), cell))
    return done


def _compress_and_evaluate(config: StudyConfig, source: Path, source_hash: str, cell: dict[str, Any]) -> dict[str, Any]:
    from teachfair.models.checkpoint import content_hash

    if cell["compress"] == "none":
        return _evaluate_cell(config, source, source_hash, cell)
    compression = COMPRESSIONS[cell["compress"]]
    label = f"{cell['compress']}-{cell['teach']}-{cell['adapt']}-seed{cell['seed']}-{cell['base']}"
    folder = config.output_dir / "steps" / _name("compress", label, {"source": source_hash, "how": repr(compression)})
    _step(folder, "compress", f"compress {label}", lambda out: compression.apply(source, out), aside=False)
    record = runs.read_record(folder) or {}
    accounting = {key: record.get(key) for key in ("bytes_on_disk", "bits_per_parameter", "n_quantised_layers")}
    return _evaluate_cell(config, folder, content_hash(folder), cell, accounting=accounting)


def _adapter_accounting(adapter: Path) -> dict[str, Any]:
    """Bytes of the adapter alone; the report adds those of its 4-bit base."""
    size = sum(path.stat().st_size for path in adapter.glob("*.safetensors"))
    return {"adapter_bytes": size}


def _evaluate_cell(
    config: StudyConfig,
    checkpoint: Path,
    checkpoint_hash: str,
    cell: dict[str, Any],
    accounting: dict[str, Any] | None = None,
) -> dict[str, Any]:
    from teachfair.evaluation.evaluate import evaluate

    label = f"{cell['teach']}-{cell['adapt']}-{cell['compress']}-{cell['order']}-seed{cell['seed']}-{cell['base']}"
    options = benchmark_options(config, cell["base"])
    cards = [BENCHMARKS[name].CARD.get("version") for name in config.benchmarks]
    decides = {
        "checkpoint": checkpoint_hash, "benchmarks": config.benchmarks, "cell": cell, "limit": config.limit,
        "data_dir": str(config.data_dir), "cards": cards, "options": options,
    }  # fmt: skip
    folder = config.output_dir / "steps" / _name("evaluate", label, decides)

    def make(out: Path) -> None:
        evaluate(
            checkpoint, config.benchmarks, config.data_dir, out, limit=config.limit, cell=cell,
            options=options,
        )  # fmt: skip

    _step(folder, "evaluate", f"evaluate {label}", make, aside=False)
    record = runs.read_record(folder) or {}
    return {**cell, "folder": str(folder), "hash": checkpoint_hash, "seconds": record.get("seconds"), **(accounting or {})}


def benchmark_options(config: StudyConfig, base: str) -> dict[str, dict[str, Any]]:
    if config.policy is not None:
        return {}
    from teachfair.data.sandbox.world import SandboxConfig

    return {"sandbox": {"world": SandboxConfig(seed=world_seed(base), bias=config.bias)}}


def guarded(function: Callable[..., Any], *args: Any) -> Any:
    """Run in a worker. A user's error travels as data: exceptions with keyword arguments do not survive pickling."""
    try:
        return {"value": function(*args)}
    except TeachfairError as error:
        kind = type(error)
        return {"error": (kind.__module__, kind.__name__, error.what, error.where, error.fix)}
    except Exception:
        return {"traceback": traceback.format_exc()}
