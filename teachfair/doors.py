"""What every door (``recipes/*.py``, ``teachfair <verb>``) shares: arguments, help, config files, errors.

Doors take TRL's argument names and a ``--config`` YAML, like TRL's own scripts. Two things differ. ``--help`` answers
without importing TRL (its import alone takes seconds): it prints the door's own arguments and the ones of TRL that
matter most; ``--help_all`` prints every one. And a config file is read strictly: a duplicate or unknown key, a NaN, or
a variable that would change the dynamic loader is an error, where TRL's parser takes some of them in silence.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import json
import math
import os
import sys
import textwrap
import types
import typing
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from teachfair.errors import ConfigError, TeachfairError

_LOADER_VARIABLES = ("LD_", "DYLD_", "PYTHON", "PATH", "BASH_ENV", "ENV", "IFS")


def argument(help: str, default: Any = None, **metadata: Any) -> Any:
    """A dataclass field with a help text; a list default is copied per instance."""
    metadata = {"help": help, **metadata}
    if isinstance(default, list | dict):
        return dataclasses.field(default_factory=lambda: type(default)(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


# of every door that teaches
WALL_HELP = {
    "wall_benchmarks": "benchmarks, separated by commas (crows_pairs, judged, sandbox): before training, what is taught is "
    "held against their items, and a match stops the run. The counts go into run.json under wall. Default: none",
    "wall_data_dir": "folder with the files of wall_benchmarks, as --data_dir of evaluate",
    "allow_leaks": "train although rows match items of wall_benchmarks; they are counted all the same",
}


def _show(text: str) -> None:
    """Print a long text; a reader that has seen enough (``--help | head``) is no error."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains once more at its exit


@dataclasses.dataclass(frozen=True)
class Door:
    """One thing a user does.

    Args:
        name: the verb, as in ``teachfair <name>``.
        doc: the recipe's docstring, shown by ``--help``.
        own: the dataclass of the door's own arguments.
        run: called with the parsed arguments.
        trl: a function that imports TRL and returns its dataclasses (``DPOConfig``, ``ModelConfig`` …), or None.
        common: name → help of the TRL arguments worth showing in ``--help``.
        sandbox_config: the config under ``recipes/configs`` that is used where neither a config nor a model is given.
    """

    name: str
    doc: str
    own: type
    run: Callable[..., Any]
    trl: Callable[[], Sequence[type]] | None = None
    common: dict[str, str] = dataclasses.field(default_factory=dict)
    sandbox_config: str | None = None

    def __call__(self, argv: Sequence[str] | None = None) -> int:
        """Parse, run, and turn a user's error into one message on stderr and its exit code."""
        # A script's own folder comes first on sys.path, and recipes/evaluate.py would pass for the package `evaluate`.
        sys.path[:] = [entry for entry in sys.path if not entry.endswith("recipes")]
        try:
            argv = list(sys.argv[1:] if argv is None else argv)
            if any(flag in argv for flag in ("-h", "--help")):
                _show(self.help_text())
                return 0
            self.run(*self.parse(argv))
        except TeachfairError as error:
            print(f"\nerror: {error}", file=sys.stderr)
            return error.exit_code
        return 0

    def parse(self, argv: list[str]) -> tuple[Any, ...]:
        """Parsed dataclasses, ``own`` first. Config values come first, the command line overrides them."""
        config_path, rest = _take_config(argv)
        if config_path is None and self.sandbox_config and not given(argv, "model_name_or_path"):
            config_path = shipped_config(self.sandbox_config)
        values = read_config(config_path) if config_path else {}
        parser: Any
        if self.trl is None:
            parser = own_parser(self)
        else:
            _quieten()
            from trl import TrlParser

            class Parser(TrlParser):  # argparse prints 300 lines of usage before the one line that matters
                def error(self, message: str) -> typing.NoReturn:
                    raise ConfigError(message, where="the command line", fix="see --help, or --help_all")

            parser = Parser((self.own, *self.trl()), allow_abbrev=False)
            if "--help_all" in argv:
                parser.print_help()
                raise SystemExit(0)
        known = {action.dest for action in parser._actions} - {"help"}
        if self.trl is not None:
            known |= {"help_all"}
        for key in values:
            if key not in known:
                near = difflib.get_close_matches(key, known, n=1)
                raise ConfigError(
                    f"unknown key {key!r}", where=str(config_path),
                    fix=f"did you mean {near[0]!r}?" if near else "see --help_all for the known ones",
                )  # fmt: skip
        _refuse_unknown_flags(rest, known)
        argv = [*config_arguments(values, str(config_path)), *rest]
        if self.trl is None:
            return (_build(self.own, vars(parser.parse_args(argv))),)
        argv += _cpu_precision(argv, known)
        try:
            return tuple(parser.parse_args_into_dataclasses(args=argv))
        except ValueError as error:  # a check of TRL's or transformers' own dataclasses
            raise ConfigError(str(error).split("\n")[0], where="the arguments", fix="see --help_all") from error

    def help_text(self) -> str:
        """The help page, made without importing anything heavy."""
        lines = [self.doc.strip(), "", "Arguments of this door:"]
        for item in dataclasses.fields(self.own):
            lines += _help_entry(item.name, item.metadata.get("help", ""), _default(item))
        lines += _help_entry("config", "a YAML file of arguments; the command line overrides it", None)
        if self.trl is not None:
            lines += ["", "TRL's arguments, all of them accepted (--help_all lists them); the ones used most:"]
            for name, text in self.common.items():
                lines += _help_entry(name, text, None)
        return "\n".join(lines)


def shipped_config(name: str) -> Path:
    """Path of a YAML under ``recipes/configs``, in a checkout and in an installed wheel alike."""
    import importlib.resources

    return Path(str(importlib.resources.files("teachfair.recipes.configs"))) / name


def _default(item: dataclasses.Field[Any]) -> Any:
    if item.default is not dataclasses.MISSING:
        return item.default
    return item.default_factory() if item.default_factory is not dataclasses.MISSING else None


def _help_entry(name: str, text: str, default: Any) -> list[str]:
    tail = "" if default in (None, "", [], {}) else f" (default: {default})"
    body = textwrap.wrap(f"{text}{tail}", width=78, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return [f"  --{name}", *body]


def _take_config(argv: list[str]) -> tuple[Path | None, list[str]]:
    rest, path = [], None
    words = iter(argv)
    for word in words:
        if word == "--config" or word.startswith("--config="):
            value = word.partition("=")[2] or next(words, "")
            if not value:
                raise ConfigError("--config needs a file", where="the command line", fix="--config FILE.yaml")
            path = Path(value)
        else:
            rest.append(word)
    return path, rest


def read_config(path: str | os.PathLike[str]) -> dict[str, Any]:
    """A YAML mapping, read strictly. Its ``env:`` entries are set in the environment, as TRL does.

    Raises: ConfigError for a missing file, bad YAML, duplicate keys, NaN or infinite numbers, a value that is neither
        scalar, list nor mapping, or an ``env`` name that would change the dynamic loader or Python itself.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        pass

    def mapping(loader: Any, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            key = loader.construct_object(key_node, deep=True)
            if key in seen:
                raise ConfigError(
                    f"key {key!r} is given twice", where=f"{path}:{key_node.start_mark.line + 1}", fix="keep one"
                )
            seen[key] = loader.construct_object(value_node, deep=True)
        return seen

    # YAML 1.1 reads 1e-4 as text; every TRL user writes it and means a number.
    import re

    Loader.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"),
        list("-+0123456789"),
    )
    Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, mapping)
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError("no such config file", where=str(path), fix="check --config") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the config file cannot be read ({error})", where=str(path), fix="save it as UTF-8") from error
    try:
        values = yaml.load(text, Loader=Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise ConfigError(f"not YAML: {getattr(error, 'problem', error)}", where=where, fix="mend that line") from error
    if not isinstance(values, dict):
        raise ConfigError("a config file must be a mapping of argument names to values", where=str(path), fix="key: value")
    _refuse_non_finite(values, str(path))
    variables = values.pop("env", {}) or {}
    for name, value in variables.items():
        if any(str(name).startswith(prefix) for prefix in _LOADER_VARIABLES):
            raise ConfigError(f"env may not set {name}", where=str(path), fix="set it in your shell if you really want it")
        os.environ[str(name)] = str(value)
    return values


def _refuse_non_finite(value: Any, where: str, key: str = "") -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{key} is {value}", where=where, fix="give a finite number")
    if isinstance(value, dict):
        for name, item in value.items():
            _refuse_non_finite(item, where, f"{key}.{name}".lstrip("."))
    if isinstance(value, list):
        for item in value:
            _refuse_non_finite(item, where, key)


def config_arguments(values: dict[str, Any], where: str) -> list[str]:
    """Config values as command-line words, so that both go through the same type checks."""
    words: list[str] = []
    for key, value in values.items():
        if value is None:
            raise ConfigError(f"{key} has no value", where=where, fix="give a value, or leave the key out")
        words.append(f"--{key}")
        if isinstance(value, bool):
            words.append(str(value).lower())
        elif isinstance(value, dict):
            words.append(json.dumps(value))
        elif isinstance(value, list):
            words += [json.dumps(item) if isinstance(item, dict | list) else str(item) for item in value]
        else:
            words.append(str(value))
    return words


def _refuse_unknown_flags(argv: list[str], known: Iterable[str]) -> None:
    names = set(known)
    for word in argv:
        name = word.partition("=")[0].removeprefix("--").replace("-", "_")
        if word.startswith("--") and name not in names and name.removeprefix("no_") not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean --{near[0]}? " if near else ""
            raise ConfigError(
                f"unknown argument {word.partition('=')[0]}", where="the command line",
                fix=f"{hint}see --help, or --help_all",
            )  # fmt: skip


def _quieten() -> None:
    """Silence what libraries say about their own defaults and optional parts, which a user can do nothing about."""
    import logging
    import warnings

    # TRL's own default for a name that transformers is renaming.
    warnings.filterwarnings("ignore", message=".*gradient_checkpointing.*", category=FutureWarning)
    warnings.filterwarnings("ignore", message=".*pin_memory.*no accelerator.*")
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)  # an optional kernel package is absent


def _cpu_precision(argv: list[str], known: Iterable[str]) -> list[str]:
    """On a host without an accelerator TRL's default bf16 is an error: turn it off, unless the user asked for it.

    Raises: ConfigError if bf16 or fp16 was asked for on such a host.
    """
    import torch

    if "bf16" not in known or torch.accelerator.is_available():
        return []
    asked = {name: _value_after(argv, name) for name in ("bf16", "fp16")}
    launcher = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    for name, value in asked.items():
        if value is not None and value.lower() in ("", "true", "1", "yes"):
            raise ConfigError(
                f"{name} was asked for, but this host has no accelerator (on a CPU it is several times slower, or ignored)",
                where=f"--{name}", fix=f"leave --{name} out, or pass --{name} false",
            )  # fmt: skip
    if launcher not in ("no", ""):
        raise ConfigError(
            f"accelerate was launched with mixed precision {launcher}, but this host has no accelerator",
            where="accelerate launch --mixed_precision / its config file",
            fix="accelerate launch --config_file recipes/accelerate_configs/cpu.yaml …",
        )
    return [] if asked["bf16"] is not None else ["--bf16", "false"]


def _value_after(argv: list[str], name: str) -> str | None:
    """The last value given to ``--name`` (an empty string for the bare flag), or None where it was not given."""
    found = None
    for index, word in enumerate(argv):
        if word in (f"--{name}", f"--{name.replace('_', '-')}"):
            following = argv[index + 1] if index + 1 < len(argv) else "--"
            found = "" if following.startswith("--") else following
        elif word.startswith(f"--{name}="):
            found = word.partition("=")[2]
    return found


def given(argv: Sequence[str], name: str) -> bool:
    """Whether ``--name`` stands on the command line."""
    return _value_after(list(argv), name) is not None


def own_parser(door: Door) -> argparse.ArgumentParser:
    """An argparse parser of the door's own dataclass (bool, int, float, str, Path, lists of str)."""

    class Parser(argparse.ArgumentParser):
        def error(self, message: str) -> typing.NoReturn:
            raise ConfigError(message, where="the command line", fix=f"see teachfair {door.name} --help")

    parser = Parser(prog=f"teachfair {door.name}", add_help=False, allow_abbrev=False)
    hints = typing.get_type_hints(door.own)
    for item in dataclasses.fields(door.own):
        kind = _plain_type(hints[item.name])
        options: dict[str, Any] = {"default": _default(item), "dest": item.name}
        if kind is bool:
            options |= {"type": _boolean, "nargs": "?", "const": True}
        elif typing.get_origin(kind) is list:
            options |= {"nargs": "+", "type": str}
        else:
            options["type"] = kind
        if "choices" in item.metadata:
            options["choices"] = item.metadata["choices"]
        names = [f"--{item.name}"] + ([f"--{item.name.replace('_', '-')}"] if "_" in item.name else [])
        parser.add_argument(*names, **options)
    return parser


def _plain_type(hint: Any) -> Any:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return next(kind for kind in typing.get_args(hint) if kind is not type(None))
    return hint


def _boolean(text: str) -> bool:
    if text.lower() in ("true", "1", "yes", "y", "on"):
        return True
    if text.lower() in ("false", "0", "no", "n", "off"):
        return False
    raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")


def _build(own: type, values: dict[str, Any]) -> Any:
    return own(**{item.name: values[item.name] for item in dataclasses.fields(own)})


def comma_list(values: Sequence[str]) -> list[str]:
    """``["a,b", "c"]`` → ``["a", "b", "c"]``: lists may be typed with commas or spaces."""
    return [part.strip() for value in values for part in value.split(",") if part.strip()]
