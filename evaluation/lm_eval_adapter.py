"""A model behind lm-evaluation-harness's ``LM`` interface as a :class:`~teachfair.models.scorer.Scorer`.

So every backend of theirs (vLLM, GGUF, APIs, …) can be measured by this project's benchmarks. Their interface gives the sum
of log-probabilities of a continuation, never token by token. What cannot be had is NaN, and said in ``notes``; it is never
guessed. lm-eval itself is needed by :func:`load_lm_eval` only.

How their ``TemplateLM`` reads a request (lm_eval/api/model.py, 0.4.13): context and continuation are tokenised together, and
what is fed are the context's own tokens (white space at its end left out) and then all tokens of the whole beyond their
number. Where a merge crosses the border that is another sequence than the text's. With the backend's tokenizer at hand the
cut is therefore placed where the tokens of the context begin those of the whole, so that just the wanted ones are scored.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from teachfair.errors import ConfigError, InputError
from teachfair.models.chat import Message, ensure_chat_template, render
from teachfair.models.greedy import Answer
from teachfair.models.likelihood import OptionScore, Progress, TextScore

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from teachfair.models.next_words import Continuation

_SENTINEL = "teachfairanswergoeshere"


@dataclass(frozen=True)
class WholeTextScore(TextScore):
    """A text's log-probability where only the sum is known: ``logps`` are NaN, one for each known token."""

    total: float = math.nan

    @property
    def logp(self) -> float:
        return self.total


@dataclass
class Request:
    """What a backend reads of lm-eval's ``Instance``: ``args`` and the fields around it."""

    request_type: str
    arguments: tuple[Any, ...]
    idx: int
    doc: dict[str, Any] = field(default_factory=dict)
    metadata: tuple[Any, Any, Any] = (None, None, None)
    resps: list[Any] = field(default_factory=list)
    filtered_resps: dict[str, Any] = field(default_factory=dict)
    task_name: str | None = None
    doc_id: int | None = None
    repeats: int | None = None

    @property
    def args(self) -> tuple[Any, ...]:
        return self.arguments


@dataclass
class LMEvalScorer:
    """An object with lm-eval's ``LM`` interface as a scorer.

    Args:
        lm: ``loglikelihood``, ``loglikelihood_rolling`` and ``generate_until``. With ``tok_encode`` (every ``TemplateLM``)
            and, for chat templates, ``tokenizer``, the numbers are this project's; without, see ``notes``.
        whole_as_first: where the tokens at which options part cannot be told, ``logp_first`` is ``logp_whole`` instead of
            NaN, and ``notes`` counts it. Off by default: margins are then NaN, which nobody mistakes for a result.
    ``notes``: what could not be had as a :class:`~teachfair.models.scorer.PolicyScorer` has it → how often.
    """

    lm: Any
    whole_as_first: bool = False
    notes: Counter[str] = field(default_factory=Counter)

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase | None:
        """The backend's tokenizer, if it is one of transformers'."""
        found = getattr(self.lm, "tokenizer", None)
        return found if hasattr(found, "apply_chat_template") and hasattr(found, "convert_ids_to_tokens") else None

    def texts(self, texts: Sequence[str], *, bos: bool = True, progress: Progress | None = None) -> list[TextScore]:
        """The sum for each text, after the backend's prefix token (BOS, or the end of text where there is none).

        Without ``bos`` nothing can be had: NaN, since a backend always writes its prefix token.
        Raises: InputError for a text that the backend would cut off.
        """
        found: list[TextScore] = []
        if not bos:
            self.notes["texts without the prefix token: not to be had"] += len(texts)
            nothing = np.array([math.nan])
            return [WholeTextScore((), nothing, total=math.nan, n_bytes=_size(text)) for text in texts]
        if not self._encodes:
            self.notes["texts by loglikelihood_rolling, tokens unknown"] += len(texts)
            found = self.rolling(texts)
        else:
            ids = [self._tokens(text, special=False) for text in texts]
            for text, one in zip(texts, ids, strict=True):
                self._require_room(len(one) + 1, text)
            values = self._loglikelihood([("", text) for text in texts])
            for text, one, value in zip(texts, ids, values, strict=True):
                unknown = np.full(len(one), np.nan)
                found.append(
                    WholeTextScore(tuple(one), unknown, self._dropped(text, one), total=value, n_bytes=_size(text))
                )
        if progress is not None:
            progress(len(texts), len(texts))
        return found

    def rolling(self, texts: Sequence[str], *, progress: Progress | None = None) -> list[TextScore]:
        """The sum for each text of any length, in the backend's own windows. ``n_bytes`` counts dropped characters too."""
        sums = self.lm.loglikelihood_rolling([Request("loglikelihood_rolling", (t,), k) for k, t in enumerate(texts)])
        values = [float(total[0] if isinstance(total, tuple | list) else total) for total in sums]
        if progress is not None:
            progress(len(texts), len(texts))
        return [
            WholeTextScore((), np.array([]), total=value, n_bytes=_size(text))
            for text, value in zip(texts, values, strict=True)
        ]

    def options(
        self, prompts: Sequence[Sequence[Message]], options: Sequence[Sequence[str]], *, progress: Progress | None = None
    ) -> list[list[OptionScore]]:
        """Answers in the assistant's turn: of the tokenizer's chat template, else of "User: …\\nAssistant:"."""
        contexts, continuations = [], []
        for prompt, texts in zip(prompts, options, strict=True):
            context, made = self._turn(prompt, texts)
            contexts.append(context)
            continuations.append(made)
        return self._scored(contexts, continuations, progress)

    def continuations(
        self, contexts: Sequence[str], continuations: Sequence[Sequence[str]], *, progress: Progress | None = None
    ) -> list[list[OptionScore]]:
        """Continuations of plain texts, BOS first where the backend's tokenizer has one."""
        begin = self._bos_text()
        # anchored: after the backend's own prefix token, where a BOS written into the text changes the tokens after it
        anchored = [bool(begin) and self._bos_changes_tokens(begin, context) for context in contexts]
        if any(anchored) and getattr(self.lm, "prefix_token_id", None) != getattr(self.tokenizer, "bos_token_id", None):
            self.notes["a BOS stands before the text that changes its first token"] += sum(anchored)
            anchored = [False] * len(contexts)
        heads = [context if alone else begin + context for context, alone in zip(contexts, anchored, strict=True)]
        return self._scored(heads, [list(texts) for texts in continuations], progress, anchored)

    def answers(
        self, prompts: Sequence[Sequence[Message]], *, max_new_tokens: int = 64, progress: Progress | None = None
    ) -> list[Answer]:
        """Greedy answers by ``generate_until``. An answer counts as finished if it is shorter than ``max_new_tokens``."""
        return self._generated([self._turn(prompt, [])[0] for prompt in prompts], max_new_tokens, progress)

    def completions(
        self, texts: Sequence[str], *, max_new_tokens: int = 64, progress: Progress | None = None
    ) -> list[Answer]:
        """How plain texts go on, greedily; BOS first where the backend's tokenizer has one."""
        begin = self._bos_text()
        if begin and (changed := sum(self._bos_changes_tokens(begin, text) for text in texts)):
            self.notes["a BOS stands before the text that changes its first token"] += changed
        return self._generated([begin + text for text in texts], max_new_tokens, progress)

    def next_words(self, texts: Sequence[str], k: int, *, progress: Progress | None = None) -> list[list[str]]:
        """Not to be had. Raises: ConfigError."""
        _no_candidates()

    def branches(
        self, texts: Sequence[str], k: int, *, max_new_tokens: int = 20, progress: Progress | None = None
    ) -> list[list[Continuation]]:
        """Not to be had. Raises: ConfigError."""
        _no_candidates()

    # --- what is asked of the backend ---------------------------------------------------------------------------------

    @property
    def _encodes(self) -> bool:
        return callable(getattr(self.lm, "tok_encode", None))

    def _tokens(self, text: str, *, special: bool | None = None) -> list[int]:
        return list(self.lm.tok_encode(text) if special is None else self.lm.tok_encode(text, add_special_tokens=special))

    def _loglikelihood(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        distinct = list(dict.fromkeys(pairs))
        found = self.lm.loglikelihood([Request("loglikelihood", pair, k) for k, pair in enumerate(distinct)])
        if len(found) != len(distinct):
            raise InputError(
                f"{len(found)} answers to {len(distinct)} requests", where=type(self.lm).__name__, fix="update the backend"
            )
        values = {pair: float(value) for pair, (value, _) in zip(distinct, found, strict=True)}
        return [values[pair] for pair in pairs]

    def _bos_text(self) -> str:
        """The BOS as text, where the tokenizer has one and the backend does not write it by itself."""
        tokenizer = self.tokenizer
        if tokenizer is None or tokenizer.bos_token_id is None or not self._encodes:
            if tokenizer is None:
                self.notes["whether a BOS stands before a plain text is the backend's choice"] += 1
            return ""
        if self._tokens("a")[:1] == [tokenizer.bos_token_id]:
            return ""
        return str(tokenizer.bos_token) if self._tokens(f"{tokenizer.bos_token}a")[:1] == [tokenizer.bos_token_id] else ""

    def _bos_changes_tokens(self, begin: str, text: str) -> bool:
        return bool(text) and self._tokens(begin + text)[1:] != self._tokens(text, special=False)

    def _turn(self, prompt: Sequence[Message], texts: Sequence[str]) -> tuple[str, list[str]]:
        tokenizer = self.tokenizer
        if tokenizer is None:
            self.notes["conversations as “User: …, Assistant:”, the backend's tokenizer is not at hand"] += 1
            lines = [f"{message['role'].capitalize()}: {message['content'].strip()}" for message in prompt]
            return "\n".join([*lines, "Assistant:"]), [f" {text}" for text in texts]
        ensure_chat_template(tokenizer)
        context = render(tokenizer, prompt, generation_prompt=True)
        end = render(tokenizer, [*prompt, {"role": "assistant", "content": _SENTINEL}]).rpartition(_SENTINEL)[2]
        made = []
        for text in texts:
            full = render(tokenizer, [*prompt, {"role": "assistant", "content": text}])
            if not full.startswith(context) or not full.endswith(end):
                raise InputError(
                    "the chat template rewrites the prompt when an answer follows, or the end of the answer",
                    where=f"option {text!r}", fix="score this model as a checkpoint, or with another template",
                )  # fmt: skip
            made.append(full[len(context) : len(full) - len(end)])
        return context, made

    def _generated(self, contexts: Sequence[str], max_new_tokens: int, progress: Progress | None) -> list[Answer]:
        if not contexts:
            return []
        if not self._encodes:
            raise ConfigError(
                "the length of an answer cannot be told: the backend does not give its tokens (no tok_encode)",
                where=type(self.lm).__name__, fix="use a backend with a tokenizer, or benchmarks of likelihoods only",
            )  # fmt: skip
        for context in contexts:
            self._require_room(len(self._tokens(context)) + max_new_tokens, context)
        end = getattr(self.tokenizer, "eos_token", None)
        stop = [str(end)] if end else ["\nUser:"]
        how = {"until": stop, "max_gen_toks": max_new_tokens, "do_sample": False, "temperature": 0.0}
        distinct = list(dict.fromkeys(contexts))
        said = self.lm.generate_until([Request("generate_until", (text, dict(how)), k) for k, text in enumerate(distinct)])
        found = {}
        for context, text in zip(distinct, said, strict=True):
            n = len(self._tokens(text, special=False))
            found[context] = Answer(text.strip(), min(n, max_new_tokens), n < max_new_tokens)
        self.notes["answers: length counted on the text again, finished if shorter than the limit"] += len(contexts)
        if progress is not None:
            progress(len(contexts), len(contexts))
        return [found[context] for context in contexts]

    def _require_room(self, n_tokens: int, text: str) -> None:
        room = getattr(self.lm, "max_length", None)
        if isinstance(room, int) and n_tokens > room:
            raise InputError(
                f"{n_tokens} tokens in a context of {room}: the backend would cut off the beginning without a word",
                where=f"{text[:80]!r}", fix="leave it out, or give the backend a longer max_length",
            )  # fmt: skip

    def _dropped(self, text: str, ids: Sequence[int]) -> int:
        if self.tokenizer is None:
            return 0
        kept = str(self.tokenizer.decode(list(ids), skip_special_tokens=True))
        return max(0, len("".join(text.split())) - len("".join(kept.split())))

    # --- options: which tokens, and by which requests -----------------------------------------------------------------

    def _scored(
        self,
        contexts: Sequence[str],
        continuations: Sequence[Sequence[str]],
        progress: Progress | None,
        anchored: Sequence[bool] | None = None,
    ) -> list[list[OptionScore]]:
        alone = anchored or [False] * len(contexts)
        plans = [self._plan(*asked) for asked in zip(contexts, map(list, continuations), alone, strict=True)]
        wanted = [pair for plan in plans for one in plan for pair in (*(one.whole or ()), *(one.first or ()))]
        values = dict(zip(wanted, self._loglikelihood(wanted), strict=True)) if wanted else {}

        def value(asked: _Span | None) -> float:
            return math.nan if asked is None else values[asked[0]] - (values[asked[1]] if len(asked) > 1 else 0.0)

        found = []
        for plan in plans:
            scores = []
            for one in plan:
                whole, first = value(one.whole), value(one.first)
                if one.whole is None:
                    self.notes["logp_whole is not known: no cut of the text is a cut of its tokens"] += 1
                if one.first is None:
                    self.notes["logp_first is logp_whole" if self.whole_as_first else "logp_first is not known"] += 1
                    first = whole if self.whole_as_first else math.nan
                scores.append(OptionScore(first, whole, one.n_tokens, one.mismatch))
            found.append(scores)
        if progress is not None:
            progress(len(plans), len(plans))
        return found

    def _plan(self, context: str, texts: list[str], anchored: bool) -> list[_Asked]:
        if not texts or len(set(texts)) < len(texts):
            raise InputError(
                "two options of an item are equal" if texts else "an item has no options",
                where=f"{context[-80:]!r}, {texts}", fix="give each item one or more different options",
            )  # fmt: skip
        if not self._encodes:
            return [_Asked(((context, text),), None, 0, False) for text in texts]
        if anchored or not context:  # theirs: the prefix token (0 stands for it), then the text, every token of it scored
            before = [0, *(self._tokens(context, special=False) if context else [])]
            sequences = [[0, *self._tokens(context + text, special=False)] for text in texts]
            context, texts = "", [context + text for text in texts]
        else:
            before, sequences = self._tokens(context), [self._tokens(context + text) for text in texts]
        for ids in sequences:
            self._require_room(len(ids), context + texts[0])
        shared = [_common(before, ids) for ids in sequences]
        start = max(min(shared), 1)
        part_from = min((_common(a, b) for k, a in enumerate(sequences) for b in sequences[k + 1 :]), default=start)
        part_from = max(part_from, start)
        asked = []
        for text, ids in zip(texts, sequences, strict=True):
            rivals = [_common(ids, other) for other in sequences if other is not ids]
            part_to = max(rivals) + 1 if rivals else len(ids)
            whole = self._span(context, text, ids, start, len(ids))
            # an option that begins another one has no token of its own to part at
            first = self._span(context, text, ids, part_from, part_to) if part_to <= len(ids) else None
            if any(len(other) < len(ids) and ids[: len(other)] == other for other in sequences):
                first = None
            asked.append(_Asked(whole, first, len(ids) - start, shared[sequences.index(ids)] < len(before)))
        if any(one.first is None for one in asked):  # sums over different spans are not compared
            asked = [_Asked(one.whole, None, one.n_tokens, one.mismatch) for one in asked]
        return asked

    def _span(self, context: str, text: str, ids: list[int], begin: int, end: int) -> _Span | None:
        """What to ask for the score of ``ids[begin:end]`` of context + text and nothing else; None if no cut gives that."""
        whole = context + text
        if context and (stop := self._cut(whole, ids, end)) is not None:
            if self._before(context) == ids[:begin] and stop > len(context):
                return ((context, whole[len(context) : stop]),)
            places = _near(self._place(whole, ids, begin), stop - 1)
            at = next((at for at in places if self._before(whole[:at]) == ids[:begin]), None)
            if at is not None:
                return ((whole[:at], whole[at:stop]),)
        # No context has just these tokens: after the backend's prefix token, the text up to ``end`` less that to ``begin``.
        if context and ids[0] != getattr(self.lm, "prefix_token_id", None):
            return None
        bare = whole.removeprefix(str(getattr(self.tokenizer, "bos_token", None) or "")) if context else whole
        longer, shorter = self._cut(bare, ids, end, after_prefix=True), self._cut(bare, ids, begin, after_prefix=True)
        if longer is None or shorter is None:
            return None
        return (("", bare[:longer]), *([("", bare[:shorter])] if begin > 1 else []))

    def _cut(self, text: str, ids: list[int], n: int, *, after_prefix: bool = False) -> int | None:
        """How many characters of ``text`` have exactly the tokens ``ids[:n]``; ``after_prefix``: ``ids[1:n]``."""
        if after_prefix and n == 1:
            return 0
        for at in _near(self._place(text, ids, n), len(text)):
            if after_prefix and self._tokens(text[:at], special=False) == ids[1:n]:
                return at
            if not after_prefix and self._tokens(text[:at]) == ids[:n]:
                return at
        return None

    def _before(self, context: str) -> list[int]:
        """The tokens that a backend feeds for a context: without the white space at its end, which goes to what follows."""
        return self._tokens(context.rstrip()) if context.strip() else []

    def _place(self, text: str, ids: list[int], n: int) -> int:
        """About how many characters of ``text`` the first ``n`` tokens hold."""
        decode = getattr(self.tokenizer, "decode", None)
        if decode is None:
            return round(len(text) * n / max(1, len(ids)))
        rest = len(decode(ids)) - len(decode(ids[:n]))
        return max(0, len(text) - rest)


# One request (context, continuation), or two of which the second is subtracted from the first.
_Span = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class _Asked:
    whole: _Span | None
    first: _Span | None
    n_tokens: int
    mismatch: bool


def load_lm_eval(model: str, args: str = "", **how: Any) -> LMEvalScorer:
    """A scorer around an lm-eval backend, by its name there ("hf", "vllm", "gguf", …) and its arguments.

    Args: args: "pretrained=…,dtype=float32", as lm-eval's ``--model_args``. Their "hf" takes a checkpoint's own dtype, often
        float16, unless told otherwise. how: keyword arguments of :class:`LMEvalScorer`.
    Raises: ConfigError without lm-eval, or for a backend or arguments that it does not take.
    """
    try:
        from lm_eval.api.registry import get_model
    except ImportError as error:
        raise ConfigError(
            "lm-eval is not installed", where="--lm_eval_model", fix='pip install "lm-eval>=0.4.9"'
        ) from error
    try:
        lm = get_model(model).create_from_arg_string(args)
    except (ValueError, TypeError, KeyError, ImportError, OSError) as error:
        raise ConfigError(
            f"lm-eval cannot make the backend: {str(error)[:300]}", where=f"--lm_eval_model {model} --lm_eval_args {args}",
            fix="check the name and the arguments against lm-eval's own --model and --model_args",
        ) from error  # fmt: skip
    return LMEvalScorer(lm, **how)


def _size(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


def _no_candidates() -> NoReturn:
    raise ConfigError(
        "lm-eval's interface gives no candidates for the next token", where="benchmark honest",
        fix="score this model as a checkpoint for HONEST, or leave HONEST out",
    )  # fmt: skip


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    place = 0
    while place < min(len(one), len(other)) and one[place] == other[place]:
        place += 1
    return place


def _near(place: int, last: int) -> list[int]:
    """Character positions 1..last, the nearest to ``place`` first, up to 12 away."""
    return [at for step in range(13) for at in dict.fromkeys((place + step, place - step)) if 0 < at <= last]
