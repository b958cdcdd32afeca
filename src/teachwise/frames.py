"""The tables of a run as pandas data frames, for people; steps read the same files as records.

pandas is loaded when the first frame is made, so that `import teachwise` and the command line do not wait for it.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

if TYPE_CHECKING:
    import pandas as pd


def read_frame(path: Path) -> "pd.DataFrame":
    """One Parquet file; cells that hold several texts, such as the options, are lists."""
    with path.open("rb") as file:  # given a path, pyarrow would read a folder named `seed=1` as a column
        table = pq.read_table(file)
    frame: pd.DataFrame = table.to_pandas()
    for field in table.schema:
        if pa.types.is_list(field.type):
            frame[field.name] = table[field.name].to_pylist()
    return frame


def scores_frame(path: Path) -> "pd.DataFrame":
    """The rows of the measure that drives routing and the gate, which stands first in the file: one per question."""
    frame = read_frame(path)
    return frame[frame["measure"] == frame["measure"].iloc[0]] if len(frame) else frame


def stack_frames(paths: Iterable[tuple[str, int, Path]]) -> "pd.DataFrame":
    """Files of several arms and training seeds as one frame.

    Args:
        paths: Arm, seed and file; at least one.

    Returns:
        Their rows in that order, with the columns `arm` and `seed` in front.
    """
    import pandas as pd

    return pd.concat(
        [_opened_by(read_frame(path), {"arm": arm, "seed": seed}) for arm, seed, path in paths], ignore_index=True
    )


def _opened_by(frame: "pd.DataFrame", columns: Mapping[str, Any]) -> "pd.DataFrame":
    for place, (name, value) in enumerate(columns.items()):
        frame.insert(place, name, value)
    return frame


def arms_frame(comparison: Mapping[str, Any]) -> "pd.DataFrame":
    """The arms of a comparison, one row each under its name.

    Returns:
        `mode`, `accuracy` with `low` and `high` (95%, fractions), `teacher_tokens`; and for the untouched student and
        the random control, where the run has them, `against_NAME` with its `_low` and `_high`.
    """
    import pandas as pd

    others = [name for name in (comparison["base"], comparison["control"]) if name]
    rows = {}
    for name, arm in comparison["arms"].items():
        own = arm["accuracy"]
        rows[name] = {
            "mode": arm["mode"],
            "accuracy": own["value"],
            "low": own["low"],
            "high": own["high"],
            "teacher_tokens": arm["cost"]["teacher_tokens"],
        }
        for other in others:
            gap = arm["against"].get(other, {}).get("difference", {})
            ends = {"": gap.get("value"), "_low": gap.get("low"), "_high": gap.get("high")}
            rows[name] |= {f"against_{other}{end}": value for end, value in ends.items()}
    frame = pd.DataFrame.from_dict(rows, orient="index")
    frame.index.name = "arm"
    return frame
