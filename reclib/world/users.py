r"""People: what a form would ask them, and what only the world knows.

Arrays are indexed by user, 0 … n_users - 1.

Demographics come first; a hidden persona follows from them,  P(persona | age, gender) = softmax(θ[age] + θ'[gender]).
Taste x_u is a random direction of length 1, so ⟨x_u, v_i⟩ is standard normal over ads.
The rate of accidental clicks is the user's own:  ε_u ~ Beta(m c, (1 - m) c), mean m, concentration c.
Interests are drawn from  P(z | u) ∝ exp(topic_sigma · g_z + persona_focus · A[persona_u, z]),  g and A standard normal.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from reclib.world import words
from reclib.world.config import AdWorldConfig


@dataclass(frozen=True, eq=False, repr=False)
class Users:
    """All users. The first five arrays could stand in a profile; the rest is hidden truth."""

    gender: Int[np.ndarray, "users"]  # 0 woman, 1 man
    age_band: Int[np.ndarray, "users"]  # 18-24, 25-34, 35-44, 45+
    region: Int[np.ndarray, "users"]  # north, south, east, west
    price_sensitivity: Int[np.ndarray, "users"]  # 0 spends, 1 balances, 2 saves
    selling_point: Int[np.ndarray, "users"]  # the written selling point they like
    # hidden
    persona: Int[np.ndarray, "users"]  # which audience they belong to
    appeal: Int[np.ndarray, "users"]  # which unwritten selling point draws them
    community: Int[np.ndarray, "users"]  # hidden group; shows only in what people click together
    taste: Float[np.ndarray, "users taste"]  # unit vector x_u
    noise_rate: Float[np.ndarray, "users"]  # ε_u, share of accidental clicks
    interest_logits: Float[np.ndarray, "personas topics"]  # log P(z | persona) up to a constant

    def __len__(self) -> int:
        return len(self.gender)

    def __repr__(self) -> str:
        return f"Users({len(self)})"

    def profile(self, user: int) -> str:
        """What a form would say about a user, in the words of the ads."""
        return words.PROFILE.format(
            gender=words.GENDERS[self.gender[user]],
            age=words.AGE_BANDS[self.age_band[user]],
            price=words.PRICE_SENSITIVITY[self.price_sensitivity[user]],
            selling_point=words.SELLING_POINTS[self.selling_point[user]],
        )


def build_users(config: AdWorldConfig, rng: np.random.Generator, noise_rng: np.random.Generator) -> Users:
    """Draw all users; the accidental-click rates come from their own generator, so the dial moves nothing else."""
    n, n_personas = config.n_users, len(words.PERSONAS)
    gender = rng.integers(len(words.GENDERS), size=n)
    age_band = rng.integers(len(words.AGE_BANDS), size=n)
    logits = (
        rng.standard_normal((len(words.AGE_BANDS), n_personas))[age_band]
        + rng.standard_normal((len(words.GENDERS), n_personas))[gender]
    )
    taste = rng.standard_normal((n, config.taste_dim))
    mean, concentration = config.noise_rate, config.noise_concentration
    noise_rate = (
        noise_rng.beta(mean * concentration, (1 - mean) * concentration, size=n)
        if 0 < mean < 1
        else np.full(n, float(mean))
    )
    return Users(
        gender=gender,
        age_band=age_band,
        region=rng.integers(len(words.REGIONS), size=n),
        price_sensitivity=rng.integers(len(words.PRICE_SENSITIVITY), size=n),
        selling_point=rng.integers(len(words.SELLING_POINTS), size=n),
        persona=(logits + rng.gumbel(size=logits.shape)).argmax(1),
        appeal=rng.integers(len(words.APPEALS), size=n),
        community=rng.integers(config.n_communities, size=n),
        taste=taste / np.linalg.norm(taste, axis=1, keepdims=True),
        noise_rate=noise_rate,
        interest_logits=config.topic_sigma * rng.standard_normal(config.n_topics)
        + config.persona_focus * rng.standard_normal((n_personas, config.n_topics)),
    )
