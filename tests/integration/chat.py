"""A chat server on this machine, as far as Slack's notifier needs one."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Chat(ThreadingHTTPServer):
    """Keeps the messages, each with the ``ts`` it was given."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.messages: list[dict[str, Any]] = []
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        """Base of the Web API."""
        return f"http://127.0.0.1:{self.server_port}/api/"

    def about(self, words: str, channel: str) -> list[dict[str, Any]]:
        """Return the messages of a channel that say something."""
        with self.lock:
            found = list(self.messages)
        return [message for message in found if message["channel"] == channel and words in message["text"]]


class _Handler(BaseHTTPRequestHandler):
    server: Chat

    def do_POST(self) -> None:
        message = json.loads(self.rfile.read(int(self.headers["Content-Length"] or 0)))
        with self.server.lock:
            ts = f"1772.{len(self.server.messages):06}"
            self.server.messages.append({**message, "ts": ts})
        body = json.dumps({"ok": True, "ts": ts, "channel": "C1"}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def chat_server() -> Iterator[Chat]:
    """Let a chat server run."""
    server = Chat()
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
