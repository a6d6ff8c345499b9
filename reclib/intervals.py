"""Intervals: how far a number can be trusted, over users (bootstrap) and over training seeds (t)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats


class Interval(NamedTuple):
    """A mean with the ends of its confidence interval."""

    mean: float
    low: float
    high: float


def bootstrap_interval(
    values: ArrayLike,
    baseline: ArrayLike | None = None,
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap over users of a mean, or of a paired difference when `baseline` is given.

    Paired: the same users are drawn for both, so what they share (easy and hard users) cancels. The interval
    speaks about users, not about training seeds; use `seed_interval` for those (Efron & Tibshirani, 1993).

    Args:
        values, baseline: one number per case, `[cases]`, in the same order.

    Raises:
        ValueError: fewer than two cases, NaN or infinity, or lengths that differ.
    """
    _check_level(level)
    data = np.asarray(values, dtype=float)
    if baseline is not None:
        other = np.asarray(baseline, dtype=float)
        if other.shape != data.shape:
            raise ValueError(f"baseline: shape {other.shape} differs from values {data.shape}; use the same cases")
        data = data - other
    if data.ndim != 1 or len(data) < 2:
        raise ValueError(f"values: need a list of at least two cases, got shape {data.shape}")
    if not np.isfinite(data).all():
        raise ValueError("values: contain NaN or infinity; a mean over them means nothing")
    if np.ptp(data) == 0:  # every resample gives the same mean
        return Interval(float(data[0]), float(data[0]), float(data[0]))
    result = stats.bootstrap(
        (data,), np.mean, n_resamples=resamples, confidence_level=level, method="percentile", batch=100,
        random_state=np.random.default_rng(seed),
    )  # fmt: skip
    return Interval(float(data.mean()), *map(float, result.confidence_interval))


def seed_interval(values: Sequence[float] | ArrayLike, *, level: float = 0.95) -> Interval:
    """Student t interval of the mean over independently seeded runs.

    mean ± t_{1 - (1 - level) / 2, n - 1} · s / √n, with s the sample standard deviation.

    Raises:
        ValueError: fewer than two seeds (one run has no spread), or NaN or infinity.
    """
    _check_level(level)
    data = np.asarray(values, dtype=float)
    if data.ndim != 1 or len(data) < 2:
        raise ValueError(f"values: need a list of at least two seeds, got shape {data.shape}")
    if not np.isfinite(data).all():
        raise ValueError("values: contain NaN or infinity; a run failed")
    half = stats.t.ppf(0.5 + level / 2, len(data) - 1) * data.std(ddof=1) / np.sqrt(len(data))
    return Interval(float(data.mean()), float(data.mean() - half), float(data.mean() + half))


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level: must lie between 0 and 1, got {level}; 0.95 is the custom")
