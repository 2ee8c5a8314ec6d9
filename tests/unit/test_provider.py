"""The provider info fits Airflow's schema, and everything it names is there."""

from __future__ import annotations

import importlib
import json
from importlib import resources
from pkgutil import resolve_name
from typing import Any

import jsonschema
import pytest

from airflow_ext import provider

INFO = provider.get_provider_info()
MODULES = sorted(
    {
        module
        for kind in ("operators", "sensors", "hooks", "triggers")
        for entry in INFO[kind]
        for module in entry["python-modules"]
    }
)
OBJECTS = [
    *INFO["secrets-backends"],
    *INFO["cli"],
    *(entry["hook-class-name"] for entry in INFO["connection-types"]),
]


def test_it_fits_the_schema_of_the_installed_airflow() -> None:
    schema = json.loads((resources.files("airflow") / "provider_info.schema.json").read_text())
    jsonschema.validate(INFO, schema)


def test_the_package_name_is_the_distributions() -> None:
    assert INFO["package-name"] == "airflow-ext"


def test_it_is_plain_json_and_made_anew() -> None:
    assert json.loads(json.dumps(INFO)) == INFO
    provider.get_provider_info()["operators"].clear()
    assert provider.get_provider_info() == INFO


@pytest.mark.parametrize("module", MODULES)
def test_every_named_module_is_there(module: str) -> None:
    assert importlib.import_module(module)


@pytest.mark.parametrize("path", OBJECTS)
def test_every_named_object_is_there(path: str) -> None:
    assert callable(resolve_name(path))


def test_every_integration_that_is_named_is_declared() -> None:
    declared = {item["integration-name"] for item in INFO["integrations"]}
    named = {
        entry["integration-name"]
        for kind in ("operators", "sensors", "hooks", "triggers")
        for entry in INFO[kind]
    }
    assert named <= declared


@pytest.mark.parametrize("entry", INFO["connection-types"], ids=lambda entry: entry["connection-type"])
def test_the_hook_agrees_with_its_connection_type(entry: dict[str, Any]) -> None:
    hook = resolve_name(entry["hook-class-name"])
    assert hook.conn_type == entry["connection-type"]
    assert hook.hook_name == entry["hook-name"]
    assert hook.conn_name_attr
    assert hook.default_conn_name
