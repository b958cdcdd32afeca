"""Commands for what is there already, runs and published tables: it is read, asked or written out."""

import json
from pathlib import Path
from typing import Annotated, Optional

import typer

from teachwise.errors import DataError


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
