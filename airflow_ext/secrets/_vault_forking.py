"""One login per process tree: whoever supervises tasks logs in before it forks them."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable

from airflow_ext.exceptions import AirflowExtError
from airflow_ext.vault.client import shared_client
from airflow_ext.vault.settings import VaultSettings

log = logging.getLogger(__name__)

_SUPERVISOR = "airflow.sdk.execution_time.supervisor"

_wanted: dict[VaultSettings, Callable[[], float]] = {}


def log_in_before_forks(settings: VaultSettings, clock: Callable[[], float]) -> None:
    """Let children of a task supervisor start with a token.

    The supervisor makes the backend shortly before it forks a task, and the child inherits its memory. Where it
    does not fork (fork and exec, a fresh pod), each task logs in for itself.
    """
    _wanted[settings] = clock


def _before_fork() -> None:
    if not _wanted or not _forks_a_task():
        return
    for settings, clock in list(_wanted.items()):
        client = shared_client(settings, clock=clock)
        try:
            client.token()
            client.auth.renew()
        except AirflowExtError as error:
            log.debug("no login before the fork: %s", error)  # the task finds out for itself, and tells


def _forks_a_task() -> bool:
    frame = sys._getframe()  # noqa: SLF001  # the only sign: the fork happens below supervise_task()
    while frame is not None:
        if frame.f_code.co_name == "supervise_task" and frame.f_globals.get("__name__") == _SUPERVISOR:
            return True
        frame = frame.f_back  # type: ignore[assignment]  # None ends the loop
    return False


os.register_at_fork(before=_before_fork)
