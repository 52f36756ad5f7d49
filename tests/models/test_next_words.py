"""The K likeliest ways to go on: by a plain transcription, one text at a time, and what counts as a word."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from teachfair.errors import InputError, NonFiniteError
from teachfair.models import next_words as module
from teachfair.models.checkpoint import load_policy
from teachfair.models.next_words import branching_continuations, first_word, next_words
from teachfair.models.score_cache import ScoreCache

TEXTS = ["the nurse said", "tom", "ann met the doctor and the pilot at the station , who was", "eva was", "tom met ann"]


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
    found = branching_continuations(model, tokenizer, TEXTS, 4, max_new_tokens=5)
    for text, branches in zip(TEXTS, found, strict=True):
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


def batches_computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many sequences each batch has that is padded for the model: one entry for each batch of either kind."""
    computed: list[int] = []
    first, rest = module.left_padded, module.generated

    def padded(model: Any, tokenizer: Any, batch: Any) -> Any:
        computed.append(len(batch))
        return first(model, tokenizer, batch)

    def generated(model: Any, tokenizer: Any, batch: Any, length: int) -> Any:
        computed.append(len(batch))
        return rest(model, tokenizer, batch, length)

    monkeypatch.setattr(module, "left_padded", padded)
    monkeypatch.setattr(module, "generated", generated)
    return computed


class Stopped(Exception):
    pass


@pytest.mark.parametrize("stop_after", range(11))
def test_a_run_stopped_after_any_batch_goes_on_there_and_has_the_bits_of_an_unbroken_one(
    stop_after: int, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = load_policy(tiny_llama)
    how: dict[str, Any] = {"k": 3, "max_new_tokens": 5, "batch_size": 2}
    computed = batches_computed(monkeypatch)
    unbroken = branching_continuations(model, tokenizer, TEXTS, **how)
    sizes = computed.copy()
    assert sizes == [2, 2, 1] + [2] * 7 + [1]  # five texts, then three beginnings of each
    computed.clear()

    write = ScoreCache.write

    def stopping(self: ScoreCache, kind: int, rows: Any) -> None:
        if len(computed) > stop_after:
            raise Stopped
        write(self, kind, rows)

    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(ScoreCache, "write", stopping)
        branching_continuations(
            model, tokenizer, TEXTS, cache=ScoreCache(tmp_path / "s.sqlite", "m").within("q"), **how
        )
    computed.clear()
    again = ScoreCache(tmp_path / "s.sqlite", "m")
    assert branching_continuations(model, tokenizer, TEXTS, cache=again.within("q"), **how) == unbroken
    assert computed == sizes[stop_after:]
    computed.clear()
    assert branching_continuations(model, tokenizer, TEXTS, cache=again.within("q"), **how) == unbroken
    assert computed == []


def test_one_row_that_was_changed_or_is_gone_has_its_whole_batch_computed_again(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = load_policy(tiny_llama)
    how: dict[str, Any] = {"k": 3, "max_new_tokens": 5, "batch_size": 2}
    cache = ScoreCache(tmp_path / "s.sqlite", "m")
    unbroken = branching_continuations(model, tokenizer, TEXTS, cache=cache.within("q"), **how)
    computed = batches_computed(monkeypatch)
    with sqlite3.connect(tmp_path / "s.sqlite") as file:
        keys = [key for (key,) in file.execute("SELECT key FROM rows ORDER BY key")]
        before = dict(file.execute("SELECT key, value FROM rows"))
    assert len(keys) == 5 + 15
    for place, key in enumerate(keys):
        computed.clear()
        with sqlite3.connect(tmp_path / "s.sqlite") as file:
            if place % 2:
                file.execute("DELETE FROM rows WHERE key = ?", (key,))
            else:
                file.execute("UPDATE rows SET value = zeroblob(length(value)) || x'00' WHERE key = ?", (key,))
        assert branching_continuations(model, tokenizer, TEXTS, cache=cache.within("q"), **how) == unbroken
        assert len(computed) == 1
        with sqlite3.connect(tmp_path / "s.sqlite") as file:
            assert dict(file.execute("SELECT key, value FROM rows")) == before
    assert cache.report()["damaged"] == 10


def nan_after(model: Any, tokenizer: Any, *words: str) -> None:
    import torch

    ids = tokenizer.convert_tokens_to_ids(list(words))
    with torch.no_grad():
        embedding = model.get_input_embeddings()
        embedding.weight = torch.nn.Parameter(embedding.weight.clone())  # the output layer keeps its own
        embedding.weight[ids] = torch.nan


def test_a_text_that_cannot_be_continued_is_named_or_has_no_continuations_and_is_not_kept(
    tiny_llama: Path, tmp_path: Path
) -> None:
    model, tokenizer = load_policy(tiny_llama)
    how: dict[str, Any] = {"k": 3, "max_new_tokens": 5}
    alone = branching_continuations(model, tokenizer, ["tom", "ann met"], **how)
    nan_after(model, tokenizer, "eva")
    texts = ["eva was", "tom", "the " * 200, "ann met"]
    cache = ScoreCache(tmp_path / "s.sqlite", "m")
    for _ in range(2):
        found = branching_continuations(model, tokenizer, texts, cache=cache.within("q"), strict=False, **how)
        assert [len(branches) for branches in found] == [0, 3, 0, 3]
        for branches, plain in zip(found[1::2], alone, strict=True):
            assert [(b.text, pytest.approx(b.logp_first, abs=1e-5)) for b in branches] == [
                (b.text, b.logp_first) for b in plain
            ]
    assert cache.report() == {**cache.report(), "computed": 2 + 6 + 2, "found": 2 + 6}  # first tokens are asked again
    assert next_words(model, tokenizer, texts, 2, strict=False)[::2] == [[], []]
    with pytest.raises(NonFiniteError, match="eva was"):
        branching_continuations(model, tokenizer, ["tom", "eva was"], **how)
    assert branching_continuations(model, tokenizer, texts[2:3], strict=False, **how) == [[]]


def test_honest_of_a_model_whose_logits_are_not_numbers_is_no_number(tiny_llama: Path, tmp_path: Path) -> None:
    from teachfair.evaluation.benchmarks import honest
    from teachfair.models.scorer import PolicyScorer

    model, tokenizer = load_policy(tiny_llama)
    nan_after(model, tokenizer, "eva")
    item = {"id": "1", "cluster": "c", "axis": "gender", "group": "female", "lang": "en", "condition": "x", "type": "t",
            "identity": "i", "hurtful": {"late": "an"}, "k": 2, "completion": "sentences", "max_new_tokens": 3}  # fmt: skip
    scorer = PolicyScorer(model, tokenizer, strict=False)
    records = honest.score(scorer, [{**item, "prompt": "eva was"}, {**item, "prompt": "tom was"}])
    assert [record["problem"] for record in records] == ["no completions", ""]
