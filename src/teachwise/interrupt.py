"""Ctrl-C where something under way is paid for."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from teachwise.console import say


@contextmanager
def patient_interrupt() -> Iterator[list[int]]:
    """Ctrl-C ends the sending; replies under way are paid for, so they are awaited. A second Ctrl-C ends that too.

    Raised in the middle of the work, as Python does it, an interrupt would drop replies that have come already.

    Yields:
        A list that is empty until the first Ctrl-C.
    """
    stopped: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # only that one may handle signals
        yield stopped
        return
    before = signal.getsignal(signal.SIGINT) or signal.default_int_handler

    def note(number: int, frame: object) -> None:
        signal.signal(signal.SIGINT, before)
        stopped.append(number)
        say("[dim]awaiting the replies under way, which are paid for; Ctrl-C again ends at once[/dim]")

    signal.signal(signal.SIGINT, note)
    try:
        yield stopped
    finally:
        signal.signal(signal.SIGINT, before)
