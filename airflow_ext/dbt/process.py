"""The dbt process of one run, seen from its parent."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from airflow_ext.dbt.child import EventReader

_CHILD = Path(__file__).with_name("child.py")

QUIET = {
    "DBT_SEND_ANONYMOUS_USAGE_STATS": "false",
    "DBT_USE_COLORS": "false",
    "DBT_LOG_LEVEL_FILE": "none",
    "DBT_LOG_FORMAT": "text",
    "DBT_QUIET": "false",
    "DBT_WRITE_JSON": "true",
    "PYTHONIOENCODING": "utf-8",
    "PYTHONUNBUFFERED": "1",
}
"""No telemetry, log lines fit for a task log, and results, whatever the project's flags and the worker's settings say."""

_TWINS = frozenset(name.replace("DBT_", "DBT_ENGINE_", 1) for name in QUIET)
"""Names of the same settings from dbt 1.11 on, which win over those."""


def quieted(environ: Mapping[str, str]) -> dict[str, str]:
    """Return an environment of dbt that has :data:`QUIET`, whatever it said before.

    :param environ: The environment of this process.
    """
    return {**{name: value for name, value in environ.items() if name not in _TWINS}, **QUIET}


JSON_LOG = ("--log-format", "json", "--log-level", "debug")
"""What makes a dbt of another environment tell of its nodes; they are events of level debug."""

SECRETS = "DBT_ENV_SECRET"
"""How the names of variables begin that dbt keeps secret."""

_OURS = ("PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV")
"""Variables that would give a program of another environment the modules of this one."""

_TIME = re.compile(r"^\d\d:\d\d:\d\d {0,2}")
"""Time of day before dbt's log lines; a task log has its own."""

_TEXTS = frozenset({"message", "problem"})
"""Fields of messages that people read."""

_PART = 8
"""Characters from which on a line of a secret is a secret of its own."""

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")

_ERROR = re.compile(
    r"\d+ of \d+ (ERROR|FAIL)\b|(\w+ )?Error in |Failure in |Encountered an error|Unhandled error|\[ERROR\]"
    r"|Completed with [1-9]\d* error"
)
_WARNING = re.compile(
    r"\d+ of \d+ (WARN|PARTIAL SUCCESS)\b|Warning in |\[WARNING\]|Completed with [1-9]\d* partial"
    r"|The selection criterion '|Nothing to do\."
)


def level_of(line: str) -> int:
    """Return the level of a line of dbt's log, which tells it by its words alone.

    :param line: The line, without its time.
    :return: A level of :mod:`logging`.
    """
    return logging.ERROR if _ERROR.match(line) else logging.WARNING if _WARNING.match(line) else logging.INFO


class Scrubber:
    """Take dbt's secrets out of texts: dbt does so in its log, but neither in errors nor in its results.

    Only what people read is to be given: a secret may look like any word, such as the name of the project.

    :param env: The environment of dbt; its secrets are the variables that begin with ``DBT_ENV_SECRET``.
    """

    def __init__(self, env: Mapping[str, str]) -> None:
        secrets = {value for name, value in env.items() if name.startswith(SECRETS) and value.strip()}
        # A log has the lines of a key one by one; short ones, such as a bracket of JSON, say nothing.
        secrets |= {
            line.strip() for value in secrets for line in value.splitlines() if len(line.strip()) >= _PART
        }
        # In a line of JSON quotes and the like are escaped, and some programs escape letters too.
        for ascii_only in (True, False):
            secrets |= {json.dumps(value, ensure_ascii=ascii_only)[1:-1] for value in secrets}
        self._secrets = sorted(secrets, key=len, reverse=True)

    def __call__(self, text: str) -> str:
        """Return the text with stars for each secret."""
        for secret in self._secrets:
            text = text.replace(secret, "*****")
        return text


class DbtProcess:
    """Start dbt in a process group of its own and hand on what it says.

    :param args: dbt's arguments, beginning with the command.
    :param env: Variables for dbt in addition to this process' own; the place for secrets.
    :param cwd: Folder to run in.
    :param folder: The run's own folder, which dbt's process removes if this one is lost.
    :param executable: Path of the dbt program of another environment, which gets this environment's variables but
        not its Python path; ``None`` runs the dbt of this environment.
    :param debug: Hand on another environment's log lines of level debug too.
    """

    def __init__(
        self,
        args: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path,
        folder: Path,
        executable: str | None = None,
        debug: bool = False,
    ) -> None:
        self._messages: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._events = EventReader(self._put)
        self._levels = {"info", "warn", "error", *(["debug"] if debug else [])}
        environment = {**quieted(os.environ), **env}
        self.scrub = Scrubber(environment)
        if executable is not None:
            for name in _OURS:
                environment.pop(name, None)
            # Without site packages the watcher starts in a few milliseconds.
            words = ["-P", "-E", "-S", str(_CHILD), "watch", str(folder), executable, *args, *JSON_LOG]
            self._process = self._start(words, environment, cwd)
            self._readers = [self._reader(self._read_json, self._process.stdout)]
            return
        read_fd, write_fd = os.pipe()
        try:
            words = ["-P", str(_CHILD), str(write_fd), str(folder), *args]
            self._process = self._start(words, environment, cwd, write_fd)
        except BaseException:
            os.close(read_fd)
            raise
        finally:
            os.close(write_fd)
        self._readers = [
            self._reader(self._read_events, os.fdopen(read_fd, "rb")),
            self._reader(self._read_log, self._process.stdout),
        ]

    def messages(self, *, tick: float) -> Iterator[dict[str, Any]]:
        """Yield what dbt tells, until it has ended; one key per message.

        ``log`` is a line, ``node`` a record, ``warning`` a text, ``output`` a text that the command was asked for,
        ``end`` how it went (this environment's dbt), ``error`` a text and ``problem`` the error that ended dbt (another
        environment's). An empty message comes after ``tick`` seconds of silence.

        :param tick: Seconds.
        """
        open_channels = len(self._readers)
        while open_channels:
            try:
                message = self._messages.get(timeout=tick)
            except queue.Empty:
                if self._process.poll() is not None:
                    # What dbt has started and left running would keep the channels open for ever.
                    self._signal(signal.SIGKILL)
                yield {}
                continue
            if message is None:
                open_channels -= 1
            else:
                yield message
        self._process.wait()
        self._close()

    @property
    def pid(self) -> int:
        """Number of the process that leads dbt's process group."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit status of dbt, ``None`` while it runs."""
        return self._process.poll()

    def stop(self, *, grace: float = 2.5) -> None:
        """Interrupt dbt, which cancels its queries, and kill what is left of it.

        :param grace: Seconds dbt has to cancel; a killed task has five in all.
        """
        if self._process.poll() is None:
            self._signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=grace)
        self._signal(signal.SIGKILL)
        # With a timeout, because a signal handler may have interrupted a wait of the same thread, which then
        # still holds the lock that a plain wait would ask for.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=1)
        self._close()

    def _start(
        self, words: Sequence[str], env: Mapping[str, str], cwd: Path, *inherited: int
    ) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=inherited,
            env=env,
            cwd=cwd,
            start_new_session=True,
        )

    def _reader(self, target: Callable[[IO[bytes]], None], stream: Any) -> threading.Thread:
        reader = threading.Thread(target=self._read, args=(target, stream), daemon=True)
        reader.start()
        return reader

    def _read(self, target: Callable[[IO[bytes]], None], stream: IO[bytes]) -> None:
        try:
            with stream:
                target(stream)
        finally:
            self._messages.put(None)

    def _close(self) -> None:
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        for reader in self._readers:
            reader.join(timeout=5)

    def _signal(self, number: int) -> None:
        # The child leads a session of its own, so its number is also that of its process group.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def _read_events(self, stream: IO[bytes]) -> None:
        for line in stream:
            # Only a killed child leaves a broken last line.
            with contextlib.suppress(ValueError):
                self._put(json.loads(line.decode(errors="replace")))

    def _read_log(self, stream: IO[bytes]) -> None:
        for line in stream:
            self._log(_TIME.sub("", line.decode(errors="replace")))

    def _read_json(self, stream: IO[bytes]) -> None:
        for line in stream:
            text = line.decode(errors="replace")
            try:
                event = json.loads(text)
                info, data = event["info"], event.get("data") or {}
                name, level, said = info.get("name"), str(info["level"]).lower(), str(info.get("msg") or "")
            except (ValueError, TypeError, KeyError, AttributeError):
                # Not an event: what a library or the shell of a wrapper script prints.
                self._log(text)
                continue
            # A secret may have several lines.
            said = self.scrub(_COLOURS.sub("", said))
            if level in self._levels:
                for part in said.splitlines():
                    self._log(part)
            if not isinstance(data, dict):
                continue
            try:
                self._take(str(name), level, said, data)
            except (ValueError, TypeError, KeyError, AttributeError):
                # It only looks like one; whatever a program prints, what it says after that counts.
                self._log(text)

    def _take(self, name: str, level: str, said: str, data: Mapping[str, Any]) -> None:
        unique_id = (data.get("node_info") or {}).get("unique_id")
        if name == "NodeStart" and unique_id:
            self._events.started(unique_id)
        elif name == "NodeFinished" and unique_id:
            self._events.finished(data)
        elif name == "GenericExceptionOnRun":
            self._events.raised(str(data.get("unique_id")), str(data.get("exc") or ""))
        elif name == "PrintEvent":
            self._events.printed(str(data.get("msg") or ""))
        elif name == "ShowNode":
            self._events.printed(str(data.get("preview") or ""))
        if level == "warn":
            self._events.warned(name, said)
        elif name == "MainEncounteredError":
            self._put({"problem": str(data.get("exc") or said)})
        elif level == "error":
            self._put({"error": said})

    def _log(self, line: str) -> None:
        if text := line.rstrip():
            self._put({"log": text})

    def _put(self, message: dict[str, Any]) -> None:
        """Hand on a message without secrets in what people read of it; ids and the like stay as they are."""
        for key, told in message.items():
            if isinstance(told, str):
                message[key] = self.scrub(told)
            else:
                told.update((name, self.scrub(told[name])) for name in _TEXTS & told.keys())
        self._messages.put(message)
