"""`run.log`: what a run said, what libraries warned of, and the traceback if it crashed.

Every start appends to it, opening with a line that says which version and command it was. Lines have a time and no
colours. Values of the recipe's key variable, and of all environment variables that are named like a secret, are
replaced wherever they turn up.
"""

import logging
import os
import re
import shlex
import sys
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path

from teachwise.console import SAID
from teachwise.errors import TeachwiseError

LOG = "run.log"
_SECRET_NAME = re.compile(r"(?:^|_)(?:API_?KEY|KEY|TOKEN|SECRET|PASSWORD|PASSWD)$", re.IGNORECASE)
_LEAST_SECRET = 8
"""A shorter value of a variable that only sounds secret is left alone: it would black out ordinary words."""
_said = logging.getLogger(SAID)


def secret_values(*key_envs: str | None) -> dict[str, str]:
    """Values that must not be written down, longest first, and the variable that holds each.

    Args:
        key_envs: Environment variables that the recipe names; their values count however short they are.
    """
    found = {
        value: name
        for name, value in os.environ.items()
        if value and (name in key_envs or (_SECRET_NAME.search(name) and len(value) >= _LEAST_SECRET))
    }
    return dict(sorted(found.items(), key=lambda pair: -len(pair[0])))


class _Lines(logging.Formatter):
    """A time, who spoke if not the run itself, and the text without any secret."""

    def __init__(self, secrets: dict[str, str]) -> None:
        super().__init__("%(asctime)s  %(message)s", "%Y-%m-%d %H:%M:%S")
        self._secrets = secrets

    def format(self, record: logging.LogRecord) -> str:
        who = "" if record.name == SAID else f"[{record.name} {record.levelname.lower()}] "
        time_, _, text = super().format(record).partition("  ")
        text = f"{time_}  {who}{text}"
        for value, name in self._secrets.items():
            text = text.replace(value, f"<{name}>")
        return text


def to_log(*names: str) -> None:
    """From here on these libraries' warnings go to the log of a run, where there is one, and not to the terminal."""
    for name in names:
        logger = logging.getLogger(name)
        logger.handlers[:] = [logging.NullHandler()]
        logger.propagate = True
        logger.setLevel(logging.WARNING)


class _File(logging.FileHandler):
    """A log that cannot be written, on a full disk, neither stops a run nor hides why it stopped."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Say nothing: what fills the disk is told by the step that meets it."""

    def close(self) -> None:
        """Close the file, whatever of it could be written."""
        with suppress(OSError):
            super().close()


@contextmanager
def logged(path: Path, secrets: dict[str, str]) -> Iterator[None]:
    """Write down what is said and warned of in the block, and how it ends.

    Args:
        path: The file; appended to.
        secrets: From `secret_values`.
    """
    handler = _File(path, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(_Lines(secrets))
    listening = (logging.getLogger(), _said, logging.getLogger("teachwise.heard"))
    logging.getLogger("teachwise.heard").setLevel(logging.INFO)
    logging.getLogger("teachwise.heard").propagate = False
    for logger in listening:
        logger.addHandler(handler)
    shown, warnings.showwarning = warnings.showwarning, _showwarning
    started = time.monotonic()
    try:
        _said.info("== teachwise %s, Python %s: %s", version("teachwise"), sys.version.split()[0], _command(sys.argv))
        yield
        _said.info("ended well after %.1f s", time.monotonic() - started)
    except TeachwiseError as error:
        _said.info("stopped: %s", error)
        raise
    except KeyboardInterrupt:
        _said.info("interrupted after %.1f s", time.monotonic() - started)
        raise
    except BaseException:
        _said.exception("crashed after %.1f s", time.monotonic() - started)
        raise
    finally:
        warnings.showwarning = shown
        for logger in listening:
            logger.removeHandler(handler)
        handler.close()


def _command(words: Iterable[str]) -> str:
    program, *rest = [*words] or ["python"]
    return shlex.join([Path(program).name, *rest])


def _showwarning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: object = None,
    line: object = None,
) -> None:
    logging.getLogger("warnings").warning("%s:%d: %s: %s", filename, lineno, category.__name__, message)
