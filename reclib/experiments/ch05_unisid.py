"""Chapter 05: UniSID's codes beside those of two-stage tokenizers, on the ad world and on Amazon.

Every arm has the same number of levels and codes. Who is told the categories is in the name of the arm. Per data set,
arm and seed:

- setting `"codes"`: `v_finest@l`, V-measure of level l's codes against the finest category, as the paper has it;
  `v_own@l`, against the category of granularity l; collisions, usage, perplexity; `distortion@l`, the share of the
  variance of the item's text vector that the codes 1 … l leave open (`reclib.experiments.generative.distortion`);
  `probe/NAME` (ad world), accuracy with which a linear model reads a hidden attribute off the codes, on items it was
  not fitted on, and `probe/NAME/chance`, the share of the commonest value; and, for arms that have vectors,
  `retrieval/recall@k`: the item that followed in a held-out step, among 999 random others, by cosine to the item
  before it (for `rqkmeans` and `rqvae` the vectors are those of the text);
- setting `"tiger_decoder"`: chapter 04's generator on the codes of `Study.generate`, by chapter 04's recipe; the same
  of `rqkmeans`, `rqvae`, `random` and others' codes, and, with setting `""`, SASRec and counting, are copied from
  chapter 04's record (same split, seeds, recipe and test).
- settings `"lam"`, `"tau"`, `"K"` (ad world): UniSID with other values, x = value, measured as in `"codes"`;
- setting `"short"` (ad world): trained for half the epochs, which is what chapter 05 trains live.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import v_measure_score
from sklearn.model_selection import cross_val_score
from sklearn.preprocessing import OneHotEncoder
from torch import Tensor

from reclib.data import Split, load_dataset
from reclib.data.interactions import Cases
from reclib.experiments import ch04_semantic_ids as ch04
from reclib.experiments.generative import (
    GenerativeRecipe,
    TokenizerRecipe,
    distortion,
    health,
    item_vectors,
    random_ids,
    tokenize,
    train_generator,
)
from reclib.experiments.results import checkpoint_path, load, record, results_path
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


GENERATE = ("rqkmeans, pairs and categories", "unisid")  # with a generator trained on their codes
DECODER, KS = ch04.DECODER, (1, 5, 10, 20)


@dataclass(frozen=True)
class Study:
    """What is run on one data set."""

    dataset: str
    code: TokenizerRecipe
    unisid: UniSIDConfig  # levels, codes and seed are replaced
    recipe: GenerativeRecipe  # chapter 04's, for this data set
    seeds: int = 5
    arms: tuple[str, ...] = ARMS
    generate: tuple[str, ...] = GENERATE
    short: tuple[str, ...] = ()  # arms that are also trained for half of the epochs
    sweeps: tuple[tuple[str, tuple[float, ...]], ...] = ()  # field of the config, or "K", and its values
    swept_seeds: int = 3  # of the seeds; no verdict stands on a sweep
    world: str = "book"


def _recipe(dataset: str) -> GenerativeRecipe:
    (study,) = (study for study in ch04.Config().studies if study.dataset == dataset)
    return study.recipe


@dataclass(frozen=True)
class Config:
    """The recorded run."""

    studies: tuple[Study, ...] = (
        Study(
            "adworld",
            ch04.WORLD_CODES,
            UniSIDConfig(),
            _recipe("adworld"),
            short=("rqkmeans, pairs and categories", "unisid, no summary"),
            sweeps=(("lam", (0.01, 1.0)), ("tau", (0.05, 0.3)), ("K", (16, 128))),
        ),
        Study(
            "amazon2018-scientific",
            ch04.AMAZON_CODES,
            UniSIDConfig(epochs=15),
            _recipe("amazon2018-scientific"),
            arms=tuple(arm for arm in ARMS if arm != "unisid, attributes"),  # there the summary is a template of them
        ),
        Study(
            "amazon2014-beauty",  # beside published rows
            ch04.AMAZON_CODES,
            UniSIDConfig(epochs=15),
            _recipe("amazon2014-beauty"),
            seeds=3,
            arms=("random", "category path", "rqkmeans", "rqvae", "unisid"),
            generate=("unisid",),
        ),
    )


SCALES: dict[str, Config] = {
    "smoke": Config(
        studies=(
            Study(
                "adworld",
                TokenizerRecipe(2, 6, dim=16),
                UniSIDConfig(dim=16, layers=1, heads=2, epochs=2, text_len=8),
                GenerativeRecipe(max_len=20, dim=16, layers=1, heads=2, epochs=2, beam=20),
                generate=("unisid",),
                short=("unisid",),
                sweeps=(("lam", (0.1, 1.0)), ("K", (4,))),
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
        if datasets is not None and study.dataset not in datasets:
            continue
        for seed in seeds[: study.seeds]:
            _copy(study, seed, common)
            data = cache(lambda study=study, seed=seed: load_items(study, seed))
            for arm in study.arms:
                # One fit serves the measurements of the codes and the generator trained on them.
                made = cache(lambda arm=arm, study=study, seed=seed, data=data: make(arm, study, data(), seed))
                _codes(study, arm, seed, data, made, common)
                if arm in study.generate:
                    _generate(study, arm, seed, data, made, common)
            for arm in study.short:
                short = halved(study)
                made = cache(lambda arm=arm, short=short, seed=seed, data=data: make(arm, short, data(), seed))
                _codes(short, arm, seed, data, made, common, setting="short")
            for field, values in study.sweeps if seed in seeds[: study.swept_seeds] else ():
                for value in values:
                    _swept(study, field, value, seed, data, common)


def _copy(study: Study, seed: int, common: dict[str, Any]) -> None:
    """Take over what chapter 04 measured by the same protocol; it has to be recorded first (not for small worlds)."""
    if study.world != "book":
        return
    rows = load(ch04.NAME, common["root"] if results_path(ch04.NAME, common["root"]).exists() else None)
    rows = rows[(rows["dataset"] == study.dataset) & (rows["seed"] == seed) & rows["x"].isna()]
    rows = rows[rows["setting"].isin(("", DECODER)) & rows["metric"].str.match("test/|old/|new/")]
    for (arm, setting), measured in rows.groupby(["arm", "setting"], sort=False):
        about = {"from": ch04.NAME}
        key: dict[str, Any] = {"arm": str(arm), "dataset": study.dataset, "seed": seed, "setting": str(setting)}
        with record(NAME, **key, config=about, **common) as log:
            if not log.finished:
                for metric, value in zip(measured["metric"], measured["value"], strict=True):
                    log.log(metric, value)


class Items(NamedTuple):
    """What all arms of a seed share."""

    split: Split
    content: ItemContent
    hidden: dict[str, np.ndarray]  # ad world: attributes that nothing shown implies, but the summary states


def load_items(study: Study, seed: int) -> Items:
    """The log of a study and what UniSID reads of its items; in the world each seed is a world of its own."""
    world = AdWorld(AdWorldConfig.preset(study.world, seed=seed)) if study.dataset == "adworld" else None
    split = (world.simulate() if world else load_dataset(study.dataset)).leave_one_out()
    if world is None:
        return Items(split, item_content(split.train, study.code.levels), {})
    catalogue = world.catalogue
    image = torch.from_numpy(catalogue.image[1:]).float()
    content = item_content(split.train, study.code.levels, image=image, summary=catalogue.summary[1:])
    return Items(split, content, {"persona": catalogue.persona[1:], "appeal": catalogue.appeal[1:]})


def _about(study: Study, arm: str) -> dict[str, Any]:
    about: dict[str, Any] = {"code": asdict(study.code)}
    about |= {"unisid": asdict(study.unisid)} if "unisid" in arm or "pairs" in arm else {}
    return about | ({"world": study.world} if study.dataset == "adworld" else {})


def halved(study: Study) -> Study:
    """The study with half of UniSID's epochs, for the live run."""
    return replace(study, unisid=replace(study.unisid, epochs=(study.unisid.epochs + 1) // 2))


def _codes(
    study: Study,
    arm: str,
    seed: int,
    data: Callable[[], Items],
    made: Callable[[], Made],
    common: dict[str, Any],
    *,
    setting: str = "codes",
) -> None:
    about = _about(study, arm)
    with record(NAME, arm=arm, dataset=study.dataset, seed=seed, setting=setting, config=about, **common) as log:
        if not log.finished:
            for metric, value in measure(made(), data(), study, seed).items():
                log.log(metric, value)


def _generate(
    study: Study, arm: str, seed: int, data: Callable[[], Items], made: Callable[[], Made], common: dict[str, Any]
) -> None:
    about = _about(study, arm) | {"recipe": asdict(study.recipe)}
    checkpoint = checkpoint_path(NAME, f"{study.dataset}-{arm}-{seed}", common["root"])
    with record(NAME, arm=arm, dataset=study.dataset, seed=seed, setting=DECODER, config=about, **common) as log:
        if log.finished:
            return
        split, ids = data().split, made().ids.deduplicated()
        model, result = train_generator(DECODER, ids, split, study.recipe, seed, checkpoint=checkpoint)
        for epoch, entry in enumerate(result.log):
            log.log("valid/curve", entry["valid"], x=epoch + 1)
        for metric, value in ch04.measure(model, split).items():
            log.log(metric, value)
    checkpoint.unlink(missing_ok=True)


def _swept(
    study: Study, field: str, value: float, seed: int, data: Callable[[], Items], common: dict[str, Any]
) -> None:
    if field == "K":
        study = replace(study, code=replace(study.code, codes=int(value)))
    else:
        changed: dict[str, Any] = {field: value}
        study = replace(study, unisid=replace(study.unisid, **changed))
    about = _about(study, "unisid")
    with record(
        NAME, arm="unisid", dataset=study.dataset, seed=seed, setting=field, x=value, config=about, **common
    ) as log:
        if not log.finished:
            for metric, found in measure(make("unisid", study, data(), seed), data(), study, seed).items():
                log.log(metric, found)


class Made(NamedTuple):
    """What an arm makes of the items."""

    ids: SemanticIds  # before de-duplication
    vectors: Float[Tensor, "items dim"] | None  # by which items can be compared; None: the arm has only codes


def make(arm: str, study: Study, data: Items, seed: int) -> Made:
    """Fit the tokenizer of an arm."""
    levels, codes = study.code.levels, study.code.codes
    train, content = data.split.train, data.content
    config = replace(study.unisid, levels=levels, codes=codes, seed=seed)
    if arm in ("rqkmeans", "rqvae"):
        return Made(tokenize(arm, train, study.code, seed, progress=False), item_vectors(train, study.code, seed))
    if arm == "random":
        return Made(random_ids(train.n_items, study.code, seed), None)
    if arm == "category path":
        sizes = tuple(int(n) + 1 for n in content.path.amax(0))
        return Made(SemanticIds.from_codes(content.path, sizes, arm), None)
    if arm.startswith("rqkmeans, "):
        kind = CategoryEmbedding if arm.endswith("categories") else PairEmbedding
        vectors = kind(config).fit(content, progress=False).embed(content)
        return Made(RQKMeans(RQKMeansConfig(levels, codes, seed=seed)).fit(vectors).encode(vectors), vectors)
    if arm == "unisid, no summary":
        config = replace(config, lam=0.0)
    if arm == "unisid, attributes":
        written = [" ".join(f"a{i}v{v}" for i, v in enumerate(row)) for row in content.attributes.tolist()]
        content = replace(content, summary=written)
    kinds = {"unisid, pairs only": PairsOnlyUniSID, "unisid, codes only": SidOnlyUniSID}
    model = kinds.get(arm, UniSID)(config).fit(content, progress=False)
    return Made(model.encode(content), None if arm == "unisid, codes only" else model.embed(content))


# ----------------------------------------------------------------------------------------------------- measurements


def measure(made: Made, data: Items, study: Study, seed: int) -> dict[str, float]:
    """All numbers of the setting "codes"."""
    ids, vectors = made.ids, item_vectors(data.split.train, study.code, seed)
    found = {**v_measures(ids, data.content.path), **health(ids), **distortion(ids, vectors)}
    for name, label in data.hidden.items():
        found |= probe(ids, label, f"probe/{name}")
    if made.vectors is not None:
        found |= retrieval(made.vectors, data.split.test, seed)
    return found


def retrieval(vectors: Float[Tensor, "items dim"], cases: Cases, seed: int, negatives: int = 999) -> dict[str, float]:
    """Recall@k of the target among random other items, by cosine to the last item of the history; a tie counts as lost.

    As in the paper one positive stands against 999 negatives; the catalogue of a small test world may hold fewer items
    than that, and negatives are drawn with replacement.
    """
    unit = F.normalize(vectors, dim=-1)
    query, target = torch.from_numpy(cases.source.item[cases.target - 1]), torch.from_numpy(cases.item)
    generator = torch.Generator().manual_seed(seed)
    rank = torch.empty(len(target), dtype=torch.long)
    for rows in torch.split(torch.arange(len(target)), 1024):
        own = (unit[query[rows] - 1] * unit[target[rows] - 1]).sum(-1)
        shift = torch.randint(1, len(unit), (len(rows), negatives), generator=generator)
        other = (target[rows, None] - 1 + shift) % len(unit)  # never the target
        against = (unit[query[rows] - 1] @ unit.T).scatter_(1, query[rows, None] - 1, -torch.inf)  # not against itself
        rank[rows] = 1 + (against.gather(1, other) >= own[:, None]).sum(1)
    return {f"retrieval/recall@{k}": float((rank <= k).double().mean()) for k in KS}


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
