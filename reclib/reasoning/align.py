"""GRPO for intents: two readings of "align the continuous generation with the ranking" (both are our reconstruction).

**A, `ChainGRPO`: the denoising chain is the policy** (after DDPO, Black et al., 2024, and Flow-GRPO, Liu et al., 2025).
Every user draws G chains; a chain's actions are its start and its steps with noise; its reward is the uncut gain of
the rank that the target gets,

    R = 1 / log₂(1 + rank),   L_A = -mean_{g,t} min(ρ_t A, clip(ρ_t) A) + b KL(μ_t ‖ μ_t^ref)

Cut at ten, most groups would have no reward at all and so nothing to learn. The gradient reaches the denoiser, and the
thoughts and the backbone through the hypothesis inside μ_t.

**B, `ItemGRPO`: the distribution over items is the policy** (after LatentR3, Zhang et al., 2025). Every user has G
intents from noisy starts (the first has no noise); the "action" is always the target, its log-probability is that of a
softmax over the catalogue, the reward is minus the perplexity 1 / p. So the reward is a function of the action's own
probability, and the loss a cross-entropy whose weights, positive for the intents that did well and negative for the
others, sum to zero in each group. It is no estimate of the gradient of an expected reward. (LatentR3 takes its baseline
over the batch and adds noise to a thought; group and start are our reading.)

In both there is one update per draw, so ρ = 1 and nothing is ever clipped; the gradient is what GRPO's is at ρ = 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from reclib.evaluation import target_ranks
from reclib.nn.sizes import check_at_least
from reclib.objectives.grpo import group_advantages, grpo_loss
from reclib.reasoning.diffureason import DiffuReason
from reclib.reasoning.diffusion import gaussian_kl


def gain(rank: Int[Tensor, "*cases"]) -> Float[Tensor, "*cases"]:
    """1 / log₂(1 + rank): NDCG with one relevant item and no cut."""
    return 1 / torch.log2(1.0 + rank)


@torch.no_grad()
def rewards(
    model: DiffuReason, u: Float[Tensor, "users group dim"], target: Int[Tensor, "users"]
) -> Float[Tensor, "users group"]:
    """Gain of the target's rank among all items, the history included, by each intent."""
    users, group, _ = u.shape
    ranks = target_ranks(model.rank(u.flatten(0, 1)), target.repeat_interleave(group))
    return gain(ranks).view(users, group)


@dataclass(frozen=True)
class ChainGRPO:
    """Variant A."""

    group_size: int = 8  # G
    clip: float = 0.2  # ε
    b: float = 0.01  # weight of the KL divergence from the reference

    def __post_init__(self) -> None:
        check_at_least(2, group_size=self.group_size)

    def __call__(
        self, model: DiffuReason, c: Float[Tensor, "users dim"], target: Int[Tensor, "users"]
    ) -> Float[Tensor, ""]:
        """L_A, a mean over users."""
        if model.config.start < 2:
            raise ValueError("start: a chain from level 1 takes no step with noise; give DiffuReason start >= 2")
        group = c[:, None].expand(-1, self.group_size, -1)
        with torch.no_grad():
            chain = model.sample(group)
            advantage = group_advantages(rewards(model, chain.u, target), eps=1e-6).advantages
            reference = model.means(chain.x, group, model.reference)
        return self.of(model, chain.x, group, advantage, reference)

    def of(
        self,
        model: DiffuReason,
        chain: Float[Tensor, "levels users group dim"],
        c: Float[Tensor, "users group dim"],
        advantage: Float[Tensor, "users group"],
        reference: Float[Tensor, "steps users group dim"],
        old: Float[Tensor, "actions users group"] | None = None,
    ) -> Float[Tensor, ""]:
        """L_A of drawn chains; `old` are the log-probabilities when they were drawn, by default those of now."""
        chain = chain.detach()
        means = model.means(chain, c, model.denoiser)
        new = model.log_probs(chain, c, means)
        old = new.detach() if old is None else old
        sigma = model.schedule.sigma[model.steps_of(chain)][:, None, None].expand(means.shape[:-1])
        loss = grpo_loss(
            new.flatten(1).T, old.flatten(1).T, advantage.flatten(), clip_low=self.clip, clip_high=self.clip
        )
        return loss + self.b * gaussian_kl(means, reference, sigma).mean()


@dataclass(frozen=True)
class ItemGRPO:
    """Variant B."""

    group_size: int = 8  # G
    clip: float = 0.2  # ε

    def __post_init__(self) -> None:
        check_at_least(2, group_size=self.group_size)

    def __call__(
        self, model: DiffuReason, c: Float[Tensor, "users dim"], target: Int[Tensor, "users"]
    ) -> Float[Tensor, ""]:
        """L_B, a mean over users."""
        group = c[:, None].expand(-1, self.group_size, -1)
        noise = torch.randn_like(group)
        noise[:, 0] = 0  # the first member is the mean path
        log_prob = self.log_prob(model, group, noise, target)
        advantage = group_advantages(-(-log_prob.detach()).exp(), eps=1e-6).advantages
        log_prob = log_prob.flatten()[:, None]  # a sequence of one action each
        return grpo_loss(log_prob, log_prob, advantage.flatten(), clip_low=self.clip, clip_high=self.clip)

    def log_prob(
        self,
        model: DiffuReason,
        c: Float[Tensor, "users group dim"],
        noise: Float[Tensor, "users group dim"],
        target: Int[Tensor, "users"],
    ) -> Float[Tensor, "users group"]:
        """Log-probability of the target under each intent."""
        scores = model.rank(model.refine(c, noise=noise))
        return scores.log_softmax(-1).gather(-1, target[:, None, None].expand(*scores.shape[:2], 1))[..., 0]


@torch.no_grad()
def zero_variance_share(
    model: DiffuReason, c: Float[Tensor, "users dim"], target: Int[Tensor, "users"], group_size: int, cut: int | None
) -> float:
    """Share of groups that teach nothing, as all their rewards are equal; `cut`: no reward below that rank."""
    reward = rewards(model, model.sample(c[:, None].expand(-1, group_size, -1)).u, target)
    if cut is not None:
        reward = torch.where(reward >= gain(torch.tensor(cut)) - 1e-6, reward, 0.0)
    return float(group_advantages(reward).zero_variance_share)
