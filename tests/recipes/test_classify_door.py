"""The door `classify`: what it reads, what it writes, what it says."""

import io
import json
import re

import pytest

from teachfair.recipes.classify import door


@pytest.fixture(scope="module")
def folder(tiny_llama, tmp_path_factory):
    """An untrained reward model on the tiny Llama."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, set_seed

    from teachfair.reward_models.rendering import framed

    set_seed(0)
    out = tmp_path_factory.mktemp("door") / "rm"
    model = AutoModelForSequenceClassification.from_pretrained(tiny_llama, num_labels=1)
    model.config.teachfair_framed = True
    model.save_pretrained(out)
    framed(AutoTokenizer.from_pretrained(tiny_llama), 128).save_pretrained(out)
    return str(out)


@pytest.fixture(autouse=True)
def no_sandbox(monkeypatch):
    """A given reward model needs nothing of the sandbox."""
    monkeypatch.setattr("teachfair.alignment.lesson.sandbox_reward_model", lambda *_: pytest.fail("the sandbox was made"))


def test_texts_on_the_command_line_are_answered_on_standard_output(folder, capsys):
    assert door(["--model_name_or_path", folder, "--text", "ann is late", "tom is late"]) == 0
    shown = capsys.readouterr()
    assert [json.loads(line)["text"] for line in shown.out.splitlines()] == ["ann is late", "tom is late"]
    assert "2 rows, 2 rewards computed" in shown.err


def test_standard_input_is_read_as_the_format_says(folder, monkeypatch, capsys, tmp_path):
    class Stdin:
        buffer = io.BytesIO(b'{"id": "a", "text": "ann is late"}\n')

    monkeypatch.setattr("sys.stdin", Stdin)
    assert door(["--model_name_or_path", folder, "--file", "-", "--format", "jsonl"]) == 0
    assert json.loads(capsys.readouterr().out)["id"] == "a"
    Stdin.buffer = io.BytesIO(b"ann is late\n")
    out = tmp_path / "o.jsonl"
    assert door(["--model_name_or_path", folder, "--file", "-", "--output", str(out)]) == 0
    assert "from the beginning" in capsys.readouterr().err
    assert json.loads(out.read_text())["text"] == "ann is late"
    Stdin.buffer = io.BytesIO(b'{"text": "ann"}\n')
    assert door(["--model_name_or_path", folder, "--file", "-"]) == 2
    assert "--format jsonl" in capsys.readouterr().err


def test_explanations_stand_in_every_row(folder, capsys):
    assert door(["--model_name_or_path", folder, "--text", "she is late", "--explain", "both"]) == 0
    explanation = json.loads(capsys.readouterr().out)["explanation"]
    assert {word["word"] for word in explanation["occlusion"]["words"]} == {"she", "is", "late"}
    assert explanation["swap"]["swapped"] == "he is late"


def test_a_terminal_gets_the_words_themselves_and_no_control_characters(folder, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert door(["--model_name_or_path", folder, "--text", "she [bold]is\x1b[2J late", "--explain", "both"]) == 0
    raw = capsys.readouterr().out
    assert "\x1b[2J" not in raw
    shown = re.sub(r"\x1b\[[0-9;]*m", "", raw)
    assert "she [bold]is\\x1b[2J late" in shown, "markup in a text is text"
    assert "she → he" in shown


def test_malformed_rows_stop_with_their_lines_or_are_kept(folder, capsys, tmp_path):
    source, out = tmp_path / "in.jsonl", tmp_path / "out.csv"
    source.write_text('{"note": "ann is late"}\n{"note": 3}\n')
    words = ["--model_name_or_path", folder, "--file", str(source), "--output", str(out), "--text_column", "note"]
    assert door(words) == 2
    assert "in.jsonl:2: note: text was wanted, this is a number (3)" in capsys.readouterr().err
    assert not out.exists()
    assert door([*words, "--on_error", "keep"]) == 0
    assert "1 rows have no label" in capsys.readouterr().out
    assert "note: text was wanted" in out.read_text()
    assert door([*words, "--on_error", "keep"]) == 2
    assert "already there" in capsys.readouterr().err


def test_what_cannot_be_meant_is_refused(folder, capsys, tmp_path):
    for words, says in [
        (["--text", "a", "--file", "b.txt"], "both --text and --file"),
        (["--file", str(tmp_path / "no.txt")], "no such file"),
        (["--text", "a", "--output", "x.xlsx"], "end the name in .jsonl, .csv or .parquet"),
        (["--text", "a", "--batch_size", "0"], "give 1 or more"),
        (["--text", "a", "--explain", "magic"], "invalid choice"),
    ]:
        assert door(["--model_name_or_path", folder, *words]) == 2
        assert says in capsys.readouterr().err
