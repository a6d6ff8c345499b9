"""ReaRec with progressive reasoning learning, PRL (Tang et al., 2025): the baseline that thinks and does not diffuse.

The thoughts are those of `reclib.reasoning.think`; scores are dot products, as in the paper. All K + 1 states learn to
know the next item, the early ones with a softer softmax, and a second chain, whose thoughts got a little noise, has to
stay with the first:

    τ_k = τ α^{K-k},    L = Σ_k CE(r_k E^T / τ_k) + λ Σ_{k ≥ 1} -log softmax_j(cos(r̃_k, r_k^{(j)}) / τ)_{own}

Our choices: α and λ; both sums are divided by their terms; the contrast is by angle, between the last states of a
batch's rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from reclib.nn.losses import full_softmax
from reclib.reasoning.think import Thinker
from reclib.training.batches import SequenceBatch


class ReaRec(Thinker):
    """A thinker with scores r · e_i / τ."""

    def rank(self, u: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch items"]:
        """u · e_i / τ; column 0 (padding) is -inf."""
        scores = u @ self.backbone.vectors().T / self.config.tau
        scores[..., 0] = -torch.inf
        return scores


@dataclass(frozen=True)
class PRLLoss:
    """A loss for `reclib.training.fit`."""

    alpha: float = 1.2  # α ≥ 1, by which each earlier softmax is softer [not known to us]
    lam: float = 0.1  # λ, weight of the contrast [not known to us]
    noise: float = 0.01  # standard deviation of what is added to the thoughts of the second chain [0.01]

    def __post_init__(self) -> None:
        if not self.alpha >= 1:
            raise ValueError(f"alpha: must be at least 1, so that early thoughts are the softer ones, got {self.alpha}")

    def __call__(self, model: ReaRec, batch: SequenceBatch) -> tuple[Tensor, int]:
        """Sum over all targets of the batch, and their number."""
        real = batch.target > 0
        target = batch.target[real]
        hidden, cache = model.backbone.read(batch.history)
        states = model.think(hidden, cache)
        tau = self.temperatures(len(states), model.config.tau).to(states)
        logits = (states[:, real] / tau[:, None, None]).flatten(0, 1)
        loss = full_softmax(logits, model.backbone.vectors(), target.repeat(len(states))) / len(states)
        if self.lam and len(states) > 1:
            noisy = model.think(hidden, cache, lambda r: r + self.noise * torch.randn_like(r))
            rows, last = torch.arange(len(real), device=real.device), real.sum(1) - 1
            contrast = agreement(noisy[1:, rows, last], states[1:, rows, last], model.config.tau)
            loss = loss + len(target) * self.lam * contrast
        return loss, len(target)

    def temperatures(self, states: int, tau: float) -> Float[Tensor, "states"]:
        """τ_0 … τ_K; the last is τ."""
        return tau * self.alpha ** torch.arange(states - 1, -1, -1).float()


def agreement(
    noisy: Float[Tensor, "thoughts rows dim"], clean: Float[Tensor, "thoughts rows dim"], tau: float
) -> Float[Tensor, ""]:
    """InfoNCE between the two chains: each noisy thought has to find the clean one of its own row. Mean over all."""
    similar = F.normalize(noisy, dim=-1) @ F.normalize(clean, dim=-1).transpose(1, 2) / tau
    own = torch.arange(similar.shape[1], device=similar.device).repeat(len(similar))
    return F.cross_entropy(similar.flatten(0, 1), own)
