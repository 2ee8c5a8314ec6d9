"""Whose a lookup is, and the leases of the task this process runs."""

from __future__ import annotations

import asyncio
import atexit
import contextvars
import logging
import os
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, TypeVar

from airflow_ext.exceptions import AirflowExtError, InvalidError
from airflow_ext.secrets._vault_blocks import Blocks
from airflow_ext.vault.client import VaultClient
from airflow_ext.vault.lease_model import Leased, LeaseSpec, Owner, Scope
from airflow_ext.vault.leases import TOKEN_TTL, LeaseSession
from airflow_ext.vault.sweeping import is_in_use, revoke_record

log = logging.getLogger(__name__)

STATE_KEY = "airflow_ext_vault_leases"
"""Key of the ids in ``task_state_store``."""

RETENTION = timedelta(days=7)
Role = Literal["task", "trigger", "server", "other"]


@dataclass(frozen=True, kw_only=True)
class LeaseSettings:
    """How leases are held; see :class:`airflow_ext.vault.leases.LeaseSession`.

    :param scope: Which token holds them.
    :param token_ttl: Seconds that token lives without renewal.
    :param policies: Its policies; ``None`` takes those of its parent.
    """

    scope: Scope = "child"
    token_ttl: int = TOKEN_TTL
    policies: tuple[str, ...] | None = None


def current_owner() -> Owner | None:
    """Return the task this process runs, ``None`` outside of tasks."""
    context = _context()
    if context is not None:
        ti = context["ti"]
        index = ti.map_index if ti.map_index is not None else -1
        return Owner(ti.dag_id, ti.run_id, ti.task_id, int(index), int(ti.try_number or 1))
    # Callbacks run after the context is gone, in the same process; a program the task starts has no such channel.
    names = ("AIRFLOW_CTX_DAG_ID", "AIRFLOW_CTX_DAG_RUN_ID", "AIRFLOW_CTX_TASK_ID")
    if process_role() == "task" and all(os.environ.get(each) for each in names):
        dag_id, run_id, task_id = (os.environ[each] for each in names)
        index, number = os.environ.get("AIRFLOW_CTX_MAP_INDEX"), os.environ.get("AIRFLOW_CTX_TRY_NUMBER")
        return Owner(dag_id, run_id, task_id, int(index or -1), int(number or 1))
    return None


def process_role() -> Role:
    """Return what kind of process this is."""
    if _context() is not None:
        return "task"
    runner = sys.modules.get("airflow.sdk.execution_time.task_runner")
    comms = getattr(runner, "SUPERVISOR_COMMS", None)
    if comms is not None:
        if type(comms).__name__ == "TriggerCommsDecoder":
            return "trigger"
        # The child that parses DAG files speaks to its supervisor likewise, but runs no task.
        return "task" if os.environ.get("AIRFLOW_CTX_TASK_ID") else "other"
    return "server" if os.environ.get("_AIRFLOW_PROCESS_CONTEXT") == "server" else "other"


def _context() -> Any:
    known = sys.modules.get("airflow.sdk.definitions._internal.contextmanager")
    stack = getattr(known, "_CURRENT_CONTEXT", None)
    context = stack[-1] if stack else None
    return context if context is not None and "ti" in context else None


@dataclass(frozen=True)
class Trigger:
    """The coroutine of a trigger, and the loop it runs in."""

    task: asyncio.Task[Any]
    loop: asyncio.AbstractEventLoop


_trigger: contextvars.ContextVar[Trigger | None] = contextvars.ContextVar("airflow_ext_trigger", default=None)
_T = TypeVar("_T")


class LeaseBook:
    """All sessions of this process, by client and task; ended when the process ends in order."""

    def __init__(self) -> None:
        self._sessions: dict[tuple[int, Owner, int], LeaseSession] = {}
        self._blocks = Blocks()
        self._lock = threading.Lock()
        self._registered = 0
        self._swept: set[tuple[int, Owner]] = set()

    def restore_lock(self) -> None:
        """Replace the lock, which another thread may have held when the process forked."""
        self._lock = threading.Lock()

    def credentials(
        self, client: VaultClient, conn_id: str, spec: LeaseSpec, settings: LeaseSettings
    ) -> Leased:
        """Return the credentials of the task that asks, for as long as it runs.

        :raises InvalidError: If nobody asks who may have a lease.
        """
        block = self._blocks.session(conn_id)
        if block is not None:
            return block.credentials(spec)
        owner = current_owner()
        if owner is not None:
            return self._session(client, owner, settings).credentials(spec)
        trigger = _trigger.get()
        if not spec.triggerer or trigger is None:
            raise InvalidError(
                f"connection {conn_id!r} has credentials leased per task from {spec.path}; a trigger gets some of its"
                ' own only with "triggerer": true in the lease of its document'
            )
        return self._of_trigger(client, settings, trigger).credentials(spec)

    def may_lease(self, conn_id: str) -> bool:
        """Tell whether somebody asks who may have a lease or must be told that not; servers and parsing see none."""
        return self._blocks.session(conn_id) is not None or process_role() in ("task", "trigger")

    async def in_thread(self, work: Callable[[], _T]) -> _T:
        """Run work in a thread that knows which trigger asks."""
        task = asyncio.current_task()
        if task is not None and process_role() == "trigger":
            token = _trigger.set(Trigger(task, asyncio.get_running_loop()))
            try:
                return await asyncio.to_thread(work)
            finally:
                _trigger.reset(token)
        return await asyncio.to_thread(work)

    def block(
        self, client: VaultClient, conn_id: str, settings: LeaseSettings, ttl: int | None
    ) -> LeaseSession:
        """Open a session for a block of code, which its lookups of ``conn_id`` use until it is closed.

        :raises InvalidError: Outside of tasks.
        """
        owner = current_owner()
        if owner is None:
            raise InvalidError(f"connection {conn_id!r} has leased credentials, which only tasks get")
        session = self._new(client, owner, settings, ttl)
        self._blocks.open(conn_id, session)
        return session

    def close_block(self, session: LeaseSession) -> None:
        """End what :meth:`block` opened."""
        self._blocks.close(session)
        session.close()

    def close_all(self) -> None:
        """Revoke every lease of this process."""
        with self._lock:
            mine = self._mine()
            self._sessions.clear()
            self._blocks.clear()
        for session in mine:
            session.close()

    def _mine(self) -> list[LeaseSession]:
        found = [*self._sessions.values(), *self._blocks.sessions()]
        # A forked child also has those of its parent.
        return [each for each in found if each.pid == os.getpid()]

    def _session(self, client: VaultClient, owner: Owner, settings: LeaseSettings) -> LeaseSession:
        with self._lock:
            key = (id(client), owner, os.getpid())
            known = self._sessions.get(key)
            if known is not None and not known.closed:
                return known
            others = [
                each for each in self._sessions.items() if each[0][1] != owner and each[1].pid == os.getpid()
            ]
            for other, session in others:  # one process after the other, as dag.test() runs tasks
                del self._sessions[other]
                session.close()
            made = self._sessions[key] = self._new(client, owner, settings, None)
            return made

    def _new(
        self, client: VaultClient, owner: Owner, settings: LeaseSettings, ttl: int | None
    ) -> LeaseSession:
        if self._registered != os.getpid():
            atexit.register(self.close_all)
            self._registered = os.getpid()
        if (id(client), owner) not in self._swept:
            self._swept.add((id(client), owner))
            _revoke_leftovers(client, owner)
        session = LeaseSession(
            client,
            owner,
            scope=settings.scope,
            token_ttl=settings.token_ttl,
            max_ttl=ttl,
            policies=settings.policies,
            remember=lambda _: _remember(
                [each.ids() for each in [*self._mine(), session] if not each.closed]
            ),
        )
        return session

    def _of_trigger(self, client: VaultClient, settings: LeaseSettings, trigger: Trigger) -> LeaseSession:
        owner = Owner("", "", trigger.task.get_name())
        key = (id(client), owner, os.getpid())
        with self._lock:
            session = self._sessions.get(key)
            if session is None or session.closed:
                session = LeaseSession(
                    client,
                    owner,
                    scope=settings.scope,
                    token_ttl=settings.token_ttl,
                    policies=settings.policies,
                )
                self._sessions[key] = session
                end = session.close
                ended = lambda _: trigger.loop.run_in_executor(None, end)  # noqa: E731  # needs the loop of then
                trigger.loop.call_soon_threadsafe(trigger.task.add_done_callback, ended)
        return session


def _store() -> Any:
    context = _context()
    return context.get("task_state_store") if context is not None else None


def _remember(records: list[dict[str, Any]]) -> None:
    """Keep ids where the next try and ``airflow-ext vault sweep`` find them."""
    store = _store()
    if store is None:
        return
    try:
        store.set(STATE_KEY, {"sessions": _unique([*_known(store), *records])}, retention=RETENTION)
    except Exception as error:  # noqa: BLE001  # the lease works all the same; only the net below it is missing
        log.warning("The ids of this task's leases were not stored (%s)", type(error).__name__)


def _known(store: Any) -> list[dict[str, Any]]:
    found = store.get(STATE_KEY) or {}
    records = found.get("sessions") if isinstance(found, Mapping) else None
    return [dict(each) for each in records or [] if isinstance(each, Mapping)]


def _unique(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    by_session: dict[str, dict[str, Any]] = {}
    for each in records:
        key = str(each.get("session") or [each.get("accessors"), each.get("leases")])
        by_session.pop(key, None)  # those in use come last, and are kept
        by_session[key] = each
    return list(by_session.values())[-20:]


def _revoke_leftovers(client: VaultClient, owner: Owner) -> None:
    """Revoke what earlier processes of this task may have left behind."""
    store = _store()
    if store is None:
        return
    try:
        records = _known(store)
        left = [each for each in records if is_in_use(each, owner.meta) or not revoke_record(client, each)]
        if records:
            store.set(STATE_KEY, {"sessions": left}, retention=RETENTION)
    except AirflowExtError as error:
        log.warning("Leases of an earlier try were not looked after: %s", error)
    except Exception as error:  # noqa: BLE001  # never a reason for a task to fail
        log.warning("Leases of an earlier try were not looked after (%s)", type(error).__name__)


BOOK = LeaseBook()
os.register_at_fork(after_in_child=BOOK.restore_lock)
