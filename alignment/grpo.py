"""Teach by group-relative policy optimisation (GRPO), with TRL's ``GRPOTrainer`` as it is.

``teach(policy, prompts, out, *, args, reward, …)`` is ``alignment.ppo.teach`` with ``trl.GRPOConfig`` as ``args``.
"""

from __future__ import annotations

from functools import partial

from teachfair.alignment.online import teach_online

CARD = {
    "name": "grpo",
    "meaning": "group-relative policy optimisation: a fairness reward compared within the answers to one prompt",
    "paper": "Shao et al. 2024, DeepSeekMath, arXiv:2402.03300",
}


def _trainer_class() -> type:
    from teachfair.alignment.online_trainers import ResumableGRPOTrainer

    return ResumableGRPOTrainer


teach = partial(teach_online, CARD["name"], _trainer_class)
