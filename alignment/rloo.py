"""Teach by REINFORCE leave-one-out (RLOO), with TRL's ``RLOOTrainer`` as it is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from teachfair.alignment.online import teach_online

if TYPE_CHECKING:
    from datasets import Dataset
    from peft import PeftConfig
    from transformers import BitsAndBytesConfig
    from trl import RLOOConfig

CARD = {
    "name": "rloo",
    "meaning": "REINFORCE with the mean reward of the prompt's other answers as baseline",
    "paper": "Ahmadian et al. 2024, Back to Basics: Revisiting REINFORCE Style Optimization, arXiv:2402.14740",
}


def _trainer_class() -> type:
    from teachfair.alignment.online_trainers import ResumableRLOOTrainer

    return ResumableRLOOTrainer


def teach(
    policy: str | Path,
    prompts: Dataset,
    out: str | Path,
    *,
    args: RLOOConfig,
    reward: Any,
    peft_config: PeftConfig | None = None,
    quantization_config: BitsAndBytesConfig | None = None,
    record: dict[str, Any] | None = None,
) -> Path:
    """Teach ``policy`` with TRL's own RLOOTrainer; arguments, result and errors as in ``alignment.ppo.teach``."""
    return teach_online(
        CARD["name"], _trainer_class, policy, prompts, out, args=args, reward=reward, peft_config=peft_config,
        quantization_config=quantization_config, record=record,
    )  # fmt: skip
