"""Chains: how sure a model was of every token of a text, and how texts are drawn by lot."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import LogitsProcessor

from teachwise.engines.facts import IMPOSSIBLE, entropy_and_top_two

LOGITS = 2**25
"""Logits in memory at once: of long texts and large vocabularies the output head sees a few tokens at a time."""


@dataclass(frozen=True)
class TokenFacts:
    """How sure a model was of each of T tokens; meanings as in `ChainEvidence`."""

    entropies: tuple[float, ...]
    leads: tuple[float, ...]
    logprobs: tuple[float, ...]


def token_facts(
    model: Any,
    accepted: set[str],
    prompts: tuple[torch.Tensor, torch.Tensor],
    written: tuple[torch.Tensor, torch.Tensor],
    most_logits: int = LOGITS,
) -> torch.Tensor:
    """Read prompts and texts once, and tell how sure the model was of every token of the texts.

    The texts go through the model's own forward pass in pieces, on the cache of what stands before them. So each token
    is read once and the whole logits are never there together, and whatever a family does to its logits is done to
    these too.

    Args:
        model: A causal language model.
        accepted: Names that its forward pass takes.
        prompts: Ids and attention mask, (B, P), flush right.
        written: Ids and attention mask, (B, T), flush left.
        most_logits: Logits of one piece, at most.

    Returns:
        (3, B, T) float32 on the CPU: entropy in nats, lead of the likeliest token, logarithm of the token's own
        probability. What stands beyond a text's end means nothing.
    """
    ids, mask = (torch.cat(pair, dim=1) for pair in zip(prompts, written, strict=True))
    places = (mask.cumsum(-1) - 1).clamp(min=0)
    n_prompt, n_all = prompts[0].shape[1], ids.shape[1]
    step = max(1, most_logits // (len(ids) * model.get_output_embeddings().weight.shape[0]))
    found, cache = [], None
    for start, end in _pieces(n_prompt, n_all - 1, step):
        kept = 1 if start == 0 else end - start
        wanted = {"position_ids": places[:, start:end], "logits_to_keep": kept}
        output = model(
            input_ids=ids[:, start:end],
            attention_mask=mask[:, :end],
            past_key_values=cache,
            use_cache=True,
            **{name: value for name, value in wanted.items() if name in accepted},
        )
        cache = output.past_key_values
        found.append(_facts(output.logits[:, -kept:].float(), ids[:, end - kept + 1 : end + 1]).cpu())
    return torch.cat(found, dim=-1)


def _pieces(n_prompt: int, n_all: int, step: int) -> Iterator[tuple[int, int]]:
    """Where each piece begins and ends: the prompt, then `step` tokens at a time."""
    yield 0, n_prompt
    for start in range(n_prompt, n_all, step):
        yield start, min(n_all, start + step)


def _facts(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """(3, B, C) of (B, C, V) logits and the (B, C) tokens that came."""
    entropies, top, second = entropy_and_top_two(logits)
    own = (logits.gather(-1, ids[..., None]).squeeze(-1) - logits.amax(-1) + top).clamp(min=IMPOSSIBLE)
    return torch.stack([entropies, top.exp() - second.exp(), own])


class Drawn(LogitsProcessor):  # type: ignore[misc]
    """Draws each row's next token with a number of its own, so that its text does not depend on the rows beside it.

    The token is the one at which the cumulated probabilities, in the order of the token ids, pass the number. All
    others are made impossible, and greedy generation then takes it.

    Args:
        uniforms: (B, T), a number from 0 to 1 for each row and token.
        temperature: Above 0; logits are divided by it.
    """

    def __init__(self, uniforms: np.ndarray, temperature: float) -> None:
        self.uniforms, self.temperature, self.place = uniforms, temperature, 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """(B, V) logits in which one token of each row is left."""
        exact = torch.float32 if scores.device.type == "mps" else torch.float64
        below = torch.softmax(scores.to(exact) / self.temperature, dim=-1).cumsum(-1)
        numbers = torch.as_tensor(self.uniforms[:, self.place], dtype=exact, device=scores.device)[:, None]
        self.place += 1
        taken = torch.searchsorted(below, numbers * below[:, -1:], right=True).clamp(max=scores.shape[-1] - 1)
        return torch.full_like(scores, float("-inf")).scatter(-1, taken, 0.0)


def as_facts(found: torch.Tensor, lengths: Sequence[int]) -> list[TokenFacts]:
    """The facts of each text, without what stands beyond its end.

    Args:
        found: (3, B, T).
        lengths: Tokens of each of the B texts.
    """
    return [TokenFacts(*map(tuple, found[:, row, :n].tolist())) for row, n in enumerate(lengths)]
