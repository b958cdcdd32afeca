"""Pre-train the toy student from nothing: ``python -m teachwise.toy.pretrain --out DIR``.

Three phases, all on exam sheets (see ``sheets``): a look-up drill that teaches finding a value among the options, a
long phase of recall, short answers and chains of one or two steps, and a short phase that leans towards chains.

Next to the loss on the text, an auxiliary loss asks that, where an answer letter is about to be predicted, the state
after layer 2 already names the answer's value. Without it, short answers stayed at chance in earlier trials.

Same seed, settings and number of threads: same weights.
"""

from __future__ import annotations

import argparse
import math
import platform
import random
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

from .benchmark import N_OPTIONS, ToyQuestion, draw
from .exam import evaluate, summarise
from .saving import save_student
from .sheets import Sheet, exam_sheet, facts_sheet, lookup_sheet, value_sheet
from .tokenizer import BOS, EOS, MAX_TOKENS, PAD, token_ids

HEAD_WIDTH, LAYERS = 16, 5
ROPE_THETA = 100.0
INIT_SCALE = 1.2
AUX_LAYER, AUX_WEIGHT = 2, 0.5
BETAS, MOMENTUM, WEIGHT_DECAY, CLIP = (0.9, 0.95), 0.95, 0.05, 1.0
WARMUP_STEPS = 100
IGNORED = -100
BATCHES_PER_POOL = 8
LOG_EVERY, CHECK_EVERY = 250, 1000


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
    think_groups: tuple[float, ...] = (1.3, 1.0, 1.0, 1.0, 0.5, 0.7)


PHASES = (
    Phase("A1", 1200, 32, 3e-3, 0.0, {"lookup": 1.0}),
    Phase("A2", 3500, 16, 4e-3, 0.0, {"facts": 0.25, "value": 0.08, "lookup": 0.05, "direct": 0.42, "think": 0.20}),
    Phase(
        "B",
        1200,
        16,
        4e-3,
        0.4,
        {"facts": 0.12, "value": 0.04, "lookup": 0.03, "direct": 0.33, "think": 0.48},
        think_steps=(0.5, 0.5),
        think_groups=(1.6, 1.0, 1.0, 1.0, 0.5, 0.7),
    ),
)
DRILL_OPTIONS = ((0.17, (2, 2)), (0.42, (2, 3)), (0.62, (2, 5)), (0.80, (3, 8)), (1.0, N_OPTIONS))
"""The drill's curriculum: up to which share of phase A1 a sheet has how many options."""
GROUP_SHARES = (1.5, 1.0, 1.0, 1.0, 1.2, 0.6)


@dataclass(frozen=True)
class Size:
    """Widths of a model: of its states, of all heads together (16 each), and inside its feed-forward blocks."""

    hidden: int
    heads: int
    inner: int


SIZES = {"half": Size(48, 6, 128), "student": Size(64, 8, 192), "double": Size(96, 12, 224)}


def build_model(seed: int, size: Size) -> LlamaForCausalLM:
    """Return an untrained model of 5 layers."""
    torch.manual_seed(seed)
    ids = token_ids()
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(ids),
            hidden_size=size.hidden,
            num_hidden_layers=LAYERS,
            num_attention_heads=size.heads,
            num_key_value_heads=size.heads,
            head_dim=HEAD_WIDTH,
            intermediate_size=size.inner,
            max_position_embeddings=MAX_TOKENS,
            tie_word_embeddings=True,
            initializer_range=INIT_SCALE / math.sqrt(size.hidden),
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
        n_options = next(k for upto, k in DRILL_OPTIONS if done < upto) if drill else N_OPTIONS
        return lookup_sheet(rng, n_options, GROUP_SHARES)
    if kind == "facts":
        return facts_sheet(rng, n=12)
    if kind == "value":
        return value_sheet(rng, (0.9, 0.1), GROUP_SHARES, n=6)
    if kind == "direct":
        return exam_sheet(rng, kind, phase.direct_steps, GROUP_SHARES, n=rng.choice([1, 10, 10, 10]))
    return exam_sheet(rng, kind, phase.think_steps, phase.think_groups, n=rng.choice([1, 4, 4]))


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


def build_optimizers(model: LlamaForCausalLM) -> list[torch.optim.Optimizer]:
    """Return Muon for the matrices inside the layers, and AdamW without decay for embeddings and norms.

    With AdamW alone the same student needs about three times the steps. Muon's updates are scaled to the size of
    AdamW's, so that one learning rate serves both.
    """
    matrices: list[torch.nn.Parameter] = []
    others: list[torch.nn.Parameter] = []
    for name, parameter in model.named_parameters():
        (matrices if parameter.dim() == 2 and "embed" not in name else others).append(parameter)
    muon = torch.optim.Muon(
        matrices, lr=0.0, weight_decay=WEIGHT_DECAY, momentum=MOMENTUM, ns_steps=4, adjust_lr_fn="match_rms_adamw"
    )
    return [muon, torch.optim.AdamW(others, lr=0.0, betas=BETAS, weight_decay=0.0)]


def learning_rate(phase: Phase, step: int) -> float:
    """Return the rate of a step: linear warm-up, constant, then a linear fall over the last `decay_share`."""
    rise = min(1.0, (step + 1) / WARMUP_STEPS)
    left = 1 - step / phase.steps
    return phase.peak_lr * rise * (min(1.0, 0.03 + left / phase.decay_share) if phase.decay_share else 1.0)


class Meter:
    """Mean losses since the last report, per kind of sheet, over the tokens of full weight (the answers)."""

    def __init__(self) -> None:
        self._losses: dict[str, list[float]] = defaultdict(list)

    def add(self, name: str, losses: torch.Tensor) -> None:
        """Count some losses under a name."""
        self._losses[name] += losses.flatten().tolist()

    def add_batch(self, sheets: Sequence[Sheet], each: torch.Tensor) -> None:
        """Count a batch's losses, which come in row order, under the kinds of its sheets."""
        start = 0
        for sheet in sheets:
            weights = torch.tensor([weight for weight in sheet.weights if weight > 0])
            self.add(sheet.kind, each[start : start + len(weights)][weights == 1])
            start += len(weights)

    def report(self) -> str:
        """Return the means as text and start anew."""
        means = {name: sum(losses) / len(losses) for name, losses in sorted(self._losses.items()) if losses}
        self._losses.clear()
        return " ".join(f"{name} {mean:.3f}" for name, mean in means.items())


def train_phase(model: LlamaForCausalLM, phase: Phase, seed: int, dev: Sequence[ToyQuestion], started: float) -> None:
    """Run one phase in place, printing losses and, now and then, dev accuracy."""
    rng, ids, meter = random.Random(f"{seed} {phase.name}"), token_ids(), Meter()
    optimizers = build_optimizers(model)
    model.train()
    for step, sheets in enumerate(draw_batches(rng, phase)):
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = learning_rate(phase, step)
        loss, each, aux = compute_losses(model, encode_batch(sheets, ids))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        for optimizer in optimizers:
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


def scale_phases(scale: float) -> list[Phase]:
    """Return the phases with their numbers of steps scaled, at least one each."""
    return [replace(phase, steps=max(1, round(phase.steps * scale))) for phase in PHASES]


def pretrain(
    out: Path, size: str = "student", seed: int = 0, steps_scale: float = 1.0, n_dev: int = 1000, threads: int = 1
) -> dict[str, Any]:
    """Pre-train a model and save it.

    Args:
        out: Folder to write to; made if missing.
        size: One of `SIZES`; ``student`` is the shipped one.
        seed: Seeds the weights and the sheets.
        steps_scale: Share of the full number of steps; a smoke run takes 0.002.
        n_dev: Dev questions for the last measurement; the ones on the way use at most 400 of them.
        threads: CPU threads; the weights are reproducible for the same number.

    Returns:
        The record that is also written to ``pretrain.json``.
    """
    torch.set_num_threads(threads)
    started, started_cpu = time.perf_counter(), time.process_time()
    dev, model = draw("dev", n_dev, seed=0), build_model(seed, SIZES[size])
    phases = scale_phases(steps_scale)
    for phase in phases:
        train_phase(model, phase, seed, dev[:400], started)
    record = {
        "size": size,
        "seed": seed,
        "threads": threads,
        "steps_scale": steps_scale,
        "parameters": model.num_parameters(),
        "seconds": round(time.perf_counter() - started, 1),
        "cpu_seconds": round(time.process_time() - started_cpu, 1),
        "dev": evaluate(model, dev),
        "dev_open": evaluate(model, draw("dev", min(n_dev, 400), seed=0, kind="open")),
        "phases": [asdict(phase) for phase in phases],
        "optimizer": {
            "momentum": MOMENTUM,
            "betas": BETAS,
            "weight_decay": WEIGHT_DECAY,
            "clip": CLIP,
            "warmup_steps": WARMUP_STEPS,
        },
        "auxiliary_loss": {"layer": AUX_LAYER, "weight": AUX_WEIGHT},
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    }
    save_student(model, out, record)
    return record


def main(arguments: Sequence[str] | None = None) -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m teachwise.toy.pretrain", description="Pre-train the toy student.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write the student to")
    parser.add_argument("--size", choices=SIZES, default="student", help="default: student, the shipped one")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and data (default 0)")
    parser.add_argument("--steps-scale", type=float, default=1.0, help="share of the steps to run (default 1.0)")
    parser.add_argument("--n-dev", type=int, default=1000, help="dev questions to measure on (default 1000)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
    chosen = parser.parse_args(arguments)
    record = pretrain(chosen.out, chosen.size, chosen.seed, chosen.steps_scale, chosen.n_dev, chosen.threads)
    print(f"saved {chosen.out} after {record['seconds']:.0f}s, dev {summarise(record['dev'])}")


if __name__ == "__main__":
    main()
