"""Linear memories as layers: `forward` for whole sequences, `step` for one more token.

What they share is here; what a token writes is each method's own module.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from reclib.memory.recurrence import Writes, chunkwise, step
from reclib.nn.sizes import check_at_least


@dataclass(frozen=True)
class MemoryConfig:
    """Sizes of a memory layer; values are as wide as the layer (PRISM subtracts the anchor from them)."""

    dim: int = 64  # width of the layer, and of values
    keys: int | None = None  # width of keys and queries; None: dim
    kernel: int = 5  # tokens that the short convolution sees [PRISM: 5 in recommendation, 7 in language]; 1: one token
    rank: int = 2  # L, pairs that a token writes; only PRISM has more than one [2 or 3]
    chunk: int = 32  # tokens per triangular solve; changes the speed, not the result

    def __post_init__(self) -> None:
        check_at_least(1, dim=self.dim, kernel=self.kernel, rank=self.rank, chunk=self.chunk)
        if self.keys is not None:
            check_at_least(1, keys=self.keys)

    @property
    def key_width(self) -> int:
        """Width of keys and queries."""
        return self.keys or self.dim


class MemoryState(NamedTuple):
    """All that a layer keeps of the past; its size does not depend on how long the past is."""

    S: Float[Tensor, "batch values keys"]
    window: Float[Tensor, "batch recent dim"]  # the inputs that the convolution still needs


class ShortConv(nn.Module):
    """Causal depthwise convolution: each channel is a weighted sum of its last `kernel` values."""

    def __init__(self, dim: int, kernel: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(dim, kernel) / kernel**0.5)

    def forward(
        self, x: Float[Tensor, "batch time dim"], window: Float[Tensor, "batch recent dim"]
    ) -> tuple[Float[Tensor, "batch time dim"], Float[Tensor, "batch recent dim"]]:
        """The convolved sequence, and the window for what comes next."""
        kernel, time = self.weight.shape[1], x.shape[1]
        joined = torch.cat([window, x], dim=1)
        parts = (joined[:, i : i + time] * self.weight[:, i] for i in range(kernel))
        return torch.stack(list(parts)).sum(0), joined[:, joined.shape[1] - (kernel - 1) :]


class MemoryLayer(nn.Module, ABC):
    """A layer with a memory that every token reads and writes."""

    def __init__(self, config: MemoryConfig | None = None) -> None:
        super().__init__()
        self.config = config or MemoryConfig()
        self.conv = ShortConv(self.config.dim, self.config.kernel)
        self.out = nn.Linear(self.config.dim, self.config.dim, bias=False)

    def initial_state(self, batch: int) -> MemoryState:
        """An empty memory for each of `batch` sequences."""
        c, like = self.config, self.out.weight
        return MemoryState(like.new_zeros(batch, c.dim, c.key_width), like.new_zeros(batch, c.kernel - 1, c.dim))

    def forward(
        self, x: Float[Tensor, "batch time dim"], state: MemoryState | None = None
    ) -> tuple[Float[Tensor, "batch time dim"], MemoryState]:
        """All tokens; position t has read what positions 0 … t wrote."""
        x, state = self._checked(x, state)
        u, window = self._anchor(x, state)
        y, S = self._remember(u, state.S)
        return self.out(y), MemoryState(S, window)

    def step(
        self, x: Float[Tensor, "batch dim"], state: MemoryState | None = None
    ) -> tuple[Float[Tensor, "batch dim"], MemoryState]:
        """One token after those that made `state`; the same numbers as `forward` gives."""
        x, state = self._checked(x[:, None], state)
        u, window = self._anchor(x, state)
        y, S = self._remember_one(u, state.S)
        return self.out(y), MemoryState(S, window)

    def _anchor(self, x: Tensor, state: MemoryState) -> tuple[Tensor, Tensor]:
        u, window = self.conv(x, state.window)
        return F.silu(u), window

    @abstractmethod
    def _remember(self, u: Tensor, S: Tensor) -> tuple[Tensor, Tensor]:
        """Read and write for all tokens: (y, the last S)."""

    @abstractmethod
    def _remember_one(self, u: Tensor, S: Tensor) -> tuple[Tensor, Tensor]:
        """The same for one token."""

    def _checked(self, x: Tensor, state: MemoryState | None) -> tuple[Tensor, MemoryState]:
        batch, time, dim = x.shape
        if dim != self.config.dim:
            raise ValueError(f"x: is {dim} wide, the layer {self.config.dim}; give [batch, time, {self.config.dim}]")
        if time == 0:
            raise ValueError("x: the sequence is empty; give at least one token")
        if state is None:
            state = self.initial_state(batch)
        for name, part, shape in (
            ("S", state.S, (batch, dim, self.config.key_width)),
            ("window", state.window, (batch, self.config.kernel - 1, dim)),
        ):
            if tuple(part.shape) != shape:
                raise ValueError(
                    f"state: its {name} is {tuple(part.shape)}, this layer's is {shape}; a state fits only the layer "
                    "(and the batch) that made it"
                )
        return x, state


class LinearMemoryLayer(MemoryLayer):
    """A memory whose writes depend on the inputs alone, so that many tokens can be written at once."""

    @abstractmethod
    def writes(self, u: Float[Tensor, "batch time dim"]) -> Writes:
        """What each token does to the memory, from the anchor u."""

    def _remember(self, u: Tensor, S: Tensor) -> tuple[Tensor, Tensor]:
        return chunkwise(S, self.writes(u), self.config.chunk)

    def _remember_one(self, u: Tensor, S: Tensor) -> tuple[Tensor, Tensor]:
        return step(S, self.writes(u))
