"""Test-time training, the expensive ideal (PRISM, Eq. 6): the memory is a small model that learns from every token.

Several gradient steps on ½‖σ(S k_t) - v_t‖², each with the S that the step before has left:

    S ← S + β_t (σ'(S k_t) ⊙ (v_t - σ(S k_t))) k_tᵀ

σ' is the gain, the bracket the residual. Both need S, so tokens and steps run one after the other. σ = tanh, the decay
and the learnt step size β are our choice.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reclib.memory.deltanet import START
from reclib.memory.layers import MemoryConfig, MemoryLayer
from reclib.nn.sizes import check_at_least


class TestTimeTraining(MemoryLayer):
    """`steps` gradient steps per token, in a loop over tokens."""

    __test__ = False  # for pytest: a name of the field, not a test

    def __init__(self, config: MemoryConfig | None = None, steps: int = 2) -> None:
        super().__init__(config)
        check_at_least(1, steps=steps)
        dim, keys = self.config.dim, self.config.key_width
        self.steps = steps
        self.query, self.key = nn.Linear(dim, keys, bias=False), nn.Linear(dim, keys, bias=False)
        self.value = nn.Linear(dim, dim, bias=False)
        self.alpha, self.beta = nn.Linear(dim, 1), nn.Linear(dim, 1)
        nn.init.constant_(self.alpha.bias, START)

    def _remember(self, u: Tensor, S: Tensor) -> tuple[Tensor, Tensor]:
        found = []
        for q, k, v, alpha, beta in zip(*(part.unbind(1) for part in self._tokens(u)), strict=True):
            S = alpha[:, :, None] * S
            for _ in range(self.steps):
                guess = torch.tanh(torch.einsum("bvk,bk->bv", S, k))
                gain, residual = 1 - guess.square(), v - guess
                S = S + (beta * gain * residual)[:, :, None] * k[:, None, :]
            found.append(torch.einsum("bvk,bk->bv", S, q))
        return torch.stack(found, dim=1), S

    def _tokens(self, u: Tensor) -> tuple[Tensor, ...]:
        """q, k, v, α and β: all that does not need S, for all tokens at once."""
        return (
            F.normalize(self.query(u), dim=-1),
            F.normalize(self.key(u), dim=-1),
            self.value(u),
            torch.sigmoid(self.alpha(u)),
            torch.sigmoid(self.beta(u)),
        )

    def _remember_one(self, u: Tensor, S: Tensor) -> tuple[Tensor, Tensor]:
        y, S = self._remember(u, S)
        return y[:, 0], S
