"""Write the docs that the code already knows: `docs/recipe.md` from the types, `docs/flow.md` from the steps.

python docs/generate.py           write them
python docs/generate.py --check   exit 1 if they are not what would be written; `make check` runs this
"""

import sys
import types
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from teachwise.pipeline import STEPS
from teachwise.recipe import Arm, Recipe, Stage

HERE = Path(__file__).parent
RECIPE_HEAD = """# The recipe

One YAML file says what a run does. `student`, `teacher`, `data` and `budget` are required; everything else has a
default. `teachwise check RECIPE` prints a recipe with every default filled in. Any field can be changed on the command
line: `teachwise run my_recipe.yaml train.epochs=1 "arms.banded.edges=[0.3, 0.8]"`.

Fields marked *speed* change how fast a result is made, not the result; changing them redoes nothing. This page is
written from the types by `python docs/generate.py`.
"""
FLOW_HEAD = """# The flow

    prepare -> score -> validate -> [gate] -> route -> teach -> train -> evaluate -> compare -> report

A step is a verb: a module (`teachwise/score.py`), a command (`teachwise score`), a folder in the run (`score/`).
Steps read and write files in the run folder and know nothing of one another. What a step is finished with is closed by
a `manifest.json`, written last; its key is a hash of the recipe sections the step reads and of the keys of its inputs.
So the same command run again keeps what is done and does the rest, whatever stopped it; and a changed recipe redoes
only what depends on the change. What it replaces is set aside under `replaced/`, and fetched back when the recipe
changes back. This page is written from the code by `python docs/generate.py`.
"""


def recipe_page() -> str:
    """Every section of the recipe with its fields."""
    parts = [RECIPE_HEAD, _section("Top level", Recipe)]
    for name, field in Recipe.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            parts.append(_section(f"`{field.alias or name}`", field.annotation))
            parts += [
                _section(f"`{field.alias or name}.{inner}`", sub.annotation)
                for inner, sub in field.annotation.model_fields.items()
                if isinstance(sub.annotation, type) and issubclass(sub.annotation, BaseModel)
            ]
    parts += [_section("`arms.NAME`", Arm), _section("`arms.NAME.stages`, each", Stage)]
    return "\n".join(parts)


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
        inner = ", ".join(dict.fromkeys(_kind(part) for part in get_args(annotation)))
        return f"{'map' if origin is dict else 'list'} of {inner}"
    if origin is not None:
        return _kind(get_args(annotation)[0])
    names = {str: "text", int: "whole number", float: "number", bool: "true or false"}
    return names.get(annotation, "section")


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "**required**"
    if field.default is PydanticUndefined:
        return "the paper's five arms"
    if isinstance(field.default, BaseModel):
        return ""
    return "" if field.default in (None, "") else f"`{field.default}`"


def flow_page() -> str:
    """What goes into and comes out of every step, from the module docstrings."""
    parts = [FLOW_HEAD]
    for step in STEPS:
        text = (import_module(step.do.partition(":")[0]).__doc__ or "").strip()
        title, _, rest = text.partition("\n\n")
        scope = "once per arm and training seed" if step.per_arm else "once"
        reads = ", ".join(f"`{name}`" for name in step.reads) or "nothing of its own"
        parts.append(f"## {step.name}\n\n{title}\n\n```text\n{rest}\n```\n\nDone {scope}. Recipe sections: {reads}.\n")
    return "\n".join(parts)


def main() -> int:
    """Write or check both pages."""
    stale = []
    for path, text in ((HERE / "recipe.md", recipe_page()), (HERE / "flow.md", flow_page())):
        if "--check" not in sys.argv:
            path.write_text(text)
        elif not path.exists() or path.read_text() != text:
            stale.append(path.name)
    if stale:
        print(f"docs out of date: {', '.join(stale)}; run `make docs`")
    return 1 if stale else 0


if __name__ == "__main__":
    raise SystemExit(main())
