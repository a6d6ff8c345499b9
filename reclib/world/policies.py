r"""Logging policies of known quality, and the feedback they leave behind.

A policy is a function  (world, state, clicked) → π(i | u): probabilities over the catalogue, rows sum to 1, nothing on
ads the user has clicked before. Four of them, by what they know:

    expert   π ∝ (P(i)/e_i)^{1/τ}     the true lift now, softened by the temperature τ
    stale    the same with the user's state `STALE_EVENTS` events ago: old intent, old interests
    popular  π ∝ e_i^{1/τ}            the same list for everyone
    random   π uniform

and `oracle`, which shows the ad with the largest click probability: no policy gets more clicks now.

A mixture picks one policy per impression. Its propensity is that of the mixture, π(i | u) = Σ_k ratio_k π_k(i | u): the
probability with which this user was shown this ad, whoever decided. Inverse propensity weighting needs just that.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from reclib.world.truth import UserState

if TYPE_CHECKING:
    from reclib.world.world import AdWorld

TEMPERATURE = 0.5  # τ
STALE_EVENTS = 20  # age of what the stale policy knows, in events

Policy = Callable[["AdWorld", UserState, np.ndarray], np.ndarray]


def expert(world: AdWorld, state: UserState, clicked: Bool[np.ndarray, "n items"]) -> Float[np.ndarray, "n items"]:
    """Knows the hidden state."""
    return _softmax(world.truth.log_lift(state) / TEMPERATURE, clicked)


def stale(world: AdWorld, state: UserState, clicked: Bool[np.ndarray, "n items"]) -> Float[np.ndarray, "n items"]:
    """Knows the hidden state as it was some events ago (at the user's first event, if that is later)."""
    return _softmax(world.truth.log_lift(world.truth.earlier(state, STALE_EVENTS)) / TEMPERATURE, clicked)


def popular(world: AdWorld, state: UserState, clicked: Bool[np.ndarray, "n items"]) -> Float[np.ndarray, "n items"]:
    """Knows what is shown most."""
    return _softmax(np.tile(world.truth.log_exposure / TEMPERATURE, (len(state), 1)), clicked)


def random(world: AdWorld, state: UserState, clicked: Bool[np.ndarray, "n items"]) -> Float[np.ndarray, "n items"]:
    """Knows nothing."""
    return _softmax(np.zeros(clicked.shape), clicked)


def oracle(world: AdWorld, state: UserState, clicked: Bool[np.ndarray, "n items"]) -> Float[np.ndarray, "n items"]:
    """Knows everything and shows the ad most likely to be clicked."""
    lift = np.where(clicked, -np.inf, world.truth.log_lift(state))
    lift[:, 0] = -np.inf
    out: np.ndarray = (np.arange(lift.shape[1]) == lift.argmax(1)[:, None]).astype(float)
    return out


POLICIES: dict[str, Policy] = {
    "expert": expert, "stale": stale, "popular": popular, "random": random, "oracle": oracle,
}  # fmt: skip


def named_policy(name: str, argument: str = "policy") -> Policy:
    """The policy of that name.

    Raises:
        ValueError: no such policy; suggests the nearest.
    """
    if name not in POLICIES:
        near = difflib.get_close_matches(name, POLICIES, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(POLICIES)}"
        raise ValueError(f"{argument}: there is no policy {name!r}; {hint}")
    return POLICIES[name]


def mixture_ratios(policy_mix: Mapping[str, float]) -> tuple[tuple[str, ...], Float[np.ndarray, "policies"]]:
    """Names and ratios, scaled to sum 1.

    Raises:
        ValueError: unknown name, negative ratio, or nothing to mix.
    """
    names, ratios = tuple(policy_mix), np.array(list(policy_mix.values()), dtype=float)
    for name in names:
        named_policy(name, "policy_mix")
    if not np.isfinite(ratios).all() or (ratios < 0).any() or ratios.sum() <= 0:
        raise ValueError(
            f"policy_mix: ratios must be at least 0 and not all 0, got {dict(policy_mix)}; "
            "give e.g. {'expert': 0.1, 'stale': 0.6, 'random': 0.3}"
        )
    return names, ratios / ratios.sum()


def choose(probability: Float[np.ndarray, "n items"], rng: np.random.Generator) -> Int[np.ndarray, "n"]:
    """One ad per row, drawn from the row."""
    ladder = np.cumsum(probability, axis=1)
    draw = rng.random(len(ladder))[:, None] * ladder[:, -1:]
    item = (ladder <= draw).sum(1)
    out: np.ndarray = np.minimum(item, probability.shape[1] - 1)
    return out


@dataclass(frozen=True, eq=False)
class LoggedFeedback:
    """What a logging policy leaves behind: one row per impression. The last three columns are hidden truth."""

    user: Int[np.ndarray, "n"]
    event: Int[np.ndarray, "n"]  # the user's history is what lies before this position of the log
    item: Int[np.ndarray, "n"]  # the ad shown
    propensity: Float[np.ndarray, "n"]  # π(item | user) of the whole mixture
    click: Bool[np.ndarray, "n"]
    conversion: Bool[np.ndarray, "n"]
    revenue: Float[np.ndarray, "n"]  # cents: the bid if clicked, else 0
    policy: Int[np.ndarray, "n"]  # which policy of the mix decided, an index into policies
    click_probability: Float[np.ndarray, "n"]
    expected_revenue: Float[np.ndarray, "n"]  # cents
    policies: tuple[str, ...]  # names

    def __len__(self) -> int:
        return len(self.item)

    def to_frame(self) -> pd.DataFrame:
        """One row per impression, policies by name."""
        frame = pd.DataFrame({f.name: getattr(self, f.name) for f in fields(self) if f.name != "policies"})
        frame["policy"] = np.array(self.policies)[self.policy]
        return frame


def _softmax(
    logits: Float[np.ndarray, "n items"], clicked: Bool[np.ndarray, "n items"]
) -> Float[np.ndarray, "n items"]:
    """Probabilities over the ads that may be shown."""
    logits = np.where(clicked, -np.inf, logits)
    logits[:, 0] = -np.inf
    weight = np.exp(logits - logits.max(1, keepdims=True))
    out: np.ndarray = weight / weight.sum(1, keepdims=True)
    return out
