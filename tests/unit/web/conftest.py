"""A real Airflow web app over real metadata: SQLite, Airflow's own login, and a DAG with a dbt group."""

from __future__ import annotations

import asyncio
import json
import secrets
import warnings
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
import pytest
from airflow import plugins_manager, settings
from airflow.api_fastapi.auth.managers.base_auth_manager import COOKIE_NAME_JWT_TOKEN
from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
from airflow.models.dagbundle import DagBundleModel
from airflow.models.dagrun import DagRun
from airflow.models.serialized_dag import SerializedDagModel
from airflow.models.taskinstance import TaskInstance
from airflow.models.xcom import XComModel
from airflow.sdk import DAG, BaseOperator
from airflow.serialization.serialized_objects import DagSerialization, LazyDeserializedDAG
from airflow.utils.db import initdb
from airflow.utils.session import create_session
from airflow.utils.state import DagRunState
from airflow.utils.types import DagRunTriggeredByType, DagRunType
from sqlalchemy import delete, update
from starlette.exceptions import StarletteDeprecationWarning

from airflow_ext.operators.dbt import DbtBuildOperator, DbtProject, DbtTaskGroup
from airflow_ext.triggers.dbt import NODES_KEY
from airflow_ext.web.mount import dbt_path
from tests.unit.dbt.manifests import manifest, model

with warnings.catch_warnings():
    # A library that Airflow imports imports the test client of Starlette, which is about to change.
    warnings.simplefilter("ignore", StarletteDeprecationWarning)
    from airflow.api_fastapi.app import create_app, get_auth_manager, purge_cached_app
    from fastapi import FastAPI

START = datetime(2026, 3, 1, tzinfo=UTC)
RUN = "manual__2026-03-01T06:00:00+00:00"
BUILD, DONE = "marts.build", "marts.done"


class Page(HTMLParser):
    """What a browser would make of a page: its text, its links and its elements."""

    def __init__(self, answer: httpx.Response) -> None:
        super().__init__()
        self.status = answer.status_code
        self.headers = answer.headers
        self.source = answer.text
        self.text = ""
        self.links: dict[str, str] = {}
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._href: str | None = None
        self.feed(answer.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Remember an element."""
        self.tags.append((tag, dict(attrs)))
        if tag == "a":
            self._href = dict(attrs).get("href")

    def handle_endtag(self, tag: str) -> None:
        """Forget the link that ends."""
        if tag == "a":
            self._href = None

    def handle_data(self, data: str) -> None:
        """Collect what is to be read."""
        if self.tags and self.tags[-1][0] == "style":
            return
        self.text += data
        if self._href is not None and data.strip():
            self.links.setdefault(data.strip(), self._href)

    def of(self, tag: str) -> list[dict[str, str | None]]:
        """Return the attributes of all elements of one kind."""
        return [attrs for name, attrs in self.tags if name == tag]


class Site:
    """An app and who asks it."""

    def __init__(self, app: FastAPI) -> None:
        self.app = app

    def ask(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        cookies: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """Send a request."""

        async def send() -> httpx.Response:
            async with httpx.AsyncClient(
                transport=httpx.ASGITransport(self.app),
                base_url="http://airflow",
                headers=dict(headers or {}),
                cookies=dict(cookies or {}),
            ) as client:
                return await client.request(method, path)

        return asyncio.run(send())

    def get(
        self, path: str, *, user: str | None = "ann", role: str | None = "VIEWER", cookie: bool = True
    ) -> Page:
        """Ask for a path as a user, logged in as a browser is or as a program is; ``None`` is nobody."""
        if user is None:
            return Page(self.ask("GET", path))
        token = get_auth_manager().generate_jwt(SimpleAuthManagerUser(username=user, role=role))
        if cookie:
            return Page(self.ask("GET", path, cookies={COOKIE_NAME_JWT_TOKEN: token}))
        return Page(self.ask("GET", path, headers={"Authorization": f"Bearer {token}"}))

    def page(self, task_id: str = BUILD, *, query: str = "", run_id: str = RUN, **who: Any) -> Page:
        """Ask for the page of a task."""
        return self.get(dbt_path("shop", run_id, task_id) + query, **who)


@pytest.fixture(scope="module")
def metadata(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let Airflow's sessions go to a migrated SQLite database of this module, which holds the DAGs."""
    folder = tmp_path_factory.mktemp("web")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("engine", "Session", "NonScopedSession", "async_engine", "AsyncSession"):
            patch.setattr(settings, name, getattr(settings, name))  # as they are set below, and put back
        patch.setattr(settings, "SQL_ALCHEMY_CONN", f"sqlite:///{folder}/airflow.db")
        patch.setattr(settings, "SQL_ALCHEMY_CONN_ASYNC", f"sqlite+aiosqlite:///{folder}/airflow.db")
        patch.setenv("AIRFLOW_HOME", str(folder))
        settings.configure_orm()
        initdb()
        with create_session() as session:
            session.add(DagBundleModel(name="dags"))
        for dag in dags(folder):
            store(dag)
        yield
        settings.get_engine().dispose()


def dags(folder: Path) -> Iterator[DAG]:
    """A group of three models beside other tasks, and a group of folders."""
    (folder / "dbt_project.yml").write_text("name: p\nprofile: p\n")
    (folder / "manifest.json").write_bytes(
        manifest(model("a", folder="base"), model("b", "a", folder="base"), model("c", "b", folder="end"))
    )
    project = DbtProject(project_dir=folder, profiles_dir=folder, manifest=folder / "manifest.json")
    with DAG("shop", schedule=None, start_date=START) as shop:
        BaseOperator(task_id="other")
        DbtTaskGroup("marts", project=project)
        DbtTaskGroup("more", project=project, granularity="folder")
        DbtBuildOperator(task_id="alone", project=project)
    yield shop


def store(dag: DAG) -> None:
    """Write a DAG as the dag-processor does."""
    parsed = LazyDeserializedDAG.from_dag(dag)
    with create_session() as session:
        type(DagSerialization.from_dict(parsed.data)).bulk_write_to_db(
            "dags", None, [parsed], session=session
        )
        session.flush()
        SerializedDagModel.write_dag(parsed, bundle_name="dags", session=session)


@pytest.fixture
def run(metadata: None) -> Iterator[Run]:
    """A run of the DAG that has just been made."""
    made = Run(RUN)
    made.create()
    yield made
    with create_session() as session:
        session.execute(delete(DagRun))  # the rest goes with it


class Run:
    """A run in the metadata."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id

    def create(self) -> None:
        """Make it, with all its task instances."""
        with create_session() as session:
            dag = SerializedDagModel.get_dag("shop", session=session)
            assert dag is not None
            dag.create_dagrun(
                run_id=self.run_id,
                run_after=START,
                run_type=DagRunType.MANUAL,
                triggered_by=DagRunTriggeredByType.TEST,
                state=DagRunState.RUNNING,
                session=session,
            )

    def is_in(self, state: str) -> None:
        """Set the state of the run."""
        with create_session() as session:
            session.execute(update(DagRun).values(_state=state))

    def tasks(self, state: str | None, *task_ids: str) -> None:
        """Set the state of tasks."""
        with create_session() as session:
            session.execute(
                update(TaskInstance).where(TaskInstance.task_id.in_(task_ids)).values(state=state)
            )

    def tries(self, number: int, *task_ids: str) -> None:
        """Set the try of tasks."""
        with create_session() as session:
            session.execute(
                update(TaskInstance).where(TaskInstance.task_id.in_(task_ids)).values(try_number=number)
            )

    def told(self, payload: Any, *, by: str = BUILD) -> None:
        """Let a task have pushed its XCom, as it arrives over the API."""
        with create_session() as session:
            XComModel.set(
                key=NODES_KEY,
                value=json.loads(json.dumps(payload)),
                dag_id="shop",
                task_id=by,
                run_id=self.run_id,
                serialize=False,
                session=session,
            )


def payload(
    units: Mapping[str, Any], *, started: float = 1000.0, ended: bool = True, attempt: int = 1, **more: Any
) -> dict[str, Any]:
    """What a task tells."""
    return {
        "try": attempt,
        "last": True,
        "ended": ended,
        "started": started,
        "at": started + 10,
        "units": dict(units),
        **more,
    }


def unit(
    name: str, *, state: str = "success", at: str = "1970-01-01T00:16:40Z", **more: Any
) -> dict[str, Any]:
    """The outcome of the task of one model."""
    line = [f"model.p.{name}", "error" if state == "failed" else state, at, 1.5, 7, {"pass": 2}]
    return {"state": state, "nodes": [line], **more}


@pytest.fixture(scope="module")
def site(metadata: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Airflow's own web app with its plugins, this package's among them."""
    with pytest.MonkeyPatch.context() as patch:
        passwords = tmp_path_factory.mktemp("auth") / "passwords.json"
        patch.setenv("AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE", str(passwords))
        patch.setenv("AIRFLOW__API_AUTH__JWT_SECRET", secrets.token_urlsafe(64))
        patch.setenv("AIRFLOW__CORE__AUTH_MANAGER", "tests.unit.web.gatekeeper.Gatekeeper")
        purge_cached_app()
        plugins_manager.get_fastapi_plugins.cache_clear()
        yield Site(create_app("core"))
        purge_cached_app()
