"""A small Airbyte-compatible server on the loopback, for tests, demos and trying DAGs without an installation.

It is not Airbyte: nothing is moved, everything lives in memory, and jobs pass as scripts say. It answers the
public API v1 as far as syncs need it. ``airflow-ext sync serve-fake airbyte`` runs it as a process of its own.
"""

from __future__ import annotations

import hmac
import secrets
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from airflow_ext.testing._vendor_server import LocalVendor, Reply, Request, WireError

__all__ = ["JobScript", "LocalAirbyte"]

ACTIVE = ("pending", "queued", "running", "incomplete")
TOKEN_SECONDS = 180
_TITLES = {401: "unauthorized", 403: "forbidden", 409: "try-again-later", 422: "unprocessable-entity"}


@dataclass(frozen=True, kw_only=True)
class JobScript:
    """How one job shall pass.

    :param seconds: From its request to its end.
    :param queued: Of these, seconds in which it waits for a place.
    :param waiting_as: Its status while it waits, ``pending`` or ``queued``.
    :param attempts: Attempts in all; between two it is ``incomplete`` for a moment.
    :param outcome: ``succeeded``, ``failed``, ``cancelled`` (by somebody else) or ``stuck``, which never ends.
    :param rows: Rows in all.
    :param streams: What the connection holds from the end of this job on; ``None`` changes nothing.
    """

    seconds: float = 1.0
    queued: float = 0.0
    waiting_as: Literal["pending", "queued"] = "pending"
    attempts: int = 1
    outcome: Literal["succeeded", "failed", "cancelled", "stuck"] = "succeeded"
    rows: int = 0
    streams: Mapping[str, Mapping[str, Any]] | None = None


@dataclass
class Job:
    """A job that was started."""

    id: int
    connection: AirbyteConnection
    kind: str
    script: JobScript
    created: float
    ended: float | None = None
    status: str = "pending"

    def settle(self, now: float) -> None:
        """Let everything happen that is due."""
        if self.ended is not None:
            return
        passed = now - self.created
        if passed < self.script.queued:
            self.status = self.script.waiting_as
        elif passed >= self.script.seconds and self.script.outcome != "stuck":
            self.status = self.script.outcome
            self.ended = self.created + self.script.seconds
            if self.status == "succeeded" and self.script.streams is not None:
                self.connection.streams = self.script.streams
        else:
            share = (passed - self.script.queued) / max(self.script.seconds - self.script.queued, 1e-9)
            within = (share * self.script.attempts) % 1
            last = share * self.script.attempts >= self.script.attempts - 1
            self.status = "incomplete" if within > 0.8 and not last else "running"

    def to_dict(self, now: float) -> dict[str, Any]:
        """Return the JobResponse."""
        end = self.ended if self.ended is not None else now
        done = self.status == "succeeded"
        return {
            "jobId": self.id,
            "status": self.status,
            "jobType": self.kind,
            "connectionId": self.connection.id,
            "startTime": _stamp(self.created),
            "lastUpdatedAt": _stamp(end),
            "duration": f"PT{int(end - self.created)}S",
            "bytesSynced": self.script.rows * 100 if done else 0,
            "rowsSynced": self.script.rows if done else 0,
        }


@dataclass(kw_only=True)
class AirbyteConnection:
    """One connection.

    :param scripts: How its next jobs pass, the last one again and again.
    :param streams: ``{stream: {"fields": [...], "primary_key": [...]}}``.
    """

    id: str
    name: str
    workspace_id: str
    scripts: deque[JobScript]
    streams: Mapping[str, Mapping[str, Any]]
    source_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    destination_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    status: str = "active"
    reason: str | None = None
    prefix: str = ""
    namespace: str = "raw"
    schedule_type: str = "manual"
    created: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return the ConnectionResponse."""
        return {
            "connectionId": self.id,
            "name": self.name,
            "sourceId": self.source_id,
            "destinationId": self.destination_id,
            "workspaceId": self.workspace_id,
            "status": self.status,
            "statusReason": self.reason,
            "schedule": {"scheduleType": self.schedule_type},
            "namespaceDefinition": "custom_format",
            "namespaceFormat": self.namespace,
            "prefix": self.prefix,
            "nonBreakingSchemaUpdatesBehavior": "propagate_columns",
            "configurations": {
                "streams": [
                    {
                        "name": name,
                        "syncMode": "incremental_deduped_history",
                        "cursorField": [],
                        "primaryKey": [[key] for key in stream.get("primary_key", ())],
                    }
                    for name, stream in self.streams.items()
                ]
            },
            "createdAt": int(self.created),
            "tags": [],
        }


class LocalAirbyte(LocalVendor):
    """An Airbyte-compatible server with one application; a context manager.

    :param port: TCP port on the loopback; 0 takes a free one.
    :param clock: Returns seconds since 1970; jobs and tokens pass by it.
    :param client_id: Id of the application; a random one by default.
    :param client_secret: Its secret; a random one by default.
    :param plain_409: Refuse a second job in the words of a self-managed server.
    """

    base = "/api/public/v1"

    def __init__(
        self,
        *,
        port: int = 0,
        clock: Callable[[], float] = time.time,
        client_id: str | None = None,
        client_secret: str | None = None,
        plain_409: bool = False,
    ) -> None:
        super().__init__(port=port, clock=clock)
        self.client_id = client_id or str(uuid.uuid4())
        self.client_secret = client_secret or secrets.token_urlsafe(24)
        self.plain_409 = plain_409
        self.connections: dict[str, AirbyteConnection] = {}
        self.jobs: list[Job] = []
        self.cancel_seconds = 0.0
        """Real seconds that cancelling takes."""
        self._tokens: dict[str, float] = {}

    # ------------------------------------------------------------------------------ what it should hold

    def connection(
        self,
        name: str,
        *scripts: JobScript,
        connection_id: str | None = None,
        workspace_id: str = "00000000-0000-0000-0000-000000000001",
        streams: Mapping[str, Mapping[str, Any]] | Sequence[str] = ("orders", "customers"),
        prefix: str = "",
        namespace: str = "raw",
    ) -> AirbyteConnection:
        """Add a connection and return it; its attributes may be changed at any time.

        :param scripts: How its jobs pass, the last one again and again; none is one second each.
        :param connection_id: Its UUID; a random one by default.
        :param streams: Names, or names with ``fields`` and ``primary_key``.
        """
        if not isinstance(streams, Mapping):
            streams = {each: {"fields": ["id", "name"], "primary_key": ["id"]} for each in streams}
        made = AirbyteConnection(
            id=connection_id or str(uuid.uuid4()),
            name=name,
            workspace_id=workspace_id,
            scripts=deque(scripts or [JobScript()]),
            streams=streams,
            prefix=prefix,
            namespace=namespace,
            created=self.now(),
        )
        with self.lock:
            self.connections[made.id] = made
        return made

    def start_job(self, connection_id: str, kind: str = "sync") -> Job:
        """Start a job as somebody else would.

        :raises WireError: 409, if one runs.
        """
        with self.lock:
            return self._start(self.connections[connection_id], kind)

    def expire_tokens(self) -> None:
        """End every token now."""
        with self.lock:
            self._tokens.clear()

    # ------------------------------------------------------------------------------------------- answers

    def error(self, status: int, *, code: str = "") -> Any:
        """Return an RFC 7807 body."""
        title = code or _TITLES.get(status, "error")
        return {
            "title": title,
            "detail": f"Request failed with status {status}",
            "type": f"https://reference.airbyte.com/reference/errors#{title}",
            "status": status,
        }

    def answer(self, request: Request) -> Reply:
        """Answer one request."""
        path = request.path
        if not path.startswith(self.base):
            raise WireError(404, self.error(404))
        parts = path.removeprefix(self.base).strip("/").split("/")
        if (request.method, parts) == ("GET", ["health"]):
            return Reply(200, "Successful operation")
        if (request.method, parts) == ("POST", ["applications", "token"]):
            return self._token(request)
        self._check_token(request)
        for job in self.jobs:
            job.settle(self.now())
        match request.method, parts:
            case "GET", ["workspaces"]:
                found = sorted({each.workspace_id for each in self.connections.values()})
                return self._page(request, [{"workspaceId": each, "name": "Local"} for each in found])
            case "GET", ["connections"]:
                return self._page(request, [each.to_dict() for each in self._wanted(request)])
            case "GET", ["connections", connection_id]:
                return Reply(200, self._connection(connection_id).to_dict())
            case "PATCH", ["connections", connection_id]:
                return self._change(self._connection(connection_id), request.body)
            case "GET", ["jobs"]:
                return self._page(request, [job.to_dict(self.now()) for job in self._jobs(request)])
            case "POST", ["jobs"]:
                body = request.body if isinstance(request.body, Mapping) else {}
                job = self._start(self._connection(str(body.get("connectionId"))), str(body.get("jobType")))
                return Reply(200, job.to_dict(self.now()))
            case "GET", ["jobs", job_id]:
                return Reply(200, self._job(job_id).to_dict(self.now()))
            case "DELETE", ["jobs", job_id]:
                return self._cancel(self._job(job_id))
            case "GET", ["streams"]:
                return self._streams(request)
            case "GET", [("sources" | "destinations") as kind, some_id]:
                return Reply(200, {f"{kind[:-1]}Id": some_id, "name": f"Local {kind[:-1]}"})
        raise WireError(404, self.error(404))

    def _token(self, request: Request) -> Reply:
        body = request.body if isinstance(request.body, Mapping) else {}
        given = f"{body.get('client_id')}:{body.get('client_secret')}"
        if not hmac.compare_digest(given.encode(), f"{self.client_id}:{self.client_secret}".encode()):
            raise WireError(401, self.error(401))
        token = secrets.token_urlsafe(32)
        self._tokens[token] = self.now() + TOKEN_SECONDS
        return Reply(200, {"access_token": token, "token_type": "Bearer", "expires_in": TOKEN_SECONDS})

    def _check_token(self, request: Request) -> None:
        if not request.headers.get("user-agent"):
            raise WireError(403, self.error(403))
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer" or self._tokens.get(token, 0) <= self.now():
            raise WireError(401, self.error(401))

    def _page(self, request: Request, items: Sequence[Any]) -> Reply:
        try:
            limit, offset = int(request.query.get("limit", 20)), int(request.query.get("offset", 0))
        except ValueError:
            limit = offset = -1
        if not 1 <= limit <= 100 or offset < 0:
            raise WireError(422, self.error(422))
        here = f"{self.url}{request.path}?limit={limit}&offset="
        answer: dict[str, Any] = {"data": list(items[offset : offset + limit])}
        if offset + limit < len(items):
            answer["next"] = f"{here}{offset + limit}"
        if offset:
            answer["previous"] = f"{here}{max(0, offset - limit)}"
        return Reply(200, answer)

    def _wanted(self, request: Request) -> list[AirbyteConnection]:
        spaces = request.query.get("workspaceIds")
        return [
            each
            for each in self.connections.values()
            if spaces is None or each.workspace_id in spaces.split(",")
        ]

    def _connection(self, connection_id: str) -> AirbyteConnection:
        found = self.connections.get(connection_id)
        if found is None:
            raise WireError(400, self.error(400, code="resource-not-found"))
        return found

    def _job(self, job_id: str) -> Job:
        for job in self.jobs:
            if str(job.id) == job_id:
                return job
        raise WireError(400, self.error(400, code="resource-not-found"))

    def _change(self, connection: AirbyteConnection, body: Any) -> Reply:
        changes = body if isinstance(body, Mapping) else {}
        connection.status = str(changes.get("status", connection.status))
        if isinstance(changes.get("schedule"), Mapping):
            connection.schedule_type = str(changes["schedule"].get("scheduleType", connection.schedule_type))
        return Reply(200, connection.to_dict())

    def _jobs(self, request: Request) -> list[Job]:
        query = request.query
        kind, status = query.get("jobType"), query.get("status")
        spaces = query.get("workspaceIds")
        after = query.get("createdAtStart")
        since = datetime.fromisoformat(after.replace("Z", "+00:00")).timestamp() if after else 0.0
        fits = [
            job
            for job in self.jobs
            if query.get("connectionId") in (None, job.connection.id)
            and kind in (None, job.kind)
            and status in (None, job.status)
            and (spaces is None or job.connection.workspace_id in spaces.split(","))
            and job.created >= since
        ]
        by, _, direction = query.get("orderBy", "createdAt|ASC").partition("|")
        if by not in ("createdAt", "updatedAt") or direction not in ("ASC", "DESC"):
            raise WireError(422, self.error(422))
        return sorted(fits, key=lambda job: (job.created, job.id), reverse=direction == "DESC")

    def _start(self, connection: AirbyteConnection, kind: str) -> Job:
        now = self.now()
        if kind not in ("sync", "reset", "refresh", "clear"):
            raise WireError(422, self.error(422))
        if connection.status != "active":
            raise WireError(400, self.error(400, code="bad-request"))
        for job in self.jobs:
            job.settle(now)
            if job.connection is connection and job.status in ACTIVE:
                raise WireError(409, self._conflict(connection))
        script = connection.scripts.popleft() if len(connection.scripts) > 1 else connection.scripts[0]
        job = Job(len(self.jobs) + 1, connection, kind, script, now)
        job.settle(now)
        self.jobs.append(job)
        return job

    def _conflict(self, connection: AirbyteConnection) -> Any:
        if self.plain_409:
            return {
                "message": f"A sync is already running for: {connection.id}",
                "exceptionClassName": "io.airbyte.commons.server.errors.ValueConflictKnownException",
            }
        return self.error(409)

    def _cancel(self, job: Job) -> Reply:
        if job.status in ACTIVE:
            job.status, job.ended = "cancelled", self.now()
        return Reply(200, job.to_dict(self.now()), delay=self.cancel_seconds)

    def _streams(self, request: Request) -> Reply:
        for each in self.connections.values():
            if each.source_id == request.query.get("sourceId"):
                return Reply(
                    200,
                    [
                        {
                            "streamName": name,
                            "syncModes": ["incremental_deduped_history"],
                            "sourceDefinedPrimaryKey": [[key] for key in stream.get("primary_key", ())],
                            "propertyFields": [[column] for column in stream.get("fields", ())],
                        }
                        for name, stream in each.streams.items()
                    ],
                )
        raise WireError(400, self.error(400, code="resource-not-found"))


def _stamp(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
