"""What the benchmarks of written answers share: prompts files, counterfactual prompts, and what is read off an answer."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from teachfair.data import answer_traits
from teachfair.data.counterfactuals import swap
from teachfair.data.swapping import swap_mapping, swapped_messages, swapped_text
from teachfair.errors import DataError, InputError

if TYPE_CHECKING:
    from teachfair.models.greedy import Answer


TRAITS = ("answer_tokens", "unfinished", "group_mention", "refusal", "abstention", "repetition")


def prompts_file(data_dir: Path | None, names: Sequence[str]) -> Path | None:
    """The first of ``names`` that is a file in ``data_dir``."""
    if data_dir is None:
        return None
    return next((Path(data_dir) / name for name in names if (Path(data_dir) / name).is_file()), None)


def read_prompts(file: Path) -> list[dict[str, Any]]:
    """The rows of a prompts file, JSON lines or parquet, each with ``prompt`` as messages and every column named.

    Raises: DataError naming file and line.
    """
    rows = [_checked(row, f"{file}:{line}", line) for line, row in _read(file)]
    if not rows:
        raise DataError("the file holds no prompts", where=str(file), fix='one {"prompt": "…"} a line')
    return rows


def _read(file: Path) -> list[tuple[int, Any]]:
    if file.suffix == ".parquet":
        import pandas as pd

        return list(enumerate(json.loads(pd.read_parquet(file).to_json(orient="records")), start=1))
    rows = []
    for line, text in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        if text.strip():
            try:
                rows.append((line, json.loads(text)))
            except ValueError as error:
                raise DataError(f"not JSON: {error}", where=f"{file}:{line}", fix="write one JSON object a line") from error
    return rows


def _checked(row: Any, where: str, line: int) -> dict[str, Any]:
    prompt = row.get("prompt") if isinstance(row, dict) else None
    if isinstance(prompt, str) and prompt.strip():
        prompt = [{"role": "user", "content": prompt}]
    if not isinstance(prompt, list) or not prompt or not all(isinstance(t, dict) and t.get("content") for t in prompt):
        raise DataError(
            f"prompt: {str(prompt)[:80]!r} is neither a text nor a conversation", where=where,
            fix='{"prompt": "…"} or {"prompt": [{"role": "user", "content": "…"}]}',
        )  # fmt: skip
    swap_mapping(row.get("swap"), where)
    name = str(row.get("id") or f"prompt-{line}")
    plain = {key: str(row.get(key) or default) for key, default in
             (("cluster", name), ("axis", "none"), ("lang", "und"), ("condition", "prompt"))}  # fmt: skip
    return {**row, **plain, "prompt": prompt, "id": name, "groups": row.get("groups") or []}


def counterfactual_of(item: Mapping[str, Any]) -> list[dict[str, str]] | None:
    """The item's prompt about the other group, by its ``counterfactual_prompt`` or its ``swap``; None without either."""
    given = item.get("counterfactual_prompt")
    if isinstance(given, str) and given:
        return [{"role": "user", "content": given}]
    if given:
        return [dict(turn) for turn in given]
    return swapped_messages(item["messages"], item["swap"]) if item.get("swap") else None


def same_with_groups_exchanged(answer: str, twin: str, item: Mapping[str, Any]) -> bool:
    """Whether an answer and its twin's say the same, the groups exchanged; white space and capitals do not count.

    By the item's ``rules`` (lang, axis, *groups: :func:`teachfair.data.counterfactuals.swap`), else by its ``swap``. Either
    direction will do: "his" comes back as "her", and "her" as "him" or "his".
    """
    return _plain(exchanged(answer, item)) == _plain(twin) or _plain(exchanged(twin, item)) == _plain(answer)


def exchanged(text: str, item: Mapping[str, Any]) -> str:
    """``text`` about the other group, by the item's ``rules`` or ``swap``."""
    if item.get("rules"):
        lang, axis, *groups = item["rules"]
        return swap(text, lang, axis, groups=groups or None, definitional="word", unsure="swap").text
    return swapped_text(text, item.get("swap"))


def answer_columns(answer: Answer, terms: Sequence[str], lang: str = "en") -> dict[str, Any]:
    """The columns that the guard-rails read: length, unfinished, mention of the group, refusal, abstention, repetition.

    ``group_mention`` is NaN without ``terms``; the phrases of refusals and abstentions are those of ``lang``, English for
    a language that has none. Where nothing was said, because the prompt has a ``problem``, all numbers are NaN.
    """
    if problem := problem_of(answer):
        return dict.fromkeys(TRAITS, math.nan) | {"answer": "", "problem": problem}
    refusals, abstentions = answer_traits.phrases(lang)
    return {
        "answer": answer.text, "answer_tokens": answer.n_tokens, "unfinished": float(not answer.finished),
        "group_mention": float(answer_traits.mentions(answer.text, terms)) if terms else math.nan,
        "refusal": float(answer_traits.mentions(answer.text, refusals)),
        "abstention": float(answer_traits.mentions(answer.text, abstentions)),
        "repetition": answer_traits.repetition(answer.text), "problem": "",
    }  # fmt: skip


def problem_of(answer: Answer) -> str:
    """Why a prompt could not be answered, "" if it was. A scorer that raises in such a case has no word for it."""
    return str(getattr(answer, "problem", ""))


def answer_role(columns: Mapping[str, Any], correct: float = math.nan) -> str:
    """``unknown`` for an abstention, ``refusal``, ``right`` or ``other``; "" where nothing was said."""
    if columns["problem"]:
        return ""
    if columns["abstention"]:
        return "unknown"
    if columns["refusal"]:
        return "refusal"
    return "right" if correct == 1 else "other"


def longest_answer(judge: Any, asked: Sequence[Sequence[Mapping[str, str]]], max_new_tokens: int) -> int:
    """``max_new_tokens``, or what the longest prompt leaves in the judge's context. Raises: InputError if none."""
    room = judge.max_tokens - max(len(judge.token_ids([*prompt, {"role": "assistant", "content": "x"}])) for prompt in asked)
    if (longest := min(max_new_tokens, room)) < 1:
        raise InputError(
            f"a prompt leaves no room for an answer in the {judge.max_tokens} tokens that the judge reads",
            where=f"judge {judge.name}", fix="leave long prompts out, or take a judge with a longer context",
        )  # fmt: skip
    return longest


def judge_scores(judge: Any, asked: Sequence[Sequence[Mapping[str, str]]], answers: Sequence[Answer]) -> list[float]:
    """What a reward model says of each answer to its prompt: its logits."""
    talks = [
        [*prompt, {"role": "assistant", "content": answer.text}] for prompt, answer in zip(asked, answers, strict=True)
    ]
    return [float(score) for score in judge.score(talks)]


def mean(values: Iterable[Any]) -> float:
    """Mean of the values that are not NaN; NaN without any."""
    found = [float(value) for value in values if not math.isnan(float(value))]
    return math.fsum(found) / len(found) if found else math.nan


def _plain(text: str) -> str:
    return " ".join(text.split()).lower()
