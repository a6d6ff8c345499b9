"""Token memory trained serially: the recurrent memory transformer (Bulatov et al., 2022) for histories.

    E_k = [M_{k-1}; S_k; Q_mem],     m_k = the last C output states

Memory tokens stand before the segment, so items read them by attention; learnt queries stand behind it, so they read
memory and items, and what comes out of them is the next memory. Trained with `NextItemLoss`, the gradient goes back
through all segments, one after the other. RMT has no causal queries of its own but repeats the memory tokens at the
end; learnt queries are AutoCompressor's and Rec2PM's form. `reclib.memory.rec2pm` trains the same network in parallel.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from reclib.memory.segments import SegmentConfig, SegmentModel


class TokenMemory(SegmentModel):
    """C memory tokens, overwritten by each segment: M_k = m_k."""

    def __init__(self, n_items: int, config: SegmentConfig | None = None) -> None:
        super().__init__(n_items, config)
        slots, dim = self.config.slots, self.config.dim
        self.query = nn.Parameter(0.02 * math.sqrt(dim) * torch.randn(slots, dim))
        self.place = nn.Parameter(0.02 * torch.randn(slots, dim))  # of memory tokens; queries differ by themselves
        learnt = self.config.start == "learnt"
        self.initial = nn.Parameter(0.02 * math.sqrt(dim) * torch.randn(slots, dim)) if learnt else None  # M_init

    def read(
        self, memory: Float[Tensor, "batch tokens dim"], x: Float[Tensor, "batch length dim"]
    ) -> tuple[Float[Tensor, "batch length dim"], Float[Tensor, "batch new dim"]]:
        """Enc([M; S; Q]): the items' states, and the memory with the last C states written into it."""
        batch, length, _ = x.shape
        before = self.prefix(memory)
        y = self.body(torch.cat([before, x, self.query.expand(batch, -1, -1)], dim=1))
        _, hidden, m = y.split([before.shape[1], length, self.config.slots], dim=1)
        return hidden, self.write(memory, m)

    def prefix(self, memory: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch before dim"]:
        """What stands before a segment: the memory with the slots' places; M_init or nothing before the first."""
        batch, tokens, _ = memory.shape
        if tokens == 0 and self.initial is not None:
            memory, tokens = self.initial.expand(batch, -1, -1), self.config.slots
        return memory + self.place.repeat(tokens // self.config.slots, 1)

    def write(
        self, memory: Float[Tensor, "batch tokens dim"], m: Float[Tensor, "batch slots dim"]
    ) -> Float[Tensor, "batch new dim"]:
        """M_k = m_k."""
        return m


class AppendTokenMemory(TokenMemory):
    """Keeps the tokens of every segment: M_k = [M_{k-1}; m_k]. The same weights as `TokenMemory`."""

    grows = True

    def write(
        self, memory: Float[Tensor, "batch tokens dim"], m: Float[Tensor, "batch slots dim"]
    ) -> Float[Tensor, "batch new dim"]:
        """M_k = [M_{k-1}; m_k]."""
        return torch.cat([memory, m], dim=1)
