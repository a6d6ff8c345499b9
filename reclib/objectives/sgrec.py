r"""S-GRec (Jiang et al. 2026, arXiv 2602.10606): a semantic judge that only speaks where business agrees.

    for user x:  Y ~ π(·|x)                          # a group of G answers
        A_biz = norm(R_biz)                          # eCPM, or a ranking reward
        with probability 5 %:                        # the judge is dear
            A_sem = norm(R_sem)                      # reclib.objectives.semantic_judge
            A = A_biz + λ A_sem                      # λ from 0 to 1, one per answer: A2PO
        loss = -E min(ρ A, clip(ρ) A) + β KL         # reclib.objectives.grpo

**Where the formula comes from.** The paper's body was not at hand. What stands here as A2PO is the formula that *one*
third-party reproduction reports, together with its code; the paper's overview figure does not contradict it. What is
its choice is marked [reproduction], what is ours "our choice".

Groups are the last axis, any number of axes may lead. Bad input, in every function here: a group of one and a reward
that is NaN or infinite raise a `ValueError` that names the argument; a group with equal rewards has advantages of
exactly zero, and where that is the business reward, nothing semantic is let in. Of a group the judge was not asked
about, the semantic reward is never read: it may be NaN.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from reclib.objectives.grpo import group_advantages, grpo_loss
from reclib.objectives.semantic_judge import PersonalizedSemanticJudge

__all__ = [
    "A2PO",
    "PersonalizedSemanticJudge",
    "SGRecConfig",
    "a2po_advantages",
    "advantage_sum",
    "asked_groups",
    "asymmetric_advantage",
    "asymmetric_weight",
    "pcgrad",
    "recentred",
    "reward_sum_advantages",
    "sgrec_loss",
    "standardise",
]


@dataclass(frozen=True)
class SGRecConfig:
    """What the method has to set. The paper says 5 %; the other values are the reproduction's, or ours."""

    size: int = 16  # G, answers per group [reproduction: 16]
    ratio: float = 0.05  # share of the groups that the judge is asked about [paper: 5 %]
    clip: float = 0.2  # on both sides of ratio 1 [reproduction: 0.2]
    beta: float = 0.04  # weight of the KL penalty to where training began [not reported; GRPO's value: our choice]
    eps: float = 1e-8  # in the denominator of λ [reproduction: 1e-8]
    floor: float = 1e-4  # smallest standard deviation that a group is divided by [reproduction: 1e-4]

    def __post_init__(self) -> None:
        if self.size < 2:
            raise ValueError(f"size: a group of {self.size} has no spread; use at least 2")
        if not 0 <= self.ratio <= 1:
            raise ValueError(f"ratio: {self.ratio} is no share; give a number from 0 (never ask) to 1 (always)")
        for name in ("clip", "beta", "eps", "floor"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}: must be zero or positive, got {getattr(self, name)}")


# ------------------------------------------------------------------ one reward: standardised inside its group


def standardise(
    rewards: Float[Tensor, "..."], floor: float = 1e-4, name: str = "rewards"
) -> Float[Tensor, "*groups size"]:
    r"""$\mathrm{norm}(R)_i=(R_i-\bar R)/\max(\sigma,\text{floor})$ with the *population* standard deviation σ.

    Args:
        rewards: the group is the last axis.
        floor: smallest σ to divide by. Rewards that differ by less are shrunk, not blown up. [reproduction]
        name: what error messages call the rewards.

    Equal rewards give exactly zero, whatever the rounding of their mean.

    Raises:
        ValueError: a group of one; a reward that is not finite.
    """
    _check(name, rewards)
    centred = group_advantages(rewards, std="none").advantages
    sigma = centred.square().mean(-1, keepdim=True).sqrt()
    # Equal rewards would meet a floor of zero: 0 / 1 is the zero we want.
    return centred / torch.where(sigma > 0, sigma.clamp(min=floor), 1.0)


def _check(name: str, rewards: Tensor, like: Tensor | None = None) -> None:
    """Reject what would turn into NaN, or into silence, further down."""
    if rewards.ndim == 0 or rewards.shape[-1] < 2:
        raise ValueError(
            f"{name}: shape {tuple(rewards.shape)}, but the last axis is the group and needs at least two answers; "
            "draw more answers per user"
        )
    if like is not None and rewards.shape != like.shape:
        raise ValueError(f"{name}: shape {tuple(rewards.shape)} differs from {tuple(like.shape)} of business")
    if not torch.isfinite(rewards).all():
        bad = int((~torch.isfinite(rewards)).sum())
        raise ValueError(f"{name}: {bad} of {rewards.numel()} values are NaN or infinite; mend what computes them")


# ------------------------------------------------------------------ A2PO: two advantages become one


def asymmetric_weight(
    a_biz: Float[Tensor, "*shape"], a_sem: Float[Tensor, "*shape"], eps: float = 1e-8
) -> Float[Tensor, "*shape"]:
    r"""$\lambda=\mathbb 1[\mathrm{sign}A_{biz}=\mathrm{sign}A_{sem}]\frac{\min(|A_{biz}|,|A_{sem}|)}{\max(|A_{biz}|,|A_{sem}|)+\epsilon}$

    In [0, 1]; zero where the two disagree, and where either is zero. As reported by one third-party reproduction.
    """  # noqa: E501 (an equation)
    smaller, larger = torch.minimum(a_biz.abs(), a_sem.abs()), torch.maximum(a_biz.abs(), a_sem.abs())
    agree = (a_biz.sign() == a_sem.sign()) & (larger > 0)
    # Where both are zero the ratio would be 0 / eps, and NaN without eps.
    return torch.where(agree, smaller / (torch.where(agree, larger, 1.0) + eps), 0.0)


def asymmetric_advantage(
    a_biz: Float[Tensor, "*shape"], a_sem: Float[Tensor, "*shape"], eps: float = 1e-8
) -> Float[Tensor, "*shape"]:
    r"""A2PO: $A=A_{biz}+\lambda A_{sem}$, so that sign A = sign A_biz and |A_biz| ≤ |A| ≤ 2 |A_biz|.

    What is added is $A_{sem}^2/|A_{biz}|$, with sign, where the judge's advantage is the weaker, and $|A_{biz}|$ where
    it is the stronger. The sum over a group is no longer zero; see `recentred`.
    """
    return a_biz + asymmetric_weight(a_biz, a_sem, eps) * a_sem


class A2PO(NamedTuple):
    """What `a2po_advantages` returns. All but the last have the shape of the rewards."""

    advantages: Float[Tensor, "*groups size"]  # A
    business: Float[Tensor, "*groups size"]  # A_biz
    semantic: Float[Tensor, "*groups size"]  # A_sem; zero in groups the judge was not asked about
    weight: Float[Tensor, "*groups size"]  # λ, one per answer
    zero_variance: Bool[Tensor, "*groups"]  # True where all business rewards are equal: nothing to learn there


def a2po_advantages(
    business: Float[Tensor, "..."],
    semantic: Float[Tensor, "..."],
    asked: Bool[Tensor, "..."] | None = None,
    *,
    eps: float = 1e-8,
    floor: float = 1e-4,
) -> A2PO:
    r"""S-GRec's asymmetric advantages, from two rewards per answer.

    Both are standardised inside the group (`standardise`), then combined (`asymmetric_advantage`). Shifting either
    reward, or scaling it by a positive number, changes nothing (as long as no σ is below `floor`).

    Args:
        business: R_biz, `[*groups, size]`; the group is the last axis, at least two answers.
        semantic: R_sem of the same answers, of the same shape.
        asked: `[*groups]`, the groups the judge was asked about, see `asked_groups`; default: all. Elsewhere A = A_biz
            bit for bit, and `semantic` is not read.
        eps: in the denominator of λ.
        floor: smallest standard deviation to divide by.

    Raises:
        ValueError: a group of one, a reward that is not finite, shapes that differ; the message names the argument.
    """
    a_biz, a_sem = _both(business, semantic, asked, floor)
    weight = asymmetric_weight(a_biz, a_sem, eps)
    return A2PO(a_biz + weight * a_sem, a_biz, a_sem, weight, business.amax(-1) == business.amin(-1))


def _both(business: Tensor, semantic: Tensor, asked: Tensor | None, floor: float) -> tuple[Tensor, Tensor]:
    """A_biz and A_sem; zero where the judge was not asked."""
    a_biz = standardise(business, floor, "business")
    return a_biz, standardise(_answered(business, semantic, asked), floor, "semantic")


def _answered(business: Tensor, semantic: Tensor, asked: Tensor | None) -> Tensor:
    """The semantic rewards, all zero in groups the judge was not asked about."""
    if asked is not None:
        if asked.shape != business.shape[:-1]:
            raise ValueError(
                f"asked: shape {tuple(asked.shape)}, but there is one answer per group: {tuple(business.shape[:-1])}"
            )
        semantic = torch.where(asked.unsqueeze(-1), semantic, 0.0)
    _check("semantic", semantic, business)
    return semantic


# ------------------------------------------------------------------ what it is compared with


def reward_sum_advantages(
    business: Float[Tensor, "..."],
    semantic: Float[Tensor, "..."],
    asked: Bool[Tensor, "..."] | None = None,
    *,
    weight: float | Float[Tensor, "..."] = 1.0,
    floor: float = 1e-4,
) -> Float[Tensor, "*groups size"]:
    r"""Reward-Sum: $\mathrm{norm}(R_{biz}+w R_{sem})$. With w = 1 the units of the two rewards decide who wins."""
    _check("business", business)
    weight = torch.as_tensor(weight, dtype=business.dtype, device=business.device).unsqueeze(-1)
    return standardise(business + weight * _answered(business, semantic, asked), floor, "business")


def advantage_sum(
    a_biz: Float[Tensor, "*shape"], a_sem: Float[Tensor, "*shape"], weight: float | Float[Tensor, "..."] = 1.0
) -> Float[Tensor, "*shape"]:
    r"""Adv-Sum: $A_{biz}+\lambda A_{sem}$ with one global λ, agreement or not."""
    return a_biz + weight * a_sem


def recentred(advantages: Float[Tensor, "*groups size"]) -> Float[Tensor, "*groups size"]:
    r"""$A_i-\bar A$: a group that pushes no probability up or down as a whole. Signs may change. Our choice."""
    return advantages - advantages.mean(-1, keepdim=True)


def pcgrad(first: Float[Tensor, "*stack dim"], second: Float[Tensor, "*stack dim"]) -> Float[Tensor, "*stack dim"]:
    r"""Gradient surgery (Yu et al. 2020, PCGrad) for two tasks, whose gradients are flat along the last axis.

    $g_1\leftarrow g_1-\frac{\langle g_1,g_2\rangle}{|g_2|^2}g_2$ if $\langle g_1,g_2\rangle<0$, the same for $g_2$ with
    the *original* $g_1$, then their sum. Symmetric: unlike A2PO it has no anchor.
    """
    dot = (first * second).sum(-1, keepdim=True).clamp(max=0)  # only conflicts are projected away

    def off(g: Tensor, other: Tensor) -> Tensor:
        size = other.square().sum(-1, keepdim=True)
        return g - dot / torch.where(size > 0, size, 1.0) * other

    return off(first, second) + off(second, first)


# ------------------------------------------------------------------ sparse semantic sampling


def asked_groups(
    shape: tuple[int, ...], ratio: float, generator: torch.Generator | None = None
) -> Bool[Tensor, "*groups"]:
    """Which groups the judge is asked about: each with probability `ratio`, independently.

    0 never asks and 1 always does. `asked.sum()` is the number of calls, one per group: log it.

    Raises:
        ValueError: a ratio outside [0, 1].
    """
    if not 0 <= ratio <= 1:
        raise ValueError(f"ratio: {ratio} is no share; give a number from 0 (never ask) to 1 (always)")
    return torch.rand(shape, generator=generator) < ratio


# ------------------------------------------------------------------ the loss


def sgrec_loss(
    log_prob: Float[Tensor, "*stack groups size tokens"],
    log_prob_old: Float[Tensor, "*stack groups size tokens"],
    advantages: Float[Tensor, "*stack groups size"],
    mask: Bool[Tensor, "*stack groups size tokens"] | None = None,
    log_prob_ref: Float[Tensor, "*stack groups size tokens"] | None = None,
    config: SGRecConfig | None = None,
) -> Float[Tensor, "*stack"]:
    r"""`grpo_loss` over all answers of all groups: $-E\min(\rho A,\mathrm{clip}(\rho)A)+\beta\,KL$.

    Args:
        log_prob: log-probability of each token of each answer (the codes of a semantic ID; one token is a bandit).
        log_prob_old: the same under the policy that drew them.
        advantages: one per answer: `a2po_advantages(...).advantages`, or an arm it is compared with.
        mask: True at tokens that the policy wrote.
        log_prob_ref: the same under the policy training began from; needed unless `config.beta` is 0.
        config: clip and beta.

    A group without variance adds nothing to the gradient (but for the KL penalty) and still counts in the mean.
    """
    c = config or SGRecConfig()

    def sequences(x: Tensor | None) -> Tensor | None:
        return None if x is None else x.flatten(-3, -2)

    flat = log_prob.flatten(-3, -2)
    old = log_prob_old.flatten(-3, -2)
    return grpo_loss(
        flat, old, advantages.flatten(-2), sequences(mask), sequences(log_prob_ref), c.clip, c.clip, c.beta
    )
