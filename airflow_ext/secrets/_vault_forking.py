"""What whoever supervises tasks does once for all of them, before it forks them: log in, make a shared cache."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Hashable

from airflow_ext.exceptions import AirflowExtError

log = logging.getLogger(__name__)

_SUPERVISOR = "airflow.sdk.execution_time.supervisor"

_wanted: dict[Hashable, Callable[[], None]] = {}


def before_tasks(name: Hashable, prepare: Callable[[], None]) -> None:
    """Let children of a task supervisor start with what ``prepare`` makes, such as a token.

    The supervisor makes the backend shortly before it forks a task, and the child inherits its memory. Where it
    does not fork (fork and exec, a fresh pod), each task prepares for itself.

    :param name: Of the same settings only one is kept.
    """
    _wanted[name] = prepare


def _before_fork() -> None:
    if not _wanted or not _forks_a_task():
        return
    for prepare in list(_wanted.values()):
        try:
            prepare()
        except AirflowExtError as error:
            log.debug("not prepared before the fork: %s", error)  # the task finds out for itself, and tells


def _forks_a_task() -> bool:
    frame = sys._getframe()  # noqa: SLF001  # the only sign: the fork happens below supervise_task()
    while frame is not None:
        if frame.f_code.co_name == "supervise_task" and frame.f_globals.get("__name__") == _SUPERVISOR:
            return True
        frame = frame.f_back  # type: ignore[assignment]  # None ends the loop
    return False


os.register_at_fork(before=_before_fork)
