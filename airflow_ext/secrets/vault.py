"""Connections, variables and configuration options from Vault."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

from airflow.sdk.bases.secrets_backend import BaseSecretsBackend
from airflow.sdk.exceptions import AirflowSecretsBackendAccessDenied

from airflow_ext.exceptions import AirflowExtError, InvalidError
from airflow_ext.secrets import _vault_arguments as given
from airflow_ext.secrets._vault_arguments import Paths, Patterns
from airflow_ext.secrets._vault_forking import before_tasks
from airflow_ext.secrets._vault_leases import BOOK, LeaseSettings, current_owner, process_role
from airflow_ext.secrets._vault_masking import amask, mask
from airflow_ext.secrets._vault_places import Kind, Layout, Place
from airflow_ext.vault.audit import Access, AuditLog
from airflow_ext.vault.bundles import Bundles
from airflow_ext.vault.cache import Document
from airflow_ext.vault.check import VaultCheck, check
from airflow_ext.vault.client import VaultClient, shared_client
from airflow_ext.vault.documents import connection_value, lease_of, plain_value, secret_texts, with_lease
from airflow_ext.vault.lease_model import Leased, LeaseSpec
from airflow_ext.vault.leases import TOKEN_TTL, LeaseSession
from airflow_ext.vault.reading import Reading
from airflow_ext.vault.settings import BreakerPolicy, CachePolicy, Timeouts, VaultSettings

log = logging.getLogger(__name__)


class VaultBackend(BaseSecretsBackend):
    """Read connections, variables and configuration options from Vault.

    Takes the arguments and the layout of the hashicorp provider's class of the same name. What is not named here
    belongs to a way to log in (``username``, ``kubernetes_role``, ``jwt_token_path``, ...; see
    :class:`airflow_ext.vault.logins.Credentials`) or is passed on to hvac (``namespace``, ``verify``, ``cert``,
    ``proxies``, ``strict_http``, ``request_header``). Numbers, lists and switches may also come as text, as
    environment variables give them.

    :param connections_path: Folder of connections, or several to be tried in order; ``None`` reads none.
    :param variables_path: The same for variables.
    :param config_path: The same for configuration options.
    :param use_team_secrets_path: With ``[core] multi_team``, look below ``<path>/<team>`` for a team.
    :param global_secrets_path: One more folder to try last.
    :param team_name: The team of lookups that name none, for workers of one team: Airflow 3.3 tells workers none.
    :param include: Regular expressions; only ids one of them fits are looked up. ``None`` means all.
    :param exclude: Regular expressions of ids that are not looked up.
    :param routes: Objects ``{"pattern", "mount", "path", "kind", "kv", "namespace"}``; the first whose pattern fits
        an id says where it is kept.
    :param bundles: Documents in ``mount_point`` whose keys are connection ids; they are looked at first.
    :param prefetch: Connection ids to read together at the first lookup of a process.
    :param url: Address; ``None`` takes ``VAULT_ADDR``, else ``http://localhost:8200``.
    :param auth_type: One of :data:`airflow_ext.vault.logins.AUTH_TYPES`.
    :param auth_mount_point: Where the auth method is mounted; ``None`` means the name of the method.
    :param mount_point: Where the key-value engine is mounted; ``None`` takes it from the id (``mount/id``).
    :param kv_engine_version: 1 or 2.
    :param token: For ``token``; ``None`` takes ``token_path``, else ``VAULT_TOKEN``. For ``github``, GitHub's.
    :param token_path: File with the token.
    :param role_id: For ``approle``; the role's name for ``aws_iam``, ``gcp`` and ``azure``.
    :param secret_id: For ``approle``; the secret for ``aws_iam`` and ``azure``.
    :param secret_id_wrapped: ``secret_id`` is a wrapping token.
    :param timeout: Seconds for connecting and for an answer, or both as ``[connect, read]``; ``None``
        means ``[0.5, 1.5]``.
    :param soft_ttl: Seconds a secret is served without asking again.
    :param hard_ttl: Seconds after the read until which it is served when Vault does not answer.
    :param missing_ttl: Seconds that "not there" and "denied" are remembered.
    :param shared_cache: The tasks of a worker tell each other what they read, in encrypted files in memory.
    :param breaker_failures: Failed calls in a row after which Vault is left alone.
    :param breaker_seconds: For how long.
    :param on_error: ``raise`` fails the lookup when Vault cannot say; ``fall_through`` logs the reason and
        lets Airflow ask the next backend.
    :param lease_scope: Which token holds the leases of a task: ``child``, ``login`` or ``shared``.
    :param lease_token_ttl: Seconds that token lives without renewal: how long credentials outlive a lost worker.
    :param lease_policies: Policies of a child token; ``None`` takes those of its parent.
    :param audit_file: File that gets a line for each access.
    :param clock: Seconds that never go back; a seam for tests.
    :raises ValueError: If an argument cannot work, naming it. Nothing is sent before the first lookup.
    :raises TypeError: If an argument is not known.
    """

    def __init__(
        self,
        *,
        connections_path: Paths = "connections",
        variables_path: Paths = "variables",
        config_path: Paths = "config",
        use_team_secrets_path: bool | str = True,
        global_secrets_path: str | None = None,
        team_name: str | None = None,
        include: Paths = None,
        exclude: Paths = None,
        routes: Any = None,
        bundles: Paths = None,
        prefetch: Paths = None,
        url: str | None = None,
        auth_type: str = "token",
        auth_mount_point: str | None = None,
        mount_point: str | None = "secret",
        kv_engine_version: int | str = 2,
        token: str | None = None,
        token_path: str | None = None,
        role_id: str | None = None,
        secret_id: str | None = None,
        secret_id_wrapped: bool | str = False,
        timeout: float | str | Sequence[float] | None = None,
        soft_ttl: float | str = 60.0,
        hard_ttl: float | str = 3600.0,
        missing_ttl: float | str = 30.0,
        shared_cache: bool | str = False,
        breaker_failures: int | str = 3,
        breaker_seconds: float | str = 10.0,
        on_error: Literal["raise", "fall_through"] = "raise",
        lease_scope: str = "child",
        lease_token_ttl: int | str = TOKEN_TTL,
        lease_policies: Paths = None,
        audit_file: str | None = None,
        clock: Callable[[], float] = time.monotonic,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        self.on_error = given.one_of("on_error", on_error, ("raise", "fall_through"))
        more = [global_secrets_path] if global_secrets_path is not None else []
        self.layout = Layout(
            connections_path=given.folders(connections_path, more),
            variables_path=given.folders(variables_path, more),
            config_path=given.folders(config_path, more),
            mount_point=mount_point.strip("/") if mount_point else None,
            use_team_secrets_path=given.switch("use_team_secrets_path", use_team_secrets_path),
            team_name=team_name,
            routes=given.routes(routes),
            bundles=given.folders(bundles, []),
        )
        self.prefetch = tuple(given.texts("prefetch", prefetch))
        self.audit = AuditLog(audit_file)
        policies = given.texts("lease_policies", lease_policies)
        self.lease_settings = LeaseSettings(
            scope=given.one_of("lease_scope", lease_scope),
            token_ttl=int(given.number("lease_token_ttl", lease_token_ttl)),
            policies=tuple(policies) or None,
        )
        self._patterns = Patterns(include, exclude)
        self._bundles = Bundles()
        self._clock = clock
        self._prefetched = not self.prefetch
        self._settings = settings = VaultSettings(
            url=url,
            auth_type=auth_type,
            auth_mount_point=auth_mount_point,
            kv_engine_version=int(given.number("kv_engine_version", kv_engine_version)),
            token=token,
            token_path=token_path,
            role_id=role_id,
            secret_id=secret_id,
            secret_id_wrapped=given.switch("secret_id_wrapped", secret_id_wrapped),
            credentials=given.credentials(kwargs),
            timeouts=Timeouts.of(given.timeout(timeout)),
            cache=CachePolicy(
                soft_ttl=given.number("soft_ttl", soft_ttl),
                hard_ttl=given.number("hard_ttl", hard_ttl),
                missing_ttl=given.number("missing_ttl", missing_ttl),
                shared=given.switch("shared_cache", shared_cache),
            ),
            breaker=BreakerPolicy(
                failures=int(given.number("breaker_failures", breaker_failures)),
                seconds=given.number("breaker_seconds", breaker_seconds),
            ),
            **given.for_hvac(kwargs, VaultBackend.__init__),
        )
        before_tasks(self._settings, lambda: _ready(shared_client(settings, clock=clock)))

    @property
    def client(self) -> VaultClient:
        """The client this process shares between all backends with the same settings."""
        return self._client_of()

    # ---------------------------------------------------------------------------------------- lookups

    def get_conn_value(self, conn_id: str, team_name: str | None = None) -> str | None:
        """Return a connection as a URI or as JSON, ``None`` if Vault has none of that id.

        In a task a leased connection has its credentials; elsewhere nothing is leased and they are missing.

        :raises AirflowSecretsBackendAccessDenied: If that cannot be said (with ``on_error="raise"``).
        """
        found = self._find("connection", conn_id, team_name)
        if found is None:
            return None
        document, client = found
        mask(document, lambda: secret_texts(document))
        try:
            spec = lease_of(document)
            if spec is None:
                return connection_value(document)
            leased = self._lease(client, conn_id, spec)
            if leased is not None:
                mask(leased, lambda: secret_texts(leased))
            return with_lease(document, spec, leased)
        except AirflowExtError as error:
            self._fail(error)
            return None

    def get_variable(self, key: str, team_name: str | None = None) -> str | None:
        """Return a variable, ``None`` if Vault has none of that key.

        :raises AirflowSecretsBackendAccessDenied: If that cannot be said (with ``on_error="raise"``).
        """
        return self._plain("variable", key, team_name)

    def get_config(self, key: str) -> str | None:
        """Return a configuration option, ``None`` if Vault has none of that key.

        :raises AirflowSecretsBackendAccessDenied: If that cannot be said (with ``on_error="raise"``).
        """
        return self._plain("config", key, None)

    def get_connection(self, conn_id: str, team_name: str | None = None) -> Any:
        """Return a connection, ``None`` if Vault has none of that id.

        :raises AirflowSecretsBackendAccessDenied: If that cannot be said (with ``on_error="raise"``).
        """
        return self._connection(conn_id, self.get_conn_value(conn_id, team_name))

    async def aget_connection(self, conn_id: str, team_name: str | None = None) -> Any:
        """Return a connection as :meth:`get_connection` does, without keeping the event loop waiting.

        Calls to Vault run in a thread; masking speaks to the supervisor and stays on the loop.
        """
        found = await asyncio.to_thread(self._find, "connection", conn_id, team_name)
        if found is None:
            return None
        document, client = found
        await amask(document, lambda: secret_texts(document))
        try:
            spec = lease_of(document)
            if spec is None:
                return self._connection(conn_id, connection_value(document))
            leased = await BOOK.in_thread(lambda: self._lease(client, conn_id, spec))
            if leased is not None:
                fresh = leased
                await amask(fresh, lambda: secret_texts(fresh))
            return self._connection(conn_id, with_lease(document, spec, leased))
        except AirflowExtError as error:
            self._fail(error)
            return None

    def lease_block(self, conn_id: str, ttl: int | None) -> LeaseSession | None:
        """Open leases for a block of code, which every lookup of this connection in it uses.

        :param ttl: Seconds after which they end in any case.
        :returns: What to hand to :meth:`close_block`; ``None`` when the connection is not leased.
        :raises InvalidError: Outside of tasks.
        """
        found = self._find("connection", conn_id, None)
        spec = lease_of(found[0]) if found is not None else None
        if found is None or spec is None or spec.is_static:
            return None
        return BOOK.block(self._lessor(found[1]), conn_id, self.lease_settings, ttl)

    def close_block(self, session: LeaseSession) -> None:
        """Revoke what :meth:`lease_block` opened."""
        BOOK.close_block(session)

    def lease_clients(self) -> list[VaultClient]:
        """Return the clients that lease: that of the backend, then one for each other namespace of the routes."""
        namespaces = dict.fromkeys(
            each.namespace for each in self.layout.routes if each.namespace is not None
        )
        return [self.client, *(self._client_of(namespace=each) for each in namespaces)]

    def check(self) -> VaultCheck:
        """Look at Vault as a lookup would, without reading any secret; never raises for what Vault says."""
        layout, mount = self.layout, self.layout.mount_point
        folders = {*layout.connections_path, *layout.variables_path, *layout.config_path}
        return check(self.client, [(mount, folder) for folder in sorted(folders)] if mount else [])

    # -------------------------------------------------------------------------------------- the parts

    def _plain(self, kind: Kind, key: str, team_name: str | None) -> str | None:
        found = self._find(kind, key, team_name)
        if found is None:
            return None
        document, _ = found
        mask(document, lambda: secret_texts(document))
        try:
            return plain_value(document)
        except InvalidError as error:
            self._fail(error)
            return None

    def _find(self, kind: Kind, key: str, team_name: str | None) -> tuple[Document, VaultClient] | None:
        """Return the first document found and who read it; ``None`` for a miss or an error that may pass."""
        if not self._patterns.allow(key):
            return None
        if not self._prefetched:
            self._prefetch()
        started, reading, path, place = time.perf_counter(), None, "", None
        try:
            for place in self.places(kind, key, team_name):
                path = f"{place.mount}/{place.path}"
                reading = self.read_place(place, key)
                if kind != "config":  # the metrics' own configuration may be what is being read
                    self._count(reading)
                if reading.document is not None:
                    break
        except AirflowExtError as error:
            self._tell(kind, key, path, None, started)
            self._fail(error)
            return None
        if reading is not None:
            self._tell(kind, key, path, reading, started)
        if place is None or reading is None or reading.document is None:
            return None
        return reading.document, place.client

    def allows(self, key: str) -> bool:
        """Tell if ``include`` and ``exclude`` let an id be looked up here at all."""
        return self._patterns.allow(key)

    def places(self, kind: Kind, key: str, team_name: str | None = None) -> Iterator[Place]:
        """Yield where an id is looked for, in order."""
        return self.layout.places(kind, key, team_name, self._client_of)

    def _client_of(self, **changes: Any) -> VaultClient:
        settings = dataclasses.replace(self._settings, **changes) if changes else self._settings
        return shared_client(settings, clock=self._clock)

    def read_place(self, place: Place, key: str) -> Reading:
        """Read an id at one of its :meth:`places`."""
        reading = place.client.read(place.mount, place.path)
        if not place.bundle or reading.document is None:
            return reading
        return dataclasses.replace(reading, document=self._bundles.part(reading.document, key))

    def _prefetch(self) -> None:
        self._prefetched = True
        found = [place for key in self.prefetch for place in self.places("connection", key)]
        self.client.read_many([(place.mount, place.path) for place in found if place.client is self.client])

    def _lease(self, client: VaultClient, conn_id: str, spec: LeaseSpec) -> Leased | None:
        """Return the credentials, ``None`` where nothing is leased: outside of tasks and triggers."""
        started, client = time.perf_counter(), self._lessor(client)
        if spec.is_static:
            reading = client.read_static(spec.path)
            self._tell("lease", conn_id, spec.path, reading, started)
            return Leased(spec.path, "", reading.document.data) if reading.document is not None else None
        if not BOOK.may_lease(conn_id):
            return None
        leased = BOOK.credentials(client, conn_id, spec, self.lease_settings)
        self._tell("lease", conn_id, spec.path, None, started, leased=leased)
        return leased

    def _lessor(self, client: VaultClient) -> VaultClient:
        # A route may also differ in the version of its key-value engine, which leases have nothing to do with.
        return self.client if client.settings.namespace == self._settings.namespace else client

    def _tell(
        self,
        kind: str,
        key: str,
        path: str,
        reading: Reading | None,
        started: float,
        *,
        leased: Leased | None = None,
    ) -> None:
        source = "lease" if leased else "error" if reading is None else reading.source
        from_memory = reading is not None and not reading.asked
        if leased is not None and leased in _told:
            source, from_memory = "cache", True
        if from_memory and self.audit.file is None:
            return
        if leased is not None:
            _told.add(leased)
        document = reading.document if reading is not None else None
        owner = current_owner()
        self.audit.tell(
            Access(
                kind=kind,
                id=key,
                path=path,
                source=source,
                found=document is not None or leased is not None,
                version=document.version if document is not None else None,
                lease_id=leased.lease_id if leased is not None else "",
                ms=round((time.perf_counter() - started) * 1000, 3),
                process=process_role(),
                owner=owner.meta if owner is not None else None,
            ),
            from_memory=from_memory,
        )

    @staticmethod
    def _count(reading: Reading) -> None:
        if reading.source != "cache":
            from airflow.sdk.observability import stats

            stats.incr(f"airflow_ext.vault.reads.{reading.source}")

    def _connection(self, conn_id: str, value: str | None) -> Any:
        if value is None:
            return None
        try:
            return self.deserialize_connection(conn_id=conn_id, value=value)
        except Exception as error:  # noqa: BLE001  # whatever it is, its text may show the whole connection
            kind = type(error).__name__
        self._fail(InvalidError(f"the document of connection {conn_id!r} is no connection ({kind})"))
        return None

    def _fail(self, error: AirflowExtError) -> None:
        if self.on_error == "raise":
            # The one exception Airflow lets through; all others would end in "isn't defined".
            raise AirflowSecretsBackendAccessDenied(str(error)) from None
        log.warning("%s; asking the next secrets backend", error)


_told: weakref.WeakSet[Leased] = weakref.WeakSet()  # their lines are written


def _ready(client: VaultClient) -> None:
    client.reader.share()
    client.token()
    client.auth.check()
    client.auth.renew()
