"""Copy connections and variables from Airflow's metadata and the environment into Vault."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow_ext.cli.vault_elsewhere import Item, items
from airflow_ext.exceptions import InvalidError, VaultDeniedError
from airflow_ext.vault import admin
from airflow_ext.vault.cache import Document
from airflow_ext.vault.documents import connection_value

if TYPE_CHECKING:
    from airflow_ext.secrets._vault_places import Place
    from airflow_ext.secrets.vault import VaultBackend
    from airflow_ext.vault.client import VaultClient


def migrate(backend: VaultBackend, *, write: bool, overwrite: bool, only: str) -> int:
    """Copy to where the backend looks each up, or tell what would be copied; nothing is deleted where it is now.

    :param only: Regular expression of ids.
    :raises InvalidError: If ``only`` is none, or the backend has no place for connections.
    """
    if backend.layout.mount_point is None or not backend.layout.connections_path:
        raise InvalidError("migrate needs mount_point and connections_path in the backend's arguments")
    try:
        wanted = re.compile(only)
    except re.error as error:
        raise InvalidError(f"--only {only!r} is no regular expression: {error}") from None
    counts: dict[str, int] = {}
    for item in items():
        if not wanted.fullmatch(item.key):
            continue
        try:
            verb = _copy(backend, item, write=write, overwrite=overwrite)
        except (VaultDeniedError, InvalidError) as error:
            verb = f"FAILED ({error})"
        counts[verb.split()[0]] = counts.get(verb.split()[0], 0) + 1
        owner = f" of team {item.team}" if item.team else ""
        print(f"{item.kind} {item.key}{owner} (from {item.source}): {verb}")
    print(_summary(counts, write=write))
    return 1 if counts.get("FAILED") else 0


def _summary(counts: Mapping[str, int], *, write: bool) -> str:
    if not counts:
        return "there is nothing to copy"
    names = {"would": "to be written", "written": "written", "is": "in Vault already", "FAILED": "failed"}
    told = ", ".join(f"{counts[verb]} {name}" for verb, name in names.items() if verb in counts)
    return told if write else f"{told}; nothing was written, add --write to do it"


def _copy(backend: VaultBackend, item: Item, *, write: bool, overwrite: bool) -> str:
    document, place = item.document(), _place(backend, item)
    client, mount, path = place.client, place.mount, admin.checked_path(place.path)
    if item.kind == "connection":
        connection_value(Document(path, document))  # what could not be read back is not written
    known = None
    if client.settings.kv_engine_version == 2:
        known = admin.metadata(client, mount, path)
        there = _is_there(known)
    else:
        there = client.read(mount, path).document is not None
    if there and not overwrite:
        return "is in Vault already" + ("" if write else "; --overwrite would replace it")
    if not write:
        return f"would go to {client.api_path(mount, path)}"
    return _write(client, mount, path, document, known)


def _place(backend: VaultBackend, item: Item) -> Place:
    kind: Any = item.kind
    if item.team and not backend.layout.keeps_teams_apart(kind, item.key):
        raise InvalidError(
            f"it is of team {item.team}, and would be everybody's in Vault: teams are kept apart with [core] multi_team and"
            " use_team_secrets_path, and where no route fits"
        )
    if not backend.layout.folders(kind):
        raise InvalidError(f"the backend reads no {kind}s: set {kind}s_path")
    places = backend.places(kind, item.key, item.team)
    found = next((each for each in places if not each.bundle), None)
    if found is None:
        raise InvalidError("no lookup would find it: with [core] multi_team, name it without '/'")
    return found


def _is_there(known: Mapping[str, Any] | None) -> bool:
    """Tell whether the newest version can be read: one that was deleted may be written anew."""
    if known is None:
        return False
    newest = (known.get("versions") or {}).get(str(known.get("current_version"))) or {}
    return bool(newest) and not newest.get("deletion_time") and not newest.get("destroyed")


def _write(
    client: VaultClient, mount: str, path: str, document: dict[str, Any], known: Mapping[str, Any] | None
) -> str:
    cas = None
    if client.settings.kv_engine_version == 2:
        cas = int(known.get("current_version") or 0) if known is not None else 0  # nobody wrote in between
    version = admin.write(client, mount, path, document, cas=cas)
    return f"written to {client.api_path(mount, path)}" + (f", version {version}" if version else "")
