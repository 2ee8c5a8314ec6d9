"""Who may see the pages, and what is true of all of them."""

from __future__ import annotations

import json
from urllib.parse import parse_qs, quote, urlsplit

import pytest

from airflow_ext.web.mount import dbt_path
from tests.unit.web.conftest import BUILD, RUN, Run, Site, payload, unit

pytestmark = pytest.mark.usefixtures("run")


@pytest.fixture(autouse=True)
def _told(run: Run) -> None:
    run.told(payload({"a": unit("a")}))


@pytest.mark.parametrize("cookie", [pytest.param(True, id="browser"), pytest.param(False, id="program")])
def test_who_may_see_the_dag_sees_the_page(site: Site, cookie: bool) -> None:
    page = site.page(cookie=cookie)
    assert (page.status, "dbt run" in page.text) == (200, True)


def test_nobody_is_asked_to_log_in_and_led_back(site: Site) -> None:
    page = site.page(user=None)
    assert page.status == 401
    assert "model" not in page.source
    login = urlsplit(page.links["Log in"])
    assert login.path == "/api/v2/auth/login"
    assert parse_qs(login.query) == {"next": [dbt_path("shop", RUN, BUILD)]}
    assert site.get(page.links["Log in"], user=None).status == 307


def test_a_forged_token_is_refused(site: Site) -> None:
    path = dbt_path("shop", RUN, BUILD)
    assert site.ask("GET", path, headers={"Authorization": "Bearer forged"}).status_code == 403


@pytest.mark.parametrize(
    ("user", "role", "status"),
    [
        pytest.param("ann", "VIEWER", 200, id="viewer"),
        pytest.param("only-shop", "VIEWER", 200, id="this-dag-only"),
        pytest.param("only-other", "VIEWER", 403, id="another-dag-only"),
        pytest.param("no-XCOM", "VIEWER", 403, id="no-xcoms"),
        pytest.param("no-TASK_INSTANCE", "VIEWER", 403, id="no-tasks"),
        pytest.param("no-RUN", "VIEWER", 403, id="no-runs"),
        pytest.param("no-plugins", "VIEWER", 403, id="no-plugins"),
        pytest.param("ann", None, 403, id="no-role"),
    ],
)
def test_what_a_user_may_not_see_elsewhere_is_not_shown_here(
    site: Site, user: str, role: str | None, status: int
) -> None:
    page = site.page(user=user, role=role)
    assert (page.status, "model" in page.source) == (status, status == 200)


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(dbt_path("other", RUN, BUILD), id="no-such-dag"),
        pytest.param(dbt_path("~", RUN, BUILD), id="any-dag"),
        pytest.param(dbt_path("shop", "manual__never", BUILD), id="no-such-run"),
        pytest.param(dbt_path("shop", RUN, "marts.never"), id="no-such-task"),
        pytest.param(dbt_path("shop", RUN, "other"), id="not-of-dbt"),
        pytest.param(dbt_path("shop", RUN, "alone"), id="build-without-group"),
        pytest.param("/airflow-ext/dbt/shop", id="half-a-path"),
        pytest.param("/airflow-ext/", id="nothing"),
        pytest.param("/airflow-ext/docs", id="fastapis-own-page"),
        pytest.param("/airflow-ext/openapi.json", id="fastapis-own-schema"),
    ],
)
def test_what_is_not_there_is_said_clearly(site: Site, path: str) -> None:
    page = site.get(path)
    assert (page.status, "Not found" in page.text) == (404, True)
    assert page.links["To Airflow"] == "/"


@pytest.mark.parametrize(
    "user", [pytest.param("only-other", id="no-access"), pytest.param("ann", id="access")]
)
def test_only_who_may_see_a_dag_learns_whether_a_run_exists(site: Site, user: str) -> None:
    statuses = {site.page(run_id=run_id, user=user).status for run_id in (RUN, "manual__never")}
    assert statuses == ({403} if user == "only-other" else {200, 404})


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_a_page_can_only_be_read(site: Site, method: str) -> None:
    assert site.ask(method, dbt_path("shop", RUN, BUILD)).status_code == 405


@pytest.mark.parametrize("user", [pytest.param("ann", id="page"), pytest.param(None, id="error")])
def test_nothing_on_a_page_can_run_or_load_anything(site: Site, user: str | None) -> None:
    page = site.page(user=user)
    policy = dict(rule.strip().split(" ", 1) for rule in page.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["frame-ancestors"] == "'self'"
    assert policy["style-src"].startswith("'sha256-")
    assert (page.headers["x-content-type-options"], page.headers["cache-control"]) == ("nosniff", "no-store")
    assert not page.of("script")
    assert not [
        attrs for _, attrs in page.tags if any(name.startswith("on") or name == "style" for name in attrs)
    ]
    assert {attrs["href"] for attrs in page.of("link")} == {"data:,"}


def test_a_message_shows_names_as_text(site: Site) -> None:
    page = site.get(dbt_path("shop", RUN, "<img src=x onerror=alert(1)>"))
    assert page.status == 404
    assert "<img src=x" in page.text
    assert not page.of("img")


@pytest.mark.parametrize("name", ["a b", "é.ü", "a+b:c", "100%", "x?y#z"])
def test_every_name_survives_the_path(name: str) -> None:
    assert (
        dbt_path(name, name, name).removeprefix("/airflow-ext/dbt/").split("/") == [quote(name, safe="")] * 3
    )


def test_airflow_lists_the_app_among_its_plugins(site: Site) -> None:
    plugins = json.loads(site.get("/api/v2/plugins").source)["plugins"]
    (ours,) = [plugin for plugin in plugins if plugin["name"] == "airflow_ext"]
    assert [app["url_prefix"] for app in ours["fastapi_apps"]] == ["/airflow-ext"]
    assert json.loads(site.get("/api/v2/plugins/importErrors").source)["import_errors"] == []
