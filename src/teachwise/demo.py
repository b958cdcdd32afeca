"""The demo: the shipped toy recipe against the toy teacher, served over HTTP on this machine."""

import os
from collections.abc import Sequence
from pathlib import Path

from teachwise.console import say
from teachwise.pipeline import run_recipe
from teachwise.recipe import load_recipe
from teachwise.run import Run


def run_demo(root: Path, overrides: Sequence[str] = ()) -> Run:
    """Carry out the shipped `toy` recipe in `root`, with a toy teacher of its own.

    One thread is used: the student is so small that a second one gains little, and on a busy machine two threads that
    wait for each other are many times slower than one.
    """
    from teachwise.toy.teacher import serve

    os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is loaded, later
    with serve() as server:
        say(f"toy teacher at {server.base_url}; run folder {root}")
        recipe = load_recipe("toy", [f"teacher.base_url={server.base_url}", *overrides])
        return run_recipe(recipe, root)
