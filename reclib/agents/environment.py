"""The live system that agents query: a campaign database with a fixed clock that nothing can write to.

The tables are those of `reclib.world.database`: whole cents, real dates, and invariants that hold in every row. Which
advertisers exist depends on `seed`, what has happened so far on `as_of`: rows of that day and later are not there.

What stands between a model and the database:
- statements are constants of this package and values are bound to `?`; nothing a model writes becomes SQL;
- every statement runs in a transaction that DuckDB itself holds to be read-only;
- the engine may not touch files or networks, nor load extensions, and its settings are locked;
- a statement may return at most ROW_LIMIT rows and run for at most TIME_LIMIT seconds.
"""

from __future__ import annotations

import atexit
import datetime as dt
import threading
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from reclib.world import AdWorld, AdWorldConfig
from reclib.world.database import DEFAULT_AS_OF

if TYPE_CHECKING:
    import duckdb

ROW_LIMIT = 400  # rows: a report by day over the whole period has 184
TIME_LIMIT = 5.0  # seconds
MEMORY_LIMIT = "512MB"


class AdEnvironment:
    """A campaign database, opened for reading.

    Args:
        connection: as `AdWorld.campaign_database` returns it. It belongs to the environment from now on: its settings
            are locked and its access to files is switched off.

    Attributes
    ----------
    as_of: "today". The last day with facts is the day before.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        for setting in (
            "autoinstall_known_extensions = false",
            "autoload_known_extensions = false",
            "enable_external_access = false",
            f"memory_limit = '{MEMORY_LIMIT}'",
            "threads = 1",  # samples already run side by side
            "lock_configuration = true",
        ):
            connection.execute(f"SET {setting}")
        self._connection = connection
        self._rows = lru_cache(maxsize=10_000)(self._fetch)  # nothing changes here, so an answer stays right
        self.as_of: dt.date = self.query("SELECT as_of FROM clock")[0]["as_of"]

    @staticmethod
    @lru_cache(maxsize=4)
    def of(seed: int = 0, as_of: str = DEFAULT_AS_OF) -> AdEnvironment:
        """The environment of a seed at a date; the last four are remembered.

        Raises:
            ValueError: a date outside the simulated period, see `AdWorld.campaign_database`.
        """
        return AdEnvironment(AdWorld(AdWorldConfig.preset("book", seed=seed)).campaign_database(as_of=as_of))

    def query(
        self, statement: str, values: Sequence[Any] = (), row_limit: int = ROW_LIMIT, time_limit: float = TIME_LIMIT
    ) -> list[dict[str, Any]]:
        """Rows of a SELECT, as dictionaries, in the order of the statement.

        Args:
            statement: a constant of this package.
            values: what is bound to each `?`.
            row_limit, time_limit: rows, seconds.

        Raises:
            ValueError: more rows or more time than allowed.
            duckdb.Error: the statement is wrong, or it would change something.
        """
        hashable = tuple(tuple(value) if isinstance(value, list) else value for value in values)
        names, rows = self._rows(statement, hashable, row_limit, time_limit)
        return [dict(zip(names, row, strict=True)) for row in rows]

    def _fetch(
        self, statement: str, values: tuple[Any, ...], row_limit: int, time_limit: float
    ) -> tuple[list[str], list[tuple[Any, ...]]]:
        import duckdb  # here, because it takes a while to load

        cursor = self._connection.cursor()  # its own, because samples run concurrently
        stop = threading.Timer(time_limit, cursor.interrupt)
        stop.daemon = True
        stop.start()
        try:
            cursor.execute("BEGIN TRANSACTION READ ONLY")
            result = cursor.execute(statement, [list(v) if isinstance(v, tuple) else v for v in values])
            names = [column[0] for column in result.description]
            rows = result.fetchmany(row_limit + 1)
        except duckdb.InterruptException as error:
            raise ValueError(f"the query took more than {time_limit:g} seconds; ask for less") from error
        finally:
            stop.cancel()
            cursor.close()
        if len(rows) > row_limit:
            raise ValueError(f"the answer has more than {row_limit} rows; narrow the filters or group more coarsely")
        return names, rows


# DuckDB wants its connections closed before the interpreter goes.
atexit.register(AdEnvironment.of.cache_clear)
