"""Fitting residual k-means: `reclib` beside faiss, each in a process of its own, on the same vectors.

Ours may take five times as long (the book wants it readable), but not with a larger error.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from tests.benchmarks import peers
from tests.benchmarks.comparison import Comparison

HERE = Path(__file__).parent
ITEMS, DIM, LEVELS, BITS = 12_101, 384, 3, 8  # as many items as Amazon Beauty, as wide as a sentence model
GROUPS, SUBGROUPS = 50, 40
LIMIT = 600  # seconds until a side that hangs is given up


def vectors() -> np.ndarray:
    """A mixture of mixtures, and noise."""
    rng = np.random.default_rng(0)
    coarse, fine = rng.standard_normal((GROUPS, DIM)), 0.6 * rng.standard_normal((GROUPS, SUBGROUPS, DIM))
    i, j = rng.integers(GROUPS, size=ITEMS), rng.integers(SUBGROUPS, size=ITEMS)
    rows: np.ndarray = (coarse[i] + fine[i, j] + 0.3 * rng.standard_normal((ITEMS, DIM))).astype(np.float32)
    return rows


def measure(executable: Path | str, script: str, path: Path, threads: int) -> tuple[float, float]:
    """Seconds of the fit, and the share of the variance that the codes leave open."""
    command = [str(executable), str(HERE / script), str(path), str(LEVELS), str(BITS), str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
    if done.returncode:
        raise RuntimeError(f"{script} failed: {done.stderr.strip()[-600:]}")
    result = json.loads(done.stdout.splitlines()[-1])
    print(f"    {script}: {result['seconds']:.2f} s, error {result['error']:.4f}", flush=True)
    return result["seconds"], result["error"]


def compare(name: str, *, threads: int, seconds: float, rounds: int) -> Comparison:
    """Both sides in turns; the best round of each. faiss greedy, as ours is: its beam would be slower."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vectors.npy"
        np.save(path, vectors())
        sides = {"quantize_ours.py": sys.executable, "peer_faiss.py": peers.python()}
        found = [
            [measure(executable, script, path, threads) for script, executable in sides.items()] for _ in range(rounds)
        ]
    (ours, error), (theirs, their_error) = (min(side) for side in zip(*found, strict=True))
    if error > 1.02 * their_error:
        raise RuntimeError(f"ours leaves {error:.4f} of the variance open, faiss {their_error:.4f}")
    return Comparison(name, ours, theirs, "faiss.ResidualQuantizer", "s", 0.2, more_is_better=False)


BENCHMARKS = {"rqkmeans-fit-faiss": compare}
