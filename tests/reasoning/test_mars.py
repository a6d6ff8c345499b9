"""The teacher: rules by hand, determinism, rework, bounds on reasoners that misbehave, and runs that are resumed."""

import json
from functools import partial

import numpy as np
import pytest

from reclib.reasoning.collaborative_text import NO_ENTRY, TextStore
from reclib.reasoning.mars import (
    ANALYSTS,
    Call,
    Limits,
    Mars,
    RuleReasoner,
    Run,
    Weights,
    collect,
    execute,
    read_notes,
    recommendation,
    redo,
    vote,
)
from reclib.reasoning.trajectory import LETTERS, Candidate, Step, Task, check_format, parse, write_prompt

TOPICS = ("tents", "tea", "sofas", "boots")
SELLING = ("durable", "fast", "organic")


def task(seed=0, recent=4, name="0"):
    rng = np.random.default_rng(seed)
    draw = lambda options: options[rng.integers(len(options))]  # noqa: E731
    candidates = [
        Candidate(
            letter, f"{topic}_{i:02d}", topic, draw(SELLING) + (f"-{draw(('men', 'women'))}" if i % 3 == 0 else "")
        )
        for i, letter in enumerate(LETTERS)
        for topic in [draw(TOPICS)]
    ]
    shown = [(f"{topic}_{50 + i}", topic) for i in range(recent) for topic in [draw(TOPICS)]]
    return Task("7", write_prompt(shown, candidates), draw(LETTERS), name), candidates, shown


def store(candidates, shown):
    return TextStore(
        {
            ("profile", "7"): "woman likes fast",
            ("history", "7"): "long tents 5 tea 3 boots 1",
            ("user_cf", "7"): f"similar chose {candidates[3].ad} nowhere_99 {candidates[9].ad} theme tea tents",
            ("item_cf", shown[-1][0]): f"also chose {candidates[9].ad} nowhere_98 theme {shown[-1][1]} sofas",
        }
    )


def solved(seed=0, noise=0.0, run_seed=0, reflect=True, **reasoner):
    one, candidates, shown = task(seed)
    think = RuleReasoner(noise, np.random.default_rng(run_seed), **reasoner)
    return Mars(think, store(candidates, shown), reflect=reflect).solve(one), one, candidates, shown


@pytest.mark.parametrize("seed", range(12))
def test_without_slips_it_ranks_by_the_utility_of_what_it_knows(seed):
    run, _, candidates, shown = solved(seed)
    latest = shown[-1][1]
    differ = latest not in ("tents", "tea")
    now = [latest, "sofas"] if latest != "sofas" else ["sofas"]

    def utility(c):  # the same information, computed from the facts and not from the notes
        value = Weights().long * (c.topic in ("tents", "tea")) * (0.5 if differ else 1)
        value += Weights().now * (c.topic in now) + Weights().wants * (c.selling == "fast")
        value += Weights().against * (c.audience == "men")
        value += Weights().similar * (c.ad in (candidates[3].ad, candidates[9].ad))
        return value + Weights().also * (c.ad == candidates[9].ad)

    best = sorted(candidates, key=lambda c: -utility(c))
    ranked = check_format(run.text, LETTERS)
    assert ranked[:5] == [c.letter for c in best[:5]]
    assert ranked[5:] == sorted(ranked[5:])
    assert run.errors == {}


def test_the_trajectory_reads_as_the_paper_has_it():
    run, _, candidates, shown = solved(0)
    kinds = [step.kind for step in parse(run.text)]
    call = ["tool_call", "tool_response"]
    note = ["note"]
    # Recent and divergence write without a call between them, so their notes are one stretch of words.
    assert kinds == ["plan", *call, *note, *call, *call, *note, *call, *note, "reflection", "recommend"]
    calls = [step.text for step in parse(run.text) if step.kind == "tool_call"]
    assert calls == ["profile", "history", "user_cf", f"item_cf {shown[-1][0]}"]
    notes = read_notes(parse(run.text))
    assert notes.topics["long"] == ["tents", "tea"]
    assert notes.votes["similar"] == [candidates[3].letter, candidates[9].letter]
    assert [call.role for call in run.calls] == [
        "plan", "profile", "profile", "history", "history", "history", "recent", "recent", "divergence", "reflect",
        "rank",
    ]  # fmt: skip
    assert run.calls[-1] == Call("rank", len(run.text.split()) - 22 + len(task(0)[0].prompt.split()), 20)


def test_same_seed_same_trajectory():
    texts = {solved(3, noise=0.5, run_seed=8)[0].text for _ in range(3)}
    assert len(texts) == 1
    assert len({solved(3, noise=0.5, run_seed=s)[0].text for s in range(6)}) > 1
    assert solved(3, run_seed=1)[0] == solved(3, run_seed=2)[0]  # no slips: nothing random


def test_slips_are_as_frequent_as_asked_and_caught_when_seen():
    def wrong(run):
        return redo(next(step.text for step in parse(run.text) if step.kind == "reflection"))

    runs = [solved(2, noise=0.3, run_seed=s)[0] for s in range(600)]
    profile = [next(step.text for step in parse(run.text) if step.kind == "note").split()[1] != "fast" for run in runs]
    assert np.mean(profile) == pytest.approx(0.3, abs=0.06)
    caught = ["profile" in wrong(run) for run, slipped in zip(runs, profile, strict=True) if slipped]
    assert np.mean(caught) == pytest.approx(0.7, abs=0.11)  # the reflector overlooks with the same probability
    blamed = ["profile" in wrong(run) for run, slipped in zip(runs, profile, strict=True) if not slipped]
    assert not any(blamed)


def test_rework_rewrites_a_note_once_and_the_last_note_counts():
    one, candidates, shown = task(0)

    class Stubborn(RuleReasoner):
        def _reflect(self, question, steps):
            return "redo profile"

    run = Mars(Stubborn(), store(candidates, shown)).solve(one)
    steps = parse(run.text)
    assert [step.text for step in steps if step.kind == "reflection"] == ["redo profile"] * 2
    assert run.text.count("wants fast") == 2
    assert run.text.count("<tool_call> profile") == 1  # the response is there to be read again
    assert check_format(run.text, LETTERS)
    notes = read_notes([Step("note", "wants fast A B against C"), Step("note", "wants organic D against")])
    assert notes.votes["wants"] == ["D"]
    assert notes.votes["against"] == []


def test_cold_people_get_a_short_plan_and_missing_tools_are_not_called():
    one, candidates, shown = task(0, recent=2)
    run = Mars(RuleReasoner(), store(candidates, shown)).solve(one)
    assert parse(run.text)[0].text == "profile recent"
    run, *_ = solved(0, tools=("profile", "history"))
    assert "_cf" not in run.text
    assert "similar" not in run.text
    run, *_ = solved(0, reflect=False)
    assert "reflection" not in run.text
    assert check_format(run.text, LETTERS, reflection=False)
    nothing = Mars(RuleReasoner(), TextStore({})).solve(one)
    assert nothing.errors == {"tool": 2}
    assert NO_ENTRY in nothing.text
    assert check_format(nothing.text, LETTERS)


BAD = {
    "rubbish": lambda *_: "<plan> <plan>",
    "nothing": lambda *_: "",
    "runaway": lambda *_: "word " * 10_000,
    "calls for ever": lambda role, *_: "<tool_call> profile </tool_call>" if role in ANALYSTS else "x",
    "unknown tools": lambda role, *_: "<tool_call> teleport home </tool_call>" if role in ANALYSTS else "x",
    "half a tag": lambda *_: "<tool_call> profile",
    "redo for ever": lambda role, *_: "redo profile history" if role == "reflect" else "x",
}


@pytest.mark.parametrize("reasoner", BAD.values(), ids=BAD.keys())
def test_whatever_a_reasoner_says_a_task_ends_and_is_counted(reasoner):
    one, candidates, shown = task(0)
    run = Mars(reasoner, store(candidates, shown), limits=Limits(attempts=2, calls=3, words=50)).solve(one)
    assert len(run.calls) < 60
    assert sum(run.errors.values()) > 0
    assert recommendation(run, LETTERS) is None
    assert len(run.text.split()) < 400


def test_a_second_attempt_is_enough():
    one, candidates, shown = task(0)
    rules, seen = RuleReasoner(), []

    def stumbles(role, prompt, written):
        seen.append((role, written))
        return "< oops" if seen.count((role, written)) == 1 else rules(role, prompt, written)

    run = Mars(stumbles, store(candidates, shown)).solve(one)
    assert run.text == solved(0)[0].text
    assert set(run.errors) == {"plan", *ANALYSTS, "reflect", "rank"}


def test_tools_are_asked_about_the_person_unless_a_key_is_given():
    texts = TextStore({("profile", "7"): "seven", ("item_cf", "x_1"): "one"})
    assert execute(texts, "7", "profile") == "seven"
    assert execute(texts, "7", "item_cf x_1") == "one"
    assert execute(texts, "7", "item_cf") == NO_ENTRY
    assert execute(texts, "7", "") == NO_ENTRY


def test_a_run_that_breaks_off_goes_on_where_it_stopped(tmp_path):
    tasks = [task(s, name=str(s))[0] for s in range(5)]
    path, asked = tmp_path / "runs.jsonl", []

    def solve(one, fails=None):
        asked.append(one.name)
        if one.name == fails:
            raise ConnectionError("gone")
        return Run(one.name, f"text {one.name}", (Call("plan", 1, 2),), {"tool": 1})

    with pytest.raises(ConnectionError):
        collect(partial(solve, fails="3"), tasks, path, progress=False)
    assert asked == ["0", "1", "2", "3"]
    with path.open("a") as file:
        file.write('{"name": "3", "te')  # as a power cut would leave it
    asked.clear()
    runs = collect(solve, tasks, path, progress=False)
    assert asked == ["3", "4"]
    assert [run.name for run in runs] == list("01234")
    assert runs[0] == Run("0", "text 0", (Call("plan", 1, 2),), {"tool": 1})
    asked.clear()
    assert collect(solve, tasks, path, progress=False) == runs
    assert asked == []
    assert len([json.loads(line) for line in path.read_text().splitlines()]) == 5
    path.write_text("[1, 2]\n")
    with pytest.raises(ValueError, match=r"path: line 1 of .* is no run"):
        collect(solve, tasks, path, progress=False)
    with pytest.raises(ValueError, match="tasks: two share a name"):
        collect(solve, [tasks[0], tasks[0]], progress=False)


def test_votes():
    assert vote([["A", "B", "C"], ["B", "A", "C"], ["B", "C", "A"]], "ABC") == ["B", "A", "C"]
    assert vote([["C", "B", "A"], ["A", "B", "C"]], "ABC") == ["A", "B", "C"]  # all tie
    with pytest.raises(ValueError, match="rankings: is empty"):
        vote([], "ABC")


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"noise: must lie in \[0, 1\], got 2"):
        RuleReasoner(2)
    with pytest.raises(ValueError, match="rng: slips are random"):
        RuleReasoner(0.1)
    with pytest.raises(ValueError, match="attempts: must be at least 1"):
        Limits(attempts=0)
