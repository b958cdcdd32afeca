"""How pages of documentation are read and tested. Who writes a page needs to know only this docstring.

A fence is tested by its language:

    ```sh        every command is executed, in the order of the page, in a folder that the whole page shares
    ```python    executed; all blocks of a page share their names; what they print is what goes to stdout
    ```yaml      must pass `teachwise check`, as a whole recipe or as a part of one
    others       are shown only

An HTML comment directly above a fence changes that. A change that hides something must say why:

    <!-- test: skip because REASON -->               not executed (its commands and options must still exist)
    <!-- test: with KEY=VALUE ... because REASON --> these words are added to its teachwise commands
    <!-- test: fails with 3 because REASON -->       the last command ends with this exit code
    <!-- test: output -->                            what the executed fence before printed; `...` stands for anything
    <!-- test: output because REASON -->             the same, with other figures: numbers are not compared
    <!-- test: file NAME -->                         the content of this file: compared if it is there, else written
    <!-- test: append to NAME -->                    the text is added at the end of this file

Every page begins with the same files, made once (see `test_docs_run.py`):

    Qwen/Qwen2.5-0.5B-Instruct/   stands in for the hub's student: a folder of that name, with random weights
    examples/quiz/                the questions of the tutorial; `questions.csv` and `new_questions.csv` are copies
    my_recipe.yaml                a small recipe for `questions.csv`; `runs/my_recipe` is its finished run
    runs/demo                     a finished small run of the toy

and TEACHER_API_KEY is set. What else differs from what a reader types stands in the three tables below.
"""

import contextlib
import doctest
import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

import typer
import yaml

from teachwise import cli
from teachwise.recipe import load_recipe

ROOT = Path(__file__).parents[1]
STUDENT = "Qwen/Qwen2.5-0.5B-Instruct"

NOT_RUN = {
    "pip install": "the package is installed where the tests run",
    "git clone": "wants the network",
    "cd": "the page has a folder of its own",
}
"""Beginnings of commands that no test executes, and why."""
STAND_INS = {
    "teachwise demo": "takes minutes: `runs/demo` is there, made by the same command with fewer questions",
}
"""Whole commands for which something else stands in."""
WITH_TEACHER = (
    "run", "plan", "prepare", "score", "validate", "route", "teach", "train", "evaluate", "compare", "report",
)  # fmt: skip
"""Where one of these is given a recipe file, `teacher.base_url` is that of a scripted teacher on this machine."""

FOUR_KEYS = {
    "student": STUDENT,
    "teacher": "deepseek-flash",
    "data": {"source": "questions.csv"},
    "budget": {"teacher_tokens": None},
}
"""What a part of a recipe on a page is completed with before it is checked."""
_DIRECTIVE = re.compile(r"<!-- test: (.*?) -->")
_FORMS = {
    "skip": r"skip because \S.*",
    "with": r"with (?P<words>.+?) because \S.*",
    "fails": r"fails with (?P<code>[1-9]\d*) because \S.*",
    "output": r"output(?P<other> because \S.*)?",
    "file": r"file (?P<name>\S+)",
    "append": r"append to (?P<name>\S+)",
}


@dataclass(frozen=True)
class Fence:
    """One block of code on a page.

    Attributes:
        page: The file.
        line: Where the block opens, from 1.
        language: The word after the back ticks.
        text: What stands in it.
        order: The directive's kind, "" without one.
        given: What the directive names.
    """

    page: Path
    line: int
    language: str
    text: str
    order: str = ""
    given: dict[str, str | None] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def read_directive(comment: str) -> tuple[str, dict[str, str | None]]:
    """The kind of a directive and what it names; a form that is not in this module's docstring is a mistake."""
    for order, form in _FORMS.items():
        if match := re.fullmatch(form, comment):
            return order, match.groupdict()
    raise ValueError(f"unknown directive, or no reason in it: {comment!r}")


def fences_of(page: Path) -> list[Fence]:
    """All fences of a page; a directive that stands above no fence is a mistake."""
    lines = page.read_text(encoding="utf-8").splitlines()
    found, number, directive = [], 0, None
    while number < len(lines):
        opening = re.fullmatch(r"\s*```(\w*)\s*", lines[number])
        if not opening:
            if directive:
                raise ValueError(f"{page}:{number + 1}: a directive must stand directly above a fence")
            comment = _DIRECTIVE.fullmatch(lines[number].strip())
            directive = comment[1] if comment else None
            number += 1
            continue
        end = next(n for n in range(number + 1, len(lines)) if lines[n].strip() == "```")
        order, given = read_directive(directive) if directive else ("", {})
        text = "".join(line + "\n" for line in lines[number + 1 : end])
        found.append(Fence(page, number + 1, opening[1], text, order, given))
        number, directive = end + 1, None
    return found


def commands_in(text: str) -> list[str]:
    """The commands of an `sh` fence: lines without comments, those that end in a backslash joined with the next."""
    joined = re.sub(r"\s*\\\n\s*", " ", text)
    return [line for line in joined.splitlines() if shlex.split(line, comments=True)]


def slugs_of(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    seen: dict[str, int] = {}
    for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE):
        plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", plain).strip().replace(" ", "-")
        seen[slug] = seen.get(slug, -1) + 1
        if seen[slug]:
            seen[f"{slug}-{seen[slug]}"] = 0
    return set(seen)


def without_numbers(text: str) -> str:
    """The text with every number as `#`, without what only lines figures up, and without counts that may be 0.

    A count of 0 is not said, so with other figures the word may be there or not.
    """
    text = re.sub(r"[ \t]+", " ", re.sub(r"[-+−]?\d[\d,_]*(\.\d+)?(e[-+]?\d+)?", "#", text))
    return re.sub(r" (wrong|unreadable|truncated|refused|failed|unknown|unpaid|unusable_tokens|skipped) #", "", text)


def is_shown(wanted: str, printed: str) -> bool:
    """Whether a page shows what was printed, `...` standing for anything."""
    return doctest.OutputChecker().check_output(wanted, printed, doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)


class Workplace:
    """The folder in which the fences of a page are executed, one after another.

    Args:
        folder: Holds the files that a page begins with.
        teacher_url: Address of the scripted teacher.
    """

    def __init__(self, folder: Path, teacher_url: str) -> None:
        self.folder = folder
        self.teacher_url = teacher_url
        self.printed = ""
        self.names: dict[str, object] = {"__name__": "page"}

    def walk(self, page: Path) -> None:
        """Execute a page.

        Raises:
            AssertionError: naming the fence that does not do what the page says.
        """
        for fence in fences_of(page):
            with self._entered():
                self._do(fence)

    @contextlib.contextmanager
    def _entered(self) -> Iterator[None]:
        with contextlib.chdir(self.folder), patch.dict(os.environ, {"TEACHER_API_KEY": "sk-not-a-key"}):
            yield

    def _do(self, fence: Fence) -> None:
        if fence.order == "skip":
            return
        if fence.order == "output":
            self._compare(fence)
        elif fence.order in ("file", "append"):
            self._write(fence)
        elif fence.language == "sh":
            self._execute(fence)
        elif fence.language == "python":
            self._interpret(fence)
        elif fence.language == "yaml":
            check_yaml(fence, self.folder)

    def _compare(self, fence: Fence) -> None:
        wanted, printed = fence.text, self.printed
        if fence.given["other"]:
            wanted, printed = without_numbers(wanted), without_numbers(printed)
        assert is_shown(wanted, printed), f"{fence}: the page shows other output than\n{self.printed}"

    def _write(self, fence: Fence) -> None:
        path = self.folder / str(fence.given["name"])
        before = path.read_text(encoding="utf-8") if path.exists() else ""
        if fence.order == "file" and before:
            assert is_shown(fence.text, before), f"{fence}: {path.name} holds\n{before}"
            return
        path.write_text(before + fence.text, encoding="utf-8")
        if path.suffix == ".yaml":
            load_recipe(path)

    def _execute(self, fence: Fence) -> None:
        self.printed, code, commands = "", 0, commands_in(fence.text)
        more = shlex.split(fence.given.get("words") or "")
        for number, command in enumerate(commands):
            code, text = self._command(command, more)
            self.printed += text
            if number + 1 < len(commands) or fence.order != "fails":
                assert code == 0, f"{fence}: `{command}` ended with {code}\n{text}"
        wanted = int(fence.given.get("code") or 0)
        assert code == wanted, f"{fence}: ended with {code}\n{self.printed}"

    def _command(self, command: str, more: list[str]) -> tuple[int, str]:
        words = shlex.split(command, comments=True)
        if words[0] == "export":
            os.environ.update([words[1].split("=", 1)])
            return 0, ""
        if words[0] == "make":
            assert words[1] in make_targets(), command
            return 0, ""
        if " ".join(words) in STAND_INS or any(" ".join(words).startswith(start) for start in NOT_RUN):
            return 0, ""
        if words[0] == "teachwise":
            return teachwise([*words[1:], *more, *self._teacher(words)])
        done = subprocess.run(words, capture_output=True, text=True, timeout=60)
        return done.returncode, done.stdout + done.stderr

    def _teacher(self, words: list[str]) -> list[str]:
        is_recipe = words[1] in WITH_TEACHER and words[2].endswith(".yaml")
        return [f"teacher.base_url={self.teacher_url}"] if is_recipe else []

    def _interpret(self, fence: Fence) -> None:
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            exec(compile("\n" * fence.line + fence.text, str(fence.page), "exec"), self.names)
        self.printed = said.getvalue()


def teachwise(words: list[str]) -> tuple[int, str]:
    """The command as a shell would start it, in this process: its exit code, and all it printed."""
    said, code = io.StringIO(), 0
    with (
        patch.object(sys, "argv", ["teachwise", *words]),
        contextlib.redirect_stdout(said),
        contextlib.redirect_stderr(said),
    ):
        try:
            cli.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
    return code, said.getvalue()


def check_yaml(fence: Fence, folder: Path) -> None:
    """The fence is a recipe, or sections of one, that `teachwise check` would accept."""
    content = yaml.safe_load(fence.text)
    path = folder / f".fence-{fence.line}.yaml"
    text = fence.text if set(FOUR_KEYS) <= set(content) else yaml.safe_dump({**FOUR_KEYS, **content})
    path.write_text(text, encoding="utf-8")
    load_recipe(path)
    path.unlink()


def check_options(command: str) -> None:
    """A teachwise command line names a command there is, and options it has."""
    words = shlex.split(command.replace("\\", ""), comments=True)[1:]
    known = typer.main.get_command(cli.app)
    while words and words[0] in getattr(known, "commands", {}):
        known = known.commands[words.pop(0)]
    assert not getattr(known, "commands", {}), f"{command}: no such command"
    options = {name for one in known.params for name in (*one.opts, *one.secondary_opts)} | {"--help"}
    used = {word.partition("=")[0] for word in words if word.startswith("--")}
    assert used <= options, f"{command}: no option {', '.join(used - options)}"


def make_targets() -> set[str]:
    """The targets of the Makefile."""
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
