"""Kill a whole run with signal 9, at few of the points of `make bench`: it goes on to the same tables and weights."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MOST_SECONDS = 400


@pytest.mark.slow
def test_a_run_that_is_killed_anywhere_goes_on_to_the_same_tables_and_weights(tmp_path):
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "bench" / "kills.py"), "--quick"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        start_new_session=True,
    )
    try:
        said, _ = process.communicate(timeout=MOST_SECONDS)
    except subprocess.TimeoutExpired:
        pytest.fail(f"a run hangs, or the machine is very slow: not done in {MOST_SECONDS} seconds")
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    assert process.returncode == 0, said
    assert "resumed to the same" in said
