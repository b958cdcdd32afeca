"""What a run says while it works: one line per finished unit, one progress bar per long job, all on stderr.

Results go to stdout, so that `teachwise ... --json | jq` works.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

out = Console(soft_wrap=True, highlight=False)
err = Console(stderr=True, soft_wrap=True, highlight=False)


class Bar:
    """A progress bar that is moved on."""

    def __init__(self, bar: Progress, what: str, total: int, done: int) -> None:
        self._bar = bar
        self._task = bar.add_task(what, total=total, completed=done, note="")

    def advance(self, n: int = 1, note: str = "") -> None:
        """Move on by `n`."""
        self._bar.update(self._task, advance=n, note=note)

    def at(self, done: int, note: str = "") -> None:
        """Move to `done`."""
        self._bar.update(self._task, completed=done, note=note)


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
