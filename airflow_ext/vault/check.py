"""Look at a Vault the way a task would, without reading any secret."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from airflow_ext.exceptions import AirflowExtError, VaultDeniedError, VaultUnavailableError
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

    :param paths: Mount and path of folders that secrets are read from; in each, one is asked for that is not there.
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
        probes = [(mount, f"{path}/{PROBE}" if path else PROBE) for mount, path in paths]
        allowed = _capabilities(client, token, [client.api_path(mount, path) for mount, path in probes])
    except (VaultDeniedError, VaultUnavailableError) as error:
        return VaultCheck(address, True, sealed, version, problems=(str(error),))
    found = (_problem(client, mount, path, allowed) for mount, path in probes)
    problems = tuple(dict.fromkeys(each for each in found if each))  # folders of one mount share its problem
    return VaultCheck(address, True, sealed, version, True, ttl, allowed, problems)


def _problem(
    client: VaultClient, mount: str, path: str, allowed: Mapping[str, tuple[str, ...]]
) -> str | None:
    """Return what a lookup would meet at a path where nothing is; ``None`` if that is a miss."""
    shown, ours = client.api_path(mount, path), str(client.settings.kv_engine_version)
    if {"read", "root"} & set(allowed[shown]):
        try:
            client.probe(mount, path)  # only the answer tells whether mount and version are right
        except AirflowExtError as error:
            return str(error)
        return None
    version = client.mount_version(mount)
    if version not in (None, "none", ours):
        return f"mount {mount!r} is KV version {version}, but kv_engine_version={ours}: set it to {version}"
    return (
        f'{shown} may not be read: add path "{shown.removesuffix(PROBE)}*" {{ capabilities = ["read"] }} to the policy,'
        " or set that path to null if nothing is kept there"
    )


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
