"""Ctrl-C, and other signals to end, where something under way is paid for."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from teachwise.console import say


@contextmanager
def patient_interrupt() -> Iterator[list[int]]:
    """Ctrl-C ends the sending; replies under way are paid for, so they are awaited. A second Ctrl-C ends that too.

    So does what a scheduler sends (SIGTERM), and what a terminal sends that is closed (SIGHUP; one that is ignored, as
    under `nohup`, stays so). Raised in the middle of the work, an interrupt would drop replies that have come already.

    Yields:
        A list that is empty until the first signal.
    """
    stopped: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # only that one may handle signals
        yield stopped
        return
    signals = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {one: signal.getsignal(one) for one in signals}
    before = {one: handler for one, handler in before.items() if handler not in (None, signal.SIG_IGN)}

    def restore() -> None:
        for one, handler in before.items():
            signal.signal(one, handler)

    def note(number: int, frame: object) -> None:
        restore()
        stopped.append(number)
        with suppress(OSError):  # the terminal may be gone
            say("[dim]awaiting the replies under way, which are paid for; Ctrl-C again ends at once[/dim]")

    for one in before:
        signal.signal(one, note)
    try:
        yield stopped
    finally:
        restore()
