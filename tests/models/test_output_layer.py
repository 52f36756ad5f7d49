"""Log-probabilities without a matrix of logits: the same numbers, and only where logits are a plain product."""

from __future__ import annotations

import copy

import pytest
import torch
from tiny_models import VOCABULARY, tiny

from teachfair.models import output_layer
from teachfair.models.cpu_inference import fast_on_cpu


def by_hand(states, layer, picks, targets):
    return layer(states).double().log_softmax(-1)[picks, targets]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("vocabulary", [5, 1024, 2500])
def test_pieces_give_what_all_logits_give(vocabulary, bias):
    generator = torch.manual_seed(0)
    layer = torch.nn.Linear(32, vocabulary, bias=bias)
    states = 8 * torch.randn(40, 32, generator=generator)  # logits up to 20, as trained models have
    picks = torch.randint(0, 40, (200,), generator=generator)
    targets = torch.randint(0, vocabulary, (200,), generator=generator)
    with torch.inference_mode():
        found = output_layer.target_logprobs(states, layer, picks, targets)
        exact = output_layer.target_logprobs(states.double(), layer.double(), picks, targets)
        expected = by_hand(states.double(), layer, picks, targets)
    torch.testing.assert_close(exact, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_a_logit_that_is_not_finite_spoils_its_own_row_and_no_other():
    layer = torch.nn.Linear(4, 1500, bias=True)
    states = torch.randn(3, 4)
    with torch.inference_mode():
        layer.bias[:1024] = -torch.inf  # a whole piece that no token can come from
        picks, targets = torch.tensor([0, 1, 2]), torch.tensor([1024, 1499, 3])
        found = output_layer.target_logprobs(states, layer, picks, targets)
        torch.testing.assert_close(found[:2], by_hand(states, layer, picks, targets)[:2], rtol=0, atol=1e-5)
        assert found[2] == -torch.inf
        states[1, 0] = torch.nan
        found = output_layer.target_logprobs(states, layer, picks, targets)
        assert found[0].isfinite()
        assert found[1].isnan()


def test_only_plain_output_layers_are_taken_apart():
    from peft import LoraConfig, get_peft_model

    assert output_layer.plain_output_layer(tiny("llama")) is not None
    assert output_layer.plain_output_layer(tiny("gpt2")) is not None
    soft_capped = tiny("gemma2")
    assert soft_capped.config.final_logit_softcapping
    assert output_layer.plain_output_layer(soft_capped) is None
    assert output_layer.plain_output_layer(tiny("granite", logits_scaling=4.0)) is None
    adapted = get_peft_model(tiny("llama"), LoraConfig(target_modules=["q_proj", "lm_head"]))
    assert output_layer.plain_output_layer(adapted) is None
    inside = get_peft_model(tiny("llama"), LoraConfig(target_modules=["q_proj"]))
    assert output_layer.plain_output_layer(inside) is not None


def test_the_model_is_left_as_it_was_even_after_an_error():
    model = tiny("gpt2")
    ids = torch.arange(6)[None] % VOCABULARY
    with torch.inference_mode():
        before = model(ids).logits
    layer = output_layer.plain_output_layer(model)
    with pytest.raises(RuntimeError), fast_on_cpu(model), output_layer.hidden_states_as_logits(layer):
        assert model(ids).logits.shape[-1] == layer.in_features
        raise RuntimeError
    with torch.inference_mode():
        assert torch.equal(model(ids).logits, before)


def test_gpt2s_activation_inside_of_the_layer_is_the_same_function():
    model = tiny("gpt2", hidden_size=128, n_inner=512)
    block = model.transformer.h[0].mlp
    large = torch.linspace(-3, 3, 64 * 128).reshape(1, 64, 128)
    exact = copy.deepcopy(block).double()
    with torch.no_grad():
        for states in (large, large[:, :2]):  # oneDNN takes the large one
            expected = exact(states.double())
            with torch.profiler.profile() as profile, fast_on_cpu(model):
                found = block(states)
            assert not [event for event in profile.key_averages() if event.key == "aten::tanh"]
            torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    with fast_on_cpu(model):
        block(large).sum().backward()  # nothing here asks for a backward pass, and it is not broken
    assert block.c_fc.weight.grad.abs().sum() > 0
