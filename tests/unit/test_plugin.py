"""The plugin: what it registers, and what it must not."""

from __future__ import annotations

import subprocess
import sys

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


def test_it_mounts_the_pages_where_airflow_allows_it() -> None:
    (app,) = AirflowExtPlugin.fastapi_apps
    assert app["url_prefix"] == "/airflow-ext"
    assert not app["url_prefix"].startswith(("/api/v2", "/ui", "/execution", "/auth", "/pluginsv2"))


def test_it_links_the_tasks_of_a_dbt_group_to_their_pages() -> None:
    assert {link.name for link in AirflowExtPlugin.operator_extra_links} == {"dbt node", "dbt run"}


def test_nothing_of_the_web_is_loaded_before_a_page_is_asked_for() -> None:
    """The plugin is imported in each task process."""
    program = (
        "import sys; import airflow.plugins_manager; before = set(sys.modules)\n"
        "from airflow import plugins_manager as plugins\n"
        "assert [app['url_prefix'] for app in plugins.get_fastapi_plugins()[0]].count('/airflow-ext') == 1\n"
        "assert {link.name for link in plugins.get_operator_extra_links()} >= {'dbt node', 'dbt run'}\n"
        "web = {'fastapi', 'starlette', 'jinja2', 'airflow_ext.web.app', 'airflow_ext.web.dbt', 'airflow_ext.operators'}\n"
        "sys.exit(str((set(sys.modules) - before) & web) if (set(sys.modules) - before) & web else 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
