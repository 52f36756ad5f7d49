"""Turn the strength of a taught lesson: measure the front, pick the strength that meets a target, verify it, save it.

    python recipes/dial.py --model_name_or_path runs/dpo_fair --target margin=0 --output_dir runs/dial
    python recipes/dial.py --model_name_or_path P --benchmark crows_pairs --data_dir D --output_dir O

Strength 0 is the untaught policy, 1 the taught one; more extrapolates the lesson, less than 0 reverses it (a probe: such a
policy is more biased). Works for full fine-tunes, adapters, and adapters on a 4-bit base. With a reward model, deciding at
inference stands beside it: the untaught policy guided by the reward, and its best of n answers. Out come front.csv,
front.json, front.svg and policy/, a plain checkpoint at the picked strength. A killed run goes on where it stopped.
Without arguments: a sandbox policy is taught through LoRA (seconds) into <output_dir>-taught, and dialled.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from teachfair.doors import Door, argument, comma_list, shipped_config

if TYPE_CHECKING:
    from teachfair.dial import Front


@dataclass
class DialArguments:
    """Whose strength, over which values, to what end."""

    model_name_or_path: str | None = argument(
        "the taught policy: a folder of a full checkpoint or an adapter. Default: one taught on the sandbox now"
    )
    base_model_name_or_path: str | None = argument(
        "the untaught policy, where the taught folder's run.json does not name it (an adapter names its base itself)"
    )
    alphas: list[str] = argument(
        "strengths to measure, from -1 to 2, separated by spaces (or by commas after an equals sign: --alphas=-1,0,2); 0 "
        "and 1 are always among them",
        ["-1", "-0.5", "0", "0.25", "0.5", "0.75", "1", "1.25", "1.5", "1.75", "2"],
    )
    target: str = argument(
        "what the strength is to meet, in nats: margin=0 (the stereotyped answer as likely as the fair one), or parity=0",
        "margin=0",
    )
    within: float = argument(
        "held-out items verify the picked strength if their interval lies within this many nats of the target; 0.25: the "
        "two answers' odds are within a factor of 1.28",
        0.25,
    )
    tolerance: float = argument("how far a guard-rail's share may fall below the untaught policy's; 0.02 = 2 points", 0.02)
    benchmark: str = argument("what it is measured on: sandbox, crows_pairs", "sandbox")
    split: str = argument(
        "own = pick on the benchmark's development split, verify on its test split (the sandbox's ask in other words); "
        "halves = two halves of its items by whole clusters, also where it has no development split",
        "own",
        choices=["own", "halves"],
    )
    data_dir: str | None = argument("folder with the authors' benchmark files")
    reward_model_name_or_path: str | None = argument(
        "a fairness reward model for deciding at inference. Default: the sandbox's for a run without a policy of your own, "
        "else none; 'none' switches it off"
    )
    best_of: list[str] = argument(
        "numbers of answers to choose the best from, by the reward model", ["1", "2", "4", "8", "16"]
    )
    guidance_betas: list[str] = argument(
        "betas of reward guidance, policy * exp(reward/beta): a larger beta stays closer to the policy",
        ["32", "16", "8", "4", "2", "1"],
    )
    inference_alpha: float = argument("strength of the policy that is guided and sampled at inference; 0 = untaught", 0.0)
    max_new_tokens: int = argument("longest sampled answer, in tokens", 16)
    output_dir: str = argument("folder to make. The same command again goes on with it", "runs/dial")
    merge: bool = argument("save the picked adapter merged into a full checkpoint", False)
    save_anyway: bool = argument("save the nearest strength although it does not meet the target, or is not verified", False)
    seed: int = argument("seed of sampling, and of halving a benchmark that has no development split", 0)
    limit: int | None = argument("only so many items of each split (a trial run; the record says so)")
    world_seed: int = argument("sandbox: seed of the world", 0)
    bias: float = argument("sandbox: planted association, log-odds", 2.0)


def run(own: DialArguments) -> None:
    """Resolve policy and reward model; measure, pick, verify, save; print the front."""
    from teachfair.alignment import lesson
    from teachfair.data.sandbox.world import SandboxConfig
    from teachfair.dial import Target, run_dial

    Target.parse(own.target)  # a typing mistake is told before anything is taught
    judge, taught = own.reward_model_name_or_path, own.model_name_or_path
    alphas, betas, ns = _numbers(own.alphas, "alphas"), _numbers(own.guidance_betas, "guidance_betas"), own.best_of
    if taught is None:
        taught = f"{own.output_dir}-taught"
        _teach_sandbox(own, taught)
        if judge is None:
            judge = str(lesson.sandbox_reward_model(lesson.sandbox(seed=own.world_seed, bias=own.bias)))
    options = {"world": SandboxConfig(seed=own.world_seed, bias=own.bias)} if own.benchmark == "sandbox" else None
    with _Showing() as showing:
        out, front = run_dial(
            taught, own.output_dir, base=own.base_model_name_or_path, alphas=alphas, target=own.target, within=own.within,
            benchmark=own.benchmark, data_dir=own.data_dir, options=options, split=own.split,
            reward_model=None if judge is None or judge.lower() == "none" else judge,
            best_of_ns=[int(n) for n in _numbers(ns, "best_of")], betas=betas, inference_alpha=own.inference_alpha,
            max_new_tokens=own.max_new_tokens, tolerance=own.tolerance, merged=own.merge, save_anyway=own.save_anyway,
            seed=own.seed, limit=own.limit, progress=showing,
        )  # fmt: skip
    _print(front, out)


def _numbers(values: list[str], name: str) -> list[float]:
    from teachfair.errors import ConfigError

    found = []
    for text in comma_list(values):
        try:
            found.append(float(text))
        except ValueError as error:
            raise ConfigError(f"{text!r} is not a number", where=f"--{name}", fix="numbers, separated by commas") from error
    return found


def _teach_sandbox(own: DialArguments, out: str) -> None:
    """The teaching door with its shipped LoRA config; a complete folder is left as it is."""
    from teachfair.recipes.dpo_fair import door as teach

    teach.run(*teach.parse([
        "--config", str(shipped_config("sandbox/dpo_lora.yaml")), "--output_dir", out, "--seed", str(own.seed),
        "--world_seed", str(own.world_seed), "--bias", str(own.bias), "--disable_tqdm", "true",
    ]))  # fmt: skip


class _Showing:
    """What is being done: a live line with a spinner, or plain lines where there is no terminal."""

    def __init__(self) -> None:
        import transformers
        from rich.console import Console

        transformers.utils.logging.disable_progress_bar()
        self.console = Console()
        self.status = self.console.status("load the policy") if self.console.is_terminal else None
        self.done = 0

    def __enter__(self) -> _Showing:
        if self.status is not None:
            self.status.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        if self.status is not None:
            self.status.__exit__(None, None, None)

    def __call__(self, what: str) -> None:
        self.done += 1
        if self.status is not None:
            self.status.update(f"{self.done}: {what}")
        else:
            print(f"{self.done}: {what}", flush=True)


def _print(front: Front, out: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if Console().is_terminal else 140)
    table = Table(
        title=f"held-out items: bias x accuracy x utility over the strength ({front.target.text})", title_justify="left"
    )
    headings = [
        "",
        "margin, nats [95 %]",
        "dev margin",
        "guard-rails",
        "stereotyped",
        "unknown",
        "uses evidence",
        "KL, nats",
    ]
    for heading in headings:
        table.add_column(heading, justify="left" if heading in ("", "guard-rails") else "right")
    dev = {row.setting: row for row in front.rows if row.split == "dev"}
    picked = front.pick.alpha if front.pick is not None else None
    for row in front.of("held-out"):
        mark = " *" if row.setting == picked else ""
        table.add_row(
            f"α = {row.setting:g}{mark}", _interval(row.margin), f"{dev[row.setting].margin.value:+.2f}", _rails(row),
            *_answers(row), f"{row.kl_outcome_nats:.3f}",
        )  # fmt: skip
    if front.guided:
        table.add_section()
    for row in front.guided:
        table.add_row(
            f"guided, β = {row.setting:g}", _interval(row.margin), "", _rails(row),
            *_answers(row), f"{row.kl_outcome_nats:.3f}",
        )  # fmt: skip
    if front.best_of:
        table.add_section()
    for best in front.best_of:
        table.add_row(
            f"best of {best.n} (sampled)", "", "", f"reward {best.reward.value:+.2f}",
            *_answers(best),
            f"<= {best.kl_bound_nats:.3f}",
        )  # fmt: skip
    console.print(table)
    for note in front.notes:
        console.print(note, markup=False)
    if front.pick is not None:
        state = "met" if front.pick.met else "NOT met"
        console.print(
            f"target {front.target.text} {state} on dev items at α = {front.pick.alpha:g}: {front.pick.why}", markup=False
        )
        console.print(f"held-out items: {front.pick.verdict} ({front.pick.verdict_why})", markup=False)
    policy = out / "policy"
    console.print(
        f"policy: {policy}" if policy.is_dir() else "no policy was saved (--save_anyway saves the nearest)", markup=False
    )
    print(f"dial: {out}")


def _answers(row: Any) -> list[str]:
    values = [row.shares[role].value for role in ("stereotype", "unknown", "evidence")]
    return ["–" if math.isnan(value) else f"{value:.3f}" for value in values]


def _interval(value: Any) -> str:
    return f"{value.value:+.2f} [{value.low:+.2f}, {value.high:+.2f}]"


def _rails(row: Any) -> str:
    from teachfair.evaluation.statistics.guards import UNCLEAR, UNDEFINED

    if all(rail.status == UNDEFINED for rail in row.rails):
        return "none measured"
    unclear = [rail.name for rail in row.rails if rail.status == UNCLEAR]
    if row.violated:
        return "violated: " + ", ".join(row.violated)
    return "unclear: " + ", ".join(unclear) if unclear else "ok"


door = Door("dial", __doc__, DialArguments, run)

if __name__ == "__main__":
    raise SystemExit(door())
