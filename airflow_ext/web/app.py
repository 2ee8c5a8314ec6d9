"""The web app of this package: what holds for all its pages."""

from __future__ import annotations

from urllib.parse import urlencode

from airflow.api_fastapi.auth.managers.models.resource_details import AccessView
from airflow.api_fastapi.core_api.security import requires_access_view
from fastapi import Depends, FastAPI, Request  # noqa: TID253  # only the first request imports this
from fastapi.responses import HTMLResponse, JSONResponse  # noqa: TID253
from starlette.exceptions import HTTPException as StarletteHTTPException

from airflow_ext.web.dbt import router
from airflow_ext.web.mount import PREFIX, dbt_path
from airflow_ext.web.pages import airflow_root, render
from airflow_ext.web.sla import router as slas
from airflow_ext.web.sync import router as webhooks

_TITLES = {401: "Log in to see this page", 403: "You may not see this page", 404: "Not found"}


def create_app() -> FastAPI:
    """Return the app.

    Its routes are for users who may see plugins, and demand what their data demands; but for the webhook, which
    demands a signature.
    """
    app = FastAPI(
        title="airflow-ext",
        # FastAPI's own pages would be open to everybody.
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
    )
    for pages in (router, slas):
        app.include_router(pages, dependencies=[Depends(requires_access_view(AccessView.PLUGINS))])
    # A vendor is no user: this router checks signatures instead.
    app.include_router(webhooks)
    app.add_exception_handler(StarletteHTTPException, _explain)
    return app


async def _explain(request: Request, error: Exception) -> HTMLResponse | JSONResponse:
    """Show an error as a page, as who follows a link is a person; to programs of the REST routes as JSON."""
    assert isinstance(error, StarletteHTTPException)  # noqa: S101  # it is registered for these
    if f"{PREFIX}/sla/" in request.url.path:
        return JSONResponse({"detail": error.detail}, status_code=error.status_code, headers=error.headers)
    login = None
    if error.status_code == 401:
        login = f"{airflow_root(request)}api/v2/auth/login?{urlencode({'next': _here(request)})}"
    title = _TITLES.get(error.status_code, f"Error {error.status_code}")
    page = render(
        "message.html", request, status=error.status_code, title=title, text=error.detail, login=login
    )
    page.headers.update(error.headers or {})
    return page


def _here(request: Request) -> str:
    """Return the path of the page that was asked for, as the browser sees it."""
    dag_id, run_id, task_id = (
        str(request.path_params.get(name, "")) for name in ("dag_id", "run_id", "task_id")
    )
    return airflow_root(request).rstrip("/") + dbt_path(dag_id, run_id, task_id)
