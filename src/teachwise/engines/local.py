"""The teacher that runs here: a `transformers` model that answers many requests at a time.

One thread writes. A request joins the texts that are being written as soon as there is a place, with its own limit and
temperature, and has its reply when its own text ends. Why not the continuous batching of `transformers`: on the CPU it
is slower, for short replies slower than batches that wait for their longest row (docs/adr/0007,
`bench/local_teacher.py`).
"""

import atexit
import queue
import threading
from collections import deque
from concurrent.futures import Future
from typing import Any

import torch
from rich.markup import escape

from teachwise.console import say
from teachwise.engines.hf import HfEngine
from teachwise.engines.rolling import RollingBatch, Row, StaticBatch, cannot_roll
from teachwise.errors import StudentError, TeacherError, TeachwiseError
from teachwise.request import Reply, Request

EVERY = 4
"""Tokens after which new requests may join: reading a prompt costs a pass, which those that come together share."""
GATHER_SECONDS = 0.02
"""How long the first request waits for company."""
CLOSE_SECONDS = 10.0
"""How long `close` waits for the pass under way."""

_Asked = tuple[Request, "Future[Reply]"]


class LocalTeacher:
    """A local model as the teacher.

    Greedy replies are those of `HfEngine.generate`, token for token but for ties that rounding breaks. A sampled reply
    depends on its request alone (whose key holds the sample's index), not on what is written beside it.

    Args:
        model: Hub name or folder.
        revision: Hub revision.
        dtype: `auto` is float32 on CPU and the checkpoint's own dtype elsewhere.
        device: `auto` takes a GPU where there is one.
        trust_remote_code: Run code that comes with the model.
        concurrency: Most texts written side by side.
        options: Further fields of the recipe's `teacher` section that a server would need; not used.

    Raises:
        TeacherError: the model cannot be loaded.
    """

    def __init__(
        self,
        model: str,
        *,
        revision: str | None = None,
        dtype: str = "auto",
        device: str = "auto",
        trust_remote_code: bool = False,
        concurrency: int = 8,
        **options: Any,
    ) -> None:
        self.engine = _loaded(model, revision=revision, dtype=dtype, device=device, trust_remote_code=trust_remote_code)
        self.concurrency = concurrency
        config = self.engine.model.config.get_text_config(decoder=True)
        self._context_tokens: int | None = getattr(config, "max_position_embeddings", None)
        self._batch = self._chosen_batch(model)
        self._waiting: queue.SimpleQueue[_Asked | None] = queue.SimpleQueue()
        self._apart: deque[_Asked] = deque()
        self._open: dict[Row, _Asked] = {}
        self._futures: set[Future[Reply]] = set()
        self._is_closed = False
        self._thread = threading.Thread(target=self._work, name="local-teacher", daemon=True)
        self._thread.start()
        atexit.register(self.close)  # a thread that still computes when the process ends takes it down with an abort

    def ask(self, request: Request) -> "Future[Reply]":
        """Start one attempt.

        Returns:
            A future that ends in a Reply; one with `error` where the model cannot do it. Cancelled by `close`, and a
            future that the caller cancels is not written on.

        Raises:
            RuntimeError: the teacher is closed.
        """
        if self._is_closed:
            raise RuntimeError("the local teacher is closed, wanted no further request")
        future: Future[Reply] = Future()
        self._futures.add(future)
        future.add_done_callback(self._futures.discard)
        self._waiting.put((request, future))
        return future

    def close(self) -> None:
        """Cancel what has no reply yet and end the thread, once the pass under way is over."""
        atexit.unregister(self.close)
        self._is_closed = True
        self._waiting.put(None)
        for future in list(self._futures):
            future.cancel()
        self._thread.join(CLOSE_SECONDS)

    def _chosen_batch(self, model: str) -> RollingBatch | StaticBatch:
        if reason := cannot_roll(self.engine.model):
            say(escape(f"teacher {model}: a batch is written to the end before the next one ({reason})"))
            return StaticBatch(self.engine)
        return RollingBatch(self.engine)

    def _work(self) -> None:
        """The thread: let requests in, write, hand replies out, until closed."""
        steps = 0
        while not self._is_closed:
            try:
                self._drop_cancelled()
                if not self._batch.rows or steps % EVERY == 0:
                    self._let_in()
                for row, written in self._batch.step():
                    reason = "length" if written.is_truncated else "stop"
                    _, future = self._open.pop(row)
                    _answer(future, Reply(written.text, reason, len(row.prompt), written.tokens))
                steps += 1
            except Exception as error:  # whatever it is, nobody may wait for it without end
                self._fail(error)

    def _drop_cancelled(self) -> None:
        gone = [row for row, (_, future) in self._open.items() if future.cancelled()]
        self._batch.drop(gone)
        for row in gone:
            del self._open[row]

    def _let_in(self) -> None:
        """Fill the free places; where nothing is written, wait for the first request and a moment for more."""
        is_idle = not self._batch.rows
        new: list[Row] = []
        while len(self._batch.rows) + len(new) < self.concurrency:
            if self._apart:
                asked = self._apart.popleft() if is_idle and not new else None
            else:
                asked = self._next(is_idle, GATHER_SECONDS if new else None)
            if asked is None:
                break
            if row := self._opened(*asked):
                new.append(row)
        if new:
            self._batch.join(new)

    def _next(self, may_wait: bool, seconds: float | None) -> "_Asked | None":
        """The next request, None where there is none or the teacher was closed."""
        try:
            return self._waiting.get(may_wait, seconds)
        except queue.Empty:
            return None

    def _opened(self, request: Request, future: "Future[Reply]") -> Row | None:
        """A request as a row; None where it was cancelled or cannot be written, and then it is answered."""
        if future.cancelled():
            return None
        try:
            row = self._row(request)
        except Exception as error:
            _answer(future, _no_reply(_told(error)))
            return None
        self._open[row] = request, future
        return row

    def _row(self, request: Request) -> Row:
        """A request as token ids, its limit cut to what the model's context leaves.

        Raises:
            TeacherError: there is nothing to read, or more than the model can.
        """
        (prompt,) = self.engine.chat.prompt_ids([request.messages])
        left = request.max_tokens
        if self._context_tokens is not None:
            left = min(left, self._context_tokens - len(prompt))
        if not prompt or left <= 0:
            found = f"the prompt has {len(prompt):,} tokens, the model's context {self._context_tokens or 0:,}"
            raise TeacherError(found, "shorten the prompt, or name a teacher with a longer context")
        return Row(prompt, left, request.temperature or 0.0, request.key)

    def _fail(self, error: Exception) -> None:
        """Write again one by one what was written side by side; a single one ends in the error."""
        self._batch.clear()
        if self.engine.device.startswith("cuda"):
            torch.cuda.empty_cache()
        failed, self._open = list(self._open.values()), {}
        if len(failed) > 1:
            say(escape(f"teacher: {_told(error)}; {len(failed)} requests are written again, one by one"))
            self._apart.extend(failed)
            return
        for _, future in failed:
            _answer(future, _no_reply(_told(error)))


def _answer(future: "Future[Reply]", reply: Reply) -> None:
    if future.set_running_or_notify_cancel():
        future.set_result(reply)


def _loaded(model: str, **options: Any) -> HfEngine:
    try:
        return HfEngine(model, **options)
    except StudentError as error:  # the engine speaks of the student, whose model it mostly is
        words = [text.replace("student", "teacher") for text in (error.found, error.hint)]
        raise TeacherError(*words) from error


def _told(error: Exception) -> str:
    said = error.found if isinstance(error, TeachwiseError) else f"{type(error).__name__}: {error}"
    more = "; a lower teacher.concurrency needs less memory" if "memory" in said else ""
    return " ".join(said.split())[:400] + more


def _no_reply(why: str) -> Reply:
    return Reply("", "error", 0, 0, error=why)
