"""Who does what among several monitors: lease rows, replica rows and the heartbeat that silences Airflow's callbacks."""

from __future__ import annotations

import json
from datetime import datetime, timedelta

from sqlalchemy import delete, or_, select, update
from sqlalchemy.orm import Session

from airflow_ext.sla.heartbeat import VARIABLE_KEY
from airflow_ext.sla.ledger.models import LeaseRow, ReplicaRow
from airflow_ext.sla.ledger.sql import add_new, table_of
from airflow_ext.sla.monitor.tables import VARIABLE

L, R = table_of(LeaseRow), table_of(ReplicaRow)
DUTIES, JUDGE = "duties", "judge"
_FORGOTTEN = timedelta(days=1)


def acquire(session: Session, name: str, *, holder: str, now: datetime, ttl: timedelta) -> bool:
    """Take or renew a lease and say whether it is held; the caller commits.

    :param ttl: After this the next may take it, if it is not renewed.
    """
    mine = or_(L.c.holder == holder, L.c.expires_at < now)
    taken = session.execute(
        update(L).where(L.c.name == name, mine).values(holder=holder, expires_at=now + ttl)
    )
    if taken.rowcount:  # type: ignore[attr-defined]  # an UPDATE gives a CursorResult
        return True
    add_new(session, L, [{"name": name, "holder": holder, "expires_at": now + ttl}])
    return session.scalar(select(L.c.holder).where(L.c.name == name)) == holder


def give_back(session: Session, *, holder: str) -> None:
    """Give back all leases, so that nobody has to wait for their end; the caller commits."""
    session.execute(delete(L).where(L.c.holder == holder))


def release(session: Session, *, holder: str) -> None:
    """Give back all leases and forget the replica; the caller commits."""
    give_back(session, holder=holder)
    session.execute(delete(R).where(R.c.holder == holder))


def beat(
    session: Session,
    *,
    holder: str,
    now: datetime,
    started: datetime,
    tick: timedelta,
    last_tick: timedelta,
    lag: timedelta,
    forget: bool,
) -> None:
    """Say that this replica is alive, and how it does.

    :param forget: Whether to drop those that have said nothing for a day.
    """
    values = {
        "beat_at": now,
        "tick_seconds": tick.total_seconds(),
        "last_tick_ms": last_tick.total_seconds() * 1000,
        "lag_seconds": lag.total_seconds(),
    }
    done = session.execute(update(R).where(R.c.holder == holder).values(values))
    if not done.rowcount:  # type: ignore[attr-defined]  # an UPDATE gives a CursorResult
        add_new(session, R, [{"holder": holder, "started_at": started, **values}])
    if forget:
        session.execute(delete(R).where(R.c.beat_at < now - _FORGOTTEN))


def show_heartbeat(session: Session, *, now: datetime, tick: timedelta) -> None:
    """Write the Variable that the callbacks of Airflow's deadlines look at."""
    value = json.dumps({"at": now.isoformat(), "tick": tick.total_seconds()})
    done = session.execute(
        update(VARIABLE).where(VARIABLE.c.key == VARIABLE_KEY).values(val=value, is_encrypted=False)
    )
    if not done.rowcount:  # type: ignore[attr-defined]  # an UPDATE gives a CursorResult
        add_new(session, VARIABLE, [{"key": VARIABLE_KEY, "val": value, "is_encrypted": False}])
