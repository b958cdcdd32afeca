"""answer: new questions get the answers that evaluate would give, every row comes back, and a kill costs little."""

import json
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest

from teachwise import answering, cli, tuned
from teachwise.answer import NEW_COLUMNS, answer_table, told
from teachwise.engines import hf
from teachwise.errors import DataError, StudentError
from teachwise.pack import pack_arm
from teachwise.records import LETTERS, Example, Prediction, Unusable
from teachwise.run_folder import Run, Unit, write_json, write_text
from teachwise.tasks import Row, load_task
from teachwise.tasks.questions import question_columns, read_questions
from teachwise.tasks.table import read_table, write_table
from teachwise.tuned import find_tuned, open_arm, public_student

MODES = ("direct", "cot", "routed")
UNIT = Unit("evaluate", "banded")


def cells_of(example):
    return {"question": example.question, "options": list(example.options), "answer": example.answer}


@pytest.fixture(scope="session")
def asked(tiny_run):
    """The test questions of the tiny runs."""
    return [e for e in Run(tiny_run("lora")).records(Unit("prepare"), "examples.parquet", Example) if e.split == "test"]


@pytest.fixture
def table(asked, tmp_path):
    write_table(tmp_path / "questions.jsonl", [cells_of(example) for example in asked])
    return str(tmp_path / "questions.jsonl")


# ---------------------------------------------------------------------- the same answers as when it was judged


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "full"])
def test_the_answers_are_those_that_evaluate_gave_to_the_same_questions(tiny_run, asked, table, tmp_path, method):
    run = Run(tiny_run(method))
    judged = run.records(UNIT, "predictions.parquet", Prediction)
    for mode in MODES:
        counts = answer_table(run.root, table, tmp_path / f"{mode}.jsonl", "banded", mode=mode)
        rows = read_table(str(tmp_path / f"{mode}.jsonl"))
        found = {one.id: one for one in judged if (one.split, one.mode) == ("test", mode)}
        wanted = [found[example.id] for example in asked]
        assert [row["student_answer"] for row in rows] == [one.stated for one in wanted]
        assert [row["student_text"] for row in rows] == [one.text for one in wanted]
        assert [row["student_correct"] for row in rows] == [one.correct for one in wanted]
        assert [row["answer_entropy"] for row in rows] == pytest.approx([one.score for one in wanted], abs=1e-5)
        assert [row["student_mode"] == "cot" for row in rows] == [one.generated_tokens > 1 for one in wanted]
        assert counts["accuracy"]["value"] == sum(one.correct for one in wanted) / len(wanted)
        for row in rows:
            place = LETTERS.index(row["student_answer"]) if row["student_answer"] else None
            assert row["student_answer_text"] == (None if place is None else row["options"][place])
    assert {row["student_mode"] for row in rows} == {"direct", "cot"}, "routing that never turns shows nothing here"


@pytest.mark.slow
def test_without_a_mode_it_is_asked_in_the_one_that_dev_chose(tiny_run, table, tmp_path):
    run = Run(tiny_run("lora"))
    for arm in ("banded", "base"):
        chosen = run.json(Unit("compare"), "comparison.json")["arms"][arm]["mode"]
        assert answer_table(run.root, table, tmp_path / "a.jsonl", arm)["mode"] == chosen


def test_until_the_arms_are_compared_the_mode_is_the_best_of_its_own_dev_answers(put):
    put(UNIT)
    found = tuned._chosen_mode(put.run, UNIT, {"direct": 0.5, "cot": 0.7, "routed": 0.7})
    assert found == "routed", "of equal ones the cheaper"
    put(Unit("compare"))
    arms = {"banded (routed at random: gate failed)": {"arm": "banded", "mode": "cot"}, "sft": {"arm": "sft"}}
    write_json(put.run.folder(Unit("compare")) / "comparison.json", {"arms": arms})
    assert tuned._chosen_mode(put.run, UNIT, {"direct": 0.5, "cot": 0.7, "routed": 0.7}) == "cot"


def test_an_answer_at_the_threshold_is_given_at_once():
    assert [answering.thinks("routed", score, 0.5) for score in (0.4, 0.5, 0.6)] == [False, False, True]
    assert [answering.thinks(mode, 0.6, 0.5) for mode in MODES] == [False, True, True]


# ------------------------------------------------------------------------------------------ a scripted student


class Actor:
    """Stands in for the student: how sure it is and what it writes stand in the question itself."""

    def __init__(self, **options):
        self.options, self.calls, self.patience = options, [], 10**9
        self.chat = SimpleNamespace(
            prompt_ids=lambda asked: [[message["content"] for message in one] for one in asked],
            letter_ids=self._letter_ids,
        )

    def _letter_ids(self, letters):
        if "H" in letters:
            raise StudentError("option letter 'H' is 2 tokens", "-")

    def _plot(self, prompt):
        return json.loads(prompt[-1].partition("\n")[0])

    def _work(self, kind, prompts):
        if not self.patience:
            raise KeyboardInterrupt
        self.patience -= 1
        self.calls.append((kind, len(prompts)))

    def answer_scores(self, prompts, letters):
        self._work("direct", prompts)
        self.seen = [prompt[0] for prompt in prompts]
        return [SimpleNamespace(entropy_nats=self._plot(p)["h"], token=self._plot(p)["at_once"]) for p in prompts]

    def generate(self, prompts, max_new_tokens):
        self._work("cot", prompts)
        return [SimpleNamespace(text=self._plot(p)["thought"], tokens=self._plot(p)["n"]) for p in prompts]


def plot(h=0.1, at_once="A", thought="so [[B]]", n=4, options=("one", "two", "three"), **cells):
    question = json.dumps({"h": h, "at_once": at_once, "thought": thought, "n": n})
    return {"question": question, "options": list(options), **cells}


@pytest.fixture
def act(put, example_with, recipe_with, monkeypatch, tmp_path):
    """Answers rows with a scripted student of a multiple-choice run; gives the counts, the rows and the student."""
    arms = {"banded": {"policy": "bands", "stages": [{"easy": "answer"}]}, "base": {"policy": "none"}}

    def run(
        rows, out="answers.jsonl", subject="", patience=10**9, task="multiple_choice", known=(), also=(), **options
    ):
        limits = {"max_new_tokens": 9, "batch_tokens": 999}
        recipe = recipe_with(
            data={"source": "trained_on.csv", "task": task},
            arms=arms,
            seeds=[3, 4],
            evaluate={name: options.pop(name, value) for name, value in limits.items()},
        )
        put(Unit("prepare"), examples=[example_with("e1", subject=subject), *known])
        for unit in (Unit("evaluate", "banded", 3), Unit("evaluate", "banded", 4), *also):
            folder = put(unit)
            accuracy = {"direct": 0.1, "cot": 0.2, "routed": 0.3}
            write_json(folder / "evaluation.json", {"threshold_nats": 0.5, "dev_accuracy": accuracy})
        write_text(put.run.root / "resolved.yaml", recipe.yaml())
        write_table(tmp_path / "questions.jsonl", rows)
        actor = Actor()
        actor.patience = patience
        monkeypatch.setattr(hf, "HfEngine", lambda **found: (setattr(actor, "options", found), actor)[1])
        arm = options.pop("arm", "banded")
        run.actor = actor
        counts = answer_table(put.run.root, str(tmp_path / "questions.jsonl"), tmp_path / out, arm, **options)
        return counts, read_table(str(tmp_path / out)), actor

    return run


def test_every_row_comes_back_in_order_and_bad_ones_with_their_reason(act):
    rows = [
        plot(0.1, "C", note="first"),
        plot() | {"question": "  "},
        plot(2.0, thought="well [[B]]"),
        plot(options=("one",)),
        plot(options=tuple("abcdefgh")),
        plot() | {"options": 7},
        plot(0.2, "the"),
        plot(0.6, thought="hmm", n=5),
        plot(0.6, thought="hmm hmm", n=9),
    ]
    counts, found, _ = act(rows)
    assert [row["question"] for row in found] == [row["question"] for row in rows]
    assert found[0]["note"] == "first"
    assert [row["student_answer"] for row in found] == ["C", None, "B", None, None, None, None, None, None]
    assert [row["student_answer_text"] for row in found[:3]] == ["three", None, "two"]
    assert [row["student_mode"] for row in found] == [
        *("direct", None, "cot", None, None, None),
        *("direct", "cot", "cot"),
    ]
    assert [row["unusable"] for row in found] == [
        *(None, "the question is empty", None),
        *(
            "the number of options is 1, wanted 2 to 26",
            "option letter 'H' is 2 tokens",
            "the options are no list: '7'",
        ),
        *(None, None, None),
    ]
    assert [row["unreadable"] for row in found[:6]] == [None] * 6
    assert [row["unreadable"] for row in found[6:]] == [
        "the first token is no option letter",
        "the text states no option letter",
        "no option letter is stated within 9 tokens",
    ]
    assert (counts["rows"], counts["answered"], counts["direct"], counts["cot"]) == (9, 5, 2, 3)
    assert (counts["unreadable"], counts["unusable"], counts["accuracy"]) == (3, 4, None)
    assert "5 answered: 2 at once, 3 thinking; 3 unreadable; 4 rows unusable; no accuracy" in told(counts)


def test_a_table_in_which_no_row_can_be_asked_comes_back_too(act):
    counts, found, actor = act([plot() | {"question": ""}])
    assert (counts["answered"], found[0]["unusable"], actor.calls) == (0, "the question is empty", [])


def test_only_unsure_questions_are_thought_about_unless_the_mode_says_otherwise(act):
    rows = [plot(0.5), plot(0.51), plot(0.1)]
    for mode, thought in ((None, 1), ("routed", 1), ("direct", 0), ("cot", 3)):
        counts, found, actor = act(rows, mode=mode)
        assert (counts["cot"], counts["direct"]) == (thought, 3 - thought)
        assert sum(n for kind, n in actor.calls if kind == "cot") == thought
        assert [row["answer_entropy"] for row in found] == [0.5, 0.51, 0.1], "measured in every mode"


def test_accuracy_is_over_the_rows_that_have_a_gold_answer(act):
    rows = [
        plot(at_once="A", answer="A"),
        plot(at_once="B", answer="C"),
        plot(at_once="the", answer="b"),
        plot(at_once="A", answer=""),
        plot(at_once="A", answer="Z"),
        plot(at_once="A", answer="A") | {"question": ""},
    ]
    counts, found, _ = act(rows)
    assert [row["student_correct"] for row in found] == [True, False, False, None, None, None]
    assert (counts["accuracy"]["value"], counts["accuracy"]["n"]) == (pytest.approx(1 / 3), 3)
    assert 0 < counts["accuracy"]["low"] < 1 / 3 < counts["accuracy"]["high"] < 1
    assert told(counts).endswith("accuracy 33.3% (6.1% to 79.2%, n=3)")
    assert found[1]["answer"] == "C", "the gold answer stays as it is"


def known_as(split, *rows):
    """The rows as questions of the run, in a split."""
    return [Row(0, row["question"], tuple(row["options"]), row["answer"]).example(split) for row in rows]


def test_accuracy_is_over_questions_that_were_not_there_to_train_on_or_to_choose_the_threshold(act):
    """Whatever their white space; test questions count, as do those that the run never had."""
    rows = [plot(n / 100, at_once="A", answer="AB"[n < 5]) for n in range(10)]
    known = [*known_as("train", *rows[:5]), *known_as("dev", rows[5]), *known_as("test", rows[6])]
    counts, _, _ = act([{**row, "options": [f" {one} " for one in row["options"]]} for row in rows], known=known)
    assert [counts[name] for name in ("judged", "trained_on", "chose_threshold")] == [10, 5, 1]
    assert (counts["accuracy"]["value"], counts["accuracy"]["n"]) == (1, 4)
    said = "5 of these 10 were there to train on and 1 to choose the threshold; accuracy on the other 4: 100.0% ("
    assert f"; {said}" in told(counts)
    counts, _, _ = act([plot(0.5, answer="A") | {"question": ""}, *rows[5:]], known=known)
    assert "; 1 of these 5 was there to choose the threshold; accuracy on the other 4: 100.0%" in told(counts)
    counts, _, _ = act(rows[:6], known=known)
    assert counts["accuracy"] is None
    assert "no accuracy: 5 of these 6 were there to train on and 1 to choose the threshold, and no other" in told(
        counts
    )


def test_an_arm_that_trains_nothing_saw_no_train_question(act):
    rows = [plot(n / 100, answer="A") for n in range(3)]
    known = [*known_as("train", *rows[:2]), *known_as("dev", rows[2])]
    counts, _, _ = act(rows, known=known, arm="base", also=[Unit("evaluate", "base", 3)])
    assert (counts["trained_on"], counts["chose_threshold"], counts["accuracy"]["n"]) == (0, 1, 2)


def test_a_pack_says_that_it_cannot_tell_what_it_was_trained_on(act):
    counts, _, _ = act([plot(answer="A")])
    assert told(counts).endswith("accuracy 100.0% (20.7% to 100.0%, n=1)"), "nothing to say where none was there"
    assert told({**counts, "trained_on": None, "chose_threshold": None}).endswith(
        "accuracy 100.0% (20.7% to 100.0%, n=1); which of these it was trained on, a pack cannot tell: ask the run"
    )


@pytest.mark.parametrize(
    ("extra", "why"),
    [
        ({}, "no accuracy: the table has no answer column"),
        ({"answer": "A", "label": "B"}, "no accuracy: several columns could each be the answer: answer, label"),
        ({"answer": "who knows"}, "fit no way of naming an option"),
    ],
)
def test_gold_answers_that_cannot_be_read_are_not_guessed_and_stop_nothing(act, extra, why):
    counts, found, _ = act([plot(**extra)] * 2)
    assert (counts["answered"], counts["accuracy"]) == (2, None)
    assert counts["no_gold"] in told(counts)
    assert why in told(counts)
    assert "student_correct" not in found[0]


def test_the_task_of_the_run_says_how_gold_answers_name_their_option(act):
    """MMLU-Pro's are letters, though "A" might as well be the text of the second option."""
    rows = [plot(at_once="A", options=("B", "A", "C"), answer="A")] * 3
    assert act(rows)[0]["accuracy"] is None
    assert act(rows, task="mmlu_pro")[0]["accuracy"]["value"] == 1


def test_csv_and_parquet_hold_the_same_answers(act):
    rows = [plot(0.1), plot() | {"question": ""}, plot(0.9)]
    _, lines, _ = act(rows)
    _, typed, _ = act(rows, out="a.parquet")
    _, text, _ = act(rows, out="a.csv")
    assert typed == lines
    assert [row["student_answer"] for row in text] == ["A", "", "B"]


def test_a_question_that_stands_twice_is_asked_under_each_of_its_subjects(act):
    _, found, actor = act([plot(subject="law"), plot(subject="art"), plot(subject="law")], subject="law")
    assert len(found) == 3
    assert [sum(name in seen for seen in actor.seen) for name in ("about law", "about art")] == [2, 1]


def test_a_missing_subject_is_told_where_the_student_was_trained_with_subjects(act, capsys):
    act([plot()], subject="law")
    assert "trained with subjects" in capsys.readouterr().err
    act([plot()], subject="")
    act([plot(subject="art")], subject="law")
    assert "trained with subjects" not in capsys.readouterr().err


def test_the_first_seed_is_taken_and_said_and_another_only_when_asked(act, capsys, put):
    _, _, actor = act([plot()])
    assert actor.options["adapter"] == put.run.root / "train/banded/seed-3/round-0/stage-0"
    assert "seed 3, the first of 3, 4" in capsys.readouterr().err
    _, _, actor = act([plot()], seed=4)
    assert actor.options["adapter"] == put.run.root / "train/banded/seed-4/round-0/stage-0"
    assert "the first of" not in capsys.readouterr().err


def test_the_student_may_lie_elsewhere(act):
    _, _, actor = act([plot()], student="moved/student")
    assert (actor.options["model"], actor.options["revision"]) == ("moved/student", None)


# -------------------------------------------------------------------------------------------- kills and names


def test_a_killed_job_goes_on_where_it_was_to_the_same_answers(act, tmp_path):
    rows = [plot(h, answer="A") for h in (0.1, 0.9, 0.2, 0.8, 0.3, 0.7, 0.9)]
    _, whole, uninterrupted = act(rows, batch_tokens=11)
    assert [kind for kind, _ in uninterrupted.calls] == ["direct"] * 2 + ["cot"] * 4, "several batches"
    (tmp_path / "answers.jsonl").unlink()
    for patience in range(len(uninterrupted.calls)):
        with pytest.raises(KeyboardInterrupt):
            act(rows, batch_tokens=11, patience=min(patience, 1))
        assert not (tmp_path / "answers.jsonl").exists()
    _, found, last = act(rows, batch_tokens=11)
    assert len(last.calls) == 1, "each start kept its one batch"
    assert found == whole
    assert sorted(path.name for path in tmp_path.iterdir()) == ["answers.jsonl", "questions.jsonl", "run"]


def test_what_a_killed_job_left_is_not_taken_for_another_job(act):
    rows = [plot(0.9, "C"), plot(0.9, "B")]

    def killed_after_its_first_batch(asked=rows, **options):
        with pytest.raises(KeyboardInterrupt):
            act(asked, patience=1, **options)
        return act.actor.calls

    assert killed_after_its_first_batch() == [("direct", 2)]
    for other in ({"seed": 4}, {"student": "elsewhere"}, {"max_new_tokens": 8}):
        assert killed_after_its_first_batch(**other) == [("direct", 2)], other
    assert killed_after_its_first_batch([plot(0.9, "A"), plot(0.9, "B")]) == [("direct", 2)]
    for subject in ("law", "art"):
        one = [plot(0.9, "C", subject=subject)]
        assert killed_after_its_first_batch(one, subject="law") == [("direct", 1)], "another subject, another prompt"
    _, found, actor = act(rows, mode="cot")
    assert [row["student_answer"] for row in found] == ["B", "B"]
    assert actor.calls == [("cot", 2)], "another mode asks no question again"
    _, found, _ = act(rows, mode="direct")
    assert [row["student_answer"] for row in found] == ["C", "B"]


@pytest.mark.parametrize("name", NEW_COLUMNS)
def test_a_column_that_would_be_overwritten_is_refused_before_any_work(act, name, tmp_path):
    with pytest.raises(DataError, match=f"has a column '{name}' already"):
        act([plot(), plot(**{name: "x"})])
    assert act.actor.calls == []
    assert not (tmp_path / "answers.jsonl").exists()


@pytest.mark.parametrize(
    ("options", "found", "hint"),
    [
        ({"arm": None}, "no arm is named", "one of: banded, base"),
        ({"arm": "sft"}, "no arm 'sft'", "one of: banded, base"),
        ({"arm": "base"}, "evaluate base (seed 3) is not finished", "teachwise run"),
        ({"seed": 9}, "has no seed 9", "seeds: 3, 4"),
        ({"mode": "guess"}, "--mode guess", "direct, cot, routed"),
        ({"out": "a.xlsx"}, "unknown kind '.xlsx'", ".jsonl"),
        ({"out": "questions.jsonl"}, "is the table itself", "another --out"),
    ],
)
def test_what_cannot_be_asked_for_says_why(act, options, found, hint):
    with pytest.raises(DataError) as caught:
        act([plot()], **options)
    assert found in caught.value.found
    assert hint in caught.value.hint
    assert act.actor.calls == []


def test_recipe_fields_are_refused_with_how_columns_are_found(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["teachwise", "answer", "runs/x", "q.csv", "data.columns.question=X"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    said = capsys.readouterr().err
    assert stop.value.code == 2
    assert said.startswith("error: answer: data.columns.question=X: cannot be said here; it takes RUN or PACK, TABLE")
    assert "call it in the table as in the recipe that trained, or question, options" in said


COMMANDS = {
    "answer": lambda run, table, out: answer_table(run, table, out, "banded"),
    "pack": lambda run, _, out: pack_arm(run, "banded", None, out),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_run_of_open_questions_is_refused_before_anything_is_written(put, recipe_with, tmp_path, command):
    put(UNIT)
    write_text(put.run.root / "resolved.yaml", recipe_with(data={"task": "toy_open"}).yaml())
    write_table(tmp_path / "q.jsonl", [plot()])
    with pytest.raises(DataError, match="its questions are open") as caught:
        COMMANDS[command](put.run.root, str(tmp_path / "q.jsonl"), tmp_path / "out.csv")
    assert "task: toy" in caught.value.hint
    assert sorted(path.name for path in tmp_path.iterdir()) == ["q.jsonl", "run"]


def test_a_folder_that_is_neither_run_nor_pack_is_refused(tmp_path):
    with pytest.raises(DataError, match="neither a run folder nor a pack"):
        find_tuned(tmp_path, "banded", None, None)


@pytest.mark.slow
def test_a_whole_model_has_no_student_that_could_lie_elsewhere(tiny_run):
    with pytest.raises(DataError, match="holds no adapter"):
        find_tuned(tiny_run("full"), "banded", None, "elsewhere")


def test_prompts_of_another_version_are_refused(act, monkeypatch):
    before = tuned.tuned_in_run
    monkeypatch.setattr(tuned, "tuned_in_run", lambda *found: replace(before(*found), prompt_version="mc-0"))
    with pytest.raises(DataError, match="trained with prompts 'mc-0'"):
        act([plot()])


@pytest.mark.slow
def test_an_adapter_on_a_student_it_was_not_made_for_is_refused(tiny_run, tmp_path):
    """One with fewer layers takes the adapter's first ones without a word from PEFT."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    adapter = tiny_run("lora") / "train/banded/seed-0/round-0/stage-1"
    home = tiny_run("lora").parent / "my-student"
    short = AutoModelForCausalLM.from_pretrained(home)
    short.model.layers = torch.nn.ModuleList(list(short.model.layers)[:2])
    short.config.num_hidden_layers = 2
    short.save_pretrained(tmp_path / "short")
    AutoTokenizer.from_pretrained(home).save_pretrained(tmp_path / "short")
    with pytest.raises(StudentError, match="does not fit this student"):
        hf.HfEngine(str(tmp_path / "short"), adapter=adapter)


# ------------------------------------------------------------------------------- reading a table of questions


def read(rows, known=None, answer_is="auto"):
    return read_questions(rows, question_columns(rows, known or {}, "t"), answer_is, "t")


def test_columns_keep_the_recipes_names_where_the_table_has_them():
    row = {"q": "why?", "question": "no", "choices": ["a", "b"], "answer": "B"}
    ((found,), why) = read([row], {"question": "q", "options": ["A", "B"], "answer": "gold", "level": "l"})
    assert (found.question, found.options, found.answer, why) == ("why?", ("a", "b"), "B", "")


def test_a_split_column_of_new_questions_is_not_read():
    ((found,), _) = read([{"question": "why?", "A": "a", "B": "b", "split": "production"}])
    assert (found.options, found.split) == (("a", "b"), None)


def test_what_two_columns_could_be_is_asked_unless_it_is_the_answer():
    row = {"question": "why?", "options": ["a", "b"], "choices": ["c", "d"]}
    with pytest.raises(DataError, match="could each be the options"):
        read([row])
    with pytest.raises(DataError, match="no column for the options") as caught:
        read([{"question": "why?", "answer": "A"}])
    assert "call it in the table as in the recipe that trained" in caught.value.hint, "there is no recipe to write in"


def test_a_gold_answer_is_read_as_the_recipe_says():
    rows = [{"question": "why?", "options": ["a", "b", "c"], "answer": 1}]
    assert [read(rows, answer_is=how)[0][0].answer for how in ("index", "index_from_1", "letter")] == ["B", "A", ""]


def test_to_prepare_a_missing_answer_is_still_a_mistake(tmp_path):
    write_table(tmp_path / "some.jsonl", [{"question": "why?", "options": ["a", "b"], "answer": a} for a in ("B", "")])
    assert list(load_task("multiple_choice", source=str(tmp_path / "some.jsonl")).rows())[1] == Unusable(
        1, "the answer is missing", "why?"
    )
    write_table(tmp_path / "none.jsonl", [{"question": "why?", "options": ["a", "b"]}])
    with pytest.raises(DataError, match="no column for the answer"):
        list(load_task("multiple_choice", source=str(tmp_path / "none.jsonl")).rows())


def test_a_students_public_name_has_no_path(tmp_path, monkeypatch):
    (tmp_path / "models" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert public_student("models/mine") == ("mine", True)
    assert public_student("models/other") == ("models/other", False)
    assert public_student("./models/gone") == ("gone", True)
    assert public_student(str(tmp_path / "gone")) == ("gone", True)
    assert public_student("toy") == ("toy", False)


def test_an_arm_without_seeds_of_its_own_opens_with_the_first(put, recipe_with, capsys):
    write_text(put.run.root / "resolved.yaml", recipe_with(seeds=[5, 6]).yaml())
    put(Unit("evaluate", "base", 5))
    assert open_arm(put.run.root, "base", None)[2] == Unit("evaluate", "base", 5)
    assert "the first of" not in capsys.readouterr().err
