"""What holds for everything of a kind, found by looking, so that nothing new escapes it."""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
import subprocess
import sys
import typing
from types import ModuleType
from typing import Any

import pytest
from airflow.sdk import BaseHook, BaseNotifier, BaseOperator
from airflow.triggers.base import BaseTrigger

from tests.paths import ROOT

HEAVY = ("dbt", "dlt", "duckdb", "hvac", "pyarrow", "fastapi", "sqlglot", "connectorx")


def _modules(room: str) -> list[ModuleType]:
    package = importlib.import_module(f"airflow_ext.{room}")
    return [
        importlib.import_module(f"airflow_ext.{room}.{found.name}")
        for found in pkgutil.iter_modules(package.__path__)
        if not found.name.startswith("_")
    ]


def _classes(base: type, *rooms: str) -> list[type]:
    return [
        value
        for room in rooms
        for module in _modules(room)
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, base)
        and (value.__module__ == module.__name__ or value.__name__ in getattr(module, "__all__", ()))
        and not value.__name__.startswith("_")
    ]


OPERATORS = _classes(BaseOperator, "operators", "sensors")
TRIGGERS = _classes(BaseTrigger, "triggers")


def test_there_is_something_to_look_at() -> None:
    assert {"SyncOperator", "DbtBuildOperator", "ContractPublishOperator", "ContractSensor"} <= {
        cls.__name__ for cls in OPERATORS
    }
    assert TRIGGERS


def _example(annotation: Any, name: str) -> Any:
    if typing.get_origin(annotation) is typing.Literal:
        return typing.get_args(annotation)[0]
    kinds = typing.get_args(annotation) or (annotation,)
    for kind, value in (
        (bool, True),
        (int, 3),
        (float, 1.5),
        (str, f"some {name}"),
        (list, ["a", "b"]),
        (dict, {"a": 1}),
    ):
        if any((typing.get_origin(each) or each) is kind for each in kinds) or annotation is kind:
            return value
    origin = typing.get_origin(annotation)
    if origin is not None:
        return {"a": 1} if "apping" in str(origin) or origin is dict else ["a", "b"]
    return f"some {name}"


@pytest.mark.parametrize("cls", TRIGGERS, ids=lambda cls: cls.__name__)
def test_every_trigger_survives_serialize_json_and_import(cls: type[BaseTrigger]) -> None:
    parameters = inspect.signature(cls, eval_str=True).parameters
    arguments = {name: _example(parameter.annotation, name) for name, parameter in parameters.items()}
    path, stored = cls(**arguments).serialize()
    assert json.loads(json.dumps(stored)) == stored, "only plain JSON values"
    assert set(stored) == set(parameters), "every argument is kept"
    module, _, name = path.rpartition(".")
    found = getattr(importlib.import_module(module), name)
    assert found is cls
    assert found(**stored).serialize() == (path, stored)


@pytest.mark.parametrize("cls", OPERATORS, ids=lambda cls: cls.__name__)
def test_every_template_field_is_an_argument(cls: type[BaseOperator]) -> None:
    arguments = {
        name
        for parent in cls.__mro__
        if "__init__" in vars(parent)
        for name in inspect.signature(vars(parent)["__init__"]).parameters
    }
    assert set(cls.template_fields) <= arguments


@pytest.mark.parametrize("cls", OPERATORS, ids=lambda cls: cls.__name__)
def test_no_operator_has_an_attribute_that_upsets_airflow(cls: type[BaseOperator]) -> None:
    assert not hasattr(cls, "end_from_trigger")


@pytest.mark.parametrize(
    "cls",
    [*OPERATORS, *_classes(BaseHook, "hooks"), *_classes(BaseNotifier, "notifications")],
    ids=lambda cls: cls.__name__,
)
def test_every_public_class_is_documented(cls: type) -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    assert any(cls.__name__ in page.read_text() for page in pages)
    assert cls.__doc__


@pytest.mark.parametrize("module", ["airflow_ext.plugin", "airflow_ext.provider"])
def test_what_every_process_imports_is_light(module: str) -> None:
    """The plugin is imported in each task process, the provider info in each ``airflow`` command."""
    program = (
        "import sys; import airflow.plugins_manager; before = set(sys.modules)\n"
        f"import {module}\n"
        f"heavy = {{name.partition('.')[0] for name in set(sys.modules) - before}} & set({HEAVY!r})\n"
        "sys.exit(f'imported {sorted(heavy)}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_provider_info_imports_nothing_of_airflow() -> None:
    program = "import sys, airflow_ext.provider; sys.exit('airflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_every_module_is_short_enough_to_read() -> None:
    long = {
        str(path.relative_to(ROOT)): count
        for room in ("airflow_ext", "operators", "sensors", "demo", "dags", "tests")
        for path in (ROOT / room).rglob("*.py")
        if (count := len(path.read_text().splitlines())) > 500
    }
    assert not long
