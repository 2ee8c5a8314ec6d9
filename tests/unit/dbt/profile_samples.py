"""Connections as the official providers lay them out, and what dbt is to get from each.

Secrets are random and difficult: each looks like Jinja, YAML and a number to whoever does not keep it apart.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass, field
from typing import Any

from airflow.sdk import Connection


def secret(prefix: str = "0123") -> str:
    """Return a secret that nothing but a plain copy keeps."""
    return f"{prefix}'\"{{{{ env_var('HOME') }}}}{{% raw %}}%(x)s: #é\U0001f511\\n{secrets.token_hex(8)}"


P, Q = secret(), secret("-1e5")


@dataclass(frozen=True)
class Sample:
    """A connection.

    :param id: Name in the test's report.
    :param fields: Fields of the connection, ``extra`` as a dict or as JSON.
    :param adapter: Adapter of dbt.
    :param output: What dbt gets, but for type and threads.
    :param secrets: Values that may be in secret variables only.
    :param schema: What the project asks for.
    """

    id: str
    fields: dict[str, Any]
    adapter: str
    output: dict[str, Any]
    secrets: tuple[str, ...] = (P,)
    schema: str | None = None
    connection: Connection = field(init=False)

    def __post_init__(self) -> None:
        fields = {"conn_id": "wh", **self.fields}
        if isinstance(fields.get("extra"), dict):
            fields["extra"] = json.dumps(fields["extra"])
        object.__setattr__(self, "connection", Connection(**fields))


def address(conn_type: str, **fields: Any) -> dict[str, Any]:
    """Return the fields of a connection with host, login and password."""
    return {"conn_type": conn_type, "host": "db.example", "login": "1", "password": P, **fields}


DATABASES = [
    Sample(
        "postgres",
        address(
            "postgres",
            schema="0042",
            extra={
                "sslmode": "require",
                "keepalives_idle": "30",
                "connect_timeout": 5,
                "cursor": "dictcursor",
            },
        ),
        "postgres",
        {"host": "db.example", "port": 5432, "user": "1", "password": P, "dbname": "0042", "schema": "public"}
        | {"sslmode": "require", "keepalives_idle": 30, "connect_timeout": 5},
    ),
    Sample(
        "postgres-settings",
        address(
            "postgres",
            port=5433,
            schema="shop",
            extra={
                "dbt": {
                    "threads": 8,
                    "role": "1e3",
                    "retries": 3,
                    "search_path": "{{ 1 }}",
                    "autocommit": True,
                }
            },
        ),
        "postgres",
        {"host": "db.example", "port": 5433, "user": "1", "password": P, "dbname": "shop", "schema": "marts"}
        | {"threads": 8, "role": "1e3", "retries": 3, "search_path": "{{ 1 }}", "autocommit": True},
        schema="marts",
    ),
    Sample(
        "duckdb-file",
        {
            "conn_type": "duckdb",
            "host": "/data/w.duckdb",
            "extra": {"dbt": {"settings": {"memory_limit": "1GB"}}},
        },
        "duckdb",
        {"path": "/data/w.duckdb", "schema": "main", "settings": {"memory_limit": "1GB"}},
        secrets=(),
    ),
    Sample(
        "motherduck-host",
        {
            "conn_type": "duckdb",
            "host": "md:shop",
            "password": P,
            "extra": {
                "dbt": {
                    "settings": {"memory_limit": "1GB"},
                    "extensions": ["httpfs", {"name": "x", "repo": "y"}],
                }
            },
        },
        "duckdb",
        {"path": "md:shop", "schema": "main", "settings": {"motherduck_token": P, "memory_limit": "1GB"}}
        | {"extensions": ["httpfs", {"name": "x", "repo": "y"}]},
    ),
    Sample(
        "motherduck-schema",
        {"conn_type": "duckdb", "schema": "shop", "password": P},
        "duckdb",
        {"path": "md:shop", "schema": "main", "settings": {"motherduck_token": P}},
    ),
    Sample(
        "mysql",
        address("mysql", schema="shop", extra={"charset": "utf8mb4", "cursor": "sscursor"}),
        "mysql",
        {
            "server": "db.example",
            "port": 3306,
            "username": "1",
            "password": P,
            "schema": "shop",
            "charset": "utf8mb4",
        },
    ),
    Sample(
        "mysql-socket",
        address("mysql", host="", extra={"unix_socket": "/run/mysqld/mysqld.sock"}),
        "mysql",
        {"unix_socket": "/run/mysqld/mysqld.sock", "username": "1", "password": P, "schema": "marts"},
        schema="marts",
    ),
    Sample(
        "sqlserver",
        address(
            "mssql", schema="shop", extra={"encrypt": "yes", "trust_cert": "True", "login_timeout": "15"}
        ),
        "sqlserver",
        {"driver": "ODBC Driver 18 for SQL Server", "server": "db.example", "port": 1433, "database": "shop"}
        | {"schema": "dbo", "authentication": "sql", "user": "1", "password": P}
        | {"encrypt": True, "trust_cert": True, "login_timeout": 15},
    ),
    Sample(
        "sqlserver-principal",
        address(
            "mssql",
            port=14330,
            login="0001-client",
            schema="shop",
            extra={
                "authentication": "ServicePrincipal",
                "tenant_id": "0002",
                "driver": "FreeTDS",
                "encryption": "off",
            },
        ),
        "sqlserver",
        {"driver": "FreeTDS", "server": "db.example", "port": 14330, "database": "shop", "schema": "dbo"}
        | {
            "authentication": "ServicePrincipal",
            "tenant_id": "0002",
            "client_id": "0001-client",
            "client_secret": P,
        }
        | {"encrypt": False},
    ),
    Sample(
        "sqlserver-windows",
        {"conn_type": "mssql", "host": "db.example", "schema": "shop", "extra": {"windows_login": True}},
        "sqlserver",
        {"driver": "ODBC Driver 18 for SQL Server", "server": "db.example", "port": 1433, "database": "shop"}
        | {"schema": "dbo", "windows_login": True},
        secrets=(),
    ),
    Sample(
        "sqlserver-cli",
        {"conn_type": "mssql", "host": "db.example", "schema": "shop", "extra": {"authentication": "CLI"}},
        "sqlserver",
        {"driver": "ODBC Driver 18 for SQL Server", "server": "db.example", "port": 1433, "database": "shop"}
        | {"schema": "dbo", "authentication": "CLI"},
        secrets=(),
    ),
    Sample(
        "clickhouse",
        address(
            "clickhouse",
            port=8443,
            schema="shop",
            extra={
                "secure": "true",
                "verify": False,
                "compress": True,
                "connect_timeout": "10",
                "session_settings": json.dumps({"max_threads": 4, "s3_secret_key": Q}),
                "dbt": {"cluster": "main", "tcp_keepalive": [30, 60, 3]},
            },
        ),
        "clickhouse",
        {"host": "db.example", "port": 8443, "user": "1", "password": P, "schema": "shop", "secure": True}
        | {"verify": False, "compression": "lz4", "connect_timeout": 10, "cluster": "main"}
        | {"custom_settings": {"max_threads": 4, "s3_secret_key": Q}, "tcp_keepalive": [30, 60, 3]},
        secrets=(P, Q),
    ),
    Sample(
        "clickhouse-defaults",
        {"conn_type": "clickhouse", "host": "db.example"},
        "clickhouse",
        {"host": "db.example", "user": "default", "schema": "default"},
        secrets=(),
    ),
    Sample(
        "trino-password",
        address(
            "trino",
            schema="raw",
            extra={
                "catalog": "hive",
                "verify": "/etc/ca.pem",
                "session_properties": {"query_max_run_time": "4h", "hive.sorted_writing_enabled": True},
                "client_tags": '["sales", "etl"]',
                "roles": "admin",
            },
        ),
        "trino",
        {"method": "ldap", "host": "db.example", "port": 443, "user": "1", "password": P, "catalog": "hive"}
        | {
            "schema": "raw",
            "cert": "/etc/ca.pem",
            "client_tags": ["sales", "etl"],
            "roles": {"system": "admin"},
        }
        | {"session_properties": {"query_max_run_time": "4h", "hive.sorted_writing_enabled": True}},
    ),
    Sample(
        "trino-none",
        address("trino", password=None, extra={"catalog": "tpch", "protocol": "https", "verify": "false"}),
        "trino",
        {"method": "none", "host": "db.example", "port": 443, "user": "1", "http_scheme": "https"}
        | {"catalog": "tpch", "schema": "default", "cert": False},
        secrets=(),
    ),
    Sample(
        "trino-jwt",
        {
            "conn_type": "trino",
            "host": "db.example",
            "port": 8443,
            "extra": {"auth": "jwt", "jwt__token": P, "catalog": "hive"},
        },
        "trino",
        {
            "method": "jwt",
            "host": "db.example",
            "port": 8443,
            "jwt_token": P,
            "catalog": "hive",
            "schema": "default",
        },
    ),
    Sample(
        "trino-certs",
        address(
            "trino",
            password=None,
            extra={
                "auth": "certs",
                "certs__client_cert_path": "/etc/c.crt",
                "certs__client_key_path": "/etc/c.key",
                "catalog": "hive",
                "timezone": "Europe/Berlin",
            },
        ),
        "trino",
        {"method": "certificate", "host": "db.example", "port": 443, "user": "1", "catalog": "hive"}
        | {"client_certificate": "/etc/c.crt", "client_private_key": "/etc/c.key", "schema": "default"}
        | {"timezone": "Europe/Berlin"},
        secrets=(),
    ),
    Sample(
        "trino-kerberos",
        address(
            "trino",
            password=None,
            extra={
                "auth": "kerberos",
                "kerberos__keytab": "/etc/dbt.keytab",
                "kerberos__config": "/etc/krb5.conf",
                "kerberos__service_name": "trino",
                "kerberos__mutual_authentication": "false",
                "kerberos__ca_bundle": "/etc/ca.pem",
                "catalog": "hive",
            },
        ),
        "trino",
        {
            "method": "kerberos",
            "host": "db.example",
            "port": 443,
            "user": "1",
            "catalog": "hive",
            "schema": "default",
        }
        | {"keytab": "/etc/dbt.keytab", "krb5_config": "/etc/krb5.conf", "service_name": "trino"}
        | {"mutual_authentication": False, "cert": "/etc/ca.pem"},
        secrets=(),
    ),
    Sample(
        "spark-thrift",
        address(
            "spark",
            extra={"use_ssl": True, "server_side_parameters": {"spark.executor.cores": 2, "spark.x": True}},
        ),
        "spark",
        {"method": "thrift", "host": "db.example", "port": 10000, "user": "1", "password": P, "auth": "LDAP"}
        | {"schema": "default", "use_ssl": True}
        | {"server_side_parameters": {"spark.executor.cores": "2", "spark.x": "true"}},
    ),
    Sample(
        "spark-http",
        {
            "conn_type": "spark",
            "host": "https://dbc-1.cloud.databricks.com",
            "password": P,
            "extra": {
                "method": "http",
                "cluster": "0123-4567-abc",
                "organization": "0042",
                "connect_retries": "3",
            },
        },
        "spark",
        {"method": "http", "host": "https://dbc-1.cloud.databricks.com", "port": 443, "schema": "default"}
        | {"token": P, "cluster": "0123-4567-abc", "organization": "0042", "connect_retries": 3},
    ),
    Sample(
        "spark-odbc",
        {
            "conn_type": "spark",
            "host": "db.example",
            "extra": {"method": "odbc", "token": P, "endpoint": "0042", "driver": "/opt/libsparkodbc.so"},
        },
        "spark",
        {"method": "odbc", "host": "db.example", "port": 443, "schema": "default", "token": P}
        | {"endpoint": "0042", "driver": "/opt/libsparkodbc.so"},
    ),
    Sample(
        "spark-session",
        {
            "conn_type": "spark",
            "host": "local[*]",
            "extra": {"method": "session", "server_side_parameters": {"fs.s3a.secret.key": P}},
        },
        "spark",
        {
            "method": "session",
            "host": "NA",
            "schema": "default",
            "server_side_parameters": {"fs.s3a.secret.key": P},
        },
    ),
]
