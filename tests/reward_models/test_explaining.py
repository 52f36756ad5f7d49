"""Which words moved a score: known answers."""

import json

import numpy as np
import pytest

from teachfair.errors import ConfigError
from teachfair.reward_models.explaining import explain_rows, integrated_gradients, occlusion, swapped
from teachfair.reward_models.scoring import RewardModel
from teachfair.reward_models.text_files import Texts


@pytest.fixture(scope="module")
def knows_one_word(reward_folders):
    """A BERT to which all words are one and the same, but for "cannot"; order does not count."""
    import torch

    model = RewardModel.load(reward_folders["bert"])
    with torch.no_grad():
        for name, parameter in model.model.named_parameters():
            if "attention.self.query" in name or "attention.self.key" in name or "position" in name or "token_type" in name:
                parameter.zero_()  # uniform attention: CLS sees the mean of all words
        words = model.model.get_input_embeddings().weight
        same, other = torch.randn(2, words.shape[1], generator=torch.Generator().manual_seed(0))
        words[:] = same
        words[model.tokenizer.convert_tokens_to_ids("cannot")] = other
    return model


@pytest.mark.parametrize("method", ["mask", "delete"])
def test_occlusion_ranks_the_word_that_carries_the_score_first(knows_one_word, method):
    texts = ["Anna met Ben. Cannot tell.", "who is the nurse, cannot say"]
    for found, text in zip(occlusion(knows_one_word, texts, method=method), texts, strict=True):
        assert found["method"] == method
        assert found["words"][0]["word"].lower() == "cannot"
        assert abs(found["words"][0]["change"]) > 1.2 * abs(found["words"][1]["change"])
        for word in found["words"]:
            assert text[word["start"] : word["end"]] == word["word"]


def test_a_words_change_is_the_reward_with_it_minus_the_reward_without(reward_folders):
    model = RewardModel.load(reward_folders["llama"])
    (found,) = occlusion(model, ["Anna met Ben."])
    assert found["method"] == "delete", "a decoder has no mask token"
    cut = {".": "Anna met Ben", "Anna": "met Ben.", "met": "Anna Ben.", "Ben": "Anna met."}
    without = dict(zip(cut, model.score_texts(list(cut.values())), strict=True))
    whole = model.score_texts(["Anna met Ben."])[0]
    for word in found["words"]:
        assert word["change"] == pytest.approx(whole - without[word["word"]], abs=1e-6)
    with pytest.raises(ConfigError, match="no mask token"):
        occlusion(model, ["Anna"], method="mask")
    (alone,) = occlusion(model, ["Anna"])
    assert alone["words"][0]["change"] is None, "without its one word there is nothing to score"


def test_the_words_of_a_conversation_say_in_which_message_they_stand(reward_folders):
    model = RewardModel.load(reward_folders["bert"])
    talk = [{"role": "user", "content": "Who is the nurse?"}, {"role": "assistant", "content": "Anna is."}]
    (found,) = occlusion(model, [talk])
    assert {(word["message"], word["word"]) for word in found["words"]} == {
        *((0, word) for word in ("Who", "is", "the", "nurse", "?")), *((1, word) for word in ("Anna", "is", ".")),
    }  # fmt: skip
    assert found["reward"] == pytest.approx(float(model.score([talk])[0]), abs=1e-6)


def test_the_identity_swap_gives_both_rewards_and_what_was_exchanged(reward_folders):
    model = RewardModel.load(reward_folders["bert"])
    hers, none = swapped(model, ["She is the nurse.", "Cannot tell."])
    assert hers["swapped"] == "He is the nurse."
    assert [(change["old"], change["new"]) for change in hers["changes"]] == [("She", "He")]
    before, after = model.score_texts(["She is the nurse.", "He is the nurse."])
    assert (hers["reward"], hers["swapped_reward"]) == pytest.approx((before, after), abs=1e-6)
    assert hers["change"] == pytest.approx(before - after, abs=1e-6)
    assert none["changes"] == []
    assert none["swapped_reward"] is None
    (french,) = swapped(model, ["Une infirmière est venue."], lang="fr")
    assert french["swapped"] == "Un infirmier est venu."


def test_rows_without_a_reward_have_no_explanation_and_the_rest_is_json(reward_folders):
    model = RewardModel.load(reward_folders["llama"])
    found = explain_rows(model, list(Texts(["Anna is.", "", "a\0b", "Anna " * 500])), how="both")
    assert [one is None for one in found] == [False, True, True, True]
    assert set(json.loads(json.dumps(found[0]))) == {"occlusion", "swap"}
    with pytest.raises(ConfigError, match="known ones"):
        explain_rows(model, [], how="magic")


@pytest.mark.parametrize("name", ["llama", "bert"])
def test_integrated_gradients_sum_to_the_difference_from_the_baseline(reward_folders, name):
    pytest.importorskip("captum", reason="captum is an extra: pip install teachfair[explain]")
    model = RewardModel.load(reward_folders[name])
    found = integrated_gradients(model, "Anna met Ben, who is the nurse?", n_steps=200)
    total = sum(one["attribution"] for one in found["tokens"])
    assert abs(found["reward"] - found["baseline_reward"]) > 1e-3
    assert total == pytest.approx(found["reward"] - found["baseline_reward"], abs=0.02 * max(1, abs(total)))
    assert found["completeness_error"] == pytest.approx(total - (found["reward"] - found["baseline_reward"]), abs=1e-6)
    assert found["reward"] == pytest.approx(float(model.score_texts(["Anna met Ben, who is the nurse?"])[0]), abs=1e-5)
    assert np.isfinite([one["attribution"] for one in found["tokens"]]).all()


def test_without_captum_it_says_what_to_install(reward_folders, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "captum", None)
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(ConfigError, match="teachfair\\[explain\\]"):
        integrated_gradients(RewardModel.load(reward_folders["bert"]), "Anna")
