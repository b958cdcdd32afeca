"""What is known of a batch, in `ledger.batches/NAME.json` beside its requests."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from teachwise.errors import DataError
from teachwise.run_folder import write_json

LOST = "see at the provider what became of it; once its {}.json is deleted, its requests count as lost"


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

    def save(self, folder: Path) -> None:
        """Write it down, all of it or nothing."""
        write_json(folder / f"{self.name}.json", asdict(self))


def batch_folder(ledger: Path) -> Path:
    """Where the batches of a ledger lie: beside it, so that all who share the ledger find them.

    Example:
        >>> batch_folder(Path("runs/first/ledger.sqlite")).name
        'ledger.batches'
    """
    return ledger.with_name(f"{ledger.stem}.batches")


def read_note(path: Path) -> Note:
    """The note in a file.

    Raises:
        DataError: it is damaged.
    """
    try:
        return Note(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise DataError(f"{path}: is damaged ({error})", LOST.format(path.stem)) from error
