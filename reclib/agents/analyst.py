"""Analysts without a language model: an expert, and one that fails in a known way at a known rate.

They are a model provider of Inspect, so they go through the same loop, tools and scorers as a real model, without a
network: what the benchmark reports about them can be compared with what they were built to do.

    scripted/oracle      replays the reference, all calls that are possible in one message: right every time
    scripted/sequential  the same, one call per message
    scripted/lucky       knows the answer and calls nothing
    scripted/stale       knows the answer of the day the task was written
    scripted/looping     repeats one call and never answers
    scripted/analyst     the oracle, with the dials of `Dials`, given as model arguments

and three controls:

    scripted/without_rules       the oracle without `search_rules`; where it would need the rules, it guesses
    scripted/without_calculator  the oracle without `calculator`; it reckons in its head, with an error of some percent
    scripted/random              three calls of other tasks, and the answer to another task

A run of `analyst` fails with probability Σ dials. How it fails is drawn from those kinds that the task allows, in
proportion to their dials (a task without a ratio knows no mean of ratios); where it allows none of them, it succeeds.
Everything follows from the analyst's seed, the task and the number of the run.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessage,
    ChatMessageAssistant,
    ChatMessageTool,
    GenerateConfig,
    ModelAPI,
    ModelOutput,
    modelapi,
)
from inspect_ai.tool import ToolCall, ToolChoice, ToolInfo
from inspect_ai.util import store

from reclib.agents import answers
from reclib.agents.task_sets import ground_truth, tasks
from reclib.agents.tasks import REASONING, Outputs, Step, Task, levels, outputs, resolved
from reclib.world.database import DEFAULT_AS_OF

LACKS = {"without_rules": "search_rules", "without_calculator": "calculator"}
MANNERS = ("oracle", "sequential", "lucky", "stale", "looping", "analyst", "random", *LACKS)
HEAD_ERROR = 0.02  # standard deviation of mental arithmetic, relative (our choice)
OTHER_WINDOWS = ("last 9 days", "last 16 days", "last 25 days")  # no task asks for these


@dataclass(frozen=True)
class Dials:
    """How often an analyst fails in each way; probabilities, together at most 1."""

    wrong_tool: float = 0.0  # another tool in place of one that is needed, and a guess
    wrong_date: float = 0.0  # another window than the one that was asked for
    mean_of_ratios: float = 0.0  # the mean of the accounts' ratios
    unit_slip: float = 0.0  # cents for yuan, shares for percent
    early_stop: float = 0.0  # stops after the first calls, with an empty answer
    hallucination: float = 0.0  # a number from nowhere
    lost_branch: float = 0.0  # one of several independent calls is forgotten, and a guess

    def __post_init__(self) -> None:
        for name, value in self.each().items():
            if not 0 <= value <= 1:
                raise ValueError(f"{name}: {value} is no probability; give a number from 0 to 1")
        if sum(self.each().values()) > 1 + 1e-9:
            raise ValueError(f"dials: sum to {sum(self.each().values()):g}; together at most 1")

    @staticmethod
    def noisy(p: float) -> Dials:
        """Succeeds with probability p on every task, and fails in all ways alike."""
        if not 0 <= p <= 1:
            raise ValueError(f"p: {p} is no probability; give a number from 0 to 1")
        return Dials(**{each.name: (1 - p) / len(fields(Dials)) for each in fields(Dials)})

    def each(self) -> dict[str, float]:
        """The dials by name."""
        return {each.name: getattr(self, each.name) for each in fields(self)}


# What the error taxonomy should say of each kind of failure.
DIAGNOSES = {
    "wrong_tool": "E2 wrong tool", "wrong_date": "E3 window", "mean_of_ratios": "E5 mean of ratios",
    "unit_slip": "E5 unit", "early_stop": "E1", "hallucination": "E2 hallucinated", "lost_branch": "E2 lost branch",
}  # fmt: skip


@dataclass(frozen=True)
class Script:
    """What an analyst will do: which calls, and what it answers from their outputs."""

    steps: tuple[Step, ...]
    kind: str = ""  # of failure; empty if it will succeed

    def without(self, lost: str) -> Script:
        """The same without a step and all that depend on it."""
        gone = {lost}
        for wave in levels(self.steps):
            gone |= {step.id for step in wave if gone & set(step.depends_on)}
        return Script(tuple(step for step in self.steps if step.id not in gone), self.kind)


def possible_failures(task: Task, as_of: str = DEFAULT_AS_OF) -> tuple[str, ...]:
    """The kinds of failure that a task allows: those that would give a wrong answer, for their own reason."""
    references, truth = ground_truth(task.seed, as_of)[task.id]
    steps, kind = task.references[0], task.answer
    found = ["wrong_tool", "early_stop", "hallucination"]
    if any(step.tool == "resolve_date" for step in steps):
        found.append("wrong_date")
    mistake = task.mistakes.get("mean of ratios")
    if mistake is not None and answers.score(str(mistake(outputs(references[0]))), truth, kind) == 0:
        found.append("mean_of_ratios")
    if kind.kind == "number" and kind.unit and truth != 0:
        found.append("unit_slip")
    if _branches(steps):
        found.append("lost_branch")
    return tuple(each.name for each in fields(Dials) if each.name in found)


def script(task: Task, dials: Dials, rng: np.random.Generator, as_of: str = DEFAULT_AS_OF) -> Script:
    """Draw what happens in one run."""
    steps, weights = task.references[0], dials.each()
    fails = rng.random() < sum(weights.values())
    kinds = [kind for kind in possible_failures(task, as_of) if weights[kind] > 0]
    if not fails or not kinds:
        return Script(steps)
    weight = np.array([weights[kind] for kind in kinds])
    kind = kinds[int(rng.choice(len(kinds), p=weight / weight.sum()))]
    evidence = [step for step in steps if step.tool not in REASONING]
    match kind:
        case "wrong_tool":
            lost = evidence[int(rng.integers(len(evidence)))]
            other = Step(lost.id, "list_accounts", {}, after=lost.depends_on)
            if lost.tool == "list_accounts":
                other = Step(lost.id, "search_rules", {"query": "budget"}, after=lost.depends_on)
            return Script((*Script(steps, kind).without(lost.id).steps, other), kind)
        case "wrong_date":
            lost = next(step for step in steps if step.tool == "resolve_date")
            other = Step(lost.id, lost.tool, {"expression": OTHER_WINDOWS[int(rng.integers(len(OTHER_WINDOWS)))]})
            return Script(tuple(other if step is lost else step for step in steps), kind)
        case "mean_of_ratios":
            return Script(tuple(evidence), kind)
        case "early_stop":
            return Script(tuple(levels(steps)[0][:1]), kind)
        case "hallucination":
            return Script((), kind)
        case "lost_branch":
            branches = _branches(steps)
            return Script(steps, kind).without(branches[int(rng.integers(len(branches)))])
    return Script(steps, kind)


def lacking(task: Task, tool: str) -> Script:
    """The reference without a tool; `kind` is the tool if the task needs it."""
    plan = Script(task.references[0])
    for step in task.references[0]:
        if step.tool == tool:
            plan = Script(plan.steps, tool).without(step.id)
    return plan


def at_random(task: Task, rng: np.random.Generator) -> Script:
    """Three calls that other tasks begin with, whatever this one asks."""
    every = tasks(task.seed)
    firsts = [levels(every[int(k)].references[0])[0] for k in rng.choice(len(every), 3, replace=False)]
    drawn = [first[int(rng.integers(len(first)))] for first in firsts]
    return Script(tuple(Step(f"r{n}", step.tool, step.arguments) for n, step in enumerate(drawn)), "random")


def submission(task: Task, plan: Script, so_far: Outputs, rng: np.random.Generator, as_of: str = DEFAULT_AS_OF) -> str:
    """What is answered in the end."""
    if not plan.kind:
        return answers.write(task.answer_from(so_far), task.answer)
    truth = ground_truth(task.seed, as_of)[task.id][1]
    if plan.kind == "early_stop":
        return ""
    if plan.kind == "calculator":
        return answers.write(truth * (1 + HEAD_ERROR * rng.standard_normal()), task.answer)
    if plan.kind == "random":
        alike = [each for each in tasks(task.seed) if each.answer.kind == task.answer.kind and each.id != task.id]
        other = alike[int(rng.integers(len(alike)))]
        return answers.write(ground_truth(task.seed, as_of)[other.id][1], task.answer)
    if plan.kind == "mean_of_ratios":
        return answers.write(task.mistakes["mean of ratios"](so_far), task.answer)
    if plan.kind == "unit_slip":
        return f"{truth / 100 if task.answer.unit == '%' else truth * 100:.10g}"
    if plan.kind == "wrong_date" and {step.id for step in plan.steps} <= so_far.keys() and task.answer.kind != "text":
        made = answers.write(task.answer_from(so_far), task.answer)
        if answers.score(made, truth, task.answer) == 0:
            return made
    return _guess(task, truth, rng)


def _branches(steps: Sequence[Step]) -> list[str]:
    """Steps that bring evidence beside others of the same wave."""
    waves = [[step.id for step in wave if step.tool not in REASONING] for wave in levels(steps)]
    return [id for wave in waves if len(wave) > 1 for id in wave]


def _guess(task: Task, truth: Any, rng: np.random.Generator) -> str:
    """A plausible wrong answer."""
    match task.answer.kind:
        case "number":
            wrong = truth * (1.2 + rng.random()) + 1
            return answers.write(round(wrong) if isinstance(truth, int) else wrong, task.answer)
        case "bool":
            return answers.write(not truth, task.answer)
        case "set" | "list":
            return answers.write([*list(truth)[1:], 1 + int(rng.integers(5))], task.answer)
        case "enum":
            return f"{truth}0"
    return "It cannot be said."


# ------------------------------------------------------------------ as a model of Inspect


class ScriptedAnalyst(ModelAPI):
    """See the module's docstring.

    Args:
        model_name: one of MANNERS.
        seed: of the analyst's failures.
        **dials: as in `Dials`, for "analyst".

    Raises:
        ValueError: no such manner or dial, or a dial out of range.
    """

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig = GenerateConfig(),  # noqa: B008 (the signature that Inspect asks for)
        seed: int = 0,
        **dials: float,
    ) -> None:
        super().__init__(model_name, base_url, api_key, [], config)
        if model_name not in MANNERS:
            raise ValueError(f"model_name: there is no scripted/{model_name}; choose one of {', '.join(MANNERS)}")
        known = [each.name for each in fields(Dials)]
        for name in dials:
            if name not in known:
                raise ValueError(f"{name}: there is no such dial; choose from {', '.join(known)}")
        self.seed, self.dials = seed, Dials(**dials)

    async def generate(
        self,
        input: list[ChatMessage],
        tools: list[ToolInfo],
        tool_choice: ToolChoice,
        config: GenerateConfig,
    ) -> ModelOutput:
        """The next message: calls, or the submission."""
        task, as_of = _asked(input), str(store().get("as_of", DEFAULT_AS_OF))
        if self.model_name == "looping":
            return self._calls([("again", "resolve_date", {"expression": "yesterday"})], len(input))
        if self.model_name in ("lucky", "stale"):
            day = DEFAULT_AS_OF if self.model_name == "stale" else as_of
            return self._submit(answers.write(ground_truth(task.seed, day)[task.id][1], task.answer))
        rng = np.random.default_rng([self.seed, task.seed, zlib.crc32(task.id.encode()), int(store().get("epoch", 1))])
        if self.model_name in LACKS:
            plan = lacking(task, LACKS[self.model_name])
        elif self.model_name == "random":
            plan = at_random(task, rng)
        else:
            plan = script(task, self.dials if self.model_name == "analyst" else Dials(), rng, as_of)
            store().set("designed", plan.kind)
        asked, so_far = _results(input)
        ready = [step for step in plan.steps if step.id not in asked and set(step.depends_on) <= so_far.keys()]
        if self.model_name == "sequential":
            ready = ready[:1]
        if ready:
            calls = [(step.id, step.tool, resolved(dict(step.arguments), so_far)) for step in ready]
            return self._calls(calls, len(input))
        return self._submit(submission(task, plan, so_far, rng, as_of))

    def _submit(self, answer: str) -> ModelOutput:
        return self._calls([("submit", "submit", {"answer": answer})], 0)

    def _calls(self, calls: Sequence[tuple[str, str, Mapping[str, Any]]], turn: int) -> ModelOutput:
        requests = [ToolCall(id=f"{id}@{turn}", function=tool, arguments=dict(given)) for id, tool, given in calls]
        message = ChatMessageAssistant(content="", tool_calls=requests, model=self.model_name, source="generate")
        return ModelOutput(
            model=self.model_name, choices=[ChatCompletionChoice(message=message, stop_reason="tool_calls")]
        )


def _asked(messages: Sequence[ChatMessage]) -> Task:
    """The task whose question stands in the conversation."""
    seed = int(store().get("seed", 0))
    questions = {task.query: task for task in tasks(seed)}
    for message in messages:
        if message.role == "user" and message.text in questions:
            return questions[message.text]
    raise ValueError(f"input: no question of the task set of seed {seed} is in the conversation; run it on adbench")


def _results(messages: Sequence[ChatMessage]) -> tuple[set[str], dict[str, Any]]:
    """Ids of the steps that were asked for, and the outputs of those that succeeded."""
    replies = [message for message in messages if isinstance(message, ChatMessageTool)]
    ids = [(str(reply.tool_call_id).split("@")[0], reply) for reply in replies]
    return {id for id, _ in ids}, {id: json.loads(reply.text) for id, reply in ids if reply.error is None}


class ScriptedJudge(ModelAPI):
    """A judge without a language model: correct if all numbers and dates of the example are in the candidate."""

    async def generate(
        self,
        input: list[ChatMessage],
        tools: list[ToolInfo],
        tool_choice: ToolChoice,
        config: GenerateConfig,
    ) -> ModelOutput:
        """A verdict as `reclib.agents.judge` asks for it."""
        lines = input[-1].text.splitlines()
        mark = lines[0].removesuffix(".").split()[-1]
        candidate = json.loads(lines[lines.index(mark) + 1])
        truth = json.loads(next(line for line in lines if '"' in line and "as an example: " in line).partition(": ")[2])
        missing = sorted(set(answers.numbers_in(truth)) - set(answers.numbers_in(candidate)))
        verdict = f"Missing: {missing}.\nGRADE: I" if missing else "Every fact is there.\nGRADE: C"
        return ModelOutput.from_content(self.model_name, verdict)


@modelapi("scripted")
def scripted() -> type[ModelAPI]:
    """Registers the analysts with Inspect."""
    return ScriptedAnalyst


@modelapi("scripted_judge")
def scripted_judge() -> type[ModelAPI]:
    """Registers the judge with Inspect."""
    return ScriptedJudge
