"""Wait for what happens in Vault."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from airflow.sdk import BaseSensorOperator, Context, PokeReturnValue
from airflow.sdk.exceptions import AirflowFailException, AirflowSensorTimeout, AirflowSkipException

from airflow_ext.exceptions import InvalidError, VaultDeniedError, VaultUnavailableError
from airflow_ext.hooks.vault import VaultHook
from airflow_ext.triggers.vault import VaultSecretVersionTrigger, parse_event
from airflow_ext.vault import admin

NET_SECONDS = 180
"""Seconds after its deadline at which Airflow ends a trigger that did not end itself."""


class VaultSecretVersionSensor(BaseSensorOperator):
    """Wait for a new version of a secret (KV version 2); reads its metadata only.

    A denied path fails the sensor for good; an outage of Vault is waited out.

    :param path: Path in the mount.
    :param newer_than: Wait for a version above this; 0 means the first.
    :param mount: Mount of the key-value engine.
    :param vault_conn_id: Connection of type ``vault``; ``None`` means the configured backend's Vault.
    :param poll_interval: Seconds between two looks. All that wait for the same secret in one triggerer look together.
    :param deferrable: Wait in the triggerer. If false, ``mode`` decides how a worker waits.
    :param kwargs: ``timeout`` in seconds (default ``[sensors] default_timeout``), ``soft_fail`` and whatever every sensor
        takes.
    :returns: The version.
    :raises ValueError: If ``poll_interval`` is not above 0.
    """

    template_fields: Sequence[str] = ("path", "newer_than", "mount")

    def __init__(
        self,
        *,
        path: str,
        newer_than: int | str = 0,
        mount: str = "secret",
        vault_conn_id: str | None = None,
        poll_interval: float = 60,
        deferrable: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(poke_interval=poll_interval, **kwargs)
        if isinstance(poll_interval, bool) or not poll_interval > 0:
            raise ValueError(f"poll_interval={poll_interval!r}: give a number of seconds above 0")
        self.path, self.newer_than, self.mount, self.vault_conn_id = path, newer_than, mount, vault_conn_id
        self.poll_interval, self.deferrable = poll_interval, deferrable

    def execute(self, context: Context) -> Any:
        """Look once, then wait."""
        if not self.deferrable:
            return super().execute(context)
        found = self.poke(context)
        if found.is_done:
            return found.xcom_value
        deadline = time.time() + self.timeout
        trigger = VaultSecretVersionTrigger(
            path=admin.checked_path(self.path),
            newer_than=self._above(),
            mount=self.mount,
            vault_conn_id=self.vault_conn_id,
            poll_interval=float(self.poll_interval),
            deadline=deadline,
        )
        self.defer(
            trigger=trigger,
            method_name="execute_complete",
            timeout=timedelta(seconds=self.timeout + NET_SECONDS),
        )
        return None  # never reached: deferring raises

    def execute_complete(self, context: Context, event: Any) -> int:  # noqa: ARG002  # Airflow passes it
        """End as the trigger saw it."""
        told = parse_event(event)
        if told["status"] == "denied":
            raise AirflowFailException(told["message"])
        if told["status"] == "timeout":
            text = f"{self.mount}/{self.path} has no version above {self.newer_than} after {self.timeout:g} s"
            raise AirflowSkipException(text) if self.soft_fail else AirflowSensorTimeout(text)
        return told["version"]

    def poke(self, context: Context) -> PokeReturnValue:  # noqa: ARG002  # Airflow passes it
        """Look once."""
        above = self._above()
        try:
            path = admin.checked_path(self.path)
            found = admin.metadata(VaultHook(self.vault_conn_id).get_conn(), self.mount, path)
        except VaultUnavailableError as error:
            self.log.warning("%s; looking again", error)
            return PokeReturnValue(is_done=False)
        except (VaultDeniedError, InvalidError) as error:
            raise AirflowFailException(str(error)) from error.__cause__
        version = int((found or {}).get("current_version") or 0)
        return PokeReturnValue(version > above, version)

    def _above(self) -> int:
        try:
            return int(self.newer_than)
        except (TypeError, ValueError):
            raise AirflowFailException(
                f"newer_than={self.newer_than!r}: give the number of a version"
            ) from None
