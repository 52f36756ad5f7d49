"""The table of sources: what the command prints, and that the page holds it."""

from __future__ import annotations

from pathlib import Path

import author_files as files
import pytest

from teachfair.data import PAIR_SOURCES, SOURCES
from teachfair.data.table import AUDIT_BEGIN, AUDIT_END, BEGIN, END, YOURS, audit_table, main, table

PAGE = Path(__file__).resolve().parents[2] / "docs" / "data.md"


def test_the_page_has_a_row_and_a_section_of_every_source():
    text = PAGE.read_text(encoding="utf-8")
    for name in SOURCES:
        assert f"| `{name}`" in text
        assert f"### `{name}`" in text
    audited = text.split(AUDIT_BEGIN)[1].split(AUDIT_END)[0]
    assert "in DIR" not in audited
    for name in PAIR_SOURCES:
        assert (f"| `{name}` |" in audited) is (name not in YOURS)


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


def test_the_audit_command_audits_what_is_there_and_leaves_the_counts_alone(tmp_path):
    # the right answer to every question without evidence is "cannot tell": 25 templates, two names each
    files.write_lines(tmp_path / "bbq", "Age.jsonl", [files.bbq_record(n, question_index=str(n // 2)) for n in range(50)])
    page = tmp_path / "page.md"
    page.write_text(f"{BEGIN}\ncounts\n{END}\n{AUDIT_BEGIN}\nstale row\n{AUDIT_END}\nafter\n")
    assert main([str(tmp_path), "--audit", "--write", str(page)]) == 0
    text = page.read_text()
    assert text.startswith(f"{BEGIN}\ncounts\n{END}\n{AUDIT_BEGIN}\n")
    assert text.endswith(f"{AUDIT_END}\nafter\n")
    assert "stale row" not in text
    rows = {line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]] for line in text.splitlines()[5:]
            if line.startswith("|")}  # fmt: skip
    column = rows["source"].index
    assert rows["`bbq`"][:2] == rows["`bbq` (no evidence)"][:2] == ["100", "25"]
    assert rows["`bbq`"][column("first token")] == "**1.00 ± 0.04**"
    assert rows["`bbq`"][column("always anti-stereotype")] == "0.50"
    assert rows["`bbq` (evidence)"][0] == rows["`bbq` (both, 1 : 2)"][0] == "none in DIR"
    assert rows["`winobias`"][0] == "not in DIR"
    assert rows["`sandbox`"][0] == "4,000"
    assert "`holistic_bias`" not in rows


@pytest.mark.shared
@pytest.mark.slow
def test_the_page_holds_the_audits_of_the_published_files_of_today(shared):
    text = PAGE.read_text(encoding="utf-8")
    assert text.split(AUDIT_BEGIN)[1].split(AUDIT_END)[0].strip() == audit_table(shared / "data").strip()


@pytest.mark.shared
@pytest.mark.slow
def test_the_page_holds_what_the_published_files_give_today(shared):
    text = PAGE.read_text(encoding="utf-8")
    assert text.split(BEGIN)[1].split(END)[0].strip() == table(shared / "data").strip()
