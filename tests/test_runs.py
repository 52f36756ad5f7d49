"""Run folders appear whole or not at all, and belong to one run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from teachfair import runs
from teachfair.errors import RunFolderError


def test_a_file_that_cannot_be_written_whole_leaves_the_old_one(tmp_path: Path) -> None:
    path = runs.write_text(tmp_path / "a.txt", "old")
    with pytest.raises(UnicodeEncodeError):
        runs.write_text(path, "new \ud800")
    assert path.read_text() == "old"
    assert [item.name for item in tmp_path.iterdir()] == ["a.txt"]


def test_json_refuses_nan_because_readers_would_take_it_for_a_number(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        runs.write_json(tmp_path / "a.json", {"x": float("nan")})
    assert not list(tmp_path.iterdir())


def test_whole_folder_appears_only_when_its_block_ends_well(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(ZeroDivisionError), runs.whole_folder(out) as aside:
        (aside / "half").write_text("x")
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())
    with runs.whole_folder(out) as aside:
        (aside / "whole").write_text("x")
        assert not out.exists()
    assert (out / "whole").read_text() == "x"
    with pytest.raises(RunFolderError, match="already there"), runs.whole_folder(out):
        pass


def test_a_second_live_process_cannot_claim_a_folder(tmp_path: Path) -> None:
    code = (
        "import sys, time; from teachfair import runs\n"
        "with runs.claimed(sys.argv[1]): print('held', flush=True); time.sleep(60)"
    )
    other = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout is not None
        assert other.stdout.readline().strip() == "held"
        with pytest.raises(RunFolderError, match="in use"), runs.claimed(tmp_path / "run"):
            pass
    finally:
        other.kill()
        other.wait()
    with runs.claimed(tmp_path / "run"):  # the owner is dead: its claim is taken over
        pass
    assert not (tmp_path / "run" / runs.LOCK).exists()


def test_a_half_written_lock_of_a_killed_process_does_not_block(tmp_path: Path) -> None:
    (tmp_path / runs.LOCK).write_text('{"pid": 12')
    with runs.claimed(tmp_path):
        assert json.loads((tmp_path / runs.LOCK).read_text())["pid"] == os.getpid()


def test_a_folder_is_complete_only_when_its_record_says_so(tmp_path: Path) -> None:
    assert not runs.begin(tmp_path / "run", "key")
    assert runs.read_record(tmp_path / "run") is None
    assert not runs.begin(tmp_path / "run", "key")  # the same run goes on
    with pytest.raises(RunFolderError, match="another run"):
        runs.begin(tmp_path / "run", "other key")
    runs.write_record(tmp_path / "run", key="key")
    assert runs.begin(tmp_path / "run", "key")
    assert (runs.read_record(tmp_path / "run") or {})["status"] == "complete"


def test_a_run_does_not_start_in_a_folder_with_strange_files(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("do not lose me")
    with pytest.raises(RunFolderError, match=r"thesis\.tex"):
        runs.begin(tmp_path, "key")


def test_fingerprint_ignores_key_order_and_sees_every_value() -> None:
    assert runs.fingerprint({"a": 1, "b": [1, 2]}) == runs.fingerprint({"b": [1, 2], "a": 1})
    assert runs.fingerprint({"a": 1}) != runs.fingerprint({"a": 2})
    assert runs.fingerprint({"a": {3, 1}}) == runs.fingerprint({"a": {1, 3}})


def test_a_record_holds_the_command_without_its_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["--hub_token", "hf_abc", "--api_key=abc", "--max_new_tokens", "77", "--hub_token", "--seed", "3"]
    monkeypatch.setattr(sys, "argv", ["/x/recipe.py", *words])
    command = json.loads(runs.write_record(tmp_path).read_text(encoding="utf-8"))["command"]
    assert command == [
        "recipe.py", "--hub_token", "…", "--api_key=…", "--max_new_tokens", "77", "--hub_token", "--seed", "3"
    ]  # fmt: skip
