"""The commands against a running Airflow."""

from __future__ import annotations

import json
import subprocess

from airflow_ext.testing.airflow_client import AirflowClient
from airflow_ext.testing.local_airflow import LocalAirflow


def test_doctor_finds_a_running_airflow_well_but_for_channels_that_are_broken(
    airflow: LocalAirflow, client: AirflowClient
) -> None:
    """One DAG of these tests has a callback that is nowhere; the mail server's connection is made by a later test."""
    client.wait_for_dags(["sla_missed"])
    done = airflow.command("ext", "doctor", check=False)
    for words in (
        "provider airflow-ext",
        "deadline reference of sla() is registered",
        "connection type ext-dlt is registered",
        "the execution API answers",
        "triggerer is alive",
        "airflow_ext_test_nowhere.tell",
    ):
        assert words in done.stdout


def test_the_console_script_says_the_same_as_json(airflow: LocalAirflow) -> None:
    done = subprocess.run(
        [airflow.python, "-m", "airflow_ext.cli.main", "doctor", "--json"],
        cwd=airflow.home,
        env=airflow.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    told = json.loads(done.stdout)
    assert (done.returncode, told["ok"]) == (1, False), done.stdout + done.stderr
    failures = [item["what"] for item in told["findings"] if item["status"] == "fail"]
    assert failures
    assert all("airflow_ext_test_nowhere" in what or "sla_mail" in what for what in failures), failures


def test_doctor_names_a_wrong_execution_address(airflow: LocalAirflow) -> None:
    environment = {
        **airflow.environment,
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": "http://localhost:1/execution/",
    }
    done = subprocess.run(
        [airflow.python, "-m", "airflow", "ext", "doctor"],
        cwd=airflow.home,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "every task will fail" in " ".join(done.stdout.split())
