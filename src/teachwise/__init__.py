"""Teachwise: fine-tune small language models, and pay the teacher only where it helps.

    import teachwise as tw

    run = tw.run("my_recipe.yaml", "train.epochs=1", until="score")     # or tw.open_run("runs/demo"), or tw.demo()
    run.scores.merge(run.examples, on="id")                             # pandas data frames
    run.arms                                                            # accuracy and interval of every arm

The names below are the public surface. They are loaded when they are first used, so `import teachwise` is quick and
the command line starts without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from teachwise.engines import length_batches
    from teachwise.engines.hf import HfEngine
    from teachwise.evaluate import routing_threshold
    from teachwise.pipeline import run, run_recipe
    from teachwise.recipe import load_recipe
    from teachwise.request import Request
    from teachwise.run_folder import Run, Unit, open_run
    from teachwise.sampling import cut_bands
    from teachwise.stats import bootstrap_difference, bootstrap_mean, roc_auc
    from teachwise.tasks import load_task
    from teachwise.teacher.buying import Terms, buy
    from teachwise.teacher.engine import load_teacher
    from teachwise.teacher.ledger import Ledger
    from teachwise.teacher.prices import Limits
    from teachwise.toy_demo import demo
    from teachwise.trainer import Row, Settings, train_stage

_HOME = {
    "run": "pipeline",
    "open_run": "run_folder",
    "demo": "toy_demo",
    "load_recipe": "recipe",
    "run_recipe": "pipeline",
    "Run": "run_folder",
    "Unit": "run_folder",
    "load_task": "tasks",
    "HfEngine": "engines.hf",
    "length_batches": "engines",
    "roc_auc": "stats",
    "cut_bands": "sampling",
    "load_teacher": "teacher.engine",
    "Ledger": "teacher.ledger",
    "Request": "request",
    "buy": "teacher.buying",
    "Terms": "teacher.buying",
    "Limits": "teacher.prices",
    "Row": "trainer",
    "Settings": "trainer",
    "train_stage": "trainer",
    "routing_threshold": "evaluate",
    "bootstrap_mean": "stats",
    "bootstrap_difference": "stats",
}

__all__ = [  # noqa: RUF022 - the everyday ones first, then in the order of the method
    "run",
    "open_run",
    "demo",
    "load_recipe",
    "run_recipe",
    "Run",
    "Unit",
    "load_task",
    "HfEngine",
    "length_batches",
    "roc_auc",
    "cut_bands",
    "load_teacher",
    "Ledger",
    "Request",
    "buy",
    "Terms",
    "Limits",
    "Row",
    "Settings",
    "train_stage",
    "routing_threshold",
    "bootstrap_mean",
    "bootstrap_difference",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'teachwise' has no attribute {name!r}")
    return getattr(import_module(f"teachwise.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
