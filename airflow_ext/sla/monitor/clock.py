"""What time it is, for all replicas alike, and what to do when the clock jumps."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from airflow_ext.sla.ledger.models import UtcTime

JUMP = timedelta(seconds=60)
PATIENCE = 3


def database_now(session: Session) -> datetime:
    """Return the time of the database server, which is one for all replicas; of this machine for SQLite."""
    if session.get_bind().dialect.name == "sqlite":
        return datetime.now(UTC)
    now: datetime = session.execute(select(func.now(type_=UtcTime))).scalar_one()
    return now


class JumpGuard:
    """Holds judging while the clock is not to be believed.

    A clock that jumps forward would turn what is not due into misses. So a jump of more than a minute against the
    monotonic clock is believed only when it has lasted for some looks: a machine that slept, or a clock put right.
    """

    def __init__(self, *, jump: timedelta = JUMP, patience: int = PATIENCE) -> None:
        self._jump = jump
        self._patience = patience
        self._offset: timedelta | None = None
        self._odd = 0

    def holds(self, now: datetime, monotonic: float) -> bool:
        """Take one look at both clocks and say whether to wait.

        :param monotonic: Seconds of a clock that never jumps.
        """
        offset = now - datetime.fromtimestamp(0, UTC) - timedelta(seconds=monotonic)
        if self._offset is not None and abs(offset - self._offset) > self._jump:
            self._odd += 1
            if self._odd <= self._patience:
                return True
        self._odd = 0
        self._offset = offset
        return False
