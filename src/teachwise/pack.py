"""Pack: one folder to deploy or to publish: the tuned student, how it is to be asked, and a card with its figures.

in   train/ARM/seed-S/round-R/stage-N/                   the last stage; its weights hold what all stages learnt
in   evaluate/ARM/seed-S/round-R/evaluation.json         the routing threshold
in   prepare/  train/  compare/comparison.json           counts and figures for the card
out  OUT/*.safetensors, tokenizer and settings           an adapter, or the whole model
out  OUT/teachwise.json                                  mode, threshold, prompts, how answers are read
out  OUT/README.md                                       the card, in the hub's form

No file holds a path of this machine, an endpoint or a key: a student that is a folder goes by the folder's name.
"""

import json
import os
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

from teachwise.card import card
from teachwise.errors import DataError
from teachwise.recipe import Recipe
from teachwise.records import Example
from teachwise.run_folder import RESOLVED, Run, Unit, content_hash, write_json, write_text
from teachwise.tasks import Row, load_task
from teachwise.tasks.letters import FORMS
from teachwise.tuned import (
    FORMAT,
    PACKED,
    PACKED_FIELDS,
    TOY,
    Tuned,
    is_pack,
    open_arm,
    public_student,
    tuned_in_run,
)

KEPT = (".safetensors", ".json", ".jinja", ".txt", ".model")
"""Files of a stage that a pack takes over: weights, settings, the tokenizer's files."""
LEFT_OUT = ("stage.json", "probe.json")
READING = {
    "text": "direct: the likeliest first token; cot: all that was generated, without special tokens",
    "entropy": "of the softmax over the whole vocabulary at that first token, in float32, in nats",
    "order": "of the first of these forms that is found in the text, the last match holds the letter, of either case",
    "forms": list(FORMS),
    "teachwise": "the figures were measured with read_letter, which also reads a letter followed by its option's very "
    "text, and counts a letter that names no option as unreadable",
}
"""How answers are read; `forms` are regular expressions of Python."""
EXAMPLE = Row(0, "How many legs does a spider have?", ("six", "eight", "ten"), "B", "biology")


def router(tuned: Tuned, recipe: Recipe, unit: Unit, weights: str, recipe_hash: str) -> dict[str, Any]:
    """The content of `teachwise.json`, but for the example.

    Args:
        tuned: The student.
        recipe: Its recipe.
        unit: Its unit of `evaluate`.
        weights: `adapter` or `whole`.
        recipe_hash: Hash of the resolved recipe.
    """
    name, is_folder = public_student(recipe.student.model)
    return {
        "format": FORMAT,
        "teachwise": version("teachwise"),
        "student": {
            "model": name,
            "is_folder": is_folder,
            "revision": recipe.student.revision,
            "dtype": recipe.student.dtype,
        },
        "weights": weights,
        "arm": unit.arm,
        "seed": unit.seed,
        "recipe_hash": recipe_hash,
        **{field: getattr(tuned, field) for field in PACKED_FIELDS},
        "reading": READING,
    }


def example_prompts(tuned: Tuned, recipe: Recipe, example: Example) -> dict[str, Any]:
    """One question as the student is asked it, in both modes: as chat messages, and as the very text that it reads."""
    from teachwise.engines.hf import load_chat

    chat = load_chat(tuned.engine["model"], tuned.engine["revision"], recipe.student.trust_remote_code)
    task = load_task(recipe.data.task, **recipe.data.task_options())
    messages = {mode: [dict(one) for one in task.messages(example, mode)] for mode in ("direct", "cot")}  # type: ignore[arg-type]
    return {
        "stop_ids": chat.stop_ids,
        "tokenize": {"add_special_tokens": not chat.has_template, "return_tensors": "pt"},
        "example": {
            "question": example.question,
            "options": list(example.options),
            "messages": messages,
            "prompts": {mode: chat.render(one) for mode, one in messages.items()},
        },
    }


def pack_arm(
    root: str | Path, arm: str | None, seed: int | None, out: str | Path, merge: bool = False, force: bool = False
) -> dict[str, Any]:
    """Write a pack, all or nothing.

    Args:
        root: A run folder, done at least up to `compare`.
        arm: The arm.
        seed: Training seed; None is the recipe's first, never the one that served best on test.
        out: The folder to make.
        merge: Add the adapter into the student's weights and write the whole model.
        force: Replace an older pack that lies in `out`; any other folder with something in it stays refused.

    Returns:
        `mode`, `seed` and `bytes`.

    Raises:
        DataError: the run, the arm or `out` cannot be used. Nothing is written then.
    """
    recipe, run, unit = open_arm(root, arm, seed)
    out = Path(out).resolve()
    _check_out(out, force)
    _check_arm(recipe, run, unit, merge)
    tuned = tuned_in_run(recipe, run, unit)
    part = out.with_name(f".{out.name}.part")
    try:
        _write(part, out.name, recipe, run, unit, tuned, merge)
        _put_in_place(part, out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    return {"mode": tuned.mode, "seed": unit.seed, "bytes": size}


def _write(part: Path, name: str, recipe: Recipe, run: Run, unit: Unit, tuned: Tuned, merge: bool) -> None:
    """The pack that is to be called `name`, in the folder `part`."""
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    weights, stored = _write_weights(tuned, recipe, merge, part)
    resolved = (run.root / RESOLVED).read_text(encoding="utf-8")
    content = router(tuned, recipe, unit, weights, content_hash(resolved))
    content |= example_prompts(tuned, recipe, _example(recipe, run))
    write_json(part / PACKED, content)
    write_text(part / "README.md", card(content, {**_figures(recipe, run, unit), "stored": stored}, name))
    for path in part.rglob("*.safetensors"):
        shutil.copymode(part / "README.md", path)  # written for the owner alone, whatever the umask says


def _check_out(out: Path, force: bool) -> None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not is_pack(out):
        raise DataError(f"{out}: is there already and is no pack, so it is not replaced", "choose another --out")
    if not force:
        raise DataError(f"{out}: holds a pack already", "choose another --out, or replace it with --force")


def _check_arm(recipe: Recipe, run: Run, unit: Unit, merge: bool) -> None:
    if not recipe.stages_of(unit.arm):
        raise DataError(
            f"pack: arm {unit.arm!r} trains nothing; its student is {recipe.student.model!r} as it is",
            f"choose another arm, or ask it as it is: `teachwise answer RUN TABLE --arm {unit.arm}`",
        )
    if merge and recipe.train.method == "full":
        raise DataError("pack: all weights were trained, there is no adapter to merge", "leave --merge out")
    if run.manifest(Unit("compare")) is None:
        raise DataError(
            f"{run.root}: the arms are not compared yet, so the card would have no figures",
            "carry the recipe on: `teachwise run RECIPE`",
        )


def _write_weights(tuned: Tuned, recipe: Recipe, merge: bool, part: Path) -> tuple[str, str]:
    """Weights and tokenizer; returns `adapter` or `whole`, and the dtype of merged weights, "" for others."""
    stage = Path(tuned.engine.get("adapter") or tuned.engine["model"])
    if merge:
        from teachwise.trainer import merge_adapter

        return "whole", merge_adapter(recipe.student.model_dump(), stage, part)
    for path in sorted(stage.rglob("*")):
        if path.is_file() and path.suffix in KEPT and path.name not in LEFT_OUT:
            place = part / path.relative_to(stage)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)
    settings = part / "adapter_config.json"
    if not settings.exists():
        return "whole", ""
    content = json.loads(settings.read_text(encoding="utf-8"))
    name, _ = public_student(recipe.student.model)
    write_json(settings, {**content, "base_model_name_or_path": name, "revision": recipe.student.revision})
    return "adapter", ""


def _example(recipe: Recipe, run: Run) -> Example:
    """A question to show. The toy's are nobody's own and of words that its student knows; any other's stay private."""
    if recipe.data.task != TOY:
        return EXAMPLE.example("test")
    return next(e for e in run.records(Unit("prepare"), "examples.parquet", Example) if e.split == "test")


def _put_in_place(part: Path, out: Path) -> None:
    old = out.with_name(f".{out.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        os.replace(out, old)
    os.replace(part, out)
    shutil.rmtree(old, ignore_errors=True)


def _figures(recipe: Recipe, run: Run, unit: Unit) -> dict[str, Any]:
    """What the card tells: the arm's entry in the comparison, and the counts of its units."""
    comparison = run.json(Unit("compare"), "comparison.json")
    name, entry = next((name, one) for name, one in comparison["arms"].items() if one["arm"] == unit.arm)
    others = [one for one in (comparison["base"], comparison["control"]) if one and one != name]
    return {
        **{field: comparison[field] for field in ("n_test", "n_dev", "intervals_cover")},
        "entry": entry,
        "against": {other: entry["against"][other]["difference"] for other in others},
        "own": entry["per_seed"][recipe.seeds_of(unit.arm).index(unit.seed)],
        "is_random": bool((run.manifest(unit.of("route")) or {})["counts"].get("randomised")),
        "is_toy": recipe.data.task == TOY,
        "source": _public_source(recipe),
        "teacher": Path(recipe.teacher.model).name if Path(recipe.teacher.model).is_dir() else recipe.teacher.model,
        "method": {"lora": f"LoRA of rank {recipe.train.lora_r}", "full": "all weights"}[recipe.train.method],
        "judged": comparison["teacher"],
        "prepared": (run.manifest(Unit("prepare")) or {})["counts"],
        "trained": (run.manifest(unit.of("train")) or {})["counts"],
    }


def _public_source(recipe: Recipe) -> str:
    """The data set's name without any path."""
    source = recipe.data.source
    if not source:
        return "the task's own"
    return f"`{Path(source).name if Path(source).suffix or Path(source).exists() else source}`"
