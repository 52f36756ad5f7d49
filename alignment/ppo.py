"""Teach by proximal policy optimisation (PPO): ``ppo_trainer`` holds the method, this file runs it into a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from teachfair.alignment.online import teach_online

if TYPE_CHECKING:
    from datasets import Dataset
    from peft import PeftConfig
    from transformers import BitsAndBytesConfig

    from teachfair.alignment.ppo_trainer import PPOConfig

CARD = {
    "name": "ppo",
    "meaning": "proximal policy optimisation by a fairness reward, with a value head and a KL price per token",
    "paper": "Schulman et al. 2017, Proximal Policy Optimization Algorithms, arXiv:1707.06347",
}


def _trainer_class() -> type:
    from teachfair.alignment.ppo_trainer import PPOTrainer

    return PPOTrainer


def teach(
    policy: str | Path,
    prompts: Dataset,
    out: str | Path,
    *,
    args: PPOConfig,
    reward: Any,
    peft_config: PeftConfig | None = None,
    quantization_config: BitsAndBytesConfig | None = None,
    record: dict[str, Any] | None = None,
    callbacks: Sequence[Any] = (),
) -> Path:
    """Teach ``policy`` by proximal policy optimisation; write the taught checkpoint to ``out``.

    Args:
        policy: a checkpoint folder or hub id; never a model in memory, because the reference is re-read from it.
        prompts: rows with a conversational ``prompt``; all columns are given to the reward.
        out: output folder. It is complete when its ``run.json`` says so; a killed run goes on from its last sealed
            checkpoint, to the same weights as an unbroken one, when called again with the same arguments.
        args: ``ppo_trainer.PPOConfig``; ``output_dir`` is set to ``out``.
        reward: a reward model (folder, ``RewardModel`` or classifier module) or a callable as TRL takes it
            (``prompts, completions, completion_ids, **columns`` → one number, or None, per completion); or a list of
            these, weighted by ``args.reward_weights``. See ``online.identity`` for what the fingerprint sees of it.
        peft_config, quantization_config: LoRA; with a 4-bit base as well, QLoRA.
        record: further fields for ``run.json``.
        callbacks: transformers callbacks that watch the run, for instance ``hack_watch.HackWatch``. They may stop it but
            may not change what is taught: they are not part of the run's fingerprint.
    Returns: ``out``: a full checkpoint, or an adapter with the base and its quantisation named in ``teachfair.json``;
        beside it ``value_head.safetensors``, which no reader of the policy needs.
    Raises: ConfigError (no prompts, none that fits the context, pad = eos, a policy that is an adapter), InputError (a
        reward that is not a finite number per completion), CheckpointError, RunFolderError, NonFiniteError.
    """
    return teach_online(
        CARD["name"], _trainer_class, policy, prompts, out, args=args, reward=reward, peft_config=peft_config,
        quantization_config=quantization_config, record=record, callbacks=callbacks,
    )  # fmt: skip
