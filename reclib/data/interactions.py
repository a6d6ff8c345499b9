"""Interactions: who did what, in which order, and how to split it without cheating.

Everything is a flat array sorted by user and time. A history is a slice of that array, so that splitting a
million events copies nothing and a batch of histories is one vectorised gather.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Float, Int
from torch import Tensor


class HistoryBatch(NamedTuple):
    """A padded batch of histories with the item that really came next.

    `time` has one column more than `history`: after a history of length L, entry L is the time of the request
    (when the target happened; known at serving time, so models may use it). It is repeated under the padding.
    """

    history: Int[Tensor, "batch time"]  # item ids, oldest first, left-aligned; 0 pads on the right
    time: Float[Tensor, "batch time+1"] | None  # seconds; None where only the order is known
    target: Int[Tensor, "batch"]  # the next item
    user: Int[Tensor, "batch"]  # 0-based user number


@dataclass(frozen=True)
class Interactions:
    """A log of events, sorted by user and, inside a user, by time.

    Attributes
    ----------
    user: `[n]` int64, 0-based and without gaps.
    item: `[n]` int64 in `1 … n_items`; 0 is kept free for padding.
    time: `[n]` float64 in seconds, not decreasing inside a user, or None where only the order is known.
    n_items: size of the catalogue (items nobody touched count too).
    items: one row per item, index `item_id` = `1 … n_items`; columns depend on the data set.
    extra: further per-event arrays of length `n` (labels, prices, hidden truth …).
    user_ids: the users' names in the source, `[n_users]`.
    name: where the log comes from, for tables and plots.
    """

    user: np.ndarray
    item: np.ndarray
    time: np.ndarray | None
    n_items: int
    items: pd.DataFrame
    extra: Mapping[str, np.ndarray] = field(default_factory=dict)
    user_ids: np.ndarray | None = None
    name: str = "interactions"

    def __post_init__(self) -> None:
        n = len(self.item)
        if n == 0:
            raise ValueError("item: the log is empty; give at least one event")
        if len(self.user) != n:
            raise ValueError(f"user: has {len(self.user)} entries but item has {n}; give one user per event")
        for name, values in [("user", self.user), ("item", self.item)]:
            if values.dtype != np.int64:  # torch takes no other integer as an index everywhere
                raise ValueError(f"{name}: must be int64, got {values.dtype}; convert with .astype(np.int64)")
        if self.user[0] != 0 or np.any((step := np.diff(self.user)) < 0) or np.any(step > 1):
            raise ValueError("user: must be 0-based, sorted and without gaps; sort the events by user first")
        if self.item.min() < 1 or self.item.max() > self.n_items:
            raise ValueError(
                f"item: ids must lie in 1 … n_items = {self.n_items}, found {self.item.min()} … {self.item.max()}"
            )
        if len(self.items) != self.n_items:
            raise ValueError(f"items: has {len(self.items)} rows but n_items is {self.n_items}; give one row per item")
        if not np.array_equal(self.items.index, np.arange(1, self.n_items + 1)):
            raise ValueError(
                f"items: the index must be the item ids 1 … {self.n_items} in order; "
                "set items.index = pd.RangeIndex(1, n_items + 1, name='item_id')"
            )
        if self.time is not None:
            if len(self.time) != n:
                raise ValueError(f"time: has {len(self.time)} entries but item has {n}; give one time per event")
            if self.time.dtype != np.float64:
                raise ValueError(f"time: must be float64 seconds, got {self.time.dtype}; convert with .astype(float)")
            if not np.all(np.isfinite(self.time)):
                raise ValueError("time: contains NaN or infinity; drop or repair those events")
            back = np.flatnonzero((np.diff(self.time) < 0) & (np.diff(self.user) == 0))
            if len(back):
                raise ValueError(f"time: goes back after event {back[0]}; sort each user's events by time (stable)")
        for key, values in self.extra.items():
            if len(values) != n:
                raise ValueError(f"extra[{key!r}]: has {len(values)} entries but item has {n}; give one per event")
        if self.user_ids is not None and len(self.user_ids) != self.n_users:
            raise ValueError(f"user_ids: has {len(self.user_ids)} entries for {self.n_users} users; give one per user")

    def __len__(self) -> int:
        return len(self.item)

    @cached_property
    def offsets(self) -> np.ndarray:
        """`[n_users + 1]`: user `u` owns the events `offsets[u] … offsets[u + 1] - 1`."""
        return np.concatenate([[0], np.cumsum(np.bincount(self.user))])

    @property
    def n_users(self) -> int:
        """Users with at least one event."""
        return int(self.user[-1]) + 1

    @property
    def lengths(self) -> np.ndarray:
        """`[n_users]` events per user."""
        return np.diff(self.offsets)

    def history(self, user: int) -> np.ndarray:
        """The items of one user, oldest first."""
        return self.item[self.offsets[user] : self.offsets[user + 1]]

    def select(self, keep: np.ndarray) -> Interactions:
        """The events where `keep` is true. Users left with none disappear, the others are renumbered."""
        users, user = np.unique(self.user[keep], return_inverse=True)
        return Interactions(
            user=user.astype(np.int64),
            item=self.item[keep],
            time=None if self.time is None else self.time[keep],
            n_items=self.n_items,
            items=self.items,
            extra={key: values[keep] for key, values in self.extra.items()},
            user_ids=None if self.user_ids is None else self.user_ids[users],
            name=self.name,
        )

    def to_parquet(self, folder: str | Path) -> None:
        """Write the log as `events.parquet` and `items.parquet` into a folder, made if needed; nothing is lost.

        Readable by anything that reads Parquet: one row per event with columns user, item, time and `extra.<name>`.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        columns = {"user": self.user, "item": self.item}
        if self.time is not None:
            columns["time"] = self.time
        columns |= {f"extra.{key}": values for key, values in self.extra.items()}
        about = {
            "name": self.name,
            "n_items": self.n_items,
            "dtypes": {key: values.dtype.str for key, values in columns.items()},
            "user_ids": None if self.user_ids is None else self.user_ids.tolist(),
            "user_ids_dtype": None if self.user_ids is None else self.user_ids.dtype.str,
        }
        table = pa.table({key: pa.array(values) for key, values in columns.items()})
        table = table.replace_schema_metadata({"reclib": json.dumps(about)})
        pq.write_table(table, folder / "events.parquet")
        self.items.to_parquet(folder / "items.parquet")

    @classmethod
    def from_parquet(cls, folder: str | Path) -> Interactions:
        """Read a log that `to_parquet` wrote."""
        folder = Path(folder)
        for file in (folder / "events.parquet", folder / "items.parquet"):
            if not file.exists():
                raise ValueError(f"folder: {file} does not exist; give a folder that Interactions.to_parquet wrote")
        table = pq.read_table(folder / "events.parquet")
        about = json.loads((table.schema.metadata or {}).get(b"reclib", b"null"))
        if about is None:
            raise ValueError(f"folder: {folder} was not written by Interactions.to_parquet; its metadata are missing")
        columns = {
            key: table[key].to_numpy().astype(np.dtype(dtype), copy=False) for key, dtype in about["dtypes"].items()
        }
        return cls(
            user=columns["user"],
            item=columns["item"],
            time=columns.get("time"),
            n_items=about["n_items"],
            items=pd.read_parquet(folder / "items.parquet"),
            extra={key.removeprefix("extra."): v for key, v in columns.items() if key.startswith("extra.")},
            user_ids=None
            if about["user_ids"] is None
            else np.array(about["user_ids"], dtype=np.dtype(about["user_ids_dtype"])),
            name=about["name"],
        )

    def leave_one_out(self) -> Split:
        """Last item = test, the one before = validation, the rest = training.

        Users with fewer than three events stay in training only. Beware: the cut lies at another date for
        every user, so training contains other users' futures (chapter 01 measures what that is worth).
        """
        first, last = self.offsets[:-1], self.offsets[1:]
        users = np.flatnonzero(last - first >= 3)
        if len(users) == 0:
            raise ValueError("leave_one_out: no user has three events; give longer histories")
        held_out = np.concatenate([last[users] - 1, last[users] - 2])
        keep = np.ones(len(self), dtype=bool)
        keep[held_out] = False
        return Split(
            train=self.select(keep),
            valid=Cases(self, start=first[users], target=last[users] - 2),
            test=Cases(self, start=first[users], target=last[users] - 1),
        )

    def temporal_split(self, valid_from: float, test_from: float) -> Split:
        """One cut in time for everybody: nothing after `valid_from` is seen in training.

        Validation and test hold, for each user with an earlier event, the first event in
        `[valid_from, test_from)` and the first at or after `test_from` (our choice: one target per user).

        Args:
            valid_from, test_from: times in the units of `time`, with `valid_from < test_from`.
        """
        if self.time is None:
            raise ValueError(f"time: {self.name} has no time stamps, only an order; use leave_one_out()")
        if not valid_from < test_from:
            raise ValueError(f"valid_from: {valid_from} must be smaller than test_from = {test_from}")
        keep = self.time < valid_from
        if not keep.any():
            raise ValueError(f"valid_from: {valid_from} lies before the first event at {self.time.min()}")
        return Split(
            train=self.select(keep),
            valid=self._first_events("valid_from", self.time >= valid_from, before=test_from),
            test=self._first_events("test_from", self.time >= test_from, before=np.inf),
        )

    def _first_events(self, argument: str, late: np.ndarray, before: float) -> Cases:
        assert self.time is not None
        # Late events stand at the end of each user, so their number locates the first of them.
        n_late = np.bincount(self.user, weights=late, minlength=self.n_users).astype(np.int64)
        target = self.offsets[1:] - n_late
        usable = (n_late > 0) & (target > self.offsets[:-1])
        usable[usable] = self.time[target[usable]] < before
        if not usable.any():
            raise ValueError(f"{argument}: no user has events on both sides of it; choose another time")
        return Cases(self, start=self.offsets[:-1][usable], target=target[usable])


@dataclass(frozen=True)
class Cases:
    """Questions to a recommender: given this history, what came next?

    Attributes
    ----------
    source: the whole log the cases point into.
    start: `[n]` position of the first event of each history.
    target: `[n]` position of the event to predict; the history is `start … target - 1`.
    """

    source: Interactions
    start: np.ndarray
    target: np.ndarray

    def __len__(self) -> int:
        return len(self.target)

    @property
    def item(self) -> np.ndarray:
        """`[n]` the items to predict."""
        item: np.ndarray = self.source.item[self.target]
        return item

    @property
    def user(self) -> np.ndarray:
        """`[n]` user numbers in `source`."""
        user: np.ndarray = self.source.user[self.target]
        return user

    @property
    def n_items(self) -> int:
        """Size of the catalogue."""
        return self.source.n_items

    @property
    def lengths(self) -> np.ndarray:
        """`[n]` events per history."""
        lengths: np.ndarray = self.target - self.start
        return lengths

    def subset(self, rows: np.ndarray) -> Cases:
        """Some of the cases, by position or mask."""
        return Cases(self.source, self.start[rows], self.target[rows])

    def batch(self, rows: np.ndarray | slice = slice(None), max_len: int | None = None) -> HistoryBatch:
        """Histories of the given cases, cut to the last `max_len` events and padded to the longest of them."""
        start, target = self.start[rows], self.target[rows]
        if len(target) == 0:
            raise ValueError("rows: selects no case; give at least one")
        if max_len is not None:
            if max_len < 1:
                raise ValueError(f"max_len: must be at least 1, got {max_len}")
            start = np.maximum(start, target - max_len)
        index, real = padded_index(start, target + 1)
        times = self.source.time
        return HistoryBatch(
            # Dropping the first column of `real` drops the target itself, the last real entry of each row.
            history=torch.from_numpy(np.where(real[:, 1:], self.source.item[index[:, :-1]], 0)),
            time=None if times is None else torch.from_numpy(times[index]),
            target=torch.from_numpy(self.source.item[target]),
            user=torch.from_numpy(self.source.user[target]),
        )


class Split(NamedTuple):
    """What a model may learn from, what may choose between models, and what is looked at once."""

    train: Interactions
    valid: Cases
    test: Cases


def padded_index(start: np.ndarray, stop: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions `start[i] … stop[i] - 1` as left-aligned rows.

    Returns `index [rows, longest]`, with the last real position repeated under the padding, and the mask `real`.
    """
    length = stop - start
    column = np.arange(length.max())
    real = column < length[:, None]
    return start[:, None] + np.minimum(column, length[:, None] - 1), real
