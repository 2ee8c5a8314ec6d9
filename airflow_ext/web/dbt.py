"""The page of a dbt run: what dbt itself told of its nodes.

The tasks of nodes end in the triggerer, so that Airflow's grid shows how long they waited; here are dbt's own
times, messages and queries.
"""

from __future__ import annotations

import time
from typing import Annotated, Any
from urllib.parse import quote

from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.common.db.common import SessionDep
from airflow.api_fastapi.core_api.security import requires_access_dag
from fastapi import APIRouter, Depends, Query, Request  # noqa: TID253  # only the first request imports this
from fastapi.responses import HTMLResponse  # noqa: TID253

from airflow_ext.triggers._dbt_reader import FINISHED
from airflow_ext.web.dbt_nodes import Nodes, collect, moment_of, slowest_first
from airflow_ext.web.dbt_read import Story, read_story
from airflow_ext.web.mount import DAG_BAG, dbt_path
from airflow_ext.web.pages import airflow_root, render

ROWS = 500
"""Nodes shown if not all are asked for."""
FAILURES = 50
"""Failures shown if not all are asked for."""
RELOAD = 5
"""Seconds after which the page of something unfinished reloads itself."""

router = APIRouter()


def _needs(entity: DagAccessEntity) -> Any:
    return Depends(requires_access_dag("GET", entity))


@router.get(
    "/dbt/{dag_id}/{run_id:path}/{task_id}",
    response_class=HTMLResponse,
    dependencies=[
        _needs(DagAccessEntity.RUN),
        _needs(DagAccessEntity.TASK_INSTANCE),
        _needs(DagAccessEntity.XCOM),
    ],
)
def dbt_page(
    request: Request,
    session: SessionDep,
    dag_id: str,
    run_id: str,
    task_id: str,
    everything: Annotated[str, Query(alias="all")] = "",
    sort: str = "",
) -> HTMLResponse:
    """Show a dbt run, or the nodes of one of its tasks."""
    story = read_story(session, request.scope[DAG_BAG], dag_id=dag_id, run_id=run_id, task_id=task_id)
    group, build = story.group, story.build
    nodes = None
    if build is not None:
        nodes = collect(build, story.others, build_task=group.build, only=group.unit)
    rows = nodes.rows if nodes is not None else []
    if sort == "seconds":
        rows = slowest_first(rows)
    failures = nodes.failures if nodes is not None else []
    warnings = nodes.warnings if nodes is not None else []
    whole = everything == "1"
    root = airflow_root(request)
    airflow_run = f"{root}dags/{quote(dag_id, safe='')}/runs/{quote(run_id, safe='')}"
    asked = [task_id] if group.unit is not None else list(story.states)
    return render(
        "dbt.html",
        request,
        dag_id=dag_id,
        run_id=run_id,
        task_id=task_id,
        group=group,
        state=state_of(story, nodes),
        build=build,
        began=moment_of(build.started) if build is not None else None,
        written=moment_of(build.at) if build is not None else None,
        now=time.time(),
        live=build is not None and story.build_state == "running" and not build.ended,
        notices=notices(story, nodes, task_id=task_id),
        nodes=nodes,
        moment_of=moment_of,
        rows=rows if whole else rows[:ROWS],
        hidden_rows=0 if whole else max(0, len(rows) - ROWS),
        failures=failures if whole else failures[:FAILURES],
        hidden_failures=0 if whole else max(0, len(failures) - FAILURES),
        warnings=warnings if whole else warnings[:FAILURES],
        hidden_warnings=0 if whole else max(0, len(warnings) - FAILURES),
        folded=len(failures) > 3,
        waiting=sorted(set(group.tasks) - set(nodes.states))
        if nodes is not None and group.unit is None
        else [],
        sort=sort if sort == "seconds" else "start",
        everything=whole,
        reload=RELOAD if story.moving(asked) else None,
        page=lambda name: root.rstrip("/") + dbt_path(dag_id, run_id, name),
        airflow_run=airflow_run,
        airflow_task=lambda name: f"{airflow_run}/tasks/{quote(name, safe='')}",
    )


def state_of(story: Story, nodes: Nodes | None) -> str:
    """Return the one word for what is shown: a state of Airflow, or ``not begun`` or ``not built``."""
    over = story.build_state in FINISHED
    if nodes is None:
        return story.build_state if over or story.build_state == "running" else "not begun"
    if story.group.unit is not None:
        settled = nodes.states.get(story.group.unit)
        return settled or ("not built" if over else "waiting")
    if not over:
        return story.build_state if story.build_state != "none" else "waiting"
    failed = story.build_state == "failed" or "failed" in nodes.states.values()
    return "failed" if failed else "success"


def notices(story: Story, nodes: Nodes | None, *, task_id: str) -> list[str]:
    """Return what has to be said so that the page is not misread."""
    state, build, unit = story.build_state, story.build, story.group.unit
    if build is None or nodes is None:
        return [_why_nothing(story)]
    found = []
    if state == "up_for_retry":
        found.append(
            f"Try {build.attempt} went badly. The next one runs only what failed or was not reached."
        )
    elif state == "failed":
        found.append("The build task failed; its log has the reason.")
    elif state not in FINISHED and state != "running":
        found.append("The build task is to run again. What is shown is of its earlier run.")
    if unit is not None and unit not in nodes.states:
        over = state in FINISHED
        found.append(
            "dbt ended without building this; the task's log has the reason."
            if over
            else "dbt has not come to the end of this yet."
        )
    elif task_id in (cleared := story.cleared()):
        found.append("This task was cleared and is to be built again. What is shown is of the earlier build.")
    elif unit is None and cleared:
        found.append(
            f"Cleared and to be built again: {', '.join(sorted(cleared)[:20])}{', …' * (len(cleared) > 20)}."
        )
    return found


def _why_nothing(story: Story) -> str:
    if story.unreadable:
        return (
            "What dbt told cannot be read here: the XCom of the build task is not in Airflow's database as it was "
            "written. An XCom backend may keep it elsewhere. The logs of the tasks tell the same."
        )
    return {
        "running": "dbt is starting: nothing has been told yet.",
        "skipped": "dbt did not run: the build task was skipped.",
        "upstream_failed": "dbt did not run: a task before it failed.",
        "failed": "The build task failed before dbt told of anything; its log has the reason.",
        "success": "Nothing is known of this build any more: its XCom was deleted.",
    }.get(story.build_state, f"dbt has not begun: the state of the build task is {story.build_state}.")
