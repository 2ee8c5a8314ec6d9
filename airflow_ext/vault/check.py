"""Look at a Vault the way a task would, without reading any secret."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from airflow_ext.exceptions import VaultDeniedError, VaultUnavailableError
from airflow_ext.vault.client import VaultClient

PROBE = "airflow-ext-probe"
"""Name of a secret that need not exist, asked for below each configured path."""


@dataclass(frozen=True)
class VaultCheck:
    """What was found.

    :param address: The address that was asked.
    :param reachable: Something there answered as Vault does.
    :param sealed: ``None`` when not known.
    :param version: As the server tells it.
    :param logged_in: The credentials were taken.
    :param token_ttl: Seconds the token has left; ``None`` for one without end, or without a login.
    :param capabilities: What the token may do, by path.
    :param problems: One sentence each, with its remedy; empty when all is well.
    """

    address: str
    reachable: bool = False
    sealed: bool | None = None
    version: str | None = None
    logged_in: bool = False
    token_ttl: int | None = None
    capabilities: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    problems: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether a lookup would work."""
        return not self.problems


def check(client: VaultClient, paths: Iterable[tuple[str, str]]) -> VaultCheck:
    """Ask health, log in, and ask what the token may do; never raises for what Vault does or says.

    :param paths: Mount and path of folders that secrets are read from.
    """
    address = client.settings.shown_address
    try:
        # Sealed and standby servers answer with other codes by default; here all are answers.
        query = "?standbyok=true&perfstandbyok=true&sealedcode=200&uninitcode=200"
        health = client.transport.request("GET", "sys/health", query=query, guarded=False).body
    except VaultUnavailableError as error:
        return VaultCheck(address, problems=(f"{error}: check url, network and verify",))
    sealed, version = bool(health.get("sealed")), str(health.get("version") or "") or None
    if sealed or not health.get("initialized", True):
        problem = (
            f"Vault at {address} is {'sealed' if sealed else 'not initialised'}: its operator must open it"
        )
        return VaultCheck(address, True, sealed, version, problems=(problem,))
    try:
        token = client.token()
        me = client.transport.request("GET", "auth/token/lookup-self", token=token, guarded=False)
        if me.status != 200:
            problem = (
                f"Vault at {address} does not let the token look itself up (status {me.status}):"
                " it has expired or was revoked, or lacks the policy 'default'"
            )
            return VaultCheck(address, True, sealed, version, problems=(problem,))
        ttl = int(me.data.get("ttl") or 0) or None
        allowed = _capabilities(
            client, token, [client.api_path(mount, f"{path}/{PROBE}") for mount, path in paths]
        )
    except (VaultDeniedError, VaultUnavailableError) as error:
        return VaultCheck(address, True, sealed, version, problems=(str(error),))
    problems = tuple(
        f'{path} may not be read: add path "{path.removesuffix(PROBE)}*" {{ capabilities = ["read"] }} to the policy,'
        " or set that path to null if nothing is kept there"
        for path, granted in allowed.items()
        if not {"read", "root"} & set(granted)
    )
    return VaultCheck(address, True, sealed, version, True, ttl, allowed, problems)


def _capabilities(client: VaultClient, token: str, paths: list[str]) -> dict[str, tuple[str, ...]]:
    if not paths:
        return {}
    body = {"paths": paths}
    reply = client.transport.request("POST", "sys/capabilities-self", token=token, body=body, guarded=False)
    if reply.status != 200:
        raise VaultDeniedError(
            f"the token may not ask for its capabilities (status {reply.status}): give it the policy 'default'",
            status=reply.status,
            path="sys/capabilities-self",
        )
    told = {**reply.body, **reply.data}
    return {path: tuple(told.get(path) or ()) for path in paths}
