"""Pairs of contracts, one change apart, for comparing graders of changes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

Document = dict[str, Any]
Edit = Callable[[Document], None]

BASE: Document = {
    "apiVersion": "v3.1.0",
    "kind": "DataContract",
    "id": "orders",
    "version": "1.2.0",
    "status": "active",
    "description": {"purpose": "Orders of the shop."},
    "team": {"name": "shop"},
    "support": [{"channel": "#shop-data", "tool": "slack"}],
    "servers": [{"server": "prod", "type": "postgres", "host": "db", "port": 5432, "database": "shop", "schema": "public"}],
    "schema": [
        {
            "name": "orders",
            "physicalName": "orders",
            "physicalType": "table",
            "description": "One row per order.",
            "properties": [
                {"name": "id", "logicalType": "integer", "physicalType": "INTEGER", "required": True, "primaryKey": True},
                {"name": "day", "logicalType": "date", "physicalType": "DATE", "required": True},
                {
                    "name": "amount",
                    "logicalType": "number",
                    "physicalType": "DECIMAL(10,2)",
                    "required": True,
                    "logicalTypeOptions": {"minimum": 0, "maximum": 100000},
                },
                {
                    "name": "state",
                    "logicalType": "string",
                    "physicalType": "VARCHAR(20)",
                    "logicalTypeOptions": {"minLength": 2, "maxLength": 20, "pattern": "^[a-z]+$"},
                },
                {"name": "email", "logicalType": "string", "unique": True, "classification": "restricted"},
                {
                    "name": "note",
                    "logicalType": "string",
                    "quality": [{"name": "few nulls", "type": "library", "metric": "nullValues", "mustBeLessThan": 5, "unit": "percent"}],
                },
                {
                    "name": "address",
                    "logicalType": "object",
                    "properties": [
                        {"name": "city", "logicalType": "string", "required": True},
                        {"name": "zip", "logicalType": "string"},
                    ],
                },
                {"name": "tags", "logicalType": "array", "items": {"logicalType": "string"}},
            ],
            "quality": [
                {"name": "enough", "type": "library", "metric": "rowCount", "mustBeGreaterThan": 100},
                {"name": "turnover", "type": "sql", "query": "SELECT SUM(amount) FROM orders", "mustBeGreaterThan": 0},
                {"name": "soft", "type": "library", "metric": "rowCount", "mustBeLessThan": 100000, "severity": "warning"},
            ],
        }
    ],
    "slaProperties": [
        {"property": "freshness", "value": 24, "unit": "h", "element": "orders.day"},
        {"property": "retention", "value": 2, "unit": "y"},
        {"property": "timeOfAvailability", "value": "06:00+01:00"},
    ],
}  # fmt: skip


def column(document: Document, name: str) -> Document:
    """Return a column of the one table."""
    found: Document = next(spec for spec in document["schema"][0]["properties"] if spec["name"] == name)
    return found


def rule(document: Document, name: str) -> Document:
    """Return a quality rule of the one table or of its columns."""
    table = document["schema"][0]
    rules = [*table["quality"], *column(document, "note")["quality"]]
    found: Document = next(item for item in rules if item["name"] == name)
    return found


def _set(name: str, **fields: Any) -> Edit:
    return lambda document: column(document, name).update(fields)


def _drop(name: str, *fields: str) -> Edit:
    def edit(document: Document) -> None:
        for field in fields:
            del column(document, name)[field]

    return edit


def _options(name: str, **fields: Any) -> Edit:
    def edit(document: Document) -> None:
        options = {**column(document, name).get("logicalTypeOptions", {}), **fields}
        column(document, name)["logicalTypeOptions"] = {k: v for k, v in options.items() if v is not None}

    return edit


def _rule(name: str, **fields: Any) -> Edit:
    def edit(document: Document) -> None:
        found = rule(document, name)
        found.update(fields)
        for field in [field for field, value in fields.items() if value is None]:
            del found[field]

    return edit


def _table(**fields: Any) -> Edit:
    return lambda document: document["schema"][0].update(fields)


def _add_column(**spec: Any) -> Edit:
    return lambda document: document["schema"][0]["properties"].append(spec)


def _remove_column(name: str) -> Edit:
    return lambda document: document["schema"][0]["properties"].remove(column(document, name))


def _rename_column(document: Document) -> None:
    column(document, "note")["name"] = "notes"


def _add_rule(**spec: Any) -> Edit:
    return lambda document: document["schema"][0]["quality"].append(spec)


def _remove_rule(name: str) -> Edit:
    return lambda document: document["schema"][0]["quality"].remove(rule(document, name))


def _sla(name: str, **fields: Any) -> Edit:
    def edit(document: Document) -> None:
        next(item for item in document["slaProperties"] if item["property"] == name).update(fields)

    return edit


def _remove_sla(name: str) -> Edit:
    def edit(document: Document) -> None:
        document["slaProperties"] = [item for item in document["slaProperties"] if item["property"] != name]

    return edit


def _add_sla(**spec: Any) -> Edit:
    return lambda document: document["slaProperties"].append(spec)


def _top(**fields: Any) -> Edit:
    return lambda document: document.update(fields)


def _nested(name: str, **fields: Any) -> Edit:
    return lambda document: next(
        spec for spec in column(document, "address")["properties"] if spec["name"] == name
    ).update(fields)


def _both(*edits: Edit) -> Edit:
    def edit(document: Document) -> None:
        for one in edits:
            one(document)

    return edit


def _enum(*values: Any) -> Edit:
    return _set("state", enum=[{"value": value} for value in values])


def _as_v32(document: Document) -> None:
    document["apiVersion"] = "v3.2.0"
    _enum("open", "paid")(document)


PAIRS: Mapping[str, tuple[Edit | None, Edit]] = {
    # columns
    "column removed": (None, _remove_column("note")),
    "column added": (None, _add_column(name="currency", logicalType="string")),
    "required column added": (None, _add_column(name="currency", logicalType="string", required=True)),
    "column renamed": (None, _rename_column),
    "physical name changed": (None, _set("note", physicalName="note_text")),
    "physical name written out": (None, _set("note", physicalName="note")),
    "description of a column": (None, _set("note", description="What the customer said.")),
    "tags of a column": (None, _set("note", tags=["free text"])),
    "classification changed": (None, _set("email", classification="public")),
    "nested column removed": (None, lambda d: column(d, "address")["properties"].pop()),
    "nested column added": (None, lambda d: column(d, "address")["properties"].append({"name": "street", "logicalType": "string"})),
    "nested column may be NULL": (None, _nested("city", required=False)),
    "items of another type": (None, _set("tags", items={"logicalType": "integer"})),
    # types
    "integer to number": (None, _set("id", logicalType="number")),
    "string to integer": (None, _set("note", logicalType="integer")),
    "INTEGER to BIGINT": (None, _set("id", physicalType="BIGINT")),
    "INTEGER to SMALLINT": (None, _set("id", physicalType="SMALLINT")),
    "DECIMAL(10,2) to DECIMAL(12,2)": (None, _set("amount", physicalType="DECIMAL(12,2)")),
    "DECIMAL(10,2) to DECIMAL(10,4)": (None, _set("amount", physicalType="DECIMAL(10,4)")),
    "VARCHAR(20) to VARCHAR(50)": (None, _set("state", physicalType="VARCHAR(50)")),
    "VARCHAR(20) to VARCHAR(10)": (None, _set("state", physicalType="VARCHAR(10)")),
    "VARCHAR(20) to TEXT": (None, _set("state", physicalType="TEXT")),
    "INTEGER to INT4": (None, _set("id", physicalType="INT4")),
    "physical type gone": (None, _drop("id", "physicalType")),
    "physical type new": (None, _set("note", physicalType="TEXT")),
    "DATE to TIMESTAMP": (None, _set("day", physicalType="TIMESTAMP")),
    # nullability and keys
    "required column may be NULL": (None, _set("amount", required=False)),
    "column becomes required": (None, _set("note", required=True)),
    "unique no longer": (None, _drop("email", "unique")),
    "unique now": (None, _set("note", unique=True)),
    "primary key gone": (None, _set("id", primaryKey=False)),
    "primary key grows": (None, _set("day", primaryKey=True)),
    # validity
    "minimum lowered": (None, _options("amount", minimum=-10)),
    "minimum raised": (None, _options("amount", minimum=1)),
    "minimum gone": (None, _options("amount", minimum=None)),
    "maximum raised": (None, _options("amount", maximum=200000)),
    "maximum lowered": (None, _options("amount", maximum=1000)),
    "minimum becomes exclusive": (None, _options("amount", minimum=None, exclusiveMinimum=0)),
    "maxLength raised": (None, _options("state", maxLength=30)),
    "maxLength lowered": (None, _options("state", maxLength=10)),
    "minLength gone": (None, _options("state", minLength=None)),
    "pattern changed": (None, _options("state", pattern="^[a-z]*$")),
    "pattern gone": (None, _options("state", pattern=None)),
    "pattern new": (None, _options("note", pattern="^.+$")),
    "enum new": (lambda d: d.update(apiVersion="v3.2.0"), _as_v32),
    "enum allows one more": (_as_v32, _both(_as_v32, _enum("open", "paid", "sent"))),
    "enum allows one less": (_as_v32, _both(_as_v32, _enum("open"))),
    "enum with other values": (_as_v32, _both(_as_v32, _enum("open", "sent"))),
    "enum gone": (_as_v32, lambda d: d.update(apiVersion="v3.2.0")),
    "column deprecated": (lambda d: d.update(apiVersion="v3.2.0"), _both(_top(apiVersion="v3.2.0"), _set("note", deprecated=True))),
    # quality
    "rule added": (None, _add_rule(name="no duplicates", type="library", metric="duplicateValues", mustBe=0,
                                   arguments={"properties": ["id"]})),
    "rule removed": (None, _remove_rule("enough")),
    "warning rule removed": (None, _remove_rule("soft")),
    "warning rule added": (None, _add_rule(name="hint", type="library", metric="rowCount", mustBeLessThan=9, severity="warning")),
    "threshold loosened": (None, _rule("enough", mustBeGreaterThan=50)),
    "threshold tightened": (None, _rule("enough", mustBeGreaterThan=500)),
    "threshold written otherwise": (None, _rule("enough", mustBeGreaterThan=None, mustBeGreaterOrEqualTo=101)),
    "threshold of another kind": (None, _rule("enough", mustBeGreaterThan=None, mustBeBetween=[50, 200])),
    "percent loosened": (None, _rule("few nulls", mustBeLessThan=10)),
    "rows instead of percent": (None, _rule("few nulls", unit="rows")),
    "severity becomes warning": (None, _rule("enough", severity="warning")),
    "severity becomes error": (None, _rule("soft", severity="error")),
    "query changed": (None, _rule("turnover", query="SELECT SUM(amount) FROM orders WHERE amount > 0")),
    "metric changed": (None, _rule("enough", metric="duplicateValues", arguments={"properties": ["id"]})),
    "nulls become missing values": (None, _rule("few nulls", metric="missingValues", arguments={"missingValues": ["n/a"]})),
    "dimension of a rule": (None, _rule("enough", dimension="completeness")),
    # tables
    "table removed": (
        lambda d: d["schema"].append({"name": "lines", "properties": [{"name": "id", "logicalType": "integer"}]}),
        lambda _: None,
    ),
    "table added": (None, lambda d: d["schema"].append({"name": "lines", "properties": [{"name": "id", "logicalType": "integer"}]})),
    "table renamed in the database": (None, _table(physicalName="orders_v2")),
    "table becomes a view": (None, _table(physicalType="view")),
    "description of a table": (None, _table(description="One row per order, cancelled ones too.")),
    # service levels
    "freshness loosened": (None, _sla("freshness", value=48)),
    "freshness tightened": (None, _sla("freshness", value=12)),
    "freshness written otherwise": (None, _sla("freshness", value=1, unit="d")),
    "freshness gone": (None, _remove_sla("freshness")),
    "freshness of another column": (None, _sla("freshness", element="orders.id")),
    "retention shortened": (None, _sla("retention", value=1)),
    "retention lengthened": (None, _sla("retention", value=3)),
    "available later": (None, _sla("timeOfAvailability", value="09:00+01:00")),
    "availability time gone": (None, _remove_sla("timeOfAvailability")),
    "end of support announced": (None, _add_sla(property="endOfSupport", value="2027-06-30")),
    "end of support earlier": (
        _add_sla(property="endOfSupport", value="2027-06-30"),
        _add_sla(property="endOfSupport", value="2027-01-31"),
    ),
    "availability lowered": (
        _add_sla(property="availability", value="99.9", unit="percent"),
        _add_sla(property="availability", value="99", unit="percent"),
    ),
    # the rest
    "purpose changed": (None, _top(description={"purpose": "Orders of the shop and its branches."})),
    "support channel added": (None, lambda d: d["support"].append({"channel": "shop@example.com", "tool": "email"})),
    "team renamed": (None, _top(team={"name": "commerce"})),
    "status deprecated": (None, _top(status="deprecated")),
    "status retired": (None, _top(status="retired")),
    "server moved to another schema": (None, lambda d: d["servers"][0].update(schema="shop")),
    "server on another port": (None, lambda d: d["servers"][0].update(port=5433)),
    "partition format changed": (
        _top(customProperties=[{"property": "airflow.partition", "value": "%Y-%m-%d"}]),
        _top(customProperties=[{"property": "airflow.partition", "value": "%Y-%m"}]),
    ),
    "nothing": (None, lambda _: None),
}  # fmt: skip
"""By name: what is edited in both versions of :data:`BASE` (for the old one), and what makes the new one."""


def documents(name: str) -> tuple[Document, Document]:
    """Return the two versions of a pair; both have the same version number, so that only the change counts."""
    before, after = PAIRS[name]
    old, new = copy.deepcopy(BASE), copy.deepcopy(BASE)
    if before is not None:
        before(old)
    after(new)
    return old, new
