"""The campaign database: facts that add up, and a clock that hides the future without changing the past."""

import datetime as dt

import numpy as np
import pytest

from reclib.world import AdWorld, AdWorldConfig
from reclib.world.database import FIRST_DAY, N_DAYS

pytestmark = pytest.mark.slow

TABLES = {
    "clock", "accounts", "campaigns", "ads", "daily", "hourly", "frequency", "benchmarks", "golden_hours", "rules",
    "calendar",
}  # fmt: skip


@pytest.fixture(scope="module")
def db(tiny):
    connection = tiny.campaign_database(n_accounts=6, n_ads=20)
    yield connection
    connection.close()


def one(connection, sql):
    return connection.execute(sql).fetchall()[0]


def test_tables_and_sizes(db, tiny):
    assert {row[0] for row in db.execute("SELECT table_name FROM duckdb_tables()").fetchall()} == TABLES
    assert one(db, "SELECT count(*) FROM accounts") == (6,)
    assert one(db, "SELECT count(*) FROM ads") == (20,)
    assert one(db, "SELECT count(DISTINCT account_id) FROM ads") == (6,)
    days = one(db, "SELECT min(date), max(date), count(DISTINCT date) FROM daily")
    assert days == (FIRST_DAY, dt.date(2025, 11, 28), 120)


def test_keys_match(db, tiny):
    for table, key, parent in [
        ("ads", "account_id", "accounts"), ("ads", "campaign_id", "campaigns"), ("campaigns", "account_id", "accounts"),
        ("daily", "ad_id", "ads"), ("hourly", "ad_id", "ads"), ("frequency", "ad_id", "ads"),
    ]:  # fmt: skip
        orphans = one(db, f"SELECT count(*) FROM {table} WHERE {key} NOT IN (SELECT {key} FROM {parent})")
        assert orphans == (0,)
    # The ads are the world's.
    for ad, product, bid, fmt in db.execute("SELECT ad_id, product, bid_cents, format FROM ads").fetchall():
        row = tiny.catalogue.table.loc[ad]
        assert (row["topic"], row["bid"], row["format"]) == (product, bid, fmt)
    # Every ad of a campaign belongs to the campaign's account.
    assert one(db, "SELECT count(*) FROM ads JOIN campaigns USING (campaign_id) "
                   "WHERE ads.account_id <> campaigns.account_id") == (0,)  # fmt: skip


def test_hours_and_segments_sum_to_the_same_day(db):
    columns = ("spend_cents", "impressions", "clicks", "conversions")
    sums = ", ".join(f"sum({c})::BIGINT AS {c}" for c in columns)
    differing = one(
        db,
        f"""WITH d AS (SELECT date, ad_id, {sums} FROM daily GROUP BY ALL),
                 h AS (SELECT date, ad_id, {sums} FROM hourly GROUP BY ALL)
            SELECT count(*) FROM ((SELECT * FROM d EXCEPT SELECT * FROM h)
                                  UNION ALL (SELECT * FROM h EXCEPT SELECT * FROM d))""",
    )
    assert differing == (0,)
    assert one(db, "SELECT count(*) > 500 FROM (SELECT DISTINCT date, ad_id FROM daily)") == (True,)


def test_funnel(db):
    for table in ("daily", "hourly"):
        assert one(
            db,
            f"SELECT count(*) FROM {table} WHERE NOT (0 <= conversions AND conversions <= clicks AND "
            "clicks <= impressions AND impressions > 0 AND spend_cents >= 0)",
        ) == (0,)
    assert one(db, "SELECT sum(clicks) > 1000, sum(conversions) > 100 FROM daily") == (True, True)
    assert one(db, "SELECT count(*) FROM daily WHERE conv_value_cents > 0 AND conversions = 0") == (0,)


def test_every_click_of_an_ad_and_day_costs_the_same_whole_price(db):
    rows = db.execute("SELECT date, ad_id, spend_cents, clicks FROM daily").fetchall()
    prices: dict = {}
    for date, ad, spend, clicks in rows:
        if clicks == 0:
            assert spend == 0
        else:
            assert spend % clicks == 0
            prices.setdefault((date, ad), set()).add(spend // clicks)
    assert all(len(price) == 1 and min(price) >= 1 for price in prices.values())


def test_frequencies_multiply_out_to_impressions(db):
    assert one(
        db,
        """SELECT count(*) FROM
             (SELECT date, ad_id, sum(impressions)::BIGINT AS n FROM daily GROUP BY ALL) d FULL JOIN
             (SELECT date, ad_id, sum(impressions_per_user * users)::BIGINT AS n FROM frequency GROUP BY ALL) f
             USING (date, ad_id) WHERE d.n IS DISTINCT FROM f.n""",
    ) == (0,)
    assert one(db, "SELECT min(users) > 0, min(impressions_per_user), max(impressions_per_user) FROM frequency")[0]


def test_facts_only_while_an_ad_runs(db):
    assert one(db, "SELECT count(*) FROM daily JOIN ads USING (ad_id) WHERE date < start_date OR date > end_date") == (
        0,
    )
    for status, rule in [
        ("scheduled", "start_date > DATE '2025-11-28'"), ("ended", "end_date < DATE '2025-11-28'"),
    ]:  # fmt: skip
        assert one(db, f"SELECT count(*) FROM ads WHERE (status = '{status}') <> ({rule})") == (0,)


def test_the_mean_of_ratios_is_a_trap(tiny):
    db = tiny.campaign_database()
    by_account = "SELECT sum(spend_cents) AS s, sum(clicks) AS c FROM daily JOIN ads USING (ad_id) GROUP BY account_id"
    ratio, mean = one(db, f"SELECT sum(s) / sum(c), avg(s / c) FROM ({by_account})")
    assert abs(float(mean) / float(ratio) - 1) > 0.05


def test_weekdays_and_events_show(tiny):
    db = tiny.campaign_database(as_of="2026-02-01")
    daily = dict(db.execute("SELECT date, sum(impressions)::BIGINT FROM daily GROUP BY date").fetchall())
    assert len(daily) == N_DAYS
    quiet = [n for day, n in daily.items() if day.month == 10 and day.day > 7]
    eleven = [n for day, n in daily.items() if day.month == 11 and day.day <= 11]
    assert np.mean(eleven) > 1.4 * np.mean(quiet)
    saturday = [n for day, n in daily.items() if day.month in (9, 10) and day.weekday() == 5]
    tuesday = [n for day, n in daily.items() if day.month in (9, 10) and day.weekday() == 1]
    assert np.mean(saturday) > 1.1 * np.mean(tuesday)


@pytest.mark.parametrize("as_of", ["2025-08-02", "2025-10-01", "2025-11-29", "2026-02-01"])
def test_the_clock_hides_the_future_and_changes_nothing_else(tiny, as_of):
    early = tiny.campaign_database(as_of=as_of, n_accounts=4, n_ads=10)
    late = tiny.campaign_database(as_of="2026-02-01", n_accounts=4, n_ads=10)
    assert one(early, "SELECT as_of FROM clock") == (dt.date.fromisoformat(as_of),)
    for table in ("daily", "hourly", "frequency"):
        assert one(early, f"SELECT max(date) < DATE '{as_of}' FROM {table}") == (True,)
        a = early.execute(f"SELECT * FROM {table} ORDER BY ALL").fetchall()
        b = late.execute(f"SELECT * FROM {table} WHERE date < DATE '{as_of}' ORDER BY ALL").fetchall()
        assert a == b
    assert one(early, f"SELECT count(*) FROM rules WHERE valid_from > DATE '{as_of}'") == (0,)
    month = as_of[:7]
    assert one(early, f"SELECT count(*) FROM benchmarks WHERE month >= '{month}'") == (0,)
    for table in ("accounts", "campaigns", "golden_hours", "calendar"):
        assert early.execute(f"SELECT * FROM {table}").fetchall() == late.execute(f"SELECT * FROM {table}").fetchall()


def test_benchmarks_and_golden_hours(db, tiny):
    assert one(db, "SELECT count(*) FROM benchmarks WHERE NOT (p25 < median AND median < p75)") == (0,)
    assert one(db, "SELECT count(DISTINCT industry), count(DISTINCT metric) FROM benchmarks") == (3, 4)
    for industry, mean in db.execute("SELECT industry, avg(index) FROM golden_hours GROUP BY industry").fetchall():
        assert industry in set(tiny.catalogue.table["industry"])
        assert mean == pytest.approx(100, abs=0.1)


def test_women_see_ads_for_women(tiny):
    db = tiny.campaign_database()
    share = dict(
        db.execute(
            "SELECT ad_id, sum(impressions) FILTER (gender = 'F') / sum(impressions) FROM daily GROUP BY ad_id"
        ).fetchall()
    )
    audience = tiny.catalogue.audience
    by_audience = [np.mean([float(s) for ad, s in share.items() if audience[ad] == a]) for a in (0, 1, 2)]
    assert by_audience[1] > by_audience[0] + 0.2 > by_audience[2] + 0.4


def test_same_seed_same_tables_and_other_seeds_differ():
    def tables(seed):
        db = AdWorld(AdWorldConfig.preset("tiny", seed=seed)).campaign_database(n_accounts=3, n_ads=6)
        return [db.execute(f"SELECT * FROM {name} ORDER BY ALL").fetchall() for name in sorted(TABLES)]

    assert tables(1) == tables(1)
    assert tables(1) != tables(2)


def test_it_is_written_only_on_request_and_never_over_a_file(tiny, tmp_path):
    path = tmp_path / "ads.duckdb"
    tiny.campaign_database(path, n_accounts=3, n_ads=6).close()
    assert path.exists()
    with pytest.raises(ValueError, match=r"path: .*ads\.duckdb exists; delete it or give another name"):
        tiny.campaign_database(path)


def test_bad_arguments_are_refused(tiny):
    with pytest.raises(ValueError, match="as_of: 'yesterday' is not a date; write it like"):
        tiny.campaign_database(as_of="yesterday")
    with pytest.raises(ValueError, match="as_of: 2024-01-01 lies outside the period"):
        tiny.campaign_database(as_of=dt.date(2024, 1, 1))
    with pytest.raises(ValueError, match="n_accounts: must be between 1 and the world's 12 advertisers"):
        tiny.campaign_database(n_accounts=1000)
    with pytest.raises(ValueError, match="n_ads: must be between 12"):
        tiny.campaign_database(n_ads=5)
