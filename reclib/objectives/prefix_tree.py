"""A prefix tree per prompt, grown for a whole batch at once: what value-guided decoding searches in.

Depth 0 is the root (nothing written yet), depth L are complete semantic IDs. A node of depth 1 … L - 1 has cost one
forward pass of one token: it gives the node's distribution over its children and a value for each of them, so complete
IDs have a value and cost nothing. The root's distribution comes from the prompt and is counted as one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from reclib.generation.cache import KeyValueCache
from reclib.generation.trie import SemanticIdTrie


@runtime_checkable
class ValuedModel(Protocol):
    """A model that writes codes and says what each next code is worth, such as `vstar.ActorCritic`."""

    def read(
        self, history: Int[Tensor, "batch time"]
    ) -> tuple[Float[Tensor, "batch 1 vocabulary"], Float[Tensor, "batch 1 vocabulary"], KeyValueCache]:
        """Logits of the first code, its value by code, and what was computed of the history."""

    def step(
        self, cache: KeyValueCache, token: Int[Tensor, "batch beams"], parent: Int[Tensor, "batch beams"]
    ) -> tuple[Float[Tensor, "batch beams vocabulary"], Float[Tensor, "batch beams vocabulary"], KeyValueCache]:
        """The same for the code after each beam, one code longer."""


@dataclass
class Level:
    """All nodes of one depth. Slots are filled in the order of creation; what lies behind `count` means nothing."""

    node: Int[Tensor, "batch slots"]  # of the trie
    parent: Int[Tensor, "batch slots"]  # slot one level up
    log_prob: Float[Tensor, "batch slots"]  # of the whole prefix, before the trie forbids anything, as in `beam_search`
    value: Float[Tensor, "batch slots"]  # V, from the parent's hidden state; 0 at the root
    entropy: Float[Tensor, "batch slots"]  # H over the allowed next codes, nats; 0 at complete IDs
    visits: Float[Tensor, "batch slots"]  # N
    children: Int[Tensor, "batch slots"]  # in the tree
    left: Int[Tensor, "batch slots"]  # allowed codes that are no child yet
    count: Int[Tensor, "batch"]  # slots in use

    @property
    def filled(self) -> Bool[Tensor, "batch slots"]:
        """Which slots are in use."""
        return torch.arange(self.node.shape[1], device=self.node.device) < self.count[:, None]


class Inside(NamedTuple):
    """What the forward pass of a node gives, `[batch, slots, …]`, for all nodes of one depth below L."""

    draw: Float[
        Tensor, "batch slots codes"
    ]  # log π + Gumbel noise of codes that are no child yet; -inf: child, no item
    child_log_prob: Float[Tensor, "batch slots codes"]  # log softmax over the whole vocabulary
    child_value: Float[Tensor, "batch slots codes"]
    own_keys: list[
        Float[Tensor, "batch heads slots own width"]
    ]  # per block; empty at depth L - 1, where nobody goes on
    own_values: list[Float[Tensor, "batch heads slots own width"]]


class PrefixTree:
    """One tree per prompt.

    The child that is drawn next at a node is argmax(log π + g) over the codes that are no child yet, with one Gumbel
    number g per prefix, drawn beforehand. That is a draw from π restricted to those codes (Gumbel-max), and what
    happens to one prompt does not depend on who else is in the batch.
    """

    def __init__(
        self,
        model: ValuedModel,
        trie: SemanticIdTrie,
        history: Int[Tensor, "batch time"],
        *,
        forwards: int,
        leaves: int,
        exclude: Int[Tensor, "batch some"] | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        """Read the prompts; the trees are their roots.

        Args:
            model: in eval mode.
            forwards: most forward tokens per prompt, the root's included: room for the inner nodes.
            leaves: most complete IDs per prompt.
            exclude: see `allowed_prefixes`.
            generator: of the Gumbel numbers, one per prompt and prefix of the trie.
        """
        self.model, self.trie, self.depth = model, trie, trie.levels
        batch, device = len(history), history.device
        logits, child_value, self.cache = model.read(history)
        self.allowed = allowed_prefixes(trie, exclude, batch)
        self.noise = [
            -torch.empty(batch, trie.nodes(depth), device=device).exponential_(generator=generator).log()
            for depth in range(1, self.depth + 1)
        ]
        inner = [min(trie.nodes(depth), max(forwards - 1, 1)) for depth in range(1, self.depth)]
        rooms = [1, *inner, min(trie.nodes(self.depth), leaves)]
        self.levels = [_empty_level(batch, room, device) for room in rooms]
        self.inside: list[Inside] = []
        for depth, room in enumerate(rooms[:-1]):
            keys, values = self._room_for_own(depth, room)
            codes = logits.new_full((batch, room, trie.ids.sizes[depth]), -torch.inf)
            self.inside.append(Inside(codes, codes.clone(), torch.zeros_like(codes), keys, values))
        self.forwards = torch.ones(batch, dtype=torch.long, device=device)
        self.levels[0].count += 1
        self.levels[0].visits += 1
        everybody = torch.arange(batch, device=device)
        self._look_inside(0, everybody, torch.zeros_like(everybody), logits[:, 0], child_value[:, 0])

    def _room_for_own(self, depth: int, room: int) -> tuple[list[Tensor], list[Tensor]]:
        """Keys and values of the codes on the way to each node of a depth; nodes just above the leaves need none."""
        own = self.cache.own_keys, self.cache.own_values
        if depth == 0:
            return own
        if depth == self.depth - 1:
            return [], []
        keys, values = (
            [x.new_zeros(len(x), x.shape[1], room, x.shape[3] + depth, x.shape[4]) for x in parts] for parts in own
        )
        return keys, values

    def start(self, width: int, leaves: int) -> None:
        """A beam search that keeps its tree: the `width` most probable prefixes of each level, then `leaves` IDs.

        It takes 1 + (L - 1) · width forwards. Every node counts as visited once.
        """
        for depth in range(1, self.depth + 1):
            level, inside = self.levels[depth - 1], self.inside[depth - 1]
            total = level.log_prob[..., None] + inside.child_log_prob.masked_fill(
                torch.isneginf(inside.draw), -torch.inf
            )
            total = total.masked_fill(~level.filled[..., None], -torch.inf)
            codes = total.shape[2]
            kept = min(width if depth < self.depth else leaves, self.levels[depth].node.shape[1], total[0].numel())
            score, place = total.flatten(1).topk(kept, dim=1)
            rows, slots = torch.isfinite(score).nonzero(as_tuple=True)  # the finite ones come first
            place = place[rows, slots]
            self.add(depth, rows, place // codes, place % codes, slots)
        for level in self.levels[1:]:
            level.visits += level.filled

    def draw(self, depth: int, rows: Int[Tensor, "n"], parent: Int[Tensor, "n"]) -> Int[Tensor, "n"]:
        """Give nodes of depth - 1, one per row, a new child each, drawn from π; returns the children's slots."""
        code = self.inside[depth - 1].draw[rows, parent].argmax(-1)
        slots = self.levels[depth].count[rows]
        self.add(depth, rows, parent, code, slots)
        return slots

    def add(
        self,
        depth: int,
        rows: Int[Tensor, "n"],
        parent: Int[Tensor, "n"],
        code: Int[Tensor, "n"],
        slots: Int[Tensor, "n"],
    ) -> None:
        """Add nodes of one depth, unvisited; those above depth L cost a forward each."""
        above, inside, level = self.levels[depth - 1], self.inside[depth - 1], self.levels[depth]
        one = torch.ones_like(rows)
        level.node[rows, slots] = self.trie.followers(depth - 1)[above.node[rows, parent], code]
        level.parent[rows, slots] = parent
        level.value[rows, slots] = inside.child_value[rows, parent, code]
        level.log_prob[rows, slots] = above.log_prob[rows, parent] + inside.child_log_prob[rows, parent, code]
        level.count.index_add_(0, rows, one)
        inside.draw[rows, parent, code] = -torch.inf
        above.children.index_put_((rows, parent), one, accumulate=True)
        above.left.index_put_((rows, parent), -one, accumulate=True)
        if depth == self.depth or not len(rows):
            return
        self.forwards.index_add_(0, rows, one)
        token = self.trie.ids.offsets[depth - 1] + code
        logits, child_value, cache = self.model.step(
            self._cache_of(depth - 1, rows, parent), token[:, None], torch.zeros_like(rows)[:, None]
        )
        new = self.inside[depth]
        for kept, made in zip(new.own_keys + new.own_values, cache.own_keys + cache.own_values, strict=False):
            kept[rows, :, slots] = made[:, :, 0]
        self._look_inside(depth, rows, slots, logits[:, 0], child_value[:, 0])

    def _cache_of(self, depth: int, rows: Int[Tensor, "n"], slots: Int[Tensor, "n"]) -> KeyValueCache:
        """The model's cache with one beam per row: the given nodes."""
        c, inside = self.cache, self.inside[depth]
        own_keys, own_values = (
            [x[rows, :, slots][:, :, None] for x in own] for own in (inside.own_keys, inside.own_values)
        )
        return KeyValueCache([k[rows] for k in c.keys], [v[rows] for v in c.values], c.real[rows], own_keys, own_values)

    def _look_inside(
        self,
        depth: int,
        rows: Int[Tensor, "n"],
        slots: Int[Tensor, "n"],
        logits: Float[Tensor, "n vocabulary"],
        child_value: Float[Tensor, "n vocabulary"],
    ) -> None:
        """Note what a forward pass has said of nodes that are there already."""
        first = self.trie.ids.offsets[depth]
        mine = slice(first, first + self.trie.ids.sizes[depth])
        values = child_value[:, mine]
        if not torch.isfinite(values).all():
            raise ValueError(f"model: values of level {depth + 1} are NaN or infinite; the value head has diverged")
        node = self.levels[depth].node[rows, slots]
        child = allowed_children(self.trie, depth, node[:, None], self.allowed[depth][rows])[:, 0]
        log_pi = logits[:, mine].masked_fill(child < 0, -torch.inf).log_softmax(-1)
        inside = self.inside[depth]
        inside.draw[rows, slots] = log_pi + self.noise[depth][rows[:, None], child.clamp(min=0)]
        inside.child_log_prob[rows, slots] = logits.log_softmax(-1)[:, mine]
        inside.child_value[rows, slots] = values
        self.levels[depth].left[rows, slots] = (child >= 0).sum(-1)
        self.levels[depth].entropy[rows, slots] = -(log_pi.exp() * log_pi.masked_fill(child < 0, 0.0)).sum(-1)


def allowed_prefixes(
    trie: SemanticIdTrie, exclude: Int[Tensor, "batch some"] | None, batch: int
) -> list[Bool[Tensor, "batch _"]]:
    """Per level, the prefixes that lead to an item which is wanted.

    Args:
        trie: of the items' semantic IDs.
        exclude: items that are not, such as the whole history; 0 is ignored. None: all are wanted.
        batch: number of prompts.

    Raises:
        ValueError: nothing is left for some prompt.
    """
    exclude = trie.leaf.new_zeros(batch, 1) if exclude is None else exclude
    free = trie.free_items(exclude)
    if not free.any(1).all():
        raise ValueError("exclude: holds every item for some prompt; leave at least one to be found")
    return [trie.alive(depth, free) for depth in range(1, trie.levels + 1)]


def allowed_children(
    trie: SemanticIdTrie,
    level: int,
    node: Int[Tensor, "batch beams"],
    allowed: Bool[Tensor, "batch nodes"],
) -> Int[Tensor, "batch beams codes"]:
    """Where each code leads from nodes of a level; -1 where no wanted item begins so.

    `allowed` is of the next level, see `allowed_prefixes`.
    """
    child = trie.followers(level)[node]
    wanted = allowed.gather(1, child.clamp(min=0).flatten(1)).view_as(child)
    return child.where((child >= 0) & wanted, -1)


def _empty_level(batch: int, room: int, device: torch.device) -> Level:
    def whole() -> Tensor:
        return torch.zeros(batch, room, dtype=torch.long, device=device)

    def real() -> Tensor:
        return torch.zeros(batch, room, device=device)

    count = torch.zeros(batch, dtype=torch.long, device=device)
    return Level(whole(), whole(), real(), real(), real(), real(), whole(), whole(), count)


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
