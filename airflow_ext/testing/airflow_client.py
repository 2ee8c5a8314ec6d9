"""A client of Airflow's public REST API with the few calls that tests and the demo need, and waits that explain themselves."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Mapping
from datetime import datetime
from typing import Any, TypeVar
from urllib.parse import quote

import httpx

T = TypeVar("T")
Record = dict[str, Any]
TASK_ENDS = frozenset({"success", "failed", "skipped", "upstream_failed", "removed"})
POLL = 0.3
"""Seconds between two looks while waiting."""


def wait_until(
    look: Callable[[], T | None], *, timeout: float, what: str, explain: Callable[[], str] | None = None
) -> T:
    """Call ``look`` until it returns something true.

    :param timeout: Seconds.
    :param what: Named in the error.
    :param explain: Called once when time is up; its text ends the error.
    :raises TimeoutError: When time is up.
    """
    deadline = time.monotonic() + timeout
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > deadline:
            more = f"\n{explain()}" if explain else ""
            raise TimeoutError(f"{what}: not within {timeout:.0f} s{more}")
        time.sleep(POLL)


class AirflowClient:
    """Calls to one Airflow as one user.

    :param url: Base URL of the api-server.
    :param user: Name of a user of the simple auth manager.
    :param password: Their password.
    """

    def __init__(self, url: str, *, user: str, password: str) -> None:
        self.url = url
        self._login = {"username": user, "password": password}
        self._http = httpx.Client(base_url=url, timeout=30)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def request(self, method: str, path: str, **kwargs: Any) -> Any:
        """Call ``/api/v2`` + ``path`` and return the decoded body.

        :raises httpx.HTTPStatusError: With the server's detail in the text.
        """
        if "Authorization" not in self._http.headers:
            token = self._http.post("/auth/token", json=self._login).raise_for_status().json()["access_token"]
            self._http.headers["Authorization"] = f"Bearer {token}"
        answer = self._http.request(method, f"/api/v2{path}", **kwargs)
        if answer.status_code == 401:
            del self._http.headers["Authorization"]
            return self.request(method, path, **kwargs)
        if answer.is_error:
            raise httpx.HTTPStatusError(
                f"{method} {path}: {answer.status_code} {answer.text[:1000]}",
                request=answer.request,
                response=answer,
            )
        return answer.json() if answer.content else None

    # DAGs and runs

    def wait_for_dags(self, dag_ids: Collection[str], *, timeout: float = 90) -> None:
        """Wait until all these DAGs are parsed; an import error ends the wait at once."""

        def look() -> bool:
            if errors := self.import_errors():
                raise AssertionError(f"DAG import errors: {errors}")
            dags = self.request("GET", "/dags", params={"limit": 1000, "exclude_stale": True})["dags"]
            return set(dag_ids) <= {dag["dag_id"] for dag in dags}

        wait_until(look, timeout=timeout, what=f"DAGs {sorted(dag_ids)} parsed")

    def import_errors(self) -> dict[str, str]:
        """Return the stack trace of every DAG file that does not load, by file name."""
        errors = self.request("GET", "/importErrors", params={"limit": 100})["import_errors"]
        return {error["filename"]: error["stack_trace"] for error in errors}

    def trigger(
        self,
        dag_id: str,
        *,
        logical_date: datetime | str | None = None,
        conf: Mapping[str, Any] | None = None,
        run_id: str | None = None,
        partition_key: str | None = None,
    ) -> str:
        """Create a run and return its id."""
        date = logical_date.isoformat() if isinstance(logical_date, datetime) else logical_date
        body: Record = {"logical_date": date, "conf": dict(conf or {})}
        if run_id is not None:
            body["dag_run_id"] = run_id
        if partition_key is not None:
            body["partition_key"] = partition_key
        return str(self.request("POST", f"/dags/{dag_id}/dagRuns", json=body)["dag_run_id"])

    def run(self, dag_id: str, run_id: str) -> Record:
        """Return one run."""
        return dict(self.request("GET", f"/dags/{dag_id}/dagRuns/{quote(run_id, safe='')}"))

    def runs(self, dag_id: str) -> list[Record]:
        """Return the newest 100 runs of a DAG, newest first."""
        found = self.request("GET", f"/dags/{dag_id}/dagRuns", params={"order_by": "-id", "limit": 100})
        return list(found["dag_runs"])

    def wait_for_run(
        self, dag_id: str, run_id: str, *, state: str | None = None, timeout: float = 120
    ) -> Record:
        """Wait for the end of a run and return it.

        :param state: ``success`` or ``failed``: the end that is expected; another one is an AssertionError.
        """

        def look() -> Record | None:
            run = self.run(dag_id, run_id)
            return run if run["state"] in {"success", "failed"} else None

        def explain() -> str:
            return self.explain(dag_id, run_id)

        run = wait_until(look, timeout=timeout, what=f"run {run_id} of {dag_id} ends", explain=explain)
        if state is not None and run["state"] != state:
            raise AssertionError(f"{dag_id} {run_id} is {run['state']}, not {state}\n{explain()}")
        return run

    # Task instances

    def tasks(self, dag_id: str, run_id: str) -> dict[str, Record]:
        """Return a run's task instances by task id, mapped ones as ``id[index]``."""
        path = f"/dags/{dag_id}/dagRuns/{quote(run_id, safe='')}/taskInstances"
        found: list[Record] = []
        while True:  # the server caps pages at [api] maximum_page_limit
            page = self.request("GET", path, params={"limit": 100, "offset": len(found)})
            found += page["task_instances"]
            if not page["task_instances"] or len(found) >= page["total_entries"]:
                break
        return {
            task["task_id"] if task["map_index"] < 0 else f"{task['task_id']}[{task['map_index']}]": task
            for task in found
        }

    def states(self, dag_id: str, run_id: str) -> dict[str, str | None]:
        """Return the state of every task instance of a run."""
        return {name: task["state"] for name, task in self.tasks(dag_id, run_id).items()}

    def wait_for_task(
        self,
        dag_id: str,
        run_id: str,
        task_id: str,
        *,
        states: Collection[str] = TASK_ENDS,
        min_try: int = 0,
        timeout: float = 120,
    ) -> Record:
        """Wait until a task instance is in one of ``states`` and return it.

        :param min_try: Ignore tries below this number, for a task that was cleared.
        """

        def look() -> Record | None:
            task = self.tasks(dag_id, run_id).get(task_id)
            return task if task and task["state"] in states and task["try_number"] >= min_try else None

        return wait_until(
            look,
            timeout=timeout,
            what=f"{dag_id}.{task_id} in {run_id} is {' or '.join(sorted(states))}",
            explain=lambda: self.explain(dag_id, run_id),
        )

    def log(self, dag_id: str, run_id: str, task_id: str, *, try_number: int | None = None) -> str:
        """Return a task's log as text, of its last try by default."""
        if try_number is None:
            try_number = max(1, int(self.tasks(dag_id, run_id)[task_id]["try_number"]))
        path = f"/dags/{dag_id}/dagRuns/{quote(run_id, safe='')}/taskInstances/{task_id}/logs/{try_number}"
        content = self.request(
            "GET", path, params={"full_content": "true"}, headers={"Accept": "application/json"}
        )
        lines = content["content"] if isinstance(content, dict) else content
        return "\n".join(_line(line) for line in lines)

    def xcom(self, dag_id: str, run_id: str, task_id: str, *, key: str = "return_value") -> Any:
        """Return one XCom value, or None."""
        path = f"/dags/{dag_id}/dagRuns/{quote(run_id, safe='')}/taskInstances/{task_id}/xcomEntries/{key}"
        try:
            return self.request("GET", path, params={"deserialize": "false"})["value"]
        except httpx.HTTPStatusError as error:
            if error.response.status_code == 404:
                return None
            raise

    def clear(
        self, dag_id: str, run_id: str, *, task_ids: Collection[str] | None = None, downstream: bool = False
    ) -> None:
        """Clear task instances of a run, all of them by default."""
        body: Record = {
            "dry_run": False,
            "dag_run_id": run_id,
            "only_failed": False,
            "include_downstream": downstream,
        }
        if task_ids is not None:
            body["task_ids"] = list(task_ids)
        self.request("POST", f"/dags/{dag_id}/clearTaskInstances", json=body)

    def explain(self, dag_id: str, run_id: str) -> str:
        """Return the states of a run's tasks and the log's end of every failed one."""
        lines = []
        for name, task in sorted(self.tasks(dag_id, run_id).items()):
            lines.append(f"  {name}: {task['state']} (try {task['try_number']})")
            if task["state"] in {"failed", "up_for_retry", "running", "deferred"}:
                try:
                    lines.append("    " + self.log(dag_id, run_id, name)[-3000:].replace("\n", "\n    "))
                except (httpx.HTTPError, KeyError) as error:
                    lines.append(f"    (no log: {error})")
        return "\n".join(lines)

    # Assets, variables, connections

    def asset_events(self, name: str) -> list[Record]:
        """Return the events of one asset, oldest first."""
        found = self.request("GET", "/assets", params={"name_pattern": name, "limit": 100})["assets"]
        ids = [asset["id"] for asset in found if asset["name"] == name]
        if not ids:
            return []
        events = self.request(
            "GET", "/assets/events", params={"asset_id": ids[0], "limit": 100, "order_by": "timestamp"}
        )
        return list(events["asset_events"])

    def set_variable(self, key: str, value: str) -> None:
        """Create or replace a Variable."""
        action = {
            "action": "create",
            "action_on_existence": "overwrite",
            "entities": [{"key": key, "value": value}],
        }
        self.request("PATCH", "/variables", json={"actions": [action]})

    def create_connection(self, conn_id: str, conn_type: str, **fields: Any) -> None:
        """Create or replace a Connection.

        :param fields: As in the REST API: ``host``, ``login``, ``password``, ``schema``, ``port`` and
            ``extra``, which may be a mapping.
        """
        if isinstance(fields.get("extra"), Mapping):
            fields["extra"] = json.dumps(dict(fields["extra"]))
        entity = {"connection_id": conn_id, "conn_type": conn_type, **fields}
        action = {"action": "create", "action_on_existence": "overwrite", "entities": [entity]}
        self.request("PATCH", "/connections", json={"actions": [action]})


def _line(line: Any) -> str:
    if not isinstance(line, dict):
        return str(line)
    text = f"{line.get('timestamp') or ''} {line.get('level') or ''} {line.get('event', '')}".strip()
    for detail in line.get("error_detail") or []:
        text += f"\n    {detail.get('exc_type')}: {detail.get('exc_value')}"
    return text
