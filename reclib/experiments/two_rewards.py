r"""Policies over ads that learn from two rewards at once, many runs side by side.

A context is a user at the end of the log, an action one of the ads that the user has not clicked yet. The policy is
a softmax with a weight for every pair of a user feature and an ad feature, and one for every ad,

    π(a | x) ∝ exp(xᵀ W y_a + b_a),

which is small enough to stack: a run is a row of a tensor of weights. It starts as a clone of the log (supervised
fine-tuning in small) and goes on with groups of G draws. Two rewards are known of every pair:

- business: log eCPM, log(1000 · click probability · bid). While training it comes with noise, as eCPM is an estimate;
  or (`hit`) 1 for the ad the user clicks next, drawn from the world's law, and 0 else, which is what public data have.
- semantic: the world's fit, as a judge with noise and bias of its own reports it.

So what the policy is worth needs no sampling: it is a sum over ads (`worth`), and the world can run it (`online`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from reclib.data.interactions import padded_index
from reclib.experiments.judged_ads import DIALS, judged_world
from reclib.experiments.logged_ads import DECAY, readable
from reclib.experiments.offline_learners import Noise
from reclib.objectives.sgrec import (
    SGRecConfig,
    a2po_advantages,
    advantage_sum,
    pcgrad,
    recentred,
    reward_sum_advantages,
    sgrec_loss,
    standardise,
)
from reclib.world import ASPECTS, AdWorld
from reclib.world.policies import choose
from reclib.world.truth import UserState

# ------------------------------------------------------------------ worlds as tables


@dataclass(frozen=True)
class WorldConfig:
    """What a run's world is like."""

    alignment: float | None = None  # the dial: correlation of log eCPM and fit; None: plain bids
    preset: str = "book"
    dials: tuple[tuple[str, float], ...] = DIALS
    test_share: float = 0.25  # of the users, to be judged on
    recent: int = 20  # clicks that the state looks back on
    log_rows: int = 20_000  # clicks that the policy is cloned from


class Tables(NamedTuple):
    """A stack of worlds. Ads count from 0, so that action a is ad a + 1. Test users stand last."""

    state: Float[Tensor, "worlds users features"]
    item: Float[Tensor, "worlds ads features"]
    business: Float[Tensor, "worlds users ads"]  # log eCPM
    fit: Float[Tensor, "worlds users ads"]  # in [0, 1]
    novelty: Float[Tensor, "worlds users ads"]  # the aspect: 0, ½, 1
    clicked: Bool[Tensor, "worlds users ads"]  # not to be shown again
    chance: Float[Tensor, "worlds users ads"]  # true law of the next click
    target: Int[Tensor, "worlds users"]  # one draw from it
    user: Int[Tensor, "worlds users"]  # who stands in each row
    seeds: tuple[int, ...]  # of the worlds
    train: int  # users to learn from


def make_tables(configs: Sequence[WorldConfig], seeds: Sequence[int]) -> Tables:
    """One world per pair of configuration and seed."""
    parts = [_one(config, seed) for config, seed in zip(configs, seeds, strict=True)]
    state, item, business, fit, novelty, clicked, chance, target, user = (
        torch.from_numpy(np.stack(table)) for table in zip(*parts, strict=True)
    )
    train = _learners(configs[0], user.shape[1])
    return Tables(state, item, business, fit, novelty, clicked, chance, target, user, tuple(seeds), train)


def _learners(config: WorldConfig, users: int) -> int:
    return round((1 - config.test_share) * users)


def _order(world: AdWorld, seed: int) -> tuple[Int[np.ndarray, "users"], np.random.Generator]:
    """Users in random order, those to be judged on last; and what is drawn next."""
    rng = np.random.default_rng([12, seed])
    return rng.permutation(world.config.n_users), rng


def _one(config: WorldConfig, seed: int) -> tuple[np.ndarray, ...]:
    world = judged_world(seed, config.alignment, config.preset, config.dials)
    log = world.simulate()
    user, rng = _order(world, seed)
    items = np.tile(np.arange(1, world.config.n_items + 1), (len(user), 1))
    state = platform_features(world, user, log.offsets[user + 1], config.recent)
    business = np.log(1000 * world.expected_revenue(user, items))
    chance = world.next_item_distribution(user)
    target = choose(chance, rng) - 1
    novelty = world.aspects(user, items)[..., ASPECTS.index("novelty")]
    return (
        state, readable(world), business.astype(np.float32), world.semantic_fit(user, items).astype(np.float32),
        novelty.astype(np.float32), world.truth.clicked(world.state(user))[:, 1:],
        chance[:, 1:].astype(np.float32), target, user,
    )  # fmt: skip


def platform_features(
    world: AdWorld, user: Int[np.ndarray, "n"], stop: Int[np.ndarray, "n"], recent: int
) -> Float[np.ndarray, "n features"]:
    """What the platform knows of users before position `stop` of the log: what they clicked lately, last, and who."""
    log, people = world.simulate(), world.users
    index, real = padded_index(np.maximum(log.offsets[user], stop - recent), stop)
    read = readable(world)
    weight = np.where(real, DECAY ** (stop[:, None] - 1 - index), 0.0)
    weight = (weight / weight.sum(1, keepdims=True)).astype(np.float32)
    tasted = np.einsum("nt,ntf->nf", weight, read[log.item[index] - 1])
    known = (people.gender, people.age_band, people.price_sensitivity, people.selling_point)
    profile = [np.eye(codes.max() + 1, dtype=np.float32)[codes[user]] for codes in known]
    return np.concatenate([tasted, read[log.item[stop - 1] - 1], *profile], axis=1)


# ------------------------------------------------------------------ policies, one per run


def logits(
    weight: Float[Tensor, "runs size"], state: Float[Tensor, "runs n features"], item: Float[Tensor, "runs ads kinds"]
) -> Float[Tensor, "runs n ads"]:
    """xᵀ W y + b; a run's weights are one row: W, and behind it b."""
    shape = state.shape[-1], item.shape[-1]
    pairs = shape[0] * shape[1]
    return state @ weight[:, :pairs].view(-1, *shape) @ item.mT + weight[:, None, pairs:]


def log_policy(
    tables: Tables, world: Int[Tensor, "runs"], weight: Float[Tensor, "runs size"], rows: Int[Tensor, "runs n"]
) -> Float[Tensor, "runs n ads"]:
    """log π of run r for some users of world `world[r]`; -inf on ads they have clicked."""
    at = world[:, None], rows
    found = logits(weight, tables.state[at], tables.item[world])
    return found.masked_fill(tables.clicked[at], -torch.inf).log_softmax(-1)


@dataclass(frozen=True)
class CloneConfig:
    """How the policy is cloned from the log, before any reward."""

    steps: int = 600
    batch_size: int = 256
    lr: float = 0.02


def clone(
    world: WorldConfig, seeds: Sequence[int], config: CloneConfig, *, progress: bool = True
) -> Float[Tensor, "seeds size"]:
    """Supervised fine-tuning: the policy that imitates the log of each seed, which no dial of the bids touches."""
    moments = [_clicks(world, seed) for seed in seeds]
    state, action, item = (torch.from_numpy(np.stack(table)) for table in zip(*moments, strict=True))
    noise, shape = Noise(seeds, "batches"), (state.shape[-1], item.shape[-1])
    weight = torch.zeros(len(seeds), shape[0] * shape[1] + item.shape[1], requires_grad=True)
    optimizer = torch.optim.Adam([weight], lr=config.lr)
    run = torch.arange(len(seeds))[:, None]
    for step in tqdm(range(config.steps), desc="cloning the log", disable=not progress, leave=False):
        at = run, (noise.uniform((config.batch_size,)) * action.shape[1]).long()
        log_prob = logits(weight, state[at], item).log_softmax(-1)
        loss = -log_prob.gather(-1, action[at][..., None]).mean((1, 2)).sum()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        for group in optimizer.param_groups:
            group["lr"] = config.lr * (1 - step / config.steps)
        optimizer.step()
    return weight.detach()


def _clicks(config: WorldConfig, seed: int) -> tuple[np.ndarray, ...]:
    """Earlier moments of users to learn from, what they clicked then, and the ads."""
    world = judged_world(seed, None, config.preset, config.dials)
    log = world.simulate()
    user, rng = _order(world, seed)
    learns = np.isin(log.user, user[: _learners(config, len(user))])
    position = np.arange(len(log)) - log.offsets[:-1][log.user]
    event = rng.choice(np.flatnonzero(learns & (position >= world.config.min_events // 2)), config.log_rows)
    return platform_features(world, log.user[event], event, config.recent), log.item[event] - 1, readable(world)


# ------------------------------------------------------------------ arms


class Group(NamedTuple):
    """A batch of groups, as an arm sees it."""

    business: Float[Tensor, "runs groups size"]
    semantic: Float[Tensor, "runs groups size"]
    asked: Bool[Tensor, "runs groups"]
    knob: Float[Tensor, "runs 1 1"]  # of arms that have one
    order: Float[Tensor, "runs groups size"]  # random numbers, for a placebo


def _a2po(group: Group) -> Tensor:
    return a2po_advantages(group.business, group.semantic, group.asked).advantages


def _parts(group: Group) -> tuple[Tensor, Tensor]:
    found = a2po_advantages(group.business, group.semantic, group.asked)
    return found.business, found.semantic


def _business(group: Group) -> Tensor:
    return standardise(group.business)


def _louder(group: Group) -> Tensor:
    return group.knob * standardise(group.business)


def _semantic(group: Group) -> Tensor:
    return _parts(group)[1]


def _reward_sum(group: Group) -> Tensor:
    return reward_sum_advantages(group.business, group.semantic, group.asked, weight=group.knob[..., 0])


def _advantage_sum(group: Group) -> Tensor:
    return advantage_sum(*_parts(group), group.knob)


def _recentred(group: Group) -> Tensor:
    return recentred(_a2po(group))


def _shuffled(group: Group) -> Tensor:
    """Placebo: the judge's scores of each group, in random order."""
    return _a2po(group._replace(semantic=group.semantic.gather(-1, group.order.argsort(-1))))


GRID = (0.03, 0.1, 0.2, 0.4, 0.8, 1.6)  # of λ: in units of advantages
REWARD_GRID = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)  # of w: fit varies less than log eCPM, and more than hits among misses


@dataclass(frozen=True)
class Arm:
    """A way to make one advantage of two rewards."""

    advantages: Callable[[Group], Tensor]
    knob: float = 1.0  # where it is not tuned
    grid: tuple[float, ...] = ()  # where it is
    judged: bool = True  # whether the judge is asked at all
    surgery: bool = False  # PCGrad: the business gradient and the semantic one are joined, not the advantages


ARMS: dict[str, Arm] = {
    "business only": Arm(_business, judged=False),
    "semantic only": Arm(_semantic),
    "reward sum": Arm(_reward_sum),
    "reward sum, tuned": Arm(_reward_sum, grid=REWARD_GRID),
    "advantage sum": Arm(_advantage_sum),
    "advantage sum, tuned": Arm(_advantage_sum, grid=GRID),
    "a2po": Arm(_a2po),
    "a2po, re-centred": Arm(_recentred),
    "a2po, shuffled judge": Arm(_shuffled),
    "pcgrad": Arm(_business, surgery=True),
    "business only, faster": Arm(_business, judged=False),  # learning rate × E|A| / E|A_biz| of A2PO
    "business only, louder": Arm(_louder, judged=False),  # the same factor on the advantages
}


# ------------------------------------------------------------------ learning


@dataclass(frozen=True)
class TrainConfig:
    """One recipe for all arms."""

    updates: int = 300  # [reproduction: 240]
    groups: int = 32  # users per update
    epochs: int = 2  # gradient steps per update; from the second on the ratio leaves 1
    lr: float = 0.01  # of Adam
    noise: float = 1.0  # standard deviation of the error of log eCPM while training
    hit: bool = False  # reward the next click instead, with the clicked ad in every group [reproduction]
    judge_noise: float = 0.0  # standard deviation of the judge's error, in units of the fit's within a user
    judge_bias: float = 0.0  # what the judge adds for half of the ads, for no reason, in the same units
    method: SGRecConfig = SGRecConfig(ratio=1.0)  # noqa: RUF009 (frozen)


class Watched(NamedTuple):
    """Means over all candidates of training, per run."""

    flips: Float[Tensor, "runs"]  # share with sign A ≠ sign A_biz, among those with A_biz ≠ 0
    agree: Float[Tensor, "runs"]  # share with sign A_biz = sign A_sem ≠ 0, among those the judge was asked about
    weight: Float[Tensor, "runs"]  # mean λ of A2PO's rule, among the same
    inflation: Float[Tensor, "runs"]  # E|A| / E|A_biz|
    push: Float[Tensor, "runs"]  # mean A: what is not centred
    clipped: Float[Tensor, "runs"]  # share of candidates that the clip silences in the last epoch
    calls: Float[Tensor, "runs"]  # groups that the judge was asked about, in all


# What a judge says of some ads of some users: row r of all three is run r. Where it was not asked, anything.
Judge = Callable[
    [Int[Tensor, "runs groups"], Int[Tensor, "runs groups size"], Bool[Tensor, "runs groups"]],
    Float[Tensor, "runs groups size"],
]


def judge_tables(tables: Tables, config: TrainConfig) -> Float[Tensor, "worlds users ads"]:
    """What the judge says of every pair: the fit, its own error, and a weakness for some ads. Errors are fixed."""
    spread = tables.fit.std(-1).mean(-1)[:, None, None]
    noise = Noise([seed + 7_000 for seed in tables.seeds])
    judged = tables.fit
    if config.judge_noise:
        judged = judged + config.judge_noise * spread * noise.normal(tuple(tables.fit.shape[1:]))
    if config.judge_bias:
        liked = (noise.uniform((tables.fit.shape[-1],)) < 0.5).float()
        judged = judged + config.judge_bias * spread * liked[:, None]
    return judged


def looked_up(table: Float[Tensor, "worlds users ads"], world: Int[Tensor, "runs"]) -> Judge:
    """A judge that has said it all before."""

    def judge(rows: Tensor, action: Tensor, asked: Tensor) -> Tensor:
        found: Tensor = table[world[:, None], rows].gather(-1, action)
        return found

    return judge


def learn(
    arm: Arm,
    tables: Tables,
    world: Int[Tensor, "runs"],
    start: Float[Tensor, "runs size"],
    config: TrainConfig,
    *,
    knob: Float[Tensor, "runs"] | None = None,
    rate: Float[Tensor, "runs"] | None = None,
    judge: Judge | None = None,
    name: str = "updates",
    progress: bool = True,
) -> tuple[Float[Tensor, "runs size"], Watched]:
    """Train one policy per run on groups of its own draws; runs of a seed share users and random numbers.

    Args:
        world: index of each run's world.
        start: weights to begin with; also the reference of the KL penalty.
        knob: λ or w of each run; default: the arm's.
        rate: factor on each run's learning rate. (Adam does not see the scale of a gradient, so weights are
            start + rate · v, and Adam moves v.)
        judge: default: looks up `judge_tables`.
    """
    runs, method = len(world), config.method
    noise = Noise([tables.seeds[w] for w in world.tolist()])
    knobs = (torch.full((runs,), arm.knob) if knob is None else knob)[:, None, None]
    rates = torch.ones(runs, 1) if rate is None else rate[:, None]
    judge = looked_up(judge_tables(tables, config), world) if judge is None else judge
    moved = torch.zeros_like(start, requires_grad=True)
    optimizer = torch.optim.Adam([moved], lr=config.lr)
    totals = torch.zeros(10, runs)
    shape = (config.groups, method.size)
    for _ in tqdm(range(config.updates), desc=name, disable=not progress, leave=False):
        rows = (noise.uniform((config.groups,)) * tables.train).long()
        draw, order, ask = noise.uniform(shape), noise.uniform(shape), noise.uniform((config.groups,))
        error = config.noise * noise.normal(shape)
        asked = (ask < method.ratio) if arm.judged else torch.zeros_like(ask, dtype=torch.bool)
        at = world[:, None], rows
        with torch.no_grad():
            log_old = log_policy(tables, world, start + rates * moved, rows)
            action = _drawn(log_old, draw)
            if config.hit:
                action[..., -1] = tables.target[at]
                business = (action == tables.target[at][..., None]).float()
            else:
                business = tables.business[at].gather(-1, action) + error
            semantic = judge(rows, action, asked)
            old, ref = (x.gather(-1, action)[..., None] for x in (log_old, log_policy(tables, world, start, rows)))
            group = Group(business, semantic, asked, knobs, order)
            gain = arm.advantages(group)
        for _ in range(config.epochs):
            log_prob = log_policy(tables, world, start + rates * moved, rows).gather(-1, action)[..., None]
            loss = sgrec_loss(log_prob, old, gain, None, ref, method)
            optimizer.zero_grad()
            if arm.surgery:
                moved.grad = _operated(moved, log_prob, old, ref, loss, group, method)
            else:
                torch.autograd.backward(loss.sum())
            optimizer.step()
        with torch.no_grad():
            totals += _watch(group, gain, (log_prob - old).exp()[..., 0], method.clip)
    weight = (start + rates * moved).detach()
    signed, flips, said, agree, lam, size, base, push, clipped, calls = totals
    some = said.clamp(min=1)
    watched = Watched(
        flips / signed.clamp(min=1), agree / some, lam / some, size / base.clamp(min=1e-9),
        push / config.updates, clipped / config.updates, calls,
    )  # fmt: skip
    return weight, watched


def _drawn(
    log_prob: Float[Tensor, "runs groups ads"], uniform: Float[Tensor, "runs groups size"]
) -> Int[Tensor, "runs groups size"]:
    """Ads drawn from the policy by inverting its distribution function; never one without probability."""
    ladder = log_prob.exp().cumsum(-1)
    return torch.searchsorted(ladder, uniform * ladder[..., -1:], right=True).clamp(max=log_prob.shape[-1] - 1)


def _operated(
    moved: Tensor, log_prob: Tensor, old: Tensor, ref: Tensor, loss: Tensor, group: Group, method: SGRecConfig
) -> Tensor:
    """PCGrad: the business loss keeps the KL penalty, the semantic loss has none of its own."""
    free = replace(method, beta=0.0)
    semantic = sgrec_loss(log_prob, old, _semantic(group), None, None, free)
    (first,) = torch.autograd.grad(loss.sum(), moved, retain_graph=True)
    (second,) = torch.autograd.grad(semantic.sum(), moved)
    return pcgrad(first, second)


def _watch(
    group: Group, gain: Float[Tensor, "runs groups size"], ratio: Float[Tensor, "runs groups size"], clip: float
) -> Float[Tensor, "10 runs"]:
    """Sums over the candidates of one update, and means."""
    found = a2po_advantages(group.business, group.semantic, group.asked)
    a, s = found.business, found.semantic
    said = group.asked[..., None] & (a != 0) & (s != 0)
    silent = ((ratio > 1 + clip) & (gain > 0)) | ((ratio < 1 - clip) & (gain < 0))

    def total(x: Tensor) -> Tensor:
        return x.float().sum((1, 2))

    return torch.stack(
        [
            total(a != 0), total((a != 0) & (gain.sign() != a.sign())), total(said), total(said & (a * s > 0)),
            total(found.weight * said), total(gain.abs()), total(a.abs()), gain.mean((1, 2)),
            silent.float().mean((1, 2)), group.asked.float().sum(1),
        ]
    )  # fmt: skip


# ------------------------------------------------------------------ what a policy is worth


CHUNK = 32  # runs looked at together


@torch.no_grad()
def worth(
    tables: Tables, world: Int[Tensor, "runs"], weight: Float[Tensor, "runs size"]
) -> dict[str, Float[Tensor, "runs"]]:
    """On test users, exactly: expected log eCPM, eCPM and fit of what is drawn; the same of the favourite ad.

    And how the next click is ranked: `hr@10` and `ndcg@10`, expected under its true law; `hr@10/novelty …` is the same
    given the novelty of the ad that is clicked. Ties do not occur: logits are sums of many products.
    """
    chunks = [slice(first, first + CHUNK) for first in range(0, len(world), CHUNK)]
    parts = [_worth(tables, world[chunk], weight[chunk]) for chunk in chunks]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _worth(tables: Tables, world: Tensor, weight: Tensor) -> dict[str, Tensor]:
    rows = torch.arange(tables.train, tables.state.shape[1]).expand(len(world), -1)
    log_prob, at = log_policy(tables, world, weight, rows), (world[:, None], rows)
    business, fit = tables.business[at], tables.fit[at]
    pi, best = log_prob.exp(), log_prob.argmax(-1, keepdim=True)
    top = log_prob.topk(10, dim=-1).indices
    chance, novelty = tables.chance[at], tables.novelty[at]
    hit, novel = chance.gather(-1, top), novelty.gather(-1, top)
    discount = 1 / torch.arange(2.0, 12.0).log2()
    found = {
        "business": (pi * business).sum(-1).mean(-1),
        "ecpm": (pi * business.exp()).sum(-1).mean(-1),
        "semantic": (pi * fit).sum(-1).mean(-1),
        "greedy/business": business.gather(-1, best).mean((1, 2)),
        "greedy/ecpm": business.exp().gather(-1, best).mean((1, 2)),
        "greedy/semantic": fit.gather(-1, best).mean((1, 2)),
        "entropy": -torch.where(pi > 0, pi * log_prob, 0.0).sum(-1).mean(-1),
        "hr@10": hit.sum(-1).mean(-1),
        "ndcg@10": (hit * discount).sum(-1).mean(-1),
    }
    for value in (0.0, 0.5, 1.0):
        found[f"hr@10/novelty {value:g}"] = (hit * (novel == value)).sum((1, 2)) / (chance * (novelty == value)).sum(
            (1, 2)
        )
    return found


class Lift(NamedTuple):
    """An A/B test of one policy against another, per impression."""

    lift: float  # treatment over control, minus 1
    low: float  # its 95 % interval, over users
    high: float


@torch.no_grad()
def online(
    config: WorldConfig,
    seed: int,
    tables: Tables,
    index: int,
    treatment: Float[Tensor, "size"],
    control: Float[Tensor, "size"],
    rounds: int,
) -> dict[str, Lift]:
    """Let the world run two policies: lift of `click` and `revenue`.

    What the policies know of a user is what stood in the log before the test began.
    """
    world = judged_world(seed, config.alignment, config.preset, config.dials)
    row_of = tables.user[index].argsort()

    def policy_of(weight: Tensor) -> Callable[[AdWorld, UserState, np.ndarray], np.ndarray]:
        table = logits(weight[None], tables.state[index][None], tables.item[index][None])[0]

        def policy(world: AdWorld, state: UserState, clicked: np.ndarray) -> np.ndarray:
            rows = table[row_of[torch.from_numpy(state.user)]]
            chance = rows.masked_fill(torch.from_numpy(clicked[:, 1:]), -torch.inf).double().softmax(-1)
            return np.concatenate([np.zeros((len(chance), 1)), chance.numpy()], axis=1)

        return policy

    test = world.run_policy(policy_of(treatment), policy_of(control), rounds=rounds)
    return {name: Lift(test[name].lift, test[name].lift_low, test[name].lift_high) for name in ("click", "revenue")}
