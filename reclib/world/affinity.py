r"""Which ad of a topic a user prefers, as one dot product.

    s(u, i) = taste · ⟨x_u, v_i⟩ + persona · 1[persona_u = persona_i] + appeal · 1[appeal_u = appeal_i]
              + selling · 1[selling_u = selling_i] - price · |band_i - (2 - sensitivity_u)| / 2
              - audience · 1[i addresses the other gender] + community · 1[community_u = community_i]
              + quality · quality_i

Every term is a table of a user property by an ad property, so s = ⟨a_u, b_i⟩ with b_i = (v_i, quality_i, one-hot codes
of the ad) and a_u = the user's row of each table. A user u who looks for something in topic z clicks ad i with

    P(i | u, z) = e_i exp s(u, i) / N(u, z),      N(u, z) = Σ_{j in z} e_j exp s(u, j),      e = exposure.

"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from reclib.world import words
from reclib.world.catalogue import Catalogue
from reclib.world.config import AdWorldConfig
from reclib.world.users import Users


class Affinity:
    """s(u, i) for single pairs and for whole rows of the catalogue."""

    def __init__(self, config: AdWorldConfig, catalogue: Catalogue, users: Users) -> None:
        c, u = catalogue, users
        bands = np.arange(len(words.PRICE_BANDS))
        mismatch = np.abs(bands - (2 - bands[:, None])) / 2  # [sensitivity, band]
        # audience codes: 0 all, 1 women, 2 men; genders: 0 woman, 1 man
        other = np.array([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
        self.user_features: Float[np.ndarray, "users features"] = np.hstack(
            [
                config.taste_strength * u.taste,
                np.full((len(u), 1), config.quality_strength),
                config.persona_strength * _one_hot(u.persona, len(words.PERSONAS)),
                config.appeal_strength * _one_hot(u.appeal, len(words.APPEALS)),
                config.selling_strength * _one_hot(u.selling_point, len(words.SELLING_POINTS)),
                -config.price_strength * mismatch[u.price_sensitivity],
                -config.audience_strength * other[u.gender],
                config.community_strength * _one_hot(u.community, config.n_communities),
            ]
        )
        self.item_features: Float[np.ndarray, "items features"] = np.hstack(
            [
                c.vector,
                c.quality[:, None],
                _one_hot(c.persona, len(words.PERSONAS)),
                _one_hot(c.appeal, len(words.APPEALS)),
                _one_hot(c.selling_point, len(words.SELLING_POINTS)),
                _one_hot(c.price_band, len(words.PRICE_BANDS)),
                _one_hot(c.audience, len(words.AUDIENCES)),
                _one_hot(c.community, config.n_communities),
            ]
        )

    def rows(self, users: Int[np.ndarray, "n"]) -> Float[np.ndarray, "n items"]:
        """s(u, ·) over the catalogue; column 0 is padding and means nothing."""
        out: np.ndarray = self.user_features[users] @ self.item_features.T
        return out

    def pairs(self, users: Int[np.ndarray, "n"], items: Int[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
        """s(u, i), pair by pair."""
        out: np.ndarray = np.einsum("nf,nf->n", self.user_features[users], self.item_features[items])
        return out


def _one_hot(code: Int[np.ndarray, "n"], size: int) -> Float[np.ndarray, "n size"]:
    out: np.ndarray = np.eye(size)[code]
    return out
