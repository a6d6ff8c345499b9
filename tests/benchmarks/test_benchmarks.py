"""The parts of the benchmarks that can be right or wrong without a clock."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))  # `pytest` alone does not put the root on the path

from tests.benchmarks import __main__ as main
from tests.benchmarks import arguments, peers, ranking, training
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


def test_the_peers_environment_is_built_once_and_again_when_its_requirements_change(tmp_path, monkeypatch):
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("somebody\n")
    monkeypatch.setattr(peers, "FOLDER", tmp_path / "venv")
    monkeypatch.setattr(peers, "REQUIREMENTS", requirements)
    monkeypatch.setattr(peers.venv, "create", lambda folder, with_pip, clear: folder.mkdir(exist_ok=True))
    commands = []

    def run(command, **_):
        commands.append([str(part) for part in command])
        return subprocess.CompletedProcess(command, returncode=0)

    monkeypatch.setattr(peers.subprocess, "run", run)
    executable = peers.python()
    assert [command[0] for command in commands] == [str(executable)] * 2
    assert commands[0][-1] == f"torch=={torch.__version__.partition('+')[0]}"  # alone, before the peers
    assert commands[1][-2:] == ["-r", str(requirements)]
    peers.python()
    assert len(commands) == 2
    requirements.write_text("somebody else\n")
    peers.python()
    assert len(commands) == 4


def test_a_failed_installation_is_reported_and_tried_again(tmp_path, monkeypatch):
    monkeypatch.setattr(peers, "FOLDER", tmp_path / "venv")
    monkeypatch.setattr(peers.venv, "create", lambda folder, with_pip, clear: folder.mkdir(exist_ok=True))
    failed = subprocess.CompletedProcess([], returncode=1, stderr="no such package")
    monkeypatch.setattr(peers.subprocess, "run", lambda *_, **__: failed)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="no such package"):
            peers.python()
