r"""STAR (Wu et al., 2026): one small model that does alone what a team of agents did before it.

1. A teacher (`reclib.reasoning.mars`) solves tasks with tools and writes each run down as one text.
2. Runs whose first recommendation is the true ad are kept.
3. Supervised fine-tuning on them, where m_t is 0 at what a tool wrote:
   $\mathcal L_{SFT} = -\sum_t m_t \log \pi(y_t \mid y_{<t}, x)$.
4. GRPO: G runs per task, each rewarded with $R = R_{fmt} + R_{out}$, advantages inside the group of a task.

The student asks tools itself: whenever it closes a `<tool_call>`, the stored answer is put behind it, and it goes on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from reclib.language import Example, LanguageModel, pad
from reclib.language.interface import prompts_left_aligned
from reclib.language.writing import draw
from reclib.nn.sizes import check_at_least
from reclib.objectives.grpo import group_advantages, grpo_loss
from reclib.reasoning.collaborative_text import TextStore
from reclib.reasoning.mars import execute
from reclib.reasoning.trajectory import (
    MalformedTrajectory,
    Reward,
    Task,
    check_format,
    parse,
    read_prompt,
    reward,
    serialise,
)

LIMIT = "no more calls"  # what every tool answers when a run has used up its calls


# ------------------------------------------------------------------ writing


class Written(NamedTuple):
    """Trajectories, the model's words and the tools' in one row."""

    ids: Int[Tensor, "batch new"]  # tokens; 0 behind the end
    log_probs: Float[Tensor, "batch new"]  # with which each was drawn; 0 at tokens the model did not write
    by_model: Bool[Tensor, "batch new"]  # True at tokens the model wrote
    real: Bool[Tensor, "batch new"]  # False behind the end
    texts: list[str]
    calls: list[int]  # tool calls of each row
    ended: list[bool]  # False: cut off because it was too long


class Answer(NamedTuple):
    """What the student says to a task."""

    ranking: list[str] | None  # letters, best first; None if the trajectory is malformed
    text: str  # the whole trajectory
    problem: str  # what is wrong with it, "" if nothing
    calls: int
    words: int  # written by the model


@dataclass(frozen=True)
class StarConfig:
    """Bounds of a run, our choice."""

    max_new: int = 160  # words behind the prompt, the tools' included; longer runs are cut off and count as malformed
    max_calls: int = 6  # tool calls that get a real answer
    reflection: bool = True  # whether a valid trajectory has to have one

    def __post_init__(self) -> None:
        check_at_least(1, max_new=self.max_new)
        check_at_least(0, max_calls=self.max_calls)


class Star:
    """The student: a language model and the stored answers of its tools."""

    def __init__(self, model: Any, store: TextStore, config: StarConfig | None = None) -> None:
        """Give a model its tools.

        Args:
            model: a `LanguageModel` that can go on from what it has read (`reclib.language.writing.Reader`), such as
                `TinyLM` or `HuggingFaceLM`. The latter's tokenizer should know the tags of
                `reclib.reasoning.trajectory.TAGS` as single tokens.
            store: the tools' answers.
            config: bounds of a run.
        """
        self.model, self.store, self.config = model, store, config or StarConfig()

    def answer(self, tasks: Sequence[Task], *, batch_size: int = 128) -> list[Answer]:
        """Solve tasks greedily, whatever the model writes: malformed answers are marked, not raised."""
        answers: list[Answer] = []
        for first in range(0, len(tasks), batch_size):
            part = tasks[first : first + batch_size]
            written = self.write(part, temperature=0.0)
            words = written.by_model.sum(1).tolist()
            for task, text, calls, ended, n in zip(
                part, written.texts, written.calls, written.ended, words, strict=True
            ):
                ranking, problem = None, "" if ended else "never ends"
                try:
                    ranking = check_format(text, read_prompt(task.prompt).letters, reflection=self.config.reflection)
                except MalformedTrajectory as error:
                    problem = problem or str(error)
                answers.append(Answer(ranking, text, problem, calls, n))
        return answers

    @torch.no_grad()
    def write(
        self, tasks: Sequence[Task], *, temperature: float = 1.0, generator: torch.Generator | None = None
    ) -> Written:
        """Draw a trajectory per task, all at once. A row that has just closed a call is fed the tool's answer.

        Args:
            tasks: a task may stand there several times.
            temperature: 0 takes the most probable word; see `reclib.language.writing.write`.
            generator: of the draws.

        Raises:
            ValueError: no task, or a prompt that leaves no room for `max_new` words.
        """
        model, config = self.model, self.config
        ids, mask = prompts_left_aligned(*pad([model.encode(task.prompt) for task in tasks]))
        self._check_room(ids.shape[1])
        closing = model.encode("</tool_call>")
        rows = [_Row(task, self.store, config.max_calls, closing) for task in tasks]
        logits, cache = model.read(ids, mask)
        columns: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        while True:
            token, log_prob = draw(logits, temperature, generator)
            forced = torch.tensor([row.pending[0] if row.pending else -1 for row in rows])
            alive = torch.tensor([not row.ended for row in rows])
            free = alive & (forced < 0)
            token = torch.where(forced < 0, token, forced) * alive
            drawn = log_prob.gather(1, token[:, None])[:, 0].masked_fill(~free, 0)
            columns.append((token, drawn, free, alive))
            for row, number in zip(rows, token.tolist(), strict=True):
                row.add(number, model)
            if len(columns) == config.max_new or all(row.ended for row in rows):
                break
            logits, cache = model.step(cache, token)
        out, log_probs, by_model, real = (torch.stack(part, 1) for part in zip(*columns, strict=True))
        texts = [model.decode(row.ids) for row in rows]
        return Written(out, log_probs, by_model, real, texts, [row.calls for row in rows], [row.ended for row in rows])

    def _check_room(self, longest: int) -> None:
        context = getattr(getattr(self.model, "config", None), "context", None)
        if context is not None and longest + self.config.max_new - 1 > context:
            raise ValueError(
                f"max_new: {self.config.max_new} behind a prompt of {longest} words exceeds the model's context of "
                f"{context}; shorten the prompt, lower max_new, or build the model with a longer context"
            )


class _Row:
    """One trajectory while it is written."""

    def __init__(self, task: Task, store: TextStore, max_calls: int, closing: list[int]) -> None:
        self.task, self.store, self.max_calls, self.closing = task, store, max_calls, closing
        self.ids: list[int] = []
        self.pending: list[int] = []  # tokens of a tool's answer that are still to come
        self.calls, self.ended = 0, False

    def add(self, token: int, model: Any) -> None:
        if self.ended:
            return
        self.ids.append(token)
        if self.pending:
            del self.pending[0]
        elif token == model.end_id:
            self.ended = True
        elif self.ids[-len(self.closing) :] == self.closing:
            self.calls += 1
            self.pending = model.encode(f"<tool_response> {self._respond(model)} </tool_response>")

    def _respond(self, model: Any) -> str:
        if self.calls > self.max_calls:
            return LIMIT
        call = model.decode(self.ids).rsplit("<tool_call>", 1)[-1].removesuffix("</tool_call>")
        return execute(self.store, self.task.user, call)


# ------------------------------------------------------------------ stage 1


def sft_example(model: LanguageModel, task: Task, text: str) -> Example:
    """A prompt and a trajectory to learn; m_t = 0 at the prompt and at what tools wrote, tags included.

    Raises:
        MalformedTrajectory: a text that cannot be parsed.
    """
    ids = model.encode(task.prompt)
    if not ids:
        raise ValueError("task: has an empty prompt; begin with a word such as 'recent'")
    learnt = [False] * len(ids)
    for step in parse(text):
        words = model.encode(serialise([step]))
        ids += words
        learnt += [step.kind != "tool_response"] * len(words)
    return Example([*ids, model.end_id], [*learnt, True])


# ------------------------------------------------------------------ stage 2


@dataclass(frozen=True)
class StarGRPOConfig:
    """The paper's values in brackets, as far as notes on it tell them."""

    group: int = 8  # runs per task, G [8]
    tasks: int = 8  # tasks per update [not stated]
    temperature: float = 1.0  # of the draws [.7]
    lr: float = 1e-4  # of AdamW [1e-6, for a model of 8 billion weights]
    beta: float = 0.001  # of the KL penalty to the model after SFT [.001]
    clip_norm: float = 1.0  # largest norm of the gradient [not stated]

    def __post_init__(self) -> None:
        check_at_least(2, group=self.group)
        check_at_least(1, tasks=self.tasks)
        if not self.temperature > 0 or not self.lr > 0 or not self.beta >= 0:
            raise ValueError("temperature, lr: must be positive; beta: must not be negative")


class Update(NamedTuple):
    """What one update has seen."""

    form: float  # mean R_fmt
    outcome: float  # mean R_out
    zero_variance: float  # share of groups that taught nothing
    kl: float  # k3 estimate of KL(policy ‖ reference), nats per word the model wrote
    ratio: float  # mean of π / π_old over the model's words; 1, as there is one update per batch
    calls: float  # tool calls per run
    words: float  # words the model wrote per run
    loss: float
    cut: float  # share of runs that were cut off


class StarGRPO:
    """Stage 2. One update per batch of runs, so the ratio is 1 and nothing is ever clipped (our choice)."""

    def __init__(self, star: Star, reference: Any, config: StarGRPOConfig | None = None) -> None:
        """Prepare.

        Args:
            star: the student; its model is trained in place.
            reference: a frozen copy of the model after SFT.
            config: see there.
        """
        self.star, self.reference, self.config = star, reference, config or StarGRPOConfig()
        self.optimizer = torch.optim.AdamW(star.model.parameters(), lr=self.config.lr, weight_decay=0.0)

    def update(self, tasks: Sequence[Task], generator: torch.Generator | None = None) -> Update:
        """Draw `group` runs of each task, reward them, and take a step."""
        config, star = self.config, self.star
        repeated = [task for task in tasks for _ in range(config.group)]
        written = star.write(repeated, temperature=config.temperature, generator=generator)
        rewards = self.rewards(repeated, written)
        total = torch.tensor([r.total for r in rewards]).view(len(tasks), config.group)
        advantage, zero_variance = group_advantages(total)
        loss, log_prob, log_prob_ref = self.loss(repeated, written, advantage.flatten())
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(star.model.parameters(), config.clip_norm)
        self.optimizer.step()
        with torch.no_grad():
            mine = written.by_model
            k3 = (log_prob_ref - log_prob).exp() - (log_prob_ref - log_prob) - 1
            ratio = (log_prob - written.log_probs).exp()
            return Update(
                form=float(np.mean([r.form for r in rewards])),
                outcome=float(np.mean([r.outcome for r in rewards])),
                zero_variance=float(zero_variance.float().mean()),
                kl=float(k3[mine].mean()),
                ratio=float(ratio[mine].mean()),
                calls=float(np.mean(written.calls)),
                words=float(mine.sum() / len(repeated)),
                loss=float(loss),
                cut=1 - float(np.mean(written.ended)),
            )

    def rewards(self, tasks: Sequence[Task], written: Written) -> list[Reward]:
        """R_fmt and R_out of each run; one that was cut off is malformed."""
        return [
            reward(text, task.target, read_prompt(task.prompt).letters, reflection=self.star.config.reflection)
            if ended
            else Reward(-1.0, 0.0)
            for task, text, ended in zip(tasks, written.texts, written.ended, strict=True)
        ]

    def loss(
        self, tasks: Sequence[Task], written: Written, advantage: Float[Tensor, "batch"]
    ) -> tuple[Float[Tensor, ""], Float[Tensor, "batch new"], Float[Tensor, "batch new"]]:
        """GRPO over the words the model wrote; the tools' words enter neither ratio nor KL.

        Returns:
            the loss, and the log-probabilities of policy and reference.
        """
        prompt, mask = pad([self.star.model.encode(task.prompt) for task in tasks])
        arguments = (prompt, written.ids, mask, written.real)
        log_prob = self.star.model.log_probs(*arguments, temperature=self.config.temperature)
        with torch.no_grad():
            log_prob_ref = self.reference.log_probs(*arguments, temperature=self.config.temperature)
        loss = grpo_loss(log_prob, log_prob.detach(), advantage, written.by_model, log_prob_ref, beta=self.config.beta)
        return loss, log_prob, log_prob_ref


# ------------------------------------------------------------------ which tasks


def stratified(
    difficulty: Sequence[str], n: int, rng: np.random.Generator, shares: dict[str, float] | None = None
) -> Int[np.ndarray, "n"]:
    """Indices of `n` tasks, easy : medium : hard = 3 : 4 : 3, without repetition inside a draw.

    Counts are the shares times n, rounded down, and what is left goes to the largest remainders.

    Args:
        difficulty: of each task, a key of `shares`.
        n: how many to draw.
        rng: of the draw.
        shares: of each level; scaled to sum 1.

    Raises:
        ValueError: too few tasks of a level.
    """
    shares = shares or {"easy": 3, "medium": 4, "hard": 3}
    names = list(shares)
    exact = np.array([shares[name] for name in names]) * n / sum(shares.values())
    counts = np.floor(exact).astype(int)
    counts[np.argsort(-(exact - counts), kind="stable")[: n - counts.sum()]] += 1
    levels, chosen = np.asarray(difficulty), []
    for name, count in zip(names, counts, strict=True):
        there = np.flatnonzero(levels == name)
        if len(there) < count:
            raise ValueError(
                f"difficulty: {count} {name} tasks are wanted, but there are {len(there)}; change the shares or n"
            )
        chosen.append(rng.choice(there, count, replace=False))
    return rng.permutation(np.concatenate(chosen))


def problems(answers: Sequence[Answer]) -> Counter[str]:
    """How many answers have which problem; valid ones are not counted."""
    return Counter(answer.problem for answer in answers if answer.problem)
