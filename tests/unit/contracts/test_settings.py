"""Our own words in a contract, and its promises about time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import yaml

from airflow_ext.contracts import Contract, Status
from airflow_ext.contracts.head import Promise
from airflow_ext.exceptions import InvalidContractError
from tests.unit.contracts.samples import column, document
from tests.unit.contracts.shops import NOW, Shop, reasons


def made(
    own: dict[str, Any] | None = None, sla: list[dict[str, Any]] | None = None, **changes: Any
) -> Contract:
    properties = [{"property": f"airflow.{k}", "value": v} for k, v in (own or {}).items()]
    return Contract.from_text(
        yaml.safe_dump(document(customProperties=properties, slaProperties=sla, **changes))
    )


def test_settings_are_read() -> None:
    contract = made(
        {
            "connection": "db",
            "asset": "postgres://db/shop/orders",
            "grace": "1h 30m",
            "timeLimit": "45s",
            "samples": 5,
            "quarantineTable": "shop.bad",
            "severity": {"schema.extra": "ignore", "dimension.accuracy": "warning"},
            "consumers": [
                {"name": "revenue", "uses": ["orders.amount", "id"], "contact": "#rev"},
                {"name": "all"},
            ],
        }
    )
    settings = contract.settings
    assert (settings.conn_id, settings.asset, settings.samples) == ("db", "postgres://db/shop/orders", 5)
    assert (contract.grace, settings.time_limit) == (timedelta(minutes=90), 45.0)
    assert contract.tables[0].quarantine_table == "shop.bad"
    assert [(c.name, c.uses, c.contact) for c in contract.consumers] == [
        ("revenue", ("orders.amount", "id"), "#rev"),
        ("all", (), ""),
    ]
    assert settings.severities.of("schema.extra") == "ignore"
    assert settings.severities.of_rule("", "accuracy") == "warning"
    assert settings.severities.of_rule("critical", "accuracy") == "error"


@pytest.mark.parametrize(
    ("own", "problem"),
    [
        ({"quarantinetable": "x"}, "did you mean 'airflow.quarantineTable'"),
        ({"conection": "x"}, "did you mean 'airflow.connection'"),
        ({"zzz": "x"}, "known are airflow.asset, airflow.connection"),
        ({"connection": 5}, "airflow.connection takes a text, not 5"),
        ({"grace": "soon"}, "'soon' is no length of time"),
        ({"grace": "5 parsecs"}, "no length of time"),
        ({"grace": "1" * 100_000}, "no length of time"),
        ({"grace": "99999999999d"}, "longer than a hundred years"),
        ({"timeLimit": "2d"}, "between 1s and 1d"),
        ({"samples": 21}, "0 to 20"),
        ({"samples": True}, "0 to 20"),
        ({"severity": ["x"]}, "is not a mapping"),
        ({"severity": {"schema.extra": "fatal"}}, "'fatal' is not known, use error, warning or ignore"),
        ({"severity": {"schema.extras": "ignore"}}, "did you mean 'schema.extra'"),
        ({"consumers": {"a": 1}}, "is not a list of consumers"),
        ({"consumers": [{"uses": ["id"]}]}, "is no consumer"),
        ({"consumers": [{"name": "a", "use": ["id"]}]}, "'use' is not known"),
        ({"consumers": [{"name": "a", "uses": "id"}]}, "uses is a list of columns"),
        ({"consumers": [{"name": "a", "uses": ["price"]}]}, "uses 'price', which is not promised"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(own: dict[str, Any], problem: str) -> None:
    with pytest.raises(InvalidContractError) as caught:
        made(own)
    assert problem in str(caught.value)
    assert "customProperties" in str(caught.value)


def test_our_words_stand_where_they_count() -> None:
    text = document()
    text["schema"][0]["customProperties"] = [{"property": "airflow.grace", "value": "1h"}]
    column(text, "id")["customProperties"] = [{"property": "airflow.samples", "value": 1}]
    with pytest.raises(InvalidContractError) as caught:
        Contract.from_text(yaml.safe_dump(text))
    assert "schema[0].customProperties[0].property: 'airflow.grace' cannot stand here" in str(caught.value)
    assert "properties[1].customProperties[0].property: 'airflow.samples' cannot stand here" in str(
        caught.value
    )


def test_rows_of_two_tables_are_not_put_into_one() -> None:
    with pytest.raises(InvalidContractError, match="'q' would hold rows of several tables"):
        made({"quarantineTable": "q"}, schema=[{"name": "a"}, {"name": "b"}])


@pytest.mark.parametrize(
    ("value", "zone", "partition", "due"),
    [
        ("06:00", "Europe/Berlin", "2026-01-03", "2026-01-04T05:00:00+00:00"),
        ("06:00", "Europe/Berlin", "2026-03-28", "2026-03-29T04:00:00+00:00"),
        ("00:00", "UTC", "2026-01-03", "2026-01-04T00:00:00+00:00"),
        ("09:00-08:00", "UTC", "2026-01-03", "2026-01-04T17:00:00+00:00"),
        ("01:00+02:00", "UTC", "2026-01-03", "2026-01-04T23:00:00+00:00"),
        ("06:30:30Z", "America/New_York", "2026-01-03", "2026-01-04T06:30:30+00:00"),
    ],
)
def test_when_a_partition_is_due(value: str, zone: str, partition: str, due: str) -> None:
    contract = made({"timezone": zone, "grace": "10m"}, [{"property": "timeOfAvailability", "value": value}])
    assert contract.due(partition) == datetime.fromisoformat(due)
    assert contract.late_after(partition) == datetime.fromisoformat(due) + timedelta(minutes=10)


def test_times_of_day_need_no_quotes() -> None:
    text = yaml.safe_dump(document()) + "slaProperties:\n- {property: timeOfAvailability, value: 10:30}\n"
    assert Contract.from_text(text).due("2026-01-03") == datetime(2026, 1, 4, 10, 30, tzinfo=UTC)


def test_the_end_of_a_contract() -> None:
    contract = made(
        sla=[
            {"property": "endOfSupport", "value": "2029-12-31"},
            {"property": "endOfLife", "value": "2031-01-01T00:00:00Z"},
        ]
    )
    for year, deprecated, withdrawn in ((2029, False, False), (2030, True, False), (2031, True, True)):
        now = datetime(year, 1, 1, tzinfo=UTC)
        assert (contract.is_deprecated(now), contract.is_withdrawn(now)) == (deprecated, withdrawn)
    life = Promise.of(contract).life(datetime(2030, 1, 1, 0, 0, 1, tzinfo=UTC), contract.partition)
    assert life == (Status.DEPRECATED, "the contract's support ended 2029-12-31")
    assert made(status="deprecated").is_deprecated(NOW)
    assert made(status="retired").is_withdrawn(NOW)


def _on(shop: Shop, contract: Contract, **arguments: Any) -> Any:
    text = dict(contract.document)
    text["schema"][0]["physicalName"] = shop.table
    return shop.judge_contract(Contract.from_text(yaml.safe_dump(text)), **arguments)


def test_a_partition_published_late_warns_but_not_when_repaired(shop: Shop) -> None:
    contract = made({"grace": "30m"}, [{"property": "timeOfAvailability", "value": "06:00"}])
    in_time, late = datetime(2013, 1, 6, 6, 30, tzinfo=UTC), datetime(2013, 1, 6, 6, 31, tzinfo=UTC)
    assert _on(shop, contract, now=in_time).status is Status.PASS
    verdict = _on(shop, contract, now=late)
    assert verdict.status is Status.WARN
    assert reasons(verdict) == {
        "timeOfAvailability": "by 2013-01-06 06:00 UTC (and 30 min of grace) / 2013-01-06 06:31 UTC"
    }
    assert _on(shop, contract, now=late, on_time=False).status is Status.PASS


def test_rows_kept_too_long_warn(shop: Shop) -> None:
    sla = [{"property": "retention", "value": 2, "unit": "d", "element": "orders.day"}]
    assert reasons(_on(shop, made({}, sla))) == {"retention(orders.day)": "age of the oldest row <= 2d / 3d"}
    assert _on(shop, made({}, [{**sla[0], "value": 3}])).status is Status.PASS


def test_the_contract_says_how_grave_a_failure_is(shop: Shop) -> None:
    shop.do(f"ALTER TABLE {shop.table} ADD COLUMN note VARCHAR(9)")
    assert _on(shop, made()).status is Status.WARN
    assert _on(shop, made({"severity": {"schema.extra": "ignore"}})).status is Status.PASS
    assert _on(shop, made({"severity": {"schema.extra": "error"}})).status is Status.BREACHED
    nullable = made({"severity": {"schema.extra": "ignore", "schema.nullable": "warning"}})
    assert reasons(_on(shop, nullable)) == {
        "schema.nullable(day)": "NOT NULL / may be NULL",
        "schema.nullable(id)": "NOT NULL / may be NULL",
    }


def test_another_primary_key_warns(shop: Shop) -> None:
    shop.do(
        f"DROP TABLE {shop.table}",
        f"CREATE TABLE {shop.table} (day DATE, id INTEGER, country VARCHAR(9), amount DOUBLE PRECISION, "
        "PRIMARY KEY (id, day))",
        f"INSERT INTO {shop.table} VALUES ('2013-01-05', 1, 'DE', 1)",
    )
    assert reasons(_on(shop, made())) == {"schema.key(id)": "id / id, day"}


def test_several_tables_are_judged_together(shop: Shop) -> None:
    lines = shop.table.replace("orders", "lines")
    shop.do(
        f"CREATE TABLE {lines} (order_id INTEGER, weight DOUBLE PRECISION)",
        f"INSERT INTO {lines} VALUES (1, -2), (NULL, 3)",
    )
    text = document()
    text["schema"][0]["physicalName"] = shop.table
    text["schema"].append(
        {
            "name": "lines",
            "physicalName": lines,
            "properties": [
                {"name": "order_id", "logicalType": "integer", "required": True},
                {"name": "weight", "logicalType": "number", "logicalTypeOptions": {"minimum": 0}},
            ],
            "quality": [{"name": "in words", "type": "text", "description": "x"}],
        }
    )
    verdict = shop.judge_contract(Contract.from_text(yaml.safe_dump(text)))
    assert reasons(verdict) == {
        "lines: required(order_id)": "NULL values = 0 / 1",
        "lines: valid(weight)": "invalid values = 0 / 1",
    }
    assert [(r.table, r.columns) for r in verdict.reasons] == [
        ("lines", ("order_id",)),
        ("lines", ("weight",)),
    ]
    assert verdict.rows == 5
    assert verdict.skipped == ("lines: in words: a rule of type text is not judged",)
