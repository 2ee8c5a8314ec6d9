"""A small contract, and ways to change it."""

from __future__ import annotations

from typing import Any

import yaml

from airflow_ext.contracts import Contract


def document(**changes: Any) -> dict[str, Any]:
    """Return a contract on ``shop.orders``, one partition a day; ``changes`` replace top-level keys."""
    base: dict[str, Any] = {
        "apiVersion": "v3.1.0",
        "kind": "DataContract",
        "id": "orders",
        "version": "1.2.0",
        "status": "active",
        "team": {"name": "shop team"},
        "support": [{"channel": "#shop", "tool": "slack", "scope": "notifications"}],
        "schema": [
            {
                "name": "orders",
                "physicalName": "shop.orders",
                "properties": [
                    {"name": "day", "logicalType": "date", "required": True, "partitioned": True},
                    {"name": "id", "logicalType": "integer", "primaryKey": True},
                    {
                        "name": "country",
                        "logicalType": "string",
                        "logicalTypeOptions": {"pattern": "^[A-Z]{2}$"},
                    },
                    {"name": "amount", "logicalType": "number", "logicalTypeOptions": {"minimum": 0}},
                ],
            }
        ],
        "customProperties": [{"property": "airflow.connection", "value": "shop_db"}],
    }
    return {key: value for key, value in {**base, **changes}.items() if value is not None}


def contract(*, table: str = "shop.orders", quality: list[Any] | None = None, **changes: Any) -> Contract:
    """Return the contract, with other rules of the table."""
    made = document(**changes)
    made["schema"][0]["physicalName"] = table
    if quality is not None:
        made["schema"][0]["quality"] = quality
    return Contract.from_text(yaml.safe_dump(made))


def column(made: dict[str, Any], name: str) -> dict[str, Any]:
    """Return a column of a document, to change it."""
    found: dict[str, Any] = next(p for p in made["schema"][0]["properties"] if p["name"] == name)
    return found
