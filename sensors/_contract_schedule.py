"""Start a DAG with a contract instead of letting a task wait."""

from __future__ import annotations

from typing import Any

from airflow.sdk import Asset, PartitionedAssetTimetable
from airflow.sdk.definitions.asset import AssetAll, AssetAny, BaseAsset

from airflow_ext.contracts.ranges import ContractRange
from airflow_ext.exceptions import InvalidError


class ContractSchedule(AssetAll):
    """The schedule of a DAG that starts when contracts hold, for whatever partition.

    An event of a contract comes only when a partition holds, so a breach starts nothing, and its repair does.
    Of several majors in a range each starts the DAG; of several contracts all must have published since the
    last run. It can be combined with assets by ``&`` and ``|``.

    A run that started so finds its partitions in the events; :class:`ContractSensor` in it does so by itself.

    :param contracts: Ids and version ranges, such as ``"orders>=2,<3"``. The scheduler sees whole major versions
        only.
    :raises ValueError: If a range has no upper end, if nothing can satisfy it, or if it splits a major version;
        or without any contract.
    """

    def __init__(self, *contracts: str) -> None:
        super().__init__(*_conditions(contracts))

    @staticmethod
    def partitioned(*contracts: str, **kwargs: Any) -> PartitionedAssetTimetable:
        """Return the schedule of a DAG that runs once per partition that holds, with its key.

        Of several contracts the partition must hold in all.

        :param contracts: Ids and version ranges.
        :param kwargs: ``default_partition_mapper`` and whatever else the timetable takes, for example
            ``RollupMapper`` to run daily on an hourly contract.
        :raises ValueError: As the constructor.
        """
        found = _conditions(contracts)
        condition = found[0] if len(found) == 1 else AssetAll(*found)
        return PartitionedAssetTimetable(assets=condition, **kwargs)


def _conditions(contracts: tuple[str, ...]) -> list[BaseAsset]:
    if not contracts:
        raise InvalidError("ContractSchedule() needs a contract, such as ContractSchedule('orders>=2,<3')")
    return [_condition(ContractRange.parse(contract)) for contract in contracts]


def _condition(wanted: ContractRange) -> BaseAsset:
    if split := wanted.split_majors:
        low, high = wanted.majors[0], wanted.majors[-1] + 1
        raise InvalidError(
            f"contract={str(wanted)!r} holds only some versions of major {', '.join(map(str, split))}, and the scheduler "
            f"sees majors only: write '{wanted.id}>={low},<{high}' and let a ContractSensor of the narrower range be the "
            "DAG's first task"
        )
    assets: list[BaseAsset] = [Asset(name=name) for name in wanted.assets]
    return assets[0] if len(assets) == 1 else AssetAny(*assets)
