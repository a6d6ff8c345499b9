"""Twenty-three kinds of questions, each a function that draws one: what is asked, how an expert finds it, what is true.

The paper's requests are private; these are our choice, after the examples that it gives. Level 1 is one retrieval.
Level 2 filters and aggregates, or joins several fields. Level 3 needs a rule of the platform, a benchmark, or several
sources at once. Dates are relative or named events, so that each question has an answer on every day of the period.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, cast, get_args

import numpy as np

from reclib.agents.answers import AnswerType
from reclib.agents.environment import AdEnvironment
from reclib.agents.tasks import AnswerFrom, Outputs, Step
from reclib.agents.tools import Metric

Moves = Literal["daily", "sometimes", "never"]

COUNT = AnswerType("number")
MONEY = AnswerType("number", tol_abs=0.01, unit="yuan")
PRICE = AnswerType("number", tol_rel=1e-3, unit="yuan")
PERCENT = AnswerType("number", tol_rel=1e-3, tol_abs=0.002, unit="%")
PLAIN = AnswerType("number", tol_abs=1e-3)
ENUM, SET, LIST, BOOL, TEXT = (AnswerType(kind) for kind in ("enum", "set", "list", "bool", "text"))

METRICS: tuple[Metric, ...] = get_args(Metric)
WORDS = {
    "spend": "spend", "impressions": "number of impressions", "clicks": "number of clicks",
    "conversions": "number of conversions", "conv_value": "conversion value",
}  # fmt: skip
DAYS = (2, 3, 4, 5, 6, 7, 10, 14, 20, 21, 28, 30)
EVENTS = ("School-Start", "National-Day", "Double-11")  # over by the first day that tasks are made for
MONTHS = {"2025-08": "August 2025", "2025-09": "September 2025", "2025-10": "October 2025"}
# Numerator, denominator, factor, unit in words, type.
RATIOS = {
    "cost per click": ("spend", "clicks", "", "yuan", PRICE),
    "click-through rate": ("clicks", "impressions", "100 * ", "percent", PERCENT),
    "conversion rate (conversions per click)": ("conversions", "clicks", "100 * ", "percent", PERCENT),
    "cost per thousand impressions": ("spend", "impressions", "1000 * ", "yuan", PRICE),
}
DIGITS = "with at least four significant digits"
WINDOW = {"start": "$s1.start", "end": "$s1.end"}


@dataclass(frozen=True)
class Question:
    """What a template draws."""

    query: str
    references: tuple[tuple[Step, ...], ...]
    answer_from: AnswerFrom
    answer: AnswerType
    moves: Moves
    mistakes: Mapping[str, AnswerFrom] = field(default_factory=dict)
    rubric: str = ""


class Facts(NamedTuple):
    """What templates draw from: only accounts and ads with data on every day that tasks are made for."""

    accounts: list[dict[str, Any]]  # account_id, name, industry, tier, region, n_ads
    ads: list[dict[str, Any]]  # ad_id, account_id, industry, start_date

    @staticmethod
    def of(environment: AdEnvironment, first: str, last: str) -> Facts:
        """The facts of a world."""
        lasting = "FROM ads WHERE start_date < ?::DATE - 1 AND end_date >= ?::DATE - 1"
        accounts = environment.query(
            "SELECT account_id, name, industry, tier, region, n_ads FROM accounts JOIN (SELECT account_id, "
            f"count(*) AS n_ads {lasting} GROUP BY account_id) USING (account_id) ORDER BY account_id",
            [first, last],
        )
        ads = environment.query(
            f"SELECT ad_id, account_id, industry, start_date FROM (SELECT ad_id, account_id, start_date {lasting}) "
            "JOIN accounts USING (account_id) ORDER BY ad_id",
            [first, last],
        )
        return Facts(accounts, ads)


class Draw:
    """Random choices of one question."""

    def __init__(self, rng: np.random.Generator, facts: Facts) -> None:
        self.rng, self.facts = rng, facts

    def one(self, options: Any) -> Any:
        """One of a list."""
        options = list(options)
        return options[int(self.rng.integers(len(options)))]

    def when(self, fixed: float = 0.3) -> tuple[str, str, Moves]:
        """A window: in words, as an expression for `resolve_date`, and whether it moves. `fixed`: share of events."""
        if self.rng.random() < fixed:
            if self.rng.random() < 0.5:
                event = self.one(EVENTS)
                return f"during {event}", event, "never"
            month = self.one(MONTHS)
            return f"in {MONTHS[month]}", month, "never"
        if self.rng.random() < 0.2:
            return "yesterday", "yesterday", "daily"
        n = self.one(DAYS)
        return f"in the last {n} days", f"last {n} days", "daily"

    def account(self, ads: int = 1) -> dict[str, Any]:
        """An account with at least so many lasting ads; with fewer if there is none."""
        some = [a for a in self.facts.accounts if a["n_ads"] >= ads]
        return cast(dict[str, Any], self.one(some or self.facts.accounts))

    def ad(self) -> dict[str, Any]:
        """A lasting ad."""
        return cast(dict[str, Any], self.one(self.facts.ads))


Template = Callable[[Draw], Question]


def _date(expression: str, id: str = "s1") -> Step:
    return Step(id, "resolve_date", {"expression": expression})


def _value(id: str) -> AnswerFrom:
    return lambda o: o[id]["value"]


def _field(id: str, name: str) -> AnswerFrom:
    return lambda o: o[id]["rows"][0][name]


def _kind(metric: str) -> AnswerType:
    return MONEY if metric in ("spend", "conv_value") else COUNT


def _in_unit(metric: str) -> str:
    return " Answer in yuan." if metric in ("spend", "conv_value") else ""


def _word(metric: str) -> str:
    return WORDS[metric]


def _often(moves: Moves, answer: AnswerType) -> Moves:
    """A number over a moving window changes every day; a name or a set need not."""
    return "sometimes" if moves == "daily" and answer.kind != "number" else moves


# ------------------------------------------------------------------ level 1: one retrieval


def total(draw: Draw) -> Question:
    """A metric of all accounts."""
    metric, (words, window, moves) = draw.one(METRICS), draw.when()
    report = Step("s2", "get_account_report", {**WINDOW, "metrics": [metric]})
    return Question(
        f"What was the total {_word(metric)} of all accounts {words}?{_in_unit(metric)}",
        ((_date(window), report),), _field("s2", metric), _kind(metric), moves,
    )  # fmt: skip


def account_total(draw: Draw) -> Question:
    """A metric of one account."""
    metric, (words, window, moves), account = draw.one(METRICS), draw.when(), draw.account()
    ids = {"account_ids": [account["account_id"]]}
    by_account = Step("s2", "get_account_report", {**WINDOW, "metrics": [metric], **ids, "group_by": "account"})
    report = Step("s2", "get_account_report", {**WINDOW, "metrics": [metric], **ids})
    return Question(
        f"What was the total {_word(metric)} of account {account['account_id']} {words}?{_in_unit(metric)}",
        ((_date(window), report), (_date(window), by_account)), _field("s2", metric), _kind(metric), moves,
    )  # fmt: skip


def ad_total(draw: Draw) -> Question:
    """A metric of one ad."""
    metric, (words, window, moves), ad = draw.one(METRICS[:3]), draw.when(), draw.ad()
    arguments = {**WINDOW, "metrics": [metric], "ad_ids": [ad["ad_id"]]}
    report = Step("s2", "get_ad_report", arguments)
    as_total = Step("s2", "get_ad_report", {**arguments, "group_by": "total"})
    return Question(
        f"What was the total {_word(metric)} of ad {ad['ad_id']} {words}?{_in_unit(metric)}",
        ((_date(window), report), (_date(window), as_total)), _field("s2", metric), _kind(metric), moves,
    )  # fmt: skip


def top_ad(draw: Draw) -> Question:
    """The best ad of an account."""
    metric, (words, window, moves), account = draw.one(METRICS), draw.when(), draw.account(2)
    report = Step(
        "s2", "get_ad_report",
        {**WINDOW, "metrics": [metric], "account_ids": [account["account_id"]], "order_by": metric, "top_k": 1},
        compare=("start", "end", "metrics", "account_ids", "group_by", "order_by"),
    )  # fmt: skip
    return Question(
        f"Which ad of account {account['account_id']} had the largest {_word(metric)} {words}? Answer with its id "
        "only.",
        ((_date(window), report),), _field("s2", "ad_id"), ENUM, _often(moves, ENUM),
    )  # fmt: skip


def busiest_hour(draw: Draw) -> Question:
    """The hour in which an ad is clicked most."""
    (words, window, moves), ad = draw.when(1.0), draw.ad()
    report = Step("s2", "get_hourly_report", {**WINDOW, "ad_ids": [ad["ad_id"]], "metrics": ["clicks"]})
    return Question(
        f"In which hour of the day (0 to 23) did ad {ad['ad_id']} get the most clicks {words}? Answer with the hour "
        "only, the earlier one of two equal ones.",
        ((_date(window), report),),
        lambda o: max(o["s2"]["rows"], key=lambda row: (row["clicks"], -row["hour"]))["hour"],
        ENUM, moves,
    )  # fmt: skip


# ------------------------------------------------------------------ level 2: filter and aggregate


def _ratio(name: str, rows: Step, in_total: Step, before: tuple[Step, ...], last: str) -> dict[str, Any]:
    """References, answer and the classic mistake of a ratio: sum / sum, not the mean of the accounts' ratios."""
    over, under, factor, _, kind = RATIOS[name]
    size = {"": 1.0, "100 * ": 100.0, "1000 * ": 1000.0}[factor]
    of_rows = f"{factor}sum({{{rows.id}.rows.*.{over}}}) / sum({{{rows.id}.rows.*.{under}}})"
    of_total = f"{factor}{{{in_total.id}.rows.0.{over}}} / {{{in_total.id}.rows.0.{under}}}"

    def mean_of_ratios(o: Outputs) -> float:
        return float(np.mean([size * row[over] / max(row[under], 1) for row in o[rows.id]["rows"]]))

    return {
        "references": (
            (*before, rows, Step(last, "calculator", {"expression": of_rows})),
            (*before, in_total, Step(last, "calculator", {"expression": of_total})),
        ),
        "answer_from": _value(last),
        "answer": kind,
        "mistakes": {"mean of ratios": mean_of_ratios},
    }


def overall_ratio(draw: Draw) -> Question:
    """A ratio over all accounts."""
    name, (words, window, moves) = draw.one(RATIOS), draw.when()
    over, under, _, unit, _ = RATIOS[name]
    arguments = {**WINDOW, "metrics": [over, under]}
    return Question(
        query=f"What was the overall {name} of all accounts together {words}? Answer in {unit}, {DIGITS}.",
        moves=moves,
        **_ratio(
            name,
            Step("s2", "get_account_report", {**arguments, "group_by": "account"}),
            Step("s2", "get_account_report", arguments),
            (_date(window),),
            "s3",
        ),
    )


def group_ratio(draw: Draw) -> Question:
    """A ratio over the accounts of an industry, a region or a tier."""
    name, (words, window, moves) = draw.one(RATIOS), draw.when()
    over, under, _, unit, _ = RATIOS[name]
    by = draw.one(("industry", "region", "tier"))
    group = draw.account()[by]
    accounts = {**WINDOW, "metrics": [over, under], "account_ids": "$s2.rows.*.account_id"}
    of = {"industry": f"the industry {group}", "region": f"the region {group}", "tier": f"tier {group}"}[by]
    return Question(
        query=f"What was the overall {name} of the accounts of {of}, taken together, {words}? Answer in {unit}, "
        f"{DIGITS}.",
        moves=moves,
        **_ratio(
            name,
            Step("s3", "get_account_report", {**accounts, "group_by": "account"}),
            Step("s3", "get_account_report", accounts),
            (_date(window), Step("s2", "list_accounts", {by: group})),
            "s4",
        ),
    )


AUDIENCES = {
    "gender": {"F": "the female audience", "M": "the male audience"},
    "age": {band: f"users aged {band}" for band in ("18-24", "25-34", "35-44", "45+")},
    "region": {region: f"users in the {region}" for region in ("north", "south", "east", "west")},
}


def audience_total(draw: Draw) -> Question:
    """A metric of one audience."""
    metric, (words, window, moves) = draw.one(METRICS), draw.when()
    dimension = draw.one(AUDIENCES)
    value = draw.one(AUDIENCES[dimension])
    account = draw.account() if draw.rng.random() < 0.6 else None
    scope = {} if account is None else {"account_ids": [account["account_id"]]}
    whom = "all accounts" if account is None else f"account {account['account_id']}"
    arguments = {**WINDOW, "metrics": [metric], "dimension": dimension, **scope}
    return Question(
        f"What was the {_word(metric)} of {whom} on {AUDIENCES[dimension][value]} {words}?{_in_unit(metric)}",
        (
            (_date(window), Step("s2", "get_audience_report", {**arguments, "value": value})),
            (_date(window), Step("s2", "get_audience_report", arguments)),
        ),
        lambda o: next(row[metric] for row in o["s2"]["rows"] if row[dimension] == value),
        _kind(metric), moves,
    )  # fmt: skip


def audience_share(draw: Draw) -> Question:
    """Which part of a metric comes from one audience."""
    metric, (words, window, moves), account = draw.one(METRICS[:3]), draw.when(), draw.account()
    dimension = draw.one(AUDIENCES)
    value = draw.one(AUDIENCES[dimension])
    position = sorted({"gender": ("F", "M", "U")}.get(dimension, AUDIENCES[dimension])).index(value)
    arguments = {**WINDOW, "metrics": [metric], "dimension": dimension, "account_ids": [account["account_id"]]}

    def answer(o: Outputs) -> float:
        of = {row[dimension]: row[metric] for row in o["s2"]["rows"]}
        return float(100 * of[value] / sum(of.values()))

    share = f"100 * {{s2.rows.{position}.{metric}}} / sum({{s2.rows.*.{metric}}})"
    return Question(
        f"Which share of the {_word(metric)} of account {account['account_id']} {words} came from "
        f"{AUDIENCES[dimension][value]}? Answer in percent, {DIGITS}.",
        (
            (
                _date(window), Step("s2", "get_audience_report", arguments),
                Step("s3", "calculator", {"expression": share}),
            ),
        ),
        answer, PERCENT, moves,
    )  # fmt: skip


def top_ads(draw: Draw) -> Question:
    """The three best ads, in order."""
    metric, (words, window, moves), account = draw.one(METRICS[:4]), draw.when(), draw.account(3)
    whole = draw.rng.random() < 0.4
    scope = {} if whole else {"account_ids": [account["account_id"]]}
    whom = "all ads" if whole else f"the ads of account {account['account_id']}"
    report = Step(
        "s2", "get_ad_report", {**WINDOW, "metrics": [metric], **scope, "order_by": metric, "top_k": 3},
        compare=("start", "end", "metrics", "account_ids", "group_by", "order_by"),
    )  # fmt: skip
    return Question(
        f"Which three of {whom} had the largest {_word(metric)} {words}? Answer with their ids, the largest first, "
        "separated by commas.",
        ((_date(window), report),), lambda o: [row["ad_id"] for row in o["s2"]["rows"]], LIST, _often(moves, LIST),
    )  # fmt: skip


def growth(draw: Draw) -> Question:
    """Change between two windows: two branches that can run side by side."""
    metric, n = draw.one(METRICS), draw.one(DAYS[:-2])
    account = draw.account() if draw.rng.random() < 0.7 else None
    scope = {} if account is None else {"account_ids": [account["account_id"]]}
    whom = "all accounts" if account is None else f"account {account['account_id']}"

    def report(id: str, window: str) -> Step:
        dates = {"start": f"${window}.start", "end": f"${window}.end"}
        return Step(id, "get_account_report", {**dates, "metrics": [metric], **scope})

    new, old = f"{{s3.rows.0.{metric}}}", f"{{s4.rows.0.{metric}}}"
    return Question(
        f"By how many percent did the {_word(metric)} of {whom} in the last {n} days change against the {n} days "
        f"before those? Answer in percent, negative for a fall, {DIGITS}.",
        (
            (
                _date(f"last {n} days", "s1"), _date(f"previous {n} days", "s2"), report("s3", "s1"),
                report("s4", "s2"), Step("s5", "calculator", {"expression": f"100 * ({new} - {old}) / {old}"}),
            ),
        ),
        _value("s5"), PERCENT, "daily",
    )  # fmt: skip


def big_spenders(draw: Draw) -> Question:
    """The accounts above a limit."""
    words, window, moves = draw.when()
    metric = draw.one(("spend", "clicks", "conversions"))
    limits = {"spend": (200, 500, 1000, 2000), "clicks": (500, 1000, 3000), "conversions": (20, 50, 150)}
    limit = draw.one(limits[metric])
    report = Step("s2", "get_account_report", {**WINDOW, "metrics": [metric], "group_by": "account"})
    unit = " yuan" if metric == "spend" else ""
    return Question(
        f"Which accounts had a {_word(metric)} of more than {limit}{unit} {words}? Answer with their names, "
        "separated by commas, or none.",
        ((_date(window), report),), lambda o: [row["name"] for row in o["s2"]["rows"] if row[metric] > limit],
        SET, _often(moves, SET),
    )  # fmt: skip


def budget_use(draw: Draw) -> Question:
    """How much of its budget an ad uses: two sources, side by side."""
    (words, window, moves), ad = draw.when(0.0), draw.ad()
    report = Step("s3", "get_ad_report", {**WINDOW, "metrics": ["spend"], "ad_ids": [ad["ad_id"]], "group_by": "day"})
    used = "100 * sum({s3.rows.*.spend}) / ({s2.daily_budget} * %s)"
    days = "1" if window == "yesterday" else window.split()[1]
    return Question(
        f"Which share of its budget (daily budget times number of days) did ad {ad['ad_id']} spend {words}? Answer in "
        f"percent, {DIGITS}.",
        (
            (
                _date(window), Step("s2", "get_ad_detail", {"ad_id": ad["ad_id"]}), report,
                Step("s4", "calculator", {"expression": used % days}),
            ),
            (
                _date(window), Step("s2", "get_ad_detail", {"ad_id": ad["ad_id"]}),
                Step("s3", "get_ad_report", {**report.arguments, "group_by": "total"}),
                Step("s4", "calculator", {"expression": used % days}),
            ),
        ),
        _value("s4"), PERCENT, moves,
    )  # fmt: skip


def cheapest_account(draw: Draw) -> Question:
    """The account with the lowest or highest price."""
    words, window, moves = draw.when()
    most = draw.rng.random() < 0.5
    report = Step("s2", "get_account_report", {**WINDOW, "metrics": ["spend", "clicks"], "group_by": "account"})

    def answer(o: Outputs) -> str:
        rows = [row for row in o["s2"]["rows"] if row["cpc"] is not None]
        return cast(str, (max if most else min)(rows, key=lambda row: row["cpc"])["name"])

    return Question(
        f"Which account had the {'highest' if most else 'lowest'} cost per click {words}? Answer with its name only.",
        ((_date(window), report),), answer, ENUM, _often(moves, ENUM),
    )  # fmt: skip


# ------------------------------------------------------------------ level 3: knowledge, several sources


def _number_in(id: str) -> AnswerFrom:
    """The first number in the text of the best rule."""
    return lambda o: int(re.findall(r"\d+", o[id]["rows"][0]["text"])[0])


def _frequency_steps(ad: int, window: str) -> tuple[Step, ...]:
    report = {**WINDOW, "metrics": ["impressions"], "dimension": "frequency", "ad_ids": [ad]}
    rules = Step("s2", "search_rules", {"query": "billing cap per user"}, compare=())
    return _date(window), rules, Step("s3", "get_audience_report", report)


def capped_users(draw: Draw) -> Question:
    """Users who reached the billing cap: a rule, applied to a distribution."""
    (words, window, moves), ad = draw.when(0.3), draw.ad()
    cap = _number_in("s2")
    return Question(
        f"How many times was the billing cap per user of ad {ad['ad_id']} reached {words} (count each user once for "
        "each day on which the user's number of impressions was at the cap or above)?",
        (_frequency_steps(ad["ad_id"], window),),
        lambda o: sum(row["users"] for row in o["s3"]["rows"] if row["frequency"] >= cap(o)), COUNT, moves,
        {"rule": lambda o: sum(row["users"] for row in o["s3"]["rows"])},
    )  # fmt: skip


def unbilled_impressions(draw: Draw) -> Question:
    """Impressions above the cap."""
    (words, window, moves), ad = draw.when(0.3), draw.ad()
    cap = _number_in("s2")
    return Question(
        f"How many impressions of ad {ad['ad_id']} {words} are not billed because of the billing cap per user now in "
        "force?",
        (_frequency_steps(ad["ad_id"], window),),
        lambda o: sum(row["users"] * max(0, row["frequency"] - cap(o)) for row in o["s3"]["rows"]), COUNT, moves,
        {"rule": lambda o: sum(row["impressions"] for row in o["s3"]["rows"] if row["frequency"] > cap(o))},
    )  # fmt: skip


def _golden_steps(ad: int, window: str, metric: str) -> tuple[Step, ...]:
    return (
        _date(window),
        Step("s2", "get_ad_detail", {"ad_id": ad}),
        Step("s3", "get_hourly_report", {**WINDOW, "ad_ids": [ad], "metrics": [metric]}),
        Step("s4", "industry_benchmark", {"industry": "$s2.industry", "kind": "golden_hours"}),
    )


def golden_peak(draw: Draw) -> Question:
    """Does an ad's best hour match its industry's?"""
    (words, window, moves), ad = draw.when(1.0), draw.ad()
    metric = draw.one(("conversions", "clicks"))
    compare = {"a": f"$s3.rows.*.{metric}", "b": "$s4.rows.*.index", "how": "same_peak"}
    return Question(
        f"Does the hour in which ad {ad['ad_id']} had the most {metric} {words} match the best of the golden hours "
        "of its industry? Answer yes or no.",
        ((*_golden_steps(ad["ad_id"], window, metric), Step("s5", "compare_series", compare)),),
        _value("s5"), BOOL, moves,
    )  # fmt: skip


def golden_hours_hit(draw: Draw) -> Question:
    """Which of an ad's best hours are golden hours."""
    (words, window, moves), ad = draw.when(1.0), draw.ad()

    def answer(o: Outputs) -> list[int]:
        def best(rows: list[dict[str, Any]], name: str) -> set[int]:
            return {row["hour"] for row in sorted(rows, key=lambda row: (-row[name], row["hour"]))[:5]}

        return sorted(best(o["s3"]["rows"], "impressions") & best(o["s4"]["rows"], "index"))

    return Question(
        f"Which of the five hours in which ad {ad['ad_id']} had the most impressions {words} are among the five hours "
        "with the highest golden-hour index of its industry (earlier hours win ties)? Answer with the hours, separated "
        "by commas, or none.",
        (_golden_steps(ad["ad_id"], window, "impressions"),), answer, SET, moves,
    )  # fmt: skip


def against_benchmark(draw: Draw) -> Question:
    """An account's ratio against its industry's median."""
    account = draw.account()
    metric, name = draw.one((("cpc", "cost per click"), ("cpm", "cost per thousand impressions")))
    over, under, factor, _, _ = RATIOS[name]
    month = draw.one((*MONTHS, "last month"))
    words = MONTHS.get(month, month)
    ratio = f"{factor}{{s2.rows.0.{over}}} / {{s2.rows.0.{under}}}"
    return Question(
        f"By how many percent was the {name} of account {account['account_id']} in {words} above the median of the "
        f"industry {account['industry']} in that month? Answer in percent, negative if it was below, {DIGITS}."
        .replace("in last month", "last month"),
        (
            (
                _date(month),
                Step(
                    "s2", "get_account_report",
                    {**WINDOW, "metrics": [over, under], "account_ids": [account["account_id"]]},
                ),
                Step(
                    "s3", "industry_benchmark",
                    {"industry": account["industry"], "metric": metric, "month": "$s1.start"},
                    compare=("industry", "kind", "metric"),
                ),
                Step("s4", "calculator", {"expression": f"100 * (({ratio}) / {{s3.rows.0.median}} - 1)"}),
            ),
        ),
        _value("s4"), PERCENT, "sometimes" if month == "last month" else "never",
    )  # fmt: skip


def twin_ads(draw: Draw) -> Question:
    """Do two ads have the same rhythm? Two branches."""
    words, window, moves = draw.when(0.3)
    first, second = sorted(draw.rng.choice([ad["ad_id"] for ad in draw.facts.ads], size=2, replace=False).tolist())
    metric = draw.one(("clicks", "impressions"))

    def report(id: str, ad: int) -> Step:
        return Step(id, "get_hourly_report", {**WINDOW, "ad_ids": [ad], "metrics": [metric]})

    compare = {"a": f"$s2.rows.*.{metric}", "b": f"$s3.rows.*.{metric}", "how": "correlation"}
    return Question(
        f"What is Pearson's correlation over the 24 hours of the day between the {metric} of ad {first} and those of "
        f"ad {second} {words}? Answer with at least four digits after the point.",
        ((_date(window), report("s2", first), report("s3", second), Step("s4", "compare_series", compare)),),
        _value("s4"), PLAIN, moves,
    )  # fmt: skip


def headroom(draw: Draw) -> Question:
    """What the overspend rule leaves to an ad: three sources."""
    (words, window, moves), ad = draw.when(0.5), draw.ad()
    report = {**WINDOW, "metrics": ["spend"], "ad_ids": [ad["ad_id"]], "group_by": "day"}
    extra = _number_in("s3")

    def left(o: Outputs, factor: float) -> float:
        highest = max(row["spend"] for row in o["s4"]["rows"])
        return round(float(o["s2"]["daily_budget"] * factor - highest), 2)

    return Question(
        f"How many yuan lie between the most that ad {ad['ad_id']} may spend on one day, overspend allowed by the "
        f"rules included, and the most that it did spend on one day {words}? Answer in yuan.",
        (
            (
                _date(window), Step("s2", "get_ad_detail", {"ad_id": ad["ad_id"]}),
                Step("s3", "search_rules", {"query": "budget overspend"}, compare=()),
                Step("s4", "get_ad_report", report),
            ),
        ),
        lambda o: left(o, 1 + extra(o) / 100), MONEY, "sometimes" if moves == "daily" else moves,
        {"rule": lambda o: left(o, 1.0)},
    )  # fmt: skip


def refund(draw: Draw) -> Question:
    """The least number of invalid clicks that is refunded."""
    account = draw.account()
    report = {**WINDOW, "metrics": ["clicks"], "account_ids": [account["account_id"]]}
    percent = _number_in("s2")

    def least(o: Outputs) -> int:
        return int(o["s3"]["rows"][0]["clicks"] * percent(o) // 100) + 1

    return Question(
        f"Under the refund rule now in force, how many clicks of account {account['account_id']} last month would at "
        "least have to be invalid for a refund?",
        (
            (
                _date("last month"), Step("s2", "search_rules", {"query": "refund of invalid clicks"}, compare=()),
                Step("s3", "get_account_report", report),
            ),
        ),
        least, COUNT, "sometimes", {"rule": lambda o: 1},
    )  # fmt: skip


def learning_phase(draw: Draw) -> Question:
    """A short explanation, for a judge."""
    ad, days = draw.one(sorted(draw.facts.ads, key=lambda ad: ad["start_date"])[:10]), _number_in("s2")  # long over

    def answer(o: Outputs) -> str:
        return (
            f"Ad {o['s1']['ad_id']} started on {o['s1']['start_date']}; its learning phase is the first {days(o)} "
            "days, so it is over and the ad may be judged."
        )

    return Question(
        f"Is ad {ad['ad_id']} still in its learning phase, or may it be judged? Explain in one sentence: when it "
        "started, how long the phase is, and what follows.",
        (
            (
                Step("s1", "get_ad_detail", {"ad_id": ad["ad_id"]}),
                Step("s2", "search_rules", {"query": "learning phase"}, compare=()),
            ),
        ),
        answer, TEXT, "never",
        rubric="names the start date, the length of the learning phase, and concludes that the ad may be judged",
    )  # fmt: skip


# Level, template, how many of the 100 tasks.
TEMPLATES: tuple[tuple[Literal[1, 2, 3], Template, int], ...] = (
    (1, total, 8), (1, account_total, 6), (1, ad_total, 4), (1, top_ad, 4), (1, busiest_hour, 2),
    (2, overall_ratio, 4), (2, group_ratio, 8), (2, audience_total, 6), (2, audience_share, 6), (2, top_ads, 5),
    (2, growth, 7), (2, big_spenders, 4), (2, budget_use, 5), (2, cheapest_account, 2),
    (3, capped_users, 6), (3, unbilled_impressions, 3), (3, golden_peak, 4), (3, golden_hours_hit, 2),
    (3, against_benchmark, 5), (3, twin_ads, 3), (3, headroom, 3), (3, refund, 1), (3, learning_phase, 2),
)  # fmt: skip
