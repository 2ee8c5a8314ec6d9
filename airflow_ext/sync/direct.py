"""The direct engine: from a SQL database or files into DuckDB or PostgreSQL, as Arrow batches all the way.

It needs neither files in between nor a step that looks at every row. What dlt alone can do goes through
:mod:`airflow_ext.sync.dlt_engine`; both run in the worker process.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, cast

from airflow_ext.exceptions import SyncFailedError
from airflow_ext.sync.direct_books import make_books
from airflow_ext.sync.direct_load import Loaded, Readable, TableLoad
from airflow_ext.sync.dlt_job import DltJob, request_key
from airflow_ext.sync.file_source import FileTable
from airflow_ext.sync.files import SyncFiles
from airflow_ext.sync.locks import Tell, only_one
from airflow_ext.sync.model import SyncResult, TableResult
from airflow_ext.sync.sql_source import SqlTable, choose_reader
from airflow_ext.sync.tables import SyncTable


class DirectEngine:
    """Runs one job and tells about its progress.

    :param job: What to do.
    :param tell: Takes events such as ``{"event": "rows", "table": "flights", "rows": 5000}``.
    """

    def __init__(self, job: DltJob, *, tell: Tell) -> None:
        self.job = job
        self.tell = tell
        self._load_id = uuid.uuid4().hex

    def run(self) -> SyncResult:
        """Load the tables, some of them at a time, each in one transaction.

        :raises InvalidError: If a table, column or connection must be changed by its author.
        :raises SyncFailedError: If source or destination fail; tables that had ended by then are loaded.
        """
        job = self.job
        started = datetime.now(UTC)
        job.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with (
            only_one(job.folder / f"{job.name}.lock", tell=self.tell),
            readables(job, tell=self.tell) as readable,
        ):
            self.tell({"event": "phase", "phase": "connect"})
            target = self._target()
            try:
                with target.session() as session:
                    make_books(session)
                self.tell({"event": "phase", "phase": "load"})
                loaded = self._load_all(target, readable)
            finally:
                target.close()
        return self._result(loaded, started)

    def _load_all(self, target: Any, readable: Callable[[SyncTable], Readable]) -> dict[str, Loaded]:
        def load(table: SyncTable) -> Loaded:
            try:
                with target.session() as session:
                    return self._load(session, readable(table))
            except SyncFailedError as error:
                raise SyncFailedError(str(error), table=error.table or table.name) from None

        pool = ThreadPoolExecutor(self.job.pair.parallel)
        running = {table.name: pool.submit(load, table) for table in self.job.tables}
        try:
            wait(running.values(), return_when=FIRST_EXCEPTION)
            pool.shutdown(cancel_futures=True)  # those that have begun come to their end
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            target.interrupt()
            raise
        failed = [
            error for future in running.values() if not future.cancelled() and (error := future.exception())
        ]
        if failed:
            raise failed[0]
        return {name: future.result() for name, future in running.items()}

    def _load(self, session: Any, source: Readable) -> Loaded:
        table = source.table
        total = 0

        def count(rows: int) -> None:
            nonlocal total
            total += rows
            self.tell({"event": "rows", "table": table.name, "rows": total})

        return TableLoad(
            session,
            source,
            sync=self.job.name,
            key=self.job.key,
            request_of=lambda sync: request_key(replace(self.job, name=sync), table) or "",
            load_id=self._load_id,
            window=self.job.window,
            count=count,
        ).run()

    def _target(self) -> Any:
        pair = self.job.pair
        if pair.destination == "duckdb":
            from airflow_ext.sync.direct_duckdb import DuckdbTarget

            def waiting(text: str) -> None:
                self.tell({"event": "log", "level": "info", "text": text})

            return DuckdbTarget(
                pair.destination_url, dataset=pair.dataset, lock_seconds=pair.lock_seconds, waiting=waiting
            )
        from airflow_ext.sync.direct_postgres import PostgresTarget

        return PostgresTarget(pair.destination_url, dataset=pair.dataset, lock_seconds=pair.lock_seconds)

    def _result(self, loaded: dict[str, Loaded], started: datetime) -> SyncResult:
        tables = self.job.tables
        earlier = [name for name, one in loaded.items() if one.before]
        for name in earlier:
            text = f"table {name}: this run has appended its rows before; they are not appended again"
            self.tell({"event": "log", "level": "info", "text": text})
        return SyncResult(
            backend="dlt",
            run_id=self._load_id if len(earlier) < len(tables) else loaded[earlier[0]].load_id,
            started=started.isoformat(),
            ended=datetime.now(UTC).isoformat(),
            tables=tuple(
                TableResult(
                    name=table.name,
                    rows=loaded[table.name].rows,
                    schema_changes=loaded[table.name].changes,
                )
                for table in tables
            ),
            columns={
                name: {"before": one.known, "now": one.columns} for name, one in loaded.items() if one.columns
            },
        )


@contextmanager
def readables(job: DltJob, *, tell: Tell) -> Iterator[Callable[[SyncTable], Readable]]:
    """Return what opens a table of the job's source, SQL or files."""
    pair = job.pair

    def files(table: SyncFiles) -> FileTable:
        return FileTable(
            table,
            filesystems=pair.filesystems,
            base=pair.base,
            chunk_rows=pair.chunk_rows,
            window=job.window,
            warn=lambda text: tell({"event": "log", "level": "warning", "text": text}),
        )

    if all(isinstance(table, SyncFiles) for table in job.tables):
        yield lambda table: files(cast("SyncFiles", table))
        return
    import sqlalchemy as sa

    engine = sa.create_engine(pair.source_url)
    reader = choose_reader(pair.reader, engine.dialect.name)
    try:
        yield lambda table: SqlTable(engine, table, reader=reader, chunk_rows=pair.chunk_rows)
    finally:
        engine.dispose()
