"""The strength of a lesson: 0 is the untaught policy, 1 the taught one, and what is saved is what was in memory."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from online import online_rows
from tiny_models import NF4_CONFIG, logits_of, lora_adapter

from teachfair import runs
from teachfair.alignment import best_of
from teachfair.alignment.dial import at_strength, find_sources, open_dial
from teachfair.errors import CheckpointError, InputError, RunFolderError
from teachfair.models.checkpoint import content_hash, load_base, load_policy, read_manifest

pytest_plugins = ["online"]


def taught_copy(base: Path, out: Path, *, record: bool = True, scale: float = 0.05) -> Path:
    """A full fine-tune of ``base``: noise on every weight, with the record that teaching leaves."""
    import torch

    model, tokenizer = load_policy(base)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    if record:
        runs.write_record(out, kind="teach", policy=content_hash(base), base=str(base))
    return out


@pytest.fixture(scope="module")
def full_folder(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return taught_copy(tiny_llama, tmp_path_factory.mktemp("dial") / "full")


@pytest.fixture(params=["full", "lora", "qlora"])
def taught(request: pytest.FixtureRequest) -> Path:
    folder: Path = request.getfixturevalue(f"{request.param}_folder")
    return folder


def untaught_model(taught: Path, tiny_llama: Path) -> Any:
    return load_base(tiny_llama, quantization=(read_manifest(taught) or {}).get("quantization"))


def test_strength_0_is_the_untaught_policy_and_1_the_taught_one(taught: Path, tiny_llama: Path) -> None:
    dial = open_dial(taught)
    untaught, lesson = logits_of(untaught_model(taught, tiny_llama)), logits_of(load_policy(taught)[0])
    assert float((untaught - lesson).abs().max()) > 0.05, "the lesson changes something"
    for alpha in (0.0, 1.0, -1.0, 0.0, 2.0, 1.0):  # turned to and fro: nothing may add up
        dial.turn(alpha)
        if alpha in (0.0, 1.0):
            expected = lesson if alpha else untaught
            assert float((logits_of(dial.model) - expected).abs().max()) <= 1e-6


@pytest.mark.parametrize("alpha", [-1.0, 0.0, 0.37, 2.0])
def test_a_saved_strength_loads_as_a_plain_checkpoint_and_answers_as_the_one_in_memory(
    taught: Path, tiny_llama: Path, tmp_path: Path, alpha: float
) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    out = at_strength(taught, tmp_path / "policy", alpha=alpha)
    in_memory = logits_of(open_dial(taught).turn(alpha))
    if (out / "adapter_config.json").exists():  # stock PEFT on the base as it was while training
        stock = PeftModel.from_pretrained(untaught_model(taught, tiny_llama), str(out)).eval()
    else:
        stock = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).eval()
    assert float((logits_of(stock) - in_memory).abs().max()) <= 1e-5
    assert float((logits_of(load_policy(out)[0]) - in_memory).abs().max()) <= 1e-5
    assert AutoTokenizer.from_pretrained(out).chat_template
    record = runs.read_record(out)
    assert record is not None
    assert record["dial"]["alpha"] == alpha
    assert record["dial"]["taught_hash"] == content_hash(taught)
    assert record["dial"]["untaught_hash"] == content_hash(tiny_llama)
    assert record["hash"] == content_hash(out)
    assert (read_manifest(out) or {})["dial"]["alpha"] == alpha


@pytest.mark.parametrize("kind", ["lora", "qlora"])
def test_a_merged_strength_is_a_full_checkpoint(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    taught: Path = request.getfixturevalue(f"{kind}_folder")
    out = at_strength(taught, tmp_path / "merged", alpha=0.5, merged=True)
    assert not (out / "adapter_config.json").exists()
    assert (read_manifest(out) or {})["dial"]["alpha"] == 0.5
    in_memory = logits_of(open_dial(taught).turn(0.5))
    # A 4-bit layer multiplies its dequantised weights in fp32: merging changes only the order of the sum.
    assert float((logits_of(load_policy(out)[0]) - in_memory).abs().max()) <= 1e-4


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(alpha=st.floats(-1, 2, allow_nan=False, width=32))
def test_every_weight_of_a_full_policy_is_linear_in_the_strength(full_folder: Path, tiny_llama: Path, alpha: float) -> None:
    import torch

    dial = open_dial(full_folder)
    ends = [dict(load_policy(folder)[0].named_parameters()) for folder in (tiny_llama, full_folder)]
    for name, weight in dial.turn(alpha).named_parameters():
        base, lesson = (end[name].double() for end in ends)
        torch.testing.assert_close(weight.double(), base + alpha * (lesson - base), atol=1e-6, rtol=1e-5)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(alpha=st.floats(-1, 2, allow_nan=False, width=32))
def test_the_merged_delta_of_an_adapter_is_linear_in_the_strength(lora_folder: Path, alpha: float) -> None:
    import torch

    name = "base_model.model.model.layers.0.self_attn.q_proj"
    layer = dict(open_dial(lora_folder).model.named_modules())[name]
    full = layer.get_delta_weight("default")
    turned = open_dial(lora_folder)
    turned.turn(alpha)
    torch.testing.assert_close(
        dict(turned.model.named_modules())[name].get_delta_weight("default"), alpha * full, atol=1e-7, rtol=1e-5
    )


def test_tied_weights_stay_tied_and_are_moved_once(full_folder: Path) -> None:
    model = open_dial(full_folder).turn(0.5)
    assert model.get_output_embeddings().weight.data_ptr() == model.get_input_embeddings().weight.data_ptr()


def test_a_patterned_rslora_adapter_is_scaled_in_every_layer(tiny_llama: Path, tmp_path: Path) -> None:
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    config = LoraConfig(
        r=4, lora_alpha=8, use_rslora=True, alpha_pattern={"q_proj": 3}, rank_pattern={"q_proj": 2},
        target_modules="all-linear", task_type="CAUSAL_LM",
    )  # fmt: skip
    model = get_peft_model(load_base(tiny_llama), config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    model.save_pretrained(tmp_path / "taught")
    out = at_strength(tmp_path / "taught", tmp_path / "policy", alpha=-0.5)
    turned = logits_of(open_dial(tmp_path / "taught").turn(-0.5))
    assert float((logits_of(load_policy(out)[0]) - turned).abs().max()) <= 1e-5
    assert json.loads((out / "adapter_config.json").read_text())["alpha_pattern"] == {"q_proj": -1.5}


@pytest.mark.parametrize("alpha", [-1.01, 2.5, float("nan"), float("inf")])
def test_a_strength_outside_what_was_measured_is_refused(lora_folder: Path, tmp_path: Path, alpha: float) -> None:
    with pytest.raises(InputError, match="strength"):
        at_strength(lora_folder, tmp_path / "policy", alpha=alpha)
    assert not (tmp_path / "policy").exists()


def test_another_base_than_the_one_in_the_record_is_refused_by_its_hash(
    full_folder: Path, tiny_llama: Path, tmp_path: Path
) -> None:
    other = taught_copy(tiny_llama, tmp_path / "other", record=False, scale=0.01)
    with pytest.raises(CheckpointError, match="hash"):
        find_sources(full_folder, other)
    assert find_sources(full_folder, tiny_llama).verified
    moved = shutil.copytree(tiny_llama, tmp_path / "moved")
    assert find_sources(full_folder, moved).verified, "a copy elsewhere is the same policy"


def test_an_adapter_whose_base_was_changed_after_teaching_is_refused(tiny_llama: Path, tmp_path: Path) -> None:
    base = shutil.copytree(tiny_llama, tmp_path / "base")
    adapter = lora_adapter(base, tmp_path / "adapter")
    runs.write_record(adapter, kind="teach", policy=content_hash(base), base=str(base))
    assert find_sources(adapter).verified
    shutil.rmtree(base)
    taught_copy(tiny_llama, base, record=False)
    with pytest.raises(CheckpointError, match="another hash"):
        find_sources(adapter)


def test_a_full_policy_without_a_record_needs_its_base_named(tiny_llama: Path, tmp_path: Path) -> None:
    taught = taught_copy(tiny_llama, tmp_path / "taught", record=False)
    with pytest.raises(CheckpointError, match="base_model_name_or_path"):
        find_sources(taught)
    sources = find_sources(taught, tiny_llama)
    assert not sources.verified, "nothing says that this is the one"


def test_policies_of_other_shapes_or_names_are_refused(tiny_llama: Path, tiny_gpt2: Path, tmp_path: Path) -> None:
    taught = taught_copy(tiny_llama, tmp_path / "taught", record=False)
    with pytest.raises(CheckpointError, match="same tensors"):
        open_dial(taught, base=tiny_gpt2)
    model, tokenizer = load_policy(taught)
    model.resize_token_embeddings(len(tokenizer) + 3)
    model.save_pretrained(tmp_path / "grown")
    tokenizer.save_pretrained(tmp_path / "grown")
    with pytest.raises(CheckpointError, match="shape"):
        open_dial(tmp_path / "grown", base=tiny_llama)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"bias": "all"}, "biases"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"init_lora_weights": "pissa"}, "pissa"),
        ({"peft_type": "IA3"}, "IA3"),
    ],
)
def test_adapters_that_are_not_linear_in_their_scale_are_refused(
    lora_folder: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    folder = shutil.copytree(lora_folder, tmp_path / "adapter")
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | change))
    with pytest.raises(CheckpointError, match=message) as error:
        find_sources(folder)
    assert "merge it" in error.value.fix


def test_a_quantised_policy_has_no_dial(tiny_llama: Path, tmp_path: Path) -> None:
    model = load_base(tiny_llama, quantization=NF4_CONFIG)
    model.save_pretrained(tmp_path / "nf4")
    with pytest.raises(CheckpointError, match="grid"):
        find_sources(tmp_path / "nf4", tiny_llama)


def test_a_taken_output_folder_is_left_as_it_is(lora_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(RunFolderError):
        at_strength(lora_folder, tmp_path / "mine", alpha=0.5)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"], "and nothing half-made lies beside it"


# ------------------------------------------------------------------------------------------------- at inference


@pytest.fixture(scope="module")
def asked() -> list[list[dict[str, str]]]:
    return [row["prompt"] for row in online_rows()]


@pytest.fixture(scope="module")
def judge(reward_model_folder: Path) -> Any:
    from teachfair.reward_models.scoring import RewardModel

    return RewardModel.load(reward_model_folder)


def test_best_of_one_is_plain_sampling_and_more_answers_never_have_less_reward(
    tiny_llama: Path, judge: Any, asked: list[list[dict[str, str]]]
) -> None:
    from teachfair.alignment.sampling import sample_answers

    model, tokenizer = load_policy(tiny_llama)
    plain = sample_answers(model, tokenizer, asked, n=1, seed=5, max_new_tokens=4)
    assert best_of.best_of_n(model, tokenizer, asked, judge, n=1, seed=5, max_new_tokens=4) == [row[0] for row in plain]
    candidates = best_of.sample_candidates(model, tokenizer, asked, judge, n=8, seed=5, max_new_tokens=4)
    again = judge.score(
        [[*prompt, {"role": "assistant", "content": row[2]}] for prompt, row in zip(asked, candidates.answers, strict=True)]
    )
    np.testing.assert_allclose(candidates.rewards[:, 2], again, atol=1e-5)
    means = [np.mean([candidates.rewards[row, place] for row, place in enumerate(candidates.best(n))]) for n in (1, 2, 4, 8)]
    assert means == sorted(means)
    assert means[-1] > means[0]
    with pytest.raises(InputError, match="sampled"):
        candidates.best(9)


def test_soft_best_of_n_goes_from_an_even_draw_to_the_best_answer() -> None:
    rewards = np.tile([0.0, 1.0, 2.0, 3.0], (4000, 1))
    candidates = best_of.Candidates([["a", "b", "c", "d"]] * 4000, rewards)
    assert set(candidates.soft_best(4, 1e-3, seed=0)) == {3}
    even = np.bincount(candidates.soft_best(4, 1e6, seed=0), minlength=4) / 4000
    np.testing.assert_allclose(even, 0.25, atol=0.03)
    tilted = np.bincount(candidates.soft_best(4, 1.0, seed=0), minlength=4) / 4000
    np.testing.assert_allclose(tilted, np.exp([0, 1, 2, 3]) / np.exp([0, 1, 2, 3]).sum(), atol=0.03)
    assert candidates.soft_best(4, 1.0, seed=1) == candidates.soft_best(4, 1.0, seed=1)
    with pytest.raises(InputError, match="beta"):
        candidates.soft_best(4, 0.0, seed=0)


def test_the_kl_bound_of_best_of_n_holds_for_a_known_policy() -> None:
    assert best_of.kl_bound(1) == 0
    p = np.array([0.5, 0.3, 0.2])  # rewards rise with the place
    for n in (2, 4, 16):
        below = np.concatenate([[0.0], np.cumsum(p)])
        best = np.diff(below**n)  # P(the best of n is y) = F(y)^n - F(y-)^n
        assert float((best * np.log(best / p)).sum()) <= best_of.kl_bound(n)


def test_guidance_fades_to_the_policy_itself_as_beta_grows() -> None:
    logps, rewards = [-0.2, -2.0], [-3.0, 4.0]
    assert best_of.guided_logps(logps, rewards, float("inf")) == logps
    gaps = [np.subtract(*best_of.guided_logps(logps, rewards, beta)) for beta in (1.0, 2.0, 8.0, 1e9)]
    assert gaps == sorted(gaps)
    assert gaps[0] == pytest.approx(1.8 - 7.0)
    assert gaps[-1] == pytest.approx(1.8)
