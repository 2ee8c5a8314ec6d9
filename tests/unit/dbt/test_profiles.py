from __future__ import annotations

import secrets
from pathlib import Path

import pytest
import yaml
from airflow.sdk import Connection

from airflow_ext.dbt.profiles import placeholder_profile, profile_from_connection, profile_name
from airflow_ext.exceptions import InvalidProjectError


def test_a_postgres_profile_holds_references_and_the_environment_the_values() -> None:
    password = secrets.token_urlsafe()
    connection = Connection(
        conn_id="wh",
        conn_type="postgres",
        host="db",
        port=5433,
        login="me",
        password=password,
        schema="shop",
        extra='{"sslmode": "require"}',
    )
    profile = profile_from_connection(connection, name="shop", schema="marts")
    output = yaml.safe_load(profile.text)["shop"]["outputs"]["airflow"]
    assert output["password"] == "{{ env_var('DBT_ENV_SECRET_AIRFLOW_EXT_DBT_PASSWORD') }}"
    assert output["port"] == "{{ env_var('AIRFLOW_EXT_DBT_PORT') | as_number }}"
    assert profile.env["AIRFLOW_EXT_DBT_SCHEMA"] == "marts"
    assert profile.env["AIRFLOW_EXT_DBT_SSLMODE"] == "require"
    assert password not in profile.text + repr(profile)
    assert profile.env["DBT_ENV_SECRET_AIRFLOW_EXT_DBT_PASSWORD"] == password


def test_a_duckdb_profile_takes_the_host_as_its_file() -> None:
    profile = profile_from_connection(
        Connection(conn_id="d", conn_type="duckdb", host="/data/w.duckdb"), name="shop", target="dev"
    )
    assert yaml.safe_load(profile.text)["shop"]["target"] == "dev"
    assert profile.env == {"AIRFLOW_EXT_DBT_PATH": "/data/w.duckdb", "AIRFLOW_EXT_DBT_SCHEMA": "main"}


@pytest.mark.parametrize(
    ("connection", "message"),
    [
        pytest.param(Connection(conn_id="c", conn_type="mysql"), "'mysql'.*duckdb and postgres", id="type"),
        pytest.param(
            Connection(conn_id="c", conn_type="postgres", host="h"), "login, password, database", id="fields"
        ),
        pytest.param(Connection(conn_id="c", conn_type="duckdb"), "lacks a host", id="no-file"),
    ],
)
def test_an_unfit_connection_is_refused_with_what_it_lacks(connection: Connection, message: str) -> None:
    with pytest.raises(InvalidProjectError, match=message):
        profile_from_connection(connection, name="shop")


def test_an_unknown_adapter_is_refused() -> None:
    with pytest.raises(InvalidProjectError, match="adapter='oracle'"):
        placeholder_profile("oracle", name="shop")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("name: a\nprofile: b\n", "b", id="profile"),
        pytest.param("name: a\n", "a", id="name"),
    ],
)
def test_the_profile_name_is_read_from_the_project(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "dbt_project.yml").write_text(text)
    assert profile_name(tmp_path) == expected


@pytest.mark.parametrize("text", [None, "a: [", "- 1\n"], ids=["missing", "no-yaml", "no-name"])
def test_what_is_no_project_is_refused(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "dbt_project.yml").write_text(text)
    with pytest.raises(InvalidProjectError):
        profile_name(tmp_path)
