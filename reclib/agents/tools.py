"""The eleven tools of an advertising analyst: typed, read-only, bounded.

The paper says that there are eleven and no more; which they are is our choice. Whatever a model writes is data: it is
checked against the signature, bounded, and bound to the `?` of statements that are constants. Money is in yuan with two
decimals, dates are ISO, rows come in a fixed order. What a caller did wrong (a bad date, an id that does not exist, a
filter that nothing passes) is a `ValueError` whose message tells a model how to mend it; "no data" is such an error and
never a zero.

Metrics are additive on purpose: a ratio has to be computed as a sum over a sum. The exception is a trap:
`get_account_report(group_by="account")` shows each account's own `cpc`, whose mean is not the cpc of all.
"""

from __future__ import annotations

import datetime as dt
import inspect
import math
import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
from beartype.door import is_bearable

from reclib.agents import calculator, dates
from reclib.agents.environment import AdEnvironment

Metric = Literal["spend", "impressions", "clicks", "conversions", "conv_value"]
HourlyMetric = Literal["spend", "impressions", "clicks", "conversions"]
Dimension = Literal["gender", "age", "region", "frequency"]
Rows = dict[str, list[dict[str, Any]]]

TOOLS = (
    "resolve_date", "list_accounts", "get_account_report", "get_ad_report", "get_audience_report", "get_hourly_report",
    "get_ad_detail", "industry_benchmark", "search_rules", "calculator", "compare_series",
)  # fmt: skip
LONGEST_TEXT = 2000  # characters of one argument
LONGEST_LIST = 1000  # items of one argument
LARGEST_NUMBER = 1e15

# What a metric is in SQL. Money is kept in cents, shown in yuan.
COLUMNS = {
    "spend": "sum(spend_cents)::BIGINT / 100.0",
    "impressions": "sum(impressions)::BIGINT",
    "clicks": "sum(clicks)::BIGINT",
    "conversions": "sum(conversions)::BIGINT",
    "conv_value": "sum(conv_value_cents)::BIGINT / 100.0",
}
MONEY = ("spend", "conv_value")
IN_WINDOW = "FROM daily JOIN ads USING (ad_id) JOIN accounts USING (account_id) WHERE date BETWEEN ? AND ?"
# Too common to search for.
FEW_WORDS = frozenset(
    (
        "a", "an", "and", "are", "at", "be", "by", "can", "do", "does", "for", "how", "i", "in", "is",
        "it", "of", "on", "or", "per", "than", "the", "to", "what", "which",
    )
)  # fmt: skip


class AdAnalyticsTools:
    """The tools over one environment. Call them as methods, or by name and JSON arguments with `call`."""

    def __init__(self, environment: AdEnvironment) -> None:
        self._environment = environment
        self._query = environment.query

    def call(self, tool: str, arguments: Mapping[str, Any]) -> Any:
        """What a model asked for: arguments are checked against the signature first.

        Raises:
            ValueError: no such tool, an argument that is missing, unknown, of the wrong type, too long or not finite,
                or whatever the tool itself refuses. The message names the argument and the fix.
        """
        if tool not in TOOLS:
            raise ValueError(f"tool: there is no {tool[:60]!r}; choose one of {', '.join(TOOLS)}")
        hints, given = _parameters(tool), {name: value for name, value in arguments.items() if value is not None}
        for name in given:
            if name not in hints:
                raise ValueError(f"{str(name)[:60]}: {tool} has no such argument; it takes {', '.join(hints)}")
        for name, (hint, required) in hints.items():
            if name not in given:
                if required:
                    raise ValueError(f"{name}: {tool} needs it; give {_wanted(hint)}")
                continue
            _check_size(name, given[name])
            if not _fits(given[name], hint):
                raise ValueError(f"{name}: {str(given[name])[:60]!r} does not fit; give {_wanted(hint)}")
        return getattr(self, tool)(**given)

    # -------------------------------------------------------------- the eleven tools

    def resolve_date(self, expression: str) -> dict[str, str]:
        """Turn a date expression into a window of whole days. Today has no data yet: data end yesterday.

        Args:
            expression: "yesterday", "day before yesterday", "last 7 days", "previous 7 days" (the 7 days before the
                last 7), "last week", "last month", "2025-11", "2025-11-05", "2025-11-01 to 2025-11-05", or a calendar
                event such as "Double-11".
        """
        events = {row["name"]: (row["start_date"], row["end_date"]) for row in self._query("SELECT * FROM calendar")}
        start, end = dates.resolve(expression, self._environment.as_of, events)
        return {"start": start.isoformat(), "end": end.isoformat()}

    def list_accounts(
        self, industry: str | None = None, region: str | None = None, tier: Literal["A", "B", "C"] | None = None
    ) -> Rows:
        """List advertiser accounts, sorted by id. Filters combine.

        Args:
            industry: only accounts of this industry, such as "beauty".
            region: only accounts of this region: "north", "south", "east" or "west".
            tier: only accounts of this tier.
        """
        return self._rows(
            "SELECT account_id, name, industry, tier, region, created::VARCHAR AS created FROM accounts "
            "WHERE (?::VARCHAR IS NULL OR lower(industry) = lower(?)) AND (?::VARCHAR IS NULL OR lower(region) = "
            "lower(?)) AND (?::VARCHAR IS NULL OR tier = ?) ORDER BY account_id",
            [industry, industry, region, region, tier, tier],
            "industry, region, tier: no account passes all filters; leave one out",
        )

    def get_account_report(
        self,
        start: str,
        end: str,
        metrics: list[Metric],
        account_ids: list[int] | None = None,
        group_by: Literal["total", "account", "day"] = "total",
    ) -> Rows:
        """Sums of metrics over whole days, money in yuan. Grouped by account, each row also shows its own cpc.

        Args:
            start: first day, ISO.
            end: last day, ISO, included.
            metrics: what to add up: spend, impressions, clicks, conversions, conv_value.
            account_ids: only these accounts; default: all.
            group_by: one row in total, one per account, or one per day.
        """
        key = {"total": "", "account": "account_id, accounts.name AS name, ", "day": "date::VARCHAR AS date, "}[
            group_by
        ]
        ratio = ", round(sum(spend_cents) / nullif(sum(clicks), 0) / 100.0, 4) AS cpc" if group_by == "account" else ""
        self._check_ids("account_ids", account_ids, "SELECT account_id AS id FROM accounts")
        return self._report(
            f"SELECT {key}{_sums(metrics)}{ratio} {IN_WINDOW} AND (? OR list_contains(?::BIGINT[], account_id))"
            f"{' GROUP BY ALL ORDER BY ALL' if key else ' HAVING count(*) > 0'}",
            [*dates.window(start, end), account_ids is None, account_ids or []],
        )

    def get_ad_report(
        self,
        start: str,
        end: str,
        metrics: list[Metric],
        account_ids: list[int] | None = None,
        ad_ids: list[int] | None = None,
        group_by: Literal["total", "ad", "day"] = "ad",
        order_by: Metric | None = None,
        top_k: int | None = None,
    ) -> Rows:
        """Sums of metrics of ads over whole days, money in yuan.

        Args:
            start: first day, ISO.
            end: last day, ISO, included.
            metrics: what to add up: spend, impressions, clicks, conversions, conv_value.
            account_ids: only ads of these accounts; default: all.
            ad_ids: only these ads; default: all.
            group_by: one row in total, one per ad, or one per day.
            order_by: largest first by this metric, which has to be among `metrics`; ties by id or date.
            top_k: only the first rows.
        """
        if order_by is not None and order_by not in metrics:
            raise ValueError(f"order_by: {order_by!r} is not among the metrics; add it there")
        _check_top_k(top_k)
        key = {"total": "", "ad": "ad_id, ", "day": "date::VARCHAR AS date, "}[group_by]
        self._check_ids("account_ids", account_ids, "SELECT account_id AS id FROM accounts")
        self._check_ids("ad_ids", ad_ids, "SELECT ad_id AS id FROM ads")
        largest = f'"{order_by}" DESC, ' if order_by is not None else ""
        grouped = f" GROUP BY ALL ORDER BY {largest}1 LIMIT ?" if key else " HAVING count(*) > 0 LIMIT ?"
        return self._report(
            f"SELECT {key}{_sums(metrics)} {IN_WINDOW} AND (? OR list_contains(?::BIGINT[], account_id)) "
            f"AND (? OR list_contains(?::BIGINT[], ad_id)){grouped}",
            [
                *dates.window(start, end), account_ids is None, account_ids or [], ad_ids is None, ad_ids or [],
                top_k if top_k is not None else LONGEST_LIST,
            ],
        )  # fmt: skip

    def get_audience_report(
        self,
        start: str,
        end: str,
        metrics: list[Metric],
        dimension: Dimension,
        value: str | None = None,
        account_ids: list[int] | None = None,
        ad_ids: list[int] | None = None,
    ) -> Rows:
        """Sums of metrics by audience, money in yuan; or how often users saw an ad on a day.

        Args:
            start: first day, ISO.
            end: last day, ISO, included.
            metrics: what to add up: spend, impressions, clicks, conversions, conv_value; by frequency only impressions.
            dimension: gender (F, M, U), age (18-24, 25-34, 35-44, 45+), region (north, south, east, west) of the users,
                or frequency: impressions per user, ad and day, with the number of such users.
            value: only this value of the dimension, such as "F".
            account_ids: only ads of these accounts; default: all.
            ad_ids: only these ads; default: all.
        """
        self._check_ids("account_ids", account_ids, "SELECT account_id AS id FROM accounts")
        self._check_ids("ad_ids", ad_ids, "SELECT ad_id AS id FROM ads")
        if dimension == "frequency":
            if set(metrics) != {"impressions"}:
                raise ValueError(f"metrics: {', '.join(metrics)} are not known by frequency; ask for ['impressions']")
            select = (
                "impressions_per_user AS frequency, sum(users)::BIGINT AS users, "
                "sum(impressions_per_user * users)::BIGINT AS impressions"
            )
            table, column = IN_WINDOW.replace("daily", "frequency"), "impressions_per_user::VARCHAR"
        else:
            column = {"gender": "daily.gender", "age": "daily.age", "region": "daily.region"}[dimension]
            select, table = f"{column} AS {dimension}, {_sums(metrics)}", IN_WINDOW
        return self._report(
            f"SELECT {select} {table} AND (? OR list_contains(?::BIGINT[], account_id)) "
            f"AND (? OR list_contains(?::BIGINT[], ad_id)) AND (?::VARCHAR IS NULL OR lower({column}) = lower(?)) "
            "GROUP BY ALL ORDER BY 1",
            [
                *dates.window(start, end), account_ids is None, account_ids or [], ad_ids is None, ad_ids or [],
                value, value,
            ],
        )  # fmt: skip

    def get_hourly_report(self, start: str, end: str, ad_ids: list[int], metrics: list[HourlyMetric]) -> Rows:
        """Sums of metrics by hour of the day, 0 to 23, over all days and ads asked for; money in yuan.

        Args:
            start: first day, ISO.
            end: last day, ISO, included.
            ad_ids: the ads.
            metrics: what to add up: spend, impressions, clicks, conversions.
        """
        self._check_ids("ad_ids", ad_ids, "SELECT ad_id AS id FROM ads")
        if not ad_ids:
            raise ValueError("ad_ids: the list is empty; name at least one ad")
        found = self._report(
            f"SELECT hour, {_sums(metrics)} FROM hourly WHERE date BETWEEN ? AND ? "
            "AND list_contains(?::BIGINT[], ad_id) GROUP BY hour ORDER BY hour",
            [*dates.window(start, end), ad_ids],
        )
        by_hour = {row["hour"]: row for row in found["rows"]}
        return {"rows": [by_hour.get(hour) or {"hour": hour} | dict.fromkeys(metrics, 0) for hour in range(24)]}

    def get_ad_detail(self, ad_id: int) -> dict[str, Any]:
        """What is on file for one ad: account, industry, campaign, product, format, dates, budget and bid in yuan.

        Args:
            ad_id: the ad.
        """
        self._check_ids("ad_id", [ad_id], "SELECT ad_id AS id FROM ads")
        (row,) = self._query(
            "SELECT ad_id, account_id, accounts.name AS account, industry, campaign, product, format, "
            "start_date::VARCHAR AS start_date, end_date::VARCHAR AS end_date, daily_budget_cents / 100.0 AS "
            "daily_budget, bid_cents / 100.0 AS bid, status FROM ads JOIN accounts USING (account_id) WHERE ad_id = ?",
            [ad_id],
        )
        return {name: _plain(value) for name, value in row.items()}

    def industry_benchmark(
        self,
        industry: str,
        kind: Literal["metric", "golden_hours"] = "metric",
        metric: Literal["ctr", "cpc", "cvr", "cpm"] | None = None,
        month: str | None = None,
    ) -> Rows:
        """What is usual in an industry: quartiles of a metric by month, or how good each hour of the day is.

        Args:
            industry: such as "beauty".
            kind: "metric" for quartiles (ctr and cvr as shares, cpc and cpm in yuan), "golden_hours" for an index per
                hour (100 is an average hour).
            metric: only this metric.
            month: only this finished month, as YYYY-MM; a date stands for its month.
        """
        if kind == "golden_hours":
            if metric is not None or month is not None:
                raise ValueError("metric, month: golden hours have neither; leave both out")
            return self._rows(
                'SELECT hour, "index" FROM golden_hours WHERE lower(industry) = lower(?) ORDER BY hour',
                [industry],
                f"industry: nothing is known of {industry[:60]!r}; see the industries in list_accounts",
            )
        when = None if month is None else dates.parse(month if month.count("-") > 1 else f"{month}-1", "month")
        return self._rows(
            "SELECT month, metric, round(p25 / unit, 6) AS p25, round(median / unit, 6) AS median, "
            "round(p75 / unit, 6) AS p75 FROM "
            "(SELECT *, CASE WHEN metric IN ('cpc', 'cpm') THEN 100.0 ELSE 1.0 END AS unit FROM benchmarks) "
            "WHERE lower(industry) = lower(?) AND (?::VARCHAR IS NULL OR metric = ?) "
            "AND (?::VARCHAR IS NULL OR month = ?) ORDER BY month, metric",
            [industry, metric, metric, *[None if when is None else f"{when:%Y-%m}"] * 2],
            f"industry, month: nothing is known of {industry[:60]!r} then; name an industry of list_accounts and a "
            "finished month",
        )

    def search_rules(self, query: str, top_k: int = 3) -> Rows:
        """Search the platform's rules that are in force today, best match first.

        Args:
            query: a few key words.
            top_k: at most this many.
        """
        _check_top_k(top_k)
        wanted = _words(query)
        rules = self._query(
            "SELECT rule_id, title, text FROM rules, clock WHERE as_of BETWEEN valid_from AND valid_to ORDER BY rule_id"
        )
        score = [2 * len(wanted & _words(rule["title"])) + len(wanted & _words(rule["text"])) for rule in rules]
        order = sorted((i for i in range(len(rules)) if score[i] > 0), key=lambda i: (-score[i], i))
        if not order:
            raise ValueError(f"query: no rule mentions {query[:60]!r}; try other key words")
        return {"rows": [rules[i] for i in order[:top_k]]}

    def calculator(self, expression: str) -> dict[str, float]:
        """Evaluate arithmetic: numbers, + - * / **, parentheses, lists, min, max, sum, round.

        Args:
            expression: such as "(120.5 + 80) / sum([40, 60])".
        """
        return {"value": calculator.evaluate(expression)}

    def compare_series(
        self, a: list[float], b: list[float], how: Literal["same_peak", "overlap_top3", "correlation"]
    ) -> dict[str, bool | int | float]:
        """Compare two series of the same length.

        Args:
            a: the first series.
            b: the second series.
            how: whether both peak at the same position, how many of the three largest positions they share (earlier
                positions win ties), or Pearson's correlation.
        """
        x, y = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
        if len(x) != len(y) or len(x) < 3:
            raise ValueError(f"b: the series have {len(x)} and {len(y)} values; give two of one length, at least 3")
        if not (np.isfinite(x).all() and np.isfinite(y).all()):
            raise ValueError("a, b: hold NaN or infinite values; give finite numbers")
        if how == "same_peak":
            return {"value": bool(np.argmax(x) == np.argmax(y))}
        if how == "overlap_top3":
            best = [set(np.argsort(-series, kind="stable")[:3].tolist()) for series in (x, y)]
            return {"value": len(best[0] & best[1])}
        if np.ptp(x) == 0 or np.ptp(y) == 0:
            raise ValueError("a, b: a constant series has no correlation; give one that varies")
        return {"value": float(np.corrcoef(x, y)[0, 1])}

    # -------------------------------------------------------------- helpers

    def _report(self, statement: str, values: Sequence[Any]) -> Rows:
        return self._rows(statement, values, "start, end: no data pass these filters; check the window and the ids")

    def _rows(self, statement: str, values: Sequence[Any], if_empty: str) -> Rows:
        rows = self._query(statement, values)
        if not rows:
            raise ValueError(if_empty)
        return {"rows": [{name: _plain(value) for name, value in row.items()} for row in rows]}

    def _check_ids(self, name: str, ids: list[int] | None, statement: str) -> None:
        known = {row["id"] for row in self._query(statement)} if ids else set()
        for each in ids or []:
            if each not in known:
                raise ValueError(f"{name}: there is no {each}; list_accounts and get_ad_report show the ids")
        if ids is not None and not ids and name != "ad_id":
            raise ValueError(f"{name}: the list is empty; leave it out for all")


def _sums(metrics: Sequence[str]) -> str:
    """Columns of a SELECT, each metric once. Only names that COLUMNS knows get in."""
    if not metrics:
        raise ValueError(f"metrics: the list is empty; choose from {', '.join(COLUMNS)}")
    for name in metrics:
        if name not in COLUMNS:
            raise ValueError(f"metrics: there is no {name[:60]!r}; choose from {', '.join(COLUMNS)}")
    return ", ".join(f'{COLUMNS[name]} AS "{name}"' for name in dict.fromkeys(metrics))


def _check_top_k(top_k: int | None) -> None:
    if top_k is not None and not 1 <= top_k <= 100:
        raise ValueError(f"top_k: {top_k}; choose from 1 to 100")


def _plain(value: Any) -> Any:
    """What JSON can hold: money and other decimals as floats with two or more decimals."""
    if isinstance(value, dt.date):
        return value.isoformat()
    if value is None or isinstance(value, str | bool | int):
        return value
    return round(float(value), 6)


def _words(text: str) -> frozenset[str]:
    return frozenset(word.rstrip("s") for word in re.findall(r"[a-z0-9]+", text.casefold())) - FEW_WORDS


# ------------------------------------------------------------------ signatures


@cache
def _parameters(tool: str) -> dict[str, tuple[Any, bool]]:
    """Name → (type, is it required) of a tool's arguments."""
    method = getattr(AdAnalyticsTools, tool)
    hints = get_type_hints(method)
    return {
        name: (hints[name], parameter.default is inspect.Parameter.empty)
        for name, parameter in inspect.signature(method).parameters.items()
        if name != "self"
    }


def defaults(tool: str) -> dict[str, Any]:
    """The default of each optional argument of a tool; none for a tool that does not exist."""
    if tool not in TOOLS:
        return {}
    parameters = inspect.signature(getattr(AdAnalyticsTools, tool)).parameters
    return {name: p.default for name, p in parameters.items() if p.default is not inspect.Parameter.empty}


def _fits(value: Any, hint: Any) -> bool:
    """Whether a JSON value is of a type. Every item of a list is looked at; true is no number."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is list:
        return isinstance(value, list) and all(_fits(item, inner[0]) for item in value)
    if inner and origin is not Literal:  # a union
        return any(_fits(value, each) for each in inner)
    if isinstance(value, bool):
        return False
    return bool(is_bearable(value, hint)) or (hint is float and isinstance(value, int))


def _wanted(hint: Any) -> str:
    """A type in words."""
    origin, inner = get_origin(hint), [each for each in get_args(hint) if each is not type(None)]
    if origin is Literal:
        return " or ".join(repr(each) for each in inner)
    if origin is list:
        return f"a list of {_wanted(inner[0])}"
    if inner:
        return _wanted(inner[0])
    return {str: "a text", int: "a whole number", float: "a number"}[hint]


def _check_size(name: str, value: Any) -> None:
    if isinstance(value, str) and (len(value) > LONGEST_TEXT or "\x00" in value):
        raise ValueError(f"{name}: {len(value)} characters; use at most {LONGEST_TEXT}, none of them zero")
    if isinstance(value, int | float) and not (math.isfinite(value) and abs(value) <= LARGEST_NUMBER):
        raise ValueError(f"{name}: must be a finite number of at most {LARGEST_NUMBER:g} in size")
    if isinstance(value, list):
        if len(value) > LONGEST_LIST:
            raise ValueError(f"{name}: {len(value)} items; use at most {LONGEST_LIST}")
        for item in value:
            _check_size(name, item)
