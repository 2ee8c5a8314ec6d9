from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from urllib.parse import urlsplit

import msgspec
import pytest
from airflow.sdk import Asset

from airflow_ext.dbt import DbtProject, locations
from airflow_ext.dbt.index import DbtNode, content_key
from airflow_ext.dbt.locations import write
from airflow_ext.dbt.manifest import read_index
from airflow_ext.dbt.selection import Answers, Resolved, Selection, encode_answers
from airflow_ext.exceptions import InvalidProjectError
from tests.unit.dbt.conftest import Shelf
from tests.unit.dbt.manifests import manifest, model

NODE = DbtNode(
    "model.p.orders",
    "orders",
    "model",
    True,
    "orders",
    (),
    (),
    "dbt/p/orders",
    relation=("wh", "marts", "orders"),
)
URL = "memory://bucket/manifest.json"


def test_a_project_reads_nothing_when_made() -> None:
    project = DbtProject(project_dir="/nowhere", manifest="s3://nowhere/m.json", executable="/nowhere/dbt")
    assert project.manifest == "s3://nowhere/m.json"
    assert project.profiles_dir == Path("/nowhere")
    assert DbtProject(project_dir="/nowhere").manifest == Path("/nowhere/target/manifest.json")


def test_places_are_absolute_paths_or_urls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    project = DbtProject(
        project_dir="p", manifest="file:///m.json", executable="venv/bin/dbt", artifacts="gs://bucket/runs"
    )
    assert project.project_dir == tmp_path / "p"
    assert project.manifest == Path("/m.json")
    assert project.executable == str(tmp_path / "venv" / "bin" / "dbt")
    assert project.artifacts == "gs://bucket/runs"
    assert DbtProject(project_dir="p", executable="dbtf").executable == "dbtf"


def test_a_profile_has_one_origin() -> None:
    with pytest.raises(ValueError, match="profile_conn_id='wh' and profiles_dir='/x'"):
        DbtProject(project_dir="p", profile_conn_id="wh", profiles_dir="/x")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        pytest.param({"schema": "marts"}, "schema='marts'", id="schema-without-connection"),
        pytest.param({"executable": " "}, "executable=' '", id="blank-executable"),
        pytest.param({"namespace": "warehouse"}, "namespace='warehouse'", id="namespace-without-scheme"),
        pytest.param({"namespace": "postgres://"}, "namespace='postgres://'", id="namespace-without-host"),
        pytest.param({"namespace": "postgres://me@wh:5432"}, "leave user and password out", id="user"),
        pytest.param({"manifest": "ftp://me:secret@h/m.json"}, "must not hold a password", id="password"),
    ],
)
def test_wrong_arguments_are_told(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DbtProject(project_dir="p", **given)


def test_the_remedy_repeats_what_the_project_was_given() -> None:
    project = DbtProject(
        project_dir="/p", profiles_dir="/q", target="prod", manifest="/m.json", executable="/venv/bin/dbt"
    )
    assert project.remedy == (
        "airflow-ext dbt index /p --profiles-dir /q --target prod --out /m.json --dbt /venv/bin/dbt"
    )
    assert project.remedy_for(Selection.of("tag:a b", "c")).endswith("--select 'tag:a b' --exclude c")


def test_the_remedy_asks_for_an_adapter_only_where_there_is_no_profile(tmp_path: Path) -> None:
    project = DbtProject(
        project_dir=tmp_path, profile_conn_id="wh", schema="marts", namespace="snowflake://org-account"
    )
    assert project.remedy == (
        f"airflow-ext dbt index {tmp_path} --schema marts --adapter ADAPTER --database DATABASE"
    )
    (tmp_path / "profiles.yml").touch()
    assert project.remedy == f"airflow-ext dbt index {tmp_path}"


def test_the_remedy_for_a_selection_parses_as_the_manifest_was_made(tmp_path: Path) -> None:
    command = f"airflow-ext dbt index {tmp_path} --select a"
    project = DbtProject(project_dir=tmp_path)
    assert project.remedy_for(Selection.of("a"), adapter="duckdb") == f"{command} --adapter duckdb"
    (tmp_path / "profiles.yml").touch()
    assert project.remedy_for(Selection.of("a"), adapter="duckdb") == command


@pytest.mark.parametrize(
    ("namespace", "relation", "uri", "dataset"),
    [
        pytest.param(
            "postgres://wh:5433",
            ("db", "marts", "orders"),
            "postgres://wh:5433/db/marts/orders",
            ("postgres://wh:5433", "db.marts.orders"),
            id="postgres",
        ),
        pytest.param(
            "postgresql://wh/",
            ("db", "marts", "orders"),
            "postgres://wh:5432/db/marts/orders",
            ("postgres://wh:5432", "db.marts.orders"),
            id="default-port-spelt-out",
        ),
        pytest.param(
            "snowflake://org-acc",
            ("DB", "MARTS", "ORDERS"),
            "snowflake://org-acc/DB/MARTS/ORDERS",
            ("snowflake://org-acc", "DB.MARTS.ORDERS"),
            id="snowflake",
        ),
        pytest.param(
            "bigquery",
            ("proj", "marts", "orders"),
            "bigquery://proj/marts/orders",
            ("bigquery", "proj.marts.orders"),
            id="bigquery",
        ),
        pytest.param(
            "mysql://wh",
            ("", "marts", "orders"),
            "mysql://wh:3306/marts/orders",
            ("mysql://wh:3306", "marts.orders"),
            id="no-database-above-the-schema",
        ),
        pytest.param(
            "duckdb:///data/wh.duckdb",
            ("memory", "main", "orders"),
            "duckdb:///data/wh.duckdb/wh/main/orders",
            ("duckdb:///data/wh.duckdb", "wh.main.orders"),
            id="duckdb-is-named-after-its-file",
        ),
        pytest.param(
            "trino://t:8080",
            ("hive", "a/b", "50% größe?#"),
            "trino://t:8080/hive/a%2Fb/50%25%20gr%C3%B6%C3%9Fe%3F%23",
            ("trino://t:8080", "hive.a/b.50% größe?#"),
            id="what-would-break-a-uri",
        ),
    ],
)
def test_an_asset_has_the_uri_of_its_dataset(
    namespace: str, relation: tuple[str, str, str], uri: str, dataset: tuple[str, str]
) -> None:
    project, node = (
        DbtProject(project_dir="p", namespace=namespace),
        msgspec.structs.replace(NODE, relation=relation),
    )
    assert project.asset(node) == ("dbt/p/orders", uri)
    assert project.dataset(node) == dataset
    # Airflow takes it for normal. (It drops the slashes before an empty host, as in duckdb:/data.)
    assert urlsplit(Asset(name="a", uri=uri).uri) == urlsplit(uri)


def test_without_a_namespace_an_asset_has_only_its_name() -> None:
    project = DbtProject(project_dir="p")
    assert (project.asset(NODE), project.dataset(NODE)) == (("dbt/p/orders", None), None)


@pytest.mark.parametrize(
    "relation", [("-", "marts", "o"), ("wh", "-", "o"), ("wh", "-_marts", "o"), ("wh", "", "o")]
)
def test_a_manifest_without_the_warehouses_names_gives_no_uri(relation: tuple[str, str, str]) -> None:
    project = DbtProject(project_dir="p", namespace="postgres://wh:5432")
    node = msgspec.structs.replace(NODE, relation=relation)
    assert (project.asset(node), project.dataset(node)) == (("dbt/p/orders", None), None)


def test_the_graph_comes_from_an_object_store(shelf: Shelf) -> None:
    project = DbtProject(project_dir="/p", manifest=URL)
    with pytest.raises(
        InvalidProjectError, match=f"there is no dbt manifest at {URL}; make it with: .*--out {URL}"
    ):
        project.whole_index()
    content = manifest(model("a"), model("b", "a"))
    write(URL, content)
    index = project.whole_index(fresh=True)
    assert [node.name for node in index.nodes] == ["a", "b"]
    answers = Answers(index.key, (Resolved(Selection.of("b"), ("model.p.b",)),))
    write("memory://bucket/manifest.selections.json", encode_answers([answers]))
    assert [node.name for node in project.index(select=["b"]).nodes] == ["b"]
    shelf.down = True
    assert [node.name for node in project.index(select=["b"]).nodes] == ["b"]
    assert project.whole_index(fresh=True) == index


def test_a_new_remote_manifest_is_not_met_with_the_answers_of_the_one_before(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The manifest may be looked at anew when the answers were looked at a moment ago."""
    clock = [1_000.0]
    monkeypatch.setattr(locations, "time", SimpleNamespace(time=lambda: clock[0]))
    url, beside = "memory://bucket/deploy/manifest.json", "memory://bucket/deploy/manifest.selections.json"
    project = DbtProject(project_dir="/p", manifest=url)

    def deploy(content: bytes) -> None:
        answer = Resolved(Selection.of("b"), ("model.p.b",))
        write(beside, encode_answers([Answers(content_key(content), (answer,))]))
        write(url, content)

    deploy(manifest(model("a"), model("b", "a")))
    project.index()
    clock[0] += 30
    project.index(select="b")
    clock[0] += 10
    deploy(manifest(model("a"), model("b", "a"), model("c", "b")))
    clock[0] += 21
    assert len(project.index().nodes) == 3
    assert [node.name for node in project.index(select="b").nodes] == ["b"]


def test_names_that_are_no_ascii_become_assets_that_airflow_takes() -> None:
    content = manifest(model("umsatz_größe"))
    node = read_index(content, key="k", source="m").nodes[0]
    assert node.asset == "dbt/p/umsatz_gr%C3%B6%C3%9Fe"
    name, uri = DbtProject(project_dir="/p", namespace="postgres://h:5432").asset(node)
    assert name.isascii()
    assert uri is None or uri.isascii()


@pytest.mark.parametrize("name", ["profile_conn_id", "target"])
def test_a_template_in_a_project_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name}='.*cannot be a template"):
        DbtProject(project_dir="/p", **cast("Any", {name: "{{ params.x }}"}))


def test_the_environment_of_a_project_holds_texts_and_no_secrets() -> None:
    assert DbtProject(project_dir="/p", env={"DBT_SCHEMA": "marts"}).env == {"DBT_SCHEMA": "marts"}
    with pytest.raises(ValueError, match=r"DBT_ENV_SECRET_PW.*use profile_conn_id"):
        DbtProject(project_dir="/p", env={"DBT_ENV_SECRET_PW": "x"})
    with pytest.raises(TypeError, match="mapping of texts"):
        DbtProject(project_dir="/p", env={"DAYS": 1})  # type: ignore[dict-item]  # that is the mistake


def test_a_folder_that_is_not_there_is_called_that(tmp_path: Path) -> None:
    with pytest.raises(InvalidProjectError, match="is no folder here"):
        DbtProject(project_dir=tmp_path / "zzz").index()


def test_a_torn_remote_manifest_is_answered_with_the_last_good_index(shelf: Shelf) -> None:
    write(URL, manifest(model("a")))
    project = DbtProject(project_dir="/p", manifest=URL)
    good = project.index()
    write(URL, b'{"metadata"')
    assert project.whole_index(fresh=True) == good


def test_a_torn_remote_manifest_is_named_by_its_url(shelf: Shelf) -> None:
    write(URL, b'{"metadata"')
    with pytest.raises(InvalidProjectError, match=f"^{URL} is not a whole dbt manifest"):
        DbtProject(project_dir="/p", manifest=URL).index()


def test_a_default_selector_is_what_nothing_selected_means(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    path.write_bytes(manifest(model("a"), model("b"), selectors={"n": {"name": "n", "default": True}}))
    project = DbtProject(project_dir=tmp_path, manifest=path)
    with pytest.raises(InvalidProjectError, match="of the default selector 'n' is not resolved yet"):
        project.index()
    whole = project.whole_index()
    answers = Answers(whole.key, (Resolved(Selection(), ("model.p.a",)),))
    (tmp_path / "manifest.selections.json").write_bytes(encode_answers([answers]))
    assert [node.name for node in project.index().nodes] == ["a"]
