"""The tutorial notebook runs from its first cell to its last, in a process of its own, without Jupyter."""

import json
import os
import subprocess
import sys

import pytest

from doc_pages import ROOT

NOTEBOOK = ROOT / "examples" / "tutorial.ipynb"
PLAYER = """
import json, sys
names = {"__name__": "__main__"}
for number, cell in enumerate(json.load(open(sys.argv[1], encoding="utf-8"))["cells"]):
    if cell["cell_type"] == "code":
        print(f"== cell {number}", flush=True)
        exec(compile("".join(cell["source"]), f"cell {number}", "exec"), names)
"""
"""Executes the code cells in one namespace, as a kernel would."""


def content():
    return json.loads(NOTEBOOK.read_text(encoding="utf-8"))


def test_the_notebook_is_stored_without_outputs():
    found = content()
    assert found["nbformat"] == 4
    assert len({cell["id"] for cell in found["cells"]}) == len(found["cells"]) >= 12
    for cell in found["cells"]:
        assert "".join(cell["source"]).strip()
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None


@pytest.mark.slow
def test_the_notebook_runs_from_top_to_bottom(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", PLAYER, str(NOTEBOOK)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(tmp_path), "MPLBACKEND": "Agg"},
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    last = max(n for n, cell in enumerate(content()["cells"]) if cell["cell_type"] == "code")
    assert f"== cell {last}\n" in done.stdout
    assert "against_random" in done.stdout
    assert "- banded: " in done.stdout
    assert list(tmp_path.glob("teachwise-tutorial-*/run/report/report.html"))
