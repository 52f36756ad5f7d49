"""Teaching by reward: it learns, it is deterministic, it resumes exactly, and bad input is an error that says so."""

from __future__ import annotations

import inspect
import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from killing import Killed

from teachfair import runs
from teachfair.alignment import grpo, online, ppo, rloo
from teachfair.errors import CheckpointError, ConfigError, InputError, RunFolderError


def even_first(completion_ids: list[list[int]], **columns: Any) -> list[float]:
    """A bandit: 1 if the answer's first token has an even id (about half of the vocabulary), else 0."""
    return [float(ids[0] % 2 == 0) for ids in completion_ids]


def some_prompts(n: int = 24) -> Dataset:
    people = ["tom", "ann", "ben", "eva"]
    questions = [f"{people[i % 4]} and {people[(i + i // 4 + 1) % 4]} met . who is late ?" for i in range(n)]
    return Dataset.from_list([{"prompt": [{"role": "user", "content": q}], "group": q[:3]} for q in questions])


@pytest.fixture(scope="module")
def prompts() -> Dataset:
    return some_prompts()


VALUES: dict[str, Any] = {
    "learning_rate": 3e-3, "max_steps": 6, "per_device_train_batch_size": 8, "max_completion_length": 3,
    "logging_steps": 1, "report_to": "none", "bf16": False, "activation_checkpointing": False,
    "save_strategy": "no", "disable_tqdm": True, "seed": 0,
}  # fmt: skip


def ppo_args(out: Path, **more: Any) -> Any:
    from teachfair.alignment.ppo_trainer import PPOConfig

    return PPOConfig(output_dir=str(out), **(VALUES | {"num_ppo_epochs": 2} | more))


def grpo_args(out: Path, **more: Any) -> Any:
    from trl import GRPOConfig

    return GRPOConfig(output_dir=str(out), **(VALUES | {"num_generations": 4, "num_iterations": 2, "beta": 0.05} | more))


def rloo_args(out: Path, **more: Any) -> Any:
    from trl import RLOOConfig

    return RLOOConfig(output_dir=str(out), **(VALUES | {"num_generations": 4, "num_iterations": 2} | more))


METHODS = {"ppo": (ppo, ppo_args), "grpo": (grpo, grpo_args), "rloo": (rloo, rloo_args)}


def adaptation(name: str) -> dict[str, Any]:
    import torch
    from peft import LoraConfig
    from transformers import BitsAndBytesConfig

    how: dict[str, Any] = {}
    if name != "full":
        how["peft_config"] = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    if name == "qlora":
        how["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32
        )
    return how


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: runs.hash_file(path) for path in sorted(folder.glob("*.safetensors"))}


def log_of(folder: Path, name: str) -> list[float]:
    return [row[name] for row in (runs.read_record(folder) or {})["log"] if name in row]


# ------------------------------------------------------------------------------------------------- it learns


@pytest.mark.parametrize("adapt", ["full", "lora", "qlora"])
def test_ppo_raises_the_reward_and_the_same_seed_gives_the_same_weights(
    adapt: str, tiny_llama: Path, prompts: Dataset, tmp_path: Path
) -> None:
    rate = 3e-3 if adapt == "full" else 2e-2

    def run(out: Path) -> Path:
        args = ppo_args(out, max_steps=40, learning_rate=rate, per_device_train_batch_size=16)
        return ppo.teach(tiny_llama, prompts, out, args=args, reward=even_first, **adaptation(adapt))

    out = run(tmp_path / "a")
    reward = log_of(out, "reward")
    # The first rollout is the untaught policy's. If nothing were learnt, the mean of the last 256 answers would have a
    # standard error of .03.
    assert reward[0] < 0.75
    assert sum(reward[-16:]) / 16 > reward[0] + 0.15
    assert hashes(out) == hashes(run(tmp_path / "b"))
    assert not list(out.glob("*.bin"))


def test_on_the_bandit_ppo_reaches_the_optimum_within_two_percent(
    tiny_llama: Path, prompts: Dataset, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    args = ppo_args(
        out, max_steps=120, learning_rate=2e-3, per_device_train_batch_size=32, max_completion_length=1, kl_coef=0.0,
        num_generations=2,
    )  # fmt: skip
    ppo.teach(tiny_llama, prompts, out, args=args, reward=even_first)
    last = log_of(out, "reward")[-30:]
    assert sum(last) / len(last) >= 0.98


@pytest.mark.parametrize("name", ["grpo", "rloo"])
def test_grpo_and_rloo_raise_the_reward(name: str, tiny_llama: Path, prompts: Dataset, tmp_path: Path) -> None:
    method, make = METHODS[name]
    out = tmp_path / name
    method.teach(tiny_llama, prompts, out, args=make(out, max_steps=40, per_device_train_batch_size=16), reward=even_first)
    reward = log_of(out, "reward")
    assert sum(reward[-16:]) / 16 > reward[0] + 0.15


def share_of_even(folder: Path, prompts: Dataset) -> Any:
    """Exact P(first token has an even id) under a policy, (n prompts,)."""
    import torch

    from teachfair.models.chat import render, tokenize
    from teachfair.models.checkpoint import load_policy

    model, tokenizer = load_policy(folder)
    shares = []
    for prompt in prompts["prompt"]:
        ids = torch.tensor([tokenize(tokenizer, render(tokenizer, prompt, generation_prompt=True))])
        with torch.inference_mode():
            shares.append(float(model(input_ids=ids).logits[0, -1].softmax(-1)[::2].sum()))
    return torch.tensor(shares)


@pytest.mark.parametrize("price", [0.5, pytest.param(2.0, marks=pytest.mark.slow)])
def test_with_a_price_on_divergence_ppo_stops_at_the_optimum_worked_out_by_hand(
    price: float, tiny_llama: Path, prompts: Dataset, tmp_path: Path
) -> None:
    # max E[r] − β·KL(π, π_ref) has the solution π*(a) ∝ π_ref(a)·exp(r(a)/β), so with p the reference's share of arms
    # that pay 1:  p* = p·e^(1/β) / (p·e^(1/β) + 1 − p)
    import math

    out = tmp_path / "r"
    args = ppo_args(
        out, max_steps=150, learning_rate=1e-3, per_device_train_batch_size=64, max_completion_length=1, kl_coef=price,
        num_generations=4, lr_scheduler_type="linear",
    )  # fmt: skip
    ppo.teach(tiny_llama, prompts, out, args=args, reward=even_first)
    p = share_of_even(tiny_llama, prompts)
    gain = math.exp(1 / price)
    optimum = (p * gain / (p * gain + 1 - p)).mean()
    assert abs(share_of_even(out, prompts).mean() - optimum) < 0.02


def test_the_first_loss_sees_a_ratio_of_one_and_no_divergence(tiny_llama: Path, prompts: Dataset, tmp_path: Path) -> None:
    out = ppo.teach(tiny_llama, prompts, tmp_path / "r", args=ppo_args(tmp_path / "r", max_steps=1), reward=even_first)
    assert abs(log_of(out, "objective/kl")[0]) < 1e-5
    assert log_of(out, "clip_ratio/region_mean")[0] == 0.0


def test_gradient_accumulation_changes_nothing(tiny_llama: Path, prompts: Dataset, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    found = []
    for batch, times in ((8, 1), (4, 2), (2, 4)):
        out = tmp_path / str(batch)
        args = ppo_args(
            out, per_device_train_batch_size=batch, gradient_accumulation_steps=times, max_steps=4, learning_rate=1e-3,
            optim="sgd", lr_scheduler_type="constant",
        )  # fmt: skip
        ppo.teach(tiny_llama, prompts, out, args=args, reward=even_first)
        found.append(load_file(out / "model.safetensors") | load_file(out / "value_head.safetensors"))
    start = load_file(tiny_llama / "model.safetensors")
    assert any(not torch.equal(found[0][name], start[name]) for name in start)
    for other in found[1:]:
        for name, tensor in found[0].items():
            assert torch.allclose(tensor, other[name], rtol=1e-5, atol=1e-7), name


def test_an_unfinished_answer_pays_the_missing_end_penalty(tiny_llama: Path, prompts: Dataset, tmp_path: Path) -> None:
    out = tmp_path / "r"
    args = ppo_args(out, max_steps=1, max_completion_length=2, missing_eos_penalty=3.0)
    ppo.teach(tiny_llama, prompts, out, args=args, reward=lambda completions, **more: [1.0] * len(completions))
    assert log_of(out, "objective/scores")[0] == pytest.approx(1 - 3 * log_of(out, "completions/clipped_ratio")[0])


def test_a_reward_of_none_teaches_nothing_from_that_answer(tiny_llama: Path, prompts: Dataset, tmp_path: Path) -> None:
    out = tmp_path / "r"
    args = ppo_args(out, max_steps=2, kl_coef=0.0, learning_rate=1e-1, optim="sgd")

    def never(completions: list[Any], **columns: Any) -> list[float | None]:
        return [None] * len(completions)

    ppo.teach(tiny_llama, prompts, out, args=args, reward=never)
    assert hashes(out)["model.safetensors"] == hashes(tiny_llama)["model.safetensors"]


# ------------------------------------------------------------------------------------------ plain checkpoints


def test_the_taught_policy_is_a_plain_checkpoint_with_the_value_head_beside_it(
    tiny_llama: Path, prompts: Dataset, tmp_path: Path
) -> None:
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    from teachfair.models.checkpoint import content_hash

    out = ppo.teach(tiny_llama, prompts, tmp_path / "full", args=ppo_args(tmp_path / "full"), reward=even_first)
    _, info = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not info["unexpected_keys"]
    assert not info["missing_keys"]
    head = load_file(out / "value_head.safetensors")
    assert head["weight"].shape == (1, 64)
    assert head["weight"].abs().sum() > 0
    with_head = content_hash(out)
    shutil.move(out / "value_head.safetensors", tmp_path / "elsewhere")
    assert content_hash(out) == with_head  # no answer depends on it


def test_a_lora_adapter_holds_no_value_head(tiny_llama: Path, prompts: Dataset, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    from teachfair.models.checkpoint import inspect_checkpoint, load_policy

    out = ppo.teach(
        tiny_llama, prompts, tmp_path / "q", args=ppo_args(tmp_path / "q", max_steps=2), reward=even_first,
        **adaptation("qlora"),
    )  # fmt: skip
    assert json.loads((out / "adapter_config.json").read_text())["modules_to_save"] is None
    assert not [name for name in load_file(out / "adapter_model.safetensors") if "v_head" in name]
    assert inspect_checkpoint(out).is_quantised_base
    load_policy(out)


# ----------------------------------------------------------------------------------------------------- resume


# Saved every 3 steps with 4 steps a rollout: 3 is within a rollout, 12 at the end of one, 15 in the second epoch.
@pytest.mark.parametrize(
    ("name", "adapt", "step"),
    [("ppo", "full", 5), ("ppo", "full", 17), ("ppo", "qlora", 5), ("grpo", "full", 17), ("rloo", "full", 17)]
    + [pytest.param(*case, marks=pytest.mark.slow)
       for case in (("ppo", "full", 13), ("ppo", "lora", 17), ("grpo", "full", 5))],
)  # fmt: skip
def test_a_killed_run_resumes_to_the_same_weights_as_an_unbroken_one(
    name: str, adapt: str, step: int, tiny_llama: Path, tmp_path: Path, kill_at: Any
) -> None:
    method, make = METHODS[name]
    per_step = {"ppo": 1, "grpo": 4, "rloo": 4}[name]
    lesson = some_prompts(3 * 16 // per_step)  # three rollouts an epoch

    def run(out: Path) -> Path:
        args = make(
            out, max_steps=20, save_strategy="steps", save_steps=3, save_total_limit=2, steps_per_generation=2,
            learning_rate=1e-3,
        )  # fmt: skip
        return method.teach(tiny_llama, lesson, out, args=args, reward=even_first, **adaptation(adapt))

    whole = run(tmp_path / "whole")
    kill_at(step)
    with pytest.raises(Killed):
        run(tmp_path / "cut")
    kill_at(None)
    assert runs.read_record(tmp_path / "cut") is None
    assert hashes(run(tmp_path / "cut")) == hashes(whole)


def test_a_run_killed_after_its_last_step_is_finished_from_its_last_checkpoint(
    tiny_llama: Path, prompts: Dataset, tmp_path: Path
) -> None:
    def run() -> Path:
        args = ppo_args(tmp_path / "r", save_strategy="steps", save_steps=2)
        return ppo.teach(tiny_llama, prompts, tmp_path / "r", args=args, reward=even_first)

    before = hashes(run())
    record = json.loads((tmp_path / "r" / "run.json").read_text())
    runs.write_json(tmp_path / "r" / "run.json", {"status": "running", "key": record["key"]})
    for path in (tmp_path / "r").glob("*.safetensors"):
        path.unlink()
    assert hashes(run()) == before


def test_another_reward_may_not_take_over_the_folder(tiny_llama: Path, prompts: Dataset, tmp_path: Path) -> None:
    out = tmp_path / "r"
    ppo.teach(tiny_llama, prompts, out, args=ppo_args(out, max_steps=1), reward=even_first)

    def other(completions: list[Any], **columns: Any) -> list[float]:
        return [0.0] * len(completions)

    with pytest.raises(RunFolderError, match="another run"):
        ppo.teach(tiny_llama, prompts, out, args=ppo_args(out, max_steps=1), reward=other)


# -------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize("name", ["ppo", "rloo"])
@pytest.mark.parametrize(
    ("values", "said"),
    [(lambda n: [float("nan")] * n, "nan"), (lambda n: [float("inf")] * n, "inf"), (lambda n: [1.0] * (n - 1), "7 numbers"),
     (lambda n: 1.0, "not a list"), (lambda n: ["good"] * n, "good")],
)  # fmt: skip
def test_a_reward_that_is_not_a_number_per_answer_is_named(
    name: str, values: Any, said: str, tiny_llama: Path, prompts: Dataset, tmp_path: Path
) -> None:
    method, make = METHODS[name]

    def broken(completions: list[Any], **columns: Any) -> Any:
        return values(len(completions))

    with pytest.raises(InputError, match=said) as error:
        method.teach(tiny_llama, prompts, tmp_path / "r", args=make(tmp_path / "r"), reward=[even_first, broken])
    assert "broken" in error.value.where
    assert error.value.fix


def classifier(out: Path, labels: int, poisoned: bool = False) -> Path:
    import torch
    from tiny_models import word_tokenizer
    from transformers import LlamaConfig, LlamaForSequenceClassification

    tokenizer = word_tokenizer()
    torch.manual_seed(3)
    model = LlamaForSequenceClassification(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
            num_labels=labels, pad_token_id=0, max_position_embeddings=64,
        )
    )  # fmt: skip
    if poisoned:
        torch.nn.init.constant_(model.score.weight, float("nan"))
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    return out


def test_a_reward_model_is_taken_by_its_folder_and_its_training_time_number_is_the_reward(
    tiny_llama: Path, prompts: Dataset, tmp_path: Path
) -> None:
    from teachfair.reward_models.scoring import RewardModel

    folder = classifier(tmp_path / "rm", 1)
    model, seen = RewardModel.load(folder), []

    def witness(prompts: Any, completions: Any, **columns: Any) -> list[float]:
        talks = [prompt + answer for prompt, answer in zip(prompts, completions, strict=True)]
        seen.extend(model.score(talks).tolist())
        return [0.0] * len(completions)

    out = tmp_path / "r"
    ppo.teach(tiny_llama, prompts, out, args=ppo_args(out, max_steps=1), reward=[str(folder), witness])
    assert log_of(out, "reward")[0] == pytest.approx(sum(seen) / len(seen), abs=1e-5)


def test_a_reward_model_with_two_outputs_or_broken_weights_is_refused(
    tiny_llama: Path, prompts: Dataset, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match="one output"):
        ppo.teach(
            tiny_llama, prompts, tmp_path / "a", args=ppo_args(tmp_path / "a"), reward=classifier(tmp_path / "two", 2)
        )
    with pytest.raises(InputError, match="not a finite number") as error:
        ppo.teach(
            tiny_llama, prompts, tmp_path / "b", args=ppo_args(tmp_path / "b"),
            reward=classifier(tmp_path / "nan", 1, poisoned=True),
        )  # fmt: skip
    assert "nan" in error.value.where


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


def test_padding_with_the_end_token_is_refused(tiny_llama: Path, prompts: Dataset, tmp_path: Path) -> None:
    policy = policy_with(tiny_llama, tmp_path / "policy", pad_token="</s>")
    with pytest.raises(ConfigError, match="pad token is the end-of-text token") as error:
        ppo.teach(policy, prompts, tmp_path / "r", args=ppo_args(tmp_path / "r"), reward=even_first)
    assert error.value.fix
    assert not (tmp_path / "r").exists()


def test_a_policy_without_chat_template_gets_the_plain_one_and_it_is_said(
    tiny_llama: Path, prompts: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    policy = policy_with(tiny_llama, tmp_path / "policy", chat_template=None)
    with caplog.at_level(logging.WARNING, logger="teachfair"):
        tokenizer = online.online_tokenizer(policy)
    assert tokenizer.chat_template
    assert "no chat template" in caplog.text


def test_prompts_that_leave_no_room_for_an_answer_are_counted_and_left_out(
    tiny_llama: Path, prompts: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from datasets import concatenate_datasets

    long = Dataset.from_list([{"prompt": [{"role": "user", "content": "tom " * 130}], "group": "x"}] * 2)
    out = tmp_path / "r"
    with caplog.at_level(logging.WARNING, logger="teachfair"):
        ppo.teach(
            tiny_llama, concatenate_datasets([prompts, long.cast(prompts.features)]), out,
            args=ppo_args(out, max_steps=1), reward=even_first,
        )  # fmt: skip
    assert "2 of 26 prompts are longer than 125 tokens" in caplog.text
    assert (runs.read_record(out) or {})["n_prompts_too_long"] == 2
    with pytest.raises(ConfigError, match="no prompt leaves room"):
        ppo.teach(tiny_llama, long, tmp_path / "s", args=ppo_args(tmp_path / "s"), reward=even_first)


def test_too_few_prompts_for_one_rollout_and_plain_text_prompts_are_refused(
    tiny_llama: Path, prompts: Dataset, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="one rollout takes 8 prompts, there are 3"):
        ppo.teach(tiny_llama, prompts.select(range(3)), tmp_path / "r", args=ppo_args(tmp_path / "r"), reward=even_first)
    with pytest.raises(InputError, match="not a conversation"):
        ppo.teach(
            tiny_llama, Dataset.from_list([{"prompt": "who ?"}] * 9), tmp_path / "r", args=ppo_args(tmp_path / "r"),
            reward=even_first,
        )  # fmt: skip


def test_groups_without_variance_are_said_once_and_counted(
    tiny_llama: Path, prompts: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def constant(completions: list[Any], **columns: Any) -> list[float]:
        return [1.0] * len(completions)

    out = tmp_path / "r"
    with caplog.at_level(logging.WARNING, logger="teachfair"):
        grpo.teach(tiny_llama, prompts, out, args=grpo_args(out, max_steps=4), reward=constant)
    assert caplog.text.count("same reward") == 1
    assert (runs.read_record(out) or {})["share_of_groups_without_variance"] == 1.0


@pytest.mark.parametrize(
    ("more", "said"),
    [({"kl_coef": 0.1, "beta": 0.2}, "two names"), ({"loss_type": "grpo"}, "mean over tokens"), ({"gamma": 1.5}, "gamma"),
     ({"per_device_train_batch_size": 1}, "one completion"), ({"cliprange": 0.0}, "cliprange"),
     ({"vf_coef": -1.0}, "vf_coef")],
)  # fmt: skip
def test_a_config_that_is_not_ppo_is_refused(more: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=said):
        ppo_args(tmp_path, **more)


def test_both_names_of_an_argument_mean_the_same(tmp_path: Path) -> None:
    from teachfair.alignment.ppo_trainer import PPOConfig

    new = PPOConfig(str(tmp_path), num_iterations=3, epsilon=0.1, beta=0.7, bf16=False)
    assert (new.num_ppo_epochs, new.cliprange, new.kl_coef, new.num_generations) == (3, 0.1, 0.7, 1)
    old = PPOConfig(str(tmp_path), num_ppo_epochs=3, cliprange=0.1, kl_coef=0.7, bf16=False)
    assert (old.num_iterations, old.epsilon, old.beta) == (3, 0.1, 0.7)
    default = PPOConfig(str(tmp_path), bf16=False)
    assert (default.num_iterations, default.epsilon, default.beta) == (4, 0.2, 0.05)


# ------------------------------------------------------------------------------------- what TRL may not move

# Every private method, and attribute, of TRL and transformers that PPOTrainer and ExactResume lean on.
PRIVATE = {
    "_generate_and_score_completions": ["self", "inputs"],
    "_compute_loss": ["self", "model", "inputs"],
    "_calculate_rewards": ["self", "inputs", "prompts", "completions", "completion_ids_list"],
    "_get_train_sampler": ["self", "dataset"],
    "_save_checkpoint": ["self", "model", "trial"],
    "_load_optimizer_and_scheduler": ["self", "checkpoint"],
    "_save": ["self", "output_dir", "state_dict"],
    "_load_from_checkpoint": ["self", "resume_from_checkpoint", "model"],
    "_get_output_dir": ["self", "trial"],
}
ATTRIBUTES = [
    "_step", "_buffered_inputs", "_metrics", "ref_model", "beta", "reward_weights", "reward_funcs", "reward_func_names",
    "eos_token_ids", "num_iterations", "current_gradient_accumulation_steps",
]  # fmt: skip


@pytest.mark.parametrize("name", ["GRPOTrainer", "RLOOTrainer"])
def test_the_private_methods_of_trl_that_we_lean_on_are_where_they_were(name: str) -> None:
    import trl

    trainer = getattr(trl, name)
    for method, parameters in PRIVATE.items():
        assert hasattr(trainer, method), f"TRL's {name} has no {method} any more"
        found = list(inspect.signature(getattr(trainer, method)).parameters)
        assert found == parameters, f"TRL's {name}.{method} now takes {found}"
    source = inspect.getsource(trainer)
    for attribute in ATTRIBUTES:
        known = f"self.{attribute}" in source or hasattr(trainer, attribute)
        assert known or hasattr(trl.trainer.base_trainer._BaseTrainer, attribute) or attribute in inspect.getsource(
            sys.modules["transformers.trainer"]
        ), f"TRL's {name} has no self.{attribute} any more"


def test_the_log_probability_method_and_the_shapes_of_grpos_loss_are_what_ppo_relies_on() -> None:
    from trl import GRPOTrainer

    head = list(inspect.signature(GRPOTrainer._get_per_token_logps_and_entropies).parameters)[:6]
    assert head == ["self", "model", "input_ids", "attention_mask", "logits_to_keep", "batch_size"]
    loss = inspect.getsource(GRPOTrainer._compute_loss)
    assert "if advantages.dim() == 1:" in loss  # so advantages of shape (B, T) are taken
    assert 'self.current_gradient_accumulation_steps / self.args.steps_per_generation' in loss  # our denominator
    rollout = inspect.getsource(GRPOTrainer._generate_and_score_completions)
    own, reference = (rollout.index(f"{which}_per_token_logps, _, _ = self._get_per") for which in ("old", "ref"))
    assert own < reference  # the first pass of a rollout is the policy's


# ---------------------------------------------------------------------------------------------- two processes

TWO_RANKS = """
import hashlib, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
import test_online as lesson
from teachfair.alignment import online, ppo, teaching
out, policy = Path(sys.argv[1]), Path(sys.argv[2])
prepare, kept = teaching.prepare, []
teaching.prepare = lambda *arguments: kept.append(prepare(*arguments)) or kept[0]
args = lesson.ppo_args(out, max_steps=6, per_device_train_batch_size=4, use_cpu=sys.argv[4] == 'cpu')
ppo.teach(policy, lesson.some_prompts(), out, args=args, reward=lesson.even_first)
digest = hashlib.sha256()
for name, parameter in sorted(kept[0].model.named_parameters()):
    digest.update(name.encode() + parameter.detach().numpy().tobytes())
Path(f"{out}.rank{args.process_index}").write_text(f"{args.world_size} {digest.hexdigest()}")
"""


def two_processes(tiny_llama: Path, tmp_path: Path, device: str) -> subprocess.CompletedProcess[str]:
    script = tmp_path / "two.py"
    script.write_text(TWO_RANKS)
    here = Path(__file__).resolve()
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script),
        str(tmp_path / "out"), str(tiny_llama), str(here.parent), device,
    ]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": f"{here.parents[2]}{os.pathsep}{here.parents[1]}", "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_two_processes_end_with_the_same_weights(tiny_llama: Path, tmp_path: Path) -> None:
    done = two_processes(tiny_llama, tmp_path, "cpu")
    assert done.returncode == 0, done.stderr[-3000:]
    ranks = [(tmp_path / f"out.rank{rank}").read_text() for rank in (0, 1)]
    assert ranks[0].startswith("2 ")
    assert ranks[0] == ranks[1]
    assert runs.read_record(tmp_path / "out")


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_two_processes_that_do_not_know_of_each_other_are_refused(tiny_llama: Path, tmp_path: Path) -> None:
    done = two_processes(tiny_llama, tmp_path, "whatever")
    assert done.returncode != 0
    assert "2 processes were launched, but they do not train together" in done.stderr
    assert not (tmp_path / "out").exists()


# Answers are a function of the prompt (and, in a group, of the place in it), so that both runs have the same rollouts.
FIXED_ROLLOUTS = """
import random, sys
from pathlib import Path
sys.path[:0] = [sys.argv[3], sys.argv[4]]
import test_online as lesson
from trl import GRPOTrainer, RLOOTrainer

out, policy, name, ranks, passes = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[5], int(sys.argv[6]), int(sys.argv[7])
method, make = lesson.METHODS[name]
group = 1 if name == "ppo" else 4

def answers(self, prompt_ids, *more, **named):
    found = []
    for place, ids in enumerate(prompt_ids):
        draw = random.Random(f"{list(ids)} {place % group}")
        words = [draw.randrange(4, 40) for _ in range(3)]
        found.append([*words[: draw.randrange(3)], 2] if draw.random() < .7 else words)
    return (found, None) if isinstance(self, GRPOTrainer) else found

GRPOTrainer._generate_single_turn = RLOOTrainer._generate_single_turn = answers

def reward(completion_ids, **columns):
    return [sum(ids) % 7 - len(ids) for ids in completion_ids]

args = make(
    out, max_steps=6, per_device_train_batch_size=8 // ranks, use_cpu=True, optim="sgd", learning_rate=5e-2,
    lr_scheduler_type="constant", num_iterations=passes, **({"num_ppo_epochs": passes} if name == "ppo" else {}),
)
assert args.world_size == ranks
method.teach(policy, lesson.some_prompts(), out, args=args, reward=reward)
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", ["ppo", "grpo", "rloo"])
def test_two_processes_teach_what_one_teaches_with_the_same_rollouts(name: str, tiny_llama: Path, tmp_path: Path) -> None:
    """2 gloo ranks with half of each rollout = 1 rank with all of it, to 1e-5 in every weight after 6 steps of SGD.

    What the maths says: the loss is a mean over the tokens (RLOO: the answers) of *all* ranks, rewards and advantages are
    centred and scaled over all ranks, and DDP's mean of the gradients is then the gradient of the whole batch. It does not
    say so for sampled answers (each rank draws from a random state of its own) or for the mini-batches of one rollout
    (steps_per_generation > 1: each rank shuffles its own half), so neither is here. SGD, because Adam divides by the
    gradient's size and turns rounding of tiny gradients into whole steps.
    """
    from safetensors.torch import load_file

    script = tmp_path / "fixed.py"
    script.write_text(FIXED_ROLLOUTS)
    here = Path(__file__).resolve()
    environment = os.environ | {"PYTHONPATH": str(here.parents[2]), "OMP_NUM_THREADS": "1"}
    found = []
    for ranks in (1, 2):
        out = tmp_path / str(ranks)
        launcher = [sys.executable] if ranks == 1 else [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"
        ]  # fmt: skip
        words = [str(out), str(tiny_llama), str(here.parent), str(here.parents[1]), name, str(ranks), "2"]
        done = subprocess.run(
            [*launcher, str(script), *words], env=environment, capture_output=True, text=True, timeout=140
        )
        assert done.returncode == 0, done.stderr[-3000:]
        found.append(load_file(out / "model.safetensors"))
        if name == "ppo":
            found[-1] |= load_file(out / "value_head.safetensors")
    start = load_file(tiny_llama / "model.safetensors")
    moved = max(float((found[0][key] - start[key]).abs().max()) for key in start)
    assert moved > 1e-3, "nothing was taught"
    apart = max(float((found[0][key] - found[1][key]).abs().max()) for key in found[0])
    assert apart < 1e-5


@pytest.mark.parametrize("adapt", ["full", "lora"])
@pytest.mark.parametrize("name", ["ppo", "grpo", "rloo"])
def test_absolute_positions_are_counted_from_the_first_token_of_a_left_padded_row(
    name: str, adapt: str, tiny_gpt2: Path, prompts: Dataset, tmp_path: Path
) -> None:
    """TRL gives no positions: GPT-2 would score other log-probabilities than those of the answers it sampled."""
    import torch

    from teachfair.alignment import online_trainers
    from teachfair.alignment.ppo_trainer import PPOTrainer
    from teachfair.models.checkpoint import load_tokenizer

    kind = {
        "ppo": PPOTrainer, "grpo": online_trainers.ResumableGRPOTrainer, "rloo": online_trainers.ResumableRLOOTrainer,
    }[name]  # fmt: skip
    args = METHODS[name][1](tmp_path, max_steps=1, beta=0.1)
    args.model_init_kwargs = {"dtype": "float32"}
    trainer = kind(
        model=str(tiny_gpt2), reward_funcs=even_first, args=args, train_dataset=prompts,
        processing_class=load_tokenizer(tiny_gpt2), **adaptation(adapt),
    )  # fmt: skip
    rows = [[5, 6, 7, 8, 9, 10], [11, 12, 13]]
    ids = torch.tensor([rows[0], [0, 0, 0, *rows[1]]])
    mask = torch.tensor([[1] * 6, [0] * 3 + [1] * 3])
    models = [trainer.model, *([trainer.ref_model] if trainer.ref_model is not None else [])]
    for model in models:
        model.eval()
        with torch.no_grad():
            found = trainer._get_per_token_logps_and_entropies(model, ids, mask, 2)[0]
            for row, tokens in enumerate(rows):
                alone = torch.tensor([tokens])
                expected = trainer._get_per_token_logps_and_entropies(model, alone, torch.ones_like(alone), 2)[0]
                assert torch.allclose(found[row], expected[0], atol=1e-5)
