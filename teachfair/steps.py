"""The steps of a study. These functions run in worker processes and are the ones that load torch.

A step is a folder named by the fingerprint of everything that decides it. It is made once, whole, and found again.
"""

from __future__ import annotations

import contextlib
import functools
import os
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from teachfair import runs
from teachfair.compression import COMPRESSIONS
from teachfair.data.excluding import read_exclusion
from teachfair.doors import read_config
from teachfair.errors import ConfigError, TeachfairError
from teachfair.evaluation.benchmarks import BENCHMARKS, get
from teachfair.evaluation.benchmarks.template import SCORING, TemplateBenchmark
from teachfair.grid import ALIGN_COMPRESS, COMPRESS_ALIGN, MERGE_RECOMPRESS, UNTAUGHT_SEED, Arm, StudyConfig, cell_keys
from teachfair.leak_check import NOBODY, evaluation_items, texts_fingerprint

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


@dataclass(frozen=True)
class _Learner:
    """A reward model that a study trains: the folder of its step, its config file, and which pairs it learns from."""

    kind: str
    what: str
    folder: Path
    recipe: Path
    pairs: dict[str, Any]  # options of lesson.reward_lesson


def foundation(study: dict[str, Any], base: str) -> dict[str, Any]:
    """All that the arms of one base share: policy, reward models, judge, ranked pairs, prompts; returns where they are.

    What no arm of the study needs is not made. Before anything is trained, all that will be learned from (by a reward model,
    by the judge, by the arms) is held against the items of every benchmark, and its mix is checked.
    Raises: ConfigError if the judge is one of the reward models, or for a lesson of "cannot tell" only; DataError for a
    leak, unless the study allows it.
    """
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
    learners = _learners(config, base, policy_hash, sandbox)
    nobody = NOBODY if config.judge is not None else None
    evaluation = evaluation_items(config.benchmarks, config.data_dir, benchmark_options(config, base, judge=nobody))

    asked: dict[str, Any] = {
        "sandbox": sandbox, "dataset_name": config.dataset_name, "dataset_source": config.dataset_source,
        "num_pairs": config.num_sandbox_pairs, "exclude_ids": _text(config.exclude_ids),
    }  # fmt: skip

    @functools.cache
    def as_read() -> tuple[Any, Any]:
        """The study's pairs and the placebo's, before they are ranked."""
        pairs = lesson.study_pairs(**asked)
        return pairs, lesson.placebo_pairs(sandbox=sandbox, dataset_name=config.placebo_dataset_name, n=len(pairs))

    @functools.cache
    def held_pairs() -> dict[str, Any]:
        """What the record says of the pairs: their mix, how they were read, and the wall's report."""
        pairs, neutral = as_read()
        facts = lesson.mix_and_counts(pairs, force=config.force_mix)
        named = {"pairs": pairs} if neutral is None else {"pairs": pairs, "placebo": neutral}
        return facts | {"wall": _held_apart(named, evaluation, config.allow_leaks)}

    if any(runs.read_record(learner.folder) is None for learner in learners.values()):
        held_pairs()  # of a finished study they are held below, and only where something has changed
    walls = {kind: _hold_learner(learner, sandbox, evaluation, config) for kind, learner in learners.items()}

    def train(kind: str) -> Path:
        learner = learners[kind]
        return _step(
            learner.folder, kind, learner.what,
            lambda folder: lesson.train_reward_model_from_config(
                learner.recipe, policy, folder, sandbox=sandbox, facts={"wall": walls[kind]}, **learner.pairs
            ),
            aside=False,
        )  # fmt: skip

    reward_model = train("reward-model") if "reward-model" in learners else None
    judge = train("judge") if "judge" in learners else config.judge
    if judge is not None and reward_model is not None:
        taught = [arm for arm in config.arms if arm.control != "placebo"]
        _refuse_as_judge(judge, reward_model, taught)  # before anything is taught
    decides = {
        "policy": policy_hash, "dataset": config.dataset_name, "n": config.num_sandbox_pairs, "bias": config.bias,
        "reward_model": content_hash(reward_model) if reward_model else None, "base": base,
        "on_disagreement": config.on_disagreement,
    }  # fmt: skip
    if config.exclude_ids is not None:
        decides["excluded"] = read_exclusion(config.exclude_ids).sha256

    def make_pairs(folder: Path) -> dict[str, Any]:
        facts = held_pairs()
        pairs, report = lesson.ranked_pairs(
            as_read()[0], reward_model=reward_model, on_disagreement=config.on_disagreement
        )  # fmt: skip
        pairs.to_parquet(str(folder / "pairs.parquet"))
        if (neutral := as_read()[1]) is not None:
            neutral.to_parquet(str(folder / "placebo.parquet"))
        elsewhere = None
        if sandbox is not None and reward_model is not None:
            elsewhere = lesson.untaught_axis_accuracy(sandbox, reward_model)
        return {"ranking": report, "n_pairs": len(pairs), "untaught_axis": elsewhere, **facts, **decides}

    pairs = _step(steps / _name("pairs", base, decides), "pairs", f"rank the pairs ({base})", make_pairs)
    _hold_again(pairs, evaluation, config.allow_leaks)
    if ((runs.read_record(pairs) or {}).get("mix") or {}).get("forced") and not config.force_mix:
        from datasets import Dataset

        lesson.mix_and_counts(Dataset.from_parquet(str(pairs / "pairs.parquet")), force=False)  # raises: no longer forced
    found = {
        "base": base, "policy": str(policy), "policy_hash": policy_hash, "pairs": str(pairs),
        "reward_model": _text(reward_model), "judge": _text(judge),
    }  # fmt: skip

    def prompts(control: str) -> Path:
        def make_prompts(folder: Path) -> dict[str, Any]:
            rows = lesson.study_prompts(pairs, sandbox=sandbox, control=control)
            facts: dict[str, Any] = {"control": control, "prompts_of": pairs.name}
            if config.exclude_ids is not None and control == "none":  # another of a contested prompt's pairs may be left
                every = lesson.study_pairs(**asked | {"exclude_ids": None})
                uncontested = lesson.uncontested(every, str(config.exclude_ids), where=str(config.dataset_name))
                left = set(map(str, uncontested["prompt"]))
                kept = [place for place, prompt in enumerate(rows["prompt"]) if str(prompt) in left]
                facts["n_contested"], rows = len(rows) - len(kept), rows.select(kept)
            rows.to_parquet(str(folder / "prompts.parquet"))
            facts["n_prompts"] = len(rows)
            if sandbox is not None:  # of one's own data they are prompts of the pairs, which are held apart already
                facts["wall"] = _held_apart(_rows_in(folder), evaluation, config.allow_leaks)
            return facts

        label = base if control == "none" else f"{control}-{base}"
        what = "the prompts" if control == "none" else f"the {control}'s prompts"
        made = _step(
            steps / _name("prompts", label, {"pairs": pairs.name, "control": control}), "prompts",
            f"write down {what} ({base})", make_prompts,
        )  # fmt: skip
        if sandbox is not None:
            _hold_again(made, evaluation, config.allow_leaks)
        return made

    if config.teaches_online:
        found["prompts"] = str(prompts("none"))
    if "placebo-reward-model" in learners:
        neutral_model = train("placebo-reward-model")
        if judge is not None:
            placebos = [arm for arm in config.arms if arm.is_online and arm.control == "placebo"]
            _refuse_as_judge(judge, neutral_model, placebos)
        found |= {"placebo_prompts": str(prompts("placebo")), "placebo_reward_model": str(neutral_model)}
    return found


def _learners(config: StudyConfig, base: str, policy_hash: str, sandbox: Any) -> dict[str, _Learner]:
    """The reward models that a study trains for one base, in order: the lesson's, the judge, the placebo's."""
    contested = read_exclusion(config.exclude_ids).sha256 if config.exclude_ids is not None else None

    def learner(kind: str, what: str, recipe: Path, dataset: str | None, source: str, control: str = "none") -> _Learner:
        decides = {"policy": policy_hash, "config": recipe.read_text(), "bias": config.bias, "dataset": dataset,
                   "base": base}  # fmt: skip
        pairs: dict[str, Any] = {"dataset_name": dataset, "dataset_source": source, "control": control}
        if control != "none":
            decides["control"] = control
        if contested is not None and control == "none" and dataset == config.dataset_name:
            pairs["exclude_ids"], decides["excluded"] = str(config.exclude_ids), contested
        folder = config.output_dir / "steps" / _name(kind, base, decides)
        return _Learner(kind, f"{what} ({base})", folder, recipe, pairs | {"force_mix": config.force_mix})

    found = []
    if config.reward_model is not None:
        found.append(
            learner(
                "reward-model", "train the reward model", config.reward_model, config.dataset_name, config.dataset_source
            )
        )
    if config.judge is not None and config.judge.is_file():
        own = read_config(config.judge)
        dataset, source = config.dataset_name, config.dataset_source
        if own.get("dataset_name"):  # pairs of its own: the more independent judge
            dataset, source = own["dataset_name"], own.get("dataset_source", "preference_file")
        found.append(learner("judge", "train the judge", config.judge, dataset, source))
    if config.has_online_placebo and config.reward_model is not None:
        found.append(
            learner(
                "placebo-reward-model", "train the placebo's reward model", config.reward_model,
                config.placebo_dataset_name, "preference_file", "placebo",
            )
        )  # fmt: skip
    return {one.kind: one for one in found}


Items = dict[str, list[dict[str, Any]]]


def _held_apart(rows: Mapping[str, Iterable[dict[str, Any]]], evaluation: Items, allow: bool) -> dict[str, Any]:
    """The wall's report on named sets of rows, and which evaluation texts they were held against."""
    from teachfair.alignment.lesson import held_apart

    named = [
        {**row, "id": f"{name} {row.get('id') or number}"} for name, part in rows.items() for number, row in enumerate(part)
    ]
    found = held_apart(named, evaluation, allow=allow) or {"leaks": 0}
    return found | {"held_against": texts_fingerprint(evaluation), "allowed": allow}


def _rows_in(folder: Path) -> dict[str, Any]:
    """Every row that lies in a step's folder, by file."""
    from datasets import Dataset

    return {file.stem: Dataset.from_parquet(str(file)) for file in sorted(folder.glob("*.parquet"))}


def _is_held(record: dict[str, Any], evaluation: Items, allow: bool) -> bool:
    """Whether a finished step's wall still stands: against the same texts, and without a leak that is not allowed."""
    wall = record.get("wall") or {}
    return wall.get("held_against") == texts_fingerprint(evaluation) and bool(allow or not wall["leaks"])


def _hold_again(step: Path, evaluation: Items, allow: bool) -> None:
    """A finished step of a study whose benchmarks have changed since, or that no longer allows leaks, is held anew."""
    record = runs.read_record(step) or {}
    if not _is_held(record, evaluation, allow):
        runs.write_json(step / runs.RUN_RECORD, record | {"wall": _held_apart(_rows_in(step), evaluation, allow)})


def _hold_learner(learner: _Learner, sandbox: Any, evaluation: Items, config: StudyConfig) -> dict[str, Any]:
    """The wall's report on what a reward model learns from: before it is trained, or (as :func:`_hold_again`) anew.

    Raises: DataError for a leak, ConfigError for pairs of "cannot tell" only, unless the study allows them.
    """
    from teachfair.alignment import lesson

    record = runs.read_record(learner.folder)
    forced = bool(((record or {}).get("mix") or {}).get("forced")) and not config.force_mix
    if record is not None and not forced and _is_held(record, evaluation, config.allow_leaks):
        return dict(record["wall"])
    rows = lesson.reward_lesson(learner.recipe, sandbox=sandbox, **learner.pairs).train
    wall = _held_apart({learner.kind: rows}, evaluation, config.allow_leaks)
    if record is not None:
        runs.write_json(learner.folder / runs.RUN_RECORD, record | {"wall": wall})
    return wall


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _refuse_as_judge(judge: Path, reward_model: Path, arms: list[Arm]) -> None:
    """Raises: ConfigError if the judge is that reward model, a member of it, or an ensemble it is in, by content."""
    from teachfair.evaluation.benchmarks.judged import own_teacher
    from teachfair.models.provenance import hashes_of

    judges = hashes_of(judge)
    if arms and set(judges) & set(hashes_of(reward_model)):
        names = ", ".join(dict.fromkeys(f"{arm.label} {arm.adapt}" for arm in arms))
        raise own_teacher(judge, judges[0], f"the arm {names}", str(reward_model))


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
        done.append(_compress_and_evaluate(config, found, policy, found["policy_hash"], cell))
    return done


def _taught(config: StudyConfig, found: dict[str, Any], arm: Arm, seed: int) -> tuple[Path, str]:
    """The folder of one taught checkpoint, made or not, and its readable label."""
    from teachfair.models.checkpoint import content_hash

    label = f"{arm.label}-{arm.adapt}-seed{seed}-{found['base']}"
    plain = arm.model_dump() | {"config": arm.config.name}
    if arm.control == "none":
        del plain["control"]  # so that what was taught before there were controls of every method is found again
    decides = {
        "policy": found["policy_hash"], "pairs": Path(found["pairs"]).name, "config": arm.config.read_text(),
        "arm": plain, "seed": seed,
    }  # fmt: skip
    if arm.is_online:
        prompts, reward_model = _lesson_of(found, arm)
        decides |= {"pairs": None, "prompts": prompts.name, "reward_model": content_hash(reward_model)}
    return config.output_dir / "steps" / _name("teach", label, decides), label


def _lesson_of(found: dict[str, Any], arm: Arm) -> tuple[Path, Path]:
    """The folders of the prompts and of the reward model that an online arm is taught with."""
    which = "placebo_" if arm.control == "placebo" else ""
    return Path(found[f"{which}prompts"]), Path(found[f"{which}reward_model"])


def _teach(config: StudyConfig, found: dict[str, Any], arm: Arm, seed: int, folder: Path) -> Path:
    from teachfair.alignment import lesson

    policy = Path(found["policy"])
    if not arm.is_online:
        return lesson.teach_from_config(
            arm.config, policy, Path(found["pairs"]), folder, method=arm.teach, control=arm.control, seed=seed,
            max_steps=arm.max_steps, reward_model=found["reward_model"],
        )  # fmt: skip
    from teachfair.alignment import online_lesson
    from teachfair.models.checkpoint import content_hash

    prompts, reward_model = _lesson_of(found, arm)
    sandbox = None
    if config.policy is None:
        sandbox = lesson.sandbox(seed=world_seed(found["base"]), bias=config.bias)
    return online_lesson.teach_online_from_config(
        arm.config, policy, prompts / "prompts.parquet", folder, method=arm.teach, seed=seed, reward_model=reward_model,
        max_steps=arm.max_steps, sandbox=sandbox, control=arm.control,
        record={
            "prompts_step": prompts.name, "reward_model": str(reward_model), "reward_model_hash": content_hash(reward_model)
        },
    )  # fmt: skip


def arm_chain(study: dict[str, Any], found: dict[str, Any], arm: dict[str, Any], seed: int) -> list[dict[str, Any]]:
    """Teach one arm with one seed, compress it every way, evaluate every cell."""
    from teachfair.models.checkpoint import content_hash, merge

    config, chosen = StudyConfig(**study), Arm(**arm)
    base, steps = found["base"], config.output_dir / "steps"
    place, label = _taught(config, found, chosen, seed)
    taught = _step(
        place, "teach", f"teach {chosen.label} {chosen.adapt}, seed {seed} ({base})",
        functools.partial(_teach, config, found, chosen, seed), aside=False,
    )  # fmt: skip
    taught_hash = content_hash(taught)
    order = MERGE_RECOMPRESS if chosen.adapt == "qlora" else ALIGN_COMPRESS
    done = []
    reference = taught
    if chosen.adapt == "qlora":

        def make_merged(folder: Path) -> dict[str, Any]:
            merge(taught, folder / "checkpoint")
            return {"route": "dequantise the 4-bit base, then merge, fp32", "source": str(taught)}

        reference = _step(
            steps / _name("merge", label, {"taught": taught_hash}), "merge", f"merge {label}", make_merged
        ) / "checkpoint"  # fmt: skip
        kept = cell_keys(chosen.label, chosen.adapt, "nf4", COMPRESS_ALIGN, seed, base)
        done.append(_evaluate_cell(config, found, taught, taught_hash, kept, accounting=_adapter_accounting(taught)))
    done.append(
        _evaluate_cell(
            config, found, reference, content_hash(reference),
            cell_keys(chosen.label, chosen.adapt, "none", order, seed, base),
        )
    )
    for compress in config.compressions:
        cell = cell_keys(chosen.label, chosen.adapt, compress, order, seed, base)
        done.append(_compress_and_evaluate(config, found, taught, taught_hash, cell))
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
        done.append(_evaluate_cell(config, found, checkpoint, content_hash(checkpoint), cell))
    return done


def _compress_and_evaluate(
    config: StudyConfig, found: dict[str, Any], source: Path, source_hash: str, cell: dict[str, Any]
) -> dict[str, Any]:
    from teachfair.models.checkpoint import content_hash

    if cell["compress"] == "none":
        return _evaluate_cell(config, found, source, source_hash, cell)
    compression = COMPRESSIONS[cell["compress"]]
    label = f"{cell['compress']}-{cell['teach']}-{cell['adapt']}-seed{cell['seed']}-{cell['base']}"
    folder = config.output_dir / "steps" / _name("compress", label, {"source": source_hash, "how": repr(compression)})
    _step(folder, "compress", f"compress {label}", lambda out: compression.apply(source, out), aside=False)
    record = runs.read_record(folder) or {}
    accounting = {key: record.get(key) for key in ("bytes_on_disk", "bits_per_parameter", "n_quantised_layers")}
    return _evaluate_cell(config, found, folder, content_hash(folder), cell, accounting=accounting)


def _adapter_accounting(adapter: Path) -> dict[str, Any]:
    """Bytes of the adapter alone; the report adds those of its 4-bit base."""
    size = sum(path.stat().st_size for path in adapter.glob("*.safetensors"))
    return {"adapter_bytes": size}


def _evaluate_cell(
    config: StudyConfig,
    found: dict[str, Any],
    checkpoint: Path,
    checkpoint_hash: str,
    cell: dict[str, Any],
    accounting: dict[str, Any] | None = None,
) -> dict[str, Any]:
    label = f"{cell['teach']}-{cell['adapt']}-{cell['compress']}-{cell['order']}-seed{cell['seed']}-{cell['base']}"
    evaluations = []
    for words in config.evaluations:
        asked = [get(word) for word in words]
        if isinstance(asked[0], TemplateBenchmark):
            evaluations.append(_evaluate_template(config, asked[0], checkpoint, checkpoint_hash, cell, label))
            continue
        options = benchmark_options(config, cell["base"], judge=found.get("judge"))
        decides = {
            "checkpoint": checkpoint_hash, "benchmarks": words, "cell": cell, "limit": config.limit,
            "data_dir": str(config.data_dir), "cards": [BENCHMARKS[name].CARD.get("version") for name in words],
            "options": _without_places(options),
        }  # fmt: skip
        evaluations.append(_evaluation(config, words, checkpoint, cell, label, decides, options))
    seconds = [one["seconds"] for one in evaluations if one["seconds"] is not None]
    return {
        **cell, "evaluations": evaluations, "hash": checkpoint_hash, "seconds": sum(seconds) if seconds else None,
        **(accounting or {}),
    }  # fmt: skip


def _evaluate_template(
    config: StudyConfig, benchmark: TemplateBenchmark, checkpoint: Path, checkpoint_hash: str, cell: dict[str, Any],
    label: str,
) -> dict[str, Any]:  # fmt: skip
    """A template is what is in its files, wherever they lie: their content decides, not their path."""
    decides = {
        "checkpoint": checkpoint_hash, "template": benchmark.content_hash(config.data_dir), "scoring": SCORING, "cell": cell,
        "limit": config.limit,
    }  # fmt: skip
    return _evaluation(config, [benchmark], checkpoint, cell, f"{benchmark.spec.name[:40]}-{label}", decides, {})


def _evaluation(
    config: StudyConfig, benchmarks: list[Any], checkpoint: Path, cell: dict[str, Any], label: str, decides: dict[str, Any],
    options: dict[str, dict[str, Any]],
) -> dict[str, Any]:  # fmt: skip
    """One step: where its records are, which benchmarks' they are, and whether it was there already."""
    from teachfair.evaluation.evaluate import evaluate

    folder = config.output_dir / "steps" / _name("evaluate", label, decides)

    def make(out: Path) -> None:
        evaluate(checkpoint, benchmarks, config.data_dir, out, limit=config.limit, cell=cell, options=options)

    found_again = runs.read_record(folder) is not None
    _step(folder, "evaluate", f"evaluate {label}", make, aside=False)
    record = runs.read_record(folder) or {}
    return {
        "folder": str(folder), "benchmarks": list(record["benchmarks"]), "seconds": record.get("seconds"),
        "reused": found_again,
    }  # fmt: skip


def benchmark_options(config: StudyConfig, base: str, judge: str | None = None) -> dict[str, dict[str, Any]]:
    """Keyword arguments of the benchmarks' ``items``, by benchmark."""
    options: dict[str, dict[str, Any]] = {}
    if config.policy is None:
        from teachfair.data.sandbox.world import SandboxConfig

        options["sandbox"] = {"world": SandboxConfig(seed=world_seed(base), bias=config.bias)}
    if judge is not None:
        options["judged"] = {**options.get("sandbox", {}), "judge": judge}
    return options


def _without_places(options: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The options as they decide a result: a judge is what it is, wherever it lies."""
    from teachfair.models.checkpoint import content_hash

    judged = options.get("judged")
    return options if judged is None else options | {"judged": judged | {"judge": content_hash(judged["judge"])}}


def guarded(function: Callable[..., Any], *args: Any) -> Any:
    """Run in a worker. A user's error travels as data: exceptions with keyword arguments do not survive pickling."""
    try:
        return {"value": function(*args)}
    except TeachfairError as error:
        kind = type(error)
        return {"error": (kind.__module__, kind.__name__, error.what, error.where, error.fix)}
    except ValidationError as error:  # of a study that the process which read it took: this one imported less
        what = f"a worker process does not know what the study names: {error.errors()[0]['msg']}"
        fix = "put it into its dict at the top level of your script, not under if __name__ == '__main__' (docs/extending.md)"
        return {"error": (ConfigError.__module__, ConfigError.__name__, what, "the script that calls run_study", fix)}
    except Exception:
        return {"traceback": traceback.format_exc()}
