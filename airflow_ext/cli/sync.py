"""``airflow-ext sync``: try syncs without an account."""

from __future__ import annotations

import argparse
import json
import math
import signal
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow_ext.testing._vendor_server import LocalVendor

DEFAULT_SYNCS = ("shop:5", "crm:20")


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the group ``sync`` to a command line.

    :param subparsers: What ``ArgumentParser.add_subparsers()`` returned.
    """
    group = subparsers.add_parser(
        "sync", help="syncs: a local Fivetran, Airbyte or Hightouch to try DAGs with"
    )
    verbs = group.add_subparsers(dest="verb", metavar="serve-fake", required=True)
    parser = verbs.add_parser("serve-fake", help="run a local server that answers as a vendor does")
    parser.add_argument("vendor", choices=tuple(_VENDORS))
    parser.add_argument("--port", type=int, default=0, help="TCP port on the loopback (default: a free one)")
    parser.add_argument(
        "--sync",
        action="append",
        metavar="NAME[:SECONDS]",
        help="a sync it offers and how long each run takes (default: shop:5 and crm:20)",
    )
    parser.set_defaults(func=_serve_command)


def _serve_command(args: argparse.Namespace) -> int:
    try:
        if not 0 <= args.port < 65536:
            raise ValueError(f"--port {args.port}: give a TCP port from 1 to 65535, or 0 for a free one")
        syncs = [_named(text) for text in args.sync or DEFAULT_SYNCS]
    except ValueError as error:
        print(f"airflow-ext: {error}", file=sys.stderr)
        return 2
    server, connection, names = _VENDORS[args.vendor](args.port, syncs)
    try:
        server.start()
    except OSError as error:
        told = error.strerror or error
        print(
            f"airflow-ext: --port {args.port}: {told}; give another, or leave it out for a free one",
            file=sys.stderr,
        )
        return 2
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    try:
        connection["host"] = server.url + connection["host"]
        variable = f"AIRFLOW_CONN_LOCAL_{args.vendor.upper()}"
        print(
            f"Local {args.vendor} at {server.url}, until Ctrl-C. Its connection, for Airflow's environment:\n"
        )
        print(f"export {variable}='{json.dumps(connection)}'\n")
        for line in names:
            print(line)
        sys.stdout.flush()
        ended.wait()
    finally:
        server.stop()
    return 0


def _named(text: str) -> tuple[str, float]:
    name, _, given = text.partition(":")
    try:
        seconds = float(given or 5)
    except ValueError:
        seconds = -1.0
    if not name.strip() or not 0 <= seconds < math.inf:
        raise ValueError(f"--sync {text!r}: give NAME or NAME:SECONDS, such as shop:5")
    return name.strip(), seconds


Syncs = list[tuple[str, float]]
Served = tuple["LocalVendor", dict[str, str], list[str]]


def _fivetran(port: int, syncs: Syncs) -> Served:
    from airflow_ext.testing.fivetran import LocalFivetran, SyncScript

    server = LocalFivetran(port=port)
    for name, seconds in syncs:
        server.connection(name, SyncScript(seconds=seconds))
    connection = {
        "conn_type": "ext-fivetran",
        "host": "",
        "login": server.api_key,
        "password": server.api_secret,
    }
    shown = [f'  SyncOperator(sync_conn_id="local_fivetran", sync="{name}")' for name, _ in syncs]
    return server, connection, shown


def _airbyte(port: int, syncs: Syncs) -> Served:
    from airflow_ext.testing.airbyte import JobScript, LocalAirbyte

    server = LocalAirbyte(port=port)
    for name, seconds in syncs:
        server.connection(name, JobScript(seconds=seconds, rows=1000))
    connection = {
        "conn_type": "ext-airbyte",
        "host": server.base,
        "login": server.client_id,
        "password": server.client_secret,
    }
    shown = [
        f'  SyncOperator(sync_conn_id="local_airbyte", sync="{each.name}")  # {each.id}'
        for each in server.connections.values()
    ]
    return server, connection, shown


def _hightouch(port: int, syncs: Syncs) -> Served:
    from airflow_ext.testing.hightouch import LocalHightouch, RunScript

    server = LocalHightouch(port=port)
    for name, seconds in syncs:
        server.sync(name, RunScript(seconds=seconds, added=1000))
    connection = {"conn_type": "ext-hightouch", "host": server.base, "password": server.api_key}
    shown = [
        f'  SyncOperator(sync_conn_id="local_hightouch", sync="{each.slug}")  # {each.id}'
        for each in server.syncs.values()
    ]
    return server, connection, shown


_VENDORS: dict[str, Callable[[int, Syncs], Served]] = {
    "fivetran": _fivetran,
    "airbyte": _airbyte,
    "hightouch": _hightouch,
}
