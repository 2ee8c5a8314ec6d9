"""A contract: a plain ODCS file, and the few words of it that Airflow needs.

Ours stand only under ``customProperties``:

==========================  =============================================================================
``airflow.connection``      Connection id of the database that holds the table.
``airflow.partition``       ``strftime`` format of partition keys, default ``%Y-%m-%d``.
``airflow.partitionColumn``  Column that restricts the table to a partition; default the one property
                            marked ``partitioned: true``. Without either the whole table is judged.
``airflow.timezone``        IANA zone of partition keys and of times without a zone, default ``UTC``.
==========================  =============================================================================
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packaging.version import InvalidVersion, Version

from airflow_ext.contracts.loading import Places, load, refuse
from airflow_ext.contracts.partition import DEFAULT_FORMAT, DEFAULT_TIMEZONE, PartitionRule
from airflow_ext.contracts.ranges import ID_PATTERN, asset_name
from airflow_ext.contracts.rules import NONE_OF_THEM, Check, Rule, RuleReader, Validity
from airflow_ext.exceptions import InvalidContractError, InvalidError

if TYPE_CHECKING:
    from airflow.sdk import Asset

OWN_PROPERTIES = ("airflow.connection", "airflow.partition", "airflow.partitionColumn", "airflow.timezone")
_LAG = ("freshness", "latency")
_SUPPORT_ORDER = ("notifications", "issues", "interactive")


@dataclass(frozen=True)
class Column:
    """A column as promised.

    :param logical_type: ODCS logical type, empty if not said.
    :param physical_type: Type in the database, empty if not said.
    """

    name: str
    logical_type: str = ""
    physical_type: str = ""


@dataclass(frozen=True)
class Contract:
    """A promise about one table.

    :param id: Contract id.
    :param version: Version of the contract, ``major.minor.patch``.
    :param table: Name of the table, with schema where it has one.
    :param columns: Columns promised.
    :param rules: What is promised about rows.
    :param skipped: What the file says that is not judged, with the cause.
    :param conn_id: Connection of the database, empty if the file names none.
    :param partition: How partition keys look.
    :param partition_column: Column that restricts the table to a partition.
    :param owner: Who answers for the data.
    :param support: Where to ask.
    :param source: Where the contract was read from.
    """

    id: str
    version: str
    table: str
    columns: tuple[Column, ...]
    rules: tuple[Rule, ...]
    skipped: tuple[str, ...] = ()
    conn_id: str = ""
    partition: PartitionRule = field(default_factory=PartitionRule)
    partition_column: str = ""
    owner: str = ""
    support: str = ""
    source: str = ""

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> Contract:
        """Read a contract file; the same content is parsed once per process.

        :param path: A YAML file in the Open Data Contract Standard v3.0 to v3.2. A relative path is
            relative to the working directory; in a DAG file start from ``Path(__file__).parent``.
        :raises InvalidContractError: If it cannot be read or used, with every problem and its place.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as exc:
            what = exc.strerror if isinstance(exc, OSError) else "not UTF-8 text"
            hint = "" if Path(path).is_absolute() else f" (looked in {Path.cwd()})"
            raise InvalidContractError(
                f"{path}: {what}{hint}", source=str(path), problems=(f"file: {what}",)
            ) from None
        return _read(text, str(path))

    @classmethod
    def from_text(cls, text: str, *, source: str = "text") -> Contract:
        """Read a contract from the text of a file.

        :param source: What to call it in messages.
        :raises InvalidContractError: With every problem and its place.
        """
        return _read(text, source)

    @property
    def major(self) -> int:
        """Major version; each has an asset of its own, so that two can live side by side."""
        return Version(self.version).major

    @property
    def asset(self) -> Asset:
        """The asset that stands for this major version; schedule on it, or read its state."""
        from airflow.sdk import Asset

        return Asset(name=asset_name(self.id, self.major))

    def partition_for(self, context: Mapping[str, Any], given: str | None = None) -> str:
        """Return the partition a run is about; see :meth:`PartitionRule.key_for`.

        :raises ValueError: If it cannot be known or does not fit the format.
        """
        return self.partition.key_for(context, given)


@functools.lru_cache(maxsize=1024)
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
        if not re.fullmatch(ID_PATTERN, document["id"]):
            self.problem(
                ("id",), "letters, digits and . _ : - only, at most 200: the id is part of an asset's name"
            )
        try:
            Version(document["version"])
        except InvalidVersion:
            self.problem(("version",), f"{document['version']!r} is not a version such as 1.0.0")
        own = self.own_properties()
        rule = self.partition_rule(own)
        table = self.one_table()
        if table is None:
            raise refuse(self.source, self.problems)
        columns = self.columns(table)
        partition_column = self.partition_column(own, columns, rule)
        reader = self.rules(table, columns, partitioned=bool(partition_column))
        if self.problems:
            raise refuse(self.source, self.problems)
        return Contract(
            id=document["id"],
            version=document["version"],
            table=self.table_name(table),
            columns=tuple(columns[name] for name in columns),
            rules=tuple(reader.rules),
            skipped=tuple(reader.skipped),
            conn_id=own.get("airflow.connection", ""),
            partition=rule,
            partition_column=partition_column,
            owner=_owner(document),
            support=_support(document),
            source=self.source,
        )

    def own_properties(self) -> dict[str, str]:
        own = {}
        for index, item in enumerate(self.document.get("customProperties") or ()):
            name, value = item["property"], item["value"]
            if not name.startswith("airflow."):
                continue
            path = ("customProperties", index)
            if name not in OWN_PROPERTIES:
                self.problem(
                    (*path, "property"), f"{name!r} is not known; known are {', '.join(OWN_PROPERTIES)}"
                )
            elif not isinstance(value, str) or not value:
                self.problem((*path, "value"), f"{name} takes a text, not {value!r}")
            else:
                own[name] = value
        return own

    def partition_rule(self, own: Mapping[str, str]) -> PartitionRule:
        try:
            return PartitionRule(
                own.get("airflow.partition", DEFAULT_FORMAT), own.get("airflow.timezone", DEFAULT_TIMEZONE)
            )
        except InvalidError as exc:
            self.problem(("customProperties",), str(exc))
            return PartitionRule()

    def one_table(self) -> dict[str, Any] | None:
        tables: list[dict[str, Any]] = self.document.get("schema") or []
        if len(tables) == 1:
            return tables[0]
        if not tables:
            self.problem(("schema",), "the contract names no table: schema needs one object")
        else:
            names = ", ".join(str(table.get("name")) for table in tables)
            self.problem(
                ("schema", 1),
                f"a contract is about one table, this one names {len(tables)} ({names}); split it",
            )
        return None

    def table_name(self, table: Mapping[str, Any]) -> str:
        name = str(table.get("physicalName") or table["name"])
        servers = self.document.get("servers") or [{}]
        schema = servers[0].get("schema")
        return f"{schema}.{name}" if schema and "." not in name else name

    def columns(self, table: Mapping[str, Any]) -> dict[str, Column]:
        columns: dict[str, Column] = {}
        for index, spec in enumerate(table.get("properties") or ()):
            name = spec.get("physicalName") or spec["name"]
            if name in columns:
                self.problem(("schema", 0, "properties", index), f"the column {name!r} is written twice")
            columns[name] = Column(name, spec.get("logicalType") or "", spec.get("physicalType") or "")
        return columns

    def partition_column(
        self, own: Mapping[str, str], columns: Mapping[str, Column], rule: PartitionRule
    ) -> str:
        specs = self.document["schema"][0].get("properties") or ()
        marked = [spec.get("physicalName") or spec["name"] for spec in specs if spec.get("partitioned")]
        name = own.get("airflow.partitionColumn", marked[0] if len(marked) == 1 else "")
        if len(marked) > 1 and not name:
            self.problem(
                ("schema", 0, "properties"), "several partitioned columns: say airflow.partitionColumn"
            )
        if name and name not in columns:
            self.problem(
                ("customProperties",), f"airflow.partitionColumn {name!r} is not among the properties"
            )
        elif name and columns[name].logical_type == "date" and rule.unit in ("hour", "minute", "second"):
            self.problem(
                ("customProperties",), f"partitions of one {rule.unit} need a timestamp, {name!r} is a date"
            )
        return name

    def rules(
        self, table: Mapping[str, Any], columns: Mapping[str, Column], *, partitioned: bool
    ) -> RuleReader:
        reader = RuleReader(partitioned=partitioned, columns=columns)
        base: tuple[str | int, ...] = ("schema", 0)
        for index, quality in enumerate(table.get("quality") or ()):
            reader.quality(quality, (*base, "quality", index), None, known=Validity())
        key = []
        for index, spec in enumerate(table.get("properties") or ()):
            name = spec.get("physicalName") or spec["name"]
            reader.column(name, spec, (*base, "properties", index))
            if spec.get("primaryKey"):
                key.append((spec.get("primaryKeyPosition") or 0, index, name))
            if spec.get("properties") or spec.get("items") or spec.get("map"):
                reader.skipped.append(f"{name}: nested properties are not judged")
        if key:
            names = tuple(name for _, _, name in sorted(key))
            reader.rules.append(
                Rule(f"primaryKey({', '.join(names)})", "duplicateValues", NONE_OF_THEM, names)
            )
        for index, sla in enumerate(self.document.get("slaProperties") or ()):
            if sla["property"] in _LAG:
                reader.lag(sla, ("slaProperties", index), columns, table["name"])
            else:
                reader.skipped.append(f"{sla['property']}: this service level is not judged")
        if partitioned and not any(rule.metric == "rowCount" for rule in reader.rules):
            reader.rules.append(Rule("rowCount(table)", "rowCount", Check("mustBeGreaterOrEqualTo", 1)))
        for path, text in reader.problems:
            self.problem(path, text)
        return reader


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
