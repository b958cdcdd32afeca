"""The method in one straight line runs as it stands."""

import subprocess
import sys

import pytest

from doc_pages import ROOT


@pytest.mark.slow
def test_the_flat_loop_runs_as_it_stands():
    command = [sys.executable, str(ROOT / "examples" / "flat_loop.py"), "--small"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "ROC AUC" in done.stdout
    assert "against random" in done.stdout
    lines = (ROOT / "examples" / "flat_loop.py").read_text().splitlines()
    assert len(lines) <= 160
