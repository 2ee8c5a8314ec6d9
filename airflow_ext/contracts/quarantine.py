"""Rows that break a rule, put aside where people can look at them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from airflow_ext.contracts.catalog import FoundTable, look_at
from airflow_ext.contracts.model import Contract
from airflow_ext.contracts.row_rules import Broken, broken_rows
from airflow_ext.contracts.sql import Bound, Database, Sql
from airflow_ext.contracts.verdict import Quarantine, Verdict
from airflow_ext.exceptions import InvalidError

MAX_ROWS = 10_000
"""Rows that are put aside per rule, unless asked otherwise."""
MAX_PUBLICATION = 250
MAX_RULE = 300
"""Characters of a rule that a quarantine table holds."""

TAGS: Final = (
    "ext_contract",
    "ext_version",
    "ext_partition",
    "ext_rule",
    "ext_publication",
    "ext_quarantined_at",
)
"""Columns of a quarantine table before those of the table; all are text, the time is ISO 8601 in UTC."""


@dataclass(frozen=True)
class Quarantined:
    """What was put aside of one partition.

    :param tables: Quarantine tables, by the name of the table in the contract.
    :param rows: Rows put aside by the rule's name as reasons write it; a row that breaks two rules is there twice.
    :param capped: Rules of which as many rows were put aside as are kept, so that more may have failed.
    """

    tables: Mapping[str, str] = field(default_factory=dict)
    rows: Mapping[str, int] = field(default_factory=dict)
    capped: tuple[str, ...] = ()

    @property
    def total(self) -> int:
        """Rows put aside in all."""
        return sum(self.rows.values())


def quarantine_rows(
    contract: Contract,
    partition: str,
    database: Database,
    *,
    publication: str,
    rules: Collection[str] | None = None,
    limit: int = MAX_ROWS,
    now: datetime | None = None,
) -> Quarantined:
    """Copy the rows of a partition that break row-level rules into the quarantine table.

    Row-level rules are those that a single row breaks: required and other NULL rules, missing and invalid values,
    duplicates (each row of a repeated key). Rows stay in their table. The quarantine table is made if it is not
    there: :data:`TAGS`, then the table's columns as they are now; columns the table got later are added. What the same
    publication put there before for the same contract and partition is replaced, so that a task may run twice.
    All of it is one transaction where the database has such a thing.

    :param partition: Partition key, checked against the contract's format.
    :param database: Where the table is; it needs the right to create and write the quarantine table.
    :param publication: Who publishes, such as a run id; at most 250 characters.
    :param rules: Names of the rules that failed, as reasons write them; ``None`` takes every row-level rule.
    :param limit: Rows kept per rule.
    :param now: The present, aware.
    :return: Without tables if the contract names no quarantine table.
    :raises ValueError: If the partition does not fit the format, or an argument is out of bounds.
    :raises QueryError: If the database refuses; then nothing was written.
    :raises DeniedError: If the connection may not write there.
    :raises UnavailableError: If the database does not answer.
    """
    key = contract.partition.check(partition)
    if not 0 < len(publication) <= MAX_PUBLICATION:
        raise InvalidError(f"publication={publication[:80]!r}: 1 to {MAX_PUBLICATION} characters")
    if limit < 1:
        raise InvalidError(f"limit={limit!r}: at least 1 row per rule")
    for table in contract.tables:
        if table.quarantine_table == table.physical_name:
            raise InvalidError(
                f"airflow.quarantineTable is {table.physical_name!r} itself; name another table"
            )
    broken = [each for each in broken_rows(contract, key, database, rules) if each.table.quarantine_table]
    at = (now or datetime.now(UTC)).astimezone(UTC).isoformat(timespec="seconds")
    tags = (contract.id, contract.version, key, publication, at)
    tables = {each.table.name: each.table.quarantine_table for each in broken}
    counts: dict[str, int] = {}
    if broken:
        # asked before: in PostgreSQL a question about a table that is not there would end the transaction
        there = {name: look_at(database, quarantine) for name, quarantine in tables.items()}
        with database.writing():
            for name, known in there.items():
                of_table = [each for each in broken if each.table.name == name]
                target = _quarantine_table(tables[name], known, of_table[0].found, database)
                counts |= _put_aside(of_table, target, tags, database, limit)
    rows = {each.name: counts.get(each.name, 0) for each in broken if counts.get(each.name)}
    return Quarantined(tables, rows, tuple(name for name, count in rows.items() if count >= limit))


def set_rows_aside(contract: Contract, verdict: Verdict, database: Database, *, publication: str) -> Verdict:
    """Put the rows aside that breach a contract, and say whether the others can be used.

    They can, which is what ``QUARANTINED`` means, if each rule that breaches the contract is a row-level rule whose
    rows were all put aside. A breach of anything else stays ``BREACHED``, with its rows put aside all the same.

    :param verdict: A breach.
    :param publication: Who publishes; see :func:`quarantine_rows`, whose errors this raises too.
    :return: The verdict to publish.
    """
    breached = [reason.rule for reason in verdict.reasons if reason.severity == "error"]
    done = quarantine_rows(
        contract, verdict.partition, database, publication=publication[:MAX_PUBLICATION], rules=set(breached)
    )
    all_known = len(breached) == verdict.counts.get("failed", 0)
    if not all_known or done.capped or set(breached) != set(done.rows):
        return verdict
    tables = ", ".join(sorted(set(done.tables.values())))
    return verdict.set_aside(Quarantine("rows", table=tables, rows=done.total))


def _put_aside(
    broken: Sequence[Broken], target: str, tags: tuple[str, ...], database: Database, limit: int
) -> dict[str, int]:
    """Copy the rows of one table and return how many by rule."""
    contract, version, key, publication, at = tags
    found = broken[0].found
    same = Sql(
        " WHERE ext_contract = ", Bound(contract), " AND ext_partition = ", Bound(key),
        " AND ext_publication = ", Bound(publication), " AND ext_rule = ",
    )  # fmt: skip
    columns = [database.sql.quote(column.name) for column in found.columns.values()]
    written = ", ".join((*TAGS, *columns))
    counts = {}
    for each in broken:
        rule = each.name[:MAX_RULE]
        ours = Sql(same, Bound(rule))
        database.rows(Sql(f"DELETE FROM {target}", ours))
        values = (contract, version, key, rule, publication, at)
        shown = Sql.join(", ", [_text(Sql(Bound(value)), database) for value in values])
        rows = database.sql.cut(Sql("SELECT ", shown, ", ", ", ".join(columns), each.rows), limit)
        database.rows(Sql(f"INSERT INTO {target} ({written}) ", rows))
        counts[each.name] = int(database.rows(Sql(f"SELECT COUNT(*) FROM {target}", ours))[0][0])
    return counts


def _text(value: Sql, database: Database) -> Sql:
    """Say that a value is a text: not every database guesses it of a parameter in a SELECT."""
    return Sql("CAST(", value, f" AS {database.sql.key_text})")


def _quarantine_table(name: str, there: FoundTable | None, source: FoundTable, database: Database) -> str:
    """Make the quarantine table, or add the columns that it lacks; return its quoted name."""
    if there is None:
        target = database.sql.quote_table(name)
        tags = ", ".join(f"CAST('' AS {database.sql.key_text}) AS {tag}" for tag in TAGS)
        columns = ", ".join(database.sql.quote(column.name) for column in source.columns.values())
        shape = f"{tags}, {columns}"
        if database.sql.top:
            database.rows(Sql(f"SELECT {shape} INTO {target} FROM {source.name} WHERE 1 = 0"))
        else:
            database.rows(Sql(f"CREATE TABLE {target} AS SELECT {shape} FROM {source.name} WHERE 1 = 0"))
        return target
    if missing := [tag for tag in TAGS if there.column(tag) is None and there.column(tag.upper()) is None]:
        raise InvalidError(
            f"the quarantine table {name} has no column {missing[0]}: it was made by someone else; name another table "
            "in airflow.quarantineTable"
        )
    for column in source.columns.values():
        if there.column(column.name) is None:
            word = "ADD" if database.sql.top else "ADD COLUMN"
            quoted = database.sql.quote(column.name)
            database.rows(Sql(f"ALTER TABLE {there.name} {word} {quoted} {column.type}"))
    return there.name
