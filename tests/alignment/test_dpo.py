"""Teaching by DPO: it learns, it is deterministic, it resumes, it leaves nothing broken behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from killing import Killed

from teachfair import runs
from teachfair.alignment import dpo
from teachfair.errors import ConfigError, NonFiniteError, RunFolderError


@pytest.fixture(scope="module")
def pairs() -> Dataset:
    """Whoever is late is unknown: the fair answer is one word, the same for all."""
    people = ["tom", "ann", "ben", "eva"]
    rows = []
    for i in range(48):
        first, second = people[i % 4], people[(i + 1) % 4]
        question = f"{first} and {second} met . who is late ?"
        rows.append(
            {
                "prompt": [{"role": "user", "content": question}],
                "chosen": [{"role": "assistant", "content": "cannot"}],
                "rejected": [{"role": "assistant", "content": first}],
            }
        )
    return Dataset.from_list(rows)


def arguments(out: Path, **more: Any) -> Any:
    from trl import DPOConfig

    values = {
        "learning_rate": 1e-3, "max_steps": 12, "per_device_train_batch_size": 8, "logging_steps": 2, "report_to": "none",
        "bf16": False, "activation_checkpointing": False, "save_strategy": "no", "disable_tqdm": True, "seed": 0,
    }  # fmt: skip
    return DPOConfig(output_dir=str(out), **(values | more))


def adapter() -> Any:
    from peft import LoraConfig

    return LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")


def nf4() -> Any:
    import torch
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)


def weights_hash(folder: Path) -> dict[str, str]:
    return {path.name: runs.hash_file(path) for path in sorted(folder.glob("*.safetensors"))}


def preference(folder: Path, pairs: Dataset) -> float:
    """Mean log P(chosen) − log P(rejected), nats."""
    from teachfair.models.checkpoint import load_policy
    from teachfair.models.likelihood import option_logprobs

    model, tokenizer = load_policy(folder)
    scores = option_logprobs(
        model, tokenizer, list(pairs["prompt"]),
        [[c[0]["content"], r[0]["content"]] for c, r in zip(pairs["chosen"], pairs["rejected"], strict=True)],
    )  # fmt: skip
    return sum(a.logp_whole - b.logp_whole for a, b in scores) / len(scores)


@pytest.mark.parametrize("adapt", ["full", "lora", "qlora"])
def test_teaching_moves_the_preference_and_the_same_seed_gives_the_same_weights(
    adapt: str, tiny_llama: Path, pairs: Dataset, tmp_path: Path
) -> None:
    how = {
        "full": {}, "lora": {"peft_config": adapter()}, "qlora": {"peft_config": adapter(), "quantization_config": nf4()},
    }[adapt]  # fmt: skip
    rate = 1e-3 if adapt == "full" else 1e-2
    before = preference(tiny_llama, pairs)
    out = dpo.teach(tiny_llama, pairs, tmp_path / "a", args=arguments(tmp_path / "a", learning_rate=rate), **how)
    assert preference(out, pairs) > before + 1
    again = dpo.teach(tiny_llama, pairs, tmp_path / "b", args=arguments(tmp_path / "b", learning_rate=rate), **how)
    assert weights_hash(out) == weights_hash(again)
    record = runs.read_record(out) or {}
    assert record["n_pairs"] == len(pairs)
    assert record["steps"] == 12
    assert not list(out.glob("*.bin"))
    first_loss = next(row["loss"] for row in record["log"] if "loss" in row)
    assert first_loss < 0.75  # starts near ln 2: the reference really is the policy that came in


def test_a_qlora_adapter_names_its_base_and_how_the_base_was_quantised(
    tiny_llama: Path, pairs: Dataset, tmp_path: Path
) -> None:
    from teachfair.models.checkpoint import inspect_checkpoint

    out = dpo.teach(
        tiny_llama, pairs, tmp_path / "q", args=arguments(tmp_path / "q", max_steps=1), peft_config=adapter(),
        quantization_config=nf4(),
    )  # fmt: skip
    info = inspect_checkpoint(out)
    assert info.kind == "adapter"
    assert info.is_quantised_base
    assert (info.quantization or {})["bnb_4bit_quant_type"] == "nf4"


@pytest.mark.parametrize("adapt", ["full", "qlora"])
def test_a_killed_run_resumes_to_the_same_weights_as_an_unbroken_one(
    adapt: str, tiny_llama: Path, pairs: Dataset, tmp_path: Path, kill_at: Any
) -> None:
    how: dict[str, Any] = {} if adapt == "full" else {"peft_config": adapter(), "quantization_config": nf4()}
    saving = {"save_strategy": "steps", "save_steps": 3, "save_total_limit": 2, "learning_rate": 5e-3}

    whole = dpo.teach(tiny_llama, pairs, tmp_path / "whole", args=arguments(tmp_path / "whole", **saving), **how)
    kill_at(8)
    with pytest.raises(Killed):
        dpo.teach(tiny_llama, pairs, tmp_path / "cut", args=arguments(tmp_path / "cut", **saving), **how)
    kill_at(None)
    assert runs.read_record(tmp_path / "cut") is None
    resumed = dpo.teach(tiny_llama, pairs, tmp_path / "cut", args=arguments(tmp_path / "cut", **saving), **how)
    assert weights_hash(resumed) == weights_hash(whole)
    assert (runs.read_record(resumed) or {})["steps"] == 12


def test_a_finished_run_is_not_run_again_and_another_one_may_not_take_its_folder(
    tiny_llama: Path, pairs: Dataset, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    dpo.teach(tiny_llama, pairs, out, args=arguments(out, max_steps=2))
    before = (out / "run.json").read_text()
    dpo.teach(tiny_llama, pairs, out, args=arguments(out, max_steps=2))
    assert (out / "run.json").read_text() == before
    with pytest.raises(RunFolderError, match="another run"):
        dpo.teach(tiny_llama, pairs, out, args=arguments(out, max_steps=3))


def test_an_absurd_learning_rate_stops_with_the_step_and_saves_nothing(
    tiny_llama: Path, pairs: Dataset, tmp_path: Path
) -> None:
    out = tmp_path / "nan"
    with pytest.raises(NonFiniteError, match="step"):
        dpo.teach(
            tiny_llama, pairs, out,
            args=arguments(out, learning_rate=1e30, logging_steps=1, save_strategy="steps", save_steps=1, max_grad_norm=0),
        )  # fmt: skip
    assert json.loads((out / "run.json").read_text())["status"] == "running"
    assert not list(out.glob("*.safetensors"))
    for checkpoint in out.glob("checkpoint-*"):  # whatever was sealed before the step is finite
        import torch
        from safetensors.torch import load_file

        for tensor in load_file(checkpoint / "model.safetensors").values():
            assert torch.isfinite(tensor).all()


def test_no_pairs_and_a_quantised_policy_without_adapter_are_refused_before_anything_is_written(
    tiny_llama: Path, pairs: Dataset, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    with pytest.raises(ConfigError, match="no pairs"):
        dpo.teach(tiny_llama, pairs.select([]), out, args=arguments(out))
    with pytest.raises(ConfigError, match="adapter"):
        dpo.teach(tiny_llama, pairs, out, args=arguments(out), quantization_config=nf4())
    assert not out.exists()


def test_an_adapter_as_policy_is_refused_with_the_way_out(lora_folder: Path, pairs: Dataset, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="merge it first"):
        dpo.teach(lora_folder, pairs, tmp_path / "x", args=arguments(tmp_path / "x"))
