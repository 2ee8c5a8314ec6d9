"""File systems that providers make, on their way to the engine's process."""

from __future__ import annotations

import importlib
import json
import secrets
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowFailException

from airflow_ext.exceptions import SyncFailedError
from airflow_ext.hooks._sync_filesystems import dump_filesystem
from airflow_ext.hooks.sync import DltHook
from airflow_ext.operators.sync import SyncFiles, SyncOperator, SyncTable
from tests.unit.sync.remote import TaskState, context

BUCKETS = """
from fsspec.implementations.local import LocalFileSystem

class BucketFileSystem(LocalFileSystem):
    protocol = "bucket"

    def __init__(self, *, folder, opener=None, endpoint_url=None, session=None, key=None, secret=None, token=None,
                 client_kwargs=None):
        super().__init__()
        self.folder = folder
        self.known = (key, secret, token, client_kwargs)

    @classmethod
    def _strip_protocol(cls, path):
        return path.removeprefix("bucket://")

    def glob(self, path, **options):
        key, secret, token, client_kwargs = self.known
        if secret != open(self.folder + "/secret").read() or client_kwargs != {"region_name": "eu-west-1"}:
            raise OSError(f"no access for {key} with {secret}")
        return super().glob(self.folder + "/" + self._strip_protocol(path), **options)
"""


class Session:
    """What Amazon's provider gives s3fs: a session that answers asynchronously."""

    def __init__(self, secret: str) -> None:
        self.secret = secret

    async def get_credentials(self) -> Session:
        return self

    async def get_frozen_credentials(self) -> Any:
        return SimpleNamespace(access_key="me", secret_key=self.secret, token=None)

    def get_config_variable(self, name: str) -> str | None:
        return {"region": "eu-west-1"}.get(name)


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Options that the provider of ``bucket://`` gives; the file system's class is a module of another package."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "bucketfs.py").write_text(BUCKETS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.delitem(sys.modules, "bucketfs", raising=False)
    (tmp_path / "orders").mkdir()
    (tmp_path / "orders" / "1.csv").write_text("id\n1\n2\n")
    (tmp_path / "secret").write_text(secrets.token_urlsafe(16))
    options: dict[str, Any] = {"folder": str(tmp_path), "endpoint_url": None}

    def get_fs(conn_id: str, storage_options: dict[str, Any]) -> Any:
        made = importlib.import_module("bucketfs").BucketFileSystem
        return made(**options, **storage_options, skip_instance_cache=True)

    monkeypatch.setattr("airflow.sdk.io.fs._register_filesystems", lambda: {"bucket": get_fs})
    documents: dict[str, Any] = {
        "landing": {"conn_type": "aws"},
        "warehouse": {"conn_type": "duckdb", "host": str(tmp_path / "w.duckdb")},
        "both": {
            "conn_type": "ext-dlt",
            "extra": {"source_conn_id": "landing", "destination_conn_id": "warehouse"},
        },
    }
    for name, document in documents.items():
        monkeypatch.setenv(f"AIRFLOW_CONN_{name.upper()}", json.dumps(document))
    return options


def load(folder: Path) -> Any:
    with DAG("ingest", schedule=None):
        task = SyncOperator(
            task_id="load",
            sync_conn_id="both",
            tables=[SyncFiles("orders", path="bucket://orders/*.csv")],
            pipelines_folder=folder / "state",
        )
    return task.execute(context(TaskState()))


def test_a_session_becomes_the_credentials_it_holds(bucket: dict[str, Any], tmp_path: Path) -> None:
    bucket["session"] = Session((tmp_path / "secret").read_text())
    assert load(tmp_path)["tables"]["orders"]["rows"] == 2
    assert (
        bucket["session"].secret
        in DltHook("both").get_conn([SyncFiles("orders", path="bucket://orders/*.csv")]).secrets
    )


def test_credentials_that_are_refused_are_not_shown(bucket: dict[str, Any], tmp_path: Path) -> None:
    bucket["session"] = Session(secrets.token_urlsafe(16))
    with pytest.raises(SyncFailedError, match="no access for me") as caught:
        load(tmp_path)
    assert bucket["session"].secret not in str(caught.value)


def test_an_object_that_cannot_travel_is_for_the_author_to_replace(
    bucket: dict[str, Any], tmp_path: Path
) -> None:
    bucket["opener"] = object()
    with pytest.raises(AirflowFailException, match=r"'landing'.*gives opener as an object.*storage_options"):
        load(tmp_path)


def test_what_fsspec_makes_itself_comes_back_the_same() -> None:
    import fsspec

    made = fsspec.filesystem("http", client_kwargs={"trust_env": True}, simple_links=None)
    again = fsspec.AbstractFileSystem.from_json(dump_filesystem(made))
    assert again is made


def test_tables_of_different_sources_are_two_tasks(bucket: dict[str, Any]) -> None:
    tables = [SyncFiles("orders", path="bucket://orders/*.csv"), SyncTable("orders", mode="replace")]
    with pytest.raises(
        ValueError, match="SyncFiles, SyncTable have different sources; load them in two tasks"
    ):
        DltHook("both").get_conn(tables)
