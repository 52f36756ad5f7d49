"""Teach a policy what is fair by proximal policy optimisation (PPO), rewarded by a fairness reward model.

Without arguments it runs on the embedded sandbox (policy and reward model are made once and cached, then half a minute):

    accelerate launch recipes/ppo_fair.py

With a policy, prompts (a column `prompt`; pairs will do) and a reward model (recipes/reward_model.py) of your own:

    accelerate launch recipes/ppo_fair.py --config recipes/configs/ppo_lora.yaml \\
        --model_name_or_path path/or/hub-id --dataset_name prompts.jsonl \\
        --reward_model_name_or_path runs/reward_model --output_dir runs/my-policy-fair

As above, refusals and over-long answers cost, groups must be treated alike, and the run stops when the reward is exploited:

    … --refusal_weight -1 --length_weight -0.01 --counterfactual_weight 0.5 --hack_watch stop

PPO: a value head on the policy's trunk, a price on each token's divergence, clipped steps. TRL removed its own PPO; this
one takes its argument names, resumes exactly, and works with LoRA and 4-bit bases.
Out comes a checkpoint folder (full weights, or an adapter whose base is named in teachfair.json); run.json beside it
holds the whole log, the reward model's hash and the alarms. A killed run goes on when the same command is given again.
"""

from __future__ import annotations

from typing import Any

from teachfair import leak_check
from teachfair.alignment import online_lesson
from teachfair.alignment.arguments import ONLINE_COMMON, PPO_COMMON, OnlineArguments
from teachfair.doors import Door


def run(own: OnlineArguments, args: Any, model_args: Any) -> None:
    """Resolve policy, prompts and reward model; teach."""
    out = online_lesson.teach_as_asked("ppo", own, args, model_args, evaluation=leak_check.asked_for(own))
    print("\n".join(online_lesson.summary_lines(out)))
    print(f"taught checkpoint: {out}")


door = Door(
    "ppo", __doc__, OnlineArguments, run, trl=online_lesson.ppo_types, common=ONLINE_COMMON | PPO_COMMON,
    sandbox_config="sandbox/ppo_full.yaml",
)  # fmt: skip

if __name__ == "__main__":
    raise SystemExit(door())
