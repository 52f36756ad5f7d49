"""Let a policy answer, let the fairness reward model judge, and write fair/unfair pairs: iterative DPO in two commands.

    python recipes/sample_pairs.py --model_name_or_path runs/my-policy-fair --dataset_name pairs.jsonl \\
        --reward_model_name_or_path runs/reward_model --output round2.jsonl
    accelerate launch recipes/dpo_fair.py --model_name_or_path runs/my-policy-fair --dataset_name round2.jsonl

Several answers a prompt are sampled; the one with the highest and the one with the lowest reward become a pair. A prompt
whose answers are all alike, or alike in reward (--min_margin), gives none and is counted. Beside the pairs stands
round2.jsonl.provenance.json: hashes of policy and reward model, seed, temperature, number of answers. Without arguments:
the sandbox.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from teachfair.data import PAIR_SOURCES
from teachfair.doors import Door, argument


@dataclass
class SampleArguments:
    """Who answers what, who judges, and where the pairs go."""

    model_name_or_path: str | None = argument("the policy that answers. Default: the sandbox's")
    reward_model_name_or_path: str | None = argument("the reward model that judges. Default: the sandbox's")
    dataset_name: str | None = argument(
        "whose prompts are asked: a .jsonl, .json or .parquet file of preference pairs, a folder of a known source, or a "
        "hub id; its answers are not used. Default: the sandbox's prompts"
    )
    dataset_source: str = argument(f"how to read dataset_name: {', '.join(PAIR_SOURCES)}", "preference_file")
    dataset_train_split: str = argument("split whose prompts are asked", "train")
    exclude_ids: str | None = argument(
        "a file with the ids, one a line, of pairs whose prompts are not asked because their norm is contested; its hash "
        "and how many it met go into the provenance file"
    )
    force_mix: bool = argument(
        "go on although 'cannot tell' is the fair answer to some prompts and the evidence to none: pairs of such prompts "
        "teach to say 'cannot tell' where the answer is known too",
        False,
    )
    max_prompts: int = argument("ask at most this many prompts, drawn with --seed (0 = all)", 0)
    num_candidates: int = argument("answers to sample a prompt, 2 or more", 4)
    temperature: float = argument(
        "of the sampling: larger answers differ more, so more prompts give a pair; 1 = the policy's own distribution", 1.0
    )
    min_margin: float = argument(
        "least difference of the two rewards, in logits: between two equally unfair answers the reward model's preference "
        "is noise, and the policy would learn it. 1 = the better answer wins 73 % of the time",
        1.0,
    )
    max_new_tokens: int = argument("longest answer, in tokens", 64)
    seed: int = argument("seed of the sampling", 0)
    output: str = argument("output file; the ending decides: .jsonl or .parquet", "runs/sampled_pairs.jsonl")
    overwrite: bool = argument("replace an output file that is already there", False)
    world_seed: int = argument("sandbox: seed of the world", 0)
    bias: float = argument("sandbox: planted association, log-odds", 2.0)
    num_sandbox_pairs: int = argument("sandbox: number of prompts", 200)


def run(own: SampleArguments) -> None:
    """Resolve policy, prompts and judge; sample; rank; write."""
    from teachfair.alignment import lesson
    from teachfair.alignment.arguments import TeachArguments
    from teachfair.alignment.sampled_pairs import check_output, write_pairs
    from teachfair.data.mixing import check_prompts
    from teachfair.data.pairs import counts_of
    from teachfair.errors import ConfigError

    if own.num_candidates < 2:
        raise ConfigError(
            f"{own.num_candidates} answers a prompt make no pair", where="--num_candidates", fix="give 2 or more"
        )
    check_output(own.output, overwrite=own.overwrite)
    policy, sandbox = lesson.resolve_policy(own.model_name_or_path, world_seed=own.world_seed, bias=own.bias)
    if own.reward_model_name_or_path is not None:
        judge = Path(own.reward_model_name_or_path)
    elif sandbox is not None and own.dataset_name is None:
        judge = lesson.sandbox_reward_model(sandbox)
    else:
        raise ConfigError(
            "nobody judges the answers", where="--reward_model_name_or_path",
            fix="give a folder made by recipes/reward_model.py, or the hub id of a reward model",
        )  # fmt: skip
    asked = TeachArguments(
        dataset_name=own.dataset_name, dataset_source=own.dataset_source, dataset_train_split=own.dataset_train_split,
        num_sandbox_pairs=own.num_sandbox_pairs,
    )  # fmt: skip
    if own.exclude_ids is not None and own.dataset_name is None:
        raise lesson.nothing_contested()
    prompts = lesson.pairs_from(asked, sandbox=sandbox, seed=own.seed)
    prompts = lesson.uncontested(prompts, own.exclude_ids, where=str(own.dataset_name))
    prompts = lesson.drawn(prompts, own.max_prompts, seed=own.seed)
    facts = {"mix": check_prompts(prompts, force=own.force_mix), "as_read": counts_of(prompts)}
    pairs, report = lesson.rank_sampled(
        policy, prompts, judge, num_candidates=own.num_candidates, seed=own.seed, temperature=own.temperature,
        max_new_tokens=own.max_new_tokens, min_margin=own.min_margin,
    )  # fmt: skip
    report |= facts
    report["prompts_from"] = own.dataset_name or f"sandbox (world {own.world_seed}, bias {own.bias})"
    path = write_pairs(pairs, own.output, report, overwrite=own.overwrite)
    print(
        f"{lesson.ranking_line(report)}; {report['all_equal']} prompts gave none, "
        f"{report['below_margin']} pairs were below --min_margin {own.min_margin:g}"
    )
    print(f"pairs: {path}")


door = Door("sample-pairs", __doc__, SampleArguments, run)

if __name__ == "__main__":
    raise SystemExit(door())
