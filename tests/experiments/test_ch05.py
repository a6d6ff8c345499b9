"""The experiment of chapter 05: measurements by hand, and what a run records."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from reclib.data import Interactions
from reclib.experiments import ch05_unisid as ch05
from reclib.experiments.generative import distortion
from reclib.experiments.results import load
from reclib.tokenizers import SemanticIds
from tests.records import check_record_is_whole

pytestmark = pytest.mark.slow


def ids_of(rows):
    codes = torch.tensor(rows)
    return SemanticIds.from_codes(codes, tuple(int(n) + 1 for n in codes.amax(0)))


def test_v_measures_of_the_sheet():
    path = torch.tensor([[0, 0], [0, 0], [1, 1], [1, 2]])
    found = ch05.v_measures(ids_of([[0, 0], [0, 0], [1, 1], [1, 1]]), path)
    assert found["v_finest@1"] == pytest.approx(0.8)  # classes (0,0,1,2), clusters (0,0,1,1)
    assert found["v_own@1"] == pytest.approx(1)
    assert found["v_own@2"] == pytest.approx(0.8)


def test_distortion_by_hand():
    vectors = torch.tensor([[0.0, 1], [0, -1], [10, 1], [10, -1]])
    found = distortion(ids_of([[0, 0], [0, 1], [1, 0], [1, 1]]), vectors)
    assert found["distortion@1"] == pytest.approx(4 / 104)
    assert found["distortion@2"] == pytest.approx(0, abs=1e-6)
    useless = distortion(ids_of([[0, 0], [0, 0], [0, 0], [0, 0]]), vectors)
    assert useless["distortion@2"] == pytest.approx(1)


def test_a_probe_reads_what_is_there_and_nothing_else():
    rng = np.random.default_rng(0)
    label = rng.integers(3, size=300)
    told = ids_of(np.stack([label, rng.integers(4, size=300)], 1).tolist())
    untold = ids_of(rng.integers(4, size=(300, 2)).tolist())
    assert ch05.probe(told, label, "p")["p"] == pytest.approx(1)
    found = ch05.probe(untold, label, "p")
    assert found["p"] < found["p/chance"] + 0.1


def cases_of(histories):
    user, item = np.repeat(np.arange(len(histories)), [len(h) for h in histories]), np.concatenate(histories)
    items = pd.DataFrame(index=pd.RangeIndex(1, 41, name="item_id"))
    log = Interactions(user=user, item=item, time=None, n_items=40, items=items)
    return log.leave_one_out().test


def test_retrieval_by_hand():
    angle = torch.arange(40) // 2 * 0.1 + torch.arange(40) % 2 * 0.001  # twenty pairs of items, nearly the same
    vectors = torch.stack([angle.cos(), angle.sin()], 1)
    near = cases_of([np.array([1 if i > 20 else 40, 39 if i < 20 else 2, i, i + 1]) for i in range(3, 37, 2)])
    assert ch05.retrieval(vectors, near, seed=0)["retrieval/recall@1"] == 1  # not the item itself
    far = cases_of([np.array([5, 6, 1, 40]), np.arange(1, 41)[::-1].copy(), np.array([7, 3, 2, 39])])
    assert ch05.retrieval(vectors, far, seed=0)["retrieval/recall@20"] < 1
    same = torch.ones(40, 2)
    assert ch05.retrieval(same, near, seed=0)["retrieval/recall@20"] == 0  # ties are lost


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "results"
    ch05.run(ch05.SCALES["smoke"], [0], root=root)
    return root


def test_a_run_records_every_arm(smoke):
    rows = load(ch05.NAME, smoke)
    for metric in ("v_finest@1", "v_own@2", "distortion@2", "collision_rate", "probe/persona", "probe/appeal"):
        assert set(rows[(rows.metric == metric) & (rows.setting == "codes")].arm) == set(ch05.ARMS), metric
    path = rows[(rows.arm == "category path") & (rows.metric == "v_own@1")].value
    assert path.tolist() == pytest.approx([1])
    with_vectors = set(rows[rows.metric == "retrieval/recall@10"].arm)
    assert {"rqkmeans", "unisid", "rqkmeans, pairs"} <= with_vectors
    assert not {"random", "unisid, codes only"} & with_vectors


def test_generators_and_sweeps_are_recorded_and_not_repeated(smoke, capsys):
    rows = load(ch05.NAME, smoke)
    (study,) = ch05.SCALES["smoke"].studies
    assert set(rows[(rows.setting == ch05.DECODER) & (rows.metric == "test/ndcg@10")].arm) == set(study.generate)
    for field, values in study.sweeps:
        assert set(rows[(rows.setting == field) & (rows.metric == "v_own@1")].x) == set(map(float, values))
    assert set(rows[(rows.setting == "short") & (rows.metric == "v_own@1")].arm) == set(study.short)
    ch05.run(ch05.SCALES["smoke"], [0], root=smoke)
    assert "numbers in" not in capsys.readouterr().out


def test_half_of_the_epochs_is_rounded_up():
    (study,) = ch05.SCALES["smoke"].studies
    five = replace(study, unisid=replace(study.unisid, epochs=5))
    assert ch05.halved(five).unisid == replace(study.unisid, epochs=3)


def test_the_shipped_record_is_whole():
    check_record_is_whole(5, ch05.NAME)
