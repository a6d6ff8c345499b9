"""Balanced codes: the last level with equal loads, so that fewer items collide.

K-means gives some codes many items and others few; items that share their first codes then often share the last one
too. LC-Rec (Zheng et al., 2024) asks for equal loads at the last level: the assignment with the smallest total distance
among those that give each of K codes N / K items. That is optimal transport, solved by a price per code: item i takes
    argmin_k ‖r_i - c_k‖² + p_k
and codes in demand are dear. Sinkhorn's iterations (Cuturi, 2013) find the prices.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from reclib.nn.sizes import check_at_least
from reclib.tokenizers.rqkmeans import RQKMeans, RQKMeansConfig, check_vectors, residual_codes


@dataclass(frozen=True)
class BalancedRQKMeansConfig(RQKMeansConfig):
    """As `RQKMeansConfig`, and how the last level is balanced. MiniOneRec's value in brackets."""

    epsilon: float = 0.01  # softness of the assignment, in mean squared distances; smaller: more even, slower to settle
    sinkhorn: int = 50  # Sinkhorn iterations [50]
    rounds: int = 5  # of pricing and then moving each last codeword to the mean of the items it got

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rounds < 0:
            raise ValueError(f"rounds: must not be negative, got {self.rounds}")
        _check(epsilon=self.epsilon, sinkhorn=self.sinkhorn)


class BalancedRQKMeans(RQKMeans):
    """RQ-KMeans whose last level has nearly equal loads.

    `fit` sets the prices; a new item is encoded at these prices, on its own. Items with the same vector still share
    their codes, so loads are as equal as duplicates allow.

    Attributes
    ----------
    prices: `[codes]` of the last level, in squared distance, after `fit`.
    """

    name = "balanced rq-kmeans"
    config: BalancedRQKMeansConfig

    def __init__(self, config: BalancedRQKMeansConfig | None = None) -> None:
        super().__init__(config or BalancedRQKMeansConfig())

    def fit(self, items: Float[Tensor, "items dim"]) -> BalancedRQKMeans:
        """Find the codebooks, then balance the last one. Arguments and errors as in `RQKMeans.fit`."""
        super().fit(items)
        epsilon, sinkhorn = self.config.epsilon, self.config.sinkhorn
        codebook = self.codebooks[-1]  # a view: what is written here is written into the codebooks
        _, residual = residual_codes(items, self.codebooks[:-1])
        for _ in range(self.config.rounds):
            code = balanced_codes(squared_distances(residual, codebook), epsilon, sinkhorn)
            load = torch.bincount(code, minlength=len(codebook))
            total = torch.zeros_like(codebook).index_add_(0, code, residual)
            codebook[load > 0] = (total / load[:, None])[load > 0]
        self.prices = balancing_prices(squared_distances(residual, codebook), epsilon, sinkhorn)
        return self

    def codes_of(self, items: Float[Tensor, "items dim"]) -> Int[Tensor, "items levels"]:
        """Codes of any vectors: nearest codewords, at the last level with the price added to the squared distance."""
        check_vectors(items, self.codebooks.shape[2])
        codes, residual = residual_codes(items, self.codebooks[:-1])
        last = (squared_distances(residual, self.codebooks[-1]) + self.prices).argmin(1)
        return torch.cat([codes, last[:, None]], dim=1)


def balanced_codes(
    distance: Float[Tensor, "items codes"], epsilon: float = 0.01, iterations: int = 50
) -> Int[Tensor, "items"]:
    """Codes with nearly equal loads and a small total distance: each item's best code at the balancing prices."""
    return (distance + balancing_prices(distance, epsilon, iterations)).argmin(1)


def balancing_prices(
    distance: Float[Tensor, "items codes"], epsilon: float = 0.01, iterations: int = 50
) -> Float[Tensor, "codes"]:
    """The prices at which demand for each code is the same, items / codes.

    Demand is soft, q(k | i) = softmax_k(-(distance_ik + p_k) / ε); one iteration raises each price by
    ε log(demand / (N / K)). ε falls from half the mean distance to `epsilon` of it, because at a small ε alone prices
    move too slowly.

    Raises:
        ValueError: a distance is not finite, or epsilon or iterations is out of range.
    """
    _check(epsilon=epsilon, iterations=iterations)
    if not distance.isfinite().all():
        raise ValueError("distance: holds NaN or infinity; repair the vectors it comes from")
    items, codes = distance.shape
    unit = distance.mean().clamp(min=torch.finfo(distance.dtype).tiny)  # all at distance 0: nothing to balance
    distance = distance / unit
    price = distance.new_zeros(codes)
    for i in range(iterations):
        softness = max(epsilon, 0.5 * 0.8**i)
        log_demand = (-(distance + price) / softness).log_softmax(1).logsumexp(0)
        price = price + softness * (log_demand - math.log(items / codes))
    return price * unit


def squared_distances(
    vectors: Float[Tensor, "items dim"], codebook: Float[Tensor, "codes dim"]
) -> Float[Tensor, "items codes"]:
    """‖x_i - c_k‖² of all pairs."""
    return torch.cdist(vectors, codebook).square()


def _check(epsilon: float, **iterations: int) -> None:
    if not epsilon > 0:
        raise ValueError(f"epsilon: must be positive, got {epsilon}")
    check_at_least(1, **iterations)
