r"""Logs of ads with propensities: the ad world's mixed logging policies, and the Open Bandit data set.

*Ad world.* A context is a moment in a user's life; the state is what the platform knows of it: what can be read in the
last `recent` clicks (weights .9^age) and in the very last one, and the profile. An action is an ad; the policy knows
what everybody can read in it, its topic included. The reward is the bid if it is clicked, else 0, with the mean bid as
unit. On contexts of its own the value of any policy is an exact sum,
$\frac1n\sum_x\sum_a\pi(a|x)\,c(x,a)\,bid(x,a)$. Nobody shows an ad again that the user has clicked: the logging
policies leave it out, and so does the policy that is judged, whose softmax runs over the other ads (`AdLogs.allowed`;
our choice). In training it runs over all. A policy judged without that rule would put weight where the log has none
(the uniform policy an eighth of it), and SNIPS and the doubly robust estimate would be wrong for any length of the log.

*Open Bandit.* Policies learn from what Thompson sampling showed (`bts`) and are judged on what the uniform policy
showed (`random`), whose propensities are all $1/\text{items}$. Position is ignored. The reward model of the doubly
robust estimate is the item's click rate in the learning log, shrunk to the mean by `PRIOR` rounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from reclib.data.interactions import Interactions, padded_index
from reclib.data.open_bandit import Campaign, LoggedFeedback, load_open_bandit
from reclib.experiments.offline_learners import Rows
from reclib.objectives import off_policy
from reclib.world import AdWorld, AdWorldConfig

DECAY = 0.9  # weight of a click against the next one
PRIOR = 500.0  # rounds that the mean click rate is worth


@dataclass(frozen=True)
class AdLogConfig:
    """A log of the ad world; the mixtures are the paper's, with `stale` in the place of its suboptimal policy."""

    expert: float = 0.1  # share of impressions [Medium .1, Extreme .05]
    stale: float = 0.6  # [.6, .05]; the rest is random
    impressions: int = 20_000  # to learn from
    contexts: int = 2000  # to be judged on
    judged: int = 20_000  # impressions of the same mixture on these contexts, for the off-policy estimates
    recent: int = 20  # clicks that the state looks back on
    preset: str = "book"
    dials: tuple[tuple[str, float], ...] = (
        ("n_users", 2000), ("n_items", 240), ("n_industries", 4), ("mean_events", 40), ("base_ctr", 0.02),
    )  # fmt: skip

    @property
    def mix(self) -> dict[str, float]:
        """Ratios of the logging policies."""
        return {"expert": self.expert, "stale": self.stale, "random": 1 - self.expert - self.stale}


class AdLogs(NamedTuple):
    """A stack of ad logs; actions count from 0, so that action a is ad a + 1."""

    log: Rows
    item: Float[Tensor, "runs items features"]  # what is known of an ad
    state: Float[Tensor, "runs contexts state"]  # of the contexts to be judged on
    earns: Float[Tensor, "runs contexts items"]  # exact expected reward of every ad there
    clicked: Bool[Tensor, "runs contexts items"]  # by this user before: not to be shown again
    judged: Rows  # impressions there
    context: Int[Tensor, "runs rounds"]  # which context each of them had
    propensity: Float[Tensor, "runs rounds"]

    def allowed(self, log_policy: Float[Tensor, "runs contexts items"]) -> Float[Tensor, "runs contexts items"]:
        """A policy as it is run: over the ads that the user has not clicked yet."""
        return log_policy.masked_fill(self.clicked, -torch.inf).log_softmax(-1)

    def value(self, log_policy: Float[Tensor, "runs contexts items"]) -> Float[Tensor, "runs"]:
        """Exact reward per impression, in mean bids."""
        return (log_policy.exp() * self.earns).sum(-1).mean(-1)

    def greedy(self, log_policy: Float[Tensor, "runs contexts items"]) -> Float[Tensor, "runs"]:
        """The same for the ad that the policy likes best."""
        best = log_policy.argmax(-1, keepdim=True)
        return self.earns.gather(-1, best).mean((1, 2))


def make_ad_logs(configs: Sequence[AdLogConfig], seeds: Sequence[int]) -> AdLogs:
    """One world and log per pair of configuration and seed."""
    parts = [_one(config, seed) for config, seed in zip(configs, seeds, strict=True)]
    state, action, reward, good, item, test, earns, clicked, jstate, jaction, jreward, jgood, context, propensity = (
        torch.from_numpy(np.stack(tables)) for tables in zip(*parts, strict=True)
    )
    judged = Rows(jstate, jaction, jreward, jgood)
    return AdLogs(Rows(state, action, reward, good), item, test, earns, clicked, judged, context, propensity)


def _one(config: AdLogConfig, seed: int) -> tuple[np.ndarray, ...]:
    world = AdWorld(AdWorldConfig.preset(config.preset, seed=seed, **dict(config.dials)))
    log, rng = world.simulate(), np.random.default_rng([13, seed])
    late = np.flatnonzero(np.arange(len(log)) - log.offsets[:-1][log.user] >= config.recent)
    held = rng.random(log.n_users) < 0.2  # users to be judged on
    learn = rng.choice(late[~held[log.user[late]]], config.impressions)
    test = rng.choice(late[held[log.user[late]]], config.contexts)
    again = rng.integers(config.contexts, size=config.judged)
    unit = float(world.catalogue.bid[1:].mean())

    def impressions(event: np.ndarray) -> tuple[np.ndarray, ...]:
        feedback = world.log(config.mix, len(event), rng, event=event)
        expert = feedback.policy == feedback.policies.index("expert")
        reward = (feedback.revenue / unit).astype(np.float32)
        return feedback.item - 1, reward, expert, feedback.propensity

    action, reward, good, _ = impressions(learn)
    jaction, jreward, jgood, propensity = impressions(test[again])
    state = features(world, log, test, config.recent)
    moment = world.state(event=test)
    items = np.broadcast_to(np.arange(1, world.config.n_items + 1), (len(test), world.config.n_items))
    earns = world.expected_revenue(None, items, event=test) / unit
    clicked = world.truth.clicked(moment)[:, 1:]
    earns = np.where(clicked, 0, earns).astype(np.float32)
    learnt = features(world, log, learn, config.recent)
    return (
        learnt, action, reward, good, readable(world), state, earns, clicked,
        state[again], jaction, jreward, jgood, again, propensity.astype(np.float32),
    )  # fmt: skip


def features(
    world: AdWorld, log: Interactions, event: Int[np.ndarray, "n"], recent: int
) -> Float[np.ndarray, "n features"]:
    """What the platform knows just before events of the log."""
    index, real = padded_index(np.maximum(log.offsets[:-1][log.user[event]], event - recent), event)
    read = readable(world)
    weight = np.where(real, DECAY ** (event[:, None] - 1 - index), 0.0)
    weight = (weight / weight.sum(1, keepdims=True)).astype(np.float32)
    tasted = np.einsum("nt,ntf->nf", weight, read[log.item[index] - 1])
    people, user = world.users, log.user[event]
    known = (people.gender, people.price_sensitivity, people.selling_point)
    profile = [np.eye(codes.max() + 1, dtype=np.float32)[codes[user]] for codes in known]
    return np.concatenate([tasted, read[log.item[event - 1] - 1], *profile], axis=1)


def readable(world: AdWorld) -> Float[np.ndarray, "items features"]:
    """What everybody can read in an ad: a constant, its topic, its words, its bid."""
    catalogue = world.catalogue
    columns = [np.ones((world.config.n_items, 1)), np.eye(world.config.n_topics)[catalogue.topic[1:]]]
    for name in ("style", "price_band", "audience", "selling_point"):
        words, code = np.unique(catalogue.table[name].to_numpy(dtype=str), return_inverse=True)
        columns.append(np.eye(len(words))[code])
    bid = np.log(catalogue.bid[1:])
    columns.append(((bid - bid.mean()) / bid.std())[:, None])
    out: np.ndarray = np.concatenate(columns, axis=1).astype(np.float32)
    return out


# ------------------------------------------------------------------ Open Bandit


class ShopLog(NamedTuple):
    """One campaign: rows to learn from, for any number of runs, and rounds to be judged on."""

    learn: LoggedFeedback
    judge: LoggedFeedback

    def rows(self, runs: int) -> Rows:
        """The learning log, the same for every run."""
        log = self.learn
        tables = (shop_features(log), torch.from_numpy(log.action), torch.from_numpy(log.reward).float())
        good = torch.zeros(log.n_rounds, dtype=torch.bool)
        return Rows(*(table.expand(runs, *table.shape) for table in (*tables, good)))

    def model(self) -> Float[np.ndarray, "items"]:
        """Click rate of every item in the learning log, shrunk to the mean."""
        shown = np.bincount(self.learn.action, minlength=self.learn.n_actions)
        clicks = np.bincount(self.learn.action, self.learn.reward, minlength=self.learn.n_actions)
        out: np.ndarray = (clicks + PRIOR * self.learn.reward.mean()) / (shown + PRIOR)
        return out


def load_shop(campaign: Campaign) -> ShopLog:
    """Open Bandit, small version; `MissingDataset` says how to get it."""
    return ShopLog(load_open_bandit(campaign, "bts"), load_open_bandit(campaign, "random"))


def shop_features(log: LoggedFeedback) -> Float[Tensor, "rounds features"]:
    """The hashed user features, and past clicks on each item."""
    return torch.from_numpy(np.concatenate([log.context, log.affinity], axis=1)).float()


def estimates(
    log: LoggedFeedback, probability: Float[np.ndarray, "rounds items"], model: Float[np.ndarray, "rounds items"]
) -> dict[str, float]:
    """Every estimate of a policy's click rate, with the intervals of SNIPS and the doubly robust one."""
    weight = _weights(log, probability)
    interval = off_policy.snips_interval(log.reward, weight, np.random.default_rng(0))
    terms = off_policy.doubly_robust_terms(log.reward, log.action, weight, probability, model)
    half = 1.96 * terms.std(ddof=1) / np.sqrt(len(terms))
    return {
        "snips": interval.mean,
        "snips/low": interval.low,
        "snips/high": interval.high,
        "ips": off_policy.ips(log.reward, weight),
        "dr": float(terms.mean()),
        "dr/low": float(terms.mean() - half),
        "dr/high": float(terms.mean() + half),
        "dm": off_policy.direct_method(probability, model),
        "effective rounds": off_policy.effective_sample_size(weight),
    }


def gain(
    log: LoggedFeedback, probability: Float[np.ndarray, "rounds items"], other: Float[np.ndarray, "rounds items"]
) -> dict[str, float]:
    """Click rate of a policy above that of another by SNIPS, with the interval of a paired bootstrap over rounds."""
    weights = _weights(log, probability), _weights(log, other)
    found = off_policy.snips_gain_interval(log.reward, *weights, np.random.default_rng(0))
    return {"snips/gain": found.mean, "snips/gain/low": found.low, "snips/gain/high": found.high}


def _weights(log: LoggedFeedback, probability: Float[np.ndarray, "rounds items"]) -> Float[np.ndarray, "rounds"]:
    chosen = np.take_along_axis(probability, log.action[:, None], 1)[:, 0]
    return off_policy.importance_weights(chosen, log.propensity)
