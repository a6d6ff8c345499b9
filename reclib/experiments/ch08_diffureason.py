"""Chapter 08: DiffuReason (our reconstruction) beside its parts, its rivals and plain compute.

An arm is a method on a backbone, `"method, backbone"`; the backbones are `sasrec`, `hstu`, `gru4rec` and `decoder`
(chapter 04's, on semantic IDs). The ladder of a backbone has four rungs:

- `backbone`: by itself, with the scores that all rungs share (by angle);
- `think`: K thoughts, each trained to know the next item;
- `diffuse`: the last thought is a hypothesis that a diffusion refines;
- `diffureason`: the same with GRPO over the denoising chains (variant A) in every step.

Others, on SASRec but for `dot`: `dot` (chapter 02's own scores), `deeper` (as many blocks as `think` runs through, so
more parameters and the same time), `longer` (`backbone` with four times the epochs, which costs what `diffureason`
does), `diffuse only` (no thoughts), `teacher-forced` (cross-entropy of x̂_0 made from the noisy target), `cold`
(`diffureason` trained and served from noise alone), `diffureason B` (GRPO over items), `staged` (three quarters of the
epochs without GRPO, then GRPO alone), `rearec`, `dreamrec`, `mended dreamrec` (its items are those of `backbone` and
stay); `mc-dropout` (sixteen passes of `backbone` with dropout, probabilities averaged); `transitions` and, in the
world, `oracle`, without a backbone.

Settings, per data set, arm and seed:

- `""`: `valid/…` and `test/…` metrics, `train/seconds`, `parameters`, and `valid/curve` at x = epoch;
- `"thoughts"`: x = K, each a training of its own (`think`, `diffuse`);
- `"level"`: x = t*, the mean path from there; `"steps"`: x = levels visited, from T; `"noise"`: x = s, noise of s times
  the size of a thought added to each thought;
- `"samples"`: x = S drawn chains, ranked by their mean (`mean/…`), by the best of their scores (`best/…`) and by the
  mean of their probabilities (`mixture/…`), each over `DRAWS` repetitions; `"pure noise, samples"`: from pure noise;
- `"intent"` (world): Spearman's correlation over test cases of the true entropy of the user's next topic or ad with the
  spread of sampled intents (`topic/spread`) and with the entropy of the served softmax (`topic/softmax`);
- `"gradient"`: cosine of the denoiser's gradients of two draws of variant A and B (`agreement/A`), share of groups
  without a lesson (`no lesson`, and `no lesson/cut` with the reward cut at ten);
- `"forks"` (data set `forks`, x = m): histories whose last item is followed by m clusters of items with equal chances.
  `entropy` (true), `spread`, `softmax`; `modes/found`, share of the m clusters that the best items of 32 samples reach;
  `modes/hit`, share of samples whose best item lies in one of them; `modes/decided`, the probability that a sample
  gives to its best cluster (1 for an intent, 1/m for a compromise, which the other two cannot tell apart), and
  `decided`, the same of the served answer; without x: `KIND/ndcg@10` as for samples.
  `"forks, pure noise"`: the same from pure noise;
- `"request"` (data set `clock`): seconds from one history to all scores, x = K, t* or S. Untrained weights.

**Protocol.** Leave-one-out, full ranking, history masked; validation chooses the epoch; test once. One recipe for all
arms of a data set. `deeper` and `dreamrec` get it too, `rearec` a τ of its own, since its scores are no angles.

**How the recipe came about.** By single runs on validation (NDCG@10), in a world of its own (seed 1000, 1,000 users, 8
epochs). By dot products SASRec had .151; by angle .155, .163 and .162 with τ of .07, .12 and .2; thinking .148, and
.150 with τ = .2 (learning rates of 2e-3 and 1e-2: .125 and .143; with r_0 trained too .147). HSTU had .143, GRU4Rec
.120, `deeper` .151, ReaRec .146, .160 and .143 with τ of .07, .3 and 1. The diffusion went through more versions than
its rivals, all before the claims were written: with the cross-entropy of x̂_0 from the noisy target .120; with the
target detached and the hypothesis added to the network's answer .135; with the cross-entropy of the served intent .155
(l_d = .1) and .158 (l_d = 1), and .138 without the hypothesis added. GRPO with l_rl of .1, 1 and 10: .158, .159, .154
(A); of .1 and 1: .153, .132 (B). DreamRec as written had .012 at most, with learning rates of 5e-3 and 1e-3, 50 and 200
levels, either schedule, free and fixed items; on the items of a trained SASRec .094 (without guidance .058). On
Industrial & Scientific (8 epochs) SASRec had .059 and .079 by dot products with learning rates of 2e-3 and 5e-3, by
angle .083, .084 and .076 with τ of .07, .12 and .2; with τ = .07 thinking had .080, with diffusion .076. Nothing else
was tried there.

**Cost** in CPU seconds of one core, estimated from these pilots. World, per seed: `backbone` 13, `think` 28, `diffuse`
37, `diffureason` 55 on SASRec, the same on HSTU, 90 for the four on GRU4Rec, 300 on the decoder; the others 340; other
K 320; asking in other ways 90. Industrial & Scientific 600, forks 60, clock 20. That makes some 2,100 per seed, 10,500
for five: an hour and a half on two cores, if two processes of one thread each share the seeds.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from scipy.stats import spearmanr
from torch import Tensor, nn

from reclib.backbones import GRU4RecConfig, HSTUConfig, NextItemLoss, SASRecConfig
from reclib.data import Interactions, Split, load_dataset
from reclib.data.interactions import Cases
from reclib.evaluation import Recommender, evaluate, ndcg_at_k
from reclib.experiments.generative import TokenizerRecipe, tokenize
from reclib.experiments.needles import AnswerBatches, questions
from reclib.experiments.protocol import COUNTING, Recipe, count, fit_by_validation, measure
from reclib.experiments.results import checkpoint_path, record
from reclib.generation import DecoderOnlyConfig
from reclib.reasoning import (
    AlignmentLoss,
    ChainGRPO,
    DiffuReason,
    DiffuReasonConfig,
    DiffuReasonLoss,
    DreamRec,
    DreamRecConfig,
    ItemGRPO,
    MendedDreamRec,
    PRLLoss,
    PureNoiseDiffuReason,
    ReaRec,
    TeacherForcedDiffuReason,
    Thinker,
    ThinkingDecoder,
    ThinkingGRU4Rec,
    ThinkingHSTU,
    ThinkingSASRec,
    dreamrec_loss,
    think_loss,
)
from reclib.reasoning.align import zero_variance_share
from reclib.reasoning.diffureason import anchor, one_per_row
from reclib.reasoning.think import gaussian
from reclib.tokenizers import SemanticIds
from reclib.training import FitConfig, FitResult, SequenceBatches, fit
from reclib.world import AdWorld, AdWorldConfig

NAME = "08_diffureason"
LADDER = ("backbone", "think", "diffuse", "diffureason")
DIFFUSING = ("diffuse", "diffuse only", "teacher-forced", "diffureason", "cold", "diffureason B", "staged")
SAMPLES = 16  # of a sampled answer, unless it is swept
DRAWS = 3  # repetitions of a sampled measurement
FIRST_STAGE = 0.75  # share of the epochs of `staged` that come before GRPO
SECOND_STAGE_LR = 0.1  # … whose learning rate is smaller by this factor
RL_WARMUP = 0.2  # share of training in which the weight of L_RL grows; ranks are noise at first
LONGER = 4  # times the epochs
MENDED = DreamRecConfig(levels=50)  # of `mended dreamrec`


def ladder(*backbones: str) -> tuple[str, ...]:
    """All rungs on some backbones."""
    return tuple(f"{method}, {backbone}" for backbone in backbones for method in LADDER)


SOME = tuple(f"{m}, sasrec" for m in ("dot", "deeper", "longer", "rearec", "mended dreamrec"))
MORE = ("dreamrec", "diffuse only", "teacher-forced", "cold", "diffureason B", "staged")
OTHERS = (*SOME, *(f"{m}, sasrec" for m in MORE))


@dataclass(frozen=True)
class Study:
    """What is run on one data set."""

    dataset: str
    arms: tuple[str, ...]  # "method, backbone", or a counting model, or "oracle"
    recipe: Recipe
    sizes: DiffuReasonConfig  # K, τ, T, t*
    dot_tau: float  # τ of ReaRec
    seeds: int = 5
    world: str = "book"
    dials: tuple[tuple[str, float], ...] = ()  # of the world, where they differ from the preset
    code: TokenizerRecipe = field(default_factory=lambda: TokenizerRecipe(levels=3, codes=32, dim=64))  # of `decoder`
    code_len: int = 20  # longest history of `decoder`, in items
    code_epochs: int = 6  # of `decoder`
    thoughts: tuple[int, ...] = ()  # other K
    served: tuple[str, ...] = ()  # arms that are asked in all the other ways
    noise: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0)  # s
    samples: tuple[int, ...] = (1, 4, 16)  # S


@dataclass(frozen=True)
class Forks:
    """The plainest question about uncertainty, and how long everybody may learn it."""

    arms: tuple[str, ...] = (
        "backbone, sasrec", "teacher-forced, sasrec", "diffuse, sasrec", "diffureason, sasrec",
    )  # fmt: skip
    ways: tuple[int, ...] = (1, 2, 4, 8)  # m
    users: int = 1500
    dim: int = 16
    epochs: int = 16
    lr: float = 5e-3
    sizes: DiffuReasonConfig = field(default_factory=lambda: DiffuReasonConfig(tau=0.12))
    samples: int = 32


@dataclass(frozen=True)
class Clock:
    """Sizes of the timings."""

    dim: int = 64
    layers: int = 2
    items: int = 5000
    history: int = 50
    thoughts: tuple[int, ...] = (0, 1, 2, 4, 8)
    starts: tuple[int, ...] = (1, 2, 5, 10)
    samples: tuple[int, ...] = (1, 4, 16)
    repeats: int = 30


@dataclass(frozen=True)
class Config:
    """The recorded run."""

    studies: tuple[Study, ...] = (
        Study(
            "adworld",
            ("transitions", "oracle", *ladder("sasrec", "hstu", "gru4rec", "decoder"), *OTHERS, "dot, hstu"),
            Recipe(max_len=50, dim=32, dropout=0.1, batch_size=32, lr=5e-3, beta2=0.98, epochs=10),
            DiffuReasonConfig(tau=0.12),
            dot_tau=0.3,
            dials=(("n_users", 1500), ("n_items", 600), ("topics_per_sector", 1), ("mean_events", 40)),
            thoughts=(4, 8),
            served=tuple(f"{m}, sasrec" for m in ("think", "rearec", "teacher-forced", "diffuse", "diffureason")),
        ),
        Study(
            "amazon2018-scientific",
            ("transitions", *ladder("sasrec"), *SOME, "backbone, hstu", "diffureason, hstu", "dot, hstu"),
            Recipe(max_len=50, dim=32, dropout=0.4, batch_size=64, lr=5e-3, epochs=8),
            DiffuReasonConfig(tau=0.12),
            dot_tau=0.3,
            served=("think, sasrec", "diffureason, sasrec"),
            samples=(16,),
        ),
    )
    forks: Forks | None = field(default_factory=Forks)
    clock: Clock | None = field(default_factory=Clock)


WORLD = Config().studies[0]
SCALES: dict[str, Config] = {
    "smoke": Config(
        studies=(
            replace(
                WORLD,
                recipe=Recipe(max_len=20, dim=8, layers=1, dropout=0.1, batch_size=64, lr=5e-3, epochs=2),
                sizes=DiffuReasonConfig(levels=4, start=3, tau=0.2),
                world="tiny",
                dials=(),
                code=TokenizerRecipe(levels=2, codes=6, dim=16),
                code_epochs=1,
                thoughts=(1,),
                noise=(1.0,),
                samples=(2,),
            ),
        ),
        forks=replace(Forks(), users=60, epochs=1, dim=8),
        clock=Clock(dim=8, items=50, history=10, thoughts=(0, 1), starts=(1, 2), samples=(2,), repeats=2),
    ),
    "book": Config(studies=(replace(WORLD, arms=("transitions", *ladder("sasrec")), thoughts=()),)),
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
        datasets: only these of `adworld`, `amazon2018-scientific`, `forks` and `clock`.
    """
    common: dict[str, Any] = {"force": force, "root": root}
    for seed in seeds:
        if config.clock and (datasets is None or "clock" in datasets):
            _clock(config.clock, seed, common)
        if config.forks and (datasets is None or "forks" in datasets):
            for arm in config.forks.arms:
                _fork(config.forks, arm, seed, common)
    for study in config.studies:
        if datasets is not None and study.dataset not in datasets:
            continue
        for seed in seeds[: study.seeds]:
            data = Data(study, seed)
            for arm in study.arms:
                _arm(study, arm, seed, data, common)
            for thoughts in study.thoughts:
                for arm in ("think, sasrec", "diffuse, sasrec"):
                    _thoughts(study, arm, thoughts, seed, data, common)


# -------------------------------------------------------------------------------------------------------------- arms


class Data:
    """The log of a study, split; in the world each seed is a world of its own. Nothing is made before it is asked."""

    def __init__(self, study: Study, seed: int) -> None:
        self.study, self.seed = study, seed

    @cached_property
    def ads(self) -> AdWorld | None:
        """The world, if it is one."""
        if self.study.dataset != "adworld":
            return None
        return AdWorld(AdWorldConfig.preset(self.study.world, seed=self.seed, **dict(self.study.dials)))

    @cached_property
    def split(self) -> Split:
        """Leave one out."""
        log = load_dataset(self.study.dataset) if self.ads is None else self.ads.simulate()
        return log.leave_one_out()

    @cached_property
    def ids(self) -> SemanticIds:
        """For `decoder`."""
        return tokenize("rqkmeans", self.split.train, self.study.code, self.seed, progress=False).deduplicated()


def backbone_of(name: str, n_items: int, recipe: Recipe, ids: Callable[[], SemanticIds]) -> nn.Module:
    """An untrained backbone; weights are drawn from torch's global generator."""
    r = recipe
    if name == "sasrec":
        return ThinkingSASRec(n_items, SASRecConfig(r.dim, r.layers, r.heads, r.dropout, r.max_len))
    if name == "hstu":
        return ThinkingHSTU(n_items, HSTUConfig(r.dim, r.layers, r.heads, r.dropout, r.max_len))
    if name == "gru4rec":
        return ThinkingGRU4Rec(n_items, GRU4RecConfig(r.dim, dropout=r.dropout, max_len=r.max_len))
    if name == "decoder":
        return ThinkingDecoder(ids(), DecoderOnlyConfig(r.dim, r.layers, r.heads, r.dropout, r.max_len))
    raise ValueError(f"backbone: there is no {name!r}; choose from sasrec, hstu, gru4rec, decoder")


def build(
    method: str, backbone: Callable[[int], nn.Module], sizes: DiffuReasonConfig, dot_tau: float = 1.0
) -> tuple[Any, Any]:
    """An untrained model and its loss.

    Args:
        backbone: makes one with so many times its usual layers.
        dot_tau: τ of ReaRec.
    """
    if method == "dot":
        return backbone(1), NextItemLoss()
    if method in ("backbone", "deeper", "longer"):
        return Thinker(
            backbone(1 + sizes.thoughts if method == "deeper" else 1), replace(sizes, thoughts=0)
        ), think_loss
    if method == "think":
        return Thinker(backbone(1), sizes), think_loss
    if method == "rearec":
        return ReaRec(backbone(1), replace(sizes, tau=dot_tau)), PRLLoss()
    if method == "diffuse only":
        return DiffuReason(backbone(1), replace(sizes, thoughts=0)), DiffuReasonLoss()
    if method == "teacher-forced":
        return TeacherForcedDiffuReason(backbone(1), sizes), DiffuReasonLoss()
    if method in ("diffuse", "staged"):
        return DiffuReason(backbone(1), sizes), DiffuReasonLoss()
    if method == "diffureason":
        return DiffuReason(backbone(1), sizes), DiffuReasonLoss(ChainGRPO())
    if method == "cold":
        return PureNoiseDiffuReason(backbone(1), replace(sizes, start=sizes.levels)), DiffuReasonLoss(ChainGRPO())
    if method == "diffureason B":
        return DiffuReason(backbone(1), sizes), DiffuReasonLoss(ItemGRPO(), l_rl=0.1)
    raise ValueError(
        f"method: there is no {method!r}; choose from {', '.join(LADDER)}, dot, deeper, longer, diffuse only, "
        "teacher-forced, cold, diffureason B, staged, rearec"
    )


def recipe_of(study: Study, method: str, backbone: str) -> Recipe:
    """The recipe of a study; the decoder has several tokens per item, so its histories and its training are shorter."""
    if backbone == "decoder":
        return replace(study.recipe, max_len=study.code_len, epochs=study.code_epochs)
    return replace(study.recipe, epochs=LONGER * study.recipe.epochs) if method == "longer" else study.recipe


def warmed(loss: Any, steps: int) -> Any:
    """The same loss, L_RL growing over a share of so many steps."""
    return replace(loss, warmup=round(RL_WARMUP * steps)) if isinstance(loss, DiffuReasonLoss) else loss


def train(
    arm: str, study: Study, data: Data, seed: int, checkpoint: Path | None = None, *, progress: bool = True
) -> tuple[Any, FitResult]:
    """Train an arm of a study."""
    method, _, backbone = arm.partition(", ")
    split, r = data.split, recipe_of(study, method, backbone)

    def make(times: int) -> nn.Module:
        return backbone_of(backbone, split.train.n_items, replace(r, layers=times * r.layers), lambda: data.ids)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any
        loss: Any
        sizes = SASRecConfig(r.dim, r.layers, r.heads, r.dropout, r.max_len)
        if method == "dreamrec":
            model, loss = DreamRec(split.train.n_items, sizes), dreamrec_loss
        elif method == "mended dreamrec":
            trained, _ = train(f"backbone, {backbone}", study, data, seed, progress=progress)
            model, loss = MendedDreamRec(trained.backbone.vectors().detach(), sizes, MENDED), dreamrec_loss
        else:
            model, loss = build(method, make, study.sizes, study.dot_tau)
    batches = SequenceBatches(split.train, max_len=r.max_len, batch_size=r.batch_size, seed=seed)
    loss = warmed(loss, r.epochs * batches.steps(0))
    if method != "staged":
        return model, fit_by_validation(model, batches, loss, split, r, seed, checkpoint=checkpoint, progress=progress)
    return model, two_stages(model, batches, loss, split, r, seed, checkpoint, progress=progress)


def two_stages(
    model: DiffuReason,
    batches: SequenceBatches,
    loss: Any,
    split: Split,
    recipe: Recipe,
    seed: int,
    checkpoint: Path | None,
    *,
    progress: bool,
) -> FitResult:
    """L_sup alone, then L_RL alone, with as many epochs as joint training.

    The second stage goes on from the best epoch of the first; the best epoch of both is kept, as joint training's is.
    """
    first = min(max(1, round(FIRST_STAGE * recipe.epochs)), recipe.epochs - 1)
    stages = (
        (loss, replace(recipe, epochs=first)),
        (AlignmentLoss(ChainGRPO()), replace(recipe, epochs=recipe.epochs - first, lr=SECOND_STAGE_LR * recipe.lr)),
    )
    results = []
    paths = (None, None) if checkpoint is None else _of_stages(checkpoint)
    weights = []
    for path, (stage, r) in zip(paths, stages, strict=True):
        results.append(fit_by_validation(model, batches, stage, split, r, seed, checkpoint=path, progress=progress))
        anchor(model)
        weights.append({key: value.clone() for key, value in model.state_dict().items()})
    one, two = results
    best = first + two.best_epoch
    if one.log[one.best_epoch]["valid"] >= two.log[two.best_epoch]["valid"]:
        best = one.best_epoch
        model.load_state_dict(weights[0])
    seconds = one.seconds + two.seconds
    targets = sum(entry["targets"] for entry in (*one.log, *two.log))
    return FitResult([*one.log, *two.log], best, seconds, targets / seconds)


def _of_stages(checkpoint: Path) -> tuple[Path, Path]:
    return checkpoint.with_suffix(".first.safetensors"), checkpoint.with_suffix(".second.safetensors")


def about(study: Study, arm: str) -> dict[str, Any]:
    """What an arm's numbers depend on."""
    method, _, backbone = arm.partition(", ")
    found: dict[str, Any] = {"world": study.world, "dials": dict(study.dials)} if study.dataset == "adworld" else {}
    if not backbone:
        return found
    found |= {"recipe": asdict(recipe_of(study, method, backbone)), "sizes": asdict(study.sizes)}
    if backbone == "decoder":
        found["code"] = asdict(study.code)
    if method == "rearec":
        found |= {"dot_tau": study.dot_tau, "loss": asdict(PRLLoss())}
    if method in DIFFUSING:
        _, loss = build(method, lambda _: ThinkingSASRec(1, SASRecConfig(dim=2)), study.sizes)
        found["loss"] = asdict(loss) | {"warmup": RL_WARMUP}
    if method.endswith("dreamrec"):
        found["dreamrec"] = asdict(DreamRecConfig() if method == "dreamrec" else MENDED)
    if method == "staged":
        found |= {"stages": [FIRST_STAGE, SECOND_STAGE_LR, asdict(ChainGRPO())]}
    return found


def asking(study: Study) -> dict[str, Any]:
    """What the numbers of the other ways of asking depend on, besides the arm."""
    return {"noise": study.noise, "samples": study.samples, "draws": DRAWS}


def _arm(study: Study, arm: str, seed: int, data: Data, common: dict[str, Any]) -> None:
    checkpoint = checkpoint_path(NAME, f"{study.dataset}-{arm}-{seed}", common["root"])
    key: dict[str, Any] = {"dataset": study.dataset, "seed": seed, "config": about(study, arm), **common}
    trained = cache(lambda: train(arm, study, data, seed, checkpoint))
    with record(NAME, arm=arm, **key) as log:
        if not log.finished:
            if arm == "oracle":
                assert data.ads is not None
                model: Recommender = data.ads.oracle
            elif arm in COUNTING:
                model = count(arm, data.split.train)
            else:
                model, result = trained()
                log.log("train/seconds", result.seconds)
                log.log("parameters", sum(p.numel() for p in trained()[0].parameters() if p.requires_grad))
                for epoch, entry in enumerate(result.log):
                    log.log("valid/curve", entry["valid"], x=epoch + 1)
            for metric, value in measure(model, data.split, mask_history=study.recipe.mask_history).items():
                log.log(metric, value)
    if arm in study.served:
        for setting, measurements in ways(arm.partition(", ")[0], study).items():
            asked = key | {"config": key["config"] | asking(study)}
            with record(NAME, arm=arm, setting=setting, **asked) as log:
                if not log.finished:
                    for metric, value, x in measurements(trained()[0], data, seed):
                        log.log(metric, value, x)
    if arm == "backbone, sasrec":
        dropped = "mc-dropout, sasrec"
        with record(NAME, arm=dropped, **(key | {"config": key["config"] | {"passes": SAMPLES}})) as log:
            if not log.finished:
                for metric, value in measure(McDropout(trained()[0], SAMPLES), data.split).items():
                    log.log(metric, value)
    if data.study.dataset == "adworld" and (arm in study.served or arm == "backbone, sasrec"):
        with record(NAME, arm=arm, setting="intent", **key) as log:
            if not log.finished:
                for metric, value in intent(trained()[0], data, seed).items():
                    log.log(metric, value)
    for leftover in (checkpoint, *_of_stages(checkpoint)):
        leftover.unlink(missing_ok=True)  # recorded; and if the arm is ever run again, it has to start afresh


def _thoughts(study: Study, arm: str, thoughts: int, seed: int, data: Data, common: dict[str, Any]) -> None:
    changed = replace(study, sizes=replace(study.sizes, thoughts=thoughts))
    key: dict[str, Any] = {"arm": arm, "dataset": study.dataset, "seed": seed, "setting": "thoughts", "x": thoughts}
    with record(NAME, **key, config=about(changed, arm), **common) as log:
        if not log.finished:
            model, _ = train(arm, changed, data, seed)
            for metric, value in measure(model, data.split, mask_history=study.recipe.mask_history).items():
                log.log(metric, value)


# ----------------------------------------------------------------------------------------- other ways of asking a model

Measurements = Callable[[Any, Data, int], Iterable[tuple[str, float, float | None]]]
Answer = Callable[[Any, Tensor], Tensor]  # (model, hypotheses) → scores


class Asked:
    """A model whose hypotheses are answered in another way, or disturbed."""

    def __init__(self, model: Thinker, answer: Answer, disturb: Callable[[Tensor], Tensor] | None = None) -> None:
        self.model, self.answer, self.disturb = model, answer, disturb

    def score(
        self, history: Int[Tensor, "batch time"], time: Float[Tensor, "batch time+1"] | None = None
    ) -> Float[Tensor, "batch items"]:
        """Score of every item as the next one."""
        return self.answer(self.model, self.model.hypothesis(history, self.disturb))


class McDropout:
    """The mean probability of several passes with dropout (Gal & Ghahramani, 2016): samples without a diffusion."""

    def __init__(self, model: Thinker, samples: int) -> None:
        self.model, self.samples = model, samples

    def score(
        self, history: Int[Tensor, "batch time"], time: Float[Tensor, "batch time+1"] | None = None
    ) -> Float[Tensor, "batch items"]:
        """Logarithm of the mean probability; column 0 is -inf."""
        return _mixture(self.model.rank(self.intents(history)))

    def intents(self, history: Int[Tensor, "batch time"]) -> Float[Tensor, "samples batch dim"]:
        """One intent per pass; the draws are the same at every call."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.model.train()
            found = torch.stack([self.model.intent(history) for _ in range(self.samples)])
            self.model.eval()
        return found


def _mixture(scores: Float[Tensor, "samples batch items"]) -> Float[Tensor, "batch items"]:
    """Logarithm of the mean over samples of softmax(scores), up to a constant."""
    return scores.log_softmax(-1).logsumexp(0)


def refined(start: int, steps: int | None = None) -> Answer:
    """The mean path from a level."""
    return lambda model, c: model.rank(model.refine(c, start=start, steps=steps))


def sampled(kind: str, samples: int, generator: torch.Generator) -> Answer:
    """Drawn chains, ranked by the mean of their unit vectors, the best score of any, or the mean probability."""

    def answer(model: DiffuReason, c: Tensor) -> Tensor:
        u = model.sample(c.expand(samples, -1, -1), generator=generator).u
        if kind == "mean":
            return model.rank(F.normalize(u, dim=-1).mean(0))
        scores = model.rank(u)
        return scores.amax(0) if kind == "best" else _mixture(scores)

    return answer


def from_noise(model: DiffuReason) -> PureNoiseDiffuReason:
    """The same weights, started from noise alone."""
    cold = PureNoiseDiffuReason(model.backbone, replace(model.config, start=model.config.levels))  # type: ignore[arg-type]
    cold.load_state_dict(model.state_dict())
    return cold.eval()


def ndcg(model: Recommender, cases: Cases, *, mask_history: bool = True) -> float:
    """NDCG@10."""
    ranks = evaluate(model, cases, ks=(10,), mask_history=mask_history, batch_size=128).ranks
    return float(ndcg_at_k(ranks, 10).mean())


def ways(method: str, study: Study) -> dict[str, Measurements]:
    """The settings in which a trained model is asked again."""

    def noise(model: Any, data: Data, seed: int) -> Iterable[tuple[str, float, float | None]]:
        for s in study.noise:
            draws = [
                Asked(model, plain(model), gaussian(s, torch.Generator().manual_seed(draw))) for draw in range(DRAWS)
            ]
            yield "test/ndcg@10", statistics.mean(ndcg(asked, data.split.test) for asked in draws), s

    def level(model: Any, data: Data, seed: int) -> Iterable[tuple[str, float, float | None]]:
        for start in range(1, model.config.levels + 1):
            yield "test/ndcg@10", ndcg(Asked(model, refined(start)), data.split.test), start

    def steps(model: Any, data: Data, seed: int) -> Iterable[tuple[str, float, float | None]]:
        top = model.config.levels
        for n in sorted({1, 2, max(1, top // 2), top}):
            yield "test/ndcg@10", ndcg(Asked(model, refined(top, n)), data.split.test), n

    def samples(model: Any, data: Data, seed: int) -> Iterable[tuple[str, float, float | None]]:
        for n in study.samples:
            for kind in ("mean", "best", "mixture"):
                values = [
                    ndcg(Asked(model, sampled(kind, n, torch.Generator().manual_seed(draw))), data.split.test)
                    for draw in range(DRAWS)
                ]
                yield f"{kind}/ndcg@10", statistics.mean(values), n

    def cold_samples(model: Any, data: Data, seed: int) -> Iterable[tuple[str, float, float | None]]:
        return samples(from_noise(model), data, seed)

    found: dict[str, Measurements] = {"noise": noise}
    if method in DIFFUSING:
        found |= {"level": level, "steps": steps, "samples": samples, "pure noise, samples": cold_samples}
    if method == "diffureason":
        found["gradient"] = gradients
    return found


def plain(model: Thinker) -> Answer:
    """As the model itself answers."""
    return refined(model.config.start) if isinstance(model, DiffuReason) else lambda m, c: m.rank(c)


# ------------------------------------------------------------------------------------------------------ uncertainty


def spread(u: Float[Tensor, "samples users dim"]) -> Float[Tensor, "users"]:
    """1 - ‖mean of the unit vectors‖: 0 if all samples point one way, near 1 if they point everywhere."""
    together: Tensor = F.normalize(u, dim=-1).mean(0).norm(dim=-1)
    return 1 - together


def softmax_entropy(scores: Float[Tensor, "users items"]) -> Float[Tensor, "users"]:
    """Entropy in nats of softmax(scores)."""
    nats: Tensor = torch.special.entr(scores.softmax(-1)).sum(-1)
    return nats


def of_cases(answer: Callable[[Int[Tensor, "batch time"]], Tensor], cases: Cases, dim: int = 0) -> Tensor:
    """An answer to every case, in order, computed in batches; users are its axis `dim`."""
    parts = np.array_split(np.arange(len(cases)), max(1, len(cases) // 256))
    with torch.no_grad():
        return torch.cat([answer(cases.batch(rows).history) for rows in parts], dim=dim)


def intent(model: Thinker, data: Data, seed: int, samples: int = 32) -> dict[str, float]:
    """Spearman's correlation of the true entropy of the next step with what the model says about it."""
    assert data.ads is not None
    cases, model = data.split.test, model.eval()
    c = of_cases(model.hypothesis, cases)
    with torch.no_grad():
        if isinstance(model, DiffuReason):
            served = model.refine(c)
            generator = torch.Generator().manual_seed(seed)
            drawn = model.sample(c.expand(samples, -1, -1), generator=generator).u
        else:
            served, drawn = c, of_cases(McDropout(model, samples).intents, cases, dim=1)
        said = {"spread": spread(drawn), "softmax": softmax_entropy(model.rank(served))}
    found = {}
    for level in ("topic", "item"):
        true = data.ads.intent_entropy(event=cases.target, level=level)
        for name, values in said.items():
            found[f"{level}/{name}"] = float(spearmanr(true, values.numpy()).statistic)
    return found


def gradients(
    model: DiffuReason, data: Data, seed: int, users: int = 64, draws: int = 12
) -> Iterable[tuple[str, float, float | None]]:
    """How much two draws of an alignment agree about the direction in which the denoiser should go."""
    batches = SequenceBatches(data.split.train, max_len=model.max_len, batch_size=users, seed=seed)
    batch = next(iter(batches.epoch(0)))
    weights = list(model.denoiser.parameters())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        with torch.no_grad():
            c, target = one_per_row(model.states(batch.history)[-1], batch.target)
        for name, align in (("A", ChainGRPO(b=0.0)), ("B", ItemGRPO())):
            rows = [
                torch.cat([g.flatten() for g in torch.autograd.grad(align(model, c, target), weights)])
                for _ in range(draws)
            ]
            unit = F.normalize(torch.stack(rows), dim=-1)
            pairs = torch.triu_indices(draws, draws, offset=1)
            yield f"agreement/{name}", float((unit @ unit.T)[pairs[0], pairs[1]].mean()), None
        for name, cut in (("no lesson", None), ("no lesson/cut", 10)):
            yield name, zero_variance_share(model, c, target, ChainGRPO().group_size, cut), None


# ------------------------------------------------------------------------------------------------------------- forks

CLUSTERS, PER_CLUSTER, CUES, FILLERS, SHOWN = 8, 4, 3, 12, 5  # clusters of answers; cues per m; items that say nothing


class Crossroads(NamedTuple):
    """Histories with forks, and what may follow."""

    log: Interactions
    way: Int[np.ndarray, "users"]  # m of each user's cue
    allowed: Int[np.ndarray, "users clusters"]  # 1 for the clusters that may follow

    def cluster(self, item: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
        """The cluster of an answer; items that are no answer get a number of none."""
        return torch.where(item <= CLUSTERS * PER_CLUSTER, (item - 1) // PER_CLUSTER, CLUSTERS)


def forks(users: int, seed: int, ways: Sequence[int], draw: int = 0) -> Crossroads:
    """Five items that say nothing, a cue, and the answer: an item of one of the cue's m clusters, all equally likely.

    Args:
        seed: of the rule, that is which clusters belong to a cue.
        draw: of the histories; another one for the test.
    """
    if max(ways) > CLUSTERS or min(ways) < 1:
        raise ValueError(f"ways: there are {CLUSTERS} clusters, so each must lie in 1 … {CLUSTERS}, got {tuple(ways)}")
    rule, rng = np.random.default_rng([seed, 0]), np.random.default_rng([seed, 1 + draw])
    m = np.repeat(ways, CUES)
    order = np.argsort(rule.random((len(m), CLUSTERS)), axis=1)
    cue = rng.integers(len(m), size=users)
    cluster = order[cue, rng.integers(m[cue])]
    answers = CLUSTERS * PER_CLUSTER
    items = answers + len(m) + rng.integers(1, FILLERS + 1, size=(users, SHOWN + 2))
    items[:, -2] = 1 + answers + cue
    items[:, -1] = 1 + PER_CLUSTER * cluster + rng.integers(PER_CLUSTER, size=users)
    n_items = answers + len(m) + FILLERS
    log = Interactions(
        user=np.repeat(np.arange(users), items.shape[1]),
        item=items.reshape(-1),
        time=None,
        n_items=n_items,
        items=pd.DataFrame(index=pd.RangeIndex(1, n_items + 1, name="item_id")),
        name="forks",
    )
    allowed = np.zeros((users, CLUSTERS), dtype=np.int64)
    np.put_along_axis(allowed, order[cue], (np.arange(CLUSTERS) < m[cue, None]).astype(np.int64), axis=1)
    return Crossroads(log, m[cue], allowed)


def decided(scores: Float[Tensor, "*batch items"]) -> Float[Tensor, "*batch"]:
    """Probability of the likeliest cluster of answers: near 1 for an intent, 1/m for a compromise between m of them."""
    answers = scores.softmax(-1)[..., 1 : 1 + CLUSTERS * PER_CLUSTER]
    likeliest: Tensor = answers.view(*answers.shape[:-1], CLUSTERS, PER_CLUSTER).sum(-1).amax(-1)
    return likeliest


def train_on_forks(task: Forks, arm: str, seed: int) -> Any:
    """Train an arm on the answers."""
    method, _, backbone = arm.partition(", ")
    log = forks(task.users, seed, task.ways).log
    width = SHOWN + 1
    recipe = Recipe(max_len=width, dim=task.dim, dropout=0.0)

    def make(times: int) -> nn.Module:
        return backbone_of(backbone, log.n_items, replace(recipe, layers=times * recipe.layers), _no_ids)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model, loss = build(method, make, task.sizes)
    batches = AnswerBatches(log, max_len=width, batch_size=32, seed=seed)
    loss = warmed(loss, task.epochs * batches.steps(0))
    fit(model, batches, loss, FitConfig(task.epochs, task.lr, seed=seed), progress=False)
    return model


def _no_ids() -> SemanticIds:
    raise ValueError("backbone: forks have no text to make semantic IDs of; choose sasrec, hstu or gru4rec")


def at_forks(model: Thinker, task: Forks, seed: int) -> Iterable[tuple[str, float, float | None]]:
    """What a model makes of new histories, by the number of ways."""
    test = forks(task.users, seed, task.ways, draw=1)
    cases = questions(test.log)
    c = of_cases(model.eval().hypothesis, cases)
    unmasked = partial(ndcg, cases=cases, mask_history=False)
    yield "served/ndcg@10", unmasked(Asked(model, plain(model))), None
    with torch.no_grad():
        served = model.refine(c) if isinstance(model, DiffuReason) else c
        scores = model.rank(served)
        said = {"softmax": softmax_entropy(scores), "decided": decided(scores)}
        if isinstance(model, DiffuReason):
            drawn = model.sample(
                c.expand(task.samples, -1, -1), generator=torch.Generator().manual_seed(seed)
            ).u  # samples users dim
            scores = model.rank(drawn)
            cluster = test.cluster(scores.argmax(-1))
            chosen = F.one_hot(cluster, CLUSTERS + 1)[..., :CLUSTERS]
            allowed = torch.from_numpy(test.allowed)
            said["spread"] = spread(drawn)
            said["modes/hit"] = (chosen * allowed).sum(-1).double().mean(0)
            said["modes/found"] = ((chosen.sum(0) > 0) * allowed).sum(-1).double() / allowed.sum(-1)
            said["modes/decided"] = decided(scores).mean(0)
    if isinstance(model, DiffuReason):
        for kind in ("mean", "best", "mixture"):
            answer = sampled(kind, SAMPLES, torch.Generator().manual_seed(seed))
            yield f"{kind}/ndcg@10", unmasked(Asked(model, answer)), None
    for m in task.ways:
        yield "entropy", float(np.log(m * PER_CLUSTER)), m
        for name, values in said.items():
            yield name, float(values[torch.from_numpy(test.way == m)].double().mean()), m


def _fork(task: Forks, arm: str, seed: int, common: dict[str, Any]) -> None:
    config = {key: value for key, value in asdict(task).items() if key != "arms"} | {"warmup": RL_WARMUP}
    trained = cache(lambda: train_on_forks(task, arm, seed))
    settings: dict[str, Callable[[Any], Any]] = {"forks": lambda model: model}
    if arm.partition(", ")[0] in DIFFUSING:
        settings["forks, pure noise"] = from_noise
    for setting, asked in settings.items():
        key: dict[str, Any] = {"arm": arm, "dataset": "forks", "setting": setting, "seed": seed}
        with record(NAME, **key, config=config, **common) as log:
            if not log.finished:
                for metric, value, x in at_forks(asked(trained()), task, seed):
                    log.log(metric, value, x)


# ------------------------------------------------------------------------------------------------------------- clock


def _clock(clock: Clock, seed: int, common: dict[str, Any]) -> None:
    """Median wall time of one request: one history in, the scores of all items out."""
    g = torch.Generator().manual_seed(seed)
    history = torch.randint(1, clock.items + 1, (1, clock.history), generator=g)
    r = Recipe(max_len=clock.history, dim=clock.dim, layers=clock.layers, dropout=0.0)
    levels = max(clock.starts)
    middle = (levels + 1) // 2

    def make(times: int) -> nn.Module:
        return backbone_of("sasrec", clock.items, replace(r, layers=times * r.layers), _no_ids)

    def built(method: str, **sizes: Any) -> Any:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if method == "dreamrec":
                return DreamRec(clock.items, SASRecConfig(r.dim, r.layers, max_len=r.max_len)).eval()
            return build(method, make, replace(DiffuReasonConfig(levels=levels, start=middle), **sizes))[0].eval()

    def drawn(samples: int) -> Recommender:
        answer = sampled("mean", samples, torch.Generator().manual_seed(seed))
        return Asked(built("diffureason"), answer)

    cells: list[tuple[str, int, Callable[[], Recommender]]] = [
        *(("think, sasrec", k, partial(built, "think", thoughts=k)) for k in clock.thoughts),
        *(("deeper, sasrec", k, partial(built, "deeper", thoughts=k)) for k in clock.thoughts),
        *(("diffureason, sasrec", t, partial(built, "diffureason", start=t)) for t in clock.starts),
        *(("diffureason, sampled", n, partial(drawn, n)) for n in clock.samples),
        ("dreamrec, sasrec", 200, partial(built, "dreamrec")),
    ]
    for arm, x, model in cells:
        key: dict[str, Any] = {"arm": arm, "dataset": "clock", "setting": "request", "x": x, "seed": seed}
        with record(NAME, **key, config=asdict(clock), **common) as log:
            if not log.finished:
                log.log("seconds", _seconds(model(), history, clock.repeats))


@torch.no_grad()
def _seconds(model: Recommender, history: Int[Tensor, "one time"], repeats: int) -> float:
    """Median wall time on one core; the first call is not counted."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    model.score(history)
    found = []
    for _ in range(repeats):
        began = time.perf_counter()
        model.score(history)
        found.append(time.perf_counter() - began)
    torch.set_num_threads(threads)
    return statistics.median(found)
