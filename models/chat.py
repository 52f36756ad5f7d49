"""Chat templates and pad tokens for base models that come without them.

Everything above this floor speaks in conversations, because TRL scores plain text differently in training and
in reinforcement learning. A base model has no chat template; it gets a plain one here, saved with its
tokenizer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from teachfair.errors import CheckpointError, InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Message = Mapping[str, str]

_CHECK_CONTENT = (
    "{%- if message['content'] is not string -%}"
    "{{- raise_exception('this chat template takes messages whose content is text') -}}{%- endif -%}"
)

# A turn ends with the end-of-text token and nothing is written after it, so the border between question and
# answer is a special token. Tokenizers split at special tokens before they merge anything: whatever the
# vocabulary, the tokens of the prompt are a prefix of the tokens of the conversation. The price: a base model
# has seen that token as the border between two documents. Hence ROLE_CHAT_TEMPLATE wherever the tokenizer
# allows it.
PLAIN_CHAT_TEMPLATE = (
    "{%- if bos_token -%}{{- bos_token -}}{%- endif -%}"
    "{%- for message in messages -%}" + _CHECK_CONTENT + "{{- message['content'] | trim -}}{{- eos_token -}}"
    "{%- endfor -%}"
)

# "User: …\nAssistant:" as running text, which a base model continues within one document. The prompt ends on
# ":" and the answer starts with a space, so it is a token prefix only where no merge joins ":" and " ".
ROLE_CHAT_TEMPLATE = (
    "{%- if bos_token -%}{{- bos_token -}}{%- endif -%}"
    "{%- for message in messages -%}"
    + _CHECK_CONTENT
    + "{%- if message['role'] == 'user' -%}{{- 'User: ' + (message['content'] | trim) + '\\n' -}}"
    "{%- elif message['role'] == 'assistant' -%}"
    "{{- 'Assistant: ' + (message['content'] | trim) + eos_token -}}"
    "{%- else -%}{{- (message['content'] | trim) + '\\n\\n' -}}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- 'Assistant:' -}}{%- endif -%}"
)

_PAD_NAMES = ("<pad>", "[PAD]", "<|pad|>", "<|finetune_right_pad_id|>")
_PROBE_QUESTIONS = ("Who was late?", "Tom and Ann met. Who was late", "1 + 1 =", "He said: ")
_PROBE_ANSWERS = ("yes", "Ann", "the nurse", "I cannot tell.", "A", "42", "'s", "(b)", "...", "\u00c9lise")


def ensure_chat_template(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Give ``tokenizer`` a plain chat template if it has none (in place; ``save_pretrained`` keeps it).

    ``ROLE_CHAT_TEMPLATE`` where the prompt stays a token prefix of the conversation, else
    ``PLAIN_CHAT_TEMPLATE``, for which it always does. Both end the assistant's turn with the end-of-text
    token.

    Returns: True if a template was added, False if there was one.
    Raises: CheckpointError if the tokenizer has no end-of-text token, with which a turn could end.
    """
    if tokenizer.chat_template:
        return False
    if tokenizer.eos_token is None:
        raise CheckpointError(
            "the tokenizer has no end-of-text token, so a plain chat template has nothing to end a turn with",
            where=str(getattr(tokenizer, "name_or_path", "")) or type(tokenizer).__name__,
            fix="set tokenizer.eos_token, or save the tokenizer with a chat template of its own",
        )
    tokenizer.chat_template = ROLE_CHAT_TEMPLATE
    if not prompt_is_token_prefix(tokenizer):
        tokenizer.chat_template = PLAIN_CHAT_TEMPLATE
    return True


def prompt_is_token_prefix(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a rendered prompt's tokens start the whole conversation's tokens (checked on probe turns).

    Where it is False, trainers that mask the prompt train on a shorter one, and an answer's first token is
    not the token that follows the prompt.
    """
    for question in _PROBE_QUESTIONS:
        prompt = [{"role": "user", "content": question}]
        prompt_ids = tokenize(tokenizer, render(tokenizer, prompt, generation_prompt=True))
        for answer in _PROBE_ANSWERS:
            turns = [*prompt, {"role": "assistant", "content": answer}]
            if tokenize(tokenizer, render(tokenizer, turns))[: len(prompt_ids)] != prompt_ids:
                return False
    return True


def render(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, generation_prompt: bool = False
) -> str:
    """A conversation as text. Raises: InputError if there is no template or it refuses."""
    if not tokenizer.chat_template:
        raise InputError(
            "the tokenizer has no chat template",
            where=str(getattr(tokenizer, "name_or_path", "")),
            fix="call teachfair.models.chat.ensure_chat_template(tokenizer) first",
        )
    try:
        return str(
            tokenizer.apply_chat_template(
                [dict(message) for message in messages],
                tokenize=False,
                add_generation_prompt=generation_prompt,
            )
        )
    except Exception as error:  # a template is a program of its author's: jinja errors, TypeErrors, anything
        raise InputError(
            f"the chat template refused a conversation ({error})",
            where=str(list(messages))[:200],
            fix="pass a list of {'role': …, 'content': text} that the model's template accepts",
        ) from error


def tokenize(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of a rendered text; the template has written the special tokens, none are added."""
    return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def ensure_pad_token(
    tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel | None = None
) -> Literal["kept", "existing", "unknown", "added"]:
    """Give ``tokenizer`` a pad token that is not the end-of-text token (in place, with ``model``'s configs).

    With pad = eos a collator masks the end of the answer away, and a reward model reads the wrong position.

    Returns: what was done. ``kept``: there was a distinct one. ``existing``: a token of the vocabulary made
        for padding. ``unknown``: the unknown-word token (the vocabulary must not grow without need: a tied,
        compressed or adapted embedding would have to be resized). ``added``: a new ``<|pad|>``; ``model``'s
        embeddings are resized if they have no row for it. Without ``model`` the caller resizes:
        ``len(tokenizer)`` rows are needed.
    """
    taken = {tokenizer.eos_token_id, tokenizer.bos_token_id}
    done: Literal["kept", "existing", "unknown", "added"]
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id not in taken:
        done = "kept"
    elif known := [name for name in _PAD_NAMES if name in tokenizer.get_vocab()]:
        tokenizer.pad_token = known[0]
        done = "existing"
    elif tokenizer.unk_token_id is not None and tokenizer.unk_token_id not in taken:
        tokenizer.pad_token = tokenizer.unk_token
        done = "unknown"
    else:
        tokenizer.add_special_tokens({"pad_token": "<|pad|>"})
        done = "added"
    if model is not None:
        if len(tokenizer) > model.get_input_embeddings().weight.shape[0]:
            model.resize_token_embeddings(len(tokenizer))
        model.config.pad_token_id = tokenizer.pad_token_id
        if getattr(model, "generation_config", None) is not None:
            model.generation_config.pad_token_id = tokenizer.pad_token_id
    return done
