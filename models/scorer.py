"""What a benchmark asks of a policy: log-likelihoods and greedy answers, whatever is behind them.

A benchmark's ``score`` gets a :class:`Scorer`, so that the same file measures a checkpoint on this machine
(:class:`PolicyScorer`) and anything else that can answer the same questions.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from teachfair.models.chat import Message, ensure_chat_template
from teachfair.models.checkpoint import load_policy, local_folder
from teachfair.models.greedy import Answer, greedy_answers, greedy_completions
from teachfair.models.likelihood import (
    OptionScore,
    Progress,
    TextScore,
    continuation_logprobs,
    option_logprobs,
    text_scores,
)
from teachfair.models.next_words import Continuation, branching_continuations, next_words
from teachfair.models.pseudo_likelihood import MaskedScorer, load_masked
from teachfair.models.rolling import rolling_scores
from teachfair.models.score_cache import RequestCache, ScoreCache, model_identity

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class Scorer(Protocol):
    """A policy as a benchmark sees it. ``tokenizer`` is None where the policy's own is not at hand."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase | None: ...

    def texts(self, texts: Sequence[str], *, bos: bool = True, progress: Progress | None = None) -> list[TextScore]:
        """Each text by itself, BOS first unless told otherwise, no chat template: token by token, nats."""
        ...

    def rolling(self, texts: Sequence[str], *, progress: Progress | None = None) -> list[TextScore]:
        """Texts of any length, in windows of the context."""
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

    def completions(
        self, texts: Sequence[str], *, max_new_tokens: int = 64, progress: Progress | None = None
    ) -> list[Answer]:
        """How each plain text goes on, greedily: BOS first, no chat template."""
        ...

    def next_words(self, texts: Sequence[str], k: int, *, progress: Progress | None = None) -> list[list[str]]:
        """The ``k`` likeliest next words of each plain text, different ones, the likeliest first; [] if there is none."""
        ...

    def branches(
        self, texts: Sequence[str], k: int, *, max_new_tokens: int = 20, progress: Progress | None = None
    ) -> list[list[Continuation]]:
        """Each plain text continued in ``k`` ways: its likeliest first tokens, each followed greedily."""
        ...


def problem_of(scores: Iterable[TextScore | OptionScore | Answer]) -> str:
    """The word for what kept one item's ``scores`` from being numbers ("" if nothing did): a record's ``problem``.

    An item without any score is one without options.
    """
    found = [score.problem for score in scores]
    return next((problem for problem in found if problem), "") if found else "no options"


@dataclass
class PolicyScorer:
    """A causal language model and its tokenizer as a :class:`Scorer`.

    Args: cache: what has been scored before is read from it, what is scored now is kept in it; strict: an item that cannot
        be scored raises. Without ``strict`` its scores are NaN and name the ``problem``.
    ``template_added``: the chat template is the plain one, the tokenizer has none of its own.
    ``problems`` counts the items handed out with one, ``tokens`` the tokens whose log-probabilities (or which, in answers)
    were handed out.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    cache: ScoreCache | None = None
    strict: bool = True
    template_added: bool = False
    problems: Counter[str] = field(default_factory=Counter)
    tokens: int = 0

    def texts(self, texts: Sequence[str], *, bos: bool = True, progress: Progress | None = None) -> list[TextScore]:
        found = text_scores(
            self.model, self.tokenizer, texts, progress=progress, cache=self._kept("texts", texts, bos), strict=self.strict,
            bos=bos,
        )  # fmt: skip
        return self._read(found)

    def rolling(self, texts: Sequence[str], *, progress: Progress | None = None) -> list[TextScore]:
        found = rolling_scores(
            self.model, self.tokenizer, texts, progress=progress, cache=self._kept("rolling", texts), strict=self.strict
        )
        return self._read(found)

    def options(
        self, prompts: Sequence[Sequence[Message]], options: Sequence[Sequence[str]], *, progress: Progress | None = None
    ) -> list[list[OptionScore]]:
        found = option_logprobs(
            self.model, self.tokenizer, prompts, options, progress=progress,
            cache=self._kept("options", prompts, options), strict=self.strict,
        )  # fmt: skip
        return self._counted(found)

    def continuations(
        self, contexts: Sequence[str], continuations: Sequence[Sequence[str]], *, progress: Progress | None = None
    ) -> list[list[OptionScore]]:
        found = continuation_logprobs(
            self.model, self.tokenizer, contexts, continuations, progress=progress,
            cache=self._kept("continuations", contexts, continuations), strict=self.strict,
        )  # fmt: skip
        return self._counted(found)

    def answers(
        self, prompts: Sequence[Sequence[Message]], *, max_new_tokens: int = 64, progress: Progress | None = None
    ) -> list[Answer]:
        found = greedy_answers(
            self.model, self.tokenizer, prompts, max_new_tokens=max_new_tokens, progress=progress,
            cache=self._kept("answers", prompts, max_new_tokens), strict=self.strict,
        )  # fmt: skip
        return self._said(found)

    def completions(
        self, texts: Sequence[str], *, max_new_tokens: int = 64, progress: Progress | None = None
    ) -> list[Answer]:
        found = greedy_completions(
            self.model, self.tokenizer, texts, max_new_tokens=max_new_tokens, progress=progress,
            cache=self._kept("completions", texts, max_new_tokens), strict=self.strict,
        )  # fmt: skip
        return self._said(found)

    def next_words(self, texts: Sequence[str], k: int, *, progress: Progress | None = None) -> list[list[str]]:
        kept = self._kept("next_words", texts, k)
        return next_words(self.model, self.tokenizer, texts, k, progress=progress, cache=kept, strict=self.strict)

    def branches(
        self, texts: Sequence[str], k: int, *, max_new_tokens: int = 20, progress: Progress | None = None
    ) -> list[list[Continuation]]:
        return branching_continuations(
            self.model, self.tokenizer, texts, k, max_new_tokens=max_new_tokens, progress=progress,
            cache=self._kept("branches", texts, k, max_new_tokens), strict=self.strict,
        )  # fmt: skip

    def _read(self, found: list[TextScore]) -> list[TextScore]:
        self._count(problem_of([score]) for score in found)
        self.tokens += sum(len(score.token_ids) for score in found if not score.problem)
        return found

    def _kept(self, *requests: Any) -> RequestCache | None:
        return None if self.cache is None else self.cache.within(*requests)

    def _count(self, problems: Iterable[str]) -> None:
        self.problems.update(problem for problem in problems if problem)

    def _counted(self, found: list[list[OptionScore]]) -> list[list[OptionScore]]:
        self._count(problem_of(scores) for scores in found)
        self.tokens += sum(score.n_tokens for scores in found for score in scores if not score.problem)
        return found

    def _said(self, found: list[Answer]) -> list[Answer]:
        self._count(answer.problem for answer in found)
        self.tokens += sum(answer.n_tokens for answer in found)
        return found


def is_masked_lm(policy: str | os.PathLike[str]) -> bool:
    """Whether a checkpoint's config names a masked language model (BERT …), which predicts tokens from both sides."""
    try:
        config = json.loads((local_folder(policy) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False  # an adapter, or a folder that load_policy refuses with the reason
    return any(str(name).endswith("ForMaskedLM") for name in config.get("architectures") or [])


def load_scorer(
    policy: str | os.PathLike[str],
    *,
    dtype: str = "float32",
    device: str | None = None,
    cache: str | os.PathLike[str] | None = None,
    strict: bool = True,
) -> PolicyScorer | MaskedScorer:
    """A checkpoint as the :class:`Scorer` that fits it. A tokenizer without a chat template gets the plain one.

    A masked language model is scored by pseudo-log-likelihood, without a cache.

    Args: policy, dtype, device: as in ``load_policy``; cache: the file of a :class:`ScoreCache` to read and fill.
    Raises: CheckpointError.
    """
    if is_masked_lm(policy):
        return load_masked(policy, dtype=dtype, device=device, strict=strict)
    model, tokenizer = load_policy(policy, dtype=dtype, device=device)
    template_added = ensure_chat_template(tokenizer)
    kept = None if cache is None else ScoreCache(cache, model_identity(policy, model, tokenizer, dtype=dtype))
    return PolicyScorer(model, tokenizer, kept, strict, template_added)
