"""Export: an arm's training data in the form that other trainers take, with the settings that make them train right.

in   route/, teach/ of the arm                 Assignment, Rationale
out  OUT/stage-N.jsonl                         one row per lesson
out  OUT/README.md                             the settings for TRL, Axolotl or LLaMA-Factory
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from teachwise.errors import DataError
from teachwise.lessons import Lesson, lessons_of
from teachwise.recipe import load_recipe
from teachwise.records import Assignment, Example, Message, Rationale, by_id
from teachwise.run_folder import RESOLVED, Run, Unit, write_text
from teachwise.tasks import load_task

_TITLE = "# Training data of arm"
_SHAREGPT = {"system": "system", "user": "human", "assistant": "gpt"}


def prompt_completion(messages: Sequence[Message], completion: str) -> dict[str, Any]:
    """TRL's form: it trains on the completion alone."""
    return {"prompt": messages, "completion": [{"role": "assistant", "content": completion}]}


def chat_messages(messages: Sequence[Message], completion: str) -> dict[str, Any]:
    """One conversation; the trainer must be told to leave the prompt out of the loss."""
    return {"messages": [*messages, {"role": "assistant", "content": completion}]}


def alpaca(messages: Sequence[Message], completion: str) -> dict[str, Any]:
    """Instruction, input, output."""
    system = "\n\n".join(m["content"] for m in messages if m["role"] == "system")
    user = "\n\n".join(m["content"] for m in messages if m["role"] != "system")
    return {"instruction": user, "input": "", "output": completion, "system": system}


def sharegpt(messages: Sequence[Message], completion: str) -> dict[str, Any]:
    """Turns as `from` and `value`."""
    turns = [*messages, {"role": "assistant", "content": completion}]
    return {"conversations": [{"from": _SHAREGPT[turn["role"]], "value": turn["content"]} for turn in turns]}


FORMATS = {
    "prompt-completion": prompt_completion,
    "messages": chat_messages,
    "alpaca": alpaca,
    "sharegpt": sharegpt,
}

SETTINGS = {
    "prompt-completion": """\
TRL trains on the completion alone when it is given prompt and completion; nothing may be cut:

```python
from datasets import load_dataset
from trl import SFTConfig, SFTTrainer

trainer = SFTTrainer(
    model=STUDENT,
    train_dataset=load_dataset("json", data_files="stage-0.jsonl", split="train"),
    args=SFTConfig(completion_only_loss=True, max_length=None, packing=False, output_dir="stage-0"),
)
```
""",
    "messages": """\
Axolotl trains on the assistant's turns alone with `roles_to_train` and learns the end of the turn with
`train_on_eos: turn`:

```yaml
base_model: STUDENT
datasets:
  - path: stage-0.jsonl
    type: chat_template
    field_messages: messages
    roles_to_train: [assistant]
    train_on_eos: turn
sequence_len: 4096        # must be above the longest row: what is longer is dropped
sample_packing: false
```

TRL would train on the prompt too when it is given plain messages: use `--format prompt-completion` for it.
""",
    "alpaca": """\
LLaMA-Factory leaves the prompt out of the loss by default (`train_on_prompt: false`). In `dataset_info.json`:

```json
{"teachwise": {"file_name": "stage-0.jsonl",
               "columns": {"prompt": "instruction", "query": "input", "response": "output", "system": "system"}}}
```

and in the training file `dataset: teachwise`, `template:` of the student, and a `cutoff_len` above the longest row.
""",
    "sharegpt": """\
LLaMA-Factory leaves the prompt out of the loss by default (`train_on_prompt: false`). In `dataset_info.json`:

```json
{"teachwise": {"file_name": "stage-0.jsonl", "formatting": "sharegpt",
               "columns": {"messages": "conversations"},
               "tags": {"role_tag": "from", "content_tag": "value", "user_tag": "human", "assistant_tag": "gpt",
                        "system_tag": "system"}}}
```

and in the training file `dataset: teachwise`, `template:` of the student, and a `cutoff_len` above the longest row.
""",
}


def _check_out(out: Path, arm: str, force: bool) -> None:
    """An earlier export of the arm is replaced, that of another only with `force`, other people's files never."""
    page = out / "README.md"
    title = page.read_text(encoding="utf-8", errors="replace").partition("\n")[0] if page.exists() else _title(arm)
    ours = title.startswith(_TITLE)
    if out.is_file() or not ours or (not page.exists() and any(out.glob("stage-*.jsonl"))):
        raise DataError(f"export: {out}: holds files that are not of an export", "choose another folder with --out")
    if title != _title(arm) and not force:
        other = title.removeprefix(_TITLE).strip(" `")
        raise DataError(
            f"export: {out}: holds the export of arm {other!r} already",
            "choose another folder with --out, or replace it with --force",
        )


def _title(arm: str) -> str:
    return f"{_TITLE} `{arm}`"


def export_arm(
    root: str | Path, arm: str, seed: int | None, form: str, out: str | Path, force: bool = False
) -> dict[str, int]:
    """Write the lessons of every stage of an arm, exactly those that `train` learns from.

    Args:
        root: A run folder, done at least up to `teach`.
        arm: The arm.
        seed: Training seed; None is the recipe's first.
        form: A key of `FORMATS`.
        out: Folder to write to; an earlier export of the same arm in it is replaced.
        force: Replace also the export of another arm.

    Returns:
        Rows by file written; 0 for the page with the settings.

    Raises:
        DataError: no such run, arm or format, nothing to export, or `out` holds something else.
    """
    if form not in FORMATS:
        raise DataError(f"export: unknown format {form!r}", "formats: " + ", ".join(FORMATS))
    run, out = Run(root), Path(out)
    if not (run.root / RESOLVED).exists():
        raise DataError(
            f"{run.root}: is no run folder (it has no resolved.yaml)", "name the folder that `teachwise run` made"
        )
    recipe = load_recipe(run.root / RESOLVED)
    if arm not in recipe.arms:
        raise DataError(f"export: the run has no arm {arm!r}", "arms: " + ", ".join(recipe.arms))
    stages = recipe.stages_of(arm)
    if not stages:
        raise DataError(f"export: arm {arm!r} trains nothing", "choose another arm")
    seeds = recipe.seeds_of(arm)
    if seed not in (None, *seeds):
        raise DataError(f"export: the run has no seed {seed} of arm {arm!r}", f"seeds: {', '.join(map(str, seeds))}")
    _check_out(out, arm, force)
    unit = Unit("route", arm, seeds[0] if seed is None else seed)
    examples = by_id(run.records(Unit("prepare"), "examples.parquet", Example))
    assignments = run.records(unit, "assignments.parquet", Assignment)
    rationales = by_id(run.records(unit.of("teach"), "rationales.parquet", Rationale))
    task = load_task(recipe.data.task, **recipe.data.task_options())

    def row(lesson: Lesson) -> str:
        messages = [dict(message) for message in task.messages(examples[lesson.id], lesson.mode)]
        return json.dumps(FORMATS[form](messages, lesson.completion), ensure_ascii=False)

    written = {}
    for old in out.glob("stage-*.jsonl"):
        old.unlink()
    for stage in range(len(stages)):
        lessons, _ = lessons_of(assignments, stage, examples, rationales, recipe.on_rejected)
        path = out / f"stage-{stage}.jsonl"
        write_text(path, "".join(row(lesson) + "\n" for lesson in lessons))
        written[str(path)] = len(lessons)
    write_text(
        out / "README.md",
        f"{_title(arm)}\n\nStages are trained in order, each on the "
        f"weights of the one before.\n\n{SETTINGS[form].replace('STUDENT', repr(recipe.student.model))}",
    )
    return {**written, str(out / "README.md"): 0}
