"""Init: look at a table of questions, say what was understood, and write a short recipe that runs.

No model and no network is needed. Split shares, gate and budget are chosen by the table's size, so that thirty rows
written by hand lead to a report too, although they prove nothing.
"""

import difflib
import math
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml

from teachwise.errors import DataError
from teachwise.look import Table, described, understand
from teachwise.recipe import Recipe, set_field
from teachwise.records import Split
from teachwise.run_folder import write_text
from teachwise.strict_yaml import validated

STUDENT = "Qwen/Qwen2.5-0.5B-Instruct"
TEACHER = {"model": "deepseek-flash", "base_url": "https://api.deepseek.com/v1", "key_env": "TEACHER_API_KEY"}
LOCAL_URL = "http://127.0.0.1:8000/v1"
FEW_TRAIN = 200
"""With fewer train rows the gate only warns, and rejected rationales become answers: a stage might be left empty."""
_REASONING_TOKENS = 1000
"""A generous guess at one rationale."""


def start_recipe(
    source: str,
    out: Path | None = None,
    student: str | None = None,
    teacher: str | None = None,
    overrides: Sequence[str] = (),
    is_forced: bool = False,
) -> str:
    """Look at a table and write a recipe for it.

    Args:
        source: The table: .parquet, .jsonl, .json, .csv or .tsv.
        out: The recipe; the table's name with .yaml, here, where left out.
        student: Hub name or folder; a small default where left out.
        teacher: The teacher's name at a server on this machine; a hosted one where left out.
        overrides: Recipe fields, for instance `data.columns.question=Frage`.
        is_forced: Write over a file that is there.

    Returns:
        What to tell the user.

    Raises:
        DataError: the table cannot be used or would not be read, or the recipe is there already.
    """
    target = out or Path(Path(source).name).with_suffix(".yaml")
    _check_places(source, target, is_forced)
    content: dict[str, Any] = {
        "student": student or STUDENT,
        "teacher": {"model": teacher, "base_url": LOCAL_URL} if teacher else dict(TEACHER),
        "data": {"source": source},
        "budget": {"teacher_tokens": None},
    }
    for override in overrides:
        set_field(content, override)
    recipe = validated(Recipe, content, {}, target)
    _check_reads(source, recipe)
    table = understand(content["data"], overrides)
    content["data"] = table.data
    enough = suggested_budget(table, recipe.teacher.max_tokens)
    own = recipe.budget.teacher_tokens
    content["budget"] = {"teacher_tokens": enough if own is None else own}
    validated(Recipe, content, {}, target)
    write_text(target, recipe_text(table, content, enough))
    return "\n".join([*described(table), "", *_next(target)])


def _check_places(source: str, target: Path, is_forced: bool) -> None:
    path = Path(source).expanduser()
    if path.suffix.lower() in (".yaml", ".yml"):
        raise DataError(
            f"{source}: is a recipe by its name, wanted a table of questions",
            f"give a Parquet, JSONL, JSON, CSV or TSV file; `teachwise check {shlex.quote(source)}` looks at a recipe",
        )
    if not path.is_file():
        others = [one.name for one in path.parent.glob("*") if one.is_file()]
        near = difflib.get_close_matches(path.name, others, n=1)
        guess = f"did you mean {shlex.quote(str(path.parent / near[0]))}? " if near else ""
        raise DataError(
            f"{source}: {'is a folder' if path.is_dir() else 'no such file'}, wanted a table of questions",
            f"{guess}give a Parquet, JSONL, JSON, CSV or TSV file",
        )
    if target.exists() and not is_forced:
        raise DataError(f"{target}: is there already", "another name with --out, or --force to write over it")
    try:
        source.encode()
        str(target).encode()
    except UnicodeEncodeError:
        raise DataError(f"{source!a}: the name is not UTF-8, and a recipe is", "rename the file") from None


def _check_reads(source: str, recipe: Recipe) -> None:
    """Whatever the user set, the recipe must read the table that was named."""
    if recipe.data.task.startswith("toy"):
        raise DataError(
            f"data.task: {recipe.data.task} makes its own questions, wanted a task that reads {source}",
            "leave data.task out; the toy has a recipe of its own: teachwise run toy",
        )
    if recipe.data.source != source:
        raise DataError(
            f"data.source: is {recipe.data.source}, wanted {source}, the table that init looks at",
            "leave data.source out, and name the table that you mean after `teachwise init`",
        )


def suggested_budget(table: Table, max_tokens: int) -> int:
    """A cap that lets every train question be asked about once, in two figures.

    A small table gets what its requests can cost at most, a large one a generous guess.
    """
    train = [example for example in table.examples if example.split == "train"]
    sizes = [sum(len(m["content"].encode()) for m in table.task.teacher_messages(one)) for one in train]
    at_most = sum(size + 32 + max_tokens for size in sizes)
    guess = sum(size // 3 + _REASONING_TOKENS for size in sizes)
    tokens = max(10, min(at_most, max(guess, 500_000)))
    step: int = 10 ** (len(str(tokens)) - 2)
    return math.ceil(tokens / step) * step


def _next(target: Path) -> list[str]:
    name = shlex.quote(str(target))
    commands = {
        f"teachwise check {name}": "looks for slips, the models and the key",
        f"teachwise plan {name}": "scores the student and says what the teacher may cost; buys nothing",
        f"teachwise run {name}": "goes on from there, to the report",
    }
    width = max(map(len, commands))
    return [f"wrote {target}; look it over, then:", *(f"  {one:{width}}   # {why}" for one, why in commands.items())]


# the recipe


def recipe_text(table: Table, content: Mapping[str, Any], enough: int) -> str:
    """The recipe as commented YAML.

    Args:
        table: What was understood.
        content: Its sections, with whatever the user set.
        enough: Tokens that let the teacher explain every train question once.
    """
    parts = [
        f"# {len(table.kept):,} questions from {_one_line(table.source)}.",
        "# `teachwise check` on this file shows all fields with their defaults.",
        _STUDENT_NOTE + f"student: {_flow(content['student'])}",
        _TEACHER_NOTE + f"teacher: {_flow(content['teacher'])}",
        _data_text(table),
        _budget_text(table.size("train"), content["budget"]["teacher_tokens"], enough),
    ]
    more = {name: value for name, value in content.items() if name not in ("student", "teacher", "data", "budget")}
    if table.size("train") < FEW_TRAIN:
        gate = {"on_fail": "warn", **more.get("validate", {})}
        more = {"validate": gate, "on_rejected": "answer", **{one: more[one] for one in more if one != "validate"}}
        parts.append(_few_note(table.size("train"), gate["on_fail"] == "warn", more["on_rejected"] == "answer"))
    parts += [f"{name}: {_flow(value)}" for name, value in more.items()]
    return "\n".join([*parts, "" if "arms" in more else _ARMS_NOTE])


_STUDENT_NOTE = """
# The model to fine-tune: a hub name (fetched on first use) or a folder. Larger ones cost memory and time; this dial
# matters most.
"""
_TEACHER_NOTE = """
# The model that writes rationales, behind any OpenAI-compatible server. `key_env` names the environment variable that
# holds its key (export NAME=your-key); leave it out where the server wants none. Never put the key itself here.
"""
_ARMS_NOTE = """
# Five arms are compared by default: base, sft, banded, random, distill. `distill` explains every train question and is
# the dearest; without it less than half the tokens are bought:
# arms:
#   base:   {policy: none}
#   sft:    {policy: all, give: answer}
#   banded: {policy: bands, stages: [{easy: answer, medium: answer}, {hard: rationale}]}
#   random: {policy: random, like: banded}
# Three trainings per arm take three times as long, and show the luck of training:
# seeds: [0, 1, 2]
"""


def _budget_text(n_train: int, tokens: int, enough: int) -> str:
    who = "This lets" if tokens >= enough else f"About {enough:_} would let"
    note = (
        f"\n# The most tokens the teacher may read and write in this run. {who} it explain all {n_train:,} train"
        "\n# questions once; with less the run stops at the cap, says so, and goes on when you raise it."
    )
    return f"{note}\nbudget: {{teacher_tokens: {tokens:_}}}"


def _few_note(n_train: int, warns: bool, answers: bool) -> str:
    """Why a recipe for few questions is milder, as far as it is."""
    note = f"\n# Only {n_train:,} train questions: too few to judge the score by"
    note += ", so the gate warns instead of stopping." if warns else "."
    if answers:
        note += "\n# An example whose rationale is rejected gets its answer, so that no stage is left empty."
    return note + ("\n# Leave both out when you have more." if warns and answers else "")


def _data_text(table: Table) -> str:
    sizes = ", ".join(f"{table.size(split):,} {split}" for split in get_args(Split))
    lines = [f"\n# The questions: {sizes}. A path counts from where you run teachwise.", "data:"]
    lines += [f"  {name}: {_flow(value)}" for name, value in table.data.items()]
    if "limit" not in table.data:
        lines.append("  # limit: {train: 500, dev: 100, test: 300}    # at most so many: a quick first run")
    return "\n".join(lines)


def _one_line(text: object) -> str:
    """Text that is safe in a comment."""
    return " ".join(re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", " ", str(text)).split())


def _flow(value: Any) -> str:
    """A value as YAML on one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_flow(name)}: {_flow(one)}" for name, one in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_flow, value)) + "]"
    if isinstance(value, str):  # a plain `yes` or `null` would be read as something else
        is_plain = re.fullmatch(r"[A-Za-z][A-Za-z0-9_./-]*", value) and yaml.safe_load(value) == value
        return value if is_plain else yaml.safe_dump(value, default_style='"', allow_unicode=True, width=2**20).strip()
    return yaml.safe_dump(value).removesuffix("...\n").strip()
