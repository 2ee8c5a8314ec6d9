"""Where the pages are, and an app that is not built before somebody asks for one.

The plugin imports this in every process of Airflow; only an api-server ever gets a request.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import quote

PREFIX = "/airflow-ext"

Message = MutableMapping[str, Any]
AsgiApp = Callable[
    [MutableMapping[str, Any], Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]],
    Awaitable[None],
]

DAG_BAG = "airflow_ext.dag_bag"
"""Key of the request's scope with the api-server's cache of DAGs."""


def dbt_path(dag_id: str, run_id: str, task_id: str) -> str:
    """Return the path of a task's dbt page below Airflow's own root, starting with ``/``."""
    return f"{PREFIX}/dbt/{'/'.join(quote(part, safe='') for part in (dag_id, run_id, task_id))}"


class LazyApp:
    """Build the real app with the first request and hand everything to it."""

    def __init__(self) -> None:
        self._app: AsgiApp | None = None

    async def __call__(
        self,
        scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        """Answer one request."""
        if self._app is None:
            from airflow_ext.web.app import create_app

            self._app = create_app()
        # A mounted app does not see the state of the one it is mounted in.
        await self._app({**scope, DAG_BAG: scope["app"].state.dag_bag}, receive, send)
