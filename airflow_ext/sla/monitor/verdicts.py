"""What Airflow's asset state says of contracts that were not published: one that was judged and broke is another matter.

A breached contract gets no event, so to the judge it is as if nothing had come. The verdict stands in the state of the
contract's asset, unless ``[airflow_ext] verdict_store_conn_id`` keeps verdicts elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from sqlalchemy import and_, select
from sqlalchemy.orm import Session

from airflow_ext.contracts.head import Head
from airflow_ext.contracts.store import HEAD
from airflow_ext.contracts.verdict import Status
from airflow_ext.sla.expected import PARTITION
from airflow_ext.sla.ledger.models import OccurrenceRow, PolicyRow
from airflow_ext.sla.ledger.sql import among, chunks, table_of
from airflow_ext.sla.monitor.tables import ASSET, ASSET_STATE

O, P = table_of(OccurrenceRow), table_of(PolicyRow)  # noqa: E741  as in the queries
BROKEN = (Status.BREACHED, Status.QUARANTINED)


def breached(session: Session, occurrence_ids: Iterable[int]) -> set[int]:
    """Return the occurrences whose contract was judged for their partition, or last of all, and does not hold."""
    found: set[int] = set()
    heads: dict[str, Head] = {}
    for some in chunks(sorted(set(occurrence_ids))):
        query = (
            select(O.c.id, O.c.slot, P.c.asset_name, ASSET_STATE.c.value)
            .join(P, P.c.id == O.c.policy_id)
            .join(ASSET, ASSET.c.name == P.c.asset_name)
            .join(ASSET_STATE, and_(ASSET_STATE.c.asset_id == ASSET.c.id, ASSET_STATE.c.key == HEAD))
            .where(among(session, O.c.id, some), P.c.asset_name.startswith("contract/"))
        )
        for row in session.execute(query):
            if row.asset_name not in heads:
                heads[row.asset_name] = _read(row.value)
            if _is_broken(heads[row.asset_name], row.slot):
                found.add(row.id)
    return found


def _is_broken(head: Head, slot: str) -> bool:
    entries = head.entries
    if slot.startswith(PARTITION):
        entry = entries.get(slot.removeprefix(PARTITION))
    else:
        entry = max(entries.values(), key=lambda each: each.seq, default=None)
    return entry is not None and entry.status in BROKEN


def _read(value: Any) -> Head:
    try:
        return Head.from_dict(json.loads(value))
    except (ValueError, TypeError):
        return Head()
