"""What a run says: plain lines without a terminal, one calm picture on one, and a log that keeps no secret."""

import fcntl
import io
import json
import logging
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
import warnings
from types import SimpleNamespace

import pyte
import pytest
from rich.console import Console
from werkzeug import Response

from teachwise import console, live_view, prepare
from teachwise.errors import DataError
from teachwise.live_view import Above, View, seconds_left
from teachwise.pipeline import run
from teachwise.run_log import LOG, logged, secret_values, to_log
from teachwise.tasks.table import write_table

STEPS = {"prepare": 1, "score": 1, "validate": 1, "route": 5, "teach": 5}
KEY = "sk-very-secret-0123456789"


@pytest.fixture
def recipe(tmp_path, httpserver):
    """A recipe that needs no model up to `teach`, and whose teacher answers when told."""
    rows = [
        {
            "question": f"What is {n}?",
            "options": ["one", "two", "three"],
            "answer": "ABC"[n % 3],
            "entropy": (n % 10) / 10 + 0.5 * (n % 3 == 0),
            "right": n % 3 != 0,
            "split": ("train", "train", "train", "dev", "test")[n % 5],
        }
        for n in range(90)
    ]
    write_table(tmp_path / "q.jsonl", rows)

    def write(**more):
        teacher = {"model": "big", "base_url": httpserver.url_for("/v1"), "concurrency": 2, **more}
        lines = [
            "student: toy",
            f"teacher: {json.dumps(teacher)}",
            f"data: {{source: {tmp_path / 'q.jsonl'}}}",
            "budget: {teacher_tokens: 900000}",
            "score: {measure: column, column: entropy, correct: right}",
        ]
        (tmp_path / "my.yaml").write_text("\n".join(lines) + "\n")
        return tmp_path / "my.yaml"

    return write


def answer_after(httpserver, seconds):
    message = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "So it is. [[ A ]]"}}
    usage = {"prompt_tokens": 50, "completion_tokens": 9, "total_tokens": 59}
    body = {"id": "1", "object": "chat.completion", "created": 0, "model": "big", "choices": [message], "usage": usage}

    def answer(_):
        time.sleep(seconds)
        return Response(json.dumps(body), content_type="application/json")

    httpserver.expect_request("/v1/chat/completions").respond_with_handler(answer)


# a terminal


class Terminal:
    """A command in a pseudo-terminal, and the screen that a person would see."""

    def __init__(self, words, columns=80, lines=40):
        self.screen = pyte.HistoryScreen(columns, lines, history=5000)
        self._stream = pyte.ByteStream(self.screen)
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        env = {**os.environ, "TERM": "xterm-256color", "LC_ALL": "C.UTF-8"}
        for name in ("NO_COLOR", "COLUMNS", "LINES"):
            env.pop(name, None)
        self._ours = ours
        self.process = subprocess.Popen(
            words, stdin=theirs, stdout=theirs, stderr=theirs, env=env, start_new_session=True, close_fds=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )  # fmt: skip
        os.close(theirs)

    @property
    def shown(self):
        return [line.rstrip() for line in self.screen.display if line.strip()]

    def read(self, until=lambda shown: False, seconds=240):
        """Feed the screen until it looks so, or the command ends; returns every picture on the way."""
        pictures, end = [], time.monotonic() + seconds
        while time.monotonic() < end and not until(self.shown):
            if select.select([self._ours], [], [], 0.2)[0]:
                try:
                    found = os.read(self._ours, 65536)
                except OSError:
                    break
                if not found:
                    break
                self._stream.feed(found)
                pictures.append(self.shown)
        return pictures

    def press(self, keys):
        os.write(self._ours, keys)

    def ended(self):
        self.read()
        code = self.process.wait(timeout=60)
        os.close(self._ours)
        return code


def teachwise(*words):
    return [sys.executable, "-m", "teachwise", *map(str, words)]


def at_teach(shown):
    return any(re.search(r"▸ +teach", line) for line in shown) and any("teaching" in line for line in shown)


@pytest.mark.parametrize("columns", [80, 44])
def test_a_run_on_a_terminal_shows_its_steps_and_leaves_only_finished_lines(recipe, tmp_path, httpserver, columns):
    answer_after(httpserver, 0.02)
    terminal = Terminal(teachwise("run", recipe(), "--until", "teach", "--out", tmp_path / "run"), columns, 120)
    pictures = terminal.read()
    assert terminal.ended() == 0
    at_work = [shown for shown in pictures if at_teach(shown)]
    assert at_work, "the step at work was never shown"
    for shown in at_work:
        assert sum("teaching" in line for line in shown) == 1, "the bar stands twice: " + "\n".join(shown)
        assert sum(bool(re.search(r"▸ ", line)) for line in shown) == 1
    if columns == 80:
        assert any(re.search(r"✓ +prepare +[\d.]+ s", line) for line in at_work[-1])
        assert any(re.search(r"[1-9][\d,]* of 900,000 teacher tokens .* so far", line) for line in at_work[-1])
    assert not any(word in line for line in terminal.shown for word in ("▸", "✓", "━", "so far"))
    text = " ".join(terminal.shown)
    for line in ("done  prepare", "done  validate", "plan  54 ", "done  teach distill (seed 0)"):
        assert line in text
    assert " ".join(terminal.shown[-2:]).replace(" ", "").endswith(f"teachisdonein{tmp_path / 'run'}".replace(" ", ""))
    assert not terminal.screen.cursor.hidden


def test_ctrl_c_leaves_the_terminal_clean_and_says_how_to_go_on(recipe, tmp_path, httpserver):
    answer_after(httpserver, 0.1)
    terminal = Terminal(teachwise("run", recipe(), "--until", "teach", "--out", tmp_path / "run"))
    terminal.read(until=at_teach)
    assert at_teach(terminal.shown)
    terminal.press(b"\x03")
    assert terminal.ended() == 130
    assert terminal.shown[-1].endswith("interrupted; run the same command again to go on from here")
    assert not any(word in line for line in terminal.shown for word in ("▸", "✓", "━", "Traceback"))
    assert not terminal.screen.cursor.hidden
    assert "interrupted after" in (tmp_path / "run" / LOG).read_text().splitlines()[-1]


NOISY = """
import logging, sys, time, warnings
from teachwise.console import say, watching, progress
from teachwise.run_log import logged
import pathlib
with logged(pathlib.Path(sys.argv[1]), {}), watching({"train": 2}) as view:
    view.begin("train", "train sft (seed 0)")
    with progress("training sft", 50) as bar:
        for n in range(50):
            time.sleep(0.02)
            bar.advance(1, "loss 0.5")
            sys.stderr.write(f"\\rforeign bar {n}")
            if n == 20:
                print("a line of a library")
                warnings.warn("careful")
                logging.getLogger("lib").warning("odd thing")
        sys.stderr.write("\\n")
    view.end("train", True)
    say("[green]done[/green]  train sft")
print("the end")
"""


def test_what_libraries_write_never_breaks_into_the_picture(tmp_path):
    terminal = Terminal([sys.executable, "-c", NOISY, str(tmp_path / "run.log")])
    pictures = terminal.read()
    assert terminal.ended() == 0
    for shown in pictures:
        assert sum("training sft" in line for line in shown) <= 1
        assert sum(bool(re.search(r"train +0 of 2", line)) for line in shown) <= 1
    assert terminal.shown == ["a line of a library", "done  train sft", "the end"]
    log = (tmp_path / "run.log").read_text()
    assert all(
        words in log for words in ("a line of a library", "foreign bar 49", "careful", "[lib warning] odd thing")
    )


ASKING = """
import pathlib, sys
from teachwise.console import ask, progress, say, watching
from teachwise.run_log import logged
with logged(pathlib.Path(sys.argv[1]), {}), watching({"score": 1, "route": 1, "teach": 5}) as view:
    view.begin("score", "score")
    with progress("scoring", 5) as bar:
        bar.advance()
    view.end("score", True)
    view.begin("route", "route")
    for number in range(12):
        say(f"plan {number}")
    try:
        say("bought" if ask("spend up to $12?") else "nothing is bought")
    except KeyboardInterrupt:
        say("stopped")
    view.end("route", True)
    view.begin("teach", "teach")
print("the end")
"""


@pytest.mark.parametrize(
    ("keys", "after"),
    [(b"y\n", "bought"), (b"n\n", "nothing is bought"), (b"\x04", "nothing is bought"), (b"\x03", "stopped")],
)
def test_what_one_agrees_to_stays_on_the_screen(tmp_path, keys, after):
    terminal = Terminal([sys.executable, "-c", ASKING, str(tmp_path / "run.log")], 100)
    terminal.read(until=lambda shown: any("[y/N]" in line for line in shown))
    assert not any("so far" in line for line in terminal.shown), "no picture beside a question"
    terminal.press(keys)
    terminal.read()
    assert terminal.ended() == 0
    told = [f"plan {number}" for number in range(12)]
    assert terminal.shown[:12] == told
    assert terminal.shown[12].startswith("spend up to $12? [y/N]")
    assert terminal.shown[13:] == [after, "the end"]


# the picture


@pytest.mark.parametrize("height", [10, 40])
@pytest.mark.parametrize("width", [20, 41, 80, 200])
def test_the_picture_is_never_wider_than_the_terminal(width, height):
    view = View(STEPS, "12,345 of 400,000 teacher tokens, $0.25 of $2.00")
    for step in ("prepare", "score"):
        view.begin(step, step)
        view.end(step, is_new=True)
    view.begin("route", "route an_arm_with_a_very_long_name_indeed (seed 0)")
    view.jobs.add_task("a job with a long name, stage-0", total=1000, completed=400, note="loss 0.123")
    paper = Console(file=io.StringIO(), width=width, height=height, force_terminal=True, color_system=None)
    paper.print(view.render(paper))
    lines = paper.file.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert any("route" in line for line in lines)
    assert any("teach" in line and "0 of" in line for line in lines) == (height == 40)
    assert len(lines) <= height


def test_time_left_counts_the_units_to_come_and_not_those_of_a_moment():
    assert seconds_left(10, 0.5, [], 0) == 10
    assert seconds_left(10, 0.5, [0.01], 3) == 10 + 3 * 20
    assert seconds_left(5, 0.0, [0.01, 30], 1) == 25 + 30
    assert seconds_left(5, 0.01, [], 4) is None
    assert seconds_left(90, 0.0, [30], 0) == 0


@pytest.mark.parametrize(("units", "left"), [(2, "6 s"), (3, "16 s"), (5, "36 s")])
def test_the_unit_at_work_is_not_counted_among_those_to_come(monkeypatch, units, left):
    now = 100.0
    monkeypatch.setattr(live_view.time, "monotonic", lambda: now)
    view = View({"train": units})
    view.begin("train", "train sft")
    now = 110.0
    view.end("train", is_new=True)
    view.begin("train", "train banded")
    now = 114.0
    paper = Console(file=io.StringIO(), width=80, height=40)
    paper.print(view.render(paper))
    assert paper.file.getvalue().splitlines()[-1].strip() == f"14 s so far   about {left} left in train"


def test_half_lines_are_kept_until_they_end():
    paper = Console(file=io.StringIO(), width=60)
    above = Above(paper)
    above.write("half ")
    assert paper.file.getvalue() == ""
    above.write("whole\nrest")
    assert paper.file.getvalue() == "half whole\n"
    above.finish()
    assert paper.file.getvalue() == "half whole\nrest\n"


def test_without_a_terminal_there_are_plain_lines_and_a_long_job_speaks_once_in_a_while(monkeypatch, capsys):
    clock = [0.0]
    monkeypatch.setattr(console, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    with console.watching(STEPS) as view:
        view.begin("score", "score")
        with console.progress("scoring [x]", total=200) as bar:
            for second in range(0, 150, 5):
                clock[0] = second
                bar.at(1 + second // 5, f"at {second}", f"{1000 + second:,} tokens")
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "  scoring [x]: 4 of 200 1,015 tokens  at 15",
        "  scoring [x]: 16 of 200 1,075 tokens  at 75",
        "  scoring [x]: 28 of 200 1,135 tokens  at 135",
    ]


def test_every_long_job_has_a_bar_that_speaks(recipe, tmp_path, httpserver, monkeypatch, capsys):
    monkeypatch.setattr(console, "FIRST_SECONDS", 0)
    monkeypatch.setattr(console, "LOG_SECONDS", 0)
    answer_after(httpserver, 0)
    arms = "arms={sft: {policy: all, give: answer}, distill: {policy: all, give: rationale}}"
    few = "data.limit={train: 40, dev: 2, test: 2}"
    run(recipe(), "score={}", "validate.on_fail=warn", "train.epochs=1", "evaluate.max_new_tokens=4", few,
        "on_rejected=answer", arms, out=tmp_path / "run", until="evaluate")  # fmt: skip
    err = capsys.readouterr().err
    taught = r"teaching: \d+ of 40 [\d,]+ of 900,000 teacher tokens"
    for said in (r"scoring: \d+ of 44", taught, "training sft, stage-0: 1 of 3"):
        assert re.search(f"^  {said}", err, re.MULTILINE), said
    assert len(re.findall(r"^  [^:]*: \d+ of 4 ", err, re.MULTILINE)) >= 2, "evaluating"


def test_forced_colours_in_a_file_draw_no_picture(recipe, tmp_path):
    words = teachwise("run", recipe(), "--until", "route", "--out", tmp_path / "run")
    done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "FORCE_COLOR": "1"})
    assert done.returncode == 0
    assert "✓" not in done.stderr
    assert "\x1b[?25l" not in done.stderr


# the log


def test_every_line_said_is_in_the_log_with_a_time_and_no_markup_and_starts_are_told_apart(recipe, tmp_path, capsys):
    for _ in range(2):
        run(recipe(), out=tmp_path / "run", until="route")
    said = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    lines = (tmp_path / "run" / LOG).read_text().splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  ", line) for line in lines)
    texts = [line[21:] for line in lines]
    assert [text for text in texts if not text.startswith(("== ", "ended "))] == said
    assert sum(text.startswith("== teachwise 0.") for text in texts) == 2
    assert not any("\x1b" in line or "[/" in line for line in lines)


def test_a_crash_leaves_its_traceback_in_the_log_without_any_secret(recipe, tmp_path, monkeypatch, httpserver):
    monkeypatch.setenv("MY_VAR", "tiny")
    monkeypatch.setenv("SOME_API_KEY", KEY)

    def crash(recipe, run, unit):
        warnings.warn(f"sent {KEY}", stacklevel=1)
        logging.getLogger("lib").error("with tiny")
        raise RuntimeError(f"server said: bad key {KEY}, or tiny")

    monkeypatch.setattr(prepare, "prepare_examples", crash)
    with pytest.raises(RuntimeError):
        run(recipe(key_env="MY_VAR"), out=tmp_path / "run", until="prepare")
    log = (tmp_path / "run" / LOG).read_text()
    assert "Traceback" in log
    assert "RuntimeError: server said: bad key <SOME_API_KEY>, or <MY_VAR>" in log
    assert "UserWarning: sent <SOME_API_KEY>" in log
    assert "[lib error] with <MY_VAR>" in log
    assert KEY not in log
    assert "tiny" not in log


def test_a_mistake_of_the_user_is_in_the_log_without_a_traceback(recipe, tmp_path, monkeypatch):
    def refuse(recipe, run, unit):
        raise DataError("q.csv: is odd", "mend it")

    monkeypatch.setattr(prepare, "prepare_examples", refuse)
    with pytest.raises(DataError):
        run(recipe(), out=tmp_path / "run", until="prepare")
    log = (tmp_path / "run" / LOG).read_text()
    assert "stopped: q.csv: is odd" in log
    assert "Traceback" not in log


def test_only_values_that_sound_secret_are_looked_for(monkeypatch):
    for name, value in {"A_TOKEN": "a" * 8, "B_KEY": "short", "TOKENIZERS_PARALLELISM": "falsefalse"}.items():
        monkeypatch.setenv(name, value)
    found = secret_values()
    assert found["a" * 8] == "A_TOKEN"
    assert "short" not in found
    assert "falsefalse" not in found
    assert secret_values("B_KEY")["short"] == "B_KEY"


def test_a_run_leaves_logging_and_warnings_as_it_found_them(tmp_path):
    before = warnings.showwarning, list(logging.getLogger().handlers)
    with pytest.raises(KeyboardInterrupt), logged(tmp_path / LOG, {}):
        raise KeyboardInterrupt
    assert (warnings.showwarning, list(logging.getLogger().handlers)) == before


def test_a_librarys_own_handler_is_taken_away(tmp_path, capsys):
    logger = logging.getLogger("some_library")
    logger.addHandler(logging.StreamHandler(sys.stderr))
    logger.propagate = False
    to_log("some_library")
    with logged(tmp_path / LOG, {}):
        logger.warning("hm")
    logger.warning("later on")
    assert capsys.readouterr().err == ""
    log = (tmp_path / LOG).read_text()
    assert "[some_library warning] hm" in log
    assert "later on" not in log
