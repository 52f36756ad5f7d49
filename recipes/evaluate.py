"""Measure a policy: bias with its guard-rails, item by item.

    python recipes/evaluate.py --model_name_or_path runs/dpo_fair --output_dir runs/dpo_fair-judged
    python recipes/evaluate.py --model_name_or_path P --benchmarks sandbox,crows_pairs --data_dir D --output_dir O
    python recipes/evaluate.py --model_name_or_path P --benchmarks judged --judge runs/another_reward_model

The policy may be any checkpoint folder: full, quantised, an adapter, an adapter on a 4-bit base. Writes
records.parquet (one row per item), summary.json and run.json. --data_dir holds the authors' files, in folders named
after the benchmark. A judge is a reward model that did not teach the policy; the teacher itself is refused.
Without arguments: the sandbox policy on the sandbox's items.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from teachfair.doors import Door, argument, comma_list


@dataclass
class EvaluateArguments:
    """What to measure, on what, and where the records go."""

    model_name_or_path: str | None = argument("checkpoint folder or hub id. Default: the sandbox policy")
    benchmarks: list[str] = argument("benchmarks, separated by commas: sandbox, crows_pairs, judged", ["sandbox"])
    judge: str | None = argument(
        "benchmark judged: the reward-model folder that scores the policy's answers; refused where the policy's records "
        "say that it taught the policy"
    )
    data_dir: str | None = argument(
        "folder with the benchmarks' files (crows_pairs/crows_pairs_anonymized.csv, judged/prompts.jsonl)"
    )
    output_dir: str | None = argument("folder to make. Default: runs/<name of the checkpoint>-evaluation")
    limit: int | None = argument("only the first N items of each benchmark (a trial run; the record says so)")
    world_seed: int = argument("sandbox: seed of the world whose items are asked", 0)
    bias: float = argument("sandbox: planted association of the world, log-odds", 2.0)


def run(own: EvaluateArguments) -> None:
    """Resolve the checkpoint; evaluate; print the summary."""
    from teachfair.alignment import lesson
    from teachfair.data.sandbox.world import SandboxConfig
    from teachfair.evaluation.evaluate import evaluate
    from teachfair.evaluation.summary import summary_lines

    if own.model_name_or_path is None:
        policy: str | Path = lesson.sandbox_policy(lesson.sandbox(seed=own.world_seed, bias=own.bias))
        name = "sandbox"
    else:
        policy, name = own.model_name_or_path, Path(own.model_name_or_path).name
    world = SandboxConfig(seed=own.world_seed, bias=own.bias)
    out = evaluate(
        policy, comma_list(own.benchmarks), Path(own.data_dir) if own.data_dir else None,
        Path(own.output_dir or f"runs/{name}-evaluation"), limit=own.limit,
        options={"sandbox": {"world": world}, "judged": {"world": world, "judge": own.judge}},
    )  # fmt: skip
    print("\n".join(summary_lines(out)))
    print(f"evaluation: {out}")


door = Door("evaluate", __doc__, EvaluateArguments, run)

if __name__ == "__main__":
    raise SystemExit(door())
