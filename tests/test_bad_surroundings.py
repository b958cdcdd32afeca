"""A full disk, a damaged file, somebody else's folder: said in one line, and nothing is lost."""

import contextlib
import errno
import os
import shutil
import socket
import sqlite3
import subprocess
import sys

import pytest
from filelock import FileLock

from complaint import assert_kept, assert_told, content_of, teachwise, write_recipe
from teachwise.teacher import ledger_file
from teachwise.teacher.ledger import Ledger

ROOM = "make room and run the same command again"
MOVE = "a file stands where a folder is wanted"
AGAIN = "delete the folder"
ASSIGNED = "route/banded/seed-0/round-0"


@pytest.fixture(scope="module")
def routed(tmp_path_factory):
    """A run that is done up to `route`, made once; every test gets a copy."""
    folder = tmp_path_factory.mktemp("routed")
    with contextlib.chdir(folder):
        assert teachwise("route", write_recipe(folder, named="q.jsonl"), "--out", folder / "run")[0] == 0
    return folder


@pytest.fixture
def home(routed, tmp_path, monkeypatch):
    shutil.copytree(routed, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def go_on(home, *words, until="route"):
    return teachwise("run", home / "my.yaml", "--until", until, "--out", home / "run", *words)


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def into_folder(path):
    path.unlink(missing_ok=True)
    path.mkdir()


def into_file(path):
    shutil.rmtree(path)
    path.write_text("mine")


# what lies in the run folder

FOLDER_CASES = {
    "the run is a file": (into_file, "", ": cannot be made a run folder: File exists", "--out"),
    "half a manifest": (cut, "prepare/manifest.json", ": is damaged (", AGAIN),
    "an empty manifest": (lambda path: path.write_bytes(b""), "score/manifest.json", ": is damaged (", AGAIN),
    "a manifest of bytes": (
        lambda path: path.write_bytes(b"\xff\xfe\x80"),
        "score/manifest.json",
        ": is damaged (",
        AGAIN,
    ),
    "a manifest that is a list": (lambda path: path.write_text("[]"), "score/manifest.json", ": is damaged (", AGAIN),
    "a manifest that is a folder": (into_folder, "score/manifest.json", ": Is a directory", MOVE),
    "half a validation": (cut, "validate/validation.json", ": is damaged (", AGAIN),
    "a lost validation": (os.unlink, "validate/validation.json", ": is damaged (it is gone)", AGAIN),
    "half a table": (cut, f"{ASSIGNED}/assignments.parquet", ": is damaged (", AGAIN),
    "a lost table": (os.unlink, f"{ASSIGNED}/assignments.parquet", ": is damaged (it is gone)", AGAIN),
    "half of the examples": (cut, "prepare/examples.parquet", ": is damaged (", AGAIN),
    "a step is a file": (into_file, "score", "/manifest.json: Not a directory", MOVE),
    "the recipe is a folder": (into_folder, "resolved.yaml", ": Is a directory", MOVE),
    "the lock is a folder": (into_folder, ".lock", ": Is a directory", MOVE),
}


@pytest.mark.parametrize("name", FOLDER_CASES)
def test_a_damaged_run_is_noticed_and_left_as_it_is(home, name):
    damage, place, said, hint = FOLDER_CASES[name]
    path = home / "run" / place
    damage(path)
    before = content_of(home)
    code, out, err = go_on(home)
    assert (code, out) == (2, "")
    assert_told(err, f"{path}{said}", "", hint)
    assert_kept({name: digest for name, digest in before.items() if name != "run/resolved.yaml"}, content_of(home))


@pytest.mark.parametrize("place", ["prepare/examples.parquet", "validate/validation.json", f"{ASSIGNED}/manifest.json"])
def test_what_the_hint_says_mends_a_damaged_run(home, place):
    whole = content_of(home)
    path = home / "run" / place
    cut(path)
    err = go_on(home)[2]
    folder = err.partition("delete the folder ")[2].partition(" and run")[0]
    assert folder == str(path.parent)
    shutil.rmtree(folder)
    assert go_on(home)[0] == 0
    again = content_of(home)
    assert [name for name in whole if whole[name] != again[name] and not name.endswith("manifest.json")] == []


@pytest.mark.parametrize("step", ["prepare", "report"])
def test_a_folder_of_the_users_own_is_refused_and_stays(tmp_path, step):
    recipe = write_recipe(tmp_path, more="validate: {on_fail: warn}\narms: {base: {policy: none}}\n")
    (tmp_path / step).mkdir()
    (tmp_path / step / "thesis.tex").write_text("years of work")
    if step == "report":  # all steps before it are said to be done already
        begun = "from teachwise.run_folder import Run, Unit; Run('.').begin(Unit('report'), 'k')"
        found = subprocess.run([sys.executable, "-c", begun], cwd=tmp_path, capture_output=True, text=True)
        assert "report: holds files that are not of this run" in found.stderr
    else:
        code, _, err = teachwise("prepare", recipe, "--out", tmp_path)
        assert code == 2
        assert_told(err, f"{tmp_path / step}: holds files that are not of this run", "", "--out")
    assert (tmp_path / step / "thesis.tex").read_text() == "years of work"


def test_a_half_written_file_of_a_killed_run_is_written_anew(home):
    (home / "run" / "prepare" / ".examples.parquet.part").write_bytes(b"PAR1 half")
    assert go_on(home, "data.seed=5")[0] == 0
    assert not list((home / "run" / "prepare").glob(".*.part"))


def test_the_results_of_another_recipe_are_set_aside_aloud_and_fetched_back(home):
    first = content_of(home / "run")
    code, _, err = go_on(home, "data.seed=5")
    assert code == 0
    replaced = home / "run" / "replaced"
    assert err.splitlines()[:2] == [
        "changed since the last start: data.seed 0 -> 5",
        f"aside: 8 units of prepare, score, validate, route (of the earlier recipe), kept in {replaced}",
    ]
    kept = set(content_of(home / "run" / "replaced").values())
    assert {digest for name, digest in first.items() if name.startswith("prepare/")} <= kept
    code, _, err = go_on(home)
    assert code == 0
    assert "aside: 8 units of prepare, score, validate, route" in err
    assert "back  prepare: 1 of 1 fetched from replaced/" in err
    assert "back  route: 5 of 5 fetched from replaced/" in err
    assert "kept" not in err.replace("kept in", "")
    assert {name: content_of(home / "run")[name] for name in first if name != "resolved.yaml"} == {
        name: digest for name, digest in first.items() if name != "resolved.yaml"
    }


def test_a_second_process_in_a_run_is_told(home):
    with FileLock(home / "run" / ".lock"):
        before = content_of(home)
        code, _, err = go_on(home, "data.seed=5")
    assert code == 2
    assert_told(err, f"{home / 'run'}: another teachwise process is working in this run folder", "", "--out")
    assert content_of(home) == before


# the ledger


def foreign(sql):
    def make(path):
        with sqlite3.connect(path) as db:
            db.execute(sql)
        db.close()

    return make


def ledger_then(damage):
    def make(path):
        Ledger(path).close()
        damage(path)

    return make


def scramble(path):
    content = bytearray(path.read_bytes())
    content[100:4000] = os.urandom(3900)
    path.write_bytes(content)


LEDGER_CASES = {
    "a text": (lambda path: path.write_text("what we paid\n" * 100), "file is not a database", ".recover"),
    "half a ledger": (ledger_then(cut), "database disk image is malformed", ".recover"),
    "scrambled": (ledger_then(scramble), "database disk image is malformed", ".recover"),
    "a folder": (into_folder, "unable to open database file", "--out"),
    "another program's": (foreign("CREATE TABLE songs (title)"), "is a database with the tables songs", "move it"),
    "of the same word": (foreign("CREATE TABLE request (url)"), "is a database with the tables request", "move it"),
}


@pytest.mark.parametrize("name", LEDGER_CASES)
def test_a_ledger_that_cannot_be_read_is_named_and_left_as_it_is(home, name):
    make, said, hint = LEDGER_CASES[name]
    path = home / "run" / "ledger.sqlite"
    make(path)
    before = content_of(home)
    code, _, err = go_on(home, until="teach")
    assert code == 2
    assert_told(err, f"{path}: {said}", "", hint)
    assert_kept(before, content_of(home))


def test_a_ledger_that_is_open_elsewhere_is_named(home, monkeypatch):
    path = home / "run" / "ledger.sqlite"
    Ledger(path).close()
    other = sqlite3.connect(path)
    other.execute("BEGIN EXCLUSIVE")
    monkeypatch.setattr(ledger_file, "BUSY_SECONDS", 0.05)
    code, _, err = go_on(home, until="teach")
    other.close()
    assert code == 2
    assert_told(err, f"{path}: database is locked", "", "close that")


# disks that are full or may not be written


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EIO], ids=os.strerror)
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_write_that_the_system_refuses_names_the_file_and_the_run_goes_on_later(tmp_path, monkeypatch, call, number):
    recipe = write_recipe(tmp_path)
    before = content_of(tmp_path)
    real, calls = getattr(os, call), []

    def refuse(*args):
        calls.append(args)
        if len(calls) > 6:
            raise OSError(number, os.strerror(number), *(args if call == "replace" else ()))
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(os, call, refuse)
        code, _, err = teachwise("route", recipe, "--out", tmp_path / "run")
    assert code == 2
    assert_told(err, f"{tmp_path / 'run'}/", os.strerror(number))
    assert_kept(before, content_of(tmp_path))
    assert teachwise("route", recipe, "--out", tmp_path / "run")[0] == 0


@pytest.mark.parametrize("size", [2000, 5000])
def test_a_limit_of_the_system_on_files_is_named_whoever_writes(tmp_path, size):
    recipe = write_recipe(tmp_path)
    words = ["teachwise", "teach", str(recipe), "--out", str(tmp_path / "run")]
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))"
    code = f"import sys; from teachwise.cli import main; {limit}; sys.argv = {words}; main()"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.returncode == 2
    assert_told(found.stderr, f"{tmp_path / 'run'}/", "", "room")
    assert not list((tmp_path / "run").rglob("*.part"))


def test_a_disk_that_is_really_full_is_named_and_room_mends_it(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("no disk can be mounted here")
    try:
        recipe = write_recipe(tmp_path)
        room = os.statvfs(disk)
        (disk / "film").write_bytes(b"x" * (room.f_bavail * room.f_bsize - 40_000))
        code, _, err = teachwise("route", recipe, "--out", disk / "run")
        assert code == 2
        assert_told(err, f"{disk / 'run'}/", "No space left on device", ROOM)
        (disk / "film").unlink()
        assert teachwise("route", recipe, "--out", disk / "run")[0] == 0
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_result_that_cannot_be_printed_is_told():
    with open("/dev/full", "w") as full:
        found = subprocess.run(
            [sys.executable, "-m", "teachwise", "check", "toy"], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert found.returncode in (2, 120)  # 120: Python met it once more when it closed its own output
    assert_told(found.stderr.partition("Exception ignored")[0], "No space left on device", "")


# taking things out

EXPORT_CASES = {
    "an unknown arm": ("run --arm bandit", "export: the run has no arm 'bandit'", "arms: base, sft"),
    "an arm that trains nothing": ("run --arm base", "export: arm 'base' trains nothing", "another arm"),
    "an unknown seed": ("run --seed 7", "export: the run has no seed 7", "seeds: 0"),
    "an unknown format": ("run --format jsonl", "export: unknown format 'jsonl'", "formats: prompt-completion"),
    "a run that is not taught": ("run", "run/teach/banded/seed-0/round-0/rationales.parquet: is not there", "run"),
    "no run": ("gone", "gone: is no run folder", "teachwise run"),
    "a file": ("q.jsonl", "q.jsonl: is no run folder", "teachwise run"),
    "into a folder with a page of its own": ("run --out mine", "export: mine: holds files that are not of", "--out"),
    "into a file": ("run --out q.jsonl", "export: q.jsonl: holds files that are not of an export", "--out"),
}


@pytest.mark.parametrize("name", EXPORT_CASES)
def test_an_export_that_cannot_be_made_says_why_and_overwrites_nothing(home, name):
    words, place, hint = EXPORT_CASES[name]
    (home / "mine").mkdir()
    (home / "mine" / "README.md").write_text("# My project\n")
    before = content_of(home)
    code, out, err = teachwise("export", *words.split())
    assert (code, out) == (2, "")
    assert_told(err, place, "", hint)
    assert content_of(home) == before


def test_a_busy_port_is_named():
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        code, out, err = teachwise("toy", "serve", "--port", port)
    assert (code, out) == (2, "")
    assert_told(err, f"--port {port}: Address already in use", "", "another port")


@pytest.mark.parametrize("port", ["65536", "-1", "http"])
def test_a_port_that_there_cannot_be_is_named(port):
    code, out, err = teachwise("toy", "serve", "--port", port)
    assert (code, out) == (2, "")
    assert_told(err, "Invalid value for '--port'", "", "--help")
