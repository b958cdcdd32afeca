"""A provider's batch mode: requests are handed over in a file, the replies are fetched hours later, for less money.

    reserved     money is set aside, and the requests stand in `ledger.batches/NAME.jsonl`
    uploaded     the provider has the file; nothing runs yet
    created      the provider works, and bills; the requests are `sent`
    ended        all that has a reply is settled and billed; what has none costs nothing, and is wanted as before

What is known of a batch stands in `NAME.json` beside its requests, written whole before and after every call: one look
shows where a batch is, and who shares the ledger finds it. In the ledger the requests belong to the batch, not to a
process: they stay reserved when the process dies, and are not asked again. Every start does the same thing: it takes
each batch that holds what it wants on from where it is, and collects what has ended of the others, which an earlier
recipe left. A batch of which the answer to `create` was lost is found again at the provider by its name or its file.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from uuid import uuid4

from filelock import FileLock, Timeout
from openai.types import Batch
from rich.markup import escape

from teachwise.console import Bar, progress, say
from teachwise.errors import DataError, TeacherError
from teachwise.request import Reply, Request, no_reply
from teachwise.run_folder import write_text
from teachwise.teacher.batch_calls import ENDED, Provider, Refused, n_completed, pause
from teachwise.teacher.batch_lines import in_files, read_line, reply_of, tell_faults
from teachwise.teacher.batch_note import LOST, Note, read_note
from teachwise.teacher.buying import ATTEMPTS, TRIES, Terms, spent_gate
from teachwise.teacher.ledger import Ledger, Reserved
from teachwise.teacher.openai import OpenAiTeacher

POLL_SECONDS = 60.0
"""How often the provider is asked how far it is."""
GROUP = 500
"""Replies that are committed in one write."""
MOST_TOLD = 3
"""Errors of a batch that are named."""


def buy_in_batches(
    requests: Sequence[Request], teacher: OpenAiTeacher, ledger: Ledger, terms: Terms, folder: Path
) -> dict[str, Reply]:
    """Replies to all requests by request key, through the provider's batch mode; those the ledger holds cost nothing.

    Args:
        requests: N requests; equal ones are asked once.
        teacher: The endpoint.
        ledger: Where everything is noted before it is done.
        terms: Limits and prices.
        folder: Where the batches of this ledger lie.

    Returns:
        A reply for every distinct request; with `is_partial` those that the limits could not bear are missing.

    Raises:
        GateError: the limits cannot bear the next request. Everything bought is in the ledger.
        TeacherError: the provider refuses, a batch failed or was cancelled there, or it cannot be reached.
        KeyboardInterrupt: Ctrl-C; what the provider has goes on there.
    """
    ledger.plan(requests)
    with _buyer(requests, teacher, ledger, terms, folder) as buyer:
        buyer.work()
        buyer.collect_others()  # again: what was not at its end when we began may be by now
    return buyer.replies


def await_batches(
    requests: Sequence[Request], teacher: OpenAiTeacher, ledger: Ledger, terms: Terms, folder: Path
) -> None:
    """Fetch those of the requests that an earlier start left in batches, so that they are not bought a second time."""
    if not ledger.in_batches():
        return
    if held := held_in_batches(requests, ledger):
        say(f"{len(held):,} requests wait in batches of an earlier start: these come first")
    with _buyer(held, teacher, ledger, terms, folder) as buyer:
        buyer.fetch(starts=False)


def held_in_batches(requests: Sequence[Request], ledger: Ledger) -> list[Request]:
    """Those of the requests that wait in a batch."""
    wanted = {request.key for request in requests}
    return [one for rows in ledger.in_batches().values() for one in rows if one.key in wanted]


@contextmanager
def _buyer(
    requests: Sequence[Request], teacher: OpenAiTeacher, ledger: Ledger, terms: Terms, folder: Path
) -> Iterator["_BatchBuyer"]:
    distinct = {request.key: request for request in requests}
    with progress("batches", total=len(distinct)) as bar:
        buyer = _BatchBuyer(distinct, Provider(teacher), ledger, terms, folder, bar)
        try:
            buyer.collect_others()
            yield buyer
        except KeyboardInterrupt:
            for batch in buyer.running:
                say(escape(f"batch {batch.name} runs on at the provider; the same command fetches what it brings"))
            raise


class _BatchBuyer:
    """The state of one purchase."""

    def __init__(
        self,
        wanted: dict[str, Request],
        provider: Provider,
        ledger: Ledger,
        terms: Terms,
        folder: Path,
        bar: Bar,
    ) -> None:
        self.running: list[Note] = []
        self.replies = ledger.replies(wanted.values())
        self._wanted, self._provider, self._ledger, self._terms = wanted, provider, ledger, terms
        self._folder, self._bar = folder, bar
        self._failures: dict[str, Reply] = {}
        self._asked: Counter[str] = Counter()
        self._completed: dict[str, int] = {}

    def work(self) -> None:
        """Until every request has its outcome, or the limits bear no more."""
        while True:
            if self.fetch():
                continue
            result = self._reserve()
            if result.taken:
                self._write(result.taken)
            elif result.elsewhere or (result.left and self._ledger.n_elsewhere()):
                self._show("waiting for another process")
                time.sleep(POLL_SECONDS)
                self._ledger.reconcile()
            elif result.left and not self._terms.is_partial:
                raise spent_gate(result.left[0], self._ledger, self._terms, len(self.replies), len(self._wanted))
            else:
                return

    def _reserve(self) -> Reserved:
        """Set money aside for what is still open; what came back in vain too often is given up."""
        for key in self._wanted.keys() - self.replies.keys():
            if self._asked[key] >= TRIES or (key in self._failures and self._failures[key].state == "failed"):
                self.replies[key] = replace(self._failures.get(key, _IN_VAIN), fault="rejected")
        asked = [request for key, request in self._wanted.items() if key not in self.replies]
        asks_unknown = self._terms.on_unknown == "ask_again"
        result = self._ledger.reserve(asked, self._terms.limits, self._terms.price, True, asks_unknown)
        self.replies |= result.there
        return result

    def fetch(self, starts: bool = True) -> bool:
        """Take every batch that holds what is wanted on to its end.

        Args:
            starts: Start what the provider has not been asked to start; else it is taken back.

        Returns:
            Whether there was any batch to take.
        """
        with ExitStack() as locks:
            names = [name for name, rows in self._ledger.in_batches().items() if self._wants(rows)]
            notes = [note for name in names if (note := self._taken(name, locks))]
            self.running = [note for note in notes if self._is_started(note, starts)]
            while self.running:
                for note in list(self.running):
                    if batch := self._ended(note):
                        self._collect(note, batch)
                        self.running.remove(note)
                if self.running:
                    self._show(", ".join(f"{note.name} {note.status}" for note in self.running))
                    time.sleep(POLL_SECONDS)
        return bool(notes)

    def collect_others(self) -> None:
        """Collect what has ended of the batches that hold nothing wanted; nobody waits for the rest of them.

        Whatever is wrong with one of them is told, and stops nothing.
        """
        for name in [name for name, rows in self._ledger.in_batches().items() if not self._wants(rows)]:
            try:
                with ExitStack() as locks:
                    note = self._taken(name, locks)
                    if note and self._is_started(note, starts=False):
                        if batch := self._ended(note):
                            self._collect(note, batch)
                        else:
                            say(escape(f"batch {name}, of another recipe, is {note.status}, and is not waited for"))
            except (TeacherError, DataError) as error:
                say(escape(f"batch {name}, of another recipe, is left: {error}"))
            self._completed.pop(name, None)

    def _wants(self, rows: Sequence[Request]) -> bool:
        return any(one.key in self._wanted for one in rows)

    # ------------------------------------------------------------------------------------------ what lies on the disk

    def _write(self, requests: Sequence[Request]) -> None:
        """Requests that are reserved become batches: first the files, then the ledger's word for it."""
        self._asked.update(request.key for request in requests)
        self._folder.mkdir(parents=True, exist_ok=True)
        for taken, text in in_files(requests, self._provider.limit_field):
            name = f"{1 + len(list(self._folder.glob('*.jsonl'))):03}-{uuid4().hex[:12]}"
            write_text(self._folder / f"{name}.jsonl", text)
            Note(name, self._provider.base_url, len(taken)).save(self._folder)
            self._ledger.hand_over(taken, name)

    def _taken(self, name: str, locks: ExitStack) -> Note | None:
        """What is known of a batch, ours from now on; None where it is empty, or another process has it."""
        self._folder.mkdir(parents=True, exist_ok=True)
        try:
            locks.enter_context(FileLock(self._lock(name), timeout=0))
        except Timeout:
            return None
        path = self._folder / f"{name}.json"
        rows = self._ledger.in_batches(name).get(name, [])  # again: another process may have emptied it
        if not path.exists():
            say(escape(f"{path} is gone: nobody knows whether its {len(rows):,} requests were answered"))
            self._ledger.settle((one, no_reply(f"{path.name} is gone", "unanswered")) for one in rows)
            return None
        note = read_note(path)
        if note.base_url != self._provider.base_url:
            raise TeacherError(
                f"teach: requests wait in batch {name}, at {note.base_url}, and the recipe names another server",
                f"run once with teacher.base_url={note.base_url}, which fetches them; or {LOST.format(name)}",
            )
        return note if rows else None

    def _lock(self, name: str) -> Path:
        return self._folder / f".{name}.lock"

    def _close(self, note: Note, status: str) -> None:
        note.status = status
        note.save(self._folder)
        self._completed.pop(note.name, None)
        self._lock(note.name).unlink(missing_ok=True)

    # ------------------------------------------------------------------------------------------ start

    def _is_started(self, note: Note, starts: bool) -> bool:
        """Upload and create, as far as that is not done; False where the batch was taken back."""
        if not note.id:
            try:
                if not note.file_id and starts:
                    note.file_id = self._provider.upload(self._folder / f"{note.name}.jsonl")
                    note.save(self._folder)
                batch = self._provider.patient("a batch is not started", lambda: self._created(note, starts))
            except Refused:
                self._withdraw(note, "refused")
                raise
            if batch is None:
                self._withdraw(note, "withdrawn")
                return False
            note.id, note.status = batch.id, batch.status
            note.save(self._folder)
        self._ledger.mark_sent(note.name)
        return True

    def _withdraw(self, note: Note, status: str) -> None:
        self._ledger.release(self._ledger.in_batches(note.name).get(note.name, []))
        self._close(note, status)

    def _created(self, note: Note, starts: bool) -> Batch | None:
        """The batch at the provider, which an earlier call may have made; None where none is, and none is to be."""
        if note.asked_at and (batch := self._provider.find(note.name, note.file_id, note.asked_at)):
            return batch
        if not starts:
            return None
        note.asked_at = time.time()
        note.save(self._folder)
        return self._provider.create(note.name, note.file_id)

    # ------------------------------------------------------------------------------------------ wait and collect

    def _ended(self, note: Note) -> Batch | None:
        """The batch, once it has ended and its replies are there."""
        batch = self._provider.look(note.name, note.id)
        if batch is None:
            return None
        self._completed[note.name] = n_completed(batch)
        if note.status != batch.status:
            note.status = batch.status
            note.save(self._folder)
        return batch if batch.status in ENDED else None

    def _collect(self, note: Note, batch: Batch) -> None:
        """Settle what came back, and take back what did not; done twice it does no harm."""
        held = {request.key: request for request in self._ledger.in_batches(note.name).get(note.name, [])}
        read, n_billed = self._read(note, batch, held), self._completed.get(note.name, 0)
        without, is_billed = list(held.values()), bool(read.n_unread(n_billed))
        if is_billed:  # and not seen: which of them, nobody knows
            self._commit(
                [(one, no_reply("its batch has replies that cannot be read", "unanswered")) for one in without]
            )
        self._ledger.release([*read.not_executed, *([] if is_billed else without)])
        self._close(note, "collected")
        self.replies |= self._ledger.replies(self._wanted.values())
        if n_left := len(without) + len(read.not_executed):
            cost = "count as spent" if is_billed else "cost nothing"
            found = f"batch {note.name} {batch.status}: {n_left:,} of {note.requests:,} without a reply, they {cost}"
            say(escape(found))
        if read.strange and not read.answered:
            raise TeacherError(
                f"teach: no reply of batch {note.name} bears the custom_id that its request had ({note.id})",
                "take teacher.delivery=live here; what the batch billed counts as spent",
            )
        if batch.status in ("failed", "cancelled"):
            raise _failure(note, batch, self._provider.hidden)

    def _read(self, note: Note, batch: Batch, held: dict[str, Request]) -> "_Read":
        """Settle every line; a download that was cut, be it without a word, is fetched again."""
        read, n_billed = _Read(), self._completed.get(note.name, 0)
        for attempt in range(ATTEMPTS):
            if attempt:
                say(escape(f"batch {note.name}: replies are missing or cannot be read; fetching them again"))
                pause(attempt)
            read.bad, read.strange = [], []
            for file_id in (batch.output_file_id, batch.error_file_id):
                if file_id:
                    self._settle(held, read, self._provider.content(file_id))
            if not held or not read.is_cut(n_billed):
                break
        tell_faults(f"batch {note.name}, replies not used: ", [*read.bad, *read.strange])
        return read

    def _settle(self, held: dict[str, Request], read: "_Read", content: bytes) -> None:
        """Commit a file of replies; what has a line leaves `held`."""
        group: list[tuple[Request, Reply]] = []
        for number, text in enumerate(BytesIO(content), start=1):
            try:
                line = read_line(text)
            except ValueError as error:
                read.bad += [f"line {number} {error}"] if text.strip() else []
                continue
            if request := held.pop(line.key, None):
                reply = reply_of(line, request)
                group += [(request, self._provider.without_key(reply))] if reply else []
                read.not_executed += [] if reply else [request]
            elif not self._ledger.knows(line.key):
                read.strange += [f"line {number} is for a request that nobody asked"] if line.status == 200 else []
                continue
            read.answered |= {line.key} if line.status == 200 else set()
            if len(group) >= GROUP:
                self._commit(group)
                group = []
        self._commit(group)

    def _commit(self, group: Sequence[tuple[Request, Reply]]) -> None:
        self._ledger.settle(group)
        self._failures |= {request.key: reply for request, reply in group if reply.error is not None}

    def _show(self, note: str) -> None:
        done = sum(reply.error is None for reply in self.replies.values()) + sum(self._completed.values())
        self._bar.at(min(done, len(self._wanted)), note, self._terms.limits.text(self._ledger.spent(self._terms.price)))


_IN_VAIN = no_reply(f"came back from {TRIES} batches without a reply")


@dataclass
class _Read:
    """What was read of a batch's replies.

    Attributes:
        answered: Our requests with a completion, those of an earlier, interrupted reading included.
        bad: Lines that cannot be read.
        strange: Lines with a completion, and the key of no request of ours: billed, and perhaps for one of them.
        not_executed: Requests of which the provider says that they never reached the model.
    """

    answered: set[str] = field(default_factory=set)
    bad: list[str] = field(default_factory=list)
    strange: list[str] = field(default_factory=list)
    not_executed: list[Request] = field(default_factory=list)

    def n_unread(self, n_billed: int) -> int:
        """Replies that were billed and are not to be had."""
        return max(n_billed - len(self.answered), len(self.bad) + len(self.strange))

    def is_cut(self, n_billed: int) -> bool:
        """Whether another download may bring more."""
        return bool(self.bad) or n_billed > len(self.answered) + len(self.strange)


def _failure(note: Note, batch: Batch, hidden: Callable[[str], str]) -> TeacherError:
    errors = (batch.errors and batch.errors.data) or []
    why = "; ".join(f"line {one.line}: {one.message}" if one.line else str(one.message) for one in errors[:MOST_TOLD])
    found = f"teach: batch {note.name} ({batch.id}) {batch.status} at the provider{why and f': {hidden(why)}'}"
    hint = "mend what it says and run again" if batch.status == "failed" else "run again to ask for the rest"
    return TeacherError(found, f"{hint}; what has a reply is kept, the rest cost nothing")
