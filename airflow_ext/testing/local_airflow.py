"""A real local Airflow: api-server, scheduler, dag-processor and triggerer, in a home of its own.

::

    with LocalAirflow(Path(".test/airflow"), dags={"mine": Path("dags")}) as airflow:
        run = airflow.client.trigger("my_dag")
        airflow.client.wait_for_run("my_dag", run, state="success")
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import httpx

from airflow_ext.exceptions import UnavailableError
from airflow_ext.testing.airflow_client import AirflowClient
from airflow_ext.testing.ports import free_ports
from airflow_ext.testing.processes import ProcessHome

COMPONENTS = ("api-server", "scheduler", "dag-processor", "triggerer")
START_TIMEOUT = 120.0


class LocalAirflow:
    """One Airflow with its four components; a context manager.

    :param home: ``AIRFLOW_HOME``; holds logs, passwords and, by default, the SQLite metadata.
    :param dags: DAG bundles by name, each a folder.
    :param metadata_url: SQLAlchemy URL of an existing, empty or earlier used database; ``None`` takes
        SQLite in the home.
    :param env: Further environment, such as ``AIRFLOW__SECRETS__BACKEND`` or ``AIRFLOW_CONN_…``.
    :param parallelism: Tasks at a time; the executor forks this many processes.
    :param python: Interpreter of the environment that holds Airflow.
    """

    def __init__(
        self,
        home: Path,
        *,
        dags: Mapping[str, Path],
        metadata_url: str | None = None,
        env: Mapping[str, str] | None = None,
        parallelism: int = 3,
        python: str = sys.executable,
    ) -> None:
        self.home = home.resolve()
        self.dags = {name: folder.resolve() for name, folder in dags.items()}
        self.metadata_url = metadata_url or f"sqlite:///{self.home}/airflow.db"
        self.python = python
        self.user, self.password = "admin", ""
        self.url = ""
        self._extra = dict(env or {})
        self._parallelism = parallelism
        self._environment: dict[str, str] = {}
        self._processes = ProcessHome(self.home, grace=5)
        self._components: dict[str, subprocess.Popen[bytes]] = {}
        self._client: AirflowClient | None = None

    def __enter__(self) -> LocalAirflow:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def client(self) -> AirflowClient:
        """A client logged in as the administrator."""
        if self._client is None:
            self._client = AirflowClient(self.url, user=self.user, password=self.password)
        return self._client

    @property
    def environment(self) -> dict[str, str]:
        """The environment of every component, for commands run beside them."""
        return dict(self._environment)

    def start(self) -> None:
        """Migrate the metadata database and start the four components.

        :raises UnavailableError: If a component ends or is not healthy within two minutes; the text holds its log.
        """
        self._processes.__enter__()
        self._environment = self._make_environment()
        self.command("db", "migrate", timeout=300)
        for name in COMPONENTS:
            self.start_component(name)
        self.wait_until_healthy()

    def stop(self) -> None:
        """Stop every process of this Airflow, its tasks too; may be called twice."""
        if self._client is not None:
            self._client.close()
            self._client = None
        self._processes.stop()
        self._components.clear()

    @property
    def _airflow(self) -> list[str]:
        # -P: a folder of the home, which is the working folder, must not pass for a package.
        return [self.python, "-P", "-m", "airflow"]

    def start_component(
        self, name: str, *options: str, called: str | None = None, env: Mapping[str, str] | None = None
    ) -> None:
        """Start one of :data:`COMPONENTS`.

        :param options: Further words of its command, such as ``--skip-serve-logs``.
        :param called: Name of this one, where several run; default its own.
        :param env: Environment of this one alone.
        """
        known = called or name
        self._components[known] = self._processes.spawn(
            [*self._airflow, name, *options], log=self.log_of(known), env={**self._environment, **(env or {})}
        )

    def kill_component(self, name: str, signal_number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to one component's whole process group and wait for its end."""
        process = self._components.pop(name)
        os.killpg(process.pid, signal_number)
        process.wait(timeout=30)

    def log_of(self, name: str) -> Path:
        """Return the file with a component's output."""
        return self.home / "components" / f"{name}.log"

    def command(
        self, *words: str, timeout: float = 120, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run ``airflow WORDS`` in this home.

        :param timeout: Seconds.
        :raises UnavailableError: With what it printed, if ``check`` and its status is not 0.
        """
        done = subprocess.run(
            [*self._airflow, *words],
            cwd=self.home,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if check and done.returncode != 0:
            output = (done.stdout + done.stderr)[-4000:]
            raise UnavailableError(f"airflow {' '.join(words)} ended with {done.returncode}:\n{output}")
        return done

    def wait_until_healthy(self, timeout: float = START_TIMEOUT) -> None:
        """Wait until the API answers and every component has sent a heartbeat.

        :param timeout: Seconds.
        :raises UnavailableError: If it takes longer or a component ended.
        """
        deadline = time.monotonic() + timeout
        seen: object = "no answer"
        while time.monotonic() < deadline:
            for name, process in self._components.items():
                if process.poll() is not None:
                    raise UnavailableError(
                        f"{name} ended with {process.returncode}:\n{self.tail(name)}", service=name
                    )
            try:
                answer = httpx.get(f"{self.url}/api/v2/monitor/health", timeout=5)
                seen = answer.json()
                if all(part["status"] == "healthy" for part in answer.json().values()):
                    return
            except (httpx.HTTPError, ValueError, AttributeError, TypeError):
                pass
            time.sleep(0.2)
        logs = "\n".join(f"--- {name}\n{self.tail(name, 800)}" for name in COMPONENTS)
        raise UnavailableError(
            f"Airflow is not healthy after {timeout:.0f} s: {seen}\n{logs}", service="Airflow"
        )

    def tail(self, name: str, characters: int = 3000) -> str:
        """Return the end of a component's output."""
        return (
            self.log_of(name).read_text(errors="replace")[-characters:] if self.log_of(name).exists() else ""
        )

    def _make_environment(self) -> dict[str, str]:
        api, worker_logs, trigger_logs = free_ports(3)
        self.url = f"http://127.0.0.1:{api}"
        passwords = self.home / "passwords.json"
        if not passwords.exists():
            passwords.touch(mode=0o600)
            passwords.write_text(json.dumps({self.user: secrets.token_urlsafe(12)}))
        self.password = json.loads(passwords.read_text())[self.user]
        keys = self.home / "keys.json"
        if not keys.exists():
            import base64

            keys.touch(mode=0o600)
            fernet = base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()
            keys.write_text(json.dumps({"jwt": secrets.token_urlsafe(48), "fernet": fernet}))
        key = json.loads(keys.read_text())
        bundles = [
            {
                "name": name,
                "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle",
                "kwargs": {"path": str(folder), "refresh_interval": 5},
            }
            for name, folder in self.dags.items()
        ]
        settings = {
            "CORE__LOAD_EXAMPLES": "False",
            "CORE__EXECUTOR": "LocalExecutor",
            "CORE__PARALLELISM": str(self._parallelism),
            "CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
            "CORE__DAGS_FOLDER": str(next(iter(self.dags.values()))),
            "CORE__EXECUTION_API_SERVER_URL": f"{self.url}/execution/",
            "CORE__FERNET_KEY": key["fernet"],
            "CORE__SIMPLE_AUTH_MANAGER_USERS": f"{self.user}:admin",
            "CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(passwords),
            "CORE__TEST_CONNECTION": "Enabled",
            "API__HOST": "127.0.0.1",
            "API__PORT": str(api),
            "API__BASE_URL": self.url,
            "API__WORKERS": "1",
            "API__SECRET_KEY": key["jwt"],
            "API_AUTH__JWT_SECRET": key["jwt"],
            "DATABASE__SQL_ALCHEMY_CONN": self.metadata_url,
            "DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": json.dumps(bundles),
            "DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "10",
            "LOGGING__WORKER_LOG_SERVER_PORT": str(worker_logs),
            "LOGGING__TRIGGER_LOG_SERVER_PORT": str(trigger_logs),
            "TRIGGERER__JOB_HEARTBEAT_SEC": "2",
        }
        # Without bytecode every process, and so every task, would compile all it imports anew.
        dropped = ("AIRFLOW", "PYTHONDONTWRITEBYTECODE")
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
        folder = str(Path(self.python).parent)
        return {
            **inherited,
            "AIRFLOW_HOME": str(self.home),
            "PATH": folder + os.pathsep + inherited.get("PATH", ""),
            "PYTHONUNBUFFERED": "1",
            **{f"AIRFLOW__{name}": value for name, value in settings.items()},
            **self._extra,
        }
