"""GRPO over chains and over items: rewards, gradients against loops and against the truth, and what reaches whom."""

import math

import pytest
import torch
from torch import tensor
from torch.testing import assert_close

from reclib.objectives import group_advantages
from reclib.reasoning import AlignmentLoss, ChainGRPO, ItemGRPO
from reclib.reasoning.align import gain, rewards, zero_variance_share
from reclib.reasoning.diffusion import gaussian_kl, log_density, to_noise_scale
from tests.reasoning.test_backbones import drawn
from tests.reasoning.test_diffureason import guesses, reasoner
from tests.reasoning.test_think import batch_of


def drawn_group(model, users=3, group=4):
    torch.manual_seed(0)
    c = guesses(users)[:, None].expand(-1, group, -1)
    with torch.no_grad():
        chain = model.sample(c)
        return c, chain, model.means(chain.x, c, model.reference)


def flat(gradients):
    return torch.cat([g.flatten() for g in gradients])


def test_the_reward_by_hand():  # oracle 11
    found = gain(tensor([1, 2, 5, 10, 100]))
    assert found.tolist() == pytest.approx([1, 0.6309, 0.3869, 0.2891, 0.1502], abs=5e-5)


def test_rewards_are_gains_of_full_ranks():
    model, u, target = reasoner(), guesses(12).view(3, 4, 8), tensor([5, 9, 20])
    found = rewards(model, u, target)
    for i in range(3):
        for g in range(4):
            scores = model.rank(u[i, g])
            assert found[i, g] == pytest.approx(1 / math.log2(2 + int((scores > scores[target[i]]).sum())))


def test_equal_rewards_teach_nothing():  # oracle 6
    model = reasoner()
    c, chain, _ = drawn_group(model)
    reference = model.means(chain.x, c, model.denoiser).detach()
    advantage = group_advantages(torch.full((3, 4), 0.63), eps=1e-6).advantages
    ChainGRPO(b=0.01).of(model, chain.x, c, advantage, reference).backward()
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())
    model.rank = lambda u: torch.ones(*u.shape[:-1], 21).index_fill(-1, tensor([0]), -torch.inf)  # all items tie
    assert zero_variance_share(model, guesses(3), tensor([1, 2, 3]), 4, None) == 1.0


def test_the_first_update_is_advantage_weighted_log_prob():  # oracle 6
    model, loss = reasoner(), ChainGRPO(b=0.0)
    c, chain, reference = drawn_group(model)
    advantage = torch.randn(3, 4, dtype=torch.float64)
    parameters = list(model.denoiser.parameters())
    found = torch.autograd.grad(loss.of(model, chain.x, c, advantage, reference), parameters)
    log_prob = model.log_probs(chain.x, c, model.means(chain.x, c, model.denoiser))
    assert_close(flat(found), flat(torch.autograd.grad(-(advantage * log_prob).mean(), parameters)))


def test_the_loss_in_loops():  # oracle 6
    model, loss = reasoner(), ChainGRPO(clip=0.001, b=0.3)
    c, chain, reference = drawn_group(model)
    advantage, h, s = torch.randn(3, 4, dtype=torch.float64), to_noise_scale(c), model.schedule
    old = model.log_probs(chain.x, c, model.means(chain.x, c, model.denoiser)).detach()
    old = old + 0.01 * torch.randn(old.shape, dtype=torch.float64)
    terms, divergences, clipped = [], [], 0
    for user in range(3):
        for g in range(4):
            x = chain.x[:, user, g]
            for i in range(4):
                if i == 0:
                    mean, std = s.alpha_bar[4].sqrt() * h[user, g], (1 - s.alpha_bar[4]).sqrt()
                else:
                    t = tensor(5 - i)
                    mean, std = s.mean(model.denoiser(x[i - 1], h[user, g], t), x[i - 1], t), s.sigma[t]
                    divergences.append(gaussian_kl(mean, reference[i - 1, user, g], std))
                ratio = (log_density(x[i], mean, std) - old[i, user, g]).exp()
                a = advantage[user, g]
                terms.append(torch.minimum(ratio * a, ratio.clamp(0.999, 1.001) * a))
                clipped += int(terms[-1] != ratio * a)
    expected = -torch.stack(terms).mean() + 0.3 * torch.stack(divergences).mean()
    found = loss.of(model, chain.x, c, advantage, reference, old)
    assert_close(found, expected)
    assert 0 < clipped < len(terms)
    parameters = list(model.denoiser.parameters())
    assert_close(flat(torch.autograd.grad(found, parameters)), flat(torch.autograd.grad(expected, parameters)))


def test_the_start_is_an_action():
    """d E[R] / dc by the chain's log-probabilities is that through the samples; without the start it is another."""
    model, runs, n = reasoner(levels=6, start=2), 100, 1000
    direction = guesses(1, seed=8)[0]

    def reward(chain):
        return torch.tanh(chain.x[-1] @ direction)  # of x_1: the last step, without noise, is no action

    c = guesses(1).expand(runs, -1).clone().requires_grad_()
    chain = model.sample(c[:, None].expand(-1, n, -1), generator=torch.Generator().manual_seed(0))
    (through,) = torch.autograd.grad(reward(chain).mean(1).sum(), c)
    fixed = chain.x.detach()
    group = c[:, None].expand(-1, n, -1)
    log_prob = model.log_probs(fixed, group, model.means(fixed, group, model.denoiser)) * 8  # the mean over d, undone
    weight = reward(chain).detach()
    weight = weight - weight.mean()

    def off(log_prob):
        """Largest distance between the two estimates in standard errors."""
        (score,) = torch.autograd.grad((weight * log_prob).mean(1).sum(), c, retain_graph=True)
        error = (score.var(0) / runs + through.var(0) / runs).sqrt()
        return float(((score.mean(0) - through.mean(0)).abs() / error).max())

    assert off(log_prob.sum(0)) < 4
    assert off(log_prob[1:].sum(0)) > 6


@pytest.mark.parametrize("align", [ChainGRPO(), ItemGRPO()], ids=["A", "B"])
def test_end_to_end(align):  # oracle 7
    model, batch = reasoner(), batch_of(drawn())
    torch.manual_seed(1)
    AlignmentLoss(align)(model, batch)[0].backward()

    def reached(part):
        return sum(float(p.grad.abs().sum()) for p in part.parameters() if p.grad is not None)

    for part in (model.denoiser, model.positions, model.backbone.blocks):
        assert reached(part) > 0
    assert reached(model.reference) == 0
    model.zero_grad()
    torch.manual_seed(1)
    c, target = model.hypothesis(drawn()).detach(), tensor([3, 4, 5])
    align(model, c, target).backward()
    assert reached(model.denoiser) > 0
    assert reached(model.positions) == reached(model.backbone.blocks) == 0


def test_the_kl_divergence_pulls_towards_the_reference():
    model = reasoner()
    c, chain, reference = drawn_group(model)
    loss = ChainGRPO(b=1.0).of(model, chain.x, c, torch.zeros(3, 4, dtype=torch.float64), reference + 0.5)
    before = float(loss.detach())
    loss.backward()
    with torch.no_grad():
        for p in model.denoiser.parameters():
            p -= 0.01 * p.grad
    after = ChainGRPO(b=1.0).of(model, chain.x, c, torch.zeros(3, 4), reference + 0.5)
    assert float(after.detach()) < before


def test_variant_b_by_hand():
    model, target = reasoner(), tensor([3, 4])
    c = guesses(2)
    torch.manual_seed(0)
    loss = ItemGRPO(group_size=3)(model, c, target)
    (found,) = torch.autograd.grad(loss, [model.denoiser.net[0].weight])
    torch.manual_seed(0)
    noise = torch.randn(2, 3, 8, dtype=torch.float64)
    noise[:, 0] = 0
    terms = []
    for user in range(2):
        log_p = torch.stack(
            [model.rank(model.refine(c[user], noise=noise[user, g])).log_softmax(-1)[target[user]] for g in range(3)]
        )
        reward = -1 / log_p.detach().exp()
        terms.append(-((reward - reward.mean()) / (reward.std() + 1e-6) * log_p).mean())
    (expected,) = torch.autograd.grad(torch.stack(terms).mean(), [model.denoiser.net[0].weight])
    assert_close(found, expected)


def test_the_first_member_of_a_group_is_the_mean_path():
    model, c = reasoner(), guesses(2)
    noise = torch.zeros(2, 1, 8, dtype=torch.float64)
    log_p = ItemGRPO().log_prob(model, c[:, None], noise, tensor([3, 4]))
    expected = model.rank(model.refine(c)).log_softmax(-1)[tensor([0, 1]), tensor([3, 4])]
    assert_close(log_p[:, 0], expected)


def test_a_cut_reward_leaves_groups_without_a_lesson():
    model, c, target = reasoner(), guesses(40), torch.randint(1, 21, (40,))
    torch.manual_seed(0)
    cut = zero_variance_share(model, c, target, 4, 1)
    torch.manual_seed(0)
    assert cut > zero_variance_share(model, c, target, 4, None)


def test_a_group_of_one_is_refused():
    for kind in (ChainGRPO, ItemGRPO):
        with pytest.raises(ValueError, match="group_size: must be at least 2, got 1"):
            kind(group_size=1)
