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

import errno
from pathlib import Path


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


def damaged(path: Path, why: object) -> DataError:
    """A file of a run folder that cannot be read back: it was written whole, so a disk or a hand has been at it."""
    return DataError(
        f"{path}: is damaged ({str(why).splitlines()[0]})",
        f"delete the folder {path.parent} and run the same command again: it is made again, nothing is paid twice",
    )


_SPACE = "make room and run the same command again: what was finished is kept"
_RIGHTS = "see who may read and write there, or choose another place"
_PLACE = "a file stands where a folder is wanted, or a folder where a file is: move it, or choose another place"
_REFUSALS = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), _SPACE),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), _RIGHTS),
    **dict.fromkeys((errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENOTEMPTY), _PLACE),
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EIO: "the disk does not answer as it should: look into the system's log before you go on",
    errno.EMFILE: "too many files are open: raise the limit with `ulimit -n 4096`",
}


def refusal(error: OSError) -> DataError | None:
    """What the operating system refused, as a message for whoever owns the machine.

    Returns:
        None where the system's reason points to no such cause: that failure is a bug of ours and keeps its traceback.

    Example:
        >>> print(refusal(OSError(errno.ENOSPC, "No space left on device", "runs/demo")))
        runs/demo: No space left on device
          hint: make room and run the same command again: what was finished is kept
    """
    hint = _REFUSALS.get(error.errno or 0)
    place = error.filename2 or error.filename  # a rename has two names, and the second is the one that was wanted
    return DataError(f"{place}: {error.strerror}" if place else str(error.strerror), hint) if hint else None
