"""Fine-tuning a generator on groups of candidates: GRPO with somebody's search, V-STAR's parts, and a control.

All arms take as many prompts, in the same order, from the same weights, and each search may spend as many forwards on a
group. (Training itself then reads each candidate once more with a gradient, the same number in every arm; where a value
head learns, the target's path too.)
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from tqdm.auto import tqdm

from reclib.experiments.group_searches import SEARCHES, Search, by_sampling, different
from reclib.experiments.tuning_lab import (
    Lab,
    Prompts,
    Reward,
    Rewarded,
    Study,
    ask,
    click_reward,
    question,
    revenue_reward,
    tokens_of,
)
from reclib.objectives.grpo import dapo_loss, group_advantages, gspo_loss, kl_k3
from reclib.objectives.vstar import (
    ActorCritic,
    ValueHead,
    VStarConfig,
    VStarLoss,
    score_sequences,
    sibling_advantages,
    td_targets,
    vstar_loss,
)

# ---------------------------------------------------------------------------------------------------------- arms

PolicyLoss = Callable[[Tensor, Tensor, Tensor, Tensor, float], Tensor]


def dapo(
    log_prob: Float[Tensor, "batch size levels"],
    old: Float[Tensor, "batch size levels"],
    reference: Float[Tensor, "batch size levels"],
    rewards: Float[Tensor, "batch size"],
    beta: float,
) -> Float[Tensor, ""]:
    """DAPO's loss over the groups that have some variance; the others are dropped, not drawn anew (equal forwards).

    DAPO has no penalty, so `reference` and `beta` are not looked at.
    """
    found = group_advantages(rewards)
    mask = ~found.zero_variance[:, None, None].expand(log_prob.shape)
    return dapo_loss(log_prob.flatten(0, 1), old.flatten(0, 1), found.advantages.flatten(), mask.flatten(0, 1))


def gspo(
    log_prob: Float[Tensor, "batch size levels"],
    old: Float[Tensor, "batch size levels"],
    reference: Float[Tensor, "batch size levels"],
    rewards: Float[Tensor, "batch size"],
    beta: float,
) -> Float[Tensor, ""]:
    """GSPO's loss: one ratio per semantic ID; the penalty as in GRPO."""
    penalty = beta * kl_k3(log_prob, reference).mean()
    return gspo_loss(log_prob, old, group_advantages(rewards).advantages).mean() + penalty


@dataclass(frozen=True)
class Arm:
    """A way to fine-tune."""

    search: Search = SEARCHES["ved"]
    reward: Reward = click_reward
    sibling: bool = False  # whether siblings are compared
    floor: float = 0.0  # smallest standard deviation of siblings
    value: bool = True  # whether a value head is trained, with its gradient into the network
    head: type[ValueHead] = ValueHead
    policy_loss: PolicyLoss | None = None  # in the place of GRPO's
    epochs: int = 1  # gradient steps per batch

    def about(self) -> dict[str, Any]:
        """For the record: what makes this arm, functions by their names."""
        parts = {f"search {f.name}": getattr(self.search, f.name) for f in fields(self.search)}
        parts |= {f.name: getattr(self, f.name) for f in fields(self) if f.name != "search"}
        return {name: part.__name__ if callable(part) else part for name, part in parts.items()}


# ------------------------------------------------------------------------------------------- values to begin with


class Listener(nn.Module):
    """In the place of a value head: notes what one would see."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self.heard: list[Tensor] = []

    def forward(self, hidden: Float[Tensor, "batch beams dim"]) -> Float[Tensor, "batch beams vocabulary"]:
        """Zeros."""
        self.heard.append(hidden)
        return hidden.new_zeros(*hidden.shape[:2], self.vocabulary)


def value_start(lab: Lab, reward: Reward, study: Study, seed: int) -> dict[str, Tensor]:
    """Weights of a value head after some passes over groups that the generator has drawn, before any fine-tuning.

    Our choice: the paper's head starts from nothing, and learns from ten times as many groups as there are here. The
    network stands still, so its hidden states are computed once.
    """
    rng, generator = np.random.default_rng([seed, 12]), torch.Generator().manual_seed(seed)
    listener = Listener(lab.ids.vocabulary)
    model = ActorCritic(copy.deepcopy(lab.policy), listener)
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    for _ in range(study.value_batches):
        rows = rng.choice(len(lab.prompts), study.prompts, replace=False)
        prompts = ask(lab, lab.prompts, rows, study.recipe.max_len)
        with torch.no_grad():
            leaf = by_sampling(model, question(lab, prompts), study.decoding, generator)
            every = torch.cat([leaf, prompts.target[:, None]], dim=1)
            listener.heard.clear()
            score_sequences(model, lab.trie, prompts.history, every, exclude=prompts.clicked)
        hidden = torch.stack([x.expand(-1, every.shape[1], -1) for x in listener.heard], dim=2)
        parts.append((hidden, tokens_of(lab, every), reward(lab, prompts, leaf).dense))
    hidden, token, dense = (torch.cat(part) for part in zip(*parts, strict=True))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = ValueHead(study.recipe.dim, lab.ids.vocabulary)
    optimizer = torch.optim.AdamW(head.parameters(), weight_decay=0.0)
    order = [row for _ in range(study.value_epochs) for row in rng.permutation(len(hidden)).reshape(-1, study.prompts)]
    for step, rows in enumerate(order):
        for group in optimizer.param_groups:
            group["lr"] = study.value_lr * (1 - step / len(order))
        values = head(hidden[rows].flatten(0, 1)).view(*token[rows].shape, -1)
        value = values.gather(3, token[rows][..., None])[..., 0]
        optimizer.zero_grad()
        torch.autograd.backward((value - td_targets(dense[rows], value, study.loss.gamma)).square().mean())
        optimizer.step()
    return head.state_dict()


def starting_point(lab: Lab, start: dict[str, Tensor], study: Study) -> ActorCritic:
    """The generator with the values that fine-tuning starts from."""
    head = ValueHead(study.recipe.dim, lab.ids.vocabulary)
    head.load_state_dict(start)
    return ActorCritic(copy.deepcopy(lab.policy), head).eval()


# ------------------------------------------------------------------------------------------------------- training


class Tuned(NamedTuple):
    """What fine-tuning leaves behind."""

    model: ActorCritic
    curves: dict[str, list[float]]  # a value per batch
    seconds: float


def fine_tune(
    lab: Lab, arm: Arm, study: Study, seed: int, *, start: dict[str, Tensor] | None = None, progress: bool = True
) -> Tuned:
    """Fine-tune a copy of the lab's policy on groups.

    Args:
        start: of the value head, see `value_start`; None: from nothing.
    """
    began = time.perf_counter()
    generator = torch.Generator().manual_seed(seed)
    learner = Learner(lab, arm.head, study, study.revenue_lr if arm.reward is revenue_reward else study.lr, seed)
    model, reference = learner.model, ActorCritic(copy.deepcopy(lab.policy), learner.model.value)
    if start is not None:
        model.value.load_state_dict(start)
    config = _loss_config(arm, study)
    curves: dict[str, list[float]] = {}
    for prompts in learner.batches(progress=progress):
        leaf = arm.search(model, question(lab, prompts), study.decoding, tokens_of(lab, prompts.target), generator)
        found, size = arm.reward(lab, prompts, leaf), leaf.shape[1]
        every = torch.cat([leaf, prompts.target[:, None]], dim=1) if arm.value else leaf
        codes, dense = lab.ids.codes[lab.leaf_item[leaf]], found.dense[:, : every.shape[1]]
        with torch.no_grad():
            before = score_sequences(reference, lab.trie, prompts.history, leaf, exclude=prompts.clicked).log_prob
        old: Tensor | None = None
        for _ in range(arm.epochs):
            scored = score_sequences(model, lab.trie, prompts.history, every, exclude=prompts.clicked)
            log_prob = scored.log_prob[:, :size]
            old = log_prob.detach() if old is None else old
            loss = vstar_loss(scored, old, before, found.rewards, found.siblings, codes, dense, config)
            if arm.policy_loss is not None:
                policy = arm.policy_loss(log_prob, old, before, found.rewards, config.beta)
                loss = loss._replace(policy=policy)
            learner.step(loss.total)
        for name, value in _about_groups(lab, prompts, leaf, found, codes, loss).items():
            curves.setdefault(name, []).append(value)
    return Tuned(model, curves, time.perf_counter() - began)


def supervise(lab: Lab, study: Study, seed: int, *, progress: bool = True) -> Tuned:
    """The control: as many steps on the same prompts, towards the clicked item and without any reward."""
    began = time.perf_counter()
    learner = Learner(lab, ValueHead, study, study.lr, seed)
    for prompts in learner.batches(progress=progress):
        target = prompts.target[:, None]
        scored = score_sequences(learner.model, lab.trie, prompts.history, target, exclude=prompts.clicked)
        learner.step(-scored.log_prob.mean())
    return Tuned(learner.model, {}, time.perf_counter() - began)


class Learner:
    """A copy of the lab's policy with a value head, their optimiser, and the prompts that they learn from."""

    def __init__(self, lab: Lab, head: type[ValueHead], study: Study, lr: float, seed: int) -> None:
        self.lab, self.study = lab, study
        self.rng = np.random.default_rng([seed, 11])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            value = head(study.recipe.dim, lab.ids.vocabulary)
        # Without dropout: the ratio of the first step must be 1.
        self.model = ActorCritic(copy.deepcopy(lab.policy), value).eval()
        groups = (self.model.policy, lr), (value, study.head_lr)
        self.optimizer = torch.optim.AdamW(
            [{"params": part.parameters(), "peak": peak} for part, peak in groups], weight_decay=0.0
        )

    def batches(self, *, progress: bool) -> Iterator[Prompts]:
        """Prompts, batch after batch; the learning rates follow the schedule."""
        study, cases = self.study, self.lab.prompts
        for step in tqdm(range(study.steps), disable=not progress, desc="batches", leave=False):
            for group in self.optimizer.param_groups:
                group["lr"] = group["peak"] * schedule(step, study)
            rows = self.rng.choice(len(cases), study.prompts, replace=False)
            yield ask(self.lab, cases, rows, study.recipe.max_len)

    def step(self, loss: Float[Tensor, ""]) -> None:
        """One gradient step."""
        if not torch.isfinite(loss):
            raise FloatingPointError("the loss is NaN or infinite; lower lr or value_lr")
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(self.model.policy.parameters(), self.study.clip)
        self.optimizer.step()


def schedule(step: int, study: Study) -> float:
    """Linear warm-up, then linearly to zero."""
    warm = study.warmup * study.steps
    return min((step + 1) / max(warm, 1), (study.steps - step) / study.steps)


def _loss_config(arm: Arm, study: Study) -> VStarConfig:
    config = study.loss
    return replace(
        config,
        sibling_weight=float(arm.sibling) * config.sibling_weight,
        value_weight=float(arm.value) * config.value_weight,
        floor=arm.floor,
    )


def _about_groups(
    lab: Lab,
    prompts: Prompts,
    leaf: Int[Tensor, "batch size"],
    found: Rewarded,
    codes: Int[Tensor, "batch size levels"],
    loss: VStarLoss,
) -> dict[str, float]:
    """What one would log of a batch of groups."""
    rewards = found.rewards
    return {
        "group/spread": float(rewards.std(1, correction=0).mean()),
        "group/zero variance": float(group_advantages(rewards).zero_variance_share),
        "group/branching": float(sibling_advantages(found.siblings, codes).branching_share),
        "group/target": float((leaf == prompts.target[:, None]).any(1).float().mean()),
        "group/reward": float(rewards.mean()),
        "group/best": float(rewards.amax(1).mean()),
        "group/first codes": different(codes[..., 0]),
        "group/different": different(leaf),
        "loss/value": float(loss.value.detach()),
    }
