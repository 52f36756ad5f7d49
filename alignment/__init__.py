"""Second floor: teach a policy what is fair, with TRL's trainers; and the controls.

A teaching method is one file with ``teach(policy, pairs, out, ...) -> Path``, named in ``METHODS``. A method that teaches
online takes prompts in place of pairs, and a ``reward``; it is named in ``ONLINE_METHODS`` (not yet an arm of a study). A
control is one file's function that turns pairs into pairs of the same number and form.
"""

from __future__ import annotations

from teachfair.alignment import controls, dpo, grpo, ppo, rloo

METHODS = {"dpo": dpo}
ONLINE_METHODS = {"ppo": ppo, "grpo": grpo, "rloo": rloo}
CONTROLS = {"placebo": controls.placebo, "sham": controls.sham}
