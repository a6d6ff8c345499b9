r"""A task: a question, the expert's trajectories, and a truth that is made anew for every date.

    Step = (id, tool, arguments, depends_on)        arguments may refer to outputs of earlier steps
    Task = (question, references, answer_from, …)   every reference leads to the same answer

The truth is never stored. AD-Bench's *dynamic ground truth* replays the expert's calls on the live system,

$$\mathrm{truth}(task,\,as\_of)=\mathrm{answer\_from}(\mathrm{replay}(reference,\,\mathrm{AdEnvironment}(seed,as\_of))),$$

so that a question with relative dates ("last 7 days") has an answer on every day. A *static* truth, kept from the day
the task was written, goes stale.

References inside arguments: `"$s1.start"` is the value itself; `"{s2.rows.0.spend}"` inside a longer text is written
out (a list as `[1, 2]`). After the step's id come keys and positions; `*` is "of every row".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from reclib.agents.answers import AnswerType
from reclib.agents.environment import AdEnvironment
from reclib.agents.tools import AdAnalyticsTools
from reclib.agents.trajectory import ReferenceCall
from reclib.world.database import DEFAULT_AS_OF

Outputs = Mapping[str, Any]  # output of each step, by id
AnswerFrom = Callable[[Outputs], Any]  # a pure function
WHOLE, INSIDE = re.compile(r"\$([\w.*]+)"), re.compile(r"\{([\w.*]+)\}")
BY_RESULT = ("calculator", "resolve_date")  # the same can be written in many ways
REASONING = ("calculator", "compare_series")  # tools that bring no new evidence


@dataclass(frozen=True)
class Step:
    """One tool call of an expert. `depends_on` follows from the references in the arguments."""

    id: str
    tool: str
    arguments: Mapping[str, Any]
    compare: tuple[str, ...] | None = None  # arguments that a call has to agree on; None: all of them
    after: tuple[str, ...] = ()  # steps whose output is needed though no argument refers to it

    @property
    def depends_on(self) -> tuple[str, ...]:
        """Ids of the steps that have to come first."""
        return tuple(dict.fromkeys([*self.after, *_mentioned(self.arguments)]))


@dataclass(frozen=True)
class Task:
    """One question of the benchmark."""

    id: str
    level: Literal[1, 2, 3]  # as in the paper: 1 one retrieval, 2 filter and aggregate, 3 knowledge and several sources
    category: str
    query: str
    references: tuple[tuple[Step, ...], ...]  # at least one accepted trajectory
    answer_from: AnswerFrom
    answer: AnswerType
    seed: int  # of the environment
    moves: Literal["daily", "sometimes", "never"]  # does the truth change with the date?
    mistakes: Mapping[str, AnswerFrom] = field(default_factory=dict)  # what a known mistake would answer, by its name
    rubric: str = ""  # for a judge: what a text must say; filled with the truth

    def truth(self, as_of: str = DEFAULT_AS_OF) -> Any:
        """The answer on a date, from a replay of the first reference."""
        tools = AdAnalyticsTools(AdEnvironment.of(self.seed, as_of))
        return self.answer_from(outputs(replay(self.references[0], tools)))


def replay(reference: Sequence[Step], tools: AdAnalyticsTools) -> list[ReferenceCall]:
    """Execute a reference, step by step, in an order that its dependencies allow.

    Raises:
        ValueError: a step refers to something that is not there, or a tool refuses its arguments.
    """
    done: dict[str, ReferenceCall] = {}
    waiting = list(reference)
    while waiting:
        ready = [step for step in waiting if set(step.depends_on) <= done.keys()]
        if not ready:
            raise ValueError(f"reference: step {waiting[0].id!r} waits for a step that never comes; check depends_on")
        so_far = {name: call.output for name, call in done.items()}
        for step in ready:
            arguments = resolved(step.arguments, so_far)
            done[step.id] = ReferenceCall(
                tool=step.tool,
                arguments=arguments,
                output=tools.call(step.tool, arguments),
                turn=len(done),
                id=step.id,
                depends_on=step.depends_on,
                compare=step.compare,
                by_result=step.tool in BY_RESULT,
            )
        waiting = [step for step in waiting if step.id not in done]
    return list(done.values())


def outputs(calls: Sequence[ReferenceCall]) -> dict[str, Any]:
    """Outputs by step id."""
    return {call.id: call.output for call in calls}


def levels(reference: Sequence[Step]) -> list[list[Step]]:
    """Steps that can run at the same time, wave by wave."""
    waves: list[list[Step]] = []
    done: set[str] = set()
    while len(done) < len(reference):
        wave = [step for step in reference if step.id not in done and set(step.depends_on) <= done]
        if not wave:
            raise ValueError("reference: the steps wait for each other in a circle; check depends_on")
        waves.append(wave)
        done |= {step.id for step in wave}
    return waves


def resolved(value: Any, so_far: Outputs) -> Any:
    """Arguments with every reference replaced by what it stands for."""
    if isinstance(value, Mapping):
        return {name: resolved(each, so_far) for name, each in value.items()}
    if isinstance(value, list):
        return [resolved(each, so_far) for each in value]
    if not isinstance(value, str):
        return value
    whole = WHOLE.fullmatch(value)
    if whole is not None:
        return look_up(whole[1], so_far)
    return INSIDE.sub(lambda match: _written(look_up(match[1], so_far)), value)


def look_up(path: str, so_far: Outputs) -> Any:
    """What "s1.rows.0.spend" stands for."""
    value: Any = so_far
    keys = path.split(".")
    for i, key in enumerate(keys):
        try:
            if key == "*":
                return [look_up(".".join(["_", *keys[i + 1 :]]), {"_": each}) for each in value]
            value = value[int(key)] if isinstance(value, list) else value[key]
        except (KeyError, IndexError, ValueError, TypeError):
            raise ValueError(f"reference: {path!r} finds nothing at {key!r}; check the step and its output") from None
    return value


def _written(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_written(each) for each in value) + "]"
    return repr(value) if isinstance(value, float) else str(value)


def _mentioned(value: Any) -> list[str]:
    if isinstance(value, Mapping):
        return [name for each in value.values() for name in _mentioned(each)]
    if isinstance(value, list):
        return [name for each in value for name in _mentioned(each)]
    if not isinstance(value, str):
        return []
    whole = WHOLE.fullmatch(value)
    paths = [whole[1]] if whole is not None else INSIDE.findall(value)
    return [path.split(".")[0] for path in paths]
