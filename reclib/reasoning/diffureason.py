"""DiffuReason (Jiang et al., 2026), a reconstruction in its spirit: Think, Diffuse, and GRPO in the same step.

Of the paper we know the abstract and a few numbers: thinking tokens make a first hypothesis, a diffusion treats the
intent as a distribution and denoises the hypothesis, GRPO aligns the chain with the ranking, all trained jointly. What
is *inside* the three boxes is ours, after ReaRec, DreamRec, DDPO and LatentR3:

    Think     c = r_K, scaled to the size of noise (`reclib.reasoning.think`, `.diffusion`)
    Diffuse   x̂_0 = f(x_t, c, t); in training x_t is the noisy target, x_0 = √d e_y / ‖e_y‖. Serving begins with the
              hypothesis, x_{t*} = √ᾱ c + √(1 - ᾱ) ε (a warm start), and goes down to u = x̂_0
    Serve     ε = 0 and DDIM steps: the mean path, which gives the same answer twice
    Loss      L_sup = CE(u) + l_d ‖x̂_0 - x_0‖² / d + l_s / K Σ_k CE(r_k),    L = L_sup + l_rl L_RL in every step

L_RL is one of `reclib.reasoning.align`. The target enters x_t, never c. Our choices: x_0 is detached, so that items
learn from the cross-entropies and not by moving to where they are easy to predict, as DreamRec's can; CE is taken of
the intent that is served, on the mean path. `TeacherForcedDiffuReason` takes it of x̂_0 instead, where x_t still holds
the target. In pilots (validation, a world of its own) the two reached .155 and .135.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from reclib.nn.sizes import check_at_least
from reclib.reasoning.diffusion import Corrector, Schedule, cosine_beta, log_density, to_noise_scale
from reclib.reasoning.think import ThinkConfig, Thinker
from reclib.training.batches import SequenceBatch


@dataclass(frozen=True)
class DiffuReasonConfig(ThinkConfig):
    """Sizes; none of the paper's reached us, DreamRec's in brackets."""

    levels: int = 10  # T, levels of noise in training [200 and more]
    start: int = 5  # t*, where serving and GRPO begin [T: from noise alone]

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(1, levels=self.levels)
        if not 1 <= self.start <= self.levels:
            raise ValueError(f"start: must be a level 1 … {self.levels}, got {self.start}")


class Chain(NamedTuple):
    """Chains drawn for GRPO."""

    x: Float[Tensor, "levels *batch dim"]  # x_{t*}, x_{t*-1}, …, x_1
    u: Float[Tensor, "*batch dim"]  # x_0, which the last step makes of x_1 without noise


class DiffuReason(Thinker):
    """Think, then denoise the hypothesis from level t* on (warm start)."""

    config: DiffuReasonConfig
    updates: Tensor  # training steps with GRPO so far

    def __init__(self, backbone: nn.Module, config: DiffuReasonConfig | None = None) -> None:
        config = config or DiffuReasonConfig()
        super().__init__(backbone, config)
        self.schedule = Schedule(cosine_beta(config.levels))
        self.denoiser = Corrector(self.dim, config.levels)
        self.reference = copy.deepcopy(self.denoiser).requires_grad_(False)  # f^ref, what GRPO stays close to
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))

    # ----------------------------------------------------------------------------------------------------- diffuse

    def begin(
        self, c: Float[Tensor, "*batch dim"], noise: Float[Tensor, "*batch dim"], start: int
    ) -> Float[Tensor, "*batch dim"]:
        """x_{t*} = √ᾱ c + √(1 - ᾱ) ε: the hypothesis as if it were a target that has got noise."""
        return self.schedule.add_noise(c, noise, torch.tensor(start))

    def path(
        self,
        c: Float[Tensor, "*batch dim"],
        *,
        noise: Float[Tensor, "*batch dim"] | None = None,
        start: int | None = None,
        steps: int | None = None,
    ) -> Float[Tensor, "steps *batch dim"]:
        """What every step of DDIM's path from x_{t*} takes for x_0; without `noise` it is the mean path.

        Args:
            c: hypotheses, of any length.
            noise: ε of the start.
            start: t*; default: the configuration's.
            steps: levels visited, evenly spread over t* … 1; default: all of them.
        """
        start = self.config.start if start is None else start
        steps = start if steps is None else steps
        if not 1 <= start <= self.config.levels:
            raise ValueError(f"start: must be a level 1 … {self.config.levels}, got {start}")
        if not 1 <= steps <= start:
            raise ValueError(f"steps: must be 1 … {start}, the level at which the chain starts, got {steps}")
        c = to_noise_scale(c)
        x = self.begin(c, torch.zeros_like(c) if noise is None else noise, start)
        levels, found = [start - k * start // steps for k in range(steps)], []
        for t, to in zip(levels, [*levels[1:], 0], strict=True):
            found.append(self.denoiser(x, c, torch.tensor(t)))
            x = self.schedule.ddim(found[-1], x, t, to)
        return torch.stack(found)

    def refine(
        self,
        c: Float[Tensor, "*batch dim"],
        *,
        noise: Float[Tensor, "*batch dim"] | None = None,
        start: int | None = None,
        steps: int | None = None,
    ) -> Float[Tensor, "*batch dim"]:
        """u, the end of `path`."""
        return self.path(c, noise=noise, start=start, steps=steps)[-1]

    def sample(
        self,
        c: Float[Tensor, "*batch dim"],
        *,
        start: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Chain:
        """Draw a chain per row: x_{t*} with noise, then x_{t-1} = μ_t + σ_t ε; σ_1 = 0, so u is drawn no more."""
        start = self.config.start if start is None else start
        c = to_noise_scale(c)

        def noise() -> Tensor:
            return torch.randn(c.shape, generator=generator, dtype=c.dtype, device=c.device)

        found = [self.begin(c, noise(), start)]
        for level in range(start, 1, -1):
            t = torch.tensor(level)
            mean = self.schedule.mean(self.denoiser(found[-1], c, t), found[-1], t)
            found.append(mean + self.schedule.sigma[level] * noise())
        u: Tensor = self.denoiser(found[-1], c, torch.tensor(1))
        return Chain(torch.stack(found), u)

    def means(
        self, chain: Float[Tensor, "levels *batch dim"], c: Float[Tensor, "*batch dim"], denoiser: nn.Module
    ) -> Float[Tensor, "steps *batch dim"]:
        """μ_t of every step of drawn chains that has noise, t = t* … 2, in one pass of the network."""
        x, c = chain[:-1], to_noise_scale(c)
        t = self.steps_of(chain).view(-1, *(1,) * (c.dim() - 1)).expand(x.shape[:-1])
        found: Tensor = self.schedule.mean(denoiser(x, c.expand_as(x), t), x, t)
        return found

    def steps_of(self, chain: Float[Tensor, "levels *batch dim"]) -> Int[Tensor, "steps"]:
        """The levels t* … 2 from which the steps of drawn chains start."""
        return torch.arange(len(chain), 1, -1, device=chain.device)

    def log_probs(
        self,
        chain: Float[Tensor, "levels *batch dim"],
        c: Float[Tensor, "*batch dim"],
        means: Float[Tensor, "steps *batch dim"],
    ) -> Float[Tensor, "actions *batch"]:
        """Log-probability (mean over d) of what was drawn: the warm start, then every step with noise.

        The start is an action too: its mean is √ᾱ c, so its probability depends on the hypothesis.
        """
        sigma = self.schedule.sigma[self.steps_of(chain)].view(-1, *(1,) * (chain.dim() - 2))
        taken = log_density(chain[1:], means, sigma.expand(means.shape[:-1]))
        std = (1 - self.schedule.alpha_bar[len(chain)]).sqrt()
        begun = log_density(chain[0], self.begin(to_noise_scale(c), torch.zeros_like(chain[0]), len(chain)), std)
        return torch.cat([begun[None], taken])

    # ------------------------------------------------------------------------------------------------------- serve

    def intent(self, history: Int[Tensor, "batch time"]) -> Float[Tensor, "batch dim"]:
        """u by the mean path."""
        return self.refine(self.hypothesis(history))

    # ------------------------------------------------------------------------------------------------------- train

    def supervised(
        self,
        states: Float[Tensor, "states targets dim"],
        target: Int[Tensor, "targets"],
        l_d: float,
        l_s: float,
    ) -> Float[Tensor, ""]:
        """L_sup, summed over targets; the level and the noise of each are drawn from torch's global generator."""
        x0, c = to_noise_scale(self.backbone.vectors()[target]).detach(), to_noise_scale(states[-1])
        t = torch.randint(1, self.config.levels + 1, target.shape, device=c.device)
        guess: Tensor = self.denoiser(self.schedule.add_noise(x0, torch.randn_like(x0), t), c, t)
        loss = self.cross_entropy(self.answer(c, guess), target) + l_s * self.per_thought(states, target)
        return loss + l_d * (guess - x0).square().mean(-1).sum()

    def answer(
        self, c: Float[Tensor, "targets dim"], guess: Float[Tensor, "targets dim"]
    ) -> Float[Tensor, "targets dim"]:
        """The intent whose ranking is trained: the one that will be served."""
        return self.refine(c)

    def follow(self, decay: float) -> None:
        """One training step is over for the reference: it moves towards f by 1 - decay, and the step is counted."""
        with torch.no_grad():
            for mine, theirs in zip(self.reference.parameters(), self.denoiser.parameters(), strict=True):
                mine.lerp_(theirs, 1 - decay)
            self.updates += 1


class PureNoiseDiffuReason(DiffuReason):
    """The same weights, started from noise alone at level T, as DreamRec is; the hypothesis is a condition only."""

    def begin(
        self, c: Float[Tensor, "*batch dim"], noise: Float[Tensor, "*batch dim"], start: int
    ) -> Float[Tensor, "*batch dim"]:
        """x_T = ε."""
        if start != self.config.levels:
            raise ValueError(f"start: pure noise is what level {self.config.levels} has; it cannot start at {start}")
        return noise


class TeacherForcedDiffuReason(DiffuReason):
    """CE of x̂_0 made from the noisy target: closer to DreamRec, and serving never has what this is trained with."""

    def answer(
        self, c: Float[Tensor, "targets dim"], guess: Float[Tensor, "targets dim"]
    ) -> Float[Tensor, "targets dim"]:
        """What f makes of the noisy target."""
        return guess


@runtime_checkable
class Alignment(Protocol):
    """L_RL: one of `reclib.reasoning.align`."""

    def __call__(
        self, model: DiffuReason, c: Float[Tensor, "users dim"], target: Int[Tensor, "users"]
    ) -> Float[Tensor, ""]:
        """A mean over users."""


@dataclass(frozen=True)
class DiffuReasonLoss:
    """A loss for `reclib.training.fit`: L_sup behind every item, and L_RL behind one item of each row.

    Without `align` it is L_sup alone. `l_rl` grows from zero over the first `warmup` steps, when ranks are still noise.
    """

    align: Alignment | None = None
    l_d: float = 1.0  # weight of the squared error
    l_s: float = 1.0  # weight of the thoughts
    l_rl: float = 1.0  # weight of L_RL; variant A's is 1/d of a likelihood's (see `log_density`), variant B's is not
    warmup: int = 200  # steps
    decay: float = 0.99  # of the reference, a moving average of the denoiser; 1: it never moves

    def __call__(self, model: DiffuReason, batch: SequenceBatch) -> tuple[Tensor, int]:
        """Sum over all targets of the batch, and their number."""
        real = batch.target > 0
        states, target = model.states(batch.history), batch.target[real]
        loss = model.supervised(states[:, real], target, self.l_d, self.l_s)
        if self.align is not None:
            weight = self.l_rl * min(1.0, int(model.updates) / max(self.warmup, 1))
            loss = loss + len(target) * weight * self.align(model, *one_per_row(states[-1], batch.target))
            model.follow(self.decay)
        return loss, len(target)


@dataclass(frozen=True)
class AlignmentLoss:
    """The second stage of staged training: L_RL alone, close to the model of the first stage (`anchor` it)."""

    align: Alignment

    def __call__(self, model: DiffuReason, batch: SequenceBatch) -> tuple[Tensor, int]:
        """Sum over one target per row, and their number."""
        c, target = one_per_row(model.states(batch.history)[-1], batch.target)
        return len(target) * self.align(model, c, target), len(target)


def anchor(model: DiffuReason) -> None:
    """Make the present denoiser the reference."""
    model.reference.load_state_dict(model.denoiser.state_dict())


def one_per_row(
    c: Float[Tensor, "batch time dim"], target: Int[Tensor, "batch time"]
) -> tuple[Float[Tensor, "batch dim"], Int[Tensor, "batch"]]:
    """One place with a target of each row, drawn from torch's global generator: groups for all would cost too much."""
    place = torch.multinomial((target > 0).double(), 1)[:, 0]
    rows = torch.arange(len(target), device=target.device)
    return c[rows, place], target[rows, place]
