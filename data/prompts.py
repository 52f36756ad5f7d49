"""Prompts to teach online with: prompt-only rows, or pairs of which only the prompt is asked.

A prompt is a conversation that ends with the user's turn; plain text becomes one. Unlike a pair's, all other columns of
a row are kept: a reward may read them (``swap``, ``group``, ``condition`` …, see ``alignment.fairness_reward``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from teachfair.data.excluding import excluded_by, read_exclusion
from teachfair.data.pairs import as_conversation, local_file, message_problems, read_rows
from teachfair.data.reading import Problem, hub_rows, refuse, text_problems
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
    path = local_file(path_or_id, split)
    if path is not None:
        lines, rows = read_rows(path)
        return prompts_dataset(rows, path.name, lines=lines, limit_errors=limit_errors)
    rows = hub_rows(str(path_or_id), None, split)
    return prompts_dataset(rows, f"{path_or_id}[{split}]", limit_errors=limit_errors)


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
    refuse(
        problems, bad=read - len(good), read=read, rows="prompt rows", limit=limit_errors,
        fix='mend or remove these rows; a row looks like {"prompt": [{"role": "user", "content": "…"}]}',
    )  # fmt: skip
    if not good:
        raise DataError("the file holds no prompts", where=where, fix="give a file with at least one prompt")
    names = dict.fromkeys(name for row in good for name in row)  # from_list would keep the first row's columns only
    try:
        return Dataset.from_list([{name: row.get(name) for name in names} for row in good])
    except (ValueError, TypeError, OverflowError) as error:  # pyarrow's types: text here, a number there
        raise DataError(
            f"a column does not have the same type in every row ({str(error)[:200]})", where=where,
            fix="write it alike in all of them",
        ) from error  # fmt: skip


def prompts_of_pairs(pairs: Dataset) -> Dataset:
    """Each prompt of ``pairs`` once, with the other columns of the first pair about it."""
    first: dict[str, int] = {}
    for place, prompt in enumerate(pairs["prompt"]):
        first.setdefault(str(prompt), place)
    return pairs.select(sorted(first.values())).remove_columns(["chosen", "rejected"])


def without_contested(prompts: Dataset, exclude_ids: str | Path, *, where: str) -> tuple[Dataset, dict[str, Any]]:
    """Rows with a ``prompt`` and an ``id`` (prompts, or pairs) without those whose prompt has an id on the list.

    A prompt of several pairs goes with all of them as soon as one is on the list: whose answer is the fair one is contested,
    and online it is the answer to the prompt that is rewarded.

    Returns: (the rows that are left, the fields of a run record that ``data.pairs.Counts`` has for pairs: ``read, kept,
        excluded, exclusions``).
    Raises: as ``data.excluding.read_exclusion``; DataError if no row has an id, or none is left.
    """
    exclusion = read_exclusion(exclude_ids)
    given = prompts["id"] if "id" in prompts.column_names else []
    ids = [None if identity is None else str(identity) for identity in given]
    if not any(ids):
        raise DataError(
            "no prompt has an id that a list could name", where=where,
            fix="add a column id, or read pairs by --dataset_source preference_file, which gives them one",
        )  # fmt: skip
    asked = [str(prompt) for prompt in prompts["prompt"]]
    contested = {prompt for prompt, identity in zip(asked, ids, strict=True) if identity in exclusion.ids}
    kept = [place for place, prompt in enumerate(asked) if prompt not in contested]
    met = sum(identity in exclusion.ids for identity in ids)
    told = excluded_by(exclusion, met=met, among=len(ids), left=len(kept))
    counts = {"read": len(ids), "kept": len(kept), "excluded": len(ids) - len(kept), "exclusions": [told]}
    return (prompts.select(kept) if contested else prompts), counts


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
