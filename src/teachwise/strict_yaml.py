"""A YAML file read into a pydantic model, whole and strictly: every problem at once, each with its line.

Pydantic knows what is wrong but not where it stands in the file; YAML's node tree knows the lines. Here the two meet.
"""

import difflib
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from teachwise.errors import RecipeError

Place = tuple[str | int, ...]
"""Where something stands: the keys and list indices that lead to it."""

Model = TypeVar("Model", bound=BaseModel)


def read_mapping(path: Path) -> tuple[dict[str, Any], dict[Place, int]]:
    """The content of a YAML file, and the line of every place in it.

    Raises:
        RecipeError: it is no YAML, or no mapping, or cannot be read as text.
    """
    try:
        text = path.read_text(encoding="utf-8")
        content = yaml.safe_load(text)
        places = list(_lines(yaml.compose(text, Loader=yaml.SafeLoader)))
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: is not UTF-8 text ({error.reason})", "save it as UTF-8") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise RecipeError(
            f"{where}: not YAML: {getattr(error, 'problem', error)}", "look for a missing colon, quote or bracket"
        ) from error
    if not isinstance(content, dict):
        raise RecipeError(f"{path}: is empty or no mapping, wanted `key: value` lines", "see `teachwise check toy`")
    _refuse_repeats(places, path)
    return content, dict(places)


def _refuse_repeats(places: list[tuple[Place, int]], path: Path) -> None:
    """YAML keeps the last of two equal keys and says nothing; half a recipe could vanish that way."""
    first: dict[Place, int] = {}
    for place, line in places:
        if place in first:
            name = ".".join(map(str, place))
            raise RecipeError(f"{path}:{line}: '{name}' stands at line {first[place]} already", "keep one of them")
        first[place] = line


def validated(model: type[Model], content: dict[str, Any], lines: dict[Place, int], path: Path) -> Model:
    """The content as a model.

    Raises:
        RecipeError: listing every problem with its line, and the nearest right key where one is misspelt.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        problems = "\n".join(_problem(model, item, lines, path) for item in error.errors())
        hint = f"`teachwise check {path}` checks again in a second; docs/recipe.md lists every field"
        raise RecipeError(problems, hint) from None


def _lines(node: yaml.Node | None, place: Place = ()) -> Iterator[tuple[Place, int]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield (*place, key.value), key.start_mark.line + 1
            yield from _lines(value, (*place, key.value))
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield (*place, index), value.start_mark.line + 1
            yield from _lines(value, (*place, index))


def _problem(model: type[BaseModel], item: Any, lines: dict[Place, int], path: Path) -> str:
    place: Place = tuple(item["loc"])
    where, dotted = _where(place, lines, path), ".".join(map(str, place))
    if item["type"] == "extra_forbidden":
        return f"{where}: unknown key '{dotted}'{_did_you_mean(model, place)}"
    if item["type"] == "missing":
        return f"{where}: '{dotted}' is required"
    message = item["msg"].removeprefix("Value error, ")
    found = "" if item["type"] == "value_error" else f", got {item['input']!r}"
    return f"{where}: {dotted + ': ' if dotted else ''}{message}{found}"


def _where(place: Place, lines: dict[Place, int], path: Path) -> str:
    """The line of a place, or of the nearest one around it that stands in the file."""
    while place and place not in lines:
        place = place[:-1]
    return f"{path}:{lines[place]}" if place else str(path)


def _did_you_mean(model: type[BaseModel], place: Place) -> str:
    kind: Any = model
    for name in place[:-1]:
        kind = _inside(kind, name)
    keys = [field.alias or key for key, field in getattr(kind, "model_fields", {}).items()]
    close = difflib.get_close_matches(str(place[-1]), keys, n=1)
    return f"; did you mean '{close[0]}'?" if close else ""


def _inside(kind: Any, name: str | int) -> Any:
    """The type of what stands under a key or index of a type; None where nothing is known."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _inside(arguments[0], name)
    if origin in (Union, types.UnionType):
        return next((found for part in arguments if (found := _inside(part, name)) is not None), None)
    if origin in (list, tuple, dict):
        return arguments[-1]
    fields = getattr(kind, "model_fields", {})
    return next((field.annotation for key, field in fields.items() if name in (key, field.alias)), None)
