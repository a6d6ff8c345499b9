"""Searches without a trained network: random policies over a random trie, the released search, and a clock.

In a random trie the values can be as good or as bad as one likes, and the target can be put where the policy does not
look: under improbable first codes.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from statistics import median

import torch
from jaxtyping import Int
from torch import Tensor, nn

from reclib.experiments.group_searches import Question, Search, different, first_different
from reclib.generation import DecoderOnly, DecoderOnlyConfig, SemanticIdTrie
from reclib.objectives.prefix_tree import PrefixTree, TabularModel, ValuedModel
from reclib.objectives.vstar import ActorCritic, DecodingConfig, ValueHead, harvest, select
from reclib.tokenizers import SemanticIds

DECODING = DecodingConfig()

# ------------------------------------------------------------------------------------------------- a random trie


@dataclass(frozen=True)
class TrieStudy:
    """Random policies over a random trie, and values of every quality."""

    prompts: int = 200
    items: int = 400
    codes: int = 12
    levels: int = 3
    sharpness: float = 1.5  # standard deviation of the logits
    multipliers: tuple[int, ...] = (1, 2, 4, 8)  # of 17, the cost of a beam of eight
    noises: tuple[float, ...] = (0.0, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)  # standard deviations added to a perfect value


def random_trie(study: TrieStudy, seed: int) -> tuple[TabularModel, SemanticIdTrie, Int[Tensor, "prompts"]]:
    """A trie, policies with perfect values, and targets under the less probable half of the first codes."""
    generator = torch.Generator().manual_seed(seed)
    every = torch.cartesian_prod(*[torch.arange(study.codes)] * study.levels)
    chosen = every[torch.randperm(len(every), generator=generator)[: study.items]]
    trie = SemanticIdTrie(SemanticIds.from_codes(chosen, (study.codes,) * study.levels))
    shapes = [(study.prompts, trie.nodes(level), study.codes) for level in range(study.levels)]
    logits = [study.sharpness * torch.randn(shape, generator=generator) for shape in shapes]
    leaf_codes = trie.ids.codes[trie.items[trie.first]]
    first = logits[0][:, 0].argsort(1).argsort(1)  # rank of each first code
    improbable = (first[:, leaf_codes[:, 0]] < study.codes // 2).double()
    target = torch.multinomial(improbable, 1, generator=generator)[:, 0]
    values = [torch.zeros(shape) for shape in shapes]
    node, rows = torch.zeros_like(target), torch.arange(study.prompts)
    for level in range(study.levels):
        code = leaf_codes[target, level]
        values[level][rows, node, code] = 1
        node = trie.followers(level)[node, code]
    return TabularModel(trie, logits, values), trie, target


def search_trie(study: TrieStudy, search: Search, budget: int, seed: int, *, noise: float = 0.0) -> dict[str, float]:
    """How often a search finds the target, with `noise` on perfect values, and how many first codes it returns."""
    model, trie, target = random_trie(study, seed)
    generator = torch.Generator().manual_seed(seed)
    noisy = [v + noise * torch.randn(v.shape, generator=generator) for v in model.values]
    model = TabularModel(trie, model.logits, noisy)
    q = Question(trie, torch.arange(1, study.prompts + 1)[:, None], None)
    best = trie.ids.tokens[trie.items[trie.first[target]]]
    found = search(model, q, replace(DECODING, budget=budget), best, generator)
    return about_groups(trie, first_different(found, DECODING.leaves), target)


def about_groups(
    trie: SemanticIdTrie, leaf: Int[Tensor, "prompts size"], target: Int[Tensor, "prompts"]
) -> dict[str, float]:
    """Whether the target is there, and how many first codes."""
    codes = trie.ids.codes[trie.items[trie.first[leaf]]]
    return {
        "group/target": float((leaf == target[:, None]).any(1).float().mean()),
        "group/first codes": different(codes[..., 0]),
    }


# ------------------------------------------------------------------------------------------- the released search


@torch.no_grad()
def released_search(
    model: ValuedModel, trie: SemanticIdTrie, history: Int[Tensor, "batch time"], config: DecodingConfig, width: int = 8
) -> tuple[PrefixTree, Int[Tensor, "batch levels"]]:
    """What the released code does, in our words: the tree that it starts from, and its expansions.

    Every node of the frontier gets its `width` most probable children, whatever the budget says, so all leaves are
    complete IDs when the search begins. The walk goes down as long as there are children, and a complete ID cannot be
    expanded.
    """
    inner = sum(width**depth for depth in range(1, trie.levels))
    tree = PrefixTree(model, trie, history, forwards=1 + inner, leaves=width**trie.levels)
    for depth in range(1, trie.levels + 1):
        above, inside = tree.levels[depth - 1], tree.inside[depth - 1]
        open_ = torch.where(torch.isneginf(inside.draw), -torch.inf, inside.child_log_prob)
        score, code = open_.masked_fill(~above.filled[..., None], -torch.inf).topk(min(width, open_.shape[2]), dim=2)
        rows, parent, place = torch.isfinite(score).nonzero(as_tuple=True)
        slots = torch.isfinite(score).flatten(1).cumsum(1).view_as(score)[rows, parent, place] - 1
        tree.add(depth, rows, parent, code[rows, parent, place], slots)
    for level in tree.levels[1:]:
        level.visits += level.filled
    expansions = torch.zeros(len(history), trie.levels, dtype=torch.long)
    nobody = [torch.zeros_like(level.filled) for level in tree.levels[:-1]]  # the walk does not stop at inner nodes
    for _ in range(config.patience * config.budget):
        path, end, _ = select(tree, nobody, config)
        childless = (end < trie.levels).nonzero()[:, 0]  # here it would expand
        expansions[childless, end[childless]] += 1
        for level, slot in zip(tree.levels, path.unbind(1), strict=True):
            rows = (slot >= 0).nonzero()[:, 0]
            level.visits[rows, slot[rows]] += 1
    return tree, expansions


def search_as_released(study: TrieStudy, budget: int, seed: int) -> dict[str, float]:
    """The released search on a random trie with perfect values: its cost, its expansions and what it finds."""
    model, trie, target = random_trie(study, seed)
    history = torch.arange(1, study.prompts + 1)[:, None]
    tree, expansions = released_search(model, trie, history, replace(DECODING, budget=budget))
    leaf, _, _ = harvest(tree, DECODING.leaves)
    return {
        "forwards": float(tree.forwards.double().mean()),
        "expansions": float(expansions.sum(1).double().mean()),
        **about_groups(trie, leaf, target),
    }


# ------------------------------------------------------------------------------------------------------------ clock


@dataclass(frozen=True)
class Clock:
    """Sizes of the timings: the generator of chapter 04 in the world."""

    prompts: int = 256
    items: int = 1200
    codes: int = 64
    dim: int = 64
    layers: int = 2
    max_len: int = 20
    repeats: int = 5


def time_search(clock: Clock, search: Search, seed: int) -> float:
    """Median seconds for a batch of prompts. Policy and values are random: training would change no cost."""
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(clock.codes, (clock.items, 3), generator=generator)
    ids = SemanticIds.from_codes(codes, (clock.codes,) * 3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        policy = DecoderOnly(ids, DecoderOnlyConfig(clock.dim, clock.layers, max_len=clock.max_len))
        head = ValueHead(clock.dim, ids.vocabulary)
        nn.init.normal_(head.out.weight, std=0.1)  # a fresh head thinks all prefixes equal, and would not search
        model = ActorCritic(policy, head).eval()
    history = torch.randint(1, clock.items + 1, (clock.prompts, clock.max_len), generator=generator)
    asked, found = Question(SemanticIdTrie(ids), history, None), []
    best = ids.tokens[torch.ones(clock.prompts, dtype=torch.long)]
    for _ in range(clock.repeats + 1):
        began = time.perf_counter()
        search(model, asked, DECODING, best, generator)
        found.append(time.perf_counter() - began)
    return median(found[1:])  # the first one warms up
