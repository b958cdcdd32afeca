"""The pages of the docs do what they say: every command, Python block and recipe on them is executed.

How a page is written and what it begins with stands in `doc_pages`. The nine pages of the steps are walked in order in
one folder, and what they leave is the finished run that all other pages begin with.
"""

import json
import re
import shutil

import pytest

import stand_ins
from doc_pages import ROOT, STUDENT, Workplace, check_yaml, fences_of, is_shown, read_directive, without_numbers
from teachwise.run_folder import open_run
from teachwise.steps import STEPS

STEP_PAGES = [ROOT / "docs" / "steps" / f"{step.name}.md" for step in STEPS]
TUTORIAL = ROOT / "docs" / "tutorial.md"
OTHER_PAGES = [
    page
    for page in sorted([ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")])
    if page not in STEP_PAGES and any(fence.language in ("sh", "python", "yaml") for fence in fences_of(page))
]
MY_RECIPE = f"""\
student: {STUDENT}
teacher: {{model: deepseek-flash, base_url: "https://api.deepseek.com/v1", key_env: TEACHER_API_KEY}}
data: {{source: questions.csv, split: {{train: 0.6, dev: 0.15, test: 0.25}}, seed: 1}}
budget: {{teacher_tokens: 61_000}}
validate: {{on_fail: warn}}
train: {{lora_r: 8, epochs: 1}}
evaluate: {{max_new_tokens: 32}}
arms:
  base:   {{policy: none}}
  banded: {{policy: bands, stages: [{{easy: answer, medium: answer}}, {{hard: rationale}}]}}
  random: {{policy: random, like: banded}}
"""


@pytest.fixture(scope="session")
def teacher_url():
    with stand_ins.scripted_teacher() as url:
        yield url


@pytest.fixture(scope="session")
def bare_place(tmp_path_factory):
    """The folder that the tutorial and the pages of the steps begin with: no run is there yet."""
    folder = tmp_path_factory.mktemp("docs") / "bare"
    shutil.copytree(stand_ins.QUIZ, folder / "examples" / "quiz")
    shutil.copytree(stand_ins.QUIZ, folder, dirs_exist_ok=True)
    stand_ins.write_student(folder / STUDENT)
    (folder / "my_recipe.yaml").write_text(MY_RECIPE, encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def finished_place(bare_place, teacher_url):
    """The folder as the pages of the steps leave it, with a finished run; and what each page did wrong."""
    folder = bare_place.with_name("finished")
    shutil.copytree(bare_place, folder)
    place, faults = Workplace(folder, teacher_url), {}
    for page in STEP_PAGES:
        try:
            place.walk(page)
        except AssertionError as error:
            faults[page.stem] = str(error)
    return folder, faults


@pytest.fixture
def page_place(finished_place, tiny_run, tmp_path, teacher_url):
    """A copy of the finished folder, with the toy's run beside it."""
    shutil.copytree(finished_place[0], tmp_path / "page")
    shutil.copytree(tiny_run("lora"), tmp_path / "page" / "runs" / "demo", dirs_exist_ok=True)
    return Workplace(tmp_path / "page", teacher_url)


@pytest.mark.slow
@pytest.mark.parametrize("step", [page.stem for page in STEP_PAGES])
def test_the_page_of_a_step_does_what_it_says(finished_place, step):
    assert finished_place[1].get(step) is None


@pytest.mark.slow
def test_the_tutorial_can_be_followed_to_its_end(bare_place, tmp_path, teacher_url):
    folder = shutil.copytree(bare_place, tmp_path / "tutorial")
    for name in ("my_recipe.yaml", "questions.csv", "new_questions.csv"):
        (folder / name).unlink()
    Workplace(folder, teacher_url).walk(TUTORIAL)


@pytest.mark.slow
@pytest.mark.parametrize("page", [one for one in OTHER_PAGES if one != TUTORIAL], ids=lambda one: one.stem)
def test_a_page_does_what_it_says(page_place, page):
    page_place.walk(page)


# ------------------------------------------------------------------------------------- files of a run, as described

FILES = ROOT / "docs" / "run_folder.md"


def described_files():
    """Every path in the first table of the page, as a pattern."""
    rows = re.findall(r"^\| `([^`]+)` \|", FILES.read_text(encoding="utf-8").partition("\n## ")[0], re.MULTILINE)
    for row in rows:
        yield (
            re.escape(row)
            .replace("ARM", "[^/]+")
            .replace(r"seed\-S", r"seed-\d+")
            .replace(r"round\-R", r"round-\d+")
            .replace(r"stage\-N", r"stage-\d+")
            .replace("UNIT", "[a-z]+.*")
            .replace("KEY", "[0-9a-f]{16}")
            .replace("SOURCE", "[a-z]+")
            .replace(r"\*", "[^/]*")
        )


@pytest.mark.slow
def test_every_file_of_a_run_is_described(finished_place):
    root = finished_place[0] / "runs" / "my_recipe"
    patterns = [re.compile(pattern) for pattern in described_files()]
    assert len(patterns) > 15
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_file():
            assert any(pattern.fullmatch(name) for pattern in patterns), f"{name} is not in docs/run_folder.md"


@pytest.mark.slow
def test_the_fields_of_the_json_files_are_described(finished_place):
    root = finished_place[0] / "runs" / "my_recipe"
    text = FILES.read_text(encoding="utf-8")
    sections = re.findall(r"^### `([\w./*-]+\.json)`\n(.*?)(?=^##|\Z)", text, re.MULTILINE | re.DOTALL)
    assert len(sections) >= 6
    for name, section in sections:
        path = next(
            root.glob(name.replace("ARM", "banded").replace("-S", "-0").replace("-R", "-0").replace("-N", "-0"))
        )
        rows = set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE))
        assert rows == set(json.loads(path.read_text(encoding="utf-8"))), name


@pytest.mark.slow
def test_the_columns_of_the_reports_table_are_described(finished_place):
    import pyarrow.parquet as pq

    section = FILES.read_text(encoding="utf-8").partition("### `report/examples.parquet`")[2].partition("\n#")[0]
    shown = {name.replace("NAME", "banded") for name in re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)}
    with open(finished_place[0] / "runs" / "my_recipe" / "report" / "examples.parquet", "rb") as file:
        names = pq.read_schema(file).names
    assert shown == {name for name in names if not name.startswith(("arm_base_", "arm_random_"))}


# ------------------------------------------------------------------------------------- the mechanism itself


def page_with(tmp_path, text):
    path = tmp_path / "page.md"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "comment", ["skip", "skip because", "with a=1", "fails with 3", "fails with 0 because x", "nonsense"]
)
def test_a_directive_without_a_reason_is_a_mistake(tmp_path, comment):
    with pytest.raises(ValueError, match="unknown directive"):
        read_directive(comment)


def test_a_directive_above_no_fence_is_a_mistake(tmp_path):
    with pytest.raises(ValueError, match="directly above a fence"):
        fences_of(page_with(tmp_path, "<!-- test: output -->\ntext\n```sh\nls\n```\n"))


def walked(tmp_path, monkeypatch, text):
    monkeypatch.setattr("doc_pages.ROOT", tmp_path)
    (tmp_path / "Makefile").write_text("demo:\n")
    place = Workplace(tmp_path, "http://127.0.0.1:1/v1")
    place.walk(page_with(tmp_path, text))
    return place


@pytest.mark.parametrize(
    "text",
    [
        "```sh\nteachwise check nowhere.yaml\n```\n",
        "```sh\nls nowhere\n```\n",
        "```python\nassert 1 == 2\n```\n",
        "```sh\nteachwise check toy\n```\n<!-- test: output -->\n```text\nsomething else\n```\n",
        "<!-- test: fails with 3 because it should -->\n```sh\nteachwise check nowhere.yaml\n```\n",
        "```sh\nmake demo\nmake nowhere\n```\n",
    ],
)
def test_a_page_that_does_not_do_what_it_says_is_found(tmp_path, monkeypatch, text):
    with pytest.raises(AssertionError):
        walked(tmp_path, monkeypatch, text)


def test_a_recipe_that_does_not_check_is_found(tmp_path, monkeypatch):
    with pytest.raises(Exception, match="did you mean 'epochs'"):
        walked(tmp_path, monkeypatch, "```yaml\ntrain: {epoch: 3}\n```\n")


def test_a_page_can_write_files_fail_on_purpose_and_skip(tmp_path, monkeypatch):
    place = walked(
        tmp_path,
        monkeypatch,
        "<!-- test: file made.txt -->\n```text\none\n```\n<!-- test: append to made.txt -->\n```text\ntwo\n```\n"
        "```sh\ncat made.txt\n```\n<!-- test: output -->\n```text\none\n...\n```\n"
        "<!-- test: skip because there is no such thing -->\n```sh\nls nowhere\n```\n"
        "<!-- test: fails with 2 because there is no such recipe -->\n```sh\nteachwise check nowhere.yaml\n```\n"
        "```python\nx = 1\n```\n```python\nprint(x + 1)\n```\n"
        "<!-- test: output because of chance -->\n```text\n7\n```\n",
    )
    assert place.printed == "2\n"


def test_words_can_be_added_to_the_commands_of_a_fence(tmp_path, monkeypatch):
    text = "<!-- test: with train.epochs=2 because of time -->\n```sh\nteachwise check toy\n```\n"
    assert "epochs: 2.0\n" in walked(tmp_path, monkeypatch, text).printed


def test_other_figures_are_not_other_words():
    assert is_shown(without_numbers("done  1.5 s  auc -0.2"), without_numbers("done  22 s   auc 0.71"))
    assert not is_shown(without_numbers("done 1 s"), without_numbers("kept 1 s"))


def test_every_step_has_a_page_and_the_run_of_these_pages_is_whole(finished_place):
    assert all(page.exists() for page in STEP_PAGES)
    assert open_run(finished_place[0] / "runs" / "my_recipe").report.exists()


def test_yaml_on_a_page_is_checked_as_a_part_of_a_recipe(tmp_path):
    for fence in fences_of(page_with(tmp_path, "```yaml\ntrain: {epochs: 3}\n```\n")):
        check_yaml(fence, tmp_path)
