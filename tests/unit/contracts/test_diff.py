"""Changes of a contract, their grades and the version they need."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import yaml

from airflow_ext.contracts.diff import KINDS, Comparison, compare, compare_texts, removed
from airflow_ext.contracts.grades import Bump, Effect, Grade
from airflow_ext.exceptions import InvalidContractError
from benchmarks._contracts_pairs import BASE, PAIRS, documents

EXPECTED = {
    "column removed": "column.removed loosens",
    "column added": "column.added tightens",
    "required column added": "column.added tightens",
    "column renamed": "column.added tightens, column.removed loosens",
    "physical name changed": "column.renamed replaces",
    "physical name written out": "",
    "description of a column": "words words",
    "tags of a column": "words words",
    "classification changed": "column.classification announces",
    "nested column removed": "column.removed loosens",
    "nested column added": "column.added tightens",
    "nested column may be NULL": "column.required loosens",
    "items of another type": "column.type replaces",
    "integer to number": "column.widened announces",
    "string to integer": "column.type replaces",
    "INTEGER to BIGINT": "column.widened announces",
    "INTEGER to SMALLINT": "column.type replaces",
    "DECIMAL(10,2) to DECIMAL(12,2)": "column.widened announces",
    "DECIMAL(10,2) to DECIMAL(10,4)": "column.type replaces",
    "VARCHAR(20) to VARCHAR(50)": "column.widened announces",
    "VARCHAR(20) to VARCHAR(10)": "column.type replaces",
    "VARCHAR(20) to TEXT": "column.widened announces",
    "INTEGER to INT4": "column.spelling words",
    "physical type gone": "column.type loosens",
    "physical type new": "column.type tightens",
    "DATE to TIMESTAMP": "column.widened announces",
    "required column may be NULL": "column.required loosens",
    "column becomes required": "column.required tightens",
    "unique no longer": "column.unique loosens",
    "unique now": "column.unique tightens",
    "primary key gone": "column.key loosens",
    "primary key grows": "column.key replaces",
    "minimum lowered": "column.validity loosens",
    "minimum raised": "column.validity tightens",
    "minimum gone": "column.validity loosens",
    "maximum raised": "column.validity loosens",
    "maximum lowered": "column.validity tightens",
    "minimum becomes exclusive": "column.validity tightens",
    "maxLength raised": "column.validity loosens",
    "maxLength lowered": "column.validity tightens",
    "minLength gone": "column.validity loosens",
    "pattern changed": "column.validity unclear",
    "pattern gone": "column.validity loosens",
    "pattern new": "column.validity tightens",
    "enum new": "column.enum tightens",
    "enum allows one more": "column.enum loosens",
    "enum allows one less": "column.enum tightens",
    "enum with other values": "column.enum replaces",
    "enum gone": "column.enum loosens",
    "column deprecated": "deprecated announces",
    "rule added": "quality.added tightens",
    "rule removed": "quality.removed loosens",
    "warning rule removed": "quality.removed announces",
    "warning rule added": "quality.added announces",
    "threshold loosened": "quality.threshold loosens",
    "threshold tightened": "quality.threshold tightens",
    "threshold written otherwise": "",
    "threshold of another kind": "quality.threshold replaces",
    "percent loosened": "quality.threshold loosens",
    "rows instead of percent": "quality.threshold unclear",
    "severity becomes warning": "quality.severity loosens",
    "severity becomes error": "quality.severity tightens",
    "query changed": "quality.query unclear",
    "metric changed": "quality.changed replaces",
    "nulls become missing values": "quality.changed tightens",
    "dimension of a rule": "words words",
    "table removed": "table.removed loosens",
    "table added": "table.added tightens",
    "table renamed in the database": "table.renamed replaces",
    "table becomes a view": "words words",
    "description of a table": "words words",
    "freshness loosened": "sla.loosened loosens",
    "freshness tightened": "sla.tightened tightens",
    "freshness written otherwise": "",
    "freshness gone": "sla.removed loosens",
    "freshness of another column": "sla.element replaces",
    "retention shortened": "sla.loosened loosens",
    "retention lengthened": "sla.tightened tightens",
    "available later": "sla.loosened loosens",
    "availability time gone": "sla.removed loosens",
    "end of support announced": "sla.end announces",
    "end of support earlier": "sla.loosened loosens",
    "availability lowered": "sla.loosened loosens",
    "purpose changed": "words words",
    "support channel added": "words words",
    "team renamed": "words words",
    "status deprecated": "contract.status announces",
    "status retired": "contract.status loosens",
    "server moved to another schema": "server.moved replaces",
    "server on another port": "words words",
    "partition format changed": "partition replaces",
    "nothing": "",
}
"""Kind and effect of what each pair of the benchmark changes."""


def test_every_pair_is_expected() -> None:
    assert set(EXPECTED) == set(PAIRS)


@pytest.mark.parametrize("pair", PAIRS)
def test_kind_and_effect(pair: str) -> None:
    found = compare(*documents(pair)).changes
    assert ", ".join(sorted(f"{change.kind} {change.effect}" for change in found)) == EXPECTED[pair]
    assert {change.kind for change in found} <= set(KINDS)


@pytest.mark.parametrize(
    ("effect", "consumer", "producer", "bump"),
    [
        pytest.param(Effect.LOOSENS, Grade.BREAKING, Grade.SAFE, Bump.MAJOR, id="loosens"),
        pytest.param(Effect.TIGHTENS, Grade.SAFE, Grade.BREAKING, Bump.MINOR, id="tightens"),
        pytest.param(Effect.WORDS, Grade.SAFE, Grade.SAFE, Bump.PATCH, id="words"),
    ],
)
def test_what_an_effect_means(effect: Effect, consumer: Grade, producer: Grade, bump: Bump) -> None:
    pair = next(name for name, said in EXPECTED.items() if said.endswith(f" {effect}") and "," not in said)
    (change,) = compare(*documents(pair)).changes
    assert (change.consumer, change.producer, change.bump) == (consumer, producer, bump)


def versions(old: str, new: str, pair: str, **given: Any) -> Comparison:
    before, after = documents(pair)
    return compare({**before, "version": old}, {**after, "version": new}, **given)


@pytest.mark.parametrize(
    ("old", "new", "pair", "fine"),
    [
        pytest.param("1.2.0", "2.0.0", "column removed", True, id="breaking-as-major"),
        pytest.param("1.2.0", "1.3.0", "column removed", False, id="breaking-as-minor"),
        pytest.param("1.2.0", "1.3.0", "column added", True, id="more-promised-as-minor"),
        pytest.param("1.2.0", "1.2.1", "column added", False, id="more-promised-as-patch"),
        pytest.param("1.2.0", "1.2.1", "team renamed", True, id="words-as-patch"),
        pytest.param("1.2.0", "1.2.0", "team renamed", False, id="words-without-a-version"),
        pytest.param("1.2.0", "1.2.0", "nothing", True, id="nothing"),
        pytest.param("1.2.0", "1.1.9", "nothing", False, id="backwards"),
        pytest.param("0.2.0", "0.3.0", "column removed", True, id="before-1.0.0-breaking-as-minor"),
        pytest.param("0.2.0", "0.2.1", "column removed", False, id="before-1.0.0-breaking-as-patch"),
        pytest.param("1.9.0", "1.10.0", "column added", True, id="ten-is-more-than-nine"),
    ],
)
def test_the_version_must_say_how_much_changed(old: str, new: str, pair: str, fine: bool) -> None:
    assert (versions(old, new, pair).problem == "") is fine


def test_a_wrong_version_is_told_with_the_right_one() -> None:
    problem = versions("1.2.0", "1.2.1", "column removed").problem
    assert "major: 2.0.0 or higher" in problem


def test_an_accepted_kind_needs_no_version() -> None:
    assert versions("1.2.0", "1.2.0", "team renamed", accepted=["words"]).problem == ""
    assert versions("1.2.0", "1.2.0", "column removed", accepted=["words"]).problem


def test_a_change_names_the_line_of_the_new_file() -> None:
    old, new = (yaml.safe_dump(document, sort_keys=False) for document in documents("INTEGER to SMALLINT"))
    (change,) = compare_texts(old, new).changes
    assert "SMALLINT" in new.splitlines()[change.line - 1]
    assert (change.table, change.column) == ("orders", "id")


def test_a_renamed_column_is_hinted_at() -> None:
    gone = next(c for c in compare(*documents("column renamed")).changes if c.kind == "column.removed")
    assert "looks renamed to notes" in gone.hint


def test_a_column_of_another_type_is_no_rename() -> None:
    old, new = copy.deepcopy(BASE), copy.deepcopy(BASE)
    new["schema"][0]["properties"][5] = {"name": "notes", "logicalType": "integer"}
    assert not any(change.hint for change in compare(old, new).changes)


def test_a_contract_may_go_once_it_is_retired() -> None:
    assert removed(BASE, source="orders").problem
    assert removed({**BASE, "status": "retired"}, source="orders").problem == ""


def test_a_file_that_is_no_contract_is_refused() -> None:
    text = yaml.safe_dump(BASE)
    with pytest.raises(InvalidContractError, match="old"):
        compare_texts("schema: [", text)
    with pytest.raises(InvalidContractError, match="version"):
        compare_texts(text, yaml.safe_dump({**BASE, "version": "next"}))
