"""The judge: compares a contract with the rows of one partition."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

from airflow_ext.contracts.catalog import look_at
from airflow_ext.contracts.model import Contract
from airflow_ext.contracts.schema_check import Difference, differences
from airflow_ext.contracts.sql import Database
from airflow_ext.contracts.table_judge import TableJudge
from airflow_ext.contracts.verdict import MAX_COLUMNS, Reason, RunReference, Verdict


def judge(
    contract: Contract,
    partition: str,
    database: Database,
    *,
    run: RunReference | None = None,
    now: datetime | None = None,
    on_time: bool = True,
) -> Verdict:
    """Judge one partition of all tables of a contract.

    A table's columns are read from the catalog, then all its rules together in one query, but for the ``sql``
    rules that do more than aggregate the partition's rows: each of those runs in its own. Everything happens in one
    read-only transaction where the database has such a thing, and no query runs longer than the contract's
    ``airflow.timeLimit``. No value of the data leaves this function.

    :param contract: What was promised.
    :param partition: Partition key, checked against the contract's format.
    :param database: Where the tables are.
    :param run: Who judges.
    :param now: The present, aware; it bounds the age of rows in contracts without partitions and of the oldest row.
    :param on_time: Whether the time of availability counts: not for a backfill, nor for a partition that was
        published before and is now repaired.
    :raises ValueError: If the partition does not fit the format, a query of the contract does not only read, or
        the type of the partition column is not known.
    :raises QueryError: If the rows cannot even be counted.
    :raises DeniedError: If the connection may not read a table.
    :raises UnavailableError: If the database does not answer, or not within the time limit.
    """
    key, moment = contract.partition.check(partition), now or datetime.now(UTC)
    database.time_limit = contract.settings.time_limit
    judges = [TableJudge(contract, table, key, database, moment) for table in contract.tables]
    for each in judges:
        each.check_queries()
    for each in judges:
        each.judge()
    several = len(judges) > 1
    reasons = [*_late(contract, key, moment, on_time=on_time)]
    for each in judges:
        reasons += [_of_table(reason, each.table.name, several=several) for reason in each.reasons]
    skipped = [*contract.skipped]
    for each in judges:
        skipped += [f"{each.table.name}: {text}" if several else text for text in each.skipped]
    counted = [each.rows for each in judges if each.rows is not None]
    breached = any(reason.severity == "error" for reason in reasons)
    return Verdict.of(
        reasons=reasons,
        skipped=skipped,
        judged=sum(each.judged for each in judges) + _times_judged(contract, on_time=on_time),
        rows=sum(counted) if counted else None,
        contract=contract.id,
        version=contract.version,
        partition=key,
        at=moment.astimezone(UTC).isoformat(timespec="milliseconds"),
        owner=contract.owner,
        support=contract.support,
        run=run or RunReference(),
        columns=_columns(contract) if breached else (),
    )


def _columns(contract: Contract) -> tuple[str, ...]:
    found = []
    for table in contract.tables:
        names = [*(column.name for column in table.columns), table.partition_column]
        found += [name for column in filter(None, names) for name in (column, f"{table.name}.{column}")]
    return tuple(dict.fromkeys(found)) if len(found) <= MAX_COLUMNS else ()


def _times_judged(contract: Contract, *, on_time: bool) -> int:
    promised = contract.service_levels.available_at is not None
    return int(promised and on_time and contract.settings.severities.of("timeOfAvailability") != "ignore")


def _late(contract: Contract, key: str, now: datetime, *, on_time: bool) -> Sequence[Reason]:
    due, late = contract.due(key), contract.late_after(key)
    severity = contract.settings.severities.of("timeOfAvailability")
    if due is None or late is None or not on_time or severity == "ignore" or now <= late:
        return ()
    zone = contract.partition.zone
    grace = f" (and {contract.settings.grace / 60:g} min of grace)" if contract.settings.grace else ""
    shown = [f"{moment.astimezone(zone):%Y-%m-%d %H:%M %Z}" for moment in (due, now)]
    return [Reason("timeOfAvailability", f"by {shown[0]}{grace}", shown[1], severity, dimension="timeliness")]


def _of_table(reason: Reason, table: str, *, several: bool) -> Reason:
    rule = f"{table}: {reason.rule}" if several else reason.rule
    return replace(reason, rule=rule, table=table)


def schema_diff(contract: Contract, database: Database) -> dict[str, list[Difference] | None]:
    """Return how tables differ from what is promised, also in what does not count, by the contract's names.

    :return: Differences by table, ``None`` for a table that is not there.
    :raises DeniedError: If the connection may not look at a table.
    :raises UnavailableError: If the database does not answer.
    """
    found: dict[str, list[Difference] | None] = {}
    for table in contract.tables:
        actual = look_at(database, table.physical_name, with_key=bool(table.key))
        found[table.name] = None if actual is None else list(differences(table, actual, database.dialect))
    return found
