"""The demo: the shipped toy recipe against the toy teacher, served over HTTP on this machine."""

import threading
from collections.abc import Sequence
from pathlib import Path

from teachwise.console import say
from teachwise.pipeline import run_recipe
from teachwise.recipe import load_recipe
from teachwise.run import Run


def run_demo(root: Path, overrides: Sequence[str] = ()) -> Run:
    """Carry out the shipped `toy` recipe in `root`, with a toy teacher of its own."""
    from teachwise.toy.teacher import serve

    server = serve(0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}/v1"
    say(f"toy teacher at {address}; run folder {root}")
    try:
        recipe = load_recipe("toy", [f"teacher.base_url={address}", *overrides])
        return run_recipe(recipe, root)
    finally:
        server.shutdown()
