"""Make a tiny student of Qwen2's architecture: random weights, and a tokenizer trained on the question text.

It loads through `AutoModelForCausalLM` and `AutoTokenizer` like any checkpoint, so everything around the weights is
walked for real. It knows nothing.
"""

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from teachwise.tasks.table import read_table

transformers.utils.logging.disable_progress_bar()

END_OF_TEXT, TURN_START, TURN_END = SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
BYTES = pre_tokenizers.ByteLevel.alphabet()
MERGES = 4_000
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""Each turn between its role and an end mark, as Qwen's models have it, without their default system message."""


def train_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of at most `MERGES` merges; any text can be written in it."""
    bpe = Tokenizer(models.BPE())
    bpe.normalizer = normalizers.NFC()
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=len(SPECIAL) + len(BYTES) + MERGES,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(BYTES),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token=TURN_END, pad_token=END_OF_TEXT, clean_up_tokenization_spaces=False
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def random_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> Qwen2ForCausalLM:
    """Two layers of width 64 with seeded random weights; about 0.4 million of them."""
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=176,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=8_192,
        tie_word_embeddings=True,
        initializer_range=0.05,  # wider than usual: a few updates can then teach it to write a letter at all
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(seed)
    model = Qwen2ForCausalLM(config)
    model.generation_config = GenerationConfig(
        eos_token_id=[tokenizer.eos_token_id, tokenizer.pad_token_id], pad_token_id=tokenizer.pad_token_id
    )
    return model


def text_of(row: dict[str, Any]) -> str:
    """A question with its options, one per line."""
    return "\n".join([row["question"], *row["options"]])


def make_student(questions: str | Path, out: Path, seed: int = 0) -> int:
    """Train the tokenizer, draw the weights, write both to a folder.

    Args:
        questions: A table with the columns `question` and `options`.
        out: The folder to write.
        seed: Seed of the weights.

    Returns:
        The number of weights.
    """
    tokenizer = train_tokenizer(map(text_of, read_table(str(questions))))
    model = random_model(tokenizer, seed)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    return int(model.num_parameters())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--questions", default="../shared/data/mmlu_pro_qwen25_3b_entropy.parquet")
    parser.add_argument("--out", type=Path, default=Path("runs/mmlu_pro_real/student"))
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    print(f"{make_student(chosen.questions, chosen.out, chosen.seed):,} random weights -> {chosen.out}")
