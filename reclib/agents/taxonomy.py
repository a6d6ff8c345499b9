"""Why a run failed: one class per failure, from the answer and the trajectory alone.

Classes, in the order in which they are tried; the first that fits is taken. (Classes and order are our choice: AD-Bench
publishes none.) *Evidence* is every reference step but those of `calculator` and `compare_series`.

    E1  no answer              an empty answer, or none when the messages ran out
    E8  format                 the right value is there, but not in a form that can be read
    S   stale                  the answer of the day the task was written, not of today
    E2  missing evidence       a step has no call in its place: hallucinated (nothing was called at all), wrong tool,
                               lost branch (a step of the same wave was executed), or skipped
    E3  wrong arguments        its tool was called otherwise: window, scope (accounts, ads, industry), filter, arguments
    E6  knowledge              all evidence, and the answer of somebody who did not apply the rule
    E5  aggregation            all evidence, wrong number: mean of ratios, unit, rounding, or other
    E7  comparison             all evidence, wrong name, set, list, yes or no, or text
    E4  unrecovered error      a needed call failed for no fault of its arguments; or the last call failed, all evidence
                               was there, and no known mistake explains the answer

A right answer is `ok`, or `L`, lucky: right, with evidence missing under every reference. It counts as right.
E0, infrastructure, is not here: such runs are not scored but repeated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from reclib.agents import answers
from reclib.agents.answers import SUCCESS
from reclib.agents.tasks import REASONING, Task, levels, outputs
from reclib.agents.trajectory import Call, ReferenceCall, matches, normalised, trajectory_coverage

WINDOW = frozenset(("start", "end", "expression", "month"))
SCOPE = frozenset(("account_ids", "ad_ids", "ad_id", "industry", "tier"))
FILTER = frozenset(("value", "dimension", "metrics", "metric", "kind", "region"))
UNIT_FACTORS = (100.0, 1000.0, 0.01, 0.001)
CLASSES = {
    "ok": "right", "L": "lucky", "E1": "no answer", "E2": "missing evidence", "E3": "wrong arguments",
    "E4": "unrecovered tool error", "E5": "aggregation", "E6": "knowledge", "E7": "comparison", "E8": "format",
    "S": "stale",
}  # fmt: skip


class Diagnosis(NamedTuple):
    """A class and what is known beyond it."""

    code: str  # a key of CLASSES
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.code} {self.detail}".strip()


def diagnose(
    task: Task,
    references: Sequence[Sequence[ReferenceCall]],
    executed: Sequence[Call],
    given: str,
    score: float,
    truth: Any,
    static: Any,
) -> Diagnosis:
    """The class of one run.

    Args:
        task: what was asked.
        references: its trajectories, replayed on the date of the run.
        executed: what the agent called.
        given: what it submitted; empty if nothing.
        score: 1 or 0, from `reclib.agents.answers` or a judge.
        truth: the answer on the date of the run.
        static: the answer on the day the task was written.
    """
    evidence = [[step for step in steps if step.tool not in REASONING] for steps in references]
    # Reasoning steps may be among the ancestors; their own ancestors stand in for them.
    evidence = [[_without(step, steps) for step in kept] for steps, kept in zip(references, evidence, strict=True)]
    each = [trajectory_coverage([steps], executed) for steps in evidence]
    best = max(range(len(each)), key=lambda i: each[i].multiset)
    missing = each[best].missing
    if score >= SUCCESS:
        return Diagnosis("L" if missing else "ok")
    if not given.strip():
        return Diagnosis("E1")
    kind = task.answer
    if kind.kind == "number" and answers.parse(given, kind) is None and any(
        answers.score(str(number), truth, kind) == 1 for number in answers.numbers_in(given)
    ):  # fmt: skip
        return Diagnosis("E8")
    if static != truth and kind.kind != "text" and answers.score(given, static, kind) == 1:
        return Diagnosis("S")
    if missing:
        return _evidence_lost(task, best, evidence[best], missing, executed)
    replayed = outputs(list(references[best]))
    made = answers.parse(given, kind)
    for name, mistake in task.mistakes.items():
        if kind.kind == "number" and made is not None and answers.score(given, _or_nan(mistake, replayed), kind) == 1:
            return Diagnosis("E6", name) if name == "rule" else Diagnosis("E5", name)
    if executed and executed[-1].error is not None:
        return Diagnosis("E4", executed[-1].tool)
    if kind.kind != "number":
        return Diagnosis("E7", kind.kind)
    return Diagnosis("E5", "other" if made is None else _slip(made, truth, kind))


def _evidence_lost(
    task: Task, best: int, steps: Sequence[ReferenceCall], missing: Sequence[str], executed: Sequence[Call]
) -> Diagnosis:
    """E2 or E3, by the first step that is missing."""
    if not executed:
        return Diagnosis("E2", "hallucinated")
    waves = levels(task.references[best])
    first = next(step.id for wave in waves for step in wave if step.id in missing)
    step = next(each for each in steps if each.id == first)
    spare = [e for e in executed if not any(matches(e, each) for each in steps)]
    instead = [e for e in spare if e.tool == step.tool]
    if instead:
        wrong = min((_differing(step, call) for call in instead), key=len)
        if not wrong:
            return Diagnosis("E4", step.tool)
        for detail, names in (("window", WINDOW), ("scope", SCOPE), ("filter", FILTER)):
            if wrong & names:
                return Diagnosis("E3", detail)
        return Diagnosis("E3", "arguments")
    if any(e.tool not in REASONING for e in spare):
        return Diagnosis("E2", "wrong tool")
    beside = next(wave for wave in waves if any(each.id == first for each in wave))
    found = any(each.id not in missing and each.tool not in REASONING for each in beside)
    return Diagnosis("E2", "lost branch" if found else "skipped step")


def _differing(step: ReferenceCall, call: Call) -> set[str]:
    mine, theirs = normalised(step.tool, step.arguments), normalised(call.tool, call.arguments)
    names = mine.keys() | theirs.keys() if step.compare is None else set(step.compare)
    return {name for name in names if mine.get(name) != theirs.get(name)}


def _without(step: ReferenceCall, steps: Sequence[ReferenceCall]) -> ReferenceCall:
    """The step, depending on evidence only."""
    by_id = {each.id: each for each in steps}
    parents: list[str] = []
    waiting = list(step.depends_on)
    while waiting:
        name = waiting.pop(0)
        if by_id[name].tool in REASONING:
            waiting += by_id[name].depends_on
        elif name not in parents:
            parents.append(name)
    return ReferenceCall(
        step.tool, step.arguments, step.output, step.turn, None, step.id, tuple(parents), step.compare, step.by_result
    )


def _or_nan(mistake: Any, replayed: Mapping[str, Any]) -> float:
    """What the mistake would answer; NaN where another reference has no such rows."""
    try:
        return float(mistake(replayed))
    except (KeyError, IndexError, ZeroDivisionError):
        return float("nan")


def _slip(made: float, truth: float, kind: answers.AnswerType) -> str:
    """How a wrong number with all evidence came about."""
    near = max(kind.tol_rel * abs(truth), 1e-3 * abs(truth))
    if any(abs(made - factor * truth) <= factor * near for factor in UNIT_FACTORS):
        return "unit"
    return "rounding" if abs(made - truth) <= 0.01 * abs(truth) else "other"
