"""The `teachwise` command: help, messages, exit codes, and what it never writes down."""

import json
import os
import signal
import subprocess
import sys
from importlib.metadata import version

import pytest
import typer.main

from teachwise import cli
from teachwise.tasks.table import read_table, write_table

KEY = "sk-very-secret-0123456789"
MAIN = "from teachwise.cli import main; main()"
HEAVY = ("torch", "pyarrow", "scipy", "sklearn", "transformers", "pandas", "datasets", "openai")


def commands():
    """Every command as its words: ("run",), ("toy", "serve")."""
    group = typer.main.get_command(cli.app)
    for name, command in group.commands.items():
        inner = getattr(command, "commands", {})
        yield from ((name, verb) for verb in inner)
        if not inner:
            yield (name,)


@pytest.fixture
def teachwise(monkeypatch, capsys):
    """Runs the command in this process; returns its exit code, stdout and stderr."""

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["teachwise", *map(str, words)])
        try:
            cli.main()
            code = 0
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    return call


def shell(code, *words, **more):
    return subprocess.run([sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True, **more)


@pytest.fixture
def table(tmp_path):
    """90 scored questions in a table; the score tells right from wrong, with some overlap."""
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
    return tmp_path / "q.jsonl"


@pytest.fixture
def recipe(tmp_path, table, httpserver):
    """A recipe that needs no model up to `teach`: scores from the table, a teacher on this machine."""

    def write(min_auc=0.6, tokens="null", **teacher):
        section = {"model": "big", "base_url": httpserver.url_for("/v1"), **teacher}
        lines = [
            "student: toy",
            f"teacher: {json.dumps(section)}",
            f"data: {{source: {table}}}",
            f"budget: {{teacher_tokens: {tokens}}}",
            "score: {measure: column, column: entropy, correct: right}",
            f"validate: {{min_auc: {min_auc}}}",
        ]
        (tmp_path / "my.yaml").write_text("\n".join(lines) + "\n")
        return tmp_path / "my.yaml"

    return write


def reply(text="So it is one. [[A]]"):
    message = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
    usage = {"prompt_tokens": 50, "completion_tokens": 9, "total_tokens": 59}
    return {"id": "1", "object": "chat.completion", "created": 0, "model": "big", "choices": [message], "usage": usage}


# help


def test_there_is_a_command_for_every_step():
    names = {words[0] for words in commands()}
    steps = {"score", "validate", "route", "teach", "train", "evaluate", "compare", "report"}
    assert steps | {"demo", "check", "run", "export", "toy"} <= names


@pytest.mark.parametrize("words", list(commands()), ids=" ".join)
def test_every_commands_help_has_an_example_that_begins_with_it(teachwise, words):
    code, out, _ = teachwise(*words, "--help")
    assert code == 0
    assert f"Example: teachwise {' '.join(words)}" in " ".join(out.split())


@pytest.mark.parametrize("words", list(commands()), ids=" ".join)
def test_every_option_in_an_example_exists(words):
    command = typer.main.get_command(cli.app)
    for word in words:
        command = command.commands[word]
    known = {name for parameter in command.params for name in parameter.opts}
    example = command.help.partition("Example: `")[2].partition("`")[0]
    assert {word for word in example.split() if word.startswith("--")} <= known


def test_help_loads_none_of_the_heavy_libraries():
    code = (
        "import sys\nfrom teachwise.cli import main\nsys.argv = ['teachwise', '--help']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        f"print('LOADED', sorted(set(sys.modules) & set({HEAVY!r})))"
    )
    found = shell(code)
    assert "Usage: teachwise" in found.stdout
    assert found.stdout.splitlines()[-1] == "LOADED []"


@pytest.mark.parametrize("words", [(), ("toy",)])
def test_no_command_shows_the_help_and_no_error_without_a_message(teachwise, words):
    code, out, err = teachwise(*words)
    assert code == 2
    assert "Usage" in out + err
    assert "error:" not in out + err


# exit codes and messages


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nope"], "No such command 'nope'"),
        (["check"], "Missing argument 'RECIPE'"),
        (["check", "toy", "--nope"], "No such option: --nope"),
        (["check", "toyy"], "toyy: no such recipe file"),
        (["check", "toy", "trian.epochs=1"], "did you mean 'train'?"),
        (["check", "toy", "train.epochs=["], "the value is not YAML"),
        (["run", "toy", "--until", "trian"], "no step is called 'trian'"),
        (["run", "TMP/gone.yaml"], "gone.yaml: no such recipe file"),
        (["score", "TABLE"], "score: a table wants --student and --out"),
        (["validate", "TABLE"], "validate: a table wants --score COLUMN and --correct COLUMN"),
        (["validate", "TABLE", "--score", "entropi", "--correct", "right"], "no column 'entropi'"),
        (["validate", "TABLE", "--score", "question", "--correct", "right"], "row 0: question is 'What is 0?'"),
        (["validate", "TMP/gone.csv", "--score", "a", "--correct", "b"], "gone.csv: no such file"),
        (["route", "TABLE"], "route: a table wants --score COLUMN and --out FILE"),
        (["route", "TABLE", "--score", "entropy", "--out", "TMP/o.xlsx"], "unknown kind '.xlsx'"),
        (["route", "TABLE", "--score", "entropy", "--out", "TMP/o.csv", "--edges", "0.5"], "wanted two numbers"),
        (
            ["route", "TABLE", "--score", "entropy", "--out", "TMP/o.csv", "--edges", "0.9,0.1"],
            "0 < first < second < 1",
        ),
        (["route", "TABLE", "--score", "entropy", "--out", "TMP/o.csv", "--edges", "nan,0.1"], "0 < first < second"),
        (["export", "TMP"], "is no run folder"),
        (["plan", "TMP/gone.yaml"], "gone.yaml: no such recipe file"),
        (["ledger", "TMP"], "is no run folder and no ledger"),
        (["ledger", "TMP/gone.sqlite"], "is no run folder and no ledger"),
        (["export", "TMP", "--format", "jsonl"], "unknown format 'jsonl'"),
    ],
)
def test_a_mistake_of_the_user_is_one_message_and_exit_2(teachwise, tmp_path, table, words, message):
    words = [word.replace("TMP", str(tmp_path)).replace("TABLE", str(table)) for word in words]
    code, out, err = teachwise(*words)
    assert code == 2
    assert out == ""
    assert err.startswith("error: ")
    assert message in err
    assert "\n  hint: " in err
    assert err.partition("  hint: ")[2].strip()
    assert "Traceback" not in err
    assert [path.name for path in tmp_path.iterdir()] == ["q.jsonl"]


def test_a_fault_of_ours_is_a_traceback_and_exit_1():
    found = shell(f"import teachwise.recipe as r; r.load_recipe = lambda *a: 1 / 0; {MAIN}", "check", "toy")
    assert found.returncode == 1
    assert "Traceback" in found.stderr
    assert "ZeroDivisionError" in found.stderr
    assert "hint:" not in found.stderr


def test_a_gate_that_says_no_is_exit_3_and_nothing_is_bought(teachwise, recipe, tmp_path, httpserver):
    code, _, err = teachwise("teach", recipe(min_auc=0.99), "--out", tmp_path / "run")
    assert code == 3
    assert "error: validate: ROC AUC 0." in err
    assert "  hint: " in err
    assert "Traceback" not in err
    assert httpserver.log == []
    assert not (tmp_path / "run" / "ledger.sqlite").exists()
    assert (tmp_path / "run" / "validate" / "manifest.json").exists()


def test_a_budget_that_is_spent_is_exit_3_and_what_was_bought_is_kept(teachwise, recipe, tmp_path, httpserver):
    httpserver.expect_request("/v1/chat/completions").respond_with_json(reply())
    path = recipe(tokens=2500, max_tokens=1000, concurrency=1)
    code, _, err = teachwise("teach", path, "--out", tmp_path / "run")
    assert code == 3
    assert "error: teach: budget spent" in err
    bought = len(httpserver.log)
    assert 0 < bought < 54
    code, _, _ = teachwise("teach", path, "budget.teacher_tokens=null", "--out", tmp_path / "run")
    assert code == 0
    assert len(httpserver.log) == 54  # one for every train example, none of them twice
    code, _, _ = teachwise("teach", path, "budget.teacher_tokens=null", "--out", tmp_path / "run")
    assert (code, len(httpserver.log)) == (0, 54)


def test_a_dear_teacher_wants_a_yes_and_partial_goes_on_where_the_budget_ends(teachwise, recipe, tmp_path, httpserver):
    httpserver.expect_request("/v1/chat/completions").respond_with_json(reply())
    words = (
        "teach",
        recipe(max_tokens=100, concurrency=1),
        "budget.prices={input: 900, output: 900}",
        "budget.requests=7",
    )
    code, _, err = teachwise(*words, "--out", tmp_path / "run")
    assert (code, httpserver.log) == (3, [])
    assert "nobody said yes" in err
    assert "go on with --yes" in err
    code, _, err = teachwise(*words, "--out", tmp_path / "run", "--yes")
    assert (code, len(httpserver.log)) == (3, 7)
    assert "error: teach: budget spent" in err
    code, _, err = teachwise(*words, "--out", tmp_path / "run", "--partial")
    assert (code, len(httpserver.log)) == (0, 7)
    assert "are not bought" in err


def test_a_plan_and_an_account_are_printed_on_stdout(teachwise, recipe, tmp_path, httpserver):
    httpserver.expect_request("/v1/chat/completions").respond_with_json(reply())
    code, out, err = teachwise("plan", recipe(), "--out", tmp_path / "run")
    assert (code, httpserver.log) == (0, [])
    assert out.startswith("teacher   big at localhost\nto buy    54 of 54 rationales, 54 requests\n")
    assert "done  route" in err
    assert teachwise("teach", recipe(), "--out", tmp_path / "run")[0] == 0
    code, out, err = teachwise("ledger", tmp_path / "run")
    assert (code, err) == (0, "")
    assert out.startswith(f"{tmp_path / 'run' / 'ledger.sqlite'}: 54 requests, 3,186 teacher tokens\n")


@pytest.mark.parametrize("words", [("check", "toy"), ("toy", "serve")], ids=" ".join)
def test_ctrl_c_is_exit_130_and_one_line(monkeypatch, teachwise, words):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("teachwise.recipe.load_recipe", interrupted)
    monkeypatch.setattr("teachwise.toy.server.serve", interrupted)
    code, out, err = teachwise(*words)
    assert (code, out) == (130, "")
    assert err.strip() == "interrupted; run the same command again to go on from here"


def test_a_real_interrupt_is_exit_130_without_a_traceback():
    serving = subprocess.Popen(
        [sys.executable, "-m", "teachwise", "toy", "serve", "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert "toy teacher at http://127.0.0.1:" in serving.stdout.readline()
        serving.send_signal(signal.SIGINT)
        _, err = serving.communicate(timeout=20)
    finally:
        serving.kill()
    assert serving.returncode == 130
    assert "interrupted" in err
    assert "Traceback" not in err


# what it does


def test_check_prints_a_recipe_that_checks(teachwise, tmp_path):
    code, out, _ = teachwise("check", "toy", "train.epochs=2")
    (tmp_path / "resolved.yaml").write_text(out)
    again = teachwise("check", tmp_path / "resolved.yaml")
    assert (code, again[0]) == (0, 0)
    assert out == again[1]
    assert "  epochs: 2" in out


def test_validate_prints_json_alone_on_stdout(teachwise, table):
    code, out, err = teachwise("validate", table, "--score", "entropy", "--correct", "right", "--json")
    found = json.loads(out)
    assert (code, err) == (0, "")
    assert {"auc", "auc_low", "auc_high", "n", "by"} <= set(found)
    assert found["n"] == 90


def test_route_writes_the_bands_and_says_their_sizes(teachwise, table, tmp_path):
    out_file = tmp_path / "banded.csv"
    code, out, _ = teachwise("route", table, "--score", "entropy", "--edges", "0.5,0.9", "--out", out_file)
    assert (code, out) == (0, f"easy 45  medium 36  hard 9  -> {out_file}\n")
    assert len(read_table(str(out_file))) == 90


def test_a_run_goes_from_a_table_to_an_export_and_the_same_command_does_nothing_again(
    teachwise, recipe, tmp_path, httpserver
):
    httpserver.expect_request("/v1/chat/completions").respond_with_json(reply())
    words = ("run", recipe(), "--until", "teach", "--out", tmp_path / "run")
    code, out, err = teachwise(*words)
    assert (code, out) == (0, f"teach is done in {tmp_path / 'run'}\n")
    assert "done  prepare" in err
    code, _, err = teachwise(*words)
    assert code == 0
    assert "done  " not in err
    assert "kept  teach: 5 of 5 done before" in err
    code, out, _ = teachwise("export", tmp_path / "run", "--format", "messages", "--out", tmp_path / "data")
    assert code == 0
    lines = (tmp_path / "data" / "stage-0.jsonl").read_text().splitlines()
    assert f"{tmp_path / 'data' / 'stage-0.jsonl'}  {len(lines)} rows" in out


def test_an_example_that_fails_for_good_is_told_and_exit_2(teachwise, recipe, tmp_path, httpserver):
    httpserver.expect_request("/v1/chat/completions").respond_with_json({"error": {"message": "too long"}}, status=400)
    code, _, err = teachwise("teach", recipe(), "--out", tmp_path / "run")
    assert code == 2
    assert "error: teach: " in err
    assert "failed" in err
    assert "BadRequestError" in err
    assert "what came back is kept" in err
    assert len(httpserver.log) < 54, "it went on to the next arm"
    assert "Traceback" not in err


# secrets


@pytest.mark.parametrize("status", [200, 400, 401])
def test_the_key_from_the_environment_is_sent_and_written_nowhere(
    monkeypatch, teachwise, recipe, tmp_path, httpserver, status
):
    monkeypatch.setenv("MY_KEY", KEY)
    body = reply() if status == 200 else {"error": {"message": f"Incorrect API key provided: {KEY}"}}
    httpserver.expect_request("/v1/chat/completions").respond_with_json(body, status=status)
    code, out, err = teachwise("teach", recipe(key_env="MY_KEY"), "--out", tmp_path / "run")
    assert code == (0 if status == 200 else 2)
    assert httpserver.log[0][0].headers["Authorization"] == f"Bearer {KEY}"
    assert KEY not in out + err
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(path.name == "resolved.yaml" for path in files)
    assert any(path.name == "ledger.sqlite" for path in files)
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []


def test_a_key_that_is_not_set_is_named_before_anything_is_sent(monkeypatch, teachwise, recipe, tmp_path, httpserver):
    monkeypatch.delenv("MY_KEY", raising=False)
    code, _, err = teachwise("teach", recipe(key_env="MY_KEY"), "--out", tmp_path / "run")
    assert code == 2
    assert "environment variable MY_KEY is not set" in err
    assert "export MY_KEY=your-key" in err
    assert httpserver.log == []


def test_a_broken_locale_does_not_break_the_help():
    found = shell(MAIN, "--help", env={**os.environ, "LC_ALL": "C", "COLUMNS": "80"})
    assert found.returncode == 0
    assert "Usage" in found.stdout


def test_the_version_is_told(teachwise):
    assert teachwise("--version") == (0, f"teachwise {version('teachwise')}\n", "")


def test_a_run_folder_in_place_of_a_recipe_leads_to_its_report_and_its_recipe(teachwise, recipe, tmp_path):
    run = tmp_path / "run"
    assert teachwise("prepare", recipe(), "--out", run)[0] == 0
    code, _, err = teachwise("report", run)
    assert code == 2
    assert f"error: {run}: is a run folder, wanted a recipe" in err
    assert f"hint: its recipe: teachwise report {run}/resolved.yaml --out {run}" in err
    (run / "report").mkdir()
    (run / "report" / "report.html").touch()
    assert f"hint: its report lies at {run}/report/report.html; its recipe: " in teachwise("report", run)[2]


def test_init_says_first_that_it_was_given_a_recipe(teachwise, tmp_path):
    for name in ("second.yaml", "my.yml"):
        code, _, err = teachwise("init", tmp_path / name)
        assert code == 2
        assert f"error: {tmp_path / name}: is a recipe by its name, wanted a table of questions" in err
