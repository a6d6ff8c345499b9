r"""Chapter 12: S-GRec's A2PO beside other ways to join two rewards, the judge by itself, and both together.

**Policies over ads** (`two_rewards`), data set `adworld`: each seed is a world of its own, every arm starts from the
same clone of the log and takes as many groups of 16. What is measured is exact and on users that nobody trained on:
`business` (expected log eCPM of what is drawn), `ecpm`, `semantic` (expected fit), the same of the favourite ad
(`greedy/…`), `hr@10`, `ndcg@10`, `entropy`; and of the training `flips`, `agree`, `weight`, `inflation`, `push`,
`clipped`, `calls`. Settings:

- `""`: log eCPM is rewarded; x = correlation ρ of log eCPM and fit over all pairs, the world's dial.
- `"frontier"`: Adv-Sum and Reward-Sum with one weight, arms `advantage sum × 0.4` and the like; x = ρ. Arm `a2po` has
  there `semantic above frontier`: its fit minus that of the best Adv-Sum with one λ at the same business (straight
  lines between neighbours, business only and semantic only included).
- `"hit"`, `"hit, frontier"`: 1 for the ad that is clicked next and 0 for others, as public data have it, the clicked ad
  in every group. Clicks do not depend on ρ. Also `hr@10/novelty …`.
- `"ratio"`, `"hit, ratio"`: x = share of the groups that the judge is asked about, in percent; ρ = `rho`.
- `"eCPM noise"`: x = error of log eCPM in training; ρ = `rho`.
- `"judge noise"`, `"judge bias"`: x = error of the judge, in units of the fit's spread; ρ = 0.
- `"online"`: x = ρ: `lift/revenue` and `lift/click` per impression over business only, in an A/B test in the world.
- `"sparse, own judge"`, `"sparse, true fit"`: the whole method once. A language model trained on annotations of
  another world reads and scores the pairs it is asked about (5 %), beside the same arm with the true fit, and with the
  scores shuffled; ρ = `rho`.

**Generators**, data set `generator`: chapter 11's semantic-ID generator (its world, with ρ = `rho`), fine-tuned on
groups that a beam has found (`two_reward_generator`).

**Judges**, data set `judge`, trained in one world and judged in another. Part A, arms `sft` and `sft + grpo`: `exact`,
`point`, …; settings `"noise"` and `"annotations"` of `sft`, x (`annotators`: how often those are exact). Part B from
true scores, with features of a user in the place of a text: arms `pairwise rl`, `logistic`, `global` (one w for
everybody), `uniform`, `true weights`; setting `"pairs"`, x = preferences: `pair auc`, `weight error`. Arm `psj` has
part B as a language model: `weights/…` with true scores, `both/pair auc` with those of its own part A.

**Weights that have to be tuned** (`…, tuned`): one per ρ, chosen in a world no verdict looks at (seed 1000). The rule:
of those weights with which business is at least A2PO's there, the one with the highest fit; if there is none, the
smallest weight. So a tuned arm asks: does one global weight, given the same business, reach more fit than A2PO? With
hits: the highest expected HR@10.

**How the recipe came about.** 300 updates of 32 groups, Adam at .01, error 1.0: our choice, seen in one pilot in world
1000 at ρ = -.8, 0, .8 (business only 6.99, 7.61, 7.49 and fit .202, .292, .466; A2PO 6.89, 7.59, 7.48 and .228, .309,
.488; Adv-Sum 4.86, 6.49, 7.42 and .455, .473, .509; start 5.18, 5.70, 5.99 and .33). Nothing was changed after it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from reclib.experiments.judge_training import (
    LONGEST,
    WEIGHING,
    JudgeConfig,
    WeigherConfig,
    asks,
    deck,
    grid_weigher,
    held_out,
    reward_scorer,
    scorer_quality,
    some_preferences,
    spoken_weights,
    train_scorer,
    train_weigher,
    weigher_quality,
)
from reclib.experiments.judged_ads import Preferences, annotate, judged_world, scores_of
from reclib.experiments.results import Book, Measured, chosen_parts, load, results_root
from reclib.experiments.tuning_lab import TINY, Lab, Study, prepare
from reclib.experiments.two_reward_generator import GENERATOR_ARMS, GeneratorConfig, fine_tune_on_two, lists
from reclib.experiments.two_rewards import (
    ARMS,
    GRID,
    REWARD_GRID,
    CloneConfig,
    Judge,
    Tables,
    TrainConfig,
    Watched,
    WorldConfig,
    clone,
    learn,
    make_tables,
    online,
    worth,
)
from reclib.language import TinyLM, TinyLMConfig
from reclib.objectives.semantic_judge import PersonalizedSemanticJudge
from reclib.objectives.sgrec import SGRecConfig

NAME = "12_sgrec"
TUNING_SEED = 1000
WORLD, GENERATOR, JUDGE = "adworld", "generator", "judge"
SUMS: dict[str, tuple[float, ...]] = {"advantage sum": GRID, "reward sum": REWARD_GRID}
FREE = tuple(arm for arm in ARMS if arm not in {f"{name}, tuned" for name in SUMS})
ELSEWHERE = 2_000  # judges learn in the world of this seed further on
SPARSE = 0.05  # share of the groups that the judge is asked about [paper: 5 %]
_WORLD, _TRAIN, _CLONE, _WEIGHER, _JUDGE, _GENERATOR = (
    WorldConfig(), TrainConfig(), CloneConfig(), WeigherConfig(), JudgeConfig(), GeneratorConfig(),
)  # fmt: skip


@dataclass(frozen=True)
class Config:
    """The recorded run."""

    world: WorldConfig = _WORLD  # its dial is set where it is used
    clone: CloneConfig = _CLONE
    training: TrainConfig = _TRAIN
    arms: tuple[str, ...] = FREE
    alignments: tuple[float, ...] = (-0.8, -0.6, -0.4, -0.2, 0.0, 0.2, 0.4, 0.6, 0.8)  # ρ, the dial
    rho: float = 0.4  # where something else is swept
    sums: tuple[str, ...] = tuple(SUMS)  # with one weight, as frontiers
    ratios: tuple[float, ...] = (0.0, 1.0, 5.0, 20.0, 100.0)  # percent [5]
    ratio_arms: tuple[str, ...] = ("a2po", "a2po, shuffled judge", "advantage sum")
    noises: tuple[float, ...] = (0.0, 0.5, 1.0, 2.0, 4.0)  # of log eCPM
    noise_arms: tuple[str, ...] = ("business only", "a2po", "a2po, shuffled judge", "advantage sum")
    judge_noises: tuple[float, ...] = (0.0, 0.5, 1.0, 2.0, 4.0)
    judge_biases: tuple[float, ...] = (0.0, 0.5, 1.0, 2.0, 4.0)
    judge_arms: tuple[str, ...] = ("semantic only", "advantage sum", "a2po")
    online: tuple[float, ...] = (-0.4, 0.0, 0.4, 0.8)  # ρ of the A/B tests
    online_arms: tuple[str, ...] = ("semantic only", "advantage sum", "a2po", "business only, faster")
    rounds: int = 20  # impressions per user
    judge: JudgeConfig | None = _JUDGE
    annotation_noise: tuple[float, ...] = (0.0, 0.1, 0.3)
    annotations: tuple[int, ...] = (2_000, 20_000)
    judged: int = 1_000  # pairs that part A is judged on; ten times as many preferences
    weigher: WeigherConfig = _WEIGHER
    pairs: tuple[int, ...] = (100, 300, 1_000, 3_000, 10_000, 40_000)  # preferences [40,000]
    own: bool = True  # the whole method once
    generator: GeneratorConfig | None = _GENERATOR


_TINY_WORLD = WorldConfig(preset="tiny", dials=(("base_ctr", 0.1),), recent=6, log_rows=100)
_TINY_METHOD = SGRecConfig(size=4, ratio=1.0)
_TINY_JUDGE = JudgeConfig(
    TinyLMConfig(16, 1, 2, 128), annotations=40, texts=40, batch_size=8, grpo_steps=2, grpo_prompts=2, grpo_size=2,
    form_texts=16, pair_steps=2, pair_prompts=2, pair_size=2,
)  # fmt: skip
SCALES: dict[str, Config] = {
    "smoke": Config(
        world=_TINY_WORLD,
        clone=CloneConfig(steps=4, batch_size=16),
        training=TrainConfig(updates=3, groups=4, method=_TINY_METHOD),
        alignments=(-0.4, 0.4),
        ratios=(0.0, 100.0),
        noises=(0.0, 4.0),
        judge_noises=(0.0, 4.0),
        judge_biases=(0.0, 4.0),
        online=(0.4,),
        rounds=30,
        judge=_TINY_JUDGE,
        annotation_noise=(0.0, 0.1),
        annotations=(20, 40),
        judged=12,
        weigher=WeigherConfig(steps=3, batch_size=8, size=2),
        pairs=(20, 40),
        generator=GeneratorConfig(TINY, judged=12),
    ),
    "book": Config(
        arms=("business only", "semantic only", "reward sum", "advantage sum", "a2po", "pcgrad"),
        alignments=(-0.8, -0.4, 0.0, 0.4, 0.8),
        sums=(), ratios=(), noises=(), noise_arms=(), judge_arms=(), online_arms=(), judge=None, pairs=(1_000,),
        own=False, generator=None,
    ),
    "full": Config(),
}  # fmt: skip


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
        datasets: only these groups: conflict, hit, ratio, noise, online, pairs, judge, own, generator.
    """
    known: dict[str, Callable[[Config, Book], None]] = {
        "conflict": _conflict, "hit": _hit, "ratio": _ratio, "noise": _noise, "online": _online, "pairs": _pairs,
        "judge": _judge, "own": _own, "generator": _generator,
    }  # fmt: skip
    book = Book(NAME, seeds, force, root)
    for part in chosen_parts(known, datasets):
        part(config, book)


# ------------------------------------------------------------------ policies: all seeds and points of a sweep at once


@lru_cache(maxsize=2)
def _tables(world: WorldConfig, alignments: tuple[float | None, ...], seeds: tuple[int, ...]) -> Tables:
    """Worlds of every seed at every ρ: seed by seed."""
    configs = [replace(world, alignment=rho) for _ in seeds for rho in alignments]
    return make_tables(configs, [seed for seed in seeds for _ in alignments])


@lru_cache(maxsize=4)
def _clones(world: WorldConfig, config: CloneConfig, seeds: tuple[int, ...]) -> Float[Tensor, "seeds size"]:
    return clone(world, seeds, config)


def trained(
    arm: str,
    config: Config,
    seeds: Sequence[int],
    alignments: Sequence[float | None],
    training: TrainConfig,
    *,
    knob: float | None = None,
    judge: Judge | None = None,
    progress: bool = True,
) -> tuple[Tables, Float[Tensor, "runs size"], Watched]:
    """One policy per seed and ρ, seed by seed: what they were trained on, their weights, what was seen in training.

    The controls for step size, `business only, faster` and `…, louder`, take A2PO's inflation from a run of it.
    """
    tables = _tables(config.world, tuple(alignments), tuple(seeds))
    start = _clones(config.world, config.clone, tuple(seeds)).repeat_interleave(len(alignments), 0)
    world, rate, knobs = torch.arange(len(start)), None, None
    if arm in ("business only, faster", "business only, louder"):
        _, watched = learn(ARMS["a2po"], tables, world, start, training, name="a2po, for its size", progress=progress)
        rate, knobs = (watched.inflation, None) if arm.endswith("faster") else (None, watched.inflation)
    if knob is not None:
        knobs = torch.full((len(start),), knob)
    weight, watched = learn(
        ARMS[arm], tables, world, start, training, knob=knobs, rate=rate, judge=judge, name=arm, progress=progress
    )
    return tables, weight, watched


def measured(
    tables: Tables, weight: Float[Tensor, "runs size"], watched: Watched | None, points: Sequence[float | None]
) -> list[Measured]:
    """Everything about every seed's runs, whose points are `points`."""
    found = worth(tables, torch.arange(len(weight)), weight)
    if watched is not None:
        found |= watched._asdict()
    each = len(points)
    return [
        [
            (name, float(values[seed * each + place]), point)
            for place, point in enumerate(points)
            for name, values in found.items()
        ]
        for seed in range(len(weight) // each)
    ]


def _about(config: Config, arm: str, training: TrainConfig, **more: Any) -> dict[str, Any]:
    """What the numbers of an arm depend on."""
    parts = {"arm": arm, "world": asdict(config.world), "clone": asdict(config.clone), "training": asdict(training)}
    return {**parts, **more}


def _sweep(
    arm: str,
    config: Config,
    book: Book,
    training: TrainConfig,
    alignments: Sequence[float | None],
    *,
    setting: str = "",
    name: str | None = None,
    knob: float | None = None,
    seeds: Sequence[int] | None = None,
) -> None:
    """Record an arm at several ρ (None: the world's own bids, and no x)."""

    def measure(seeds: list[int]) -> list[Measured]:
        return measured(*trained(arm, config, seeds, alignments, training, knob=knob), points=alignments)

    about = _about(config, arm, training, alignments=alignments, knob=knob)
    book.write(name or arm, WORLD, about, measure, setting=setting, seeds=seeds)


def _start(config: Config, book: Book, alignments: Sequence[float | None], setting: str = "") -> None:
    """Before any reward."""

    def measure(seeds: list[int]) -> list[Measured]:
        tables = _tables(config.world, tuple(alignments), tuple(seeds))
        start = _clones(config.world, config.clone, tuple(seeds)).repeat_interleave(len(alignments), 0)
        return measured(tables, start, None, alignments)

    book.write("start", WORLD, _about(config, "start", TrainConfig(), alignments=alignments), measure, setting=setting)


def _compared(
    config: Config, book: Book, training: TrainConfig, alignments: Sequence[float | None], setting: str, target: str
) -> None:
    """All arms at several ρ, the frontiers of one weight, and the tuned arms that are chosen from them."""
    _start(config, book, alignments, setting)
    for arm in config.arms:
        _sweep(arm, config, book, training, alignments, setting=setting)
    frontier = f"{setting}, frontier" if setting else "frontier"
    everywhere = [*book.seeds, TUNING_SEED]
    if target == "semantic":  # the rule looks at A2PO's business there
        _sweep("a2po", config, book, training, alignments, setting="tuning", seeds=[TUNING_SEED])
    for arm in config.sums:
        for knob in SUMS[arm]:
            name = f"{arm} × {knob:g}"
            _sweep(arm, config, book, training, alignments, setting=frontier, name=name, knob=knob, seeds=everywhere)
        _tuned(arm, config, book, training, alignments, setting, frontier, target)


def _tuned(
    arm: str,
    config: Config,
    book: Book,
    training: TrainConfig,
    alignments: Sequence[float | None],
    setting: str,
    frontier: str,
    target: str,
) -> None:
    """Record the tuned arm: at each ρ, the run of the frontier with the weight that was chosen in the tuning world."""
    results = load(NAME, book.root)
    chosen = chosen_knobs(results, arm, alignments, frontier, target)

    def measure(seeds: list[int]) -> list[Measured]:
        found: list[Measured] = []
        for seed in seeds:
            numbers: Measured = []
            for rho, knob in chosen.items():
                rows = _rows(results, f"{arm} × {knob:g}", frontier, seed, rho)
                numbers += [(metric, value, rho) for metric, value in rows.items()]
                numbers.append(("knob", knob, rho))
            found.append(numbers)
        return found

    about = _about(config, arm, training, alignments=alignments, knobs=list(chosen.values()))
    book.write(f"{arm}, tuned", WORLD, about, measure, setting=setting)


def chosen_knobs(
    results: pd.DataFrame,
    arm: str,
    alignments: Sequence[float | None],
    frontier: str,
    target: str,
) -> dict[float | None, float]:
    """The weight of a sum at each ρ, by the rule in the docstring of this module."""
    chosen: dict[float | None, float] = {}
    for rho in alignments:
        grid = {knob: _rows(results, f"{arm} × {knob:g}", frontier, TUNING_SEED, rho) for knob in SUMS[arm]}
        if target == "semantic":
            least = _rows(results, "a2po", "tuning", TUNING_SEED, rho)["business"]
            fair = {knob: row for knob, row in grid.items() if row["business"] >= least}
            chosen[rho] = max(fair, key=lambda knob: fair[knob]["semantic"]) if fair else min(grid)
        else:
            chosen[rho] = max(grid, key=lambda knob: grid[knob][target])
    return chosen


def _rows(results: pd.DataFrame, arm: str, setting: str, seed: int, x: float | None) -> dict[str, float]:
    """Everything that was measured of a run at one point."""
    at_x = results["x"].isna() if x is None else results["x"] == x
    rows = results[
        (results["dataset"] == WORLD) & (results["arm"] == arm) & (results["setting"] == setting)
        & (results["seed"] == seed) & at_x
    ]  # fmt: skip
    return dict(zip(rows["metric"], rows["value"], strict=True))


def _conflict(config: Config, book: Book) -> None:
    """Two rewards that agree or do not."""
    _compared(config, book, config.training, config.alignments, "", "semantic")
    if config.sums:
        results = load(NAME, book.root)

        def measure(seeds: list[int]) -> list[Measured]:
            return [
                [("semantic above frontier", above_frontier(results, seed, rho), rho) for rho in config.alignments]
                for seed in seeds
            ]

        about = _about(config, "a2po", config.training, alignments=config.alignments, grid=GRID)
        book.write("a2po", WORLD, about, measure, setting="frontier")


def above_frontier(results: pd.DataFrame, seed: int, rho: float) -> float:
    """A2PO's fit minus that of Adv-Sum with one λ at A2PO's business, on straight lines between its neighbours.

    Where A2PO's business is more than that of every sum, it is compared with the sum that has most.
    """
    own = _rows(results, "a2po", "", seed, rho)
    sums = [_rows(results, f"advantage sum × {knob:g}", "frontier", seed, rho) for knob in GRID]
    sums += [_rows(results, arm, "", seed, rho) for arm in ("business only", "semantic only")]
    business, semantic = (np.array([row[name] for row in sums]) for name in ("business", "semantic"))
    order = business.argsort()
    return own["semantic"] - float(np.interp(own["business"], business[order], semantic[order]))


def _hit(config: Config, book: Book) -> None:
    """Hits, as public data have them."""
    _compared(config, book, replace(config.training, hit=True), (None,), "hit", "hr@10")


def _ratio(config: Config, book: Book) -> None:
    """How often the judge has to be asked."""
    for setting, hit, rho in (("ratio", False, config.rho), ("hit, ratio", True, None)):
        for arm in config.ratio_arms:
            trainings = [
                replace(config.training, hit=hit, method=replace(config.training.method, ratio=percent / 100))
                for percent in config.ratios
            ]
            _dial(arm, config, book, trainings, config.ratios, rho, setting)


def _noise(config: Config, book: Book) -> None:
    """Errors: of the business reward, and of the judge."""
    t = config.training
    for arm in config.noise_arms:
        _dial(arm, config, book, [replace(t, noise=x) for x in config.noises], config.noises, config.rho, "eCPM noise")
    for arm in config.judge_arms:
        wrong = [replace(t, judge_noise=x) for x in config.judge_noises]
        _dial(arm, config, book, wrong, config.judge_noises, 0.0, "judge noise")
        biased = [replace(t, judge_bias=x) for x in config.judge_biases]
        _dial(arm, config, book, biased, config.judge_biases, 0.0, "judge bias")


def _dial(
    arm: str,
    config: Config,
    book: Book,
    trainings: Sequence[TrainConfig],
    points: Sequence[float],
    rho: float | None,
    setting: str,
) -> None:
    """Record an arm under several trainings at one ρ."""

    def measure(seeds: list[int]) -> list[Measured]:
        found: list[Measured] = [[] for _ in seeds]
        for training, x in zip(trainings, points, strict=True):
            parts = measured(*trained(arm, config, seeds, (rho,), training), points=(None,))
            for numbers, part in zip(found, parts, strict=True):
                numbers += [(metric, value, x) for metric, value, _ in part]
        return found

    about = _about(config, arm, trainings[0], points=list(points), rho=rho)
    book.write(arm, WORLD, about, measure, setting=setting)


def _online(config: Config, book: Book) -> None:
    """A/B tests of policies against the one that was trained on business alone."""
    for arm in config.online_arms:

        def measure(seeds: list[int], arm: str = arm) -> list[Measured]:
            tables, control, _ = trained("business only", config, seeds, config.online, config.training)
            _, treatment, _ = trained(arm, config, seeds, config.online, config.training)
            found: list[Measured] = []
            for place, seed in enumerate(seeds):
                numbers: Measured = []
                for step, rho in enumerate(config.online):
                    run = place * len(config.online) + step
                    world = replace(config.world, alignment=rho)
                    test = online(world, seed, tables, run, treatment[run], control[run], config.rounds)
                    for name, found_lift in test.items():
                        numbers.append((f"lift/{name}", found_lift.lift, rho))
                found.append(numbers)
            return found

        about = _about(config, arm, config.training, online=list(config.online), rounds=config.rounds)
        book.write(arm, WORLD, about, measure, setting="online")


# ------------------------------------------------------------------ judges


def _pairs(config: Config, book: Book) -> None:
    """Part B without a language model."""
    for arm in WEIGHING:

        def measure(seeds: list[int], arm: str = arm) -> list[Measured]:
            found: list[Measured] = []
            for seed in seeds:
                w = config.world
                there, here = (judged_world(s, None, w.preset, w.dials) for s in (seed + ELSEWHERE, seed))
                _, test = held_out(here, config.judged, seed)
                numbers: Measured = []
                for n in config.pairs:
                    pairs = some_preferences(there, n, seed)
                    weigh = grid_weigher(arm, there, pairs, config.weigher, seed)
                    numbers += [(name, value, n) for name, value in weigher_quality(weigh, here, test).items()]
                found.append(numbers)
            return found

        about = {"arm": arm, "weigher": asdict(config.weigher), "pairs": config.pairs, "judged": config.judged}
        book.write(arm, JUDGE, {**about, "world": asdict(config.world)}, measure, setting="pairs")


@lru_cache(maxsize=32)
def _scorer(world: WorldConfig, judge: JudgeConfig, seed: int) -> TinyLM:
    """Part A after supervised training in another world than the seed's."""
    model, _ = train_scorer(deck(judged_world(seed + ELSEWHERE, None, world.preset, world.dials)), judge, seed)
    return model


class Judges(NamedTuple):
    """A seed's judge, and what it was while it was trained."""

    sft: TinyLM  # part A after supervised training
    grpo: TinyLM  # … and after reinforcement
    psj: PersonalizedSemanticJudge  # the latter, with part B as a language model


@lru_cache(maxsize=8)
def own_judge(world: WorldConfig, judge: JudgeConfig, seed: int) -> Judges:
    """Train it: part A on annotations, part B on preferences, both with reinforcement at the end."""
    cards = deck(judged_world(seed + ELSEWHERE, None, world.preset, world.dials))
    sft = _scorer(world, judge, seed)
    grpo, _ = reward_scorer(sft, cards, judge, seed)
    pairs = some_preferences(cards.world, judge.pair_steps * judge.pair_prompts, seed)
    weigher, _ = train_weigher(sft, cards, pairs, judge, seed)
    return Judges(sft, grpo, PersonalizedSemanticJudge(grpo, weigher, max_new=LONGEST))


def _judge(config: Config, book: Book) -> None:
    """Part A against annotators' errors and numbers, and what reinforcement adds; part B as a language model."""
    if config.judge is None:
        return
    base, most = config.judge, max(config.annotations)
    sweeps: dict[str, dict[float, JudgeConfig]] = {
        "noise": {x: replace(base, noise=x, annotations=most) for x in config.annotation_noise},
        "annotations": {n: replace(base, annotations=n) for n in config.annotations},
    }
    common = {"world": asdict(config.world), "judged": config.judged}
    for seed in book.seeds:
        for setting, judges in sweeps.items():

            def measure(seeds: list[int], judges: dict[float, JudgeConfig] = judges) -> list[Measured]:
                return [
                    [(metric, value, x) for x, judge in judges.items() for metric, value in _exact(config, judge, s)]
                    for s in seeds
                ]

            about = {**common, "judges": {str(x): asdict(judge) for x, judge in judges.items()}}
            book.write("sft", JUDGE, about, measure, setting=setting, seeds=[seed])
        for arm in ("sft", "sft + grpo", "psj"):

            def finished(seeds: list[int], arm: str = arm) -> list[Measured]:
                return [_finished(arm, config, base, s) for s in seeds]

            book.write(arm, JUDGE, {**common, "judge": asdict(base)}, finished, seeds=[seed])
        if seed == 0 and not kept_weights(KEPT[0], book.root).exists():
            _keep(own_judge(config.world, base, seed).psj, book.root)


def _exact(config: Config, judge: JudgeConfig, seed: int) -> list[tuple[str, float]]:
    """How well part A reads and scores pairs of a world that it has not seen."""
    here = deck(judged_world(seed, None, config.world.preset, config.world.dials))
    cases, _ = held_out(here.world, config.judged, seed)
    found = scorer_quality(_scorer(config.world, judge, seed), here, cases)
    noted = scores_of(annotate(cases.findings, judge.noise, np.random.default_rng([17, seed])))
    return [*found.items(), ("annotators", float(np.isclose(noted, cases.scores).all(1).mean()))]


def _finished(arm: str, config: Config, judge: JudgeConfig, seed: int) -> Measured:
    """Of a trained judge, by part, and of both together on preferences."""
    judges = own_judge(config.world, judge, seed)
    here = deck(judged_world(seed, None, config.world.preset, config.world.dials))
    cases, pairs = held_out(here.world, config.judged, seed)
    if arm != "psj":
        model = judges.sft if arm == "sft" else judges.grpo
        return [(metric, value, None) for metric, value in scorer_quality(model, here, cases).items()]
    some = Preferences(*(table[: config.judged] for table in pairs))
    users = [here.users[u] for u in some.user]
    better, worse = (judges.psj.reward(users, [here.ads[i - 1] for i in ads]) for ads in (some.better, some.worse))
    gain = better - worse
    agreed = float(((gain > 1e-6).float() + 0.5 * (gain.abs() <= 1e-6).float()).mean())
    weights = weigher_quality(spoken_weights(judges.psj, here), here.world, some)
    return [("both/pair auc", agreed, None), *((f"weights/{name}", value, None) for name, value in weights.items())]


KEPT = ("scorer", "weigher")  # weights of seed 0 that the chapter reads


def kept_weights(name: str, root: Path | str | None = None) -> Path:
    """File with a part of seed 0's judge, written with the record; `name` is one of `KEPT`."""
    folder = Path(root) if root is not None else results_root()
    return folder.parent / "checkpoints" / f"{NAME}-{name}.safetensors"


def _keep(judge: PersonalizedSemanticJudge, root: Path | str | None) -> None:
    for name, model in zip(KEPT, (judge.scorer, judge.weigher), strict=True):
        path = kept_weights(name, root)
        path.parent.mkdir(parents=True, exist_ok=True)
        assert isinstance(model, TinyLM)
        model.save(path)


def _own(config: Config, book: Book) -> None:
    """The whole method once: the judge that was trained is asked about 5 % of the groups."""
    if config.judge is None or not config.own:
        return
    judge = config.judge
    sparse = replace(config.training, method=replace(config.training.method, ratio=SPARSE))
    for arm, scored_by in (("a2po", "own judge"), ("a2po", "true fit"), ("a2po, shuffled judge", "true fit")):

        def measure(seeds: list[int], arm: str = arm, scored_by: str = scored_by) -> list[Measured]:
            asked: Judge | None = None
            if scored_by == "own judge":
                tables = _tables(config.world, (config.rho,), tuple(seeds))
                decks = [deck(judged_world(s, None, config.world.preset, config.world.dials)) for s in seeds]
                asked = asks([own_judge(config.world, judge, s).psj for s in seeds], decks, tables.user)
            return measured(*trained(arm, config, seeds, (config.rho,), sparse, judge=asked), points=(None,))

        about = _about(config, arm, sparse, rho=config.rho, judge=asdict(judge))
        book.write(arm, WORLD, about, measure, setting=f"sparse, {scored_by}")


# ------------------------------------------------------------------ the generator


@lru_cache(maxsize=1)
def _lab(study: Study, seed: int) -> Lab:
    return prepare(study, seed)


def _generator(config: Config, book: Book) -> None:
    """Chapter 11's generator with this chapter's arms."""
    if config.generator is None:
        return
    study = replace(config.generator.study, dials=(*config.generator.study.dials, ("alignment", config.rho)))
    generator = replace(config.generator, study=study)
    for seed in book.seeds:
        for arm in ("start", *GENERATOR_ARMS):

            def measure(seeds: list[int], arm: str = arm) -> list[Measured]:
                found: list[Measured] = []
                for s in seeds:
                    lab = _lab(study, s)
                    policy, seen = lab.policy, dict[str, float]()
                    if arm != "start":
                        policy, seen = fine_tune_on_two(lab, ARMS[arm], generator, s)
                    found.append([(name, x, None) for name, x in {**lists(lab, policy, generator), **seen}.items()])
                return found

            book.write(arm, GENERATOR, {"arm": arm, "generator": asdict(generator)}, measure, seeds=[seed])
