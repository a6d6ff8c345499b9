r"""Reasoning to Rank (Zheng et al. 2026, arXiv 2602.12530): think about each pair, score it, learn from the list.

A language model writes a rationale for every user–item pair by itself, a head turns what it then knows into a score,
and Plackett–Luce turns the scores of a list into rankings, whose NDCG is the reward of everything:

$$o_i\sim\pi_\theta(\cdot|x_{u,i}),\quad s_i=g_\phi(h_\theta(x_{u,i},o_i)),\quad\sigma\sim PL(s/\tau),
\quad U=\mathrm{NDCG@}K$$

$$\nabla_\phi J=\mathbb E[(U-b)\nabla_\phi\log P(\sigma|s_\phi)]$$

$$\nabla_\theta J=\mathbb E\Big[(U-b)\Big(\sum_i\nabla\log\pi_\theta(o_i|x_i)+\nabla_\theta\log P(\sigma|s)\Big)\Big]$$

    SFT: keep rationales whose yes / no equals the label; cross-entropy          # `kept_rationales`
    RL : for user u: G times: for all items: o_i ~ π_old; s_i = g(h(x_i, o_i))   # `ReasoningToRank.think`, `.read`
             M rankings σ_m ~ PL(s): Σ_m (U_m - mean of the others) log P(σ_m|s)  # head, and LM through h
             A = R_g - mean of the other redraws; PPO-clip over all tokens        # LM through its tokens

Items never see each other, nor their position: shuffling candidates shuffles the scores.

**Where the equations come from.** The paper's body was not at hand. Pointwise rationales, the head, Plackett–Luce, PPO
for the language model, REINFORCE for the head and the cold start are the paper's; how they are composed to one
objective is ours. The authors' development code differs: there the score comes from the last token of the *prompt* and
generated text is never part of the policy [code]. That model is `SilentToRank` here. Values marked [code] are that
code's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import one_hot

from reclib.language import Generated, LanguageModel, pad
from reclib.language.interface import prompts_left_aligned
from reclib.nn.sizes import check_at_least
from reclib.objectives.grpo import dr_grpo_loss, kl_k3, leave_one_out_baseline
from reclib.reasoning.plackett_luce import (
    draw_rankings,
    expected_ndcg,
    first_place_entropy,
    gumbel_noise,
    leave_one_out_ranking_loss,
    ndcg,
    ndcg_weights,
)


@dataclass(frozen=True)
class ReasoningToRankConfig:
    """What the method has to set."""

    max_new: int = 64  # longest rationale in tokens; what is longer is cut and counted [not reported]
    temperature: float = 1.0  # of rationales that are drawn [not reported]
    hidden: int = 1024  # width of the head's one hidden layer [code: 1024]
    tau: float = 1.0  # τ of Plackett–Luce [code: 1]
    k: int = 10  # K of NDCG@K [10]
    redraws: int = 2  # G: how often all rationales of a list are drawn, for the baseline of tokens [our choice]
    samples: int = 4  # M: rankings per list and redraw, for the baseline of the head [code: 1, with a value head]
    clip: float = 0.2  # PPO's ε [code: 0.2]
    beta: float = 0.0  # weight of the KL penalty to the model after SFT [not reported; 0: our choice]
    entropy: float = 0.01  # weight of the first place's entropy, against collapse [code: 0.01]

    def __post_init__(self) -> None:
        check_at_least(1, max_new=self.max_new, hidden=self.hidden, k=self.k)
        check_at_least(2, redraws=self.redraws, samples=self.samples)
        for name in ("temperature", "tau"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: must be positive, got {getattr(self, name)}")
        for name in ("clip", "beta", "entropy"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}: must be zero or positive, got {getattr(self, name)}")


# ------------------------------------------------------------------ what goes in and out


class Lists(NamedTuple):
    """Candidate lists as prompts, one per user–item pair."""

    ids: Int[Tensor, "lists items time"]
    mask: Bool[Tensor, "lists items time"]  # True at tokens
    positive: Int[Tensor, "lists"]  # place of the relevant item among the candidates

    def take(self, rows: Int[Tensor, "some"] | slice) -> Lists:
        """Some of the lists."""
        return Lists(*(part[rows] for part in self))


def encode_lists(model: LanguageModel, prompts: Sequence[Sequence[str]], positive: Sequence[int]) -> Lists:
    """Texts as `Lists`. Never put the position of a candidate into its prompt.

    Raises:
        ValueError: no list, lists of different lengths, not one positive per list, a positive that is not there.
    """
    lengths = sorted({len(row) for row in prompts})
    if len(lengths) != 1 or lengths[0] == 0:
        raise ValueError(f"prompts: lists of {lengths or 'no'} items; give lists, all with as many candidates")
    if len(positive) != len(prompts):
        raise ValueError(f"positive: {len(positive)} for {len(prompts)} lists; give one per list")
    if not all(0 <= p < lengths[0] for p in positive):
        raise ValueError(f"positive: must be a place in the list, 0 … {lengths[0] - 1}, got {list(positive)}")
    ids, mask = pad([model.encode(text) for row in prompts for text in row])
    shape = (len(prompts), lengths[0], -1)
    return Lists(ids.view(shape), mask.view(shape), torch.tensor(list(positive)))


class Rationales(NamedTuple):
    """What stands behind each prompt, row by row."""

    ids: Int[Tensor, "rows new"]
    log_probs: Float[Tensor, "rows new"]  # under the model that drew them, 0 elsewhere
    there: Bool[Tensor, "rows new"]  # True at tokens
    drawn: Bool[Tensor, "rows new"]  # True at tokens that the policy chose, and may learn to choose otherwise
    runaway: Bool[Tensor, "rows"]  # was cut at `max_new` before it came to an end

    @property
    def runaway_share(self) -> float:
        """Share of rationales that never came to an end; a model that has learnt to stop has nearly none."""
        return float(self.runaway.float().mean())


class Reading(NamedTuple):
    """What one forward pass over prompts and rationales gives."""

    scores: Float[Tensor, "rows"]
    log_probs: Float[Tensor, "rows new"]  # of each drawn token, 0 elsewhere


class RankingStep(NamedTuple):
    """The loss of one batch of lists, and what to log."""

    loss: Float[Tensor, ""]  # ranking + tokens + entropy + KL
    ranking_loss: Float[Tensor, ""]  # REINFORCE through log P(σ|s): head, and language model through h
    token_loss: Float[Tensor, ""]  # PPO on the tokens of the rationales
    reward: Float[Tensor, "lists redraws"]  # R: exact E[NDCG@K] of the scores
    advantage: Float[Tensor, "lists redraws items"]  # of the tokens of each rationale
    scores: Float[Tensor, "lists redraws items"]
    entropy: Float[Tensor, ""]  # of the first place, nats
    ratio: Float[Tensor, ""]  # mean π / π_old of the drawn tokens: 1 in the first pass
    clipped: Float[Tensor, ""]  # share of drawn tokens outside 1 ± ε


# ------------------------------------------------------------------ credit: whose merit is the reward?

# (scores [lists, redraws, items], positive [lists], configuration, generator) -> advantage of each rationale
Credit = Callable[[Tensor, Tensor, ReasoningToRankConfig, torch.Generator | None], Float[Tensor, "lists redraws items"]]


def exact_reward(
    scores: Float[Tensor, "lists redraws items"], positive: Int[Tensor, "lists"], config: ReasoningToRankConfig
) -> Float[Tensor, "lists redraws"]:
    """R: what Plackett–Luce of these scores earns in expectation, without drawing a ranking."""
    where = positive[:, None].expand(scores.shape[:2])
    return expected_ndcg(scores.detach(), where, config.k, tau=config.tau).to(scores.dtype)


def shared_credit(
    scores: Float[Tensor, "lists redraws items"],
    positive: Int[Tensor, "lists"],
    config: ReasoningToRankConfig,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "lists redraws items"]:
    r"""$A_{g,i}=R_g-\frac1{G-1}\sum_{g'\ne g}R_{g'}$ for every item of the list alike."""
    reward = exact_reward(scores, positive, config)
    return (reward - leave_one_out_baseline(reward))[..., None].expand(scores.shape)


def item_credit(
    scores: Float[Tensor, "lists redraws items"],
    positive: Int[Tensor, "lists"],
    config: ReasoningToRankConfig,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "lists redraws items"]:
    r"""$A_{g,i}=U_g-\frac1{G-1}\sum_{g'\ne g}U_g[s_{g,i}\leftarrow s_{g',i}]$: what if item i had another rationale?

    Both utilities share one draw of Gumbel noise, M times. The baseline does not depend on $o_{g,i}$, so the gradient
    stays unbiased, and what the other nineteen rationales did cancels. (Our choice; the sheet of the method names the
    idea, not the form.)
    """
    n, g, m = scores.shape[-1], scores.shape[1], config.samples
    logits = scores.detach().double() / config.tau
    noise = gumbel_noise((*scores.shape[:2], 1, m, n), generator, scores.device)
    arrival = logits[:, :, None, None, :] + noise  # higher is earlier
    other = logits[:, None, :, None, :] + noise  # as if item i were that of redraw g': [lists, g, g', m, items]
    is_positive = one_hot(positive, n).bool()[:, None, None, None, :]
    own = (arrival * is_positive).sum(-1, keepdim=True)
    place = (arrival > own).sum(-1, keepdim=True)
    # Another item moves: it may pass the positive, or fall behind it. The positive moves: count anew who is before.
    if_another = place - (arrival > own).long() + ((other > own) & ~is_positive).long()
    if_positive = ((arrival > (other * is_positive).sum(-1, keepdim=True)) & ~is_positive).sum(-1, keepdim=True)
    weights = ndcg_weights(n, config.k).to(scores.device)
    gain = weights[place] - weights[torch.where(is_positive, if_positive, if_another)]  # 0 where g' = g
    return (gain.mean(-2).sum(2) / (g - 1)).to(scores.dtype)


# ------------------------------------------------------------------ the model


class ReasoningToRank(nn.Module):
    """A language model that thinks, and a head that scores.

    Attributes
    ----------
    model: the language model, θ.
    head: scores what the model knows at the last token of a rationale, φ.
    """

    def __init__(self, model: Any, config: ReasoningToRankConfig | None = None) -> None:
        """Put a new head on a language model (which is not copied).

        Args:
            model: a `LanguageModel` with weights, in eval mode: dropout would make log-probabilities random.
            config: see `ReasoningToRankConfig`.
        """
        super().__init__()
        self.model, self.config = model, config or ReasoningToRankConfig()
        with torch.no_grad():
            dim = model(torch.tensor([[model.end_id]]))[1].shape[-1]
        self.head = nn.Sequential(nn.Linear(dim, self.config.hidden), nn.GELU(), nn.Linear(self.config.hidden, 1))

    @property
    def redraws(self) -> int:
        """How often training draws all rationales of a list."""
        return self.config.redraws

    def think(
        self,
        ids: Int[Tensor, "rows time"],
        mask: Bool[Tensor, "rows time"],
        *,
        temperature: float | None = None,
        generator: torch.Generator | None = None,
    ) -> Rationales:
        """Write a rationale behind each prompt, at most `max_new` tokens long.

        Args:
            temperature: default: that of the configuration; 0 writes the most probable token.
            generator: of the draws.
        """
        c = self.config
        written: Generated = self.model.generate(
            ids, mask, max_new=c.max_new, temperature=c.temperature if temperature is None else temperature,
            generator=generator,
        )  # fmt: skip
        ended = ((written.ids == self.model.end_id) & written.written).any(1)
        return Rationales(written.ids, written.log_probs, written.written, written.written, ~ended)

    def read(self, ids: Int[Tensor, "rows time"], mask: Bool[Tensor, "rows time"], rationales: Rationales) -> Reading:
        """Score each pair by the hidden state at the last token of its rationale, in one forward pass."""
        logits, hidden, last, before = _forward(self.model, ids, mask, rationales)
        scores = self.head(hidden[torch.arange(len(hidden)), last])[:, 0]
        return Reading(scores, _log_probs(logits, before, rationales, self.config.temperature))

    # ------------------------------------------------------------------ ranking

    @torch.no_grad()
    def score(self, lists: Lists, *, batch_size: int = 400) -> tuple[Float[Tensor, "lists items"], Rationales]:
        """Scores, higher is better, and the rationales they rest on (greedy, word by word: our choice).

        An item's score depends on its own prompt only, up to rounding (1e-5) that the shape of a batch causes; with a
        batch size of 1 it is the same to the last bit wherever the item stands in its list.

        Args:
            batch_size: pairs read at once.
        """
        check_at_least(1, batch_size=batch_size)
        ids, mask = lists.ids.flatten(0, 1), lists.mask.flatten(0, 1)
        parts, scores = [], []
        for first in range(0, len(ids), batch_size):
            rows = slice(first, first + batch_size)
            parts.append(self.think(ids[rows], mask[rows], temperature=0.0))
            scores.append(self.read(ids[rows], mask[rows], parts[-1]).scores)
        return torch.cat(scores).view(lists.ids.shape[:2]), _together(parts)

    # ------------------------------------------------------------------ learning

    def draw(self, lists: Lists, generator: torch.Generator | None = None) -> Rationales:
        """All rationales of some lists, G times; rows are [lists, redraws, items], flattened."""
        return self.think(*self._rows(lists), generator=generator)

    def loss(
        self,
        lists: Lists,
        rationales: Rationales,
        *,
        advantage: Float[Tensor, "lists redraws items"] | None = None,
        credit: Credit = shared_credit,
        reference: Any = None,
        generator: torch.Generator | None = None,
    ) -> RankingStep:
        r"""Minus an estimate of J whose gradient is that of the module's text. A frozen part is left out.

        $$-\frac1{|u|G}\sum_{u,g}\Big\{\sum_{i,t}\min(\rho_{it}A_i,\mathrm{clip}(\rho_{it})A_i)
          +\frac1M\sum_m(U_m-b_m)\log P(\sigma_m|s)+\alpha H\Big\}+\beta\,KL$$

        Args:
            lists: a batch.
            rationales: `draw(lists)`; ρ is the ratio to the model that drew them.
            advantage: of an earlier pass over the same rationales; default: `credit` of the scores now.
            credit: whose merit the reward is; see `shared_credit` and `item_credit`.
            reference: the language model after SFT, for the KL penalty; None: no penalty.
            generator: of the rankings, which are drawn anew in every pass.
        """
        c, (n, items) = self.config, lists.ids.shape[:2]
        rows = self._rows(lists)
        reading = self.read(*rows, rationales)
        scores = reading.scores.view(n, -1, items)
        where = lists.positive[:, None].expand(scores.shape[:2])
        ranking = draw_rankings(scores, c.samples, tau=c.tau, length=min(c.k, items), generator=generator)
        utility = ndcg(ranking, where)
        ranking_loss = leave_one_out_ranking_loss(scores, ranking, utility, tau=c.tau).mean()
        entropy = first_place_entropy(scores, tau=c.tau).mean()
        if advantage is None:
            some = bool(rationales.drawn.any())
            advantage = credit(scores.detach(), lists.positive, c, generator) if some else torch.zeros_like(scores)
        advantage = advantage.detach()

        def sequences(x: Tensor) -> Tensor:
            """All tokens that share a list and a redraw, side by side: [lists · redraws, items · new]."""
            return x.reshape(n * scores.shape[1], -1)

        drawn = sequences(rationales.drawn)
        merit = sequences(advantage.reshape(-1, 1).expand(rationales.ids.shape))
        now, old = sequences(reading.log_probs), sequences(rationales.log_probs)
        token_loss = dr_grpo_loss(now, old, merit, drawn, c.clip, c.clip)
        loss = ranking_loss + token_loss - c.entropy * entropy
        if reference is not None and c.beta > 0:
            with torch.no_grad():
                logits, _, _, before = _forward(reference, *rows, rationales)
                start = sequences(_log_probs(logits, before, rationales, c.temperature))
            loss = loss + c.beta * (kl_k3(now, start) * drawn).sum(-1).mean()
        with torch.no_grad():
            ratio, tokens = (now - old).exp(), drawn.sum().clamp(min=1)
            mean_ratio = (ratio * drawn).sum() / tokens
            clipped = (((ratio - 1).abs() > c.clip) & drawn).sum() / tokens
            reward = exact_reward(scores, lists.positive, c)
        return RankingStep(
            loss, ranking_loss, token_loss, reward, advantage, scores.detach(), entropy.detach(), mean_ratio, clipped
        )

    def _rows(self, lists: Lists) -> tuple[Int[Tensor, "rows time"], Bool[Tensor, "rows time"]]:
        """Prompts of [lists, redraws, items], flattened."""
        ids, mask = (x[:, None].expand(-1, self.redraws, -1, -1).flatten(0, 2) for x in (lists.ids, lists.mask))
        return ids, mask


class SilentToRank(ReasoningToRank):
    """The control without reasoning: fixed tokens behind every prompt, as many as a rationale has, or none at all.

    Without any it is the model of the authors' development code: the score comes from the last token of the prompt.
    """

    def __init__(self, model: Any, config: ReasoningToRankConfig | None = None, filler: Sequence[int] = ()) -> None:
        """As `ReasoningToRank`; `filler` are the tokens that stand behind every prompt."""
        super().__init__(model, config)
        self.filler = list(filler)

    @property
    def redraws(self) -> int:
        """Once: nothing is drawn."""
        return 1

    def think(
        self,
        ids: Int[Tensor, "rows time"],
        mask: Bool[Tensor, "rows time"],
        *,
        temperature: float | None = None,
        generator: torch.Generator | None = None,
    ) -> Rationales:
        """The filler, whatever the prompt."""
        shape = (len(ids), len(self.filler))
        there = torch.ones(shape, dtype=torch.bool)
        filler = torch.tensor(self.filler, dtype=torch.long).expand(shape)
        return Rationales(filler, torch.zeros(shape), there, ~there, torch.zeros(len(ids), dtype=torch.bool))


class RationaleToRank(ReasoningToRank):
    """The control that scores by the rationale alone: what the head reads does not see the prompt.

    A rationale of another item then gives that item's score, so shuffled rationales show what rationales carry.
    """

    def read(self, ids: Int[Tensor, "rows time"], mask: Bool[Tensor, "rows time"], rationales: Rationales) -> Reading:
        """Log-probabilities given the prompt, as ever; hidden states of a second pass over the rationale alone."""
        logits, _, _, before = _forward(self.model, ids, mask, rationales)
        _, hidden = self.model(rationales.ids, rationales.there)
        last = hidden[torch.arange(len(hidden)), rationales.there.sum(1) - 1]
        return Reading(self.head(last)[:, 0], _log_probs(logits, before, rationales, self.config.temperature))


class AnswerToRank(ReasoningToRank):
    """The baseline without a head: log π(yes) - log π(no) behind `<answer>`; 0 where a rationale never gets there."""

    def __init__(self, model: Any, config: ReasoningToRankConfig | None = None, *, tag: int, yes: int, no: int) -> None:
        """As `ReasoningToRank`; the numbers of three tokens."""
        super().__init__(model, config)
        self.tag, self.yes, self.no = tag, yes, no

    def read(self, ids: Int[Tensor, "rows time"], mask: Bool[Tensor, "rows time"], rationales: Rationales) -> Reading:
        """Scores from the logits at the first `<answer>`."""
        logits, _, _, before = _forward(self.model, ids, mask, rationales)
        log_probs = _log_probs(logits, before, rationales, self.config.temperature)
        tagged = (rationales.ids == self.tag) & rationales.there
        at = before.gather(1, tagged.long().argmax(1)[:, None]) + 1  # before the token + 1: the token itself
        behind = logits[torch.arange(len(logits)), at[:, 0]]
        return Reading((behind[:, self.yes] - behind[:, self.no]) * tagged.any(1), log_probs)


def _forward(
    model: Any, ids: Int[Tensor, "rows time"], mask: Bool[Tensor, "rows time"], rationales: Rationales
) -> tuple[Tensor, Tensor, Int[Tensor, "rows"], Int[Tensor, "rows new"]]:
    """Logits and hidden states [rows, columns, ·], the last token's column, and the column before each new token."""
    prompt, real = prompts_left_aligned(ids, mask)
    whole = torch.cat([prompt, rationales.ids], 1), torch.cat([real, rationales.there], 1)
    whole_ids, whole_mask = prompts_left_aligned(*whole)
    logits, hidden = model(whole_ids, whole_mask)
    before = (real.sum(1, keepdim=True) + rationales.there.cumsum(1) - 2).clamp(min=0)
    return logits, hidden, whole_mask.sum(1) - 1, before


def _log_probs(
    logits: Float[Tensor, "rows columns vocabulary"],
    before: Int[Tensor, "rows new"],
    rationales: Rationales,
    temperature: float,
) -> Float[Tensor, "rows new"]:
    """Of the tokens that were drawn, at the temperature they were drawn with, in single precision; 0 elsewhere."""
    at = logits.take_along_dim(before[..., None], dim=1).float() / temperature
    chosen = at.log_softmax(-1).gather(2, rationales.ids[..., None])[..., 0]
    return chosen.masked_fill(~rationales.drawn, 0)


def _together(parts: Sequence[Rationales]) -> Rationales:
    """Rationales of several batches, filled up to the longest."""
    longest = max(part.ids.shape[1] for part in parts)

    def column(name: str) -> Tensor:
        tables = (getattr(part, name) for part in parts)
        return torch.cat([nn.functional.pad(table, (0, longest - table.shape[1])) for table in tables])

    runaway = torch.cat([part.runaway for part in parts])
    return Rationales(column("ids"), column("log_probs"), column("there"), column("drawn"), runaway)


# ------------------------------------------------------------------ the cold start


class Kept(NamedTuple):
    """Which of a teacher's rationales are worth learning from."""

    rows: list[int]  # their numbers, in the old order
    yes: int  # of these
    no: int
    wrong: int  # answered, but not what the label says
    unreadable: int  # no answer at all


def read_answer(text: str, tag: str = "<answer>") -> bool | None:
    """True for yes and False for no, the word behind the last `<answer>`; None if there is neither."""
    words = text.split()
    if tag not in words:
        return None
    behind = words[len(words) - words[::-1].index(tag) :]
    return {"yes": True, "no": False}.get(behind[0]) if behind else None


def kept_rationales(texts: Sequence[str], labels: Sequence[bool], most: tuple[int, int] | None = None) -> Kept:
    """The paper's filter: a rationale stays if its yes / no is the label, whatever else it says.

    Args:
        texts: rationales with their answers.
        labels: True for what was clicked.
        most: keep at most so many with yes and with no, the first that come [code: 1,000 and 2,000 of 10,000].

    Raises:
        ValueError: not one label per text.
    """
    if len(texts) != len(labels):
        raise ValueError(f"labels: {len(labels)} for {len(texts)} texts; give one per text")
    answers = [read_answer(text) for text in texts]
    right = [i for i, (answer, label) in enumerate(zip(answers, labels, strict=True)) if answer is bool(label)]
    rows = [[i for i in right if answers[i] is value] for value in (True, False)]
    if most is not None:
        rows = [kept[:size] for kept, size in zip(rows, most, strict=True)]
    unreadable = sum(answer is None for answer in answers)
    return Kept(sorted(rows[0] + rows[1]), len(rows[0]), len(rows[1]), len(texts) - len(right) - unreadable, unreadable)


# ------------------------------------------------------------------ training


@dataclass(frozen=True)
class RankTraining:
    """How a ranker learns from lists."""

    steps: int = 100  # batches of lists
    lists: int = 4  # per batch [code: 1 per device, accumulated over 4]
    passes: int = 1  # gradient steps per batch [code: 1, which makes ρ = 1 and PPO a plain policy gradient]
    lr: float = 3e-5  # of the head [code: 3e-5]
    model_lr: float = 6e-6  # of the language model [code: 0.2 × 3e-5]
    clip_norm: float = 1.0  # largest norm of the gradient [not reported: our choice]

    def __post_init__(self) -> None:
        check_at_least(1, steps=self.steps, lists=self.lists, passes=self.passes)
        for name in ("lr", "model_lr"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}: must be zero (frozen) or positive, got {getattr(self, name)}")
        if not self.clip_norm > 0:
            raise ValueError(f"clip_norm: must be positive (math.inf: never clip), got {self.clip_norm}")


def learn_to_rank(
    ranker: ReasoningToRank,
    lists: Lists,
    training: RankTraining | None = None,
    *,
    seed: int = 0,
    credit: Credit = shared_credit,
    reference: Any = None,
    watch: Callable[[int, RankingStep, Rationales], None] | None = None,
) -> None:
    """Train a ranker in place on lists, each batch drawn at random, with AdamW. A rate of 0 freezes its part.

    Args:
        ranker: see `ReasoningToRank`.
        lists: all there is to learn from.
        training: see `RankTraining`.
        seed: of batches, rationales and rankings.
        credit, reference: see `ReasoningToRank.loss`.
        watch: called after the first pass of every batch with the number of the step, the loss, and the rationales.
    """
    t = training or RankTraining()
    generator = torch.Generator().manual_seed(seed)
    parts: list[tuple[nn.Module, float]] = [(ranker.head, t.lr), (ranker.model, t.model_lr)]
    for part, rate in parts:
        part.requires_grad_(rate > 0)
    groups: list[dict[str, Any]] = [{"params": list(part.parameters()), "lr": rate} for part, rate in parts if rate > 0]
    if not groups:
        raise ValueError("training: lr and model_lr are both 0, so nothing would learn; give one a positive rate")
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
    weights = [weight for group in groups for weight in group["params"]]
    for step in range(t.steps):
        batch = lists.take(torch.randint(len(lists.positive), (t.lists,), generator=generator))
        rationales, advantage = ranker.draw(batch, generator), None
        for number in range(t.passes):
            found = ranker.loss(
                batch, rationales, advantage=advantage, credit=credit, reference=reference, generator=generator
            )
            advantage = found.advantage
            optimizer.zero_grad()
            torch.autograd.backward(found.loss)
            nn.utils.clip_grad_norm_(weights, t.clip_norm, error_if_nonfinite=True)
            optimizer.step()
            if watch is not None and number == 0:
                watch(step, found, rationales)
