"""Chapter 11: V-STAR beside GRPO with other groups, where the true reward of every ad is known, and on a real log.

In the ad world each seed is a world of its own (a smaller `book`) with a generator that was trained on its log:
RQ-KMeans on text and pictures, and TIGER's last level, so that every ad has an ID of its own (`tuning_lab`). Arms
fine-tune that generator from the same weights, on prompts drawn from the same training events, for as many batches
(`group_tuning`); each search may spend as many forward tokens as a beam of 16 (33; VED 34) on a group of 16
(`group_searches`). Nothing that a user has clicked before is a candidate.

Settings of data set `adworld`, which say what is rewarded:

- `""`: the click on the logged item, as in the paper (rule + NDCG). The value head learns from the paper's dense
  rewards. Arms besides V-STAR's parts: `ved, dapo`; sibling rewards `graded` and `ranking` in the place of exact hits;
  `v-star, item value`, the released code's dense reward. In this setting stand also `oracle`, `transitions`, `sasrec`,
  `start` (before fine-tuning) and `supervised` (as many steps on the same prompts, without any reward).
- `"revenue"`: the true expected revenue of every candidate. Here the reward disagrees with the likelihood, which is
  what the paper says of its own. VED's parts are taken out here, and with two gradient steps per batch GSPO can differ
  from GRPO (with one it cannot, see the tests of `reclib.objectives.vstar`).

Metrics of an arm: `test/…`, `truth/…` (`group_measures.measure`); `group/…`, means over all batches of training, and
the same as `curve/group/…` at x = fifth of the training; `kl`; `train/seconds`; `value/truth`, `value/realised`,
`likelihood/truth` at x = depth (`group_measures.value_quality`, the same for `start` in the settings `"value"` and
`"value, revenue"`). Settings `"reach"` and `"reach, revenue"`: what each search finds at the start of fine-tuning, x =
budget.

Data set `amazon2018-scientific`: the main arms with clicks, three seeds of codes, weights and prompts. It is the set
nearest to the paper's *Industrial*; filter and split differ. No pilot was run here: the recipe is chapter 04's, the
rest is that of the world. Data set `trie`: no network, random policies, targets under improbable first codes
(`search_tries`); setting `"budget"`, x = budget, and `"noise"`, x = noise on a perfect value (`ved, no widening` has
perfect values there too); arm `released` is the search as the released code has it. Data set `clock`: seconds of a
search for 256 prompts at the size of chapter 04's generator; record it on an idle machine.

**Choices.** The policy is the softmax over the codes that are allowed; ranking is chapter 04's beam search, over the
whole vocabulary. (Allowed codes have 98 to 99.8 % of the probability, before fine-tuning and after.) The value head has
seen 12,800 groups before fine-tuning begins, or 50 batches would hardly teach it anything; it then goes on learning
jointly with the policy, as in the paper. A target's path is added to what it learns from.

**How the recipe came about.** By pilots of 20 to 60 batches in a world of its own (seed 1000), on validation, with
`grpo, beam` and `grpo, sampling`. Clicks: of 1e-4, 3e-4 and 1e-3 the lowest did least harm, none did any good (expected
NDCG-like numbers within one percent of the start). Revenue: 3e-4 and 1e-3 gave much the same in ten places, 1e-3 more
in the first. Pictures went into the IDs, and users' own clicks out of the candidates, because a generator on text alone
found a target in ten places half as often, and because a third of a beam were ads that had been clicked before. VED and
V-STAR were seen in single pilots (revenue: cents in the first place, start 5.0, beam 8.0 after 30 batches, sampling 6.9
and VED 6.2 after 40 and 30, V-STAR 5.4), when the claims had not been written; those that these numbers bear on say so.
Values of 12,800 groups, too: VED found fewer targets with them than a beam (.16 against .28).

**Cost** in CPU seconds per seed on one core, from the pilots: generator 65; values 2 × 30 (and 25 for the item's);
batches .5 without a value and 1.1 with VED, so 25 and 55 per arm: 8 and 16 arms, 1,100; measuring 5 each, 150; searches
150; tries 9, clock 20, SASRec 15. Some 1,600, so five seeds take 67 minutes if two processes of one thread share them.
The real log, by chapter 04's times and the world's per token: generator 300, SASRec 60, values 40, six measurements of
8,317 users 180, five arms 250; some 850 a seed, three seeds 22 minutes of two processes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import save_file
from torch import Tensor

from reclib.evaluation import Recommender
from reclib.experiments.generative import GenerativeRecipe
from reclib.experiments.group_measures import distance, measure, reach, value_quality
from reclib.experiments.group_searches import SEARCHES
from reclib.experiments.group_tuning import Arm, Tuned, dapo, fine_tune, gspo, starting_point, supervise, value_start
from reclib.experiments.protocol import Recipe, count, train
from reclib.experiments.results import Run, checkpoint_path, record, results_root
from reclib.experiments.search_tries import DECODING, Clock, TrieStudy, search_as_released, search_trie, time_search
from reclib.experiments.tuning_lab import (
    REVENUE_UNIT,
    TINY,
    WORLD,
    Lab,
    Reward,
    Start,
    Study,
    click_reward,
    graded_reward,
    listed_reward,
    prepare,
    recommender,
    revenue_reward,
    save_start,
    whole_item_reward,
)
from reclib.objectives.vstar import DetachedValueHead
from reclib.tokenizers import RQKMeansConfig

NAME = "11_vstar"
TUNING_SEED = 1000  # of the pilots, and of nothing else
SCIENTIFIC, TRIE, CLOCK = "amazon2018-scientific", "trie", "clock"
CLICK, REVENUE = "", "revenue"  # settings: what is rewarded
TRIED = ("beam", "sampling", "stochastic beam", "ved, perfect value", "ved, random value", "ved, no widening")  # tries
SUPERVISED = "supervised"
REWARDS: dict[str, Reward] = {CLICK: click_reward, REVENUE: revenue_reward}  # what values learn before fine-tuning

# ------------------------------------------------------------------------------------------------------------ arms

_PLAIN: dict[str, Arm] = {
    "grpo, beam": Arm(SEARCHES["beam"], value=False),
    "grpo, sampling": Arm(SEARCHES["sampling"], value=False),
    "grpo, stochastic beam": Arm(SEARCHES["stochastic beam"], value=False),
    "sibling": Arm(SEARCHES["beam"], value=False, sibling=True),
    "ved": Arm(),
    "ved, random value": Arm(SEARCHES["ved, random value"]),
    "v-star": Arm(sibling=True),
}
_REVENUE: dict[str, Arm] = {
    **_PLAIN,
    "ved, no gate": Arm(SEARCHES["ved, no gate"]),
    "ved, no entropy": Arm(SEARCHES["ved, no entropy"]),
    "ved, detached": Arm(head=DetachedValueHead),
    "ved, two steps": Arm(epochs=2),
    "ved, two steps, gspo": Arm(epochs=2, policy_loss=gspo),
    "v-star, floor": Arm(sibling=True, floor=0.1 * REVENUE_UNIT),
}
ARMS: dict[str, dict[str, Arm]] = {
    CLICK: {
        **_PLAIN,
        "ved, dapo": Arm(policy_loss=dapo),
        "v-star, graded": Arm(sibling=True, reward=graded_reward),
        "v-star, ranking": Arm(sibling=True, reward=listed_reward),
        "v-star, item value": Arm(sibling=True, reward=whole_item_reward),
    },
    REVENUE: {name: replace(arm, reward=revenue_reward) for name, arm in _REVENUE.items()},
}
MAIN = ("grpo, beam", "sibling", "ved", "v-star")
BASELINES = ("transitions", "sasrec", "start")

# ---------------------------------------------------------------------------------------------------------- sizes

_WORLD, _TRIE, _CLOCK = Study(), TrieStudy(), Clock()
_REAL = Study(
    dataset=SCIENTIFIC,
    seeds=3,
    code=RQKMeansConfig(levels=2, codes=128),
    recipe=GenerativeRecipe(max_len=10, dim=128, layers=2, epochs=15, beam=50),  # chapter 04's, shorter histories
    sasrec=Recipe(max_len=50, dropout=0.4, batch_size=32, epochs=14, lr=2e-3),  # chapter 02's
)


@dataclass(frozen=True)
class Config:
    """The recorded run."""

    study: Study = _WORLD
    arms: tuple[tuple[str, tuple[str, ...]], ...] = tuple((setting, tuple(arms)) for setting, arms in ARMS.items())
    real: Study | None = _REAL
    real_arms: tuple[str, ...] = MAIN
    trie: TrieStudy = _TRIE
    clock: Clock = _CLOCK


SCALES: dict[str, Config] = {
    "smoke": Config(
        TINY,
        real=None,
        trie=TrieStudy(prompts=20, multipliers=(1, 2), noises=(0.0, 1.0)),
        clock=Clock(8, 100, 8, 16, 1, 5, 1),
    ),
    "book": Config(
        arms=((CLICK, ("grpo, beam", "v-star")), (REVENUE, ("grpo, beam", "grpo, sampling", "ved", "v-star"))),
        real=None,
    ),
    "full": Config(),
}


# ------------------------------------------------------------------------------------------------------ recording


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
        datasets: only these of `trie`, `clock`, `adworld` and `amazon2018-scientific`.
    """
    if unknown := set(datasets or ()) - {TRIE, CLOCK, WORLD, SCIENTIFIC}:
        raise ValueError(f"datasets: there is no {sorted(unknown)}; choose from trie, clock, {WORLD}, {SCIENTIFIC}")
    common: dict[str, Any] = {"force": force, "root": root}
    for place, seed in enumerate(seeds):
        if datasets is None or TRIE in datasets:
            _tries(config.trie, seed, common)
        if datasets is None or CLOCK in datasets:
            _timings(config.clock, seed, common)
        if datasets is None or WORLD in datasets:
            _log(config.study, config.arms, seed, common)
        if config.real and place < config.real.seeds and (datasets is None or SCIENTIFIC in datasets):
            _log(config.real, ((CLICK, config.real_arms),), seed, common)


def _tries(study: TrieStudy, seed: int, common: dict[str, Any]) -> None:
    about = {"trie": asdict(study), "decoding": asdict(DECODING)}
    key: dict[str, Any] = {"dataset": TRIE, "seed": seed, "config": about, **common}
    for arm in TRIED:
        with record(NAME, arm=arm, setting="budget", **key) as log:
            for times in () if log.finished else study.multipliers:
                for metric, value in search_trie(study, SEARCHES[arm], 17 * times, seed).items():
                    log.log(metric, value, x=17 * times)
    with record(NAME, arm="ved", setting="noise", **key) as log:
        for noise in () if log.finished else study.noises:
            for metric, value in search_trie(study, SEARCHES["ved"], 34, seed, noise=noise).items():
                log.log(metric, value, x=noise)
    with record(NAME, arm="released", setting="budget", **key) as log:
        for times in () if log.finished else study.multipliers:
            for metric, value in search_as_released(study, 17 * times, seed).items():
                log.log(metric, value, x=17 * times)


def _timings(clock: Clock, seed: int, common: dict[str, Any]) -> None:
    about = {"clock": asdict(clock), "decoding": asdict(DECODING)}
    for arm in ("beam", "sampling", "stochastic beam", "ved"):
        with record(NAME, arm=arm, dataset=CLOCK, setting="search", seed=seed, config=about, **common) as log:
            if not log.finished:
                log.log("seconds", time_search(clock, SEARCHES[arm], seed))


def _log(study: Study, settings: Sequence[tuple[str, Sequence[str]]], seed: int, common: dict[str, Any]) -> None:
    """Everything on one log: baselines, the control, and all arms; in the world the searches too."""
    about, in_world = asdict(study), study.dataset == WORLD
    key: dict[str, Any] = {"dataset": study.dataset, "seed": seed, **common}
    checkpoint = checkpoint_path(NAME, f"{study.dataset}-generator-{seed}", common["root"])
    lab = cache(lambda: prepare(study, seed, checkpoint=checkpoint, progress=False))
    values = cache(lambda reward: value_start(lab(), reward, study, seed))
    for name in (*BASELINES, "oracle") if in_world else BASELINES:
        with record(NAME, arm=name, config=about, **key) as log:
            if not log.finished:
                for metric, value in measure(lab(), _baseline(name, lab(), study, seed)).items():
                    log.log(metric, value)
    with record(NAME, arm=SUPERVISED, config=about, **key) as log:
        if not log.finished:
            _log_tuned(log, lab(), supervise(lab(), study, seed, progress=False), study, seed)
    for setting, names in settings:
        for name in names:
            arm = ARMS[setting][name]
            begin = whole_item_reward if arm.reward is whole_item_reward else REWARDS[setting]
            with record(NAME, arm=name, setting=setting, config=about | {"arm": arm.about()}, **key) as log:
                if log.finished:
                    continue
                start = values(begin) if arm.value else None
                tuned = fine_tune(lab(), arm, study, seed, start=start, progress=False)
                _log_tuned(log, lab(), tuned, study, seed)
                if arm.value and in_world:
                    quality = value_quality(lab(), tuned.model, study, seed, revenue=setting == REVENUE)
                    for metric, value, depth in quality:
                        log.log(metric, value, x=depth)
                if seed == 0 and setting == REVENUE and start is not None and name == "v-star":
                    _keep(lab(), start, common)
        if in_world and any(ARMS[setting][name].value for name in names):
            _searches(study, setting, seed, lab, partial(values, REWARDS[setting]), {**key, "config": about})
    checkpoint.unlink(missing_ok=True)


def _baseline(arm: str, lab: Lab, study: Study, seed: int) -> Recommender:
    if arm == "oracle":
        return lab.truth.oracle
    if arm == "transitions":
        return count("transitions", lab.split.train)
    if arm == "sasrec":
        return train("sasrec", lab.split, study.sasrec, seed, progress=False)[0]
    return recommender(lab, lab.policy, study)


def _log_tuned(log: Run, lab: Lab, tuned: Tuned, study: Study, seed: int) -> None:
    for metric, value in measure(lab, recommender(lab, tuned.model.policy, study)).items():
        log.log(metric, value)
    log.log("kl", distance(lab, tuned.model, study, seed))
    log.log("train/seconds", tuned.seconds)
    for metric, curve in tuned.curves.items():
        log.log(metric, float(np.mean(curve)))
        for number, part in enumerate(np.array_split(np.array(curve), min(5, len(curve)))):
            log.log(f"curve/{metric}", float(part.mean()), x=number + 1)


def _searches(
    study: Study,
    setting: str,
    seed: int,
    lab: Callable[[], Lab],
    values: Callable[[], dict[str, Tensor]],
    key: dict[str, Any],
) -> None:
    """What every search finds before any fine-tuning, and what the values are worth there."""
    revenue = setting == REVENUE
    model = cache(lambda: starting_point(lab(), values(), study))
    with record(NAME, arm="start", setting=name_of("value", setting), **key) as log:
        if not log.finished:
            for metric, value, depth in value_quality(lab(), model(), study, seed, revenue=revenue):
                log.log(metric, value, x=depth)
    for search in SEARCHES:
        with record(NAME, arm=search, setting=name_of("reach", setting), **key) as log:
            for budget in () if log.finished else study.budgets:
                for metric, value in reach(lab(), model(), study, budget, search, seed, revenue=revenue).items():
                    log.log(metric, value, x=budget)


def name_of(what: str, setting: str) -> str:
    """The setting of a study inside another."""
    return f"{what}, {setting}" if setting else what


# ---------------------------------------------------------------------------------------------------- kept weights

KEPT = ("generator", "values")  # weights of seed 0 that the chapter starts from; values of revenue


def kept_weights(name: str, root: Path | str | None = None) -> Path:
    """File with weights of seed 0 in the world, written with the record; `name` is one of `KEPT`."""
    folder = Path(root) if root is not None else results_root()
    return folder.parent / "checkpoints" / f"{NAME}-{name}.safetensors"


def _keep(lab: Lab, values: dict[str, Tensor], common: dict[str, Any]) -> None:
    generator, head = (kept_weights(name, common["root"]) for name in KEPT)
    save_start(Start(lab.ids, lab.policy), generator)
    save_file(values, head)
