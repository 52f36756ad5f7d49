"""The console command: ``teachfair <verb>``, the same doors as ``recipes/<verb>.py``."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from teachfair import __version__
from teachfair.errors import ConfigError

# verb → (module of the door, one line for the overview). Importing a door's module loads nothing heavy.
VERBS = {
    "audit-pairs": ("audit_pairs", "what tells fair from unfair answers without reading them?"),
    "reward-model": ("reward_model", "train the fairness reward model"),
    "audit-reward": ("audit_reward", "what may this reward model be used for, and what not?"),
    "classify": ("classify", "use the reward model as a bias classifier"),
    "dpo": ("dpo_fair", "teach a policy by DPO, ranked by the reward model"),
    "ppo": ("ppo_fair", "teach a policy by PPO on its own answers, judged by the reward model"),
    "grpo": ("grpo_fair", "the same by GRPO: answers to one prompt compared with each other"),
    "rloo": ("rloo_fair", "the same by RLOO"),
    "sample-pairs": ("sample_pairs", "pairs of a policy's own answers, ranked by the reward model"),
    "dial": ("dial", "the strength of a taught lesson: measure, pick, verify, save"),
    "compress": ("compress", "compress a checkpoint: int8, nf4, fp4; or merge an adapter"),
    "evaluate": ("evaluate", "measure a policy: bias with its guard-rails"),
    "knows": ("knows", "does a model still know who is who? taught, forgotten, hidden or broken"),
    "survival": ("survival", "the grid: does taught fairness survive compression?"),
}


def overview() -> str:
    """The text of ``teachfair --help``."""
    verbs = "\n".join(f"  {name:<14}{text}" for name, (_, text) in VERBS.items())
    return (
        "teachfair: teach language models what is fair, and measure whether the lesson survives compression\n\n"
        f"usage: teachfair <verb> [arguments]      (teachfair <verb> --help)\n\n{verbs}\n\n"
        "Every verb without arguments runs on the embedded sandbox. Training on several devices:\n"
        "accelerate launch recipes/<script>.py, with the same arguments."
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0, or 2 for a user's error, 3 for a run that stopped on NaN, 4 on an exploited reward."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help", "help"):
        print(overview())
        return 0
    if words[0] in ("-V", "--version"):
        print(f"teachfair {__version__}")
        return 0
    if words[0] not in VERBS:
        error = ConfigError(
            f"unknown verb {words[0]!r}", where="teachfair <verb>", fix=f"known verbs: {', '.join(VERBS)}"
        )
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    door = importlib.import_module(f"teachfair.recipes.{VERBS[words[0]][0]}").door
    return int(door(words[1:]))


if __name__ == "__main__":
    raise SystemExit(main())
