"""Teach by REINFORCE leave-one-out (RLOO), with TRL's ``RLOOTrainer`` as it is.

``teach(policy, prompts, out, *, args, reward, …)`` is ``alignment.ppo.teach`` with ``trl.RLOOConfig`` as ``args``.
"""

from __future__ import annotations

from functools import partial

from teachfair.alignment.online import teach_online

CARD = {
    "name": "rloo",
    "meaning": "REINFORCE with the mean reward of the prompt's other answers as baseline",
    "paper": "Ahmadian et al. 2024, Back to Basics: Revisiting REINFORCE Style Optimization, arXiv:2402.14740",
}


def _trainer_class() -> type:
    from teachfair.alignment.online_trainers import ResumableRLOOTrainer

    return ResumableRLOOTrainer


teach = partial(teach_online, CARD["name"], _trainer_class)
