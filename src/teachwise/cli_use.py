"""Commands that train nothing: what a run will or did cost, what was made of it, and what others published."""

import json
import sys
from pathlib import Path
from typing import Annotated, Optional

import typer

from teachwise.errors import DataError


def plan(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="a recipe file, or the name of a shipped one")],
    overrides: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Argument(metavar="[KEY=VALUE]...", help="recipe fields to change"),
    ] = None,
    out: Annotated[Optional[Path], typer.Option("--out", help="run folder  [default: runs/NAME]")] = None,  # noqa: UP045
    pilot: Annotated[
        bool, typer.Option("--pilot", help="buy 16 of the rationales first, to judge by; they stay")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="agree to what the pilot may cost")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON, with every question")] = False,
) -> None:
    """Say what teaching is going to cost, before the first paid call. Carries the recipe out up to route.

    Example: `teachwise plan my_recipe.yaml --pilot`
    """
    from teachwise.pipeline import make_plan
    from teachwise.plan_text import page

    made, root = make_plan(recipe, *(overrides or []), out=out, pilot=pilot, yes=yes)
    print(json.dumps(made.plain(), indent=2, ensure_ascii=False) if as_json else page(made, str(root)))


def ledger(
    source: Annotated[Path, typer.Argument(metavar="RUN|FILE", help="a run folder, or a ledger file")],
    to: Annotated[Optional[Path], typer.Option("--export", help="write every request as a line of JSON")] = None,  # noqa: UP045
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Say what the teacher was paid for: by state, by model, and what each arm would have paid alone.

    Example: `teachwise ledger runs/demo --export replies.jsonl`
    """
    from teachwise.account import account_of, export_requests, told

    if to:
        print(f"{export_requests(source, to):,} requests -> {to}", file=sys.stderr if as_json else sys.stdout)
    if as_json or not to:
        found = account_of(source)
        print(json.dumps(found.plain(), indent=2) if as_json else "\n".join(told(found)))


def export(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN", help="a run folder, routed and taught")],
    arm: Annotated[str, typer.Option(help="the arm whose training data to write")] = "banded",
    seed: Annotated[Optional[int], typer.Option(help="training seed  [default: the first]")] = None,  # noqa: UP045
    form: Annotated[str, typer.Option("--format", help="prompt-completion, messages, alpaca or sharegpt")] = (
        "prompt-completion"
    ),
    out: Annotated[Path, typer.Option("--out", help="folder to write to")] = Path("export"),
    force: Annotated[bool, typer.Option("--force", help="replace the export of another arm")] = False,
) -> None:
    """Write an arm's training data for TRL, Axolotl or LLaMA-Factory, with the settings they need.

    Example: `teachwise export runs/demo --arm banded --format messages --out banded-data`
    """
    from teachwise.export import export_arm

    for path, rows in export_arm(run_dir, arm, seed, form, out, force).items():
        print(f"{path}  {rows:,} rows" if rows else path)


def answer(
    words: typer.Context,
    source: Annotated[Path, typer.Argument(metavar="RUN|PACK", help="a run folder, evaluated; or a pack")],
    table: Annotated[str, typer.Argument(metavar="TABLE", help="questions with options; gold answers are not needed")],
    arm: Annotated[Optional[str], typer.Option(help="for a run: the arm")] = None,  # noqa: UP045
    seed: Annotated[Optional[int], typer.Option(help="for a run: training seed  [default: the first]")] = None,  # noqa: UP045
    mode: Annotated[Optional[str], typer.Option(help="direct, cot or routed  [default: chosen on dev]")] = None,  # noqa: UP045
    student: Annotated[Optional[str], typer.Option(help="where the student lies that an adapter goes on")] = None,  # noqa: UP045
    out: Annotated[Path, typer.Option("--out", help=".jsonl, .csv, .tsv or .parquet")] = Path("answers.jsonl"),
) -> None:
    """Answer new questions with a tuned student: at once where it is sure, with a chain of thought where it is not.

    Example: `teachwise answer runs/demo questions.csv --arm banded --out answers.csv`
    """
    from teachwise.answer import answer_table, told
    from teachwise.tasks.questions import OTHER_NAMES

    if words.args:
        found = f"answer: {', '.join(words.args)}: cannot be said here; it takes RUN or PACK, TABLE and options"
        raise DataError(found, OTHER_NAMES)
    print(f"{told(answer_table(source, table, out, arm, seed, mode, student))} -> {out}")


def pack(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN", help="a run folder, compared")],
    arm: Annotated[Optional[str], typer.Option(help="the arm whose student to pack")] = None,  # noqa: UP045
    seed: Annotated[Optional[int], typer.Option(help="training seed  [default: the first]")] = None,  # noqa: UP045
    out: Annotated[Path, typer.Option("--out", help="folder to make")] = Path("pack"),
    merge: Annotated[bool, typer.Option("--merge", help="write the whole model, the adapter added in")] = False,
    force: Annotated[bool, typer.Option("--force", help="replace an older pack")] = False,
) -> None:
    """Write one folder to deploy or publish: weights, tokenizer, how to ask, and a card with the measured figures.

    Example: `teachwise pack runs/demo --arm banded --out banded-pack`
    """
    from teachwise.pack import pack_arm

    made = pack_arm(run_dir, arm, seed, out, merge, force)
    print(f"seed {made['seed']}, to be asked {made['mode']}, {made['bytes'] / 2**20:,.1f} MiB -> {out}")


def published(
    tables: Annotated[list[str], typer.Argument(metavar="TABLE...", help="tables that the paper's authors published")],
    out: Annotated[
        Path | None, typer.Option("--out", help="write the joined table, for `validate` and `route`")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Read published score tables, join them by question, and say which measure predicts errors.

    Example: `teachwise published mmlu_qwen_3b.tsv mmlu_masj_education_levels.tsv --out joined.parquet`
    """
    from teachwise.measures.published import join_published
    from teachwise.tasks.table import check_writable, write_table
    from teachwise.validate import auc_lines, validate_columns

    if out:
        check_writable(out)
    rows = join_published(tables)
    found = validate_columns(rows)
    if out:
        write_table(out, rows)
    print(json.dumps(found, indent=2)) if as_json else print("\n".join(auc_lines(list(found.items()))))
