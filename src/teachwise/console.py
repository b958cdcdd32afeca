"""What a run says while it works: one line per finished unit, and one live view on a terminal, all on stderr.

Results go to stdout, so that `teachwise ... --json | jq` works. Where stderr is no terminal there are plain lines, and
a long job speaks once a minute. Whatever is said goes to `logging` too, without markup: that is how it gets into
`run.log`.
"""

import logging
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from teachwise.live_view import Above, View, on_terminal

out = Console(soft_wrap=True, highlight=False, width=None if sys.stdout.isatty() else 120)
err = Console(stderr=True, soft_wrap=True, highlight=False)

SAID = "teachwise.said"
"""The logger of every line that is said."""
FIRST_SECONDS = 15
"""When a long job first speaks where there is no terminal to draw a bar on."""
LOG_SECONDS = 60
"""How often it speaks from there on."""

_log = logging.getLogger(SAID)
_log.setLevel(logging.INFO)
_log.propagate = False  # an application's own handlers would say everything a second time
_log.addHandler(logging.NullHandler())
_shown: list[tuple[View, Console]] = []
"""The live view on the terminal and the console it is drawn on; at most one."""


def say(text: str) -> None:
    """Print one line of progress; `text` may hold rich markup."""
    (_shown[-1][1] if _shown else err).print(text)
    _log.info(Text.from_markup(text).plain)


def can_ask() -> bool:
    """Whether somebody sits before a terminal and can answer."""
    return sys.stdin is not None and sys.stdin.isatty() and (bool(_shown) or err.is_terminal)


def ask(question: str) -> bool:
    """Ask on the terminal, with the picture taken off meanwhile; anything but y or yes is a no."""
    view, console = _shown[-1] if _shown else (None, err)
    if view:
        view.pause()
    answer = ""
    try:
        console.print(f"{question} [y/N] ", end="", markup=False)
        answer = sys.stdin.readline()
    finally:
        if not answer.endswith("\n"):  # Ctrl-C, or no more input: the cursor stands behind the question still
            console.print()
        if view:
            view.resume()
    is_agreed = answer.strip().lower() in ("y", "yes")
    _log.info(f"{question} {'yes' if is_agreed else 'no'}")
    return is_agreed


class Bar:
    """A progress bar that is moved on."""

    def __init__(self, jobs: Progress, view: View | None, what: str, total: int, done: int) -> None:
        self._jobs, self._view = jobs, view
        self._what, self._total, self._done = what, total, done
        self._speaks_at = time.monotonic() + FIRST_SECONDS
        self._task = jobs.add_task(what, total=total, completed=done, note="")

    def advance(self, n: int = 1, note: str = "") -> None:
        """Move on by `n`."""
        self.at(self._done + n, note)

    def at(self, done: int, note: str = "", spent: str = "") -> None:
        """Move to `done`; in a log file, say so after a quarter of a minute, then once a minute.

        Args:
            done: How many are done.
            note: How it goes.
            spent: What the teacher has cost so far.
        """
        self._done = done
        if spent and self._view:
            self._view.spent = spent
        elif spent:
            note = f"{spent}  {note}".strip()
        self._jobs.update(self._task, completed=done, note=note)
        if not self._view and not err.is_terminal and time.monotonic() >= self._speaks_at:
            self._speaks_at = time.monotonic() + LOG_SECONDS
            say(escape(f"  {self._what}: {done:,} of {self._total:,} {note}"))

    def remove(self) -> None:
        """Take it off the screen."""
        self._jobs.remove_task(self._task)


@contextmanager
def progress(what: str, total: int, done: int = 0) -> Iterator[Bar]:
    """A progress bar for `total` things, `done` of them already there from an earlier start.

    It vanishes when the job ends: the line that stays is the one which `pipeline` says.
    """
    if _shown:
        view = _shown[-1][0]
        bar = Bar(view.jobs, view, what, total, done)
        try:
            yield bar
        finally:
            bar.remove()
        return
    columns = (
        TextColumn("  {task.description}"),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as jobs:
        yield Bar(jobs, None, what, total, done)


@contextmanager
def watching(steps: Mapping[str, int], spent: str = "") -> Iterator[View]:
    """The view of a run, drawn for as long as the block lasts if stderr is a terminal that can draw.

    Args:
        steps: Number of units of each step, in order.
        spent: What the teacher has cost before this start, of what it may cost.
    """
    view = View(steps, spent)
    if _shown or not sys.stderr.isatty() or err.is_dumb_terminal or err.is_jupyter:
        yield view
        return
    console = Console(file=sys.stderr, highlight=False)
    errors, results = Above(console), Above(console)
    with ExitStack() as stack:
        stack.enter_context(on_terminal(view, console))
        stack.callback(_shown.pop)
        _shown.append((view, console))
        stack.callback(errors.finish)
        stack.enter_context(redirect_stderr(errors))
        if sys.stdout.isatty():
            stack.callback(results.finish)
            stack.enter_context(redirect_stdout(results))
        yield view
