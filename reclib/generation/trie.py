"""The prefix tree of all semantic IDs: which codes may follow, and which items are at the end.

A language model may generate any code; only some sequences belong to an item. The trie knows which. It is stored as
arrays, one set per level, so that a whole batch of beams moves down in one indexing operation.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from reclib.tokenizers.semantic_ids import SemanticIds


class SemanticIdTrie:
    """Nodes of level l are the different prefixes of length l, numbered in lexicographic order; level 0 is the root."""

    def __init__(self, ids: SemanticIds) -> None:
        items, levels = ids.n_items, ids.levels
        self.ids = ids
        node = torch.zeros(items, dtype=torch.long)  # of each item, level by level
        self.children: list[Int[Tensor, "nodes codes"]] = []  # child by code, -1 where there is none
        for level in range(levels):
            size = ids.sizes[level]
            parents = int(node.max()) + 1
            key, child = torch.unique(node * size + ids.codes[1:, level], return_inverse=True)
            table = torch.full((parents * size,), -1)
            table[key] = torch.arange(len(key))
            self.children.append(table.view(parents, size))
            node = child
        # Items at the leaves, leaf by leaf, small ids first: a ragged array.
        self.leaf = torch.cat([torch.tensor([-1]), node])  # of each item
        self.items = 1 + torch.argsort(node, stable=True)
        self.count = torch.bincount(node)  # items per leaf
        self.first = self.count.cumsum(0) - self.count

    @property
    def levels(self) -> int:
        """Length of all sequences."""
        return len(self.children)

    def nodes(self, level: int) -> int:
        """Number of different prefixes of that length."""
        return len(self.children[level]) if level < self.levels else len(self.count)

    def allowed(self, level: int, node: Int[Tensor, "*batch"]) -> Bool[Tensor, "*batch codes"]:
        """Which codes may follow the prefixes `node` of length `level`."""
        return self.children[level][node] >= 0

    def step(self, level: int, node: Int[Tensor, "*batch"], code: Int[Tensor, "*batch"]) -> Int[Tensor, "*batch"]:
        """The prefixes one code longer; -1 where no item begins so."""
        return self.children[level][node, code]

    def prefix(self, level: int, node: int) -> tuple[int, ...]:
        """The codes of a prefix."""
        codes: list[int] = []
        for depth in range(level - 1, -1, -1):
            parent, code = (int(x[0]) for x in (self.children[depth] == node).nonzero(as_tuple=True))
            codes.append(code)
            node = parent
        return tuple(reversed(codes))

    def expand(self, leaf: Int[Tensor, "batch width"], k: int) -> tuple[Int[Tensor, "batch k"], Int[Tensor, "batch k"]]:
        """The items of ranked leaves, one after the other, colliding items in the order of their ids.

        Args:
            leaf: ranked leaves, -1 for none.
            k: length of the list.

        Returns:
            The items, 0 where there are no more, and the column of `leaf` that each came from.
        """
        batch, _ = leaf.shape
        count = torch.where(leaf >= 0, self.count[leaf.clamp(min=0)], 0)
        end = count.cumsum(1)
        place = torch.arange(k).expand(batch, k)
        column = torch.searchsorted(end, place.contiguous(), right=True)
        there = column < leaf.shape[1]
        column = column.clamp(max=leaf.shape[1] - 1)
        inside = place - (end - count).gather(1, column)
        source = self.first[leaf.gather(1, column).clamp(min=0)] + inside
        items = self.items[source.clamp(0, len(self.items) - 1)]
        return torch.where(there, items, 0), column
