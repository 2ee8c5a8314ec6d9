"""``airflow-ext sync``: what it refuses, in one line."""

from __future__ import annotations

import pytest

from airflow_ext.cli import main
from airflow_ext.testing.fivetran import LocalFivetran


@pytest.mark.parametrize(
    ("words", "told"),
    [
        pytest.param(["--port", "99999"], "--port 99999: give a TCP port from 1 to 65535", id="no port"),
        pytest.param(["--sync", ":5"], "--sync ':5': give NAME or NAME:SECONDS", id="no name"),
        pytest.param(["--sync", "shop:-1"], "--sync 'shop:-1': give NAME or NAME:SECONDS", id="negative"),
        pytest.param(["--sync", "shop:nan"], "--sync 'shop:nan': give NAME or NAME:SECONDS", id="no number"),
    ],
)
def test_what_cannot_be_served_is_refused_in_a_line(
    capsys: pytest.CaptureFixture[str], words: list[str], told: str
) -> None:
    assert main.main(["sync", "serve-fake", "fivetran", *words]) == 2
    assert capsys.readouterr().err.startswith(f"airflow-ext: {told}")


def test_a_port_that_is_used_is_told_with_the_way_out(capsys: pytest.CaptureFixture[str]) -> None:
    with LocalFivetran() as other:
        port = other.url.rpartition(":")[2]
        assert main.main(["sync", "serve-fake", "airbyte", "--port", port]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"airflow-ext: --port {port}: Address already in use; give another")
