r"""How much of an expert's trajectory an agent covered (AD-Bench: "trajectory-aware" scoring).

The paper's matching rule is not published; this one is our choice. A reference is a graph of steps, each with its
arguments and its output; what an agent executed is a list of calls. A call e *matches* a step r if both name the same
tool and agree on the arguments that r compares, after `normalised`; a step that compares by result (an arithmetic
expression can be written in many ways) asks for the same output instead. With n steps,

    multiset  max |M| / n          M: matching of steps and calls, each used at most once
    ordered   max |M| / n          … in which a call comes in a later turn than those of all steps its step depends on
    result    max |M| / n          … that ignores tool and arguments and asks for equal outputs
    precision max |M| / calls      (multiset) how much of what was executed was needed; 1 if nothing was executed

For a chain executed one call a turn, `ordered` is the longest common subsequence. Calls of one message share a turn, so
a step and its parent cannot both be matched there. Extra calls never lower coverage: read it beside precision. Of
several references each measure takes the best: an alternative path is no fault.
"""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Bool, Int
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

from reclib.agents.tools import defaults

DATE = re.compile(r"(\d{4})-(\d{1,2})-(\d{1,2})")
ORDERED = ("a", "b")  # lists whose order matters: the series of compare_series


@dataclass(frozen=True)
class Call:
    """One tool call that was executed."""

    tool: str
    arguments: Mapping[str, Any]
    output: Any = None  # what the tool returned; None if it failed
    turn: int = 0  # index of the message that asked for it: calls of one message run at the same time
    error: str | None = None  # what the tool said instead


@dataclass(frozen=True)
class ReferenceCall(Call):
    """A step of a reference trajectory, replayed: arguments resolved, output known."""

    id: str = ""
    depends_on: tuple[str, ...] = ()  # ids of the steps whose outputs it uses
    compare: tuple[str, ...] | None = None  # arguments that have to agree; None: all
    by_result: bool = False  # compare the output instead of the arguments


@dataclass(frozen=True)
class Coverage:
    """The measures of the module's docstring, each in [0, 1], for the best of the references."""

    multiset: float
    ordered: float
    result: float
    precision: float
    missing: tuple[str, ...] = field(default=())  # steps of the best reference left out by a largest multiset matching


def trajectory_coverage(references: Sequence[Sequence[ReferenceCall]], executed: Sequence[Call]) -> Coverage:
    """Coverage of one run.

    Args:
        references: the accepted trajectories, each a list of replayed steps; see `reclib.agents.tasks.replay`.
        executed: what the agent called, in order. Domain tools only: leave out the submission of the answer.

    Raises:
        ValueError: no reference, an empty one, or a step that depends on one that is not there or on itself.
    """
    if not references or not all(references):
        raise ValueError("references: give at least one trajectory, and at least one step in each")
    before = [_ancestors(steps) for steps in references]
    each = []
    for steps, ancestors in zip(references, before, strict=True):
        fits = np.array([[matches(e, r) for e in executed] for r in steps], dtype=bool).reshape(len(steps), -1)
        same = np.array([[_same_output(e, r) for e in executed] for r in steps], dtype=bool).reshape(len(steps), -1)
        taken = _matching(fits)
        n, size = len(steps), int((taken >= 0).sum())
        ordered = _ordered(fits, ancestors, np.array([e.turn for e in executed], dtype=np.int64), size)
        missing = tuple(r.id for r, call in zip(steps, taken, strict=True) if call < 0)
        results = int((_matching(same) >= 0).sum())
        precision = size / len(executed) if executed else 1.0
        each.append(Coverage(size / n, ordered / n, results / n, precision, missing))
    best = max(each, key=lambda c: (c.multiset, c.ordered))
    return Coverage(
        best.multiset, max(c.ordered for c in each), max(c.result for c in each), max(c.precision for c in each),
        best.missing,
    )  # fmt: skip


# ------------------------------------------------------------------ when are two calls the same?


def normalised(tool: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments in one canonical form: defaults filled in, nulls dropped, ISO dates, lists sorted, lower case."""
    filled = {**defaults(tool), **{name: value for name, value in arguments.items() if value is not None}}
    return {name: _canonical(value, name not in ORDERED) for name, value in sorted(filled.items()) if value is not None}


def _canonical(value: Any, unordered: bool = False) -> Any:
    if isinstance(value, str):
        text = " ".join(value.casefold().split())
        found = DATE.fullmatch(text)
        return "{}-{:0>2}-{:0>2}".format(*found.groups()) if found else text
    if isinstance(value, dt.date):
        return value.isoformat()
    if isinstance(value, list | tuple):
        items = [_canonical(item) for item in value]
        return sorted(items, key=lambda item: json.dumps(item, sort_keys=True, default=str)) if unordered else items
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def matches(call: Call, step: ReferenceCall) -> bool:
    """Whether a call is what a step asks for."""
    if call.tool != step.tool or call.error is not None:
        return False
    if step.by_result:
        return _same_output(call, step)
    mine, theirs = normalised(call.tool, call.arguments), normalised(step.tool, step.arguments)
    names = mine.keys() | theirs.keys() if step.compare is None else step.compare
    return all(mine.get(name) == theirs.get(name) for name in names)


def _same_output(call: Call, step: ReferenceCall) -> bool:
    return call.error is None and call.output is not None and _equal(call.output, step.output)


def _equal(a: Any, b: Any) -> bool:
    """Outputs agree, numbers up to rounding in the last of ten digits."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_equal, a, b))
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    numbers = isinstance(a, int | float) and isinstance(b, int | float)
    return abs(a - b) <= 1e-9 * max(1.0, abs(b)) if numbers else bool(a == b)


# ------------------------------------------------------------------ matchings


def _matching(fits: Bool[np.ndarray, "steps calls"]) -> Int[np.ndarray, "steps"]:
    """A largest matching (Hopcroft and Karp): for each step the call it got, -1 for none."""
    if not fits.any():
        return np.full(len(fits), -1, dtype=np.int64)
    return np.asarray(maximum_bipartite_matching(csr_array(fits), perm_type="column"), dtype=np.int64)


def _ordered(
    fits: Bool[np.ndarray, "steps calls"],
    ancestors: Sequence[set[int]],
    turn: Int[np.ndarray, "calls"],
    at_most: int,
) -> int:
    """Size of the largest matching that respects the order: turn by turn, all sets of steps that can be matched so far.

    A set says all that matters of the past: once a step is matched, its ancestors are matched already or never will be.
    """
    above = [sum(1 << i for i in before) for before in ancestors]
    below = [sum(1 << j for j, mask in enumerate(above) if mask >> i & 1) for i in range(len(above))]
    reached = {0}
    for t in np.unique(turn):
        now = {(before, 0) for before in reached}  # matched before this turn, and in it
        for e in np.flatnonzero(turn == t):
            steps = np.flatnonzero(fits[:, e]).tolist()
            now |= {
                (before, here | 1 << r)
                for before, here in now
                for r in steps
                if not (before | here) >> r & 1 and not before & below[r] and not here & (above[r] | below[r])
            }
        reached = {before | here for before, here in now}
        if any(matched.bit_count() == at_most for matched in reached):
            return at_most
    return max(matched.bit_count() for matched in reached)


def _ancestors(steps: Sequence[ReferenceCall]) -> list[set[int]]:
    """For each step the indices of all it depends on, directly or not."""
    index = {step.id: i for i, step in enumerate(steps)}
    if len(index) < len(steps):
        raise ValueError("references: two steps have the same id; give each its own")
    reached: dict[int, set[int]] = {}

    def visit(i: int, path: tuple[int, ...]) -> set[int]:
        if i in path:
            raise ValueError(f"references: step {steps[i].id!r} depends on itself; break the circle")
        if i not in reached:
            unknown = [parent for parent in steps[i].depends_on if parent not in index]
            if unknown:
                raise ValueError(f"references: step {steps[i].id!r} depends on {unknown[0]!r}, which is not there")
            parents = [index[parent] for parent in steps[i].depends_on]
            reached[i] = set(parents).union(*(visit(parent, (*path, i)) for parent in parents))
        return reached[i]

    return [visit(i, ()) for i in range(len(steps))]
