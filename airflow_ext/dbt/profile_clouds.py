"""Profiles for warehouses of cloud vendors, whose connections keep most of what they say in the extra.

Each function takes the connection and the schema that the caller asks for, and returns the settings of the
adapter by the names it publishes; ``None`` stands for "not given".
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from airflow_ext.dbt.profile_fields import DATABASE, ConnectionReader, Secret, guarded

_KEYFILE_PUBLIC = frozenset(
    {"auth_provider_x509_cert_url", "auth_uri", "client_email", "client_id", "client_x509_cert_url"}
    | {"project_id", "token_uri", "type", "universe_domain"}
)
"""Members of a service account's key that are no secret. dbt strikes secrets out of its log, so that a secret
project id would be missing from each statement there."""


def redshift(reader: ConnectionReader, schema: str | None) -> dict[str, Any]:
    """Return settings of dbt-redshift; the schema is ``public`` unless given."""
    connection, ssl = reader.connection, reader.flag("ssl")
    return {
        "host": reader.need(connection.host, "Host"),
        "port": reader.port(5439),
        "dbname": reader.need(connection.schema, DATABASE),
        "schema": schema or "public",
        **(_redshift_iam(reader) if reader.flag("iam") else _user_and_password(reader)),
        "sslmode": "disable" if ssl is False else reader.text("sslmode"),
        "region": reader.text("region"),
        "autocreate": reader.flag("auto_create"),
        "db_groups": reader.listing("db_groups"),
        "connect_timeout": reader.integer("timeout"),
    }


def _user_and_password(reader: ConnectionReader) -> dict[str, Any]:
    return {
        "user": reader.need(reader.login, "Login"),
        "password": reader.need(reader.password, "Password"),
    }


def _redshift_iam(reader: ConnectionReader) -> dict[str, Any]:
    reader.refuse(
        {"session_token": "dbt-redshift takes none; give the credentials as a profile, or by the environment"}
    )
    user = reader.text("db_user") or reader.login
    key, secret = reader.text("access_key_id"), reader.secret("secret_access_key")
    if key or secret:
        reader.need(key, 'extra "access_key_id"')
        reader.need(secret, 'extra "secret_access_key"')
        reader.need(user, "Login (database user)")
    host, serverless = reader.connection.host or "", reader.flag("is_serverless")
    if serverless:
        group = reader.need(reader.text("serverless_work_group"), 'extra "serverless_work_group"')
        where: dict[str, Any] = {"is_serverless": True, "serverless_work_group": group}
        where["serverless_acct_id"] = reader.text("serverless_acct_id")
    else:
        where = {"cluster_id": reader.text("cluster_identifier") or host.partition(".")[0] or None}
    return {
        # Without a user it is the role whose name and groups Redshift takes over.
        "method": "iam" if user else "iam_role",
        "user": user,
        "iam_profile": reader.text("profile"),
        "access_key_id": key,
        "secret_access_key": secret,
        **where,
    }


def snowflake(reader: ConnectionReader, schema: str | None) -> dict[str, Any]:
    """Return settings of dbt-snowflake; the schema is the connection's, else ``PUBLIC``."""
    no_proxy_user = "dbt-snowflake has no user and password for a proxy"
    reader.refuse({"proxy_user": no_proxy_user, "proxy_password": no_proxy_user})
    account, region = reader.need(reader.text("account"), 'Account (extra "account")'), reader.text("region")
    if account and region and not account.endswith(f".{region}"):
        account = f"{account}.{region}"
    parameters = reader.mapping("session_parameters") or {}
    tags = {name.lower(): value for name, value in parameters.items()}
    return {
        "account": account,
        "database": reader.need(reader.text("database"), 'Database (extra "database")'),
        "schema": schema or reader.connection.schema or "PUBLIC",
        **reader.texts("warehouse", "role"),
        **_snowflake_login(reader),
        **reader.texts("host", "proxy_host"),
        **reader.integers("port", "proxy_port"),
        "insecure_mode": reader.flag("insecure_mode"),
        "client_session_keep_alive": reader.flag("client_session_keep_alive"),
        "query_tag": tags.get("query_tag"),
    }


def _snowflake_login(reader: ConnectionReader) -> dict[str, Any]:
    authenticator = reader.text("authenticator") or "snowflake"
    kind, key = authenticator.lower(), _snowflake_key(reader)
    if key:
        return {"user": reader.need(reader.login, "Login"), **key, "private_key_passphrase": reader.password}
    if kind == "oauth" or reader.extra.get("refresh_token"):
        return _snowflake_oauth(reader)
    if kind == "workload_identity":
        return _snowflake_workload(reader, authenticator)
    user = reader.need(reader.login, "Login")
    if kind == "programmatic_access_token":
        token = reader.secret("token") or reader.password
        return {"user": user, "authenticator": kind, "token": reader.need(token, "Password (token)")}
    if kind == "externalbrowser":
        return {"user": user, "authenticator": kind}
    return {
        "user": user,
        "password": reader.need(reader.password, "Password"),
        # Its default asks Snowflake to keep credentials on disk if it is spelled out.
        "authenticator": None if kind == "snowflake" else authenticator,
    }


def _snowflake_key(reader: ConnectionReader) -> dict[str, Any]:
    content, path = reader.text("private_key_content"), reader.text("private_key_file")
    if content and path:
        raise reader.error('it has both extra "private_key_content" and "private_key_file"; take one away')
    if content and not content.lstrip().startswith("-"):
        # Airflow takes a PEM in base64; dbt would take that for a DER in base64.
        with suppress(ValueError):
            decoded = base64.b64decode(content).decode("ascii")
            content = decoded if decoded.startswith("-") else content
    if content:
        return {"private_key": Secret(content.strip())}
    return {"private_key_path": path} if path else {}


def _snowflake_oauth(reader: ConnectionReader) -> dict[str, Any]:
    elsewhere = (
        "dbt-snowflake only renews by a refresh token, at Snowflake itself; give an access token as extra"
    )
    reader.refuse({"azure_conn_id": f'{elsewhere} "token"', "token_endpoint": f'{elsewhere} "token"'})
    refresh, token = reader.secret("refresh_token"), reader.secret("token")
    if refresh is None:
        label = 'extra "refresh_token" (or "token")'
        return {"authenticator": "oauth", "token": reader.need(token, label)}
    return {
        "authenticator": "oauth",
        "oauth_client_id": reader.need(reader.login, "Login (OAuth client id)"),
        "oauth_client_secret": reader.need(reader.password, "Password (OAuth client secret)"),
        "token": refresh,
    }


def _snowflake_workload(reader: ConnectionReader, authenticator: str) -> dict[str, Any]:
    reader.refuse({"token_file_path": 'dbt-snowflake reads no file; give the token as extra "token"'})
    label = 'Workload Identity Provider (extra "workload_identity_provider")'
    provider = reader.need(reader.text("workload_identity_provider"), label)
    token = reader.secret("token")
    if provider and provider.upper() == "OIDC":
        reader.need(token, 'extra "token"')
    return {"authenticator": authenticator, "workload_identity_provider": provider, "token": token}


def bigquery(reader: ConnectionReader, schema: str | None) -> dict[str, Any]:
    """Return settings of dbt-bigquery; the dataset is ``schema`` or extra ``dataset``."""
    not_read = 'dbt-bigquery has nothing for it; give "keyfile_dict" or "key_path", or let the worker have credentials'
    reader.refuse(
        dict.fromkeys(
            ("credential_config_file", "key_secret_name", "idp_issuer_url", "is_anonymous"), not_read
        )
    )
    keyfile, path = reader.mapping("keyfile_dict"), reader.text("key_path")
    if keyfile and path:
        raise reader.error('it has both extra "keyfile_dict" and "key_path"; take one away')
    if path and path.endswith(".p12"):
        raise reader.error('extra "key_path" names a .p12 file; dbt-bigquery reads JSON keys only')
    login: dict[str, Any] = {"method": "oauth"}
    if path:
        login = {"method": "service-account", "keyfile": path}
    elif keyfile:
        login = {"method": "service-account-json", "keyfile_json": _keyfile(reader, keyfile)}
    project = reader.text("project") or (keyfile or {}).get("project_id")
    return {
        **login,
        "project": reader.need(project, 'Project Id (extra "project")'),
        "dataset": reader.need(schema or reader.text("dataset"), 'schema= or extra "dataset"'),
        "location": reader.text("location"),
        "quota_project": reader.text("quota_project_id"),
        "impersonate_service_account": _impersonated(reader),
        "job_retries": reader.integer("num_retries"),
        "scopes": reader.listing("scope"),
    }


def _keyfile(reader: ConnectionReader, keyfile: Mapping[str, Any]) -> dict[str, Any]:
    kind = keyfile.get("type")
    if kind != "service_account":
        raise reader.error('extra "keyfile_dict" (Keyfile JSON) is not the key of a service account')
    for member in ("client_email", "private_key", "token_uri"):
        reader.need(keyfile.get(member), f'member "{member}" of Keyfile JSON (extra "keyfile_dict")')
    return {
        name: Secret(value) if isinstance(value, str) and name not in _KEYFILE_PUBLIC else value
        for name, value in keyfile.items()
    }


def _impersonated(reader: ConnectionReader) -> str | None:
    chain = reader.listing("impersonation_chain") or []
    if len(chain) > 1:
        raise reader.error(
            f'extra "impersonation_chain" has {len(chain)} accounts; dbt-bigquery goes by one, give the last'
        )
    return chain[0] if chain else None


def databricks(reader: ConnectionReader, schema: str | None) -> dict[str, Any]:
    """Return settings of dbt-databricks; the schema is extra ``schema``, else ``default``."""
    host = reader.text("host") or reader.connection.host or ""
    properties = reader.mapping("session_configuration")
    return {
        "host": reader.need(_bare_host(host), "Host"),
        "http_path": reader.need(reader.text("http_path"), 'extra "http_path"'),
        "catalog": reader.text("catalog"),
        # Its form field Schema is the scheme of the address.
        "schema": schema or reader.text("schema") or "default",
        **_databricks_login(reader),
        "session_properties": None if properties is None else guarded(properties),
    }


def _bare_host(host: str) -> str:
    return (urlsplit(host).hostname or "") if "://" in host else host.rstrip("/")


def _databricks_login(reader: ConnectionReader) -> dict[str, Any]:
    token = reader.secret("token") or (None if reader.login else reader.password)
    if token:
        return {"token": token}
    other = "dbt-databricks logs in by a token or a service principal's secret"
    keys = ("use_azure_managed_identity", "use_default_azure_credential", "federated_k8s", "federated_aws")
    reader.refuse(dict.fromkeys((*keys, "federated_token_provider"), other))
    azure = "azure_" if reader.text("azure_tenant_id") else ""
    if azure or reader.flag("service_principal_oauth"):
        return {
            "auth_type": "oauth",
            f"{azure}client_id": reader.need(reader.login, "Login (client id)"),
            f"{azure}client_secret": reader.need(reader.password, "Password (client secret)"),
        }
    if reader.login:
        raise reader.error(
            f"it has a Login, and {other}; give a token as Password without a Login, or say what Login and "
            'Password are by extra "service_principal_oauth": true (Azure: "azure_tenant_id")'
        )
    reader.need(None, "Password (token)")
    return {}


def athena(reader: ConnectionReader, schema: str | None) -> dict[str, Any]:
    """Return settings of dbt-athena; the schema is the connection's, else ``default``."""
    role, method = reader.text("role_arn"), reader.text("assume_role_method") or "assume_role"
    if role and method != "assume_role":
        raise reader.error(f'extra "assume_role_method" is {method!r}; dbt-athena knows assume_role only')
    staging, group = reader.text("s3_staging_dir"), reader.text("work_group")
    reader.need(staging or group, 'extra "s3_staging_dir" (s3://...) or "work_group"')
    return {
        "region_name": reader.need(reader.text("region_name"), 'extra "region_name"'),
        "s3_staging_dir": staging,
        "work_group": group,
        "database": reader.text("catalog") or "awsdatacatalog",
        "schema": schema or reader.connection.schema or "default",
        **_aws_login(reader),
        "assume_role_arn": role,
        **(_assumed_role(reader) if role else {}),
        **reader.texts("endpoint_url", "s3_data_dir"),
    }


def _aws_login(reader: ConnectionReader) -> dict[str, Any]:
    key, secret = reader.login, reader.password
    if not (key and secret):
        key = key or reader.text("aws_access_key_id")
        secret = secret or reader.secret("aws_secret_access_key")
    if key or secret:
        reader.need(key, "AWS Access Key ID (login)")
        reader.need(secret, "AWS Secret Access Key (password)")
    session = reader.mapping("session_kwargs") or {}
    return {
        "aws_access_key_id": key,
        "aws_secret_access_key": secret,
        "aws_session_token": reader.secret("aws_session_token"),
        "aws_profile_name": reader.text("profile_name") or session.get("profile_name"),
    }


def _assumed_role(reader: ConnectionReader) -> dict[str, Any]:
    arguments = reader.mapping("assume_role_kwargs") or {}
    fields = {
        "ExternalId": "assume_role_external_id",
        "RoleSessionName": "assume_role_session_name",
        "DurationSeconds": "assume_role_duration_seconds",
    }
    unknown = sorted(set(arguments) - set(fields))
    if unknown:
        raise reader.error(
            f'extra "assume_role_kwargs" has {", ".join(unknown)}; dbt-athena takes {", ".join(fields)}'
        )
    return {field: arguments.get(name) for name, field in fields.items()}
