"""Chapter 13's learners: every method as a short class, and one loop that trains many runs of one method at once.

A *run* is a seed, a log and hyper-parameters of its own. Runs are stacked: weights are `[runs, in, out]`, rows
`[runs, rows, …]`, nothing mixes them, and the result is that of training one after the other (tested). A learner turns
a batch into one loss per run; `knobs` are its hyper-parameters, one row per run, and `grid` the six settings from which
it is tuned. Methods and equations are in `reclib.objectives`.

Our choices: values $V(s)$ and critics $Q(s,a)$ have the policy's sizes and Adam's same rate; CRR draws four actions, as
its paper does, where the policy is Gaussian, and takes the exact mean where it is a softmax; BPPO clones for the first
half of the steps, and then looks `LOOKS // 2` times whether the critic likes the policy better than π_k, and if so
replaces it.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn
from tqdm.auto import tqdm

from reclib.objectives import drpo, offline

Knobs = Float[Tensor, "runs knobs"]
LOOKS = 20  # looks of BPPO at its π_k if it improved all the time: one every 250 of 5,000 steps, however long the run
RECENT = 20  # batches that a watch sees: the best 5 % of a single one are 16 rows, and their make-up is mostly chance
# Added to a run's seed, so that its world (shift 0), networks, batches and draws share no random numbers.
SHIFT = {"value": 1_000_003, "critic": 2_000_003, "policy": 3_000_003, "batches": 4_000_003, "actions": 5_000_003}

# ------------------------------------------------------------------ stacked networks and policies


class StackedMLP(nn.Module):
    """Layers of weights for every run, with ReLU between; run r is initialised as `nn.Linear` is under its own seed."""

    def __init__(self, sizes: Sequence[int], seeds: Sequence[int]) -> None:
        super().__init__()
        nets = []
        for seed in seeds:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                nets.append([nn.Linear(a, b) for a, b in pairwise(sizes)])
        layers = list(zip(*nets, strict=True))
        self.weights = nn.ParameterList(torch.stack([net.weight.detach().T for net in layer]) for layer in layers)
        self.biases = nn.ParameterList(torch.stack([net.bias.detach()[None] for net in layer]) for layer in layers)

    def forward(self, x: Float[Tensor, "runs rows in"]) -> Float[Tensor, "runs rows out"]:
        """All runs at once."""
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.baddbmm(bias, x.relu() if i else x, weight)
        return x


class GaussianActor(nn.Module):
    """The paper's policy for every run, with a value and a critic for the methods that need them."""

    def __init__(
        self, state: int, dim: int, seeds: Sequence[int], networks: Sequence[str], config: drpo.DRPOConfig
    ) -> None:
        super().__init__()
        xi = torch.full((len(seeds), 1, dim), config.log_sigma)
        net = StackedMLP((state, config.hidden, dim), _shifted(seeds, "policy"))
        self.policy = drpo.GaussianPolicy(net, xi)
        self.critics = _critics(networks, (state, state + dim), (1, 1), config.hidden, seeds)

    def log_prob(
        self, state: Float[Tensor, "runs rows state"], action: Float[Tensor, "runs rows dim"]
    ) -> Float[Tensor, "runs rows"]:
        """log π(a | s)."""
        return self.policy.log_prob(state, action)

    def remoteness(self, log_prob: Float[Tensor, "runs rows"]) -> Float[Tensor, "runs rows"]:
        """Squared Mahalanobis distance, read off the log-probability: log π = -D/2 - Σξ - d log(2π)/2."""
        xi = self.policy.xi
        return -2 * (log_prob + xi.sum(-1) + xi.shape[-1] * drpo.HALF_LOG_2PI).detach()

    @torch.no_grad()
    def draw(self, state: Float[Tensor, "runs rows state"], noise: Noise) -> Float[Tensor, "runs rows dim"]:
        """One action per state."""
        mu = self.policy(state)
        drawn: Tensor = mu + self.policy.xi.exp() * noise.normal(mu.shape[1:])
        return drawn

    def value(self, state: Float[Tensor, "runs rows state"]) -> Float[Tensor, "runs rows"]:
        """V(s), or ν(s)."""
        v: Tensor = self.critics["value"](state)
        return v[..., 0]

    def q(
        self, state: Float[Tensor, "runs rows state"], action: Float[Tensor, "runs rows dim"]
    ) -> Float[Tensor, "runs rows"]:
        """Q(s, a)."""
        q: Tensor = self.critics["critic"](torch.cat([state, action], -1))
        return q[..., 0]

    @torch.no_grad()
    def q_policy(self, state: Float[Tensor, "runs rows state"], noise: Noise) -> Float[Tensor, "runs rows"]:
        """The mean of Q over four actions of the policy."""
        return torch.stack([self.q(state, self.draw(state, noise)) for _ in range(4)]).mean(0)


class SoftmaxActor(nn.Module):
    """A softmax over items for every run, log π ∝ f(s)ᵀ y_i with what is known of the item, y; the same interface."""

    def __init__(
        self,
        state: int,
        items: Float[Tensor, "runs items features"],
        seeds: Sequence[int],
        networks: Sequence[str],
        config: drpo.DRPOConfig,
    ) -> None:
        super().__init__()
        self.items = items
        width = items.shape[-1]
        self.net = StackedMLP((state, config.hidden, width), _shifted(seeds, "policy"))
        self.critics = _critics(networks, (state, state), (1, width), config.hidden, seeds)

    def log_policy(self, state: Float[Tensor, "runs rows state"]) -> Float[Tensor, "runs rows items"]:
        """Log-probability of every item."""
        logits: Tensor = self.net(state) @ self.items.mT
        return logits.log_softmax(-1)

    def q_table(self, state: Float[Tensor, "runs rows state"]) -> Float[Tensor, "runs rows items"]:
        """Q of every item."""
        table: Tensor = self.critics["critic"](state) @ self.items.mT
        return table

    def log_prob(
        self, state: Float[Tensor, "runs rows state"], action: Int[Tensor, "runs rows"]
    ) -> Float[Tensor, "runs rows"]:
        """log π(a | s)."""
        return self.log_policy(state).gather(-1, action[..., None])[..., 0]

    def remoteness(self, log_prob: Float[Tensor, "runs rows"]) -> Float[Tensor, "runs rows"]:
        """D = -log π."""
        return drpo.remoteness(log_prob)

    @torch.no_grad()
    def draw(self, state: Float[Tensor, "runs rows state"], noise: Noise) -> Int[Tensor, "runs rows"]:
        """One item per state: Gumbel's maximum."""
        log_policy = self.log_policy(state)
        uniform = noise.uniform(log_policy.shape[1:]).clamp(1e-12, 1 - 1e-7)
        return (log_policy - (-uniform.log()).log()).argmax(-1)

    def value(self, state: Float[Tensor, "runs rows state"]) -> Float[Tensor, "runs rows"]:
        """V(s), or ν(s)."""
        v: Tensor = self.critics["value"](state)
        return v[..., 0]

    def q(
        self, state: Float[Tensor, "runs rows state"], action: Int[Tensor, "runs rows"]
    ) -> Float[Tensor, "runs rows"]:
        """Q(s, a)."""
        return self.q_table(state).gather(-1, action[..., None])[..., 0]

    @torch.no_grad()
    def q_policy(self, state: Float[Tensor, "runs rows state"], noise: Noise) -> Float[Tensor, "runs rows"]:
        """The exact mean of Q under the policy."""
        return (self.log_policy(state).exp() * self.q_table(state)).sum(-1)


Actor = GaussianActor | SoftmaxActor


def _critics(
    networks: Sequence[str], inputs: tuple[int, int], outputs: tuple[int, int], hidden: int, seeds: Sequence[int]
) -> nn.ModuleDict:
    """Weights of a critic do not depend on which other networks there are."""
    known = dict(zip(("value", "critic"), zip(inputs, outputs, strict=True), strict=True))
    return nn.ModuleDict(
        {name: StackedMLP((known[name][0], hidden, known[name][1]), _shifted(seeds, name)) for name in networks}
    )


def _shifted(seeds: Sequence[int], stream: str) -> list[int]:
    return [seed + SHIFT[stream] for seed in seeds]


class Noise:
    """Random numbers of every run from a stream of its own: for its "batches", or for the "actions" it draws."""

    def __init__(self, seeds: Sequence[int], stream: str = "actions") -> None:
        self.streams = [torch.Generator().manual_seed(seed) for seed in _shifted(seeds, stream)]

    def uniform(self, shape: Sequence[int]) -> Float[Tensor, "runs *shape"]:
        """In [0, 1)."""
        return torch.stack([torch.rand(*shape, generator=g) for g in self.streams])

    def normal(self, shape: Sequence[int]) -> Float[Tensor, "runs *shape"]:
        """Standard normal."""
        return torch.stack([torch.randn(*shape, generator=g) for g in self.streams])


# ------------------------------------------------------------------ logs


class Rows(NamedTuple):
    """Logged decisions of every run: a whole log or a batch of it."""

    state: Float[Tensor, "runs rows state"]
    action: Shaped[Tensor, "runs rows *dim"]  # an embedding, or the number of an item
    reward: Float[Tensor, "runs rows"]
    good: Bool[Tensor, "runs rows"]  # hidden truth: the expert decided
    online: Bool[Tensor, "runs rows"] | None = None  # drawn by the policy itself, in a mixed stream

    def at(self, index: Int[Tensor, "runs some"]) -> Rows:
        """Some rows of every run."""
        run = torch.arange(len(index))[:, None]
        return self.map(lambda table: table[run, index])

    def map(self, change: Callable[[Tensor], Tensor]) -> Rows:
        """The same change to every table."""
        online = None if self.online is None else change(self.online)
        return Rows(change(self.state), change(self.action), change(self.reward), change(self.good), online)


class Batches:
    """Batches drawn with replacement from the rows that a learner keeps."""

    def __init__(self, log: Rows, keep: Bool[Tensor, "runs rows"] | None, size: int, noise: Noise) -> None:
        self.log, self.size, self.noise = log, size, noise
        runs, rows = log.reward.shape
        self.order = torch.arange(rows).expand(runs, rows)
        self.count = torch.full((runs, 1), rows)
        if keep is not None:
            self.order = (~keep).to(torch.uint8).argsort(dim=1, stable=True)
            self.count = keep.sum(1, keepdim=True)
            if (self.count == 0).any():
                raise ValueError("keep: a run has no row left to learn from; keep a larger share")

    def draw(self) -> Rows:
        """The next batch of every run."""
        place = (self.noise.uniform((self.size,)) * self.count).long()
        return self.log.at(self.order.gather(1, place))


# ------------------------------------------------------------------ the learners


class Moment(NamedTuple):
    """What a learner sees of one step."""

    actor: Actor
    rows: Rows
    log_prob: Float[Tensor, "runs rows"]  # of the logged actions, with a gradient
    noise: Noise
    step: int
    steps: int


# A learner is a class with `grid`, the knobs it is tuned over, and `networks` that it needs beside the policy. An
# instance, made for the knobs of all runs, turns a `Moment` into a loss per run. It may have `keep`, the rows of the
# log that are used at all, and `admits`, the rows of a batch that its filter lets through.


class Plain:
    """Nothing to tune."""

    grid: ClassVar[tuple[tuple[float, ...], ...]] = ((),)
    networks: ClassVar[tuple[str, ...]] = ()

    def __init__(self, knobs: Knobs) -> None:
        self.knobs = knobs


class BC(Plain):
    """Behaviour cloning."""

    def __call__(self, m: Moment) -> Float[Tensor, "runs"]:
        """Imitate all rows."""
        return offline.bc_loss(m.log_prob)


class Oracle(BC):
    """Clones the expert's rows alone, which nobody can know: a filter on who decided instead of on rewards.

    No strict ceiling: there are few such rows, and chance has good ones too.
    """

    def keep(self, log: Rows) -> Bool[Tensor, "runs rows"]:
        """The truth."""
        return log.good


class PercentBC(BC):
    """%BC: clones the best share of the log."""

    grid = ((0.02,), (0.05,), (0.1,), (0.2,), (0.3,), (0.5,))

    def keep(self, log: Rows) -> Bool[Tensor, "runs rows"]:
        """The best rows of every run."""
        return drpo.top_rows(log.reward, self.knobs[:, 0]).mask


class APG(Plain):
    """The policy gradient on the log, with a mean baseline."""

    def __call__(self, m: Moment) -> Float[Tensor, "runs"]:
        """Attraction and repulsion of equal mass."""
        return offline.apg_loss(m.log_prob, m.rows.reward)


class FilteredAPG(Plain):
    """Our reading of the paper's "hard filter without soft base": APG inside the filtered batch."""

    def __init__(self, knobs: Knobs) -> None:
        super().__init__(knobs)
        self.fraction = torch.full((len(knobs),), 0.5, dtype=torch.float64)

    def __call__(self, m: Moment) -> Float[Tensor, "runs"]:
        """The mean of the top is the baseline, so that the worse half of the top repels."""
        top = drpo.top_rows(m.rows.reward, self.fraction)
        self.fraction = drpo.adaptive_fraction(self.fraction, m.rows.reward)
        advantage = torch.where(top.mask, m.rows.reward - top.mean, 0)
        return -(advantage * m.log_prob / top.size).sum(-1)


def _fit(m: Moment) -> tuple[Float[Tensor, "runs"], Float[Tensor, "runs rows"]]:
    """Loss of the value, E[r | s] by least squares, and the value, detached."""
    value = m.actor.value(m.rows.state)
    return (value - m.rows.reward).square().mean(-1), value.detach()


class AWR:
    """Advantage-weighted regression: β."""

    grid = ((0.02,), (0.05,), (0.1,), (0.2,), (0.5,), (1.0,))
    networks = ("value",)

    def __init__(self, knobs: Knobs) -> None:
        self.beta = knobs[:, 0]

    def __call__(self, m: Moment) -> Float[Tensor, "runs"]:
        """Weights e^{(r - V)/β}."""
        fit, value = _fit(m)
        return fit + offline.awr_loss(m.log_prob, m.rows.reward, value, self.beta)


class AsymRE:
    """Asymmetric REINFORCE, as its own paper has it: the baseline δ from the value of the logging policy."""

    grid = ((0.0,), (-0.02,), (-0.05,), (-0.1,), (-0.2,), (-0.4,))
    networks = ("value",)

    def __init__(self, knobs: Knobs) -> None:
        self.delta = knobs[:, 0]

    def __call__(self, m: Moment) -> Float[Tensor, "runs"]:
        """Weights r - V - δ."""
        fit, value = _fit(m)
        return fit + offline.asymre_loss(m.log_prob, m.rows.reward, value, self.delta)


class ScaledNegatives:
    """What the DRPO paper calls AsymRE: w⁻ times the negative advantages, mean baseline."""

    grid = ((0.0,), (0.05,), (0.1,), (0.2,), (0.4,), (0.8,))
    networks: ClassVar[tuple[str, ...]] = ()

    def __init__(self, knobs: Knobs) -> None:
        self.w = knobs[:, 0]

    def __call__(self, m: Moment) -> Float[Tensor, "runs"]:
        """ρ = w."""
        advantage = m.rows.reward - m.rows.reward.mean(-1, keepdim=True)
        return offline.scaled_negatives_loss(m.log_prob, advantage, self.w)


class CRR:
    """Critic-regularised regression with exponential weights: β."""

    grid = ((0.02,), (0.05,), (0.1,), (0.5,), (1.0,), (5.0,))
    networks = ("critic",)

    def __init__(self, knobs: Knobs) -> None:
        self.beta = knobs[:, 0]

    def __call__(self, m: Moment) -> Float[Tensor, "runs"]:
        """Weights from the critic."""
        q = m.actor.q(m.rows.state, m.rows.action)
        fit = (q - m.rows.reward).square().mean(-1)
        mean = m.actor.q_policy(m.rows.state, m.noise)
        return fit + offline.crr_loss(m.log_prob, q.detach(), mean, self.beta)


class IQL:
    """Implicit Q-learning in a bandit: an expectile of r for V; expectile τ and inverse temperature β."""

    grid = ((0.5, 3.0), (0.7, 3.0), (0.9, 3.0), (0.7, 10.0), (0.9, 10.0), (0.9, 30.0))
    networks = ("value",)

    def __init__(self, knobs: Knobs) -> None:
        self.tau, self.beta = knobs[:, 0], knobs[:, 1]

    def __call__(self, m: Moment) -> Float[Tensor, "runs"]:
        """Weights e^{β(r - V)}."""
        value = m.actor.value(m.rows.state)
        fit = offline.expectile_loss(value, m.rows.reward, self.tau)
        return fit + offline.iql_loss(m.log_prob, m.rows.reward, value.detach(), self.beta)


class BPPO:
    """Behaviour proximal policy optimisation: clip range ε and weight ω of positive advantages."""

    grid = ((0.1, 0.9), (0.2, 0.9), (0.3, 0.9), (0.1, 0.5), (0.2, 0.5), (0.3, 0.5))
    networks = ("value", "critic")

    def __init__(self, knobs: Knobs) -> None:
        self.epsilon, self.omega = knobs[:, 0], knobs[:, 1]
        self.old: Actor | None = None

    def __call__(self, m: Moment) -> Float[Tensor, "runs"]:
        """Clone first, then PPO on actions that π_k draws and the critic judges."""
        fit, _ = _fit(m)
        q = m.actor.q(m.rows.state, m.rows.action)
        fit = fit + (q - m.rows.reward).square().mean(-1)
        if m.step < m.steps // 2:
            return fit + offline.bc_loss(m.log_prob)
        if self.old is None:
            self.old = copy.deepcopy(m.actor)
        elif m.step % max(m.steps // LOOKS, 1) == 0:
            self._replace(m)
        drawn = self.old.draw(m.rows.state, m.noise)
        with torch.no_grad():
            advantage = m.actor.q(m.rows.state, drawn) - m.actor.value(m.rows.state)
            before = self.old.log_prob(m.rows.state, drawn)
        now = m.actor.log_prob(m.rows.state, drawn)
        return fit + offline.bppo_loss(now, before, advantage, self.epsilon, self.omega)

    @torch.no_grad()
    def _replace(self, m: Moment) -> None:
        """π_k becomes the policy in the runs where the critic values it more highly, on this batch."""
        assert self.old is not None
        new = m.actor.q(m.rows.state, m.actor.draw(m.rows.state, m.noise)).mean(-1)
        old = m.actor.q(m.rows.state, self.old.draw(m.rows.state, m.noise)).mean(-1)
        better = new > old
        for mine, theirs in zip(self.old.parameters(), m.actor.parameters(), strict=True):
            mine[better] = theirs[better]


class AdaptiveBC:
    """The adaptive filter and plain cloning: λ of the control loop."""

    grid = ((0.3,), (0.4,), (0.5,), (0.6,), (0.7,), (0.9,))
    networks: ClassVar[tuple[str, ...]] = ()

    def __init__(self, knobs: Knobs) -> None:
        self.lam = knobs[:, 0]
        self.fraction = torch.full((len(knobs),), drpo.DRPOConfig.fraction, dtype=torch.float64)

    def admits(self, actor: Actor, rows: Rows) -> Bool[Tensor, "runs rows"]:
        """Rows that the filter lets through."""
        return drpo.top_rows(rows.reward, self.fraction).mask

    def loss(self, m: Moment) -> Float[Tensor, "runs"]:
        """Unit weights on the top."""
        return drpo.filtered_bc_loss(m.log_prob, m.rows.reward, self.fraction)

    def __call__(self, m: Moment) -> Float[Tensor, "runs"]:
        """The loss with P as it is; then P moves."""
        loss = self.loss(m)
        self.fraction = drpo.adaptive_fraction(self.fraction, m.rows.reward, self.lam)
        return loss


class DRPO(AdaptiveBC):
    """Algorithm 1: λ of the control loop [.5]."""

    def loss(self, m: Moment) -> Float[Tensor, "runs"]:
        """Weights (r - ν) / std on the top."""
        return drpo.drpo_loss(m.log_prob, m.rows.reward, self.fraction)


class DRPOExp(AdaptiveBC):
    """DRPO-Exp: temperature β [.05]; the control loop as written."""

    grid = ((0.02,), (0.05,), (0.1,), (0.2,), (0.5,), (1.0,))

    def __init__(self, knobs: Knobs) -> None:
        super().__init__(torch.full_like(knobs, drpo.DRPOConfig.lam))
        self.beta = knobs[:, 0]

    def loss(self, m: Moment) -> Float[Tensor, "runs"]:
        """Weights e^{(r - mean)/β} on the top."""
        return drpo.drpo_exp_loss(m.log_prob, m.rows.reward, self.fraction, self.beta)


class NormalisedDRPOExp(DRPOExp):
    """DRPO-Exp with weights that sum to 1 over the top, as the proposition's Q does (our choice).

    As written, the mean weight of a batch at β = .05 is hundreds of times larger while P is on its way down than at the
    floor. Adam's second moment remembers that for thousands of steps (our reading of a pilot in which σ hardly moved).
    """

    def loss(self, m: Moment) -> Float[Tensor, "runs"]:
        """The same weights up to one factor per batch."""
        top = drpo.top_rows(m.rows.reward, self.fraction)
        exponent = (m.rows.reward / self.beta[:, None]).masked_fill(~top.mask, -torch.inf)
        return -(exponent.softmax(-1) * m.log_prob).sum(-1)


class FixedDRPO:
    """DRPO with a fixed share: κ."""

    grid = ((0.02,), (0.05,), (0.1,), (0.2,), (0.4,), (1.0,))
    networks: ClassVar[tuple[str, ...]] = ()

    def __init__(self, knobs: Knobs) -> None:
        self.fraction = knobs[:, 0].double()

    def __call__(self, m: Moment) -> Float[Tensor, "runs"]:
        """The same weights, no control loop."""
        return drpo.drpo_loss(m.log_prob, m.rows.reward, self.fraction)

    def admits(self, actor: Actor, rows: Rows) -> Bool[Tensor, "runs rows"]:
        """Rows that the filter lets through."""
        return drpo.top_rows(rows.reward, self.fraction).mask


class CappedKL:
    """DRPO-Exp as its proposition should read: weights min(1/κ, e^{(R-ℓ)/τ}) on the batch; κ and τ."""

    grid = ((0.05, 0.05), (0.05, 0.1), (0.05, 0.2), (0.2, 0.05), (0.2, 0.1), (0.2, 0.2))
    networks: ClassVar[tuple[str, ...]] = ()

    def __init__(self, knobs: Knobs) -> None:
        self.kappa, self.tau = knobs[:, 0], knobs[:, 1]

    def __call__(self, m: Moment) -> Float[Tensor, "runs"]:
        """No row has weight zero."""
        weights = drpo.capped_exponential_weights(m.rows.reward, self.kappa, self.tau)
        return -(weights * m.log_prob).mean(-1)


class Taper:
    """The follow-up: mean baseline, negatives tapered by remoteness; λ, where the taper begins τ, and its scale c."""

    grid = ((1.0, 0.0, 10.0), (1.0, 10.0, 10.0), (1.0, 30.0, 10.0), (1.0, 0.0, 3.0), (1.0, 10.0, 3.0), (1.0, 0.0, 30.0))
    networks: ClassVar[tuple[str, ...]] = ()

    def __init__(self, knobs: Knobs) -> None:
        self.lam, self.tau, self.c = knobs.T

    def __call__(self, m: Moment) -> Float[Tensor, "runs"]:
        """Keep the negative branch, but not for what is far away already."""
        advantage = m.rows.reward - m.rows.reward.mean(-1, keepdim=True)
        distance = m.actor.remoteness(m.log_prob)
        return drpo.tapered_loss(m.log_prob, advantage, distance, self.lam, self.tau, self.c)


class ScaledTaper:
    """Negatives times ρ, and tapered: for the sweep over the repulsion ratio. ρ, λ (0: no taper), τ, c."""

    grid: ClassVar[tuple[tuple[float, ...], ...]] = ()
    networks: ClassVar[tuple[str, ...]] = ()

    def __init__(self, knobs: Knobs) -> None:
        self.rho, self.lam, self.tau, self.c = knobs.T

    def __call__(self, m: Moment) -> Float[Tensor, "runs"]:
        """ρ is the ratio q/p before the taper, because the baseline is the mean."""
        advantage = m.rows.reward - m.rows.reward.mean(-1, keepdim=True)
        advantage = torch.where(advantage < 0, self.rho[:, None] * advantage, advantage)
        distance = m.actor.remoteness(m.log_prob)
        return drpo.tapered_loss(m.log_prob, advantage, distance, self.lam, self.tau, self.c)


class PositivesOnly(Plain):
    """Rows above the batch mean, cloned with their advantage: what the phantom gradient is measured on."""

    def __call__(self, m: Moment) -> Float[Tensor, "runs"]:
        """No negative row is ever applied."""
        advantage = m.rows.reward - m.rows.reward.mean(-1, keepdim=True)
        return offline.scaled_negatives_loss(m.log_prob, advantage, 0.0)


class ResidualDRPO:
    """DRPO on R - b(s), b a learnt value: users compete with themselves."""

    grid = ((0.5,),)
    networks = ("value",)

    def __init__(self, knobs: Knobs) -> None:
        self.lam = knobs[:, 0]
        self.fraction = torch.full((len(knobs),), drpo.DRPOConfig.fraction, dtype=torch.float64)

    def __call__(self, m: Moment) -> Float[Tensor, "runs"]:
        """Algorithm 1 with residuals in the place of rewards."""
        fit, value = _fit(m)
        residual = m.rows.reward - value
        loss = drpo.drpo_loss(m.log_prob, residual, self.fraction)
        self.fraction = drpo.adaptive_fraction(self.fraction, residual, self.lam)
        return fit + loss

    @torch.no_grad()
    def admits(self, actor: Actor, rows: Rows) -> Bool[Tensor, "runs rows"]:
        """The best surprises."""
        return drpo.top_rows(rows.reward - actor.value(rows.state), self.fraction).mask


class StateDRPO:
    """The dual for every state: ν(s) is learnt by the dual itself; κ."""

    grid = ((0.1,),)
    networks = ("value",)

    def __init__(self, knobs: Knobs) -> None:
        self.kappa = float(knobs[0, 0])
        if not (knobs[:, 0] == knobs[0, 0]).all():
            raise ValueError("knobs: runs stacked for StateDRPO must share one kappa; train others apart")

    def __call__(self, m: Moment) -> Float[Tensor, "runs"]:
        """Weights (R - ν(s))⁺."""
        nu = m.actor.value(m.rows.state)
        fit = drpo.dual_objective(nu, m.rows.reward, self.kappa).mean(-1)
        return fit - drpo.optimistic_objective(m.log_prob, m.rows.reward, nu.detach(), self.kappa)

    @torch.no_grad()
    def admits(self, actor: Actor, rows: Rows) -> Bool[Tensor, "runs rows"]:
        """Every state's own best rows."""
        return rows.reward > actor.value(rows.state)


# ------------------------------------------------------------------ one loop for all


Watch = Callable[[int, Actor, Any, Sequence[Rows]], None]  # steps done, policy, learner, the last batches
Mix = Callable[[int, Actor, Rows, Noise], Rows]  # step, policy, a batch of the log, random numbers → the batch to use


def train(
    actor: Actor,
    learner: Any,
    log: Rows,
    seeds: Sequence[int],
    config: drpo.DRPOConfig,
    *,
    watch: Watch | None = None,
    every: int = 250,
    mix: Mix | None = None,
    progress: bool = True,
    name: str = "steps",
) -> None:
    """Train the actor in place, all runs at once.

    Args:
        log: one log per run.
        seeds: of the batches, one per run.
        watch: called before the first step and after every `every` steps, and after the last.
        mix: changes a batch before it is used, for a stream that is partly the policy's own.
        name: of the progress bar.
    """
    noise = Noise(seeds, "actions")  # apart from the batches, so that all arms see the same batches
    keep = learner.keep(log) if hasattr(learner, "keep") else None
    batches = Batches(log, keep, config.batch_size, Noise(seeds, "batches"))
    recent: deque[Rows] = deque(maxlen=RECENT)
    optimizer = torch.optim.Adam(actor.parameters(), lr=config.lr, fused=True)
    if watch is not None:
        watch(0, actor, learner, ())
    for step in tqdm(range(config.steps), disable=not progress, desc=name, leave=False):
        rows = batches.draw()
        if mix is not None:
            rows = mix(step, actor, rows, noise)
        recent.append(rows)
        log_prob = actor.log_prob(rows.state, rows.action)
        loss = learner(Moment(actor, rows, log_prob, noise, step, config.steps))
        optimizer.zero_grad()
        torch.autograd.backward(loss.sum())
        optimizer.step()
        if watch is not None and ((step + 1) % every == 0 or step + 1 == config.steps):
            watch(step + 1, actor, learner, recent)
