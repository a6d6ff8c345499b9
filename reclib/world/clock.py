r"""Time stamps: what the length of a pause says about the intent.

Missions. A genuine return to an own interest starts a new mission; stays, complements and accidents belong to the
mission that is going on. m_t = 1 at a start.

Gaps have one law G, whatever the dial says: half of them short (median `session_gap`), half long (`mission_gap`),
    log gap ~ ½ N(log session_gap, s²) + ½ N(log mission_gap, s²).
The dial couples the *rank* of a gap to m. With signal x_t = δ m_t + N(0, 1), δ = 4 · time_information:
    gap_t = G⁻¹(F(x_t)),    F(x) = p Φ(x - δ) + (1 - p) Φ(x),    p = share of starts.
So the AUC of the gap for "a mission starts" is Φ(δ / √2): 0.5 at dial 0, 0.92 at 0.5, 0.998 at 1.
A pause of rank x multiplies the odds of a start by φ(x - δ) / φ(x) = exp(δ x - δ²/2).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy.special import ndtr

from reclib.world.config import AdWorldConfig

SEPARATION = 4.0  # δ at dial 1


@dataclass(frozen=True)
class Clock:
    """The law of the gaps."""

    config: AdWorldConfig
    start_share: float  # p

    @property
    def delta(self) -> float:
        """δ, distance of starts and other events in standard deviations of the signal."""
        return SEPARATION * self.config.time_information

    def gaps(self, mission_start: Bool[np.ndarray, "events"], rng: np.random.Generator) -> Float[np.ndarray, "events"]:
        """A pause in seconds before each event."""
        x = rng.standard_normal(len(mission_start)) + self.delta * mission_start
        _, (log_gap, law) = self._tables()
        out: np.ndarray = np.exp(np.interp(self._rank(x), law, log_gap))
        return out

    def evidence(self, gap: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
        """How much a pause raises the odds that the next event starts a mission; 1 at dial 0."""
        (signal, rank_of_signal), (log_gap, law) = self._tables()
        rank = np.interp(np.log(np.maximum(gap, 1e-9)), log_gap, law)
        x = np.interp(rank, rank_of_signal, signal)
        out: np.ndarray = np.exp(self.delta * x - self.delta**2 / 2)
        return out

    def _rank(self, x: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
        out: np.ndarray = self.start_share * ndtr(x - self.delta) + (1 - self.start_share) * ndtr(x)
        return out

    def _tables(self) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
        """Grids (argument, distribution function) of the signal and of the log gap, for inversion."""
        c = self.config
        x = np.linspace(-6, self.delta + 6, 4001)
        short, long = np.log(c.session_gap), np.log(c.mission_gap)
        y = np.linspace(min(short, long) - 6 * c.gap_sigma, max(short, long) + 6 * c.gap_sigma, 8001)
        law = 0.5 * ndtr((y - short) / c.gap_sigma) + 0.5 * ndtr((y - long) / c.gap_sigma)
        return (x, self._rank(x)), (y, law)
