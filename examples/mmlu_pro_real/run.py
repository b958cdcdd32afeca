"""Real MMLU-Pro questions through every step, in one command: first the facts, then a run that proves the plumbing.

    python examples/mmlu_pro_real/run.py [--data ../shared/data] [--out runs/mmlu_pro_real] [KEY=VALUE ...]

The facts are about real models. The run's student has random weights, so its accuracies say nothing. Only this
machine is spoken to.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from replay_server import QUESTIONS, RATIONALES, load_recording, served

from teachwise.tasks.letters import read_letter
from teachwise.tasks.table import read_table

RECIPE = Path(__file__).with_name("recipe.yaml")
BANDS = ("easy", "medium", "hard")
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
SLIP = """\
Where a text runs on without an answer, a guess is stored for it; and the text of question_id 8382 states the gold
answer (H) while J is stored, so the hard band has 1,539 right answers read from the text (.5116), not 1,538 (.5113)."""


@dataclass(frozen=True)
class TeacherBand:
    """How often the recorded teacher was right on one band of the student's entropy.

    Attributes:
        n: Questions.
        stored: Right by the letter stored beside the text.
        stated: Right by the letter that the text itself states.
        unreadable: Texts that state none; not right, and still in `n`.
    """

    n: int
    stored: int
    stated: int
    unreadable: int


def teacher_by_band(
    banded: Sequence[Mapping[str, Any]], replies: Sequence[Mapping[str, Any]]
) -> dict[str, TeacherBand]:
    """The teacher's accuracy where the student is sure, less sure and unsure.

    Args:
        banded: Questions with the column `band`.
        replies: The teacher's `teacher_answer` and `rationale` by `question_id`.
    """
    by_id = {reply["question_id"]: reply for reply in replies}
    found = {}
    for band in BANDS:
        rows = [(row, by_id[row["question_id"]]) for row in banded if row["band"] == band]
        stated = [read_letter(reply["rationale"], row["options"]) for row, reply in rows]
        found[band] = TeacherBand(
            n=len(rows),
            stored=sum(reply["teacher_answer"] == row["answer"] for row, reply in rows),
            stated=sum(letter == row["answer"] for letter, (row, _) in zip(stated, rows, strict=True)),
            unreadable=stated.count(None),
        )
    return found


def teachwise(*words: str) -> None:
    """Run one `teachwise` command, shown before it starts.

    Raises:
        SystemExit: with the command's exit code, where that is not 0.
    """
    print("\n$ teachwise " + " ".join(words), flush=True)
    code = subprocess.run([sys.executable, "-m", "teachwise", *words], env={**os.environ, **OFFLINE}).returncode
    if code:
        sys.exit(code)


def show_facts(data: Path, out: Path) -> None:
    """Print what is true of the real models: does the score predict errors, and where does the teacher fail?"""
    questions, banded = str(data / QUESTIONS), str(out / "banded.parquet")
    teachwise("validate", questions, "--score", "entropy", "--correct", "student_correct")
    teachwise("route", questions, "--score", "entropy", "--edges", "0.25,0.75", "--out", banded)
    print("\nthe recorded teacher (Llama-3.1-70B-Instruct), by band of the student's entropy")
    print(f"{'':8}{'questions':>10}{'right, stored letter':>22}{'right, read from text':>23}{'unreadable':>12}")
    for name, band in teacher_by_band(read_table(banded), read_table(str(data / RATIONALES))).items():
        shares = f"{band.stored / band.n:>22.4f}{band.stated / band.n:>23.4f}"
        print(f"{name:8}{band.n:>10,}{shares}{band.unreadable:>12,}")
    print(SLIP)


def run_pipeline(data: Path, out: Path, overrides: Sequence[str]) -> None:
    """Make the student, serve the recorded teacher, and carry the recipe out."""
    from make_student import make_student

    weights = make_student(data / QUESTIONS, out / "student")
    print(f"\na student of {weights:,} RANDOM weights in {out / 'student'}: what follows proves the plumbing only")
    with served(load_recording(data)) as server:
        own = [f"student={out / 'student'}", f"data.source={data / QUESTIONS}", f"teacher.base_url={server.base_url}"]
        teachwise("run", str(RECIPE), *own, *overrides, "--out", str(out / "run"))
        print(f"{server.n_replayed:,} rationales were replayed over {server.base_url}")


def main(words: Sequence[str] | None = None) -> int:
    """Parse the command line and do both halves; 0 also where the data is absent."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with the two tables")
    parser.add_argument("--out", type=Path, default=Path("runs/mmlu_pro_real"), help="folder to write to")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="recipe fields to change")
    chosen = parser.parse_args(words)
    missing = [name for name in (QUESTIONS, RATIONALES) if not (chosen.data / name).is_file()]
    if missing:
        print(f"nothing done: no {' and no '.join(missing)} in {chosen.data}; name their folder with --data")
        return 0
    started = time.monotonic()
    show_facts(chosen.data, chosen.out)
    run_pipeline(chosen.data, chosen.out, chosen.overrides)
    print(f"{time.monotonic() - started:.0f} s in all")
    return 0


if __name__ == "__main__":
    sys.exit(main())
