"""The files of a provider's batch mode: one request a line, and one reply a line.

    {"custom_id": KEY, "method": "POST", "url": "/v1/chat/completions", "body": {...}}
    {"custom_id": KEY, "response": {"status_code": 200, "body": {...}}, "error": null}

The form is OpenAI's, and other providers and `vllm run-batch` have taken it over. They differ in what stands in `error`
(an object with a code, a bare text, nothing), and in whether `body` is there beside it; all of that is read.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from openai.types.chat import ChatCompletion
from rich.markup import escape

from teachwise.console import say
from teachwise.request import Reply, Request, no_reply, printable
from teachwise.teacher.openai import GATEWAY, fields_of, is_filtered, read_completion

URL: Literal["/v1/chat/completions"] = "/v1/chat/completions"
MOST_LINES = 50_000
"""Requests that providers take in one file."""
MOST_BYTES = 190_000_000
"""Size of one file; providers take 200 MB."""
MOST_TOLD = 3
"""Lines that are named one by one."""
NOT_EXECUTED = ("batch_expired", "batch_cancelled")
"""Codes of a line whose request never reached the model, and costs nothing."""


@dataclass(frozen=True)
class ReplyLine:
    """One line of replies.

    Attributes:
        key: The request it belongs to.
        status: The HTTP status, 0 where there is none.
        body: What an endpoint would have sent.
        code: The error's code, "" where it has none.
        message: The error in words, "" where there is none.
    """

    key: str
    status: int
    body: Any
    code: str
    message: str


def request_line(request: Request, limit_field: str) -> str:
    """A request as a line, its break included.

    Nothing but ASCII, since some programs take the line separators of Unicode for the end of a line.
    """
    content = {"custom_id": request.key, "method": "POST", "url": URL, "body": fields_of(request, limit_field)}
    return json.dumps(content) + "\n"


def in_files(requests: Iterable[Request], limit_field: str) -> Iterator[tuple[list[Request], str]]:
    """Requests in as few files as the provider's limits allow: which of them, and the text of the file."""
    taken: list[Request] = []
    lines: list[str] = []
    size = 0
    for request in requests:
        line = request_line(request, limit_field)
        if taken and (len(taken) >= MOST_LINES or size + len(line) > MOST_BYTES):
            yield taken, "".join(lines)
            taken, lines, size = [], [], 0
        taken.append(request)
        lines.append(line)
        size += len(line)
    if taken:
        yield taken, "".join(lines)


def read_line(text: str | bytes) -> ReplyLine:
    """A line of replies.

    Raises:
        ValueError: it is none; what it says reads well after "line 3: ".
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("is no JSON") from None
    if not isinstance(content, dict) or not isinstance(content.get("custom_id"), str):
        raise ValueError("has no custom_id")
    response = content.get("response")
    response = response if isinstance(response, dict) else {}
    body = response if "choices" in response else response.get("body")
    code, message = _error(content.get("error"), body)
    if body is None and not message:
        raise ValueError("holds neither a reply nor an error")
    status = response.get("status_code", 0 if message else 200)
    return ReplyLine(content["custom_id"], status if isinstance(status, int) else 0, body, code, message)


def _error(*places: Any) -> tuple[str, str]:
    """The code and the words of an error, wherever a provider writes them."""
    for place in places:
        found = place.get("error", place) if isinstance(place, Mapping) else place
        if isinstance(found, str) and found:
            return "", found
        if isinstance(found, Mapping) and (found.get("message") or found.get("code")):
            code = str(found.get("code") or "")
            return code, str(found.get("message") or code)
    return "", ""


def reply_of(line: ReplyLine, request: Request) -> Reply | None:
    """What a line says of its request, sorted as `engines.openai` sorts what comes over the wire.

    Returns:
        The reply, or why there is none; None where the request was not executed, and costs nothing.
    """
    if line.code in NOT_EXECUTED:
        return None
    if line.status == 200 and line.body is not None:
        try:
            content = line.body if isinstance(line.body, dict) else {}
            return read_completion(ChatCompletion.construct(**content), request)
        except Exception as error:  # whatever a provider writes there: it has answered, and billed
            return no_reply(f"no chat completion ({error})", "unanswered")
    if line.status in (400, 403) and is_filtered(line.code, line.message):
        return Reply("", "content_filter", 0, 0)
    why = f"{line.status or 'no status'}: {line.message or 'no reason is given'}"
    if line.status == 429:
        return no_reply(why, "too_fast")
    if line.status in GATEWAY or line.code == "request_timeout":
        return no_reply(why, "unanswered")
    return no_reply(why, "unavailable" if line.status >= 500 else "rejected")


def tell_faults(where: str, faults: Sequence[str]) -> None:
    """Name the lines that are not used, the first few of them one by one."""
    if faults:
        more = f", and {len(faults) - MOST_TOLD:,} more" if len(faults) > MOST_TOLD else ""
        say(escape(printable(f"{where}{'; '.join(faults[:MOST_TOLD])}{more}")))
