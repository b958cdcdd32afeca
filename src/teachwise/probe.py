"""Probe: a few sequences kept beside a stage's weights, with the loss these had on them before they were saved.

Whoever loads the weights can tell with them whether they are the ones that were trained.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from teachwise.errors import damaged
from teachwise.run_folder import write_text

PROBE = "probe.json"
_SEQUENCES = 4
"""The shortest ones, so that memory which was enough for training is enough for them."""
_EXACT, _HALF = 1e-4, 2e-2
"""Share of the loss that rounding may make in float32 and in half precision; another device adds in another order."""


@dataclass(frozen=True)
class Reload:
    """What became of weights on their way over the disk.

    Attributes:
        saved_nats: Mean loss on the probe before they were saved.
        loaded_nats: The same after they were loaded again.
        allowed_nats: The difference that rounding may make.
    """

    saved_nats: float
    loaded_nats: float
    allowed_nats: float


def write_probe(folder: Path, model: Any, rows: Sequence[tuple[list[int], list[int]]]) -> None:
    """Measure the model on the shortest rows, and write both down; a loss that is no number is not written.

    Args:
        folder: Where its weights are going to lie.
        model: As it is going to be saved.
        rows: Token ids of prompt and completion of each training sequence.
    """
    shortest = sorted(rows, key=lambda row: len(row[0]) + len(row[1]))[:_SEQUENCES]
    if math.isfinite(loss := _loss(model, shortest)):
        write_text(folder / PROBE, json.dumps({"loss_nats": loss, "rows": shortest}))


def reload_of(model: Any, folder: Path | None) -> Reload | None:
    """Measure a model that was loaded from a stage's folder, and not trained since.

    Returns:
        None where there is no folder, or it has no probe.

    Raises:
        DataError: the probe is damaged.
    """
    path = folder / PROBE if folder else None
    if path is None or not path.exists():
        return None
    try:
        probe = json.loads(path.read_text(encoding="utf-8"))
        saved, rows = float(probe["loss_nats"]), [(list(prompt), list(learnt)) for prompt, learnt in probe["rows"]]
    except (ValueError, KeyError, TypeError) as error:
        raise damaged(path, error) from error
    is_exact = all(weight.dtype == torch.float32 for weight in model.parameters())
    return Reload(saved, _loss(model, rows), (_EXACT if is_exact else _HALF) * max(1.0, saved))


def _loss(model: Any, rows: Sequence[tuple[list[int], list[int]]]) -> float:
    """Mean over the completions' tokens, in nats; row by row, so that no padding plays a part."""
    was_training, total = model.training, 0.0
    model.eval()
    with torch.no_grad():
        for prompt, learnt in rows:
            logits = model(input_ids=torch.tensor([prompt + learnt], device=model.device)).logits[0].float()
            wanted = torch.tensor(learnt, device=logits.device)
            total += F.cross_entropy(logits[-len(learnt) - 1 : -1], wanted, reduction="sum").item()
    model.train(was_training)
    return total / sum(len(learnt) for _, learnt in rows)
