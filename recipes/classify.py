"""Use a fairness reward model by itself as a bias classifier: label, probability and raw reward for every text.

    python recipes/classify.py --model_name_or_path runs/reward_model --text "She is a nurse." "He is a nurse."
    python recipes/classify.py --model_name_or_path runs/reward_model --file texts.txt --output scores.csv
    python recipes/classify.py --model_name_or_path runs/reward_model --file pairs.jsonl --output judged.jsonl
    python recipes/classify.py --model_name_or_path runs/reward_model --text "She is a nurse." --explain both

Without arguments: the sandbox's reward model on a few sandbox texts. A text file has one text per line. A row of JSONL, CSV
or parquet is a text (--text_column), a conversation (messages, or prompt and completion) or a preference pair (prompt,
chosen, rejected); its other columns are kept. A killed run goes on when the same command is given again, except from
standard input. docs/classify.md says what happens to malformed rows.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from teachfair.doors import Door, argument


@dataclass
class ClassifyArguments:
    """What to classify, and where the answers go."""

    model_name_or_path: str | None = argument("reward-model folder. Default: the sandbox's")
    text: list[str] | None = argument("texts to classify, each in quotes, instead of --file")
    file: str | None = argument(
        "UTF-8 text file with one text per line, .jsonl (also .gz), .csv or .parquet; '-' = standard input. "
        "Default: sandbox texts"
    )
    format: str = argument(
        "format of --file where its name does not tell: txt, jsonl, csv, parquet", "auto",
        choices=("auto", "txt", "jsonl", "csv", "parquet"),
    )  # fmt: skip
    text_column: str | None = argument(
        "field of the text in JSONL, CSV and parquet. Default: text, where a row is neither a pair nor a conversation"
    )
    output: str | None = argument(
        "output file; the ending decides: .jsonl, .csv or .parquet. Default: JSONL on standard output"
    )
    on_error: str = argument(
        "at a malformed row: stop, and list what is malformed from there on (up to 20); or keep it without a label and "
        "with the reason", "stop", choices=("stop", "keep"),
    )  # fmt: skip
    long_texts: str = argument(
        "a text longer than the model reads: window (read it in overlapping windows, of which the least fair one decides; "
        "the column windows says how many), or refuse (no label, with the reason)", "window", choices=("window", "refuse"),
    )  # fmt: skip
    explain: str | None = argument(
        "which words moved the score: occlusion (leave each out), swap (exchange the gender), both, or captum (integrated "
        "gradients; needs the extra teachfair[explain])", choices=("occlusion", "swap", "both", "captum"),
    )  # fmt: skip
    lang: str = argument("language of the texts, for --explain swap: en or fr", "en", choices=("en", "fr"))
    batch_size: int = argument("the most texts scored together; the result does not depend on it", 64)
    read_ahead: int | None = argument(
        "rows in memory at a time; more of them are sorted by length better. Default: 4096; 256 with --explain or from "
        "standard input"
    )
    overwrite: bool = argument("replace an output file, or an unfinished run of other arguments, that is there", False)


def run(own: ClassifyArguments) -> None:
    """Stream rows through the reward model."""
    import functools

    from teachfair.alignment import lesson
    from teachfair.errors import ConfigError
    from teachfair.reward_models import streaming
    from teachfair.reward_models.ensemble import load_reward_model
    from teachfair.reward_models.explaining import explain_rows
    from teachfair.reward_models.text_files import Source, output_path

    if own.text and own.file:
        raise ConfigError("both --text and --file are given", where="the command line", fix="give one of them")
    for name in ("batch_size", "read_ahead"):
        if (given := getattr(own, name)) is not None and given < 1:
            raise ConfigError(f"{given} rows", where=f"--{name}", fix="give 1 or more")
    if own.output:
        output_path(own.output, overwrite=own.overwrite)
    if own.file:
        Source(own.file, format=own.format, text_column=own.text_column)
    sandbox = lesson.sandbox(seed=0, bias=2.0)
    folder = Path(own.model_name_or_path) if own.model_name_or_path else lesson.sandbox_reward_model(sandbox)
    model = load_reward_model(folder)
    texts = None if own.file else own.text or lesson.sandbox_texts(sandbox)
    explain: Any = None
    if own.explain:
        explain = functools.partial(explain_rows, how=own.explain, lang=own.lang, batch_size=own.batch_size)
    if texts is not None and own.output is None and explain is not None and sys.stdout.isatty():
        _show(model, texts, explain, own.batch_size, own.long_texts)
        return
    is_stdin = own.file == "-"
    if is_stdin and own.output:
        print("from standard input: if this run is killed, it starts from the beginning", file=sys.stderr)
    mark = None
    read_ahead = own.read_ahead or (256 if own.explain or is_stdin else streaming.READ_AHEAD)
    if own.output and own.file and not is_stdin:
        mark = _mark(own, model, read_ahead)
    counts = streaming.classify_file(
        model,
        lambda place: _source(own, texts, place),
        own.output,
        mark=mark,
        on_error=own.on_error,
        batch_size=own.batch_size,
        read_ahead=read_ahead,
        long_texts=own.long_texts,
        explain=explain,
        overwrite=own.overwrite,
    )
    print("\n".join(streaming.summary_lines(counts)), file=sys.stdout if own.output else sys.stderr)


def _source(own: ClassifyArguments, texts: list[str] | None, place: Any) -> Any:
    from teachfair.reward_models.text_files import Source, Texts

    if texts is not None:
        return Texts(texts)
    return Source(str(own.file), format=own.format, text_column=own.text_column, start=place)


def _mark(own: ClassifyArguments, model: Any, read_ahead: int) -> dict[str, Any]:
    """What decides the bytes of the output."""
    import torch

    from teachfair.reward_models import streaming

    return {
        "reward model": streaming.model_mark(model),
        "input": streaming.input_mark(str(own.file)),
        "arguments": {
            "format": own.format, "text_column": own.text_column, "explain": own.explain, "lang": own.lang,
            "long_texts": own.long_texts, "batch_size": own.batch_size, "read_ahead": read_ahead,
        },
        "torch": [torch.__version__, torch.get_num_threads()],
    }  # fmt: skip


def _show(model: Any, texts: list[str], explain: Any, batch_size: int, long_texts: str) -> None:
    """A few texts and their words in colour, for people."""
    from rich.console import Console

    from teachfair.reward_models.classifying import Rewards, classify_rows
    from teachfair.reward_models.explaining import as_terminal_text
    from teachfair.reward_models.text_files import Texts

    rows = list(Texts(texts))
    answers = classify_rows(model, Rewards(model, batch_size=batch_size, long_texts=long_texts), rows)
    for row, answer, explanation in zip(rows, answers, explain(model, rows), strict=True):
        Console(highlight=False).print(as_terminal_text(row, {**answer, "explanation": explanation}))


door = Door("classify", __doc__, ClassifyArguments, run)

if __name__ == "__main__":
    raise SystemExit(door())
