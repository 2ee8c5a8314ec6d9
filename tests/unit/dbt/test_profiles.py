from __future__ import annotations

import contextvars
import dataclasses
import json
import secrets
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from airflow.sdk import Connection

from airflow_ext.dbt.profiles import (
    ADAPTERS,
    Profile,
    adapter_of,
    placeholder_profile,
    profile_from_connection,
    profile_name,
)
from airflow_ext.dbt.runner import DbtRun, RunSettings
from airflow_ext.exceptions import DbtFailedError, InvalidProjectError
from airflow_ext.testing.postgres import LocalPostgres
from tests.unit.dbt.profile_cloud_samples import CLOUDS
from tests.unit.dbt.profile_published import PUBLISHED, published
from tests.unit.dbt.profile_samples import DATABASES, Sample

SAMPLES = [*DATABASES, *CLOUDS]
each_sample = pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.id)


def rendered(profile: Profile) -> dict[str, Any]:
    """Return what dbt itself makes of a profile in an environment with nothing but its variables."""
    from dbt.config.renderer import ProfileRenderer
    from dbt_common.context import set_invocation_context

    def render() -> dict[str, Any]:
        set_invocation_context(dict(profile.env))
        return dict(ProfileRenderer().render_data(yaml.safe_load(profile.text)))

    return contextvars.copy_context().run(render)


def output_of(profile: Profile) -> dict[str, Any]:
    """Return the only target of a profile, as dbt gets it."""
    outputs = rendered(profile)["shop"]["outputs"]
    assert list(outputs) == ["airflow"]
    return dict(outputs["airflow"])


def made(sample: Sample) -> Profile:
    return profile_from_connection(sample.connection, name="shop", schema=sample.schema)


def test_there_is_a_sample_of_each_adapter_and_each_type_of_connection() -> None:
    assert {sample.adapter for sample in SAMPLES} == set(ADAPTERS)
    assert {name.split()[0] for name in PUBLISHED} == set(ADAPTERS)
    types = {sample.connection.conn_type for sample in SAMPLES}
    assert all(adapter_of(conn_type) for conn_type in types)
    assert {"google_cloud_platform", "gcpbigquery", "mssql", "aws", "athena", "spark"} <= types


@each_sample
def test_dbt_renders_what_the_connection_says(sample: Sample) -> None:
    profile = made(sample)
    expected = {"type": sample.adapter, "threads": 4, **sample.output}
    # As JSON, so that 1, 1.0, "1" and true are four things.
    assert json.dumps(output_of(profile), sort_keys=True) == json.dumps(expected, sort_keys=True)
    assert (profile.adapter, profile.package.partition("[")[0]) == (sample.adapter, f"dbt-{sample.adapter}")


@each_sample
def test_only_published_settings_are_given_and_no_required_one_is_missing(sample: Sample) -> None:
    output = output_of(made(sample))
    assert published(output).check(output) == (set(), set())


@pytest.mark.parametrize("adapter", ["duckdb", "postgres"])
def test_the_published_settings_are_those_of_the_installed_adapter(adapter: str) -> None:
    if adapter == "duckdb":
        from dbt.adapters.duckdb import Plugin
    else:
        from dbt.adapters.postgres import Plugin
    names = {field.name for field in dataclasses.fields(Plugin.credentials)} | {"type", "threads"}
    assert set(PUBLISHED[adapter].names.split()) == names


@each_sample
def test_the_file_has_references_only_and_secrets_are_in_secret_variables_only(sample: Sample) -> None:
    profile = made(sample)
    plain = {value for name, value in profile.env.items() if not name.startswith("DBT_ENV_SECRET_")}
    kept = {value for name, value in profile.env.items() if name.startswith("DBT_ENV_SECRET_")}
    assert kept == set(sample.secrets)
    for value in sample.secrets:
        assert not any(value in other for other in plain)
        assert value not in profile.text + repr(profile)
    target = yaml.safe_load(profile.text)["shop"]["outputs"]["airflow"]
    leaves = list(
        _leaves({name: value for name, value in target.items() if value not in (sample.adapter, 4)})
    )
    assert all(str(leaf).startswith("{{ env_var('") and str(leaf).endswith(" }}") for leaf in leaves)
    assert len(leaves) == len(profile.env)
    assert all(name.removeprefix("DBT_ENV_SECRET_").startswith("AIRFLOW_EXT_DBT_") for name in profile.env)


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _leaves(item)
    else:
        yield value


def _spoilt(sample: Sample) -> Iterator[Connection]:
    """Yield the connection with each thing missing once, and with each text of the extra torn."""
    fields = dict(sample.fields)
    for name in set(fields) - {"conn_type", "extra"}:
        yield _connection(fields | {name: None}, sample)
    extra = fields.get("extra") or {}
    for key in extra:
        rest = {name: value for name, value in extra.items() if name != key}
        yield _connection(fields | {"extra": rest}, sample)
        yield _connection(fields | {"extra": rest | {key: {"nested": ["a"]}}}, sample)
    for value in sample.secrets:
        for key in ("keyfile_dict", "session_properties", "session_settings", "session_parameters", "dbt"):
            yield _connection(fields | {"extra": extra | {key: f'{{"a": "{value}'}}, sample)
        for settings in (
            {"password": value},
            {"a": [{"http_token": value}]},
            {"b": f"https://me:{value[:4]}@host"},
        ):
            yield _connection(fields | {"extra": extra | {"dbt": settings}}, sample)
        yield _connection(
            fields | {"extra": extra | {"iam": True, "ssl": {"key": value}, "auth": "?"}}, sample
        )


def _connection(fields: dict[str, Any], sample: Sample) -> Connection:
    return Connection(**{"conn_id": "wh", **fields, "extra": json.dumps(fields.get("extra"))})


@each_sample
def test_no_error_holds_a_secret(sample: Sample) -> None:
    errors = 0
    for connection in _spoilt(sample):
        try:
            profile = profile_from_connection(connection, name="shop", schema=sample.schema)
        except InvalidProjectError as exc:
            errors += 1
            said = "".join(traceback.format_exception(exc)) + repr(exc) + str(vars(exc))
        else:
            said = profile.text + repr(profile)
        assert not any(value in said for value in sample.secrets)
    assert errors


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_a_placeholder_has_all_that_the_adapter_requires_and_no_secret(adapter: str) -> None:
    profile = placeholder_profile(adapter, name="shop")
    output = output_of(profile)
    assert output["type"] == profile.adapter == adapter
    assert published(output).check(output) == (set(), set())
    # dbt would strike a secret "-" out of all it says.
    assert not any(name.startswith("DBT_ENV_SECRET_") for name in profile.env)


@pytest.mark.parametrize("adapter", ["duckdb", "postgres"])
def test_the_installed_adapters_take_their_profiles(adapter: str) -> None:
    if adapter == "duckdb":
        from dbt.adapters.duckdb import Plugin
    else:
        from dbt.adapters.postgres import Plugin
    profiles = [made(sample) for sample in SAMPLES if sample.adapter == adapter]
    for profile in [*profiles, placeholder_profile(adapter, name="shop")]:
        output = output_of(profile)
        settings = {name: value for name, value in output.items() if name not in ("type", "threads")}
        settings = Plugin.credentials.translate_aliases(settings)
        Plugin.credentials.validate(settings)
        Plugin.credentials.from_dict(settings)


@pytest.mark.parametrize(
    ("extra", "package"),
    [
        pytest.param("spark-thrift", "dbt-spark[PyHive]", id="thrift"),
        pytest.param("spark-odbc", "dbt-spark[ODBC]", id="odbc"),
        pytest.param("spark-session", "dbt-spark[session]", id="session"),
        pytest.param("sqlserver", "dbt-sqlserver[pyodbc]", id="login"),
        pytest.param("sqlserver-cli", "dbt-sqlserver[azure,pyodbc]", id="azure"),
        pytest.param("snowflake-key", "dbt-snowflake", id="plain"),
    ],
)
def test_the_package_has_what_the_way_to_log_in_needs(extra: str, package: str) -> None:
    assert made(next(sample for sample in SAMPLES if sample.id == extra)).package == package


def test_an_adapter_is_known_by_the_type_of_the_connection() -> None:
    assert adapter_of("google_cloud_platform") == "bigquery"
    assert adapter_of("mssql") == "sqlserver"
    assert adapter_of("oracle") is adapter_of("") is adapter_of(None) is None


def test_settings_of_the_user_win_and_null_takes_one_away() -> None:
    connection = Connection(
        conn_id="d",
        conn_type="duckdb",
        host="/w.duckdb",
        extra=json.dumps(
            {"dbt": '{"schema": null, "threads": 2, "settings": {"a-b": 1.5, "a.b": [null, "x"]}}'}
        ),
    )
    profile = profile_from_connection(connection, name="shop", target="dev", schema="s")
    target = rendered(profile)["shop"]
    assert target["target"] == "dev"
    assert target["outputs"]["dev"] == {
        "type": "duckdb",
        "threads": 2,
        "path": "/w.duckdb",
        "settings": {"a-b": 1.5, "a.b": [None, "x"]},
    }


def test_two_settings_never_share_a_variable() -> None:
    settings = {"settings": {"a-b": "1", "a.b": "2", "a_b": "3"}, "settings_a_b": "4"}
    connection = Connection(conn_id="d", conn_type="duckdb", host="f", extra=json.dumps({"dbt": settings}))
    output = output_of(profile_from_connection(connection, name="shop"))
    assert output["settings"] == {"a-b": "1", "a.b": "2", "a_b": "3"}
    assert output["settings_a_b"] == "4"


@pytest.mark.parametrize("conn_type", ["oracle", None, ""])
def test_an_unfit_type_of_connection_is_refused_with_the_known_ones(conn_type: str | None) -> None:
    connection = Connection(conn_id="c", conn_type=conn_type)
    with pytest.raises(InvalidProjectError, match=r"'c'.*google_cloud_platform.*profiles_dir="):
        profile_from_connection(connection, name="shop")


def test_an_unknown_adapter_is_refused() -> None:
    with pytest.raises(InvalidProjectError, match=r"adapter='oracle'.*snowflake"):
        placeholder_profile("oracle", name="shop")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalPostgres]:
    """A PostgreSQL with a user, a database and a password that all look like something else."""
    with LocalPostgres(tmp_path_factory.mktemp("postgres")) as server:
        server.create_database("0042")
        server.execute('CREATE ROLE "1" SUPERUSER LOGIN')
        yield server


@pytest.fixture
def login(server: LocalPostgres) -> Connection:
    password = f"0123'\"{{{{ env_var('HOME') }}}}{{% raw %}}%(x)s: #é\U0001f511\\n\n{secrets.token_hex(8)}"
    literal = password.replace("'", "''")
    server.execute(f"ALTER ROLE \"1\" PASSWORD '{literal}'")
    return Connection(
        conn_id="wh",
        conn_type="postgres",
        host="127.0.0.1",
        port=server.port,
        login="1",
        password=password,
        schema="0042",
        extra='{"dbt": {"application_name": "it\'s 007"}}',
    )


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "shop" / "models").mkdir(parents=True)
    (tmp_path / "shop" / "dbt_project.yml").write_text("name: shop\nprofile: shop\nversion: '1.0.0'\n")
    model = "{{ config(materialized='table') }} select current_user::text as who, current_setting('application_name') as application"
    (tmp_path / "shop" / "models" / "who.sql").write_text(model)
    return tmp_path / "shop"


def _build(project: Path, profile: Profile) -> tuple[bool, str]:
    lines: list[str] = []
    with DbtRun(RunSettings(project, project, profile=profile)) as build:
        end = build.run(on_log=lines.append, on_node=lambda _: None, on_tick=lambda: None)
    return end.success, "\n".join(lines)


def test_a_password_of_any_kind_builds_on_postgresql(
    server: LocalPostgres, login: Connection, project: Path
) -> None:
    good, log = _build(project, profile_from_connection(login, name="shop", schema="007"))
    assert good, log
    assert str(login.password) not in log
    assert server.execute('SELECT who, application FROM "007".who', database="0042") == [("1", "it's 007")]


def test_a_refused_password_is_not_in_what_dbt_says(login: Connection, project: Path) -> None:
    login.password = secrets.token_urlsafe()
    profile = profile_from_connection(login, name="shop")
    with pytest.raises(DbtFailedError, match="password authentication failed") as caught:
        _build(project, profile)
    assert str(login.password) not in str(caught.value)


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


@pytest.mark.parametrize(
    ("content", "said"),
    [
        pytest.param(None, "is no dbt project: it has no dbt_project.yml", id="missing"),
        pytest.param(b"a: [", "is not YAML", id="no-yaml"),
        pytest.param(b"- 1\n", "has neither 'profile' nor 'name'", id="no-name"),
        pytest.param(b"name: gr\xfcn\n", "cannot be read: 'utf-8' codec", id="no-text"),
    ],
)
def test_what_is_no_project_is_refused(tmp_path: Path, content: bytes | None, said: str) -> None:
    if content is not None:
        (tmp_path / "dbt_project.yml").write_bytes(content)
    with pytest.raises(InvalidProjectError, match=said):
        profile_name(tmp_path)


def test_a_project_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "project").touch()
    with pytest.raises(InvalidProjectError, match="is no dbt project"):
        profile_name(tmp_path / "project")
