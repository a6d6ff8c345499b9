"""From scores to metrics: ranks in torch beside lists handed to ranx, by its fastest way in (arrays).

Where only metrics at 10 are wanted, ranx gets top-10 lists. For the reciprocal rank over the whole catalogue, which
`evaluate` reports too, it needs the catalogue sorted. Our ranks are exact in both cases.
"""

import time
from functools import partial

import numpy as np
import ranx
import torch

from reclib.evaluation import mrr, ndcg_at_k, recall_at_k, target_ranks
from tests.benchmarks.comparison import Comparison

ITEMS, BATCH = 12101, 512  # as many items as Amazon Beauty


def ours(scores: torch.Tensor, target: torch.Tensor, depth: int) -> list[float]:
    """Means of the metrics."""
    ranks = torch.cat([target_ranks(s, t) for s, t in zip(scores.split(BATCH), target.split(BATCH), strict=True)])
    found = [recall_at_k(ranks, 10), ndcg_at_k(ranks, 10)] + ([mrr(ranks)] if depth > 10 else [])
    return [float(metric.mean()) for metric in found]


def theirs(scores: torch.Tensor, target: torch.Tensor, depth: int) -> list[float]:
    """The same from the `depth` best items of each case and their scores."""
    metrics = ["hit_rate@10", "ndcg@10"] + (["mrr"] if depth > 10 else [])
    sums = np.zeros(len(metrics))
    for s, t in zip(scores.split(BATCH), target.split(BATCH), strict=True):
        top = torch.topk(s, depth)
        lists = np.stack([top.indices.numpy(), top.values.numpy()], -1).astype(float)
        truth = np.stack([t.numpy(), np.ones(len(t))], -1)[:, None]
        found = ranx.evaluate(truth, lists, metrics)
        sums += len(t) * np.array([found[metric] for metric in metrics])
    return list(sums / len(target))


def compare(
    name: str, cases: int, depth: int, target_ratio: float | None, *, threads: int, seconds: float, rounds: int
) -> Comparison:
    """Both sides in turns on the same scores; the best round of each."""
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(1, ITEMS + 1, (cases,), generator=generator)
    scores = torch.randn(cases, ITEMS + 1, generator=generator)
    scores[torch.arange(cases), target] += 2
    best = {ours: 0.0, theirs: 0.0}
    results = {side: side(scores, target, depth) for side in best}  # warm-up: ranx compiles
    if not np.allclose(results[ours], results[theirs], atol=1e-6):
        raise RuntimeError(f"the metrics differ: {results[ours]} and {results[theirs]}")
    for _ in range(2 * rounds):
        for side in best:
            start = time.perf_counter()
            side(scores, target, depth)
            best[side] = max(best[side], cases / (time.perf_counter() - start))
    return Comparison(name, best[ours], best[theirs], "torch.topk and ranx", "cases/s", target_ratio)


BENCHMARKS = {
    "rank-all-ranx": partial(compare, cases=512, depth=ITEMS + 1, target_ratio=1.0),
    "rank-top10-ranx": partial(compare, cases=4096, depth=10, target_ratio=None),
}
