"""DRPO against hand-computed numbers, a linear program, a convex solver and finite differences."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog, minimize
from torch.distributions import Normal
from torch.testing import assert_close

from reclib.objectives import drpo
from reclib.objectives.offline import bc_loss

DOUBLE = torch.float64
R = [0.1, 0.2, 0.3, 0.4, 0.9]
BATCH = [0.1, 0.2, 0.3, 0.4, 0.9, 0.05, 0.15, 0.25]
REWARDS = st.lists(st.sampled_from([x / 16 for x in range(17)]), min_size=1, max_size=20)  # exact, with many ties


def tensor(values):
    return torch.tensor(values, dtype=DOUBLE)


def random(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


# ------------------------------------------------------------------ §3 divergence


def test_log_prob_and_score_are_those_of_torch():
    mu, xi, action = random(7, 3, seed=1).requires_grad_(), (random(1, 3) - 0.5).requires_grad_(), random(7, 3, seed=2)
    log_prob = drpo.gaussian_log_prob(action, mu, xi)
    assert_close(log_prob, Normal(mu, xi.exp().expand(7, 3)).log_prob(action).sum(-1))
    by_mu, by_xi = torch.autograd.grad(log_prob.sum(), (mu, xi))
    score = drpo.gaussian_score(action, mu.detach(), xi.detach().expand(7, 3))
    assert_close(score.mu, by_mu)
    assert_close(score.xi.sum(0, keepdim=True), by_xi)
    assert_close(score.norm, torch.cat([score.mu, score.xi], -1).norm(dim=-1))


def test_with_sigma_fixed_the_distance_grows_geometrically():
    a, mu, xi = tensor([0.7]), tensor([0.2]), tensor([0.0])
    for t in range(1, 60):
        mu, _ = drpo.push_gaussian(a, mu, xi, -0.05)
        assert float(a - mu) == pytest.approx(0.5 * 1.05**t, rel=1e-12)
        assert drpo.fixed_sigma_distance(0.5, 1.0, -0.05, t) == pytest.approx(0.5 * 1.05**t, rel=1e-12)
    assert drpo.fixed_sigma_distance(1.0, 0.5, 0.05, 3) == pytest.approx(0.8**3)
    assert drpo.fixed_sigma_distance(1.0, 1.0, 2.1, 1) > 1  # too large a step overshoots, also with A > 0


def test_near_the_mean_sigma_grows_and_the_push_dies():
    a, mu, xi = tensor([0.5]), tensor([0.0]), tensor([0.0])
    mu, xi = drpo.push_gaussian(a, mu, xi, -0.05)
    assert_close(mu, tensor([-0.025]))
    assert_close(xi, tensor([0.0375]))
    for _ in range(400):
        mu, xi = drpo.push_gaussian(a, mu, xi, -0.05)
    assert float(a - mu) == pytest.approx(0.96, abs=0.01)
    assert float(xi) > 10
    assert float(drpo.gaussian_score(a, mu, xi).mu) == pytest.approx(0, abs=1e-6)


def test_far_from_the_mean_sigma_shrinks_and_everything_diverges():
    a, mu, xi = tensor([2.0]), tensor([0.0]), tensor([0.0])
    mu, xi = drpo.push_gaussian(a, mu, xi, -0.05)
    assert_close(mu, tensor([-0.1]))
    assert_close(xi, tensor([-0.15]))  # the paper: "both expand"
    for _ in range(4):
        mu, xi = drpo.push_gaussian(a, mu, xi, -0.05)
    assert float(a - mu) > 40  # 20 times as far after five steps
    mu, xi = drpo.push_gaussian(a, mu, xi, -0.05)
    assert not float(a - mu) < 1e6


@given(st.floats(-5, 5), st.floats(-1, 1), st.floats(0.001, 0.2))
def test_a_negative_row_pushes_mu_away_and_turns_sigma_by_the_distance(distance, log_sigma, eta):
    a, mu, xi = tensor([distance]), tensor([0.0]), tensor([log_sigma])
    after_mu, after_xi = drpo.push_gaussian(a, mu, xi, -eta)
    assert (a - after_mu).abs() >= (a - mu).abs()
    z = abs(distance) / math.exp(log_sigma)
    assert float(after_xi - xi) * (1 - z) >= -1e-12


def test_a_softmax_cannot_explode():
    logits, action = tensor([0.0] * 5), torch.tensor(2)
    gaps = []
    for _ in range(400):
        logits = drpo.push_softmax(action, logits, -0.05)
        gaps.append(float((logits.sum() - logits[2]) / 4 - logits[2]))
    assert gaps[-1] - gaps[-2] == pytest.approx(0.0625, abs=1e-6)
    score = torch.nn.functional.one_hot(action, 5) - logits.softmax(-1)
    assert float(score.norm()) == pytest.approx(1.118, abs=1e-3)
    for _ in range(50):
        logits = 3 * torch.randn(5, dtype=DOUBLE, generator=torch.Generator().manual_seed(_))
        pi = logits.softmax(-1)
        step = drpo.push_softmax(action, logits, 1.0) - logits
        assert float(step.norm()) <= math.sqrt(2) * (1 - float(pi[2])) + 1e-12


def test_the_on_policy_score_does_not_know_the_mean():
    sigma, g = tensor([0.5, 1.0, 2.0]), torch.Generator().manual_seed(0)
    assert float(drpo.on_policy_score(sigma)) == 5.25
    for mu in (tensor([0.0, 0.0, 0.0]), tensor([9.0, -3.0, 100.0])):
        action = mu + sigma * torch.randn(200_000, 3, generator=g, dtype=DOUBLE)
        score = drpo.gaussian_score(action, mu.expand_as(action), sigma.log().expand_as(action)).mu
        assert float(score.square().sum(-1).mean()) == pytest.approx(5.25, rel=0.02)


def test_equilibria_by_hand_and_by_pushing():
    assert drpo.equilibrium(1, -1, 0.7, 0.3) == pytest.approx(2.5)
    assert drpo.equilibrium(1, -1, 0.6, 0.4) == pytest.approx(5)
    m = 0.0
    for _ in range(4000):  # gradient ascent on p log N(1; m, 1) - q log N(-1; m, 1)
        m += 0.01 * (0.7 * (1 - m) - 0.3 * (-1 - m))
    assert m == pytest.approx(2.5, abs=1e-3)
    m = 0.0
    for t in range(1, 500):
        m += 0.01 * (0.5 * (1 - m) - 0.5 * (-1 - m))
        assert m == pytest.approx(0.01 * t)
    with pytest.raises(ValueError, match=r"q: 0.5 must lie in \[0, p\)"):
        drpo.equilibrium(1, -1, 0.5, 0.5)


@given(REWARDS)
def test_a_mean_baseline_is_the_critical_case(rewards):
    advantage = tensor(rewards) - tensor(rewards).mean()
    p, q = drpo.masses(advantage)
    assert float(p) == pytest.approx(float(q), abs=1e-12)
    scaled = drpo.masses(torch.where(advantage < 0, 0.1 * advantage, advantage))
    if float(p) > 1e-9:
        assert float(scaled.rho) == pytest.approx(0.1)
        assert drpo.equilibrium(1, 0, 1, 0.1) == pytest.approx(1 + 1 / 9)


# ------------------------------------------------------------------ §4 the dual


@pytest.mark.parametrize(
    ("kappa", "value", "low", "high"),
    [
        (0.2, 0.9, 0.4, 0.9),
        (0.4, 0.65, 0.3, 0.4),
        (0.5, 0.58, 0.3, 0.3),
        (0.6, 0.8 / 1.5, 0.2, 0.3),
        (1, 0.38, -math.inf, 0.1),
    ],
)
def test_the_dual_by_hand(kappa, value, low, high):
    found = drpo.solve_dual(tensor(R), kappa)
    assert float(found.value) == pytest.approx(value, abs=1e-9)
    assert (float(found.low), float(found.high)) == (low, high)
    for nu in (max(low, -1.0), (max(low, -1.0) + high) / 2, high):
        objective = drpo.dual_objective(torch.full((5,), nu, dtype=DOUBLE), tensor(R), kappa).mean()
        assert float(objective) == pytest.approx(value, abs=1e-9)
    for nu in (high + 0.05, *([low - 0.05] if math.isfinite(low) else [])):
        assert float(drpo.dual_objective(torch.full((5,), nu, dtype=DOUBLE), tensor(R), kappa).mean()) > value + 1e-6


def test_int_is_not_the_cvar():
    """Trap 15: Algorithm 1 keeps int(2.5) = 2 rows, whose mean is .65; the CVaR at .5 is .58."""
    top = drpo.top_rows(tensor(R), 0.5)
    assert float(top.mean) == pytest.approx(0.65)
    assert float(drpo.solve_dual(tensor(R), 0.5).value) == pytest.approx(0.58)


@settings(deadline=None)
@given(REWARDS, st.floats(0.03, 1))
def test_dual_weights_and_linear_program_agree(rewards, kappa):
    r, n = np.array(rewards), len(rewards)
    program = linprog(-r / n, A_eq=np.full((1, n), 1 / n), b_eq=[1], bounds=(0, 1 / kappa))
    weights = drpo.top_fraction_weights(tensor(rewards), kappa)
    assert float(weights.mean()) == pytest.approx(1)
    assert weights.min() >= 0
    assert weights.max() <= 1 / kappa + 1e-9
    assert float((weights * tensor(rewards)).mean()) == pytest.approx(-program.fun, abs=1e-7)
    assert float(drpo.solve_dual(tensor(rewards), kappa).value) == pytest.approx(-program.fun, abs=1e-7)
    at_rewards = [
        float(drpo.dual_objective(torch.full((n,), v, dtype=DOUBLE), tensor(rewards), kappa).mean()) for v in rewards
    ]
    assert min(at_rewards) == pytest.approx(-program.fun, abs=1e-7)


@given(REWARDS, st.floats(0.03, 1), st.randoms(use_true_random=False))
def test_weights_do_not_depend_on_the_order_of_rows(rewards, kappa, shuffle):
    order = list(range(len(rewards)))
    shuffle.shuffle(order)
    assert_close(
        drpo.top_fraction_weights(tensor(rewards), kappa)[order],
        drpo.top_fraction_weights(tensor(rewards)[order], kappa),
    )


def test_ties_share_what_is_left():
    assert_close(drpo.top_fraction_weights(tensor([1, 0.5, 0.5, 0.5]), 0.5), tensor([2, 2 / 3, 2 / 3, 2 / 3]))
    assert_close(drpo.top_fraction_weights(tensor([0.3] * 4), 0.25), torch.ones(4, dtype=DOUBLE))


def test_a_state_dependent_nu_finds_the_quantile_of_every_state():
    """Minimising the dual over ν(s) gives each of two states its own quantile; the global one serves the rich only."""
    g = torch.Generator().manual_seed(0)
    poor, rich = torch.rand(4000, generator=g, dtype=DOUBLE), 5 + torch.rand(4000, generator=g, dtype=DOUBLE)
    nu = torch.zeros(2, dtype=DOUBLE, requires_grad=True)
    optimizer = torch.optim.Adam([nu], lr=0.05)
    for _ in range(400):
        optimizer.zero_grad()
        terms = drpo.dual_objective(nu[:, None].expand(2, 4000), torch.stack([poor, rich]), 0.2)
        terms.mean().backward()
        optimizer.step()
    assert_close(nu.detach(), tensor([0.8, 5.8]), atol=0.05, rtol=0)
    kept = drpo.top_rows(torch.cat([poor, rich]), 0.2).mask
    assert int(kept[:4000].sum()) == 0


def test_the_objective_is_reward_weighted_cloning_at_kappa_one():
    log_prob, reward = -random(6), random(6, seed=1)
    assert_close(drpo.optimistic_objective(log_prob, reward, 0.0, 1.0), (reward * log_prob).mean())
    nu = random(6, seed=2)
    assert_close(
        drpo.optimistic_objective(log_prob, reward, nu, 0.5), ((reward - nu).clamp(min=0) * log_prob).mean() * 2
    )
    stacked = drpo.optimistic_objective(log_prob.expand(2, 6), reward.expand(2, 6), tensor([0.0, 0.4]), 1.0)
    assert_close(stacked[1], ((reward - 0.4).clamp(min=0) * log_prob).mean())


# ------------------------------------------------------------------ DRPO-Exp, as it is and as it should be


def kl_objective(weights, rewards, tau):
    positive = weights.clamp(min=1e-300)
    return float((weights * rewards - tau * weights * positive.log()).mean())


def test_the_proposition_of_drpo_exp_is_false():
    rewards = tensor([0, 0.2, 0.4, 0.6, 0.8, 1])
    true = drpo.capped_exponential_weights(rewards, 0.5, 0.3)
    assert_close(true, tensor([0.142, 0.276, 0.537, 1.046, 2, 2]), atol=6e-4, rtol=0)
    assert kl_objective(true, rewards, 0.3) == pytest.approx(0.65689, abs=1e-5)
    paper = drpo.exponential_top_weights(rewards, 0.5, 0.3)
    assert_close(paper, tensor([0, 0, 0, 0.890, 1.734, 3.376]), atol=6e-4, rtol=0)
    assert kl_objective(paper, rewards, 0.3) == pytest.approx(0.63495, abs=1e-5)
    assert float(paper.max()) > 2  # the cap 1/κ


@pytest.mark.parametrize("seed", range(5))
def test_a_convex_solver_finds_the_capped_weights(seed):
    rewards, kappa, tau = random(8, seed=seed), 0.4, 0.15
    r = rewards.numpy()
    found = minimize(
        lambda w: -np.mean(w * r - tau * w * np.log(w)),
        np.ones(8),
        jac=lambda w: -(r - tau * (np.log(w) + 1)) / 8,
        bounds=[(1e-9, 1 / kappa)] * 8,
        constraints={"type": "eq", "fun": lambda w: w.mean() - 1, "jac": lambda w: np.full(8, 1 / 8)},
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    assert found.success
    ours = drpo.capped_exponential_weights(rewards, kappa, tau)
    assert_close(ours, torch.from_numpy(found.x), atol=2e-4, rtol=0)
    assert kl_objective(ours, rewards, tau) >= -found.fun - 1e-10
    assert float(drpo.exponential_top_weights(rewards, kappa, tau).max()) > 1 / kappa  # no solution at all


def test_limits_of_the_capped_weights():
    rewards = random(40)
    assert_close(drpo.capped_exponential_weights(rewards, 0.25, 1e-5), drpo.top_fraction_weights(rewards, 0.25))
    plain = (rewards / 0.2).exp()
    assert_close(drpo.capped_exponential_weights(rewards, 1e-6, 0.2), plain / plain.mean())
    assert_close(drpo.capped_exponential_weights(rewards, 1.0, 0.2), torch.ones(40, dtype=DOUBLE))
    stacked = drpo.capped_exponential_weights(rewards.expand(2, 40), tensor([0.25, 0.5]), tensor([0.1, 0.3]))
    assert_close(stacked[1], drpo.capped_exponential_weights(rewards, 0.5, 0.3))


# ------------------------------------------------------------------ Algorithm 1


def test_one_step_by_hand():
    reward = tensor(BATCH)
    top = drpo.top_rows(reward, 0.5)
    assert sorted(reward[top.mask].tolist()) == [0.25, 0.3, 0.4, 0.9]
    assert float(top.nu) == 0.25
    found = drpo.drpo_advantages(reward, 0.5)
    assert_close(found[[4, 3, 2, 7]], tensor([2.179308, 0.502917, 0.167639, 0]), atol=1e-6, rtol=0)
    population = tensor([0.65, 0.15, 0.05, 0]) / (tensor([0.65, 0.15, 0.05, 0]).std(correction=0) + 1e-6)
    assert_close(population, tensor([2.516447, 0.580718, 0.193573, 0]), atol=1e-6, rtol=0)  # what we do not use
    assert float(top.std) / float(reward.std()) == pytest.approx(1.108, abs=1e-3)
    assert float(drpo.adaptive_fraction(0.5, reward)) == pytest.approx(0.49)
    log_prob = -random(8)
    assert float(drpo.drpo_loss(log_prob, reward, 0.5)) == pytest.approx(-float((found * log_prob).sum()) / 4)


@pytest.mark.slow
def test_the_control_loop_is_one_equation():
    """Fixed points of std(top P) = .5 std, by distribution (trap 8)."""
    g = torch.Generator().manual_seed(0)
    uniform = lambda: torch.rand(320, generator=g, dtype=DOUBLE)  # noqa: E731
    rng = np.random.default_rng(0)
    draws = {
        "uniform": (uniform, 0.50),
        "normal": (lambda: torch.randn(320, generator=g, dtype=DOUBLE), 0.27),
        "beta(2, 5)": (lambda: torch.from_numpy(rng.beta(2, 5, 320)), 0.15),
        "beta(5, 2)": (lambda: torch.from_numpy(rng.beta(5, 2, 320)), 0.62),
        "Bernoulli(.3)": (lambda: (uniform() < 0.3).to(DOUBLE), 0.318),
        "exponential": (lambda: -uniform().log(), 0.05),
        "Pareto(2.5)": (lambda: uniform() ** (-1 / 2.5), 0.05),
        "Bernoulli(.02)": (lambda: (uniform() < 0.02).to(DOUBLE), 0.05),
    }
    fraction, total = torch.full((8,), 0.5, dtype=DOUBLE), torch.zeros(8, dtype=DOUBLE)
    for step in range(5000):
        fraction = drpo.adaptive_fraction(fraction, torch.stack([draw() for draw, _ in draws.values()]))
        total += fraction if step >= 4000 else 0
    for (name, (_, expected)), found in zip(draws.items(), (total / 1000).tolist(), strict=True):
        assert found == pytest.approx(expected, abs=0.03), name


def test_the_fraction_stays_between_floor_and_one():
    assert float(drpo.adaptive_fraction(0.05, -random(400).log())) == 0.05
    nearly_flat_top = tensor([0.9, 0.9, 0.9, 0.0])
    assert float(drpo.adaptive_fraction(0.75, nearly_flat_top)) == pytest.approx(0.765)
    assert float(drpo.adaptive_fraction(1.0, tensor([0.0, 1.0]), lam=2.0)) == 1.0
    per_run = drpo.adaptive_fraction(tensor([0.5, 0.75]), torch.stack([tensor(BATCH), nearly_flat_top.repeat(2)]))
    assert_close(per_run, tensor([0.49, 0.765]))


LOSSES = {
    "drpo": drpo.drpo_loss,
    "exp": drpo.drpo_exp_loss,
    "filtered": drpo.filtered_bc_loss,
}


@pytest.mark.parametrize("name", LOSSES)
def test_no_gradient_from_below_the_top_and_none_repels(name):
    reward = random(3, 40)
    log_prob = (-random(3, 40, seed=1)).requires_grad_()
    fraction = tensor([0.1, 0.35, 1.0])
    (gradient,) = torch.autograd.grad(LOSSES[name](log_prob, reward, fraction).sum(), log_prob)
    for run, k in enumerate((4, 14, 40)):
        inside = torch.zeros(40, dtype=torch.bool)
        inside[reward[run].topk(k).indices] = True
        assert (gradient[run][~inside] == 0).all()
        assert (gradient[run] <= 0).all()  # of a loss: every weight is at least zero
        assert (gradient[run][inside] < 0).sum() >= k - 1
    alone = LOSSES[name](log_prob[1], reward[1], 0.35)
    assert_close(LOSSES[name](log_prob, reward, fraction)[1], alone)


def test_whatever_stands_outside_the_top_does_no_harm():
    log_prob = tensor([-1.0, -2.0, -math.inf, math.nan]).requires_grad_()
    loss = drpo.drpo_loss(log_prob, tensor([1.0, 0.5, 0.2, 0.1]), 0.5)
    loss.backward()
    assert torch.isfinite(loss)
    assert (log_prob.grad[2:] == 0).all()


def test_adaptive_bc_is_drpo_with_unit_weights():
    log_prob, reward = -random(40), random(40, seed=1)
    assert_close(drpo.filtered_bc_loss(log_prob, reward, 1.0), bc_loss(log_prob))
    best = reward.topk(10).indices
    assert_close(drpo.filtered_bc_loss(log_prob, reward, 0.25), -log_prob[best].mean())
    assert_close(drpo.drpo_exp_loss(log_prob, reward, 0.25, 1e9), -log_prob[best].mean(), atol=1e-8, rtol=0)
    mean = reward[best].mean()
    assert_close(
        drpo.drpo_exp_loss(log_prob, reward, 0.25), -(((reward[best] - mean) / 0.05).exp() * log_prob[best]).mean()
    )


def test_binary_rewards_below_kappa_make_drpo_cloning_of_clicks():
    """Trap 14: with fewer clicks than K the top is filled with arbitrary zeros, ν = 0, and only clicks have weight."""
    reward = torch.zeros(100, dtype=DOUBLE)
    reward[[20, 70]] = 1
    weights = drpo.drpo_advantages(reward, 0.1)
    assert set(torch.nonzero(weights).flatten().tolist()) == {20, 70}
    kept = drpo.top_rows(reward, 0.1).mask
    assert kept[[*range(8), 20, 70]].all()  # eight zeros, the first of the batch


# ------------------------------------------------------------------ the taper


def test_the_taper_by_hand():
    found = drpo.taper(tensor([1, 2, 3, 5]), lam=1, tau=2, c=1)
    assert_close(found, tensor([1, 1, 0.367879, 0.049787]), atol=1e-6, rtol=0)
    by_distance = drpo.taper(drpo.remoteness(tensor([0.01]).log()))
    assert float(by_distance) == pytest.approx(0.073891, abs=1e-6)
    assert min(1, (math.exp(2) * 0.01) ** 1) == pytest.approx(float(by_distance))
    assert_close(drpo.taper(tensor([1, 9]), lam=0.0), torch.ones(2, dtype=DOUBLE))


def test_the_taper_is_on_the_negative_branch_only_and_detached():
    log_prob = tensor([-1.0, -3.0, -1.0, -5.0]).requires_grad_()
    advantage = tensor([0.5, 0.5, -0.5, -0.5])
    drpo.tapered_loss(log_prob, advantage, drpo.remoteness(log_prob)).backward()
    assert_close(log_prob.grad, tensor([-0.5, -0.5, 0.5, 0.5 * math.exp(-3)]) / 4)


def test_the_taper_turns_geometric_into_logarithmic_growth():
    free, held = [], []
    for lam, track in ((0.0, free), (1.0, held)):
        a, mu, xi = tensor([[1.0]]), tensor([[0.0]]), tensor([[0.0]])
        for _ in range(1600):
            distance = drpo.gaussian_remoteness(a, mu, xi)
            track.append(float(distance))
            mu, _ = drpo.push_gaussian(a, mu, xi, -0.05 * drpo.taper(distance, lam=lam)[..., None])
            if track[-1] > 1e12:
                break
    growth = [b / a for a, b in pairwise(free)]
    assert growth == pytest.approx([1.05**2] * len(growth))
    assert held[1599] - held[799] == pytest.approx(math.log(2), abs=0.25)  # log t, up to log log t
    assert held[1599] < 12


def test_a_softmax_under_the_taper_decays_like_a_power():
    logits, log_pi = tensor([0.0, 0.0, 0.0]), []
    for _ in range(2000):
        pi = logits.softmax(-1)[0]
        log_pi.append(math.log(float(pi)))
        omega = drpo.taper(drpo.remoteness(pi.log())[None], lam=2.0, tau=2.0, c=1.0)
        logits = drpo.push_softmax(torch.tensor(0), logits, -2.0 * omega)
    slope = (log_pi[-1] - log_pi[199]) / math.log(2000 / 200)
    assert slope == pytest.approx(-0.5, abs=0.02)  # t^{-c/λ}


# ------------------------------------------------------------------ the policy


def test_the_policy_is_a_gaussian_with_a_free_log_sigma():
    torch.manual_seed(0)
    policy = drpo.GaussianPolicy(drpo.mean_network(4, 3), torch.full((1, 3), -0.5))
    state, action = torch.randn(6, 4), torch.randn(6, 3)
    assert_close(policy.log_prob(state, action), drpo.gaussian_log_prob(action, policy(state), policy.xi))
    assert sum(p.numel() for p in policy.parameters()) == 4 * 128 + 128 + 128 * 3 + 3 + 3
    policy.log_prob(state, action).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in policy.parameters())


# ------------------------------------------------------------------ bad input


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_bad_reward_is_refused_everywhere(bad):
    reward, log_prob = tensor([0.1, bad, 0.3]), -random(3)
    calls = [
        lambda: drpo.top_fraction_weights(reward, 0.5),
        lambda: drpo.solve_dual(reward, 0.5),
        lambda: drpo.dual_objective(torch.zeros(3, dtype=DOUBLE), reward, 0.5),
        lambda: drpo.capped_exponential_weights(reward, 0.5, 0.1),
        lambda: drpo.exponential_top_weights(reward, 0.5, 0.1),
        lambda: drpo.optimistic_objective(log_prob, reward, 0.0, 0.5),
        lambda: drpo.adaptive_fraction(0.5, reward),
        *(lambda loss=loss: loss(log_prob, reward, 0.5) for loss in LOSSES.values()),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="reward: 1 of 3 values are NaN or infinite; drop these rows of the log"):
            call()


@pytest.mark.parametrize("bad", [0.0, -0.1, 1.1, math.nan])
def test_a_fraction_outside_its_range_is_refused(bad):
    reward = tensor(BATCH)
    for call, name in (
        (lambda: drpo.top_fraction_weights(reward, bad), "kappa"),
        (lambda: drpo.solve_dual(reward, bad), "kappa"),
        (lambda: drpo.dual_objective(reward, reward, bad), "kappa"),
        (lambda: drpo.capped_exponential_weights(reward, bad, 0.1), "kappa"),
        (lambda: drpo.adaptive_fraction(bad, reward), "fraction"),
        *((lambda loss=loss: loss(reward, reward, bad), "fraction") for loss in LOSSES.values()),
    ):
        with pytest.raises(ValueError, match=rf"{name}: .* must lie in \(0, 1\]; 1 keeps all rows"):
            call()


def test_other_bad_arguments_are_named():
    reward = tensor(BATCH)
    with pytest.raises(ValueError, match=r"fraction: 0.05 of a batch of 8 rows is none; use at least 0.125"):
        drpo.drpo_loss(reward, reward, 0.05)
    with pytest.raises(ValueError, match=r"beta: 0.0 must be positive and finite"):
        drpo.drpo_exp_loss(reward, reward, 0.5, 0.0)
    with pytest.raises(ValueError, match=r"tau: -1.0 must be positive"):
        drpo.capped_exponential_weights(reward, 0.5, -1.0)
    with pytest.raises(ValueError, match=r"c: 0.0 must be positive"):
        drpo.taper(reward, c=0.0)
    with pytest.raises(ValueError, match=r"log_prob: shape \(7,\) differs from \(8,\)"):
        drpo.drpo_loss(reward[:7], reward, 0.5)
    with pytest.raises(ValueError, match=r"reward: shape \(0,\) has no rows"):
        drpo.top_fraction_weights(tensor([]), 0.5)


@pytest.mark.parametrize("rows", [1, 320])
@pytest.mark.parametrize("value", [0.0, 0.1, 1e6])
def test_equal_rewards_say_nothing(rows, value):
    reward = torch.full((rows,), value, dtype=DOUBLE)
    log_prob = (-random(rows)).requires_grad_()
    loss = drpo.drpo_loss(log_prob, reward, 1.0)
    loss.backward()
    assert float(loss.detach()) == 0
    assert (log_prob.grad == 0).all()
    assert_close(drpo.top_fraction_weights(reward, 0.3), torch.ones(rows, dtype=DOUBLE))
    assert_close(drpo.capped_exponential_weights(reward, 0.3, 0.1), torch.ones(rows, dtype=DOUBLE))
    assert float(drpo.adaptive_fraction(1.0, reward)) == 1.0
    assert_close(drpo.drpo_exp_loss(log_prob, reward, 1.0), bc_loss(log_prob))
