"""Relative dates: what "last 7 days" means on the day the clock shows.

    yesterday · day before yesterday · last N days · previous N days · last week · last month · YYYY-MM · YYYY-MM-DD ·
    YYYY-MM-DD to YYYY-MM-DD · the name of a day in the calendar, such as Double-11

Facts end with the day before `as_of`, so "last N days" ends yesterday; "previous N days" are the N days before those,
"last week" the last whole Monday to Sunday. Time zones do not exist here.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping

LONGEST = 366  # days of "last N days"
UNDERSTOOD = (
    "yesterday, day before yesterday, last N days, previous N days, last week, last month, YYYY-MM, YYYY-MM-DD, "
    "YYYY-MM-DD to YYYY-MM-DD, or a calendar event"
)


def resolve(expression: str, as_of: dt.date, events: Mapping[str, tuple[dt.date, dt.date]]) -> tuple[dt.date, dt.date]:
    """First and last day of a window.

    Args:
        expression: one of the forms above; case and extra spaces do not matter.
        as_of: "today".
        events: first and last day of each named event.

    Raises:
        ValueError: an expression that is none of these, or an impossible date.
    """
    text = " ".join(expression.casefold().split())
    day = dt.timedelta(days=1)
    named = {name.casefold(): window for name, window in events.items()}
    if text in named:
        return named[text]
    if text in ("yesterday", "day before yesterday"):
        found = as_of - (day if text == "yesterday" else 2 * day)
        return found, found
    if text == "last week":
        monday = as_of - as_of.weekday() * day
        return monday - 7 * day, monday - day
    if text == "last month":
        return _month(as_of.replace(day=1) - day)
    if match := re.fullmatch(r"(last|previous) ([0-9]{1,3}) days?", text):
        n = int(match[2])
        if not 1 <= n <= LONGEST:
            raise ValueError(f"expression: a window of {n} days; choose from 1 to {LONGEST}")
        last = as_of - day if match[1] == "last" else as_of - (n + 1) * day
        return last - (n - 1) * day, last
    if re.fullmatch(r"[0-9]{4}-[0-9]{1,2}", text):
        return _month(parse(f"{text}-1", "expression"))
    first, _, last_text = text.partition(" to ")
    if re.match(r"[0-9]{4}-", first):
        return window(first, last_text or first, "expression", "expression")
    known = ", ".join(events)
    raise ValueError(f"expression: {expression[:60]!r} is not understood; write {UNDERSTOOD} ({known})")


def window(start: str, end: str, first: str = "start", last: str = "end") -> tuple[dt.date, dt.date]:
    """Two ISO dates in order; `first` and `last` are what error messages call them."""
    a, b = parse(start, first), parse(end, last)
    if b < a:
        raise ValueError(f"{last}: {b} lies before {first} = {a}; swap them")
    return a, b


def parse(text: str, name: str) -> dt.date:
    """A date written as YYYY-MM-DD; "2026-2-1" is fine."""
    match = re.fullmatch(r"\s*([0-9]{4})-([0-9]{1,2})-([0-9]{1,2})\s*", text)
    try:
        if match is None:
            raise ValueError
        return dt.date(*(int(part) for part in match.groups()))
    except ValueError:
        raise ValueError(f"{name}: {text[:60]!r} is not a date; write it like '2025-11-28'") from None


def _month(day: dt.date) -> tuple[dt.date, dt.date]:
    first = day.replace(day=1)
    return first, (first + dt.timedelta(days=31)).replace(day=1) - dt.timedelta(days=1)
