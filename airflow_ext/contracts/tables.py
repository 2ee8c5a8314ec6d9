"""The tables of a contract: their columns and what is promised about their rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from airflow_ext.contracts.rules import NONE_OF_THEM, Check, Rule, RuleReader, Validity
from airflow_ext.contracts.service_levels import LAGS, elements, lag_seconds
from airflow_ext.contracts.settings import TABLE_PROPERTIES, Settings, own_entries

Path = tuple[str | int, ...]
Problem = Callable[[Path, str], None]


@dataclass(frozen=True)
class Column:
    """A column as promised.

    :param name: Its name in the database.
    :param logical_type: ODCS logical type, empty if not said.
    :param physical_type: Type in the database, empty if not said.
    :param required: Whether NULL is excluded.
    :param unique: Whether values are unique within a partition.
    :param key_position: Place in the primary key from 1, 0 if it is not part of it.
    :param classification: How the contract classifies its values, empty if not said.
    :param deprecated: Whether it is announced to go.
    """

    name: str
    logical_type: str = ""
    physical_type: str = ""
    required: bool = False
    unique: bool = False
    key_position: int = 0
    classification: str = ""
    deprecated: bool = False

    @property
    def written_type(self) -> str:
        """The type promised, as a reason shows it."""
        return " ".join(filter(None, (self.logical_type, self.physical_type))) or "any type"

    @property
    def may_be_shown(self) -> bool:
        """Whether values may appear in a sample: never those of a classified column."""
        return self.classification.lower() in ("", "public")


@dataclass(frozen=True)
class Table:
    """A promise about one table.

    :param name: Its name in the contract.
    :param physical_name: Its name in the database, with schema where it has one.
    :param columns: Columns promised.
    :param rules: What is promised about rows.
    :param partition_column: Column that restricts the table to a partition; empty judges all of it.
    :param quarantine_table: Where rows that break rules are put, empty for nowhere.
    """

    name: str
    physical_name: str
    columns: tuple[Column, ...] = ()
    rules: tuple[Rule, ...] = ()
    partition_column: str = ""
    quarantine_table: str = ""

    @property
    def key(self) -> tuple[str, ...]:
        """Names of the columns of the primary key, in its order."""
        members = sorted((c for c in self.columns if c.key_position), key=lambda c: c.key_position)
        return tuple(column.name for column in members)

    def column(self, name: str) -> Column | None:
        """Return the column with a name, ``None`` if it is not promised."""
        return next((column for column in self.columns if column.name == name), None)


class TableReader:
    """Reads one schema object.

    :param document: The contract.
    :param index: Number of the schema object.
    :param settings: What the contract says to Airflow.
    :param problem: Takes place and text of a problem.
    """

    def __init__(self, document: Mapping[str, Any], index: int, settings: Settings, problem: Problem) -> None:
        self.document = document
        self.spec: Mapping[str, Any] = document["schema"][index]
        self.path: Path = ("schema", index)
        self.settings = settings
        self.problem = problem
        self.skipped: list[str] = []

    def read(self) -> Table:
        """Return the table; what is not judged is in :attr:`skipped`."""
        own = self._own()
        columns = self._columns()
        partition_column = self._partition_column(own, columns)
        reader = self._rules(columns, partitioned=bool(partition_column))
        self.skipped += reader.skipped
        return Table(
            name=self.spec["name"],
            physical_name=self._physical_name(),
            columns=tuple(columns.values()),
            rules=tuple(reader.rules),
            partition_column=partition_column,
            quarantine_table=own.get("airflow.quarantineTable", self.settings.quarantine_table),
        )

    def _own(self) -> dict[str, str]:
        own: dict[str, str] = {}
        for name, value, path in own_entries(self.spec, self.path, self.problem, TABLE_PROPERTIES):
            if isinstance(value, str) and value:
                own[name] = value
            else:
                self.problem(path, f"{name} takes a text, not {value!r}")
        return own

    def _physical_name(self) -> str:
        name = str(self.spec.get("physicalName") or self.spec["name"])
        servers = self.document.get("servers") or [{}]
        schema = servers[0].get("schema") or servers[0].get("dataset")
        return f"{schema}.{name}" if schema and "." not in name else name

    def _columns(self) -> dict[str, Column]:
        columns: dict[str, Column] = {}
        for index, spec in enumerate(self.spec.get("properties") or ()):
            path = (*self.path, "properties", index)
            name = spec.get("physicalName") or spec["name"]
            for _ in own_entries(spec, path, self.problem, ()):
                pass  # none may stand here; the wrong ones are told
            if spec.get("semanticType") == "measure":
                self.skipped.append(f"{name}: a measure is no column of the table")
                continue
            if name in columns:
                self.problem(path, f"the column {name!r} is written twice")
            position = spec.get("primaryKeyPosition") or 0
            columns[name] = Column(
                name,
                spec.get("logicalType") or "",
                spec.get("physicalType") or "",
                required=bool(spec.get("required") or spec.get("primaryKey")),
                unique=bool(spec.get("unique")),
                key_position=(position if position > 0 else index + 1) if spec.get("primaryKey") else 0,
                classification=str(spec.get("classification") or ""),
                deprecated=bool(spec.get("deprecated")),
            )
        return columns

    def _partition_column(self, own: Mapping[str, str], columns: Mapping[str, Column]) -> str:
        specs = self.spec.get("properties") or ()
        marked = [spec.get("physicalName") or spec["name"] for spec in specs if spec.get("partitioned")]
        given = self.settings.partition_column
        # the one at the top is meant for the tables that have it
        default = given if given in columns else marked[0] if len(marked) == 1 else ""
        name = own.get("airflow.partitionColumn", default)
        unit = self.settings.partition.unit
        if len(marked) > 1 and not name:
            self.problem(
                (*self.path, "properties"), "several partitioned columns: say airflow.partitionColumn"
            )
        if name and name not in columns:
            self.problem(
                (*self.path, "customProperties"),
                f"airflow.partitionColumn {name!r} is not among the properties",
            )
        elif name and columns[name].logical_type == "date" and unit in ("hour", "minute", "second"):
            self.problem(
                ("customProperties",), f"partitions of one {unit} need a timestamp, {name!r} is a date"
            )
        return name

    def _rules(self, columns: Mapping[str, Column], *, partitioned: bool) -> RuleReader:
        reader = RuleReader(partitioned=partitioned, columns=columns, severities=self.settings.severities)
        for index, quality in enumerate(self.spec.get("quality") or ()):
            reader.quality(quality, (*self.path, "quality", index), None, known=Validity())
        for index, spec in enumerate(self.spec.get("properties") or ()):
            name = spec.get("physicalName") or spec["name"]
            if name not in columns:
                continue
            reader.column(name, spec, (*self.path, "properties", index))
            if spec.get("properties") or spec.get("items") or spec.get("map"):
                reader.skipped.append(f"{name}: nested properties are not judged")
        key = Table("", "", tuple(columns.values())).key
        if key:
            reader.rules.append(Rule(f"primaryKey({', '.join(key)})", "duplicateValues", NONE_OF_THEM, key))
        self._times(reader, columns)
        if partitioned and not any(rule.metric == "rowCount" for rule in reader.rules):
            reader.rules.append(Rule("rowCount(table)", "rowCount", Check("mustBeGreaterOrEqualTo", 1)))
        for path, text in reader.problems:
            self.problem(path, text)
        return reader

    def _times(self, reader: RuleReader, columns: Mapping[str, Column]) -> None:
        """Read the service levels that are measured on a column of this table."""
        for index, sla in enumerate(self.document.get("slaProperties") or ()):
            name = sla["property"]
            if name not in (*LAGS, "retention"):
                continue
            for table, column in elements(sla):
                if table not in (self.spec["name"], self.spec.get("physicalName")) or not column:
                    continue
                path = ("slaProperties", index)
                if column not in columns:
                    text = f"{column!r} names no column of {table}; write {table}.<column>, the time of a row"
                    self.problem((*path, "element"), text)
                    continue
                seconds = lag_seconds(sla)
                if isinstance(seconds, str):
                    self.problem(path, seconds)
                else:
                    reader.time(name, f"{table}.{column}", column, seconds)


def not_measured(document: Mapping[str, Any]) -> list[str]:
    """Say which promises about the age of rows name no column of the contract's tables."""
    names = {spec.get(key) for spec in document.get("schema") or () for key in ("name", "physicalName")}
    skipped = []
    for sla in document.get("slaProperties") or ():
        if sla["property"] not in (*LAGS, "retention"):
            continue
        if not any(table in names and column for table, column in elements(sla)):
            what = f"the element {sla['element']!r}" if sla.get("element") else "a missing element"
            skipped.append(f"{sla['property']}: {what} names no <table>.<column> of this contract")
    return skipped
