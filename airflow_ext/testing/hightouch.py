"""A small Hightouch-compatible server on the loopback, for tests, demos and trying DAGs without an account.

It is not Hightouch: nothing is moved, everything lives in memory, and runs pass as scripts say. It answers the REST
API v1 as far as syncs need it, in the shapes of its OpenAPI document. ``airflow-ext sync serve-fake hightouch`` runs
it as a process of its own.
"""

from __future__ import annotations

import hmac
import secrets
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from airflow_ext.testing._vendor_server import LocalVendor, Reply, Request, WireError

__all__ = ["LocalHightouch", "RunScript"]

_ENDS = ("success", "warning", "failed", "cancelled", "interrupted")


@dataclass(frozen=True, kw_only=True)
class RunScript:
    """How one run shall pass.

    :param seconds: From its start to its end: a third each of ``querying``, ``processing`` and ``reporting``.
    :param queued: Seconds before its start.
    :param outcome: One of Hightouch's own words, or ``stuck``, which never ends. A ``success`` with refused rows is a
        ``warning``.
    :param added: Rows added, of which ``refused`` are not taken.
    :param changed: Rows changed.
    :param removed: Rows removed.
    :param refused: Added rows that the destination refuses.
    :param error: Why it failed.
    """

    seconds: float = 1.0
    queued: float = 0.0
    outcome: Literal["success", "warning", "failed", "cancelled", "interrupted", "stuck"] = "success"
    added: int = 0
    changed: int = 0
    removed: int = 0
    refused: int = 0
    error: str = ""


@dataclass
class Run:
    """A run that was asked for; it starts when the run before it has ended."""

    id: int
    script: RunScript
    created: float
    begins: float
    full: bool = False
    ended: float | None = None
    status: str = "queued"

    def settle(self, now: float) -> None:
        """Let everything happen that is due."""
        if self.ended is not None:
            return
        passed = now - self.begins
        if passed < 0:
            self.status = "queued"
        elif passed >= self.script.seconds and self.script.outcome != "stuck":
            refused = self.script.outcome == "success" and self.script.refused
            self.status = "warning" if refused else self.script.outcome
            self.ended = self.begins + self.script.seconds
        else:
            third = 0 if self.script.seconds <= 0 else int(3 * passed / self.script.seconds)
            self.status = ("querying", "processing", "reporting")[min(third, 2)]

    def to_dict(self, now: float) -> dict[str, Any]:
        """Return the SyncRun."""
        script = self.script
        done = self.status in ("success", "warning")
        planned = {"addedCount": script.added, "changedCount": script.changed, "removedCount": script.removed}
        nothing = dict.fromkeys(planned, 0)
        good = {**planned, "addedCount": script.added - script.refused}
        share = 1.0 if done else max(0.0, min(0.99, (now - self.begins) / max(script.seconds, 1e-9)))
        return {
            "id": self.id,
            "createdAt": _stamp(self.created),
            "startedAt": _stamp(self.begins),
            "finishedAt": None if self.ended is None else _stamp(self.ended),
            "querySize": script.added + script.changed,
            "status": self.status,
            "completionRatio": round(share, 2),
            "plannedRows": planned,
            "successfulRows": good if done else nothing,
            "failedRows": {**nothing, "addedCount": script.refused if done else 0},
            "error": script.error or None,
        }


@dataclass(kw_only=True)
class HightouchSync:
    """One sync.

    :param scripts: How its next runs pass, the last one again and again.
    """

    id: int
    slug: str
    scripts: deque[RunScript]
    destination: str
    columns: Sequence[str]
    primary_key: str
    created: float
    disabled: bool = False
    deleted: bool = False
    runs: list[Run] = field(default_factory=list)


class LocalHightouch(LocalVendor):
    """A Hightouch-compatible server with one workspace; a context manager.

    :param port: TCP port on the loopback; 0 takes a free one.
    :param clock: Returns seconds since 1970; runs pass by it.
    :param api_key: The key; a random one by default.
    """

    base = "/api/v1"

    def __init__(
        self, *, port: int = 0, clock: Callable[[], float] = time.time, api_key: str | None = None
    ) -> None:
        super().__init__(port=port, clock=clock)
        self.api_key = api_key or secrets.token_hex(16)
        self.syncs: dict[int, HightouchSync] = {}

    # ------------------------------------------------------------------------------ what it should hold

    def sync(
        self,
        slug: str,
        *scripts: RunScript,
        destination: str = "crm",
        columns: Sequence[str] = ("email", "name"),
        primary_key: str = "id",
    ) -> HightouchSync:
        """Add a sync and return it; its attributes may be changed at any time.

        :param scripts: How its runs pass, the last one again and again; none is one second each.
        :param destination: Slug of what it writes to.
        :param columns: Columns of its model that it refers to.
        """
        with self.lock:
            made = HightouchSync(
                id=len(self.syncs) + 101,
                slug=slug,
                scripts=deque(scripts or [RunScript()]),
                destination=destination,
                columns=columns,
                primary_key=primary_key,
                created=self.now(),
            )
            self.syncs[made.id] = made
        return made

    def start_run(self, sync: HightouchSync, *, full: bool = False) -> Run:
        """Start a run as somebody else would; while another goes on it is queued behind that."""
        with self.lock:
            now = self.now()
            self._settle(sync)
            script = sync.scripts.popleft() if len(sync.scripts) > 1 else sync.scripts[0]
            free = max((_end(run) for run in sync.runs), default=now)
            number = 5001 + sum(len(each.runs) for each in self.syncs.values())
            run = Run(number, script, created=now, begins=max(now, free) + script.queued, full=full)
            sync.runs.append(run)
            run.settle(now)
            return run

    # ------------------------------------------------------------------------------------------- answers

    def error(self, status: int, *, code: str = "") -> Any:
        """Return an error in the form that Hightouch has for a status."""
        match status:
            case 401:
                return {"message": "Authentication error", "details": "Token is invalid"}
            case 422:
                return {"message": "Validation failed", "details": {}}
            case 500:
                return "Internal Server Error"
        return {"error": code or f"Request failed with status {status}"}

    def answer(self, request: Request) -> Reply:
        """Answer one request."""
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer" or not hmac.compare_digest(token.encode(), self.api_key.encode()):
            raise WireError(401, self.error(401))
        if not request.path.startswith(self.base + "/"):
            raise WireError(404, self.error(404))
        for sync in self.syncs.values():
            self._settle(sync)
        match request.method, request.path.removeprefix(self.base).strip("/").split("/"):
            case "GET", ["syncs"]:
                slug = request.query.get("slug")
                found = [
                    each for each in self.syncs.values() if slug in (None, each.slug) and not each.deleted
                ]
                return self._page(request, [self._shown(each) for each in found])
            case "GET", ["syncs", sync_id]:
                return Reply(200, self._shown(self._find(sync_id)))
            case "GET", ["syncs", sync_id, "runs"]:
                runs = self._wanted(request, self._find(sync_id))
                return self._page(request, [run.to_dict(self.now()) for run in runs])
            case "POST", ["syncs", sync_id, "trigger"]:
                return self._trigger(self._find(sync_id), request.body)
            case "POST", ["syncs", "trigger"]:
                body = request.body if isinstance(request.body, Mapping) else {}
                return self._trigger(self._find(str(body.get("syncId") or body.get("syncSlug"))), body)
            case "GET", ["destinations", number]:
                return self._destination(number)
        raise WireError(404, self.error(404))

    def _trigger(self, sync: HightouchSync, body: Any) -> Reply:
        if sync.disabled:
            raise WireError(400, {"error": "Sync is disabled"})
        full = isinstance(body, Mapping) and body.get("fullResync") is True
        return Reply(200, {"id": str(self.start_run(sync, full=full).id)})

    def _settle(self, sync: HightouchSync) -> None:
        for run in sync.runs:
            run.settle(self.now())

    def _find(self, name: str) -> HightouchSync:
        for sync in self.syncs.values():
            if name in (str(sync.id), sync.slug) and not sync.deleted:
                return sync
        raise WireError(404, self.error(404))

    def _destination(self, number: str) -> Reply:
        names = self._destinations()
        if not number.isdigit() or not 1 <= int(number) <= len(names):
            raise WireError(404, self.error(404))
        slug = names[int(number) - 1]
        return Reply(200, {"id": int(number), "name": slug, "slug": slug, "type": "local", "workspaceId": 1})

    def _destinations(self) -> list[str]:
        return sorted({each.destination for each in self.syncs.values()})

    def _shown(self, sync: HightouchSync) -> dict[str, Any]:
        last = sync.runs[-1] if sync.runs else None
        return {
            "id": sync.id,
            "slug": sync.slug,
            "workspaceId": 1,
            "createdAt": _stamp(sync.created),
            "updatedAt": _stamp(sync.created),
            "destinationId": self._destinations().index(sync.destination) + 1,
            "modelId": sync.id,
            "configuration": {},
            "schedule": None,
            "status": "disabled" if sync.disabled else last.status if last else "pending",
            "disabled": sync.disabled,
            "lastRunAt": _stamp(last.begins) if last else None,
            "referencedColumns": list(sync.columns),
            "primaryKey": sync.primary_key,
            "externalSegment": {},
            "tags": {},
        }

    def _wanted(self, request: Request, sync: HightouchSync) -> list[Run]:
        query = request.query
        try:
            after = _seconds(query["after"]) if "after" in query else 0.0
            if "within" in query:
                after = max(after, self.now() - 60 * float(query["within"]))
            run_id = int(query.get("runId", 0))
        except ValueError:
            raise WireError(422, self.error(422)) from None
        return [run for run in sync.runs if run_id in (0, run.id) and run.begins >= after]

    def _page(self, request: Request, items: Sequence[Any]) -> Reply:
        try:
            limit, offset = int(request.query.get("limit", 100)), int(request.query.get("offset", 0))
        except ValueError:
            raise WireError(422, self.error(422)) from None
        page = list(items[offset : offset + limit])
        return Reply(200, {"data": page, "hasMore": offset + limit < len(items)})


def _end(run: Run) -> float:
    if run.ended is not None:
        return run.ended
    return float("inf") if run.script.outcome == "stuck" else run.begins + run.script.seconds


def _stamp(moment: float) -> str:
    told = datetime.fromtimestamp(min(moment, 4e9), UTC).isoformat(timespec="milliseconds")
    return told.replace("+00:00", "Z")


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
