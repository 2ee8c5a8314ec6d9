"""The plugin: what it registers, and what it must not."""

from __future__ import annotations

from airflow._shared.module_loading import qualname
from airflow.plugins_manager import AirflowPlugin

from airflow_ext.plugin import AirflowExtPlugin
from airflow_ext.sla.reference import SlaDeadline


def test_it_is_a_plugin_with_our_name() -> None:
    assert AirflowExtPlugin.name == "airflow_ext"
    assert {base.__name__ for base in AirflowExtPlugin.__mro__} >= {AirflowPlugin.__name__}


def test_it_registers_the_reference_under_the_path_that_stored_deadlines_hold() -> None:
    assert AirflowExtPlugin.deadline_references == [SlaDeadline]
    assert qualname(SlaDeadline) == "airflow_ext.sla.reference.SlaDeadline"


def test_it_ships_no_listeners() -> None:
    assert not AirflowExtPlugin.listeners
