"""``airflow-ext`` and ``airflow ext`` are one set of commands."""

from __future__ import annotations

import argparse
from typing import Any

import pytest
from airflow.cli.cli_config import ActionCommand, DefaultHelpParser

from airflow_ext import __version__
from airflow_ext.cli import airflow_commands, main
from airflow_ext.exceptions import InvalidError


def commands_of(parser: argparse.ArgumentParser, *above: str) -> set[tuple[str, ...]]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return {
                found for name, child in action.choices.items() for found in commands_of(child, *above, name)
            }
    return {above}


def airflow_parser() -> argparse.ArgumentParser:
    """Build the parser as Airflow does, down to its ``subcommand``."""
    parser = DefaultHelpParser(prog="airflow")
    subparsers = parser.add_subparsers(dest="subcommand", required=True)
    for command in airflow_commands.get_commands():
        assert isinstance(command, ActionCommand)
        child = subparsers.add_parser(command.name, help=command.help)
        for argument in command.args:
            argument.add_to_parser(child)
        child.set_defaults(func=command.func)
    return parser


def test_both_have_the_same_commands() -> None:
    ours = commands_of(main.build_parser())
    assert {("doctor",), ("dbt", "index")} <= ours
    assert commands_of(airflow_parser()) == {("ext", *command) for command in ours}


def test_airflows_command_ends_with_our_status(monkeypatch: pytest.MonkeyPatch) -> None:
    args = airflow_parser().parse_args(["ext", "dbt", "index", "/nowhere/at/all"])
    assert args.subcommand == "ext"
    with pytest.raises(SystemExit) as ended:
        args.func(args)
    assert ended.value.code == 1


@pytest.mark.parametrize(
    "words",
    [
        pytest.param([], id="nothing"),
        pytest.param(["surgeon"], id="unknown-group"),
        pytest.param(["dbt"], id="no-verb"),
        pytest.param(["doctor", "--loud"], id="unknown-option"),
    ],
)
def test_wrong_use_ends_with_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main.main(words)
    assert ended.value.code == 2
    assert "usage: airflow-ext" in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main.main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"airflow-ext {__version__}\n"


def test_our_errors_are_one_line_and_status_1(capsys: pytest.CaptureFixture[str]) -> None:
    def command(_: Any) -> int:
        raise InvalidError("wrong, do it so")

    assert main.run(argparse.Namespace(func=command)) == 1
    assert capsys.readouterr().err == "airflow-ext: wrong, do it so\n"
