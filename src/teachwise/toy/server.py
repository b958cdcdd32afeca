"""The toy teacher behind HTTP: it speaks the OpenAI protocol on the loopback interface.

So the whole path to a paid teacher can be walked offline: requests, token counts, replies that are cut or wrong, and
malformed requests. The same request always gets the same reply at temperature 0; above it, each time another sample.
"""

from __future__ import annotations

import json
import socketserver
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from teachwise.errors import DataError

from .teacher import USUAL, Habits, habits_named, reply, text_of
from .world import digest

MODEL_NAME = "toy-teacher"
LOOPBACK = "127.0.0.1"
MAX_BODY_BYTES = 1 << 20


class BadRequest(ValueError):
    """A request that the server refuses; `param` names the field at fault."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


def _require(condition: bool, message: str, param: str) -> None:
    if not condition:
        raise BadRequest(message, param)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _check_request(body: object) -> dict[str, Any]:
    """Return the request if it is well formed.

    Raises:
        BadRequest: If it is not.
    """
    if not isinstance(body, dict):
        raise BadRequest("the body must be a JSON object")
    messages, limit = body.get("messages"), _token_limit(body)
    _require(isinstance(body.get("model"), str), "model must be a string", "model")
    _require(isinstance(messages, list) and bool(messages), "messages must be a list, not empty", "messages")
    well_formed = [isinstance(m, dict) and isinstance(m.get("role"), str) and "content" in m for m in messages or []]
    _require(all(well_formed), "every message must be an object with a role and a content", "messages")
    _require(limit is None or _is_count(limit), "max_tokens must be a whole number, at least 1", "max_tokens")
    _require(body.get("n") in (None, 1), "only n = 1 is supported", "n")
    _require(not body.get("stream"), "streaming is not supported", "stream")
    _require(isinstance(body.get("seed") or 0, int), "seed must be a whole number", "seed")
    return body


def _token_limit(body: Mapping[str, Any]) -> Any:
    limit = body.get("max_completion_tokens")
    return body.get("max_tokens") if limit is None else limit


def complete(body: object, *, seed: int, habits: Habits) -> dict[str, Any]:
    """Answer a chat completion request; a token is a word here.

    Args:
        body: The decoded JSON request: ``model``, ``messages``, and optionally ``max_tokens`` (or
            ``max_completion_tokens``) and ``seed``, which is added to the server's.
        seed: The server's seed.
        habits: See `teacher.reply`.

    Raises:
        BadRequest: If the request is malformed or holds no toy question.
    """
    request = _check_request(body)
    try:
        answer = reply(request["messages"], seed=seed + (request.get("seed") or 0), habits=habits)
        n_prompt = sum(len(text_of(message["content"]).split()) for message in request["messages"])
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise BadRequest(str(error), "messages") from error
    full = answer.text.split()
    words = full[: _token_limit(request)]
    message = {"role": "assistant", "content": " ".join(words)}
    finish = "stop" if answer.is_whole and len(words) == len(full) else "length"
    return {
        "id": f"chatcmpl-toy-{digest(json.dumps(request, sort_keys=True)):016x}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": request["model"],
        "choices": [{"index": 0, "message": message, "finish_reason": finish, "logprobs": None}],
        "usage": {
            "prompt_tokens": n_prompt,
            "completion_tokens": len(words),
            "total_tokens": n_prompt + len(words),
        },
    }


class TeacherServer(ThreadingHTTPServer):
    """The teacher's HTTP server, bound to the loopback interface but not yet running.

    Run it in the background with `start` and `stop` (or in a ``with`` block), or in the foreground with
    ``serve_forever``.

    Attributes:
        seed: See `teacher.reply`.
        habits: See `teacher.reply`.
        delay_seconds: Waiting time before every completion.
        log: Whether to print a line per request to stderr.
        n_completions: Completions answered so far.
    """

    request_queue_size = 128

    def __init__(self, port: int, seed: int, habits: Habits, delay_seconds: float, log: bool) -> None:
        super().__init__((LOOPBACK, port), _Handler)
        self.seed, self.habits, self.delay_seconds, self.log = seed, habits, delay_seconds, log
        self.n_completions = 0
        self._asked: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def server_bind(self) -> None:
        """Bind without asking a name server for this machine's name."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = LOOPBACK, int(self.server_address[1])

    @property
    def base_url(self) -> str:
        """What an OpenAI client wants as its base URL."""
        return f"http://{LOOPBACK}:{self.server_port}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a client that went away; that is its own affair."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)

    def count_completion(self) -> None:
        """Count one answered completion; safe from many threads."""
        with self._lock:
            self.n_completions += 1

    def sample_of(self, body: object) -> int:
        """How often these messages were asked before, so that each sample is another one; 0 at temperature 0."""
        if not isinstance(body, dict) or not body.get("temperature"):
            return 0
        with self._lock:
            self._asked[key := json.dumps(body.get("messages"))] += 1
            return self._asked[key] - 1

    def start(self) -> TeacherServer:
        """Answer requests from a background thread."""
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()
        return self

    def stop(self) -> None:
        """Stop the background thread and free the port."""
        if self._thread:
            self.shutdown()
            self._thread.join()
            self._thread = None
        self.server_close()

    def __enter__(self) -> TeacherServer:
        return self.start()

    def __exit__(self, *error: object) -> None:
        self.stop()


class _Handler(BaseHTTPRequestHandler):
    server: TeacherServer
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        if self.path.rstrip("/") == "/v1/models":
            card = {"id": MODEL_NAME, "object": "model", "created": 0, "owned_by": "teachwise"}
            self._send(200, {"object": "list", "data": [card]})
        else:
            self._refuse(404, f"unknown path {self.path}")

    def do_POST(self) -> None:
        raw = self._read_body()
        if raw is None:
            self._refuse(400, "a body with a Content-Length of at most 1 MiB is required")
        elif self.path.rstrip("/") != "/v1/chat/completions":
            self._refuse(404, f"unknown path {self.path}")
        else:
            self._complete(raw)

    def _complete(self, raw: bytes) -> None:
        teacher = self.server
        try:
            body = json.loads(raw)
            answer = complete(body, seed=teacher.seed + teacher.sample_of(body), habits=teacher.habits)
        except BadRequest as error:
            self._refuse(400, str(error), error.param)
        except ValueError as error:
            self._refuse(400, f"the body is not JSON: {error}")
        else:
            time.sleep(teacher.delay_seconds)
            teacher.count_completion()
            self._send(200, answer)

    def _read_body(self) -> bytes | None:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > MAX_BODY_BYTES:
            self.close_connection = True
            return None
        return self.rfile.read(int(length))

    def _refuse(self, status: int, message: str, param: str | None = None) -> None:
        error = {"message": message, "type": "invalid_request_error", "param": param, "code": None}
        self._send(status, {"error": error})

    def _send(self, status: int, body: Mapping[str, Any]) -> None:
        raw = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, format: str, *args: Any) -> None:
        if self.server.log:
            super().log_message(format, *args)


def serve(
    port: int = 0,
    *,
    seed: int = 0,
    habits: Habits = USUAL,
    delay_seconds: float = 0.0,
    log: bool = False,
) -> TeacherServer:
    """Bind the teacher to a port of the loopback interface and return its server, not yet running.

    Args:
        port: 0 takes a free one; see ``server.base_url``.
        seed: See `teacher.reply`.
        habits: See `teacher.reply`.
        delay_seconds: Waiting time before every completion, to imitate a slow teacher.
        log: Whether to print a line per request to stderr.

    In the foreground: ``serve(8000).serve_forever()``. In the background:

    >>> with serve() as server:
    ...     server.base_url.startswith("http://127.0.0.1:")
    True
    """
    return TeacherServer(port, seed, habits, delay_seconds, log)


def serve_in_front(port: int, habits: str) -> None:
    """Serve until Ctrl-C, and say where.

    Args:
        port: 0 takes a free one.
        habits: A name in `teacher.HABITS`.

    Raises:
        DataError: If there are no such habits, or the port cannot be had.
    """
    try:
        server = serve(port, habits=habits_named(habits))
    except OSError as error:
        raise DataError(f"--port {port}: {error.strerror}", "choose another port; 0 takes a free one") from error
    print(f"toy teacher at {server.base_url} (Ctrl-C stops it)", flush=True)
    server.serve_forever()
