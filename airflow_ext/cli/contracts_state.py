"""``airflow-ext contracts status`` and ``explain``: verdicts, seen from outside of a DAG."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow_ext.cli.airflow_api import AirflowApi
from airflow_ext.cli.contracts_change import Verbs, add_format
from airflow_ext.cli.contracts_output import Printer, count, write_json
from airflow_ext.exceptions import AirflowExtError, InvalidError, StoreUnavailableError

if TYPE_CHECKING:
    from airflow_ext.contracts.head import Head
    from airflow_ext.contracts.store import VerdictStore
    from airflow_ext.contracts.terms import Wanted
    from airflow_ext.contracts.verdict import Verdict
    from airflow_ext.contracts.waiting import Known

Adder = Callable[[argparse.Namespace], int]
STATUS_STYLES = {
    "PASS": "ok",
    "WARN": "warning",
    "LATE": "error",
    "BREACHED": "error",
    "QUARANTINED": "error",
}
_SHOWN = 10


def add_status(verbs: Verbs[argparse.ArgumentParser], command: Adder) -> None:
    """Add ``status``."""
    parser = verbs.add_parser(
        "status",
        help="show the partitions of contracts published last",
        description="Show what was published last, and what is late. Ends with 1 if the newest partition of a contract does "
        "not hold, or is late.",
    )
    parser.add_argument(
        "contracts", nargs="+", metavar="FILE|RANGE", help="contract files, or ranges: 'orders>=1,<3'"
    )
    parser.add_argument(
        "--last", type=int, default=_SHOWN, metavar="N", help="partitions to show (default: 10)"
    )
    add_store(parser)
    add_format(parser, ("text", "json"))
    parser.set_defaults(func=command)


def add_explain(verbs: Verbs[argparse.ArgumentParser], command: Adder) -> None:
    """Add ``explain``."""
    parser = verbs.add_parser(
        "explain",
        help="say why a consumer of a partition goes on, waits or fails",
        description="Say what a consumer sees of a partition now, and why. Ends with 1 if it does not go on.",
    )
    parser.add_argument("contract", metavar="RANGE", help="what the consumer waits for: 'orders>=1,<2'")
    parser.add_argument("partition", help="partition key")
    parser.add_argument(
        "--uses", action="append", default=[], metavar="COLUMN", help="a column the consumer uses"
    )
    add_store(parser)
    add_format(parser, ("text", "json"))
    parser.set_defaults(func=command)


def add_store(parser: argparse.ArgumentParser) -> None:
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--url", help="address of a running Airflow; token in AIRFLOW_EXT_API_TOKEN")
    where.add_argument(
        "--store-env",
        metavar="NAME",
        help="environment variable with the URL of the database that keeps verdicts",
    )
    where.add_argument("--store-conn-id", metavar="ID", help="Airflow connection of that database")


class _RestState:
    """State of one asset through the REST API, as the verdict store wants it."""

    def __init__(self, api: AirflowApi, number: int) -> None:
        self._api, self._base = api, f"assets/{number}/state-store"

    def get(self, key: str, default: Any = None) -> Any:
        answer = self._api.get(f"{self._base}/{quote(key, safe='/')}")
        return answer.get("value") if isinstance(answer, dict) else default

    def set(self, key: str, value: Any) -> None:
        self._api.put(f"{self._base}/{quote(key, safe='/')}", {"value": value})

    def delete(self, key: str) -> None:
        self._api.delete(f"{self._base}/{quote(key, safe='/')}")

    async def aget(self, key: str, default: Any = None) -> Any:
        return self.get(key, default)


class RestAssets:
    """Assets of a running Airflow, found by name.

    :param api: Its API.
    """

    def __init__(self, api: AirflowApi) -> None:
        self.api = api
        self._numbers: dict[str, int] = {}

    def number(self, name: str) -> int:
        """Return the id of an asset.

        :raises InvalidError: If Airflow does not know it.
        """
        if name not in self._numbers:
            found = next((asset["id"] for asset in self.api.assets(name) if asset["name"] == name), None)
            if found is None:
                raise InvalidError(
                    f"{self.api.url} knows no asset {name}: no DAG there publishes or waits for this major version"
                )
            self._numbers[name] = int(found)
        return self._numbers[name]

    def state(self, name: str) -> _RestState:
        """Return the state of an asset."""
        return _RestState(self.api, self.number(name))


class _EnvOpener:
    """Opens the database whose URL an environment variable holds; the URL is never shown."""

    def __init__(self, variable: str, *, create: bool) -> None:
        self.name = variable
        self._create = create

    def open(self) -> tuple[Any, str]:
        from airflow_ext.cli.contracts_judge import open_url

        return open_url(self.name, create=self._create)

    async def aprepare(self) -> None:
        """Nothing to look up."""

    def forget(self) -> None:
        """Nothing is remembered."""


def store_of(args: argparse.Namespace, *, create: bool = False) -> tuple[VerdictStore, RestAssets | None]:
    """Return the store that was asked for, and the assets of an Airflow if it is there.

    :param create: Whether a file that is not there yet is an empty store.
    """
    from airflow_ext.contracts.sql_store import SqlVerdictStore
    from airflow_ext.contracts.store import AssetVerdictStore

    if args.url:
        assets = RestAssets(AirflowApi(args.url))
        return AssetVerdictStore(assets.state), assets
    if args.store_env:
        return SqlVerdictStore(_EnvOpener(args.store_env, create=create)), None
    from airflow_ext.hooks.verdict_store import verdict_store

    return verdict_store(args.store_conn_id), None


@contextmanager
def asked() -> Iterator[None]:
    """Show what went wrong with a store as what it was: an answer of the API, not of the store."""
    try:
        yield
    except StoreUnavailableError as exc:
        if isinstance(exc.__cause__, AirflowExtError):
            raise exc.__cause__ from None
        raise


def status_command(args: argparse.Namespace) -> int:
    """Run ``status``."""
    from airflow_ext.contracts.model import Contract
    from airflow_ext.contracts.ranges import ContractRange, asset_name

    names: list[str] = []
    for given in args.contracts:
        if Path(given).is_file():
            contract = Contract.from_file(given)
            names.append(asset_name(contract.id, contract.major))
        else:
            names += ContractRange.parse(given).assets
    store, _ = store_of(args)
    heads: dict[str, Head | None] = {}
    for name in dict.fromkeys(names):
        try:
            with asked():
                heads[name] = store.head(name)
        except InvalidError as exc:
            if len(names) == 1 or "knows no asset" not in str(exc):
                raise
            heads[name] = None
    late = {name: found for name, head in heads.items() if (found := _late(head)) is not None}
    if args.format == "json":
        write_json({name: _head_json(head, args.last, late.get(name)) for name, head in heads.items()})
    else:
        _show_status(heads, args.last, late, Printer())
    newest = [_newest(head, 1) for head in heads.values() if head is not None and head.entries]
    return 0 if newest and not late and all(one[0][1].status.holds for one in newest) else 1


def _late(head: Head | None) -> tuple[str, datetime] | None:
    """Return the partition that was due last, if it is not there, and when it was due."""
    from airflow_ext.contracts.lateness import due_last
    from airflow_ext.contracts.verdict import Status

    now = datetime.now(UTC)
    if head is None or head.rule is None or not head.entries:
        return None
    life = head.promise.life(now, head.rule)
    found = due_last(head, now.timestamp())
    withdrawn = life is not None and life[0] is Status.WITHDRAWN
    return None if found is None or withdrawn or found[0] in head.entries else found


def _newest(head: Head, last: int) -> list[Any]:
    """Return partitions by their key, the newest first: a backfill of an old one is not what is new."""
    return sorted(head.entries.items(), key=lambda item: item[0], reverse=True)[: max(last, 1)]


def _head_json(head: Head | None, last: int, late: tuple[str, datetime] | None) -> Any:
    if head is None:
        return None
    published = [
        {"partition": key, "status": str(entry.status), "seq": entry.seq, "version": entry.version}
        for key, entry in _newest(head, last)
    ]
    if late is None:
        return published
    return [
        {"partition": late[0], "status": "LATE", "due": late[1].isoformat(timespec="seconds")},
        *published,
    ]


def _show_status(
    heads: Mapping[str, Head | None], last: int, late: Mapping[str, tuple[str, datetime]], printer: Printer
) -> None:
    for number, (name, head) in enumerate(heads.items()):
        if number:
            printer.line()
        printer.line(name.removeprefix("contract/"), style="head")
        if head is None or not head.entries:
            printer.line("nothing was published" if head is not None else "no DAG names it", indent=2)
            continue
        for text, style in _promised(head):
            printer.line(text, indent=2, style=style)
        shown = [
            (str(entry.status), key, f"version {entry.version}, number {entry.seq}")
            for key, entry in _newest(head, last)
        ]
        if name in late:
            key, due = late[name]
            shown.insert(0, ("LATE", key, f"was due {_moment(due)} and is not there"))
        width = max(len(key) for _, key, _ in shown)
        for status, key, text in shown:
            printer.row(status, f"{key:<{width}}  {text}", width=11, style=STATUS_STYLES.get(status, "dim"))
        more = len(head.entries) - max(last, 1)
        if more > 0:
            printer.line(f"... and {count(more, 'partition')} before", indent=2, style="dim")


def _promised(head: Head) -> Iterator[tuple[str, str]]:
    promise = head.promise
    people = [f"owner {promise.owner}"] if promise.owner else []
    people += [f"support {promise.support}"] if promise.support else []
    if people:
        yield ", ".join(people), "dim"
    life = promise.life(datetime.now(UTC), head.rule) if head.rule else None
    if life is not None:
        yield f"{life[0]}: {life[1]}", "warning"


def _moment(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M %Z")


def explain_command(args: argparse.Namespace) -> int:
    """Run ``explain``."""
    import time

    from airflow_ext.contracts.ranges import ContractRange
    from airflow_ext.contracts.terms import GO, Terms, Wanted
    from airflow_ext.contracts.waiting import decide, read_known

    wanted_range = ContractRange.parse(args.contract)
    store, assets = store_of(args)
    now = time.time()
    wanted = Wanted(
        contract=args.contract, partitions=(args.partition,), since=now, terms=Terms.of(uses=tuple(args.uses))
    )
    with asked():
        known = read_known(wanted, store)
        decision = decide(wanted, known, now)
    writer = _writer(assets, wanted_range.assets, args.partition) if assets is not None else ""
    if args.format == "json":
        write_json({"action": decision.action, "seen": decision.seen.to_dict(), "written_by": writer or None})
    else:
        printer = Printer()
        _show_decision(args, decision.action, decision.seen, writer, printer)
        if decision.seen.verdict is None:
            _show_absence(wanted, known, printer, late=str(decision.seen.status) == "LATE")
    return 0 if decision.action == GO else 1


def _show_decision(args: argparse.Namespace, action: str, seen: Any, writer: str, printer: Printer) -> None:
    words = {"proceed": "goes on", "wait": "waits", "fail": "fails"}
    what = f"a consumer of {args.contract}, partition {args.partition}, {words.get(action, action)}: {seen.status}"
    style = "ok" if action == "proceed" else "warning" if action == "wait" else "error"
    printer.line(what, style=style)
    if seen.detail:
        printer.line(seen.detail, indent=2)
    if seen.verdict is not None:
        printer.line()
        show_verdict(seen.verdict, printer)
        verdict = seen.verdict
        printer.line()
        for name, value in (
            ("owner", verdict.owner or "nobody is named"),
            ("support", verdict.support or "none is named"),
            ("published", f"{verdict.at} as number {verdict.seq} by {verdict.run}"),
            ("written by", writer),
        ):
            if value:
                printer.row(name, value, width=10)


def _show_absence(wanted: Wanted, known: Known, printer: Printer, *, late: bool) -> None:
    """Show what is known where no verdict is: what was published last, and when this one is due."""
    from airflow_ext.contracts.waiting import speaker_of

    asset, head = speaker_of(wanted, known)
    partition = wanted.partitions[0]
    if head.rule is None:
        printer.line("nothing was ever published under this contract", indent=2)
        return
    rows = [
        ("published", f"last {key}, {entry.status}, version {entry.version} of {asset}")
        for key, entry in sorted(head.entries.items(), key=lambda item: -item[1].seq)[:1]
    ]
    if not late and head.promise.available is not None and head.rule.fits(partition):
        due = head.promise.available.deadline(head.rule, partition).astimezone(head.rule.zone)
        rows.append(("due", f"{_moment(due)}, grace included"))
    rows += [("owner", head.promise.owner), ("support", head.promise.support)]
    for name, value in rows:
        if value:
            printer.row(name, value, width=10)


def _writer(assets: RestAssets, names: tuple[str, ...], partition: str) -> str:
    """Return who wrote the verdict, as Airflow's server stamped it: a task can write any text, not that."""
    for name in reversed(names):
        with suppress(InvalidError):
            key = quote(f"p/{partition}", safe="/")
            answer = assets.api.get(f"assets/{assets.number(name)}/state-store/{key}")
            if isinstance(answer, dict) and isinstance(by := answer.get("last_updated_by"), dict):
                parts = (by.get(part) for part in ("kind", "dag_id", "run_id", "task_id"))
                return " ".join(str(part) for part in parts if part)
    return ""


def show_verdict(verdict: Verdict, printer: Printer) -> None:
    rows = "rows not counted" if verdict.rows is None else count(verdict.rows, "row")
    counts = verdict.counts
    printer.line(
        f"{verdict.contract} {verdict.version}, partition {verdict.partition}: {verdict.status}",
        style=STATUS_STYLES.get(str(verdict.status), "head"),
    )
    printer.line(
        f"{rows}; {count(counts.get('rules', 0), 'check')}, {counts.get('failed', 0)} failed, "
        f"{counts.get('warnings', 0)} warned, {counts.get('skipped', 0)} not judged",
        indent=2,
        style="dim",
    )
    for reason in verdict.reasons:
        style = "error" if reason.severity == "error" else "warning"
        printer.row(reason.severity, str(reason), width=8, style=style)
    for text in verdict.skipped:
        printer.row("skipped", text, width=8, style="dim")
