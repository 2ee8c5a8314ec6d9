"""Takes messages from the outbox so that no other sender has them, and writes what became of them."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import or_, select, update
from sqlalchemy.orm import Session

from airflow_ext.sla.ledger.models import PENDING, OutboxRow
from airflow_ext.sla.ledger.sql import among, chunks, table_of

B = table_of(OutboxRow)
_HOLDER = 80


def claim(
    session: Session, *, holder: str, now: datetime, lasting: timedelta, most: int
) -> tuple[str, list[int]]:
    """Take messages that are due, commit, and return the claim's name and their ids.

    The UPDATE asks again whether a message is free, for databases that cannot skip what another has locked.

    :param lasting: How long nobody else may take them.
    """
    token = f"{holder[:_HOLDER]}#{uuid.uuid4().hex[:12]}"
    free = or_(B.c.claimed_until.is_(None), B.c.claimed_until < now)
    query = (
        select(B.c.id)
        .where(B.c.state == PENDING, B.c.not_before <= now, free)
        .order_by(B.c.not_before, B.c.id)
        .limit(most)
        .with_for_update(skip_locked=True)
    )
    ids: list[int] = list(session.scalars(query))
    for some in chunks(ids):
        session.execute(
            update(B)
            .where(among(session, B.c.id, some), B.c.state == PENDING, free)
            .values(claimed_by=token, claimed_until=now + lasting)
        )
    session.commit()
    if not ids:
        return token, []
    taken: list[int] = []
    for some in chunks(ids):
        mine = select(B.c.id).where(among(session, B.c.id, some), B.c.claimed_by == token)
        taken += session.scalars(mine)
    return token, taken


def write(session: Session, token: str, ids: Iterable[int], **values: Any) -> None:
    """Set columns of messages that are still held under this claim; the caller commits."""
    for some in chunks(list(ids)):
        session.execute(update(B).where(among(session, B.c.id, some), B.c.claimed_by == token).values(values))


def give_back(session: Session, token: str, ids: Iterable[int], **values: Any) -> None:
    """Set columns of messages and end the claim on them; the caller commits."""
    write(session, token, ids, **values, claimed_by=None, claimed_until=None)
