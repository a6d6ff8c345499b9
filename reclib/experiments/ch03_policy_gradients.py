"""Experiments of chapter 03: what baselines, groups, clips, ratios and rewards do, where the truth is known exactly.

The bandit and its policies are in `ad_bandit`. Here: how learners turn a batch into a loss (`Learner`), one training
loop for all of them and all seeds (`train`), what is measured, and the recorded runs.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from reclib.experiments.ad_bandit import (
    AdBandit,
    Pages,
    Policy,
    Scale,
    ad_bandit,
    ad_world,
    between,
    expected_reward,
    follow,
    kl_to,
    log_policy,
    move_by_kl,
    revenue,
    sample_pages,
    scale_of,
    sparser,
    uniform_policy,
    verifiable,
)
from reclib.experiments.results import finished, record
from reclib.objectives.grpo import (
    dapo_loss,
    dr_grpo_loss,
    group_advantages,
    grpo_loss,
    gspo_loss,
    kl_k1,
    kl_k3,
    leave_one_out_baseline,
    policy_diagnostics,
    ppo_loss,
    value_loss,
)

NAME = "03_policy_gradients"

# ------------------------------------------------------------------ learners

Baseline = Literal["none", "batch mean", "value", "leave-one-out", "group mean", "group mean and std"]


def advantage(
    reward: Float[Tensor, "*seeds groups size"], baseline: Baseline, value: Float[Tensor, "*seeds groups"]
) -> Float[Tensor, "*seeds groups size"]:
    """Reward minus baseline; `value` is what a value network expects of each user."""
    match baseline:
        case "none":
            return reward
        case "batch mean":
            return reward - reward.mean((-2, -1), keepdim=True)
        case "value":
            return reward - value.unsqueeze(-1)
        case "leave-one-out":
            return reward - leave_one_out_baseline(reward)
        case "group mean":
            return group_advantages(reward, std="none").advantages
        case "group mean and std":
            return group_advantages(reward).advantages


@dataclass(frozen=True)
class Learner:
    """A method: baseline, loss, and how often each batch is used."""

    baseline: Baseline
    loss: Callable[..., Tensor]  # one of the losses over sequences of reclib.objectives.grpo
    epochs: int = 1  # gradient steps per batch; from the second on the ratio leaves 1
    clip_low: float = 0.2
    clip_high: float = 0.2
    dynamic: bool = False  # DAPO: go on drawing users until enough groups have some variance
    beta: float = 0.0  # weight of the k3 penalty to the policy training started from (grpo_loss only)


LEARNERS: dict[str, Learner] = {
    "REINFORCE": Learner("none", dr_grpo_loss),
    "REINFORCE + value": Learner("value", dr_grpo_loss),
    "RLOO": Learner("leave-one-out", dr_grpo_loss),
    "PPO": Learner("value", dr_grpo_loss, epochs=4),
    "GRPO": Learner("group mean and std", grpo_loss, epochs=4),
    "Dr. GRPO": Learner("group mean", dr_grpo_loss, epochs=4),
    "DAPO": Learner("group mean and std", dapo_loss, epochs=4, clip_high=0.28, dynamic=True),
    "GSPO": Learner("group mean and std", gspo_loss, epochs=4, clip_low=3e-4, clip_high=4e-4),
}


class Training(NamedTuple):
    """What happened: snapshots of the policies, and per update what one would log."""

    steps: tuple[int, ...]  # updates done at each snapshot, 0 first
    snapshots: tuple[Policy, ...]
    samples: Int[Tensor, "updates seeds"]  # pages drawn so far, thrown-away ones included
    zero_variance: Float[Tensor, "updates seeds"]  # share of the groups drawn whose rewards were all equal
    clip_fraction: Float[Tensor, "updates seeds"]  # gradients removed by the clip, last epoch of the update
    token_ratio_std: Float[Tensor, "updates seeds"]  # of the token ratios, last epoch
    sequence_ratio_std: Float[Tensor, "updates seeds"]  # of GSPO's ratio, last epoch
    length: Float[Tensor, "updates seeds"]  # tokens per page drawn, stop included

    def samples_at_snapshots(self) -> Float[Tensor, "snapshots seeds"]:
        """Pages drawn before each snapshot."""
        first = torch.zeros_like(self.samples[:1])
        return torch.cat([first, self.samples])[list(self.steps)].double()


VALUE_LR = 0.03  # Adam's rate for the value network, the same for every learner that has one
POOL = 4  # dynamic sampling looks at no more than this many batches of users per update


def train(
    bandit: AdBandit,
    learner: Learner,
    lr: Float[Tensor, "seeds"],
    *,
    updates: int,
    groups: int,
    size: int,
    generator: torch.Generator,
    start: Policy | None = None,
    every: int = 10,
) -> Training:
    """Train one policy per seed with Adam, each at its own learning rate; `every` updates keep a snapshot.

    An update draws `groups` users with `size` pages each and takes `learner.epochs` gradient steps on them.
    Adam does not care about the scale of a gradient, so W = start + lr · V, with Adam at rate 1 on V, is Adam
    at rate lr on W, and lr may differ along the stack.
    """
    start = start or uniform_policy(bandit)
    moved = Policy(*(torch.zeros_like(weight, requires_grad=True) for weight in start))
    critic = torch.zeros_like(bandit.user[:, 0], requires_grad=True)  # V(u) = x_uᵀ v
    optimizer = torch.optim.Adam(moved, lr=1.0)
    critic_optimizer = torch.optim.Adam([critic], lr=VALUE_LR)

    def current() -> Policy:
        return Policy(start.ads + lr[:, None, None] * moved.ads, start.stop + lr[:, None] * moved.stop)

    def frozen() -> Policy:
        return Policy(*(weight.detach() for weight in current()))

    steps, snapshots, log = [0], [frozen()], []
    drawn = torch.zeros(len(lr), dtype=torch.long)
    for update in range(1, updates + 1):
        pages = sample_pages(bandit, frozen(), groups * (POOL if learner.dynamic else 1), size, generator)
        flat = group_advantages(pages.reward).zero_variance
        length = pages.mask.sum(-1).double().mean((1, 2))
        mask, looked_at = pages.mask, torch.full_like(drawn, groups)
        if learner.dynamic:
            rows, kept, looked_at = first_informative(flat, groups)
            pages = pages.at(rows)
            mask = pages.mask & kept[:, :, None, None]
        drawn = drawn + looked_at * size

        value = torch.einsum("suf,sf->su", pages.users.user, critic.detach())
        gain = advantage(pages.reward, learner.baseline, value)
        # The groups of a seed become one batch of sequences: [seeds, groups * size, slots].
        old, gain, mask = pages.log_prob.flatten(1, 2), gain.flatten(1, 2), mask.flatten(1, 2)
        options: dict[str, object] = {"clip_low": learner.clip_low, "clip_high": learner.clip_high}
        if learner.beta:
            options |= {"beta": learner.beta, "log_prob_ref": pages.log_policy(start).flatten(1, 2)}
        for _ in range(learner.epochs):
            log_prob = pages.log_policy(current()).flatten(1, 2)
            optimizer.zero_grad()
            _backward(learner.loss(log_prob, old, gain, mask, **options))
            optimizer.step()
            if learner.baseline == "value":
                critic_optimizer.zero_grad()
                value = torch.einsum("suf,sf->su", pages.users.user, critic).unsqueeze(-1)
                _backward(value_loss(value.expand_as(pages.reward).flatten(1), pages.reward.flatten(1)))
                critic_optimizer.step()

        # Ratios as the last gradient step saw them, of tokens and, as one token each, of sequences.
        clip = (learner.clip_low, learner.clip_high)
        token = policy_diagnostics(log_prob.detach(), old, gain, mask, *clip)
        mean = ((log_prob.detach() - old) * mask).sum(-1, keepdim=True) / mask.sum(-1, keepdim=True).clamp(min=1)
        sequence = policy_diagnostics(mean, torch.zeros_like(mean), gain, mask[..., :1], *clip)
        clipped = (sequence if learner.loss is gspo_loss else token).clip_fraction
        log.append((drawn, flat.double().mean(1), clipped, token.ratio_std, sequence.ratio_std, length))
        if update % every == 0:
            steps.append(update)
            snapshots.append(frozen())
    return Training(tuple(steps), tuple(snapshots), *(torch.stack(column) for column in zip(*log, strict=True)))


def _backward(losses: Float[Tensor, "*seeds"]) -> None:
    """The gradient of the sum over seeds gives every seed the gradient of its own loss."""
    losses.sum().backward()  # type: ignore[no-untyped-call]


def first_informative(
    flat: Bool[Tensor, "seeds pool"], wanted: int
) -> tuple[Int[Tensor, "seeds wanted"], Bool[Tensor, "seeds wanted"], Int[Tensor, "seeds"]]:
    """DAPO's dynamic sampling over a pool of groups drawn one after the other, `flat` where they have no variance.

    Returns the first `wanted` groups that have some, whether each of them really has (the pool may hold too few), and
    how many had to be drawn to find them.
    """
    rows = flat.long().argsort(dim=1, stable=True)[:, :wanted]
    looked_at = ((~flat).cumsum(1) < wanted).sum(1).add(1).clamp(max=flat.shape[1])
    return rows, ~flat.gather(1, rows), looked_at


# ------------------------------------------------------------------ what is measured


Loss = Callable[[Tensor, Tensor, Tensor], Tensor]  # of log-probabilities now, when drawn, and advantages


def policy_gradients(
    policy: Policy, pages: Pages, gain: Float[Tensor, "seeds groups size"], loss: Loss, replicates: int
) -> Float[Tensor, "seeds replicates user_features ad_features"]:
    """Minus the gradient of a loss with respect to W, separately for each of `replicates` equal parts of a batch.

    Autograd goes down to the logits; from there to W it is one product, because logits = xᵀ W y.
    """
    users, (seeds, batch) = pages.users, pages.users.user.shape[:2]
    logits = log_policy(users, policy).requires_grad_()  # log-probabilities serve as logits
    log_prob = logits.log_softmax(-1).gather(-1, pages.action.transpose(-1, -2)).transpose(-1, -2)
    new, old = (x.reshape(seeds, replicates, -1, users.slots) for x in (log_prob, pages.log_prob))
    (slope,) = torch.autograd.grad(-loss(new, old, gain.reshape(seeds, replicates, -1)).sum(), logits)
    wanted = torch.einsum("sutk,sutkh->suh", slope[..., : users.ad.shape[3]], users.ad)
    shape = (seeds, replicates, batch // replicates, -1)
    return torch.einsum("sruf,sruh->srfh", users.user.reshape(shape), wanted.reshape(shape))


def exact_gradient(bandit: AdBandit, policy: Policy) -> Float[Tensor, "seeds user_features ad_features"]:
    """Gradient of the mean expected reward with respect to W, by enumeration."""
    weights = Policy(policy.ads.clone().requires_grad_(), policy.stop)
    reward = expected_reward(bandit, log_policy(bandit, weights)).mean(1).sum()
    return torch.autograd.grad(reward, weights.ads)[0]


class Quality(NamedTuple):
    """How good a gradient estimator is; g is the exact gradient, ĝ one estimate."""

    length: Float[Tensor, "seeds"]  # ⟨E ĝ, g⟩ / |g|²: 1 if unbiased, below 1 if it shrinks
    cosine: Float[Tensor, "seeds"]  # between E ĝ and g: 1 if unbiased, below 1 if it points elsewhere
    variance: Float[Tensor, "seeds"]  # E |ĝ - E ĝ|² / |g|²
    noise: Float[Tensor, "seeds"]  # the same after stretching ĝ until its length is 1: variance / length²


class Moments:
    """Running sums of gradient estimates, so that they need not be kept."""

    def __init__(self) -> None:
        self.count = 0
        self.total: Tensor | float = 0.0
        self.square: Tensor | float = 0.0

    def add(self, estimates: Float[Tensor, "seeds replicates user_features ad_features"]) -> None:
        """Take in some estimates."""
        self.count += estimates.shape[1]
        self.total = self.total + estimates.double().sum(1)
        self.square = self.square + estimates.double().square().sum((1, 2, 3))

    def quality(self, exact: Float[Tensor, "seeds user_features ad_features"]) -> Quality:
        """Compare with the exact gradient. The squared norm of a mean is corrected for its own noise."""
        exact, mean = exact.double(), torch.as_tensor(self.total) / self.count
        size = exact.square().sum((1, 2))
        raw = mean.square().sum((1, 2))
        spread = (torch.as_tensor(self.square) / self.count - raw) * self.count / (self.count - 1)
        length = (mean * exact).sum((1, 2)) / size
        cosine = length * size.sqrt() / (raw - spread / self.count).clamp(min=0.01 * size).sqrt()
        return Quality(length, cosine, spread / size, spread / size / length.square().clamp(min=1e-6))


def baseline_quality(
    bandit: AdBandit,
    policy: Policy,
    size: int,
    *,
    budget: int,
    replicates: int,
    generator: torch.Generator,
) -> dict[str, Quality]:
    """Quality of the gradient from `budget` samples in groups of `size`, for each baseline, on the same samples.

    "value" is a least-squares fit of rewards on user features from as many samples as 16 batches; "exact value" is
    the true expected reward of the user under the policy, the best that a value network can become.
    """
    groups, chunk = budget // size, 50
    practice = sample_pages(bandit, policy, 16 * budget, 1, generator)
    critic = torch.linalg.lstsq(practice.users.user, practice.reward).solution  # [seeds, user_features, 1]
    moments = {name: Moments() for name in BASELINES}
    for _ in range(replicates // chunk):
        pages = sample_pages(bandit, policy, chunk * groups, size, generator)
        learned = (pages.users.user @ critic).squeeze(-1)
        truth = expected_reward(pages.users, log_policy(pages.users, policy))
        parts = (len(learned), chunk, groups, -1)
        for name, baseline in BASELINES.items():
            value = truth if name == "exact value" else learned
            gain = advantage(pages.reward.reshape(parts), baseline, value.reshape(parts[:3]))
            moments[name].add(policy_gradients(policy, pages, gain.reshape(pages.reward.shape), dr_grpo_loss, chunk))
    exact = exact_gradient(bandit, policy)
    return {name: found.quality(exact) for name, found in moments.items()}


BASELINES: dict[str, Baseline] = {
    "none": "none",
    "batch mean": "batch mean",
    "value": "value",
    "exact value": "value",
    "leave-one-out": "leave-one-out",
    "group mean": "group mean",
    "group mean and std": "group mean and std",
}


def zero_variance_share(bandit: AdBandit, policy: Policy, size: int) -> Float[Tensor, "seeds"]:
    """Exact share of groups without variance for clicks on one ad: E[p^G + (1 - p)^G], p the user's click rate.

    Exact for rewards of 0 and 1 that are drawn independently, which clicks and right answers both are.
    """
    p = expected_reward(bandit, log_policy(bandit, policy))
    return (p**size + (1 - p) ** size).mean(1)


def difficulty_weight(p: float, size: int, std: Literal["sample", "population", "none"]) -> float:
    r"""By how much a group of 0/1 rewards multiplies the gradient of its success probability p, in expectation.

    With k hits a hit's advantage is 1/σ_k above a miss's, so E[ĝ] = w(p) ∇p with
    w(p) = E_k[k (G - k) / (G² σ_k)] / (p (1 - p)), k ~ Binomial(G, p). Without the deviation w = 1 - 1/G for every p.
    """
    weight = 0.0
    for k in range(1, size):
        rewards = (torch.arange(size) < k).double()
        gap = group_advantages(rewards, std=std, eps=0.0).advantages
        weight += math.comb(size, k) * p**k * (1 - p) ** (size - k) * k * (size - k) / size**2 * float(gap[0] - gap[-1])
    return weight / (p * (1 - p))


# ------------------------------------------------------------------ reward hacking


def fit_reward_model(
    bandit: AdBandit,
    logging: Policy,
    impressions: int,
    taps: bool,
    generator: torch.Generator,
    ridge: float = 1.0,
) -> AdBandit:
    """A click model from the log of a policy; the bandit it believes in, with its score as the reward (one slot).

    The log counts an accidental tap as a click if `taps`. The model is logistic in xᵀ W y with a Gaussian prior of
    precision `ridge`, fitted to convergence: the same family as the policy, so the policy can follow it anywhere.
    """
    label = 1 - (1 - bandit.click) * (1 - bandit.tap) if taps else bandit.click
    seeds, cells = len(label), label[0].numel()
    chance = log_policy(bandit, logging).exp().flatten(1)  # users are equally likely
    pick = torch.multinomial(chance, impressions, replacement=True, generator=generator)
    shown = torch.zeros(seeds, cells).scatter_add_(1, pick, torch.ones(seeds, impressions)).reshape(label.shape)
    clicked = torch.binomial(shown, label, generator=generator)
    weights = torch.zeros_like(uniform_policy(bandit).ads, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=200, line_search_fn="strong_wolfe")

    def logits() -> Tensor:
        return torch.einsum("sbf,sbtkf->sbtk", bandit.user @ weights, bandit.ad)

    def closure() -> Tensor:
        optimizer.zero_grad()
        score = logits()
        log_likelihood = clicked * score - shown * torch.nn.functional.softplus(score)
        loss = -log_likelihood.sum() + ridge / 2 * weights.square().sum()
        _backward(loss)
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return replace(bandit, click=logits().detach().sigmoid(), noisy=False)


class KLQuality(NamedTuple):
    """The estimators k1 and k3 at one policy, by enumeration."""

    kl: Float[Tensor, "seeds"]  # KL(policy ‖ reference), nats
    k1_std: Float[Tensor, "seeds"]  # standard deviation of one sample of k1, over the KL
    k3_std: Float[Tensor, "seeds"]  # the same for k3
    k3_bias: Float[Tensor, "seeds"]  # mean of k3 over the KL, minus 1
    reverse_cosine: Float[Tensor, "seeds"]  # gradient through k3 against that of KL(policy ‖ reference), in logits
    forward_cosine: Float[Tensor, "seeds"]  # and against that of KL(reference ‖ policy)


def kl_quality(bandit: AdBandit, policy: Policy, reference: Policy) -> KLQuality:
    """Enumerate k1 and k3 over all users and ads (one slot)."""
    logits = log_policy(bandit, policy).double().requires_grad_()
    log_prob, log_ref = logits.log_softmax(-1), log_policy(bandit, reference).double()
    chance, users = log_prob.detach().exp(), logits.shape[1]

    def mean(x: Tensor) -> Tensor:  # over users and, with their probabilities, ads
        return (chance * x).sum((1, 2, 3)) / users

    def slope(x: Tensor) -> Tensor:
        return torch.autograd.grad(x, logits, retain_graph=True)[0].flatten(1)

    k1, k3 = kl_k1(log_prob, log_ref), kl_k3(log_prob, log_ref)
    kl = mean(k1).detach()
    deviation = [(mean(k.square()) - mean(k).square()).clamp(min=0).sqrt().detach() for k in (k1, k3)]
    through = slope(mean(k3).sum())
    reverse = slope((log_prob.exp() * (log_prob - log_ref)).sum())
    forward = slope((log_ref.exp() * (log_ref - log_prob)).sum())
    cosines = [torch.cosine_similarity(through, other, dim=1) for other in (reverse, forward)]
    return KLQuality(kl, deviation[0] / kl, deviation[1] / kl, (mean(k3) / kl - 1).detach(), *cosines)


def page_ratio_loss(new: Tensor, old: Tensor, gain: Tensor) -> Tensor:
    """The exact correction: the ratio of the whole page."""
    return ppo_loss(new.sum(-1), old.sum(-1), gain, 1.0, math.inf)


def sequence_ratio_loss(new: Tensor, old: Tensor, gain: Tensor) -> Tensor:
    """The geometric mean of the tokens' ratios, times the length: GSPO divides by it, the other two do not."""
    return new.shape[-1] * gspo_loss(new, old, gain, clip_low=1.0, clip_high=math.inf)


RATIOS: dict[str, Loss] = {  # which π_new / π_old weighs an advantage; no clip
    "token": partial(dr_grpo_loss, clip_low=1.0, clip_high=math.inf),
    "sequence": sequence_ratio_loss,
    "page": page_ratio_loss,
}


def ratio_quality(
    bandit: AdBandit,
    old: Policy,
    new: Policy,
    *,
    groups: int,
    size: int,
    replicates: int,
    generator: torch.Generator,
) -> tuple[dict[str, Quality], dict[str, Float[Tensor, "seeds"]]]:
    """Pages drawn by an old policy, used for the gradient at a new one: quality, and deviation of the log ratio."""
    moments, chunk = {name: Moments() for name in RATIOS}, 10
    spread: dict[str, list[Tensor]] = {name: [] for name in RATIOS}
    for _ in range(replicates // chunk):
        pages = sample_pages(bandit, old, chunk * groups, size, generator)
        gain = group_advantages(pages.reward, std="none").advantages
        log_ratio = pages.log_policy(new) - pages.log_prob
        for name, values in (("token", log_ratio), ("sequence", log_ratio.mean(-1)), ("page", log_ratio.sum(-1))):
            spread[name].append(values.flatten(1).std(1))
        for name, loss in RATIOS.items():
            moments[name].add(policy_gradients(new, pages, gain, loss, chunk))
    exact = exact_gradient(bandit, new)
    return (
        {name: found.quality(exact) for name, found in moments.items()},
        {name: torch.stack(values).mean(0) for name, values in spread.items()},
    )


# ------------------------------------------------------------------ the recorded experiments


@dataclass(frozen=True)
class Config:
    """Sizes of all experiments; the defaults are the recorded run."""

    preset: str = "book"  # of the ad world; its own seed stays 0
    users: int = 128  # contexts per seed
    ads: int = 16  # candidates of the single slot
    page_slots: int = 6  # slots of a page
    page_ads: int = 8  # candidates per slot of a page
    page_cost: float = 0.2  # clicks' worth of patience lost per ad shown on a page
    climb: int = 200  # updates on the exact gradient; where they end is gain = 1
    groups: int = 16  # users per batch
    size: int = 8  # G, pages per user
    updates: int = 150  # batches
    every: int = 10  # updates between two snapshots
    learning_rates: tuple[float, ...] = (0.003, 0.01, 0.03, 0.1, 0.3)  # the tuning budget of every learner
    tuning_seeds: int = 5  # other seeds than the recorded ones; the rate with their best mean gain is taken
    budget: int = 64  # samples per gradient estimate
    group_sizes: tuple[int, ...] = (2, 4, 8, 16, 32, 64)  # G of the gradient estimates
    replicates: int = 500  # gradient estimates per seed
    sparsity: tuple[float, ...] = (0.03, 0.1, 0.3, 1.0, 3.0)  # factors on the odds of a click
    epochs: tuple[int, ...] = (1, 4, 16)  # gradient steps per batch, with the clip and without
    impressions: tuple[int, ...] = (500, 2000, 8000, 32000)  # logs for the reward model
    betas: tuple[float, ...] = (0.0, 0.03, 0.1, 0.3, 1.0)  # KL penalties
    hacking_updates: int = 300
    hacking_lr: float = 0.01  # small, so that the snapshots see the way and not only its end
    lengths: tuple[int, ...] = (1, 2, 4, 8, 16, 32)  # slots, for the study of ratios
    drift: float = 0.01  # nats per token between the policy that drew and the policy that learns


SCALES = {
    "smoke": Config(
        preset="tiny", users=16, ads=8, page_slots=3, page_ads=4, climb=60, groups=8, size=4, updates=20,
        learning_rates=(0.03, 0.1), tuning_seeds=2, budget=32, group_sizes=(2, 8), replicates=100,
        sparsity=(0.1, 1.0), epochs=(1, 4), impressions=(500, 2000), betas=(0.0, 0.1), hacking_updates=30,
        lengths=(1, 4),
    ),
    "book": Config(),  # the chapter runs one seed live at the recorded sizes
    "full": Config(),
}  # fmt: skip


Measured = list[tuple[str, float | None, Tensor]]  # metric, swept value or None, one number per seed


@dataclass(frozen=True)
class Recorder:
    """Writes what a stack of seeds measured, seed by seed, and knows what is there already."""

    seeds: Sequence[int]
    force: bool
    root: Path | str | None

    def needs(self, arm: str, setting: str, config: dict[str, object]) -> bool:
        """Whether any seed of this arm has to be run."""
        return self.force or not all(
            finished(NAME, arm=arm, dataset="adworld", setting=setting, seed=seed, config=config, root=self.root)
            for seed in self.seeds
        )

    def save(self, arm: str, setting: str, config: dict[str, object], seconds: float, measured: Measured) -> None:
        """One run per seed; `seconds` is the time of the whole stack, shared out evenly."""
        for position, seed in enumerate(self.seeds):
            with record(
                NAME, arm=arm, dataset="adworld", setting=setting, seed=seed, config=config, force=True,
                seconds=seconds / len(self.seeds), root=self.root,
            ) as run:  # fmt: skip
                for metric, x, values in measured:
                    run.log(metric, float(values[position]), x=x)


TUNING = 10_000  # seeds from here on choose learning rates and are never reported

KINDS: dict[str, Callable[[AdBandit], AdBandit]] = {  # what a bandit pays for
    "clicks": lambda bandit: bandit,
    "page": lambda bandit: bandit,
    "rare clicks": lambda bandit: sparser(bandit, 0.1),
    "right answers": verifiable,
    "revenue": revenue,
}


def make_bandit(config: Config, seeds: Sequence[int], kind: str = "clicks") -> AdBandit:
    """The bandits of these seeds."""
    world = ad_world(config.preset)
    if kind == "page":
        bandit = ad_bandit(world, seeds, users=config.users, slots=config.page_slots, ads=config.page_ads)
        return replace(bandit, cost=config.page_cost)
    return KINDS[kind](ad_bandit(world, seeds, users=config.users, slots=1, ads=config.ads))


@cache
def measured_bandit(config: Config, seeds: tuple[int, ...], kind: str = "clicks") -> tuple[AdBandit, Scale]:
    """Bandits and their ruler, kept because several experiments use the same."""
    bandit = make_bandit(config, seeds, kind)
    return bandit, scale_of(bandit, config.climb)


class Tuned(NamedTuple):
    """A learner trained at every learning rate of the grid; `chosen` is the one the tuning seeds like best."""

    training: Training  # stack of rates × seeds, rates first
    gain: Float[Tensor, "snapshots rates seeds"]
    at_budget: Float[Tensor, "rates seeds"]  # gain after updates * groups * size pages
    chosen: int


def tune(
    bandit: AdBandit, scale: Scale, learner: Learner, config: Config, *, tuning: int, rates: Sequence[float]
) -> Tuned:
    """Train on every seed at every rate at once; the first `tuning` seeds choose. All learners draw alike."""
    seeds = len(bandit.user)
    stack = bandit.seeds(torch.arange(seeds).repeat(len(rates)))
    lr = torch.tensor(rates, dtype=torch.float32).repeat_interleave(seeds)
    training = train(
        stack, learner, lr, updates=config.updates, groups=config.groups, size=config.size, every=config.every,
        generator=torch.Generator().manual_seed(3),
    )  # fmt: skip
    reward = follow(stack, training.snapshots).reshape(-1, len(rates), seeds)
    gain = scale.gain(reward)
    samples = training.samples_at_snapshots().reshape(-1, len(rates), seeds)
    at_budget = at_samples(samples, gain, config.updates * config.groups * config.size)
    chosen = int(at_budget[:, :tuning].mean(1).argmax()) if tuning else 0
    return Tuned(training, gain, at_budget, chosen)


def at_samples(
    samples: Float[Tensor, "snapshots *stack"], values: Float[Tensor, "snapshots *stack"], budget: float
) -> Float[Tensor, "*stack"]:
    """Values between snapshots, at a given number of samples, linearly interpolated."""
    after = (samples >= budget).double().argmax(0, keepdim=True).clamp(min=1)
    x0, x1 = samples.gather(0, after - 1), samples.gather(0, after)
    y0, y1 = values.double().gather(0, after - 1), values.double().gather(0, after)
    return (y0 + (y1 - y0) * ((budget - x0) / (x1 - x0)).clamp(0, 1)).squeeze(0)


ON_POLICY = Learner("group mean and std", grpo_loss)
STD_LEARNERS = {
    "group mean": Learner("group mean", dr_grpo_loss),
    "group mean and std": Learner("group mean and std", dr_grpo_loss),
}
LENGTH_LEARNERS = {
    "mean over tokens, then pages": Learner("group mean", grpo_loss),
    "mean over all tokens": Learner("group mean", dapo_loss),
    "sum over tokens": Learner("group mean", dr_grpo_loss),
}
DYNAMIC_LEARNERS = {"GRPO": ON_POLICY, "GRPO + dynamic sampling": replace(ON_POLICY, dynamic=True)}


def clip_learners(config: Config) -> dict[str, Learner]:
    """GRPO with several epochs per batch, with the clip and without."""
    return {
        f"{epochs} epochs, {name}": replace(ON_POLICY, epochs=epochs, clip_low=low, clip_high=high)
        for epochs in config.epochs
        for name, low, high in (("clip", 0.2, 0.2), ("no clip", 1.0, math.inf))
    }


def learning_settings(config: Config) -> dict[str, tuple[str, dict[str, Learner]]]:
    """Every learning experiment: its kind of bandit, and who learns."""
    return {
        "one ad": ("clicks", LEARNERS),
        "page": ("page", LEARNERS),
        "dynamic sampling, clicks": ("clicks", DYNAMIC_LEARNERS),
        "dynamic sampling, rare clicks": ("rare clicks", DYNAMIC_LEARNERS),
        "dynamic sampling, right answers": ("right answers", DYNAMIC_LEARNERS),
        "deviation, clicks": ("clicks", STD_LEARNERS),
        "deviation, revenue": ("revenue", STD_LEARNERS),
        "deviation, page": ("page", STD_LEARNERS),
        "length": ("page", LENGTH_LEARNERS),
        "epochs": ("clicks", clip_learners(config)),
    }


def some(config: Config, *names: str) -> dict[str, object]:
    """What a run depends on, for its record."""
    return {name: getattr(config, name) for name in names}


LEARNING = ("preset", "users", "climb", "groups", "size", "updates", "every", "learning_rates", "tuning_seeds")
ONE_AD, PAGE = ("ads",), ("page_slots", "page_ads", "page_cost")


def run_learning(config: Config, recorder: Recorder) -> None:
    """Learning curves at equal samples and equal tuning, for every setting."""
    tuning = config.tuning_seeds
    seeds = (*range(TUNING, TUNING + tuning), *recorder.seeds)
    for setting, (kind, learners) in learning_settings(config).items():
        note = some(config, *LEARNING, *(PAGE if kind == "page" else ONE_AD))
        todo = {arm: learner for arm, learner in learners.items() if recorder.needs(arm, setting, note)}
        for arm, learner in tqdm(todo.items(), desc=setting):
            bandit, scale = measured_bandit(config, seeds, kind)
            began = time.perf_counter()
            found = tune(bandit, scale, learner, config, tuning=tuning, rates=config.learning_rates)
            measured = learning_measured(found, config, tuning)
            if learners is STD_LEARNERS and kind != "page":
                measured += by_difficulty(bandit, scale, found, tuning)
            recorder.save(arm, setting, note, time.perf_counter() - began, measured)


def learning_measured(found: Tuned, config: Config, tuning: int) -> Measured:
    """The numbers of one learner: at its chosen rate, and its final gain at all of them."""
    rates = len(found.at_budget)
    per_batch = config.groups * config.size

    def logged(x: Tensor) -> Tensor:  # [time, stack] at the chosen rate, without the tuning seeds: [time, seeds]
        return x.double().reshape(len(x), rates, -1)[:, found.chosen, tuning:]

    best = found.at_budget[found.chosen, tuning:]
    samples = logged(found.training.samples_at_snapshots())
    gain = found.gain[:, found.chosen, tuning:]

    measured: Measured = [
        ("gain", None, best),
        ("gain at equal updates", None, gain[-1]),
        ("learning rate", None, torch.full_like(best, config.learning_rates[found.chosen])),
        ("clip fraction", None, logged(found.training.clip_fraction).mean(0)),
        ("token ratio std", None, logged(found.training.token_ratio_std).mean(0)),
        ("sequence ratio std", None, logged(found.training.sequence_ratio_std).mean(0)),
        ("zero variance at first", None, logged(found.training.zero_variance)[: config.every].mean(0)),
        ("zero variance at last", None, logged(found.training.zero_variance)[-config.every :].mean(0)),
        ("length at last", None, logged(found.training.length)[-config.every :].mean(0)),
        ("pages drawn", None, samples[-1]),
    ]
    for rate, values in zip(config.learning_rates, found.at_budget[:, tuning:], strict=True):
        measured.append(("gain by rate", rate, values))
    for step in found.training.steps:
        drawn = step * per_batch
        measured.append(("gain curve", drawn, at_samples(samples, gain, drawn) if step else gain[0]))
        if step:
            window = slice(step - config.every, step)
            measured.append(("zero variance curve", step, logged(found.training.zero_variance)[window].mean(0)))
            measured.append(("length curve", step, logged(found.training.length)[window].mean(0)))
    return measured


def by_difficulty(bandit: AdBandit, scale: Scale, found: Tuned, tuning: int) -> Measured:
    """Expected reward of the hardest, middle and easiest third of users, over that at the end of the climb.

    A user is easy if the uniform policy earns much from them.
    """
    seeds = len(bandit.user)
    last = Policy(*(w.reshape(-1, seeds, *w.shape[1:])[found.chosen] for w in found.training.snapshots[-1]))
    rank = expected_reward(bandit, log_policy(bandit, uniform_policy(bandit))).argsort(1)
    reward, ruler = (expected_reward(bandit, log_policy(bandit, policy)) for policy in (last, scale.top))
    thirds = zip(("hard", "middle", "easy"), rank.tensor_split(3, dim=1), strict=True)
    return [
        (f"reward of {name} users", None, (reward.gather(1, rows).sum(1) / ruler.gather(1, rows).sum(1))[tuning:])
        for name, rows in thirds
    ]


def run_gradients(config: Config, recorder: Recorder) -> None:
    """Bias and variance of the gradient by baseline and group size at one budget of samples."""
    note = some(config, "preset", "users", "ads", "climb", "budget", "group_sizes", "replicates")
    todo = [stage for stage in ("uniform", "half way") if recorder.needs("exact value", f"gradient, {stage}", note)]
    if not todo:
        return
    bandit, scale = measured_bandit(config, tuple(recorder.seeds))
    for stage in todo:
        began = time.perf_counter()
        policy = uniform_policy(bandit) if stage == "uniform" else scale.half
        found: dict[str, Measured] = {name: [] for name in BASELINES}
        for size in tqdm(config.group_sizes, desc=f"gradient, {stage}"):
            quality = baseline_quality(
                bandit, policy, size, budget=config.budget, replicates=config.replicates,
                generator=torch.Generator().manual_seed(3),
            )  # fmt: skip
            for name, numbers in quality.items():
                found[name] += [(metric, size, values) for metric, values in numbers._asdict().items()]
        seconds = (time.perf_counter() - began) / len(found)
        for name, measured in found.items():
            recorder.save(name, f"gradient, {stage}", note, seconds, measured)


def run_zero_variance(config: Config, recorder: Recorder) -> None:
    """Exact share of groups without variance, by group size, by how rare clicks are, and by policy."""
    note = some(config, "preset", "users", "ads", "climb", "group_sizes", "sparsity")
    last = f"odds × {config.sparsity[-1]:g}"
    if not recorder.needs("trained", last, note):
        return
    began = time.perf_counter()
    bandit = make_bandit(config, recorder.seeds)
    found: dict[tuple[str, str], Measured] = {}
    for factor in tqdm(config.sparsity, desc="zero variance"):
        rare = sparser(bandit, factor)
        scale = scale_of(rare, config.climb)
        for name, policy in (("uniform", uniform_policy(rare)), ("half way", scale.half), ("trained", scale.top)):
            rate = expected_reward(rare, log_policy(rare, policy)).mean(1)
            found[name, f"odds × {factor:g}"] = [("click rate", None, rate)] + [
                ("zero variance", size, zero_variance_share(rare, policy, size)) for size in config.group_sizes
            ]
    seconds = (time.perf_counter() - began) / len(found)
    for (name, setting), measured in found.items():
        recorder.save(name, setting, note, seconds, measured)


def run_weights(config: Config, recorder: Recorder) -> None:
    """What dividing by the group's deviation does to easy and hard users: exact, the same for every seed."""
    note = some(config, "size")
    probabilities = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)
    arms: dict[str, Literal["sample", "none"]] = {"group mean": "none", "group mean and std": "sample"}
    for arm, std in arms.items():
        if not recorder.needs(arm, "weight of a user", note):
            continue
        measured: Measured = []
        for p in probabilities:
            weight = difficulty_weight(p, config.size, std)
            measured.append(("weight", p, torch.full((len(recorder.seeds),), weight, dtype=torch.double)))
        recorder.save(arm, "weight of a user", note, 0.0, measured)


class Log(NamedTuple):
    """Where the reward model learns, which is also where the policy starts."""

    own: bool  # the log of a policy that is half-way already, the start of training; False: of random ads
    taps: bool  # accidental taps count as clicks


LOGS = {
    "clean log": Log(own=False, taps=False),
    "log with taps": Log(own=False, taps=True),
    "own clean log": Log(own=True, taps=False),
    "own log with taps": Log(own=True, taps=True),
}


def run_hacking(config: Config, recorder: Recorder) -> None:
    """GRPO on the score of a learned reward model: what the model believes, what is true, and how far it went."""
    note = some(config, "preset", "users", "ads", "climb", "groups", "size", "hacking_lr", "hacking_updates", "every")
    runs = [
        (name, impressions, beta)
        for name in LOGS
        for impressions in config.impressions
        # The KL penalty is swept on the second largest log.
        for beta in (config.betas if impressions == config.impressions[-2] else config.betas[:1])
    ]
    for name, impressions, beta in tqdm(runs, desc="reward hacking"):
        arm, setting = f"beta = {beta:g}", f"{name}, {impressions} impressions"
        if recorder.needs(arm, setting, note):
            began = time.perf_counter()
            truth, scale = measured_bandit(config, tuple(recorder.seeds), "revenue")
            proxy, training = hack(truth, scale, LOGS[name], impressions, beta, config)
            measured = hacking_measured(truth, proxy, scale, training)
            recorder.save(arm, setting, note, time.perf_counter() - began, measured)


def hack(
    truth: AdBandit, scale: Scale, log: Log, impressions: int, beta: float, config: Config
) -> tuple[AdBandit, Training]:
    """Fit a reward model to a log, then maximise its score by GRPO with a KL penalty to the start."""
    generator = torch.Generator().manual_seed(impressions)
    start = scale.half if log.own else uniform_policy(truth)
    proxy = fit_reward_model(truth, start, impressions, log.taps, generator)
    training = train(
        proxy, replace(ON_POLICY, beta=beta), torch.full((len(truth.user),), config.hacking_lr),
        updates=config.hacking_updates, groups=config.groups, size=config.size, every=config.every,
        generator=generator, start=start,
    )  # fmt: skip
    return proxy, training


def hacking_measured(truth: AdBandit, proxy: AdBandit, scale: Scale, training: Training) -> Measured:
    """True gain, the gain the reward model believes in (on the same scale), and the KL, along training."""
    gold = scale.gain(follow(truth, training.snapshots))
    believed = scale.gain(follow(proxy, training.snapshots))
    start = training.snapshots[0]
    kl = torch.stack([kl_to(truth, policy, start) for policy in training.snapshots])
    peak = gold.amax(0)
    measured: Measured = [
        ("true gain", None, gold[-1]),
        ("peak", None, peak),
        ("fall", None, peak - gold[-1]),  # 0: never too much
        ("peak kl", None, kl.gather(0, gold.argmax(0, keepdim=True))[0]),
    ]
    for position, step in enumerate(training.steps):
        measured += [
            ("true gain curve", step, gold[position]),
            ("believed gain curve", step, believed[position]),
            ("kl curve", step, kl[position]),
        ]
    return measured


def run_kl(config: Config, recorder: Recorder) -> None:
    """k1 and k3 between the uniform policy and ever better ones."""
    note = some(config, "preset", "users", "ads", "climb")
    if not recorder.needs("k3", "kl", note):
        return
    began = time.perf_counter()
    bandit, scale = measured_bandit(config, tuple(recorder.seeds))
    start = uniform_policy(bandit)
    measured: Measured = []
    for share in (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0):
        policy = between(start, scale.top, torch.full((len(recorder.seeds),), share))
        found = kl_quality(bandit, policy, start)
        measured += [(metric, share, values) for metric, values in found._asdict().items()]
    recorder.save("k3", "kl", note, time.perf_counter() - began, measured)


def run_ratios(config: Config, recorder: Recorder) -> None:
    """Ratios of tokens, of geometric means and of whole pages, as pages grow longer."""
    note = some(config, "preset", "climb", "page_ads", "lengths", "drift", "groups", "size", "replicates")
    if not recorder.needs("page", "off-policy", note):
        return
    began = time.perf_counter()
    found: dict[str, Measured] = {name: [] for name in RATIOS}
    for slots in tqdm(config.lengths, desc="off-policy"):
        bandit = ad_bandit(
            ad_world(config.preset), recorder.seeds, users=config.groups, slots=slots, ads=config.page_ads
        )
        bandit = replace(bandit, may_stop=False)
        scale = scale_of(bandit, config.climb)
        nats = torch.full((len(recorder.seeds),), config.drift * slots)
        new = move_by_kl(bandit, scale.half, scale.top, nats)
        quality, spread = ratio_quality(
            bandit, scale.half, new, groups=config.groups, size=config.size, replicates=config.replicates // 2,
            generator=torch.Generator().manual_seed(3),
        )  # fmt: skip
        for name in RATIOS:
            found[name].append(("log ratio std", slots, spread[name]))
            found[name] += [(metric, slots, values) for metric, values in quality[name]._asdict().items()]
    seconds = (time.perf_counter() - began) / len(found)
    for name, measured in found.items():
        recorder.save(name, "off-policy", note, seconds, measured)


def run(config: Config, seeds: Sequence[int], *, force: bool = False, root: Path | str | None = None) -> None:
    """Measure everything the chapter shows, all seeds at once, one arm after the other."""
    recorder = Recorder(seeds, force, root)
    run_weights(config, recorder)
    run_kl(config, recorder)
    run_zero_variance(config, recorder)
    run_hacking(config, recorder)
    run_gradients(config, recorder)
    run_ratios(config, recorder)
    run_learning(config, recorder)
