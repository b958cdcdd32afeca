"""The teacher behind an OpenAI-compatible server: hosted APIs, vLLM, llama.cpp, `transformers serve`.

The SDK's own retries are off: it would send a request again after a time-out without anybody knowing whether the
first one was billed. What is retried here, and how often, is written below.
"""

import json
import os
import random
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from itertools import islice
from typing import Any
from urllib.parse import urlsplit

import openai
from openai.types.chat import ChatCompletion
from rich.markup import escape

from teachwise.console import say
from teachwise.engines import check_key
from teachwise.errors import TeacherError
from teachwise.ledger import Reply, Request

ATTEMPTS = 5
TELL_SECONDS = 60.0
"""How long the same attempt is not told again."""
PATIENCE_SECONDS = 600.0
"""How long a request may go on being refused for coming too fast (429); such refusals use up no attempt."""


class OpenAiTeacher:
    """A chat endpoint.

    Args:
        model: The teacher's name at the endpoint.
        base_url: The endpoint; None is the SDK's default.
        key_env: Environment variable with the API key; None where the server wants none.
        concurrency: Requests in flight.
        timeout_seconds: How long to wait for one reply.

    Raises:
        TeacherError: the environment variable is not set.
    """

    def __init__(
        self,
        model: str,
        base_url: str | None = None,
        key_env: str | None = None,
        concurrency: int = 8,
        timeout_seconds: float = 600.0,
        **_: object,
    ) -> None:
        check_key(key_env)
        self.model = model
        self.concurrency = concurrency
        self._key = os.environ[key_env] if key_env else ""
        self._telling = threading.Lock()
        self._told = 0, 0.0
        self._client = openai.OpenAI(
            base_url=base_url,
            api_key=self._key or "none",
            max_retries=0,
            timeout=timeout_seconds,
            http_client=openai.DefaultHttpxClient(trust_env=not _is_here(base_url)),
        )

    def answer(self, requests: Iterable[Request]) -> Iterator[tuple[Request, Reply]]:
        """Replies as they come, at most `concurrency` requests in flight.

        Raises:
            TeacherError: the server cannot be reached, or refuses the key or the model.
            KeyboardInterrupt: Ctrl-C. Like after a refusal, nothing more is sent, and replies that were already under
                way are still handed over first, since they are paid for.
        """
        waiting = iter(requests)
        with ThreadPoolExecutor(self.concurrency) as pool:
            flying = {pool.submit(self._ask, request): request for request in islice(waiting, self.concurrency)}
            failure: BaseException | None = None
            while flying:
                try:
                    done, _ = wait(flying, return_when=FIRST_COMPLETED)
                except KeyboardInterrupt as stop:
                    if failure:
                        raise
                    failure = stop
                    continue
                for future in done:
                    request = flying.pop(future)
                    reply, refused = _outcome(future)
                    failure = failure or refused
                    yield request, reply
                if failure is None:
                    room = self.concurrency - len(flying)
                    flying |= {pool.submit(self._ask, request): request for request in islice(waiting, room)}
            if failure:
                raise failure

    def _ask(self, request: Request) -> Reply:
        attempt, give_up = 0, time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                return _reply(self._send(request), request)
            except openai.RateLimitError as error:
                if error.code == "insufficient_quota":  # no waiting fills an empty account
                    raise self._refused(error) from error
                pause = _retry_after(error) or random.uniform(1, 3)
                if time.monotonic() + pause > give_up:
                    return self._failed(error)
                time.sleep(pause)
            except (openai.APIConnectionError, openai.InternalServerError) as error:
                if _was_sent(error):
                    return replace(self._failed(error), may_be_billed=True)
                attempt += 1
                if attempt == ATTEMPTS:
                    if isinstance(error, openai.APIConnectionError):
                        raise self._unreachable(error) from error
                    return self._failed(error)
                self._tell_retry(error, attempt + 1)
                time.sleep(min(2.0**attempt, 30) * random.uniform(0.2, 0.5))
            except (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError) as error:
                raise self._refused(error) from error
            except openai.APIStatusError as error:
                return self._failed(error)
            except (openai.APIResponseValidationError, ValueError) as error:  # an answer, but none that can be read
                return replace(self._failed(error), may_be_billed=True)

    def _tell_retry(self, error: openai.APIError, attempt: int) -> None:
        """Say that it is tried again; requests in flight fail together, so each attempt is told once a minute."""
        with self._telling:
            if attempt <= self._told[0] and time.monotonic() < self._told[1] + TELL_SECONDS:
                return
            self._told = attempt, time.monotonic()
        what = f"answers {error.status_code}" if isinstance(error, openai.APIStatusError) else "does not answer"
        say(escape(f"teacher {what} at {self._client.base_url}, trying again ({attempt} of {ATTEMPTS})"))

    def _send(self, request: Request) -> ChatCompletion:
        return self._client.chat.completions.create(
            model=request.model,
            messages=list(request.messages),  # type: ignore[arg-type]
            max_tokens=request.max_tokens,
            temperature=request.temperature,
        )

    def _failed(self, error: Exception) -> Reply:
        """A failed reply; some servers repeat the key in their refusal, and the ledger must not hold it."""
        if isinstance(error, json.JSONDecodeError | _NoCompletion):
            sent = self._hidden(error.doc)[:60]
            return _no_reply(f"the reply is no chat completion, but {sent!r}; does teacher.base_url lead to the API?")
        return _no_reply(self._hidden(f"{type(error).__name__}: {_said(error)}"))

    def _hidden(self, text: str) -> str:
        return text.replace(self._key, "[key]") if self._key else text

    def _unreachable(self, error: Exception) -> TeacherError:
        return TeacherError(
            f"teach: the teacher at {self._client.base_url} does not answer ({_said(error)})",
            "start the server, or correct teacher.base_url; what was paid for is kept",
        )

    def _refused(self, error: openai.APIStatusError) -> TeacherError:
        why = ", ".join(str(part) for part in (error.status_code, error.code) if part)
        hint = "check the key that teacher.key_env names, and whether it may use teacher.model at teacher.base_url"
        if isinstance(error, openai.NotFoundError):
            hint = f"check teacher.model, {self.model!r}, and teacher.base_url, which mostly ends in /v1"
        if isinstance(error, openai.RateLimitError):
            hint = "the account has nothing left: fill it up and run again; what was paid for is kept"
        return TeacherError(f"teach: the teacher at {self._client.base_url} refuses ({why})", hint)


def _is_here(base_url: str | None) -> bool:
    """Whether the server is on this machine; then a proxy from the environment would only be in the way."""
    return urlsplit(base_url or "").hostname in ("127.0.0.1", "localhost", "::1")


def _outcome(future: "Future[Reply]") -> tuple[Reply, TeacherError | None]:
    try:
        return future.result(), None
    except TeacherError as error:
        return _no_reply(f"TeacherError: {error.found}"), error


class _NoCompletion(ValueError):
    """A reply that can be read, but is something else, such as the page of a web site."""

    def __init__(self, sent: object) -> None:
        super().__init__("the reply has no choices")
        self.doc = sent if isinstance(sent, str) else "no choices"


def _said(error: Exception) -> str:
    """What a user can read out of a failure; of a broken connection the reason that lies deepest."""
    cause: BaseException = error
    while isinstance(error, openai.APIConnectionError) and cause.__cause__:
        cause = cause.__cause__
    return str(cause) or type(cause).__name__


def _was_sent(error: Exception) -> bool:
    """Whether the request may have reached the server: all failures of a connection but that to make one."""
    if not isinstance(error, openai.APIConnectionError):
        return False
    return type(error.__cause__).__name__ not in ("ConnectError", "ConnectTimeout", "PoolTimeout")


def _reply(completion: Any, request: Request) -> Reply:
    """The reply in a completion, whose fields the SDK does not check; a server may send anything.

    Where the server says nothing of usage, the cost is taken to be all that was reserved.
    """
    if not isinstance(completion, ChatCompletion) or not completion.choices:
        raise _NoCompletion(completion)
    choice, usage = completion.choices[0], completion.usage
    text = getattr(choice.message, "content", choice)
    if not isinstance(text, str | None):
        raise ValueError("the reply has no text")
    read, written = (getattr(usage, name, None) for name in ("prompt_tokens", "completion_tokens"))
    if not isinstance(read, int) or not isinstance(written, int):
        read, written = request.upper_bound_tokens - request.max_tokens, request.max_tokens
    return Reply(text or "", choice.finish_reason or "unknown", read, written)


def _no_reply(why: str) -> Reply:
    return Reply("", "error", 0, 0, error=why[:500])


def _retry_after(error: openai.APIStatusError) -> float | None:
    """The wait that the server asks for in seconds; None where it names no such number (or a date)."""
    try:
        seconds = float(error.response.headers.get("retry-after", ""))
    except ValueError:
        return None
    return seconds if 0 < seconds < float("inf") else None
