"""Reading CSV, JSON lines and Parquet files as Arrow batches of a schema known before the first row."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from decimal import Decimal
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from airflow_ext.exceptions import InvalidError, SyncFailedError
from airflow_ext.sync.arrow_types import Column, as_column, conform, named_type
from airflow_ext.sync.files import FORMATS, SyncFiles
from airflow_ext.sync.tables import Window

if TYPE_CHECKING:
    import pyarrow as pa

SAMPLE_BYTES = 4 * 1024 * 1024
"""How much of each CSV file is looked at for the types of its columns."""


class FileTable:
    """The files of one table.

    :param table: What to load.
    :param filesystems: By scheme, each as fsspec writes it as JSON, credentials included.
    :param base: Folder under which paths without a scheme lie.
    :param chunk_rows: Rows per batch.
    :param window: The run's window, for the path.
    :param warn: Told that there is no file, where that is no error.
    """

    def __init__(
        self,
        table: SyncFiles,
        *,
        filesystems: Mapping[str, str],
        base: str,
        chunk_rows: int,
        window: Window | None,
        warn: Callable[[str], None],
    ) -> None:
        from fsspec import AbstractFileSystem

        self.table = table
        self._warn = warn
        self.columns: list[Column] = []
        self.chunk_rows = chunk_rows
        path = _fill(table, window)
        if base and "://" not in path and not path.startswith("/"):
            path = f"{base.rstrip('/')}/{path}"
        self._based = bool(base)
        self._url = path
        self._fs = AbstractFileSystem.from_json(filesystems[path.rpartition("://")[0] or "file"])
        self._window = window
        self._prints: dict[str, str] = {}
        self._files: list[str] = []
        self._seen: dict[str, str] = {}

    @property
    def partial(self) -> bool:
        """Whether the columns are those of some of the files only."""
        return self.table.mode not in ("replace", "scd2") and self.table.columns is None

    @property
    def schema(self) -> pa.Schema:
        """The Arrow schema of every batch."""
        import pyarrow as pa

        return pa.schema([(column.name, column.arrow) for column in self.columns])

    def resume(self, kept: Any) -> bool:
        """Find the files to load and their columns.

        :param kept: What :meth:`remember` told of the load before.
        :returns: Whether there is anything to load.
        :raises SyncFailedError: If there is no file at all, or one that was appended has changed.
        """
        mode = self.table.mode
        self._seen = dict(kept or {})
        with self._told(self._url):
            self._prints = {path: _print(info) for path, info in self._glob().items()}
        if not self._prints and mode in ("replace", "scd2"):
            raise SyncFailedError(
                f"no file matches {self._url!r}, and mode={mode!r} would take all rows away",
                table=self.table.name,
            )
        if not self._prints:
            self._tell_of_none()
        if mode in ("append", "merge"):
            self._files = [path for path, mark in self._prints.items() if self._seen.get(path) != mark]
        else:
            self._files = list(self._prints)
        if mode == "append" and (changed := [path for path in self._files if path in self._seen]):
            raise SyncFailedError(
                f"{changed[0]} has changed since it was appended, and appending it again would double its rows; "
                "use mode='merge' or 'replace'",
                table=self.table.name,
            )
        if self._files:
            self.columns = self._find_columns()
        return bool(self._files)

    def remember(self) -> Any:
        """Return the files that are loaded, for the next load."""
        if self.table.mode not in ("append", "merge"):
            return None
        return {**self._seen, **self._prints}

    def overlaps(self, remembered: Any) -> bool:
        """Tell whether another sync has loaded one of the files."""
        return isinstance(remembered, Mapping) and any(path in remembered for path in self._files)

    def identifies(self, columns: Iterable[str]) -> bool:
        """Tell whether rows are known to be unique: nobody sees to that in files."""
        del columns
        return False

    def limit(self) -> Any:
        """Return the highest cursor value: files have no cursor."""
        return None

    def bounds(self, window: Window) -> tuple[Any, Any]:
        """Return the window's ends as values of the cursor column."""
        import pyarrow as pa

        column = next((column for column in self.columns if column.name == self.table.cursor), None)
        if column is None:
            raise InvalidError(
                f"cursor={self.table.cursor!r} of table {self.table.name!r}: the files have no such column"
            )
        kind = (
            type(pa.scalar(0, pa.int64()).cast(column.arrow).as_py()) if not _is_text(column.arrow) else str
        )
        bounds: tuple[Any, Any] = window.bounds(kind)
        if pa.types.is_timestamp(column.arrow) and column.arrow.tz is None:
            return bounds[0].replace(tzinfo=None), bounds[1].replace(tzinfo=None)
        return bounds

    def batches(
        self,
        *,
        start: Any = None,
        end: Any = None,
        upto: Any = None,
        on_rows: Callable[[int], None] = lambda _: None,
    ) -> Iterator[pa.Table]:
        """Yield the rows of the files, with a window only those in it."""
        import pyarrow.compute as pc

        del upto
        for path in self._files:
            with self._told(path):
                for batch in self._read(path):
                    table = conform(batch, self.columns)
                    if start is not None:
                        values = table.column(self.table.cursor)
                        table = table.filter(pc.and_(pc.greater_equal(values, start), pc.less(values, end)))
                    on_rows(table.num_rows)
                    yield table

    def _tell_of_none(self) -> None:
        searched, why = self._url, ""
        if not self._based and "://" not in searched and not searched.startswith("/"):
            searched, why = (
                str(Path(searched).absolute()),
                ", for the source connection has no path in its extra",
            )
        self._warn(f"table {self.table.name!r}: no file matches {searched!r}{why}")

    def _glob(self) -> dict[str, Mapping[str, Any]]:
        found = self._fs.glob(self._url, detail=True)
        return {path: info for path, info in sorted(found.items()) if info.get("type") != "directory"}

    def _find_columns(self) -> list[Column]:

        schemas = []
        for path in self._files:
            with self._told(path):
                schemas.append(self._schema_of(path))
        wanted = dict(self.table.types)
        merged: dict[str, pa.DataType] = {}
        for schema in schemas:
            for field in schema:
                before = merged.get(field.name)
                merged[field.name] = field.type if before is None else _wider(before, field.type)
        names = list(self.table.columns or merged)
        needed = [
            *names,
            *self.table.primary_key,
            *wanted,
            *([self.table.cursor] if self.table.cursor else []),
        ]
        if unknown := [name for name in needed if name not in merged]:
            raise InvalidError(
                f"table {self.table.name!r}: no column {', '.join(unknown)} in {self._url}; there are {', '.join(merged)}"
            )
        return [
            named_type(name, wanted[name]) if name in wanted else as_column(name, merged[name])
            for name in names
        ]

    def _schema_of(self, path: str) -> pa.Schema:
        import pyarrow as pa
        from pyarrow import csv, parquet

        kind = self._format(path)
        if kind == "parquet":
            with self._fs.open(path, "rb") as file:
                return parquet.read_schema(pa.PythonFile(file, mode="r"))
        with self._open_text(path) as file:
            if kind == "jsonl":
                return _json_schema(file)
            options = csv.ReadOptions(block_size=SAMPLE_BYTES)
            return csv.open_csv(
                pa.PythonFile(file, mode="r"),
                read_options=options,
                parse_options=_csv_options(kind),
                convert_options=csv.ConvertOptions(null_values=[""]),
            ).schema

    def _read(self, path: str) -> Iterator[pa.Table]:
        import pyarrow as pa
        from pyarrow import csv, parquet

        kind = self._format(path)
        if kind == "parquet":
            with self._fs.open(path, "rb") as file:
                whole = parquet.ParquetFile(pa.PythonFile(file, mode="r"))
                there = [column.name for column in self.columns if column.name in whole.schema_arrow.names]
                for batch in whole.iter_batches(batch_size=self.chunk_rows, columns=there):
                    yield pa.Table.from_batches([batch])
            return
        with self._open_text(path) as file:
            if kind == "jsonl":
                yield from _json_batches(file, self.columns, self.chunk_rows)
                return
            types = {column.name: column.arrow for column in self.columns}
            reader = csv.open_csv(
                pa.PythonFile(file, mode="r"),
                read_options=csv.ReadOptions(block_size=SAMPLE_BYTES),
                parse_options=_csv_options(kind),
                convert_options=csv.ConvertOptions(
                    # "NA" and "null" are texts; only nothing is nothing.
                    column_types=types,
                    null_values=[""],
                    strings_can_be_null=True,
                    quoted_strings_can_be_null=False,
                ),
            )
            for batch in reader:
                yield pa.Table.from_batches([batch])

    def _open_text(self, path: str) -> Any:
        return self._fs.open(path, "rb", compression="infer")

    def _format(self, path: str) -> str:
        if self.table.format:
            return self.table.format
        name = PurePosixPath(path.partition("?")[0]).name.lower()
        endings = [
            ending for ending in re.sub(r"\.(gz|bz2|xz|zst)$", "", name).split(".")[1:] if ending in FORMATS
        ]
        if not endings:
            raise InvalidError(
                f"table {self.table.name!r}: the name {name!r} does not tell the format; say format='csv', "
                "'tsv', 'jsonl' or 'parquet'"
            )
        return FORMATS[endings[-1]]

    def _told(self, path: str) -> Any:
        return _Told(self.table.name, path)


class _Told:
    """Turns what fails while a file is read into an error that names the file."""

    def __init__(self, table: str, path: str) -> None:
        self._table = table
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, _: Any) -> None:
        import pyarrow as pa

        if isinstance(error, OSError | ValueError | pa.ArrowException | EOFError) and not isinstance(
            error, InvalidError
        ):
            reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
            raise SyncFailedError(f"{self._path}: {reason}", table=self._table) from None


def _fill(table: SyncFiles, window: Window | None) -> str:
    path = table.path
    if "{window_" not in path:
        return path
    if window is None:
        raise InvalidError(
            f"path={path!r} of table {table.name!r}: without window_start= and window_end= nothing stands for them"
        )
    for side, value in (("{window_start}", window.start), ("{window_end}", window.end)):
        # A value from outside must not name other folders or more files.
        if side in path and (re.search(r"[/\\*?\[\]]", value) or ".." in value):
            raise InvalidError(f"{side[1:-1]}={value!r} cannot stand in a path")
        path = path.replace(side, value)
    return path


def _print(info: Mapping[str, Any]) -> str:
    """Return what changes when the file does."""
    marks = [
        info.get(name)
        for name in ("size", "ETag", "etag", "mtime", "LastModified", "last_modified", "updated")
    ]
    return json.dumps([None if mark is None else str(mark) for mark in marks])


def _is_text(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_string(kind))


def _csv_options(kind: str) -> Any:
    from pyarrow import csv

    return csv.ParseOptions(delimiter="\t" if kind == "tsv" else ",", newlines_in_values=True)


def _wider(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    """Return a type that holds the values of both; text if there is no other."""
    import pyarrow as pa

    if one == other or pa.types.is_null(other):
        return one
    if pa.types.is_null(one):
        return other
    if all(pa.types.is_integer(kind) or pa.types.is_floating(kind) for kind in (one, other)):
        return pa.float64() if pa.types.is_floating(one) or pa.types.is_floating(other) else pa.int64()
    if pa.types.is_decimal(one) and pa.types.is_decimal(other):
        scale = max(one.scale, other.scale)
        whole = max(one.precision - one.scale, other.precision - other.scale)
        return pa.decimal128(min(38, whole + scale), scale)
    return pa.string()


def _json_schema(lines: Iterable[bytes]) -> pa.Schema:
    """Look at every line: a key may come late, and its values may be of several kinds."""
    import pyarrow as pa

    kinds: dict[str, pa.DataType] = {}
    for number, line in enumerate(lines, start=1):
        if line.strip():
            for key, value in _object(line, number).items():
                kind = _json_kind(value)
                kinds[key] = kind if key not in kinds else _wider(kinds[key], kind)
    return pa.schema(list(kinds.items()))


def _json_kind(value: Any) -> pa.DataType:
    import pyarrow as pa

    if isinstance(value, bool):
        return pa.bool_()
    if isinstance(value, int):
        return pa.int64() if -(2**63) <= value < 2**63 else pa.string()
    if isinstance(value, Decimal):
        return pa.float64()
    if isinstance(value, dict | list):
        return pa.struct([])
    return pa.null() if value is None else pa.string()


def _object(line: bytes, number: int) -> dict[str, Any]:
    # Decimal keeps the digits of numbers that become decimals or text.
    value = json.loads(line, parse_float=Decimal)
    if not isinstance(value, dict):
        raise ValueError(f"line {number} is no JSON object")
    return value


def _json_batches(lines: Iterable[bytes], columns: list[Column], chunk_rows: int) -> Iterator[pa.Table]:
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            rows.append(_object(line, number))
        if len(rows) == chunk_rows:
            yield _json_table(rows, columns)
            rows = []
    if rows:
        yield _json_table(rows, columns)


def _json_table(rows: list[dict[str, Any]], columns: list[Column]) -> pa.Table:
    import pyarrow as pa

    arrays = {}
    for column in columns:
        values = [row.get(column.name) for row in rows]
        if column.json:
            values = [None if value is None else json.dumps(value, default=float) for value in values]
            arrays[column.name] = pa.array(values, pa.string())
        elif pa.types.is_floating(column.arrow):
            arrays[column.name] = pa.array(
                [None if value is None else _float(value, column.name) for value in values], pa.float64()
            )
        elif pa.types.is_integer(column.arrow) or pa.types.is_boolean(column.arrow):
            arrays[column.name] = pa.array(values, column.arrow)
        else:
            arrays[column.name] = pa.array([_json_text(value) for value in values], pa.string())
    return pa.table(arrays)


def _float(value: Any, name: str) -> float:
    number = float(value)
    if isinstance(value, int) and number != value:
        raise ValueError(
            f"{name}: {value} does not fit the column's type, a double; say types={{{name!r}: 'text'}} or 'decimal(p,s)'"
        )
    return number


def _json_text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, default=float) if isinstance(value, dict | list | bool) else str(value)
