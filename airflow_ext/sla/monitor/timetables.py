"""The times a DAG's schedule names, from its serialized form."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from airflow_ext.sla.expected import Ticks

log = logging.getLogger(__name__)
_MOST = 100_000
_FAR = datetime(9999, 1, 1, tzinfo=UTC)


def schedule_text(dag: Mapping[str, Any], *, now: datetime) -> str:
    """Return what decides when a DAG's schedule names times, as text; the same for DAGs with the same schedule.

    A start that is long past decides nothing any more, so it is left out.

    :param dag: The ``dag`` of serialized data.
    """
    start, end = (_time(dag.get(name)) for name in ("start_date", "end_date"))
    recent = start is not None and (now - start).days < 40
    return json.dumps(
        {
            "timetable": dag.get("timetable"),
            "start": start.isoformat() if start is not None and recent else None,
            "end": end.isoformat() if end is not None else None,
        },
        sort_keys=True,
    )


def _time(value: Any) -> datetime | None:
    while isinstance(value, Mapping):  # encoded with its type
        value = value.get("__var")
    return datetime.fromtimestamp(value, UTC) if isinstance(value, (int, float)) else None


@lru_cache(maxsize=4096)
def ticks_of(schedule: str) -> Ticks | None:
    """Return the function that lists times of a schedule, or ``None`` if it names none: asset-triggered, manual, once.

    :param schedule: As :func:`schedule_text` gives it.
    """
    from airflow.serialization.decoders import decode_timetable

    data = json.loads(schedule)
    if not data["timetable"]:
        return None
    try:
        timetable = decode_timetable(data["timetable"])
    except Exception:
        log.exception("A timetable cannot be read; its DAGs are taken as if they ran at any time")
        return None
    if not timetable.periodic or getattr(timetable, "asset_condition", None):
        return None
    first, last = (datetime.fromisoformat(data[name]) if data[name] else None for name in ("start", "end"))

    def ticks(start: datetime, end: datetime) -> Sequence[datetime]:
        return _list(timetable, max(start, first) if first else start, min(end, last) if last else end)

    return ticks


def _list(timetable: Any, start: datetime, end: datetime) -> list[datetime]:
    from airflow.timetables.base import TimeRestriction
    from pendulum import instance

    if end < start:
        return []
    if timetable.partitioned:
        infos = timetable.iter_partition_dagrun_infos(earliest=instance(start), latest=instance(end))
        return [_plain(info.run_after) for info in infos if start <= info.run_after <= end]
    # The interval that was complete at the start: its successors are all that can run from then on.
    earliest = timetable.infer_manual_data_interval(run_after=instance(start)).start
    restriction = TimeRestriction(earliest, instance(_FAR), catchup=True)
    found: list[datetime] = []
    info = None
    for _ in range(_MOST):
        info = timetable.next_dagrun_info_v2(last_dagrun_info=info, restriction=restriction)
        if info is None or info.run_after > end:
            break
        if info.run_after >= start:
            found.append(_plain(info.run_after))
    return found


def _plain(moment: datetime) -> datetime:
    """Return a datetime of the standard library: one of pendulum loses a zone of it in arithmetic."""
    return datetime.fromtimestamp(moment.timestamp(), UTC)
