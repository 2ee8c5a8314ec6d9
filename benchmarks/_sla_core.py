"""What the scheduler does in one pass of its loop when a deadline of every run in the database has passed."""

from __future__ import annotations

import json
import time
from typing import Any


def main() -> None:
    """Make a deadline for each run, handle them as the scheduler does, and print seconds and statements."""
    from airflow._shared.timezones import timezone
    from airflow.models.callback import TriggererCallback
    from airflow.models.deadline import Deadline
    from airflow.sdk.definitions.callback import AsyncCallback
    from airflow.settings import get_engine
    from airflow.utils.session import create_session
    from airflow.utils.sqlalchemy import with_row_locks
    from sqlalchemy import event, select, text
    from sqlalchemy.orm import selectinload

    with create_session() as session:
        one = TriggererCallback(
            AsyncCallback("airflow_ext.notifications.sla.tell_missed_sla", kwargs={"policy": "p"})
        )
        session.add(one)
        session.flush()
        number = str(one.id)
        columns = ("type", "fetch_method", "data", "priority_weight", "created_at", "state")
        session.execute(
            text(
                f"INSERT INTO callback (id, {', '.join(columns)}) "
                f"SELECT md5('c' || r.id)::uuid, {', '.join(f'c.{name}' for name in columns)} "
                "FROM callback c, dag_run r WHERE c.id = :one"
            ),
            {"one": number},
        )
        session.execute(
            text(
                "INSERT INTO deadline (id, created_at, last_updated_at, dagrun_id, deadline_time, missed, callback_id) "
                "SELECT md5('d' || id)::uuid, now(), now(), id, now() - interval '1 minute', false, md5('c' || id)::uuid "
                "FROM dag_run"
            )
        )
        session.execute(text("DELETE FROM callback WHERE id = :one"), {"one": number})
    statements = 0

    def count(*_: Any) -> None:
        nonlocal statements
        statements += 1

    event.listen(get_engine(), "before_cursor_execute", count)
    begin = time.perf_counter()
    with create_session() as session:
        query = (
            select(Deadline)
            .where(Deadline.deadline_time < timezone.utcnow())
            .where(~Deadline.missed)
            .options(selectinload(Deadline.callback), selectinload(Deadline.dagrun))
        )
        locked = with_row_locks(query, of=Deadline, session=session, skip_locked=True, key_share=False)
        for deadline in session.scalars(locked):
            deadline.handle_miss(session)
    print(json.dumps({"seconds": round(time.perf_counter() - begin, 2), "statements": statements}))


if __name__ == "__main__":
    main()
