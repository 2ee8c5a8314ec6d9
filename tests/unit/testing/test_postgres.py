from __future__ import annotations

from pathlib import Path

import psycopg2
import pytest

from airflow_ext.testing.postgres import LocalPostgres
from airflow_ext.testing.processes import processes_in


def test_data_and_password_survive_a_restart(tmp_path: Path) -> None:
    with LocalPostgres(tmp_path / "postgres") as server:
        server.create_database("shop")
        server.create_database("shop")  # again is no error
        server.execute("CREATE TABLE orders (id integer)", database="shop")
        server.execute("INSERT INTO orders VALUES (7)", database="shop")
        password = server.password
    with LocalPostgres(tmp_path / "postgres") as server:
        assert server.execute("SELECT id FROM orders", database="shop") == [(7,)]
        assert server.password == password


def test_a_wrong_password_is_refused(tmp_path: Path) -> None:
    with LocalPostgres(tmp_path / "postgres") as server:
        url = server.url().replace(server.password, "wrong")
        with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
            psycopg2.connect(url)


def test_it_leaves_no_process_and_only_its_folder(tmp_path: Path) -> None:
    with LocalPostgres(tmp_path / "postgres") as server:
        assert len(processes_in(tmp_path)) > 1
        assert server.execute("SHOW unix_socket_directories") == [("",)]
    assert processes_in(tmp_path) == []
    assert "database system is shut down" in (tmp_path / "postgres" / "postgres.log").read_text()


def test_settings_reach_the_server(tmp_path: Path) -> None:
    with LocalPostgres(tmp_path / "postgres", settings={"max_connections": "37"}) as server:
        assert server.execute("SHOW max_connections") == [("37",)]
