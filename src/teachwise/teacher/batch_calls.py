"""What is asked of a provider's batch mode, and what its failures mean."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import openai
from openai.types import Batch
from rich.markup import escape

from teachwise.console import say
from teachwise.errors import TeacherError
from teachwise.request import Reply
from teachwise.teacher.batch_lines import URL
from teachwise.teacher.batch_note import LOST
from teachwise.teacher.buying import ATTEMPTS, HOPELESS
from teachwise.teacher.openai import OpenAiTeacher
from teachwise.teacher.pace import pause_seconds

Found = TypeVar("Found")

LISTED_SECONDS = 60.0
"""How long a provider may take until a batch that it has made stands in its list."""
LIST_DAYS = 3.0
"""How much older than ours a batch may look, by the provider's clock, before the search for it ends."""
METADATA = "teachwise_batch"
"""The field by which a provider is told our name of a batch."""
ENDED = ("completed", "failed", "expired", "cancelled")
PASSING = (408, 409, 425, 429)
"""Statuses below 500 after which the same call may succeed."""
NO_BATCHES = "check teacher.key_env; a provider without a batch mode wants teacher.delivery=live or =files"


class Refused(TeacherError):
    """The provider does not do what it is asked, and would not if it were asked again."""


class Provider:
    """A provider with a batch mode.

    Args:
        teacher: Its endpoint.
    """

    def __init__(self, teacher: OpenAiTeacher) -> None:
        self._teacher, self._client = teacher, teacher.client
        self.base_url = str(teacher.client.base_url)
        self.limit_field = teacher.limit_field
        self._unheard_in_a_row = 0

    def upload(self, path: Path) -> str:
        """Hand a file of requests over; its name at the provider."""

        def send() -> str:
            with open(path, "rb") as file:
                return self._client.files.create(file=file, purpose="batch").id

        return self.patient("the file of a batch is not taken", send)

    def create(self, name: str, file_id: str) -> Batch:
        """Start a batch; one attempt, since a lost answer does not mean that it was not started."""
        return self._client.batches.create(
            input_file_id=file_id, endpoint=URL, completion_window="24h", metadata={METADATA: name}
        )

    def find(self, name: str, file_id: str, asked_at: float) -> Batch | None:
        """A batch that was perhaps started, in the provider's list, which may be a little behind.

        Args:
            name: Ours.
            file_id: Of its requests, at the provider.
            asked_at: When it was perhaps started, in seconds since 1970.

        Raises:
            TeacherError: the provider shows no list, so that nobody knows.
        """
        wait = min(LISTED_SECONDS, asked_at + LISTED_SECONDS - time.time())  # a clock may have been set back
        while True:
            try:
                if batch := self._listed(name, file_id, asked_at):
                    return batch
            except openai.APIStatusError as error:
                if not is_refusal(error):
                    raise
                why = f"teach: nobody knows whether batch {name} was started, {self.base_url} shows no list"
                raise TeacherError(f"{why} ({self._teacher.told(error)})", LOST.format(name)) from error
            if wait <= 0:
                return None
            say(escape(f"batch {name} is not in the provider's list; looking once more in {wait:.0f} s"))
            time.sleep(wait)
            wait = 0.0

    def _listed(self, name: str, file_id: str, asked_at: float) -> Batch | None:
        for batch in self._client.batches.list(limit=100):
            if batch.input_file_id == file_id or (batch.metadata or {}).get(METADATA) == name:
                return batch
            if batch.created_at < asked_at - LIST_DAYS * 86_400:
                break
        return None

    def look(self, name: str, id_: str) -> Batch | None:
        """How far a batch is; None where that cannot be learnt just now.

        Raises:
            TeacherError: it is not going to be learnt.
        """
        try:
            batch = self._client.batches.retrieve(id_)
        except (openai.APIConnectionError, openai.APIStatusError) as error:
            self._unheard(name, self._teacher.told(error), is_refusal(error))
            return None
        if batch.status in ENDED and n_completed(batch) and not batch.output_file_id:
            self._unheard(name, "it has ended, and its replies are not there", False)
            return None
        self._unheard_in_a_row = 0
        return batch

    def _unheard(self, name: str, why: str, is_hopeless: bool) -> None:
        self._unheard_in_a_row += 1
        if is_hopeless or self._unheard_in_a_row >= HOPELESS:
            hint = f"run the same command again, which goes on waiting; or {LOST.format(name)}"
            raise TeacherError(f"teach: no word of batch {name} from {self.base_url} ({why})", hint)
        say(escape(f"batch {name}: {why}; waiting on"))

    def content(self, file_id: str) -> bytes:
        """A file of replies, as it is: the key is hidden in what is read of it, since it may occur in other words."""
        return self.patient("replies cannot be fetched", lambda: self._client.files.content(file_id).content)

    def without_key(self, reply: Reply) -> Reply:
        """A reply of such a file, without the key."""
        return self._teacher.without_key(reply)

    def hidden(self, text: str) -> str:
        """Words of the provider's, without the key."""
        return self._teacher.hidden(text)

    def patient(self, what: str, do: Callable[[], Found]) -> Found:
        """Ask several times where the provider stumbles.

        Raises:
            Refused: it does not want to.
            TeacherError: it cannot be reached.
        """
        why = ""
        for attempt in range(ATTEMPTS):
            if attempt:
                say(escape(f"{what} ({why}); trying again"))
                pause(attempt)
            try:
                return do()
            except (openai.APIConnectionError, openai.APIStatusError) as error:
                why = self._teacher.told(error)
                if is_refusal(error):
                    raise Refused(f"teach: {what} by {self.base_url} ({why})", NO_BATCHES) from error
        raise TeacherError(f"teach: {what} by {self.base_url} ({why})", "run the same command again, which goes on")


def pause(attempt: int) -> None:
    """Wait before the next attempt."""
    time.sleep(pause_seconds(attempt))


def is_refusal(error: openai.APIConnectionError | openai.APIStatusError) -> bool:
    """Whether the same call would fail again."""
    if not isinstance(error, openai.APIStatusError):
        return False
    return error.code == "insufficient_quota" or (400 <= error.status_code < 500 and error.status_code not in PASSING)


def n_completed(batch: Batch) -> int:
    """How many requests the provider says it has answered."""
    return batch.request_counts.completed if batch.request_counts else 0
