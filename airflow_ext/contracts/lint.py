"""What is wrong with contract files, and what their authors may want to look at."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from airflow_ext.contracts.diff_base import line_of
from airflow_ext.contracts.levels import BETTER, DATES, figure
from airflow_ext.contracts.loading import Places
from airflow_ext.contracts.model import Contract
from airflow_ext.contracts.read_only import NOT_SQL, why_not
from airflow_ext.contracts.rules import SQL_PLACEHOLDER
from airflow_ext.exceptions import InvalidContractError

RULES: Mapping[str, str] = {
    "contract": "The file is no contract that can be used.",
    "duplicate": "Two files have the same contract id and version.",
    "query": "A rule's query that would be refused: it does more than read.",
    "sla": "A service level that cannot be understood.",
    "status": "A status that ODCS does not know, or that says less than its dates.",
    "owner": "Nobody answers for the data.",
    "support": "Nobody can be told of a breach.",
    "partition": "Nothing restricts the table to a partition.",
    "types": "Columns without a type are not checked.",
    "rules": "Nothing is promised about rows.",
}
"""Every rule, and what it is about; all but the first four are warnings."""

STATUSES = ("proposed", "draft", "active", "deprecated", "retired")
_PLACE = re.compile(r"(?:line (?P<line>\d+)(?:, )?)?(?P<path>[^:\s]*): (?P<text>.*)", re.DOTALL)
_SHOWN = 5
_PLAIN = re.compile(r"\s*(SELECT|WITH)\b", re.IGNORECASE)
_SUSPECT = re.compile(
    r";|/|\\|\b(insert|update|delete|merge|create|drop|alter|truncate|copy|into|for|lock|pragma|set|use|attach|detach|call|"
    r"exec|grant)\b|(?<!\w)(?!(?:sum|count|min|max|avg|coalesce|cast|abs|round|nullif)\b)\w+\s*\(",
    re.IGNORECASE,
)
"""What may be more than reading: another word or function than these, and a parser looks at it."""


@dataclass(frozen=True)
class Remark:
    """One thing that lint found.

    :param source: The file.
    :param line: Line in it, 0 if it has none.
    :param path: Path of the element, such as ``schema[0].properties[2]``.
    :param rule: Which of :data:`RULES`.
    :param text: What it is.
    :param level: ``error`` or ``warning``.
    """

    source: str
    line: int
    path: str
    rule: str
    text: str
    level: str = "error"

    @property
    def place(self) -> str:
        """File and line as editors understand them."""
        return f"{self.source}:{self.line}" if self.line else self.source


@dataclass(frozen=True)
class Checked:
    """A file that was looked at.

    :param contract: What it says, ``None`` if it cannot be used.
    """

    source: str
    remarks: tuple[Remark, ...]
    contract: Contract | None = None


def lint(texts: Mapping[str, str]) -> list[Checked]:
    """Look at contract files together.

    :param texts: Text by name of the file.
    """
    checked = [check(text, source) for source, text in texts.items()]
    doubles: dict[str, list[Remark]] = {}
    seen: dict[tuple[str, str], str] = {}
    for one in checked:
        if one.contract is None:
            continue
        key = (one.contract.id, one.contract.version)
        if key in seen:
            text = f"{key[0]} {key[1]} is also in {seen[key]}: give one of them another id or version"
            doubles.setdefault(one.source, []).append(Remark(one.source, 0, "id", "duplicate", text))
        seen.setdefault(key, one.source)
    return [
        Checked(one.source, (*one.remarks, *doubles.get(one.source, ())), one.contract) for one in checked
    ]


def check(text: str, source: str) -> Checked:
    """Look at one contract file."""
    try:
        contract = Contract.from_text(text, source=source)
    except InvalidContractError as exc:
        return Checked(source, tuple(_as_remark(source, problem) for problem in exc.problems))
    return Checked(source, tuple(_Look(source, text, contract).remarks()), contract)


def _as_remark(source: str, problem: str) -> Remark:
    match = _PLACE.fullmatch(problem)
    if match is None:
        return Remark(source, 0, "", "contract", problem)
    path = match["path"] if match["path"] != "file" else ""
    return Remark(source, int(match["line"] or 0), path, "contract", match["text"])


class _Look:
    def __init__(self, source: str, text: str, contract: Contract) -> None:
        self.source, self.text, self.contract = source, text, contract
        self.document = contract.document

    @functools.cached_property
    def places(self) -> Places:
        """Lines of the file, found when there is something to say about one."""
        return Places(yaml.compose(self.text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)))

    def remark(self, path: tuple[str | int, ...], rule: str, text: str, level: str = "warning") -> Remark:
        where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")
        return Remark(self.source, line_of(self.places, path), where, rule, text, level)

    def remarks(self) -> Iterator[Remark]:
        yield from self.service_levels()
        yield from self.status()
        if not self.contract.owner:
            yield self.remark(("team",), "owner", "nobody answers for the data: name a team")
        if not self.document.get("support"):
            text = "nobody can be told of a breach: name a channel under support"
            yield self.remark(("support",), "support", text)
        yield from self.tables()
        yield from self.queries()

    def service_levels(self) -> Iterator[Remark]:
        ends = {}
        for index, item in enumerate(self.document.get("slaProperties") or ()):
            path, name = ("slaProperties", index), item["property"]
            value = figure(item)
            if name not in BETTER:
                near = [known for known in BETTER if known.lower() == str(name).lower()]
                text = f"{name!r} is not a service level known here" + (f"; write {near[0]}" if near else "")
                yield self.remark((*path, "property"), "sla", text, "warning")
            elif value is None:
                said = " ".join(str(item[key]) for key in ("value", "unit") if item.get(key) is not None)
                text = f"{name} of {said!r} cannot be understood{_example(name)}"
                yield self.remark((*path, "value"), "sla", text, "error")
            elif name == "availability" and not 0 < value <= 100:
                yield self.remark((*path, "value"), "sla", f"availability of {value:g} per cent", "error")
            elif name in DATES:
                ends[name] = value, path
        support, life = ends.get("endOfSupport"), ends.get("endOfLife")
        if support and life and life[0] < support[0]:
            yield self.remark((*life[1], "value"), "sla", "endOfLife is before endOfSupport", "error")

    def status(self) -> Iterator[Remark]:
        status = self.document.get("status")
        if status not in STATUSES:
            text = f"{status!r} is none of {', '.join(STATUSES)}"
            yield self.remark(("status",), "status", text)
        properties = {item["property"] for item in self.document.get("slaProperties") or ()}
        if status == "deprecated" and not properties & {"endOfSupport", "endOfLife"}:
            text = "deprecated, and nobody knows until when: add endOfSupport to slaProperties"
            yield self.remark(("status",), "status", text)

    def tables(self) -> Iterator[Remark]:
        if not self.contract.partition_column:
            text = "no column is partitioned: true, so the whole table is judged each time"
            yield self.remark(("schema", 0), "partition", text)
        if not self.contract.rules:
            yield self.remark(
                ("schema", 0), "rules", "nothing is promised about rows: add required, or quality"
            )
        for index, table in enumerate(self.document["schema"]):
            bare = [
                spec["name"]
                for spec in table.get("properties") or ()
                if not spec.get("logicalType") and not spec.get("physicalType")
            ]
            if bare:
                more = f" and {len(bare) - _SHOWN} more" if len(bare) > _SHOWN else ""
                text = f"no type, so none is checked: {', '.join(bare[:_SHOWN])}{more}"
                yield self.remark(("schema", index, "properties"), "types", text)

    def queries(self) -> Iterator[Remark]:
        """Yield what the judge would refuse; in a dialect that the file does not name, not what merely is unknown."""
        dialect = self.contract.dialect
        for path, rule in _rules(self.document["schema"]):
            if rule.get("type") != "sql" or not isinstance(query := rule.get("query"), str):
                continue
            if _PLAIN.match(query) and not _SUSPECT.search(query):
                continue  # a parser takes its time, and the judge looks at each again
            problem = why_not(SQL_PLACEHOLDER.sub("partition_rows", query), dialect)
            if problem and (dialect or problem != NOT_SQL):
                yield self.remark((*path, "query"), "query", problem, "error")


def _rules(tables: Iterable[Mapping[str, Any]]) -> Iterator[tuple[tuple[str | int, ...], Mapping[str, Any]]]:
    for index, table in enumerate(tables):
        path: tuple[str | int, ...] = ("schema", index)
        owners = [(path, table)]
        owners += [((*path, "properties", n), each) for n, each in enumerate(table.get("properties") or ())]
        for where, owner in owners:
            for number, rule in enumerate(owner.get("quality") or ()):
                yield (*where, "quality", number), rule


def _example(name: str) -> str:
    if name in DATES:
        return "; write a date such as 2027-06-30"
    if name == "timeOfAvailability":
        return "; write a time such as 06:00 or 06:00+01:00"
    return "; write a number and a unit such as d, h or min" if name in BETTER else ""


def worst(checked: Iterable[Checked]) -> str:
    """Return ``error``, ``warning`` or an empty text."""
    levels = {remark.level for one in checked for remark in one.remarks}
    return "error" if "error" in levels else "warning" if levels else ""
