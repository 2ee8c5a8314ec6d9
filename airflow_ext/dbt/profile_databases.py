"""Profiles for databases that are reached by an address and a login.

Each function takes the connection and the schema that the caller asks for, and returns the settings of the
adapter by the names it publishes; ``None`` stands for "not given".
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from airflow_ext.dbt.profile_fields import DATABASE, ConnectionReader, Secret, guarded

NO_IAM = "dbt makes no IAM tokens; give a login and a password, which may be leased"

_SPARK_MASTER = re.compile(r"(?:spark|k8s|mesos)://|yarn(?:-\w+)?$|local(?:\[.*\])?$")
_SQLSERVER_PRINCIPAL = frozenset({"serviceprincipal", "activedirectoryserviceprincipal"})
_SQLSERVER_PASSWORD = frozenset({"sql", "activedirectorypassword"})
_SQLSERVER_AMBIENT = frozenset(
    {"activedirectorydefault", "activedirectoryintegrated", "activedirectorymsi"}
    | {"auto", "cli", "environment", "msi"}
)


def postgres(reader: ConnectionReader, schema: str | None) -> dict[str, Any]:
    """Return settings of dbt-postgres; the schema is ``public`` unless given."""
    reader.refuse({"iam": NO_IAM})
    connection = reader.connection
    return {
        "host": reader.need(connection.host, "Host"),
        "port": reader.port(5432),
        "user": reader.need(reader.login, "Login"),
        "password": reader.need(reader.password, "Password"),
        "dbname": reader.need(connection.schema, DATABASE),
        "schema": schema or "public",
        **reader.texts("sslmode", "sslcert", "sslkey", "sslrootcert", "application_name"),
        **reader.integers("connect_timeout", "keepalives_idle"),
    }


def duckdb(reader: ConnectionReader, schema: str | None) -> dict[str, Any]:
    """Return settings of dbt-duckdb, for a file or for MotherDuck; the schema is ``main`` unless given."""
    connection = reader.connection
    path = connection.host or ""
    if path.startswith(":memory:"):
        raise reader.error(
            "Host is :memory:, and each run of dbt is a process of its own that would take the database with it; "
            "give the path of a file, or md:NAME for MotherDuck"
        )
    if not path and (connection.schema or reader.password):
        path = f"md:{connection.schema or ''}"
    if not path.startswith(("md:", "motherduck:")):
        if reader.password is not None:
            raise reader.error(
                "it has a file's path as Host and a MotherDuck token as Password; take one of them away"
            )
        reader.need(path, "Host (path of the file)")
        # Not always a path: "ducklake:..." and "s3://..." are handed on as they are.
        path = str(Path(path).expanduser()) if path.startswith("~") else path
        return {"path": path, "schema": schema or "main"}
    if "token=" in path:
        raise reader.error("Host holds a token, where it would be no secret; move it to Password")
    token = reader.need(reader.password, "Password (MotherDuck Service token)")
    # The older way to give it, which all versions of the adapter know.
    return {"path": path, "schema": schema or "main", "settings": {"motherduck_token": token}}


def mysql(reader: ConnectionReader, schema: str | None) -> dict[str, Any]:
    """Return settings of dbt-mysql; schema and database are one, ``schema`` or the connection's."""
    no_tls = "dbt-mysql has no settings for TLS beyond what the server offers by itself"
    reader.refuse({"iam": NO_IAM, "ssl": no_tls, **dict.fromkeys(_keys(reader, "ssl_"), no_tls)})
    connection, socket = reader.connection, reader.text("unix_socket")
    return {
        "server": None if socket else reader.need(connection.host, "Host"),
        "unix_socket": socket,
        "port": None if socket else reader.port(3306),
        "username": reader.need(reader.login, "Login"),
        "password": reader.need(reader.password, "Password"),
        "schema": reader.need(schema or connection.schema, "Schema"),
        **reader.texts("charset", "collation"),
    }


def sqlserver(reader: ConnectionReader, schema: str | None) -> dict[str, Any]:
    """Return settings of dbt-sqlserver; the schema is ``dbo`` unless given."""
    connection, encryption = reader.connection, reader.text("encryption")
    encrypt = reader.flag("encrypt")
    if encrypt is None and encryption is not None:
        encrypt = encryption != "off"
    return {
        "driver": reader.text("driver") or "ODBC Driver 18 for SQL Server",
        "server": reader.need(connection.host, "Host"),
        "port": reader.port(1433),
        "database": reader.need(connection.schema, DATABASE),
        "schema": schema or "dbo",
        **_sqlserver_login(reader),
        "encrypt": encrypt,
        "trust_cert": reader.flag("trust_cert"),
        "login_timeout": reader.integer("login_timeout"),
        "query_timeout": reader.integer("timeout"),
    }


def _sqlserver_login(reader: ConnectionReader) -> dict[str, Any]:
    if reader.flag("windows_login"):
        return {"windows_login": True}
    authentication = reader.text("authentication") or "sql"
    kind = re.sub(r"[_ ]", "", authentication).lower()
    if kind in _SQLSERVER_PRINCIPAL:
        return {
            "authentication": authentication,
            "tenant_id": reader.need(reader.text("tenant_id"), 'extra "tenant_id"'),
            "client_id": reader.need(reader.login, "Login (client id)"),
            "client_secret": reader.need(reader.password, "Password (client secret)"),
        }
    if kind in _SQLSERVER_AMBIENT:
        return {"authentication": authentication}
    if kind not in _SQLSERVER_PASSWORD:
        raise reader.error(
            f'extra "authentication" is {authentication!r}; known are sql, ActiveDirectoryPassword, '
            "ServicePrincipal, ActiveDirectoryIntegrated, CLI, auto, environment and msi"
        )
    return {
        "authentication": authentication,
        "user": reader.need(reader.login, "Login"),
        "password": reader.need(reader.password, "Password"),
    }


def clickhouse(reader: ConnectionReader, schema: str | None) -> dict[str, Any]:
    """Return settings of dbt-clickhouse; the schema is the connection's database, else ``default``."""
    connection, compress = reader.connection, reader.flag("compress")
    settings = reader.mapping("session_settings")
    return {
        "host": reader.need(connection.host, "Host"),
        # Without a port the adapter takes HTTP's, which depends on "secure".
        "port": reader.port(0) or None,
        "user": reader.login or "default",
        "password": reader.password,
        "schema": schema or connection.schema or "default",
        "secure": reader.flag("secure"),
        "verify": reader.flag("verify"),
        **reader.integers("connect_timeout", "send_receive_timeout"),
        "compression": None if compress is None else "lz4" if compress else "",
        "custom_settings": None if settings is None else guarded(settings),
    }


def trino(reader: ConnectionReader, schema: str | None) -> dict[str, Any]:
    """Return settings of dbt-trino; the schema is the connection's, else ``default``."""
    reader.refuse(
        {
            "extra_credential": "dbt-trino hands on no extra credentials",
            "impersonate_as_owner": 'give the user as {"dbt": {"impersonation_user": ...}} in the extra',
        }
    )
    connection, properties = reader.connection, reader.mapping("session_properties")
    login = _trino_login(reader)
    secure = login["method"] != "none" or login["http_scheme"] == "https"
    return {
        **login,
        "host": reader.need(connection.host, "Host"),
        "port": reader.port(443 if secure else 8080),
        "catalog": reader.need(reader.text("catalog"), 'extra "catalog"'),
        "schema": schema or connection.schema or "default",
        "cert": login.get("cert") or _trino_verify(reader),
        "session_properties": None if properties is None else guarded(properties),
        "client_tags": reader.listing("client_tags"),
        "timezone": reader.text("timezone"),
        "roles": _trino_roles(reader),
    }


def _trino_login(reader: ConnectionReader) -> dict[str, Any]:
    auth = reader.text("auth")
    if reader.password is not None and auth is not None:
        raise reader.error(f'it has a Password and extra "auth" is {auth!r}; take one of them away')
    if reader.password is not None:
        return {
            "method": "ldap",
            "user": reader.need(reader.login, "Login"),
            "password": reader.password,
        }
    if auth == "jwt":
        token = reader.secret("jwt__token") or _file(reader, "jwt__file")
        label = 'extra "jwt__token" or "jwt__file"'
        return {"method": "jwt", "user": reader.login, "jwt_token": reader.need(token, label)}
    if auth == "certs":
        keys = {
            "client_certificate": "certs__client_cert_path",
            "client_private_key": "certs__client_key_path",
        }
        paths = {field: reader.need(reader.text(key), f'extra "{key}"') for field, key in keys.items()}
        return {"method": "certificate", "user": reader.login, **paths}
    if auth == "kerberos":
        return _trino_kerberos(reader)
    if auth is not None:
        raise reader.error(f'extra "auth" is {auth!r}; known are jwt, certs and kerberos')
    scheme = reader.text("protocol") or "http"
    if scheme not in ("http", "https"):
        raise reader.error(f'extra "protocol" is {scheme!r}; known are http and https')
    return {"method": "none", "user": reader.need(reader.login, "Login"), "http_scheme": scheme}


def _trino_kerberos(reader: ConnectionReader) -> dict[str, Any]:
    flags = ("mutual_authentication", "force_preemptive", "sanitize_mutual_error_response", "delegate")
    texts = ("service_name", "principal", "hostname_override")
    return {
        "method": "kerberos",
        "user": reader.need(reader.login, "Login"),
        "krb5_config": reader.text("kerberos__config"),
        # Airflow takes its own ticket; dbt-trino fails without the path of a keytab.
        "keytab": reader.need(reader.text("kerberos__keytab"), 'extra "kerberos__keytab" (path)'),
        **{name: reader.text(f"kerberos__{name}") for name in texts},
        **{name: reader.flag(f"kerberos__{name}") for name in flags},
        "cert": reader.text("kerberos__ca_bundle"),
    }


def _trino_roles(reader: ConnectionReader) -> dict[str, Any] | None:
    roles = reader.extra.get("roles")
    if isinstance(roles, str) and not roles.startswith("{"):
        return {"system": roles}
    return reader.mapping("roles")


def _trino_verify(reader: ConnectionReader) -> str | bool | None:
    value = reader.extra.get("verify")
    if isinstance(value, str) and ("/" in value or value.endswith((".pem", ".crt"))):
        return value
    return False if reader.flag("verify") is False else None


def _file(reader: ConnectionReader, key: str) -> Secret | None:
    path = reader.text(key)
    if path is None:
        return None
    try:
        return Secret(Path(path).read_text(encoding="utf-8").strip())
    except OSError as exc:
        raise reader.error(f'extra "{key}" names {path}, which cannot be read: {exc.strerror}') from exc


def spark(reader: ConnectionReader, schema: str | None) -> dict[str, Any]:
    """Return settings of dbt-spark; the schema is the connection's, else ``default``."""
    connection, method = reader.connection, reader.text("method") or "thrift"
    if method not in SPARK_EXTRAS:
        raise reader.error(f'extra "method" is {method!r}; known are {", ".join(SPARK_EXTRAS)}')
    host = connection.host
    if method != "session" and host and _SPARK_MASTER.match(host):
        raise reader.error(
            f"Host is {host!r}, a master; dbt talks to a Thrift server or an endpoint, or starts a session on a "
            'master of its own (extra "method": "session")'
        )
    parameters = reader.mapping("server_side_parameters")
    return {
        "method": method,
        # A session has no host, but the adapter insists on one.
        "host": "NA" if method == "session" else reader.need(host, "Host"),
        "port": None if method == "session" else reader.port(10000 if method == "thrift" else 443),
        "schema": schema or connection.schema or "default",
        **_spark_login(reader, method),
        **reader.integers("connect_retries", "connect_timeout"),
        "server_side_parameters": None if parameters is None else guarded(_as_texts(parameters)),
    }


SPARK_EXTRAS = {"thrift": "PyHive", "http": "PyHive", "odbc": "ODBC", "session": "session"}
"""Method of dbt-spark -> the extra of the package that it needs."""


def _spark_login(reader: ConnectionReader, method: str) -> dict[str, Any]:
    if method == "session":
        return {}
    if method == "thrift":
        password = reader.password
        return {
            "user": reader.need(reader.login, "Login"),
            "password": password,
            # A password means nothing to the other ways of logging in, which refuse it.
            "auth": reader.text("auth") or ("LDAP" if password else None),
            "kerberos_service_name": reader.text("kerberos_service_name"),
            "use_ssl": reader.flag("use_ssl"),
        }
    login = {
        "token": reader.need(reader.password or reader.secret("token"), "Password (token)"),
        **reader.texts("organization", "cluster"),
    }
    if method == "http":
        reader.need(login.get("cluster"), 'extra "cluster"')
        return login
    login |= reader.texts("endpoint")
    reader.need(login.get("cluster") or login.get("endpoint"), 'extra "cluster" or "endpoint"')
    return {**login, "driver": reader.need(reader.text("driver"), 'extra "driver" (ODBC driver)')}


def _as_texts(settings: dict[str, Any]) -> dict[str, str]:
    return {
        name: str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in settings.items()
    }


def _keys(reader: ConnectionReader, prefix: str) -> list[str]:
    return [key for key in reader.extra if key.startswith(prefix)]
