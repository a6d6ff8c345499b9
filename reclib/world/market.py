r"""Money and meaning: what an ad earns, how well it fits, and a dial between the two.

Semantic fit is what a careful reader of profile, history and ad (its summary included) would call a good match. Four
aspects in [0, 1]:
    profile   mean of: audience fits · 1 - price mismatch · written selling point matches · persona matches
    interest  1 if the ad's topic is one of the user's awake interests, ½ if its industry is that of one, else 0
    novelty   1 if the user never clicked in its industry, ½ if never in its topic, else 0
    context   1 if it is the topic of the current intent, ½ if a complement of it, else 0
weighed by the user's own w(u), which depends on the age band and doubles `context` after a recent shift (an intent
that is none of the own interests):
    fit(u, i) = Σ_a w_a(u) aspect_a(u, i),   w ≥ 0,  Σ w = 1.
Popularity, taste and community are no part of it: they move clicks, but no reader could name them.

Business reward is eCPM, the revenue of 1,000 impressions:  r(u, i) = 1000 · c(u, i) · bid(u, i).
With `alignment = None` bids are the advertisers' plain bids b_i. With a number ρ, they are adjusted by audience so that
    log r = m + S (ρ F + √(1 - ρ²) E)
where F is the fit, standardised, E the part of log(1000 c b_i) that a straight line in F does not explain,
standardised, and m, S the mean and standard deviation of log(1000 c b_i). So over random users and ads, log r has
correlation ρ with the fit, and the same mean and spread for every ρ; clicks do not depend on ρ at all. At ρ = the
natural correlation the adjustment vanishes.
"""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from reclib.world.truth import Truth, UserState

ASPECTS = ("profile", "interest", "novelty", "context")
# Importance of each aspect by age band, before normalisation (our choice).
AGE_WEIGHTS = np.array([[1.0, 2.0, 2.0, 2.0], [1.0, 3.0, 1.0, 2.0], [2.0, 3.0, 1.0, 1.0], [3.0, 3.0, 0.5, 1.0]])
REFERENCE_PAIRS = 100_000  # random user–ad pairs that fix the constants of the dial


class Calibration(NamedTuple):
    """Constants of the alignment equation, from random pairs of users (as they are now) and ads."""

    fit_mean: float
    fit_std: float
    reward_mean: float  # m, of log(1000 c b)
    reward_std: float  # S
    slope: float  # of log(1000 c b) on the fit
    residual_std: float

    @property
    def natural(self) -> float:
        """Correlation of log eCPM and fit under plain bids."""
        return self.slope * self.fit_std / self.reward_std


class Market:
    """Fit, bids and rewards, pair by pair. `first_click` has the position in the log of each user's first event in
    each topic and in each industry (a large number if there is none)."""

    def __init__(
        self,
        truth: Truth,
        first_topic: Int[np.ndarray, "users topics"],
        first_industry: Int[np.ndarray, "users industries"],
        reference: tuple[UserState, Int[np.ndarray, "pairs"]],
    ) -> None:
        self.truth, self.first_topic, self.first_industry = truth, first_topic, first_industry
        self._reference = reference

    def aspects(self, state: UserState, items: Int[np.ndarray, "n"]) -> Float[np.ndarray, "n 4"]:
        """The four aspects, in the order of ASPECTS."""
        c, u, tree = self.truth.catalogue, self.truth.users, self.truth.catalogue.tree
        user, topic, industry = state.user, c.topic[items], tree.industry[c.topic[items]]
        other_gender = (c.audience[items] > 0) & (c.audience[items] != u.gender[user] + 1)
        mismatch = np.abs(c.price_band[items] - (2 - u.price_sensitivity[user])) / 2
        profile = (
            ~other_gender
            + (1 - mismatch)
            + (c.selling_point[items] == u.selling_point[user])
            + (c.persona[items] == u.persona[user])
        ) / 4
        awake = state.weight > 0
        same_topic = ((state.interest == topic[:, None]) & awake).any(1)
        same_industry = ((tree.industry[state.interest] == industry[:, None]) & awake).any(1)
        new_topic = self.first_topic[user, topic] >= state.event
        new_industry = self.first_industry[user, industry] >= state.event
        has_intent = state.intent >= 0
        on_intent = has_intent & (state.intent == topic)
        beside = has_intent & (tree.complements[state.intent] == topic[:, None]).any(1)
        return np.stack(
            [profile, _graded(same_topic, same_industry), _graded(new_industry, new_topic), _graded(on_intent, beside)],
            axis=1,
        )

    def aspect_weights(self, state: UserState) -> Float[np.ndarray, "n 4"]:
        """w(u), rows sum to 1."""
        weights = AGE_WEIGHTS[self.truth.users.age_band[state.user]].copy()
        own = ((state.interest == state.intent[:, None]) & (state.weight > 0)).any(1)
        weights[(state.intent >= 0) & ~own, ASPECTS.index("context")] *= 2
        out: np.ndarray = weights / weights.sum(1, keepdims=True)
        return out

    def semantic_fit(self, state: UserState, items: Int[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
        """fit(u, i) in [0, 1]."""
        out: np.ndarray = (self.aspect_weights(state) * self.aspects(state, items)).sum(1)
        return out

    def bids(self, state: UserState, items: Int[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
        """Cents that the advertiser pays for a click of this user, now."""
        plain: np.ndarray = self.truth.catalogue.bid[items]
        if self.truth.config.alignment is None:
            return plain
        natural = self._log_natural_reward(state, items)
        out: np.ndarray = plain * np.exp(self._aligned(natural, self.semantic_fit(state, items)) - natural)
        return out

    def expected_revenue(self, state: UserState, items: Int[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
        """c(u, i) · bid(u, i): cents per impression; times 1,000 it is the eCPM."""
        out: np.ndarray = self.truth.click_probability(state, items) * self.bids(state, items)
        return out

    @cached_property
    def calibration(self) -> Calibration:
        """Constants of the dial."""
        state, items = self._reference
        fit, reward = self.semantic_fit(state, items), self._log_natural_reward(state, items)
        slope = float(np.cov(fit, reward, bias=True)[0, 1] / max(fit.var(), 1e-12))
        residual = reward - slope * fit
        return Calibration(
            float(fit.mean()), float(max(fit.std(), 1e-6)), float(reward.mean()), float(reward.std()), slope,
            float(max(residual.std(), 1e-6)),
        )  # fmt: skip

    def _log_natural_reward(self, state: UserState, items: Int[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
        """log(1000 c b_i)."""
        click = self.truth.click_probability(state, items)
        out: np.ndarray = np.log(1000 * click * self.truth.catalogue.bid[items])
        return out

    def _aligned(self, reward: Float[np.ndarray, "n"], fit: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
        """m + S (ρ F + √(1 - ρ²) E)."""
        k, rho = self.calibration, self.truth.config.alignment
        assert rho is not None
        centred = fit - k.fit_mean
        rest = reward - k.reward_mean - k.slope * centred
        out: np.ndarray = k.reward_mean + k.reward_std * (
            rho * centred / k.fit_std + np.sqrt(1 - rho**2) * rest / k.residual_std
        )
        return out


def _graded(full: np.ndarray, half: np.ndarray) -> Float[np.ndarray, "n"]:
    """1, ½ or 0."""
    return np.where(full, 1.0, np.where(half, 0.5, 0.0))
