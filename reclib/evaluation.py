"""Evaluation: rank the whole catalogue, mask what the user already has, count hits on items.

Ties are broken by one random order of the items, drawn once from a seed. So a model that gives every item the
same score ranks at random instead of profiting from the order in which the catalogue happens to be stored, and
the same scores give the same ranks every time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from reclib.data.interactions import Cases


@runtime_checkable
class Recommender(Protocol):
    """Whatever scores the whole catalogue for a batch of histories."""

    def score(
        self, history: Int[Tensor, "batch time"], time: Float[Tensor, "batch time+1"] | None = None
    ) -> Float[Tensor, "batch items"]:
        """One row per history; column i is item i, column 0 is padding."""


# ---------------------------------------------------------------------------------------------- ranks and metrics


def target_ranks(
    scores: Float[Tensor, "batch items"],
    targets: Int[Tensor, "batch"],
    tie_order: Shaped[Tensor, "items"] | None = None,
) -> Int[Tensor, "batch"]:
    """Rank of each target among all items, 1 = best.

    rank = 1 + |{i : s_i > s_target}| + |{i : s_i = s_target, tie_order_i < tie_order_target}|

    Args:
        scores: one row per case; `-inf` takes an item out of the ranking.
        targets: column of the true item.
        tie_order: a priority per item, all different; smaller wins a tie. Default: the item id.

    Raises:
        ValueError: NaN scores, or a target that was masked.
    """
    n_items = scores.shape[1]
    if torch.isnan(scores.amax(1)).any():  # the largest of several numbers is NaN if one of them is
        raise ValueError("scores: contain NaN; a model that diverged cannot be ranked")
    own = scores.gather(1, targets[:, None])
    if torch.isneginf(own).any():
        raise ValueError("targets: a target has score -inf; it is padding or was masked, so it can never be a hit")
    if tie_order is None:
        tie_order = torch.arange(n_items, device=scores.device)
    # Counting in int32 is vectorised, in int64 (the default) it is not: 13 times faster.
    rank, equal = 1 + (scores > own).sum(1, dtype=torch.int32).long(), scores == own
    tied = (equal.sum(1, dtype=torch.int32) > 1).nonzero()[:, 0]  # few rows, unless the model counts
    before = tie_order < tie_order[targets[tied], None]
    rank[tied] += (equal[tied] & before).sum(1)
    return rank


def recall_at_k(ranks: Int[Tensor, "cases"], k: int) -> Float[Tensor, "cases"]:
    """1 where the one relevant item is among the first k (also called hit rate, HR@k). Take the mean over cases."""
    return (ranks <= k).double()


def ndcg_at_k(ranks: Int[Tensor, "cases"], k: int) -> Float[Tensor, "cases"]:
    """1 / log2(1 + rank) inside the first k, else 0: NDCG with one relevant item (Järvelin & Kekäläinen, 2002)."""
    return torch.where(ranks <= k, 1.0 / torch.log2(1.0 + ranks.double()), 0.0)


def mrr(ranks: Int[Tensor, "cases"]) -> Float[Tensor, "cases"]:
    """1 / rank, the reciprocal rank. Take the mean over cases."""
    return 1.0 / ranks.double()


def coverage(top: Int[Tensor, "cases k"], n_items: int) -> float:
    """Share of the catalogue that appears in at least one top-k list. 0 marks an empty place and is no item."""
    return len(torch.unique(top[top > 0])) / n_items


def novelty(top: Int[Tensor, "cases k"], item_counts: Shaped[Tensor, "items"]) -> float:
    """Mean self-information -log2 p(i) of recommended items in bits (Castells, Vargas & Wang, 2011).

    p(i) is the item's share of the training events, with one event added to every item so that unseen items
    have a finite surprise.

    Args:
        top: item ids; 0 marks an empty place and is left out of the mean.
        item_counts: training events per item id, column 0 (padding) included and ignored.
    """
    counts = item_counts.double() + 1
    counts[0] = 0
    return float(-torch.log2(counts / counts.sum())[top[top > 0]].mean())


# ------------------------------------------------------------------------------------------------------ evaluation


@dataclass(frozen=True)
class Evaluation:
    """What a recommender did on a set of cases.

    Attributes
    ----------
    ranks: `[cases]` rank of each target in the full catalogue, 1 = best.
    top: `[cases, k]` the items of each list, best first (k = the largest cut-off); 0 where fewer than k were left.
    ks: the cut-offs.
    n_items: size of the catalogue.
    """

    ranks: Int[Tensor, "cases"]
    top: Int[Tensor, "cases k"]
    ks: tuple[int, ...]
    n_items: int

    def metrics(self) -> dict[str, float]:
        """Means over cases: recall@k, ndcg@k, coverage@k for every k, and mrr."""
        out: dict[str, float] = {}
        for k in self.ks:
            out[f"recall@{k}"] = float(recall_at_k(self.ranks, k).mean())
            out[f"ndcg@{k}"] = float(ndcg_at_k(self.ranks, k).mean())
            out[f"coverage@{k}"] = coverage(self.top[:, :k], self.n_items)
        out["mrr"] = float(mrr(self.ranks).mean())
        return out


@torch.no_grad()
def evaluate(
    model: Recommender,
    cases: Cases,
    ks: Sequence[int] = (5, 10, 20),
    *,
    mask_history: bool = True,
    batch_size: int = 512,
    tie_seed: int = 0,
) -> Evaluation:
    """Rank the full catalogue for every case.

    Args:
        model: any object with `score(history, time)`; a `torch.nn.Module` is put in eval mode for the call.
        cases: histories and targets, e.g. `split.test`.
        ks: cut-offs.
        mask_history: take items of the user's whole history out of the ranking. On logs without repeats this is
            worth a lot (Amazon Beauty, SASRec: NDCG@10 .053 with, .040 without), so always say which you used.
        batch_size: cases scored at once.
        tie_seed: seed of the item order that breaks ties.

    Raises:
        ValueError: no cases, scores of the wrong width, or a target that occurs in its own masked history (a log
            with repeats).
    """
    n_items = cases.n_items
    if len(cases) == 0:
        raise ValueError("cases: there are none, and a mean over nothing means nothing; give at least one")
    if not ks or min(ks) < 1 or max(ks) > n_items:
        raise ValueError(f"ks: {tuple(ks)} must lie in 1 … {n_items}, the number of items")
    tie_order = torch.randperm(n_items + 1, generator=torch.Generator().manual_seed(tie_seed))
    ranks = torch.empty(len(cases), dtype=torch.long)
    top = torch.empty(len(cases), max(ks), dtype=torch.long)
    # Cases of similar length share a batch, so little padding is computed.
    order = np.argsort(cases.lengths, kind="stable")
    with _eval_mode(model) as device:
        for first in range(0, len(order), batch_size):
            rows = order[first : first + batch_size]
            batch = cases.batch(rows)
            time = None if batch.time is None else batch.time.to(device)
            scores = model.score(batch.history.to(device), time)
            if scores.shape[1] != n_items + 1:
                raise ValueError(
                    f"model: score returned {scores.shape[1]} columns; "
                    f"give {n_items + 1}, one per item id and column 0 for padding"
                )
            # Half precision would make ties; double is kept, where a model needs it to tell scores apart.
            scores = scores.to("cpu", torch.promote_types(scores.dtype, torch.float32), copy=True)
            scores[:, 0] = -torch.inf
            if mask_history:
                if (batch.history == batch.target[:, None]).any():
                    raise ValueError(
                        "mask_history: some targets occur in their own history, so masking would hide them; "
                        "this log repeats items: pass mask_history=False"
                    )
                scores.scatter_(1, batch.history, -torch.inf)
            index = torch.from_numpy(rows)
            ranks[index] = target_ranks(scores, batch.target, tie_order)
            top[index] = _top_items(scores, max(ks), tie_order)
    return Evaluation(ranks=ranks, top=top, ks=tuple(ks), n_items=n_items)


@contextmanager
def _eval_mode(model: Recommender) -> Iterator[torch.device]:
    """Eval mode, and afterwards every part back in its own mode (a frozen part of a model in training stays so)."""
    if not isinstance(model, torch.nn.Module):
        yield torch.device("cpu")
        return
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield next((p.device for p in model.parameters()), torch.device("cpu"))
    finally:
        for module in training:
            module.training = True


def _top_items(
    scores: Float[Tensor, "batch items"], k: int, tie_order: Shaped[Tensor, "items"]
) -> Int[Tensor, "batch k"]:
    """The k best items under the same tie rule as `target_ranks`; 0 where all others are at -inf."""
    values, top = torch.topk(scores, k + 1, dim=1)
    top = top[:, :k]
    # topk leaves open which of several equal items it takes. That matters in the rows where the k-th and the next are
    # equal: there, take all above the k-th value and fill up in tie order.
    tied = (values[:, k - 1] == values[:, k]).nonzero()[:, 0]
    if len(tied):
        by_tie_order = torch.argsort(tie_order)
        ordered, kth = scores[tied][:, by_tie_order], values[tied, k - 1, None]
        above, equal = ordered > kth, ordered == kth
        fill = equal & (equal.cumsum(1, dtype=torch.int32) <= k - above.sum(1, keepdim=True))
        top[tied] = by_tie_order[(above | fill).nonzero()[:, 1].view(-1, k)]
    top = top.gather(1, tie_order[top].argsort(1))
    value, order = scores.gather(1, top).sort(dim=1, descending=True, stable=True)
    return top.gather(1, order).masked_fill(torch.isneginf(value), 0)
