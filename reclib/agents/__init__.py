"""Agents that analyse advertising: AD-Bench (Hu et al. 2026, arXiv 2602.14257), built anew in the open.

Of the original the board and two abstracts are public; tools, tasks, matching rule and judge are not. So everything
here is AD-Bench-*like*, our choice where the paper is silent, and no score is comparable with the published ones. Read
the modules in this order.

| module | what it defines |
| --- | --- |
| `environment` | the live system: the ad world's campaign database, a fixed clock, nothing can write |
| `dates`, `calculator` | two small languages that models write in, parsed and never executed |
| `tools` | the eleven tools, typed and bounded |
| `trajectory` | what matches an expert's step; coverage by three rules |
| `answers` | typed answers |
| `tasks` | a task: references that depend on one another, truth by replay |
| `templates`, `task_sets` | 23 kinds of questions; 100 tasks for each seed; public and hidden seeds |
| `metrics` | pass@k and pass^k |
| `judge` | free text, and answers that try to grade themselves |
| `taxonomy` | why a run failed |
| `analyst` | an expert and analysts with known faults, as a model provider of Inspect |
| `adbench` | the task for Inspect |
"""

from reclib.agents.adbench import adbench
from reclib.agents.analyst import Dials, ScriptedAnalyst
from reclib.agents.environment import AdEnvironment
from reclib.agents.metrics import pass_at_k, pass_hat_k
from reclib.agents.tools import AdAnalyticsTools
from reclib.agents.trajectory import Call, Coverage, ReferenceCall, trajectory_coverage

__all__ = [
    "AdAnalyticsTools",
    "AdEnvironment",
    "Call",
    "Coverage",
    "Dials",
    "ReferenceCall",
    "ScriptedAnalyst",
    "adbench",
    "pass_at_k",
    "pass_hat_k",
    "trajectory_coverage",
]
