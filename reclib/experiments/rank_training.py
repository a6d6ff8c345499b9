"""Models of chapter 09 and their training: a reader, its cold start, rankers that think or do not, a list-wise reader.

The paper starts from a language model that can read. Ours starts from nothing, so it first does *drills*: it answers
questions about random pairs, one finding each, in random order. That gives reading, and neither a rationale nor any
knowledge of what people click. The cold start then teaches rationales, from few and partly wrong examples.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from reclib.experiments.rationales import (
    FINDINGS,
    LETTERS,
    TAG,
    Candidates,
    Reading,
    draw_lists,
    mistaken,
    prompt,
    rationale,
    read_rationale,
    true_findings,
    vocabulary,
)
from reclib.language import CompletionBatches, Example, TinyLM, TinyLMConfig, completion_loss, example, pad
from reclib.reasoning.plackett_luce import exact_ranking_loss, ndcg_of_scores, softmax_ranking_loss
from reclib.reasoning.reasoning_to_rank import (
    AnswerToRank,
    Credit,
    Kept,
    Lists,
    RankingStep,
    RankTraining,
    Rationales,
    ReasoningToRank,
    ReasoningToRankConfig,
    SilentToRank,
    encode_lists,
    item_credit,
    kept_rationales,
    learn_to_rank,
    read_answer,
    shared_credit,
)
from reclib.training import FitConfig, fit


@dataclass(frozen=True)
class ThinkerConfig:
    """How a language model comes to write rationales, and how a ranker learns."""

    model: TinyLMConfig = TinyLMConfig(dim=64, layers=3, heads=4, context=160)  # noqa: RUF009 (frozen)
    drills: int = 100_000  # texts of the reader
    questions: int = 4  # findings asked about in a drill
    batch_size: int = 32
    lr: float = 3e-3  # peak, of the reader; a third of it afterwards
    taught: int = 10_000  # rationales that a teacher writes, half of them about clicked ads [code: about 10,000]
    kept: tuple[int, int] = (1_000, 2_000)  # at most, with yes and with no [code]
    noise: float = 0.2  # chance that the teacher gets a finding wrong
    sft_epochs: int = 4
    method: ReasoningToRankConfig = ReasoningToRankConfig(max_new=26, hidden=256, beta=0.02)  # noqa: RUF009 (frozen)
    training: RankTraining = RankTraining(steps=150, lists=4, lr=3e-3, model_lr=1e-4)  # noqa: RUF009 (frozen)
    list_texts: int = 16_000  # lists shown to the list-wise reader


# ------------------------------------------------------------------ a reader, and its cold start


def random_pairs(
    reading: Reading, n: int, rng: np.random.Generator
) -> tuple[Int[np.ndarray, "n"], Int[np.ndarray, "n"], Int[np.ndarray, "n 6"]]:
    """Users, ads and findings: half of the pairs at random, half of an ad that the user may click."""
    user = rng.choice(reading.train_users, n)
    item = rng.integers(1, reading.world.config.n_items + 1, size=n)
    liked = draw_lists(reading.world, user[: n // 2], 2, rng)
    item[: n // 2] = liked.items[np.arange(n // 2), liked.positive]
    order = rng.permutation(n)
    user, item = user[order], item[order]
    return user, item, true_findings(reading.world, user, item)


def drills(reading: Reading, config: ThinkerConfig, model: TinyLM, seed: int) -> list[Example]:
    """Questions about random pairs; only the answers are learnt."""
    rng = np.random.default_rng([91, seed])
    user, item, found = random_pairs(reading, config.drills, rng)
    asked = rng.permuted(np.tile(np.arange(len(FINDINGS)), (len(user), 1)), axis=1)[:, : config.questions]
    texts = []
    for u, i, values, questions in zip(user, item, found, asked, strict=True):
        ids = model.encode(prompt(reading.users[u], reading.ads[i - 1]))
        learnt = [False] * len(ids)
        for name, answer in ((FINDINGS[k], _answer(int(k), int(values[k]), reading.after[u])) for k in questions):
            words = model.encode(answer)
            ids += [*model.encode(name), *words]
            learnt += [False] + [True] * len(words)
        texts.append(Example(ids, learnt))
    return texts


def _answer(finding: int, value: int, after: str) -> str:
    if finding < 3:
        return (("differs", "fits"), ("differs", "near", "fits"), ("differs", "fits"))[finding][value]
    return f"{after} {('no', 'yes')[value]}" if FINDINGS[finding] == "next" else ("no", "yes")[value]


def train_reader(reading: Reading, config: ThinkerConfig, seed: int, *, progress: bool = True) -> TinyLM:
    """A language model that can read texts of this world and answer drills."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = TinyLM(vocabulary(), config.model)
    batches = CompletionBatches(drills(reading, config, model, seed), batch_size=config.batch_size, seed=seed)
    fit(model, batches, completion_loss, FitConfig(epochs=1, lr=config.lr, seed=seed), progress=progress)
    return model.eval()


class Lessons(NamedTuple):
    """What a teacher has written, and what the filter keeps of it."""

    user: Int[np.ndarray, "n"]
    item: Int[np.ndarray, "n"]
    texts: list[str]
    clicked: list[bool]
    true: Int[np.ndarray, "n 6"]
    kept: Kept


def teach(reading: Reading, config: ThinkerConfig, seed: int) -> Lessons:
    """Rationales by the rule from findings that are partly wrong; kept if their answer is what happened."""
    rng = np.random.default_rng([92, seed])
    half = config.taught // 2
    lists = draw_lists(reading.world, rng.choice(reading.train_users, half), 2, rng)
    user = np.repeat(lists.user, 2)
    item, clicked = lists.items.reshape(-1), np.zeros((half, 2), dtype=bool)
    clicked[np.arange(half), lists.positive] = True
    true = true_findings(reading.world, user, item)
    noted = mistaken(true, config.noise, rng)
    texts = [rationale(found, reading.after[u]) for u, found in zip(user, noted, strict=True)]
    label = clicked.reshape(-1).tolist()
    return Lessons(user, item, texts, label, true, kept_rationales(texts, label, config.kept))


def cold_start(
    reader: TinyLM, reading: Reading, lessons: Lessons, config: ThinkerConfig, seed: int, *, progress: bool = True
) -> TinyLM:
    """SFT: the reader learns to write the rationales that were kept."""
    model = copy.deepcopy(reader)
    texts = [
        example(model, prompt(reading.users[lessons.user[i]], reading.ads[lessons.item[i] - 1]), lessons.texts[i])
        for i in lessons.kept.rows
    ]
    batches = CompletionBatches(texts, batch_size=config.batch_size, seed=seed)
    settings = FitConfig(epochs=config.sft_epochs, lr=config.lr / 3, seed=seed)
    fit(model, batches, completion_loss, settings, progress=progress)
    return model.eval()


# ------------------------------------------------------------------ rankers


class Arm(NamedTuple):
    """How a ranker is put together and trained."""

    start: str = "sft"  # or "reader"
    filler: int | None = None  # None: thinks; else so many dummy tokens stand in the place of a rationale
    head: bool = True  # learns
    model: bool = True  # learns
    credit: Credit = shared_credit
    tau: float = 1.0
    entropy: float | None = None  # None: as configured
    longer: int = 1  # times as many steps


DUMMY = 22  # tokens of a rationale and its end
ARMS: dict[str, Arm] = {
    "joint": Arm(),
    "item credit": Arm(credit=item_credit),
    "head only": Arm(model=False),
    "lm only": Arm(head=False),
    "no sft": Arm(start="reader"),
    "no reasoning": Arm(filler=0),
    "dummy tokens": Arm(filler=DUMMY),
    "no reasoning, equal time": Arm(filler=0, longer=8),
    "no entropy": Arm(entropy=0.0),
    "τ = .3": Arm(tau=0.3),
    "τ = 3": Arm(tau=3.0),
}


def build(arm: Arm, model: TinyLM, config: ThinkerConfig, seed: int) -> ReasoningToRank:
    """A ranker on a copy of the model; every arm's head starts from the same weights."""
    method = replace(config.method, tau=arm.tau, entropy=config.method.entropy if arm.entropy is None else arm.entropy)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if arm.filler is None:
            return ReasoningToRank(copy.deepcopy(model), method)
        return SilentToRank(copy.deepcopy(model), method, filler=model.encode(" ".join(["pad"] * arm.filler)))


def train_ranker(
    arm: Arm, model: TinyLM, lists: Lists, config: ThinkerConfig, seed: int
) -> tuple[ReasoningToRank, list[dict[str, float]]]:
    """A ranker after training, and what was seen at every step: reward, entropy, length, runaway, clipped."""
    ranker, t = build(arm, model, config, seed), config.training
    t = replace(t, steps=t.steps * arm.longer, lr=t.lr if arm.head else 0.0, model_lr=t.model_lr if arm.model else 0.0)
    seen: list[dict[str, float]] = []

    def watch(step: int, found: RankingStep, rationales: Rationales) -> None:
        seen.append(
            {
                "reward": float(found.reward.mean()),
                "entropy": float(found.entropy),
                "length": float(rationales.there.sum(1).float().mean()),
                "runaway": rationales.runaway_share,
            }
        )

    learn_to_rank(ranker, lists, t, seed=seed, credit=arm.credit, reference=model, watch=watch)
    return ranker, seen


def encoded(model: TinyLM, reading: Reading, lists: Candidates) -> Lists:
    """Lists as tokens."""
    return encode_lists(model, reading.prompts(lists), lists.positive.tolist())


def yes_or_no(model: TinyLM, config: ThinkerConfig) -> AnswerToRank:
    """The baseline that ranks by log π(yes) - log π(no) of a model after SFT."""
    tag, yes, no = (model.encode(word)[0] for word in (TAG, "yes", "no"))
    return AnswerToRank(copy.deepcopy(model), config.method, tag=tag, yes=yes, no=no)


LOSSES = {"exact": lambda s, p: exact_ranking_loss(s, p, 10), "softmax": softmax_ranking_loss}


def train_by_loss(ranker: ReasoningToRank, lists: Lists, training: RankTraining, seed: int, loss: str) -> None:
    """In place, without any draw of rankings: by the exact expectation of NDCG@10, or by softmax cross-entropy.

    Rationales, if there are any, are greedy and not learnt; the language model learns through h where its rate is
    positive.
    """
    if loss not in LOSSES:
        raise ValueError(f"loss: there is no {loss!r}; choose from {', '.join(LOSSES)}")
    generator, t = torch.Generator().manual_seed(seed), training
    ranker.model.requires_grad_(t.model_lr > 0)
    groups: list[dict[str, Any]] = [{"params": list(ranker.head.parameters()), "lr": t.lr}]
    if t.model_lr > 0:
        groups.append({"params": list(ranker.model.parameters()), "lr": t.model_lr})
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
    weights = [weight for group in groups for weight in group["params"]]
    for _ in range(t.steps):
        batch = lists.take(torch.randint(len(lists.positive), (t.lists,), generator=generator))
        ids, mask = batch.ids.flatten(0, 1), batch.mask.flatten(0, 1)
        with torch.no_grad():
            thought = ranker.think(ids, mask, temperature=0.0)
        scores = ranker.read(ids, mask, thought).scores.view(batch.ids.shape[:2])
        optimizer.zero_grad()
        torch.autograd.backward(LOSSES[loss](scores, batch.positive).mean())
        nn.utils.clip_grad_norm_(weights, t.clip_norm)
        optimizer.step()


# ------------------------------------------------------------------ what a ranker is worth


@torch.no_grad()
def ranking_quality(ranker: ReasoningToRank, reading: Reading, lists: Candidates) -> dict[str, float]:
    """NDCG@10 and HR@1 on lists, and of the rationales: true findings, answers that are what happened, their form.

    `ndcg@10/shuffled`: every ad is scored by the rationale of another ad of its list. `law`: mean distance between
    what the scores say of each ad's chance (softmax) and its true chance, summed over a list and halved.
    """
    coded = encoded(ranker.model, reading, lists)
    scores, thought = ranker.score(coded)
    found = list_quality(scores, lists)
    if not bool(thought.drawn.any()):
        return found
    flat = lists.items.size
    order = torch.arange(flat).view(lists.items.shape).roll(1, dims=1).flatten()
    shuffled = Rationales(*(part[order] for part in thought))
    ids, mask = coded.ids.flatten(0, 1), coded.mask.flatten(0, 1)
    parts = [
        ranker.read(ids[rows], mask[rows], Rationales(*(part[rows] for part in shuffled))).scores
        for rows in (slice(first, first + 400) for first in range(0, flat, 400))
    ]
    found["ndcg@10/shuffled"] = list_quality(torch.cat(parts).view(scores.shape), lists)["ndcg@10"]
    return found | rationale_quality(ranker.model, reading, lists, thought)


def list_quality(scores: Float[Tensor, "lists items"], lists: Candidates) -> dict[str, float]:
    """NDCG@10, HR@1 and the distance from the true chances."""
    positive = torch.from_numpy(lists.positive)
    law = torch.from_numpy(lists.law / lists.law.sum(1, keepdims=True))
    said = scores.double().softmax(-1)
    return {
        "ndcg@10": float(ndcg_of_scores(scores, positive, 10).mean()),
        "hr@1": float(ndcg_of_scores(scores, positive, 1).mean()),
        "law": float((said - law).abs().sum(1).mean() / 2),
    }


def rationale_quality(model: TinyLM, reading: Reading, lists: Candidates, thought: Rationales) -> dict[str, float]:
    """`findings`: share that is true; `answered`: has a yes or no; `right`: and it is what happened; `runaway`."""
    user = np.repeat(lists.user, lists.items.shape[1])
    truth = true_findings(reading.world, user, lists.items.flatten())
    clicked = (np.arange(lists.items.shape[1]) == lists.positive[:, None]).flatten()
    right, answers = [], []
    for ids, there, u, values in zip(thought.ids, thought.there, user, truth, strict=True):
        text = model.decode(ids[there])
        said = read_rationale(text, reading.after[u])
        right.append([s == v for s, v in zip(said, values, strict=True)])
        answers.append(read_answer(text, TAG))
    share = np.array(right).mean(0)
    answered = np.array([answer is not None for answer in answers])
    agrees = np.array([answer == happened for answer, happened in zip(answers, clicked.tolist(), strict=True)])
    return {
        "findings": float(share.mean()),
        "findings/next": float(share[FINDINGS.index("next")]),
        "answered": float(answered.mean()),
        "right": float(agrees.mean()),
        "length": float(thought.there.sum(1).float().mean()),
        "runaway": thought.runaway_share,
    }


# ------------------------------------------------------------------ a model that reads whole lists


def list_prompt(reading: Reading, user: int, items: Sequence[int]) -> str:
    """The note, and every candidate behind its letter."""
    ads = " ".join(f"<{letter}> {reading.ads[item - 1]}" for letter, item in zip(LETTERS, items, strict=False))
    return f"{reading.users[user]} | {ads} :"


def train_lister(
    reader: TinyLM, reading: Reading, config: ThinkerConfig, seed: int, *, progress: bool = True
) -> TinyLM:
    """A list-wise ranker: the reader learns to name the letter of the ad that was clicked."""
    rng, model = np.random.default_rng([93, seed]), copy.deepcopy(reader)
    size = reading.train.items.shape[1]
    lists = draw_lists(reading.world, rng.choice(reading.train_users, config.list_texts), size, rng)
    texts = [
        example(model, list_prompt(reading, user, items), f"<{LETTERS[place]}>")
        for user, items, place in zip(lists.user.tolist(), lists.items.tolist(), lists.positive, strict=True)
    ]
    batches = CompletionBatches(texts, batch_size=config.batch_size, seed=seed)
    fit(model, batches, completion_loss, FitConfig(epochs=1, lr=config.lr / 3, seed=seed), progress=progress)
    return model.eval()


@torch.no_grad()
def list_scores(
    model: TinyLM, reading: Reading, user: Int[np.ndarray, "lists"], items: Int[np.ndarray, "lists items"]
) -> Float[Tensor, "lists items"]:
    """Log-probability of each candidate's letter."""
    size = items.shape[1]
    letters = torch.tensor([model.encode(f"<{letter}>")[0] for letter in LETTERS[:size]])
    parts = []
    for first in range(0, len(user), 100):
        rows = slice(first, first + 100)
        ids, mask = pad(
            [
                model.encode(list_prompt(reading, u, row))
                for u, row in zip(user[rows].tolist(), items[rows].tolist(), strict=True)
            ]
        )
        logits, _ = model(ids, mask)
        parts.append(logits[torch.arange(len(ids)), mask.sum(1) - 1][:, letters].log_softmax(-1))
    return torch.cat(parts)


def order_dependence(score: Any, lists: Candidates, shuffles: int, rng: np.random.Generator) -> dict[str, float]:
    """How much a ranker's answer depends on the order in which candidates are shown.

    `ndcg deviation`: mean over lists of the standard deviation of NDCG@10 over shuffles; `first changes`: share of the
    shuffles in which another ad is first than in the first shuffle; `first place`: share of the lists in which the
    candidate shown first is ranked first (1 / items without a bias).

    Args:
        score: (user, items) -> scores, higher is better.
        lists: to shuffle.
        shuffles: orders per list, 2 at least.
        rng: of the orders.
    """
    values, best, shown_first = [], [], []
    for _ in range(shuffles):
        order = rng.permuted(np.tile(np.arange(lists.items.shape[1]), (len(lists.user), 1)), axis=1)
        items = np.take_along_axis(lists.items, order, axis=1)
        place = (order == lists.positive[:, None]).argmax(1)
        scores = score(lists.user, items)
        values.append(ndcg_of_scores(scores, torch.from_numpy(place), 10))
        first = scores.argmax(1).numpy()
        best.append(items[np.arange(len(items)), first])
        shown_first.append(first == 0)
    return {
        "ndcg@10": float(torch.stack(values).mean()),
        "ndcg deviation": float(torch.stack(values).std(0).mean()),
        "first changes": float(np.mean([other != best[0] for other in best[1:]])),
        "first place": float(np.mean(shown_first)),
    }


def pair_scores(ranker: ReasoningToRank, reading: Reading) -> Any:
    """`order_dependence`'s `score` of a ranker that sees one pair at a time."""

    def score(user: Int[np.ndarray, "lists"], items: Int[np.ndarray, "lists items"]) -> Tensor:
        blank = Candidates(user, items, np.zeros(len(user), dtype=np.int64), np.ones(items.shape))
        return ranker.score(encoded(ranker.model, reading, blank))[0]

    return score


class Regression(nn.Module):
    """The control that is handed the true findings: one weight per value, learnt by softmax cross-entropy."""

    def __init__(self, reading: Reading) -> None:
        """Fit on the lists to learn from, with L-BFGS."""
        super().__init__()
        x = self.one_hot(reading, reading.train)
        self.weight = nn.Parameter(torch.zeros(x.shape[-1], dtype=torch.float64))
        optimizer = torch.optim.LBFGS([self.weight], max_iter=100)
        positive = torch.from_numpy(reading.train.positive)

        def closure() -> float:
            optimizer.zero_grad()
            loss = softmax_ranking_loss(x @ self.weight, positive).mean()
            torch.autograd.backward(loss)
            return float(loss.detach())

        optimizer.step(closure)  # type: ignore[no-untyped-call]

    @staticmethod
    def one_hot(reading: Reading, lists: Candidates) -> Float[Tensor, "lists items values"]:
        """Findings of lists, each as an indicator of its values."""
        user = np.broadcast_to(lists.user[:, None], lists.items.shape)
        found = torch.from_numpy(true_findings(reading.world, user, lists.items))
        return torch.cat([(found[..., k, None] == torch.arange(1, 3)).double() for k in range(len(FINDINGS))], dim=-1)

    @torch.no_grad()
    def score(self, reading: Reading, lists: Candidates) -> Float[Tensor, "lists items"]:
        """Scores of lists."""
        return self.one_hot(reading, lists) @ self.weight
