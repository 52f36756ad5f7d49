"""The arguments that the teaching doors add to TRL's: pairs for DPO, prompts and a reward for PPO, GRPO and RLOO."""

from __future__ import annotations

from dataclasses import dataclass

from teachfair.data import PAIR_SOURCES
from teachfair.doors import WALL_HELP, argument

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
    dataset_source: str = argument(f"how to read dataset_name: {', '.join(PAIR_SOURCES)}", "preference_file")
    dataset_train_split: str = argument("split to teach from", "train")
    max_pairs: int = argument("use at most this many pairs, drawn with --seed (0 = all)", 0)
    drop_equal: bool = argument("drop (and count) pairs whose two sides are equal, instead of stopping", False)
    exclude_ids: str | None = argument(
        "a file with the ids, one a line, of pairs to leave out because their norm is contested; its hash and how many "
        "it met go into run.json"
    )
    force_mix: bool = argument(
        "teach although 'cannot tell' is the fair answer in some pairs and the evidence in none, which teaches to say "
        "'cannot tell' where the answer is known too",
        False,
    )
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
    wall_benchmarks: list[str] = argument(WALL_HELP["wall_benchmarks"], [])
    wall_data_dir: str | None = argument(WALL_HELP["wall_data_dir"])
    allow_leaks: bool = argument(WALL_HELP["allow_leaks"], False)
    world_seed: int = argument("sandbox: seed of the world (names, occupations, who is stereotyped how)", 0)
    bias: float = argument("sandbox: planted association, log-odds", 2.0)
    num_sandbox_pairs: int = argument("sandbox: number of pairs", 1000)


_PRICE = "the price of a nat of divergence from the untaught policy: a larger value moves the policy less. 0: no reference"

ONLINE_COMMON = {
    **{name: COMMON[name] for name in ("model_name_or_path", "output_dir")},
    "learning_rate": "step size. Full fine-tuning of a large policy: about 1e-6; LoRA: 1e-5 to 1e-4",
    "max_steps": "optimiser steps; -1 means num_train_epochs decides",
    "per_device_train_batch_size": "sampled answers (not prompts) per step on each device",
    "steps_per_generation": "how many such batches are sampled at once: a rollout",
    "max_completion_length": "longest answer, in tokens. A longer one is cut off, and counted in the log as "
    "completions/clipped_ratio",
    "temperature": "of the sampling: a sharp policy explores more above 1",
    **{name: COMMON[name] for name in ("use_peft", "load_in_4bit", "save_steps")},
    "logging_steps": "how often the log is written; the hack watch reads the log, so 1 lets it see every step",
    "seed": "seed of adapter initialisation, prompt order and sampling",
    "report_to": COMMON["report_to"],
}

PPO_COMMON = {
    "kl_coef": f"{_PRICE} (default 0.05; TRL's GRPO calls it beta)",
    "num_ppo_epochs": "passes over each rollout (default 4; also num_iterations)",
    "cliprange": "how far the probability ratio may move a step (default 0.2; also epsilon)",
    "gamma": "discount per token (default 1)",
    "lam": "λ of generalised advantage estimation (default 0.95): lower = less variance, more trust in the value head",
    "vf_coef": "weight of the value loss (default 0.1); decides little unless value_gradient_to_trunk is set",
    "cliprange_value": "how far the value may move from the rollout's, in the reward's unit (default: unclipped, because "
    "the head starts from zero; TRL's PPO had 0.2)",
    "missing_eos_penalty": "taken off the score of an answer that did not end by itself (default: nothing)",
    "whiten_rewards": "scale the token rewards to unit variance",
}

GROUP_COMMON = {
    "num_generations": "answers to each prompt, compared with each other. A group whose answers are all alike teaches "
    "nothing (counted as frac_reward_zero_std): take more where the policy is sure of itself",
    "beta": _PRICE,
    "num_iterations": "passes over each rollout (default 1)",
    "epsilon": "how far the probability ratio may move a step (default 0.2)",
}


@dataclass
class OnlineArguments:
    """What to ask, what to reward, and what to watch."""

    dataset_name: str | None = argument(
        "prompts: a .jsonl, .json, .parquet or .csv file with a column prompt (text, or a list of messages), preference "
        "pairs (only their prompts are asked), a folder of a known source (--dataset_source), or a hub id. Other columns "
        "are kept for the reward: swap or counterfactual_prompt, group, groups, condition. Default: the sandbox's prompts"
    )
    dataset_source: str = argument(
        f"how to read dataset_name: prompt_file (prompts or pairs of any origin), {', '.join(PAIR_SOURCES)}", "prompt_file"
    )
    dataset_train_split: str = argument("split whose prompts are asked", "train")
    exclude_ids: str | None = argument(
        "a file with the ids, one a line, of prompts (or of pairs, whose prompts are then not asked) to leave out because "
        "their norm is contested; its hash and how many it met go into run.json. Not used for a placebo"
    )
    force_mix: bool = argument(
        "teach although 'cannot tell' is the fair answer to some prompts and the evidence to none (by their kind or "
        "condition), which teaches to say 'cannot tell' where the answer is known too",
        False,
    )
    max_prompts: int = argument("ask at most this many prompts, drawn with --seed (0 = all)", 0)
    reward_model_name_or_path: str | None = argument(
        "the fairness reward model: a folder made by recipes/reward_model.py, or any classifier with one output. "
        "Default: the sandbox's on the sandbox; for prompts of your own it must be given"
    )
    length_weight: float = argument("reward for each token of an answer; negative = a price on length", 0.0)
    group_mention_weight: float = argument("reward for an answer that mentions a group: its row's, or group_terms", 0.0)
    refusal_weight: float = argument("reward for an answer that refuses; negative = refusing costs", 0.0)
    repetition_weight: float = argument("reward times the repeated share of an answer; negative = repeating costs", 0.0)
    unfinished_weight: float = argument("reward for an answer cut off by max_completion_length; negative = it costs", 0.0)
    counterfactual_weight: float = argument(
        "λ: price of each unit by which the score changes when the group is swapped in prompt and answer; needs a "
        "counterfactual: the column swap or counterfactual_prompt (the sandbox has them), or prompts whose language is "
        "known (--counterfactual_lang). 0: only measured. Not used for a placebo",
        0.0,
    )
    counterfactual_lang: str | None = argument(
        "en or fr: the language of prompts that do not say it in a column lang. Prompts without swap and "
        "counterfactual_prompt are then exchanged by the rules of docs/counterfactuals.md, and so is each answer; axis: the "
        "row's, else gender",
        choices=["en", "fr"],
    )
    group_terms: list[str] = argument("words that mention a group, beside each row's own; commas or spaces", [])
    hack_watch: str = argument(
        "what to do when the reward is being exploited: 'warn' (with step and quantity), 'stop' (exit code 4, the last "
        "good checkpoint is kept and named; the same command stops again at once, with 'warn' it goes on), 'off'",
        "warn",
        choices=["warn", "stop", "off"],
    )
    control: str = argument(
        "teach a control instead: 'placebo' (prompts and reward that have nothing to do with fairness), 'sham' (the "
        "rewards of each batch shuffled)",
        "none",
        choices=["none", "placebo", "sham"],
    )
    placebo_dataset_name: str | None = argument("prompts for --control placebo, as dataset_name (sandbox: built in)")
    placebo_reward_model_name_or_path: str | None = argument(
        "reward model for --control placebo, trained on fairness-neutral pairs (sandbox: built in)"
    )
    wall_benchmarks: list[str] = argument(WALL_HELP["wall_benchmarks"], [])
    wall_data_dir: str | None = argument(WALL_HELP["wall_data_dir"])
    allow_leaks: bool = argument(WALL_HELP["allow_leaks"], False)
    world_seed: int = argument("sandbox: seed of the world (names, occupations, who is stereotyped how)", 0)
    bias: float = argument("sandbox: planted association, log-odds", 2.0)
    num_sandbox_prompts: int = argument("sandbox: number of prompts", 1000)
