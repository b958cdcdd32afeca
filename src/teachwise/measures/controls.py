"""Controls: what a score must beat to be worth its price. None of them asks a model."""

import numpy as np

from teachwise.measures import Known
from teachwise.run_folder import content_hash

FOLDS = 5
"""Parts that the subject prior is taken across: an example's own answer never counts for it."""


def question_length(known: Known) -> list[int]:
    """Characters of the question and its options.

    Example:
        >>> from teachwise.measures.answer import known_example
        >>> question_length(known_example())
        [9]
    """
    return [len(example.question) + sum(map(len, example.options)) for example in known.examples]


def option_count(known: Known) -> list[int]:
    """Number of options, K.

    Example:
        >>> from teachwise.measures.answer import known_example
        >>> option_count(known_example())
        [3]
    """
    return [len(example.options) for example in known.examples]


def subject_prior(known: Known) -> np.ndarray:
    """How often the student is wrong on other train questions of the subject, (wrong + 1) / (n + 2).

    Train examples are put into five parts by their id; each is told by the other four, all others by the five together.
    A score that does no better than this tells subjects apart, not questions. Within a subject it knows nothing, and
    its AUC there is a little below 0.5: of two parts, the one with more errors is told by the one with fewer.

    Example:
        >>> from teachwise.measures.answer import known_example
        >>> subject_prior(known_example()).tolist()  # nobody else to learn from
        [0.5]
    """
    folds = np.array([fold_of(one.id) if one.split == "train" else FOLDS for one in known.examples])
    subjects = np.array([one.subject for one in known.examples])
    wrong, values = ~np.asarray(known.correct, dtype=bool), np.zeros(len(subjects))
    for subject in np.unique(subjects):
        inside = subjects == subject
        learnt = inside & (folds < FOLDS)
        for fold in np.unique(folds[inside]):
            seen = learnt & (folds != fold)
            values[inside & (folds == fold)] = (wrong[seen].sum() + 1) / (seen.sum() + 2)
    return values


def random(known: Known) -> list[float]:
    """A number drawn by lot, the same for an example on every machine.

    Example:
        >>> from teachwise.measures.answer import known_example
        >>> 0 <= random(known_example())[0] < 1
        True
    """
    return [int(content_hash(f"random {example.id}"), 16) / 2**64 for example in known.examples]


def fold_of(example_id: str) -> int:
    """The part of `FOLDS` that an example belongs to, by its id alone."""
    return int(content_hash(f"fold {example_id}"), 16) % FOLDS
