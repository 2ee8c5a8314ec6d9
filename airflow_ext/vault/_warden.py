"""Watch a task from outside and revoke its credentials when it is gone: ``python _warden.py PID PATIENCE``.

Runs with the standard library alone, isolated, in a session of its own, and nobody's child: what kills a task
and all its processes does not reach it. Signals that ask to end are ignored, as whoever stops a service sends them
to all its processes, and kills the tasks that go on later. It reads one JSON object per line from standard input:

- ``{"url", "namespace", "verify", "cert", "revoke": [[path, token, body], ...]}`` replaces what is to be done;
- ``{"done": true}`` means that the task has done it itself, ``{"act": true}`` that it could not: do it now.

When the task ends without that, each call of ``revoke`` is made, again and again for PATIENCE seconds while
Vault does not answer. Nothing is ever printed or written.
"""

from __future__ import annotations

import http.client
import json
import os
import resource
import select
import signal
import ssl
import sys
import time
from contextlib import suppress
from urllib.parse import urlsplit

TIMEOUT = 2.0
PAUSES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
IGNORED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)


def watch(descriptor: int) -> dict | None:  # type: ignore[type-arg]
    """Wait until the task ends; return what is to be done, or ``None`` when nothing is.

    :param descriptor: A pidfd of the task; -1 where there is none: then the end of the input tells.
    """
    order: dict | None = None  # type: ignore[type-arg]
    rest, reading = b"", True
    while True:
        wanted = [*([0] if reading else []), *([descriptor] if descriptor >= 0 else [])]
        ready = select.select(wanted, [], [])[0]
        if 0 in ready:
            piece = os.read(0, 65536)
            reading = bool(piece)
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                told = json.loads(line)
                if told.get("done"):
                    return None
                if told.get("act"):
                    return order
                order = told
            if piece:
                continue  # all that was written is read before the end is acted upon
        if descriptor in ready or (not reading and descriptor < 0):
            return order


def revoke(order: dict, patience: float) -> None:  # type: ignore[type-arg]
    """Make the calls, until each was answered or ``patience`` seconds are over."""
    calls, ends, attempt = list(order["revoke"]), time.monotonic() + patience, 0
    while calls:
        calls = [each for each in calls if not answered(order, *each)]
        pause = PAUSES[min(attempt, len(PAUSES) - 1)]
        if calls and time.monotonic() + pause > ends:
            return
        if calls:
            time.sleep(pause)
            attempt += 1


def answered(order: dict, path: str, token: str, body: dict | None) -> bool:  # type: ignore[type-arg]
    """Make one call; true when Vault said anything that another try would not change."""
    parts = urlsplit(order["url"])
    headers = {"X-Vault-Token": token, "X-Vault-Request": "true", "Content-Type": "application/json"}
    if order.get("namespace"):
        headers["X-Vault-Namespace"] = order["namespace"]
    connection: http.client.HTTPConnection | None = None
    try:
        host = str(parts.hostname)
        if parts.scheme == "https":
            connection = http.client.HTTPSConnection(host, parts.port, timeout=TIMEOUT, context=trust(order))
        else:
            connection = http.client.HTTPConnection(host, parts.port, timeout=TIMEOUT)
        connection.request("PUT", f"{parts.path.rstrip('/')}/v1/{path}", json.dumps(body or {}), headers)
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return False
    finally:
        if connection is not None:
            connection.close()
    # A lease whose engine refuses to revoke it is a 400: the database may be back, or the role own nothing, later.
    return 200 <= status < 300 or status in (403, 404) or (status == 400 and path != "sys/leases/revoke")


def trust(order: dict) -> ssl.SSLContext:  # type: ignore[type-arg]
    """Return how certificates are checked, and the one of our own."""
    verify = order.get("verify")
    folder = isinstance(verify, str) and os.path.isdir(verify)  # noqa: PTH112  # pathlib would make the start slower
    file = isinstance(verify, str) and not folder
    # With either, those of the system are not trusted: the task does not trust them.
    context = ssl.create_default_context(cafile=verify if file else None, capath=verify if folder else None)
    if verify is False:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if order.get("cert"):
        context.load_cert_chain(*order["cert"])
    return context


def main() -> None:
    """Become nobody's child, then watch."""
    for each in IGNORED:
        signal.signal(each, signal.SIG_IGN)
    process, patience = int(sys.argv[1]), float(sys.argv[2])
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # tokens must not reach a core dump
    descriptor = -1
    with suppress(AttributeError, OSError):
        descriptor = os.pidfd_open(process)
    if os.getppid() != process:  # it ended before we began; the descriptor may be somebody else's
        descriptor = -1
    if os.fork():
        os._exit(0)
    order = watch(descriptor)
    if order is not None:
        revoke(order, patience)


if __name__ == "__main__":
    main()
