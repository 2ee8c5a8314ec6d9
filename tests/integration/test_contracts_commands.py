"""The commands about contracts against a running Airflow, and a triggerer that tells that a partition is late."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from airflow_ext.testing.airflow_client import AirflowClient, wait_until
from airflow_ext.testing.local_airflow import LocalAirflow
from tests.unit.mailbox import Inbox, mail_server

CONTRACT = Path(__file__).parent / "dags" / "contracts_late.odcs.yaml"
OLD, YESTERDAY = "2013-04-01", (datetime.now(UTC) - timedelta(days=1)).strftime("%Y-%m-%d")


class Shell:
    """Runs ``airflow-ext contracts`` as somebody outside of Airflow does."""

    def __init__(self, url: str, token: str, database: Path) -> None:
        self.url = url
        self.environment = {
            **os.environ,
            "AIRFLOW_EXT_API_TOKEN": token,
            "PRICES": f"duckdb:///{database}",
            "COLUMNS": "100",
        }

    def __call__(self, *words: str, ends: int, **changes: str) -> str:
        """Run it and return what it prints."""
        done = subprocess.run(
            [sys.executable, "-m", "airflow_ext.cli.main", "contracts", *words, "--url", self.url],
            env=self.environment | changes,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == ends, done.stdout + done.stderr
        sys.stderr.write(f"\n$ airflow-ext contracts {' '.join(words)}\n{done.stdout}{done.stderr}")
        return done.stdout + done.stderr


@pytest.fixture(scope="module")
def inbox(client_of_all: AirflowClient) -> Iterator[Inbox]:
    with mail_server() as inbox:
        known = json.loads(os.environ["AIRFLOW_CONN_MAIL"])
        client_of_all.create_connection(
            "contracts_mail", "smtp", host="127.0.0.1", port=known["port"], extra=json.dumps(known["extra"])
        )
        yield inbox


@pytest.fixture(scope="module")
def client_of_all(airflow: LocalAirflow) -> AirflowClient:
    airflow.client.wait_for_dags(["contracts_late"])
    return airflow.client


@pytest.fixture(scope="module")
def shell(
    airflow: LocalAirflow, client_of_all: AirflowClient, tmp_path_factory: pytest.TempPathFactory
) -> Shell:
    import duckdb

    database = tmp_path_factory.mktemp("prices") / "prices.duckdb"
    with duckdb.connect(str(database)) as connection:
        connection.execute("CREATE TABLE prices (day DATE, price DOUBLE)")
        connection.executemany("INSERT INTO prices VALUES (?, 1.5)", [[OLD], [YESTERDAY]])
    answer = httpx.post(f"{client_of_all.url}/auth/token", json=client_of_all._login).raise_for_status()
    return Shell(client_of_all.url, answer.json()["access_token"], database)


def test_late_told_explained_and_released_from_the_command_line(
    client_of_all: AirflowClient, shell: Shell, inbox: Inbox
) -> None:
    client, words = client_of_all, "test_prices>=2,<3"
    assert "nothing was published" in shell("status", words, ends=1)
    told = shell("publish", str(CONTRACT), OLD, "--database-env", "PRICES", ends=0)
    assert "published as number 1" in told
    status = " ".join(shell("status", str(CONTRACT), ends=1).split())
    assert f"LATE {YESTERDAY} was due" in status
    assert f"WARN {OLD} version 2.3.0, number 1" in status

    run = client.trigger("contracts_late", conf={"day": YESTERDAY})
    client.wait_for_task("contracts_late", run, "prices_ok", states={"deferred"})
    assert "LATE" in shell("explain", words, YESTERDAY, ends=1)
    wait_until(lambda: len(inbox.mails) == 2, timeout=60, what="a mail to owner and consumer")
    assert inbox.to == ["pricing@example.com", "shop@example.com"]
    mail = inbox.mails[0]
    assert mail["Subject"] == f"[LATE] contract test_prices 2.3.0, partition {YESTERDAY}"
    assert "DAG contracts_late, task prices_ok" in mail.get_body().get_content()

    shell("publish", str(CONTRACT), YESTERDAY, "--database-env", "PRICES", "--no-event", ends=0)
    client.wait_for_run("contracts_late", run, state="success")
    explained = shell("explain", words, YESTERDAY, "--uses", "price", ends=0)
    assert "goes on: WARN" in " ".join(explained.split())
    used = shell("impact", "test_prices", "--drop", "test_prices.price", ends=1)
    assert "contracts_late.prices_ok" in used
    assert "uses price" in used
    assert len(inbox.mails) == 2


def test_the_commands_say_what_is_wrong(shell: Shell) -> None:
    assert "knows no asset contract/nothing/v1" in shell("status", "nothing>=1,<2", ends=2)
    refused = shell("status", "test_prices>=2,<3", ends=2, AIRFLOW_EXT_API_TOKEN="nonsense")
    assert "the token in AIRFLOW_EXT_API_TOKEN" in refused
    assert "nonsense" not in refused
