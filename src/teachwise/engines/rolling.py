"""Rows that are written side by side, where a new one takes the place of a finished one at once.

A static batch writes until its longest row ends; rows that ended early are carried along for nothing. Here a row leaves
with its last token and another joins beside those that go on (continuous batching). Both kinds stand below, with the
same three methods, because not every model can do the first.
"""

import inspect
import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from teachwise.engines.hf import Generation, HfEngine

_WANTED = {"position_ids", "past_key_values", "attention_mask"}
_DRIFTING = ("dynamic", "longrope")
"""Position codes that depend on the longest row of a batch: rows that join would change those that are there."""


@dataclass(eq=False)
class Row:
    """A text that is to be written.

    Attributes:
        prompt: Token ids.
        max_new_tokens: Most tokens to write.
        temperature: 0 is greedy.
        seed: What its draws depend on, and they alone.
        written: Token ids so far.
    """

    prompt: Sequence[int]
    max_new_tokens: int
    temperature: float = 0.0
    seed: str = ""
    written: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.draws = random.Random(self.seed)


class RollingBatch:
    """Rows that come and go, on one growing cache of keys and values.

    The rows stand flush right in a block of T columns, as in a left-padded batch; whoever joins is padded on the left,
    and columns that nobody needs any more are cut off.

    Args:
        engine: The model.
    """

    def __init__(self, engine: HfEngine) -> None:
        self.engine = engine
        self.rows: list[Row] = []
        self._has_head_option = "logits_to_keep" in _parameters(engine.model)
        self.clear()

    def clear(self) -> None:
        """Drop all rows."""
        self.rows = []
        self._cache = DynamicCache()  # without the configuration: no layer forgets what a later merge needs
        self._mask = torch.zeros(0, 0, dtype=torch.long, device=self.engine.device)

    @torch.inference_mode()
    def join(self, rows: Sequence[Row]) -> None:
        """Read the prompts of new rows and write the first token of each, beside the rows that are there."""
        ids = _left_padded([row.prompt for row in rows], self.engine.chat.pad_id)
        mask = _left_padded([[1] * len(row.prompt) for row in rows], 0).to(self.engine.device)
        cache = DynamicCache()
        logits = self._logits(ids, mask, (mask.cumsum(-1) - 1).clamp(min=0), cache)
        if self.rows:
            _merge(self._cache, cache)
            width = max(mask.shape[1], self._mask.shape[1])
            mask = torch.cat([F.pad(one, (width - one.shape[1], 0)) for one in (self._mask, mask)])
        else:
            self._cache = cache
        self._mask = mask
        self.rows = [*self.rows, *rows]
        _write(logits, rows)

    @torch.inference_mode()
    def step(self) -> list[tuple[Row, Generation]]:
        """Take finished rows out; where there are none, write one more token of every row.

        Returns:
            The rows that are finished, with what they wrote.
        """
        if not (over := self._over()) and self.rows:
            last = torch.tensor([row.written[-1:] for row in self.rows])
            self._mask = F.pad(self._mask, (0, 1), value=1)
            _write(self._logits(last, self._mask, self._mask.sum(-1, keepdim=True) - 1, self._cache), self.rows)
            over = self._over()
        self.drop(over)
        return [(row, _generation(self.engine, row)) for row in over]

    def drop(self, rows: Collection[Row]) -> None:
        """Take rows out, finished or not."""
        gone = {id(row) for row in rows}
        kept = [place for place, row in enumerate(self.rows) if id(row) not in gone]
        if not kept:
            self.clear()
        if len(kept) == len(self.rows):
            return
        places = torch.tensor(kept, device=self.engine.device)
        self.rows = [self.rows[place] for place in kept]
        self._mask = self._mask[places]
        unused = int(self._mask.any(0).int().argmax())
        self._mask = self._mask[:, unused:]
        for layer in self._cache.layers:
            layer.keys, layer.values = layer.keys[places, :, unused:], layer.values[places, :, unused:]

    def _over(self) -> list[Row]:
        ends = self.engine.chat.stop_ids
        return [row for row in self.rows if row.written[-1] in ends or len(row.written) >= row.max_new_tokens]

    def _logits(
        self, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache: DynamicCache
    ) -> torch.Tensor:
        """Float32 (B, V) at the last of T columns, from (B, T) ids; the cache takes the keys and values up."""
        output = self.engine.model(
            input_ids=ids.to(self.engine.device),
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            **({"logits_to_keep": 1} if self._has_head_option else {}),
        )
        logits: torch.Tensor = output.logits[:, -1].float()
        return logits


class StaticBatch:
    """Rows that are written by `generate`, batch after batch: for models whose cache no row can join.

    Sampled rows draw from the process's generator here, so they differ from one time to the next.

    Args:
        engine: The model.
    """

    def __init__(self, engine: HfEngine) -> None:
        self.engine = engine
        self.rows: list[Row] = []

    def clear(self) -> None:
        """Drop all rows."""
        self.rows = []

    def join(self, rows: Sequence[Row]) -> None:
        """Let rows wait for the next batch."""
        self.rows += rows

    def step(self) -> list[tuple[Row, Generation]]:
        """Write one batch: all rows with the settings of the first."""
        if not self.rows:
            return []
        settings = _settings(self.rows[0])
        batch = sorted((row for row in self.rows if _settings(row) == settings), key=lambda row: -len(row.prompt))
        written = self.engine.generate([row.prompt for row in batch], *settings)
        self.drop(batch)
        return list(zip(batch, written, strict=True))

    def drop(self, rows: Collection[Row]) -> None:
        """Take rows out."""
        gone = {id(row) for row in rows}
        self.rows = [row for row in self.rows if id(row) not in gone]


def cannot_roll(model: Any) -> str:
    """Why rows cannot join a batch of this model that is under way, in a few words; "" where they can.

    Wanted are a cache of plain keys and values, which can be padded, merged and cut, and positions that the caller
    gives. A window over the last tokens is no hindrance; a state that is not one of single tokens is.
    """
    config = model.config.get_text_config(decoder=True)
    if missing := sorted(_WANTED - _parameters(model)):
        return f"its forward takes no {missing[0]}"
    layers = {type(layer) for layer in DynamicCache(config=config).layers}
    if not layers or layers - {DynamicLayer, DynamicSlidingWindowLayer}:
        return "its cache holds more than keys and values"
    if "chunked_attention" in (getattr(config, "layer_types", None) or ()):
        return "its attention works in chunks"
    if any(kind in str(getattr(config, "rope_parameters", None)) for kind in _DRIFTING):
        return "its position codes change with the length of the batch"
    return ""


def _parameters(model: Any) -> set[str]:
    return set(inspect.signature(model.forward).parameters)


def _settings(row: Row) -> tuple[int, float]:
    return row.max_new_tokens, row.temperature


def _left_padded(rows: Sequence[Sequence[int]], fill: int) -> torch.Tensor:
    """(B, T), the rows flush right."""
    tensors = [torch.tensor(row, dtype=torch.long) for row in rows]
    return pad_sequence(tensors, batch_first=True, padding_value=fill, padding_side="left")


def _merge(cache: DynamicCache, more: DynamicCache) -> None:
    """Put the rows of one cache, (B, heads, T, width) in each layer, below those of another."""
    for upper, lower in zip(cache.layers, more.layers, strict=True):
        upper.keys = _stacked(upper.keys, lower.keys)
        upper.values = _stacked(upper.values, lower.values)


def _stacked(*parts: torch.Tensor) -> torch.Tensor:
    length = max(part.shape[-2] for part in parts)
    return torch.cat([F.pad(part, (0, 0, length - part.shape[-2], 0)) for part in parts])


def _write(logits: torch.Tensor, rows: Sequence[Row]) -> None:
    """Choose the next token of each of B rows from (B, V) logits: the likeliest, or one drawn at its temperature.

    One number from the row's own generator decides each draw, so a row writes the same whatever stands beside it.
    """
    chosen = logits.argmax(-1)
    if any(row.temperature > 0 for row in rows):
        heat = torch.tensor([[row.temperature or 1.0] for row in rows], device=logits.device)
        exact = torch.float32 if logits.device.type == "mps" else torch.float64
        mass = F.softmax((logits / heat).to(exact), dim=-1).cumsum(-1)
        shares = torch.tensor([[row.draws.random()] for row in rows], dtype=exact, device=logits.device)
        drawn = torch.searchsorted(mass, shares * mass[:, -1:], right=True).clamp(max=logits.shape[-1] - 1)
        is_hot = torch.tensor([row.temperature > 0 for row in rows], device=logits.device)
        chosen = torch.where(is_hot, drawn[:, 0], chosen)
    for row, token in zip(rows, chosen.tolist(), strict=True):
        row.written.append(token)


def _generation(engine: HfEngine, row: Row) -> Generation:
    is_ended = row.written[-1] in engine.chat.stop_ids
    kept = row.written[:-1] if is_ended else row.written
    return Generation(engine.chat.decode(kept), len(row.written), not is_ended, tuple(row.written))
