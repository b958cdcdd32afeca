"""The `teachwise` command: one short function per verb, each importing what it needs when it is called."""

import json
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from teachwise import cli_use
from teachwise.errors import DataError, TeachwiseError, refusal

if TYPE_CHECKING:
    from teachwise.run_folder import Run

app = typer.Typer(
    help="Fine-tune small language models, and pay the teacher only where it helps.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
toy = typer.Typer(help="The benchmark, student and teacher in the box.", no_args_is_help=True)
app.add_typer(toy, name="toy")

RecipeArg = Annotated[str, typer.Argument(metavar="RECIPE", help="a recipe file, or the name of a shipped one")]
Overrides = Annotated[Optional[list[str]], typer.Argument(metavar="[KEY=VALUE]...", help="recipe fields to change")]  # noqa: UP045
OutDir = Annotated[Optional[Path], typer.Option("--out", help="run folder  [default: runs/NAME]")]  # noqa: UP045
Yes = Annotated[bool, typer.Option("--yes", help="agree to what the teacher may cost")]
Partial = Annotated[bool, typer.Option("--partial", help="where the budget is spent, go on with what there is")]
Edges = Annotated[str, typer.Option(help="quantiles between easy, medium and hard")]


def _tell_version(is_wanted: bool) -> None:
    if is_wanted:
        print(f"teachwise {version('teachwise')}")
        raise typer.Exit


@app.callback()
def _options(
    version_: Annotated[
        bool, typer.Option("--version", help="print the version", is_eager=True, callback=_tell_version)
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command; turn known mistakes into one clear message and an exit code."""
    try:
        if code := app(standalone_mode=False):  # typer hands an exit code back, 130 for Ctrl-C, instead of raising
            raise KeyboardInterrupt if code == 130 else typer.Exit(code)
    except TeachwiseError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        print("interrupted; run the same command again to go on from here", file=sys.stderr)
        sys.exit(130)
    except typer.Exit as stop:
        sys.exit(stop.exit_code)
    except OSError as error:
        if (told := refusal(error)) is None:
            raise
        print(f"error: {told}", file=sys.stderr)
        sys.exit(told.exit_code)
    except Exception as error:
        if hasattr(error, "format_message"):  # a usage error of the command line
            if message := error.format_message():  # none where the help was just shown
                print(f"error: {message}\n  hint: teachwise --help", file=sys.stderr)
            sys.exit(2)
        raise


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", help="run folder")] = Path("runs/demo"),
    overrides: Overrides = None,
) -> None:
    """Train the shipped tiny student in five ways, offline, and compare them. Takes minutes on two cores.

    Example: `teachwise demo`
    """
    from teachwise.toy_demo import demo

    _show_result(demo(*(overrides or []), out=out), "report")


@app.command()
def init(
    table: Annotated[str, typer.Argument(metavar="FILE", help="a table of questions")],
    overrides: Overrides = None,
    out: Annotated[Optional[Path], typer.Option("--out", help="recipe to write  [default: FILE with .yaml]")] = None,  # noqa: UP045
    student: Annotated[Optional[str], typer.Option(help="hub name or folder of the model to fine-tune")] = None,  # noqa: UP045
    teacher: Annotated[Optional[str], typer.Option(help="name of a teacher served on this machine")] = None,  # noqa: UP045
    force: Annotated[bool, typer.Option("--force", help="write over a recipe that is there")] = False,
) -> None:
    """Look at a table of questions, say what was understood, and write a recipe for it. Needs no model, no network.

    Example: `teachwise init questions.csv --student Qwen/Qwen2.5-0.5B-Instruct data.columns.subject=topic`
    """
    from teachwise.init import start_recipe

    print(start_recipe(table, out, student, teacher, overrides or [], force))


@app.command()
def check(recipe: RecipeArg, overrides: Overrides = None) -> None:
    """Check a recipe, its table and its folders in a second, and print it with every default filled in.

    Example: `teachwise check toy`
    """
    from teachwise.check import look_over
    from teachwise.recipe import load_recipe

    loaded = load_recipe(recipe, overrides or [])
    lines = "\n".join(look_over(loaded))
    print(loaded.yaml(), end="")
    print(lines, file=sys.stderr)


@app.command()
def doctor(
    source: Annotated[str, typer.Argument(metavar="RECIPE|RUN", help="a recipe, or a run folder")],
    overrides: Overrides = None,
) -> None:
    """Look at training sequences token by token, as the student would be fed them; trains and buys nothing.

    Example: `teachwise doctor toy train.method=lora`
    """
    from teachwise.checkup import check_up

    for found in check_up(source, overrides or []):
        print(found.text())
        found.refuse()


@app.command()
def run(
    recipe: RecipeArg,
    overrides: Overrides = None,
    out: OutDir = None,
    until: Annotated[str, typer.Option(help="last step to do")] = "report",
    yes: Yes = False,
    partial: Partial = False,
) -> None:
    """Carry a recipe out; what is done already is kept, so the same command resumes after any stop.

    Example: `teachwise run mmlu_pro_qwen2.5_3b --until route data.source=mmlu_pro.parquet`
    """
    _carry_out(recipe, overrides, out, until, yes, partial)


@app.command()
def prepare(recipe: RecipeArg, overrides: Overrides = None, out: OutDir = None) -> None:
    """Read the questions, set unusable rows apart with the reason, and split the rest.

    Example: `teachwise prepare my_recipe.yaml data.seed=1`
    """
    _carry_out(recipe, overrides, out, "prepare")


@app.command()
def score(
    source: Annotated[str, typer.Argument(metavar="TABLE|RECIPE", help="a table of questions, or a recipe")],
    overrides: Overrides = None,
    student: Annotated[Optional[str], typer.Option(help="for a table: hub name or folder of the student")] = None,  # noqa: UP045
    out: OutDir = None,
) -> None:
    """Score how unsure the student is on every question. A recipe is carried out up to this step.

    Example: `teachwise score questions.csv --student Qwen/Qwen2.5-0.5B-Instruct --out scores.parquet`
    """
    if not _is_table(source):
        _refuse(source, "a recipe", {"--student": student})
        _carry_out(source, overrides, out, "score")
        return
    _refuse(source, "a table", {"KEY=VALUE": overrides})
    if not student or not out:
        raise DataError("score: a table wants --student and --out", "teachwise score --help shows an example")
    from teachwise.score import score_table

    counts = score_table(source, student, out)
    print(f"{counts['scored']:,} questions scored, {counts['unusable']:,} rows unusable -> {out}")


@app.command()
def measures(as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False) -> None:
    """List every measure: its family, its unit, what it asks for, and where it was published.

    Example: `teachwise measures --json`
    """
    from teachwise.measures import as_lines, listed

    print(json.dumps(listed(), indent=2, ensure_ascii=False)) if as_json else print("\n".join(as_lines()))


@app.command()
def validate(
    source: Annotated[str, typer.Argument(metavar="TABLE|RECIPE", help="a table with scores, or a recipe")],
    overrides: Overrides = None,
    score: Annotated[Optional[str], typer.Option(help="column of scores, higher = less sure")] = None,  # noqa: UP045
    correct: Annotated[Optional[str], typer.Option(help="column: was the student right?")] = None,  # noqa: UP045
    by: Annotated[Optional[str], typer.Option(help="column to group by")] = None,  # noqa: UP045
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
    out: OutDir = None,
) -> None:
    """Do scores predict errors? ROC AUC with a 95% interval, overall and by group.

    Example: `teachwise validate scored.parquet --score entropy --correct student_correct --by category`
    """
    if not _is_table(source):
        _refuse(source, "a recipe", {"--score": score, "--correct": correct, "--by": by, "--json": as_json})
        _carry_out(source, overrides, out, "validate")
        return
    _refuse(source, "a table", {"KEY=VALUE": overrides, "--out": out})
    if not score or not correct:
        raise DataError("validate: a table wants --score COLUMN and --correct COLUMN", "teachwise validate --help")
    from teachwise.tasks.table import read_table, usable
    from teachwise.validate import as_lines, validate_table

    found = validate_table(usable(read_table(source)), score, correct, by, source)
    print(json.dumps(found, indent=2, ensure_ascii=False)) if as_json else print("\n".join(as_lines(found)))


@app.command()
def route(
    source: Annotated[str, typer.Argument(metavar="TABLE|RECIPE", help="a table with scores, or a recipe")],
    overrides: Overrides = None,
    score: Annotated[Optional[str], typer.Option(help="column of scores, higher = less sure")] = None,  # noqa: UP045
    edges: Edges = "0.25,0.75",
    out: OutDir = None,
) -> None:
    """Cut scores into easy, medium and hard, and write the table with a column `band`.

    Example: `teachwise route scored.parquet --score entropy --edges 0.25,0.75 --out banded.parquet`
    """
    if not _is_table(source):
        _refuse(source, "a recipe", {"--score": score})
        _carry_out(source, overrides, out, "route")
        return
    _refuse(source, "a table", {"KEY=VALUE": overrides})
    if not score or not out:
        raise DataError("route: a table wants --score COLUMN and --out FILE", "teachwise route --help")
    from teachwise.route import read_edges, route_table

    sizes = route_table(source, score, read_edges(edges), out)
    print("  ".join(f"{band} {n:,}" for band, n in sizes.items()) + f"  -> {out}")


@app.command()
def teach(
    recipe: RecipeArg,
    overrides: Overrides = None,
    out: OutDir = None,
    yes: Yes = False,
    partial: Partial = False,
    offline: Annotated[bool, typer.Option("--offline", help="through files that are answered elsewhere")] = False,
) -> None:
    """Buy the rationales that the arms were assigned, after all steps before it.

    Example: `teachwise teach my_recipe.yaml budget.teacher_tokens=50000`
    """
    files = ["teacher.delivery=files"] if offline else []
    _carry_out(recipe, [*(overrides or []), *files], out, "teach", yes, partial)


@app.command()
def train(
    recipe: RecipeArg, overrides: Overrides = None, out: OutDir = None, yes: Yes = False, partial: Partial = False
) -> None:
    """Fine-tune the student once per arm and seed, after all steps before it.

    Example: `teachwise train my_recipe.yaml train.epochs=1`
    """
    _carry_out(recipe, overrides, out, "train", yes, partial)


@app.command()
def evaluate(
    recipe: RecipeArg, overrides: Overrides = None, out: OutDir = None, yes: Yes = False, partial: Partial = False
) -> None:
    """Answer the held-out questions with every tuned student, after all steps before it.

    Example: `teachwise evaluate my_recipe.yaml evaluate.max_new_tokens=512`
    """
    _carry_out(recipe, overrides, out, "evaluate", yes, partial)


@app.command()
def compare(
    recipe: RecipeArg, overrides: Overrides = None, out: OutDir = None, yes: Yes = False, partial: Partial = False
) -> None:
    """Compare all arms on the same questions, after all steps before it, and print the table.

    Example: `teachwise compare my_recipe.yaml`
    """
    _carry_out(recipe, overrides, out, "compare", yes, partial)


@app.command()
def report(
    recipe: RecipeArg, overrides: Overrides = None, out: OutDir = None, yes: Yes = False, partial: Partial = False
) -> None:
    """Write the report, one HTML file, after all steps before it.

    Example: `teachwise report my_recipe.yaml`
    """
    _carry_out(recipe, overrides, out, "report", yes, partial)


app.command()(cli_use.plan)
app.command()(cli_use.ledger)
app.command()(cli_use.export)
app.command(context_settings={"allow_extra_args": True})(cli_use.answer)
app.command()(cli_use.pack)
app.command()(cli_use.published)


@toy.command()
def serve(
    port: Annotated[int, typer.Option(min=0, max=65535, help="port on 127.0.0.1")] = 8765,
    habits: Annotated[str, typer.Option(help="how it fails: flawless, usual or weak")] = "usual",
) -> None:
    """Serve the toy teacher, an OpenAI-compatible server on this machine, until Ctrl-C.

    Example: `teachwise toy serve --habits weak`
    """
    from teachwise.toy.server import serve_in_front

    serve_in_front(port, habits)


def _is_table(source: str) -> bool:
    return Path(source).suffix.lower() in (".parquet", ".jsonl", ".json", ".csv", ".tsv")


def _refuse(source: str, what: str, given: dict[str, object]) -> None:
    """Options that would be ignored are a mistake."""
    if names := [name for name, value in given.items() if value]:
        raise DataError(f"{source}: {', '.join(names)} cannot be used with {what}", "teachwise --help shows the forms")


def _carry_out(
    recipe: str,
    overrides: Sequence[str] | None,
    out: Path | None,
    until: str,
    yes: bool = False,
    partial: bool = False,
) -> None:
    from teachwise.pipeline import run
    from teachwise.run_folder import RESOLVED

    if (Path(recipe) / RESOLVED).is_file():
        told = f"its report lies at {page}; " if (page := Path(recipe) / "report" / "report.html").is_file() else ""
        hint = f"{told}its recipe: teachwise {until} {Path(recipe) / RESOLVED} --out {recipe}"
        raise DataError(f"{recipe}: is a run folder, wanted a recipe", hint)
    overrides = [*(overrides or []), *(["budget.on_spent=partial"] if partial else [])]
    finished = run(recipe, *overrides, out=out, until=until, yes=yes)
    if until in ("compare", "report"):
        _show_result(finished, until)
    else:
        print(f"{until} is done in {finished.root}")


def _show_result(finished: "Run", until: str) -> None:
    """Print the table of arms, the verdict, one sentence per arm, and where the report lies."""
    from teachwise.console import out
    from teachwise.recipe import load_recipe
    from teachwise.report import result_table
    from teachwise.wording import leading_arm, short_answer

    comparison, arms = finished.comparison, load_recipe(finished.root / "resolved.yaml").plain()["arms"]
    out.print(result_table(comparison, out.width))
    out.print(f"[bold]{short_answer(comparison, leading_arm(comparison, arms))}[/bold]")
    for sentence in comparison["sentences"]:
        out.print(f"- {sentence}")
    out.print(f"{comparison['n_test']:,} test questions; intervals cover {comparison['intervals_cover']}.")
    out.print(f"students: {finished.root}/train/ARM/seed-S/round-0/stage-N (the last stage is the finished one)")
    if until == "report":
        out.print(f"report:   {finished.report}")
