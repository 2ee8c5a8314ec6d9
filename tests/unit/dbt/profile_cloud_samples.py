"""Connections of cloud vendors' warehouses, and what dbt is to get from each."""

from __future__ import annotations

import base64
import json
import secrets

from tests.unit.dbt.profile_samples import P, Q, Sample, address

KEY_PEM = f"-----BEGIN PRIVATE KEY-----\n{secrets.token_urlsafe(60)}\n-----END PRIVATE KEY-----"
KEYFILE = {
    "type": "service_account",
    "project_id": "shop-prod",
    "private_key_id": secrets.token_hex(20),
    "private_key": KEY_PEM + "\n",
    "client_email": "dbt@shop-prod.iam.gserviceaccount.com",
    "client_id": "0042",
    "token_uri": "https://oauth2.googleapis.com/token",
}

CLOUDS = [
    Sample(
        "redshift",
        address(
            "redshift", schema="dev", extra={"sslmode": "verify-ca", "region": "eu-west-1", "timeout": "30"}
        ),
        "redshift",
        {"host": "db.example", "port": 5439, "dbname": "dev", "schema": "public", "user": "1", "password": P}
        | {"sslmode": "verify-ca", "region": "eu-west-1", "connect_timeout": 30},
    ),
    Sample(
        "redshift-iam",
        address(
            "redshift",
            host="my-cluster.abc.eu-west-1.redshift.amazonaws.com",
            password=None,
            schema="dev",
            extra={
                "iam": "true",
                "access_key_id": "AKIA42",
                "secret_access_key": P,
                "db_groups": "etl, bi",
                "auto_create": True,
                "ssl": False,
            },
        ),
        "redshift",
        {
            "host": "my-cluster.abc.eu-west-1.redshift.amazonaws.com",
            "port": 5439,
            "dbname": "dev",
            "schema": "public",
        }
        | {"method": "iam", "user": "1", "cluster_id": "my-cluster", "access_key_id": "AKIA42"}
        | {"secret_access_key": P, "db_groups": ["etl", "bi"], "autocreate": True, "sslmode": "disable"},
    ),
    Sample(
        "redshift-serverless",
        address(
            "redshift",
            login=None,
            password=None,
            schema="dev",
            extra={"iam": True, "is_serverless": True, "serverless_work_group": "etl", "profile": "prod"},
        ),
        "redshift",
        {"host": "db.example", "port": 5439, "dbname": "dev", "schema": "public", "method": "iam_role"}
        | {"is_serverless": True, "serverless_work_group": "etl", "iam_profile": "prod"},
        secrets=(),
    ),
    Sample(
        "snowflake-password",
        {
            "conn_type": "snowflake",
            "login": "etl",
            "password": P,
            "schema": "RAW",
            "extra": {
                "account": "xy12345",
                "region": "eu-central-1",
                "database": "SHOP",
                "warehouse": "WH",
                "role": "LOADER",
                "authenticator": "snowflake",
                "insecure_mode": "false",
                "session_parameters": {"QUERY_TAG": "dbt"},
                "dbt": {"connect_retries": 3},
            },
        },
        "snowflake",
        {
            "account": "xy12345.eu-central-1",
            "database": "SHOP",
            "schema": "RAW",
            "warehouse": "WH",
            "role": "LOADER",
        }
        | {"user": "etl", "password": P, "insecure_mode": False, "query_tag": "dbt", "connect_retries": 3},
    ),
    Sample(
        "snowflake-key",
        {
            "conn_type": "snowflake",
            "login": "etl",
            "password": P,
            "extra": {
                "account": "org-acc",
                "database": "SHOP",
                "private_key_content": base64.encodebytes(KEY_PEM.encode()).decode(),
                "proxy_host": "proxy",
                "proxy_port": "8080",
            },
        },
        "snowflake",
        {"account": "org-acc", "database": "SHOP", "schema": "MARTS", "user": "etl", "private_key": KEY_PEM}
        | {"private_key_passphrase": P, "proxy_host": "proxy", "proxy_port": 8080},
        secrets=(P, KEY_PEM),
        schema="MARTS",
    ),
    Sample(
        "snowflake-key-file",
        {
            "conn_type": "snowflake",
            "login": "etl",
            "extra": {"account": "org-acc", "database": "SHOP", "private_key_file": "/etc/key.p8"},
        },
        "snowflake",
        {"account": "org-acc", "database": "SHOP", "schema": "PUBLIC", "user": "etl"}
        | {"private_key_path": "/etc/key.p8"},
        secrets=(),
    ),
    Sample(
        "snowflake-oauth",
        {
            "conn_type": "snowflake",
            "login": "0042-client",
            "password": P,
            "extra": {"account": "org-acc", "database": "SHOP", "authenticator": "oauth", "refresh_token": Q},
        },
        "snowflake",
        {"account": "org-acc", "database": "SHOP", "schema": "PUBLIC", "authenticator": "oauth", "token": Q}
        | {"oauth_client_id": "0042-client", "oauth_client_secret": P},
        secrets=(P, Q),
    ),
    Sample(
        "snowflake-pat",
        {
            "conn_type": "snowflake",
            "login": "etl",
            "password": P,
            "extra": {"account": "org-acc", "database": "SHOP", "authenticator": "programmatic_access_token"},
        },
        "snowflake",
        {"account": "org-acc", "database": "SHOP", "schema": "PUBLIC", "user": "etl", "token": P}
        | {"authenticator": "programmatic_access_token"},
    ),
    Sample(
        "snowflake-workload",
        {
            "conn_type": "snowflake",
            "extra": {
                "account": "org-acc",
                "database": "SHOP",
                "authenticator": "WORKLOAD_IDENTITY",
                "workload_identity_provider": "OIDC",
                "token": P,
            },
        },
        "snowflake",
        {"account": "org-acc", "database": "SHOP", "schema": "PUBLIC", "authenticator": "WORKLOAD_IDENTITY"}
        | {"workload_identity_provider": "OIDC", "token": P},
    ),
    Sample(
        "bigquery-keyfile",
        {
            "conn_type": "google_cloud_platform",
            "extra": {
                "keyfile_dict": json.dumps(KEYFILE),
                "num_retries": 5,
                "scope": "https://a,https://b",
                "is_anonymous": False,
                "dbt": {"priority": "interactive", "maximum_bytes_billed": 10**12},
            },
        },
        "bigquery",
        {
            "method": "service-account-json",
            "project": "shop-prod",
            "dataset": "marts",
            "keyfile_json": KEYFILE,
        }
        | {"job_retries": 5, "scopes": ["https://a", "https://b"]}
        | {"priority": "interactive", "maximum_bytes_billed": 10**12},
        secrets=(KEYFILE["private_key"], KEYFILE["private_key_id"]),
        schema="marts",
    ),
    Sample(
        "bigquery-key-path",
        {
            "conn_type": "gcpbigquery",
            "extra": {
                "key_path": "/etc/key.json",
                "project": "shop-prod",
                "dataset": "marts",
                "location": "EU",
                "impersonation_chain": "etl@shop-prod.iam.gserviceaccount.com",
            },
        },
        "bigquery",
        {"method": "service-account", "keyfile": "/etc/key.json", "project": "shop-prod", "dataset": "marts"}
        | {"location": "EU", "impersonate_service_account": "etl@shop-prod.iam.gserviceaccount.com"},
        secrets=(),
    ),
    Sample(
        "bigquery-ambient",
        {
            "conn_type": "google_cloud_platform",
            "extra": {"project": "shop-prod", "quota_project_id": "billing"},
        },
        "bigquery",
        {"method": "oauth", "project": "shop-prod", "dataset": "marts", "quota_project": "billing"},
        secrets=(),
        schema="marts",
    ),
    Sample(
        "databricks-token",
        {
            "conn_type": "databricks",
            "host": "https://dbc-1.cloud.databricks.com/",
            "password": P,
            "schema": "https",
            "extra": {
                "http_path": "/sql/1.0/warehouses/0042",
                "catalog": "main",
                "session_configuration": {"ansi_mode": True},
                "dbt": {"connect_retries": 3, "connection_parameters": {"_socket_timeout": 300}},
            },
        },
        "databricks",
        {"host": "dbc-1.cloud.databricks.com", "http_path": "/sql/1.0/warehouses/0042", "catalog": "main"}
        | {"schema": "default", "token": P, "session_properties": {"ansi_mode": True}, "connect_retries": 3}
        | {"connection_parameters": {"_socket_timeout": 300}},
    ),
    Sample(
        "databricks-extra-token",
        {
            "conn_type": "databricks",
            "login": "ignored",
            "extra": {
                "host": "dbc-1.cloud.databricks.com",
                "token": P,
                "http_path": "/sql/1",
                "schema": "raw",
            },
        },
        "databricks",
        {"host": "dbc-1.cloud.databricks.com", "http_path": "/sql/1", "schema": "raw", "token": P},
    ),
    Sample(
        "databricks-principal",
        address("databricks", login="0042", extra={"service_principal_oauth": "true", "http_path": "/sql/1"}),
        "databricks",
        {"host": "db.example", "http_path": "/sql/1", "schema": "default", "auth_type": "oauth"}
        | {"client_id": "0042", "client_secret": P},
    ),
    Sample(
        "databricks-azure",
        address("databricks", login="0042", extra={"azure_tenant_id": "t", "http_path": "/sql/1"}),
        "databricks",
        {"host": "db.example", "http_path": "/sql/1", "schema": "default", "auth_type": "oauth"}
        | {"azure_client_id": "0042", "azure_client_secret": P},
    ),
    Sample(
        "athena-keys",
        {
            "conn_type": "aws",
            "login": "AKIA42",
            "password": P,
            "extra": {
                "region_name": "eu-west-1",
                "s3_staging_dir": "s3://b/staging/",
                "aws_session_token": Q,
            },
        },
        "athena",
        {"region_name": "eu-west-1", "s3_staging_dir": "s3://b/staging/", "database": "awsdatacatalog"}
        | {
            "schema": "default",
            "aws_access_key_id": "AKIA42",
            "aws_secret_access_key": P,
            "aws_session_token": Q,
        },
        secrets=(P, Q),
    ),
    Sample(
        "athena-role",
        {
            "conn_type": "athena",
            "schema": "raw",
            "extra": {
                "region_name": "eu-west-1",
                "work_group": "primary",
                "catalog": "glue2",
                "role_arn": "arn:aws:iam::012345678901:role/dbt",
                "assume_role_kwargs": {"ExternalId": "0042", "DurationSeconds": 900},
                "session_kwargs": {"profile_name": "prod"},
            },
        },
        "athena",
        {"region_name": "eu-west-1", "work_group": "primary", "database": "glue2", "schema": "raw"}
        | {"assume_role_arn": "arn:aws:iam::012345678901:role/dbt", "assume_role_external_id": "0042"}
        | {"assume_role_duration_seconds": 900, "aws_profile_name": "prod"},
        secrets=(),
    ),
]
