r"""Rankings drawn from scores: the Plackett–Luce model, its gradients, and the exact answer they all estimate.

The first place goes to item i with probability $e^{s_i/\tau}/\sum_je^{s_j/\tau}$, the second is drawn in the same way
among those that are left, and so on:

$$P(\sigma|s)=\prod_k\frac{e^{s_{\sigma(k)}/\tau}}{\sum_{j\ge k}e^{s_{\sigma(j)}/\tau}}$$

An item's *place* is its position in a ranking, 0 for the first. A ranking of L < n places is a partial draw; its
probability is the product of L factors only, whose sums still run over everything that is left. All functions take
any number of leading axes. A score that is NaN or infinite is refused: a ranking of it would mean nothing.

Sources: Luce 1959 and Plackett 1975; Yellott 1977 (Gumbel noise); Williams 1992 (REINFORCE); Kool et al. 2019
(leave-one-out); Oosterhuis 2021 (PL-Rank); Hong 2013 (Poisson-binomial by Fourier transform). That NDCG of a list is
learnt through this model is Reasoning to Rank's (Zheng et al. 2026, arXiv 2602.12530); the exact expectation is ours.
"""

from __future__ import annotations

import itertools
import math

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import one_hot

from reclib.nn.sizes import check_at_least
from reclib.objectives.grpo import leave_one_out_baseline, reinforce_loss

# ------------------------------------------------------------------ the distribution


def gumbel_noise(
    shape: tuple[int, ...], generator: torch.Generator | None = None, device: torch.device | None = None
) -> Float[Tensor, "..."]:
    """Standard Gumbel numbers, always finite.

    In double precision, because a uniform number of single precision is 0 once in ten million draws.
    """
    uniform = torch.rand(shape, generator=generator, dtype=torch.float64, device=device)
    return -(-uniform.clamp(min=1e-300).log()).log()


def draw_rankings(
    scores: Float[Tensor, "*lists items"],
    samples: int,
    *,
    tau: float = 1.0,
    length: int | None = None,
    generator: torch.Generator | None = None,
) -> Int[Tensor, "*lists samples length"]:
    """Draw rankings: sort s/τ + Gumbel noise, which is Plackett–Luce exactly (Yellott 1977).

    Args:
        scores: one per item.
        samples: rankings of each list.
        tau: τ, the temperature; small: nearly always the order of the scores.
        length: places that are filled, 1 to n; default: all.
        generator: of the noise; default: PyTorch's global one.

    Returns: the items in the order of their places. No gradient flows through a draw.

    Raises:
        ValueError: a score that is not finite; τ, samples or length out of range.
    """
    _check(scores, tau=tau)
    check_at_least(1, samples=samples)
    n = scores.shape[-1]
    if length is not None and not 1 <= length <= n:
        raise ValueError(f"length: {length} places for {n} items; give 1 to {n}, or None for all")
    noise = gumbel_noise((*scores.shape[:-1], samples, n), generator, scores.device)
    ranking = (scores.detach().double()[..., None, :] / tau + noise).argsort(dim=-1, descending=True)
    return ranking[..., :length]


def ranking_log_prob(
    scores: Float[Tensor, "*lists items"], ranking: Int[Tensor, "*lists samples length"], *, tau: float = 1.0
) -> Float[Tensor, "*lists samples"]:
    r"""$\log P(\sigma|s)=\sum_{k\le L}\{s_{\sigma(k)}/\tau-\log\sum_{j\notin\sigma(1..k-1)}e^{s_j/\tau}\}$, in nats.

    In single precision or better, whatever the precision of the scores.

    Raises:
        ValueError: a score that is not finite, τ out of range, a ranking that names an item twice or one that is not
            there.
    """
    _check(scores, tau=tau)
    _check_ranking(ranking, scores.shape[-1])
    logits = scores.float() if scores.dtype in (torch.float16, torch.bfloat16) else scores
    logits = (logits / tau)[..., None, :].expand(*ranking.shape[:-1], scores.shape[-1])
    return (logits.gather(-1, ranking) - _log_left(logits, ranking)).sum(-1)


def first_place_entropy(scores: Float[Tensor, "*lists items"], *, tau: float = 1.0) -> Float[Tensor, "*lists"]:
    """Entropy of who comes first, in nats, at most log n: what collapses when scores grow without end.

    The entropy of a whole ranking has no cheap closed form; the first factor is enough to see a collapse, and to hold
    against it (our choice).
    """
    _check(scores, tau=tau)
    log_p = (scores / tau).log_softmax(-1)
    return -(log_p.exp() * log_p).sum(-1)


def _log_left(
    logits: Float[Tensor, "*lists items"], ranking: Int[Tensor, "*lists length"]
) -> Float[Tensor, "*lists length"]:
    """log Σ e^logit over the items that are left before each place."""
    backwards = logits.gather(-1, ranking).flip(-1)
    if ranking.shape[-1] == logits.shape[-1]:
        return backwards.logcumsumexp(-1).flip(-1)
    left = torch.ones_like(logits, dtype=torch.bool).scatter(-1, ranking, False)
    never = logits.masked_fill(~left, -torch.inf).logsumexp(-1, keepdim=True)  # in no place
    return torch.cat([never, backwards], dim=-1).logcumsumexp(-1)[..., 1:].flip(-1)


# ------------------------------------------------------------------ the reward: NDCG with one relevant item


def ndcg_weights(places: int, k: int | None = None) -> Float[Tensor, "places"]:
    r"""Discounts $\theta_r=1/\log_2(r+2)$ of the places 0 … places - 1, zero from place k on. Double precision.

    Raises:
        ValueError: k below 1.
    """
    if k is not None and k < 1:
        raise ValueError(f"k: must be at least 1, or None for the whole list, got {k}")
    weights = 1 / torch.arange(2, places + 2, dtype=torch.float64).log2()
    return weights if k is None else weights * (torch.arange(places) < k)


def ndcg(
    ranking: Int[Tensor, "*lists samples length"], positive: Int[Tensor, "*lists"], k: int | None = None
) -> Float[Tensor, "*lists samples"]:
    r"""$U(\sigma)=\mathrm{NDCG@}k$: the discount of the positive's place, 0 if it has none. The ideal is 1."""
    weights = ndcg_weights(ranking.shape[-1], k).to(ranking.device)
    return ((ranking == positive[..., None, None]) * weights).sum(-1)


def ndcg_of_scores(
    scores: Float[Tensor, "*lists items"], positive: Int[Tensor, "*lists"], k: int | None = None
) -> Float[Tensor, "*lists"]:
    """NDCG@k of the order of the scores; ties are random, and this is the mean over their orders.

    With b items before the positive and t tied with it (itself included), its place is b, …, b + t - 1, each equally
    likely. So a model that gives everybody the same score earns what a random order earns.
    """
    _check(scores, positive)
    own = scores.gather(-1, positive[..., None])
    before, tied = (scores > own).sum(-1), (scores == own).sum(-1)
    total = torch.cat([torch.zeros(1, dtype=torch.float64), ndcg_weights(scores.shape[-1], k).cumsum(0)])
    total = total.to(scores.device)
    return (total[before + tied] - total[before]) / tied


# ------------------------------------------------------------------ the exact expectation

STEP = 0.1
LOG_TIME = torch.arange(-450, 41, dtype=torch.float64) * STEP  # the grid of the trapezoid rule: ten correct digits


def rank_distribution(
    scores: Float[Tensor, "*lists items"], positive: Int[Tensor, "*lists"], *, tau: float = 1.0
) -> Float[Tensor, "*lists items"]:
    r"""Probability of each place of the positive, exact and differentiable. Double precision.

    An exponential race: let item j arrive after an exponential time of rate $e^{s_j/\tau}$; the order of arrival is
    Plackett–Luce. Shift the scores so that the positive's is 0, and let it arrive at $e^x$, whose density in $x$ is
    $e^{x-e^x}$. Item j has arrived before with probability $p_j=1-\exp(-e^{s_j/\tau+x})$, independently of the others,
    so the number before is Poisson-binomial, with generating function $\prod_j(1-p_j+p_jz)$. Evaluated at the n-th
    roots of unity it is the Fourier transform of the distribution. Absolute error about 1e-12: where the positive is
    some 25/τ below all others, its chances are lost in it.
    """
    _check(scores, positive, tau=tau)
    n = scores.shape[-1]
    logits = scores.double() / tau
    logits = logits - logits.gather(-1, positive[..., None])
    x = LOG_TIME.to(scores.device)
    # Beyond e^6.5 nothing is left of 1 - p, and an infinite rate would have no gradient.
    before = -torch.expm1(-(logits[..., None, :] + x[:, None]).clamp(max=6.5).exp())  # [*lists, x, items]
    before = before.masked_fill(one_hot(positive, n).bool()[..., None, :], 0)  # nobody comes before himself
    turn = torch.exp(-2j * math.pi * torch.arange(n, dtype=torch.float64, device=scores.device) / n) - 1
    transform = (1 + before[..., None, :] * turn[:, None]).prod(-1)  # [*lists, x, frequencies]
    density = (x - x.exp()).exp() * STEP
    chance: Tensor = torch.fft.ifft((transform * density[:, None]).sum(-2)).real
    return chance


def expected_ndcg(
    scores: Float[Tensor, "*lists items"], positive: Int[Tensor, "*lists"], k: int | None = None, *, tau: float = 1.0
) -> Float[Tensor, "*lists"]:
    r"""$\mathbb E_{\sigma\sim PL(s)}[\mathrm{NDCG@}k]$ with one relevant item, exact and differentiable."""
    weights = ndcg_weights(scores.shape[-1], k).to(scores.device)
    return (rank_distribution(scores, positive, tau=tau) * weights).sum(-1)


def expected_ndcg_by_enumeration(
    scores: Float[Tensor, "items"], positive: int, k: int | None = None, *, tau: float = 1.0
) -> Float[Tensor, ""]:
    """The same from the definition: every ranking times its probability. For lists of at most eight items.

    Raises:
        ValueError: a longer list.
    """
    n = scores.shape[-1]
    if n > 8:
        raise ValueError(f"scores: {n} items have {math.factorial(n):,} rankings; use expected_ndcg beyond 8")
    rankings = torch.tensor(list(itertools.permutations(range(n))), device=scores.device)
    probability = ranking_log_prob(scores.double(), rankings, tau=tau).exp()
    return (probability * ndcg(rankings, torch.tensor(positive, device=scores.device), k)).sum()


# ------------------------------------------------------------------ losses: three estimates, and what they estimate


def reinforce_ranking_loss(
    scores: Float[Tensor, "*lists items"],
    ranking: Int[Tensor, "*lists samples length"],
    utility: Float[Tensor, "*lists samples"],
    *,
    tau: float = 1.0,
) -> Float[Tensor, "*lists"]:
    r"""Plain REINFORCE: $-\frac1M\sum_mU_m\log P(\sigma_m|s)$, without a baseline. Its value means nothing."""
    return reinforce_loss(ranking_log_prob(scores, ranking, tau=tau), utility.to(scores.dtype))


def leave_one_out_ranking_loss(
    scores: Float[Tensor, "*lists items"],
    ranking: Int[Tensor, "*lists samples length"],
    utility: Float[Tensor, "*lists samples"],
    *,
    tau: float = 1.0,
) -> Float[Tensor, "*lists"]:
    r"""$-\frac1M\sum_m(U_m-b_m)\log P(\sigma_m|s)$, where $b_m$ is the mean of the *other* rankings of the list."""
    return reinforce_ranking_loss(scores, ranking, utility - leave_one_out_baseline(utility), tau=tau)


def pl_rank_gradient(
    scores: Float[Tensor, "*lists items"],
    ranking: Int[Tensor, "*lists samples length"],
    positive: Int[Tensor, "*lists"],
    k: int | None = None,
    *,
    tau: float = 1.0,
) -> Float[Tensor, "*lists items"]:
    r"""PL-Rank (Oosterhuis 2021): an estimate of $\nabla_s\mathbb E[U]$ that knows what NDCG is made of.

    With $\theta_r$ the discount of place r, cut at k, $\rho_i=1$ for the positive and 0 for the others, $r(i)$ the
    place of item i in a drawn ranking, and $G_r=\sum_{x\ge r}\theta_x\rho_{\sigma(x)}$ what is earned from place r on:

    $$\tau\,\frac{\partial\,\mathbb E[U]}{\partial s_i}=\mathbb E\Big[G_{r(i)+1}
      +\sum_{r\le r(i)}P(i\text{ at }r|\sigma_{<r})(\theta_r\rho_i-G_r)\Big]$$

    In words: what comes behind an item is to its credit, and for every place up to its own it is held against its
    chance of having stood there. REINFORCE weighs an item by the whole reward, with the part earned before it.

    Args:
        ranking: whole rankings of all items. The mean over `samples` is returned; one is enough to be unbiased.

    Raises:
        ValueError: partial rankings, besides what the other functions refuse.
    """
    _check(scores, positive, tau=tau)
    n = scores.shape[-1]
    if ranking.shape[-1] != n:
        raise ValueError(f"ranking: {ranking.shape[-1]} of {n} places; PL-Rank needs whole ones, draw with length=None")
    _check_ranking(ranking, n)
    logits = (scores.detach().double() / tau)[..., None, :].expand(ranking.shape)
    theta = ndcg_weights(n, k).to(scores.device)
    own = ranking == positive[..., None, None]
    earned = (theta * own).flip(-1).cumsum(-1).flip(-1)  # G_r
    place = ranking.argsort(-1)  # r(i)
    behind = torch.cat([earned[..., 1:], torch.zeros_like(earned[..., :1])], dim=-1).gather(-1, place)
    chance = (logits[..., None, :] - _log_left(logits, ranking)[..., None]).exp()  # [*lists, samples, r, i]
    there = torch.arange(n, device=scores.device)[:, None] <= place[..., None, :]  # i is still there at r
    rho = one_hot(positive, n)[..., None, None, :]
    held = torch.where(there, chance, 0.0) * (theta[:, None] * rho - earned[..., None])
    return ((behind + held.sum(-2)).mean(-2) / tau).to(scores.dtype)


def pl_rank_loss(
    scores: Float[Tensor, "*lists items"],
    ranking: Int[Tensor, "*lists samples length"],
    positive: Int[Tensor, "*lists"],
    k: int | None = None,
    *,
    tau: float = 1.0,
) -> Float[Tensor, "*lists"]:
    """A loss whose gradient is minus `pl_rank_gradient`; its value means nothing."""
    return -(scores * pl_rank_gradient(scores, ranking, positive, k, tau=tau)).sum(-1)


def exact_ranking_loss(
    scores: Float[Tensor, "*lists items"], positive: Int[Tensor, "*lists"], k: int | None = None, *, tau: float = 1.0
) -> Float[Tensor, "*lists"]:
    r"""$-\mathbb E_{PL}[U]$ itself: what the estimates above estimate, without drawing anything."""
    return -expected_ndcg(scores, positive, k, tau=tau).to(scores.dtype)


def softmax_ranking_loss(
    scores: Float[Tensor, "*lists items"], positive: Int[Tensor, "*lists"], *, tau: float = 1.0
) -> Float[Tensor, "*lists"]:
    r"""Softmax cross-entropy, $-\log P(\sigma(1)=p)$: what ListMLE is where only one item is known to be relevant."""
    _check(scores, positive, tau=tau)
    return -(scores / tau).log_softmax(-1).gather(-1, positive[..., None])[..., 0]


# ------------------------------------------------------------------ checks


def _check(scores: Tensor, positive: Tensor | None = None, *, tau: float = 1.0) -> None:
    if not 0 < tau < math.inf:
        raise ValueError(f"tau: must be positive and finite, got {tau}; for the order of the scores itself sort them")
    if scores.ndim == 0 or scores.shape[-1] == 0:
        raise ValueError(f"scores: shape {tuple(scores.shape)} holds no item; give each list at least one")
    if not torch.isfinite(scores).all():
        bad = int((~torch.isfinite(scores)).sum())
        raise ValueError(f"scores: {bad} of {scores.numel()} are NaN or infinite; mend the model, or lower its rate")
    if positive is not None and ((positive < 0) | (positive >= scores.shape[-1])).any():
        raise ValueError(f"positive: must be a place in the list, 0 … {scores.shape[-1] - 1}, got {positive.tolist()}")


def _check_ranking(ranking: Tensor, items: int) -> None:
    ordered = ranking.sort(-1).values
    if ranking.numel() and (int(ordered.min()) < 0 or int(ordered.max()) >= items):
        raise ValueError(f"ranking: names items that are not among 0 … {items - 1}; use draw_rankings of these scores")
    if (ordered[..., 1:] == ordered[..., :-1]).any():
        raise ValueError("ranking: names an item twice; each item has one place")
