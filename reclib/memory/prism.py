"""PRISM: parallel residual iterative sequence model (Jiang et al., 2026), equations 9 to 18.

A test-time-training model writes into its memory by several gradient steps on ½‖σ(S k) - v‖². Each step needs S, so
nothing can run in parallel. PRISM replaces all that needs S by functions of the input: an anchor u from a short
convolution stands for S k, a learnt gain p for σ'. The steps then are a residual loop on the token alone,

    r¹ = v - u,   δ^l = GELU(p^l ⊙ r^l),   r^{l+1} = r^l - δ^l

and what they have found is written as L pairs of key and value, after one erasure under the first key.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from reclib.memory.deltanet import START
from reclib.memory.layers import LinearMemoryLayer, MemoryConfig
from reclib.memory.recurrence import Writes


class Prism(LinearMemoryLayer):
    """S_t = α_t S_{t-1} (I - β¹_t k¹_t k¹_tᵀ) + Σ_l β^l_t δ^l_t k^l_tᵀ.

    The paper leaves β and the length of the keys free, but its stability lemma needs β in [0, 1] and ‖k‖ ≤ 1. Here β is
    a sigmoid, and keys and queries have length 1 (our choice).
    """

    def __init__(self, config: MemoryConfig | None = None) -> None:
        super().__init__(config)
        dim, keys, rank = self.config.dim, self.config.key_width, self.config.rank
        self.query, self.value = nn.Linear(dim, keys, bias=False), nn.Linear(dim, dim, bias=False)
        self.key, self.gain = nn.Linear(dim, rank * keys, bias=False), nn.Linear(dim, rank * dim)
        self.alpha, self.beta = nn.Linear(dim, 1), nn.Linear(dim, rank)
        nn.init.constant_(self.alpha.bias, START)

    def writes(self, u: Float[Tensor, "batch time dim"]) -> Writes:
        """q, the L keys, β^l δ^l, β¹ and log α."""
        beta = torch.sigmoid(self.beta(u))
        return Writes(
            F.normalize(self.query(u), dim=-1),
            F.normalize(self.key(u).unflatten(-1, (self.config.rank, -1)), dim=-1),
            beta[..., None] * self.deltas(u, self.value(u)),
            erase=beta[..., 0],
            log_alpha=F.logsigmoid(self.alpha(u))[..., 0],
        )

    def deltas(self, u: Tensor, v: Tensor) -> Float[Tensor, "batch time rank dim"]:
        """The residual loop, Eqs. 13–15."""
        residual, found = v - u, []
        for p in self.gain(u).chunk(self.config.rank, dim=-1):
            found.append(F.gelu(p * residual))
            residual = residual - found[-1]
        return torch.stack(found, dim=2)


# ------------------------------------------------------------------------------- what is left out, one part at a time


class PrismWithoutGelu(Prism):
    """δ = p ⊙ r. The paper calls it "without non-linearity"; a product of two functions of u is quadratic in u."""

    def deltas(self, u: Tensor, v: Tensor) -> Float[Tensor, "batch time rank dim"]:
        """The residual loop without the activation."""
        residual, found = v - u, []
        for p in self.gain(u).chunk(self.config.rank, dim=-1):
            found.append(p * residual)
            residual = residual - found[-1]
        return torch.stack(found, dim=2)


class PrismWithoutGain(Prism):
    """δ = GELU(r)."""

    def __init__(self, config: MemoryConfig | None = None) -> None:
        super().__init__(config)
        del self.gain

    def deltas(self, u: Tensor, v: Tensor) -> Float[Tensor, "batch time rank dim"]:
        """The residual loop without p."""
        residual, found = v - u, []
        for _ in range(self.config.rank):
            found.append(F.gelu(residual))
            residual = residual - found[-1]
        return torch.stack(found, dim=2)


class PrismLinear(Prism):
    """δ = c ⊙ r with a learnt constant c: what is written is linear in the anchor (our control)."""

    def __init__(self, config: MemoryConfig | None = None) -> None:
        super().__init__(config)
        del self.gain
        self.constant = nn.Parameter(torch.full((self.config.rank, self.config.dim), 0.5))

    def deltas(self, u: Tensor, v: Tensor) -> Float[Tensor, "batch time rank dim"]:
        """The residual loop with a constant in the place of gain and activation."""
        residual, found = v - u, []
        for c in self.constant:
            found.append(c * residual)
            residual = residual - found[-1]
        return torch.stack(found, dim=2)


class PrismWithoutErase(Prism):
    """A_t = α_t I: pairs are added, nothing is erased (our control)."""

    def writes(self, u: Float[Tensor, "batch time dim"]) -> Writes:
        """As Prism, but for the erasure."""
        return super().writes(u)._replace(erase=None)
