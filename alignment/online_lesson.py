"""From names to an online lesson: the prompts, the reward, the watch and the control that a door or a study asks for.

What PPO's, GRPO's and RLOO's doors share; ``lesson`` is the same for pairs.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from teachfair import doors, runs
from teachfair.alignment import lesson
from teachfair.alignment.arguments import OnlineArguments
from teachfair.errors import ConfigError, unknown_name

if TYPE_CHECKING:
    from datasets import Dataset

    from teachfair.alignment.fairness_reward import FairnessReward
    from teachfair.alignment.sandbox_policy import SandboxPolicyConfig


def ppo_types() -> tuple[type, ...]:
    """The dataclasses of the PPO door."""
    from trl import ModelConfig

    from teachfair.alignment.ppo_trainer import PPOConfig

    return (PPOConfig, ModelConfig)


def grpo_types() -> tuple[type, ...]:
    """TRL's dataclasses of the GRPO door."""
    from trl import GRPOConfig, ModelConfig

    return (GRPOConfig, ModelConfig)


def rloo_types() -> tuple[type, ...]:
    """TRL's dataclasses of the RLOO door."""
    from trl import ModelConfig, RLOOConfig

    return (RLOOConfig, ModelConfig)


logger = logging.getLogger(__name__)

TYPES: dict[str, Callable[[], Sequence[type]]] = {"ppo": ppo_types, "grpo": grpo_types, "rloo": rloo_types}


# ------------------------------------------------------------------------------------------------- the prompts


def prompts_from(own: OnlineArguments, *, sandbox: SandboxPolicyConfig | None, seed: int) -> Dataset:
    """The prompts a door asks for: the sandbox's, or the user's with all their columns; for a placebo, the placebo's.

    Returns: rows with a conversational ``prompt``; the sandbox's columns are ``data.sandbox.gold.prompt_rows``'.
        ``data.pairs.counts_of`` says what a list of contested ids left out.
    Raises: ConfigError for an unknown source, or where there is nothing to ask; DataError (``file:line: field``) for
        malformed rows.
    """
    from datasets import Dataset

    from teachfair.data.prompts import load_prompts, without_contested
    from teachfair.data.sandbox.gold import placebo_prompt_rows, prompt_rows

    placebo = own.control == "placebo"
    name = own.placebo_dataset_name if placebo else own.dataset_name
    excluded = None if placebo else own.exclude_ids  # a list of contested pairs says nothing of the placebo's
    if name is None:
        if excluded is not None:
            raise lesson.nothing_contested()
        if sandbox is None or (placebo and own.dataset_name is not None):
            raise ConfigError(
                "a placebo of your own data needs prompts" if placebo else "a policy of your own needs prompts to answer",
                where="--placebo_dataset_name" if placebo else "--dataset_name",
                fix="give a .jsonl or .parquet file with a column prompt, or a hub id",
            )  # fmt: skip
        rows = placebo_prompt_rows if placebo else prompt_rows
        found = rows(lesson.world(sandbox), own.num_sandbox_prompts, split=own.dataset_train_split, seed=seed)
        return Dataset.from_list(found)
    if placebo or own.dataset_source == "prompt_file":
        prompts = load_prompts(name, own.dataset_train_split)
        if excluded is not None:
            prompts, counts = without_contested(prompts, excluded, where=name)
            prompts.info.description = json.dumps(counts)
    else:
        prompts = _prompts_of_a_source(own.dataset_source, name, own.dataset_train_split, excluded)
    if own.max_prompts < 0:
        raise ConfigError(f"max_prompts is {own.max_prompts}", where="--max_prompts", fix="give a number, or 0 for all")
    return lesson.drawn(prompts, own.max_prompts, seed=seed)


def _prompts_of_a_source(source: str, name: str, split: str, excluded: str | None) -> Dataset:
    from teachfair.data import SOURCES
    from teachfair.data.prompts import prompts_of_pairs

    if source not in SOURCES:
        raise unknown_name("dataset_source", source, ["prompt_file", *SOURCES])
    pairs = lesson.uncontested(SOURCES[source].load(name, split=split), excluded, where=name)
    return prompts_of_pairs(pairs)  # several pairs of a source may be about one prompt; it is asked once


def with_counterfactuals(own: OnlineArguments, prompts: Dataset) -> tuple[Dataset, dict[str, Any]]:
    """The prompts with counterfactuals by rule where they bring none (``data.prompt_counterfactuals``), and the field
    ``counterfactuals`` of the run record: how many have one, and why the others have none. Nothing for a placebo.

    Raises: ConfigError where λ > 0 and no prompt has one.
    """
    from teachfair.data.prompt_counterfactuals import add_counterfactuals

    if own.control == "placebo":
        return prompts, {}
    prompts, report = add_counterfactuals(prompts, lang=own.counterfactual_lang)
    without = ", ".join(f"{n}: {why}" for why, n in report["without"].items())
    if own.counterfactual_weight > 0 and not report["with"]:
        raise ConfigError(
            f"the counterfactual weight is {own.counterfactual_weight:g}, but none of {report['rows']} prompts has a "
            f"counterfactual ({without})", where="--counterfactual_weight",
            fix="say the prompts' language (a column lang, or --counterfactual_lang en), give a column swap or "
            "counterfactual_prompt, or set the weight to 0",
        )  # fmt: skip
    if own.counterfactual_weight > 0 and without:
        logger.warning("%d of %d prompts have a counterfactual; without (%s)", report["with"], report["rows"], without)
    return prompts, {"counterfactuals": report}


# -------------------------------------------------------------------------------------------------- the reward


def reward_model_for(own: OnlineArguments, sandbox: SandboxPolicyConfig | None) -> Path:
    """The reward model a door asks for: the one named, or the sandbox's own (for a placebo, the placebo's).

    Raises: ConfigError where nobody would judge the answers.
    """
    placebo = own.control == "placebo"
    name = own.placebo_reward_model_name_or_path if placebo else own.reward_model_name_or_path
    if name is not None and name.lower() != "none":
        return Path(name)
    own_prompts = own.placebo_dataset_name if placebo else own.dataset_name
    if sandbox is None or name is not None or own_prompts is not None:
        raise ConfigError(
            "there is no reward model, so nobody judges the answers",
            where="--placebo_reward_model_name_or_path" if placebo else "--reward_model_name_or_path",
            fix="train one with recipes/reward_model.py"
            + (" on fairness-neutral pairs" if placebo else "") + ", or give the hub id of a classifier with one output",
        )  # fmt: skip
    with lesson.one_rank_first():
        return lesson.sandbox_reward_model(sandbox, control="placebo" if placebo else "none")


def reward_from(
    own: OnlineArguments, *, sandbox: SandboxPolicyConfig | None, policy: str | Path, reward_model: str | Path
) -> FairnessReward:
    """The fairness reward as a door's arguments describe it; in the sandbox the truth is logged beside it, never paid.

    Raises: CheckpointError (no reward model, or one without exactly one output), ConfigError (a weight that is not a
        number, a negative λ).
    """
    from teachfair.alignment.fairness_reward import FairnessReward
    from teachfair.data.sandbox.gold import gold_reward
    from teachfair.models.chat import ensure_chat_template
    from teachfair.models.checkpoint import load_tokenizer

    tokenizer = load_tokenizer(policy)
    ensure_chat_template(tokenizer)  # said, and saved, where the policy is taught
    weights = {
        "length": own.length_weight, "group_mention": own.group_mention_weight, "refusal": own.refusal_weight,
        "repetition": own.repetition_weight, "unfinished": own.unfinished_weight,
    }  # fmt: skip
    placebo = own.control == "placebo"
    asked = own.placebo_dataset_name if placebo else own.dataset_name
    return FairnessReward.load(
        reward_model,
        rules={rule: weight for rule, weight in weights.items() if weight != 0},
        # nobody is named in a placebo, so nobody can be swapped
        counterfactual_weight=0.0 if placebo else own.counterfactual_weight,
        group_terms=doors.comma_list(own.group_terms),
        gold=gold_reward if sandbox is not None and asked is None else None,
        policy_tokenizer=tokenizer,
        eos_token_ids=_end_tokens(policy, tokenizer),
    )


def _end_tokens(policy: str | Path, tokenizer: Any) -> list[int]:
    """The ids that end an answer, as TRL's online trainers find them."""
    from transformers import GenerationConfig

    try:
        said = GenerationConfig.from_pretrained(str(policy)).eos_token_id
    except OSError:  # a checkpoint need not have one
        said = None
    ids = said if isinstance(said, list) else [] if said is None else [said]
    return sorted({tokenizer.eos_token_id, *ids} - {None})


# ------------------------------------------------------------------------------------------------- the teaching


@dataclass(frozen=True)
class _Lesson:
    """What every way into online teaching has resolved before it begins."""

    policy: str | Path
    prompts: Dataset
    reward_model: Path
    sandbox: SandboxPolicyConfig | None


def teach_as_asked(
    method: str, own: OnlineArguments, args: Any, model_args: Any, *, evaluation: Mapping[str, Any] | None = None
) -> Path:
    """What the doors do: resolve policy, prompts and reward model, and teach by ``method`` (of ``ONLINE_METHODS``).

    Args: evaluation: benchmark name -> its items; the prompts are held against them first (``lesson.held_apart``).
    Raises: as ``alignment.ppo.teach``; HackedRewardError with ``own.hack_watch == "stop"``.
    """
    from teachfair.data.mixing import check_prompts
    from teachfair.data.pairs import counts_of

    if args.output_dir in (None, "trainer_output"):
        args.output_dir = f"runs/{method}_fair"
    policy, sandbox = lesson.resolve_policy(model_args.model_name_or_path, world_seed=own.world_seed, bias=own.bias)
    prompts = prompts_from(own, sandbox=sandbox, seed=args.seed)
    name = own.placebo_dataset_name if own.control == "placebo" else own.dataset_name
    record: dict[str, Any] = {"dataset": name or "sandbox"}
    if own.control != "placebo":
        record |= {"mix": check_prompts(prompts, force=own.force_mix), "as_read": counts_of(prompts)}
    if evaluation:
        record["wall"] = lesson.held_apart(prompts, evaluation, allow=own.allow_leaks)
    asked = _Lesson(policy, prompts, reward_model_for(own, sandbox), sandbox)
    return _teach(method, asked, own, args, model_args, record)


def teach_online_from_config(
    config: Path,
    policy: str | Path,
    prompts_file: Path,
    out: Path,
    *,
    method: str,
    seed: int,
    reward_model: str | Path,
    max_steps: int | None = None,
    sandbox: SandboxPolicyConfig | None = None,
    control: str = "none",
    record: dict[str, Any] | None = None,
) -> Path:
    """Teach one arm of a study by a YAML of the method's door.

    Args:
        prompts_file: parquet; columns as :func:`prompts_from` gives them. For a placebo: the placebo's prompts.
        reward_model: for a placebo: the placebo's.
        sandbox: the world the prompts are of: the truth is then logged as ``fairness/gold``.
        control: "sham" shuffles each batch's rewards; "placebo" changes nothing but the record and λ (0).
        record: further fields of ``run.json``.
    """
    from datasets import Dataset

    argv = ["--config", str(config), "--seed", str(seed)]
    if max_steps is not None:
        argv += ["--max_steps", str(max_steps)]
    door = doors.Door(method, "", OnlineArguments, lambda *parsed: None, trl=TYPES[method])
    own, args, model_args = door.parse(argv)
    own.control, own.dataset_name, own.placebo_dataset_name = control, None, None
    args.output_dir, args.disable_tqdm, args.report_to = str(out), True, []
    asked = _Lesson(policy, Dataset.from_parquet(str(prompts_file)), Path(reward_model), sandbox)
    return _teach(method, asked, own, args, model_args, {"dataset": str(prompts_file), **(record or {})})


def _teach(
    method: str, asked: _Lesson, own: OnlineArguments, args: Any, model_args: Any, record: dict[str, Any]
) -> Path:  # fmt: skip
    from teachfair.alignment import ONLINE_METHODS, controls
    from teachfair.models.provenance import named_by_hash

    prompts, swaps = with_counterfactuals(own, asked.prompts)
    reward: Any = reward_from(own, sandbox=asked.sandbox, policy=asked.policy, reward_model=asked.reward_model)
    if own.control == "sham":
        reward = controls.ShuffledReward(reward, seed=args.seed)
    callbacks = []
    if own.hack_watch != "off":
        from teachfair.alignment.hack_watch import HackWatch

        callbacks.append(HackWatch(stop=own.hack_watch == "stop", out=Path(args.output_dir) / "alarms.json"))
    return Path(
        ONLINE_METHODS[method].teach(
            asked.policy, prompts, args.output_dir, args=args, reward=reward, callbacks=callbacks,
            record={
                "reward_model": str(asked.reward_model), "control": own.control,
                **(named_by_hash(asked.reward_model) if asked.reward_model.is_dir() else {"reward_model_hash": None}),
                **swaps, **record,
            },
            **lesson.adaptation(model_args),
        )
    )  # fmt: skip


def summary_lines(folder: Path) -> list[str]:
    """For the terminal: the reward and the truth at the beginning and the end, and what the hack watch saw."""
    record = runs.read_record(folder) or {}
    lines = []
    for name, key in (("reward", "reward"), ("fair answers (truth)", "fairness/gold"), ("KL per token, nats", "kl"),
                      ("answers cut off", "completions/clipped_ratio")):  # fmt: skip
        values = [row[key] for row in record.get("log", []) if isinstance(row.get(key), int | float)]
        tenth = max(1, len(values) // 10)
        if values:
            first, last = sum(values[:tenth]) / tenth, sum(values[-tenth:]) / tenth
            lines.append(f"  {name:<22}{first:8.3f} -> {last:8.3f}   (first and last tenth of the log)")
    swaps = record.get("counterfactuals") or {}
    if swaps:
        lines.append(f"  counterfactuals: {swaps['with']} of {swaps['rows']} prompts have one (by {swaps['by']})")
    found = (record.get("hack_watch") or {}).get("alarms", [])
    lines += [f"  ALARM step {one['step']}: {one['quantity']} {one['direction']}: {one['meaning']}" for one in found]
    if "hack_watch" in record and not found:
        lines.append("  hack watch: no alarm")
    return lines
