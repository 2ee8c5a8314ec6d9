"""Tell OpenLineage what each node of a dbt run read, wrote and tested.

The OpenLineage provider tells of the Airflow task. Here its dbt nodes are told as runs below it, through the
provider's client: its transport and its settings hold. Without the provider, or while it is disabled, nothing is sent
and no client is imported.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from airflow_ext.dbt.index import DbtIndex
from airflow_ext.dbt.results import NodeRecord
from airflow_ext.hooks._dbt_lineage_runs import Lineage, read_details

if TYPE_CHECKING:
    from airflow.sdk.definitions.context import Context
    from openlineage.client import OpenLineageClient
    from openlineage.client.event_v2 import RunEvent

    from airflow_ext.dbt.project import DbtProject

log = logging.getLogger(__name__)
_of_events = logging.getLogger(f"{__name__}.events")
_of_events.setLevel(logging.WARNING)

BOUND = 30.0
"""Seconds that telling may take in all."""

_PROVIDER = "airflow.providers.openlineage"


def emit_lineage(
    context: Context,
    project: DbtProject,
    index: DbtIndex,
    records: Mapping[str, NodeRecord],
    *,
    started: float,
    command: str = "build",
    manifest: Path | None = None,
    bound: float = BOUND,
) -> int:
    """Tell OpenLineage of the nodes that a run of dbt executed; what goes wrong is a warning in the log.

    It ends at the first event that cannot be sent, and when the time is over: a server that is down shall not hold
    up a build.

    :param context: Context of the task that ran dbt.
    :param project: The project; without its ``namespace`` the events name no datasets.
    :param index: Its graph, or that of a selection.
    :param records: What became of the nodes and tests that this try ran, by id.
    :param started: When the try began, seconds since 1970: the time told for what dbt gave none.
    :param command: dbt's command, a part of the jobs' names.
    :param manifest: The ``manifest.json`` that this run left: it has the SQL of what went well, and what tests look at.
        ``None`` means that only the SQL of failures and the tests' names are told.
    :param bound: Seconds that this may take in all.
    :return: How many models, seeds, snapshots and tests were told; 0 without the provider or while it is disabled.
    """
    deadline = time.monotonic() + bound
    try:
        if find_spec(_PROVIDER) is None:
            return 0
        from airflow.providers.openlineage import conf

        if conf.is_disabled():
            return 0
        from airflow.providers.openlineage.utils.emission_policy import resolve_task_emission_policy

        ti = context["ti"]
        policy = resolve_task_emission_policy(cast("Any", context)["task"], ti.dag_id, ti.task_id)
        if not policy.emit:
            return 0
        lineage = Lineage(
            context,
            project,
            _whole(project, index),
            records,
            started=datetime.fromtimestamp(started, UTC),
            command=command,
            details=read_details(manifest),
            with_sql=policy.include_source_code,
        )
        told, problem = _Courier(lineage, deadline).send()
    except Exception as exc:  # noqa: BLE001  # whatever is wrong with lineage, the build has its own result
        told, problem = 0, _described(exc)
    if problem:
        log.warning("OpenLineage was told of %d dbt nodes and tests and not of the rest: %s", told, problem)
    else:
        log.info("OpenLineage was told of %d dbt nodes and tests", told)
    return told


def _whole(project: DbtProject, index: DbtIndex) -> DbtIndex:
    """Return the graph of the whole manifest: a node reads also what is not selected with it."""
    if "." not in index.key:
        return index
    whole = project.whole_index()
    if whole.key == index.key.partition(".")[0]:
        return whole
    log.info(
        "The manifest has changed since the DAG was read: OpenLineage is told the selection's edges only"
    )
    return index


def _described(exc: BaseException) -> str:
    """Return an error's kind and place; the text of most may hold settings of the transport."""
    if isinstance(exc, ImportError):
        return str(exc)
    trace = exc.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = f" at {Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}" if trace else ""
    return f"{type(exc).__name__}{place}"


class _Watched:
    """A client that remembers that it failed; the provider's adapter only logs that.

    :param client: The client.
    """

    def __init__(self, client: OpenLineageClient) -> None:
        self._client = client
        self.transport = client.transport
        self.failed = False

    def emit(self, event: RunEvent) -> None:
        """Send an event."""
        try:
            self._client.emit(event)
        except Exception:
            self.failed = True
            raise


class _Courier:
    """Send events in a thread of their own, so that a server that does not answer holds nobody up.

    :param lineage: What to tell.
    :param deadline: When to stop, by the monotonic clock.
    """

    def __init__(self, lineage: Lineage, deadline: float) -> None:
        self._lineage, self._deadline = lineage, deadline
        self._stop = threading.Event()
        self._told = 0
        self._problem = ""

    def send(self) -> tuple[int, str]:
        """Return how many ids were told, and why not all."""
        thread = threading.Thread(target=self._run, name="dbt-lineage", daemon=True)
        thread.start()
        thread.join(self._left())
        if thread.is_alive():
            self._stop.set()
            return self._told, "the time for it is over"
        return self._told, self._problem

    def _left(self) -> float:
        return max(0.0, self._deadline - time.monotonic())

    def _run(self) -> None:
        try:
            self._tell()
        except Exception as exc:  # noqa: BLE001  # told by the thread that waits
            self._problem = self._problem or _described(exc)

    def _tell(self) -> None:
        from airflow.providers.openlineage.plugins.adapter import OpenLineageAdapter

        class Adapter(OpenLineageAdapter):
            """The provider's adapter without its line in the log for each event: they would drown dbt's."""

            @property
            def log(self) -> Any:
                return _of_events

        client = OpenLineageAdapter().get_or_create_openlineage_client()
        watched = _Watched(client)
        # The adapter masks the secrets that Airflow knows.
        adapter = Adapter(client=cast("OpenLineageClient", watched))
        try:
            for run in self._lineage.runs():
                for event in run.events():
                    if self._stop.is_set():
                        return
                    adapter.emit(event)
                    if watched.failed:
                        self._problem = "an event could not be sent, see the warning above"
                        return
                self._told += run.ids
        finally:
            # Some transports send in the background.
            if not client.close(self._left()) and not self._problem:
                self._problem = "its transport did not send all in time"
