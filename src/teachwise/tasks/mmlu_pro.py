"""MMLU-Pro: 12 thousand questions in 14 fields, mostly with ten options."""

from collections.abc import Mapping
from typing import Any

from teachwise.tasks.multiple_choice import MultipleChoice

HUB_NAME = "TIGER-Lab/MMLU-Pro"
COLUMNS = {"question": "question", "options": "options", "answer": "answer", "subject": "category"}


class MmluPro(MultipleChoice):
    """Multiple choice with the columns of MMLU-Pro filled in.

    It reads the hub's own table, a Parquet copy of it, and the tables that the paper's authors published, which
    hold the options as a Python list literal. Those also have a finer `base_cluster`, which the paper's prompts
    name instead of the category: say `columns: {subject: base_cluster}` to have it so.

    Args:
        source: A table, or a hub name.
        columns: What differs from `COLUMNS`.
        answer_is: As for `MultipleChoice`; "auto" is "letter" here, unless `columns` names another answer.
        options: The rest as for `MultipleChoice`; the hub's "test" split is the whole benchmark.
    """

    def __init__(
        self,
        source: str | None = None,
        columns: Mapping[str, Any] | None = None,
        answer_is: str = "auto",
        **options: Any,
    ) -> None:
        own = {role: name for role, name in (columns or {}).items() if name is not None}
        if answer_is == "auto" and "answer" not in own:
            answer_is = "letter"
        super().__init__(source or HUB_NAME, {**COLUMNS, **own}, answer_is, **options)
