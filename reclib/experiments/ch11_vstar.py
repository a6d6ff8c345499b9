"""Chapter 11: V-STAR beside GRPO with other groups, where the true reward of every ad is known.

TODO docstring
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm.auto import tqdm

from reclib.data.interactions import Cases, Interactions, Split
from reclib.evaluation import Recommender, evaluate
from reclib.experiments.generative import GenerativeRecipe, TokenizerRecipe, item_vectors, tokenize, train_generator
from reclib.experiments.protocol import Recipe, count, train
from reclib.experiments.results import checkpoint_path, record, results_root
from reclib.generation import DecoderOnly, DecoderOnlyConfig, GenerativeRecommender, SemanticIdTrie, sample
from reclib.generation.cache import KeyValueCache
from reclib.objectives.grpo import dapo_loss, group_advantages, gspo_loss
from reclib.objectives.prefix_tree import PrefixTree, ValuedModel
from reclib.objectives.stochastic_beam import stochastic_beam_search
from reclib.objectives.vstar import (
    ActorCritic,
    BucketReward,
    DecodingConfig,
    DetachedValueHead,
    ItemReward,
    ValueHead,
    VStarConfig,
    VStarLoss,
    grow,
    plant,
    ranking_reward,
    score_sequences,
    value_guided_decoding,
    vstar_loss,
)
from reclib.tokenizers import SemanticIds
from reclib.world import AdWorld, AdWorldConfig

NAME = "11_vstar"
TUNING_SEED = 1000  # of the pilots, and of nothing else
WORLD, TRIE, CLOCK = "adworld", "trie", "clock"

# ------------------------------------------------------------------------------------------------ groups of candidates


class WithoutValues:
    """A `ValuedModel` as the searches of `reclib.generation` want it."""

    def __init__(self, model: ValuedModel) -> None:
        self.model = model

    def read(self, history: Int[Tensor, "batch time"]) -> tuple[Float[Tensor, "batch 1 vocabulary"], KeyValueCache]:
        """Logits and cache."""
        logits, _, cache = self.model.read(history)
        return logits, cache

    def step(
        self, cache: KeyValueCache, token: Int[Tensor, "batch beams"], parent: Int[Tensor, "batch beams"]
    ) -> tuple[Float[Tensor, "batch beams vocabulary"], KeyValueCache]:
        """Logits and cache, one code later."""
        logits, _, cache = self.model.step(cache, token, parent)
        return logits, cache


Find = Callable[
    [ValuedModel, SemanticIdTrie, Int[Tensor, "batch time"], DecodingConfig, torch.Generator], Int[Tensor, "batch size"]
]


def width_of(config: DecodingConfig, levels: int) -> int:
    """Beams, or draws, that cost no more forward tokens than the budget."""
    return (config.budget - 1) // (levels - 1)


def by_beam(
    model: ValuedModel,
    trie: SemanticIdTrie,
    history: Int[Tensor, "batch time"],
    config: DecodingConfig,
    generator: torch.Generator,
) -> Int[Tensor, "batch size"]:
    """The most probable of the IDs that a beam of `width_of` meets, best first."""
    whole = replace(config, start_width=width_of(config, trie.levels), start_leaves=config.leaves)
    last = plant(model, trie, history, whole, generator=generator).levels[-1]
    return last.node[:, : config.leaves].where(last.filled[:, : config.leaves], last.node[:, :1])


def by_sampling(
    model: ValuedModel,
    trie: SemanticIdTrie,
    history: Int[Tensor, "batch time"],
    config: DecodingConfig,
    generator: torch.Generator,
) -> Int[Tensor, "batch size"]:
    """Draws with replacement, as many as the budget pays for."""
    return sample(WithoutValues(model), trie, history, width_of(config, trie.levels), generator=generator).leaf


def by_stochastic_beam(
    model: ValuedModel,
    trie: SemanticIdTrie,
    history: Int[Tensor, "batch time"],
    config: DecodingConfig,
    generator: torch.Generator,
) -> Int[Tensor, "batch size"]:
    """Draws without replacement."""
    width = width_of(config, trie.levels)
    bare = WithoutValues(model)
    leaf = stochastic_beam_search(bare, trie, history, width, leaves=config.leaves, generator=generator).leaf
    return leaf.where(leaf >= 0, leaf[:, :1])


def by_value(
    model: ValuedModel,
    trie: SemanticIdTrie,
    history: Int[Tensor, "batch time"],
    config: DecodingConfig,
    generator: torch.Generator,
) -> Int[Tensor, "batch size"]:
    """VED."""
    return value_guided_decoding(model, trie, history, config, generator=generator).leaf


class RandomValues:
    """The placebo: a model whose values are noise, uniform in [0, 1)."""

    def __init__(self, model: ValuedModel, generator: torch.Generator) -> None:
        self.model, self.generator = model, generator

    def read(
        self, history: Int[Tensor, "batch time"]
    ) -> tuple[Float[Tensor, "batch 1 vocabulary"], Float[Tensor, "batch 1 vocabulary"], KeyValueCache]:
        """See `ValuedModel`."""
        logits, values, cache = self.model.read(history)
        return logits, torch.rand(values.shape, generator=self.generator), cache

    def step(
        self, cache: KeyValueCache, token: Int[Tensor, "batch beams"], parent: Int[Tensor, "batch beams"]
    ) -> tuple[Float[Tensor, "batch beams vocabulary"], Float[Tensor, "batch beams vocabulary"], KeyValueCache]:
        """See `ValuedModel`."""
        logits, values, cache = self.model.step(cache, token, parent)
        return logits, torch.rand(values.shape, generator=self.generator), cache


class TabularModel:
    """A policy and values written down prefix by prefix; prompt p has the history (p + 1). For tries without a network.

    What it "computes" of a history is the number of the prompt, and of a code its token: these stand in the cache in
    the place of keys and values.
    """

    def __init__(
        self,
        trie: SemanticIdTrie,
        logits: list[Float[Tensor, "prompts _nodes _codes"]],
        values: list[Float[Tensor, "prompts _nodes _codes"]],
    ) -> None:
        """Keep the tables.

        Args:
            trie: says which node a prefix is.
            logits: per level, of the codes after each node of the trie.
            values: the same of the values.
        """
        self.trie, self.logits, self.values = trie, logits, values

    def read(
        self, history: Int[Tensor, "batch time"]
    ) -> tuple[Float[Tensor, "batch 1 vocabulary"], Float[Tensor, "batch 1 vocabulary"], KeyValueCache]:
        """See `ValuedModel`."""
        prompt = (history[:, 0] - 1).view(-1, 1, 1, 1)
        cache = KeyValueCache.of_history([prompt.double()], [prompt.double()], history > 0)
        root = torch.zeros_like(prompt[:, :, 0, 0])
        return *self._look_up(prompt[:, :, 0, 0], root, 0), cache

    def step(
        self, cache: KeyValueCache, token: Int[Tensor, "batch beams"], parent: Int[Tensor, "batch beams"]
    ) -> tuple[Float[Tensor, "batch beams vocabulary"], Float[Tensor, "batch beams vocabulary"], KeyValueCache]:
        """See `ValuedModel`."""
        cache = cache.follow(parent)
        own = torch.cat([cache.own_keys[0], token[:, None, :, None, None].double()], dim=3)
        node = torch.zeros_like(token)
        for level, written in enumerate(own[:, 0, :, :, 0].long().unbind(2)):
            node = self.trie.followers(level)[node, written - self.trie.ids.offsets[level]]
        prompt = cache.keys[0][:, 0, :, 0].long().expand_as(node)
        return *self._look_up(prompt, node, own.shape[3]), cache._replace(own_keys=[own], own_values=[own])

    def _look_up(
        self, prompt: Int[Tensor, "batch beams"], node: Int[Tensor, "batch beams"], level: int
    ) -> tuple[Float[Tensor, "batch beams vocabulary"], Float[Tensor, "batch beams vocabulary"]]:
        first, size = self.trie.ids.offsets[level], self.trie.ids.sizes[level]
        rest = self.trie.ids.vocabulary - first - size
        logits, values = (
            nn.functional.pad(table[level][prompt, node], (first, rest)) for table in (self.logits, self.values)
        )
        return logits, values
