"""Processes that were launched but do not train together are refused, by the environment that launchers really leave."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from teachfair.errors import ConfigError
from teachfair.models.fitting import check_processes, launched

REPOSITORY = Path(__file__).resolve().parents[2]
ACCELERATE = {"ACCELERATE_MIXED_PRECISION": "no", "ACCELERATE_USE_CPU": "True"}
PORT = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


@pytest.mark.parametrize(
    ("environment", "parent", "found"),
    [
        ({}, {}, None),
        ({"WORLD_SIZE": "2", "RANK": "0", **PORT}, {}, (2, "torchrun")),
        ({**ACCELERATE}, {}, None),
        ({**ACCELERATE, **PORT}, {}, (None, "accelerate")),
        # a user's own MASTER_PORT, as batch scripts set it: the launcher has it too
        ({**ACCELERATE, **PORT}, PORT, None),
        (PORT, {}, None),
        # a plain command of a batch script (sbatch --ntasks 4), and one task of srun
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_JOB_ID": "7"}, {}, None),
        ({"SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}, {}, None),
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "2", "SLURM_STEP_NUM_TASKS": "4"}, {}, (4, "srun")),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, {}, (2, "mpirun")),
        ({"PMI_SIZE": "1", "SLURM_PROCID": "0"}, {}, None),
        # srun with one torchrun a node
        ({"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "2", "WORLD_SIZE": "4"}, {}, (4, "torchrun")),
    ],
)
def test_the_environment_says_how_many_processes_were_launched_and_by_what(
    environment: dict[str, str], parent: dict[str, str], found: tuple[int | None, str] | None
) -> None:
    assert launched(environment, parent) == found


def run(tmp_path: Path, launcher: list[str], arguments: list[str], **variables: str) -> subprocess.CompletedProcess[str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("MASTER_", "SLURM_", "WORLD_SIZE"))}
    environment = clean | {"PYTHONPATH": str(REPOSITORY), "TEACHFAIR_CACHE": str(tmp_path / "cache")} | variables
    return subprocess.run(
        [*launcher, *arguments], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=200
    )


LAUNCH = [sys.executable, "-m", "accelerate.commands.launch"]
CHECK = "from teachfair.models.fitting import check_processes; check_processes(); print('together')"


@pytest.fixture
def script(tmp_path: Path) -> str:
    """What every training door does first, without the door's imports (the doors themselves: the slow test below)."""
    path = tmp_path / "check.py"
    path.write_text(
        "import sys\nfrom teachfair.errors import TeachfairError\n"
        f"try:\n    {CHECK}\nexcept TeachfairError as error:\n    print(error, file=sys.stderr); sys.exit(2)\n"
    )
    return str(path)


def test_accelerates_cpu_launcher_that_starts_one_process_of_two_is_refused_and_of_one_is_not(
    script: str, tmp_path: Path
) -> None:
    two = run(tmp_path, LAUNCH, ["--cpu", "--num_processes", "2", script])
    assert "accelerate was asked for several processes and started one" in two.stderr
    assert "what to do" in two.stderr
    assert "together" not in two.stdout
    one = run(tmp_path, LAUNCH, ["--cpu", "--num_processes", "1", script], MASTER_PORT="29511", MASTER_ADDR="node1")
    assert one.stdout.strip() == "together", one.stderr


@pytest.mark.slow
def test_several_processes_of_an_accelerate_config_file_are_refused_unless_the_user_wants_one(
    script: str, tmp_path: Path
) -> None:
    config = tmp_path / "two.yaml"
    config.write_text(
        "compute_environment: LOCAL_MACHINE\ndistributed_type: MULTI_CPU\nmixed_precision: 'no'\nnum_machines: 1\n"
        "num_processes: 2\nuse_cpu: true\n"
    )
    words = ["--config_file", str(config), script]
    assert "started one" in run(tmp_path, LAUNCH, words).stderr
    assert run(tmp_path, LAUNCH, words, TEACHFAIR_ONE_PROCESS="1").stdout.strip() == "together"


def test_tasks_of_srun_that_each_train_alone_are_refused_and_a_batch_scripts_plain_command_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("WORLD_SIZE", "SLURM_STEP_NUM_TASKS", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "TEACHFAIR_ONE_PROCESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.setenv("SLURM_NTASKS", "4")
    check_processes()
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    with pytest.raises(ConfigError, match="srun started 4 tasks") as error:
        check_processes()
    assert "TEACHFAIR_ONE_PROCESS=1" in error.value.fix
    monkeypatch.setenv("TEACHFAIR_ONE_PROCESS", "1")
    check_processes()


def test_a_port_that_a_library_sets_later_is_not_taken_for_the_launchers(monkeypatch: pytest.MonkeyPatch) -> None:
    if not Path("/proc/self/environ").exists():
        pytest.skip("this system does not show a process's first environment")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    monkeypatch.setenv("MASTER_PORT", "29511")
    check_processes()


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("recipe", ["dpo_fair", "reward_model", "ppo_fair", "grpo_fair", "rloo_fair"])
def test_every_training_door_refuses_before_it_makes_anything(recipe: str, tmp_path: Path) -> None:
    path = str(REPOSITORY / "recipes" / f"{recipe}.py")
    done = run(tmp_path, LAUNCH, ["--cpu", "--num_processes", "2", path])
    assert done.returncode != 0
    assert "accelerate was asked for several processes and started one" in done.stderr
    assert "teachfair/errors.py" not in done.stderr  # no traceback of ours
    assert not (tmp_path / "cache").exists()
    assert not (tmp_path / "runs").exists()
