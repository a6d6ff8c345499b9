"""Chapter 07: Rec2PM beside full attention, truncation and other memories, in long ad-world lives and MovieLens-1M.

Arms that are trained: `transitions` (counting), `full` (SASRec over the last `window` items), `truncation` (SASRec
over the last L + C items), `pooled`, `kv` (PerSRec, append), `serial` (the same network as Rec2PM, trained through
time), `rec2pm` (as the paper writes it), `rec2pm, no L_con`, `rec2pm, detached` (stop-gradient on the reference),
`hstu` and `rec2pm, hstu` (HSTU's blocks; on MovieLens only). Served from the weights of another arm: `X, one-time`
(each memory made in one go, which is what training sees), `rec2pm, append`, `rec2pm, overlap` (the working memory is
always the last L items, whether they are in the memory too or not).

Per data set, arm and seed:

- setting `""`: `test/METRIC`, and in the world `genuine/METRIC` (targets that are no accidents) and `returned/METRIC`
  (targets from an interest that has just woken up: what only a long memory can know); `drift` at x = h, ‖m_h^ref -
  m_h‖² of free-running memories after segment h, over the variance of m_h^ref between users; `probe/noise` and
  `probe/signal` at x = age in segments, and `attribution/noise_over_signal` (`reclib.experiments.memory_content`);
- `"history"`: x = items that the model may look at, the last of each life (`full`, `rec2pm`);
- `"slots"`: x = C (`rec2pm`; x = 4 is in setting "");
- `"noise"`: x = share of accidents (`full`, `truncation`, `rec2pm`; x = .15 is in setting "");
- `"needle"` (data set `needles`): `test/recall@1` where only the first segment decides the answer, for every arm and
  for `rec2pm, learnt start` (C learnt tokens stand before segment 0);
- `"step"` (data set `clock`): seconds of one training step at x segments, `serial` and `rec2pm`;
- `"serving"` (data set `clock`): x = length of the history. `seconds` until the user's state is known at a request,
  for a memory with half a segment of working memory and a share 1/L of the next compression; `seconds/worst` with a
  full working memory; `compress/seconds`, one update; `build/seconds`, reading the whole history from its start;
  `bytes` kept per user. `full, cached` keeps keys and values of all items and computes only the new one. Untrained
  weights: they do not change the time. Record it on a machine that does nothing else;
- `"step, gpu"` and `"serving, gpu"`: the same on a CUDA device.

**Protocol.** A life ends in a tail of events that no training sees. One event of the tail's first fifth is the user's
validation target, `per_user` events of the rest are test targets, and so is every event of the tail that `returned`;
their histories are whole lives up to there, tail included. (Leave-one-out would leave 240 targets per world.) Full
ranking, history masked. One recipe for all arms of a data set: learning rate, dropout (of SASRec and HSTU in the blocks
too), as many targets and steps in an epoch, an end after four epochs without a better validation, but twice the epochs
for full attention. `full` sees the last 1,000 items of lives that have some 1,200; memories read all of them.

**How the recipe came about.** By pilots of a few epochs in a world of its own (seed 1000), on validation. One window a
batch learns more per epoch than two (truncation: NDCG@10 .058 after four epochs against .059 after eight). After four
epochs full attention was behind truncation (.041; training loss 7.26 against 6.97), Rec2PM was not (.048; 6.97), and a
lower learning rate made it worse. A full baseline that is not trained to the end would flatter every memory, so it has
twice the epochs. (When world 0 was recorded, it did not need them: its validation was best after the third and fell to
three quarters of that by the tenth. The rule of four epochs came then.) The pilot of Rec2PM also printed its drift (.5
after two segments, 1.4 after 15) and probes (accidents .53, .50; genuine clicks .88, .58, one and four segments back),
when the claims had been written. In this world nearly every genuine target (97 %) belongs to a topic of the last 54
events, so a memory can win little but in `returned`.

**Cost** in CPU seconds per epoch of 264,000 targets on one core, from the pilots and, in brackets, from single steps:
full 13, truncation 9, rec2pm 19 (pooled 13, serial 14, kv 17); look_inside 14; HSTU (30) on either side. With seven
epochs that makes some 1,900 CPU seconds per seed in the world, 1,000 on MovieLens-1M, 100 for needles and clock: 1 h 50
min for five and three seeds on two cores, if two processes of one thread each share the seeds. Hence the sizes: the
preset `lifelong` with 240 users and 4,000 ads in 32 topics (as many per topic as in the preset), MovieLens-1M with
users of 500 events and more.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from reclib.backbones import HSTU, HSTUConfig, NextItemLoss, SASRec, SASRecConfig, SequenceModel
from reclib.backbones.sequence_model import last_position, recent
from reclib.data import Split, load_dataset
from reclib.data.interactions import Cases, Interactions
from reclib.evaluation import Recommender, evaluate, ndcg_at_k, recall_at_k
from reclib.experiments.memory_content import attribution, probe, states
from reclib.experiments.needles import AnswerBatches, needles, questions
from reclib.experiments.protocol import COUNTING, Recipe, count, fit_by_validation
from reclib.experiments.results import checkpoint_path, record
from reclib.memory import (
    AppendRec2PM,
    KVMemory,
    OneTimeRec2PM,
    PooledMemory,
    Rec2PM,
    Rec2PMLoss,
    SegmentConfig,
    TokenMemory,
)
from reclib.memory.rec2pm import kv_bytes, token_bytes
from reclib.training import FitConfig, FitResult, SequenceBatch, SequenceBatches, fit
from reclib.world import AdWorld, AdWorldConfig
from reclib.world.behaviour import RETURNED

NAME = "07_rec2pm"
LOSSES = {
    "rec2pm": Rec2PMLoss(),
    "rec2pm, hstu": Rec2PMLoss(),
    "rec2pm, no L_con": Rec2PMLoss(lam=0.0),
    "rec2pm, detached": Rec2PMLoss(detach=True),
    "rec2pm, learnt start": Rec2PMLoss(),
}
KS = (1, 10, 50)  # the paper's cut-offs
NEEDLE_SIZES = SegmentConfig(dim=16, segment=8, slots=2)
CLOCK_SIZES = SegmentConfig(dim=64, layers=4, heads=4, segment=200, slots=4)


@dataclass(frozen=True)
class Study:
    """What is run on one data set."""

    dataset: str
    arms: tuple[str, ...]
    recipe: Recipe  # max_len: the window; batch_size: windows of a batch
    segment: int = 50  # L
    slots: int = 4  # C
    tail: int = 100  # last events of a life that no training sees
    per_user: int = 3  # test targets in the tail
    min_events: int = 0  # users with fewer are left out
    full_epochs: int = 14  # of full attention, which learns slower over a thousand items (see the top of this file)
    seeds: int = 5
    world: str = "lifelong"
    dials: tuple[tuple[str, float], ...] = ()  # of the world, where they differ from the preset
    history: tuple[int, ...] = ()  # items that a model may look at
    sweep: tuple[int, ...] = ()  # other C
    noise: tuple[float, ...] = ()  # other shares of accidents
    ages: tuple[int, ...] = (1, 4, 12)  # of the events that a memory is probed for, in segments


@dataclass(frozen=True)
class Needles:
    """The plainest task, and how long everybody may learn it."""

    arms: tuple[str, ...] = (
        "full", "truncation", "pooled", "kv", "serial",
        "rec2pm", "rec2pm, no L_con", "rec2pm, detached", "rec2pm, learnt start",
    )  # fmt: skip
    users: int = 800
    length: int = 8
    segments: int = 3
    sizes: SegmentConfig = NEEDLE_SIZES
    epochs: int = 30
    lr: float = 3e-3


@dataclass(frozen=True)
class Clock:
    """Sizes of the timings: the paper's with SASRec inside."""

    sizes: SegmentConfig = CLOCK_SIZES
    lengths: tuple[int, ...] = (200, 500, 1000, 2000, 5000, 10_000)
    segments: tuple[int, ...] = (5, 20)  # of a training step
    repeats: int = 5


@dataclass(frozen=True)
class Config:
    """The recorded run."""

    studies: tuple[Study, ...] = (
        Study(
            "adworld",
            (
                "transitions",
                "full",
                "truncation",
                "pooled",
                "kv",
                "serial",
                "rec2pm",
                "rec2pm, no L_con",
                "rec2pm, detached",
            ),
            Recipe(max_len=1000, dim=32, dropout=0.1, batch_size=1, epochs=7, patience=4, valid_users=120),
            dials=(("n_users", 240), ("n_items", 4000), ("sectors_per_industry", 2), ("topics_per_sector", 2)),
            history=(50, 100, 200, 500, 1000),
            sweep=(1, 16),
            noise=(0.45,),
        ),
        Study(
            "movielens-1m",
            ("transitions", "full", "truncation", "serial", "rec2pm", "hstu", "rec2pm, hstu"),
            Recipe(max_len=1000, dim=32, dropout=0.1, batch_size=1, epochs=7, patience=4, valid_users=120),
            tail=50,
            min_events=500,
            seeds=3,
            history=(50, 100, 200, 500, 1000),
        ),
    )
    needles: Needles | None = Needles()
    clock: Clock | None = Clock()


SCALES: dict[str, Config] = {
    "smoke": Config(
        studies=(
            replace(
                Config().studies[0],
                recipe=Recipe(max_len=12, dim=8, layers=2, dropout=0.1, batch_size=32, epochs=1, valid_users=50),
                segment=4,
                slots=2,
                tail=4,
                per_user=1,
                full_epochs=2,
                world="tiny",
                dials=(("min_events", 18),),
                history=(4, 12),
                sweep=(1,),
                ages=(1, 2),
            ),
        ),
        needles=replace(Needles(), users=50, epochs=1),
        clock=Clock(SegmentConfig(dim=8, segment=20), (20, 40), (2, 3), repeats=1),
    ),
    "book": Config(
        studies=(
            replace(Config().studies[0], arms=("transitions", "full", "truncation", "rec2pm"), sweep=(), noise=()),
        )
    ),
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
        datasets: only these of `adworld`, `movielens-1m`, `needles` and `clock`. `clock, gpu`, the timings on a CUDA
            device, is recorded only if it is named here.
    """
    if datasets is not None and "clock, gpu" in datasets and not torch.cuda.is_available():
        raise ValueError("datasets: 'clock, gpu' needs a CUDA device, and there is none; leave it out")
    common: dict[str, Any] = {"force": force, "root": root}
    for seed in seeds:
        if config.needles and (datasets is None or "needles" in datasets):
            for arm in config.needles.arms:
                _needle(config.needles, arm, seed, common)
        if config.clock and (datasets is None or "clock" in datasets):
            _serving(config.clock, seed, "cpu", common)
            _steps(config.clock, seed, "cpu", common)
        if config.clock and datasets is not None and "clock, gpu" in datasets:
            _serving(config.clock, seed, "cuda", common)
            _steps(config.clock, seed, "cuda", common)
    for study in config.studies:
        if datasets is not None and study.dataset not in datasets:
            continue
        for seed in seeds[: study.seeds]:
            data = cache(lambda study=study, seed=seed: load_lives(study, seed))
            for arm in study.arms:
                _arm(study, arm, seed, data, common)
            for slots in study.sweep:
                _slots(study, slots, seed, data, common)
            for noise in study.noise:
                _noise(study, noise, seed, common)


# ------------------------------------------------------------------------------------------------------------- lives


class Lives(NamedTuple):
    """The data of a study: lives whose tails are held out."""

    split: Split
    returned: Cases | None  # world: targets from an interest that has just woken up
    log: Interactions


def load_lives(study: Study, seed: int, **dials: float) -> Lives:
    """The log of a study, split; in the world each seed is a world of its own."""
    if study.dataset == "adworld":
        log = AdWorld(AdWorldConfig.preset(study.world, seed=seed, **{**dict(study.dials), **dials})).simulate()
    else:
        log = load_dataset(study.dataset)
        log = log.select((log.lengths >= study.min_events)[log.user])
    return split_tails(log, study.tail, study.per_user)


def split_tails(log: Interactions, tail: int, per_user: int) -> Lives:
    """Hold out the last `tail` events of everybody. The targets are drawn once, by a seed of their own."""
    if tail - tail // 5 < per_user or log.lengths.min() <= tail:
        raise ValueError(
            f"tail: {tail} events of lives of {log.lengths.min()} and more cannot hold {per_user} test targets and "
            "leave something to learn from; give another tail or leave short lives out"
        )
    rng = np.random.default_rng(0)
    first, last = log.offsets[:-1], log.offsets[1:]
    cut = last - tail
    valid = cut + rng.integers(max(tail // 5, 1), size=len(first))
    later = tail - max(tail // 5, 1)
    test = last[:, None] - later + rng.permuted(np.tile(np.arange(later), (len(first), 1)), axis=1)[:, :per_user]
    returned = None
    if "source" in log.extra:
        in_tail = np.arange(len(log)) >= (last - later)[log.user]
        target = np.flatnonzero(in_tail & (log.extra["source"] == RETURNED))
        returned = Cases(log, start=first[log.user[target]], target=target) if len(target) else None
    split = Split(
        train=log.select(np.arange(len(log)) < cut[log.user]),
        valid=Cases(log, start=first, target=valid),
        test=Cases(log, start=np.repeat(first, per_user), target=test.reshape(-1)),
    )
    return Lives(split, returned, log)


# -------------------------------------------------------------------------------------------------------------- arms


def build(arm: str, n_items: int, study: Study) -> SequenceModel:
    """An untrained model; weights are drawn from torch's global generator."""
    r = study.recipe
    length = study.segment + study.slots if arm == "truncation" else r.max_len
    if arm == "hstu":
        return HSTU(n_items, HSTUConfig(r.dim, r.layers, r.heads, r.dropout, length))
    if arm in ("full", "truncation"):
        return SASRec(n_items, SASRecConfig(r.dim, r.layers, r.heads, r.dropout, length))
    sizes = SegmentConfig(r.dim, r.layers, r.heads, r.dropout, study.segment, study.slots)
    return memory_model(arm, n_items, sizes)


def memory_model(arm: str, n_items: int, sizes: SegmentConfig) -> SequenceModel:
    """An untrained segment memory."""
    if arm == "rec2pm, hstu":
        sizes = replace(sizes, body="hstu")
    if arm == "rec2pm, learnt start":
        sizes = replace(sizes, start="learnt")
    if arm == "pooled":
        return PooledMemory(n_items, sizes)
    if arm == "kv":
        return KVMemory(n_items, sizes)
    if arm == "serial":
        return TokenMemory(n_items, sizes)
    if arm in LOSSES:
        return Rec2PM(n_items, sizes)
    raise ValueError(f"arm: there is no {arm!r}; choose from pooled, kv, serial, {', '.join(LOSSES)}")


def train(
    arm: str, study: Study, split: Split, seed: int, checkpoint: Path | None = None, *, progress: bool = True
) -> tuple[SequenceModel, FitResult]:
    """Train an arm; every arm sees as many targets and makes as many steps in an epoch."""
    r = replace(study.recipe, epochs=study.full_epochs) if arm in ("full", "hstu") else study.recipe
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build(arm, split.train.n_items, study)
    batches = SequenceBatches(split.train, max_len=r.max_len, batch_size=r.batch_size, seed=seed)
    if arm == "truncation":
        short = partial(SequenceBatches, split.train, max_len=study.segment + study.slots, seed=seed)
        batches = short(batch_size=round(short(batch_size=1).steps(0) / batches.steps(0)))
    loss = LOSSES.get(arm, NextItemLoss())
    result = fit_by_validation(model, batches, loss, split, r, seed, checkpoint=checkpoint, progress=progress)
    return model.cpu(), result  # wherever `fit` has moved it


class Recent:
    """A model that may look at the last `items` events of a history only."""

    def __init__(self, model: SequenceModel, items: int) -> None:
        self.model, self.items = model, items

    def score(
        self, history: Int[Tensor, "batch time"], time: Float[Tensor, "batch time+1"] | None = None
    ) -> Float[Tensor, "batch items"]:
        """Score of every item as the next one."""
        return self.model.score(*recent(history, time, self.items))


class Overlap:
    """Rec2PM whose working memory is always the last L items, also those that are compressed already."""

    def __init__(self, model: Rec2PM) -> None:
        self.model = model

    def score(
        self, history: Int[Tensor, "batch time"], time: Float[Tensor, "batch time+1"] | None = None
    ) -> Float[Tensor, "batch items"]:
        """Score of every item as the next one; rows with as many complete segments go together."""
        length = self.model.config.segment
        complete = (last_position(history) + 1) // length
        working, _ = recent(history, None, length)
        found = torch.empty(len(history), self.model.n_items + 1)
        for n in torch.unique(complete).tolist():
            rows = complete == n
            memory = self.model.memories(history[rows, : n * length])[-1] if n else self.model.empty(int(rows.sum()))
            found[rows] = self.model.rank(memory, working[rows])
        return found


def shared(study: Study) -> dict[str, Any]:
    """The part of a study that every arm's numbers depend on."""
    keys = ("recipe", "segment", "slots", "tail", "per_user", "min_events", "full_epochs", "ages")
    about = {key: value for key, value in asdict(study).items() if key in keys}
    return about | ({"world": study.world, "dials": dict(study.dials)} if study.dataset == "adworld" else {})


def _arm(study: Study, arm: str, seed: int, data: Callable[[], Lives], common: dict[str, Any]) -> None:
    checkpoint = checkpoint_path(NAME, f"{study.dataset}-{arm}-{seed}", common["root"])
    key: dict[str, Any] = {"dataset": study.dataset, "seed": seed, **common}
    about = shared(study)
    lengths = study.history if arm in ("full", "rec2pm") else ()
    ways = _ways(arm)
    trained = cache(lambda: train(arm, study, data().split, seed, checkpoint))
    with record(NAME, arm=arm, config=about, **key) as log:
        if not log.finished:
            if arm in COUNTING:
                model: Recommender = count(arm, data().split.train)
            else:
                model, result = trained()
                for epoch, entry in enumerate(result.log):
                    log.log("valid/curve", entry["valid"], x=epoch + 1)
                for metric, value, x in look_inside(model, study, data(), seed):
                    log.log(metric, value, x)
            for metric, value in measure(model, data()).items():
                log.log(metric, value)
    for name, serve in ways.items():
        with record(NAME, arm=name, config=about | {"weights": arm}, **key) as log:
            if not log.finished:
                for metric, value in measure(serve(trained()[0]), data()).items():
                    log.log(metric, value)
    for items in lengths:
        with record(NAME, arm=arm, setting="history", x=items, config=about, **key) as log:
            if not log.finished:
                for metric, value in measure(Recent(trained()[0], items), data()).items():
                    log.log(metric, value)
    checkpoint.unlink(missing_ok=True)  # recorded; and if the arm is ever run again, it has to start afresh


def _ways(arm: str) -> dict[str, Callable[[Any], Recommender]]:
    """Other ways of serving the weights of an arm."""
    ways: dict[str, Callable[[Any], Recommender]] = {}
    if arm in LOSSES:
        ways[f"{arm}, one-time"] = lambda model: _served(OneTimeRec2PM, model)
    if arm == "rec2pm":
        ways["rec2pm, append"] = lambda model: _served(AppendRec2PM, model)
        ways["rec2pm, overlap"] = Overlap
    return ways


def _served(kind: type[Rec2PM], model: Rec2PM) -> Rec2PM:
    other = kind(model.n_items, model.config)
    other.load_state_dict(model.state_dict())
    return other


def _slots(study: Study, slots: int, seed: int, data: Callable[[], Lives], common: dict[str, Any]) -> None:
    changed = replace(study, slots=slots)
    key: dict[str, Any] = {"arm": "rec2pm", "dataset": study.dataset, "seed": seed, "setting": "slots", "x": slots}
    with record(NAME, **key, config=shared(changed), **common) as log:
        if not log.finished:
            model, _ = train("rec2pm", changed, data().split, seed)
            for metric, value in measure(model, data()).items():
                log.log(metric, value)


def _noise(study: Study, noise: float, seed: int, common: dict[str, Any]) -> None:
    data = cache(lambda: load_lives(study, seed, noise_rate=noise))
    for arm in ("full", "truncation", "rec2pm"):
        key: dict[str, Any] = {"arm": arm, "dataset": study.dataset, "seed": seed, "setting": "noise", "x": noise}
        with record(NAME, **key, config=shared(study), **common) as log:
            if not log.finished:
                model, _ = train(arm, study, data().split, seed)
                for metric, value in measure(model, data()).items():
                    log.log(metric, value)


# ------------------------------------------------------------------------------------------------------ measurements


def measure(model: Recommender, data: Lives) -> dict[str, float]:
    """Test metrics; the cut-offs are the paper's."""
    test = data.split.test
    ks = tuple(k for k in KS if k < test.n_items)
    ranks = evaluate(model, test, ks=ks, batch_size=64).ranks
    found = _metrics("test", ranks)
    if data.returned is not None:
        genuine = torch.from_numpy(~data.log.extra["noise"][test.target])
        found |= _metrics("genuine", ranks[genuine])
        found |= _metrics("returned", evaluate(model, data.returned, ks=ks, batch_size=64).ranks)
    return found


def _metrics(name: str, ranks: Int[Tensor, "cases"]) -> dict[str, float]:
    found = {f"{name}/recall@{k}": float(recall_at_k(ranks, k).mean()) for k in KS}
    return found | {f"{name}/ndcg@{k}": float(ndcg_at_k(ranks, k).mean()) for k in KS[1:]}


def look_inside(model: SequenceModel, study: Study, data: Lives, seed: int) -> list[tuple[str, float, float | None]]:
    """Drift, probes and attribution, as (metric, value, x); whatever can be asked of this model and this log."""
    train = data.split.train
    segments = int(min(train.lengths.min() - 1, study.recipe.max_len)) // study.segment
    width = segments * study.segment
    rows = torch.from_numpy(train.offsets[:-1, None] + np.arange(width))
    item = torch.from_numpy(train.item)
    history = item[rows]
    found: list[tuple[str, float, float | None]] = []
    if isinstance(model, Rec2PM):
        found += [("drift", value, h + 1) for h, value in enumerate(drift(model, history))]
    if "noise" not in train.extra or model.max_len < width:
        return found
    noise = torch.from_numpy(train.extra["noise"])
    if not isinstance(model, KVMemory):  # its memory grows, and a probe of all of it would need more users
        state, items = states(model, history, study.segment), model.items.weight.detach()
        for age in study.ages:
            for name, kind in (("noise", noise[rows]), ("signal", ~noise[rows])):
                auc = probe(state, items, history, kind, age=age, segment=study.segment, seed=seed)
                found.append((f"probe/{name}", auc, age))
    after = torch.from_numpy(train.offsets[:-1] + width)  # the event after the history
    asked = ~noise[after]
    weight = torch.cat(
        [
            attribution(model, h, t)[:, : -study.segment]  # the archive
            for h, t in zip(torch.split(history[asked], 32), torch.split(item[after[asked]], 32), strict=True)
        ]
    )
    of_noise = noise[rows][asked][:, : -study.segment]
    ratio = float(weight[of_noise].mean() / weight[~of_noise].mean())
    return [*found, ("attribution/noise_over_signal", ratio, None)]


@torch.no_grad()
def drift(model: Rec2PM, history: Int[Tensor, "users time"]) -> list[float]:
    """‖m_h^ref - m_h‖² of free-running memories after each segment, over the variance of m_h^ref between users."""
    model.eval()
    sums: list[Tensor] = []
    references = torch.cat([model.references(model.segments(part)) for part in torch.split(history, 16)])
    for free, reference in zip(model.memories(history), references.unbind(1), strict=True):
        gap = (free - reference).square().mean()
        sums.append(gap / (reference - reference.mean(0)).square().mean())
    return [float(value) for value in sums]


# ------------------------------------------------------------------------------------------------- needles and clock


def _needle(task: Needles, arm: str, seed: int, common: dict[str, Any]) -> None:
    about = {key: value for key, value in asdict(task).items() if key != "arms"}
    ways = {arm: lambda model: model, **_ways(arm)}
    ways.pop("rec2pm, overlap", None)  # its answer stands behind a full segment anyway
    trained = cache(lambda: train_on_needles(task, arm, seed))
    for name, serve in ways.items():
        with record(NAME, arm=name, dataset="needles", setting="needle", seed=seed, config=about, **common) as log:
            if not log.finished:
                test = questions(needles(task.users, 1000 + seed, task.length, task.segments))
                found = evaluate(serve(trained()), test, ks=(1,), mask_history=False).metrics()
                log.log("test/recall@1", found["recall@1"])


def train_on_needles(task: Needles, arm: str, seed: int) -> SequenceModel:
    """Train an arm on the answers of lives of which only the beginning counts."""
    log = needles(task.users, seed, task.length, task.segments)
    whole, sizes = task.length * task.segments, task.sizes
    width = sizes.segment + sizes.slots if arm == "truncation" else whole
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if arm in ("full", "truncation"):
            shape = SASRecConfig(sizes.dim, sizes.layers, sizes.heads, dropout=0.0, max_len=width)
            model: SequenceModel = SASRec(log.n_items, shape)
        else:
            model = memory_model(arm, log.n_items, sizes)
    if arm == "truncation":  # lives without their beginnings
        log = log.select(np.arange(len(log)) % (whole + 1) >= whole - width)
    batches = AnswerBatches(log, max_len=width, batch_size=32, seed=seed)
    fit(model, batches, LOSSES.get(arm, NextItemLoss()), FitConfig(task.epochs, task.lr, seed=seed), progress=False)
    return model


def _about(clock: Clock, sizes: SegmentConfig, device: str) -> dict[str, Any]:
    about = {"sizes": asdict(sizes), "repeats": clock.repeats}
    return about if device == "cpu" else about | {"device": torch.cuda.get_device_name()}


def _seconds(call: Callable[[], object], repeats: int, device: str) -> float:
    """Median wall time; the first call is not counted."""
    # A GPU is still at work when a call returns.
    wait: Callable[[], Any] = torch.cuda.synchronize if device == "cuda" else lambda: None
    call()
    found = []
    for _ in range(repeats):
        wait()
        start = time.perf_counter()
        call()
        wait()
        found.append(time.perf_counter() - start)
    return median(found)


def _serving(clock: Clock, seed: int, device: str, common: dict[str, Any]) -> None:
    sizes, catalogue = clock.sizes, 1000  # what is timed ends at the user's state, so the catalogue does not matter
    generator, setting = torch.Generator().manual_seed(seed), "serving" if device == "cpu" else "serving, gpu"
    about = _about(clock, sizes, device)
    for length in clock.lengths:
        history = torch.randint(1, catalogue + 1, (1, length), generator=generator).to(device)
        key: dict[str, Any] = {"dataset": "clock", "setting": setting, "x": length, "seed": seed, **common}
        with record(NAME, arm="full", config=about, **key) as log:
            if not log.finished:
                model = _plain(sizes, catalogue, length, seed).to(device)
                with torch.no_grad():
                    log.log("seconds", _seconds(partial(model.encode, history), clock.repeats, device))
                log.log("bytes", 8 * length)  # the item ids
        with record(NAME, arm="full, cached", config=about, **key) as log:
            if not log.finished:
                model = _plain(sizes, catalogue, length, seed).to(device)
                cached = torch.randn(sizes.layers, 2, 1, sizes.heads, length - 1, sizes.dim // sizes.heads).to(device)
                with torch.no_grad():
                    call = partial(one_more, model, cached, history[:, -1:])
                    log.log("seconds", _seconds(call, clock.repeats, device))
                log.log("bytes", kv_bytes(sizes.layers, length, sizes.dim))
        for arm in ("rec2pm", "rec2pm, append", "kv"):
            with record(NAME, arm=arm, config=about, **key) as log:
                if not log.finished:
                    found = _serve_memory(arm, sizes, catalogue, history, clock.repeats, seed)
                    for metric, value in found.items():
                        log.log(metric, value)


def _plain(sizes: SegmentConfig, n_items: int, length: int, seed: int) -> SASRec:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return SASRec(n_items, SASRecConfig(sizes.dim, sizes.layers, sizes.heads, max_len=length)).eval()


def one_more(
    model: SASRec, cached: Float[Tensor, "layers two batch heads past width"], item: Int[Tensor, "batch 1"]
) -> Float[Tensor, "batch 1 dim"]:
    """The hidden state after one more item, when keys and values of those before are kept."""
    past = cached.shape[4]
    x = model.embed(item) + model.positions.weight[past : past + 1]
    seen = torch.ones(1, past + 1, dtype=torch.bool, device=item.device)
    for block, (keys, values) in zip(model.blocks, cached, strict=True):
        q, k, v = block.project(x)  # type: ignore[operator]
        x = block.mix(x, q, torch.cat([keys, k], dim=2), torch.cat([values, v], dim=2), seen)  # type: ignore[operator]
    hidden: Tensor = model.norm(x)
    return hidden


@torch.no_grad()
def _serve_memory(
    arm: str, sizes: SegmentConfig, n_items: int, history: Int[Tensor, "1 time"], repeats: int, seed: int
) -> dict[str, float]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        kinds = {"rec2pm": Rec2PM, "rec2pm, append": AppendRec2PM, "kv": KVMemory}
        model = kinds[arm](n_items, sizes).to(history.device).eval()
    length, device = sizes.segment, history.device.type
    memories = model.memories(history)
    # What is there when the last item arrives: at least one item is never compressed.
    memory = [model.empty(1), *memories][(history.shape[1] - 1) // length]

    def state(items: int) -> float:
        return _seconds(lambda: model.read(memory, model.vectors(history[:, -items:])), repeats, device)

    compress = _seconds(lambda: model.update(memory, history[:, -length:]), repeats, device)
    tokens = memory.shape[-2]
    per_token = kv_bytes(sizes.layers, 1, sizes.dim) if arm == "kv" else token_bytes(1, sizes.dim)
    return {
        "seconds": state(length // 2) + compress / length,
        "seconds/worst": state(length) + compress / length,
        "compress/seconds": compress,
        "build/seconds": _seconds(lambda: model.memories(history), max(1, repeats // 2), device),
        "bytes": max(tokens, sizes.slots) * per_token,
    }


def _steps(clock: Clock, seed: int, device: str, common: dict[str, Any]) -> None:
    """Time of forward and backward pass of one batch of two lives, without the catalogue's softmax."""
    sizes = replace(clock.sizes, layers=2, heads=1)
    generator, setting = torch.Generator().manual_seed(seed), "step" if device == "cpu" else "step, gpu"
    about = _about(clock, sizes, device)
    for segments in clock.segments:
        ids = torch.randint(1, 101, (2, segments * sizes.segment + 1), generator=generator).to(device)
        batch = SequenceBatch(ids[:, :-1], ids[:, 1:], None, None)
        for arm in ("serial", "rec2pm"):
            key: dict[str, Any] = {"arm": arm, "dataset": "clock", "setting": setting, "x": segments, "seed": seed}
            with record(NAME, **key, config=about, **common) as log:
                if log.finished:
                    continue
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(seed)
                    model: Any = memory_model(arm, 100, sizes).to(device)
                loss: Any = LOSSES.get(arm, NextItemLoss())

                def step(model: Any = model, loss: Any = loss, batch: SequenceBatch = batch) -> None:
                    loss(model, batch)[0].backward()

                log.log("seconds", _seconds(step, clock.repeats, device))
