"""Run one command of dbt with folders of its own."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec

from airflow_ext.dbt.artifacts import MANIFEST, RUN_RESULTS, fetch_state
from airflow_ext.dbt.flags import DbtFlags
from airflow_ext.dbt.outcome import RunReader, told_well
from airflow_ext.dbt.partial_parse import PartialParse
from airflow_ext.dbt.process import DbtProcess
from airflow_ext.dbt.profiles import Profile
from airflow_ext.exceptions import DbtFailedError, InvalidProjectError
from airflow_ext.extras import require

RUN_RESULTS_SCHEMA = "https://schemas.getdbt.com/dbt/run-results/v6.json"
EXACT = frozenset({"build", "clone", "compile", "run", "seed", "snapshot", "test"})
"""Commands that can be told exact ids."""

NO_FLAGS = DbtFlags()
_PREFIX = "airflow-ext-dbt-"

TAIL = 15
"""Log lines quoted when dbt broke without saying why."""


@dataclass(frozen=True)
class RunSettings:
    """What a run of dbt is made with.

    :param project_dir: Folder with ``dbt_project.yml``.
    :param profiles_dir: Folder with ``profiles.yml``; not used when ``profile`` is given.
    :param profile: A generated profile.
    :param target: Target of the profile; ``None`` means its default.
    :param executable: The ``dbt`` program of another environment, as a path or a name to look up; ``None`` means the
        dbt of this environment.
    :param env: Further variables of dbt's environment.
    """

    project_dir: Path
    profiles_dir: Path
    profile: Profile | None = None
    target: str | None = None
    executable: Path | str | None = None
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class DbtEnd:
    """How a run ended.

    :param success: Whether every node and hook went well.
    :param warnings: What dbt warned of, nodes with warnings among it.
    :param result: For ``ls`` the lines, for ``show`` the previews; else ``None``.
    :param target: The run's target folder with ``run_results.json``, ``manifest.json``, ``compiled`` and the like; it
        exists until the with statement ends.
    """

    success: bool
    warnings: tuple[str, ...]
    result: Any
    target: Path


class DbtRun:
    """One run of dbt; a context manager that leaves neither process nor folder behind.

    The run writes below a temporary folder (target, logs and profile), never into the project; only ``deps`` does.

    :param settings: What to run with.
    :param command: dbt's command, such as ``build`` or ``source freshness``.
    :param flags: dbt's flags.
    :param words: What follows the command: the macro of ``run-operation``.
    :param only: Ids to run instead of a selection; ``None`` means what the flags select. dbt takes them as the work
        left over by an earlier run (``dbt retry``), so they are exact where a selection by name might not be.
    :param batches: Of the microbatch models among ``only``, the ``batches`` that their last message told: what went
        well is not run again.
    :raises ValueError: If the command does not exist or cannot be told this.
    """

    def __init__(
        self,
        settings: RunSettings,
        command: str = "build",
        *,
        flags: DbtFlags = NO_FLAGS,
        words: Sequence[str] = (),
        only: Sequence[str] | None = None,
        batches: Mapping[str, Any] | None = None,
    ) -> None:
        self._flag_words = flags.argv(command)
        _check_words(command, words)
        if only is not None and command not in EXACT:
            raise ValueError(f"only= with dbt {command}: ids can be given to {', '.join(sorted(EXACT))}")
        self.settings = settings
        self.command = command
        self.flags = flags
        self.words = words
        self.only = only
        self.batches = batches or {}
        self.stopped = False
        self._executable: str | None = None
        self._process: DbtProcess | None = None
        self._folder: Path | None = None

    def __enter__(self) -> DbtRun:
        executable = self.settings.executable
        if executable is None:
            require("dbt.cli", extra="dbt")
        else:
            found = shutil.which(str(executable))
            if found is None:
                raise InvalidProjectError(
                    f"executable={str(executable)!r}: there is no such program here; give the path of a dbt",
                    source=str(executable),
                )
            self._executable = str(Path(found).absolute())
        if not self.settings.project_dir.is_dir():
            raise InvalidProjectError(
                f"project_dir={str(self.settings.project_dir)!r}: there is no such folder here",
                source=str(self.settings.project_dir),
            )
        if self.settings.profile is None and not self.settings.profiles_dir.is_dir():
            raise InvalidProjectError(
                f"profiles_dir={str(self.settings.profiles_dir)!r}: there is no such folder here",
                source=str(self.settings.profiles_dir),
            )
        _sweep()
        self._folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))
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

    @property
    def target(self) -> Path:
        """The run's target folder, also after a run that broke; it exists inside the with statement."""
        if self._folder is None:
            raise RuntimeError("DbtRun needs the with statement")
        return self._folder / "target"

    def run(
        self,
        *,
        on_log: Callable[[str], None],
        on_node: Callable[[Mapping[str, Any]], None],
        on_tick: Callable[[], None],
        tick: float = 0.5,
    ) -> DbtEnd:
        """Run dbt to its end.

        :param on_log: Gets each line of dbt's log.
        :param on_node: Gets each finished node: ``id``, ``status``, and as far as there is one ``seconds``,
            ``started``, ``ended``, ``message``, ``rows``, ``bytes``, ``relation``, ``failures`` (rows that a test
            found), ``compiled`` (the SQL of what ended badly), ``batches`` (of a microbatch that went well in part);
            of a source ``max_loaded_at``, ``age`` in seconds and ``criteria``. A node comes again if dbt's results
            have more of it than dbt told while it ran.
        :param on_tick: Called after each message, and after ``tick`` seconds without one.
        :param tick: Seconds.
        :raises DbtFailedError: If dbt did not come to an end: it could not parse the project, broke,
            or was stopped.
        :raises InvalidProjectError: If the state to defer to or go on from cannot be used.
        """
        target = self.target
        partial_parse = PartialParse(self.settings, self.flags)
        arguments = self._arguments(target.parent)
        partial_parse.lend(target)
        self._process = DbtProcess(
            arguments,
            env={
                **self.settings.env,
                **(self.settings.profile.env if self.settings.profile is not None else {}),
            },
            cwd=self.settings.project_dir,
            folder=target.parent,
            executable=self._executable,
            debug="--debug" in self.flags.args or "-d" in self.flags.args,
        )
        if self.stopped:
            self._process.stop()
        reader = RunReader(target, command=self.command, on_node=on_node, scrub=self._process.scrub)
        tail: list[str] = []
        # dbt names files of a folder that is gone when somebody reads the log.
        place = f"compiled code at {target}"
        for message in self._process.messages(tick=tick):
            if "log" in message:
                if message["log"].strip().startswith(place):
                    continue
                on_log(message["log"])
                tail = [*tail[-TAIL + 1 :], message["log"]]
            elif message:
                reader.take(message)
            on_tick()
        if self.stopped:
            raise DbtFailedError("dbt was stopped: its task was killed")
        status = self._process.returncode
        reader.clean()
        success, problem = reader.end(status if self._executable is not None else None)
        if success is None:
            last = "\n".join(tail)
            raise DbtFailedError(f"dbt ended with status {status} without a result; its last lines:\n{last}")
        if problem:
            raise DbtFailedError(f"dbt did not come to an end: {told_well(problem)}")
        reader.settle()
        partial_parse.keep(target)
        return DbtEnd(success, reader.warnings, reader.result, target)

    def stop(self) -> None:
        """Stop dbt at once; safe to call from a signal handler of the thread that is in :meth:`run`."""
        self.stopped = True
        if self._process is not None:
            self._process.stop()

    def _arguments(self, folder: Path) -> list[str]:
        settings, state = self.settings, folder / "state"
        (folder / "target").mkdir(exist_ok=True)
        profiles_dir = settings.profiles_dir
        if settings.profile is not None:
            profiles_dir = folder
            (folder / "profiles.yml").write_text(settings.profile.text, encoding="utf-8")
        if self.flags.state is not None:
            fetch_state(self.flags.state, state, needs=RUN_RESULTS if self.command == "retry" else MANIFEST)
        if self.only is not None:
            words = self._retry_of_ids(folder / "leftover", state)
        else:
            words = [*self.command.split(), *self.words, *self._flag_words]
            if self.flags.state is not None:
                words += ["--state", str(state)]
            if self.command == "retry":
                _adopt(state / RUN_RESULTS, target=settings.target, flags=self.flags)
            elif settings.target is not None:
                words += ["--target", settings.target]
        words += ["--project-dir", str(settings.project_dir.absolute())]
        words += ["--profiles-dir", str(profiles_dir.absolute()), "--log-path", str(folder / "logs")]
        return words if self.command == "deps" else [*words, "--target-path", str(folder / "target")]

    def _retry_of_ids(self, leftover: Path, state: Path) -> list[str]:
        leftover.mkdir()
        arguments = {**self.flags.retry_arguments(), "which": self.command}
        if self.settings.target is not None:
            arguments["target"] = self.settings.target
        results = [_left(unique_id, self.batches.get(unique_id)) for unique_id in self.only or ()]
        content = {
            "metadata": {"dbt_schema_version": RUN_RESULTS_SCHEMA},
            "args": arguments,
            "elapsed_time": 0.0,
            "results": results,
        }
        (leftover / RUN_RESULTS).write_bytes(msgspec.json.encode(content))
        words = ["retry", "--state", str(leftover), *self.flags.overrides()]
        if self.flags.defer or self.command == "clone":
            words += ["--defer-state", str(state)]
        return words


def _sweep() -> None:
    """Remove what runs have left whose processes were all killed at once, with nobody there to clean up."""
    yesterday = time.time() - 86_400
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}[0-9]*-*"):
        owner = folder.name.removeprefix(_PREFIX).partition("-")[0]
        # It may be another user's, or another run may sweep at the same time.
        with contextlib.suppress(OSError):
            if folder.stat().st_mtime < yesterday and not Path(f"/proc/{owner}").exists():
                shutil.rmtree(folder, ignore_errors=True)


def _check_words(command: str, words: Sequence[str]) -> None:
    if command == "run-operation":
        if len(words) != 1 or not words[0] or words[0].startswith("-"):
            raise ValueError(f"words={list(words)!r}: dbt run-operation takes the name of one macro")
    elif words:
        raise ValueError(f"words={list(words)!r}: dbt {command} takes none; options belong into DbtFlags")


def _left(unique_id: str, batches: Any) -> dict[str, Any]:
    return {
        "unique_id": unique_id,
        "status": "partial success" if batches else "skipped",
        "timing": [],
        "thread_id": "",
        "execution_time": 0.0,
        "adapter_response": {},
        "message": None,
        "failures": None,
        "compiled": None,
        "compiled_code": None,
        "relation_name": None,
        "batch_results": batches,
    }


def _adopt(path: Path, *, target: str | None, flags: DbtFlags) -> None:
    """Make the results of an earlier run fit for ``dbt retry`` in these folders."""
    results = msgspec.json.decode(path.read_bytes())
    arguments = results.get("args") or {}
    if arguments.get("defer"):
        raise InvalidProjectError(
            "the run to go on from deferred to a state that its results do not hold: run its command again",
            source=str(path),
        )
    # Folders of the earlier run, which are gone; what they were for, a selection, is settled by the results.
    arguments.pop("state", None)
    if target is not None:
        arguments["target"] = target
    # As text, because dbt would write a mapping in Python's notation and read it as YAML.
    arguments["vars"] = json.dumps(dict(flags.vars or arguments.get("vars") or {}))
    path.write_bytes(msgspec.json.encode({**results, "args": arguments}))
