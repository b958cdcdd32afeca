"""The docs say what the code does: generated pages are current, commands and links exist, examples run."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from teachwise.cli import app
from teachwise.pipeline import STEPS
from teachwise.recipe import load_recipe

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")])
RECIPES = sorted(ROOT.glob("src/teachwise/recipes/*.yaml"))


def commands_in(path: Path) -> list[str]:
    """Command lines: inline code, and lines of code blocks or comments, that begin with `teachwise`."""
    text = re.sub(r"\s*\\\n#?\s*", " ", path.read_text())  # lines that go on
    lines = re.findall(r"^(?:#\s+|\s*\$?\s*)(teachwise [a-z].*?)(?:\s{2,}.*|\s+#.*)?$", text, re.MULTILINE)
    return lines + re.findall(r"`(teachwise [a-z][^`]*)`", text)


COMMANDS = sorted({(str(p.relative_to(ROOT)), line) for p in [*PAGES, *RECIPES] for line in commands_in(p)})


def shipped_with_overrides(line: str) -> tuple[str, list[str]] | None:
    """The shipped recipe that a command line names and its KEY=VALUE words; None where it has not both."""
    command, *words = shlex.split(line)[1:]
    names = ["toy"] if command == "demo" else [word for word in words if word in {one.stem for one in RECIPES}]
    settings = [word for word in words if re.match(r"[a-z][\w.-]*=", word)]
    given = [word for word in settings if not re.search(r"=([A-Z_]*|.*\.\.\.)$", word)]  # no NAME, no dots
    return (names[0], given) if names and given else None


OVERRIDDEN = [(page, *found) for page, line in COMMANDS if (found := shipped_with_overrides(line))]


def test_pages_written_from_the_code_are_current():
    done = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "generate.py"), "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_there_are_pages_recipes_and_commands_to_check():
    assert len(PAGES) > 5
    assert len(RECIPES) >= 2
    assert len(COMMANDS) > 15


@pytest.mark.parametrize(("page", "line"), COMMANDS)
def test_every_command_in_the_docs_exists_with_its_options(page, line):
    words = line.replace("\\", "").split()[1:]
    command = typer.main.get_command(app)
    while words and words[0] in getattr(command, "commands", {}):
        command = command.commands[words.pop(0)]
    assert not getattr(command, "commands", {}), f"{page}: {line}: no such command"
    known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)} | {"--help"}
    used = {word.partition("=")[0] for word in words if word.startswith("--")}
    assert used <= known, f"{page}: {line}"


def test_there_are_overrides_to_check():
    assert len(OVERRIDDEN) >= 4
    assert {name for _, name, _ in OVERRIDDEN} == {"toy", "mmlu_pro_qwen2.5_3b"}


@pytest.mark.parametrize(("page", "name", "overrides"), OVERRIDDEN)
def test_every_override_in_the_docs_is_accepted_by_the_recipe_it_is_shown_with(page, name, overrides):
    load_recipe(name, overrides)


def test_the_readme_has_no_place_left_to_be_filled_in():
    assert re.findall(r"^[A-Z_]+$", (ROOT / "README.md").read_text(), re.MULTILINE) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(page):
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_every_make_target_in_the_docs_exists():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        assert set(re.findall(r"`make ([a-z]+)`", page.read_text())) <= targets, page


def test_every_step_is_a_command_and_a_section_of_the_flow_page():
    names = set(typer.main.get_command(app).commands)
    flow = (ROOT / "docs" / "flow.md").read_text()
    for step in STEPS:
        assert step.name in names
        assert f"## {step.name}\n" in flow


def test_the_flat_loop_runs_as_it_stands():
    command = [sys.executable, str(ROOT / "examples" / "flat_loop.py"), "--small"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "ROC AUC" in done.stdout
    assert "against random" in done.stdout
    lines = (ROOT / "examples" / "flat_loop.py").read_text().splitlines()
    assert len(lines) <= 160
