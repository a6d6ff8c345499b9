"""Chapter 10's teachers, what is kept of their runs, and the students that learn from them."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int
from tqdm.auto import tqdm

from reclib.experiments.ranking_tasks import RankingTasks
from reclib.language import CompletionBatches, TinyLM, completion_loss
from reclib.nn.sizes import check_at_least
from reclib.reasoning.collaborative_text import TextStore
from reclib.reasoning.mars import (
    COLLABORATIVE,
    TOOLS,
    Mars,
    RuleReasoner,
    Run,
    Weights,
    contradicted,
    long_interests,
    read_notes,
    recommendation,
    vote,
)
from reclib.reasoning.star import Answer, Star, StarConfig, StarGRPO, StarGRPOConfig, Update, sft_example, stratified
from reclib.reasoning.trajectory import LETTERS, MalformedTrajectory, Task, parse, read_prompt, serialise
from reclib.training import FitConfig, fit

# ------------------------------------------------------------------ teachers


class Team(NamedTuple):
    """How a teacher, and whoever learns from it, works."""

    collaborative: bool = True  # whether the tools that count choices exist
    placebo: bool = False  # their texts are dealt to keys at random
    reflect: bool = True


TEAMS = {
    "": Team(),
    ", no CF": Team(collaborative=False),
    ", placebo CF": Team(placebo=True),
    ", no reflection": Team(reflect=False),
}  # behind the name of an arm


def store_of(tasks: RankingTasks, team: Team) -> TextStore:
    """The tools' texts that a team reads."""
    if not team.collaborative:
        return tasks.store.without(COLLABORATIVE)
    if team.placebo:
        return tasks.store.shuffled(COLLABORATIVE, np.random.default_rng([tasks.seed, 11]))
    return tasks.store


def teacher(tasks: RankingTasks, team: Team, noise: float, draw: int = 0, *, weights: Weights | None = None) -> Mars:
    """A team of rules that slip."""
    tools = tuple(tool for tool in TOOLS if team.collaborative or tool not in COLLABORATIVE)
    reasoner = RuleReasoner(noise, np.random.default_rng([tasks.seed, 12, draw]), tools=tools, weights=weights)
    return Mars(reasoner, store_of(tasks, team), reflect=team.reflect)


def ranks_of(tasks: Sequence[Task], rankings: Sequence[Sequence[str] | None]) -> Int[np.ndarray, "n"]:
    """Rank of each target, 1 is best; 0 where there is no ranking."""
    return np.array(
        [0 if ranked is None else ranked.index(task.target) + 1 for task, ranked in zip(tasks, rankings, strict=True)]
    )


def votes(runs: Sequence[Sequence[Run]]) -> list[list[str] | None]:
    """What several runs of each task agree on."""
    out: list[list[str] | None] = []
    for several in runs:
        rankings = [ranked for run in several if (ranked := recommendation(run, LETTERS)) is not None]
        out.append(vote(rankings, LETTERS) if rankings else None)
    return out


class Lessons(NamedTuple):
    """What a teacher wrote about the training tasks."""

    tasks: list[Task]
    texts: list[str]
    rank: Int[np.ndarray, "n"]  # of the target in the teacher's recommendation

    @property
    def kept(self) -> Bool[np.ndarray, "n"]:
        """The outcome filter: runs whose first recommendation is the true ad."""
        kept: np.ndarray = self.rank == 1
        return kept

    @property
    def difficulty(self) -> list[str]:
        """Of each task, by how the teacher did: easy 1, medium up to 5, hard beyond (our choice)."""
        return ["easy" if rank == 1 else "medium" if 1 < rank <= 5 else "hard" for rank in self.rank]


def teach(tasks: RankingTasks, team: Team, noise: float, most: int | None = None) -> Lessons:
    """One run per training task."""
    given = tasks.tasks(tasks.train[:most])
    mars = teacher(tasks, team, noise)
    runs = [mars.solve(task) for task in given]
    rank = ranks_of(given, [recommendation(run, LETTERS) for run in runs])
    return Lessons(given, [run.text for run in runs], rank)


# ------------------------------------------------------------------ students


@dataclass(frozen=True)
class StudentConfig:
    """How students learn; one recipe for all."""

    noise: float = 0.2  # chance of a slip of the teacher, per note and per reflection
    lessons: int | None = None  # training tasks; None: all
    sft_steps: int = 1_000
    batch_size: int = 16  # [16]
    lr: float = 2e-3  # peak, of SFT [2e-5]
    max_new: int = 280  # words behind the prompt
    max_calls: int = 6
    grpo: StarGRPOConfig = StarGRPOConfig(temperature=0.7)  # noqa: RUF009 (frozen)
    updates: int = 80  # of GRPO

    def __post_init__(self) -> None:
        check_at_least(1, sft_steps=self.sft_steps, batch_size=self.batch_size, updates=self.updates)

    def bounds(self, team: Team) -> StarConfig:
        """Of a run of a student."""
        return StarConfig(max_new=self.max_new, max_calls=self.max_calls, reflection=team.reflect)


def fine_tune(
    reader: TinyLM, lessons: Lessons, filtered: bool, config: StudentConfig, seed: int, *, progress: bool = True
) -> TinyLM:
    """Stage 1: a copy of the reader after SFT, in as many steps whether runs were filtered or not."""
    model = copy.deepcopy(reader)
    chosen = np.flatnonzero(lessons.kept) if filtered else np.arange(len(lessons.texts))
    examples = [sft_example(model, lessons.tasks[i], lessons.texts[i]) for i in chosen]
    order = np.random.default_rng([seed, 13])
    shown: list[int] = []
    while len(shown) < config.sft_steps * config.batch_size:
        shown += order.permutation(len(examples)).tolist()
    batches = CompletionBatches(
        [examples[i] for i in shown[: config.sft_steps * config.batch_size]], batch_size=config.batch_size, seed=seed
    )
    fit(model, batches, completion_loss, FitConfig(epochs=1, lr=config.lr, seed=seed), progress=progress)
    return model.eval()


MIXES: dict[str, dict[str, float] | None] = {
    "3:4:3": {"easy": 3, "medium": 4, "hard": 3},
    "uniform": None,  # as tasks come
    "hard only": {"hard": 1},
}


def reinforce(
    model: TinyLM,
    store: TextStore,
    team: Team,
    lessons: Lessons,
    mix: str,
    config: StudentConfig,
    seed: int,
    *,
    updates: int | None = None,
    progress: bool = True,
) -> tuple[TinyLM, list[Update]]:
    """Stage 2: a copy of a model after GRPO, and what each update has seen. The learning rate falls to zero.

    Args:
        model: to start from; also the reference of the KL penalty.
        store: the tools' texts.
        team: how it works.
        lessons: tasks to draw from; how their teacher did says how hard they are.
        mix: of difficulties, one of `MIXES`.
        config: see there.
        seed: of the draws.
        updates: default: those of the configuration.
        progress: show a bar.
    """
    learner, rng, generator = copy.deepcopy(model), np.random.default_rng([seed, 14]), torch.Generator()
    generator.manual_seed(seed)
    grpo = StarGRPO(Star(learner, store, config.bounds(team)), model, config.grpo)
    seen, total, difficulty, shares = [], updates or config.updates, lessons.difficulty, MIXES[mix]
    for number in tqdm(range(total), desc=f"GRPO, {mix}", disable=not progress, leave=False):
        for group in grpo.optimizer.param_groups:
            group["lr"] = config.grpo.lr * (1 - number / total)
        if shares is None:
            rows = rng.choice(len(lessons.tasks), config.grpo.tasks, replace=False)
        else:
            rows = stratified(difficulty, config.grpo.tasks, rng, shares)
        seen.append(grpo.update([lessons.tasks[i] for i in rows], generator))
    return learner.eval(), seen


# ------------------------------------------------------------------ what a student does


def behaviour(tasks: Sequence[Task], answers: Sequence[Answer], rank: Int[np.ndarray, "n"]) -> dict[str, float]:
    """Of a student's answers: `valid`, `calls`, `words`, `sound`, `first quarter`, and hit rates with and without CF.

    `sound`: share of the valid trajectories whose notes, that on divergence left out, their own responses do not
    contradict. `first quarter`: share of first places that go to the letters A to E; without position bias .25.
    """
    valid = [(task, answer) for task, answer in zip(tasks, answers, strict=True) if answer.ranking is not None]
    asked = np.array([f"<tool_call> {COLLABORATIVE[0]}" in answer.text for answer in answers])
    tier = ((rank == 1) + 1.0 * ((rank > 0) & (rank <= 3)) + ((rank > 0) & (rank <= 5))) / 3
    found = {
        "valid": len(valid) / len(answers),
        "calls": float(np.mean([answer.calls for answer in answers])),
        "words": float(np.mean([answer.words for answer in answers])),
        "asks user_cf": float(asked.mean()),
    }
    if valid:
        found["sound"] = float(np.mean([not contradicted(task.prompt, answer.text) for task, answer in valid]))
        found["first quarter"] = float(
            np.mean([answer.ranking[0] in LETTERS[:5] for _, answer in valid if answer.ranking])
        )
    if asked.any():
        found["hr/with user_cf"] = float(tier[asked].mean())
    if not asked.all():
        found["hr/without user_cf"] = float(tier[~asked].mean())
    return found


def by_rule(tasks: Sequence[Task], answers: Sequence[Answer]) -> Int[np.ndarray, "n"]:
    """Ranks of the targets if the team's ranker, which never slips, ranked by a student's notes; 0: none to read."""
    ranker, rankings = RuleReasoner(), list[list[str] | None]()
    for task, answer in zip(tasks, answers, strict=True):
        try:
            steps = parse(answer.text)
        except MalformedTrajectory:
            rankings.append(None)
            continue
        notes = serialise([step for step in steps if step.kind != "recommend"])
        rankings.append(ranker("rank", task.prompt, notes).split())
    return ranks_of(tasks, rankings)


def divergence(tasks: Sequence[Task], answers: Sequence[Answer], store: TextStore) -> float:
    """Of the runs that say whether the latest topic differs from the long interests, the share that says it right."""
    right = []
    for task, answer in zip(tasks, answers, strict=True):
        try:
            steps = [step for step in parse(answer.text) if step.kind == "note"]
        except MalformedTrajectory:
            continue
        if {"differ", "agree"} & {word for step in steps for word in step.text.split()}:
            latest, long = read_prompt(task.prompt).recent[-1][1], long_interests(store("history", task.user).split())
            right.append(read_notes(steps).differ == (latest not in long))
    return float(np.mean(right)) if right else float("nan")


def calls_of(text: str) -> int:
    """Tool calls of a trajectory."""
    return sum(step.kind == "tool_call" for step in parse(text))


@torch.no_grad()
def seconds_of_teacher(model: TinyLM, runs: Sequence[Run], context: int) -> float:
    """Seconds per task if one model did all the agents' calls: each reads everything anew, then writes its words.

    What is read and written is as long as the run says; which words it is does not matter for the time.
    """
    start = time.perf_counter()
    for run in runs:
        for call in run.calls:
            read = min(call.read, context - max(call.wrote, 1))
            ids = torch.ones(1, read, dtype=torch.long)
            model.generate(ids, max_new=max(call.wrote, 1), stop=[], temperature=0.0)
    return (time.perf_counter() - start) / len(runs)


def seconds_of_student(star: Star, tasks: Sequence[Task]) -> float:
    """Seconds per task, one after another, store reads included."""
    start = time.perf_counter()
    for task in tasks:
        star.write([task], temperature=0.0)
    return (time.perf_counter() - start) / len(tasks)
