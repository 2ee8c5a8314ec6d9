"""``airflow ext``: the commands of ``airflow-ext`` inside Airflow's own command line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

from airflow.cli.cli_config import ActionCommand, Arg, CLICommand

from airflow_ext.cli import main


class _ExitingParser(argparse.ArgumentParser):
    """Airflow drops what a command returns, so commands under this parser end the process with it."""

    def set_defaults(self, **kwargs: Any) -> None:
        if "func" in kwargs:
            kwargs["func"] = _exiting(kwargs["func"])
        super().set_defaults(**kwargs)


class _Commands(Arg):
    """Adds our whole command tree where Airflow expects one argument, so nothing is written down twice."""

    def __init__(self) -> None:
        super().__init__(flags=("command",))  # type: ignore[no-untyped-call]  # Arg has no annotations

    def add_to_parser(self, parser: argparse.ArgumentParser) -> None:
        """Add the groups to the parser of ``airflow ext``."""
        main.add_commands(parser, parser_class=_ExitingParser)


def get_commands() -> list[CLICommand]:
    """Return ``airflow ext``."""
    return [
        ActionCommand(
            name="ext",
            help="Commands of airflow-ext, such as doctor",
            description="Commands of airflow-ext, the data promises for Apache Airflow.",
            func=main.run,  # never called: the chosen command brings its own
            args=(_Commands(),),
        )
    ]


def _exiting(func: Callable[[argparse.Namespace], int]) -> Callable[[argparse.Namespace], None]:
    def command(args: argparse.Namespace) -> None:
        args.func = func
        sys.exit(main.run(args))

    return command
