"""Train a fairness reward model on fair/unfair pairs, with TRL's RewardTrainer; full or LoRA, causal LM, encoder or
sentence-transformers model; one, or an ensemble.

Without arguments it trains the sandbox's reward model:

    accelerate launch recipes/reward_model.py

On pairs of your own:

    accelerate launch recipes/reward_model.py --config recipes/configs/reward_model.yaml \\
        --model_name_or_path path/or/hub-id --dataset_name pairs.jsonl --output_dir runs/reward_model

Five of them, whose disagreement says where the reward is uncertain: `--num_members 5`. Pairs with a `margin` (in reward
units) are pushed further apart: `--margin_scale`.

The folder loads in a stock `pipeline("text-classification")` and gives the training-time score. Beside its accuracy
the record holds the shortcut baselines (length, first token, bag of words …) on the same held-out pairs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from teachfair import leak_check, runs
from teachfair.alignment import lesson
from teachfair.doors import Door
from teachfair.reward_models.arguments import COMMON, RewardArguments


def run(own: RewardArguments, args: Any, model_args: Any) -> None:
    """Resolve backbone and pairs; train."""
    from teachfair.data.mixing import check_mix
    from teachfair.reward_models.sentence_encoders import sentence_encoder

    evaluation = leak_check.asked_for(own)
    backbone, sandbox = model_args.model_name_or_path, None
    if backbone is None or sentence_encoder(backbone) is None:
        backbone, sandbox = lesson.resolve_policy(backbone, world_seed=own.world_seed, bias=own.bias)
    train, test = lesson.reward_pairs(own, sandbox=sandbox, seed=args.seed)
    facts: dict[str, Any] = {"dataset": own.dataset_name or "sandbox", "mix": check_mix(train, force=own.force_mix)}
    if evaluation:
        facts["wall"] = lesson.held_apart(train, evaluation, allow=own.allow_leaks)
    if args.output_dir in (None, "trainer_output"):
        args.output_dir = "runs/reward_model"
    asked = lesson.RewardLesson(own, args, model_args, train, test, facts)
    out = lesson.fit_reward_model(backbone, asked, args.output_dir)
    print("\n".join(accuracy_lines(out)))
    print(f"reward model: {out}")


def accuracy_lines(folder: Path) -> list[str]:
    """Held-out accuracy of each kind of pair, beside the best shortcut that understands nothing."""
    record = runs.read_record(folder) or {}
    lines = []
    for row in record.get("accuracy") or []:
        interval = f"[{row['low']:.3f}, {row['high']:.3f}]"
        lines.append(f"  {row['kind']:<28} accuracy {row['accuracy']:.3f} {interval}  n {row['n']}")
    for row in record.get("shortcuts") or []:
        if row.get("kind", "all") == "all" and row.get("accuracy") is not None:
            lines.append(f"  shortcut: {row['ruler']:<18} accuracy {row['accuracy']:.3f}")
    sure = record.get("uncertainty")
    if sure and sure["auroc_disagreement"] is not None:
        lines.append(
            f"  members' disagreement as a sign of an error: AUROC {sure['auroc_disagreement']:.3f} (0.5 = says nothing)"
        )
    return lines


door = Door(
    "reward-model", __doc__, RewardArguments, run, trl=lesson.reward_types, common=COMMON,
    sandbox_config="sandbox/reward_model.yaml",
)  # fmt: skip

if __name__ == "__main__":
    raise SystemExit(door())
