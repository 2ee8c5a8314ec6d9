"""The tables that a Fivetran connection writes, by its schema config."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from airflow_ext.exceptions import InvalidSyncError
from airflow_ext.sync.http import VendorHttp
from airflow_ext.sync.model import TableRef
from airflow_ext.sync.shapes import object_of

STEPS = 4
"""Columns of so many tables are asked for at once."""


async def read_tables(http: VendorHttp, path: str, *, columns: bool) -> tuple[TableRef, ...]:
    """Return the tables that are switched on, as they are named in the destination.

    :param path: Path of the connection.
    :param columns: With columns and keys: a request per table, which reads the source. Fivetran's API tells no types.
    """
    try:
        data = data_of(await http.call("GET", f"{path}/schemas"))
    except InvalidSyncError as error:
        if error.status == 404 and error.code == "NotFound_SchemaConfig":
            return ()  # nothing was ever loaded
        raise
    found = [
        (
            f"{path}/schemas/{quote(schema, safe='')}/tables/{quote(table, safe='')}/columns",
            TableRef(name=f"{_there(one, schema)}.{_there(each, table)}", source=f"{schema}.{table}"),
        )
        for schema, one in _enabled(data.get("schemas"))
        for table, each in _enabled(one.get("tables"))
    ]
    if not columns:
        return tuple(ref for _, ref in found)
    gate = asyncio.Semaphore(STEPS)

    async def read(where: str, ref: TableRef) -> TableRef:
        async with gate:
            return _with_columns(ref, data_of(await http.call("GET", where)))

    return tuple(await asyncio.gather(*(read(*each) for each in found)))


def data_of(body: Any) -> Mapping[str, Any]:
    """Return the ``data`` of an envelope.

    :raises SyncUnavailableError: If there is none.
    """
    return object_of(object_of(body, service="Fivetran").get("data"), service="Fivetran")


def _with_columns(ref: TableRef, data: Mapping[str, Any]) -> TableRef:
    named = {_there(each, name): each for name, each in _enabled(data.get("columns"))}
    return TableRef(
        name=ref.name,
        source=ref.source,
        columns=dict.fromkeys(sorted(named), ""),
        key=tuple(sorted(name for name, each in named.items() if each.get("is_primary_key") is True)),
    )


def _enabled(given: Any) -> list[tuple[str, Mapping[str, Any]]]:
    if not isinstance(given, Mapping):
        return []
    return [
        (str(name), each)
        for name, each in given.items()
        if isinstance(each, Mapping) and each.get("enabled") is not False
    ]


def _there(each: Mapping[str, Any], name: str) -> str:
    return str(each.get("name_in_destination") or name)
