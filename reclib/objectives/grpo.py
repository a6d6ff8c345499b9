"""Policy gradients, from REINFORCE to GRPO and two of its heirs, one short function per equation.

The setting of every function: a policy draws a *sequence* of tokens for a context (one token is the
bandit), the sequence earns one reward, and an advantage says how much better than expected that reward
was. All losses are to be *minimised*; each reduces over its last axes only, so that leading axes can hold
a stack of seeds that are trained at once: sum the result over them before you call ``backward``.

Sources: Williams 1992 (REINFORCE); Kool et al. 2019 and Ahmadian et al. 2024 (leave-one-out); Schulman et
al. 2017 (PPO); Schulman 2020 (k1, k2, k3); Shao et al. 2024 (GRPO); Liu et al. 2025 (Dr. GRPO); Yu et al.
2025 (DAPO); Zheng et al. 2025 (GSPO). Chapter 03 derives each of them.
"""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

# ------------------------------------------------------------------ REINFORCE


def reinforce_loss(
    log_prob: Float[Tensor, "*stack samples"], advantage: Float[Tensor, "*stack samples"]
) -> Float[Tensor, "*stack"]:
    r"""Williams 1992: $-\frac1N\sum_n A_n\log\pi_\theta(a_n|x_n)$, with $A_n=r_n-b_n$ held constant.

    Minus its gradient is an unbiased estimate of the gradient of the expected reward as long as the
    baseline $b_n$ does not depend on the action $a_n$ (Theorem 1 there). ``advantage`` is detached. The
    value of the loss means nothing.
    """
    return -(advantage.detach() * log_prob).mean(-1)


def leave_one_out_baseline(rewards: Float[Tensor, "*groups size"]) -> Float[Tensor, "*groups size"]:
    r"""Kool et al. 2019: the mean reward of the *other* samples, $b_i=\frac1{G-1}\sum_{j\ne i}r_j$.

    Independent of sample $i$, so the gradient stays unbiased (RLOO, Ahmadian et al. 2024, calls the same
    thing REINFORCE leave-one-out). The group is the last axis.
    """
    _check_groups(rewards)
    size = rewards.shape[-1]
    return (rewards.sum(-1, keepdim=True) - rewards) / (size - 1)


def value_loss(
    value: Float[Tensor, "*stack samples"], reward: Float[Tensor, "*stack samples"]
) -> Float[Tensor, "*stack"]:
    r"""Schulman et al. 2017, $L^{VF}$ of Eq. 9: $\frac1N\sum_n(V_\phi(x_n)-r_n)^2$ trains the baseline."""
    return (value - reward.detach()).square().mean(-1)


# ------------------------------------------------------------------ group advantages


class GroupAdvantages(NamedTuple):
    """What `group_advantages` returns: the advantages, and which groups had nothing to say."""

    advantages: Float[Tensor, "*groups size"]  # exactly zero in a group without variance
    zero_variance: Bool[Tensor, "*groups"]  # True where all rewards of the group are equal

    @property
    def zero_variance_share(self) -> Float[Tensor, ""]:
        """Share of groups without variance, in [0, 1]. Log it: these samples cost money and teach nothing."""
        return self.zero_variance.float().mean()


def group_advantages(
    rewards: Float[Tensor, "*groups size"],
    std: Literal["sample", "population", "none"] = "sample",
    eps: float = 1e-4,
) -> GroupAdvantages:
    r"""Shao et al. 2024, §4.1.2: $A_i=(r_i-\mathrm{mean}(r))/(\mathrm{std}(r)+\epsilon)$ inside each group.

    Args:
        rewards: one row per group, one group per context; the group is the last axis. Any number of
            leading axes.
        std: ``"sample"`` divides the squares by $G-1$ (TRL and most code), ``"population"`` by $G$,
            ``"none"`` does not divide at all (Dr. GRPO, Liu et al. 2025). The paper does not say which of
            the first two it means; with $G=2$ they give ±0.707 and ±1.
        eps: added to the standard deviation. The paper has none; 1e-4 is TRL's. It may be zero here.

    A group whose rewards are all equal gets advantages of exactly zero, whatever the rounding of its
    mean, and is flagged in ``zero_variance``; nothing is ever divided by ``eps`` alone.

    Raises:
        ValueError: a group of one, a reward that is not finite, an unknown ``std``, a negative ``eps``.
    """
    _check_groups(rewards)
    if eps < 0:
        raise ValueError(f"eps: {eps} is negative; pass 0 or a small positive number such as 1e-4.")
    centred = rewards - rewards.mean(-1, keepdim=True)
    zero_variance = rewards.amax(-1) == rewards.amin(-1)
    if std == "none":
        scale = torch.ones_like(centred[..., 0])
    elif std in ("sample", "population"):
        scale = rewards.std(-1, correction=1 if std == "sample" else 0) + eps
    else:
        raise ValueError(f'std: {std!r} is unknown; use "sample", "population" or "none".')
    scale = torch.where(zero_variance, torch.inf, scale)  # x / inf = 0: exactly no advantage
    return GroupAdvantages(centred / scale.unsqueeze(-1), zero_variance)


def _check_groups(rewards: Tensor) -> None:
    """Reject what would turn into NaN or into silence further down."""
    if rewards.ndim == 0 or rewards.shape[-1] < 2:
        raise ValueError(
            f"rewards: shape {tuple(rewards.shape)}, but the last axis is the group and needs at least two "
            "samples; draw more samples per context, or use reinforce_loss with a learned value."
        )
    if not torch.isfinite(rewards).all():
        bad = int((~torch.isfinite(rewards)).sum())
        raise ValueError(f"rewards: {bad} of {rewards.numel()} values are NaN or infinite; mend the reward function.")


# ------------------------------------------------------------------ PPO


def clipped_surrogate(
    ratio: Float[Tensor, "..."],
    advantage: Float[Tensor, "..."],
    clip_low: float = 0.2,
    clip_high: float = 0.2,
) -> Float[Tensor, "..."]:
    r"""Schulman et al. 2017, inside of Eq. 7: $\min(\rho A,\mathrm{clip}(\rho,1-\epsilon_l,1+\epsilon_h)A)$.

    One $\epsilon$ for both sides is PPO, a wider upper side is DAPO's clip-higher. The minimum makes the
    bound pessimistic: once a good action ($A>0$) has gained more than $\epsilon_h$, or a bad one lost more
    than $\epsilon_l$, its gradient is zero. ``clip_low=1.0, clip_high=inf`` switches clipping off.
    """
    if clip_low < 0 or clip_high < 0:
        raise ValueError(f"clip_low, clip_high: got {clip_low} and {clip_high}; both must be zero or positive.")
    return torch.minimum(ratio * advantage, ratio.clamp(1 - clip_low, 1 + clip_high) * advantage)


def ppo_loss(
    log_prob: Float[Tensor, "*stack samples"],
    log_prob_old: Float[Tensor, "*stack samples"],
    advantage: Float[Tensor, "*stack samples"],
    clip_low: float = 0.2,
    clip_high: float = 0.2,
) -> Float[Tensor, "*stack"]:
    r"""Schulman et al. 2017, Eq. 7: minus the mean of `clipped_surrogate`, $\rho=\pi_\theta/\pi_{old}$.

    While the policy is still the one that drew the samples, $\rho=1$ and the gradient is that of
    `reinforce_loss`.
    """
    ratio = (log_prob - log_prob_old.detach()).exp()
    return -clipped_surrogate(ratio, advantage.detach(), clip_low, clip_high).mean(-1)


# ------------------------------------------------------------------ KL estimators


def kl_k1(log_prob: Float[Tensor, "*shape"], log_prob_ref: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    r"""Schulman 2020: $k_1=\log\frac{\pi}{\pi_{ref}}$. Unbiased under samples of $\pi$, of either sign."""
    return log_prob - log_prob_ref


def kl_k2(log_prob: Float[Tensor, "*shape"], log_prob_ref: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    r"""Schulman 2020: $k_2=\frac12(\log\frac{\pi}{\pi_{ref}})^2$. Never negative, biased, low variance."""
    return (log_prob - log_prob_ref).square() / 2


def kl_k3(log_prob: Float[Tensor, "*shape"], log_prob_ref: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    r"""Schulman 2020, and Eq. 4 of Shao et al. 2024: $k_3=\frac{\pi_{ref}}{\pi}-\log\frac{\pi_{ref}}{\pi}-1$.

    Unbiased for $KL(\pi\|\pi_{ref})$ under samples of $\pi$, and never negative. That holds for its
    *value*. The gradient that ``backward`` takes through it at samples of $\pi$ is, in expectation, the
    gradient of the other direction, $KL(\pi_{ref}\|\pi)$ (Tang & Munos 2025); chapter 03 checks this by
    enumeration.
    """
    log_ratio = log_prob_ref - log_prob
    return log_ratio.exp() - log_ratio - 1


# ------------------------------------------------------------------ GRPO and its heirs


def grpo_loss(
    log_prob: Float[Tensor, "*stack sequences tokens"],
    log_prob_old: Float[Tensor, "*stack sequences tokens"],
    advantage: Float[Tensor, "..."],
    mask: Bool[Tensor, "*stack sequences tokens"] | None = None,
    log_prob_ref: Float[Tensor, "*stack sequences tokens"] | None = None,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    beta: float = 0.0,
) -> Float[Tensor, "*stack"]:
    r"""Shao et al. 2024, Eq. 3: mean over the tokens of a sequence, then mean over sequences.

    $$-\frac1G\sum_i\frac1{|o_i|}\sum_t\{\min(\rho_{it}A_i,\mathrm{clip}(\rho_{it})A_i)-\beta\,k_3\}$$

    Args:
        log_prob: log-probability of each drawn token under the policy being trained.
        log_prob_old: the same under the policy that drew it; detached here, so at the first step you may pass
            ``log_prob`` itself: the ratio is 1 and the gradient is right.
        advantage: one number per sequence, or one per token (process rewards). Detached here.
        mask: True at tokens the policy wrote. Padding and tool output are False. A sequence without any
            True token adds nothing, but still counts in the mean over sequences.
        log_prob_ref: the same under the frozen reference policy; needed when ``beta`` is not zero.
        clip_low: $\epsilon$ below 1. The paper gives no value; 0.2 is PPO's.
        clip_high: $\epsilon$ above 1.
        beta: weight of the KL penalty to the reference policy; the paper uses 0.04.

    A loss near zero is normal: the advantages of a group sum to zero, so at ratio 1 the loss *is* zero
    (beta 0, equal lengths) while its gradient is not. Watch the reward instead.
    """
    advantage, mask = _per_token(log_prob, advantage, mask)
    ratio = _log_ratio(log_prob, log_prob_old, mask).exp()
    objective = clipped_surrogate(ratio, advantage, clip_low, clip_high)
    if beta != 0:
        if log_prob_ref is None:
            raise ValueError(
                "log_prob_ref: missing; beta is not zero, so pass the reference policy's log-probabilities."
            )
        reference = torch.where(mask, log_prob_ref.detach(), 0)
        objective = objective - beta * kl_k3(torch.where(mask, log_prob, 0), reference)
    return -_mean_over_tokens(objective, mask).mean(-1)


def dr_grpo_loss(
    log_prob: Float[Tensor, "*stack sequences tokens"],
    log_prob_old: Float[Tensor, "*stack sequences tokens"],
    advantage: Float[Tensor, "..."],
    mask: Bool[Tensor, "*stack sequences tokens"] | None = None,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
) -> Float[Tensor, "*stack"]:
    r"""Liu et al. 2025 (Dr. GRPO): *sum* over the tokens of a sequence, mean over sequences.

    Without the division by $|o_i|$ a long bad sequence is no longer excused for its length, and at ratio
    1 the gradient is exactly that of REINFORCE on whole sequences. It goes with ``std="none"`` advantages.
    Their code also divides by a constant length, which only rescales the learning rate.
    """
    advantage, mask = _per_token(log_prob, advantage, mask)
    ratio = _log_ratio(log_prob, log_prob_old, mask).exp()
    objective = clipped_surrogate(ratio, advantage, clip_low, clip_high)
    return -(objective * mask).sum(-1).mean(-1)


def dapo_loss(
    log_prob: Float[Tensor, "*stack sequences tokens"],
    log_prob_old: Float[Tensor, "*stack sequences tokens"],
    advantage: Float[Tensor, "..."],
    mask: Bool[Tensor, "*stack sequences tokens"] | None = None,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
) -> Float[Tensor, "*stack"]:
    r"""Yu et al. 2025, Eq. 8: clip-higher, no KL, one mean over *all* tokens of all sequences.

    Every token weighs the same, so long sequences weigh more than in `grpo_loss`. The third part of the
    method, dynamic sampling, happens before the loss: drop the groups that `group_advantages` flags and
    draw others.
    """
    advantage, mask = _per_token(log_prob, advantage, mask)
    ratio = _log_ratio(log_prob, log_prob_old, mask).exp()
    objective = clipped_surrogate(ratio, advantage, clip_low, clip_high)
    return -(objective * mask).sum((-2, -1)) / mask.sum((-2, -1)).clamp(min=1)


def gspo_loss(
    log_prob: Float[Tensor, "*stack sequences tokens"],
    log_prob_old: Float[Tensor, "*stack sequences tokens"],
    advantage: Float[Tensor, "..."],
    mask: Bool[Tensor, "*stack sequences tokens"] | None = None,
    clip_low: float = 3e-4,
    clip_high: float = 4e-4,
) -> Float[Tensor, "*stack"]:
    r"""Zheng et al. 2025, Eqs. 5 and 7: one ratio per sequence, $s_i=(\pi(o_i)/\pi_{old}(o_i))^{1/|o_i|}$.

    The geometric mean of the token ratios is clipped as a whole. It moves far less than a token's ratio,
    hence the paper's tiny clip range. With one token per sequence this is `grpo_loss`.
    """
    _, mask = _per_token(log_prob, advantage, mask)
    if advantage.shape != log_prob.shape[:-1]:
        raise ValueError(
            "advantage: one number per token; a sequence has one ratio here, so pass one number per sequence."
        )
    log_ratio = _log_ratio(log_prob, log_prob_old, mask)
    ratio = _mean_over_tokens(log_ratio, mask).exp()
    objective = clipped_surrogate(ratio, advantage.detach(), clip_low, clip_high)
    return -(objective * mask.any(-1)).mean(-1)


# ------------------------------------------------------------------ what to log


class Diagnostics(NamedTuple):
    """What to watch while training, instead of the loss. Means over the tokens of the whole batch."""

    ratio_mean: Float[Tensor, "*stack"]  # 1 at the first step; far from 1: too many epochs per batch
    ratio_std: Float[Tensor, "*stack"]  # 0 at the first step
    clip_fraction: Float[Tensor, "*stack"]  # share of tokens whose gradient the clip removed
    kl: Float[Tensor, "*stack"]  # k3 estimate of KL(policy that drew the batch ‖ policy now), nats per token


@torch.no_grad()
def policy_diagnostics(
    log_prob: Float[Tensor, "*stack sequences tokens"],
    log_prob_old: Float[Tensor, "*stack sequences tokens"],
    advantage: Float[Tensor, "..."],
    mask: Bool[Tensor, "*stack sequences tokens"] | None = None,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
) -> Diagnostics:
    """Ratio, clip fraction and KL of one batch, for the arguments of `grpo_loss`.

    A token counts as clipped only where the clip removes its gradient: ratio above the range with a
    positive advantage, or below it with a negative one. The samples come from the *old* policy, so the k3
    estimate is that of KL(old ‖ new).
    """
    advantage, mask = _per_token(log_prob, advantage, mask)
    log_ratio = _log_ratio(log_prob, log_prob_old, mask)
    ratio = log_ratio.exp()
    clipped = ((ratio > 1 + clip_high) & (advantage > 0)) | ((ratio < 1 - clip_low) & (advantage < 0))
    tokens = mask.sum((-2, -1)).clamp(min=1)
    mean = (ratio * mask).sum((-2, -1)) / tokens
    variance = ((ratio - mean[..., None, None]).square() * mask).sum((-2, -1)) / tokens
    kl = ((ratio - log_ratio - 1) * mask).sum((-2, -1)) / tokens
    return Diagnostics(mean, variance.sqrt(), (clipped & mask).sum((-2, -1)) / tokens, kl)


def _per_token(log_prob: Tensor, advantage: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Advantage with a token axis, and a mask that is all True where none was given."""
    if advantage.shape == log_prob.shape[:-1]:
        advantage = advantage.unsqueeze(-1)
    elif advantage.shape != log_prob.shape:
        raise ValueError(
            f"advantage: shape {tuple(advantage.shape)} does not fit log_prob {tuple(log_prob.shape)}; pass "
            f"one number per sequence {tuple(log_prob.shape[:-1])} or one per token."
        )
    if mask is None:
        mask = torch.ones_like(log_prob, dtype=torch.bool)
    return advantage.detach(), mask


def _log_ratio(log_prob: Tensor, log_prob_old: Tensor, mask: Tensor) -> Tensor:
    """Zero at masked tokens, whatever is stored there: padding may hold -inf or NaN."""
    return torch.where(mask, log_prob, 0) - torch.where(mask, log_prob_old.detach(), 0)


def _mean_over_tokens(x: Tensor, mask: Tensor) -> Tensor:
    return (x * mask).sum(-1) / mask.sum(-1).clamp(min=1)
