"""What the direct engine does not do: a run of a dlt pipeline, from an API or into files.

It runs in a process of its own (:mod:`airflow_ext.sync.dlt_worker`), because dlt keeps global state and
reads the environment, and because a process that ends has surely closed its DuckDB file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow_ext.exceptions import SyncFailedError
from airflow_ext.sync.api import SyncApi
from airflow_ext.sync.api_answers import refused
from airflow_ext.sync.api_source import api_resources
from airflow_ext.sync.direct import readables
from airflow_ext.sync.direct_load import Readable, column_changes, columns_now
from airflow_ext.sync.dlt_appends import AppendLog
from airflow_ext.sync.dlt_databases import teach
from airflow_ext.sync.dlt_destination import DltTable, check_mode, file_format, make
from airflow_ext.sync.dlt_job import DltJob
from airflow_ext.sync.locks import Tell, only_one
from airflow_ext.sync.model import SchemaChange, SyncResult, TableResult
from airflow_ext.sync.names import normal
from airflow_ext.sync.tables import SyncTable

if TYPE_CHECKING:
    import dlt

MAX_PENDING_ROUNDS = 5
"""A package that is still pending after so many loads will not get better by another one."""


class DltEngine:
    """Runs one job and tells about its progress.

    :param job: What to do.
    :param tell: Takes events such as ``{"event": "rows", "table": "flights", "rows": 5000}``.
    """

    def __init__(self, job: DltJob, *, tell: Tell) -> None:
        self.job = job
        self.tell = tell
        self._columns: dict[str, dict[str, dict[str, str] | None]] = {}
        self._appends = AppendLog(job)

    def run(self) -> SyncResult:
        """Finish what an earlier try left, then load the tables.

        :raises InvalidError: If a table, column or connection must be changed by its author.
        :raises SyncFailedError: If a step fails.
        """
        import dlt

        job = self.job
        started = datetime.now(UTC)
        job.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with only_one(job.folder / f"{job.name}.lock", tell=self.tell):
            pipeline = dlt.pipeline(
                pipeline_name=job.name,
                pipelines_dir=str(job.folder),
                destination=make(job),
                dataset_name=job.pair.dataset,
            )
            self.tell({"event": "phase", "phase": "state"})
            pipeline.activate()
            teach(pipeline)
            pipeline.sync_destination()
            finished = self._finish_pending(pipeline)
            self._note_loaded(pipeline)
            self._forget_dropped(pipeline)
            loaded = self._appends.loaded()
            self._appends.begin()
            rows: dict[str, int] = {}
            run_id = finished[-1]["run_id"] if finished else ""
            for tables in packages([table for table in job.tables if table.name not in loaded]):
                before = self._api_columns(pipeline, tables)
                self._extract(pipeline, tables)
                written, run_id = self._load(pipeline, tables)
                rows |= written
                self._appends.note({table.name: written.get(normal(table.name), 0) for table in tables})
                for name, now in self._api_columns(pipeline, tables).items():
                    self._columns[name] = {"before": before.get(name), "now": now}
            self._appends.end()
        return SyncResult(
            backend="dlt",
            run_id=run_id,
            started=started.isoformat(),
            ended=datetime.now(UTC).isoformat(),
            tables=tuple(
                TableResult(
                    name=table.name,
                    rows=loaded[table.name] if table.name in loaded else rows.get(normal(table.name), 0),
                    schema_changes=self._changes(table.name),
                )
                for table in job.tables
            ),
            columns=self._columns,
            finished_pending=tuple(finished),
        )

    def _changes(self, table: str) -> tuple[SchemaChange, ...]:
        seen = self._columns.get(table)
        return column_changes(seen["before"], seen["now"] or {}) if seen else ()

    def _forget_dropped(self, pipeline: dlt.Pipeline) -> None:
        """Let tables begin anew that somebody has dropped; dlt would go on as if they were there.

        Files are left out: it is no sign of that if somebody has taken them away.
        """
        if self.job.pair.destination == "filesystem" or not pipeline.default_schema_name:
            return
        from dlt.pipeline.helpers import pipeline_drop

        seen = {table["name"] for table in pipeline.default_schema.data_tables(seen_data_only=True)}
        ours = {there: table.name for table in self.job.tables if (there := normal(table.name)) in seen}
        if not ours:
            return
        with pipeline.destination_client() as client:
            if (look := getattr(client, "get_storage_tables", None)) is None:
                return  # no tables, as in a store of vectors
            gone = [ours[there] for there, columns in look(list(ours)) if not columns]
        if gone:
            text = f"no table {', '.join(gone)} in the destination any more; loading from the beginning"
            self.tell({"event": "log", "level": "info", "text": text})
            pipeline_drop(pipeline, resources=gone)()

    def _api_columns(self, pipeline: dlt.Pipeline, tables: list[SyncTable]) -> dict[str, dict[str, str]]:
        """Return the columns that are known of each table of an API; only its answers tell them."""
        if not pipeline.default_schema_name:
            return {}
        known = pipeline.default_schema.tables
        return {
            table.name: {
                name: str(column["data_type"])
                for name, column in known[normal(table.name)]["columns"].items()
                if "data_type" in column and not name.startswith("_dlt")
            }
            for table in tables
            if isinstance(table, SyncApi) and normal(table.name) in known
        }

    @contextmanager
    def _resources(self, pipeline: dlt.Pipeline, tables: list[SyncTable]) -> Iterator[list[Any]]:
        if all(isinstance(table, SyncApi) for table in tables):
            for table in tables:
                check_mode(pipeline, table)
            yield api_resources(replace(self.job, tables=tuple(tables)))
            return
        with readables(self.job, tell=self.tell) as readable:
            yield [self._resource(pipeline, readable(table), table) for table in tables]

    def _extract(self, pipeline: dlt.Pipeline, tables: list[SyncTable]) -> None:
        from dlt.common.exceptions import DltException

        with self._resources(pipeline, tables) as resources:
            self.tell({"event": "phase", "phase": "extract"})
            try:
                pipeline.extract(resources, loader_file_format=file_format(self.job))
            except DltException as error:
                if isinstance(tables[0], SyncApi) and (told := refused(causes(error), tables)):
                    raise told from None
                raise

    def _load(self, pipeline: dlt.Pipeline, tables: list[SyncTable]) -> tuple[dict[str, int], str]:
        self.tell({"event": "phase", "phase": "normalize"})
        normalized = pipeline.normalize()
        rows = dict(normalized.row_counts)
        for load_id in pipeline.list_normalized_load_packages():
            self._appends.loading(load_id, {table.name: rows.get(normal(table.name), 0) for table in tables})
        self.tell({"event": "phase", "phase": "load"})
        with self._giving_up(pipeline):
            info = pipeline.load()
        return rows, info.loads_ids[-1] if info and info.loads_ids else ""

    @contextmanager
    def _giving_up(self, pipeline: dlt.Pipeline) -> Iterator[None]:
        """Give up a package that a database refuses for what is in it, which dlt may take for a fault that passes."""
        from dlt.pipeline.exceptions import PipelineStepFailed
        from sqlalchemy import exc

        try:
            yield
        except PipelineStepFailed as error:
            for_good = (exc.DataError, exc.IntegrityError, exc.NotSupportedError)
            if pipeline.has_pending_data and any(isinstance(link, for_good) for link in causes(error)):
                pipeline.abort_packages()
            raise

    def _note_loaded(self, pipeline: dlt.Pipeline) -> None:
        """Take note of a package that a try had loaded which died before it could."""
        for load_id, tables in self._appends.packages().items():
            if load_id not in pipeline.list_completed_load_packages():
                continue
            if pipeline.get_load_package_info(load_id).state == "loaded":
                self._appends.note(tables)

    def _finish_pending(self, pipeline: dlt.Pipeline) -> list[dict[str, Any]]:
        """Load the packages of a crashed try; dlt's own ``run`` would load them *instead of* new data."""
        from dlt.pipeline.exceptions import PipelineStepFailed

        finished: list[dict[str, Any]] = []
        for _ in range(MAX_PENDING_ROUNDS):
            if not pipeline.has_pending_data:
                return finished
            self.tell({"event": "phase", "phase": "pending"})
            if pipeline.list_extracted_load_packages():
                pipeline.normalize()
            packages: list[dict[str, Any]] = [
                {"run_id": load_id, "tables": self._pending_rows(pipeline, load_id)}
                for load_id in pipeline.list_normalized_load_packages()
            ]
            try:
                with self._giving_up(pipeline):
                    pipeline.load()
            except PipelineStepFailed as error:
                if pipeline.has_pending_data:
                    raise
                self.tell(
                    {
                        "event": "log",
                        "level": "warning",
                        "text": "rows left by an earlier try were refused by the destination and are read "
                        f"again from the source: {root_cause(error)}",
                    }
                )
            else:
                for package in packages:
                    self._appends.note(package["tables"])
                finished += packages
        if pipeline.has_pending_data:
            raise SyncFailedError(
                f"the load package of an earlier try cannot be finished; look at {pipeline.working_dir}, "
                "and delete that folder to give the package up"
            )
        return finished

    def _pending_rows(self, pipeline: dlt.Pipeline, load_id: str) -> dict[str, int | None]:
        from pyarrow import parquet

        names = {normal(table.name): table.name for table in self.job.tables}
        rows: dict[str, int | None] = {}
        for files in pipeline.get_load_package_info(load_id).jobs.values():
            for file in files:
                table = file.job_file_info.table_name
                if table.startswith("_dlt") or table not in names:
                    continue
                known = file.job_file_info.file_format == "parquet"
                count = parquet.read_metadata(file.file_path).num_rows if known else None
                before = rows.get(names[table], 0)
                rows[names[table]] = None if count is None or before is None else before + count
        return rows

    def _resource(self, pipeline: dlt.Pipeline, source: Readable, table: SyncTable) -> Any:
        import dlt

        there = DltTable(self.job, pipeline, source)
        there.forget_mode()
        total = 0

        def count(rows: int) -> None:
            nonlocal total
            total += rows
            self.tell({"event": "rows", "table": table.name, "rows": total})

        since_last: Any = None
        if table.cursor and not self.job.window:
            # Rows at the last cursor value are read again. Appended ones that are known are dropped, by key or else by
            # content; a merge replaces them, since they may have changed.
            known_by = (table.primary_key or None) if table.mode == "append" else ()
            since_last = dlt.sources.incremental(table.cursor, primary_key=known_by)

        def rows(cursor: Any = since_last) -> Iterator[Any]:
            # Not the resource's own state: dlt resets that of every table it replaces.
            kept = dlt.current.source_state()
            files = kept.setdefault("files", {})
            known = kept.setdefault("columns", {})
            if not there.known:
                files.pop(table.name, None)
                known.pop(table.name, None)
            before = known.get(table.name)
            if not source.resume(files.get(table.name)):
                if before:
                    self._columns[table.name] = {"before": before, "now": before}
                return
            now = columns_now(source, before)
            self._columns[table.name] = {"before": before, "now": now}
            hints: Any = {"write_disposition": there.disposition(), **there.hints()}
            for batch in there.batches(start=cursor.last_value if cursor else None, on_rows=count):
                yield dlt.mark.with_hints(batch, dlt.mark.make_hints(**hints)) if hints else batch
                hints = None
            known[table.name] = now
            if (remembered := source.remember()) is not None:
                files[table.name] = remembered

        return dlt.resource(
            rows, name=table.name, write_disposition="replace" if table.mode == "replace" else "append"
        )


def packages(tables: list[SyncTable]) -> list[list[SyncTable]]:
    """Return which tables dlt loads together.

    A package of which a part is refused is given up and read again; rows that were appended by then would be doubled.
    """
    together = [table for table in tables if table.mode != "append"]
    return [*([together] if together else []), *([table] for table in tables if table.mode == "append")]


def causes(error: BaseException) -> list[BaseException]:
    """Return the error and what led to it, the root last; dlt keeps part of the chain in attributes."""
    chain: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in chain:
        chain.append(current)
        current = current.__cause__ or getattr(current, "exception", None) or current.__context__
    return chain


def root_cause(error: BaseException) -> str:
    """Return the first line of the error that started it all."""
    chain = causes(error)
    root = chain[-1]
    if isinstance(root, OSError) and len(chain) > 1 and str(root) in str(chain[-2]):
        root = chain[-2]  # it knows which host does not answer
    if trace := getattr(root, "failed_message", None):
        lines = str(trace).strip().splitlines()
        # The message of an error may go on for lines, with the statement and its rows.
        told = [line for line in lines if re.match(r"[\w.]+(Exception|Error|[a-z]Relation): ", line)]
        text = re.sub(r"^[\w.]+: ", "", (told or lines)[-1])
        return re.sub(r"^\([\w.]+Error\) ", "", text)
    return next(iter(str(root).strip().splitlines()), "") or type(root).__name__
