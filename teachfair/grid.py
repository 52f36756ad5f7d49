"""A study's configuration, its cells and its plan: what would run, in which order, at what cost. Runs nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from teachfair import runs
from teachfair.alignment import CONTROLS, METHODS, ONLINE_METHODS
from teachfair.compression import COMPRESSIONS
from teachfair.doors import read_config
from teachfair.errors import ConfigError
from teachfair.evaluation.benchmarks import BENCHMARKS, get
from teachfair.evaluation.benchmarks.template import TemplateBenchmark, names_file

UNTAUGHT_SEED = -1  # the untaught policy has no training seed: its cells are shared by all seeds
ALIGN_COMPRESS, COMPRESS_ALIGN, MERGE_RECOMPRESS = "align-then-compress", "compress-then-align", "merge-then-recompress"
# Seconds a step took on two cores of a shared cloud machine; only for --plan, replaced by a study's own once it has some.
_TYPICAL_SECONDS = {
    "policy": 70.0, "reward-model": 45.0, "placebo-reward-model": 45.0, "judge": 45.0, "pairs": 8.0, "prompts": 1.0,
    "teach-dpo": 14.0, "teach-ppo": 9.0, "teach-grpo": 10.0, "teach-rloo": 10.0, "replant": 14.0, "merge": 1.0,
    "compress": 1.5, "evaluate": 3.0,
}  # fmt: skip
_TYPICAL_TEACHING = 14.0  # a method that this table does not know
_FOUNDATION = ("policy", "reward-model", "placebo-reward-model", "judge", "pairs", "prompts")  # before any arm begins


class Arm(BaseModel):
    """One way of teaching: a method, what it teaches, an adaptation, and the config file of the method's door."""

    model_config = ConfigDict(extra="forbid")
    teach: str
    control: str = "none"  # none: the lesson itself; else one of CONTROLS, taught by the same method
    adapt: Literal["full", "lora", "qlora"]
    config: Path
    max_steps: int | None = None

    @field_validator("teach")
    @classmethod
    def _known(cls, value: str) -> str:
        if value in CONTROLS:
            raise ValueError(f"{value!r} is a control, taught by a method: write {{teach: dpo, control: {value}, …}}")
        if value not in METHODS and value not in ONLINE_METHODS:
            raise ValueError(f"unknown teach {value!r}; known: {', '.join([*METHODS, *ONLINE_METHODS])}")
        return value

    @field_validator("control")
    @classmethod
    def _known_control(cls, value: str) -> str:
        if value != "none" and value not in CONTROLS:
            raise ValueError(f"unknown control {value!r}; known: {', '.join(['none', *CONTROLS])}")
        return value

    @property
    def label(self) -> str:
        """The arm's name in the ``teach`` column: the method, or ``<control>-<method>``."""
        return self.teach if self.control == "none" else f"{self.control}-{self.teach}"

    @property
    def is_online(self) -> bool:
        return self.teach in ONLINE_METHODS


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
    exclude_ids: Path | None = None  # a list of the ids of contested pairs, which are left out
    force_mix: bool = False  # teach pairs in which "cannot tell" is the fair answer and the evidence never is
    placebo_dataset_name: str | None = None
    reward_model: Path | None = None  # the config of recipes/reward_model.py; None: labels are taken as they are
    on_disagreement: Literal["flip", "keep", "drop"] = "flip"
    judge: Path | None = None  # of benchmark judged: the config of another reward model, or the folder of one
    arms: list[Arm] = Field(min_length=1)
    seeds: list[int] = Field(default=[0, 1, 2], min_length=1)
    compressions: list[str] = Field(min_length=1)
    benchmarks: list[str] = Field(default=["sandbox"], min_length=1)  # names, and YAML files of template benchmarks
    outcome_benchmark: str | None = None  # default: the first of benchmarks
    data_dir: Path | None = None
    limit: int | None = None
    allow_leaks: bool = False  # teach although training rows match evaluation items; they are counted all the same
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
            if name not in BENCHMARKS and not names_file(name):
                known = ", ".join(sorted(BENCHMARKS))
                raise ValueError(f"unknown benchmark {name!r}; known: {known}, and the path of a template's .yaml")
        return names

    @property
    def bases(self) -> list[str]:
        return [f"world-{seed}" for seed in self.world_seeds] if self.policy is None else [str(self.policy)]

    @property
    def outcome(self) -> str:
        """The name of the benchmark that the verdicts are about."""
        return _name_of(self.outcome_benchmark or self.benchmarks[0])

    @property
    def evaluations(self) -> list[list[str]]:
        """Which benchmarks a step measures together: the built-in ones; each template apart, so that a template that is
        added or edited is measured without measuring anything else again."""
        built_in = [word for word in self.benchmarks if not names_file(word)]
        return [*([built_in] if built_in else []), *([word] for word in self.benchmarks if names_file(word))]

    @property
    def teaches_online(self) -> bool:
        """Whether some arm needs the prompts of the lesson itself: taught online, with the true or shuffled rewards."""
        return any(arm.is_online and arm.control != "placebo" for arm in self.arms)

    @property
    def has_online_placebo(self) -> bool:
        """Whether some arm needs the placebo's prompts, and a reward model of the placebo's preference."""
        return any(arm.is_online and arm.control == "placebo" for arm in self.arms)

    @property
    def replanted_arm(self) -> Arm | None:
        """The arm into which known shares of the bias are planted again: the first full one that is not a control."""
        return next((arm for arm in self.arms if arm.control == "none" and arm.adapt == "full"), None)


def _name_of(benchmark: str) -> str:
    return str(get(benchmark).CARD["name"]) if names_file(benchmark) else benchmark


def benchmark_modules(study: StudyConfig) -> dict[str, Any]:
    """The study's benchmarks by name, in its order; a template's YAML is read."""
    return {_name_of(word): get(word) for word in study.benchmarks}


def with_kept_templates(study: StudyConfig) -> StudyConfig:
    """The study with each template read from a copy in ``<output_dir>/benchmarks``: what is measured is what was there when
    the study began, whoever edits the file meanwhile, and the study folder says what was asked wherever it is taken.

    Raises: RunFolderError if a copy has been edited.
    """
    kept = []
    for word in study.benchmarks:
        if names_file(word):
            benchmark = get(word)
            folder = f"{benchmark.spec.name[:40]}-{benchmark.content_hash(study.data_dir)[:12]}"
            word = str(benchmark.keep(study.output_dir / "benchmarks" / folder, study.data_dir).path)
        kept.append(word)
    return study.model_copy(update={"benchmarks": kept, "outcome_benchmark": study.outcome})


def read_study(path: str | Path) -> StudyConfig:
    """Raises: ConfigError naming the key, its value and what is allowed; of a template's YAML, its line and field."""
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
    if study.judge is not None:
        study.judge = next((place for place in (here / study.judge, study.judge) if place.exists()), here / study.judge)
        if not study.judge.exists():
            raise ConfigError(
                f"there is neither a config file nor a folder {study.judge}", where=f"{path}: judge", fix="check the path"
            )
    study.benchmarks = [str(here / word) if names_file(word) else word for word in study.benchmarks]
    if study.outcome_benchmark is not None and names_file(study.outcome_benchmark):
        study.outcome_benchmark = str(here / study.outcome_benchmark)
    _check_benchmarks(study, str(path))
    _check(study, str(path))
    return study


def _check_benchmarks(study: StudyConfig, path: str) -> None:
    """Every template is read and its items are made, so that nothing is trained for one that cannot be measured.

    Raises: ConfigError, DataError or InputError naming the template's file and field.
    """
    names: dict[str, str] = {}
    for word in study.benchmarks:
        name = word
        if names_file(word):
            _check_template(benchmark := _template(study, word, path), study)
            name = benchmark.spec.name
        if name in names:
            what = f"{name} is named twice" if word == names[name] else f"two benchmarks are called {name}"
            raise ConfigError(
                what, where=f"{path}: benchmarks: {names[name]}, {word}",
                fix="name each benchmark once; a template's name stands in its YAML",
            )  # fmt: skip
        names[name] = word
    asked = study.outcome_benchmark
    if asked is not None and asked not in names and asked not in names.values():
        raise ConfigError(
            f"the outcome is read on {asked}, which is not measured", where=f"{path}: outcome_benchmark",
            fix=f"name one of benchmarks: {', '.join(names)}",
        )  # fmt: skip


def _template(study: StudyConfig, word: str, path: str) -> TemplateBenchmark:
    if not Path(word).is_file():
        copies = ", ".join(str(copy) for copy in sorted((study.output_dir / "benchmarks").glob("*/*.yaml")))
        raise ConfigError(
            "no such template file", where=f"{path}: benchmarks: {word}",
            fix="check the path: it is relative to the study's own YAML"
            + (f"; or name the copy that this study kept of it, one of {copies}" if copies else ""),
        )  # fmt: skip
    benchmark: TemplateBenchmark = get(word)
    return benchmark


def _check_template(benchmark: TemplateBenchmark, study: StudyConfig) -> None:
    name = benchmark.spec.name
    if name in BENCHMARKS:
        raise ConfigError(
            f"the template is called {name}, as a built-in benchmark is", where=f"{benchmark.path}: name",
            fix="give it another name: records and report tell benchmarks apart by it",
        )  # fmt: skip
    benchmark.check_keepable()
    benchmark.items(study.data_dir)


def _check(study: StudyConfig, path: str) -> None:
    """What keys mean together. Raises: ConfigError."""
    names = [(arm.label, arm.adapt) for arm in study.arms]
    for label, adapt in names:
        if names.count((label, adapt)) > 1:
            raise ConfigError(
                f"two arms are {label} {adapt}: their cells could not be told apart", where=f"{path}: arms",
                fix="leave one out, or run two studies",
            )  # fmt: skip
    for arm in study.arms:
        if arm.is_online and study.reward_model is None:
            raise ConfigError(
                f"{arm.label} learns from a reward model, and this study has none", where=f"{path}: reward_model",
                fix="name the config of a reward model (reward_model: sandbox/reward_model.yaml)",
            )  # fmt: skip
        if arm.control == "placebo" and study.policy is not None and study.placebo_dataset_name is None:
            raise ConfigError(
                f"{arm.label} needs a fairness-neutral preference to teach", where=f"{path}: placebo_dataset_name",
                fix="name a file of fairness-neutral pairs, at least as many as the taught ones",
            )  # fmt: skip
    if study.exclude_ids is not None and study.dataset_name is None:
        raise ConfigError(
            "the sandbox's pairs are made by rule: none is contested", where=f"{path}: exclude_ids",
            fix="name pairs of your own (dataset_name), or leave the list out",
        )  # fmt: skip
    if study.replant and (study.replanted_arm is None or study.policy is not None):
        raise ConfigError(
            "the bias is planted again into a full arm that is not a control, on the sandbox; this study has none",
            where=f"{path}: replant", fix="add such an arm, or leave replant out",
        )  # fmt: skip
    outcome = study.outcome
    if benchmark_modules(study)[outcome].CARD.get("outcome_condition", "") is None:
        raise ConfigError(
            f"{outcome} has no margin that a verdict could be about", where=f"{path}: outcome_benchmark",
            fix="name another benchmark first in benchmarks, or as outcome_benchmark",
        )  # fmt: skip
    if (study.judge is None) == ("judged" in study.benchmarks):
        raise ConfigError(
            "a judge and the benchmark that asks it belong together", where=f"{path}: judge, benchmarks",
            fix="give both (judge: sandbox/reward_model_judge.yaml, and judged in benchmarks), or neither",
        )  # fmt: skip
    _refuse_teacher_as_judge(study, path)


def _refuse_teacher_as_judge(study: StudyConfig, path: str) -> None:
    """As far as it can be known before anything runs; the hashes are compared before anything is taught."""
    if study.judge is None or study.reward_model is None:
        return
    if study.judge.is_file():
        same = study.judge.resolve() == study.reward_model.resolve()
        same = same or read_config(study.judge) == read_config(study.reward_model)
        why = "the same config and the same seed make the same reward model"
    else:
        steps = (study.output_dir / "steps").resolve()
        same = study.judge.resolve().parent == steps and study.judge.name.startswith(("reward-model-", "placebo-reward-"))
        why = "that folder is this study's own reward model"
    if same:
        arms = ", ".join(dict.fromkeys(arm.label for arm in study.arms))
        raise ConfigError(
            f"the judge is the teacher: judge {study.judge} and reward model {study.reward_model}, which teaches {arms} "
            f"or ranks their pairs ({why})", where=f"{path}: judge",
            fix="name a config with another seed (sandbox/reward_model_judge.yaml), or another reward model's folder",
        )  # fmt: skip


def cells(study: StudyConfig) -> list[dict[str, Any]]:
    """Every cell of the grid, in the order of the table; each a dict of the cell keys."""
    found = []
    for base in study.bases:
        for compress in ["none", *study.compressions]:
            found.append(cell_keys("untaught", "none", compress, ALIGN_COMPRESS, UNTAUGHT_SEED, base))
        for arm in study.arms:
            for seed in study.seeds:
                order = MERGE_RECOMPRESS if arm.adapt == "qlora" else ALIGN_COMPRESS
                found.append(cell_keys(arm.label, arm.adapt, "none", order, seed, base))
                if arm.adapt == "qlora":
                    found.append(cell_keys(arm.label, arm.adapt, "nf4", COMPRESS_ALIGN, seed, base))
                for compress in study.compressions:
                    found.append(cell_keys(arm.label, arm.adapt, compress, order, seed, base))
        for share in study.replant:
            for seed in study.seeds:
                found.append(cell_keys(f"replant-{share:g}", "full", "none", ALIGN_COMPRESS, seed, base))
    return found


def cell_keys(teach: str, adapt: str, compress: str, order: str, seed: int, base: str) -> dict[str, Any]:
    return {"teach": teach, "adapt": adapt, "compress": compress, "order": order, "seed": seed, "base": base}


def step_counts(study: StudyConfig) -> dict[str, int]:
    """Number of steps of each kind in the whole grid, finished ones included."""
    n_bases, n_seeds = len(study.bases), len(study.seeds)
    grid = cells(study)
    counts = {
        "policy": n_bases if study.policy is None else 0,
        "reward-model": n_bases if study.reward_model else 0,
        "placebo-reward-model": n_bases if study.has_online_placebo else 0,
        "judge": n_bases if study.judge is not None and study.judge.is_file() else 0,
        "pairs": n_bases,
        "prompts": n_bases * (study.teaches_online + study.has_online_placebo),
    }
    for arm in study.arms:
        kind = f"teach-{arm.teach}"
        counts[kind] = counts.get(kind, 0) + n_bases * n_seeds
    return counts | {
        "replant": n_bases * n_seeds * len(study.replant),
        "merge": n_bases * n_seeds * sum(arm.adapt == "qlora" for arm in study.arms),
        "compress": sum(cell["compress"] != "none" and cell["order"] != COMPRESS_ALIGN for cell in grid),
        "evaluate": len(grid) * len(study.evaluations),
    }


def plan(study: StudyConfig) -> dict[str, Any]:
    """Number of steps of each kind and estimated seconds; runs nothing."""
    counts = step_counts(study)
    seconds = {kind: _TYPICAL_SECONDS.get(kind, _TYPICAL_TEACHING) for kind in counts}
    seen: dict[str, list[float]] = {}
    for folder in (study.output_dir / "steps").glob("*/"):
        record = runs.read_record(folder)
        if record and isinstance(record.get("seconds"), int | float) and record.get("step"):
            seen.setdefault(_kind(record), []).append(float(record["seconds"]))
    known = {kind: sum(values) / len(values) for kind, values in seen.items() if kind in counts}
    seconds |= known
    serial = sum(seconds[kind] * counts[kind] for kind in _FOUNDATION)
    parallel = sum(seconds[kind] * number for kind, number in counts.items() if kind not in _FOUNDATION)
    n_bases = len(study.bases)
    workers = min(study.workers, max(len(study.arms) * len(study.seeds) * n_bases, 1))
    return {
        "cells": cells(study),
        "steps": counts,
        "seconds_per_step": {kind: round(value, 1) for kind, value in seconds.items()},
        "estimated_seconds": round(serial / min(study.workers, n_bases) + parallel / workers, 1),
        "estimate_from": "this study's own finished steps" if known else "a two-core machine",
    }


def _kind(record: dict[str, Any]) -> str:
    """A finished step's kind, as :func:`step_counts` calls it: a lesson is told by its method, a re-planting has none."""
    if record["step"] == "teach":
        return f"teach-{record['method']}" if record.get("method") else "replant"
    return str(record["step"])


def plan_lines(study: StudyConfig) -> list[str]:
    """What ``--plan`` prints: cells, steps, time."""
    found = plan(study)
    names = ", ".join(benchmark_modules(study))
    lines = [f"{study.title}", f"bases: {', '.join(study.bases)}; seeds: {study.seeds}; benchmarks: {names}", ""]
    header = ("teach", "adapt", "compress", "order", "seed", "base")
    lines.append("  ".join(f"{name:<12}" if name != "order" else f"{name:<22}" for name in header))
    seconds = found["seconds_per_step"]
    for cell in found["cells"]:
        seed = "-" if cell["seed"] == UNTAUGHT_SEED else cell["seed"]
        values = [cell["teach"], cell["adapt"], cell["compress"], cell["order"], seed, cell["base"]]
        lines.append("  ".join(f"{value!s:<22}" if i == 3 else f"{value!s:<12}" for i, value in enumerate(values)))
    steps = ", ".join(f"{count} {kind}" for kind, count in found["steps"].items() if count)
    minutes = found["estimated_seconds"] / 60
    each = ", ".join(f"{kind} {seconds[kind]:g}" for kind, count in found["steps"].items() if count)
    lines += [
        "", f"{len(found['cells'])} cells; steps: {steps}", f"seconds reckoned per step: {each}",
        f"estimated time: {minutes:.1f} min with {study.workers} workers (from {found['estimate_from']}); "
        "finished steps are not run again; nothing was run now",
    ]  # fmt: skip
    return lines
