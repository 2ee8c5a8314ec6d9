"""Prepare a Vault or OpenBao that runs in dev mode for tests, through its HTTP interface alone."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import httpx


class RemoteVault:
    """A server that is not ours, and what a test puts into it; a context manager that takes it out again.

    Names of mounts, policies and roles get an ending of their own, so that runs do not meet.

    :param url: Its address.
    :param root_token: A token that may do everything.
    """

    def __init__(self, url: str, root_token: str) -> None:
        self.url, self.root_token = url.rstrip("/"), root_token
        self.ending = secrets.token_hex(4)
        self._client = httpx.Client(
            base_url=f"{self.url}/v1/",
            headers={"X-Vault-Token": root_token, "X-Vault-Request": "true"},
            timeout=10,
        )
        self._made: list[str] = []

    def __enter__(self) -> RemoteVault:
        return self

    def __exit__(self, *_: object) -> None:
        for path in reversed(self._made):
            self._client.delete(path)
        self._client.close()

    def admin(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Make a call with the root token and return the ``data`` of the answer, else its ``auth``.

        :param path: Path below ``/v1/``.
        :raises ValueError: If the answer is no success.
        """
        reply = self._client.request(method, path, json=dict(body or {}) if method != "GET" else None)
        if reply.status_code >= 400:
            raise ValueError(f"{method} {path}: {reply.status_code} {reply.text}")
        told = reply.json() if reply.content else {}
        return told.get("data") or told.get("auth") or {}

    def mount(self, kind: str, **options: Any) -> str:
        """Mount an engine and return where.

        :param kind: ``kv``, ``database`` or ``transit``.
        :param options: Such as ``version="2"``.
        """
        name = f"{kind}{''.join(options.values())}-{self.ending}"
        self.admin("POST", f"sys/mounts/{name}", {"type": kind, "options": options})
        self._made.append(f"sys/mounts/{name}")
        return name

    def auth(self, kind: str) -> str:
        """Mount an auth method, unless this test has, and return where."""
        name = f"{kind}-{self.ending}"
        if f"sys/auth/{name}" not in self._made:
            self.admin("POST", f"sys/auth/{name}", {"type": kind})
            self._made.append(f"sys/auth/{name}")
        return name

    def policy(self, name: str, rules: Mapping[str, Sequence[str]]) -> str:
        """Write a policy and return its name."""
        name = f"{name}-{self.ending}"
        policy = {"path": {path: {"capabilities": list(allowed)} for path, allowed in rules.items()}}
        self.admin("PUT", f"sys/policies/acl/{name}", {"policy": json.dumps(policy)})
        self._made.append(f"sys/policies/acl/{name}")
        return name

    def approle(self, policy: str, **settings: Any) -> dict[str, str]:
        """Make an AppRole and return what a client of it is given."""
        mount, role = self.auth("approle"), f"r{secrets.token_hex(4)}"
        path = f"auth/{mount}/role/{role}"
        self.admin("POST", path, {"token_policies": [policy], "token_ttl": 600, **settings})
        role_id = self.admin("GET", f"{path}/role-id")["role_id"]
        secret_id = self.admin("POST", f"{path}/secret-id")["secret_id"]
        given = {"url": self.url, "auth_type": "approle", "auth_mount_point": mount}
        return {**given, "role_id": role_id, "secret_id": secret_id}

    def wrapped(self, path: str, *, ttl: int = 60) -> str:
        """Make a call whose answer is wrapped and return the wrapping token.

        :param ttl: Seconds it may be unwrapped.
        """
        reply = self._client.post(path, json={}, headers={"X-Vault-Wrap-TTL": str(ttl)})
        return str(reply.raise_for_status().json()["wrap_info"]["token"])
