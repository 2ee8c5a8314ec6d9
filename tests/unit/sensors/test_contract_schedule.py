"""DAGs that start with a contract."""

from __future__ import annotations

import pytest
from airflow.sdk import DAG, Asset, PartitionedAssetTimetable
from airflow.serialization.serialized_objects import DagSerialization

from airflow_ext.sensors.contract import ContractSchedule


def names(schedule: ContractSchedule) -> set[str]:
    with DAG("consumer", schedule=schedule) as dag:
        pass
    stored = DagSerialization.deserialize_dag(DagSerialization.serialize_dag(dag))
    return {ref.name for ref, _ in stored.timetable.asset_condition.iter_assets()}


def test_a_dag_starts_with_each_major_of_its_contracts() -> None:
    assert names(ContractSchedule("orders>=2,<3")) == {"contract/orders/v2"}
    assert names(ContractSchedule("orders>=2,<4", "stock^1")) == {
        "contract/orders/v2",
        "contract/orders/v3",
        "contract/stock/v1",
    }
    assert names(ContractSchedule("orders>=2,<3") & Asset("x")) == {"contract/orders/v2", "x"}  # type: ignore[arg-type]


def test_a_dag_runs_once_per_partition() -> None:
    timetable = ContractSchedule.partitioned("orders>=2,<3")
    assert isinstance(timetable, PartitionedAssetTimetable)
    assert timetable.asset_condition == Asset("contract/orders/v2")


@pytest.mark.parametrize(
    ("contracts", "message"),
    [
        ((), "needs a contract"),
        (("orders>=2",), "has no upper end"),
        (("orders>=2.3,<3",), "sees majors only: write 'orders>=2,<3'"),
        (("orders>=2,<3.1",), "only some versions of major 3"),
        (("orders==2.1.0",), "only some versions of major 2"),
    ],
    ids=str,
)
def test_what_the_scheduler_cannot_see_is_refused(contracts: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ContractSchedule(*contracts)
    with pytest.raises(ValueError, match=message):
        ContractSchedule.partitioned(*contracts)
