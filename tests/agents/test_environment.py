"""The environment: invariants that hold for twenty seeds, a clock that hides the future, and no way to write."""

import datetime as dt

import duckdb
import pytest

from reclib.agents import AdAnalyticsTools, AdEnvironment
from reclib.world import AdWorld, AdWorldConfig

TABLES = ("accounts", "ads", "daily", "hourly", "frequency", "benchmarks", "golden_hours", "rules", "calendar")


def small(seed, as_of="2025-11-29"):
    world = AdWorld(AdWorldConfig.preset("tiny", seed=seed))
    return AdEnvironment(world.campaign_database(as_of=as_of, n_accounts=3, n_ads=6))


@pytest.mark.slow
def test_invariants_for_twenty_seeds():
    sums = ", ".join(f"sum({c})::BIGINT AS {c}" for c in ("spend_cents", "impressions", "clicks", "conversions"))
    for seed in range(20):
        query = small(seed).query
        both = query(
            f"WITH d AS (SELECT date, ad_id, {sums} FROM daily GROUP BY ALL), "
            f"h AS (SELECT date, ad_id, {sums} FROM hourly GROUP BY ALL) "
            "SELECT count(*) AS n FROM ((FROM d EXCEPT FROM h) UNION ALL (FROM h EXCEPT FROM d))"
        )
        assert both == [{"n": 0}]
        assert query(
            "SELECT count(*) AS n FROM (SELECT date, ad_id, sum(impressions)::BIGINT AS i FROM daily GROUP BY ALL) d "
            "FULL JOIN "
            "(SELECT date, ad_id, sum(impressions_per_user * users)::BIGINT AS i FROM frequency GROUP BY ALL) f "
            "USING (date, ad_id) WHERE d.i IS DISTINCT FROM f.i"
        ) == [{"n": 0}]
        for table in ("daily", "hourly"):
            assert query(
                f"SELECT count(*) AS n FROM {table} WHERE NOT (conversions <= clicks AND clicks <= impressions)"
            ) == [{"n": 0}]
        assert query("SELECT max(date) AS last FROM daily") == [{"last": dt.date(2025, 11, 28)}]


@pytest.mark.slow
def test_the_same_seed_gives_the_same_tables():
    def tables(seed):
        return [small(seed).query(f"SELECT * FROM {name} ORDER BY ALL", (), 10**6) for name in TABLES]

    assert tables(1) == tables(1)
    assert tables(1) != tables(2)


def test_nothing_of_today_or_later_is_there(environment):
    for table in ("daily", "hourly", "frequency"):
        assert environment.query(f"SELECT max(date) AS last FROM {table}")[0]["last"] < environment.as_of
    assert environment.as_of == dt.date(2025, 11, 29)
    tools = AdAnalyticsTools(environment)
    with pytest.raises(ValueError, match="start, end: no data pass these filters"):
        tools.get_account_report("2025-11-29", "2026-01-31", ["spend"])
    after = tools.get_account_report("2025-11-27", "2026-01-31", ["spend"], group_by="day")["rows"]
    assert [row["date"] for row in after] == ["2025-11-27", "2025-11-28"]


def test_environments_are_remembered_and_bad_dates_refused():
    assert AdEnvironment.of(0) is AdEnvironment.of(0)
    with pytest.raises(ValueError, match="as_of: 2020-01-01 lies outside the period"):
        AdEnvironment.of(0, "2020-01-01")


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM ads",
        "UPDATE ads SET campaign = 'x'",
        "INSERT INTO clock VALUES (DATE '2020-01-01')",
        "DROP TABLE daily",
        "CREATE TABLE mine (x INTEGER)",
    ],
)
def test_the_engine_refuses_to_write(environment, statement):
    before = environment.query("SELECT count(*) AS n FROM ads")
    with pytest.raises(duckdb.Error, match="read-only"):
        environment.query(statement)
    assert environment.query("SELECT count(*) AS n, 1 AS again FROM ads") == [{**before[0], "again": 1}]


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM read_text('https://example.org/x')",
        "SELECT * FROM '/etc/passwd'",
        "COPY ads TO '/tmp/ads.csv'",
        "ATTACH '/tmp/other.duckdb'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET enable_external_access = true",
        "SET memory_limit = '100GB'",
    ],
)
def test_the_engine_refuses_files_networks_and_new_settings(environment, statement):
    with pytest.raises(duckdb.Error):
        environment.query(statement)


def test_rows_and_time_are_bounded(environment):
    assert len(environment.query("SELECT * FROM daily", (), 10**6)) > 1000
    with pytest.raises(ValueError, match="more than 400 rows; narrow the filters"):
        environment.query("SELECT * FROM daily")
    endless = "SELECT count(*) AS n FROM daily a, daily b, daily c WHERE hash(a.clicks + b.clicks + c.clicks) = 0"
    with pytest.raises(ValueError, match=r"took more than 0\.2 seconds; ask for less"):
        environment.query(endless, (), 400, 0.2)
    assert environment.query("SELECT 1 AS alive") == [{"alive": 1}]


def test_answers_are_remembered_but_cannot_be_spoilt(environment):
    environment.query("SELECT 7 AS x")[0]["x"] = 8
    assert environment.query("SELECT 7 AS x") == [{"x": 7}]
