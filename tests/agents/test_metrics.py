"""pass@k and pass^k against the enumeration of all subsets, and against the published board."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from inspect_ai.scorer import Score, pass_at, pass_k

from reclib.agents import pass_at_k, pass_hat_k


@pytest.mark.parametrize(
    ("n", "c", "k", "at", "hat"),
    [
        (3, 1, 1, 1 / 3, 1 / 3),
        (3, 1, 2, 2 / 3, 0),
        (3, 1, 3, 1, 0),
        (3, 2, 2, 1, 1 / 3),
        (5, 2, 2, 0.7, 0.1),
        (8, 5, 3, 0.982143, 0.178571),
        (3, 0, 1, 0, 0),
        (3, 3, 3, 1, 1),
    ],
)
def test_by_hand(n, c, k, at, hat):
    assert float(pass_at_k(n, c, k)) == pytest.approx(at, abs=1e-6)
    assert float(pass_hat_k(n, c, k)) == pytest.approx(hat, abs=1e-6)


@given(st.integers(1, 8).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_both_are_means_over_all_subsets_and_what_inspect_says(case):
    n, c, k = case
    runs = [True] * c + [False] * (n - c)
    subsets = list(combinations(runs, k))
    at, hat = float(pass_at_k(n, c, k)), float(pass_hat_k(n, c, k))
    assert at == pytest.approx(np.mean([any(s) for s in subsets]))
    assert hat == pytest.approx(np.mean([all(s) for s in subsets]))
    scores = [Score(value=float(run)) for run in runs]
    assert at == pytest.approx(pass_at(k)(scores).value)
    assert hat == pytest.approx(pass_k(k)(scores).value)


def test_too_few_runs_are_unknown_and_not_zero():
    assert np.isnan(pass_at_k(2, 1, 3))
    assert np.isnan(pass_at_k(0, 0, 1))
    found = pass_hat_k([2, 3], [2, 3], 3)
    assert np.isnan(found[0])
    assert found[1] == 1


def test_one_value_per_task_without_overflow():
    assert pass_at_k([3, 3], [0, 3], 1).tolist() == [0, 1]
    assert pass_at_k(3, [0, 1, 3], 1).shape == (3,)
    assert float(pass_at_k(10_000, 5_000, 500)) == pytest.approx(1)
    assert float(pass_hat_k(10_000, 9_999, 5_000)) == pytest.approx(0.5)


def test_the_plug_in_is_biased():
    """n = 5, c = 2, k = 2: the usual shortcut says .64 where the mean over all pairs is .7."""
    assert pytest.approx(0.64) == 1 - (1 - 2 / 5) ** 2
    assert float(pass_at_k(5, 2, 2)) == pytest.approx(0.70)


def test_the_estimator_is_unbiased_for_a_known_agent():
    rng = np.random.default_rng(0)
    c = rng.binomial(8, 0.3, size=200_000)
    for k in (1, 2, 5, 8):
        at, hat = pass_at_k(8, c, k), pass_hat_k(8, c, k)
        assert at.mean() == pytest.approx(1 - 0.7**k, abs=4 * at.std() / np.sqrt(len(c)) + 1e-9)
        assert hat.mean() == pytest.approx(0.3**k, abs=4 * hat.std() / np.sqrt(len(c)) + 1e-9)


@pytest.mark.parametrize(
    ("n", "c", "k", "message"),
    [
        (3, 4, 1, "c: must lie between 0 and n"),
        (3, -1, 1, "c: must lie between 0 and n"),
        (3, 1, 0, "k: must be at least 1, got 0"),
        (3, 1.5, 1, "c: counts runs, so it must be whole"),
        (np.nan, 1, 1, "n: counts runs, so it must be whole"),
    ],
)
def test_bad_input_is_named(n, c, k, message):
    with pytest.raises(ValueError, match=message):
        pass_at_k(n, c, k)


# The published board (v1): pass@1 and pass@3 in percent, all tasks and by level; then the counts that give them.
BOARD = {
    "Gemini-3-Pro": ((68.0, 83.0), (77.8, 91.7), (74.5, 91.5), (49.4, 62.1), (56, 105, 43), (22, 43, 18)),
    "o3": ((69.0, 82.0), (86.1, 91.7), (75.9, 91.5), (43.7, 58.6), (62, 107, 38), (22, 43, 17)),
    "GPT-5.1": ((64.7, 82.0), (88.9, 95.8), (66.7, 83.0), (41.4, 69.0), (64, 94, 36), (23, 39, 20)),
    "HY-2.0": ((65.7, 82.0), (84.7, 87.5), (70.2, 91.5), (42.5, 62.1), (61, 99, 37), (21, 43, 18)),
    "GLM-4.7": ((64.7, 81.0), (72.2, 87.5), (72.3, 91.5), (46.0, 58.6), (52, 102, 40), (21, 43, 17)),
    "DeepSeek-V3": ((68.3, 80.0), (81.9, 87.5), (74.5, 87.2), (47.1, 62.1), (59, 105, 41), (21, 41, 18)),
    "Kimi-K2": ((64.0, 79.0), (83.3, 91.7), (66.7, 85.1), (43.7, 58.6), (60, 94, 38), (22, 40, 17)),
    "Qwen3-235B": ((54.3, 68.0), (79.2, 87.5), (53.2, 72.3), (35.6, 44.8), (57, 75, 31), (21, 34, 13)),
    "Qwen3-32B": ((38.0, 59.0), (50.0, 70.8), (41.8, 63.8), (21.8, 41.4), (36, 59, 19), (17, 30, 12)),
    "Qwen3-8B": ((38.0, 58.0), (51.4, 79.2), (41.8, 61.7), (20.7, 34.5), (37, 59, 18), (19, 29, 10)),
}


def counts(successes, solved, tasks):
    """One way to spread successes over three runs of each task so that `solved` tasks have at least one."""
    c, extra = np.zeros(tasks, dtype=int), successes - solved
    c[:solved] = 1
    for task in range(solved):
        more = min(2, extra)
        c[task] += more
        extra -= more
    assert extra == 0
    return c


@pytest.mark.parametrize("model", BOARD)
def test_every_cell_of_the_board_fits_three_runs_per_task(model):
    """So the board's Pass@1 is the mean over three runs, and its Pass@3 is any of three, not pass^3."""
    *cells, successes, solved = BOARD[model]
    tasks = (24, 47, 29)
    levels = [counts(s, a, n) for s, a, n in zip(successes, solved, tasks, strict=True)]
    for (one, three), c in zip(cells, [np.concatenate(levels), *levels], strict=True):
        assert 100 * pass_at_k(3, c, 1).mean() == pytest.approx(one, abs=0.05)
        assert 100 * pass_at_k(3, c, 3).mean() == pytest.approx(three, abs=0.05)
