"""Fivetran behind the sync protocol, by its REST API v1.

Only ``/v1/connections`` is used: ``/v1/connectors`` and ``/force`` are retired.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

from airflow_ext.exceptions import AirflowExtError, InvalidSyncError, SyncUnavailableError
from airflow_ext.sync import fivetran_state as state
from airflow_ext.sync.backend import Keep, RunHandle, SyncRequest, WebhookEvent
from airflow_ext.sync.fivetran_tables import data_of, read_tables
from airflow_ext.sync.http import VendorHttp
from airflow_ext.sync.many import ask_each
from airflow_ext.sync.model import (
    Capabilities,
    RunStatus,
    SyncRef,
    SyncResult,
    SyncStatus,
    TableRef,
    TableResult,
)
from airflow_ext.sync.moments import moment
from airflow_ext.sync.shapes import objects_of

BASE_URL = "https://api.fivetran.com"
PAGE = 1000
MAX_PAGES = 50
CANCEL_STEP = 1.0
"""Seconds between two looks whether a connection has come to rest."""

PAUSE_TIMEOUT = 65.0
"""Pausing works for up to 60 s where a sync runs."""

BEGIN_SECONDS = 60.0
"""So long a re-sync that was asked for may not show; how long it takes is not documented."""

BEGIN_STEP = 3.0
TOO_MANY = "TooManyRequests"

PAUSED_STEP = 2.0
"""Seconds between two looks whether a connection that is paused goes on."""


class FivetranBackend:
    """Runs syncs of one Fivetran account.

    :param api_key: Key.
    :param api_secret: Its secret.
    :param base_url: The API; as :func:`~airflow_ext.sync.http.check_base_url` returned it.
    :param tries: Tries of a request that may be repeated.
    :param sleep: Waits between two looks or tries.
    """

    name = "fivetran"
    capabilities = Capabilities(
        remote=True,
        cancel=True,
        resync=True,
        resync_tables=True,
        tables=True,
        columns=True,
        history=True,
        list_status=True,
        webhook=True,
    )

    def __init__(
        self,
        api_key: str,
        api_secret: str,
        *,
        base_url: str = BASE_URL,
        tries: int = 4,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        token = base64.b64encode(f"{api_key}:{api_secret}".encode()).decode()

        async def authorise() -> Mapping[str, str]:
            return {"Authorization": f"Basic {token}"}

        self.http = VendorHttp(
            base_url,
            service="Fivetran",
            authorise=authorise,
            explain=_explain,
            secrets=tuple(filter(None, (api_secret, token))),
            accept="application/json;version=2",
            tries=tries,
            sleep=sleep,
        )
        self._sleep = sleep

    async def aclose(self) -> None:
        """Close the connections of the running event loop."""
        await self.http.aclose()

    async def check(self) -> str:
        """Ask for the account's name, which every kind of key may do."""
        data = data_of(await self.http.call("GET", "/v1/account/info"))
        return f"Fivetran account {data.get('account_name') or data.get('account_id') or '(no name)'}"

    async def describe(self, sync: str) -> SyncRef:
        """Return a connection by id, else by its name (which is its destination schema)."""
        return state.ref_of(await self._find(sync))

    async def _find(self, sync: str) -> Mapping[str, Any]:
        try:
            return await self._get(sync)
        except InvalidSyncError as error:
            if error.status != 404:
                raise
        # 'schema' may be a filter this account's API ignores, so names are compared again.
        found: list[Mapping[str, Any]] = [
            each async for each in self._list(schema=sync) if each.get("schema") == sync
        ]
        if len(found) == 1:
            return found[0]
        if found:
            ids = ", ".join(sorted(str(each.get("id")) for each in found))
            raise InvalidSyncError(
                f"sync={sync!r} is the name of several Fivetran connections: {ids}; give the id"
            )
        raise InvalidSyncError(
            f"sync={sync!r}: {self.http.place} has no connection with this id or name, or the key may not see it; it may "
            "have been deleted",
            status=404,
            code="NotFound_Connector",
        )

    async def _get(self, sync: str) -> Mapping[str, Any]:
        found = data_of(await self.http.call("GET", _path(sync)))
        if not found.get("id") or not isinstance(found.get("status"), Mapping):
            raise SyncUnavailableError("Fivetran answered a connection without a status", service="Fivetran")
        return found

    async def _list(self, **params: str) -> AsyncIterator[Mapping[str, Any]]:
        cursor: str | None = None
        for _ in range(MAX_PAGES):
            query = {**params, "limit": PAGE, **({"cursor": cursor} if cursor else {})}
            data = data_of(await self.http.call("GET", "/v1/connections", params=query))
            for each in objects_of(data.get("items"), service="Fivetran"):
                yield each
            cursor = data.get("next_cursor") or data.get("nextCursor")
            if not cursor:
                return

    # --------------------------------------------------------------------------------------------- start

    async def start(self, request: SyncRequest, *, keep: Keep | None = None) -> RunHandle:
        """Start a sync, or adopt the one that runs.

        :raises InvalidSyncError: If the connection is paused, broken or unknown, or runs and
            ``on_running="fail"``.
        """
        connection = await self._find(request.sync)
        ref = state.ref_of(connection)
        left = request.patience
        while left > 0 and state.state_of(connection) == "paused":
            await self._sleep(min(PAUSED_STEP, left))
            left -= PAUSED_STEP
            connection = await self._get(ref.id)
        state.check_ready(connection, ref)
        handle = state.handle_of(connection, ref, resync=request.resync)
        if state.state_of(connection) in ("syncing", "rescheduled"):
            if request.on_running == "fail":
                raise InvalidSyncError(
                    f"sync={request.sync!r} runs already and on_running='fail'", link=ref.link, code="running"
                )
            if request.on_running == "adopt" and not request.resync:
                return {**handle, "requested": True, "adopted": True}
            # What runs now is waited for; whoever waits then starts again.
            return {**handle, "behind": True}
        if keep is not None:
            await keep(handle)
        try:
            await self._request(handle, request.scope)
        except SyncUnavailableError as error:
            if keep is not None and error.code == TOO_MANY:
                await keep({**handle, "refused": True})
            raise
        return {**handle, "requested": True}

    async def _request(self, handle: RunHandle, scope: Mapping[str, Any] | None) -> None:
        """Ask for a run; an answer that got lost is looked for before asking again."""
        path = _path(handle["sync"])
        for number in range(self.http.tries):
            try:
                if handle.get("resync"):
                    body = {"scope": _plain(scope)} if scope else None
                    await self.http.call("POST", f"{path}/resync", body=body)
                else:
                    await self.http.call("POST", f"{path}/sync", body={"force": False})
            except SyncUnavailableError as error:
                # With too many requests none was taken, and it is the caller who can wait as long as is asked.
                if error.code == TOO_MANY:
                    raise
                if await self._began(handle):
                    return
                if number + 1 >= self.http.tries:
                    raise
                await self._sleep(min(2.0, 0.25 * 2**number))
            except InvalidSyncError as error:
                # What is in the way may be what was asked for before.
                if error.status != 409 or not number or not await self._began(handle):
                    raise
                return
            else:
                return

    async def _began(self, handle: RunHandle) -> bool:
        """Tell whether a run has begun since; of a re-sync, which must not be asked for twice, look for a while."""
        left = BEGIN_SECONDS if handle.get("resync") else 0.0
        while True:
            status = state.judge(await self._get(handle["sync"]), handle).status
            if status is not SyncStatus.PENDING or left <= 0:
                return status not in (SyncStatus.PENDING, SyncStatus.CANCELLED)
            await self._sleep(BEGIN_STEP)
            left -= BEGIN_STEP

    async def resume(self, handle: RunHandle) -> RunHandle | None:
        """Return the handle of a run that an earlier process started.

        :raises InvalidSyncError: If the connection is gone.
        """
        status = state.judge(await self._get_known(handle), handle).status
        if status is SyncStatus.CANCELLED or handle.get("behind") or handle.get("refused"):
            return None
        if status is SyncStatus.PENDING and not (handle.get("resync") and await self._began(handle)):
            # The request was not sent, or is just being taken in, or ending the earlier try has stopped the run
            # without a trace: asking again is harmless.
            return None
        return {**handle, "requested": True, "resumed": True}

    async def next_run(self, sync: str, *, since: str) -> RunHandle:
        """Return a handle for the first run that ends after a moment, whoever starts it."""
        connection = await self._find(sync)
        handle = state.handle_of(connection, state.ref_of(connection))
        return {**handle, "succeeded_at": since, "failed_at": since, "next": True, "adopted": True}

    # ---------------------------------------------------------------------------------------------- wait

    async def poll(self, handle: RunHandle, *, wait: float = 0) -> RunStatus:  # noqa: ARG002  nothing holds back
        """Return where the run stands.

        :raises InvalidSyncError: If the connection was deleted.
        """
        return self._judge(await self._get_known(handle), handle)

    async def _get_known(self, handle: RunHandle) -> Mapping[str, Any]:
        try:
            return await self._get(handle["sync"])
        except InvalidSyncError as error:
            if error.status != 404:
                raise
            raise InvalidSyncError(
                f"the Fivetran connection {handle['sync']!r} was deleted while its sync was awaited",
                status=404,
                code=error.code,
                link=str(handle.get("link", "")),
            ) from error

    def _judge(self, connection: Mapping[str, Any], handle: RunHandle) -> RunStatus:
        status = state.judge(connection, handle)
        if handle.get("behind") and status.status is SyncStatus.PENDING:
            return RunStatus(status=SyncStatus.SUCCEEDED)
        return status

    async def status_many(
        self, handles: Mapping[str, RunHandle]
    ) -> Mapping[str, RunStatus | AirflowExtError]:
        """Return where many runs stand: one list request per 1,000 connections, one each where few are asked."""
        found: dict[str, RunStatus | AirflowExtError] = {}
        if len(handles) > 2:
            wanted: dict[str, list[str]] = {}
            for key, handle in handles.items():
                wanted.setdefault(str(handle["sync"]), []).append(key)
            async for connection in self._list():
                for key in wanted.pop(str(connection.get("id")), ()):
                    found[key] = self._judge(connection, handles[key])
                if not wanted:
                    break
        others = {key: handle for key, handle in handles.items() if key not in found}
        return found | await ask_each(self.poll, others, gone=(404,))

    async def go_on(self, handle: RunHandle) -> None:
        """Start a rescheduled sync of a connection without a schedule, which would rest for ever."""
        await self.http.call("POST", f"{_path(handle['sync'])}/sync", body={"force": False}, repeat=True)

    async def explain(self, handle: RunHandle, status: RunStatus) -> RunStatus:
        """Add id, start and reason from the sync history, where the account has one."""
        ended = moment(status.ended)
        entry = state.entry_of(await self._history(handle["sync"], ended), ended) if ended else None
        values = {**status.to_dict(), "status": status.status}
        if entry is not None:
            values["run_id"] = str(entry.get("sync_id") or "")
            values["started"] = entry.get("start")
            reason = str(entry.get("reason") or "")
            if status.status is SyncStatus.FAILED:
                values["reason"] = "; ".join(dict.fromkeys(filter(None, (reason, status.reason))))
                values["fixable"] = status.fixable or state.is_fix(entry)
        if status.status is SyncStatus.FAILED and not values["reason"]:
            values["reason"] = "Fivetran's sync history does not tell why; see the dashboard"
        return RunStatus(**values)

    async def _history(self, sync: str, ended: datetime) -> list[Any]:
        params: dict[str, Any] = {
            "start_time": _stamp(ended - timedelta(days=6, hours=23)),
            "end_time": _stamp(ended + timedelta(minutes=1)),
            "limit": PAGE,
        }
        found: list[Any] = []
        try:
            for _ in range(5):
                data = data_of(await self.http.call("GET", f"{_path(sync)}/sync-history", params=params))
                found += objects_of(data.get("items"), service="Fivetran")
                cursor = data.get("next_cursor") or data.get("nextCursor")
                if not cursor:
                    break
                params = {**params, "cursor": cursor}
        except InvalidSyncError as error:
            if error.status not in (400, 404, 405):
                raise
        return found

    # --------------------------------------------------------------------------------------------- after

    async def result(self, handle: RunHandle, status: RunStatus) -> SyncResult:
        """Return the result of a run that succeeded; Fivetran's API knows no rows."""
        told = status if status.run_id else await self.explain(handle, status)
        tables = await self.tables(handle)
        return SyncResult(
            backend=self.name,
            run_id=told.run_id or f"{handle['sync']}@{told.ended}",
            started=told.started,
            ended=told.ended,
            tables=tuple(TableResult(name=table.name) for table in tables),
            link=str(handle.get("link") or "") or None,
        )

    async def tables(self, handle: RunHandle, *, columns: bool = False) -> tuple[TableRef, ...]:
        """Return the tables that are switched on, as they are named in the destination.

        :param columns: With columns and keys: a request per table, which reads the source. Fivetran's API tells
            no types.
        """
        return await read_tables(self.http, _path(handle["sync"]), columns=columns)

    async def cancel(self, handle: RunHandle, *, patience: float = 3) -> None:
        """Stop the run: Fivetran knows no other way than to pause the connection and let it go on.

        A connection on Fivetran's own schedule starts again when it is due. Where ``patience`` does not last
        until the connection rests, it stays paused.
        """
        if handle.get("behind") or handle.get("next"):
            return
        async with asyncio.timeout(patience):
            status = state.judge(await self._get(handle["sync"]), handle).status
            asked = handle.get("requested") or status is not SyncStatus.PENDING
            if asked and status in (SyncStatus.PENDING, SyncStatus.RUNNING, SyncStatus.RESCHEDULED):
                await self._pause(handle["sync"])
                await self._change(handle["sync"], paused=False)

    async def _pause(self, sync: str) -> None:
        while True:
            try:
                await self._change(sync, paused=True)
            except SyncUnavailableError:
                # It may answer 500 although the pause has worked.
                await asyncio.sleep(CANCEL_STEP)
            if state.state_of(await self._get(sync)) == "paused":
                return
            await asyncio.sleep(CANCEL_STEP)

    async def _change(self, sync: str, *, paused: bool) -> None:
        # Without run_setup_tests=false Fivetran runs the setup tests, which takes minutes.
        body = {"paused": paused, "run_setup_tests": False}
        await self.http.call("PATCH", _path(sync), body=body, seconds=PAUSE_TIMEOUT)

    def parse_webhook(
        self, headers: Mapping[str, str], body: bytes, *, secret: str, now: float
    ) -> WebhookEvent:
        """Return what a webhook says, once it is certain who sent it."""
        return state.parse_webhook(headers, body, secret=secret, now=now)


def _path(sync: str) -> str:
    return f"/v1/connections/{quote(str(sync), safe='')}"


def _explain(body: Any) -> tuple[str, str]:
    if not isinstance(body, Mapping):
        return "", ""
    return str(body.get("code") or ""), str(body.get("message") or "")


def _plain(scope: Mapping[str, Any] | None) -> dict[str, list[str]] | None:
    return None if scope is None else {schema: list(tables) for schema, tables in scope.items()}


def _stamp(when: datetime) -> str:
    return when.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
