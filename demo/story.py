"""The story: a promise that is kept, one that breaks loudly, its repair, and a deadline that is missed."""

from __future__ import annotations

import itertools
import re
import textwrap
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from airflow_ext.exceptions import InvalidError
from airflow_ext.testing.airflow_client import AirflowClient, Record, wait_until
from demo.terminal import Step, Teller
from demo.world import World

CONTRACT = "daily_delays"
NEW_YORK = ZoneInfo("America/New_York")
SENSOR = "delays_are_good"
PUBLISH = "publish_daily_delays"


def _at(text: str) -> datetime:
    return datetime.fromisoformat(text)


class Story:
    """Tells the story of two days on a running world.

    :param world: Where it happens.
    :param teller: Who prints it.
    :param good_day: A day whose data are good.
    :param bad_day: A day whose data arrive broken at first.
    """

    def __init__(self, world: World, teller: Teller, *, good_day: date, bad_day: date) -> None:
        self.world = world
        self.teller = teller
        self.good_day = good_day
        self.bad_day = bad_day
        self._runs: dict[tuple[str, date], str] = {}

    @property
    def _client(self) -> AirflowClient:
        return self.world.airflow.client

    def tell(self) -> None:
        """Let it happen; an exception is a step that did not come out as told."""
        self._kept()
        self._broken()
        self._repaired()

    # Chapters

    def _kept(self) -> None:
        day = self.good_day
        self.teller.chapter(f"A promise that is kept ({day})")
        with self.teller.step(
            "network waits for the contract daily_delays>=1,<2, nobody has published the day yet"
        ) as step:
            self._start("delay_alerts", day)
            self._wait_until_waiting("delay_alerts", day)
            step.note = "deferred: it holds no worker slot"
        flights = self.world.source.arrive(day)
        self._ingest(day, flights)
        run = self._marts(day, nth=1)
        verdict = self._verdict(day, run, status="PASS")
        with self.teller.step("network is released and reads the table") as step:
            self._client.wait_for_run("delay_alerts", self._runs["delay_alerts", day], state="success")
            worst = self._xcom("delay_alerts", day, "worst_carriers")[0]
            released = _at(self._task("delay_alerts", day, SENSOR)["end_date"]) - _at(verdict["at"])
            step.note = (
                f"{released.total_seconds():.1f} s after the verdict; "
                f"worst: {worst['carrier']}, {worst['mean_delay']} min"
            )

    def _broken(self) -> None:
        day = self.bad_day
        self.teller.chapter(f"A promise that breaks ({day})")
        with self.teller.step("network and planning wait for the day") as step:
            self._start("delay_alerts", day)
            self._start("delay_digest", day)
            self._wait_until_waiting("delay_alerts", day)
            self._wait_until_waiting("delay_digest", day)
            step.note = "planning promised its digest within 60 s"
        flights = self.world.source.arrive(day, share=0.4)
        self._client.set_variable("flights_delay_format", "text")  # the bad release
        self._ingest(day, flights, remark="60 % of the day's rows are missing")
        run = self._marts(day, nth=1, remark="a bad release made a delay column text")
        verdict = self._verdict(day, run, status="BREACHED")
        self._consumer_fails(day, run, verdict)
        self._deadline_is_missed(day)

    def _repaired(self) -> None:
        day = self.bad_day
        self.teller.chapter("The repair")
        with self.teller.step(
            "the missing rows arrive, the release is taken back, operations runs the day again"
        ) as step:
            flights = self.world.source.arrive(day)
            self._client.set_variable("flights_delay_format", "minutes")
            self._client.clear("flights_ingest", self._runs["flights_ingest", day])
            step.note = f"{flights} flights are there now"
        self._ingest(day, flights, again=True)
        run = self._marts(day, nth=2)
        verdict = self._verdict(day, run, status="PASS")
        with self.teller.step("planning, which waited all along, goes on by itself") as step:
            self._client.wait_for_run("delay_digest", self._runs["delay_digest", day], state="success")
            released = _at(self._task("delay_digest", day, SENSOR)["end_date"]) - _at(verdict["at"])
            step.note = f"{released.total_seconds():.1f} s after the verdict; {self._xcom('delay_digest', day, 'digest')}"
        with self.teller.step("network clears its failed run and it succeeds") as step:
            self._client.clear("delay_alerts", self._runs["delay_alerts", day])
            self._client.wait_for_task(
                "delay_alerts",
                self._runs["delay_alerts", day],
                "worst_carriers",
                states={"success"},
                min_try=1,
            )
            worst = self._xcom("delay_alerts", day, "worst_carriers")[0]
            step.note = f"worst: {worst['carrier']}, {worst['mean_delay']} min"
        with self.teller.step("operations met its deadline both days, so nobody wrote to it") as step:
            mine = [mail for mail in self.world.mailbox.mails if "operations@flights.example" in mail.to]
            if mine:
                raise AssertionError(f"operations got {len(mine)} notice(s): {mine[0].message['Subject']}")
            step.note = f"{len(self.world.mailbox.mails)} notice in all"

    # Steps that happen more than once

    def _ingest(self, day: date, flights: int, *, again: bool = False, remark: str = "") -> None:
        with self.teller.step(f"operations syncs {day} from PostgreSQL into DuckDB") as step:
            if not again:
                self._start("flights_ingest", day)
            run = self._runs["flights_ingest", day]
            self._client.wait_for_task("flights_ingest", run, "sync", min_try=2 if again else 0)
            self._client.wait_for_run("flights_ingest", run, state="success")
            result = self._xcom("flights_ingest", day, "sync")
            tables = result["tables"]
            if tables["flights"]["rows"] != flights:
                raise AssertionError(f"{tables['flights']['rows']} rows loaded, the source has {flights}")
            if not self.world.vault.calls(path="database/creds/flights_reader", status=200):
                raise AssertionError("the source's account was not leased from the Vault-compatible server")
            wait_until(
                lambda: not self.world.source.leased_accounts(), timeout=5, what="the end of the lease"
            )
            took = _at(result["ended"]) - _at(result["started"])
            rows = sum(table["rows"] for table in tables.values())
            step.note = (
                f"{flights} flights, {rows} rows of {len(tables)} tables in {took.total_seconds():.1f} s"
            )
            step.note += f"; {remark}" if remark else "; with an account leased for the task, gone now"

    def _marts(self, day: date, *, nth: int, remark: str = "") -> str:
        with self.teller.step(f"analytics builds {day} with dbt, started by the sync's event") as step:

            def look() -> str | None:
                runs = [run for run in self._client.runs("flights_marts") if run["partition_key"] == str(day)]
                return str(runs[0]["dag_run_id"]) if len(runs) >= nth else None

            run = wait_until(look, timeout=120, what=f"run {nth} of flights_marts for {day}")
            self._client.wait_for_task("flights_marts", run, "marts.done")
            tasks = {
                name: task
                for name, task in self._client.tasks("flights_marts", run).items()
                if "marts." in name
            }
            bad = {name: task["state"] for name, task in tasks.items() if task["state"] != "success"}
            if bad:
                raise AssertionError(f"dbt tasks: {bad}\n{self._client.explain('flights_marts', run)}")
            build = tasks["marts.build"]
            step.note = f"{len(tasks) - 2} nodes shown as tasks, one dbt build of {build['duration']:.1f} s"
            step.note += f"; {remark}" if remark else ""
        return run

    def _verdict(self, day: date, run: str, *, status: str) -> Record:
        with self.teller.step(f"the contract {CONTRACT} is judged: {status}") as step:
            state = "success" if status == "PASS" else "failed"
            self._client.wait_for_run("flights_marts", run, state=state)
            verdict = self._stored_verdict(day)
            if verdict["status"] != status:
                raise AssertionError(f"verdict is {verdict['status']}: {verdict['reasons']}")
            step.note = (
                f"v{verdict['version']}, partition {verdict['partition']}, publication {verdict['seq']}"
            )
            if status == "BREACHED":
                step.note += f", {len(verdict['reasons'])} rules failed"
        return verdict

    def _consumer_fails(self, day: date, run: str, verdict: Record) -> None:
        with self.teller.step("network fails at once, with the reasons") as step:
            alerts = self._runs["delay_alerts", day]
            failed = self._client.wait_for_task("delay_alerts", alerts, SENSOR, timeout=60)
            if failed["state"] != "failed":
                raise AssertionError(f"the sensor is {failed['state']}")
            late = _at(failed["end_date"]) - _at(verdict["at"])
            log = self._client.log("delay_alerts", alerts, SENSOR)
            message = _message(log)
            needed = [CONTRACT, str(day), "BREACHED", "analytics", "flights_marts", run]
            missing = [word for word in needed if word not in message]
            if missing:
                raise AssertionError(f"the message does not name {missing}:\n{log[-3000:]}")
            step.note = f"{late.total_seconds():.1f} s after the verdict"
        self.teller.quote(message, title="what network reads in the failed task:")

    def _deadline_is_missed(self, day: date) -> None:
        with self.teller.step("planning misses its 60 s and is told by mail") as step:
            run = self._client.run("delay_digest", self._runs["delay_digest", day])
            due = _at(run["queued_at"]) + timedelta(seconds=60)

            def look() -> Any:
                return next((m for m in self.world.mailbox.mails if "planning@flights.example" in m.to), None)

            mail = wait_until(look, timeout=120, what="the notice arrives")
            late = mail.at - due
            state = self._task("delay_digest", day, SENSOR)["state"]
            if state != "deferred":
                raise AssertionError(f"planning should still wait, its sensor is {state}")
            step.note = f"told {late.total_seconds():.1f} s after it was due; planning still waits"
        self.teller.quote(f"{mail.message['Subject']}\n\n{mail.text}", title="the mail:")

    # Small looks at Airflow

    def _start(self, dag_id: str, day: date) -> None:
        midnight = datetime.combine(day, time(), tzinfo=NEW_YORK).astimezone(UTC)
        self._runs[dag_id, day] = self._client.trigger(dag_id, logical_date=midnight)

    def _task(self, dag_id: str, day: date, task_id: str) -> Record:
        return self._client.tasks(dag_id, self._runs[dag_id, day])[task_id]

    def _xcom(self, dag_id: str, day: date, task_id: str) -> Any:
        return self._client.xcom(dag_id, self._runs[dag_id, day], task_id)

    def _wait_until_waiting(self, dag_id: str, day: date) -> None:
        self._client.wait_for_task(dag_id, self._runs[dag_id, day], SENSOR, states={"deferred"}, timeout=60)

    def _stored_verdict(self, day: date) -> Record:
        name = f"contract/{CONTRACT}/v1"
        assets = self._client.request("GET", "/assets", params={"name_pattern": name})["assets"]
        state = self._client.request("GET", f"/assets/{assets[0]['id']}/state-store/p/{day}")
        value = state["value"]
        return dict(value)


def _message(log: str) -> str:
    """Return the words of the failure from a task's log."""
    begin = log.rfind("\n", 0, log.find("does not hold")) + 1
    lines = itertools.takewhile(
        lambda line: not re.match(r"\d{4}-\d\d-\d\dT", line), log[begin:].splitlines()
    )
    return textwrap.dedent("\n".join(lines)).strip().removeprefix("AirflowFailException: ")


def story_days(taken: int) -> tuple[date, date]:
    """Return the two days of the next story, after ``taken`` stories.

    :raises InvalidError: When the year is over.
    """
    good = date(2013, 1, 1) + timedelta(days=2 * taken)
    if good.year != 2013 or (good + timedelta(days=1)).year != 2013:
        raise InvalidError("the year 2013 is over: delete the demo's folder to begin again")
    return good, good + timedelta(days=1)


__all__ = ["Step", "Story", "story_days"]
