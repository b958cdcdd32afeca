"""How requests reach the teacher, and replies come back.

live      one by one, over the wire; the replies come at once
batch     in a file, through the provider's batch mode: within a day, for less money
files     in files that somebody else has answered
"""

from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from rich.markup import escape

from teachwise.console import say
from teachwise.request import Reply, Request
from teachwise.teacher.buying import Terms, buy
from teachwise.teacher.engine import load_teacher
from teachwise.teacher.ledger import Ledger

OFFLINE = "offline"
"""Folder of a run in which requests wait in files."""


def deliver(
    requests: Sequence[Request],
    ledger_at: Path,
    terms: Terms,
    engine_options: Mapping[str, Any],
    delivery: str = "live",
    root: Path = Path(),
) -> Mapping[str, Reply]:
    """Replies to requests by key; those the ledger holds are not asked for again.

    Args:
        requests: N requests; equal ones are asked once.
        ledger_at: The ledger.
        terms: Limits, prices and pace.
        engine_options: What the teacher is made with.
        delivery: `live`, `batch` or `files`.
        root: The run folder.

    Raises:
        GateError: the limits cannot bear the next request, or requests wait in files.
        TeacherError: the teacher fails.
    """
    with closing(Ledger(ledger_at)) as ledger:
        if engine_options["engine"] != "openai":
            with closing(load_teacher(**engine_options)) as engine:
                return buy(requests, engine, ledger, terms)
        from teachwise.teacher.batch_note import batch_folder
        from teachwise.teacher.batches import await_batches, buy_in_batches, held_in_batches
        from teachwise.teacher.offline import buy_from_files
        from teachwise.teacher.openai import OpenAiTeacher

        field, offline = str(engine_options["limit_field"]), root / OFFLINE
        if delivery == "files" and not held_in_batches(requests, ledger):
            for name, waiting in ledger.in_batches().items():
                say(escape(f"batch {name} holds {len(waiting):,} requests of another recipe, and is left as it is"))
            return buy_from_files(requests, field, ledger, terms, offline)  # without a key
        with closing(OpenAiTeacher(**engine_options)) as teacher:
            if delivery == "batch":
                return buy_in_batches(requests, teacher, ledger, terms, batch_folder(ledger_at))
            await_batches(requests, teacher, ledger, terms, batch_folder(ledger_at))
            if delivery == "files":
                return buy_from_files(requests, field, ledger, terms, offline)
            return buy(requests, teacher, ledger, terms)
