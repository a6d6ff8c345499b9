"""Rec2PM: recurrent preference memory (Chen et al., 2026).

The network is that of `reclib.memory.token_memory`, one shared causal encoder for everything:

    E_k = [M_{k-1}; S_k; Q_mem],     m_k = the last C output states

Trained serially, segment k waits for the memory of segment k - 1. Rec2PM first lets the model compute all memories by
itself, in one pass over the whole history, and takes them for the inputs of all segments at once:

1. Global pass over [S_0; Q; S_1; Q; …; S_k; Q] under a mask: query block h sees all raw items of segments ≤ h and no
   other query block. Its output is the reference memory m_h^ref: the history so far, compressed in one go.
2. Local pass over [m_{h-1}^ref; S_h; Q_mem] for all h, segments folded into the batch. The items predict the next item
   (L_AR), the queries give m_h^upd.
3. L = L_AR + λ L_con,  L_con = 1/k Σ_{h ≥ 1} ‖m_h^ref - m_h^upd‖²: what serving will compute has to be what training
   has used.

Our choices, where the paper is silent: ‖·‖² is the mean over the C · d numbers of a memory; items of later segments do
not see query blocks; L_AR is taken on the local pass alone and is a mean over items; its gradient flows through the
reference memories into the global pass, or they would learn from L_con only. Segment 0 reads no memory. Then its
memory is its reference, serving begins where training does, and a sum that begins with h = 1 covers every step. With
learnt tokens before it (`start="learnt"`) no term holds the first step of serving, and a life may be lost right there.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from reclib.memory.token_memory import AppendTokenMemory, TokenMemory
from reclib.nn.losses import full_softmax
from reclib.training.batches import SequenceBatch


class Rec2PM(TokenMemory):
    """The parallel passes; `encode`, `update` and `rank` are those of `TokenMemory`, and overwrite."""

    def segments(self, history: Int[Tensor, "batch time"]) -> Float[Tensor, "batch segments length dim"]:
        """Item vectors cut into segments; the last one is filled up with padding, which no used query sees."""
        length = self.config.segment
        x = self.vectors(F.pad(history, (0, -history.shape[1] % length)))
        return x.view(len(x), -1, length, self.dim)

    def references(self, x: Float[Tensor, "batch segments length dim"]) -> Float[Tensor, "batch segments slots dim"]:
        """m^ref of every segment, by the global pass."""
        batch, segments, length, _ = x.shape
        slots = self.config.slots
        packed = torch.cat([x, self.query.expand(batch, segments, -1, -1)], dim=2).flatten(1, 2)
        y: Tensor = self.body(packed, packed_mask(segments, length, slots, x.device))
        return y.view(batch, segments, length + slots, -1)[:, :, length:]

    def local(
        self, reference: Float[Tensor, "batch segments slots dim"], x: Float[Tensor, "batch segments length dim"]
    ) -> tuple[Float[Tensor, "batch segments length dim"], Float[Tensor, "batch segments slots dim"]]:
        """Every segment after the reference memory of the one before: the items' states and m^upd."""
        batch, segments, length, dim = x.shape
        slots = self.config.slots
        hidden, m = self.read(self.empty(batch), x[:, 0])
        if segments == 1:
            return hidden[:, None], m[:, None]
        others, update = self.read(reference[:, :-1].flatten(0, 1), x[:, 1:].flatten(0, 1))
        update = update[:, -slots:].view(batch, segments - 1, slots, dim)
        others = others.view(batch, segments - 1, length, dim)
        return torch.cat([hidden[:, None], others], dim=1), torch.cat([m[:, None], update], dim=1)

    def compress(self, history: Int[Tensor, "batch time"]) -> Float[Tensor, "batch slots dim"]:
        """One-time compression: Enc([S_0; …; S_h; Q]) of a whole history at once."""
        x = self.vectors(history)
        y: Tensor = self.body(torch.cat([x, self.query.expand(len(x), -1, -1)], dim=1))
        return y[:, -self.config.slots :]


class AppendRec2PM(AppendTokenMemory, Rec2PM):
    """Rec2PM-A: the same weights, served with the tokens of all segments."""


class OneTimeRec2PM(Rec2PM):
    """The same weights, but each segment reads its history compressed in one go, not step by step.

    By the packed mask that is the reference memory: this model ranks as training has it (teacher forcing). What it is
    better than `Rec2PM` by is what running freely costs.
    """

    def encode(
        self, history: Int[Tensor, "batch time"], time: Float[Tensor, "batch time+1"] | None = None
    ) -> Float[Tensor, "batch time dim"]:
        """Hidden state after each item; `time` is not used."""
        x = self.segments(history)
        hidden, _ = self.local(self.references(x), x)
        return hidden.flatten(1, 2)[:, : history.shape[1]]


def packed_mask(
    segments: int, length: int, slots: int, device: torch.device | str = "cpu"
) -> Bool[Tensor, "packed packed"]:
    """Who sees whom (row sees column) in [S_0; Q; …; S_k; Q]: the past, but of the queries only one's own block."""
    place = torch.arange(segments * (length + slots), device=device)
    block, is_item = place // (length + slots), place % (length + slots) < length
    own = ~is_item[:, None] & (block[:, None] == block)
    return (is_item | own) & (place[:, None] >= place)


def consistency(
    reference: Float[Tensor, "batch segments slots dim"],
    update: Float[Tensor, "batch segments slots dim"],
    complete: Int[Tensor, "batch"],
    *,
    detach: bool,
) -> Float[Tensor, ""]:
    """L_con: mean squared difference over all complete segments h ≥ 1; 0 where there are none.

    Args:
        complete: number of complete segments of each row.
        detach: take the reference for a fixed target.
    """
    _, segments, _, _ = reference.shape
    h = torch.arange(segments, device=reference.device)
    counts = (h >= 1) & (h < complete[:, None])
    if not counts.any():
        return reference.new_zeros(())
    target = reference.detach() if detach else reference
    return (target - update).square().mean((2, 3))[counts].mean()


@dataclass(frozen=True)
class Rec2PMLoss:
    """A loss for `reclib.training.fit`: L_AR + λ L_con, over the full catalogue.

    `detach` cuts the way from L_con to the target m_h^ref. The way through m_{h-1}^ref, which is an input of the same
    pass that L_AR needs, stays open.
    """

    lam: float = 1.0  # λ [1]
    detach: bool = False  # stop-gradient on m^ref in L_con [not given; the formula has none]

    def __call__(self, model: Rec2PM, batch: SequenceBatch) -> tuple[Tensor, int]:
        """Sum over all targets of the batch, and their number."""
        real = batch.target > 0
        x = model.segments(batch.history)
        reference = model.references(x)
        hidden, update = model.local(reference, x)
        hidden = hidden.flatten(1, 2)[:, : real.shape[1]]  # item states only: queries predict nothing
        loss = full_softmax(hidden[real], model.items.weight, batch.target[real])
        targets = int(real.sum())
        if self.lam:
            complete = (batch.history > 0).sum(1) // model.config.segment
            loss = loss + targets * self.lam * consistency(reference, update, complete, detach=self.detach)
        return loss, targets


def token_bytes(tokens: int, dim: int) -> int:
    """Bytes per user of a memory of tokens in float32: C = 4, d = 64 take 1,024."""
    return 4 * tokens * dim


def kv_bytes(layers: int, tokens: int, dim: int) -> int:
    """Bytes per user of keys and values of all layers in float32, be the tokens a memory's or a history's items.

    2 · layers times as much as the tokens themselves, whatever the method.
    """
    return 2 * layers * token_bytes(tokens, dim)
