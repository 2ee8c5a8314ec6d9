"""The two key-value engines of the local Vault-compatible server."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

from airflow_ext.testing._vault_auth import SYSTEM_MAX_TTL, WireError
from airflow_ext.testing._vault_leases import Wanted


@dataclass
class Answer:
    """A success: status, the ``data`` part, other keys of the envelope, and the lease that comes with it."""

    status: int = 200
    data: Any = None
    extra: dict[str, Any] = field(default_factory=dict)
    lease: Wanted | None = None


class Engine(Protocol):
    """What a mount does with the rest of a path."""

    kind: str
    version: str

    def handle(self, method: str, path: str, query: Mapping[str, str], body: Mapping[str, Any]) -> Answer: ...

    def exists(self, path: str) -> bool:
        """Tell if a write to ``path`` changes something that is there (update) or makes it (create)."""
        ...

    def put(self, path: str, data: Mapping[str, Any]) -> int: ...


def listing(paths: Iterable[str], folder: str) -> Answer:
    """Return the names below a folder.

    :raises WireError: 404, if there are none.
    """
    prefix = folder.strip("/") + "/" if folder.strip("/") else ""
    names = set()
    for path in paths:
        if path.startswith(prefix):
            head, separator, _ = path[len(prefix) :].partition("/")
            names.add(head + separator)
    if not names:
        raise WireError(404)
    return Answer(data={"keys": sorted(names)})


def unsupported() -> WireError:
    """Return the answer to a verb that a path does not know."""
    return WireError(405, "1 error occurred:\n\t* unsupported operation\n\n")


class KeyValue1:
    """KV version 1: one value per path."""

    kind = "kv"
    version = "1"

    def __init__(self) -> None:
        self._secrets: dict[str, dict[str, Any]] = {}

    def exists(self, path: str) -> bool:
        return path in self._secrets

    def put(self, path: str, data: Mapping[str, Any]) -> int:
        self._secrets[path] = dict(data)
        return 1

    def handle(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],  # noqa: ARG002  # there are no versions to choose from
        body: Mapping[str, Any],
    ) -> Answer:
        if method == "LIST":
            return listing(self._secrets, path)
        if method == "GET":
            if path not in self._secrets:
                raise WireError(404)
            return Answer(data=self._secrets[path], extra={"lease_duration": SYSTEM_MAX_TTL})
        if method in ("POST", "PUT"):
            if not body:
                raise WireError(400, "missing data fields")
            self.put(path, body)
            return Answer(204)
        if method == "DELETE":
            self._secrets.pop(path, None)
            return Answer(204)
        raise unsupported()


@dataclass
class Version:
    """One version of a secret; ``data`` is ``None`` once destroyed."""

    data: dict[str, Any] | None
    created: str
    deleted: str = ""
    destroyed: bool = False

    def metadata(self, number: int, custom: Any) -> dict[str, Any]:
        return {
            "created_time": self.created,
            "custom_metadata": custom,
            "deletion_time": self.deleted,
            "destroyed": self.destroyed,
            "version": number,
        }


@dataclass
class Secret:
    """All versions of one path and the settings of its metadata."""

    created: str
    versions: dict[int, Version] = field(default_factory=dict)
    current: int = 0
    settings: dict[str, Any] = field(default_factory=dict)
    updated: str = ""


class KeyValue2:
    """KV version 2: numbered versions, check-and-set, soft deletes.

    :param now: The server's clock.
    """

    kind = "kv"
    version = "2"

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._secrets: dict[str, Secret] = {}

    def _stamp(self) -> str:
        moment = datetime.fromtimestamp(self._now(), UTC)
        return f"{moment:%Y-%m-%dT%H:%M:%S.%f}000Z"

    def exists(self, path: str) -> bool:
        return path.partition("/")[2] in self._secrets

    def put(self, path: str, data: Mapping[str, Any]) -> int:
        """Write a new version and return its number."""
        secret = self._secrets.setdefault(path, Secret(self._stamp()))
        secret.current += 1
        secret.versions[secret.current] = Version(dict(data), self._stamp())
        secret.updated = self._stamp()
        most = int(secret.settings.get("max_versions") or 10)
        for number in [each for each in secret.versions if each <= secret.current - most]:
            del secret.versions[number]
        return secret.current

    def handle(self, method: str, path: str, query: Mapping[str, str], body: Mapping[str, Any]) -> Answer:
        area, _, name = path.partition("/")
        if area == "data":
            return self._data(method, name, query, body)
        if area == "metadata":
            return self._metadata(method, name, body)
        if area in ("delete", "undelete", "destroy") and method in ("POST", "PUT"):
            return self._change_versions(area, name, body)
        if area == "subkeys" and method == "GET":
            answer = self._read(name, query)
            return Answer(
                data={"subkeys": dict.fromkeys(answer.data["data"]), "metadata": answer.data["metadata"]}
            )
        warning = "Invalid path for a versioned K/V secrets engine. See the API docs for the appropriate API endpoints to use."
        raise WireError(404, body={"errors": [], "warnings": [warning]})

    def _read(self, name: str, query: Mapping[str, str]) -> Answer:
        secret = self._secrets.get(name)
        if secret is None:
            raise WireError(404)
        number = int(query.get("version") or 0) or secret.current
        version = secret.versions.get(number)
        if version is None:
            raise WireError(404)
        metadata = version.metadata(number, secret.settings.get("custom_metadata"))
        if version.destroyed or version.deleted:
            raise WireError(404, body=envelope(Answer(data={"data": None, "metadata": metadata})))
        return Answer(data={"data": version.data, "metadata": metadata})

    def _data(self, method: str, name: str, query: Mapping[str, str], body: Mapping[str, Any]) -> Answer:
        if method == "GET":
            return self._read(name, query)
        if method in ("POST", "PUT", "PATCH"):
            data = body.get("data")
            if not isinstance(data, dict):
                raise WireError(400, "no data provided")
            if method == "PATCH":
                before = self._read(name, {}).data["data"]
                data = {key: value for key, value in (before | data).items() if value is not None}
            self._check_and_set(name, (body.get("options") or {}).get("cas"))
            number = self.put(name, data)
            secret = self._secrets[name]
            return Answer(
                data=secret.versions[number].metadata(number, secret.settings.get("custom_metadata"))
            )
        if method == "DELETE":
            there = self._secrets.get(name)
            if there is not None and there.current in there.versions:
                there.versions[there.current].deleted = self._stamp()
            return Answer(204)
        raise unsupported()

    def _check_and_set(self, name: str, cas: int | None) -> None:
        secret = self._secrets.get(name)
        if cas is None:
            if secret is not None and secret.settings.get("cas_required"):
                raise WireError(400, "check-and-set parameter required for this call")
        elif int(cas) != (secret.current if secret is not None else 0):
            raise WireError(400, "check-and-set parameter did not match the current version")

    def _change_versions(self, verb: str, name: str, body: Mapping[str, Any]) -> Answer:
        secret = self._secrets.get(name)
        for number in body.get("versions") or []:
            version = None if secret is None else secret.versions.get(int(number))
            if version is None:
                continue
            if verb == "destroy":
                version.data, version.destroyed = None, True
            else:
                version.deleted = self._stamp() if verb == "delete" else ""
        return Answer(204)

    def _metadata(self, method: str, name: str, body: Mapping[str, Any]) -> Answer:
        if method == "LIST":
            return listing(self._secrets, name)
        if method in ("POST", "PUT"):
            self._secrets.setdefault(name, Secret(self._stamp())).settings.update(body)
            return Answer(204)
        if method == "DELETE":
            self._secrets.pop(name, None)
            return Answer(204)
        if method != "GET":
            raise unsupported()
        secret = self._secrets.get(name)
        if secret is None:
            raise WireError(404)
        settings = {
            "cas_required": False,
            "custom_metadata": None,
            "delete_version_after": "0s",
            "max_versions": 0,
        }
        versions = {
            str(number): {key: value for key, value in each.metadata(number, None).items() if key in _BRIEF}
            for number, each in secret.versions.items()
        }
        return Answer(
            data={
                **settings,
                **secret.settings,
                "created_time": secret.created,
                "updated_time": secret.updated or secret.created,
                "current_version": secret.current,
                "oldest_version": min(secret.versions, default=0),
                "versions": versions,
            }
        )


_BRIEF = ("created_time", "deletion_time", "destroyed")


def envelope(answer: Answer) -> dict[str, Any]:
    """Return the body of an answer that carries data."""
    return {
        "request_id": str(uuid.uuid4()),
        "lease_id": "",
        "renewable": False,
        "lease_duration": 0,
        "data": answer.data,
        "wrap_info": None,
        "warnings": None,
        "auth": None,
        **answer.extra,
    }
