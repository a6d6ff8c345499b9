"""The protocol in code: build a model by name, train it on a split, choose by validation, measure the test once.

Chapter 02, `python -m reclib train` and every later comparison call these three functions, so that a number in one
place means the same as in another.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from reclib.backbones import (
    HSTU,
    GRU4Rec,
    GRU4RecConfig,
    HSTUConfig,
    ItemKNN,
    ItemTransitions,
    NextItemLoss,
    Popularity,
    SASRec,
    SASRecConfig,
    SequenceModel,
)
from reclib.data.interactions import Interactions, Split
from reclib.evaluation import Recommender, evaluate, ndcg_at_k
from reclib.nn import losses
from reclib.training import FitConfig, FitResult, SequenceBatches, fit

COUNTING = ("popularity", "transitions", "itemknn")
SASRECS = ("sasrec", "sasrec_bce1", "sasrec_gbce", "sasrec_gbce_centred")
HSTUS = ("hstu", "hstu_position", "hstu_scaled", "hstu_scaled_position")
NEURAL = ("gru4rec", *SASRECS, *HSTUS)
MODELS = COUNTING + NEURAL


@dataclass(frozen=True)
class Recipe:
    """How a neural model is trained. One recipe serves all arms of a data set; only `lr` may differ, by tuning."""

    max_len: int = 50  # longest history in one pass
    dim: int = 64  # width of items and hidden states
    layers: int = 2  # blocks (GRU4Rec: always 1)
    heads: int = 1  # attention heads
    dropout: float = 0.2
    batch_size: int = 64  # sequences; small batches learn more per event seen
    lr: float = 5e-3  # peak
    beta2: float = 0.999  # of AdamW; SASRec's own .98 ruins it where items are rare (chapter 02)
    epochs: int = 30
    patience: int | None = None  # epochs without a better validation NDCG@10; None: no early stop
    valid_users: int = 4000  # users of the validation that follows every epoch (a fixed random subset)
    negatives: int = 256  # of gBCE; one-negative BCE always uses 1
    mask_history: bool = True  # recommend only what the user does not have yet


def build(name: str, log: Interactions, recipe: Recipe) -> SequenceModel:
    """An untrained neural model; weights are drawn from torch's global generator (seed it, or use `train`).

    `hstu` is the paper's, with the time bias where the log has time stamps; `hstu_position` never has it. The names
    with `scaled` are the same two with q·k divided by the root of its width, our change.
    """
    n_items, r = log.n_items, recipe
    if name not in NEURAL:
        raise ValueError(f"name: {name!r} is no neural model; choose from {', '.join(NEURAL)}")
    if name == "gru4rec":
        return GRU4Rec(n_items, GRU4RecConfig(dim=r.dim, dropout=r.dropout, max_len=r.max_len))
    if name.startswith("hstu"):
        time_bias = not name.endswith("position") and log.time is not None
        alpha = None if "scaled" in name else 1.0
        sizes = (r.dim, r.layers, r.heads, r.dropout, r.max_len)
        return HSTU(n_items, HSTUConfig(*sizes, time_bias=time_bias, alpha=alpha))
    return SASRec(n_items, SASRecConfig(r.dim, r.layers, r.heads, r.dropout, r.max_len))


def count(name: str, train: Interactions) -> Recommender:
    """A fitted counting model."""
    if name == "popularity":
        return Popularity().fit(train)
    if name == "transitions":
        return ItemTransitions().fit(train)
    if name == "itemknn":
        return ItemKNN().fit(train)
    raise ValueError(f"name: {name!r} is no counting model; choose from {', '.join(COUNTING)}")


def train(
    name: str,
    split: Split,
    recipe: Recipe,
    seed: int,
    *,
    checkpoint: str | Path | None = None,
    progress: bool = True,
) -> tuple[SequenceModel, FitResult]:
    """Train a neural model and keep the weights that did best on validation (NDCG@10).

    Args:
        name: one of `NEURAL`. `sasrec` trains on the full softmax, `sasrec_bce1` on the original's one-negative BCE,
            `sasrec_gbce` on gSASRec's loss with t = 0.75, `sasrec_gbce_centred` on the same, centred (our change).
        split: training events and validation cases; the test cases are not touched.
        seed: of weights, batches, negatives and dropout.
        checkpoint: see `reclib.training.fit`.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build(name, split.train, recipe)
    loss, negatives = NextItemLoss(losses.full_softmax), 0
    if name == "sasrec_bce1":
        loss, negatives = NextItemLoss(partial(losses.gbce, t=0.0)), 1
    elif name in ("sasrec_gbce", "sasrec_gbce_centred"):
        loss = NextItemLoss(partial(losses.gbce, t=0.75, centred=name == "sasrec_gbce_centred"))
        negatives = recipe.negatives
    batches = SequenceBatches(
        split.train, max_len=recipe.max_len, batch_size=recipe.batch_size, negatives=negatives, seed=seed
    )
    result = fit_by_validation(model, batches, loss, split, recipe, seed, checkpoint=checkpoint, progress=progress)
    return model, result


def fit_by_validation(
    model: Any,
    batches: SequenceBatches,
    loss: Any,
    split: Split,
    recipe: Recipe,
    seed: int,
    *,
    checkpoint: str | Path | None = None,
    progress: bool = True,
) -> FitResult:
    """Train any recommender by a recipe; NDCG@10 on (a fixed subset of) the validation users chooses the epoch."""
    cases = split.valid
    if len(cases) > recipe.valid_users:
        cases = cases.subset(np.random.default_rng(0).permutation(len(cases))[: recipe.valid_users])

    def validate() -> float:
        return float(ndcg_at_k(evaluate(model, cases, ks=(10,), mask_history=recipe.mask_history).ranks, 10).mean())

    config = FitConfig(recipe.epochs, recipe.lr, beta2=recipe.beta2, patience=recipe.patience, seed=seed)
    return fit(model, batches, loss, config, validate=validate, checkpoint=checkpoint, progress=progress)


def measure(model: Recommender, split: Split, *, mask_history: bool = True) -> dict[str, float]:
    """Validation and test metrics, as `valid/…` and `test/…`. Call it once per model, when all choices are made."""
    return {
        f"{part}/{metric}": value
        for part, cases in (("valid", split.valid), ("test", split.test))
        for metric, value in evaluate(model, cases, mask_history=mask_history).metrics().items()
    }
