"""Where in Vault an id is looked for."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from airflow_ext.exceptions import InvalidError
from airflow_ext.secrets._vault_arguments import Route
from airflow_ext.vault.client import VaultClient

log = logging.getLogger(__name__)

Kind = Literal["connection", "variable", "config"]
ClientOf = Callable[..., VaultClient]
"""Returns the client of the backend's settings, or of those with some changed by name."""


@dataclass(frozen=True)
class Place:
    """Where an id is looked for.

    :param client: Who asks.
    :param path: Path in the mount.
    :param bundle: The path is a document of many ids.
    """

    client: VaultClient
    mount: str
    path: str
    bundle: bool = False


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How connections, variables and options lie in Vault; the arguments of the backend of the same names.

    :param connections_path: Folders of connections, tried in order.
    :param variables_path: The same for variables.
    :param config_path: The same for configuration options.
    :param mount_point: ``None`` takes it from the id.
    :param use_team_secrets_path: With ``[core] multi_team``, teams have folders below these.
    :param team_name: The team of lookups that name none.
    :param bundles: Documents in ``mount_point`` whose keys are connection ids.
    """

    connections_path: tuple[str, ...]
    variables_path: tuple[str, ...]
    config_path: tuple[str, ...]
    mount_point: str | None
    use_team_secrets_path: bool = True
    team_name: str | None = None
    routes: tuple[Route, ...] = ()
    bundles: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.bundles and self.mount_point is None:
            raise ValueError("bundles need mount_point: an id cannot name the mount of a bundle")

    def folders(self, kind: str) -> tuple[str, ...]:
        """Return the folders of a kind of secret."""
        known = {"connection": self.connections_path, "variable": self.variables_path}
        return known.get(kind, self.config_path)

    def keeps_teams_apart(self, kind: Kind, key: str) -> bool:
        """Tell if each team has a place of its own for an id."""
        return self._has_team_folders() and self._route(kind, key) is None

    def places(self, kind: Kind, key: str, team_name: str | None, client_of: ClientOf) -> Iterator[Place]:
        """Yield where an id is looked for, in order.

        Nothing is yielded where an id could name what is another team's. Routes and bundles say themselves what
        they hold.

        :raises InvalidError: If its route names no mount where one is needed.
        """
        if {".", ".."} & set(key.split("/")):
            return  # the HTTP client would resolve these, and leave the folder
        if kind == "connection" and self.mount_point is not None:
            for path in self.bundles:
                yield Place(client_of(), self.mount_point, path, bundle=True)
        route = self._route(kind, key)
        if route is not None:
            yield self._routed(route, key, client_of)
            return
        mount, name = self.mount_point, key
        if mount is None:
            mount, separator, name = key.partition("/")
            if not separator:
                return
        team = team_name or self.team_name
        # Airflow is asked last: reading one of its options takes as long as all the rest.
        if not team and "/" in name and self._has_team_folders():
            log.warning(
                "%s %r is not looked up: with [core] multi_team and no team, a name with '/' could be a team's; rename it,"
                " or give the backend of that team's workers team_name",
                kind,
                key,
            )
            return
        below = f"{team}/" if team and self._has_team_folders() else ""
        for folder in self.folders(kind):
            yield Place(client_of(), mount, f"{folder}/{below}{name}" if folder else f"{below}{name}")

    def _route(self, kind: Kind, key: str) -> Route | None:
        fits = (each for each in self.routes if each.kind in (None, kind) and each.pattern.fullmatch(key))
        return next(fits, None)

    def _routed(self, route: Route, key: str, client_of: ClientOf) -> Place:
        mount = route.mount or self.mount_point
        if mount is None:
            raise InvalidError(f"the route of {key!r} names no mount, and mount_point is not set: add mount")
        changes: dict[str, Any] = {}
        if route.version is not None:
            changes["kv_engine_version"] = route.version
        if route.namespace is not None:
            changes["namespace"] = route.namespace
        return Place(client_of(**changes), mount, route.place(key))

    def _has_team_folders(self) -> bool:
        from airflow.sdk.configuration import conf

        return self.use_team_secrets_path and conf.getboolean("core", "multi_team", fallback=False)
