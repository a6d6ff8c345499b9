"""RQ-VAE: residual quantisation in a learnt space, the tokenizer of TIGER (Rajput et al., 2023).

An encoder maps the item vector x to z; z is quantised level by level; a decoder maps the sum of codewords back:
    r^1 = z,   s^l = argmin_k ‖r^l - c^l_k‖²,   r^{l+1} = r^l - c^l_{s^l},   ẑ = Σ_l c^l_{s^l}
    loss = ‖x - decoder(ẑ)‖² + Σ_l ‖sg[r^l] - c^l_{s^l}‖² + β ‖r^l - sg[c^l_{s^l}]‖²
Norms are sums over features, the loss is the mean over items; sg stops the gradient. The first term reaches the encoder
straight through: as if ẑ were z. The second moves the codewords, the third the encoder.

Trained with the paper's settings, others saw it send all items to one code. Three habits prevent that: standardised
input, codebooks that start as k-means of the first encodings (the paper has this one too), and codes that nobody uses
beginning anew elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from reclib.nn.sizes import check_at_least
from reclib.tokenizers.rqkmeans import (
    RQKMeans,
    RQKMeansConfig,
    check_items,
    check_vectors,
    nearest,
    residual_codes,
    sum_of_codewords,
)
from reclib.tokenizers.semantic_ids import SemanticIds
from reclib.training import FitConfig, FitResult, fit


@dataclass(frozen=True)
class RQVAEConfig:
    """Sizes and training of an RQ-VAE; the paper's values in brackets."""

    levels: int = 3  # codes per item [3]
    codes: int = 256  # codewords per level [256]
    latent: int = 32  # width of codewords [32]
    hidden: tuple[int, ...] = (256, 128)  # layers of the encoder, mirrored in the decoder [512, 256, 128]
    commitment: float = 0.25  # β: how strongly encodings are pulled to their codewords [0.25]
    epochs: int = 100  # [20,000]
    lr: float = 3e-3  # of AdamW [Adagrad, 0.4]
    batch_size: int = 256  # [1024]
    seed: int = 0  # of weights, first centres, batches and revived codes

    def __post_init__(self) -> None:
        check_at_least(1, levels=self.levels, latent=self.latent, batch_size=self.batch_size)
        check_at_least(1, hidden=min(self.hidden, default=1))
        check_at_least(2, codes=self.codes)
        if self.commitment < 0:
            raise ValueError(f"commitment: must not be negative, got {self.commitment}")


class RQVAE:
    """The tokenizer: `fit`, `encode`, `decode` as `RQKMeans` has them.

    Attributes
    ----------
    config: see `RQVAEConfig`.
    network: the trained `RQVAENetwork`, after `fit`.
    training: loss per epoch and speed, after `fit`.
    """

    name = "rq-vae"

    def __init__(self, config: RQVAEConfig | None = None) -> None:
        self.config = config or RQVAEConfig()
        self._network: RQVAENetwork | None = None
        self.training: FitResult | None = None

    @property
    def network(self) -> RQVAENetwork:
        """Encoder, codebooks and decoder."""
        if self._network is None:
            raise ValueError("network: there is none yet; call fit(items) first")
        return self._network

    @property
    def codebooks(self) -> Float[Tensor, "levels codes latent"]:
        """The codewords of each level, in the latent space."""
        return self.network.quantizer.codebooks.detach()

    def fit(self, items: Float[Tensor, "items dim"], progress: bool = True) -> RQVAE:
        """Train on a catalogue, in one process.

        Args:
            items: row i is item i + 1.
            progress: show a bar on stderr.

        Raises:
            ValueError: a number is not finite, or there are fewer different vectors than codes.
        """
        config = self.config
        training = FitConfig(epochs=config.epochs, lr=config.lr, seed=config.seed)
        check_items(items, config.codes)
        items = items.float()
        batches = VectorBatches(items, batch_size=config.batch_size, seed=config.seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            network = RQVAENetwork(items, config, revive_after=batches.steps(0))
        self.training = fit(network, batches, rqvae_loss, training, progress=progress)
        self._network = network.cpu()
        return self

    @torch.no_grad()
    def codes_of(self, items: Float[Tensor, "items dim"]) -> Int[Tensor, "items levels"]:
        """Codes of any vectors, known or new: the nearest codeword of each level, greedily.

        Raises:
            ValueError: not fitted, vectors of another width, or a number that is not finite.
        """
        check_vectors(items, len(self.network.mean))
        return residual_codes(self.network.latent(items.float()), self.codebooks)[0]

    def encode(self, items: Float[Tensor, "items dim"]) -> SemanticIds:
        """Semantic IDs of a catalogue; row i of `items` becomes item i + 1."""
        sizes = (self.config.codes,) * self.config.levels
        return SemanticIds.from_codes(self.codes_of(items), sizes, self.name)

    @torch.no_grad()
    def decode(self, codes: Int[Tensor, "items levels"]) -> Float[Tensor, "items dim"]:
        """The item vectors that codes stand for. The first codes alone give coarse vectors."""
        return self.network.reconstruction(sum_of_codewords(codes, self.codebooks))


class RQVAENetwork(nn.Module):
    """Encoder, residual quantiser and decoder; both ends are MLPs with ReLU.

    The input is standardised with the mean of each feature and one common scale: features of large variance stay large,
    so squared errors here are squared errors of the item vectors.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, items: Float[Tensor, "items dim"], config: RQVAEConfig, revive_after: int) -> None:
        super().__init__()
        self.commitment = config.commitment
        self.register_buffer("mean", items.mean(0))
        self.register_buffer("scale", (items - items.mean(0)).square().mean().sqrt())
        widths = (items.shape[1], *config.hidden, config.latent)
        self.encoder, self.decoder = _mlp(widths), _mlp(widths[::-1])
        with torch.no_grad():
            start = RQKMeans(RQKMeansConfig(config.levels, config.codes, seed=config.seed)).fit(self.latent(items))
        self.quantizer = ResidualQuantizer(start.codebooks, revive_after, config.seed)

    def latent(self, items: Float[Tensor, "items dim"]) -> Float[Tensor, "items latent"]:
        """z, the encoding of item vectors before quantisation."""
        z: Tensor = self.encoder((items - self.mean) / self.scale)
        return z

    def reconstruction(self, latent: Float[Tensor, "items latent"]) -> Float[Tensor, "items dim"]:
        """Item vectors, in their own units, from encodings."""
        x: Tensor = self.decoder(latent) * self.scale + self.mean
        return x


class ResidualQuantizer(nn.Module):
    """The codebooks of all levels, with the gradients of the straight-through estimator.

    In training, a code that no item of the last `revive_after` batches (an epoch) was given is dead; it begins anew as
    the residual of a random item of the batch.
    """

    idle: Tensor

    def __init__(self, codebooks: Float[Tensor, "levels codes latent"], revive_after: int, seed: int = 0) -> None:
        super().__init__()
        self.codebooks = nn.Parameter(codebooks.clone())
        self.revive_after = revive_after
        self.generator = torch.Generator().manual_seed(seed)
        self.register_buffer("idle", torch.zeros(codebooks.shape[:2], dtype=torch.long))  # batches since last used

    def forward(
        self, latent: Float[Tensor, "items latent"]
    ) -> tuple[Float[Tensor, "items latent"], Float[Tensor, ""], Float[Tensor, ""]]:
        """Quantise.

        Returns:
            ẑ, whose gradient goes to `latent` unchanged; the codebook loss, whose gradient goes to the codewords only;
            the commitment loss, whose gradient goes to `latent` only. Losses are sums over items, levels and features.
        """
        residual = latent
        codebook_loss = commitment_loss = latent.new_zeros(())
        for level in range(len(self.codebooks)):
            if self.training:
                self._revive(level, residual.detach())
            codebook = self.codebooks[level]
            code = nearest(residual.detach(), codebook.detach())
            if self.training:
                self.idle[level] += 1
                self.idle[level, code] = 0
            word = codebook[code]
            codebook_loss = codebook_loss + (residual.detach() - word).square().sum()
            commitment_loss = commitment_loss + (residual - word.detach()).square().sum()
            residual = residual - word.detach()
        quantised = latent - residual.detach()  # the value is Σ_l c^l, the gradient that of `latent`
        return quantised, codebook_loss, commitment_loss

    @torch.no_grad()
    def _revive(self, level: int, residual: Float[Tensor, "items latent"]) -> None:
        dead = (self.idle[level] >= self.revive_after).nonzero()[:, 0]
        if len(dead):
            chosen = torch.randperm(len(residual), generator=self.generator)[: len(dead)]
            dead = dead[: len(chosen)]
            self.codebooks[level, dead] = residual[chosen.to(residual.device)]


def rqvae_loss(network: RQVAENetwork, items: Float[Tensor, "items dim"]) -> tuple[Float[Tensor, ""], int]:
    """The loss of the module's docstring, summed over items, and their number."""
    target = (items - network.mean) / network.scale
    quantised, codebook_loss, commitment_loss = network.quantizer(network.encoder(target))
    reconstruction_loss = (target - network.decoder(quantised)).square().sum()
    return reconstruction_loss + codebook_loss + network.commitment * commitment_loss, len(items)


class VectorBatches:
    """All vectors once per epoch, in an order drawn from `(seed, epoch)`."""

    def __init__(self, vectors: Float[Tensor, "items dim"], *, batch_size: int, seed: int = 0) -> None:
        self.vectors, self.batch_size, self.seed = vectors, batch_size, seed

    def epoch(self, epoch: int, rank: int = 0, world_size: int = 1) -> Iterator[Float[Tensor, "batch dim"]]:
        """The batches of one epoch; process `rank` of `world_size` gets its share of the rows of each."""
        order = torch.from_numpy(np.random.default_rng([self.seed, epoch]).permutation(len(self.vectors)))
        for rows in torch.split(order, self.batch_size):
            yield self.vectors[rows[rank::world_size]]

    def steps(self, epoch: int) -> int:
        """Batches in an epoch."""
        return -(-len(self.vectors) // self.batch_size)


def _mlp(widths: tuple[int, ...]) -> nn.Sequential:
    """Linear layers with ReLU between them.

    Orthogonal weights keep the first encodings about as large as the input. PyTorch's own start shrinks them, and
    codebooks that begin tiny lose the first epochs to growing.
    """
    layers: list[nn.Module] = []
    for a, b in pairwise(widths):
        linear = nn.Linear(a, b)
        nn.init.orthogonal_(linear.weight, gain=2**0.5)
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])
