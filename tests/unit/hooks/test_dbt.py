from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import Any

import pytest

from airflow_ext.dbt.project import DbtProject
from airflow_ext.hooks.dbt import SHOWN, SourceState, objects_of, settings_of, summary_of, told_worst_first


def state(name: str, status: str, **more: Any) -> SourceState:
    return SourceState(unique_id=f"source.p.s.{name}", status=status, **more)


@pytest.mark.parametrize(
    ("age", "told"),
    [
        (0.4, "0 s"),
        (59, "59 s"),
        (3_599, "59 min"),
        (3_600, "1 h"),
        (5_400, "1 h 30 min"),
        (86_400, "1 d"),
        (93_600.5, "1 d 2 h"),
    ],
)
def test_ages_are_told_in_two_units_at_most(age: float, told: str) -> None:
    assert str(state("a", "warn", age=age)) == f"source.p.s.a: warn, newest data {told} old"


def test_a_message_of_dbt_becomes_a_state_with_its_rule() -> None:
    made = SourceState.of(
        {
            "id": "source.p.s.a",
            "status": "Error",
            "max_loaded_at": "2013-01-01T00:00:00+00:00",
            "age": 7_200.04,
            "criteria": {
                "warn_after": {"count": None, "period": None},
                "error_after": {"count": 1, "period": "hour"},
            },
        }
    )
    assert str(made) == "source.p.s.a: error, newest data 2 h old; error after 1 hour"
    assert (made.age, made.max_loaded_at) == (7_200.0, "2013-01-01T00:00:00+00:00")


def test_a_table_without_rows_has_no_age() -> None:
    made = SourceState.of(
        {
            "id": "source.p.s.a",
            "status": "error",
            "max_loaded_at": "0001-01-01T00:00:00+00:00",
            "age": 63930837952.1,
        }
    )
    assert (made.age, made.max_loaded_at) == (None, None)
    assert str(made) == "source.p.s.a: error, has no rows"


def test_what_cannot_be_judged_is_told_in_dbts_words() -> None:
    made = SourceState.of({"id": "source.p.s.a", "status": "runtime error", "message": "no such table"})
    assert str(made) == "source.p.s.a: no such table"


def test_the_worst_come_first_and_the_unknown_is_bad() -> None:
    states = [state("d", "pass"), state("c", "warn"), state("b", "error"), state("a", "who knows")]
    assert [each.status for each in told_worst_first(states)] == ["who knows", "error", "warn", "pass"]


def test_a_summary_counts_all_and_names_only_the_worst() -> None:
    states = [state(f"n{number:04}", "pass", age=1.0) for number in range(3_000)] + [state("z", "error")]
    found = summary_of(states)
    assert (found["checked"], found["counts"]) == (3_001, {"error": 1, "pass": 3_000})
    assert len(found["sources"]) == SHOWN
    assert next(iter(found["sources"])) == "source.p.s.z"
    assert len(json.dumps(found)) < 20_000


def test_settings_have_a_profile_only_with_a_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dbt_project.yml").write_text("name: shop")
    secret = secrets.token_hex(8)
    connection = {"conn_type": "postgres", "host": "db", "login": "me", "password": secret, "schema": "d"}
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", json.dumps(connection))
    own = settings_of(DbtProject(project_dir=tmp_path, target="prod", executable="dbtf"))
    assert (own.profile, own.target, own.executable) == (None, "prod", "dbtf")
    made = settings_of(DbtProject(project_dir=tmp_path, profile_conn_id="warehouse", schema="marts"))
    assert made.profile is not None
    assert secret in made.profile.env.values()
    assert secret not in made.profile.text + repr(made)


def test_what_is_printed_among_a_list_is_left_out() -> None:
    lines = ["{'a': 1}", '{"unique_id": "model.p.m"}', "{not", "[1]", "5", "shop"]
    assert objects_of(lines) == [{"unique_id": "model.p.m"}]
