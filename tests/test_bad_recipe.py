"""Every way to write a recipe wrong: one line with file and line, a hint, exit code 2, and the file as it was."""

import os

import pytest

from complaint import assert_told, content_of, teachwise, write_recipe
from test_recipe import GOOD

LINES = GOOD.splitlines()
UNTIL_ARMS = GOOD[: GOOD.index("arms:")]


def teacher(field):
    return {2: f"teacher: {{model: big, {field}}}"}


def data(field):
    return {3: f"data: {{source: q.jsonl, {field}}}"}


def train(field):
    return {7: f"  {field}"}


URL = "teacher.base_url: wanted http:// or https://"
LOCAL = "is for `engine: hf` and does nothing for `engine: openai`"
KEYS = "wanted `key: value` lines"
LINE_CASES = [
    # misspelt, missing and misplaced keys, in every section
    ("a section", {6: "trian:"}, 6, "unknown key 'trian'; did you mean 'train'?"),
    ("capitals", {1: "Student: toy"}, None, ["'student' is required", "my.yaml:1: unknown key 'Student'"]),
    ("student", {1: "student: {model: toy, dtypes: auto}"}, 1, "'student.dtypes'; did you mean 'dtype'?"),
    ("teacher", teacher("baseurl: http://x/v1"), 2, "'teacher.baseurl'; did you mean 'base_url'?"),
    ("data", data("splt: {train: 0.8}"), 3, "'data.splt'; did you mean 'split'?"),
    ("columns", data("columns: {qestion: q}"), 3, "'data.columns.qestion'; did you mean 'question'?"),
    ("split", data("split: {tran: 0.8}"), 3, "'data.split.tran'; did you mean 'train'?"),
    ("budget", {5: "  tokens: 5"}, 5, "unknown key 'budget.tokens'; did you mean 'teacher_tokens'?"),
    ("no cap", {5: "  on_spent: stop"}, 4, "name a cap"),
    ("train", train("epoch: 3"), 7, "'train.epoch'; did you mean 'epochs'?"),
    ("arm", {14: "    edgs: [0.25, 0.75]"}, 14, "'arms.banded.edgs'; did you mean 'edges'?"),
    ("band", {16: "      - {eazy: answer}"}, 16, "'arms.banded.stages.0.eazy'; did you mean 'easy'?"),
    ("score", {21: "score: {mesure: column}"}, 21, "'score.mesure'; did you mean 'measure'?"),
    ("validate", {21: "validate: {minauc: 0.5}"}, 21, "'validate.minauc'; did you mean 'min_auc'?"),
    ("evaluate", {21: "evaluate: {max_new_token: 5}"}, 21, "did you mean 'max_new_tokens'?"),
    ("in the wrong section", {21: "epochs: 3"}, 21, "unknown key 'epochs'; did you mean 'train.epochs'?"),
    ("no student", {1: ""}, None, "'student' is required"),
    ("no model", {2: "teacher: {engine: hf}"}, 2, "'teacher.model' is required"),
    ("no policy", {10: ""}, 9, "'arms.sft.policy' is required"),
    # nothing, and wrong types
    ("null student", {1: "student:"}, 1, f"student: {KEYS}, got nothing"),
    ("null section", {7: ""}, 6, f"train: {KEYS}, got nothing"),
    ("null arm", {9: "  sft:", 10: "", 11: ""}, 9, f"arms.sft: {KEYS}, got nothing"),
    ("null stage", {16: "      -"}, 16, f"arms.banded.stages.0: {KEYS}, got nothing"),
    ("null field", train("epochs:"), 7, "train.epochs: Input should be a valid number, got nothing"),
    ("text for a section", {3: "data: q.jsonl"}, 3, f"data: {KEYS}, got 'q.jsonl'"),
    ("text for an arm", {9: "  sft: all", 10: "", 11: ""}, 9, f"arms.sft: {KEYS}, got 'all'"),
    ("number for the student", {1: "student: 3"}, 1, f"student: {KEYS}, got 3"),
    ("empty student", {1: "student: ''"}, 1, "student.model: wanted a name, got ''"),
    ("number for seeds", {21: "seeds: 3"}, 21, "seeds: wanted a list, for instance [0, 1], got 3"),
    ("map for stages", {15: "    stages: {easy: answer}", 16: "", 17: ""}, 15, "arms.banded.stages: wanted a list"),
    ("text for edges", {14: "    edges: 0.25,0.75"}, 14, "arms.banded.edges: wanted a list, for instance [0.25, 0.75]"),
    ("number for a limit", data("limit: 50"), 3, f"data.limit: {KEYS}, got 50"),
    ("yes for a number", train("epochs: yes"), 7, "train.epochs: wanted a number, got true"),
    ("comma in a number", {5: "  teacher_tokens: 1,000"}, 5, "wanted a whole number, written out: 1000 or 1_000"),
    ("exponent", {5: "  teacher_tokens: 1e6"}, 5, "wanted a whole number, written out: 1000 or 1_000, got '1e6'"),
    ("a key that is no text", {21: "on: 1"}, 21, "the key on is no text"),
    # not YAML
    ("tab", {7: "\tepochs: 3"}, 7, "found character '\\t' that cannot start any token"),
    ("open quote", {1: "student: 'toy"}, 21, "the quote was opened on line 1"),
    ("open bracket", {14: "    edges: [0.25, 0.75"}, 15, "the bracket was opened on line 14"),
    ("no colon", {1: "student toy"}, 2, "mapping values are not allowed here"),
    ("bad indent", {7: "  epochs: 3\n   batch_size: 4"}, 8, "mapping values are not allowed here"),
    ("two documents", {8: "---\narms:"}, 8, "found another document"),
    (
        "a tag that runs code",
        {1: "student: !!python/object/apply:os.getcwd []"},
        1,
        "could not determine a constructor",
    ),
    ("an alias without an anchor", {1: "student: *x"}, 1, "found undefined alias 'x'"),
    ("an anchor in itself", {6: "train: &t", 7: "  epochs: *t"}, None, "is nested without end"),
    ("no such day", {1: "student: 2026-99-99"}, 1, "month must be in 1..12"),
    ("5,000 digits", {5: f"  teacher_tokens: {'9' * 5000}"}, 5, "Exceeds the limit"),
    ("a key twice", {21: "student: other"}, 21, "'student' stands at line 1 already"),
    ("an inner key twice", train("epochs: 3\n  epochs: 4"), 8, "'train.epochs' stands at line 7 already"),
    # absurd numbers
    ("no epochs", train("epochs: 0"), 7, "train.epochs: Input should be greater than 0, got 0"),
    ("negative epochs", train("epochs: -1"), 7, "greater than 0, got -1"),
    ("a million million epochs", train("epochs: 1000000000000"), 7, "less than or equal to 10000, got 1000000000000"),
    ("infinite epochs", train("epochs: .inf"), 7, "finite number, got inf"),
    ("learning rate 0", train("learning_rate: 0"), 7, "train.learning_rate: Input should be greater than 0"),
    ("negative learning rate", train("learning_rate: -1e-4"), 7, "greater than 0, got '-1e-4'"),
    ("learning rate NaN", train("learning_rate: .nan"), 7, "finite number, got nan"),
    ("learning rate inf", train("learning_rate: .inf"), 7, "finite number, got inf"),
    ("learning rate 1000", train("learning_rate: 1000"), 7, "less than or equal to 10, got 1000"),
    ("batch size 0", train("batch_size: 0"), 7, "train.batch_size: Input should be greater than 0, got 0"),
    ("batch size 10^12", train("batch_size: 1000000000000"), 7, "less than or equal to 1000000000"),
    ("no new tokens", {21: "evaluate: {max_new_tokens: 0}"}, 21, "evaluate.max_new_tokens: Input should be greater"),
    ("negative budget", {5: "  teacher_tokens: -5"}, 5, "greater than or equal to 0, got -5"),
    ("shares above 1", data("split: {train: 0.9, dev: 0.3}"), 3, "data.split: the shares sum to 1.3, wanted at most 1"),
    ("a share of 0", data("split: {test: 0}"), 3, "train, dev and test must each be above 0"),
    ("limit 0", data("limit: {train: 0}"), 3, "data.limit.train: Input should be greater than 0"),
    ("no seeds", {21: "seeds: []"}, 21, "seeds: List should have at least 1 item"),
    ("a seed twice", {21: "seeds: [1, 1]"}, 21, "seeds: [1, 1] repeat"),
    ("negative seed", {21: "seeds: [-1]"}, 21, "seeds.0: Input should be greater than or equal to 0, got -1"),
    ("half a seed", {21: "seeds: [0.5]"}, 21, "seeds.0: Input should be a valid integer"),
    (
        "min_auc 2",
        {21: "validate: {min_auc: 2}"},
        21,
        "validate.min_auc: Input should be less than or equal to 1, got 2",
    ),
    ("edges that fall", {14: "    edges: [0.8, 0.2]"}, 14, "edges: must rise strictly between 0 and 1, got [0.8, 0.2]"),
    ("equal edges", {14: "    edges: [0.5, 0.5]"}, 14, "edges: must rise strictly between 0 and 1"),
    ("edges beyond 1", {14: "    edges: [0.25, 75]"}, 14, "less than or equal to 1, got 75"),
    ("edge NaN", {14: "    edges: [.nan, 0.5]"}, 14, "arms.banded.edges.0: Input should be a finite number, got nan"),
    ("a thousand million requests", teacher("concurrency: 1000000000"), 2, "less than or equal to 1000"),
    ("endless patience", teacher("timeout_seconds: .inf"), 2, "teacher.timeout_seconds: Input should be a finite"),
    # arms
    ("no arms", {8: "arms: {}", **dict.fromkeys(range(9, 21), "")}, 8, "arms: Dictionary should have at least 1 item"),
    ("a list of arms", {8: "arms: [a]", **dict.fromkeys(range(9, 21), "")}, 8, f"arms: {KEYS}, got ['a']"),
    ("unknown policy", {10: "    policy: everything"}, 10, "'none', 'all', 'bands' or 'random', got 'everything'"),
    ("unknown give", {11: "    give: solution"}, 11, "arms.sft.give: Input should be 'answer' or 'rationale'"),
    ("no give", {11: ""}, 9, "policy `all` needs `give: answer` or `give: rationale`"),
    ("unknown like", {20: "    like: bandit"}, 20, "'bandit' names no arm"),
    ("like itself", {20: "    like: random"}, 20, "'random' names no arm"),
    ("no stages", {15: "    stages: []", 16: "", 17: ""}, 12, "policy `bands` needs `stages`"),
    ("an arm's name is a path", {9: "  ../sft:"}, 9, "arm name '../sft': use letters, digits, - and _"),
    ("an endless name", {9: f"  {'x' * 300}:"}, 9, "at most 64"),
    ("names alike", {9: "  Banded:"}, 9, "differs from 'banded' in capitals alone"),
    # student, teacher, score
    ("dtype", {1: "student: {model: toy, dtype: fp16}"}, 1, "'auto', 'float32', 'bfloat16' or 'float16', got 'fp16'"),
    ("device", {1: "student: {model: toy, device: gpu}"}, 1, "student.device: wanted auto, cpu, cuda"),
    ("teacher's dtype", teacher("engine: hf, dtype: fp16"), 2, "'float32', 'bfloat16' or 'float16', got 'fp16'"),
    ("teacher's device", teacher("engine: hf, device: gpu"), 2, "teacher.device: wanted auto, cpu, cuda"),
    ("a server's revision", teacher("revision: main"), 2, f"teacher.revision: {LOCAL}"),
    ("a server's dtype", teacher("dtype: bfloat16"), 2, f"teacher.dtype: {LOCAL}"),
    ("a server's device", teacher("device: cuda"), 2, f"teacher.device: {LOCAL}"),
    ("a server's code", teacher("trust_remote_code: true"), 2, f"teacher.trust_remote_code: {LOCAL}"),
    (
        "a local model's options",
        teacher("engine: hf, options: {top_p: 0.9}"),
        2,
        "teacher.options: is for `engine: openai`",
    ),
    ("a local model's logprobs", teacher("engine: hf, logprobs: 5"), 2, "teacher.logprobs: is for `engine: openai`"),
    ("an option with a field of its own", teacher("options: {max_tokens: 9}"), 2, "has a field of its own"),
    ("asked again, greedy", {1: "student: toy\nkeep: correct_or_ask_again(3)"}, 2, "set teacher.temperature"),
    ("keep", {1: "student: toy\nkeep: some"}, 2, "keep"),
    ("key in key_env", teacher("key_env: sk-SECRET"), 2, "never put the key itself in a recipe"),
    ("plain key in key_env", teacher("key_env: SECRETsecret0123"), 2, "never put the key itself in a recipe"),
    ("key in a field", teacher("api_key: sk-SECRET"), 2, "unknown key 'teacher.api_key'"),
    (
        "key in the address",
        teacher('base_url: "https://sk-SECRET@host/v1"'),
        2,
        "name an environment variable in key_env",
    ),
    (
        "key in the query",
        teacher('base_url: "https://host/v1?key=SECRET"'),
        2,
        "name an environment variable in key_env",
    ),
    ("no scheme", teacher('base_url: "SECRET:8000/v1"'), 2, URL),
    ("host alone", teacher("base_url: api.example.com/v1"), 2, URL),
    ("another scheme", teacher('base_url: "ftp://host/v1"'), 2, URL),
    ("no such port", teacher('base_url: "http://host:99999/v1"'), 2, URL),
    ("a blank in the address", teacher('base_url: "http://a b/v1"'), 2, URL),
    ("empty address", teacher('base_url: ""'), 2, URL),
    ("a column alone", {21: "score: {measure: column, column: entropy}"}, 21, "needs both `column` and `correct`"),
    ("a column for nothing", {21: "score: {column: a, correct: b}"}, 21, "score.column: is for `measure: column`"),
    ("unknown measure", {21: "score: {measure: entropy}"}, 21, "score.measure: no measure is called 'entropy'"),
    (
        "micro batch",
        train("batch_size: 16\n  micro_batch_size: 5"),
        6,
        "micro_batch_size 5 does not divide batch_size 16",
    ),
]


@pytest.mark.parametrize(("changes", "line", "said"), [case[1:] for case in LINE_CASES], ids=[c[0] for c in LINE_CASES])
def test_a_wrong_line_is_named(tmp_path, changes, line, said):
    path = tmp_path / "my.yaml"
    path.write_text("\n".join(changes.get(number, text) for number, text in enumerate(LINES, start=1)))
    before = content_of(tmp_path)
    code, out, err = teachwise("check", path)
    assert (code, out) == (2, "")
    assert_told(err, f"{path}:{line}: " if line else f"{path}: ", said)
    assert "SECRET" not in err
    assert content_of(tmp_path) == before


BYTE_CASES = {
    "empty": (b"", ": is empty or no mapping", "teachwise check toy"),
    "blank lines": (b"\n \n", ": is empty or no mapping", ""),
    "a list": (b"- a\n- b\n", ": is empty or no mapping", ""),
    "a sentence": (b"my first recipe", ": is empty or no mapping", ""),
    "binary": (bytes(range(128, 256)), ":1: not UTF-8", "UTF-8"),
    "a picture": (b"\x89PNG\r\n\x1a\n\0\0", ":1: not UTF-8", "UTF-8"),
    "UTF-16": (GOOD.encode("utf-16"), ":1: not UTF-8: this is UTF-16 text", ""),
    "UTF-16 without a mark": (GOOD.encode("utf-16-le"), ":1: holds a zero byte", "UTF-8"),
    "Latin-1": (GOOD.encode() + "note: 'Größe'".encode("latin-1"), ":22: not UTF-8", "UTF-8"),
    "an Excel file": (b"PK\x03\x04\x14\x00\x06\x00", ":1: not UTF-8: this is a zip archive or an Excel file", ""),
    "a zero byte": (b"student: toy\nteacher: b\0g\n", ":2: holds a zero byte", ""),
    "a control sign": (b"student: toy\nteacher: b\x07g\n", ":2: not YAML: special characters are not allowed", "odd"),
    "brackets without end": (b"a: " + b"[" * 700, ": is nested without end", ""),
}


@pytest.mark.parametrize("name", BYTE_CASES)
def test_a_file_that_is_no_recipe_is_named(tmp_path, name):
    content, said, hint = BYTE_CASES[name]
    path = tmp_path / "my.yaml"
    path.write_bytes(content)
    code, out, err = teachwise("run", path, "--out", tmp_path / "run")
    assert (code, out) == (2, "")
    assert_told(err, f"{path}{said}", "", hint)
    assert [file.name for file in tmp_path.iterdir()] == ["my.yaml"]


@pytest.mark.parametrize("content", [b"\xef\xbb\xbf" + GOOD.encode(), GOOD.replace("\n", "\r\n").encode()])
def test_what_windows_writes_is_read(tmp_path, content):
    (tmp_path / "my.yaml").write_bytes(content)
    assert teachwise("check", tmp_path / "my.yaml", "data={task: toy}")[0] == 0


OVERRIDE_CASES = [
    ("train.epochs", "'train.epochs': wanted KEY=VALUE", "", "train.epochs=1"),
    ("=3", "'=3': wanted KEY=VALUE", "", ""),
    ("trian.epochs=1", "command line: ", "unknown key 'trian'; did you mean 'train'?", ""),
    ("train.epoch=1", "command line: ", "unknown key 'train.epoch'; did you mean 'epochs'?", ""),
    ("epochs=1", "command line: ", "unknown key 'epochs'; did you mean 'train.epochs'?", ""),
    ("train.epochs=0", "command line: ", "train.epochs: Input should be greater than 0, got 0", ""),
    ("train.epochs=", "command line: ", "train.epochs: Input should be a valid number, got nothing", ""),
    ("train.epochs=[", "'train.epochs=[': the value is not YAML", "", "arms.banded.edges="),
    ("train={epochs: 1, epochs: 2}", "'train={epochs: 1, epochs: 2}': ", "'epochs' stands at line 1 already", ""),
    ("seeds.0=1", "command line: ", "seeds: wanted a list", "`teachwise check` with the same KEY=VALUE"),
    ("student.device=gpu", "command line: ", "student.device: wanted auto, cpu, cuda", ""),
    ("teacher.key_env=sk-SECRET", "command line: ", "never put the key itself in a recipe", ""),
    ("arms.sft.give=rational", "command line: ", "'answer' or 'rationale', got 'rational'", ""),
    ("--epochs=3", "No such option", "--epochs", "--help"),
]


@pytest.mark.parametrize(
    ("override", "place", "said", "hint"), OVERRIDE_CASES, ids=[case[0] for case in OVERRIDE_CASES]
)
def test_a_wrong_override_is_named_as_the_command_lines_not_the_files(tmp_path, override, place, said, hint):
    (tmp_path / "my.yaml").write_text(GOOD)
    code, out, err = teachwise("check", tmp_path / "my.yaml", override)
    assert (code, out) == (2, "")
    assert_told(err, place, said, hint)
    assert "SECRET" not in err
    assert f"teachwise check {tmp_path}" not in err, "the file alone has no fault"


def test_an_override_may_change_an_arm_that_the_recipe_leaves_to_the_default(tmp_path):
    (tmp_path / "my.yaml").write_text(UNTIL_ARMS)
    code, out, _ = teachwise("check", tmp_path / "my.yaml", "arms.banded.edges=[0.3, 0.8]", "data={task: toy}")
    assert code == 0
    assert "- 0.3" in out
    assert "distill:" in out


DOOR_CASES = {
    "a misspelt name": (["check", "tooy"], "tooy: no such recipe file", "did you mean 'toy'?"),
    "a name with a suffix": (["check", "toy.yaml"], "toy.yaml: no such recipe file", "did you mean 'toy'?"),
    "a misspelt path": (["check", "TMP/mi.yaml"], "TMP/mi.yaml: no such recipe file", "did you mean 'TMP/my.yaml'?"),
    "a folder": (["check", "TMP"], "TMP: is a folder, wanted a recipe file", "my_recipe.yaml"),
    "a table": (["run", "TMP/q.jsonl"], "TMP/q.jsonl: is a table, wanted a recipe", "teachwise init TMP/q.jsonl"),
    "no name": (["run"], "Missing argument 'RECIPE'", "--help"),
    "an endless name": (["check", "x" * 5000], "x" * 5000, "shorter name"),
    "an unknown step": (["run", "TMP/my.yaml", "--until", "trian"], "no step is called 'trian'", "steps: prepare,"),
    "an unknown command": (["vaildate"], "No such command 'vaildate'. Did you mean 'validate'", "--help"),
    "a broken override of the demo": (
        ["demo", "--out", "TMP/d", "trian=1"],
        "command line: unknown key 'trian'",
        "the same KEY=VALUE",
    ),
}


@pytest.mark.parametrize("name", DOOR_CASES)
def test_a_recipe_that_is_not_there_is_named(tmp_path, name):
    words, place, hint = DOOR_CASES[name]
    write_recipe(tmp_path)
    before = content_of(tmp_path)
    code, out, err = teachwise(*[word.replace("TMP", str(tmp_path)) for word in words])
    assert (code, out) == (2, "")
    assert_told(err, place.replace("TMP", str(tmp_path)), "", hint.replace("TMP", str(tmp_path)))
    assert content_of(tmp_path) == before


def test_a_recipe_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    path = write_recipe(tmp_path)
    path.chmod(0o000)
    if os.access(path, os.R_OK):  # nothing is locked to root: let the system say so all the same

        def refuse(file):
            raise PermissionError(13, "Permission denied", str(file))

        monkeypatch.setattr("pathlib.Path.read_bytes", refuse)
    code, out, err = teachwise("check", path)
    assert (code, out) == (2, "")
    assert_told(err, f"{path}: Permission denied", "", "who may read")


def test_a_fault_of_ours_keeps_its_traceback(monkeypatch):
    for fault in (FileNotFoundError(2, "No such file or directory", "ours"), ValueError("ours"), OSError("no number")):

        def fail(*_, fault=fault):
            raise fault

        monkeypatch.setattr("teachwise.recipe.load_recipe", fail)
        with pytest.raises(type(fault)):
            teachwise("check", "toy")


@pytest.mark.parametrize("more", ["", ", other: 1"])
def test_a_number_with_commas_is_told_how_to_be_written(tmp_path, more):
    path = tmp_path / "my.yaml"
    path.write_text(GOOD.replace("budget:\n  teacher_tokens: 1_000", "budget: {teacher_tokens: 2,000,000" + more + "}"))
    code, out, err = teachwise("check", path)
    assert (code, out) == (2, "")
    assert_told(err, f"{path}:4: 2,000,000: a comma separates keys here", "", "write 2000000 or 2_000_000")


@pytest.mark.parametrize(
    ("teacher", "told"),
    [
        ("{model: big, api_key: SECRET}", "unknown key 'teacher.api_key'; did you mean 'key_env'?"),
        ("{model: big, url: SECRET}", "unknown key 'teacher.url'; did you mean 'base_url'?"),
    ],
)
def test_what_other_tools_call_a_key_leads_to_ours(tmp_path, teacher, told):
    path = tmp_path / "my.yaml"
    path.write_text(GOOD.replace("teacher: big", f"teacher: {teacher}"))
    code, _, err = teachwise("check", path)
    assert code == 2
    assert_told(err, f"{path}:2: {told}", "")
    assert "SECRET" not in err


def test_a_key_of_digits_with_a_value_is_still_a_key_that_is_no_text(tmp_path):
    path = tmp_path / "my.yaml"
    path.write_text(GOOD.replace("budget:\n  teacher_tokens: 1_000", "budget: {teacher_tokens: 2, 300: 5}"))
    assert_told(teachwise("check", path)[2], f"{path}:4: the key 300 is no text", "", "quotes")
