"""S-GRec by hand and by enumeration: asymmetric advantages, the arms beside them, and the two parts of the judge."""

import copy
import math
import types

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from reclib.language import (
    CompletionBatches,
    Generated,
    HuggingFaceLM,
    TinyLM,
    TinyLMConfig,
    Vocabulary,
    completion_loss,
    example,
)
from reclib.objectives import PersonalizedSemanticJudge, a2po_advantages, group_advantages, sgrec
from reclib.objectives import semantic_judge as psj
from reclib.objectives.grpo import grpo_loss

DOUBLE = torch.float64


def tensor(values):
    return torch.tensor(values, dtype=DOUBLE)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


# ------------------------------------------------------------------ 1 and 2: the tables


@pytest.mark.parametrize(
    ("a_biz", "a_sem", "weight", "advantage"),
    [
        (1, 0.5, 0.5, 1.25),
        (1, 2, 0.5, 2),
        (1, -0.5, 0, 1),
        (-1, -0.5, 0.5, -1.25),
        (-1, -2, 0.5, -2),
        (-1, 0.5, 0, -1),
        (0, 1, 0, 0),
        (0.5, 0.5, 1, 1),
        (1, 0, 0, 1),
        (0, 0, 0, 0),
    ],
)
def test_a2po_by_hand(a_biz, a_sem, weight, advantage):
    a, s = tensor([a_biz]), tensor([a_sem])
    assert_close(sgrec.asymmetric_weight(a, s), tensor([weight]), atol=1e-7, rtol=0)
    assert_close(sgrec.asymmetric_advantage(a, s), tensor([advantage]), atol=1e-7, rtol=0)
    assert torch.isfinite(sgrec.asymmetric_advantage(a, s, eps=0.0)).all()


BUSINESS, SEMANTIC = tensor([1, 0, 0, 0]), tensor([0.6, 0.9, 0.2, 0.3])


def test_the_group_by_hand():
    found = a2po_advantages(BUSINESS, SEMANTIC)
    close = {"atol": 1e-6, "rtol": 0}
    assert_close(found.business, tensor([1.732051, -0.577350, -0.577350, -0.577350]), **close)
    assert_close(found.semantic, tensor([0.365148, 1.460593, -1.095445, -0.730297]), **close)
    assert_close(found.weight, tensor([0.210819, 0, 0.527046, 0.790569]), **close)
    assert_close(found.advantages, tensor([1.809031, -0.577350, -1.154701, -1.154701]), **close)
    assert float(found.advantages.mean()) == pytest.approx(-0.269, abs=1e-3)  # trap 3: not centred
    summed = sgrec.advantage_sum(found.business, found.semantic)
    assert_close(summed, tensor([2.097199, 0.883243, -1.672795, -1.307647]), **close)
    assert (summed.sign() != found.business.sign()).tolist() == [False, True, False, False]
    assert not found.zero_variance


def test_a_wrong_answer_can_never_be_raised_by_a_one_hot_reward():
    """Trap 1: with G = 16 all the judge can do to 15 answers is push some down by at most .258 more."""
    business = torch.zeros(1000, 16, dtype=DOUBLE)
    business[:, 0] = 1
    found = a2po_advantages(business, random(1000, 16))
    assert_close(found.business[0, :2], tensor([3.873, -0.258]), atol=5e-4, rtol=0)
    moved = found.advantages[:, 1:] - found.business[:, 1:]
    assert float(moved.max()) <= 0
    assert float(moved.min()) >= -0.2582
    assert float(moved.min()) < -0.2580


# ------------------------------------------------------------------ 3, 4, 5: bounds, agreement, invariance


def test_bounds_on_random_pairs():
    a, s = random(100_000), random(100_000, seed=1)
    found = sgrec.asymmetric_advantage(a, s)
    assert (found.abs() >= a.abs()).all()
    assert (found.abs() <= 2 * a.abs() * (1 + 1e-6)).all()
    assert (found.sign() == a.sign()).all()
    assert torch.equal(found[a * s < 0], a[a * s < 0])
    agree = a * s > 0
    weaker = agree & (s.abs() < a.abs())
    assert_close((found - a)[weaker], (s.square() / a)[weaker], rtol=1e-5, atol=1e-12)
    stronger = agree & (s.abs() > a.abs())
    assert_close((found - a)[stronger], a[stronger], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("rho", "agree", "flips", "weight", "inflation"),
    [
        (-0.8, 0.2048, 0.398, 0.081, 1.04),
        (-0.4, 0.3690, 0.316, 0.153, 1.13),
        (0.0, 0.5, 0.250, 0.221, 1.23),
        (0.4, 0.6310, 0.184, 0.306, 1.37),
        (0.8, 0.7952, 0.102, 0.461, 1.59),
    ],
)
def test_gaussian_advantages(rho, agree, flips, weight, inflation):
    a = random(400_000)
    s = rho * a + math.sqrt(1 - rho**2) * random(400_000, seed=1)
    assert agree == pytest.approx(0.5 + math.asin(rho) / math.pi, abs=1e-4)
    assert float((a * s > 0).double().mean()) == pytest.approx(agree, abs=0.003)
    found = sgrec.asymmetric_advantage(a, s)
    assert float(sgrec.asymmetric_weight(a, s).mean()) == pytest.approx(weight, abs=0.003)
    assert float(found.abs().mean() / a.abs().mean()) == pytest.approx(inflation, abs=0.006)
    assert float((sgrec.advantage_sum(a, s) * a < 0).double().mean()) == pytest.approx(flips, abs=0.003)
    assert int((found * a < 0).sum()) == 0


numbers = st.lists(st.floats(-5, 5), min_size=4, max_size=4)


@settings(deadline=None)
@given(numbers, numbers, st.floats(-100, 100), st.floats(0.1, 100), st.floats(-100, 100), st.floats(0.1, 100))
def test_shifting_and_scaling_change_nothing(business, semantic, shift_b, scale_b, shift_s, scale_s):
    business, semantic = tensor(business).round(decimals=2), tensor(semantic).round(decimals=2)
    one = a2po_advantages(business, semantic)
    other = a2po_advantages(business * scale_b + shift_b, semantic * scale_s + shift_s)
    # An advantage of exactly zero may become a rounding error of either sign, whose part is a rounding error too.
    assert_close(other.advantages, one.advantages, atol=1e-5, rtol=1e-6)


def test_negating_the_judge_moves_the_support_only():
    business, semantic = random(200, 16), random(200, 16, seed=1)
    one, other = a2po_advantages(business, semantic), a2po_advantages(business, -semantic)
    assert torch.equal(one.business, other.business)
    assert_close(one.semantic, -other.semantic)
    assert ((one.weight > 0) != (other.weight > 0)).all()
    assert_close(one.weight + other.weight, sgrec.asymmetric_weight(one.business.abs(), one.semantic.abs()))


# ------------------------------------------------------------------ 6: the sparse mask


def test_never_asked_is_business_only_bit_for_bit():
    business, semantic = random(50, 16).float(), torch.full((50, 16), math.nan)
    asked = sgrec.asked_groups((50,), 0.0, torch.Generator().manual_seed(0))
    assert int(asked.sum()) == 0
    found = a2po_advantages(business, semantic, asked)
    assert torch.equal(found.advantages, sgrec.standardise(business))
    assert (found.semantic == 0).all()
    for weight in (0.5, 1.0):
        plain = sgrec.reward_sum_advantages(business, semantic, asked, weight=weight)
        assert torch.equal(plain, sgrec.standardise(business))


def test_always_asked_is_one_call_per_group_and_a_share_is_a_share():
    assert sgrec.asked_groups((7, 9), 1.0).all()
    asked = sgrec.asked_groups((20_000,), 0.05, torch.Generator().manual_seed(1))
    assert int(asked.sum()) == pytest.approx(1000, abs=120)
    business, semantic = random(20_000, 4), random(20_000, 4, seed=1)
    found = a2po_advantages(business, torch.where(asked[:, None], semantic, math.nan), asked)
    full = a2po_advantages(business, semantic)
    assert torch.equal(found.advantages[asked], full.advantages[asked])
    assert torch.equal(found.advantages[~asked], full.business[~asked])


# ------------------------------------------------------------------ 7: the policy step


def policy_gradient(advantages, log_prob, old=None, **config):
    log_prob = log_prob.clone().requires_grad_()
    old = log_prob if old is None else old
    loss = sgrec.sgrec_loss(log_prob, old, advantages, config=sgrec.SGRecConfig(beta=0.0, **config))
    return torch.autograd.grad(loss.sum(), log_prob)[0]


def test_the_first_step_has_ratio_one_and_the_loss_is_grpo():
    log_prob, advantages = -random(2, 5, 4, 3).abs(), random(2, 5, 4)
    assert_close(policy_gradient(advantages, log_prob), -advantages[..., None].expand(2, 5, 4, 3) / (5 * 4 * 3))
    old, mask = log_prob + 0.3 * random(2, 5, 4, 3, seed=1), random(2, 5, 4, 3, seed=2) > 0
    ref = log_prob + 0.1 * random(2, 5, 4, 3, seed=3)
    found = sgrec.sgrec_loss(log_prob, old, advantages, mask, ref)
    flat = [x.reshape(2, 20, 3) for x in (log_prob, old, mask, ref)]
    expected = grpo_loss(flat[0], flat[1], advantages.reshape(2, 20), flat[2], flat[3], 0.2, 0.2, 0.04)
    assert_close(found, expected)
    assert found.shape == (2,)


def test_clipped_is_unclipped_inside_the_range():
    log_prob, advantages = -random(6, 4, 1).abs(), random(6, 4)
    near = log_prob + math.log(1.15) * random(6, 4, 1, seed=1).clamp(-1, 1)
    far = log_prob - 2 * advantages.sign()[..., None]  # every answer already went where it should
    free = {"clip": 1e6}
    assert_close(policy_gradient(advantages, log_prob, near), policy_gradient(advantages, log_prob, near, **free))
    assert (policy_gradient(advantages, log_prob, far) == 0).all()
    assert (policy_gradient(advantages, log_prob, far, **free) != 0).all()


def test_equal_business_rewards_teach_nothing_whatever_the_judge_says():
    business = torch.stack([torch.full((4,), 0.1), torch.zeros(4), tensor([0, 1, 2, 3]).float()])
    found = a2po_advantages(business, random(3, 4).float())
    assert found.zero_variance.tolist() == [True, True, False]
    assert (found.advantages[:2] == 0).all()
    gradient = policy_gradient(found.advantages, -torch.ones(3, 4, 1))
    assert (gradient[:2] == 0).all()
    assert (gradient[2] != 0).all()


def test_an_equal_judge_leaves_business_alone():
    business = random(3, 4)
    found = a2po_advantages(business, torch.full((3, 4), 0.7, dtype=DOUBLE))
    assert torch.equal(found.advantages, found.business)


# ------------------------------------------------------------------ the other arms


def test_standardise_is_the_population_z_with_a_floor():
    rewards = random(20, 5)
    expected = (rewards - rewards.mean(1, keepdim=True)) / rewards.std(1, correction=0, keepdim=True)
    assert_close(sgrec.standardise(rewards), expected)
    assert_close(sgrec.standardise(rewards), group_advantages(rewards, std="population", eps=0.0).advantages)
    tiny = tensor([0, 1e-6])
    assert_close(sgrec.standardise(tiny), tensor([-0.005, 0.005]))  # 5e-7 / 1e-4
    assert_close(sgrec.standardise(tiny, floor=0.0), tensor([-1, 1]))
    assert (sgrec.standardise(torch.full((3,), 0.1), floor=0.0) == 0).all()


def test_the_reward_sum_is_a_matter_of_units():
    business, semantic = random(30, 8), random(30, 8, seed=1)
    loud = sgrec.reward_sum_advantages(business, semantic, weight=1e6)
    assert_close(loud, sgrec.standardise(semantic), atol=1e-5, rtol=0)
    assert_close(sgrec.reward_sum_advantages(business, semantic, weight=0.0), sgrec.standardise(business))
    weights = tensor([0.5, 2.0])
    stacked = sgrec.reward_sum_advantages(business[:2], semantic[:2], weight=weights)
    assert_close(stacked[1], sgrec.standardise(business[1] + 2 * semantic[1]))


def test_recentred_has_no_push_left_but_may_flip():
    found = a2po_advantages(BUSINESS, SEMANTIC).advantages
    centred = sgrec.recentred(found)
    assert float(centred.sum()) == pytest.approx(0)
    assert_close(centred, found + 0.269, atol=5e-4, rtol=0)
    many = a2po_advantages(random(500, 16), random(500, 16, seed=1))
    assert float((sgrec.recentred(many.advantages) * many.business < 0).double().mean()) > 0


def test_pcgrad_by_hand():
    agree, conflict = tensor([[1.0, 0.0]]), tensor([[1.0, 1.0]])
    assert_close(sgrec.pcgrad(agree, conflict), agree + conflict)
    a, b = tensor([1.0, 0.0]), tensor([-1.0, 1.0])
    # a loses its part along b: (1, 0) + ½ (-1, 1) = (.5, .5); b loses its part along a: (0, 1).
    assert_close(sgrec.pcgrad(a, b), tensor([0.5, 1.5]))
    assert_close(sgrec.pcgrad(b, a), tensor([0.5, 1.5]))
    assert_close(sgrec.pcgrad(a, -a), tensor([0.0, 0.0]))
    assert_close(sgrec.pcgrad(a, tensor([0.0, 0.0])), a)
    stacked = sgrec.pcgrad(torch.stack([a, a]), torch.stack([b, a]))
    assert_close(stacked, tensor([[0.5, 1.5], [2.0, 0.0]]))
    g, h = random(100, 7), random(100, 7, seed=1)
    for one, other in ((g, h), (h, g)):  # never uphill for one task, downhill for the other
        conflict = (g * h).sum(-1) < 0
        assert ((sgrec.pcgrad(g, h) * one).sum(-1)[conflict] >= -1e-9).all()
        assert other.shape == one.shape


# ------------------------------------------------------------------ bad input


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("which", ["business", "semantic"])
def test_a_bad_reward_is_refused_by_name(bad, which):
    rewards = {"business": random(2, 4), "semantic": random(2, 4, seed=1)}
    rewards[which][1, 2] = bad
    for call in (a2po_advantages, sgrec.reward_sum_advantages):
        with pytest.raises(ValueError, match=rf"{which}: 1 of 8 values are NaN or infinite; mend"):
            call(**rewards)
    with pytest.raises(ValueError, match="rewards: 1 of 8 values are NaN or infinite"):
        sgrec.standardise(rewards[which])


def test_a_group_of_one_is_refused_by_name():
    one = random(3, 1)
    with pytest.raises(ValueError, match=r"business: shape \(3, 1\).*at least two answers; draw more"):
        a2po_advantages(one, one)
    with pytest.raises(ValueError, match=r"business: shape \(3, 1\)"):
        sgrec.reward_sum_advantages(one, one)
    with pytest.raises(ValueError, match=r"rewards: shape \(\)"):
        sgrec.standardise(tensor(1.0))


def test_other_bad_arguments_are_named():
    business = random(3, 4)
    with pytest.raises(ValueError, match=r"semantic: shape \(3, 5\) differs from \(3, 4\)"):
        a2po_advantages(business, random(3, 5))
    with pytest.raises(ValueError, match=r"asked: shape \(2,\), but there is one answer per group: \(3,\)"):
        a2po_advantages(business, business, torch.ones(2, dtype=torch.bool))
    for ratio in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match=r"ratio: .* is no share"):
            sgrec.asked_groups((3,), ratio)
        with pytest.raises(ValueError, match=r"ratio: .* is no share"):
            sgrec.SGRecConfig(ratio=ratio)
    with pytest.raises(ValueError, match="size: a group of 1"):
        sgrec.SGRecConfig(size=1)
    with pytest.raises(ValueError, match="beta: must be zero or positive"):
        sgrec.SGRecConfig(beta=-1.0)


# ------------------------------------------------------------------ 8: part B by enumeration


BETTER, WORSE = torch.tensor([0.9, 0.1, 0.2]), torch.tensor([0.2, 0.8, 0.3])


def test_nine_of_twenty_six_vectors_rank_the_pair_right():
    vectors = psj.weight_vectors((0, 1, 2), 3)
    assert vectors.shape == (26, 3)
    assert int(psj.pairwise_reward(vectors, BETTER, WORSE).sum()) == 9
    grid = psj.GridWeigher((0.0, 1.0, 2.0), 3)
    assert_close(grid.weights.sum(-1), torch.ones(26))
    uniform = grid.log_probs(torch.zeros(3, 3)).exp()
    assert_close(uniform, torch.full((26,), 1 / 26))
    assert float((uniform * grid.wins(BETTER, WORSE)).sum()) == pytest.approx(9 / 26)


def test_a_tie_is_wrong_even_after_rounding():
    weights = torch.tensor([0.5, 0.5, 0.0])
    assert float(psj.pairwise_reward(weights, torch.tensor([0.3, 0.4, 1.0]), torch.tensor([0.4, 0.3, 0.0]))) == 0


def test_the_grid_is_independent_levels_without_the_vector_of_zeros():
    grid, logits = psj.GridWeigher((0.0, 1.0, 2.0), 2), random(5, 2, 3)
    p = logits.softmax(-1)
    for user in range(5):
        joint = {(i, j): float(p[user, 0, i] * p[user, 1, j]) for i in range(3) for j in range(3) if i + j > 0}
        total = sum(joint.values())
        found = grid.log_probs(logits[user]).exp()
        for (i, j), chance in joint.items():
            row = (grid.levels == torch.tensor([i, j])).all(-1)
            assert float(found[row]) == pytest.approx(chance / total)
            assert_close(grid.weights[row][0], torch.tensor([i, j]) / (i + j))
    grid.weights = grid.weights.double()
    assert_close(grid.expected(logits).sum(-1), torch.ones(5, dtype=DOUBLE))
    sharp = torch.full((2, 3), -20.0)
    sharp[0, 1] = sharp[1, 2] = 20.0
    assert_close(grid.best(sharp).float(), torch.tensor([1 / 3, 2 / 3]))


def test_pairwise_rl_has_the_exact_gradient_on_average():
    """Many groups, no division by the standard deviation: REINFORCE with a mean baseline, (G - 1)/G of the truth."""
    grid = psj.GridWeigher((0.0, 1.0, 2.0), 3)
    logits = torch.tensor([[0.3, -0.2, 0.1], [0.0, 0.4, -0.3], [-0.5, 0.2, 0.0]])
    exact = logits.clone().requires_grad_()
    truth = (grid.log_probs(exact).exp() * grid.wins(BETTER, WORSE)).sum()
    (truth_gradient,) = torch.autograd.grad(truth, exact)
    many, size = 4000, 8
    start = logits.clone().requires_grad_()
    uniform = torch.rand(many, size, generator=torch.Generator().manual_seed(0))
    pairs = [x.expand(many, 3) for x in (BETTER, WORSE)]
    loss = grid.pairwise_loss(start.expand(many, 3, 3), *pairs, uniform)
    (found,) = torch.autograd.grad(-loss, start)
    cosine = torch.nn.functional.cosine_similarity(found.flatten(), truth_gradient.flatten(), dim=0)
    assert float(cosine) > 0.995


def test_a_group_of_only_right_or_only_wrong_draws_teaches_nothing():
    grid = psj.GridWeigher((0.0, 1.0), 2)
    logits = torch.zeros(1, 2, 2, requires_grad=True)
    always = [torch.tensor([[0.9, 0.9]]), torch.tensor([[0.1, 0.1]])]
    uniform = torch.rand(1, 6, generator=torch.Generator().manual_seed(0))
    (gradient,) = torch.autograd.grad(grid.pairwise_loss(logits, *always, uniform), logits)
    assert (gradient == 0).all()


@pytest.mark.slow
def test_pairwise_rl_and_the_stand_in_both_find_the_weights():
    """Two kinds of user with opposite weights, known from a one-hot x; noise-free preferences."""
    g = torch.Generator().manual_seed(0)
    kind = torch.randint(2, (2000,), generator=g)
    truth = torch.tensor([[0.75, 0.25, 0.0], [0.0, 0.25, 0.75]])
    one, other = torch.rand(2000, 3, generator=g), torch.rand(2000, 3, generator=g)
    right = (truth[kind] * (one - other)).sum(-1) > 0
    better, worse = torch.where(right[:, None], one, other), torch.where(right[:, None], other, one)
    grid = psj.GridWeigher(aspects=3)

    def accuracy(weights):
        return float(psj.pairwise_reward(weights[kind], better, worse).mean())

    equal = accuracy(torch.full((2, 3), 1 / 3))
    theta = torch.zeros(2, 3, 4, requires_grad=True)
    optimizer = torch.optim.Adam([theta], lr=0.1)
    for _ in range(150):
        rows = torch.randint(2000, (64,), generator=g)
        loss = grid.pairwise_loss(theta[kind[rows]], better[rows], worse[rows], torch.rand(64, 8, generator=g))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert accuracy(grid.best(theta.detach())) > max(0.93, equal + 0.1)

    phi = torch.zeros(2, 3, requires_grad=True)
    optimizer = torch.optim.Adam([phi], lr=0.1)
    for _ in range(150):
        rows = torch.randint(2000, (64,), generator=g)
        loss = psj.preference_loss(phi.softmax(-1)[kind[rows]], better[rows], worse[rows], 10.0).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert accuracy(phi.softmax(-1).detach()) > max(0.93, equal + 0.1)


def test_the_stand_in_by_hand():
    weights, better, worse = tensor([0.5, 0.5]), tensor([1.0, 0.0]), tensor([0.0, 0.4])
    assert float(psj.preference_loss(weights, better, worse, 5.0)) == pytest.approx(math.log1p(math.exp(-1.5)))


# ------------------------------------------------------------------ the judge's language


FORM = psj.JudgeFormat()


def test_answers_are_read_as_they_are_written():
    answer = FORM.score_answer("audience fits .", (0.3, 0.5, 0.0, 1.0))
    assert answer == "audience fits . <scores> 0.25 0.5 0 1"
    assert FORM.read_scores(answer) == (0.25, 0.5, 0.0, 1.0)
    assert FORM.read_scores(FORM.score_answer("", (0.0625, 0.25, 0.74, 0.76))) == (0.0, 0.0, 0.5, 1.0)
    assert FORM.read_weights(FORM.weight_answer((0, 1, 2, 3))) == (0.0, 1 / 6, 2 / 6, 3 / 6)
    assert FORM.score_prompt("user : x", "ad : y") == "user : x | ad : y =>"
    assert FORM.weight_prompt("user : x") == "user : x =>"
    words = set(FORM.words())
    assert set(answer.split()) - {"audience", "fits", "."} <= words
    assert set(FORM.weight_answer((0, 1, 2, 3)).split()) <= words


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "audience fits",
        "<scores>",
        "<scores> 0.5 1 0",
        "<scores> 0.5 1 0 1 1",
        "<scores> 0.5 0.25 0 1",  # .25 is no value of the second scale
        "<scores> 0.5 1 0 high",
        "0.5 1 0 1 <scores>",
    ],
)
def test_malformed_scores_are_noticed(answer):
    assert FORM.read_scores(answer) is None


def test_malformed_weights_are_noticed_and_so_are_weights_of_nothing():
    for answer in ("low low low low", "<weights> low low low", "<weights> 1 2 3 4", "<weights> none none none none"):
        assert FORM.read_weights(answer) is None
    assert FORM.read_weights("<weights> x <weights> low low low low") == (0.25,) * 4


def test_the_score_reward_by_hand():
    assert psj.score_reward((0.5, 1.0, 0.0, 0.5), (0.5, 1.0, 0.0, 0.5)) == 8
    assert psj.score_reward((0.25, 0.5, 0.0, 1.0), (0.5, 1.0, 0.0, 0.0)) == pytest.approx(1 + 0.75 + 0.5 + 1 + 0)
    assert psj.score_reward(None, (0.5, 1.0, 0.0, 0.5)) == 0


class Scripted:
    """A language model that answers from a table."""

    end_id = 1

    def __call__(self, ids, mask=None):
        raise AssertionError("the judge only generates")

    log_probs = __call__

    def __init__(self, answers):
        self.texts, self.answers, self.rows = [""], answers, []

    def encode(self, text):
        self.texts.append(text)
        return [len(self.texts) - 1]

    def decode(self, ids):
        return self.answers[self.texts[int(ids[0])]]

    def generate(self, ids, mask=None, *, max_new, temperature, stop=None, generator=None):
        assert temperature == 0
        self.rows.append(len(ids))
        return Generated(ids, torch.zeros(ids.shape), torch.ones_like(ids, dtype=torch.bool))


def test_the_judge_asks_reads_counts_and_weighs():
    scorer = Scripted(
        {
            "ann | shoes =>": "fits . <scores> 1 0.5 0 1",
            "ann | tea =>": "no idea",
            "bob | tea =>": "<scores> 0.25 0 1 0",
        }
    )
    weigher = Scripted({"ann =>": "<weights> high none none low", "bob =>": "<weights> none none none none"})
    judge = PersonalizedSemanticJudge(scorer, weigher, batch_size=2)
    users, ads = ["ann", "ann", "bob"], ["shoes", "tea", "tea"]
    reward = judge.reward(users, ads)
    assert_close(reward, torch.tensor([1.0, 0.5, 0.3125]))
    assert judge.calls == 3
    assert judge.malformed == 2  # Ann's tea, Bob's weights
    assert scorer.rows == [2, 1]
    assert weigher.rows == [2]  # each user once
    plain = PersonalizedSemanticJudge(scorer)
    assert_close(plain.reward(["ann"], ["shoes"]), torch.tensor([0.625]))


def test_bad_input_of_the_judge():
    judge = PersonalizedSemanticJudge(Scripted({}))
    with pytest.raises(ValueError, match="ads: 1 for 2 users"):
        judge.scores(["a", "b"], ["c"])
    with pytest.raises(ValueError, match="users: is empty"):
        judge.scores([], [])
    with pytest.raises(ValueError, match="max_new"):
        PersonalizedSemanticJudge(Scripted({}), max_new=0)
    with pytest.raises(ValueError, match="scales: 3 for 4 aspects"):
        psj.JudgeFormat(scales=((0.0, 1.0),) * 3)
    with pytest.raises(ValueError, match="scales: that of 'profile' must be two or more rising"):
        psj.JudgeFormat(scales=((1.0, 0.0), *((0.0, 1.0),) * 3))
    with pytest.raises(ValueError, match="levels"):
        psj.JudgeFormat(levels=(("none", 0.0),))
    for values in ((), (0.0,), (-1.0, 1.0)):
        with pytest.raises(ValueError, match="values: must be zero or positive"):
            psj.GridWeigher(values)


# ------------------------------------------------------------------ the judge as a tiny language model

SMALL = psj.JudgeFormat(("size", "colour"), ((0.0, 1.0), (0.0, 0.5, 1.0)), (("low", 1.0), ("high", 3.0)))
COLOURS = ("red", "orange", "blue")


def little_world():
    """Size fits or not; colours are equal, near (red and orange) or different. Every answer is a function of both."""
    pairs = []
    for size in ("big", "small"):
        for colour in COLOURS:
            for ad_size in ("big", "small"):
                for ad_colour in COLOURS:
                    fits = float(size == ad_size)
                    near = 1.0 if colour == ad_colour else 0.5 if {colour, ad_colour} == {"red", "orange"} else 0.0
                    reason = f"size {'fits' if fits else 'differs'} . {colour} {ad_colour} ."
                    pairs.append((f"user : {size} {colour}", f"ad : {ad_size} {ad_colour}", reason, (fits, near)))
    return pairs


@pytest.fixture(scope="module")
def trained():
    pairs = little_world()
    texts = [f"{SMALL.score_prompt(u, a)} {SMALL.score_answer(r, s)}" for u, a, r, s in pairs]
    torch.manual_seed(0)
    model = TinyLM(Vocabulary.of_texts(texts, special=SMALL.words()), TinyLMConfig(32, 2, 2, 32))
    batches = CompletionBatches(
        [example(model, SMALL.score_prompt(u, a), SMALL.score_answer(r, s)) for u, a, r, s in pairs], batch_size=12
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for epoch in range(300):
        for batch in batches.epoch(epoch):
            loss, count = completion_loss(model, batch)
            optimizer.zero_grad()
            (loss / count).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
    return model.eval()


@pytest.mark.slow
def test_a_tiny_judge_learns_a_little_world(trained):
    users, ads, _, scores = zip(*little_world(), strict=True)
    judge = PersonalizedSemanticJudge(trained, form=SMALL, max_new=16)
    assert_close(judge.scores(users, ads), torch.tensor(scores))
    assert judge.malformed == 0
    assert_close(judge.reward(users, ads), torch.tensor(scores).mean(-1))


@pytest.mark.slow
def test_an_answer_step_is_grpo_at_ratio_one(trained):
    users, ads, _, scores = zip(*little_world()[:6], strict=True)
    prompts = [SMALL.score_prompt(u, a) for u, a in zip(users, ads, strict=True)]

    def step(temperature, **options):
        return psj.answer_step(
            trained, prompts, lambda i, text: psj.score_reward(SMALL.read_scores(text), scores[i], SMALL),
            size=4, max_new=16, temperature=temperature, generator=torch.Generator().manual_seed(0), **options,
        )  # fmt: skip

    sure = step(1e-4)
    assert_close(sure.reward, torch.full((6, 4), 4.0))  # all right: nothing to learn
    assert float(sure.zero_variance_share) == 1
    trained.zero_grad()
    sure.loss.backward()
    assert all(p.grad is None or (p.grad == 0).all() for p in trained.parameters())

    wild = step(3.0)
    assert 0 <= float(wild.reward.min()) < 4
    assert float(wild.zero_variance_share) < 1
    reference = copy.deepcopy(trained)
    same = step(3.0, reference=reference, beta=0.5)
    assert_close(same.loss, wild.loss)  # the penalty of a policy that has not moved is zero
    with torch.no_grad():
        for weight in reference.parameters():
            weight.mul_(1.05)
    assert float(step(3.0, reference=reference, beta=0.5).loss.detach()) > float(wild.loss.detach())


@pytest.mark.slow
def test_answer_steps_make_part_b_prefer(trained):
    """Weights of a user as tokens: pairwise RL turns an indifferent writer into one that knows what matters."""
    torch.manual_seed(1)
    texts = [f"{SMALL.weight_prompt(u)} {SMALL.weight_answer(levels)}"
             for u in ("user : big", "user : small") for levels in ((0, 0), (0, 1), (1, 0), (1, 1))]  # fmt: skip
    model = TinyLM(Vocabulary.of_texts(texts, special=SMALL.words()), TinyLMConfig(16, 1, 2, 16))
    batches = CompletionBatches(
        [example(model, text[: text.index("=>") + 2], text[text.index("=>") + 2 :]) for text in texts], batch_size=8
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for epoch in range(30):  # the form only: every answer equally likely
        for batch in batches.epoch(epoch):
            loss, count = completion_loss(model, batch)
            optimizer.zero_grad()
            (loss / count).backward()
            optimizer.step()
    # Big users care for size, small ones for colour: only weights of 3 to 1 rank these pairs right.
    prompts = [SMALL.weight_prompt("user : big"), SMALL.weight_prompt("user : small")]
    pairs = [(torch.tensor([0.5, 0.0]), torch.tensor([0.0, 1.0])), (torch.tensor([0.0, 0.5]), torch.tensor([1.0, 0.0]))]

    def reward(i, text):
        weights = SMALL.read_weights(text)
        return 0.0 if weights is None else float(psj.pairwise_reward(torch.tensor(weights), *pairs[i]))

    g, optimizer = torch.Generator().manual_seed(0), torch.optim.AdamW(model.parameters(), lr=2e-3)
    reference, first = copy.deepcopy(model), None
    for _ in range(200):
        step = psj.answer_step(model, prompts, reward, size=16, max_new=4, generator=g, reference=reference, beta=0.1)
        first = float(step.reward.mean()) if first is None else first
        optimizer.zero_grad()
        step.loss.backward()
        optimizer.step()
    assert first < 0.5
    assert float(step.reward.mean()) > 0.9


class Tokenizer:
    """The calls of a Hugging Face tokenizer that the wrapper makes, over whole words."""

    def __init__(self, vocabulary):
        self.vocabulary, self.eos_token_id = vocabulary, vocabulary.end_id

    def encode(self, text, add_special_tokens):
        return self.vocabulary.encode(text)

    def decode(self, ids, skip_special_tokens):
        return self.vocabulary.decode(ids)


class Causal(torch.nn.Module):
    """A tiny causal model, called as `AutoModelForCausalLM` is: a running mean in the place of attention."""

    def __init__(self, tokens):
        super().__init__()
        self.tokens = torch.nn.Embedding(tokens, 8)

    def forward(self, input_ids, attention_mask, position_ids=None, past_key_values=None, use_cache=False, **_):
        x = self.tokens(input_ids)
        if past_key_values is not None:
            x = torch.cat([past_key_values, x], 1)
        mask = attention_mask[..., None].to(x.dtype)
        mean = (x * mask).cumsum(1) / mask.cumsum(1).clamp(min=1)
        hidden = (x + mean)[:, -input_ids.shape[1] :]
        return types.SimpleNamespace(
            logits=hidden @ self.tokens.weight.T, past_key_values=x if use_cache else None, hidden_states=(hidden,)
        )


def test_a_hugging_face_model_judges_through_the_same_interface():
    vocabulary = Vocabulary([*SMALL.words(), "user", ":", "ad", "big", "small", "red"])
    torch.manual_seed(0)
    model = HuggingFaceLM(Causal(len(vocabulary)), Tokenizer(vocabulary)).eval()
    judge = PersonalizedSemanticJudge(model, model, SMALL, max_new=6)
    reward = judge.reward(["user : big red", "user : small red"], ["ad : big red", "ad : big red"])
    assert_close(reward, torch.tensor([0.5, 0.5]))
    assert judge.calls == 2
    assert judge.malformed == 4  # untrained: nothing it says can be read
    step = psj.answer_step(model, ["user : big red =>"], lambda i, text: float(len(text)), size=3, max_new=4)
    step.loss.backward()
    assert float(model.model.tokens.weight.grad.abs().sum()) > 0
