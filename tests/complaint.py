"""What a user must see after a mistake: one line with the place, a hint, the exit code; and nothing of theirs lost."""

import contextlib
import hashlib
import io
import json
import sys

from teachwise import cli

RECIPE = """\
student: toy
teacher: {{model: big, base_url: "{url}"}}
data: {{source: {source}}}
budget: {{teacher_tokens: null}}
score: {{measure: column, column: entropy, correct: right}}
"""
"""A recipe that needs no model up to `teach`: the scores stand in the table."""
NOBODY = "http://127.0.0.1:9/v1"


def teachwise(*words):
    """Run the command in this process: its exit code, stdout and stderr."""
    out, err = io.StringIO(), io.StringIO()
    before, sys.argv = sys.argv, ["teachwise", *map(str, words)]
    code = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                cli.main()
            except SystemExit as stop:
                code = stop.code
    finally:
        sys.argv = before
    return code, out.getvalue(), err.getvalue()


def assert_told(err, place, said, hint=""):
    """One line opens with `error:` and holds the place and the words; one hint follows; no traceback.

    Args:
        err: What stands on stderr.
        place: What the error line begins with, after `error: `.
        said: Words that the message holds.
        hint: Words that the hint holds.
    """
    lines = err.splitlines()
    assert "Traceback" not in err
    opening = [line for line in lines if line.startswith("error: ")]
    hints = [line for line in lines if line.startswith("  hint: ")]
    assert len(opening) == 1, err
    assert len(hints) == 1, err
    assert opening[0].startswith(f"error: {place}"), err
    message = err[err.index("error: ") : err.index("  hint: ")]
    for words in [said] if isinstance(said, str) else said:
        assert words in message, err
    assert len(hints[0]) > len("  hint: ")
    assert hint in hints[0], err


def content_of(folder):
    """Every file below a folder with the hash of its content; the lock and the log of a run come and go."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in (".lock", "run.log")
    }


def assert_kept(before, after):
    """What was there is there, with the same content; a part file that was never finished is nobody's."""
    assert {name: after.get(name) for name in before} == before
    assert not [name for name in after if name.endswith(".part") and name not in before]


def questions(n=60, **columns):
    """Rows of a good table; `columns` replaces or adds one, by value or by function of the row number."""
    rows = []
    for i in range(n):
        entropy = (i % 10) / 10 + 0.5 * (i % 3 == 0)
        row = {"question": f"What is {i}?", "options": ["one", "two", "three"], "answer": "ABC"[i % 3]}
        row |= {"entropy": entropy, "right": i % 3 != 0}
        row |= {name: value(i) if callable(value) else value for name, value in columns.items()}
        rows.append(row)
    return rows


def as_jsonl(rows):
    """Rows as JSON Lines; NaN and the infinities as Python writes them."""
    return "".join(json.dumps(row) + "\n" for row in rows)


def write_recipe(folder, table="q.jsonl", url=NOBODY, more="", named=None):
    """A recipe beside its table, which is written too where it is not there yet; `named` is how it names the table."""
    source = folder / table
    if not source.exists() and source.suffix == ".jsonl":
        source.write_text(as_jsonl(questions()))
    path = folder / "my.yaml"
    path.write_text(RECIPE.format(source=json.dumps(named or str(source)), url=url) + more)
    return path
