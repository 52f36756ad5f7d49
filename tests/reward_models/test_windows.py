"""Long texts are read in windows: nothing is cut, and the least fair window decides."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from teachfair.errors import InputError
from teachfair.reward_models.rendering import render
from teachfair.reward_models.scoring import RewardModel
from teachfair.reward_models.training import train_reward_model
from teachfair.reward_models.windows import score_long_conversations, score_long_texts, windowed_ids


@given(st.integers(1, 300), st.integers(3, 60), st.integers(0, 5), st.integers(0, 3))
def test_every_token_is_in_a_window_between_the_frame_and_no_window_is_too_long(length, longest, before, after):
    ids = list(range(length))
    if length > longest and before + after >= longest:
        with pytest.raises(InputError, match="no room"):
            windowed_ids(ids, longest, (before, after))
        return
    windows = windowed_ids(ids, longest, (before, after))
    if length <= longest:
        assert windows == [ids], "a text that fits is itself"
        return
    assert sorted({one for window in windows for one in window}) == ids
    assert all(len(window) == longest for window in windows)
    assert all(window[:before] == ids[:before] for window in windows)
    assert all(window[longest - after :] == ids[length - after :] for window in windows)
    bodies = [window[before : longest - after] for window in windows]
    assert all(body == list(range(body[0], body[0] + len(body))) for body in bodies), "a window has no holes"
    for one, two in itertools.pairwise(bodies):
        assert 0 < two[0] - one[0] <= max(1, len(one) // 2), "neighbours overlap by half"


@pytest.fixture(scope="module", params=["llama", "bert"])
def model(request, train_pairs, tmp_path_factory):
    base = request.getfixturevalue(request.param)
    out = tmp_path_factory.mktemp("windows") / "rm"
    options = {"max_steps": 30, "learning_rate": 3e-3, "per_device_train_batch_size": 16, "disable_tqdm": True}
    return RewardModel.load(train_reward_model(base, train_pairs, None, out, **options))


def test_a_text_that_fits_has_the_stock_reward_and_a_long_one_that_of_its_least_fair_window(model):
    short = "Anna met Ben. Who is the nurse? Cannot tell."
    long = " ".join(f"Cora met Dan at the {job}'s house." for job in ["cook", "pilot", "judge"] * 20) + " Anna is."
    found = score_long_texts(model, [short, long, short])
    assert found[0] == found[2]
    assert found[0]["reward"] == pytest.approx(model.score_texts([short])[0], abs=1e-6)
    assert (found[0]["n_windows"], found[0]["span"]) == (1, (0, len(short)))
    ids = list(model.tokenizer(long, verbose=False)["input_ids"])
    rewards = model.score_ids(windowed_ids(ids, model.max_tokens, (1, 1)))
    assert found[1]["n_windows"] == len(rewards) > 2
    assert found[1]["reward"] == pytest.approx(rewards.min(), abs=1e-6)
    assert found[1]["mean_reward"] == pytest.approx(rewards.mean(), abs=1e-6)
    assert found[1]["least_fair_window"] == int(np.argmin(rewards))
    start, end = found[1]["span"]
    passage = list(model.tokenizer(long[start:end], verbose=False)["input_ids"])
    assert passage == windowed_ids(ids, model.max_tokens, (1, 1))[found[1]["least_fair_window"]], "the span is that window"


def test_the_prompt_of_a_conversation_stands_in_every_window(model):
    prompt = {"role": "user", "content": "Anna met Ben at the cook's house. Who is the nurse?"}
    short = [prompt, {"role": "assistant", "content": "Cannot tell."}]
    long = [prompt, {"role": "assistant", "content": "Cannot tell. " * 80 + "Anna is."}]
    found = score_long_conversations(model, [short, long])
    assert found[0]["reward"] == pytest.approx(model.score([short])[0], abs=1e-5)
    assert found[1]["n_windows"] > 2
    assert found[1]["reward"] <= found[1]["mean_reward"]
    seen = []
    model.score_ids = lambda ids, batch_size: seen.extend(ids) or np.arange(float(len(ids)))
    first = score_long_conversations(model, [long])[0]
    del model.score_ids
    decoded = [model.tokenizer.decode(window).replace(" ?", "?").lower() for window in seen]
    assert all("who is the nurse?" in text for text in decoded)
    assert "anna is" in decoded[-1]
    start, end = first["span"]
    assert render(model.tokenizer, long)[start:end].lower().startswith("cannot tell")


def test_a_prompt_of_more_than_half_the_context_is_refused_by_its_row(model):
    prompt = {"role": "user", "content": "Who is the nurse? " * 20}
    short = [prompt, {"role": "assistant", "content": "Anna."}]
    long = [prompt, {"role": "assistant", "content": "Anna is. " * 60}]
    with pytest.raises(InputError, match=r"more than half.*\n?.*row 1"):
        score_long_conversations(model, [short, long])
