"""SLAs over REST: what is late, why, and what somebody does about it.

Who may read the runs of a DAG may read of its promises, who may edit its runs may act. Writes demand JSON, so that no form of
another site can make them.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity, DagDetails
from airflow.api_fastapi.common.db.common import SessionDep
from airflow.api_fastapi.core_api.security import GetUserDep
from airflow.models import DagModel
from fastapi import APIRouter, HTTPException, Request  # noqa: TID253  # only the first request imports this
from fastapi.responses import JSONResponse  # noqa: TID253
from pydantic import BaseModel, ConfigDict, Field

from airflow_ext.exceptions import InvalidError
from airflow_ext.sla.clock import parse_zone
from airflow_ext.sla.ledger.models import IncidentRow
from airflow_ext.sla.trends import actions, suggest, views

_NO_STORE = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
_LONGEST_SNOOZE = 31 * 24 * 60

router = APIRouter(prefix="/sla")


class Reason(BaseModel):
    """Body of an acknowledgement or an excuse."""

    model_config = ConfigDict(extra="forbid")
    why: str = Field(min_length=1, max_length=2000)


class Snooze(Reason):
    """Body of a snooze."""

    minutes: int = Field(ge=1, le=_LONGEST_SNOOZE)


def _answer(data: Any) -> JSONResponse:
    return JSONResponse(data, headers=_NO_STORE)


def _visible(user: Any, dag_id: str, session: Any, *, method: str = "GET") -> bool:
    return bool(
        get_auth_manager().is_authorized_dag(
            method=method,  # type: ignore[arg-type]  # one of its words
            access_entity=DagAccessEntity.RUN,
            details=DagDetails(id=dag_id, team_name=DagModel.get_team_name(dag_id, session=session)),
            user=user,
        )
    )


def _readable(user: Any, session: Any) -> set[str]:
    """Return the DAGs with promises whose runs a user may see."""
    return {dag_id for dag_id in views.dags(session) if _visible(user, dag_id, session)}


def _find(session: Any, user: Any, incident_id: int, *, method: str = "GET") -> IncidentRow:
    """Return an incident that a user may see; to others it does not exist.

    :raises HTTPException: 404 if it does not exist or may not be seen, 403 if it may be seen only.
    """
    dag_id = views.dag_of(session, incident_id)
    if dag_id is None or not _visible(user, dag_id, session):
        raise HTTPException(404, f"there is no incident {incident_id}")
    if method != "GET" and not _visible(user, dag_id, session, method=method):
        raise HTTPException(403, f"you may not change runs of {dag_id}")
    found: IncidentRow = session.get_one(IncidentRow, incident_id)
    return found


@router.get("/status")
def status(session: SessionDep, user: GetUserDep) -> JSONResponse:
    """Return how things are, for the DAGs that the user may see."""
    return _answer(views.status(session, now=datetime.now(UTC), dag_ids=_readable(user, session)))


@router.get("/promises")
def promises(session: SessionDep, user: GetUserDep) -> JSONResponse:
    """Return the promises in force with budget and burn."""
    return _answer({"promises": views.promises(session, dag_ids=_readable(user, session))})


@router.get("/suggest/{dag_id}")
def suggestion(session: SessionDep, user: GetUserDep, dag_id: str, tz: str = "UTC") -> JSONResponse:
    """Return a first deadline for a DAG, from when its last good runs were done."""
    if not _visible(user, dag_id, session):
        raise HTTPException(404, "there is no such DAG")
    try:
        zone = parse_zone(tz)
    except InvalidError as error:
        raise HTTPException(422, str(error)) from error
    return _answer(suggest.from_runs(session, dag_id, zone=zone))


@router.get("/incidents")
def incidents(session: SessionDep, user: GetUserDep, everything: bool = False) -> JSONResponse:
    """Return open incidents, or all of the last week."""
    found = views.incidents(
        session, now=datetime.now(UTC), dag_ids=_readable(user, session), everything=everything
    )
    return _answer({"incidents": found})


@router.get("/incidents/{incident_id}")
def explain(session: SessionDep, user: GetUserDep, incident_id: int) -> JSONResponse:
    """Return the story of an incident."""
    _find(session, user, incident_id)
    return _answer(_story(session, user, incident_id))


def _story(session: Any, user: Any, incident_id: int) -> dict[str, Any]:
    """Return the story of an incident, without the promises of DAGs that the user may not see."""
    found = views.explain(session, incident_id) or {}
    seen = _readable(user, session)
    affected = [name for name in found.get("affects", ()) if name.rpartition(" (")[0] in seen]
    return {**found, "affects": affected}


@router.post("/incidents/{incident_id}/ack")
def acknowledge(
    request: Request, session: SessionDep, user: GetUserDep, incident_id: int, body: Reason
) -> JSONResponse:
    """Take care of an incident."""
    return _act(request, session, user, incident_id, actions.acknowledge, why=body.why)


@router.post("/incidents/{incident_id}/excuse")
def excuse(
    request: Request, session: SessionDep, user: GetUserDep, incident_id: int, body: Reason
) -> JSONResponse:
    """Let a miss count for nothing."""
    return _act(request, session, user, incident_id, actions.excuse, why=body.why)


@router.post("/incidents/{incident_id}/snooze")
def snooze(
    request: Request, session: SessionDep, user: GetUserDep, incident_id: int, body: Snooze
) -> JSONResponse:
    """Hold up the next steps."""
    until = datetime.now(UTC) + timedelta(minutes=body.minutes)
    return _act(request, session, user, incident_id, actions.snooze, why=body.why, until=until)


def _act(
    request: Request,
    session: Any,
    user: Any,
    incident_id: int,
    action: Callable[..., None],
    **more: Any,
) -> JSONResponse:
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise HTTPException(415, "send the body as application/json")
    incident = _find(session, user, incident_id, method="PUT")
    try:
        action(session, incident, who=user.get_name(), now=datetime.now(UTC), **more)
    except InvalidError as error:
        raise HTTPException(409, str(error)) from error
    session.flush()
    return _answer(_story(session, user, incident_id))
