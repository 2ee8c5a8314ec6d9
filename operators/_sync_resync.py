"""Loading anew what a vendor's sync has loaded before."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, time, timedelta
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from airflow_ext.exceptions import InvalidError
from airflow_ext.operators._sync_arguments import check_waiting
from airflow_ext.operators._sync_remote import RemoteSyncOperator
from airflow_ext.sync.backend import SyncRequest
from airflow_ext.sync.model import SyncResult

if TYPE_CHECKING:
    from airflow.sdk import Context

Scope = Mapping[str, Sequence[str]] | Sequence[str] | str


class ResyncOperator(RemoteSyncOperator):
    """Load all of a sync, or some of its tables, anew: a full historical sync.

    Tables may be loaded some at a time, one group after the other, and only in the hours of a window. A retry goes on
    with the group it was at. Emits no events: consumers follow the syncs.

    Returns a dict: ``runs``, one result as of :class:`SyncOperator` per group.

    :param sync_conn_id: Connection of a vendor that can load anew.
    :param sync: The sync, by id or name (templated).
    :param scope: Tables in the **source's** names: ``["public.orders"]`` or ``{"public": ["orders"]}``, also as text,
        separated by commas or as JSON (templated); ``None`` is everything. Fivetran only; not every connector can.
    :param at_a_time: Tables per run; ``None`` is all in one.
    :param window: Hours in which a run may start, such as ``("22:00", "05:00")``; a run that has started is waited
        for beyond. The task sleeps outside of them without holding a worker.
    :param timezone: IANA zone of the window.
    :param kwargs: As for :class:`SyncOperator`: ``waiting``, ``deferrable``, ``mode``, ``on_running`` (here by
        default ``wait``, since a sync that runs is no re-sync), ``cancel_on_kill``.
    :raises ValueError: If an argument is none of those allowed.
    :raises SyncFailedError: If a run ends in any state but success (the task may retry).
    :raises AirflowFailException: If somebody must change something first (no retry).
    """

    template_fields: Sequence[str] = ("sync", "scope")
    ui_color = "#d9edf7"

    def __init__(
        self,
        *,
        sync_conn_id: str,
        sync: str,
        scope: Scope | None = None,
        at_a_time: int | None = None,
        window: tuple[str, str] | None = None,
        timezone: str = "UTC",
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("on_running", "wait")
        check_waiting(kwargs.get("waiting"), sync)
        super().__init__(sync_conn_id=sync_conn_id, **kwargs)
        if at_a_time is not None and (isinstance(at_a_time, bool) or at_a_time < 1):
            raise ValueError(f"at_a_time={at_a_time!r}: give a number of tables above 0")
        if at_a_time is not None and scope is None:
            raise ValueError(f"at_a_time={at_a_time!r} needs scope=: everything is loaded in one run")
        self.sync = sync
        self.scope = scope
        self.at_a_time = at_a_time
        self.window = window
        self.timezone = timezone
        self._hours = None if window is None else tuple(_hour(text) for text in window)
        if self._hours is not None and (len(self._hours) != 2 or self._hours[0] == self._hours[1]):
            raise ValueError(f"window={window!r}: give two different times, such as ('22:00', '05:00')")
        try:
            self._zone = ZoneInfo(timezone)
        except (ZoneInfoNotFoundError, ValueError):
            raise ValueError(f"timezone={timezone!r} is no IANA zone, such as 'Europe/Berlin'") from None
        self.watch_state()

    def execute(self, context: Context) -> Any:
        """Load group after group."""
        return self.run_remote(context)

    def _plan(self) -> Sequence[SyncRequest]:
        request = SyncRequest(sync=self.sync, resync=True, on_running=self.on_running)
        if self.scope is None:
            return [request]
        tables = _tables(self.scope)
        size = self.at_a_time or len(tables)
        return [
            SyncRequest(
                sync=self.sync,
                resync=True,
                on_running=self.on_running,
                scope=_grouped(tables[start : start + size]),
            )
            for start in range(0, len(tables), size)
        ]

    def _hold_until(self) -> float | None:
        if self._hours is None:
            return None
        return opens(datetime.now(UTC), self._hours[0], self._hours[1], self._zone)

    def _end(self, context: Context, results: Sequence[SyncResult]) -> Any:  # noqa: ARG002  nothing is emitted
        return {"runs": [result.to_dict() for result in results]}


def opens(now: datetime, start: time, end: time, zone: ZoneInfo) -> float | None:
    """Return when a window of hours opens next, in seconds since 1970; ``None`` if it is open.

    :param end: The window ends here; before ``start`` it is the next day's.
    """
    local = now.astimezone(zone)
    clock = local.time().replace(tzinfo=None)
    inside = start <= clock < end if start < end else clock >= start or clock < end
    if inside:
        return None
    day = local.date() if clock < start else local.date() + timedelta(days=1)
    return datetime.combine(day, start, tzinfo=zone).timestamp()


def _hour(text: str) -> time:
    try:
        return time.fromisoformat(text)
    except (TypeError, ValueError):
        raise ValueError(f"window: {text!r} is no time of day, such as '22:00'") from None


def _tables(scope: Scope) -> list[tuple[str, str]]:
    """Return schema and table of each.

    :raises InvalidError: If there are none or one has no schema.
    """
    value: Any = scope
    if isinstance(value, str):
        text = value.strip()
        try:
            value = json.loads(text) if text.startswith(("{", "[")) else text.split(",")
        except ValueError:
            raise InvalidError(f"scope={scope!r} is no JSON") from None
    if isinstance(value, Mapping):
        found = [(str(schema), str(table)) for schema, tables in value.items() for table in tables]
    else:
        found = []
        for each in value:
            schema, point, table = str(each).strip().partition(".")
            if not point or not schema or not table:
                raise InvalidError(f"scope={scope!r}: {each!r} needs its schema, such as 'public.orders'")
            found.append((schema, table))
    if not found:
        raise InvalidError(f"scope={scope!r} names no table; leave it out to load everything")
    return list(dict.fromkeys(found))


def _grouped(tables: Sequence[tuple[str, str]]) -> dict[str, tuple[str, ...]]:
    groups: dict[str, tuple[str, ...]] = {}
    for schema, table in tables:
        groups[schema] = (*groups.get(schema, ()), table)
    return groups
