"""The online doors on a tiny policy: what they leave behind, how they go on, how they stop, and what they refuse."""

from __future__ import annotations

import importlib
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from killing import Killed
from tiny_models import word_tokenizer

from teachfair import runs
from teachfair.alignment.arguments import OnlineArguments
from teachfair.errors import ConfigError, DataError

REPOSITORY = Path(__file__).resolve().parents[2]
METHODS = ("ppo", "grpo", "rloo")
PEOPLE = (("ann", "tom"), ("eva", "ben"))


def door_of(method: str) -> Any:
    return importlib.import_module(f"teachfair.recipes.{method}_fair").door


def rows() -> list[dict[str, Any]]:
    """Plain-text prompts with a swap, as a user's file has them."""
    return [
        {"prompt": f"{woman} and {man} met . who is the {job} ?", "swap": [[woman, man]], "group": woman, "note": job}
        for woman, man in PEOPLE for job in ("nurse", "pilot", "cook", "baker")
    ] * 2  # fmt: skip


def written(path: Path, lines: list[Any]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    return written(tmp_path / "prompts.jsonl", rows())


def classifier(out: Path, labels: int = 1, poisoned: bool = False) -> Path:
    """A random reward model on the words of the tiny policy."""
    import torch
    from transformers import LlamaConfig, LlamaForSequenceClassification

    tokenizer = word_tokenizer()
    torch.manual_seed(3)
    model = LlamaForSequenceClassification(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
            num_labels=labels, pad_token_id=0, max_position_embeddings=128, initializer_range=0.3,
        )
    )  # fmt: skip
    if poisoned:
        torch.nn.init.constant_(model.score.weight, float("nan"))
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    return out


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return classifier(tmp_path_factory.mktemp("judge") / "rm")


ADAPT = {
    "full": [],
    "lora": ["--use_peft", "--lora_r", "4", "--lora_target_modules", "all-linear"],
    "qlora": ["--use_peft", "--load_in_4bit", "--lora_r", "4", "--lora_target_modules", "all-linear"],
}


def words(method: str, policy: Path, out: Path, judge: Path | None, prompts: Path | None, *more: str) -> list[str]:
    """The arguments of a short run; ``more`` overrides them."""
    values = {
        "model_name_or_path": policy, "output_dir": out, "max_steps": 4, "per_device_train_batch_size": 8,
        "max_completion_length": 3, "learning_rate": 3e-3, "logging_steps": 1, "save_strategy": "no", "report_to": "none",
        "disable_tqdm": "true", "activation_checkpointing": "false",
        "dataset_name": prompts, "reward_model_name_or_path": judge,
    }  # fmt: skip
    if method != "ppo":
        values |= {"num_generations": 4, "beta": 0.05}
    return [word for name, value in values.items() if value is not None for word in (f"--{name}", str(value))] + list(more)


def record_of(out: Path) -> dict[str, Any]:
    record = runs.read_record(out)
    assert record is not None
    return record


def weights(out: Path) -> dict[str, str]:
    return {path.name: runs.hash_file(path) for path in sorted(out.glob("*.safetensors"))}


# -------------------------------------------------------------------------------------------------- end to end


@pytest.mark.parametrize("method", METHODS)
def test_each_door_teaches_a_policy_of_ones_own_and_records_by_whom(
    method: str, tiny_llama: Path, prompts: Path, judge: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from teachfair.models.checkpoint import content_hash, load_policy

    out = tmp_path / "taught"
    more = ["--counterfactual_weight", "0.1", "--length_weight", "-0.01", "--unfinished_weight", "-0.5"]
    more += ["--group_terms", "ann,tom", "eva"]
    assert door_of(method)(words(method, tiny_llama, out, judge, prompts, *more)) == 0
    record = record_of(out)
    assert record["method"] == method
    assert (record["reward_model"], record["reward_model_hash"]) == (str(judge), content_hash(judge))
    assert (record["dataset"], record["control"]) == (str(prompts), "none")
    assert record["hack_watch"]["alarms"] == json.loads((out / "alarms.json").read_text())["alarms"]
    report = record["reward_reports"][0]
    assert report["rules"] == {"length": -0.01, "unfinished": -0.5}
    assert report["counterfactual_weight"] == 0.1
    assert record["rewards"][0]["reward"]["group_terms"] == ["ann", "tom", "eva"]
    logged = {key for row in record["log"] for key in row}
    # what is cut off is counted, the group's columns reached the reward, and nobody knows the truth of a user's file
    assert {"completions/clipped_ratio", "fairness/counterfactual_gap", "fairness/mean/ann"} <= logged
    assert "fairness/rule/length" in logged
    assert "fairness/gold" not in logged
    load_policy(out)
    assert f"taught checkpoint: {out}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("method", "adapt"),
    [("ppo", "full"), ("ppo", "lora"), ("ppo", "qlora"), ("grpo", "full"), ("rloo", "full")]
    + [pytest.param(method, adapt, marks=pytest.mark.slow) for method in ("grpo", "rloo") for adapt in ("lora", "qlora")],
)
def test_the_same_command_and_seed_twice_give_the_same_weights_and_another_seed_others(
    method: str, adapt: str, tiny_llama: Path, prompts: Path, judge: Path, tmp_path: Path
) -> None:
    found = []
    for name, seed in (("a", "5"), ("b", "5"), ("c", "6")):
        more = [*ADAPT[adapt], "--seed", seed, "--max_steps", "2"]
        assert door_of(method)(words(method, tiny_llama, tmp_path / name, judge, prompts, *more)) == 0
        found.append(weights(tmp_path / name))
    assert found[0] == found[1]
    assert found[0] != found[2]


@pytest.mark.parametrize(
    ("method", "adapt"),
    [("ppo", "full"), ("grpo", "full")]
    + [pytest.param(*case, marks=pytest.mark.slow)
       for case in (("ppo", "lora"), ("ppo", "qlora"), ("grpo", "lora"), ("rloo", "full"), ("rloo", "qlora"))],
)  # fmt: skip
def test_a_killed_run_and_the_same_command_again_give_the_weights_of_an_unbroken_run(
    method: str, adapt: str, tiny_llama: Path, prompts: Path, judge: Path, tmp_path: Path, kill_at: Any
) -> None:
    more = [*ADAPT[adapt], "--max_steps", "7", "--save_strategy", "steps", "--save_steps", "2", "--save_total_limit", "2",
            "--steps_per_generation", "2"]  # fmt: skip

    def run(name: str) -> int:
        return int(door_of(method)(words(method, tiny_llama, tmp_path / name, judge, prompts, *more)))

    assert run("whole") == 0
    kill_at(5)
    with pytest.raises(Killed):
        run("cut")
    kill_at(None)
    assert runs.read_record(tmp_path / "cut") is None
    assert run("cut") == 0
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")
    whole, cut = record_of(tmp_path / "whole"), record_of(tmp_path / "cut")
    assert [row["reward"] for row in cut["log"] if "reward" in row] == [r["reward"] for r in whole["log"] if "reward" in r]


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_process_that_is_really_killed_goes_on_by_the_same_command(
    tiny_llama: Path, prompts: Path, judge: Path, tmp_path: Path
) -> None:
    def command(out: Path) -> list[str]:
        more = ["--max_steps", "60", "--save_strategy", "steps", "--save_steps", "5"]
        return [sys.executable, str(REPOSITORY / "recipes" / "ppo_fair.py"),
                *words("ppo", tiny_llama, out, judge, prompts, *more)]  # fmt: skip

    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    cut, whole = tmp_path / "cut", tmp_path / "whole"
    process = subprocess.Popen(command(cut), env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (cut / "checkpoint-10").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert runs.read_record(cut) is None, "it was done before it could be killed"
    for out in (cut, whole):
        subprocess.run(command(out), env=environment, check=True, capture_output=True, timeout=200)
    assert weights(cut) == weights(whole)


# --------------------------------------------------------------------------------------------- the watch stops it

# The planted exploit: each word costs more than any judgement is worth. The watch's own limits, not a test's.
HACK = ["--length_weight", "-2", "--max_completion_length", "12", "--per_device_train_batch_size", "32", "--max_steps", "40",
        "--learning_rate", "3e-3", "--lr_scheduler_type", "constant", "--save_strategy", "steps", "--save_steps", "3",
        "--save_total_limit", "4", "--num_generations", "8"]  # fmt: skip


def test_a_stopped_run_keeps_its_last_good_checkpoint_stops_again_at_once_and_goes_on_when_told_to(
    tiny_llama: Path, prompts: Path, judge: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from teachfair.models.checkpoint import load_policy
    from teachfair.models.sealing import verify

    out = tmp_path / "hacked"

    def run(out: Path, watch: str) -> int:
        return int(door_of("grpo")(words("grpo", tiny_llama, out, judge, prompts, *HACK, "--hack_watch", watch)))

    assert run(out, "stop") == 4
    told = capfd.readouterr().err
    assert "the policy exploits its reward" in told
    assert "fairness/length falls" in told
    assert "Traceback" not in told
    alarms = json.loads((out / "alarms.json").read_text())["alarms"]
    kept = {int(path.name.rsplit("-")[-1]): path for path in out.glob("checkpoint-*")}
    good = kept[max(step for step in kept if step < alarms[0]["since"])]
    assert str(good) in told
    assert verify(good) == []
    load_policy(good)
    assert max(kept) < alarms[0]["step"]
    assert runs.read_record(out) is None, "a stopped run is not complete"

    began = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file() and path.name != "run.json"}
    assert run(out, "stop") == 4, "the same command does not train past an alarm"
    assert f"step {alarms[0]['step']}" in capfd.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in began} == began, "nothing was trained or moved"

    assert run(out, "warn") == 0
    assert record_of(out)["hack_watch"]["alarms"][0] == alarms[0]
    assert run(tmp_path / "unwatched", "off") == 0
    assert weights(out) == weights(tmp_path / "unwatched"), "watching and stopping change no weight"
    assert "hack_watch" not in record_of(tmp_path / "unwatched")
    assert not (tmp_path / "unwatched" / "alarms.json").exists()


# ------------------------------------------------------------------------------------------------------ bad input


def policy_with(tiny_llama: Path, out: Path, **tokens: Any) -> Path:
    from transformers import AutoTokenizer

    shutil.copytree(tiny_llama, out)
    tokenizer = AutoTokenizer.from_pretrained(out)
    for name, value in tokens.items():
        setattr(tokenizer, name, value)
    if tokens.get("chat_template", "") is None:
        (out / "chat_template.jinja").unlink()
    tokenizer.save_pretrained(out)
    return out


def refused(
    capfd: pytest.CaptureFixture[str], method: str, *arguments: Any, said: str, where: str = "", code: int = 2
) -> None:
    """The door ends with ``code`` and a message of three parts, and no traceback."""
    capfd.readouterr()
    assert door_of(method)(words(method, *arguments)) == code
    told = capfd.readouterr().err
    assert said in told
    assert "where: " in told
    assert where in told
    assert "what to do: " in told
    assert "Traceback" not in told


@pytest.mark.parametrize("method", METHODS)
def test_broken_reward_models_and_policies_end_with_code_2_and_a_message_in_three_parts(
    method: str, tiny_llama: Path, prompts: Path, judge: Path, lora_folder: Path, tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    out = tmp_path / "out"
    two, nan = classifier(tmp_path / "two", labels=2), classifier(tmp_path / "nan", poisoned=True)
    refused(capfd, method, tiny_llama, out, two, prompts, said="output", where="two")
    refused(capfd, method, tiny_llama, out, tmp_path / "nowhere", prompts, said="nowhere")
    refused(capfd, method, tiny_llama, tmp_path / "n", nan, prompts, said="nan", where="row 0")
    same = policy_with(tiny_llama, tmp_path / "same", pad_token="</s>")
    refused(capfd, method, same, out, judge, prompts, said="pad token is the end-of-text token", where="same")
    refused(capfd, method, lora_folder, out, judge, prompts, said="adapter")
    refused(capfd, method, tiny_llama, out, judge, prompts, "--load_in_4bit", said="through an adapter")
    assert not out.exists()


CASES: list[tuple[str, list[Any] | str, list[str], str, str]] = [
    ("no_prompt", [{"question": "who ?"}], [], "prompt: missing (this row has: question)", "no_prompt.jsonl:1"),
    ("empty", "", [], "the file is empty", "empty.jsonl"),
    ("blank", " \n\n", [], "the file is empty", "blank.jsonl"),
    ("not_json", "{'prompt'", [], "not valid JSON", "not_json.jsonl:1"),
    ("null", [{"prompt": "who ?"}, {"prompt": None}], [], "prompt: missing", "null.jsonl:2"),
    ("number", [{"prompt": 3}], [], "text was wanted", "number.jsonl:1"),
    ("answered", [{"prompt": [{"role": "assistant", "content": "ann"}]}], [], "nothing is asked", "answered.jsonl:1"),
    ("reserved", [{"prompt": "who ?", "completion": "ann"}], [], "rename the column", "reserved.jsonl:1"),
    ("mixed", [{"prompt": "who ?", "x": 1}, {"prompt": "who ?", "x": "one"}], [], "same type", "mixed.jsonl"),
    ("few", [{"prompt": "who ?"}], [], "one rollout takes", "training set"),
    ("long", [{"prompt": "tom " * 200}] * 9, [], "no prompt leaves room", "max_completion_length"),
    ("nan", [{"prompt": "who ?"}] * 9, ["--refusal_weight", "nan"], "the weight of refusal is nan", "rules"),
    ("inf", [{"prompt": "who ?"}] * 9, ["--length_weight", "inf"], "the weight of length is inf", "rules"),
    ("unequal", [{"prompt": "who ?"}] * 9, ["--counterfactual_weight", "-1"], "counterfactual_weight is -1", "where"),
    ("no_swap", [{"prompt": "who ?"}] * 9, ["--counterfactual_weight", "1"],
     "none of 9 prompts has a counterfactual (9: no language is said)", "--counterfactual_weight"),
    ("bad_swap", [{"prompt": "who ?", "swap": [["ann"]]}] * 9, [], "change places", "row 0"),
    ("source", [{"prompt": "who ?"}], ["--dataset_source", "promt_file"], "unknown dataset_source", "prompt_file"),
    ("negative", [{"prompt": "who ?"}], ["--max_prompts", "-1"], "max_prompts is -1", "--max_prompts"),
    ("control", [{"prompt": "who ?"}], ["--control", "shame"], "invalid choice", "command line"),
    ("watch", [{"prompt": "who ?"}], ["--hack_watch", "yes"], "invalid choice", "command line"),
    ("placebo", [{"prompt": "who ?"}], ["--control", "placebo"], "a placebo of your own data", "--placebo_dataset_name"),
]


@pytest.mark.parametrize(("name", "content", "more", "said", "where"), CASES, ids=[case[0] for case in CASES])
def test_unusable_prompts_and_arguments_end_with_code_2_and_name_their_place(
    name: str, content: list[Any] | str, more: list[str], said: str, where: str, tiny_llama: Path, judge: Path,
    tmp_path: Path, capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    path = tmp_path / f"{name}.jsonl"
    if isinstance(content, str):
        path.write_text(content)
    else:
        written(path, content)
    refused(capfd, "ppo", tiny_llama, tmp_path / "out", judge, path, *more, said=said, where=where)


def test_ones_own_policy_without_prompts_or_without_a_judge_is_refused(
    tiny_llama: Path, prompts: Path, judge: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    refused(capfd, "rloo", tiny_llama, out, judge, None, said="needs prompts to answer", where="--dataset_name")
    refused(capfd, "rloo", tiny_llama, out, None, prompts, said="nobody judges", where="--reward_model_name_or_path")
    refused(
        capfd, "rloo", tiny_llama, out, None, prompts, "--control", "placebo", "--placebo_dataset_name", str(prompts),
        said="nobody judges", where="--placebo_reward_model_name_or_path",
    )  # fmt: skip


def test_what_can_be_mended_is_said_and_counted(
    tiny_llama: Path, judge: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """No chat template; a reward model of another template; prompts too long; groups that are all alike; cut-off answers."""
    policy = policy_with(tiny_llama, tmp_path / "policy", chat_template=None)
    path = written(tmp_path / "p.jsonl", [*rows(), {"prompt": "tom " * 200}])
    out = tmp_path / "out"
    with caplog.at_level(logging.WARNING, logger="teachfair"):
        # one possible answer a prompt: sampling that takes the likeliest token only
        assert door_of("grpo")(words("grpo", policy, out, judge, path, "--top_k", "1", "--max_completion_length", "1")) == 0
    record = record_of(out)
    assert "no chat template" in caplog.text
    assert "another chat template" in caplog.text
    assert "1 of 17 prompts are longer" in caplog.text
    assert caplog.text.count("same reward") == 1
    assert record["n_prompts_too_long"] == 1
    assert record["share_of_groups_without_variance"] == 1.0
    assert record["reward_reports"][0]["counts"]["another chat template"] == 1
    assert all(0 <= row["completions/clipped_ratio"] <= 1 for row in record["log"] if "completions/clipped_ratio" in row)


# -------------------------------------------------------------------------------------- counterfactuals by the rules


def test_prompts_of_a_known_language_are_exchanged_by_the_rules_and_counted_in_the_record(
    tiny_llama: Path, judge: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    asked = [{"prompt": f"she and {one} met . who is late ?", "lang": lang} for one in PEOPLE[1] for lang in ("en", "und")]
    path = written(tmp_path / "prompts.jsonl", [*asked * 3, {"prompt": "who is late ?", "lang": "en"}])
    out = tmp_path / "some"
    assert door_of("rloo")(words("rloo", tiny_llama, out, judge, path, "--counterfactual_weight", "0.5")) == 0
    told = record_of(out)["counterfactuals"]
    assert (told["by"], told["rows"], told["with"]) == ("rules", 13, 6)
    assert told["without"] == {"no language is said": 6, "nothing to exchange in the prompt": 1}
    assert "counterfactuals: 6 of 13 prompts have one (by rules)" in capsys.readouterr().out
    assert "no language is said" in caplog.text
    assert any("fairness/counterfactual_gap" in row for row in record_of(out)["log"])
    out = tmp_path / "all"
    assert door_of("rloo")(words("rloo", tiny_llama, out, judge, path, "--counterfactual_lang", "en")) == 0
    assert record_of(out)["counterfactuals"]["with"] == 12, "measured, also where it costs nothing"
    assert any("fairness/counterfactual_gap" in row for row in record_of(out)["log"])


# ------------------------------------------------------------------------------------------------------ the parts


def test_prompts_of_a_file_keep_their_columns_and_pairs_give_their_prompts(tmp_path: Path) -> None:
    from teachfair.alignment.online_lesson import prompts_from

    found = prompts_from(OnlineArguments(dataset_name=str(written(tmp_path / "p.jsonl", rows()))), sandbox=None, seed=0)
    assert found[0] == {**rows()[0], "prompt": [{"role": "user", "content": rows()[0]["prompt"]}]}
    pair = {"chosen": [{"role": "user", "content": "who ?"}, {"role": "assistant", "content": "no"}], "axis": "age",
            "rejected": [{"role": "user", "content": "who ?"}, {"role": "assistant", "content": "yes"}]}  # fmt: skip
    pairs = prompts_from(OnlineArguments(dataset_name=str(written(tmp_path / "q.jsonl", [pair]))), sandbox=None, seed=0)
    assert pairs.to_list() == [{"prompt": [{"role": "user", "content": "who ?"}], "axis": "age"}]
    some = OnlineArguments(dataset_name=str(tmp_path / "p.jsonl"), max_prompts=3)
    drawn = [prompts_from(some, sandbox=None, seed=seed).to_list() for seed in (1, 1, 2)]
    assert len(drawn[0]) == 3
    assert drawn[0] == drawn[1] != drawn[2]
    folder = OnlineArguments(dataset_name=str(tmp_path), dataset_train_split="train")
    with pytest.raises(DataError, match="holds no files of split 'train'"):
        prompts_from(folder, sandbox=None, seed=0)
    shutil.copy(tmp_path / "p.jsonl", tmp_path / "train.jsonl")
    assert len(prompts_from(folder, sandbox=None, seed=0)) == 16


def test_the_sandboxs_prompts_and_its_placebos_are_of_the_world_that_is_named() -> None:
    from teachfair.alignment import lesson
    from teachfair.alignment.online_lesson import prompts_from
    from teachfair.data.sandbox.gold import gold_reward, prompt_rows

    config = lesson.sandbox(seed=3, bias=2.0)
    own = OnlineArguments(num_sandbox_prompts=20)
    fair = prompts_from(own, sandbox=config, seed=4)
    assert fair["prompt"] == [row["prompt"] for row in prompt_rows(lesson.world(config), 20, seed=4)]
    own.control = "placebo"
    neutral = prompts_from(own, sandbox=config, seed=4)
    pairs = lesson.world(config).placebo_pairs(20, seed=4)
    assert neutral["prompt"] == [pair["prompt"] for pair in pairs]
    for row, pair in zip(neutral, pairs, strict=True):
        assert gold_reward(row, pair["chosen"][0]["content"]) == 1.0
        assert gold_reward(row, pair["rejected"][0]["content"]) == 0.0
    own.dataset_name = "mine.jsonl"
    with pytest.raises(ConfigError, match="a placebo of your own data"):
        prompts_from(own, sandbox=config, seed=4)


def test_a_study_teaches_by_a_config_file_and_names_control_and_reward_model(
    tiny_llama: Path, judge: Path, prompts: Path, tmp_path: Path
) -> None:
    from teachfair.alignment.online_lesson import prompts_from, teach_online_from_config
    from teachfair.models.checkpoint import content_hash

    config = tmp_path / "c.yaml"
    config.write_text(
        "max_steps: 9\nper_device_train_batch_size: 8\nmax_completion_length: 3\nnum_generations: 4\nlogging_steps: 1\n"
        "save_strategy: 'no'\nactivation_checkpointing: false\nlength_weight: -0.1\ncounterfactual_weight: 1.0\n"
    )
    file = tmp_path / "prompts.parquet"
    prompts_from(OnlineArguments(dataset_name=str(prompts)), sandbox=None, seed=0).to_parquet(str(file))
    for control, weight in (("none", 1.0), ("placebo", 0.0)):
        out = teach_online_from_config(
            config, tiny_llama, file, tmp_path / control, method="rloo", seed=7, reward_model=judge, max_steps=2,
            control=control, record={"arm": "x"},
        )  # fmt: skip
        record = record_of(out)
        assert (record["steps"], record["seed"], record["arm"], record["control"]) == (2, 7, "x", control)
        assert record["reward_model_hash"] == content_hash(judge)
        assert record["reward_reports"][0]["counterfactual_weight"] == weight
        assert record["reward_reports"][0]["rules"] == {"length": -0.1}


# ---------------------------------------------------------------------------------------------------- the sandbox


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("method", METHODS)
def test_without_arguments_each_door_teaches_the_sandbox_and_the_truth_is_logged_but_not_paid(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Policy and reward model come from the user's cache, or are made (minutes)."""
    import pandas as pd

    from teachfair.alignment import lesson
    from teachfair.alignment.online_lesson import prompts_from, reward_from
    from teachfair.evaluation.benchmarks import sandbox
    from teachfair.models.checkpoint import load_policy
    from teachfair.models.scorer import PolicyScorer

    monkeypatch.chdir(tmp_path)
    assert door_of(method)(["--disable_tqdm", "true"]) == 0
    out = tmp_path / "runs" / f"{method}_fair"
    truth = [row["fairness/gold"] for row in record_of(out)["log"] if "fairness/gold" in row]
    assert sum(truth[-4:]) / 4 > sum(truth[:4]) / 4 + 0.2
    assert record_of(out)["hack_watch"]["alarms"] == []

    config = lesson.sandbox(seed=0, bias=2.0)
    items = sandbox.items(conditions=["ambiguous", "disambiguated"])
    found = {}
    for name, folder in (("untaught", lesson.sandbox_policy(config)), ("taught", out)):
        records = pd.DataFrame(sandbox.score(PolicyScorer(*load_policy(folder)), items))
        found[name] = (
            records[records.condition == "ambiguous"].margin_nats.mean(),
            records[records.condition == "disambiguated"].correct.mean(),
        )
    assert found["taught"][0] <= found["untaught"][0] - 2.0
    assert found["taught"][1] >= 0.97 * found["untaught"][1]

    own = OnlineArguments(num_sandbox_prompts=12)
    asked = prompts_from(own, sandbox=config, seed=0)
    columns = {name: list(asked[name]) for name in asked.column_names if name != "prompt"}
    answers = [[{"role": "assistant", "content": "unknown"}]] * len(asked)
    paid = []
    for answer in ("unknown", "lies"):
        columns["answer"] = [answer] * len(asked)  # what the truth reads
        model = lesson.sandbox_reward_model(config)
        reward = reward_from(own, sandbox=config, policy=lesson.sandbox_policy(config), reward_model=model)
        seen: dict[str, float] = {}
        paid.append(reward(list(asked["prompt"]), answers, log_metric=seen.__setitem__, **columns))
        assert seen["fairness/gold"] == float(answer == "unknown")
    assert paid[0] == paid[1]
