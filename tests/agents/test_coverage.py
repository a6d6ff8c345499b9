"""Coverage by hand, and against brute force."""

from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reclib.agents import Call, ReferenceCall, trajectory_coverage
from reclib.agents.trajectory import normalised


def step(name, *parents, **more):
    """A step of a reference; its letter is its only argument."""
    return ReferenceCall("tool", {"x": name[0]}, output=f"out {name[0]}", id=name, depends_on=parents, **more)


def chain(*names):
    return [step(name, *names[max(0, i - 1) : i]) for i, name in enumerate(names)]


def run(letters, tool="tool"):
    return [Call(tool, {"x": letter}, f"out {letter}", turn) for turn, letter in enumerate(letters)]


ABC = chain("A", "B", "C")


@pytest.mark.parametrize(
    ("executed", "multiset", "ordered", "precision"),
    [("ABC", 1, 1, 1), ("CBA", 1, 1 / 3, 1), ("AAC", 2 / 3, 2 / 3, 2 / 3), ("AXBYC", 1, 1, 3 / 5), ("", 0, 0, 1),
     ("XYZ", 0, 0, 0)],
)  # fmt: skip
def test_a_chain_by_hand(executed, multiset, ordered, precision):
    found = trajectory_coverage([ABC], run(executed))
    assert (found.multiset, found.ordered, found.precision) == pytest.approx((multiset, ordered, precision))
    assert len(found.missing) == round(3 * (1 - multiset))


def test_a_wrong_date_costs_its_step():
    executed = [Call("tool", {"x": "A", "start": "2025-11-01"}, "other"), *run("BC")]
    found = trajectory_coverage([ABC], executed)
    assert (found.multiset, found.missing) == (pytest.approx(2 / 3), ("A",))


def test_each_call_is_used_once():
    found = trajectory_coverage([[step("A1"), step("A2"), step("B")]], run("AB"))
    assert found.multiset == pytest.approx(2 / 3)


def test_independent_steps_come_in_any_order():
    reference = [step("A"), step("B", "A"), step("C", "A")]
    assert trajectory_coverage([reference], run("ACB")).ordered == 1
    assert trajectory_coverage([reference], run("BAC")).ordered == pytest.approx(2 / 3)


def test_calls_of_one_message_cannot_depend_on_one_another():
    together = [Call("tool", {"x": letter}, None, 0) for letter in "AB"]
    found = trajectory_coverage([chain("A", "B")], together)
    assert (found.multiset, found.ordered) == (1, 0.5)
    assert trajectory_coverage([[step("A"), step("B")]], together).ordered == 1


def test_the_order_holds_across_a_step_that_is_missing():
    """C depends on A by way of B; B was never called, and C came first."""
    assert trajectory_coverage([ABC], run("CA")).ordered == pytest.approx(1 / 3)


def test_another_tool_with_the_same_output_counts_for_the_result_only():
    executed = [*run("A"), Call("other", {"y": 1}, "out B", 1), *run("C")]
    found = trajectory_coverage([ABC], executed)
    assert (found.result, found.multiset) == (1, pytest.approx(2 / 3))
    numbers = [ReferenceCall("tool", {}, output={"rows": [{"x": 1.0}]}, id="A")]
    assert trajectory_coverage([numbers], [Call("other", {}, {"rows": [{"x": 1.0 + 1e-12}]})]).result == 1
    assert trajectory_coverage([numbers], [Call("other", {}, {"rows": [{"x": 1.001}]})]).result == 0
    assert trajectory_coverage([numbers], [Call("other", {}, {"rows": [{"x": True}]})]).result == 0


@pytest.mark.parametrize("order", list(permutations(range(2))))
def test_matching_is_maximum_and_not_greedy(order):
    """One step accepts only e1, the other e1 and e2: whoever comes first, both get one."""
    picky = ReferenceCall("t", {"x": 1, "y": 1}, id="r1")
    easy = ReferenceCall("t", {"x": 1}, id="r2", compare=("x",))
    executed = [Call("t", {"x": 1, "y": 1}), Call("t", {"x": 1, "y": 2})]
    for calls in (executed, executed[::-1]):
        assert trajectory_coverage([[(picky, easy)[i] for i in order]], calls).multiset == 1


def test_the_best_of_several_references_counts():
    other = chain("D", "E")
    assert trajectory_coverage([ABC, other], run("DE")).multiset == 1
    assert trajectory_coverage([other, ABC], run("DE")).missing == ()
    assert trajectory_coverage([ABC, other], run("DAB")).multiset == pytest.approx(2 / 3)


def test_a_step_may_compare_by_result_or_in_part():
    by_result = ReferenceCall("calculator", {"expression": "1 + 1"}, {"value": 2.0}, id="r", by_result=True)
    assert (
        trajectory_coverage([[by_result]], [Call("calculator", {"expression": "4 / 2"}, {"value": 2.0})]).multiset == 1
    )
    assert (
        trajectory_coverage([[by_result]], [Call("calculator", {"expression": "1 + 1"}, {"value": 3.0})]).multiset == 0
    )
    any_query = ReferenceCall("search_rules", {"query": "cap"}, id="r", compare=())
    assert trajectory_coverage([[any_query]], [Call("search_rules", {"query": "billing"})]).multiset == 1


def test_a_call_that_failed_covers_nothing():
    assert trajectory_coverage([ABC], [Call("tool", {"x": "A"}, None, 0, "no data")]).multiset == 0


letters = st.text("ABCX", max_size=7)


@settings(deadline=None, max_examples=150)
@given(st.text("ABC", min_size=1, max_size=5), letters)
def test_for_a_chain_ordered_is_the_longest_common_subsequence(reference, executed):
    names = [f"{letter}{i}" for i, letter in enumerate(reference)]
    found = trajectory_coverage([chain(*names)], run(executed))
    table = [[0] * (len(executed) + 1) for _ in range(len(reference) + 1)]
    for i, a in enumerate(reference):
        for j, b in enumerate(executed):
            table[i + 1][j + 1] = table[i][j] + 1 if a == b else max(table[i][j + 1], table[i + 1][j])
    assert found.ordered == pytest.approx(table[-1][-1] / len(reference))


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_a_graph_against_brute_force(data):
    names = [f"{letter}{i}" for i, letter in enumerate(data.draw(st.text("AB", min_size=1, max_size=4)))]
    parents = [data.draw(st.sets(st.sampled_from(names[:i]))) if i else set() for i in range(len(names))]
    reference = [step(name, *sorted(before)) for name, before in zip(names, parents, strict=True)]
    executed = data.draw(st.lists(st.tuples(st.sampled_from("ABX"), st.integers(0, 3)), max_size=4))
    executed = [Call("tool", {"x": x}, f"out {x}", turn) for x, turn in sorted(executed, key=lambda e: e[1])]
    above = {}
    for name, before in zip(names, parents, strict=True):
        above[name] = before.union(*(above[parent] for parent in before)) if before else set()

    def best(i, used):
        if i == len(names):
            return 0
        options = [best(i + 1, used)]
        for e, call in enumerate(executed):
            free = e not in used.values() and call.arguments["x"] == names[i][0]
            if free and all(executed[used[p]].turn < call.turn for p in above[names[i]] if p in used):
                options.append(1 + best(i + 1, {**used, names[i]: e}))
        return max(options)

    found = trajectory_coverage([reference], executed)
    assert found.ordered == pytest.approx(best(0, {}) / len(names))
    assert found.ordered <= found.multiset
    assert 0 <= found.precision <= 1


def test_many_repeated_calls_are_no_trouble():
    assert trajectory_coverage([chain("A", "B", "A2", "B2")], run("AB" * 200)).ordered == 1


@pytest.mark.parametrize(
    ("references", "message"),
    [
        ([], "references: give at least one"),
        ([[]], "references: give at least one"),
        ([[step("A", "B")]], "step 'A' depends on 'B', which is not there"),
        ([[step("A", "B"), step("B", "A")]], "depends on itself"),
        ([[step("A"), step("A")]], "two steps have the same id"),
    ],
)
def test_bad_references_are_named(references, message):
    with pytest.raises(ValueError, match=message):
        trajectory_coverage(references, [])


# ------------------------------------------------------------------ normalisation


def test_normalisation_by_hand():
    def same(a, b, tool="get_ad_report"):
        return normalised(tool, a) == normalised(tool, b)

    assert same({"start": "2026-2-1"}, {"start": "2026-02-01"})
    assert same({"ad_ids": [2, 1]}, {"ad_ids": [1, 2]})
    assert same({"metrics": ["spend", "clicks"]}, {"metrics": ["clicks", "spend"]})
    assert same({}, {"group_by": "ad"})  # a missing default and the default itself
    assert same({"account_ids": None}, {})
    assert same({"industry": " Beauty"}, {"industry": "beauty"}, "list_accounts")
    assert same({"ad_id": 3.0}, {"ad_id": 3}, "get_ad_detail")
    assert not same({}, {"group_by": "total"})
    assert not same({"start": "2026-02-01"}, {"start": "2026-02-02"})
    assert not same({"a": [1, 2], "b": []}, {"a": [2, 1], "b": []}, "compare_series")
    assert normalised("no_such_tool", {"x": 1}) == {"x": 1}


scalars = st.none() | st.integers(-5, 5) | st.sampled_from([True, 2.0, 0.5, " A b", "2026-2-1", "2026-02-01", "x"])


@given(
    st.sampled_from(["get_ad_report", "compare_series"]),
    st.dictionaries(st.sampled_from(["a", "start", "metrics"]), scalars | st.lists(scalars, max_size=3)),
)
def test_normalisation_is_idempotent(tool, arguments):
    once = normalised(tool, arguments)
    assert normalised(tool, once) == once
