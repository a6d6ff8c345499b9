r"""How often an agent succeeds: pass@k and pass^k from n runs of a task, c of them successful.

    pass@k = 1 - C(n-c, k) / C(n, k)     some of k runs succeeds     (Chen et al. 2021; AD-Bench ranks its board by it)
    pass^k =     C(c, k)   / C(n, k)     all of k runs succeed       (Yao et al. 2024)

Both average over all subsets of k of the n runs, so they are unbiased; 1 - (1 - c/n)^k is not. A board by pass@k says
who finds the answer at least once, a board by pass^k whom one can rely on; at k = 1 they are the same.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike


def pass_at_k(n: ArrayLike, c: ArrayLike, k: int) -> Float[np.ndarray, "*tasks"]:
    """The chance that at least one of k runs, drawn without replacement from the n runs of a task, succeeds.

    Args:
        n: scored runs of each task, a number or `[tasks]`; runs that broke down for other reasons do not count.
        c: successful ones among them, the same shape.
        k: runs that are drawn.

    Returns:
        One value per task; NaN where fewer than k runs were scored: unknown, not zero.

    Raises:
        ValueError: k < 1, counts that are not whole, or not 0 ≤ c ≤ n.
    """
    runs, successes = _checked(n, c, k)
    return np.asarray(1.0 - _all_from(np.asarray(runs - successes), runs, k))


def pass_hat_k(n: ArrayLike, c: ArrayLike, k: int) -> Float[np.ndarray, "*tasks"]:
    """The chance that all of k runs, drawn without replacement, succeed: reliability. As `pass_at_k`."""
    runs, successes = _checked(n, c, k)
    return _all_from(successes, runs, k)


def _all_from(
    marked: Float[np.ndarray, "*tasks"], runs: Float[np.ndarray, "*tasks"], k: int
) -> Float[np.ndarray, "*tasks"]:
    """C(marked, k) / C(runs, k), as a product of shares, which cannot overflow."""
    drawn = np.arange(k)
    left = np.maximum(runs[..., None] - drawn, 1.0)  # where runs < k the answer is NaN anyway
    share = np.prod(np.maximum(marked[..., None] - drawn, 0.0) / left, axis=-1)
    return np.asarray(np.where(runs < k, np.nan, share))


def _checked(n: ArrayLike, c: ArrayLike, k: int) -> tuple[Float[np.ndarray, "*tasks"], Float[np.ndarray, "*tasks"]]:
    if k < 1:
        raise ValueError(f"k: must be at least 1, got {k}")
    runs, successes = (np.asarray(x, dtype=float) for x in np.broadcast_arrays(n, c))
    for name, counts in (("n", runs), ("c", successes)):
        if not (np.isfinite(counts) & (counts == np.floor(counts))).all():
            raise ValueError(f"{name}: counts runs, so it must be whole; do not add up partial credit, count successes")
    if not ((successes >= 0) & (successes <= runs)).all():
        raise ValueError("c: must lie between 0 and n, the number of runs, for every task")
    return runs, successes
