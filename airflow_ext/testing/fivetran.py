"""A small Fivetran-compatible server on the loopback, for tests, demos and trying DAGs without an account.

It is not Fivetran: nothing is moved, everything lives in memory, and syncs pass as scripts say. It answers the
documented REST API v1 as far as syncs need it; where the documentation is silent it takes the choice that is
harder for a client. ``airflow-ext sync serve-fake fivetran`` runs it as a process of its own.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import httpx

from airflow_ext.testing._fivetran_model import FivetranConnection, Sync, SyncScript, Tables, stamp
from airflow_ext.testing._vendor_server import LocalVendor, Reply, Request, WireError

__all__ = ["LocalFivetran", "SyncScript", "Tables"]

WEBHOOK_TICK = 0.1
"""Real seconds between two looks for syncs whose end is to be told."""

_CODES = {
    400: "BadRequest",
    401: "AuthFailed",
    403: "Forbidden",
    404: "NotFound",
    405: "MethodNotAllowed",
    409: "Conflict",
    429: "TooManyRequests",
}
_MESSAGES = {
    401: "Invalid authorization credentials",
    429: "Max 20000 api calls allowed in one-hour rolling time period",
}


class LocalFivetran(LocalVendor):
    """A Fivetran-compatible server with its own key; a context manager.

    :param port: TCP port on the loopback; 0 takes a free one.
    :param clock: Returns seconds since 1970; syncs pass by it.
    :param api_key: The key; a random one by default.
    :param api_secret: Its secret; a random one by default.
    :param legacy: Also answer under the retired names (``/v1/connectors``, ``/force``), which old clients use.
    :param history: Answer ``sync-history``; without it clients have only two timestamps.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        clock: Callable[[], float] = time.time,
        api_key: str | None = None,
        api_secret: str | None = None,
        legacy: bool = False,
        history: bool = True,
    ) -> None:
        super().__init__(port=port, clock=clock)
        self.api_key = api_key or secrets.token_hex(8)
        self.api_secret = api_secret or secrets.token_hex(16)
        self.legacy = legacy
        self.history = history
        self.pause_seconds = 0.0
        """Real seconds that pausing a running sync takes."""
        self.pause_answers_500 = False
        """Pausing a running sync works but is answered with status 500, as the service has been seen to do."""
        self.connections: dict[str, FivetranConnection] = {}
        self._webhooks: dict[str, dict[str, Any]] = {}
        self._told: set[str] = set()
        self._teller: threading.Thread | None = None

    # ------------------------------------------------------------------------------ what it should hold

    def connection(
        self,
        connection_id: str,
        *scripts: SyncScript,
        schema: str | None = None,
        group_id: str = "local_group",
        schedule_type: str = "manual",
        sync_frequency: int = 360,
        paused: bool = False,
        tables: Tables | Sequence[str] | None = ("public.orders", "public.customers"),
    ) -> FivetranConnection:
        """Add a connection and return it; its attributes may be changed at any time.

        :param scripts: How its syncs pass, the last one again and again; none is one second each.
        :param schema: Its name and destination schema; ``None`` is the id.
        :param tables: What the source holds, with columns or only as ``schema.table``; ``None`` has never
            been loaded.
        """
        made = FivetranConnection(
            id=connection_id,
            schema=schema or connection_id,
            group_id=group_id,
            schedule_type=schedule_type,
            sync_frequency=sync_frequency,
            scripts=deque(scripts or [SyncScript()]),
            tables=_tables(tables),
            created=self.now(),
            paused=paused,
        )
        with self.lock:
            self.connections[connection_id] = made
        return made

    def webhook(self, url: str, *, secret: str, group_id: str | None = None) -> str:
        """Tell the end of every sync to a URL from now on, and return the webhook's id.

        Unlike Fivetran this takes ``http`` too.
        """
        with self.lock:
            webhook_id = secrets.token_hex(6)
            self._webhooks[webhook_id] = {"url": url, "secret": secret, "group_id": group_id}
            self._told = {sync.sync_id for each in self.connections.values() for sync in each.ended}
        if self._teller is None:
            self._teller = threading.Thread(target=self._tell_ends, daemon=True)
            self._teller.start()
        return webhook_id

    def send_webhook(
        self, url: str, payload: Mapping[str, Any], *, secret: str, upper: bool = False
    ) -> httpx.Response:
        """Send one signed webhook.

        :param upper: Write the signature in upper case; both have been seen.
        """
        body = json.dumps(dict(payload)).encode()
        signature = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
        headers = {
            "Content-Type": "application/json",
            "X-Fivetran-Signature-256": signature.upper() if upper else signature,
        }
        return httpx.post(url, content=body, headers=headers, timeout=10)

    def payload(self, connection_id: str, sync: Sync, event: str = "sync_end") -> dict[str, Any]:
        """Return what a webhook says about a sync."""
        connection = self.connections[connection_id]
        words = {"COMPLETED": "SUCCESSFUL", "FAILURE": "FAILED"}
        data: dict[str, Any] = {"status": words.get(sync.status, sync.status)}
        if sync.reason:
            data["reason"] = sync.reason
        return {
            "event": event,
            "created": stamp(sync.end or self.now()),
            "connector_type": connection.service,
            "connector_id": connection_id,
            "connector_name": connection.schema,
            "sync_id": sync.sync_id,
            "destination_group_id": connection.group_id,
            "data": data,
        }

    def _tell_ends(self) -> None:
        while not self.stopping.wait(WEBHOOK_TICK):
            due = []
            with self.lock:
                for each in list(self.connections.values()):
                    each.settle(self.now())
                    due += [(each, sync) for sync in each.ended if sync.sync_id not in self._told]
                self._told |= {sync.sync_id for _, sync in due}
                hooks = list(self._webhooks.values())
            for each, sync in due:
                for hook in hooks:
                    if hook["group_id"] in (None, each.group_id):
                        self._deliver(hook, self.payload(each.id, sync))

    def _deliver(self, hook: Mapping[str, Any], payload: dict[str, Any]) -> None:
        try:
            self.send_webhook(hook["url"], payload, secret=hook["secret"])
        except httpx.HTTPError:
            return  # like the service, it is nobody's task to hear of it

    # ------------------------------------------------------------------------------------------- answers

    def error(self, status: int, *, code: str = "") -> Any:
        """Return an error envelope."""
        return {
            "code": code or _CODES.get(status, "InternalServerError"),
            "message": _MESSAGES.get(status, f"Request failed with status {status}"),
        }

    def answer(self, request: Request) -> Reply:
        """Answer one request."""
        self._check_headers(request)
        path = request.path.removeprefix("/v1").strip("/")
        parts = path.split("/")
        if self.legacy:
            parts = ["connections" if part == "connectors" else part for part in parts]
        match request.method, parts:
            case "GET", ["account", "info"]:
                return _ok({"account_id": "local", "account_name": "Local", "user_id": "local_user"})
            case "GET", ["groups"]:
                return self._page(request, [self._group(name) for name in self._groups()])
            case "GET", ["groups", group] if group in self._groups():
                return _ok(self._group(group))
            case "GET", ["groups", group, "connections"]:
                return self._list(request, group)
            case "GET", ["destinations", group] if group in self._groups():
                return _ok(
                    {"id": group, "service": "postgres_warehouse", "region": "LOCAL", "group_id": group}
                )
            case "GET", ["connections"]:
                return self._list(request, request.query.get("group_id"))
            case _, ["connections", connection_id, *rest]:
                return self._connection(request, self._find(connection_id), rest)
            case _, ["webhooks", *rest]:
                return self._webhook(request, rest)
        raise WireError(404, {"code": "NotFound", "message": "Not Found"})

    def _check_headers(self, request: Request) -> None:
        accept = request.headers.get("accept", "")
        if "application/json" not in accept and "*/*" not in accept:
            raise WireError(406, {"code": "NotAcceptable", "message": f"Accept: {accept}"})
        if request.body is not None and not request.headers.get("content-type", "").startswith(
            "application/json"
        ):
            raise WireError(415, {"code": "UnsupportedMediaType", "message": "Content-Type"})
        kind, _, value = request.headers.get("authorization", "").partition(" ")
        try:
            given = base64.b64decode(value, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            given = ""
        if kind.lower() != "basic" or not hmac.compare_digest(
            given.encode(), f"{self.api_key}:{self.api_secret}".encode()
        ):
            raise WireError(401, self.error(401))

    def _groups(self) -> list[str]:
        return sorted({each.group_id for each in self.connections.values()})

    def _group(self, name: str) -> dict[str, Any]:
        return {"id": name, "name": name, "created_at": stamp(0)}

    def _find(self, connection_id: str) -> FivetranConnection:
        found = self.connections.get(connection_id)
        if found is not None:
            found.settle(self.now())
        if found is None or found.deleted:
            message = f"Connector with id '{connection_id}' does not exist."
            raise WireError(404, {"code": "NotFound_Connector", "message": message})
        return found

    def _list(self, request: Request, group: str | None) -> Reply:
        now = self.now()
        for each in self.connections.values():
            each.settle(now)
        schema = request.query.get("schema")
        fits = [
            each
            for each in self.connections.values()
            if not each.deleted and group in (None, each.group_id) and schema in (None, each.schema)
        ]
        return self._page(request, fits, lambda each: each.to_dict(now))

    def _page(
        self, request: Request, items: Sequence[Any], show: Callable[[Any], Any] = lambda item: item
    ) -> Reply:
        try:
            limit, start = int(request.query.get("limit", 100)), int(request.query.get("cursor") or 0)
        except ValueError:
            limit = start = -1
        if not 1 <= limit <= 1000 or start < 0:
            raise WireError(400, {"code": "BadRequest", "message": "limit must be 1 to 1000"})
        data: dict[str, Any] = {"items": [show(item) for item in items[start : start + limit]]}
        if start + limit < len(items):
            data["next_cursor"] = str(start + limit)
        return _ok(data)

    def _connection(self, request: Request, connection: FivetranConnection, rest: list[str]) -> Reply:
        now, body = self.now(), request.body
        match request.method, rest:
            case "GET", []:
                return _ok(connection.to_dict(now))
            case "PATCH", []:
                return self._change(connection, body)
            case "DELETE", []:
                connection.deleted = True
                return _done("Connector has been deleted")
            case "POST", ["test"]:
                if body is None:
                    raise WireError(400, self.error(400))
                return _ok(connection.to_dict(now))
            case "POST", ["sync"]:
                connection.trigger(now, force=bool(_mapping(body).get("force", False)))
                return _done(f"Sync has been successfully triggered for connection with id '{connection.id}'")
            case "POST", ["force"] if self.legacy:
                connection.trigger(now, force=True)
                return _done("Sync has been successfully triggered")
            case "POST", ["resync"]:
                connection.resync(now, _mapping(body).get("scope"))
                return _done("Re-sync has been triggered successfully")
            case "POST", ["schemas", "tables", "resync"]:
                connection.resync(now, _mapping(body))
                return _done("Re-sync has been triggered successfully")
            case "GET", ["sync-history"] if self.history:
                return self._history(request, connection)
            case ("GET", ["schemas"]) | ("POST", ["schemas", "reload"]):
                return _ok(connection.schemas())
            case "GET", ["schemas", schema, "tables", table, "columns"]:
                return _ok(connection.columns(schema, table))
        raise WireError(404, {"code": "NotFound", "message": "Not Found"})

    def _change(self, connection: FivetranConnection, body: Any) -> Reply:
        changes = _mapping(body)
        if not set(changes) - {"run_setup_tests"}:
            raise WireError(400, {"code": "BadRequest", "message": "Nothing to change"})
        for name in ("schedule_type", "sync_frequency"):
            if name in changes:
                setattr(connection, name, changes[name])
        if "paused" in changes:
            running = connection.current is not None
            connection.pause(self.now(), paused=bool(changes["paused"]))
            if running and changes["paused"]:
                if self.pause_answers_500:
                    return Reply(500, self.error(500), delay=self.pause_seconds)
                return _ok(connection.to_dict(self.now()), delay=self.pause_seconds)
        return _ok(connection.to_dict(self.now()))

    def _history(self, request: Request, connection: FivetranConnection) -> Reply:
        now, query = self.now(), request.query
        try:
            start, end = (
                datetime.fromisoformat(query[name].replace("Z", "+00:00")) if name in query else None
                for name in ("start_time", "end_time")
            )
        except ValueError:
            raise WireError(400, self.error(400)) from None
        if start is None:
            end = end or datetime.fromisoformat(stamp(now).replace("Z", "+00:00"))
            start = end - timedelta(hours=1)
        end = end or start + timedelta(hours=1)
        if not timedelta(0) < end - start <= timedelta(days=7):
            raise WireError(400, {"code": "BadRequest", "message": "The window is at most 7 days"})
        fits = [
            sync
            for sync in reversed(connection.history)
            if start.timestamp() <= sync.begins <= end.timestamp() and sync.begins <= now
        ]
        return self._page(request, fits, lambda sync: sync.record(now))

    def _webhook(self, request: Request, rest: list[str]) -> Reply:
        match request.method, rest:
            case "POST", ["account"] | ["group", _]:
                body = _mapping(request.body)
                if not str(body.get("url", "")).startswith("https://"):
                    raise WireError(400, {"code": "BadRequest", "message": "The URL must be https"})
                group = rest[1] if len(rest) > 1 else None
                made = self.webhook(str(body["url"]), secret=str(body.get("secret", "")), group_id=group)
                return _ok(self._shown(made))
            case "GET", []:
                return self._page(request, list(self._webhooks), self._shown)
            case "GET", [webhook_id] if webhook_id in self._webhooks:
                return _ok(self._shown(webhook_id))
            case "DELETE", [webhook_id] if webhook_id in self._webhooks:
                del self._webhooks[webhook_id]
                return _done("Webhook has been deleted")
        raise WireError(404, {"code": "NotFound", "message": "Not Found"})

    def _shown(self, webhook_id: str) -> dict[str, Any]:
        hook = self._webhooks[webhook_id]
        kind = "account" if hook["group_id"] is None else "group"
        return {"id": webhook_id, "type": kind, "url": hook["url"], "active": True, "secret": "******"}


def _tables(given: Tables | Sequence[str] | None) -> Tables | None:
    if given is None or isinstance(given, Mapping):
        return given
    made: dict[str, dict[str, dict[str, Any]]] = {}
    for name in given:
        schema, _, table = name.partition(".")
        made.setdefault(schema, {})[table] = {"id": {"is_primary_key": True}, "name": {}}
    return made


def _mapping(body: Any) -> Mapping[str, Any]:
    if body is None:
        return {}
    if not isinstance(body, Mapping):
        raise WireError(400, {"code": "BadRequest", "message": "The body is no JSON object"})
    return body


def _ok(data: Any, *, delay: float = 0.0) -> Reply:
    return Reply(200, {"code": "Success", "message": "Operation performed.", "data": data}, delay=delay)


def _done(message: str) -> Reply:
    return Reply(200, {"code": "Success", "message": message})
