"""Chapter 01: what counting reaches, on the ad world and on real logs, and how evaluation can mislead.

No gradient anywhere. In the world a seed is a world; on a real log it is the order that breaks ties, and the draw of
the sampled negatives. Settings:

- `""`: leave-one-out, full ranking; also the statistics of each log (arm `data`) and, where there are time stamps,
  `test/future@10`, the share of lists with an item that nobody had touched before the test event.
- `"sampled negatives"`: the target among x uniformly drawn items.
- `"last pair ascends"`, `"last pair descends"`: the test users of Amazon Beauty whose test item has the larger, or the
  smaller, product code than their validation item.
- `"time split"`: one cut per year, training on what came before. `"time split, future left in"`: the same test cases,
  but training also holds what everybody else did later; `gain` is what that adds to NDCG@10, with the ends of its 95 %
  bootstrap interval over test cases.
- `"popularity sigma …"`: worlds with more or less equal exposure, x = share of accidental clicks.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from reclib.backbones import ItemTransitions
from reclib.data import Cases, Interactions, load_dataset
from reclib.evaluation import Evaluation, Recommender, evaluate, mrr, ndcg_at_k, recall_at_k
from reclib.experiments.log_statistics import ascends, drift, first_seen, gini, lorenz
from reclib.experiments.protocol import COUNTING, count
from reclib.experiments.results import record
from reclib.intervals import bootstrap_interval
from reclib.world import AdWorld, AdWorldConfig

NAME = "01_ad_world"
WORLD, BEAUTY, SMALL = "adworld", "amazon2014-beauty", "movielens-small"
SAMPLED = "sampled negatives"
PAST, LEAK = "time split", "time split, future left in"
LORENZ_AT = np.array([0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75])  # shares of the catalogue
LENGTH_AT = np.array([0.0, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 1.0])  # quantiles of events per user
LAGS = np.array([1, 2, 3, 5, 8, 12, 20, 30, 45])  # events


@dataclass(frozen=True)
class Config:
    """The recorded run."""

    world: str = "book"  # preset of the ad world
    real: tuple[str, ...] = (BEAUTY, "amazon2018-scientific", "movielens-1m", SMALL)  # names of reclib.data
    negatives: tuple[int, ...] = (10, 30, 100, 300, 1000)  # sampled beside the target
    noise: tuple[float, ...] = (0.0, 0.15, 0.3, 0.5)  # shares of accidental clicks
    sigma: tuple[float, ...] = (0.0, 0.7, 1.4)  # inequality of exposure


SCALES: dict[str, Config] = {
    "smoke": Config(world="tiny", real=(), negatives=(10, 100), noise=(0.0, 0.5), sigma=(0.7,)),
    "book": Config(real=(), noise=(), sigma=()),
    "full": Config(),
}


def run(config: Config, seeds: Sequence[int], *, force: bool = False, root: Path | str | None = None) -> None:
    """Record all that is not recorded yet."""
    common: dict[str, Any] = {"force": force, "root": root}
    for seed in seeds:
        _one_log(config, WORLD, lambda seed=seed: world(config, seed), seed, common)  # type: ignore[misc]
    for name in config.real:
        log = load_dataset(name)
        for seed in seeds:
            _one_log(config, name, lambda log=log: log, seed, common)  # type: ignore[misc]
        if name == SMALL:
            _time_splits(log, seeds, common)
    for seed in seeds:
        for sigma in config.sigma:
            for noise in config.noise:
                _dials(config, sigma, noise, seed, common)


def world(config: Config, seed: int, **changes: Any) -> AdWorld:
    """A world of its own per seed, so that a result does not hang on one of them."""
    return AdWorld(AdWorldConfig.preset(config.world, seed=seed, **changes))


# ------------------------------------------------------------------------------------------- the measurements


def sampled_ranks(
    ranks: Int[Tensor, "cases"], others: Int[np.ndarray, "cases"], x: int, rng: np.random.Generator
) -> Int[Tensor, "cases"]:
    """Ranks among the target and x items drawn without replacement, from the ranks among all.

    No item has to be drawn. Of the `others` items that compete, rank - 1 are better than the target; of x drawn ones,
    the number of better ones follows the hypergeometric law, and the sampled rank depends on nothing else (Krichene &
    Rendle, 2020, section 3).

    Args:
        ranks: in the full ranking, 1 = best.
        others: items that compete with each target: the catalogue without the target and what was masked.
        x: items drawn; more than there are means all.
    """
    better = ranks.numpy() - 1
    return torch.from_numpy(1 + rng.hypergeometric(better, others - better, np.minimum(x, others)))


def accuracy(ranks: Int[Tensor, "cases"], ks: Sequence[int] = (5, 10, 20)) -> dict[str, float]:
    """Means over cases, with the names of the results file."""
    out = {f"test/recall@{k}": float(recall_at_k(ranks, k).mean()) for k in ks}
    out |= {f"test/ndcg@{k}": float(ndcg_at_k(ranks, k).mean()) for k in ks}
    return {**out, "test/mrr": float(mrr(ranks).mean())}


def future_lists(top: Int[Tensor, "cases k"], cases: Cases) -> Float[np.ndarray, "cases"]:
    """1 where the list holds an item that nobody had touched before the moment of the request."""
    assert cases.source.time is not None
    first, now = first_seen(cases.source), cases.source.time[cases.target]
    first[0] = -np.inf  # an empty place is no item
    out: np.ndarray = (first[top.numpy()] >= now[:, None]).any(1).astype(float)
    return out


class KnowsTheOrder:
    """Counting that was told how the file is sorted: items with a larger product code weigh p, others 1 - p.

    p is the share of neighbouring pairs in training that ascend. Not a recommender: a measure of what the order of the
    file gives away.
    """

    def fit(self, log: Interactions) -> KnowsTheOrder:
        """Count, and note the order of the codes."""
        self.counting = ItemTransitions().fit(log)
        pairs = np.diff(log.user) == 0
        self.p = float(ascends(log)[1:][pairs].mean())
        self.place = torch.tensor([-1.0, *log.items["asin"].rank(method="dense")])
        return self

    def score(
        self, history: Int[Tensor, "batch time"], time: Float[Tensor, "batch time+1"] | None = None
    ) -> Float[Tensor, "batch items"]:
        """Counts times p or 1 - p; column 0 is -inf."""
        last = history.gather(1, (history > 0).sum(1, keepdim=True) - 1)
        larger = self.place > self.place[last]
        return self.counting.score(history) * torch.where(larger, self.p, 1 - self.p)


def by_year(log: Interactions) -> list[tuple[Interactions, Interactions, Cases]]:
    """One cut per year: training before it, training with everybody's future left in, and the test cases.

    A year's test cases are the first events in it of users who have a past but no later cut in between. Left in are all
    events but the test users' own from their test event on.
    """
    assert log.time is not None
    first, last = (dt.datetime.fromtimestamp(t, dt.UTC).year for t in (log.time.min(), log.time.max()))
    cuts = [dt.datetime(year, 1, 1, tzinfo=dt.UTC).timestamp() for year in range(first + 1, last + 1)]
    out = []
    for cut, end in zip(cuts, [*cuts[1:], log.time.max()], strict=True):
        split = log.temporal_split(cut, end)
        hidden = np.full(log.n_users, len(log))
        hidden[split.valid.user] = split.valid.target
        out.append((split.train, log.select(np.arange(len(log)) < hidden[log.user]), split.valid))
    return out


# ------------------------------------------------------------------------------------------------ the records


class _Test(NamedTuple):
    cases: Cases
    found: Evaluation


def _one_log(
    config: Config, name: str, source: Callable[[], AdWorld | Interactions], seed: int, common: dict[str, Any]
) -> None:
    """Everything that is measured on one log with one seed."""
    about: dict[str, Any] = {"world": asdict(AdWorldConfig.preset(config.world))} if name == WORLD else {}
    ads = cache(source)

    @cache
    def log() -> Interactions:
        here = ads()
        return here.simulate() if isinstance(here, AdWorld) else here

    @cache
    def test(arm: str) -> _Test:
        split = log().leave_one_out()
        here, model = ads(), None
        if arm == "oracle":
            assert isinstance(here, AdWorld)
            model = here.oracle
        return _Test(split.test, evaluate(model or _counting(arm, split.train), split.test, tie_seed=seed))

    with record(NAME, arm="data", dataset=name, seed=seed, config=about, **common) as run:
        if not run.finished:
            _statistics(run, log(), seed)
    arms = (*COUNTING, *{WORLD: ("oracle",), BEAUTY: ("transitions_order",)}.get(name, ()))
    for arm in arms:
        with record(NAME, arm=arm, dataset=name, seed=seed, config=about, **common) as run:
            if not run.finished:
                cases, found = test(arm)
                _log_all(run, {f"test/{metric}": value for metric, value in found.metrics().items()})
                if cases.source.time is not None:
                    run.log("test/future@10", future_lists(found.top[:, :10], cases).mean())
        for x in config.negatives:
            key: dict[str, Any] = {"arm": arm, "dataset": name, "seed": seed, "setting": SAMPLED, "x": x}
            with record(NAME, config=about, **key, **common) as run:
                if not run.finished:
                    cases, found = test(arm)
                    rng = np.random.default_rng([seed, x])
                    _log_all(run, accuracy(sampled_ranks(found.ranks, cases.n_items - 1 - cases.lengths, x, rng)))
        if name == BEAUTY:
            for setting, up in (("last pair ascends", True), ("last pair descends", False)):
                key = {"arm": arm, "dataset": name, "seed": seed, "setting": setting}
                with record(NAME, config=about, **key, **common) as run:
                    if not run.finished:
                        cases, found = test(arm)
                        rows = torch.from_numpy(ascends(log())[cases.target] == up)
                        _log_all(run, accuracy(found.ranks[rows]))
                        run.log("cases", rows.sum())


def _counting(arm: str, train: Interactions) -> Recommender:
    return KnowsTheOrder().fit(train) if arm == "transitions_order" else count(arm, train)


def _log_all(run: Any, values: dict[str, float]) -> None:
    for metric, value in values.items():
        run.log(metric, value)


def _statistics(run: Any, log: Interactions, seed: int) -> None:
    counts = np.bincount(log.item, minlength=log.n_items + 1)[1:]
    _log_all(run, {"users": log.n_users, "items": log.n_items, "events": len(log), "gini": gini(counts)})
    for share, taken in zip(LORENZ_AT, lorenz(counts, LORENZ_AT), strict=True):
        run.log("lorenz", taken, x=share)
    for quantile, length in zip(LENGTH_AT, np.quantile(log.lengths, LENGTH_AT), strict=True):
        run.log("length", length, x=quantile)
    for lag, value in zip(LAGS, drift(log, LAGS, np.random.default_rng(seed)), strict=True):
        if np.isfinite(value):
            run.log("drift", value, x=lag)
    if "asin" in log.items:
        up, follows = ascends(log), np.flatnonzero(np.diff(log.user) == 0) + 1
        run.log("pairs_ascend", up[follows].mean())
        run.log("last_pair_ascends", up[log.leave_one_out().test.target].mean())
    if log.time is not None:
        split = log.leave_one_out()
        assert split.train.time is not None
        now, trained = log.time[split.test.target], np.sort(split.train.time)
        run.log("train_after_test", 1 - (np.searchsorted(trained, now, side="right") / len(trained)).mean())
        cut = np.quantile(log.time, 0.8)
        late = log.item[log.time >= cut]
        run.log("events_on_new_items", (first_seen(log)[late] >= cut).mean())


def _time_splits(log: Interactions, seeds: Sequence[int], common: dict[str, Any]) -> None:
    """The global time split, all seeds at once: they differ only in how ties are broken."""
    years = cache(lambda: by_year(log))

    @cache
    def ranked(arm: str, setting: str) -> dict[int, tuple[Tensor, np.ndarray]]:
        parts: dict[int, list[tuple[Tensor, np.ndarray]]] = {seed: [] for seed in seeds}
        for before, leaky, cases in years():
            model = _counting(arm, before if setting == PAST else leaky)
            for seed in seeds:
                found = evaluate(model, cases, tie_seed=seed)
                parts[seed].append((found.ranks, future_lists(found.top[:, :10], cases)))
        return {
            seed: (torch.cat([ranks for ranks, _ in own]), np.concatenate([future for _, future in own]))
            for seed, own in parts.items()
        }

    for arm in COUNTING:
        for setting in (PAST, LEAK):
            for seed in seeds:
                key: dict[str, Any] = {"arm": arm, "dataset": log.name, "seed": seed, "setting": setting}
                with record(NAME, config={}, **key, **common) as run:
                    if run.finished:
                        continue
                    ranks, future = ranked(arm, setting)[seed]
                    _log_all(run, {**accuracy(ranks), "test/future@10": future.mean(), "cases": len(ranks)})
                    if setting == LEAK:
                        past, _ = ranked(arm, PAST)[seed]
                        gain = bootstrap_interval(ndcg_at_k(ranks, 10), ndcg_at_k(past, 10), seed=seed)
                        _log_all(run, {"gain": gain.mean, "gain/low": gain.low, "gain/high": gain.high})


def _dials(config: Config, sigma: float, noise: float, seed: int, common: dict[str, Any]) -> None:
    changes = {"popularity_sigma": sigma, "noise_rate": noise}
    about = {"world": asdict(AdWorldConfig.preset(config.world, **changes))}
    ads = cache(lambda: world(config, seed, **changes))
    for arm in (*COUNTING, "oracle"):
        key: dict[str, Any] = {"arm": arm, "dataset": WORLD, "seed": seed, "setting": f"popularity sigma {sigma:g}"}
        with record(NAME, config=about, x=noise, **key, **common) as run:
            if not run.finished:
                split = ads().simulate().leave_one_out()
                model = ads().oracle if arm == "oracle" else count(arm, split.train)
                _log_all(run, accuracy(evaluate(model, split.test, tie_seed=seed).ranks))
