"""The picture at the foot of a terminal while a run works: its steps, the job at hand, teacher tokens, time.

    ✓ prepare               0.4 s
    ✓ score                12.1 s
    ▸ train     2 of 5      banded (seed 0)
      evaluate  0 of 5
      training banded, stage-0  ━━━━━━━━━━━╺━━━━━━━━  120/250  loss 0.713
      12,345 of 400,000 teacher tokens   2 min 31 s so far   about 4 min left in train

It is redrawn in place, never wider than the terminal, and vanishes when the run ends: what stays are the lines printed
above it. Whatever a library prints meanwhile is put above it too, line by line.
"""

import io
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from teachwise.duration import took

LOW_TERMINAL = 18
"""With fewer lines than these only the step at work is shown."""
_SURE = 0.05
"""Share of a job that must be done before its rest is estimated."""


@dataclass
class StepState:
    """What the view knows of one step.

    Attributes:
        units: How many units it has.
        done: How many are finished, by this start or an earlier one.
        seconds: What each unit took that this start finished.
        at: The unit at work, "" where there is none.
        since: When that began, in seconds of the monotonic clock.
    """

    units: int
    done: int = 0
    seconds: list[float] = field(default_factory=list)
    at: str = ""
    since: float = 0.0


class View:
    """The state of a run, and how it looks.

    Args:
        steps: Number of units of each step, in order.
        spent: What the teacher has cost before this start, of what it may cost; "" where no teacher is asked.
    """

    def __init__(self, steps: Mapping[str, int], spent: str = "") -> None:
        self.steps = {name: StepState(units) for name, units in steps.items()}
        self.spent = spent
        self.pause: Callable[[], None] = lambda: None
        self.resume: Callable[[], None] = lambda: None
        self.jobs = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            auto_refresh=False,
        )
        self._started = time.monotonic()

    def begin(self, step: str, unit: str) -> None:
        """A unit of a step begins."""
        state = self.steps[step]
        state.at, state.since = unit.removeprefix(step).strip(), time.monotonic()

    def end(self, step: str, is_new: bool) -> None:
        """It is finished; `is_new` where the work was done now and not by an earlier start."""
        state = self.steps[step]
        if is_new:
            state.seconds.append(time.monotonic() - state.since)
        state.done, state.at, state.since = state.done + 1, "", 0.0

    def render(self, console: Console) -> RenderableType:
        """The picture, for a console of any width and height."""
        marks = "✓▸" if console.encoding.lower().startswith("utf") else "+>"
        table = Table.grid(padding=(0, 2, 0, 0))
        for is_firm in (True, True, True, False):  # where room is short, the last column gives way
            table.add_column(no_wrap=is_firm, overflow="ellipsis")
        for name, state in self.steps.items():
            if state.since or console.height >= LOW_TERMINAL:
                table.add_row(*_row(name, state, marks))
        return Group(table, *([self.jobs] if self.jobs.tasks else []), self._foot())

    def _foot(self) -> Text:
        now, parts = time.monotonic(), [self.spent] if self.spent else []
        parts.append(f"{took(now - self._started, 0)} so far")
        for name, state in self.steps.items():
            if state.since and (left := self._left(state, now)) is not None:
                parts.append(f"about {took(left, 0)} left in {name}")
        return Text("  " + "   ".join(parts), style="dim", no_wrap=True, overflow="ellipsis")

    def _left(self, state: StepState, now: float) -> float | None:
        share = next((task.completed / task.total for task in self.jobs.tasks if task.total), 0.0)
        return seconds_left(now - state.since, share, state.seconds, state.units - state.done - 1)


def seconds_left(elapsed: float, share: float, earlier: Sequence[float], units_to_come: int) -> float | None:
    """How long a step may still take.

    Args:
        elapsed: Seconds that the unit at work has taken.
        share: How much of its present job is done, 0-1.
        earlier: Seconds that finished units took; those of a moment, such as an arm that buys nothing, tell nothing.
        units_to_come: Units after this one.

    Returns:
        Seconds, or None where there is nothing to judge by.

    Example:
        >>> seconds_left(30.0, 0.5, [], 2)
        150.0
        >>> seconds_left(2.0, 0.0, [], 2) is None
        True
    """
    telling = [seconds for seconds in earlier if seconds >= 1]
    usual = sum(telling) / len(telling) if telling else None
    if share >= _SURE:
        usual = max(usual or 0.0, elapsed / share)
    return None if usual is None else max(0.0, usual - elapsed) + units_to_come * usual


def _row(name: str, state: StepState, marks: str) -> tuple[Text, ...]:
    count = f"{state.done} of {state.units}" if state.units > 1 else ""
    if state.since:
        return Text(marks[1], "bold cyan"), Text(name, "bold"), Text(count), Text(state.at, no_wrap=True)
    if state.done < state.units:
        return Text(" "), Text(name, "dim"), Text(count, "dim"), Text("")
    when = took(sum(state.seconds)) if state.seconds else "done before"
    return Text(marks[0], "green"), Text(name), Text(count), Text(when, "dim", no_wrap=True)


class Above(io.TextIOBase):
    """What a library writes to the terminal, put above the picture line by line.

    A line that draws over itself (a bar of its own) is left out: there is one bar here already. All goes to the log.
    """

    encoding = "utf-8"

    def __init__(self, console: Console) -> None:
        self._console, self._rest = console, ""

    def writable(self) -> bool:
        """It can be written to."""
        return True

    def write(self, text: str) -> int:
        """Take text; whole lines are shown at once, the rest when it ends."""
        *lines, self._rest = (self._rest + text.replace("\r\n", "\n")).split("\n")
        for line in lines:
            self._tell(line)
        return len(text)

    def finish(self) -> None:
        """Show what is left without an end of line."""
        if self._rest:
            self.write("\n")

    def _tell(self, line: str) -> None:
        shown = Text.from_ansi(line.rpartition("\r")[2])
        if shown.plain.strip():
            logging.getLogger("teachwise.heard").info(shown.plain)
            if "\r" not in line:
                self._console.print(shown)


@contextmanager
def on_terminal(view: View, console: Console) -> Iterator[None]:
    """Draw the view at the foot of a terminal for as long as the block lasts; it can be paused meanwhile."""
    drawn = _drawn(view, console)

    def resume() -> None:
        nonlocal drawn
        drawn = _drawn(view, console)  # a new one: the old one would draw over what was written meanwhile

    view.pause, view.resume = lambda: drawn.stop(), resume
    try:
        yield
    finally:
        drawn.stop()


def _drawn(view: View, console: Console) -> Live:
    live = Live(
        get_renderable=lambda: view.render(console),
        console=console,
        refresh_per_second=4,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    )
    live.start()
    return live
