r"""What the world knows and a recommender has to guess: the law of the next click, and the click probability.

State of a user just before an event: the topic of the current intent and the weights of the own interests. Given it,

    T(z)    share of genuine clicks that go to topic z (returns, stays, complements; see `behaviour`)
    P(i)  = (1 - ε_u) T(z_i) P(i | u, z_i) + ε_u e_i                          the next clicked ad, before any masking
    P*(i) = the same with every draw restricted to ads not clicked yet        the next event of the log

An ad shown to this user is clicked with the odds

    o(u, i) = base_ctr · P(i) / e_i,        click probability  c = o / (1 + o).

So odds are the lift of the ad over showing it at random: put ads before the user by exposure e, and the clicked ones
follow e_i o(u, i) ∝ P(i), the law of the log (exactly for odds, nearly for small probabilities). Shown at random by e,
an ad has odds base_ctr on average, because Σ e_i P(i)/e_i = 1.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from jaxtyping import Bool, Float, Int

from reclib.world.affinity import Affinity
from reclib.world.behaviour import Minds, Trace, topic_choices
from reclib.world.catalogue import Catalogue
from reclib.world.config import AdWorldConfig
from reclib.world.users import Users

ROWS = 1024  # rows of users × catalogue computed at once


@dataclass(frozen=True, eq=False)
class UserState:
    """Hidden states of `n` users, each just before one event."""

    user: Int[np.ndarray, "n"]
    event: Int[np.ndarray, "n"]  # the event's position in the log; the position after the user's last event = now
    intent: Int[np.ndarray, "n"]  # topic, -1 = none yet
    interest: Int[np.ndarray, "n slots"]  # topics of the own interests
    weight: Float[np.ndarray, "n slots"]  # their weights, 0 = asleep

    def __len__(self) -> int:
        return len(self.user)

    def take(self, rows: np.ndarray | slice) -> UserState:
        """Some of the rows."""
        return UserState(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})


class Truth:
    """The equations above for any state of any user. Arrays over the catalogue have column 0 for padding."""

    def __init__(
        self,
        config: AdWorldConfig,
        catalogue: Catalogue,
        users: Users,
        affinity: Affinity,
        item: Int[np.ndarray, "events"],
        offsets: Int[np.ndarray, "users_1"],
        trace: Trace,
    ) -> None:
        """Collect what the equations need.

        Args:
            item: ads of the log.
            offsets: user u owns the events offsets[u] … offsets[u + 1] - 1.
            trace: hidden side of the log.
        """
        self.config, self.catalogue, self.users = config, catalogue, users
        self.affinity, self.item, self.offsets, self.trace = affinity, item, offsets, trace
        with np.errstate(divide="ignore"):
            self.log_exposure: Float[np.ndarray, "items"] = np.log(catalogue.exposure)

    # ------------------------------------------------------------------------------------------------ states

    def before(self, event: Int[np.ndarray, "n"]) -> UserState:
        """The states just before events of the log."""
        t = self.trace
        return UserState(
            user=np.searchsorted(self.offsets, event, side="right") - 1,
            event=event,
            intent=t.intent_before[event].astype(np.int64),
            interest=t.interest[event].astype(np.int64),
            weight=t.weight[event].astype(np.float64),
        )

    def now(self, user: Int[np.ndarray, "n"]) -> UserState:
        """The states after the whole log, just before whatever comes next."""
        return self.of(self.trace.final.take(user))

    def of(self, minds: Minds) -> UserState:
        """The states of minds that have lived through the log."""
        return UserState(minds.user, self.offsets[minds.user + 1], minds.intent, minds.interest, minds.weights())

    def earlier(self, state: UserState, events: int) -> UserState:
        """What the same users were like some events before, at their first event at the earliest."""
        return self.before(np.maximum(state.event - events, self.offsets[state.user]))

    def clicked(self, state: UserState) -> Bool[np.ndarray, "n items"]:
        """The ads each user has clicked before the state's event; column 0 is false."""
        first = self.offsets[state.user]
        length = state.event - first
        row = np.repeat(np.arange(len(state)), length)
        column = np.arange(len(row)) - np.repeat(np.cumsum(length) - length, length)
        out = np.zeros((len(state), self.catalogue.n_items + 1), dtype=bool)
        out[row, self.item[first[row] + column]] = True
        return out

    # ------------------------------------------------------------------------------------------------ topics

    def choices(self, state: UserState) -> tuple[Int[np.ndarray, "n choices"], Float[np.ndarray, "n choices"]]:
        """Topics a genuine click may go to, and their shares; a topic may stand in several columns."""
        return topic_choices(self.config, self.catalogue, state.intent, state.interest, state.weight)

    def topic_distribution(self, state: UserState) -> Float[np.ndarray, "n topics"]:
        """T(z)."""
        return _scatter(*self.choices(state), self.config.n_topics)

    # ------------------------------------------------------------------------------------------- the next click

    def next_item_distribution(
        self, state: UserState, clicked: Bool[np.ndarray, "n items"], mission: Float[np.ndarray, "n"] | None = None
    ) -> Float[np.ndarray, "n items"]:
        """P*(i), rows sum to 1. Large: users × catalogue.

        Args:
            clicked: ads that cannot come again.
            mission: odds by which the length of the pause before the event speaks for the start of a new mission
                (a return to an own interest); 1 = no evidence. See `Clock.evidence`.
        """
        n, order, starts = len(state), *self.catalogue.by_topic
        topics, shares = self.choices(state)
        noise = self.users.noise_rate[state.user]
        odds = np.exp(self.affinity.rows(state.user) + self.log_exposure)
        odds[clicked] = 0.0
        odds[:, 0] = 0.0
        within = np.add.reduceat(odds[:, order], starts, axis=1)  # N(u, z) over what is left
        shares = shares * (within[np.arange(n)[:, None], topics] > 0)
        total = shares.sum(1, keepdims=True)
        noise = np.where(total[:, 0] > 0, noise, 1.0)  # nothing left in any topic of theirs: only accidents
        shares = shares / np.maximum(total, 1e-300)
        if mission is not None:
            # Bayes: genuine returns are weighed by the evidence, everything else is not.
            slots = state.interest.shape[1]
            likelihood = np.ones_like(shares)
            likelihood[:, :slots] = mission[:, None]
            evidence = noise + (1 - noise) * (shares * likelihood).sum(1)
            shares = shares * likelihood * ((1 - noise) / evidence)[:, None]
            noise = noise / evidence
        else:
            shares = shares * (1 - noise)[:, None]
        genuine = _scatter(topics, shares, self.config.n_topics) / np.maximum(within, 1e-300)
        accident = np.where(clicked, 0.0, self.catalogue.exposure)
        accident /= accident.sum(1, keepdims=True)
        out: np.ndarray = genuine[:, self.catalogue.topic] * odds + noise[:, None] * accident
        return out

    def log_lift(self, state: UserState, items: Int[np.ndarray, "n"] | None = None) -> Float[np.ndarray, "n *items"]:
        """log P(i) / e_i, for one ad per row, or for the whole catalogue (column 0: -inf)."""
        user, noise = state.user, self.users.noise_rate[state.user]
        # P(i | u, z) / e_i = exp s(u, i) / N(u, z): exposure cancels.
        with np.errstate(divide="ignore"):
            if items is not None:
                topic = self.catalogue.topic[items]
                topics, shares = self.choices(state)
                share = (shares * (topics == topic[:, None])).sum(1)
                genuine = np.log(share * (1 - noise)) - self.trace.log_normaliser[user, topic]
                out: np.ndarray = np.logaddexp(genuine + self.affinity.pairs(user, items), np.log(noise))
                return out
            per_topic = np.log(self.topic_distribution(state) * (1 - noise)[:, None]) - self.trace.log_normaliser[user]
            rows = per_topic[:, self.catalogue.topic] + self.affinity.rows(user)
            out = np.logaddexp(rows, np.log(noise)[:, None])
        out[:, 0] = -np.inf
        return out

    # --------------------------------------------------------------------------------------------- what it earns

    def click_probability(
        self, state: UserState, items: Int[np.ndarray, "n"] | None = None
    ) -> Float[np.ndarray, "n *items"]:
        """c(u, i), for one ad per row or the whole catalogue (column 0: 0)."""
        odds = self.config.base_ctr * np.exp(self.log_lift(state, items))
        out: np.ndarray = odds / (1 + odds)
        return out

    def conversion_probability(
        self, users: Int[np.ndarray, "n"], items: Int[np.ndarray, "n"]
    ) -> Float[np.ndarray, "n"]:
        """P(conversion | click) = σ(logit base_cvr + ½ quality_i + 1[persona fits] - ½ · price mismatch)."""
        c, u = self.catalogue, self.users
        mismatch = np.abs(c.price_band[items] - (2 - u.price_sensitivity[users])) / 2
        base = np.log(self.config.base_cvr / (1 - self.config.base_cvr))
        logit = base + 0.5 * c.quality[items] + (c.persona[items] == u.persona[users]) - 0.5 * mismatch
        out: np.ndarray = 1 / (1 + np.exp(-logit))
        return out


def entropy(probability: Float[np.ndarray, "n outcomes"]) -> Float[np.ndarray, "n"]:
    """Shannon entropy of each row in nats."""
    log = np.log(probability, out=np.zeros_like(probability), where=probability > 0)
    out: np.ndarray = -(probability * log).sum(1)
    return out


def parts(n: int, size: int) -> list[slice]:
    """Slices that cut n rows into pieces of at most `size`, so that no table gets too large."""
    return [slice(first, min(first + size, n)) for first in range(0, n, size)]


def _scatter(
    topics: Int[np.ndarray, "n choices"], shares: Float[np.ndarray, "n choices"], n_topics: int
) -> Float[np.ndarray, "n topics"]:
    """Sum the shares of each topic; -1 (no intent) has share 0 and falls on the last topic without effect."""
    n, _ = topics.shape
    flat = (np.arange(n)[:, None] * n_topics + topics % n_topics).ravel()
    return np.bincount(flat, weights=shares.ravel(), minlength=n * n_topics).reshape(n, n_topics)
