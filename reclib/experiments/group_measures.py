"""What is measured of a fine-tuned generator, of the groups that a search finds, and of values.

All of it on test cases. In the ad world much of it is exact: chances and revenues are those that the world has, so a
list is judged without the noise of the one click that was logged.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from reclib.evaluation import Recommender, evaluate
from reclib.experiments.group_searches import SEARCHES, by_sampling, different, first_different
from reclib.experiments.tuning_lab import (
    Lab,
    Prompts,
    Study,
    chance_of_leaves,
    question,
    revenue_of_leaves,
    some_questions,
    tokens_of,
)
from reclib.objectives.vstar import ActorCritic, grow, plant, score_sequences

KS = (1, 3, 5, 10, 20, 50)

# ------------------------------------------------------------------------------------------------- recommendation


def measure(lab: Lab, model: Recommender) -> dict[str, float]:
    """Test metrics, and in the world what it knows about the same lists.

    `test/…`: hits on the logged item. `truth/recall@k`, `truth/ndcg@k`: their expectation under the true law of the
    next click, which has far less noise. `truth/revenue@k`: expected cents per impression, mean over a list.
    """
    found = evaluate(model, lab.split.test, ks=tuple(k for k in KS if k < lab.ids.n_items))
    metrics = {f"test/{name}": value for name, value in found.metrics().items()}
    event, top = lab.split.test.target, found.top
    metrics["test/first codes@10"] = different(lab.ids.codes[top[:, :10], 0])
    if lab.world is None:
        return metrics
    chance = torch.from_numpy(lab.world.next_item_distribution(event=event)).gather(1, top)
    chance = torch.where(top > 0, chance, 0)
    money = torch.from_numpy(lab.world.expected_revenue(None, top[:, :10].clamp(min=1).numpy(), event=event))
    money = torch.where(top[:, :10] > 0, money, 0)
    discount = 1 / torch.log2(torch.arange(top.shape[1]) + 2.0)
    for k in found.ks:
        metrics[f"truth/recall@{k}"] = float(chance[:, :k].sum(1).mean())
        metrics[f"truth/ndcg@{k}"] = float((chance * discount)[:, :k].sum(1).mean())
    for k in (1, 10):
        metrics[f"truth/revenue@{k}"] = float(money[:, :k].mean())
    return metrics


@torch.no_grad()
def distance(lab: Lab, model: ActorCritic, study: Study, seed: int) -> float:
    """KL(π ‖ π at the start), nats per recommended item, from draws of π."""
    prompts = some_questions(lab, study)
    leaf = by_sampling(model, question(lab, prompts), study.decoding, torch.Generator().manual_seed(seed))
    start = ActorCritic(copy.deepcopy(lab.policy), model.value)
    now, before = (
        score_sequences(m, lab.trie, prompts.history, leaf, exclude=prompts.clicked).log_prob.sum(-1)
        for m in (model, start)
    )
    return float((now - before).mean())


# --------------------------------------------------------------------------------------------------------- searches


class Truths(NamedTuple):
    """What the world knows of every leaf, for some prompts; 0 for ads clicked before."""

    chance: Float[Tensor, "batch leaves"]  # to be the next click
    revenue: Float[Tensor, "batch leaves"]  # over the best ad's


def truths(lab: Lab, prompts: Prompts) -> Truths:
    """Look it up."""
    return Truths(chance_of_leaves(lab, prompts.event), revenue_of_leaves(lab, prompts.event))


def reach(
    lab: Lab, model: ActorCritic, study: Study, budget: int, search: str, seed: int, *, revenue: bool
) -> dict[str, float]:
    """What is in the groups that one of `SEARCHES` finds for test cases, with a budget.

    A group has as many candidates as the study says (sampling: the first different ones that the budget pays for). A
    perfect value knows the way to the click, or to the best `revenue`.
    """
    prompts, generator = some_questions(lab, study), torch.Generator().manual_seed(seed)
    known, config = truths(lab, prompts), replace(study.decoding, budget=budget)
    best = tokens_of(lab, known.revenue.argmax(1) if revenue else prompts.target)
    leaf = SEARCHES[search](model, question(lab, prompts), config, best, generator)
    leaf = first_different(leaf, config.leaves)
    there = torch.zeros_like(known.chance).scatter(1, leaf, 1.0)
    return {
        "group/target": float((leaf == prompts.target[:, None]).any(1).float().mean()),
        "group/chance": float((there * known.chance).sum(1).mean()),
        "group/best revenue": float((there * known.revenue).amax(1).mean()),
        "group/first codes": different(lab.bucket.ancestors[leaf][..., 0]),
    }


# ----------------------------------------------------------------------------------------------------------- values


def value_quality(
    lab: Lab, model: ActorCritic, study: Study, seed: int, *, revenue: bool
) -> list[tuple[str, float, float]]:
    """Rank correlations, prompt by prompt, over the nodes of VED's trees at each depth, as (metric, value, depth).

    `value/truth` and `likelihood/truth`: of V, and of log π of the prefix, with what is really below it: the chance
    that the next click is (`revenue`: the best revenue). `value/realised`: of V with the mean reward of the leaves that
    the tree has found below the node (clicks: dense rewards from here on; a leaf itself has its own).
    """
    prompts, config = some_questions(lab, study), study.decoding
    known, q = truths(lab, prompts), question(lab, prompts)
    generator = torch.Generator().manual_seed(seed)
    tree = plant(model, q.trie, q.history, config, exclude=q.exclude, generator=generator)
    grow(tree, config)
    last = tree.levels[-1]
    if revenue:
        gain = known.revenue.gather(1, last.node)[..., None].expand(-1, -1, lab.trie.levels)
    else:
        reward = lab.bucket(last.node, prompts.target)
        discount = study.loss.gamma ** torch.arange(lab.trie.levels)
        gain = (reward * discount).flip(-1).cumsum(-1).flip(-1) / discount
    ancestors, found = lab.bucket.ancestors, []
    for depth in range(1, lab.trie.levels + 1):
        level, above = tree.levels[depth], ancestors[:, depth - 1]
        below = torch.zeros(len(q.history), lab.trie.nodes(depth))
        if revenue:
            below = below.scatter_reduce(1, above.expand_as(known.revenue), known.revenue, "amax")
        else:
            below = below.index_add(1, above, known.chance)
        truth = below.gather(1, level.node)
        mine = (above[last.node][:, None] == level.node[..., None]) & last.filled[:, None]
        realised = (mine * gain[:, None, :, depth - 1]).sum(2) / mine.sum(2).clamp(min=1)
        pairs = {
            "value/truth": (level.value, truth),
            "likelihood/truth": (level.log_prob, truth),
            "value/realised": (level.value, realised),
        }
        for name, (a, b) in pairs.items():
            found.append((name, rank_correlation(a, b, level.filled), float(depth)))
    return found


def rank_correlation(
    a: Float[Tensor, "rows nodes"], b: Float[Tensor, "rows nodes"], there: Bool[Tensor, "rows nodes"]
) -> float:
    """Spearman's, per row over the entries that are there, ties with mean ranks; mean over rows that have three.

    A row in which one side is constant counts as 0: it says nothing about the other. So do no rows at all.
    """

    def ranks(x: Tensor) -> Tensor:
        both = there[:, :, None] & there[:, None]
        larger, equal = (x[:, :, None] > x[:, None]) & both, (x[:, :, None] == x[:, None]) & both
        rank = larger.sum(2) + equal.sum(2) / 2
        mean = (rank * there).sum(1, keepdim=True) / there.sum(1, keepdim=True).clamp(min=1)
        return torch.where(there, rank - mean, 0).double()

    x, y = ranks(a), ranks(b)
    length = x.norm(dim=1) * y.norm(dim=1)
    found = torch.where(length > 0, (x * y).sum(1) / length, 0)[there.sum(1) >= 3]
    return float(found.mean()) if len(found) else 0.0
