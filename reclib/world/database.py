r"""The advertisers' side of the world as a DuckDB database, for agents that analyse campaigns.

Tables (money in whole cents, dates as DATE; the names follow the design of the book's agent chapter):

    clock         as_of: "today"
    accounts      account_id, name, industry, tier A|B|C, region, created
    campaigns     campaign_id, account_id, name, objective
    ads           ad_id, account_id, campaign_id, campaign, product, format feed|video|search, start_date, end_date,
                  daily_budget_cents, bid_cents, status scheduled|active|ended (as of yesterday)
    daily         date, ad_id, gender F|M|U, age, region, spend_cents, impressions, clicks, conversions,
                  conv_value_cents
    hourly        date, ad_id, hour 0–23, spend_cents, impressions, clicks, conversions
    frequency     date, ad_id, impressions_per_user, users
    benchmarks    industry, month 'YYYY-MM', metric ctr|cpc|cvr|cpm, p25, median, p75 (finished months only)
    golden_hours  industry, hour, index (100 = an average hour)
    rules         rule_id, title, text, valid_from, valid_to
    calendar      name, start_date, end_date

How a day of an ad comes about: impressions ~ Poisson(volume · weekday · event); they fall on audience segments
(gender × age × region) and on hours by multinomials; clicks ~ Binomial(impressions, ctr of the segment), conversions ~
Binomial(clicks, cvr). The hours get the day's clicks by drawing them from its impressions without replacement, and
the conversions from the clicks. Each click of an ad costs that day's price, so spend = clicks · cpc.

Hence, for every ad and day: the segments of `daily` and the hours of `hourly` sum to the same impressions, clicks,
conversions and spend; clicks ≤ impressions and conversions ≤ clicks in each row; Σ impressions_per_user · users =
impressions. Segments and hours without an impression have no row. Prices differ much between accounts, and large
accounts buy cheaper, so that the mean of the accounts' prices is visibly not the price of all.

All facts are drawn for the whole period first, then cut at `as_of`: moving the clock adds or removes days and never
changes one.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from reclib.world import words
from reclib.world.catalogue import Catalogue

if TYPE_CHECKING:
    import duckdb

FIRST_DAY = dt.date(2025, 8, 1)
N_DAYS = 184  # up to 31 January 2026
DEFAULT_AS_OF = "2025-11-29"  # leaves 120 days of facts

GENDERS = ("F", "M", "U")
N_SEGMENTS = len(GENDERS) * len(words.AGE_BANDS) * len(words.REGIONS)
EVENTS = (
    ("School-Start", "2025-08-25", "2025-09-05", 1.2),
    ("National-Day", "2025-10-01", "2025-10-07", 0.8),
    ("Double-11", "2025-11-01", "2025-11-11", 1.8),
    ("Black-Friday", "2025-11-28", "2025-11-30", 1.6),
    ("Double-12", "2025-12-10", "2025-12-12", 1.4),
    ("New-Year", "2025-12-29", "2026-01-02", 0.7),
)  # name, first day, last day, factor on impressions
RULES = (
    (1, "Billing cap per user",
     "At most 3 impressions per user, ad and day are billed.", "2025-01-01", "2025-09-30"),
    (2, "Billing cap per user",
     "At most 4 impressions per user, ad and day are billed.", "2025-10-01", "2026-12-31"),
    (3, "Attribution window",
     "A conversion counts for the last click within 7 days before it.", "2025-01-01", "2026-12-31"),
    (4, "Smallest daily budget",
     "The daily budget of an ad is at least 5000 cents.", "2025-01-01", "2026-12-31"),
    (5, "Budget overspend",
     "An ad may spend up to 20 percent more than its daily budget on one day.", "2025-01-01", "2026-12-31"),
    (6, "Learning phase",
     "During the first 7 days after its start an ad is in the learning phase; do not judge it.",
     "2025-01-01", "2026-12-31"),
    (7, "Service level of tier A",
     "Accounts of tier A get a review of each ad within 4 hours.", "2025-01-01", "2026-12-31"),
    (8, "Frequency advice",
     "More than 5 impressions per user and day lower the click rate; cap them.", "2025-01-01", "2026-12-31"),
    (9, "Refund of invalid clicks",
     "Invalid clicks are refunded if they exceed 3 percent of an account's clicks in a month.",
     "2025-01-01", "2025-10-31"),
    (10, "Refund of invalid clicks",
     "Invalid clicks are refunded if they exceed 2 percent of an account's clicks in a month.",
     "2025-11-01", "2026-12-31"),
)  # fmt: skip
SCHEMA = """
CREATE TABLE clock (as_of DATE);
CREATE TABLE accounts (account_id INTEGER PRIMARY KEY, name VARCHAR, industry VARCHAR, tier VARCHAR, region VARCHAR,
    created DATE);
CREATE TABLE campaigns (campaign_id INTEGER PRIMARY KEY, account_id INTEGER, name VARCHAR, objective VARCHAR);
CREATE TABLE ads (ad_id BIGINT PRIMARY KEY, account_id INTEGER, campaign_id INTEGER, campaign VARCHAR,
    product VARCHAR, format VARCHAR, start_date DATE, end_date DATE, daily_budget_cents BIGINT, bid_cents BIGINT,
    status VARCHAR);
CREATE TABLE daily (date DATE, ad_id BIGINT, gender VARCHAR, age VARCHAR, region VARCHAR, spend_cents BIGINT,
    impressions BIGINT, clicks BIGINT, conversions BIGINT, conv_value_cents BIGINT);
CREATE TABLE hourly (date DATE, ad_id BIGINT, hour INTEGER, spend_cents BIGINT, impressions BIGINT, clicks BIGINT,
    conversions BIGINT);
CREATE TABLE frequency (date DATE, ad_id BIGINT, impressions_per_user INTEGER, users BIGINT);
CREATE TABLE benchmarks (industry VARCHAR, month VARCHAR, metric VARCHAR, p25 DOUBLE, median DOUBLE, p75 DOUBLE);
CREATE TABLE golden_hours (industry VARCHAR, hour INTEGER, index DOUBLE);
CREATE TABLE rules (rule_id INTEGER, title VARCHAR, text VARCHAR, valid_from DATE, valid_to DATE);
CREATE TABLE calendar (name VARCHAR, start_date DATE, end_date DATE);
"""


def write(
    catalogue: Catalogue,
    rng: np.random.Generator,
    *,
    path: str | Path | None = None,
    as_of: dt.date | str = DEFAULT_AS_OF,
    n_accounts: int = 12,
    n_ads: int = 80,
) -> duckdb.DuckDBPyConnection:
    """Draw the facts and write them; see `AdWorld.campaign_database`.

    Raises:
        ValueError: `path` exists, `as_of` lies outside the period, or the catalogue has too few advertisers or ads.
    """
    import duckdb  # here, because only this function needs it and it takes a while to load

    clock = _parse_clock(as_of)
    if path is not None and Path(path).exists():
        raise ValueError(f"path: {path} exists; delete it or give another name")
    tables = draw_tables(catalogue, rng, n_accounts=n_accounts, n_ads=n_ads)
    connection = duckdb.connect(":memory:" if path is None else str(path))
    connection.execute(SCHEMA)
    for name, table in as_of_view(tables, clock).items():
        connection.register("source", table)
        connection.execute(f"INSERT INTO {name} SELECT * FROM source")
        connection.unregister("source")
    return connection


def as_of_view(tables: dict[str, pd.DataFrame], clock: dt.date) -> dict[str, pd.DataFrame]:
    """What can be known on the morning of `clock`: facts up to the day before, rules and months that are in force."""
    today = pd.Timestamp(clock)
    out = {"clock": pd.DataFrame({"as_of": [today]})}
    for name, table in tables.items():
        if "date" in table:
            table = table[table["date"] < today]
        elif name == "benchmarks":
            table = table[pd.PeriodIndex(table["month"], freq="M").end_time < today]
        elif name == "rules":
            table = table[table["valid_from"] <= today]
        elif name == "ads":
            yesterday = today - pd.Timedelta(days=1)
            status = np.select(
                [table["start_date"] > yesterday, table["end_date"] >= yesterday], ["scheduled", "active"], "ended"
            )
            table = table.assign(status=status)
        out[name] = table
    return out


def draw_tables(
    catalogue: Catalogue, rng: np.random.Generator, *, n_accounts: int, n_ads: int
) -> dict[str, pd.DataFrame]:
    """All tables over the whole period, before the clock cuts them."""
    ad, account = _choose_ads(catalogue, rng, n_accounts, n_ads)
    days = pd.date_range(FIRST_DAY, periods=N_DAYS)
    tables = _dimensions(catalogue, rng, ad, account)
    start = (tables["ads"]["start_date"] - days[0]).dt.days.to_numpy()
    end = (tables["ads"]["end_date"] - days[0]).dt.days.to_numpy()
    day = np.arange(N_DAYS)
    running = (day >= start[:, None]) & (day <= end[:, None])  # [ads, days]

    # An account's price level. Large accounts buy cheaper, so the mean of the accounts' prices is not their price.
    _, account_row = np.unique(account, return_inverse=True)
    level = rng.standard_normal(account_row.max() + 1)[account_row]

    # Volume: a size per ad, weekday and event factors, and the noise of the day.
    weekday = np.array([1.0, 0.97, 0.98, 1.0, 1.08, 1.2, 1.15])[days.day_of_week.to_numpy()]
    event = np.ones(N_DAYS)
    for _, first, last, factor in EVENTS:
        event[(days >= pd.Timestamp(first)) & (days <= pd.Timestamp(last))] *= factor
    size = 2000 * np.exp(0.6 * rng.standard_normal(len(ad)) - 0.4 * level)
    volume = size[:, None] * weekday * event * np.exp(0.1 * rng.standard_normal((len(ad), N_DAYS)))
    impressions = np.where(running, rng.poisson(volume), 0)

    # Segments: women's ads reach more women, and so on; click and conversion rates differ by segment.
    segment_logit = 0.3 * rng.standard_normal((len(ad), N_SEGMENTS)) + _audience_logit(catalogue.audience[ad])
    segment_impressions = rng.multinomial(impressions, _softmax(segment_logit)[:, None, :])
    ctr = 0.012 * np.exp(0.4 * catalogue.quality[ad][:, None] + 0.2 * rng.standard_normal((len(ad), N_SEGMENTS)))
    cvr = 0.05 * np.exp(0.3 * catalogue.quality[ad][:, None] + 0.2 * rng.standard_normal((len(ad), N_SEGMENTS)))
    segment_clicks = rng.binomial(segment_impressions, np.minimum(ctr, 0.5)[:, None, :])
    segment_conversions = rng.binomial(segment_clicks, np.minimum(cvr, 0.9)[:, None, :])

    # Hours: an industry has its peak, an ad deviates from it.
    industry = catalogue.tree.industry[catalogue.topic[ad]]
    n_industries = int(catalogue.tree.industry.max()) + 1
    peak = rng.integers(10, 23, size=n_industries)
    distance = np.abs((np.arange(24) - peak[:, None] + 12) % 24 - 12)
    industry_logit = 1.0 - distance / 6.0  # [industries, hours]
    hour_share = _softmax(industry_logit[industry] + 0.25 * rng.standard_normal((len(ad), 24)))
    hour_impressions = rng.multinomial(impressions, hour_share[:, None, :])
    hour_clicks = _deal(segment_clicks.sum(2), hour_impressions, rng)
    hour_conversions = _deal(segment_conversions.sum(2), hour_clicks, rng)

    # Prices: the account's level, the ad's bid, and the auction of the day.
    daily_noise = np.exp(0.1 * rng.standard_normal((len(ad), N_DAYS)))
    cpc = np.maximum(1, np.round((catalogue.bid[ad] * np.exp(0.8 * level))[:, None] * daily_noise)).astype(np.int64)
    value = np.round(
        np.array([2000, 6000, 20000])[catalogue.price_band[ad]] * np.exp(0.3 * rng.standard_normal(len(ad)))
    )

    tables["daily"] = _facts(
        ("gender", "age", "region"), _segment_names(), days, ad,
        {
            "spend_cents": segment_clicks * cpc[..., None], "impressions": segment_impressions,
            "clicks": segment_clicks, "conversions": segment_conversions,
            "conv_value_cents": segment_conversions * value.astype(np.int64)[:, None, None],
        },
    )  # fmt: skip
    tables["hourly"] = _facts(
        ("hour",), [np.arange(24)], days, ad,
        {
            "spend_cents": hour_clicks * cpc[..., None], "impressions": hour_impressions, "clicks": hour_clicks,
            "conversions": hour_conversions,
        },
    )  # fmt: skip
    tables["frequency"] = _frequency(impressions, days, ad, rng)
    tables["benchmarks"] = _benchmarks(catalogue, rng)
    industries = _industry_names(catalogue)
    tables["golden_hours"] = pd.DataFrame(
        {
            "industry": np.repeat(industries, 24),
            "hour": np.tile(np.arange(24), n_industries),
            "index": np.round(2400 * _softmax(industry_logit), 1).ravel(),
        }
    )
    tables["rules"] = _dated(RULES, ("rule_id", "title", "text", "valid_from", "valid_to"))
    tables["calendar"] = _dated([e[:3] for e in EVENTS], ("name", "start_date", "end_date"))
    return tables


def _parse_clock(as_of: dt.date | str) -> dt.date:
    try:
        clock = dt.date.fromisoformat(as_of) if isinstance(as_of, str) else as_of
    except ValueError as error:
        raise ValueError(f"as_of: {as_of!r} is not a date; write it like '2025-11-29'") from error
    first, last = FIRST_DAY + dt.timedelta(days=1), FIRST_DAY + dt.timedelta(days=N_DAYS)
    if not first <= clock <= last:
        raise ValueError(f"as_of: {clock} lies outside the period; choose a day from {first} to {last}")
    return clock


def _choose_ads(
    catalogue: Catalogue, rng: np.random.Generator, n_accounts: int, n_ads: int
) -> tuple[Int[np.ndarray, "ads"], Int[np.ndarray, "ads"]]:
    """Ads of some advertisers: at least one of each, the rest at random; sorted by account and id."""
    advertisers = np.unique(catalogue.advertiser[1:])
    if not 1 <= n_accounts <= len(advertisers):
        raise ValueError(
            f"n_accounts: must be between 1 and the world's {len(advertisers)} advertisers, got {n_accounts}"
        )
    accounts = rng.choice(advertisers, size=n_accounts, replace=False)
    ads = rng.permutation(np.flatnonzero(np.isin(catalogue.advertiser, accounts) & (catalogue.topic >= 0)))
    if not n_accounts <= n_ads <= len(ads):
        raise ValueError(
            f"n_ads: must be between {n_accounts} (one per account) and {len(ads)}, the ads of {n_accounts} accounts "
            f"in this world; got {n_ads}"
        )
    first = np.unique(catalogue.advertiser[ads], return_index=True)[1]
    rest = np.setdiff1d(np.arange(len(ads)), first)
    ads = np.sort(ads[np.concatenate([first, rest[: n_ads - n_accounts]])])
    ads = ads[np.argsort(catalogue.advertiser[ads], kind="stable")]
    return ads, catalogue.advertiser[ads]


def _dimensions(
    catalogue: Catalogue, rng: np.random.Generator, ad: Int[np.ndarray, "ads"], account: Int[np.ndarray, "ads"]
) -> dict[str, pd.DataFrame]:
    """Accounts, campaigns and ads."""
    seen = catalogue.table.loc[ad]
    ids, first = np.unique(account, return_index=True)
    days_before = rng.integers(30, 1500, size=len(ids))
    accounts = pd.DataFrame(
        {
            "account_id": ids + 1,
            # The id makes names unique: there are more advertisers than brand words.
            "name": [f"{brand} {i + 1}" for brand, i in zip(seen["brand"].iloc[first], ids, strict=True)],
            "industry": seen["industry"].iloc[first].to_numpy(),
            "tier": np.array(["A", "B", "C"])[rng.choice(3, size=len(ids), p=[0.25, 0.35, 0.4])],
            "region": np.array(words.REGIONS)[rng.integers(len(words.REGIONS), size=len(ids))],
            "created": pd.Timestamp(FIRST_DAY) - pd.to_timedelta(days_before, unit="D"),
        }
    )
    campaign, first = np.unique(catalogue.campaign[ad], return_index=True)
    campaigns = pd.DataFrame(
        {
            "campaign_id": campaign + 1,
            "account_id": account[first] + 1,
            "name": seen["campaign"].iloc[first].to_numpy(),
            "objective": np.array(["sales", "visits", "awareness"])[rng.integers(3, size=len(campaign))],
        }
    )
    start = np.where(rng.random(len(ad)) < 0.5, 0, rng.integers(0, 120, size=len(ad)))
    length = rng.integers(45, N_DAYS + 1, size=len(ad))
    ads = pd.DataFrame(
        {
            "ad_id": ad,
            "account_id": account + 1,
            "campaign_id": catalogue.campaign[ad] + 1,
            "campaign": seen["campaign"].to_numpy(),
            "product": seen["topic"].to_numpy(),
            "format": seen["format"].to_numpy(),
            "start_date": pd.Timestamp(FIRST_DAY) + pd.to_timedelta(start, unit="D"),
            "end_date": pd.Timestamp(FIRST_DAY) + pd.to_timedelta(np.minimum(start + length, N_DAYS) - 1, unit="D"),
            "daily_budget_cents": 5000 * rng.integers(1, 21, size=len(ad)),
            "bid_cents": seen["bid"].to_numpy(),
            "status": "",
        }
    )
    return {"accounts": accounts, "campaigns": campaigns, "ads": ads}


def _deal(
    total: Int[np.ndarray, "ads days"], room: Int[np.ndarray, "ads days hours"], rng: np.random.Generator
) -> Int[np.ndarray, "ads days hours"]:
    """Deal `total` marks over the places of `room`, none twice: multivariate hypergeometric, hour by hour."""
    out, marks, places = np.zeros_like(room), total.copy(), room.sum(2)
    for hour in range(room.shape[2]):
        here = room[:, :, hour]
        out[:, :, hour] = rng.hypergeometric(marks, places - marks, here)
        marks = marks - out[:, :, hour]
        places = places - here
    return out


def _facts(
    names: tuple[str, ...],
    values: list[np.ndarray],
    days: pd.DatetimeIndex,
    ad: Int[np.ndarray, "ads"],
    measures: dict[str, Int[np.ndarray, "ads days cells"]],
) -> pd.DataFrame:
    """Long table of the cells that had an impression, sorted by date and ad."""
    day, row, cell = np.nonzero(measures["impressions"].transpose(1, 0, 2))
    table: dict[str, object] = {"date": days[day], "ad_id": ad[row]}
    table |= {name: value[cell] for name, value in zip(names, values, strict=True)}
    return pd.DataFrame(table | {name: cube[row, day, cell] for name, cube in measures.items()})


def _frequency(
    impressions: Int[np.ndarray, "ads days"],
    days: pd.DatetimeIndex,
    ad: Int[np.ndarray, "ads"],
    rng: np.random.Generator,
) -> pd.DataFrame:
    """How many users saw an ad once, twice … six times; the impressions add up exactly."""
    times = np.arange(1, 7)
    weight = np.exp(-times * (0.7 + 0.2 * rng.random((len(ad), 1))))
    users = np.floor(impressions[..., None] * _normalised(weight)[:, None, :] / times).astype(np.int64)
    users[..., 0] = impressions - (users[..., 1:] * times[1:]).sum(2)  # who is left saw it once
    day, row, k = np.nonzero(users.transpose(1, 0, 2))
    return pd.DataFrame(
        {"date": days[day], "ad_id": ad[row], "impressions_per_user": times[k], "users": users[row, day, k]}
    )


def _benchmarks(catalogue: Catalogue, rng: np.random.Generator) -> pd.DataFrame:
    """Quartiles of each industry and month, as a market report would give them."""
    months = pd.period_range(FIRST_DAY, periods=6, freq="M").astype(str)
    typical = {"ctr": 0.012, "cpc": 60.0, "cvr": 0.05, "cpm": 720.0}
    rows = []
    for industry in _industry_names(catalogue):
        for metric, centre in typical.items():
            level = centre * np.exp(0.3 * rng.standard_normal())
            for month in months:
                median, spread = level * np.exp(0.05 * rng.standard_normal()), np.exp(0.2 + 0.2 * rng.random())
                rows.append(
                    (industry, month, metric, *(float(f"{x:.4g}") for x in (median / spread, median, median * spread)))
                )
    return pd.DataFrame(rows, columns=["industry", "month", "metric", "p25", "median", "p75"])


def _industry_names(catalogue: Catalogue) -> list[str]:
    tree = catalogue.tree
    return [tree.industries[int(np.argmax(tree.industry == k))] for k in range(int(tree.industry.max()) + 1)]


def _segment_names() -> list[np.ndarray]:
    """Gender, age and region of each segment."""
    grid = np.meshgrid(GENDERS, words.AGE_BANDS, words.REGIONS, indexing="ij")
    return [axis.ravel() for axis in grid]


def _audience_logit(audience: Int[np.ndarray, "ads"]) -> Float[np.ndarray, "ads segments"]:
    """Ads for women reach mostly women, ads for men mostly men; few users hide their gender."""
    by_gender = np.array([[0.0, 0.0, -2.0], [1.5, -1.5, -2.0], [-1.5, 1.5, -2.0]])[audience]
    return np.repeat(by_gender, N_SEGMENTS // len(GENDERS), axis=1)


def _dated(rows: Sequence[tuple[object, ...]], columns: tuple[str, ...]) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=list(columns))
    for name in columns:
        if name.endswith("_date") or name.startswith("valid_"):
            table[name] = pd.to_datetime(table[name])
    return table


def _softmax(logits: Float[np.ndarray, "rows cells"]) -> Float[np.ndarray, "rows cells"]:
    return _normalised(np.exp(logits - logits.max(1, keepdims=True)))


def _normalised(weight: Float[np.ndarray, "rows cells"]) -> Float[np.ndarray, "rows cells"]:
    out: np.ndarray = weight / weight.sum(1, keepdims=True)
    return out
