"""Start and instruct the process that revokes a task's credentials when the task cannot."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from airflow_ext.vault.client import VaultClient

log = logging.getLogger(__name__)

PROGRAM = Path(__file__).with_name("_warden.py")

PATIENCE = 300.0
"""Seconds a warden keeps trying while Vault does not answer; after that the lifetime of the token must do."""

_KEPT = ("LD_LIBRARY_PATH",)

Revocation = tuple[str, str, dict[str, Any] | None]
"""Path below ``/v1/``, token and body of a call that revokes something."""


class Warden:
    """One helper process for the process that makes this object.

    :param client: Where Vault is, and what is trusted to be it.
    """

    def __init__(self, client: VaultClient) -> None:
        self._client = client
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._pid = os.getpid()

    @property
    def is_alive(self) -> bool:
        """Whether one was started and not yet dismissed."""
        return self._process is not None

    def start(self) -> None:
        """Start the helper, without waiting for it; where that fails, a warning tells what remains."""
        command = [sys.executable, "-I", "-S", str(PROGRAM), str(os.getpid()), str(PATIENCE)]
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                cwd="/",
                env={name: os.environ[name] for name in _KEPT if name in os.environ},
            )
        except OSError as error:
            _warn(error.strerror or type(error).__name__)

    def tell(self, revocations: Sequence[Revocation]) -> None:
        """Replace what is to be revoked."""
        settings, (verify, cert) = self._client.settings, self._client.transport.trust()
        self._write(
            {
                "url": settings.address,
                "namespace": settings.namespace,
                "verify": verify,
                "cert": list(cert),
                "revoke": [list(each) for each in revocations],
            }
        )

    def detach(self) -> None:
        """Wait until the helper stands on its own and is no child of this process any more."""
        if self._process is not None:
            with suppress(subprocess.TimeoutExpired):
                status = self._process.wait(timeout=5)
                if status:
                    _warn(f"it ended with status {status}")

    def dismiss(self, *, done: bool) -> None:
        """Send the helper away.

        :param done: All is revoked; else it revokes now, and goes on trying after this process has ended.
        """
        self._write({"done": True} if done else {"act": True})
        with self._lock:
            process, self._process = self._process, None
        if process is not None and process.stdin is not None:
            with suppress(OSError):
                process.stdin.close()
            if os.getpid() == self._pid:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=5)

    def _write(self, order: dict[str, Any]) -> None:
        with self._lock:
            if self._process is None or self._process.stdin is None or os.getpid() != self._pid:
                return
            with suppress(BrokenPipeError):
                self._process.stdin.write(json.dumps(order).encode() + b"\n")
                self._process.stdin.flush()


def _warn(reason: str) -> None:
    log.warning(
        "No warden for leased credentials (%s): should this task be killed, they live until their token ends",
        reason,
    )
