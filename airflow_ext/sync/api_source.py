"""Reading an HTTP API with dlt's REST client."""

from __future__ import annotations

import json
from typing import Any

from airflow_ext.sync.api import SyncApi
from airflow_ext.sync.api_answers import answer_check, origin
from airflow_ext.sync.dlt_job import DltJob


def api_resources(job: DltJob) -> list[Any]:
    """Return one dlt resource per table of the job.

    :raises InvalidError: If the configuration is refused.
    """
    from dlt.sources.rest_api import rest_api_resources

    resources = [_resource(table, job) for table in job.tables if isinstance(table, SyncApi)]
    config: Any = {"client": dict(job.pair.api), "resources": resources}
    return list(rest_api_resources(config))


def _resource(table: SyncApi, job: DltJob) -> dict[str, Any]:
    endpoint: dict[str, Any] = {"path": table.path.lstrip("/"), "params": dict(table.params)}
    endpoint["response_actions"] = [answer_check(table, origin(job.pair))]
    if table.rows:
        endpoint["data_selector"] = table.rows
    if table.paginator != "auto":
        endpoint["paginator"] = (
            json.loads(table.paginator) if table.paginator.startswith("{") else table.paginator
        )
    if table.cursor:
        endpoint["incremental"] = _incremental(table, job)
    disposition: Any = table.mode
    if table.mode == "scd2":
        disposition = {"disposition": "merge", "strategy": "scd2"}
    elif table.mode == "merge":
        disposition = {"disposition": "merge", "strategy": "delete-insert"}
    resource: dict[str, Any] = {"name": table.name, "endpoint": endpoint, "write_disposition": disposition}
    if table.primary_key:
        resource["primary_key"] = list(table.primary_key)
    return resource


def _incremental(table: SyncApi, job: DltJob) -> dict[str, Any]:
    told: dict[str, Any] = {"cursor_path": table.cursor}
    if table.mode != "append":
        # dlt would drop a row it knows by its key at the last value, also one that has changed since.
        told["primary_key"] = []
    if table.cursor_param:
        told["start_param"] = table.cursor_param
    if job.window:
        told |= {"initial_value": job.window.start, "end_value": job.window.end}
        if table.cursor_end_param:
            told["end_param"] = table.cursor_end_param
    return told
