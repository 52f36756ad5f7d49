"""A model behind lm-eval's interface gives the numbers that the same checkpoint gives by itself, or NaN; never others."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from teachfair.errors import ConfigError, InputError
from teachfair.evaluation.benchmarks import crows_pairs, open_answers
from teachfair.evaluation.lm_eval_adapter import LMEvalScorer, load_lm_eval
from teachfair.models.chat import ensure_chat_template
from teachfair.models.checkpoint import load_policy
from teachfair.models.scorer import PolicyScorer


class SmallLM:
    """lm-eval's documented interface around a real model: sums only, contexts and continuations tokenised together."""

    def __init__(self, model: Any, tokenizer: Any, *, writes_bos: bool = False) -> None:
        self.model, self.tokenizer, self.writes_bos, self.max_length = model, tokenizer, writes_bos, 128

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        ids = list(self.tokenizer(string, add_special_tokens=False)["input_ids"])
        begins = ids[:1] == [self.tokenizer.bos_token_id]
        wanted = self.writes_bos and not begins if add_special_tokens is None else add_special_tokens
        return [self.tokenizer.bos_token_id, *ids] if wanted else ids

    def _sum(self, before: list[int], after: list[int]) -> float:
        import torch

        with torch.inference_mode():
            logps = torch.log_softmax(self.model(torch.tensor([before + after])).logits[0].double(), -1)
        return sum(float(logps[len(before) + k - 1, token]) for k, token in enumerate(after))

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        found = []
        for context, continuation in (request.args for request in requests):
            if context == "":
                found.append((self._sum([self.tokenizer.bos_token_id], self.tok_encode(continuation, False)), False))
                continue
            whole, before = self.tok_encode(context + continuation), self.tok_encode(context.rstrip() or context)
            # as theirs: the context's own tokens, then those of the whole beyond their number
            found.append((self._sum(before, whole[len(before) :]), False))
        return found

    def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
        return [self._sum([self.tokenizer.bos_token_id], self.tok_encode(r.args[0], False)) for r in requests]

    def generate_until(self, requests: list[Any]) -> list[str]:
        import torch

        found = []
        for context, how in (request.args for request in requests):
            ids = self.tok_encode(context)
            asked = torch.tensor([ids])
            out = self.model.generate(asked, do_sample=False, max_new_tokens=how["max_gen_toks"], pad_token_id=0)
            said = out[0, len(ids) :].tolist()
            end = next((k for k, token in enumerate(said) if token == self.tokenizer.eos_token_id), len(said))
            found.append(self.tokenizer.decode(said[:end], skip_special_tokens=True))
        return found


class NoTokens:
    """A backend that answers and shows no tokenizer."""

    def __init__(self, lm: SmallLM) -> None:
        self.loglikelihood, self.loglikelihood_rolling = lm.loglikelihood, lm.loglikelihood_rolling
        self.generate_until = lm.generate_until


CONTEXTS = ["the nurse said", "tom and ann met at the station and", "who is late ?"]
OPTIONS = [[" yes", " no", " cannot tell"], [" she left", " she came home", " he left"], [" tom", " ann"]]


def close(found: Any, wanted: Any) -> None:
    for ours, theirs in zip(wanted, found, strict=True):
        for one, other in zip(ours, theirs, strict=True):
            assert other.logp_whole == pytest.approx(one.logp_whole, abs=1e-4)
            assert other.logp_first == pytest.approx(one.logp_first, abs=1e-4)
            assert (other.n_tokens, other.prefix_mismatch) == (one.n_tokens, one.prefix_mismatch)


@pytest.mark.parametrize("writes_bos", [False, True])
def test_sums_first_tokens_chat_options_and_answers_are_the_checkpoints_own(tiny_llama: Path, writes_bos: bool) -> None:
    model, tokenizer = load_policy(tiny_llama)
    own, scorer = PolicyScorer(model, tokenizer), LMEvalScorer(SmallLM(model, tokenizer, writes_bos=writes_bos))
    close(scorer.continuations(CONTEXTS, OPTIONS), own.continuations(CONTEXTS, OPTIONS))
    prompts = [[{"role": "user", "content": text}] for text in CONTEXTS]
    options = [[text.strip() for text in texts] for texts in OPTIONS]
    close(scorer.options(prompts, options), own.options(prompts, options))
    for one, other in zip(own.texts(CONTEXTS), scorer.texts(CONTEXTS), strict=True):
        assert other.logp == pytest.approx(one.logp, abs=1e-4)
        assert other.token_ids == one.token_ids
        assert all(math.isnan(value) for value in other.logps)
    said = scorer.answers(prompts, max_new_tokens=6)
    assert [answer.text for answer in said] == [answer.text for answer in own.answers(prompts, max_new_tokens=6)]
    assert scorer.notes["logp_first is not known"] == 0


def test_without_a_tokenizer_first_tokens_are_nan_or_said_to_be_the_whole(tiny_llama: Path) -> None:
    model, tokenizer = load_policy(tiny_llama)
    lm = NoTokens(SmallLM(model, tokenizer))
    scorer = LMEvalScorer(lm)
    scores = scorer.continuations(CONTEXTS, OPTIONS)
    assert all(math.isnan(one.logp_first) for item in scores for one in item)
    assert all(math.isfinite(one.logp_whole) for item in scores for one in item)
    assert scorer.notes["logp_first is not known"] == 8
    whole = LMEvalScorer(lm, whole_as_first=True)
    assert all(one.logp_first == one.logp_whole for item in whole.continuations(CONTEXTS, OPTIONS) for one in item)
    assert whole.notes["logp_first is logp_whole"] == 8
    own = PolicyScorer(model, tokenizer)
    assert [t.logp for t in scorer.texts(CONTEXTS)] == pytest.approx([t.logp for t in own.texts(CONTEXTS)], abs=1e-4)
    with pytest.raises(ConfigError, match="length of an answer cannot be told"):
        scorer.answers([[{"role": "user", "content": "who ?"}]])


def test_an_option_that_begins_another_a_long_text_and_next_words_are_not_guessed(tiny_llama: Path) -> None:
    scorer = LMEvalScorer(SmallLM(*load_policy(tiny_llama)))
    ((yes, indeed),) = scorer.continuations(["who is late ?"], [[" yes", " yes indeed"]])
    assert math.isnan(yes.logp_first)
    assert math.isnan(indeed.logp_first)
    assert math.isfinite(indeed.logp_whole)
    with pytest.raises(InputError, match="would cut off"):
        scorer.texts(["the " * 200])
    with pytest.raises(InputError, match="are equal"):
        scorer.continuations(["the"], [[" a", " a"]])
    with pytest.raises(ConfigError, match="HONEST"):
        scorer.next_words(["the"], 5)


def test_benchmarks_run_on_it(tiny_llama: Path) -> None:
    model, tokenizer = load_policy(tiny_llama)
    ensure_chat_template(tokenizer)
    scorer = LMEvalScorer(SmallLM(model, tokenizer))
    item = {"id": "a", "cluster": "a", "axis": "gender", "groups": [], "lang": "en", "condition": "parity",
            "options": ["the nurse said she left", "the nurse said he left"], "roles": ["stereotype", "anti"],
            "direction": "stereo"}  # fmt: skip
    (ours,), (theirs,) = (crows_pairs.score(one, [item]) for one in (PolicyScorer(model, tokenizer), scorer))
    assert theirs["margin_nats"] == pytest.approx(ours["margin_nats"], abs=1e-4)
    assert len(open_answers.score(scorer, open_answers.items(lang=["en"], max_new_tokens=2)[:4])) == 4


@pytest.mark.shared
@pytest.mark.parametrize("checkpoint", ["stories260K", "tinystories-656k"])
def test_the_real_hflm_gives_the_same_numbers(shared: Path, checkpoint: str) -> None:
    pytest.importorskip("lm_eval", reason="lm-eval is not installed (pip install lm-eval==0.4.13)")
    folder = shared / "models" / checkpoint
    scorer = load_lm_eval("hf", f"pretrained={folder},dtype=float32,device=cpu,batch_size=4")
    model, tokenizer = load_policy(folder)
    ensure_chat_template(tokenizer)
    own = PolicyScorer(model, tokenizer)
    contexts = ["Once upon a time there was a", "The nurse was late because", "Lily said"]
    options = [[" girl named Lily", " little boy"], [" she", " he"], [" hello to her mom.", " no."]]
    close(scorer.continuations(contexts, options), own.continuations(contexts, options))
    assert [t.logp for t in scorer.texts(contexts)] == pytest.approx([t.logp for t in own.texts(contexts)], abs=1e-4)
    prompts = [[{"role": "user", "content": text}] for text in contexts]
    answers = [[text.strip() for text in texts] for texts in options]
    close(scorer.options(prompts, answers), own.options(prompts, answers))
    said, wanted = scorer.answers(prompts, max_new_tokens=8), own.answers(prompts, max_new_tokens=8)
    assert [answer.text for answer in said] == [answer.text for answer in wanted]


def test_without_lm_eval_or_with_a_wrong_name_it_says_what_to_do() -> None:
    try:
        import lm_eval  # noqa: F401
    except ImportError:
        with pytest.raises(ConfigError, match="lm-eval is not installed"):
            load_lm_eval("hf", "pretrained=x")
    else:
        with pytest.raises(ConfigError, match="lm-eval cannot make the backend"):
            load_lm_eval("no-such-backend")
