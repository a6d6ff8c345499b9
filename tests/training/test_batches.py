"""Batches of sequences: every event is a target once, in every split over processes, and little is padding."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reclib.data.interactions import Interactions
from reclib.training import SequenceBatches
from reclib.training.batches import _windows

pytestmark = pytest.mark.slow


def numbered_log(lengths, *, timed=True):
    """Item ids number the events from 1, times from 0: an item says which event it is."""
    n = sum(lengths)
    return Interactions(
        user=np.repeat(np.arange(len(lengths)), lengths),
        item=np.arange(1, n + 1),
        time=np.arange(float(n)) if timed else None,
        n_items=n,
        items=pd.DataFrame(index=pd.RangeIndex(1, n + 1, name="item_id")),
    )


some_lengths = st.lists(st.integers(1, 20), min_size=1, max_size=12).filter(lambda lengths: max(lengths) > 1)
sizes = {"max_len": st.integers(1, 8), "batch_size": st.integers(1, 5), "seed": st.integers(0, 3)}


@settings(max_examples=100, deadline=None)
@given(some_lengths, st.fixed_dictionaries(sizes), st.integers(0, 3), st.booleans())
def test_every_event_but_each_users_first_is_a_target_once(lengths, size, epoch, timed):
    log = numbered_log(lengths, timed=timed)
    batches = SequenceBatches(log, **size)
    seen, steps = [], 0
    for history, target, time, negatives in batches.epoch(epoch):
        steps += 1
        rows, width = history.shape
        assert rows <= size["batch_size"]
        assert 1 <= width <= size["max_len"]
        assert target.shape == history.shape
        assert (target > 0).any(0).all()  # padded to the longest and no further
        real = target > 0
        assert torch.equal(history > 0, real)
        assert not (real[:, 1:] & ~real[:, :-1]).any()  # left-aligned
        # Each target is the event right after its input, of the same user.
        assert torch.equal(history[real] + 1, target[real])
        assert np.array_equal(log.user[history[real].numpy() - 1], log.user[target[real].numpy() - 1])
        # Inside a row the inputs are consecutive events.
        both = real[:, 1:]
        assert torch.equal(history[:, 1:][both], history[:, :-1][both] + 1)
        if timed:
            assert time.shape == (rows, width + 1)
            assert torch.equal(time[:, :-1][real], history[real].double() - 1)
            last = target.amax(1).double() - 1  # the time of the last target, repeated under the padding
            assert torch.equal(time.amax(1), last)
            assert torch.equal(torch.where(real, last[:, None], time[:, 1:]), last[:, None].expand_as(real))
        else:
            assert time is None
        assert negatives is None
        seen += target[real].tolist()
    assert steps == batches.steps(epoch)
    first = {int(offset) + 1 for offset in log.offsets[:-1]}
    assert sorted(seen) == sorted(set(range(1, len(log) + 1)) - first)


@settings(max_examples=60, deadline=None)
@given(some_lengths, st.fixed_dictionaries(sizes), st.integers(1, 4), st.integers(0, 3))
def test_processes_share_the_rows_of_each_batch(lengths, size, world_size, k):
    batches = SequenceBatches(numbered_log(lengths), **size, negatives=k)
    whole = list(batches.epoch(1))
    parts = [list(batches.epoch(1, rank, world_size)) for rank in range(world_size)]
    for step, batch in enumerate(whole):
        mine = [part[step] for part in parts]
        assert sum(len(m.history) for m in mine) == len(batch.history)
        for rank, m in enumerate(mine):
            assert torch.equal(m.history, batch.history[rank::world_size])
            assert torch.equal(m.target, batch.target[rank::world_size])
            assert torch.equal(m.time, batch.time[rank::world_size])
        if k:
            # The negatives of a target are the same in whichever process it lands (targets are all different).
            owner = {}
            for m in mine:
                assert m.negatives.shape == (int((m.target > 0).sum()), k)
                owner |= dict(zip(m.target[m.target > 0].tolist(), m.negatives.tolist(), strict=True))
            expected = zip(batch.target[batch.target > 0].tolist(), batch.negatives.tolist(), strict=True)
            assert owner == dict(expected)
        else:
            assert all(m.negatives is None for m in mine)
    assert all(len(part) == len(whole) for part in parts)


def flat(batches, epoch):
    return [part.tolist() for batch in batches.epoch(epoch) for part in batch]


def test_seed_and_epoch_decide_everything():
    log = numbered_log([30, 3, 12, 7, 2, 25, 9])
    make = {"max_len": 5, "batch_size": 3, "negatives": 2}
    one, same, other = (SequenceBatches(log, **make, seed=seed) for seed in (1, 1, 2))
    np.random.seed(0)  # noqa: NPY002 (that global state does not matter is the point)
    torch.manual_seed(0)
    expected = flat(one, 4)
    assert flat(one, 4) == expected  # replayed, after nothing or after other epochs
    assert flat(same, 4) == expected
    assert flat(one, 5) != expected
    assert flat(other, 4) != expected


def test_cuts_move_from_epoch_to_epoch():
    """Over epochs each event is predicted from contexts of many lengths."""
    batches = SequenceBatches(numbered_log([100]), max_len=10, batch_size=100)
    context = []
    for epoch in range(60):
        (batch,) = batches.epoch(epoch)
        row, column = (batch.target == 50).nonzero()[0].tolist()
        context.append(column + 1)
        assert batch.history[row, 0] == 50 - column - 1
    assert set(context) == set(range(1, 11))


def test_short_histories_stay_whole():
    """No cut where none is needed."""
    offsets = np.array([0, 1, 4, 9])
    start, stop = _windows(offsets, 4, np.random.default_rng(0))
    assert list(zip(start.tolist(), stop.tolist(), strict=True)) == [(1, 4), (4, 9)]


def test_negatives_are_uniform_over_items():
    log = numbered_log([50] * 4)
    batches = SequenceBatches(log, max_len=10, batch_size=8, negatives=20)
    drawn = torch.cat([batch.negatives.flatten() for epoch in range(10) for batch in batches.epoch(epoch)])
    counts = torch.bincount(drawn, minlength=201)
    assert len(counts) == 201
    assert counts[0] == 0  # padding is no item
    expected = len(drawn) / 200
    chi2 = float(((counts[1:] - expected) ** 2 / expected).sum())
    assert abs(chi2 - 199) < 5 * (2 * 199) ** 0.5


def test_order_is_shuffled():
    log = numbered_log([2] * 500)
    firsts = [batch.history[:, 0].tolist() for batch in SequenceBatches(log, max_len=5, batch_size=10).epoch(0)]
    order = [item for first in firsts for item in first]
    assert order != sorted(order)
    # Users of one batch come from everywhere.
    assert np.mean([np.ptp(first) for first in firsts]) > 500


def test_almost_nothing_is_padding():
    rng = np.random.default_rng(0)
    log = numbered_log((2 + rng.geometric(0.15, size=2000)).tolist(), timed=False)
    real = computed = rows = 0
    for batch in SequenceBatches(log, max_len=50, batch_size=64).epoch(0):
        real += int((batch.target > 0).sum())
        computed += batch.target.numel()
        rows += len(batch.target)
    assert rows * 50 > 5 * real  # padded to max_len, more than four of five positions were waste
    assert computed < 1.25 * real


@pytest.mark.parametrize(
    ("argument", "value"),
    [("max_len", 0), ("batch_size", 0), ("negatives", -1)],
)
def test_bad_sizes(argument, value):
    with pytest.raises(ValueError, match=rf"{argument}: must be at least .*, got {value}"):
        SequenceBatches(numbered_log([3]), **{"max_len": 2, "batch_size": 1, argument: value})


def test_a_log_with_nothing_to_predict():
    with pytest.raises(ValueError, match="log: no user has two events"):
        SequenceBatches(numbered_log([1, 1]), max_len=2, batch_size=1)
