"""Requests in files that are answered elsewhere: by `vllm run-batch`, on a machine that is not reached from here.

    RUN/offline/requests-001.jsonl     what is wanted now; written anew at every start
    RUN/offline/replies-*.jsonl        what came back, under any such name; never changed here

Nothing is under way meanwhile: the ledger knows the requests as `planned`, so none of them can become `unknown`. What
is written is what the limits can bear. A reply that lies there was paid for, wherever that was, and is counted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from teachwise.errors import GateError
from teachwise.request import Reply, Request
from teachwise.run_folder import write_text
from teachwise.teacher.batch_lines import in_files, read_line, reply_of, tell_faults
from teachwise.teacher.buying import Terms, spent_gate
from teachwise.teacher.ledger import Ledger


def buy_from_files(
    requests: Sequence[Request], limit_field: str, ledger: Ledger, terms: Terms, folder: Path
) -> dict[str, Reply]:
    """Replies to all requests by request key, from files; those the ledger holds are not asked for.

    Args:
        requests: N requests; equal ones are asked once.
        limit_field: What the endpoint calls the limit on tokens written.
        ledger: Where everything is noted.
        terms: Limits and prices.
        folder: Where the files lie.

    Returns:
        A reply for every distinct request; with `is_partial` those that the limits could not bear are missing.

    Raises:
        GateError: requests wait in files to be answered, or the limits cannot bear the next one.
    """
    wanted = {request.key: request for request in requests}
    ledger.plan(wanted.values())
    replies = ledger.replies(wanted.values())
    there = read_replies(folder, {key: one for key, one in wanted.items() if key not in replies}, ledger)
    replies |= _committed(there, wanted, ledger, terms)
    open_ = [one for key, one in wanted.items() if key not in replies]
    result = ledger.reserve(open_, terms.limits, terms.price, False, terms.on_unknown == "ask_again", holds=False)
    replies |= result.there
    if result.elsewhere:
        found = f"teach: {len(result.elsewhere):,} requests are under way in another process"
        raise GateError(found, "run the same command again once it has ended")
    if files := _write(folder, result.taken, limit_field):
        raise _waiting(files, len(result.taken), result.taken[0].model)
    if result.left and not terms.is_partial:
        raise spent_gate(result.left[0], ledger, terms, len(replies), len(wanted))
    return replies


@dataclass
class _Read:
    """What the files say.

    Attributes:
        replies: By request key.
        errors: Why there is no reply, by request key.
    """

    replies: dict[str, Reply] = field(default_factory=dict)
    errors: dict[str, Reply] = field(default_factory=dict)


def read_replies(folder: Path, open_: Mapping[str, Request], ledger: Ledger) -> dict[str, Reply]:
    """What the files of replies say of open requests; lines that are of no use are named.

    Of several lines for one request the first that holds a reply counts. Where there are only errors, the first of them
    is the outcome, for as long as its line stands there.
    """
    read = _Read()
    for path in sorted(folder.glob("replies-*.jsonl")):
        faults: list[str] = []
        with open(path, "rb") as file:
            for number, text in enumerate(file, start=1):
                if text.strip() and (fault := _take(text, open_, ledger, read)):
                    faults.append(f"line {number} {fault}")
        tell_faults(f"{path}: ", faults)
    return {**read.errors, **read.replies}


def _take(text: bytes, open_: Mapping[str, Request], ledger: Ledger, read: _Read) -> str:
    """Take in one line; what is wrong with it, or ""."""
    try:
        line = read_line(text)
    except ValueError as error:
        return str(error)
    if line.key not in open_:
        return "" if ledger.knows(line.key) else "is for a request that nobody asked"
    reply = reply_of(line, open_[line.key])
    if reply is None or reply.state == "planned":
        return f"has no reply: {line.message}"  # it was not executed, or turned away: it is asked again
    if reply.error is None:
        read.replies.setdefault(line.key, reply)
    elif reply.state == "unknown":
        return f"has no reply: {reply.error}"
    else:
        read.errors.setdefault(line.key, reply)
        return f"has no reply: {reply.error} (delete it to have it asked again)"
    return ""


def _committed(
    there: Mapping[str, Reply], wanted: Mapping[str, Request], ledger: Ledger, terms: Terms
) -> dict[str, Reply]:
    """Into the ledger, whatever the limits say now: what is there has been paid for."""
    with ledger.in_one_write():
        taken = ledger.reserve([wanted[key] for key in there], price=terms.price).taken
        ledger.settle((request, there[request.key]) for request in taken)
    return {request.key: there[request.key] for request in taken}


def _write(folder: Path, requests: Sequence[Request], limit_field: str) -> list[Path]:
    """Write the requests, and take away the files of an earlier start."""
    files = []
    folder.mkdir(parents=True, exist_ok=True)
    for number, (_, text) in enumerate(in_files(requests, limit_field), start=1):
        files.append(folder / f"requests-{number:03}.jsonl")
        write_text(files[-1], text)
    for path in set(folder.glob("requests-*.jsonl")) - set(files):
        path.unlink()
    return files


def _waiting(files: Sequence[Path], n_requests: int, model: str) -> GateError:
    first, others = files[0], len(files) - 1
    more = f" and {others:,} more file{'s' if others > 1 else ''}" if others else ""
    replies = first.with_name(first.name.replace("requests", "replies"))
    return GateError(
        f"teach: {n_requests:,} requests wait to be answered in {first}{more}",
        f"have them answered, for instance `vllm run-batch -i {first} -o {replies} --model {model}`, and run the same"
        " command again: it reads every replies-*.jsonl there",
    )
