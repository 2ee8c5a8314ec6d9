"""Airbyte behind the sync protocol, by its public API v1."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

from airflow_ext.exceptions import (
    AirflowExtError,
    InvalidError,
    InvalidSyncError,
    SyncDeniedError,
    SyncUnavailableError,
)
from airflow_ext.sync.airbyte_lists import PAGE, jobs_listed, pages
from airflow_ext.sync.airbyte_login import AirbyteLogin, explain
from airflow_ext.sync.airbyte_state import check_active, judge, number_of, running_of, table_of
from airflow_ext.sync.backend import Keep, RunHandle, SyncRequest, WebhookEvent, names_of
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
from airflow_ext.sync.shapes import object_of, objects_of

BASE_URL = "https://api.airbyte.com/v1"
CLOUD = "https://cloud.airbyte.com"
MAX_PAGES = 20
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


class AirbyteBackend:
    """Runs syncs of one Airbyte installation or account.

    :param base_url: The public API; as :func:`~airflow_ext.sync.http.check_base_url` returned it.
    :param client_id: Id of an application, or the user with ``basic``; empty for an installation without login.
    :param client_secret: Its secret.
    :param basic: Log in with user and password instead, as old installations do.
    :param token_url: Where tokens are given; empty takes ``<base_url>/applications/token``.
    :param tries: Tries of a request that may be repeated.
    :param clock: Seconds that pass; tokens are kept by it.
    """

    name = "airbyte"
    capabilities = Capabilities(
        remote=True,
        cancel=True,
        resync=True,
        tables=True,
        columns=True,
        history=True,
        list_status=True,
    )

    def __init__(
        self,
        base_url: str = BASE_URL,
        *,
        client_id: str = "",
        client_secret: str = "",
        basic: bool = False,
        token_url: str = "",
        tries: int = 4,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._login = login = AirbyteLogin(
            base_url,
            client_id=client_id,
            client_secret=client_secret,
            basic=basic,
            token_url=token_url,
            tries=tries,
            clock=clock,
        )
        self._link = CLOUD if base_url == BASE_URL else re.sub(r"/api(/public)?/v\d+$", "", base_url)
        self.http = VendorHttp(
            base_url,
            service="Airbyte",
            authorise=login.headers,
            explain=explain,
            secrets=login.secrets,
            tries=tries,
            forget=login.forget if login.renewable else None,
        )

    async def aclose(self) -> None:
        """Close the connections of the running event loop."""
        await self.http.aclose()
        await self._login.aclose()

    # ---------------------------------------------------------------------------------------- connections

    async def check(self) -> str:
        """Log in and ask for one connection."""
        found = await self._pages("/connections", {"limit": 1}, most=1)
        return f"Airbyte answers, {'connections are there' if found else 'it has no connection yet'}"

    async def describe(self, sync: str) -> SyncRef:
        """Return a connection by UUID or by its name."""
        return self._ref(await self._find(sync))

    async def _find(self, sync: str) -> Mapping[str, Any]:
        if _UUID.fullmatch(sync):
            return await self._get(sync)
        found = [each for each in await self._pages("/connections", {}) if each.get("name") == sync]
        if len(found) == 1:
            return found[0]
        if found:
            ids = ", ".join(sorted(str(each.get("connectionId")) for each in found))
            raise InvalidSyncError(
                f"sync={sync!r} is the name of several Airbyte connections: {ids}; give the id"
            )
        raise InvalidSyncError(
            f"sync={sync!r}: Airbyte has no connection of this name", code="resource-not-found"
        )

    async def _get(self, sync: str) -> Mapping[str, Any]:
        try:
            return _mapping(await self.http.call("GET", f"/connections/{quote(sync, safe='')}"))
        except InvalidSyncError as error:
            if error.status not in (400, 404, 422):
                raise
            raise InvalidSyncError(
                f"sync={sync!r}: Airbyte has no connection with this id, or it was deleted: {error}",
                status=error.status,
                code=error.code,
            ) from error

    async def _pages(
        self, path: str, params: Mapping[str, Any], *, most: int = MAX_PAGES
    ) -> list[Mapping[str, Any]]:
        return await pages(self.http, path, params, most=most)

    def _ref(self, connection: Mapping[str, Any]) -> SyncRef:
        sync = str(connection.get("connectionId") or "")
        kind = _mapping(connection.get("schedule") or {}).get("scheduleType")
        return SyncRef(
            id=sync,
            name=str(connection.get("name") or sync),
            schedule="manual" if kind in (None, "manual") else "auto",
            link=f"{self._link}/workspaces/{connection.get('workspaceId')}/connections/{sync}/timeline",
            details={"workspace": str(connection.get("workspaceId") or "")},
        )

    # --------------------------------------------------------------------------------------------- start

    async def start(self, request: SyncRequest, *, keep: Keep | None = None) -> RunHandle:
        """Start a job, or adopt the one that runs.

        :raises InvalidSyncError: If the connection is inactive or unknown, or runs and ``on_running="fail"``.
        """
        if request.scope:
            raise InvalidSyncError(
                f"scope={names_of(request.scope)!r}: Airbyte's public API cannot load single streams anew; leave the scope out or use the dashboard"
            )
        connection = await self._find(request.sync)
        ref = self._ref(connection)
        check_active(connection, ref)
        newest = await self._newest(ref.id)
        handle = {
            "backend": self.name,
            "sync": ref.id,
            "name": ref.name,
            "link": ref.link,
            "workspace": ref.details["workspace"],
            "kind": "refresh" if request.resync else "sync",
            "after": number_of(newest),
        }
        running = running_of(handle, newest, request)
        if running is not None:
            return running
        if keep is not None:
            await keep(handle)
        return await self._request(handle, request)

    async def _request(self, handle: Mapping[str, Any], request: SyncRequest) -> RunHandle:
        body = {"connectionId": handle["sync"], "jobType": handle["kind"]}
        for number in range(self.http.tries):
            try:
                job = _mapping(await self.http.call("POST", "/jobs", body=body))
                if not number_of(job):
                    raise SyncUnavailableError("Airbyte answered a job without an id", service="Airbyte")
            except SyncUnavailableError as error:
                if error.retry_after:
                    raise  # it is the caller who can wait as long as is asked
                # The answer is lost, the job perhaps not: nothing may be started twice.
                mine = await self._since(handle)
                if mine is not None:
                    return mine
                if number + 1 >= self.http.tries:
                    raise
            except InvalidSyncError as error:
                if error.status != 409:
                    raise
                found = running_of(handle, await self._newest(str(handle["sync"])), request)
                if found is not None:
                    return found
                if number + 1 >= self.http.tries:
                    raise SyncUnavailableError(
                        f"Airbyte says that {handle['name']!r} runs already and shows no such job: {error}",
                        service="Airbyte",
                        code=error.code,
                        link=str(handle["link"]),
                    ) from error
            else:
                return {**handle, "job": number_of(job), "created": job.get("startTime")}
            await asyncio.sleep(min(2.0, 0.25 * 2**number))
        raise AssertionError("tries is at least 1")

    async def _newest(self, sync: str) -> Mapping[str, Any]:
        """Return the newest job of a connection, empty if it never had one."""
        params = {"connectionId": sync, "orderBy": "createdAt|DESC", "limit": 5}
        jobs = await self._pages("/jobs", params, most=1)
        return max(jobs, key=number_of, default={})

    async def _since(self, handle: RunHandle) -> RunHandle | None:
        """Return the first job of our kind after a draft was kept."""
        params = {"connectionId": handle["sync"], "orderBy": "createdAt|DESC", "limit": PAGE}
        jobs = [
            job
            for job in await self._pages("/jobs", params, most=1)
            if number_of(job) > handle["after"] and job.get("jobType") == handle["kind"]
        ]
        if not jobs:
            return None
        first = min(jobs, key=number_of)
        return {**handle, "job": number_of(first), "created": first.get("startTime")}

    async def resume(self, handle: RunHandle) -> RunHandle | None:
        """Return the handle of a job that an earlier process started.

        A draft without a job finds the one that was started after it, if there is one.
        """
        if handle.get("behind"):
            return None
        found: RunHandle | None = handle
        if not handle.get("job"):
            found = await self._since(handle)
        if found is None or (await self.poll(found)).status is SyncStatus.CANCELLED:
            return None
        return {**found, "resumed": True}

    async def next_run(self, sync: str, *, since: str) -> RunHandle:
        """Return a handle for the first sync job that ends after a moment, whoever starts it."""
        ref = await self.describe(sync)
        return {
            "backend": self.name,
            "sync": ref.id,
            "name": ref.name,
            "link": ref.link,
            "workspace": ref.details["workspace"],
            "next": since,
            "adopted": True,
        }

    # ---------------------------------------------------------------------------------------------- wait

    async def poll(self, handle: RunHandle, *, wait: float = 0) -> RunStatus:  # noqa: ARG002  nothing holds back
        """Return where the job stands."""
        if handle.get("next"):
            return await self._next(handle)
        return judge(await self._job(handle))

    async def _next(self, handle: RunHandle) -> RunStatus:
        connection = await self._get(str(handle["sync"]))
        if str(connection.get("status") or "active") != "active":
            told = f"nothing will run: the connection is {connection.get('status')}"
            return RunStatus(status=SyncStatus.FAILED, reason=told, fixable=True)
        params = {"connectionId": handle["sync"], "jobType": "sync", "orderBy": "createdAt|DESC", "limit": 20}
        since, first, going = moment(handle["next"]), None, False
        for job in sorted(await self._pages("/jobs", params, most=1), key=number_of, reverse=True):
            status, ended = judge(job), moment(job.get("lastUpdatedAt"))
            going = going or not status.status.ended
            if status.status.ended and ended is not None and (since is None or ended > since):
                first = status
        return first or RunStatus(status=SyncStatus.RUNNING if going else SyncStatus.PENDING)

    async def _job(self, handle: RunHandle) -> Mapping[str, Any]:
        try:
            job = _mapping(await self.http.call("GET", f"/jobs/{int(handle['job'])}"))
        except InvalidSyncError as error:
            raise InvalidSyncError(
                f"Airbyte no longer has job {handle['job']} of {handle['name']!r}; the connection may have been "
                f"deleted: {error}",
                status=error.status,
                code=error.code,
                link=str(handle.get("link", "")),
            ) from error
        if number_of(job) != int(handle["job"]):
            raise SyncUnavailableError("Airbyte answered with another job, or none", service="Airbyte")
        return job

    async def status_many(
        self, handles: Mapping[str, RunHandle]
    ) -> Mapping[str, RunStatus | AirflowExtError]:
        """Return where many jobs stand: by lists of 100 jobs where that takes fewer requests."""
        found: dict[str, RunStatus | AirflowExtError] = {}
        jobs = {key: handle for key, handle in handles.items() if handle.get("job")}
        if len(jobs) > 2:
            try:
                found |= await jobs_listed(self.http, jobs)
            except (SyncDeniedError, InvalidSyncError) as error:
                # Of several workspaces one may be out of the key's sight.
                if error.status == 401 or len({handle["workspace"] for handle in jobs.values()}) < 2:
                    raise
        others = {key: handle for key, handle in handles.items() if key not in found}
        return found | await ask_each(self.poll, others, gone=(400, 404, 422))

    async def go_on(self, handle: RunHandle) -> None:
        """Do nothing: Airbyte goes on by itself."""

    async def explain(self, handle: RunHandle, status: RunStatus) -> RunStatus:
        """Return the status with the reason as far as the public API knows it."""
        values = {**status.to_dict(), "status": status.status}
        if status.status is SyncStatus.FAILED and not status.reason:
            connection = await self._get(str(handle["sync"]))
            values["reason"] = str(
                connection.get("statusReason")
                or f"job {status.run_id} failed; Airbyte's public API does not tell why, its timeline does"
            )
            if str(connection.get("status") or "active") != "active":
                values["fixable"] = True
        return RunStatus(**values)

    # --------------------------------------------------------------------------------------------- after

    async def result(self, handle: RunHandle, status: RunStatus) -> SyncResult:
        """Return the result of a job that succeeded, with rows in all; per stream the API knows none."""
        job = await self._job(handle)
        rows = job.get("rowsSynced")
        tables = await self.tables(handle)
        return SyncResult(
            backend=self.name,
            run_id=str(handle["job"]),
            started=status.started,
            ended=status.ended,
            tables=tuple(TableResult(name=table.name) for table in tables),
            rows=rows if isinstance(rows, int) else None,
            link=str(handle.get("link") or "") or None,
        )

    async def tables(self, handle: RunHandle, *, columns: bool = False) -> tuple[TableRef, ...]:
        """Return the streams as the tables they become: prefix and name in the connection's namespace.

        :param columns: With columns and keys, by one more request. Airbyte's API tells no types.
        """
        connection = await self._get(str(handle["sync"]))
        configurations = _mapping(connection.get("configurations") or {})
        streams = objects_of(configurations.get("streams"), service="Airbyte")
        known = await self._fields(connection) if columns else {}
        return tuple(table_of(connection, stream, known.get(str(stream.get("name")))) for stream in streams)

    async def _fields(self, connection: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
        params = {"sourceId": connection.get("sourceId"), "destinationId": connection.get("destinationId")}
        answer = await self.http.call("GET", "/streams", params=params)
        items = answer.get("data") if isinstance(answer, Mapping) else answer
        return {str(each.get("streamName")): each for each in objects_of(items, service="Airbyte")}

    async def cancel(self, handle: RunHandle, *, patience: float = 3) -> None:
        """Cancel the job; one that has ended is left alone."""
        if handle.get("behind") or handle.get("next"):
            return
        async with asyncio.timeout(patience):
            found = handle if handle.get("job") else await self._since(handle)
            if found is None:
                return
            try:
                await self.http.call("DELETE", f"/jobs/{int(found['job'])}", repeat=True)
            except (InvalidSyncError, SyncUnavailableError):
                # It may answer late or refuse although the job has ended.
                if not (await self.poll(found)).status.ended:
                    raise

    def parse_webhook(
        self, headers: Mapping[str, str], body: bytes, *, secret: str, now: float
    ) -> WebhookEvent:
        """Refuse: Airbyte does not sign its notifications, so nobody knows who sent one.

        :raises InvalidError: Always.
        """
        del headers, body, secret, now
        raise InvalidError("Airbyte does not sign its notifications; its jobs are polled")


def _mapping(value: Any) -> Mapping[str, Any]:
    return object_of(value, service="Airbyte")
