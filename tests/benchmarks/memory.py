"""PRISM's layer beside a serial solver, one sequence of 16,384 tokens, forward and backward, as chapter 06 times it.

The paper's headline is 174 times; how much of it is the solver's loop in Python shows in the widths.
"""

from functools import partial

import torch

from reclib.experiments.ch06_prism import speed
from tests.benchmarks.comparison import Comparison

LENGTH = 16_384


def compare(
    name: str, peer: str, dim: int, target_ratio: float | None, *, threads: int, seconds: float, rounds: int
) -> Comparison:
    """Both sides in turns, tokens per second; the best round of each."""
    torch.set_num_threads(threads)
    best = {"prism": 0.0, peer: 0.0}
    for _ in range(rounds):
        for arm in best:
            best[arm] = max(best[arm], speed(arm, LENGTH, dim, min(seconds, 1.0))["training"])
    return Comparison(name, best["prism"], best[peer], f"{peer}, width {dim}", "tokens/s", target_ratio)


BENCHMARKS = {
    "prism-serial-64": partial(compare, peer="test-time training", dim=64, target_ratio=None),
    "prism-serial-16": partial(compare, peer="test-time training", dim=16, target_ratio=174.0),
    "prism-deltanet": partial(compare, peer="deltanet", dim=64, target_ratio=0.5),
}
