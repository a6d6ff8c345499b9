"""DreamRec (Yang et al., 2023): the next item's vector grows out of noise, the history is only a condition.

    L = ‖f(x_t, c, t) - x_0‖² / d,   x_0 = the target's vector,   c dropped with probability p
    serving: from x_T = ε down, x̂_0 = (1 + w) f(x_t, c, t) - w f(x_t, ∅, t),   score(i) = x̂_0 · e_i

No cross-entropy, no negatives. As in the authors' code, item vectors start as N(0, I), are trained by this loss alone,
and the gradient flows into both sides of it: the loss also falls where the items get small or alike. (That such vectors
collapse is the subject of ADRec, 2025.) In our pilots it did: the loss fell to .02 of its start, the items to half
their length, and the ranking was random. `MendedDreamRec` is our repair. Our choices in both: SASRec for the encoder,
and a loss behind every item of a history, not only the last.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from reclib.backbones import SASRec, SASRecConfig
from reclib.backbones.sequence_model import last_position, recent
from reclib.nn.sizes import check_at_least
from reclib.reasoning.diffusion import Denoiser, Schedule, cosine_beta, linear_beta
from reclib.training.batches import SequenceBatch


@dataclass(frozen=True)
class DreamRecConfig:
    """DreamRec's own dials; its values in brackets."""

    levels: int = 200  # T [200 to 2,000]
    guidance: float = 2.0  # w [2]
    drop: float = 0.1  # p, how often the condition is left out in training [0.1]
    seed: int = 0  # of the noise in `score`

    def __post_init__(self) -> None:
        check_at_least(1, levels=self.levels)
        if not 0 <= self.drop < 1:
            raise ValueError(f"drop: a probability in [0, 1), got {self.drop}")


class DreamRec(nn.Module):
    """Encoder, denoiser, and a vector that stands for "no condition"."""

    def __init__(self, n_items: int, sizes: SASRecConfig | None = None, config: DreamRecConfig | None = None) -> None:
        super().__init__()
        self.config = config or DreamRecConfig()
        self.encoder = SASRec(n_items, sizes)
        self.max_len, dim = self.encoder.max_len, self.encoder.dim
        # x_0 is what the encoder reads, √d times the weight; that and the positions start as N(0, I), as in their code.
        nn.init.normal_(self.encoder.items.weight, std=dim**-0.5)
        nn.init.normal_(self.encoder.positions.weight)
        with torch.no_grad():
            self.encoder.items.weight[0] = 0
        self.nothing = nn.Parameter(torch.randn(dim))
        self.schedule = Schedule(linear_beta(self.config.levels))
        self.denoiser = Denoiser(dim, self.config.levels)

    def vectors(self) -> Float[Tensor, "items dim"]:
        """x_0 of every item."""
        x0: Tensor = self.encoder.items.weight * self.encoder.dim**0.5
        return x0

    def generate(
        self, c: Float[Tensor, "batch dim"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "batch dim"]:
        """One sample of x_0 per condition, through all T levels, with guidance."""
        w, nothing = self.config.guidance, self.nothing.expand_as(c)

        def noise() -> Tensor:
            return torch.randn(c.shape, generator=generator, dtype=c.dtype, device=c.device)

        x = noise()
        for level in range(self.config.levels, 0, -1):
            t = torch.tensor(level)
            x0 = (1 + w) * self.denoiser(x, c, t) - w * self.denoiser(x, nothing, t)
            x = self.schedule.mean(x0, x, t)
            if level > 1:
                x = x + self.schedule.sigma[level] * noise()
        return x

    def score(
        self, history: Int[Tensor, "batch time"], time: Float[Tensor, "batch time+1"] | None = None
    ) -> Float[Tensor, "batch items"]:
        """x̂_0 · e_i of one sample, drawn with a fixed seed; column 0 is -inf. `time` is accepted and not used."""
        history, _ = recent(history, None, self.max_len)
        c = self.encoder.encode(history)[torch.arange(len(history)), last_position(history)]
        generator = torch.Generator(c.device).manual_seed(self.config.seed)
        scores = self.generate(c, generator) @ self.vectors().T
        scores[:, 0] = -torch.inf
        return scores


class MendedDreamRec(DreamRec):
    """DreamRec on items that do not move, and with a schedule that ends in noise alone (our repair).

    The items are those of a trained recommender, scaled to the size of noise.
    """

    def __init__(
        self, items: Float[Tensor, "items dim"], sizes: SASRecConfig, config: DreamRecConfig | None = None
    ) -> None:
        super().__init__(len(items) - 1, sizes, config or DreamRecConfig(levels=50))
        self.schedule = Schedule(cosine_beta(self.config.levels))
        with torch.no_grad():
            self.encoder.items.weight.copy_(F.normalize(items, dim=-1))
        self.encoder.items.weight.requires_grad_(False)


def dreamrec_loss(model: DreamRec, batch: SequenceBatch) -> tuple[Tensor, int]:
    """A loss for `reclib.training.fit`: mean square of what f gets wrong, summed over targets, and their number."""
    real = batch.target > 0
    x0, c = model.vectors()[batch.target[real]], model.encoder.encode(batch.history)[real]
    dropped = torch.rand(len(c), 1, device=c.device) < model.config.drop
    c = torch.where(dropped, model.nothing, c)
    t = torch.randint(1, model.config.levels + 1, (len(c),), device=c.device)
    guess = model.denoiser(model.schedule.add_noise(x0, torch.randn_like(x0), t), c, t)
    return (guess - x0).square().mean(-1).sum(), len(c)
