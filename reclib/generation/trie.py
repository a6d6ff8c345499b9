"""The prefix tree of all semantic IDs: which codes may follow, and which items are at the end.

A language model may generate any code; only some sequences belong to an item. The trie knows which. It is stored as
arrays, one set per level, so that a whole batch of beams moves down in one indexing operation.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from reclib.tokenizers.semantic_ids import SemanticIds


class SemanticIdTrie(nn.Module):
    """Nodes of level l are the different prefixes of length l, numbered in lexicographic order; level 0 is the root."""

    leaf: Tensor  # of each item, -1 for padding
    items: Tensor  # leaf by leaf, small ids first: a ragged array …
    count: Tensor  # … with so many items per leaf …
    first: Tensor  # … from there on

    def __init__(self, ids: SemanticIds) -> None:
        super().__init__()
        items, levels = ids.n_items, ids.levels
        self.ids, self.levels = ids, levels
        node = torch.zeros(items, dtype=torch.long)  # of each item, level by level
        for level in range(levels):
            size = ids.sizes[level]
            parents = int(node.max()) + 1
            key, child = torch.unique(node * size + ids.codes[1:, level], return_inverse=True)
            table = torch.full((parents * size,), -1)
            table[key] = torch.arange(len(key))
            self._keep(f"followers_{level}", table.view(parents, size))
            self._keep(f"node_{level + 1}", child)
            node = child
        count = torch.bincount(node)
        self._keep("leaf", torch.cat([torch.tensor([-1]), node]))
        self._keep("items", 1 + torch.argsort(node, stable=True))
        self._keep("count", count)
        self._keep("first", count.cumsum(0) - count)

    def _keep(self, name: str, table: Int[Tensor, "..."]) -> None:
        self.register_buffer(name, table, persistent=False)  # moves with the model, follows from the ids

    def followers(self, level: int) -> Int[Tensor, "nodes codes"]:
        """The prefixes one code longer, by prefix of length `level` and code; -1 where no item begins so."""
        return self.get_buffer(f"followers_{level}")

    def free_items(self, exclude: Int[Tensor, "batch some"]) -> Bool[Tensor, "batch items"]:
        """The items, without padding, that a row does not exclude; 0 excludes nothing."""
        free = torch.ones(len(exclude), self.ids.n_items + 1, dtype=torch.bool, device=exclude.device)
        return free.scatter_(1, exclude, False)[:, 1:]

    def alive(self, level: int, free: Bool[Tensor, "batch items"]) -> Bool[Tensor, "batch nodes"]:
        """Which prefixes of length `level` (1 or more) still lead to a free item."""
        count = free.new_zeros(len(free), self.nodes(level), dtype=torch.float32)
        return count.index_add_(1, self.get_buffer(f"node_{level}"), free.float()) > 0

    def nodes(self, level: int) -> int:
        """Number of different prefixes of that length."""
        return len(self.followers(level)) if level < self.levels else len(self.count)

    def prefix(self, level: int, node: int) -> tuple[int, ...]:
        """The codes of a prefix."""
        codes: list[int] = []
        for depth in range(level - 1, -1, -1):
            parent, code = (int(x[0]) for x in (self.followers(depth) == node).nonzero(as_tuple=True))
            codes.append(code)
            node = parent
        return tuple(reversed(codes))

    def expand(self, leaf: Int[Tensor, "batch width"], k: int) -> Int[Tensor, "batch k"]:
        """The items of ranked leaves, one after the other, colliding items in the order of their ids.

        Args:
            leaf: ranked leaves, -1 for none.
            k: length of the list; 0 fills it up where there are fewer items.
        """
        batch, width = leaf.shape
        count = torch.where(leaf >= 0, self.count[leaf.clamp(min=0)], 0)
        end = count.cumsum(1)
        place = torch.arange(k, device=leaf.device).repeat(batch, 1)
        column = torch.searchsorted(end, place, right=True)
        there = column < width
        column = column.clamp(max=width - 1)
        inside = place - (end - count).gather(1, column)
        source = self.first[leaf.gather(1, column).clamp(min=0)] + inside
        items = self.items[source.clamp(0, len(self.items) - 1)]
        return torch.where(there, items, 0)
