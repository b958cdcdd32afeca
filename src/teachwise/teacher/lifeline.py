"""How processes that share a file see that one of them is gone: each holds a lock file as long as it lives."""

import uuid
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

SWEEP_SECONDS = 10.0
"""How long another process may hold our file at most, which it does only to see whether we live."""


class Lifeline:
    """The lock files beside a shared file.

    The system takes a lock from a process that dies, however it dies, and no number is used again by another.

    Args:
        shared: The file that several processes share.
    """

    def __init__(self, shared: Path) -> None:
        self._shared = shared
        self._own: str | None = None
        self._lock: FileLock | None = None

    @property
    def name(self) -> str | None:
        """Our name, or None where we have none yet."""
        return self._own

    def begin(self) -> str:
        """Our name; from now on others see that we live."""
        if self._own is None:
            name = uuid.uuid4().hex
            self._lock = FileLock(self._file(name))
            self._lock.acquire(timeout=SWEEP_SECONDS)
            self._own = name
        return self._own

    def lives(self, name: str) -> bool:
        """Whether the process of that name is still there."""
        if name == self._own:
            return True
        if not self._file(name).exists():
            return False
        try:
            with FileLock(self._file(name), timeout=0):
                return False
        except Timeout:
            return True

    def sweep(self) -> None:
        """Remove what dead processes left.

        Each file goes while its lock is held, so that a process which is just about to begin notices.
        """
        for file in self._shared.parent.glob(f".{self._shared.name}.*.lock"):
            with suppress(Timeout), FileLock(file, timeout=0):
                file.unlink(missing_ok=True)

    def end(self) -> None:
        """We are gone."""
        if self._lock and self._own:
            self._file(self._own).unlink(missing_ok=True)
            self._lock.release()
            self._own = None

    def _file(self, name: str) -> Path:
        return self._shared.with_name(f".{self._shared.name}.{name}.lock")


def locks_held(shared: Path) -> list[Path]:
    """The lock files of the processes that share a file and live; nothing is written, nor need it be possible."""
    found = []
    for file in shared.parent.glob(f".{shared.name}.*.lock"):
        try:
            with FileLock(file, timeout=0):
                pass
        except (Timeout, PermissionError):  # nobody can tell without the right to lock: it counts as alive
            found.append(file)
    return found
