"""Greedy answers are those of one prompt at a time, and end where the policy ends them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from teachfair.errors import InputError
from teachfair.models.chat import render, tokenize
from teachfair.models.checkpoint import load_policy
from teachfair.models.greedy import greedy_answers

PROMPTS = [
    [{"role": "user", "content": text}]
    for text in ("who is late ?", "tom and ann met at the station . who is the nurse ?", "is tom tall ?", "who is late ?")
]


def one_at_a_time(model: Any, tokenizer: Any, prompt: Any, n: int) -> list[int]:
    import torch

    ids = tokenize(tokenizer, render(tokenizer, prompt, generation_prompt=True))
    said: list[int] = []
    for _ in range(n):
        with torch.inference_mode():
            token = int(model(torch.tensor([ids + said])).logits[0, -1].argmax())
        if token == tokenizer.eos_token_id:
            break
        said.append(token)
    return said


@pytest.mark.parametrize("name", ["tiny_llama", "tiny_gpt2"])
def test_a_batch_gives_what_each_prompt_gives_alone(name: str, request: pytest.FixtureRequest) -> None:
    model, tokenizer = load_policy(request.getfixturevalue(name))
    expected = [one_at_a_time(model, tokenizer, prompt, 6) for prompt in PROMPTS]
    for size in (1, 8):
        found = greedy_answers(model, tokenizer, PROMPTS, max_new_tokens=6, batch_size=size)
        assert [answer.n_tokens for answer in found] == [len(ids) for ids in expected]
        assert [answer.text for answer in found] == [tokenizer.decode(ids, skip_special_tokens=True) for ids in expected]
        assert [answer.finished for answer in found] == [len(ids) < 6 for ids in expected]


def test_where_the_context_is_short_all_answers_get_what_the_longest_prompt_leaves(tiny_llama: Path) -> None:
    model, tokenizer = load_policy(tiny_llama)
    long = [{"role": "user", "content": " ".join(["late"] * 120)}]
    found = greedy_answers(model, tokenizer, [*PROMPTS, long], max_new_tokens=64)
    assert max(answer.n_tokens for answer in found) <= 128 - 122
    with pytest.raises(InputError, match="prompt 1: 'late"):
        greedy_answers(model, tokenizer, [PROMPTS[0], [{"role": "user", "content": " ".join(["late"] * 130)}]])
    assert greedy_answers(model, tokenizer, []) == []
