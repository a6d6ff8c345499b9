"""Counts as text: the sheet's four people by hand, ties, placebo, and a store that never fails."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reclib.data import Interactions
from reclib.reasoning.collaborative_text import (
    NO_ENTRY,
    TextStore,
    choices,
    item_cf,
    item_counts,
    neighbours,
    user_cf,
    user_counts,
    verbalise,
)

NAMES, TOPICS = ["", "A", "B", "C"], ["", "x", "y", "y"]


def log(pairs, n_items=3):
    user, item = np.array(pairs, dtype=np.int64).T
    items = pd.DataFrame({"topic": ["x"] * n_items}, index=pd.RangeIndex(1, n_items + 1, name="item_id"))
    return Interactions(user=user, item=item, time=None, n_items=n_items, items=items)


# u1 {A, B}, u2 {A, C}, u3 {B, C}, u4 {A, B}
FOUR = log([(0, 1), (0, 2), (1, 1), (1, 3), (2, 2), (2, 3), (3, 1), (3, 2)])


def test_item_cf_by_hand():
    counts = item_counts(choices(FOUR))
    assert counts[1].tolist() == [0, 0, 2, 1]  # A: B twice, C once
    store = item_cf(choices(FOUR), NAMES, TOPICS)
    assert store("item_cf", "A") == "also chose B C theme y"
    assert store("item_cf", "C") == "also chose A B theme x y"  # once each: the smaller id first


def test_user_cf_by_hand():
    shared = neighbours(choices(FOUR), 3).toarray()
    assert shared[0].tolist() == [0, 1, 1, 2]  # u4 shares two, u2 and u3 one each
    counts = user_counts(choices(FOUR), 3)
    assert counts[0].tolist() == [0, 0, 0, 2]  # only C is new, and u2 and u3 speak for it
    assert user_cf(choices(FOUR), NAMES, TOPICS)("user_cf", "0") == "similar chose C theme y"
    nearest = neighbours(choices(FOUR), 2).toarray()
    assert nearest[0].tolist() == [0, 1, 0, 2]  # of u2 and u3, who tie, the smaller number


def test_repeats_and_newcomers_count_once_and_nothing():
    twice = log([(0, 1), (0, 1), (0, 2), (1, 1), (1, 2)])
    assert item_counts(choices(twice))[1, 2] == 2
    newcomer = choices(FOUR, n_users=6)
    assert user_cf(newcomer, NAMES, TOPICS)("user_cf", "5") == NO_ENTRY


def test_a_store_answers_whatever_is_asked():
    store = item_cf(choices(FOUR), NAMES, TOPICS)
    for tool, key in (("item_cf", "Z"), ("teleport", "A"), ("", "")):
        assert store(tool, key) == NO_ENTRY
    both = store | user_cf(choices(FOUR), NAMES, TOPICS)
    assert len(both) == 3 + 4
    assert both.without(["item_cf"])("item_cf", "A") == NO_ENTRY
    assert len(both.without(["item_cf"])) == 4


def test_a_placebo_keeps_the_texts_and_loses_the_keys():
    store = TextStore({**{("a", str(i)): f"text {i}" for i in range(200)}, ("b", "0"): "stays"})
    dealt = store.shuffled(["a"], np.random.default_rng(0))
    assert sorted(dealt.entries.values()) == sorted(store.entries.values())
    assert dealt("b", "0") == "stays"
    assert sum(dealt("a", str(i)) == f"text {i}" for i in range(200)) < 8


@settings(max_examples=40, deadline=None)
@given(st.sets(st.tuples(st.integers(0, 7), st.integers(1, 9)), min_size=1))
def test_counts_are_what_loops_would_count(pairs):
    present = sorted({user for user, _ in pairs})
    pairs = sorted((present.index(user), item) for user, item in pairs)
    chosen = choices(log(pairs, n_items=9))
    has = {user: {item for u, item in pairs if u == user} for user in range(len(present))}
    counts = item_counts(chosen)
    for i in range(1, 10):
        for j in range(1, 10):
            assert counts[i, j] == (i != j) * sum({i, j} <= items for items in has.values())
    near = user_counts(chosen, 3)
    for user in has:
        others = sorted((-len(has[user] & has[v]), v) for v in has if v != user)[:3]
        for item in range(1, 10):
            expected = sum(-shared for shared, v in others if item in has[v]) * (item not in has[user])
            assert near[user, item] == expected


def test_sentences():
    names, topics = ["", *"PQRS"], ["", "t", "u", "t", "v"]
    assert verbalise("also chose", np.array([0, 1, 3, 2, 0.0]), names, topics, 8) == "also chose Q R P theme t u"
    assert verbalise("also chose", np.array([0, 1, 3, 2, 0.0]), names, topics, 1) == "also chose Q theme u"
    assert verbalise("also chose", np.zeros(5), names, topics, 8) == NO_ENTRY
    with pytest.raises(ValueError, match="size: must be at least 1"):
        neighbours(choices(FOUR), 0)
