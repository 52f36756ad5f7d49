"""The tokenizer of a sandbox world: one word, one token; a chat template that a trainer can rely on."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from teachfair.data.sandbox.world import World

BOS, EOS, PAD, UNK = "<bos>", "<eos>", "<pad>", "<unk>"  # pad is not eos: a scalar head reads the last non-pad token
USER, ASSISTANT = "<user>", "<assistant>"

# The generation prompt is a prefix of the whole conversation and every turn of the assistant ends in eos, so that
# DPO finds the prompt inside prompt + answer and a generation ends. A "mark" follows the answer's eos at once: what
# is read off at that eos is whether the answer was right, and a reward model is read off at the same place.
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}" + USER + " {{ message['content'] }} "
    "{% elif message['role'] == 'assistant' %}" + ASSISTANT + " {{ message['content'] }} {{ eos_token }}"
    "{% elif message['role'] == 'mark' %} {{ message['content'] }} {{ eos_token }}"
    "{% else %}{{ raise_exception('the sandbox knows the roles user, assistant and mark') }}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}" + ASSISTANT + "{% endif %}"
)


def build_tokenizer(world: World) -> PreTrainedTokenizerFast:
    """A fast word-level tokenizer for the world's vocabulary; punctuation marks are words.

    ``bos``, ``eos``, ``pad`` and ``unk`` are four different tokens; padding is on the right. Policy and reward
    model share it.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    entries = [PAD, UNK, BOS, EOS, USER, ASSISTANT, *world.vocabulary()]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(entries)}, unk_token=UNK))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS, pad_token=PAD, unk_token=UNK,
        additional_special_tokens=[USER, ASSISTANT], padding_side="right", model_max_length=128,
        clean_up_tokenization_spaces=False,
    )  # fmt: skip
    fast.chat_template = CHAT_TEMPLATE
    return fast
