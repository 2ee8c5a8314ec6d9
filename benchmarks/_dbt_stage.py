"""A real Airflow beside a warehouse for the parts of the dbt benchmark, and what is measured on it."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from airflow_ext.testing.local_airflow import COMPONENTS, LocalAirflow
from airflow_ext.testing.postgres import LocalPostgres
from airflow_ext.testing.processes import processes_in
from benchmarks._dbt_projects import PASSWORD_VARIABLE, PORT_VARIABLE, Shape, generate, prepare_warehouse

DAGS = Path(__file__).with_name("dbt_dags")
WORK_VARIABLE = "AIRFLOW_EXT_BENCH_WORK"
PARALLELISM = 4
SETTLE = 4.0
PATIENCE = 45.0
QUIET_SHARE = 0.2
"""A machine is quiet if less than this share of its cores is at work for two seconds."""

QUIET = {"DBT_SEND_ANONYMOUS_USAGE_STATS": "false", "DBT_VERSION_CHECK": "false", "DBT_USE_COLORS": "false"}
"""For everybody's dbt: nobody waits for a server on the internet."""

LOOPS = {
    "AIRFLOW__LOGGING__NAMESPACE_LEVELS": "airflow.jobs.scheduler_job_runner.SchedulerJobRunner=DEBUG",
}
"""Lets the scheduler log how long each of its loops took."""

WORKER = "airflow worker -- LocalExecutor"
"""How the title of an executor's process begins."""

_TICKS = os.sysconf("SC_CLK_TCK")
_LOOP = re.compile(r"Ran scheduling loop in ([\d.]+) ms")
_BLOCKED = re.compile(r"async thread was blocked for ([\d.]+) seconds")


class Stage:
    """One PostgreSQL for metadata and warehouses, and one Airflow at a time.

    :param work: Folder for all state.
    """

    def __init__(self, work: Path, server: LocalPostgres) -> None:
        self.work = work
        self.server = server

    @property
    def projects(self) -> Path:
        """Folder of the generated projects."""
        return self.work / "projects"

    def project(self, shape: Shape) -> Path:
        """Generate a project with its manifest and an empty database for it."""
        prepare_warehouse(shape, self.server)
        return generate(shape, self.projects)

    @contextmanager
    def airflow(
        self, part: str, *, env: Mapping[str, str] | None = None, python: Path | None = None
    ) -> Iterator[LocalAirflow]:
        """Run an Airflow with the DAGs of one part and a metadata database of its own.

        :param part: Folder of the DAGs.
        :param env: Further environment.
        :param python: Interpreter of another environment; ``None`` means ours.
        """
        database = f"airflow_{part}"
        self.server.create_database(database)
        with LocalAirflow(
            self.work / "airflow" / part,
            dags={part: DAGS / part},
            metadata_url=self.server.url(database, driver="postgresql+psycopg2"),
            env={
                WORK_VARIABLE: str(self.work),
                PORT_VARIABLE: str(self.server.port),
                PASSWORD_VARIABLE: self.server.password,
                **QUIET,
                **(env or {}),
            },
            parallelism=PARALLELISM,
            **({"python": str(python)} if python is not None else {}),
        ) as running:
            yield running

    def xcom_rows(self, part: str, dag_id: str, run_id: str) -> int:
        """Return how many rows a run left in the metadata's ``xcom``."""
        counted = f"SELECT count(*) FROM xcom WHERE dag_id = '{dag_id}' AND run_id = '{run_id}'"
        return int(self.server.execute(counted, database=f"airflow_{part}")[0][0])


@dataclass(frozen=True)
class RunFigures:
    """What one DAG run took.

    :param run_id: The run.
    :param state: How it ended.
    :param wall: Seconds from its start to its end, as Airflow has them.
    :param cpu_parts: CPU-seconds of Airflow's components and its workers meanwhile, with their children; that of
        PostgreSQL, metadata and warehouse together, is no part of :attr:`cpu`.
    :param xcom_rows: Rows in the metadata's ``xcom``.
    """

    run_id: str
    state: str
    wall: float
    cpu_parts: Mapping[str, float]
    xcom_rows: int

    @property
    def cpu(self) -> float:
        """CPU-seconds of all processes of Airflow meanwhile, with their children."""
        return sum(value for name, value in self.cpu_parts.items() if name != "postgres")


def measure_run(
    stage: Stage, airflow: LocalAirflow, part: str, dag_id: str, *, timeout: float, watch: Watch | None = None
) -> RunFigures:
    """Trigger a DAG, wait for its end and return what the run took.

    :param timeout: Seconds.
    :param watch: Samples memory while the run lasts.
    """
    before = cpu_parts(stage, airflow)
    run_id = airflow.client.trigger(dag_id)
    deadline = time.monotonic() + timeout
    while True:
        run = airflow.client.run(dag_id, run_id)
        if run["state"] in {"success", "failed"}:
            break
        if time.monotonic() > deadline:
            raise TimeoutError(f"{dag_id} did not end within {timeout:.0f} s")
        if watch is not None:
            watch.look()
        time.sleep(0.3)
    after = cpu_parts(stage, airflow)
    return RunFigures(
        run_id=run_id,
        state=run["state"],
        wall=seconds_of(run),
        cpu_parts={name: round(after[name] - before[name], 2) for name in after},
        xcom_rows=stage.xcom_rows(part, dag_id, run_id),
    )


def settle() -> None:
    """Wait until callbacks and logs of the run before are done with and the machine is quiet, at most for a while."""
    time.sleep(SETTLE)
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        before = _busy_ticks()
        time.sleep(2)
        if (_busy_ticks() - before) / _TICKS / 2 < QUIET_SHARE * (os.cpu_count() or 1):
            return


def _busy_ticks() -> int:
    user, nice, system, *_ = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    return int(user) + int(nice) + int(system)


def seconds_of(run: Mapping[str, Any]) -> float:
    """Return the seconds between start and end of a run or a task instance of the REST API."""
    start, end = datetime.fromisoformat(run["start_date"]), datetime.fromisoformat(run["end_date"])
    return (end - start).total_seconds()


def cpu_parts(stage: Stage, airflow: LocalAirflow) -> dict[str, float]:
    """Return the CPU-seconds so far of each component, of the executor's workers and of PostgreSQL.

    Children that have ended are part of their parents' figures, so that a difference of two looks is right
    as long as the processes at the top live on.
    """
    table = _processes()

    def cpu(pids: Iterable[int]) -> float:
        return sum(table[pid][1] for pid in pids) / _TICKS

    parts = {name: set(_tree(component_process(airflow, name), table)) for name in COMPONENTS}
    tops = [pid for pid in parts["scheduler"] if _title(pid).startswith(WORKER)]
    parts["workers"] = {pid for top in tops for pid in _tree(top, table)}
    parts["scheduler"] -= parts["workers"]
    parts["postgres"] = {pid for top in processes_in(stage.server.home) for pid in _tree(top, table)}
    return {name: cpu(pids) for name, pids in parts.items()}


def busy_workers(airflow: LocalAirflow) -> list[int]:
    """Return the ids of the executor's processes that have a task."""
    titles = {pid: _title(pid) for pid in processes_in(airflow.home)}
    return [pid for pid, title in titles.items() if title.startswith(WORKER) and "<idle>" not in title]


def children_of(top: int) -> list[int]:
    """Return the ids of all processes below one."""
    return [pid for pid in _tree(top, _processes()) if pid != top]


def pss_of(top: int) -> float:
    """Return the megabytes of a process and its children, shared ones counted in part."""
    total = 0
    for pid in _tree(top, _processes()):
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:  # gone meanwhile
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1024


def _title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:  # gone meanwhile
        return ""


def _processes() -> dict[int, tuple[int, int]]:
    """Return parent and clock ticks, those of ended children included, of every process."""
    table = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # gone meanwhile
            continue
        table[int(entry.name)] = (int(fields[1]), sum(int(value) for value in fields[11:15]))
    return table


def _tree(top: int, table: Mapping[int, tuple[int, int]]) -> list[int]:
    below: dict[int, list[int]] = {}
    for pid, (parent, _) in table.items():
        below.setdefault(parent, []).append(pid)
    found = [top] if top in table else []
    for pid in found:
        found += below.get(pid, [])
    return found


def component_process(airflow: LocalAirflow, name: str) -> int:
    """Return the process id of a component: the one that leads its session and has it in its command line.

    :raises LookupError: If it does not run.
    """
    for pid in processes_in(airflow.home):
        with suppress(ProcessLookupError):
            if os.getsid(pid) == pid and name in _title(pid).replace("_", "-"):
                return pid
    raise LookupError(f"no {name} runs in {airflow.home}")


@dataclass
class Watch:
    """What scheduler and triggerer say of themselves while a run lasts.

    :param airflow: The Airflow; must have been started with :data:`LOOPS`.
    """

    airflow: LocalAirflow
    memory: list[float] = field(default_factory=list)
    _triggerer: int = 0
    _offsets: dict[str, int] = field(default_factory=dict)
    _next: float = 0.0

    def __post_init__(self) -> None:
        self._triggerer = component_process(self.airflow, "triggerer")
        for name in ("scheduler", "triggerer"):
            self._offsets[name] = self.airflow.log_of(name).stat().st_size
        self.look()

    def look(self) -> None:
        """Take a sample of the triggerer's memory, at most every two seconds."""
        if time.monotonic() >= self._next:
            self.memory.append(pss_of(self._triggerer))
            self._next = time.monotonic() + 2

    def figures(self) -> dict[str, float]:
        """Return loop times of the scheduler, blockades of the triggerer's loop and its memory."""
        loops = sorted(float(value) / 1000 for value in _LOOP.findall(self._said("scheduler")))
        blocked = [float(value) for value in _BLOCKED.findall(self._said("triggerer"))]
        return {
            "scheduler_loops": len(loops),
            "scheduler_loop_p50_s": round(_quantile(loops, 0.5), 3),
            "scheduler_loop_p95_s": round(_quantile(loops, 0.95), 3),
            "scheduler_loop_max_s": round(loops[-1], 3) if loops else 0.0,
            "triggerer_blocked_times": len(blocked),
            "triggerer_blocked_max_s": max(blocked, default=0.0),
            "triggerer_blocked_sum_s": round(sum(blocked), 2),
            "triggerer_idle_mb": round(self.memory[0]),
            "triggerer_max_mb": round(max(self.memory)),
        }

    def _said(self, name: str) -> str:
        with self.airflow.log_of(name).open("rb") as log:
            log.seek(self._offsets[name])
            return log.read().decode(errors="replace")


def _quantile(values: Sequence[float], share: float) -> float:
    return values[min(len(values) - 1, int(len(values) * share))] if values else 0.0
