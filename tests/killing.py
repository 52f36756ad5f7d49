"""A run that dies at the end of a step: a fixture of every floor's tests of resuming (tests/conftest.py hands it out)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest


class Killed(BaseException):
    """Not an Exception: no ``except Exception`` on the way may survive it."""


@pytest.fixture
def kill_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int | None], None]:
    """kill_at(step): the next trainers die at the end of that step; kill_at(None): they live."""
    from transformers import Trainer, TrainerCallback

    step: list[int | None] = [None]

    class Kill(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            if state.global_step == step[0]:
                raise Killed

    original = Trainer.__init__

    def with_killer(self: Any, *positional: Any, **named: Any) -> None:
        original(self, *positional, **named)
        self.add_callback(Kill())

    monkeypatch.setattr(Trainer, "__init__", with_killer)
    return lambda at: step.__setitem__(0, at)
