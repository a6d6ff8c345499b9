"""Plackett–Luce by hand, by enumeration and by counting draws."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, chisquare
from torch.testing import assert_close

from reclib.reasoning import plackett_luce as pl

DOUBLE = torch.float64
THREE = [1.0, 0.0, -1.0]
FIVE = [0.5, -0.3, 1.2, 0.0, -1.0]
FOUR = [12.0, 0.0, -3.0, 5.0]


def tensor(values):
    return torch.tensor(values, dtype=DOUBLE)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=seeded(seed), dtype=DOUBLE)


def every_ranking(n, length=None):
    return torch.tensor(list(itertools.permutations(range(n), length)))


# ------------------------------------------------------------------ 1: the log-probability


def test_the_log_probability_by_hand():
    found = pl.ranking_log_prob(tensor(THREE), torch.tensor([[0, 1, 2]]))
    assert float(found) == pytest.approx(-0.720868, abs=5e-7)
    by_hand = math.log(math.e / (math.e + 1 + 1 / math.e)) + math.log(1 / (1 + 1 / math.e))
    assert float(found) == pytest.approx(by_hand, abs=1e-12)


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("tau", [0.5, 1.0, 3.0])
def test_probabilities_sum_to_one_partial_draws_too(length, tau):
    found = pl.ranking_log_prob(tensor(FIVE), every_ranking(5, length), tau=tau).exp()
    assert float(found.sum()) == pytest.approx(1, abs=1e-12)


def test_a_partial_draw_is_the_sum_of_its_completions():
    whole = pl.ranking_log_prob(tensor(FIVE), every_ranking(5)).exp()
    begins = (every_ranking(5)[:, :2] == torch.tensor([3, 0])).all(1)
    partial = pl.ranking_log_prob(tensor(FIVE), torch.tensor([[3, 0]])).exp()
    assert_close(partial[0], whole[begins].sum())


def test_the_log_probability_is_that_of_a_plain_loop_gradient_too():
    scores, rankings = random(3, 6).requires_grad_(), pl.draw_rankings(random(3, 6), 4, length=4, generator=seeded())
    fast = pl.ranking_log_prob(scores, rankings, tau=0.7)
    slow = torch.zeros(3, 4, dtype=DOUBLE)
    for row in range(3):
        for sample in range(4):
            left = list(range(6))
            total = torch.zeros((), dtype=DOUBLE)
            for item in rankings[row, sample].tolist():
                total = total + scores[row, item] / 0.7 - torch.logsumexp(scores[row, left] / 0.7, 0)
                left.remove(item)
            slow[row, sample] = total
    assert_close(fast, slow)
    weights = random(3, 4, seed=1)
    (one,), (other,) = (torch.autograd.grad((x * weights).sum(), scores) for x in (fast, slow))
    assert_close(one, other)


def test_the_log_probability_is_single_precision_at_least():
    scores = random(2, 30).bfloat16()
    assert pl.ranking_log_prob(scores, pl.draw_rankings(scores, 1)).dtype == torch.float32


def test_entropy_is_log_n_for_equals_and_nothing_for_a_winner():
    assert float(pl.first_place_entropy(torch.zeros(7))) == pytest.approx(math.log(7))
    assert float(pl.first_place_entropy(tensor([60, 0, 0]))) == pytest.approx(0, abs=1e-12)
    assert pl.first_place_entropy(tensor(FIVE), tau=0.1) < pl.first_place_entropy(tensor(FIVE))


# ------------------------------------------------------------------ 5: draws


@pytest.mark.parametrize("length", [None, 2])
def test_gumbel_draws_have_the_right_frequencies(length):
    scores, tau, draws = tensor([0.5, -0.3, 1.2, 0.0]), 0.8, 100_000
    rankings = pl.draw_rankings(scores, draws, tau=tau, length=length, generator=seeded(3))
    possible = every_ranking(4, length)
    base = 5 ** torch.arange(possible.shape[1])
    number = {int(code): i for i, code in enumerate((possible * base).sum(1))}
    seen = torch.bincount(
        torch.tensor([number[int(code)] for code in (rankings * base).sum(1)]), minlength=len(possible)
    )
    expected = pl.ranking_log_prob(scores, possible, tau=tau).exp() * draws
    assert chisquare(seen, expected).pvalue > 0.001
    wrong = pl.ranking_log_prob(scores, possible, tau=1.0).exp() * draws
    assert chisquare(seen, wrong).pvalue < 1e-10  # the test can fail


def test_draws_repeat_with_their_generator():
    first, again, other = (pl.draw_rankings(random(5, 20), 3, generator=seeded(s)) for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.isfinite(pl.gumbel_noise((100_000,), seeded())).all()


# ------------------------------------------------------------------ 2: the exact expectation

TABLE = [
    ([0.0, 0.0], 0, None, 0.8154648768),
    ([0.0, 0.0, 0.0], 0, None, 0.7103099179),
    (THREE, 0, None, 0.8694606730),
    (THREE, 1, None, 0.6892095123),
    (THREE, 2, None, 0.5722595683),
    (THREE, 1, 2, 0.5668452768),
    (FIVE, 2, None, 0.7683429661),
    (FIVE, 4, 3, 0.1598424377),
    (FOUR, 1, None, 0.4975906975),
    (FOUR, 2, 2, 0.0002102797),
    ([10.0] + [0.0] * 19, 0, 10, 0.9996818227),
]


@pytest.mark.parametrize(("scores", "positive", "k", "value"), TABLE)
def test_expected_ndcg_is_the_table(scores, positive, k, value):
    found = float(pl.expected_ndcg(tensor(scores), torch.tensor(positive), k))
    assert found == pytest.approx(value, abs=1e-10)
    if len(scores) <= 5:
        by_hand = float(pl.expected_ndcg_by_enumeration(tensor(scores), positive, k))
        assert found == pytest.approx(by_hand, abs=1e-10)


def test_a_positive_far_below_the_others_keeps_its_digits():
    found = float(pl.expected_ndcg(tensor([-10.0] + [0.0] * 19), torch.tensor(0), 10))
    assert found == pytest.approx(1.3776e-5, abs=5e-10)
    assert gauss_legendre(tensor([0.0] * 20)) == pytest.approx(0.227178, abs=5e-7)  # the obvious rule is right here
    assert gauss_legendre(tensor([-10.0] + [0.0] * 19)) < 1e-12  # and misses everything here


def gauss_legendre(scores):
    """E[NDCG@10] of item 0 among 19 equals by 64 points in v = exp(-arrival time), P(j first) = 1 - v^(w_j / w_0)."""
    node, weight = np.polynomial.legendre.leggauss(64)
    first = 1 - ((node + 1) / 2) ** math.exp(float(scores[1] - scores[0]))
    places = binom.pmf(np.arange(20), 19, first[:, None])
    return float((weight / 2) @ places @ pl.ndcg_weights(20, 10).numpy())


def test_random_order_is_the_floor():
    for scores in (torch.zeros(20, dtype=DOUBLE), torch.full((20,), 3.0, dtype=DOUBLE)):
        assert float(pl.expected_ndcg(scores, torch.tensor(4), 10)) == pytest.approx(0.227178, abs=5e-7)
        assert float(pl.ndcg_of_scores(scores, torch.tensor(4), 10)) == pytest.approx(0.227178, abs=5e-7)
        assert float(pl.expected_ndcg(scores, torch.tensor(4))) == pytest.approx(0.352013, abs=5e-7)


def test_places_are_a_distribution_and_that_of_a_count():
    scores, positive = random(4, 6), torch.tensor([0, 3, 5, 2])
    found = pl.rank_distribution(scores, positive, tau=0.9)
    assert_close(found.sum(-1), torch.ones(4, dtype=DOUBLE))
    rankings = every_ranking(6)
    for row in range(4):
        chance = pl.ranking_log_prob(scores[row], rankings, tau=0.9).exp()
        place = (rankings == positive[row]).long().argmax(1)
        assert_close(found[row], torch.zeros(6, dtype=DOUBLE).index_add(0, place, chance), atol=1e-10, rtol=0)


def test_extreme_gaps_have_finite_gradients():
    scores = tensor([[900.0, 0.0, -900.0]] * 3).requires_grad_()
    value = pl.expected_ndcg(scores, torch.tensor([0, 1, 2]))
    assert_close(value, pl.ndcg_weights(3), atol=1e-9, rtol=0)
    value.sum().backward()
    assert torch.isfinite(scores.grad).all()


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.floats(-6, 6), min_size=2, max_size=6),
    st.integers(0, 5),
    st.floats(0.3, 3),
    st.sampled_from([None, 1, 3]),
)
def test_expected_ndcg_is_the_enumeration(values, positive, tau, k):
    positive %= len(values)
    found = pl.expected_ndcg(tensor(values), torch.tensor(positive), k, tau=tau)
    expected = pl.expected_ndcg_by_enumeration(tensor(values), positive, k, tau=tau)
    assert_close(found, expected, atol=1e-9, rtol=0)
    shifted = pl.expected_ndcg(tensor(values) + 5, torch.tensor(positive), k, tau=tau)
    assert_close(found, shifted, atol=1e-9, rtol=0)


# ------------------------------------------------------------------ the reward


def test_ndcg_by_hand():
    ranking = torch.tensor([[2, 0, 1], [0, 1, 2]])
    found = pl.ndcg(ranking, torch.tensor(2))
    assert_close(found, tensor([1, 0.5]))
    assert_close(pl.ndcg(ranking, torch.tensor(2), 2), tensor([1, 0]))
    assert_close(pl.ndcg(ranking[:, :2], torch.tensor(1)), tensor([0, 1 / math.log2(3)]))


def test_ties_are_the_mean_of_their_orders():
    scores = tensor([1, 0, 1, 1, -2])
    assert float(pl.ndcg_of_scores(scores, torch.tensor(2))) == pytest.approx((1 + 1 / math.log2(3) + 0.5) / 3)
    assert float(pl.ndcg_of_scores(scores, torch.tensor(1))) == pytest.approx(1 / math.log2(5))
    cold = pl.expected_ndcg(random(30, 8), torch.arange(30) % 8, tau=1e-5)
    assert_close(cold, pl.ndcg_of_scores(random(30, 8), torch.arange(30) % 8), atol=1e-6, rtol=0)


# ------------------------------------------------------------------ 3 and 4: gradients


def test_the_gradient_by_hand_and_by_finite_differences():
    scores, positive = tensor(THREE).requires_grad_(), torch.tensor(1)
    (gradient,) = torch.autograd.grad(pl.expected_ndcg(scores, positive), scores)
    assert_close(gradient, tensor([-0.064512, 0.095502, -0.030989]), atol=6e-7, rtol=0)
    assert float(gradient.sum()) == pytest.approx(0, abs=1e-12)
    small = 1e-5 * torch.eye(3, dtype=DOUBLE)
    rise = [pl.expected_ndcg_by_enumeration(scores.detach() + d, 1) for d in (*small, *-small)]
    assert_close(gradient, (torch.stack(rise[:3]) - torch.stack(rise[3:])) / 2e-5, atol=1e-7, rtol=0)
    assert_close(-torch.autograd.grad(pl.exact_ranking_loss(scores, positive), scores)[0], gradient)


REPEATS, M = 20_000, 4


def estimates(scores, positive, loss, repeats=REPEATS, tau=1.0, seed=0):
    """Minus the gradient of a loss for many groups of M rankings: [repeats, items]."""
    rows = tensor(scores).expand(repeats, len(scores)).clone().requires_grad_()
    where = torch.full((repeats,), positive)
    ranking = pl.draw_rankings(rows, M, tau=tau, generator=seeded(seed))
    if loss is pl.pl_rank_loss:
        value = loss(rows, ranking, where, tau=tau)
    else:
        value = loss(rows, ranking, pl.ndcg(ranking, where), tau=tau)
    return -torch.autograd.grad(value.sum(), rows)[0]


@pytest.mark.parametrize(
    ("loss", "variance"),
    [
        (pl.reinforce_ranking_loss, [0.0448, 0.0457, 0.0227]),
        (pl.leave_one_out_ranking_loss, [0.0037, 0.0045, 0.0024]),
        (pl.pl_rank_loss, [0.0384, 0.0013, 0.0166]),  # ours: quiet about the positive, loud about the others
    ],
)
def test_estimates_are_unbiased_and_as_noisy_as_they_should_be(loss, variance):
    found = estimates(THREE, 1, loss)
    error = found.mean(0) - tensor([-0.064512, 0.095502, -0.030989])
    assert (error.abs() < 5 * found.std(0) / math.sqrt(REPEATS)).all()
    assert (error.abs() < 0.008).all()
    assert_close(found.var(0), tensor(variance), rtol=0.06, atol=0)


@pytest.mark.parametrize("loss", [pl.reinforce_ranking_loss, pl.leave_one_out_ranking_loss, pl.pl_rank_loss])
def test_estimates_are_unbiased_on_five_items_at_another_temperature(loss):
    scores = tensor(FIVE).requires_grad_()
    (exact,) = torch.autograd.grad(pl.expected_ndcg(scores, torch.tensor(2), tau=0.6), scores)
    found = estimates(FIVE, 2, loss, tau=0.6, seed=1)
    assert ((found.mean(0) - exact).abs() < 5 * found.std(0) / math.sqrt(REPEATS)).all()


@pytest.mark.parametrize("k", [None, 2])
def test_pl_rank_averaged_over_every_ranking_is_the_exact_gradient(k):
    scores, positive = tensor([0.5, -0.3, 1.2, 0.0]).requires_grad_(), torch.tensor(3)
    (exact,) = torch.autograd.grad(pl.expected_ndcg(scores, positive, k, tau=0.7), scores)
    rankings = every_ranking(4)
    chance = pl.ranking_log_prob(scores.detach(), rankings, tau=0.7).exp()
    one_each = pl.pl_rank_gradient(
        scores.detach().expand(len(rankings), 4), rankings[:, None], positive.expand(len(rankings)), k, tau=0.7
    )
    assert_close((chance[:, None] * one_each).sum(0), exact, atol=1e-10, rtol=0)


def test_equal_utilities_teach_nothing():
    scores = random(3, 6).requires_grad_()
    ranking = pl.draw_rankings(scores, 4, generator=seeded())
    loss = pl.leave_one_out_ranking_loss(scores, ranking, torch.full((3, 4), 0.25, dtype=DOUBLE))
    assert (torch.autograd.grad(loss.sum(), scores)[0] == 0).all()


def test_softmax_is_the_log_probability_of_the_first_place():
    scores, positive = random(4, 5), torch.tensor([0, 4, 2, 2])
    first = pl.ranking_log_prob(scores, positive[:, None, None], tau=0.5)[:, 0]
    assert_close(pl.softmax_ranking_loss(scores, positive, tau=0.5), -first)


# ------------------------------------------------------------------ bad input


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_scores_that_are_no_numbers_are_refused(bad):
    scores, positive, ranking = tensor([[1, bad, 0]]), torch.tensor([1]), torch.tensor([[[0, 1, 2]]])
    for call in (
        lambda: pl.draw_rankings(scores, 1),
        lambda: pl.ranking_log_prob(scores, ranking),
        lambda: pl.expected_ndcg(scores, positive),
        lambda: pl.ndcg_of_scores(scores, positive),
        lambda: pl.pl_rank_loss(scores, ranking, positive),
        lambda: pl.softmax_ranking_loss(scores, positive),
        lambda: pl.first_place_entropy(scores),
    ):
        with pytest.raises(ValueError, match="scores: 1 of 3 are NaN or infinite; mend"):
            call()


def test_other_bad_arguments_are_named():
    scores = torch.zeros(2, 3)
    for tau in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="tau: must be positive and finite"):
            pl.draw_rankings(scores, 1, tau=tau)
    with pytest.raises(ValueError, match="samples: must be at least 1"):
        pl.draw_rankings(scores, 0)
    for length in (0, 4):
        with pytest.raises(ValueError, match=f"length: {length} places for 3 items; give 1 to 3"):
            pl.draw_rankings(scores, 1, length=length)
    with pytest.raises(ValueError, match=r"scores: shape .* holds no item"):
        pl.draw_rankings(torch.zeros(2, 0), 1)
    for wrong in (-1, 3):
        with pytest.raises(ValueError, match="positive: must be a place in the list, 0 … 2"):
            pl.expected_ndcg(scores, torch.tensor([0, wrong]))
    with pytest.raises(ValueError, match="ranking: names an item twice"):
        pl.ranking_log_prob(scores, torch.tensor([[[0, 0]], [[0, 1]]]))
    with pytest.raises(ValueError, match="ranking: names items that are not among 0 … 2"):
        pl.ranking_log_prob(scores, torch.tensor([[[0, 3]], [[0, 1]]]))
    with pytest.raises(ValueError, match="ranking: 2 of 3 places; PL-Rank needs whole ones"):
        pl.pl_rank_gradient(scores, torch.tensor([[[0, 1]], [[0, 1]]]), torch.tensor([0, 0]))
    with pytest.raises(ValueError, match="k: must be at least 1"):
        pl.ndcg_weights(3, 0)
    with pytest.raises(ValueError, match="scores: 9 items have 362,880 rankings; use expected_ndcg"):
        pl.expected_ndcg_by_enumeration(torch.zeros(9), 0)
