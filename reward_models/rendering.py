"""Which token ids a reward model sees: the same ones in training, in a stock pipeline and in TRL's trainers.

Three readers tokenise in three ways. RewardTrainer and a stock ``pipeline("text-classification")`` let the
tokenizer add its special tokens; TRL's online trainers apply the chat template and then add none. A head that
reads the last token gives three different scores for one answer, unless the same ids come out on all three
ways. So a reward model's tokenizer is *framed* here:

- its post-processor puts the start token (BOS or CLS), where there is one, before any text and the end token
  (EOS or SEP) after it;
- its chat template writes the same two tokens itself, around the same text.

The text between the two is :func:`render`'s; it is what a user hands to a stock pipeline. Training uses the
ids of exactly that call. A tokenizer framed in this way never puts a token before or after its own twice,
unless a text is handed over that already holds them.
"""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from teachfair.errors import CheckpointError, InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

Message = Mapping[str, str]

# An encoder has no chat template and no end-of-text token; its classes are told apart by their names alone.
ENCODER_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- message['role'] + ': ' + (message['content'] | trim) + '\\n' -}}"
    "{%- endfor -%}"
)

_PROBES = (
    ("Who was late, Tom or Ann?", "Cannot tell."),
    (" The nurse  and the doctor met.\nWho cooks?", "the nurse"),
    ("1 + 1 =", "2 "),
    ("Élise (she) said: “no”.", "'s"),
    ("a", "b"),
)


def framed(tokenizer: PreTrainedTokenizerBase, max_tokens: int | None = None) -> PreTrainedTokenizerBase:
    """A tokenizer for a reward model, made from the policy's or the encoder's (which is not changed).

    The chat template of the base is kept inside; a base without one gets a plain one. Padding is on the
    right: a model with absolute positions scores left-padded text differently.

    Args:
        max_tokens: context length of the model, for tokenizers that do not state theirs.

    Raises: CheckpointError if there is no fast tokenizer, or no token to end a text with.
    """
    import tokenizers
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    from teachfair.models.chat import ensure_chat_template

    name = str(getattr(tokenizer, "name_or_path", "")) or type(tokenizer).__name__
    if not getattr(tokenizer, "is_fast", False):
        raise CheckpointError(
            "the tokenizer has no fast (tokenizers) form, so its special tokens cannot be fixed",
            where=name,
            fix="save it as a fast tokenizer (tokenizer.json) beside the model",
        )
    backend = tokenizers.Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_truncation()
    backend.no_padding()
    if is_encoder_tokenizer(tokenizer):
        start, end = tokenizer.cls_token, tokenizer.sep_token
        template = tokenizer.chat_template or ENCODER_TEMPLATE
    else:
        keeper = copy.deepcopy(tokenizer)  # it gets the template: the caller's may be another trainer's too
        ensure_chat_template(keeper)
        template, start, end = keeper.chat_template, tokenizer.bos_token or "", tokenizer.eos_token
        if end is None:
            raise CheckpointError(
                "the tokenizer has no end-of-text token, on which a reward could be read",
                where=name,
                fix="set tokenizer.eos_token and save the tokenizer again",
            )
    tokens = {token: tokenizer.convert_tokens_to_ids(token) for token in (start, end) if token}
    before = f"{start} " if start else ""
    backend.post_processor = TemplateProcessing(
        single=f"{before}$A {end}",
        pair=f"{before}$A {end} $B:1 {end}:1",
        special_tokens=list(tokens.items()),
    )
    if isinstance(template, dict):
        template = template.get("default") or next(iter(template.values()))
    stated = tokenizer.model_max_length
    if stated > 10**9:  # "very large" stands for "not stated"
        stated = max_tokens or stated
    made = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        padding_side="right",
        truncation_side="right",
        model_max_length=min(stated, max_tokens or stated),
        clean_up_tokenization_spaces=False,
        # without token_type_ids: decoders take none, and RewardTrainer's collator passes none to encoders
        model_input_names=["input_ids", "attention_mask"],
        **_special_tokens(tokenizer),
    )
    for glue in ("", " "):
        # a tokenizer that marks the first word of a text but not one after a special token needs a space
        # there
        made.chat_template = _framed_template(template, start, end, glue)
        if templates_agree(made):
            break
    else:
        made.chat_template = _framed_template(template, start, end, "")
        logger.warning(
            "%s: its chat template and its plain call give different token ids; rewards inside TRL's online "
            "trainers will differ a little from those of a pipeline",
            name,
        )
    return made


def is_encoder_tokenizer(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether texts are framed by CLS … SEP, as encoders' are, and not ended by an end-of-text token."""
    if tokenizer.cls_token_id is None or tokenizer.sep_token_id is None:
        return False
    ids = tokenizer("a")["input_ids"]
    natively = ids[0] == tokenizer.cls_token_id and ids[-1] == tokenizer.sep_token_id
    return bool(natively or tokenizer.eos_token is None)


def _special_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    names = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
    found: dict[str, Any] = {name: value for name in names if (value := getattr(tokenizer, name, None))}
    extra = [token for token in tokenizer.all_special_tokens if token not in found.values()]
    if extra:
        found["additional_special_tokens"] = extra
    return found


def _framed_template(template: str, start: str, end: str, glue: str) -> str:
    """``template``'s text between exactly one start and one end token, whichever of them it writes itself."""
    first, last = json.dumps(start), json.dumps(end)
    return (
        "{%- set reward_text -%}" + template + "{%- endset -%}"
        "{%- set reward_text = (reward_text | trim).removeprefix(" + first + ") | trim -%}"
        "{%- set reward_text = reward_text.removesuffix(" + last + ") | trim -%}"
        "{{- " + json.dumps(start + glue if start else "") + " + reward_text + " + last + " -}}"
    )


def frame_of(tokenizer: PreTrainedTokenizerBase) -> tuple[str, str]:
    """(start, end): the special tokens that a plain call of a framed tokenizer puts around a text."""
    ids = list(tokenizer("a")["input_ids"])
    added = len(ids) - len(tokenizer("a", add_special_tokens=False)["input_ids"])
    start = tokenizer.convert_ids_to_tokens(ids[0]) if added > 1 else ""
    return start, tokenizer.convert_ids_to_tokens(ids[-1]) if added else ""


def render(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> str:
    """A conversation as the text to hand to a stock ``pipeline("text-classification")``.

    Without the start and the end token: the tokenizer adds them. White space at its two ends is taken off.
    Raises: InputError if the chat template refuses the conversation.
    """
    from teachfair.models.chat import render as with_special_tokens

    start, end = frame_of(tokenizer)
    text = with_special_tokens(tokenizer, messages)
    return text.strip().removeprefix(start).removesuffix(end).strip()


def token_ids(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> list[int]:
    """The ids that a framed reward model sees of a conversation: those of a plain call on :func:`render`'s
    text."""
    return list(tokenizer(render(tokenizer, messages), verbose=False)["input_ids"])


def templates_agree(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the chat template (as TRL's online trainers use it) gives :func:`token_ids` (checked on
    probes)."""
    from teachfair.models.chat import render as with_special_tokens
    from teachfair.models.chat import tokenize

    for question, answer in _PROBES:
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        try:
            in_full = tokenize(tokenizer, with_special_tokens(tokenizer, messages))
            if in_full != token_ids(tokenizer, messages):
                return False
        except InputError:
            return False
    return True
