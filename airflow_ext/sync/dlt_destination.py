"""What dlt is told of a destination, and how each mode of a table is said to it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from airflow_ext.exceptions import InvalidError, SyncFailedError
from airflow_ext.sync.direct_load import VALID_FROM, VALID_TO, Readable
from airflow_ext.sync.dlt_databases import dialect_of, literal, misfit
from airflow_ext.sync.dlt_job import DltJob
from airflow_ext.sync.names import normal
from airflow_ext.sync.tables import SyncTable

if TYPE_CHECKING:
    import dlt
    import pyarrow as pa

FILE_MODES = ("append", "replace")
"""Files are written once; nothing in them is replaced row by row."""

_NO_DESTINATIONS = ("destination", "dummy")
"""What dlt has for functions, and for nothing: rows sent there would be lost."""

_OURS = {"dataset_name", "destination_name", "environment"}
"""Options that this engine decides on."""

ROW_HASH = "_row_hash"
"""Column by which dlt tells whether a row of an scd2 table has changed."""

_HINTS = (
    "primary_key",
    "merge_key",
    "x-row-version",
    "x-valid-from",
    "x-valid-to",
    "x-active-record-timestamp",
)
_NOT_IN_SQL = re.compile(r"[;%\r\n]|(?<!\w):")
"""dlt splits statements at semicolons and lines, and drivers and SQLAlchemy take the others for places of values."""

_SCOPE = "x-merge-destination-scope"


def make(job: DltJob) -> Any:
    """Return dlt's destination for a job.

    :raises InvalidError: If dlt has none of that name, its driver is not installed, or it refuses the options.
    """
    import dlt
    from dlt.common.exceptions import DltException

    pair = job.pair
    if pair.destination == "duckdb":
        Path(pair.destination_url).parent.mkdir(parents=True, exist_ok=True)
        return dlt.destinations.duckdb(credentials=pair.destination_url, **_strategy(job))
    if pair.destination == "postgres":
        return dlt.destinations.postgres(credentials=pair.destination_url, **_strategy(job))
    if pair.destination == "filesystem":
        return dlt.destinations.filesystem(bucket_url=pair.destination_url, **pair.destination_options)
    if not re.fullmatch(r"[a-z]\w*", pair.destination) or pair.destination in _NO_DESTINATIONS:
        # A path would be imported, whatever it is.
        raise InvalidError(
            f"destination {pair.destination!r}: give the name of a destination of dlt, such as 'athena'"
        )
    try:
        made = dlt.destination(pair.destination, **pair.destination_options)
        _check_options(job, made.spec)
        if "replace_strategy" in made.spec.__dataclass_fields__:
            options = {**_strategy(job), **pair.destination_options}
            if "insert-from-staging" not in (made.capabilities().supported_replace_strategies or ()):
                del options["replace_strategy"]
            made = dlt.destination(pair.destination, **options)
        _ = made.client_class  # imports the driver
    except InvalidError:
        raise
    except ImportError as error:
        way = f"pip install 'dlt[{pair.destination}]'"
        if pair.destination == "sqlalchemy":
            way = "install the driver of that database for SQLAlchemy, for MySQL and MariaDB: pip install pymysql"
        raise InvalidError(
            f"destination {pair.destination!r}: {str(error).strip().splitlines()[0]} where this runs: {way}"
        ) from None
    except (DltException, ValueError, TypeError) as error:
        raise InvalidError(f"destination {pair.destination!r}: dlt refuses it: {error}") from None
    return made


def _check_options(job: DltJob, spec: Any) -> None:
    """Refuse options that dlt would pass over, and credentials it would stumble over later.

    :raises InvalidError: If there are such.
    """
    from dlt.common.destination import DestinationCapabilitiesContext

    pair = job.pair
    takes = {*spec.get_resolvable_fields(), *DestinationCapabilitiesContext.get_resolvable_fields()} - _OURS
    if unknown := sorted(set(pair.destination_options) - takes):
        raise InvalidError(f"destination {pair.destination!r} takes no option {unknown[0]!r}")
    if pair.destination == "sqlalchemy":
        import sqlalchemy as sa

        told = pair.destination_options.get("credentials")
        try:
            there = isinstance(told, Mapping) or bool(sa.make_url(str(told)).get_dialect())
        except sa.exc.ArgumentError:
            there = False
        if not there:
            raise InvalidError(
                "destination 'sqlalchemy': its credentials must be a URL of SQLAlchemy, such as dialect+driver://user:password@host/"
            )


def _strategy(job: DltJob) -> dict[str, Any]:
    # Staging first, then one transaction: a reader never sees a table half replaced.
    return {
        "replace_strategy": "insert-from-staging",
        "staging_dataset_name_layout": staging_dataset(job.pair.dataset, pipeline=job.name),
    }


def staging_dataset(dataset: str, *, pipeline: str) -> str:
    """Return the schema in which one pipeline keeps the rows it is about to insert.

    Each has its own: pipelines that load the same table would otherwise empty each other's rows.
    59 characters at most, since PostgreSQL cuts names at 63.
    """
    own = hashlib.sha256(f"{dataset}\0{pipeline}".encode()).hexdigest()[:10]
    return f"{dataset[:40]}_staging_{own}"


def file_format(job: DltJob) -> Any:
    """Return the format of load packages, ``None`` for the one dlt prefers.

    PostgreSQL takes what an API answers as statements; of other databases dlt knows best.
    """
    return "parquet" if job.pair.destination in ("duckdb", "filesystem") else None


def check_mode(pipeline: dlt.Pipeline, table: SyncTable) -> None:
    """See to it that a table of an API has the columns its mode needs: dlt cannot add them to rows that are there.

    :raises InvalidError: If it was loaded by another mode before.
    """
    if table.mode not in ("merge", "scd2") or not pipeline.default_schema_name:
        return
    known: Mapping[str, Any] = pipeline.default_schema.tables.get(normal(table.name), {})
    before = known.get("x-merge-strategy") if known.get("write_disposition") == "merge" else "other"
    if known and (before == "scd2", before == "other") != (table.mode == "scd2", False):
        raise InvalidError(
            f"mode={table.mode!r} of table {table.name!r}: it has been loaded by another mode before; drop it in the destination, "
            "and it is loaded from the beginning, or go on as before"
        )


class DltTable:
    """One table of a database or of files on its way into a destination that dlt writes.

    :param job: The run.
    :param pipeline: Its pipeline, whose destination is known.
    :param source: What is read.
    :raises InvalidError: If the destination cannot do the table's mode.
    """

    def __init__(self, job: DltJob, pipeline: dlt.Pipeline, source: Readable) -> None:
        self.job = job
        self.pipeline = pipeline
        self.source = source
        self.table: SyncTable = source.table
        self.window = job.window if self.table.cursor else None
        strategies = pipeline.destination.capabilities().supported_merge_strategies or ()
        where = f"mode={self.table.mode!r} of table {self.table.name!r}"
        if job.pair.destination == "filesystem" and self.table.mode not in FILE_MODES:
            raise InvalidError(f"{where}: into files go {' and '.join(FILE_MODES)}")
        needed = {"merge": {"delete-insert", "upsert"}, "window": {"delete-insert"}, "scd2": {"scd2"}}
        if (able := needed.get(self.table.mode)) and not able.intersection(strategies):
            raise InvalidError(
                f"{where}: dlt's destination {job.pair.destination!r} cannot do that; it can "
                f"{', '.join(_modes(strategies))}"
            )
        self._upsert = "delete-insert" not in strategies
        self._dialect = dialect_of(pipeline)
        self.known: Mapping[str, Any] = self._known()
        versions = ROW_HASH in self.known.get("columns", {})
        if self.known and versions != (self.table.mode == "scd2"):
            raise InvalidError(
                f"{where}: it has been loaded {'with versions' if versions else 'without versions'} of its rows before; drop "
                "it in the destination, and it is loaded from the beginning, or go on as before"
            )

    def forget_mode(self) -> None:
        """Take off what an earlier run has said of the table: dlt only adds to that.

        A key of before would thin out the rows of a window, and a window of before the rows of a merge.
        """
        if not self.known:
            return
        table: Any = self.known
        table.pop(_SCOPE, None)
        for column in table["columns"].values():
            for hint in _HINTS:
                column.pop(hint, None)

    def hints(self) -> dict[str, Any]:
        """Return the keys of the table, as dlt's resources take them."""
        key = list(self.table.primary_key)
        if self.table.mode == "scd2":
            # With a cursor only what is new is read, and what is not there has not been deleted.
            return {"merge_key": key} if self.table.cursor else {}
        return {"primary_key": key} if self.table.mode == "merge" else {}

    def disposition(self) -> Any:
        """Return how rows meet those that are there; of a window once its source is known."""
        mode = self.table.mode
        if mode == "scd2":
            return {
                "disposition": "merge",
                "strategy": "scd2",
                "validity_column_names": [VALID_FROM, VALID_TO],
                "row_version_column_name": ROW_HASH,
            }
        if mode == "window":
            return {"disposition": "merge", "strategy": "delete-insert", "destination_scope": self._window()}
        if mode != "merge":
            return mode
        return {"disposition": "merge", "strategy": "upsert" if self._upsert else "delete-insert"}

    def batches(self, *, start: Any, on_rows: Any) -> Iterator[pa.Table]:
        """Yield the rows as the destination's columns take them; at least one batch, if an empty one.

        :param start: The lowest cursor value, without a window.
        :raises SyncFailedError: If a value does not fit the column that is there, or a key is null.
        """
        import pyarrow as pa

        start, end = (start, None) if self.window is None else self.source.bounds(self.window)
        columns = self.source.columns
        batch = None
        for batch in self.source.batches(start=start, end=end, on_rows=on_rows):
            yield self._ready(batch)
        if batch is None:
            # Without rows dlt would leave the table, and a window, as it is.
            yield self._ready(pa.schema([(column.name, column.arrow) for column in columns]).empty_table())

    def _ready(self, batch: pa.Table) -> pa.Table:
        for name in self.table.primary_key:
            if batch.column(name).null_count:
                raise SyncFailedError(
                    f"primary_key={list(self.table.primary_key)!r}: column {name!r} is null in some rows, which every load "
                    "would add again",
                    table=self.table.name,
                )
        for name, column in self.known.get("columns", {}).items():
            if not column.get("nullable", True) and name != ROW_HASH and not name.startswith("_dlt"):
                self._see_no_null(batch, name)
        batch = self._fit(batch)
        if self._dialect is not None and (problem := misfit(batch, self._dialect.name)):
            raise SyncFailedError(
                f"{problem}; leave such rows out with where=, or write the column as text with a view",
                table=self.table.name,
            )
        if self.table.mode == "scd2":
            batch = batch.append_column(ROW_HASH, [_row_hashes(batch)])
        return batch

    def _see_no_null(self, batch: pa.Table, there: str) -> None:
        name = next((name for name in batch.column_names if normal(name) == there), None)
        if batch.num_rows and (name is None or batch.column(name).null_count):
            raise SyncFailedError(
                f"column {name or there!r} was a key in an earlier run and cannot be null in the destination, but it is "
                f"{'no longer in the source' if name is None else 'null in some rows'}; drop the table in the destination to "
                "load it from the beginning",
                table=self.table.name,
            )

    def _known(self) -> Mapping[str, Any]:
        """Return the table as dlt knows it."""
        if not self.pipeline.default_schema_name:
            return {}
        return cast("Mapping[str, Any]", self.pipeline.default_schema.tables.get(normal(self.table.name), {}))

    def _fit(self, batch: pa.Table) -> pa.Table:
        """Give columns that have changed their type the one they have there, where their values allow it.

        dlt hands rows on as they are, and some databases cut or turn what does not fit.
        """
        import pyarrow as pa
        import pyarrow.compute as pc
        from dlt.common.libs.pyarrow import get_column_type_from_py_arrow, get_py_arrow_datatype

        known = self.known.get("columns", {})
        caps = self.pipeline.destination.capabilities()
        for index, field in enumerate(batch.schema):
            there = known.get(normal(field.name))
            if not there or "data_type" not in there:
                continue
            now = get_column_type_from_py_arrow(field.type)
            if all(now.get(part) == there.get(part) for part in ("data_type", "precision", "scale")):
                continue
            kind = get_py_arrow_datatype(there, caps, "UTC")
            try:
                batch = batch.set_column(index, field.name, pc.cast(batch.column(index), kind))
            except pa.ArrowException as error:
                raise SyncFailedError(
                    f"column {field.name!r} is {field.type} now and {there['data_type']} in the destination, which a value "
                    f"does not fit: {error}",
                    table=self.table.name,
                ) from None
        return batch

    def _column(self, name: str) -> str:
        return str(self.pipeline.sql_client().escape_column_name(normal(name)))

    def _window(self) -> str:
        """Return the condition that holds for the rows of the window in the destination."""
        assert self.window is not None  # noqa: S101  # the operator sees to it
        cursor = str(self.table.cursor)
        zone = next((getattr(c.arrow, "tz", None) for c in self.source.columns if c.name == cursor), None)
        column = self._column(cursor)
        bounds = self.source.bounds(self.window)
        if odd := next((end for end in bounds if isinstance(end, str) and _NOT_IN_SQL.search(end)), None):
            raise InvalidError(
                f"the window of table {self.table.name!r} ends at the text {odd!r}, whose signs dlt does not carry into SQL as "
                "they are; choose another end, or a cursor that is no text"
            )
        start, end = (self._literal(value, zone is not None) for value in bounds)
        # dlt fills in names of tables with str.format.
        return f"{column} >= {start} AND {column} < {end}".replace("{", "{{").replace("}", "}}")

    def _literal(self, value: Any, zone: bool) -> str:
        if isinstance(value, datetime):
            value = value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
        if self._dialect is not None:
            return literal(
                value.replace(tzinfo=None) if isinstance(value, datetime) else value, self._dialect
            )
        caps = self.pipeline.destination.capabilities()
        if isinstance(value, datetime):
            return str(caps.format_datetime_literal(value, caps.timestamp_precision, not zone))
        if isinstance(value, date):
            return f"CAST('{value.isoformat()}' AS DATE)"
        return str(caps.escape_literal(value)) if isinstance(value, str) else str(value)


def _modes(strategies: Any) -> list[str]:
    modes = ["append", "replace"]
    if {"delete-insert", "upsert"}.intersection(strategies):
        modes.append("merge")
    if "delete-insert" in strategies:
        modes.append("window")
    return [*modes, "scd2"] if "scd2" in strategies else modes


def _row_hashes(batch: pa.Table) -> pa.Array:
    """Return a hash of each row, the same in every run."""
    import pyarrow as pa
    import pyarrow.compute as pc

    def plain(column: pa.ChunkedArray) -> list[Any]:
        # How a time zone is written depends on what else is installed.
        plainer = pc.cast(column, pa.int64()) if pa.types.is_timestamp(column.type) else column
        return list(plainer.to_pylist())

    rows = zip(*map(plain, batch.columns), strict=True)
    return pa.array(
        [hashlib.blake2b(repr(row).encode(), digest_size=16).hexdigest() for row in rows], pa.string()
    )
