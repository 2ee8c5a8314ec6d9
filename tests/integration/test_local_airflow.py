from __future__ import annotations

import pytest

from airflow_ext.testing.airflow_client import AirflowClient
from airflow_ext.testing.local_airflow import LocalAirflow


def test_a_dag_runs_and_its_log_and_xcom_can_be_read(client: AirflowClient) -> None:
    client.wait_for_dags(["hello"])
    run = client.trigger("hello")
    client.wait_for_run("hello", run, state="success")
    assert client.states("hello", run) == {"say": "success"}
    assert client.xcom("hello", run, "say") == "hello"
    assert "Returned value was" in client.log("hello", run, "say")


def test_a_wait_that_is_not_met_says_what_it_saw(client: AirflowClient) -> None:
    client.wait_for_dags(["hello"])
    run = client.trigger("hello")
    client.wait_for_run("hello", run)
    with pytest.raises(TimeoutError, match="say: success"):
        client.wait_for_task("hello", run, "say", states={"failed"}, timeout=0)


def test_a_wrong_state_is_an_error_with_the_tasks(client: AirflowClient) -> None:
    client.wait_for_dags(["hello"])
    run = client.trigger("hello")
    with pytest.raises(AssertionError, match="success, not failed"):
        client.wait_for_run("hello", run, state="failed")


def test_plugin_and_provider_are_loaded(airflow: LocalAirflow) -> None:
    assert "airflow-ext" in airflow.command("providers", "list").stdout
    assert "airflow_ext" in airflow.command("plugins").stdout
