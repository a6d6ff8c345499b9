"""School for a small language model: it learns to read lists of candidates before it learns to recommend.

STAR starts from a model of some billion weights that can read. Ours starts from nothing, so it first answers drills
about made-up prompts: which candidates are in a topic, have a selling point, address whom, which of some listed ads
are candidates, which are in the first two of three counted topics, what was clicked last, and who has the most
mentions in some lists. Drills use none of the tags of a trajectory, no person, no world and no outcome; behind the
drills one tag gets the vector of the word that stands in its place there. All of this is our choice. There is one
reader, as there is one Qwen in the paper: every student of every seed starts from it.

What helps it to learn in minutes is where its weights start; as `TinyLM` starts, it had learnt nothing in hundreds of
steps. Queries and keys start with equal weights, so that equal words find each other from the first step on (after
"mimetic" initialisation, Trockman & Kolter, 2023), and one head starts by looking at the word before: together the two
halves of an induction head (Olsson et al., 2022), with which a list is copied.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from reclib.experiments.ranking_tasks import MOST, ad_name, topics, vocabulary
from reclib.language import Example, LanguageModel, TinyLM, TinyLMConfig, completion_loss, pad
from reclib.language.supervised import CompletionBatch
from reclib.nn.sizes import check_at_least
from reclib.reasoning.mars import OTHERS, listing
from reclib.reasoning.trajectory import LETTERS, STOP, Candidate, write_prompt
from reclib.training import FitConfig, fit
from reclib.world import words

SKILLS = ("in", "has", "for", "among", "long", "last", "count")
PER_DRILL = ("in", "has", "for", "among", "among", "among", "long", "last", "count", "count", "count")
WORD, PLACE, SHARP = 0.125, 0.08, 1.2  # standard deviations of words and positions, and scale of queries and keys
BEFORE = (2.8, 2.4, 1.9, 1.5, 1.1, 0.7, 0.35, 0.15)  # radians per word, by which the word before is found


NAMED = {"<recommend>": "are"}  # a tag, and the word of the drills whose vector it starts with


@dataclass(frozen=True)
class ReaderConfig:
    """The reader and its training."""

    model: TinyLMConfig = TinyLMConfig(dim=64, layers=2, heads=4, context=384)  # noqa: RUF009 (frozen)
    steps: int = 3_200
    batch_size: int = 32
    lr: float = 3e-3  # peak
    recent: int = 5  # clicks that a prompt has room for
    listed: int = 6  # ads in a list
    seed: int = 1000  # of weights and drills

    def __post_init__(self) -> None:
        check_at_least(2 * len(BEFORE) + 2, dim=self.model.dim)
        check_at_least(1, steps=self.steps, batch_size=self.batch_size, recent=self.recent, listed=self.listed)


class Line(NamedTuple):
    """A question and its answer."""

    question: str
    answer: str


def drill_line(
    skill: str,
    recent: Sequence[tuple[str, str]],
    candidates: Sequence[Candidate],
    others: Sequence[str],
    listed: int,
    rng: np.random.Generator,
) -> Line:
    """A random line about a prompt.

    Args:
        skill: one of `SKILLS`.
        recent, candidates: of the prompt.
        others: names of ads that are no candidates, as many as a list is long.
        listed: ads in a list.
        rng: of the question.
    """

    def pick(options: Sequence[str]) -> str:
        return options[int(rng.integers(len(options)))]

    if skill == "in":
        asked = pick([c.topic for c in candidates])
        named = listing(asked, [c.letter for c in candidates if c.topic == asked])
    elif skill == "has":
        asked = pick(words.SELLING_POINTS)
        named = listing(asked, [c.letter for c in candidates if c.selling == asked])
    elif skill == "for":
        asked = pick(tuple(OTHERS.values()))
        named = listing(asked, [c.letter for c in candidates if c.audience == asked])
    elif skill == "last":
        return Line("last", " ".join(recent[-1]))
    elif skill == "long":
        counted = [topics()[i] for i in rng.permutation(len(topics()))[:3]]
        times = sorted(rng.integers(1, 9, 3).tolist(), reverse=True)
        said = [str(word) for pair in zip(counted, times, strict=True) for word in pair]
        lists = [listing(topic, [c.letter for c in candidates if c.topic == topic]) for topic in counted[:2]]
        return Line(" ".join(["long", *said, "are"]), " ".join(lists[0] + lists[1]))
    elif skill == "among":
        inside = [candidates[i] for i in rng.permutation(len(candidates))[: int(rng.integers(0, listed + 1))]]
        pairs = [(c.ad, c.letter) for c in inside] + [(ad, STOP) for ad in others[: listed - len(inside)]]
        pairs = [pairs[i] for i in rng.permutation(len(pairs))]
        return Line(
            " ".join(["among", *(ad for ad, _ in pairs), "are"]), " ".join(word for pair in pairs for word in pair)
        )
    elif skill == "count":
        lists = [
            sorted(rng.choice(LETTERS, int(rng.integers(1, 5)), replace=False).tolist())
            for _ in range(int(rng.integers(2, 5)))
        ]
        mentions = Counter(letter for part in lists for letter in part)
        best = sorted(LETTERS, key=lambda letter: -mentions[letter])[:5]
        notes = [word for part in lists for word in listing(pick(topics()), part)]
        return Line(" ".join(["count", *notes, "are"]), " ".join([*best, *(one for one in LETTERS if one not in best)]))
    else:
        raise ValueError(f"skill: {skill!r} is unknown; use one of {', '.join(SKILLS)}")
    return Line(f"{skill} {asked}", " ".join(named[1:]))  # the question has said the first word


def drill(model: LanguageModel, config: ReaderConfig, rng: np.random.Generator) -> tuple[Example, list[str]]:
    """A made-up prompt and lines about it in random order; only answers, and the word behind them, are learnt.

    Returns:
        the example, and for each of its tokens the skill it tests ("" for none).
    """
    known = topics()
    n = len(LETTERS) + config.recent + config.listed
    drawn = rng.choice(len(known) * MOST, n, replace=False)
    ads = [(ad_name(known[i // MOST], i % MOST + 1), known[i // MOST]) for i in drawn.tolist()]
    addressed = ["", *(f"-{people}" for people in OTHERS.values())]
    selling, audience = rng.integers(len(words.SELLING_POINTS), size=n), rng.choice(3, n, p=[0.6, 0.2, 0.2])
    candidates = [
        Candidate(letter, ad, topic, words.SELLING_POINTS[s] + addressed[a])
        for letter, (ad, topic), s, a in zip(LETTERS, ads[: len(LETTERS)], selling, audience, strict=False)
    ]
    recent = ads[len(LETTERS) : len(LETTERS) + int(rng.integers(1, config.recent + 1))]
    ids = model.encode(write_prompt(recent, candidates, config.recent))
    skills = [""] * len(ids)
    others = [ad for ad, _ in ads[-config.listed :]]
    for skill in rng.permutation(PER_DRILL).tolist():
        line = drill_line(skill, recent, candidates, others, config.listed, rng)
        question, answer = model.encode(line.question), model.encode(line.answer + " next")
        if len(ids) + len(question) + len(answer) >= config.model.context:
            break  # a line that would not fit is left out
        ids += question + answer
        skills += [""] * len(question) + [skill] * len(answer)
    return Example([*ids, model.end_id], [*(skill != "" for skill in skills), False]), [*skills, ""]


class Drills:
    """Batches of drills, made as they are needed; `Batches` of `reclib.training.fit`, one epoch long."""

    def __init__(self, model: LanguageModel, config: ReaderConfig) -> None:
        self.model, self.config = model, config

    def epoch(self, epoch: int, rank: int = 0, world_size: int = 1) -> Iterator[CompletionBatch]:
        """All steps."""
        for step in range(self.config.steps):
            rng = np.random.default_rng([self.config.seed, epoch, step])
            texts = [drill(self.model, self.config, rng)[0] for _ in range(self.config.batch_size)]
            ids, mask = pad([text.ids for text in texts])
            learnt, _ = pad([text.learnt for text in texts])
            yield CompletionBatch(*(part[rank::world_size] for part in (ids, mask, learnt.bool())))

    def steps(self, epoch: int) -> int:
        """Batches in an epoch."""
        return self.config.steps


def new_reader(config: ReaderConfig) -> TinyLM:
    """An untrained reader whose attention looks for equal words, and in one head for the word before.

    The first 16 numbers of a vector are kept free of words: there positions have sines and cosines of the frequencies
    `BEFORE`, and the first head of the first block turns them by one step.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = TinyLM(vocabulary(), config.model)
        torch.nn.init.normal_(model.tokens.weight, std=WORD)
    dim, free = config.model.dim, 2 * len(BEFORE)
    place = torch.arange(config.model.context)[:, None]
    slow = torch.exp(-torch.arange(0, dim - free, 2) * (math.log(1000.0) / (dim - free)))
    with torch.no_grad():
        model.tokens.weight[:, :free] = 0.0
        model.positions.weight[:, :free] = WORD * math.sqrt(2) * _waves(place, torch.tensor(BEFORE))
        model.positions.weight[:, free:] = PLACE * math.sqrt(2) * _waves(place, slow)
        for name, weight in model.named_parameters():
            if name.endswith("qkv.weight"):  # rows of queries, of keys, of values
                weight[:dim] *= SHARP
                weight[:dim, :free] = 0.0
                weight[dim : 2 * dim] = weight[:dim]
        if dim // config.model.heads >= free:
            first = model.get_parameter("blocks.0.qkv.weight")
            first[:free], first[dim : dim + free] = 0.0, 0.0
            first[:free, :free] = 1.6 * _one_back(torch.tensor(BEFORE))
            first[dim : dim + free, :free] = 1.6 * torch.eye(free)
    return model


def _waves(place: Tensor, frequency: Tensor) -> Tensor:
    """Sines, then cosines, of each frequency (Vaswani et al., 2017)."""
    return torch.cat([(place * frequency).sin(), (place * frequency).cos()], 1)


def _one_back(frequency: Tensor) -> Tensor:
    """The matrix that turns the waves of a place into those of the place before."""
    cos, sin = torch.diag(frequency.cos()), torch.diag(frequency.sin())
    return torch.cat([torch.cat([cos, -sin], 1), torch.cat([sin, cos], 1)])


def train_reader(config: ReaderConfig, *, progress: bool = True) -> TinyLM:
    """A language model that can read prompts."""
    model = new_reader(config)
    fit(
        model, Drills(model, config), completion_loss, FitConfig(epochs=1, lr=config.lr, seed=config.seed),
        progress=progress,
    )  # fmt: skip
    return name_tags(model).eval()


def name_tags(model: TinyLM) -> TinyLM:
    """Give a tag the vector of the word that stands in its place in drills, in place.

    A large model knows what the word "recommend" means; ours knows that behind "are" comes a ranking.
    """
    with torch.no_grad():
        for tag, word in NAMED.items():
            model.tokens.weight[model.encode(tag)[0]] = model.tokens.weight[model.encode(word)[0]]
    return model


@torch.no_grad()
def reading_quality(model: TinyLM, config: ReaderConfig, n: int, seed: int = 0) -> dict[str, float]:
    """Share of words of the answers to `n` new drills that the model gets right, by skill and over all."""
    rng = np.random.default_rng([seed, 31])
    right: defaultdict[str, list[bool]] = defaultdict(list)
    for _ in range(n):
        text, skills = drill(model, config, rng)
        logits, _ = model(torch.tensor([text.ids[:-1]]))
        hit = logits[0].argmax(-1) == torch.tensor(text.ids[1:])
        for skill, learnt, same in zip(skills[1:], text.learnt[1:], hit.tolist(), strict=True):
            if learnt:
                right[skill].append(same)
    shares = {skill: float(np.mean(right[skill])) for skill in SKILLS}
    return {**shares, "drills": float(np.mean(sum(right.values(), [])))}  # noqa: RUF017 (five short lists)
