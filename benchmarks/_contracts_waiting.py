"""Ten thousand tasks that wait for two hundred contracts in one triggerer: what they cost, how fast they go on.

One task defers for real; then its rows are copied with scheduler and dag-processor stopped, so that ten thousand
tasks wait without ten thousand starts of a worker.
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
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
from benchmarks._contracts_waiting_quick import quick_part
from benchmarks._dbt_stage import component_process, pss_of
from benchmarks.report import Report

WORK = Path(__file__).parents[1] / ".bench" / "contracts_waiting"
DAGS = Path(__file__).with_name("contracts_dags") / "waiting"
DATABASE = "airflow_waiting"
WAITERS, CONTRACTS, POLL = 10_000, 200, 30.0
EACH = WAITERS // CONTRACTS
PEERS = 1_000
DAY = "2013-01-05"
RULE = PartitionRule()
ALONE, ORPHANED = 6, 5
"""Contracts published one by one, and while no triggerer runs."""
READ_SECONDS = 60.0
PEER_SECONDS = 45.0
PATIENCE = 240.0


def waiting_part(report: Report, *, quick: bool) -> None:
    """Add the bars about waiting.

    :param quick: Only the reader of a shared database, within one process.
    """
    shutil.rmtree(WORK, ignore_errors=True)
    try:
        if quick:
            quick_part(WORK, report)
            report.skip("waiting in a real triggerer, beside ExternalTaskSensor")
            return
        _raise_open_files()
        with (
            LocalPostgres(WORK / "postgres", settings={"max_connections": "200"}) as server,
            _airflow(WORK, server) as airflow,
        ):
            _Waiting(server, airflow, report).run()
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
            "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "10",
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


class _Waiting:
    def __init__(self, server: LocalPostgres, airflow: LocalAirflow, report: Report) -> None:
        self.server = server
        self.airflow = airflow
        self.report = report
        self.assets: dict[str, int] = {}

    def run(self) -> None:
        self.defer_one()
        idle = self.start_triggerer()
        contract_kwargs = self.kwargs_of("contract")
        self.clone("contract", WAITERS, [self.for_contract(contract_kwargs, n) for n in range(CONTRACTS)])
        self.wait_until_loaded(WAITERS)
        self.cost(idle)
        self.alone()
        lost = self.killed()
        self.at_once()
        left = WAITERS - self.count("contract", "success")
        self.report.bar(
            "waiters that were not released, over publications before, while and after a triggerer was killed -9",
            left + lost,
            "==",
            0,
            unit="waiters",
        )

    def sql(self, statement: str) -> list[tuple[Any, ...]]:
        return self.server.execute(statement, database=DATABASE)

    def count(self, task: str, state: str) -> int:
        where = f"task_id = '{task}' AND state = '{state}' AND map_index >= 0"
        return int(self.sql(f"SELECT count(*) FROM task_instance WHERE {where}")[0][0])

    def defer_one(self) -> None:
        client = self.airflow.client
        client.wait_for_dags(["waiting", "upstream", "names"])
        run = client.trigger("waiting", logical_date="2013-01-05T00:00:00+00:00")
        for task in ("contract", "external_task"):
            client.wait_for_task("waiting", run, task, states={"deferred"})
        self.assets = {name: int(number) for number, name in self.sql("SELECT id, name FROM asset")}
        self.report.say("waiting: one task of each kind is deferred; scheduler and dag-processor stop")
        for name in ("scheduler", "dag-processor", "triggerer"):
            self.airflow.kill_component(name, signal.SIGTERM if name == "triggerer" else signal.SIGKILL)

    def start_triggerer(self) -> float:
        """Start a triggerer and return its megabytes while only the two tasks wait."""
        self.airflow.start_component("triggerer")
        self.wait_until_loaded(0)
        time.sleep(10)
        return pss_of(component_process(self.airflow, "triggerer"))

    def wait_until_loaded(self, waiters: int) -> None:
        """Wait until as many triggers run, each of which has its log file open, and the reader has polled."""
        started = time.monotonic()

        def loaded() -> bool:
            unclaimed = self.sql("SELECT count(*) FROM trigger WHERE triggerer_id IS NULL")[0][0]
            return not unclaimed and self.open_files() >= waiters

        wait_until(loaded, timeout=PATIENCE, what=f"{waiters} triggers run")
        if waiters:
            self.report.say(f"waiting: {waiters:,} triggers run after {time.monotonic() - started:.0f} s")

    def open_files(self) -> int:
        top = component_process(self.airflow, "triggerer")
        pids = [top, *map(int, Path(f"/proc/{top}/task/{top}/children").read_text().split())]
        return max(_files_of(pid) for pid in pids)

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

    def clone(self, task: str, copies: int, variants: Sequence[dict[str, Any]]) -> None:
        """Copy trigger and task instance of a task; the copies take the variants of arguments in turn."""
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
                SELECT t.classpath, v.text, now(), t.queue
                FROM trigger t, unnest(%s) WITH ORDINALITY AS v(text, number), generate_series(1, %s)
                WHERE t.id = %s ORDER BY v.number RETURNING id
                """,
                [texts, copies // len(texts), trigger],
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
        self.report.say(f"waiting: {copies:,} copies of a waiting task")

    def cost(self, idle: float) -> None:
        time.sleep(POLL + 5)
        memory = pss_of(component_process(self.airflow, "triggerer")) - idle
        reads = self.per_minute(self.store_reads, READ_SECONDS)
        peers = self.peers()
        self.report.bar(
            f"store reads a minute of {WAITERS:,} waiters on {CONTRACTS} contracts, poll {POLL:g} s",
            reads,
            "<=",
            500,
            unit="reads/min",
            peers=peers,
        )
        self.report.bar(
            f"memory of the triggerer with {WAITERS:,} waiters, over idle",
            memory,
            "<=",
            400,
            unit="MB",
            peers={"idle_mb": round(idle)},
        )

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

    def peers(self) -> dict[str, Any]:
        """Add waiting ExternalTaskSensors and return what they ask a minute, beside ours."""
        ours = self.per_minute(self.commits, PEER_SECONDS)
        self.clone("external_task", PEERS, [self.kwargs_of("external_task")])
        self.wait_until_loaded(WAITERS + PEERS)
        time.sleep(5)
        both = self.per_minute(self.commits, PEER_SECONDS)
        self.sql("DELETE FROM task_instance WHERE task_id = 'external_task' AND map_index >= 0")
        self.sql("DELETE FROM trigger WHERE classpath LIKE '%WorkflowTrigger'")
        return {
            f"ExternalTaskSensor, {PEERS:,} waiters: transactions a minute more": round(both - ours),
            f"ExternalTaskSensor, {WAITERS:,} waiters, by that": round((both - ours) * WAITERS / PEERS),
            "transactions a minute of the whole triggerer with ours": round(ours),
        }

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

    def alone(self) -> None:
        """Publish some contracts at moments that have nothing to do with the reader's."""
        rng = random.Random(7)  # noqa: S311  # moments of a measurement
        published = {}
        for number in range(ALONE):
            time.sleep(rng.uniform(1, POLL / 3))
            published[number] = self.publish(number)
        wait_until(
            lambda: self.count("contract", "success") >= ALONE * EACH, timeout=PATIENCE, what="releases"
        )
        seconds = sorted(end - at for number, at in published.items() for end in self.ends(number))
        p95 = seconds[int(len(seconds) * 0.95)]
        self.report.bar(
            f"release of one contract's {EACH} waiters after its publication, p95",
            p95,
            "<=",
            POLL + 2,
            unit="s",
            peers={"median": round(seconds[len(seconds) // 2], 1), "max": round(seconds[-1], 1)},
        )

    def killed(self) -> int:
        """Publish while no triggerer runs, start one, and return how many waiters it forgot."""
        self.airflow.kill_component("triggerer")
        for number in range(ALONE, ALONE + ORPHANED):
            self.publish(number)
        self.airflow.start_component("triggerer")
        expected = (ALONE + ORPHANED) * EACH
        self.report.say("waiting: the triggerer was killed -9 and starts again")
        try:
            wait_until(
                lambda: self.count("contract", "success") >= expected,
                timeout=PATIENCE,
                what="orphans released",
            )
        except TimeoutError:
            return expected - self.count("contract", "success")
        self.wait_until_loaded(WAITERS - expected)
        return 0

    def at_once(self) -> None:
        """Publish all other contracts in one statement and measure until the last waiter has ended."""
        time.sleep(POLL)
        published = self.publish_rest()
        wait_until(
            lambda: self.count("contract", "success") >= WAITERS, timeout=PATIENCE, what="all are released"
        )
        rows = self.sql(
            "SELECT extract(epoch FROM max(end_date)), extract(epoch FROM min(end_date)) FROM task_instance "
            f"WHERE task_id = 'contract' AND map_index >= {(ALONE + ORPHANED) * EACH}"
        )
        last, first = float(rows[0][0]) - published, float(rows[0][1]) - published
        many = WAITERS - (ALONE + ORPHANED) * EACH
        self.report.bar(
            f"release of all at once ({many:,} waiters), from the first end to the last",
            last - first,
            "<=",
            60,
            unit="s",
            peers={
                "from publication to the first end": round(first, 1),
                "from publication to the last end": round(last, 1),
                "a second": round(many / (last - first)),
            },
        )

    def publish_rest(self) -> float:
        rows = []
        for number in range(ALONE + ORPHANED, CONTRACTS):
            made = _verdict(number).numbered(1)
            head = Head().with_entry(DAY, Entry(made.status, 1, made.version), RULE)
            asset = self.assets[f"contract/bench{number}/v1"]
            rows += [
                (asset, f"p/{DAY}", json.dumps(made.to_dict())),
                (asset, "head", json.dumps(head.to_dict())),
            ]
        with closing(self.server.connect(DATABASE)) as connection, connection, connection.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO asset_state_store (asset_id, key, value, updated_at) VALUES (%s, %s, %s, now())",
                rows,
            )
        return time.time()


def _verdict(number: int) -> Verdict:
    at = datetime.now(UTC).isoformat(timespec="milliseconds")
    return Verdict(f"bench{number}", "1.0.0", DAY, Status.PASS, rows=1_000, at=at, owner="bench")


def _files_of(pid: int) -> int:
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208  # ten thousand names, no paths
    except OSError:  # gone meanwhile
        return 0
