"""What ``doctor`` shows and returns, and its checks against configurations that are wrong."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from airflow_ext.cli import doctor, doctor_config, doctor_install
from airflow_ext.cli.doctor_finding import Finding, fail, ok, warn
from airflow_ext.testing.ports import free_ports
from airflow_ext.vault.check import VaultCheck

FOUND = {
    "Area": [ok("good"), warn("odd " * 40, "look at it")],
    "Other": [fail("broken", "mend it")],
}


class Tty(io.StringIO):
    """A terminal to write to."""

    def isatty(self) -> bool:
        return True


def shown(file: io.StringIO) -> str:
    doctor.show(FOUND, file=file)
    return file.getvalue()


def statuses(findings: Iterable[Finding]) -> list[str]:
    return [finding.status for finding in findings]


@pytest.fixture
def execution_api() -> Iterator[int]:
    """A server that answers 200 below ``/execution/`` and 404 elsewhere; its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/execution/health" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


def test_text_is_aligned_wrapped_and_counted() -> None:
    lines = shown(io.StringIO()).splitlines()
    assert lines[:2] == ["Area", "  ok    good"]
    assert lines[2].startswith("  warn  odd odd")
    assert lines[3].startswith("        odd")
    assert "        look at it" in lines
    assert "  fail  broken" in lines
    assert lines[-1] == "1 ok, 1 warning, 1 failure"
    assert max(map(len, lines)) <= doctor.PIPE_WIDTH
    assert not [line for line in lines if line != line.rstrip()]


def test_colours_only_on_a_terminal_that_wants_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[" not in shown(io.StringIO())
    assert "\x1b[32m" in shown(Tty())
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[32m" not in shown(Tty())


def test_json_has_every_finding() -> None:
    told = json.loads(doctor.as_json(FOUND))
    assert told["ok"] is False
    assert told["findings"][0] == {"area": "Area", "status": "ok", "what": "good", "remedy": ""}
    assert len(told["findings"]) == 3


def test_a_check_that_breaks_is_a_finding_and_the_others_are_seen() -> None:
    def breaks() -> Iterator[Finding]:
        yield ok("before")
        raise RuntimeError("no luck\nsecond line")

    def works() -> Iterator[Finding]:
        yield ok("after")

    found = doctor.examine({"A": (breaks, works)})
    assert [finding.what for finding in found["A"]] == [
        "before",
        "the check 'breaks' broke: RuntimeError: no luck",
        "after",
    ]
    assert doctor.has_failed(found)


def test_the_whole_command_runs_without_a_database(capfd: pytest.CaptureFixture[str]) -> None:
    from airflow_ext.cli.main import main

    assert main(["doctor", "--json"]) == 1
    out = capfd.readouterr().out
    findings = json.loads(out[out.index("{\n") :])["findings"]
    assert "Run: airflow db migrate." in [finding["remedy"] for finding in findings]
    assert not [finding for finding in findings if "broke" in finding["what"]]
    assert all(finding["remedy"] for finding in findings if finding["status"] != "ok")


def test_a_secrets_backend_that_cannot_be_made_is_the_one_failure() -> None:
    environment = {
        **os.environ,
        "AIRFLOW__SECRETS__BACKEND": "airflow_ext.secrets.vault.VaultBackend",
        "AIRFLOW__SECRETS__BACKEND_KWARGS": '{"soft_ttl": "soon"}',
    }
    command = [sys.executable, "-m", "airflow_ext.cli.main", "doctor", "--json"]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 1, ran.stderr
    findings = json.loads(ran.stdout[ran.stdout.index("{\n") :])["findings"]
    failed = [finding["what"] for finding in findings if finding["status"] == "fail"]
    assert failed == ["[secrets] backend_kwargs: soft_ttl='soon': give a number"]


def test_a_secrets_backend_of_workers_that_cannot_be_made_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__WORKERS__SECRETS_BACKEND", "airflow_ext.secrets.vault.VaultBackend")
    monkeypatch.setenv("AIRFLOW__WORKERS__SECRETS_BACKEND_KWARGS", '{"soft_ttl": "soon"}')
    found = doctor.examine({"Configuration": (doctor_config.secrets_backend,)})["Configuration"]
    assert [finding.what for finding in found] == [
        "[workers] secrets_backend_kwargs: soft_ttl='soon': give a number"
    ]


def test_a_changed_port_without_the_execution_address_is_a_failure() -> None:
    os.environ["AIRFLOW__API__PORT"] = "9123"
    found = list(doctor_config.addresses())
    assert statuses(found) == ["warn", "fail"]
    assert found[1].remedy.endswith("http://localhost:9123/execution/.")


@pytest.mark.parametrize(
    ("path", "expected"),
    [pytest.param("/execution/", "ok", id="right"), pytest.param("/", "fail", id="wrong")],
)
def test_the_execution_api_is_asked(execution_api: int, path: str, expected: str) -> None:
    os.environ["AIRFLOW__API__BASE_URL"] = "https://airflow.example.com"
    os.environ["AIRFLOW__API__PORT"] = str(execution_api)
    os.environ["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"] = f"http://127.0.0.1:{execution_api}{path}"
    assert statuses(doctor_config.addresses()) == ["ok", expected]


def test_nothing_that_answers_is_a_warning() -> None:
    (port,) = free_ports(1)
    os.environ["AIRFLOW__API__PORT"] = str(port)
    os.environ["AIRFLOW__API__BASE_URL"] = f"http://localhost:{port}"
    assert statuses(doctor_config.addresses()) == ["ok", "warn"]


def test_more_triggers_than_files_is_a_warning() -> None:
    assert statuses(doctor_config.triggerer_limits()) == ["ok"]
    os.environ["AIRFLOW__TRIGGERER__CAPACITY"] = "100000000"
    (found,) = doctor_config.triggerer_limits()
    assert found.status == "warn"
    assert "ulimit -n" in found.remedy


def test_secrets_backend_of_others_is_not_asked() -> None:
    os.environ["AIRFLOW__SECRETS__BACKEND"] = "elsewhere.Backend"
    os.environ["AIRFLOW__SECRETS__BACKEND_KWARGS"] = "{}"
    assert statuses(doctor_config.secrets_backend()) == ["ok"]


def test_arguments_of_a_secrets_backend_that_are_no_json_are_a_failure_and_not_shown() -> None:
    os.environ["AIRFLOW__SECRETS__BACKEND"] = "elsewhere.Backend"
    os.environ["AIRFLOW__SECRETS__BACKEND_KWARGS"] = "{'token': 'hush'}"
    found = list(doctor_config.secrets_backend())
    assert statuses(found) == ["fail", "ok"]
    assert "hush" not in "".join(finding.what + finding.remedy for finding in found)


def test_our_vault_that_does_not_answer_is_a_failure() -> None:
    (port,) = free_ports(1)
    os.environ["AIRFLOW__SECRETS__BACKEND"] = "airflow_ext.secrets.vault.VaultBackend"
    os.environ["AIRFLOW__SECRETS__BACKEND_KWARGS"] = json.dumps(
        {"url": f"http://127.0.0.1:{port}", "auth_type": "token", "token": "t-o-k-e-n"}
    )
    found = list(doctor_config.secrets_backend())
    assert set(statuses(found)) == {"fail"}
    assert "t-o-k-e-n" not in "".join(finding.what + finding.remedy for finding in found)


def test_a_vault_that_works_is_told_with_its_version() -> None:
    checked = VaultCheck("https://vault", True, False, "1.20.0", True, 3600)
    (found,) = doctor_config.vault_findings(checked, where="[secrets] backend")
    assert found == ok(
        "[secrets] backend: Vault 1.20.0 at https://vault lets us read, token for another 3600 s"
    )


def test_versions_and_extras_of_this_environment_are_well() -> None:
    assert statuses([*doctor_install.versions(), *doctor_install.extras()]) == ["ok"] * 4


def test_an_object_is_importable_or_not() -> None:
    assert doctor_install.importable("airflow_ext.sla.Channel")
    assert not doctor_install.importable("airflow_ext.sla.NoSuch")
    assert not doctor_install.importable("nowhere.at.All")
