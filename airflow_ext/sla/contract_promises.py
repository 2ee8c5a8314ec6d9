"""The promises about time that a contract makes in its ODCS ``slaProperties``, as arguments of ``sla()``."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from typing import Any

from packaging.version import Version

from airflow_ext.contracts import sources
from airflow_ext.contracts.model import Contract
from airflow_ext.contracts.ranges import ContractRange
from airflow_ext.contracts.service_levels import lag_seconds
from airflow_ext.exceptions import InvalidContractError, InvalidError

AVAILABLE, LATENCY, FRESHNESS, FREQUENCY = "timeOfAvailability", "latency", "freshness", "frequency"
PROPERTIES = (AVAILABLE, LATENCY, FRESHNESS, FREQUENCY)
"""The properties that say when; the others (retention, dates of support and so on) are nobody's deadline."""
_WORDS = {"hourly": timedelta(hours=1), "daily": timedelta(days=1), "weekly": timedelta(weeks=1)}
_ID = re.compile(r"""(?:^|[{,"'])\s*id["']?\s*:\s*["']?([\w.:-]+)""", re.MULTILINE)
_DAY = timedelta(days=1)
_NAMED = 3


@dataclass(frozen=True)
class Promised:
    """One promise of a contract.

    :param word: The property it comes from.
    :param arguments: What ``sla()`` takes instead: ``by`` with ``tz``, ``within``, ``fresh`` or ``every``.
    """

    word: str
    arguments: Mapping[str, Any]


def find(contract: Any, folder: str | Path) -> Contract | None:
    """Return the contract that is meant: itself, or the newest of a folder that a range holds.

    Only files in which the id occurs are parsed, so a file of somebody else that is broken breaks nothing here.

    :param folder: Contract files; empty if there is no such folder, then ranges are ``None``.
    :raises InvalidError: If the folder has no such contract, or none of these versions.
    :raises InvalidContractError: If the folder or the file cannot be read.
    """
    if isinstance(contract, Contract):
        return contract
    wanted = ContractRange.parse(contract)
    if not folder:
        return None
    texts = {path: sources.file_text(path) for path in sources.contract_files(Path(folder))}
    found = [
        item
        for path, text in texts.items()
        if wanted.id in text and (item := _read(text, path, wanted.id)) is not None
    ]
    if not found:
        names = {name for text in texts.values() for name in _ID.findall(text)}
        near = difflib.get_close_matches(wanted.id, names, n=_NAMED)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise InvalidError(f"contract={contract!r}: no contract {wanted.id!r} in {folder}{hint}")
    fitting = [item for item in found if item.version in wanted]
    if not fitting:
        versions = ", ".join(sorted((item.version for item in found), key=Version))
        raise InvalidError(
            f"contract={contract!r}: {folder} has version {versions} only; correct the range, or publish such a version"
        )
    return max(fitting, key=lambda item: Version(item.version))


def _read(text: str, path: Path, wanted: str) -> Contract | None:
    try:
        found = Contract.from_text(text, source=str(path))
    except InvalidContractError:
        # The id may stand in it for another reason; the file that is called so is the one that is meant.
        if path.name.partition(".odcs.")[0] == wanted:
            raise
        return None
    return found if found.id == wanted else None


def promises(contract: Contract) -> list[Promised]:
    """Return what a contract promises about time; of several about the same, the strictest.

    :raises InvalidError: If it promises nothing, is retired, or a value cannot be used.
    """
    name = f"contract {contract.id} {contract.version}"
    if contract.status == "retired":
        raise InvalidError(f"{name} is retired: it promises nothing any more; use another version")
    if contract.partition.unit == "second":
        raise InvalidError(
            f"{name} has a partition each second: too many promises; give by=, fresh= or every="
        )
    found = [item for item in (_available(contract), *_durations(contract, name)) if item is not None]
    if not found:
        raise InvalidError(
            f"{name} promises nothing about time: add one of {', '.join(PROPERTIES)} to its slaProperties, "
            "or say it here with by=, within=, fresh= or every="
        )
    return found


def _available(contract: Contract) -> Promised | None:
    clock = contract.service_levels.available_at
    if clock is None:
        given = [item["value"] for item in _levels(contract, AVAILABLE)]
        if given:
            raise InvalidError(
                f"contract {contract.id} {contract.version}: {AVAILABLE} {given[0]!r} is no time of day such as 06:00"
            )
        return None
    return Promised(AVAILABLE, {**_clock(clock, contract.partition.timezone), "grace": contract.grace})


def _clock(clock: time, zone: str) -> dict[str, str]:
    """Return time and zone; one with an offset has that of UTC, which is the same all the year."""
    if clock.tzinfo is not None:
        clock = datetime.combine(datetime(2000, 1, 2), clock).astimezone(UTC).time()  # noqa: DTZ001  any day
        zone = "UTC"
    return {"by": clock.strftime("%H:%M:%S" if clock.second else "%H:%M"), "tz": zone}


def _durations(contract: Contract, name: str) -> Iterator[Promised | None]:
    zone = contract.partition.timezone
    for word, kind in ((LATENCY, "within"), (FRESHNESS, "fresh"), (FREQUENCY, "every")):
        values = [_duration(item, f"{name}: {word}") for item in _levels(contract, word)]
        if not values:
            continue
        # Windows are parts of a day; what comes less often must never be older than that.
        strictest = min(values)
        used = "fresh" if kind == "every" and (strictest > _DAY or _DAY % strictest) else kind
        yield Promised(word, {used: strictest, "tz": zone})


def _duration(item: Mapping[str, Any], where: str) -> timedelta:
    word = str(item["value"]).strip().lower()
    if item["property"] == FREQUENCY and word in _WORDS:
        return _WORDS[word]
    seconds = lag_seconds(item)
    if isinstance(seconds, str) or seconds <= 0:
        raise InvalidError(
            f"{where}: {seconds if isinstance(seconds, str) else 'it is 0'}; nobody can keep that"
        )
    return timedelta(seconds=seconds)


def _levels(contract: Contract, word: str) -> list[Mapping[str, Any]]:
    return [item for item in contract.document.get("slaProperties") or () if item["property"] == word]
