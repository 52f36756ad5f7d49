"""What a benchmark asks of a policy: log-likelihoods and greedy answers, whatever is behind them.

A benchmark's ``score`` gets a :class:`Scorer`, so that the same file measures a checkpoint on this machine
(:class:`PolicyScorer`) and anything else that can answer the same questions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from teachfair.models.chat import Message
from teachfair.models.greedy import Answer, greedy_answers
from teachfair.models.likelihood import (
    OptionScore,
    Progress,
    TextScore,
    continuation_logprobs,
    option_logprobs,
    text_scores,
)
from teachfair.models.next_words import Continuation, branching_continuations, next_words

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class Scorer(Protocol):
    """A policy as a benchmark sees it. ``tokenizer`` is None where the policy's own is not at hand."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase | None: ...

    def texts(self, texts: Sequence[str], *, progress: Progress | None = None) -> list[TextScore]:
        """Each text by itself, BOS first, no chat template: token by token, nats."""
        ...

    def options(
        self, prompts: Sequence[Sequence[Message]], options: Sequence[Sequence[str]], *, progress: Progress | None = None
    ) -> list[list[OptionScore]]:
        """The answers of conversations, in the assistant's turn of the chat template."""
        ...

    def continuations(
        self, contexts: Sequence[str], continuations: Sequence[Sequence[str]], *, progress: Progress | None = None
    ) -> list[list[OptionScore]]:
        """Continuations of plain texts, joined as they are; no chat template."""
        ...

    def answers(
        self, prompts: Sequence[Sequence[Message]], *, max_new_tokens: int = 64, progress: Progress | None = None
    ) -> list[Answer]:
        """The greedy answer to each conversation."""
        ...

    def next_words(self, texts: Sequence[str], k: int, *, progress: Progress | None = None) -> list[list[str]]:
        """The ``k`` likeliest next words of each plain text, different ones, the likeliest first."""
        ...

    def branches(
        self, texts: Sequence[str], k: int, *, max_new_tokens: int = 20, progress: Progress | None = None
    ) -> list[list[Continuation]]:
        """Each plain text continued in ``k`` ways: its likeliest first tokens, each followed greedily."""
        ...


@dataclass
class PolicyScorer:
    """A causal language model and its tokenizer as a :class:`Scorer`."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    def texts(self, texts: Sequence[str], *, progress: Progress | None = None) -> list[TextScore]:
        return text_scores(self.model, self.tokenizer, texts, progress=progress)

    def options(
        self, prompts: Sequence[Sequence[Message]], options: Sequence[Sequence[str]], *, progress: Progress | None = None
    ) -> list[list[OptionScore]]:
        return option_logprobs(self.model, self.tokenizer, prompts, options, progress=progress)

    def continuations(
        self, contexts: Sequence[str], continuations: Sequence[Sequence[str]], *, progress: Progress | None = None
    ) -> list[list[OptionScore]]:
        return continuation_logprobs(self.model, self.tokenizer, contexts, continuations, progress=progress)

    def answers(
        self, prompts: Sequence[Sequence[Message]], *, max_new_tokens: int = 64, progress: Progress | None = None
    ) -> list[Answer]:
        return greedy_answers(self.model, self.tokenizer, prompts, max_new_tokens=max_new_tokens, progress=progress)

    def next_words(self, texts: Sequence[str], k: int, *, progress: Progress | None = None) -> list[list[str]]:
        return next_words(self.model, self.tokenizer, texts, k, progress=progress)

    def branches(
        self, texts: Sequence[str], k: int, *, max_new_tokens: int = 20, progress: Progress | None = None
    ) -> list[list[Continuation]]:
        return branching_continuations(
            self.model, self.tokenizer, texts, k, max_new_tokens=max_new_tokens, progress=progress
        )
