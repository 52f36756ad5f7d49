"""Second floor: teach a policy what is fair, with TRL's trainers; and the controls.

A teaching method is one file with ``teach(policy, pairs, out, ...) -> Path``, named in ``METHODS``. A method that teaches
online takes prompts in place of pairs, and a ``reward``; it is named in ``ONLINE_METHODS``. Both are arms of a study.

A control is a lesson that is not fairness, taught by any of these methods: ``CONTROLS`` names it, with the function that
turns pairs into pairs of the same number and form. Online, the placebo is other prompts and a reward model of the neutral
preference, and the sham is ``controls.ShuffledReward``. A control's arm is called ``<control>-<method>``.
"""

from __future__ import annotations

from teachfair.alignment import controls, dpo, grpo, ppo, rloo

METHODS = {"dpo": dpo}
ONLINE_METHODS = {"ppo": ppo, "grpo": grpo, "rloo": rloo}
CONTROLS = {"placebo": controls.placebo, "sham": controls.sham}
