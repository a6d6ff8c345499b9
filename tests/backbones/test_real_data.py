"""The counting models on real logs: numbers that an independent script measured, to three digits."""

import os

import pytest

from reclib.backbones import ItemTransitions, Popularity
from reclib.data import load_dataset
from reclib.evaluation import evaluate

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("RECLIB_DATA" not in os.environ, reason="set RECLIB_DATA to the folder with the real data sets"),
]


@pytest.mark.parametrize(
    ("name", "model", "recall", "ndcg", "tolerance"),
    [
        ("amazon2014-beauty", ItemTransitions, 0.0668, 0.0439, 0.0005),
        ("amazon2014-beauty", Popularity, 0.0113, 0.0054, 0.0005),
        ("movielens-1m", ItemTransitions, 0.214, 0.126, 0.001),
        ("movielens-1m", Popularity, 0.037, 0.018, 0.001),
    ],
)
def test_counting_on_real_data(name, model, recall, ndcg, tolerance):
    split = load_dataset(name).leave_one_out()
    metrics = evaluate(model().fit(split.train), split.test, (10,)).metrics()
    assert metrics["recall@10"] == pytest.approx(recall, abs=tolerance)
    assert metrics["ndcg@10"] == pytest.approx(ndcg, abs=tolerance)
