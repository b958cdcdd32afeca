"""The toy student's tokenizer: one word, one token, with a chat template that renders the pre-training layout."""

from __future__ import annotations

from tokenizers import AddedToken, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast

from .world import VOCABULARY

PAD, BOS, EOS, UNKNOWN, ASSISTANT = "<pad>", "<bos>", "<eos>", "<unk>", "<assistant>"
SPECIAL = (PAD, BOS, EOS, UNKNOWN, ASSISTANT)
MAX_TOKENS = 512

CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %} {{ message['content'] | trim }}"
    "{% elif message['role'] == 'assistant' %} <assistant> {{ message['content'] | trim }} {{ eos_token }}"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %} <assistant>{% endif %}"
)
"""``<bos> user <assistant> answer <eos>``. Messages of other roles, such as system, are left out."""


def token_ids() -> dict[str, int]:
    """Return the id of every token: the special ones first, then `VOCABULARY` in order."""
    return {token: index for index, token in enumerate([*SPECIAL, *VOCABULARY])}


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Build the tokenizer.

    Words are split at white space only, so ``"B"`` and ``" B"`` are the same single token, and decoding joins words
    with single spaces. Words outside the vocabulary become ``<unk>``. Nothing is added around a text: ``<bos>`` comes
    from the chat template alone.
    """
    words = Tokenizer(WordLevel(token_ids(), unk_token=UNKNOWN))
    words.pre_tokenizer = WhitespaceSplit()
    words.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNKNOWN,
        padding_side="left",
        model_max_length=MAX_TOKENS,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
