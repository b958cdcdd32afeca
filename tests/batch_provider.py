"""A provider with a batch mode on this machine: files, batches, a book of what it billed; its outcomes can be set."""

import json
import re
import threading
import time
from collections import Counter
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

ANSWER = "so it is [[B]]"
TOKENS = (20, 9)


def completion(text=ANSWER, finish="stop", usage=TOKENS):
    body = {
        "id": "1",
        "object": "chat.completion",
        "created": 0,
        "model": "big",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}],
    }
    if usage:
        body["usage"] = {"prompt_tokens": usage[0], "completion_tokens": usage[1], "total_tokens": sum(usage)}
    return body


def answered(key, body=None, status=200):
    return {
        "id": f"r-{key}",
        "custom_id": key,
        "response": {"status_code": status, "request_id": "1", "body": body or completion()},
        "error": None,
    }


def not_answered(key, code="batch_expired", message="not executed in time"):
    return {"id": f"r-{key}", "custom_id": key, "response": None, "error": {"code": code, "message": message}}


class Provider:
    """What the provider does, and what it has seen.

    Attributes:
        polls: How often a batch is looked at before it has ended.
        status: The word it ends with, or from the number of batches so far to that word.
        why: What a batch that fails its check says.
        line_of: From a request's key and its number in the file to its line; None writes none.
        raw: From the text of a file of replies to another text; None leaves it as it is.
        late: How many looks at the end show no file of replies yet.
        before: From the name of a call to what is done before it: a status to send, or a function to call.
        after: The same once the work is done: a function to call, or "cut", which sends nothing.
        billed: How often each request was answered.
        calls: The names of all calls, in order.
    """

    def __init__(self):
        self._lock = threading.Lock()
        self.forget()

    def forget(self):
        """As if nobody had ever called."""
        self.polls, self.status, self.why = 1, "completed", "no such model"
        self.line_of = lambda key, number: answered(key)
        self.raw, self.late = None, 0
        self.before, self.after = {}, {}
        self.billed, self.calls = Counter(), []
        self.files, self.batches = {}, {}
        self.has_metadata, self.has_counts, self.lists = True, True, True
        self.authorizations = set()

    def upload(self, content):
        name = f"file-{1 + sum(name.startswith('file') for name in self.files)}"
        self.files[name] = re.search(rb"\r\n\r\n(\{.*?)\r\n--", content, re.DOTALL)[1]
        return {
            "id": name,
            "object": "file",
            "bytes": len(content),
            "created_at": 0,
            "filename": "x",
            "purpose": "batch",
        }

    def create(self, asked):
        name = f"batch-{len(self.batches) + 1}"
        keys = [json.loads(line)["custom_id"] for line in self.files[asked["input_file_id"]].splitlines()]
        self.batches[name] = {
            "id": name,
            "object": "batch",
            "status": "validating",
            "created_at": int(time.time()),
            "endpoint": asked["endpoint"],
            "completion_window": asked["completion_window"],
            "input_file_id": asked["input_file_id"],
            "metadata": asked.get("metadata") if self.has_metadata else None,
            "request_counts": {"total": len(keys), "completed": 0, "failed": 0},
            "looks": 0,
        }
        return self.batches[name]

    def retrieve(self, name):
        batch = self.batches[name]
        batch["looks"] += 1
        if batch["status"] in ("validating", "in_progress"):
            batch["status"] = "in_progress"
            if batch["looks"] > self.polls:
                self._end(batch)
        elif self.late:
            self.late -= 1
        unseen = ["output_file_id"] * bool(self.late) + ["request_counts"] * (not self.has_counts)
        return {k: v for k, v in batch.items() if k not in unseen}

    def finish(self):
        """Batches that nobody looks at end too, and are billed."""
        for batch in self.batches.values():
            if batch["status"] in ("validating", "in_progress"):
                self._end(batch)

    def _end(self, batch):
        """The batch ends; every completion that it writes is billed."""
        keys = [json.loads(line)["custom_id"] for line in self.files[batch["input_file_id"]].splitlines()]
        batch["status"] = self.status(len(self.batches)) if callable(self.status) else self.status
        if batch["status"] == "failed":
            batch["errors"] = {"object": "list", "data": [{"code": "bad", "line": 2, "message": self.why}]}
            return
        lines = [line for number, key in enumerate(keys) if (line := self.line_of(key, number))]
        good = [line for line in lines if (line["response"] or {}).get("status_code") == 200]
        bad = [line for line in lines if line not in good]
        self.billed.update(line["custom_id"] for line in good)
        batch["request_counts"] |= {"completed": len(good), "failed": len(bad)}
        for kind, part in (("output", good), ("error", bad)):
            if part:
                text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in part)
                self.files[f"{kind}-{batch['id']}"] = (self.raw(text) if self.raw else text).encode()
                batch[f"{kind}_file_id"] = f"{kind}-{batch['id']}"

    def listed(self, after):
        newest = list(reversed(self.batches.values()))
        start = 1 + [one["id"] for one in newest].index(after) if after else 0
        page = newest[start : start + 2]
        return {"object": "list", "data": page, "has_more": start + 2 < len(newest)}


@contextmanager
def served():
    """A provider, and the address to reach it at: `provider.base_url`."""
    provider = Provider()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            content = self.rfile.read(int(self.headers["Content-Length"]))
            path = urlsplit(self.path).path
            if path == "/v1/files":
                self._do("upload", lambda: provider.upload(content))
            else:
                self._do("create", lambda: provider.create(json.loads(content)))

        def do_GET(self):
            parts = urlsplit(self.path)
            name = parts.path.split("/")
            if parts.path == "/v1/batches":
                self._do("list", lambda: provider.listed(parse_qs(parts.query).get("after", [None])[0]))
            elif name[2] == "batches":
                self._do("retrieve", lambda: provider.retrieve(name[3]))
            else:
                self._do("content", lambda: provider.files[name[3]])

        def _do(self, call, work):
            provider.calls.append(call)
            provider.authorizations.add(self.headers.get("Authorization"))
            before, after = provider.before.get(call), provider.after.get(call)
            before = before() if callable(before) else before
            if before:
                return self._send(json.dumps({"error": {"message": f"no {call}", "code": None}}).encode(), before)
            with provider._lock:
                content = work()
                content = content if isinstance(content, bytes) else json.dumps(content).encode()
            after = after() if callable(after) else after
            if after == "cut":
                self.close_connection = True
                self.connection.close()
                return None
            return self._send(content, 200)

        def _send(self, content, status):
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

        def handle(self):
            with suppress(OSError, ValueError):  # the client was killed, or the answer cut on purpose
                super().handle()

        def finish(self):
            with suppress(OSError, ValueError):
                super().finish()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    provider.base_url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield provider
    finally:
        server.shutdown()
        server.server_close()
