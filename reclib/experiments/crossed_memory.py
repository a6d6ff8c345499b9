"""The write of PRISM's probing script, taken apart into four factors that can be crossed.

The paper compares linear attention (positive keys, no gate, a linear write, rank 1) with its own layer (signed keys, a
gate, a non-linear write, rank 2) and credits rank and non-linearity. Between the two, four things change. Here each can
be set by itself. As in the script nothing is erased and nothing fades, queries are positive for all, and the gate is
not bounded.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from reclib.memory.layers import LinearMemoryLayer, MemoryConfig
from reclib.memory.linear_attention import positive
from reclib.memory.recurrence import Writes

KEYS, GATES, KINDS, RANKS = ("positive", "signed"), ("no gate", "gate"), ("linear", "quadratic", "gelu"), (1, 2)


@dataclass(frozen=True)
class Factors:
    """One cell of the cross."""

    keys: str  # "positive": elu + 1, as in linear attention; "signed": any sign
    gate: str  # "gate": each pair is multiplied by a linear function of the anchor; "no gate": it is not
    kind: str  # δ from the residual r: "linear" c ⊙ r with a constant c, "quadratic" p(u) ⊙ r, "gelu" GELU(p(u) ⊙ r)
    rank: int  # L, pairs per token

    def __post_init__(self) -> None:
        for name, known in (("keys", KEYS), ("gate", GATES), ("kind", KINDS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}: {getattr(self, name)!r} is unknown; choose from {', '.join(known)}")

    def __str__(self) -> str:
        return f"{self.keys}, {self.gate}, {self.kind}, rank {self.rank}"


CROSS = tuple(Factors(*levels) for levels in product(KEYS, GATES, KINDS, RANKS))


class CrossedMemory(LinearMemoryLayer):
    """S_t = S_{t-1} + Σ_l β^l_t δ^l_t k^l_tᵀ with the chosen factors."""

    def __init__(self, factors: Factors, config: MemoryConfig) -> None:
        super().__init__(config)
        self.factors = factors
        dim, keys, rank = config.dim, config.key_width, config.rank
        self.query, self.key = nn.Linear(dim, keys, bias=False), nn.Linear(dim, rank * keys, bias=False)
        self.value = nn.Linear(dim, dim, bias=False)
        if factors.gate == "gate":
            self.beta = nn.Linear(dim, rank)
        if factors.kind == "linear":
            self.constant = nn.Parameter(torch.full((rank, dim), 0.5))
        else:
            self.gain = nn.Linear(dim, rank * dim)

    def writes(self, u: Float[Tensor, "batch time dim"]) -> Writes:
        """φ(q), the keys and the deltas."""
        key = self.key(u).unflatten(-1, (self.config.rank, -1))
        delta = self.deltas(u)
        return Writes(
            positive(self.query(u)) / self.config.key_width**0.5,
            positive(key) if self.factors.keys == "positive" else key,
            delta * self.beta(u)[..., None] if self.factors.gate == "gate" else delta,
            erase=None,
            log_alpha=None,
        )

    def _remember(self, u: Tensor, S: Tensor) -> tuple[Tensor, Tensor]:
        """All tokens as one chunk, which is quick for the probes' 32: y = S q + tril(q kᵀ) δ; nothing fades."""
        query, key, delta, *_ = self.writes(u)
        y = query @ S.transpose(-1, -2)
        for k, d in zip(key.unbind(2), delta.unbind(2), strict=True):
            y = y + (query @ k.transpose(-1, -2)).tril() @ d
            S = S + d.transpose(-1, -2) @ k
        return y, S

    def deltas(self, u: Tensor) -> Float[Tensor, "batch time rank dim"]:
        """PRISM's residual loop with the chosen kind of write."""
        gains = self.constant if self.factors.kind == "linear" else self.gain(u).chunk(self.config.rank, dim=-1)
        residual, found = self.value(u) - u, []
        for p in gains:
            delta = p * residual
            found.append(F.gelu(delta) if self.factors.kind == "gelu" else delta)
            residual = residual - found[-1]
        return torch.stack(found, dim=2)
