"""``airflow-ext contracts impact``: which DAGs and tasks use a contract, a version, a column."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_ext.cli.airflow_api import AirflowApi
from airflow_ext.cli.contracts_change import Verbs, add_format
from airflow_ext.cli.contracts_files import read_commit, read_paths
from airflow_ext.cli.contracts_output import Finding, Printer, count, write_findings, write_json
from airflow_ext.exceptions import InvalidError

if TYPE_CHECKING:
    from airflow_ext.contracts.impact import Reached
    from airflow_ext.contracts.usage import Found, Use

RULES = {
    "breaks": "A DAG or task uses what goes.",
    "may break": "A DAG or task may use what goes.",
    "safe": "A DAG or task does not use what goes.",
    "elsewhere": "A DAG or task wants other versions.",
    "unread": "A DAG file that could not be read.",
}
_LEVELS = {"breaks": "error", "may break": "warning"}
_STYLES = {"breaks": "error", "may break": "warning", "safe": "ok", "elsewhere": "dim"}


@dataclass(frozen=True)
class Question:
    """What is asked about one contract.

    :param contract: Its id.
    :param version: Its version, empty if not known.
    :param columns: Columns that go, ``None`` for the contract as a whole.
    :param asked: Whether something goes; else it is only asked who uses it.
    :param known: Consumers that the contract names.
    """

    contract: str
    version: str
    columns: tuple[str, ...] | None
    asked: bool
    known: tuple[Use, ...] = ()


def add_impact(verbs: Verbs[argparse.ArgumentParser], command: Callable[[argparse.Namespace], int]) -> None:
    """Add ``impact``."""
    parser = verbs.add_parser(
        "impact",
        help="find the DAGs and tasks that use a contract, a version or a column",
        description="Find who uses contracts. DAG files are read, never run. With --drop or --base it ends with 1 if "
        "somebody breaks or may break.",
        epilog="airflow-ext contracts impact --drop orders.amount --dags dags/",
    )
    parser.add_argument("contracts", nargs="*", metavar="FILE|ID", help="contract files, or ids of contracts")
    parser.add_argument(
        "--drop", action="append", default=[], metavar="CONTRACT[.COLUMN]", help="what is to go"
    )
    parser.add_argument(
        "--base", metavar="GITREF", help="what broke since this branch, tag or commit is what goes"
    )
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--dags", action="append", metavar="FOLDER", help="folder or file of DAGs")
    where.add_argument("--url", help="address of a running Airflow; token in AIRFLOW_EXT_API_TOKEN")
    add_format(parser)
    parser.set_defaults(func=command)


def impact_command(args: argparse.Namespace) -> int:
    """Run ``impact``."""
    from airflow_ext.contracts.impact import reached

    questions = list(_questions(args))
    if not questions:
        raise InvalidError("impact needs a contract: a file, an id, or --drop CONTRACT.COLUMN")
    found = _found(args, [question.contract for question in questions])
    answers = {
        question: reached(
            [*found.uses, *question.known],
            contract=question.contract,
            version=question.version,
            columns=question.columns,
        )
        for question in questions
    }
    _print(args, found, answers)
    asked = [one for question, ones in answers.items() if question.asked for one in ones]
    return 1 if any(str(one.reach) in _LEVELS for one in asked) else 0


def _questions(args: argparse.Namespace) -> Iterator[Question]:
    from airflow_ext.contracts.impact import known_consumers
    from airflow_ext.contracts.model import Contract

    files = [given for given in args.contracts if Path(given).exists()]
    ids = [given for given in args.contracts if given not in files]
    for given in ids:
        if re.search(r"[/\\]|\.(ya?ml|json)$", given):
            raise InvalidError(f"{given}: no such file")
    texts = read_paths(files) if files else {}
    contracts = {path: Contract.from_text(text, source=path) for path, text in texts.items()}
    dropped = _dropped(args.drop, [contract.id for contract in contracts.values()])
    before = read_commit(args.base, files) if args.base is not None and files else {}
    for path, contract in contracts.items():
        columns = dropped.pop(contract.id, None)
        asked = columns is not None
        version = contract.version
        if path in before and before[path] != texts[path]:
            version, broken = _broken(before[path], texts[path], path)
            if broken is None or broken:
                asked, columns = True, None if broken is None else (*(columns or ()), *broken)
        yield Question(contract.id, version, columns or None, asked, tuple(known_consumers(contract)))
    for contract_id in ids:
        yield Question(contract_id, "", dropped.get(contract_id) or None, contract_id in dropped)
    for contract_id, names in dropped.items():
        if contract_id not in ids:
            yield Question(contract_id, "", names or None, True)


def _broken(old: str, new: str, path: str) -> tuple[str, tuple[str, ...] | None]:
    """Return the old version, and the columns that broke since; ``None`` if it is more than columns."""
    from airflow_ext.contracts.diff import compare_texts
    from airflow_ext.contracts.impact import columns_of

    compared = compare_texts(old, new, source=path, old_source=f"{path} (before)")
    columns = columns_of(compared.changes)
    return compared.old_version, None if "" in columns else tuple(columns)


def _dropped(given: Sequence[str], known: Sequence[str]) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for one in given:
        # an id may hold dots itself: the contracts given say which part is the id
        contract = next((name for name in known if one == name or one.startswith(f"{name}.")), None)
        contract, column = (contract, one[len(contract) + 1 :]) if contract else _split(one)
        found[contract] = (*found.get(contract, ()), *([column] if column else []))
    return found


def _split(text: str) -> tuple[str, str]:
    contract, _, column = text.partition(".")
    if not contract:
        raise InvalidError(f"--drop {text!r}: write CONTRACT.COLUMN, such as orders.amount")
    return contract, column


def _found(args: argparse.Namespace, contracts: Sequence[str]) -> Found:
    from airflow_ext.contracts.usage import Found, find_in_folder

    if args.url:
        return _from_airflow(AirflowApi(args.url), contracts)
    looks = [find_in_folder(Path(folder)) for folder in args.dags]
    return Found(
        tuple(use for look in looks for use in look.uses),
        tuple(problem for look in looks for problem in look.problems),
        sum(look.files for look in looks),
    )


def _from_airflow(api: AirflowApi, contracts: Sequence[str]) -> Found:
    """Ask a running Airflow who names the contracts' assets, and read what they use in the source it keeps."""
    from airflow_ext.contracts.usage import Found

    named: list[Use] = []
    for contract in dict.fromkeys(contracts):
        for asset in api.assets(f"contract/{contract}/v"):
            named += _uses_of_asset(contract, asset)
    sources = {
        dag_id: _uses_in(api.source(dag_id), dag_id) for dag_id in sorted({use.dag_id for use in named})
    }
    return Found(tuple(_merged(named, sources)), files=len(sources))


def _uses_of_asset(contract: str, asset: dict[str, Any]) -> Iterator[Use]:
    from airflow_ext.contracts.ranges import ContractRange
    from airflow_ext.contracts.usage import Use

    match = re.fullmatch(rf"contract/{re.escape(contract)}/v(\d+)", str(asset["name"]))
    if match is None:
        return
    wanted = ContractRange.parse(f"{contract}>={match[1]},<{int(match[1]) + 1}")
    for kind, field in (
        ("waits", "consuming_tasks"),
        ("starts", "scheduled_dags"),
        ("publishes", "producing_tasks"),
    ):
        for item in asset.get(field) or ():
            yield Use(kind, contract, wanted, None, str(item.get("dag_id")), str(item.get("task_id") or ""))


def _uses_in(source: str, dag_id: str) -> list[Use]:
    from airflow_ext.contracts.usage import find_in_text

    try:
        return [replace(use, file=f"source of {dag_id}") for use in find_in_text(source, "")]
    except (SyntaxError, ValueError, RecursionError):
        return []


def _merged(named: Sequence[Use], sources: dict[str, list[Use]]) -> Iterator[Use]:
    """Yield what Airflow knows, with range and columns from the source where it says them."""
    seen = set()
    for use in named:
        key = (use.kind, use.contract, use.dag_id, use.task_id)
        if key in seen:
            continue
        seen.add(key)
        task = use.task_id.rpartition(".")[2]
        written = next(
            (
                one
                for one in sources.get(use.dag_id, ())
                if one.kind == use.kind and one.contract == use.contract and one.task_id == task
            ),
            None,
        )
        if written is None:
            note = "Airflow does not keep which columns it uses, and its source does not say"
            yield use if use.kind != "waits" else replace(use, note=note)
        else:
            yield replace(written, dag_id=use.dag_id, task_id=use.task_id)


def _print(args: argparse.Namespace, found: Found, answers: dict[Question, list[Reached]]) -> None:
    if args.format == "json":
        write_json({"files": found.files, "unread": list(found.problems), "contracts": [
            {"contract": question.contract, "version": question.version or None,
             "columns": list(question.columns) if question.columns is not None else None,
             "uses": [_as_json(one) for one in ones]}
            for question, ones in answers.items()
        ]})  # fmt: skip
    elif args.format == "text":
        _show(found, answers, Printer())
    else:
        findings = [
            Finding(str(one.reach), _LEVELS.get(str(one.reach), "note") if question.asked else "note",
                    f"{one.use.name} {one.use.kind} {question.contract}: {one.why}", one.use.file, one.use.line,
                    one.use.name)
            for question, ones in answers.items() for one in ones
        ]  # fmt: skip
        findings += [Finding("unread", "warning", problem, subject="unread") for problem in found.problems]
        write_findings(args.format, "impact", findings, rules=RULES, subjects=())


def _as_json(one: Reached) -> dict[str, Any]:
    use = one.use
    return {
        "reach": str(one.reach),
        "why": one.why,
        "kind": use.kind,
        "dag_id": use.dag_id or None,
        "task_id": use.task_id or None,
        "range": str(use.wanted) if use.wanted else None,
        "uses": list(use.uses) if use.uses is not None else None,
        "columns": list(one.columns),
        "file": use.file or None,
        "line": use.line or None,
    }


def _show(found: Found, answers: dict[Question, list[Reached]], printer: Printer) -> None:
    for question, ones in answers.items():
        version = f" {question.version}" if question.version else ""
        goes = f", of which {', '.join(question.columns)} goes" if question.columns else ""
        printer.line(f"{question.contract}{version}{goes}", style="head")
        if not ones:
            printer.line("nobody uses it", indent=2)
        width = max((len(one.use.name) for one in ones), default=0)
        for one in ones:
            reach = str(one.reach) if question.asked else one.use.kind
            if one.use.kind == "publishes":
                reach = "publishes"
            place = (
                f"  {one.use.file}:{one.use.line}"
                if one.use.line
                else f"  {one.use.file}"
                if one.use.file
                else ""
            )
            style = _STYLES[str(one.reach)] if question.asked else "dim"
            why = "" if one.use.kind == "publishes" else one.why
            printer.row(f"{reach:<9}  {one.use.name:<{min(width, 40)}}", f"{why}{place}".strip(), width=11 + min(width, 40),
                        style=style)  # fmt: skip
        printer.line()
    for problem in found.problems:
        printer.line(f"not read: {problem}", style="warning")
    reaches = [str(one.reach) for q, ones in answers.items() if q.asked for one in ones]
    looked = f"{count(found.files, 'file')} looked at"
    if any(question.asked for question in answers):
        broken, maybe = reaches.count("breaks"), reaches.count("may break")
        style = "error" if broken else "warning" if maybe else "ok"
        printer.line(f"{broken} break, {maybe} may break; {looked}", style=style)
    else:
        printer.line(looked, style="ok")
