"""Linear attention (Katharopoulos et al., 2020): softmax attention's exponential is replaced by a product of features.

S_t = S_{t-1} + v_t φ(k_t)ᵀ, y_t = S_t φ(q_t), φ = elu + 1. Without the running sum in the denominator, as PRISM's
comparison has it; queries are divided by the root of their width.
"""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from reclib.memory.layers import LinearMemoryLayer, MemoryConfig
from reclib.memory.recurrence import Writes


class LinearAttention(LinearMemoryLayer):
    """Adds every pair of key and value; nothing is erased, nothing fades."""

    def __init__(self, config: MemoryConfig | None = None) -> None:
        super().__init__(config)
        dim, keys = self.config.dim, self.config.key_width
        self.query, self.key = nn.Linear(dim, keys, bias=False), nn.Linear(dim, keys, bias=False)
        self.value = nn.Linear(dim, dim, bias=False)

    def writes(self, u: Float[Tensor, "batch time dim"]) -> Writes:
        """φ(q), φ(k), v."""
        return Writes(
            positive(self.query(u)) / self.config.key_width**0.5,
            positive(self.key(u))[:, :, None],
            self.value(u)[:, :, None],
            erase=None,
            log_alpha=None,
        )


def positive(x: Tensor) -> Tensor:
    """φ: elu + 1, a feature map without negative values."""
    return F.elu(x) + 1
