"""The parts of the benchmarks that can be right or wrong without a clock."""

import gzip
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))  # `pytest` alone does not put the root on the path

from tests.benchmarks import __main__ as main
from tests.benchmarks import arguments, ranking, training
from tests.benchmarks.comparison import Comparison

FIELDS = {"name", "ours", "peer", "peer_name", "ratio", "unit", "machine", "target"}
FAST = Comparison("rank-all-ranx", 30.0, 10.0, "ranx", "cases/s", 1.0)
SMALL = Comparison("world-large-memory", 0.5, 2.0, "limit", "GiB", 1.0, more_is_better=False)


def test_a_ratio_above_one_is_better_whatever_the_unit():
    assert FAST.ratio == 3.0
    assert SMALL.ratio == 4.0


def test_the_file_has_the_documented_fields_and_keeps_other_entries(tmp_path):
    path = tmp_path / "results" / "benchmarks.json"
    main.write(path, [SMALL], threads=1)
    main.write(path, [FAST], threads=2)
    main.write(path, [Comparison("rank-all-ranx", 40.0, 10.0, "ranx", "cases/s", 1.0)], threads=2)
    rows = json.loads(path.read_text())
    assert [set(row) for row in rows] == [FIELDS, FIELDS]
    assert [(row["name"], row["ratio"]) for row in rows] == [("rank-all-ranx", 4.0), ("world-large-memory", 4.0)]
    assert rows[0]["machine"].endswith("2 threads")
    assert rows[1]["machine"].endswith("1 thread")


def test_the_stopwatch_leaves_the_warm_up_out(monkeypatch, capsys):
    clock = iter([10.0, 20.0, 21.0, 23.0])
    monkeypatch.setattr(arguments.time, "perf_counter", lambda: next(clock))
    watch = arguments.Stopwatch(warmup=2, seconds=2.5)
    assert [watch.done(100), watch.done(100), watch.done(7), watch.done(5)] == [False, False, False, True]
    watch.report()
    result = json.loads(capsys.readouterr().out)
    assert (result["targets"], result["seconds"]) == (12, 3.0)


def test_all_sides_read_the_training_events_of_the_first_users(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    with gzip.open(folder / "sequences.txt.gz", "wt") as file:
        file.write("1 1 2 3 4\n2 5 4 3 2 1\n3 1 2 3\n")
    with gzip.open(folder / "items.jsonl.gz", "wt") as file:
        file.writelines(json.dumps({"item_id": i}) + "\n" for i in range(1, 6))
    log = np.load(training.training_log(str(folder), 2, tmp_path))
    assert log["item"].tolist() == [1, 2, 5, 4, 3]
    assert log["user"].tolist() == [0, 0, 1, 1, 1]


@pytest.mark.parametrize("depth", [10, 40])
def test_both_sides_of_the_ranking_compute_the_same_metrics(depth, monkeypatch):
    monkeypatch.setattr(ranking, "BATCH", 20)
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(0, 40, (50,), generator=generator)
    scores = torch.randn(50, 40, generator=generator)
    np.testing.assert_allclose(ranking.ours(scores, target, depth), ranking.theirs(scores, target, depth), atol=1e-6)
