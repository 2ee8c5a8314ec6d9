"""Revoke what a task left behind, by the ids it wrote down."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from airflow_ext.vault.client import VaultClient
from airflow_ext.vault.shared import started


def this_process() -> dict[str, Any]:
    """Return what tells this process from all others, for records."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "started": started(os.getpid())}


def is_in_use(record: Mapping[str, Any], owner: Mapping[str, str]) -> bool:
    """Tell whether a record is of a process of the same try that still lives here: the task, or a child it forked.

    :param owner: What :attr:`airflow_ext.vault.lease_model.Owner.meta` says of the try that asks.
    """
    maker = record.get("maker")
    if record.get("owner") != owner or not isinstance(maker, Mapping):
        return False
    pid = maker.get("pid")
    if maker.get("host") != socket.gethostname() or not isinstance(pid, int) or pid < 1:
        return False
    with suppress(PermissionError):
        try:
            os.kill(pid, 0)
        except (ProcessLookupError, OverflowError):
            return False
    return bool(maker.get("started") == started(pid))


def is_of(client: VaultClient, record: Mapping[str, Any]) -> bool:
    """Tell whether a record is of the Vault and the namespace of a client."""
    settings = client.settings
    here = (settings.shown_address, (settings.namespace or "").strip("/"))
    return here == (record.get("address"), str(record.get("namespace") or "").strip("/"))


def client_of(clients: Sequence[VaultClient], record: Mapping[str, Any]) -> VaultClient:
    """Return the client a record is of, the first one where it is of none."""
    return next((each for each in clients if is_of(each, record)), clients[0])


def revoke_record(client: VaultClient, record: Mapping[str, Any]) -> bool:
    """Revoke the tokens, else the leases, of a record and return whether nothing of it is left.

    Of a record that is of another Vault or namespace nothing is revoked.

    :param record: What :meth:`airflow_ext.vault.leases.LeaseSession.ids` told.
    :raises VaultUnavailableError: If Vault does not answer.
    :raises VaultDeniedError: If the login is refused.
    """
    if not is_of(client, record):
        return False
    accessors = [each for each in record.get("accessors") or [] if isinstance(each, str)]
    gone = [_token_is_gone(client, each) for each in accessors]
    if accessors and all(gone):
        return True
    leases = [each for each in record.get("leases") or [] if isinstance(each, str) and each]
    return bool(leases) and all(_lease_is_gone(client, each) for each in leases)


def is_alive(client: VaultClient, record: Mapping[str, Any]) -> bool | None:
    """Tell whether a token or lease of a record still lives; ``None`` when Vault does not say."""
    if not is_of(client, record):
        return None
    answers: list[bool | None] = []
    for lease in record.get("leases") or []:
        reply = client.call("PUT", "sys/leases/lookup", body={"lease_id": lease})
        answers.append({200: True, 400: False}.get(reply.status))
    return True if True in answers else None if None in answers else False


def _token_is_gone(client: VaultClient, accessor: str) -> bool:
    reply = client.call("POST", "auth/token/revoke-accessor", body={"accessor": accessor})
    # 400 and 404 are how versions say that they know no such accessor; 403 is a policy.
    return reply.status in (200, 204, 400, 404)


def _lease_is_gone(client: VaultClient, lease_id: str) -> bool:
    reply = client.call("PUT", "sys/leases/revoke", body={"lease_id": lease_id, "sync": True})
    return reply.status in (200, 202, 204)
