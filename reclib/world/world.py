"""The ad world: built from one configuration, it writes a log and answers any question about it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from reclib.data.interactions import Interactions
from reclib.world import database, experiment
from reclib.world.affinity import Affinity
from reclib.world.behaviour import NOISE, OWN, RETURNED, Trace, live
from reclib.world.catalogue import Catalogue, build_catalogue
from reclib.world.clock import Clock
from reclib.world.config import AdWorldConfig
from reclib.world.market import REFERENCE_PAIRS, Market
from reclib.world.oracle import Oracle
from reclib.world.policies import LoggedFeedback, Policy, choose, mixture_ratios, named_policy
from reclib.world.truth import ROWS, Truth, UserState, entropy, parts
from reclib.world.users import Users, build_users

if TYPE_CHECKING:
    import duckdb

# Each purpose has random numbers of its own, so that a dial moves what it names and nothing else.
CATALOGUE, USERS, NOISE_RATES, LENGTHS, LIVES, TIMES, REFERENCE, EXPERIMENT, DATABASE = range(9)


class AdWorld:
    """One simulated ad feed with known answers.

    >>> world = AdWorld(AdWorldConfig.preset("tiny"))
    >>> log = world.simulate()                       # Interactions; hidden truth in log.extra
    >>> split = log.leave_one_out()
    >>> world.oracle.score                           # what the best recommender would say
    >>> world.run_policy("expert", control="popular")  # online A/B test

    Ads are numbered 1 … n_items, users 0 … n_users - 1. Questions about users are answered for the moment after the
    log (`now`), or, with `event`, for the moment just before an event of the log.

    Attributes
    ----------
    config: all dials.
    catalogue, users: every ad and every person, hidden truth included.
    affinity: which ads of a topic a user prefers.
    """

    def __init__(self, config: AdWorldConfig | None = None) -> None:
        """Draw ads and users; nothing happens yet. Default: the preset `book`."""
        self.config = config or AdWorldConfig()
        self.catalogue: Catalogue = build_catalogue(self.config, self._rng(CATALOGUE))
        self.users: Users = build_users(self.config, self._rng(USERS), self._rng(NOISE_RATES))
        self.affinity = Affinity(self.config, self.catalogue, self.users)

    def _rng(self, purpose: int) -> np.random.Generator:
        return np.random.default_rng([self.config.seed, purpose])

    # --------------------------------------------------------------------------------------------------- the log

    def simulate(self) -> Interactions:
        """The log of clicked ads, with the hidden truth of each event in `extra`. Computed once, then remembered.

        extra["source"] int8: 0 own interest, 1 intent, 2 complementary, 3 returned (just woke up), 4 noise
        extra["noise"] bool: accidental click
        extra["intent"] int16: topic of the intent after the event (of the clicked ad unless noise; -1 = none yet)
        extra["topic"] int16: topic of the ad
        extra["mission_start"] bool: a genuine return to an own interest
        extra["session_position"] int16: events since the mission started, 0 = its first
        extra["click_probability"] float32: c(u, i) of the ad just before the event
        """
        return self._log

    @cached_property
    def _log(self) -> Interactions:
        item, trace = self._lives
        n, first = len(item), self.offsets[:-1]
        user = np.repeat(np.arange(self.config.n_users), np.diff(self.offsets))
        position = np.arange(n)
        start = self._mission_start
        rng = self._rng(TIMES)
        arrival = rng.random(self.config.n_users) * self.config.start_window
        elapsed = np.cumsum(self.clock.gaps(start, rng))
        noise = trace.source == NOISE
        topic = self.catalogue.topic[item].astype(np.int16)
        # A user's first event opens a session even if it is an accident.
        opens = start.copy()
        opens[first] = True
        session = position - np.maximum.accumulate(np.where(opens, position, 0))
        return Interactions(
            user=user,
            item=item,
            time=elapsed - elapsed[first][user] + arrival[user],
            n_items=self.config.n_items,
            items=self.catalogue.table,
            extra={
                "source": trace.source,
                "noise": noise,
                "intent": np.where(noise, trace.intent_before, topic),
                "topic": topic,
                "mission_start": start,
                "session_position": session.astype(np.int16),
                "click_probability": np.concatenate(
                    [
                        self.truth.click_probability(self.truth.before(position[part]), item[part])
                        for part in parts(n, 64 * ROWS)
                    ]
                ).astype(np.float32),
            },
            user_ids=np.arange(self.config.n_users),
            name="adworld",
        )

    @cached_property
    def offsets(self) -> Int[np.ndarray, "users_1"]:
        """User u owns the events offsets[u] … offsets[u + 1] - 1."""
        s = self.config.sigma_events
        draw = self._rng(LENGTHS).normal(np.log(self.config.mean_events) - s * s / 2, s, self.config.n_users)
        # Four standard deviations are the limit that the configuration was checked against.
        longest = self.config.mean_events * np.exp(4 * s)
        length = np.clip(np.round(np.exp(draw)), self.config.min_events, np.ceil(longest)).astype(np.int64)
        return np.concatenate([[0], np.cumsum(length)])

    @cached_property
    def _lives(self) -> tuple[Int[np.ndarray, "events"], Trace]:
        return live(self.config, self.catalogue, self.users, self.affinity, np.diff(self.offsets), LIVES)

    @property
    def trace(self) -> Trace:
        """Hidden states before each event, and at the end."""
        return self._lives[1]

    @cached_property
    def _mission_start(self) -> Bool[np.ndarray, "events"]:
        out: np.ndarray = (self.trace.source == OWN) | (self.trace.source == RETURNED)
        return out

    @cached_property
    def clock(self) -> Clock:
        """The law of the pauses between events."""
        return Clock(self.config, float(self._mission_start.mean()))

    # ----------------------------------------------------------------------------------------------------- truth

    @cached_property
    def truth(self) -> Truth:
        """Equations of the next click, for any hidden state."""
        item, trace = self._lives
        return Truth(self.config, self.catalogue, self.users, self.affinity, item, self.offsets, trace)

    @cached_property
    def market(self) -> Market:
        """Fit, bids and revenue, for any hidden state."""
        item, _ = self._lives
        user = np.repeat(np.arange(self.config.n_users), np.diff(self.offsets))
        topic = self.catalogue.topic[item]
        rng, n = self._rng(REFERENCE), REFERENCE_PAIRS
        reference = rng.integers(self.config.n_users, size=n), rng.integers(1, self.config.n_items + 1, size=n)
        return Market(
            self.truth,
            first_topic=_first(user, topic, self.config.n_users, self.config.n_topics),
            first_industry=_first(
                user, self.catalogue.tree.industry[topic], self.config.n_users, self.config.n_industries
            ),
            reference=(self.truth.now(reference[0]), reference[1]),
        )

    @cached_property
    def oracle(self) -> Oracle:
        """The best possible ranking of the next event; plugs into `reclib.evaluation.evaluate`."""
        return Oracle(self)

    def state(
        self, users: Int[np.ndarray, "n"] | None = None, *, event: Int[np.ndarray, "n"] | None = None
    ) -> UserState:
        """Hidden states of users now, or just before events of the log (then `users` is not needed)."""
        if event is not None:
            event = np.asarray(event)
            _within("event", event, 0, int(self.offsets[-1]) - 1)
            state = self.truth.before(event)
            if users is not None and not np.array_equal(state.user, np.broadcast_to(users, state.user.shape)):
                raise ValueError("event: belongs to other users than those given; leave users out, or fix event")
            return state
        if users is None:
            raise ValueError("users: give users, or events of the log by event=")
        users = np.asarray(users)
        _within("users", users, 0, self.config.n_users - 1)
        return self.truth.now(users)

    def click_probability(
        self,
        users: Int[np.ndarray, "n"] | None,
        items: Int[np.ndarray, "rows *m"],
        *,
        event: Int[np.ndarray, "n"] | None = None,
    ) -> Float[np.ndarray, "rows *m"]:
        """c(u, i): probability that the user clicks the ad when it is shown.

        Args:
            users: one per row; None if `event` says who.
            items: one ad per user `[n]`, or several `[n, m]`.
            event: answer for the moment before these events of the log instead of now.
        """
        return self._per_pair(self.truth.click_probability, users, items, event)

    def conversion_probability(
        self,
        users: Int[np.ndarray, "n"] | None,
        items: Int[np.ndarray, "rows *m"],
        *,
        event: Int[np.ndarray, "n"] | None = None,
    ) -> Float[np.ndarray, "rows *m"]:
        """P(conversion | click)."""
        return self._per_pair(lambda s, i: self.truth.conversion_probability(s.user, i), users, items, event)

    def expected_revenue(
        self,
        users: Int[np.ndarray, "n"] | None,
        items: Int[np.ndarray, "rows *m"],
        *,
        event: Int[np.ndarray, "n"] | None = None,
    ) -> Float[np.ndarray, "rows *m"]:
        """c(u, i) · bid(u, i): cents per impression. Times 1,000 it is the eCPM, the business reward."""
        return self._per_pair(self.market.expected_revenue, users, items, event)

    def bids(
        self,
        users: Int[np.ndarray, "n"] | None,
        items: Int[np.ndarray, "rows *m"],
        *,
        event: Int[np.ndarray, "n"] | None = None,
    ) -> Float[np.ndarray, "rows *m"]:
        """Cents that a click of this user costs the advertiser."""
        return self._per_pair(self.market.bids, users, items, event)

    def semantic_fit(
        self,
        users: Int[np.ndarray, "n"] | None,
        items: Int[np.ndarray, "rows *m"],
        *,
        event: Int[np.ndarray, "n"] | None = None,
    ) -> Float[np.ndarray, "rows *m"]:
        """How good a match a careful reader would call it, in [0, 1]: w(u) · aspects(u, i)."""
        return self._per_pair(self.market.semantic_fit, users, items, event)

    def aspects(
        self,
        users: Int[np.ndarray, "n"] | None,
        items: Int[np.ndarray, "rows *m"],
        *,
        event: Int[np.ndarray, "n"] | None = None,
    ) -> Float[np.ndarray, "rows *m 4"]:
        """The four aspects of `market.ASPECTS`, each in [0, 1]."""
        return self._per_pair(self.market.aspects, users, items, event)

    def aspect_weights(
        self, users: Int[np.ndarray, "n"] | None = None, *, event: Int[np.ndarray, "n"] | None = None
    ) -> Float[np.ndarray, "n 4"]:
        """w(u): what each aspect means to the user; rows sum to 1."""
        return self.market.aspect_weights(self.state(users, event=event))

    def next_item_distribution(
        self, users: Int[np.ndarray, "n"] | None = None, *, event: Int[np.ndarray, "n"] | None = None
    ) -> Float[np.ndarray, "n items"]:
        """P*(i): law of the user's next event given the hidden state and the ads clicked so far; rows sum to 1."""
        state = self.state(users, event=event)
        return np.concatenate(
            [
                self.truth.next_item_distribution(part, self.truth.clicked(part))
                for part in (state.take(rows) for rows in parts(len(state), ROWS))
            ]
        )

    def intent_entropy(
        self,
        users: Int[np.ndarray, "n"] | None = None,
        *,
        event: Int[np.ndarray, "n"] | None = None,
        level: str = "item",
    ) -> Float[np.ndarray, "n"]:
        """How open the user's next step really is: entropy in nats given the hidden state.

        Args:
            level: "item" for the next ad, P*(i); "topic" for the topic of the next genuine click, T(z).
        """
        if level == "topic":
            return entropy(self.truth.topic_distribution(self.state(users, event=event)))
        if level != "item":
            raise ValueError(f"level: must be 'item' or 'topic', got {level!r}")
        return entropy(self.next_item_distribution(users, event=event))

    # -------------------------------------------------------------------------------------------------- policies

    def log(
        self,
        policy_mix: Mapping[str, float],
        n: int,
        rng: np.random.Generator,
        *,
        event: Int[np.ndarray, "n"] | None = None,
    ) -> LoggedFeedback:
        """Let a mixture of logging policies show `n` ads, each to a random user, and record what happens.

        Args:
            policy_mix: name → ratio, e.g. `{"expert": 0.1, "stale": 0.6, "random": 0.3}`; scaled to sum 1.
            n: impressions.
            rng: of users, choices, clicks and conversions.
            event: the moments, `[n]` positions in the log; default: now, users drawn uniformly.
        """
        names, ratios = mixture_ratios(policy_mix)
        if n < 1:
            raise ValueError(f"n: must be at least 1 impression, got {n}")
        if event is not None and len(event) != n:
            raise ValueError(f"event: has {len(event)} entries but n is {n}; give one moment per impression")
        who = None if event is not None else np.sort(rng.integers(self.config.n_users, size=n))
        state = self.state(who, event=event)
        decides = rng.choice(len(names), size=n, p=ratios)
        item, propensity = np.empty(n, dtype=np.int64), np.empty(n)
        for part in parts(n, ROWS):
            rows, clicked = state.take(part), self.truth.clicked(state.take(part))
            each = np.stack([named_policy(name)(self, rows, clicked) for name in names], axis=1)
            here = np.arange(len(rows))
            item[part] = choose(each[here, decides[part]], rng)
            propensity[part] = (each[here, :, item[part]] * ratios).sum(1)
        probability = self.truth.click_probability(state, item)
        bid = self.market.bids(state, item)
        click = rng.random(n) < probability
        converts = rng.random(n) < self.truth.conversion_probability(state.user, item)
        return LoggedFeedback(
            user=state.user, event=state.event, item=item, propensity=propensity, click=click,
            conversion=click & converts, revenue=click * bid, policy=decides, click_probability=probability,
            expected_revenue=probability * bid, policies=names,
        )  # fmt: skip

    def policy_value(
        self, policy: str | Policy, users: Int[np.ndarray, "n"] | None = None, *, reward: str = "click"
    ) -> Float[np.ndarray, "n"]:
        """True expected reward of one impression now, Σ_i π(i | u) r(u, i), per user. Nothing is sampled.

        Args:
            policy: a name, or a function (world, state, clicked) → probabilities.
            users: default: everybody.
            reward: "click", or "revenue" in cents.
        """
        chosen = named_policy(policy) if isinstance(policy, str) else policy
        if reward not in ("click", "revenue"):
            raise ValueError(f"reward: must be 'click' or 'revenue', got {reward!r}")
        state = self.state(np.arange(self.config.n_users) if users is None else users)
        out = np.empty(len(state))
        everything = np.arange(1, self.config.n_items + 1)
        for part in parts(len(state), ROWS // 8):
            rows = state.take(part)
            probability = chosen(self, rows, self.truth.clicked(rows))
            if reward == "click":
                value = self.truth.click_probability(rows)
            else:
                value = np.zeros(probability.shape)
                items = np.tile(everything, (len(rows), 1))
                value[:, 1:] = self._per_pair(self.market.expected_revenue, rows.user, items, None)
            out[part] = (probability * value).sum(1)
        return out

    def run_policy(
        self,
        policy: str | experiment.Scorer | Policy,
        control: str | experiment.Scorer | Policy = "popular",
        *,
        n_users: int | None = None,
        rounds: int = 10,
        level: float = 0.95,
        rng: np.random.Generator | None = None,
        progress: bool = False,
    ) -> experiment.ABTest:
        """Online A/B test of a policy against a control arm; see `reclib.world.experiment`.

        Args:
            policy, control: a name (expert, stale, popular, random, oracle), a recommender with
                `score(history, time)`, or a function (world, state, clicked) → probabilities `[n, items]`.
            n_users: users taking part, both arms together; default: everybody.
            rounds: impressions per user.
            level: of the confidence intervals.
            rng: default: fixed by the world's seed.
            progress: show a bar.
        """
        n_users = self.config.n_users if n_users is None else n_users
        if not 4 <= n_users <= self.config.n_users:
            raise ValueError(f"n_users: must be between 4 and the world's {self.config.n_users} users, got {n_users}")
        if rounds < 1:
            raise ValueError(f"rounds: must be at least 1, got {rounds}")
        if not 0 < level < 1:
            raise ValueError(f"level: must lie between 0 and 1, e.g. 0.95, got {level}")
        return experiment.run_experiment(
            self, policy, control, n_users=n_users, rounds=rounds, level=level,
            rng=self._rng(EXPERIMENT) if rng is None else rng, progress=progress,
        )  # fmt: skip

    def campaign_database(
        self,
        path: str | Path | None = None,
        *,
        as_of: dt.date | str = database.DEFAULT_AS_OF,
        n_accounts: int = 12,
        n_ads: int = 80,
    ) -> duckdb.DuckDBPyConnection:
        """The advertisers' side as a DuckDB database; see `reclib.world.database` for its tables.

        Args:
            path: file to write; default: in memory. An existing file is refused.
            as_of: "today". Facts of that day and later do not exist yet; earlier ones never change with it.
            n_accounts, n_ads: how many advertisers of the world, and how many ads of theirs, the database covers.
        """
        return database.write(
            self.catalogue, self._rng(DATABASE), path=path, as_of=as_of, n_accounts=n_accounts, n_ads=n_ads
        )

    # --------------------------------------------------------------------------------------------------- helpers

    def _per_pair(
        self,
        question: Callable[[UserState, np.ndarray], np.ndarray],
        users: Int[np.ndarray, "n"] | None,
        items: Int[np.ndarray, "rows *m"],
        event: Int[np.ndarray, "n"] | None,
    ) -> Shaped[np.ndarray, "rows *rest"]:
        """Ask a question that takes one state and one ad per row, for one or several ads per user."""
        state, items = self.state(users, event=event), np.asarray(items)
        if items.ndim not in (1, 2) or len(items) != len(state):
            raise ValueError(
                f"items: must have shape [{len(state)}] or [{len(state)}, m], one row per user, got {items.shape}"
            )
        _within("items", items, 1, self.config.n_items)
        flat, each = items.ravel(), items.size // max(len(state), 1)
        row = np.repeat(np.arange(len(state)), each)
        answers = [question(state.take(row[part]), flat[part]) for part in parts(len(flat), 64 * ROWS)]
        answer = np.concatenate(answers)
        return answer.reshape(*items.shape, *answer.shape[1:])


def _within(name: str, values: Int[np.ndarray, "*shape"], low: int, high: int) -> None:
    if values.size == 0:
        raise ValueError(f"{name}: is empty; give at least one")
    if values.min() < low or values.max() > high:
        raise ValueError(f"{name}: must lie in {low} … {high}, found {values.min()} … {values.max()}")


def _first(
    user: Int[np.ndarray, "events"], group: Int[np.ndarray, "events"], n_users: int, n_groups: int
) -> Int[np.ndarray, "users groups"]:
    """Position of each user's first event of each group; a number beyond the log where there is none."""
    out = np.full(n_users * n_groups, np.iinfo(np.int64).max)
    key, first = np.unique(user * n_groups + group, return_index=True)
    out[key] = first
    return out.reshape(n_users, n_groups)
