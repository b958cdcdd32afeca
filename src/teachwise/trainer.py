"""One stage of supervised fine-tuning: TRL's `SFTTrainer` and PEFT behind flat arguments.

The rows come tokenised by `Chat`, so TRL neither renders a template nor cuts anything: the loss is on the completion
and the token that ends the turn, and on nothing else. Batches are not packed. A stage that is killed goes on from its
last whole checkpoint, with the same data order and random state, to the same weights.

What a stage is about to be fed can be looked at before its first update (`Ready`), and every finished stage keeps a
few sequences with their loss, so that whoever loads its weights can tell whether they are the trained ones.
"""

import errno
import math
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.markup import escape

from teachwise.chat import Chat
from teachwise.console import say
from teachwise.run_folder import write_json
from teachwise.run_log import to_log

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # read when the libraries below are imported

import datasets
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import SafetensorError
from transformers import GenerationConfig, TrainerCallback, TrainerControl, TrainerState, TrainingArguments, set_seed
from trl import SFTConfig, SFTTrainer

from teachwise.engines import find_model
from teachwise.engines.hf import load_chat, load_model, pick_device, pick_dtype
from teachwise.probe import Reload, reload_of, write_probe

datasets.disable_progress_bars()
to_log("datasets", "trl", "peft", "accelerate")

_WHOLE = "whole"
"""Marks a checkpoint that was written to its end; the Trainer itself leaves no such sign."""


@dataclass(frozen=True)
class Row:
    """One training sequence.

    Attributes:
        prompt: Token ids that carry no loss.
        completion: Token ids to learn, the one that ends the turn included.
    """

    prompt: list[int]
    completion: list[int]

    @property
    def length(self) -> int:
        """Tokens in all."""
        return len(self.prompt) + len(self.completion)


@dataclass(frozen=True)
class Lora:
    """Shape of the adapter, on every linear layer."""

    r: int
    alpha: int
    dropout: float


@dataclass(frozen=True)
class Settings:
    """How to train one stage.

    Attributes:
        lora: None trains all weights.
        updates: Optimizer steps.
        batch_size: Examples per update.
        micro_batch_size: Examples in memory at once; divides `batch_size`.
        warmup_updates: Updates over which the learning rate rises.
        save_every: Updates between checkpoints.
    """

    lora: Lora | None
    updates: int
    learning_rate: float
    schedule: str
    warmup_updates: int
    weight_decay: float
    batch_size: int
    micro_batch_size: int
    gradient_checkpointing: bool
    save_every: int
    seed: int


@dataclass(frozen=True)
class Ready:
    """A stage as it stands before its first update.

    Attributes:
        feed: From numbers of rows to (ids, labels) of each as the model gets them, without padding.
        trainable: Weights that training will move.
        rows_per_update: In memory at once x accumulated x devices, as the trainer counts them.
        reload: What became of the weights of the stage before; None where there is none.
    """

    feed: Callable[[Sequence[int]], list[tuple[list[int], list[int]]]]
    trainable: int
    rows_per_update: int
    reload: Reload | None


def updates_for(n_assigned: int, batch_size: int, epochs: float) -> int:
    """Optimizer steps of a stage.

    Counted over what was *assigned*, so that arms which were given as much train as long, however many of their
    rationales were rejected.

    Example:
        >>> updates_for(100, 16, 3)
        21
    """
    return max(1, round(math.ceil(n_assigned / batch_size) * epochs))


def train_stage(
    student: dict[str, Any],
    start: Path | None,
    rows: Sequence[Row],
    out: Path,
    settings: Settings,
    on_update: Callable[[int, str], None],
    on_ready: Callable[[Ready], None] = lambda ready: None,
) -> dict[str, Any]:
    """Train, and leave an adapter (or a whole model) with its tokenizer in `out`.

    Args:
        student: model, revision, dtype, device, trust_remote_code.
        start: The folder of the stage before, or None for the base.
        rows: What to learn.
        out: Appears when the stage is complete, never before.
        settings: How.
        on_update: Called after every update with its number and a short note.
        on_ready: Called before the first update; nothing is trained if it raises.

    Returns:
        Updates, tokens trained on, and the loss curve; also written to `out/stage.json`.
    """
    work = out.with_name(out.name + ".work")
    set_seed(settings.seed)
    model, chat = _model(student, start, settings)
    reload = reload_of(model, start)
    trainer = _trainer(model, chat, rows, work, settings, on_update)
    on_ready(_ready(trainer, reload))
    ready = work / "ready"
    checkpoint = _last_whole(work)
    if checkpoint:
        update = int(checkpoint.rpartition("-")[2])
        say(escape(f"going on from update {update:,} of {settings.updates:,}: {out}"))
    with _refusals_told(work):
        trainer.train(resume_from_checkpoint=checkpoint)
        result = _result(trainer.state, rows, settings)
        plain = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)  # not in mixed precision
        shutil.rmtree(ready, ignore_errors=True)
        write_probe(ready, plain, [(row.prompt, row.completion) for row in rows])
        trainer.model.save_pretrained(ready)
        chat.tokenizer.save_pretrained(ready)
    write_json(ready / "stage.json", result)
    for weights in ready.rglob("*.safetensors"):
        shutil.copymode(ready / "stage.json", weights)  # written for the owner alone, whatever the umask says
    os.replace(ready, out)
    shutil.rmtree(work)
    return result


def ready_stage(student: dict[str, Any], start: Path | None, rows: Sequence[Row], settings: Settings) -> Ready:
    """A stage made ready and not trained; see `train_stage`."""
    with TemporaryDirectory() as work:
        model, chat = _model(student, start, settings)
        reload = reload_of(model, start)
        return _ready(_trainer(model, chat, rows, Path(work), settings, lambda update, note: None), reload)


def _ready(trainer: SFTTrainer, reload: Reload | None) -> Ready:
    arguments = trainer.args
    return Ready(
        feed=partial(_fed, trainer),
        trainable=sum(weight.numel() for weight in trainer.model.parameters() if weight.requires_grad),
        rows_per_update=arguments.train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size,
        reload=reload,
    )


def _fed(trainer: SFTTrainer, numbers: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    batch = trainer.data_collator([trainer.train_dataset[number] for number in numbers])
    rows = zip(batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True)
    return [(ids[mask == 1].tolist(), labels[mask == 1].tolist()) for ids, labels, mask in rows]


def load_reload(student: dict[str, Any], folder: Path, settings: Settings) -> Reload | None:
    """Load a finished stage as the next one would, and see whether it is what was saved."""
    return reload_of(_model(student, folder, settings)[0], folder)


@contextmanager
def _refusals_told(folder: Path) -> Iterator[None]:
    """Writers of weights hide what the system refused in errors of their own; raise what it was."""
    try:
        yield
    except (SafetensorError, RuntimeError) as error:
        if found := re.search(r"\(os error (\d+)\)", str(error)):
            raise OSError(int(found[1]), os.strerror(int(found[1])), str(folder)) from error
        if "inline_container.cc" in str(error):  # torch checks the length of what it wrote, and knows no more
            raise OSError(errno.ENOSPC, "a checkpoint was not written whole", str(folder)) from error
        raise


def _model(student: dict[str, Any], start: Path | None, settings: Settings) -> tuple[Any, Chat]:
    """The model with the weights to go on from, and how to talk to it."""
    device = pick_device(student["device"])
    name, revision, trust = student["model"], student["revision"], student["trust_remote_code"]
    whole = start is not None and settings.lora is None
    dtype = pick_dtype(student["dtype"], device) if settings.lora else "float32"
    model = load_model(str(start) if whole else name, None if whole else revision, dtype, trust)
    chat = load_chat(name, revision, trust)
    model.generation_config = _generation_config(chat)
    if settings.lora:
        model = _with_adapter(model, start, settings.lora, revision)
    return model.to(device), chat


def _generation_config(chat: Chat) -> GenerationConfig:
    """Greedy, and stopping where the student stops.

    A checkpoint's own settings may be such that transformers loads them but refuses to save them.
    """
    return GenerationConfig(
        bos_token_id=chat.tokenizer.bos_token_id, eos_token_id=chat.stop_ids, pad_token_id=chat.pad_id
    )


def merge_adapter(student: Mapping[str, Any], adapter: Path, out: Path) -> str:
    """Add an adapter into the student's weights and write the whole model with its tokenizer.

    Args:
        student: model, revision, dtype, trust_remote_code.
        adapter: The adapter of the last stage, which goes on from those before it.
        out: Folder to write to.

    Returns:
        The dtype of the stored weights: the student's own. The sum itself is made in float32.
    """
    name, revision, trust = student["model"], student["revision"], student["trust_remote_code"]
    stored: str = student["dtype"]
    if stored == "auto":
        path = find_model(name)
        config = transformers.AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=trust)
        stored = str(config.dtype or torch.float32).removeprefix("torch.")
    chat = load_chat(name, revision, trust)
    merged = PeftModel.from_pretrained(load_model(name, revision, "float32", trust), str(adapter)).merge_and_unload()
    merged.generation_config = _generation_config(chat)
    merged.to(getattr(torch, stored)).save_pretrained(out)
    chat.tokenizer.save_pretrained(out)
    return stored


def _with_adapter(model: Any, start: Path | None, lora: Lora, revision: str | None) -> Any:
    if start is not None:
        return PeftModel.from_pretrained(model, str(start), is_trainable=True)
    shape = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, shape, revision=revision)  # recorded, so that PEFT loads the same student


def _trainer(
    model: Any, chat: Chat, rows: Sequence[Row], work: Path, settings: Settings, on_update: Callable[[int, str], None]
) -> SFTTrainer:
    if chat.tokenizer.pad_token_id is None:
        chat.tokenizer.pad_token_id = chat.pad_id
    on_cpu = model.device.type == "cpu"
    arguments = SFTConfig(
        output_dir=str(work),
        max_steps=settings.updates,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.schedule,
        warmup_steps=settings.warmup_updates,
        weight_decay=settings.weight_decay,
        per_device_train_batch_size=settings.micro_batch_size,
        gradient_accumulation_steps=settings.batch_size // settings.micro_batch_size,
        activation_checkpointing=settings.gradient_checkpointing,
        bf16=not on_cpu and torch.cuda.is_available() and torch.cuda.is_bf16_supported(),
        use_cpu=on_cpu,
        max_length=None,
        packing=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        save_steps=settings.save_every,
        save_total_limit=2,
        logging_steps=max(1, settings.updates // 100),
        seed=settings.seed,
        data_seed=settings.seed,
        dataloader_pin_memory=not on_cpu,
        disable_tqdm=True,
        report_to="none",
    )
    trainer = SFTTrainer(
        model=model,
        args=arguments,
        train_dataset=_dataset(rows),
        processing_class=chat.tokenizer,
        callbacks=[_Watch(on_update)],
    )
    trainer.remove_callback(transformers.PrinterCallback)
    return trainer


def _dataset(rows: Sequence[Row]) -> datasets.Dataset:
    return datasets.Dataset.from_dict(
        {
            "input_ids": [row.prompt + row.completion for row in rows],
            "labels": [[-100] * len(row.prompt) + row.completion for row in rows],
        }
    )


class _Watch(TrainerCallback):  # type: ignore[misc]
    """Moves the progress bar, and marks each checkpoint once it is whole."""

    def __init__(self, on_update: Callable[[int, str], None]) -> None:
        self.on_update = on_update

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        losses = [entry["loss"] for entry in state.log_history[-3:] if "loss" in entry]
        self.on_update(state.global_step, f"loss {losses[-1]:.3f}" if losses else "")
        if state.global_step == state.max_steps:
            control.should_save = False  # gone on from its last checkpoint, the Trainer would do one update too many

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        (Path(args.output_dir) / f"checkpoint-{state.global_step}" / _WHOLE).touch()


def _last_whole(work: Path) -> str | None:
    """The newest checkpoint that was written to its end; half-written ones are removed."""
    for folder in work.glob("checkpoint-*"):
        if not (folder / _WHOLE).exists():
            shutil.rmtree(folder)
    whole = sorted(work.glob("checkpoint-*"), key=lambda folder: int(folder.name.rpartition("-")[2]))
    return str(whole[-1]) if whole else None


def _passes(n_rows: int, updates: int, batch_size: int) -> float:
    """How often each row was seen; the last update of every pass takes what is left, be it less than a batch."""
    whole, rest = divmod(updates, math.ceil(n_rows / batch_size))
    return whole + min(rest * batch_size, n_rows) / n_rows


def _result(state: TrainerState, rows: Sequence[Row], settings: Settings) -> dict[str, Any]:
    seen = _passes(len(rows), settings.updates, settings.batch_size)
    learnt = sum(len(row.completion) for row in rows)
    curve = [[entry["step"], entry["loss"]] for entry in state.log_history if "loss" in entry]
    return {
        "rows": len(rows),
        "updates": state.global_step,
        "passes": round(seen, 3),
        "completion_tokens": learnt,
        "trained_tokens": round(seen * sum(row.length for row in rows)),
        "settings": asdict(settings),
        "loss_curve": curve,
    }
