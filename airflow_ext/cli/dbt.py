"""``airflow-ext dbt``: make what a DAG file reads of a dbt project, and show what it will draw."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_ext.exceptions import InvalidProjectError

if TYPE_CHECKING:
    from airflow_ext.dbt.index import DbtIndex
    from airflow_ext.dbt.parse import Parsed
    from airflow_ext.dbt.selection import Selection
    from airflow_ext.dbt.units import DbtUnit, UnitPlan

PARENTS_SHOWN = 4


def index(
    project_dir: str | Path,
    *,
    profiles_dir: str | Path | None = None,
    target: str | None = None,
    adapter: str | None = None,
    database: str | None = None,
    schema: str | None = None,
    out: str | Path | None = None,
    executable: str | Path | None = None,
    selections: Sequence[Selection] = (),
    forget: bool = False,
    vars: Mapping[str, Any] | None = None,  # noqa: A002  # dbt's word for it
) -> DbtIndex:
    """Let dbt parse a project and resolve selections, put both in place as a whole and warm the index.

    :param project_dir: Folder with ``dbt_project.yml``.
    :param profiles_dir: Folder with ``profiles.yml``; ``None`` means the project's folder.
    :param target: Target of the profile; ``None`` means its default.
    :param adapter: Name of an adapter: parse without a ``profiles.yml``, for projects that take their profile
        from an Airflow connection.
    :param database: With ``adapter``, the database to build into; ``None`` leaves it open.
    :param schema: With ``adapter``, the schema to build into; ``None`` leaves it open.
    :param out: Path or URL where the manifest goes; ``None`` means ``target/manifest.json`` in the project.
    :param executable: dbt of another environment; ``None`` means the installed one.
    :param selections: Selections to resolve; those that are known already are resolved again.
    :param forget: Resolve only the given ones.
    :param vars: dbt's variables.
    :raises InvalidProjectError: If the project cannot be parsed or a selection not resolved; dbt's own words
        are quoted.
    """
    return _make(
        {
            "project_dir": project_dir,
            "manifest": out,
            "profiles_dir": profiles_dir,
            "target": target,
            "executable": executable,
        },
        {"adapter": adapter, "database": database, "schema": schema, "vars": vars},
        selections=selections,
        forget=forget,
    ).index


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the group ``dbt`` to a command line.

    :param subparsers: What ``ArgumentParser.add_subparsers()`` returned; each command sets ``func``,
        which takes the parsed arguments and returns an exit status.
    """
    group = subparsers.add_parser("dbt", help="dbt projects: make the manifest and index that draw a DAG")
    verbs = group.add_subparsers(dest="verb", metavar="index|show", required=True)
    _add_index(verbs)
    _add_show(verbs)


def _make(
    project: Mapping[str, Any], settings: Mapping[str, Any], *, selections: Sequence[Selection], forget: bool
) -> Parsed:
    from airflow_ext.dbt.parse import ParseSettings, make_manifest
    from airflow_ext.dbt.project import DbtProject

    return make_manifest(
        DbtProject(**project), selections=selections, settings=ParseSettings(**settings), forget=forget
    )


def _add_index(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = verbs.add_parser("index", help="parse a project and put its manifest and index in place")
    parser.add_argument("project_dir", help="folder with dbt_project.yml")
    _add_selection(parser)
    parser.add_argument("--forget", action="store_true", help="drop the selections that are not given now")
    parser.add_argument("--profiles-dir", help="folder with profiles.yml (default: the project's folder)")
    parser.add_argument("--target", help="target of the profile (default: the profile's own)")
    parser.add_argument("--adapter", help="parse without profiles.yml, for this adapter, such as snowflake")
    parser.add_argument("--database", help="with --adapter: the database to build into, for assets' URIs")
    parser.add_argument("--schema", help="with --adapter: the schema to build into, for assets' URIs")
    parser.add_argument(
        "--out", help="path or URL where the manifest goes (default: PROJECT_DIR/target/manifest.json)"
    )
    parser.add_argument(
        "--dbt", metavar="EXECUTABLE", help="dbt of another environment (default: the installed one)"
    )
    parser.add_argument("--vars", help="dbt's variables, as a JSON object")
    parser.set_defaults(func=_index_command)


def _add_show(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = verbs.add_parser("show", help="show the tasks that a project, or a selection of it, becomes")
    parser.add_argument("project_dir", help="folder with dbt_project.yml")
    _add_selection(parser)
    parser.add_argument("--manifest", help="path or URL of the manifest (default: the project's own)")
    # Not as choices: naming them here would import the domain into every command of Airflow.
    parser.add_argument("--granularity", metavar="auto|node|folder|project", default="auto")
    parser.add_argument("--tests", metavar="with_node|tasks|none", default="with_node")
    parser.add_argument("--group-by", metavar="folder|tag")
    parser.add_argument("--sources", metavar="tested|all|none", default="tested")
    parser.add_argument("--exposures", action="store_true")
    parser.set_defaults(func=_show_command)


def _add_selection(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--select", nargs="+", action="extend", metavar="TERM", help="what to build")
    parser.add_argument("--exclude", nargs="+", action="extend", metavar="TERM", help="what to leave out")
    parser.add_argument("--selector", metavar="NAME", help="a selector of selectors.yml, instead")
    parser.add_argument("--indirect-selection", metavar="MODE", help="which tests come with a node")


def _index_command(args: argparse.Namespace) -> int:
    from airflow_ext.dbt.selection import Selection, select_ids

    selection = Selection.of(args.select, args.exclude, args.selector, args.indirect_selection)
    made = _make(
        {
            "project_dir": args.project_dir,
            "manifest": args.out,
            "profiles_dir": args.profiles_dir,
            "target": args.target,
            "executable": args.dbt,
        },
        {
            "adapter": args.adapter,
            "database": args.database,
            "schema": args.schema,
            "vars": _variables(args.vars),
        },
        selections=[selection],
        forget=args.forget,
    )
    print(f"{_counts(made.index)}, indexed (dbt {made.index.dbt_version})")
    for one in made.answers.selections:
        name = str(one.selection) if not one.selection.bare else f"default ({made.index.default_selector})"
        print(f"  {name}: {_counts(select_ids(made.index, one.ids), name=False)}")
    for dropped, problem in made.dropped:
        print(f"  dropped {dropped}: {problem}")
    for remark in made.remarks:
        print(f"  dbt: {remark}")
    return 0


def _variables(text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    try:
        variables = json.loads(text)
    except ValueError as exc:
        raise InvalidProjectError(f"--vars {text!r} is not JSON: {exc}") from exc
    if not isinstance(variables, dict):
        raise InvalidProjectError(f'--vars {text!r}: give a JSON object, such as \'{{"day": "2026-01-31"}}\'')
    return variables


def _show_command(args: argparse.Namespace) -> int:
    from airflow_ext.dbt.project import DbtProject
    from airflow_ext.dbt.units import plan_units

    project = DbtProject(project_dir=args.project_dir, manifest=args.manifest)
    graph = project.index(args.select, args.exclude, args.selector, args.indirect_selection)
    plan = plan_units(
        graph,
        granularity=args.granularity,
        tests=args.tests,
        group_by=args.group_by,
        sources=args.sources,
        exposures=args.exposures,
    )
    print(f"{_counts(graph)}: {_number(len(plan.units), 'task')} by {plan.granularity} ({plan.reason})")
    for line in _tree(plan):
        print(line)
    return 0


def _counts(graph: DbtIndex, *, name: bool = True) -> str:
    tests = sum(len(node.tests) for node in graph.nodes) + len(graph.orphan_tests)
    counts = f"{_number(len(graph.nodes), 'node')} with {_number(tests, 'test')}"
    return f"{graph.project}: {counts}" if name else counts


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _tree(plan: UnitPlan) -> Iterator[str]:
    groups: dict[tuple[str, ...], list[DbtUnit]] = {}
    for unit in plan.units:
        groups.setdefault(unit.group, []).append(unit)
    width = max((len(unit.label) + 2 * len(unit.group) for unit in plan.units), default=0)
    shown: set[tuple[str, ...]] = {()}
    for group in sorted(groups):
        for depth in range(1, len(group) + 1):
            if group[:depth] not in shown:
                shown.add(group[:depth])
                yield f"{'  ' * depth}{group[depth - 1]}/"
        indent = "  " * (len(group) + 1)
        for unit in groups[group]:
            yield f"{indent}{unit.label:<{width - 2 * len(group)}}  {_described(unit)}"


def _described(unit: DbtUnit) -> str:
    if unit.kind == "node":
        words = [unit.nodes[0].kind]
    elif unit.kind == "test":
        words = ["test"]
    else:
        words = [_number(len(unit.nodes), "node")]
    if unit.kind != "test" and unit.tests:
        words.append(_number(len(unit.tests), "test"))
    if unit.parents:
        more = len(unit.parents) - PARENTS_SHOWN
        named = ", ".join(unit.parents[:PARENTS_SHOWN])
        words.append(f"after {named}{f' and {more} more' if more > 0 else ''}")
    return "; ".join(words)
