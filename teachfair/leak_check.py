"""What the wall holds training rows against: the items of benchmarks by name.

``data`` compares, ``evaluation`` knows the items, and neither may import the other's user: this module brings them together
for the study and the doors.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from teachfair import runs
from teachfair.doors import comma_list
from teachfair.errors import ConfigError

NOBODY = "nobody"  # in the place of the judge that benchmark judged wants with its prompts: here they are only read


def evaluation_items(
    names: Iterable[str], data_dir: str | Path | None, options: Mapping[str, Mapping[str, Any]]
) -> dict[str, list[dict[str, Any]]]:
    """The items of every benchmark named (a template by its file), by the name on its card. ``options``: keyword arguments
    of ``items``, by that name.

    Raises: ConfigError for an unknown benchmark, absent files or two files of one name; DataError for malformed ones.
    """
    from teachfair.evaluation.benchmarks import get  # with numpy behind it: not for a door's --help

    folder = None if data_dir is None else Path(data_dir)
    modules: dict[str, Any] = {}
    for word in names:
        module = get(word)
        name = str(module.CARD["name"])
        if modules.setdefault(name, module) != module:
            raise ConfigError(
                f"two benchmarks are called {name!r}", where=str(word), fix="give the template another name in its YAML"
            )
    return {name: _once(module.items(folder, **options.get(name, {}))) for name, module in modules.items()}


def _once(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A question that is asked in several prompt formats and option orders is read once, without any of them."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for place, item in enumerate(items):
        if "question" not in item:
            found[place,] = item
            continue
        text = f"{item['context']} {item['question']}".strip()
        found.setdefault((text, *sorted(item["options"])), {**item, "prompt": text})
    return list(found.values())


def asked_for(own: Any) -> dict[str, list[dict[str, Any]]]:
    """The items that a door's ``wall_benchmarks`` name; none where it names none.

    Args: own: a door's arguments, with ``wall_benchmarks, wall_data_dir, world_seed, bias``.
    Raises: as :func:`evaluation_items`.
    """
    from teachfair.data.sandbox.world import SandboxConfig

    world = {"world": SandboxConfig(seed=own.world_seed, bias=own.bias)}
    return evaluation_items(
        comma_list(own.wall_benchmarks), own.wall_data_dir, {"sandbox": world, "judged": world | {"judge": NOBODY}}
    )


def texts_fingerprint(evaluation: Mapping[str, Iterable[Mapping[str, Any]]]) -> str:
    """sha256 of all that the wall reads of these items: what a finished step was held against."""
    from teachfair.data.wall import texts_of

    return runs.fingerprint(
        {name: [[str(item.get("cluster")), *texts_of(item)] for item in items] for name, items in evaluation.items()}
    )
