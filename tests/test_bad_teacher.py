"""A teacher that is down, refuses or talks nonsense: said in one line, and what was paid for stays."""

import json
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Response

from complaint import NOBODY, assert_told, teachwise, write_recipe
from teachwise import open_run
from teachwise.teacher.buying import HOPELESS
from teachwise.teacher.ledger import Ledger
from teachwise.toy.server import complete
from teachwise.toy.teacher import FLAWLESS

ONE_ARM = "arms: {distill: {policy: all, give: rationale}}\n"


def reply():
    message = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "So. [[A]]"}}
    usage = {"prompt_tokens": 50, "completion_tokens": 9, "total_tokens": 59}
    return {"id": "1", "object": "chat.completion", "created": 0, "model": "big", "choices": [message], "usage": usage}


NONSENSE = "the reply is no chat completion, but "
TEACHER_CASES = {
    "401": (401, {"error": {"message": "no"}}, "refuses (401)", "check the key that teacher.key_env names"),
    "403": (403, {"error": {"message": "no"}}, "refuses (403)", "check the key that teacher.key_env names"),
    "404": (404, {"error": {"message": "no", "code": "model_not_found"}}, "refuses (404, model_not_found)", "'big'"),
    "a page for 404": (404, "<html>nginx</html>", "refuses (404)", "mostly ends in /v1"),
    "an empty account": (429, {"error": {"code": "insufficient_quota"}}, "insufficient_quota", "fill it up"),
    "a web site": (200, "<html>Welcome</html>", f"{NONSENSE}'<html>Welcome</html>'", "run again"),
    "half JSON": (200, '{"choices": [', NONSENSE, "run again"),
    "nothing": (200, "", NONSENSE, "run again"),
    "no choices": (200, {"choices": []}, f"{NONSENSE}'no choices'", "run again"),
    "no text": (200, {"choices": [{"message": {"content": 5}}]}, "without a text that can be read", "run again"),
    "bad request": (400, {"error": {"message": "too long"}}, "BadRequestError: ", "mend what it says"),
    "broken": (500, "boom", " answers 500: ", "mend what it says"),
    "too fast for hours": (429, {"error": {"message": "slow down"}}, "turns requests away until ", "then, or lower"),
    "an account without money": (402, {"error": {"message": "Insufficient Balance"}}, "refuses (402)", "fill it up"),
}


@pytest.fixture
def no_waiting(monkeypatch):
    monkeypatch.setattr("teachwise.teacher.buying.pause_seconds", lambda attempt: 0.0)


@pytest.mark.parametrize("name", TEACHER_CASES)
@pytest.mark.usefixtures("no_waiting")
def test_a_teacher_that_refuses_or_talks_nonsense_is_told_and_what_was_paid_for_stays(tmp_path, httpserver, name):
    status, content, said, hint = TEACHER_CASES[name]
    asked = []

    def answer(request):
        asked.append(1)
        if len(asked) < 6:
            return Response(json.dumps(reply()), 200, mimetype="application/json")
        text = content if isinstance(content, str) else json.dumps(content)
        kind = "text/html" if text.startswith("<") else "application/json"
        return Response(text, status, {"Retry-After": "7200"} if status == 429 else {}, mimetype=kind)

    httpserver.expect_request("/v1/chat/completions").respond_with_handler(answer)
    recipe = write_recipe(tmp_path, url=httpserver.url_for("/v1"), more=ONE_ARM)
    words = ("teach", recipe, "--out", tmp_path / "run", "teacher.concurrency=1")
    code, _, err = teachwise(*words)
    assert code == 2
    assert_told(err, "teach: ", said, hint)
    ledger = Ledger(tmp_path / "run" / "ledger.sqlite")
    n_odd = HOPELESS if name == "no text" else 0  # these were written and billed: they are not bought again
    assert ledger.totals()["requests"]["ok"] == 5 + n_odd
    ledger.close()


def refused(*_, **__):
    raise socket.gaierror(-2, "Name or service not known")


@pytest.mark.usefixtures("no_waiting")
def test_a_teacher_that_is_not_there_is_told_with_the_reason(tmp_path, monkeypatch):
    code, _, err = teachwise("teach", write_recipe(tmp_path, more=ONE_ARM), "--out", tmp_path / "run")
    assert code == 2
    assert_told(err, f"teach: the teacher at {NOBODY}/ does not answer", "Connection refused", "start the server")
    monkeypatch.setattr(socket, "getaddrinfo", refused)
    elsewhere = write_recipe(tmp_path, url="http://nobody.invalid/v1")
    code, _, err = teachwise("teach", elsewhere, "--out", tmp_path / "run", "--yes")
    assert code == 2
    assert_told(err, "teach: the teacher at http://nobody.invalid/v1/ does not answer", "Name or service not known")


@pytest.mark.parametrize(
    ("value", "said"),
    [(None, "is not set"), ("", "is not set"), ("sk-SECRET\n", "holds blanks"), ("“SECRET”", "holds")],
)
def test_a_key_that_cannot_be_one_is_told_before_any_work_and_not_repeated(tmp_path, monkeypatch, value, said):
    monkeypatch.setenv("BAD_KEY", value) if value is not None else monkeypatch.delenv("BAD_KEY", raising=False)
    words = ("teach", write_recipe(tmp_path), "--out", tmp_path / "run", "teacher.key_env=BAD_KEY")
    code, _, err = teachwise(*words)
    assert code == 2
    assert_told(err, "teacher.key_env: the environment variable BAD_KEY ", said, "export BAD_KEY=your-key")
    assert "SECRET" not in err
    assert not (tmp_path / "run" / "prepare").exists()


def test_ctrl_c_while_the_teacher_answers_keeps_what_was_paid_for(tmp_path, httpserver):
    def slowly(request):
        time.sleep(0.05)
        return Response(json.dumps(reply()), 200, mimetype="application/json")

    httpserver.expect_request("/v1/chat/completions").respond_with_handler(slowly)
    recipe = write_recipe(tmp_path, url=httpserver.url_for("/v1"), more=ONE_ARM)
    words = ["teach", str(recipe), "--out", str(tmp_path / "run"), "teacher.concurrency=2"]
    run = subprocess.Popen([sys.executable, "-m", "teachwise", *words], stderr=subprocess.PIPE, text=True)
    while len(httpserver.log) < 4 and run.poll() is None:
        time.sleep(0.02)
    run.send_signal(signal.SIGINT)
    _, err = run.communicate(timeout=60)
    assert run.returncode == 130
    assert err.splitlines()[-1] == "interrupted; run the same command again to go on from here"
    assert "Traceback" not in err
    assert teachwise(*words)[0] == 0
    assert len(httpserver.log) == 50, "something was bought twice"


# the key

KEY = "sk-planted-secret-4711"


def echoing():
    """A toy teacher that repeats the key it was sent wherever it can, and goes wrong in every way while it does."""
    n_asked, lock = [], threading.Lock()

    def answer(request):
        key = request.headers["Authorization"].removeprefix("Bearer ")
        with lock:
            n_asked.append(1)
            number = len(n_asked)
        headers = {"X-Key": key, "Retry-After": "0.01"}
        if number % 5 == 0:
            body = {"error": {"message": f"{'x' * 470} wrong key {key}", "code": key}}
            return Response(
                json.dumps(body), (400, 429, 500, 502)[number // 5 % 4], headers, mimetype="application/json"
            )
        if number % 7 == 0:
            return Response(f"<html>{key}</html>", 200, headers, mimetype="text/html")
        body = complete(request.json, seed=0, habits=FLAWLESS)
        message = body["choices"][0]["message"]
        message["reasoning_content"] = f"they gave me {key}"
        if number % 3 == 0:
            message["content"] = f"your key is {key}"
        return Response(json.dumps(body), 200, headers, mimetype="application/json")

    return answer


@pytest.mark.slow
def test_a_planted_key_is_in_no_file_no_log_no_report_and_on_no_screen(tmp_path, monkeypatch, no_waiting):
    monkeypatch.setenv("PLANTED_KEY", KEY)
    words = ["teacher.key_env=PLANTED_KEY", "data.limit={train: 60, dev: 20, test: 40}", "train.epochs=1"]
    words += ["arms={base: {policy: none}, distill: {policy: all, give: rationale}}", "validate.on_fail=warn"]
    words += ["on_rejected=answer", "min_usable=0"]
    with HTTPServer(host="127.0.0.1", threaded=True) as server:
        server.expect_request("/v1/chat/completions").respond_with_handler(echoing())
        words += [f"teacher.base_url={server.url_for('/v1')}"]
        for _ in range(6):  # it also fails, and the same command goes on
            code, out, err = teachwise("run", "toy", "--out", tmp_path / "run", *words)
            assert KEY not in out + err
            if code == 0:
                break
    assert code == 0, err
    assert all(request.headers["Authorization"] == f"Bearer {KEY}" for request, _ in server.log)
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert {"ledger.sqlite", "run.log", "report.html", "rationales.parquet"} <= {path.name for path in files}
    assert [path.name for path in files if KEY.encode() in path.read_bytes()] == []
    with sqlite3.connect(tmp_path / "run" / "ledger.sqlite") as db:  # as it reads, and not only as it is stored
        rows = db.execute("SELECT * FROM request").fetchall()
    assert KEY not in str(rows)
    assert "your key is [key]" in str(rows), "the teacher did repeat it"
    run = open_run(tmp_path / "run")
    assert KEY not in run.rationales.to_csv()
