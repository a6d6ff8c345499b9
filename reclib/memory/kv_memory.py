"""Keys and values as a memory: PerSRec (arXiv 2601.03479), with SASRec's blocks.

Learnt query tokens stand behind each segment, and later segments see them in place of its items. What is kept of them
is not their output but what later tokens attend to: keys and values in every layer, 2 · layers · d numbers per token,
2 · layers times as many as Rec2PM keeps. In return nothing has to be made consistent, because serving attends to the
same keys and values as training, and training is one pass under a mask: an item or query of segment h sees its own
segment up to itself, and the query blocks before.

In the first layer the keys of the queries are the same for everybody; a token knows its segment only from the second
layer on, and the segments before its own only from one layer further up for each. So `OverwriteKVMemory`, which sees
the last block only, looks back no more than layers - 1 segments.
"""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from reclib.backbones.sasrec import SASRecBlock
from reclib.memory.segments import SASRecBody, SegmentConfig, SegmentModel


class KVMemory(SegmentModel):
    """Append: every segment leaves the keys and values of C tokens, and sees those of all segments before."""

    grows = True

    def __init__(self, n_items: int, config: SegmentConfig | None = None) -> None:
        config = config or SegmentConfig()
        super().__init__(n_items, config)
        if not isinstance(self.body, SASRecBody):
            raise ValueError(f"body: keys and values are kept of SASRec's blocks; give 'sasrec', not {config.body!r}")
        slots, dim = config.slots, config.dim
        self.query = nn.Parameter(0.02 * math.sqrt(dim) * torch.randn(slots, dim))

    def empty(self, batch: int) -> Float[Tensor, "batch kept tokens dim"]:
        """No keys and no values: `[batch, 2 · layers, 0, dim]`."""
        return self.items.weight.new_zeros(batch, 2 * self.config.layers, 0, self.dim)

    def read(
        self, memory: Float[Tensor, "batch kept tokens dim"], x: Float[Tensor, "batch length dim"]
    ) -> tuple[Float[Tensor, "batch length dim"], Float[Tensor, "batch kept new dim"]]:
        """[S; Q] with the kept keys and values in front of its own, layer by layer."""
        batch, length, _ = x.shape
        slots, heads, tokens = self.config.slots, self.config.heads, memory.shape[2]
        width = self.dim // heads
        x = torch.cat([x, self.query.expand(batch, -1, -1)], dim=1)
        seen = torch.ones(length + slots, tokens + length + slots, dtype=torch.bool, device=x.device).tril(tokens)
        kept = []
        for layer, block in enumerate(cast(list[SASRecBlock], self.body.blocks)):
            q, *own = block.project(x)
            past = memory[:, 2 * layer : 2 * layer + 2].view(batch, 2, tokens, heads, width).transpose(2, 3)
            k, v = (torch.cat([before, now], dim=2) for before, now in zip(past.unbind(1), own, strict=True))
            x = block.mix(x, q, k, v, seen)
            kept += [part[:, :, length:].transpose(1, 2).flatten(2) for part in own]
        hidden: Tensor = self.body.norm(x)[:, :length]
        return hidden, self.write(memory, torch.stack(kept, dim=1))

    def write(
        self, memory: Float[Tensor, "batch kept tokens dim"], new: Float[Tensor, "batch kept slots dim"]
    ) -> Float[Tensor, "batch kept new dim"]:
        """The memory with the tokens of one more segment."""
        return torch.cat([memory, new], dim=2)

    def encode(
        self, history: Int[Tensor, "batch time"], time: Float[Tensor, "batch time+1"] | None = None
    ) -> Float[Tensor, "batch time dim"]:
        """Hidden state after each item, all segments in one pass; the same as reading one after the other."""
        length, slots = self.config.segment, self.config.slots
        batch, time_steps = history.shape
        padded = F.pad(history, (0, -time_steps % length))
        x = self.vectors(padded).view(batch, -1, length, self.dim)
        segments = x.shape[1]
        packed = torch.cat([x, self.query.expand(batch, segments, -1, -1)], dim=2).flatten(1, 2)
        y: Tensor = self.body(packed, self.mask(segments, x.device))
        return y.view(batch, segments, length + slots, -1)[:, :, :length].flatten(1, 2)[:, :time_steps]

    def mask(self, segments: int, device: torch.device | str = "cpu") -> Bool[Tensor, "packed packed"]:
        """Who sees whom (row sees column) in [S_0; Q; …; S_k; Q]."""
        width = self.config.segment + self.config.slots
        place = torch.arange(segments * width, device=device)
        block, is_query = place // width, place % width >= self.config.segment
        age = block[:, None] - block
        return ((age == 0) | (is_query & self.reaches(age))) & (place[:, None] >= place)

    def reaches(self, age: Int[Tensor, "packed packed"]) -> Bool[Tensor, "packed packed"]:
        """Whether the queries of a segment so many segments back are still seen."""
        return age > 0


class OverwriteKVMemory(KVMemory):
    """Keeps the keys and values of the last segment's tokens alone."""

    grows = False

    def write(
        self, memory: Float[Tensor, "batch kept tokens dim"], new: Float[Tensor, "batch kept slots dim"]
    ) -> Float[Tensor, "batch kept new dim"]:
        """The tokens of the last segment."""
        return new

    def reaches(self, age: Int[Tensor, "packed packed"]) -> Bool[Tensor, "packed packed"]:
        """Only those of the segment before."""
        return age == 1
