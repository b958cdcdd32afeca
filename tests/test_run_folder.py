"""run: what is done stays done, what is half done is known for it, and no file is ever half written."""

import json
import math
import subprocess
import sys
import types
from dataclasses import replace

import pyarrow as pa
import pytest

from teachwise import pipeline, run_folder
from teachwise.errors import DataError
from teachwise.records import Score, Unusable, read_records
from teachwise.run_folder import Run, Unit, drop_parts, in_parts, unit_key, write_json, write_records, write_text
from teachwise.steps import Step

UNIT = Unit("train", "banded", 1, 0)
FIELDS = {"epochs": 3, "edges": [0.25, 0.75]}
INPUTS = ["aaaa", "bbbb"]


def rows_of(numbers):
    return [Unusable(number, "too odd", f"question {number}") for number in numbers]


# keys


@pytest.mark.parametrize(
    ("unit", "fields", "inputs"),
    [
        (replace(UNIT, step="teach"), FIELDS, INPUTS),
        (replace(UNIT, arm="random"), FIELDS, INPUTS),
        (replace(UNIT, seed=2), FIELDS, INPUTS),
        (replace(UNIT, round=1), FIELDS, INPUTS),
        (UNIT, {**FIELDS, "epochs": 4}, INPUTS),
        (UNIT, {**FIELDS, "epochs": "3"}, INPUTS),
        (UNIT, {**FIELDS, "edges": [0.75, 0.25]}, INPUTS),
        (UNIT, {**FIELDS, "more": None}, INPUTS),
        (UNIT, {"epochs": 3}, INPUTS),
        (UNIT, FIELDS, ["aaaa", "cccc"]),
        (UNIT, FIELDS, ["aaaa"]),
        (UNIT, FIELDS, ["aaaa", "aaaa"]),
        (UNIT, FIELDS, ["aaaabbbb"]),
    ],
)
def test_whatever_a_unit_reads_changes_its_key(unit, fields, inputs):
    assert unit_key(unit, fields, inputs) != unit_key(UNIT, FIELDS, INPUTS)


def test_the_order_of_fields_and_inputs_does_not_change_a_key():
    backwards = dict(reversed(FIELDS.items()))
    assert unit_key(UNIT, backwards, iter(reversed(INPUTS))) == unit_key(UNIT, FIELDS, INPUTS)


def test_a_key_is_the_same_on_every_machine_until_the_format_is_raised(monkeypatch):
    assert unit_key(Unit("score"), {"ü": 1}, ["a"]) == "6cfafc663316b95a"
    monkeypatch.setattr(run_folder, "FORMAT", run_folder.FORMAT + 1)
    assert unit_key(Unit("score"), {"ü": 1}, ["a"]) != "6cfafc663316b95a"


# units


def do_once(monkeypatch, work, root, key="k1"):
    module = types.ModuleType("step_of_a_test")
    module.work = work
    monkeypatch.setitem(sys.modules, "step_of_a_test", module)
    step, unit = Step("score", (), (), "step_of_a_test:work"), Unit("score")
    if pipeline._found(step, {unit: key}, None, Run(root)):
        return False
    pipeline._do(step, unit, key, None, Run(root))
    return True


def test_the_manifest_is_written_last_and_holds_the_counts(monkeypatch, tmp_path):
    seen = []

    def work(recipe, run, unit):
        write_records(run.folder(unit) / "rows.parquet", Unusable, rows_of([1]))
        seen.append(run.manifest(unit))
        return {"rows": 1}

    assert do_once(monkeypatch, work, tmp_path)
    assert seen == [None]
    manifest = Run(tmp_path).manifest(Unit("score"))
    assert (manifest["key"], manifest["counts"], manifest["unit"]) == ("k1", {"rows": 1}, "score")
    assert not do_once(monkeypatch, work, tmp_path)
    assert len(seen) == 1


def test_a_step_that_fails_is_not_done_and_its_partial_work_stays_for_the_next_start(monkeypatch, tmp_path):
    def fail(recipe, run, unit):
        (run.folder(unit) / "half").write_text("made")
        raise OSError("disk full")

    def go_on(recipe, run, unit):
        return {"half": (run.folder(unit) / "half").read_text()}

    with pytest.raises(OSError, match="disk full"):
        do_once(monkeypatch, fail, tmp_path)
    assert Run(tmp_path).manifest(Unit("score")) is None
    assert do_once(monkeypatch, go_on, tmp_path)
    assert Run(tmp_path).manifest(Unit("score"))["counts"] == {"half": "made"}


def test_partial_work_of_another_key_is_wiped(tmp_path):
    work = Run(tmp_path)
    (work.begin(UNIT, "old") / "half").write_text("made by the old recipe")
    assert list(work.begin(UNIT, "new").iterdir()) == [work.folder(UNIT) / "key.json"]
    assert not (tmp_path / "replaced").exists()


def finish(work, key, content):
    (work.begin(UNIT, key) / "result").write_text(content)
    work.finish(UNIT, key, {}, 0.0)


def test_finished_work_of_another_key_is_set_aside_and_fetched_back_when_its_key_returns(tmp_path):
    work = Run(tmp_path)
    finish(work, "old", "old result")
    assert not work.is_done(UNIT, "new")
    finish(work, "new", "new result")
    assert (tmp_path / f"replaced/{UNIT.path}-old/result").read_text() == "old result"
    for key in ("old", "new", "old"):
        assert work.is_done(UNIT, key)
        assert (work.folder(UNIT) / "result").read_text() == f"{key} result"
        assert work.manifest(UNIT)["key"] == key


def test_finished_work_is_fetched_back_over_partial_work_of_another_key(tmp_path):
    work = Run(tmp_path)
    finish(work, "old", "old result")
    (work.begin(UNIT, "new") / "half").write_text("killed here")
    assert work.is_done(UNIT, "old")
    assert (work.folder(UNIT) / "result").read_text() == "old result"
    assert not (work.folder(UNIT) / "half").exists()


def test_asking_whether_a_unit_is_done_loses_no_partial_work(tmp_path):
    work = Run(tmp_path)
    (work.begin(UNIT, "k") / "half").write_text("made")
    assert not work.is_done(UNIT, "k")
    assert (work.begin(UNIT, "k") / "half").read_text() == "made"


def test_a_missing_result_names_its_file_and_what_to_type(tmp_path):
    with pytest.raises(DataError, match=r"scores\.parquet: is not there, wanted the result of score") as caught:
        Run(tmp_path).records(Unit("score"), "scores.parquet", Score)
    assert "teachwise run" in caught.value.hint


# files


@pytest.mark.parametrize("had", ["old\n", None])
def test_a_write_that_fails_half_way_leaves_the_old_file(monkeypatch, tmp_path, had):
    path = tmp_path / "table.parquet"
    if had:
        path.write_text(had)

    def fail(table, part, **_):
        part.write(b"PAR1 and then nothing")
        raise OSError("disk full")

    monkeypatch.setattr(run_folder.pq, "write_table", fail)
    with pytest.raises(OSError, match="disk full"):
        write_records(path, Unusable, rows_of([1]))
    assert (path.read_text() if path.exists() else None) == had


def test_a_write_that_is_killed_before_the_name_changes_leaves_the_old_file(monkeypatch, tmp_path):
    write_text(tmp_path / "note.txt", "old")

    def die(part, path):
        raise KeyboardInterrupt

    monkeypatch.setattr(run_folder.os, "replace", die)
    with pytest.raises(KeyboardInterrupt):
        write_text(tmp_path / "note.txt", "new")
    assert (tmp_path / "note.txt").read_text() == "old"
    monkeypatch.undo()
    write_text(tmp_path / "note.txt", "newer")
    assert [file.name for file in tmp_path.iterdir()] == ["note.txt"]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_nan_is_refused_by_name_and_nothing_is_written(tmp_path, bad):
    good = Score("e1", "answer_entropy", 0.5, "A", True, 0.9, 1.0, 7)
    with pytest.raises(DataError, match=f"Score e2: gold_probability is {bad}, wanted a finite number") as caught:
        write_records(tmp_path / "s.parquet", Score, [good, replace(good, id="e2", gold_probability=bad)])
    assert "float32" in caught.value.hint
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "s.json", {"auc": bad})
    assert list(tmp_path.iterdir()) == []


def test_records_come_back_as_they_were_also_from_a_folder_named_like_a_column(tmp_path, example_with):
    rows = [example_with("e1", level=None), example_with("é2", level=3, options=("a\nb", "ä"), subject="law")]
    path = tmp_path / "lr=1" / "examples.parquet"
    write_records(path, type(rows[0]), rows)
    assert read_records(path, type(rows[0])) == rows


def test_a_column_of_another_type_is_refused(tmp_path):
    with pytest.raises((pa.ArrowInvalid, pa.ArrowTypeError)):
        write_records(tmp_path / "u.parquet", Unusable, [Unusable("one", "x", "y")])


# one process at a time


def test_a_second_process_is_refused_and_the_lock_goes_with_the_first(tmp_path):
    code = (
        "import sys; from teachwise.run_folder import Run\n"
        "with Run(sys.argv[1]).locked():\n    print('held', flush=True)\n    sys.stdin.read()"
    )
    first = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert first.stdout.readline() == "held\n"
        with pytest.raises(DataError, match="another teachwise process") as caught, Run(tmp_path).locked():
            pytest.fail("two processes in one run folder")
        assert "--out" in caught.value.hint
    finally:
        first.kill()
        first.communicate()
    with Run(tmp_path).locked():
        pass


# long jobs


def counted(calls):
    def work(batch):
        calls.append(list(batch))
        return rows_of(batch)

    return work


def test_in_parts_gives_batch_after_batch_and_skips_what_an_earlier_start_made(tmp_path, capsys):
    batches, calls = [[2, 0], [3], [1, 4]], []

    def dies_at_the_last(batch):
        if batch == [1, 4]:
            raise KeyboardInterrupt
        return counted(calls)(batch)

    with pytest.raises(KeyboardInterrupt):
        in_parts(tmp_path, Unusable, batches, dies_at_the_last, "work")
    again = []
    found = in_parts(tmp_path, Unusable, batches, counted(again), "work")
    assert [row.row for row in found] == [2, 0, 3, 1, 4]
    assert (calls, again) == ([[2, 0], [3]], [[1, 4]])
    assert capsys.readouterr().err.splitlines() == ["going on from 3 of 5: work"]


@pytest.mark.parametrize("others", [[[0, 1], [2, 3], [4]], [[3], [2, 0], [1, 4]], [[2, 0], [3], [1]], [[2, 0]]])
def test_in_parts_never_mixes_shards_of_other_batches(tmp_path, others):
    in_parts(tmp_path, Unusable, [[2, 0], [3], [1, 4]], counted([]), "work")
    calls = []
    found = in_parts(tmp_path, Unusable, others, counted(calls), "work")
    assert calls == others
    assert [row.row for row in found] == [row for batch in others for row in batch]


def test_in_parts_never_takes_the_shards_of_another_job_with_the_same_batches(tmp_path):
    batches, calls = [[0, 1]], []
    direct = in_parts(tmp_path, Unusable, batches, counted(calls), "answering directly")
    thinking = in_parts(
        tmp_path, Unusable, batches, lambda batch: [Unusable(row, "cot", "") for row in batch], "answering with thought"
    )
    assert [row.reason for row in direct + thinking] == ["too odd", "too odd", "cot", "cot"]


def test_drop_parts_leaves_the_table_alone(tmp_path):
    write_text(tmp_path / "scores.parquet", "whole")
    in_parts(tmp_path, Unusable, [[0], [1]], counted([]), "one")
    in_parts(tmp_path, Unusable, [[0, 1]], counted([]), "two")
    drop_parts(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["scores.parquet"]


def test_a_job_without_rows_is_done_at_once(tmp_path):
    assert in_parts(tmp_path, Unusable, [], counted([]), "work") == []


def test_json_is_read_back_as_written(tmp_path):
    write_json(tmp_path / "score" / "a.json", {"b": [1, 0.1, None, "ü"]})
    assert Run(tmp_path).json(Unit("score"), "a.json") == {"b": [1, 0.1, None, "ü"]}
    assert json.loads((tmp_path / "score" / "a.json").read_text("utf-8"))["b"][3] == "ü"
