"""Policy gradients against finite differences, hand-computed numbers and an exactly enumerated bandit."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from reclib.objectives.grpo import (
    clipped_surrogate,
    dapo_loss,
    dr_grpo_loss,
    group_advantages,
    grpo_loss,
    gspo_loss,
    kl_k1,
    kl_k2,
    kl_k3,
    leave_one_out_baseline,
    policy_diagnostics,
    ppo_loss,
    reinforce_loss,
    value_loss,
)

DOUBLE = torch.float64


def tensor(values):
    return torch.tensor(values, dtype=DOUBLE)


def gradient(loss, x):
    return torch.autograd.grad(loss, x, retain_graph=True)[0]


@pytest.fixture
def batch():
    """Six sequences of one to five tokens, one group, off-policy by a few per cent to a factor of two."""
    generator = torch.Generator().manual_seed(3)
    log_prob_old = -3 * torch.rand(6, 5, generator=generator, dtype=DOUBLE)
    log_prob = log_prob_old + 0.35 * torch.randn(6, 5, generator=generator, dtype=DOUBLE)
    log_prob_ref = log_prob_old + 0.35 * torch.randn(6, 5, generator=generator, dtype=DOUBLE)
    advantage = group_advantages(torch.randn(6, generator=generator, dtype=DOUBLE)).advantages
    mask = torch.arange(5) < torch.tensor([5, 3, 1, 4, 2, 5])[:, None]
    return log_prob.requires_grad_(), log_prob_old, log_prob_ref, advantage, mask


# ------------------------------------------------------------------ finite differences


def test_gradients_equal_finite_differences(batch):
    log_prob, old, ref, advantage, mask = batch
    losses = {
        "reinforce": lambda x: reinforce_loss(x, advantage[:, None].expand(6, 5)).sum(),
        "ppo": lambda x: ppo_loss(x, old, advantage[:, None].expand(6, 5)).sum(),
        "grpo": lambda x: grpo_loss(x, old, advantage, mask),
        "grpo with KL": lambda x: grpo_loss(x, old, advantage, mask, ref, beta=0.5),
        "dr_grpo": lambda x: dr_grpo_loss(x, old, advantage, mask),
        "dapo": lambda x: dapo_loss(x, old, advantage, mask),
        "gspo": lambda x: gspo_loss(x, old, advantage, mask, 0.1, 0.1),
        "value": lambda x: value_loss(x, old).sum(),
        "k1": lambda x: kl_k1(x, ref).sum(),
        "k2": lambda x: kl_k2(x, ref).sum(),
        "k3": lambda x: kl_k3(x, ref).sum(),
    }
    for name, loss in losses.items():
        assert gradcheck(loss, log_prob), name


def test_nothing_flows_into_advantages_old_or_reference_policy(batch):
    log_prob, old, ref, advantage, mask = batch
    constants = [x.clone().requires_grad_() for x in (old, ref, advantage)]
    loss = grpo_loss(log_prob, constants[0], constants[2], mask, constants[1], beta=0.1)
    assert torch.autograd.grad(loss, constants, allow_unused=True) == (None, None, None)


# ------------------------------------------------------------------ an exactly enumerated bandit

REWARD = tensor([0.0, 1.0, 0.2, 3.0])
LOGITS = tensor([0.3, -0.5, 0.9, -1.2])


def exact_gradient():
    logits = LOGITS.clone().requires_grad_()
    return gradient((logits.softmax(-1) * REWARD).sum(), logits)


def expected_gradient(loss_of_group, size):
    """Sum over *all* groups of `size` actions: P(group) times minus the gradient of its loss; no sampling."""
    logits = LOGITS.clone().requires_grad_()
    log_prob = logits.log_softmax(-1)
    groups = torch.cartesian_prod(*[torch.arange(4)] * size).reshape(-1, size)  # [4**size, size]
    chance = log_prob.detach()[groups].sum(-1).exp()
    assert chance.sum().item() == pytest.approx(1)
    losses = loss_of_group(log_prob[groups], REWARD[groups])  # one loss per group: the leading axis is kept
    return -gradient((chance * losses).sum(), logits)


@pytest.mark.parametrize("baseline", [0.0, 0.7, -5.0])
def test_reinforce_is_unbiased_for_every_constant_baseline(baseline):
    found = expected_gradient(lambda log_prob, r: reinforce_loss(log_prob, r - baseline), 2)
    torch.testing.assert_close(found, exact_gradient())


@pytest.mark.parametrize("size", [2, 3, 5])
def test_leave_one_out_is_unbiased(size):
    found = expected_gradient(lambda log_prob, r: reinforce_loss(log_prob, r - leave_one_out_baseline(r)), size)
    torch.testing.assert_close(found, exact_gradient())


@pytest.mark.parametrize("size", [2, 3, 5])
def test_group_mean_shrinks_the_gradient_by_one_minus_one_over_size(size):
    def loss(log_prob, r):
        return reinforce_loss(log_prob, group_advantages(r, std="none").advantages)

    torch.testing.assert_close(expected_gradient(loss, size), (1 - 1 / size) * exact_gradient())


def test_dividing_by_the_group_deviation_changes_the_direction():
    def loss(log_prob, r):
        return reinforce_loss(log_prob, group_advantages(r).advantages)

    found, exact = expected_gradient(loss, 3), exact_gradient()
    cosine = torch.nn.functional.cosine_similarity(found, exact, dim=0)
    assert 0.5 < cosine < 0.99  # still uphill, no longer the gradient


def test_grpo_at_ratio_one_is_reinforce_with_group_baseline():
    def grpo(log_prob, r):
        one_token = log_prob.unsqueeze(-1)
        return grpo_loss(one_token, one_token, group_advantages(r).advantages)

    def reinforce(log_prob, r):
        return reinforce_loss(log_prob, group_advantages(r).advantages)

    torch.testing.assert_close(expected_gradient(grpo, 3), expected_gradient(reinforce, 3))


def test_k3_is_unbiased_never_negative_and_its_gradient_is_that_of_the_other_kl():
    logits = LOGITS.clone().requires_grad_()
    log_prob, log_ref = logits.log_softmax(-1), tensor([-0.4, 0.8, 0.1, 0.6]).log_softmax(-1)
    chance, chance_ref = log_prob.detach().exp(), log_ref.exp()
    reverse = (log_prob.exp() * (log_prob - log_ref)).sum()
    forward = (chance_ref * (log_ref - log_prob)).sum()

    k1, k2, k3 = (k(log_prob, log_ref) for k in (kl_k1, kl_k2, kl_k3))
    assert (chance * k3).sum().item() == pytest.approx(reverse.item())
    assert (chance * k1).sum().item() == pytest.approx(reverse.item())
    assert (chance * k2).sum().item() != pytest.approx(reverse.item(), rel=1e-3)
    assert (k3 >= 0).all()
    assert (k2 >= 0).all()
    assert (k1 < 0).any()

    def through(estimator):  # expectation over samples of the policy of the gradient through the estimator
        return gradient((chance * estimator).sum(), logits)

    def close(a, b):
        return torch.allclose(a, b)

    assert close(through(k3), gradient(forward, logits))
    assert not close(through(k3), gradient(reverse, logits))
    assert close(through(k2), gradient(reverse, logits))
    assert close(through(k1), torch.zeros(4, dtype=DOUBLE))


def test_k3_on_gaussians_gives_the_table_of_schulman():
    """Schulman 2020: samples of N(0, 1), reference N(0.1, 1) or N(1, 1); bias and deviation over the KL."""
    x = torch.linspace(-12, 12, 100_001, dtype=DOUBLE)
    q = torch.distributions.Normal(tensor(0.0), tensor(1.0))
    weight = q.log_prob(x).exp() * (x[1] - x[0])
    for shift, table in ((0.1, [(0, 20), (0.002, 1.42), (0, 1.42)]), (1.0, [(0, 2), (0.25, 1.73), (0, 1.7)])):
        true, log_ref = shift**2 / 2, torch.distributions.Normal(tensor(shift), tensor(1.0)).log_prob(x)
        for estimator, (bias, deviation) in zip((kl_k1, kl_k2, kl_k3), table, strict=True):
            k = estimator(q.log_prob(x), log_ref)
            mean = (weight * k).sum()
            spread = ((weight * (k - mean).square()).sum()).sqrt()
            assert (mean / true - 1).item() == pytest.approx(bias, abs=0.003)
            assert (spread / true).item() == pytest.approx(deviation, rel=0.01)


# ------------------------------------------------------------------ group advantages


def test_advantages_by_hand():
    """Rewards 1, 0, 0, 0 and 2, 2, 5/3, 4/3, 1, 1, 1, -1: deviations worked out on paper."""
    one_hit = tensor([1.0, 0, 0, 0])
    torch.testing.assert_close(
        group_advantages(one_hit, "population", eps=0.0).advantages, tensor([3, -1, -1, -1]) / math.sqrt(3)
    )
    torch.testing.assert_close(group_advantages(one_hit, "sample", eps=0.0).advantages, tensor([1.5, -0.5, -0.5, -0.5]))
    torch.testing.assert_close(group_advantages(one_hit, "none").advantages, tensor([0.75, -0.25, -0.25, -0.25]))

    ranks = tensor([2, 2, 5 / 3, 4 / 3, 1, 1, 1, -1])
    population = tensor([0.9760, 0.9760, 0.6042, 0.2324, -0.1394, -0.1394, -0.1394, -2.3702])
    sample = tensor([0.9128, 0.9128, 0.5651, 0.2173, -0.1304, -0.1304, -0.1304, -2.2169])
    torch.testing.assert_close(group_advantages(ranks, "population", 0.0).advantages, population, rtol=0, atol=5e-5)
    torch.testing.assert_close(group_advantages(ranks).advantages, sample, rtol=0, atol=5e-5)

    six = group_advantages(tensor([1.0, 0, 0, 0, 0, 0])).advantages
    torch.testing.assert_close(six, tensor([2.040742] + [-0.408148] * 5), rtol=0, atol=1e-6)


@pytest.mark.parametrize("std", ["sample", "population", "none"])
def test_equal_rewards_give_exactly_zero_even_without_eps(std):
    rewards = torch.full((3, 7), 0.1)  # the mean of seven float32 0.1 is not exactly 0.1
    rewards[1, 0] = 0.7
    found = group_advantages(rewards, std, eps=0.0)
    assert found.zero_variance.tolist() == [True, False, True]
    assert found.zero_variance_share.item() == pytest.approx(2 / 3)
    assert (found.advantages[[0, 2]] == 0).all()
    assert (found.advantages[1] != 0).all()


def test_equal_rewards_give_zero_gradient(batch):
    log_prob, old, _, _, mask = batch
    advantage = group_advantages(torch.full((6,), 0.3, dtype=DOUBLE)).advantages
    for loss in (grpo_loss, dapo_loss, gspo_loss, dr_grpo_loss):
        assert (gradient(loss(log_prob, old, advantage, mask), log_prob) == 0).all()


def test_groups_are_independent():
    rewards = torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(0))
    together = group_advantages(rewards).advantages
    for i in range(4):
        for j in range(3):
            torch.testing.assert_close(together[i, j], group_advantages(rewards[i, j]).advantages)


finite = st.floats(-100, 100, allow_nan=False).map(lambda x: round(x, 3))
groups = st.integers(2, 12).flatmap(lambda size: st.lists(finite, min_size=size, max_size=size))


@settings(deadline=None)
@given(groups, st.floats(-50, 50), st.floats(0.1, 10), st.sampled_from(["sample", "population"]), st.randoms())
def test_advantages_ignore_shift_scale_and_order(rewards, shift, scale, std, random):
    rewards = tensor(rewards)
    found = group_advantages(rewards, std, eps=0.0)
    moved = group_advantages(rewards * scale + shift, std, eps=0.0)
    assert found.zero_variance == moved.zero_variance
    torch.testing.assert_close(moved.advantages, found.advantages, rtol=1e-6, atol=1e-6)
    order = torch.tensor(random.sample(range(len(rewards)), len(rewards)))
    torch.testing.assert_close(
        group_advantages(rewards[order], std, 0.0).advantages, found.advantages[order], rtol=1e-6, atol=1e-6
    )
    assert found.advantages.sum().item() == pytest.approx(0, abs=1e-6)


@settings(deadline=None)
@given(groups)
def test_leave_one_out_is_the_group_mean_stretched(rewards):
    rewards = tensor(rewards)
    size = len(rewards)
    torch.testing.assert_close(
        rewards - leave_one_out_baseline(rewards),
        size / (size - 1) * group_advantages(rewards, std="none").advantages,
        rtol=1e-9,
        atol=1e-9,
    )


@settings(deadline=None)
@given(st.integers(2, 64), st.integers(1, 63))
def test_binary_rewards_stay_within_their_bound(size, hits):
    """One hit in a group of G has the largest population advantage there is, sqrt(G - 1)."""
    rewards = (torch.arange(size) < min(hits, size - 1)).double()
    found = group_advantages(rewards, "population", eps=0.0).advantages
    assert found.abs().max() <= math.sqrt(size - 1) + 1e-9
    assert found.square().mean().item() == pytest.approx(1)


# ------------------------------------------------------------------ clipping


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected", "slope"),
    [
        (1.0, 2.0, 2.0, 2.0),  # on policy: the plain product
        (1.1, 2.0, 2.2, 2.0),  # inside the range
        (1.5, 2.0, 2.4, 0.0),  # good action, already far up: stop
        (0.5, 2.0, 1.0, 2.0),  # good action that went down: bring it back
        (1.5, -2.0, -3.0, -2.0),  # bad action that went up: push it down
        (0.5, -2.0, -1.6, 0.0),  # bad action, already far down: stop
    ],
)
def test_clip_by_hand(ratio, advantage, expected, slope):
    ratio = tensor(ratio).requires_grad_()
    found = clipped_surrogate(ratio, tensor(advantage))
    assert found.item() == pytest.approx(expected)
    assert gradient(found, ratio).item() == pytest.approx(slope)


def test_clip_higher_and_no_clip():
    ratio, advantage = tensor([1.25, 1.25, 0.7]), tensor([1.0, -1.0, -1.0])
    torch.testing.assert_close(clipped_surrogate(ratio, advantage, 0.2, 0.2), tensor([1.2, -1.25, -0.8]))
    torch.testing.assert_close(clipped_surrogate(ratio, advantage, 0.2, 0.28), tensor([1.25, -1.25, -0.8]))
    torch.testing.assert_close(clipped_surrogate(ratio, advantage, 1.0, math.inf), ratio * advantage)


@settings(deadline=None)
@given(st.floats(0.01, 10), st.floats(-5, 5), st.floats(0, 1), st.floats(0, 2))
def test_clip_is_a_lower_bound(ratio, advantage, low, high):
    found = clipped_surrogate(tensor(ratio), tensor(advantage), low, high).item()
    assert found <= ratio * advantage + 1e-12
    if 1 - low <= ratio <= 1 + high:
        assert found == pytest.approx(ratio * advantage)


# ------------------------------------------------------------------ losses over sequences


def test_losses_by_hand():
    """Two sequences, of two tokens and of one; ratios 1.5, 1 and 0.5; advantages 1 and -1."""
    ratio = tensor([[1.5, 1.0], [0.5, 9.0]])
    mask = torch.tensor([[True, True], [True, False]])
    old, advantage = torch.zeros(2, 2, dtype=DOUBLE), tensor([1.0, -1.0])
    log_prob = ratio.log()
    # tokens: min(1.5, 1.2) = 1.2, 1.0 | min(-.5, -.8) = -.8
    assert grpo_loss(log_prob, old, advantage, mask).item() == pytest.approx(-((1.2 + 1.0) / 2 - 0.8) / 2)
    assert dr_grpo_loss(log_prob, old, advantage, mask).item() == pytest.approx(-(1.2 + 1.0 - 0.8) / 2)
    assert dapo_loss(log_prob, old, advantage, mask).item() == pytest.approx(-(1.28 + 1.0 - 0.8) / 3)
    # one ratio per sequence: sqrt(1.5 * 1) = 1.2247 and 0.5
    wide = gspo_loss(log_prob, old, advantage, mask, 0.4, 0.4)
    assert wide.item() == pytest.approx(-(math.sqrt(1.5) - 0.6) / 2)
    assert gspo_loss(log_prob, old, advantage, mask).item() == pytest.approx(-(1.0004 - 0.9997) / 2)
    # KL to a reference with ratio 2 everywhere: k3 = 2 - log 2 - 1
    kl = grpo_loss(log_prob, old, advantage, mask, log_prob + math.log(2), beta=0.1)
    assert kl.item() == pytest.approx(-((1.2 + 1.0) / 2 - 0.8) / 2 + 0.1 * (1 - math.log(2)))


def test_first_step_has_ratio_one_and_the_gradient_of_reinforce(batch):
    log_prob, _, _, advantage, mask = batch
    reinforce = gradient(reinforce_loss((log_prob * mask).sum(-1), advantage), log_prob)
    dr_grpo = gradient(dr_grpo_loss(log_prob, log_prob, advantage, mask), log_prob)
    torch.testing.assert_close(dr_grpo, reinforce)
    lengths = mask.sum(-1, keepdim=True)
    for loss in (grpo_loss, gspo_loss):  # the same, each sequence divided by its length
        torch.testing.assert_close(gradient(loss(log_prob, log_prob, advantage, mask), log_prob), reinforce / lengths)
    dapo = gradient(dapo_loss(log_prob, log_prob, advantage, mask), log_prob)
    torch.testing.assert_close(dapo, reinforce * len(lengths) / lengths.sum())

    seen = policy_diagnostics(log_prob, log_prob, advantage, mask)
    assert [x.item() for x in seen] == [1, 0, 0, 0]


def test_loss_is_zero_at_the_first_step_though_its_gradient_is_not(batch):
    log_prob, _, _, advantage, _ = batch
    loss = grpo_loss(log_prob, log_prob, advantage)
    assert loss.item() == pytest.approx(0, abs=1e-12)
    assert gradient(loss, log_prob).abs().max() > 0.01


def test_one_token_per_sequence_makes_the_family_one(batch):
    log_prob, old, _, advantage, _ = batch
    log_prob, old = log_prob[:, :1], old[:, :1]
    clip = {"clip_low": 0.2, "clip_high": 0.2}
    expected = ppo_loss(log_prob[:, 0], old[:, 0], advantage)
    for loss in (grpo_loss, dr_grpo_loss, dapo_loss, gspo_loss):
        torch.testing.assert_close(loss(log_prob, old, advantage, **clip), expected)


@pytest.mark.parametrize("loss", [grpo_loss, dr_grpo_loss, dapo_loss, gspo_loss])
def test_masked_tokens_do_not_matter_whatever_they_hold(batch, loss):
    log_prob, old, _, advantage, mask = batch
    expected = loss(log_prob, old, advantage, mask)
    for rubbish in (17.0, math.nan, -math.inf):
        dirty = torch.where(mask, log_prob, rubbish)
        dirty_old = torch.where(mask, old, rubbish)
        found = loss(dirty, dirty_old, advantage, mask)
        torch.testing.assert_close(found, expected)
        assert torch.isfinite(gradient(found, log_prob)).all()
    short = loss(log_prob[:3, :3], old[:3, :3], advantage[:3], mask[:3, :3])
    padded = loss(log_prob[:3], old[:3], advantage[:3], mask[:3] & (torch.arange(5) < 3))
    torch.testing.assert_close(padded, short)


@pytest.mark.parametrize("loss", [grpo_loss, dr_grpo_loss, dapo_loss, gspo_loss])
def test_a_sequence_without_tokens_adds_nothing(batch, loss):
    log_prob, old, _, advantage, mask = batch
    mask = mask.clone()
    mask[2] = False
    found = loss(log_prob, old, advantage, mask)
    assert torch.isfinite(found)
    assert (gradient(found, log_prob)[2] == 0).all()
    others = [0, 1, 3, 4, 5]
    alone = loss(log_prob[others], old[others], advantage[others], mask[others])
    share = 1 if loss is dapo_loss else 5 / 6  # a mean over tokens does not see it, a mean over sequences counts it
    torch.testing.assert_close(found, share * alone)


@pytest.mark.parametrize("loss", [grpo_loss, dr_grpo_loss, dapo_loss, gspo_loss])
def test_a_stack_of_seeds_is_trained_as_if_alone(batch, loss):
    log_prob, old, ref, advantage, mask = batch
    stacked = loss(
        torch.stack([log_prob, ref]),
        torch.stack([old, old]),
        torch.stack([advantage, -advantage]),
        mask.expand(2, 6, 5),
    )
    alone = torch.stack([loss(log_prob, old, advantage, mask), loss(ref, old, -advantage, mask)])
    torch.testing.assert_close(stacked, alone)


@pytest.mark.parametrize("loss", [grpo_loss, dr_grpo_loss, dapo_loss])
def test_one_advantage_per_token(batch, loss):
    log_prob, old, _, advantage, mask = batch
    torch.testing.assert_close(
        loss(log_prob, old, advantage[:, None].expand(6, 5), mask), loss(log_prob, old, advantage, mask)
    )


def test_diagnostics_by_hand():
    ratio = tensor([[1.5, 1.0], [0.5, 9.0]])
    mask = torch.tensor([[True, True], [True, False]])
    seen = policy_diagnostics(ratio.log(), torch.zeros(2, 2, dtype=DOUBLE), tensor([1.0, -1.0]), mask)
    assert seen.ratio_mean.item() == pytest.approx(1.0)
    assert seen.ratio_std.item() == pytest.approx(math.sqrt((0.25 + 0 + 0.25) / 3))
    assert seen.clip_fraction.item() == pytest.approx(2 / 3)
    assert seen.kl.item() == pytest.approx((0.5 - math.log(1.5) + 0 - 0.5 - math.log(0.5)) / 3)
    other_sign = policy_diagnostics(ratio.log(), torch.zeros(2, 2, dtype=DOUBLE), tensor([-1.0, 1.0]), mask)
    assert other_sign.clip_fraction.item() == 0


# ------------------------------------------------------------------ bad input


@pytest.mark.parametrize("function", [group_advantages, leave_one_out_baseline])
def test_bad_rewards_are_named(function):
    with pytest.raises(ValueError, match=r"rewards: shape \(3, 1\).*at least two"):
        function(torch.zeros(3, 1))
    with pytest.raises(ValueError, match="rewards: 1 of 4 values are NaN or infinite"):
        function(torch.tensor([[0.0, 1.0, math.nan, 2.0]]))
    with pytest.raises(ValueError, match="rewards: 2 of 4 values are NaN or infinite"):
        function(torch.tensor([[0.0, 1.0, math.inf, -math.inf]]))


def test_bad_settings_are_named(batch):
    log_prob, old, _, advantage, mask = batch
    with pytest.raises(ValueError, match="eps: -1"):
        group_advantages(torch.rand(4), eps=-1.0)
    with pytest.raises(ValueError, match="clip_low, clip_high"):
        grpo_loss(log_prob, old, advantage, mask, clip_low=-0.1)
    with pytest.raises(ValueError, match="log_prob_ref: missing"):
        grpo_loss(log_prob, old, advantage, mask, beta=0.1)
    for loss in (grpo_loss, dr_grpo_loss, dapo_loss, gspo_loss):
        with pytest.raises(ValueError, match=r"advantage: shape \(5,\)"):
            loss(log_prob, old, advantage[:5], mask)
    with pytest.raises(ValueError, match="advantage: one number per token"):
        gspo_loss(log_prob, old, torch.zeros(6, 5, dtype=DOUBLE), mask)
