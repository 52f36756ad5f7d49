"""Teach by rewards on the policy's own answers: what PPO, GRPO and RLOO share."""

from __future__ import annotations

import hashlib
import inspect
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from teachfair import runs
from teachfair.alignment import teaching
from teachfair.errors import CheckpointError, ConfigError, InputError

if TYPE_CHECKING:
    from datasets import Dataset
    from peft import PeftConfig
    from transformers import BitsAndBytesConfig

_log = logging.getLogger(__name__)


def teach_online(
    method: str,
    trainer_class: Callable[[], type],
    policy: str | Path,
    prompts: Dataset,
    out: str | Path,
    *,
    args: Any,
    reward: Any,
    peft_config: PeftConfig | None = None,
    quantization_config: BitsAndBytesConfig | None = None,
    record: dict[str, Any] | None = None,
    callbacks: Sequence[Any] = (),
) -> Path:
    """Teach ``policy`` by ``reward`` on its own answers to ``prompts``; see ``alignment.ppo.teach`` for the arguments.

    Args: trainer_class imports and returns the trainer.
    """
    out = Path(out)
    if len(prompts) == 0:
        raise ConfigError("there are no prompts to teach from", where="the training set", fix="check --dataset_name")
    teaching.check_policy(policy, peft_config, quantization_config)
    rewards = reward if isinstance(reward, list | tuple) else [reward]
    if not rewards:
        raise ConfigError("there is no reward to teach by", where="reward", fix="give a reward model or a function")
    identities = [identity(one) for one in rewards]
    tokenizer = online_tokenizer(policy)
    kept, dropped = prompts_that_fit(policy, tokenizer, prompts, args.max_completion_length)
    per_rollout = args.generation_batch_size // args.num_generations
    if len(kept) < per_rollout:
        raise ConfigError(
            f"one rollout takes {per_rollout} prompts, there are {len(kept)}", where="the training set",
            fix="lower --per_device_train_batch_size or --generation_batch_size, or give more prompts",
        )  # fmt: skip
    decides = teaching.deciding_facts(
        method, policy, args, peft_config, quantization_config, prompts=prompts_hash(kept), rewards=identities
    )

    def build() -> Any:
        modules, tokenizers = _for_trl(rewards)
        return teaching.prepare(
            f"{method.upper()} trainer",
            lambda: trainer_class()(
                model=str(policy),
                reward_funcs=modules,
                args=args,
                train_dataset=kept,
                processing_class=tokenizer,
                reward_processing_classes=tokenizers,
                peft_config=peft_config,
                quantization_config=quantization_config,
                callbacks=list(callbacks),
            ),
            args,
        )

    def facts(trainer: Any) -> dict[str, Any]:
        flat = [row["frac_reward_zero_std"] for row in trainer.state.log_history if "frac_reward_zero_std" in row]
        found: dict[str, Any] = {"n_prompts": len(kept), "n_prompts_too_long": dropped}
        reports = [one.report() for one in rewards if hasattr(one, "report")]
        if reports:
            found["reward_reports"] = reports
        for callback in callbacks:
            if hasattr(callback, "record"):
                found["hack_watch"] = callback.record(trainer.state.log_history)
        if flat:
            found["share_of_groups_without_variance"] = sum(flat) / len(flat)
        return found | (record or {})

    return teaching.teach_into(out, decides, build, args=args, policy=policy, record=facts)


def online_tokenizer(policy: str | Path) -> Any:
    """The policy's tokenizer with a chat template and a pad token of its own.

    Raises: ConfigError where padding is the end-of-text token: an end that was written could not be told from padding.
    """
    from teachfair.models.chat import ensure_chat_template, ensure_pad_token
    from teachfair.models.checkpoint import load_tokenizer

    tokenizer = load_tokenizer(policy)
    fix = "give the tokenizer a pad token of its own that the model has an embedding for, and save it with the policy"
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id == tokenizer.eos_token_id:
        raise ConfigError("the pad token is the end-of-text token", where=f"the tokenizer of {policy}", fix=fix)
    if ensure_chat_template(tokenizer):
        _log.warning("%s has no chat template; a plain one was added, and is saved with what is taught", policy)
    if ensure_pad_token(tokenizer) == "added" and tokenizer.pad_token_id >= _config(policy).vocab_size:
        raise ConfigError("there is no pad token", where=f"the tokenizer of {policy}", fix=fix)
    return tokenizer


def prompts_that_fit(
    policy: str | Path, tokenizer: Any, prompts: Dataset, max_completion_length: int
) -> tuple[Dataset, int]:
    """The prompts that leave room for an answer, and how many do not (said in the log; TRL no longer truncates).

    Raises: InputError for a prompt that is not a conversation, ConfigError if none fits.
    """
    from teachfair.models.chat import render, tokenize

    limits = [tokenizer.model_max_length, getattr(_config(policy), "max_position_embeddings", None)]
    context = min((limit for limit in limits if limit and limit > 0), default=10**30)
    room = context - max_completion_length
    if "prompt" not in prompts.column_names:
        raise InputError("the prompts have no column 'prompt'", where="the training set", fix="see TRL's prompt-only format")
    fitting = []
    for row, prompt in enumerate(prompts["prompt"]):
        if not isinstance(prompt, list) or not prompt or not isinstance(prompt[0], dict):
            raise InputError(
                "the prompt is not a conversation", where=f"row {row}: {str(prompt)[:80]!r}",
                fix='write prompts as [{"role": "user", "content": "…"}]',
            )  # fmt: skip
        if len(tokenize(tokenizer, render(tokenizer, prompt, generation_prompt=True))) <= room:
            fitting.append(row)
    dropped = len(prompts) - len(fitting)
    if not fitting:
        raise ConfigError(
            f"no prompt leaves room for an answer: the context is {context} tokens, an answer may take "
            f"{max_completion_length}", where="--max_completion_length", fix="lower it, or shorten the prompts",
        )  # fmt: skip
    if dropped:
        _log.warning(
            "%d of %d prompts are longer than %d tokens (context %d less max_completion_length %d) and left out",
            dropped, len(prompts), room, context, max_completion_length,
        )  # fmt: skip
    return (prompts.select(fitting) if dropped else prompts), dropped


def prompts_hash(prompts: Dataset) -> str:
    """sha256 over all columns of all prompts, in order: rewards may read any column."""
    return runs.fingerprint([dict(row) for row in prompts])


def identity(reward: Any) -> dict[str, Any]:
    """What is known of a reward that decides its numbers, for the run's fingerprint.

    A reward model: the hash of its folder. An object may say it itself by an attribute ``identity`` (JSON). A function:
    its name and the hash of its source; what it closes over is not seen, so give such a reward an ``identity``.
    Raises: CheckpointError for a model with several outputs.
    """
    from teachfair.models.checkpoint import content_hash

    if isinstance(reward, str | Path):
        return {"model": content_hash(reward)}
    config = getattr(reward, "config", None) or getattr(getattr(reward, "model", None), "config", None)
    if config is not None and hasattr(config, "num_labels"):
        name = str(getattr(config, "_name_or_path", ""))
        if config.num_labels != 1:
            raise CheckpointError(
                f"a reward model has one output, this one has {config.num_labels}", where=name or type(reward).__name__,
                fix="give a folder made by recipes/reward_model.py, or any classifier with num_labels=1",
            )  # fmt: skip
        return {"model": content_hash(name) if Path(name).is_dir() else name}
    said = getattr(reward, "identity", None)
    if said is not None:
        return {"reward": said() if callable(said) else said}
    code = reward if inspect.isroutine(reward) else type(reward)
    try:
        source = hashlib.sha256(inspect.getsource(code).encode()).hexdigest()
    except (OSError, TypeError):
        source = None
    return {"reward": getattr(reward, "__name__", type(reward).__name__), "source": source}


def _for_trl(rewards: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """Rewards as TRL takes them, and the tokenizer of each that is a model."""
    from teachfair.alignment.fairness_reward import FairnessReward
    from teachfair.alignment.rollouts import checked
    from teachfair.reward_models.ensemble import RewardEnsemble, load_reward_model
    from teachfair.reward_models.scoring import RewardModel

    taken, tokenizers = [], []
    for reward in rewards:
        # Not TRL's own loading by name: it gives a model without a head a random one, and the policy's options.
        model: Any = load_reward_model(reward) if isinstance(reward, str | Path) else reward
        if isinstance(model, RewardEnsemble):
            model = FairnessReward(model)  # TRL takes one classifier, or a function
        is_ours = isinstance(model, RewardModel)
        taken.append(model.model if is_ours else checked(model))
        tokenizers.append(model.tokenizer if is_ours else None)
    return taken, tokenizers


def _config(policy: str | Path) -> Any:
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(str(policy)).get_text_config()
