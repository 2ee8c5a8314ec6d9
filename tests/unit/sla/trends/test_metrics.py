"""The catalogue of metrics is what is sent, and what rules, dashboard and docs name."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from airflow.sdk.observability import stats
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from airflow_ext.sla import metrics
from airflow_ext.sla.trends.measure import Measurer
from tests.paths import ROOT
from tests.unit.sla.sender.test_send import MAIL, STEPS, Desk
from tests.unit.sla.world import at

MONITORING = Path(ROOT) / "docs" / "monitoring"
NAME = re.compile(r"\bairflow_airflow_ext_(\w+)(\{[^}]*\})?")
LABEL = re.compile(r"(\w+)\s*=~?\s*\"")


def exported(name: str) -> str:
    """Return a name as statsd_exporter gives it, without prefixes."""
    return name.replace(".", "_")


KNOWN = {exported(name): metric for name, metric in metrics.CATALOGUE.items()}


def check(expression: str) -> set[str]:
    """Check names and labels of an expression, and return the names."""
    names = set()
    for match in NAME.finditer(expression):
        metric = KNOWN[match[1]]
        assert set(LABEL.findall(match[2] or "")) <= set(metric.tags), expression
        names.add(match[1])
    for group in re.findall(r"\bby \(([^)]*)\)", expression):
        for name in names:
            assert {label.strip() for label in group.split(",")} <= set(KNOWN[name].tags), expression
    assert expression.count("(") == expression.count(")")
    return names


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool comes with Prometheus")
def test_the_rules_fire_when_they_should() -> None:
    words = ["promtool", "test", "rules", str(MONITORING / "sla-rules-test.yml")]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_test() -> None:
    rules = yaml.safe_load((MONITORING / "sla-rules.yml").read_text())["groups"][0]["rules"]
    cases = yaml.safe_load((MONITORING / "sla-rules-test.yml").read_text())["tests"]
    tested = {item["alertname"] for case in cases for item in case["alert_rule_test"] if item["exp_alerts"]}
    assert tested == {rule["alert"] for rule in rules if "alert" in rule}


def test_the_rules_name_what_is_sent() -> None:
    rules = yaml.safe_load((MONITORING / "sla-rules.yml").read_text())["groups"][0]["rules"]
    recorded = {rule["record"] for rule in rules if "record" in rule}
    for rule in rules:
        names = check(rule["expr"])
        assert names or any(name in rule["expr"] for name in recorded), rule["expr"]
        if "alert" in rule:
            assert rule["labels"]["severity"] in ("page", "ticket")
            assert rule["annotations"]["summary"]
    assert len({rule.get("alert") for rule in rules}) == len(rules)


def test_the_dashboard_names_what_is_sent() -> None:
    board = json.loads((MONITORING / "sla-dashboard.json").read_text())
    assert {item["name"] for item in board["templating"]["list"]} == {"datasource", "owner", "policy"}
    for panel in board["panels"]:
        assert panel["datasource"]["uid"] == "${datasource}"
        for target in panel["targets"]:
            assert check(target["expr"]), panel["title"]


def test_the_docs_list_every_metric() -> None:
    text = (Path(ROOT) / "docs" / "sla-trends.md").read_text()
    assert [name for name in metrics.CATALOGUE if f"`{name}`" not in text] == []


def test_what_is_sent_is_in_the_catalogue(database: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: dict[str, list[Any]] = {}

    def note(name: str, value: Any = 1, **more: Any) -> None:
        sent.setdefault(name, []).append((value, more.get("tags")))

    for kind in ("incr", "gauge", "timing"):
        monkeypatch.setattr(stats, kind, note)
    desk = Desk(database)
    desk.promise("marts", owner="team-x", budget="3 in 30", severity="page", channels=[MAIL], escalate=STEPS)
    for day in ("02", "03", "04"):
        desk.world.run("marts", f"2026-03-{day} 00:00", ended=f"2026-03-{day} 04:30")
        desk.send_at(f"2026-03-{day} 05:01")
    for moment in ("2026-03-05 05:01", "2026-03-05 05:40"):
        metrics.count_sent(desk.send_at(moment))
    first, second = Measurer("one"), Measurer("two")
    with Session(database) as session:
        assert first(session, desk.world.now)
        assert not first(session, desk.world.now + timedelta(seconds=59)), "once a minute"
        assert not second(session, desk.world.now + timedelta(seconds=59)), "from one replica"
    desk.world.run("marts", "2026-03-05 00:00", ended="2026-03-05 05:50")
    desk.incident(acknowledged_at=at("2026-03-05 05:45"))
    desk.send_at("2026-03-05 05:51")
    with Session(database) as session:
        assert first(session, desk.world.now)
    catalogue = {metrics.PREFIX + name for name in metrics.CATALOGUE}
    assert {name for name in sent if name.startswith(metrics.PREFIX)} <= catalogue
    tags = {"dag_id": "marts", "policy": "by-0500-UTC", "owner": "team-x", "severity": "page"}
    assert (-1800.0, tags) in sent["airflow_ext.sla.lateness_seconds"]
    assert (pytest.approx(2 / 3, abs=1e-3), tags) in sent["airflow_ext.sla.budget_remaining_ratio"]
    assert (pytest.approx(3.33), {**tags, "window": "3"}) in sent["airflow_ext.sla.burn_rate"]
    assert (1, {"severity": "page"}) in sent["airflow_ext.incident.open"]
    assert (1, {"channel": "Mail"}) in sent["airflow_ext.notify.sent"]
    assert sent["airflow_ext.incident.time_to_recover"] == [(timedelta(minutes=50), {"severity": "page"})]
    assert sent["airflow_ext.incident.time_to_ack"] == [(timedelta(minutes=44), {"severity": "page"})]
