"""The command ``airflow-ext``; ``airflow ext`` is made of the same definitions."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from airflow_ext import __version__
from airflow_ext.cli import contracts, dbt, doctor, sla, sync, vault
from airflow_ext.cli.backend_told import of_backend
from airflow_ext.exceptions import AirflowExtError

GROUPS = (contracts, dbt, doctor, sla, sync, vault)
"""Modules with ``register(subparsers)``; each command sets ``func``, which takes the parsed arguments and
returns an exit status: 0 well, 1 not well, 2 wrong use."""


def add_commands(
    parser: argparse.ArgumentParser, *, parser_class: type[argparse.ArgumentParser] = argparse.ArgumentParser
) -> None:
    """Add every group to ``parser``.

    :param parser_class: Class of the parsers of groups and commands.
    """
    subparsers = parser.add_subparsers(
        dest="group", metavar="COMMAND", required=True, parser_class=parser_class
    )
    for group in GROUPS:
        group.register(subparsers)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of ``airflow-ext``."""
    parser = argparse.ArgumentParser(
        prog="airflow-ext",
        description="Commands of airflow-ext, the data promises for Apache Airflow.",
        epilog="The same commands are there as: airflow ext COMMAND",
    )
    parser.add_argument("--version", action="version", version=f"airflow-ext {__version__}")
    add_commands(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    """Run a parsed command and return its exit status; an error of ours, or of the secrets backend, becomes one line."""
    try:
        return int(args.func(args))
    except AirflowExtError as error:
        print(f"airflow-ext: {error}", file=sys.stderr)
        return 1
    except Exception as error:
        told = of_backend(error)
        if told is None:
            raise
        print(f"airflow-ext: {told}", file=sys.stderr)
        return 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``airflow-ext`` and return its exit status.

    :param argv: Words after the command; ``None`` takes those of the process.
    """
    return run(build_parser().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
