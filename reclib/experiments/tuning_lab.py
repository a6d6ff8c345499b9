"""Where a generator is fine-tuned by reinforcement: a log, its generator, prompts, and rewards of candidates.

In the ad world every candidate's true expected revenue is known, so that a reward need not be a click on the one ad
that was logged. On a real log it has to be.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file, save_file
from torch import Tensor

from reclib.data import load_dataset
from reclib.data.interactions import Cases, Interactions, Split
from reclib.experiments.generative import GenerativeRecipe, TokenizerRecipe, item_vectors, train_generator
from reclib.experiments.group_searches import Question
from reclib.experiments.protocol import Recipe
from reclib.generation import DecoderOnly, DecoderOnlyConfig, EncoderDecoder, GenerativeRecommender, SemanticIdTrie
from reclib.objectives.vstar import BucketReward, DecodingConfig, ItemReward, VStarConfig, ranking_reward
from reclib.tokenizers import RQKMeans, RQKMeansConfig, SemanticIds
from reclib.world import AdWorld, AdWorldConfig

WORLD = "adworld"

# ------------------------------------------------------------------------------------------------- the laboratory

_CODES = RQKMeansConfig(levels=2, codes=24)
_RECIPE = GenerativeRecipe(
    max_len=10, layers=2, dropout=0.0, lr=5e-3, batch_size=32, epochs=8, valid_users=500, beam=50
)
_SASREC = Recipe(batch_size=32, epochs=6)
_DECODING, _LOSS = DecodingConfig(), VStarConfig()


@dataclass(frozen=True)
class Study:
    """A log, its generator, and how that is fine-tuned; one recipe for all arms."""

    dataset: str = WORLD  # or a name of reclib.data
    seeds: int = 5  # how many of the seeds asked for
    world: str = "book"  # preset of the ad world
    dials: tuple[tuple[str, float], ...] = (
        ("n_users", 2500),
        ("n_items", 1000),
        ("mean_events", 30),
        ("min_events", 15),
        ("sectors_per_industry", 2),
    )  # of the world, where they differ from the preset
    code: RQKMeansConfig = _CODES  # and a third level that tells items apart
    text_dim: int = 64  # of the TF-IDF vectors
    recipe: GenerativeRecipe = _RECIPE  # of the generator before fine-tuning
    sasrec: Recipe = _SASREC
    value_batches: int = 100  # groups that the value head learns from before fine-tuning begins, in batches …
    value_epochs: int = 5  # … and how often
    value_lr: float = 1e-2  # peak
    steps: int = 50  # batches of fine-tuning [2 epochs]
    prompts: int = 128  # of a batch [1,024]
    lr: float = 1e-4  # of the policy, peak, where clicks are rewarded [1e-5] …
    revenue_lr: float = 1e-3  # … and where revenue is
    head_lr: float = 1e-3  # of the value head, peak
    warmup: float = 0.03  # share of the steps [0.03]
    clip: float = 0.3  # longest gradient of the policy [0.3]
    decoding: DecodingConfig = _DECODING
    loss: VStarConfig = _LOSS
    looked_at: int = 256  # test cases of the studies of reach, value and policy
    budgets: tuple[int, ...] = (17, 34, 68, 136)  # of the study of reach


TINY = Study(
    world="tiny",
    dials=(),
    code=RQKMeansConfig(levels=2, codes=5),
    text_dim=8,
    recipe=GenerativeRecipe(max_len=6, dim=16, layers=1, heads=2, dropout=0.0, epochs=1, batch_size=64, beam=20),
    sasrec=Recipe(dim=16, epochs=1),
    value_batches=2,
    value_epochs=1,
    steps=2,
    prompts=16,
    decoding=replace(_DECODING, budget=21, leaves=8),
    looked_at=20,
    budgets=(17, 34),
)  # for tests


@dataclass(frozen=True, eq=False)
class Lab:
    """One seed's log and everything that all arms share."""

    world: AdWorld | None  # None: a real log, of which only the clicks are known
    split: Split
    ids: SemanticIds
    trie: SemanticIdTrie
    policy: DecoderOnly  # after supervised training
    bucket: BucketReward
    item: ItemReward
    prompts: Cases  # training events as questions

    @property
    def leaf_item(self) -> Int[Tensor, "leaves"]:
        """The item of each leaf."""
        return self.trie.items[self.trie.first]

    @property
    def truth(self) -> AdWorld:
        """The world, for whoever needs the truth."""
        if self.world is None:
            raise ValueError("lab: of a real log; true chances and revenues are known in the ad world only")
        return self.world


def make_world(study: Study, seed: int) -> AdWorld:
    """Each seed is a world of its own."""
    return AdWorld(AdWorldConfig.preset(study.world, seed=seed, **dict(study.dials)))


def item_features(
    study: Study, world: AdWorld | None, train_log: Interactions, seed: int
) -> Float[Tensor, "items dim"]:
    """What can be seen of an item: its text, and an ad's picture too, with equal variance."""
    parts = [item_vectors(train_log, TokenizerRecipe(dim=study.text_dim), seed)]
    if world is not None:
        picture = torch.from_numpy(world.catalogue.image[1:]).float()
        parts.append(picture - picture.mean(0))
    return torch.cat([part / part.std(0).norm() for part in parts], dim=1)


def semantic_ids(study: Study, features: Float[Tensor, "items dim"], seed: int) -> SemanticIds:
    """RQ-KMeans, and TIGER's last level: a sequence per item."""
    return RQKMeans(replace(study.code, seed=seed)).fit(features).encode(features).deduplicated()


class Start(NamedTuple):
    """A trained generator and the codes it writes."""

    ids: SemanticIds
    policy: DecoderOnly


def prepare(
    study: Study, seed: int, *, start: Start | None = None, checkpoint: Path | None = None, progress: bool = True
) -> Lab:
    """Simulate or load, tokenize, train the generator (or take one that is trained)."""
    world = make_world(study, seed) if study.dataset == WORLD else None
    log = world.simulate() if world else load_dataset(study.dataset)
    split = log.leave_one_out()
    features = item_features(study, world, split.train, seed)
    if start is None:
        ids = semantic_ids(study, features, seed)
        model, _ = train_generator(
            "tiger_decoder", ids, split, study.recipe, seed, checkpoint=checkpoint, progress=progress
        )
        assert isinstance(model.model, DecoderOnly)
        start = Start(ids, model.model)
    trie = SemanticIdTrie(start.ids)
    first, last = log.offsets[:-1], log.offsets[1:]
    event = np.arange(len(log))
    asked = np.flatnonzero((event > first[log.user]) & (event < last[log.user] - 2))  # the last two are held out
    prompts = Cases(log, start=first[log.user[asked]], target=asked)
    rewards = BucketReward(trie, features), ItemReward(trie, features)
    return Lab(world, split, start.ids, trie, start.policy.eval(), *rewards, prompts)


def save_start(start: Start, path: Path) -> None:
    """Weights and codes in one file: weights mean nothing without the codes that they were trained on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"codes": start.ids.codes, **start.policy.state_dict()}, path)


def load_start(study: Study, path: Path) -> Start:
    """What `save_start` wrote."""
    weights = load_file(path)
    codes = weights.pop("codes")
    sizes = (*[study.code.codes] * study.code.levels, int(codes[:, -1].max()) + 1)
    ids, r = SemanticIds(codes, sizes), study.recipe
    policy = DecoderOnly(ids, DecoderOnlyConfig(r.dim, r.layers, r.heads, r.dropout, r.max_len))
    policy.load_state_dict(weights)
    return Start(ids, policy)


def recommender(lab: Lab, policy: DecoderOnly | EncoderDecoder, study: Study) -> GenerativeRecommender:
    """A policy as it serves: plain beam search."""
    return GenerativeRecommender(policy, lab.ids, study.recipe.beam, skip_history=True)


# ------------------------------------------------------------------------------------------------------- prompts


class Prompts(NamedTuple):
    """A batch of questions."""

    history: Int[Tensor, "batch time"]  # the last items
    clicked: Int[Tensor, "batch life"]  # all items before
    target: Int[Tensor, "batch"]  # leaf of the trie
    event: np.ndarray  # of the log


def ask(lab: Lab, cases: Cases, rows: np.ndarray, max_len: int) -> Prompts:
    """Some cases as prompts."""
    short, life = cases.batch(rows, max_len), cases.batch(rows)
    return Prompts(short.history, life.history, lab.trie.leaf[short.target], cases.target[rows])


def some_questions(lab: Lab, study: Study) -> Prompts:
    """The same test cases for every look inside."""
    rows = np.random.default_rng(0).permutation(len(lab.split.test))[: study.looked_at]
    return ask(lab, lab.split.test, rows, study.recipe.max_len)


def question(lab: Lab, prompts: Prompts) -> Question:
    """A batch of prompts, as a search takes them."""
    return Question(lab.trie, prompts.history, prompts.clicked)


def tokens_of(lab: Lab, leaf: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape levels"]:
    """The tokens that spell these leaves."""
    return lab.ids.tokens[lab.leaf_item[leaf]]


def revenue_of_leaves(lab: Lab, event: np.ndarray) -> Float[Tensor, "n leaves"]:
    """True expected revenue of every ad at these moments, over that of the best one that was not clicked before."""
    world, items = lab.truth, np.tile(lab.leaf_item.numpy(), (len(event), 1))
    revenue = world.expected_revenue(None, items, event=event)
    clicked = world.truth.clicked(world.state(event=event))
    revenue[np.take_along_axis(clicked, items, 1)] = 0
    return torch.from_numpy(revenue / revenue.max(1, keepdims=True)).float()


def chance_of_leaves(lab: Lab, event: np.ndarray) -> Float[Tensor, "n leaves"]:
    """True chance of every ad to be the next click at these moments."""
    return torch.from_numpy(lab.truth.next_item_distribution(event=event)).float()[:, lab.leaf_item]


# ------------------------------------------------------------------------------------------------------- rewards


class Rewarded(NamedTuple):
    """Candidates, and behind them the target, as the losses see them."""

    rewards: Float[Tensor, "batch size"]  # of the candidates, for GRPO
    siblings: Float[Tensor, "batch size"]  # of the candidates, for their nodes
    dense: Float[Tensor, "batch more levels"]  # of candidates and target, for the value head


Reward = Callable[[Lab, Prompts, Int[Tensor, "batch size"]], Rewarded]


def exact(lab: Lab, prompts: Prompts, leaf: Int[Tensor, "batch size"]) -> Float[Tensor, "batch size"]:
    """1 for the item that was clicked."""
    return (leaf == prompts.target[:, None]).float()


def ranking(lab: Lab, prompts: Prompts, leaf: Int[Tensor, "batch size"]) -> Float[Tensor, "batch size"]:
    """Rule + NDCG."""
    return ranking_reward(leaf == prompts.target[:, None])


def graded(lab: Lab, prompts: Prompts, leaf: Int[Tensor, "batch size"]) -> Float[Tensor, "batch size"]:
    """w of the deepest level down to which the candidate agrees with the item that was clicked."""
    ancestors = lab.bucket.ancestors
    match = (ancestors[leaf] == ancestors[prompts.target][:, None]).long().sum(-1)
    weights = torch.cat([torch.zeros(1), lab.bucket.weights])
    return weights[match]


def click_reward(lab: Lab, prompts: Prompts, leaf: Int[Tensor, "batch size"]) -> Rewarded:
    """The paper's: a click on the logged item. Siblings are compared by exact hits, or they would be ±1 for nothing."""
    return _clicks(lab, prompts, leaf, exact(lab, prompts, leaf), lab.bucket)


def graded_reward(lab: Lab, prompts: Prompts, leaf: Int[Tensor, "batch size"]) -> Rewarded:
    """Siblings compared by how far they agree with the item that was clicked."""
    return _clicks(lab, prompts, leaf, graded(lab, prompts, leaf), lab.bucket)


def listed_reward(lab: Lab, prompts: Prompts, leaf: Int[Tensor, "batch size"]) -> Rewarded:
    """Siblings compared by the whole of rule + NDCG, as in the released code."""
    return _clicks(lab, prompts, leaf, ranking(lab, prompts, leaf), lab.bucket)


def whole_item_reward(lab: Lab, prompts: Prompts, leaf: Int[Tensor, "batch size"]) -> Rewarded:
    """The released code's dense reward: the complete item at every level."""
    return _clicks(lab, prompts, leaf, exact(lab, prompts, leaf), lab.item)


def _clicks(
    lab: Lab, prompts: Prompts, leaf: Int[Tensor, "batch size"], siblings: Tensor, dense: BucketReward
) -> Rewarded:
    every = torch.cat([leaf, prompts.target[:, None]], dim=1)
    return Rewarded(ranking(lab, prompts, leaf), siblings, dense(every, prompts.target))


REVENUE_UNIT = 4.0  # our choice: values then spread about as much as with clicks, so that λ and β weigh the same


def revenue_reward(lab: Lab, prompts: Prompts, leaf: Int[Tensor, "batch size"]) -> Rewarded:
    """True expected revenue, for everything; the value learns it from the last level."""
    every = torch.cat([leaf, prompts.target[:, None]], dim=1)
    revenue = REVENUE_UNIT * revenue_of_leaves(lab, prompts.event).gather(1, every)
    dense = torch.zeros(*every.shape, lab.trie.levels)
    dense[..., -1] = revenue
    return Rewarded(revenue[:, :-1], revenue[:, :-1], dense)
