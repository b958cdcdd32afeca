"""A teacher that fails in every way a server can, and keeps an honest account of what it billed.

    python bench/faulty_server.py LOG [--share 0.35] [--replies FILE]     prints its port, serves until it is terminated

It speaks the OpenAI chat completion protocol over real sockets, in a process of its own. The reply to a request is a
function of the request alone; whether it comes in one piece is a function of the request and of how often it was asked
in this round. The address names both the round and the client process: `http://127.0.0.1:PORT/ROUND/RUN/v1`.

LOG gets one JSON line for every arrival and one for every outcome, written before anything is sent back. An outcome
says whether a completion was made, which is when a teacher bills, and how many tokens it has; a token is a word here,
so that what a wrong usage figure hides can be counted by the client too.
"""

import argparse
import asyncio
import hashlib
import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

LATE_SECONDS = 2.5
"""When a late reply comes; the clients here give up after two seconds."""
SLOW_SECONDS = 0.4
"""A reply that took the server longer than this, on a busy machine, may have met a client that gave up."""
WAIT_SECONDS = 0.2
"""What `Retry-After` asks for where it does."""
STORM = 40
"""So many arrivals are turned away in a row once a storm begins."""
CALM = "calm"
"""Rounds whose name begins so meet no fault."""
FAULTY_ASKS = 3
"""A request meets faults only as often as this; asked again it is answered."""


@dataclass(frozen=True)
class Fault:
    """One way to fail.

    Attributes:
        is_billed: A completion was made.
        is_whole: The client gets all of it, in time, and can read it.
        weight: How often, beside the others.
    """

    is_billed: bool
    is_whole: bool
    weight: float = 1.0


FAULTS = {
    "too_fast": Fault(False, False),
    "too_fast_seconds": Fault(False, False),
    "too_fast_date": Fault(False, False, 0.1),  # a date has whole seconds, and everybody waits
    "storm": Fault(False, False, 0.2),
    "error_500": Fault(False, False),
    "busy_503": Fault(False, False),
    "overloaded_529": Fault(False, False),
    "gateway_502": Fault(False, False),
    "gateway_504": Fault(True, False),
    "rejected_400": Fault(False, False, 0.3),
    "late": Fault(True, False, 0.2),
    "trickle": Fault(True, False, 0.2),
    "drop_unread": Fault(False, False),
    "drop_before_headers": Fault(True, False),
    "drop_before_body": Fault(True, False),
    "drop_in_body": Fault(True, False),
    "drop_in_body_of_no_length": Fault(True, False),
    "drop_after_body": Fault(True, True),
    "garbage_page": Fault(True, False),
    "garbage_json": Fault(True, False),
    "no_choices": Fault(True, False),
    "two_choices": Fault(True, True),
    "sent_twice": Fault(True, True),
    "usage_zero": Fault(True, True),
    "usage_half": Fault(True, True),
    "usage_double": Fault(True, True),
    "usage_absent": Fault(True, True),
    "usage_text": Fault(True, True),
    "usage_negative": Fault(True, True),
    "usage_huge": Fault(True, True),
}
GOOD = Fault(True, True)
STATUS = {"error_500": 500, "busy_503": 503, "overloaded_529": 529, "gateway_502": 502, "gateway_504": 504}


def seed_of(*parts: object) -> int:
    """A number that follows from the parts alone."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big")


def key_of(messages: Any) -> str:
    """What the server knows a request by."""
    return hashlib.sha256(json.dumps(list(messages), sort_keys=True).encode()).hexdigest()[:16]


def made_reply(messages: Any, max_tokens: int) -> tuple[str, str]:
    """The text and finish reason for a request: a function of it alone, now and then cut short or withheld."""
    draw = random.Random(key_of(messages))
    words = [f"w{draw.randrange(10_000)}" for _ in range(draw.randint(5, 60))] + [f"[[{draw.choice('ABCD')}]]"]
    if draw.random() < 0.03:
        return "", "content_filter"
    return " ".join(words[:max_tokens]), "stop" if len(words) <= max_tokens else "length"


@dataclass
class Teacher:
    """What the server knows and does, but for the sockets.

    Attributes:
        log: File descriptor of the log.
        share: Of the requests asked for the first time, those that meet a fault.
        recorded: Texts by key, to be served instead of made ones; a token is then four thirds of a word.
        delay_seconds: A completion takes up to this long, at least a tenth of it.
    """

    log: int
    share: float
    recorded: Mapping[str, str] = field(default_factory=dict)
    delay_seconds: float = 0.06
    asked: Counter[tuple[str, str]] = field(default_factory=Counter)
    storms: Counter[str] = field(default_factory=Counter)
    n_arrived: int = 0

    def note(self, event: str, **facts: Any) -> None:
        """One line in the log."""
        os.write(self.log, (json.dumps({"event": event, "t": time.time(), **facts}) + "\n").encode())

    def fault_for(self, where: str, key: str) -> str:
        """The fault that this arrival meets, or `none`."""
        if where.startswith(CALM):
            return "none"
        if self.storms[where] > 0:
            self.storms[where] -= 1
            return "storm"
        n = self.asked[where, key]
        self.asked[where, key] += 1
        draw = random.Random(seed_of(where, key, n))
        if n >= FAULTY_ASKS or draw.random() >= self.share:
            return "none"
        name = draw.choices(list(FAULTS), [fault.weight for fault in FAULTS.values()])[0]
        if name == "storm":
            self.storms[where] = STORM - 1
        return name

    def text_for(self, body: Mapping[str, Any]) -> tuple[str, str]:
        """The text and finish reason for a request."""
        recorded = self.recorded.get(key_of(body["messages"]))
        return (recorded, "stop") if recorded is not None else made_reply(body["messages"], body["max_tokens"])

    def tokens(self, text: str) -> int:
        """The tokens of a text, as they are billed."""
        n = len(text.split())
        return -(-n * 4 // 3) if self.recorded else n

    async def answer(self, where: str, run: str, body: Mapping[str, Any]) -> tuple[str, bytes]:
        """The fault and the whole HTTP response to one request, noted and billed."""
        key, arrived = key_of(body["messages"]), time.monotonic()
        self.n_arrived += 1
        facts = {"n": self.n_arrived, "round": where, "run": run, "key": key}
        self.note("arrival", **facts)
        name = self.fault_for(where, key)
        fault = FAULTS.get(name, GOOD)
        if fault.is_billed and self.delay_seconds:
            await asyncio.sleep(self.delay_seconds * random.Random(key).uniform(0.1, 1.0))
        text, finish = self.text_for(body)
        read, written = sum(self.tokens(m["content"]) for m in body["messages"]), self.tokens(text)
        is_whole = fault.is_whole and time.monotonic() - arrived < SLOW_SECONDS
        counts = {"prompt_tokens": read, "completion_tokens": written} if fault.is_billed else {}
        self.note("outcome", **facts, fault=name, billed=fault.is_billed, whole=is_whole, **counts)
        return name, response(name, completion(name, text, finish, read, written))


def completion(name: str, text: str, finish: str, read: int, written: int) -> dict[str, Any]:
    """The body of a chat completion, with whatever is wrong in it."""
    choices = [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}]
    if name == "two_choices":
        choices.append({**choices[0], "index": 1, "message": {"role": "assistant", "content": "another one"}})
    wrong: dict[str, tuple[Any, Any]] = {
        "usage_zero": (0, 0),
        "usage_half": (read // 2, written // 2),
        "usage_double": (2 * read, 2 * written),
        "usage_text": (f"{read}", "many"),
        "usage_negative": (-read, -written),
        "usage_huge": (10**12, 10**12),
    }
    told = wrong.get(name, (read, written))
    whole = {
        "id": "faulty",
        "object": "chat.completion",
        "created": 0,
        "model": "faulty",
        "choices": [] if name == "no_choices" else choices,
        "usage": {"prompt_tokens": told[0], "completion_tokens": told[1]},
    }
    if name == "usage_absent":
        del whole["usage"]
    return whole


def response(name: str, body: dict[str, Any]) -> bytes:
    """The HTTP response of a fault, before anything is cut from it."""
    raw = json.dumps(body).encode()
    if name.startswith("too_fast") or name == "storm":
        return framed(429, b'{"error": {"message": "too fast"}}', waits(name))
    if name in STATUS:
        extra = f"Retry-After: {WAIT_SECONDS}\r\n" if name == "busy_503" else ""
        return framed(STATUS[name], b"<html>something is wrong</html>", extra)
    if name == "rejected_400":
        return framed(400, b'{"error": {"message": "not like this", "code": "invalid"}}')
    if name == "garbage_page":
        return framed(200, b"<html><body>Sign in to the network</body></html>", "X-Portal: 1\r\n", "text/html")
    if name == "garbage_json":
        return framed(200, raw[: len(raw) // 2])
    if name == "drop_in_body_of_no_length":
        return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n" + raw[: len(raw) // 2]
    return framed(200, raw)


def waits(name: str) -> str:
    """The header that says how long to wait."""
    if name == "too_fast":
        return ""
    if name == "too_fast_date":
        return f"Retry-After: {format_datetime(datetime.now(UTC) + timedelta(seconds=1), usegmt=True)}\r\n"
    return f"Retry-After: {WAIT_SECONDS}\r\n"


def framed(status: int, body: bytes, extra: str = "", kind: str = "application/json") -> bytes:
    """A response with its length."""
    head = f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n{extra}\r\n"
    return head.encode() + body


async def send(name: str, raw: bytes, writer: asyncio.StreamWriter) -> bool:
    """Send a response as its fault wants it; whether the connection may be used again."""
    head, _, body = raw.partition(b"\r\n\r\n")
    if name in ("drop_unread", "drop_before_headers"):
        return False
    if name == "late":
        await asyncio.sleep(LATE_SECONDS)
    if name == "trickle":
        for n in range(10):
            writer.write(raw[len(raw) * n // 10 : len(raw) * (n + 1) // 10])
            await writer.drain()
            await asyncio.sleep(LATE_SECONDS / 10)
        return False
    cut = {"drop_before_body": head + b"\r\n\r\n", "drop_in_body": head + b"\r\n\r\n" + body[: len(body) // 2]}
    writer.write(raw * 2 if name == "sent_twice" else cut.get(name, raw))
    await writer.drain()
    return not name.startswith("drop")


async def serve_one(teacher: Teacher, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer the requests of one connection until either side ends it."""
    try:
        while head := await reader.readuntil(b"\r\n\r\n"):
            target = head.split(b" ", 2)[1].decode()
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            body = json.loads(await reader.readexactly(int(length.partition(b":")[2])))
            _, where, run, *_ = target.split("/")
            name, raw = await teacher.answer(where, run, body)
            if not await send(name, raw, writer):
                break
    except (asyncio.IncompleteReadError, ConnectionError):
        pass  # the client has gone
    finally:
        writer.close()


async def serve(teacher: Teacher) -> None:
    """Serve on a free port, which is printed, until SIGTERM."""
    over = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
    server = await asyncio.start_server(lambda r, w: serve_one(teacher, r, w), "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await over.wait()


def main() -> None:
    """Serve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("log", type=Path)
    parser.add_argument("--share", type=float, default=0.35, help="of the requests, those that meet a fault")
    parser.add_argument("--delay-seconds", type=float, default=0.06)
    parser.add_argument("--replies", type=Path, help="JSON: texts by key, served instead of made ones")
    chosen = parser.parse_args()
    recorded = json.loads(chosen.replies.read_text(encoding="utf-8")) if chosen.replies else {}
    log = os.open(chosen.log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    asyncio.run(serve(Teacher(log, chosen.share, recorded, chosen.delay_seconds)))


if __name__ == "__main__":
    main()
