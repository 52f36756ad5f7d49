"""Log-likelihoods out of a causal language model: exact, each distinct token of a sequence computed once.

Sequences are laid in rows without padding, as a tree: what several begin with is computed once
(``teachfair.models.packing``), and the output layer runs on the tokens that are scored only. A model that cannot take such
rows (``teachfair.models.scoring_path`` says why) gets plain batches: sorted by length and padded on the right, so that
under causal attention no real token sees a pad; a sequence that is a prefix of another is read off the longer one. In both,
the last token, whose successor nobody asks for, is not fed: answers of one token share one pass over their prompt.

One layer does not batch exactly by itself, LLM.int8(): see ``teachfair.models.int8``, which makes it do so.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from teachfair.errors import CheckpointError, InputError, NonFiniteError
from teachfair.models import packing
from teachfair.models.chat import Message, render, tokenize
from teachfair.models.cpu_inference import fast_on_cpu
from teachfair.models.int8 import Batch, outliers_by_sequence
from teachfair.models.output_layer import fp32, plain_output_layer
from teachfair.models.packing import Pass, Request, Row
from teachfair.models.scoring_path import keeps_logits, packed_logprobs, scoring_path, tell_once

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Progress = Callable[[int, int], None]
_Batchable = Pass | Row

logger = logging.getLogger(__name__)

# Logits of one batch: 2**26 floats are 256 MiB, 2**28 are 1 GiB. On top of it stand logsumexp's temporaries, about as much
# again.
_LOGITS_PER_BATCH = {"cpu": 2**26, "other": 2**28}
# On a CPU larger batches fall out of the cache: with 8192 tokens models under 1 M parameters were half as
# fast.
_MAX_BATCH_TOKENS = {"cpu": 1024, "other": 16384}
_SENTINEL = "teachfairanswergoeshere"


class Cache(Protocol):
    """Where scores of one model are kept between runs; keys are SHA-256 digests of what was asked."""

    def get_many(self, keys: Sequence[bytes]) -> dict[bytes, np.ndarray]: ...

    def put_many(self, values: dict[bytes, np.ndarray]) -> None:
        """Called once for each batch."""
        ...


@dataclass(frozen=True)
class TextScore:
    """Tokens of a text (without BOS) and their log-probabilities, nats; without a BOS the first is NaN.

    ``dropped``: how many characters (white space apart) of the text its tokens cannot give back. ``n_bytes``: UTF-8 bytes
        of what they give back, white space and all; of the whole text where nothing is dropped.
    ``problem``: why there is no score ("" if there is one): ``no tokens``, ``too long``, ``not finite``; then all numbers
        are NaN.
    """

    token_ids: tuple[int, ...]
    logps: np.ndarray
    dropped: int = 0
    problem: str = ""
    n_bytes: int = 0

    @property
    def logp(self) -> float:
        """Sum over the scored tokens, nats; NaN if there is a problem."""
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
    ``problem``: why there is no score ("" if there is one): ``equal options``, ``no tokens``, ``options do not part`` stand
        at all options of an item, ``too long`` and ``not finite`` at the option concerned; then both numbers are NaN.
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
    cache: Cache | None = None,
    strict: bool = True,
) -> np.ndarray:
    """Sum log-likelihood of each text.

    The tokenizer's BOS is prepended if it has one; else the first token is not scored. Equals the score of
    one text at a time to fp32 rounding.

    Args: batch_tokens bounds the tokens of a batch, pads included (default: by vocabulary and device); progress(done,
        total); cache keeps scores between runs; with strict=False a text that cannot be scored raises nothing.
    Returns: (n,) float64, nats; NaN for a text with a problem.
    Raises: InputError if a text has no token or is longer than the model's context; NonFiniteError on NaN
        logits.
    """
    scores = text_scores(model, tokenizer, texts, batch_tokens=batch_tokens, progress=progress, cache=cache, strict=strict)
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
    bos: bool = True,
) -> list[TextScore]:
    """As :func:`text_logprobs`, token by token; without ``bos`` the text's first token is not scored."""
    start = [int(tokenizer.bos_token_id)] if bos and tokenizer.bos_token_id is not None else []
    sequences = [start + tokenize(tokenizer, text) for text in texts]
    names = [f"text {index}: {text[:80]!r}" for index, text in enumerate(texts)]
    for ids, name in zip(sequences, names, strict=True):
        if strict and len(ids) < 2:
            raise InputError(
                "a text has no token that can be scored",
                where=name,
                fix="drop empty texts; a tokenizer without BOS needs two tokens",
            )
    scored = [index for index, ids in enumerate(sequences) if len(ids) >= 2]
    found = _token_logprobs(
        model,
        [sequences[index] for index in scored],
        [1] * len(scored),
        names=[names[index] for index in scored],
        whole=True,
        batch_tokens=batch_tokens,
        progress=progress,
        cache=cache,
        strict=strict,
    )
    by_index = dict(zip(scored, found, strict=True))
    scores = []
    for index, (text, ids) in enumerate(zip(texts, sequences, strict=True)):
        tokens = ids[len(start) :]
        values, problem = by_index.get(index, (np.full(max(0, len(ids) - 1), np.nan), "no tokens"))
        unscored = [] if start or not ids else [np.nan]
        logps = np.concatenate([unscored, np.full_like(values, np.nan) if problem else values])
        dropped, n_bytes = kept(tokenizer, text, tokens)
        scores.append(TextScore(tuple(tokens), logps, dropped, problem, n_bytes))
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
        batch_tokens, progress, cache, strict: as in :func:`text_logprobs`.

    Returns: n lists, parallel to ``options``. Options whose tokens are all the same get the same score. With
        ``strict=False`` an item without options gets an empty list.
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
        _conversation_item(tokenizer, index, prompt, list(texts), strict)
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
        _plain_item(tokenizer, index, context, list(texts), strict)
        for index, (context, texts) in enumerate(zip(contexts, continuations, strict=True))
    ]
    return _scored(model, items, continuations, batch_tokens, progress, cache, strict)


def _scored(
    model: PreTrainedModel,
    items: list[_Item | str],
    options: Sequence[Sequence[str]],
    batch_tokens: int | None,
    progress: Progress | None,
    cache: Cache | None,
    strict: bool,
) -> list[list[OptionScore]]:
    """``items[i]``: the item, or the problem that keeps it from being one."""
    good = [(index, item) for index, item in enumerate(items) if isinstance(item, _Item)]
    logps = iter(
        _token_logprobs(
            model,
            [ids for _, item in good for ids in item.sequences],
            [item.start for _, item in good for _ in item.sequences],
            names=[f"item {index}, option {text!r}" for index, _ in good for text in options[index]],
            batch_tokens=batch_tokens,
            progress=progress,
            cache=cache,
            strict=strict,
        )
    )
    return [
        [OptionScore(math.nan, math.nan, 0, problem=item) for _ in texts]
        if isinstance(item, str)
        else [item.score(k, *next(logps)) for k in range(len(item.sequences))]
        for item, texts in zip(items, options, strict=True)
    ]


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

    def score(self, k: int, logps: np.ndarray, problem: str) -> OptionScore:
        if problem:
            n_tokens = self.ends[k] - self.start
            return OptionScore(math.nan, math.nan, n_tokens, self.mismatches[k], problem)
        return OptionScore(
            logp_first=float(logps[self.part_from - self.start : self.part_to[k] - self.start].sum())
            if self.parts
            else math.nan,
            logp_whole=float(logps[: self.ends[k] - self.start].sum()),
            n_tokens=self.ends[k] - self.start,
            prefix_mismatch=self.mismatches[k],
        )


def _conversation_item(
    tokenizer: PreTrainedTokenizerBase, index: int, prompt: Sequence[Message], texts: list[str], strict: bool
) -> _Item | str:
    where = f"item {index}: {str(prompt[-1]['content'])[:80]!r}" if prompt else f"item {index}"
    problem = _options_problem(texts, where, strict)
    if problem:
        return problem
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
    item = _item(prompt_ids, sequences, tails, texts, where, strict)
    if isinstance(item, _Item) and not item.parts:
        if not strict:
            return "options do not part"
        raise InputError(
            "an option begins another one, and the template writes nothing at the end of a turn",
            where=f"{where}, options {texts}",
            fix="reword the options so that their tokens part",
        )
    return item


def _plain_item(tokenizer: PreTrainedTokenizerBase, index: int, context: str, texts: list[str], strict: bool) -> _Item | str:
    where = f"item {index}: {context[-80:]!r}"
    problem = _options_problem(texts, where, strict)
    if problem:
        return problem
    bos = [] if tokenizer.bos_token_id is None else [int(tokenizer.bos_token_id)]
    sequences = [bos + tokenize(tokenizer, context + text) for text in texts]
    prompt_ids = bos + (tokenize(tokenizer, context) if context else [])
    return _item(prompt_ids, sequences, [[] for _ in texts], texts, where, strict)


def _options_problem(texts: list[str], where: str, strict: bool) -> str:
    """ "" if the options are good; else the problem, raised if ``strict``."""
    if texts and len(set(texts)) == len(texts):
        return ""
    if strict:
        raise InputError(
            "two options of an item are equal" if texts else "an item has no options",
            where=f"{where}, {texts}",
            fix="give each item one or more different options",
        )
    return "equal options" if texts else "no options"


def _item(
    prompt_ids: list[int],
    sequences: list[list[int]],
    tails: list[list[int]],
    texts: list[str],
    where: str,
    strict: bool,
) -> _Item | str:
    """``tails[k]``: the token after option k, if something is written there."""
    shared = [packing.common_prefix(prompt_ids, ids) for ids in sequences]
    # One start for all options of an item, else their sums would be over different spans of text.
    start = max(min(shared), 1)
    for text, ids in zip(texts, sequences, strict=True):
        if len(ids) <= start:
            if not strict:
                return "no tokens"
            raise InputError(
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
    part_from = min((packing.common_prefix(a, b) for i, a in enumerate(distinct) for b in distinct[i + 1 :]), default=start)
    part_from = max(part_from, start)
    part_to = []
    for k, ids in enumerate(sequences):
        rivals = [packing.common_prefix(ids, other) for other in distinct if list(other) != ids]
        part_to.append(max(rivals) + 1 if rivals else ends[k])
    return _Item(sequences, ends, start, part_from, part_to, [n < len(prompt_ids) for n in shared], parts)


def kept(tokenizer: PreTrainedTokenizerBase, text: str, ids: Sequence[int]) -> tuple[int, int]:
    """(characters of ``text``, white space apart, that its tokens drop; UTF-8 bytes of what they keep)."""
    back = tokenizer.decode(list(ids), skip_special_tokens=True)
    dropped = max(0, len("".join(text.split())) - len("".join(back.split())))
    # A tokenizer may add or join spaces on the way back: only where characters are lost is its text another one.
    return dropped, len((back if dropped else text).encode("utf-8", "surrogatepass"))


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
    """Log-probabilities of the tokens of each sequence from position ``starts[i]`` ≥ 1 on, given those before.

    ``whole`` feeds the last token as well, as scoring code commonly does: nothing but LLM.int8() can tell,
    where an outlier in a later token changes the arithmetic of earlier ones. Without it, a one-token answer
    is scored off the prompt alone, as in generation.

    Returns: one float64 array of ``len(sequences[i]) - starts[i]`` nats each; logits are normalised in fp32.
        With ``strict=False`` a sequence that cannot be scored gets NaN.
    Raises: InputError if a sequence is longer than the model's context; CheckpointError if the tokenizer
        knows tokens that the model has no embedding for; NonFiniteError on logits that are NaN or infinite.
    """
    scored = _token_logprobs(
        model,
        sequences,
        starts,
        names=names,
        whole=whole,
        batch_tokens=batch_tokens,
        progress=progress,
        cache=cache,
        strict=strict,
    )
    return [values for values, _ in scored]


def _token_logprobs(
    model: PreTrainedModel,
    sequences: Sequence[Sequence[int]],
    starts: Sequence[int],
    *,
    names: Sequence[str] | None,
    whole: bool = False,
    batch_tokens: int | None,
    progress: Progress | None,
    cache: Cache | None,
    strict: bool,
) -> list[tuple[np.ndarray, str]]:
    """As :func:`token_logprobs`, with each sequence's problem beside its numbers."""
    import torch

    names = names if names is not None else [f"sequence {index}" for index in range(len(sequences))]
    keys = [tuple(ids) for ids in sequences]
    fits = _check_fit(model, keys, names, strict)
    wanted = sorted({(ids, start) for ids, start, fit in zip(keys, starts, fits, strict=True) if fit})
    first_name = dict(zip(reversed(keys), reversed(names), strict=True))
    results: dict[Request, np.ndarray] = {}
    longest = max((len(ids) for ids, _ in wanted), default=0)
    path = scoring_path(model, longest) if wanted else "packed"
    tell_once(model, path)

    with torch.inference_mode(), outliers_by_sequence(model) as int8, fast_on_cpu(model):
        fitting = _Fitting()
        for batch in _plan(model, wanted, path, int8, whole, batch_tokens):
            requests = [request for one in batch for request in one.requests]
            found = _cached(cache, requests, whole)
            if found is None:
                found = fitting.run(model, batch, int8)
                # A NaN in one sequence spreads to those that are computed beside it.
                for request in [request for request in requests if not np.isfinite(found[request]).all()]:
                    ids, start = request
                    alone = Pass(ids if whole and int8 is not None else ids[:-1], [request])
                    found.update(_run_padded(model, [alone], int8))
                    if strict and not np.isfinite(found[request]).all():
                        raise NonFiniteError(
                            "the model's logits are NaN or infinite",
                            where=first_name[ids],
                            fix="the weights are damaged or training diverged; check the checkpoint first",
                        )
                if cache is not None:
                    finite = {key: values for key, values in found.items() if np.isfinite(values).all()}
                    cache.put_many({_digest(key, whole): values for key, values in finite.items()})
            results.update(found)
            if progress:
                progress(len(results), len(wanted))

    outcomes = []
    for ids, start, fit in zip(keys, starts, fits, strict=True):
        values = results[ids, start] if fit else np.full(max(0, len(ids) - start), np.nan)
        problem = "too long" if not fit else "" if np.isfinite(values).all() else "not finite"
        outcomes.append((values, problem))
    return outcomes


def _plan(
    model: PreTrainedModel,
    wanted: list[Request],
    path: str,
    int8: Batch | None,
    whole: bool,
    batch_tokens: int | None,
) -> Iterator[Sequence[_Batchable]]:
    """Batches of rows, or of passes. A function of the requests, the model's shape and the kind of device only."""
    vocabulary = model.get_output_embeddings().weight.shape[0]
    kind = "cpu" if model.device.type == "cpu" else "other"
    logits = max(64, _LOGITS_PER_BATCH[kind] // vocabulary)
    if path == "packed":
        tokens = batch_tokens or _MAX_BATCH_TOKENS[kind]
        if plain_output_layer(model) is not None:
            logits = tokens  # there is no matrix of logits
        hidden = model.get_input_embeddings().weight.shape[1]
        return packing.plan(packing.passes(wanted), hidden=hidden, tokens=tokens, scored=logits)
    passes = packing.passes(wanted, fold=int8 is None, whole=whole and int8 is not None)
    return packing.padded(passes, batch_tokens or min(_MAX_BATCH_TOKENS[kind], logits))


def _cached(cache: Cache | None, requests: Sequence[Request], whole: bool) -> dict[Request, np.ndarray] | None:
    """The whole batch out of the cache, or None: a batch computed in part would have other bits than a whole one."""
    if cache is None:
        return None
    digests = {request: _digest(request, whole) for request in requests}
    stored = cache.get_many(list(digests.values()))
    if any(digest not in stored for digest in digests.values()):
        return None
    return {request: np.asarray(stored[digest], dtype=np.float64) for request, digest in digests.items()}


def _digest(request: Request, whole: bool) -> bytes:
    ids, start = request
    return hashlib.sha256(np.array([whole, start, *ids], dtype="<i8").tobytes()).digest()


class _Fitting:
    """Runs batches; one that does not fit into the device's memory is halved, and so are those that follow."""

    def __init__(self) -> None:
        self.parts = 1

    def run(self, model: PreTrainedModel, batch: Sequence[_Batchable], int8: Batch | None) -> dict[Request, np.ndarray]:
        import torch

        results: dict[Request, np.ndarray] = {}
        size = -(-len(batch) // self.parts)
        begin = 0
        while begin < len(batch):
            part = batch[begin : begin + size]
            try:
                results.update(_run(model, part, int8))
            except torch.OutOfMemoryError:
                if len(part) == 1:
                    raise
                self.parts *= 2
                size = -(-len(part) // 2)
                logger.warning("a batch did not fit into the device's memory: going on with %d rows at a time", size)
            else:
                begin += len(part)
                continue
            torch.cuda.empty_cache()  # not inside `except`, whose traceback holds the tensors
        return results


def _run(model: PreTrainedModel, batch: Sequence[_Batchable], int8: Batch | None) -> dict[Request, np.ndarray]:
    rows = [one for one in batch if isinstance(one, Row)]
    if rows:
        return _run_packed(model, rows)
    passes = [one for one in batch if isinstance(one, Pass)]
    scored = _run_padded(model, passes, int8)
    if int8 is not None and int8.alone and len(passes) > 1:
        scored = {}
        for one in passes:
            scored.update(_run_padded(model, [one], int8))
    return scored


def _run_packed(model: PreTrainedModel, rows: list[Row]) -> dict[Request, np.ndarray]:
    logps = packed_logprobs(model, packing.lay(rows))
    return _split([request for row in rows for request in row.requests], logps)


def _split(requests: Sequence[Request], logps: torch.Tensor) -> dict[Request, np.ndarray]:
    values = logps.double().cpu().numpy()
    results, cursor = {}, 0
    for ids, start in requests:
        results[ids, start] = values[cursor : cursor + len(ids) - start]
        cursor += len(ids) - start
    return results


def _run_padded(model: PreTrainedModel, batch: list[Pass], int8: Batch | None = None) -> dict[Request, np.ndarray]:
    import torch

    width = max(len(one.fed) for one in batch)
    input_ids = torch.zeros(len(batch), width, dtype=torch.long)  # any valid id pads: the mask hides it
    mask = torch.zeros_like(input_ids)
    for row, one in enumerate(batch):
        input_ids[row, : len(one.fed)] = torch.tensor(one.fed)
        mask[row, : len(one.fed)] = 1
    if int8 is not None:
        int8.mask = mask.bool().to(model.device)
    # The head runs on the columns that some row needs.
    first = min(start for one in batch for _, start in one.requests) - 1
    keep = {"logits_to_keep": torch.arange(first, width, device=model.device)} if keeps_logits(model) else {}
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
    picked = fp32(logits[at])
    logps = picked.gather(1, goal[:, None])[:, 0] - picked.logsumexp(-1)
    return _split([request for one in batch for request in one.requests], logps)


def _check_fit(model: PreTrainedModel, keys: list[tuple[int, ...]], names: Sequence[str], strict: bool) -> list[bool]:
    context = getattr(model.config, "max_position_embeddings", None)
    embeddings = model.get_input_embeddings().weight.shape[0]
    fits = []
    for ids, name in zip(keys, names, strict=True):
        fits.append(not context or len(ids) <= context)
        if strict and not fits[-1]:
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
    return fits
