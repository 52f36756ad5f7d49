"""The table of sources: what the command prints, and that the page holds it."""

from __future__ import annotations

from pathlib import Path

import author_files as files
import pytest

from teachfair.data import SOURCES
from teachfair.data.table import BEGIN, END, main, table

PAGE = Path(__file__).resolve().parents[2] / "docs" / "data.md"


def test_the_page_has_a_row_and_a_section_of_every_source():
    text = PAGE.read_text(encoding="utf-8")
    for name in SOURCES:
        assert f"| `{name}`" in text
        assert f"### `{name}`" in text


def test_the_command_counts_what_is_there_and_lists_what_is_not(tmp_path, capsys):
    files.write_lines(tmp_path / "bbq", "Age.jsonl", [files.bbq_record(n) for n in range(8)])
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nstale row\n{END}\nafter\n")
    assert main([str(tmp_path), "--write", str(page)]) == 0
    text = page.read_text()
    assert "| `bbq` | 8 | 16 | cant-tell-vs-anti 8<br>cant-tell-vs-stereotype 8 | age 16 | 4 | CC BY 4.0 |" in text
    assert "| `hh_harmless` | not in DIR |" in text
    assert "stale row" not in text
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    page.write_text("no markers")
    assert main([str(tmp_path), "--write", str(page)]) == 2
    assert "lacks the two markers" in capsys.readouterr().err
    assert main([str(tmp_path / "nowhere")]) == 2


@pytest.mark.shared
@pytest.mark.slow
def test_the_page_holds_what_the_published_files_give_today(shared):
    text = PAGE.read_text(encoding="utf-8")
    assert text.split(BEGIN)[1].split(END)[0].strip() == table(shared / "data").strip()
