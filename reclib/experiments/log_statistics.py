"""What a log looks like before any model sees it, measured in the same way for simulated and real ones."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import sparse

from reclib.data.interactions import Interactions


def lorenz(counts: Int[np.ndarray, "items"], shares: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    """Share of all events that the most popular `shares` of the catalogue take, linear between items (Lorenz, 1905).

    Args:
        counts: events per item; items nobody touched count as part of the catalogue.
        shares: of the catalogue, each in [0, 1].
    """
    ranked = np.sort(counts)[::-1]
    taken = np.concatenate([[0.0], np.cumsum(ranked) / max(ranked.sum(), 1)])
    out: np.ndarray = np.interp(shares, np.arange(len(taken)) / len(counts), taken)
    return out


def gini(counts: Int[np.ndarray, "items"]) -> float:
    """0 if all items are equally popular, towards 1 if one takes everything: twice the area above the diagonal."""
    ranked = np.sort(counts)
    n, total = len(ranked), ranked.sum()
    if total == 0:
        raise ValueError("counts: sum to 0, so no item is more popular than another; give at least one event")
    return float(2 * (np.arange(1, n + 1) * ranked).sum() / (n * total) - (n + 1) / n)


def item_labels(log: Interactions) -> sparse.csr_matrix:
    """What each item is about, as 0 and 1, `[items + 1, labels]`: levels of the industry tree, genres or categories.

    Raises:
        ValueError: the item table has none of these.
    """
    table = log.items
    if {"industry", "sector", "topic"} <= set(table.columns):
        words: Iterable[set[str]] = (set(row) for row in table[["industry", "sector", "topic"]].to_numpy())
    elif "genres" in table:
        words = (set(genres.split("|")) for genres in table["genres"])
    elif "categories" in table:
        words = (set() if categories is None else set(categories) for categories in table["categories"])
    else:
        raise ValueError(f"log: the items of {log.name} have no topic, genres or categories, so drift cannot be seen")
    words = list(words)
    number = {word: n for n, word in enumerate(sorted(set().union(*words)))}
    row = np.repeat(np.arange(1, len(words) + 1), [len(w) for w in words])
    column = np.array([number[word] for w in words for word in w], dtype=np.int64)
    return sparse.csr_matrix((np.ones(len(row)), (row, column)), shape=(len(words) + 1, max(len(number), 1)))


def drift(
    log: Interactions, lags: Int[np.ndarray, "n"], rng: np.random.Generator, pairs: int = 200_000
) -> Float[np.ndarray, "n"]:
    """How alike two events of one user are, by the number of events between them: 0 = like any two events of the log.

        drift(Δ) = (J(Δ) - J₀) / (J(1) - J₀)

    J(Δ) is the mean Jaccard overlap of the labels of a user's events t and t + Δ, J₀ that of two random events. So the
    curve starts at 1, and falls as fast as interests wander off. Large lags speak about users with long histories only.

    Args:
        lags: in events.
        rng: draws the pairs.
        pairs: drawn per lag, at most.

    Returns:
        One value per lag, NaN where no user has so long a history.
    """
    labels = item_labels(log)
    size = np.asarray(labels.sum(1)).ravel()

    def overlap(first: np.ndarray, second: np.ndarray) -> float:
        both = np.asarray(labels[first].multiply(labels[second]).sum(1)).ravel()
        return float((both / np.maximum(size[first] + size[second] - both, 1)).mean())

    def at(lag: int) -> float:
        start = np.flatnonzero(log.user[:-lag] == log.user[lag:]) if lag < len(log) else np.array([], dtype=np.int64)
        if len(start) == 0:
            return float("nan")
        start = start if len(start) <= pairs else rng.choice(start, pairs, replace=False)
        return overlap(log.item[start], log.item[start + lag])

    chance = overlap(log.item[rng.integers(len(log), size=pairs)], log.item[rng.integers(len(log), size=pairs)])
    near = at(1)
    return (np.array([near if lag == 1 else at(int(lag)) for lag in lags]) - chance) / (near - chance)


def ascends(log: Interactions, column: str = "asin") -> Bool[np.ndarray, "events"]:
    """True where an event's item has the larger product code than the same user's event before; first events: false."""
    if column not in log.items:
        known = ", ".join(log.items.columns)
        raise ValueError(f"column: the items of {log.name} have no {column!r}; choose one of {known}")
    place = np.concatenate([[-1], log.items[column].rank(method="dense").to_numpy()])[log.item]
    out = np.zeros(len(log), dtype=bool)
    out[1:] = (log.user[1:] == log.user[:-1]) & (place[1:] > place[:-1])
    return out


def first_seen(log: Interactions) -> Float[np.ndarray, "items"]:
    """The moment of each item's first event, infinity if there is none; column 0 is padding."""
    if log.time is None:
        raise ValueError(f"time: {log.name} has no time stamps, so nobody knows what existed when")
    first = np.full(log.n_items + 1, np.inf)
    np.minimum.at(first, log.item, log.time)
    return first
