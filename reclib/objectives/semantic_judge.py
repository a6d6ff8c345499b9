r"""The personalised semantic judge (PSJ) of S-GRec: what an ad is worth to a user, in words first, then in one number.

Part A reads user x and ad a, reasons, and scores four aspects; part B reads x alone and says how much each aspect
matters to this user. The semantic reward is their product,

$$R_{sem}(x,a)=w(x)^\top s(x,a),\qquad w\ge0,\ \sum_k w_k=1.$$

Both are language models behind `reclib.language`'s interface: `TinyLM`, `HuggingFaceLM` or your own.

    score prompt    {user} | {ad} =>       answer    {reasoning} <scores> 0.5 1 0 0.5
    weight prompt   {user} =>              answer    <weights> mid high none low

Training, as notes on the paper report it: part A by supervised fine-tuning on annotations, then GRPO with a reward for
matching the labels (`score_reward`); part B by *pairwise RL*: draw a group of weight vectors, reward those that rank
the preferred ad higher (`pairwise_reward`), GRPO. Neither is a likelihood of preferences; `preference_loss` is the
logistic stand-in that one would write otherwise. `GridWeigher` is part B without a language model: small enough to
enumerate.

The paper's prompt, scales and levels are not known. Texts and levels are our choice.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from reclib.language import LanguageModel, pad
from reclib.nn.sizes import check_at_least
from reclib.objectives.grpo import group_advantages, grpo_loss

SCORES, WEIGHTS = "<scores>", "<weights>"  # what stands before the numbers; special tokens of a tiny vocabulary


@dataclass(frozen=True)
class JudgeFormat:
    """What the judge may answer."""

    aspects: tuple[str, ...] = ("profile", "interest", "novelty", "context")  # [paper: four, of these kinds]
    # Values of each aspect, in rising order. [reproduction: {-1, -.5, 0, .5, 1} for the profile, {0, .5, 1} elsewhere]
    scales: tuple[tuple[float, ...], ...] = (
        (0.0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0),
        *((0.0, 0.5, 1.0),) * 3,
    )
    levels: tuple[tuple[str, float], ...] = (("none", 0.0), ("low", 1.0), ("mid", 2.0), ("high", 3.0))  # of importance

    def __post_init__(self) -> None:
        if len(self.scales) != len(self.aspects):
            raise ValueError(f"scales: {len(self.scales)} for {len(self.aspects)} aspects; give one per aspect")
        for aspect, scale in zip(self.aspects, self.scales, strict=True):
            if len(scale) < 2 or list(scale) != sorted(set(scale)):
                raise ValueError(f"scales: that of {aspect!r} must be two or more rising values, got {scale}")
        values = [value for _, value in self.levels]
        if min(values, default=-1) < 0 or max(values, default=0) <= 0:
            raise ValueError(f"levels: must be zero or positive, one of them positive, got {self.levels}")

    # ------------------------------------------------------------------ writing

    @staticmethod
    def score_prompt(user: str, ad: str) -> str:
        """What part A reads."""
        return f"{user} | {ad} =>"

    def score_answer(self, reasoning: str, scores: Sequence[float]) -> str:
        """What part A should write. Scores are moved to the nearest value of their scale, the lower of two."""
        near = (min(scale, key=lambda v: (abs(v - s), v)) for scale, s in zip(self.scales, scores, strict=True))
        return " ".join([reasoning, SCORES, *(_word(value) for value in near)]).strip()

    @staticmethod
    def weight_prompt(user: str) -> str:
        """What part B reads."""
        return f"{user} =>"

    def weight_answer(self, levels: Sequence[int]) -> str:
        """What part B may write: the name of one level per aspect."""
        return " ".join([WEIGHTS, *(self.levels[level][0] for level in levels)])

    def words(self) -> list[str]:
        """Every word that answers need beside the reasoning."""
        numbers = dict.fromkeys(_word(value) for scale in self.scales for value in scale)
        return ["|", "=>", SCORES, WEIGHTS, *numbers, *(name for name, _ in self.levels)]

    # ------------------------------------------------------------------ reading

    def read_scores(self, answer: str) -> tuple[float, ...] | None:
        """The scores behind the last `<scores>`; None if there is not exactly one word of its scale per aspect."""
        words = _behind(answer, SCORES)
        scales = [{_word(value): value for value in scale} for scale in self.scales]
        if words is None or len(words) != len(scales) or any(w not in s for w, s in zip(words, scales, strict=True)):
            return None
        return tuple(scale[word] for word, scale in zip(words, scales, strict=True))

    def read_weights(self, answer: str) -> tuple[float, ...] | None:
        """Weights with sum 1; None if the answer is malformed, or if no aspect matters at all."""
        words, levels = _behind(answer, WEIGHTS), dict(self.levels)
        if words is None or len(words) != len(self.aspects) or any(word not in levels for word in words):
            return None
        total = sum(levels[word] for word in words)
        return tuple(levels[word] / total for word in words) if total > 0 else None


def _word(value: float) -> str:
    return f"{value:g}"


def _behind(answer: str, tag: str) -> list[str] | None:
    words = answer.split()
    if tag not in words:
        return None
    return words[len(words) - words[::-1].index(tag) :]


# ------------------------------------------------------------------ the judge


class PersonalizedSemanticJudge:
    """PSJ: two language models, one number per pair of user and ad.

    Answers are greedy: the most probable word, word by word. An answer that cannot be read is counted in `malformed`
    and replaced by one that says nothing: the middle of each scale, equal weights.

    Attributes
    ----------
    calls: pairs that part A was asked about.
    malformed: answers that could not be read, of either part.
    """

    def __init__(
        self,
        scorer: LanguageModel,
        weigher: LanguageModel | None = None,
        form: JudgeFormat | None = None,
        *,
        max_new: int = 64,
        batch_size: int = 256,
    ) -> None:
        """Wrap the models.

        Args:
            scorer: part A.
            weigher: part B; None: every aspect matters equally to everybody.
            form: what may be answered.
            max_new: longest answer, in tokens.
            batch_size: prompts answered at once.
        """
        check_at_least(1, max_new=max_new, batch_size=batch_size)
        self.scorer, self.weigher, self.form = scorer, weigher, form or JudgeFormat()
        self.max_new, self.batch_size = max_new, batch_size
        self.calls = self.malformed = 0

    def scores(self, users: Sequence[str], ads: Sequence[str]) -> Float[Tensor, "pairs aspects"]:
        """s(x, a) of each pair.

        Raises:
            ValueError: not one ad per user, or none at all.
        """
        if len(users) != len(ads):
            raise ValueError(f"ads: {len(ads)} for {len(users)} users; give one ad per user")
        self.calls += len(users)
        prompts = [self.form.score_prompt(user, ad) for user, ad in zip(users, ads, strict=True)]
        middle = tuple((scale[0] + scale[-1]) / 2 for scale in self.form.scales)
        return self._ask(self.scorer, prompts, self.form.read_scores, middle)

    def weights(self, users: Sequence[str]) -> Float[Tensor, "users aspects"]:
        """w(x) of each user; rows sum to 1."""
        n = len(self.form.aspects)
        equal = (1 / n,) * n
        if self.weigher is None:
            return torch.tensor([equal]).expand(len(users), n)
        prompts = [self.form.weight_prompt(user) for user in users]
        return self._ask(self.weigher, prompts, self.form.read_weights, equal)

    def reward(self, users: Sequence[str], ads: Sequence[str]) -> Float[Tensor, "pairs"]:
        """R_sem of each pair; each user is weighed once, however often they come."""
        position = {user: i for i, user in enumerate(dict.fromkeys(users))}
        weights = self.weights(list(position))[[position[user] for user in users]]
        return (weights * self.scores(users, ads)).sum(-1)

    def _ask(
        self,
        model: LanguageModel,
        prompts: Sequence[str],
        read: Callable[[str], tuple[float, ...] | None],
        otherwise: tuple[float, ...],
    ) -> Float[Tensor, "prompts aspects"]:
        if not prompts:
            raise ValueError("users: is empty; give at least one")
        found = []
        for first in range(0, len(prompts), self.batch_size):
            ids, mask = pad([model.encode(prompt) for prompt in prompts[first : first + self.batch_size]])
            written = model.generate(ids, mask, max_new=self.max_new, temperature=0.0)
            found += [read(model.decode(row)) for row in written.rows()]
        self.malformed += sum(values is None for values in found)
        return torch.tensor([otherwise if values is None else values for values in found])


# ------------------------------------------------------------------ rewards of its training


def score_reward(found: Sequence[float] | None, label: Sequence[float], form: JudgeFormat | None = None) -> float:
    r"""Part A's: $\sum_k\mathbb 1[s_k=y_k]+1-\frac{|s_k-y_k|}{\text{range}_k}$; 0 for a malformed answer.

    Exact matches plus proximity [reproduction]; the paper only says that matching the labels is rewarded.
    """
    if found is None:
        return 0.0
    scales = (form or JudgeFormat()).scales
    return sum(
        float(s == y) + 1 - abs(s - y) / (scale[-1] - scale[0])
        for s, y, scale in zip(found, label, scales, strict=True)
    )


def pairwise_reward(
    weights: Float[Tensor, "*#group aspects"],
    better: Float[Tensor, "*#group aspects"],
    worse: Float[Tensor, "*#group aspects"],
) -> Float[Tensor, "*group"]:
    r"""Part B's: $r=\mathbb 1[w^\top s_i>w^\top s_j]$ for a preference $a_i\succ a_j$. A tie is wrong.

    A group that gets all of them right, or none, teaches nothing.
    """
    # The difference first: w·s_i - w·s_j of equal scores would be a rounding error, not zero.
    gain = (weights * (better - worse)).sum(-1)
    return (gain > 1e-6).to(weights.dtype)


def preference_loss(
    weights: Float[Tensor, "*pairs aspects"],
    better: Float[Tensor, "*pairs aspects"],
    worse: Float[Tensor, "*pairs aspects"],
    sharpness: float | Float[Tensor, "..."] = 1.0,
) -> Float[Tensor, "*pairs"]:
    r"""The stand-in: $-\log\sigma\big(\kappa\,w^\top(s_i-s_j)\big)$, Bradley–Terry with slope κ. Our choice.

    Weights have sum 1, so without a κ of its own the model could never be sure of anything.
    """
    return -F.logsigmoid(sharpness * (weights * (better - worse)).sum(-1))


class AnswerStep(NamedTuple):
    """One step of GRPO on a language model's answers."""

    loss: Float[Tensor, ""]
    reward: Float[Tensor, "prompts size"]
    zero_variance_share: Float[Tensor, ""]  # groups that taught nothing


def answer_step(
    model: Any,
    prompts: Sequence[str],
    reward: Callable[[int, str], float],
    *,
    size: int,
    max_new: int,
    generator: torch.Generator | None = None,
    temperature: float = 1.0,
    reference: Any = None,
    beta: float = 0.04,
) -> AnswerStep:
    """Draw `size` answers to each prompt, reward them, and compute GRPO's loss at ratio 1. Trains part A and part B.

    Args:
        model: a `LanguageModel` with weights.
        prompts: one group each.
        reward: of (number of the prompt, answer).
        size: answers per prompt [reproduction: 4].
        max_new: longest answer.
        generator: of the draws.
        temperature: of the draws and of the ratio.
        reference: the model before training, for the KL penalty; None: no penalty.
        beta: weight of that penalty [reproduction: .04].
    """
    ids, mask = pad([model.encode(prompt) for prompt in prompts for _ in range(size)])
    written = model.generate(ids, mask, max_new=max_new, temperature=temperature, generator=generator)
    answers = [model.decode(row) for row in written.rows()]
    rewards = torch.tensor([reward(i // size, answer) for i, answer in enumerate(answers)]).view(-1, size)
    advantages = group_advantages(rewards)

    def log_probs(which: Any) -> Tensor:
        found: Tensor = which.log_probs(ids, written.ids, mask, written.written, temperature=temperature)
        return found

    log_prob, log_prob_ref = log_probs(model), None
    if reference is not None:
        with torch.no_grad():
            log_prob_ref = log_probs(reference)
    loss = grpo_loss(
        log_prob, log_prob, advantages.advantages.flatten(), written.written, log_prob_ref,
        beta=0.0 if reference is None else beta,
    )  # fmt: skip
    return AnswerStep(loss, rewards, advantages.zero_variance_share)


# ------------------------------------------------------------------ part B on a grid, without a language model


def weight_vectors(values: Sequence[float], aspects: int) -> Float[Tensor, "vectors aspects"]:
    """Every vector of importance levels but the one of zeros, in lexicographic order; not normalised."""
    vectors = torch.tensor(list(itertools.product(values, repeat=aspects)), dtype=torch.float32)
    return vectors[vectors.sum(-1) > 0]


class GridWeigher:
    r"""Part B small enough to enumerate: levels independent given x, but never all zero.

    $$\pi(v|x)\propto\exp\sum_k\theta_{k,v_k}(x),\qquad w=v/\textstyle\sum_k v_k$$

    θ are logits, one per aspect and level, from any model of x; zeros are the uniform policy over `vectors`.
    """

    def __init__(self, values: Sequence[float] = (0.0, 1.0, 2.0, 3.0), aspects: int = 4) -> None:
        """Enumerate.

        Args:
            values: importance of each level.
            aspects: number of aspects.

        Raises:
            ValueError: no positive level, or a negative one.
        """
        if min(values, default=-1) < 0 or max(values, default=0) <= 0:
            raise ValueError(f"values: must be zero or positive, one of them positive, got {tuple(values)}")
        check_at_least(1, aspects=aspects)
        vectors = weight_vectors(values, aspects)
        self.weights: Float[Tensor, "vectors aspects"] = vectors / vectors.sum(-1, keepdim=True)
        levels = torch.cartesian_prod(*[torch.arange(len(values))] * aspects).view(-1, aspects)
        kept = torch.tensor(list(values))[levels].sum(-1) > 0
        self.levels: Int[Tensor, "vectors aspects"] = levels[kept]

    def log_probs(self, logits: Float[Tensor, "*users aspects levels"]) -> Float[Tensor, "*users vectors"]:
        """Of every vector, given the logits of each user."""
        per_aspect = [logits[..., k, :][..., self.levels[:, k]] for k in range(logits.shape[-2])]
        return torch.stack(per_aspect).sum(0).log_softmax(-1)

    def expected(self, logits: Float[Tensor, "*users aspects levels"]) -> Float[Tensor, "*users aspects"]:
        """Mean weights under the policy."""
        return self.log_probs(logits).exp() @ self.weights

    def best(self, logits: Float[Tensor, "*users aspects levels"]) -> Float[Tensor, "*users aspects"]:
        """Weights of the most probable vector."""
        return self.weights[self.log_probs(logits).argmax(-1)]

    def wins(
        self, better: Float[Tensor, "*pairs aspects"], worse: Float[Tensor, "*pairs aspects"]
    ) -> Bool[Tensor, "*pairs vectors"]:
        """Which vectors rank each pair right."""
        return pairwise_reward(self.weights, better.unsqueeze(-2), worse.unsqueeze(-2)) > 0

    def pairwise_loss(
        self,
        logits: Float[Tensor, "*pairs aspects levels"],
        better: Float[Tensor, "*pairs aspects"],
        worse: Float[Tensor, "*pairs aspects"],
        uniform: Float[Tensor, "*pairs size"],
    ) -> Float[Tensor, "*stack"]:
        """Pairwise RL at ratio 1: draw a group of vectors per pair, reward them, GRPO's loss over the last pair axis.

        Args:
            logits: of each pair's user.
            better, worse: scores of the preferred ad and of the other.
            uniform: numbers in [0, 1), one per draw: the randomness, given so that runs can be stacked.
        """
        log_prob = self.log_probs(logits)
        ladder = log_prob.detach().exp().cumsum(-1)
        drawn = torch.searchsorted(ladder, uniform * ladder[..., -1:], right=True).clamp(max=len(self.weights) - 1)
        reward = self.wins(better, worse).gather(-1, drawn).to(logits.dtype)
        chosen = log_prob.gather(-1, drawn)
        advantages = group_advantages(reward).advantages
        flat = chosen.flatten(-2).unsqueeze(-1)
        return grpo_loss(flat, flat, advantages.flatten(-2))
