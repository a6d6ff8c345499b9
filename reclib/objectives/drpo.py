r"""DRPO: learn from a log by keeping its best rows, and the theory of why the bad rows do harm, with its corrections.

Sources. *The paper*: Jiang, Huo, Zhan, Wang, Zhang, "Breaking the Curse of Repulsion: Optimistic Distributionally
Robust Policy Optimization for Off-Policy Generative Recommendation", arXiv 2602.10430. *The follow-up*: "Breaking the
Curse of Repulsion: Remoteness-Aware Control of Negative Off-Policy Updates", a later manuscript of the same authors,
which corrects the theory and gives up the hard filter.

The setting is a contextual bandit: in state $s$ a policy puts out an item embedding $a\in\mathbb R^d$, an item near it
is shown and earns $R$. Reading order: divergence (§3 of the paper), the optimistic DRO and its dual (§4), Algorithm 1,
the follow-up's taper, the policy. Losses are to be *minimised* and reduce over the last axis only, so that leading axes
can hold a stack of runs trained at once; hyper-parameters are numbers or one number per run.

Bad input. A reward that is NaN or infinite is a `ValueError` everywhere, and so is a fraction outside (0, 1]. Rewards
that are all equal say nothing: `top_fraction_weights` are then 1 (any row is as good as another), `drpo_loss` is zero
with zero gradient, `drpo_exp_loss` and `filtered_bc_loss` imitate the first K rows of the batch, and
`adaptive_fraction` leaves the fraction as it is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

HALF_LOG_2PI = math.log(2 * math.pi) / 2
PerRun = float | Float[Tensor, "*stack"]  # one number, or one for each run of the stack


@dataclass(frozen=True)
class DRPOConfig:
    """The paper's settings (its §6 and Algorithm 1), in brackets."""

    batch_size: int = 320  # N [320]
    steps: int = 5000  # [5,000]
    lr: float = 3e-4  # of Adam [3e-4]
    fraction: float = 0.5  # P at the start [.5]
    lam: float = 0.5  # std(top) / std(batch) that the control loop holds [.5]
    up: float = 1.02  # P grows by this if the top is too uniform [1.02]
    down: float = 0.98  # and shrinks by this if it is not [.98]
    floor: float = 0.05  # smallest P [.05]
    beta: float = 0.05  # temperature of DRPO-Exp [.05]
    eps: float = 1e-6  # added to std(A) [not given; our choice]
    hidden: int = 128  # ReLU units of the policy's "2-layer MLP"; we read: two layers of weights, one hidden [128]
    log_sigma: float = -0.5  # first value of the learnt vector log sigma [not given; our choice]


# ------------------------------------------------------------------ §3 divergence


def gaussian_log_prob(
    action: Float[Tensor, "*stack rows dim"],
    mu: Float[Tensor, "*stack rows dim"],
    xi: Float[Tensor, "*stack #rows dim"],
) -> Float[Tensor, "*stack rows"]:
    r"""$\log\mathcal N(a;\mu,\mathrm{diag}\,\sigma^2)$ with $\xi=\log\sigma$, in nats."""
    z = (action - mu) * (-xi).exp()
    return -(z.square() / 2 + xi + HALF_LOG_2PI).sum(-1)


class Score(NamedTuple):
    """Gradient of log π with respect to mean and log standard deviation, per row."""

    mu: Float[Tensor, "*shape"]
    xi: Float[Tensor, "*shape"]

    @property
    def norm(self) -> Float[Tensor, "..."]:
        """Its length, over the last axis of both parts."""
        return (self.mu.square() + self.xi.square()).sum(-1).sqrt()


def gaussian_score(action: Float[Tensor, "*shape"], mu: Float[Tensor, "*shape"], xi: Float[Tensor, "*shape"]) -> Score:
    r"""Prop. 3.1: $\nabla_\mu\log\pi=\frac{a-\mu}{\sigma^2}$, $\nabla_\xi\log\pi=\frac{(a-\mu)^2}{\sigma^2}-1$.

    The force on $\mu$ is *linear* in the distance (the paper's text says quadratic), that on $\xi$ quadratic.
    """
    return Score((action - mu) * (-2 * xi).exp(), ((action - mu) * (-xi).exp()).square() - 1)


def push_gaussian(
    action: Float[Tensor, "*shape"],
    mu: Float[Tensor, "*shape"],
    xi: Float[Tensor, "*shape"],
    step: float | Float[Tensor, "..."],
) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
    r"""One step $\theta\leftarrow\theta+\eta\hat A\nabla\log\pi$ on one logged row; `step` is $\eta\hat A$.

    With $\hat A<0$ and $z=(a-\mu)/\sigma$: $\mu$ always moves away from $a$; $\sigma$ grows if $|z|<1$ and *shrinks* if
    $|z|>1$ (follow-up, appendix). The paper's Theorem 3.2 says that both expand, because it puts the expected Fisher
    matrix in the place of the field. To hold $\sigma$ fixed, throw the second result away.
    """
    score = gaussian_score(action, mu, xi)
    return mu + step * score.mu, xi + step * score.xi


def fixed_sigma_distance(distance: float, sigma: float, step: float, t: int) -> float:
    r"""What Theorem 3.2 gets right: with $\sigma$ fixed, $|a-\mu_t|=|1-\eta\hat A/\sigma^2|^t\,|a-\mu_0|$, exactly.

    A negative `step` $\eta\hat A$ grows geometrically; a positive one contracts if it is below $2\sigma^2$.
    """
    return abs(1 - step / sigma**2) ** t * distance


def push_softmax(
    action: Int[Tensor, "*stack"], logits: Float[Tensor, "*stack actions"], step: float | Float[Tensor, "*stack 1"]
) -> Float[Tensor, "*stack actions"]:
    r"""The same step for a softmax policy: $\nabla_{logits}\log\pi(a)=e_a-\pi$, of length at most $\sqrt2(1-\pi_a)$.

    No gradient explodes here; the logit gap grows linearly, so the probability of the action decays exponentially.
    """
    return logits + step * (torch.nn.functional.one_hot(action, logits.shape[-1]) - logits.softmax(-1))


def on_policy_score(sigma: Float[Tensor, "*stack dim"]) -> Float[Tensor, "*stack"]:
    r"""Prop. 3.6: $E_{a\sim\pi}\lVert\nabla_\mu\log\pi\rVert^2=\mathrm{tr}(\Sigma^{-1})$, whatever $\mu$ is."""
    return sigma.square().reciprocal().sum(-1)


class Masses(NamedTuple):
    """How much of a batch attracts and how much repels."""

    p: Float[Tensor, "*stack"]  # E[A⁺]
    q: Float[Tensor, "*stack"]  # E[A⁻]

    @property
    def rho(self) -> Float[Tensor, "*stack"]:
        r"""Repulsion over attraction, $\rho=q/p$: below 1 stable, at 1 drift, above 1 no finite equilibrium."""
        return self.q / self.p


def masses(advantage: Float[Tensor, "*stack rows"]) -> Masses:
    r"""Follow-up: $p=E[\hat A^+]$ and $q=E[\hat A^-]$. With a mean baseline $p=q$: the critical case, always."""
    return Masses(advantage.clamp(min=0).mean(-1), (-advantage).clamp(min=0).mean(-1))


def equilibrium(m_plus: float, m_minus: float, p: float, q: float) -> float:
    r"""Follow-up, exponential family: $m^*=\frac{pm_+-qm_-}{p-q}=m_++\frac{\rho}{1-\rho}(m_+-m_-)$.

    It lies *beyond* the positives: the policy extrapolates, away from the negatives.

    Raises:
        ValueError: $q\ge p$, where there is no stable finite equilibrium.
    """
    if not 0 <= q < p:
        raise ValueError(f"q: {q} must lie in [0, p) with p = {p}; at q >= p there is no stable finite equilibrium")
    return (p * m_plus - q * m_minus) / (p - q)


# ------------------------------------------------------------------ §4 optimistic DRO


def dual_objective(
    nu: Float[Tensor, "*shape"], reward: Float[Tensor, "*shape"], kappa: float
) -> Float[Tensor, "*shape"]:
    r"""The dual's terms $\nu+\frac1\kappa(R-\nu)_+$; its mean, minimised over $\nu$, is $\max_QE_Q[R]$.

    The problem is $\max_Q E_Q[R]$ subject to $dQ/dP\le1/\kappa$: the CVaR of the upper tail (Rockafellar & Uryasev
    2000). With $\nu_\phi(s)$ in the place of $\nu$, minimising the mean of these terms makes $\nu_\phi(s)$ the
    $(1-\kappa)$-quantile of $R$ *given $s$*, so that every state keeps its own best rows (our repair of the global
    filter, which drops users with low rewards).
    """
    check_fraction(kappa, "kappa")
    check_rewards(reward)
    return nu + (reward - nu).clamp(min=0) / kappa


class Dual(NamedTuple):
    r"""Solution of $\min_\nu\{\nu+\frac1\kappa E(R-\nu)_+\}$."""

    value: Float[Tensor, "*stack"]  # max_Q E_Q[R]: the mean of the best κ n rows, the last of them in part
    low: Float[Tensor, "*stack"]  # every ν in [low, high] is optimal
    high: Float[Tensor, "*stack"]


def solve_dual(reward: Float[Tensor, "*stack rows"], kappa: float) -> Dual:
    r"""Closed form over a sample: sort, and find the $(1-\kappa)$-quantile."""
    weights = top_fraction_weights(reward, kappa)
    descending = reward.sort(-1, descending=True).values
    mass = kappa * reward.shape[-1]
    last = _ceil(mass)  # the row where the mass is used up
    low = high = descending[..., last - 1]
    if abs(mass - last) < 1e-9:  # used up at the row's end: anything down to the next row will do
        low = descending[..., last] if last < reward.shape[-1] else torch.full_like(high, -torch.inf)
    return Dual((weights * reward).mean(-1), low, high)


def top_fraction_weights(reward: Float[Tensor, "*stack rows"], kappa: float) -> Float[Tensor, "*stack rows"]:
    r"""$dQ^*/dP$ on a sample: $1/\kappa$ on the best $\kappa n$ rows, 0 elsewhere; the mean is 1.

    This is the solution of the optimistic DRO, *uniform* on the top. The weights $(R-\nu)_+$ of the paper's objective
    $J$ are not it (see `optimistic_objective`). Where $\kappa n$ falls inside a row, or among rows of equal reward,
    these rows share what is left equally (our choice: the result does not depend on the order of the rows).

    Args:
        reward: at least one row.
        kappa: in (0, 1].

    Raises:
        ValueError: a reward that is NaN or infinite, no rows, or `kappa` outside (0, 1].
    """
    check_fraction(kappa, "kappa")
    check_rewards(reward)
    mass = kappa * reward.shape[-1]
    nu = reward.sort(-1, descending=True).values[..., _ceil(mass) - 1, None]
    above, ties = reward > nu, reward == nu
    left = (mass - above.sum(-1, keepdim=True)) / ties.sum(-1, keepdim=True)
    return (above + left * ties).to(reward.dtype) / kappa


def optimistic_objective(
    log_prob: Float[Tensor, "*stack rows"],
    reward: Float[Tensor, "*stack rows"],
    nu: PerRun | Float[Tensor, "*stack rows"],
    kappa: float,
) -> Float[Tensor, "*stack"]:
    r"""$J(\theta)=\kappa^{-1}E_D[(R-\nu)_+\log\pi_\theta(a|s)]$, to be maximised; $\nu$ per run, or per row.

    Never negative weights. Nothing in the paper derives *these* weights from $Q^*$, which is flat on the top.
    At $\kappa=1$, $\nu=0$ and rewards of at least 0 it is reward-weighted behaviour cloning.
    """
    check_fraction(kappa, "kappa")
    check_rewards(reward)
    if not (isinstance(nu, Tensor) and nu.shape == reward.shape):
        nu = per_run(nu, reward)
    return ((reward - nu).clamp(min=0).detach() * log_prob).mean(-1) / kappa


def exponential_top_weights(
    reward: Float[Tensor, "*stack rows"], kappa: float, tau: float
) -> Float[Tensor, "*stack rows"]:
    r"""DRPO-Exp as the paper's proposition has it: $\propto e^{R/\tau}$ inside the top-$\kappa$, 0 outside; mean 1.

    The proposition calls it the optimum under a KL penalty and the cap $1/\kappa$. It is not: its largest weights break
    the cap, and its zeros cannot be optimal under a KL penalty (whose slope at 0 is infinite). See
    `capped_exponential_weights`.
    """
    check_positive(tau, "tau")
    top = top_fraction_weights(reward, kappa) * kappa
    weights = top * ((reward - reward.amax(-1, keepdim=True)) / tau).exp()
    return weights / weights.mean(-1, keepdim=True)


def capped_exponential_weights(
    reward: Float[Tensor, "*stack rows"], kappa: PerRun, tau: PerRun
) -> Float[Tensor, "*stack rows"]:
    r"""The true optimum of $E_Q[R]-\tau\,KL(Q\Vert P)$ under $dQ/dP\le1/\kappa$: $w=\min(1/\kappa,e^{(R-\ell)/\tau})$.

    Positive everywhere and *flat* at the top; $\ell$ makes the mean 1. It lies between the smallest and the largest
    reward, and is found by bisection. The limit $\tau\to0$ is `top_fraction_weights`, $\kappa\to0$ plain $e^{R/\tau}$.
    """
    check_fraction(kappa, "kappa")
    check_positive(tau, "tau")
    check_rewards(reward)
    exact = reward.detach().double()
    cap, tau = 1 / per_run(kappa, exact), per_run(tau, exact)
    low, high = exact.amin(-1, keepdim=True), exact.amax(-1, keepdim=True)

    def weights(level: Tensor) -> Tensor:
        return torch.minimum(((exact - level) / tau).exp(), cap)

    for _ in range(60):
        middle = (low + high) / 2
        heavy = weights(middle).mean(-1, keepdim=True) > 1
        low, high = torch.where(heavy, middle, low), torch.where(heavy, high, middle)
    return weights((low + high) / 2).to(reward.dtype)


# ------------------------------------------------------------------ Algorithm 1


class Top(NamedTuple):
    """The best rows of a batch."""

    mask: Bool[Tensor, "*stack rows"]  # True for the best K; among equal rewards the earlier row is kept
    nu: Float[Tensor, "*stack 1"]  # smallest reward among them
    mean: Float[Tensor, "*stack 1"]
    std: Float[Tensor, "*stack 1"]  # sample standard deviation (n - 1), as torch's; of a single row 0
    size: Float[Tensor, "*stack 1"]  # K


def top_rows(reward: Float[Tensor, "*stack rows"], fraction: PerRun) -> Top:
    r"""Lines 1 and 2 of Algorithm 1: $K=\mathrm{int}(NP)$, and the best $K$ rows of the batch by reward.

    `int` makes the level coarser than $P$: with five rows and $P=.5$ two are kept, not two and a half.

    Raises:
        ValueError: a bad reward, a fraction outside (0, 1], or so small a batch that K is 0.
    """
    check_fraction(fraction, "fraction")
    check_rewards(reward)
    rows = reward.shape[-1]
    exact = torch.as_tensor(fraction, dtype=torch.float64)
    size = (exact * rows + 1e-6).floor().long()  # 1e-6: .29 · 100 is 28.99…
    size = size.unsqueeze(-1) if size.ndim else size
    if (size < 1).any():
        smallest = float(torch.as_tensor(fraction).min())
        raise ValueError(f"fraction: {smallest:g} of a batch of {rows} rows is none; use at least {1 / rows:.3g}")
    order = reward.argsort(dim=-1, descending=True, stable=True)
    places = torch.arange(rows, device=reward.device).expand_as(order)
    mask = torch.empty_like(order).scatter(-1, order, places) < size
    k = size.to(reward.dtype)
    kept = torch.where(mask, reward, 0)
    mean = kept.sum(-1, keepdim=True) / k
    squares = torch.where(mask, reward - mean, 0).square().sum(-1, keepdim=True)
    nu = torch.where(mask, reward, torch.inf).amin(-1, keepdim=True)
    largest = torch.where(mask, reward, -torch.inf).amax(-1, keepdim=True)
    std = torch.where(largest == nu, 0, (squares / (k - 1).clamp(min=1)).sqrt())  # rounding shall not make a spread
    return Top(mask, nu, mean, std, k.expand_as(nu))


def adaptive_fraction(
    fraction: PerRun,
    reward: Float[Tensor, "*stack rows"],
    lam: PerRun = 0.5,
    up: float = 1.02,
    down: float = 0.98,
    floor: float = 0.05,
) -> Float[Tensor, "*stack"]:
    r"""Algorithm 1's control loop: widen $P$ if the top rows are too much alike, tighten it if not.

    $P\leftarrow\min(1,1.02P)$ if $\mathrm{std}(top)<\lambda\,\mathrm{std}(batch)$, else $\max(.05,.98P)$. It
    therefore solves $\mathrm{std}(\text{top-}P)=\lambda\,\mathrm{std}$, and knows nothing of noise: uniform rewards end
    at .50, normal ones at .27, heavy tails at the floor. The paper states the rule in three ways that contradict each
    other; this is the one that can be executed. A batch of equal rewards leaves $P$ as it is (our choice: to the
    letter, the rule would tighten).

    Returns:
        The new fraction of each run, in double precision.
    """
    top = top_rows(reward, fraction)
    flat = reward.amax(-1) == reward.amin(-1)
    spread = reward.std(-1) if reward.shape[-1] > 1 else torch.zeros_like(reward[..., 0])
    uniform = top.std[..., 0] < torch.as_tensor(lam, dtype=reward.dtype) * spread
    old = torch.as_tensor(fraction, dtype=torch.float64).expand_as(flat)
    new = torch.where(uniform, (up * old).clamp(max=1.0), (down * old).clamp(min=floor))
    return torch.where(flat, old, new)


def drpo_advantages(
    reward: Float[Tensor, "*stack rows"], fraction: PerRun, eps: float = 1e-6
) -> Float[Tensor, "*stack rows"]:
    r"""$A_j=(r_j-\nu)/(\mathrm{std}(A)+\epsilon)$ on the top rows, $\nu$ the smallest reward among them; 0 elsewhere.

    The standard deviation is the sample's, $n-1$ (the paper does not say; torch's default). Never negative; the last of
    the top rows always gets 0.
    """
    return _advantages(reward, top_rows(reward, fraction), eps)


def drpo_loss(
    log_prob: Float[Tensor, "*stack rows"],
    reward: Float[Tensor, "..."],
    fraction: PerRun,
    eps: float = 1e-6,
) -> Float[Tensor, "*stack"]:
    r"""Algorithm 1: $-\frac1K\sum_jA_j\log\pi_\theta(a_j|s_j)$ over the top $K=\mathrm{int}(NP)$ rows of the batch.

    Args:
        log_prob: of the logged actions under the policy being trained. Rows outside the top get no gradient, whatever
            stands there.
        reward: of these rows; or $R-b(s)$, where rewards of different users cannot be compared; or $Q_\phi(s,a)$ (the
            paper's DRPO-Q).
        fraction: $P$, in (0, 1].
        eps: added to the standard deviation.
    """
    _same_shape(log_prob, reward)
    top = top_rows(reward, fraction)
    return _weighted(log_prob, _advantages(reward, top, eps), top)


def drpo_exp_loss(
    log_prob: Float[Tensor, "*stack rows"],
    reward: Float[Tensor, "..."],
    fraction: PerRun,
    beta: PerRun = 0.05,
) -> Float[Tensor, "*stack"]:
    r"""DRPO-Exp: weights $\exp((r_j-\mathrm{mean}(r_{top}))/\beta)$ on the top rows, nothing on the others."""
    _same_shape(log_prob, reward)
    check_positive(beta, "beta")
    top = top_rows(reward, fraction)
    exponent = torch.where(top.mask, (reward - top.mean) / per_run(beta, reward), 0)
    return _weighted(log_prob, exponent.exp(), top)


def filtered_bc_loss(
    log_prob: Float[Tensor, "*stack rows"], reward: Float[Tensor, "..."], fraction: PerRun
) -> Float[Tensor, "*stack"]:
    r"""Adaptive BC: `drpo_loss` with unit weights. This, not DRPO, imitates the DRO's solution $Q^*$."""
    _same_shape(log_prob, reward)
    return _weighted(log_prob, torch.ones_like(reward), top_rows(reward, fraction))


def _advantages(reward: Tensor, top: Top, eps: float) -> Tensor:
    return torch.where(top.mask, (reward - top.nu) / (top.std + eps), 0)


def _weighted(log_prob: Tensor, weights: Tensor, top: Top) -> Tensor:
    terms = torch.where(top.mask, weights.detach() * log_prob, 0)
    return -(terms / top.size).sum(-1)


# ------------------------------------------------------------------ the follow-up's taper


def gaussian_remoteness(
    action: Float[Tensor, "*stack rows dim"],
    mu: Float[Tensor, "*stack rows dim"],
    xi: Float[Tensor, "*stack #rows dim"],
) -> Float[Tensor, "*stack rows"]:
    r"""$D$ of a Gaussian: the squared Mahalanobis distance $\sum_k z_k^2$ (about $d$ for the policy's own actions)."""
    return ((action - mu) * (-xi).exp()).square().sum(-1).detach()


def remoteness(log_prob: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    r"""$D=-\log\pi_\theta(a|s)$, detached: how far the policy has already left a logged action behind."""
    return -log_prob.detach()


def taper(
    remoteness: Float[Tensor, "*shape"], lam: PerRun = 1.0, tau: PerRun = 2.0, c: PerRun = 1.0
) -> Float[Tensor, "*shape"]:
    r"""$\omega=\exp\{-\lambda[(D-\tau)/c]_+\}$: full weight up to remoteness $\tau$, then an exponential decay.

    For $D=-\log\pi$ the same as $\min\{1,(e^\tau\pi)^{\lambda/c}\}$.

    Args:
        lam: strength; 0 is no taper. tau: where it begins. c: scale of the decay, positive.
    """
    check_positive(c, "c")
    beyond = (remoteness - per_run(tau, remoteness)).clamp(min=0) / per_run(c, remoteness)
    return (-per_run(lam, remoteness) * beyond).exp()


def tapered_loss(
    log_prob: Float[Tensor, "*stack rows"],
    advantage: Float[Tensor, "*stack rows"],
    remoteness: Float[Tensor, "*stack rows"],
    lam: PerRun = 1.0,
    tau: PerRun = 2.0,
    c: PerRun = 1.0,
) -> Float[Tensor, "*stack"]:
    r"""Follow-up: $-E[(\hat A^+-\omega\hat A^-)\log\pi]$. The taper is on the negative branch only."""
    _same_shape(log_prob, advantage)
    omega = torch.where(advantage < 0, taper(remoteness.detach(), lam, tau, c), 1)
    return -((omega * advantage).detach() * log_prob).mean(-1)


# ------------------------------------------------------------------ the policy


class GaussianPolicy(nn.Module):
    r"""$\pi_\theta(a|s)=\mathcal N(\mu_\theta(s),\mathrm{diag}\,\sigma^2)$, with $\xi=\log\sigma$ a free vector.

    `net` maps states to means; it may be a stack of networks, one per run, if `xi` has that axis too. The item shown is
    the one nearest to the action (to the mean, when nothing is to be explored).
    """

    def __init__(self, net: nn.Module, xi: Float[Tensor, "*stack 1 dim"]) -> None:
        super().__init__()
        self.net = net
        self.xi = nn.Parameter(xi.clone())

    def forward(self, state: Float[Tensor, "*stack rows state"]) -> Float[Tensor, "*stack rows dim"]:
        r"""$\mu_\theta(s)$."""
        mu: Tensor = self.net(state)
        return mu

    def log_prob(
        self, state: Float[Tensor, "*stack rows state"], action: Float[Tensor, "*stack rows dim"]
    ) -> Float[Tensor, "*stack rows"]:
        r"""$\log\pi_\theta(a|s)$, in nats."""
        return gaussian_log_prob(action, self(state), self.xi)


def mean_network(state: int, dim: int, hidden: int = 128) -> nn.Sequential:
    """The paper's "2-layer MLP, 128 ReLU units": two layers of weights."""
    return nn.Sequential(nn.Linear(state, hidden), nn.ReLU(), nn.Linear(hidden, dim))


# ------------------------------------------------------------------ what is refused


def check_rewards(reward: Float[Tensor, "..."]) -> None:
    """Reject what would turn into NaN, or into silence, further down."""
    if reward.ndim == 0 or reward.shape[-1] == 0:
        raise ValueError(f"reward: shape {tuple(reward.shape)} has no rows; pass at least one")
    if not torch.isfinite(reward).all():
        bad = int((~torch.isfinite(reward)).sum())
        raise ValueError(f"reward: {bad} of {reward.numel()} values are NaN or infinite; drop these rows of the log")


def check_fraction(value: PerRun, name: str) -> None:
    """Reject a share of rows outside (0, 1]."""
    fractions = torch.as_tensor(value)
    if not ((fractions > 0) & (fractions <= 1)).all():  # also catches NaN
        raise ValueError(f"{name}: {value} must lie in (0, 1]; 1 keeps all rows, 0.05 the best twentieth")


def check_positive(value: PerRun, name: str) -> None:
    """Reject a temperature, a scale or a clip that is no positive number."""
    numbers = torch.as_tensor(value)
    if not ((numbers > 0) & torch.isfinite(numbers)).all():
        raise ValueError(f"{name}: {value} must be positive and finite; try 0.1")


def per_run(value: PerRun, rows: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """A number, or one per run, ready to meet a tensor with rows as its last axis."""
    numbers = torch.as_tensor(value, dtype=rows.dtype, device=rows.device)
    return numbers.unsqueeze(-1) if numbers.ndim else numbers


def _same_shape(log_prob: Tensor, other: Tensor) -> None:
    if log_prob.shape != other.shape:
        raise ValueError(
            f"log_prob: shape {tuple(log_prob.shape)} differs from {tuple(other.shape)} of the rewards; give one "
            "log-probability per row"
        )


def _ceil(mass: float) -> int:
    """Rows needed to hold a mass; 1e-9 against 0.6 · 5 = 3.0000000000000004."""
    return max(1, math.ceil(mass - 1e-9))
