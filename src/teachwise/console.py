"""What a run says while it works: one line per finished unit, one progress bar per long job, all on stderr.

Results go to stdout, so that `teachwise ... --json | jq` works.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

out = Console(soft_wrap=True, highlight=False, width=None if sys.stdout.isatty() else 120)
err = Console(stderr=True, soft_wrap=True, highlight=False)


LOG_SECONDS = 60
"""How often a long job speaks where there is no terminal to draw a bar on."""


class Bar:
    """A progress bar that is moved on."""

    def __init__(self, bar: Progress, what: str, total: int, done: int) -> None:
        self._bar, self._what, self._total, self._done = bar, what, total, done
        self._said = time.monotonic()
        self._task = bar.add_task(what, total=total, completed=done, note="")

    def advance(self, n: int = 1, note: str = "") -> None:
        """Move on by `n`."""
        self.at(self._done + n, note)

    def at(self, done: int, note: str = "") -> None:
        """Move to `done`; in a log file, say so once a minute."""
        self._done = done
        self._bar.update(self._task, completed=done, note=note)
        if not err.is_terminal and time.monotonic() > self._said + LOG_SECONDS:
            self._said = time.monotonic()
            say(f"  {self._what}: {done:,} of {self._total:,} {note}")


def say(text: str) -> None:
    """Print one line of progress; `text` may hold rich markup."""
    err.print(text)


@contextmanager
def progress(what: str, total: int, done: int = 0) -> Iterator[Bar]:
    """A progress bar for `total` things, `done` of them already there from an earlier start.

    It vanishes when the job ends: the line that stays is the one which `pipeline` says.
    """
    columns = (
        TextColumn("  {task.description}"),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        yield Bar(bar, what, total, done)
