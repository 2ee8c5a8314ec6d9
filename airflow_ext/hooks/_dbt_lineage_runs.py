"""What OpenLineage is told of a run of dbt: its runs, jobs, datasets and facets.

Names are those of OpenLineage's dbt integration, so that what came from there before goes on under the same names.
Its classes are imported when they are needed: they may not be installed.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import msgspec

from airflow_ext import __version__
from airflow_ext.dbt.index import DbtIndex, DbtNode
from airflow_ext.dbt.outcome import COMPILED_LIMIT
from airflow_ext.dbt.results import BAD, MESSAGE_LIMIT, NodeRecord

if TYPE_CHECKING:
    from airflow.sdk.definitions.context import Context
    from openlineage.client.event_v2 import InputDataset, RunEvent
    from openlineage.client.facet_v2 import (
        InputDatasetFacet,
        JobFacet,
        OutputDatasetFacet,
        RunFacet,
        parent_run,
        test_run,
    )
    from openlineage.client.facet_v2 import data_quality_assertions_dataset as quality

    from airflow_ext.dbt.project import DbtProject

log = logging.getLogger(__name__)

_BUILT = frozenset({"success", "warn", *BAD})
"""Statuses of a node that dbt executed; ``skipped``, ``reused`` and ``no-op`` are none."""
_TESTED = frozenset({"pass", "warn", *BAD})
_HASH = re.compile(r"\.[0-9a-f]{10}$")
_PLACEHOLDER = re.compile(r"-(_|$)")
"""What a manifest has for the warehouse's names if it was made without them."""

_Dataset = tuple[str, str]


class _Kwargs(msgspec.Struct):
    column_name: str | None = None


class _TestMetadata(msgspec.Struct):
    name: str
    kwargs: _Kwargs = msgspec.field(default_factory=_Kwargs)


class _Config(msgspec.Struct):
    severity: str | None = None
    error_if: str | None = None
    warn_if: str | None = None


class _Detail(msgspec.Struct):
    compiled_code: str | None = None
    column_name: str | None = None
    test_metadata: _TestMetadata | None = None
    config: _Config = msgspec.field(default_factory=_Config)


class _Metadata(msgspec.Struct):
    dbt_version: str = ""


class Details(msgspec.Struct):
    """What is told of a run's manifest beside the graph."""

    metadata: _Metadata = msgspec.field(default_factory=_Metadata)
    nodes: dict[str, _Detail] = {}


def read_details(manifest: Path | None) -> Details:
    """Return what is told of a manifest; nothing if there is none that can be read.

    :param manifest: The file.
    """
    if manifest is None:
        return Details()
    try:
        return msgspec.json.decode(manifest.read_bytes(), type=Details)
    except (OSError, msgspec.DecodeError) as exc:
        log.info("OpenLineage is told less, the run's manifest cannot be read: %s", exc)
        return Details()


@dataclass(frozen=True, kw_only=True)
class NodeRun:
    """A run as OpenLineage sees one.

    :param ids: How many ids of dbt it stands for.
    :param at_end: Facets that are known at its end only; likewise those of the datasets.
    """

    run_id: str
    namespace: str
    job: str
    ids: int
    begin: datetime
    end: datetime
    failed: bool
    job_facets: dict[str, JobFacet]
    facets: dict[str, RunFacet]
    at_end: dict[str, RunFacet] = field(default_factory=dict)
    inputs: Sequence[_Dataset] = ()
    input_facets: dict[str, InputDatasetFacet] = field(default_factory=dict)
    outputs: Sequence[_Dataset] = ()
    output_facets: dict[str, OutputDatasetFacet] = field(default_factory=dict)

    def events(self) -> Iterator[RunEvent]:
        """Yield the events of the run's start and end."""
        from openlineage.client.event_v2 import Job, OutputDataset, Run, RunEvent, RunState

        job = Job(namespace=self.namespace, name=self.job, facets=self.job_facets)
        yield RunEvent(
            eventType=RunState.START,
            eventTime=self.begin.isoformat(),
            run=Run(runId=self.run_id, facets=self.facets),
            job=job,
            inputs=self._inputs({}),
            outputs=[OutputDataset(namespace, name) for namespace, name in self.outputs],
        )
        # What failed has not written, or nobody knows what.
        written = () if self.failed else self.outputs
        yield RunEvent(
            eventType=RunState.FAIL if self.failed else RunState.COMPLETE,
            eventTime=self.end.isoformat(),
            run=Run(runId=self.run_id, facets=self.facets | self.at_end),
            job=job,
            inputs=self._inputs(self.input_facets),
            outputs=[
                OutputDataset(namespace, name, outputFacets=self.output_facets) for namespace, name in written
            ],
        )

    def _inputs(self, facets: dict[str, InputDatasetFacet]) -> list[InputDataset]:
        from openlineage.client.event_v2 import InputDataset

        return [InputDataset(namespace, name, inputFacets=facets) for namespace, name in self.inputs]


class Lineage:
    """The runs of a build, made one after the other: together their SQL may be large.

    :param context: Context of the Airflow task.
    :param project: Names the datasets.
    :param index: The whole graph.
    :param records: What became of what the try ran.
    :param started: The time told for what dbt gave none.
    :param command: dbt's command.
    :param details: What the run's manifest says beside the graph.
    :param with_sql: Whether queries may be told.
    """

    def __init__(
        self,
        context: Context,
        project: DbtProject,
        index: DbtIndex,
        records: Mapping[str, NodeRecord],
        *,
        started: datetime,
        command: str,
        details: Details,
        with_sql: bool,
    ) -> None:
        from openlineage.client.facet_v2 import processing_engine_run

        self.project, self.index, self.records = project, index, records
        self.started, self.details, self.with_sql = started, details, with_sql
        self.stage = ".build" if command == "build" else ""
        self.dag_run = cast("Any", context["dag_run"])
        self.parent = _parent_of(context["ti"])
        self.graph = {node.unique_id: node for node in (*index.nodes, *index.extras)}
        self.facets: dict[str, RunFacet] = {
            "parent": self.parent,
            "processing_engine": processing_engine_run.ProcessingEngineRunFacet(
                name="dbt",
                version=details.metadata.dbt_version or index.dbt_version,
                openlineageAdapterVersion=__version__,
            ),
        }

    def runs(self) -> Iterator[NodeRun]:
        """Yield each node that was built, then its tests."""
        tests: dict[str, list[str]] = {}
        for test in self.index.tests:
            if self._status(test.unique_id) in _TESTED:
                tests.setdefault(test.home, []).append(test.unique_id)
        for node in self.graph.values():
            if node.asset and self._status(node.unique_id) in _BUILT:
                yield self._built(node)
            if node.unique_id in tests:
                job = self._job(node, ".test")
                yield self._tested(job, node.unique_id, tests[node.unique_id], self._datasets([node]))
        for test_id in tests.get("", ()):
            yield self._tested(test_id, test_id, [test_id], [])

    def _status(self, unique_id: str) -> str:
        return self.records[unique_id]["status"] if unique_id in self.records else ""

    def _built(self, node: DbtNode) -> NodeRun:
        from openlineage.client.facet_v2 import output_statistics_output_dataset, sql_job

        record = self.records[node.unique_id]
        job_facets = self._job_facets(node.kind.upper())
        detail = self.details.nodes.get(node.unique_id)
        sql = record.get("compiled") or (detail.compiled_code if detail is not None else None)
        if sql and self.with_sql:
            job_facets["sql"] = sql_job.SQLJobFacet(
                query=sql.strip()[:COMPILED_LIMIT], dialect=self.index.adapter or None
            )
        statistics: dict[str, OutputDatasetFacet] = {}
        if "rows" in record:
            # The bytes that an adapter tells are those it read.
            statistics["outputStatistics"] = (
                output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(rowCount=record["rows"])
            )
        suffix = {"model": ".run" if self.stage else ""}.get(node.kind, f".{node.kind}")
        return self._run(
            self._job(node, suffix),
            node.unique_id,
            [node.unique_id],
            job_facets=job_facets,
            at_end={},
            inputs=self._datasets(self._read_by(node)),
            outputs=self._datasets([node]),
            output_facets=statistics,
        )

    def _tested(
        self, job: str, unique_id: str, tests: Sequence[str], datasets: Sequence[_Dataset]
    ) -> NodeRun:
        from openlineage.client.facet_v2 import data_quality_assertions_dataset as quality
        from openlineage.client.facet_v2 import test_run

        results = [self._result(test) for test in tests]
        # A unit test says nothing of the data.
        about = [self._assertion(result) for result in results if not result.name.startswith("unit_test.")]
        assertions: dict[str, InputDatasetFacet] = {}
        if about:
            assertions["dataQualityAssertions"] = quality.DataQualityAssertionsDatasetFacet(about)
        return self._run(
            job,
            f"tests of {unique_id}",
            tests,
            job_facets=self._job_facets("TEST"),
            at_end={"test": test_run.TestRunFacet(results)},
            inputs=datasets,
            input_facets=assertions,
        )

    def _run(
        self,
        job: str,
        key: str,
        ids: Sequence[str],
        *,
        at_end: dict[str, RunFacet],
        **more: Any,
    ) -> NodeRun:
        from airflow.providers.openlineage import conf
        from openlineage.client.facet_v2 import error_message_run
        from openlineage.client.uuid import generate_static_uuid

        spans = [self._span(self.records[one]) for one in ids]
        bad = [one for one in ids if self.records[one]["status"] in BAD]
        if bad:
            text = "\n".join(self.records[one].get("message") or self.records[one]["status"] for one in bad)
            at_end["errorMessage"] = error_message_run.ErrorMessageRunFacet(
                message=text[:MESSAGE_LIMIT], programmingLanguage="sql"
            )
        # The same node of the same try is the same run, however often it is told.
        data = f"{self.dag_run.run_id}/{self.parent.run.runId}/{key}".encode()
        return NodeRun(
            run_id=str(generate_static_uuid(self.dag_run.logical_date or self.dag_run.run_after, data)),
            namespace=conf.namespace(),
            job=job,
            ids=len(ids),
            begin=min(begin for begin, _ in spans),
            end=max(end for _, end in spans),
            failed=bool(bad),
            facets=self.facets,
            at_end=at_end,
            **more,
        )

    def _span(self, record: NodeRecord) -> tuple[datetime, datetime]:
        try:
            begin = datetime.fromisoformat(record["started"])
        except (KeyError, ValueError):
            begin = self.started
        return begin, begin + timedelta(seconds=record.get("seconds", 0.0))

    def _result(self, test: str) -> test_run.TestExecution:
        from openlineage.client.facet_v2 import test_run

        record, detail = self.records[test], self.details.nodes.get(test, _Detail())
        status, config = record["status"], detail.config
        severity = (
            config.severity.lower()
            if config.severity
            else {"warn": "warn", "pass": None}.get(status, "error")
        )
        counted = status in ("pass", "warn", "fail")
        limit = config.warn_if if severity == "warn" else config.error_if
        return test_run.TestExecution(
            name=test,
            status="pass" if status == "pass" else "fail",
            severity=severity,
            type=detail.test_metadata.name if detail.test_metadata is not None else None,
            actual=str(record.get("failures", 0)) if counted else None,
            expected=("0" if limit == "!= 0" else limit) if counted else None,
        )

    def _assertion(self, result: test_run.TestExecution) -> quality.Assertion:
        from openlineage.client.facet_v2 import data_quality_assertions_dataset as quality

        # Of ``test.<package>.<name>``, and of a generic test a hash of its arguments.
        name = _HASH.sub("", result.name.split(".", 2)[2])
        detail = self.details.nodes.get(result.name, _Detail())
        told = detail.test_metadata
        return quality.Assertion(
            assertion=result.type or name,
            name=name,
            success=result.status == "pass",
            column=(told.kwargs.column_name if told is not None else None) or detail.column_name,
            severity=result.severity,
            actual=result.actual,
            expected=result.expected,
        )

    def _job(self, node: DbtNode, suffix: str) -> str:
        dataset = self.project.dataset(node)
        if dataset is not None:
            place = [dataset[1].removesuffix(f".{node.relation[2]}")]
        else:
            place = [part for part in node.relation[:2] if part and not _PLACEHOLDER.match(part)]
        name = node.unique_id if node.kind == "source" else node.unique_id.partition(".")[2]
        return ".".join([*place, name]) + self.stage + suffix

    def _job_facets(self, kind: str) -> dict[str, JobFacet]:
        from openlineage.client.facet_v2 import job_type_job

        return {
            "jobType": job_type_job.JobTypeJobFacet(processingType="BATCH", integration="DBT", jobType=kind)
        }

    def _read_by(self, node: DbtNode) -> Iterator[DbtNode]:
        for unique_id in (*node.parents, *node.sources):
            above = self.graph.get(unique_id)
            if above is None:
                continue
            if above.asset or above.kind == "source":
                yield above
            elif not above.runs:
                # An ephemeral model is no dataset but a part of the query.
                yield from self._read_by(above)

    def _datasets(self, nodes: Iterable[DbtNode]) -> list[_Dataset]:
        found = (self.project.dataset(node) for node in nodes if node.asset or node.kind == "source")
        return list(dict.fromkeys(dataset for dataset in found if dataset is not None))


def _parent_of(ti: Any) -> parent_run.ParentRunFacet:
    from airflow.providers.openlineage.plugins import macros
    from openlineage.client.facet_v2 import parent_run

    return parent_run.ParentRunFacet(
        run=parent_run.Run(macros.lineage_run_id(ti)),
        job=parent_run.Job(macros.lineage_job_namespace(), macros.lineage_job_name(ti)),
        root=parent_run.Root(
            run=parent_run.RootRun(macros.lineage_root_run_id(ti)),
            job=parent_run.RootJob(macros.lineage_root_job_namespace(ti), macros.lineage_root_job_name(ti)),
        ),
    )
