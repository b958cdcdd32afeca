"""Serve a recorded teacher: an OpenAI-compatible server on this machine that replays Llama-3.1-70B's rationales.

A request is answered with what the teacher once wrote to the question in it; a token is a word here. A question that
was not recorded gets a 404, never an invention.

    python examples/mmlu_pro_real/replay_server.py --port 8766
"""

import argparse
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from teachwise.tasks.table import read_table

QUESTIONS = "mmlu_pro_qwen25_3b_entropy.parquet"
RATIONALES = "mmlu_pro_teacher_llama31_70b.parquet"
LOOPBACK = "127.0.0.1"


def squeezed(text: str) -> str:
    """The text with every run of white space as one blank."""
    return " ".join(text.split())


def as_asked(question: str, options: Sequence[str]) -> str:
    """A question and its lettered options as they stand in a prompt, squeezed."""
    lettered = [f"{letter}. {option}" for letter, option in zip(ascii_uppercase, options, strict=False)]
    return squeezed(" ".join([question, *lettered]))


def load_recording(data: Path) -> dict[str, str]:
    """What the teacher wrote, by the question and options it was asked; of repeated questions the first counts."""
    written = {row["question_id"]: row["rationale"] for row in read_table(str(data / RATIONALES))}
    recording: dict[str, str] = {}
    for row in read_table(str(data / QUESTIONS)):
        recording.setdefault(as_asked(row["question"], row["options"]), written[row["question_id"]])
    return recording


def find_rationale(recording: Mapping[str, str], prompt: str) -> str | None:
    """The rationale for the question in a prompt, or None where it holds none that was recorded.

    The longest match counts: a recorded question may be another one's beginning.
    """
    text = squeezed(prompt)
    return recording.get(max((asked for asked in recording if asked in text), key=len, default=""))


def completion(recording: Mapping[str, str], request: Mapping[str, Any]) -> dict[str, Any] | None:
    """The body of a chat completion, or None where the question was not recorded."""
    prompt = "\n".join(message["content"] for message in request["messages"])
    rationale = find_rationale(recording, prompt)
    if rationale is None:
        return None
    words = rationale.split(" ")
    kept = words[: request.get("max_tokens") or len(words)]
    n_read, n_written = len(prompt.split()), len(kept)
    reply = {
        "index": 0,
        "message": {"role": "assistant", "content": " ".join(kept)},
        "finish_reason": "stop" if n_written == len(words) else "length",
    }
    usage = {"prompt_tokens": n_read, "completion_tokens": n_written, "total_tokens": n_read + n_written}
    return {
        "id": "replay",
        "object": "chat.completion",
        "created": 0,
        "model": request["model"],
        "choices": [reply],
        "usage": usage,
    }


class ReplayServer(ThreadingHTTPServer):
    """The recording behind a port of the loopback interface.

    Args:
        recording: See `load_recording`.
        port: 0 takes a free one.

    Attributes:
        n_replayed: Rationales handed out so far.
    """

    daemon_threads = True

    def __init__(self, recording: Mapping[str, str], port: int = 0) -> None:
        super().__init__((LOOPBACK, port), _Handler)
        self.recording = recording
        self.n_replayed = 0
        self._counting = threading.Lock()

    @property
    def base_url(self) -> str:
        """What an OpenAI client wants as its base URL."""
        return f"http://{LOOPBACK}:{self.server_address[1]}/v1"

    def count(self) -> None:
        """Count one rationale; safe from many threads."""
        with self._counting:
            self.n_replayed += 1


class _Handler(BaseHTTPRequestHandler):
    server: ReplayServer
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path != "/v1/chat/completions":
            self._refuse(404, f"unknown path {self.path}")
            return
        try:
            found = completion(self.server.recording, json.loads(body))
        except (ValueError, KeyError, TypeError) as error:
            self._refuse(400, f"not a chat completion request: {error!r}")
            return
        if found is None:
            self._refuse(404, "no rationale was recorded for the question in this prompt")
            return
        self.server.count()
        self._send(200, found)

    def _refuse(self, status: int, message: str) -> None:
        self._send(status, {"error": {"message": message, "type": "invalid_request_error", "code": None}})

    def _send(self, status: int, content: Mapping[str, Any]) -> None:
        raw = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing; the client reports what goes wrong."""


@contextmanager
def served(recording: Mapping[str, str]) -> Iterator[ReplayServer]:
    """The server, answering from a background thread until the block ends."""
    with ReplayServer(recording) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with the two tables")
    parser.add_argument("--port", type=int, default=8766)
    chosen = parser.parse_args()
    with ReplayServer(load_recording(chosen.data), chosen.port) as foreground:
        print(f"recorded teacher at {foreground.base_url} (Ctrl-C stops it)", flush=True)
        try:
            foreground.serve_forever()
        except KeyboardInterrupt:
            print("stopped")
