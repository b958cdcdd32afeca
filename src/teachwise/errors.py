"""Everything a user can get wrong, and how it is said.

    TeachwiseError            exit 2   the user's mistake: one clear message, no traceback
    ├── RecipeError                    a recipe that cannot be run
    ├── DataError                      a table, a row or a run folder that cannot be used
    ├── StudentError                   a model or tokenizer that cannot do what is asked
    ├── TeacherError                   a teacher that cannot be reached or refuses
    └── GateError             exit 3   nothing is broken; a gate said no (AUC too low, budget spent)

Every message has two parts: what was found and what was wanted, then a hint: what to type or change.
A traceback means a bug of ours (exit 1); Ctrl-C is exit 130. A failure is never turned into a number.
"""


class TeachwiseError(Exception):
    """A mistake the user can mend.

    Args:
        found: What was found and what was wanted, opening with `file:line` or the step's name.
        hint: What to type or change. Required, so that no message ends in a shrug.
    """

    exit_code = 2

    def __init__(self, found: str, hint: str) -> None:
        super().__init__(found, hint)
        self.found = found
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.found}\n  hint: {self.hint}"


class RecipeError(TeachwiseError):
    """A recipe with unknown, missing or impossible fields."""


class DataError(TeachwiseError):
    """A table, a row or a run folder that cannot be used."""


class StudentError(TeachwiseError):
    """A model or tokenizer that cannot do what is asked of it."""


class TeacherError(TeachwiseError):
    """A teacher that cannot be reached, or that refuses."""


class GateError(TeachwiseError):
    """A gate said no; everything made so far is kept."""

    exit_code = 3
