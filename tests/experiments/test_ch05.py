"""The experiment of chapter 05: measurements by hand, and what a run records."""

import numpy as np
import pytest
import torch

from reclib.experiments import ch05_unisid as ch05
from reclib.experiments.generative import distortion
from reclib.experiments.results import load
from reclib.tokenizers import SemanticIds

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


def test_a_run_records_every_arm(tmp_path):
    ch05.run(ch05.SCALES["smoke"], [0], root=tmp_path)
    rows = load(ch05.NAME, tmp_path)
    for metric in ("v_finest@1", "v_own@2", "distortion@2", "collision_rate", "probe/persona", "probe/appeal"):
        assert set(rows[rows.metric == metric].arm) == set(ch05.ARMS), metric
    path = rows[(rows.arm == "category path") & (rows.metric == "v_own@1")].value
    assert path.tolist() == pytest.approx([1])
