"""``airflow-ext vault``: look at the Vault that connections come from, without ever showing a value."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow_ext.secrets.vault import VaultBackend

KINDS = ("connection", "variable", "config")


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the group ``vault`` to a command line."""
    group = subparsers.add_parser("vault", help="connections from Vault: check, explain, leases, migration")
    verbs = group.add_subparsers(dest="verb", metavar="VERB", required=True)
    check = verbs.add_parser("check", help="health, login, what the token may do; reads no secret")
    check.set_defaults(func=_check)
    explain = verbs.add_parser("explain", help="where an id is looked for, and what is there; no values")
    explain.add_argument("id")
    explain.add_argument("--kind", choices=KINDS, default="connection")
    explain.add_argument("--team", help="with [core] multi_team, as this team looks it up")
    explain.set_defaults(func=_explain)
    names = verbs.add_parser("list", help="the ids Vault holds")
    names.add_argument("--kind", choices=KINDS, default="connection")
    names.set_defaults(func=_list)
    leases = verbs.add_parser("leases", help="the leases that tasks wrote down, and whether they live")
    leases.set_defaults(func=_leases)
    sweep = verbs.add_parser("sweep", help="revoke leases of tasks that run no more")
    sweep.add_argument("--dry-run", action="store_true", help="only say what would be revoked")
    sweep.set_defaults(func=_sweep)
    audit = verbs.add_parser("audit", help="accesses, from the audit_file of the backend")
    audit.add_argument("--file", type=Path, help="another file")
    audit.add_argument("--last", type=int, default=50, help="how many of the newest (0: all)")
    audit.add_argument("--id", help="only of this connection, variable or option")
    audit.add_argument("--dag-id", help="only of this DAG")
    audit.set_defaults(func=_audit)
    migrate = verbs.add_parser(
        "migrate", help="copy connections and variables from Airflow and environment to Vault"
    )
    migrate.add_argument("--write", action="store_true", help="do it; without this it is only told")
    migrate.add_argument("--overwrite", action="store_true", help="also what Vault has already")
    migrate.add_argument("--only", metavar="REGEX", default=".*", help="ids to copy (default: all)")
    migrate.set_defaults(func=_migrate)
    serve = verbs.add_parser(
        "serve-dev", help="a Vault-compatible server on this machine, in memory, for trying out"
    )
    serve.add_argument("--port", type=int, default=0, help="TCP port on the loopback (default: a free one)")
    serve.add_argument("--root-token-file", type=Path, required=True, help="read, or written when missing")
    serve.set_defaults(func=_serve)


def _backend() -> VaultBackend:
    from airflow_ext.hooks.vault import configured_backend

    return configured_backend()


def _check(_: argparse.Namespace) -> int:
    backend = _backend()
    found = backend.check()
    print(f"Vault at {found.address}: {'reachable' if found.reachable else 'not reachable'}", end="")
    print(f", version {found.version}" if found.version else "", end="")
    print(", sealed" if found.sealed else "")
    if found.logged_in:
        left = f"{found.token_ttl} s left" if found.token_ttl else "without end"
        print(f"logged in with {backend.client.settings.auth_type}, token {left}")
    for path, granted in found.capabilities.items():
        print(f"  {path}: {', '.join(granted)}")
    for problem in found.problems:
        print(f"problem: {problem}")
    if found.logged_in:
        for remark in _lease_remarks(backend):
            print(f"remark: {remark}")
    return 0 if found.ok else 1


def _lease_remarks(backend: VaultBackend) -> list[str]:
    """Return what is not as it should be for leases, as far as this token can see."""
    client = backend.client
    wanted = ["auth/token/create", "auth/token/revoke-accessor"]
    reply = client.call("POST", "sys/capabilities-self", body={"paths": wanted})
    told = {**reply.body, **reply.data}
    remarks = []
    if backend.lease_settings.scope == "child" and not {"update", "root", "sudo"} & set(
        told.get(wanted[0]) or []
    ):
        remarks.append(
            'leases cost a login each: path "auth/token/create" { capabilities = ["create", "update"] } would allow'
            " a token per task"
        )
    if not {"update", "root", "sudo"} & set(told.get(wanted[1]) or []):
        remarks.append(
            'sweep cannot end tokens: path "auth/token/revoke-accessor" { capabilities = ["update"] } is missing'
        )
    listed = client.call("GET", "database/roles", query="?list=true")
    for role in listed.data.get("keys") or []:
        settings = client.call("GET", f"database/roles/{role}").data
        statements = " ".join(settings.get("revocation_statements") or [])
        if "pg_terminate_backend" not in statements:
            remarks.append(
                f"database/roles/{role} does not end sessions when a lease ends: see 'Revocation' in docs/vault-leases.md"
            )
    return remarks


def _explain(args: argparse.Namespace) -> int:
    from airflow_ext.exceptions import AirflowExtError
    from airflow_ext.vault.documents import checked

    backend, found = _backend(), False
    if not backend.allows(args.id):
        print(
            f"include and exclude leave {args.id!r} out: no lookup asks Vault; Airflow asks its next secrets backend"
        )
        return 1
    for place in backend.places(args.kind, args.id, args.team):
        shown = f"{place.client.api_path(place.mount, place.path)}{' (bundle)' if place.bundle else ''}"
        try:
            reading = backend.read_place(place, args.id)
        except AirflowExtError as error:
            print(f"{shown}: {error}")
            return 1
        document = reading.document
        if document is None:
            print(f"{shown}: nothing")
            continue
        version = f"version {document.version}, " if document.version else ""
        told = f"{shown}: {version}keys {', '.join(sorted(document.data))}"
        if found:
            print(f"{told}; hidden")
            continue
        try:
            spec = checked(args.kind, document)
        except AirflowExtError as error:
            print(f"{told}; refused: {error}")
            return 1
        print(f"{told}; used")
        if spec is not None:
            print(
                f"  credentials {'of the static role' if spec.is_static else 'leased per task from'} {spec.path}"
            )
        found = True
    if not found:
        print(f"Vault has no {args.kind} {args.id!r}; Airflow asks its next secrets backend")
    return 0 if found else 1


def _list(args: argparse.Namespace) -> int:
    from airflow_ext.vault.admin import list_names

    backend = _backend()
    mount = backend.layout.mount_point
    for folder in backend.layout.folders(args.kind) if mount is not None else ():
        for name in list_names(backend.client, str(mount), folder):
            print(name)
    return 0


def _leases(_: argparse.Namespace) -> int:
    from airflow_ext.cli.vault_records import stored_records
    from airflow_ext.vault.sweeping import client_of, is_alive

    clients = _backend().lease_clients()
    words = {True: "lives", False: "ended", None: "unknown"}
    rows = [
        (
            words[is_alive(client_of(clients, each.record), each.record)],
            "running" if each.running else "over",
            each.name,
            _ids(each.record),
        )
        for each in stored_records()
    ]
    if not rows:
        print("no task has written down a lease")
        return 0
    for lease, task, name, ids in [("LEASE", "TASK", "DAG/RUN/TASK", "LEASE IDS"), *rows]:
        print(f"{lease:8} {task:8} {name}  {ids}")
    left = sum(lease != "ended" and task == "over" for lease, task, _, _ in rows)
    if left:
        print(f"{left} may have outlived their task: airflow-ext vault sweep revokes them")
    return 0


def _ids(record: Mapping[str, object]) -> str:
    found = record.get("leases")
    return ", ".join(str(each) for each in found) if isinstance(found, list) else ""


def _sweep(args: argparse.Namespace) -> int:
    from airflow_ext.cli.vault_records import stored_records
    from airflow_ext.vault.sweeping import client_of, is_alive, revoke_record

    clients, done, left = _backend().lease_clients(), 0, 0
    for stored in stored_records():
        client = client_of(clients, stored.record)
        if stored.running or is_alive(client, stored.record) is False:
            continue
        if args.dry_run:
            print(f"would revoke {stored.name}: {_ids(stored.record)}")
            done += 1
        elif revoke_record(client, stored.record):
            print(f"revoked {stored.name}: {_ids(stored.record)}")
            done += 1
        else:
            print(
                f"NOT revoked {stored.name}: it is of another Vault or namespace, or a policy with path "
                '"auth/token/revoke-accessor" { capabilities = ["update"] } is missing'
            )
            left += 1
    if not done and not left:
        print("nothing is left to revoke")
    elif args.dry_run:
        print("nothing was revoked; leave --dry-run out to do it")
    return 1 if left else 0


def _audit(args: argparse.Namespace) -> int:
    import json

    from airflow_ext.exceptions import InvalidError
    from airflow_ext.vault.audit import read_audit

    file = args.file or _backend().audit.file
    if file is None:
        raise InvalidError("the backend has no audit_file: set it, or give --file")
    wanted = {key: value for key, value in (("id", args.id), ("dag_id", args.dag_id)) if value}
    for told in read_audit(Path(file), last=args.last, **wanted):
        print(json.dumps(told))
    return 0


def _migrate(args: argparse.Namespace) -> int:
    from airflow_ext.cli.vault_migrate import migrate

    return migrate(_backend(), write=args.write, overwrite=args.overwrite, only=args.only)


def _serve(args: argparse.Namespace) -> int:
    from airflow_ext.testing.vault import serve

    serve(args.port, args.root_token_file)
    return 0
