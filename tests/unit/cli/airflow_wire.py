"""A server that speaks as Airflow's public API does, or as badly as it is told to."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit


@dataclass
class Wire:
    """What it knows, and what it was asked."""

    url: str = ""
    token: str = ""
    assets: list[dict[str, Any]] = field(default_factory=list)
    sources: dict[str, str] = field(default_factory=dict)
    state: dict[tuple[int, str], Any] = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    raw: tuple[int, str] | None = None
    drip: threading.Event | None = None

    def add_asset(self, name: str, **fields: Any) -> int:
        """Add an asset as ``GET /assets`` gives it."""
        number = len(self.assets) + 1
        lists: dict[str, Any] = {"scheduled_dags": [], "producing_tasks": [], "consuming_tasks": []}
        self.assets.append({"id": number, "name": name, "uri": name, **lists, **fields})
        return number

    def answer(self, method: str, path: str, query: dict[str, list[str]], body: Any) -> tuple[int, Any]:
        parts = path.removeprefix("/api/v2/").split("/", 3)
        match method, parts:
            case "GET", ["assets"]:
                found = [a for a in self.assets if query["name_pattern"][0] in a["name"]]
                offset, limit = int(query["offset"][0]), int(query["limit"][0])
                return 200, {"assets": found[offset : offset + limit], "total_entries": len(found)}
            case "POST", ["assets", "events"]:
                self.events.append(body)
                return 200, {"id": len(self.events)}
            case "GET", ["assets", number, "state-store", key]:
                found_key = (int(number), unquote(key))
                if found_key not in self.state:
                    return 404, {"detail": "not found"}
                writer = {"kind": "task", "dag_id": "shop", "run_id": "r", "task_id": "publish"}
                value = self.state[found_key]
                return 200, {"key": found_key[1], "value": value, "last_updated_by": writer}
            case "PUT", ["assets", number, "state-store", key]:
                self.state[int(number), unquote(key)] = body["value"]
                return 204, None
            case "GET", ["dagSources", dag_id]:
                return (200, {"content": self.sources[dag_id]}) if dag_id in self.sources else (403, {})
            case _:
                return 404, {"detail": "not found"}


@contextmanager
def serving(wire: Wire) -> Iterator[Wire]:
    """Serve on a free port of this machine."""

    class Handler(BaseHTTPRequestHandler):
        def handle_any(self) -> None:
            split = urlsplit(self.path)
            wire.asked.append(f"{self.command} {split.path}")
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            if wire.drip is not None:
                self.send_response(200)
                self.end_headers()
                while not wire.drip.wait(0.05):
                    try:
                        self.wfile.write(b" ")
                        self.wfile.flush()
                    except OSError:
                        return
                return
            if wire.raw is not None:
                status, text = wire.raw
            elif self.headers.get("Authorization") != f"Bearer {wire.token}":
                status, text = 401, "{}"
            else:
                status, answer = wire.answer(self.command, split.path, parse_qs(split.query), body)
                text = "" if answer is None else json.dumps(answer)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text.encode())

        do_GET = do_PUT = do_POST = handle_any  # noqa: N815  the names http.server wants

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    wire.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield wire
    finally:
        if wire.drip is not None:
            wire.drip.set()
        server.shutdown()
        server.server_close()
        thread.join(5)
