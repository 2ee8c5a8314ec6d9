"""The quick check of a document agrees with jsonschema."""

from __future__ import annotations

import copy
import random
from typing import Any

import pytest
import yaml

from airflow_ext.contracts import loading
from airflow_ext.contracts.compiled_schema import compile_schema
from tests.paths import ROOT
from tests.unit.contracts.samples import document

DEMO = ROOT / "dags" / "contracts" / "daily_delays.odcs.yaml"
VALUES: tuple[Any, ...] = (
    "x",
    "",
    0,
    1,
    -1,
    2.5,
    True,
    None,
    [],
    {},
    ["a"],
    [1, 2],
    [1, 1],
    {"a": 1},
    "string",
    "sql",
    "v3.1.0",
)


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Return every container with each key or index in it."""
    found = []
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        found += [(value, key), *_places(value[key])]
    return found


def _changed(start: Any, chance: random.Random) -> Any:
    made = copy.deepcopy(start)
    for _ in range(chance.randint(1, 2)):
        container, key = chance.choice(_places(made))
        match chance.randint(0, 3):
            case 0:
                del container[key]
            case 1:
                container[key] = copy.deepcopy(chance.choice(VALUES))
            case 2 if isinstance(container, dict):
                container[chance.choice(("wrong", "metric", "type", "query", "mustBe", "id", "items"))] = 1
            case _:
                other, name = chance.choice(_places(start))
                container[key] = copy.deepcopy(other[name])
    return made


def test_it_agrees_with_jsonschema_on_changed_documents() -> None:
    chance = random.Random(20260103)  # noqa: S311  a seed, not a secret
    rich = document(
        slaProperties=[{"property": "latency", "value": 4, "unit": "d", "element": "orders.day"}],
        servers=[{"server": "s", "type": "snowflake", "account": "a", "database": "d", "schema": "x"}],
        roles=[{"role": "reader"}],
    )
    rich["schema"][0]["quality"] = [
        {"metric": "rowCount", "mustBeBetween": [1, 2]},
        {"type": "sql", "query": "SELECT 1", "mustBe": 1},
        {"type": "custom", "engine": "soda", "implementation": "x"},
    ]
    starts = [yaml.safe_load(DEMO.read_text()), document(), rich]
    answers = {True: 0, False: 0}
    for _ in range(250):
        made = _changed(chance.choice(starts), chance)
        expected = loading._validator().is_valid(made)
        assert loading._is_valid()(made) is expected, yaml.safe_dump(made)
        answers[expected] += 1
    assert min(answers.values()) > 30


def test_a_keyword_that_is_not_known_is_refused() -> None:
    with pytest.raises(ValueError, match="'contains' is not known"):
        compile_schema({"properties": {"a": {"contains": {"const": 1}}}})
