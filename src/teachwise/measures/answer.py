"""Measures of the answer at once, all from one forward pass over the prompt, and the ways of asking for it.

With p the student's probabilities over the whole vocabulary where its answer begins, and q the probabilities of the K
options alone, q_k = p_k / sum of p_j over the options.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from teachwise import entropy
from teachwise.engines import length_batches
from teachwise.evidence import AnswerEvidence
from teachwise.measures import Asking, Known
from teachwise.records import Example, Message
from teachwise.run_folder import in_parts

ASK = {
    "fallback": "Reply with the letter only if you are certain; otherwise reply with 0.",
    "alternative": "If you know the answer, reply with its letter; otherwise reply with 0.",
}
"""What a variant adds to the end of the question."""


def answer_entropy(known: Known) -> list[float]:
    """Entropy of the answer's first token over the whole vocabulary, H = -sum p ln p.

    Source:
        arXiv 2506.21220, single-token answer entropy; its code takes ln(p + 1e-12), which loses the sure end.

    Example:
        >>> [round(value, 4) for value in answer_entropy(known_example())]
        [1.3592]
    """
    return [one.entropy_nats for one in known.answers]


def option_entropy(known: Known) -> list[float]:
    """Entropy over the options' letters alone, -sum q ln q, from 0 to ln K.

    Source:
        Recommended in the later reports of the authors of arXiv 2506.21220.

    Example:
        >>> [round(value, 4) for value in option_entropy(known_example())]  # of 0.5, 0.2 and 0.1
        [0.9003]
    """
    return [_entropy(one.letter_logprobs) for one in known.answers]


def option_entropy_any_form(known: Known) -> list[float]:
    """Entropy over the options, each with all its spellings: either case, with and without a leading space.

    The same as `option_entropy` where a tokenizer has one spelling of each letter, as the toy's has.

    Source:
        Recommended in the later reports of the authors of arXiv 2506.21220.

    Example:
        >>> [round(value, 4) for value in option_entropy_any_form(known_example())]  # of 0.6, 0.2 and 0.1
        [0.8487]
    """
    return [_entropy(one.option_logprobs) for one in known.answers]


def option_entropy_share(known: Known) -> list[float]:
    """Entropy over the options' letters, divided by its greatest value ln K, so that 3 and 10 options compare.

    The same ranking as `option_entropy` where all questions have as many options.

    Source:
        Recommended in the later reports of the authors of arXiv 2506.21220.

    Example:
        >>> [round(value, 4) for value in option_entropy_share(known_example())]
        [0.8194]
    """
    return [_entropy(one.letter_logprobs) / math.log(max(2, len(one.letter_logprobs))) for one in known.answers]


def margin(known: Known) -> list[float]:
    """One less the lead of the likeliest token over the second likeliest, 1 - (p1 - p2).

    Source:
        Margin sampling: Scheffer, Decomain and Wrobel, IDA 2001.

    Example:
        >>> [round(value, 4) for value in margin(known_example())]
        [0.7]
    """
    return [-math.expm1(one.top_logprob) + math.exp(one.second_logprob) for one in known.answers]


def max_probability(known: Known) -> list[float]:
    """One less the probability of the likeliest token, 1 - p1.

    Source:
        Hendrycks and Gimpel, arXiv 1610.02136.

    Example:
        >>> [round(value, 4) for value in max_probability(known_example())]
        [0.5]
    """
    return [-math.expm1(one.top_logprob) for one in known.answers]


def outside_mass(known: Known) -> list[float]:
    """Probability of all that names no option in any spelling, 1 less the mass on valid options.

    Example:
        >>> outside_mass(known_example())
        [0.1]
    """
    return [one.outside_mass if one.option_logprobs else math.nan for one in known.answers]


def gain(known: Known) -> list[float]:
    """Answer entropy of the student less that of a proxy, a weaker model: what only this student is unsure about.

    Source:
        The later reports of the authors of arXiv 2506.21220, H_student - H_proxy. Neither sign nor scale is cut here.

    Example:
        >>> one = known_example()
        >>> gain(Known(one.examples, one.correct, {"answer": one.answers, "proxy": one.answers}))
        [0.0]
    """
    pairs = zip(known.answers, known.evidence["proxy"], strict=True)
    return [student.entropy_nats - proxy.entropy_nats for student, proxy in pairs]


def _entropy(logprobs: Sequence[float]) -> float:
    """Entropy of the options among themselves; NaN for open questions, which have none."""
    return float(entropy.answer_entropy(np.array([logprobs]))[0]) if logprobs else math.nan


def known_example() -> Known:
    """One question with three options, for the examples in docstrings.

    The probabilities: A 0.5 and "a" 0.1, B 0.2, C 0.1, another token 0.1. The gold answer is B.
    """
    example = Example("e", 0, "train", "sums", 1, "1 + 1?", ("2", "3", "4"), "B")
    log = math.log
    letters, any_form = (log(0.5), log(0.2), log(0.1)), (log(0.6), log(0.2), log(0.1))
    spread = -sum(p * log(p) for p in (0.5, 0.1, 0.2, 0.1, 0.1))
    answer = AnswerEvidence("e", "A", "A", spread, 3.0, log(0.5), log(0.2), letters, any_form, 0.1, -log(0.2), 12)
    return Known([example], np.array([False]), {"answer": [answer]})


def plain(asking: Asking) -> list[AnswerEvidence]:
    """The student's answer to the task's own prompt."""
    return answers(asking, asking.student(), _plain(asking))


def fallback(asking: Asking) -> list[AnswerEvidence]:
    """The same where the prompt offers a way out: certain, or 0."""
    return answers(asking, asking.student(), _varied(asking, "fallback"), "fallback")


def alternative(asking: Asking) -> list[AnswerEvidence]:
    """The same where the prompt asks whether the student knows: the letter, or 0."""
    return answers(asking, asking.student(), _varied(asking, "alternative"), "alternative")


def proxy(asking: Asking) -> list[AnswerEvidence]:
    """The proxy's answer to the task's own prompt."""
    if asking.proxy is None:
        raise ValueError("no proxy to ask")  # the recipe is refused before
    return answers(asking, asking.proxy(), _plain(asking), "proxy")


def _plain(asking: Asking) -> list[tuple[Message, ...]]:
    return [asking.task.messages(example, "direct") for example in asking.examples]


def _varied(asking: Asking, variant: str) -> list[tuple[Message, ...]]:
    """The prompts with a sentence more at the end of the last message."""
    return [(*first, {**last, "content": f"{last['content']}\n{ASK[variant]}"}) for *first, last in _plain(asking)]


def answers(
    asking: Asking, engine: Any, conversations: Sequence[Sequence[Message]], what: str = "scoring"
) -> list[AnswerEvidence]:
    """One forward pass over each distinct prompt; of each, the facts that all measures of the answer need.

    Args:
        asking: Examples, task and where finished batches are kept.
        engine: An `HfEngine`.
        conversations: N prompts as messages.
        what: The name of the job on the progress bar.

    Returns:
        N records, in the order of the examples.
    """
    chat, examples = engine.chat, asking.examples
    prompts = chat.prompt_ids(conversations)
    options = {letters: chat.option_ids(letters) for letters in sorted({example.letters for example in examples})}
    golds = [chat.gold_id(example.answer) for example in examples]
    asked = [(tuple(prompts[i]), example.letters, golds[i]) for i, example in enumerate(examples)]
    twins: dict[Any, list[int]] = {}
    for i, key in enumerate(asked):
        twins.setdefault(key, []).append(i)
    groups = list(twins.values())

    def work(batch: Sequence[int]) -> list[AnswerEvidence]:
        firsts = list({asked[i]: i for i in reversed(batch)}.values())
        found = engine.answer_facts(
            [prompts[i] for i in firsts], [options[examples[i].letters] for i in firsts], [golds[i] for i in firsts]
        )
        facts = {asked[i]: one for i, one in zip(firsts, found, strict=True)}
        return [_record(asking, i, facts[asked[i]], chat.decode, len(prompts[i])) for i in batch]

    lengths = [len(prompts[group[0]]) for group in groups]
    batches = [[i for g in batch for i in groups[g]] for batch in length_batches(lengths, asking.batch_tokens)]
    place = {example.id: number for number, example in enumerate(examples)}
    return sorted(in_parts(asking.folder, AnswerEvidence, batches, work, what), key=lambda row: place[row.id])


def _record(asking: Asking, i: int, facts: Any, decode: Callable[[Sequence[int]], str], n: int) -> AnswerEvidence:
    values = asdict(facts)
    token = decode([values.pop("token_id")])
    example = asking.examples[i]
    return AnswerEvidence(example.id, asking.task.read_answer(example, token), token, **values, prompt_tokens=n)
