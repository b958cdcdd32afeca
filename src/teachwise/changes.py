"""What one recipe changes in another, field by field, in the words of `KEY=VALUE`."""

import json
from typing import Any

from teachwise.recipe import Recipe

_MOST_SIGNS = 40
"""Longer values are cut."""


def changes(before: Recipe, after: Recipe) -> list[str]:
    """The fields that differ, in the recipe's order; those that only change speed are left out.

    Example:
        Two recipes that differ in one field give `["train.epochs 3.0 -> 1.0"]`.
    """
    return _differences(_fields(before), _fields(after), "")


def _fields(recipe: Recipe) -> dict[str, Any]:
    found = {name: recipe.result_fields(name) for name in recipe.plain()}
    return {**found, "arms": dict(found["arms"])}


def _differences(before: dict[str, Any], after: dict[str, Any], place: str) -> list[str]:
    found = []
    for name in {**before, **after}:
        old, new = before.get(name), after.get(name)
        if name not in after or name not in before:
            found.append(f"{place}{name} {'added' if name in after else 'left out'}")
        elif isinstance(old, dict) and isinstance(new, dict):
            found += _differences(old, new, f"{place}{name}.")
        elif old != new:
            found.append(f"{place}{name} {_shown(old)} -> {_shown(new)}")
    if not found and list(before) != list(after):
        found.append(f"{place.rstrip('.')} in another order")
    return found


def _shown(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _MOST_SIGNS else f"{text[:_MOST_SIGNS]}..."
