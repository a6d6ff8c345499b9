"""The store of measurements: what is written, what is replaced, what an interruption leaves."""

import dataclasses
import json
import math
import multiprocessing
import sys
import types

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from reclib.experiments import results
from reclib.experiments.results import append, interval, load, prediction_interval, record, summary

NAME = "97_test"


@dataclasses.dataclass(frozen=True)
class Config:
    epochs: int = 3
    layers: tuple[int, ...] = (1, 2)


def measure(root, value=0.5, *, arm="sasrec", seed=0, config=None, metric="test/ndcg@10", **kwargs):
    """Record one number and say whether the body ran."""
    with record(NAME, arm=arm, dataset="adworld", seed=seed, config=config or Config(), root=root, **kwargs) as run:
        if not run.finished:
            run.log(metric, value)
    return not run.finished


def row(**changes):
    base = {"experiment": NAME, "arm": "a", "dataset": "d", "setting": "", "x": math.nan, "seed": 0}
    base |= {
        "metric": "m",
        "value": 1.0,
        "seconds": 0.1,
        "config": "{}",
        "versions": "{}",
        "date": "2026-01-01",
    }
    return base | changes


def test_a_recorded_run_has_every_column_with_its_type(tmp_path):
    measure(tmp_path, 0.25, seed=3)
    frame = load(NAME, tmp_path)
    assert pq.read_schema(tmp_path / f"{NAME}.parquet").equals(results.COLUMNS)
    (only,) = frame.to_dict("records")
    assert (only["arm"], only["seed"], only["metric"], only["value"]) == ("sasrec", 3, "test/ndcg@10", 0.25)
    assert math.isnan(only["x"])
    assert only["setting"] == ""
    assert only["seconds"] >= 0
    assert json.loads(only["config"]) == {"epochs": 3, "layers": [1, 2]}
    assert set(json.loads(only["versions"])) >= {"python", "numpy"}
    assert pd.Timestamp(only["date"]).tzinfo is not None


def test_a_finished_run_is_skipped_and_force_repeats_it(tmp_path, capsys):
    assert measure(tmp_path, 0.1)
    assert not measure(tmp_path, 0.9)
    assert "recorded before, skipped" in capsys.readouterr().out
    assert load(NAME, tmp_path)["value"].tolist() == [0.1]
    assert measure(tmp_path, 0.9, force=True)
    assert load(NAME, tmp_path)["value"].tolist() == [0.9]


@pytest.mark.parametrize("other", [{"seed": 1}, {"arm": "hstu"}, {"setting": "shuffled ties"}, {"x": 2.0}])
def test_another_seed_arm_setting_or_x_is_another_run(tmp_path, other):
    measure(tmp_path, x=1.0)
    assert measure(tmp_path, **{"x": 1.0, **other})
    assert len(load(NAME, tmp_path)) == 2


def test_a_run_of_another_configuration_is_repeated_and_leaves_no_old_rows(tmp_path):
    measure(tmp_path, 0.1, metric="test/old")
    assert measure(tmp_path, 0.2, config=Config(epochs=4), metric="test/new")
    assert load(NAME, tmp_path)["metric"].tolist() == ["test/new"]


def test_a_run_swept_by_x_replaces_only_its_own_x(tmp_path):
    for x in (1.0, 2.0):
        measure(tmp_path, x, x=x)
    measure(tmp_path, 20.0, x=2.0, force=True)
    assert load(NAME, tmp_path).set_index("x")["value"].to_dict() == {1.0: 1.0, 2.0: 20.0}


def test_one_run_may_measure_along_x(tmp_path):
    with record(NAME, arm="a", dataset="d", seed=0, config={}, root=tmp_path) as run:
        for step in (1, 2):
            run.log("loss", 1 / step, x=step)
        run.log("test/ndcg@10", 0.3)
    assert load(NAME, tmp_path)["x"].tolist()[:2] == [1.0, 2.0]
    with record(NAME, arm="a", dataset="d", seed=0, config={}, root=tmp_path) as run:
        assert run.finished


def test_an_error_in_the_run_writes_nothing_and_keeps_the_others(tmp_path):
    measure(tmp_path, 0.1)

    def killed():
        with record(NAME, arm="sasrec", dataset="adworld", seed=1, config=Config(), root=tmp_path) as run:
            run.log("test/ndcg@10", 0.2)
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        killed()
    assert load(NAME, tmp_path)["seed"].tolist() == [0]


def test_an_interrupted_write_leaves_the_old_file_whole(tmp_path, monkeypatch):
    measure(tmp_path, 0.1)

    def half_written(table, file, **_):
        file.write(b"PAR1 half a file")
        raise KeyboardInterrupt

    monkeypatch.setattr(results.pq, "write_table", half_written)
    with pytest.raises(KeyboardInterrupt):
        measure(tmp_path, 0.2, seed=1)
    monkeypatch.undo()
    assert load(NAME, tmp_path)["value"].tolist() == [0.1]
    assert not list(tmp_path.glob("*.tmp"))
    assert not list(tmp_path.glob(".*.tmp"))
    assert measure(tmp_path, 0.2, seed=1)


def _measure_many(root, first):
    for seed in range(first, first + 5):
        measure(root, float(seed), seed=seed)


def test_two_processes_may_write_to_one_experiment(tmp_path):
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_measure_many, args=(tmp_path, first)) for first in (0, 5)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert sorted(load(NAME, tmp_path)["seed"]) == list(range(10))


def test_append_replaces_rows_with_the_same_key_and_keeps_the_rest(tmp_path):
    path = tmp_path / f"{NAME}.parquet"
    append(path, [row(), row(x=1.0), row(seed=1)])
    append(path, [row(value=2.0), row(x=1.0, value=3.0), row(metric="n")])
    values = {(r.x if r.x == r.x else None, r.seed, r.metric): r.value for r in load(NAME, tmp_path).itertuples()}
    assert values == {(None, 0, "m"): 2.0, (1.0, 0, "m"): 3.0, (None, 1, "m"): 1.0, (None, 0, "n"): 1.0}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "nothing to append"),
        ([row(value=math.nan)], "finite"),
        ([row(value=math.inf)], "finite"),
        ([row(), row(value=2.0)], "same measurement twice"),
        ([{k: v for k, v in row().items() if k != "seed"}], "seed"),
        ([row(extra=1)], "extra"),
    ],
)
def test_bad_rows_are_named(tmp_path, rows, message):
    with pytest.raises(ValueError, match=f"rows: .*{message}"):
        append(tmp_path / f"{NAME}.parquet", rows)
    assert not list(tmp_path.iterdir())


def test_a_run_that_logs_nothing_is_an_error(tmp_path):
    with (
        pytest.raises(ValueError, match="logged nothing"),
        record(NAME, arm="a", dataset="d", seed=0, config={}, root=tmp_path),
    ):
        pass


def test_x_is_given_once(tmp_path):
    with (
        pytest.raises(ValueError, match="x: "),
        record(NAME, arm="a", dataset="d", seed=0, config={}, x=1.0, root=tmp_path) as run,
    ):
        run.log("m", 1.0, x=2.0)


def test_missing_results_name_the_command(tmp_path):
    with pytest.raises(FileNotFoundError, match="python -m reclib experiments 97 --seeds 0-4"):
        load(NAME, tmp_path)


def test_a_wrong_name_is_an_error():
    with pytest.raises(ValueError, match="name: 'sequential'"):
        load("sequential")


def test_the_folder_can_be_set_from_outside(tmp_path, monkeypatch):
    monkeypatch.setenv("RECLIB_RESULTS", str(tmp_path))
    assert results.results_path(NAME) == tmp_path / f"{NAME}.parquet"
    monkeypatch.delenv("RECLIB_RESULTS")
    assert results.results_path(NAME).parts[-3:] == ("data", "results", f"{NAME}.parquet")


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=12))
def test_interval_agrees_with_scipy(values):
    mean, low, high = interval(values)
    if np.ptp(values) < 1e-6:
        assert low == pytest.approx(high, abs=1e-4)
        return
    expected = stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
    assert (mean, low, high) == pytest.approx((np.mean(values), *expected), abs=1e-9)


def test_prediction_interval_covers_one_new_run_as_often_as_it_says():
    rng = np.random.default_rng(0)
    runs, new = rng.normal(size=(1000, 5)), rng.normal(size=1000)
    bounds = np.array([prediction_interval(r) for r in runs])
    covered = ((bounds[:, 1] <= new) & (new <= bounds[:, 2])).mean()
    assert covered == pytest.approx(0.95, abs=4 * math.sqrt(0.95 * 0.05 / 1000))
    confidence = np.array([interval(r) for r in runs])
    assert ((confidence[:, 1] <= new) & (new <= confidence[:, 2])).mean() < 0.8  # why the wider one is needed


def test_a_single_seed_has_no_known_spread():
    assert interval([0.5])[0] == 0.5
    assert np.isnan([*interval([0.5])[1:], *prediction_interval([0.5])[1:]]).all()


def test_summary_is_one_row_per_measured_quantity(tmp_path):
    append(tmp_path / f"{NAME}.parquet", [row(seed=s, value=float(s)) for s in range(5)] + [row(x=1.0)])
    table = summary(load(NAME, tmp_path))
    assert table["seeds"].tolist() == [5, 1]
    assert table.loc[0, ["mean", "low", "high"]].tolist() == pytest.approx(list(interval([0, 1, 2, 3, 4])))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0-4", [0, 1, 2, 3, 4]),
        ("0,3,7", [0, 3, 7]),
        ("2", [2]),
        ("0-2, 7", [0, 1, 2, 7]),
        ("1,0-2", [1, 0, 2]),
    ],
)
def test_seeds(text, expected):
    assert results.seeds(text) == expected


@pytest.mark.parametrize("text", ["", "a", "4-0", "0-", "-1", "1;2"])
def test_bad_seeds(text):
    with pytest.raises(ValueError, match="seeds: "):
        results.seeds(text)


@pytest.fixture
def experiment(tmp_path, monkeypatch):
    """A package folder with one experiment in it, found like the book's own."""
    (tmp_path / "ch97_test.py").write_text(
        "from dataclasses import dataclass\n"
        "from reclib.experiments.results import record\n"
        "NAME = '97_test'\n"
        "@dataclass(frozen=True)\n"
        "class Config:\n"
        "    steps: int = 100\n"
        "SCALES = {'smoke': Config(1), 'full': Config()}\n"
        "def run(config, seeds, *, force=False, root=None):\n"
        "    for seed in seeds:\n"
        "        with record(NAME, arm='a', dataset='d', seed=seed, config=config,\n"
        "                    force=force, root=root) as run:\n"
        "            if run.finished:\n"
        "                continue\n"
        "            run.log('steps', config.steps)\n"
    )
    import reclib.experiments as package

    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    yield tmp_path / "results"
    sys.modules.pop("reclib.experiments.ch97_test", None)


def test_run_experiment_finds_the_module_and_resumes(experiment):
    assert isinstance(results.experiment_module(97), types.ModuleType)
    path = results.run_experiment(97, [0, 1], root=experiment)
    assert path == experiment / f"{NAME}.parquet"
    before = load(NAME, experiment)
    results.run_experiment("97", [0, 1, 2], root=experiment)
    after = load(NAME, experiment)
    pd.testing.assert_frame_equal(after.iloc[:2], before)
    assert after["seed"].tolist() == [0, 1, 2]


def test_a_smoke_run_stays_out_of_the_record(experiment):
    path = results.run_experiment(97, [0], scale="smoke", root=experiment)
    assert path == experiment / "smoke" / f"{NAME}.parquet"
    assert pd.read_parquet(path)["value"].tolist() == [1.0]
    assert not (experiment / f"{NAME}.parquet").exists()


def test_bad_arguments_of_run_experiment(experiment):
    with pytest.raises(ValueError, match=r"number: chapter 96 has no experiment.*97"):
        results.run_experiment(96, [0])
    with pytest.raises(ValueError, match=r"scale: 'huge'.*smoke, full"):
        results.run_experiment(97, [0], scale="huge")
    with pytest.raises(ValueError, match="seeds: none given"):
        results.run_experiment(97, [])
