"""Every way to give a table that cannot be used: one line with file and line or row, a hint, nothing lost."""

import gzip
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from complaint import as_jsonl, assert_told, content_of, questions, teachwise, write_recipe

GOOD = questions()
TEXT = as_jsonl(GOOD)
LINES = TEXT.splitlines(keepends=True)
CSV = "question,A,B,answer,entropy,right\n" + "".join(f"What is {i}?,one,two,{'AB'[i % 2]},0.5,1\n" for i in range(9))


def parquet(table):
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


WHOLE = parquet(pa.Table.from_pylist(GOOD))
FILE_CASES = [
    ("not there", "q.jsonl", None, ": no such file, wanted a table", ".parquet, .jsonl"),
    ("empty", "q.jsonl", b"", ": is empty, wanted at least one row", "export"),
    ("blank lines", "q.jsonl", b"\n\n", ": holds no rows", "export"),
    ("no suffix", "q", b"{}", ": unknown kind ''", "convert"),
    ("a spreadsheet", "q.xlsx", b"PK\x03\x04", ": unknown kind '.xlsx', wanted .parquet", "convert"),
    ("packed", "q.jsonl.gz", gzip.compress(TEXT.encode()), ": unknown kind '.gz'", "convert"),
    ("packed, misnamed", "q.jsonl", gzip.compress(TEXT.encode()), ":1: not UTF-8: this is a gzip archive", "convert"),
    (
        "a spreadsheet, misnamed",
        "q.csv",
        b"PK\x03\x04\x14",
        ":1: not UTF-8: this is a zip archive or an Excel file",
        "",
    ),
    ("Parquet, misnamed", "q.csv", WHOLE, ":1: not UTF-8: this is a Parquet file", ""),
    ("UTF-16", "q.jsonl", TEXT.encode("utf-16"), ":1: not UTF-8: this is UTF-16 text", ""),
    ("UTF-16 without a mark", "q.csv", CSV.encode("utf-16-le"), ":1: holds a zero byte", "UTF-8"),
    ("Latin-1", "q.csv", CSV.encode() + "Größe?,1,2,A,0,1\n".encode("latin-1"), ":11: not UTF-8", "iconv"),
    ("bytes", "q.jsonl", bytes(range(256)), ":2: not UTF-8", "UTF-8"),
    ("a zero byte", "q.csv", CSV.encode() + b"a\0b,1,2,A,0,1\n", ":11: holds a zero byte", "UTF-8"),
    # JSON
    ("a broken line", "q.jsonl", "".join([*LINES[:3], LINES[3][:40] + "\n", *LINES[4:]]), ":4: broken JSON", "object"),
    ("a list for a line", "q.jsonl", LINES[0] + "[1, 2]\n", ":2: a list, wanted an object", "a row looks like"),
    ("Python, not JSON", "q.jsonl", repr(GOOD[0]), ":1: broken JSON", "object"),
    ("a list named .jsonl", "q.jsonl", json.dumps(GOOD, indent=1), ":1: broken JSON", "a list of objects is a .json"),
    ("lines named .json", "q.json", TEXT, ":2: broken JSON: Extra data", "one object per line is a .jsonl file"),
    (
        "an object",
        "q.json",
        json.dumps({"rows": GOOD}),
        ": holds an object, wanted a list of objects",
        "[{...}, {...}]",
    ),
    ("a text", "q.json", '"hello"', ": holds a text, wanted a list of objects", ""),
    ("a list of lists", "q.json", "[[1]]", ": row 0: a list, wanted an object", "a row looks like"),
    ("an empty list", "q.json", "[]", ": holds no rows", ""),
    ("brackets without end", "q.jsonl", LINES[0] + "[" * 100_000, ":2: JSON that cannot be read", ""),
    ("5,000 digits", "q.json", f'[{{"answer": {"9" * 5000}}}]', ":1: JSON that cannot be read", ""),
    # CSV
    ("bars", "q.csv", CSV.replace(",", "|"), ":1: one column, ", "the separator seems to be '|'"),
    ("tabs", "q.csv", CSV.replace(",", "\t"), ":1: one column, ", "the separator seems to be '\\t'"),
    ("commas for tabs", "q.tsv", CSV, ":1: one column, ", "the separator seems to be ','"),
    ("a short row", "q.csv", CSV + "What?,one\n", ":11: 2 cells, wanted 6 as in the header", "quotes"),
    ("a long row", "q.csv", CSV + "What, then?,one,two,A,0,1\n", ":11: 7 cells, wanted 6 as in the header", "quotes"),
    ("an open quote", "q.csv", CSV + '"What?,one,two,A,0,1\n', ":11: broken line", "quotes"),
    ("a column twice", "q.csv", "question,answer,answer\n1,2,3\n", ":1: columns named twice: answer", ""),
    ("a header alone", "q.csv", CSV.splitlines()[0] + "\n", ": holds no rows", ""),
    ("no header", "q.csv", CSV.partition("\n")[2], ": no column ", ""),
    ("an endless cell", "q.csv", CSV + "x" * 200_000 + ",1,2,A,0,1\n", ":11: broken line: field larger", ""),
    # Parquet
    ("no Parquet", "q.parquet", b"hello", ": not a readable Parquet file", "cut off"),
    ("half a Parquet", "q.parquet", WHOLE[: len(WHOLE) // 2], ": not a readable Parquet file", "cut off"),
    ("a Parquet without its end", "q.parquet", WHOLE[:-9], ": not a readable Parquet file", "cut off"),
    ("a Parquet without rows", "q.parquet", parquet(pa.Table.from_pylist(GOOD[:0])), ": holds no rows", ""),
]


@pytest.mark.parametrize(
    ("name", "content", "place", "hint"), [case[1:] for case in FILE_CASES], ids=[case[0] for case in FILE_CASES]
)
def test_a_table_that_cannot_be_read_is_named_and_stays_as_it_is(tmp_path, name, content, place, hint):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    recipe = write_recipe(tmp_path, str(path)) if content is not None else write_missing(tmp_path, path)
    before = content_of(tmp_path)
    code, _, err = teachwise("prepare", recipe, "--out", tmp_path / "run")
    assert code == 2
    assert_told(err, f"{path}{place}", "", hint)
    if path.suffix in (".parquet", ".jsonl", ".json", ".csv", ".tsv"):
        code, out, err = teachwise("validate", path, "--score", "entropy", "--correct", "right")
        assert (code, out) == (2, "")
        assert_told(err, f"{path}{place}", "", hint)
    assert {name: digest for name, digest in content_of(tmp_path).items() if name in before} == before
    assert not (tmp_path / "run" / "prepare" / "manifest.json").exists()


def write_missing(folder, path):
    recipe = write_recipe(folder)
    path.unlink()
    return recipe


def test_a_folder_in_place_of_a_table_is_named(tmp_path):
    (tmp_path / "q.csv").mkdir()
    code, _, err = teachwise("prepare", write_recipe(tmp_path, "q.csv"), "--out", tmp_path / "run")
    assert code == 2
    assert_told(err, f"{tmp_path / 'q.csv'}: is a folder, wanted a table", "", ".parquet")


NONE_USABLE = "no train examples (60 rows read, 0 usable; row 0: "
ROW_CASES = [
    # columns
    (
        "wrong columns",
        {"question": None},
        {"question": "qestion"},
        "",
        "no column for the question",
        "question: qestion",
    ),
    ("a named column that is not there", {}, {}, "columns: {question: qestion}", "no column 'qestion'", "'question'?"),
    ("no answer column", {}, {}, "columns: {answer: anwser}", "no column 'anwser'", "did you mean 'answer'?"),
    (
        "two answer columns",
        {"label": "A"},
        {},
        "",
        "several columns could each be the answer: answer; label",
        "answer",
    ),
    ("a level in words", {"level": "hard"}, {}, "columns: {level: level}", "row 0: level 'hard', wanted a whole", ""),
    # splits
    ("unknown splits", {"split": "holdout"}, {}, "", "row 0: split 'holdout', wanted train, dev or test", "split: ''"),
    ("one split alone", {"split": "train"}, {}, "", "no dev examples (60 rows read, 60 usable)", "columns.split=''"),
    ("tiny shares", {}, {}, "split: {train: 0.99, dev: 0.005, test: 0.005}", "no dev examples", "data.split"),
    # answers and options
    ("answers outside the options", {"answer": "Z"}, {}, "", "the answers ('Z') fit no way of naming", "answer_is"),
    ("no answers", {"answer": None}, {}, "", f"{NONE_USABLE}the answer is missing)", "mend the rows"),
    (
        "answers that could be two things",
        {"options": ["1", "2", "3"], "answer": lambda i: str(i % 2 + 1)},
        {},
        "",
        "could be text or",
        "answer_is",
    ),
    ("another reading", {}, {}, "answer_is: index", f"{NONE_USABLE}the answer 'A' is no index of 3", "data.answer_is"),
    ("one option", {"options": ["a"], "answer": "A"}, {}, "", f"{NONE_USABLE}the number of options is 1, wanted 2", ""),
    ("no options", {"options": [[]], "answer": "A"}, {}, "", f"{NONE_USABLE}the number of options is 1", ""),
    ("27 options", {"options": list(map(str, range(27))), "answer": "A"}, {}, "", "options is 27, wanted 2 to 26", ""),
    ("options alike", {"options": ["a"] * 3, "answer": "A"}, {}, "", "the gold option 'a' stands 3 times", ""),
    ("an empty option", {"options": ["a", ""], "answer": "A"}, {}, "", "option B is empty", ""),
    ("options in a sentence", {"options": "one, two"}, {}, "", "the options are no list: 'one, two'", "data.columns"),
    ("options without end", {"options": "[" * 5000}, {}, "", "the options are no list", ""),
    ("options as a number", {"options": 3}, {}, "", "the options are no list: '3'", ""),
    ("empty questions", {"question": " "}, {}, "", f"{NONE_USABLE}the question is empty)", "mend the rows"),
    # the same again
    (
        "one question again and again",
        {"question": "Why?", "answer": "A"},
        {},
        "",
        "1 usable; row 1: repeats row 0)",
        "",
    ),
    ("with another answer", {"question": "Why?"}, {}, "", "row 1: repeats row 0, with another answer (A))", ""),
    # scores
    (
        "a NaN score",
        {"entropy": lambda i: float("nan") if i == 7 else 0.1},
        {},
        "",
        "row 7: entropy is nan, wanted a",
        "row",
    ),
    (
        "an infinite score",
        {"entropy": lambda i: float("inf") if i == 7 else 0.1},
        {},
        "",
        "row 7: entropy is inf",
        "row",
    ),
    ("a missing score", {"entropy": lambda i: None if i == 7 else 0.1}, {}, "", "row 7: entropy is None", "row"),
    ("scores in words", {"entropy": "low"}, {}, "", "row 0: entropy is 'low', wanted a finite number", "row"),
    ("no score column", {}, {"entropy": "entropi"}, "", "no column 'entropy'", "did you mean 'entropi'?"),
    ("truth in words", {"right": "maybe"}, {}, "", "row 0: right is 'maybe', wanted true or false", "column"),
    (
        "no truth",
        {"right": lambda i: None if i == 7 else True},
        {},
        "",
        "row 7: right is None, wanted true or",
        "column",
    ),
]


@pytest.mark.parametrize(
    ("columns", "renamed", "field", "said", "hint"),
    [case[1:] for case in ROW_CASES],
    ids=[case[0] for case in ROW_CASES],
)
def test_rows_that_cannot_be_used_are_named(tmp_path, columns, renamed, field, said, hint):
    rows = [{renamed.get(name, name): cell for name, cell in row.items()} for row in questions(**columns)]
    (tmp_path / "q.jsonl").write_text(as_jsonl(rows))
    recipe = write_recipe(tmp_path)
    recipe.write_text(recipe.read_text().replace("data: {", f"data: {{{field}, " if field else "data: {"))
    before = content_of(tmp_path)
    code, _, err = teachwise("route", recipe, "--out", tmp_path / "run")
    assert code == 2
    place = f"{tmp_path / 'q.jsonl'}: " if "examples (" not in err else f"prepare: {tmp_path / 'q.jsonl'}: "
    assert_told(err, place, said, hint)
    after = content_of(tmp_path)
    assert {name: after[name] for name in before} == before


GATE_CASES = {
    "scores all alike": {"entropy": 1.0},
    "scores that mislead": {"entropy": lambda i: -float(i % 3 == 0)},
    "a student that is never wrong": {"right": True},
    "a student that is never right": {"right": False},
}


@pytest.mark.parametrize("name", GATE_CASES)
def test_scores_that_say_nothing_stop_at_the_gate_with_code_3_and_keep_what_was_made(tmp_path, name):
    (tmp_path / "q.jsonl").write_text(as_jsonl(questions(**GATE_CASES[name])))
    code, _, err = teachwise("teach", write_recipe(tmp_path), "--out", tmp_path / "run")
    assert code == 3
    assert_told(err, "validate: ROC AUC ", "the score does not predict errors here", "validate.on_fail=warn")
    assert (tmp_path / "run" / "validate" / "manifest.json").exists()
    assert not (tmp_path / "run" / "ledger.sqlite").exists()


COMMAND_CASES = [
    ("validate Q --score entropi --correct right", "Q: no column 'entropi'", "did you mean 'entropy'?"),
    ("validate Q --score question --correct right", "Q: row 0: question is 'What is 0?', wanted a finite number", ""),
    ("validate Q --score entropy --correct question", "Q: row 0: question is 'What is 0?', wanted true or false", ""),
    ("validate Q --score entropy --correct right --by subjct", "Q: no column 'subjct'", "it has: question"),
    ("validate Q --score entropy", "validate: a table wants --score COLUMN and --correct COLUMN", "--help"),
    ("validate TMP/u.jsonl --score entropy --correct right", "TMP/u.jsonl: no row can be used", "score a table"),
    ("validate TMP/my.yaml --score entropy", "TMP/my.yaml: --score cannot be used with a recipe", "--help"),
    ("route Q --score entropi --out TMP/o.csv", "Q: no column 'entropi'", "did you mean 'entropy'?"),
    ("route Q --score options --out TMP/o.csv", "Q: row 0: options is ['one', 'two', 'three'], wanted a finite", ""),
    ("route Q --score entropy --out TMP/o", "TMP/o: unknown kind '' to write", ".parquet, .jsonl, .csv, .tsv"),
    ("route Q --score entropy --out TMP/o.xlsx", "TMP/o.xlsx: unknown kind '.xlsx' to write", ".csv"),
    ("route Q --score entropy --out TMP/d.csv", "TMP/d.csv: is a folder, wanted a file to write", "another name"),
    ("route Q --score entropy --out Q/o.csv", "Q: File exists", "a file stands where a folder is wanted"),
    ("route Q --score entropy --out TMP/o.csv --edges 0.5", "--edges '0.5': wanted two numbers", "0.25,0.75"),
    ("route Q --score entropy --out TMP/o.csv --edges 0.8,0.2", "--edges 0.8,0.2: wanted 0 < first < second < 1", ""),
    ("route Q --score entropy --out TMP/o.csv --edges nan,0.5", "--edges nan,0.5: wanted 0 < first", ""),
    ("route TMP/u.jsonl --score entropy --out TMP/o.csv", "TMP/u.jsonl: no row can be used", "score a table"),
    ("score Q", "score: a table wants --student and --out", "--help"),
]


@pytest.mark.parametrize(("words", "place", "hint"), COMMAND_CASES, ids=[case[0] for case in COMMAND_CASES])
def test_a_command_on_a_table_says_what_it_lacks_and_writes_nothing(tmp_path, words, place, hint):
    write_recipe(tmp_path)
    (tmp_path / "d.csv").mkdir()
    (tmp_path / "u.jsonl").write_text(as_jsonl(questions(5, unusable="the answer is missing")))
    before = content_of(tmp_path)
    q = str(tmp_path / "q.jsonl")
    code, out, err = teachwise(*[word.replace("TMP", str(tmp_path)).replace("Q", q) for word in words.split()])
    assert (code, out) == (2, "")
    assert_told(err, place.replace("TMP", str(tmp_path)).replace("Q", q), "", hint)
    assert content_of(tmp_path) == before


def test_a_missing_folder_for_the_result_is_made(tmp_path):
    write_recipe(tmp_path)
    words = ("--score", "entropy", "--out", tmp_path / "a" / "b" / "o.csv")
    assert teachwise("route", tmp_path / "q.jsonl", *words)[0] == 0
    assert (tmp_path / "a" / "b" / "o.csv").exists()


def test_rows_that_contradict_are_counted_aloud(tmp_path):
    (tmp_path / "q.jsonl").write_text(as_jsonl([*GOOD, *questions(answer="A")]))
    code, _, err = teachwise("prepare", write_recipe(tmp_path), "--out", tmp_path / "run")
    assert code == 0
    assert "warning prepare: 40 rows repeat a question with another answer, the first is row 61" in " ".join(
        err.split()
    )
