"""A dbt project as a DAG author names it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote, urlsplit

from airflow_ext.dbt.index import DbtIndex, DbtNode, cache_dir, load_index, missing_manifest
from airflow_ext.dbt.locations import beside, local_copy, place_of
from airflow_ext.dbt.manifest import read_index
from airflow_ext.dbt.process import SECRETS
from airflow_ext.dbt.selection import SUFFIX, Answers, Selection, Terms, decode_answers, find_selected
from airflow_ext.exceptions import InvalidProjectError

PORTS = {"postgres": 5432, "mysql": 3306, "trino": 8080}
"""Ports that Airflow's asset URIs and OpenLineage always spell out."""


class DbtProject:
    """Where a dbt project is and how it reaches its warehouse.

    Making one reads nothing. The manifest that draws the DAG is a file of its own which no run ever
    writes: ``airflow-ext dbt index`` makes it, in CI or when the project is deployed.

    :param project_dir: Folder with ``dbt_project.yml``; nothing is written into it by runs.
    :param manifest: The manifest that draws the DAG: a path or a URL such as ``s3://conn_id@bucket/manifest.json``;
        ``None`` means ``target/manifest.json`` in the folder. A remote one is looked at once a minute at most, and
        while its store does not answer the last good one serves.
    :param profile_conn_id: Airflow connection to build with. Its secrets reach dbt through its environment only.
    :param profiles_dir: Folder with your own ``profiles.yml``, used instead of a connection; ``None``
        with no connection means the project's folder.
    :param target: Target of the profile; ``None`` means the profile's default, or ``airflow`` with a connection.
    :param schema: Schema to build into with a connection; ``None`` means ``public`` (PostgreSQL) or ``main``
        (DuckDB). Your own profiles name theirs.
    :param executable: dbt of another environment, as a path or the name of a command: dbt 1 or dbt 2 (Fusion);
        ``None`` means the dbt-core that is installed beside Airflow.
    :param namespace: OpenLineage's namespace of the warehouse, such as ``postgres://warehouse:5432``,
        ``snowflake://org-account``, ``bigquery`` or ``duckdb:///data/warehouse.duckdb``: assets then have the URI
        of their dataset. ``None`` means that they have only their name.
    :param env: Further environment variables of dbt, for ``env_var()``, the same for each run and visible in the DAG's code.
        Secrets belong into the connection.
    :param artifacts: Folder or URL where each DAG run's ``run_results.json`` and manifest are kept; ``None`` keeps
        none.
    :raises ValueError: If both a connection and a profiles folder are given, a schema without a connection, a
        namespace that is none, a URL with a password, or a template where none is rendered.
    """

    def __init__(
        self,
        *,
        project_dir: str | Path,
        manifest: str | Path | None = None,
        profile_conn_id: str | None = None,
        profiles_dir: str | Path | None = None,
        target: str | None = None,
        schema: str | None = None,
        executable: str | Path | None = None,
        namespace: str | None = None,
        artifacts: str | Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        _check_texts(profile_conn_id=profile_conn_id, target=target, schema=schema)
        if profile_conn_id is not None and profiles_dir is not None:
            raise ValueError(
                f"profile_conn_id={profile_conn_id!r} and profiles_dir={str(profiles_dir)!r}: "
                "give the one or the other"
            )
        if schema is not None and profile_conn_id is None:
            raise ValueError(f"schema={schema!r}: only with profile_conn_id=, a profiles.yml names its own")
        self.project_dir = Path(project_dir).absolute()
        self.manifest = place_of(manifest or self._own_manifest, argument="manifest")
        self.profile_conn_id = profile_conn_id
        self.profiles_dir = Path(profiles_dir).absolute() if profiles_dir else self.project_dir
        self.target = target
        self.schema = schema
        self.executable = _command(executable)
        self.namespace = _namespace(namespace)
        self.artifacts = place_of(artifacts, argument="artifacts") if artifacts else None
        self.env = _environment(env)

    def __repr__(self) -> str:
        return f"DbtProject(project_dir={str(self.project_dir)!r})"

    @property
    def _own_manifest(self) -> Path:
        return self.project_dir / "target" / "manifest.json"

    @property
    def remedy(self) -> str:
        """The command that makes the manifest of this project."""
        return self.remedy_for(Selection())

    def remedy_for(self, selection: Selection, *, adapter: str = "") -> str:
        """Return the command that makes the manifest and resolves a selection with it.

        :param selection: The selection.
        :param adapter: The adapter of an earlier manifest, if there is one.
        """
        command = ["airflow-ext", "dbt", "index", str(self.project_dir)]
        if self.profile_conn_id is None and self.profiles_dir != self.project_dir:
            command += ["--profiles-dir", str(self.profiles_dir)]
        if self.target is not None:
            command += ["--target", self.target]
        if self.manifest != self._own_manifest:
            command += ["--out", str(self.manifest)]
        if self.executable is not None:
            command += ["--dbt", self.executable]
        command += selection.arguments()
        if (self.profiles_dir / "profiles.yml").is_file() or self.profiles_dir != self.project_dir:
            return shlex.join(command)
        if self.profile_conn_id is None and not adapter:
            return shlex.join(command)
        if self.schema is not None:
            command += ["--schema", self.schema]
        database = " --database DATABASE" if self.namespace is not None else ""
        return f"{shlex.join(command)} --adapter {adapter or 'ADAPTER'}{database}"

    def index(
        self,
        select: Terms = None,
        exclude: Terms = None,
        selector: str | None = None,
        indirect_selection: str | None = None,
    ) -> DbtIndex:
        """Return the project's graph, or that of a selection; a few milliseconds once it is cached.

        What a selection means was decided by dbt when ``airflow-ext dbt index`` was given it.

        :param select: dbt's terms, in one string or a list; ``None`` selects all, or the default selector.
        :param exclude: The same for what is left out.
        :param selector: Name of a selector in ``selectors.yml``, instead of the others.
        :param indirect_selection: Which tests come with a node, in dbt's words; ``None`` means dbt's default.
        :raises InvalidProjectError: If there is no usable manifest, or the selection is not resolved or empty; the
            message names the command that helps.
        """
        selection = Selection.of(select, exclude, selector, indirect_selection)
        index = self.whole_index()
        if selection.bare and not index.default_selector:
            return index
        answers = self.answers()
        if isinstance(self.manifest, str) and not any(answer.manifest == index.key for answer in answers):
            # Manifest and answers are looked for at different times: the answers may be those of the manifest before.
            answers = self.answers(fresh=True)
        return find_selected(
            index,
            selection,
            answers,
            source=str(self.manifest),
            remedy=self.remedy_for(selection, adapter=index.adapter),
        )

    def answers(self, *, fresh: bool = False) -> tuple[Answers, ...]:
        """Return what dbt answered for the selections that it was asked, the newest manifest's first.

        :param fresh: Ask an object store now, however short ago it was asked.
        """
        place: Path | str | None = beside(self.manifest, SUFFIX)
        if isinstance(place, str):
            place = local_copy(place, cache=cache_dir(), fresh=fresh)
        try:
            return decode_answers(place.read_bytes()) if place is not None else ()
        except OSError:
            return ()

    def whole_index(self, *, fresh: bool = False) -> DbtIndex:
        """Return the graph of the whole manifest, whatever dbt selects by default.

        :param fresh: Ask an object store now, however short ago it was asked.
        :raises InvalidProjectError: If there is no usable manifest.
        """
        if isinstance(self.manifest, Path):
            if not self.manifest.exists() and not self.project_dir.is_dir():
                raise InvalidProjectError(
                    f"project_dir={str(self.project_dir)!r} is no folder here, and there is no manifest at "
                    f"{self.manifest}; a relative path begins at the process' working directory, so build it "
                    "from Path(__file__).parent",
                    source=str(self.project_dir),
                )
            return load_index(self.manifest, read=read_index, remedy=self.remedy)
        copy = local_copy(self.manifest, cache=cache_dir(), fresh=fresh)
        if copy is None:
            raise missing_manifest(self.manifest, self.remedy)
        return load_index(copy, read=read_index, remedy=self.remedy, source=self.manifest)

    def asset(self, node: DbtNode) -> tuple[str, str | None]:
        """Return the name and the URI of a node's asset.

        :param node: A node that is an asset.
        :return: The URI is that of OpenLineage's dataset in the form of Airflow's asset URIs; ``None`` without a
            namespace, or if the manifest was made without the warehouse's names (``--adapter`` alone).
        """
        parts = self._dataset_parts(node)
        if self.namespace is None or not parts:
            return node.asset, None
        # OpenLineage's namespace has no authority here, Airflow's URI begins with the project.
        root = "bigquery:/" if self.namespace == "bigquery" else self.namespace
        return node.asset, "/".join(
            [root, *(re.sub(r"[%/?#\s]|[^\x00-\x7f]", _escaped, part) for part in parts)]
        )

    def dataset(self, node: DbtNode) -> tuple[str, str] | None:
        """Return OpenLineage's namespace and name of a node's dataset; ``None`` where :meth:`asset` has no URI.

        :param node: A node with a relation.
        """
        parts = self._dataset_parts(node)
        return (self.namespace, ".".join(parts)) if self.namespace is not None and parts else None

    def _dataset_parts(self, node: DbtNode) -> list[str]:
        database, schema, identifier = node.relation
        if self.namespace is not None and self.namespace.startswith("duckdb:") and database == "memory":
            # DuckDB names the database after its file, and a manifest may be made without one.
            database = Path(urlsplit(self.namespace).path).stem
        # A placeholder profile calls everything "-", and dbt appends a model's own schema to that.
        if not schema or database == "-" or re.match(r"-(_|$)", schema):
            return []
        # Some warehouses have no database above the schema; OpenLineage leaves the part out, too.
        return [part for part in (database, schema, identifier) if part]


def _check_texts(**values: str | None) -> None:
    for name, value in values.items():
        if value is not None and ("{{" in value or "{%" in value):
            raise ValueError(
                f"{name}={value!r}: the project is the same for all runs, so it cannot be a template; use vars= of the "
                "group or operator for what depends on the run"
            )


def _environment(env: Mapping[str, str] | None) -> dict[str, str]:
    if env is None:
        return {}
    if not isinstance(env, Mapping) or not all(
        isinstance(part, str) for pair in env.items() for part in pair
    ):
        raise TypeError("env must be a mapping of texts to texts, such as {'DBT_SCHEMA': 'marts'}")
    for name in env:
        if name.startswith(SECRETS):
            raise ValueError(f"env has {name!r}: what is written in a DAG is no secret; use profile_conn_id=")
    return dict(env)


def _command(executable: str | Path | None) -> str | None:
    if executable is None:
        return None
    text = str(executable)
    if not text.strip():
        raise ValueError(
            f"executable={text!r}: give the path or name of a dbt, or None for the installed one"
        )
    # A bare name is looked for on the PATH of whoever runs it; a path must not depend on where that is.
    return str(Path(text).expanduser().absolute()) if "/" in text else text


def _namespace(namespace: str | None) -> str | None:
    if namespace is None:
        return None
    if namespace in ("bigquery", "bigquery:", "bigquery://"):
        return "bigquery"
    parts = urlsplit(namespace)
    if parts.username or parts.password:
        raise ValueError("namespace: leave user and password out, it names the warehouse for everybody")
    if not parts.scheme or "://" not in namespace or not (parts.netloc or parts.path.strip("/")):
        raise ValueError(
            f"namespace={namespace!r}: give OpenLineage's name of the warehouse, SCHEME://HOST:PORT or bigquery"
        )
    scheme = "postgres" if parts.scheme == "postgresql" else parts.scheme
    port = f":{PORTS[scheme]}" if scheme in PORTS and parts.port is None else ""
    return f"{scheme}://{parts.netloc.rstrip(':')}{port}{parts.path.rstrip('/')}"


def _escaped(found: re.Match[str]) -> str:
    return quote(found.group(), safe="")
