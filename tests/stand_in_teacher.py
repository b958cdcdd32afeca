"""A teacher that a test scripts: it answers in threads, out of order if so told, and remembers what it was asked."""

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor

from teachwise.request import Reply


def fine(request):
    """A reply that costs 15 tokens."""
    return Reply("so [[A]]", "stop", 10, 5)


class ScriptedTeacher:
    """Gives what `say(request)` gives; an exception that it raises is what its future ends in.

    `asked` is every request in the order it was sent, `most` how many were ever in flight at once.
    """

    def __init__(self, say=fine, delay_seconds=0.0):
        self.say, self.delay_seconds = say, delay_seconds
        self.asked, self.in_flight, self.most, self.is_closed = [], 0, 0, False
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(80)

    def ask(self, request) -> "Future[Reply]":
        """Start one attempt."""
        with self._lock:
            self.asked.append(request)
            self.in_flight += 1
            self.most = max(self.most, self.in_flight)
        return self._pool.submit(self._answer, request)

    def _answer(self, request):
        try:
            time.sleep(self.delay_seconds)
            return self.say(request)
        finally:
            with self._lock:
                self.in_flight -= 1

    def close(self):
        """Start nothing more."""
        self.is_closed = True
        self._pool.shutdown(wait=False, cancel_futures=True)
