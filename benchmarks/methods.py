"""Which method teaches best at equal divergence, and at equal compute? The sandbox, all weights, one thread.

    python benchmarks/methods.py --output_dir runs/bench-methods        # 4 methods × 5 seeds, about 20 minutes

Each method runs as its recipe does, by its shipped sandbox config, and saves its way every few steps. Every saved policy is
judged by the same code: D = the untaught margin less its own (nats, test occupations without evidence: the primary
outcome), accuracy where evidence decides, and KL(policy ‖ untaught) of the answer's first token (nats, exact over
the whole vocabulary, on held-out prompts; answers are one word). D at a stated KL or after stated seconds is read off
each run's own way by linear interpolation; intervals are Student's t over seeds. The way
is the one with the config's own schedule of the learning rate, not an optimum. Seconds are the trainer's, sampling
and scoring included, preparing pairs and the reward model not.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from seeds import interval

ROOT = Path(__file__).resolve().parent.parent
METHODS = ("dpo", "ppo", "grpo", "rloo")
COLOURS = {"dpo": "#0072B2", "ppo": "#D55E00", "grpo": "#009E73", "rloo": "#CC79A7"}


def teach(method: str, seed: int, every: int, out: Path, more: list[str]) -> None:
    """The method's recipe with its sandbox config, its way saved every ``every`` steps."""
    command = [
        sys.executable, str(ROOT / "recipes" / f"{method}_fair.py"), "--config",
        str(ROOT / "recipes" / "configs" / "sandbox" / f"{method}_full.yaml"), "--seed", str(seed), "--output_dir", str(out),
        "--save_strategy", "steps", "--save_steps", str(every), "--save_total_limit", "1000", *more,
    ]  # fmt: skip
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"})


class Judge:
    """The untaught policy's numbers, and everyone else's against them."""

    def __init__(self, untaught: Path, world: Any, n_prompts: int = 200) -> None:
        from teachfair.data.sandbox.gold import prompt_rows
        from teachfair.evaluation.benchmarks import sandbox
        from teachfair.models.chat import render
        from teachfair.models.checkpoint import load_tokenizer

        self.sandbox = sandbox
        self.items = sandbox.items(None, world=world.config, conditions=["ambiguous", "disambiguated"])
        self.items = [item for item in self.items if item["axis"] == world.config.taught_axis]
        tokenizer = load_tokenizer(untaught)
        rows = prompt_rows(world, n_prompts, split="test", seed=5)
        self.texts = [render(tokenizer, row["prompt"], generation_prompt=True) for row in rows]
        self.margin, self.accuracy, self.first = self._look(untaught)

    def __call__(self, checkpoint: Path) -> dict[str, float]:
        margin, accuracy, first = self._look(checkpoint)
        kl = float((np.exp(first) * (first - self.first)).sum(axis=1).mean())
        return {"D": self.margin - margin, "margin": margin, "accuracy": accuracy, "kl": kl}

    def _look(self, checkpoint: Path) -> tuple[float, float, np.ndarray]:
        """Mean margin, accuracy, and log-probabilities (n, V) of the answers' first token."""
        import torch

        from teachfair.models.checkpoint import load_policy
        from teachfair.models.scorer import PolicyScorer

        model, tokenizer = load_policy(checkpoint)
        records = self.sandbox.score(PolicyScorer(model, tokenizer), self.items)
        margins = [row["margin_nats"] for row in records if row["condition"] == "ambiguous"]
        right = [row["correct"] for row in records if row["condition"] == "disambiguated"]
        tokenizer.padding_side = "left"
        batch = tokenizer(self.texts, return_tensors="pt", padding=True, add_special_tokens=False)
        with torch.inference_mode():
            logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, -1]
        return float(np.mean(margins)), float(np.mean(right)), torch.log_softmax(logits.double(), dim=-1).numpy()


def way(folder: Path, judge: Judge) -> list[dict[str, float]]:
    """One row for each saved step, the untaught policy first: step, seconds, D, KL, accuracy."""
    record = json.loads((folder / "run.json").read_text())
    seconds = next(row["train_runtime"] for row in reversed(record["log"]) if "train_runtime" in row)
    rows = [{"step": 0, "seconds": 0.0, "D": 0.0, "margin": judge.margin, "accuracy": judge.accuracy, "kl": 0.0}]
    saved = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    for checkpoint in saved:
        step = int(checkpoint.name.split("-")[1])
        # The trainer's clock covers the whole run; its steps cost alike.
        rows.append({"step": step, "seconds": seconds * step / record["steps"], **judge(checkpoint)})
    return rows


def at(rows: list[dict[str, float]], along: str, value: float, what: str) -> float:
    """``what`` where the way first reaches ``value`` of ``along``; NaN if it never does."""
    for before, after in itertools.pairwise(rows):
        if before[along] <= value <= after[along] and after[along] > before[along]:
            share = (value - before[along]) / (after[along] - before[along])
            return before[what] + share * (after[what] - before[what])
    return float("nan")


def draw(ways: dict[str, list[list[dict[str, float]]]], path: Path) -> None:
    """D over KL and over seconds, one thin line a seed."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(8.4, 3.4), sharey=True, constrained_layout=True)
    names = {"kl": "KL to the untaught policy, nats", "seconds": "seconds of training (one thread)"}
    for panel, along in zip(panels, names, strict=True):
        for method, runs in ways.items():
            for place, rows in enumerate(runs):
                panel.plot(
                    [row[along] for row in rows], [row["D"] for row in rows], color=COLOURS[method], lw=1.2, alpha=0.8,
                    marker=".", ms=4, label=method if place == 0 else None,
                )  # fmt: skip
        panel.set_xlabel(names[along])
        panel.grid(color="#d9d9d9", lw=0.6)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("D: bias taken away, nats")
    panels[0].legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, default=Path("runs/bench-methods"))
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=METHODS)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--points", type=int, default=10, help="how many policies are saved along each way")
    parser.add_argument("--kl", nargs="*", type=float, default=[0.05, 0.1, 0.2, 0.3])
    parser.add_argument("--seconds", nargs="*", type=float, default=[2.5, 5, 10, 20])
    parser.add_argument("--figure", type=Path, help="an .svg of all ways")
    options = parser.parse_args()

    from teachfair.alignment import lesson
    from teachfair.doors import read_config, shipped_config

    config = lesson.sandbox(seed=0, bias=2.0)
    judge = Judge(lesson.sandbox_policy(config), lesson.world(config))
    lesson.sandbox_reward_model(config)
    print(f"untaught: margin {judge.margin:.2f} nats, accuracy {judge.accuracy:.3f}", flush=True)
    ways: dict[str, list[list[dict[str, float]]]] = {method: [] for method in options.methods}
    begun = time.monotonic()
    for seed in range(options.seeds):
        for method in options.methods:
            steps = int(read_config(shipped_config(f"sandbox/{method}_full.yaml"))["max_steps"])
            every = max(1, steps // options.points)
            out = options.output_dir / f"{method}-{seed}"
            teach(method, seed, every, out, [])
            rows = way(out, judge)
            ways[method].append(rows)
            end = ", ".join(f"{key} {rows[-1][key]:.2f}" for key in ("D", "kl", "accuracy", "seconds"))
            print(f"[{time.monotonic() - begun:.0f} s] {method} {seed}: {end}", flush=True)
    options.output_dir.mkdir(parents=True, exist_ok=True)
    (options.output_dir / "ways.json").write_text(json.dumps(ways))
    header = [*(f"D at KL {value:g}" for value in options.kl), *(f"D after {value:g} s" for value in options.seconds)]
    print("| method | " + " | ".join([*header, "D at the end", "KL at the end", "accuracy at the end", "s"]) + " |")
    print("|" + "---|" * (len(header) + 5))
    for method, runs in ways.items():
        cells = [interval([at(rows, "kl", value, "D") for rows in runs]) for value in options.kl]
        cells += [interval([at(rows, "seconds", value, "D") for rows in runs]) for value in options.seconds]
        cells += [interval([rows[-1][key] for rows in runs]) for key in ("D", "kl", "accuracy", "seconds")]
        print(f"| {method} | " + " | ".join(cells) + " |")
    if options.figure:
        draw(ways, options.figure)


if __name__ == "__main__":
    main()
