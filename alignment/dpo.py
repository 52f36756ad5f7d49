"""Teach by direct preference optimisation, with TRL's ``DPOTrainer`` as it is.

Loss (Rafailov et al. 2023, eq. 7), for a prompt x with the fair answer y_w and the unfair one y_l:

    L = −log σ( β·[log π(y_w|x) − log π_ref(y_w|x)] − β·[log π(y_l|x) − log π_ref(y_l|x)] )

A larger β keeps the policy closer to the reference. Full fine-tuning, LoRA and QLoRA differ only in ``peft_config``
and ``quantization_config``.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from teachfair import runs
from teachfair.alignment import teaching
from teachfair.errors import ConfigError

if TYPE_CHECKING:
    from datasets import Dataset
    from peft import PeftConfig
    from transformers import BitsAndBytesConfig
    from trl import DPOConfig

logger = logging.getLogger(__name__)

CARD = {
    "name": "dpo",
    "meaning": "direct preference optimisation on fair/unfair pairs",
    "paper": "Rafailov et al. 2023, Direct Preference Optimization, arXiv:2305.18290",
}


def teach(
    policy: str | Path,
    pairs: Dataset,
    out: str | Path,
    *,
    args: DPOConfig,
    peft_config: PeftConfig | None = None,
    quantization_config: BitsAndBytesConfig | None = None,
    record: dict[str, Any] | None = None,
) -> Path:
    """Teach ``policy`` with preference ``pairs``; write the taught checkpoint to ``out``.

    Args:
        policy: a checkpoint folder or hub id; never a model in memory, because the reference is re-read from it.
        pairs: rows of ``teachfair.data.pairs`` (conversational ``prompt, chosen, rejected``).
        out: output folder. It is complete when its ``run.json`` says so; a killed run goes on from its last sealed
            checkpoint when called again with the same arguments.
        args: TRL's own; ``output_dir`` is set to ``out``.
        peft_config, quantization_config: LoRA; with a 4-bit base as well, QLoRA.
        record: further fields for ``run.json`` (where the pairs came from, what ranked them).
    Returns: ``out``: a full checkpoint, or an adapter with the base and its quantisation named in ``teachfair.json``.
    Raises: ConfigError (no pairs, a policy that is itself an adapter), CheckpointError, RunFolderError, NonFiniteError.
    """
    from teachfair.data.pairs import margins_of
    from teachfair.models.chat import ensure_chat_template, ensure_pad_token
    from teachfair.models.checkpoint import load_tokenizer

    if len(pairs) == 0:
        raise ConfigError("there are no pairs to teach from", where="the training set", fix="check --dataset_name")
    if any(margins_of(pairs)):
        logger.warning("the pairs have severity margins; DPO does not read them, only a reward model does")
    teaching.check_policy(policy, peft_config, quantization_config)
    decides = teaching.deciding_facts("dpo", policy, args, peft_config, quantization_config, pairs=pairs_hash(pairs))

    def build() -> Any:
        tokenizer = load_tokenizer(policy)
        ensure_chat_template(tokenizer)
        ensure_pad_token(tokenizer)
        return _trainer(policy, pairs, tokenizer, args, peft_config, quantization_config)

    facts = {"n_pairs": len(pairs), **(record or {})}
    return teaching.teach_into(Path(out), decides, build, args=args, policy=policy, record=lambda trainer: facts)


def _trainer(
    policy: str | Path,
    pairs: Dataset,
    tokenizer: Any,
    args: DPOConfig,
    peft_config: PeftConfig | None,
    quantization_config: BitsAndBytesConfig | None,
) -> Any:
    from trl import DPOTrainer

    return teaching.prepare(
        "DPOTrainer",
        lambda: DPOTrainer(
            model=str(policy),
            args=args,
            train_dataset=pairs.select_columns(["prompt", "chosen", "rejected"]),
            processing_class=tokenizer,
            peft_config=peft_config,
            quantization_config=quantization_config,
        ),
        args,
    )


def pairs_hash(pairs: Dataset) -> str:
    """sha256 over the three texts of every pair, in order."""
    texts = pairs.select_columns(["prompt", "chosen", "rejected"])
    return runs.fingerprint([[row["prompt"], row["chosen"], row["rejected"]] for row in texts])
