"""Tables that come from files, as a DAG author writes them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from airflow_ext.sync.tables import SyncTable

FORMATS = {"csv": "csv", "tsv": "tsv", "jsonl": "jsonl", "ndjson": "jsonl", "parquet": "parquet"}
"""Formats by the ending of a file's name, before ``.gz``, ``.bz2``, ``.xz`` or ``.zst``."""

TYPES = (
    "text",
    "boolean",
    "bigint",
    "double",
    "decimal(p,s)",
    "date",
    "timestamp",
    "timestamptz",
    "json",
    "uuid",
)


@dataclass(frozen=True, init=False)
class SyncFiles(SyncTable):
    """One table made of files, local or in an object store.

    ``append`` and ``merge`` load each file once and remember it in the destination; ``merge`` loads a file again that
    has changed, ``append`` refuses it, for its rows would be doubled. ``replace`` and ``scd2`` read all files.
    ``window`` reads the files that ``path`` names for the run's window, and of them only the rows in it.

    :param name: Table in the destination, in snake case.
    :param path: Path or URL, with ``*``, ``**``, ``?`` and ``[...]``; ``{window_start}`` and ``{window_end}`` stand
        for the run's window as the operator has it. It lies under the source connection's own path, if
        that has one.
    :param format: ``csv`` (with a header, UTF-8), ``tsv``, ``jsonl`` or ``parquet``; ``None`` goes by the ending.
        Compressed text is read too.
    :param mode: As of :class:`SyncTable`; ``append`` unless said otherwise.
    :param primary_key: Columns that identify a row, for ``merge`` and ``scd2``.
    :param cursor: Column the window lies in, for ``window`` only.
    :param columns: Columns to load; ``None`` loads all.
    :param types: Types of columns that the content does not tell, such as ``{"zip": "text"}``; one of ``text``,
        ``boolean``, ``bigint``, ``double``, ``decimal(p,s)``, ``date``, ``timestamp``, ``timestamptz``, ``json``, ``uuid``.
    :param asset: Name of the asset, as of :class:`SyncTable`.
    :raises ValueError: If the arguments do not go together.
    """

    path: str
    format: str | None
    types: tuple[tuple[str, str], ...]

    def __init__(
        self,
        name: str,
        *,
        path: str,
        format: str | None = None,  # noqa: A002  # the word everybody uses
        mode: str = "append",
        primary_key: Iterable[str] = (),
        cursor: str | None = None,
        columns: Iterable[str] | None = None,
        types: Mapping[str, str] | Iterable[Iterable[str]] = (),
        asset: str | None = None,
    ) -> None:
        pairs = types.items() if isinstance(types, Mapping) else [tuple(pair) for pair in types]
        object.__setattr__(self, "path", path)
        object.__setattr__(self, "format", format)
        object.__setattr__(self, "types", tuple((column, kind) for column, kind in pairs))
        super().__init__(
            name, mode=mode, primary_key=primary_key, cursor=cursor, columns=columns, asset=asset
        )

    def _check(self) -> None:
        super()._check()
        where = f"table {self.name!r}"
        if not isinstance(self.path, str) or not self.path.strip():
            raise ValueError(f"path={self.path!r} of {where}: give a path or URL, such as 'orders/*.csv'")
        # An object store over HTTP may take %2e for a dot.
        if ".." in re.split(r"[/\\]", unquote(self.path)):
            raise ValueError(
                f"path={self.path!r} of {where}: '..' would leave the source connection's path; make a connection for that "
                "folder"
            )
        if self.format is not None and self.format not in FORMATS.values():
            raise ValueError(
                f"format={self.format!r} of {where}: the formats are {', '.join(sorted(set(FORMATS.values())))}"
            )
        if self.cursor and self.mode != "window":
            raise ValueError(
                f"cursor={self.cursor!r} of {where}: of files, only mode='window' has a cursor; the others go by file"
            )
        for column, kind in self.types:
            if kind not in TYPES and not kind.startswith("decimal("):
                raise ValueError(
                    f"types={{{column!r}: {kind!r}}} of {where}: the types are {', '.join(TYPES)}"
                )

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        value = {**super().to_dict(), "kind": "files", "types": [list(pair) for pair in self.types]}
        return {key: kept for key, kept in value.items() if key not in ("schema", "where")}
