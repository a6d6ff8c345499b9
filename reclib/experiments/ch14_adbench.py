"""Chapter 14: what an agents' benchmark can see, tried out on agents whose faults are known.

Data set `adbench`: the benchmark through Inspect, 100 tasks of each seed, three runs of each, agents of
`agent_runs.AGENTS`. Metrics of `agent_runs.reliability`; of agents with dials also `confusion`. Settings:

- `""`: on the day the tasks were written. Of the controls also `wrong/…` (by the taxonomy) and `pass@1/…` (by what
  kind of answer is asked for).
- `"dials"`: analysts that fail in one way in half of the runs that allow it, one run of each task.
- `"later"`: `oracle` and `stale`, x = days after the tasks were written; `replayed/…` and `static/…` by how the truth
  moves: `daily`, `sometimes`, `never`.

Data set `board`: the public leaderboard; arms are its models, and `board` for all of it. Exact numbers, recorded under
seed 0 (intervals over tasks are bootstrapped from a fixed stream). `error`, `successes`, `solved`, `always/least`,
`always/most` (tasks that may have succeeded three times), `pass@1/low`, `pass@1/high` (95 % over tasks, the wider one).
Of `board`: `levels in order` (share of rows with Pass@1 falling from level to level), `overlapping` (share of rows
whose interval holds the best row's Pass@1).

Data set `design`: simulated agents with the leader's Pass@1 and Pass@3 (`board.Skill`); each seed is a stream of random
numbers. Setting `"power, 100 × 3"` and the like (tasks × runs): x = true gain in Pass@1; `paired`, `unpaired`, `order`.
Setting `"estimators"`: x = runs of each task; bias and spread of pass@3 and pass^3 over 100 tasks.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from reclib.agents.analyst import Dials
from reclib.experiments import board
from reclib.experiments.agent_runs import (
    AGENTS,
    CONTROLS,
    Agent,
    confusion,
    faults,
    freshness,
    only,
    reliability,
)
from reclib.experiments.agent_runs import run as run_agent
from reclib.experiments.results import record
from reclib.world.database import DEFAULT_AS_OF

NAME = "14_adbench"
ADBENCH, BOARD, DESIGN = "adbench", "board", "design"
KINDS = tuple(each.name for each in fields(Dials))
LEADER = (0.68, 0.83)  # Pass@1 and Pass@3 of the board's first row


@dataclass(frozen=True)
class Config:
    """The recorded run."""

    agents: tuple[str, ...] = tuple(AGENTS)
    runs: int = 3
    kinds: tuple[str, ...] = KINDS
    share: float = 0.5  # of the runs, in which an analyst with one dial fails
    days: tuple[int, ...] = (1, 7, 14)  # after the tasks were written
    gains: tuple[float, ...] = (0.01, 0.02, 0.05, 0.1, 0.2)  # in Pass@1
    designs: tuple[tuple[int, int], ...] = ((100, 3), (100, 10), (300, 3), (823, 3))  # tasks, runs [100, 3; 823 tasks]
    runs_of_each: tuple[int, ...] = (3, 5, 8, 16)
    repeats: int = 1000  # simulated benchmarks


SCALES: dict[str, Config] = {
    "smoke": Config(
        ("oracle", "noisy, .7"), 1, ("unit_slip",), days=(1,), gains=(0.1,), designs=((20, 3),), repeats=20
    ),
    "book": Config(agents=("oracle", "noisy, .7"), kinds=(), days=()),
    "full": Config(),
}


def run(
    config: Config,
    seeds: Sequence[int],
    *,
    force: bool = False,
    root: Path | str | None = None,
    datasets: Sequence[str] | None = None,
) -> None:
    """Record all that is not recorded yet.

    Args:
        datasets: only these of `board`, `design` and `adbench`.
    """
    if unknown := set(datasets or ()) - {ADBENCH, BOARD, DESIGN}:
        raise ValueError(f"datasets: there is no {sorted(unknown)}; choose from {ADBENCH}, {BOARD}, {DESIGN}")
    common: dict[str, Any] = {"force": force, "root": root}
    if datasets is None or BOARD in datasets:
        _board(common)
    for seed in seeds:
        if datasets is None or DESIGN in datasets:
            _design(config, seed, common)
        if datasets is None or ADBENCH in datasets:
            _agents(config, seed, common)


def _board(common: dict[str, Any]) -> None:
    """Arithmetic on the published table."""
    key: dict[str, Any] = {"dataset": BOARD, "seed": 0, "config": {"board": board.BOARD}, **common}
    tasks = sum(board.LEVELS)
    rng = np.random.default_rng(14)
    intervals: dict[str, tuple[float, float]] = {}
    for model, row in board.BOARD.items():
        counts = board.recovered(row)
        successes, solved = sum(counts.successes), sum(counts.solved)
        least, most = board.always_bounds(successes, solved)
        both = [board.bootstrap(board.spectrum(successes, solved, always, tasks), rng) for always in (least, most)]
        intervals[model] = max(both, key=lambda interval: interval[1] - interval[0])
        with record(NAME, arm=model, **key) as log:
            if log.finished:
                continue
            for metric, value in {
                "error": counts.error, "successes": successes, "solved": solved, "always/least": least,
                "always/most": most, "pass@1/low": intervals[model][0], "pass@1/high": intervals[model][1],
            }.items():  # fmt: skip
                log.log(metric, value)
    with record(NAME, arm="board", **key) as log:
        if not log.finished:
            rows = [board.recovered(row) for row in board.BOARD.values()]
            rates = [[s / n for s, n in zip(row.successes, board.LEVELS, strict=True)] for row in rows]
            best = max(sum(row.successes) for row in rows) / (board.RUNS * tasks)
            log.log("error", max(row.error for row in rows))
            log.log("levels in order", np.mean([rate[0] > rate[1] > rate[2] for rate in rates]))
            log.log("overlapping", np.mean([low <= best <= high for low, high in intervals.values()]))


def _design(config: Config, seed: int, common: dict[str, Any]) -> None:
    """How many tasks and runs it takes."""
    skill = board.Skill.of(*LEADER)
    key: dict[str, Any] = {"arm": "leader", "dataset": DESIGN, "seed": seed, **common}
    for tasks, runs in config.designs:
        about = {"skill": asdict(skill), "tasks": tasks, "runs": runs, "repeats": config.repeats, "gains": config.gains}
        with record(NAME, setting=f"power, {tasks} × {runs}", config=about, **key) as log:
            rng = np.random.default_rng([14, seed, tasks, runs])
            for gain in () if log.finished else config.gains:
                for metric, value in board.power(skill, gain, tasks, runs, rng, config.repeats).items():
                    log.log(metric, value, x=gain)
    about = {"skill": asdict(skill), "runs": config.runs_of_each, "repeats": config.repeats}
    with record(NAME, setting="estimators", config=about, **key) as log:
        rng = np.random.default_rng([14, seed])
        for runs in () if log.finished else config.runs_of_each:
            for metric, value in board.estimators(skill, 100, runs, 3, rng, config.repeats).items():
                log.log(metric, value, x=runs)


def _agents(config: Config, seed: int, common: dict[str, Any]) -> None:
    """The benchmark itself."""
    key: dict[str, Any] = {"dataset": ADBENCH, "seed": seed, **common}
    for name in config.agents:
        about = {"agent": _about(AGENTS[name]), "runs": config.runs}
        with record(NAME, arm=name, config=about, **key) as log:
            if not log.finished:
                rows = run_agent(AGENTS[name], seed, runs=config.runs, agent_seed=seed)
                more = faults(rows) if name in CONTROLS else {}
                for metric, value in {**reliability(rows), **confusion(rows), **more}.items():
                    log.log(metric, value)
    for kind in config.kinds:
        agent = only(kind, config.share)
        with record(NAME, arm=f"only {kind}", setting="dials", config={"agent": _about(agent)}, **key) as log:
            if not log.finished:
                rows = run_agent(agent, seed, runs=1, agent_seed=seed)
                for metric, value in {**reliability(rows), **confusion(rows)}.items():
                    log.log(metric, value)
    for name in ("oracle", "stale") if config.days else ():
        with record(NAME, arm=name, setting="later", config={"days": config.days}, **key) as log:
            for days in () if log.finished else config.days:
                rows = run_agent(AGENTS[name], seed, runs=1, as_of=later(days))
                for metric, value in freshness(rows).items():
                    log.log(metric, value, x=days)


def _about(agent: Agent) -> dict[str, Any]:
    return {"manner": agent.manner, "dials": dict(agent.dials)}


def later(days: int) -> str:
    """A day after the one the tasks were written on."""
    return (dt.date.fromisoformat(DEFAULT_AS_OF) + dt.timedelta(days=days)).isoformat()
