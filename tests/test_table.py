import json
import sys
import types

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from teachwise.errors import DataError
from teachwise.tasks.table import column, read_table

ROWS = [{"q": "é?", "a": "007"}, {"q": "two\nlines", "a": "1e5"}]


def write(path, rows):
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n\n", encoding="utf-8")
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    else:
        separator = {".csv": ",", ".tsv": "\t"}[path.suffix]
        lines = [separator.join(rows[0])] + [separator.join(f'"{cell}"' for cell in row.values()) for row in rows]
        path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".json", ".csv", ".tsv", ".JSONL"])
def test_every_kind_gives_the_same_rows(tmp_path, suffix):
    path = write(tmp_path / f"rows{suffix.lower()}", ROWS).rename(tmp_path / f"table{suffix}")
    assert read_table(str(path)) == ROWS


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".tsv"])
def test_byte_order_mark_is_not_part_of_the_first_column(tmp_path, suffix):
    path = write(tmp_path / f"rows{suffix}", ROWS)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read_table(str(path)) == ROWS


def test_line_separators_inside_json_strings_do_not_end_the_row(tmp_path):
    rows = [{"q": "one\u2028two\x85three"}]
    assert read_table(str(write(tmp_path / "rows.jsonl", rows))) == rows


def test_folder_names_do_not_become_columns(tmp_path):
    (tmp_path / "seed=0").mkdir()
    assert read_table(str(write(tmp_path / "seed=0" / "rows.parquet", ROWS))) == ROWS


@pytest.mark.parametrize(
    ("name", "content", "wanted"),
    [
        ("gone.csv", None, "gone.csv: no such file"),
        ("data/gone.jsonl", None, "no such file"),
        ("empty.jsonl", b"", "is empty"),
        ("rows.xlsx", b"x", "unknown kind '.xlsx'"),
        ("rows.csv", b"q,a\nx,1\n\xff,2\n", "rows.csv:3: not UTF-8"),
        ("rows.jsonl", b'{"q": 1}\n\n{"q": \n', "rows.jsonl:3: broken JSON"),
        ("rows.jsonl", b'{"q": 1}\n[1]\n', "rows.jsonl:2: a list, wanted an object"),
        ("rows.json", b'[{"q": 1},\n{"q": ]', "rows.json:2: broken JSON"),
        ("rows.json", b'{"data": []}', "holds an object, wanted a list"),
        ("rows.json", b'[{"q": 1}, "x"]', "row 1: a text, wanted an object"),
        ("rows.csv", b'q,a\n"two\nlines",1\nx,1,2\n', "rows.csv:4: 3 cells, wanted 2"),
        ("rows.tsv", b"q\ta\nx\n", "rows.tsv:2: 1 cells, wanted 2"),
        ("rows.csv", b'q,a\nx,"never closed\n', "rows.csv:2: broken line"),
        ("rows.csv", b"q,a,q\nx,1,2\n", "rows.csv:1: columns named twice: q"),
        ("rows.csv", b"q,a\n", "holds no rows"),
        ("rows.json", b"[]", "holds no rows"),
        ("rows.jsonl", b"\n\n", "holds no rows"),
        ("rows.parquet", b"PAR1 is not enough", "not a readable Parquet file"),
    ],
)
def test_what_cannot_be_read_says_where(tmp_path, name, content, wanted):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_table(str(tmp_path / name))
    assert wanted in caught.value.found
    assert caught.value.hint


def test_a_folder_is_no_table(tmp_path):
    with pytest.raises(DataError, match="is a folder"):
        read_table(str(tmp_path))


def test_hub_name_is_loaded_with_its_split(monkeypatch):
    asked = []

    def load(source, split):
        asked.append((source, split))
        return ROWS

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert read_table("TIGER-Lab/MMLU-Pro", "validation") == ROWS
    assert asked == [("TIGER-Lab/MMLU-Pro", "validation")]


@pytest.mark.parametrize("error", [ValueError("Unknown split"), ConnectionError("offline"), RuntimeError("a script")])
def test_hub_failure_is_the_users_and_says_why(monkeypatch, error):
    def load(source, split):
        raise error

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(DataError, match=str(error)) as caught:
        read_table("owner/name")
    assert "hub_split" in caught.value.hint


def test_a_missing_file_is_never_looked_up_at_the_hub(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "datasets", types.ModuleType("datasets"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="no such file"):
        read_table("data/questions.jsonl")


def test_column_gives_a_cell_per_row_and_suggests_the_near_name():
    rows = [{"answer": "A"}, {"entropy": 1.0}]
    assert column(rows, "answer", "t.jsonl") == ["A", None]
    with pytest.raises(DataError) as caught:
        column(rows, "entropi", "t.jsonl")
    assert caught.value.found == "t.jsonl: no column 'entropi'"
    assert caught.value.hint == "did you mean 'entropy'? it has: answer, entropy"


def test_a_spreadsheet_s_semicolons_are_read_and_a_comma_in_a_cell_stays(tmp_path):
    path = tmp_path / "q.csv"
    path.write_text("question;A;B;answer\nHow much is 1,5 + 1?;2,5;3;A\n", encoding="utf-8")
    assert read_table(str(path)) == [{"question": "How much is 1,5 + 1?", "A": "2,5", "B": "3", "answer": "A"}]
