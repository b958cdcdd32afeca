"""What one recipe changes in another, named field by field."""

import pytest

from teachwise.changes import changes
from teachwise.recipe import load_recipe

CASES = {
    "nothing": ([], []),
    "a number": (["train.epochs=3"], ["train.epochs 8 -> 3"]),
    "speed alone": (["train.save_every=3", "teacher.concurrency=2", "score.batch_tokens=9"], []),
    "two sections": (
        ["seeds=[0, 1]", "validate.on_fail=warn"],
        ["validate.on_fail stop -> warn", "seeds [0] -> [0, 1]"],
    ),
    "no cap": (["budget.teacher_tokens=null"], ["budget.teacher_tokens 400000 -> null"]),
    "a field of an arm": (["arms.banded.edges=[0.3, 0.8]"], ["arms.banded.edges [0.25, 0.75] -> [0.3, 0.8]"]),
    "an arm": (["arms.more={policy: all, give: answer}"], ["arms.more added"]),
    "a long text": (["student=" + "x" * 99], [f"student.model toy -> {'x' * 40}..."]),
}


@pytest.mark.parametrize("name", CASES)
def test_changed_fields_are_named_with_both_values(name):
    overrides, told = CASES[name]
    assert changes(load_recipe("toy"), load_recipe("toy", overrides)) == told


def test_an_arm_left_out_and_arms_in_another_order_are_told():
    recipe = load_recipe("toy")
    fewer = recipe.model_copy(update={"arms": {name: arm for name, arm in recipe.arms.items() if name != "distill"}})
    turned = recipe.model_copy(update={"arms": dict(reversed(recipe.arms.items()))})
    assert changes(recipe, fewer) == ["arms.distill left out"]
    assert changes(recipe, turned) == ["arms in another order"]
