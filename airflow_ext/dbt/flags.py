"""dbt's flags for one command, checked before dbt starts."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_SELECTING = frozenset(
    {
        "build",
        "clone",
        "compile",
        "docs generate",
        "ls",
        "run",
        "seed",
        "show",
        "snapshot",
        "source freshness",
        "test",
    }
)
_OTHERS = frozenset({"deps", "parse", "retry", "run-operation"})
COMMANDS = _SELECTING | _OTHERS
"""The commands of dbt that can be run."""

_RUNNING = frozenset({"build", "run"})
_TYPED = frozenset({"build", "clone", "ls", "test"})
_DEFERRING = _SELECTING - {"ls", "source freshness"}

KNOWN: Mapping[str, frozenset[str]] = {
    "select": _SELECTING,
    "exclude": _SELECTING,
    "selector": _SELECTING,
    "vars": COMMANDS,
    "full_refresh": frozenset({"build", "clone", "compile", "run", "seed", "show"}),
    "threads": COMMANDS - {"deps", "ls"},
    "indirect_selection": _SELECTING,
    "fail_fast": _SELECTING - {"ls"},
    "defer": _DEFERRING,
    "favor_state": _DEFERRING,
    "state": _SELECTING | {"retry"},
    "empty": frozenset({"build", "compile", "run", "snapshot"}),
    "sample": _RUNNING,
    "event_time_start": _RUNNING,
    "event_time_end": _RUNNING,
    "resource_types": _TYPED,
    "exclude_resource_types": _TYPED,
    "store_failures": frozenset({"build", "test"}),
    "warn_error": COMMANDS,
}
"""The commands that each flag means something to. dbt takes some flags everywhere and then does nothing with
them (``dbt retry --full-refresh``, ``dbt deps --defer``): those are refused too."""

_INDIRECT = ("eager", "cautious", "buildable", "empty")

_FIELD_OPTIONS: Mapping[str, str] = {
    "defer-state": "state",
    "model": "select",
    "models": "select",
    "resource-type": "resource_types",
    "exclude-resource-type": "exclude_resource_types",
    **{name.replace("_", "-"): name for name in KNOWN},
}
_RUNNER_OPTIONS = frozenset(
    {
        "help",
        "log-format",
        "log-format-file",
        "log-level",
        "log-level-file",
        "log-path",
        "partial-parse-file-path",
        "profile",
        "profiles-dir",
        "project-dir",
        "quiet",
        "target",
        "target-path",
        "use-colors",
        "use-colors-file",
        "version",
        "write-json",
    }
)
_SHORT = frozenset({"-d", "-r"})
_OPTION = re.compile(r"--(?P<no>no-)?(?P<name>[a-z][a-z0-9-]*)(?:=(?P<value>.*))?", re.DOTALL)


LONGEST_WORD = 131_071
"""Bytes of one word of a command line on Linux (``MAX_ARG_STRLEN`` of ``execve``, less the end mark)."""


@dataclass(frozen=True, kw_only=True)
class DbtFlags:
    """What a command of dbt is told, in dbt's own words.

    Nothing is checked here, as the values may still be templates: :meth:`argv` checks.

    :param select: Selection in dbt's syntax; a list is what would follow ``--select``. ``None`` means everything.
    :param exclude: What to leave out, likewise.
    :param selector: A selector of ``selectors.yml``, instead of the two above.
    :param vars: dbt's variables. They are part of dbt's command line and of its results: no place for secrets.
    :param full_refresh: Rebuild incremental models and seeds from nothing.
    :param threads: Threads of dbt; ``None`` means the profile's number.
    :param indirect_selection: Which tests a selection brings along: ``eager``, ``cautious``, ``buildable``,
        ``empty``. ``None`` means dbt's default, eager.
    :param fail_fast: End at the first failure.
    :param defer: Take what is not selected from ``state``.
    :param favor_state: Take it from there even if it exists here.
    :param state: Folder or object-store URL with the ``manifest.json`` of another run, for ``defer``, ``clone`` and
        ``state:`` selections; for ``retry`` the place with the ``run_results.json`` to go on from.
    :param empty: Build without rows.
    :param sample: Build with a sample, such as ``3 days``.
    :param event_time_start: First moment of the microbatches to build (ISO date or date and time, UTC).
    :param event_time_end: Their end, exclusive; the two go together.
    :param resource_types: Kinds of things to take; empty means all.
    :param exclude_resource_types: Kinds of things to leave out.
    :param store_failures: Keep the failing rows of tests in the warehouse.
    :param warn_error: Take warnings for errors.
    :param args: More words for dbt, as on its command line and with long names, such as
        ``["--no-populate-cache", "--printer-width", "120"]``.
    """

    select: str | Sequence[str] | None = None
    exclude: str | Sequence[str] | None = None
    selector: str | None = None
    vars: Mapping[str, Any] | None = None
    full_refresh: bool = False
    threads: int | None = None
    indirect_selection: str | None = None
    fail_fast: bool = False
    defer: bool = False
    favor_state: bool = False
    state: str | None = None
    empty: bool = False
    sample: str | None = None
    event_time_start: str | None = None
    event_time_end: str | None = None
    resource_types: Sequence[str] = ()
    exclude_resource_types: Sequence[str] = ()
    store_failures: bool = False
    warn_error: bool = False
    args: Sequence[str] = ()

    def argv(self, command: str) -> list[str]:
        """Return the words for a command line, without ``state``, which the runner first fetches.

        :param command: The command that they are for, such as ``build`` or ``source freshness``.
        :raises ValueError: If dbt does not know the command, or the command not a flag that is set, or flags
            contradict each other, or one is too long.
        """
        self._check(command)
        words: list[str] = []
        for option, selection in (("--select", self.select), ("--exclude", self.exclude)):
            if selection is not None:
                words += [option, *([selection] if isinstance(selection, str) else selection)]
        if self.selector is not None:
            words += ["--selector", self.selector]
        words += self.overrides() if command == "retry" else [*self._vars(), *self._numbers()]
        for name in ("indirect_selection", "sample", "event_time_start", "event_time_end"):
            if (value := getattr(self, name)) is not None:
                words += [f"--{name.replace('_', '-')}", str(value)]
        for name in ("full_refresh", "fail_fast", "defer", "favor_state", "empty", "store_failures"):
            if getattr(self, name):
                words.append(f"--{name.replace('_', '-')}")
        for kind in self.resource_types:
            words += ["--resource-type", kind]
        for kind in self.exclude_resource_types:
            words += ["--exclude-resource-type", kind]
        words += self.args
        _check_lengths(words)
        return words

    def overrides(self) -> list[str]:
        """Return the words that ``dbt retry`` takes from its own command line and not from the earlier run.

        dbt reads variables of a retry from Python's notation of them, which it takes for YAML. Those that would be
        changed by that are left out here, and reach it as an argument of the earlier run alone.
        """
        import yaml

        try:
            same = yaml.safe_load(str(dict(self.vars or {}))) == dict(self.vars or {})
        except yaml.YAMLError:
            same = False
        return [*(self._vars() if same else []), *self._numbers()]

    def _vars(self) -> list[str]:
        return ["--vars", json.dumps(dict(self.vars))] if self.vars else []

    def _numbers(self) -> list[str]:
        words = [] if self.threads is None else ["--threads", str(self.threads)]
        return [*words, "--warn-error"] if self.warn_error else words

    def retry_arguments(self) -> dict[str, Any]:
        """Return the ``args`` of a ``run_results.json`` that make ``dbt retry`` repeat with these flags.

        What selects is left out: the results name their ids. So are ``threads`` and ``warn_error``, which belong on
        the command line of the retry (:meth:`overrides`), and ``state``.
        """
        arguments: dict[str, Any] = {"vars": json.dumps(dict(self.vars))} if self.vars else {}
        for name in ("full_refresh", "fail_fast", "defer", "favor_state", "empty", "store_failures"):
            if getattr(self, name):
                arguments[name] = True
        for name in ("indirect_selection", "sample", "event_time_start", "event_time_end"):
            if (value := getattr(self, name)) is not None:
                arguments[name] = value
        name = ""
        for word in self.args:
            if option := _OPTION.fullmatch(word):
                name = option["name"].replace("-", "_")
                arguments[name] = option["no"] is None if option["value"] is None else option["value"]
            elif word == "-d":
                arguments["debug"] = True
            else:
                before = arguments.get(name)
                arguments[name] = word if isinstance(before, bool) else f"{before} {word}"
        return arguments

    def _check(self, command: str) -> None:
        if command not in COMMANDS:
            raise ValueError(f"command={command!r}: give one of {', '.join(sorted(COMMANDS))}")
        for name, commands in KNOWN.items():
            value = getattr(self, name)
            if value not in (None, False, (), [], {}) and command not in commands:
                raise ValueError(
                    f"{name}={value!r}: dbt {command} has no use for it; it is for {', '.join(sorted(commands))}"
                )
        for name in ("select", "exclude"):
            _check_selection(name, getattr(self, name))
        if self.selector is not None and (self.select is not None or self.exclude is not None):
            raise ValueError(
                f"selector={self.selector!r} with select= or exclude=: dbt would leave those out"
            )
        if self.threads is not None and (not isinstance(self.threads, int) or self.threads < 1):
            raise ValueError(f"threads={self.threads!r}: give a number from 1, or None for the profile's")
        if self.indirect_selection is not None and self.indirect_selection not in _INDIRECT:
            raise ValueError(
                f"indirect_selection={self.indirect_selection!r}: give one of {', '.join(_INDIRECT)}"
            )
        self._check_state(command)
        if (self.event_time_start is None) != (self.event_time_end is None):
            raise ValueError(
                f"event_time_start={self.event_time_start!r}, event_time_end={self.event_time_end!r}: "
                "give both or neither"
            )
        try:
            json.dumps(dict(self.vars or {}))
        except TypeError as exc:
            raise ValueError(f"vars hold a value that is not JSON: {exc}; give text or numbers") from None
        _check_args(self.args, command)

    def _check_state(self, command: str) -> None:
        if self.defer and self.state is None:
            raise ValueError("defer=True needs state=: the place with the manifest.json to defer to")
        if self.favor_state and not self.defer:
            raise ValueError("favor_state=True does nothing without defer=True")
        if command in ("clone", "retry") and self.state is None:
            holds = "manifest.json to clone from" if command == "clone" else "run_results.json to go on from"
            raise ValueError(f"dbt {command} needs state=: the place with the {holds}")


def _check_lengths(words: Sequence[str]) -> None:
    option = ""
    for word in words:
        option = word.partition("=")[0] if word.startswith("--") else option
        if (size := len(word.encode(errors="replace"))) > LONGEST_WORD:
            raise ValueError(
                f"{option} takes {size} bytes, a command line only {LONGEST_WORD}: put large data into a seed or a table"
            )


def _check_selection(name: str, selection: str | Sequence[str] | None) -> None:
    if selection is None:
        return
    words = [selection] if isinstance(selection, str) else list(selection)
    if not words or not all(isinstance(word, str) and word.strip() for word in words):
        raise ValueError(
            f"{name}={selection!r} is empty, which dbt takes for nothing; give None to leave it out"
        )
    for word in words:
        if word.lstrip().startswith("-"):
            raise ValueError(f"{name}={selection!r}: a selection does not begin with '-'")


def _check_args(args: Sequence[str], command: str) -> None:
    if isinstance(args, str) or not all(isinstance(word, str) for word in args):
        raise ValueError(f"args={args!r}: give a list of words, each as text")
    for place, word in enumerate(args):
        option = _OPTION.fullmatch(word)
        if option is None:
            if word.startswith("-") and word not in _SHORT and not word[1:2].isdigit():
                raise ValueError(f"args has {word!r}: write options with their long names, such as --debug")
            if place == 0 and not word.startswith("-"):
                raise ValueError(f"args begins with {word!r}, which is no option: those begin with '--'")
            continue
        # An option may itself be called no-something, but none of these are.
        name = option["name"]
        if name in _RUNNER_OPTIONS or (name == "output" and command == "source freshness"):
            raise ValueError(f"args has {word!r}, which is set for each run: leave it out")
        if name in _FIELD_OPTIONS:
            raise ValueError(f"args has {word!r}: give it as {_FIELD_OPTIONS[name]}=")
