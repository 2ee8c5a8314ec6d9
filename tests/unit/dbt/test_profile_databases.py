"""What the profiles of databases refuse; what they make of good connections is in ``test_profiles.py``."""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import Connection

from airflow_ext.dbt.profiles import Profile, profile_from_connection
from airflow_ext.exceptions import InvalidProjectError


def profile(conn_type: str, extra: dict[str, Any] | None = None, **fields: Any) -> Profile:
    """Return the profile of a connection."""
    connection = Connection(conn_id="wh", conn_type=conn_type, extra=json.dumps(extra or {}), **fields)
    return profile_from_connection(connection, name="shop")


LOGIN = {"host": "h", "login": "me", "password": secrets.token_urlsafe()}


REFUSED: dict[str, tuple[str, dict[str, Any], dict[str, Any], str]] = {
    "postgres-empty": ("postgres", {}, {}, r"it lacks Host, Login, Password, Database \(schema\)$"),
    "postgres-iam": ("postgres", {"iam": True}, LOGIN, r'extra "iam" is set: dbt makes no IAM tokens'),
    "duckdb-empty": ("duckdb", {}, {}, r"it lacks Host \(path of the file\)"),
    "duckdb-memory": (
        "duckdb",
        {},
        {"host": ":memory:"},
        "Host is :memory:.*process of its own.*path of a file",
    ),
    "duckdb-named-memory": ("duckdb", {}, {"host": ":memory:shop"}, "Host is :memory:"),
    "motherduck-host": ("duckdb", {}, {"host": "md:shop"}, r"it lacks Password \(MotherDuck Service token\)"),
    "motherduck-schema": ("duckdb", {}, {"schema": "shop"}, "it lacks Password"),
    "duckdb-both": (
        "duckdb",
        {},
        {"host": "/w.duckdb", "password": LOGIN["password"]},
        "take one of them away",
    ),
    "motherduck-token-in-host": (
        "duckdb",
        {},
        {"host": "md:s?motherduck_token=x", "password": LOGIN["password"]},
        "move it to Password",
    ),
    "mysql-empty": ("mysql", {}, {}, "it lacks Host, Login, Password, Schema$"),
    "mysql-tls": (
        "mysql",
        {"ssl": {"ca": "/ca"}},
        LOGIN,
        r'extra "ssl" is set: dbt-mysql has no settings for TLS',
    ),
    "mysql-tls-file": ("mysql", {"ssl_ca": "/ca"}, LOGIN, r'extra "ssl_ca" is set'),
    "sqlserver-empty": ("mssql", {}, {}, r"it lacks Host, Database \(schema\), Login, Password$"),
    "sqlserver-principal": (
        "mssql",
        {"authentication": "ServicePrincipal"},
        {"host": "h", "schema": "d"},
        r'lacks extra "tenant_id", Login \(client id\), Password \(client secret\)',
    ),
    "sqlserver-unknown": (
        "mssql",
        {"authentication": "Magic"},
        LOGIN,
        r"'Magic'; known are sql, .*ServicePrincipal",
    ),
    "clickhouse-empty": ("clickhouse", {}, {}, "it lacks Host$"),
    "trino-empty": (
        "trino",
        {},
        LOGIN | {"password": None, "login": None},
        r'it lacks Login, extra "catalog"$',
    ),
    "trino-two-ways": ("trino", {"auth": "jwt"}, LOGIN, r'has a Password and extra "auth" is \'jwt\''),
    "trino-jwt": (
        "trino",
        {"auth": "jwt", "catalog": "c"},
        {"host": "h"},
        r'lacks extra "jwt__token" or "jwt__file"',
    ),
    "trino-jwt-file": (
        "trino",
        {"auth": "jwt", "jwt__file": "/no/such"},
        {"host": "h"},
        "/no/such, which cannot be read: No such",
    ),
    "trino-certs": (
        "trino",
        {"auth": "certs", "catalog": "c"},
        {"host": "h"},
        "certs__client_cert_path.*certs__client_key",
    ),
    "trino-kerberos": (
        "trino",
        {"auth": "kerberos", "catalog": "c"},
        {"host": "h"},
        r'Login, extra "kerberos__keytab" \(path\)',
    ),
    "trino-unknown": (
        "trino",
        {"auth": "magic"},
        {"host": "h"},
        "'magic'; known are jwt, certs and kerberos",
    ),
    "trino-protocol": ("trino", {"protocol": "ftp"}, {"host": "h"}, "'ftp'; known are http and https"),
    "trino-verify": (
        "trino",
        {"verify": "perhaps", "catalog": "c"},
        LOGIN,
        r'extra "verify" is to be true or false',
    ),
    "trino-impersonation": ("trino", {"impersonate_as_owner": True}, LOGIN, "impersonation_user"),
    "spark-empty": ("spark", {}, {}, "it lacks Host, Login$"),
    "spark-master": ("spark", {}, {"host": "spark://master"}, "'spark://master', a master"),
    "spark-yarn": ("spark", {}, {"host": "yarn"}, "'yarn', a master"),
    "spark-local": ("spark", {}, {"host": "local[*]"}, "a master"),
    "spark-http": ("spark", {"method": "http"}, {"host": "h"}, r'lacks Password \(token\), extra "cluster"$'),
    "spark-odbc": (
        "spark",
        {"method": "odbc"},
        LOGIN,
        r'lacks extra "cluster" or "endpoint", extra "driver" \(ODBC driver\)',
    ),
    "spark-unknown": ("spark", {"method": "livy"}, LOGIN, "'livy'; known are thrift, http, odbc, session"),
}


@pytest.mark.parametrize(("conn_type", "extra", "fields", "message"), REFUSED.values(), ids=REFUSED)
def test_an_unfit_connection_is_refused_with_what_to_put_where(
    conn_type: str, extra: dict[str, Any], fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidProjectError, match=f"(?s)connection 'wh'.*{message}") as caught:
        profile(conn_type, extra, **fields)
    assert str(LOGIN["password"]) not in str(caught.value)


def test_a_local_host_is_no_spark_master() -> None:
    env = profile("spark", login="me", host="localhost").env
    assert env["AIRFLOW_EXT_DBT_HOST"] == "localhost"


def test_a_duckdb_path_may_begin_at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert profile("duckdb", host="~/w.duckdb").env["AIRFLOW_EXT_DBT_PATH"] == "/home/me/w.duckdb"


@pytest.mark.parametrize("path", ["data/w.duckdb", "s3://b/w.duckdb", "ducklake:sqlite:m.db"])
def test_other_duckdb_paths_are_left_alone(path: str) -> None:
    assert profile("duckdb", host=path).env["AIRFLOW_EXT_DBT_PATH"] == path


def test_a_trino_token_is_read_from_its_file_when_the_profile_is_made(tmp_path: Path) -> None:
    token, file = secrets.token_urlsafe(), tmp_path / "token"
    file.write_text(f"{token}\n")
    made = profile("trino", {"auth": "jwt", "jwt__file": str(file), "catalog": "c"}, host="h")
    assert made.env["DBT_ENV_SECRET_AIRFLOW_EXT_DBT_JWT_TOKEN"] == token


def test_trino_roles_may_be_a_mapping_written_as_text() -> None:
    made = profile("trino", {"catalog": "c", "roles": '{"hive": "admin"}'}, **LOGIN)
    assert made.env["AIRFLOW_EXT_DBT_ROLES_HIVE"] == "admin"
