"""Training the judge: a tiny language model on annotations of the ad world, then on its own answers.

Part A learns to reason and score from annotations (supervised), then from a reward for matching them (GRPO). Part B
starts as a copy of part A, learns the form of an answer from weights drawn at random, so that it begins without any
opinion, and then from pairwise preferences alone. Judges are trained in a world of their own and judged in others:
the texts say all there is to know, so what is learnt carries over.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from reclib.experiments.judged_ads import (
    Cases,
    Preferences,
    ad_texts,
    annotate,
    kinds,
    preferences,
    read_reasoning,
    reasoning,
    scores_of,
    true_cases,
    user_texts,
    vocabulary_words,
)
from reclib.language import CompletionBatches, Example, TinyLM, TinyLMConfig, Vocabulary, completion_loss, example, pad
from reclib.objectives.semantic_judge import (
    SCORES,
    WEIGHTS,
    GridWeigher,
    JudgeFormat,
    PersonalizedSemanticJudge,
    answer_step,
    pairwise_reward,
    preference_loss,
    score_reward,
)
from reclib.training import FitConfig, FitResult, fit
from reclib.world import AdWorld

FORM = JudgeFormat()
LONGEST = 32  # tokens of an answer: seven sentences of three words, one of them sometimes four, five for the scores


@dataclass(frozen=True)
class JudgeConfig:
    """How a judge is trained."""

    model: TinyLMConfig = TinyLMConfig(dim=64, layers=2, heads=4, context=128)  # noqa: RUF009 (frozen)
    annotations: int = 20_000  # of part A [20,000]
    noise: float = 0.1  # chance that an annotator gets a finding wrong
    texts: int = 200_000  # shown in supervised training, each annotation as often as it takes
    batch_size: int = 16
    lr: float = 3e-3  # peak, supervised
    grpo_steps: int = 100  # of part A, afterwards
    grpo_prompts: int = 32
    grpo_size: int = 4  # [reproduction: 4]
    grpo_lr: float = 1e-4
    form_texts: int = 12_800  # part B: answers without an opinion
    pair_steps: int = 300  # part B: updates …
    pair_prompts: int = 32  # … of so many preferences …
    pair_size: int = 8  # … with so many answers to each
    pair_lr: float = 3e-4
    beta: float = 0.04  # KL penalty of both [reproduction: .04]


class Deck(NamedTuple):
    """A world's texts and truth."""

    world: AdWorld
    users: list[str]
    ads: list[str]

    def prompts(self, cases: Cases) -> list[str]:
        """What part A reads."""
        return [FORM.score_prompt(self.users[u], self.ads[i - 1]) for u, i in zip(cases.user, cases.item, strict=True)]


def deck(world: AdWorld) -> Deck:
    """Texts of everybody and everything."""
    return Deck(world, user_texts(world, np.arange(world.config.n_users)), ad_texts(world))


def new_model(config: TinyLMConfig, seed: int) -> TinyLM:
    """An untrained model that knows every word of every world."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return TinyLM(Vocabulary(vocabulary_words(), special=[SCORES, WEIGHTS, *FORM.words()]), config)


def random_cases(world: AdWorld, n: int, rng: np.random.Generator) -> Cases:
    """Pairs to annotate: half at random, half of ads that a user may well want, or most answers would be the same."""
    user = rng.integers(world.config.n_users, size=n)
    item = rng.integers(1, world.config.n_items + 1, size=n)
    likely = rng.permutation(n)[: n // 2]
    who, back = np.unique(user[likely], return_inverse=True)
    ladder = world.next_item_distribution(who).cumsum(1)
    draw = rng.random(len(likely)) * ladder[back, -1]
    item[likely] = np.minimum((ladder[back] <= draw[:, None]).sum(1), world.config.n_items)
    return true_cases(world, user, item)


def annotated(cards: Deck, cases: Cases, labels: Int[np.ndarray, "pairs 7"], model: TinyLM) -> list[Example]:
    """Texts to learn from: the annotators' findings, and the scores that follow from them."""
    scores = scores_of(labels)
    return [
        example(model, prompt, FORM.score_answer(reasoning(cards.ads[item - 1], found), score.tolist()))
        for prompt, item, found, score in zip(cards.prompts(cases), cases.item, labels, scores, strict=True)
    ]


def train_scorer(cards: Deck, config: JudgeConfig, seed: int, *, progress: bool = True) -> tuple[TinyLM, FitResult]:
    """Part A, supervised."""
    rng = np.random.default_rng([12, seed])
    cases = random_cases(cards.world, config.annotations, rng)
    labels = annotate(cases.findings, config.noise, rng)
    model = new_model(config.model, seed)
    batches = CompletionBatches(annotated(cards, cases, labels, model), batch_size=config.batch_size, seed=seed)
    epochs = max(round(config.texts / config.annotations), 1)
    result = fit(model, batches, completion_loss, FitConfig(epochs=epochs, lr=config.lr, seed=seed), progress=progress)
    return model.eval(), result


def reward_scorer(
    model: TinyLM, cards: Deck, config: JudgeConfig, seed: int, *, progress: bool = True
) -> tuple[TinyLM, list[float]]:
    """Part A goes on with GRPO on the same annotators' labels; returns a new model and its rewards, 8 at most."""
    rng = np.random.default_rng([13, seed])
    cases = random_cases(cards.world, config.grpo_steps * config.grpo_prompts, rng)
    labels = scores_of(annotate(cases.findings, config.noise, rng))
    prompts = cards.prompts(cases)

    def step(learner: TinyLM, reference: TinyLM, number: int, generator: torch.Generator) -> tuple[Tensor, float]:
        rows = slice(number * config.grpo_prompts, (number + 1) * config.grpo_prompts)
        wanted = labels[rows]
        found = answer_step(
            learner, prompts[rows], lambda i, text: score_reward(FORM.read_scores(text), wanted[i].tolist(), FORM),
            size=config.grpo_size, max_new=LONGEST, generator=generator, reference=reference, beta=config.beta,
        )  # fmt: skip
        return found.loss, float(found.reward.mean())

    return _reinforced(model, step, config.grpo_steps, config.grpo_lr, seed, progress, "part A, GRPO")


def train_weigher(
    scorer: TinyLM, cards: Deck, pairs: Preferences, config: JudgeConfig, seed: int, *, progress: bool = True
) -> tuple[TinyLM, list[float]]:
    """Part B: a copy of part A, the form first, then pairwise RL on preferences; returns its rewards too.

    Scores are those that part A was taught, without the annotators' errors.
    """
    model, rng = copy.deepcopy(scorer), np.random.default_rng([14, seed])
    who = rng.integers(len(cards.users), size=config.form_texts)
    levels = rng.integers(len(FORM.levels), size=(config.form_texts, len(FORM.aspects)))
    texts = [
        example(model, FORM.weight_prompt(cards.users[u]), FORM.weight_answer(level.tolist()))
        for u, level in zip(who, levels, strict=True)
    ]
    batches = CompletionBatches(texts, batch_size=config.batch_size, seed=seed)
    fit(model, batches, completion_loss, FitConfig(epochs=1, lr=config.lr / 4, seed=seed), progress=progress)
    better, worse = pair_scores(cards.world, pairs)

    def step(learner: TinyLM, reference: TinyLM, number: int, generator: torch.Generator) -> tuple[Tensor, float]:
        rows = np.arange(number * config.pair_prompts, (number + 1) * config.pair_prompts) % len(pairs.user)
        one, other = better[rows], worse[rows]

        def reward(i: int, text: str) -> float:
            weights = FORM.read_weights(text)
            return 0.0 if weights is None else float(pairwise_reward(torch.tensor(weights), one[i], other[i]))

        found = answer_step(
            learner, [FORM.weight_prompt(cards.users[u]) for u in pairs.user[rows]], reward, size=config.pair_size,
            max_new=6, generator=generator, reference=reference, beta=config.beta,
        )  # fmt: skip
        return found.loss, float(found.reward.mean())

    return _reinforced(model.eval(), step, config.pair_steps, config.pair_lr, seed, progress, "part B, pairwise RL")


Step = Callable[[TinyLM, TinyLM, int, torch.Generator], tuple[Tensor, float]]


def _reinforced(
    model: TinyLM, step: Step, steps: int, lr: float, seed: int, progress: bool, name: str
) -> tuple[TinyLM, list[float]]:
    """A copy of the model after some steps, and their rewards; the learning rate falls to zero."""
    learner, generator = copy.deepcopy(model), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(learner.parameters(), lr=lr, weight_decay=0.0)
    rewards = []
    for number in tqdm(range(steps), desc=name, disable=not progress, leave=False):
        for group in optimizer.param_groups:
            group["lr"] = lr * (1 - number / steps)
        loss, reward = step(learner, model, number, generator)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(learner.parameters(), 1.0)
        optimizer.step()
        rewards.append(reward)
    return learner, rewards


def pair_scores(
    world: AdWorld, pairs: Preferences
) -> tuple[Float[Tensor, "pairs aspects"], Float[Tensor, "pairs aspects"]]:
    """True aspects of the preferred ads and of the others."""
    one, other = (world.aspects(pairs.user, items) for items in (pairs.better, pairs.worse))
    return torch.from_numpy(one).float(), torch.from_numpy(other).float()


# ------------------------------------------------------------------ part B without a language model

WEIGHING = ("pairwise rl", "logistic", "global", "uniform", "true weights")


@dataclass(frozen=True)
class WeigherConfig:
    """How weights are learnt from preferences when features of a user take the place of a text; one recipe for all."""

    steps: int = 600
    batch_size: int = 128  # preferences per step
    size: int = 8  # draws to each, of pairwise RL
    lr: float = 0.03  # of Adam, falling to zero


Weigher = Callable[[AdWorld, Int[np.ndarray, "n"]], Float[Tensor, "n aspects"]]


def grid_weigher(how: str, world: AdWorld, pairs: Preferences, config: WeigherConfig, seed: int) -> Weigher:
    """Weights of users, learnt in one of the ways of `WEIGHING` and linear in `kinds`.

    `pairwise rl`: one logit per aspect and level, S-GRec's reward, `GridWeigher`; its weights are those of the most
    probable vector. `logistic`: w = softmax of one logit per aspect, Bradley-Terry with a slope that is learnt too.
    `global`: the same with one w for everybody. The others learn nothing.
    """
    if how not in WEIGHING:
        raise ValueError(f"how: there is no {how!r}; choose from {', '.join(WEIGHING)}")
    aspects, grid = len(FORM.aspects), GridWeigher([value for _, value in FORM.levels])
    if how == "true weights":
        return lambda other, users: torch.from_numpy(other.aspect_weights(users)).float()
    if how == "uniform":
        return lambda other, users: torch.full((len(users), aspects), 1 / aspects)

    def features(other: AdWorld, users: Int[np.ndarray, "n"]) -> Tensor:
        known = torch.from_numpy(kinds(other, users))
        return known[:, :1] if how == "global" else known

    x, (better, worse) = features(world, pairs.user), pair_scores(world, pairs)
    generator, outputs = torch.Generator().manual_seed(seed), aspects * len(FORM.levels)
    theta = torch.zeros(x.shape[1], outputs if how == "pairwise rl" else aspects, requires_grad=True)
    slope = torch.zeros((), requires_grad=True)  # log of the sharpness
    optimizer = torch.optim.Adam([theta, slope], lr=config.lr)
    for step in range(config.steps):
        rows = torch.randint(len(x), (config.batch_size,), generator=generator)
        said = x[rows] @ theta
        if how == "pairwise rl":
            draws = torch.rand(config.batch_size, config.size, generator=generator)
            loss = grid.pairwise_loss(said.view(-1, aspects, len(FORM.levels)), better[rows], worse[rows], draws)
        else:
            loss = preference_loss(said.softmax(-1), better[rows], worse[rows], slope.exp()).mean()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        for group in optimizer.param_groups:
            group["lr"] = config.lr * (1 - step / config.steps)
        optimizer.step()
    learnt = theta.detach()

    def weigh(other: AdWorld, users: Int[np.ndarray, "n"]) -> Tensor:
        said = features(other, users) @ learnt
        found: Tensor = (
            grid.best(said.view(-1, aspects, len(FORM.levels))) if how == "pairwise rl" else said.softmax(-1)
        )
        return found

    return weigh


# ------------------------------------------------------------------ what a judge is worth


@torch.no_grad()
def scorer_quality(model: TinyLM, cards: Deck, cases: Cases, batch_size: int = 256) -> dict[str, float]:
    """Against the truth: `exact` (all four scores right), `point` (each), `findings` and `sentences`, `malformed`.

    `findings`: share of sentences that state the truth, `sentences`: of answers in which all do, `consistent`: of
    answers whose scores are those that their own sentences add up to.
    """
    right, found, consistent, malformed = [], [], [], 0
    prompts = cards.prompts(cases)
    for first in range(0, len(prompts), batch_size):
        ids, mask = pad([model.encode(prompt) for prompt in prompts[first : first + batch_size]])
        answers = [model.decode(row) for row in model.generate(ids, mask, max_new=LONGEST, temperature=0.0).rows()]
        for row, answer in enumerate(answers, first):
            scores, said = FORM.read_scores(answer), read_reasoning(cards.ads[cases.item[row] - 1], answer)
            malformed += scores is None
            right.append(np.zeros(4, bool) if scores is None else np.isclose(scores, cases.scores[row]))
            found.append([s == truth for s, truth in zip(said, cases.findings[row], strict=True)])
            consistent.append(
                scores is not None and None not in said and np.allclose(scores_of(np.array([said]))[0], scores)
            )
    points, sentences = np.array(right), np.array(found)
    return {
        "exact": float(points.all(1).mean()),
        "point": float(points.mean()),
        "findings": float(sentences.mean()),
        "sentences": float(sentences.all(1).mean()),
        "consistent": float(np.mean(consistent)),
        "malformed": malformed / len(prompts),
    }


def pair_auc(
    weights: Float[Tensor, "*runs pairs aspects"],
    better: Float[Tensor, "*runs pairs aspects"],
    worse: Float[Tensor, "*runs pairs aspects"],
) -> Float[Tensor, "*runs"]:
    """Share of preferences that the weighted scores rank right; ties count half."""
    gain = (weights * (better - worse)).sum(-1)
    return ((gain > 1e-6).float() + 0.5 * (gain.abs() <= 1e-6).float()).mean(-1)


def weigher_quality(weigh: Weigher, world: AdWorld, pairs: Preferences) -> dict[str, float]:
    """`pair auc` on preferences, and `weight error`: mean |w - w*| summed over aspects."""
    who, back = np.unique(pairs.user, return_inverse=True)
    weights, truth = weigh(world, who), torch.from_numpy(world.aspect_weights(who)).float()
    return {
        "pair auc": float(pair_auc(weights[back], *pair_scores(world, pairs))),
        "weight error": float((weights - truth).abs().sum(-1).mean()),
    }


def spoken_weights(judge: PersonalizedSemanticJudge, cards: Deck) -> Weigher:
    """Part B as a language model; it reads the users of one deck."""
    return lambda world, users: judge.weights([cards.users[u] for u in users])


def some_preferences(world: AdWorld, n: int, seed: int) -> Preferences:
    """Preferences of everybody in a world, to learn from."""
    return preferences(world, np.arange(world.config.n_users), n, np.random.default_rng([16, seed]))


def held_out(world: AdWorld, n: int, seed: int) -> tuple[Cases, Preferences]:
    """Random pairs and preferences of a world that no judge was trained in."""
    rng = np.random.default_rng([15, seed])
    everybody = np.arange(world.config.n_users)
    user, item = rng.choice(everybody, n), rng.integers(1, world.config.n_items + 1, size=n)
    return true_cases(world, user, item), preferences(world, everybody, 10 * n, rng)


# ------------------------------------------------------------------ in the loop


def asks(
    judges: Sequence[PersonalizedSemanticJudge], decks: Sequence[Deck], user: Int[Tensor, "runs users"]
) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """A judge for `two_rewards.learn`: run r asks judge r about the ads it has drawn, and of nothing else.

    Args:
        judges, decks: of each run.
        user: who stands in each row of the run's world.
    """

    def judge(rows: Tensor, action: Tensor, asked: Tensor) -> Tensor:
        found = torch.full(action.shape, torch.nan)
        for run, (own, cards) in enumerate(zip(judges, decks, strict=True)):
            groups = asked[run].nonzero()[:, 0]
            if len(groups):
                who = user[run, rows[run, groups]][:, None].expand(-1, action.shape[2]).flatten().tolist()
                ads = action[run, groups].flatten().tolist()
                said = own.reward([cards.users[u] for u in who], [cards.ads[a] for a in ads])
                found[run, groups] = said.view(len(groups), -1)
        return found

    return judge
