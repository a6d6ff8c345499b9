"""Logs, splits and padded batches: hand-computed cases, and what must hold for every log."""

import dataclasses
import math
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from reclib.data.interactions import Cases, Interactions, padded_index

pytestmark = pytest.mark.slow


def make_log(histories, times=None, n_items=None, **fields):
    """A log from one list of items (and one of times) per user."""
    item = np.concatenate(histories).astype(np.int64)
    n_items = n_items or int(item.max())
    return Interactions(
        user=np.repeat(np.arange(len(histories)), [len(h) for h in histories]),
        item=item,
        time=None if times is None else np.concatenate(times).astype(float),
        n_items=n_items,
        items=pd.DataFrame(index=pd.RangeIndex(1, n_items + 1, name="item_id")),
        **fields,
    )


def questions(cases):
    """Cases as plain Python: (user, history, target)."""
    item = cases.source.item
    return [
        (int(cases.source.user[target]), item[start:target].tolist(), int(item[target]))
        for start, target in zip(cases.start, cases.target, strict=True)
    ]


def histories(log):
    return [log.history(user).tolist() for user in range(log.n_users)]


@st.composite
def logs(draw):
    """Few items and few moments, so that repeats and ties in time are common."""
    moments = st.lists(st.integers(0, 9), min_size=1, max_size=8)
    times = [sorted(times) for times in draw(st.lists(moments, min_size=1, max_size=8))]
    n_items = draw(st.integers(1, 5))
    items = [draw(st.lists(st.integers(1, n_items), min_size=len(t), max_size=len(t))) for t in times]
    n = sum(len(t) for t in times)
    return make_log(
        items,
        times,
        n_items,
        extra={"number": np.arange(n)},
        user_ids=np.array([f"user {i}" for i in range(len(times))]),
    )


# ------------------------------------------------------------------------------------------------------ by hand


def test_leave_one_out_by_hand():
    log = make_log([[1, 2, 3, 4], [5], [2, 2, 1], [3, 4]], extra={"number": np.arange(10)})
    train, valid, test = log.leave_one_out()
    assert histories(train) == [[1, 2], [5], [2], [3, 4]]
    assert train.extra["number"].tolist() == [0, 1, 4, 5, 8, 9]
    assert questions(valid) == [(0, [1, 2], 3), (2, [2], 2)]
    assert questions(test) == [(0, [1, 2, 3], 4), (2, [2, 2], 1)]
    assert valid.item.tolist() == [3, 2]
    assert test.user.tolist() == [0, 2]
    assert test.lengths.tolist() == [3, 2]
    assert (len(test), test.n_items, train.n_items) == (2, 5, 5)


def test_temporal_split_by_hand():
    log = make_log(
        [[1, 2, 3, 4], [5], [5, 1], [3, 2], [4], [1, 2]],
        [
            [1, 10, 10, 20],  # two events at the moment of the first cut, one at the second
            [5],  # one event, before
            [12, 25],  # all after the first cut: nothing to learn from, but a history at the second
            [3, 30],  # nothing between the cuts
            [10],  # one event, after: no history, so no question
            [2, 2],  # nothing after the cuts
        ],
        user_ids=np.array(list("ABCDEF")),
    )
    train, valid, test = log.temporal_split(10.0, 20.0)
    assert histories(train) == [[1], [5], [3], [1, 2]]
    assert train.user_ids.tolist() == ["A", "B", "D", "F"]
    assert train.time.tolist() == [1, 5, 3, 2, 2]
    assert questions(valid) == [(0, [1], 2)]
    assert questions(test) == [(0, [1, 2, 3], 4), (2, [5], 1), (3, [3], 2)]


def test_batch_by_hand():
    log = make_log([[1, 2, 3, 4, 5], [6, 7], [3, 1, 2]], [[0, 1, 2, 3, 4], [10, 20], [5, 5, 6]])
    cases = Cases(log, start=np.array([0, 5, 7]), target=np.array([4, 6, 9]))
    batch = cases.batch()
    assert batch.history.tolist() == [[1, 2, 3, 4], [6, 0, 0, 0], [3, 1, 0, 0]]
    assert batch.time.tolist() == [[0, 1, 2, 3, 4], [10, 20, 20, 20, 20], [5, 5, 6, 6, 6]]
    assert batch.target.tolist() == [5, 7, 2]
    assert batch.user.tolist() == [0, 1, 2]
    assert (batch.history.dtype, batch.time.dtype, batch.target.dtype) == (torch.int64, torch.float64, torch.int64)

    cut = cases.batch(np.array([2, 0]), max_len=2)
    assert cut.history.tolist() == [[3, 1], [3, 4]]
    assert cut.time.tolist() == [[5, 5, 6], [2, 3, 4]]
    assert cut.target.tolist() == [2, 5]

    assert questions(cases.subset(np.array([True, False, True]))) == [(0, [1, 2, 3, 4], 5), (2, [3, 1], 2)]


def test_batch_without_times():
    batch = make_log([[1, 2, 3]]).leave_one_out().test.batch()
    assert batch.time is None
    assert batch.history.tolist() == [[1, 2]]


def test_select_renumbers_users():
    log = make_log(
        [[1, 2], [3], [4, 5]],
        [[1, 2], [3], [4, 5]],
        extra={"click": np.array([1, 0, 1, 0, 1])},
        user_ids=np.array(["a", "b", "c"]),
        name="shop",
    )
    kept = log.select(np.array([True, False, False, True, True]))
    assert kept.user.tolist() == [0, 1, 1]
    assert kept.item.tolist() == [1, 4, 5]
    assert kept.time.tolist() == [1, 4, 5]
    assert kept.extra["click"].tolist() == [1, 0, 1]
    assert kept.user_ids.tolist() == ["a", "c"]
    assert (kept.n_items, kept.n_users, kept.name, len(kept)) == (5, 2, "shop", 3)
    with pytest.raises(ValueError, match="log is empty"):
        log.select(np.zeros(5, dtype=bool))


# --------------------------------------------------------------------------------------------------- bad input


def changed(**fields):
    log = make_log([[1, 2], [3]], [[1, 2], [0]], extra={"click": np.zeros(3)}, user_ids=np.array(["a", "b"]))
    return dataclasses.replace(log, **fields)


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"item": np.zeros(0, np.int64), "user": np.zeros(0, np.int64)}, "item: the log is empty"),
        ({"user": np.array([0, 0])}, "user: has 2 entries but item has 3"),
        ({"user": np.array([1, 1, 2])}, "user: must be 0-based"),
        ({"user": np.array([0, 0, 2])}, "user: must be 0-based, sorted and without gaps"),
        ({"user": np.array([0, 1, 0])}, "user: must be 0-based, sorted"),
        ({"user": np.array([0, 0, 1], np.int32)}, "user: must be int64, got int32"),
        ({"item": np.array([1.0, 2.0, 3.0])}, "item: must be int64, got float64"),
        ({"item": np.array([0, 2, 3])}, r"item: ids must lie in 1 … n_items = 3, found 0 … 3"),
        ({"item": np.array([1, 2, 4])}, "item: ids must lie in 1"),
        ({"n_items": 4}, "items: has 3 rows but n_items is 4"),
        ({"items": pd.DataFrame(index=range(3))}, "items: the index must be the item ids 1 … 3"),
        ({"time": np.array([1.0, 2.0])}, "time: has 2 entries but item has 3"),
        ({"time": np.array([1, 2, 0])}, "time: must be float64"),
        ({"time": np.array([1.0, math.nan, 0.0])}, "time: contains NaN or infinity"),
        ({"time": np.array([1.0, math.inf, 0.0])}, "time: contains NaN or infinity"),
        ({"time": np.array([2.0, 1.0, 0.0])}, "time: goes back after event 0"),
        ({"extra": {"click": np.zeros(2)}}, r"extra\['click'\]: has 2 entries but item has 3"),
        ({"user_ids": np.array(["a"])}, "user_ids: has 1 entries for 2 users"),
    ],
)
def test_bad_logs(fields, problem):
    changed()  # the unchanged log is fine
    with pytest.raises(ValueError, match=problem):
        changed(**fields)


def test_bad_splits():
    log = make_log([[1, 2], [3]], [[1, 2], [5]])
    with pytest.raises(ValueError, match="leave_one_out: no user has three events"):
        log.leave_one_out()
    with pytest.raises(ValueError, match=r"valid_from: 2.0 must be smaller than test_from = 2.0"):
        log.temporal_split(2.0, 2.0)
    with pytest.raises(ValueError, match="valid_from: nan must be smaller"):
        log.temporal_split(math.nan, 2.0)
    with pytest.raises(ValueError, match=r"valid_from: 1.0 lies before the first event at 1.0"):
        log.temporal_split(1.0, 2.0)
    with pytest.raises(ValueError, match="valid_from: no user has events on both sides"):
        log.temporal_split(3.0, 5.0)
    with pytest.raises(ValueError, match="test_from: no user has events on both sides"):
        log.temporal_split(2.0, 3.0)
    with pytest.raises(ValueError, match=r"time: interactions has no time stamps.*leave_one_out"):
        make_log([[1, 2, 3]]).temporal_split(1.0, 2.0)


def test_bad_batches():
    cases = make_log([[1, 2, 3]]).leave_one_out().test
    with pytest.raises(ValueError, match="max_len: must be at least 1, got 0"):
        cases.batch(max_len=0)
    with pytest.raises(ValueError, match="rows: selects no case"):
        cases.batch(np.zeros(0, dtype=int))


# ------------------------------------------------------------------------------------------- what always holds


@settings(max_examples=100, deadline=None)
@given(logs())
def test_leave_one_out_puts_every_event_in_exactly_one_part(log):
    assume((log.lengths >= 3).any())
    train, valid, test = log.leave_one_out()
    numbers = np.concatenate([train.extra["number"], valid.target, test.target])
    assert sorted(numbers.tolist()) == list(range(len(log)))
    assert train.n_users == log.n_users  # nobody disappears, so user numbers agree
    pairs = list(zip(questions(valid), questions(test), strict=True))
    held_out = {user: (target, last) for (user, _, target), (_, _, last) in pairs}
    for user, history in enumerate(histories(log)):
        assert (user in held_out) == (len(history) >= 3)
        assert history == [*train.history(user), *held_out.get(user, ())]
    for (user, history, _), (same_user, longer, _) in pairs:
        assert user == same_user
        assert history == train.history(user).tolist()
        assert longer == log.history(user)[:-1].tolist()


@settings(max_examples=100, deadline=None)
@given(logs(), st.integers(1, 9).map(float), st.integers(1, 4))
def test_temporal_split_never_shows_the_future(log, valid_from, wait):
    test_from = valid_from + wait
    try:
        train, valid, test = log.temporal_split(valid_from, test_from)
    except ValueError:
        assume(False)
    # Training is exactly what happened before the cut.
    assert train.extra["number"].tolist() == np.flatnonzero(log.time < valid_from).tolist()
    assert [f"user {u}" for u in np.unique(log.user[log.time < valid_from])] == train.user_ids.tolist()
    for cases, begin, end in [(valid, valid_from, test_from), (test, test_from, math.inf)]:
        asked = dict.fromkeys(range(log.n_users))
        for start, target in zip(cases.start, cases.target, strict=True):
            user = log.user[target]
            assert asked[user] is None  # one question per user
            asked[user] = target
            assert start == log.offsets[user] < target
        for user in range(log.n_users):  # by the words of the docstring, event by event
            events = range(log.offsets[user], log.offsets[user + 1])
            late = [e for e in events if log.time[e] >= begin]
            has_earlier = late and late[0] > events[0]
            expected = late[0] if has_earlier and log.time[late[0]] < end else None
            assert asked[user] == expected


@settings(max_examples=100, deadline=None)
@given(logs(), st.data())
def test_batches_hold_the_histories_and_nothing_else(log, data):
    target = np.array(data.draw(st.lists(st.integers(0, len(log) - 1), min_size=1, max_size=6)))
    start = log.offsets[log.user[target]]
    assume((target > start).all())
    cases = Cases(log, start, target)
    rows = np.array(data.draw(st.lists(st.integers(0, len(cases) - 1), min_size=1, max_size=8)))
    max_len = data.draw(st.none() | st.integers(1, 5))
    batch = cases.batch(rows, max_len)
    expected = [(u, h if max_len is None else h[-max_len:], y) for u, h, y in (questions(cases)[r] for r in rows)]
    width = max(len(history) for _, history, _ in expected)
    assert batch.history.shape == (len(rows), width)
    assert batch.time.shape == (len(rows), width + 1)
    for i, (user, history, target_item) in enumerate(expected):
        length, end = len(history), cases.target[rows[i]]
        assert batch.history[i].tolist() == history + [0] * (width - length)
        assert (int(batch.user[i]), int(batch.target[i])) == (user, target_item)
        times = log.time[end - length : end + 1].tolist()
        assert batch.time[i].tolist() == times + [times[-1]] * (width - length)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 6)), min_size=1, max_size=8))
def test_padded_index_agrees_with_a_loop(ranges):
    start = np.array([s for s, _ in ranges])
    stop = start + [n for _, n in ranges]
    index, real = padded_index(start, stop)
    longest = max(n for _, n in ranges)
    for row, (begin, n) in enumerate(ranges):
        assert index[row].tolist() == [*range(begin, begin + n), *[begin + n - 1] * (longest - n)]
        assert real[row].tolist() == [True] * n + [False] * (longest - n)


@settings(max_examples=100, deadline=None)
@given(logs(), st.data())
def test_select_keeps_what_it_is_told(log, data):
    keep = np.array(data.draw(st.lists(st.booleans(), min_size=len(log), max_size=len(log))))
    assume(keep.any())
    kept = log.select(keep)
    assert kept.extra["number"].tolist() == np.flatnonzero(keep).tolist()
    assert kept.item.tolist() == log.item[keep].tolist()
    assert kept.time.tolist() == log.time[keep].tolist()
    assert [kept.user_ids[u] for u in kept.user] == [log.user_ids[u] for u in log.user[keep]]
    assert kept.lengths.sum() == len(kept) == keep.sum()
    assert kept.lengths.min() >= 1


# ------------------------------------------------------------------------------------------------------- Parquet


def assert_same_array(one, two):
    assert (one is None) == (two is None)
    if one is not None:
        assert one.dtype == two.dtype
        np.testing.assert_array_equal(one, two)


def assert_same_log(one, two):
    for name in ("user", "item", "time", "user_ids"):
        assert_same_array(getattr(one, name), getattr(two, name))
    assert list(one.extra) == list(two.extra)
    for key in one.extra:
        assert_same_array(one.extra[key], two.extra[key])
    assert (one.n_items, one.name) == (two.n_items, two.name)
    pd.testing.assert_frame_equal(one.items, two.items)


@settings(max_examples=40, deadline=None)
@given(logs(), st.booleans(), st.booleans(), st.data())
def test_parquet_loses_nothing(log, timed, named, data):
    n = len(log)

    def array(elements, dtype):
        return np.array(data.draw(st.lists(elements, min_size=n, max_size=n)), dtype=dtype)

    log = dataclasses.replace(
        log,
        time=log.time / 3 if timed else None,
        user_ids=log.user_ids if named else None,
        items=log.items.assign(
            title=[f"item {i}" for i in log.items.index], price=np.arange(log.n_items, dtype=np.float32)
        ),
        extra={
            "price": array(st.floats(), np.float64),  # with NaN and infinity
            "half": array(st.floats(width=32), np.float32),
            "click": array(st.booleans(), bool),
            "rank": array(st.integers(-128, 127), np.int8),
            "place": array(st.sampled_from(["top", "", "weiß"]), np.str_),
        },
        name="shop, March",
    )
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "new" / "folder"
        log.to_parquet(folder)
        assert_same_log(Interactions.from_parquet(folder), log)
        plain = pd.read_parquet(folder / "events.parquet")  # readable without reclib
        assert plain["item"].tolist() == log.item.tolist()


def test_parquet_that_is_not_ours(tmp_path):
    with pytest.raises(ValueError, match=r"folder: .*events.parquet does not exist"):
        Interactions.from_parquet(tmp_path)
    frame = pd.DataFrame({"user": [0], "item": [1]})
    frame.to_parquet(tmp_path / "events.parquet")
    frame.to_parquet(tmp_path / "items.parquet")
    with pytest.raises(ValueError, match=r"folder: .* was not written by Interactions.to_parquet"):
        Interactions.from_parquet(tmp_path)
