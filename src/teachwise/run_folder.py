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
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
from filelock import FileLock, Timeout
from rich.markup import escape

from teachwise.console import progress, say
from teachwise.errors import DataError, damaged
from teachwise.frames import arms_frame, read_frame, scores_frame, stack_frames
from teachwise.records import Record, read_records, to_table

if TYPE_CHECKING:
    import pandas as pd

RESOLVED = "resolved.yaml"
"""The recipe of a run, every default filled in; not `recipe.yaml`, since a user's own may lie in the same folder."""
FORMAT = 2
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

    What a person wants to look at stands first: `arms`, `examples`, `scores`, `assignments`, `rationales` and
    `predictions` are pandas data frames, `validation` and `comparison` dicts, `report` the path of the page. Each is
    read from its file when it is asked for; where that is not there yet, a DataError says so.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    def __repr__(self) -> str:
        return f"Run({str(self.root)!r}): {self._state()}"

    def _state(self) -> str:
        manifests = self.root.glob("[!.]*/manifest.json"), self.root.glob("[!.]*/*/seed-*/round-*/manifest.json")
        made = {path: path.stat().st_mtime_ns for paths in manifests for path in paths}
        done = dict.fromkeys(path.relative_to(self.root).parts[0] for path in sorted(made, key=lambda path: made[path]))
        if "compare" not in done:
            return f"done so far: {', '.join(done) or 'nothing'}"
        arms = {name: arm["accuracy"] for name, arm in self.comparison["arms"].items()}
        shown = [f"{name} {a['value']:.1%} ({a['low']:.1%} to {a['high']:.1%})" for name, a in arms.items()]
        return f"accuracy on {self.comparison['n_test']:,} test questions: {', '.join(shown)}"

    @property
    def arms(self) -> "pd.DataFrame":
        """One row per arm: its accuracy with a 95% interval, what it is set against, what it cost."""
        return arms_frame(self.comparison)

    @property
    def examples(self) -> "pd.DataFrame":
        """One row per question, with its split."""
        return read_frame(self._existing(Unit("prepare"), "examples.parquet"))

    @property
    def scores(self) -> "pd.DataFrame":
        """One row per question: how unsure the untouched student is; `id` leads to `examples`."""
        return scores_frame(self._existing(Unit("score"), "scores.parquet"))

    @property
    def measures(self) -> "pd.DataFrame":
        """The scores by every measure, one row per question and measure; those of the driving one first."""
        return read_frame(self._existing(Unit("score"), "scores.parquet"))

    @property
    def assignments(self) -> "pd.DataFrame":
        """What each arm gives each train question, by arm, training seed and stage."""
        return self._of_arms("route", "assignments.parquet")

    @property
    def rationales(self) -> "pd.DataFrame":
        """The teacher's replies and what became of them, by arm and training seed."""
        return self._of_arms("teach", "rationales.parquet")

    @property
    def predictions(self) -> "pd.DataFrame":
        """Every answer to every dev and test question, by arm, training seed and mode."""
        return self._of_arms("evaluate", "predictions.parquet")

    @property
    def validation(self) -> dict[str, Any]:
        """Do the scores predict errors? AUC with interval, by subject, and the verdict."""
        content: dict[str, Any] = self.json(Unit("validate"), "validation.json")
        return content

    @property
    def comparison(self) -> dict[str, Any]:
        """All arms on the same questions, in full; `arms` is the short form."""
        content: dict[str, Any] = self.json(Unit("compare"), "comparison.json")
        return content

    @property
    def report(self) -> Path:
        """The page to open in a browser."""
        return self._existing(Unit("report"), "report.html")

    def _of_arms(self, step: str, name: str) -> "pd.DataFrame":
        """The files of that name of every finished unit of a step, as one frame."""
        folders = [path.parent for path in sorted(self.root.glob(f"{step}/*/seed-*/round-*/manifest.json"))]
        if not folders:
            raise _missing(self.root / step, step)
        places = [folder.relative_to(self.root).parts for folder in folders]
        seeds = [int(seed.removeprefix("seed-")) for _, _, seed, _ in places]
        found = zip((arm for _, arm, _, _ in places), seeds, folders, strict=True)
        return stack_frames((arm, seed, folder / name) for arm, seed, folder in found)

    def folder(self, unit: Unit) -> Path:
        """Where the unit's files lie."""
        return self.root / unit.path

    def records(self, unit: Unit, name: str, kind: type[Record]) -> list[Record]:
        """The rows of a finished unit's Parquet file."""
        return read_records(self._existing(unit, name), kind)

    def json(self, unit: Unit, name: str) -> Any:
        """The content of a finished unit's JSON file."""
        return _read_json(self._existing(unit, name))

    def _existing(self, unit: Unit, name: str) -> Path:
        path = self.folder(unit) / name
        if not path.exists():
            raise damaged(path, "it is gone") if self.manifest(unit) else _missing(path, unit)
        return path

    def manifest(self, unit: Unit) -> dict[str, Any] | None:
        """The unit's manifest, or None while it is not finished."""
        return _read_json(self.folder(unit) / "manifest.json")

    def holds(self, unit: Unit, key: str) -> bool:
        """Whether a result of this key is there, in its place or set aside."""
        return (self.manifest(unit) or {}).get("key") == key or self._replaced(unit, key).exists()

    def is_done(self, unit: Unit, key: str) -> bool:
        """Whether the unit is finished under this key; fetches an earlier result with the same key back."""
        if (self.manifest(unit) or {}).get("key") == key:
            return True
        kept = self._replaced(unit, key)
        if not kept.exists():
            return False
        self.set_aside(unit)
        self._drop(unit)  # partial work of another key
        self.folder(unit).parent.mkdir(parents=True, exist_ok=True)
        os.replace(kept, self.folder(unit))
        return True

    def begin(self, unit: Unit, key: str) -> Path:
        """Make the unit's folder ready: finished work of another key is set aside, partial work of this key stays."""
        folder = self.folder(unit)
        if self.set_aside(unit):
            say(f"[dim]aside {unit}: of other inputs, kept in {self.root / 'replaced'}[/dim]")
        if (_read_json(folder / "key.json") or {}).get("key") != key:
            self._drop(unit)
            folder.mkdir(parents=True)
            write_json(folder / "key.json", {"key": key})
        return folder

    def finish(self, unit: Unit, key: str, counts: Mapping[str, Any], seconds: float) -> None:
        """Write the manifest; from here on the unit counts as done."""
        manifest = {"unit": unit.path, "key": key, "format": FORMAT, "seconds": round(seconds, 2), "counts": counts}
        write_json(self.folder(unit) / "manifest.json", manifest)

    def set_aside(self, unit: Unit) -> bool:
        """Move finished work to `replaced/`, if there is any; it is fetched back when its key returns."""
        key = (self.manifest(unit) or {}).get("key")
        if not key:
            return False
        kept = self._replaced(unit, key)
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(kept, ignore_errors=True)
        os.replace(self.folder(unit), kept)
        return True

    def _drop(self, unit: Unit) -> None:
        """Delete partial work; a folder that no run of ours began is the user's own and stays.

        It is moved out of the way first: a deletion that is killed half-way must not look like a folder of the user's.
        """
        folder = self.folder(unit)
        if not folder.exists():
            return
        if not (folder / "key.json").exists() and any(path.name != ".key.json.part" for path in folder.iterdir()):
            raise DataError(
                f"{folder}: holds files that are not of this run, wanted it for the results of {unit}",
                "move them elsewhere, or choose another run folder with --out",
            )
        dropped = self.root / ".dropped"
        shutil.rmtree(dropped, ignore_errors=True)
        os.replace(folder, dropped)
        shutil.rmtree(dropped, ignore_errors=True)

    def _replaced(self, unit: Unit, key: str) -> Path:
        return self.root / "replaced" / f"{unit.path}-{key}"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run folder; a second process in it is refused.

        Raises:
            DataError: another process works in this folder, or it cannot be made.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(
                f"{self.root}: cannot be made a run folder: {error.strerror}", "choose another folder with --out"
            ) from error
        try:
            with FileLock(self.root / ".lock", timeout=0):
                yield
        except Timeout:
            raise DataError(
                f"{self.root}: another teachwise process is working in this run folder",
                "wait for it, or choose another folder with --out",
            ) from None


def open_run(path: str | Path) -> Run:
    """The run in a folder, finished or not.

    Raises:
        DataError: the folder holds no run.
    """
    if not (Path(path) / RESOLVED).is_file():
        near = sorted(str(file.parent) for file in Path(path).parent.glob(f"*/{RESOLVED}"))
        hint = f"runs beside it: {', '.join(near)}" if near else "`teachwise run RECIPE` and `teachwise demo` make one"
        raise DataError(f"{path}: is no run folder, wanted one with {RESOLVED}", hint)
    return Run(path)


def _missing(path: Path, what: Unit | str) -> DataError:
    return DataError(
        f"{path}: is not there, wanted the result of {what}", "run the recipe again: `teachwise run RECIPE`"
    )


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
    total = sum(map(len, batches))
    if 0 < there < total:
        say(f"[dim]going on from {there:,} of {total:,}: {escape(what)}[/dim]")
    with progress(what, total=total, done=there) as bar:
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
    try:
        yield part
        with open(part, "rb") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:  # a full disk: say which file, and leave no half of it behind
        if error.errno:
            error.filename = error.filename or str(path)
        part.unlink(missing_ok=True)
        raise


def write_records(path: Path, kind: type[Record], rows: Iterable[Record]) -> None:
    """Write one Parquet file, all or nothing, without NaN."""
    table = to_table(kind, rows)
    with atomic(path) as part, part.open("wb") as file:  # pyarrow's own file stays open where a full disk stops it
        pq.write_table(table, file, compression="zstd")


def write_text(path: Path, text: str) -> None:
    """Write one text file, all or nothing."""
    with atomic(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Write one JSON file, all or nothing; NaN is refused, since JSON has no word for it."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise damaged(path, error) from error
    if not isinstance(content, dict):
        raise damaged(path, "wanted an object")
    return content
