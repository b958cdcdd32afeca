"""How well a model answers toy questions: at once, by a worked chain, and how well its entropy finds its errors."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import BatchEncoding, GenerationConfig, PreTrainedModel

from teachwise.stats import roc_auc

from .benchmark import ToyQuestion, user_message
from .tokenizer import build_tokenizer, token_ids

MAX_CHAIN_TOKENS = 64
"""The longest right chain, of five kin steps, takes 37 tokens."""
BATCH = 250


def encode_prompts(questions: Sequence[ToyQuestion], mode: str) -> BatchEncoding:
    """Render and tokenise the questions as generation prompts, padded on the left."""
    tokenizer = build_tokenizer()
    chats = [[{"role": "user", "content": user_message(q.question, q.options, mode)}] for q in questions]
    texts = [tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False) for chat in chats]
    return tokenizer(texts, padding=True, return_tensors="pt", return_token_type_ids=False)


@torch.no_grad()
def answer_directly(model: PreTrainedModel, questions: Sequence[ToyQuestion]) -> tuple[list[bool], list[float]]:
    """Return, per question, whether the likeliest first token is the right answer, and its entropy in nats."""
    ids, right, entropies = token_ids(), [], []
    for start in range(0, len(questions), BATCH):
        batch = questions[start : start + BATCH]
        prompts = encode_prompts(batch, "direct")
        positions = (prompts["attention_mask"].cumsum(-1) - 1).clamp(min=0)
        logits = model(**prompts, position_ids=positions, logits_to_keep=1).logits[:, -1]
        entropies += torch.distributions.Categorical(logits=logits).entropy().tolist()
        right += (logits.argmax(-1) == torch.tensor([ids[question.answer] for question in batch])).tolist()
    return right, entropies


@torch.no_grad()
def answer_by_chain(model: PreTrainedModel, questions: Sequence[ToyQuestion]) -> list[bool]:
    """Return, per question, whether the greedy chain ends in the right answer in brackets."""
    tokenizer, right = build_tokenizer(), []
    settings = GenerationConfig(
        max_new_tokens=MAX_CHAIN_TOKENS,
        do_sample=False,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    for start in range(0, len(questions), BATCH):
        batch = questions[start : start + BATCH]
        prompts = encode_prompts(batch, "cot")
        output = model.generate(**prompts, generation_config=settings)[:, prompts["input_ids"].shape[1] :]
        texts = tokenizer.batch_decode(output, skip_special_tokens=True)
        right += [text.endswith(f"[[ {question.answer} ]]") for text, question in zip(texts, batch, strict=True)]
    return right


def _auc(scores: Sequence[float], wrong: Sequence[bool]) -> float | None:
    """Return the AUC of scores against errors; None when all answers are wrong or all are right."""
    is_told = 0 < sum(wrong) < len(wrong)
    return round(roc_auc(np.array(scores), np.array(wrong)).value, 4) if is_told else None


def _mean(values: Sequence[float]) -> float:
    return round(sum(values) / len(values), 4)


def evaluate(model: PreTrainedModel, questions: Sequence[ToyQuestion]) -> dict[str, Any]:
    """Measure a model: accuracy in both modes and how well entropy finds errors, in all and per steps and subject.

    Returns:
        ``n``, ``chance`` (of a guess among the options), ``direct``, ``cot``, ``auc``, ``entropy_nats``, and the same
        for every group under ``groups``.
    """
    model.eval()
    direct, entropies = answer_directly(model, questions)
    chain = answer_by_chain(model, questions)
    groups: dict[str, list[int]] = defaultdict(list)
    for index, question in enumerate(questions):
        groups[f"steps_{question.steps}"].append(index)
        groups[question.subject].append(index)

    def measure(rows: Sequence[int]) -> dict[str, Any]:
        return {
            "n": len(rows),
            "chance": _mean([1 / len(questions[i].options) if questions[i].options else 0.0 for i in rows]),
            "direct": _mean([direct[i] for i in rows]),
            "cot": _mean([chain[i] for i in rows]),
            "auc": _auc([entropies[i] for i in rows], [not direct[i] for i in rows]),
            "entropy_nats": _mean([entropies[i] for i in rows]),
        }

    return {
        **measure(range(len(questions))),
        "groups": {name: measure(rows) for name, rows in sorted(groups.items())},
    }


def summarise(figures: dict[str, Any]) -> str:
    """Return an evaluation as one line: direct/chain/AUC, in all and per group."""
    groups = [
        f"{name}={row['direct']:.2f}/{row['cot']:.2f}/{row['auc'] or 0:.2f}" for name, row in figures["groups"].items()
    ]
    return f"{figures['direct']:.3f}/{figures['cot']:.3f}/{figures['auc'] or 0:.3f} {' '.join(groups)}"
