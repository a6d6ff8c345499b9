"""Tasks: a truth for every day, no shared answers, nothing for the naive."""

import json
from collections import Counter

import pytest

from reclib.agents import AdAnalyticsTools, AdEnvironment, answers, trajectory_coverage
from reclib.agents.task_sets import (
    FIRST_AS_OF,
    LAST_AS_OF,
    PUBLIC_SEEDS,
    ground_truth,
    hidden_seed,
    same_answer,
    tasks,
)
from reclib.agents.tasks import Step, levels, look_up, outputs, replay, resolved
from reclib.world.database import DEFAULT_AS_OF

DAYS = (FIRST_AS_OF, "2025-11-16", "2025-11-20", "2025-11-30", "2025-12-01", "2025-12-05", "2025-12-13", "2025-12-20",
        "2025-12-28", LAST_AS_OF)  # fmt: skip


@pytest.fixture(scope="module")
def public():
    return tasks(0)


@pytest.fixture(scope="module")
def today():
    return ground_truth(0, DEFAULT_AS_OF)


def bare(text):
    return text.split()[0].rstrip("%")


# ------------------------------------------------------------------ the set


def test_a_hundred_tasks_in_the_papers_proportions(public):
    assert Counter(task.level for task in public) == {1: 24, 2: 47, 3: 29}
    assert len({task.query for task in public}) == len({task.id for task in public}) == 100
    assert len({task.category for task in public}) == 23
    kinds = Counter(task.answer.kind for task in public)
    assert set(kinds) == {"number", "set", "list", "enum", "bool", "text"}
    assert kinds["text"] <= 2
    assert tasks(0) is tasks(0)


def test_no_question_names_its_own_day(public):
    for task in public:
        assert "2025-11" not in task.query
        assert "today" not in task.query


def test_no_two_tasks_share_an_answer(public, today):
    for i, one in enumerate(public):
        for other in public[:i]:
            if one.answer.kind == other.answer.kind == "bool":
                continue  # two of each; a third word does not exist
            assert not same_answer(today[one.id][1], one.answer, today[other.id][1], other.answer), (one.id, other.id)
    assert Counter(today[t.id][1] for t in public if t.answer.kind == "bool") == {True: 2, False: 2}


def solved(public, today, answer_of):
    typed = [task for task in public if task.answer.kind != "text"]
    return sum(answers.score(answer_of(task), today[task.id][1], task.answer) for task in typed) / len(public)


def test_whoever_always_says_the_same_scores_under_five_percent(public, today):
    candidates = {"0", "1", "yes", "no", "100%", "I do not know"}
    for task in public:
        written = answers.write(today[task.id][1], task.answer)
        candidates |= {written, bare(written)}
    best = max(solved(public, today, lambda task, said=said: said) for said in candidates)
    assert 0 < best <= 0.02


def test_whoever_calls_only_the_first_tool_scores_under_five_percent(public, today):
    """It submits what the first step returned: as it is, any number in it, or its first or last value."""

    def said(task, pick):
        first = today[task.id][0][0][0].output
        text = json.dumps(first)
        numbers = [f"{x:g}" for x in answers.numbers_in(text)] or ["0"]
        values = [str(v) for v in (first["rows"][0] if "rows" in first else first).values()]
        options = {
            "text": text,
            "number": numbers[0],
            "last number": numbers[-1],
            "value": values[0],
            "last": values[-1],
        }
        return options[pick]

    for pick in ("text", "number", "last number", "value", "last"):
        assert solved(public, today, lambda task, pick=pick: said(task, pick)) < 0.05


def test_every_reference_gives_the_same_answer_and_covers_itself(public, today):
    several = 0
    for task in public:
        references, truth = today[task.id]
        several += len(references) > 1
        for steps in references:
            made = task.answer_from(outputs(steps))
            assert made == pytest.approx(truth, rel=1e-9) if isinstance(truth, float) else made == truth
            found = trajectory_coverage(references, steps)
            assert (found.multiset, found.ordered, found.result, found.precision) == (1, 1, 1, 1)
    assert several > 20


def test_the_calculator_of_a_reference_agrees_with_its_answer(public, today):
    for task in public:
        for steps in today[task.id][0]:
            if steps[-1].tool in ("calculator", "compare_series"):
                assert steps[-1].output["value"] == pytest.approx(today[task.id][1], rel=1e-9)


def test_known_mistakes_are_mistakes(public, today):
    """Else a run that makes one could not be told from one that does not."""
    wrong = Counter()
    for task in public:
        references, truth = today[task.id]
        for name, mistake in task.mistakes.items():
            wrong[name, answers.score(str(mistake(outputs(references[0]))), truth, task.answer)] += 1
    assert wrong["rule", 1.0] == 0
    assert wrong["rule", 0.0] >= 10
    assert wrong["mean of ratios", 0.0] >= 5


# ------------------------------------------------------------------ the truth moves


@pytest.mark.slow
def test_the_oracle_is_right_on_ten_days_and_the_truth_moves_where_it_should(public):
    truths = {task.id: [] for task in public}
    for day in DAYS:
        today = ground_truth(0, day)
        tools = AdAnalyticsTools(AdEnvironment.of(0, day))
        for task in public:
            references, truth = today[task.id]
            again = replay(task.references[0], tools)
            assert trajectory_coverage(references, again).ordered == 1
            if task.answer.kind != "text":
                given = answers.write(task.answer_from(outputs(again)), task.answer)
                assert answers.score(given, truth, task.answer) == 1
            truths[task.id].append(truth)
    for task in public:
        different = len({str(truth) for truth in truths[task.id]})
        assert (different == 1) if task.moves == "never" else (different > 1 or task.moves == "sometimes")
        if task.moves == "daily":
            assert different >= 5
    assert Counter(task.moves for task in public)["daily"] > 30


@pytest.mark.slow
def test_other_seeds_are_other_tasks_with_other_answers(public, today):
    other = tasks(1)
    assert len(other) == 100
    assert not {task.query for task in other} >= {task.query for task in public}
    fresh = ground_truth(1, DEFAULT_AS_OF)
    matches = sum(
        answers.score(answers.write(today[a.id][1], a.answer), fresh[b.id][1], b.answer)
        for a, b in zip(public, other, strict=True)
        if "text" not in (a.answer.kind, b.answer.kind)
    )
    assert matches < 5


def test_hidden_seeds():
    assert hidden_seed("a long pass phrase") == hidden_seed("a long pass phrase") >= PUBLIC_SEEDS
    assert hidden_seed("a long pass phrase") != hidden_seed("another pass phrase")
    with pytest.raises(ValueError, match="pass_phrase: 5 characters can be guessed; use at least 12"):
        hidden_seed("12345")
    with pytest.raises(ValueError, match="seed: must be zero or positive"):
        tasks(-1)


# ------------------------------------------------------------------ references inside arguments


def test_references_are_looked_up():
    so_far = {"s1": {"start": "2025-11-01"}, "s2": {"rows": [{"x": 1.5, "y": 2}, {"x": 3.0, "y": 4}]}}
    assert resolved("$s1.start", so_far) == "2025-11-01"
    assert resolved("$s2.rows.*.y", so_far) == [2, 4]
    assert resolved("sum({s2.rows.*.x}) / {s2.rows.1.y}", so_far) == "sum([1.5, 3.0]) / 4"
    assert resolved({"a": ["$s2.rows.0.x"], "b": 7}, so_far) == {"a": [1.5], "b": 7}
    assert look_up("s2.rows.1.x", so_far) == 3.0
    for path in ("s3.x", "s2.rows.5.x", "s2.rows.x", "s1.end", "s1.start.*.x"):
        with pytest.raises(ValueError, match=r"reference: .* finds nothing at"):
            look_up(path, so_far)


def test_dependencies_follow_from_the_references():
    steps = (
        Step("a", "resolve_date", {"expression": "yesterday"}),
        Step("b", "list_accounts", {}),
        Step("c", "get_account_report", {"start": "$a.start", "end": "$a.end", "account_ids": "$b.rows.*.account_id"}),
        Step("d", "calculator", {"expression": "{c.rows.0.spend} / 2"}, after=("b",)),
    )
    assert [step.depends_on for step in steps] == [(), (), ("a", "b"), ("b", "c")]
    assert [[step.id for step in wave] for wave in levels(steps)] == [["a", "b"], ["c"], ["d"]]


def test_circles_are_refused(tools):
    steps = (Step("a", "calculator", {"expression": "{b.value}"}), Step("b", "calculator", {"expression": "{a.value}"}))
    with pytest.raises(ValueError, match="step 'a' waits for a step that never comes"):
        replay(steps, tools)
    with pytest.raises(ValueError, match="wait for each other in a circle"):
        levels(steps)


def test_order_of_writing_does_not_matter(tools):
    steps = (Step("b", "calculator", {"expression": "{a.value} + 1"}), Step("a", "calculator", {"expression": "1 + 1"}))
    assert outputs(replay(steps, tools)) == {"a": {"value": 2.0}, "b": {"value": 3.0}}
