"""Two rewards for chapter 11's semantic-ID generator, fine-tuned on groups of a beam with this chapter's arms.

The world, the generator and its training are those of `tuning_lab`, with the dial of bids set; a group is what a beam
of 16 finds for a prompt. Business is the log eCPM of a candidate at this moment, meaning its true fit.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from reclib.experiments.group_searches import SEARCHES
from reclib.experiments.group_tuning import Learner
from reclib.experiments.tuning_lab import Lab, Study, ask, chance_of_leaves, question, recommender, tokens_of
from reclib.experiments.two_rewards import ARMS, Arm, Group
from reclib.generation import DecoderOnly
from reclib.objectives.sgrec import SGRecConfig, asked_groups, sgrec_loss
from reclib.objectives.vstar import ActorCritic, ValueHead, score_sequences

GENERATOR_ARMS = ("business only", "semantic only", "reward sum", "advantage sum", "a2po", "a2po, shuffled judge")
_STUDY, _METHOD = Study(lr=1e-3), SGRecConfig(ratio=1.0)


@dataclass(frozen=True)
class GeneratorConfig:
    """How the generator is fine-tuned; one recipe for all arms."""

    study: Study = _STUDY  # world, codes, generator, batches; the learning rate is chapter 11's for revenue
    method: SGRecConfig = _METHOD
    noise: float = 1.0  # standard deviation of the error of log eCPM while training, as for the policies
    judged: int = 1000  # test cases that lists are judged on


class Pairs(NamedTuple):
    """What the world knows of every leaf at some moments."""

    business: Float[Tensor, "n leaves"]  # log eCPM
    fit: Float[Tensor, "n leaves"]


def truth_of_leaves(lab: Lab, event: Int[Tensor, "n"]) -> Pairs:
    """Look it up."""
    items = lab.leaf_item.expand(len(event), -1).numpy()
    business = torch.from_numpy(lab.truth.expected_revenue(None, items, event=event.numpy()))
    fit = torch.from_numpy(lab.truth.semantic_fit(None, items, event=event.numpy()))
    return Pairs((1000 * business).log().float(), fit.float())


def fine_tune_on_two(
    lab: Lab, arm: Arm, config: GeneratorConfig, seed: int, *, progress: bool = True
) -> tuple[DecoderOnly, dict[str, float]]:
    """Fine-tune a copy of the lab's generator; returns it, and `flips`, `inflation` and `target` of its groups."""
    study, generator = config.study, torch.Generator().manual_seed(seed)
    learner = Learner(lab, ValueHead, study, study.lr, seed)
    reference = ActorCritic(copy.deepcopy(lab.policy), learner.model.value)
    seen = torch.zeros(4)
    for prompts in learner.batches(progress=progress):
        target = tokens_of(lab, prompts.target)
        leaf = SEARCHES["beam"](learner.model, question(lab, prompts), study.decoding, target, generator)
        known = truth_of_leaves(lab, torch.from_numpy(prompts.event))
        error = config.noise * torch.randn(leaf.shape, generator=generator)
        order = torch.rand(leaf.shape, generator=generator)
        asked = asked_groups((len(leaf),), config.method.ratio if arm.judged else 0.0, generator)
        group = Group(
            known.business.gather(1, leaf) + error,
            known.fit.gather(1, leaf),
            asked,
            torch.full((1, 1), arm.knob),
            order,
        )
        gain = arm.advantages(group)
        with torch.no_grad():
            before = score_sequences(reference, lab.trie, prompts.history, leaf, exclude=prompts.clicked).log_prob
        log_prob = score_sequences(learner.model, lab.trie, prompts.history, leaf, exclude=prompts.clicked).log_prob
        learner.step(sgrec_loss(log_prob, log_prob.detach(), gain, None, before, config.method))
        base = ARMS["business only"].advantages(group)
        flipped = (base != 0) & (gain.sign() != base.sign())
        hit = (leaf == prompts.target[:, None]).any(1)
        seen += torch.stack([flipped.float().mean(), gain.abs().mean(), base.abs().mean(), hit.float().mean()])
    flips, size, plain, target_rate = (seen / study.steps).tolist()
    tuned = learner.model.policy
    assert isinstance(tuned, DecoderOnly)
    return tuned, {"flips": flips, "inflation": size / plain, "target": target_rate}


@torch.no_grad()
def lists(lab: Lab, policy: DecoderOnly, config: GeneratorConfig) -> dict[str, float]:
    """Of the ten ads that the generator would show test users: mean log eCPM, eCPM and fit; `…@1` of the first.

    `hr@10` and `ndcg@10` are expected under the true law of the next click.
    """
    cases, width = lab.split.test, config.study.recipe.max_len
    rows = torch.randperm(len(cases), generator=torch.Generator().manual_seed(0))[: config.judged].numpy()
    prompts = ask(lab, cases, rows, width)
    found = recommender(lab, policy, config.study).recommend(prompts.history, 10, exclude=prompts.clicked)
    top = lab.trie.leaf[found]
    known = truth_of_leaves(lab, torch.from_numpy(prompts.event))
    chance = chance_of_leaves(lab, prompts.event).gather(1, top)
    business, fit = known.business.gather(1, top), known.fit.gather(1, top)
    discount = 1 / torch.arange(2.0, 12.0).log2()
    return {
        "business": float(business.mean()),
        "ecpm": float(business.exp().mean()),
        "semantic": float(fit.mean()),
        "business@1": float(business[:, 0].mean()),
        "semantic@1": float(fit[:, 0].mean()),
        "hr@10": float(chance.sum(1).mean()),
        "ndcg@10": float((chance * discount).sum(1).mean()),
    }
