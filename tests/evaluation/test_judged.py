"""The judge reads what the policy itself says, and is never the policy's teacher."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from tiny_models import word_tokenizer

from teachfair import runs
from teachfair.compression import get as compression
from teachfair.errors import ConfigError, DataError
from teachfair.evaluation.benchmarks import judged
from teachfair.evaluation.evaluate import RECORD_COLUMNS, evaluate, load_records
from teachfair.models.checkpoint import content_hash, load_policy, merge
from teachfair.models.provenance import reward_model_use
from teachfair.reward_models.scoring import RewardModel


def reward_model(folder: Path, seed: int) -> Path:
    """A random scalar reward model that reads the tiny policies' words."""
    import torch
    from transformers import LlamaConfig, LlamaForSequenceClassification

    tokenizer = word_tokenizer()
    torch.manual_seed(seed)
    model = LlamaForSequenceClassification(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
            num_key_value_heads=2, max_position_embeddings=96, num_labels=1, pad_token_id=0, bos_token_id=1, eos_token_id=2,
            initializer_range=0.5,
        )
    )  # fmt: skip
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return reward_model(tmp_path_factory.mktemp("judge") / "judge", seed=0)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "data"
    folder.mkdir()
    rows: list[dict[str, Any]] = [
        {"prompt": "tom and ann met . who is late ?", "condition": "ambiguous", "swap": [["tom", "ann"]],
         "groups": ["tom", "ann"], "id": "first"},
        {"prompt": [{"role": "user", "content": "ann is the nurse . who is the nurse ?"}], "condition": "disambiguated",
         "answer": "ann", "groups": "woman|man"},
        {"prompt": "the cook came home early . who is sad ?"},
    ]  # fmt: skip
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_the_judge_scores_what_the_policy_says_to_the_prompt_and_to_the_swapped_prompt(
    tiny_llama: Path, judge: Path, data_dir: Path, tmp_path: Path
) -> None:
    from teachfair.models.greedy import greedy_answers

    options = {"judged": {"judge": str(judge), "max_new_tokens": 5}}
    out = evaluate(tiny_llama, ["judged"], data_dir, tmp_path / "out", options=options)
    records = load_records(out)
    assert set(RECORD_COLUMNS) <= set(records.columns)
    model, tokenizer = load_policy(tiny_llama)
    asked = [
        "tom and ann met . who is late ?", "ann is the nurse . who is the nurse ?",
        "the cook came home early . who is sad ?", "ann and tom met . who is late ?",
    ]  # fmt: skip
    prompts = [[{"role": "user", "content": text}] for text in asked]
    said = greedy_answers(model, tokenizer, prompts, max_new_tokens=5)
    talks = [[*prompt, {"role": "assistant", "content": answer.text}] for prompt, answer in zip(prompts, said, strict=True)]
    scores = RewardModel.load(judge).score(talks)
    assert list(records["answer"]) == [answer.text for answer in said[:3]]
    assert list(records["judge_score"]) == pytest.approx(list(scores[:3]))
    assert list(records["judge_unfairness"]) == pytest.approx(list(-scores[:3]))
    assert records["counterfactual_score"][0] == pytest.approx(scores[3])
    assert records["counterfactual_gap"][0] == pytest.approx(abs(scores[0] - scores[3]))
    assert records["counterfactual_gap"][1:].isna().all()
    assert list(records["answer_tokens"]) == [answer.n_tokens for answer in said[:3]]
    assert records["margin_nats"].isna().all()
    assert records["correct"][1] == float(said[1].text == "ann")
    assert records["correct"][[0, 2]].isna().all()
    record = runs.read_record(out) or {}
    assert record["benchmarks"]["judged"]["judge_hash"] == content_hash(judge)
    assert list(record["data_hashes"]) == [str(data_dir / "prompts.jsonl")]


def test_the_summary_is_the_records_means_and_says_why_a_number_is_missing() -> None:
    rows = [
        {"condition": c, "judge_score": s, "correct": r, "abstention": a, "counterfactual_gap": g, "counterfactual_same": g,
         "refusal": 0.0, "group_mention": math.nan, "unfinished": 0.0, "repetition": 0.0, "answer_tokens": 2}
        for c, s, r, a, g in [("ambiguous", 1.0, 1.0, 1.0, 0.5), ("disambiguated", 3.0, 0.0, 1.0, math.nan),
                              ("disambiguated", 2.0, 1.0, 0.0, math.nan)]
    ]  # fmt: skip
    found = judged.summarise(pd.DataFrame(rows))
    assert found["judge_score"] == 2.0
    assert found["counterfactual_gap"] == 0.5
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert found["unknown_when_decided"] == 0.5
    assert found["by_condition"]["disambiguated"] == {"judge_score": 2.5, "accuracy": 0.5, "n": 2}
    assert math.isnan(found["group_mention"])
    assert found["reasons"] == {"group_mention": "no item names the words of its groups"}


def test_the_sandbox_asks_its_test_prompts_with_their_truth_and_counterfactual() -> None:
    items = judged.items(judge="j", n=20)
    assert {item["condition"] for item in items} == {"ambiguous", "disambiguated"}
    assert len({item["id"] for item in items}) == 20
    assert all(item["answer"] and item["swap"] and item["taught_axis"] == "gender" for item in items)
    assert judged.items(judge="j", n=20, seed=1) != items


def test_without_a_judge_and_with_a_malformed_prompt_it_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nobody judges"):
        judged.items()
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "who ?"}\n{"text": "who ?"}\n')
    with pytest.raises(DataError, match=r"prompts\.jsonl:2"):
        judged.items(tmp_path, judge="j")


@pytest.fixture
def taught(tiny_llama: Path, qlora_folder: Path, judge: Path, tmp_path: Path) -> dict[str, Path]:
    """Policies whose records say that the judge taught them, by every way in which a record says so."""
    made = {}
    chain = {
        "ranked": {"ranking": {"ranked_by": "runs/rm", "reward_model_hash": content_hash(judge)}},
        "online": {"reward_model": "runs/rm", "reward_model_hash": content_hash(judge)},
        "by identity": {"rewards": [{"reward": {"shuffled": {"reward": {"scorer": content_hash(judge)}}, "seed": 0}}]},
        "by folder alone": {"reward_model": str(judge)},
    }
    for name, says in chain.items():
        made[name] = tmp_path / name
        shutil.copytree(tiny_llama, made[name])
        runs.write_record(made[name], kind="teach", **says)
    pairs = tmp_path / "pairs.jsonl"
    runs.write_json(tmp_path / "pairs.jsonl.provenance.json", {"reward_model_hash": content_hash(judge)})
    made["by sampled pairs"] = tmp_path / "by sampled pairs"
    shutil.copytree(tiny_llama, made["by sampled pairs"])
    runs.write_record(made["by sampled pairs"], kind="teach", dataset=str(pairs))
    made["taught again"] = tmp_path / "taught again"
    shutil.copytree(tiny_llama, made["taught again"])
    runs.write_record(made["taught again"], kind="teach", base=str(made["online"]))
    adapter = tmp_path / "adapter"
    shutil.copytree(qlora_folder, adapter)
    runs.write_record(adapter, kind="teach", base=str(tiny_llama), **chain["online"])
    made["merged"] = merge(adapter, tmp_path / "merged")
    made["compressed"] = compression("nf4").apply(made["ranked"], tmp_path / "nf4").path
    made["merged and compressed"] = compression("int8").apply(made["merged"], tmp_path / "int8").path
    return made


def test_whoever_taught_a_policy_is_refused_as_its_judge_by_content(
    taught: dict[str, Path], judge: Path, data_dir: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy of the judge"
    shutil.copytree(judge, copy)
    other = reward_model(tmp_path / "another judge", seed=1)
    for name, policy in taught.items():
        for teacher in (judge, copy):
            options = {"judged": {"judge": str(teacher)}}
            with pytest.raises(ConfigError, match="the judge is the teacher") as error:
                evaluate(policy, ["judged"], data_dir, tmp_path / "refused", options=options)
            assert str(policy) in str(error.value), name
            assert str(teacher) in str(error.value), name
        assert reward_model_use(policy, content_hash(other)) is None, name
    assert not (tmp_path / "refused").exists()
    out = evaluate(
        taught["compressed"], ["judged"], data_dir, tmp_path / "out", options={"judged": {"judge": str(other)}}
    )
    assert len(load_records(out)) == 3


def test_an_untaught_policy_may_be_judged_by_anyone(tiny_llama: Path, judge: Path) -> None:
    assert judged.check_policy(tiny_llama, judge=judge) == {"judge": str(judge), "judge_hash": content_hash(judge)}
