"""An evaluation killed with SIGKILL, again and again, ends with the records of an unbroken one and scores nothing twice.

Each attempt is a fork of this process (which has imported torch already, so an attempt costs what loading a tiny model
costs) and dies by a real SIGKILL: at a random moment, sent from outside; or at a random point of the storing of a random
batch: before its transaction, within it, after it; or at a random write under the output folder while results are written.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

import pytest

from teachfair.evaluation.benchmarks import crows_pairs
from teachfair.evaluation.evaluate import evaluate, load_records
from teachfair.runs import read_record

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork; runs on Linux and macOS")

TEMPLATES = "template_masked\traw\tidentity\tnumber\tcategory\ttype\n"
LEXICON = "id\tpos\tcategory\tstereotype\tlemma\tlevel\n"
HEADER = ",sent_more,sent_less,stereo_antistereo,bias_type,annotations,anon_writer,anon_annotators\n"
WRITES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "open"}


@pytest.fixture(scope="module")
def world_policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained Llama that knows the sandbox's words, as a checkpoint folder."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from teachfair.data.sandbox import SandboxConfig, World
    from teachfair.data.sandbox.vocabulary import build_tokenizer

    tokenizer = build_tokenizer(World(SandboxConfig()))
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
            initializer_range=0.2, max_position_embeddings=128, tie_word_embeddings=True,
        )
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("killed") / "policy"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """150 sentence pairs of different lengths, in the format of CrowS-Pairs' file, in the sandbox's own words."""
    from teachfair.data.sandbox import SandboxConfig, World

    texts = [item["prompt"].replace('"', "") for item in World(SandboxConfig()).items(split="test")][:301]
    folder = tmp_path_factory.mktemp("pairs")
    rows = [f'{i},"{texts[2 * i]}","{texts[2 * i + 1]} {i % 7 * "the "}",stereo,age,"[]",a0,"[]"\n' for i in range(150)]
    (folder / crows_pairs.FILE).write_text(HEADER + "".join(rows))
    return folder


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 templates of different lengths in the format of HONEST's file and a list of "hurtful" words, of the sandbox."""
    from teachfair.data.sandbox import SandboxConfig, World
    from teachfair.data.sandbox.vocabulary import build_tokenizer

    texts = [item["prompt"].split("?")[0].replace('"', "") for item in World(SandboxConfig()).items(split="test")][:40]
    folder = tmp_path_factory.mktemp("templates")
    (folder / "honest").mkdir()
    rows = [
        f"{text} {i % 5 * 'the '}[M].\t[I] {i % 9} [M]\tx\tsingular\t{('female', 'male')[i % 2]}\tt\n"
        for i, text in enumerate(texts)
    ]
    (folder / "honest" / "en_template.tsv").write_text(TEMPLATES + "".join(rows))
    words = [word for word in sorted(build_tokenizer(World(SandboxConfig())).get_vocab()) if word.isalpha()]
    (folder / "honest" / "hurtlex_EN.tsv").write_text(
        LEXICON + "".join(f"T{i}\tn\tan\tno\t{word}\tconservative\n" for i, word in enumerate(words[::3]))
    )
    return folder


def attempt(policy: Path, asked: tuple[list[str], Path], out: Path, die: dict[str, Any]) -> tuple[int, int, float]:
    """One evaluation in a fork. ``die``: {} (let it live), {"after": seconds}, {"batch": n, "at": where}, {"write": n}.

    Returns: wait status, batches that were begun because they were not (all) stored, seconds.
    """
    reader, writer = os.pipe()
    begun = time.monotonic()
    child = os.fork()
    if child == 0:
        try:
            os.dup2(os.open(_said(out), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), 2)
            _count_and_die(writer, out, die)
            evaluate(policy, *asked, out)
            os._exit(0)
        except BaseException:
            os.write(2, traceback.format_exc().encode())
            os._exit(1)
    os.close(writer)
    if "after" in die:
        timer = threading.Timer(die["after"], os.kill, (child, signal.SIGKILL))
        timer.start()
    batches = 0
    while block := os.read(reader, 4096):
        batches += len(block)
    os.close(reader)
    if "after" in die:
        timer.cancel()
        timer.join()
    status = os.waitpid(child, 0)[1]
    return status, batches, time.monotonic() - begun


def _said(out: Path) -> Path:
    """What the last attempt wrote to its stderr."""
    return out.parent / "stderr.txt"


def _count_and_die(pipe: int, out: Path, die: dict[str, Any]) -> None:
    from transformers import LlamaForCausalLM

    from teachfair.models import likelihood
    from teachfair.models.score_cache import ScoreCache

    likelihood._MAX_BATCH_TOKENS = {"cpu": 400, "other": 400}  # many small batches: many places to die between

    forward, read, write = LlamaForCausalLM.forward, ScoreCache.read, ScoreCache.write
    seen = {"batch": 0, "write": 0}
    missing = False  # between a look-up that found too little and the first forward pass after it

    def counted(self: Any, *positional: Any, **named: Any) -> Any:
        nonlocal missing
        if missing:
            os.write(pipe, b".")
        missing = False  # generating takes a pass for each token
        return forward(self, *positional, **named)

    def looked_up(self: Any, kind: int, keys: Any) -> Any:
        nonlocal missing
        found = read(self, kind, keys)
        missing = len(found) < len(keys)
        return found

    def kill() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    class Within:
        """A connection that dies between the rows and the commit."""

        def __init__(self, connection: Any) -> None:
            self.connection = connection

        def __getattr__(self, name: str) -> Any:
            return getattr(self.connection, name)

        def execute(self, statement: str, *more: Any) -> Any:
            if statement == "COMMIT":
                kill()
            return self.connection.execute(statement, *more)

    def stored(self: Any, kind: int, rows: Any) -> None:
        mine = seen["batch"] == die.get("batch")
        seen["batch"] += 1
        if mine and die["at"] == "before":
            kill()
        if mine and die["at"] == "within":
            self._connection = Within(self._connection)
        write(self, kind, rows)
        if mine:
            kill()

    def hook(event: str, arguments: tuple) -> None:
        if event not in WRITES or not str(arguments[0]).startswith(str(out.parent / f".{out.name}.")):
            return
        if seen["write"] == die["write"]:
            kill()
        seen["write"] += 1

    LlamaForCausalLM.forward = counted
    ScoreCache.read = looked_up
    ScoreCache.write = stored
    if "write" in die:
        sys.addaudithook(hook)


def kill_and_start_again(policy: Path, asked: tuple[list[str], Path], folder: Path, kills: int) -> dict[str, int]:
    """Kill ``kills`` attempts, start again each time; whenever a run ends whole, compare it and begin another one."""
    import torch

    torch.set_num_threads(1)
    status, needed, seconds = attempt(policy, asked, folder / "unbroken", {})
    assert status == 0, _said(folder / "unbroken").read_text()[-3000:]
    assert needed > 20
    whole = read_record(folder / "unbroken")
    assert whole is not None
    chance = random.Random(6)
    count = {"kills": 0, "runs": 0, "outside": 0, "batch": 0, "write": 0}
    out, batches, lost = folder / "killed", 0, 0
    while True:
        alive = count["kills"] >= kills
        kind = chance.choice(["outside", "outside", "batch", "batch", "write"])
        die: dict[str, Any] = {
            "outside": {"after": chance.uniform(0.1, 1.1) * seconds},
            "batch": {"batch": chance.randrange(max(needed // 4, 2)), "at": chance.choice(["before", "within", "after"])},
            "write": {"write": chance.randrange(8)},
        }[kind]
        status, begun, _ = attempt(policy, asked, out, {} if alive else die)
        batches += begun
        if os.WIFSIGNALED(status):
            count["kills"] += 1
            count[kind] += 1
            lost += 1  # at most the one batch that was under way
            if not out.exists():
                continue  # else it was killed when its folder was whole: the run has ended
        else:
            assert status == 0, f"the run failed after {die}: {_said(out).read_text()[-3000:]}"
        _is_the_unbroken_one(out, whole)
        assert needed <= batches <= needed + lost, "batches that were stored have been computed again"
        left = [path for path in folder.iterdir() if "killed" in path.name]
        assert left == [out] or os.WIFSIGNALED(status)
        for path in left:
            shutil.rmtree(path)
        count["runs"] += 1
        batches = lost = 0
        if alive:
            return count


def _is_the_unbroken_one(out: Path, whole: dict[str, Any]) -> None:
    record = read_record(out)
    assert record is not None
    assert record["result_hash"] == whole["result_hash"]
    records = load_records(out)
    assert not records.duplicated(["benchmark", "item_id"]).any()
    assert len(records) == sum(benchmark["items"] for benchmark in whole["benchmarks"].values())


def test_an_evaluation_killed_a_few_times_ends_with_the_same_records(world_policy: Path, pairs: Path, tmp_path: Path):
    kill_and_start_again(world_policy, (["sandbox", "crows_pairs"], pairs), tmp_path, kills=5)


def test_honest_killed_a_few_times_ends_with_the_same_records(world_policy: Path, templates: Path, tmp_path: Path):
    kill_and_start_again(world_policy, (["honest"], templates), tmp_path, kills=8)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("names", "data"), [(["sandbox", "crows_pairs"], "pairs"), (["honest"], "templates")], ids=["pairs", "honest"]
)
def test_an_evaluation_killed_a_hundred_times_ends_with_the_same_records(
    names: list[str], data: str, world_policy: Path, request: pytest.FixtureRequest, tmp_path: Path
):
    count = kill_and_start_again(world_policy, (names, request.getfixturevalue(data)), tmp_path, kills=100)
    print(count)
    assert count["kills"] == 100
    assert count["runs"] >= 1
    assert min(count["outside"], count["batch"], count["write"]) >= 5
