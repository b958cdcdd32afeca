"""The teacher behind an OpenAI-compatible server: hosted APIs, vLLM, llama.cpp, `transformers serve`.

The SDK's own retries are off: it would send a request again after a time-out without anybody knowing whether the
first one was billed. An engine makes one attempt and says how it ended; `buying` decides what follows.

    429                                        too fast; with the wait that the server names
    500, 503, 529 and other 5xx                the server stumbled: not billed
    no connection to be made                   absent: never left
    408, 502, 504, 520, 524; time-out; cut off nobody knows: a server behind may have answered, and billed
    200 with choices                           a result, also where no text can be read: then it is kept as it came
    200 with anything else                     nobody knows
    400 or 403 for what the prompt says        refused, a result
    any other 4xx                              rejected
    401, 402, 403, 404, an empty account       no request can succeed: the step ends

All requests run in one thread of their own, in an event loop: a thousand in flight need no thousand threads, a
deadline ends a request wherever it stands, and closing the engine ends all of them at once.
"""

import asyncio
import json
import os
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

import openai
from openai.types.chat import ChatCompletion

from teachwise.errors import TeacherError
from teachwise.request import Fault, Reply, Request, no_reply, printable, writable
from teachwise.teacher.engine import check_key
from teachwise.teacher.prices import host_of

GATEWAY = (408, 502, 504, 520, 524)
"""Statuses by which something in front of the model says that it did not hear the end of it."""
MOST_TOLD = 500
"""Characters of a failure that are passed on."""
FILTERED = ("content_filter", "content_policy_violation", "content_policy", "invalid_prompt", "data_inspection_failed")
"""Codes of a 400 that is about what the prompt says, not about how it is said."""
FILTERED_WORDS = ("content exists risk", "requires moderation", "content management policy")
"""The same, from endpoints that name no code of their own for it."""
SHORTEST_SECRET = 8
"""Signs of a key that is hidden; a shorter one, such as `EMPTY` for a server that wants none, occurs in any text."""
MOST_RAW = 1_000_000
"""Characters that are kept of a reply that cannot be read."""
MOST_TOKENS = 10**7
"""A count above this is no count: no model reads or writes so much at once."""
CONNECT_SECONDS = 20.0
"""How long to wait for a connection; after it the request is known not to have left."""
CLOSE_SECONDS = 5.0
"""How long requests that are given up may take to close their connections."""


class OpenAiTeacher:
    """A chat endpoint.

    Args:
        model: The teacher's name at the endpoint.
        base_url: The endpoint; None is the SDK's default.
        key_env: Environment variable with the API key; None where the server wants none.
        timeout_seconds: How long one reply may take in all, from the first byte sent to the last one read.
        limit_field: What the endpoint calls the limit on tokens written: `max_tokens` or `max_completion_tokens`.

    Raises:
        TeacherError: the environment variable is not set.
    """

    def __init__(
        self,
        model: str,
        base_url: str | None = None,
        key_env: str | None = None,
        timeout_seconds: float = 600.0,
        limit_field: str = "max_tokens",
        **_: object,
    ) -> None:
        check_key(key_env)
        self.model = model
        key = os.environ[key_env] if key_env else ""
        self._secret = key if len(key) >= SHORTEST_SECRET else ""
        self.limit_field = limit_field
        self._timeout_seconds = timeout_seconds
        self._trusts_env = not is_here(base_url)
        self._given: dict[str, Any] = {"base_url": base_url, "api_key": key or "none", "max_retries": 0}
        # what is left over of one reply must never be read as the next one, so no connection is used twice
        self._given["default_headers"] = {"Connection": "close"}
        self._asker = openai.AsyncOpenAI(
            **self._given,
            http_client=openai.DefaultAsyncHttpxClient(trust_env=self._trusts_env),
            timeout=openai.Timeout(None, connect=min(CONNECT_SECONDS, timeout_seconds / 2)),
        )
        self._url = str(self._asker.base_url)
        self.host = host_of(self._url)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    @cached_property
    def client(self) -> openai.OpenAI:
        """The same endpoint for calls that wait, such as those for batches."""
        http_client = openai.DefaultHttpxClient(trust_env=self._trusts_env)
        return openai.OpenAI(**self._given, http_client=http_client, timeout=self._timeout_seconds)

    def ask(self, request: Request) -> "Future[Reply]":
        """Send a request now; the future ends in its reply, or in a TeacherError where none can succeed."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=self._loop.run_forever, name="teacher", daemon=True)
            self._thread.start()
        return asyncio.run_coroutine_threadsafe(self._ask(request), self._loop)

    def close(self) -> None:
        """Send nothing more, and give up what is under way: its connections are closed, its futures cancelled."""
        if "client" in self.__dict__:
            self.client.close()
        if self._loop is None or self._thread is None or not self._thread.is_alive():
            return
        asyncio.run_coroutine_threadsafe(self._end(self._loop), self._loop)
        self._thread.join(CLOSE_SECONDS)
        if not self._thread.is_alive():
            self._loop.close()

    async def _end(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            asked = asyncio.all_tasks() - {asyncio.current_task()}
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
            await self._asker.close()
        finally:
            loop.stop()

    def fields(self, request: Request) -> dict[str, Any]:
        """A request as the endpoint reads it."""
        return fields_of(request, self.limit_field)

    async def _ask(self, request: Request) -> Reply:
        try:
            async with asyncio.timeout(self._timeout_seconds):  # `post` sends as is what `create` checks for 0.4 ms
                found = await self._asker.post("/chat/completions", cast_to=ChatCompletion, body=self.fields(request))
            return self.without_key(read_completion(found, request))
        except TimeoutError:
            return no_reply(f"no whole reply within {self._timeout_seconds:g} seconds (time-out)", "unanswered")
        except openai.APIStatusError as error:
            return self._turned_down(error)
        except openai.APIConnectionError as error:
            if _was_sent(error):
                return self._no_reply(error, "unanswered")
            return no_reply(f"the teacher at {self._url} does not answer ({self._hidden(_said(error))})", "absent")
        except Exception as error:  # an answer that nobody foresaw; it may be billed, and others are under way
            return self._no_reply(error, "unanswered")

    def _turned_down(self, error: openai.APIStatusError) -> Reply:
        """What a status other than 200 means.

        Raises:
            TeacherError: no other request would fare better.
        """
        status = error.status_code
        if status in (400, 403) and is_filtered(error.code, error.message, error.body):
            return Reply("", "content_filter", 0, 0)
        if status in (401, 402, 403, 404) or error.code == "insufficient_quota":
            raise self._refused(error) from None
        if status == 429:
            return self._no_reply(error, "too_fast", retry_after(error.response.headers))
        if status in GATEWAY:
            return self._no_reply(error, "unanswered")
        if status >= 500:
            why = self._hidden(f"the teacher at {self._url} answers {status}: {_said(error)}")
            return no_reply(why, "unavailable", retry_after(error.response.headers))
        return self._no_reply(error, "rejected")

    def _no_reply(self, error: Exception, fault: Fault, wait_seconds: float | None = None) -> Reply:
        """Why there is no reply, in words."""
        if isinstance(error, json.JSONDecodeError | NoCompletion):
            sent = self._hidden(error.doc)[:60]
            return no_reply(
                f"the reply is no chat completion, but {sent!r}; does teacher.base_url lead to the API?", fault
            )
        return no_reply(self._hidden(f"{type(error).__name__}: {_said(error)}"), fault, wait_seconds)

    def without_key(self, reply: Reply) -> Reply:
        """A reply with its host, and without the key: a server may repeat that in anything it sends."""
        names = ("text", "reasoning", "logprobs", "finish_reason", "served_model", "raw", "error")
        texts: dict[str, Any] = {name: self._hidden(getattr(reply, name)) for name in names if getattr(reply, name)}
        return replace(reply, host=self.host, **texts)

    def told(self, error: Exception) -> str:
        """What a failed call says, without the key."""
        return printable(self._hidden(f"{type(error).__name__}: {_said(error)}")[:MOST_TOLD])

    def hidden(self, text: str) -> str:
        """Words of the provider's, without the key."""
        return printable(self._hidden(text))

    def _hidden(self, text: str) -> str:
        return text.replace(self._secret, "[key]") if self._secret else text

    def _refused(self, error: openai.APIStatusError) -> TeacherError:
        why = self._hidden(", ".join(str(part) for part in (error.status_code, error.code) if part))[:200]
        hint = "check the key that teacher.key_env names, and whether it may use teacher.model at teacher.base_url"
        if error.status_code == 404:
            hint = f"check teacher.model, {self.model!r}, and teacher.base_url, which mostly ends in /v1"
        if error.status_code == 402 or error.code == "insufficient_quota":
            hint = "the account has nothing left: fill it up and run again; what was paid for is kept"
        return TeacherError(printable(f"teach: the teacher at {self._url} refuses ({why})"), hint)


def is_here(base_url: str | None) -> bool:
    """Whether the server is on this machine: then it costs no money, and a proxy would only be in the way."""
    return urlsplit(base_url or "").hostname in ("127.0.0.1", "localhost", "::1")


def fields_of(request: Request, limit_field: str) -> dict[str, Any]:
    """A request as the endpoint reads it, on the wire or as a line of a batch.

    Args:
        request: The request.
        limit_field: What the endpoint calls the limit on tokens written.
    """
    known: dict[str, Any] = {"model": request.model, "messages": list(request.messages)}
    known[limit_field] = request.max_tokens
    if request.temperature is not None:
        known["temperature"] = request.temperature
    return known | dict(request.options)


def is_filtered(code: object, message: str, body: object = None) -> bool:
    """Whether a request was turned down for what its prompt says, which is a result, and no fault of the key.

    Example:
        >>> is_filtered("content_filter", ""), is_filtered(None, "Content Exists Risk"), is_filtered(None, "too long")
        (True, True, False)
    """
    details = body.get("metadata") if isinstance(body, Mapping) else None
    is_flagged = isinstance(details, Mapping) and "flagged_input" in details
    return code in FILTERED or is_flagged or any(words in message.lower() for words in FILTERED_WORDS)


class NoCompletion(ValueError):
    """A reply that can be read, but is something else, such as the page of a web site."""

    def __init__(self, sent: object) -> None:
        super().__init__("the reply has no choices")
        self.doc = sent if isinstance(sent, str) else "no choices"


def read_completion(completion: Any, request: Request) -> Reply:
    """The reply in a completion, whose fields the SDK does not check; a server may send anything.

    Where the server says nothing of usage, or what cannot be, the cost is taken to be the bound of the request.
    A reply that holds a choice was made and billed: where no text can be read in it, its own is "", and it is kept raw.

    Raises:
        ValueError: it is no completion.
    """
    choices, usage = getattr(completion, "choices", None), getattr(completion, "usage", None)
    if not isinstance(completion, ChatCompletion) or not choices:
        raise NoCompletion(completion)
    choice = choices[0] if isinstance(choices, list) else None
    message = getattr(choice, "message", None)
    found = text_of(message.content) if message is not None and hasattr(message, "content") else None
    text, reasoning = writable(found or ""), writable(_reasoning(message))
    read, written = (_tokens(usage, name) for name in ("prompt_tokens", "completion_tokens"))
    if not read or written is None or (not written and (text or reasoning)):
        read, written = request.prompt_bound_tokens, request.max_tokens
    is_refusal = not text and bool(getattr(message, "refusal", None))
    return Reply(
        text,
        "content_filter" if is_refusal else writable(str(getattr(choice, "finish_reason", None) or "unknown")),
        read,
        written,
        cached_tokens=_tokens(getattr(usage, "prompt_tokens_details", None), "cached_tokens") or 0,
        reasoning=reasoning,
        logprobs=_as_json(getattr(choice, "logprobs", None)),
        served_model=printable(str(getattr(completion, "model", None) or ""))[:MOST_TOLD],
        raw=_as_json(completion)[:MOST_RAW] if found is None else "",
    )


def text_of(content: Any) -> str | None:
    """The text of a message, "" where it has none; None where there is none that can be read.

    Example:
        >>> text_of("so [[B]]"), text_of([{"type": "text", "text": "so "}, {"type": "text", "text": "[[B]]"}])
        ('so [[B]]', 'so [[B]]')
    """
    if content is None or isinstance(content, str):
        return content or ""
    parts = content if isinstance(content, list) else [content]
    found = [part.get("text") if isinstance(part, Mapping) else part for part in parts]
    texts = [text for text in found if isinstance(text, str)]
    return "".join(texts) if found and len(texts) == len(found) else None


def _tokens(usage: Any, name: str) -> int | None:
    """A count that a server reports; None where it is no count of tokens."""
    value = usage.get(name) if isinstance(usage, Mapping) else getattr(usage, name, None)
    return value if type(value) is int and 0 <= value <= MOST_TOKENS else None


def _reasoning(message: Any) -> str:
    """What a reasoning model thought, which servers hand over under either of two names."""
    for name in ("reasoning_content", "reasoning"):
        if isinstance(text := getattr(message, name, None), str):
            return text
    return ""


def _as_json(logprobs: Any) -> str:
    """Log-probabilities as JSON, whatever form they came in; "" where there are none."""
    if not logprobs:
        return ""
    if hasattr(logprobs, "model_dump"):
        logprobs = logprobs.model_dump(mode="json", exclude_none=True, warnings=False)
    return writable(json.dumps(logprobs, ensure_ascii=False, default=str))


def _said(error: Exception) -> str:
    """What a user can read out of a failure; of a broken connection the reason that lies deepest."""
    said, cause = str(error), error.__cause__
    while isinstance(error, openai.APIConnectionError) and cause is not None:
        number = (cause.errno or 0) if isinstance(cause, OSError) else 0
        said = os.strerror(number) if number > 0 else str(cause) or said
        group = cause.__cause__ or cause.__context__
        cause = group.exceptions[0] if isinstance(group, BaseExceptionGroup) else group
    return said or type(error).__name__


_NEVER_LEFT = ("ConnectError", "ConnectTimeout", "PoolTimeout", "ProxyError", "UnsupportedProtocol")


def _was_sent(error: Exception) -> bool:
    """Whether the request may have reached the server: all failures of a connection but that to make one."""
    return type(error.__cause__).__name__ not in _NEVER_LEFT


def retry_after(headers: Mapping[str, str]) -> float | None:
    """The wait that the server asks for, in seconds; None where it names none.

    Args:
        headers: Of the refusal. `retry-after-ms` counts milliseconds; `retry-after` counts seconds or is a date by the
            server's clock, which `date` tells.

    Example:
        >>> retry_after({"retry-after": "2.5"}), retry_after({"retry-after-ms": "250"}), retry_after({})
        (2.5, 0.25, None)
    """
    said, said_ms = headers.get("retry-after", ""), headers.get("retry-after-ms", "")
    try:
        seconds = float(said_ms) / 1000 if said_ms else float(said)
    except ValueError:
        try:
            now = headers.get("date", "")
            seconds = (
                parsedate_to_datetime(said) - (parsedate_to_datetime(now) if now else datetime.now(UTC))
            ).total_seconds()
        except (ValueError, TypeError):
            return None
    return seconds if 0 < seconds < float("inf") else None
