"""The hack watch: notices when a policy exploits its reward, says so with step and quantity, and can stop the run.

What is watched and when it is an alarm: :mod:`teachfair.alignment.alarms`. The quantities come from the trainer's own
log (``kl``, ``entropy``) and from :class:`~teachfair.alignment.fairness_reward.FairnessReward` (``fairness/…``).

This module defines a callback and therefore imports transformers; import it where a trainer is built.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from teachfair.alignment.alarms import DEFAULT, Alarm, WatchConfig, alarms
from teachfair.errors import ConfigError, HackedRewardError
from teachfair.runs import write_json

_log = logging.getLogger(__name__)


class HackWatch(TrainerCallback):
    """Reads the log at every logged step; warns at each new alarm, once.

    Args:
        config: see :class:`WatchConfig`. Its windows count log entries: with ``logging_steps=1``, steps.
        stop: stop at the first alarm. The steps since the alarm's window began are not saved; the newest sealed
            checkpoint from before it is named in the error. A run that has an alarm does not go on: started again, it
            stops with the same error before its first step. Without: warn and go on, also after an earlier stop.
        out: a JSON file for the alarms, rewritten at each new one and at the end of training.

    Attributes: ``alarms``, in the order of their steps.

    Raises (out of ``trainer.train()``): HackedRewardError with ``stop``, on every rank alike. ConfigError at the start if
        ``stop`` is set and checkpoints are kept so briefly that none from before an alarm could be left.
    """

    def __init__(
        self, config: WatchConfig = DEFAULT, *, stop: bool = False, out: str | Path | None = None
    ) -> None:
        self.config = config
        self.stop = stop
        self.out = Path(out) if out is not None else None
        self.alarms: list[Alarm] = []

    def record(self, history: Sequence[Mapping[str, Any]] | None = None) -> dict[str, Any]:
        """JSON-able: how the log was read and what was found; in ``history``, where it is given."""
        if history is not None:
            self.alarms = alarms(history, self.config)
        return {
            "baseline": self.config.baseline, "window": self.config.window, "sigmas": self.config.sigmas, "stop": self.stop,
            "watched": sorted({limit.quantity for limit in self.config.limits}),
            "alarms": [alarm.to_dict() for alarm in self.alarms],
        }  # fmt: skip

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        every = max(1, int(state.logging_steps or args.logging_steps))
        needed = (self.config.baseline + self.config.window) * every
        if 0 < state.max_steps < needed:
            _log.warning(
                "the hack watch needs %d steps to know what is normal, this run has %d; log more often (--logging_steps)",
                needed, state.max_steps,
            )  # fmt: skip
        span = self.config.window * every
        limit = args.save_total_limit
        saves = int(state.save_steps or args.save_steps)
        if self.stop and str(getattr(args.save_strategy, "value", args.save_strategy)) == "no":
            _log.warning("the hack watch will stop this run at an alarm, but no checkpoint is saved that could be kept")
        elif self.stop and limit is not None and (limit - 1) * saves < span:
            raise ConfigError(
                f"an alarm doubts the last {span} steps, but only the last {limit} checkpoints, {saves} steps apart, are "
                "kept: none from before it would be left",
                where="--save_total_limit, --save_steps, --logging_steps",
                fix=f"keep at least {1 + -(-span // saves)} checkpoints, or log more often",
            )
        self.alarms = alarms(state.log_history, self.config)  # a resumed run has warned of these already
        if self.stop and (known := self.alarms or self._written(args)):
            raise self._error(known[0], args, state)

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        known = {(alarm.quantity, alarm.direction) for alarm in self.alarms}
        new = [
            alarm for alarm in alarms(state.log_history, self.config) if (alarm.quantity, alarm.direction) not in known
        ]
        if not new:
            return
        self.alarms += new
        if state.is_world_process_zero:
            for alarm in new:
                _log.warning("hack watch: %s", alarm)
            self._write()
        if self.stop:
            raise self._error(new[0], args, state)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero:
            self._write()

    def _write(self) -> None:
        if self.out is not None:
            write_json(self.out, self.record())

    def _written(self, args: TrainingArguments) -> list[Alarm]:
        """The alarms of an earlier start of this run, which the checkpoint it goes on from is too old to know of."""
        if self.out is None or self.out.parent.resolve() != Path(args.output_dir or ".").resolve():
            return []  # the file may be of any run
        try:
            return [Alarm(**alarm) for alarm in json.loads(self.out.read_text(encoding="utf-8"))["alarms"]]
        except (OSError, ValueError, KeyError, TypeError):
            return []

    def _error(self, alarm: Alarm, args: TrainingArguments, state: TrainerState) -> HackedRewardError:
        from teachfair.models.sealing import last_good

        kept = "named by the first process"
        if state.is_world_process_zero:  # one process looks: it renames what is damaged
            kept = str(last_good(args.output_dir or ".", before=alarm.since) or "none was saved before")
        return HackedRewardError(
            f"the policy exploits its reward: {alarm}",
            where=f"step {alarm.step}; the last good checkpoint: {kept}",
            fix="mend the reward (a rule, a reward model trained on such answers, a larger --beta) and start again from "
            "that checkpoint; or, if you want to teach this, switch the stop off (--hack_watch warn): the run goes on",
        )
