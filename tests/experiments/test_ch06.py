"""The experiment of chapter 06: what a run records, and that nothing is run twice."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from reclib.experiments import ch06_prism as ch06
from reclib.experiments import ch07_rec2pm as ch07
from reclib.experiments.crossed_memory import CROSS
from reclib.experiments.results import append, load, results_path
from reclib.memory import DeltaNet, MemoryConfig, MemoryRecommender, Prism
from reclib.world import AdWorld, AdWorldConfig
from tests.records import check_record_is_whole, check_world_cells

pytestmark = pytest.mark.slow

SMOKE = ch06.SCALES["smoke"]


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "results"
    copied = replace(ch07.SCALES["smoke"].studies[0], arms=SMOKE.lives[0].copied, history=(), sweep=(), noise=())
    ch07.run(ch07.Config((copied,), needles=None, clock=None), [0, 1], root=root)
    ch06.run(SMOKE, [0, 1], root=root)
    return root


def cell(rows, **key):
    for name, value in key.items():
        rows = rows[rows[name] == value]
    return rows


def test_a_run_records_every_arm(smoke):
    rows = load(ch06.NAME, smoke)
    for setting, plan in (("cross", SMOKE.cross), ("layers", SMOKE.layers)):
        for task, arms in plan:
            for arm in arms:
                found = cell(rows, dataset=task, setting=setting, arm=str(arm), metric="accuracy")
                assert set(found.seed) == {0, 1}
    (lives,) = SMOKE.lives
    for arm in (*lives.arms, *lives.copied):
        assert len(cell(rows, dataset="adworld", setting="", arm=arm, metric="test/ndcg@10")) == 2
    for arm in ch06.SPEED:
        found = cell(rows, setting="throughput", arm=arm, metric="training")
        assert set(found.x) == set(map(float, SMOKE.throughput[0][1]))
        assert (found.value > 0).all()


def test_states_of_memories_do_not_grow_and_attention_does(smoke):
    rows = cell(load(ch06.NAME, smoke), setting="throughput", metric="state", seed=0)
    sizes = rows.pivot(index="arm", columns="x", values="value")
    assert (sizes.nunique(axis=1) == 1).sum() == len(ch06.SPEED) - 1
    assert sizes.loc["attention"].is_monotonic_increasing


def test_singular_values_start_at_one_and_fall(smoke):
    rows = cell(load(ch06.NAME, smoke), dataset="double", arm="prism, rank 3", seed=0).set_index("metric").value
    assert rows["singular@1"] == pytest.approx(1)
    assert 1 >= rows["singular@2"] >= rows["singular@3"] > 0
    assert cell(load(ch06.NAME, smoke), arm="deltaproduct", metric="singular@1").empty


def test_a_second_run_repeats_nothing(smoke, capsys):
    before = load(ch06.NAME, smoke)
    ch06.run(SMOKE, [0, 1], root=smoke)
    assert "numbers in" not in capsys.readouterr().out
    pd.testing.assert_frame_equal(load(ch06.NAME, smoke), before)


def test_main_effects_by_hand(tmp_path):
    rng, config = np.random.default_rng(0), ch06.Config(probe=SMOKE.probe, cross=(("parity", CROSS),))
    value = {str(f): rng.random() for f in CROSS}
    base = {"experiment": ch06.NAME, "dataset": "parity", "setting": "cross", "x": np.nan, "metric": "accuracy"}
    base |= {"seed": 0, "seconds": 0.0, "config": "{}", "versions": "{}", "date": "2026-01-01"}
    append(results_path(ch06.NAME, tmp_path), [{**base, "arm": arm, "value": v} for arm, v in value.items()])
    ch06._effects(config, [0], {"force": False, "root": tmp_path})
    rows = cell(load(ch06.NAME, tmp_path), setting="effects").set_index("arm").value
    for factor, (upper, lower) in ch06.EFFECTS.items():
        above = [value[str(f)] for f in CROSS if getattr(f, factor) == upper]
        below = [value[str(f)] for f in CROSS if getattr(f, factor) == lower]
        assert len(above) == len(below) == (8 if factor == "kind" else 12)
        assert rows[factor] == pytest.approx(sum(above) / len(above) - sum(below) / len(below))


def test_the_anchor_is_measured_against_what_the_memory_holds():
    split = AdWorld(AdWorldConfig.preset("tiny")).simulate().leave_one_out()
    torch.manual_seed(0)
    model = MemoryRecommender(split.train.n_items, lambda: Prism(MemoryConfig(dim=8)), layers=1, max_len=20)
    small = ch06.proxy_error(model, split, users=20)
    assert small["proxy/error"] > 1  # untrained: u is no guess of S k, and saying zero would be better
    assert 0 < small["proxy/window"] < 1.5


def test_what_the_memory_held_before_a_token():
    torch.manual_seed(0)
    memory = DeltaNet(MemoryConfig(dim=8))
    u = torch.randn(2, 6, 8)
    key = memory.writes(u).key[:, :, 0]
    found = ch06.read_before(key, u, memory)
    assert torch.equal(found[:, 0], torch.zeros(2, 8))
    _, S = memory._remember(u[:, :4], memory.initial_state(2).S)
    torch.testing.assert_close(found[:, 4], torch.einsum("bvk,bk->bv", S, key[:, 4]), atol=1e-5, rtol=1e-5)


def test_arms_name_their_sizes():
    assert ch06.layer("prism, rank 3", 8).config.rank == 3
    assert ch06.layer("prism", 8).config.rank == 2
    assert ch06.layer("prism, no conv", 8).config.kernel == 1
    assert type(ch06.layer("prism, linear, rank 1", 8)).__name__ == "PrismLinear"


def test_unknown_parts_are_named(tmp_path):
    with pytest.raises(ValueError, match="parts: 'speed' is unknown; choose from throughput, cross, layers"):
        ch06.run(SMOKE, [0], root=tmp_path, parts=["speed"])


def test_the_gpu_is_asked_for_by_name_and_has_to_be_there(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="parts: 'gpu' needs a CUDA device, and there is none"):
        ch06.run(SMOKE, [0], root=tmp_path, parts=["gpu"])
    assert "gpu" not in ch06.PARTS


def test_what_another_chapter_measures_has_to_be_recorded_first(smoke):
    with pytest.raises(ValueError, match="bert on adworld, seed 0: not in the record of 07_rec2pm; run that chapter"):
        ch06._copy(ch07.NAME, "adworld", ["bert"], 0, {"force": False, "root": smoke})


def test_a_run_measures_what_the_claims_ask(smoke):
    check_world_cells(6, load(ch06.NAME, smoke), [0, 1])


def test_the_shipped_record_is_whole():
    check_record_is_whole(6, ch06.NAME)
