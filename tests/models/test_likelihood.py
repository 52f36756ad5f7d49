from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from tiny_models import WORDS, word_tokenizer

from teachfair.compression import get
from teachfair.errors import CheckpointError, InputError, NonFiniteError
from teachfair.models.chat import ensure_chat_template
from teachfair.models.checkpoint import load_policy
from teachfair.models.likelihood import option_logprobs, text_logprobs, text_scores


def one_at_a_time(model, tokenizer, texts):
    """The plainest correct code: one text, no padding, full logits."""
    import torch

    sums = []
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        ids = torch.tensor([[tokenizer.bos_token_id, *ids]])
        with torch.inference_mode():
            logps = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
        sums.append(logps.gather(1, ids[0, 1:, None])[:, 0].double().sum().item())
    return np.array(sums)


def assert_scores_alike(scores, alone, compression: str) -> None:
    difference = np.abs(scores - alone)
    if compression != "int8":
        np.testing.assert_allclose(scores, alone, rtol=1e-6, atol=1e-5)
        return
    # Activations are rounded to 8 bits: where fp32 noise of the batch shape crosses a rounding border, a
    # score jumps.
    assert np.quantile(difference, 0.8) < 2e-5
    assert difference.max() < 0.5


def random_texts(n: int, seed: int = 0) -> list[str]:
    source = random.Random(seed)
    texts = [" ".join(source.choices(WORDS, k=source.randint(1, 30))) for _ in range(n)]
    return [*texts, texts[0], texts[1].split()[0]]  # a repeat, and a text that begins another


@pytest.mark.parametrize("kind", ["tiny_llama", "tiny_gpt2"])
@pytest.mark.parametrize("batch_tokens", [None, 40])
def test_batched_scores_equal_one_at_a_time(kind, batch_tokens, request):
    model, tokenizer = load_policy(request.getfixturevalue(kind))
    texts = random_texts(60)
    scores = text_logprobs(model, tokenizer, texts, batch_tokens=batch_tokens)
    assert scores.dtype == np.float64
    np.testing.assert_allclose(scores, one_at_a_time(model, tokenizer, texts), rtol=1e-6, atol=1e-5)
    assert scores[0] == scores[-2]


def test_batching_is_exact_up_to_rounding_alone(tiny_llama: Path):
    # In fp64 the rounding is gone, so what is left of a difference would be a mistake of the batching.
    model, tokenizer = load_policy(tiny_llama, dtype="float64")
    texts = random_texts(40)
    np.testing.assert_allclose(
        text_logprobs(model, tokenizer, texts), one_at_a_time(model, tokenizer, texts), rtol=0, atol=1e-10
    )


@pytest.mark.parametrize("compression", ["nf4", "fp4", "int8"])
@pytest.mark.parametrize("kind", ["tiny_llama", "tiny_gpt2"])
def test_quantised_scores_do_not_depend_on_the_batch(compression, kind, request, tmp_path: Path):
    folder = get(compression).apply(request.getfixturevalue(kind), tmp_path / "compressed").path
    model, tokenizer = load_policy(folder)
    texts = random_texts(40)
    assert_scores_alike(
        text_logprobs(model, tokenizer, texts), one_at_a_time(model, tokenizer, texts), compression
    )


def test_int8_outliers_make_plain_batches_differ_but_not_ours(tiny_llama: Path, tmp_path: Path):
    import torch
    from transformers import AutoModelForCausalLM

    # A large gain on one channel of a norm: the outlier features that LLM.int8() was made for.
    model = AutoModelForCausalLM.from_pretrained(tiny_llama)
    with torch.no_grad():
        model.model.layers[0].input_layernorm.weight[3] = 8.0
        model.model.layers[1].post_attention_layernorm.weight[5] = 8.0
    model.save_pretrained(tmp_path / "outliers")
    word_tokenizer().save_pretrained(tmp_path / "outliers")
    folder = get("int8").apply(tmp_path / "outliers", tmp_path / "int8").path
    model, tokenizer = load_policy(folder)
    texts = random_texts(30)
    alone = one_at_a_time(model, tokenizer, texts)

    ids = [[1, *tokenizer(text, add_special_tokens=False)["input_ids"]] for text in texts]
    width = max(map(len, ids))
    padded = torch.tensor([row + [0] * (width - len(row)) for row in ids])
    with torch.inference_mode():
        logps = model(input_ids=padded, attention_mask=(padded != 0).long()).logits[:, :-1].log_softmax(-1)
    together = logps.gather(2, padded[:, 1:, None])[..., 0].where(padded[:, 1:] != 0, 0.0).sum(1).numpy()
    assert np.median(np.abs(together - alone)) > 1e-3  # the trap is real
    assert_scores_alike(text_logprobs(model, tokenizer, texts), alone, "int8")
    assert all("forward" not in module.__dict__ for module in model.modules())  # and the model is as it was


def test_int8_options_are_scored_off_the_prompt_alone(tiny_llama: Path, tmp_path: Path):
    import torch

    model, tokenizer = load_policy(get("int8").apply(tiny_llama, tmp_path / "int8").path)
    prompts = conversations(10)
    scored = option_logprobs(model, tokenizer, prompts, [["tom", "ann"]] * 10)
    for prompt, (tom, _) in zip(prompts, scored, strict=True):
        ids = tokenizer.apply_chat_template(prompt, tokenize=True, return_dict=True)["input_ids"]
        with torch.inference_mode():
            logps = model(input_ids=torch.tensor([ids])).logits[0, -1].log_softmax(-1)
        assert tom.logp_first == pytest.approx(logps[tokenizer.convert_tokens_to_ids("tom")].item(), abs=2e-5)


@pytest.mark.shared
@pytest.mark.parametrize("name", ["stories260K", "tinystories-656k"])
@pytest.mark.parametrize("compression", ["int8", "nf4"])
def test_compressed_real_checkpoints_score_alike_in_batches(name, compression, shared: Path, tmp_path: Path):
    folder = get(compression).apply(shared / "models" / name, tmp_path / "c").path
    model, tokenizer = load_policy(folder)
    texts = [
        "Once upon a time there was a little girl.",
        "The nurse said that he was late.",
        "One day, Tom ran.",
    ] * 5
    texts = [f"{text} {'He was happy. ' * (index % 4)}" for index, text in enumerate(texts)]
    assert_scores_alike(
        text_logprobs(model, tokenizer, texts), one_at_a_time(model, tokenizer, texts), compression
    )


def test_first_token_is_unscored_without_a_bos(tiny_llama: Path):
    model, tokenizer = load_policy(tiny_llama)
    with_bos = text_scores(model, tokenizer, ["tom met ann"])[0]
    assert np.isfinite(with_bos.logps).all()
    tokenizer.bos_token = None
    without = text_scores(model, tokenizer, ["tom met ann"])[0]
    assert np.isnan(without.logps[0])
    assert len(without.logps) == len(without.token_ids) == 3
    assert np.isfinite(without.logp)
    with pytest.raises(InputError, match="no token that can be scored"):
        text_logprobs(model, tokenizer, ["tom met ann", "tom"])


def conversations(n: int) -> list[list[dict[str, str]]]:
    source = random.Random(1)
    return [
        [{"role": "user", "content": " ".join(source.choices(WORDS, k=source.randint(3, 20)))}]
        for _ in range(n)
    ]


@pytest.mark.parametrize("kind", ["tiny_llama", "tiny_gpt2"])
def test_option_scores_equal_the_plainest_code(kind, request):
    import torch

    model, tokenizer = load_policy(request.getfixturevalue(kind))
    prompts = conversations(20)
    options = [
        ["tom", "ann", "cannot tell"],
        ["yes", "no"],
        ["tom was late", "tom was first", "cannot tell"],
    ] * 7
    options = options[:20]
    scored = option_logprobs(model, tokenizer, prompts, options, batch_tokens=64)
    for prompt, texts, scores in zip(prompts, options, scored, strict=True):
        head = tokenizer.apply_chat_template(prompt, tokenize=True, return_dict=True)["input_ids"]
        for text, score in zip(texts, scores, strict=True):
            tail = tokenizer(text, add_special_tokens=False)["input_ids"]
            ids = torch.tensor([head + tail])
            with torch.inference_mode():
                logps = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
            tokens = logps.gather(1, ids[0, 1:, None])[len(head) - 1 :, 0].double().numpy()
            assert score.n_tokens == len(tail)
            assert not score.prefix_mismatch
            assert score.logp_whole == pytest.approx(tokens.sum(), abs=2e-5)
            # "tom was late" parts from "cannot tell" at once, but from "tom was first" at its third token
            # only.
            first = tokens.sum() if text.startswith("tom was") else tokens[0]
            assert score.logp_first == pytest.approx(first, abs=2e-5)


def test_shared_first_tokens_do_not_count_where_all_options_share_them(tiny_llama: Path):
    model, tokenizer = load_policy(tiny_llama)
    prompt = conversations(1)
    (pair,) = option_logprobs(model, tokenizer, prompt, [["she was tom", "she was ann"]])
    (single,) = option_logprobs(model, tokenizer, prompt, [["she was", "no"]])
    assert pair[0].logp_first == pytest.approx(pair[0].logp_whole - single[0].logp_whole, abs=1e-5)


def test_an_option_that_begins_another_parts_at_the_end_of_its_turn(tiny_llama: Path):
    model, tokenizer = load_policy(tiny_llama)
    (scores,) = option_logprobs(model, tokenizer, conversations(1), [["yes", "yes indeed"]])
    yes, indeed = scores
    assert (yes.n_tokens, indeed.n_tokens) == (1, 2)
    # Both are probabilities after "yes": of the end of the turn, and of "indeed".
    assert indeed.logp_first == pytest.approx(indeed.logp_whole - yes.logp_whole, abs=1e-5)
    assert np.exp(yes.logp_first) + np.exp(indeed.logp_first) < 1


def test_probabilities_of_all_first_tokens_sum_to_one(tiny_llama: Path):
    model, tokenizer = load_policy(tiny_llama)
    words = [word for word in tokenizer.get_vocab() if not word.startswith("<")]
    (scores,) = option_logprobs(model, tokenizer, conversations(1), [words])
    specials = 4
    total = sum(np.exp(score.logp_first) for score in scores)
    assert len(scores) == len(tokenizer) - specials
    assert 0.5 < total <= 1.0


@pytest.mark.shared
def test_merges_across_the_border_are_scored_jointly_and_counted(shared: Path):
    import torch

    from teachfair.models.chat import ROLE_CHAT_TEMPLATE, render, tokenize

    model, tokenizer = load_policy(shared / "models" / "tinystories-656k")
    tokenizer.chat_template = ROLE_CHAT_TEMPLATE
    prompt = [{"role": "user", "content": "Tom met Ann. Who was late?"}]
    (scores,) = option_logprobs(model, tokenizer, [prompt], [["Tom", "Ann"]])
    assert all(score.prefix_mismatch for score in scores)
    head = tokenize(tokenizer, render(tokenizer, prompt, generation_prompt=True))
    whole = tokenize(tokenizer, render(tokenizer, prompt, generation_prompt=True) + " Tom")
    assert whole[: len(head)] != head
    start = len(head) - 1
    ids = torch.tensor([whole])
    with torch.inference_mode():
        logps = (
            model(input_ids=ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[start - 1 :, 0]
        )
    assert scores[0].logp_whole == pytest.approx(logps.double().sum().item(), abs=2e-5)
    tokenizer.chat_template = None
    ensure_chat_template(tokenizer)
    (scores,) = option_logprobs(model, tokenizer, [prompt], [["Tom", "Ann"]])
    assert not any(score.prefix_mismatch for score in scores)


def test_options_that_the_tokenizer_cannot_tell_apart_score_alike(tiny_llama: Path):
    model, tokenizer = load_policy(tiny_llama)
    (scores,) = option_logprobs(
        model, tokenizer, conversations(1), [["zoe", "max", "tom"]]
    )  # two unknown words
    assert scores[0] == scores[1] != scores[2]


def test_equal_and_empty_options_are_named(tiny_llama: Path):
    model, tokenizer = load_policy(tiny_llama)
    with pytest.raises(InputError, match="equal") as caught:
        option_logprobs(model, tokenizer, conversations(2), [["tom", "ann"], ["tom", "tom"]])
    assert "item 1" in str(caught.value)
    with pytest.raises(InputError, match="no tokens of its own"):
        option_logprobs(model, tokenizer, conversations(1), [["tom", " "]])


def test_too_long_a_text_is_named_and_not_truncated(tiny_llama: Path):
    model, tokenizer = load_policy(tiny_llama)
    with pytest.raises(InputError, match="longer than the model's context of 128") as caught:
        text_logprobs(model, tokenizer, ["tom", "ann " * 200])
    assert "text 1" in str(caught.value)


def test_nan_weights_are_reported_not_scored(tiny_llama: Path):
    import torch

    model, tokenizer = load_policy(tiny_llama)
    with torch.no_grad():
        model.model.norm.weight[0] = float("nan")
    with pytest.raises(NonFiniteError, match="NaN"):
        text_logprobs(model, tokenizer, ["tom met ann"])


def test_tokens_without_an_embedding_are_reported(tiny_llama: Path):
    model, tokenizer = load_policy(tiny_llama)
    tokenizer.add_tokens(["zebra"])
    with pytest.raises(CheckpointError, match="embeddings"):
        text_logprobs(model, tokenizer, ["tom met zebra"])


def test_progress_counts_up_to_the_end(tiny_llama: Path):
    model, tokenizer = load_policy(tiny_llama)
    seen: list[tuple[int, int]] = []
    text_logprobs(
        model, tokenizer, random_texts(20), batch_tokens=32, progress=lambda *step: seen.append(step)
    )
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1][0] == seen[-1][1]
    assert len(seen) > 3


def test_no_texts_give_no_scores(tiny_llama: Path):
    model, tokenizer = load_policy(tiny_llama)
    assert text_logprobs(model, tokenizer, []).shape == (0,)
    assert option_logprobs(model, tokenizer, [], []) == []
