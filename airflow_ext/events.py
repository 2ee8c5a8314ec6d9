"""The one place of this package that emits asset events.

Airflow keeps two kinds of consumers apart: an event with a partition key starts only partitioned
consumers, an event without one only plain consumers. Producers should not have to know who listens, so

* in a run without a partition of its own each event goes out twice, keyed on the asset and unkeyed
  through one alias,
* in a partitioned run Airflow keys every event of the run, so there is only the keyed one,
* a backfill emits the keyed one only: repairing an old day must not wake today's plain consumers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airflow.sdk import Asset, AssetAlias

if TYPE_CHECKING:
    from airflow.sdk.definitions.context import Context

MAX_PARTITION_LENGTH = 250
"""Characters of a partition key that Airflow's tables hold."""


@dataclass(frozen=True)
class Event:
    """One thing that became true about one asset.

    :param asset: The asset; it must be among the task's outlets.
    :param extra: JSON values shown with the event; never a secret.
    :param declared: The DAG names the asset. An undeclared one goes through the alias, which makes it known to
        Airflow; its event never has a key of its own.
    """

    asset: Asset
    extra: Mapping[str, Any] = field(default_factory=dict)
    declared: bool = True


def outlets_for(assets: Iterable[Asset], *, alias: str) -> list[Asset | AssetAlias]:
    """Return the outlets of a task that emits events for ``assets`` through this module.

    :param assets: What the task may emit.
    :param alias: Name of the alias that carries the unkeyed events; one per producing task.
    """
    return [*assets, AssetAlias(name=alias)]


def partition_of(context: Context, given: str | None) -> str | None:
    """Return the partition key that a run's events carry.

    The given value, else the key of the run, else none. A template that found nothing renders to an
    empty string or to ``None``; both count as not given.

    :param context: The running task's context.
    :param given: The operator's argument, after templating.
    """
    if given is not None and given.strip() not in {"", "None"}:
        return given
    key: str | None = context["dag_run"].partition_key
    return key


def emit(
    context: Context,
    events: Iterable[Event],
    *,
    alias: str,
    partition: str | None,
    unkeyed_in_backfill: bool = False,
) -> list[Asset | AssetAlias]:
    """Record asset events; Airflow sends them when the task succeeds.

    A declared outlet fires even if nothing was recorded for it, so the caller must set
    ``self.outlets`` to what is returned: exactly the assets that have an event.

    :param context: The running task's context.
    :param events: What to emit.
    :param alias: The alias given to :func:`outlets_for`.
    :param partition: Partition key, as :func:`partition_of` returns it; ``None`` emits unkeyed events
        only, and in a backfill none at all.
    :param unkeyed_in_backfill: Wake plain consumers from a backfill run too.
    :raises ValueError: If the partition key is blank or longer than 250 characters.
    """
    if partition is not None and (not partition.strip() or len(partition) > MAX_PARTITION_LENGTH):
        raise ValueError(
            f"partition={partition!r}: a partition key has 1 to {MAX_PARTITION_LENGTH} characters, not only blanks"
        )
    events = list(events)
    outlet_events = context["outlet_events"]
    run = context["dag_run"]
    in_partitioned_run = run.partition_key is not None
    plain_consumers = run.run_type != "backfill" or unkeyed_in_backfill
    if partition is None and not in_partitioned_run and not plain_consumers:
        return outlets_for([], alias=alias)
    for event in events:
        extra = dict(event.extra)
        if not event.declared:
            if plain_consumers or in_partitioned_run:
                outlet_events[AssetAlias(name=alias)].add(event.asset, extra=extra)
            continue
        accessor = outlet_events[event.asset]
        accessor.extra = extra
        if partition is None:
            continue
        accessor.add_partitions(partition)
        if plain_consumers and not in_partitioned_run:
            outlet_events[AssetAlias(name=alias)].add(event.asset, extra=extra)
    return outlets_for((event.asset for event in events if event.declared), alias=alias)
