"""Hightouch behind the sync protocol, by its REST API v1: reverse ETL, from a model in the warehouse into a tool.

Facts are those of Hightouch's OpenAPI document: https://hightouch.com/docs/developer-tools/api-guide. A run that is
asked for while another goes on is queued behind it, nothing asks twice by itself, and no request stops a run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

from airflow_ext.exceptions import AirflowExtError, InvalidError, InvalidSyncError, SyncUnavailableError
from airflow_ext.sync.backend import Keep, RunHandle, SyncRequest, WebhookEvent, names_of
from airflow_ext.sync.hightouch_state import judge, number_of, table_of, table_result
from airflow_ext.sync.http import VendorHttp
from airflow_ext.sync.many import ask_each
from airflow_ext.sync.model import Capabilities, RunStatus, SyncRef, SyncResult, SyncStatus, TableRef
from airflow_ext.sync.moments import moment
from airflow_ext.sync.shapes import object_of, objects_of

BASE_URL = "https://api.hightouch.com/api/v1"
DASHBOARD = "https://app.hightouch.com"
PAGE = 100
MAX_PAGES = 5
RECENT_MINUTES = 1440
"""Runs of so long ago are looked through for one that goes on; the order of the list is not documented."""


class HightouchBackend:
    """Runs syncs of one Hightouch workspace.

    :param api_key: An API key of the workspace.
    :param base_url: The API; as :func:`~airflow_ext.sync.http.check_base_url` returned it.
    :param workspace: The workspace's slug, as in the addresses of its pages; links lead to a sync's page only with it.
    :param tries: Tries of a request that may be repeated.
    """

    name = "hightouch"
    capabilities = Capabilities(
        remote=True, resync=True, tables=True, columns=True, history=True, row_counts=True, failed_rows=True
    )

    def __init__(
        self, api_key: str, *, base_url: str = BASE_URL, workspace: str = "", tries: int = 4
    ) -> None:
        async def authorise() -> Mapping[str, str]:
            return {"Authorization": f"Bearer {api_key}"}

        self._workspace = workspace
        self.http = VendorHttp(
            base_url,
            service="Hightouch",
            authorise=authorise,
            explain=_explain,
            secrets=tuple(filter(None, (api_key,))),
            tries=tries,
        )

    async def aclose(self) -> None:
        """Close the connections of the running event loop."""
        await self.http.aclose()

    async def check(self) -> str:
        """Ask for one sync."""
        answer = _mapping(await self.http.call("GET", "/syncs", params={"limit": 1}))
        return f"Hightouch answers, {'syncs are there' if answer.get('data') else 'it has no sync yet'}"

    async def describe(self, sync: str) -> SyncRef:
        """Return a sync by id or by its slug."""
        return self._ref(await self._find(sync))

    async def _find(self, sync: str) -> Mapping[str, Any]:
        if sync.isascii() and sync.isdigit():
            return await self._get(sync)
        # 'slug' may be a filter that is ignored, so slugs are compared again.
        for each in await self._pages("/syncs", {"slug": sync}):
            if each.get("slug") == sync:
                return each
        raise InvalidSyncError(f"sync={sync!r}: Hightouch has no sync with this slug", status=404)

    async def _get(self, sync: str) -> Mapping[str, Any]:
        try:
            return _mapping(await self.http.call("GET", _path(sync)))
        except InvalidSyncError as error:
            if error.status != 404:
                raise
            told = f"sync={sync!r}: Hightouch has no sync with this id, or it was deleted"
            raise InvalidSyncError(told, status=404) from error

    async def _pages(self, path: str, params: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        found: list[Mapping[str, Any]] = []
        for number in range(MAX_PAGES):
            query = {**params, "limit": PAGE, "offset": number * PAGE}
            answer = _mapping(await self.http.call("GET", path, params=query))
            found += objects_of(answer.get("data"), service="Hightouch")
            if answer.get("hasMore") is not True:
                break
        return found

    def _ref(self, sync: Mapping[str, Any]) -> SyncRef:
        number = str(number_of(sync))
        page = f"{DASHBOARD}/{quote(self._workspace, safe='')}/syncs/{number}"
        return SyncRef(
            id=number,
            name=str(sync.get("slug") or number),
            schedule="manual" if sync.get("schedule") is None else "auto",
            link=page if self._workspace else DASHBOARD,
        )

    # --------------------------------------------------------------------------------------------- start

    async def start(self, request: SyncRequest, *, keep: Keep | None = None) -> RunHandle:
        """Start a run, or adopt the one that goes on.

        :raises InvalidSyncError: If the sync is disabled or unknown, or runs and ``on_running="fail"``.
        """
        if request.scope:
            raise InvalidSyncError(
                f"scope={names_of(request.scope)!r}: a Hightouch sync has one destination; leave the scope out"
            )
        sync = await self._find(request.sync)
        ref = self._ref(sync)
        if sync.get("disabled") is True:
            raise InvalidSyncError(
                f"the Hightouch sync {ref.name!r} ({ref.id}) is disabled: enable it at {ref.link}",
                code="disabled",
                link=ref.link,
            )
        runs = await self._pages(f"{_path(ref.id)}/runs", {"within": RECENT_MINUTES})
        handle = {
            **self._handle(ref),
            "after": max(map(number_of, runs), default=0),
            "resync": request.resync,
        }
        going = [run for run in runs if not judge(run).status.ended]
        if going:
            return _adopted(handle, max(going, key=number_of), request)
        if keep is not None:
            await keep(handle)
        return await self._request(handle)

    def _handle(self, ref: SyncRef) -> dict[str, Any]:
        return {"backend": self.name, "sync": ref.id, "name": ref.name, "link": ref.link}

    async def _request(self, handle: Mapping[str, Any]) -> RunHandle:
        body = {"fullResync": bool(handle.get("resync"))}
        number = 0
        while True:
            number += 1
            try:
                answer = _mapping(await self.http.call("POST", f"{_path(handle['sync'])}/trigger", body=body))
            except SyncUnavailableError as error:
                if error.retry_after:
                    raise  # it is the caller who can wait as long as is asked
                # The answer is lost, the run perhaps not: nothing may be started twice.
                await asyncio.sleep(min(2.0, 0.25 * 2**number))
                mine = await self._since(handle)
                if mine is not None:
                    return mine
                if number >= self.http.tries:
                    raise
            else:
                run = number_of(answer)
                if not run:
                    raise SyncUnavailableError(
                        "Hightouch answered a trigger without a run's id", service="Hightouch"
                    )
                return {**handle, "run": run}

    async def _since(self, handle: RunHandle) -> RunHandle | None:
        """Return the first run after a draft was kept."""
        runs = await self._pages(f"{_path(handle['sync'])}/runs", {"within": RECENT_MINUTES})
        later = [number for run in runs if (number := number_of(run)) > handle["after"]]
        return {**handle, "run": min(later)} if later else None

    async def resume(self, handle: RunHandle) -> RunHandle | None:
        """Return the handle of a run that an earlier process started."""
        if handle.get("behind"):
            return None
        found = handle if handle.get("run") else await self._since(handle)
        if found is None or (await self.poll(found)).status is SyncStatus.CANCELLED:
            return None
        return {**found, "resumed": True}

    async def next_run(self, sync: str, *, since: str) -> RunHandle:
        """Return a handle for the first run that ends after a moment, whoever starts it."""
        return {**self._handle(await self.describe(sync)), "next": since, "adopted": True}

    # ---------------------------------------------------------------------------------------------- wait

    async def poll(self, handle: RunHandle, *, wait: float = 0) -> RunStatus:  # noqa: ARG002  nothing holds back
        """Return where the run stands."""
        if handle.get("next"):
            return await self._next(handle)
        run = await self._run(handle)
        # It may be listed a moment after it was asked for.
        return RunStatus(status=SyncStatus.PENDING, phase="not listed yet") if run is None else judge(run)

    async def _run(self, handle: RunHandle) -> Mapping[str, Any] | None:
        number = int(handle["run"])
        try:
            runs = await self._pages(f"{_path(handle['sync'])}/runs", {"runId": number})
        except InvalidSyncError as error:
            if error.status != 404:
                raise
            raise InvalidSyncError(
                f"the Hightouch sync {handle['name']!r} was deleted while its run was awaited",
                status=404,
                link=str(handle.get("link", "")),
            ) from error
        return next((run for run in runs if number_of(run) == number), None)

    async def _next(self, handle: RunHandle) -> RunStatus:
        if (await self._get(str(handle["sync"]))).get("disabled") is True:
            told = "nothing will run: the sync is disabled"
            return RunStatus(status=SyncStatus.FAILED, reason=told, fixable=True)
        since = moment(handle["next"]) or datetime.now(UTC)
        params = {"after": f"{since - timedelta(days=1):%Y-%m-%dT%H:%M:%SZ}"}
        runs = [judge(run) for run in await self._pages(f"{_path(handle['sync'])}/runs", params)]
        ended = [(end, run) for run in runs if (end := moment(run.ended)) is not None and end > since]
        if ended:
            return min(ended, key=lambda each: each[0])[1]
        going = any(not run.status.ended for run in runs)
        return RunStatus(status=SyncStatus.RUNNING if going else SyncStatus.PENDING)

    async def status_many(
        self, handles: Mapping[str, RunHandle]
    ) -> Mapping[str, RunStatus | AirflowExtError]:
        """Return where many runs stand, with one request each: no list of Hightouch tells of several syncs' runs."""
        return await ask_each(self.poll, handles, gone=(404,))

    async def go_on(self, handle: RunHandle) -> None:
        """Do nothing: Hightouch puts nothing off."""

    async def explain(self, handle: RunHandle, status: RunStatus) -> RunStatus:  # noqa: ARG002  it has all been told
        """Return the status as it is."""
        return status

    # --------------------------------------------------------------------------------------------- after

    async def result(self, handle: RunHandle, status: RunStatus) -> SyncResult:
        """Return the result of a run that succeeded: rows that arrived, and rows that the destination refused."""
        run = await self._run(handle)
        (table,) = await self.tables(handle)
        done = table_result(table.name, run or {})
        return SyncResult(
            backend=self.name,
            run_id=str(handle["run"]),
            started=status.started,
            ended=status.ended,
            tables=(done,),
            rows=done.rows,
            link=str(handle.get("link") or "") or None,
        )

    async def tables(self, handle: RunHandle, *, columns: bool = False) -> tuple[TableRef, ...]:  # noqa: ARG002  they cost nothing
        """Return the one thing a sync writes: the destination, by its slug."""
        sync = await self._get(str(handle["sync"]))
        path = f"/destinations/{number_of({'id': sync.get('destinationId')})}"
        destination = _mapping(await self.http.call("GET", path))
        return (table_of(sync, str(destination.get("slug") or f"destination {destination.get('id')}")),)

    async def cancel(self, handle: RunHandle, *, patience: float = 3) -> None:
        """Refuse: Hightouch's API cannot stop a run.

        :raises InvalidSyncError: Always.
        """
        del patience
        raise InvalidSyncError(
            "Hightouch's API cannot stop a run; it goes on, and the next run of this task adopts it",
            link=str(handle.get("link") or ""),
        )

    def parse_webhook(
        self, headers: Mapping[str, str], body: bytes, *, secret: str, now: float
    ) -> WebhookEvent:
        """Refuse: Hightouch's API knows no webhooks about runs.

        :raises InvalidError: Always.
        """
        del headers, body, secret, now
        raise InvalidError("Hightouch signs no webhooks about runs; they are polled")


def _adopted(handle: Mapping[str, Any], run: Mapping[str, Any], request: SyncRequest) -> RunHandle:
    if request.on_running == "fail":
        raise InvalidSyncError(
            f"sync={request.sync!r} runs already (run {number_of(run)}) and on_running='fail'",
            link=str(handle["link"]),
            code="running",
        )
    found = {**handle, "run": number_of(run)}
    # Nothing tells of a run whether it loads everything.
    adopt = request.on_running == "adopt" and not request.resync
    return {**found, "adopted": True} if adopt else {**found, "behind": True}


def _path(sync: str) -> str:
    return f"/syncs/{quote(str(sync), safe='')}"


def _explain(body: Any) -> tuple[str, str]:
    if isinstance(body, str):
        return "", body
    if not isinstance(body, Mapping):
        return "", ""
    details = body.get("details")
    told = str(body.get("message") or body.get("error") or "")
    return "", f"{told}: {details}" if isinstance(details, str) and details else told


def _mapping(value: Any) -> Mapping[str, Any]:
    return object_of(value, service="Hightouch")
