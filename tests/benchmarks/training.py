"""Training throughput of SASRec in predicted targets per second: `reclib` beside RecTools and RecBole.

Each side runs in a process of its own: same training events (all but the last two of each user), 64 wide, 2 layers, 1
head, batches of 128 rows, same longest history, full softmax over the catalogue, same threads. A target is one item
that is predicted; padding does not count.
"""

import json
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np

from reclib.data import load_dataset
from tests.benchmarks import peers
from tests.benchmarks.comparison import Comparison

HERE = Path(__file__).parent
LIMIT = 300  # seconds until a side that hangs is given up


def training_log(dataset: str, users: int | None, folder: Path) -> Path:
    """Write the training events of the first `users` users for all sides to read."""
    train = load_dataset(dataset).leave_one_out().train
    keep = slice(None) if users is None else slice(train.offsets[min(users, train.n_users)])
    path = folder / "log.npz"
    np.savez(path, user=train.user[keep], item=train.item[keep])
    return path


def measure(executable: Path | str, script: str, arguments: list[str], folder: Path) -> float:
    """Targets per second of one side."""
    command = [str(executable), str(HERE / script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=LIMIT)
    if done.returncode:
        raise RuntimeError(f"{script} failed: {done.stderr.strip()[-600:]}")
    result = json.loads(done.stdout.splitlines()[-1])
    targets, seconds = result["targets"], result["seconds"]
    print(f"    {script}: {targets} targets in {seconds:.1f} s ({result['cpu']:.1f} s of CPU)", flush=True)
    return targets / seconds


def compare(
    name: str,
    dataset: str,
    peer: str,
    target: float | None,
    max_len: int,
    users: int | None = None,
    *,
    threads: int,
    seconds: float,
    rounds: int,
) -> Comparison:
    """Both sides in turns; the best round of each."""
    sides = {"ours.py": sys.executable, f"peer_{peer.lower()}.py": peers.python()}
    with tempfile.TemporaryDirectory() as name_of_folder:
        folder = Path(name_of_folder)
        options = {"dim": 64, "layers": 2, "heads": 1, "dropout": 0.2, "max_len": max_len, "batch": 128}
        options |= {"threads": threads, "warmup": 2, "seconds": seconds}
        arguments = [str(training_log(dataset, users, folder))]
        arguments += [part for key, value in options.items() for part in (f"--{key}", str(value))]
        best = dict.fromkeys(sides, 0.0)
        for _ in range(rounds):
            for script, executable in sides.items():
                best[script] = max(best[script], measure(executable, script, arguments, folder))
    ours, theirs = best.values()
    return Comparison(name, ours, theirs, f"{peer} SASRec", "targets/s", target)


BENCHMARKS = {
    "train-movielens-1m-rectools": partial(compare, dataset="movielens-1m", peer="RecTools", target=1.5, max_len=200),
    "train-amazon2014-beauty-rectools": partial(
        compare, dataset="amazon2014-beauty", peer="RecTools", target=3.0, max_len=50
    ),
    # RecBole expands every prefix in a Python loop, 1.6 GB for all of MovieLens-1M; a part shows its speed.
    "train-movielens-1m-recbole": partial(
        compare, dataset="movielens-1m", peer="RecBole", target=20.0, max_len=200, users=500
    ),
    "train-amazon2014-beauty-recbole": partial(
        compare, dataset="amazon2014-beauty", peer="RecBole", target=None, max_len=50
    ),
}
