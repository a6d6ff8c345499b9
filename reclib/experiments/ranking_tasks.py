r"""Ranking tasks from the ad world: 1 ad that was chosen next among 19 random ones, told in words.

**World.** 240 ads in 12 topics, 5 hidden communities, some 24 clicks per user. Inside a topic a user prefers ads with
the selling point they like, ads that do not address the other gender, and ads of their own community, which *no text
shows*: `community` is the dial of that share. Hidden tastes, personas, appeals and prices are switched off.

**What is known when.** The last `held` clicks of each user are the tasks. Everything else is the *log* that the tools'
texts are computed from, once, so no text knows a target. A prompt shows what the user clicked up to the task, the held
clicks before it included.

**Scenarios**, after AgentRecBench (Shang et al., 2025), definitions ours:

- `classic`: the whole history; the latest topic is one of the two most frequent.
- `cold user`: of these users the log keeps the last 2 clicks, and prompts show 2.
- `cold item`: the target is one of the ads whose clicks are taken out of the log and out of the prompts.
- `drift, long`: the whole history; the latest topic is not among the two most frequent.
- `drift, short`: the same, but the log keeps the last 6 clicks only.

A task of a cold user with a cold target is `cold user`. Of the two sorts of drift only users whose log is cut are
short; their tasks without drift are used in training alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import sparse
from sklearn.linear_model import LogisticRegression

from reclib.data import Interactions
from reclib.language import Vocabulary
from reclib.reasoning.collaborative_text import NO_ENTRY, TextStore, choices, item_cf, item_counts, user_cf, user_counts
from reclib.reasoning.mars import ANALYSTS, OTHERS, TOOLS, Weights
from reclib.reasoning.star import LIMIT
from reclib.reasoning.trajectory import LETTERS, NONE, STOP, TAGS, Candidate, Task, write_prompt
from reclib.world import AdWorld, AdWorldConfig, words

SCENARIOS = ("classic", "cold user", "cold item", "drift, long", "drift, short")
PRACTICE = "practice"  # tasks of no scenario
KEPT = {"cold user": 2, "drift, short": 6}  # clicks that the log keeps of such users
TREE = (6, 2, 1)  # industries, sectors in each, topics in each
MOST = 40  # ads of a topic, and clicks of a user in a topic, that there are words for
NEIGHBOURHOOD = 50  # people whose choices make a User-CF text


@dataclass(frozen=True)
class TaskConfig:
    """Sizes of a world and of its tasks."""

    users: int = 5000
    items: int = 240
    community: float = 2.0  # logits by which a user prefers ads of their own hidden community
    held: int = 3  # tasks per user
    test_users: float = 0.3  # share whose tasks are for the test
    test: int = 200  # test tasks per scenario
    cold_users: float = 0.15  # share of users
    short_users: float = 0.25  # share of users
    cold_items: float = 0.16  # share of ads
    recent: int = 5  # clicks that a prompt shows
    listed: int = 6  # ads that a collaborative text names

    def world(self, seed: int) -> AdWorldConfig:
        """The world's dials."""
        return AdWorldConfig(
            seed=seed, n_users=self.users, n_items=self.items, n_industries=TREE[0], sectors_per_industry=TREE[1],
            topics_per_sector=TREE[2], mean_events=24, min_events=12, sigma_events=0.25, popularity_sigma=0.5,
            taste_strength=0.0, persona_strength=0.0, appeal_strength=0.0, price_strength=0.0, selling_strength=1.2,
            audience_strength=1.5, quality_strength=0.3, community_strength=self.community, n_interests=4,
            interest_lifetime=40.0, drift_events=40.0, noise_rate=0.1,
        )  # fmt: skip


def ad_name(topic: str, number: int) -> str:
    """One word for an ad."""
    return f"{topic}_{number:02d}"


def topics() -> list[str]:
    """The topics of every world of this chapter."""
    industries, sectors, leaves = TREE
    return [
        topic
        for industry in list(words.TREE.values())[:industries]
        for sector in list(industry.values())[:sectors]
        for topic in sector[:leaves]
    ]


def vocabulary() -> Vocabulary:
    """Every word of prompts, tools, trajectories and drills, in all worlds."""
    fixed = (
        f"recent candidates {NONE} {STOP} redo trust both differ agree likes long also similar chose theme nothing "
        f"{NO_ENTRY} {LIMIT} in has for among last count are next"
    ).split()
    names = [ad_name(topic, number) for topic in topics() for number in range(1, MOST + 1)]
    used = [*names, *topics(), *(str(number) for number in range(1, MOST + 1)), *fixed]
    used += [*words.GENDERS, *OTHERS.values(), *words.SELLING_POINTS, *ANALYSTS, *TOOLS, *Weights._fields]
    used += [f"{selling}-{audience}" for selling in words.SELLING_POINTS for audience in OTHERS.values()]
    return Vocabulary(used, special=(*TAGS, *LETTERS))


FEATURES = (
    "share of topic", "topic of the latest", "topic of the recent", "lift of topics", "selling point", "other gender",
    "popularity", "chosen with the latest", "chosen with all", "chosen by neighbours", "no clicks",
)  # fmt: skip
FROM_COUNTS = ("lift of topics", "chosen with the latest", "chosen with all", "chosen by neighbours")


class RankingTasks:
    """A world's tasks, the texts of its tools, and rankers that need no language model."""

    def __init__(self, config: TaskConfig, seed: int) -> None:
        """Simulate a world and cut it into log and tasks."""
        self.config, self.seed = config, seed
        self.world = AdWorld(config.world(seed))
        events = self.world.simulate()
        rng = np.random.default_rng([seed, 10])
        self.group = rng.choice(
            3, size=config.users, p=[1 - config.cold_users - config.short_users, config.cold_users, config.short_users]
        )  # 0 whole history, 1 cold, 2 short
        self.cold_item = np.zeros(config.items + 1, dtype=bool)
        self.cold_item[1 + rng.permutation(config.items)[: round(config.cold_items * config.items)]] = True
        test_user = rng.random(config.users) < config.test_users

        last = np.repeat(events.offsets[1:], np.diff(events.offsets))
        self.place = last - np.arange(len(events))  # 1 for a user's last click
        self.known = (self.place > config.held) & ~self.cold_item[events.item]
        self.events = events
        self.log = self._log()
        self.names = ["", *self._names()]
        self.topics = ["", *events.items["topic"]]
        self.chosen = choices(self.log, config.users)

        self.event = np.flatnonzero(self.place <= config.held)  # of each task
        self.user, self.target = events.user[self.event], events.item[self.event]
        self.candidates = self._candidates(rng)
        self.recent = self._recent()
        self.scenario = self._scenarios()
        self.train, self.test = self._split(test_user, rng)

    # ------------------------------------------------------------------------------------------------ the cut

    def _log(self) -> Interactions:
        """What the tools may count: no held click, no cold ad, and no more of cold and short users than they show."""
        events, kept = self.events, self.known.copy()
        for number, size in ((1, KEPT["cold user"]), (2, KEPT["drift, short"])):
            of_group = (self.group[events.user] == number) & self.known
            rows = np.flatnonzero(of_group)[::-1]  # latest first
            user = events.user[rows]
            order = np.arange(len(rows)) - np.searchsorted(-user, -user)  # 0 for the latest of a user
            kept[rows[order >= size]] = False
        index = np.flatnonzero(kept)
        # `Interactions` numbers users without gaps; everybody keeps a click, which the sizes of the world see to.
        return Interactions(
            user=events.user[index], item=events.item[index], time=None, n_items=events.n_items, items=events.items
        )

    def _names(self) -> list[str]:
        """Numbered within their topics, so that the same words serve every world."""
        number: Counter[str] = Counter()
        names = []
        for topic in self.events.items["topic"]:
            number[topic] += 1
            names.append(ad_name(topic, number[topic]))
        return names

    def _candidates(self, rng: np.random.Generator) -> Int[np.ndarray, "tasks letters"]:
        """The target and random other ads, none twice and none that the user has clicked before, in random order."""
        clicked = self.world.truth.clicked(self.world.state(event=self.event))[:, 1:]
        score = rng.random((len(self.target), self.config.items)) + clicked
        score[np.arange(len(score)), self.target - 1] = -1.0
        drawn = np.argsort(score, axis=1)[:, : len(LETTERS)] + 1
        out: np.ndarray = rng.permuted(drawn, axis=1)
        return out

    def _recent(self) -> Int[np.ndarray, "tasks recent"]:
        """The last clicks before each task, oldest first, padded with 0 on the left; cold ads are passed over."""
        events, config = self.events, self.config
        first = events.offsets[:-1][self.user]
        shown = np.flatnonzero(~self.cold_item[events.item])
        end = np.searchsorted(shown, self.event)
        index = end[:, None] - np.arange(config.recent, 0, -1)
        real = (index >= 0) & (shown[np.maximum(index, 0)] >= first[:, None])
        out = np.where(real, events.item[shown[np.maximum(index, 0)]], 0)
        out[self.group[self.user] == 1, : config.recent - KEPT["cold user"]] = 0
        return out

    def _scenarios(self) -> np.ndarray:
        """The scenario of each task."""
        topic = self.world.catalogue.topic[self.recent[:, -1]]
        drift = ~(self.long[self.user][:, :2] == topic[:, None]).any(1)
        group, cold = self.group[self.user], self.cold_item[self.target]
        conditions = [group == 1, cold & (group == 0), (group == 0) & drift, (group == 2) & drift & ~cold, group == 0]
        names = ["cold user", "cold item", "drift, long", "drift, short", "classic"]
        return np.select(conditions, names, PRACTICE)

    def _split(
        self, test_user: Bool[np.ndarray, "users"], rng: np.random.Generator
    ) -> tuple[Int[np.ndarray, "train"], Int[np.ndarray, "test"]]:
        for_test = test_user[self.user]
        test = []
        for scenario in SCENARIOS:
            there = np.flatnonzero(for_test & (self.scenario == scenario))
            if len(there) < self.config.test:
                raise ValueError(
                    f"test: {self.config.test} tasks of {scenario!r} are wanted, but there are {len(there)}; "
                    "take more users or fewer tasks"
                )
            test.append(rng.choice(there, self.config.test, replace=False))
        return rng.permutation(np.flatnonzero(~for_test)), np.concatenate(test)

    # ------------------------------------------------------------------------------------------------ texts

    @cached_property
    def counts(self) -> Float[np.ndarray, "items items"]:
        """How many people chose both ads, in the log."""
        return item_counts(self.chosen)

    @cached_property
    def topic_counts(self) -> Float[np.ndarray, "users topics"]:
        """Clicks of each user in each topic, in the log."""
        topic = self.world.catalogue.topic[1:]
        one_hot = sparse.coo_matrix(
            (np.ones(len(topic)), (np.arange(1, len(topic) + 1), topic)), shape=(len(topic) + 1, topic.max() + 1)
        )
        out: np.ndarray = (self.chosen @ one_hot.tocsr()).toarray()
        return out

    @cached_property
    def long(self) -> Int[np.ndarray, "users 3"]:
        """The most frequent topics of each user, -1 where there are fewer than three."""
        order = np.argsort(-self.topic_counts, axis=1, kind="stable")[:, :3]
        return np.where(np.take_along_axis(self.topic_counts, order, axis=1) > 0, order, -1)

    @cached_property
    def store(self) -> TextStore:
        """All tools' texts."""
        users, catalogue = self.world.users, self.world.catalogue
        texts: dict[tuple[str, str], str] = {}
        for user in range(self.config.users):
            gender, selling = words.GENDERS[users.gender[user]], words.SELLING_POINTS[users.selling_point[user]]
            texts["profile", str(user)] = f"{gender} likes {selling}"
            pairs = [
                f"{catalogue.tree.topics[topic]} {int(self.topic_counts[user, topic])}"
                for topic in self.long[user]
                if topic >= 0
            ]
            texts["history", str(user)] = " ".join(["long", *pairs])
        size = self.config.listed
        return (
            TextStore(texts)
            | item_cf(self.chosen, self.names, self.topics, size=size)
            | user_cf(self.chosen, self.names, self.topics, size=size, neighbourhood=NEIGHBOURHOOD)
        )

    def about(self, item: int) -> str:
        """What a candidate's text says beside its topic."""
        row = self.events.items.loc[item]
        return str(row["selling_point"] if row["audience"] == "all" else f"{row['selling_point']}-{row['audience']}")

    def tasks(
        self, index: Sequence[int] | Int[np.ndarray, "n"], order: np.random.Generator | None = None
    ) -> list[Task]:
        """Tasks as texts.

        Args:
            index: which.
            order: shuffles the candidates anew; default: their fixed order.
        """
        about = ["", *(self.about(item) for item in range(1, self.config.items + 1))]
        out = []
        for i in map(int, index):
            items = self.candidates[i] if order is None else order.permutation(self.candidates[i])
            candidates = [
                Candidate(letter, self.names[item], self.topics[item], about[item])
                for letter, item in zip(LETTERS, items, strict=True)
            ]
            shown = [(self.names[item], self.topics[item]) for item in self.recent[i] if item]
            target = LETTERS[int(np.flatnonzero(items == self.target[i])[0])]
            prompt = write_prompt(shown, candidates, self.config.recent)
            out.append(Task(str(self.user[i]), prompt, target, name=str(i)))
        return out

    # ------------------------------------------------------------------------------------------------ other rankers

    def truth(self, index: Int[np.ndarray, "n"]) -> Float[np.ndarray, "n letters"]:
        """The best possible scores: the true law of the next click, given all that is hidden."""
        law = self.world.next_item_distribution(event=self.event[index])
        return np.take_along_axis(law, self.candidates[index], axis=1)

    @cached_property
    def features(self) -> Float[np.ndarray, "tasks letters features"]:
        """What a logistic regression sees of each candidate, in the order of `FEATURES`."""
        items, user, recent = self.candidates, self.user, self.recent
        catalogue, users = self.world.catalogue, self.world.users
        topic = catalogue.topic[items]
        share = self.topic_counts / np.maximum(self.topic_counts.sum(1, keepdims=True), 1)
        latest = recent[:, -1]
        counts = self.counts
        by_topic = self._counts_by_topic(counts)
        audience = catalogue.audience[items]
        columns = [
            share[user[:, None], topic],
            (topic == catalogue.topic[latest][:, None]).astype(float),
            ((topic[:, :, None] == catalogue.topic[recent][:, None, :]) & (recent[:, None, :] > 0)).mean(2),
            by_topic[catalogue.topic[latest][:, None], topic],
            (catalogue.selling_point[items] == users.selling_point[user][:, None]).astype(float),
            ((audience > 0) & (audience != users.gender[user][:, None] + 1)).astype(float),
            np.log1p(self.popularity(slice(None))),
            np.log1p(counts[latest[:, None], items]),
            np.log1p(self.item_knn(slice(None))),
            np.log1p(user_counts(self.chosen, NEIGHBOURHOOD)[user[:, None], items]),
            self.cold_item[items].astype(float),
        ]
        return np.stack(columns, axis=2)

    def _counts_by_topic(self, counts: Float[np.ndarray, "items items"]) -> Float[np.ndarray, "topics topics"]:
        """Log of how many more people chose ads of both topics than if topics were independent."""
        both = self.topic_counts.T @ self.topic_counts
        alone = self.topic_counts.sum(0)
        expected = np.outer(alone, alone) / alone.sum()
        lift: np.ndarray = np.log1p(both / np.maximum(expected, 1e-9))
        return lift

    def popularity(self, index: Any) -> Float[np.ndarray, "n letters"]:
        """Clicks of each candidate in the log."""
        clicks = np.bincount(self.log.item, minlength=self.config.items + 1)
        out: np.ndarray = clicks[self.candidates[index]].astype(float)
        return out

    def item_knn(self, index: Any) -> Float[np.ndarray, "n letters"]:
        """Σ over what the user is known to have clicked of the counts that Item-CF is made of."""
        user, recent = self.user[index], self.recent[index]
        seen = self.chosen[user].toarray()
        row = np.repeat(np.arange(len(recent)), recent.shape[1])
        seen[row, recent.ravel()] = 1.0
        seen[:, 0] = 0.0
        return np.take_along_axis(seen @ self.counts, self.candidates[index], axis=1)

    def logistic(
        self, train: Int[np.ndarray, "n"], test: Int[np.ndarray, "m"], without: Sequence[str] = ()
    ) -> Float[np.ndarray, "m letters"]:
        """Scores of a logistic regression, chosen or not, over the candidates of the training tasks.

        Args:
            train, test: tasks to learn from and to rank.
            without: names of `FEATURES` to leave out.
        """
        x = self.features[:, :, [name not in without for name in FEATURES]]
        mean, scale = x[train].mean((0, 1)), x[train].std((0, 1)) + 1e-9
        chosen = self.candidates == self.target[:, None]
        model = LogisticRegression(max_iter=1000)
        model.fit(((x[train] - mean) / scale).reshape(-1, x.shape[2]), chosen[train].ravel())
        out: np.ndarray = model.decision_function(((x[test] - mean) / scale).reshape(-1, x.shape[2]))
        return out.reshape(len(test), -1)

    def ranks(self, index: Int[np.ndarray, "n"], scores: Float[np.ndarray, "n letters"]) -> Int[np.ndarray, "n"]:
        """Rank of the target, 1 is best; ties in the order of the letters, which is random."""
        order = np.argsort(-scores, axis=1, kind="stable")
        ranked = np.take_along_axis(self.candidates[index], order, axis=1)
        out: np.ndarray = (ranked == self.target[index][:, None]).argmax(1) + 1
        return out


def hit_rates(ranks: Int[np.ndarray, "n"]) -> dict[str, float]:
    """HR@1, HR@3, HR@5 and their mean; a rank of 0 stands for an answer that is none."""
    there = ranks > 0
    rates = {f"hr@{k}": float((there & (ranks <= k)).mean()) for k in (1, 3, 5)}
    return {**rates, "hr": float(np.mean(list(rates.values())))}
