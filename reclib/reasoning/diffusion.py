"""The equations of the diffusion, and the network that takes noise away (Ho et al., 2020; Song et al., 2021).

    q(x_t | x_0)           = N(√ᾱ_t x_0, (1 - ᾱ_t) I),            ᾱ_t = Π_{s ≤ t} (1 - β_s)
    q(x_{t-1} | x_t, x_0)  = N(c_{1,t} x_0 + c_{2,t} x_t, σ_t² I)

    c_{1,t} = β_t √ᾱ_{t-1} / (1 - ᾱ_t),   c_{2,t} = √(1 - β_t) (1 - ᾱ_{t-1}) / (1 - ᾱ_t),
    σ_t² = β_t (1 - ᾱ_{t-1}) / (1 - ᾱ_t)

Levels are counted 0 … T; level 0 is clean. σ_1 = 0: the last step back draws nothing. As in DreamRec (Yang et al.,
2023) the network f says what x_0 was, from x_t, a condition and t. Items have the size of the noise, √d e_i / ‖e_i‖, so
that every number of x_0 has mean square 1. In unit vectors it would be 1 / d, and most levels would be noise alone.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from reclib.nn.sizes import check_at_least


class Posterior(NamedTuple):
    """What follows from β; entry t belongs to level t, entry 0 to clean data."""

    alpha_bar: Float[Tensor, "levels"]
    c1: Float[Tensor, "levels"]
    c2: Float[Tensor, "levels"]
    sigma: Float[Tensor, "levels"]


def posterior(beta: Float[Tensor, "steps"]) -> Posterior:
    """ᾱ, c_1, c_2 and σ of β_1 … β_T.

    Raises:
        ValueError: a β outside (0, 1).
    """
    if not ((beta > 0) & (beta < 1)).all():
        raise ValueError(f"beta: every β must lie between 0 and 1, got {beta.min():g} … {beta.max():g}")
    alpha_bar = (1 - beta).cumprod(0)
    before = torch.cat([alpha_bar.new_ones(1), alpha_bar[:-1]])
    c1 = beta * before.sqrt() / (1 - alpha_bar)
    c2 = (1 - beta).sqrt() * (1 - before) / (1 - alpha_bar)
    sigma = (beta * (1 - before) / (1 - alpha_bar)).sqrt()
    one, zero = beta.new_ones(1), beta.new_zeros(1)
    return Posterior(*(torch.cat(pair) for pair in ((one, alpha_bar), (one, c1), (zero, c2), (zero, sigma))))


def cosine_beta(steps: int) -> Float[Tensor, "steps"]:
    """β with ᾱ_t ∝ cos²(π/2 · (t/T + .008) / 1.008), at most .999 (Nichol & Dhariwal, 2021). ᾱ_T ≈ 0 for any T."""
    check_at_least(1, steps=steps)
    t = torch.arange(steps + 1, dtype=torch.float64) / steps
    alpha_bar = torch.cos((t + 0.008) / 1.008 * math.pi / 2).square()
    return (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=0.999)


def linear_beta(steps: int, first: float = 1e-4, last: float = 0.02) -> Float[Tensor, "steps"]:
    """β from 1e-4 to .02, as in DDPM and DreamRec. It needs a thousand steps; after 200, ᾱ_T is still .13."""
    check_at_least(1, steps=steps)
    return torch.linspace(first, last, steps, dtype=torch.float64)


def to_noise_scale(x: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
    """√d x / ‖x‖."""
    return math.sqrt(x.shape[-1]) * F.normalize(x, dim=-1)


class Schedule(nn.Module):
    """The numbers of `posterior` as buffers, and the steps that use them. t is a level, or one per row."""

    alpha_bar: Tensor
    c1: Tensor
    c2: Tensor
    sigma: Tensor

    def __init__(self, beta: Float[Tensor, "steps"]) -> None:
        super().__init__()
        self.levels = len(beta)  # T
        for name, value in posterior(beta)._asdict().items():
            self.register_buffer(name, value.float(), persistent=False)

    def add_noise(
        self, x0: Float[Tensor, "*batch dim"], noise: Float[Tensor, "*batch dim"], t: Int[Tensor, "*level"]
    ) -> Float[Tensor, "*batch dim"]:
        """x_t = √ᾱ_t x_0 + √(1 - ᾱ_t) ε."""
        alpha_bar = self.alpha_bar[t][..., None]
        return alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * noise

    def mean(
        self, x0: Float[Tensor, "*batch dim"], xt: Float[Tensor, "*batch dim"], t: Int[Tensor, "*level"]
    ) -> Float[Tensor, "*batch dim"]:
        """μ_t = c_{1,t} x_0 + c_{2,t} x_t."""
        return self.c1[t][..., None] * x0 + self.c2[t][..., None] * xt

    def ddim(
        self, x0: Float[Tensor, "*batch dim"], xt: Float[Tensor, "*batch dim"], t: int, to: int
    ) -> Float[Tensor, "*batch dim"]:
        """DDIM's step from level t down to level `to`, without noise: √ᾱ_to x_0 + √(1 - ᾱ_to) ε̂ (Song et al., 2021)."""
        noise = (xt - self.alpha_bar[t].sqrt() * x0) / (1 - self.alpha_bar[t]).sqrt()
        return self.alpha_bar[to].sqrt() * x0 + (1 - self.alpha_bar[to]).sqrt() * noise


class Denoiser(nn.Module):
    """f(x_t, c, t) = x̂_0, DreamRec's: [x_t; c; time] → 2d → d, with a time embedding of sines."""

    waves: Tensor

    def __init__(self, dim: int, levels: int) -> None:
        super().__init__()
        self.register_buffer("waves", sines(levels + 1, dim), persistent=False)
        self.time = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))
        self.net = nn.Sequential(nn.Linear(3 * dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))

    def forward(
        self, x: Float[Tensor, "*batch dim"], c: Float[Tensor, "*batch dim"], t: Int[Tensor, "*level"]
    ) -> Float[Tensor, "*batch dim"]:
        """x̂_0 of each row; t is a level, or one per row."""
        when = self.time(self.waves[t]) if t.dim() == 0 else self.time(self.waves)[t]  # one level, or a table of all
        y: Tensor = self.net(torch.cat([x, c, when.expand_as(x)], dim=-1))
        return y


class Corrector(Denoiser):
    """f(x_t, c, t) = c + what `Denoiser` says, for a condition that is itself a guess of x_0 (our choice).

    In pilots it ranked better than the plain network: nothing has to be learnt to hand the hypothesis on.
    """

    def forward(
        self, x: Float[Tensor, "*batch dim"], c: Float[Tensor, "*batch dim"], t: Int[Tensor, "*level"]
    ) -> Float[Tensor, "*batch dim"]:
        """x̂_0 of each row; t is a level, or one per row."""
        return c + super().forward(x, c, t)


def sines(positions: int, dim: int) -> Float[Tensor, "positions dim"]:
    """Sinusoidal embeddings of 0, 1, 2, … (Vaswani et al., 2017); an odd last column stays zero."""
    half = dim // 2
    frequency = torch.exp(-math.log(10_000) * torch.arange(half) / max(half - 1, 1))
    angle = torch.arange(positions)[:, None] * frequency
    return F.pad(torch.cat([angle.sin(), angle.cos()], dim=1), (0, dim - 2 * half))


def log_density(
    x: Float[Tensor, "*batch dim"], mean: Float[Tensor, "*batch dim"], std: Float[Tensor, "*level"]
) -> Float[Tensor, "*batch"]:
    """Log density of N(mean, std² I) at x, averaged over the d numbers; `std` is one value, or one per row.

    The *sum* is the log density. Its mean is log of the d-th root of it: a ratio of two such densities is then the d-th
    root of the true ratio, and its gradient at ratio 1 is 1/d of the true one. Summed, ratios would explode with d.

    Raises:
        ValueError: a std of 0, as of the last step back.
    """
    if not (std > 0).all():
        raise ValueError("std: is 0 somewhere, as of the last step back (t = 1), which has no density; leave it out")
    z = (x - mean) / std[..., None]
    return (-z.square() / 2 - std[..., None].log() - math.log(2 * math.pi) / 2).mean(-1)


def gaussian_kl(
    mean: Float[Tensor, "*batch dim"], reference: Float[Tensor, "*batch dim"], std: Float[Tensor, "*level"]
) -> Float[Tensor, "*batch"]:
    """KL(N(mean, std² I) ‖ N(reference, std² I)) = ‖mean - reference‖² / 2 std², averaged over the d numbers."""
    if not (std > 0).all():
        raise ValueError("std: is 0 somewhere, as of the last step back (t = 1), which has no density; leave it out")
    return ((mean - reference) / std[..., None]).square().mean(-1) / 2
