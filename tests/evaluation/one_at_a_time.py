"""The plainest scoring there is: transformers, one sequence a call, no batch, no cache. What ours must equal."""

from __future__ import annotations

from pathlib import Path
from typing import Any


class Plain:
    """A checkpoint, asked one sequence at a time."""

    def __init__(self, folder: Path) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)

    def ids(self, text: str, *, bos: bool = True) -> list[int]:
        start = [self.tokenizer.bos_token_id] if bos else []
        return [*start, *self.tokenizer(text, add_special_tokens=False)["input_ids"]]

    def token_logps(self, ids: list[int]) -> list[float]:
        """Log-probability of ids[1:], each given all before it."""
        import torch

        with torch.inference_mode():
            logps = self.model(input_ids=torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
        return logps.gather(1, torch.tensor(ids)[1:, None])[:, 0].double().tolist()

    def text(self, text: str) -> float:
        return sum(self.token_logps(self.ids(text)))

    def answers(self, prompt: str, answers: list[str]) -> tuple[list[float], list[float]]:
        """(up to where each is told from all others, whole) log-probability of each answer behind the prompt.

        Prompt and answer are tokenised as one text. Of the tokens, those count from the first in which any two answers
        differ; the first sum ends at the token that tells an answer from every other one.
        """
        whole_ids = [self.ids(prompt + answer) for answer in answers]
        start = min(_same(self.ids(prompt), ids) for ids in whole_ids)
        part = max(start, min(_same(a, b) for k, a in enumerate(whole_ids) for b in whole_ids[k + 1 :]))
        first, whole = [], []
        for k, ids in enumerate(whole_ids):
            logps = [float("nan"), *self.token_logps(ids)]
            told = 1 + max(_same(ids, other) for j, other in enumerate(whole_ids) if j != k)
            first.append(sum(logps[part:told]))
            whole.append(sum(logps[start:]))
        return first, whole


def _same(a: list[int], b: list[int]) -> int:
    n = 0
    while n < min(len(a), len(b)) and a[n] == b[n]:
        n += 1
    return n


def largest_difference(a: Any, b: Any) -> float:
    """Beyond what float32 rounds: logits of size 10 have steps of 1e-6, two orders of summing differ by a few of them."""
    import numpy as np

    ours, theirs = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    return float((np.abs(ours - theirs) - 2e-6 * np.abs(theirs)).max())
