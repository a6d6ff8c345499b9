"""Batches of sequences in which almost nothing is padding.

On Amazon Beauty a history has 7 items; padded to 50, six of seven computed positions would be waste. Here
sequences of similar length share a batch and are padded only to the longest of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from reclib.data.interactions import Interactions, padded_index
from reclib.nn.sizes import check_at_least

BUCKET = 16  # batches sorted together: large enough to align lengths, small enough to keep batches random


class SequenceBatch(NamedTuple):
    """Inputs and next-item targets, left-aligned, padded with 0 on the right."""

    history: Int[Tensor, "batch time"]
    target: Int[Tensor, "batch time"]  # target[:, t] follows history[:, t]; 0 = no target
    time: Float[Tensor, "batch time+1"] | None  # event times and, last, the time of the last target
    negatives: Int[Tensor, "targets k"] | None  # drawn uniformly for each real target, row-major order


class SequenceBatches:
    """Every event of every user as a target once per epoch.

    Histories longer than `max_len` are cut into windows. Where the cuts fall is drawn anew each epoch, so that over
    epochs every event is seen with contexts of many lengths (our choice; many codes train on the last window only
    and ignore all earlier events of long users).

    All randomness comes from `(seed, epoch)`: an epoch can be replayed without replaying those before it.
    """

    def __init__(
        self,
        log: Interactions,
        *,
        max_len: int,
        batch_size: int,
        negatives: int = 0,
        seed: int = 0,
    ) -> None:
        """Prepare the batches.

        Args:
            log: training events, e.g. `split.train`.
            max_len: most items in one input.
            batch_size: sequences per batch (over all processes together).
            negatives: random items drawn for each target, for the sampled losses.
            seed: of order, windows and negatives.
        """
        check_at_least(1, max_len=max_len, batch_size=batch_size)
        check_at_least(0, negatives=negatives)
        if log.lengths.max() < 2:
            raise ValueError("log: no user has two events, so there is nothing to predict; give longer histories")
        self.log, self.max_len, self.batch_size = log, max_len, batch_size
        self.negatives, self.seed = negatives, seed

    def epoch(self, epoch: int, rank: int = 0, world_size: int = 1) -> Iterator[SequenceBatch]:
        """The batches of one epoch; process `rank` of `world_size` gets its share of the rows of each."""
        rng = np.random.default_rng([self.seed, epoch])
        for start, stop in self._batched_windows(rng):
            batch = self._collate(start, stop, rng)
            yield batch if world_size == 1 else _rows(batch, rank, world_size)

    def steps(self, epoch: int) -> int:
        """Batches in an epoch (the cuts, and so the number of windows, change a little from one to the next)."""
        return len(self._batched_windows(np.random.default_rng([self.seed, epoch])))

    def _batched_windows(self, rng: np.random.Generator) -> list[tuple[np.ndarray, np.ndarray]]:
        start, stop = _windows(self.log.offsets, self.max_len, rng)
        order = rng.permutation(len(start))
        span = self.batch_size * BUCKET
        length = (stop - start)[order]
        # Sort by length inside each bucket of the shuffled order.
        order = order[np.lexsort([length, np.arange(len(order)) // span])]
        batches = [order[i : i + self.batch_size] for i in range(0, len(order), self.batch_size)]
        return [(start[batches[i]], stop[batches[i]]) for i in rng.permutation(len(batches))]

    def _collate(self, start: np.ndarray, stop: np.ndarray, rng: np.random.Generator) -> SequenceBatch:
        index, real = padded_index(start, stop)
        item = np.where(real, self.log.item[index], 0)
        history, target = np.where(real[:, 1:], item[:, :-1], 0), item[:, 1:]
        negatives = None
        if self.negatives:
            shape = (int((target > 0).sum()), self.negatives)
            negatives = torch.from_numpy(rng.integers(1, self.log.n_items + 1, size=shape))
        return SequenceBatch(
            history=torch.from_numpy(history),
            target=torch.from_numpy(target),
            time=None if self.log.time is None else torch.from_numpy(self.log.time[index]),
            negatives=negatives,
        )


def _windows(offsets: np.ndarray, max_len: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Event ranges `start … stop - 1` such that every event but each user's first is a target exactly once.

    Neighbouring windows share one event: the last target of one is the first input of the next.
    """
    first, last = offsets[:-1], offsets[1:]
    targets = last - first - 1
    first, targets = first[targets > 0], targets[targets > 0]
    # The first window predicts `head` events, the others max_len each, the last the rest.
    head = np.where(targets > max_len, rng.integers(1, max_len + 1, size=len(targets)), targets)
    count = 1 + -((head - targets) // max_len)
    user = np.repeat(np.arange(len(count)), count)
    k = np.arange(len(user)) - np.repeat(np.cumsum(count) - count, count)  # number of the window in its user
    begin = np.where(k == 0, 0, head[user] + (k - 1) * max_len)
    end = np.minimum(head[user] + k * max_len, targets[user])
    return first[user] + begin, first[user] + end + 1


def _rows(batch: SequenceBatch, rank: int, world_size: int) -> SequenceBatch:
    """Every `world_size`-th row of a batch, beginning at `rank`."""
    mine = torch.zeros(len(batch.history), dtype=torch.bool)
    mine[rank::world_size] = True
    real = batch.target > 0
    return SequenceBatch(
        history=batch.history[mine],
        target=batch.target[mine],
        time=None if batch.time is None else batch.time[mine],
        negatives=None if batch.negatives is None else batch.negatives[mine[:, None].expand_as(real)[real]],
    )
