"""Packed rows against one sequence at a time: every architecture that may pack, and those that may not."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import VOCABULARY, lora_adapter, tiny

from teachfair.compression import get
from teachfair.errors import NonFiniteError
from teachfair.models import likelihood, packing, scoring_path
from teachfair.models.checkpoint import load_policy
from teachfair.models.likelihood import continuation_logprobs, option_logprobs, text_scores, token_logprobs


def one_at_a_time(model, sequences, starts):
    logps = []
    for ids, start in zip(sequences, starts, strict=True):
        fed = torch.tensor([list(ids)])
        with torch.inference_mode():
            rows = model(input_ids=fed, use_cache=False).logits[0, :-1].log_softmax(-1)
        logps.append(rows.gather(1, fed[0, 1:, None])[start - 1 :, 0].double().numpy())
    return logps


def sharing_sequences(n: int = 40, longest: int = 40, seed: int = 0):
    """Sequences that begin others, part early and late, repeat, and share nothing at all."""
    source = np.random.default_rng(seed)
    trunks = [source.integers(3, VOCABULARY, longest).tolist() for _ in range(3)]
    sequences = []
    for _ in range(n):
        trunk = trunks[source.integers(3)][: source.integers(1, longest - 5)]
        sequences.append(trunk + source.integers(3, VOCABULARY, source.integers(1, 5)).tolist())
    sequences += [trunks[0], trunks[0][:7], trunks[0][:2], sequences[0]]
    return sequences, [int(source.integers(1, len(ids))) for ids in sequences]


def assert_equal_one_at_a_time(model, sequences, starts, **options) -> None:
    found = token_logprobs(model, sequences, starts, **options)
    for values, alone in zip(found, one_at_a_time(model, sequences, starts), strict=True):
        np.testing.assert_allclose(values, alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "attention"),
    [
        (kind, attention)
        for kind in sorted(scoring_path.PACKED_ARCHITECTURES)
        for attention in ["sdpa", "eager"]
        if (kind, attention) != ("gemma2", "sdpa")  # capped scores: transformers has no such kernel
    ],
)
def test_every_architecture_on_the_list_packs_exactly(kind, attention):
    model = tiny(kind, attn_implementation=attention)
    assert scoring_path.scoring_path(model, 40) == "packed"
    assert_equal_one_at_a_time(model, *sharing_sequences())


@pytest.mark.parametrize(
    ("kind", "options", "why"),
    [
        ("mistral", {"num_key_value_heads": 2, "sliding_window": 6}, "attention sees 6 tokens back"),
        ("gemma2", {"sliding_window": 6}, "attention sees 6 tokens back"),
        ("bloom", {"n_head": 4, "n_layer": 2}, "not verified for the architecture bloom"),
        ("falcon", {"alibi": True}, "not verified for the architecture falcon"),
        ("mamba", {"state_size": 8}, "not verified for the architecture mamba"),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}, "rotary"),
    ],
)
def test_where_rows_cannot_be_packed_plain_batches_take_over_and_say_so(kind, options, why, caplog):
    model = tiny(kind, **options)
    sequences, starts = sharing_sequences(20)
    with caplog.at_level(logging.WARNING):
        assert_equal_one_at_a_time(model, sequences, starts)
        token_logprobs(model, sequences, starts)
    assert why in scoring_path.scoring_path(model)
    assert [record.getMessage() for record in caplog.records if why in record.getMessage()] == [
        f"sequences are scored in padded batches, which is slower ({scoring_path.scoring_path(model)})"
    ]


def test_a_window_that_no_sequence_exceeds_does_not_hinder():
    model = tiny("mistral", sliding_window=20)
    assert scoring_path.scoring_path(model, 20) == "packed"
    assert_equal_one_at_a_time(model, *sharing_sequences(longest=19))


def test_the_self_check_finds_a_model_that_does_not_heed_the_mask():
    model = tiny("llama")
    stock = model.forward

    def deaf(input_ids=None, attention_mask=None, position_ids=None, logits_to_keep=0, **rest):
        return stock(input_ids=input_ids, position_ids=position_ids, logits_to_keep=logits_to_keep, **rest)

    model.forward = deaf
    assert scoring_path.scoring_path(model).startswith("batched: in the self-check packed scores were off by")
    assert_equal_one_at_a_time(model, *sharing_sequences(10))


@given(st.lists(st.lists(st.integers(3, 6), min_size=2, max_size=12), min_size=1, max_size=12), st.data())
@settings(max_examples=60, deadline=None)
def test_any_set_of_sequences_scores_as_one_at_a_time(sequences, data):
    model = cached_llama()
    starts = [data.draw(st.integers(1, len(ids) - 1)) for ids in sequences]
    assert_equal_one_at_a_time(model, sequences, starts, batch_tokens=data.draw(st.sampled_from([None, 8, 33])))


_models: dict[str, torch.nn.Module] = {}


def cached_llama():
    if "llama" not in _models:
        _models["llama"] = tiny("llama")
    return _models["llama"]


@given(
    st.lists(st.lists(st.integers(0, 2), min_size=2, max_size=30).map(tuple), min_size=1, max_size=60),
    st.integers(4, 200),
    st.integers(1, 100),
)
@settings(max_examples=200, deadline=None)
def test_a_plan_holds_each_request_once_and_keeps_its_bounds(sequences, tokens, scored):
    wanted = sorted({(ids, 1) for ids in sequences})
    all_passes = packing.passes(wanted)
    batches = list(packing.plan(all_passes, hidden=16, tokens=tokens, scored=scored))
    assert sorted(request for batch in batches for row in batch for request in row.requests) == wanted
    for batch in batches:
        layout = packing.lay(batch)
        assert len(batch) == 1 or layout.input_ids.size <= tokens
        assert len(batch) == 1 or layout.keep.sum() <= scored
        assert layout.keep.sum() == len(np.unique(layout.picks))
        for row, last in zip(batch, layout.last, strict=True):
            # A row is the tree of what it feeds, no node twice.
            assert row.tokens == packing.needed_tokens([(*one.fed, 0) for one in row.passes])
            assert row.tokens <= max(tokens, *(len(one.fed) for one in row.passes))
            sees = (np.arange(len(last)) <= np.arange(len(last))[:, None]) & (last >= np.arange(len(last))[:, None])
            depth = sees.sum(1)[: row.tokens] - 1
            assert (depth == layout.position_ids[batch.index(row), : row.tokens]).all()


def test_what_items_share_is_computed_once():
    model = tiny("llama")
    context = list(range(3, 23))
    sequences = [[1, *context, a, b, 5] for a in range(30, 40) for b in range(40, 43)]
    computed = []
    scoring_path.scoring_path(model)
    model.register_forward_pre_hook(lambda _, args, kwargs: computed.append(kwargs["input_ids"].numel()), with_kwargs=True)
    token_logprobs(model, sequences, [22] * 30)
    assert packing.needed_tokens(sequences) == 21 + 10 + 30
    assert sum(computed) <= 61 + 2 * 21  # in narrow rows the context is needed again
    assert sum(computed) < sum(map(len, sequences)) / 6


def test_the_output_layer_runs_on_scored_tokens_only():
    model = tiny("llama")
    scoring_path.scoring_path(model)
    rows = []
    model.lm_head.register_forward_hook(lambda _, inputs, __: rows.append(inputs[0].shape[:-1].numel()))
    token_logprobs(model, [[1, 5, 6, 7, 8], [1, 5, 6, 7, 9], [1, 5, 6, 7, 4, 4]], [4, 4, 4])
    assert sum(rows) == 2  # after 7, and after 7 4


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_layers_large_enough_for_onednn_score_the_same(kind):
    from teachfair.models.cpu_inference import fast_on_cpu

    model = tiny(kind, hidden_size=128, intermediate_size=512, n_inner=512, initializer_range=0.05)
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this PyTorch has no oneDNN")
    name = "mkldnn::_linear_pointwise" if hasattr(torch.ops.mkldnn, "_linear_pointwise") else "aten::mkldnn_linear"
    states = torch.randint(0, VOCABULARY, (2, 64))
    with torch.inference_mode(), fast_on_cpu(model), torch.profiler.profile() as profile:
        model(states)
    assert sum(event.count for event in profile.key_averages() if event.key == name) >= 8
    assert_equal_one_at_a_time(model, *sharing_sequences())


@pytest.mark.parametrize("padding_side", ["left", "right"])
@pytest.mark.parametrize("bos", [True, False])
def test_the_side_of_padding_and_a_missing_bos_change_nothing(padding_side, bos, tiny_gpt2: Path):
    model, tokenizer = load_policy(tiny_gpt2)
    tokenizer.padding_side = padding_side
    if not bos:
        tokenizer.bos_token = None
    texts = ["tom met ann", "tom met eva", "the nurse was late", "tom met"]
    scores = text_scores(model, tokenizer, texts)
    head = [1] if bos else []
    sequences = [head + tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    for score, alone in zip(scores, one_at_a_time(model, sequences, [1] * 4), strict=True):
        np.testing.assert_allclose(score.logps[0 if bos else 1 :], alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("compression", ["nf4", "lora", "qlora"])
def test_adapters_and_four_bit_weights_pack_exactly(compression, tiny_llama: Path, qlora_folder: Path, tmp_path: Path):
    if compression == "nf4":
        folder = get("nf4").apply(tiny_llama, tmp_path / "c").path
    else:
        folder = lora_adapter(tiny_llama, tmp_path / "c") if compression == "lora" else qlora_folder
    model, _ = load_policy(folder)
    assert scoring_path.scoring_path(model) == "packed"
    sequences, starts = sharing_sequences(20)
    vocabulary = model.get_input_embeddings().weight.shape[0]
    assert_equal_one_at_a_time(model, [[token % vocabulary for token in ids] for ids in sequences], starts)


def test_int8_takes_plain_batches_and_says_so(tiny_llama: Path, tmp_path: Path):
    model, _ = load_policy(get("int8").apply(tiny_llama, tmp_path / "c").path)
    assert "LLM.int8()" in scoring_path.scoring_path(model)


def test_prompt_tuning_takes_plain_batches():
    from peft import PromptTuningConfig, get_peft_model

    model = get_peft_model(tiny("llama"), PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"))
    assert "virtual tokens" in scoring_path.scoring_path(model)


def test_a_batch_that_does_not_fit_is_halved(monkeypatch):
    model = tiny("llama")
    scoring_path.scoring_path(model)
    stock, sizes = likelihood.packed_logprobs, []

    def small(model, layout):
        sizes.append(len(layout.last))
        if len(layout.last) > 2:
            raise torch.OutOfMemoryError("no memory")
        return stock(model, layout)

    monkeypatch.setattr(likelihood, "packed_logprobs", small)
    assert_equal_one_at_a_time(model, *sharing_sequences(longest=30))
    assert max(sizes) > 2


def test_a_nan_is_reported_for_the_sequences_that_hold_it_and_no_other():
    model = tiny("llama")
    with torch.no_grad():
        model.model.embed_tokens.weight[50] = float("nan")
    sequences = [[1, 5, 6, 7], [1, 5, 6, 50, 8], [1, 5, 6, 8, 9], [1, 50, 6], [1, 5, 6, 7, 7]]
    values = token_logprobs(model, sequences, [1] * 5, strict=False)
    assert [bool(np.isfinite(one).all()) for one in values] == [True, False, True, False, True]
    with pytest.raises(NonFiniteError, match="NaN") as caught:
        token_logprobs(model, sequences, [1] * 5, names=list("abcde"))
    assert "b" in str(caught.value) or "d" in str(caught.value)


def test_without_strict_an_item_that_cannot_be_scored_is_named_and_the_others_are_scored(tiny_llama: Path):
    model, tokenizer = load_policy(tiny_llama)
    texts = ["tom met ann", "", "ann " * 200, "eva left"]
    scores = text_scores(model, tokenizer, texts, strict=False)
    # With a BOS even an empty text would need one token of its own.
    assert [score.problem for score in scores] == ["", "no tokens", "too long", ""]
    assert np.isnan(scores[2].logp)
    good = text_scores(model, tokenizer, ["tom met ann", "eva left"])
    np.testing.assert_allclose([scores[0].logp, scores[3].logp], [score.logp for score in good], atol=1e-5)

    prompt = [{"role": "user", "content": "who was late?"}]
    options = [["tom", "ann"], [], ["tom", "tom"], ["tom", " "], ["tom", "ann " * 200]]
    found = option_logprobs(model, tokenizer, [prompt] * 5, options, strict=False)
    assert [[score.problem for score in item] for item in found] == [
        ["", ""],
        [],
        ["equal options"] * 2,
        ["no tokens"] * 2,
        ["", "too long"],
    ]
    assert np.isnan(found[4][1].logp_whole)
    assert np.isfinite(found[4][0].logp_whole)
    plain = continuation_logprobs(model, tokenizer, ["tom met"], [[" ann", " ann"]], strict=False)
    assert plain[0][0].problem == "equal options"


class Stored:
    def __init__(self) -> None:
        self.values: dict[bytes, np.ndarray] = {}
        self.transactions = 0

    def get_many(self, keys):
        return {key: self.values[key] for key in keys if key in self.values}

    def put_many(self, values):
        self.values.update(values)
        self.transactions += 1


def test_a_run_resumed_from_a_cache_gives_the_bits_of_an_unbroken_one(tmp_path: Path):
    model = tiny("gpt2")
    sequences, starts = sharing_sequences(60)
    unbroken, cache = Stored(), Stored()
    whole = token_logprobs(model, sequences, starts, batch_tokens=64, cache=unbroken)
    assert unbroken.transactions > 3

    class Killed(Exception):
        pass

    def kill(done, total):
        if done > total / 2:
            raise Killed

    with pytest.raises(Killed):
        token_logprobs(model, sequences, starts, batch_tokens=64, cache=cache, progress=kill)
    kept = len(cache.values)
    cache.values.pop(next(iter(cache.values)))  # a batch of which one score is lost is computed whole
    resumed = token_logprobs(model, sequences, starts, batch_tokens=64, cache=cache)
    assert 0 < kept < len(unbroken.values)
    assert cache.transactions == unbroken.transactions + 1
    assert all(np.array_equal(a, b) for a, b in zip(whole, resumed, strict=True))
    assert cache.values.keys() == unbroken.values.keys()
    calls = []
    model.register_forward_pre_hook(lambda *_: calls.append(1))
    again = token_logprobs(model, sequences, starts, batch_tokens=64, cache=cache)
    assert not calls
    assert all(np.array_equal(a, b) for a, b in zip(whole, again, strict=True))


def test_a_cache_keeps_no_score_that_is_not_finite():
    model, cache = tiny("llama"), Stored()
    with torch.no_grad():
        model.model.embed_tokens.weight[50] = float("nan")
    token_logprobs(model, [[1, 5, 6], [1, 50, 6]], [1, 1], cache=cache, strict=False)
    assert len(cache.values) == 1


@pytest.mark.shared
@pytest.mark.parametrize("name", ["stories260K", "tinystories-656k"])
def test_real_checkpoints_pack_exactly(name, shared: Path):
    import csv

    model, tokenizer = load_policy(shared / "models" / name)
    assert scoring_path.scoring_path(model) == "packed"
    with open(shared / "data/crows_pairs/crows_pairs_anonymized.csv", encoding="utf-8") as file:
        texts = [row[side] for row in list(csv.DictReader(file))[:60] for side in ("sent_more", "sent_less")]
    sequences = [[tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"]] for text in texts]
    starts = [1] * len(sequences)
    exact, _ = load_policy(shared / "models" / name, dtype="float64")
    truth = np.concatenate(one_at_a_time(exact, sequences, starts))
    in_fp64 = np.concatenate(token_logprobs(exact, sequences, starts))
    np.testing.assert_allclose(in_fp64, truth, rtol=0, atol=1e-10)
    # In fp32 a token alone can be 3e-5 nats from the truth by rounding: packed may be as far from it, and no further.
    alone = np.concatenate(one_at_a_time(model, sequences, starts))
    packed = np.concatenate(token_logprobs(model, sequences, starts))
    assert np.quantile(np.abs(packed - alone), 0.99) < 1e-5
    assert np.abs(packed - truth).mean() < 1.1 * np.abs(alone - truth).mean() < 1e-5
