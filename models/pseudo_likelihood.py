"""Pseudo-log-likelihoods of a masked language model: each token masked in turn, given all others.

Salazar, Liang, Nguyen, Kirchhoff (2020), Masked Language Model Scoring, ACL, equation 2. With ``within_word`` the later
pieces of a masked piece's word are masked with it (Kauf and Ivanova 2023, A Better Way to Do Masked Language Model Scoring,
ACL): a split word is otherwise given away by its own ending. And the words alone in which two texts differ, masked together.
"""

from __future__ import annotations

import difflib
import math
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from teachfair.errors import CheckpointError, InputError, NonFiniteError
from teachfair.models.checkpoint import load_tokenizer, local_folder
from teachfair.models.likelihood import Progress, TextScore, kept

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Tokens of a batch, pads included: logits of 2**25 floats are 128 MiB.
_LOGITS_PER_BATCH = 2**25
_MAX_BATCH_TOKENS = {"cpu": 1024, "other": 8192}

# One forward pass: ids, the masked places, and the place whose token is read.
_Request = tuple[tuple[int, ...], tuple[int, ...], int]

NOT_ONE_TOKEN = "a word that is compared is not one known token"


@dataclass
class MaskedScorer:
    """A masked language model as a ``Scorer``: texts by pseudo-log-likelihood; it can continue and answer nothing.

    ``strict``: raise at a text that cannot be scored; else its score has a ``problem``. ``problems`` and ``tokens`` count as
    those of ``PolicyScorer``; ``notes`` stand in the record of a run.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    within_word: bool = False
    strict: bool = True
    problems: Counter[str] = field(default_factory=Counter)
    tokens: int = 0
    notes: tuple[str, ...] = (
        "a masked language model: scored by pseudo-log-likelihood and masked words, which are no likelihoods of a causal "
        "model; it gives no answers, so that answer length, refusals and mention of the group are not measured",
    )

    def texts(self, texts: Sequence[str], *, bos: bool = True, progress: Progress | None = None) -> list[TextScore]:
        """Every token of each text but the special ones (which the tokenizer always adds: ``bos`` changes nothing)."""
        return self._scored(texts, [None] * len(texts), progress)

    def shared_tokens(
        self, pairs: Sequence[Sequence[str]], *, progress: Progress | None = None
    ) -> list[tuple[TextScore, TextScore]]:
        """Of two sentences, only the tokens that both have, in each its own context (Nangia et al. 2020, section 3).

        Tokens that differ are NaN; the alignment is the longest matching blocks of ``difflib``, as in the authors' code.
        """
        places: list[set[int] | None] = []
        for first, second in pairs:
            matcher = difflib.SequenceMatcher(None, self._ids(first)[0], self._ids(second)[0])
            blocks = matcher.get_matching_blocks()
            places.append({block.a + k for block in blocks for k in range(block.size)})
            places.append({block.b + k for block in blocks for k in range(block.size)})
        scores = self._scored([text for pair in pairs for text in pair], places, progress)
        return list(zip(scores[::2], scores[1::2], strict=True))

    def differing_tokens(
        self, pairs: Sequence[Sequence[str]], *, progress: Progress | None = None
    ) -> list[tuple[TextScore, TextScore]]:
        """Of two texts, only the words in which they differ: how one masked text is filled in, the same for both.

        All of them are masked at first and read from left to right, each given those before it; what follows stays masked.
        The sum is the log-probability of that filling, by the chain rule: two pronouns (he … his) do not give each other
        away. Shared tokens are NaN.

        Each of the words has to be one token that the vocabulary holds, in both texts, else both have the problem
        ``NOT_ONE_TOKEN``: the number of masks would tell how long the answer is, and a piece is not its word.
        Raises: InputError with ``strict`` for such a pair, or a text that is too long.
        """
        places: list[set[int] | None] = []
        problems: list[str] = []
        for first, second in pairs:
            one, other = self._ids(first)[0], self._ids(second)[0]
            differing = {k for k, (a, b) in enumerate(zip(one, other, strict=False)) if a != b}
            words = _differing_words(first, second)
            read = [[self.tokenizer.decode([ids[k]]).strip().casefold() for k in sorted(differing)] for ids in (one, other)]
            whole = len(one) == len(other) and words is not None and read == words
            if not whole and self.strict:
                raise InputError(NOT_ONE_TOKEN, where=repr(first[:80]), fix="leave the pair out, or take another tokenizer")
            places += [differing, differing]
            problems += ["" if whole else NOT_ONE_TOKEN] * 2
        texts = [text for pair in pairs for text in pair]
        scores = self._scored(texts, places, progress, together=True, problems=problems)
        return list(zip(scores[::2], scores[1::2], strict=True))

    def rolling(self, texts: Sequence[str], *, progress: Progress | None = None) -> NoReturn:
        self._cannot("score running text")

    def continuations(self, *args: Any, **options: Any) -> NoReturn:
        self._cannot("score continuations")

    def options(self, *args: Any, **options: Any) -> NoReturn:
        self._cannot("score answers")

    def answers(self, *args: Any, **options: Any) -> NoReturn:
        self._cannot("answer")

    def _cannot(self, what: str) -> NoReturn:
        raise InputError(
            f"a masked language model cannot {what}", where=type(self.model).__name__,
            fix="ask it for benchmarks of whole sentences or masked words: crows_pairs, crows_pairs_revised, "
            "stereoset_intra, winobias_masked, winogender_masked, definitional, blimp_anaphor, utility",
        )  # fmt: skip

    def completions(self, *args: Any, **options: Any) -> NoReturn:
        self._cannot("complete a text")

    def next_words(self, *args: Any, **options: Any) -> NoReturn:
        self._cannot("say the next word")

    def branches(self, *args: Any, **options: Any) -> NoReturn:
        self._cannot("continue a text")

    def _ids(self, text: str) -> tuple[list[int], list[int], list[int | None]]:
        """Ids with the special tokens, the places of the text's own ones, and each place's word."""
        found = self.tokenizer(text, return_special_tokens_mask=True, verbose=False)
        own = [place for place, special in enumerate(found["special_tokens_mask"]) if not special]
        return list(found["input_ids"]), own, list(found.word_ids()) if self.within_word else []

    def _scored(
        self, texts: Sequence[str], only: Sequence[set[int] | None], progress: Progress | None, *, together: bool = False,
        problems: Sequence[str] | None = None,
    ) -> list[TextScore]:  # fmt: skip
        """``only``: the places to read (None: all); ``together``: those behind a place are masked with it."""
        wanted: list[tuple[list[_Request | None], str]] = []
        read = [self._ids(text) for text in texts]
        known = [""] * len(texts) if problems is None else problems
        for text, (ids, own, words), places, found in zip(texts, read, only, known, strict=True):
            problem = self._problem(text, ids, own) or found
            asked: list[_Request | None] = []
            for place in own:
                if problem or (places is not None and place not in places):
                    asked.append(None)
                    continue
                behind = [other for other in own if other > place]
                with_it = [other for other in behind if words and words[other] == words[place]]
                if together and places is not None:
                    with_it = sorted({*with_it, *places.intersection(behind)})
                asked.append((tuple(ids), (place, *with_it), place))
            wanted.append((asked, problem))
        values = self._run(sorted({one for asked, _ in wanted for one in asked if one is not None}), progress)
        scores = []
        for text, (ids, own, _), (asked, problem) in zip(texts, read, wanted, strict=True):
            logps = np.array([math.nan if one is None else values[one] for one in asked])
            if not problem and any(one is not None and not math.isfinite(values[one]) for one in asked):
                problem = "not finite"
                if self.strict:
                    raise NonFiniteError(
                        "the model's logits are NaN or infinite", where=repr(text[:80]), fix="check the checkpoint first"
                    )
            tokens = [ids[place] for place in own]
            dropped, n_bytes = kept(self.tokenizer, text, tokens)
            scores.append(TextScore(tuple(tokens), logps, dropped, problem, n_bytes))
            self.problems.update([problem] if problem else [])
            self.tokens += 0 if problem else sum(one is not None for one in asked)
        return scores

    def _problem(self, text: str, ids: list[int], own: list[int]) -> str:
        config = self.model.config
        context = getattr(config, "max_position_embeddings", None) or 10**9
        if "roberta" in config.model_type:
            context -= int(config.pad_token_id or 0) + 1  # its positions begin after the pad's
        problem = "no tokens" if not own else "too long" if len(ids) > context else ""
        if problem and self.strict:
            raise InputError(
                f"{len(ids)} tokens do not fit the model's {context}" if own else "a text has no token that can be scored",
                where=repr(text[:80]), fix="leave it out, or shorten it",
            )  # fmt: skip
        return problem

    def _run(self, requests: list[_Request], progress: Progress | None) -> dict[_Request, float]:
        """Log-probability of the token read by each request. Longest first; batches by tokens, pads included."""
        import torch

        device = self.model.device
        limit = _MAX_BATCH_TOKENS.get(device.type, _MAX_BATCH_TOKENS["other"])
        budget = max(64, min(limit, _LOGITS_PER_BATCH // self.model.config.vocab_size))
        pad = self.tokenizer.pad_token_id or 0
        requests = sorted(requests, key=lambda one: (-len(one[0]), one))
        values: dict[_Request, float] = {}
        start = 0
        with torch.inference_mode():
            while start < len(requests):
                width = len(requests[start][0])
                batch = requests[start : start + max(1, budget // width)]
                ids = torch.full((len(batch), width), pad)
                mask = torch.zeros_like(ids)
                for row, (tokens, masked, _) in enumerate(batch):
                    ids[row, : len(tokens)] = torch.tensor(tokens)
                    ids[row, list(masked)] = self.tokenizer.mask_token_id
                    mask[row, : len(tokens)] = 1
                logits = self.model(input_ids=ids.to(device), attention_mask=mask.to(device)).logits
                places = torch.tensor([place for *_, place in batch])
                goals = torch.tensor([tokens[place] for tokens, _, place in batch], device=device)
                picked = logits[torch.arange(len(batch)), places].float()
                found = picked.gather(1, goals[:, None])[:, 0] - picked.logsumexp(-1)
                values.update(zip(batch, found.double().cpu().tolist(), strict=True))
                start += len(batch)
                if progress is not None:
                    progress(start, len(requests))
        return values


def _differing_words(first: str, second: str) -> list[list[str]] | None:
    """The words (lower case) in which two texts differ, of each text; None where they cannot be set side by side."""
    words = [re.findall(r"\w+|[^\w\s]", text.casefold()) for text in (first, second)]
    if len(words[0]) != len(words[1]):
        return None
    pairs = [pair for pair in zip(*words, strict=True) if pair[0] != pair[1]]
    return [[pair[side] for pair in pairs] for side in (0, 1)]


def load_masked(
    policy: str | os.PathLike[str], *, dtype: str = "float32", device: str | None = None, strict: bool = True
) -> MaskedScorer:
    """A masked language model's folder or hub id as a scorer. Raises: CheckpointError if it cannot be loaded."""
    import torch
    from transformers import AutoModelForMaskedLM

    folder = local_folder(policy)
    place = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        model, report = AutoModelForMaskedLM.from_pretrained(
            folder, dtype=getattr(torch, dtype), use_safetensors=True, trust_remote_code=False, output_loading_info=True
        )
    except Exception as error:  # safetensors, json, config and architecture errors have no common class
        raise CheckpointError(
            f"the masked language model cannot be loaded ({str(error).splitlines()[0]})", where=str(policy),
            fix="check that the folder is complete and unchanged",
        ) from error  # fmt: skip
    if report["missing_keys"]:
        raise CheckpointError(
            f"{len(report['missing_keys'])} tensors of the model are not in its files, such as "
            f"{min(map(str, report['missing_keys']))}", where=str(policy), fix="download or save it again",
        )  # fmt: skip
    return MaskedScorer(model.eval().requires_grad_(False).to(place), load_tokenizer(folder), strict=strict)
