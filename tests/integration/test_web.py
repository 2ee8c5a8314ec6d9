"""The page of a dbt run on a running Airflow: its links, its answers, and how Chromium shows it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, expect, sync_playwright

from airflow_ext.testing.airflow_client import wait_until
from airflow_ext.testing.local_airflow import LocalAirflow
from airflow_ext.web.mount import dbt_path

pytestmark = pytest.mark.timeout(600)

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
QUIET += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]


@pytest.fixture(scope="module", autouse=True)
def _shop(airflow: LocalAirflow, scratch: Path) -> None:
    for name in ("red", "retry", "folders", "alone"):
        database = scratch / f"shop_{name}.duckdb"
        airflow.client.create_connection(f"shop_{name}", "duckdb", host=str(database))
    airflow.client.wait_for_dags(["dbt_red", "dbt_retry", "dbt_folders", "dbt_alone"])


@pytest.fixture(scope="module")
def red(airflow: LocalAirflow) -> str:
    """A finished run in which the model ``orders`` failed."""
    run = airflow.client.trigger("dbt_red", conf={"fail": "orders"})
    airflow.client.wait_for_run("dbt_red", run, state="failed")
    return run


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Headless Chromium of the system."""
    if CHROMIUM is None:
        raise RuntimeError("Chromium is not installed: run scripts/chromium")
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield running
        running.close()


@pytest.fixture
def complaints() -> list[str]:
    """What the browser complained of while it was on our pages, such as something that they may not load."""
    return []


@pytest.fixture
def page(browser: Browser, complaints: list[str]) -> Iterator[Page]:
    """A page of a browser that nobody has logged in."""

    def hear(message: ConsoleMessage) -> None:
        ours = "/airflow-ext/" in message.location.get("url", "")
        if ours and message.type in {"error", "warning"} and "401" not in message.text:
            complaints.append(message.text)

    context = browser.new_context(viewport={"width": 1500, "height": 950})
    opened = context.new_page()
    opened.set_default_timeout(30_000)
    opened.on("console", hear)
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    yield opened
    context.close()


def log_in(page: Page, airflow: LocalAirflow) -> None:
    page.fill("input[name=username]", airflow.user)
    page.fill("input[name=password]", airflow.password)
    page.keyboard.press("Enter")
    page.wait_for_url(lambda url: "/auth/login" not in url)


def extra_link(page: Page, name: str) -> Locator:
    """Open the tab of Airflow's page of a task that has the links."""
    page.locator("a[href$='/details']").first.click()
    return page.get_by_role("link", name=name, exact=True)


def links(airflow: LocalAirflow, dag_id: str, run_id: str, task_id: str) -> dict[str, Any]:
    path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/links"
    return dict(airflow.client.request("GET", path)["extra_links"])


def get(airflow: LocalAirflow, dag_id: str, run_id: str, task_id: str) -> str:
    """Return the page as a program of the administrator gets it."""
    token = httpx.post(
        f"{airflow.url}/auth/token", json={"username": airflow.user, "password": airflow.password}
    ).json()["access_token"]
    answer = httpx.get(
        airflow.url + dbt_path(dag_id, run_id, task_id), headers={"Authorization": f"Bearer {token}"}
    )
    return answer.raise_for_status().text


@pytest.mark.parametrize(
    ("task_id", "name"),
    [
        pytest.param("shop.orders", "dbt node", id="failed"),
        pytest.param("shop.customers", "dbt node", id="skipped"),
        pytest.param("shop.build", "dbt run", id="build"),
        pytest.param("shop.done", "dbt run", id="done"),
    ],
)
def test_the_api_links_each_task_of_a_group(airflow: LocalAirflow, red: str, task_id: str, name: str) -> None:
    assert links(airflow, "dbt_red", red, task_id) == {name: airflow.url + dbt_path("dbt_red", red, task_id)}


def test_a_build_without_nodes_is_not_linked(airflow: LocalAirflow) -> None:
    run = airflow.client.trigger("dbt_alone")
    airflow.client.wait_for_run("dbt_alone", run, state="success")
    assert links(airflow, "dbt_alone", run, "build") == {}


def test_links_cost_no_xcom(airflow: LocalAirflow, red: str) -> None:
    path = f"/dags/dbt_red/dagRuns/{red}/taskInstances/~/xcomEntries"
    entries = airflow.client.request("GET", path, params={"limit": 100})["xcom_entries"]
    assert [(entry["task_id"], entry["key"]) for entry in entries] == [
        ("shop.build", "airflow_ext_dbt_nodes")
    ]


def test_nobody_sees_nothing(airflow: LocalAirflow, red: str) -> None:
    answer = httpx.get(airflow.url + dbt_path("dbt_red", red, "shop.orders"))
    assert answer.status_code == 401
    assert "told to fail" not in answer.text


def test_the_run_page_shows_what_dbt_told(airflow: LocalAirflow, red: str) -> None:
    text = get(airflow, "dbt_red", red, "shop.build")
    for words in ("told to fail: orders", "model.shop.orders", "snapshot.shop.customers_history", "10 of 10"):
        assert words in text
    assert 'http-equiv="refresh"' not in text


def test_a_failed_task_leads_to_dbts_message_and_query(
    airflow: LocalAirflow, red: str, page: Page, work: Path, complaints: list[str]
) -> None:
    page.goto(f"{airflow.url}/dags/dbt_red/runs/{red}/tasks/shop.orders")
    log_in(page, airflow)
    extra_link(page, "dbt node").click()
    expect(page.get_by_role("heading", name="orders failed")).to_be_visible()
    expect(page.get_by_text("told to fail: orders").first).to_be_visible()
    expect(page.locator("pre", has_text=re.compile(r"select .* from", re.DOTALL)).first).to_be_visible()
    page.screenshot(path=str(work / "dbt-node-page.png"), full_page=True)
    page.get_by_role("link", name="The whole dbt run").click()
    expect(page.get_by_role("heading", name="dbt run failed")).to_be_visible()
    assert page.locator("rect.bar").count() >= 7
    widths = page.eval_on_selector_all(
        "rect.bar", "bars => bars.map(bar => bar.getBoundingClientRect().width)"
    )
    assert all(width > 0 for width in widths)
    styled = page.eval_on_selector("table", "table => getComputedStyle(table).borderCollapse")
    assert styled == "collapse", "the style sheet was let through"
    page.screenshot(path=str(work / "dbt-run-page.png"), full_page=True)
    page.get_by_role("link", name="Task shop.build in Airflow").click()
    expect(extra_link(page, "dbt run")).to_be_visible()
    assert complaints == []


def test_who_is_not_logged_in_is_led_back_to_the_page(airflow: LocalAirflow, red: str, page: Page) -> None:
    page.goto(airflow.url + dbt_path("dbt_red", red, "shop.orders"))
    expect(page.get_by_role("heading", name="Log in to see this page")).to_be_visible()
    page.get_by_role("link", name="Log in").click()
    log_in(page, airflow)
    expect(page.get_by_role("heading", name="orders failed")).to_be_visible()


def test_a_run_is_followed_through_its_retry(airflow: LocalAirflow, tmp_path: Path) -> None:
    client, gate = airflow.client, tmp_path / "gate"
    run = client.trigger("dbt_retry", conf={"gate": str(gate)})

    def read(words: str) -> str:
        text = ""

        def look() -> bool:
            nonlocal text
            text = get(airflow, "dbt_retry", run, "shop.build")
            return words in text

        wait_until(look, timeout=90, what=f"the page says {words!r}")
        return text

    assert 'http-equiv="refresh"' in read("dbt has not begun")
    between = read("Try 1 went badly")
    assert 'http-equiv="refresh"' in between
    gate.touch()
    client.wait_for_run("dbt_retry", run, state="success")
    after = get(airflow, "dbt_retry", run, "shop.done")
    assert "What failed" not in after
    assert "10 of 10" in after


def test_a_node_that_was_built_again_is_shown_as_such(airflow: LocalAirflow) -> None:
    client = airflow.client
    run = client.trigger("dbt_red", conf={"fail": "top_customer"})
    client.wait_for_run("dbt_red", run, state="failed")
    client.clear("dbt_red", run, task_ids=["shop.customers"])
    client.wait_for_task("dbt_red", run, "shop.customers", states={"success"}, min_try=2)
    assert "built again" in get(airflow, "dbt_red", run, "shop.build")
    assert "Built again by" in get(airflow, "dbt_red", run, "shop.customers")
    assert "Built again by" not in get(airflow, "dbt_red", run, "shop.orders")


def test_a_folder_shows_its_nodes(airflow: LocalAirflow) -> None:
    run = airflow.client.trigger("dbt_folders", conf={"fail": "orders"})
    airflow.client.wait_for_run("dbt_folders", run, state="failed")
    text = get(airflow, "dbt_folders", run, "shop.models")
    assert "told to fail: orders" in text
    assert "model.shop.customers" in text
    assert "seed.shop.raw_orders" not in text
