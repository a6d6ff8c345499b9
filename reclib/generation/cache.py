"""The keys and values that both models keep while codes are generated, so that nothing is computed twice."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn


class KeyValueCache(NamedTuple):
    """A tensor per block. Histories stand once per row; beams only add what they have written themselves."""

    keys: list[Float[Tensor, "batch heads tokens width"]]  # of the history
    values: list[Float[Tensor, "batch heads tokens width"]]
    real: Bool[Tensor, "batch tokens"]  # no padding
    own_keys: list[Float[Tensor, "batch heads beams own width"]]  # of the codes written so far
    own_values: list[Float[Tensor, "batch heads beams own width"]]

    @classmethod
    def of_history(cls, keys: list[Tensor], values: list[Tensor], real: Bool[Tensor, "batch tokens"]) -> KeyValueCache:
        """One beam per row, with nothing written yet."""
        nothing = [key.new_empty(*key.shape[:2], 1, 0, key.shape[3]) for key in keys]
        return cls(keys, values, real, nothing, nothing)

    @property
    def written(self) -> int:
        """Codes that each beam has written."""
        return self.own_keys[0].shape[3]

    def follow(self, parent: Int[Tensor, "batch new"]) -> KeyValueCache:
        """The cache of new beams, each a copy of its parent."""
        index = parent[:, None, :, None, None]
        own_keys, own_values = (
            [own.take_along_dim(index, dim=2) for own in parts] for parts in (self.own_keys, self.own_values)
        )
        return self._replace(own_keys=own_keys, own_values=own_values)

    def step(self, x: Float[Tensor, "batch beams dim"], blocks: nn.ModuleList) -> tuple[Tensor, KeyValueCache]:
        """One new code per beam through all blocks, each of which has a `step` that takes its part of the cache."""
        written = []
        layers = zip(blocks, self.keys, self.values, self.own_keys, self.own_values, strict=True)
        for block, keys, values, own_keys, own_values in layers:
            x, key, value = cast(Any, block).step(x, keys, values, self.real, own_keys, own_values)
            written.append((key, value))
        return x, self._replace(own_keys=[key for key, _ in written], own_values=[value for _, value in written])


def history_tokens(
    item_tokens: Int[Tensor, "items levels"], history: Int[Tensor, "batch time"], max_len: int
) -> Int[Tensor, "batch tokens"]:
    """Histories as sequences of code tokens, 0 for padding.

    Raises:
        ValueError: a history longer than the model can read.
    """
    if history.shape[1] > max_len:
        raise ValueError(f"history: {history.shape[1]} items, but max_len is {max_len}; cut it with `recent`")
    return torch.flatten(item_tokens[history], 1)
