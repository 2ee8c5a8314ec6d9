from __future__ import annotations

import logging
import os
import secrets
from pathlib import Path

import pytest

from airflow_ext.dbt.locations import beside, local_copy, place_of, read, write
from airflow_ext.exceptions import InvalidProjectError
from tests.unit.dbt.conftest import Shelf

URL = "memory://bucket/deep/manifest.json"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param("/a/m.json", Path("/a/m.json"), id="path"),
        pytest.param("m.json", Path.cwd() / "m.json", id="relative"),
        pytest.param("file:///a/b%20c.json", Path("/a/b c.json"), id="file-url"),
        pytest.param("s3://conn@bucket/m.json", "s3://conn@bucket/m.json", id="url"),
    ],
)
def test_a_place_is_an_absolute_path_or_a_url(value: str, expected: Path | str) -> None:
    assert place_of(value, argument="manifest") == expected


def test_a_url_with_one_slash_is_no_folder() -> None:
    with pytest.raises(InvalidProjectError, match="artifacts='s3:/bucket/x': a URL has two slashes"):
        place_of("s3:/bucket/x", argument="artifacts")


def test_a_url_with_a_password_is_refused_without_telling_it() -> None:
    secret = secrets.token_hex()
    with pytest.raises(InvalidProjectError, match="manifest: a URL must not hold a password") as caught:
        place_of(f"ftp://user:{secret}@host/m.json", argument="manifest")
    assert secret not in str(caught.value)


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        pytest.param(Path("/a.b/m.json"), Path("/a.b/m.x.json"), id="path"),
        pytest.param("s3://a.b/m.json", "s3://a.b/m.x.json", id="url"),
        pytest.param("s3://a.b/m", "s3://a.b/m.x.json", id="no-suffix"),
    ],
)
def test_a_file_is_put_beside_another(place: Path | str, expected: Path | str) -> None:
    assert beside(place, ".x.json") == expected


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_who_may_read_a_file_is_what_the_umask_says(tmp_path: Path, mask: int, mode: int) -> None:
    path, before = tmp_path / "run_results.json", os.umask(mask)
    try:
        write(path, b"{}")
        write(path, b"[]")
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == mode
    assert [one.name for one in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == b"[]"


def test_what_is_written_to_a_store_is_read_back(shelf: Shelf) -> None:
    write(URL, b"one")
    write(URL, b"two")
    assert read(URL) == b"two"
    with pytest.raises(FileNotFoundError):
        read("memory://bucket/none.json")


def test_a_remote_file_is_looked_at_once_a_minute(shelf: Shelf, tmp_path: Path) -> None:
    write(URL, b"one")
    copy = local_copy(URL, cache=tmp_path, now=1000.0)
    assert copy is not None
    write(URL, b"two")
    shelf.asked = 0
    assert local_copy(URL, cache=tmp_path, now=1059.0) == copy
    assert (copy.read_bytes(), shelf.asked) == (b"one", 0)
    assert local_copy(URL, cache=tmp_path, now=1060.0) == copy
    assert copy.read_bytes() == b"two"


def test_an_unchanged_remote_file_is_not_fetched_again(shelf: Shelf, tmp_path: Path) -> None:
    write(URL, b"one")
    local_copy(URL, cache=tmp_path, now=1000.0)
    shelf.opened = 0
    local_copy(URL, cache=tmp_path, now=2000.0)
    assert (shelf.opened, shelf.asked > 0) == (0, True)


def test_a_fresh_look_does_not_wait(shelf: Shelf, tmp_path: Path) -> None:
    write(URL, b"one")
    copy = local_copy(URL, cache=tmp_path, now=1000.0)
    write(URL, b"two")
    assert local_copy(URL, cache=tmp_path, fresh=True, now=1001.0) == copy
    assert copy is not None
    assert copy.read_bytes() == b"two"


def test_a_store_that_does_not_answer_is_asked_once_a_minute_and_the_copy_serves(
    shelf: Shelf, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(URL, b"one")
    copy = local_copy(URL, cache=tmp_path, now=1000.0)
    shelf.down, shelf.asked = True, 0
    with caplog.at_level(logging.WARNING):
        for now in (2000.0, 2030.0, 2059.0):
            assert local_copy(URL, cache=tmp_path, now=now) == copy
    assert (shelf.asked, len(caplog.records)) == (1, 1)
    assert "going on with the last copy" in caplog.text


def test_a_store_that_never_answered_is_told(shelf: Shelf, tmp_path: Path) -> None:
    shelf.down = True
    with pytest.raises(InvalidProjectError, match=r"manifest\.json cannot be read: TimeoutError: no answer"):
        local_copy(URL, cache=tmp_path)


def test_a_store_that_airflow_does_not_know_is_told(tmp_path: Path) -> None:
    with pytest.raises(InvalidProjectError, match="cannot be read: ValueError"):
        local_copy("s3://bucket/manifest.json", cache=tmp_path)


def test_a_remote_file_that_is_gone_has_no_copy(shelf: Shelf, tmp_path: Path) -> None:
    write(URL, b"one")
    local_copy(URL, cache=tmp_path, now=1000.0)
    shelf.rm("/bucket/deep/manifest.json")
    assert local_copy(URL, cache=tmp_path, now=2000.0) is None
    shelf.asked = 0
    assert local_copy(URL, cache=tmp_path, now=2001.0) is None
    assert shelf.asked == 0
    write(URL, b"two")
    assert local_copy(URL, cache=tmp_path, now=2060.0) is not None


def test_a_copy_that_cannot_be_kept_is_told(shelf: Shelf, tmp_path: Path) -> None:
    write(URL, b"one")
    (tmp_path / "file").touch()
    with pytest.raises(InvalidProjectError, match="AIRFLOW_HOME must be writable"):
        local_copy(URL, cache=tmp_path / "file")
