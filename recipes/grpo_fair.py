"""Teach a policy what is fair by group-relative policy optimisation (GRPO), rewarded by a fairness reward model.

Without arguments it runs on the embedded sandbox (policy and reward model are made once and cached, then half a minute):

    accelerate launch recipes/grpo_fair.py

With a policy, prompts (a column `prompt`; pairs will do) and a reward model (recipes/reward_model.py) of your own:

    accelerate launch recipes/grpo_fair.py --config recipes/configs/grpo_lora.yaml \\
        --model_name_or_path path/or/hub-id --dataset_name prompts.jsonl \\
        --reward_model_name_or_path runs/reward_model --output_dir runs/my-policy-fair

As above, refusals and over-long answers cost, groups must be treated alike, and the run stops when the reward is exploited:

    … --refusal_weight -1 --length_weight -0.01 --counterfactual_weight 0.5 --hack_watch stop

GRPO: several answers to each prompt, each better or worse than its group. No value head; needs a policy whose answers
to a prompt differ.
Out comes a checkpoint folder (full weights, or an adapter whose base is named in teachfair.json); run.json beside it
holds the whole log, the reward model's hash and the alarms. A killed run goes on when the same command is given again.
"""

from __future__ import annotations

from typing import Any

from teachfair import leak_check
from teachfair.alignment import online_lesson
from teachfair.alignment.arguments import GROUP_COMMON, ONLINE_COMMON, OnlineArguments
from teachfair.doors import Door


def run(own: OnlineArguments, args: Any, model_args: Any) -> None:
    """Resolve policy, prompts and reward model; teach."""
    out = online_lesson.teach_as_asked("grpo", own, args, model_args, evaluation=leak_check.asked_for(own))
    print("\n".join(online_lesson.summary_lines(out)))
    print(f"taught checkpoint: {out}")


door = Door(
    "grpo", __doc__, OnlineArguments, run, trl=online_lesson.grpo_types, common=ONLINE_COMMON | GROUP_COMMON,
    sandbox_config="sandbox/grpo_full.yaml",
)  # fmt: skip

if __name__ == "__main__":
    raise SystemExit(door())
