"""Compare two versions of a contract: what changed, whom it breaks, and whether the version says so."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from packaging.version import InvalidVersion, Version

from airflow_ext.contracts.diff_base import Changes, Element
from airflow_ext.contracts.diff_columns import (
    Spec,
    actual_name,
    announce,
    compare_properties,
    compare_relationships,
)
from airflow_ext.contracts.diff_levels import compare_levels
from airflow_ext.contracts.diff_quality import compare_quality
from airflow_ext.contracts.grades import Bump, Change, Effect, Grade, made_bump, needed_bump, next_version
from airflow_ext.contracts.loading import Places, load
from airflow_ext.contracts.partition import DEFAULT_FORMAT, DEFAULT_TIMEZONE
from airflow_ext.exceptions import InvalidContractError

KINDS: Mapping[str, str] = {
    "column.added": "A column is promised that was not.",
    "column.classification": "A column has another classification.",
    "column.enum": "The values a column allows changed.",
    "column.key": "The primary key changed.",
    "column.removed": "A column is no longer promised.",
    "column.renamed": "A column has another name in the database.",
    "column.required": "Whether a column may be NULL changed.",
    "column.spelling": "The same type in other words.",
    "column.type": "A column has another type.",
    "column.unique": "Whether a column is unique changed.",
    "column.validity": "What a valid value of a column is changed.",
    "column.widened": "A column has a wider type: whatever fitted before still does.",
    "contract.id": "The contract has another id: it is another contract.",
    "contract.removed": "A contract is gone that was not retired before.",
    "contract.status": "The state of the contract changed.",
    "deprecated": "A table or column is deprecated, or no longer.",
    "partition": "Partitions are cut or named another way.",
    "quality.added": "A quality rule is new.",
    "quality.arguments": "What a quality rule counts changed.",
    "quality.changed": "A quality rule measures something else.",
    "quality.query": "A quality rule asks another query.",
    "quality.removed": "A quality rule is gone.",
    "quality.severity": "Whether a broken quality rule breaches the contract changed.",
    "quality.threshold": "What a quality rule allows changed.",
    "relationship": "A reference to another table changed.",
    "server.moved": "The data is in another place.",
    "settings": "A setting of Airflow's side changed.",
    "sla.added": "A service level is new.",
    "sla.changed": "A service level changed in a way that cannot be compared.",
    "sla.element": "A service level is about another column.",
    "sla.end": "The end of the contract is announced, or taken back.",
    "sla.loosened": "A service level promises less.",
    "sla.removed": "A service level is gone.",
    "sla.tightened": "A service level promises more.",
    "table.added": "A table is promised that was not.",
    "table.removed": "A table is no longer promised.",
    "table.renamed": "A table has another name in the database.",
    "version": "The version does not say how much changed.",
    "words": "Something that says nothing about the data.",
}
"""Every kind of change, and what it is."""

_DIALECTS = {
    "postgresql": "postgres",
    "sqlserver": "tsql",
    "cloudsql": "postgres",
    "azure": "",
    "synapse": "tsql",
}
_PLACE = (
    "catalog",
    "project",
    "database",
    "dataset",
    "schema",
    "location",
    "path",
    "topic",
    "bucket",
    "table",
)
_TABLE = ("name", "physicalName", "properties", "quality", "relationships", "deprecated", "id", "logicalType")
_HANDLED = (
    "id", "version", "status", "servers", "schema", "slaProperties", "customProperties", "contractCreatedTs",
)  # fmt: skip
_OWN_DEFAULTS = {"airflow.partition": DEFAULT_FORMAT, "airflow.timezone": DEFAULT_TIMEZONE}
_PARTITION = ("airflow.asset", "airflow.partition", "airflow.partitionColumn", "airflow.timezone")
_SILENT = (
    "airflow.connection",
    "airflow.consumers",
    "airflow.quarantineTable",
    "airflow.samples",
    "airflow.timeLimit",
)
_ENDED = ("retired",)
_RENAME_SCORE = 0.5


@dataclass(frozen=True)
class Comparison:
    """What became of one contract.

    :param contract: Contract id.
    :param old_version: Version before, empty for a new contract.
    :param new_version: Version after, empty for one that is gone.
    :param changes: Every difference, the worst first.
    :param accepted: Kinds of change that need no version.
    :param source: The new file; the old one for a contract that is gone.
    """

    contract: str
    old_version: str
    new_version: str
    changes: tuple[Change, ...] = ()
    accepted: frozenset[str] = frozenset()
    source: str = ""

    @property
    def needed(self) -> Bump:
        """The part of the version that has to grow."""
        counted = [change for change in self.changes if change.kind not in self.accepted]
        return needed_bump(self.old_version, counted) if self.old_version else Bump.NONE

    @property
    def problem(self) -> str:
        """Why the version is wrong, empty if it is right."""
        if not self.old_version:
            return ""
        if not self.new_version:
            gone = [change for change in self.changes if change.kind not in self.accepted]
            return gone[0].text if any(change.consumer is Grade.BREAKING for change in gone) else ""
        made = made_bump(self.old_version, self.new_version)
        if made is None:
            return f"the version goes back from {self.old_version} to {self.new_version}"
        if made >= self.needed:
            return ""
        wanted = next_version(self.old_version, self.needed)
        stays = "stays" if self.old_version == self.new_version else f"grows to {self.new_version}, from"
        return f"the version {stays} {self.old_version}; these changes need {self.needed}: {wanted} or higher"

    @property
    def breaking(self) -> tuple[Change, ...]:
        """Changes that break consumers."""
        return tuple(change for change in self.changes if change.consumer is Grade.BREAKING)


def compare_texts(
    old: str, new: str, *, source: str = "new", old_source: str = "old", accepted: Collection[str] = ()
) -> Comparison:
    """Compare the texts of two versions of a contract.

    :param source: What to call the new one in messages.
    :param old_source: What to call the old one.
    :param accepted: Kinds of change that need no version.
    :raises InvalidContractError: If one of them is no valid ODCS document.
    """
    before, _ = load(old, old_source)
    after, places = load(new, source)
    return compare(before, after, places=places, source=source, old_source=old_source, accepted=accepted)


def compare(
    old: Mapping[str, Any],
    new: Mapping[str, Any],
    *,
    places: Places | None = None,
    source: str = "new",
    old_source: str = "old",
    accepted: Collection[str] = (),
) -> Comparison:
    """Compare two versions of a contract, as :func:`airflow_ext.contracts.loading.load` read them.

    :param places: Lines of the new one.
    :raises InvalidContractError: If a version is none.
    """
    for document, name in ((old, old_source), (new, source)):
        try:
            Version(document["version"])
        except InvalidVersion:
            text = f"version: {document['version']!r} is not a version such as 1.0.0"
            raise InvalidContractError(f"{name}: {text}", source=name, problems=(text,)) from None
    changes = Changes(places)
    whole = Element(str(new["id"]), ())
    if old["id"] != new["id"]:
        changes.add("contract.id", whole, "it is another contract", Effect.REPLACES, path=("id",),
                    old=old["id"], new=new["id"])  # fmt: skip
    _compare_status(changes, whole, old, new)
    _compare_servers(changes, old, new)
    _compare_tables(changes, old, new)
    compare_levels(changes, old.get("slaProperties") or [], new.get("slaProperties") or [])
    _compare_settings(changes, old, new)
    changes.words(whole, old, new, besides=_HANDLED)
    order = {Grade.BREAKING: 0, Grade.NOTICE: 1, Grade.SAFE: 2}
    found = sorted(changes.found, key=lambda c: (order[c.consumer], order[c.producer]))
    return Comparison(
        contract=str(new["id"]),
        old_version=str(old["version"]),
        new_version=str(new["version"]),
        changes=tuple(found),
        accepted=frozenset(accepted),
        source=source,
    )


def removed(old: Mapping[str, Any], *, source: str, accepted: Collection[str] = ()) -> Comparison:
    """Return the comparison of a contract whose file is gone."""
    ended = str(old.get("status")) in _ENDED
    change = Change(
        kind="contract.removed",
        where=str(old["id"]),
        text="it was retired and is gone" if ended else "the contract is gone without having been retired",
        effect=Effect.WORDS if ended else Effect.LOOSENS,
        old=str(old["version"]),
        hint="" if ended else "set status: retired and release that first",
    )
    return Comparison(str(old["id"]), str(old["version"]), "", (change,), frozenset(accepted), source)


def _compare_status(changes: Changes, whole: Element, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    before, after = str(old.get("status") or ""), str(new.get("status") or "")
    if before == after:
        return
    effect = Effect.WORDS
    if after in _ENDED:
        effect = Effect.LOOSENS
    elif "deprecated" in (before, after) or before in _ENDED:
        effect = Effect.ANNOUNCES
    changes.add("contract.status", whole, f"is {after or 'without a status'}", effect, path=("status",),
                old=before or None, new=after or None)  # fmt: skip


def _compare_servers(changes: Changes, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    before = {str(item.get("server")): (index, item) for index, item in enumerate(old.get("servers") or ())}
    after = {str(item.get("server")): (index, item) for index, item in enumerate(new.get("servers") or ())}
    for name in [*before, *(name for name in after if name not in before)]:
        was, is_now = before.get(name), after.get(name)
        element = Element(f"servers.{name}", ("servers", (is_now or was or (0, {}))[0]))
        if was is None:
            changes.add("server.moved", element, "is new", Effect.ANNOUNCES, new=name)
        elif is_now is None:
            changes.add("server.moved", element, "is gone", Effect.LOOSENS, old=name)
        else:
            moved = [
                key
                for key in ("type", *_PLACE)
                if key in {*was[1], *is_now[1]} and was[1].get(key) != is_now[1].get(key)
            ]
            for key in moved:
                changes.add("server.moved", element, f"{key} changed", Effect.REPLACES, path=element.part(key),
                            old=was[1].get(key), new=is_now[1].get(key))  # fmt: skip
            changes.words(element, was[1], is_now[1], besides=("type", *_PLACE))


def _compare_tables(changes: Changes, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    before = {str(table["name"]): (index, table) for index, table in enumerate(old.get("schema") or ())}
    after = {str(table["name"]): (index, table) for index, table in enumerate(new.get("schema") or ())}
    for name, (index, _) in before.items():
        if name not in after:
            changes.add(
                "table.removed", Element(name, ("schema", index), name), "is gone", Effect.LOOSENS, old=name
            )
    for name, (index, table) in after.items():
        element = Element(name, ("schema", index), name)
        if name not in before:
            changes.add("table.added", element, "is new", Effect.TIGHTENS, new=name)
        else:
            old_index, old_table = before[name]
            _compare_table(changes, element, old_table, table, ("schema", old_index), dialect_of(new))


def _compare_table(
    changes: Changes, element: Element, old: Spec, new: Spec, old_path: tuple[str | int, ...], dialect: str
) -> None:
    if actual_name(old) != actual_name(new):
        changes.add("table.renamed", element, "has another name in the database", Effect.REPLACES,
                    path=element.part("physicalName") if "physicalName" in new else None,
                    old=actual_name(old), new=actual_name(new))  # fmt: skip
    columns = old.get("properties") or [], new.get("properties") or []
    keys = tuple(frozenset(str(spec["name"]) for spec in side if spec.get("primaryKey")) for side in columns)
    before = len(changes.found)
    gone, come = compare_properties(
        changes,
        element,
        *columns,
        old_path=(*old_path, "properties"),
        dialect=dialect,
        keys=(keys[0], keys[1]),
    )
    _hint_at_renames(changes, before, gone, come)
    compare_quality(
        changes, element, old.get("quality") or [], new.get("quality") or [], (*old_path, "quality")
    )
    compare_relationships(changes, element, old, new)
    announce(changes, element, old, new)
    changes.words(element, old, new, besides=_TABLE)


def _hint_at_renames(changes: Changes, start: int, gone: list[Spec], come: list[Spec]) -> None:
    left = list(come)
    for spec in gone:
        scored = sorted(((_likeness(spec, other), index) for index, other in enumerate(left)), reverse=True)
        if not scored or scored[0][0] < _RENAME_SCORE:
            continue
        other = left.pop(scored[0][1])
        hint = (
            f"looks renamed to {other['name']}: rather add {other['name']} now, mark {spec['name']} as deprecated, "
            "and remove it with the next major version"
        )
        for index, change in enumerate(changes.found[start:], start):
            if change.kind == "column.removed" and change.column == actual_name(spec):
                changes.found[index] = replace(change, hint=hint)


def _likeness(old: Spec, new: Spec) -> float:
    """Return how much two columns look like one, from 0 to 1; of another type they are none."""
    types = ("logicalType", "physicalType")
    if any(old.get(name) and new.get(name) and old[name] != new[name] for name in types):
        return 0.0
    names = difflib.SequenceMatcher(None, str(old["name"]).lower(), str(new["name"]).lower()).ratio()
    same = [name for name in old if name not in ("name", *types) and new.get(name) == old[name]]
    rest = [name for name in {*old, *new} if name not in ("name", *types)]
    return 0.6 * names + 0.4 * (len(same) / len(rest) if rest else 0.5)


def dialect_of(document: Mapping[str, Any]) -> str:
    """Return sqlglot's name of the database of a contract's first server, empty if it names none."""
    servers = document.get("servers") or [{}]
    kind = str(servers[0].get("type") or "")
    return _DIALECTS.get(kind, kind)


def _compare_settings(changes: Changes, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    before, after = _own(old), _own(new)
    for name in sorted({*before, *after}):
        (_, was), (index, is_now) = before.get(name, (0, None)), after.get(name, (0, None))
        default = _OWN_DEFAULTS.get(name)
        if (was or default) == (is_now or default):
            continue
        element = Element(name, ("customProperties", index) if is_now is not None else ("customProperties",))
        if name in _PARTITION:
            kind, effect = "partition", Effect.REPLACES
        elif not name.startswith("airflow.") or name in _SILENT:
            kind, effect = "words", Effect.WORDS
        else:
            kind, effect = "settings", Effect.UNCLEAR
        changes.add(kind, element, "changed", effect, old=was, new=is_now)


def _own(document: Mapping[str, Any]) -> dict[str, tuple[int, Any]]:
    items = enumerate(document.get("customProperties") or ())
    return {str(item["property"]): (index, item["value"]) for index, item in items}
