"""A YAML file read into a pydantic model, whole and strictly: every problem at once, each with its place.

Pydantic knows what is wrong but not where it stands in the file; YAML's node tree knows the lines. Here the two meet.
"""

import difflib
import re
import types
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from yaml.constructor import ConstructorError

from teachwise.errors import RecipeError
from teachwise.text_file import read_text

Place = tuple[str | int, ...]
"""Where something stands: the keys and list indices that lead to it."""

Model = TypeVar("Model", bound=BaseModel)

_WANTED = {
    "model_type": "wanted `key: value` lines",
    "dict_type": "wanted `key: value` lines",
    "list_type": "wanted a list, for instance [0, 1]",
    "tuple_type": "wanted a list, for instance [0.25, 0.75]",
    "int_parsing": "wanted a whole number, written out: 1000 or 1_000",
    "string_too_short": "wanted a name",
}
"""Our words where pydantic's speak of Python."""
_OTHER_NAMES = {"api_key": "key_env", "url": "base_url", "lr": "learning_rate"}
"""What other tools call our keys, where the spelling does not tell."""
COMMAND_LINE = "command line"
"""What messages call a place that an override set."""
_TEXT = "tag:yaml.org,2002:str"
_MERGE = "tag:yaml.org,2002:merge"


class _TornNumber(ConstructorError):
    """A number written with commas, which YAML takes for the ends of values."""


class _Loader(yaml.SafeLoader):
    """YAML's own loader, which here also gives the line of a date or a number that there cannot be."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except ValueError as error:
            raise ConstructorError(None, None, str(error), node.start_mark) from error


def read_mapping(path: Path) -> tuple[dict[str, Any], dict[Place, str]]:
    """The content of a YAML file, and for every place in it `file:line`.

    Raises:
        RecipeError: it is no YAML, or no mapping, or cannot be read as text.
    """
    content, lines = read_yaml(read_text(path, RecipeError), str(path))
    if not isinstance(content, dict):
        raise RecipeError(f"{path}: is empty or no mapping, wanted `key: value` lines", "see `teachwise check toy`")
    return content, {place: f"{path}:{line}" for place, line in lines.items()}


def read_yaml(text: str, source: str) -> tuple[Any, dict[Place, int]]:
    """The content of a YAML text, and the line of every place in it.

    Args:
        text: YAML.
        source: What messages call it.

    Raises:
        RecipeError: it is no YAML, a key stands twice, or a key is no text.
    """
    try:
        places = list(_lines(yaml.compose(text, Loader=_Loader)))
        content = yaml.load(text, Loader=_Loader)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise RecipeError(f"{source}:{line}: not YAML: {error.reason}", "take the odd character out") from error
    except yaml.MarkedYAMLError as error:
        raise _broken(error, source) from error
    except RecursionError as error:
        raise RecipeError(
            f"{source}: is nested without end, wanted a few levels", "look for an anchor `&` that holds itself"
        ) from error
    _refuse_repeats(places, source)
    return content, dict(places)


def read_override(override: str) -> tuple[tuple[str, ...], Any]:
    """The place and the value that a `KEY=VALUE` names; keys are joined by dots, the value is YAML.

    Raises:
        RecipeError: it is no `KEY=VALUE`, or the value is no YAML.

    Example:
        >>> read_override("train.epochs=3")
        (('train', 'epochs'), 3)
    """
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise RecipeError(f"{override!r}: wanted KEY=VALUE", "for instance: train.epochs=1")
    try:
        new, _ = read_yaml(value, "value")
    except RecipeError as error:
        why = error.found.removeprefix("value:1: ")
        hint = "for instance: arms.banded.edges=[0.3,0.8]"
        raise RecipeError(f"{override!r}: the value is not YAML as wanted: {why}", hint) from None
    return tuple(key.split(".")), new


def take_over(places: dict[Place, str], place: Place) -> None:
    """Note that what stands at a place is no longer the file's: messages then say that the command line set it."""
    for inside in [one for one in places if one[: len(place)] == place]:
        del places[inside]
    for length in range(1, len(place) + 1):
        places.setdefault(place[:length], COMMAND_LINE)


def _broken(error: yaml.MarkedYAMLError, source: str) -> RecipeError:
    found, hint = str(error.problem), "look for a missing colon, quote or bracket, here or on the lines above"
    if "\\t" in found:
        hint = "indent with blanks: YAML takes no tabs"
    if isinstance(error, ConstructorError):
        hint = "put quotes around it where it is meant as text"
    if isinstance(error, _TornNumber):
        number = found.partition(":")[0].split(",")
        hint = f"write {''.join(number)} or {'_'.join(number)}"
    mark, begun = error.problem_mark or error.context_mark, error.context_mark
    if begun and mark and begun.line < mark.line and "quoted" in str(error.context):
        found += f"; the quote was opened on line {begun.line + 1}"
    elif begun and mark and begun.line < mark.line and "flow" in str(error.context):
        found += f"; the bracket was opened on line {begun.line + 1}"
    what = "" if isinstance(error, ConstructorError) else "not YAML: "
    return RecipeError(f"{source}:{mark.line + 1}: {what}{found}" if mark else f"{source}: {what}{found}", hint)


def _refuse_repeats(places: list[tuple[Place, int]], source: str) -> None:
    """YAML keeps the last of two equal keys and says nothing; half a recipe could vanish that way."""
    first: dict[Place, int] = {}
    for place, line in places:
        if place in first:
            name = ".".join(map(str, place))
            raise RecipeError(f"{source}:{line}: '{name}' stands at line {first[place]} already", "keep one of them")
        first[place] = line


def validated(model: type[Model], content: dict[str, Any], places: dict[Place, str], path: Path) -> Model:
    """The content as a model.

    Args:
        model: The class.
        content: What was read.
        places: What messages call each place in it: `file:line`, or the override on the command line.
        path: The file.

    Raises:
        RecipeError: listing every problem with its place, and the nearest right key where one is misspelt.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        problems = "\n".join(_problem(model, item, places, path) for item in error.errors())
        is_changed = COMMAND_LINE in places.values()  # the file alone may well pass
        check = "`teachwise check` with the same KEY=VALUE" if is_changed else f"`teachwise check {path}`"
        hint = f"{check} checks again in a second; docs/recipe.md lists every field"
        raise RecipeError(problems, hint) from None


def _lines(node: yaml.Node | None, place: Place = ()) -> Iterator[tuple[Place, int]]:
    if isinstance(node, yaml.MappingNode):
        for number, (key, value) in enumerate(node.value):
            if torn := _torn_number(node, number):
                raise _TornNumber(None, None, f"{torn}: a comma separates keys here, wanted one number", key.start_mark)
            if key.tag not in (_TEXT, _MERGE):
                shown = getattr(key, "value", "") if isinstance(key, yaml.ScalarNode) else "in brackets"
                raise ConstructorError(
                    None, None, f"the key {shown} is no text, wanted a name: put quotes around it", key.start_mark
                )
            yield (*place, key.value), key.start_mark.line + 1
            yield from _lines(value, (*place, key.value))
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield (*place, index), value.start_mark.line + 1
            yield from _lines(value, (*place, index))


def _torn_number(node: yaml.MappingNode, number: int) -> str:
    """The number, such as 2,000,000, that its own commas tore into a value and keys; "" where the key is none of it."""
    digits = ["" if value.value else key.value for key, value in node.value[number:]]
    rest = list(takewhile(lambda text: isinstance(text, str) and re.fullmatch(r"[0-9]{3}", text), digits))
    first = node.value[number - 1][1].value if number else ""
    is_number = isinstance(first, str) and re.fullmatch(r"[0-9]{1,3}", first)
    return ",".join([first, *rest]) if node.flow_style and rest and is_number else ""


def _problem(model: type[BaseModel], item: Any, places: dict[Place, str], path: Path) -> str:
    place: Place = tuple(item["loc"])
    where, dotted = _where(place, places, path), ".".join(map(str, place))
    if item["type"] == "extra_forbidden":
        return f"{where}: unknown key '{dotted}'{_did_you_mean(model, place)}"
    if item["type"] == "missing":
        return f"{where}: '{dotted}' is required"
    message = _WANTED.get(item["type"], item["msg"].removeprefix("Value error, "))
    found = "" if item["type"] == "value_error" else f", got {_shown(item['input'])}"
    return f"{where}: {dotted + ': ' if dotted else ''}{message}{found}"


def _shown(value: Any) -> str:
    """A value as it stands in YAML, not in Python."""
    if value is None:
        return "nothing"
    return str(value).lower() if isinstance(value, bool) else repr(value)[:100]


def _where(place: Place, places: dict[Place, str], path: Path) -> str:
    """What messages call a place, or the nearest one around it that stands in the file."""
    while place and place not in places:
        place = place[:-1]
    return places[place] if place else str(path)


def _did_you_mean(model: type[BaseModel], place: Place) -> str:
    kind: Any = model
    for name in place[:-1]:
        kind = _inside(kind, name)
    keys = _keys(kind)
    close = difflib.get_close_matches(str(place[-1]), keys, n=1)
    if (other := _OTHER_NAMES.get(str(place[-1]))) in keys:
        close = [other]
    if not close:  # a right key in the wrong section
        close = [f"{key}.{place[-1]}" for key in _keys(model) if place[-1] in _keys(_inside(model, key))]
    return f"; did you mean '{close[0]}'?" if close else ""


def _keys(kind: Any) -> list[str]:
    return [field.alias or key for key, field in getattr(kind, "model_fields", {}).items()]


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
