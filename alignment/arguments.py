"""The arguments that the teaching doors add to TRL's."""

from __future__ import annotations

from dataclasses import dataclass

from teachfair.doors import argument

COMMON = {
    "model_name_or_path": "the policy to teach: a checkpoint folder or hub id. Default: the embedded sandbox policy, "
    "made once and cached",
    "output_dir": "where the taught checkpoint goes; complete when its run.json says so. A killed run goes on when "
    "the same command is given again",
    "learning_rate": "step size. Full fine-tuning of a large policy: about 1e-6; LoRA: 1e-5 to 2e-4",
    "beta": "how close to stay to the reference: a larger value moves the policy less (DPO paper: 0.1)",
    "max_steps": "optimiser steps; -1 means num_train_epochs decides",
    "per_device_train_batch_size": "pairs per step on each device",
    "use_peft": "train a LoRA adapter instead of all weights (--lora_r, --lora_alpha, --lora_target_modules)",
    "load_in_4bit": "with --use_peft: QLoRA, the base is held in 4 bit while the adapter trains",
    "save_steps": "how often a checkpoint is sealed, so that a killed run loses little (with --save_strategy steps)",
    "seed": "seed of adapter initialisation and data order",
    "report_to": "trackers: none, tensorboard, trackio, wandb …",
}


@dataclass
class TeachArguments:
    """What to teach from, and what the reward model has to say about it."""

    dataset_name: str | None = argument(
        "preference pairs: a .jsonl, .json or .parquet file in TRL's format, a folder of one of the known sources "
        "(--dataset_source), or a hub id. Default: the sandbox's pairs"
    )
    dataset_source: str = argument("how to read dataset_name: preference_file, stereoset_pairs, sandbox", "preference_file")
    dataset_train_split: str = argument("split to teach from", "train")
    max_pairs: int = argument("use at most this many pairs, drawn with --seed (0 = all)", 0)
    drop_equal: bool = argument("drop (and count) pairs whose two sides are equal, instead of stopping", False)
    reward_model_name_or_path: str | None = argument(
        "a fairness reward model that ranks each prompt's candidate answers into chosen and rejected. Default: none "
        "for your own pairs, the sandbox's reward model on the sandbox; 'none' switches it off"
    )
    candidates: str = argument(
        "what the reward model ranks: 'pair' = the pair's two answers; 'policy' = --num_candidates answers sampled "
        "from the policy for each prompt",
        "pair",
        choices=["pair", "policy"],
    )
    num_candidates: int = argument("answers to sample a prompt with --candidates policy", 4)
    on_disagreement: str = argument(
        "where the reward model prefers the side labelled unfair: 'flip' = believe the reward model, 'keep' = believe "
        "the label, 'drop' = leave the pair out. Always counted",
        "flip",
        choices=["flip", "keep", "drop"],
    )
    control: str = argument(
        "teach a control instead: 'placebo' (a fairness-neutral preference, same number of pairs), 'sham' (labels "
        "shuffled)",
        "none",
        choices=["none", "placebo", "sham"],
    )
    placebo_dataset_name: str | None = argument("fairness-neutral pairs for --control placebo (sandbox: built in)")
    world_seed: int = argument("sandbox: seed of the world (names, occupations, who is stereotyped how)", 0)
    bias: float = argument("sandbox: planted association, log-odds", 2.0)
    num_sandbox_pairs: int = argument("sandbox: number of pairs", 1000)
