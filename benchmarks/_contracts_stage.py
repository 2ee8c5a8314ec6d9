"""An Airflow in whose triggerer ten thousand tasks wait for two hundred contracts.

One task defers for real; then its rows are copied with scheduler and dag-processor stopped, so that ten thousand
tasks wait without ten thousand starts of a worker.
"""

from __future__ import annotations

import json
import resource
import shutil
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from airflow_ext.contracts import Status, Verdict
from airflow_ext.contracts.head import Entry, Head
from airflow_ext.contracts.partition import PartitionRule
from airflow_ext.contracts.store import AssetVerdictStore
from airflow_ext.testing.airflow_client import AirflowClient, wait_until
from airflow_ext.testing.local_airflow import LocalAirflow
from airflow_ext.testing.postgres import LocalPostgres
from airflow_ext.testing.processes import stop_all_in
from benchmarks._dbt_stage import component_process, pss_of
from benchmarks.report import Report

ROOT = Path(__file__).parents[1]
WORK = ROOT / ".bench" / "contracts_waiting"
DAGS = Path(__file__).with_name("contracts_dags") / "waiting"
DATABASE = "airflow_waiting"
WAITERS, CONTRACTS, POLL = 10_000, 200, 30.0
EACH = WAITERS // CONTRACTS
EARLIER, DAY, LATER = "2013-01-04", "2013-01-05", "2013-01-06"
"""Each contract has published a partition before the one that is waited for; the last is waited for in a second round."""
RULE = PartitionRule()
PATIENCE = 240.0
SETTLE_SECONDS = 4.0
HEALTH_SECONDS = 15
"""After which a triggerer that gives no sign of life is dead to others."""
TRIGGERER = {
    "AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING",
    "AIRFLOW__TRIGGERER__MAX_TRIGGER_TO_SELECT_PER_LOOP": "1000",
    "PYTHONPATH": str(ROOT),
}
"""What docs/contracts.md says to set where thousands wait, and where the bare trigger is."""
AUDIT = """
CREATE TABLE bench_ends (map_index INTEGER, at TIMESTAMPTZ);
CREATE FUNCTION bench_note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN INSERT INTO bench_ends VALUES (NEW.map_index, clock_timestamp()); RETURN NEW; END $$;
CREATE TRIGGER bench_ends AFTER UPDATE ON task_instance FOR EACH ROW
WHEN (OLD.state = 'deferred' AND NEW.state <> 'deferred' AND NEW.map_index >= 0) EXECUTE FUNCTION bench_note();
"""
"""Notes each time that a waiting task is released."""


@contextmanager
def stage(report: Report) -> Iterator[Stage]:
    """Start everything, and leave one task of each kind waiting in a triggerer that stands still."""
    shutil.rmtree(WORK, ignore_errors=True)
    _raise_open_files()
    try:
        with (
            LocalPostgres(WORK / "postgres", settings={"max_connections": "200"}) as server,
            _airflow(WORK, server) as airflow,
        ):
            made = Stage(server, airflow, report)
            made.defer_one()
            yield made
    finally:
        stop_all_in(WORK)
        shutil.rmtree(WORK, ignore_errors=True)


def _raise_open_files() -> None:
    """Every trigger has a log file."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@contextmanager
def _airflow(work: Path, server: LocalPostgres) -> Iterator[LocalAirflow]:
    server.create_database(DATABASE)
    with LocalAirflow(
        work / "airflow",
        dags={"waiting": DAGS},
        metadata_url=server.url(DATABASE, driver="postgresql+psycopg2"),
        env={
            "AIRFLOW_EXT_BENCH_POLL": str(POLL),
            "AIRFLOW_EXT_BENCH_CONTRACTS": str(CONTRACTS),
            "AIRFLOW__TRIGGERER__CAPACITY": "20000",
            "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": str(HEALTH_SECONDS),
        },
    ) as airflow:
        yield airflow


class _RestState:
    """Asset state over the REST API, as the verdict store wants it."""

    def __init__(self, client: AirflowClient, asset_id: int) -> None:
        self._client = client
        self._path = f"/assets/{asset_id}/state-store"

    def get(self, key: str, default: Any = None) -> Any:
        found = self._client.request("GET", self._path, params={"limit": 100})
        values = {item["key"]: item["value"] for item in found["asset_state_store"]}
        value = values.get(key, default)
        return json.loads(value) if isinstance(value, str) else value

    def set(self, key: str, value: Any) -> None:
        self._client.request("PUT", f"{self._path}/{key.replace('/', '%2F')}", json={"value": value})

    def delete(self, key: str) -> None:
        raise NotImplementedError

    async def aget(self, key: str, default: Any = None) -> Any:
        raise NotImplementedError


class Stage:
    """The Airflow and what is done in it."""

    def __init__(self, server: LocalPostgres, airflow: LocalAirflow, report: Report) -> None:
        self.server = server
        self.airflow = airflow
        self.report = report
        self.assets: dict[str, int] = {}

    def sql(self, statement: str) -> list[tuple[Any, ...]]:
        return self.server.execute(statement, database=DATABASE)

    def count(self, task: str, state: str) -> int:
        where = f"task_id = '{task}' AND state = '{state}' AND map_index >= 0"
        return int(self.sql(f"SELECT count(*) FROM task_instance WHERE {where}")[0][0])

    def defer_one(self) -> None:
        """Let one task of each kind defer, publish an earlier partition of each contract, and stop what starts tasks."""
        client = self.airflow.client
        client.wait_for_dags(["waiting", "upstream", "names"])
        run = client.trigger("waiting", logical_date="2013-01-05T00:00:00+00:00")
        for task in ("contract", "external_task"):
            client.wait_for_task("waiting", run, task, states={"deferred"})
        self.assets = {name: int(number) for number, name in self.sql("SELECT id, name FROM asset")}
        self.publish_at_once(range(CONTRACTS), EARLIER)
        self.sql(AUDIT)
        self.report.say("waiting: one task of each kind is deferred; scheduler and dag-processor stop")
        for name in ("scheduler", "dag-processor", "triggerer"):
            self.airflow.kill_component(name, signal.SIGTERM if name == "triggerer" else signal.SIGKILL)

    def start_triggerer(self, *, called: str = "triggerer") -> None:
        """Start a triggerer; several may run."""
        self.airflow.start_component("triggerer", "--skip-serve-logs", called=called, env=TRIGGERER)

    def idle(self) -> float:
        """Start a triggerer and return its megabytes while only the two tasks wait."""
        self.start_triggerer()
        self.wait_until_loaded()
        time.sleep(10)
        return self.memory()

    def memory(self) -> float:
        """Return the triggerer's megabytes."""
        return pss_of(component_process(self.airflow, "triggerer"))

    def wait_until_loaded(self) -> None:
        """Wait until triggerers that live run all triggers."""
        started = time.monotonic()
        alive = (
            "SELECT id FROM job WHERE job_type = 'TriggererJob' AND end_date IS NULL "
            f"AND latest_heartbeat > now() - interval '{HEALTH_SECONDS} s'"
        )
        left = f"SELECT count(*) FROM trigger WHERE triggerer_id IS NULL OR triggerer_id NOT IN ({alive})"
        wait_until(lambda: self.sql(left)[0][0] == 0, timeout=PATIENCE, what="all triggers claimed")
        wait_until(self._settled, timeout=PATIENCE, what="all triggers run")
        count = self.sql("SELECT count(*) FROM trigger")[0][0]
        self.report.say(f"waiting: {count:,} triggers run after {time.monotonic() - started:.0f} s")

    def _settled(self) -> bool:
        """Whether the triggerer's memory no longer grows: a trigger that was claimed is made some time later."""
        before = self.memory()
        time.sleep(SETTLE_SECONDS)
        return self.memory() - before < 1

    def wait_for_ends(self, waiters: int) -> int:
        """Wait until so many have ended with success and return how many are missing then."""
        try:
            wait_until(lambda: self.count("contract", "success") >= waiters, timeout=PATIENCE, what="ends")
        except TimeoutError:
            return waiters - self.count("contract", "success")
        return 0

    def first_and_last(self, low: int, high: int) -> tuple[float, float]:
        """Return when the first and when the last of some copies ended, in seconds since the epoch."""
        rows = self.sql(
            "SELECT extract(epoch FROM min(end_date)), extract(epoch FROM max(end_date)) FROM task_instance "
            f"WHERE task_id = 'contract' AND map_index >= {low} AND map_index < {high}"
        )
        return float(rows[0][0]), float(rows[0][1])

    def kwargs_of(self, task: str) -> dict[str, Any]:
        found = self.sql(
            "SELECT t.kwargs FROM trigger t JOIN task_instance i ON i.trigger_id = t.id "
            f"WHERE i.task_id = '{task}' AND i.map_index < 0"
        )
        stored = found[0][0]
        text = stored if stored.startswith("{") else self.fernet().decrypt(stored.encode())
        decrypted: dict[str, Any] = json.loads(text)
        return decrypted

    def fernet(self) -> Any:
        from cryptography.fernet import Fernet

        return Fernet(self.airflow.environment["AIRFLOW__CORE__FERNET_KEY"].encode())

    def for_contract(self, kwargs: dict[str, Any], number: int) -> dict[str, Any]:
        changed: dict[str, Any] = json.loads(json.dumps(kwargs).replace("bench0>", f"bench{number}>"))
        return changed

    def clone(
        self, task: str, copies: int, variants: Sequence[dict[str, Any]], *, classpath: str | None = None
    ) -> None:
        """Copy trigger and task instance of a task; as many copies in a row as each variant of arguments has.

        :param classpath: Trigger of the copies, if another.
        """
        texts = [self.fernet().encrypt(json.dumps(each).encode()).decode() for each in variants]
        columns = [
            name
            for (name,) in self.sql(
                "SELECT column_name FROM information_schema.columns WHERE table_name = 'task_instance' "
                "AND table_schema = 'public'"
            )
            if name not in ("id", "map_index", "trigger_id")
        ]
        listed = ", ".join(f'"{name}"' for name in columns)
        with closing(self.server.connect(DATABASE)) as connection, connection, connection.cursor() as cursor:
            cursor.execute(
                f"SELECT id, trigger_id FROM task_instance WHERE task_id = '{task}' AND map_index < 0"
            )
            instance, trigger = cursor.fetchone()
            cursor.execute(
                """
                INSERT INTO trigger (classpath, kwargs, created_date, queue)
                SELECT coalesce(%s, t.classpath), v.text, now(), t.queue
                FROM trigger t, unnest(%s) WITH ORDINALITY AS v(text, number), generate_series(1, %s)
                WHERE t.id = %s ORDER BY v.number RETURNING id
                """,
                [classpath, texts, copies // len(texts), trigger],
            )
            ids = [row[0] for row in cursor.fetchall()]
            cursor.execute(
                f"""
                INSERT INTO task_instance (id, map_index, trigger_id, {listed})
                SELECT gen_random_uuid(), v.number - 1, v.id, {listed}
                FROM task_instance, unnest(%s) WITH ORDINALITY AS v(id, number) WHERE task_instance.id = %s
                """,
                [ids, instance],
            )
        self.sql("ANALYZE")
        self.report.say(f"waiting: {copies:,} copies of a waiting task")

    def per_minute(self, look: Callable[[], int], seconds: float) -> float:
        before, started = look(), time.monotonic()
        time.sleep(seconds)
        return (look() - before) * 60 / (time.monotonic() - started)

    def store_reads(self) -> int:
        return self.scans("asset_state_store")

    def scans(self, table: str) -> int:
        found = self.sql(
            f"SELECT seq_scan + coalesce(idx_scan, 0) FROM pg_stat_user_tables WHERE relname = '{table}'"
        )
        return int(found[0][0])

    def commits(self) -> int:
        found = self.sql(f"SELECT xact_commit FROM pg_stat_database WHERE datname = '{DATABASE}'")
        return int(found[0][0])

    def publish(self, number: int) -> float:
        """Publish a contract over the REST API and return when that was done."""
        store = AssetVerdictStore(lambda name: _RestState(self.airflow.client, self.assets[name]))
        store.publish(_verdict(number), rule=RULE)
        return time.time()

    def ends(self, number: int) -> list[float]:
        low = number * EACH
        rows = self.sql(
            "SELECT extract(epoch FROM end_date) FROM task_instance WHERE task_id = 'contract' "
            f"AND state = 'success' AND map_index >= {low} AND map_index < {low + EACH}"
        )
        return [float(row[0]) for row in rows]

    def publish_at_once(self, numbers: Iterable[int], day: str) -> float:
        """Publish contracts in one statement and return when that was done."""
        rows = []
        for number in numbers:
            made = _verdict(number, day).numbered(1 if day == EARLIER else 2)
            head = Head().with_entry(EARLIER, Entry(Status.PASS, 1, made.version), RULE)
            head = head.with_entry(day, Entry(made.status, made.seq, made.version), RULE)
            asset = self.assets[f"contract/bench{number}/v1"]
            rows += [
                (asset, f"p/{day}", json.dumps(made.to_dict())),
                (asset, "head", json.dumps(head.to_dict())),
            ]
        with closing(self.server.connect(DATABASE)) as connection, connection, connection.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO asset_state_store (asset_id, key, value, updated_at) VALUES (%s, %s, %s, now()) "
                "ON CONFLICT (asset_id, key) DO UPDATE SET value = excluded.value, updated_at = now()",
                rows,
            )
        return time.time()


def _verdict(number: int, day: str = DAY) -> Verdict:
    at = datetime.now(UTC).isoformat(timespec="milliseconds")
    return Verdict(f"bench{number}", "1.0.0", day, Status.PASS, rows=1_000, at=at, owner="bench")
