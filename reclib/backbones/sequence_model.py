"""What GRU4Rec, SASRec and HSTU share: tied item embeddings, scoring, and the next-item loss."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from inspect import signature

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from reclib.nn import losses
from reclib.nn.sizes import check_at_least
from reclib.training.batches import SequenceBatch


class SequenceModel(nn.Module, ABC):
    """Item embeddings in, hidden states out; an item's score is its dot product with the last hidden state.

    Embeddings start at scale 0.02 and are multiplied by √d at the input. Each block adds to its input, so an untrained
    model points back at the last item: its first logit is about √d · |E|². Started at 1/√d, that is √d, "the same item
    again", and the first epochs go into unlearning it; started at 0.02 it is nearly nothing (chapter 02 measures both).
    """

    def __init__(self, n_items: int, dim: int, max_len: int) -> None:
        super().__init__()
        check_at_least(1, n_items=n_items, dim=dim, max_len=max_len)
        self.n_items, self.dim, self.max_len = n_items, dim, max_len
        self.items = nn.Embedding(n_items + 1, dim, padding_idx=0)
        nn.init.normal_(self.items.weight, std=0.02)
        with torch.no_grad():
            self.items.weight[0] = 0

    def embed(self, history: Int[Tensor, "batch time"]) -> Float[Tensor, "batch time dim"]:
        """Item embeddings times √d."""
        if history.shape[1] > self.max_len:
            raise ValueError(f"history: {history.shape[1]} items, but max_len is {self.max_len}; cut it with `recent`")
        embedded: Tensor = self.items(history) * math.sqrt(self.dim)
        return embedded

    @abstractmethod
    def encode(
        self, history: Int[Tensor, "batch time"], time: Float[Tensor, "batch time+1"] | None = None
    ) -> Float[Tensor, "batch time dim"]:
        """Hidden state after each item; position t has seen items 0 … t and the time of the next request."""

    def score(
        self, history: Int[Tensor, "batch time"], time: Float[Tensor, "batch time+1"] | None = None
    ) -> Float[Tensor, "batch items"]:
        """Score of every item as the next one, from the last `max_len` items; column 0 (padding) is -inf.

        Args:
            history: item ids, oldest first, left-aligned, 0 pads on the right; at least one item per row.
            time: seconds of each event and, after the last one, of the request; used by models with time bias.
        """
        history, time = recent(history, time, self.max_len)
        hidden = self.encode(history, time)
        last = hidden[torch.arange(len(history)), last_position(history)]
        scores = last @ self.items.weight.T
        scores[:, 0] = -torch.inf
        return scores


def last_position(history: Int[Tensor, "batch time"]) -> Int[Tensor, "batch"]:
    """Column of the last item of each left-aligned row."""
    item = history > 0
    if not item.any(1).all():
        raise ValueError("history: a row holds no item; give at least one")
    if (item[:, 1:] & ~item[:, :-1]).any():
        raise ValueError("history: an item follows a 0; left-align the items and pad with 0 on the right")
    return item.sum(1) - 1


def recent(
    history: Int[Tensor, "batch time"], time: Float[Tensor, "batch time+1"] | None, max_len: int
) -> tuple[Int[Tensor, "batch recent"], Float[Tensor, "batch recent+1"] | None]:
    """The last `max_len` items of each left-aligned row, left-aligned again, with their times."""
    _, width = history.shape
    if width <= max_len:
        return history, time
    skip = (last_position(history)[:, None] + 1 - max_len).clamp(min=0)
    column = skip + torch.arange(max_len + 1, device=history.device)
    if time is not None:
        time = time.gather(1, column)
    return history.gather(1, column[:, :-1]), time


@dataclass(frozen=True)
class NextItemLoss:
    """A loss for `reclib.training.fit`: predict `batch.target` at every position.

    Attributes
    ----------
    kind: from `reclib.nn.losses`: over the catalogue (`full_softmax`), or over drawn negatives (`sampled_softmax`,
        `gbce`), for which the batches must carry negatives.
    """

    kind: Callable[..., Tensor] = losses.full_softmax

    def __call__(self, model: SequenceModel, batch: SequenceBatch) -> tuple[Tensor, int]:
        """Sum of the loss over all targets of the batch, and their number."""
        sampled = "negatives" in signature(self.kind).parameters
        if sampled and batch.negatives is None:
            raise ValueError("negatives: this loss compares with sampled items; use SequenceBatches(…, negatives=k)")
        real: Bool[Tensor, "batch time"] = batch.target > 0
        hidden, target = model.encode(batch.history, batch.time)[real], batch.target[real]
        if not sampled:
            return self.kind(hidden, model.items.weight, target), len(target)
        return self.kind(hidden, model.items.weight, target, batch.negatives), len(target)
