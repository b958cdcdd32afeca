from collections import Counter

import pytest

from teachwise.records import Example
from teachwise.tasks import load_task
from teachwise.tasks.toy import SIZES, Toy
from teachwise.toy.benchmark import draw

SMALL = {"train": 6, "dev": 3, "test": 4}


def example_of(row):
    return Example(f"id{row.row}", row.row, row.split, row.subject, row.level, row.question, row.options, row.answer)


def test_the_generator_gives_the_split_and_the_level():
    rows = list(Toy(limit=SMALL).rows())
    assert Counter(row.split for row in rows) == SMALL
    assert [row.row for row in rows] == list(range(13))
    first = draw("dev", 1, 0)[0]
    assert (rows[6].question, rows[6].options, rows[6].answer, rows[6].level) == (
        first.question,
        first.options,
        first.answer,
        first.steps,
    )


def test_limit_overrides_the_usual_sizes():
    task = load_task(
        "toy", source=None, columns={}, answer_is="auto", hub_split="test", seed=1, limit={"train": 7, "dev": 2}
    )
    assert Counter(row.split for row in task.rows()) == {**SIZES, "train": 7, "dev": 2}


def test_the_seed_decides_the_questions():
    assert list(Toy(seed=1, limit=SMALL).rows()) == list(Toy(seed=1, limit=SMALL).rows())
    assert list(Toy(seed=1, limit=SMALL).rows()) != list(Toy(seed=2, limit=SMALL).rows())


@pytest.mark.parametrize(("mode", "last"), [("direct", "answer"), ("cot", "think")])
def test_one_user_message_and_no_system_message(mode, last):
    task = Toy(limit=SMALL)
    example = example_of(next(task.rows()))
    (message,) = task.messages(example, mode)
    assert message["role"] == "user"
    assert message["content"].split()[-1] == last
    assert example.question in message["content"]


def test_the_teacher_is_asked_to_think_and_its_solution_is_read():
    task = Toy(limit=SMALL)
    example = example_of(next(task.rows()))
    assert task.teacher_messages(example) == task.messages(example, "cot")
    solution = draw("train", 1, 0)[0].solution
    assert task.read_answer(example, solution) == example.answer
    assert task.read_answer(example, solution.partition("[[")[0]) is None
    assert task.read_answer(example, example.answer) == example.answer
    assert task.prompt_version == "toy-2"


def test_the_open_task_asks_for_numbers_and_reads_them():
    task = load_task("toy_open", seed=0, limit=SMALL)
    rows = list(task.rows())
    assert Counter(row.split for row in rows) == SMALL
    example = example_of(rows[0])
    solution = draw("train", 1, 0, "open")[0].solution
    assert task.read_answer(example, solution) == example.answer
    assert task.read_answer(example, f" {example.answer} ") == example.answer
    assert task.read_answer(example, "9 + 4 is 13 . so 13") is None
    assert "options" not in task.messages(example, "direct")[0]["content"]
