"""A toy in which an ad is only worth what its rationale says: the smallest case that has to reason.

A user names the attribute that counts, *colour red* or *shape round*, and wants ads that have it. Each ad has a colour
and a shape. The rationale is two words: what the ad has of the attribute in question, and yes or no. The head sees
the rationale and nothing else (`RationaleToRank`), so whatever ranks must have been thought. The teacher is wrong in a
fifth of its yes and no, so that reinforcement has something to mend.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from reclib.language import CompletionBatches, TinyLM, TinyLMConfig, Vocabulary, completion_loss, example
from reclib.reasoning.plackett_luce import ndcg_of_scores
from reclib.reasoning.reasoning_to_rank import (
    Lists,
    RankTraining,
    Rationales,
    RationaleToRank,
    ReasoningToRankConfig,
    encode_lists,
    item_credit,
    learn_to_rank,
)
from reclib.training import FitConfig, fit

COLOURS, SHAPES = ("red", "blue", "green", "white"), ("round", "square", "long", "flat")


@dataclass(frozen=True)
class Toy:
    """Sizes; a minute is enough."""

    model: TinyLMConfig = TinyLMConfig(dim=32, layers=2, heads=2, context=16)  # noqa: RUF009 (frozen)
    method: ReasoningToRankConfig = ReasoningToRankConfig(max_new=3, hidden=32)  # noqa: RUF009 (frozen)
    training: RankTraining = RankTraining(steps=200, lists=8, lr=3e-3, model_lr=3e-4)  # noqa: RUF009 (frozen)
    items: int = 10  # candidates
    lists: int = 500  # to learn from; half as many to test
    texts: int = 12000  # of the cold start
    noise: float = 0.2  # wrong answers of the teacher


def _pairs(n: int, items: int, rng: np.random.Generator) -> tuple[list[list[str]], np.ndarray, np.ndarray]:
    """Prompts, whether each ad has what is wanted [lists, items], and the place of the ad that is chosen."""
    by_shape, wanted = rng.random(n) < 0.5, rng.integers(4, size=n)
    colour, shape = rng.integers(4, size=(2, n, items))
    colour[~by_shape, 0], shape[by_shape, 0] = wanted[~by_shape], wanted[by_shape]  # somebody has it
    matches = np.where(by_shape[:, None], shape, colour) == wanted[:, None]
    order = rng.random((n, items)).argsort(1)
    colour, shape, matches = (np.take_along_axis(x, order, axis=1) for x in (colour, shape, matches))
    positive = (rng.random((n, items)) * matches).argmax(1)  # one of those that have it
    users = [f"shape {SHAPES[w]}" if s else f"colour {COLOURS[w]}" for s, w in zip(by_shape, wanted, strict=True)]
    prompts = [
        [f"{user} ad {COLOURS[c]} {SHAPES[s]} :" for c, s in zip(row, other, strict=True)]
        for user, row, other in zip(users, colour, shape, strict=True)
    ]
    return prompts, matches, positive


def _thought(prompt: str, wrong: bool) -> str:
    attribute, wanted, _, colour, shape, _ = prompt.split()
    has = shape if attribute == "shape" else colour
    return f"{has} {'yes' if (has == wanted) != wrong else 'no'}"


def train_toy(toy: Toy, seed: int) -> dict[str, float]:
    """NDCG@10 on new lists: `ndcg`, `shuffled` (each ad with its neighbour's rationale), `random`, `optimum`."""
    rng = np.random.default_rng([90, seed])
    words = [*COLOURS, *SHAPES, "colour", "shape", "ad", ":", "yes", "no"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = TinyLM(Vocabulary(words), toy.model)
        ranker = RationaleToRank(model.eval(), toy.method)
    prompts, _, _ = _pairs(toy.texts // toy.items, toy.items, rng)
    flat = [prompt for row in prompts for prompt in row]
    texts = [example(model, prompt, _thought(prompt, bool(rng.random() < toy.noise))) for prompt in flat]
    fit(
        model.train(), CompletionBatches(texts, batch_size=32, seed=seed), completion_loss,
        FitConfig(epochs=4, lr=3e-3, seed=seed), progress=False,
    )  # fmt: skip
    model.eval()

    prompts, _, positive = _pairs(toy.lists, toy.items, rng)
    learn_to_rank(ranker, encode_lists(model, prompts, positive.tolist()), toy.training, seed=seed, credit=item_credit)
    prompts, matches, positive = _pairs(toy.lists // 2, toy.items, rng)
    lists, place = encode_lists(model, prompts, positive.tolist()), torch.from_numpy(positive)
    scores, thought = ranker.score(lists)
    order = torch.arange(scores.numel()).view(scores.shape).roll(1, dims=1).flatten()
    with torch.no_grad():
        other = ranker.read(*_flat(lists), Rationales(*(part[order] for part in thought))).scores.view(scores.shape)
    return {
        "ndcg": float(ndcg_of_scores(scores, place, 10).mean()),
        "shuffled": float(ndcg_of_scores(other, place, 10).mean()),
        "random": float(ndcg_of_scores(torch.zeros(1, toy.items), torch.zeros(1, dtype=torch.long), 10).mean()),
        "optimum": float(ndcg_of_scores(torch.from_numpy(matches).float(), place, 10).mean()),
    }


def _flat(lists: Lists) -> tuple[torch.Tensor, torch.Tensor]:
    return lists.ids.flatten(0, 1), lists.mask.flatten(0, 1)
