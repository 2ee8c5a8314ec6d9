from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import quote

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.conftest import Demo

pytestmark = pytest.mark.timeout(1200)


def test_every_step_of_the_story_comes_out_as_told(demo: Demo) -> None:
    assert "NOT as told" not in demo.output
    told = re.search(r"(\d+) of (\d+) steps came out as told", demo.output)
    assert told
    assert told[1] == told[2]
    assert int(told[1]) >= 16


def test_the_breach_names_contract_rules_owner_and_run(demo: Demo) -> None:
    for words in ("daily_delays", "BREACHED", "worst_arr_delay", "analytics", "flights_marts"):
        assert words in demo.output


def test_dbt_nodes_are_shown_as_tasks(demo: Demo, page: Page, work: Path) -> None:
    page.goto(f"{demo.url}/dags/flights_marts")
    page.get_by_role("button", name=re.compile("expand all", re.IGNORECASE)).first.click()
    for node in ("daily_delays", "stg_flights", "airlines_history", "publish_daily_delays"):
        expect(page.get_by_text(node, exact=True).first).to_be_visible()
    page.screenshot(path=str(work / "flights_marts.png"))
    client = demo.client
    run = client.runs("flights_marts")[0]["dag_run_id"]
    states = client.states("flights_marts", run)
    client.close()
    assert {name: state for name, state in states.items() if state != "success"} == {}
    assert len([name for name in states if name.startswith("marts.")]) >= 8


def test_a_breach_is_readable_in_the_log_of_the_failed_task(demo: Demo, page: Page, work: Path) -> None:
    client = demo.client
    run = next(
        run["dag_run_id"] for run in client.runs("delay_alerts") if "2013-01-02" in run["logical_date"]
    )
    client.close()
    page.goto(f"{demo.url}/dags/delay_alerts/runs/{quote(run, safe='')}/tasks/delays_are_good?try_number=1")
    message = page.get_by_text(
        re.compile("does not hold for partition 2013-01-02.*failed rules:", re.DOTALL)
    ).last
    for words in ("owner: analytics", "published by: DAG flights_marts", "enough flights: expected"):
        expect(message).to_contain_text(words)
    message.scroll_into_view_if_needed()
    message.evaluate("element => { for (let e = element; e; e = e.parentElement) e.scrollLeft = 0 }")
    box = message.bounding_box()
    assert box
    page.screenshot(
        path=str(work / "breach.png"),
        clip={"x": box["x"] - 10, "y": box["y"] - 10, "width": 1100, "height": min(box["height"], 115) + 20},
    )


def test_the_list_of_dags_shows_the_teams(demo: Demo, page: Page, work: Path) -> None:
    page.goto(f"{demo.url}/dags")
    for dag in ("flights_ingest", "flights_marts", "delay_alerts", "delay_digest"):
        expect(page.get_by_text(dag, exact=True).first).to_be_visible()
    page.screenshot(path=str(work / "dags.png"))


def test_the_connection_form_of_a_sync_is_offered(demo: Demo, page: Page, work: Path) -> None:
    page.goto(f"{demo.url}/connections")
    page.get_by_role("button", name=re.compile("Add Connection")).first.click()
    page.get_by_role("combobox").first.click()
    page.keyboard.type("ext-dlt")
    option = page.get_by_role("option", name=re.compile("ext-dlt|Embedded sync")).first
    expect(option).to_be_visible()
    option.click()
    page.get_by_role("button", name="Extra Fields", exact=True).click()
    for label in ("Source connection", "Destination connection", "Dataset", "Reader"):
        expect(page.get_by_text(label, exact=False).first).to_be_visible()
    page.screenshot(path=str(work / "connection.png"))


def test_no_secret_is_in_any_file_of_the_demo(demo: Demo) -> None:
    """The source's password is in Vault and PostgreSQL only: not in logs, rendered fields or dlt's folder."""
    files = [path for path in demo.home.rglob("*") if path.is_file() and path.stat().st_size < 50_000_000]
    assert any("attempt=" in path.name for path in files), "task logs are among them"
    leaks = [
        str(path.relative_to(demo.home))
        for path in files
        if demo.source_password.encode() in path.read_bytes()
    ]
    assert leaks == []


def test_no_secret_is_in_the_metadata(demo: Demo) -> None:
    """Rendered fields, XComs and states are read through the API, as a user with all rights would."""
    client = demo.client
    try:
        for dag in ("flights_ingest", "flights_marts"):
            for run in client.runs(dag):
                for task in client.tasks(dag, run["dag_run_id"]).values():
                    assert demo.source_password not in str(task)
                    assert demo.source_password not in str(
                        client.xcom(dag, run["dag_run_id"], task["task_id"])
                    )
    finally:
        client.close()
