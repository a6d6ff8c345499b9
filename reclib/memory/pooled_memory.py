"""Averages as a memory: the cheap control for everything that learns what to keep (our choice).

Token c of the memory is a running average of the mean item vector of each segment, and forgets with its own speed:

    M^c ← M^c + 2^{-c} (mean(S) - M^c),     c = 0 … C - 1;     the first segment is taken as it is

Token 0 is the last segment, token 3 looks back some eight segments. As many bytes as Rec2PM, and no encoder to write.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from reclib.memory.segments import SegmentConfig, SegmentModel


class PooledMemory(SegmentModel):
    """C running averages of item vectors, read through attention like any other memory tokens."""

    def __init__(self, n_items: int, config: SegmentConfig | None = None) -> None:
        super().__init__(n_items, config)
        self.place = nn.Parameter(0.02 * torch.randn(self.config.slots, self.config.dim))

    def read(
        self, memory: Float[Tensor, "batch tokens dim"], x: Float[Tensor, "batch length dim"]
    ) -> tuple[Float[Tensor, "batch length dim"], Float[Tensor, "batch slots dim"]]:
        """Enc([M; S]) on the items, and the averages moved towards the mean of S."""
        _, tokens, _ = memory.shape
        before = memory + self.place[:tokens]
        hidden: Tensor = self.body(torch.cat([before, x], dim=1))[:, tokens:]
        mean = x.mean(1, keepdim=True)
        if not tokens:
            return hidden, mean.expand(-1, self.config.slots, -1)
        speed = 0.5 ** torch.arange(tokens, device=x.device)
        return hidden, memory + speed[:, None] * (mean - memory)
