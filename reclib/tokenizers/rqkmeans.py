"""RQ-KMeans: residual quantisation with plain k-means, the tokenizer that needs no training.

Level 1 clusters the item vectors, level 2 what is left after subtracting the cluster centre, and so on:
    s^l = argmin_k ‖r^l - c^l_k‖²,   r^{l+1} = r^l - c^l_{s^l},   r^1 = the item vector.
An item is then the sum of its codewords plus the last residual. Residual quantisation is from speech coding (Juang &
Gray, 1982). For semantic IDs it is the plain alternative to TIGER's RQ-VAE (Rajput et al., 2023).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from sklearn.cluster import KMeans
from torch import Tensor

from reclib.nn.sizes import check_at_least
from reclib.tokenizers.semantic_ids import SemanticIds

ROWS = 65_536  # compared with a codebook at once: 64 MiB of distances at 256 codes
RESOLUTION = 1e-5  # vectors that differ by less, relative to the largest deviation from the mean, count as equal


@dataclass(frozen=True)
class RQKMeansConfig:
    """Size of the codebooks; TIGER's values for its RQ-VAE in brackets."""

    levels: int = 3  # codes per item [3]
    codes: int = 256  # codewords per level [256]
    iterations: int = 25  # of k-means, at most, per level
    seed: int = 0  # of the first centres

    def __post_init__(self) -> None:
        check_at_least(1, levels=self.levels, iterations=self.iterations)
        check_at_least(2, codes=self.codes)


class RQKMeans:
    """K-means on residuals, level by level.

    Attributes
    ----------
    config: see `RQKMeansConfig`.
    codebooks: `[levels, codes, dim]`, after `fit`.
    """

    name = "rq-kmeans"

    def __init__(self, config: RQKMeansConfig | None = None) -> None:
        self.config = config or RQKMeansConfig()
        self._codebooks: Float[Tensor, "levels codes dim"] | None = None

    @property
    def codebooks(self) -> Float[Tensor, "levels codes dim"]:
        """The codewords of each level, coarse to fine."""
        if self._codebooks is None:
            raise ValueError("codebooks: there are none yet; call fit(items) first")
        return self._codebooks

    def fit(self, items: Float[Tensor, "items dim"]) -> RQKMeans:
        """Find the codebooks.

        Args:
            items: row i is item i + 1. Items with the same vector are welcome and will share their codes.

        Raises:
            ValueError: a number is not finite, or a level has fewer different vectors than codes.
        """
        config = self.config
        unit = check_items(items, config.codes)
        codebooks = []
        residual = items
        for level in range(config.levels):
            if level and (left := different(residual, unit)) < config.codes:
                raise ValueError(
                    f"levels: at level {level + 1} only {left} different residuals are left for {config.codes} codes; "
                    "use fewer levels or fewer codes"
                )
            codebook = kmeans(residual, config.codes, config.iterations, config.seed + level)
            residual = residual - codebook[nearest(residual, codebook)]
            codebooks.append(codebook)
        self._codebooks = torch.stack(codebooks)
        return self

    def codes_of(self, items: Float[Tensor, "items dim"]) -> Int[Tensor, "items levels"]:
        """Codes of any vectors, known or new: the nearest codeword of each level, greedily.

        Raises:
            ValueError: not fitted, vectors of another width, or a number that is not finite.
        """
        check_vectors(items, self.codebooks.shape[2])
        return residual_codes(items, self.codebooks)[0]

    def encode(self, items: Float[Tensor, "items dim"]) -> SemanticIds:
        """Semantic IDs of a catalogue; row i of `items` becomes item i + 1."""
        sizes = (self.config.codes,) * self.config.levels
        return SemanticIds.from_codes(self.codes_of(items), sizes, self.name)

    def decode(self, codes: Int[Tensor, "items levels"]) -> Float[Tensor, "items dim"]:
        """The vectors that codes stand for. The first codes alone give the coarse vectors."""
        return sum_of_codewords(codes, self.codebooks)


# ------------------------------------------------------------------------------------------------------- equations


def kmeans(vectors: Float[Tensor, "items dim"], codes: int, iterations: int, seed: int) -> Float[Tensor, "codes dim"]:
    """Centres of one k-means: k-means++ start, then Lloyd's iterations.

    A centre that loses all its vectors is moved to the vector that is farthest from its own centre (scikit-learn does
    this after every iteration), so no code is dead.
    """
    model = KMeans(codes, init="k-means++", n_init=1, max_iter=iterations, random_state=seed)
    centres: Tensor = torch.from_numpy(model.fit(vectors.numpy()).cluster_centers_)
    return centres


def nearest(vectors: Float[Tensor, "items dim"], codebook: Float[Tensor, "codes dim"]) -> Int[Tensor, "items"]:
    """argmin_k ‖x - c_k‖² = argmin_k ½‖c_k‖² - x·c_k: one matrix product, exact search."""
    centre = codebook.mean(0)  # far from the origin, both terms would be large and their difference rounded away
    codebook = codebook - centre
    half = codebook.square().sum(1) / 2
    parts = [torch.addmm(half, part - centre, codebook.T, alpha=-1).argmin(1) for part in torch.split(vectors, ROWS)]
    return torch.cat(parts)


def residual_codes(
    vectors: Float[Tensor, "items dim"], codebooks: Float[Tensor, "levels codes dim"]
) -> tuple[Int[Tensor, "items levels"], Float[Tensor, "items dim"]]:
    """The nearest codeword of each level, and the residual after the last one."""
    residual = vectors.to(codebooks.dtype)
    codes = torch.empty(len(vectors), len(codebooks), dtype=torch.long)
    for level, codebook in enumerate(codebooks):
        codes[:, level] = nearest(residual, codebook)
        residual = residual - codebook[codes[:, level]]
    return codes, residual


def sum_of_codewords(
    codes: Int[Tensor, "items some"], codebooks: Float[Tensor, "levels codes dim"]
) -> Float[Tensor, "items dim"]:
    """Σ_l c^l_{s^l}, over as many levels as `codes` has columns.

    Raises:
        ValueError: more columns than levels, or a code that no codebook has.
    """
    levels, size, _ = codebooks.shape
    if codes.shape[1] > levels:
        raise ValueError(f"codes: {codes.shape[1]} codes per item, but there are {levels} levels; give no more")
    if ((codes < 0) | (codes >= size)).any():
        raise ValueError(f"codes: must be 0 … {size - 1}, found {int(codes.min())} … {int(codes.max())}")
    return codebooks[torch.arange(codes.shape[1]), codes].sum(1)


# ---------------------------------------------------------------------------------------------------------- checks


def check_items(items: Float[Tensor, "items dim"], codes: int) -> float:
    """Refuse item vectors that cannot fill a codebook; returns the difference below which numbers count as equal."""
    _check_finite(items)
    if len(items) < codes:
        raise ValueError(f"items: {len(items)} vectors cannot fill {codes} codes; give more items or fewer codes")
    unit = RESOLUTION * float((items - items.mean(0)).abs().max())
    if (found := different(items, unit)) < codes:
        raise ValueError(
            f"items: {len(items)} vectors, but only {found} different ones, cannot fill {codes} codes; "
            "give more different items or fewer codes"
        )
    return unit


def different(vectors: Float[Tensor, "items dim"], unit: float) -> int:
    """Number of different rows, where numbers that differ by less than `unit` are (nearly always) the same."""
    cells = (vectors.double() / unit).round() if unit else vectors
    return len({row.tobytes() for row in (cells + 0.0).numpy()})  # + 0.0: -0 and 0 are one number of different bytes


def check_vectors(items: Float[Tensor, "items dim"], dim: int) -> None:
    """Refuse vectors that are not like those of `fit`."""
    if items.shape[1] != dim:
        raise ValueError(f"items: vectors of width {items.shape[1]}, but fit saw {dim}; encode with the same encoder")
    _check_finite(items)


def _check_finite(items: Float[Tensor, "items dim"]) -> None:
    if len(bad := (~items.isfinite().all(1)).nonzero()):
        raise ValueError(f"items: row {int(bad[0])} holds NaN or infinity; repair or leave out such vectors")
