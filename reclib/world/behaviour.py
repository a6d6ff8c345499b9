r"""What users do: a hidden state, one step of it, and the log of a whole population.

Hidden state of a user (`Minds`): the topic z of the current intent, and K own interests with weights
    w_k ∝ awake_k · exp(a_k).
Before each event the interests move (`drift`):
    a_k ← φ a_k + √(1 - φ²) σ ξ,  φ = exp(-1 / drift_events)
    awake → asleep with probability 1/awake_events (one always stays awake), asleep → awake with 1/sleep_events,
    replaced by a fresh one with probability 1/interest_lifetime.
Then the event:
    with probability ε_u an accident: any ad, P(i) = exposure_i; the intent stays what it was;
    else a genuine click. Its topic is, with the shares of the configuration,
        an own interest k with probability w_k          (source `own`, or `returned` if k just woke up)
        the topic of the current intent                 (source `intent`)
        a complement of it                              (source `complementary`),
    the intent moves there, and the ad of the topic is drawn with P(i | u, z) ∝ exposure_i exp s(u, i).

Nobody clicks an ad twice: both draws are over the ads the user has not clicked yet, and topics in which nothing is
left are not drawn. (That is the rule of the Amazon logs too, and what makes it right to mask a history in
evaluation.) The first event has no intent yet, so it is an own interest or an accident.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from jaxtyping import Bool, Float, Int

from reclib.world.affinity import Affinity
from reclib.world.catalogue import Catalogue
from reclib.world.config import AdWorldConfig
from reclib.world.users import Users

SOURCES = ("own", "intent", "complementary", "returned", "noise")  # meaning of the codes 0 … 4
OWN, INTENT, COMPLEMENTARY, RETURNED, NOISE = range(5)
CHUNK = 1024  # users simulated at once; part of the world's definition, because each chunk has its own generators


@dataclass(eq=False)
class Minds:
    """Hidden states of `n` users, changed in place as they live on."""

    user: Int[np.ndarray, "n"]
    intent: Int[np.ndarray, "n"]  # topic, -1 = none yet
    interest: Int[np.ndarray, "n slots"]  # topics
    strength: Float[np.ndarray, "n slots"]  # a_k, standard deviation interest_sigma
    awake: Bool[np.ndarray, "n slots"]
    woke: Bool[np.ndarray, "n slots"]  # woke up and was not used since

    def take(self, rows: np.ndarray | slice) -> Minds:
        """Some of the users. With a slice the arrays are views, so changes reach the original."""
        return Minds(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    def copy(self) -> Minds:
        """An independent copy."""
        return Minds(**{f.name: getattr(self, f.name).copy() for f in fields(self)})

    def weights(self) -> Float[np.ndarray, "n slots"]:
        """w_k ∝ awake_k exp(a_k), summing to 1."""
        w = np.where(self.awake, np.exp(self.strength), 0.0)
        out: np.ndarray = w / w.sum(1, keepdims=True)
        return out


@dataclass(frozen=True, eq=False)
class Trace:
    """The hidden side of a log: one row per event, in the order of the log, and the minds at its end."""

    intent_before: Int[np.ndarray, "events"]  # topic of the intent before the event, -1 = none yet
    interest: Int[np.ndarray, "events slots"]  # own interests before the event
    weight: Float[np.ndarray, "events slots"]  # their weights, 0 = asleep
    source: Int[np.ndarray, "events"]  # code of what caused the event, see SOURCES
    final: Minds  # every user's mind after the last event and one more step of drift
    log_normaliser: Float[np.ndarray, "users topics"]  # log N(u, z) over all ads of the topic


def newborn(config: AdWorldConfig, users: Users, who: Int[np.ndarray, "n"], rng: np.random.Generator) -> Minds:
    """Minds drawn from the long-run law of their interests."""
    shape = (len(who), config.n_interests)
    logits = users.interest_logits[users.persona[who]]
    # Gumbel top-k: different topics, drawn one after the other with P ∝ exp(logits).
    interest = np.argsort(-(logits + rng.gumbel(size=logits.shape)), axis=1)[:, : config.n_interests]
    strength = config.interest_sigma * rng.standard_normal(shape)
    awake = rng.random(shape) < config.awake_events / (config.awake_events + config.sleep_events)
    awake[~awake.any(1), 0] = True
    none = np.full(len(who), -1)
    return Minds(who.copy(), none, interest.copy(), strength, awake, np.zeros(shape, dtype=bool))


def drift(minds: Minds, config: AdWorldConfig, users: Users, rng: np.random.Generator) -> None:
    """One event's worth of change in the interests, in place."""
    shape = minds.interest.shape
    phi = np.exp(-1 / config.drift_events)
    minds.strength *= phi
    minds.strength += np.sqrt(1 - phi**2) * config.interest_sigma * rng.standard_normal(shape)
    u = rng.random(shape)
    fall = minds.awake & (u < 1 / config.awake_events)
    fall[~(minds.awake & ~fall).any(1)] = False  # one stays awake
    rise = ~minds.awake & (u < 1 / config.sleep_events)
    minds.awake[...] = (minds.awake & ~fall) | rise
    minds.woke[...] = (minds.woke | rise) & minds.awake
    row, slot = np.nonzero(rng.random(shape) < 1 / config.interest_lifetime)
    logits = users.interest_logits[users.persona[minds.user[row]]]
    score = logits + rng.gumbel(size=logits.shape)
    np.put_along_axis(score, minds.interest[row], -np.inf, axis=1)  # a new interest is none of the present ones
    fresh = score.argmax(1)
    # Two slots of one user may be replaced at once; only the first of them is, so that interests stay different.
    first = np.unique(row, return_index=True)[1]
    row, slot, fresh = row[first], slot[first], fresh[first]
    minds.interest[row, slot] = fresh
    minds.strength[row, slot] = config.interest_sigma * rng.standard_normal(len(row))
    minds.awake[row, slot] = True
    minds.woke[row, slot] = False


def topic_choices(
    config: AdWorldConfig,
    catalogue: Catalogue,
    intent: Int[np.ndarray, "n"],
    interest: Int[np.ndarray, "n slots"],
    weight: Float[np.ndarray, "n slots"],
) -> tuple[Int[np.ndarray, "n choices"], Float[np.ndarray, "n choices"]]:
    """Where a genuine click may go: topics (own interests, then the intent, then its complements) and shares."""
    tree = catalogue.tree
    has_intent = (intent >= 0)[:, None]
    topics = np.hstack([interest, intent[:, None], tree.complements[intent]])
    shares = np.hstack(
        [
            config.return_share * weight,
            config.stay_share * has_intent,
            config.complement_share * tree.complement_share * has_intent,
        ]
    )
    return topics, shares / shares.sum(1, keepdims=True)


def act(
    minds: Minds,
    config: AdWorldConfig,
    catalogue: Catalogue,
    users: Users,
    log_odds: Float[np.ndarray, "n items"],
    clicked: Bool[np.ndarray, "n items"],
    left: Int[np.ndarray, "n topics"],
    rng: tuple[np.random.Generator, np.random.Generator, np.random.Generator],
) -> tuple[Int[np.ndarray, "n"], Int[np.ndarray, "n"]]:
    """One event per user: source and ad. Moves the intents and keeps `clicked` and `left` up to date.

    Args:
        log_odds: log exposure_i + s(u, i).
        clicked: ads each user has clicked before; column 0 is ignored.
        left: ads of each topic that the user has not clicked.
        rng: of accidents, of topics, and of ads.
    """
    accident_rng, topic_rng, item_rng = rng
    n, slots = minds.interest.shape
    rows = np.arange(n)
    topics, shares = topic_choices(config, catalogue, minds.intent, minds.interest, minds.weights())
    cumulative = np.cumsum(shares * (left[rows[:, None], topics] > 0), axis=1)
    total = cumulative[:, -1]
    noise = (accident_rng.random(n) < users.noise_rate[minds.user]) | (total <= 0)
    draw = (cumulative <= topic_rng.random((n, 1)) * total[:, None]).sum(1)
    choice = np.where(noise, 0, np.minimum(draw, topics.shape[1] - 1))

    source = np.select([choice < slots, choice == slots], [OWN, INTENT], COMPLEMENTARY)
    slot = np.minimum(choice, slots - 1)
    own = ~noise & (choice < slots)
    source[own & minds.woke[rows, slot]] = RETURNED
    source[noise] = NOISE
    minds.woke[rows[own], slot[own]] = False

    candidate = catalogue.topic_items[topics[rows, choice]]  # [n, widest]
    score = log_odds[rows[:, None], candidate] + item_rng.gumbel(size=candidate.shape)
    score[(candidate == 0) | clicked[rows[:, None], candidate]] = -np.inf
    item = candidate[rows, score.argmax(1)]
    item[noise] = _accidents(catalogue, clicked[noise], item_rng)

    minds.intent[~noise] = topics[rows, choice][~noise]
    clicked[rows, item] = True
    left[rows, catalogue.topic[item]] -= 1
    return source, item


def _accidents(
    catalogue: Catalogue, clicked: Bool[np.ndarray, "n items"], rng: np.random.Generator
) -> Int[np.ndarray, "n"]:
    """Ads drawn by exposure among those not clicked yet: draw from all, draw again where it was clicked before."""
    ladder = np.cumsum(catalogue.exposure[1:])
    item = np.zeros(len(clicked), dtype=np.int64)
    open_rows = np.arange(len(clicked))
    while len(open_rows):
        draw = 1 + np.searchsorted(ladder, rng.random(len(open_rows)) * ladder[-1], side="right")
        item[open_rows] = np.minimum(draw, catalogue.n_items)
        open_rows = open_rows[clicked[open_rows, item[open_rows]]]
    return item


def live(
    config: AdWorldConfig,
    catalogue: Catalogue,
    users: Users,
    affinity: Affinity,
    length: Int[np.ndarray, "users"],
    stream: int,
) -> tuple[Int[np.ndarray, "events"], Trace]:
    """Everybody's whole life: the ads clicked, sorted by user and order, and the hidden trace.

    The loop is over events, never over users; users of one chunk are sorted by length, so that those still
    active are a prefix.

    Args:
        stream: number that keeps this function's random numbers apart from all others of the seed.
    """
    n_users, n_events, slots = len(users), int(length.sum()), config.n_interests
    begin = np.cumsum(length) - length
    item = np.zeros(n_events, dtype=np.int64)
    trace = Trace(
        intent_before=np.zeros(n_events, dtype=np.int16),
        interest=np.zeros((n_events, slots), dtype=np.int16),
        weight=np.zeros((n_events, slots), dtype=np.float32),
        source=np.zeros(n_events, dtype=np.int8),
        final=newborn(config, users, np.arange(n_users), np.random.default_rng([config.seed, stream, 0])),
        log_normaliser=np.zeros((n_users, config.n_topics)),
    )
    log_exposure = np.log(np.maximum(catalogue.exposure, 1e-300))
    order, starts = catalogue.by_topic
    for chunk in range(0, n_users, CHUNK):
        who = np.arange(chunk, min(chunk + CHUNK, n_users))
        who = who[np.argsort(-length[who], kind="stable")]
        rng = [np.random.default_rng([config.seed, stream, 1 + chunk // CHUNK, k]) for k in range(5)]
        log_odds = affinity.rows(who)
        log_odds += log_exposure
        trace.log_normaliser[who] = np.log(np.add.reduceat(np.exp(log_odds[:, order]), starts, axis=1))
        clicked = np.zeros(log_odds.shape, dtype=bool)
        left = np.tile(np.bincount(catalogue.topic[1:]), (len(who), 1))
        minds = newborn(config, users, who, rng[0])
        for t in range(int(length[who].max())):
            active = slice(0, int((length[who] > t).sum()))
            now = minds.take(active)
            at = begin[who[active]] + t
            trace.intent_before[at] = now.intent
            trace.interest[at] = now.interest
            trace.weight[at] = now.weights()
            trace.source[at], item[at] = act(
                now, config, catalogue, users, log_odds[active], clicked[active], left[active], (rng[2], rng[3], rng[4])
            )
            drift(now, config, users, rng[1])
        for f in fields(minds):
            getattr(trace.final, f.name)[who] = getattr(minds, f.name)
    return item, trace
