"""``airflow-ext contracts``: check contracts, compare versions, find who depends on them, look at verdicts.

Every command ends with 0 if all is well, 1 if not, and 2 if it could not do its work.
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
from collections.abc import Callable

from airflow_ext.cli import contracts_change, contracts_impact, contracts_judge, contracts_state
from airflow_ext.exceptions import AirflowExtError, InvalidContractError

Command = Callable[[argparse.Namespace], int]


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the group ``contracts`` to a command line.

    :param subparsers: What ``ArgumentParser.add_subparsers()`` returned; each command sets ``func``,
        which takes the parsed arguments and returns an exit status.
    """
    group = subparsers.add_parser(
        "contracts", help="contracts between teams: check, compare, find consumers, look at verdicts"
    )
    verbs = group.add_subparsers(dest="verb", metavar="VERB", required=True)
    contracts_change.add_lint(verbs, ending(contracts_change.lint_command))
    contracts_change.add_diff(verbs, ending(contracts_change.diff_command))
    contracts_impact.add_impact(verbs, ending(contracts_impact.impact_command))
    contracts_state.add_status(verbs, ending(contracts_state.status_command))
    contracts_state.add_explain(verbs, ending(contracts_state.explain_command))
    contracts_judge.add_verify(verbs, ending(contracts_judge.verify_command))
    contracts_judge.add_publish(verbs, ending(contracts_judge.publish_command))


def ending(command: Command) -> Command:
    """Let a command end with 2 and one line where it cannot do its work."""

    @functools.wraps(command)
    def run(args: argparse.Namespace) -> int:
        try:
            status = command(args)
            sys.stdout.flush()
            return status
        except BrokenPipeError:  # whoever reads has seen enough, such as head
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 2
        except InvalidContractError as error:
            print(f"airflow-ext contracts: {_first(error)}", file=sys.stderr)
            return 2
        except AirflowExtError as error:
            print(f"airflow-ext contracts: {' '.join(str(error).split())}", file=sys.stderr)
            return 2

    return run


def _first(error: InvalidContractError) -> str:
    if not error.problems:
        return str(error)
    more = len(error.problems) - 1
    rest = f" (and {more} more: airflow-ext contracts lint {error.source})" if more else ""
    return f"{error.source}: {' '.join(error.problems[0].split())}{rest}"
