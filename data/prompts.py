"""Prompts to teach online with: prompt-only rows, or pairs of which only the prompt is asked.

A prompt is a conversation that ends with the user's turn; plain text becomes one. Unlike a pair's, all other columns of
a row are kept: a reward may read them (``swap``, ``group``, ``condition`` …, see ``alignment.fairness_reward``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from teachfair.data.pairs import FORMATS, Problem, as_conversation, message_problems, read_rows, text_problems
from teachfair.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset

# Names under which TRL's trainers hand other things to a reward, and columns that would start other kinds of training.
RESERVED = (
    "prompts", "completion", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric", "environments",
    "image", "images", "tools",
)  # fmt: skip


def load_prompts(path_or_id: str | Path, split: str = "train", *, limit_errors: int = 20) -> Dataset:
    """Rows with a conversational ``prompt`` of a file (JSONL, JSON, parquet, CSV), a folder's ``<split>`` file, or the hub.

    A row gives ``prompt`` (text or messages), or the two sides of a preference pair that begin alike; ``chosen`` and
    ``rejected`` are not kept.
    Raises: DataError that lists every malformed row as ``file:line: field: what``, or says that there is no such file.
    """
    path = Path(path_or_id)
    if path.is_dir():
        found = [path / f"{split}{suffix}" for suffix in FORMATS if (path / f"{split}{suffix}").is_file()]
        if len(found) != 1:
            raise DataError(
                f"the folder holds {len(found) or 'no'} files of split {split!r}, one was wanted", where=str(path),
                fix="name the file itself",
            )  # fmt: skip
        path = found[0]
    if path.exists():
        lines, rows = read_rows(path)
        return prompts_dataset(rows, path.name, lines=lines, limit_errors=limit_errors)
    if path.suffix.lower() in FORMATS or path.is_absolute() or str(path_or_id).count("/") > 1:
        raise DataError("there is no such file", where=str(path_or_id), fix="check the path")
    import datasets

    try:
        table = datasets.load_dataset(str(path_or_id), split=split)
    except Exception as error:  # the hub client raises a dozen unrelated types; the user needs one message
        raise DataError(
            f"neither a file nor a dataset that could be loaded ({type(error).__name__}: {str(error)[:200]})",
            where=f"{path_or_id}, split {split}", fix="check name, split and network, or give a local file",
        ) from error  # fmt: skip
    return prompts_dataset(table, f"{path_or_id}[{split}]", limit_errors=limit_errors)


def prompts_dataset(
    rows: Iterable[Any], where: str, *, lines: Sequence[int] | None = None, limit_errors: int = 20
) -> Dataset:
    """Rows as :func:`load_prompts` takes them, as a Dataset; ``where`` and ``lines`` name them in errors."""
    from datasets import Dataset

    good: list[dict[str, Any]] = []
    problems: list[Problem] = []
    read = 0
    for number, raw in enumerate(rows):
        read += 1
        found = list(_row_problems(raw))
        if not found:
            try:
                good.append(_prompt_row(raw))
                continue
            except DataError as error:
                found = [(error.where, error.what)]
        line = lines[number] if lines is not None else number + 1
        problems += [Problem(where, line, name, what) for name, what in found]
    if problems:
        shown = [str(problem) for problem in problems[:limit_errors]]
        if len(problems) > limit_errors:
            shown.append(f"… and {len(problems) - limit_errors} more problems")
        raise DataError(
            f"{read - len(good)} of {read} prompt rows cannot be used", where="\n    ".join(["", *shown]),
            fix='mend or remove these rows; a row looks like {"prompt": [{"role": "user", "content": "…"}]}',
        )  # fmt: skip
    if not good:
        raise DataError("the file holds no prompts", where=where, fix="give a file with at least one prompt")
    try:
        return Dataset.from_list(good)
    except (ValueError, TypeError, OverflowError) as error:  # pyarrow's types: text here, a number there
        raise DataError(
            f"a column does not have the same type in every row ({str(error)[:200]})", where=where,
            fix="write it alike in all of them",
        ) from error  # fmt: skip


def _row_problems(raw: Any) -> Iterator[tuple[str, str]]:
    if not isinstance(raw, dict):
        yield getattr(raw, "field", "row"), getattr(raw, "what", "an object with a prompt was wanted")
        return
    for name in RESERVED:
        if name in raw:
            yield name, "a reward is given something else under this name; rename the column"
    if raw.get("prompt") is None and not {"chosen", "rejected"} <= set(raw):
        yield "prompt", f"missing (this row has: {', '.join(str(key)[:40] for key in list(raw)[:8]) or 'nothing'})"
        return
    for name in ("prompt",) if raw.get("prompt") is not None else ("chosen", "rejected"):
        value = raw[name]
        yield from message_problems(name, value) if isinstance(value, list | tuple) else text_problems(name, value)


def _prompt_row(raw: dict[str, Any]) -> dict[str, Any]:
    prompt = raw.get("prompt")
    if prompt is None:
        prompt = as_conversation(None, raw["chosen"], raw["rejected"])["prompt"]
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    if prompt[-1]["role"] != "user":
        raise DataError(f"the last message is the {prompt[-1]['role']}'s: nothing is asked", where="prompt")
    kept = {name: value for name, value in raw.items() if name not in ("prompt", "chosen", "rejected")}
    return {"prompt": [{"role": turn["role"], "content": turn["content"]} for turn in prompt], **kept}
