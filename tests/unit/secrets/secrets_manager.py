"""A local server that speaks as much of AWS Secrets Manager's wire as a lookup needs, and a backend that asks it.

Source: the API reference of GetSecretValue and the AWS JSON 1.1 protocol (errors have ``__type``).
"""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
from airflow.sdk.bases.secrets_backend import BaseSecretsBackend


class SecretsManager:
    """The server; a context manager.

    :ivar secrets: Name to text.
    :ivar trouble: Status and code of the error that all requests get, ``None`` for none.
    :ivar asked: Names asked for.
    """

    def __init__(self) -> None:
        self.secrets: dict[str, str] = {}
        self.trouble: tuple[int, str] | None = None
        self.slow = 0.0
        self.asked: list[str] = []
        self._server: ThreadingHTTPServer | None = None

    def __enter__(self) -> SecretsManager:
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status, told = service.answer(str(self.headers["X-Amz-Target"]), body)
                raw = json.dumps(told).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/x-amz-json-1.1")
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        ).start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.server_port}"

    def answer(self, target: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        assert target == "secretsmanager.GetSecretValue"
        self.asked.append(body["SecretId"])
        time.sleep(self.slow)
        if self.trouble is not None:
            return self.trouble[0], {"__type": self.trouble[1], "message": "secret of somebody else"}
        if body["SecretId"] not in self.secrets:
            return 400, {"__type": "ResourceNotFoundException", "Message": "not there"}
        return 200, {"Name": body["SecretId"], "SecretString": self.secrets[body["SecretId"]]}


class ServiceError(Exception):
    """Has its code where botocore's errors have it."""

    def __init__(self, code: str) -> None:
        super().__init__(f"{code}: secret of somebody else")
        self.response = {"Error": {"Code": code}}


class PlainBackend(BaseSecretsBackend):
    """A custom secrets backend as a user may have written it: no cache, no retries, its errors rise."""

    def __init__(self, url: str, prefix: str = "airflow") -> None:
        super().__init__()
        self.url, self.prefix = url, prefix

    def get_conn_value(self, conn_id: str) -> str | None:  # type: ignore[override]  # as before there were teams
        return self._ask(f"{self.prefix}/connections/{conn_id}")

    def get_variable(self, key: str, team_name: str | None = None) -> str | None:
        return self._ask(f"{self.prefix}/variables/{team_name + '--' if team_name else ''}{key}")

    def get_config(self, key: str) -> str | None:
        return self._ask(f"{self.prefix}/config/{key}")

    def _ask(self, name: str) -> str | None:
        headers = {"X-Amz-Target": "secretsmanager.GetSecretValue"}
        reply = httpx.post(self.url, json={"SecretId": name}, headers=headers, timeout=5)
        if reply.status_code == 200:
            return str(reply.json()["SecretString"])
        if reply.json()["__type"] == "ResourceNotFoundException":
            return None
        raise ServiceError(reply.json()["__type"])
