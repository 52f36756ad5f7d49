"""Does taught fairness survive compression? The grid of teaching × compression, its verdicts and its report.

    python recipes/survival.py --config recipes/configs/demo.yaml
    python recipes/survival.py --config recipes/configs/demo.yaml --plan

Without arguments: the demo. Finished steps are never computed again: a killed study goes on where it stopped. Its
``benchmarks`` are names and YAML files of template benchmarks (docs/template-benchmarks.md), by paths relative to its own
file. The last line printed is the path of report.html.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from teachfair.doors import Door, argument, shipped_config


@dataclass
class SurvivalArguments:
    """Which study, and what to do with it."""

    study: str | None = argument("the study's YAML (the same as --config). Default: the shipped demo.yaml")
    output_dir: str | None = argument("where steps and report go, instead of the YAML's output_dir")
    workers: int | None = argument("worker processes, instead of the YAML's")
    plan: bool = argument("print the cells and the estimated time; run nothing", False)


def run(own: SurvivalArguments) -> None:
    """Read the study; plan or run it."""
    from teachfair import grid, study

    path = Path(own.study) if own.study else shipped_config("demo.yaml")
    config = grid.read_study(path)
    if own.output_dir:
        config.output_dir = Path(own.output_dir)
    if own.workers:
        config.workers = own.workers
    if own.plan:
        print("\n".join(grid.plan_lines(config)))
        return
    print(study.run_study(config, source=own.study or "recipes/configs/demo.yaml"))


class SurvivalDoor(Door):
    """Its ``--config`` is the study itself, not a file of arguments."""

    def parse(self, argv: list[str]) -> tuple[SurvivalArguments, ...]:
        return super().parse(
            [word.replace("--config", "--study", 1) if word.startswith("--config") else word for word in argv]
        )


door = SurvivalDoor("survival", __doc__, SurvivalArguments, run)

if __name__ == "__main__":
    raise SystemExit(door())
