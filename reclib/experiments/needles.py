"""Lives in which only the beginning counts: the plainest question to a memory.

The first segment shows items of the user's group, the rest is noise, and the last item is decided by the group. Whoever
sees only the recent segment can do no better than guess.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch

from reclib.data.interactions import Cases, Interactions
from reclib.training import SequenceBatch, SequenceBatches

GROUPS, SHOWN, NOISE = 4, 2, 12  # groups of users; items that show a group; items that say nothing
N_ITEMS = GROUPS * (SHOWN + 1) + NOISE


def needles(users: int, seed: int, length: int = 8, segments: int = 3) -> Interactions:
    """One life per user: `segments` segments of `length` items and, last, the answer."""
    rng = np.random.default_rng(seed)
    items = rng.integers(GROUPS * (SHOWN + 1) + 1, N_ITEMS + 1, size=(users, length * segments + 1))
    group = rng.integers(GROUPS, size=users)
    items[:, :length] = 1 + SHOWN * group[:, None] + rng.integers(SHOWN, size=(users, length))
    items[:, -1] = 1 + SHOWN * GROUPS + group
    return Interactions(
        user=np.repeat(np.arange(users), items.shape[1]),
        item=items.reshape(-1),
        time=None,
        n_items=N_ITEMS,
        items=pd.DataFrame(index=pd.RangeIndex(1, N_ITEMS + 1, name="item_id")),
        name="needles",
    )


def questions(log: Interactions) -> Cases:
    """Each life up to its answer."""
    return Cases(log, start=log.offsets[:-1], target=log.offsets[1:] - 1)


class AnswerBatches(SequenceBatches):
    """Batches in which the answer alone is a target: the noise before it cannot be learnt, only learnt by heart."""

    def _collate(self, start: np.ndarray, stop: np.ndarray, rng: np.random.Generator) -> SequenceBatch:
        batch = super()._collate(start, stop, rng)
        last = torch.arange(batch.target.shape[1]) == batch.target.shape[1] - 1
        return batch._replace(target=torch.where(last, batch.target, 0))
