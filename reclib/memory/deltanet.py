"""Gated DeltaNet (Yang et al., 2025): before a value is written, what stands under its key is erased.

S_t = α_t S_{t-1} (I - β_t k_t k_tᵀ) + β_t v_t k_tᵀ, one step of gradient descent on ½‖S k_t - v_t‖² after a decay. Keys
and queries have length 1, so that β in (0, 1) erases a share.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from reclib.memory.layers import LinearMemoryLayer, MemoryConfig
from reclib.memory.recurrence import Writes

START = 4.0  # of the decay's bias: σ(4) = .98, a memory of about 50 tokens before any training (our choice)


class DeltaNet(LinearMemoryLayer):
    """The delta rule with a decay."""

    def __init__(self, config: MemoryConfig | None = None) -> None:
        super().__init__(config)
        dim, keys = self.config.dim, self.config.key_width
        self.query, self.key = nn.Linear(dim, keys, bias=False), nn.Linear(dim, keys, bias=False)
        self.value = nn.Linear(dim, dim, bias=False)
        self.alpha, self.beta = nn.Linear(dim, 1), nn.Linear(dim, 1)
        nn.init.constant_(self.alpha.bias, START)

    def writes(self, u: Float[Tensor, "batch time dim"]) -> Writes:
        """q, k, βv, β and log α."""
        beta = torch.sigmoid(self.beta(u))
        return Writes(
            F.normalize(self.query(u), dim=-1),
            F.normalize(self.key(u), dim=-1)[:, :, None],
            (beta * self.value(u))[:, :, None],
            erase=beta[..., 0],
            log_alpha=F.logsigmoid(self.alpha(u))[..., 0],
        )
