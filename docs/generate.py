"""Write the docs that the code already knows.

    python docs/generate.py           write them
    python docs/generate.py --check   exit 1 if they are not what would be written; `make check` runs this

`docs/recipe.md` is written whole. On every other page the text between

    <!-- generated: NAME -->
    <!-- end -->

is written by the function that `PARTS` has under the first word of NAME; all around it is written by hand.
"""

import ast
import re
import sys
import types
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from results_page import results_part

from teachwise import evidence, lessons, plan, records
from teachwise.measures import MEASURES, cost_in_words
from teachwise.recipe import Recipe
from teachwise.sections import Arm, Stage
from teachwise.steps import STEPS, Step, step_named
from teachwise.teacher import ledger_schema

HERE = Path(__file__).parent
RECIPE_HEAD = """# The recipe

One YAML file says what a run does. `student`, `teacher`, `data` and `budget` are required; everything else has a
default. `teachwise check RECIPE` opens the table, looks for the models' folders and the key, and prints the recipe with
every default filled in. Any field can be changed on the command line:
`teachwise run my_recipe.yaml train.epochs=1 "arms.banded.edges=[0.3, 0.8]"`.

Fields marked *speed* change how fast a result is made, not the result; changing them redoes nothing. This page is
written from the types by `python docs/generate.py`.
"""
MARKED = re.compile(r"(<!-- generated: (.+?) -->\n).*?(<!-- end -->)", re.DOTALL)


def recipe_page() -> str:
    """Every section of the recipe with its fields."""
    return "\n".join([RECIPE_HEAD, *sections().values()])


def sections() -> dict[str, str]:
    """Every section of the recipe, by its name."""
    found = {"top": _section("Top level", Recipe)}
    for name, field in Recipe.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            shown = field.alias or name
            found[shown] = _section(f"`{shown}`", field.annotation)
            for inner, sub in field.annotation.model_fields.items():
                if isinstance(sub.annotation, type) and issubclass(sub.annotation, BaseModel):
                    found[f"{shown}.{inner}"] = _section(f"`{shown}.{inner}`", sub.annotation)
    arms = {"arms": _section("`arms.NAME`", Arm), "arms.stages": _section("`arms.NAME.stages`, each", Stage)}
    return {**found, **arms}


def _section(title: str, section: type[BaseModel]) -> str:
    rows = [_row(field.alias or name, field) for name, field in section.model_fields.items()]
    about = (section.__doc__ or "").strip()
    return f"## {title}\n\n{about}\n\n| field | value | default | |\n|---|---|---|---|\n" + "\n".join(rows) + "\n"


def _row(name: str, field: FieldInfo) -> str:
    is_speed = isinstance(field.json_schema_extra, dict) and field.json_schema_extra.get("speed")
    about = (field.description or "") + (" *(speed)*" if is_speed else "")
    return f"| `{name}` | {_kind(field.annotation)} | {_default(field)} | {about} |"


def _kind(annotation: Any) -> str:
    origin = get_origin(annotation)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in get_args(annotation))
    if origin in (Union, types.UnionType):
        return " or ".join(_kind(part) for part in get_args(annotation))
    if annotation is type(None):
        return "null"
    if origin in (list, dict, tuple):
        inner = ", ".join(dict.fromkeys(_kind(part) for part in get_args(annotation) if part is not ...))
        return f"{'map' if origin is dict else 'list'} of {inner}"
    if origin is not None:
        return _kind(get_args(annotation)[0])
    names = {str: "text", int: "whole number", float: "number", bool: "true or false", bytes: "bytes"}
    return names.get(annotation, "section")


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "**required**"
    if field.default is PydanticUndefined:
        return "the paper's five arms"
    if isinstance(field.default, BaseModel):
        return ""
    return "" if field.default in (None, "") else f"`{field.default}`"


def flow_part() -> str:
    """The steps as a table, each linked to its page."""
    rows = [
        f"| [{step.name}](steps/{step.name}.md) | {_docstring(step)[0]} | {_scope(step)} | {_reads(step)} |"
        for step in STEPS
    ]
    return "| step | what it does | done | recipe sections |\n|---|---|---|---|\n" + "\n".join(rows) + "\n"


def step_part(name: str) -> str:
    """What goes into and comes out of a step, from its module's docstring, and how often it is done."""
    step = step_named(name)
    _, rest = _docstring(step)
    needs = ", ".join(f"[{one}]({one}.md)" for one in step.needs) or "the data alone"
    reads = ", ".join(_linked(one) for one in step.reads)
    return f"```text\n{rest}\n```\n\nDone {_scope(step)}. Builds on: {needs}. Done again when these change: {reads}.\n"


def fields_part(*names: str) -> str:
    """The tables of recipe sections, as `docs/recipe.md` has them, without their headings."""
    known = sections()
    parts = [known[name].removeprefix("## ").partition("\n\n") for name in names]
    return "\n".join(f"**{title}**: {rest}" for title, _, rest in parts)


def record_part(name: str) -> str:
    """The columns of a table: name, type, meaning, from the record class."""
    kind = next(getattr(home, name) for home in (records, evidence, lessons, plan) if hasattr(home, name))
    meaning = _attributes(kind.__doc__ or "")
    hints = get_type_hints(kind)
    rows = [f"| `{field.name}` | {_kind(hints[field.name])} | {meaning[field.name]} |" for field in fields(kind)]
    about = (kind.__doc__ or "").strip().partition("\n")[0]
    return f"`{name}`: {about}\n\n| column | type | |\n|---|---|---|\n" + "\n".join(rows) + "\n"


def ledger_part() -> str:
    """The columns of the ledger, from its schema."""
    columns = re.findall(r"^    (\w+) +(TEXT|INTEGER|REAL)(.*?),?$", ledger_schema.SCHEMA, re.MULTILINE)
    kinds = {"TEXT": "text", "INTEGER": "whole number", "REAL": "number"}
    rows = [f"| `{name}` | {kinds[kind]} | {LEDGER_COLUMNS[name]} |" for name, kind, _ in columns]
    return "| column of `request` | type | |\n|---|---|---|\n" + "\n".join(rows) + "\n"


LEDGER_COLUMNS = {
    "key": "hash of all that can change the reply",
    "model": "the teacher's name at its endpoint",
    "body": "the request as JSON",
    "state": "`planned`, `reserved`, `sent`; `ok`, `truncated`, `refused` (results); `failed` or `unknown` (none)",
    "owner": "the process or the batch that has it under way",
    "sends": "how often it was sent; one that was turned away for coming too fast does not count",
    "reserved_prompt_tokens": "more than the prompt can be; counted while there is no outcome",
    "reserved_completion_tokens": "more than the reply can be; counted while there is no outcome",
    "lost_requests": "earlier tries of which nobody knows whether they were billed",
    "lost_tokens": "reservations of these",
    "lost_usd": "the same in dollars",
    "input_usd": "price of a million tokens read; empty where it is not known",
    "cached_usd": "price of a million tokens read from the endpoint's cache",
    "output_usd": "price of a million tokens written",
    "prices": "where the prices come from, and of when they are",
    "text": "the reply as received",
    "reasoning": "what a reasoning model wrote in a field of its own",
    "logprobs": "log-probabilities as the endpoint gave them, as JSON",
    "finish_reason": "`stop`, `length`, or what the server said",
    "prompt_tokens": "tokens read: what the server says, or what can be counted here if that is more",
    "cached_tokens": "of these, from the endpoint's cache",
    "completion_tokens": "tokens written: what the server says, or what can be counted here if that is more",
    "error": "why there is no reply",
    "changed_at": "seconds since 1970",
    "served_model": "the model that the endpoint says has answered",
    "host": "the endpoint's host; empty for a model that ran here",
    "raw": "the whole reply where it holds no text that can be read",
    "over_read": "how many times the bound on tokens read a reply came to; 1 where it kept to it",
    "over_written": "how many times the bound on tokens written a reply came to; 1 where it kept to it",
}


def _docstring(step: Step) -> tuple[str, str]:
    module = step.do.partition(":")[0].removeprefix("teachwise.")
    source = Path(records.__file__).with_name(f"{module}.py").read_text(encoding="utf-8")  # an import would load torch
    title, _, rest = (ast.get_docstring(ast.parse(source)) or "").partition("\n\n")
    what = " ".join(title.split()).partition(": ")[2]
    return what[0].upper() + what[1:], rest


def _scope(step: Step) -> str:
    return "once per arm and training seed" if step.per_arm else "once"


def _reads(step: Step) -> str:
    return ", ".join(f"`{name}`" for name in step.reads)


def _linked(section: str) -> str:
    anchors = {"arm": "armsname", "arms": "armsname"}
    top = {name for name, field in Recipe.model_fields.items() if not hasattr(field.annotation, "model_fields")}
    anchor = anchors.get(section) or ("top-level" if section in top - {"validation"} else section)
    shown = "the arm's own section" if section == "arm" else f"`{section}`"
    return f"[{shown}](../recipe.md#{anchor})"


def _attributes(docstring: str) -> dict[str, str]:
    """The `Attributes:` of a docstring, each on one line, with a full stop or not as it stands there."""
    _, _, block = docstring.partition("Attributes:\n")
    found: dict[str, str] = {}
    for line in block.splitlines():
        if match := re.match(r" {8}(\w+): (.*)", line):
            name, found[match[1]] = match[1], match[2]
        elif line.startswith(" " * 12) and found:
            found[name] += " " + line.strip()
    return {one: text.replace("|", "\\|").rstrip(".") for one, text in found.items()}


def measures_part() -> str:
    """Every measure: what it is, from its function's docstring; unit, cost and where it was published."""
    head = "| measure | what it is | unit | asks | published |\n|---|---|---|---|---|\n"
    parts = []
    for kind in dict.fromkeys(one.kind for one in MEASURES.values()):
        rows = [
            f"| `{one.name}` | {_cell(one.about)} | {one.unit} | {cost_in_words(one)} | {_cell(one.source)} |"
            for one in MEASURES.values()
            if one.kind == kind
        ]
        parts.append(f"**{kind}**\n\n{head}" + "\n".join(rows) + "\n")
    return "\n".join(parts)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


PARTS: dict[str, Callable[..., str]] = {
    "flow": flow_part,
    "step": step_part,
    "fields": fields_part,
    "record": record_part,
    "ledger": ledger_part,
    "measures": measures_part,
    "results": results_part,
}


def filled(text: str) -> str:
    """A page with all its marked parts as they would be written now."""

    def part(match: re.Match[str]) -> str:
        name, *words = match[2].split()
        return f"{match[1]}{PARTS[name](*words)}{match[3]}"

    return MARKED.sub(part, text)


def main() -> int:
    """Write or check all pages."""
    pages = {HERE / "recipe.md": recipe_page()}
    for path in sorted(HERE.glob("**/*.md")):
        if path not in pages and MARKED.search(text := path.read_text(encoding="utf-8")):
            pages[path] = filled(text)
    stale = [path for path, text in pages.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    if "--check" not in sys.argv:
        for path in stale:
            path.write_text(pages[path], encoding="utf-8")
        return 0
    if stale:
        print(f"docs out of date: {', '.join(str(path.relative_to(HERE)) for path in stale)}; run `make docs`")
    return 1 if stale else 0


if __name__ == "__main__":
    raise SystemExit(main())
