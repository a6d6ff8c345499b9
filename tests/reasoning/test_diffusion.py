"""The equations of the diffusion against numbers by hand and against each other."""

import math

import pytest
import torch
from torch import tensor
from torch.testing import assert_close

from reclib.reasoning.diffusion import (
    Corrector,
    Denoiser,
    Schedule,
    cosine_beta,
    gaussian_kl,
    linear_beta,
    log_density,
    posterior,
    sines,
    to_noise_scale,
)

BETA = tensor([0.1, 0.2, 0.4, 0.8], dtype=torch.float64)


def test_posterior_by_hand():  # oracle 1
    found = posterior(BETA)
    assert_close(found.alpha_bar, tensor([1, 0.9, 0.72, 0.432, 0.0864], dtype=torch.float64))
    assert_close(found.c1[1:], tensor([1, 0.677631, 0.597555, 0.575540], dtype=torch.float64), atol=1e-6, rtol=0)
    assert_close(found.c2[1:], tensor([0, 0.319438, 0.381843, 0.278040], dtype=torch.float64), atol=1e-6, rtol=0)
    assert_close(
        found.sigma[1:].square(), tensor([0, 0.071429, 0.197183, 0.497373], dtype=torch.float64), atol=1e-6, rtol=0
    )


@pytest.mark.parametrize("beta", [BETA, cosine_beta(10), linear_beta(200)])
def test_one_step_back_has_the_marginal_of_the_level_below(beta):  # oracle 2
    p = posterior(beta)
    now, below = p.alpha_bar[1:], p.alpha_bar[:-1]
    assert_close(p.c1[1:] + p.c2[1:] * now.sqrt(), below.sqrt(), atol=1e-12, rtol=0)
    assert_close(p.c2[1:].square() * (1 - now) + p.sigma[1:].square(), 1 - below, atol=1e-12, rtol=0)


def test_single_steps_compose_to_the_closed_form():  # oracle 3
    g, n = torch.Generator().manual_seed(0), 200_000
    schedule = Schedule(BETA).double()
    x = torch.full((n,), 1.5, dtype=torch.float64)
    for t, beta in enumerate(BETA, start=1):
        x = (1 - beta).sqrt() * x + beta.sqrt() * torch.randn(n, generator=g, dtype=torch.float64)
        level = tensor(t)
        mean = schedule.add_noise(tensor([1.5], dtype=torch.float64), torch.zeros(1, dtype=torch.float64), level)
        variance = 1 - schedule.alpha_bar[t]
        assert abs(x.mean() - mean) < 3 * (variance / n).sqrt()
        assert abs(x.var() - variance) < 3 * variance * math.sqrt(2 / n)


def test_steps_use_the_numbers_of_their_level():
    schedule = Schedule(BETA)
    x0, xt = tensor([[1.0, 2.0], [3.0, 4.0]]), tensor([[-1.0, 0.0], [0.5, 1.0]])
    t = tensor([2, 4])
    assert_close(schedule.mean(x0, xt, t)[0], 0.677631 * x0[0] + 0.319438 * xt[0], atol=1e-5, rtol=0)
    assert_close(schedule.mean(x0, xt, t)[1], 0.575540 * x0[1] + 0.278040 * xt[1], atol=1e-5, rtol=0)
    assert_close(schedule.add_noise(x0, xt, t)[1], math.sqrt(0.0864) * x0[1] + math.sqrt(0.9136) * xt[1])
    assert_close(schedule.mean(x0, xt, tensor(1)), x0)


def test_ddim_keeps_the_noise_it_finds():
    schedule = Schedule(BETA).double()
    g = torch.Generator().manual_seed(0)
    x0, noise = (torch.randn(3, 4, generator=g, dtype=torch.float64) for _ in range(2))
    xt = schedule.add_noise(x0, noise, tensor(4))
    assert_close(schedule.ddim(x0, xt, 4, 2), schedule.add_noise(x0, noise, tensor(2)))
    assert_close(schedule.ddim(x0, xt, 4, 0), x0)


def test_log_density_and_kl_by_hand():  # oracle 4
    x, std = tensor([[0.1, -0.2]], dtype=torch.float64), tensor([0.5], dtype=torch.float64)
    assert float(log_density(x, torch.zeros_like(x), std)) == pytest.approx(-0.275791, abs=1e-6)
    exact = torch.distributions.Normal(0.0, 0.5).log_prob(x).mean()
    assert_close(log_density(x, torch.zeros_like(x), std)[0], exact)
    one, other = torch.distributions.Normal(0.3, 0.5), torch.distributions.Normal(0.0, 0.5)
    kl = gaussian_kl(tensor([0.3, 0.3]), torch.zeros(2), tensor(0.5))
    assert float(kl) == pytest.approx(0.18)
    assert float(kl) == pytest.approx(float(torch.distributions.kl_divergence(one, other)))


def test_the_score_function_gradient_is_the_true_one():  # oracle 5
    theta, sigma, runs, n = 0.7, (0.5, 0.4, 0.3), 100, 4000
    g = torch.Generator().manual_seed(0)
    z = [torch.randn(runs, n, 1, generator=g, dtype=torch.float64)]
    for s in sigma:
        z.append(theta * z[-1] + s * torch.randn(runs, n, 1, generator=g, dtype=torch.float64))
    reward = -(z[-1][..., 0] - 1).square()
    parameter = torch.full((runs,), theta, dtype=torch.float64, requires_grad=True)
    log_prob = sum(
        log_density(z[t + 1], parameter[:, None, None] * z[t], torch.full((runs, n), s, dtype=torch.float64))
        for t, s in enumerate(sigma)
    )
    (reward * log_prob).mean(1).sum().backward()
    exact = -(6 * theta**5 + 4 * theta**3 * sigma[0] ** 2 + 2 * theta * sigma[1] ** 2)
    assert exact == pytest.approx(-1.575420)
    standard_error = parameter.grad.std() / math.sqrt(runs)
    assert abs(parameter.grad.mean() - exact) < 4 * standard_error
    assert standard_error < 0.05


def test_a_mean_over_numbers_is_the_root_of_the_likelihood():  # trap 3
    g = torch.Generator().manual_seed(0)
    x, mean = (torch.randn(5, 16, generator=g, dtype=torch.float64) for _ in range(2))
    whole = torch.distributions.Normal(mean, 0.7).log_prob(x).sum(-1)
    assert_close(16 * log_density(x, mean, tensor(0.7, dtype=torch.float64)), whole)


def test_the_last_step_has_no_density():
    sigma = Schedule(BETA).sigma[1]
    assert sigma == 0
    for density in (log_density, gaussian_kl):
        with pytest.raises(ValueError, match="std: is 0 somewhere, as of the last step back"):
            density(torch.ones(2), torch.ones(2), sigma)


def test_schedules():
    for steps in (3, 10, 50):
        beta = cosine_beta(steps)
        assert len(beta) == steps
        assert posterior(beta).alpha_bar[-1] < 0.002
        assert (beta[1:] > beta[:-1] - 1e-12).all()
    linear = posterior(linear_beta(200)).alpha_bar[-1]
    assert float(linear) == pytest.approx(0.132, abs=2e-3)  # far from noise alone, where serving starts
    with pytest.raises(ValueError, match="beta: every β must lie between 0 and 1"):
        posterior(tensor([0.1, 1.0]))
    with pytest.raises(ValueError, match="steps: must be at least 1, got 0"):
        cosine_beta(0)


def test_items_get_the_size_of_noise():
    x = to_noise_scale(torch.randn(5, 16))
    assert_close(x.square().mean(-1), torch.ones(5))
    assert_close(to_noise_scale(x), x)


def test_the_network_sees_all_three_of_its_inputs():
    torch.manual_seed(0)
    net, x, c, t = Denoiser(6, 10), torch.randn(4, 6), torch.randn(4, 6), tensor([1, 4, 7, 10])
    plain = net(x, c, t)
    for other in (net(x + 1, c, t), net(x, c + 1, t), net(x, c, t - 1)):
        assert ((plain - other).abs().amax(-1) > 1e-4).all()
    for row in range(4):
        assert_close(net(x[row], c[row], t[row]), plain[row])
    assert_close(net(x, c, tensor(4))[1], plain[1])


def test_a_corrector_adds_to_the_condition():
    torch.manual_seed(0)
    plain, corrector = Denoiser(6, 10), Corrector(6, 10)
    corrector.load_state_dict(plain.state_dict())
    x, c = torch.randn(4, 6), torch.randn(4, 6)
    assert_close(corrector(x, c, tensor(3)), c + plain(x, c, tensor(3)))


def test_sines():
    table = sines(3, 5)
    assert table.shape == (3, 5)
    assert table[0].tolist() == [0, 0, 1, 1, 0]
    assert_close(table[2, 0], tensor(2.0).sin())
    assert_close(table[2, 1], tensor(2e-4).sin())
