"""Our own words in a contract: ``customProperties`` named ``airflow.*``."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from airflow_ext.contracts.partition import DEFAULT_FORMAT, DEFAULT_TIMEZONE, PartitionRule
from airflow_ext.exceptions import InvalidError

Path = tuple[str | int, ...]
Problem = Callable[[Path, str], None]

DEFAULT_TIME_LIMIT = 600.0
MAX_TIME_LIMIT = 86_400.0
MAX_SAMPLES = 20
MAX_LENGTH = 80
"""Characters of a length of time."""
MAX_SECONDS = 100 * 31_536_000.0
OWN_PROPERTIES = (
    "airflow.asset",
    "airflow.connection",
    "airflow.consumers",
    "airflow.grace",
    "airflow.partition",
    "airflow.partitionColumn",
    "airflow.quarantineTable",
    "airflow.samples",
    "airflow.severity",
    "airflow.timeLimit",
    "airflow.timezone",
)
TABLE_PROPERTIES = ("airflow.partitionColumn", "airflow.quarantineTable")
"""Those that may also stand at a table, and then count for it alone."""

_DEFAULT_SEVERITIES = {
    "schema.missing": "error",
    "schema.retyped": "error",
    "schema.widened": "warning",
    "schema.extra": "warning",
    "schema.key": "warning",
    "schema.nullable": "ignore",
    "freshness": "error",
    "latency": "error",
    "retention": "warning",
    "timeOfAvailability": "warning",
}
_SOFT = ("warning", "warn", "info", "low", "minor")
_UNITS = {
    "s": 1, "sec": 1, "second": 1, "seconds": 1,
    "m": 60, "min": 60, "minute": 60, "minutes": 60,
    "h": 3600, "hr": 3600, "hour": 3600, "hours": 3600,
    "d": 86400, "day": 86400, "days": 86400,
    "w": 604800, "wk": 604800, "week": 604800, "weeks": 604800,
    "mo": 2592000, "month": 2592000, "months": 2592000,
    "y": 31536000, "yr": 31536000, "year": 31536000, "years": 31536000,
}  # fmt: skip


@dataclass(frozen=True)
class Severities:
    """How grave each kind of failure is: ``error`` breaches, ``warning`` warns, ``ignore`` is not judged.

    :param given: What ``airflow.severity`` says. Keys are ``schema.missing``, ``schema.extra``,
        ``schema.retyped``, ``schema.widened``, ``schema.nullable``, ``schema.key``, ``freshness``, ``latency``,
        ``retention``, ``timeOfAvailability``, ``quality.<severity>`` for the severities of rules and
        ``dimension.<dimension>`` for rules that have no severity.
    """

    given: tuple[tuple[str, str], ...] = ()

    def of(self, kind: str) -> str:
        """Return the severity of one of our own checks."""
        return dict(self.given).get(kind, _DEFAULT_SEVERITIES.get(kind, "error"))

    def of_rule(self, severity: str, dimension: str) -> str:
        """Return the severity of a rule of the contract.

        :param severity: The word the rule has, empty for none.
        :param dimension: Its dimension, empty for none.
        """
        given, word = dict(self.given), severity.lower()
        if word:
            return given.get(f"quality.{word}", "warning" if word in _SOFT else "error")
        return given.get(f"dimension.{dimension}", "error")


@dataclass(frozen=True)
class Consumer:
    """A consumer the contract knows.

    :param name: Team, DAG or product, as people know it.
    :param uses: Columns it reads, ``table.column`` or ``column``; empty means all.
    :param contact: Where to tell it about breaches and changes, empty if not said.
    """

    name: str
    uses: tuple[str, ...] = ()
    contact: str = ""


@dataclass(frozen=True)
class Settings:
    """What a contract says to Airflow.

    :param conn_id: Connection of the database, empty if none is named.
    :param asset: Name or URI of the asset of the table itself, which another tool may emit; empty if not said.
    :param partition: How partition keys look.
    :param partition_column: Column that restricts tables to a partition, empty if not said.
    :param grace: Seconds after the time of availability before a partition is late.
    :param quarantine_table: Where rows that break rules are put, empty for nowhere.
    :param severities: How grave each kind of failure is.
    :param consumers: Consumers and the columns they use.
    :param samples: Values per failed rule that may be shown in a log; 0 shows none.
    :param time_limit: Seconds after which a query of the judge is ended.
    """

    conn_id: str = ""
    asset: str = ""
    partition: PartitionRule = field(default_factory=PartitionRule)
    partition_column: str = ""
    grace: float = 0.0
    quarantine_table: str = ""
    severities: Severities = field(default_factory=Severities)
    consumers: tuple[Consumer, ...] = ()
    samples: int = 0
    time_limit: float = DEFAULT_TIME_LIMIT


def seconds_of(text: object) -> float:
    """Read a length of time such as ``45m``, ``2h 30m`` or ``1 day``.

    :return: Seconds.
    :raises ValueError: If it is no length of time.
    """
    shown = str(text).lower()
    written = shown[: MAX_LENGTH + 1]  # the time it takes to read it grows with its square
    parts = re.findall(r"(\d+(?:\.\d+)?)\s*([a-z]+)", written)
    left = re.sub(r"\d+(?:\.\d+)?\s*[a-z]+", "", written).strip()
    if not parts or left or len(shown) > MAX_LENGTH or any(unit not in _UNITS for _, unit in parts):
        raise InvalidError(
            f"{str(text)[:80]!r} is no length of time; write for example '45m', '2h 30m' or '1d'"
        )
    seconds = sum(float(amount) * _UNITS[unit] for amount, unit in parts)
    if seconds > MAX_SECONDS:
        raise InvalidError(f"{text!r} is longer than a hundred years")
    return seconds


def unit_seconds(unit: object) -> float | None:
    """Return the seconds of an ODCS unit such as ``d``; ``None`` if it is not known."""
    return _UNITS.get(str(unit or "d").lower())


def own_entries(
    owner: Mapping[str, Any], path: Path, problem: Problem, known: tuple[str, ...] = OWN_PROPERTIES
) -> Iterator[tuple[str, Any, Path]]:
    """Yield name, value and place of our properties of ``owner``; tell what is wrong with their names.

    :param known: Those that may stand here.
    """
    seen = set()
    for index, item in enumerate(owner.get("customProperties") or ()):
        name, here = item["property"], (*path, "customProperties", index)
        if not name.lower().startswith("airflow."):
            continue
        if name not in known:
            words = {own.partition(".")[2].lower(): own for own in OWN_PROPERTIES}
            near = difflib.get_close_matches(name.partition(".")[2].lower(), words, 1, 0.5)
            hint = (
                f"; did you mean {words[near[0]]!r}?" if near else f"; known are {', '.join(OWN_PROPERTIES)}"
            )
            text = "cannot stand here, only at the top" if name in OWN_PROPERTIES else f"is not known{hint}"
            problem((*here, "property"), f"{name!r} {text}")
        elif name in seen:
            problem((*here, "property"), f"{name!r} is written twice")
        else:
            seen.add(name)
            yield name, item["value"], (*here, "value")


def read_settings(document: Mapping[str, Any], problem: Problem) -> Settings:
    """Read our properties of a contract; what is wrong is told to ``problem``."""
    found: dict[str, Any] = {}
    partition = {"format": DEFAULT_FORMAT, "timezone": DEFAULT_TIMEZONE}
    zone_path: Path = ("customProperties",)
    for name, value, path in own_entries(document, (), problem):
        try:
            match name:
                case "airflow.connection":
                    found["conn_id"] = _text(name, value)
                case "airflow.asset":
                    found["asset"] = _text(name, value)
                case "airflow.partition":
                    partition["format"], zone_path = _text(name, value), path
                case "airflow.timezone":
                    partition["timezone"], zone_path = _text(name, value), path
                case "airflow.partitionColumn":
                    found["partition_column"] = _text(name, value)
                case "airflow.quarantineTable":
                    found["quarantine_table"] = _text(name, value)
                case "airflow.grace":
                    found["grace"] = seconds_of(value)
                case "airflow.timeLimit":
                    found["time_limit"] = _time_limit(value)
                case "airflow.samples":
                    found["samples"] = _samples(value)
                case "airflow.severity":
                    found["severities"] = _severities(value)
                case _:
                    found["consumers"] = _consumers(value)
        except InvalidError as exc:
            problem(path, str(exc))
    try:
        found["partition"] = PartitionRule(**partition)
    except InvalidError as exc:
        problem(zone_path, str(exc))
    return Settings(**found)


def _text(name: str, value: object) -> str:
    if not isinstance(value, str) or not value:
        raise InvalidError(f"{name} takes a text, not {value!r}")
    return value


def _time_limit(value: object) -> float:
    seconds = seconds_of(value)
    if not 1 <= seconds <= MAX_TIME_LIMIT:
        raise InvalidError(f"{value!r}: a time limit is between 1s and 1d")
    return seconds


def _samples(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_SAMPLES:
        raise InvalidError(f"{value!r}: write how many values may be shown, 0 to {MAX_SAMPLES}")
    return value


def _severities(value: object) -> Severities:
    if not isinstance(value, Mapping):
        raise InvalidError(f"{value!r} is not a mapping such as {{schema.extra: ignore}}")
    for key, word in value.items():
        if word not in ("error", "warning", "ignore"):
            raise InvalidError(f"{key}: {word!r} is not known, use error, warning or ignore")
        if key not in _DEFAULT_SEVERITIES and not re.fullmatch(r"(quality|dimension)\.\S+", str(key)):
            near = difflib.get_close_matches(str(key), _DEFAULT_SEVERITIES, 1, 0.5)
            hint = f"did you mean {near[0]!r}?" if near else "use quality.<severity> or dimension.<name>"
            raise InvalidError(f"{key!r} is not known; {hint}")
    return Severities(tuple(sorted((str(key), str(word)) for key, word in value.items())))


def _consumers(value: object) -> tuple[Consumer, ...]:
    example = "{name: revenue, uses: [order_id, amount], contact: '#revenue'}"
    if not isinstance(value, list):
        raise InvalidError(f"{value!r} is not a list of consumers such as {example}")
    found = []
    for item in value:
        if not isinstance(item, Mapping) or not isinstance(item.get("name"), str) or not item["name"]:
            raise InvalidError(f"{item!r} is no consumer; write {example}")
        if unknown := set(item) - {"name", "uses", "contact"}:
            raise InvalidError(
                f"consumer {item['name']!r}: {sorted(map(str, unknown))[0]!r} is not known; write {example}"
            )
        uses = item.get("uses") or []
        if not isinstance(uses, list) or not all(isinstance(use, str) and use for use in uses):
            raise InvalidError(f"consumer {item['name']!r}: uses is a list of columns, not {uses!r}")
        found.append(Consumer(item["name"], tuple(uses), str(item.get("contact") or "")))
    return tuple(found)
