"""Chapter 05: UniSID's codes beside those of two-stage tokenizers, on the ad world and on Amazon.

Setting `"codes"`, one run per data set, arm and seed:

- `v_finest@l`: V-measure of level l's codes against the finest category, as the paper has it; `v_own@l`: against the
  category of granularity l;
- collisions, usage and perplexity;
- `distortion@l`: share of the variance of the item's text vector that remains if each item is replaced by the mean of
  all items with the same codes 1 … l. It needs no codebook, so residual chains and parallel heads compare;
- `probe/NAME` (ad world): accuracy with which a linear model reads a hidden attribute off the codes, on items it was
  not fitted on; `probe/NAME/chance` is the share of the commonest value.

Every arm has the same number of levels and codes. Who is told the categories is in the name of the arm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import v_measure_score
from sklearn.model_selection import cross_val_score
from sklearn.preprocessing import OneHotEncoder
from torch import Tensor

from reclib.data import Interactions, load_dataset
from reclib.experiments.generative import TokenizerRecipe, distortion, health, item_vectors, random_ids, tokenize
from reclib.experiments.results import record
from reclib.tokenizers import (
    CategoryEmbedding,
    ItemContent,
    PairEmbedding,
    PairsOnlyUniSID,
    RQKMeans,
    RQKMeansConfig,
    SemanticIds,
    SidOnlyUniSID,
    UniSID,
    UniSIDConfig,
)
from reclib.tokenizers.content import item_content
from reclib.world import AdWorld, AdWorldConfig

NAME = "05_unisid"
ARMS = (
    "random",
    "category path",  # told the categories, and nothing else
    "rqkmeans",  # of the text vector
    "rqvae",  # of the text vector
    "rqkmeans, pairs",  # of an embedding trained on pairs
    "rqkmeans, pairs and categories",  # the fair control
    "unisid, pairs only",  # parallel heads without categories
    "unisid, no summary",
    "unisid, attributes",  # writes the attributes in the place of the summary
    "unisid",
    "unisid, codes only",  # a single task
)


@dataclass(frozen=True)
class Study:
    """What is run on one data set."""

    dataset: str
    code: TokenizerRecipe
    unisid: UniSIDConfig  # levels, codes and seed are replaced
    seeds: int = 5
    world: str = "book"


@dataclass(frozen=True)
class Config:
    """The recorded run."""

    studies: tuple[Study, ...] = (
        Study("adworld", TokenizerRecipe(3, 32), UniSIDConfig()),
        Study("amazon2018-scientific", TokenizerRecipe(3, 256), UniSIDConfig(epochs=15)),
    )


SCALES: dict[str, Config] = {
    "smoke": Config(
        studies=(
            Study(
                "adworld",
                TokenizerRecipe(2, 6, dim=16),
                UniSIDConfig(dim=16, layers=1, heads=2, epochs=2, text_len=8),
                world="tiny",
            ),
        )
    ),
    "book": Config(studies=Config().studies[:1]),
    "full": Config(),
}


def run(
    config: Config,
    seeds: Sequence[int],
    *,
    force: bool = False,
    root: Path | str | None = None,
    datasets: Sequence[str] | None = None,
) -> None:
    """Record all that is not recorded yet."""
    common: dict[str, Any] = {"force": force, "root": root}
    for study in config.studies:
        if datasets is None or study.dataset in datasets:
            for seed in seeds[: study.seeds]:
                for arm in ARMS:
                    _codes(study, arm, seed, common)


def _codes(study: Study, arm: str, seed: int, common: dict[str, Any]) -> None:
    about: dict[str, Any] = {"code": asdict(study.code)}
    about |= {"unisid": asdict(study.unisid)} if "unisid" in arm or "pairs" in arm else {}
    about |= {"world": study.world} if study.dataset == "adworld" else {}
    with record(NAME, arm=arm, dataset=study.dataset, seed=seed, setting="codes", config=about, **common) as log:
        if log.finished:
            return
        world = AdWorld(AdWorldConfig.preset(study.world, seed=seed)) if study.dataset == "adworld" else None
        train = (world.simulate() if world else load_dataset(study.dataset)).leave_one_out().train
        content = item_content(
            train,
            study.code.levels,
            image=torch.from_numpy(world.catalogue.image[1:]).float() if world else None,
            summary=world.catalogue.summary[1:] if world else None,
        )
        ids = semantic_ids(arm, study, train, content, seed)
        vectors = item_vectors(train, study.code, seed)
        found = {**v_measures(ids, content.path), **health(ids), **distortion(ids, vectors)}
        if world:
            for name in ("persona", "appeal"):  # neither follows from anything the items show, but the summary says it
                found |= probe(ids, getattr(world.catalogue, name)[1:], f"probe/{name}")
        for metric, value in found.items():
            log.log(metric, value)


def semantic_ids(arm: str, study: Study, train: Interactions, content: ItemContent, seed: int) -> SemanticIds:
    """The codes of an arm, before de-duplication."""
    levels, codes = study.code.levels, study.code.codes
    config = replace(study.unisid, levels=levels, codes=codes, seed=seed)
    if arm in ("rqkmeans", "rqvae"):
        return tokenize(arm, train, study.code, seed, progress=False)
    if arm == "random":
        return random_ids(train.n_items, study.code, seed)
    if arm == "category path":
        return SemanticIds.from_codes(content.path, tuple(int(n) + 1 for n in content.path.amax(0)), arm)
    if arm.startswith("rqkmeans, "):
        kind = CategoryEmbedding if arm.endswith("categories") else PairEmbedding
        vectors = kind(config).fit(content, progress=False).embed(content)
        return RQKMeans(RQKMeansConfig(levels, codes, seed=seed)).fit(vectors).encode(vectors)
    if arm == "unisid, no summary":
        config = replace(config, lam=0.0)
    if arm == "unisid, attributes":
        written = [" ".join(f"a{i}v{v}" for i, v in enumerate(row)) for row in content.attributes.tolist()]
        content = replace(content, summary=written)
    kinds = {"unisid, pairs only": PairsOnlyUniSID, "unisid, codes only": SidOnlyUniSID}
    return kinds.get(arm, UniSID)(config).fit(content, progress=False).encode(content)


# ----------------------------------------------------------------------------------------------------- measurements


def v_measures(ids: SemanticIds, path: Int[Tensor, "items levels"]) -> dict[str, float]:
    """V-measure of each level's codes against the finest category, and against the category of that level."""
    codes = ids.codes[1:].numpy()
    finest = {f"v_finest@{x + 1}": v_measure_score(path[:, -1], codes[:, x]) for x in range(ids.levels)}
    return finest | {f"v_own@{x + 1}": v_measure_score(path[:, x], codes[:, x]) for x in range(ids.levels)}


def probe(ids: SemanticIds, label: np.ndarray, name: str) -> dict[str, float]:
    """Accuracy of a linear model on the one-hot codes, five-fold, and of always saying the commonest value."""
    codes = OneHotEncoder(handle_unknown="ignore").fit_transform(ids.codes[1:].numpy())
    accuracy = cross_val_score(LogisticRegression(max_iter=500), codes, label, cv=5).mean()
    return {name: float(accuracy), f"{name}/chance": float(np.unique(label, return_counts=True)[1].max() / len(label))}
