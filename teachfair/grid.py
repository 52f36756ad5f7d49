"""A study's configuration, its cells and its plan: what would run, in which order, at what cost. Runs nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from teachfair import runs
from teachfair.alignment import CONTROLS, METHODS
from teachfair.compression import COMPRESSIONS
from teachfair.doors import read_config
from teachfair.errors import ConfigError
from teachfair.evaluation.benchmarks import BENCHMARKS

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


def cells(study: StudyConfig) -> list[dict[str, Any]]:
    """Every cell of the grid, in the order of the table; each a dict of the cell keys."""
    found = []
    for base in study.bases:
        for compress in ["none", *study.compressions]:
            found.append(cell_keys("untaught", "none", compress, ALIGN_COMPRESS, UNTAUGHT_SEED, base))
        for arm in study.arms:
            for seed in study.seeds:
                order = MERGE_RECOMPRESS if arm.adapt == "qlora" else ALIGN_COMPRESS
                found.append(cell_keys(arm.teach, arm.adapt, "none", order, seed, base))
                if arm.adapt == "qlora":
                    found.append(cell_keys(arm.teach, arm.adapt, "nf4", COMPRESS_ALIGN, seed, base))
                for compress in study.compressions:
                    found.append(cell_keys(arm.teach, arm.adapt, compress, order, seed, base))
        for share in study.replant:
            for seed in study.seeds:
                found.append(cell_keys(f"replant-{share:g}", "full", "none", ALIGN_COMPRESS, seed, base))
    return found


def cell_keys(teach: str, adapt: str, compress: str, order: str, seed: int, base: str) -> dict[str, Any]:
    return {"teach": teach, "adapt": adapt, "compress": compress, "order": order, "seed": seed, "base": base}


def plan(study: StudyConfig) -> dict[str, Any]:
    """Number of steps of each kind and estimated seconds; runs nothing."""
    n_bases, n_arms = len(study.bases), len(study.arms) * len(study.seeds)
    grid = cells(study)
    counts = {
        "policy": n_bases if study.policy is None else 0,
        "reward-model": n_bases if study.reward_model else 0,
        "pairs": n_bases,
        "teach": n_bases * (n_arms + len(study.replant) * len(study.seeds)),
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
