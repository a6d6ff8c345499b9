"""Sets of 100 tasks: 24, 47 and 29 of the three levels, as on the paper's board; one set for each seed.

A seed fixes the world, the questions, and nothing else: the truth comes from a replay on the date that is asked for.
Small seeds are *public*. A *hidden* set has a seed made from a pass phrase, which whoever runs a competition keeps: its
questions have the same make and other numbers, and cannot be prepared for. Inspect writes the pass phrase into the log,
so a log gives the set away.

No two tasks share an answer by accident on the day they were written: a question is drawn again until neither its
answer, nor the bare number in it, would be right for another task. The four questions with yes or no are two of each.
So whoever always says the same is right at most twice in a hundred.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Any

import numpy as np

from reclib.agents import answers
from reclib.agents.environment import AdEnvironment
from reclib.agents.tasks import Task, outputs, replay
from reclib.agents.templates import TEMPLATES, Draw, Facts, Question
from reclib.agents.tools import AdAnalyticsTools
from reclib.agents.trajectory import ReferenceCall
from reclib.world.database import DEFAULT_AS_OF

FIRST_AS_OF, LAST_AS_OF = "2025-11-15", "2025-12-31"  # every task has an answer on each of these days
PUBLIC_SEEDS = 2**16  # seeds below are public
TRIES = 300  # draws of one question before giving up


def hidden_seed(pass_phrase: str) -> int:
    """The seed of a hidden set, never a public one.

    Raises:
        ValueError: a pass phrase that is short enough to guess.
    """
    if len(pass_phrase) < 12:
        raise ValueError(f"pass_phrase: {len(pass_phrase)} characters can be guessed; use at least 12")
    return PUBLIC_SEEDS + int.from_bytes(hashlib.sha256(pass_phrase.encode()).digest()[:6], "big")


@lru_cache(maxsize=8)
def tasks(seed: int = 0) -> tuple[Task, ...]:
    """The 100 tasks of a seed, by level.

    Raises:
        ValueError: a negative seed.
    """
    if seed < 0:
        raise ValueError(f"seed: must be zero or positive, got {seed}")
    environment = AdEnvironment.of(seed, DEFAULT_AS_OF)
    tools, facts = AdAnalyticsTools(environment), Facts.of(environment, FIRST_AS_OF, LAST_AS_OF)
    draw = Draw(np.random.default_rng([seed, 14]), facts)
    found: list[Task] = []
    truths: list[Any] = []
    for level, template, count in TEMPLATES:
        for number in range(count):
            for _ in range(TRIES):
                question = template(draw)
                truth = _answerable(question, tools)
                if truth is not None and _is_new(question, truth, found, truths):
                    break
            else:
                raise ValueError(f"seed: in world {seed} no new question of the kind {template.__name__} can be found")
            found.append(
                Task(
                    id=f"L{level}-{template.__name__}-{number}",
                    level=level,
                    category=template.__name__,
                    query=question.query,
                    references=question.references,
                    answer_from=question.answer_from,
                    answer=question.answer,
                    seed=seed,
                    moves=question.moves,
                    mistakes=question.mistakes,
                    rubric=question.rubric,
                )
            )
            truths.append(truth)
    return tuple(found)


@lru_cache(maxsize=16)
def ground_truth(seed: int, as_of: str) -> dict[str, tuple[tuple[tuple[ReferenceCall, ...], ...], Any]]:
    """Task id → (replayed references, truth) on a date."""
    tools = AdAnalyticsTools(AdEnvironment.of(seed, as_of))
    found = {}
    for task in tasks(seed):
        references = tuple(tuple(replay(reference, tools)) for reference in task.references)
        found[task.id] = (references, task.answer_from(outputs(references[0])))
    return found


def same_answer(truth: Any, kind: answers.AnswerType, other: Any, other_kind: answers.AnswerType) -> bool:
    """Whether the answer of one task, or the bare number in it, would be right for another."""
    if "text" in (kind.kind, other_kind.kind):
        return kind.kind == other_kind.kind and truth == other
    pairs = ((truth, kind, other, other_kind), (other, other_kind, truth, kind))
    for mine, my_kind, yours, your_kind in pairs:
        written = answers.write(mine, my_kind)
        if any(answers.score(text, yours, your_kind) == 1 for text in (written, written.split()[0].rstrip("%"))):
            return True
    return False


def _answerable(question: Question, tools: AdAnalyticsTools) -> Any:
    """The truth when written; None for a question that has none, an empty one, or that a mistake answers as well."""
    try:
        replayed = outputs(replay(question.references[0], tools))
        truth = question.answer_from(replayed)
    except (ValueError, ZeroDivisionError, IndexError, KeyError, StopIteration):
        return None
    if truth is None or truth == [] or (question.answer.kind == "number" and truth == 0):
        return None
    return truth


def _is_new(question: Question, truth: Any, found: list[Task], truths: list[Any]) -> bool:
    if any(task.query == question.query for task in found):
        return False
    if question.answer.kind == "bool":
        same = [
            task for task, other in zip(found, truths, strict=True) if task.answer.kind == "bool" and other == truth
        ]
        return len(same) < 2
    return not any(
        same_answer(truth, question.answer, other, task.answer) for task, other in zip(found, truths, strict=True)
    )
