"""Facts: what is kept of the logits at the place of an answer, once the logits themselves are let go.

All sums leave the likeliest token out and add it at the end, so that a sure student's figures keep their digits; the
form and the reason are in `teachwise.entropy.answer_entropy`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

IMPOSSIBLE = -1e4
"""Stands for the logarithm of any probability under exp(-10,000), so that no file holds an infinity."""


@dataclass(frozen=True)
class AnswerFacts:
    """The student's distribution at the place of the answer, in a dozen numbers; meanings as in `AnswerEvidence`."""

    token_id: int
    entropy_nats: float
    logsumexp: float
    top_logprob: float
    second_logprob: float
    letter_logprobs: tuple[float, ...]
    option_logprobs: tuple[float, ...]
    outside_mass: float
    gold_nats: float


def answer_entropy(logits: torch.Tensor) -> torch.Tensor:
    """Entropy in nats of (B, V) float32 logits, (B,), exact also when one token takes nearly all the mass.

    The plain form -sum p ln p cancels below 1e-6 in float32. Here the likeliest token is taken out of the sums, so
    that what is left is small and positive: with s = sum over the others of exp(l - max),
    H = log1p(s) - sum over the others of p (l - max). The numpy twin is `teachwise.entropy.answer_entropy`.
    """
    return _entropy(*_shifted(logits)[1:])


def answer_facts(
    logits: torch.Tensor, options: Sequence[Sequence[Sequence[int]]], golds: Sequence[int]
) -> list[AnswerFacts]:
    """The facts of one batch.

    Args:
        logits: (B, V) float32, at the position where each answer begins.
        options: For each of the B questions its K options' token ids, the letter's own first; none for open questions.
        golds: B token ids, the first of each gold answer.

    Returns:
        B facts.
    """
    likeliest, below, weights = _shifted(logits)
    rest = weights.sum(-1)
    log_total, largest = torch.log1p(rest), logits.gather(-1, likeliest).squeeze(-1)
    entropies, second = _entropy(below, weights).tolist(), (below.amax(-1) - log_total).tolist()
    found = []
    for row, spellings in enumerate(options):

        def logprobs(ids: Sequence[int], row: int = row) -> torch.Tensor:
            return (logits[row, list(ids)] - largest[row] - log_total[row]).clamp(min=IMPOSSIBLE)

        letters = logprobs([ids[0] for ids in spellings]).tolist() if spellings else []
        any_form = [logprobs(ids).logsumexp(0).clamp(max=0.0).item() for ids in spellings]
        found.append(
            AnswerFacts(
                token_id=int(likeliest[row]),
                entropy_nats=entropies[row],
                logsumexp=float(largest[row] + log_total[row]),
                top_logprob=-float(log_total[row]),
                second_logprob=max(IMPOSSIBLE, second[row]),
                letter_logprobs=tuple(letters),
                option_logprobs=tuple(any_form),
                outside_mass=_outside(weights[row], likeliest[row], rest[row], spellings),
                gold_nats=-logprobs([golds[row]]).item(),
            )
        )
    return found


def entropy_and_top_two(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Entropy in nats, and the logarithms of the likeliest and the second likeliest token's probability.

    Args:
        logits: (..., V) float32.

    Returns:
        Three tensors of shape (...).
    """
    _, below, weights = _shifted(logits)
    log_total = torch.log1p(weights.sum(-1))
    return _entropy(below, weights), -log_total, below.amax(-1) - log_total


def _shifted(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The likeliest token (..., 1); logits less its own (..., V), -inf at its place; exp of these."""
    likeliest = logits.argmax(-1, keepdim=True)
    below = (logits - logits.gather(-1, likeliest)).scatter(-1, likeliest, float("-inf"))
    return likeliest, below, below.exp()


def _entropy(below: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    rest = weights.sum(-1)
    spread = (weights * below.masked_fill(weights == 0, 0.0)).sum(-1)
    return torch.log1p(rest) - spread / (1 + rest)


def _outside(
    weights: torch.Tensor, likeliest: torch.Tensor, rest: torch.Tensor, options: Sequence[Sequence[int]]
) -> float:
    """Mass on no option, 0-1; summed over those tokens alone, since 1 less the options' mass loses all digits."""
    named = [token for ids in options for token in ids]
    others = weights.clone()
    others[named] = 0.0
    mass = others.sum() + (0.0 if int(likeliest) in named else 1.0)
    return min(1.0, float(mass / (1 + rest)))
