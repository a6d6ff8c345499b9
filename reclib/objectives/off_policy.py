r"""How good would another policy have been? Estimates from a log with propensities, without showing anything.

A log has $n$ rounds: context $x$, action $a$ drawn with probability $\mu(a|x)$ (the propensity), reward $r$. The policy
to be judged would have shown $a$ with probability $\pi(a|x)$; $w=\pi/\mu$ is the importance weight.

| estimator | $\hat V$ | biased if | variance |
| --- | --- | --- | --- |
| `ips` | $\frac1n\sum wr$ | a propensity is wrong, or 0 where $\pi>0$ | large |
| `snips` | $\sum wr/\sum w$ | as `ips`, and a little always | smaller |
| `direct_method` | $\frac1n\sum_x\sum_a\pi(a|x)\hat q(x,a)$ | the reward model is wrong | small |
| `doubly_robust` | direct method $+\frac1n\sum w(r-\hat q)$ | both are wrong | between |

Sources: Horvitz & Thompson 1952; Swaminathan & Joachims 2015 (SNIPS); Dudík, Langford & Li 2011 (doubly robust). The
reward model must come from other rounds than those it is used on. Checked against hand computations and against the ad
world, where the truth is known. (The package `obp` defines its estimators by the same formulas; it has had no release
since 2023 and does not install beside current versions of its dependencies.)
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int

from reclib.intervals import Interval


def importance_weights(
    probability: Float[np.ndarray, "rounds"], propensity: Float[np.ndarray, "rounds"]
) -> Float[np.ndarray, "rounds"]:
    r"""$w=\pi(a|x)/\mu(a|x)$ of the logged actions.

    Raises:
        ValueError: a propensity outside (0, 1], a probability outside [0, 1], NaN, or lengths that differ.
    """
    if probability.shape != propensity.shape or probability.ndim != 1:
        raise ValueError(
            f"probability: shape {probability.shape} differs from propensity {propensity.shape}; give one per round"
        )
    if not ((propensity > 0) & (propensity <= 1)).all():
        raise ValueError("propensity: must lie in (0, 1]; an action that was logged had some probability")
    if not ((probability >= 0) & (probability <= 1 + 1e-6)).all():
        raise ValueError("probability: must lie in [0, 1]; pass probabilities, not logits or logarithms")
    out: np.ndarray = probability / propensity
    return out


def effective_sample_size(weight: Float[np.ndarray, "rounds"]) -> float:
    r"""$(\sum w)^2/\sum w^2$: how many rounds of an unweighted log the estimate is worth (Kish). 0 if no weight is."""
    total = float(np.square(weight).sum())
    return float(weight.sum()) ** 2 / total if total > 0 else 0.0


def ips(reward: Float[np.ndarray, "rounds"], weight: Float[np.ndarray, "rounds"]) -> float:
    r"""Inverse propensity score, $\frac1n\sum wr$: unbiased where $\mu>0$ wherever $\pi>0$."""
    _check(reward, weight)
    return float((weight * reward).mean())


def snips(reward: Float[np.ndarray, "rounds"], weight: Float[np.ndarray, "rounds"]) -> float:
    r"""Self-normalised, $\sum wr/\sum w$: stays inside the range of the rewards.

    Raises:
        ValueError: no round has any weight: the policy never does what the log has.
    """
    _check(reward, weight)
    if weight.sum() <= 0:
        raise ValueError("weight: all zero, so the log says nothing about this policy; compare a stochastic one")
    return float((weight * reward).sum() / weight.sum())


def direct_method(
    probability: Float[np.ndarray, "rounds actions"], model: Float[np.ndarray, "rounds actions"]
) -> float:
    r"""$\frac1n\sum_x\sum_a\pi(a|x)\hat q(x,a)$: believe the reward model."""
    return float((probability * model).sum(1).mean())


def doubly_robust_terms(
    reward: Float[np.ndarray, "rounds"],
    action: Int[np.ndarray, "rounds"],
    weight: Float[np.ndarray, "rounds"],
    probability: Float[np.ndarray, "rounds actions"],
    model: Float[np.ndarray, "..."],
) -> Float[np.ndarray, "rounds"]:
    r"""Per round $\sum_{a'}\pi(a'|x)\hat q(x,a')+w(r-\hat q(x,a))$, for the mean and for its interval.

    `model` is $\hat q$, of the shape of `probability`.
    """
    _check(reward, weight)
    if probability.shape != model.shape or len(probability) != len(reward):
        raise ValueError(
            f"model: shape {model.shape} and probability {probability.shape} must both be [{len(reward)}, actions]"
        )
    believed = np.take_along_axis(model, action[:, None], 1)[:, 0]
    out: np.ndarray = (probability * model).sum(1) + weight * (reward - believed)
    return out


def doubly_robust(
    reward: Float[np.ndarray, "rounds"],
    action: Int[np.ndarray, "rounds"],
    weight: Float[np.ndarray, "rounds"],
    probability: Float[np.ndarray, "rounds actions"],
    model: Float[np.ndarray, "..."],
) -> float:
    r"""The direct method, corrected by the importance-weighted errors of the model on what was logged."""
    return float(doubly_robust_terms(reward, action, weight, probability, model).mean())


def snips_interval(
    reward: Float[np.ndarray, "rounds"],
    weight: Float[np.ndarray, "rounds"],
    rng: np.random.Generator,
    *,
    level: float = 0.95,
    resamples: int = 1000,
) -> Interval:
    """`snips` with the percentile interval of a bootstrap over rounds (a ratio, so both sums are drawn again).

    With a few dozen clicks in the log it is wide, and honest about nothing but sampling.
    """
    low, high = _bootstrap(lambda rows: _ratio(reward[rows], weight[rows]), len(reward), rng, level, resamples)
    return Interval(snips(reward, weight), low, high)


def snips_gain_interval(
    reward: Float[np.ndarray, "rounds"],
    weight: Float[np.ndarray, "rounds"],
    other: Float[np.ndarray, "rounds"],
    rng: np.random.Generator,
    *,
    level: float = 0.95,
    resamples: int = 1000,
) -> Interval:
    """`snips` of a policy minus that of another on the same rounds, drawn again for both together.

    Two intervals that overlap do not say that two policies cannot be told apart: what both owe to the same lucky rounds
    cancels in the difference.

    Args:
        weight: importance weights of the policy. other: of the one it is compared with.
    """

    def gain(rows: Int[np.ndarray, "rounds"]) -> float:
        return _ratio(reward[rows], weight[rows]) - _ratio(reward[rows], other[rows])

    low, high = _bootstrap(gain, len(reward), rng, level, resamples)
    return Interval(snips(reward, weight) - snips(reward, other), low, high)


def _ratio(reward: np.ndarray, weight: np.ndarray) -> float:
    total = weight.sum()
    return float((weight * reward).sum() / total) if total > 0 else np.nan


def _bootstrap(
    statistic: Callable[[np.ndarray], float], rounds: int, rng: np.random.Generator, level: float, resamples: int
) -> tuple[float, float]:
    drawn = [statistic(rng.integers(rounds, size=rounds)) for _ in range(resamples)]
    low, high = np.nanquantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _check(reward: np.ndarray, weight: np.ndarray) -> None:
    if reward.shape != weight.shape or reward.ndim != 1 or not len(reward):
        raise ValueError(f"weight: shape {weight.shape} differs from reward {reward.shape}; give one per round")
    if not np.isfinite(reward).all():
        raise ValueError("reward: contains NaN or infinity; drop these rounds of the log")
    if not (np.isfinite(weight) & (weight >= 0)).all():
        raise ValueError("weight: must be finite and at least 0; see importance_weights")
