"""Pre-train the toy student from nothing: ``python -m teachwise.toy.pretrain --out DIR``.

Three phases, all on exam sheets (see ``sheets``): a look-up drill that teaches finding a value among the options, a
long phase of recall, short answers and chains of one or two steps, and a short phase that leans towards chains.

Next to the loss on the text, an auxiliary loss asks that, where an answer letter is about to be predicted, the state
after layer 2 already names the answer's value. Without it, short answers stayed at chance in earlier trials.

Same seed, settings and number of threads: same weights.
"""

from __future__ import annotations

import math
import random
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import transformers
from torch.nn import functional
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from .benchmark import N_OPTIONS, ToyQuestion, user_message
from .sheets import Sheet, exam_sheet, lookup_sheet, value_sheet
from .tokenizer import BOS, EOS, MAX_TOKENS, PAD, build_tokenizer, token_ids

HIDDEN, LAYERS, HEADS, HEAD_WIDTH, INNER = 64, 5, 8, 16, 192
ROPE_THETA = 100.0
INIT_SCALE = 1.2
AUX_LAYER, AUX_WEIGHT = 2, 0.5
BETAS, WEIGHT_DECAY, CLIP = (0.9, 0.95), 0.05, 1.0
WARMUP_STEPS = 100
IGNORED = -100
BATCHES_PER_POOL = 8
LOG_EVERY, CHECK_EVERY = 250, 1000
MAX_CHAIN_TOKENS = 64


@dataclass(frozen=True)
class Phase:
    """Settings of one phase.

    Attributes:
        name: Shown in the log; also seeds the phase's own source of chance.
        steps: Updates.
        batch_size: Sheets per update.
        peak_lr: Learning rate after warm-up.
        decay_share: Last part of the phase in which the rate falls linearly to near zero.
        mix: Shares of the kinds of sheet.
        direct_steps: Shares of 1, 2, ... step questions on ``direct`` sheets.
        think_steps: The same on ``think`` sheets.
        think_groups: Shares of the subject groups on ``think`` sheets.
    """

    name: str
    steps: int
    batch_size: int
    peak_lr: float
    decay_share: float
    mix: dict[str, float]
    direct_steps: tuple[float, ...] = (0.70, 0.10, 0.08, 0.06, 0.06)
    think_steps: tuple[float, ...] = (0.6, 0.4)
    think_groups: tuple[float, ...] = (1.3, 1.0, 1.0, 0.6)


PHASES = (
    Phase("A1", 1100, 32, 1.0e-3, 0.0, {"lookup": 1.0}),
    Phase("A2", 4900, 16, 1.5e-3, 0.0, {"value": 0.22, "lookup": 0.05, "direct": 0.53, "think": 0.20}),
    Phase(
        "B",
        2000,
        16,
        1.5e-3,
        0.4,
        {"value": 0.05, "lookup": 0.03, "direct": 0.37, "think": 0.55},
        think_steps=(0.4, 0.3, 0.3),
        think_groups=(1.6, 1.0, 1.0, 0.5),
    ),
)
DRILL_OPTIONS = ((0.18, (2, 2)), (0.45, (2, 3)), (0.73, (2, N_OPTIONS)), (1.0, (N_OPTIONS, N_OPTIONS)))
"""The drill's curriculum: up to which share of phase A1 a sheet has how many options."""
GROUP_SHARES = (1.3, 1.0, 1.0, 1.0)


def build_model(seed: int) -> LlamaForCausalLM:
    """Return the untrained student: 5 layers of width 64 with 8 heads, about 360 thousand parameters."""
    torch.manual_seed(seed)
    ids = token_ids()
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(ids),
            hidden_size=HIDDEN,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            num_key_value_heads=HEADS,
            head_dim=HEAD_WIDTH,
            intermediate_size=INNER,
            max_position_embeddings=MAX_TOKENS,
            tie_word_embeddings=True,
            initializer_range=INIT_SCALE / math.sqrt(HIDDEN),
            rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
            pad_token_id=ids[PAD],
            bos_token_id=ids[BOS],
            eos_token_id=ids[EOS],
        )
    )


# ------------------------------------------------------------------------------------------------ data


def draw_sheet(rng: random.Random, phase: Phase, done: float) -> Sheet:
    """Draw one training sequence; `done` is the share of the phase that is behind us."""
    kind = rng.choices(list(phase.mix), list(phase.mix.values()))[0]
    if kind == "lookup":
        drill = len(phase.mix) == 1
        n_options = next(k for upto, k in DRILL_OPTIONS if done < upto) if drill else (N_OPTIONS, N_OPTIONS)
        return lookup_sheet(rng, n_options, GROUP_SHARES)
    if kind == "value":
        return value_sheet(rng, (0.9, 0.1), GROUP_SHARES, n=6)
    if kind == "direct":
        return exam_sheet(rng, kind, phase.direct_steps, GROUP_SHARES, n=rng.choice([1, 6, 6, 6]))
    return exam_sheet(rng, kind, phase.think_steps, phase.think_groups, n=rng.choice([1, 3, 3]))


def draw_batches(rng: random.Random, phase: Phase) -> Iterator[list[Sheet]]:
    """Yield the phase's batches; sheets of like length go together, so that little is padding."""
    step, size = 0, phase.batch_size
    while step < phase.steps:
        pool = [draw_sheet(rng, phase, step / phase.steps) for _ in range(size * BATCHES_PER_POOL)]
        pool.sort(key=lambda sheet: len(sheet.words))
        batches = [pool[start : start + size] for start in range(0, len(pool), size)]
        rng.shuffle(batches)
        yield from batches[: phase.steps - step]
        step += len(batches)


@dataclass(frozen=True)
class Batch:
    """Tensors of shape (B, T): token ids, target weights, and value ids (`IGNORED` where there is none)."""

    ids: torch.Tensor
    weights: torch.Tensor
    values: torch.Tensor


def encode_batch(sheets: Sequence[Sheet], ids: dict[str, int]) -> Batch:
    """Turn sheets into tensors, padded on the right."""
    shape = len(sheets), max(len(sheet.words) for sheet in sheets)
    batch = Batch(torch.full(shape, ids[PAD]), torch.zeros(shape), torch.full(shape, IGNORED))
    for row, sheet in enumerate(sheets):
        length = len(sheet.words)
        batch.ids[row, :length] = torch.tensor([ids[word] for word in sheet.words])
        batch.weights[row, :length] = torch.tensor(sheet.weights)
        batch.values[row, :length] = torch.tensor([IGNORED if v is None else ids[v] for v in sheet.values])
    return batch


# -------------------------------------------------------------------------------------------- training


def compute_losses(model: LlamaForCausalLM, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the total loss, the loss of every target in row order, and the auxiliary loss (0 without targets)."""
    output = model.model(input_ids=batch.ids, use_cache=False, output_hidden_states=True)
    weights = batch.weights[:, 1:]
    wanted = weights > 0
    logits = model.lm_head(output.last_hidden_state[:, :-1][wanted])
    each = functional.cross_entropy(logits, batch.ids[:, 1:][wanted], reduction="none")
    loss = (each * weights[wanted]).sum() / weights.sum()
    named = batch.values != IGNORED
    aux = torch.zeros(())
    if named.any():
        state = model.model.norm(output.hidden_states[AUX_LAYER][named])
        aux = functional.cross_entropy(model.lm_head(state), batch.values[named])
    return loss + AUX_WEIGHT * aux, each.detach(), aux.detach()


def build_optimizer(model: LlamaForCausalLM) -> torch.optim.AdamW:
    """Return AdamW with weight decay on the matrices only, not on embeddings and norms."""
    decayed, plain = [], []
    for name, parameter in model.named_parameters():
        (decayed if parameter.dim() > 1 and "embed" not in name else plain).append(parameter)
    groups = [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=0.0, betas=BETAS)


def learning_rate(phase: Phase, step: int) -> float:
    """Return the rate of a step: linear warm-up, constant, then a linear fall over the last `decay_share`."""
    rise = min(1.0, (step + 1) / WARMUP_STEPS)
    left = 1 - step / phase.steps
    return phase.peak_lr * rise * (min(1.0, 0.03 + left / phase.decay_share) if phase.decay_share else 1.0)


class Meter:
    """Mean losses since the last report, per kind of sheet, over the tokens of full weight (the answers)."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = defaultdict(float)
        self._counts: dict[str, int] = defaultdict(int)

    def add(self, name: str, losses: torch.Tensor) -> None:
        """Count some losses under a name."""
        self._sums[name] += losses.sum().item()
        self._counts[name] += losses.numel()

    def add_batch(self, sheets: Sequence[Sheet], each: torch.Tensor) -> None:
        """Count a batch's losses, which come in row order, under the kinds of its sheets."""
        start = 0
        for sheet in sheets:
            weights = torch.tensor([weight for weight in sheet.weights if weight > 0])
            self.add(sheet.kind, each[start : start + len(weights)][weights == 1])
            start += len(weights)

    def report(self) -> str:
        """Return the means as text and start anew."""
        text = " ".join(f"{name} {self._sums[name] / self._counts[name]:.3f}" for name in sorted(self._sums))
        self.__init__()
        return text


def train_phase(model: LlamaForCausalLM, phase: Phase, seed: int, dev: Sequence[ToyQuestion], started: float) -> None:
    """Run one phase in place, printing losses and, now and then, dev accuracy."""
    rng, ids, meter = random.Random(f"{seed} {phase.name}"), token_ids(), Meter()
    optimizer = build_optimizer(model)
    model.train()
    for step, sheets in enumerate(draw_batches(rng, phase)):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(phase, step)
        loss, each, aux = compute_losses(model, encode_batch(sheets, ids))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % 4 == 0:
            meter.add_batch(sheets, each)
            meter.add("aux", aux)
        if (step + 1) % LOG_EVERY == 0:
            print(f"{phase.name} {step + 1} {time.perf_counter() - started:.0f}s {meter.report()}", flush=True)
        if (step + 1) % CHECK_EVERY == 0 or step + 1 == phase.steps:
            print(f"{phase.name} {step + 1} dev {summarise(evaluate(model, dev))}", flush=True)
            model.train()


# ------------------------------------------------------------------------------------------- measuring


def encode_prompts(questions: Sequence[ToyQuestion], mode: str) -> transformers.BatchEncoding:
    """Render and tokenise the questions as generation prompts, padded on the left."""
    tokenizer = build_tokenizer()
    chats = [[{"role": "user", "content": user_message(q.question, q.options, mode)}] for q in questions]
    texts = [tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False) for chat in chats]
    return tokenizer(texts, padding=True, return_tensors="pt", return_token_type_ids=False)


@torch.no_grad()
def answer_directly(model: LlamaForCausalLM, questions: Sequence[ToyQuestion]) -> tuple[list[bool], list[float]]:
    """Return, per question, whether the likeliest first token is the right letter, and its entropy in nats."""
    ids = token_ids()
    prompts = encode_prompts(questions, "direct")
    positions = (prompts["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    logits = model(**prompts, position_ids=positions, logits_to_keep=1).logits[:, -1]
    entropies = torch.distributions.Categorical(logits=logits).entropy()
    gold = torch.tensor([ids[question.answer] for question in questions])
    return (logits.argmax(-1) == gold).tolist(), entropies.tolist()


@torch.no_grad()
def answer_by_chain(model: LlamaForCausalLM, questions: Sequence[ToyQuestion]) -> list[bool]:
    """Return, per question, whether the greedy chain ends in the right letter in brackets."""
    tokenizer, prompts = build_tokenizer(), encode_prompts(questions, "cot")
    settings = GenerationConfig(
        max_new_tokens=MAX_CHAIN_TOKENS,
        do_sample=False,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    output = model.generate(**prompts, generation_config=settings)[:, prompts["input_ids"].shape[1] :]
    texts = tokenizer.batch_decode(output, skip_special_tokens=True)
    return [text.endswith(f"[[ {question.answer} ]]") for text, question in zip(texts, questions, strict=True)]


def rank_auc(scores: Sequence[float], wrong: Sequence[bool]) -> float:
    """Return the probability that a wrong answer has a higher score than a right one; ties count half.

    >>> rank_auc([0.1, 0.9, 0.5], [False, True, False])
    1.0
    """
    bad = [score for score, is_wrong in zip(scores, wrong, strict=True) if is_wrong]
    good = [score for score, is_wrong in zip(scores, wrong, strict=True) if not is_wrong]
    wins = sum((b > g) + 0.5 * (b == g) for b in bad for g in good)
    return wins / (len(bad) * len(good)) if bad and good else float("nan")


def _mean(values: Sequence[float]) -> float:
    return round(sum(values) / len(values), 4) if values else float("nan")


def evaluate(model: LlamaForCausalLM, questions: Sequence[ToyQuestion]) -> dict[str, object]:
    """Measure a model: accuracy in both modes, in all and per steps and subject, and how well entropy finds errors."""
    model.eval()
    direct, entropies = answer_directly(model, questions)
    chain = answer_by_chain(model, questions)
    groups: dict[str, list[int]] = defaultdict(list)
    for index, question in enumerate(questions):
        groups[f"steps_{question.steps}"].append(index)
        groups[question.subject].append(index)
    return {
        "n": len(questions),
        "direct": _mean(direct),
        "cot": _mean(chain),
        "auc": round(rank_auc(entropies, [not right for right in direct]), 4),
        "entropy_nats": _mean(entropies),
        "groups": {
            name: {"n": len(rows), "direct": _mean([direct[i] for i in rows]), "cot": _mean([chain[i] for i in rows])}
            for name, rows in sorted(groups.items())
        },
    }


def summarise(figures: dict[str, object]) -> str:
    """Return an evaluation as one line: direct/cot, in all and per group."""
    groups = " ".join(f"{name}={row['direct']:.2f}/{row['cot']:.2f}" for name, row in figures["groups"].items())
    return f"{figures['direct']:.3f}/{figures['cot']:.3f} auc {figures['auc']:.3f} {groups}"
