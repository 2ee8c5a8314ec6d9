"""``airflow-ext dbt``: make what a DAG file reads of a dbt project."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_ext.exceptions import AirflowExtError, InvalidProjectError

if TYPE_CHECKING:
    from airflow_ext.dbt.index import DbtIndex


def index(
    project_dir: str | Path,
    *,
    profiles_dir: str | Path | None = None,
    target: str | None = None,
    adapter: str | None = None,
    out: str | Path | None = None,
) -> DbtIndex:
    """Run ``dbt parse``, put the manifest in its place as a whole and warm its index.

    :param project_dir: Folder with ``dbt_project.yml``.
    :param profiles_dir: Folder with ``profiles.yml``; ``None`` means the project's folder.
    :param target: Target of the profile; ``None`` means its default.
    :param adapter: ``postgres`` or ``duckdb``: parse without a ``profiles.yml``, for projects that take
        their profile from an Airflow connection.
    :param out: Where the manifest goes; ``None`` means ``target/manifest.json`` in the project.
    :raises InvalidProjectError: If the project cannot be parsed; dbt's own words are quoted.
    """
    from airflow_ext.dbt.index import write_atomically
    from airflow_ext.dbt.process import QUIET
    from airflow_ext.dbt.profiles import placeholder_profile, profile_name
    from airflow_ext.dbt.project import DbtProject

    project = DbtProject(project_dir=project_dir, manifest=out, profiles_dir=profiles_dir, target=target)
    name = profile_name(project.project_dir)
    with tempfile.TemporaryDirectory(prefix="airflow-ext-dbt-") as folder:
        env, profiles = dict(QUIET), project.profiles_dir
        if adapter is not None:
            placeholder = placeholder_profile(adapter, name=name, target=target)
            env.update(placeholder.env)
            profiles = Path(folder)
            (profiles / "profiles.yml").write_text(placeholder.text, encoding="utf-8")
        result = _dbt(
            ["parse", "--no-partial-parse", "--project-dir", project.project_dir.absolute()],
            ["--profiles-dir", profiles.absolute(), "--target-path", f"{folder}/target"],
            ["--log-path", f"{folder}/logs", *(["--target", target] if target else [])],
            env=env,
        )
        manifest = Path(folder) / "target" / "manifest.json"
        if result.returncode != 0 or not manifest.is_file():
            raise InvalidProjectError(
                f"dbt could not parse {project.project_dir}:\n{result.stdout.strip()}",
                source=str(project.project_dir),
            )
        write_atomically(project.manifest, manifest.read_bytes())
    return project.index()


def _dbt(*arguments: list[Any], env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    import os

    from airflow_ext.extras import require

    require("dbt.cli", extra="dbt")
    words = [str(word) for group in arguments for word in group]
    return subprocess.run(
        [sys.executable, "-P", "-c", "from dbt.cli.main import cli; cli()", *words],
        env={**os.environ, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the group ``dbt`` to a command line.

    :param subparsers: What ``ArgumentParser.add_subparsers()`` returned; each command sets ``func``,
        which takes the parsed arguments and returns an exit status.
    """
    group = subparsers.add_parser("dbt", help="dbt projects: make the manifest and index that draw a DAG")
    verbs = group.add_subparsers(dest="verb", required=True)
    parser = verbs.add_parser("index", help="parse a project and put its manifest and index in place")
    parser.add_argument("project_dir", help="folder with dbt_project.yml")
    parser.add_argument("--profiles-dir", help="folder with profiles.yml (default: the project's folder)")
    parser.add_argument("--target", help="target of the profile (default: the profile's own)")
    parser.add_argument(
        "--adapter", choices=("duckdb", "postgres"), help="parse without profiles.yml, for this adapter"
    )
    parser.add_argument("--out", help="where the manifest goes (default: PROJECT_DIR/target/manifest.json)")
    parser.set_defaults(func=_index_command)


def _index_command(args: argparse.Namespace) -> int:
    try:
        made = index(
            args.project_dir,
            profiles_dir=args.profiles_dir,
            target=args.target,
            adapter=args.adapter,
            out=args.out,
        )
    except AirflowExtError as exc:
        print(exc, file=sys.stderr)
        return 1
    tests = sum(len(node.tests) for node in made.nodes)
    print(f"{made.project}: {len(made.nodes)} nodes with {tests} tests, indexed (dbt {made.dbt_version})")
    return 0
