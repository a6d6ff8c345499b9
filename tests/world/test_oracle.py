"""The oracle: the best ranking there is, through the same door as every model."""

import numpy as np
import pytest
import torch

from reclib.evaluation import evaluate, target_ranks
from reclib.world import Oracle


class Ranks:
    """A recommender that counts: popularity, or what followed the last item."""

    def __init__(self, log, transitions):
        self.table = torch.zeros(log.n_items + 1, log.n_items + 1)
        if transitions:
            same = np.diff(log.user) == 0
            pairs = (torch.from_numpy(log.item[:-1][same]), torch.from_numpy(log.item[1:][same]))
            self.table.index_put_(pairs, torch.ones(same.sum()), accumulate=True)
        else:
            self.table += torch.from_numpy(np.bincount(log.item, minlength=log.n_items + 1))

    def score(self, history, time=None):
        last = history[torch.arange(len(history)), (history > 0).sum(1) - 1]
        return self.table[last].clone()


@pytest.fixture(scope="module")
def split(book):
    return book.simulate().leave_one_out()


def test_scores_are_the_true_law_of_the_next_event(book, split):
    cases = split.test.subset(np.arange(50))
    batch = cases.batch()
    scores = Oracle(book, use_time=False).score(batch.history, batch.time)
    assert torch.isneginf(scores[:, 0]).all()
    expected = book.next_item_distribution(event=cases.target)
    assert scores[:, 1:].numpy() == pytest.approx(expected[:, 1:])


def test_it_finds_every_event_of_the_log(book):
    log = book.simulate()
    oracle = book.oracle
    inner = np.setdiff1d(np.arange(len(log)), log.offsets[:-1])
    length = np.ones(len(inner), dtype=int)
    assert (oracle._find(log.time[inner], log.item[inner - 1], length) == inner).all()


def test_it_does_not_see_the_target(book, split):
    """Scores depend on what lies before the request: the same whatever target the batch carries."""
    batch = split.test.batch(np.arange(20))
    a = book.oracle.score(batch.history, batch.time)
    b = book.oracle.score(batch.history.clone(), batch.time.clone())
    assert torch.equal(a, b)
    state = book.state(event=split.test.target[:20])
    assert (state.event == split.test.target[:20]).all()
    # The state before the event is that after the one before it, drift aside: same intent.
    log = book.simulate()
    assert (state.intent == log.extra["intent"][split.test.target[:20] - 1]).all()


def test_truncated_histories_are_recognised_too(book, split):
    full, short = split.test.batch(np.arange(30)), split.test.batch(np.arange(30), max_len=5)
    assert torch.equal(book.oracle.score(full.history, full.time), book.oracle.score(short.history, short.time))


def test_it_beats_counting_and_popularity(book, split):
    ndcg = {
        name: evaluate(model, split.test, ks=(10,)).metrics()["ndcg@10"]
        for name, model in [
            ("popularity", Ranks(split.train, False)), ("counting", Ranks(split.train, True)),
            ("blind", Oracle(book, use_time=False)), ("oracle", book.oracle),
        ]
    }  # fmt: skip
    assert ndcg["oracle"] > ndcg["blind"] > 2 * ndcg["counting"] > 4 * ndcg["popularity"]


def test_no_other_ranking_has_a_better_expected_reciprocal_rank(book, split):
    """Averaged over the true law instead of over one draw, disturbing the oracle's scores never helps."""
    cases = split.test.subset(np.arange(100))
    batch = cases.batch()
    p = Oracle(book, use_time=False).score(batch.history, batch.time).double()
    p[:, 0] = 0

    def expected_mrr(scores):
        order = scores.argsort(dim=1, descending=True)
        return float((p.gather(1, order) / torch.arange(1, p.shape[1] + 1)).sum(1).mean())

    generator = torch.Generator().manual_seed(0)
    best = expected_mrr(p)
    for noise in (0.1, 0.5, 1.0):
        assert expected_mrr(p * torch.exp(noise * torch.randn(p.shape, generator=generator).double())) < best


def test_temporal_split_works_as_well(book):
    log = book.simulate()
    valid_from, test_from = np.quantile(log.time, [0.8, 0.9])
    result = evaluate(book.oracle, log.temporal_split(valid_from, test_from).test, ks=(10,))
    assert result.metrics()["ndcg@10"] > 0.2


def test_requests_of_another_log_are_refused(book, split):
    batch = split.test.batch(np.arange(3))
    with pytest.raises(ValueError, match="time: the oracle finds a request by its time"):
        book.oracle.score(batch.history)
    with pytest.raises(ValueError, match="time: 3 of 3 requests are not events of this world's log"):
        book.oracle.score(batch.history, batch.time + 1)


def test_targets_keep_a_finite_score(book, split):
    batch = split.valid.batch(np.arange(200))
    assert (target_ranks(book.oracle.score(batch.history, batch.time), batch.target) >= 1).all()
