"""Rows that break a rule, put aside where people can look at them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from airflow_ext.contracts.model import Contract
from airflow_ext.contracts.sql import Database

MAX_ROWS = 10_000
"""Rows that are put aside per rule, unless asked otherwise."""


@dataclass(frozen=True)
class Quarantined:
    """What was put aside of one partition.

    :param tables: Quarantine tables written, by the name of the table in the contract.
    :param rows: Rows put aside by the rule's name as reasons write it; a row that breaks two rules is there twice.
    :param capped: Rules of which more rows failed than are kept.
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

    Row-level rules are those that say of a single row whether it breaks them: required and other NULL rules,
    missing and invalid values, duplicates (each row of a repeated key). Rows stay in their table. The quarantine
    table is created if it is not there, as a copy of the table's columns with ``ext_contract``, ``ext_version``,
    ``ext_partition``, ``ext_rule``, ``ext_publication`` and ``ext_quarantined_at`` before them. What the same
    publication put there before for the same contract and partition is replaced, so that a task may run twice.

    :param partition: Partition key, checked against the contract's format.
    :param database: Where the table is; it needs the right to create and write the quarantine table.
    :param publication: Who publishes, such as a run id; at most 250 characters.
    :param rules: Names of the rules that failed, as reasons write them; ``None`` takes every row-level rule.
    :param limit: Rows kept per rule.
    :param now: The present, aware.
    :return: Empty if the contract names no quarantine table.
    :raises ValueError: If the partition does not fit the format.
    :raises QueryError: If the database refuses; then nothing was written.
    :raises DeniedError: If the connection may not write there.
    :raises UnavailableError: If the database does not answer.
    """
    raise NotImplementedError
