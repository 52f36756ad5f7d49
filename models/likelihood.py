"""Log-likelihoods out of a causal language model: exact, batched, each distinct sequence computed once.

Sequences are sorted by length and padded on the right, so that under causal attention no real token sees a
pad. A sequence that is a prefix of another is read off the longer one, and the last token, whose successor
nobody asks for, is not fed at all: answers of one token share one pass over their prompt.

One layer does not batch exactly by itself, LLM.int8(): see ``teachfair.models.int8``, which makes it do so.
"""

from __future__ import annotations

import hashlib
import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from teachfair.errors import CheckpointError, InputError, NonFiniteError
from teachfair.models.chat import Message, render, tokenize
from teachfair.models.checkpoint import inside_adapter
from teachfair.models.int8 import Batch, outliers_by_sequence

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Progress = Callable[[int, int], None]


class Cache(Protocol):
    """Log-probabilities kept by sha256 of (token ids, start, whole); one ``put_many`` for each batch."""

    def get_many(self, keys: Sequence[bytes]) -> dict[bytes, np.ndarray]: ...

    def put_many(self, found: dict[bytes, np.ndarray]) -> None: ...


class _Unscorable(InputError):
    """One item cannot be scored; ``problem`` is the short word for it."""

    def __init__(self, problem: str, what: str, *, where: str, fix: str) -> None:
        super().__init__(what, where=where, fix=fix)
        self.problem = problem


# Logits of one batch: 2**26 floats are 256 MiB. On top of it stand logsumexp's temporaries, about as much
# again.
_LOGITS_PER_BATCH = 2**26
# On a CPU larger batches fall out of the cache: with 8192 tokens models under 1 M parameters were half as
# fast.
_MAX_BATCH_TOKENS = {"cpu": 1024, "other": 8192}
_SENTINEL = "teachfairanswergoeshere"


@dataclass(frozen=True)
class TextScore:
    """Tokens of a text (without BOS) and their log-probabilities, nats; without a BOS the first is NaN.

    ``dropped``: how many characters (white space apart) of the text its tokens cannot give back.
    ``problem``: why the text could not be scored (``too long``, ``no tokens``, ``not finite``), or "".
    """

    token_ids: tuple[int, ...]
    logps: np.ndarray
    dropped: int = 0
    problem: str = ""

    @property
    def logp(self) -> float:
        """Sum over the scored tokens, nats."""
        return math.nan if self.problem else float(np.nansum(self.logps))


@dataclass(frozen=True)
class OptionScore:
    """Log-probabilities of one answer option after its prompt, nats.

    ``logp_first``: at the tokens where the options part. With one token that tells all options apart it is
        that token's log-probability; if some options share their first tokens and others do not, it is the
        sum from the first token where any part up to the one that singles this option out.
    ``logp_whole``: summed over the option's ``n_tokens`` tokens; the end of the turn is not scored.
        It is NaN where an option begins another one and nothing is written after an answer (plain text).
    ``prefix_mismatch``: the prompt's own tokens do not start the tokens of prompt and option together (a
        merge crosses the border); the option is then scored from the first token that differs.
    """

    logp_first: float
    logp_whole: float
    n_tokens: int
    prefix_mismatch: bool = False
    problem: str = ""


def text_logprobs(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    *,
    batch_tokens: int | None = None,
    progress: Progress | None = None,
) -> np.ndarray:
    """Sum log-likelihood of each text.

    The tokenizer's BOS is prepended if it has one; else the first token is not scored. Equals the score of
    one text at a time to fp32 rounding.

    Args: batch_tokens bounds the padded tokens of a batch (default: by vocabulary size); progress(done,
        total).
    Returns: (n,) float64, nats.
    Raises: InputError if a text has no token or is longer than the model's context; NonFiniteError on NaN
        logits.
    """
    scores = text_scores(model, tokenizer, texts, batch_tokens=batch_tokens, progress=progress)
    return np.array([score.logp for score in scores], dtype=np.float64)


def text_scores(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    *,
    batch_tokens: int | None = None,
    progress: Progress | None = None,
    cache: Cache | None = None,
    strict: bool = True,
) -> list[TextScore]:
    """As :func:`text_logprobs`, token by token. ``cache``, ``strict``: as in :func:`token_logprobs`."""
    bos = [] if tokenizer.bos_token_id is None else [int(tokenizer.bos_token_id)]
    sequences, names, problems = [], [], []
    for index, text in enumerate(texts):
        ids = bos + tokenize(tokenizer, text)
        names.append(f"text {index}: {text[:80]!r}")
        sequences.append(ids)
        problems.append("no tokens" if len(ids) < 2 else _too_long(model, ids))
        if strict and problems[-1] == "no tokens":
            raise InputError(
                "a text has no token that can be scored",
                where=names[-1],
                fix="drop empty texts; a tokenizer without BOS needs two tokens",
            )
    fit = [index for index, problem in enumerate(problems) if strict or not problem]
    logps = token_logprobs(
        model,
        [sequences[index] for index in fit],
        [1] * len(fit),
        names=[names[index] for index in fit],
        whole=True,
        batch_tokens=batch_tokens,
        progress=progress,
        cache=cache,
        strict=strict,
    )
    found = dict(zip(fit, logps, strict=True))
    unscored = [] if bos else [np.nan]
    scores = []
    for index, (text, ids, problem) in enumerate(zip(texts, sequences, problems, strict=True)):
        own, values = ids[len(bos) :], found.get(index)
        if values is not None and not np.isfinite(values).all():
            problem = "not finite"
        filled = np.full(len(own), np.nan) if problem or values is None else np.concatenate([unscored, values])
        scores.append(TextScore(tuple(own), filled, _dropped(tokenizer, text, own), problem))
    return scores


def option_logprobs(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[Message]],
    options: Sequence[Sequence[str]],
    *,
    batch_tokens: int | None = None,
    progress: Progress | None = None,
    cache: Cache | None = None,
    strict: bool = True,
) -> list[list[OptionScore]]:
    """Score the answer options of conversations, each tokenised jointly with its prompt.

    Args:
        prompts: n conversations (lists of messages that end with the user's turn), rendered by the chat
        template. options: n lists of ≥ 1 answer texts, put in the assistant's turn.
        batch_tokens, progress: as in :func:`text_logprobs`.

    Returns: n lists, parallel to ``options``. Options whose tokens are all the same get the same score.
    Raises: InputError naming the item: two equal options, an option without tokens, a sequence longer than
        the model's context; NonFiniteError on NaN logits.
    """
    if len(prompts) != len(options):
        raise InputError(
            f"{len(prompts)} prompts and {len(options)} lists of options",
            where="option_logprobs",
            fix="pass one list of options for each prompt",
        )
    items = [
        _or_problem(strict, _conversation_item, tokenizer, index, prompt, list(texts))
        for index, (prompt, texts) in enumerate(zip(prompts, options, strict=True))
    ]
    return _scored(model, items, options, batch_tokens, progress, cache, strict)


def continuation_logprobs(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    contexts: Sequence[str],
    continuations: Sequence[Sequence[str]],
    *,
    batch_tokens: int | None = None,
    progress: Progress | None = None,
    cache: Cache | None = None,
    strict: bool = True,
) -> list[list[OptionScore]]:
    """As :func:`option_logprobs` for plain text: no chat template, the tokenizer's BOS first if it has one.

    Args: contexts: n texts (may be empty); continuations: n lists of ≥ 1 texts, joined to their context as they are, so
        a space between the two stands in one of them.
    """
    if len(contexts) != len(continuations):
        raise InputError(
            f"{len(contexts)} contexts and {len(continuations)} lists of continuations",
            where="continuation_logprobs",
            fix="pass one list of continuations for each context",
        )
    items = [
        _or_problem(strict, _plain_item, tokenizer, index, context, list(texts))
        for index, (context, texts) in enumerate(zip(contexts, continuations, strict=True))
    ]
    return _scored(model, items, continuations, batch_tokens, progress, cache, strict)


def _or_problem(strict: bool, make: Callable[..., _Item], *arguments: object) -> _Item | str:
    """The item; without ``strict`` the word for what is wrong with it."""
    try:
        return make(*arguments)
    except _Unscorable as error:
        if strict:
            raise
        return error.problem


def _scored(
    model: PreTrainedModel,
    items: Sequence[_Item | str],
    options: Sequence[Sequence[str]],
    batch_tokens: int | None,
    progress: Progress | None,
    cache: Cache | None,
    strict: bool,
) -> list[list[OptionScore]]:
    if not strict:  # all options of an item or none: they are compared with one another
        items = [
            "too long" if isinstance(item, _Item) and any(_too_long(model, ids) for ids in item.sequences) else item
            for item in items
        ]
    sequences, starts, names = [], [], []
    for index, (item, texts) in enumerate(zip(items, options, strict=True)):
        if isinstance(item, _Item):
            sequences += item.sequences
            starts += [item.start] * len(texts)
            names += [f"item {index}, option {text!r}" for text in texts]
    logps = iter(
        token_logprobs(
            model, sequences, starts, names=names, batch_tokens=batch_tokens, progress=progress, cache=cache, strict=strict
        )
    )
    scores = []
    for item, texts in zip(items, options, strict=True):
        values = [next(logps) for _ in texts] if isinstance(item, _Item) else []
        if isinstance(item, _Item) and all(np.isfinite(one).all() for one in values):
            scores.append([item.score(k, one) for k, one in enumerate(values)])
        else:
            problem = item if isinstance(item, str) else "not finite"
            scores.append([OptionScore(math.nan, math.nan, 0, problem=problem) for _ in texts])
    return scores


@dataclass(frozen=True)
class _Item:
    """Token ids of prompt + option for each option of one item; scores run from ``start``.

    ``sequences[k]`` may hold one token of the turn's end after ``ends[k]``: it is what tells "yes" from "yes
    indeed".
    """

    sequences: list[list[int]]
    ends: list[int]
    start: int
    part_from: int
    part_to: list[int]
    mismatches: list[bool]
    parts: bool = True

    def score(self, k: int, logps: np.ndarray) -> OptionScore:
        return OptionScore(
            logp_first=float(logps[self.part_from - self.start : self.part_to[k] - self.start].sum())
            if self.parts
            else math.nan,
            logp_whole=float(logps[: self.ends[k] - self.start].sum()),
            n_tokens=self.ends[k] - self.start,
            prefix_mismatch=self.mismatches[k],
        )


def _conversation_item(
    tokenizer: PreTrainedTokenizerBase, index: int, prompt: Sequence[Message], texts: list[str]
) -> _Item:
    where = f"item {index}: {str(prompt[-1]['content'])[:80]!r}" if prompt else f"item {index}"
    _check_options(texts, where)
    prompt_ids = tokenize(tokenizer, render(tokenizer, prompt, generation_prompt=True))
    turn_end = _turn_end(tokenizer, prompt)
    sequences, tails = [], []
    for text in texts:
        full = render(tokenizer, [*prompt, {"role": "assistant", "content": text}])
        if not full.endswith(turn_end):
            raise InputError(
                "the chat template rewrites the end of an answer, which hides the answer's tokens",
                where=f"{where}, option {text!r}",
                fix="use a template that writes the content as it is",
            )
        ids = tokenize(tokenizer, full[: len(full) - len(turn_end)])
        full_ids = tokenize(tokenizer, full)
        tails.append(full_ids[len(ids) : len(ids) + 1] if full_ids[: len(ids)] == ids else [])
        sequences.append(ids)
    item = _item(prompt_ids, sequences, tails, texts, where)
    if not item.parts:
        raise _Unscorable(
            "options do not part",
            "an option begins another one, and the template writes nothing at the end of a turn",
            where=f"{where}, options {texts}",
            fix="reword the options so that their tokens part",
        )
    return item


def _plain_item(tokenizer: PreTrainedTokenizerBase, index: int, context: str, texts: list[str]) -> _Item:
    where = f"item {index}: {context[-80:]!r}"
    _check_options(texts, where)
    bos = [] if tokenizer.bos_token_id is None else [int(tokenizer.bos_token_id)]
    sequences = [bos + tokenize(tokenizer, context + text) for text in texts]
    prompt_ids = bos + (tokenize(tokenizer, context) if context else [])
    return _item(prompt_ids, sequences, [[] for _ in texts], texts, where)


def _check_options(texts: list[str], where: str) -> None:
    if not texts or len(set(texts)) < len(texts):
        raise _Unscorable(
            "equal options" if texts else "no options",
            "two options of an item are equal" if texts else "an item has no options",
            where=f"{where}, {texts}",
            fix="give each item one or more different options",
        )


def _item(
    prompt_ids: list[int], sequences: list[list[int]], tails: list[list[int]], texts: list[str], where: str
) -> _Item:
    """``tails[k]``: the token after option k, if something is written there."""
    shared = [_common_prefix(prompt_ids, ids) for ids in sequences]
    # One start for all options of an item, else their sums would be over different spans of text.
    start = max(min(shared), 1)
    for text, ids in zip(texts, sequences, strict=True):
        if len(ids) <= start:
            raise _Unscorable(
                "no tokens",
                "an option has no tokens of its own",
                where=f"{where}, option {text!r}",
                fix="the tokenizer drops its characters, or the template trims them; reword it",
            )
    ends = [len(ids) for ids in sequences]
    distinct = sorted({tuple(ids) for ids in sequences})
    parts = True
    for k, ids in enumerate(sequences):
        if any(len(other) > len(ids) and list(other[: len(ids)]) == ids for other in distinct):
            parts = parts and bool(tails[k])
            sequences[k] = ids + tails[k]
    distinct = sorted({tuple(ids) for ids in sequences})
    part_from = min(
        (_common_prefix(a, b) for i, a in enumerate(distinct) for b in distinct[i + 1 :]), default=start
    )
    part_from = max(part_from, start)
    part_to = []
    for k, ids in enumerate(sequences):
        rivals = [_common_prefix(ids, other) for other in distinct if list(other) != ids]
        part_to.append(max(rivals) + 1 if rivals else ends[k])
    return _Item(sequences, ends, start, part_from, part_to, [n < len(prompt_ids) for n in shared], parts)


def _dropped(tokenizer: PreTrainedTokenizerBase, text: str, ids: Sequence[int]) -> int:
    kept = tokenizer.decode(list(ids), skip_special_tokens=True)
    return max(0, len("".join(text.split())) - len("".join(kept.split())))


def _turn_end(tokenizer: PreTrainedTokenizerBase, prompt: Sequence[Message]) -> str:
    """What the template writes after an answer's content."""
    full = render(tokenizer, [*prompt, {"role": "assistant", "content": _SENTINEL}])
    _, found, tail = full.rpartition(_SENTINEL)
    if not found:
        raise InputError(
            "the chat template drops the assistant's turn",
            where=full[:200],
            fix="use a template that renders an assistant message at the end of a conversation",
        )
    return tail


def _common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    for position, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return position
    return min(len(a), len(b))


def token_logprobs(
    model: PreTrainedModel,
    sequences: Sequence[Sequence[int]],
    starts: Sequence[int],
    *,
    names: Sequence[str] | None = None,
    whole: bool = False,
    batch_tokens: int | None = None,
    progress: Progress | None = None,
    cache: Cache | None = None,
    strict: bool = True,
) -> list[np.ndarray]:
    """Log-probability of every token of ``sequences[i]`` from position ``starts[i]`` ≥ 1 on.

    ``whole`` feeds the last token as well, as scoring code commonly does: nothing but LLM.int8() can tell,
    where an outlier in a later token changes the arithmetic of earlier ones. Without it, a one-token answer
    is scored off the prompt alone, as in generation.

    ``cache`` is asked for each batch, which is computed whole if any of it is missing: what is planned depends on the
    requests alone, so that a resumed run has the bits of an unbroken one. Without ``strict`` what is not finite is NaN.

    Returns: one float64 array of ``len(sequences[i]) - starts[i]`` nats each; logits are normalised in fp32.
    Raises: InputError if a sequence is longer than the model's context; CheckpointError if the tokenizer
        knows tokens that the model has no embedding for; NonFiniteError on logits that are NaN or infinite.
    """
    import torch

    names = names if names is not None else [f"sequence {index}" for index in range(len(sequences))]
    keys = [tuple(ids) for ids in sequences]
    _check_fit(model, keys, names)
    results: dict[tuple[tuple[int, ...], int], np.ndarray] = {}
    wanted = sorted({(ids, start) for ids, start in zip(keys, starts, strict=True)})
    first_name = dict(zip(reversed(keys), reversed(names), strict=True))
    vocabulary = model.get_output_embeddings().weight.shape[0]
    limit = _MAX_BATCH_TOKENS.get(model.device.type, _MAX_BATCH_TOKENS["other"])
    budget = batch_tokens or max(64, min(limit, _LOGITS_PER_BATCH // vocabulary))
    done = 0

    with torch.inference_mode(), outliers_by_sequence(model) as int8:
        for batch in _batches(_passes(wanted, fold=int8 is None, whole=whole), budget):
            requests = [request for one in batch for request in one.requests]
            digests = {request: _digest(*request, whole) for request in requests}
            known = {} if cache is None else cache.get_many(list(digests.values()))
            if len(known) < len(set(digests.values())):
                scored = _run_batch(model, batch, int8)
                if int8 is not None and int8.alone and len(batch) > 1:
                    scored = {}
                    for one in batch:
                        scored.update(_run_batch(model, [one], int8))
                if cache is not None:
                    cache.put_many({digests[request]: values for request, values in scored.items()})
            else:
                scored = {request: known[digest] for request, digest in digests.items()}
            for request, values in scored.items():
                if strict and not np.isfinite(values).all():
                    raise NonFiniteError(
                        "the model's logits are NaN or infinite",
                        where=first_name[request[0]],
                        fix="the weights are damaged or training diverged; check the checkpoint first",
                    )
            results.update(scored)
            done += len(scored)
            if progress:
                progress(done, len(wanted))
    return [results[ids, start] for ids, start in zip(keys, starts, strict=True)]


def _digest(ids: tuple[int, ...], start: int, whole: bool) -> bytes:
    return hashlib.sha256(np.array([int(whole), start, *ids], dtype="<i8").tobytes()).digest()


@dataclass
class _Pass:
    """One row of a batch: what is fed, and the requests (ids, start) that are read off it."""

    fed: tuple[int, ...]
    requests: list[tuple[tuple[int, ...], int]]


def _passes(wanted: list[tuple[tuple[int, ...], int]], fold: bool, whole: bool) -> list[_Pass]:
    """Requests by what must be fed: all but the last token, or, without ``fold`` and if ``whole``, all.

    ``fold`` reads a sequence that begins another off that other one.
    """
    by_input: dict[tuple[int, ...], list[tuple[tuple[int, ...], int]]] = {}
    for request in wanted:
        by_input.setdefault(request[0] if whole and not fold else request[0][:-1], []).append(request)
    passes: list[_Pass] = []
    for fed in sorted(by_input, reverse=True):  # in this order a prefix follows right after what it begins
        if fold and passes and passes[-1].fed[: len(fed)] == fed:
            passes[-1].requests.extend(by_input[fed])
        else:
            passes.append(_Pass(fed, by_input[fed]))
    return passes


def _batches(passes: list[_Pass], budget: int) -> Iterator[list[_Pass]]:
    """Longest first (memory trouble shows at once), at most ``budget`` padded tokens each."""
    batch: list[_Pass] = []
    for one in sorted(passes, key=lambda one: (-len(one.fed), one.fed)):
        if batch and len(batch[0].fed) * (len(batch) + 1) > budget:
            yield batch
            batch = []
        batch.append(one)
    if batch:
        yield batch


def _run_batch(
    model: PreTrainedModel,
    batch: list[_Pass],
    int8: Batch | None = None,
) -> dict[tuple[tuple[int, ...], int], np.ndarray]:
    import torch

    width = max(len(one.fed) for one in batch)
    input_ids = torch.zeros(len(batch), width, dtype=torch.long)  # any valid id pads: the mask hides it
    mask = torch.zeros_like(input_ids)
    for row, one in enumerate(batch):
        input_ids[row, : len(one.fed)] = torch.tensor(one.fed)
        mask[row, : len(one.fed)] = 1
    if int8 is not None:
        int8.mask = mask.bool().to(model.device)
    # The head runs on the columns that some row needs. `logits_to_keep` is the model's own hook: it keeps
    # scaling and soft-capping of logits right, which gathering hidden states by hand would not.
    first = min(start for one in batch for _, start in one.requests) - 1
    keep = {"logits_to_keep": torch.arange(first, width, device=model.device)} if _keeps_logits(model) else {}
    logits = model(
        input_ids=input_ids.to(model.device), attention_mask=mask.to(model.device), use_cache=False, **keep
    ).logits
    offset = first if keep else 0
    rows: list[int] = []
    columns: list[int] = []
    targets: list[int] = []
    for row, one in enumerate(batch):
        for ids, start in one.requests:
            rows += [row] * (len(ids) - start)
            columns += range(start - 1 - offset, len(ids) - 1 - offset)
            targets += ids[start:]
    at = (torch.tensor(rows, device=logits.device), torch.tensor(columns, device=logits.device))
    goal = torch.tensor(targets, device=logits.device)
    picked = logits[at]
    if picked.dtype in (torch.float16, torch.bfloat16):
        picked = picked.float()
    logps = picked.gather(1, goal[:, None])[:, 0] - picked.logsumexp(-1)
    values = logps.double().cpu().numpy()
    results, cursor = {}, 0
    for one in batch:
        for ids, start in one.requests:
            found = values[cursor : cursor + len(ids) - start]
            cursor += len(ids) - start
            results[ids, start] = found
    return results


def _keeps_logits(model: PreTrainedModel) -> bool:
    return "logits_to_keep" in inspect.signature(inside_adapter(model).forward).parameters


def _too_long(model: PreTrainedModel, ids: Sequence[int]) -> str:
    context = getattr(model.config, "max_position_embeddings", None)
    return "too long" if context and len(ids) > context else ""


def _check_fit(model: PreTrainedModel, keys: list[tuple[int, ...]], names: Sequence[str]) -> None:
    context = getattr(model.config, "max_position_embeddings", None)
    embeddings = model.get_input_embeddings().weight.shape[0]
    for ids, name in zip(keys, names, strict=True):
        if context and len(ids) > context:
            raise InputError(
                f"a sequence of {len(ids)} tokens is longer than the model's context of {context}",
                where=name,
                fix="drop or shorten the item; it is not truncated, because a cut text is another text",
            )
        if max(ids) >= embeddings:
            raise CheckpointError(
                f"the tokenizer makes token {max(ids)}, the model has embeddings for {embeddings}",
                where=name,
                fix="use the tokenizer that was saved with the model, or resize the model's embeddings",
            )
