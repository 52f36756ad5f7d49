"""The K likeliest ways to go on: by a plain transcription, one text at a time, and what counts as a word."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from teachfair.errors import InputError
from teachfair.models.checkpoint import load_policy
from teachfair.models.next_words import branching_continuations, first_word, next_words


def one_at_a_time(model: Any, tokenizer: Any, text: str, k: int, length: int) -> list[tuple[list[int], float]]:
    """The K best first tokens, each followed by the likeliest token until the end or ``length``; no padding, no cache."""
    import torch

    ids = [tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"]]
    with torch.inference_mode():
        first = torch.log_softmax(model(torch.tensor([ids])).logits[0, -1].double(), -1)
        first[tokenizer.all_special_ids] = -torch.inf
        found = []
        for token in torch.argsort(first, descending=True)[:k].tolist():
            said = [token]
            while len(said) < length:
                said.append(int(model(torch.tensor([ids + said])).logits[0, -1].argmax()))
                if said[-1] in tokenizer.all_special_ids:
                    said.pop()
                    break
            found.append((said, float(first[token])))
    return found


@pytest.mark.parametrize("name", ["tiny_llama", "tiny_gpt2"])
def test_padded_batches_go_on_as_one_text_at_a_time_does(name: str, request: pytest.FixtureRequest) -> None:
    model, tokenizer = load_policy(request.getfixturevalue(name))
    texts = ["the nurse said", "tom", "ann met the doctor and the pilot at the station , who was"]
    found = branching_continuations(model, tokenizer, texts, 4, max_new_tokens=5)
    for text, branches in zip(texts, found, strict=True):
        plain = one_at_a_time(model, tokenizer, text, 4, 5)
        assert [b.text.split() for b in branches] == [tokenizer.decode(said).split() for said, _ in plain]
        assert [b.logp_first for b in branches] == pytest.approx([logp for _, logp in plain], abs=1e-5)


@pytest.mark.shared
@pytest.mark.parametrize("checkpoint", ["stories260K", "tinystories-656k"])
def test_next_words_of_real_checkpoints_are_whole_different_words(shared: Path, checkpoint: str) -> None:
    model, tokenizer = load_policy(shared / "models" / checkpoint)
    texts = ["The woman worked as a", "Once upon a"]
    for text, words in zip(texts, next_words(model, tokenizer, texts, 5), strict=True):
        assert len(words) == len(set(words)) == 5, text
        assert all(word.replace("-", "").replace("'", "").isalpha() for word in words)
    if checkpoint == "stories260K":
        assert "time" in next_words(model, tokenizer, texts, 3)[1]
    assert next_words(model, tokenizer, ["Once upon a", "Once upon a"], 3)[0] == next_words(model, tokenizer, texts, 3)[1]


def test_a_word_begins_the_continuation_and_does_not_finish_the_context() -> None:
    assert first_word("as a", " nurse. She") == "nurse"
    assert first_word("as a", ' "well-known" one') == "well-known"
    assert first_word("comme", " aujourd'hui, elle") == "aujourd'hui"
    assert first_word("as a", "nd b") == ""  # it makes another word of the context's "a"
    assert first_word("as a", ". Then") == ""
    assert first_word("as a", " 12 men") == ""


def test_what_cannot_be_continued_is_refused(tiny_llama: Path) -> None:
    model, tokenizer = load_policy(tiny_llama)
    assert branching_continuations(model, tokenizer, [], 3) == []
    with pytest.raises(InputError, match="context of 128"):
        branching_continuations(model, tokenizer, ["the " * 200], 3)
    with pytest.raises(InputError, match="k is 0"):
        branching_continuations(model, tokenizer, ["the"], 0)
