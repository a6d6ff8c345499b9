r"""The rivals of DRPO: how else to learn a policy from a log of rewards, one short function per method.

| function | source |
| --- | --- |
| `bc_loss` | behaviour cloning: imitate everything |
| `apg_loss` | the policy gradient with a mean baseline, taken on the log as if it were on-policy |
| `awr_loss` | advantage-weighted regression: Peng et al. 2019, arXiv 1910.00177 |
| `asymre_loss` | asymmetric REINFORCE: Arnal et al. 2025, arXiv 2506.20520 |
| `scaled_negatives_loss` | what the DRPO paper calls AsymRE: negative advantages times w |
| `crr_loss`, `crr_binary_loss` | critic-regularised regression: Wang et al. 2020, arXiv 2006.15134 |
| `expectile_loss`, `iql_loss` | implicit Q-learning: Kostrikov et al. 2021, arXiv 2110.06169 |
| `bppo_loss` | behaviour proximal policy optimisation: Zhuang et al. 2023, arXiv 2302.11312 |
| `best_rows` | %BC: clone the best share of the log, chosen once (Chen et al. 2021, arXiv 2106.01345) |

In a bandit there is no next state, so a value $V(s)$ is $E[r|s]$ under the log and $Q(s,a)$ is $E[r|s,a]$. Losses are
to be minimised and reduce over the last axis only; leading axes hold runs trained at once, and hyper-parameters are
numbers or one number per run. All weights are detached.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from reclib.objectives.drpo import PerRun, check_positive, check_rewards, per_run, top_rows
from reclib.objectives.grpo import reinforce_loss


def bc_loss(log_prob: Float[Tensor, "*stack rows"]) -> Float[Tensor, "*stack"]:
    r"""$-E[\log\pi(a|s)]$."""
    return -log_prob.mean(-1)


def apg_loss(log_prob: Float[Tensor, "*stack rows"], reward: Float[Tensor, "*stack rows"]) -> Float[Tensor, "*stack"]:
    r"""$-E_D[(r-\bar r)\log\pi]$. Attraction and repulsion have the same mass, which no policy survives off-policy."""
    check_rewards(reward)
    return reinforce_loss(log_prob, reward - reward.mean(-1, keepdim=True))


def awr_loss(
    log_prob: Float[Tensor, "*stack rows"],
    reward: Float[Tensor, "*stack rows"],
    value: Float[Tensor, "*stack rows"],
    beta: PerRun,
    clip: float = 20.0,
) -> Float[Tensor, "*stack"]:
    r"""Peng et al. 2019, Eq. 8: $-E[\min(e^{(r-V(s))/\beta},w_{max})\log\pi]$ with $w_{max}=20$."""
    check_rewards(reward)
    check_positive(beta, "beta")
    return -(_exponential(reward - value, beta, clip) * log_prob).mean(-1)


def asymre_loss(
    log_prob: Float[Tensor, "*stack rows"],
    reward: Float[Tensor, "*stack rows"],
    value: Float[Tensor, "*stack rows"],
    delta: PerRun,
) -> Float[Tensor, "*stack"]:
    r"""Arnal et al. 2025: $-E_{a\sim\mu}[(r-V)\log\pi]$ with $V=V^\mu(s)+\delta$.

    $\delta<0$ (the baseline below the value of the logging policy) improves on that policy; $\delta\ge0$ collapses.
    With $V$ at or below the smallest reward no weight is negative.
    """
    check_rewards(reward)
    return reinforce_loss(log_prob, reward - value.detach() - per_run(delta, reward))


def scaled_negatives_loss(
    log_prob: Float[Tensor, "*stack rows"], advantage: Float[Tensor, "*stack rows"], w: PerRun
) -> Float[Tensor, "*stack"]:
    r"""$-E[(\hat A^+-w\hat A^-)\log\pi]$: with a mean baseline the repulsion ratio $\rho$ is $w$."""
    return reinforce_loss(log_prob, torch.where(advantage < 0, per_run(w, advantage) * advantage, advantage))


def crr_loss(
    log_prob: Float[Tensor, "*stack rows"],
    q: Float[Tensor, "*stack rows"],
    q_policy: Float[Tensor, "*stack rows"],
    beta: PerRun,
    clip: float = 20.0,
) -> Float[Tensor, "*stack"]:
    r"""Wang et al. 2020, Eq. 4: $-E[\min(e^{\hat A/\beta},20)\log\pi]$, $\hat A=Q(s,a)-E_{a'\sim\pi}Q(s,a')$.

    Args:
        q: the critic's value of the logged action.
        q_policy: its mean over actions drawn from the policy being trained (the paper: four of them).
    """
    check_positive(beta, "beta")
    return -(_exponential(q - q_policy, beta, clip) * log_prob).mean(-1)


def crr_binary_loss(
    log_prob: Float[Tensor, "*stack rows"], q: Float[Tensor, "*stack rows"], q_policy: Float[Tensor, "*stack rows"]
) -> Float[Tensor, "*stack"]:
    r"""Wang et al. 2020, Eq. 3: $-E[\mathbb 1[\hat A>0]\log\pi]$."""
    return -((q > q_policy).to(log_prob.dtype) * log_prob).mean(-1)


def expectile_loss(
    value: Float[Tensor, "*stack rows"], target: Float[Tensor, "*stack rows"], tau: PerRun
) -> Float[Tensor, "*stack"]:
    r"""Kostrikov et al. 2021, Eq. 5: $E[|\tau-\mathbb 1[u<0]|\,u^2]$, $u=Q-V(s)$; in a bandit $Q$ is $r$.

    $\tau=.5$ is (half) the squared error; $\tau\to1$ makes $V$ the best reward in $s$ that the log supports.
    """
    levels = torch.as_tensor(tau)
    if not ((levels > 0) & (levels < 1)).all():
        raise ValueError(f"tau: {tau} must lie in (0, 1); 0.5 is the mean, 0.9 close to the best")
    u = target.detach() - value
    level = per_run(tau, u)
    return (torch.where(u < 0, 1 - level, level) * u.square()).mean(-1)


def iql_loss(
    log_prob: Float[Tensor, "*stack rows"],
    reward: Float[Tensor, "*stack rows"],
    value: Float[Tensor, "*stack rows"],
    beta: PerRun,
    clip: float = 100.0,
) -> Float[Tensor, "*stack"]:
    r"""Kostrikov et al. 2021, Eq. 7: $-E[\min(e^{\beta(Q-V(s))},100)\log\pi]$; $\beta$ is an *inverse* temperature."""
    check_rewards(reward)
    check_positive(beta, "beta")
    return -(_exponential(reward - value, 1 / torch.as_tensor(beta), clip) * log_prob).mean(-1)


def bppo_loss(
    log_prob: Float[Tensor, "*stack rows"],
    log_prob_old: Float[Tensor, "*stack rows"],
    advantage: Float[Tensor, "*stack rows"],
    epsilon: PerRun,
    omega: PerRun = 0.9,
) -> Float[Tensor, "*stack"]:
    r"""Zhuang et al. 2023: PPO's clipped surrogate on actions drawn from $\pi_k$, which began as the cloned behaviour.

    Args:
        log_prob: under the policy being trained, of actions drawn from $\pi_k$.
        log_prob_old: under $\pi_k$.
        advantage: the critic's $Q(s,a)-V(s)$ of these actions. Standardised here, over the rows.
        epsilon: clip range.
        omega: weight of positive advantages, $1-\omega$ that of negative ones (their §5.3).
    """
    check_positive(epsilon, "epsilon")
    gain = (advantage - advantage.mean(-1, keepdim=True)) / (advantage.std(-1, keepdim=True) + 1e-8)
    share = per_run(omega, gain)
    gain = torch.where(gain > 0, share, 1 - share) * gain
    ratio = (log_prob - log_prob_old.detach()).exp()
    wide = per_run(epsilon, ratio)
    clipped = torch.maximum(torch.minimum(ratio, 1 + wide), 1 - wide)
    return -torch.minimum(ratio * gain.detach(), clipped * gain.detach()).mean(-1)


def best_rows(reward: Float[Tensor, "rows"], fraction: float) -> Bool[Tensor, "rows"]:
    """%BC: the rows whose reward is among the best `fraction` of the whole log; among equals the earlier rows.

    Raises:
        ValueError: a fraction outside (0, 1], one that keeps nothing, or a reward that is NaN or infinite.
    """
    return top_rows(reward, fraction).mask


def _exponential(advantage: Tensor, temperature: PerRun, clip: float) -> Tensor:
    exponent = advantage.detach() / per_run(temperature, advantage)
    return exponent.clamp(max=math.log(clip)).exp()  # clipped before it can overflow
