"""Names that the adapters publish for a profile, as read from the dataclass of their credentials."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Published:
    """Settings of one adapter, or of one of its methods.

    :param names: All settings, other names for the same among them, blank-separated.
    :param required: Settings without a default, or which the adapter itself insists on.
    :param other_names: Other name -> name.
    """

    names: str
    required: str
    other_names: Mapping[str, str]

    def check(self, output: Mapping[str, Any]) -> tuple[set[str], set[str]]:
        """Return the settings that are not published, and those that are missing."""
        given = {self.other_names.get(name, name) for name in output}
        assert len(given) == len(output), "a setting is there by two names"
        return given - set(self.names.split()), set(self.required.split()) - given


_BOTH = "database schema type threads "
_DBNAME = {"dbname": "database", "pass": "password"}
_TRINO = (
    _BOTH
    + "host port user client_tags roles cert http_headers session_properties prepared_statements_enabled "
    "retries timezone suppress_cert_warning starburst_url starburst_client_id starburst_secret_key "
    "starburst_metadata_failure_strategy starburst_max_column_batch_size method "
)
_CATALOG = {"catalog": "database"}

PUBLISHED: Mapping[str, Published] = {
    # dbt-postgres 1.11.0
    "postgres": Published(
        _BOTH
        + "host user port password connect_timeout role search_path keepalives_idle sslmode sslcert sslkey "
        "sslrootcert application_name autocommit retries",
        "database schema host user port password",
        _DBNAME,
    ),
    # dbt-duckdb 1.11.1
    "duckdb": Published(
        _BOTH
        + "path config_options extensions settings secrets external_root use_credential_provider attach "
        "filesystems remote plugins disable_transactions keep_open module_paths retries flights is_ducklake "
        "motherduck_token",
        "path",
        {},
    ),
    # dbt-redshift 1.11.1
    "redshift": Published(
        _BOTH
        + "host port method user password cluster_id iam_profile autocreate db_groups ra3_node datasharing "
        "connect_timeout role sslmode retries retry_all region autocommit access_key_id secret_access_key "
        "idc_region issuer_url idp_listen_port idc_client_display_name idp_response_timeout token_endpoint "
        "is_serverless serverless_work_group serverless_acct_id tcp_keepalive tcp_keepalive_idle "
        "tcp_keepalive_interval tcp_keepalive_count query_group allow_concurrent_drops drop_without_cascade",
        "database schema host port",
        _DBNAME,
    ),
    # dbt-snowflake 1.12.3 and 1.12.4
    "snowflake": Published(
        _BOTH + "account user warehouse role password authenticator private_key private_key_path "
        "private_key_passphrase token oauth_client_id oauth_client_secret query_tag client_session_keep_alive "
        "host port proxy_host proxy_port protocol connect_retries connect_timeout retry_on_database_errors "
        "retry_all insecure_mode reuse_connections s3_stage_vpce_dns_name workload_identity_provider "
        "workload_identity_entra_resource platform_detection_timeout_seconds",
        "database schema account",
        {},
    ),
    # dbt-bigquery 1.12.1
    "bigquery": Published(
        _BOTH + "method execution_project quota_project location api_endpoint priority maximum_bytes_billed "
        "reservation impersonate_service_account job_retry_deadline_seconds job_retries "
        "job_creation_timeout_seconds job_execution_timeout_seconds job_link_info_level_log keyfile "
        "keyfile_json token refresh_token client_id client_secret token_uri workload_pool_provider_path "
        "service_account_impersonation_url token_endpoint compute_region dataproc_cluster_name gcs_bucket "
        "submission_method dataproc_batch scopes",
        "database schema method",
        {"project": "database", "dataset": "schema"},
    ),
    # dbt-databricks 1.12.7 and 1.12.8
    "databricks": Published(
        _BOTH + "host http_path token client_id client_secret azure_client_id azure_client_secret "
        "oauth_redirect_url oauth_scopes session_properties connection_parameters auth_type "
        "oidc_token_filepath compute query_tags connect_retries connect_timeout retry_all connect_max_idle",
        "schema host http_path",
        _CATALOG,
    ),
    # dbt-trino 1.11.0, a class per method
    "trino none": Published(_TRINO + "http_scheme", "database schema host port user", _CATALOG),
    "trino ldap": Published(
        _TRINO + "password impersonation_user", "database schema host port user password", _CATALOG
    ),
    "trino jwt": Published(_TRINO + "jwt_token", "database schema host port jwt_token", _CATALOG),
    "trino certificate": Published(
        _TRINO + "client_certificate client_private_key",
        "database schema host port client_certificate client_private_key",
        _CATALOG,
    ),
    "trino kerberos": Published(
        _TRINO + "keytab principal krb5_config service_name mutual_authentication force_preemptive "
        "hostname_override sanitize_mutual_error_response delegate",
        "database schema host port user keytab",
        _CATALOG,
    ),
    # dbt-clickhouse 1.10.3
    "clickhouse": Published(
        _BOTH + "driver host port user retries password cluster database_engine cluster_mode secure verify "
        "client_cert client_cert_key connect_timeout send_receive_timeout sync_request_timeout "
        "compress_block_size compression check_exchange custom_settings use_lw_deletes local_suffix "
        "local_db_prefix allow_automatic_deduplication tcp_keepalive reuse_connections server_host_name",
        "host schema",
        {},
    ),
    # dbt-sqlserver 1.11.3 and 1.12.1
    "sqlserver": Published(
        _BOTH + "backend driver host UID PWD port windows_login trace_flag tenant_id client_id client_secret "
        "access_token access_token_expires_on authentication encrypt trust_cert retries schema_authorization "
        "login_timeout query_timeout xact_abort",
        "driver host database schema",
        {"server": "host", "user": "UID", "password": "PWD"},
    ),
    # dbt-mysql 1.7.0
    "mysql": Published(
        _BOTH + "server unix_socket port username password charset collation",
        "schema username password",
        {"user": "username", "host": "server"},
    ),
    # dbt-athena 1.11.1
    "athena": Published(
        _BOTH + "region_name s3_staging_dir endpoint_url work_group skip_workgroup_check aws_profile_name "
        "aws_access_key_id aws_secret_access_key aws_session_token assume_role_arn assume_role_external_id "
        "assume_role_session_name assume_role_duration_seconds poll_interval debug_query_state num_retries "
        "num_boto3_retries num_iceberg_retries s3_data_dir s3_data_naming spark_work_group s3_tmp_table_dir "
        "seed_s3_upload_args lf_tags_database connection_manager",
        "database schema region_name",
        _CATALOG,
    ),
    # dbt-spark 1.11.0
    "spark": Published(
        _BOTH + "host method driver cluster endpoint token user password port auth kerberos_service_name "
        "organization connection_string_suffix connect_retries connect_timeout use_ssl server_side_parameters "
        "retry_all query_timeout poll_interval query_retries",
        "host schema method",
        {},
    ),
}


def published(output: Mapping[str, Any]) -> Published:
    """Return what is published for a target of a profile.

    :param output: Target, with its type.
    """
    name = output["type"]
    return PUBLISHED[f"{name} {output['method']}" if name == "trino" else name]
