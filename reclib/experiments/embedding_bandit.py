r"""Items as vectors, a policy that puts out a vector: our small replica of the simulator of the DRPO paper.

The authors' "RecSim" (no relation to Google's) was not released; what their text says is kept, the rest is our choice.

    items     20 unit cluster centres; item = centre + .25 ξ, normalised; 2,000 of them in R^d, d = 10 (theirs: 10 in
              the training section, 128 in the description)
    users     s ~ N(0, I);  u* = normalise(tanh(sW) Wᵀ), W_ij ~ N(0, 1/d)
    reward    R_latent = exp(-(1 - cos(e_a, u*)) / (2δ²)), δ = .45;  R_obs = clip(R_latent + N(0, σ²), 0, 1)
    log       expert: uniform among the user's 5 best items; suboptimal: among the 300 best; random: among all
    judged    on users of their own: the item nearest to the mean action, its latent reward

Items have length 1, so the nearest item is the one with the largest product. Two dials make users *unequal* (ours):
where s_1 < 0 a user is stingy, and

    R(s, a) = (1 - offset) · R_latent · (scale if stingy else 1) + (0 if stingy else offset).

Stacked: a leading axis of runs, each a world of its own. Worlds of one seed share items, users and all random numbers,
whatever the mixture, so that a sweep changes nothing but what it sweeps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from reclib.experiments.offline_learners import Actor, Mix, Noise, Rows


@dataclass(frozen=True)
class BanditConfig:
    """Sizes and dials; the paper's value in brackets, where it has one."""

    expert: float = 0.1  # share of rows logged by the expert [Medium .1, Extreme .05]
    suboptimal: float = 0.6  # … by the suboptimal policy; the rest is random [.6, .05]
    dim: int = 10  # d [10 and 128]
    clusters: int = 20
    items: int = 2000
    spread: float = 0.25
    users: int = 18_000  # logged, one row each
    test_users: int = 2000
    delta: float = 0.45
    reward_noise: float = 0.1  # σ
    best: int = 5  # items that the expert chooses from
    good: int = 300  # items that the suboptimal policy chooses from
    scale: float = 1.0  # of a stingy user's rewards
    offset: float = 0.0  # added to a generous user's rewards

    def __post_init__(self) -> None:
        if min(self.expert, self.suboptimal) < 0 or self.expert + self.suboptimal > 1 + 1e-9:
            raise ValueError(
                f"expert: {self.expert} and suboptimal: {self.suboptimal} are shares; they must not be negative nor "
                "sum to more than 1"
            )


MEDIUM = BanditConfig()
EXTREME = BanditConfig(expert=0.05, suboptimal=0.05)


class Worlds(NamedTuple):
    """A stack of worlds: the log and what is needed to judge a policy."""

    log: Rows
    item: Float[Tensor, "runs items dim"]
    test_state: Float[Tensor, "runs users dim"]
    target: Float[Tensor, "runs users dim"]  # u* of the test users
    weight: Float[Tensor, "runs dim dim"]  # W, which makes u* out of s
    configs: tuple[BanditConfig, ...]

    def latent(
        self, state: Float[Tensor, "runs some dim"], item: Int[Tensor, "runs some"]
    ) -> Float[Tensor, "runs some"]:
        """Relevance of items to users, in (0, 1]: the reward without noise, scale and offset."""
        run = torch.arange(len(item))[:, None]
        cosine = (self.item[run, item] * wants(state, self.weight)).sum(-1)
        delta = torch.tensor([config.delta for config in self.configs])[:, None]
        return relevance(cosine, delta)

    def nearest(self, action: Float[Tensor, "runs some dim"]) -> Int[Tensor, "runs some"]:
        """The item that is shown for an action; run by run, for its products are large."""
        best: Tensor = torch.stack([(a @ e.mT).argmax(-1) for a, e in zip(action, self.item, strict=True)])
        return best


def wants(state: Float[Tensor, "*runs users dim"], weight: Float[Tensor, "*runs dim dim"]) -> Tensor:
    """u*, of length 1."""
    return torch.nn.functional.normalize((state @ weight).tanh() @ weight.mT, dim=-1)


def relevance(cosine: Float[Tensor, "*shape"], delta: float | Float[Tensor, "..."]) -> Float[Tensor, "*shape"]:
    """R_latent of a cosine."""
    return (-(1 - cosine) / (2 * delta**2)).exp()


def earns(
    latent: Float[Tensor, "*shape"],
    stingy: Bool[Tensor, "*shape"],
    noise: Float[Tensor, "*shape"],
    config: BanditConfig,
) -> Float[Tensor, "*shape"]:
    """R_obs: what the log says about an item of this relevance."""
    reward = (1 - config.offset) * latent * torch.where(stingy, config.scale, 1.0)
    reward = reward + torch.where(stingy, 0.0, config.offset)
    return (reward + config.reward_noise * noise).clamp(0, 1)


def make_worlds(configs: Sequence[BanditConfig], seeds: Sequence[int]) -> Worlds:
    """One world per pair of configuration and seed."""
    parts = [_one(config, seed) for config, seed in zip(configs, seeds, strict=True)]
    state, action, reward, good, item, test_state, target, weight = (
        torch.stack(tables) for tables in zip(*parts, strict=True)
    )
    return Worlds(Rows(state, action, reward, good), item, test_state, target, weight, tuple(configs))


def _one(config: BanditConfig, seed: int) -> tuple[Tensor, ...]:
    g = torch.Generator().manual_seed(seed)
    d, n = config.dim, config.users
    weight = torch.randn(d, d, generator=g) / d**0.5
    centre = torch.nn.functional.normalize(torch.randn(config.clusters, d, generator=g), dim=-1)
    which = torch.randint(config.clusters, (config.items,), generator=g)
    item = centre[which] + config.spread * torch.randn(config.items, d, generator=g)
    item = torch.nn.functional.normalize(item, dim=-1)
    state = torch.randn(n + config.test_users, d, generator=g)
    target = wants(state, weight)
    decides, place = torch.rand(n, generator=g), torch.rand(n, generator=g)
    noise = torch.randn(n, generator=g)
    chosen = (place * config.items).long()  # the random policy
    expert = decides < config.expert
    suboptimal = ~expert & (decides < config.expert + config.suboptimal)
    for rows, pool in ((expert, config.best), (suboptimal, config.good)):
        index = rows.nonzero()[:, 0]
        for first in range(0, len(index), 2000):
            part = index[first : first + 2000]
            ranked = (target[part] @ item.T).topk(pool, dim=1).indices
            chosen[part] = ranked.gather(1, (place[part] * pool).long()[:, None])[:, 0]
    latent = relevance((item[chosen] * target[:n]).sum(-1), config.delta)
    reward = earns(latent, state[:n, 0] < 0, noise, config)
    return state[:n], item[chosen], reward, expert, item, state[n:], target[n:], weight


def half_online(worlds: Worlds, after: int) -> Mix:
    """From step `after` on, half of every batch is the policy's own: new users, drawn actions, noisy rewards.

    The action is what the policy drew, not the item's vector: the gradient of a policy is about its own draws, and the
    search for the nearest item belongs to the environment (our choice).
    """
    config = worlds.configs[0]

    def mix(step: int, actor: Actor, rows: Rows, noise: Noise) -> Rows:
        runs, size, dim = rows.state.shape
        half = size // 2
        online = torch.zeros(runs, size, dtype=torch.bool)
        if step < after:
            return rows._replace(online=online)
        state = noise.normal((half, dim))
        action = actor.draw(state, noise)
        latent = worlds.latent(state, worlds.nearest(action))
        reward = earns(latent, state[..., 0] < 0, noise.normal((half,)), config)
        online[:, :half] = True
        old = rows.map(lambda table: table[:, half:])
        return Rows(
            torch.cat([state, old.state], dim=1),
            torch.cat([action, old.action], dim=1),
            torch.cat([reward, old.reward], dim=1),
            torch.cat([torch.zeros(runs, half, dtype=torch.bool), old.good], dim=1),
            online,
        )

    return mix
