"""Teach a policy what is fair, by DPO, with a fairness reward model ranking the candidate answers.

Without arguments it runs on the embedded sandbox (made once, cached, a few minutes):

    accelerate launch recipes/dpo_fair.py

With a policy and pairs of your own (any hub id or folder; any preference set in TRL's format):

    accelerate launch recipes/dpo_fair.py --config recipes/configs/dpo_lora.yaml \\
        --model_name_or_path path/or/hub-id --dataset_name pairs.jsonl \\
        --reward_model_name_or_path runs/reward_model --output_dir runs/my-policy-fair

Out comes a checkpoint folder (full weights, or an adapter whose base and quantisation are named in teachfair.json).
Compress it with `compress`, judge it with `evaluate`; `survival` does all of it as a grid.
"""

from __future__ import annotations

from typing import Any

from teachfair import leak_check
from teachfair.alignment import lesson
from teachfair.alignment.arguments import COMMON, TeachArguments
from teachfair.doors import Door


def run(own: TeachArguments, args: Any, model_args: Any) -> None:
    """Resolve policy, pairs and reward model; rank; teach."""
    from teachfair.alignment import CONTROLS, METHODS

    evaluation = leak_check.asked_for(own)
    policy, sandbox = lesson.resolve_policy(model_args.model_name_or_path, world_seed=own.world_seed, bias=own.bias)
    reward_model = lesson.reward_model_for(own, sandbox)
    pairs = lesson.pairs_from(own, sandbox=sandbox, seed=args.seed)
    record: dict[str, Any] = {"dataset": own.dataset_name or "sandbox", "control": own.control, "ranking": None}
    if own.control != "placebo":
        record |= lesson.mix_and_counts(pairs, force=own.force_mix)
    if own.control != "none":
        neutral = lesson.placebo_pairs(sandbox=sandbox, dataset_name=own.placebo_dataset_name, n=len(pairs))
        pairs = CONTROLS[own.control](pairs, seed=args.seed, neutral_pairs=neutral)
    if evaluation:
        record["wall"] = lesson.held_apart(pairs, evaluation, allow=own.allow_leaks)
    if own.control == "none" and reward_model is not None:
        if own.candidates == "policy":
            pairs, record["ranking"] = lesson.rank_sampled(
                policy, pairs, reward_model, num_candidates=own.num_candidates, seed=args.seed
            )
            if evaluation:  # other answers now
                record["wall"] = lesson.held_apart(pairs, evaluation, allow=own.allow_leaks)
        else:
            pairs, record["ranking"] = lesson.rank(pairs, reward_model, on_disagreement=own.on_disagreement)
        print(lesson.ranking_line(record["ranking"]))
    if args.output_dir in (None, "trainer_output"):
        args.output_dir = "runs/dpo_fair"
    out = METHODS["dpo"].teach(policy, pairs, args.output_dir, args=args, record=record, **lesson.adaptation(model_args))
    print(f"taught checkpoint: {out}")


door = Door(
    "dpo", __doc__, TeachArguments, run, trl=lesson.teach_types, common=COMMON, sandbox_config="sandbox/dpo_full.yaml"
)

if __name__ == "__main__":
    raise SystemExit(door())
