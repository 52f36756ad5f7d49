"""The one family of errors that a user can cause.

Every message has three parts: what was wrong, where, and what to do. The doors (``recipes/``,
``teachfair <verb>``) print it without a traceback and exit with code 2.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class TeachfairError(Exception):
    """What was wrong, where, and what to do about it."""

    exit_code = 2

    def __init__(self, what: str, *, where: str = "", fix: str = "") -> None:
        self.what, self.where, self.fix = what, where, fix
        lines = [what]
        if where:
            lines.append(f"  where: {where}")
        if fix:
            lines.append(f"  what to do: {fix}")
        super().__init__("\n".join(lines))


class InputError(TeachfairError):
    """A value handed to a function is not usable (shape, range, not finite)."""


class DataError(TeachfairError):
    """A data file or row is malformed. ``where`` reads ``file:line: field``."""


class ConfigError(TeachfairError):
    """An argument, a YAML key or a combination of them is wrong."""


class CheckpointError(TeachfairError):
    """A checkpoint folder is missing, incomplete, of the wrong kind, or its base is gone."""


class RunFolderError(TeachfairError):
    """An output folder is in use, unwritable, or holds something else."""


class NonFiniteError(TeachfairError):
    """A loss, gradient or weight became NaN or infinite; nothing of that step was saved."""

    exit_code = 3


class HackedRewardError(TeachfairError):
    """A policy exploits its reward and the run was to stop at that; the last good checkpoint is kept and named."""

    exit_code = 4


def unknown_name(kind: str, name: str, known: Iterable[str]) -> ConfigError:
    """The error for a name that is not in one of the project's dicts: lists the known ones, offers the nearest."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return ConfigError(
        f"unknown {kind} {name!r}", where=f"--{kind}", fix=f"{hint}known ones: {', '.join(names) or 'none'}"
    )
