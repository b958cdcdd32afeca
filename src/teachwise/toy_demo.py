"""The demo: the shipped toy recipe against the toy teacher, served over HTTP on this machine."""

import os
from pathlib import Path

from rich.markup import escape

from teachwise.console import say
from teachwise.pipeline import run_recipe
from teachwise.recipe import load_recipe
from teachwise.run_folder import Run


def demo(*overrides: str, out: str | Path = "runs/demo") -> Run:
    """Carry out the shipped `toy` recipe, with a toy teacher of its own; offline, minutes on two cores.

    One thread is used: the student is so small that a second one gains little, and on a busy machine two threads that
    wait for each other are many times slower than one.

    Args:
        overrides: Recipe fields to change, for instance `train.epochs=1`.
        out: The run folder.
    """
    from teachwise.toy.server import serve

    os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is loaded, later
    with serve() as server:
        say(escape(f"toy teacher at {server.base_url}; run folder {out}"))
        recipe = load_recipe("toy", [f"teacher.base_url={server.base_url}", *overrides])
        return run_recipe(recipe, out)
