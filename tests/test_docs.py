"""The docs say what the code has: generated parts are current; commands, options, targets and links exist.

That the pages also *do* what they say is shown in `test_docs_run.py`; how they are written stands in `doc_pages.py`.
"""

import re
import shlex
import subprocess
import sys
from urllib.parse import unquote

import pytest
import typer

from doc_pages import NOT_RUN, ROOT, STAND_INS, check_options, commands_in, fences_of, make_targets, slugs_of
from teachwise.cli import app
from teachwise.recipe import load_recipe
from teachwise.steps import STEPS

PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")])
RECIPES = sorted(ROOT.glob("src/teachwise/recipes/*.yaml"))
SHELL = {"teachwise", "make", "export", "cat", "head", "ls", "cp", "mkdir", "python", *(w.split()[0] for w in NOT_RUN)}
"""First words of commands that a page may show."""


def shown_commands(path):
    """Inline code, and lines of code blocks or comments, that begin with `teachwise`."""
    text = re.sub(r"\s*\\\n#?\s*", " ", path.read_text(encoding="utf-8"))  # lines that go on
    lines = re.findall(r"^(?:#\s+|\s*\$?\s*)(teachwise [a-z].*?)(?:\s{2,}.*|\s+#.*)?$", text, re.MULTILINE)
    return lines + re.findall(r"`(teachwise [a-z][^`]*)`", text)


COMMANDS = sorted({(str(p.relative_to(ROOT)), line) for p in [*PAGES, *RECIPES] for line in shown_commands(p)})


def shipped_with_overrides(line):
    """The shipped recipe that a command line names and its KEY=VALUE words; None where it has not both."""
    command, *words = shlex.split(line)[1:]
    names = ["toy"] if command == "demo" else [word for word in words if word in {one.stem for one in RECIPES}]
    settings = [word for word in words if re.match(r"[a-z][\w.-]*=", word)]
    given = [word for word in settings if not re.search(r"=([A-Z_]*|.*\.\.\.)$", word)]  # no NAME, no dots
    return (names[0], given) if names and given else None


OVERRIDDEN = [(page, *found) for page, line in COMMANDS if (found := shipped_with_overrides(line))]


def test_what_is_written_from_the_code_is_current():
    command = [sys.executable, str(ROOT / "docs" / "generate.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_there_are_pages_recipes_and_commands_to_check():
    assert len(PAGES) > 20
    assert len(RECIPES) >= 2
    assert len(COMMANDS) > 30


@pytest.mark.parametrize(("page", "line"), COMMANDS)
def test_every_command_in_the_docs_exists_with_its_options(page, line):
    check_options(line)


def test_there_are_overrides_to_check():
    assert len(OVERRIDDEN) >= 4
    assert {name for _, name, _ in OVERRIDDEN} == {"toy", "mmlu_pro_qwen2.5_3b"}


@pytest.mark.parametrize(("page", "name", "overrides"), OVERRIDDEN)
def test_every_override_in_the_docs_is_accepted_by_the_recipe_it_is_shown_with(page, name, overrides):
    load_recipe(name, overrides)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_page_has_a_place_left_to_be_filled_in(page):
    assert re.findall(r"^[A-Z_]+$|@[A-Z_]+@", page.read_text(encoding="utf-8"), re.MULTILINE) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_fence_and_directive_of_a_page_can_be_read(page):
    for fence in fences_of(page):
        assert fence.language, f"{fence}: name the language, `text` where there is none"
        for command in commands_in(fence.text) if fence.language == "sh" and fence.order != "skip" else ():
            assert shlex.split(command)[0] in SHELL, f"{fence}: {command}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_and_anchor_leads_somewhere(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\((?!https?:|mailto:)([^)\s]+)\)", text):
        path, _, anchor = unquote(target).partition("#")
        place = (page.parent / path).resolve() if path else page
        assert place.exists(), target
        assert not anchor or anchor in slugs_of(place), f"{target}: it has {', '.join(sorted(slugs_of(place)))}"


def test_every_page_of_the_docs_can_be_found_from_the_index():
    linked = set(re.findall(r"\]\(([^)#]+)", (ROOT / "docs" / "index.md").read_text(encoding="utf-8")))
    found = {(ROOT / "docs" / one).resolve() for one in linked}
    for page in ROOT.glob("docs/**/*.md"):
        assert page.name == "index.md" or page in found, f"{page.relative_to(ROOT)} is not linked"


def test_every_make_target_in_the_docs_exists():
    for page in PAGES:
        assert set(re.findall(r"`make ([a-z]+)`", page.read_text(encoding="utf-8"))) <= make_targets(), page


def test_what_no_test_runs_is_still_a_command():
    assert all(reason for reason in [*NOT_RUN.values(), *STAND_INS.values()])
    for command in STAND_INS:
        check_options(command)


def test_every_step_is_a_command_and_has_a_page():
    names = set(typer.main.get_command(app).commands)
    for step in STEPS:
        assert step.name in names
        text = (ROOT / "docs" / "steps" / f"{step.name}.md").read_text(encoding="utf-8")
        assert f"<!-- generated: step {step.name} -->" in text
        assert f"\nteachwise {step.name} " in text


def test_every_command_is_named_in_the_docs():
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    for name in typer.main.get_command(app).commands:
        assert f"teachwise {name} " in text or f"teachwise {name}\n" in text or f"teachwise {name}`" in text, name
