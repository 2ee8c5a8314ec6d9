"""dbt's parse of a project, kept from one run to the next although each has a target folder of its own."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_ext.dbt.index import cache_dir
from airflow_ext.dbt.locations import write_atomically

if TYPE_CHECKING:
    from airflow_ext.dbt.flags import DbtFlags
    from airflow_ext.dbt.runner import RunSettings

KEPT = 20
"""Parses kept in all; the longest unused one goes first."""

_NAME = "partial_parse.msgpack"


class PartialParse:
    """The kept parse for one way to run a project.

    dbt throws a parse away that was made with another profile, target, variables or version, so each of these
    has a file of its own; otherwise two DAGs would spoil it for each other. So has storing failures, as dbt
    writes down while parsing where it stores them.

    :param settings: What the run is made with.
    :param flags: The run's flags.
    """

    def __init__(self, settings: RunSettings, flags: DbtFlags) -> None:
        profile = (
            settings.profile.text if settings.profile is not None else str(settings.profiles_dir.absolute())
        )
        identity = [
            str(settings.project_dir.absolute()),
            profile,
            settings.target,
            # As dbt gets them: their names may be numbers here, which cannot be sorted among texts.
            json.loads(json.dumps(dict(flags.vars or {}))),
            flags.store_failures,
            str(settings.executable) if settings.executable is not None else _version(),
        ]
        text = json.dumps(identity, sort_keys=True).encode()
        self.path = cache_dir() / f"{hashlib.blake2b(text, digest_size=16).hexdigest()}.partial_parse"
        self._lent: tuple[int, int] | None = None

    def lend(self, target: Path) -> None:
        """Put the kept parse, if there is one, where dbt looks for it.

        :param target: The run's target folder.
        """
        with contextlib.suppress(OSError):
            shutil.copyfile(self.path, target / _NAME)
            self._lent = _look(target / _NAME)

    def keep(self, target: Path) -> None:
        """Keep the parse that a run has left. Without a cache everything works, dbt only parses each time.

        :param target: The run's target folder.
        """
        with contextlib.suppress(OSError):
            made = target / _NAME
            if _look(made) == self._lent:
                os.utime(self.path)
                return
            write_atomically(self.path, made.read_bytes())
            _prune(self.path.parent)


def _look(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_mtime_ns, found.st_size


def _prune(folder: Path) -> None:
    def used(path: Path) -> float:
        # Another process may be pruning too.
        try:
            return path.stat().st_mtime
        except FileNotFoundError:
            return 0.0

    for path in sorted(folder.glob("*.partial_parse"), key=used, reverse=True)[KEPT:]:
        path.unlink(missing_ok=True)


def _version() -> str:
    from importlib.metadata import version

    return version("dbt-core")
