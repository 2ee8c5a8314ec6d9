"""Tasks that hold a leased connection, and end in every way a task can end; dbt builds with it, too."""

from __future__ import annotations

import json
import logging
import os
import signal
import time
from pathlib import Path
from typing import Any, cast

import pendulum
from airflow.providers.standard.triggers.file import FileTrigger
from airflow.sdk import DAG, BaseHook, BaseOperator, Context, task

from airflow_ext.operators.dbt import DbtBuildOperator, DbtProject
from airflow_ext.sensors.vault import VaultSecretVersionSensor

CONNECTION = "vault_warehouse"
SCRATCH = Path(os.environ.get("AIRFLOW_EXT_TEST_WORK", "."))
log = logging.getLogger(__name__)


def hold(context: Context, connection: Any = None) -> Any:
    """Open a session with the leased credentials, leave a table of theirs, and note their name and our process."""
    import psycopg2

    found = connection or BaseHook.get_connection(CONNECTION)
    session = psycopg2.connect(
        host=found.host, port=found.port, dbname=found.schema, user=found.login, password=found.password
    )
    with session.cursor() as cursor:
        cursor.execute(f'CREATE TABLE leased."{found.login}" ()')
    session.commit()
    task_id, number = context["ti"].task_id, context["ti"].try_number
    note = SCRATCH / f"{task_id}.{number}.json"
    note.write_text(json.dumps({"login": found.login, "pid": os.getpid()}))
    log.info("connected with %s", found.get_uri())
    return session


class Holds(BaseOperator):
    """Holds a session, then ends as told."""

    template_fields = ("text",)

    def __init__(self, *, how: str, text: str = "{{ conn.vault_canary.password }}", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.how, self.text = how, text

    def execute(self, context: Context) -> str:
        """Hold a session."""
        self.session = hold(context)
        first = BaseHook.get_connection(CONNECTION).login
        if self.how == "fail":
            canary = BaseHook.get_connection("vault_canary")
            log.error("could not use %s of %s", canary.get_uri(), [canary.password])
            raise RuntimeError("could not use it")
        if self.how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.how == "sleep":
            time.sleep(120)
        if self.how == "defer":
            # The test lets it go on once the scheduler has heard of the deferral: a trigger that fires before fails
            # the task, which is Airflow's own race.
            trigger = FileTrigger(str(SCRATCH / "go_on"), poke_interval=0.2)
            self.defer(trigger=trigger, method_name="resume", kwargs={"first": first})
        return str(first)

    def resume(self, context: Context, event: Any, first: str) -> list[str]:  # noqa: ARG002
        """Look up once more: the credentials of before are gone."""
        self.session = hold(context)
        return [first, str(BaseHook.get_connection(CONNECTION).login)]


with DAG(
    "vault_leases",
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    default_args={"retries": 0},
):
    for name in ("succeed", "fail", "kill", "sleep", "defer"):
        Holds(task_id=name, how=name)

    @task.vault_lease(conn_id=CONNECTION, ttl="5m")
    def decorated(connection: Any, ti: Any = None) -> str:
        """Use what was leased."""
        hold(cast("Any", {"ti": ti}), connection)
        return str(connection.login)

    # The second replaces what the first has built, with a lease of its own.
    leased = DbtProject(
        project_dir=Path(__file__).parent / "dbt_leased",
        profile_conn_id=CONNECTION,
        schema="marts",
        artifacts=SCRATCH / "marts",
    )
    build = DbtBuildOperator(task_id="build", project=leased)
    build >> DbtBuildOperator(task_id="build_again", project=leased)

    VaultSecretVersionSensor(task_id="version", path="connections/vault_version", poll_interval=1)
    cast("Any", decorated)()  # the first argument is given by the decorator
