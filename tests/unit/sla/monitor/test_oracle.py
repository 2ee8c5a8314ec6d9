"""The judge against a plain loop over random histories, written from the promise's words and sharing no code with it.

``AIRFLOW_EXT_HISTORIES=1000`` runs more of them.
"""

from __future__ import annotations

import os
import random
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import Engine

from airflow_ext.sla import sla
from airflow_ext.sla.ledger.models import OccurrenceRow, PolicyRow
from tests.unit.sla.world import CALLBACK, World

COUNT = int(os.environ.get("AIRFLOW_EXT_HISTORIES", "60"))
BERLIN = ZoneInfo("Europe/Berlin")
DAYS = [date(2026, 3, 28), date(2026, 3, 29), date(2026, 3, 30)]  # clocks change on the second
GRACE = timedelta(minutes=5)
START = datetime(2026, 3, 27, 12, tzinfo=UTC)
LOOK = timedelta(minutes=30)


@dataclass
class Run:
    kind: str
    after: datetime
    state: str = "running"
    ended: datetime | None = None


@dataclass
class History:
    """What happens to one DAG: times and what is done then, and what the oracle believes."""

    name: str
    events: list[tuple[datetime, str, Run]] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    believed: dict[date, str] = field(default_factory=dict)


def due_of(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, 6, tzinfo=BERLIN).astimezone(UTC)


def random_history(name: str, dice: random.Random) -> History:
    history = History(name)
    for day in DAYS:
        due = due_of(day)
        midnight = datetime(day.year, day.month, day.day, tzinfo=UTC)
        for _ in range(dice.choice((0, 1, 1, 1, 2))):
            kind = dice.choice(("scheduled", "scheduled", "asset_triggered", "manual", "backfill"))
            after = midnight if kind == "scheduled" else due + timedelta(hours=dice.uniform(-14, 14))
            run = Run(kind, after)
            if any(other.after == after and other.kind == kind for _, _, other in history.events):
                continue
            end = max(after, midnight) + timedelta(minutes=dice.randint(5, 500))
            history.events += [
                (after, "start", run),
                (end, dice.choice(("success", "success", "failed")), run),
            ]
            if dice.random() < 0.4 and end < due - timedelta(hours=1):
                again = end + timedelta(minutes=dice.randint(1, 40))
                history.events.append((again, dice.choice(("clear", "delete")), run))
                if history.events[-1][1] == "clear" and dice.random() < 0.7:
                    history.events.append((again + timedelta(minutes=dice.randint(5, 300)), "success", run))
    history.events.sort(key=lambda event: event[0])
    return history


def owed_day(run: Run) -> date | None:
    """Return the date whose six o'clock a run owes, by walking over the dates."""
    if run.kind in ("manual", "backfill"):
        return None
    anchor = run.after if run.kind == "scheduled" else run.after - timedelta(hours=12)
    day = date(2026, 3, 20)
    while due_of(day) <= anchor:
        day += timedelta(days=1)
    return day


def believe(history: History, now: datetime) -> None:
    """Look once, as a person would."""
    for day in DAYS:
        state = history.believed.get(day, "waiting")
        if state in ("met", "recovered"):
            continue
        ends = [
            run.ended for run in history.runs if run.state == "success" and owed_day(run) == day and run.ended
        ]
        tell = due_of(day) + GRACE
        if ends and min(ends) <= tell and state == "waiting":
            history.believed[day] = "met"
        elif ends and now >= tell:
            history.believed[day] = "recovered"
        elif now >= tell:
            history.believed[day] = "missed"


def happen(history: History, event: tuple[datetime, str, Run], world: World) -> None:
    moment, what, run = event
    run_id = f"{run.kind}__{run.after.isoformat()}"
    stamp = moment.strftime("%Y-%m-%d %H:%M:%S.%f")
    if what == "start":
        history.runs.append(run)
        after = run.after.strftime("%Y-%m-%d %H:%M:%S.%f")
        world.run(history.name, after, "running", run_type=run.kind, run_id=run_id)
    elif run not in history.runs:
        return
    elif what == "delete":
        history.runs.remove(run)
        world.drop_run(history.name, run_id)
    elif what == "clear":
        run.state, run.ended = "running", None
        world.set_run(history.name, run_id, state="running", end_date=None)
    else:
        run.state, run.ended = what, moment
        world.set_run(history.name, run_id, state=what, end_date=stamp)


def test_random_histories_come_out_as_by_hand(database: Engine) -> None:
    seed = random.randrange(10**6)  # noqa: S311  no secret
    dice = random.Random(seed)  # noqa: S311  no secret
    world = World(database, start=START.strftime("%Y-%m-%d %H:%M"))
    histories = [random_history(f"d{number}", dice) for number in range(COUNT)]
    promise: dict[str, Any] = {"by": "06:00", "tz": "Europe/Berlin", "grace": GRACE, "callback": CALLBACK}
    for history in histories:
        world.add_dag(history.name, sla(**promise))
    pending = sorted(
        ((event, history) for history in histories for event in history.events), key=lambda item: item[0][0]
    )
    looks = [START + step * LOOK for step in range(4 * 48)]
    looks += [due_of(day) + GRACE for day in DAYS] + [looks[-1] + timedelta(days=1)]
    for look in sorted(looks):
        while pending and pending[0][0][0] <= look:
            event, history = pending.pop(0)
            happen(history, event, world)
        world.tick_at(look)
        for history in histories:
            believe(history, look)
    names = {row.id: row.dag_id for row in world.rows(PolicyRow)}
    states = {(names[row.policy_id], row.local_date): row.state for row in world.rows(OccurrenceRow)}
    for history in histories:
        judged = {day: states[history.name, day] for day in DAYS}
        assert judged == history.believed, f"seed {seed}, {history}"
