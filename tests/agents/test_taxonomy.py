"""Every class by hand, on real tasks; then all kinds of failure of the analyst, without the harness."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from reclib.agents import AdAnalyticsTools, AdEnvironment, Call, Dials, answers
from reclib.agents.analyst import DIAGNOSES, possible_failures, script, submission
from reclib.agents.task_sets import ground_truth, tasks
from reclib.agents.tasks import REASONING, resolved
from reclib.agents.taxonomy import CLASSES, diagnose
from reclib.world.database import DEFAULT_AS_OF


def of(category, n=0):
    task = [task for task in tasks(0) if task.category == category][n]
    references, truth = ground_truth(0, DEFAULT_AS_OF)[task.id]
    return task, references, truth


def diagnosis(case, executed, given, *, score=None, static=None):
    task, references, truth = case
    if score is None:
        score = 0.0 if task.answer.kind == "text" else answers.score(given, truth, task.answer)
    return str(diagnose(task, references, executed, given, score, truth, truth if static is None else static))


def test_right_and_lucky():
    case = of("overall_ratio")
    given = answers.write(case[2], case[0].answer)
    assert diagnosis(case, case[1][0], given) == "ok"
    assert diagnosis(case, case[1][1], given) == "ok"  # the other reference
    without_calculator = [step for step in case[1][0] if step.tool not in REASONING]
    assert diagnosis(case, without_calculator, given) == "ok"
    assert diagnosis(case, case[1][0][:1], given) == "L"
    assert diagnosis(case, [], given) == "L"


def test_no_answer_format_and_stale():
    case = of("total")
    right = answers.write(case[2], case[0].answer)
    assert diagnosis(case, case[1][0], "") == "E1"
    assert diagnosis(case, case[1][0], f"The answer is {right}, I think") == "E8"
    assert diagnosis(case, [], "12345", static=12345) == "S"
    assert diagnosis(case, [], "12345") == "E2 hallucinated"


def test_evidence_that_is_missing():
    case = of("growth")
    date, before, new, old, _ = case[1][0]
    assert diagnosis(case, [], "1%") == "E2 hallucinated"
    assert diagnosis(case, [date, before, new], "1%") == "E2 lost branch"
    assert diagnosis(case, [date, before], "1%") == "E2 skipped step"
    assert diagnosis(case, [date, before, Call("list_accounts", {}, {}, 3)], "1%") == "E2 wrong tool"
    assert diagnosis(case, [date, before, new, replace(old, tool="get_ad_report")], "1%") == "E2 wrong tool"


def test_arguments_that_are_wrong():
    case = of("audience_total")
    date, report = case[1][0]

    def with_(**changed):
        return [date, Call(report.tool, {**report.arguments, **changed}, {}, 2)]

    assert diagnosis(case, with_(start="2025-01-01"), "1") == "E3 window"
    assert diagnosis(case, with_(value="U"), "1") == "E3 filter"
    assert diagnosis(case, with_(account_ids=[5, 9]), "1") == "E3 scope"
    assert diagnosis(case, with_(start="2025-01-01", value="U"), "1") == "E3 window"
    failed = Call(report.tool, report.arguments, None, 2, "timed out")
    assert diagnosis(case, [date, failed], "1") == "E4 get_audience_report"


def test_all_evidence_and_a_wrong_number():
    case = next(case for n in range(12) if "mean_of_ratios" in possible_failures((case := of("group_ratio", n % 8))[0]))
    task, references, truth = case
    mean = task.mistakes["mean of ratios"]({step.id: step.output for step in references[0]})
    assert diagnosis(case, references[0], str(mean)) == "E5 mean of ratios"
    for factor in (100, 1000, 0.01, 0.001):
        assert diagnosis(case, references[0], f"{truth * factor:.8g}") == "E5 unit"
    assert diagnosis(case, references[0], f"{truth * 1.005:.8g}") == "E5 rounding"
    assert diagnosis(case, references[0], f"{truth * 2:.8g}") == "E5 other"
    assert diagnosis(case, references[0], "no idea") == "E5 other"
    broken = [*references[0], Call("calculator", {"expression": "1/0"}, None, 9, "division by zero")]
    assert diagnosis(case, broken, f"{truth * 2:.8g}") == "E4 calculator"


def test_knowledge_and_comparison():
    case = of("capped_users")
    task, references, _ = case
    ignored = task.mistakes["rule"]({step.id: step.output for step in references[0]})
    assert diagnosis(case, references[0], str(ignored)) == "E6 rule"
    case = of("golden_peak")
    assert diagnosis(case, case[1][0], "no" if case[2] else "yes") == "E7 bool"
    case = of("top_ads")
    assert diagnosis(case, case[1][0], "1, 2, 3") == "E7 list"
    case = of("learning_phase")
    assert diagnosis(case, case[1][0], "It may not be judged.") == "E7 text"


# ------------------------------------------------------------------ every kind of failure, on every task


def play(task, plan, rng):
    """What the harness would do with a script, without it."""
    tools, so_far, executed, waiting = AdAnalyticsTools(AdEnvironment.of(0)), {}, [], list(plan.steps)
    for turn in range(10):
        for step in [step for step in waiting if set(step.depends_on) <= so_far.keys()]:
            waiting.remove(step)
            arguments = resolved(dict(step.arguments), so_far)
            try:
                output = tools.call(step.tool, arguments)
            except ValueError as error:
                executed.append(Call(step.tool, arguments, None, turn, str(error)))
            else:
                executed.append(Call(step.tool, arguments, output, turn))
        so_far |= {s.id: e.output for s in plan.steps for e in executed if e.turn == turn and e.tool == s.tool
                   and e.error is None and s not in waiting and s.id not in so_far
                   and resolved(dict(s.arguments), so_far) == e.arguments}  # fmt: skip
    return executed, submission(task, plan, so_far, rng)


@pytest.mark.slow
@pytest.mark.parametrize("kind", DIAGNOSES)
def test_every_failure_is_diagnosed_as_what_it_is(kind):
    found, dials = Counter(), Dials(**{kind: 1.0})
    for i, task in enumerate(tasks(0)):
        rng = np.random.default_rng(i)
        plan = script(task, dials, rng)
        assert plan.kind == (kind if kind in possible_failures(task) else "")
        executed, given = play(task, plan, rng)
        references, truth = ground_truth(0, DEFAULT_AS_OF)[task.id]
        value = float(not plan.kind) if task.answer.kind == "text" else answers.score(given, truth, task.answer)
        code = str(diagnose(task, references, executed, given, value, truth, truth))
        assert code.split()[0] in CLASSES
        found[plan.kind, code] += 1
    wrong = {pair: n for pair, n in found.items() if pair not in ((kind, DIAGNOSES[kind]), ("", "ok"))}
    assert not wrong
    assert found[kind, DIAGNOSES[kind]] >= 5
