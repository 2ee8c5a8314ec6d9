"""What OpenLineage is told of a verdict: its rules as data-quality assertions of the table.

The OpenLineage provider asks the publishing operator; nothing is sent from here, and nothing of OpenLineage is imported
unless the provider asks.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow.providers.openlineage.extractors import OperatorLineage
    from airflow.sdk import Connection
    from openlineage.client.facet_v2 import data_quality_assertions_dataset as quality

    from airflow_ext.contracts.model import Contract
    from airflow_ext.contracts.verdict import Verdict

log = logging.getLogger(__name__)

_PORTS = {"postgres": 5432, "mysql": 3306}


def lineage_of(
    contract: Contract, verdict: Verdict | None, connection: Connection | None = None
) -> OperatorLineage[Any, Any] | None:
    """Return what to tell of a verdict; ``None`` without one.

    :param contract: The contract.
    :param verdict: Its verdict.
    :param connection: Connection of the database, which gives the dataset its namespace.
    """
    if verdict is None:
        return None
    from airflow.providers.openlineage.extractors import OperatorLineage
    from openlineage.client.event_v2 import InputDataset
    from openlineage.client.facet_v2 import data_quality_assertions_dataset as quality

    inputs = []
    for table in contract.tables:
        namespace, name = dataset_of(table.physical_name, connection)
        found = quality.DataQualityAssertionsDatasetFacet(_assertions(contract, verdict, table.name))
        inputs.append(InputDataset(namespace, name, inputFacets={"dataQualityAssertions": found}))
    return OperatorLineage(inputs=inputs, run_facets={"airflow_ext_contract": _facet(verdict)})


def dataset_of(table: str, connection: Connection | None) -> tuple[str, str]:
    """Return namespace and name of a table, as OpenLineage names those of the database.

    :param table: Name of the table in the database.
    :param connection: Its connection; ``None`` leaves the namespace open.
    """
    if connection is None:
        return "unknown", table
    kind = connection.conn_type or ""
    if kind in ("duckdb", "sqlite"):
        return f"{kind}://{connection.host or ''}", table
    port = connection.port or _PORTS.get(kind)
    namespace = f"{kind}://{connection.host or ''}{f':{port}' if port else ''}"
    parts = table.split(".")
    if len(parts) == 1 and kind == "postgres":
        parts = ["public", *parts]
    if len(parts) == 2 and connection.schema and kind == "postgres":
        parts = [connection.schema, *parts]
    return namespace, ".".join(parts)


def _assertions(contract: Contract, verdict: Verdict, table: str) -> list[quality.Assertion]:
    from openlineage.client.facet_v2 import data_quality_assertions_dataset as quality

    alone = len(contract.tables) == 1
    failed = [reason for reason in verdict.reasons if alone or reason.table in ("", table)]
    told = [
        quality.Assertion(
            assertion=reason.rule,
            success=False,
            column=reason.columns[0] if len(reason.columns) == 1 else None,
            severity="error" if reason.severity == "error" else "warn",
            name=reason.rule,
            expected=reason.expected,
            actual=reason.actual,
        )
        for reason in failed
    ]
    names = {reason.rule for reason in verdict.reasons}
    hidden = verdict.counts.get("failed", 0) + verdict.counts.get("warnings", 0) > len(verdict.reasons)
    if hidden:
        return told  # which of the others hold is not known
    skipped = {text.partition(":")[0] for text in verdict.skipped}
    rules = next(one.rules for one in contract.tables if one.name == table)
    told += [
        quality.Assertion(
            assertion=rule.metric,
            success=True,
            column=rule.columns[0] if len(rule.columns) == 1 else None,
            severity="error" if rule.severity == "error" else "warn",
            name=rule.name,
            expected=rule.expected,
        )
        for rule in rules
        if rule.name not in names and rule.name not in skipped
    ]
    return told


def _facet(verdict: Verdict) -> Any:
    import attr
    from openlineage.client.facet_v2 import RunFacet

    @attr.define
    class ContractRunFacet(RunFacet):
        """Which promise the assertions are about."""

        contract: str
        version: str
        partition: str
        status: str
        seq: int
        owner: str

    return ContractRunFacet(
        contract=verdict.contract,
        version=verdict.version,
        partition=verdict.partition,
        status=str(verdict.status),
        seq=verdict.seq,
        owner=verdict.owner,
    )
