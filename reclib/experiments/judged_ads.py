"""Users and ads in words: what a judge reads, what it should find, and what annotators make of it.

The world has four hidden aspects of every pair (`reclib.world.market`). Here they get a text from which they follow:

    user : woman 25-34 saves durable gamers ; wants fashion sneakers boots , home sofas ;
        now shift cameras then tripods ; knows fashion sneakers , food tea
    | ad : electronics cameras high women fast cooks
    => audience fits . price differs . promise differs . persona differs . wants neither . knows neither .
        now cameras . <scores> 0.25 0 1 1

The user part holds what a note on the user would say: profile and persona, awake interests, the current intent (`own`,
or `shift` where it is none of the interests) with what tends to follow, and every topic clicked so far. That a judge is
handed the world's own notes is our choice: so the best possible judge makes no error, and whatever error there is comes
from annotators and training. Seven *findings* lead to the four scores, and each can be checked in the text by rule.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from reclib.world import ASPECTS, AdWorld, AdWorldConfig, words
from reclib.world.truth import UserState

DIALS: tuple[tuple[str, float], ...] = (
    ("n_users", 2000),
    ("n_items", 240),
    ("sectors_per_industry", 2),
    ("mean_events", 24),
    ("min_events", 12),
    ("base_ctr", 0.02),
)  # of the chapter's worlds, where they differ from the preset `book`

SHARPNESS = 15.0  # of preferences: the true weights then rank about as many pairs right as the paper's judge does

FINDINGS = ("audience", "price", "promise", "persona", "wants", "knows", "now")
LEVELS = (2, 3, 2, 2, 3, 3, 3)  # values that each finding can take; the score is value / (LEVELS - 1)
# Which findings each aspect is the mean of.
PARTS: dict[str, tuple[int, ...]] = {"profile": (0, 1, 2, 3), "interest": (4,), "novelty": (5,), "context": (6,)}


def judged_world(
    seed: int, alignment: float | None = None, preset: str = "book", dials: tuple[tuple[str, float], ...] = DIALS
) -> AdWorld:
    """A world of this chapter; `alignment` is the dial between business and meaning."""
    return AdWorld(AdWorldConfig.preset(preset, seed=seed, alignment=alignment, **dict(dials)))


# ------------------------------------------------------------------ texts


def user_texts(world: AdWorld, users: Int[np.ndarray, "n"]) -> list[str]:
    """The note on each of some users, as they are now."""
    state, people, tree = world.state(users), world.users, world.catalogue.tree
    known = world.market.first_topic[users] < state.event[:, None]
    texts = []
    for row, user in enumerate(users):
        awake = dict.fromkeys(int(z) for z, w in zip(state.interest[row], state.weight[row], strict=True) if w > 0)
        profile = (
            words.GENDERS[people.gender[user]],
            words.AGE_BANDS[people.age_band[user]],
            words.PRICE_SENSITIVITY[people.price_sensitivity[user]],
            words.SELLING_POINTS[people.selling_point[user]],
            words.PERSONAS[people.persona[user]],
        )
        intent = int(state.intent[row])
        if intent < 0:
            now = "nothing"
        else:
            after = " ".join(tree.topics[z] for z in tree.complements[intent])
            now = f"{'own' if intent in awake else 'shift'} {tree.topics[intent]} then {after}"
        wants, knows = (_by_industry(world, z) for z in (list(awake), np.flatnonzero(known[row]).tolist()))
        texts.append(f"user : {' '.join(profile)} ; wants {wants} ; now {now} ; knows {knows}")
    return texts


def _by_industry(world: AdWorld, topics: list[int]) -> str:
    tree = world.catalogue.tree
    groups: dict[str, list[str]] = {}
    for topic in topics:
        groups.setdefault(tree.industries[topic], []).append(tree.topics[topic])
    return " , ".join(" ".join([industry, *names]) for industry, names in groups.items())


def ad_texts(world: AdWorld) -> list[str]:
    """Each ad in words, its summary's persona included; ad i stands at i - 1."""
    table, persona = world.catalogue.table, world.catalogue.persona[1:]
    columns = (table[name] for name in ("industry", "topic", "price_band", "audience", "selling_point"))
    return [
        f"ad : {' '.join(map(str, attributes))} {words.PERSONAS[p]}"
        for *attributes, p in zip(*columns, persona, strict=True)
    ]


def vocabulary_words() -> list[str]:
    """Every word of users, ads and reasoning, whatever the world."""
    tree = [
        w for industry, sectors in words.TREE.items() for w in (industry, *(z for s in sectors.values() for z in s))
    ]
    return [
        "user", "ad", ":", ";", ",", ".", "wants", "now", "then", "knows", "own", "shift", "nothing",
        "fits", "near", "differs", "neither", "audience", "price", "promise", "persona",
        *words.GENDERS, *words.AGE_BANDS, *words.PRICE_SENSITIVITY, *words.PRICE_BANDS, *words.AUDIENCES,
        *words.SELLING_POINTS, *words.PERSONAS, *tree,
    ]  # fmt: skip


# ------------------------------------------------------------------ what is to be found


def find(user: str, ad: str) -> tuple[int, ...]:
    """The seven findings, from the two texts alone: the rule that checks every sentence of the judge."""
    profile, wants, now, knows = (part.split() for part in user.removeprefix("user : ").split(" ; "))
    gender, _, saves, likes, persona = profile
    industry, topic, price, audience, promise, speaks_to = ad.removeprefix("ad : ").split()
    other = {"woman": "men", "man": "women"}[gender]
    gap = abs(words.PRICE_BANDS.index(price) - (2 - words.PRICE_SENSITIVITY.index(saves)))
    here = now[2] if len(now) > 2 else ""
    return (
        int(audience != other),
        2 - gap,
        int(promise == likes),
        int(persona == speaks_to),
        2 if topic in wants else int(industry in wants),
        0 if topic in knows else 1 if industry in knows else 2,
        2 if topic == here else int(topic in now[4:]),
    )


class Cases(NamedTuple):
    """Pairs of users and ads, with the truth about them."""

    user: Int[np.ndarray, "pairs"]
    item: Int[np.ndarray, "pairs"]
    findings: Int[np.ndarray, "pairs 7"]
    scores: Float[np.ndarray, "pairs 4"]  # what the findings say; equal to the world's aspects

    def take(self, rows: np.ndarray | slice) -> Cases:
        """Some of them."""
        return Cases(*(table[rows] for table in self))


def true_cases(world: AdWorld, users: Int[np.ndarray, "pairs"], items: Int[np.ndarray, "pairs"]) -> Cases:
    """Findings and scores from the hidden state."""
    found = true_findings(world, world.state(users), items)
    return Cases(users, items, found, scores_of(found))


def true_findings(world: AdWorld, state: UserState, items: Int[np.ndarray, "pairs"]) -> Int[np.ndarray, "pairs 7"]:
    """The four parts of the profile one by one; the other aspects are a finding each."""
    c, u = world.catalogue, world.users
    user = state.user
    fits = (c.audience[items] == 0) | (c.audience[items] == u.gender[user] + 1)
    gap = np.abs(c.price_band[items] - (2 - u.price_sensitivity[user]))
    aspects = world.market.aspects(state, items)
    graded = np.rint(2 * aspects[:, 1:]).astype(np.int64)
    promise, persona = c.selling_point[items] == u.selling_point[user], c.persona[items] == u.persona[user]
    return np.column_stack([fits, 2 - gap, promise, persona, graded]).astype(np.int64)


def scores_of(findings: Int[np.ndarray, "pairs 7"]) -> Float[np.ndarray, "pairs 4"]:
    """The four scores that findings add up to."""
    share = findings / (np.array(LEVELS) - 1)
    return np.stack([share[:, PARTS[aspect]].mean(1) for aspect in ASPECTS], axis=1)


def reasoning(ad: str, findings: Int[np.ndarray, "7"]) -> str:
    """The findings as seven sentences; the last three name the industry or the topic they are about."""
    industry, topic = ad.removeprefix("ad : ").split()[:2]
    said = [
        ("differs", "fits")[findings[0]],
        ("differs", "near", "fits")[findings[1]],
        ("differs", "fits")[findings[2]],
        ("differs", "fits")[findings[3]],
        ("neither", industry, topic)[findings[4]],
        (topic, industry, "neither")[findings[5]],
        ("neither", f"then {topic}", topic)[findings[6]],
    ]
    return " ".join(f"{name} {what} ." for name, what in zip(FINDINGS, said, strict=True))


def read_reasoning(ad: str, answer: str) -> tuple[int | None, ...]:
    """The findings that an answer states, None where a sentence is missing or says nothing that could be."""
    industry, topic = ad.removeprefix("ad : ").split()[:2]
    said = {}
    for sentence in answer.split(" <scores>")[0].split(" ."):
        name, _, what = sentence.strip().partition(" ")
        said[name] = what
    tables: tuple[dict[str, int], ...] = (
        {"differs": 0, "fits": 1},
        {"differs": 0, "near": 1, "fits": 2},
        {"differs": 0, "fits": 1},
        {"differs": 0, "fits": 1},
        {"neither": 0, industry: 1, topic: 2},
        {topic: 0, industry: 1, "neither": 2},
        {"neither": 0, f"then {topic}": 1, topic: 2},
    )
    return tuple(table.get(said.get(name, "")) for name, table in zip(FINDINGS, tables, strict=True))


# ------------------------------------------------------------------ annotators


def annotate(
    findings: Int[np.ndarray, "pairs 7"], noise: float, rng: np.random.Generator
) -> Int[np.ndarray, "pairs 7"]:
    """What an annotator notes: each finding, with probability `noise`, another one of its values.

    Scores follow from what was noted, so a mistake in a sentence is a mistake in the score.
    """
    if not 0 <= noise <= 1:
        raise ValueError(f"noise: {noise} is no probability; give a number from 0 (always right) to 1 (always wrong)")
    levels = np.array(LEVELS)
    wrong = rng.random(findings.shape) < noise
    shift = 1 + np.floor(rng.random(findings.shape) * (levels - 1)).astype(np.int64)
    out: np.ndarray = np.where(wrong, (findings + shift) % levels, findings)
    return out


class Preferences(NamedTuple):
    """Pairs of ads of which a user likes the first better."""

    user: Int[np.ndarray, "pairs"]
    better: Int[np.ndarray, "pairs"]  # ads
    worse: Int[np.ndarray, "pairs"]


def preferences(
    world: AdWorld, users: Int[np.ndarray, "some"], n: int, rng: np.random.Generator, sharpness: float = SHARPNESS
) -> Preferences:
    r"""Random pairs of ads, judged by P(i ≻ j) = σ(sharpness · (fit_i − fit_j)) with the user's own true weights."""
    who = rng.choice(users, n)
    items = rng.integers(1, world.config.n_items, size=(n, 2))
    items[:, 1] += items[:, 1] >= items[:, 0]  # two different ads
    fit = world.semantic_fit(who, items)
    first = rng.random(n) < 1 / (1 + np.exp(-sharpness * (fit[:, 0] - fit[:, 1])))
    chosen = np.where(first[:, None], items, items[:, ::-1])
    return Preferences(who, chosen[:, 0], chosen[:, 1])


def kinds(world: AdWorld, users: Int[np.ndarray, "n"]) -> Float[np.ndarray, "n features"]:
    """What weights may depend on, one-hot: a constant, age band, whether the intent is a shift, gender, thrift."""
    state, people = world.state(users), world.users
    own = ((state.interest == state.intent[:, None]) & (state.weight > 0)).any(1)
    shift = (state.intent >= 0) & ~own
    one_hot = [np.eye(codes.max() + 1)[codes[users]] for codes in (people.age_band, people.gender)]
    thrift = np.eye(3)[people.price_sensitivity[users]]
    out: np.ndarray = np.concatenate([np.ones((len(users), 1)), shift[:, None], *one_hot, thrift], axis=1)
    return out.astype(np.float32)
