"""``airflow-ext contracts verify`` and ``publish``: judge real tables from outside of a DAG."""

from __future__ import annotations

import argparse
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from airflow_ext.cli.contracts_change import Verbs, add_format
from airflow_ext.cli.contracts_output import Finding, Printer, write_findings, write_json
from airflow_ext.cli.contracts_state import Adder, RestAssets, add_store, asked, show_verdict, store_of
from airflow_ext.exceptions import InvalidError, UnavailableError

if TYPE_CHECKING:
    from airflow_ext.contracts.model import Contract
    from airflow_ext.contracts.sql import Database
    from airflow_ext.contracts.verdict import Verdict


def add_verify(verbs: Verbs[argparse.ArgumentParser], command: Adder) -> None:
    """Add ``verify``."""
    parser = verbs.add_parser(
        "verify",
        help="judge the real table now, and tell nobody",
        description="Judge a partition of the real table. Nothing is written. Ends with 1 if the contract is broken.",
    )
    _add_judge(parser)
    add_format(parser)
    parser.set_defaults(func=command)


def add_publish(verbs: Verbs[argparse.ArgumentParser], command: Adder) -> None:
    """Add ``publish``."""
    parser = verbs.add_parser(
        "publish",
        help="judge a partition and publish the verdict, from outside of a DAG",
        description="Judge a partition and write the verdict where waiting sensors read it. With --url DAGs that the "
        "contract starts get an event too; into a database they get none, since that Airflow is not known. It never "
        "quarantines and sends no notices: that is the work of ContractPublishOperator. Ends with 1 on a breach.",
    )
    _add_judge(parser)
    parser.add_argument(
        "--no-event", action="store_true", help="with --url: let waiting sensors learn of it only"
    )
    add_store(parser)
    add_format(parser, ("text", "json"))
    parser.set_defaults(func=command)


def _add_judge(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("contract", metavar="FILE", help="contract file")
    parser.add_argument("partition", help="partition key")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--conn-id", metavar="ID", help="Airflow connection (default: the contract's own)")
    where.add_argument(
        "--database-env",
        metavar="NAME",
        help="environment variable with the database's URL: duckdb:///file, sqlite:///file or postgresql://...",
    )


def open_url(variable: str, *, create: bool = False) -> tuple[Any, str]:
    """Open the database whose URL is in an environment variable.

    :param create: Whether an SQLite file may be new; its folder may not.
    :return: A DB-API connection and its dialect.
    :raises InvalidError: If there is no such variable, or its URL cannot be used.
    :raises UnavailableError: If the database cannot be opened.
    """
    url = os.environ.get(variable, "")
    if not url:
        raise InvalidError(f"the environment variable {variable} is not set; put the database's URL there")
    try:
        parts = urlsplit(url)
        kind = parts.scheme.partition("+")[0].replace("postgresql", "postgres")
    except ValueError:
        raise InvalidError(f"{variable} holds no URL of a database") from None
    path = unquote(parts.path).removeprefix("/")
    try:
        match kind:
            case "duckdb":
                import duckdb

                _must_exist(path, variable, "duckdb")
                return duckdb.connect(path, read_only=True), "duckdb"
            case "sqlite":
                _must_exist(path, variable, "sqlite", create=create)
                return sqlite3.connect(path, timeout=30, isolation_level=None), "sqlite"
            case "postgres":
                import psycopg2

                dsn = url.replace(f"{parts.scheme}://", "postgresql://", 1)
                return psycopg2.connect(dsn, connect_timeout=15), "postgres"
    except ImportError as exc:
        raise InvalidError(
            f"{variable} names a {kind} database, for which {exc.name} is not installed"
        ) from None
    except (InvalidError, UnavailableError):
        raise
    except Exception as exc:  # noqa: BLE001  drivers raise anything
        # the driver's text may hold the URL
        text = f"the database of {variable} cannot be opened: {type(exc).__name__}"
        raise UnavailableError(text, service=variable) from None
    raise InvalidError(f"{variable} holds no duckdb://, sqlite:// or postgresql:// URL")


def _must_exist(path: str, variable: str, kind: str, *, create: bool = False) -> None:
    if path and (Path(path).is_file() or (create and Path(path).parent.is_dir())):
        return
    raise InvalidError(
        f"{variable}: there is no {'folder for the ' if create else ''}file at the path of its URL "
        f"({kind}:///relative, {kind}:////absolute)"
    )


@contextmanager
def _database(args: argparse.Namespace, contract: Contract) -> Iterator[Database]:
    from airflow_ext.contracts.sql import Database

    if args.database_env:
        opened, dialect = open_url(args.database_env)
        with closing(opened), Database(opened, dialect) as database:
            yield database
        return
    from airflow.sdk.exceptions import AirflowNotFoundException

    from airflow_ext.hooks.contract_database import contract_database

    conn_id = args.conn_id or contract.conn_id
    if not conn_id:
        raise InvalidError("the contract names no connection: give --conn-id or --database-env")
    try:
        with contract_database(conn_id) as database:
            yield database
    except AirflowNotFoundException:
        raise InvalidError(
            f"connection {conn_id!r} is not known here: set AIRFLOW_CONN_{conn_id.upper()}, or give --database-env"
        ) from None


def verify_command(args: argparse.Namespace) -> int:
    """Run ``verify``."""
    from airflow_ext.contracts.model import Contract

    contract = Contract.from_file(args.contract)
    # when the partition came is about its publication, not about the table now
    verdict = _judged(args, contract, on_time=False)
    findings = [
        Finding("breach" if reason.severity == "error" else "warning",
                "error" if reason.severity == "error" else "warning", str(reason), args.contract, 0, contract.id)
        for reason in verdict.reasons
    ]  # fmt: skip
    if args.format == "json":
        write_json(verdict.to_dict())
    elif args.format == "text":
        show_verdict(verdict, Printer())
    else:
        rules = {
            "breach": "A rule of the contract is broken.",
            "warning": "A rule of severity warning is broken.",
        }
        write_findings(args.format, "verify", findings, rules=rules, subjects=[contract.id])
    return 0 if verdict.status.holds else 1


def _judged(args: argparse.Namespace, contract: Contract, *, on_time: bool) -> Verdict:
    from airflow_ext.contracts.judge import judge

    with _database(args, contract) as database:
        return judge(contract, args.partition, database, on_time=on_time)


def publish_command(args: argparse.Namespace) -> int:
    """Run ``publish``."""
    from airflow_ext.contracts.head import Promise
    from airflow_ext.contracts.model import Contract
    from airflow_ext.contracts.ranges import asset_name

    contract = Contract.from_file(args.contract)
    store, assets = store_of(args, create=True)
    with asked():
        # before the work: an asset that is not known keeps no verdict
        asset = asset_name(contract.id, contract.major)
        store.head(asset)
        new = store.verdict(asset, contract.partition.check(args.partition)) is None
        verdict = _judged(args, contract, on_time=new)
        verdict = store.publish(verdict, rule=contract.partition, promise=Promise.of(contract))
    event = assets is not None and verdict.status.holds and not args.no_event
    if event and assets is not None:
        _emit(assets, verdict)
    if args.format == "json":
        write_json({**verdict.to_dict(), "event": event})
    else:
        printer = Printer()
        show_verdict(verdict, printer)
        printer.line()
        printer.line(f"published as number {verdict.seq}; " + _who_learns(event, assets), style="dim")
    return 0 if verdict.status.holds else 1


def _who_learns(event: bool, assets: RestAssets | None) -> str:
    if event:
        return "waiting sensors and DAGs that start with it learn of it"
    if assets is None:
        return "waiting sensors learn of it; DAGs that start with it do not: a database emits no events"
    return "waiting sensors learn of it, no DAG starts"


def _emit(assets: RestAssets, verdict: Verdict) -> None:
    from airflow_ext.contracts.ranges import asset_name

    number = assets.number(asset_name(verdict.contract, verdict.major))
    extra = {
        "contract": verdict.contract,
        "version": verdict.version,
        "partition": verdict.partition,
        "status": str(verdict.status),
        "seq": verdict.seq,
    }
    # a keyed event starts partitioned consumers only, an unkeyed one the others only
    for key in ({"partition_key": verdict.partition}, {}):
        assets.api.post("assets/events", {"asset_id": number, "extra": extra, **key})
