"""Every dial of the ad world, with its unit, its equation and what it moves."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np


@dataclass(frozen=True)
class AdWorldConfig:
    """All dials of the world; the defaults are the preset `book`.

    `AdWorldConfig.preset("lifelong", noise_rate=0.3)` starts from a preset and changes some of them.

    How `book` was calibrated to tell methods apart, by looking at the test NDCG@10 of seed 0; so that SASRec beats
    counting there, and HSTU beats SASRec, is built in and no finding. (6 or 8 epochs; the network's recipe was still
    being found, so compare inside a row.) The shares are those of returns, stays and complements:

    | topics x ads, shares, complements | counting | item kNN | SASRec |
    | --- | --- | --- | --- |
    | 96 x 12, .75 .05 .20, 2 | .100 | .182 | .145 |
    | 48 x 25, .75 .05 .20, 2 | .049 | .115 | .111 |
    | 48 x 25, .60 .20 .20, 2 | .080 | .120 | .156 |
    | 48 x 25, .50 .20 .30, 2 | .083 | .089 | .156 |
    | **48 x 25, .50 .20 .30, 1** | .096 | .095 | .174 |

    Small topics are soon used up, because nobody clicks an ad twice, and a model that has to learn what is left does
    worse than a bag of neighbours. Many returns make the order of events useless. On the last row HSTU with
    scaled products, which sees the clock, reaches .177 with `time_information` at 0.5 and .194 at 0.8; as in the paper,
    unscaled, .175 at 0.8.
    """

    seed: int = 0  # everything random comes from it; same seed, same bytes

    # ---- sizes
    n_users: int = 4000  # people
    n_items: int = 1200  # ads
    n_industries: int = 8  # first level of the industry tree (at most 8: the word lists end there)
    sectors_per_industry: int = 3  # second level (at most 4)
    topics_per_sector: int = 2  # third level (at most 3); topics = product of the three
    mean_events: float = 50.0  # clicked ads per user: length = max(min_events, round(exp N(m, s²))), mean e^{m + s²/2}
    sigma_events: float = 0.25  # s of the equation above; 0 gives everybody the same length
    min_events: int = 20  # shortest history

    # ---- ads: log exposure_i = σ (√½ quality_i + √½ ξ_i), exposure normalised to sum 1
    popularity_sigma: float = 0.7  # σ: 0 = all ads alike, 0.7 = mild, above 1 a few ads take everything
    taste_dim: int = 3  # dimensions of the hidden taste space; each ad's style word names its strongest one
    image_dim: int = 32  # length of the image-like vector
    image_noise: float = 0.5  # image_i = centre_topic + A v_i + noise · ξ; centre and A v have unit variance

    # ---- who likes which ad inside a topic (terms of the affinity s(u, i), in logits; see `reclib.world.affinity`)
    taste_strength: float = 2.5  # × ⟨x_u, v_i⟩, which is standard normal over random pairs
    persona_strength: float = 1.0  # if the ad's hidden audience persona is the user's
    appeal_strength: float = 1.0  # if the ad's hidden selling point is what draws the user
    selling_strength: float = 0.5  # if the selling point written in the ad is the user's
    price_strength: float = 0.8  # − × |price band − band the user likes| / 2
    audience_strength: float = 1.2  # − if the ad addresses the other gender
    quality_strength: float = 0.3  # × quality_i: better ads are clicked more by everybody
    community_strength: float = 1.0  # if user and ad share a hidden community; no text shows it
    n_communities: int = 5  # hidden communities

    # ---- what a user wants next: a genuine event returns to an own interest, stays, or moves to a complement
    return_share: float = 0.5  # share of genuine events that go to one of the user's own interests
    stay_share: float = 0.2  # … that stay in the topic of the current intent
    complement_share: float = 0.3  # … that move to a complementary topic; the three sum to 1
    n_complements: int = 1  # complements per topic; if several, with probabilities ∝ 1, 1/2, 1/3 …

    # ---- own interests: slot k has weight w_k ∝ awake_k exp(a_k)
    n_interests: int = 5  # interests a user has at a time
    interest_sigma: float = 0.5  # standard deviation of a_k, at every time
    drift_events: float = 100.0  # a_k(t) is AR(1) with autocorrelation exp(-Δ / drift_events) over Δ events
    interest_lifetime: float = 400.0  # mean events until an interest is replaced by a new one
    awake_events: float = 60.0  # mean events until an interest falls asleep (weight 0); one always stays awake
    sleep_events: float = 20.0  # mean events asleep: geometric, so P(asleep longer than n) = (1 - 1/sleep_events)^n
    persona_focus: float = 1.0  # interests ∝ exp(topic_sigma g_z + persona_focus A[persona, z]), both normal
    topic_sigma: float = 0.5  # see above: how unequal topics are for everybody

    # ---- accidental clicks: an event is noise with the user's own rate ε_u; any ad, and the intent stays
    noise_rate: float = 0.15  # mean of ε_u
    noise_concentration: float = 20.0  # ε_u ~ Beta(mean · c, (1 - mean) · c): large = everybody alike

    # ---- time: gaps have one fixed law; the dial only says how well long gaps mark the start of a new mission
    time_information: float = 0.8  # AUC of the gap for "a new mission starts" is Φ(4 · dial / √2); 0 = gaps say nothing
    session_gap: float = 180.0  # seconds, median of the short half of all gaps
    mission_gap: float = 86400.0  # seconds, median of the long half
    gap_sigma: float = 1.0  # standard deviation of log seconds in either half
    start_window: float = 30 * 86400.0  # seconds in which users arrive, uniformly

    # ---- money
    base_ctr: float = 0.005  # odds of a click on an ad drawn from the exposure distribution, on average
    base_cvr: float = 0.05  # conversions per click of an average ad on an average user
    bid_median: float = 60.0  # cents per click
    bid_sigma: float = 0.6  # standard deviation of the log bid
    alignment: float | None = None  # correlation of log eCPM and semantic fit over random pairs; None = plain bids

    @property
    def n_topics(self) -> int:
        """Leaves of the industry tree."""
        return self.n_industries * self.sectors_per_industry * self.topics_per_sector

    @classmethod
    def preset(cls, name: str, **changes: Any) -> AdWorldConfig:
        """A named world, with some dials changed.

        - `tiny`: 300 users, 120 ads, a tenth of a second; for tests.
        - `book`: 4,000 users, 1,200 ads, 50 events each; for the chapters.
        - `lifelong`: 300 users with 1,000 and more events, interests that sleep for hundreds of them.
        - `large`: a million events; for speed.
        """
        if name not in PRESETS:
            near = difflib.get_close_matches(name, PRESETS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(PRESETS)}"
            raise ValueError(f"name: there is no preset {name!r}; {hint}")
        return replace(PRESETS[name], **changes)

    def __post_init__(self) -> None:
        for name, low, high in _RANGES:
            value = getattr(self, name)
            if value is None and name == "alignment":
                continue
            if not low <= value <= high:  # also catches NaN
                top = "" if np.isinf(high) else f" and at most {high:g}"
                raise ValueError(f"{name}: must be at least {low:g}{top}, got {value}")
        shares = self.return_share + self.stay_share + self.complement_share
        if abs(shares - 1) > 1e-9:
            raise ValueError(
                f"return_share: return_share + stay_share + complement_share must be 1, got {shares:g}; "
                "change one of them to make up the rest"
            )
        if self.return_share == 0:
            raise ValueError("return_share: must be above 0, or nobody ever starts; give e.g. 0.1")
        if self.n_complements >= self.n_topics:
            raise ValueError(f"n_complements: must be below the {self.n_topics} topics, got {self.n_complements}")
        if self.n_interests >= self.n_topics:
            raise ValueError(f"n_interests: must be below the {self.n_topics} topics, got {self.n_interests}")
        if self.n_items < 2 * self.n_topics:
            raise ValueError(
                f"n_items: must be at least twice the {self.n_topics} topics, got {self.n_items}; "
                "add ads, or shrink the tree by n_industries, sectors_per_industry or topics_per_sector"
            )
        if self.min_events > self.mean_events:
            raise ValueError(f"min_events: {self.min_events} must not exceed mean_events = {self.mean_events:g}")
        longest = self.mean_events * np.exp(4 * self.sigma_events)
        if longest > self.n_items / 2:
            raise ValueError(
                f"mean_events: histories of up to {longest:.0f} events need a larger catalogue, because nobody clicks "
                f"an ad twice; give n_items of at least {2 * longest:.0f}, or lower mean_events or sigma_events"
            )


# Name, smallest and largest value allowed.
_RANGES: tuple[tuple[str, float, float], ...] = (
    ("seed", 0, np.inf),
    ("n_users", 1, np.inf),
    ("n_items", 4, np.inf),
    ("n_industries", 1, 8),
    ("sectors_per_industry", 1, 4),
    ("topics_per_sector", 1, 3),
    ("mean_events", 3, np.inf),
    ("sigma_events", 0, 2),
    ("min_events", 3, np.inf),
    ("popularity_sigma", 0, 5),
    ("taste_dim", 1, 8),
    ("image_dim", 1, 4096),
    ("image_noise", 0, np.inf),
    *((f"{name}_strength", 0, 20) for name in
      ("taste", "persona", "appeal", "selling", "price", "audience", "quality", "community")),
    ("n_communities", 1, 1000),
    ("return_share", 0, 1),
    ("stay_share", 0, 1),
    ("complement_share", 0, 1),
    ("n_complements", 1, 20),
    ("n_interests", 1, 50),
    ("interest_sigma", 0, 10),
    ("drift_events", 1, np.inf),
    ("interest_lifetime", 1, np.inf),
    ("awake_events", 1, np.inf),
    ("sleep_events", 1, np.inf),
    ("persona_focus", 0, 10),
    ("topic_sigma", 0, 10),
    ("noise_rate", 0, 1),
    ("noise_concentration", 0.1, np.inf),
    ("time_information", 0, 1),
    ("session_gap", 1, np.inf),
    ("mission_gap", 1, np.inf),
    ("gap_sigma", 0.01, 10),
    ("start_window", 0, np.inf),
    ("base_ctr", 1e-6, 0.5),
    ("base_cvr", 1e-6, 0.9),
    ("bid_median", 1, np.inf),
    ("bid_sigma", 0, 5),
    ("alignment", -1, 1),
)  # fmt: skip

PRESETS: dict[str, AdWorldConfig] = {
    "tiny": AdWorldConfig(
        n_users=300, n_items=120, n_industries=3, sectors_per_industry=2, topics_per_sector=2,
        n_interests=3, mean_events=20, min_events=10, sigma_events=0.25,
    ),
    "book": AdWorldConfig(),
    "lifelong": AdWorldConfig(
        n_users=300, n_items=12_000, n_interests=8, mean_events=1200, min_events=1000, sigma_events=0.1,
        sectors_per_industry=4, topics_per_sector=3, return_share=0.75, stay_share=0.05, complement_share=0.2,
        interest_lifetime=2000, awake_events=110, sleep_events=450, drift_events=1000,
        session_gap=120, mission_gap=43200,
    ),
    "large": AdWorldConfig(n_users=20_000, n_items=4800, sectors_per_industry=4, topics_per_sector=3),
}  # fmt: skip
