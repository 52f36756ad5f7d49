"""Our PPO against the one TRL removed: reward gained, KL, time and memory, on the sandbox.

    python -m venv old && old/bin/pip install torch 'trl==1.12.0' 'transformers>=5,<6'
    python benchmarks/ppo.py --old_python old/bin/python --output_dir runs/bench-ppo

Both train the sandbox policy by the sandbox's reward model, with the same prompts, rollout size, epochs, learning rate,
schedule, KL coefficient and number of optimiser steps; everything else is each one's default. Both are judged by one and
the same code here: answers sampled to held-out prompts, their reward, and KL(taught, untaught) on them by exact
log-probabilities. A policy may gain more by leaving the reference further behind, so the table has a third column, the
untaught reward + gain − kl_coef · KL that both maximise, and ``--kl_coefs`` runs several prices: two curves of gain over KL,
and at each of the other's points the gain of ours at the same KL (interpolated). Runs alternate, each in a process of
its own. Time counts training alone. Memory is the process's peak, beside it what is above the imports: the two
environments do not hold the same packages.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from seeds import interval

SETTINGS = {"rollout": 32, "epochs": 4, "updates": 40, "rate": 3e-4, "kl_coef": 0.05, "length": 16}


def train_old(job: dict[str, Any]) -> None:
    """Runs in TRL 1.12's environment; imports nothing of ours."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    imported = _peak_gib()
    tokenizer = AutoTokenizer.from_pretrained(job["policy"], padding_side="left")
    data = Dataset.from_list([{"input_ids": ids} for ids in job["prompt_ids"]])
    args = PPOConfig(
        output_dir=job["out"], per_device_train_batch_size=job["rollout"], gradient_accumulation_steps=1, num_mini_batches=1,
        num_ppo_epochs=job["epochs"], total_episodes=job["rollout"] * job["updates"], learning_rate=job["rate"],
        kl_coef=job["kl_coef"], response_length=job["length"], stop_token="eos", num_sample_generations=0, seed=job["seed"],
        report_to="none", bf16=False, save_strategy="no", temperature=1.0, lr_scheduler_type="linear",
        local_rollout_forward_batch_size=job["rollout"], gradient_checkpointing=False, disable_tqdm=True,
    )  # fmt: skip
    policy, reference = (AutoModelForCausalLM.from_pretrained(job["policy"], dtype="float32") for _ in range(2))
    judge, value = (
        AutoModelForSequenceClassification.from_pretrained(job["reward_model"], num_labels=1, dtype="float32")
        for _ in range(2)
    )
    trainer = PPOTrainer(
        args=args, processing_class=tokenizer, model=policy, ref_model=reference, reward_model=judge, value_model=value,
        train_dataset=data, eval_dataset=data.select(range(job["rollout"])),
    )  # fmt: skip
    begun = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - begun
    trainer.save_model(job["out"])
    tokenizer.save_pretrained(job["out"])
    _report(seconds, imported, job)


def train_ours(job: dict[str, Any]) -> None:
    """Runs in a process of its own, so that its peak memory is its own."""
    from datasets import Dataset

    from teachfair.alignment import online
    from teachfair.alignment.ppo_trainer import PPOConfig, PPOTrainer
    from teachfair.reward_models.scoring import RewardModel

    imported = _peak_gib()
    args = PPOConfig(
        output_dir=job["out"], per_device_train_batch_size=job["rollout"], num_ppo_epochs=job["epochs"],
        max_steps=job["epochs"] * job["updates"], learning_rate=job["rate"], kl_coef=job["kl_coef"],
        max_completion_length=job["length"], seed=job["seed"], report_to="none", bf16=False, save_strategy="no",
        activation_checkpointing=False, disable_tqdm=True, lr_scheduler_type="linear",
        model_init_kwargs={"dtype": "float32"},
    )  # fmt: skip
    judge = RewardModel.load(job["reward_model"])
    trainer = PPOTrainer(
        model=job["policy"], reward_funcs=[judge.model], reward_processing_classes=[judge.tokenizer], args=args,
        train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in job["prompts"]]),
        processing_class=online.online_tokenizer(job["policy"]),
    )  # fmt: skip
    begun = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - begun
    trainer.save_model(job["out"])
    _report(seconds, imported, job)


def _peak_gib() -> float:
    # Not getrusage: its maximum outlives an exec, so a child would start with what its parent held (Linux).
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 2**20  # KiB


def _report(seconds: float, imported: float, job: dict[str, Any]) -> None:
    peak = _peak_gib()
    found = {
        "seconds_per_step": seconds / (job["epochs"] * job["updates"]), "peak_gib": peak, "training_gib": peak - imported,
    }  # fmt: skip
    Path(job["out"], "bench.json").write_text(json.dumps(found))


def judged(policy: Path, untaught: Path, reward_model: Path, prompts: list[Any], length: int) -> dict[str, float]:
    """Mean reward of sampled answers, and KL(policy, untaught) a completion in nats, both on held-out prompts."""
    from teachfair.alignment.sampling import sample_answers
    from teachfair.models.checkpoint import load_policy
    from teachfair.models.likelihood import option_logprobs
    from teachfair.reward_models.scoring import RewardModel

    model, tokenizer = load_policy(policy)
    answers = sample_answers(model, tokenizer, prompts, n=16, seed=7, max_new_tokens=length)
    talks = [[*prompt, {"role": "assistant", "content": a}] for prompt, several in zip(prompts, answers, strict=True)
             for a in several]  # fmt: skip
    rewards = RewardModel.load(reward_model).score(talks)
    # An empty answer has no tokens to score; the end-of-text token after an answer is left out of the KL.
    said = [(prompt, a) for prompt, several in zip(prompts, answers, strict=True) for a in several if a.strip()]
    nats = [
        row[0].logp_whole
        for which in (model, load_policy(untaught)[0])
        for row in option_logprobs(which, tokenizer, [prompt for prompt, _ in said], [[a] for _, a in said])
    ]
    half = len(nats) // 2
    return {"reward": float(rewards.mean()), "kl": (sum(nats[:half]) - sum(nats[half:])) / half}


def on_curve(curve: list[tuple[float, float]], kl: float) -> float | None:
    """Gain at ``kl`` on a curve of (KL, gain), straight between its points from (0, 0) on; None beyond its last point."""
    points = [(0.0, 0.0), *sorted(curve)]
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if x0 <= kl <= x1:
            return y0 + (y1 - y0) * (kl - x0) / (x1 - x0) if x1 > x0 else max(y0, y1)
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--old_python", help="python of an environment with trl 1.12; without it only ours runs")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/bench-ppo"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first_seed", type=int, default=0)
    parser.add_argument("--updates", type=int, default=SETTINGS["updates"])
    parser.add_argument("--rate", type=float, default=SETTINGS["rate"])
    parser.add_argument("--kl_coefs", type=float, nargs="+", default=[SETTINGS["kl_coef"]])
    parser.add_argument("--policy", type=Path, help="default: the sandbox's")
    parser.add_argument("--reward_model", type=Path, help="default: the sandbox's")
    parser.add_argument("--job", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--worker", choices=["ours", "old"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        {"ours": train_ours, "old": train_old}[options.worker](json.loads(options.job.read_text()))
        return

    from transformers.utils import logging as transformers_logging

    from teachfair.alignment import lesson
    from teachfair.models.chat import render, tokenize
    from teachfair.models.checkpoint import load_tokenizer

    transformers_logging.disable_progress_bar()
    config = lesson.sandbox(seed=0, bias=2.0)
    policy = options.policy or lesson.sandbox_policy(config)
    reward_model = options.reward_model or lesson.sandbox_reward_model(config)
    tokenizer = load_tokenizer(policy)
    world = lesson.world(config)
    prompts = [row["prompt"] for row in world.pairs(480, split="train", seed=0)]
    held_out = [row["prompt"] for row in world.pairs(100, split="test", seed=1)]
    ids = [tokenize(tokenizer, render(tokenizer, prompt, generation_prompt=True)) for prompt in prompts]
    length = int(SETTINGS["length"])
    start = judged(policy, policy, reward_model, held_out, length)["reward"]
    print(f"untaught: reward {start:.3f}", flush=True)
    pythons = {"ours": sys.executable} | ({"old": options.old_python} if options.old_python else {})
    found: dict[tuple[str, float], list[dict[str, float]]] = {}
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    for price, seed, (name, python) in itertools.product(options.kl_coefs, seeds, pythons.items()):
        out = options.output_dir / f"{name}-{price:g}-{seed}"
        out.mkdir(parents=True, exist_ok=True)
        job = SETTINGS | {
            "updates": options.updates, "rate": options.rate, "kl_coef": price, "policy": str(policy), "out": str(out),
            "reward_model": str(reward_model), "prompts": prompts, "prompt_ids": ids, "seed": seed,
        }  # fmt: skip
        (out / "job.json").write_text(json.dumps(job))
        with (out / "log.txt").open("w") as log:
            command = [python, __file__, "--worker", name, "--job", str(out / "job.json")]
            subprocess.run(command, check=True, stdout=log, stderr=subprocess.STDOUT)
        row = json.loads((out / "bench.json").read_text()) | judged(out, policy, reward_model, held_out, length)
        row |= {"gain": row["reward"] - start, "objective": row["reward"] - price * row["kl"]}
        found.setdefault((name, price), []).append(row)
        print(name, price, seed, {key: round(value, 4) for key, value in row.items()}, flush=True)
    keys = ("gain", "kl", "objective", "seconds_per_step", "peak_gib", "training_gib")
    names = ("PPO", "kl_coef", "reward gained", "KL, nats an answer", "objective", "s an optimiser step", "peak GiB",
             "above imports")  # fmt: skip
    print(f"\n| {' | '.join(names)} |\n|{'---|' * len(names)}")
    for (name, price), rows in found.items():
        print(f"| {name} | {price:g} | " + " | ".join(interval([row[key] for row in rows], digits=3) for key in keys) + " |")
    if "old" not in pythons:
        return
    print("\nours − old, by seed: mean [95 %]")
    for price in options.kl_coefs:
        pairs = list(zip(found["ours", price], found["old", price], strict=True))
        gaps = {key: interval([a[key] - b[key] for a, b in pairs], digits=3) for key in ("gain", "kl", "objective")}
        speed = interval([a["seconds_per_step"] / b["seconds_per_step"] for a, b in pairs], digits=3)
        print(f"kl_coef {price:g}: {', '.join(f'{key} {text}' for key, text in gaps.items())}; time ratio {speed}")
    if len(options.kl_coefs) > 1:
        mean = {k: (statistics.fmean(r["kl"] for r in v), statistics.fmean(r["gain"] for r in v)) for k, v in found.items()}
        curve = [mean["ours", price] for price in options.kl_coefs]
        for price in options.kl_coefs:
            kl, gain = mean["old", price]
            mine = on_curve(curve, kl)
            text = "beyond our curve" if mine is None else f"ours {mine:.3f}"
            print(f"at KL {kl:.3f} (old, kl_coef {price:g}): old {gain:.3f}, {text}")


if __name__ == "__main__":
    main()
