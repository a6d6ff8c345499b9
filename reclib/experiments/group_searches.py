"""How a group of candidates is found for a prompt, all with the same number of forward tokens.

Every search gives leaves of the trie, a row per prompt; where it found fewer than it was asked for, its first one is
repeated. What it costs is counted as in `reclib.objectives.prefix_tree`: the prompt is one token, and so is every code
that is written to see what may follow it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from reclib.generation import SemanticIdTrie, beam_search
from reclib.generation.cache import KeyValueCache
from reclib.objectives.prefix_tree import ValuedModel, allowed_children, allowed_prefixes
from reclib.objectives.stochastic_beam import stochastic_beam_search
from reclib.objectives.vstar import DecodingConfig, plant, value_guided_decoding


class Question(NamedTuple):
    """What a search is asked."""

    trie: SemanticIdTrie
    history: Int[Tensor, "batch time"]
    exclude: Int[Tensor, "batch some"] | None  # items that are not wanted: all that the user has clicked before


# ------------------------------------------------------------------------------------------------- ways of searching

Find = Callable[[ValuedModel, Question, DecodingConfig, torch.Generator], Int[Tensor, "batch size"]]


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


def width_of(config: DecodingConfig, trie: SemanticIdTrie) -> int:
    """The widest beam that the budget pays for; levels with fewer prefixes than that leave some of it to the others."""
    inner = [trie.nodes(level) for level in range(1, trie.levels)]
    width = 1
    while width < max(inner) and 1 + sum(min(width + 1, nodes) for nodes in inner) <= config.budget:
        width += 1
    return width


def by_beam(
    model: ValuedModel, q: Question, config: DecodingConfig, generator: torch.Generator
) -> Int[Tensor, "batch size"]:
    """The most probable of the IDs that a beam of `width_of` meets, best first."""
    width = width_of(config, q.trie)
    if width >= config.leaves:
        leaf = beam_search(WithoutValues(model), q.trie, q.history, width, exclude=q.exclude).leaf[:, : config.leaves]
        return leaf.where(leaf >= 0, leaf[:, :1])
    whole = replace(config, start_width=width, start_leaves=config.leaves)  # a narrow beam, and all it has seen
    last = plant(model, q.trie, q.history, whole, exclude=q.exclude, generator=generator).levels[-1]
    return last.node[:, : config.leaves].where(last.filled[:, : config.leaves], last.node[:, :1])


def by_sampling(
    model: ValuedModel, q: Question, config: DecodingConfig, generator: torch.Generator
) -> Int[Tensor, "batch size"]:
    """Draws with replacement, as many as the budget pays for: `sample`, without what is excluded.

    A prefix that is drawn twice is read twice, and paid for twice.
    """
    trie, allowed = q.trie, allowed_prefixes(q.trie, q.exclude, len(q.history))
    logits, _, cache = model.read(q.history)
    batch, n = len(q.history), (config.budget - 1) // (trie.levels - 1)
    node = torch.zeros(batch, n, dtype=torch.long)
    logits, parent = logits.expand(-1, n, -1), torch.zeros(batch, n, dtype=torch.long)
    for level in range(trie.levels):
        first = trie.ids.offsets[level]
        child = allowed_children(trie, level, node, allowed[level])
        log_pi = logits[..., first : first + trie.ids.sizes[level]].masked_fill(child < 0, -torch.inf).log_softmax(-1)
        code = torch.multinomial(log_pi.exp().flatten(0, 1), 1, generator=generator).view(batch, n)
        node = child.gather(2, code[..., None])[..., 0]
        if level + 1 < trie.levels:
            logits, _, cache = model.step(cache, first + code, parent)
            parent = torch.arange(n).expand(batch, n)
    return node


def by_stochastic_beam(
    model: ValuedModel, q: Question, config: DecodingConfig, generator: torch.Generator
) -> Int[Tensor, "batch size"]:
    """Draws without replacement."""
    width = width_of(config, q.trie)
    leaf = stochastic_beam_search(
        WithoutValues(model), q.trie, q.history, width, leaves=config.leaves, exclude=q.exclude, generator=generator
    ).leaf
    return leaf.where(leaf >= 0, leaf[:, :1])


def by_value(
    model: ValuedModel, q: Question, config: DecodingConfig, generator: torch.Generator
) -> Int[Tensor, "batch size"]:
    """VED."""
    return value_guided_decoding(model, q.trie, q.history, config, exclude=q.exclude, generator=generator).leaf


# --------------------------------------------------------------------------------------------------- whose values

Values = Callable[[ValuedModel, Int[Tensor, "batch levels"], torch.Generator], ValuedModel]


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


class PerfectValues:
    """A model with perfect values in the place of its own: 1 on the way to the best leaf of each prompt, 0 elsewhere.

    The way there, and what has been written of each prefix, travel in the cache as if one more block had put it there.
    """

    def __init__(self, model: ValuedModel, best: Int[Tensor, "batch levels"]) -> None:
        """`best` holds tokens, a row per prompt, in the order of the histories."""
        self.model, self.best = model, best

    def read(
        self, history: Int[Tensor, "batch time"]
    ) -> tuple[Float[Tensor, "batch 1 vocabulary"], Float[Tensor, "batch 1 vocabulary"], KeyValueCache]:
        """See `ValuedModel`."""
        logits, _, cache = self.model.read(history)
        best = self.best[:, None, :, None].double()
        cache = cache._replace(keys=[*cache.keys, best], values=[*cache.values, best])
        return logits, *self._with(cache, torch.empty(len(history), 1, 1, 0, 1, dtype=torch.double), logits)

    def step(
        self, cache: KeyValueCache, token: Int[Tensor, "batch beams"], parent: Int[Tensor, "batch beams"]
    ) -> tuple[Float[Tensor, "batch beams vocabulary"], Float[Tensor, "batch beams vocabulary"], KeyValueCache]:
        """See `ValuedModel`."""
        written = torch.cat([cache.follow(parent).own_keys[-1], token[:, None, :, None, None].double()], dim=3)
        inner = KeyValueCache(
            cache.keys[:-1], cache.values[:-1], cache.real, cache.own_keys[:-1], cache.own_values[:-1]
        )
        logits, _, inner = self.model.step(inner, token, parent)
        outer = inner._replace(keys=cache.keys, values=cache.values)
        return logits, *self._with(outer, written, logits)

    def _with(
        self, cache: KeyValueCache, written: Float[Tensor, "batch 1 beams own 1"], logits: Tensor
    ) -> tuple[Float[Tensor, "batch beams vocabulary"], KeyValueCache]:
        best, own = cache.keys[-1][:, 0, :, 0].long(), written[:, 0, :, :, 0]
        right = (own == best[:, None, : own.shape[2]]).all(2)
        values = torch.zeros_like(logits)
        if own.shape[2] < best.shape[1]:
            wanted = best[:, None, own.shape[2], None].expand(-1, own.shape[1], 1)
            values.scatter_(2, wanted, right[..., None].to(values.dtype))
        cache = cache._replace(own_keys=[*cache.own_keys, written], own_values=[*cache.own_values, written])
        return values, cache


def own_values(model: ValuedModel, best: Int[Tensor, "batch levels"], generator: torch.Generator) -> ValuedModel:
    """What the model has learnt."""
    return model


def random_values(model: ValuedModel, best: Int[Tensor, "batch levels"], generator: torch.Generator) -> ValuedModel:
    """Noise."""
    return RandomValues(model, generator)


def perfect_values(model: ValuedModel, best: Int[Tensor, "batch levels"], generator: torch.Generator) -> ValuedModel:
    """The way to the best leaf."""
    return PerfectValues(model, best)


# ------------------------------------------------------------------------------------------------------- searches


@dataclass(frozen=True)
class Search:
    """A way of searching, with somebody's values."""

    find: Find = by_value
    values: Values = own_values
    decoding: tuple[tuple[str, float], ...] = ()  # what differs from the configuration

    def __call__(
        self,
        model: ValuedModel,
        question: Question,
        config: DecodingConfig,
        best: Int[Tensor, "batch levels"],
        generator: torch.Generator,
    ) -> Int[Tensor, "batch size"]:
        """Candidates. `best` holds the tokens of what perfect values lead to; nobody else looks at it."""
        changed: dict[str, Any] = dict(self.decoding)
        with torch.no_grad():
            return self.find(self.values(model, best, generator), question, replace(config, **changed), generator)


SEARCHES: dict[str, Search] = {
    "beam": Search(by_beam),
    "sampling": Search(by_sampling),
    "stochastic beam": Search(by_stochastic_beam),
    "ved": Search(),
    "ved, random value": Search(values=random_values),
    "ved, perfect value": Search(values=perfect_values),
    "ved, no gate": Search(decoding=(("slack", float("inf")),)),
    "ved, no entropy": Search(decoding=(("lam", 0.0),)),
    "ved, no widening": Search(decoding=(("widening", float("inf")),)),
}


# ----------------------------------------------------------------------------------------------- looking at groups


def different(rows: Int[Tensor, "batch size"]) -> float:
    """Mean number of different entries of a row."""
    ordered = rows.sort(1).values
    return float(1 + (ordered[:, 1:] != ordered[:, :-1]).sum(1).float().mean())


def first_different(leaf: Int[Tensor, "batch drawn"], size: int) -> Int[Tensor, "batch size"]:
    """The first `size` different entries of each row; the first one again where there are fewer."""
    earlier = (leaf[:, :, None] == leaf[:, None]).tril(-1).any(2)
    order = earlier.long().argsort(dim=1, stable=True)[:, :size]
    return leaf.gather(1, order).where(~earlier.gather(1, order), leaf[:, :1])
