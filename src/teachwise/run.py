"""The run folder: where each unit's files lie, when they count as done, and how they are written.

    runs/demo/
      resolved.yaml                              the recipe, every default filled in
      prepare/  score/  validate/                steps that run once
      route/banded/seed-0/round-0/               units of an arm
      teach/...  train/...  evaluate/...
      compare/  report/
      ledger.sqlite                              what the teacher was paid for; never deleted
      replaced/                                  finished units that a changed recipe made obsolete

A unit is finished when its `manifest.json` is there: it is written last. It holds the unit's key, a hash of the
recipe fields the step reads and of its inputs' keys. Same key: skip. Another key: the old folder is set aside under
`replaced/` (and fetched back when the recipe changes back), never deleted. A unit that was killed half-way left no
manifest; its `key.json` says whether the partial work in the folder belongs to the present recipe.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from teachwise.console import progress
from teachwise.errors import DataError
from teachwise.records import Record, read_records, to_table

RESOLVED = "resolved.yaml"
"""The recipe of a run, every default filled in; not `recipe.yaml`, since a user's own may lie in the same folder."""
FORMAT = 1
"""Raised when the meaning of a file in the run folder changes; older runs are then done again."""


@dataclass(frozen=True, order=True)
class Unit:
    """A piece of work: a step, and for the steps of an arm also which arm, training seed and round.

    Example:
        >>> Unit("train", "banded", 0).path
        'train/banded/seed-0/round-0'
        >>> str(Unit("score"))
        'score'
    """

    step: str
    arm: str = ""
    seed: int = 0
    round: int = 0

    @property
    def path(self) -> str:
        """Folder of the unit inside the run."""
        return f"{self.step}/{self.arm}/seed-{self.seed}/round-{self.round}" if self.arm else self.step

    def of(self, step: str) -> "Unit":
        """The unit of another step for the same arm, seed and round."""
        return Unit(step, self.arm, self.seed, self.round)

    def __str__(self) -> str:
        return f"{self.step} {self.arm} (seed {self.seed})" if self.arm else self.step


def unit_key(unit: Unit, fields: Mapping[str, Any], inputs: Iterable[str]) -> str:
    """The hash that names a unit's result.

    Args:
        unit: The unit; its place in the run is part of the key.
        fields: The recipe fields that the step reads, as plain JSON values.
        inputs: Keys of the units whose files it reads, in any order.

    Returns:
        16 hexadecimal digits. Code is not part of it: a change of meaning raises `FORMAT` instead.
    """
    content = {"format": FORMAT, "unit": unit.path, "fields": fields, "inputs": sorted(inputs)}
    return content_hash(json.dumps(content, sort_keys=True, ensure_ascii=False))


def content_hash(text: str) -> str:
    """The first 16 hexadecimal digits of SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Run:
    """One recipe carried out, and its folder.

    Args:
        root: The folder; made on first write.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    def folder(self, unit: Unit) -> Path:
        """Where the unit's files lie."""
        return self.root / unit.path

    def records(self, unit: Unit, name: str, kind: type[Record]) -> list[Record]:
        """The rows of a finished unit's Parquet file."""
        return read_records(self._existing(unit, name), kind)

    def json(self, unit: Unit, name: str) -> Any:
        """The content of a finished unit's JSON file."""
        return json.loads(self._existing(unit, name).read_text(encoding="utf-8"))

    def _existing(self, unit: Unit, name: str) -> Path:
        path = self.folder(unit) / name
        if not path.exists():
            raise DataError(
                f"{path}: is not there, wanted the result of {unit}", "run the recipe again: `teachwise run RECIPE`"
            )
        return path

    def manifest(self, unit: Unit) -> dict[str, Any] | None:
        """The unit's manifest, or None while it is not finished."""
        return _read_json(self.folder(unit) / "manifest.json")

    def is_done(self, unit: Unit, key: str) -> bool:
        """Whether the unit is finished under this key; fetches an earlier result with the same key back."""
        if (self.manifest(unit) or {}).get("key") == key:
            return True
        kept = self._replaced(unit, key)
        if not kept.exists():
            return False
        self._set_aside(unit)
        shutil.rmtree(self.folder(unit), ignore_errors=True)  # partial work of another key
        self.folder(unit).parent.mkdir(parents=True, exist_ok=True)
        os.replace(kept, self.folder(unit))
        return True

    def begin(self, unit: Unit, key: str) -> Path:
        """Make the unit's folder ready: finished work of another key is set aside, partial work of this key stays."""
        folder = self.folder(unit)
        self._set_aside(unit)
        if (_read_json(folder / "key.json") or {}).get("key") != key:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            write_json(folder / "key.json", {"key": key})
        return folder

    def finish(self, unit: Unit, key: str, counts: Mapping[str, Any], seconds: float) -> None:
        """Write the manifest; from here on the unit counts as done."""
        manifest = {"unit": unit.path, "key": key, "format": FORMAT, "seconds": round(seconds, 2), "counts": counts}
        write_json(self.folder(unit) / "manifest.json", manifest)

    def _set_aside(self, unit: Unit) -> None:
        if manifest := self.manifest(unit):
            kept = self._replaced(unit, manifest["key"])
            kept.parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(kept, ignore_errors=True)
            os.replace(self.folder(unit), kept)

    def _replaced(self, unit: Unit, key: str) -> Path:
        return self.root / "replaced" / f"{unit.path}-{key}"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run folder; a second process in it is refused.

        Raises:
            DataError: another process works in this folder.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(self.root / ".lock", timeout=0):
                yield
        except Timeout:
            raise DataError(
                f"{self.root}: another teachwise process is working in this run folder",
                "wait for it, or choose another folder with --out",
            ) from None


def in_parts(
    folder: Path,
    kind: type[Record],
    batches: Sequence[Sequence[int]],
    work: Callable[[Sequence[int]], list[Record]],
    what: str,
) -> list[Record]:
    """Do a long job batch by batch, each kept on disk as it is made; a killed job goes on where it was.

    Args:
        folder: The unit's folder; shards lie in a sub-folder named by the job and its batches, so that those of
            another job or of other batches (a changed `batch_tokens`) never mix with these.
        kind: The record class of a row.
        batches: Row numbers of each batch, covering every row once.
        work: From the row numbers of a batch to its records.
        what: The job's name, also on the progress bar.

    Returns:
        All records, batch after batch.
    """
    shards = folder / f"parts-{content_hash(json.dumps([what, batches]))}"
    paths = [shards / f"{number:06d}.parquet" for number in range(len(batches))]
    there = sum(len(batch) for batch, path in zip(batches, paths, strict=True) if path.exists())
    with progress(what, total=sum(map(len, batches)), done=there) as bar:
        for batch, path in zip(batches, paths, strict=True):
            if not path.exists():
                write_records(path, kind, work(batch))
                bar.advance(len(batch))
    return [row for path in paths for row in read_records(path, kind)]


def drop_parts(folder: Path) -> None:
    """Delete the shards of `in_parts`, once the whole table is written."""
    for shards in folder.glob("parts-*"):
        shutil.rmtree(shards)


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends well.

    The content is on the disk before the name changes, so a reader sees the old file or the whole new one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    yield part
    with open(part, "rb") as file:
        os.fsync(file.fileno())
    os.replace(part, path)


def write_records(path: Path, kind: type[Record], rows: Iterable[Record]) -> None:
    """Write one Parquet file, all or nothing, without NaN."""
    table = to_table(kind, rows)
    with atomic(path) as part:
        pq.write_table(table, part, compression="zstd")


def write_text(path: Path, text: str) -> None:
    """Write one text file, all or nothing."""
    with atomic(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Write one JSON file, all or nothing; NaN is refused, since JSON has no word for it."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return content
