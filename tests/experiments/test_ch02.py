"""The experiment of chapter 02: what a run records, how it goes on where it stopped, whether the record is whole."""

import json
from dataclasses import asdict, replace

import pandas as pd
import pytest

from reclib.evaluation import evaluate
from reclib.experiments import ch02_sequential as ch02
from reclib.experiments import protocol
from reclib.experiments.results import load, results_path
from tests.records import check_record_is_whole, check_world_cells

pytestmark = pytest.mark.slow

SMOKE = ch02.SCALES["smoke"]


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "results"
    ch02.run(SMOKE, [0, 1], root=root)
    return root


def test_a_run_records_every_world_cell_of_the_claims(smoke):
    check_world_cells(2, load(ch02.NAME, smoke), (0, 1))


def test_a_run_records_the_noise_sweep(smoke):
    rows = load(ch02.NAME, smoke)
    rows = rows[(rows.setting == "noise") & (rows.metric == "test/ndcg@10")]
    assert set(zip(rows.arm, rows.x, rows.seed, strict=True)) == {
        (arm, x, seed) for arm in SMOKE.noise_arms for x in SMOKE.noise for seed in (0, 1)
    }


def test_a_second_run_repeats_nothing_and_leaves_no_checkpoint(smoke, capsys):
    before = load(ch02.NAME, smoke)
    ch02.run(SMOKE, [0, 1], root=smoke)
    assert "numbers in" not in capsys.readouterr().out
    pd.testing.assert_frame_equal(load(ch02.NAME, smoke), before)
    assert not list((smoke.parent / "runs" / ch02.NAME).glob("*"))


def test_recorded_numbers_are_those_of_the_protocol(smoke):
    recipe = SMOKE.studies[0].recipe
    split = ch02.world(SMOKE, 1).simulate().leave_one_out()
    model, _ = protocol.train("hstu_scaled", split, recipe, 1, progress=False)
    rows = load(ch02.NAME, smoke)
    rows = rows[(rows.arm == "hstu_scaled") & (rows.seed == 1) & (rows.setting == "") & rows.x.isna()]
    recorded = rows.set_index("metric")["value"]
    for metric, value in evaluate(model, split.test).metrics().items():
        assert recorded[f"test/{metric}"] == pytest.approx(value)


def test_an_interrupted_arm_goes_on_from_its_checkpoint(tmp_path, monkeypatch):
    (study,) = SMOKE.studies
    common = {"force": False, "root": tmp_path / "results"}

    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(ch02, "measure", stopped)  # trained, and then the lights go out
    with pytest.raises(KeyboardInterrupt):
        ch02._arm(SMOKE, study, "sasrec", 0, common)
    (kept,) = (tmp_path / "runs" / ch02.NAME).iterdir()
    assert kept.name == "adworld-sasrec-0.safetensors"
    assert not results_path(ch02.NAME, tmp_path / "results").exists()  # nothing half-recorded

    monkeypatch.undo()
    ch02._arm(SMOKE, study, "sasrec", 0, common)
    assert not kept.exists()
    resumed = load(ch02.NAME, tmp_path / "results")
    assert (resumed.metric == "test/ndcg@10").sum() == 1


def test_tuning_records_validation_only(tmp_path, monkeypatch):
    split = ch02.world(SMOKE, 0).simulate()
    monkeypatch.setattr(ch02, "load_dataset", lambda name: split)
    study = replace(SMOKE.studies[0], dataset=ch02.TUNING_SET)
    ch02._tune(study, "sasrec", 1e-2, {"force": False, "root": tmp_path})
    rows = load(ch02.NAME, tmp_path)
    assert rows.metric.tolist() == ["valid/ndcg@10"]
    assert rows.seed.tolist() == [ch02.TUNING_SEED]


# -------------------------------------------------------------------------------------------------- the record


def test_the_record_holds_every_cell_of_the_claims():
    check_record_is_whole(2, ch02.NAME)


def test_every_arm_of_every_study_is_recorded_with_its_recipe():
    results = load(ch02.NAME)
    main = results[(results.setting == "") & (results.metric == "test/ndcg@10")]
    for study in ch02.Config().studies:
        for arm in study.arms:
            rows = main[(main.dataset == study.dataset) & (main.arm == arm)]
            assert set(rows.seed) == set(range(study.seeds)), f"{study.dataset}, {arm}"
            if arm in protocol.NEURAL:
                lr = ch02.LEARNING_RATE[arm] if study.tuned else study.recipe.lr
                for text in rows.config:
                    assert json.loads(text)["recipe"] == asdict(replace(study.recipe, lr=lr)), f"{study.dataset}, {arm}"


def test_learning_rates_are_the_winners_of_the_recorded_tuning():
    rows = load(ch02.NAME)
    rows = rows[rows.setting == "tuning"].set_index("x")
    config = ch02.Config()
    (study,) = (study for study in config.studies if study.dataset == ch02.TUNING_SET)
    for arm in (arm for arm in study.arms if arm in protocol.NEURAL):
        tried = rows[rows.arm == arm]["value"]
        assert sorted(tried.index) == sorted(config.rates(arm)), arm
        assert tried.idxmax() == ch02.LEARNING_RATE[arm], arm
