"""What relative dates mean on a Saturday, and on the first of a month."""

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reclib.agents import dates

EVENTS = {"Double-11": (dt.date(2025, 11, 1), dt.date(2025, 11, 11))}
SATURDAY = dt.date(2025, 11, 29)


@pytest.mark.parametrize(
    ("expression", "start", "end"),
    [
        ("yesterday", "2025-11-28", "2025-11-28"),
        ("Day before  yesterday", "2025-11-27", "2025-11-27"),
        ("last 7 days", "2025-11-22", "2025-11-28"),
        ("last 1 day", "2025-11-28", "2025-11-28"),
        ("previous 7 days", "2025-11-15", "2025-11-21"),
        ("last week", "2025-11-17", "2025-11-23"),
        ("last month", "2025-10-01", "2025-10-31"),
        ("2025-2", "2025-02-01", "2025-02-28"),
        ("2025-12", "2025-12-01", "2025-12-31"),
        ("2025-11-5", "2025-11-05", "2025-11-05"),
        ("2025-11-05 to 2025-11-09", "2025-11-05", "2025-11-09"),
        ("double-11", "2025-11-01", "2025-11-11"),
    ],
)
def test_by_hand(expression, start, end):
    assert [day.isoformat() for day in dates.resolve(expression, SATURDAY, EVENTS)] == [start, end]


def test_on_the_first_of_january_last_month_is_december():
    found = dates.resolve("last month", dt.date(2026, 1, 1), {})
    assert found == (dt.date(2025, 12, 1), dt.date(2025, 12, 31))


@given(st.dates(dt.date(2000, 1, 1), dt.date(2100, 1, 1)), st.integers(1, 366))
def test_windows_have_the_right_length_and_touch(as_of, n):
    last, before = dates.resolve(f"last {n} days", as_of, {}), dates.resolve(f"previous {n} days", as_of, {})
    assert (last[1] - last[0]).days == (before[1] - before[0]).days == n - 1
    assert last[1] + dt.timedelta(days=1) == as_of
    assert before[1] + dt.timedelta(days=1) == last[0]
    monday, sunday = dates.resolve("last week", as_of, {})
    assert (monday.weekday(), sunday.weekday()) == (0, 6)
    assert 0 < (as_of - sunday).days <= 7


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("today", "expression: 'today' is not understood; write yesterday, .* \\(Double-11\\)"),
        ("", "is not understood"),
        ("last 0 days", "a window of 0 days; choose from 1 to 366"),
        ("last 999 days", "a window of 999 days"),
        ("last -3 days", "is not understood"),
        ("2025-02-30", "'2025-02-30' is not a date; write it like '2025-11-28'"),
        ("2025-13", "is not a date"),
        ("2025-11-09 to 2025-11-05", "lies before"),
        ("last 7 days; DROP TABLE ads", "is not understood"),
        ("٢٠٢٥-١١-٠٥", "is not understood"),
    ],
)
def test_bad_expressions_say_what_would_be_understood(expression, message):
    with pytest.raises(ValueError, match=message):
        dates.resolve(expression, SATURDAY, EVENTS)
