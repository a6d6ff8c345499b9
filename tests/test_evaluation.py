"""Ranks, metrics and the full ranking, against naive sorts and against ranx."""

import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn, tensor

from reclib.evaluation import (
    Evaluation,
    _top_items,
    coverage,
    evaluate,
    mrr,
    ndcg_at_k,
    novelty,
    recall_at_k,
    target_ranks,
)
from tests.logs import make_log


def random_log(rng, n_users, n_items, longest):
    """Histories without repeats."""
    return make_log([rng.permutation(n_items)[: rng.integers(3, longest + 1)] + 1 for _ in range(n_users)], n_items)


class Fixed:
    """Scores by the last item of the history, from a table."""

    def __init__(self, table):
        self.table = table

    def score(self, history, time=None):
        last = history[torch.arange(len(history)), (history > 0).sum(1) - 1]
        return self.table[last]


class Constant(nn.Module):
    """The same score for every item; remembers in which mode it was asked."""

    def __init__(self, n_items):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(n_items + 1))
        self.frozen, self.live = nn.Dropout(0.5), nn.Dropout(0.5)
        self.modes = []

    def score(self, history, time=None):
        self.modes.append((self.training, self.frozen.training, self.live.training))
        return self.bias.expand(len(history), -1)


# ------------------------------------------------------------------------------------------------ ranks and lists

# Few different values, so that most scores are ties; -inf is an item taken out.
few = st.sampled_from([-math.inf, -1.0, 0.0, 0.5, 1.0])


@st.composite
def tied_scores(draw):
    n_items, batch = draw(st.integers(2, 9)), draw(st.integers(1, 6))
    rows = [draw(st.lists(few, min_size=n_items, max_size=n_items)) for _ in range(batch)]
    return rows, draw(st.permutations(range(n_items)))


def naive_order(row, tie_order):
    return sorted(range(len(row)), key=lambda item: (-row[item], tie_order[item]))


@settings(max_examples=150, deadline=None)
@given(tied_scores(), st.data())
def test_ranks_and_lists_agree_with_a_full_sort(drawn, data):
    rows, tie_order = drawn
    orders = [naive_order(row, tie_order) for row in rows]
    k = data.draw(st.integers(1, len(rows[0]) - 1))
    top = _top_items(tensor(rows), k, tensor(tie_order))
    assert top.tolist() == [
        [0 if math.isinf(row[item]) else item for item in order[:k]] for row, order in zip(rows, orders, strict=True)
    ]

    askable = [[item for item, score in enumerate(row) if not math.isinf(score)] for row in rows]
    asked = [i for i, items in enumerate(askable) if items]
    if asked:
        targets = [data.draw(st.sampled_from(askable[i])) for i in asked]
        ranks = target_ranks(tensor([rows[i] for i in asked]), tensor(targets), tensor(tie_order))
        assert ranks.tolist() == [orders[i].index(y) + 1 for i, y in zip(asked, targets, strict=True)]
        by_id = target_ranks(tensor([rows[i] for i in asked]), tensor(targets))
        plain = range(len(rows[0]))
        assert by_id.tolist() == [naive_order(rows[i], plain).index(y) + 1 for i, y in zip(asked, targets, strict=True)]


def test_ranks_by_hand():
    scores = tensor([[-math.inf, 3.0, 1.0, 3.0, 2.0], [-math.inf, 0.0, 0.0, 0.0, 0.0]])
    assert target_ranks(scores, tensor([4, 3])).tolist() == [3, 3]
    assert target_ranks(scores, tensor([3, 3])).tolist() == [2, 3]
    assert target_ranks(scores, tensor([3, 3]), tensor([0, 4, 3, 1, 2])).tolist() == [1, 1]


def test_double_scores_are_told_apart():
    """Differences that float32 cannot hold still rank."""
    scores = torch.zeros(1, 4, dtype=torch.float64)
    scores[0, 1:] = 1000 + tensor([0.0, 2e-9, 1e-9], dtype=torch.float64)
    log = make_log([[3, 1, 2]], n_items=3)
    table = scores.expand(4, -1)
    result = evaluate(Fixed(table), log.leave_one_out().test, ks=(3,), mask_history=False)
    assert result.top.tolist() == [[2, 3, 1]]


def test_bad_scores():
    with pytest.raises(ValueError, match="scores: contain NaN"):
        target_ranks(tensor([[0.0, 1.0], [math.nan, math.inf]]), tensor([1, 1]))
    with pytest.raises(ValueError, match="targets: a target has score -inf"):
        target_ranks(tensor([[0.0, -math.inf]]), tensor([1]))


# -------------------------------------------------------------------------------------------------------- metrics


def test_metrics_by_hand():
    ranks = tensor([1, 3, 7])
    assert recall_at_k(ranks, 3).tolist() == [1, 1, 0]
    assert ndcg_at_k(ranks, 3).tolist() == [1, 0.5, 0]
    assert mrr(ranks).tolist() == pytest.approx([1, 1 / 3, 1 / 7])
    top = tensor([[2, 4, 1], [2, 4, 3], [4, 2, 0]])
    metrics = Evaluation(ranks=ranks, top=top, ks=(2, 3), n_items=8).metrics()
    assert metrics == pytest.approx(
        {
            "recall@2": 1 / 3,
            "recall@3": 2 / 3,
            "ndcg@2": 1 / 3,
            "ndcg@3": 0.5,
            "coverage@2": 2 / 8,
            "coverage@3": 4 / 8,  # the empty place of the last list is no item
            "mrr": (1 + 1 / 3 + 1 / 7) / 3,
        }
    )


def test_coverage_and_novelty_by_hand():
    top = tensor([[1, 2], [2, 1], [3, 0]])
    assert coverage(top, 6) == 0.5
    # One event is added to each of the 4 items: shares 4/8, 2/8, 1/8, 1/8. The padding's count is not looked at.
    counts = tensor([99, 3, 1, 0, 0])
    assert novelty(top, counts) == pytest.approx((1 + 2 + 2 + 1 + 3) / 5)
    assert counts.tolist() == [99, 3, 1, 0, 0]


# In a process of its own and uncompiled: compiling what ranx keeps its runs in takes most of a minute.
RANX = """
import json, ranx, sys
qrels, run, names = json.load(sys.stdin)
found = ranx.evaluate(ranx.Qrels(qrels), ranx.Run(run), names)
json.dump({name: float(value) for name, value in found.items()}, sys.stdout)
"""


def ranx_metrics(qrels, run, names):
    done = subprocess.run(
        [sys.executable, "-c", RANX],
        input=json.dumps([qrels, run, names]),
        env={**os.environ, "NUMBA_DISABLE_JIT": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_metrics_agree_with_ranx():
    rng = np.random.default_rng(1)
    log = random_log(rng, n_users=60, n_items=40, longest=25)
    cases = log.leave_one_out().test
    table = torch.from_numpy(rng.permuted(np.tile(np.arange(41.0), (41, 1)), axis=1))  # no ties inside a row
    ks = (1, 5, 10, 20)
    found = evaluate(Fixed(table), cases, ks).metrics()

    qrels, run = {}, {}
    for row in range(len(cases)):
        history = log.item[cases.start[row] : cases.target[row]]
        last = history[-1]
        qrels[f"q{row}"] = {str(cases.item[row]): 1}
        run[f"q{row}"] = {str(i): float(table[last, i]) for i in range(1, 41) if i not in history}
    names = [f"{metric}@{k}" for metric in ("recall", "ndcg", "hit_rate") for k in ks] + ["mrr"]
    expected = ranx_metrics(qrels, run, names)
    assert set(expected) == set(names)
    for name, value in expected.items():
        assert found[name.replace("hit_rate", "recall")] == pytest.approx(value, abs=1e-6), name
    assert 0.1 < found["recall@10"] < 0.9  # the comparison is about something


# ------------------------------------------------------------------------------------------------ the full ranking


def test_evaluate_by_hand():
    log = make_log([[1, 2, 3], [2, 4, 1]], n_items=5)
    table = torch.zeros(6, 6)
    table[2] = tensor([9.0, 5.0, 4.0, 3.0, 2.0, 1.0])  # user 0: history 1, 2, target 3
    table[4] = tensor([9.0, 1.0, 5.0, 4.0, 3.0, 2.0])  # user 1: history 2, 4, target 1
    cases = log.leave_one_out().test
    masked = evaluate(Fixed(table), cases, ks=(1, 3))
    assert masked.ranks.tolist() == [1, 3]
    assert masked.top.tolist() == [[3, 4, 5], [3, 5, 1]]
    assert masked.ks == (1, 3)
    seen = evaluate(Fixed(table), cases, ks=(1, 3), mask_history=False)
    assert seen.ranks.tolist() == [3, 5]
    assert seen.top.tolist() == [[1, 2, 3], [2, 3, 4]]
    assert table[2, 0] == 9.0  # the model's own scores stay as they were


def test_lists_are_short_where_few_items_are_left():
    log = make_log([[1, 2, 3, 4], [4, 1, 2]], n_items=4)
    result = evaluate(Fixed(torch.arange(5.0).expand(5, -1)), log.leave_one_out().test, ks=(4,))
    assert result.top.tolist() == [[4, 0, 0, 0], [3, 2, 0, 0]]
    assert result.ranks.tolist() == [1, 2]
    assert result.metrics()["coverage@4"] == 0.75


def test_batch_size_and_order_change_nothing():
    rng = np.random.default_rng(2)
    cases = random_log(rng, n_users=37, n_items=15, longest=9).leave_one_out().test
    table = torch.from_numpy(rng.integers(0, 4, (16, 16)).astype(float))  # many ties
    one, many = (evaluate(Fixed(table), cases, (3, 7), batch_size=size) for size in (1, 500))
    assert torch.equal(one.ranks, many.ranks)
    assert torch.equal(one.top, many.top)
    backwards = evaluate(Fixed(table), cases.subset(np.arange(len(cases))[::-1]), (3, 7))
    assert torch.equal(backwards.ranks.flip(0), one.ranks)
    for i in range(len(cases)):  # the target stands in its list at its rank
        rank = int(one.ranks[i])
        assert (cases.item[i] in one.top[i]) == (rank <= 7)
        if rank <= 7:
            assert one.top[i, rank - 1] == cases.item[i]


def test_a_constant_model_ranks_at_random_and_reproducibly():
    rng = np.random.default_rng(3)
    cases = random_log(rng, n_users=400, n_items=50, longest=4).leave_one_out().test
    model = Constant(50)
    first = evaluate(model, cases, (10,), mask_history=False)
    assert torch.equal(first.ranks, evaluate(model, cases, (10,), mask_history=False).ranks)
    assert not torch.equal(first.ranks, evaluate(model, cases, (10,), mask_history=False, tie_seed=1).ranks)
    # Targets are uniform, so ranks are: mean 25.5, standard error 14.4 / 20.
    assert abs(first.ranks.double().mean() - 25.5) < 4 * 14.43 / 20
    assert len(torch.unique(first.top)) == 10  # one order for everybody


def test_the_mode_of_every_part_is_restored():
    cases = make_log([[1, 2, 3]], n_items=4).leave_one_out().test
    model = Constant(4)
    model.frozen.eval()
    evaluate(model, cases, (1,))
    assert model.modes == [(False, False, False)]
    assert (model.training, model.frozen.training, model.live.training) == (True, False, True)
    model.eval()
    evaluate(model, cases, (1,))
    assert not model.training
    model.train()
    with torch.no_grad():
        model.bias[4] = math.nan
    with pytest.raises(ValueError, match="scores: contain NaN"):
        evaluate(model, cases, (1,))
    assert model.training
    assert model.live.training


def test_evaluate_keeps_no_graph():
    cases = make_log([[1, 2, 3]], n_items=4).leave_one_out().test
    result = evaluate(Constant(4), cases, (1,))
    assert not result.ranks.requires_grad
    assert result.ranks.dtype == result.top.dtype == torch.int64


def test_bad_questions():
    log = make_log([[1, 2, 1], [1, 2, 3]], n_items=3)
    cases, model = log.leave_one_out().test, Fixed(torch.zeros(4, 4))
    with pytest.raises(ValueError, match="mask_history: some targets occur in their own history"):
        evaluate(model, cases, (1,))
    assert len(evaluate(model, cases, (1,), mask_history=False).ranks) == 2
    for ks in [(), (0, 1), (1, 4)]:
        with pytest.raises(ValueError, match=r"ks: .* must lie in 1 … 3"):
            evaluate(model, cases, ks, mask_history=False)
    with pytest.raises(ValueError, match="cases: there are none"):
        evaluate(model, cases.subset(np.zeros(2, dtype=bool)), (1,))
    with pytest.raises(ValueError, match="model: score returned 3 columns; give 4"):
        evaluate(Fixed(torch.zeros(4, 3)), cases, (1,))
