"""Writing a pre-trained toy student down: the model, its tokenizer, its card and the record of its making."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import GenerationConfig, LlamaForCausalLM

from .tokenizer import BOS, EOS, PAD, build_tokenizer, token_ids

MODEL_CARD = """---
license: apache-2.0
library_name: transformers
pipeline_tag: text-generation
tags: [teachwise, toy]
---

# Teachwise toy student

A Llama of {parameters:,} parameters, pre-trained from nothing in {cpu_seconds:.0f} seconds of processor time.
It answers the questions of `teachwise.toy.benchmark` and nothing else. It exists so that the whole of Teachwise can be
run, tested and shown offline in minutes.

    python -m teachwise.toy.pretrain --size {size} --seed {seed} --out student

## What it was shown

- Questions of the split `practice` only (35% of all stems, by a hash of their text), at once and worked out. Chains of
  one or two steps were worked out; chains of three and more were not, so that a teacher has something to teach.
- Lists of single facts, whatever split their stem belongs to, such as `6 + 7 is 3` or `metal of land7 is tin`.
- No stem of train, dev or test was ever asked. Every setting was chosen on dev.

## How it is asked

One word is one token. A user message ending in `answer` asks for the answer at once, one ending in `think` for a
worked chain that ends in `[[ B ]]`. System messages are left out by the chat template.

## What it measures on dev

| questions | n | chance | at once | by a chain | AUC of entropy against errors |
|---|---|---|---|---|---|
{table}

All figures and settings: `pretrain.json`. No use beyond demonstration and tests is intended.
"""


def card_table(record: dict[str, Any]) -> str:
    """Write the dev figures as rows of a table: all multiple-choice questions, their groups, and the open ones."""
    figures = {"all": record["dev"], **record["dev"]["groups"], "open (`sum`)": record["dev_open"]}
    rows = []
    for name, one in figures.items():
        chance = f"{one['chance']:.2f}" if one["chance"] else ""
        auc = f"{one['auc']:.2f}" if one["auc"] else ""
        name = name.replace("steps_1", "1 step").replace("steps_", "steps: ")
        rows.append(f"| {name} | {one['n']} | {chance} | {one['direct']:.2f} | {one['cot']:.2f} | {auc} |")
    return "\n".join(rows)


def save_student(model: LlamaForCausalLM, out: Path, record: dict[str, Any]) -> None:
    """Write the model, its tokenizer, its card and the record of its pre-training to a folder."""
    ids = token_ids()
    model.generation_config = GenerationConfig(
        bos_token_id=ids[BOS], eos_token_id=ids[EOS], pad_token_id=ids[PAD], do_sample=False
    )
    model.save_pretrained(out)
    build_tokenizer().save_pretrained(out)
    (out / "pretrain.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    (out / "README.md").write_text(MODEL_CARD.format(**record, table=card_table(record)), encoding="utf-8")
