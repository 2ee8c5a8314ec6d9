"""Wait for what happens in Vault."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from airflow.sdk import BaseSensorOperator, Context, PokeReturnValue
from airflow.sdk.exceptions import AirflowFailException

from airflow_ext.exceptions import InvalidError, VaultDeniedError
from airflow_ext.hooks.vault import VaultHook
from airflow_ext.vault import admin


class VaultSecretVersionSensor(BaseSensorOperator):
    """Wait for a new version of a secret (KV version 2); reads its metadata only.

    With ``mode="reschedule"`` it holds no worker between two looks.

    :param path: Path in the mount.
    :param newer_than: Wait for a version above this; 0 means the first.
    :param mount: Mount of the key-value engine.
    :param vault_conn_id: Connection of type ``vault``; ``None`` means the configured backend's Vault.
    :returns: The version.
    """

    template_fields: Sequence[str] = ("path", "newer_than", "mount")

    def __init__(
        self,
        *,
        path: str,
        newer_than: int | str = 0,
        mount: str = "secret",
        vault_conn_id: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.path, self.newer_than, self.mount, self.vault_conn_id = path, newer_than, mount, vault_conn_id

    def poke(self, context: Context) -> PokeReturnValue:  # noqa: ARG002  # Airflow passes it
        """Look once."""
        try:
            path = admin.checked_path(self.path)
            found = admin.metadata(VaultHook(self.vault_conn_id).get_conn(), self.mount, path)
        except (VaultDeniedError, InvalidError) as error:
            raise AirflowFailException(str(error)) from error
        version = int((found or {}).get("current_version") or 0)
        return PokeReturnValue(version > int(self.newer_than), version)
