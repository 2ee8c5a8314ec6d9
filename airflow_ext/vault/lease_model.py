"""What a connection document says about a lease, and the credentials that come of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from airflow_ext.exceptions import InvalidError

Scope = Literal["child", "login", "shared"]
"""Which token holds a task's leases: a child of the client's, one of a login of its own, or the client's."""

SCOPES: tuple[Scope, ...] = ("child", "login", "shared")

_KNOWN_KEYS = frozenset({"path", "ttl", "fields", "triggerer"})
_PATH = re.compile(r"[A-Za-z0-9_.+@~=-]+(/[A-Za-z0-9_.+@~=-]+)+")
_CLOSED = frozenset({"auth", "cubbyhole", "identity", "sys"})
_USUAL_FIELDS = (
    {"login": "username", "password": "password"},
    {"login": "access_key", "password": "secret_key"},
)
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def seconds_of(name: str, value: object) -> int:
    """Return a duration given as seconds or as text such as ``"90"``, ``"10m"`` or ``"1h30m"``.

    :raises InvalidError: If it is no duration above 0.
    """
    if isinstance(value, int | float) and not isinstance(value, bool) and value >= 1:
        return int(value)
    text = str(value)
    parts = re.findall(r"(\d+)([smhd])", text)
    if parts and "".join(number + unit for number, unit in parts) == text:
        found = sum(int(number) * _UNITS[unit] for number, unit in parts)
    else:
        found = int(text) if re.fullmatch(r"\d{1,9}", text) else 0
    if found < 1:
        raise InvalidError(f'{name}={value!r}: give seconds above 0, or text such as "10m"')
    return found


@dataclass(frozen=True)
class LeaseSpec:
    """The ``lease`` of a connection document.

    :param path: Where Vault makes the credentials, such as ``database/creds/etl``.
    :param ttl: Seconds to ask for at each renewal; ``None`` means what the role has.
    :param fields: Field of the connection to key of the credentials; empty means the usual ones.
    :param triggerer: Whether a trigger may have a lease of its own.
    """

    path: str
    ttl: int | None = None
    fields: tuple[tuple[str, str], ...] = ()
    triggerer: bool = False

    @property
    def is_static(self) -> bool:
        """Whether reading makes nothing: a user that exists, whose password changes from time to time."""
        return "/static-creds/" in f"/{self.path}/"

    @classmethod
    def of(cls, told: object, *, where: str) -> LeaseSpec:
        """Read what a document says.

        :param where: The document, for messages.
        :raises InvalidError: If it cannot be used; no value is shown but its own keys.
        """
        if isinstance(told, str):
            told = {"path": told}
        if not isinstance(told, Mapping) or not isinstance(told.get("path"), str):
            raise InvalidError(
                f'lease of {where} is no object with a path: write {{"path": "database/creds/ROLE"}}'
            )
        unknown = sorted(str(key) for key in set(told) - _KNOWN_KEYS)
        if unknown:
            raise InvalidError(f"lease of {where} has unknown keys ({', '.join(unknown)})")
        path = told["path"].strip("/")
        parts = path.split("/")
        if not _PATH.fullmatch(path) or {".", ".."} & set(parts) or parts[0] in _CLOSED:
            raise InvalidError(f"lease.path of {where} is no path of credentials such as database/creds/ROLE")
        ttl = seconds_of(f"lease.ttl of {where}", told["ttl"]) if told.get("ttl") is not None else None
        fields = told.get("fields") or {}
        if not isinstance(fields, Mapping) or not all(isinstance(each, str) for each in fields.values()):
            raise InvalidError(
                f"lease.fields of {where} is no object of texts: write field of the connection: key"
            )
        return cls(path, ttl, tuple(sorted(fields.items())), bool(told.get("triggerer")))


@dataclass(frozen=True, eq=False)
class Leased:
    """Credentials as Vault gave them; never printed.

    :param path: Where they are from.
    :param lease_id: Empty for a static role.
    :param data: What Vault gave.
    """

    path: str
    lease_id: str
    data: Mapping[str, Any] = field(repr=False)

    def fields(self, spec: LeaseSpec) -> dict[str, str]:
        """Return the fields of a connection.

        :raises InvalidError: If the credentials lack one.
        """
        candidates = [dict(spec.fields)] if spec.fields else list(_USUAL_FIELDS)
        for names in candidates:
            if all(key in self.data for key in names.values()):
                return {each: str(self.data[key]) for each, key in names.items()}
        known = ", ".join(sorted(self.data))
        raise InvalidError(
            f"credentials of {self.path} have the keys {known}: name the ones to use in lease.fields"
        )


@dataclass
class Held:
    """Credentials in use; times are seconds on the clock of their session.

    :param granted: Seconds they were given at first.
    """

    leased: Leased
    spec: LeaseSpec
    granted: int
    expires: float
    renew_at: float
    renewable: bool

    def may_be_given(self, now: float) -> bool:
        """Tell if it lives long enough to be handed out: one at its end is kept, but the next asker gets a new one."""
        left = self.expires - now
        return left > (min(5.0, self.granted / 10) if self.renewable else self.granted / 3)


@dataclass(frozen=True)
class Owner:
    """The task whose credentials they are.

    :param dag_id: Its DAG; the other fields likewise.
    """

    dag_id: str
    run_id: str
    task_id: str
    map_index: int = -1
    try_number: int = 1

    @property
    def meta(self) -> dict[str, str]:
        """What a token carries, to be seen in Vault's own audit log."""
        told = {"dag_id": self.dag_id, "run_id": self.run_id, "task_id": self.task_id}
        return told | {"map_index": str(self.map_index), "try_number": str(self.try_number)}
