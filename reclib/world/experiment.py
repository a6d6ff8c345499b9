r"""The online A/B test: show a policy's ads to half of the users, a control's to the other half, and compare.

One slot of the feed is tested. In each round every user
  1. is about to click something in the rest of the feed: that organic event is drawn by `behaviour.act`, and the pause
     before it says as much about it as in the log;
  2. sees one ad in the slot, chosen by the policy of the user's arm from the history and the time of the request;
  3. clicks it with c(u, i) of the hidden state before the organic event (never an ad clicked before), converts, pays;
  4. lives on: the organic event and the click join the history; a click in the slot moves the intent to its topic.

Users are randomised, so users are the unit of the test: per user the mean of each metric over the rounds, then Welch's
t-test between arms. The relative lift (m_T - m_C)/m_C has the delta-method variance
    s_T²/(n_T m_C²) + m_T² s_C²/(n_C m_C⁴).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from scipy import stats
from torch import Tensor
from tqdm.auto import tqdm

from reclib.data.interactions import padded_index
from reclib.world import behaviour
from reclib.world.policies import Policy, choose, named_policy
from reclib.world.truth import ROWS, UserState

if TYPE_CHECKING:
    from reclib.world.world import AdWorld

METRICS = ("click", "conversion", "revenue")  # per impression; revenue in cents


@runtime_checkable
class Scorer(Protocol):
    """Any recommender: the slot shows its best ad that the user has not clicked."""

    def score(
        self, history: Int[Tensor, "batch time"], time: Float[Tensor, "batch time+1"] | None = None
    ) -> Float[Tensor, "batch items"]:
        """Score of every item as the next one."""


@dataclass(frozen=True)
class Comparison:
    """One metric of an A/B test, per impression; the interval is that of the difference."""

    metric: str
    control: float  # mean over the users of the control arm
    treatment: float
    difference: float  # treatment - control
    low: float  # confidence interval of the difference
    high: float
    lift: float  # difference / control, e.g. 0.03 = +3 %
    lift_low: float
    lift_high: float
    p_value: float  # two-sided, of "no difference"


@dataclass(frozen=True, eq=False, repr=False)
class ABTest:
    """Result of an online experiment. `result["click"]` is the comparison of a metric; `print` shows all."""

    treatment: str
    control: str
    users: tuple[int, int]  # in the treatment and the control arm
    rounds: int  # impressions per user
    level: float  # of the intervals
    comparisons: tuple[Comparison, ...]
    per_user: dict[str, tuple[np.ndarray, np.ndarray]]  # metric → means of each treatment user, of each control user

    def __getitem__(self, metric: str) -> Comparison:
        for comparison in self.comparisons:
            if comparison.metric == metric:
                return comparison
        raise ValueError(f"metric: there is no {metric!r}; choose one of {', '.join(METRICS)}")

    def to_frame(self) -> pd.DataFrame:
        """One row per metric."""
        return pd.DataFrame([vars(c) for c in self.comparisons]).set_index("metric")

    def __repr__(self) -> str:
        lines = [
            f"{self.treatment} against {self.control}: {self.users[0]} and {self.users[1]} users, "
            f"{self.rounds} impressions each, {self.level:.0%} intervals"
        ]
        for c in self.comparisons:
            lines.append(
                f"  {c.metric:<10} {c.treatment:9.5f} against {c.control:9.5f}   lift {c.lift:+7.1%} "
                f"[{c.lift_low:+.1%}, {c.lift_high:+.1%}]   p = {c.p_value:.2g}"
            )
        return "\n".join(lines)


def compare(
    metric: str, treatment: Float[np.ndarray, "treated"], control: Float[np.ndarray, "controls"], level: float = 0.95
) -> Comparison:
    """Welch's t-test of two arms, one number per user.

    Raises:
        ValueError: an arm has fewer than two users.
    """
    if min(len(treatment), len(control)) < 2:
        raise ValueError(f"n_users: each arm needs two users for {metric}, got {len(treatment)} and {len(control)}")
    m_t, m_c = float(treatment.mean()), float(control.mean())
    if treatment.var() + control.var() == 0:  # e.g. nobody clicked: the test has nothing to say
        low = high = m_t - m_c
        p_value = 1.0 if m_t == m_c else 0.0
    else:
        test = stats.ttest_ind(treatment, control, equal_var=False)
        interval = test.confidence_interval(level)
        low, high, p_value = float(interval.low), float(interval.high), float(test.pvalue)
    lift = spread = float("nan")
    if m_c != 0:
        lift = m_t / m_c - 1
        v_t, v_c = treatment.var(ddof=1) / len(treatment), control.var(ddof=1) / len(control)
        spread = stats.norm.ppf(0.5 + level / 2) * np.sqrt(v_t / m_c**2 + m_t**2 * v_c / m_c**4)
    return Comparison(metric, m_c, m_t, m_t - m_c, low, high, lift, lift - spread, lift + spread, p_value)


def run_experiment(
    world: AdWorld,
    policy: str | Scorer | Policy,
    control: str | Scorer | Policy,
    *,
    n_users: int,
    rounds: int,
    level: float,
    rng: np.random.Generator,
    progress: bool,
) -> ABTest:
    """Randomise users into two arms of equal size and run both; see the module's description."""
    users = rng.permutation(world.config.n_users)[:n_users]
    # Sorted, so that who is in an arm does not depend on the order of the permutation.
    arms = {"treatment": np.sort(users[: n_users // 2]), "control": np.sort(users[n_users // 2 :])}
    bar = tqdm(total=2 * rounds, desc="A/B test", unit="round", disable=not progress)
    outcome = {}
    for arm, chosen in (("treatment", policy), ("control", control)):
        pick = _picker(world, chosen, "policy" if arm == "treatment" else "control")
        outcome[arm] = _run_arm(world, pick, arms[arm], rounds, rng.spawn(1)[0], bar)
    bar.close()
    per_user = {m: (outcome["treatment"][m], outcome["control"][m]) for m in METRICS}
    return ABTest(
        treatment=_name(policy), control=_name(control), users=(len(arms["treatment"]), len(arms["control"])),
        rounds=rounds, level=level, comparisons=tuple(compare(m, *per_user[m], level) for m in METRICS),
        per_user=per_user,
    )  # fmt: skip


class _Feed:
    """The users of one arm: minds, histories and what they have clicked."""

    def __init__(self, world: AdWorld, users: Int[np.ndarray, "n"], rounds: int) -> None:
        log, truth = world.simulate(), world.truth
        assert log.time is not None
        self.world, self.users = world, users
        self.minds = truth.trace.final.take(users)  # an index, so this is a copy
        state = truth.of(self.minds)
        self.clicked = truth.clicked(state)
        self.left = np.bincount(world.catalogue.topic[1:]) - np.stack(
            [self.clicked[:, ids[ids > 0]].sum(1) for ids in world.catalogue.topic_items], axis=1
        )
        self.length = np.diff(log.offsets)[users]
        index, real = padded_index(log.offsets[users], log.offsets[users + 1])
        room = index.shape[1] + 2 * rounds + 1  # each round adds an organic event and perhaps a click
        self.history = np.zeros((len(users), room), dtype=np.int64)
        self.time = np.zeros((len(users), room))
        self.history[:, : index.shape[1]] = np.where(real, log.item[index], 0)
        self.time[:, : index.shape[1]] = log.time[index]
        self.log_odds = world.affinity.rows(users) + truth.log_exposure

    def append(self, rows: np.ndarray, item: np.ndarray, time: np.ndarray) -> None:
        """Add one event to the histories of some users."""
        self.history[rows, self.length[rows]] = item
        self.time[rows, self.length[rows]] = time
        self.length[rows] += 1


Picker = Callable[["_Feed", UserState, np.ndarray, np.ndarray, np.random.Generator], np.ndarray]


def _picker(world: AdWorld, policy: str | Scorer | Policy, argument: str) -> Picker:
    """A function (feed, state, clicked, request times, rng) → one ad per user."""
    if isinstance(policy, str):
        policy = named_policy(policy, argument)
    if hasattr(policy, "score"):
        return lambda feed, state, clicked, request, rng: _best_scored(policy, feed, clicked, request)
    if not callable(policy):
        raise ValueError(
            f"{argument}: give a policy's name, an object with score(history, time), or a function "
            f"(world, state, clicked) -> probabilities; got {type(policy).__name__}"
        )
    chosen = policy

    def pick(
        feed: _Feed, state: UserState, clicked: np.ndarray, request: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        item = np.empty(len(state), dtype=np.int64)
        for first in range(0, len(item), ROWS):
            part = slice(first, first + ROWS)
            probability = np.asarray(chosen(world, state.take(part), clicked[part]))
            if probability.shape != clicked[part].shape or not np.allclose(probability.sum(1), 1):
                raise ValueError(
                    f"{argument}: must return probabilities of shape {clicked[part].shape} whose rows sum to 1, got "
                    f"shape {probability.shape} with sums from {probability.sum(-1).min():.3g}"
                )
            item[part] = choose(probability, rng)
        return item

    return pick


@torch.no_grad()
def _best_scored(model: Scorer, feed: _Feed, clicked: np.ndarray, request: np.ndarray) -> Int[np.ndarray, "n"]:
    """The ad a recommender ranks first among those not clicked yet."""
    width = int(feed.length.max())
    history = torch.from_numpy(feed.history[:, :width])
    time = np.where(np.arange(width + 1) < feed.length[:, None], feed.time[:, : width + 1], request[:, None])
    device, was_training = torch.device("cpu"), False
    if isinstance(model, torch.nn.Module):
        device = next((p.device for p in model.parameters()), device)
        was_training = model.training
        model.eval()
    item = np.empty(len(history), dtype=np.int64)
    for first in range(0, len(item), ROWS):
        part = slice(first, first + ROWS)
        times = torch.from_numpy(time[part])
        scores = model.score(history[part].to(device), times.to(device)).double().cpu().numpy()
        scores = np.where(clicked[part], -np.inf, scores)
        scores[:, 0] = -np.inf
        item[part] = scores.argmax(1)
    if isinstance(model, torch.nn.Module):
        model.train(was_training)
    return item


def _run_arm(
    world: AdWorld, pick: Picker, users: Int[np.ndarray, "n"], rounds: int, rng: np.random.Generator, bar: tqdm
) -> dict[str, Float[np.ndarray, "n"]]:
    """Mean of each metric per user of one arm."""
    feed, truth, catalogue = _Feed(world, users, rounds), world.truth, world.catalogue
    rows = np.arange(len(users))
    total = {m: np.zeros(len(users)) for m in METRICS}
    for _ in range(rounds):
        # The policy decides before the organic event is known, so it gets the state and the ads as they were.
        state, before = truth.of(feed.minds.copy()), feed.clicked.copy()
        source, organic = behaviour.act(
            feed.minds, world.config, catalogue, world.users, feed.log_odds, feed.clicked, feed.left, (rng, rng, rng)
        )
        mission = (source == behaviour.OWN) | (source == behaviour.RETURNED)
        request = feed.time[rows, feed.length - 1] + world.clock.gaps(mission, rng)
        shown = pick(feed, state, before, request, rng)
        possible = ~before[rows, shown]
        click = possible & (rng.random(len(users)) < truth.click_probability(state, shown))
        convert = click & (rng.random(len(users)) < truth.conversion_probability(users, shown))
        total["click"] += click
        total["conversion"] += convert
        total["revenue"] += click * world.market.bids(state, shown)

        feed.append(rows, organic, request)
        new = click & (shown != organic)
        feed.append(rows[new], shown[new], request[new])
        feed.clicked[rows[new], shown[new]] = True
        feed.left[rows[new], catalogue.topic[shown[new]]] -= 1
        feed.minds.intent[click] = catalogue.topic[shown[click]]
        behaviour.drift(feed.minds, world.config, world.users, rng)
        bar.update()
    return {m: values / rounds for m, values in total.items()}


def _name(policy: str | Scorer | Policy) -> str:
    return policy if isinstance(policy, str) else getattr(policy, "__name__", type(policy).__name__)
