"""The flags, held against the definitions of the installed dbt."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from airflow_ext.dbt.flags import COMMANDS, KNOWN, DbtFlags

OPTIONS = """
import click, json
from dbt.cli.main import cli
found = {}
def walk(command, name):
    for child, inner in getattr(command, "commands", {}).items():
        walk(inner, [*name, child])
    options = [p for p in command.params if isinstance(p, click.Option)]
    found[" ".join(name)] = [o for p in options for o in [*p.opts, *p.secondary_opts]]
walk(cli, [])
print(json.dumps(found))
"""

VALUES: dict[str, Any] = {
    "select": "a",
    "exclude": ["b", "c+"],
    "selector": "nightly",
    "vars": {"day": "2026-01-01"},
    "full_refresh": True,
    "threads": 3,
    "indirect_selection": "cautious",
    "fail_fast": True,
    "defer": True,
    "favor_state": True,
    "state": "s3://bucket/state",
    "empty": True,
    "sample": "3 days",
    "event_time_start": "2026-01-01",
    "event_time_end": "2026-01-02",
    "resource_types": ["model", "test"],
    "exclude_resource_types": ["seed"],
    "store_failures": True,
    "warn_error": True,
}
TOGETHER = {
    "defer": ("state",),
    "favor_state": ("defer", "state"),
    "event_time_start": ("event_time_end",),
    "event_time_end": ("event_time_start",),
}


@pytest.fixture(scope="module")
def options() -> dict[str, list[str]]:
    """The options of each command, by dbt's own definitions."""
    done = subprocess.run([sys.executable, "-c", OPTIONS], capture_output=True, text=True, check=True)
    found: dict[str, list[str]] = json.loads(done.stdout)
    return found


def flags_for(name: str, command: str) -> DbtFlags:
    names = [name, *TOGETHER.get(name, ())]
    if command in ("clone", "retry"):
        names.append("state")
    return DbtFlags(**{each: VALUES[each] for each in names})


def test_every_flag_has_its_commands() -> None:
    fields = set(DbtFlags.__dataclass_fields__) - {"args"}
    assert fields == set(KNOWN) == set(VALUES)


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_word_is_one_that_dbt_knows(command: str, options: dict[str, list[str]]) -> None:
    for name, commands in KNOWN.items():
        if command in commands:
            words = flags_for(name, command).argv(command)
            assert {word for word in words if word.startswith("--")} <= set(options[command]), (name, words)


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_a_flag_that_means_nothing_to_a_command_is_refused(command: str) -> None:
    for name, commands in KNOWN.items():
        if command not in commands:
            with pytest.raises(ValueError, match=rf"^{name}=.*dbt {command} has no use for it; it is for .*"):
                DbtFlags(**{name: VALUES[name]}).argv(command)


def test_only_flags_that_do_nothing_are_refused_although_dbt_takes_them(
    options: dict[str, list[str]],
) -> None:
    everywhere = {"defer", "fail_fast", "favor_state", "indirect_selection", "state"}
    for name, commands in KNOWN.items():
        option = f"--{name.replace('_', '-')}"
        taken = {command for command in COMMANDS if option in options[command]}
        if name not in everywhere:
            # dbt retry takes full_refresh from the earlier run, whatever its own command line says.
            assert taken - commands == ({"retry"} if name == "full_refresh" else set()), name


def test_all_flags_of_a_build_become_words() -> None:
    flags = DbtFlags(
        **{name: value for name, value in VALUES.items() if name != "selector"}, args=["--debug"]
    )
    assert flags.argv("build") == [
        *("--select", "a", "--exclude", "b", "c+"),
        *("--vars", '{"day": "2026-01-01"}', "--threads", "3", "--warn-error"),
        *("--indirect-selection", "cautious", "--sample", "3 days"),
        *("--event-time-start", "2026-01-01", "--event-time-end", "2026-01-02"),
        *("--full-refresh", "--fail-fast", "--defer", "--favor-state", "--empty", "--store-failures"),
        *(
            "--resource-type",
            "model",
            "--resource-type",
            "test",
            "--exclude-resource-type",
            "seed",
            "--debug",
        ),
    ]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        pytest.param({"select": ""}, "select='' is empty", id="empty selection"),
        pytest.param({"exclude": []}, r"exclude=\[\] is empty", id="empty list"),
        pytest.param({"select": ["a", " "]}, "is empty", id="empty word"),
        pytest.param({"select": "--full-refresh"}, "does not begin with '-'", id="option as selection"),
        pytest.param({"select": ["a", " -x"]}, "does not begin with '-'", id="option as word"),
        pytest.param({"selector": "s", "select": "a"}, "selector='s' with select=", id="selector and select"),
        pytest.param({"threads": 0}, "threads=0: give a number from 1", id="no threads"),
        pytest.param({"threads": "4"}, "threads='4'", id="threads as text"),
        pytest.param({"indirect_selection": "all"}, "indirect_selection='all': give one of", id="indirect"),
        pytest.param({"defer": True}, "defer=True needs state=", id="defer without state"),
        pytest.param({"favor_state": True, "state": "x"}, "without defer=True", id="favor without defer"),
        pytest.param({"event_time_end": "2026-01-01"}, "give both or neither", id="half a window"),
        pytest.param({"vars": {"a": object()}}, "vars hold a value that is not JSON", id="vars"),
        pytest.param({"args": "--debug"}, "give a list of words", id="args as text"),
        pytest.param({"args": ["--printer-width", 3]}, "each as text", id="args as number"),
        pytest.param({"args": ["orders"]}, "begins with 'orders'", id="positional"),
        pytest.param({"args": ["-x"]}, "long names", id="short option"),
        pytest.param({"args": ["--", "x"]}, "long names", id="end of options"),
        pytest.param({"args": ["--project-dir", "/"]}, "set for each run", id="runner's option"),
        pytest.param({"args": ["--profile=x"]}, "set for each run", id="runner's option with value"),
        pytest.param({"args": ["--no-write-json"]}, "set for each run", id="runner's option negated"),
        pytest.param({"args": ["--quiet"]}, "set for each run", id="quiet"),
        pytest.param({"args": ["--no-defer"]}, "give it as defer=", id="field negated"),
        pytest.param({"args": ["--models", "a"]}, "give it as select=", id="field by its old name"),
        pytest.param({"args": ["--resource-type=model"]}, "give it as resource_types=", id="singular"),
    ],
)
def test_flags_that_contradict_are_refused(values: dict[str, Any], said: str) -> None:
    flags = DbtFlags(**values)
    with pytest.raises(ValueError, match=said):
        flags.argv("build")


@pytest.mark.parametrize(
    ("command", "said"),
    [("clone", "manifest.json to clone from"), ("retry", "run_results.json to go on from")],
)
def test_commands_that_need_a_state_say_which(command: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        DbtFlags().argv(command)


def test_an_unknown_command_is_refused() -> None:
    with pytest.raises(ValueError, match="command='init': give one of build, clone"):
        DbtFlags().argv("init")


def test_the_output_of_a_listing_may_be_chosen_but_not_where_freshness_is_written() -> None:
    flags = DbtFlags(args=["--output", "json"])
    assert flags.argv("ls") == ["--output", "json"]
    with pytest.raises(ValueError, match="set for each run"):
        flags.argv("source freshness")


def test_no_value_of_vars_is_in_an_error() -> None:
    with pytest.raises(ValueError, match="vars") as refused:
        DbtFlags(vars={"token": "t0p", "x": {1}}).argv("build")
    assert "t0p" not in str(refused.value)


def test_what_no_command_line_takes_is_told_by_its_option_before_dbt_starts() -> None:
    with pytest.raises(ValueError, match=r"^--vars takes 200011 bytes.*a seed or a table$"):
        DbtFlags(vars={"key": "x" * 200_000}).argv("build")
    with pytest.raises(ValueError, match=r"^--args takes 131072 bytes"):
        DbtFlags(args=["--args", "x" * 131_072]).argv("run-operation")
    assert DbtFlags(args=["--args", "x" * 131_071]).argv("run-operation")


def test_a_retry_is_told_all_that_does_not_select() -> None:
    args = ["--no-populate-cache", "--printer-width", "120", "-d", "--log-cache-events", "--sqlparse={a: 1}"]
    values = {name: value for name, value in VALUES.items() if name != "selector"}
    flags = DbtFlags(**values, args=args)
    assert flags.retry_arguments() == {
        "vars": '{"day": "2026-01-01"}',
        "full_refresh": True,
        "fail_fast": True,
        "defer": True,
        "favor_state": True,
        "empty": True,
        "store_failures": True,
        "indirect_selection": "cautious",
        "sample": "3 days",
        "event_time_start": "2026-01-01",
        "event_time_end": "2026-01-02",
        "populate_cache": False,
        "printer_width": "120",
        "debug": True,
        "log_cache_events": True,
        "sqlparse": "{a: 1}",
    }
    assert flags.overrides() == ["--vars", '{"day": "2026-01-01"}', "--threads", "3", "--warn-error"]


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        pytest.param("it's", True, id="one kind of quote"),
        pytest.param({"a": [True, 1.5, "x"]}, True, id="nested"),
        pytest.param('it\'s "x"', False, id="both kinds of quotes"),
        pytest.param("a\nb", False, id="newline"),
        pytest.param("C:\\x", False, id="backslash"),
        pytest.param(None, False, id="none"),
    ],
)
def test_variables_that_dbt_retry_would_change_are_not_on_its_command_line(value: Any, kept: bool) -> None:
    flags = DbtFlags(vars={"v": value}, threads=2)
    words = ["--vars", json.dumps({"v": value})]
    assert flags.overrides() == [*(words if kept else []), "--threads", "2"]
    assert flags.argv("build") == [*words, "--threads", "2"]
    assert json.loads(flags.retry_arguments()["vars"]) == {"v": value}
