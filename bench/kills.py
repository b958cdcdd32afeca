"""Kill a run with `kill -9` at many points, resume it, and compare with a run that nobody disturbed.

    python bench/kills.py                 20 kills, at least one inside every step (10-20 minutes on two cores)
    python bench/kills.py --quick         3 kills (about two minutes); the test suite runs this

Each kill takes the whole process group. After every kill the same command is run again to its end; the tables and the
weights must be those of the undisturbed run, and no request may be sent twice but those under way at the kill. Prints
one line per kill and writes `--json FILE`. Exit 1 if anything differs.
"""

import argparse
import hashlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from teachwise.toy.server import TeacherServer, serve

SMALL = [
    "data.limit={train: 160, dev: 40, test: 60}",
    "score.batch_tokens=1200",
    "evaluate.batch_tokens=3000",
    "evaluate.max_new_tokens=40",
    "train.save_every=4",
    "arms={base: {policy: none}, sft: {policy: all, give: answer}, banded: {policy: bands, stages:"
    " [{easy: answer, medium: answer}, {hard: rationale}]}, random: {policy: random, like: banded}}",
    "train.epochs=2",
]
BANDED, RANDOM = "banded/seed-0/round-0", "random/seed-0/round-0"


@dataclass(frozen=True)
class Point:
    """When to kill: `due` looks at the run folder and the number of requests that the teacher has answered."""

    step: str
    what: str
    due: Callable[[Path, int], bool]


def begun(unit: str) -> Callable[[Path, int], bool]:
    """The unit has begun and is not finished."""
    return lambda root, _: (root / unit / "key.json").exists() and not (root / unit / "manifest.json").exists()


def there(pattern: str, count: int = 1) -> Callable[[Path, int], bool]:
    """So many files match the pattern."""
    return lambda root, _: len(list(root.glob(pattern))) >= count


def answered(count: int) -> Callable[[Path, int], bool]:
    """The teacher has answered so many requests."""
    return lambda _, requests: requests >= count


POINTS = [
    Point("prepare", "begun", begun("prepare")),
    Point("score", "begun", begun("score")),
    Point("score", "3 batches kept", there("score/parts-*/*.parquet", 3)),
    Point("validate", "begun", begun("validate")),
    Point("route", "banded begun", begun(f"route/{BANDED}")),
    Point("route", "random begun", begun(f"route/{RANDOM}")),
    Point("teach", "banded begun", begun(f"teach/{BANDED}")),
    Point("teach", "5 requests answered", answered(5)),
    Point("teach", "25 requests answered", answered(25)),
    Point("train", "sft begun", begun("train/sft/seed-0/round-0")),
    Point("train", "first checkpoint", there(f"train/{BANDED}/stage-0.work/checkpoint-4/*")),
    Point("train", "second checkpoint whole", there(f"train/{BANDED}/stage-0.work/checkpoint-8/whole")),
    Point("train", "weights being saved", there(f"train/{BANDED}/stage-0.work/ready/*")),
    Point("train", "between two stages", there(f"train/{BANDED}/stage-0/stage.json")),
    Point("train", "second stage, checkpoint", there(f"train/{BANDED}/stage-1.work/checkpoint-4/*")),
    Point("evaluate", "base begun", begun("evaluate/base/seed-0/round-0")),
    Point("evaluate", "2 batches kept", there(f"evaluate/{BANDED}/parts-*/*.parquet", 2)),
    Point("evaluate", "random, 1 batch kept", there(f"evaluate/{RANDOM}/parts-*/*.parquet", 1)),
    Point("compare", "begun", begun("compare")),
    Point("report", "begun", begun("report")),
]
RESULTS = ("comparison.json", "validation.json", "evaluation.json", "stage.json", "prepare.json")
QUICK = (8, 10, 16)
IN_FLIGHT = 8
"""The recipe's concurrency: so many requests may be under way, unanswered, when a process dies."""


def command(root: Path, address: str) -> list[str]:
    """The command that is killed and run again."""
    return [sys.executable, "-m", "teachwise", "run", "toy", *SMALL, f"teacher.base_url={address}", "--out", str(root)]


def finish(root: Path, address: str) -> None:
    """Run to the end."""
    subprocess.run(command(root, address), check=True, capture_output=True, text=True)


def kill_at(point: Point, root: Path, server: TeacherServer, address: str) -> bool:
    """Start, kill the whole process group when the point is due; False if the run was over before."""
    before = server.n_completions
    process = subprocess.Popen(
        command(root, address), start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while process.poll() is None:
        if point.due(root, server.n_completions - before):
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return True
        time.sleep(0.0005)
    return False


def fingerprint(root: Path) -> dict[str, str]:
    """A hash of every result in a run: rows of tables, JSON without seconds, weights byte for byte."""
    found = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.suffix == ".parquet":
            with path.open("rb") as file:
                found[name] = _sha(json.dumps(pq.read_table(file).to_pylist()).encode())
        elif path.suffix == ".safetensors" or path.name in RESULTS:
            found[name] = _sha(path.read_bytes())
    return found


def _sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def paid(root: Path) -> int:
    """Requests in the ledger that were answered."""
    with sqlite3.connect(root / "ledger.sqlite") as ledger:
        return int(
            ledger.execute("SELECT COUNT(*) FROM request WHERE state IN ('ok', 'truncated', 'refused')").fetchone()[0]
        )


def main() -> int:
    """Do all kills, print and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    points = [POINTS[i] for i in QUICK] if arguments.quick else POINTS
    work = Path(tempfile.mkdtemp(prefix="teachwise-kills-"))
    server = serve(0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    finish(work / "whole", server.base_url)
    expected, once = fingerprint(work / "whole"), paid(work / "whole")
    rows = []
    for number, point in enumerate(points):
        row = one_kill(point, work / f"kill-{number}", server, expected, once)
        rows.append(row)
        print("  ".join(f"{name} {value}" for name, value in row.items()), flush=True)
    good = sum(row["same"] and row["killed"] and row["asked_twice"] <= row["allowed_twice"] for row in rows)
    print(f"{good} of {len(rows)} kills resumed to the same {len(expected)} tables and weights")
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps({"date": time.strftime("%Y-%m-%d"), "kills": rows}, indent=2) + "\n")
    shutil.rmtree(work)
    return 0 if good == len(rows) else 1


def one_kill(point: Point, root: Path, server: TeacherServer, expected: dict[str, str], once: int) -> dict[str, object]:
    """Kill, resume, compare; a point that was passed too quickly is tried again."""
    before = server.n_completions
    killed = False
    for _ in range(5):
        shutil.rmtree(root, ignore_errors=True)
        before = server.n_completions
        killed = kill_at(point, root, server, server.base_url)
        if killed:
            break
    finish(root, server.base_url)
    found = fingerprint(root)
    differing = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    asked = server.n_completions - before
    return {
        "step": point.step,
        "at": point.what,
        "killed": killed,
        "same": not differing and paid(root) == once,
        "differing": differing[:3],
        "asked_twice": asked - once,
        "allowed_twice": IN_FLIGHT if point.step == "teach" else 0,  # replies that never arrived at a living process
    }


if __name__ == "__main__":
    raise SystemExit(main())
