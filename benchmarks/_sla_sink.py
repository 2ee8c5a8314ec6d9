"""Channels of the SLA benchmark, and the server they tell: it writes down every call with the time it came."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
from airflow.sdk import BaseNotifier

from airflow_ext.sla import SlaEvent
from airflow_ext.testing.ports import free_ports

ROOT = Path(__file__).parents[1]


def nowhere(event: SlaEvent) -> None:
    """Tell nobody."""


class Plain(BaseNotifier):
    """A channel that takes whatever comes, as a chat does."""

    template_fields = ("text",)

    def __init__(self, *, url: str, text: str = "") -> None:
        super().__init__()
        self.url, self.text = url, text

    async def async_notify(self, context: Any) -> None:
        """Post what is told."""
        await _post(f"{self.url}/plain", context["sla"], key="")


class Keyed(BaseNotifier):
    """A channel that keeps one alert for each key, as incident tools do."""

    template_fields = ("summary", "dedup_key", "custom_details")

    def __init__(
        self,
        *,
        url: str,
        summary: str = "",
        severity: str = "",
        action: str = "trigger",
        dedup_key: str = "",
        custom_details: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.url, self.summary, self.severity = url, summary, severity
        self.action, self.dedup_key, self.custom_details = action, dedup_key, custom_details

    async def async_notify(self, context: Any) -> None:
        """Post what is told."""
        await _post(f"{self.url}/keyed", context["sla"], key=self.dedup_key)


async def _post(url: str, event: SlaEvent, *, key: str) -> None:
    body = {"key": key, "kind": event.kind, "dags": [event.dag_id, *event.others]}
    async with httpx.AsyncClient(timeout=10) as client:
        (await client.post(url, json=body)).raise_for_status()


@dataclass(frozen=True)
class Sink:
    """The server and what it was told."""

    url: str
    file: Path

    def calls(self, channel: str) -> list[dict[str, Any]]:
        """Return the calls of ``plain`` or ``keyed`` in the order they came."""
        lines = [json.loads(line) for line in self.file.read_text().splitlines()]
        return [line for line in lines if line["channel"] == channel]


@contextmanager
def sink(home: Path) -> Iterator[Sink]:
    """Run the server, in a process of its own: the benchmark's is busy."""
    (port,) = free_ports(1)
    made = Sink(f"http://127.0.0.1:{port}", home / "told.jsonl")
    made.file.touch()
    process = subprocess.Popen([sys.executable, "-m", __name__, str(port), str(made.file)], cwd=ROOT)
    try:
        while True:
            try:
                httpx.get(made.url, timeout=5)
                break
            except httpx.TransportError:
                time.sleep(0.05)
        yield made
    finally:
        process.terminate()
        process.wait(timeout=10)


class _Handler(BaseHTTPRequestHandler):
    file: Path

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        line = json.dumps({"at": time.time(), "channel": self.path.strip("/"), **body})
        with self.file.open("a") as file:
            file.write(line + "\n")
        self._answer()

    def _answer(self) -> None:
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


if __name__ == "__main__":
    _Handler.file = Path(sys.argv[2])
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), _Handler).serve_forever()
