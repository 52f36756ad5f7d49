"""Scoring in batches, once per distinct text, and through oneDNN gives the numbers of one at a time."""

import numpy as np
import pytest

from teachfair.reward_models.scoring import RewardModel, batches


def texts(n=60):
    rng = np.random.default_rng(0)
    words = np.array("Anna Ben nurse doctor met the Who is Cannot tell house".split())
    return [" ".join(rng.choice(words, int(size))) for size in rng.integers(1, 60, n)]


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert"])
def test_scores_equal_those_of_one_at_a_time(reward_folders, name):
    import torch

    model = RewardModel.load(reward_folders[name])
    asked = texts()
    with torch.inference_mode():
        alone = [
            float(model.model(**model.tokenizer(text, return_tensors="pt")).logits[0, 0]) for text in asked
        ]
    assert np.std(alone) > 0.01, "a head that says the same of everything proves nothing"
    for options in ({}, {"batch_size": 7}, {"batch_size": 1}):
        np.testing.assert_allclose(model.score_texts(asked, **options), alone, rtol=1e-6, atol=1e-6)
    ids = [model.tokenizer(text)["input_ids"] for text in asked]
    np.testing.assert_allclose(model.score_ids(ids, batch_tokens=64), alone, rtol=1e-6, atol=1e-6)


def test_equal_ids_are_computed_once(reward_folders, monkeypatch):
    model = RewardModel.load(reward_folders["bert"])
    asked = texts(10)
    once = model.score_texts(asked)
    rows = []
    forward = model.model.forward
    monkeypatch.setattr(model.model, "forward", lambda **kw: (rows.append(len(kw["input_ids"])), forward(**kw))[1])
    assert model.score_texts([*asked, *asked[::-1], *asked]).tolist() == [*once, *once[::-1], *once]
    assert sum(rows) == len(set(asked))


def test_batches_keep_their_limits_and_lose_nothing():
    sequences = [tuple(range(size)) for size in (3, 50, 1, 7, 7, 90, 20)]
    made = list(batches(sequences, 3, 60))
    assert sorted(one for batch in made for one in batch) == sorted(sequences)
    assert all(len(batch) <= 3 for batch in made)
    assert all(len(batch) * max(map(len, batch)) <= 60 for batch in made if len(batch) > 1)
    assert len(made[0][0]) == 90, "the longest first: out of memory comes at once"


def test_linear_layers_through_onednn_give_the_same_numbers():
    import torch

    from teachfair.models.cpu_inference import fast_on_cpu

    if not torch.backends.mkldnn.is_available():
        pytest.skip("this torch carries no oneDNN")

    class Model(torch.nn.Linear):
        device, dtype = torch.device("cpu"), torch.float32

    torch.manual_seed(0)
    layer = Model(256, 512)
    states = torch.randn(4, 32, 256)
    with torch.inference_mode():
        plain = layer(states)
        with fast_on_cpu(layer):
            ours, small = layer(states), layer(states[:1, :1])
    torch.testing.assert_close(ours, plain, rtol=1e-5, atol=2e-6)
    assert not ours.is_mkldnn
    assert torch.equal(small, layer(states[:1, :1])), "small products stay where they were"
    layer.dtype = torch.bfloat16
    with fast_on_cpu(layer):
        assert torch.equal(layer(states), layer(states))
