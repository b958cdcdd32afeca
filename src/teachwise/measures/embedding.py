"""A measure that is learnt: from the student's own states before it answers to whether it will err."""

from collections.abc import Sequence

import numpy as np

from teachwise.engines import length_batches
from teachwise.evidence import EmbeddingEvidence
from teachwise.measures import Asking, Known
from teachwise.measures.controls import FOLDS, fold_of
from teachwise.run_folder import in_parts

DIRECTIONS = 64
"""Main directions of the states that are learnt from, at most."""


def embedding_error(known: Known) -> np.ndarray:
    """Probability of an error by logistic regression on the student's last states, averaged over the prompt.

    Train examples are put into five parts by their id; each is told by the other four, and all others by the five
    together, so no answer is told by itself. The states are laid along their 64 main directions first, so that few
    examples are not learnt by heart. It is a probe: what can be read off the states, not what the student says.

    Source:
        The forerunner of the paper, arXiv 2503.01688, on a larger model's embeddings: accuracy 0.64 at telling errors.

    Example:
        >>> from teachwise.measures.answer import known_example
        >>> one = [EmbeddingEvidence("e", np.ones(4, "<f2").tobytes())]
        >>> embedding_error(Known(known_example().examples, np.array([False]), {"embedding": one})).tolist()
        [0.5]
    """
    states = np.stack([np.frombuffer(one.state, "<f2").astype(np.float64) for one in known.evidence["embedding"]])
    folds = np.array([fold_of(one.id) if one.split == "train" else FOLDS for one in known.examples])
    wrong, values = ~np.asarray(known.correct, dtype=bool), np.empty(len(states))
    for fold in np.unique(folds):
        learnt, told = (folds < FOLDS) & (folds != fold), folds == fold
        values[told] = _told(states[learnt], wrong[learnt], states[told])
    return values


def _told(seen: np.ndarray, wrong: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """(M,) probability of an error of what is asked; 0.5 where nothing can be learnt."""
    if len(np.unique(wrong)) < 2:
        return np.full(len(asked), 0.5)
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    n = min(DIRECTIONS, *seen.shape)
    model = make_pipeline(PCA(n, svd_solver="full"), StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
    told: np.ndarray = model.fit(seen, wrong).predict_proba(asked)[:, 1]
    return told


def states(asking: Asking) -> list[EmbeddingEvidence]:
    """The student's states on the prompt that it answers at once."""
    engine, examples = asking.student(), asking.examples
    prompts = engine.chat.prompt_ids([asking.task.messages(example, "direct") for example in examples])

    def work(batch: Sequence[int]) -> list[EmbeddingEvidence]:
        found = engine.pooled_states([prompts[i] for i in batch]).astype("<f2")
        return [EmbeddingEvidence(examples[i].id, one.tobytes()) for i, one in zip(batch, found, strict=True)]

    batches = length_batches([len(prompt) for prompt in prompts], asking.batch_tokens)
    place = {example.id: number for number, example in enumerate(examples)}
    return sorted(in_parts(asking.folder, EmbeddingEvidence, batches, work, "embedding"), key=lambda row: place[row.id])
