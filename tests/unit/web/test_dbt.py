"""The page of a dbt run, asked of Airflow's own web app."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_ext.web.mount import dbt_path
from tests.unit.web.conftest import BUILD, DONE, RUN, Page, Run, Site, payload, unit

UNITS = ("marts.a", "marts.b", "marts.c")
SQL = "select 1 < 2 as \"it's\", '<script>alert(1)</script>' & '&amp;'"
HOSTILE = "</pre><script>alert('x')</script><img src=x onerror=alert(1)> {{ 7 * 7 }} {% raw %}"


def failed(name: str, **more: Any) -> dict[str, Any]:
    return unit(name, state="failed", failures=[{"id": f"model.p.{name}", "status": "error", **more}])


def over(run: Run, state: str = "success") -> None:
    run.tasks("success", BUILD, DONE, *UNITS)
    run.is_in(state)


def reloads(page: Page) -> bool:
    return any(attrs.get("http-equiv") == "refresh" for attrs in page.of("meta"))


@pytest.mark.parametrize(
    ("state", "words", "again"),
    [
        pytest.param(None, "dbt has not begun: the state of the build task is none", True, id="none"),
        pytest.param("queued", "dbt has not begun: the state of the build task is queued", True, id="queued"),
        pytest.param("running", "dbt is starting", True, id="running"),
        pytest.param("skipped", "dbt did not run: the build task was skipped", False, id="skipped"),
        pytest.param(
            "upstream_failed", "dbt did not run: a task before it failed", False, id="upstream-failed"
        ),
        pytest.param("failed", "failed before dbt told of anything", False, id="failed"),
        pytest.param("success", "its XCom was deleted", False, id="deleted"),
    ],
)
@pytest.mark.parametrize("task", [BUILD, "marts.a"])
def test_before_anything_is_told_the_page_says_why(
    site: Site, run: Run, state: str | None, words: str, again: bool, task: str
) -> None:
    run.tasks(state, BUILD, DONE, *UNITS)
    page = site.page(task)
    assert page.status == 200
    assert words in page.text
    assert reloads(page) == again


def test_a_running_build_shows_what_is_settled_and_reloads(site: Site, run: Run) -> None:
    run.tasks("running", BUILD)
    run.tasks("deferred", DONE, *UNITS)
    run.told(payload({"a": unit("a")}, ended=False))
    page = site.page()
    assert "dbt is running. This was told" in page.text
    assert "1 of 3" in page.text
    assert "Not settled" in page.text
    assert {"b", "c"} <= set(page.links)
    assert reloads(page)
    waiting = site.page("marts.b")
    assert "dbt has not come to the end of this yet" in waiting.text
    assert reloads(waiting)


@pytest.mark.parametrize("task", [BUILD, DONE])
def test_a_whole_run_shows_every_node_with_its_times(site: Site, run: Run, task: str) -> None:
    over(run)
    run.told(
        payload(
            {
                "a": unit("a", at="2026-03-01T06:00:01.250Z"),
                "b": unit("b", at="2026-03-01T06:00:02.750Z"),
                "c": unit("c", at="2026-03-01T06:00:04.250Z"),
            }
        )
    )
    page = site.page(task)
    assert not reloads(page)
    assert [attrs["x"] for attrs in page.of("rect")] == ["0.000%", "33.333%", "66.667%"]
    assert {attrs["width"] for attrs in page.of("rect")} == {"33.333%"}
    for words in ("06:00:01.250", "06:00:05.750", "1.50 s", "2 pass", "3 of 3"):
        assert words in page.text
    assert page.links["b"] == dbt_path("shop", RUN, "marts.b")
    assert page.links["a"] == dbt_path("shop", RUN, "marts.a")


def test_a_failure_comes_first_with_message_query_and_rows(site: Site, run: Run) -> None:
    over(run, "failed")
    run.told(payload({"a": unit("a"), "b": failed("b", message="no such column", rows=1234, compiled=SQL)}))
    page = site.page()
    assert page.text.index("What failed") < page.text.index("no such column") < page.text.index("Nodes")
    assert "1,234 failing rows" in page.text
    assert SQL in page.text
    assert "What failed" in site.page("marts.b").text
    assert "What failed" not in site.page("marts.a").text


def test_a_warning_is_named_with_its_rows_on_the_run_and_on_its_node(site: Site, run: Run) -> None:
    over(run)
    warned = {"id": "test.p.few_orders.0a1b", "status": "warn", "message": "Got 2 results", "rows": 2}
    run.told(payload({"a": unit("a"), "b": unit("b", warnings=[warned])}))
    for task in (BUILD, "marts.b"):
        text = site.page(task).text
        assert text.index("What warned") < text.index("few_orders") < text.index("Got 2 results")
        assert "2 failing rows" in text
        assert "What failed" not in text
    assert "What warned" not in site.page("marts.a").text


def test_the_page_of_a_node_leads_to_its_run_and_to_airflow(site: Site, run: Run) -> None:
    over(run)
    run.told(payload({"a": unit("a")}))
    page = site.page("marts.a")
    assert page.links["The whole dbt run"] == dbt_path("shop", RUN, BUILD)
    escaped = RUN.replace(":", "%3A").replace("+", "%2B")
    assert page.links["Task marts.a in Airflow"] == f"/dags/shop/runs/{escaped}/tasks/marts.a"


def test_a_folder_shows_its_nodes_and_leads_nowhere_else(site: Site, run: Run) -> None:
    run.tasks("success", "more.build", "more.done", "more.base", "more.end")
    both = {"state": "success", "nodes": unit("a")["nodes"] + unit("b")["nodes"]}
    run.told(payload({"base": both, "end": unit("c")}), by="more.build")
    page = site.page("more.build")
    assert [attrs.get("title") for attrs in page.of("td") if attrs.get("class") == "node"] == [
        "model.p.a",
        "model.p.b",
        "model.p.c",
    ]
    assert page.links["a"] == page.links["b"] == dbt_path("shop", RUN, "more.base")
    assert "model.p.c" not in site.page("more.base").source


@pytest.mark.parametrize("task", [BUILD, "marts.a"])
def test_whatever_is_told_is_shown_as_text(site: Site, run: Run, task: str) -> None:
    over(run)
    line = [f"model.p.{HOSTILE}", HOSTILE, HOSTILE, 1.0, 1, {HOSTILE: 1}]
    failures = [{"id": HOSTILE, "status": HOSTILE, "message": HOSTILE, "compiled": HOSTILE}]
    run.told(payload({"a": {"state": HOSTILE, "nodes": [line], "failures": failures}, HOSTILE: unit("b")}))
    page = site.page(task)
    assert page.status == 200
    assert HOSTILE in page.text
    assert not page.of("script")
    assert not page.of("img")
    assert not [attrs for _, attrs in page.tags if any(name.startswith("on") for name in attrs)]


@pytest.mark.parametrize(
    "value", [pytest.param("s3://bucket/1.json", id="backend"), pytest.param({"units": 5}, id="overwritten")]
)
def test_what_cannot_be_read_is_said(site: Site, run: Run, value: Any) -> None:
    over(run)
    run.told(value)
    for task in (BUILD, "marts.a"):
        page = site.page(task)
        assert page.status == 200
        assert "cannot be read here" in page.text


def test_a_node_built_again_replaces_the_builds_and_names_its_task(site: Site, run: Run) -> None:
    over(run)
    run.told(payload({"a": failed("a", message="first"), "b": unit("b")}))
    run.told(payload({"a": unit("a")}, started=5000.0, asked=["a"], good={}), by="marts.a")
    whole = site.page()
    assert "first" not in whole.text
    assert "built again" in whole.text
    assert site.page("marts.a").links["marts.a"] == site.page("marts.a").links["Task marts.a in Airflow"]


@pytest.mark.parametrize(
    ("state", "attempt", "cleared"),
    [
        pytest.param(None, 1, True, id="just-cleared"),
        pytest.param("deferred", 2, True, id="waiting-again"),
        pytest.param("running", 2, True, id="building"),
        pytest.param("deferred", 1, False, id="about-to-end"),
        pytest.param("success", 2, False, id="ended-again"),
    ],
)
def test_a_cleared_node_says_that_it_shows_the_earlier_build(
    site: Site, run: Run, state: str | None, attempt: int, cleared: bool
) -> None:
    over(run)
    run.is_in("running")
    run.tasks(state, "marts.a")
    run.tries(attempt, "marts.a")
    run.told(payload({"a": failed("a", message="the first")}))
    page = site.page("marts.a")
    assert ("This task was cleared and is to be built again" in page.text) == cleared
    assert ("Cleared and to be built again: marts.a." in site.page().text) == cleared
    assert "the first" in page.text
    assert reloads(page) == (state != "success")
    assert not reloads(site.page("marts.b"))


def test_a_cleared_build_says_that_it_shows_the_earlier_one(site: Site, run: Run) -> None:
    run.told(payload({"a": unit("a")}))
    run.tasks("queued", BUILD)
    assert "of its earlier run" in site.page().text


def test_between_two_tries_the_page_says_so(site: Site, run: Run) -> None:
    run.tasks("up_for_retry", BUILD)
    run.told(payload({"a": failed("a")}))
    page = site.page()
    assert "Try 1 went badly" in page.text
    assert reloads(page)


def test_a_retry_is_beside_the_first_try_on_the_axis(site: Site, run: Run) -> None:
    over(run)
    first = unit("a", at="1970-01-01T00:00:10Z")
    run.told(payload({"a": first, "b": unit("b", at="1970-01-01T01:23:25Z")}, started=5000.0, attempt=2))
    page = site.page()
    assert "1 h 23 min between two runs of dbt are left out" in page.text
    assert "This try began" in page.text
    assert len(page.of("line")) == 2


def test_a_build_that_broke_off_says_what_it_did_not_reach(site: Site, run: Run) -> None:
    run.tasks("failed", BUILD, DONE, *UNITS)
    run.told(payload({"a": unit("a")}, ended=False))
    run.is_in("failed")
    page = site.page()
    assert "The build task failed; its log has the reason" in page.text
    assert page.links["c"] == dbt_path("shop", RUN, "marts.c")
    assert "dbt ended without building this" in site.page("marts.c").text


def many(count: int) -> dict[str, Any]:
    nodes = [
        [
            f"model.p.n{number}",
            "success",
            f"2026-03-01T06:{number // 60 % 60:02d}:{number % 60:02d}Z",
            number / 10,
            1,
            None,
        ]
        for number in range(count)
    ]
    failures = [
        {"id": f"model.p.f{number}", "status": "error", "message": f"m{number}."} for number in range(60)
    ]
    return {"state": "failed", "nodes": nodes, "failures": failures}


def test_thousands_of_nodes_come_in_two_pages(site: Site, run: Run) -> None:
    over(run)
    run.told(payload({"a": many(2_500)}))
    page, whole = site.page(), site.page(query="?all=1")
    assert [len(one.of("rect")) for one in (page, whole)] == [500, 2_500]
    assert [len(one.of("article")) for one in (page, whole)] == [50, 60]
    assert page.links["Show 2,000 more nodes"] == page.links["Show 10 more"] == "?all=1&sort=start"
    assert whole.status == 200


@pytest.mark.parametrize(
    ("query", "first"),
    [
        pytest.param("", "model.p.n0", id="by-start"),
        pytest.param("?sort=seconds", "model.p.n599", id="slowest-first"),
        pytest.param("?sort=<script>&all=<script>", "model.p.n0", id="unknown"),
    ],
)
def test_the_slowest_can_come_first(site: Site, run: Run, query: str, first: str) -> None:
    over(run)
    run.told(payload({"a": many(600)}))
    page = site.page(query=query)
    assert next(attrs["title"] for attrs in page.of("td") if attrs.get("class") == "node") == first
    assert len(page.of("rect")) == 500
    assert not page.of("script")


def test_two_groups_of_a_dag_are_kept_apart(site: Site, run: Run) -> None:
    run.told(payload({"a": failed("a", message="of marts")}))
    run.told(payload({"base": unit("b")}), by="more.build")
    assert "of marts" in site.page().text
    assert "of marts" not in site.page("more.build").text
    assert "dbt has not begun" not in site.page("more.base").text


def test_a_run_id_with_a_slash_is_found(site: Site, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__SCHEDULER__ALLOWED_RUN_ID_PATTERN", ".+")
    odd = Run("by/hand?#%2F a")
    odd.create()
    odd.told(payload({"a": unit("a")}))
    page = site.page("marts.a", run_id=odd.run_id)
    assert (page.status, "model.p.a" in page.source) == (200, True)
    assert site.get(page.links["The whole dbt run"]).status == 200


def test_links_stay_below_the_path_of_a_reverse_proxy(
    site: Site, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    over(run)
    run.told(payload({"a": unit("a")}))
    # As Airflow sets it from [api] base_url.
    monkeypatch.setattr(site.app, "root_path", "/team-a")
    page = site.get("/team-a" + dbt_path("shop", RUN, "marts.a"))
    assert page.status == 200
    assert {link.startswith(("/team-a/", "?")) for link in page.links.values()} == {True}
    assert page.links["The whole dbt run"] == "/team-a" + dbt_path("shop", RUN, BUILD)
    lost = site.get("/team-a" + dbt_path("shop", RUN, "marts.a"), user=None)
    assert lost.links["Log in"].startswith("/team-a/api/v2/auth/login?next=%2Fteam-a%2Fairflow-ext%2Fdbt%2F")
