"""Airbyte's lists: page after page, and one of many jobs instead of many requests."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from airflow_ext.sync.airbyte_state import judge, number_of
from airflow_ext.sync.backend import RunHandle
from airflow_ext.sync.http import VendorHttp
from airflow_ext.sync.model import RunStatus
from airflow_ext.sync.moments import moment
from airflow_ext.sync.shapes import object_of, objects_of

PAGE = 100
POLL_PAGES = 5


async def pages(
    http: VendorHttp, path: str, params: Mapping[str, Any], *, most: int
) -> list[Mapping[str, Any]]:
    """Return the items of a list.

    :param most: So many pages are read at most.
    """
    found: list[Mapping[str, Any]] = []
    limit = int(params.get("limit", PAGE))
    for number in range(most):
        query = {**params, "limit": limit, "offset": number * limit}
        answer = object_of(await http.call("GET", path, params=query), service="Airbyte")
        items = objects_of(answer.get("data"), service="Airbyte")
        found += items
        if len(items) < limit or not answer.get("next"):
            break
    return found


async def jobs_listed(http: VendorHttp, handles: Mapping[str, RunHandle]) -> dict[str, RunStatus]:
    """Return where those jobs stand that are in the lists of the newest."""
    wanted: dict[int, list[str]] = {}
    for key, handle in handles.items():
        wanted.setdefault(int(handle["job"]), []).append(key)
    created = [found for each in handles.values() if (found := moment(each.get("created"))) is not None]
    params: dict[str, Any] = {
        "workspaceIds": ",".join(sorted({str(each["workspace"]) for each in handles.values()})),
        "orderBy": "createdAt|DESC",
    }
    if len(created) == len(handles):
        # A job's start, which is what is kept, may be later than its creation.
        params["createdAtStart"] = f"{min(created) - timedelta(hours=1):%Y-%m-%dT%H:%M:%SZ}"
    most = min(POLL_PAGES, -(-len(handles) // PAGE) + 1)
    jobs = {number_of(job): job for job in await pages(http, "/jobs", params, most=most)}
    return {key: judge(jobs[number]) for number, keys in wanted.items() if number in jobs for key in keys}
