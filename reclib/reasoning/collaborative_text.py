"""Who else chose this, as text: counts of a log become sentences that a language model can read.

Two tools of STAR (Wu et al., 2026), both computed beforehand and kept as key → text, so that asking costs a look-up:

- Item-CF: ad → people who chose it → the ads that most of them also chose;
- User-CF: person → people who share the most ads with them → what those chose and this person has not.

Everything is counted on the events that are passed in. Leave out what the model will be asked to predict.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int
from scipy import sparse

from reclib.data import Interactions
from reclib.nn.sizes import check_at_least

NO_ENTRY = "nothing known"  # what a tool answers to a key that it has no text for
THEMES = 2  # topics named behind a list of ads
ROWS = 1024  # users compared with all others at once


class TextStore:
    """Answers of tools, as text, by the name of the tool and a key. Asking never fails."""

    def __init__(self, entries: Mapping[tuple[str, str], str]) -> None:
        """Keep the texts: `{("item_cf", "tents_11"): "also chose lanterns_02 theme lanterns"}`."""
        self.entries = dict(entries)

    def __call__(self, tool: str, key: str) -> str:
        """The text of a key; `NO_ENTRY` for a tool or a key that nobody wrote a text for."""
        return self.entries.get((tool, key), NO_ENTRY)

    def __len__(self) -> int:
        return len(self.entries)

    def __or__(self, other: TextStore) -> TextStore:
        """The texts of both; `other` wins."""
        return TextStore(self.entries | other.entries)

    def without(self, tools: Iterable[str]) -> TextStore:
        """All but the texts of some tools."""
        gone = set(tools)
        return TextStore({entry: text for entry, text in self.entries.items() if entry[0] not in gone})

    def shuffled(self, tools: Iterable[str], rng: np.random.Generator) -> TextStore:
        """The placebo: the texts of each of these tools are dealt to its keys at random. Same words, no information."""
        entries = dict(self.entries)
        for tool in tools:
            keys = [entry for entry in entries if entry[0] == tool]
            order = rng.permutation(len(keys))
            texts = [entries[key] for key in keys]
            entries.update({key: texts[i] for key, i in zip(keys, order, strict=True)})
        return TextStore(entries)


# ------------------------------------------------------------------ counts


def choices(log: Interactions, n_users: int | None = None) -> sparse.csr_matrix:
    """R, who chose what: `[users, items + 1]` of 0 and 1; column 0 is padding.

    Args:
        log: the events to count.
        n_users: rows of the matrix, if users without any event are to have one too.
    """
    shape = (log.n_users if n_users is None else n_users, log.n_items + 1)
    chosen = sparse.coo_matrix((np.ones(len(log.item)), (log.user, log.item)), shape=shape).tocsr()
    chosen.data[:] = 1.0  # twice is not more than once
    return chosen


def item_counts(chosen: sparse.csr_matrix) -> Float[np.ndarray, "items items"]:
    """C = RᵀR: how many people chose both; 0 on the diagonal."""
    counts: np.ndarray = (chosen.T @ chosen).toarray()
    np.fill_diagonal(counts, 0.0)
    return counts


def neighbours(chosen: sparse.csr_matrix, size: int) -> sparse.csr_matrix:
    """S: ads in common with each of the `size` nearest people, `[users, users]`; ties go to the smaller number."""
    check_at_least(1, size=size)
    parts = []
    for first in range(0, chosen.shape[0], ROWS):
        shared = (chosen[first : first + ROWS] @ chosen.T).toarray()
        rows = np.arange(len(shared))
        shared[rows, rows + first] = 0.0
        near = best(shared, size)
        kept = np.zeros_like(shared)
        np.put_along_axis(kept, near, np.take_along_axis(shared, near, axis=1), axis=1)
        parts.append(sparse.csr_matrix(kept))
    return sparse.vstack(parts).tocsr()


def user_counts(chosen: sparse.csr_matrix, size: int) -> Float[np.ndarray, "users items"]:
    """S R without what the person has: how strongly the neighbours speak for each ad."""
    counts: np.ndarray = (neighbours(chosen, size) @ chosen).toarray()
    counts[chosen.nonzero()] = 0.0
    return counts


def best(scores: Float[np.ndarray, "rows columns"], size: int) -> Int[np.ndarray, "rows size"]:
    """Columns of the largest scores of each row, largest first; ties go to the smaller column."""
    order: np.ndarray = np.argsort(-scores, axis=1, kind="stable")[:, :size]
    return order


# ------------------------------------------------------------------ sentences


def verbalise(
    verb: str,
    scores: Float[np.ndarray, "columns"],
    names: Sequence[str],
    topics: Sequence[str],
    size: int,
    themes: int = THEMES,
) -> str:
    """Collaborative Signal Translation: `VERB ad ad … theme topic …`; `NO_ENTRY` where every score is 0.

    Args:
        verb: the first words, such as "also chose".
        scores: one per ad; zeros are not named.
        names, topics: of the ads, indexed as the scores are.
        size: ads named at most, those of the largest scores first.
        themes: topics named at most, those of most of the named ads first, then in the order of the list.
    """
    named = [int(i) for i in best(scores[None], size)[0] if scores[i] > 0]
    if not named:
        return NO_ENTRY
    common = Counter(topics[i] for i in named).most_common(themes)
    return " ".join([verb, *(names[i] for i in named), "theme", *(topic for topic, _ in common)])


def item_cf(
    chosen: sparse.csr_matrix, names: Sequence[str], topics: Sequence[str], *, size: int = 8, themes: int = THEMES
) -> TextStore:
    """Item-CF, keyed by the name of an ad: "also chose …".

    Args:
        chosen: see `choices`.
        names, topics: `[items + 1]`, entry 0 for padding.
        size: ads a text names at most.
        themes: topics a text names at most.
    """
    counts = item_counts(chosen)
    texts = {
        ("item_cf", names[i]): verbalise("also chose", counts[i], names, topics, size, themes)
        for i in range(1, len(names))
    }
    return TextStore(texts)


def user_cf(
    chosen: sparse.csr_matrix,
    names: Sequence[str],
    topics: Sequence[str],
    *,
    size: int = 8,
    themes: int = THEMES,
    neighbourhood: int = 50,
) -> TextStore:
    """User-CF, keyed by the number of a person: "similar chose …"; arguments as for `item_cf`.

    Args:
        neighbourhood: people whose choices count.
    """
    counts = user_counts(chosen, neighbourhood)
    texts = {
        ("user_cf", str(user)): verbalise("similar chose", row, names, topics, size, themes)
        for user, row in enumerate(counts)
    }
    return TextStore(texts)
