"""A contract: a plain ODCS file, and the few words of it that Airflow needs.

Ours stand only under ``customProperties``, named ``airflow.*``; see :mod:`airflow_ext.contracts.settings`.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packaging.version import InvalidVersion, Version

from airflow_ext.contracts import sources
from airflow_ext.contracts.loading import Places, load, refuse
from airflow_ext.contracts.partition import PartitionRule
from airflow_ext.contracts.ranges import ID_PATTERN, asset_name
from airflow_ext.contracts.rules import Rule
from airflow_ext.contracts.service_levels import ServiceLevels, read_service_levels
from airflow_ext.contracts.settings import Consumer, Settings, read_settings
from airflow_ext.contracts.tables import Column, Table, TableReader, not_measured
from airflow_ext.exceptions import InvalidContractError

if TYPE_CHECKING:
    from airflow.sdk import Asset

_SUPPORT_ORDER = ("notifications", "issues", "interactive")
_DIALECTS = {
    "postgresql": "postgres", "postgres": "postgres", "redshift": "redshift", "sqlserver": "tsql", "synapse": "tsql",
    "mysql": "mysql",
    "snowflake": "snowflake", "bigquery": "bigquery", "databricks": "databricks", "trino": "trino",
    "presto": "trino", "duckdb": "duckdb", "sqlite": "sqlite",
}  # fmt: skip


@dataclass(frozen=True)
class Contract:
    """A promise about one or more tables.

    :param id: Contract id.
    :param version: Version of the contract, ``major.minor.patch``.
    :param status: As the file says, in lower case: ``proposed``, ``draft``, ``active``, ``deprecated``, ``retired``.
    :param tables: What is promised, by table.
    :param settings: What the contract says to Airflow.
    :param service_levels: Promises about time that concern all of it.
    :param skipped: What the file says that is not judged, with the cause.
    :param owner: Who answers for the data.
    :param support: Where to ask.
    :param dialect: sqlglot's name of the database that ``servers`` names, empty if it names none we know.
    :param source: Where the contract was read from, without secrets.
    :param document: The file as it is; read only, and not part of what makes two contracts equal.
    """

    id: str
    version: str
    status: str
    tables: tuple[Table, ...]
    settings: Settings = field(default_factory=Settings)
    service_levels: ServiceLevels = field(default_factory=ServiceLevels)
    skipped: tuple[str, ...] = ()
    owner: str = ""
    support: str = ""
    dialect: str = ""
    source: str = ""
    document: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> Contract:
        """Read a contract file; the same content is parsed once per process.

        :param path: A YAML file in the Open Data Contract Standard v3.0 to v3.2. A relative path is
            relative to the working directory; in a DAG file start from ``Path(__file__).parent``.
        :raises InvalidContractError: If it cannot be read or used, with every problem and its place.
        """
        return _read(sources.file_text(Path(path)), str(path))

    @classmethod
    def from_text(cls, text: str, *, source: str = "text") -> Contract:
        """Read a contract from the text of a file.

        :param source: What to call it in messages.
        :raises InvalidContractError: With every problem and its place.
        """
        return _read(text, source)

    @classmethod
    def from_url(
        cls, url: str, *, headers: Mapping[str, str] | None = None, timeout: float = sources.URL_SECONDS
    ) -> Contract:
        """Fetch a contract over HTTP. Call it in a task or a command, not where a DAG file is parsed.

        :param url: ``http`` or ``https``. User, password and query never get into a message.
        :param headers: Sent along, such as an ``Authorization``; not sent on to another host.
        :param timeout: Seconds for all of it, redirects included.
        :raises InvalidContractError: If what comes is no usable contract.
        :raises InvalidError: If the URL cannot be used, or there is nothing.
        :raises DeniedError: If the server refuses.
        :raises UnavailableError: If it does not answer in time.
        """
        text, source = sources.url_text(url, headers=headers or {}, timeout=timeout)
        return _read(text, source)

    @classmethod
    def from_folder(cls, folder: str | os.PathLike[str]) -> tuple[Contract, ...]:
        """Read every contract below a folder: ``*.odcs.yaml``, ``*.odcs.yml`` and ``*.odcs.json``.

        :return: Sorted by id, then by version from old to new.
        :raises InvalidContractError: With every problem of all files; two files with one id and version are one.
        """
        root = Path(folder)
        found: dict[tuple[str, Version], Contract] = {}
        problems: list[str] = []
        for path in sources.contract_files(root):
            try:
                contract = cls.from_file(path)
            except InvalidContractError as exc:
                problems += [f"{path}: {problem}" for problem in exc.problems]
                continue
            key = (contract.id, Version(contract.version))
            if key in found:
                problems.append(
                    f"{path}: {contract.id} {contract.version} is also in {found[key].source}; one of them goes, or "
                    "gets another version"
                )
            found.setdefault(key, contract)
        if problems:
            raise refuse(str(root), problems)
        return tuple(found[key] for key in sorted(found))

    @property
    def major(self) -> int:
        """Major version; each has an asset of its own, so that two can live side by side."""
        return Version(self.version).major

    @property
    def asset(self) -> Asset:
        """The asset that stands for this major version; schedule on it, or read its state."""
        from airflow.sdk import Asset

        return Asset(name=asset_name(self.id, self.major))

    @property
    def conn_id(self) -> str:
        """Connection of the database, empty if the file names none."""
        return self.settings.conn_id

    @property
    def partition(self) -> PartitionRule:
        """How partition keys look."""
        return self.settings.partition

    @property
    def grace(self) -> timedelta:
        """Time after the time of availability before a partition is late."""
        return timedelta(seconds=self.settings.grace)

    @property
    def consumers(self) -> tuple[Consumer, ...]:
        """Consumers the contract knows, with the columns they use."""
        return self.settings.consumers

    @property
    def table(self) -> str:
        """Name of the first table in the database."""
        return self.tables[0].physical_name

    @property
    def columns(self) -> tuple[Column, ...]:
        """Columns of all tables."""
        return tuple(column for table in self.tables for column in table.columns)

    @property
    def rules(self) -> tuple[Rule, ...]:
        """Rules of all tables."""
        return tuple(rule for table in self.tables for rule in table.rules)

    @property
    def partition_column(self) -> str:
        """Column that restricts the first table to a partition."""
        return self.tables[0].partition_column

    def partition_for(self, context: Mapping[str, Any], given: str | None = None) -> str:
        """Return the partition a run is about; see :meth:`PartitionRule.key_for`.

        :raises ValueError: If it cannot be known or does not fit the format.
        """
        return self.partition.key_for(context, given)

    def due(self, partition: str) -> datetime | None:
        """Return when a partition must be published, in UTC and without grace; ``None`` if no time is promised.

        :raises ValueError: If the partition does not fit the format.
        """
        return self.service_levels.due(partition, self.partition)

    def late_after(self, partition: str) -> datetime | None:
        """Return when a partition that is not there counts as late: :meth:`due` and the grace."""
        due = self.due(partition)
        return None if due is None else due + self.grace

    def is_deprecated(self, now: datetime) -> bool:
        """Say whether consumers should move on: deprecated by its status, or its support has ended.

        :param now: The present, aware.
        """
        end = self.service_levels.end_of_support
        return self.status == "deprecated" or (end is not None and now >= end)

    def is_withdrawn(self, now: datetime) -> bool:
        """Say whether nothing may rely on it any more: retired by its status, or its life has ended.

        :param now: The present, aware.
        """
        end = self.service_levels.end_of_life
        return self.status == "retired" or (end is not None and now >= end)


@functools.lru_cache(maxsize=2048)
def _read(text: str, source: str) -> Contract:
    document, places = load(text, source)
    return _Reader(document, places, source).read()


class _Reader:
    def __init__(self, document: dict[str, Any], places: Places, source: str) -> None:
        self.document = document
        self.places = places
        self.source = source
        self.problems: list[str] = []

    def problem(self, path: tuple[str | int, ...], text: str) -> None:
        self.problems.append(self.places.problem(path, text))

    def read(self) -> Contract:
        document = self.document
        self.check_names()
        settings = read_settings(document, self.problem)
        levels, skipped = read_service_levels(document, settings.partition)
        readers = [
            TableReader(document, i, settings, self.problem) for i in range(len(document.get("schema") or ()))
        ]
        tables = tuple(reader.read() for reader in readers)
        self.check_tables(tables, settings)
        if self.problems:
            raise refuse(self.source, self.problems)
        return Contract(
            id=document["id"],
            version=document["version"],
            status=str(document.get("status") or "").lower(),
            tables=tables,
            settings=settings,
            service_levels=levels,
            skipped=(
                *_skipped(readers),
                *skipped,
                *not_measured(document),
            ),
            owner=_owner(document),
            support=_support(document),
            dialect=_DIALECTS.get(str((document.get("servers") or [{}])[0].get("type")).lower(), ""),
            source=self.source,
            document=document,
        )

    def check_names(self) -> None:
        if not re.fullmatch(ID_PATTERN, self.document["id"]):
            self.problem(
                ("id",), "letters, digits and . _ : - only, at most 200: the id is part of an asset's name"
            )
        try:
            Version(self.document["version"])
        except InvalidVersion:
            self.problem(("version",), f"{self.document['version']!r} is not a version such as 1.0.0")

    def check_tables(self, tables: tuple[Table, ...], settings: Settings) -> None:
        if not tables:
            self.problem(("schema",), "the contract names no table: schema needs an object")
        seen: dict[str, str] = {}
        for index, table in enumerate(tables):
            if table.physical_name in seen:
                self.problem(("schema", index), f"the table {table.physical_name!r} is written twice")
            seen[table.physical_name] = table.name
        aside = [table.quarantine_table for table in tables if table.quarantine_table]
        for shared in sorted({name for name in aside if aside.count(name) > 1}):
            text = f"{shared!r} would hold rows of several tables; say airflow.quarantineTable at each table"
            self.problem(("customProperties",), text)
        column = settings.partition_column
        if tables and column and not any(table.column(column) for table in tables):
            self.problem(
                ("customProperties",), f"airflow.partitionColumn {column!r} is not among the properties"
            )
        known = {column.name for table in tables for column in table.columns}
        known |= {f"{table.name}.{column.name}" for table in tables for column in table.columns}
        for consumer in settings.consumers:
            for use in consumer.uses:
                if use not in known:
                    text = f"consumer {consumer.name!r} uses {use!r}, which is not promised"
                    self.problem(("customProperties",), text)


def _skipped(readers: list[TableReader]) -> list[str]:
    several = len(readers) > 1
    return [
        f"{reader.spec['name']}: {text}" if several else text for reader in readers for text in reader.skipped
    ]


def _owner(document: Mapping[str, Any]) -> str:
    team = document.get("team") or {}
    if isinstance(team, dict):
        return str(team.get("name") or _lead(team.get("members") or []))
    return _lead(team)


def _lead(members: list[dict[str, Any]]) -> str:
    owners = [m for m in members if "owner" in str(m.get("role", "")).lower()] or members
    return str(owners[0].get("name") or owners[0]["username"]) if owners else ""


def _support(document: Mapping[str, Any]) -> str:
    channels = document.get("support") or []
    if not channels:
        return ""
    order = {scope: rank for rank, scope in enumerate(_SUPPORT_ORDER)}
    best = min(channels, key=lambda channel: order.get(str(channel.get("scope")), len(order)))
    tool = f"{best['tool']} " if best.get("tool") else ""
    url = f" ({best['url']})" if best.get("url") else ""
    return f"{tool}{best['channel']}{url}"
