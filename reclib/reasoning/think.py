"""Think: a few thoughts after the history, each fed back into the backbone (after ReaRec, Tang et al., 2025).

    r_0 = H_last,   r_k = step(r_{k-1} + p_k),   k = 1 … K,   c = r_K

p_k tells the backbone that this input is its own k-th thought and no item; keys and values are kept, so a thought costs
one token. Every thought is trained to know the next item. Items and intents are compared by angle (our choice, here and
in the diffusion, where lengths would mean noise):

    score(i) = cos(c, e_i) / τ

DiffuReason's paper (Jiang et al., 2026) says that "thinking tokens" make a first hypothesis and no more; this module is
our reconstruction.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from reclib.backbones.sequence_model import last_position, recent
from reclib.nn.losses import full_softmax
from reclib.nn.sizes import check_at_least
from reclib.reasoning.backbones import Backbone
from reclib.training.batches import SequenceBatch

Disturbance = Callable[[Tensor], Tensor]  # what happens to a thought on its way: nothing, or noise


@dataclass(frozen=True)
class ThinkConfig:
    """Sizes of the thinking; ReaRec's values in brackets, since DiffuReason's are not known."""

    thoughts: int = 2  # K; 0: the backbone by itself [2]
    tau: float = 0.07  # τ, temperature of the scores [about 0.07, of dot products]

    def __post_init__(self) -> None:
        check_at_least(0, thoughts=self.thoughts)
        if not self.tau > 0:
            raise ValueError(f"tau: must be positive, got {self.tau}")


class Thinker(nn.Module):
    """A backbone, K thoughts, and scores by angle."""

    def __init__(self, backbone: nn.Module, config: ThinkConfig | None = None) -> None:
        super().__init__()
        if not isinstance(backbone, Backbone):
            raise ValueError(
                f"backbone: a {type(backbone).__name__} cannot go on thinking; "
                "give one of reclib.reasoning.backbones, such as ThinkingSASRec"
            )
        self.backbone: Backbone = backbone
        self.config = config or ThinkConfig()
        self.n_items, self.dim, self.max_len = backbone.n_items, backbone.dim, backbone.max_len
        self.positions = nn.Embedding(self.config.thoughts, backbone.dim)  # p_1 … p_K
        nn.init.normal_(self.positions.weight, std=0.02)

    def states(
        self, history: Int[Tensor, "batch time"], since: int = 0, disturb: Disturbance | None = None
    ) -> Float[Tensor, "states batch places dim"]:
        """r_0 … r_K behind the items since, since + 1, ….

        Args:
            history: item ids, left-aligned, 0 pads on the right; what stands behind padding means nothing.
            disturb: is applied to every r_k, k ≥ 1, before anybody sees it.
        """
        hidden, cache = self.backbone.read(history, since)
        return self.think(hidden, cache, disturb)

    def think(
        self, hidden: Float[Tensor, "batch places dim"], cache: object, disturb: Disturbance | None = None
    ) -> Float[Tensor, "states batch places dim"]:
        """The same for a history that was read before."""
        found = [hidden]
        for p in self.positions.weight:
            r, cache = self.backbone.step(found[-1] + p, cache)
            found.append(r if disturb is None else disturb(r))
        return torch.stack(found)

    def hypothesis(
        self, history: Int[Tensor, "batch time"], disturb: Disturbance | None = None
    ) -> Float[Tensor, "batch dim"]:
        """c = r_K behind the last of the newest `max_len` items of each history."""
        history, _ = recent(history, None, self.max_len)
        last = last_position(history)
        since = int(last.min())
        states = self.states(history, since, disturb)
        return states[-1, torch.arange(len(history), device=history.device), last - since]

    def intent(self, history: Int[Tensor, "batch time"]) -> Float[Tensor, "batch dim"]:
        """The vector that is looked up in the catalogue; here the hypothesis itself."""
        return self.hypothesis(history)

    def rank(self, u: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch items"]:
        """cos(u, e_i) / τ; column 0 (padding) is -inf."""
        scores = F.normalize(u, dim=-1) @ F.normalize(self.backbone.vectors(), dim=-1).T / self.config.tau
        scores[..., 0] = -torch.inf
        return scores

    def score(
        self, history: Int[Tensor, "batch time"], time: Float[Tensor, "batch time+1"] | None = None
    ) -> Float[Tensor, "batch items"]:
        """Score of every item as the next one. `time` is accepted and not used."""
        return self.rank(self.intent(history))

    def cross_entropy(self, u: Float[Tensor, "targets dim"], target: Int[Tensor, "targets"]) -> Float[Tensor, ""]:
        """-Σ log softmax(cos(u, e) / τ)_y over the whole catalogue."""
        items = F.normalize(self.backbone.vectors(), dim=-1)
        return full_softmax(F.normalize(u, dim=-1) / self.config.tau, items, target)

    def per_thought(
        self, states: Float[Tensor, "states targets dim"], target: Int[Tensor, "targets"]
    ) -> Float[Tensor, ""]:
        """Σ_k CE(r_k) / K, k = 1 … K, summed over targets; the backbone by itself (K = 0) has r_0 only.

        Divided by K, so that more thoughts do not mean a higher learning rate (our choice).
        """
        thoughts = states[1:] if len(states) > 1 else states
        return self.cross_entropy(thoughts.flatten(0, 1), target.repeat(len(thoughts))) / len(thoughts)


def think_loss(model: Thinker, batch: SequenceBatch) -> tuple[Tensor, int]:
    """A loss for `reclib.training.fit`: every thought behind every item has to know the next one."""
    real = batch.target > 0
    target = batch.target[real]
    return model.per_thought(model.states(batch.history)[:, real], target), len(target)


def gaussian(std: float, generator: torch.Generator) -> Disturbance:
    """Adds noise to every number of a thought; `std` is in units of the thought's own root mean square."""

    def disturb(r: Tensor) -> Tensor:
        size = r.square().mean(-1, keepdim=True).sqrt()
        return r + std * size * torch.randn(r.shape, generator=generator, dtype=r.dtype, device=r.device)

    return disturb
