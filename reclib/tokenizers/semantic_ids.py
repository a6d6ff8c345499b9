"""Semantic IDs: every item as a short sequence of codes, and what can be said about such a set of sequences.

A tokenizer gives each item one code per level, coarse to fine (Rajput et al., 2023, TIGER). Two items may get the same
sequence. That is a *collision*: whoever generates the sequence has not chosen between them. `deduplicated` adds TIGER's
last level, a number that tells the items of one sequence apart.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file, save_file
from torch import Tensor

from reclib.data.files import read_gzip

PADDING = -1  # the codes of item 0


@dataclass(frozen=True, eq=False)
class SemanticIds:
    """One row of codes per item; item 0 is padding.

    Attributes
    ----------
    codes: `[n_items + 1, levels]` int64, codes of level l in `0 … sizes[l] - 1`; row 0 is all -1.
    sizes: how many codes each level has (used or not).
    name: of the tokenizer, for tables and plots.
    """

    codes: Int[Tensor, "items levels"]
    sizes: tuple[int, ...]
    name: str = "semantic ids"

    def __post_init__(self) -> None:
        items, levels = self.codes.shape
        if items < 2 or levels < 1:
            raise ValueError(f"codes: need a row for padding, at least one item and one level, got {items} × {levels}")
        if len(self.sizes) != levels:
            raise ValueError(f"sizes: {len(self.sizes)} sizes for {levels} levels; give one per column of codes")
        if self.codes.dtype != torch.long:
            raise ValueError(f"codes: must be int64, got {self.codes.dtype}; convert with .long()")
        if (self.codes[0] != PADDING).any():
            raise ValueError("codes: row 0 belongs to padding and must be -1; begin the items at row 1")
        wrong = (self.codes[1:] < 0) | (self.codes[1:] >= torch.tensor(self.sizes))
        if wrong.any():
            item, level = (int(x) for x in wrong.nonzero()[0])
            raise ValueError(
                f"codes: item {item + 1} has the unknown code {int(self.codes[item + 1, level])} at level {level + 1}; "
                f"codes there are 0 … {self.sizes[level] - 1}"
            )

    @classmethod
    def from_codes(cls, codes: Int[Tensor, "items levels"], sizes: tuple[int, ...], name: str = "") -> SemanticIds:
        """From one row per item, without the row for padding."""
        padding = torch.full((1, codes.shape[1]), PADDING)
        return cls(torch.cat([padding, codes.long()]), sizes, name or "semantic ids")

    @property
    def n_items(self) -> int:
        """Items, padding not counted."""
        return len(self.codes) - 1

    @property
    def levels(self) -> int:
        """Codes per item."""
        return self.codes.shape[1]

    # ------------------------------------------------------------------------------------------------ collisions

    @cached_property
    def group(self) -> Int[Tensor, "items"]:
        """Number of each item's sequence, `0 … n_sequences - 1` in lexicographic order; -1 for padding."""
        _, number = torch.unique(self.codes[1:], dim=0, return_inverse=True)
        return torch.cat([torch.tensor([PADDING]), number])

    @property
    def n_sequences(self) -> int:
        """Different sequences."""
        return int(self.group.max()) + 1

    @property
    def collision_rate(self) -> float:
        """1 - sequences / items: the share of items that got no sequence of their own."""
        return 1 - self.n_sequences / self.n_items

    @property
    def share_in_collisions(self) -> float:
        """Share of items that share their sequence with another one."""
        return float((torch.bincount(self.group[1:])[self.group[1:]] > 1).double().mean())

    def deduplicated(self) -> SemanticIds:
        """With TIGER's extra level: 0 for the first item of a sequence (the smallest id), 1 for the second, ….

        Every item gets it, so that all sequences are equally long. What the number means differs from sequence to
        sequence; it is an address, no semantics.
        """
        number = self.group[1:]
        order = torch.argsort(number, stable=True)  # items of one sequence together, small ids first
        sizes = torch.bincount(number)
        first = sizes.cumsum(0) - sizes
        suffix = torch.empty_like(number)
        suffix[order] = torch.arange(len(number)) - first[number[order]]
        codes = torch.cat([self.codes[1:], suffix[:, None]], dim=1)
        return SemanticIds.from_codes(codes, (*self.sizes, int(sizes.max())), self.name)

    # ------------------------------------------------------------------------------------------------- code health

    def frequencies(self, level: int) -> Float[Tensor, "codes"]:
        """Share of the items that has each code of a level (0 is the first)."""
        counts = torch.bincount(self.codes[1:, level], minlength=self.sizes[level])
        return counts.double() / self.n_items

    def usage(self, level: int) -> float:
        """Share of a level's codes that at least one item has."""
        return float((self.frequencies(level) > 0).double().mean())

    def perplexity(self, level: int) -> float:
        """exp of the entropy of the codes: how many equally frequent codes would be as diverse."""
        return float(torch.special.entr(self.frequencies(level)).sum().exp())

    # ------------------------------------------------------------------------------------------- as a vocabulary

    @property
    def vocabulary(self) -> int:
        """Tokens that a model over these codes needs: one per code of each level, and 0 for padding."""
        return 1 + sum(self.sizes)

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """Token of each level's code 0."""
        return tuple(1 + sum(self.sizes[:level]) for level in range(self.levels))

    @cached_property
    def tokens(self) -> Int[Tensor, "items levels"]:
        """Codes as tokens of one common vocabulary: token = offset of the level + code; padding is 0."""
        tokens = self.codes + torch.tensor(self.offsets)
        tokens[0] = 0
        return tokens

    # ------------------------------------------------------------------------------------------------------ files

    def save(self, folder: Path | str) -> Path:
        """Write `semantic_ids.safetensors` and `semantic_ids.json` into a folder; returns the folder."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        save_file({"codes": self.codes}, folder / "semantic_ids.safetensors")
        about = {
            "name": self.name,
            "sizes": list(self.sizes),
            "items": self.n_items,
            "collision_rate": self.collision_rate,
            "usage": [self.usage(level) for level in range(self.levels)],
            "perplexity": [self.perplexity(level) for level in range(self.levels)],
        }
        (folder / "semantic_ids.json").write_text(json.dumps(about, indent=1) + "\n")
        return folder

    @classmethod
    def load(cls, folder: Path | str) -> SemanticIds:
        """Read what `save` wrote."""
        folder = Path(folder)
        try:
            about = json.loads((folder / "semantic_ids.json").read_text())
            codes = load_file(folder / "semantic_ids.safetensors")["codes"]
        except FileNotFoundError as error:
            raise ValueError(
                f"folder: {folder} holds no semantic IDs ({Path(str(error.filename)).name} is missing)"
            ) from error
        return cls(codes, tuple(about["sizes"]), about["name"])

    @classmethod
    def read_text(cls, path: Path | str, sizes: tuple[int, ...] | None = None) -> SemanticIds:
        """Read `item_id code code …` lines, plain or gzipped: the format of other people's IDs in `data/README.md`.

        Args:
            path: every item once, ids 1 … n in any order.
            sizes: codes per level; default: the largest code of the file plus one.
        """
        path = Path(path)
        text = (read_gzip(path) if path.suffix == ".gz" else path.read_bytes()).decode()
        rows = [[int(word) for word in line.split()] for line in text.splitlines() if line.strip()]
        if not rows or len({len(row) for row in rows}) > 1 or len(rows[0]) < 2:
            raise ValueError(f"path: {path} needs lines `item_id code code …`, all of one length")
        table = torch.tensor(sorted(rows))
        if not torch.equal(table[:, 0], torch.arange(1, len(table) + 1)):
            raise ValueError(f"path: {path} does not list every item 1 … {len(table)} exactly once")
        codes = table[:, 1:]
        return cls.from_codes(codes, sizes or tuple(int(c) + 1 for c in codes.amax(0)), path.name.split(".")[0])
