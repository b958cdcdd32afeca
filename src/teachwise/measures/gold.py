"""Measures that look at the gold answer: how far the student is from it.

New questions have none, so they cannot be scored or routed with these.
"""

from teachwise.evidence import AnswerEvidence
from teachwise.measures import Asking, Known
from teachwise.measures.answer import answers


def gold_cross_entropy(known: Known) -> list[float]:
    """Cross-entropy of the gold answer's first token over the whole vocabulary, -ln p(gold).

    Of a letter it is that of the whole answer; of an open answer, of its first token alone.

    Source:
        The later code of the authors of arXiv 2506.21220, with -log_softmax at the gold letter's token.

    Example:
        >>> from teachwise.measures.answer import known_example
        >>> [round(value, 4) for value in gold_cross_entropy(known_example())]  # p(gold) = 0.2
        [1.6094]
    """
    return [one.gold_nats for one in known.answers]


def instruction_difficulty(known: Known) -> list[float]:
    """Perplexity of the gold answer with the question over that without it, as ln p(gold) - ln p(gold | question).

    Over 0 the question leads away from the gold answer; near 0 it is of no help. Without it, the student is shown an
    empty user's message. Perplexity is that of the answer's first token, of a letter thus of the whole answer.

    Source:
        IFD: Li et al., arXiv 2308.12032 and 2402.00530, there the ratio itself, over the whole answer; its logarithm
        ranks alike.

    Example:
        >>> from teachwise.measures.answer import known_example
        >>> one = known_example()
        >>> instruction_difficulty(Known(one.examples, one.correct, {"answer": one.answers, "bare": one.answers}))
        [0.0]
    """
    pairs = zip(known.answers, known.evidence["bare"], strict=True)
    return [with_question.gold_nats - without.gold_nats for with_question, without in pairs]


def bare(asking: Asking) -> list[AnswerEvidence]:
    """The student's answer to an empty user's message; one pass for each number of options and gold answer."""
    empty = ({"role": "user", "content": ""},)
    return answers(asking, asking.student(), [empty] * len(asking.examples), "scoring without the questions")
