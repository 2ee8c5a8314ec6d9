"""The webhook of sync vendors: the one route without a user.

Who sent a request is proved by its signature alone, and what it says is only a hint: it is written where the poller
of waiting tasks reads it, which then asks the vendor itself. A request that is not certain learns nothing, not even
whether there is such a connection.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow._shared.state import AssetScope
from airflow.models.asset import AssetModel
from airflow.models.connection import Connection
from airflow.sdk.exceptions import AirflowException
from airflow.state import get_state_backend
from airflow.utils.session import create_session
from fastapi import APIRouter, Request  # noqa: TID253  # only the first request imports this
from fastapi.responses import JSONResponse  # noqa: TID253
from sqlalchemy import select

from airflow_ext.exceptions import InvalidError
from airflow_ext.hooks.sync_vendors import remote_backend, webhook_secret
from airflow_ext.sync.backend import WebhookEvent
from airflow_ext.triggers.sync import state_asset, webhook_key

if TYPE_CHECKING:
    from airflow_ext.sync.backend import RemoteBackend

log = logging.getLogger(__name__)

MAX_BODY = 64 * 1024
MAX_SYNCS = 500
"""Syncs remembered per connection: about 50 KB."""

REMEMBER_SECONDS = 30.0
"""How long a connection is not read again: anybody may send requests, and secrets backends are slow."""

MAX_REMEMBERED = 256
_CONN_ID = re.compile(r"[\w.\-]{1,200}", re.ASCII)

Signer = tuple["RemoteBackend", str]

router = APIRouter()


class Signers:
    """Backends and secrets of connections, for a while; those that do not exist as well."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, tuple[float, Signer | None]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, conn_id: str) -> Signer | None:
        """Return who may speak for a connection, ``None`` if nobody."""
        now = time.monotonic()
        with self._lock:
            found = self._known.get(conn_id)
            if found is not None and now < found[0] + REMEMBER_SECONDS:
                return found[1]
            signer = self._read(conn_id)
            self._known[conn_id] = (now, signer)
            self._known.move_to_end(conn_id)
            while len(self._known) > MAX_REMEMBERED:
                self._known.popitem(last=False)
            return signer

    def _read(self, conn_id: str) -> Signer | None:
        # Secrets backends are slow and anybody may send requests: only what some DAG waits for is looked up.
        with create_session() as session:
            if session.scalar(_asset(conn_id)) is None:
                log.info("A webhook came for the connection %s, which no DAG waits for", conn_id)
                return None
        try:
            connection: Any = Connection.get_connection_from_secrets(conn_id)
            secret = webhook_secret(connection)
            return (remote_backend(connection), secret) if secret else None
        except (AirflowException, InvalidError):
            return None
        except Exception:
            log.exception("The backend of the connection %s cannot be made", conn_id)
            return None


_SIGNERS = Signers()


@router.post("/sync/webhook/{conn_id}")
async def sync_webhook(request: Request, conn_id: str) -> JSONResponse:
    """Take a vendor's webhook."""
    body = await _read(request)
    if body is None:
        return _answer(413, "too large")
    headers = {name.lower(): value for name, value in request.headers.items()}
    status, told = await asyncio.to_thread(_take, conn_id, headers, body)
    return _answer(status, told)


async def _read(request: Request) -> bytes | None:
    size = 0
    chunks = []
    async for chunk in request.stream():
        size += len(chunk)
        if size > MAX_BODY:
            return None
        chunks.append(chunk)
    return b"".join(chunks)


def _take(conn_id: str, headers: Mapping[str, str], body: bytes) -> tuple[int, str]:
    signer = _SIGNERS.get(conn_id) if _CONN_ID.fullmatch(conn_id) else None
    if signer is None:
        return 401, "refused"
    backend, secret = signer
    try:
        event = backend.parse_webhook(headers, body, secret=secret, now=time.time())
    except InvalidError as error:
        log.warning("A webhook for the connection %s was refused: %s", conn_id, error)
        return 401, "refused"
    if not event.ended:
        return 200, "nothing to note"
    return _note(conn_id, event)


def _note(conn_id: str, event: WebhookEvent) -> tuple[int, str]:
    with create_session() as session:
        # Two servers may hear of two syncs at once; the row of the asset lets one after the other write.
        row = session.scalar(_asset(conn_id).with_for_update())
        if row is None:
            return 404, "no DAG waits for syncs of this connection"
        return _write(session, int(row.id), webhook_key(conn_id), event)


def _asset(conn_id: str) -> Any:
    return select(AssetModel).where(AssetModel.name == state_asset(conn_id), AssetModel.active.has())


def _write(session: Any, asset_id: int, key: str, event: WebhookEvent) -> tuple[int, str]:
    backend, scope = get_state_backend(), AssetScope(asset_id=asset_id)
    stored = backend.get(scope, key, session=session)
    told = json.loads(stored) if stored else {}
    told = told if isinstance(told, dict) else {}
    before = told.get(event.sync)
    if isinstance(before, dict) and str(before.get("created")) >= event.created:
        return 200, "known"
    told[event.sync] = {"run_id": event.run_id, "created": event.created}
    newest = sorted(told.items(), key=lambda item: str(item[1].get("created")))[-MAX_SYNCS:]
    backend.set(scope, key, json.dumps(dict(newest)), session=session)
    return 200, "noted"


def _answer(status: int, told: str) -> JSONResponse:
    return JSONResponse({"status": told}, status_code=status)
