"""Bad items, bad models, bad disks: what an evaluation does about each is defined, counted and says so."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import signal
import sys
import types
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from tiny_models import word_tokenizer

from teachfair.errors import CheckpointError, InputError, NonFiniteError, RunFolderError, TeachfairError
from teachfair.evaluation.benchmarks import crows_pairs
from teachfair.evaluation.evaluate import evaluate, load_records, records_file, result_hash
from teachfair.evaluation.progress import progress_bar
from teachfair.models.scorer import PolicyScorer, load_scorer, problem_of
from teachfair.runs import claimed, hash_file, read_record, write_json
from teachfair.study import load_study_records

HEADER = ",sent_more,sent_less,stereo_antistereo,bias_type,annotations,anon_writer,anon_annotators\n"
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork; runs on Linux and macOS")


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    names = ["tom", "ann", "ben", "eva"]
    met = "met the nurse"
    rows = [f'{i},{names[i % 4]} {met},{names[(i + 1) % 4]} {met},stereo,age,"[]",a0,"[]"\n' for i in range(12)]
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / crows_pairs.FILE).write_text(HEADER + "".join(rows))
    return folder


def llama_with_nan(folder: Path, where: str) -> Path:
    """A tiny Llama, embeddings not tied: NaN in the first layer's weights, or in the input embedding of one word."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = word_tokenizer()
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
            max_position_embeddings=128, tie_word_embeddings=False, bos_token_id=1, eos_token_id=2, pad_token_id=0,
        )
    )  # fmt: skip
    with torch.no_grad():
        if where == "everywhere":
            model.model.layers[0].mlp.up_proj.weight[0, 0] = math.nan
        else:
            model.get_input_embeddings().weight[tokenizer.convert_tokens_to_ids(where)] = math.nan
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def asking(name: str, rows: list[dict[str, Any]], tells: bool = True) -> types.SimpleNamespace:
    """A benchmark of options (or of continuations, where a row has a context); ``tells``: it fills in ``problem``."""

    def score(scorer: Any, items: list[dict[str, Any]], progress: Any = None) -> list[dict[str, Any]]:
        if "context" in items[0]:
            scores = scorer.continuations([item["context"] for item in items], [item["options"] for item in items])
        else:
            prompts = [[{"role": "user", "content": item["prompt"]}] for item in items]
            scores = scorer.options(prompts, [item["options"] for item in items], progress=progress)
        return [
            {
                "benchmark": name, "item_id": item["id"], "cluster": item["id"], "axis": "age", "groups": "", "lang": "en",
                "condition": "parity", "roles": [], "logps_first": [one.logp_first for one in options],
                "logps_whole": [one.logp_whole for one in options], "n_tokens": [one.n_tokens for one in options],
                "chosen_role": "", "correct": math.nan,
                "margin_nats": math.nan if problem_of(options) else options[0].logp_whole - options[-1].logp_whole,
                "prefix_mismatch": any(one.prefix_mismatch for one in options),
                **({"problem": problem_of(options)} if tells else {}),
            }
            for item, options in zip(items, scores, strict=True)
        ]  # fmt: skip

    return types.SimpleNamespace(
        CARD={"name": name, "version": 1, "norm": "ours"}, items=lambda data_dir: rows, score=score,
        summarise=lambda records: {"margin": records.loc[records["problem"] == "", "margin_nats"].mean()},
    )  # fmt: skip


ROWS = [
    {"id": "fine", "prompt": "who is late ?", "options": ["tom", "ann"]},
    {"id": "empty", "prompt": "who is late ?", "options": []},
    {"id": "equal", "prompt": "who is late ?", "options": ["tom", "tom"]},
    {"id": "long", "prompt": "late " * 140, "options": ["tom", "ann"]},
    {"id": "nothing", "prompt": "who is late ?", "options": ["tom", ""]},
]


def test_a_model_that_is_nan_everywhere_is_refused_and_leaves_no_folder(data_dir: Path, tmp_path: Path) -> None:
    broken = llama_with_nan(tmp_path / "broken", "everywhere")
    with pytest.raises(NonFiniteError, match="no item can be scored: 12 × not finite") as caught:
        evaluate(broken, ["crows_pairs"], data_dir, tmp_path / "out")
    assert "crows_pairs-0000 (not finite)" in caught.value.where
    assert not (tmp_path / "out").exists()


def test_items_whose_words_make_the_model_nan_are_counted_and_left_out(data_dir: Path, tmp_path: Path) -> None:
    broken = llama_with_nan(tmp_path / "broken", "eva")
    out = evaluate(broken, ["crows_pairs"], data_dir, tmp_path / "out")
    records = load_records(out)
    with_eva = {f"crows_pairs-{n:04d}" for n in range(12) if n % 4 in (2, 3)}
    assert set(records.loc[records["problem"] != "", "item_id"]) == with_eva
    assert records.loc[records["problem"] == "not finite", "margin_nats"].isna().all()
    assert records.loc[records["problem"] == "", "margin_nats"].notna().all()
    summary = json.loads((out / "summary.json").read_text())["benchmarks"]["crows_pairs"]
    assert (summary["n"], summary["n_unscored"], summary["unscored_by_problem"]) == (6, 6, {"not finite": 6})
    assert (read_record(out) or {})["benchmarks"]["crows_pairs"]["problems"] == {"not finite": 6}


def test_items_that_cannot_be_asked_are_counted_by_what_is_wrong_with_them(tiny_llama: Path, tmp_path: Path) -> None:
    out = evaluate(tiny_llama, [asking("odd", ROWS)], None, tmp_path / "out")
    problems = dict(zip(*(load_records(out)[name] for name in ("item_id", "problem")), strict=True))
    assert problems == {
        "fine": "", "empty": "no options", "equal": "equal options", "long": "too long", "nothing": "no tokens"
    }  # fmt: skip
    facts = (read_record(out) or {})["benchmarks"]["odd"]
    assert facts["n_unscored"] == 4
    assert facts["problems"] == {"equal options": 1, "no options": 1, "no tokens": 1, "too long": 1}
    assert facts["scored_tokens"] == 2


def test_a_benchmark_none_of_whose_items_can_be_scored_is_refused_with_the_words_and_examples(
    tiny_llama: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="1 × equal options, 1 × too long") as caught:
        evaluate(tiny_llama, [asking("odd", ROWS[2:4])], None, tmp_path / "out")
    assert caught.value.where == "benchmark odd, items equal (equal options), long (too long)"
    assert [path.name for path in tmp_path.iterdir()] == []


def test_a_benchmark_that_passes_over_its_problems_in_silence_is_refused(tiny_llama: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no record says so"):
        evaluate(tiny_llama, [asking("silent", ROWS, tells=False)], None, tmp_path / "out")


def test_records_that_stand_twice_are_refused(tiny_llama: Path, tmp_path: Path) -> None:
    twice = asking("twice", ROWS[:1])
    once = twice.score
    twice.score = lambda *arguments, **named: once(*arguments, **named) * 2
    with pytest.raises(InputError, match="stand twice") as caught:
        evaluate(tiny_llama, [twice], None, tmp_path / "out")
    assert "item fine" in caught.value.where


@pytest.mark.shared
def test_a_tokenizer_that_merges_across_the_border_is_counted(shared: Path, tmp_path: Path) -> None:
    rows = [
        {"id": "apart", "context": "She said: ", "options": ["yes", "no"]},
        {"id": "merged", "context": "Once upon a time there was a l", "options": ["ittle girl", "ion"]},
    ]
    out = evaluate(shared / "models" / "tinystories-656k", [asking("border", rows)], None, tmp_path / "out")
    records = load_records(out)
    assert dict(zip(records["item_id"], records["prefix_mismatch"], strict=True)) == {"apart": False, "merged": True}
    assert records["margin_nats"].notna().all()
    assert (read_record(out) or {})["benchmarks"]["border"]["n_prefix_mismatch"] == 1


def test_limit_counts_questions_not_their_formats_and_orders(tiny_llama: Path, tmp_path: Path) -> None:
    rows = [
        {"id": f"q{question}-{order}", "base_id": f"q{question}", "prompt": "who ?", "options": ["tom", "ann"][::order]}
        for question in range(6)
        for order in (1, -1)
    ]
    out = evaluate(tiny_llama, [asking("orders", rows)], None, tmp_path / "out", limit=3)
    assert load_records(out)["item_id"].tolist() == ["q0-1", "q0--1", "q2-1", "q2--1", "q4-1", "q4--1"]


# ------------------------------------------------------------------------------------------------------ cache and scorer


def test_a_shared_cache_serves_the_next_run_with_the_same_result(tiny_llama: Path, data_dir: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    plain = evaluate(tiny_llama, ["crows_pairs"], data_dir, tmp_path / "plain")
    first = evaluate(tiny_llama, ["crows_pairs"], data_dir, tmp_path / "first", score_cache=kept)
    second = evaluate(tiny_llama, ["crows_pairs"], data_dir, tmp_path / "second", score_cache=kept, cell={"teach": "dpo"})
    records = [read_record(out) or {} for out in (plain, first, second)]
    assert len({record["result_hash"] for record in records}) == 1
    caches = [record["score_cache"] for record in records]
    assert caches[0]["found"] == 0
    assert caches[0]["computed"] > 0
    assert (caches[1]["found"], caches[1]["computed"]) == (0, caches[0]["computed"])
    assert (caches[2]["found"], caches[2]["computed"]) == (caches[1]["computed"], 0)
    assert caches[2]["folder"] == str(kept)
    assert caches[2]["bytes"] == (kept / "scores.sqlite").stat().st_size
    assert not list(tmp_path.glob("*.unfinished"))


def test_the_result_hash_is_of_the_numbers_not_of_order_or_format() -> None:
    rows = pd.DataFrame({"item_id": ["a", "b"], "margin_nats": [0.1, math.nan], "logps_whole": [[-1.0, -2.0], []]})
    assert result_hash(rows) == result_hash(rows[::-1][["logps_whole", "margin_nats", "item_id"]])
    moved = rows.assign(margin_nats=[math.nextafter(0.1, 1), math.nan])
    assert result_hash(rows) != result_hash(moved)


def test_something_that_is_not_a_checkpoint_is_evaluated_by_its_scorer(
    tiny_llama: Path, data_dir: Path, tmp_path: Path
) -> None:
    loaded = load_scorer(tiny_llama, strict=False)

    class Elsewhere:
        """Answers as the checkpoint does, and shows neither model nor tokenizer."""

        tokenizer = None
        texts = staticmethod(loaded.texts)

    with pytest.raises(InputError, match="go together"):
        evaluate("name", ["crows_pairs"], data_dir, tmp_path / "out", scorer=Elsewhere())
    out = evaluate("name", ["crows_pairs"], data_dir, tmp_path / "out", scorer=Elsewhere(), identity="api, revision 3")
    record = read_record(out) or {}
    assert (record["policy"], record["policy_kind"], record["policy_hash"]) == ("name", "scorer", "api, revision 3")
    assert record["prompt_format"] is None
    own = evaluate(tiny_llama, ["crows_pairs"], data_dir, tmp_path / "own")
    assert record["result_hash"] == (read_record(own) or {})["result_hash"]


def test_a_masked_language_model_is_told_apart_by_its_config(tiny_llama: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_llama, tmp_path / "bert")
    config = json.loads((tmp_path / "bert" / "config.json").read_text())
    write_json(tmp_path / "bert" / "config.json", config | {"architectures": ["BertForMaskedLM"]})
    with pytest.raises(CheckpointError, match="masked"):
        load_scorer(tmp_path / "bert")
    assert isinstance(load_scorer(tiny_llama), PolicyScorer)


def test_no_progress_is_written_where_nobody_looks(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    with progress_bar() as progress:
        assert progress is None
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with progress_bar() as progress:
        assert progress is not None
        progress("crows_pairs", 3, 12)
        progress("crows_pairs", 12, 12)
    assert "12/12" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------ disks, processes


@needs_fork
def test_a_disk_that_fills_up_leaves_no_half_result_and_the_scores_are_kept(
    tiny_llama: Path, data_dir: Path, tmp_path: Path
) -> None:
    """The kernel's limit on a file's size stands for the full disk: writes beyond it fail, as there."""
    import resource

    out, told = tmp_path / "out", tmp_path / "told"
    names = [hashlib.sha256(bytes([n % 256, n // 256])).hexdigest() for n in range(2000)]  # do not compress to nothing
    rows = [{"id": name, "prompt": "who is late ?", "options": ["tom", "ann"]} for name in names]
    big = asking("big", rows)
    child = os.fork()
    if child == 0:
        try:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))
            evaluate(tiny_llama, [big], None, out)
        except TeachfairError as error:
            told.write_text(f"{type(error).__name__}: {error}")
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert "RunFolderError: the results cannot be written" in told.read_text()
    assert "File too large" in told.read_text()
    assert not out.exists()
    assert not list(tmp_path.glob(".out.*"))
    assert (tmp_path / "out.unfinished" / "scores.sqlite").is_file()
    evaluate(tiny_llama, [big], None, out)
    assert (read_record(out) or {})["score_cache"]["computed"] == 0
    assert not (tmp_path / "out.unfinished").exists()


@pytest.mark.skipif(not Path("/proc/version").exists(), reason="needs a folder nobody may write to; runs on Linux")
def test_a_folder_that_may_not_be_written_is_named(tiny_llama: Path, data_dir: Path) -> None:
    with pytest.raises(RunFolderError, match="cannot be made") as caught:
        evaluate(tiny_llama, ["crows_pairs"], data_dir, "/proc/out")
    assert "/proc/out" in caught.value.where


def test_two_processes_into_one_folder_are_told_apart(tiny_llama: Path, data_dir: Path, tmp_path: Path) -> None:
    with claimed(tmp_path / "out.unfinished"), pytest.raises(RunFolderError, match="in use"):
        evaluate(tiny_llama, ["crows_pairs"], data_dir, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    evaluate(tiny_llama, ["crows_pairs"], data_dir, tmp_path / "out")


def test_what_a_killed_run_left_aside_is_removed_and_another_runs_is_not(
    tiny_llama: Path, data_dir: Path, tmp_path: Path
) -> None:
    for name in (".out.a1b2c3d4.partial", ".out.two.a1b2c3d4.partial"):
        (tmp_path / name).mkdir()
    evaluate(tiny_llama, ["crows_pairs"], data_dir, tmp_path / "out")
    assert [path.name for path in tmp_path.glob(".*")] == [".out.two.a1b2c3d4.partial"]


# --------------------------------------------------------------------------------------------------------------- editing


def test_a_cell_of_a_study_that_was_edited_is_not_reported(tiny_llama: Path, data_dir: Path, tmp_path: Path) -> None:
    folders = [evaluate(tiny_llama, ["crows_pairs"], data_dir, tmp_path / name) for name in ("cell-a", "cell-b")]
    results = [{"evaluations": [{"folder": str(folder), "reused": True}]} for folder in folders]
    noted = {folder.name: hash_file(records_file(folder)) for folder in folders}
    assert len(load_study_records(results, noted)) == 24
    edited = pd.read_parquet(folders[1] / "records.parquet")
    edited.loc[3, "margin_nats"] = 0.0
    edited.to_parquet(folders[1] / "records.parquet")
    with pytest.raises(RunFolderError, match="changed") as caught:
        load_study_records(results)
    assert caught.value.where == str(folders[1] / "records.parquet")
    # the hash in the cell's own record edited as well: only the study's note tells
    record = read_record(folders[1]) or {}
    write_json(folders[1] / "run.json", record | {"records_hash": hash_file(folders[1] / "records.parquet")})
    with pytest.raises(RunFolderError, match="changed"):
        load_study_records(results, noted)
    del record["records_hash"]
    write_json(folders[1] / "run.json", record)
    with pytest.raises(RunFolderError, match="changed"):
        load_study_records(results)
    # a cell that was evaluated anew in this very run is not held to what an earlier report saw
    shutil.rmtree(folders[1])
    evaluate(tiny_llama, ["crows_pairs"], data_dir, folders[1], limit=5)
    anew = {"evaluations": [{"folder": str(folders[1]), "reused": False}]}
    assert len(load_study_records([results[0], anew], noted)) == 17
