"""A recommender on any of the memories: the blocks of SASRec with a memory in the place of attention.

Order reaches the model through the recurrence, so there are no position embeddings and no longest history. Serving
keeps one `MemoryState` per block and user, and a click costs the same after ten events and after ten thousand.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from jaxtyping import Float, Int
from torch import Tensor, nn

from reclib.backbones.sequence_model import SequenceModel
from reclib.memory.layers import MemoryLayer, MemoryState
from reclib.nn.dropout import Dropout
from reclib.nn.sizes import check_at_least


class MemoryRecommender(SequenceModel):
    """Item embeddings, `layers` blocks of memory and feed-forward, tied output."""

    def __init__(
        self,
        n_items: int,
        memory: Callable[[], MemoryLayer],
        *,
        layers: int = 2,
        dropout: float = 0.2,
        max_len: int = 200,
    ) -> None:
        """An untrained model.

        Args:
            n_items: size of the catalogue.
            memory: makes the memory of one block; its `config.dim` is the width of the model.
            layers: blocks.
            dropout: on embeddings and both sub-layers.
            max_len: items of a history that `score` reads; changes no weight, so it can be raised after training.
        """
        check_at_least(1, layers=layers)
        memories = [memory() for _ in range(layers)]
        super().__init__(n_items, memories[0].config.dim, max_len)
        self.dropout = Dropout(dropout)
        self.blocks = nn.ModuleList(MemoryBlock(layer, dropout) for layer in memories)
        self.norm = nn.LayerNorm(self.dim)

    def encode(
        self, history: Int[Tensor, "batch time"], time: Float[Tensor, "batch time+1"] | None = None
    ) -> Float[Tensor, "batch time dim"]:
        """Hidden state after each item. `time` is accepted and not used."""
        x = self.dropout(self.embed(history))
        for block in self.blocks:
            x, _ = block(x, None)
        hidden: Tensor = self.norm(x)
        return hidden

    def step(
        self, item: Int[Tensor, "batch"], states: list[MemoryState] | None = None
    ) -> tuple[Float[Tensor, "batch dim"], list[MemoryState]]:
        """One more click per user: the hidden state after it, and the new states to keep.

        Args:
            item: the item clicked, one per user.
            states: what the step before returned; None: these are the users' first clicks.
        """
        x, new = self.embed(item[:, None])[:, 0], []
        for i, block in enumerate(self.blocks):
            x, state = cast(MemoryBlock, block).step(x, None if states is None else states[i])
            new.append(state)
        hidden: Tensor = self.norm(x)
        return hidden, new


class MemoryBlock(nn.Module):
    """x + memory(norm x), then x + feed-forward(norm x), as in SASRec."""

    def __init__(self, memory: MemoryLayer, dropout: float) -> None:
        super().__init__()
        dim = memory.config.dim
        self.memory, self.dropout = memory, Dropout(dropout)
        self.memory_norm, self.ffn_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.ffn = nn.Sequential(
            nn.Linear(dim, dim), nn.ReLU(), Dropout(dropout), nn.Linear(dim, dim), Dropout(dropout)
        )

    def forward(
        self, x: Float[Tensor, "batch time dim"], state: MemoryState | None
    ) -> tuple[Float[Tensor, "batch time dim"], MemoryState]:
        """All tokens."""
        y, state = self.memory(self.memory_norm(x), state)
        x = x + self.dropout(y)
        return x + self.ffn(self.ffn_norm(x)), state

    def step(
        self, x: Float[Tensor, "batch dim"], state: MemoryState | None
    ) -> tuple[Float[Tensor, "batch dim"], MemoryState]:
        """One token."""
        y, state = self.memory.step(self.memory_norm(x), state)
        x = x + self.dropout(y)
        return x + self.ffn(self.ffn_norm(x)), state
