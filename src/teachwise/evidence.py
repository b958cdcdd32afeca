"""Evidence: what a model or a teacher said of one example, from which measures are computed; never whole logits."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class AnswerEvidence:
    """What one forward pass says about one answer: all that measures of the answer are computed from.

    Logarithms of probabilities are over the full vocabulary, in nats; -10,000 stands for anything less likely.

    Attributes:
        id: The example.
        predicted: The letter that the likeliest token stands for, or None where it is no option letter.
        token: Text of the likeliest token.
        entropy_nats: Answer entropy over the full vocabulary, 0 to ln V.
        logsumexp: Logarithm of the sum of exp(logit), in nats.
        top_logprob: Of the likeliest token.
        second_logprob: Of the second likeliest.
        letter_logprobs: K, of each option's letter as the prompt asks for it; empty for open questions.
        option_logprobs: K, of each option in all its spellings together: either case, with and without a leading space.
        outside_mass: Probability of all tokens that name no option in any spelling, 0-1.
        gold_nats: Cross-entropy of the gold answer's first token: minus its logarithm.
        prompt_tokens: Tokens the student read.
    """

    id: str
    predicted: str | None
    token: str
    entropy_nats: float
    logsumexp: float
    top_logprob: float
    second_logprob: float
    letter_logprobs: tuple[float, ...]
    option_logprobs: tuple[float, ...]
    outside_mass: float
    gold_nats: float
    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class EmbeddingEvidence:
    """What the student makes of a question before it answers: its last layer's states, averaged over the prompt.

    Attributes:
        id: The example.
        state: H numbers as float16, little-endian.
    """

    id: str
    state: bytes


@dataclass(frozen=True, slots=True)
class ChainEvidence:
    """What a student wrote for one example, greedily, and how sure it was of every token.

    `entropies`, `leads` and `logprobs` have one number for each token written, the one that ended the turn included.

    Attributes:
        id: The example.
        text: What it wrote, without special tokens.
        stated: The answer that the text states, or None.
        is_truncated: It met the limit before it ended its turn.
        prompt_tokens: Tokens the student read.
        entropies: Entropy over the full vocabulary, nats.
        leads: Lead of the likeliest token over the second likeliest, p1 - p2, 0-1.
        logprobs: Logarithm of the probability of the token itself, nats; -10,000 stands for anything less likely.
        sentences: Number of the first token of each sentence, from 0.
        answer_at: Number of the token where the stated answer begins, or None.
        thinking_tokens: Tokens up to `</think>`, where there is one; else those before the answer, else all.
    """

    id: str
    text: str
    stated: str | None
    is_truncated: bool
    prompt_tokens: int
    entropies: tuple[float, ...]
    leads: tuple[float, ...]
    logprobs: tuple[float, ...]
    sentences: tuple[int, ...]
    answer_at: int | None
    thinking_tokens: int

    @property
    def text_tokens(self) -> int:
        """Tokens of the text, the one that ended the turn left out."""
        return len(self.entropies) - (not self.is_truncated)


@dataclass(frozen=True, slots=True)
class VoteEvidence:
    """What a student answers where it thinks several times, each time by lot.

    Attributes:
        id: The example.
        votes: S, the answer that each text states; "" where it states none.
        texts: S, what it wrote, without special tokens.
        generated_tokens: S, tokens written.
        n_truncated: Texts that met the limit before the turn ended.
    """

    id: str
    votes: tuple[str, ...]
    texts: tuple[str, ...]
    generated_tokens: tuple[int, ...]
    n_truncated: int


@dataclass(frozen=True, slots=True)
class OwnAnswer:
    """Whether the answer that a student wrote is right, where it was not its answer at once.

    Attributes:
        id: The example.
        source: Where the answer stands: `chain`, `reply` or `votes`.
        correct: It is the gold answer; one that cannot be read is not.
    """

    id: str
    source: str
    correct: bool
