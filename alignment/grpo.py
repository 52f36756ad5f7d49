"""Teach by group-relative policy optimisation (GRPO), with TRL's ``GRPOTrainer`` as it is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from teachfair.alignment.online import teach_online

if TYPE_CHECKING:
    from datasets import Dataset
    from peft import PeftConfig
    from transformers import BitsAndBytesConfig
    from trl import GRPOConfig

CARD = {
    "name": "grpo",
    "meaning": "group-relative policy optimisation: a fairness reward compared within the answers to one prompt",
    "paper": "Shao et al. 2024, DeepSeekMath, arXiv:2402.03300",
}


def _trainer_class() -> type:
    from teachfair.alignment.online_trainers import ResumableGRPOTrainer

    return ResumableGRPOTrainer


def teach(
    policy: str | Path,
    prompts: Dataset,
    out: str | Path,
    *,
    args: GRPOConfig,
    reward: Any,
    peft_config: PeftConfig | None = None,
    quantization_config: BitsAndBytesConfig | None = None,
    record: dict[str, Any] | None = None,
) -> Path:
    """Teach ``policy`` with TRL's own GRPOTrainer; arguments, result and errors as in ``alignment.ppo.teach``."""
    return teach_online(
        CARD["name"], _trainer_class, policy, prompts, out, args=args, reward=reward, peft_config=peft_config,
        quantization_config=quantization_config, record=record,
    )  # fmt: skip
