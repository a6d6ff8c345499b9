"""Users and ads as short texts, reasons why an ad suits a user, and a teacher that sometimes gets them wrong.

    woman saves durable wants sneakers sofas coffee now cameras | tripods high women fast :
    because audience fits price differs promise differs wants no now no next tripods check topic yes audience yes
    <answer> yes

The user part is a note on the user as they are now; the ad part says what stands in the ad. Six *findings* follow from
the two, and the first five by comparing words. The sixth cannot be compared: which topic comes `next` after the current
one is a fact of the world that the model has to know, and only then can it be compared with the ad's topic. So this
one takes two steps, which is where thinking in words may help.

Everything that moves a click in these worlds is in the texts, but for an ad's quality and popularity.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from reclib.language import Vocabulary
from reclib.world import AdWorld, AdWorldConfig, words

FINDINGS = ("audience", "price", "promise", "wants", "now", "next")
LEVELS = (2, 3, 2, 2, 2, 2)  # values that each finding can take
TAG = "<answer>"


def reading_world(seed: int, users: int, items: int) -> AdWorld:
    """A world of twelve topics in which taste, persona, appeal and community count for nothing."""
    return AdWorld(
        AdWorldConfig(
            seed=seed, n_users=users, n_items=items, n_industries=6, sectors_per_industry=2, topics_per_sector=1,
            mean_events=24, min_events=12, popularity_sigma=0.3, taste_strength=0.0, persona_strength=0.0,
            appeal_strength=0.0, community_strength=0.0, selling_strength=1.0, price_strength=1.5,
            audience_strength=1.5, n_interests=3, interest_lifetime=60.0, drift_events=40.0, noise_rate=0.1,
        )
    )  # fmt: skip


# ------------------------------------------------------------------ texts


def user_texts(world: AdWorld) -> list[str]:
    """The note on each user, as they are now."""
    users = np.arange(world.config.n_users)
    state, people, topics = world.state(users), world.users, world.catalogue.tree.topics
    texts = []
    for row in users:
        order = np.argsort(-state.weight[row], kind="stable")  # the strongest interest first
        awake = dict.fromkeys(topics[state.interest[row, z]] for z in order if state.weight[row, z] > 0)
        about = (
            words.GENDERS[people.gender[row]],
            words.PRICE_SENSITIVITY[people.price_sensitivity[row]],
            words.SELLING_POINTS[people.selling_point[row]],
        )
        now = topics[state.intent[row]] if state.intent[row] >= 0 else "nothing"
        texts.append(f"{' '.join(about)} wants {' '.join(awake)} now {now}")
    return texts


def ad_texts(world: AdWorld) -> list[str]:
    """Each ad in words; ad i stands at i - 1."""
    columns = (world.catalogue.table[name] for name in ("topic", "price_band", "audience", "selling_point"))
    return [" ".join(map(str, attributes)) for attributes in zip(*columns, strict=True)]


def prompt(user: str, ad: str) -> str:
    """What the model reads of a pair. Nothing tells it which place the ad has in a list."""
    return f"{user} | {ad} :"


def vocabulary() -> Vocabulary:
    """Every word of texts and reasons, whatever the world."""
    topics = [z for sectors in words.TREE.values() for names in sectors.values() for z in names]
    return Vocabulary(
        [
            "|", ":", ",", "nothing", "because", "check", "topic", "fits", "near", "differs", "yes", "no", "pad",
            *FINDINGS, *words.GENDERS, *words.PRICE_SENSITIVITY, *words.PRICE_BANDS, *words.AUDIENCES,
            *words.SELLING_POINTS, *topics,
        ],
        special=[TAG, *(f"<{letter}>" for letter in LETTERS)],
    )  # fmt: skip


LETTERS = "abcdefghijklmnopqrst"  # places of a list, for models that read whole lists


# ------------------------------------------------------------------ what is true of a pair


def true_findings(
    world: AdWorld, users: Int[np.ndarray, "*shape"], items: Int[np.ndarray, "*shape"]
) -> Int[np.ndarray, "*shape 6"]:
    """The six findings of pairs: does the audience fit, 0-2 how near the price, the promise, and three of the topic."""
    c, people = world.catalogue, world.users
    state = world.state(np.arange(world.config.n_users))
    audience = (c.audience[items] == 0) | (c.audience[items] == people.gender[users] + 1)
    price = 2 - np.abs(c.price_band[items] - (2 - people.price_sensitivity[users]))
    promise = c.selling_point[items] == people.selling_point[users]
    topic, intent = c.topic[items], state.intent[users]
    wants = ((state.interest[users] == topic[..., None]) & (state.weight[users] > 0)).any(-1)
    after = c.tree.complements[np.maximum(intent, 0), 0]
    now, following = topic == intent, (intent >= 0) & (after == topic)
    out: np.ndarray = np.stack([audience, price, promise, wants, now, following], axis=-1).astype(np.int64)
    return out


def topics_after(world: AdWorld, users: Int[np.ndarray, "n"]) -> list[str]:
    """What tends to follow each user's current topic; `nothing` where there is none."""
    intent, tree = world.state(np.arange(world.config.n_users)).intent[users], world.catalogue.tree
    return [tree.topics[tree.complements[z, 0]] if z >= 0 else "nothing" for z in intent]


def verdict(found: Int[np.ndarray, "*shape 6"]) -> Int[np.ndarray, "*shape"]:
    """The teacher's rule: yes, if the topic is one of three and the audience fits, and price or promise is good."""
    topic = found[..., 3:].any(-1)
    return np.asarray(topic & (found[..., 0] == 1) & ((found[..., 1] == 2) | (found[..., 2] == 1)), dtype=np.int64)


def rationale(found: Int[np.ndarray, "6"], after: str) -> str:
    """A reason in words: the findings, a check of what decides, the answer."""
    audience, price, promise, wants, now, following = found
    yes = ("no", "yes")
    reason = (
        f"because audience {('differs', 'fits')[audience]} price {('differs', 'near', 'fits')[price]} "
        f"promise {('differs', 'fits')[promise]} wants {yes[wants]} now {yes[now]} next {after} {yes[following]}"
    )
    check = f"check topic {yes[int(found[3:].any())]} audience {yes[audience]}"
    return f"{reason} {check} {TAG} {yes[int(verdict(found))]}"


def read_rationale(text: str, after: str) -> tuple[int | None, ...]:
    """The findings that a text states, None where it states none; a wrong `next` topic is a wrong finding."""
    said = text.split()
    tables = ({"differs": 0, "fits": 1}, {"differs": 0, "near": 1, "fits": 2}, {"differs": 0, "fits": 1})
    yes = {"no": 0, "yes": 1}
    found: list[int | None] = []
    for name, table in zip(FINDINGS, (*tables, yes, yes, yes), strict=True):
        at = said.index(name) + 1 if name in said else len(said)
        if name == "next":
            found.append(table.get(said[at + 1]) if said[at : at + 1] == [after] and at + 1 < len(said) else None)
        else:
            found.append(table.get(said[at]) if at < len(said) else None)
    return tuple(found)


def mistaken(findings: Int[np.ndarray, "n 6"], noise: float, rng: np.random.Generator) -> Int[np.ndarray, "n 6"]:
    """What a teacher notes: each finding, with probability `noise`, another one of its values."""
    if not 0 <= noise <= 1:
        raise ValueError(f"noise: {noise} is no probability; give a number from 0 (always right) to 1 (always wrong)")
    levels = np.array(LEVELS)
    shift = 1 + np.floor(rng.random(findings.shape) * (levels - 1)).astype(np.int64)
    out: np.ndarray = np.where(rng.random(findings.shape) < noise, (findings + shift) % levels, findings)
    return out


# ------------------------------------------------------------------ lists


class Candidates(NamedTuple):
    """Lists of one ad that the true law of the next click has drawn and others at random, in random order."""

    user: Int[np.ndarray, "lists"]
    items: Int[np.ndarray, "lists items"]
    positive: Int[np.ndarray, "lists"]  # place of the first
    law: Float[np.ndarray, "lists items"]  # probability of each as the next click

    def take(self, rows: np.ndarray | slice) -> Candidates:
        """Some of them."""
        return Candidates(*(table[rows] for table in self))


def draw_lists(world: AdWorld, users: Int[np.ndarray, "n"], size: int, rng: np.random.Generator) -> Candidates:
    """One list for each entry of `users`. The others are uniform, so the law is the best score of an ad."""
    who, back = np.unique(users, return_inverse=True)
    law = world.next_item_distribution(who)[:, 1:]
    ladder = law.cumsum(1)
    target = (ladder[back] <= (rng.random(len(users)) * ladder[back, -1])[:, None]).sum(1)
    target = np.minimum(target, law.shape[1] - 1)
    order = rng.random((len(users), law.shape[1])) + (law[back] == 0)  # nobody clicks an ad twice
    np.put_along_axis(order, target[:, None], -1.0, axis=1)
    items = rng.permuted(np.argsort(order, axis=1)[:, :size], axis=1)
    positive = (items == target[:, None]).argmax(1)
    return Candidates(np.asarray(users), items + 1, positive, np.take_along_axis(law[back], items, axis=1))


@dataclass(frozen=True)
class ReadingConfig:
    """Sizes of a world and of its lists."""

    users: int = 2000
    items: int = 240
    size: int = 20  # candidates of a list: 1 + 19 [paper]
    train: int = 4000  # lists
    test: int = 500  # lists, of users that no list to learn from has
    test_users: float = 0.25


class Reading(NamedTuple):
    """A world with its texts and lists."""

    world: AdWorld
    users: list[str]
    ads: list[str]
    after: list[str]  # of each user
    train_users: Int[np.ndarray, "some"]
    train: Candidates
    test: Candidates

    def prompts(self, lists: Candidates) -> list[list[str]]:
        """Each list's pairs as texts."""
        return [
            [prompt(self.users[user], self.ads[item - 1]) for item in row]
            for user, row in zip(lists.user, lists.items, strict=True)
        ]


def make_reading(config: ReadingConfig, seed: int) -> Reading:
    """Everything of one seed."""
    world = reading_world(seed, config.users, config.items)
    rng = np.random.default_rng([9, seed])
    order = rng.permutation(config.users)
    test_users, train_users = np.split(order, [round(config.test_users * config.users)])
    train = draw_lists(world, rng.choice(train_users, config.train), config.size, rng)
    test = draw_lists(world, rng.choice(test_users, config.test), config.size, rng)
    after = topics_after(world, np.arange(config.users))
    return Reading(world, user_texts(world), ad_texts(world), after, train_users, train, test)
