"""One import package over folders at the root."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FLOORS = ("data", "models", "reward_models", "alignment", "compression", "evaluation", "recipes")
SETUP = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]


def folders_with_code() -> set[str]:
    return {
        str(path.parent.relative_to(ROOT))
        for floor in (*FLOORS, "teachfair")
        for path in (ROOT / floor).rglob("*.py")
        if not any(part.is_symlink() for part in path.parents)
    }


def test_every_folder_with_code_is_in_the_package_mapping() -> None:
    mapped = set(SETUP["package-dir"].values())
    assert folders_with_code() <= mapped
    assert set(SETUP["packages"]) == set(SETUP["package-dir"])


@pytest.mark.slow
def test_the_built_wheel_exposes_only_teachfair_and_holds_every_folder(tmp_path: Path) -> None:
    copy = tmp_path / "source"
    shutil.copytree(
        ROOT,
        copy,
        symlinks=True,
        ignore=shutil.ignore_patterns(".venv", ".git", "runs", "*.egg-info", "build", "__pycache__"),
    )
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--no-deps", "-q", "-w", str(tmp_path), str(copy)], check=True, timeout=300
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"teachfair"}
    inside = {str(Path(name).parent) for name in names if name.endswith(".py")}
    expected = {"teachfair" if folder == "teachfair" else f"teachfair/{folder}" for folder in folders_with_code()}
    assert expected == inside
    assert "teachfair/evaluation/report.html.j2" in names
    assert "teachfair/recipes/configs/demo.yaml" in names
    assert "teachfair/recipes/configs/sandbox/dpo_full.yaml" in names


def test_our_subpackages_win_beside_a_users_own_data_folder(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "__init__.py").write_text("raise RuntimeError('the user module, not ours')")
    done = subprocess.run(
        [sys.executable, "-c", "import teachfair.data as d; print(sorted(d.SOURCES))"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "sandbox" in done.stdout


def test_importing_any_floor_loads_nothing_heavy() -> None:
    floors = ", ".join(f"teachfair.{floor}" for floor in FLOORS if floor != "recipes")
    heavy = ("torch", "transformers", "trl", "datasets", "pandas", "scipy", "sklearn", "matplotlib")
    code = (
        f"import sys, {floors}, teachfair.evaluation.benchmarks, teachfair.study\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_no_module_is_called_utils_and_no_file_is_a_hall() -> None:
    files = [path for floor in (*FLOORS, "teachfair") for path in (ROOT / floor).rglob("*.py")]
    assert not [path for path in files if path.stem in ("utils", "helpers", "misc", "common")]
    assert not [str(path) for path in files if len(path.read_text().splitlines()) > 750]


def test_no_weights_are_loaded_through_pickle_and_no_remote_code_is_run() -> None:
    for floor in (*FLOORS, "teachfair"):
        for path in (ROOT / floor).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.keyword) and isinstance(node.value, ast.Constant):
                    assert not (node.arg == "weights_only" and node.value.value is False), path
                    assert not (node.arg == "trust_remote_code" and node.value.value is True), path
