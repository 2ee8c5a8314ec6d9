from __future__ import annotations

import importlib
import json
import secrets
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from airflow_ext.exceptions import InvalidError
from airflow_ext.hooks.sync import DltHook
from airflow_ext.provider import get_provider_info
from airflow_ext.sync.scrub import scrub


def connect(monkeypatch: pytest.MonkeyPatch, conn_id: str, **fields: Any) -> None:
    monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(fields))


@pytest.fixture
def postgres(server: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    fields = {"host": "127.0.0.1", "port": server.port, "login": server.user, "schema": "postgres"}
    connect(monkeypatch, "pg", conn_type="postgres", password=server.password, **fields)
    return server


def pair(monkeypatch: pytest.MonkeyPatch, **extra: Any) -> DltHook:
    extra = {"source_conn_id": "pg", "destination_conn_id": "duck"} | extra
    connect(monkeypatch, "both", conn_type="ext-dlt", extra=extra)
    return DltHook("both")


def test_a_postgres_connection_becomes_a_url_with_its_password_and_options(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    password = "p@ss/w%rd:ä"  # every character that a URL encodes
    fields = {"host": "db", "port": 5433, "login": "me", "password": password, "schema": "shop"}
    connect(monkeypatch, "pg", conn_type="postgres", extra={"sslmode": "require"}, **fields)
    connect(monkeypatch, "duck", conn_type="duckdb", host=str(tmp_path / "w.duckdb"))
    found = pair(monkeypatch).get_conn()
    url = sa.make_url(found.source_url)
    assert (url.get_backend_name(), url.host, url.port, url.database) == ("postgresql", "db", 5433, "shop")
    assert (url.password, url.query["sslmode"]) == (password, "require")
    assert password not in repr(found)
    assert (found.destination, found.destination_url) == ("duckdb", str(tmp_path / "w.duckdb"))


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        pytest.param(
            {"conn_type": "duckdb"}, "whose path stands in the host field", id="DuckDB without file"
        ),
        pytest.param({"conn_type": "duckdb", "host": "x", "password": "t"}, "MotherDuck", id="MotherDuck"),
        pytest.param(
            {"conn_type": "http", "host": "x"}, "'http' is no destination: .*snowflake", id="no database"
        ),
        pytest.param({"conn_type": "redshift", "host": "x"}, "does not give database, username", id="gaps"),
        pytest.param(
            {"conn_type": "generic", "extra": {"dlt_destination": "duckdb"}},
            "connection of that type",
            id="DuckDB by name",
        ),
        pytest.param({"conn_type": "aws"}, "such as s3://bucket", id="S3 without a URL"),
        pytest.param(
            {"conn_type": "sqlite", "host": "x", "extra": {"dlt_options": 1}},
            "must be an object",
            id="options",
        ),
    ],
)
def test_a_destination_that_cannot_be_written_is_refused(
    postgres: Any, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], told: str
) -> None:
    connect(monkeypatch, "duck", **fields)
    with pytest.raises(InvalidError, match=told):
        pair(monkeypatch).get_conn()


SECRET = secrets.token_hex()
ADDRESS = {"host": "h", "port": 1, "login": "me", "password": SECRET, "schema": "db"}
KEY = {"project_id": "p", "client_email": "a@b", "private_key": SECRET, "token_uri": "https://example.com"}


@pytest.mark.parametrize(
    ("fields", "kind", "credentials"),
    [
        ({"conn_type": "duckdb", "password": SECRET, "schema": "db"}, "motherduck", "MotherDuckCredentials"),
        ({"conn_type": "redshift", **ADDRESS}, "redshift", "RedshiftCredentials"),
        ({"conn_type": "mssql", **ADDRESS, "extra": {"driver": "d"}}, "mssql", "MsSqlCredentials"),
        (
            {"conn_type": "clickhouse", **ADDRESS, "extra": {"secure": "true", "http_port": 2}},
            "clickhouse",
            "ClickHouseCredentials",
        ),
        (
            {
                "conn_type": "snowflake",
                "login": "me",
                "password": "p",
                "extra": {"account": "a", "region": "eu", "database": "db", "warehouse": "w", "role": "r"}
                | {"private_key_content": f"-----BEGIN {SECRET}"},
            },
            "snowflake",
            "SnowflakeCredentials",
        ),
        (
            {"conn_type": "databricks", "host": "https://h/", "password": SECRET}
            | {"extra": {"http_path": "/sql", "catalog": "c"}},
            "databricks",
            "DatabricksCredentials",
        ),
        (
            {"conn_type": "gcpbigquery", "extra": {"keyfile_dict": json.dumps(KEY), "location": "EU"}},
            "bigquery",
            "GcpServiceAccountCredentials",
        ),
        (
            {"conn_type": "google_cloud_platform", "extra": {"keyfile_dict": KEY, "path": "gs://bucket"}},
            "filesystem",
            "GcpServiceAccountCredentials",
        ),
        (
            {"conn_type": "wasb", "login": "account", "password": SECRET, "extra": {"path": "az://box"}},
            "filesystem",
            "AzureCredentialsWithoutDefaults",
        ),
        (
            {
                "conn_type": "generic",
                "extra": {"dlt_destination": "synapse"}
                | {"dlt_options": {"credentials": {"host": "h", "password": SECRET}}},
            },
            "synapse",
            "SynapseCredentials",
        ),
    ],
)
def test_a_warehouse_is_said_in_the_fields_dlt_publishes(
    postgres: Any, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], kind: str, credentials: str
) -> None:
    connect(monkeypatch, "duck", **fields)
    found = pair(monkeypatch).get_conn()
    assert found.destination == kind
    assert SECRET in str(found.destination_options)
    assert any(SECRET in secret for secret in found.secrets)
    assert SECRET not in repr(found)
    module = importlib.import_module(f"dlt.destinations.impl.{kind}.configuration")
    places = [
        module,
        *(
            importlib.import_module(f"dlt.common.{name}")
            for name in ("configuration.specs", "storages.configuration")
        ),
    ]
    published = next(getattr(place, credentials) for place in places if hasattr(place, credentials))
    assert set(found.destination_options["credentials"]) <= set(published.get_resolvable_fields())
    spec = importlib.import_module("dlt.common.destination.reference").Destination.from_reference(kind).spec
    assert set(found.destination_options) <= set(spec.get_resolvable_fields())


def test_the_extra_of_a_destination_goes_over_what_its_fields_say(
    postgres: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    over = {"dlt_options": {"credentials": {"port": 7, "connect_timeout": 3}, "staging_iam_role": "arn"}}
    connect(monkeypatch, "duck", conn_type="redshift", **ADDRESS, extra=over)
    options = pair(monkeypatch).get_conn().destination_options
    assert options["staging_iam_role"] == "arn"
    assert options["credentials"] == {
        "host": "h",
        "database": "db",
        "username": "me",
        "password": SECRET,
        "port": 7,
        "connect_timeout": 3,
    }


def test_mysql_is_reached_by_the_driver_that_is_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "pymysql.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    connect(monkeypatch, "pg", conn_type="sqlite", host="x")
    connect(monkeypatch, "duck", conn_type="mysql", host="db", login="me", password=SECRET)
    url = sa.make_url(pair(monkeypatch).get_conn().destination_options["credentials"])
    assert (url.drivername, url.password) == ("mysql+pymysql", SECRET)


def test_no_secret_of_a_destination_is_shown_whatever_it_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    password = f"{SECRET} @/ö\"'\\"
    url = sa.URL.create("mysql+pymysql", "me", password, "db").render_as_string(hide_password=False)
    for options in (
        {"credentials": {"odd": password, "more": [{"deep": password}]}},
        {"credentials": url},
        {"engine_kwargs": {"connect_args": {"pass": password}}},
    ):
        connect(monkeypatch, "pg", conn_type="sqlite", host="x")
        extra = {"dlt_destination": "sqlalchemy", "dlt_options": options}
        connect(monkeypatch, "duck", conn_type="generic", extra=extra)
        found = pair(monkeypatch).get_conn()
        for text in (str(found.destination_options), json.dumps(options), f"cannot open {url}"):
            assert SECRET not in scrub(text, found.secrets)


def test_a_source_that_is_no_sql_database_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    connect(monkeypatch, "pg", conn_type="http", host="x")
    connect(monkeypatch, "duck", conn_type="duckdb", host=str(tmp_path / "w.duckdb"))
    with pytest.raises(InvalidError, match="'http', which SQLAlchemy has no dialect for"):
        pair(monkeypatch).get_conn()


@pytest.mark.parametrize("rows", [0, -1, "many"])
def test_chunk_rows_must_be_a_number_of_rows(monkeypatch: pytest.MonkeyPatch, rows: Any) -> None:
    hook = pair(monkeypatch, chunk_rows=rows)
    if rows == 0:  # an empty number field of the form
        assert hook.settings.chunk_rows > 0
        return
    with pytest.raises(InvalidError, match="chunk_rows="):
        _ = hook.settings


def test_testing_the_connection_opens_both_ends(
    postgres: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    connect(monkeypatch, "duck", conn_type="duckdb", host=str(tmp_path / "new" / "w.duckdb"))
    assert pair(monkeypatch).test_connection() == (True, "Source and destination answer; tables go to 'raw'")
    assert not (tmp_path / "new").exists(), "a test makes nothing"

    (tmp_path / "broken.duckdb").write_text("no database")
    connect(monkeypatch, "duck", conn_type="duckdb", host=str(tmp_path / "broken.duckdb"))
    works, told = pair(monkeypatch).test_connection()
    assert (works, told.startswith("destination: ")) == (False, True)

    options = {"credentials": sa.URL.create("postgresql", port=1, host="127.0.0.1").render_as_string()}
    extra = {"dlt_destination": "sqlalchemy", "dlt_options": options}
    connect(monkeypatch, "duck", conn_type="generic", extra=extra)
    works, told = pair(monkeypatch).test_connection()
    assert (works, told.startswith("destination: ")) == (False, True)

    fields = {"host": "127.0.0.1", "port": postgres.port, "login": "nobody", "schema": "postgres"}
    connect(monkeypatch, "pg", conn_type="postgres", password="not-the-password", **fields)
    works, told = pair(monkeypatch).test_connection()
    assert (works, told.startswith("source: ")) == (False, True)
    assert "not-the-password" not in told


def test_the_form_has_the_fields_the_hook_reads() -> None:
    (form,) = (
        item
        for item in get_provider_info()["connection-types"]
        if item["connection-type"] == DltHook.conn_type
    )
    assert form["hook-name"] == DltHook.hook_name
    assert set(form["conn-fields"]) == {
        *["source_conn_id", "destination_conn_id", "dataset", "backend", "chunk_rows"],
        *["parallel", "lock_seconds"],
    }
