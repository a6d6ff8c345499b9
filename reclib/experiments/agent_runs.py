"""The benchmark with scripted agents, through Inspect, as a table of runs and the numbers one reads off it."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from inspect_ai import eval as evaluate
from inspect_ai.log import EvalLog

from reclib.agents import answers
from reclib.agents.adbench import adbench
from reclib.agents.analyst import DIAGNOSES, Dials
from reclib.agents.metrics import pass_at_k, pass_hat_k
from reclib.agents.task_sets import ground_truth, tasks
from reclib.world.database import DEFAULT_AS_OF

COVERED = 1 - 1e-6  # coverage that counts as whole


@dataclass(frozen=True)
class Agent:
    """A scripted agent."""

    manner: str = "analyst"  # see `reclib.agents.analyst`
    dials: Mapping[str, float] = field(default_factory=dict)


def only(kind: str, share: float) -> Agent:
    """An analyst that fails in one way."""
    return Agent(dials={kind: share})


AGENTS: dict[str, Agent] = {
    "oracle": Agent("oracle"),
    "sequential": Agent("sequential"),
    "lucky": Agent("lucky"),
    "stale": Agent("stale"),
    "looping": Agent("looping"),
    "noisy, .7": Agent(dials=Dials.noisy(0.7).each()),
    "noisy, .4": Agent(dials=Dials.noisy(0.4).each()),
    "without rules": Agent("without_rules"),
    "without calculator": Agent("without_calculator"),
    "random": Agent("random"),
}
CONTROLS = ("without rules", "without calculator", "random")


def run(agent: Agent, seed: int, *, runs: int = 3, as_of: str = DEFAULT_AS_OF, agent_seed: int = 0) -> pd.DataFrame:
    """Every run of every task of a seed: one row each.

    Columns: task, level, category, moves, kind, epoch, correct, static (right by the truth of the day the task was
    written), multiset, ordered, result, precision, code, detail, designed, calls, errors.

    Raises:
        RuntimeError: the evaluation did not finish.
    """
    arguments = {"seed": agent_seed, **agent.dials} if agent.manner == "analyst" else {"seed": agent_seed}
    with tempfile.TemporaryDirectory() as folder:
        (log,) = evaluate(
            adbench(seed=seed, as_of=as_of, runs=runs),
            model=f"scripted/{agent.manner}",
            model_args=arguments,
            model_roles={"grader": "scripted_judge/facts"},
            log_dir=folder,
            log_realtime=False,
            display="log",  # at a level nobody listens to; "none" leaves an empty widget in a notebook
        )
        if log.status != "success":
            raise RuntimeError(f"the evaluation of {agent.manner} ended as {log.status!r}: {log.error}")
        return rows_of(log, seed)  # samples are read from the folder when they are asked for


async def run_async(agent: Agent, seed: int, **options: Any) -> pd.DataFrame:
    """The same where a loop is running already, as in a notebook: `await` it."""
    return await asyncio.to_thread(run, agent, seed, **options)


def rows_of(log: EvalLog, seed: int) -> pd.DataFrame:
    """The table, from a log of Inspect."""
    by_id, written = {each.id: each for each in tasks(seed)}, ground_truth(seed, DEFAULT_AS_OF)
    rows = []
    for sample in log.samples or []:
        scores, each = sample.scores or {}, by_id[str(sample.id)]
        answer, coverage = scores["answer"], scores["coverage"].value
        assert isinstance(coverage, dict)
        given, about = answer.answer or "", answer.metadata or {}
        static = 0.0 if each.answer.kind == "text" else answers.score(given, written[each.id][1], each.answer)
        rows.append(
            {
                "task": each.id, "level": each.level, "category": each.category, "moves": each.moves,
                "kind": each.answer.kind, "epoch": sample.epoch, "correct": float(answer.as_float() == 1),
                "static": static, **{name: float(str(value)) for name, value in coverage.items()},
                "code": about["code"], "detail": about["detail"], "designed": about["designed"],
                "calls": about["calls"], "errors": about["errors"],
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def reliability(rows: pd.DataFrame) -> dict[str, float]:
    """Pass@1, pass@3, pass^3 in all and by level, and what else one reports of an agent."""
    found = {}
    for name, part in [("", rows), *((f"/L{level}", part) for level, part in rows.groupby("level"))]:
        counts = part.groupby("task")["correct"].agg(["sum", "count"])
        n, c = counts["count"].to_numpy(), counts["sum"].to_numpy()
        for k in (1, 3):
            if n.min() >= k:
                found[f"pass@{k}{name}"] = float(pass_at_k(n, c, k).mean())
                found[f"pass^{k}{name}"] = float(pass_hat_k(n, c, k).mean())
    for measure in ("multiset", "ordered", "result", "precision"):
        found[measure] = float(rows[measure].mean())
    right, covered = rows["correct"] == 1, rows["multiset"] >= COVERED
    for name, corner in (
        ("right, covered", right & covered), ("right, not covered", right & ~covered),
        ("wrong, covered", ~right & covered), ("wrong, not covered", ~right & ~covered),
    ):  # fmt: skip
        found[name] = float(corner.mean())
    return found | {"calls": float(rows["calls"].mean()), "errors": float(rows["errors"].mean())}


def faults(rows: pd.DataFrame) -> dict[str, float]:
    """Of all runs, the share that is wrong for each reason of the taxonomy, and Pass@1 by what is asked for."""
    wrong = rows[rows["correct"] < 1]
    found = {f"wrong/{code}": len(part) / len(rows) for code, part in wrong.groupby("code")}
    return found | {f"pass@1/{kind}": float(part["correct"].mean()) for kind, part in rows.groupby("kind")}


def freshness(rows: pd.DataFrame) -> dict[str, float]:
    """Share of right answers by today's truth and by that of the day the tasks were written, by how the truth moves."""
    typed = rows[rows["kind"] != "text"]
    found = {}
    for moves, part in typed.groupby("moves"):
        found[f"replayed/{moves}"] = float(part["correct"].mean())
        found[f"static/{moves}"] = float(part["static"].mean())
    return found


def confusion(rows: pd.DataFrame) -> dict[str, float]:
    """Of the runs that were made to fail in a way, the share that got each diagnosis; and the share that is right."""
    failed = rows[rows["designed"] != ""]
    if failed.empty:
        return {}
    said = (failed["code"] + " " + failed["detail"]).str.strip()
    wanted = failed["designed"].map(DIAGNOSES)
    starts = np.array([text.startswith(want) for text, want in zip(said, wanted, strict=True)])
    found = {"diagnosed": float(starts.mean())}
    for kind, part in said.groupby(failed["designed"]):
        for diagnosis, share in part.value_counts(normalize=True).items():
            found[f"{kind} → {diagnosis}"] = float(share)
    return found
