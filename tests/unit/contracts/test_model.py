"""Reading contract files, good and bad."""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from airflow_ext.contracts import Contract
from airflow_ext.exceptions import InvalidContractError
from tests.paths import ROOT
from tests.unit.contracts.samples import column, document

DEMO = ROOT / "dags" / "contracts" / "daily_delays.odcs.yaml"


def refused(text: str | dict[str, Any]) -> InvalidContractError:
    with pytest.raises(InvalidContractError) as caught:
        Contract.from_text(text if isinstance(text, str) else yaml.safe_dump(text), source="x.odcs.yaml")
    return caught.value


def test_the_demo_contract_is_read() -> None:
    contract = Contract.from_file(DEMO)
    assert (contract.id, contract.version, contract.major) == ("daily_delays", "1.0.0", 1)
    assert contract.asset.name == "contract/daily_delays/v1"
    assert (contract.table, contract.conn_id) == ("marts.daily_delays", "warehouse")
    assert (contract.partition_column, contract.partition.format) == ("flight_date", "%Y-%m-%d")
    assert contract.owner == "analytics"
    assert contract.support == "slack #analytics-data (https://example.com/slack/analytics-data)"
    assert {rule.name for rule in contract.rules} >= {
        "enough carriers",
        "enough flights",
        "required(carrier)",
        "valid(carrier)",
        "primaryKey(flight_date, carrier)",
        "latency(daily_delays.flight_date)",
    }
    assert contract.skipped == ()


def test_the_same_content_is_parsed_once() -> None:
    assert Contract.from_file(DEMO) is Contract.from_file(str(DEMO))


def test_a_contract_survives_pickle() -> None:
    contract = Contract.from_file(DEMO)
    assert pickle.loads(pickle.dumps(contract)) == contract  # noqa: S301  our own


@pytest.mark.parametrize("version", ["v3.0.0", "v3.0.2", "v3.1.0", "v3.2.0"])
def test_each_supported_version_of_the_standard_is_read(version: str) -> None:
    text = yaml.safe_dump(document(apiVersion=version))
    assert Contract.from_text(text).id == "orders"


def test_what_is_not_judged_is_listed() -> None:
    made = document(
        slaProperties=[
            {"property": "retention", "value": 3, "unit": "y"},
            {"property": "frequency", "value": 1, "unit": "d"},
        ],
    )
    made["schema"][0]["quality"] = [
        {"name": "in words", "type": "text", "description": "amounts look right"},
        {"name": "soda", "type": "custom", "engine": "soda", "implementation": "checks"},
    ]
    skipped = Contract.from_text(yaml.safe_dump(made)).skipped
    assert skipped == (
        "in words: a rule of type text is not judged",
        "soda: a rule of type custom is not judged",
        "frequency: this service level is not judged",
        "retention: a missing element names no <table>.<column> of this contract",
    )


def test_the_owner_of_the_old_team_form_is_found() -> None:
    team = [{"username": "ann", "role": "developer"}, {"username": "bob", "role": "Data Owner"}]
    assert Contract.from_text(yaml.safe_dump(document(team=team))).owner == "bob"


def test_the_schema_of_the_server_is_part_of_the_table_name() -> None:
    servers = [{"server": "s", "type": "duckdb", "database": "w", "schema": "marts"}]
    made = document(servers=servers)
    made["schema"][0]["physicalName"] = "orders"
    assert Contract.from_text(yaml.safe_dump(made)).table == "marts.orders"


def test_a_missing_file_says_where_it_was_looked_for() -> None:
    with pytest.raises(InvalidContractError, match=r"nowhere\.yaml: No such file.*looked in"):
        Contract.from_file("nowhere.yaml")


def test_a_file_of_bytes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidContractError, match="not UTF-8"):
        Contract.from_file(path)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param("", "it is empty", id="empty"),
        pytest.param("- a\n- b\n", "expected a mapping, found list", id="list"),
        pytest.param("a: [1, 2", "line 2: not YAML", id="torn"),
        pytest.param("a: !!python/object/apply:os.system [ls]", "not YAML", id="python-tag"),
        pytest.param("a: &a [*a]", "line 1: an alias repeats", id="endless-alias"),
        pytest.param("a: " + "[" * 5000, "not YAML|nested too deeply", id="deep"),
        pytest.param("[" * 400_000, "nested too deeply", id="so-deep-that-the-parser-crashed"),
        pytest.param("- " * 300_000 + "x", "nested too deeply", id="deep-in-one-line"),
        pytest.param("a: !!int '1" + ":1" * 300_000 + "'", "is no number", id="base-sixty"),
        pytest.param("a: !!float '1" + ":1" * 200_000 + "'", "is no number", id="base-sixty-float"),
        pytest.param("a: 0x" + "f" * 500_000, "is no number", id="long-number"),
        pytest.param("a: !!set {b}", "write the value without a tag", id="tag"),
        pytest.param("a: '" + "x" * 1_000_001 + "'", "larger than", id="large"),
    ],
)
def test_broken_text_is_refused(text: str, problem: str) -> None:
    error = refused(text)
    assert error.source == "x.odcs.yaml"
    assert re.search(problem, str(error))


def test_a_yaml_bomb_is_refused_without_being_written_out() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    assert "line 1: an alias repeats this value" in str(refused("\n".join(lines)))


def test_every_problem_is_listed_with_its_place() -> None:
    made = document(id="or ders", version="latest", wrong=1)
    made["schema"][0]["properties"][1]["logicalType"] = "whole"
    problems = refused(made).problems
    assert any("schema[0].properties[1].logicalType: 'whole' is not one of" in p for p in problems)
    assert any(p.startswith("line ") and "wrong: unknown field" in p for p in problems)
    made = document(id="or ders", version="latest")
    assert len(refused(made).problems) == 2


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        pytest.param({"schema": None}, "names no table", id="no-table"),
        pytest.param({"schema": []}, "names no table", id="empty-schema"),
        pytest.param({"schema": [{"name": "a"}, {"name": "a"}]}, "'a' is written twice", id="table-twice"),
        pytest.param({"apiVersion": "v2.2.2"}, "'v2.2.2' is not read here", id="old-standard"),
        pytest.param({"version": 1.0}, "1.0 is not of type 'string', put it in quotes", id="version-as-number"),
        pytest.param(
            {"customProperties": [{"property": "airflow.conn", "value": "x"}]},
            "'airflow.conn' is not known; did you mean 'airflow.connection'",
            id="own-property-misspelt",
        ),
        pytest.param(
            {"customProperties": [{"property": "airflow.partition", "value": "%d"}]},
            "partition format '%d'",
            id="partition-format",
        ),
        pytest.param(
            {"customProperties": [{"property": "airflow.timezone", "value": "Mars/Base"}]},
            "timezone 'Mars/Base' is not known",
            id="zone",
        ),
        pytest.param(
            {"customProperties": [{"property": "airflow.partitionColumn", "value": "week"}]},
            "'week' is not among the properties",
            id="partition-column",
        ),
        pytest.param(
            {"customProperties": [{"property": "airflow.partition", "value": "%Y-%m-%dT%H"}]},
            "partitions of one hour need a timestamp",
            id="hours-of-a-date",
        ),
        pytest.param(
            {"slaProperties": [{"property": "latency", "value": 1, "unit": "d", "element": "orders.placed"}]},
            "names no column",
            id="latency-of-nothing",
        ),
        pytest.param(
            {"slaProperties": [{"property": "freshness", "value": 1, "unit": "parsec", "element": "orders.day"}]},
            "'parsec' is not known",
            id="latency-unit",
        ),
    ],
)  # fmt: skip
def test_a_contract_that_cannot_be_used_is_refused(changes: dict[str, Any], problem: str) -> None:
    assert re.search(problem, str(refused(document(**changes))))


@pytest.mark.parametrize(
    ("rule", "problem"),
    [
        pytest.param({"metric": "rowCount"}, "exactly one of mustBe", id="no-operator"),
        pytest.param({"metric": "rows", "mustBe": 1}, "'rows' is not one of", id="unknown-metric"),
        pytest.param({"mustBe": 1}, "a rule needs a metric", id="no-metric"),
        pytest.param({"metric": "nullValues", "mustBe": 0}, "needs a column", id="no-column"),
        pytest.param({"metric": "rowCount", "mustBe": "many"}, "'many' is not a number", id="not-a-number"),
        pytest.param({"metric": "rowCount", "mustBeBetween": [9, 1]}, "smaller number", id="reversed"),
        pytest.param({"metric": "rowCount", "mustBe": []}, "[] is not a number", id="no-bound"),
        pytest.param({"metric": "rowCount", "mustBe": [5]}, "[5] is not a number", id="list-of-one"),
        pytest.param(
            {
                "metric": "invalidValues",
                "mustBe": 0,
                "arguments": {"properties": ["country"], "validValues": 0},
            },
            "arguments.validValues: 0 is not a list",
            id="values-not-a-list",
        ),
        pytest.param(
            {
                "metric": "missingValues",
                "mustBe": 0,
                "arguments": {"properties": ["country"], "missingValues": 0},
            },
            "arguments.missingValues: 0 is not a list",
            id="missing-not-a-list",
        ),
        pytest.param(
            {"metric": "duplicateValues", "mustBe": 0, "arguments": {"properties": [["id"]]}},
            "arguments.properties: [['id']] is not a list of plain values",
            id="nested-columns",
        ),
        pytest.param(
            {"metric": "invalidValues", "mustBe": 0, "arguments": {"properties": ["country"], "pattern": 5}},
            "arguments.pattern: 5 is not a text",
            id="pattern-number",
        ),
        pytest.param(
            {"metric": "duplicateValues", "mustBe": 0, "arguments": {"properties": ["x"]}},
            "'x' is not among the properties",
            id="unknown-column",
        ),
        pytest.param(
            {"type": "sql", "query": "SELECT COUNT(*) FROM shop.orders", "mustBe": 1},
            "not restricted to the partition",
            id="whole-table",
        ),
        pytest.param(
            {
                "metric": "invalidValues",
                "mustBe": 0,
                "arguments": {"properties": ["country"], "pattern": "("},
            },
            "not a regular expression",
            id="pattern",
        ),
    ],
)
def test_a_rule_that_cannot_be_judged_is_refused(rule: dict[str, Any], problem: str) -> None:
    made = document()
    made["schema"][0]["quality"] = [rule]
    assert problem in str(refused(made))


def test_a_key_written_twice_is_refused() -> None:
    text = yaml.safe_dump(document()) + "status: draft\n"
    assert "the key 'status' is written twice" in str(refused(text))


def test_a_column_written_twice_is_refused() -> None:
    made = document()
    made["schema"][0]["properties"].append({"name": "id"})
    assert "the column 'id' is written twice" in str(refused(made))


def test_dates_need_no_quotes() -> None:
    text = yaml.safe_dump(document()) + "contractCreatedTs: 2026-01-02T03:04:05Z\n"
    assert Contract.from_text(text).id == "orders"


def test_type_options_become_one_rule_per_column() -> None:
    made = document()
    column(made, "amount")["logicalTypeOptions"] = {"minimum": 0, "maximum": 10}
    rules = [r for r in Contract.from_text(yaml.safe_dump(made)).rules if r.columns == ("amount",)]
    assert [rule.name for rule in rules] == ["valid(amount)"]
