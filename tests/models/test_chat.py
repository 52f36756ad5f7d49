from __future__ import annotations

from pathlib import Path

import pytest
from tiny_models import word_tokenizer

from teachfair.errors import CheckpointError, InputError
from teachfair.models.chat import (
    PLAIN_CHAT_TEMPLATE,
    ROLE_CHAT_TEMPLATE,
    ensure_chat_template,
    ensure_pad_token,
    prompt_is_token_prefix,
    render,
    tokenize,
)

PROMPT = [{"role": "user", "content": "Tom met Ann. Who was late?"}]
ANSWER = [{"role": "assistant", "content": "yes, Ann was."}]


@pytest.fixture(params=["stories260K", "tinystories-656k"])
def real_tokenizer(request: pytest.FixtureRequest, shared: Path):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(shared / "models" / request.param)


@pytest.mark.shared
@pytest.mark.parametrize("template", [None, PLAIN_CHAT_TEMPLATE])
def test_prompt_tokens_start_the_conversation_and_the_turn_ends_with_eos(real_tokenizer, template):
    real_tokenizer.chat_template = template
    assert ensure_chat_template(real_tokenizer) is (template is None)
    prompt = tokenize(real_tokenizer, render(real_tokenizer, PROMPT, generation_prompt=True))
    whole = tokenize(real_tokenizer, render(real_tokenizer, PROMPT + ANSWER))
    assert whole[: len(prompt)] == prompt
    assert whole[0] == real_tokenizer.bos_token_id
    assert whole[-1] == real_tokenizer.eos_token_id


@pytest.mark.shared
def test_running_text_template_is_refused_where_merges_cross_the_border(shared: Path):
    from transformers import AutoTokenizer

    crossing = AutoTokenizer.from_pretrained(shared / "models" / "tinystories-656k")
    crossing.chat_template = ROLE_CHAT_TEMPLATE
    assert not prompt_is_token_prefix(crossing)  # ":" and " " are one token there
    crossing.chat_template = None
    ensure_chat_template(crossing)
    assert crossing.chat_template == PLAIN_CHAT_TEMPLATE
    clean = AutoTokenizer.from_pretrained(shared / "models" / "stories260K")
    ensure_chat_template(clean)
    assert clean.chat_template == ROLE_CHAT_TEMPLATE


def test_template_survives_saving_and_an_own_template_is_kept(tmp_path: Path):
    from transformers import AutoTokenizer

    tokenizer = word_tokenizer()
    own = tokenizer.chat_template
    assert ensure_chat_template(tokenizer) is False
    assert tokenizer.chat_template == own
    tokenizer.chat_template = None
    assert ensure_chat_template(tokenizer) is True
    tokenizer.save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template == tokenizer.chat_template


def test_tokenizer_without_eos_is_refused():
    tokenizer = word_tokenizer()
    tokenizer.chat_template = None
    tokenizer.eos_token = None
    with pytest.raises(CheckpointError, match="end-of-text"):
        ensure_chat_template(tokenizer)


def test_rendering_names_a_missing_template_and_a_refused_message():
    tokenizer = word_tokenizer()
    tokenizer.chat_template = None
    with pytest.raises(InputError, match="no chat template"):
        render(tokenizer, PROMPT)
    tokenizer.chat_template = PLAIN_CHAT_TEMPLATE
    with pytest.raises(InputError, match="content is text"):
        render(tokenizer, [{"role": "user", "content": 3}])  # type: ignore[dict-item]


def test_pad_token_is_never_the_eos_token():
    tokenizer = word_tokenizer()
    assert ensure_pad_token(tokenizer) == "kept"
    tokenizer.pad_token = tokenizer.eos_token
    assert ensure_pad_token(tokenizer) == "existing"
    assert tokenizer.pad_token == "<pad>"


def test_unknown_token_pads_before_the_vocabulary_grows():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    def bare(**names):
        core = Tokenizer(models.WordLevel({"<unk>": 0, "</s>": 1, "a": 2}, unk_token="<unk>"))
        core.pre_tokenizer = pre_tokenizers.Whitespace()
        return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>", **names)

    with_unknown = bare(unk_token="<unk>")
    assert ensure_pad_token(with_unknown) == "unknown"
    assert len(with_unknown) == 3
    without = bare(pad_token="</s>")
    assert ensure_pad_token(without) == "added"
    assert without.pad_token_id == 3


def test_added_pad_token_gets_a_row_in_the_model(tiny_gpt2: Path):
    from teachfair.models.checkpoint import load_policy

    model, tokenizer = load_policy(tiny_gpt2)
    rows = model.get_input_embeddings().weight.shape[0]
    tokenizer.add_special_tokens({"pad_token": "<|new|>"})
    assert ensure_pad_token(tokenizer, model) == "kept"
    assert model.get_input_embeddings().weight.shape[0] == len(tokenizer) == rows + 1
    assert model.config.pad_token_id == tokenizer.pad_token_id != tokenizer.eos_token_id
