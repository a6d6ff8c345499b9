"""DeltaProduct (Siems et al., 2025): several delta-rule steps per token, one after the other.

Each of the `rank` pairs of a token is erased and written in turn, so the state changes by a product of `rank` erasures.
PRISM erases once and adds all pairs; this is its closest published relative.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from reclib.memory.deltanet import START
from reclib.memory.layers import MemoryConfig, MemoryLayer
from reclib.memory.recurrence import Writes, chunkwise


class DeltaProduct(MemoryLayer):
    """Gated, as DeltaNet here; the token fades the memory once, before its first step."""

    def __init__(self, config: MemoryConfig | None = None) -> None:
        super().__init__(config)
        dim, keys, rank = self.config.dim, self.config.key_width, self.config.rank
        self.query, self.key = nn.Linear(dim, keys, bias=False), nn.Linear(dim, rank * keys, bias=False)
        self.value = nn.Linear(dim, rank * dim, bias=False)
        self.alpha, self.beta = nn.Linear(dim, 1), nn.Linear(dim, rank)
        nn.init.constant_(self.alpha.bias, START)

    def writes(self, u: Float[Tensor, "batch time dim"]) -> Writes:
        """A sequence `rank` times as long: token t's steps are positions rank·t … rank·t + rank - 1."""
        rank = self.config.rank
        beta = torch.sigmoid(self.beta(u)).flatten(1)
        key = F.normalize(self.key(u).unflatten(-1, (rank, -1)), dim=-1).flatten(1, 2)
        value = self.value(u).unflatten(-1, (rank, -1)).flatten(1, 2)
        query = F.normalize(self.query(u), dim=-1).repeat_interleave(rank, dim=1)
        first = F.pad(F.logsigmoid(self.alpha(u)), (0, rank - 1))  # only a token's first step lets the memory fade
        return Writes(query, key[:, :, None], (beta[..., None] * value)[:, :, None], beta, first.flatten(1))

    def _remember(self, u: Tensor, S: Tensor) -> tuple[Tensor, Tensor]:
        y, S = chunkwise(S, self.writes(u), self.config.chunk)
        return y[:, self.config.rank - 1 :: self.config.rank], S

    def _remember_one(self, u: Tensor, S: Tensor) -> tuple[Tensor, Tensor]:
        y, S = self._remember(u, S)
        return y[:, -1], S
