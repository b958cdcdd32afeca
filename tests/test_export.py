"""export: foreign trainers get exactly the lessons that our own trainer learns from."""

import json
import sys

import pytest

from made_records import rationale
from teachwise import cli
from teachwise.errors import DataError
from teachwise.export import FORMATS, export_arm
from teachwise.lessons import Lesson, Skipped, lessons_of
from teachwise.records import Assignment
from teachwise.run_folder import Unit, write_text
from teachwise.tasks import load_task

ARMS = {
    "base": {"policy": "none"},
    "banded": {"policy": "bands", "stages": [{"easy": "answer", "medium": "answer"}, {"hard": "rationale"}]},
    "sft": {"policy": "all", "give": "answer"},
}
ASSIGNED = [
    Assignment("e3", "hard", "rationale", 1),
    Assignment("e1", "medium", "answer", 0),
    Assignment("e0", "easy", "answer", 0),
    Assignment("e4", "hard", "rationale", 1),
    Assignment("e5", "hard", "rationale", 1),
    Assignment("e6", "hard", "rationale", 1),
    Assignment("e7", "hard", "rationale", 1),
    Assignment("e2", "easy", "drop", -1),
]
TEXT = "Because of ü.\n\nThe answer is [[C]]"
RATIONALES = [
    rationale("e3", "correct", "C", f"  {TEXT}\n"),
    rationale("e4", "wrong", "B", "SECRETLY WRONG [[B]]"),
    rationale("e5", "unreadable", None, "SECRETLY UNREADABLE"),
    rationale("e6", "truncated", "C", "SECRETLY CUT [[C]]"),
    rationale("e7", "failed", None, ""),
]


@pytest.fixture
def taught(put, example_with, recipe_with):
    """A run of eight examples, routed and taught; returns its folder, recipe and examples."""

    def build(on_rejected="drop"):
        examples = [
            example_with(f"e{n}", row=n, subject="law" if n % 2 else "", answer="ABC"[n % 3 if n != 3 else 2])
            for n in range(8)
        ]
        recipe = recipe_with(arms=ARMS, seeds=[4, 9], on_rejected=on_rejected)
        put(Unit("prepare"), examples=examples)
        for seed, assigned in ((4, ASSIGNED), (9, ASSIGNED[:2])):
            put(Unit("route", "banded", seed), assignments=assigned)
            put(Unit("teach", "banded", seed), rationales=RATIONALES)
        put(Unit("route", "sft", 4), assignments=ASSIGNED[1:3])
        put(Unit("teach", "sft", 4), rationales=[])
        write_text(put.run.root / "resolved.yaml", recipe.yaml())
        return put.run.root, recipe, {example.id: example for example in examples}

    return build


def lines_of(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def turns_of(row, form):
    """A row of any format as chat messages."""
    if form == "prompt-completion":
        return [*row["prompt"], *row["completion"]]
    if form == "messages":
        return row["messages"]
    if form == "sharegpt":
        roles = {"system": "system", "human": "user", "gpt": "assistant"}
        return [{"role": roles[turn["from"]], "content": turn["value"]} for turn in row["conversations"]]
    assert row["input"] == ""
    names = {"system": "system", "user": "instruction", "assistant": "output"}
    return [{"role": role, "content": row[name]} for role, name in names.items()]


# lessons


def test_only_kept_rationales_are_learnt_and_the_others_are_named_with_their_reason(example_with):
    examples = {f"e{n}": example_with(f"e{n}", answer="C") for n in range(8)}
    by = {rationale.id: rationale for rationale in RATIONALES}
    lessons, skipped = lessons_of(ASSIGNED, 1, examples, by, "drop")
    assert lessons == [Lesson("e3", "cot", TEXT)]
    assert skipped == [
        Skipped("e4", 1, "rationale wrong"),
        Skipped("e5", 1, "rationale unreadable"),
        Skipped("e6", 1, "rationale truncated"),
        Skipped("e7", 1, "rationale failed"),
    ]
    assert lessons_of(ASSIGNED, 0, examples, by, "drop") == (
        [Lesson("e0", "direct", "C"), Lesson("e1", "direct", "C")],
        [],
    )


def test_a_rejected_rationale_may_give_way_to_the_answer(example_with):
    examples = {f"e{n}": example_with(f"e{n}", answer="C") for n in range(8)}
    lessons, skipped = lessons_of(ASSIGNED, 1, examples, {one.id: one for one in RATIONALES}, "answer")
    assert [(one.id, one.mode, one.completion) for one in lessons[1:]] == [
        (f"e{n}", "direct", "C") for n in (4, 5, 6, 7)
    ]
    assert skipped == []


# files


@pytest.mark.parametrize("form", list(FORMATS))
@pytest.mark.parametrize("on_rejected", ["drop", "answer"])
def test_every_format_holds_the_lessons_in_order_with_the_students_own_prompts(taught, tmp_path, form, on_rejected):
    root, recipe, examples = taught(on_rejected)
    out = tmp_path / "out"
    written = export_arm(root, "banded", None, form, out)
    task = load_task(recipe.data.task, **recipe.data.task_options())
    rationales = {one.id: one for one in RATIONALES}
    for stage in (0, 1):
        lessons, _ = lessons_of(ASSIGNED, stage, examples, rationales, on_rejected)
        wanted = [
            [*task.messages(examples[one.id], one.mode), {"role": "assistant", "content": one.completion}]
            for one in lessons
        ]
        assert [turns_of(row, form) for row in lines_of(out / f"stage-{stage}.jsonl")] == wanted
    sizes = {"stage-0.jsonl": 2, "stage-1.jsonl": 1 if on_rejected == "drop" else 5, "README.md": 0}
    assert written == {str(out / name): rows for name, rows in sizes.items()}


@pytest.mark.parametrize("form", list(FORMATS))
def test_wrong_teacher_answers_are_never_exported(taught, tmp_path, form):
    for on_rejected in ("drop", "answer"):
        export_arm(taught(on_rejected)[0], "banded", None, form, tmp_path / "out")
        files = [path.read_text(encoding="utf-8") for path in (tmp_path / "out").iterdir()]
        assert any("Because of ü." in text for text in files)
        assert not any("SECRETLY" in text for text in files)


@pytest.mark.parametrize("on_rejected", ["drop", "answer"])
def test_the_exported_rows_are_those_that_train_learns(taught, tmp_path, on_rejected):
    from teachwise.train import encoded

    class Texts:
        """A chat whose "token ids" are the texts themselves."""

        def prompt_ids(self, conversations):
            return [[json.dumps([dict(message) for message in one])] for one in conversations]

        def completion_ids(self, texts):
            return [[text] for text in texts]

    root, recipe, examples = taught(on_rejected)
    export_arm(root, "banded", None, "prompt-completion", tmp_path / "out")
    task = load_task(recipe.data.task, **recipe.data.task_options())
    for stage in (0, 1):
        lessons, _ = lessons_of(ASSIGNED, stage, examples, {one.id: one for one in RATIONALES}, on_rejected)
        learnt, too_long = encoded(lessons, examples, task, Texts(), stage, 99)
        rows = lines_of(tmp_path / "out" / f"stage-{stage}.jsonl")
        assert [(json.loads(row.prompt[0]), row.completion) for row in learnt] == [
            (row["prompt"], [turn["content"] for turn in row["completion"]]) for row in rows
        ]
        assert too_long == []


def test_another_seed_exports_its_own_rows(taught, tmp_path):
    written = export_arm(taught()[0], "banded", 9, "messages", tmp_path / "out")
    assert list(written.values()) == [1, 1, 0]


@pytest.mark.parametrize(
    ("form", "settings"),
    [
        ("prompt-completion", ["completion_only_loss=True", "max_length=None", "packing=False", "model='toy'"]),
        ("messages", ["roles_to_train: [assistant]", "train_on_eos: turn", "sample_packing: false", "'toy'"]),
        ("alpaca", ["train_on_prompt: false", '"prompt": "instruction"', "cutoff_len"]),
        ("sharegpt", ["train_on_prompt: false", '"assistant_tag": "gpt"', "cutoff_len"]),
    ],
)
def test_prompt_tokens_in_the_loss_are_switched_off_on_the_settings_page(taught, tmp_path, form, settings):
    export_arm(taught()[0], "banded", None, form, tmp_path / "out")
    page = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "arm `banded`" in page
    for setting in settings:
        assert setting in page
    assert "STUDENT" not in page


def test_the_settings_page_names_keys_that_the_rows_have(taught, tmp_path):
    root = taught()[0]
    for form, start in (("alpaca", '"columns": '), ("sharegpt", '"columns": '), ("sharegpt", '"tags": ')):
        export_arm(root, "banded", None, form, tmp_path / form)
        page = (tmp_path / form / "README.md").read_text(encoding="utf-8")
        named = json.JSONDecoder().raw_decode(page.partition(start)[2])[0]
        row = lines_of(tmp_path / form / "stage-0.jsonl")[0]
        keys = set(row) | {word for turn in row.get("conversations", []) for word in (*turn, turn["from"])}
        assert set(named.values()) <= keys


@pytest.mark.parametrize(
    ("arm", "seed", "form", "found", "hint"),
    [
        ("banded", None, "jsonl", "export: unknown format 'jsonl'", "prompt-completion"),
        ("bandit", None, "messages", "export: the run has no arm 'bandit'", "arms: base, banded"),
        ("base", None, "messages", "export: arm 'base' trains nothing", "another arm"),
        ("banded", 7, "messages", "export: the run has no seed 7 of arm 'banded'", "seeds: "),
    ],
)
def test_what_cannot_be_exported_says_why(taught, tmp_path, arm, seed, form, found, hint):
    root = taught()[0]
    with pytest.raises(DataError) as caught:
        export_arm(root, arm, seed, form, tmp_path / "out")
    assert found in caught.value.found
    assert hint in caught.value.hint
    assert not (tmp_path / "out").exists()


def test_the_export_of_another_arm_is_replaced_only_when_told_and_that_of_the_same_is_refreshed(taught, tmp_path):
    root, out = taught()[0], tmp_path / "out"
    export_arm(root, "banded", None, "messages", out)
    made = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(DataError, match="holds the export of arm 'banded' already") as caught:
        export_arm(root, "sft", None, "messages", out)
    assert "--force" in caught.value.hint
    assert {path.name: path.read_bytes() for path in out.iterdir()} == made
    export_arm(root, "banded", 9, "alpaca", out)
    assert "instruction" in lines_of(out / "stage-0.jsonl")[0]
    export_arm(root, "sft", None, "messages", out, force=True)
    assert sorted(path.name for path in out.iterdir()) == ["README.md", "stage-0.jsonl"]
    (out / "README.md").write_text("my thesis")
    with pytest.raises(DataError, match="not of an export"):
        export_arm(root, "sft", None, "messages", out, force=True)


def test_the_command_export_takes_force(taught, tmp_path, monkeypatch):
    root, out = taught()[0], tmp_path / "out"
    for words in (["--arm", "banded"], ["--arm", "sft", "--force"]):
        monkeypatch.setattr(sys, "argv", ["teachwise", "export", str(root), "--out", str(out), *words])
        cli.main()
    assert "arm `sft`" in (out / "README.md").read_text(encoding="utf-8")


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(DataError, match="is no run folder"):
        export_arm(tmp_path, "banded", None, "messages", tmp_path / "out")
