"""Verdicts in tables of a database that several Airflows can share.

``ext_verdicts`` has a row per publication, ``ext_verdict_heads`` one per major version of a contract, with the
same ``head`` as in asset state. A publisher changes the head only if it is still the one it read, and writes
the verdict in the same transaction, so that of many publishers none overwrites another. All waiters together
cost one query per poll, whatever the number of contracts. ``ext_verdict_late`` has a row per partition that somebody
told, or is about to tell, is late.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from contextvars import copy_context
from typing import Any, Protocol, TypeVar

from airflow_ext.contracts.claims import LEASE_SECONDS, Claim
from airflow_ext.contracts.head import Entry, Head, Promise
from airflow_ext.contracts.partition import PartitionRule
from airflow_ext.contracts.ranges import asset_name
from airflow_ext.contracts.store import KEPT, READ_SECONDS, Key
from airflow_ext.contracts.verdict import Verdict
from airflow_ext.exceptions import AirflowExtError, DeniedError, StoreUnavailableError

T = TypeVar("T")

DIALECTS = ("postgres", "sqlite")
DDL = (
    """CREATE TABLE IF NOT EXISTS ext_verdicts (
    asset VARCHAR(300) NOT NULL,
    seq BIGINT NOT NULL,
    partition_key VARCHAR(250) NOT NULL,
    status VARCHAR(30) NOT NULL,
    version VARCHAR(100) NOT NULL,
    published_at VARCHAR(40) NOT NULL,
    verdict TEXT NOT NULL,
    PRIMARY KEY (asset, seq)
)""",
    "CREATE INDEX IF NOT EXISTS ext_verdicts_partition ON ext_verdicts (asset, partition_key, seq)",
    """CREATE TABLE IF NOT EXISTS ext_verdict_heads (
    asset VARCHAR(300) NOT NULL PRIMARY KEY,
    seq BIGINT NOT NULL,
    head TEXT NOT NULL
)""",
    """CREATE TABLE IF NOT EXISTS ext_verdict_late (
    asset VARCHAR(300) NOT NULL,
    partition_key VARCHAR(250) NOT NULL,
    token VARCHAR(100) NOT NULL,
    claimed_at BIGINT NOT NULL,
    told INTEGER NOT NULL,
    PRIMARY KEY (asset, partition_key)
)""",
)
"""What the store needs; made by the first publisher, or beforehand by whoever may."""

ATTEMPTS = 50
MAX_BYTES = 1_000_000
_CHUNK = 200
_LATE_DAYS = 30
_LOCK = 7_276_145
"""Any number of our own: PostgreSQL's ``CREATE TABLE IF NOT EXISTS`` fails if two run it at once."""
_READERS = ThreadPoolExecutor(4, thread_name_prefix="verdicts")
"""Threads of our own: a triggerer writes each trigger's log lines in those of its loop, and waits there for them."""
_NO_TABLE = ("UndefinedTable", "no such table")
_DENIED = ("InsufficientPrivilege", "InvalidSchemaName", "readonly database", "not authorized")

_HEADS = "SELECT asset, seq, head FROM ext_verdict_heads WHERE asset IN ({})"
_SEQS = "SELECT asset, seq FROM ext_verdict_heads WHERE asset IN ({})"
_VERDICTS = """SELECT v.asset, v.partition_key, v.verdict FROM ext_verdicts v JOIN (
    SELECT asset, MAX(seq) AS seq FROM ext_verdicts WHERE (asset, partition_key) IN (VALUES {})
    GROUP BY asset, partition_key
) newest ON newest.asset = v.asset AND newest.seq = v.seq"""


class Opener(Protocol):
    """Opens connections to the database; ``name`` is what a reader calls it."""

    name: str

    def open(self) -> tuple[Any, str]:
        """Return a new DB-API connection and its dialect; works in any thread once :meth:`aprepare` was awaited.

        :raises InvalidError: If it is neither PostgreSQL nor SQLite.
        """

    async def aprepare(self) -> None:
        """Look up, from a trigger, what :meth:`open` needs."""

    def forget(self) -> None:
        """Look it up anew next time: the database refused."""


class _Session:
    """One transaction."""

    def __init__(self, connection: Any, dialect: str) -> None:
        self.dialect = dialect
        self._cursor = connection.cursor()

    def run(self, sql: str, values: Sequence[Any] = ()) -> int:
        """Run a statement and return how many rows it changed."""
        text = sql.replace("?", "%s") if self.dialect == "postgres" else sql
        self._cursor.execute(text, tuple(values)) if values else self._cursor.execute(text)
        return int(self._cursor.rowcount)

    def rows(self, sql: str, values: Sequence[Any] = ()) -> list[Any]:
        """Run a query."""
        self.run(sql, values)
        return list(self._cursor.fetchall())


class SqlVerdictStore:
    """Verdicts in a PostgreSQL or SQLite database.

    :param opener: Opens connections.
    :param kept: Publications of one major version that are kept.
    """

    exact = True
    batch = _CHUNK

    def __init__(self, opener: Opener, *, kept: int = KEPT) -> None:
        self._opener = opener
        self._kept = kept
        self.reads = 0

    def publish(self, verdict: Verdict, *, rule: PartitionRule, promise: Promise | None = None) -> Verdict:
        """Keep a verdict and return it with its number.

        :param rule: How the contract writes partition keys.
        :param promise: What else the contract says; ``None`` leaves what was said before.
        :raises DeniedError: If the tables are missing and this connection may not make them, or may not write.
        """
        verdict = verdict.bounded()
        for _ in range(ATTEMPTS):
            published = self._work(lambda session: self._write(session, verdict, rule, promise), write=True)
            if published is not None:
                return published
        raise StoreUnavailableError(
            f"The head of {verdict.contract} changed {ATTEMPTS} times while publishing {verdict.partition}: too many "
            "tasks publish this contract at once",
            service=self._opener.name,
        )

    def _write(
        self, session: _Session, verdict: Verdict, rule: PartitionRule, promise: Promise | None
    ) -> Verdict | None:
        """Write head and verdict; ``None`` if another publisher was faster."""
        asset = asset_name(verdict.contract, verdict.major)
        found = session.rows(_HEADS.format("?"), [asset])
        before, head = (int(found[0][1]), _head(found[0][2])) if found else (0, Head())
        seq = before + 1
        entry = Entry(verdict.status, seq, verdict.version)
        text = json.dumps(head.with_entry(verdict.partition, entry, rule, promise).to_dict())
        if found:
            changed = session.run(
                "UPDATE ext_verdict_heads SET seq = ?, head = ? WHERE asset = ? AND seq = ?",
                [seq, text, asset, before],
            )
        else:
            changed = session.run(
                "INSERT INTO ext_verdict_heads (asset, seq, head) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
                [asset, seq, text],
            )
        if changed != 1:
            return None
        numbered = verdict.numbered(seq)
        session.run(
            "INSERT INTO ext_verdicts (asset, seq, partition_key, status, version, published_at, verdict) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            [
                *[asset, seq, verdict.partition, str(verdict.status), verdict.version[:100]],
                *[verdict.at[:40], json.dumps(numbered.to_dict())],
            ],
        )
        session.run("DELETE FROM ext_verdicts WHERE asset = ? AND seq <= ?", [asset, seq - self._kept])
        return numbered

    def head(self, asset: str) -> Head:
        """Return the partitions published last."""
        found = self._read(_HEADS.format("?"), [asset])
        return self._parse(asset, _head, found[0][2]) if found else Head()

    def verdict(self, asset: str, partition: str) -> Verdict | None:
        """Return the verdict of a partition, ``None`` if there is none."""
        return self.verdicts([(asset, partition)]).get((asset, partition))

    def verdicts(self, keys: Collection[Key]) -> dict[Key, Verdict]:
        """Return the verdicts of partitions that have one."""
        found: dict[Key, Verdict] = {}
        for chunk in _chunks(list(keys)):
            sql = _VERDICTS.format(", ".join(["(?, ?)"] * len(chunk)))
            values = [part for key in chunk for part in key]
            for asset, partition, text in self._read(sql, values):
                found[asset, partition] = self._parse(asset, _verdict, text)
        return found

    async def aheads(
        self, known: Mapping[str, Head | None]
    ) -> AsyncIterator[tuple[str, Head | StoreUnavailableError]]:
        """Ask for all heads at once, and read those that have changed."""
        try:
            changed = await self._in_thread(lambda: self._changed(known))
        except AirflowExtError as exc:
            failed = exc if isinstance(exc, StoreUnavailableError) else StoreUnavailableError(str(exc))
            for asset in known:
                yield asset, failed
            return
        for asset, head in known.items():
            yield asset, changed.get(asset) or head or Head()

    def _changed(self, known: Mapping[str, Head | None]) -> dict[str, Head | StoreUnavailableError]:
        found: dict[str, Head | StoreUnavailableError] = {}
        for chunk in _chunks(list(known)):
            seqs = self._read(_SEQS.format(_marks(chunk)), chunk)
            news = [asset for asset, seq in seqs if (head := known[asset]) is None or head.seq != int(seq)]
            if not news:
                continue
            for asset, _, text in self._read(_HEADS.format(_marks(news)), news):
                try:
                    found[asset] = self._parse(asset, _head, text)
                except StoreUnavailableError as exc:
                    found[asset] = exc
        return found

    async def averdicts(self, keys: Collection[Key]) -> dict[Key, Verdict]:
        """Return the verdicts of partitions that have one, from a trigger."""
        return await self._in_thread(lambda: self.verdicts(keys))

    def claim_late(self, keys: Collection[Key], *, token: str, now: float) -> dict[Key, Claim]:
        """Ask to be the one who tells that partitions are late.

        :raises DeniedError: If this connection may not write.
        """
        asked = list(keys)
        found = self._work(
            lambda session: [_claim(session, key, token, now) for key in sorted(asked)], write=True
        )
        return dict(zip(sorted(asked), found or (), strict=True))

    def note_late_told(self, asset: str, partition: str, *, token: str, now: float) -> None:
        """Write down that the notice went out."""

        def note(session: _Session) -> None:
            session.run(
                "UPDATE ext_verdict_late SET told = 1, token = ? WHERE asset = ? AND partition_key = ?",
                [token, asset, partition],
            )
            session.run(
                "DELETE FROM ext_verdict_late WHERE asset = ? AND claimed_at < ?",
                [asset, int(now) - _LATE_DAYS * 86_400],
            )

        self._work(note, write=True)

    def late_claimed(self, asset: str, partition: str) -> bool:
        """Say whether somebody told, or is about to tell, that a partition is late."""
        sql = "SELECT told FROM ext_verdict_late WHERE asset = ? AND partition_key = ?"
        return bool(self._read(sql, [asset, partition]))

    async def _in_thread(self, work: Callable[[], T]) -> T:
        try:
            async with asyncio.timeout(READ_SECONDS):
                await self._opener.aprepare()
                loop = asyncio.get_running_loop()
                return await loop.run_in_executor(_READERS, copy_context().run, work)
        except Exception as exc:
            raise self._translated(exc) from exc

    def _read(self, sql: str, values: Sequence[Any]) -> list[Any]:
        self.reads += 1
        return self._work(lambda session: session.rows(sql, values), write=False) or []

    def _work(self, work: Callable[[_Session], T], *, write: bool) -> T | None:
        """Run one transaction; without tables make them and try again, or return ``None``."""
        try:
            with self._session(write=write) as session:
                return work(session)
        except Exception as exc:
            if not _is(exc, _NO_TABLE):
                raise self._translated(exc) from exc
        if not write:
            return None
        self.create()
        try:
            with self._session(write=write) as session:
                return work(session)
        except Exception as exc:
            raise self._translated(exc) from exc

    def create(self) -> None:
        """Make the tables unless they are there; safe if several do so at once.

        :raises DeniedError: If this connection may not.
        """
        try:
            with self._session(write=True) as session:
                if session.dialect == "postgres":
                    session.run("SELECT pg_advisory_xact_lock(?)", [_LOCK])
                for statement in DDL:
                    session.run(statement)
        except Exception as exc:
            raise self._translated(exc) from exc

    @contextmanager
    def _session(self, *, write: bool) -> Iterator[_Session]:
        opened, dialect = self._opener.open()
        with closing(opened) as connection:
            session = _Session(connection, dialect)
            if dialect == "sqlite":
                session.run("BEGIN IMMEDIATE" if write else "BEGIN")
            try:
                yield session
                connection.commit()
            except BaseException:
                with suppress(Exception):  # what went wrong first is what counts
                    connection.rollback()
                raise

    def _parse(self, asset: str, read: Callable[[str], T], text: str) -> T:
        try:
            return read(text)
        except ValueError as exc:
            raise StoreUnavailableError(
                f"The verdicts of {asset} in {self._opener.name} cannot be read: {exc}",
                service=self._opener.name,
            ) from exc

    def _translated(self, exc: Exception) -> Exception:
        if isinstance(exc, AirflowExtError):
            return exc
        if _is(exc, _DENIED):
            return DeniedError(
                f"Connection {self._opener.name!r} may not make or write the tables of verdicts: grant it that, or "
                "make them beforehand (airflow_ext.contracts.sql_store.DDL)"
            )
        return self._unavailable(exc)

    def _unavailable(self, exc: Exception) -> StoreUnavailableError:
        self._opener.forget()
        what = (str(exc).splitlines() or [""])[0][:300]
        return StoreUnavailableError(
            f"The verdicts in connection {self._opener.name!r} cannot be reached: {type(exc).__name__}: {what}",
            service=self._opener.name,
        )


def _claim(session: _Session, key: Key, token: str, now: float) -> Claim:
    made = session.run(
        "INSERT INTO ext_verdict_late (asset, partition_key, token, claimed_at, told) VALUES (?, ?, ?, ?, 0) "
        "ON CONFLICT DO NOTHING",
        [*key, token, int(now)],
    )
    if made == 1:
        return Claim.MINE
    taken_over = session.run(
        "UPDATE ext_verdict_late SET token = ?, claimed_at = ? "
        "WHERE asset = ? AND partition_key = ? AND told = 0 AND claimed_at < ?",
        [token, int(now), *key, int(now - LEASE_SECONDS)],
    )
    if taken_over == 1:
        return Claim.MINE
    sql = "SELECT told FROM ext_verdict_late WHERE asset = ? AND partition_key = ?"
    return Claim.TOLD if any(told for (told,) in session.rows(sql, key)) else Claim.OTHERS


def _is(exc: BaseException, words: Sequence[str]) -> bool:
    return type(exc).__name__ in words or any(word in str(exc) for word in words)


def _loaded(text: str) -> Any:
    if len(text) > MAX_BYTES:
        raise ValueError(f"{len(text):,} characters, more than a store of verdicts holds")
    return json.loads(text)


def _head(text: str) -> Head:
    return Head.from_dict(_loaded(text))


def _verdict(text: str) -> Verdict:
    return Verdict.from_dict(_loaded(text))


def _marks(values: Sequence[Any]) -> str:
    return ", ".join("?" * len(values))


def _chunks(values: list[T]) -> Iterator[list[T]]:
    for start in range(0, len(values), _CHUNK):
        yield values[start : start + _CHUNK]
