"""Two processes under `fabric run` end where one does."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import ddp_script
import pytest
import torch

HERE = Path(__file__).parent


def read(folder):
    reports = [json.loads(path.read_text()) for path in sorted(folder.glob("report-*.json"))]
    weights = {path.stem: torch.load(path) for path in sorted(folder.glob("*.pt"))}
    return reports, weights


def fabric_run(folder):
    """`fabric run` with two processes that talk over the loopback."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    options = ["--accelerator", "cpu", "--devices", "2", "--strategy", "ddp", "--main-port", str(port)]
    program = "from lightning_fabric.cli import _main; _main()"
    env = {key: value for key, value in os.environ.items() if not key.startswith(("LT_", "LOCAL_", "PYTEST_"))}
    env |= {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": f"{HERE.parents[1]}{os.pathsep}{HERE}",
        "GLOO_SOCKET_IFNAME": "lo" if sys.platform == "linux" else "lo0",
    }
    command = [sys.executable, "-c", program, "run", *options, HERE / "ddp_script.py", folder]
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_two_processes_end_where_one_does(tmp_path):
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        folder.mkdir()
    ddp_script.main(folders[0])
    fabric_run(folders[1])
    (single,), expected = read(folders[0])
    (first, second), weights = read(folders[1])

    assert weights.keys() == expected.keys() == {"gru4rec", "sasrec", "hstu"}
    for name, model in weights.items():
        for key, value in model.items():
            torch.testing.assert_close(value, expected[name][key], rtol=1e-7, atol=1e-7, msg=f"{name}: {key}")

    for name in weights:
        for size in ("1", "5"):
            one, two, whole = (report[f"{name}/{size}"] for report in (first, second, single))
            assert one["log"] == two["log"]  # both report what all did
            for (loss, targets), (loss_alone, targets_alone) in zip(one["log"], whole["log"], strict=True):
                assert targets == targets_alone
                assert loss == pytest.approx(loss_alone, rel=1e-6)
            assert [a + b for a, b in zip(one["rows"], two["rows"], strict=True)] == whole["rows"]
            assert [a + b for a, b in zip(one["targets"], two["targets"], strict=True)] == whole["targets"]
        assert set(second[f"{name}/1"]["rows"]) == {0}  # a process without rows does no harm
        assert any(a != b for a, b in zip(first[f"{name}/5"]["targets"], second[f"{name}/5"]["targets"], strict=True))

    for report in (first, second, single):
        assert report["stop"] == [4, 1]
        assert report["resumed"]
        assert "the loss is nan" in report["broken"]
