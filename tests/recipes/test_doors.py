"""The doors: help without heavy imports, strict configs, errors in three parts with exit code 2."""

from __future__ import annotations

import importlib
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from teachfair import cli
from teachfair.data import PAIR_SOURCES
from teachfair.doors import comma_list, config_arguments, read_config
from teachfair.errors import ConfigError

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
HEAVY = ("torch", "transformers", "trl", "datasets", "pandas", "scipy", "sklearn", "matplotlib")


@pytest.mark.parametrize("verb", ["", *cli.VERBS])
def test_help_of_every_door_imports_nothing_heavy(verb: str) -> None:
    code = (
        "import sys; from teachfair.cli import main; code = main(sys.argv[1:]);"
        f"heavy = [name for name in {HEAVY} if name in sys.modules]; assert not heavy, heavy; sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code, *filter(None, [verb]), "--help"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) > 10


def test_help_whose_reader_has_seen_enough_ends_without_a_traceback() -> None:
    command = [sys.executable, "-m", "teachfair.cli", "ppo", "--help"]
    shown = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert shown.stdout is not None
    assert shown.stderr is not None
    shown.stdout.close()
    assert shown.stderr.read() == ""
    assert shown.wait() == 0


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_argument_of_every_door_has_a_help_text_and_stands_in_help(verb: str) -> None:
    door = importlib.import_module(f"teachfair.recipes.{cli.VERBS[verb][0]}").door
    text = door.help_text()
    for item in fields(door.own):
        assert item.metadata.get("help"), f"{verb}: --{item.name} has no help"
        assert f"--{item.name}\n" in text


def test_every_door_that_reads_pairs_names_all_their_sources() -> None:
    named = {}
    for verb, (module, _) in cli.VERBS.items():
        for item in fields(importlib.import_module(f"teachfair.recipes.{module}").door.own):
            if item.name == "dataset_source":
                named[verb] = [name for name in PAIR_SOURCES if name not in item.metadata["help"]]
    assert len(named) >= 7
    assert not any(named.values()), named


def test_every_recipe_script_is_a_verb_and_runs_from_any_folder(tmp_path: Path) -> None:
    scripts = {path.stem for path in RECIPES.glob("*.py") if path.stem != "__init__"}
    assert scripts == {module for module, _ in cli.VERBS.values()}
    done = subprocess.run(
        [sys.executable, str(RECIPES / "survival.py"), "--help"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0
    assert "--plan" in done.stdout


def test_unknown_verb_and_unknown_flag_end_with_code_2_and_no_traceback() -> None:
    for words in (["teech"], ["evaluate", "--modle", "x"], ["compress", "--compression"]):
        done = subprocess.run([sys.executable, "-m", "teachfair.cli", *words], capture_output=True, text=True)
        assert done.returncode == 2
        assert "what to do" in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("beta: 1\nbeta: 2\n", "given twice"),
        ("beta: .nan\n", "nan"),
        ("beta: -.inf\n", "inf"),
        ("- beta\n", "mapping"),
        ("beta: [1\n", "not YAML"),
        ("env: {LD_PRELOAD: /tmp/x.so}\n", "LD_PRELOAD"),
        ("env: {PYTHONPATH: /tmp}\n", "PYTHONPATH"),
    ],
)
def test_a_harmful_config_file_is_refused_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as error:
        read_config(path)
    assert "c.yaml" in error.value.where


def test_numbers_written_the_way_people_write_them_are_numbers(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("learning_rate: 1e-4\nbeta: 0.1\nsteps: 10\nname: 1e\n")
    assert read_config(path) == {"learning_rate": 1e-4, "beta": 0.1, "steps": 10, "name": "1e"}


def test_a_key_without_a_value_is_refused() -> None:
    with pytest.raises(ConfigError, match="no value"):
        config_arguments({"learning_rate": None}, "c.yaml")


def test_an_unknown_config_key_names_the_nearest_known_one(tmp_path: Path) -> None:
    from teachfair.recipes.evaluate import door

    path = tmp_path / "c.yaml"
    path.write_text("benchmark: sandbox\n")
    with pytest.raises(ConfigError, match="benchmarks"):
        door.parse(["--config", str(path)])


def test_the_command_line_overrides_the_config_file(tmp_path: Path) -> None:
    from teachfair.recipes.evaluate import door

    path = tmp_path / "c.yaml"
    path.write_text("limit: 5\nbenchmarks: [sandbox, crows_pairs]\n")
    (own,) = door.parse(["--config", str(path), "--limit", "7"])
    assert (own.limit, own.benchmarks) == (7, ["sandbox", "crows_pairs"])


def test_bf16_asked_for_on_a_host_without_accelerator_is_refused() -> None:
    import torch

    if torch.accelerator.is_available():
        pytest.skip("this host has an accelerator; the refusal is for hosts without one")
    from teachfair.recipes.dpo_fair import door

    with pytest.raises(ConfigError, match="bf16 was asked for"):
        door.parse(["--bf16", "true"])
    _, args, _ = door.parse([])
    assert args.bf16 is False


def test_mixed_precision_of_the_launcher_is_refused_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    if torch.accelerator.is_available():
        pytest.skip("this host has an accelerator; the refusal is for hosts without one")
    from teachfair.recipes.dpo_fair import door

    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    with pytest.raises(ConfigError, match="mixed precision"):
        door.parse([])


def test_lists_may_be_typed_with_commas_or_spaces() -> None:
    assert comma_list(["a,b", " c"]) == ["a", "b", "c"]
