"""A provider's batch mode: requests are handed over in a file, the replies are fetched hours later, for less money.

    reserved     money is set aside, and the requests stand in `ledger.batches/NAME.jsonl`
    uploaded     the provider has the file; nothing runs yet
    created      the provider works, and bills; the requests are `sent`
    ended        all that has a reply is settled and billed; what has none costs nothing, and is wanted as before

What is known of a batch stands in `NAME.json` beside its requests, written whole before and after every call: one look
shows where a batch is, and who shares the ledger finds it. In the ledger the requests belong to the batch, not to a
process: they stay reserved when the process dies, and are not asked again. Every start does the same thing: it looks
which batches hold what it wants, and takes each of them on from where it is. A batch of which the answer to `create`
was lost is found again at the provider by its name or its file.
"""

import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from io import BytesIO
from pathlib import Path
from uuid import uuid4

from filelock import FileLock, Timeout
from openai.types import Batch
from rich.markup import escape

from teachwise.batch_calls import ENDED, LOST, Provider, Refused, n_completed
from teachwise.batch_lines import in_files, read_line, reply_of, tell_faults
from teachwise.buying import TRIES, Terms, spent_gate
from teachwise.console import Bar, progress, say
from teachwise.engines.openai import OpenAiTeacher
from teachwise.errors import DataError, TeacherError
from teachwise.ledger import Ledger, Reserved
from teachwise.request import Reply, Request, no_reply
from teachwise.run_folder import write_json, write_text

POLL_SECONDS = 60.0
"""How often the provider is asked how far it is."""
GROUP = 500
"""Replies that are committed in one write."""
MOST_TOLD = 3
"""Errors of a batch that are named."""


@dataclass
class Note:
    """What is known of a batch.

    Attributes:
        name: Ours; also the name of its files.
        base_url: The endpoint it is for.
        requests: How many it holds.
        file_id: The provider's name of its file; "" until that is uploaded.
        asked_at: When the provider was last asked to start it, in seconds since 1970; 0 is never.
        id: The provider's name of the batch; "" until that is known.
        status: The provider's word for how far it is, `collected` once the replies are in the ledger.
    """

    name: str
    base_url: str
    requests: int
    file_id: str = ""
    asked_at: float = 0.0
    id: str = ""
    status: str = "written"


def batch_folder(ledger: Path) -> Path:
    """Where the batches of a ledger lie: beside it, so that all who share the ledger find them.

    Example:
        >>> batch_folder(Path("runs/first/ledger.sqlite")).name
        'ledger.batches'
    """
    return ledger.with_name(f"{ledger.stem}.batches")


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
    return buyer.replies


def await_batches(
    requests: Sequence[Request], teacher: OpenAiTeacher, ledger: Ledger, terms: Terms, folder: Path
) -> None:
    """Fetch those of the requests that an earlier start left in batches, so that they are not bought a second time."""
    held = held_in_batches(requests, ledger)
    if not held:
        return
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
            notes = [note for name in self._ledger.in_batches() if (note := self._taken(name, locks))]
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

    # ------------------------------------------------------------------------------------------ what lies on the disk

    def _write(self, requests: Sequence[Request]) -> None:
        """Requests that are reserved become batches: first the files, then the ledger's word for it."""
        self._asked.update(request.key for request in requests)
        self._folder.mkdir(parents=True, exist_ok=True)
        for taken, text in in_files(requests, self._provider.limit_field):
            name = f"{1 + len(list(self._folder.glob('*.jsonl'))):03}-{uuid4().hex[:12]}"
            write_text(self._folder / f"{name}.jsonl", text)
            self._save(Note(name, self._provider.base_url, len(taken)))
            self._ledger.hand_over(taken, name)

    def _save(self, note: Note) -> None:
        write_json(self._folder / f"{note.name}.json", asdict(note))

    def _taken(self, name: str, locks: ExitStack) -> Note | None:
        """What is known of a batch, ours from now on; None where it holds nothing wanted, or another process has it."""
        if not any(one.key in self._wanted for one in self._ledger.in_batches(name).get(name, [])):
            return None
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
        note = _read_note(path)
        if note.base_url != self._provider.base_url:
            raise TeacherError(
                f"teach: wanted requests wait in batch {name}, at {note.base_url}, and the recipe names another server",
                f"run once with teacher.base_url={note.base_url}, which fetches them; or {LOST.format(name)}",
            )
        return note if rows else None

    def _lock(self, name: str) -> Path:
        return self._folder / f".{name}.lock"

    def _close(self, note: Note, status: str) -> None:
        note.status = status
        self._save(note)
        self._completed.pop(note.name, None)
        self._lock(note.name).unlink(missing_ok=True)

    # ------------------------------------------------------------------------------------------ start

    def _is_started(self, note: Note, starts: bool) -> bool:
        """Upload and create, as far as that is not done; False where the batch was taken back."""
        if not note.asked_at and not starts:
            self._withdraw(note, "withdrawn")
            return False
        if not note.id:
            try:
                if not note.file_id:
                    note.file_id = self._provider.upload(self._folder / f"{note.name}.jsonl")
                    self._save(note)
                batch = self._provider.patient("a batch is not started", lambda: self._created(note))
            except Refused:
                self._withdraw(note, "refused")
                raise
            note.id, note.status = batch.id, batch.status
            self._save(note)
        self._ledger.mark_sent(note.name)
        return True

    def _withdraw(self, note: Note, status: str) -> None:
        self._ledger.release(self._ledger.in_batches(note.name).get(note.name, []))
        self._close(note, status)

    def _created(self, note: Note) -> Batch:
        """The batch at the provider; an earlier call may have made it, and its answer been lost."""
        if note.asked_at and (batch := self._provider.find(note.name, note.file_id, note.asked_at)):
            return batch
        note.asked_at = time.time()
        self._save(note)
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
            self._save(note)
        return batch if batch.status in ENDED else None

    def _collect(self, note: Note, batch: Batch) -> None:
        """Settle what came back, and take back what did not; done twice it does no harm."""
        held = {request.key: request for request in self._ledger.in_batches(note.name).get(note.name, [])}
        read = _Read()
        for file_id in (batch.output_file_id, batch.error_file_id):
            if file_id:
                self._settle(note, held, read, self._provider.content(file_id))
        unread = max(self._completed.get(note.name, 0) - read.answered, read.n_bad)
        without = list(held.values())
        if unread and without:  # billed, and not seen: which of them, nobody knows
            self._commit(
                [(one, no_reply("its batch has replies that cannot be read", "unanswered")) for one in without]
            )
        self._ledger.release(read.not_executed)
        self._ledger.release([] if unread else without)
        self._close(note, "collected")
        self.replies |= self._ledger.replies(self._wanted.values())
        if n_left := len(without) + len(read.not_executed):
            cost = "count as spent" if unread else "cost nothing"
            say(
                escape(
                    f"batch {note.name} {batch.status}: {n_left:,} of {note.requests:,} without a reply, they {cost}"
                )
            )
        if batch.status in ("failed", "cancelled"):
            raise _failure(note, batch)

    def _settle(self, note: Note, held: dict[str, Request], read: "_Read", content: bytes) -> None:
        """Commit a file of replies; what has a line leaves `held`."""
        group: list[tuple[Request, Reply]] = []
        faults: list[str] = []
        for number, text in enumerate(BytesIO(content), start=1):
            try:
                line = read_line(text)
            except ValueError as error:
                if text.strip():
                    read.n_bad += 1
                    faults.append(f"line {number} {error}")
                continue
            read.answered += line.status == 200
            if request := held.pop(line.key, None):
                reply = reply_of(line, request)
                group += [(request, reply)] if reply else []
                read.not_executed += [] if reply else [request]
            elif not self._ledger.knows(line.key):
                faults.append(f"line {number} is for a request that nobody asked")
            if len(group) >= GROUP:
                self._commit(group)
                group = []
        self._commit(group)
        tell_faults(f"batch {note.name}, replies not used: ", faults)

    def _commit(self, group: Sequence[tuple[Request, Reply]]) -> None:
        self._ledger.settle(group)
        self._failures |= {request.key: reply for request, reply in group if reply.error is not None}

    def _show(self, note: str) -> None:
        done = sum(reply.error is None for reply in self.replies.values()) + sum(self._completed.values())
        self._bar.at(min(done, len(self._wanted)), note, self._terms.limits.text(self._ledger.spent()))


_IN_VAIN = no_reply(f"came back from {TRIES} batches without a reply")


@dataclass
class _Read:
    """What was read of a batch's replies.

    Attributes:
        answered: Lines with a completion, those of an earlier, interrupted reading included.
        n_bad: Lines that cannot be read.
        not_executed: Requests of which the provider says that they never reached the model.
    """

    answered: int = 0
    n_bad: int = 0
    not_executed: list[Request] = field(default_factory=list)


def _read_note(path: Path) -> Note:
    try:
        return Note(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise DataError(f"{path}: is damaged ({error})", LOST.format(path.stem)) from error


def _failure(note: Note, batch: Batch) -> TeacherError:
    errors = (batch.errors and batch.errors.data) or []
    why = "; ".join(f"line {one.line}: {one.message}" if one.line else str(one.message) for one in errors[:MOST_TOLD])
    found = f"teach: batch {note.name} ({batch.id}) {batch.status} at the provider{why and f': {why}'}"
    hint = "mend what it says and run again" if batch.status == "failed" else "run again to ask for the rest"
    return TeacherError(found, f"{hint}; what has a reply is kept, the rest cost nothing")
