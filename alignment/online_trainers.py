"""TRL's GRPO and RLOO trainers as they are, with an exact resume and a word about groups that teach nothing.

This module subclasses TRL's classes: import it where a trainer is built.
"""

from __future__ import annotations

import logging
from typing import Any

from transformers import TrainerCallback
from trl import GRPOTrainer, RLOOTrainer

from teachfair.alignment.rollouts import ExactResume

_log = logging.getLogger(__name__)


class SayFlatGroups(TrainerCallback):
    """Says once that all answers to some prompts had the same reward: such a group has no advantage to learn from.

    The share is in every log as TRL's ``frac_reward_zero_std``, and its mean in the run's record.
    """

    def __init__(self) -> None:
        self.was_said = False

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **more: Any) -> None:
        share = (logs or {}).get("frac_reward_zero_std")
        if share and not self.was_said and state.is_world_process_zero:
            self.was_said = True
            _log.warning(
                "step %d: in %.0f %% of the groups all answers have the same reward, so they teach nothing (said once; "
                "frac_reward_zero_std in the log counts them). More generations or a finer reward would help",
                state.global_step, 100 * share,
            )  # fmt: skip


class ResumableGRPOTrainer(ExactResume, GRPOTrainer):
    """GRPOTrainer; see the module's text."""

    def __init__(self, *positional: Any, **named: Any) -> None:
        super().__init__(*positional, **named)
        self.add_callback(SayFlatGroups())


class ResumableRLOOTrainer(ExactResume, RLOOTrainer):
    """RLOOTrainer; see the module's text."""

    def __init__(self, *positional: Any, **named: Any) -> None:
        super().__init__(*positional, **named)
        self.add_callback(SayFlatGroups())
