"""Connections to sync vendors: which backend a connection's type means, and those of ours."""

from __future__ import annotations

import asyncio
import importlib.metadata
import threading
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar, cast

from airflow.sdk import BaseHook
from airflow.sdk.exceptions import AirflowNotFoundException

from airflow_ext.exceptions import AirflowExtError, InvalidError
from airflow_ext.sync import airbyte, fivetran, hightouch
from airflow_ext.sync.airbyte import AirbyteBackend
from airflow_ext.sync.backend import RemoteBackend, SyncBackend
from airflow_ext.sync.fivetran import FivetranBackend
from airflow_ext.sync.hightouch import HightouchBackend
from airflow_ext.sync.http import check_base_url

if TYPE_CHECKING:
    from airflow.sdk import Connection

T = TypeVar("T")

ENTRY_POINTS = "airflow_ext.sync_backends"
"""Entry points of this group add backends: name is the connection type, value a function that takes the
connection and the keyword ``tries`` and returns the backend.
"""

TEST_SECONDS = 30.0

Factory = Callable[..., SyncBackend]


def fivetran_backend(connection: Connection, *, tries: int = 4) -> FivetranBackend:
    """Return the backend of a Fivetran connection.

    :param tries: Tries of a request that may be repeated.
    :raises InvalidError: If key or secret are missing or the host is no URL.
    """
    where = f"connection {connection.conn_id!r}"
    if not connection.login or not connection.password:
        raise InvalidError(f"{where}: put the API key into login and the API secret into password")
    base_url = check_base_url(_host(connection) or fivetran.BASE_URL, where=where)
    backend = FivetranBackend(connection.login, connection.password, base_url=base_url, tries=tries)
    backend.http.where = where
    return backend


def airbyte_backend(connection: Connection, *, tries: int = 4) -> AirbyteBackend:
    """Return the backend of an Airbyte connection.

    :param tries: Tries of a request that may be repeated.
    :raises InvalidError: If the host is no URL, or there is an id without a secret.
    """
    where = f"connection {connection.conn_id!r}"
    base_url = check_base_url(_host(connection) or airbyte.BASE_URL, where=where)
    if base_url.count("/") == 2:  # a bare host, as the Airbyte provider's connections may have
        base_url += "/v1" if base_url == "https://api.airbyte.com" else "/api/public/v1"
    if bool(connection.login) != bool(connection.password):
        raise InvalidError(f"{where}: give client id (login) and client secret (password), or none of them")
    extra = connection.extra_dejson
    # Their schema field holds a token URL; below the base it is always where the API itself has it.
    token_url = str(extra.get("token_url") or connection.schema or "")
    backend = AirbyteBackend(
        base_url,
        client_id=connection.login or "",
        client_secret=connection.password or "",
        basic=extra.get("basic") in (True, "true", "True"),
        token_url=token_url if "://" in token_url else "",
        tries=tries,
    )
    backend.http.where = where
    return backend


def hightouch_backend(connection: Connection, *, tries: int = 4) -> HightouchBackend:
    """Return the backend of a Hightouch connection.

    :param tries: Tries of a request that may be repeated.
    :raises InvalidError: If the key is missing or the host is no URL.
    """
    where = f"connection {connection.conn_id!r}"
    if not connection.password:
        raise InvalidError(f"{where}: put the API key into password")
    base_url = check_base_url(_host(connection) or hightouch.BASE_URL, where=where)
    workspace = str(connection.extra_dejson.get("workspace") or "")
    backend = HightouchBackend(connection.password, base_url=base_url, workspace=workspace, tries=tries)
    backend.http.where = where
    return backend


FACTORIES: dict[str, Factory] = {
    "ext-fivetran": fivetran_backend,
    "fivetran": fivetran_backend,
    "ext-airbyte": airbyte_backend,
    "airbyte": airbyte_backend,
    "ext-hightouch": hightouch_backend,
}


def remote_backend(connection: Connection, *, tries: int = 4) -> RemoteBackend:
    """Return the backend whose syncs live at the vendor that a connection's type stands for.

    :param tries: Tries of a request that may be repeated.
    :raises InvalidError: If no vendor has this type, or the connection cannot be used.
    """
    kind = connection_type(connection)
    factory = FACTORIES.get(kind) or _registered(kind)
    if factory is None:
        others = sorted({*FACTORIES, *(point.name for point in _entry_points())})
        hint = (
            ". With the embedded engine give SyncOperator tables= instead of sync="
            if kind == "ext-dlt"
            else ""
        )
        raise InvalidError(
            f"connection {connection.conn_id!r} has the type {connection.conn_type!r}; a sync= runs on one of: "
            f"{', '.join(others)}{hint}"
        )
    backend = factory(connection, tries=tries)
    if not backend.capabilities.remote:
        raise InvalidError(f"the backend of connection type {kind!r} takes tables=, not sync=")
    return cast("RemoteBackend", backend)


def connection_type(connection: Connection) -> str:
    """Return a connection's type as it is registered; as JSON or URI Airflow writes ``_`` for ``-``."""
    return str(connection.conn_type).replace("_", "-")


def get_remote_backend(sync_conn_id: str, *, tries: int = 4) -> RemoteBackend:
    """Return the backend of a connection, on a worker.

    :raises InvalidError: If there is no such connection or it cannot be used.
    """
    try:
        connection = BaseHook.get_connection(sync_conn_id)
    except AirflowNotFoundException as error:
        raise InvalidError(f"sync_conn_id={sync_conn_id!r}: {error}") from None
    return remote_backend(connection, tries=tries)


async def aget_connection(sync_conn_id: str) -> Connection:
    """Return a connection, in a triggerer.

    :raises InvalidError: If there is none.
    """
    try:
        return await BaseHook.aget_connection(sync_conn_id)
    except AirflowNotFoundException as error:
        raise InvalidError(f"sync_conn_id={sync_conn_id!r}: {error}") from None


def webhook_secret(connection: Connection) -> str:
    """Return the secret that signs a vendor's webhooks, empty if there is none."""
    return str(connection.extra_dejson.get("webhook_secret") or "")


def _entry_points() -> importlib.metadata.EntryPoints:
    return importlib.metadata.entry_points(group=ENTRY_POINTS)


def _registered(kind: str) -> Factory | None:
    for point in _entry_points():
        if point.name.replace("_", "-") == kind:
            try:
                return cast("Factory", point.load())
            except Exception as error:  # it is another package's code
                raise InvalidError(
                    f"connection type {kind!r}: the backend {point.value!r} cannot be loaded: {error!r}"
                ) from error
    return None


def _host(connection: Connection) -> str:
    host = connection.host or ""
    # Airflow's URI form of a connection takes scheme and host apart.
    if host and "://" not in host and connection.extra_dejson.get("scheme"):
        host = f"{connection.extra_dejson['scheme']}://{host}"
    if host and connection.port and ":" not in host.partition("://")[2]:
        scheme, separator, rest = host.partition("://") if "://" in host else ("", "", host)
        name, slash, path = rest.partition("/")
        host = f"{scheme}{separator}{name}:{connection.port}{slash}{path}"
    return host


def run_async(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end, also where this thread already runs an event loop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    result: list[T] = []
    failure: list[BaseException] = []

    def target() -> None:
        try:
            result.append(asyncio.run(work))
        except BaseException as error:  # noqa: BLE001  it is raised again below
            failure.append(error)

    thread = threading.Thread(target=target)
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return result[0]


class _VendorHook(BaseHook):
    conn_name_attr = "sync_conn_id"

    def __init__(self, sync_conn_id: str) -> None:
        super().__init__()
        self.sync_conn_id = sync_conn_id

    def get_conn(self) -> RemoteBackend:
        """Return the backend of the connection.

        :raises InvalidError: If the connection cannot be used.
        """
        return get_remote_backend(self.sync_conn_id)

    def test_connection(self) -> tuple[bool, str]:
        """Ask the vendor for something harmless and say what happened."""

        async def ask() -> str:
            backend = get_remote_backend(self.sync_conn_id, tries=1)
            try:
                async with asyncio.timeout(TEST_SECONDS):
                    return await backend.check()
            finally:
                await backend.aclose()

        try:
            return True, run_async(ask())
        except TimeoutError:
            return False, f"no answer within {TEST_SECONDS:g} s"
        except AirflowExtError as error:
            return False, str(error)


class FivetranHook(_VendorHook):
    """Gives access to a Fivetran account: login is the API key, password its secret.

    :param sync_conn_id: Connection of type ``ext-fivetran``, or of another provider's ``fivetran``.
    """

    default_conn_name = "ext_fivetran_default"
    conn_type = "ext-fivetran"
    hook_name = "Fivetran (airflow-ext)"

    def __init__(self, sync_conn_id: str = default_conn_name) -> None:
        super().__init__(sync_conn_id)


class AirbyteHook(_VendorHook):
    """Gives access to Airbyte: login is an application's client id, password its secret.

    :param sync_conn_id: Connection of type ``ext-airbyte``, or of another provider's ``airbyte``.
    """

    default_conn_name = "ext_airbyte_default"
    conn_type = "ext-airbyte"
    hook_name = "Airbyte (airflow-ext)"

    def __init__(self, sync_conn_id: str = default_conn_name) -> None:
        super().__init__(sync_conn_id)


class HightouchHook(_VendorHook):
    """Gives access to a Hightouch workspace: password is an API key.

    :param sync_conn_id: Connection of type ``ext-hightouch``.
    """

    default_conn_name = "ext_hightouch_default"
    conn_type = "ext-hightouch"
    hook_name = "Hightouch (airflow-ext)"

    def __init__(self, sync_conn_id: str = default_conn_name) -> None:
        super().__init__(sync_conn_id)
