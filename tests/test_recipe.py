"""recipe: every mistake is found before any work starts, with its line and the nearest right word."""

from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

import teachwise
from teachwise.errors import RecipeError
from teachwise.recipe import Recipe, find_recipe, load_recipe
from teachwise.sections import PAPER_ARMS

GOOD = """\
student: toy
teacher: big
data: {source: q.jsonl}
budget:
  teacher_tokens: 1_000
train:
  epochs: 3
arms:
  sft:
    policy: all
    give: answer
  banded:
    policy: bands
    edges: [0.25, 0.75]
    stages:
      - {easy: answer}
      - {hard: rationale}
  random:
    policy: random
    like: banded
seeds: [0, 1]
"""
FOUR = "student: toy\nteacher: big\ndata: {source: q.jsonl}\nbudget: {teacher_tokens: null}\n"
SHIPPED = sorted((Path(teachwise.__file__).parent / "recipes").glob("*.yaml"))


def write(tmp_path, text, changes=()):
    """A recipe file of `text`, with lines (from 1) replaced; line 22 is added to the 21 of `GOOD`."""
    lines = [*text.splitlines(), ""]
    for number, line in dict(changes).items():
        lines[number - 1] = line
    path = tmp_path / "my.yaml"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def problem_of(path, overrides=()):
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, overrides)
    assert caught.value.hint
    return caught.value.found


def test_the_good_recipe_is_good(tmp_path):
    recipe = load_recipe(write(tmp_path, GOOD))
    assert recipe.seeds == [0, 1]
    assert recipe.budget.teacher_tokens == 1000


@pytest.mark.parametrize(
    ("changes", "line", "message"),
    [
        # unknown keys, at every depth
        ({1: "studnet: toy"}, 1, "unknown key 'studnet'; did you mean 'student'?"),
        ({6: "trian:"}, 6, "unknown key 'trian'; did you mean 'train'?"),
        ({7: "  epoch: 3"}, 7, "unknown key 'train.epoch'; did you mean 'epochs'?"),
        ({3: "data: {source: q.jsonl, columns: {qestion: q}}"}, 3, "'data.columns.qestion'; did you mean 'question'?"),
        ({3: "data: {source: q.jsonl, split: {tran: 0.8}}"}, 3, "'data.split.tran'; did you mean 'train'?"),
        ({14: "    edgs: [0.25, 0.75]"}, 14, "'arms.banded.edgs'; did you mean 'edges'?"),
        ({16: "      - {eazy: answer}"}, 16, "'arms.banded.stages.0.eazy'; did you mean 'easy'?"),
        ({7: "  zzz: 3"}, 7, "unknown key 'train.zzz'"),
        ({22: "validation: {min_auc: 0.5}"}, 22, "unknown key 'validation'; did you mean 'validate'?"),
        # missing keys
        ({1: ""}, None, "'student' is required"),
        ({2: "teacher: {engine: hf}"}, 2, "'teacher.model' is required"),
        ({5: "  {}"}, 4, "name a cap: `teacher_tokens`, `usd` or `requests`"),
        ({10: "    # policy"}, 9, "'arms.sft.policy' is required"),
        # what an arm needs, and what would do nothing
        ({11: "    # give"}, 9, "arms.sft: policy `all` needs `give: answer` or `give: rationale`"),
        ({15: "    #", 16: "    #", 17: "    #"}, 12, "arms.banded: policy `bands` needs `stages`"),
        ({15: "    stages: []", 16: "    #", 17: "    #"}, 12, "policy `bands` needs `stages`"),
        ({20: "    # like"}, 18, "arms.random: policy `random` needs `like: ARM`"),
        ({20: "    like: bands"}, 20, "arms.random.like: 'bands' names no arm that chooses by score or takes all"),
        ({20: "    like: random"}, 20, "arms.random.like: 'random' names no arm"),
        ({10: "    policy: none", 11: "    #", 20: "    like: sft"}, 20, "arms.random.like: 'sft' names no arm"),
        ({11: "    give: [answer]"}, 11, "arms.sft.give: Input should be 'answer' or 'rationale', got ['answer']"),
        ({11: "    give: answer\n    like: banded"}, 12, "arms.sft.like: is for policy `random` and does nothing for"),
        ({13: "    policy: bands\n    give: answer"}, 14, "arms.banded.give: is for policy `all` and does nothing"),
        ({17: "      - {all: rationale}"}, 17, "a stage of `bands` must say what easy, medium or hard get"),
        ({17: "      - {epochs: 2}"}, 17, "a stage of `bands` must say what easy, medium or hard get"),
        ({10: "    policy: al"}, 10, "arms.sft.policy: Input should be 'none', 'all', 'bands' or 'random', got 'al'"),
        # edges
        ({14: "    edges: [0.75, 0.25]"}, 14, "edges: must rise strictly between 0 and 1, got [0.75, 0.25]"),
        ({14: "    edges: [0.5, 0.5]"}, 14, "edges: must rise strictly between 0 and 1"),
        ({14: "    edges: [0, 0.5]"}, 14, "edges: must rise strictly between 0 and 1"),
        ({14: "    edges: [0.25, 75]"}, 14, "less than or equal to 1, got 75"),
        ({14: "    edges: [0.25]"}, 14, "arms.banded.edges.1' is required"),
        ({14: "    edges: [0.2, 0.4, 0.6]"}, 14, "at most 2 items"),
        # bad values
        ({5: "  teacher_tokens: -1"}, 5, "budget.teacher_tokens: Input should be greater than or equal to 0, got -1"),
        ({5: "  teacher_tokens: 1e3x"}, 5, "wanted a whole number, written out: 1000 or 1_000, got '1e3x'"),
        ({5: "  teacher_tokens: 0.5"}, 5, "valid integer"),
        ({7: "  epochs: 0"}, 7, "train.epochs: Input should be greater than 0, got 0"),
        ({7: "  epochs: .inf"}, 7, "train.epochs: Input should be a finite number, got inf"),
        ({7: "  epochs: .nan"}, 7, "train.epochs: Input should be"),
        ({7: "  epochs: three"}, 7, "train.epochs: Input should be a valid number"),
        ({7: "  batch_size: 16\n  micro_batch_size: 5"}, 6, "micro_batch_size 5 does not divide batch_size 16"),
        ({7: "  max_length: 2048.5"}, 7, "train.max_length: Input should be a valid integer"),
        ({6: "train: 3", 7: ""}, 6, "train: wanted `key: value` lines, got 3"),
        ({3: "data: {source: q.jsonl, task: toys}"}, 3, "data.task: Input should be 'multiple_choice'"),
        ({3: "data: {source: q.jsonl, split: {train: 0.9}}"}, 3, "data.split: the shares sum to 1.1, wanted at most 1"),
        ({3: "data: {source: q.jsonl, split: {test: 0}}"}, 3, "train, dev and test must each be above 0"),
        ({3: "data: {source: q.jsonl, limit: {tran: 5}}"}, 3, "data.limit.tran"),
        ({3: "data: {source: q.jsonl, limit: {train: 0}}"}, 3, "data.limit.train: Input should be greater than 0"),
        ({22: "score: {measure: column, column: entropy}"}, 22, "measure `column` needs both `column` and `correct`"),
        ({22: "validate: {min_auc: 60}"}, 22, "validate.min_auc: Input should be less than or equal to 1, got 60"),
        ({22: "validate: {on_fail: go}"}, 22, "validate.on_fail: Input should be 'stop', 'warn' or 'random', got 'go'"),
        ({22: "on_rejected: keep"}, 22, "on_rejected: Input should be 'drop' or 'answer', got 'keep'"),
        # seeds and names
        ({21: "seeds: [0, 1, 0]"}, 21, "seeds: [0, 1, 0] repeat"),
        ({21: "seeds: []"}, 21, "seeds: List should have at least 1 item"),
        ({21: "seeds: 3"}, 21, "seeds: wanted a list, for instance [0, 1], got 3"),
        ({21: "seeds: [-1]"}, 21, "seeds.0: Input should be greater than or equal to 0, got -1"),
        ({9: "  my/arm:"}, 9, "arm name 'my/arm': use letters, digits, - and _"),
        ({9: "  1:"}, 9, "the key 1 is no text, wanted a name: put quotes around it"),
        # not YAML, or not a recipe
        ({3: "data: {source: q.jsonl"}, 4, "not YAML"),
        ({7: "\tepochs: 3"}, 7, "not YAML"),
        ({7: "  epochs: 'three"}, 23, "not YAML"),
        ({4: "...", 5: "---"}, 5, "not YAML"),
    ],
)
def test_a_mistake_is_named_with_its_line(tmp_path, changes, line, message):
    path = write(tmp_path, GOOD, changes)
    where = f"{path}:{line}: " if line else f"{path}: "
    assert any(found.startswith(where) and message in found for found in problem_of(path).splitlines())


@pytest.mark.parametrize("text", ["", "# nothing\n", "- a\n- b\n", "toy", "null"])
def test_a_file_without_keys_is_no_recipe(tmp_path, text):
    assert "is empty or no mapping" in problem_of(write(tmp_path, text))


def test_a_file_that_is_no_text_is_no_recipe(tmp_path):
    (tmp_path / "my.yaml").write_bytes(b"student: \xff\xfe")
    assert "my.yaml" in problem_of(tmp_path / "my.yaml")


@pytest.mark.parametrize(
    "url", ["http://me:SECRET@host/v1", "http://SECRET@host/v1", "http://:SECRET@host/v1", "https://host/v1?key=SECRET"]
)
def test_an_address_that_holds_a_secret_is_refused_and_not_repeated(tmp_path, url):
    found = problem_of(write(tmp_path, GOOD, {2: f'teacher: {{model: big, base_url: "{url}"}}'}))
    assert found.startswith(f"{tmp_path / 'my.yaml'}:2: ")
    assert "key_env" in found
    assert "SECRET" not in found


def test_all_mistakes_are_told_at_once(tmp_path):
    path = write(tmp_path, GOOD, {1: "studnet: toy", 7: "  epochs: 0", 14: "    edges: [0.75, 0.25]"})
    found = problem_of(path).splitlines()
    assert len(found) == 4
    assert {line.split(": ")[0] for line in found} == {str(path), f"{path}:1", f"{path}:7", f"{path}:14"}


@pytest.mark.parametrize(
    ("name", "hint"), [("toyy", "did you mean 'toy'?"), ("recipes/mine.yaml", "shipped recipes: ")]
)
def test_an_unknown_recipe_lists_those_that_ship(name, hint):
    with pytest.raises(RecipeError, match="no such recipe file") as caught:
        find_recipe(name)
    assert hint in caught.value.hint


# short forms and defaults


def test_four_keys_are_enough_and_the_arms_are_the_papers(tmp_path):
    recipe = load_recipe(write(tmp_path, FOUR))
    assert recipe.student.model == "toy"
    assert recipe.teacher.model == "big"
    assert recipe.budget.teacher_tokens is None
    assert list(recipe.arms) == list(PAPER_ARMS) == ["base", "sft", "banded", "random", "distill"]
    assert recipe.arms["banded"].edges == (0.25, 0.75)
    assert recipe.score.measure == "answer_entropy"


def test_a_plain_name_is_short_for_its_model(tmp_path):
    long = FOUR.replace("student: toy", "student: {model: toy}").replace("teacher: big", "teacher: {model: big}")
    (tmp_path / "long").mkdir()
    assert load_recipe(write(tmp_path / "long", long)) == load_recipe(write(tmp_path, FOUR))


def test_the_stages_of_every_arm_are_known(tmp_path):
    recipe = load_recipe(write(tmp_path, FOUR), ["seeds=[3, 4]"])
    gives = {arm: [stage.gives for stage in recipe.stages_of(arm)] for arm in recipe.arms}
    banded = [{"easy": "answer", "medium": "answer"}, {"hard": "rationale"}]
    assert gives == {
        "base": [],
        "sft": [{"all": "answer"}],
        "distill": [{"all": "rationale"}],
        "banded": banded,
        "random": banded,
    }
    assert recipe.seeds_of("base") == [3]
    assert all(recipe.seeds_of(arm) == [3, 4] for arm in gives if arm != "base")


# overrides


@pytest.mark.parametrize(
    ("override", "get", "wanted"),
    [
        ("train.epochs=1.5", lambda r: r.train.epochs, 1.5),
        ("arms.banded.edges=[0.3, 0.8]", lambda r: r.arms["banded"].edges, (0.3, 0.8)),
        ("budget.teacher_tokens=null", lambda r: r.budget.teacher_tokens, None),
        ("student.dtype=float32", lambda r: (r.student.model, r.student.dtype), ("toy", "float32")),
        ("teacher.base_url=http://x:8000/v1", lambda r: r.teacher.base_url, "http://x:8000/v1"),
        ("note=a=b", lambda r: r.note, "a=b"),
        ("student=other", lambda r: r.student.model, "other"),
        ("evaluate.max_new_tokens=7", lambda r: r.evaluate.max_new_tokens, 7),
        ("note=", lambda r: r.note, None),
        ("arms.extra={policy: none}", lambda r: list(r.arms)[-1], "extra"),
        ("seeds=[7]", lambda r: r.seeds, [7]),
    ],
)
def test_an_override_changes_one_field(tmp_path, override, get, wanted):
    path = write(tmp_path, GOOD)
    if override == "note=":  # an empty value is YAML's null, and a note is a text
        assert "note: Input should be a valid string" in problem_of(path, [override])
        return
    assert get(load_recipe(path, [override])) == wanted


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.epochs", "'train.epochs': wanted KEY=VALUE"),
        ("=3", "'=3': wanted KEY=VALUE"),
        ("train.epochs=[", "'train.epochs=[': the value is not YAML"),
        ("train.epochs=0", "train.epochs: Input should be greater than 0, got 0"),
        ("trian.epochs=1", "unknown key 'trian'; did you mean 'train'?"),
        ("train.epoch=1", "unknown key 'train.epoch'; did you mean 'epochs'?"),
        ("arms.bandd.edges=[0.1,0.2]", "'arms.bandd.policy' is required"),
        ("arms.banded.stages.0.epochs=2", "command line: arms.banded.stages: wanted a list"),
        ("seeds=[1,1]", "seeds: [1, 1] repeat"),
    ],
)
def test_a_bad_override_is_named(tmp_path, override, message):
    assert message in problem_of(write(tmp_path, GOOD), [override])


def test_a_later_override_wins(tmp_path):
    assert load_recipe(write(tmp_path, GOOD), ["train.epochs=1", "train.epochs=2"]).train.epochs == 2


# what ships, what is resolved, what is only speed


def test_recipes_ship():
    assert len(SHIPPED) > 0


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_recipe_loads_by_name_and_resolves_to_itself(path, tmp_path):
    recipe = load_recipe(path.stem)
    assert find_recipe(path.stem) == path
    resolved = tmp_path / "recipe.yaml"
    resolved.write_text(recipe.yaml(), encoding="utf-8")
    assert load_recipe(resolved) == recipe
    assert load_recipe(resolved).yaml() == recipe.yaml()


@pytest.mark.parametrize("text", [GOOD, FOUR], ids=["good", "four keys"])
def test_the_resolved_recipe_has_every_field_and_loads_back_the_same(tmp_path, text):
    recipe = load_recipe(write(tmp_path, text), ["train.learning_rate=0.00001", "note='ü: #'"])
    resolved = recipe.yaml()
    assert load_recipe(write(tmp_path, resolved)) == recipe
    assert set(yaml.safe_load(resolved)) == {field.alias or name for name, field in Recipe.model_fields.items()}
    assert "validate" in yaml.safe_load(resolved)


SPEED = [
    ("student", "device", "cpu"),
    ("teacher", "device", "cpu"),
    ("teacher", "base_url", "http://elsewhere/v1"),
    ("teacher", "key_env", "KEY"),
    ("teacher", "concurrency", 1),
    ("teacher", "timeout_seconds", 5),
    ("teacher", "limit_field", "max_completion_tokens"),
    ("teacher", "ledger", "shared.sqlite"),
    ("teacher", "requests_per_minute", 9),
    ("teacher", "tokens_per_minute", 9),
    ("teacher", "delivery", "batch"),
    ("score", "batch_tokens", 7),
    ("train", "micro_batch_size", 2),
    ("train", "gradient_checkpointing", "true"),
    ("train", "save_every", 3),
    ("evaluate", "batch_tokens", 7),
    ("budget", "ask_above_usd", 7.5),
    ("budget", "ask_above_tokens", 7),
]


@pytest.mark.parametrize(("section", "field", "value"), SPEED)
def test_a_field_that_is_only_speed_changes_no_result_section(tmp_path, section, field, value):
    path, engine = write(tmp_path, GOOD), "hf" if (section, field) == ("teacher", "device") else "openai"
    teacher = f"teacher={{model: big, engine: {engine}}}"
    before, after = load_recipe(path, [teacher]), load_recipe(path, [teacher, f"{section}.{field}={value}"])
    assert before != after
    for name in yaml.safe_load(before.yaml()):
        if name != "arms":
            assert before.result_fields(name) == after.result_fields(name)
    assert field not in before.result_fields(section)


def test_every_other_field_of_a_section_is_in_its_result(tmp_path):
    recipe = load_recipe(write(tmp_path, GOOD))
    fast = {(section, field) for section, field, _ in SPEED}
    for section in ("student", "teacher", "data", "score", "validate", "train", "evaluate", "budget"):
        every = set(recipe.plain()[section])
        assert set(recipe.result_fields(section)) == {field for field in every if (section, field) not in fast}


@pytest.mark.parametrize("text", ["student: a\nstudent: b\n", "data: {task: toy, task: mmlu_pro}\n"])
def test_a_key_that_stands_twice_is_refused_with_both_lines(tmp_path, text):
    path = tmp_path / "twice.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match="stands at line 1 already"):
        load_recipe(path)


# measures


@pytest.mark.parametrize(
    ("score", "said"),
    [
        ({"also": ["option_entropi"]}, "did you mean 'option_entropy'"),
        ({"also": ["margin", "margin"]}, "'margin' stands there twice"),
        ({"also": ["answer_entropy"]}, "'answer_entropy' stands there twice"),
        ({"also": ["gain"]}, "'gain' needs `proxy`"),
        ({"measure": "margin@proxy"}, "'margin@proxy' needs `proxy`"),
        ({"measure": "column", "column": "u", "correct": "r", "also": ["margin"]}, "'margin' asks the student"),
    ],
)
def test_measures_that_cannot_be_had_are_refused(recipe_with, score, said):
    with pytest.raises(ValidationError, match=said):
        recipe_with(score=score)


def test_what_is_scored_beside_by_default_asks_no_student_where_scores_were_measured_elsewhere(recipe_with):
    beside = ["option_entropy", "margin", "question_length", "subject_prior", "random"]
    assert recipe_with().score.measures == ["answer_entropy", *beside]
    assert recipe_with(score={"measure": "margin"}).score.measures == [
        "margin",
        *(one for one in beside if one != "margin"),
    ]
    column = {"measure": "column", "column": "u", "correct": "r"}
    assert recipe_with(score=column).score.measures == ["question_length", "subject_prior", "random"]
    assert recipe_with(score={"also": []}).score.measures == ["answer_entropy"]
