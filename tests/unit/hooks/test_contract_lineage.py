"""What OpenLineage is told of a verdict."""

from __future__ import annotations

import pytest
import yaml
from airflow.sdk import Connection
from openlineage.client.serde import Serde

from airflow_ext.contracts import Contract, Reason, Status, Verdict
from airflow_ext.hooks.contract_lineage import dataset_of, lineage_of
from benchmarks._contracts_pairs import BASE

REASON = Reason("valid(amount)", "invalid values = 0", "3", "error", "orders", ("amount",))
POSTGRES = Connection(conn_id="db", conn_type="postgres", host="db", port=5432, schema="shop")


def verdict(*reasons: Reason, failed: int | None = None) -> Verdict:
    counts = {"failed": len(reasons) if failed is None else failed}
    return Verdict("orders", "1.2.0", "2013-01-05", Status.BREACHED, reasons, counts=counts, seq=3)


def test_rules_become_assertions() -> None:
    lineage = lineage_of(Contract.from_text(yaml.safe_dump(BASE)), verdict(REASON), POSTGRES)
    assert lineage is not None
    (dataset,) = lineage.inputs
    assert (dataset.namespace, dataset.name) == ("postgres://db:5432", "shop.public.orders")
    told = {
        one["name"]: one
        for one in Serde.to_dict(dataset)["inputFacets"]["dataQualityAssertions"]["assertions"]
    }
    broken = told["valid(amount)"]
    assert (broken["success"], broken["column"], broken["actual"]) == (False, "amount", "3")
    assert told["enough"]["success"] is True
    facet = Serde.to_dict(lineage.run_facets["airflow_ext_contract"])
    assert (facet["contract"], facet["partition"], facet["status"]) == ("orders", "2013-01-05", "BREACHED")


def test_nothing_is_called_good_that_is_not_known() -> None:
    lineage = lineage_of(Contract.from_text(yaml.safe_dump(BASE)), verdict(REASON, failed=40))
    assert lineage is not None
    assertions = Serde.to_dict(lineage.inputs[0])["inputFacets"]["dataQualityAssertions"]["assertions"]
    assert [one["success"] for one in assertions] == [False]


def test_without_a_verdict_nothing_is_told() -> None:
    assert lineage_of(Contract.from_text(yaml.safe_dump(BASE)), None) is None


@pytest.mark.parametrize(
    ("table", "kind", "expected"),
    [
        pytest.param("marts.t", "duckdb", ("duckdb:///data/w.duckdb", "marts.t"), id="duckdb"),
        pytest.param("t", "snowflake", ("snowflake:///data/w.duckdb", "t"), id="others"),
    ],
)
def test_names_of_datasets(table: str, kind: str, expected: tuple[str, str]) -> None:
    assert dataset_of(table, Connection(conn_id="w", conn_type=kind, host="/data/w.duckdb")) == expected
