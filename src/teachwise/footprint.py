"""Footprint: how large a student is, from its files alone; nothing is loaded.

Weights files in the safetensors format open with the shapes of all that is in them.
"""

import json
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import try_to_load_from_cache

from teachwise.engines import find_model
from teachwise.sections import Student, Train

BYTES = {"F64": 8, "F32": 4, "BF16": 2, "F16": 2, "float32": 4, "bfloat16": 2, "float16": 2}
"""Bytes of a number, by the names that files and recipes use."""
_MOST_HEADER = 100 * 2**20
_EMBEDDINGS = ("embed", "lm_head", "wte", "wpe")
"""Parts of the names of matrices that no adapter goes on."""


@dataclass(frozen=True)
class Footprint:
    """What training a student takes, as far as its files tell.

    Attributes:
        parameters: Numbers in the student.
        trained: Numbers that are trained.
        memory_bytes: Weights, gradients and the optimizer's two moments; activations come on top.
        disk_bytes: All trained stages of all arms and seeds.
    """

    parameters: int
    trained: int
    memory_bytes: int
    disk_bytes: int


def footprint(student: Student, train: Train, n_stages: int) -> Footprint | None:
    """What training takes; None where the student's files are not on this machine.

    Args:
        student: The student.
        train: How it is trained.
        n_stages: Stages of all arms and training seeds together.
    """
    folder = _folder(student)
    shapes = list(_shapes(folder)) if folder else []
    if not shapes:
        return None
    parameters = sum(math.prod(shape) for _, shape, _ in shapes)
    if train.method == "full":
        return Footprint(parameters, parameters, parameters * 4 * 4, parameters * 4 * n_stages)
    kept = BYTES.get(student.dtype) or (
        4 if student.device == "cpu" else max(BYTES.get(kind, 4) for *_, kind in shapes)
    )
    adapter = train.lora_r * sum(
        sum(shape) for name, shape, _ in shapes if len(shape) == 2 and not any(word in name for word in _EMBEDDINGS)
    )
    return Footprint(parameters, adapter, parameters * kept + adapter * 4 * 4, adapter * 4 * n_stages)


def _folder(student: Student) -> Path | None:
    path = Path(find_model(student.model))
    if path.is_dir():
        return path
    found = try_to_load_from_cache(student.model, "config.json", revision=student.revision)
    return Path(found).parent if isinstance(found, str) else None


def _shapes(folder: Path) -> Iterator[tuple[str, list[int], str]]:
    """Name, shape and kind of number of every tensor."""
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            size = struct.unpack("<Q", file.read(8).ljust(8, b"\0"))[0]
            if not 0 < size < _MOST_HEADER:
                return
            try:
                header = json.loads(file.read(size))
            except ValueError:
                return
        yield from (
            (name, one["shape"], one["dtype"])
            for name, one in header.items()
            if name != "__metadata__" and "shape" in one
        )
