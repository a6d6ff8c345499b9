"""An ad feed with known answers: simulate a log, and ask the world what was really going on.

Read the modules in this order; each begins with its equations.

| module | what it defines |
| --- | --- |
| `config` | every dial, with unit and equation; the presets |
| `catalogue`, `words` | ads: industry tree, text, image-like vector, bid; hidden taste, persona, appeal, summary |
| `users` | people: profile; hidden persona, taste, community, rate of accidental clicks |
| `affinity` | s(u, i): which ad of a topic a user prefers |
| `behaviour` | interests that drift, sleep and return; intents; accidents; the log |
| `clock` | what a pause says about the intent |
| `truth` | law of the next click, click and conversion probability, entropy |
| `market` | semantic fit, bids, revenue, and the dial between them |
| `policies`, `experiment` | logging policies with propensities; the online A/B test |
| `oracle` | the best possible ranking |
| `database` | the advertisers' side in DuckDB |
| `world` | `AdWorld`, which ties them together |

Which dial moves what, and nothing else (each purpose has random numbers of its own):

| dial | moves | leaves alone |
| --- | --- | --- |
| `noise_rate` | share of accidental clicks | ads, profiles, interests, mix of genuine sources, law of gaps |
| `time_information` | how well a long pause marks a new mission | which ads are clicked; law of gaps |
| `alignment` | bids, hence correlation of log eCPM with semantic fit | log, clicks; mean and spread of log eCPM |
| `return_share`, `stay_share`, `complement_share` | where genuine clicks go | ads, users, rate of accidents |
| `taste_strength` … `community_strength` | preferences inside a topic | topics of genuine clicks |
| `popularity_sigma` | inequality of exposure | topics of genuine clicks |
| `sleep_events`, `awake_events` | how long interests sleep and stay awake | share of `own` and `returned` together |
| `base_ctr` | level of all click odds | the log; every ranking |
| `bid_median`, `bid_sigma` | level and spread of bids | everything but money |
"""

from reclib.world.behaviour import SOURCES
from reclib.world.config import PRESETS, AdWorldConfig
from reclib.world.experiment import ABTest, Comparison
from reclib.world.market import ASPECTS
from reclib.world.oracle import Oracle
from reclib.world.policies import POLICIES, LoggedFeedback
from reclib.world.truth import UserState
from reclib.world.world import AdWorld

__all__ = [
    "ASPECTS",
    "POLICIES",
    "PRESETS",
    "SOURCES",
    "ABTest",
    "AdWorld",
    "AdWorldConfig",
    "Comparison",
    "LoggedFeedback",
    "Oracle",
    "UserState",
]
