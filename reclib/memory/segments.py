"""What the segment memories of chapter 07 share: cut a history, read segment after segment, keep a memory between.

A life of thousands of events is cut into segments of L items, counted from its beginning. A model reads one segment
together with a memory of all that came before, and leaves a memory for the next one. What the memory is, and how it is
written, is each method's own module. `encode` runs freely: every segment reads the memory that the model itself has
written, as it would when serving. So `reclib.evaluation.evaluate` never sees a memory that serving would not have.

Positions are those inside the segment, so that an item looks the same wherever in a life its segment stands. Dropout
falls on the item vectors alone, not inside the blocks: two passes over the same vectors then agree, which Rec2PM's
consistency loss needs (our choice; the paper does not say).
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from reclib.backbones.hstu import HSTUBlock, HSTUConfig
from reclib.backbones.sasrec import SASRecBlock, SASRecConfig
from reclib.backbones.sequence_model import SequenceModel, last_position
from reclib.nn.dropout import Dropout
from reclib.nn.sizes import check_at_least, check_heads


@dataclass(frozen=True)
class SegmentConfig:
    """Sizes of a segment memory; Rec2PM's values in brackets, with SASRec and with HSTU inside."""

    dim: int = 64  # d, width of items, memory tokens and hidden states [64]
    layers: int = 2  # blocks [4; 16]
    heads: int = 1  # attention heads [4; 8]
    dropout: float = 0.0  # on the item vectors [not given]
    segment: int = 200  # L_seg, items of a segment [200]
    slots: int = 4  # C, memory tokens that a segment writes [4]
    body: Literal["sasrec", "hstu"] = "sasrec"  # the blocks [both]
    start: Literal["nothing", "learnt"] = "nothing"  # what token memories read before segment 0 [not given]
    max_len: int = 10_000  # longest history in one call [2,048 in their log]; a limit of calls, no weights depend on it

    def __post_init__(self) -> None:
        check_at_least(1, layers=self.layers, segment=self.segment, slots=self.slots)
        check_heads(self.dim, self.heads)
        if self.body not in ("sasrec", "hstu"):
            raise ValueError(f"body: {self.body!r} is no kind of block; choose 'sasrec' or 'hstu'")
        if self.start not in ("nothing", "learnt"):
            raise ValueError(f"start: {self.start!r} is unknown; choose 'nothing', or 'learnt' for C learnt tokens")


class SASRecBody(nn.Module):
    """SASRec's blocks and last norm under any mask."""

    def __init__(self, config: SegmentConfig) -> None:
        super().__init__()
        sizes = SASRecConfig(config.dim, config.layers, config.heads, dropout=0.0)
        self.blocks = nn.ModuleList(SASRecBlock(sizes) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.dim)

    def forward(
        self, x: Float[Tensor, "batch time dim"], mask: Bool[Tensor, "time time"] | None = None
    ) -> Float[Tensor, "batch time dim"]:
        """Output states; without a mask each position sees itself and those before it."""
        for block in self.blocks:
            x = block(x, mask)
        y: Tensor = self.norm(x)
        return y


class HSTUBody(nn.Module):
    """HSTU's units and last norm under any mask.

    Without position bias: it counts the places between two tokens, and in a packed pass, where queries stand between
    the items, that number means nothing.
    """

    def __init__(self, config: SegmentConfig) -> None:
        super().__init__()
        pass_length = config.segment + 2 * config.slots  # HSTU divides its sums by a constant, here one segment's
        sizes = HSTUConfig(
            config.dim, config.layers, config.heads, dropout=0.0, max_len=pass_length, position_bias=False
        )
        self.blocks = nn.ModuleList(HSTUBlock(sizes) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.dim)

    def forward(
        self, x: Float[Tensor, "batch time dim"], mask: Bool[Tensor, "time time"] | None = None
    ) -> Float[Tensor, "batch time dim"]:
        """Output states; without a mask each position sees itself and those before it."""
        for block in self.blocks:
            x = block(x, None, mask)
        y: Tensor = self.norm(x)
        return y


class SegmentModel(SequenceModel):
    """A recommender that reads a history segment by segment.

    A memory is one tensor per user with the tokens on the last axis but one; no token means that nothing was read yet.
    """

    grows = False  # whether the memory keeps the tokens of every segment, or only the last C

    def __init__(self, n_items: int, config: SegmentConfig | None = None) -> None:
        config = config or SegmentConfig()
        super().__init__(n_items, config.dim, config.max_len)
        self.config = config
        self.positions = nn.Embedding(config.segment, config.dim)
        nn.init.normal_(self.positions.weight, std=0.02)  # next to the items 0.02 √d: there, but not in the way
        self.dropout = Dropout(config.dropout)
        self.body = HSTUBody(config) if config.body == "hstu" else SASRecBody(config)

    def empty(self, batch: int) -> Float[Tensor, "batch *kind tokens dim"]:
        """The memory of users of whom nothing was read."""
        return self.items.weight.new_zeros(batch, 0, self.dim)

    @abstractmethod
    def read(
        self, memory: Float[Tensor, "batch *kind tokens dim"], x: Float[Tensor, "batch length dim"]
    ) -> tuple[Float[Tensor, "batch length dim"], Float[Tensor, "batch *kind new dim"]]:
        """One segment of item vectors after a memory: the items' hidden states, and the memory that is left."""

    def vectors(self, history: Int[Tensor, "batch time"]) -> Float[Tensor, "batch time dim"]:
        """Item vectors with the position inside the segment."""
        place = torch.arange(history.shape[1], device=history.device) % self.config.segment
        x: Tensor = self.dropout(self.embed(history) + self.positions.weight[place])
        return x

    def encode(
        self, history: Int[Tensor, "batch time"], time: Float[Tensor, "batch time+1"] | None = None
    ) -> Float[Tensor, "batch time dim"]:
        """Hidden state after each item, each segment reading the memory written before. `time` is not used."""
        memory, found = self.empty(len(history)), []
        for x in torch.split(self.vectors(history), self.config.segment, dim=1):
            hidden, memory = self.read(memory, x)
            found.append(hidden)
        return torch.cat(found, dim=1)

    # ----------------------------------------------------------------------------------------------------- serving

    def update(
        self, memory: Float[Tensor, "batch *kind tokens dim"], segment: Int[Tensor, "batch length"]
    ) -> Float[Tensor, "batch *kind new dim"]:
        """Compress one more segment of each user into the memory.

        Raises:
            ValueError: a segment that is too long, empty or padded, or a memory of another model or with NaN.
        """
        batch, length = segment.shape
        if not 1 <= length <= self.config.segment:
            raise ValueError(
                f"segment: {length} items, but this model reads 1 … {self.config.segment} at a time; "
                "cut the history into segments"
            )
        if (segment == 0).any():
            raise ValueError("segment: contains 0, which is padding; compress real items only")
        self._check(memory, batch)
        return self.read(memory, self.vectors(segment))[1]

    def rank(
        self, memory: Float[Tensor, "batch *kind tokens dim"], working: Int[Tensor, "batch length"]
    ) -> Float[Tensor, "batch items"]:
        """Score of every item as the next one, from the memory and the items since; column 0 (padding) is -inf.

        Args:
            working: the items after the last compressed segment, 1 to L of them, left-aligned, 0 pads on the right.
        """
        batch, length = working.shape
        if length > self.config.segment:
            raise ValueError(
                f"working: {length} items, but this model reads at most {self.config.segment} at a time; "
                "compress complete segments with `update` first"
            )
        self._check(memory, batch)
        hidden, _ = self.read(memory, self.vectors(working))
        scores = hidden[torch.arange(batch), last_position(working)] @ self.items.weight.T
        scores[:, 0] = -torch.inf
        return scores

    def memories(self, history: Int[Tensor, "batch time"]) -> list[Tensor]:
        """The free-running memory after each complete segment of rows that are all equally long."""
        if (history == 0).any():
            raise ValueError("history: contains 0, which is padding; give rows of equal length")
        memory, found = self.empty(len(history)), []
        for x in torch.split(self.vectors(history), self.config.segment, dim=1):
            if x.shape[1] == self.config.segment:
                _, memory = self.read(memory, x)
                found.append(memory)
        return found

    def _check(self, memory: Tensor, batch: int) -> None:
        *kind, _, dim = self.empty(batch).shape
        tokens, slots = memory.shape[-2] if memory.dim() > 1 else -1, self.config.slots
        fits = tokens >= 0 and tokens % slots == 0 and (self.grows or tokens <= slots)
        if not fits or memory.shape != (*kind, tokens, dim):
            many = f"0, {slots}, {2 * slots}, …" if self.grows else f"0 or {slots}"
            raise ValueError(
                f"memory: is {tuple(memory.shape)}, this model's is {tuple(kind)}, then {many} tokens, then {dim}; "
                "a memory fits only the model (and the batch) that made it"
            )
        if not torch.isfinite(memory).all():
            raise ValueError("memory: contains NaN or infinity; it is damaged, so read the user's history again")
