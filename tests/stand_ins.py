"""Stand-ins for what tests of the docs have not: a student from the hub and a hosted teacher."""

import importlib.util
import sys
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import Qwen2Config, Qwen2ForCausalLM

from teachwise.chat import Chat
from teachwise.tasks import load_task
from teachwise.tasks.table import read_table

ROOT = Path(__file__).parents[1]
QUIZ = ROOT / "examples" / "quiz"
LETTERS = "ABCD"
UPDATES = 60


def module(name):
    """A file of the example with real questions, imported under a name of its own."""
    spec = importlib.util.spec_from_file_location(
        f"stand_in_{name}", ROOT / "examples" / "mmlu_pro_real" / f"{name}.py"
    )
    found = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = found
    spec.loader.exec_module(found)
    return found


def write_student(folder):
    """A tiny student that knows two thirds of the quiz by heart, at once and thinking, and guesses at the rest."""
    rows = [row for row in read_table(str(QUIZ / "questions.csv")) if row["answer"]]
    texts = [" ".join(str(cell) for cell in row.values()) for row in rows] * 3
    tokenizer = module("make_student").train_tokenizer([*texts, PROMPT_WORDS * 3])
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=1,
            num_attention_heads=4,
            num_key_value_heads=2,
            initializer_range=0.1,
            tie_word_embeddings=True,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    _learn(model, Chat(tokenizer))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _learn(model, chat):
    """At once it knows two thirds, thinking some more; the loss is taken where it writes, and only there."""
    task = load_task("multiple_choice", source=str(QUIZ / "questions.csv"))
    examples = [row.example("train") for row in task.rows() if hasattr(row, "answer")]
    prompts, completions = [], []
    for number, one in enumerate(examples):
        letters = LETTERS if number % 3 == 2 else one.answer
        thought = LETTERS[number % 4] if number % 6 == 2 else one.answer
        for mode, texts in (("direct", letters), ("cot", [f"I think it is [[{thought}]]"])):
            prompts += chat.prompt_ids([task.messages(one, mode)]) * len(texts)
            completions += chat.completion_ids(list(texts))
    ids = pad_sequence([torch.tensor(p + c) for p, c in zip(prompts, completions, strict=True)], True, chat.pad_id)
    labels = pad_sequence(
        [torch.tensor([-100] * (len(p) - 1) + c) for p, c in zip(prompts, completions, strict=True)], True, -100
    )
    labels = torch.nn.functional.pad(labels, (0, ids.shape[1] - labels.shape[1]), value=-100)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    lot = torch.Generator().manual_seed(0)
    for _ in range(UPDATES):
        chosen = torch.randperm(len(ids), generator=lot)[:40]
        hidden = model.model(input_ids=ids[chosen]).last_hidden_state
        written = labels[chosen] >= 0
        torch.nn.functional.cross_entropy(model.lm_head(hidden[written]), labels[chosen][written]).backward()
        optimizer.step()
        optimizer.zero_grad()


PROMPT_WORDS = (
    "You answer multiple-choice questions about geography. Reply with the letter of the correct option and nothing "
    "else. Which option is correct? Reply with its letter only. Think step by step, then end your reply with the "
    "letter of the correct option in double square brackets. Think step by step and end with [[X]], where X is its "
    "letter. "
)


@contextmanager
def scripted_teacher():
    """A server that explains the quiz, and is wrong about every eighth question; the address is handed out."""
    replay = module("replay_server")
    recording = {}
    for number, row in enumerate(read_table(str(QUIZ / "questions.csv"))):
        if row["answer"]:
            letter = row["answer"] if number % 8 else LETTERS[LETTERS.index(row["answer"]) - 1]
            options = [row[name] for name in LETTERS]
            text = f"Of the four, {row[letter]} fits what is asked, and the others do not. The answer is [[{letter}]]."
            recording[replay.as_asked(row["question"], options)] = text
    with replay.served(recording) as server:
        yield server.base_url
