r"""A bandit over ads in the ad world whose expected rewards, gradients and divergences are sums.

A context is a user, an action is a *page* of up to `slots` ads, each drawn from the slot's own candidates; a page of
several slots may stop early. One ad is a page of one slot. The policy is a softmax that is linear in what is known of
user and ad,

    P(ad a in slot t | u) ∝ exp(x_uᵀ W y_uta),     P(stop in slot t | u) ∝ exp(x_uᵀ w),

and does not look at the ads chosen before, so `expected_reward` is exact and the truth needs no sampling. Everything
carries a leading axis of *seeds*: other users, other candidates, other draws, all computed at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from reclib.world import AdWorld, AdWorldConfig

# ------------------------------------------------------------------ users, ads, policies


@dataclass(frozen=True)
class AdBandit:
    """Users, candidate ads and the truth about them, for a stack of seeds."""

    user: Float[Tensor, "seeds users user_features"]  # x, what the platform knows of a user
    ad: Float[Tensor, "seeds users slots ads ad_features"]  # y, what it knows of a candidate for this user
    click: Float[Tensor, "seeds users slots ads"]  # click probability
    value: Float[Tensor, "seeds users slots ads"]  # reward of a click
    bid: Float[Tensor, "seeds users slots ads"]  # what the advertiser pays for a click, the mean ad's bid = 1
    tap: Float[Tensor, "seeds users slots ads"]  # probability of an accidental tap, for which nobody pays
    item: Int[Tensor, "seeds users slots ads"]  # the ad's number in the world
    cost: float = 0.0  # reward lost per ad shown: the user's patience
    noisy: bool = True  # the reward is drawn (click or no click); False: it is its expectation
    may_stop: bool = True  # a page of several slots may end early

    def at(self, rows: Int[Tensor, "seeds batch"]) -> AdBandit:
        """Some users of each seed, in any order, any number of times."""
        seed = torch.arange(len(self.user))[:, None]
        return replace(self, **{name: getattr(self, name)[seed, rows] for name in TABLES})

    def seeds(self, index: Int[Tensor, "stack"]) -> AdBandit:
        """Some of the seeds, in any order, any number of times."""
        return replace(self, **{name: getattr(self, name)[index] for name in TABLES})

    @property
    def stops(self) -> bool:
        """Whether "stop" is one of the actions, the last."""
        return self.may_stop and self.slots > 1

    @property
    def slots(self) -> int:
        """Ads on a full page; 1 is the plain bandit."""
        return self.click.shape[2]

    @property
    def reward(self) -> Float[Tensor, "seeds users slots ads"]:
        """Expected reward of showing one ad."""
        return self.click * self.value - self.cost


TABLES = ("user", "ad", "click", "value", "bid", "tap", "item")


class Policy(NamedTuple):
    """The weights of a stack of policies, one per seed. All zeros is the uniform policy."""

    ads: Float[Tensor, "seeds user_features ad_features"]  # W
    stop: Float[Tensor, "seeds user_features"]  # w; unused with one slot


def uniform_policy(bandit: AdBandit) -> Policy:
    """All weights zero: every candidate, and stopping, equally likely."""
    seeds, _, features = bandit.user.shape
    return Policy(bandit.user.new_zeros(seeds, features, bandit.ad.shape[-1]), bandit.user.new_zeros(seeds, features))


def log_policy(bandit: AdBandit, policy: Policy) -> Float[Tensor, "seeds users slots actions"]:
    """Log-probability of every action in every slot.

    Where the page may end early there is one action more than ads, the last: stop.
    """
    wanted = bandit.user @ policy.ads  # [seeds, users, ad_features]: the ad this user would like best
    logits = torch.einsum("suf,sutkf->sutk", wanted, bandit.ad)
    if bandit.stops:
        stop = torch.einsum("suf,sf->su", bandit.user, policy.stop)
        logits = torch.cat([logits, stop[:, :, None, None].expand(-1, -1, bandit.slots, 1)], dim=-1)
    return logits.log_softmax(-1)


def reach(bandit: AdBandit, log_prob: Float[Tensor, "seeds users slots actions"]) -> Float[Tensor, "seeds users slots"]:
    """Probability that the page gets as far as each slot."""
    if not bandit.stops:
        return torch.ones_like(log_prob[..., 0])
    stay = 1 - log_prob[..., -1].exp()
    return torch.cat([torch.ones_like(stay[..., :1]), stay[..., :-1].cumprod(-1)], dim=-1)


def expected_reward(
    bandit: AdBandit, log_prob: Float[Tensor, "seeds users slots actions"]
) -> Float[Tensor, "seeds users"]:
    """Exact expected reward of a page for every user; `log_prob` is that of all users."""
    ads = bandit.click.shape[-1]
    per_slot = (log_prob[..., :ads].exp() * bandit.reward).sum(-1)
    return (reach(bandit, log_prob) * per_slot).sum(-1)


def kl_to(bandit: AdBandit, policy: Policy, reference: Policy) -> Float[Tensor, "seeds"]:
    """Exact KL(policy ‖ reference) per page, mean over users."""
    log_prob, log_ref = log_policy(bandit, policy), log_policy(bandit, reference)
    per_slot = (log_prob.exp() * (log_prob - log_ref)).sum(-1)
    return (reach(bandit, log_prob) * per_slot).sum(-1).mean(1)


def between(start: Policy, end: Policy, share: Float[Tensor, "seeds"]) -> Policy:
    """The policy that is `share` of the way from one to another, in weights."""
    return Policy(
        torch.lerp(start.ads, end.ads, share[:, None, None]), torch.lerp(start.stop, end.stop, share[:, None])
    )


def move_by_kl(bandit: AdBandit, start: Policy, end: Policy, nats: Float[Tensor, "seeds"]) -> Policy:
    """The policy on the way from one to another whose KL(policy ‖ start) is `nats`, by bisection."""
    low, high = torch.zeros(len(start.ads)), torch.ones(len(start.ads))
    for _ in range(30):
        middle = (low + high) / 2
        near = kl_to(bandit, between(start, end, middle), start) < nats
        low, high = torch.where(near, middle, low), torch.where(near, high, middle)
    return between(start, end, (low + high) / 2)


class Pages(NamedTuple):
    """A batch: for each user drawn a group of pages, and what they earned."""

    users: AdBandit  # the users drawn
    action: Int[Tensor, "seeds groups size slots"]
    mask: Bool[Tensor, "seeds groups size slots"]  # False after stop
    log_prob: Float[Tensor, "seeds groups size slots"]  # under the policy that drew them
    reward: Float[Tensor, "seeds groups size"]

    def at(self, rows: Int[Tensor, "seeds some"]) -> Pages:
        """Some of the groups of each seed."""
        seed = torch.arange(len(rows))[:, None]
        return Pages(self.users.at(rows), *(x[seed, rows] for x in self[1:]))

    def log_policy(self, policy: Policy) -> Float[Tensor, "seeds groups size slots"]:
        """Log-probability of the actions taken, under another policy."""
        return _of_action(log_policy(self.users, policy), self.action)


@torch.no_grad()
def sample_pages(bandit: AdBandit, policy: Policy, groups: int, size: int, generator: torch.Generator) -> Pages:
    """Draw `groups` users per seed, with replacement, and `size` pages for each."""
    seeds, users, slots, ads = bandit.click.shape
    drawn = bandit.at(torch.randint(users, (seeds, groups), generator=generator))
    log_prob = log_policy(drawn, policy)
    action = torch.multinomial(log_prob.exp().flatten(0, 2), size, replacement=True, generator=generator)
    action = action.reshape(seeds, groups, slots, size).transpose(-1, -2)
    stopped = action == ads
    mask = stopped.cumsum(-1) - stopped.long() == 0  # up to and including the first stop
    nothing = drawn.click.new_zeros(seeds, groups, slots, 1)  # what stop earns
    click, value = (_of_action(torch.cat([table, nothing], dim=-1), action) for table in (drawn.click, drawn.value))
    if bandit.noisy:
        click = torch.bernoulli(click, generator=generator)
    reward = ((click * value - bandit.cost) * (mask & ~stopped)).sum(-1)
    return Pages(drawn, action, mask, _of_action(log_prob, action), reward)


def _of_action(
    table: Float[Tensor, "seeds groups slots actions"], action: Int[Tensor, "seeds groups size slots"]
) -> Float[Tensor, "seeds groups size slots"]:
    return table.gather(-1, action.transpose(-1, -2)).transpose(-1, -2)


# ------------------------------------------------------------------ the truth as a ruler


def follow(bandit: AdBandit, snapshots: Sequence[Policy]) -> Float[Tensor, "snapshots seeds"]:
    """Exact expected reward per page, mean over users, of each policy."""
    return torch.stack([expected_reward(bandit, log_policy(bandit, policy)).mean(1) for policy in snapshots])


def climb(bandit: AdBandit, updates: int, lr: float = 0.05, every: int = 2) -> list[Policy]:
    """Train on the exact gradient of the expected reward: the ruler by which every learner is measured."""
    weights = Policy(*(w.requires_grad_() for w in uniform_policy(bandit)))
    optimizer = torch.optim.Adam(weights, lr=lr)
    snapshots = []
    for update in range(updates + 1):
        if update % every == 0:
            snapshots.append(Policy(*(w.detach().clone() for w in weights)))
        optimizer.zero_grad()
        loss = -expected_reward(bandit, log_policy(bandit, weights)).mean(1).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return snapshots


class Scale(NamedTuple):
    """0 is the uniform policy, 1 the end of the climb on the exact gradient."""

    uniform: Float[Tensor, "seeds"]  # expected reward of the uniform policy
    best: Float[Tensor, "seeds"]  # and at the end of the climb
    half: Policy  # the first snapshot past half of the way
    top: Policy  # the end

    def gain(self, reward: Float[Tensor, "*snapshots seeds"]) -> Float[Tensor, "*snapshots seeds"]:
        """Expected reward on this scale."""
        return (reward - self.uniform) / (self.best - self.uniform)


def scale_of(bandit: AdBandit, updates: int) -> Scale:
    """Climb the exact gradient; remember where it began, where it ended, and the policy half-way."""
    climbed = climb(bandit, updates)
    reward = follow(bandit, climbed)
    half_way = (reward - reward[0] >= 0.5 * (reward[-1] - reward[0])).float().argmax(0)
    seed = torch.arange(len(half_way))
    half = Policy(*(torch.stack(weights)[half_way, seed] for weights in zip(*climbed, strict=True)))
    return Scale(reward[0], reward[-1], half, climbed[-1])


# ------------------------------------------------------------------ the ad world as a bandit


@cache
def ad_world(preset: str) -> AdWorld:
    """The world all seeds share; a seed chooses users and candidates in it."""
    return AdWorld(AdWorldConfig.preset(preset))


TAP_FACTOR = 3.0  # a video ad is tapped by accident at this many times the user's own rate of accidental clicks
SCORE_NOISE = 3.0  # standard deviation of the error of the retrieval score, in logits


def ad_bandit(world: AdWorld, seeds: Sequence[int], *, users: int, slots: int, ads: int) -> AdBandit:
    """Users of the world at the end of their log, with candidates for each slot, as a stack of bandits.

    Half of a slot's candidates come from a good retrieval step (drawn in proportion to the click probability), the
    rest are fillers (drawn in proportion to exposure); no ad stands twice on a page. A click is worth 1; `revenue`
    makes it worth its bid. Features: of the user a constant, a noisy taste vector and the profile; of the ad a noisy
    retrieval score, the bid, and what everybody can read in it.
    """
    parts = [_one_bandit(world, np.random.default_rng([3, seed]), users, slots, ads) for seed in seeds]
    *floats, item = (torch.from_numpy(np.stack(part)) for part in zip(*parts, strict=True))
    user, ad, click, bid, tap = (table.float() for table in floats)
    return AdBandit(user, ad, click, torch.ones_like(click), bid, tap, item)


def _one_bandit(world: AdWorld, rng: np.random.Generator, users: int, slots: int, ads: int) -> tuple[np.ndarray, ...]:
    people, catalogue = world.users, world.catalogue
    who = rng.choice(len(people), users, replace=False)
    click = world.truth.click_probability(world.state(who))  # [users, items], column 0 is padding
    with np.errstate(divide="ignore"):
        odds = np.log(click) - np.log1p(-click)
        exposure = np.log(catalogue.exposure)
    # Gumbel top-k draws without replacement; the fillers come from what retrieval left.
    good = np.argsort(-(np.log(np.maximum(click, 1e-300)) + rng.gumbel(size=click.shape)), 1)
    good = good[:, : slots * (ads // 2)]
    rest = exposure + rng.gumbel(size=click.shape)
    np.put_along_axis(rest, good, -np.inf, 1)
    filler = np.argsort(-rest, 1)[:, : slots * (ads - ads // 2)]
    item = np.concatenate([good.reshape(users, slots, -1), filler.reshape(users, slots, -1)], axis=2)
    item = rng.permuted(item, axis=2)  # the place among the candidates tells nothing

    def of_item(table: np.ndarray) -> np.ndarray:
        return np.take_along_axis(table, item.reshape(users, -1), 1).reshape(item.shape)

    score = of_item(odds) + SCORE_NOISE * rng.standard_normal(item.shape)
    bid = world.bids(who, item.reshape(users, -1)).reshape(item.shape) / catalogue.bid[1:].mean()
    readable = [
        _one_hot(catalogue.table[name]) for name in ("style", "price_band", "audience", "selling_point", "format")
    ]
    ad = np.concatenate(
        [_standard(score)[..., None], _standard(np.log(bid))[..., None], *[codes[item - 1] for codes in readable]],
        axis=-1,
    )
    taste = people.taste[who] * np.sqrt(people.taste.shape[1]) + 0.5 * rng.standard_normal(
        (users, people.taste.shape[1])
    )
    profile = [
        np.eye(codes.max() + 1)[codes[who]] for codes in (people.gender, people.price_sensitivity, people.selling_point)
    ]
    user = np.concatenate([np.ones((users, 1)), taste, *profile], axis=1)
    video = (catalogue.table["format"] == "video").to_numpy()[item - 1]
    tap = np.minimum(TAP_FACTOR * people.noise_rate[who], 1.0)[:, None, None] * video
    return user, ad, of_item(click), bid, tap, item


def _standard(x: np.ndarray) -> np.ndarray:
    out: np.ndarray = (x - x.mean()) / x.std()
    return out


def _one_hot(words: pd.Series[str]) -> np.ndarray:
    names, code = np.unique(words.to_numpy(dtype=str), return_inverse=True)
    return np.eye(len(names))[code]


def revenue(bandit: AdBandit) -> AdBandit:
    """A click is worth its bid."""
    return replace(bandit, value=bandit.bid)


def sparser(bandit: AdBandit, factor: float) -> AdBandit:
    """The odds of every click times `factor`: the world's dial `base_ctr`."""
    odds = factor * bandit.click / (1 - bandit.click)
    return replace(bandit, click=odds / (1 + odds))


def verifiable(bandit: AdBandit) -> AdBandit:
    """A right answer instead of a click: reward 1 for the ad with the largest click probability, else 0, no noise."""
    best = bandit.click == bandit.click.amax(-1, keepdim=True)
    return replace(bandit, click=best.to(bandit.click.dtype), noisy=False)
