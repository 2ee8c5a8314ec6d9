"""Prepare and run one ``dbt build`` with folders of its own."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from airflow_ext.dbt.index import cache_dir, write_atomically
from airflow_ext.dbt.process import DbtProcess
from airflow_ext.dbt.profiles import Profile
from airflow_ext.exceptions import DbtFailedError
from airflow_ext.extras import require

RUN_RESULTS_SCHEMA = "https://schemas.getdbt.com/dbt/run-results/v6.json"
TAIL = 15
"""Log lines quoted when dbt broke without saying why."""


@dataclass(frozen=True)
class BuildSettings:
    """What one build is made with.

    :param project_dir: Folder with ``dbt_project.yml``.
    :param profiles_dir: Folder with ``profiles.yml``; not used when ``profile`` is given.
    :param profile: A generated profile.
    :param target: Target of the profile; ``None`` means its default.
    :param vars: dbt's variables.
    :param full_refresh: Rebuild incremental models and seeds from nothing.
    :param threads: Threads of dbt; ``None`` means the profile's number.
    """

    project_dir: Path
    profiles_dir: Path
    profile: Profile | None = None
    target: str | None = None
    vars: Mapping[str, Any] = field(default_factory=dict)
    full_refresh: bool = False
    threads: int | None = None


class DbtBuild:
    """One try of a build; a context manager that leaves neither process nor folder behind.

    The run writes below a temporary folder (target, logs and profile), never into the project.

    :param settings: What to build with.
    :param only: Ids to build; ``None`` builds the project. dbt takes them as the work left over
        by an earlier run (``dbt retry``), so they are exact where a selection by name might not be.
    """

    def __init__(self, settings: BuildSettings, *, only: Sequence[str] | None = None) -> None:
        self.settings = settings
        self.only = only
        self.stopped = False
        self._process: DbtProcess | None = None
        self._folder: Path | None = None

    def __enter__(self) -> DbtBuild:
        require("dbt.cli", extra="dbt")
        self._folder = Path(tempfile.mkdtemp(prefix="airflow-ext-dbt-"))
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.stop()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def run(
        self,
        *,
        on_log: Callable[[str], None],
        on_node: Callable[[Mapping[str, Any]], None],
        on_tick: Callable[[], None],
        tick: float = 0.5,
    ) -> bool:
        """Run dbt to its end.

        :param on_log: Gets each line of dbt's log.
        :param on_node: Gets each finished node as the child process tells it.
        :param on_tick: Called after each message, and after ``tick`` seconds without one.
        :param tick: Seconds.
        :return: Whether every node went well.
        :raises DbtFailedError: If dbt did not come to an end: it could not parse the project, broke,
            or was stopped.
        """
        if self._folder is None:
            raise RuntimeError("DbtBuild.run() needs the with statement")
        end: Mapping[str, Any] | None = None
        tail: list[str] = []
        env = self.settings.profile.env if self.settings.profile is not None else {}
        self._process = DbtProcess(self._arguments(self._folder), env=env, cwd=self.settings.project_dir)
        if self.stopped:
            self._process.stop()
        for message in self._process.messages(tick=tick):
            if "log" in message:
                on_log(message["log"])
                tail = [*tail[-TAIL + 1 :], message["log"]]
            elif "node" in message:
                on_node(message["node"])
            elif "end" in message:
                end = message["end"]
            on_tick()
        if self.stopped:
            raise DbtFailedError("dbt was stopped: its task was killed")
        if end is None:
            status, last = self._process.returncode, "\n".join(tail)
            raise DbtFailedError(f"dbt ended with status {status} without a result; its last lines:\n{last}")
        if end["problem"]:
            raise DbtFailedError(f"dbt did not come to an end: {end['problem']}")
        self._keep_partial_parse(self._folder)
        return bool(end["success"])

    def stop(self) -> None:
        """Stop dbt at once; safe to call from a signal handler of the thread that is in :meth:`run`."""
        self.stopped = True
        if self._process is not None:
            self._process.stop()

    def _arguments(self, folder: Path) -> list[str]:
        settings = self.settings
        profiles_dir = settings.profiles_dir
        if settings.profile is not None:
            profiles_dir = folder
            (folder / "profiles.yml").write_text(settings.profile.text, encoding="utf-8")
        (folder / "target").mkdir()
        with suppress(OSError):
            shutil.copyfile(self._partial_parse, folder / "target" / "partial_parse.msgpack")
        arguments = ["--project-dir", settings.project_dir, "--profiles-dir", profiles_dir]
        arguments += ["--target-path", folder / "target", "--log-path", folder / "logs"]
        if settings.threads is not None:
            arguments += ["--threads", settings.threads]
        variables = json.dumps(dict(settings.vars))
        if self.only is not None:
            state = folder / "state"
            state.mkdir()
            (state / "run_results.json").write_text(self._leftover_work(self.only), encoding="utf-8")
            return ["retry", "--state", str(state), "--vars", variables, *map(str, arguments)]
        if settings.target is not None:
            arguments += ["--target", settings.target]
        if settings.full_refresh:
            arguments.append("--full-refresh")
        return ["build", "--vars", variables, *map(str, arguments)]

    def _leftover_work(self, ids: Sequence[str]) -> str:
        settings = self.settings
        arguments: dict[str, Any] = {
            "which": "build",
            "vars": dict(settings.vars),
            "full_refresh": settings.full_refresh,
            "target": settings.target,
            "threads": settings.threads,
        }
        return json.dumps(
            {
                "metadata": {"dbt_schema_version": RUN_RESULTS_SCHEMA},
                "args": {name: value for name, value in arguments.items() if value is not None},
                "elapsed_time": 0.0,
                "results": [
                    {
                        "unique_id": unique_id,
                        "status": "skipped",
                        "timing": [],
                        "thread_id": "",
                        "execution_time": 0.0,
                        "adapter_response": {},
                        "message": None,
                        "failures": None,
                        "compiled": None,
                        "compiled_code": None,
                        "relation_name": None,
                    }
                    for unique_id in ids
                ],
            }
        )

    @property
    def _partial_parse(self) -> Path:
        settings = self.settings
        profile = settings.profile.text if settings.profile is not None else str(settings.profiles_dir)
        identity = "\0".join([str(settings.project_dir.absolute()), profile, settings.target or ""])
        name = hashlib.blake2b(identity.encode(), digest_size=16).hexdigest()
        return cache_dir() / f"{name}.partial_parse"

    def _keep_partial_parse(self, folder: Path) -> None:
        """Keep dbt's parse for the next run, which has another target folder and could not find it."""
        with suppress(OSError):
            write_atomically(self._partial_parse, (folder / "target" / "partial_parse.msgpack").read_bytes())
