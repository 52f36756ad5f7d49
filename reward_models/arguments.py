"""The arguments that the reward-model door adds to TRL's."""

from __future__ import annotations

from dataclasses import dataclass

from teachfair.data import PAIR_SOURCES
from teachfair.doors import WALL_HELP, argument

COMMON = {
    "model_name_or_path": "the backbone: a causal LM, an encoder or a sentence-transformers model, folder or hub id. "
    "Default: the sandbox policy",
    "output_dir": "where the reward model goes; it loads in a stock pipeline('text-classification')",
    "learning_rate": "step size",
    "max_steps": "optimiser steps; -1 means num_train_epochs decides",
    "per_device_train_batch_size": "pairs per step on each device",
    "center_rewards_coefficient": "pulls the mean reward towards 0 (0.01 where the score feeds PPO, GRPO or RLOO)",
    "use_peft": "train a LoRA adapter (task type SEQ_CLS) instead of all weights; merged for the stock pipeline",
    "seed": "seed of the head, the adapter and the data order",
}


@dataclass
class RewardArguments:
    """What the reward model learns from."""

    dataset_name: str | None = argument(
        "fair/unfair pairs: a .jsonl, .json or .parquet file in TRL's format, a folder of a known source, or a hub "
        "id. Default: the sandbox's pairs"
    )
    dataset_source: str = argument(f"how to read dataset_name: {', '.join(PAIR_SOURCES)}", "preference_file")
    max_pairs: int = argument("use at most this many pairs, drawn with --seed (0 = all)", 0)
    drop_equal: bool = argument("drop (and count) pairs whose two sides are equal, instead of stopping", False)
    exclude_ids: str | None = argument(
        "a file with the ids, one a line, of pairs to leave out because their norm is contested; its hash and how many "
        "it met go into run.json"
    )
    force_mix: bool = argument(
        "train although 'cannot tell' is the fair answer in some pairs and the evidence in none: such a reward model pays "
        "for 'cannot tell' where the answer is known too",
        False,
    )
    test_share: float = argument("share of the pairs held out, by whole clusters, for accuracy and calibration", 0.1)
    margin_scale: float = argument(
        "multiplies the severity margins of pairs that have one (column margin, reward units): the loss is "
        "-log sigmoid(r_chosen - r_rejected - margin_scale * margin). Larger pushes severe pairs further apart; 0 ignores "
        "margins",
        1.0,
    )
    num_members: int = argument(
        "1: one reward model. More: an ensemble with the seeds seed ... seed + num_members - 1, in output_dir/member-0 ...; "
        "its reward is the mean of the standardised rewards, the members' disagreement its uncertainty",
        1,
    )
    bootstrap: bool = argument(
        "ensemble: each member learns from clusters of pairs drawn with replacement, instead of all pairs", False
    )
    conservatism: float = argument(
        "ensemble: the reward is mean - conservatism * disagreement. Larger trusts less what members disagree on", 0.0
    )
    classifier_face: bool = argument(
        "also write output_dir/classifier, the same weights once more as an unfair/fair classifier for stock tools; false "
        "saves the space", True,
    )  # fmt: skip
    wall_benchmarks: list[str] = argument(WALL_HELP["wall_benchmarks"], [])
    wall_data_dir: str | None = argument(WALL_HELP["wall_data_dir"])
    allow_leaks: bool = argument(WALL_HELP["allow_leaks"], False)
    world_seed: int = argument("sandbox: seed of the world", 0)
    bias: float = argument("sandbox: planted association, log-odds", 2.0)
    num_sandbox_pairs: int = argument("sandbox: number of training pairs", 4000)
    num_test_pairs: int = argument("sandbox: number of held-out pairs (unseen names, occupations, templates)", 600)
