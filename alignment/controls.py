"""Controls: what the same trainer does when the lesson is not fairness.

``placebo`` teaches a fairness-neutral preference with the same trainer, number of pairs and steps; compared with it,
R* says whether fairness is more fragile under compression than any equally taught preference. ``sham`` shuffles which
side is fair; whatever it moves is not a lesson.

For a method that teaches online the placebo is other prompts with a reward model of the neutral preference, and the sham
is :class:`ShuffledReward` (docs/decisions/0006-online-controls.md).
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from teachfair import runs
from teachfair.errors import ConfigError, InputError

if TYPE_CHECKING:
    from datasets import Dataset


def placebo(pairs: Dataset, *, seed: int, neutral_pairs: Dataset | None = None) -> Dataset:
    """As many fairness-neutral pairs as there are taught ones.

    Args:
        pairs: the taught pairs; only their number is used.
        neutral_pairs: pairs whose preference has nothing to do with groups; at least as many.
    Raises: ConfigError if there are none, or too few.
    """
    if neutral_pairs is None or len(neutral_pairs) < len(pairs):
        found = 0 if neutral_pairs is None else len(neutral_pairs)
        raise ConfigError(
            f"the placebo needs {len(pairs)} fairness-neutral pairs, found {found}", where="placebo arm",
            fix="give a fairness-neutral preference set of that size as placebo_dataset_name",
        )  # fmt: skip
    chosen = np.random.default_rng(seed).permutation(len(neutral_pairs))[: len(pairs)]
    return neutral_pairs.select(np.sort(chosen).tolist())


def sham(pairs: Dataset, *, seed: int, neutral_pairs: Dataset | None = None) -> Dataset:
    """The same pairs with exactly half of them (rounded down) turned around at random: labels without information."""
    turned = np.zeros(len(pairs), dtype=bool)
    turned[: len(pairs) // 2] = True
    turned = np.random.default_rng(seed).permutation(turned)
    chosen, rejected = list(pairs["chosen"]), list(pairs["rejected"])
    sides = [(r, c) if t else (c, r) for c, r, t in zip(chosen, rejected, turned, strict=True)]
    features = pairs.features
    shuffled = pairs.remove_columns(["chosen", "rejected"])
    shuffled = shuffled.add_column("chosen", [side[0] for side in sides])
    return shuffled.add_column("rejected", [side[1] for side in sides]).select_columns(list(features)).cast(features)


class ShuffledReward:
    """The sham of a method that teaches online: the true rewards, handed to the wrong answers of the same batch.

    The batch keeps its rewards (their mean, spread and ties), so the trainer meets the same numbers as with the true
    reward; whatever it then moves is not a lesson. All orders are equally likely, the true one included: then each
    answer expects the batch's mean whatever it says. An order that moved *every* reward would punish the best answer.

    The order is a function of ``seed``, the trainer's ``global_step`` and the texts of the batch, and of nothing kept
    in memory: a run that was killed and resumed samples the same answers at the same step, and shuffles them alike. Each
    process shuffles its own part of a batch.

    Args:
        reward: a :class:`~teachfair.alignment.fairness_reward.FairnessReward`, or any reward function as TRL calls it.
            What it logs (``fairness/…``) are the true scores; the shuffled ones are what the trainer logs as reward.
        seed: of the order.
    Raises: ConfigError for a reward that is not a plain function or object: a folder or a bare model (wrap it in a
        ``FairnessReward``), or an asynchronous function.
    """

    def __init__(self, reward: Any, *, seed: int) -> None:
        later = inspect.iscoroutinefunction(reward) or inspect.iscoroutinefunction(getattr(reward, "__call__", None))  # noqa: B004
        if not callable(reward) or hasattr(reward, "forward") or later:
            raise ConfigError(
                f"a {type(reward).__name__} cannot be shuffled" + (", because it is asynchronous" if later else ""),
                where="sham", fix="give FairnessReward.load(folder), or a reward function that is not async",
            )  # fmt: skip
        self.reward, self.seed = reward, seed
        self.__name__ = f"shuffled_{getattr(reward, '__name__', type(reward).__name__)}"
        self.counts: Counter[str] = Counter()

    def identity(self) -> dict[str, Any]:
        """What decides these rewards, for the run's fingerprint: the reward's own identity and the seed."""
        from teachfair.alignment.online import identity

        return {"shuffled": identity(self.reward), "seed": self.seed}

    def report(self) -> dict[str, Any]:
        """JSON-able, for the run record: the reward's own report, beside what was shuffled."""
        own = self.reward.report() if hasattr(self.reward, "report") else {}
        return {**own, "shuffled": True, "shuffle_seed": self.seed, "shuffle_counts": dict(sorted(self.counts.items()))}

    def __call__(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        completion_ids: Sequence[Sequence[int]] | None = None,
        *,
        trainer_state: Any = None,
        log_extra: Callable[[str, list[Any]], None] | None = None,
        log_metric: Callable[[str, float], None] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """The rewards of one batch in another order. A None ("does not apply") is about the row: it stays in place.

        Raises: InputError if the batch holds one answer, which cannot be shuffled; whatever the reward itself raises.
        """
        if len(completions) < 2:
            raise InputError(
                "a batch of one answer cannot be shuffled: the sham would be the lesson itself", where="sham",
                fix="raise --per_device_train_batch_size, or --num_generations",
            )  # fmt: skip
        true = self.reward(
            prompts=prompts, completions=completions, completion_ids=completion_ids, trainer_state=trainer_state,
            log_extra=log_extra, log_metric=log_metric, **columns,
        )  # fmt: skip
        rewards = list(true)
        rated = [place for place, value in enumerate(rewards) if value is not None and value == value]
        step = int(getattr(trainer_state, "global_step", 0) or 0)
        # The texts too: several rollouts may fall on one step, and an evaluation falls on a training step.
        key = runs.fingerprint([self.seed, step, list(prompts), list(completions)])
        order = np.random.default_rng(int(key[:16], 16)).permutation(len(rated))
        self.counts["batches"] += 1
        self.counts["answers"] += len(rewards)
        self.counts["given another answer's reward"] += int((order != np.arange(len(rated))).sum())
        shuffled = list(rewards)
        for place, source in zip(rated, order, strict=True):
            shuffled[place] = rewards[rated[int(source)]]
        if log_extra is not None:
            log_extra("shuffled_reward", shuffled)
        return shuffled
