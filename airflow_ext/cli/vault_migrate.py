"""Copy connections and variables from Airflow's metadata and the environment into Vault."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from airflow_ext.exceptions import InvalidError, VaultDeniedError
from airflow_ext.vault import admin
from airflow_ext.vault.cache import Document
from airflow_ext.vault.documents import connection_value

if TYPE_CHECKING:
    from airflow_ext.secrets.vault import VaultBackend

Item = tuple[str, str, str, dict[str, Any]]
"""Kind, id, where it is from, and its document."""


def migrate(backend: VaultBackend, *, write: bool, overwrite: bool, only: str) -> int:
    """Copy, or tell what would be copied; nothing is deleted where it is now.

    :param only: Regular expression of ids.
    """
    if backend.layout.mount_point is None or not backend.layout.connections_path:
        raise InvalidError("migrate needs mount_point and connections_path in the backend's arguments")
    counts: dict[str, int] = {}
    for kind, key, source, document in _items():
        if not re.fullmatch(only, key):
            continue
        try:
            verb = _copy(backend, kind, key, document, write=write, overwrite=overwrite)
        except (VaultDeniedError, InvalidError) as error:
            verb = f"FAILED ({error})"
        counts[verb.split()[0]] = counts.get(verb.split()[0], 0) + 1
        print(f"{kind} {key} (from {source}): {verb}")
    print(_summary(counts, write=write))
    return 1 if counts.get("FAILED") else 0


def _summary(counts: Mapping[str, int], *, write: bool) -> str:
    if not counts:
        return "there is nothing to copy"
    names = {"would": "to be written", "written": "written", "is": "in Vault already", "FAILED": "failed"}
    told = ", ".join(f"{counts[verb]} {name}" for verb, name in names.items() if verb in counts)
    return told if write else f"{told}; nothing was written, add --write to do it"


def _copy(
    backend: VaultBackend, kind: str, key: str, document: dict[str, Any], *, write: bool, overwrite: bool
) -> str:
    folders = backend.layout.folders(kind)
    if not folders:
        raise InvalidError("the backend reads no variables: set variables_path")
    mount, path = str(backend.layout.mount_point), admin.checked_path(f"{folders[0]}/{key}")
    if kind == "connection":
        connection_value(Document(path, document))  # what could not be read back is not written
    known = None
    if backend.client.settings.kv_engine_version == 2:
        known = admin.metadata(backend.client, mount, path)
        there = _is_there(known)
    else:
        there = backend.client.read(mount, path).document is not None
    if there and not overwrite:
        return "is in Vault already" + ("" if write else "; --overwrite would replace it")
    if not write:
        return f"would go to {backend.client.api_path(mount, path)}"
    return _write(backend, mount, path, document, known)


def _is_there(known: Mapping[str, Any] | None) -> bool:
    """Tell whether the newest version can be read: one that was deleted may be written anew."""
    if known is None:
        return False
    newest = (known.get("versions") or {}).get(str(known.get("current_version"))) or {}
    return bool(newest) and not newest.get("deletion_time") and not newest.get("destroyed")


def _write(
    backend: VaultBackend, mount: str, path: str, document: dict[str, Any], known: Mapping[str, Any] | None
) -> str:
    cas = None
    if backend.client.settings.kv_engine_version == 2:
        cas = int(known.get("current_version") or 0) if known is not None else 0  # nobody wrote in between
    version = admin.write(backend.client, mount, path, document, cas=cas)
    return f"written to {backend.client.api_path(mount, path)}" + (f", version {version}" if version else "")


def _items() -> Iterator[Item]:
    seen: set[tuple[str, str]] = set()
    for item in (*_of_environment(), *_of_metadata()):
        if item[:2] not in seen:  # the environment is asked before the metadata, so it holds
            seen.add((item[0], item[1]))
            yield item


def _of_environment() -> Iterator[Item]:
    for name, value in sorted(os.environ.items()):
        if name.startswith("AIRFLOW_CONN_"):
            yield "connection", name.removeprefix("AIRFLOW_CONN_").lower(), "environment", _document(value)
        elif name.startswith("AIRFLOW_VAR_"):
            yield "variable", name.removeprefix("AIRFLOW_VAR_").lower(), "environment", {"value": value}


def _document(value: str) -> dict[str, Any]:
    if value.lstrip().startswith("{"):
        try:
            found = json.loads(value)
        except ValueError:
            return {"extra": "{"}  # fails by itself, without its text being shown
        return dict(found)
    return {"conn_uri": value}


def _of_metadata() -> Iterator[Item]:
    from airflow.models import Connection, Variable
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        for each in session.scalars(select(Connection).order_by(Connection.conn_id)):
            fields = {
                "conn_type": each.conn_type,
                "description": each.description,
                "host": each.host,
                "login": each.login,
                "password": each.password,
                "schema": each.schema,
                "port": each.port,
                "extra": each.extra,
            }
            document = {key: value for key, value in fields.items() if value not in (None, "")}
            yield "connection", str(each.conn_id), "metadata", document
        for variable in session.scalars(select(Variable).order_by(Variable.key)):
            yield "variable", str(variable.key), "metadata", {"value": variable.val}
