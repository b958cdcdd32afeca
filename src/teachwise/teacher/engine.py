"""What answers requests, and what must be known of it before anything is sent."""

import os
import re
from concurrent.futures import Future
from typing import Any, Protocol
from urllib.parse import urlsplit

from teachwise.errors import TeacherError
from teachwise.request import Reply, Request


class TeacherEngine(Protocol):
    """Something that answers requests, several at once and in any order."""

    def ask(self, request: Request) -> "Future[Reply]":
        """Start one attempt at once.

        Returns:
            A future that ends in a Reply, also where there is none (then it says why), or in a TeacherError where no
            further request can succeed. The caller sees to it that there are not too many of them.
        """
        ...

    def close(self) -> None:
        """Start nothing more."""
        ...


def load_teacher(engine: str, **options: Any) -> TeacherEngine:
    """The teacher behind a recipe's `teacher` section, whose flat fields are `options`."""
    if engine == "hf":
        from teachwise.engines.local import LocalTeacher

        return LocalTeacher(**options)
    from teachwise.teacher.openai import OpenAiTeacher

    return OpenAiTeacher(**options)


def check_key(key_env: str | None) -> None:
    """Make sure that the teacher's key is there, without sending anything.

    Raises:
        TeacherError: the environment variable is not set, or holds what no key holds.
    """
    if key_env and not os.environ.get(key_env):
        raise TeacherError(
            f"teacher.key_env: the environment variable {key_env} is not set", f"export {key_env}=your-key"
        )
    if key_env and not re.fullmatch(r"[!-~]+", os.environ[key_env]):
        raise TeacherError(
            f"teacher.key_env: the environment variable {key_env} holds blanks, line breaks or signs that no key has",
            f"paste the key alone, without quotes around it: export {key_env}=your-key",
        )


def address_fault(url: str) -> str:
    """What is wrong with a server's address, or ""; the address is not repeated, since it may hold a secret.

    Example:
        >>> address_fault("http://127.0.0.1:8000/v1")
        ''
        >>> address_fault("localhost:8000/v1")
        'wanted http:// or https://, a host and a path, for instance http://127.0.0.1:8000/v1'
    """
    try:
        parts = urlsplit(url)
        is_whole = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # brackets that do not close, a port beyond 65535
        is_whole = False
    if not is_whole or re.search(r"\s", url):
        return "wanted http:// or https://, a host and a path, for instance http://127.0.0.1:8000/v1"
    if "@" in parts.netloc or parts.query or parts.fragment:
        return "holds a name, password or query; name an environment variable in key_env"
    return ""
