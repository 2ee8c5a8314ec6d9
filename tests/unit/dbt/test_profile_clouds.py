"""What the profiles of clouds refuse; what they make of good connections is in ``test_profiles.py``."""

from __future__ import annotations

import base64
import json
import secrets
from typing import Any

import pytest
from airflow.sdk import Connection

from airflow_ext.dbt.profiles import Profile, profile_from_connection
from airflow_ext.exceptions import InvalidProjectError
from tests.unit.dbt.profile_cloud_samples import KEYFILE

SECRET = secrets.token_urlsafe()
SNOW = {"account": "a", "database": "d"}
GOOGLE = {"project": "p", "dataset": "d"}
BRICKS = {"http_path": "/sql/1"}
AWS = {"region_name": "eu-west-1", "work_group": "w"}


def profile(conn_type: str, extra: dict[str, Any] | None = None, **fields: Any) -> Profile:
    """Return the profile of a connection."""
    connection = Connection(conn_id="wh", conn_type=conn_type, extra=json.dumps(extra or {}), **fields)
    return profile_from_connection(connection, name="shop")


REFUSED: dict[str, tuple[str, dict[str, Any], dict[str, Any], str]] = {
    "redshift-empty": ("redshift", {}, {}, r"it lacks Host, Database \(schema\), Login, Password$"),
    "redshift-session": (
        "redshift",
        {"iam": True, "session_token": SECRET},
        {},
        r'extra "session_token" is set: dbt-redshift',
    ),
    "redshift-keys": (
        "redshift",
        {"iam": True, "access_key_id": "A"},
        {"host": "h", "schema": "d"},
        r'lacks extra "secret_access_key", Login \(database user\)$',
    ),
    "redshift-serverless": (
        "redshift",
        {"iam": True, "is_serverless": True},
        {"host": "h", "schema": "d"},
        r'lacks extra "serverless_work_group"$',
    ),
    "snowflake-empty": (
        "snowflake",
        {},
        {},
        r'lacks Account \(extra "account"\), Database \(extra "database"\), Login, Password$',
    ),
    "snowflake-proxy": (
        "snowflake",
        SNOW | {"proxy_user": "u"},
        {},
        r'"proxy_user" is set: dbt-snowflake has no user',
    ),
    "snowflake-two-keys": (
        "snowflake",
        SNOW | {"private_key_content": SECRET, "private_key_file": "/k"},
        {"login": "u"},
        r'both extra "private_key_content" and "private_key_file"',
    ),
    "snowflake-oauth": (
        "snowflake",
        SNOW | {"authenticator": "oauth"},
        {},
        r'lacks extra "refresh_token" \(or "token"\)$',
    ),
    "snowflake-refresh": (
        "snowflake",
        SNOW | {"refresh_token": SECRET},
        {},
        r"lacks Login \(OAuth client id\), Password \(OAuth client secret\)$",
    ),
    "snowflake-endpoint": (
        "snowflake",
        SNOW | {"refresh_token": SECRET, "token_endpoint": "https://idp"},
        {},
        "only renews by a refresh",
    ),
    "snowflake-workload": (
        "snowflake",
        SNOW | {"authenticator": "workload_identity"},
        {},
        r'Workload Identity Provider \(extra "workload_identity_provider"\)$',
    ),
    "snowflake-oidc": (
        "snowflake",
        SNOW | {"authenticator": "workload_identity", "workload_identity_provider": "oidc"},
        {},
        r'lacks extra "token"$',
    ),
    "snowflake-pat": (
        "snowflake",
        SNOW | {"authenticator": "programmatic_access_token"},
        {"login": "u"},
        r"lacks Password \(token\)$",
    ),
    "bigquery-empty": (
        "google_cloud_platform",
        {},
        {},
        r'lacks Project Id \(extra "project"\), schema= or extra "dataset"$',
    ),
    "bigquery-secret-manager": (
        "google_cloud_platform",
        GOOGLE | {"key_secret_name": "k"},
        {},
        r'"key_secret_name" is set.*keyfile_dict',
    ),
    "bigquery-anonymous": (
        "google_cloud_platform",
        GOOGLE | {"is_anonymous": True},
        {},
        r'"is_anonymous" is set',
    ),
    "bigquery-p12": ("google_cloud_platform", GOOGLE | {"key_path": "/k.p12"}, {}, "JSON keys only"),
    "bigquery-two-keys": (
        "google_cloud_platform",
        GOOGLE | {"keyfile_dict": KEYFILE, "key_path": "/k"},
        {},
        r'both extra "keyfile_dict" and "key_path"',
    ),
    "bigquery-user-key": (
        "google_cloud_platform",
        GOOGLE | {"keyfile_dict": {"type": "authorized_user", "refresh_token": SECRET}},
        {},
        "not the key of a service account",
    ),
    "bigquery-incomplete-key": (
        "google_cloud_platform",
        GOOGLE | {"keyfile_dict": {"type": "service_account", "private_key": SECRET}},
        {},
        r'lacks member "client_email" of Keyfile JSON .*"token_uri"',
    ),
    "bigquery-torn-key": (
        "google_cloud_platform",
        GOOGLE | {"keyfile_dict": f'{{"private_key": "{SECRET}"'},
        {},
        r'extra "keyfile_dict" is to be a JSON object$',
    ),
    "bigquery-chain": (
        "google_cloud_platform",
        GOOGLE | {"impersonation_chain": "a,b"},
        {},
        "has 2 accounts.*give the last",
    ),
    "databricks-empty": ("databricks", {}, {}, r'lacks Host, extra "http_path", Password \(token\)$'),
    "databricks-basic": (
        "databricks",
        BRICKS,
        {"host": "h", "login": "u", "password": SECRET},
        "has a Login.*service_principal_oauth",
    ),
    "databricks-federated": (
        "databricks",
        BRICKS | {"federated_k8s": True},
        {"host": "h"},
        r'"federated_k8s" is set',
    ),
    "databricks-principal": (
        "databricks",
        BRICKS | {"service_principal_oauth": True},
        {"host": "h"},
        r"lacks Login \(client id\), Password \(client secret\)$",
    ),
    "athena-empty": (
        "aws",
        {},
        {},
        r'lacks extra "s3_staging_dir" \(s3://...\) or "work_group", extra "region_name"$',
    ),
    "athena-key": ("aws", AWS, {"login": "AKIA"}, r"lacks AWS Secret Access Key \(password\)$"),
    "athena-secret": ("aws", AWS, {"password": SECRET}, r"lacks AWS Access Key ID \(login\)$"),
    "athena-saml": (
        "aws",
        AWS | {"role_arn": "r", "assume_role_method": "assume_role_with_saml"},
        {},
        "'assume_role_with_saml'; dbt-athena knows assume_role only",
    ),
    "athena-policy": (
        "athena",
        AWS | {"role_arn": "r", "assume_role_kwargs": {"Policy": "p"}},
        {},
        "has Policy; dbt-athena takes ExternalId, RoleSessionName, DurationSeconds",
    ),
}


@pytest.mark.parametrize(("conn_type", "extra", "fields", "message"), REFUSED.values(), ids=REFUSED)
def test_an_unfit_connection_is_refused_with_what_to_put_where(
    conn_type: str, extra: dict[str, Any], fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidProjectError, match=f"(?s)connection 'wh'.*{message}") as caught:
        profile(conn_type, extra, **fields)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        pytest.param("-----BEGIN X-----\nabc\n", "-----BEGIN X-----\nabc", id="pem"),
        pytest.param(
            base64.b64encode(b"-----BEGIN X-----\nabc\n").decode(), "-----BEGIN X-----\nabc", id="base64"
        ),
        pytest.param(
            base64.b64encode(b"\x30\x82der").decode(), base64.b64encode(b"\x30\x82der").decode(), id="der"
        ),
    ],
)
def test_a_snowflake_key_may_be_a_pem_or_in_base64(given: str, taken: str) -> None:
    made = profile("snowflake", SNOW | {"private_key_content": given}, login="u")
    assert made.env["DBT_ENV_SECRET_AIRFLOW_EXT_DBT_PRIVATE_KEY"] == taken


@pytest.mark.parametrize(
    ("account", "region", "expected"),
    [("xy", "eu", "xy.eu"), ("xy.eu", "eu", "xy.eu"), ("org-acc", "", "org-acc")],
)
def test_a_snowflake_region_is_part_of_the_account(account: str, region: str, expected: str) -> None:
    extra = {"account": account, "region": region, "database": "d"}
    assert profile("snowflake", extra, login="u", password=SECRET).env["AIRFLOW_EXT_DBT_ACCOUNT"] == expected


def test_snowflake_takes_an_access_token_and_other_authenticators_as_they_are() -> None:
    made = profile("snowflake", SNOW | {"authenticator": "oauth", "token": SECRET})
    assert made.env["DBT_ENV_SECRET_AIRFLOW_EXT_DBT_TOKEN"] == SECRET
    assert "AIRFLOW_EXT_DBT_OAUTH_CLIENT_ID" not in made.env
    made = profile("snowflake", SNOW | {"authenticator": "https://me.okta.com"}, login="u", password=SECRET)
    assert made.env["AIRFLOW_EXT_DBT_AUTHENTICATOR"] == "https://me.okta.com"
    made = profile("snowflake", SNOW | {"authenticator": "externalbrowser"}, login="u")
    assert "DBT_ENV_SECRET_AIRFLOW_EXT_DBT_PASSWORD" not in made.env


def test_only_what_is_secret_of_a_google_key_is_struck_out_of_logs() -> None:
    made = profile("google_cloud_platform", {"keyfile_dict": KEYFILE, "dataset": "d"})
    assert made.env["AIRFLOW_EXT_DBT_KEYFILE_JSON_PROJECT_ID"] == "shop-prod"
    assert made.env["DBT_ENV_SECRET_AIRFLOW_EXT_DBT_KEYFILE_JSON_PRIVATE_KEY"] == KEYFILE["private_key"]


def test_aws_credentials_may_be_in_the_extra() -> None:
    made = profile("aws", AWS | {"aws_access_key_id": "AKIA", "aws_secret_access_key": SECRET})
    assert made.env["AIRFLOW_EXT_DBT_AWS_ACCESS_KEY_ID"] == "AKIA"
    assert made.env["DBT_ENV_SECRET_AIRFLOW_EXT_DBT_AWS_SECRET_ACCESS_KEY"] == SECRET
