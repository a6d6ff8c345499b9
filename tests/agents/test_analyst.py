"""The scripted analysts: dials, scripts, and what a task allows."""

import asyncio
from collections import Counter

import numpy as np
import pytest
from inspect_ai.model import ChatMessageUser, GenerateConfig, get_model

from reclib.agents import Dials, ScriptedAnalyst, answers
from reclib.agents.analyst import DIAGNOSES, LACKS, at_random, lacking, possible_failures, script, submission
from reclib.agents.task_sets import ground_truth, tasks
from reclib.world.database import DEFAULT_AS_OF


def test_dials_are_probabilities():
    with pytest.raises(ValueError, match=r"wrong_tool: 1.5 is no probability; give a number from 0 to 1"):
        Dials(wrong_tool=1.5)
    with pytest.raises(ValueError, match="unit_slip: nan is no probability"):
        Dials(unit_slip=float("nan"))
    with pytest.raises(ValueError, match=r"dials: sum to 1.2; together at most 1"):
        Dials(wrong_tool=0.6, unit_slip=0.6)
    with pytest.raises(ValueError, match="p: 2 is no probability"):
        Dials.noisy(2)
    assert sum(Dials.noisy(0.7).each().values()) == pytest.approx(0.3)
    assert Dials().each().keys() == DIAGNOSES.keys()


def test_unknown_manners_and_dials_are_refused():
    with pytest.raises(ValueError, match="model_name: there is no scripted/genius; choose one of oracle"):
        ScriptedAnalyst("genius")
    with pytest.raises(ValueError, match="laziness: there is no such dial; choose from wrong_tool"):
        ScriptedAnalyst("analyst", laziness=0.5)
    assert get_model("scripted/analyst", wrong_tool=0.5, memoize=False).api.dials.wrong_tool == 0.5


def test_every_task_allows_some_failures_and_every_kind_has_tasks():
    allowed = Counter(kind for task in tasks(0) for kind in possible_failures(task))
    assert allowed["wrong_tool"] == allowed["early_stop"] == allowed["hallucination"] == 100
    assert allowed["wrong_date"] == 98  # all but the two about the learning phase
    assert allowed["lost_branch"] > 30
    assert allowed["unit_slip"] > 40
    assert allowed["mean_of_ratios"] >= 5


def test_a_run_fails_as_often_as_the_dials_say():
    dials, n = Dials.noisy(0.7), 40
    failed = sum(
        script(task, dials, np.random.default_rng([run, i])).kind != ""
        for i, task in enumerate(tasks(0))
        for run in range(n)
    )
    assert failed / (100 * n) == pytest.approx(0.3, abs=4 * np.sqrt(0.21 / (100 * n)))


def test_a_dial_that_a_task_does_not_allow_leaves_it_alone():
    task = next(task for task in tasks(0) if "mean_of_ratios" not in possible_failures(task))
    assert all(script(task, Dials(mean_of_ratios=1.0), np.random.default_rng(i)).kind == "" for i in range(20))


def test_the_same_seed_task_and_run_give_the_same_script():
    task, dials = tasks(0)[30], Dials.noisy(0.1)
    assert script(task, dials, np.random.default_rng(3)) == script(task, dials, np.random.default_rng(3))


@pytest.mark.parametrize("tool", list(LACKS.values()))
def test_an_analyst_without_a_tool_never_calls_it_and_says_where_it_is_missing(tool):
    for task in tasks(0):
        plan, needed = lacking(task, tool), any(step.tool == tool for step in task.references[0])
        assert all(step.tool != tool for step in plan.steps)
        assert (plan.kind == tool) == needed
        if not needed:
            assert plan.steps == tuple(task.references[0])
        left = {step.id for step in plan.steps}
        assert all(set(step.depends_on) <= left for step in plan.steps)  # nothing waits for what never comes


def test_a_random_agent_calls_three_tools_and_answers_another_task():
    plans = [at_random(task, np.random.default_rng([7, n])) for n, task in enumerate(tasks(0))]
    assert all(len(plan.steps) == 3 for plan in plans)
    assert len({step.tool for plan in plans for step in plan.steps}) > 3
    right = 0
    for n, (task, plan) in enumerate(zip(tasks(0), plans, strict=True)):
        given = submission(task, plan, {}, np.random.default_rng([8, n]))
        if task.answer.kind != "text":
            right += answers.score(given, ground_truth(0, DEFAULT_AS_OF)[task.id][1], task.answer)
    assert right < 10


def test_a_question_of_another_benchmark_is_refused():
    model = ScriptedAnalyst("oracle")
    with pytest.raises(ValueError, match="input: no question of the task set of seed 0 is in the conversation"):
        asyncio.run(model.generate([ChatMessageUser(content="What is 1 + 1?")], [], "auto", GenerateConfig()))
