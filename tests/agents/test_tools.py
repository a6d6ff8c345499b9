"""The tools: sums that agree with one another, and whatever a model may write that is not what was asked for."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reclib.agents.tools import COLUMNS, LARGEST_NUMBER, LONGEST_LIST, LONGEST_TEXT, TOOLS, _parameters

WINDOW = {"start": "2025-11-01", "end": "2025-11-28"}
METRICS = list(COLUMNS)


def total(rows, metric):
    return math.fsum(row[metric] for row in rows["rows"])


# ------------------------------------------------------------------ right answers


@pytest.mark.parametrize("scope", [{}, {"account_ids": [5, 9]}])
def test_the_total_is_the_sum_of_the_groups_whatever_they_are(tools, scope):
    whole = tools.call("get_account_report", {**WINDOW, **scope, "metrics": METRICS})["rows"][0]
    groups = [
        tools.call("get_account_report", {**WINDOW, **scope, "metrics": METRICS, "group_by": by})
        for by in ("account", "day")
    ]
    groups += [
        tools.call("get_ad_report", {**WINDOW, **scope, "metrics": METRICS, "group_by": by})
        for by in ("total", "ad", "day")
    ]
    groups += [
        tools.call("get_audience_report", {**WINDOW, **scope, "metrics": METRICS, "dimension": dimension})
        for dimension in ("gender", "age", "region")
    ]
    for metric in METRICS:
        assert whole[metric] > 0
        for group in groups:
            assert total(group, metric) == pytest.approx(whole[metric], abs=1e-6)
    frequency = tools.call(
        "get_audience_report", {**WINDOW, **scope, "metrics": ["impressions"], "dimension": "frequency"}
    )
    assert total(frequency, "impressions") == whole["impressions"]
    ads = [row["ad_id"] for row in groups[3]["rows"]]
    hours = tools.call("get_hourly_report", {**WINDOW, "ad_ids": ads, "metrics": METRICS[:4]})
    assert [row["hour"] for row in hours["rows"]] == list(range(24))
    for metric in METRICS[:4]:
        assert total(hours, metric) == pytest.approx(whole[metric], abs=1e-6)


def test_money_is_in_yuan_and_exact(tools, environment):
    cents = environment.query("SELECT sum(spend_cents)::BIGINT AS s FROM daily WHERE date = DATE '2025-11-28'")[0]["s"]
    assert tools.get_account_report("2025-11-28", "2025-11-28", ["spend"]) == {"rows": [{"spend": cents / 100}]}


def test_the_mean_of_the_accounts_prices_is_not_the_price_of_all(tools):
    rows = tools.get_account_report(**WINDOW, metrics=["spend", "clicks"], group_by="account")["rows"]
    ratio = tools.calculator(f"{total({'rows': rows}, 'spend')} / {total({'rows': rows}, 'clicks')}")["value"]
    mean = math.fsum(row["cpc"] for row in rows) / len(rows)
    assert abs(mean / ratio - 1) > 0.05
    assert all(row["cpc"] == pytest.approx(row["spend"] / row["clicks"], abs=1e-4) for row in rows)
    # The two numbers of the book's example: 100 for 100 clicks, 900 for 300 clicks.
    assert tools.calculator("(100 + 900) / (100 + 300)") == {"value": 2.5}
    assert tools.calculator("(100 / 100 + 900 / 300) / 2") == {"value": 2.0}


def test_filters_orders_and_limits(tools):
    accounts = tools.list_accounts()["rows"]
    assert [a["account_id"] for a in accounts] == sorted(a["account_id"] for a in accounts)
    some = tools.call("list_accounts", {"industry": "Beauty", "tier": "C"})["rows"]
    assert some == [a for a in accounts if (a["industry"], a["tier"]) == ("beauty", "C")]
    ads = tools.get_ad_report(**WINDOW, metrics=["clicks"])["rows"]
    best = tools.get_ad_report(**WINDOW, metrics=["clicks"], order_by="clicks", top_k=3)["rows"]
    assert best == sorted(ads, key=lambda row: (-row["clicks"], row["ad_id"]))[:3]
    women = tools.get_audience_report(**WINDOW, metrics=["spend"], dimension="gender", value="f")["rows"]
    assert women == tools.get_audience_report(**WINDOW, metrics=["spend"], dimension="gender")["rows"][:1]


def test_details_rules_and_benchmarks(tools):
    detail = tools.get_ad_detail(31)
    assert detail["account"] == "onyx 13"
    assert detail["daily_budget"] == 350.0
    assert tools.search_rules("Billing cap per user!")["rows"][0]["text"].startswith("At most 4 impressions")
    assert len(tools.search_rules("budget", top_k=1)["rows"]) == 1
    assert tools.industry_benchmark("beauty", metric="cpc", month="2025-10") == tools.industry_benchmark(
        "Beauty", metric="cpc", month="2025-10-31"
    )
    cpc, cpm = (tools.industry_benchmark("beauty", metric=m, month="2025-10")["rows"][0] for m in ("cpc", "cpm"))
    assert 0.1 < cpc["median"] < 2  # yuan, not cents
    assert 2 < cpm["median"] < 20
    hours = tools.industry_benchmark("beauty", kind="golden_hours")["rows"]
    assert len(hours) == 24
    assert math.fsum(row["index"] for row in hours) / 24 == pytest.approx(100, abs=0.1)


def test_rules_that_have_expired_are_not_found(tools):
    assert all(
        "3 impressions" not in row["text"] for row in tools.search_rules("billing cap per user", top_k=100)["rows"]
    )


def test_series(tools):
    assert tools.compare_series([1, 3, 2], [0, 9, 1], "same_peak") == {"value": True}
    assert tools.compare_series([1, 3, 2], [9, 0, 1], "same_peak") == {"value": False}
    assert tools.compare_series([5, 4, 3, 0], [0, 3, 4, 5], "overlap_top3") == {"value": 2}
    assert tools.compare_series([1, 2, 3], [2, 4, 6], "correlation")["value"] == pytest.approx(1)


def test_every_result_is_json(tools):
    for tool, arguments in GOOD.items():
        assert json.loads(json.dumps(tools.call(tool, arguments), allow_nan=False)) == tools.call(tool, arguments)
    assert GOOD.keys() == set(TOOLS)
    assert len(TOOLS) == 11


# ------------------------------------------------------------------ what a model may write instead

GOOD = {
    "resolve_date": {"expression": "yesterday"},
    "list_accounts": {"industry": "beauty", "region": "south", "tier": "C"},
    "get_account_report": {**WINDOW, "metrics": ["spend"], "account_ids": [5], "group_by": "total"},
    "get_ad_report": {
        **WINDOW, "metrics": ["spend"], "account_ids": [13], "ad_ids": [31], "group_by": "ad", "order_by": "spend",
        "top_k": 1,
    },
    "get_audience_report": {
        **WINDOW, "metrics": ["spend"], "dimension": "gender", "value": "F", "account_ids": [13], "ad_ids": [31],
    },
    "get_hourly_report": {**WINDOW, "ad_ids": [31], "metrics": ["clicks"]},
    "get_ad_detail": {"ad_id": 31},
    "industry_benchmark": {"industry": "beauty", "kind": "metric", "metric": "cpc", "month": "2025-10"},
    "search_rules": {"query": "billing cap", "top_k": 2},
    "calculator": {"expression": "1 + 1"},
    "compare_series": {"a": [1.0, 2.0, 3.0], "b": [3.0, 1.0, 2.0], "how": "correlation"},
}  # fmt: skip
ARGUMENTS = [(tool, name) for tool, arguments in GOOD.items() for name in arguments]
INJECTIONS = [
    "' OR 1=1 --",
    "'; DROP TABLE ads; --",
    '" UNION SELECT * FROM rules --',
    "x') OR (SELECT count(*) FROM daily) > 0 --",
    "spend) FROM read_csv('/etc/passwd') --",
]
ELSEWHERE = [
    "/etc/passwd",
    "../../etc/passwd",
    "file:///etc/passwd",
    "https://example.org/x.csv",
    "s3://bucket/x",
    "\\\\host\\x",
]


def in_place(tool, name, hostile):
    """Good arguments with one replaced; in a list, its item."""
    old = GOOD[tool][name]
    return {**GOOD[tool], name: [hostile] if isinstance(old, list) else hostile}


def test_the_good_arguments_cover_every_argument_of_every_tool():
    assert {(tool, name) for tool in TOOLS for name in _parameters(tool)} == set(ARGUMENTS)


@pytest.fixture
def untouched(environment):
    """Nothing that was tried may have left a trace."""
    state = "SELECT (SELECT count(*) FROM ads) AS ads, (SELECT sum(spend_cents)::BIGINT FROM daily) AS spend, 1 AS {}"
    before = environment.query(state.format("x"))
    yield
    assert environment.query(state.format("y"))[0]["spend"] == before[0]["spend"]
    assert environment.query(state.format("z"))[0]["ads"] == before[0]["ads"]


@pytest.mark.parametrize(("tool", "name"), [each for each in ARGUMENTS if each != ("search_rules", "query")])
def test_sql_paths_and_urls_in_any_argument_are_refused(tools, untouched, tool, name):
    for hostile in (*INJECTIONS, *ELSEWHERE):
        with pytest.raises(ValueError, match=r"^[a-z_, ]+: ") as refusal:
            tools.call(tool, in_place(tool, name, hostile))
        assert "root:" not in str(refusal.value)  # the first word of a file of passwords


def test_key_words_find_rules_and_nothing_else(tools, untouched):
    """The one argument that is free text: an injection finds what its words find, or nothing."""
    rules = tools.search_rules("impressions budget conversion learning review clicks", top_k=100)["rows"]
    for hostile in (*INJECTIONS, *ELSEWHERE):
        try:
            found = tools.call("search_rules", {"query": hostile, "top_k": 100})["rows"]
        except ValueError as error:
            if not str(error).startswith("query: no rule mentions"):
                raise
            found = []
        assert all(rule in rules for rule in found)


def test_one_refusal_in_full(tools):
    """Bound as a value, an injection is just an industry that does not exist."""
    with pytest.raises(ValueError, match="industry, region, tier: no account passes all filters; leave one out"):
        tools.call("list_accounts", {"industry": "' OR 1=1 --"})
    with pytest.raises(ValueError, match="query: no rule mentions"):
        tools.call("search_rules", {"query": "/etc/passwd"})


@pytest.mark.parametrize(("tool", "name"), ARGUMENTS)
def test_oversized_and_not_finite_arguments_are_refused(tools, tool, name):
    for hostile in ("x" * (LONGEST_TEXT + 1), "a\x00b", math.nan, math.inf, -math.inf, 10**30, 2 * LARGEST_NUMBER):
        with pytest.raises(ValueError, match=f"^{name}: "):
            tools.call(tool, in_place(tool, name, hostile))
    for hostile in (["x"] * (LONGEST_LIST + 1), [[["deep"]]], {"a": 1}, True, [True], [math.nan], [None]):
        with pytest.raises(ValueError, match=f"^{name}: "):
            tools.call(tool, {**GOOD[tool], name: hostile})


junk = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_any_json_gives_an_answer_or_a_value_error(tools, data):
    tool = data.draw(st.sampled_from(TOOLS))
    names = list(_parameters(tool))
    changed = data.draw(
        st.dictionaries(st.sampled_from([*names, "other"]), junk | st.lists(junk, max_size=3), max_size=3)
    )
    try:
        found = tools.call(tool, {**GOOD[tool], **changed})
    except ValueError as error:
        found = str(error).split(": ")[1]  # the argument, then what is wrong
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize(
    ("tool", "arguments", "message"),
    [
        ("run_sql", {}, "tool: there is no 'run_sql'; choose one of resolve_date, "),
        ("__init__", {"environment": 1}, "tool: there is no '__init__'"),
        ("get_ad_detail", {}, "ad_id: get_ad_detail needs it; give a whole number"),
        ("get_ad_detail", {"ad_id": 31, "sql": "x"}, "sql: get_ad_detail has no such argument; it takes ad_id"),
        ("get_ad_detail", {"ad_id": 3.5}, "ad_id: '3.5' does not fit; give a whole number"),
        ("get_ad_detail", {"ad_id": "31"}, "ad_id: '31' does not fit; give a whole number"),
        ("get_ad_detail", {"ad_id": -1}, "ad_id: there is no -1; list_accounts and get_ad_report show the ids"),
        ("get_hourly_report", {**WINDOW, "ad_ids": [], "metrics": ["clicks"]}, "ad_ids: the list is empty"),
        ("get_account_report", {**WINDOW, "metrics": []}, "metrics: the list is empty; choose from spend"),
        ("get_account_report", {**WINDOW, "metrics": ["ctr"]}, "metrics: .* does not fit; give a list of 'spend' or"),
        (
            "get_account_report",
            {"start": "2025-11-9", "end": "2025-11-1", "metrics": ["spend"]},
            "end: .* before start",
        ),
        (
            "get_account_report",
            {"start": "2024-01-01", "end": "2024-01-02", "metrics": ["spend"]},
            "start, end: no data",
        ),
        ("get_account_report", {**WINDOW, "metrics": ["spend"], "account_ids": [5, 6]}, "account_ids: there is no 6"),
        ("get_ad_report", {**WINDOW, "metrics": ["spend"], "order_by": "clicks"}, "order_by: 'clicks' is not among"),
        ("get_ad_report", {**WINDOW, "metrics": ["spend"], "top_k": 0}, "top_k: 0; choose from 1 to 100"),
        (
            "get_audience_report",
            {**WINDOW, "metrics": ["spend"], "dimension": "frequency"},
            "metrics: spend are not known",
        ),
        ("industry_benchmark", {"industry": "beauty", "month": "2025-12"}, "industry, month: nothing is known"),
        ("industry_benchmark", {"industry": "x", "kind": "golden_hours"}, "industry: nothing is known of 'x'"),
        (
            "industry_benchmark",
            {"industry": "x", "kind": "golden_hours", "month": "2025-10"},
            "golden hours have neither",
        ),
        ("compare_series", {"a": [1.0, 1.0, 1.0], "b": [1.0, 2.0, 3.0], "how": "correlation"}, "a constant series"),
        ("compare_series", {"a": [1.0], "b": [1.0], "how": "same_peak"}, "b: the series have 1 and 1 values"),
    ],
)
def test_mistakes_are_told_with_their_cure(tools, tool, arguments, message):
    with pytest.raises(ValueError, match=message):
        tools.call(tool, arguments)
