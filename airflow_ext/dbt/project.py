"""A dbt project as a DAG author names it."""

from __future__ import annotations

import shlex
from pathlib import Path

from airflow_ext.dbt.index import DbtIndex, load_index
from airflow_ext.dbt.manifest import read_index


class DbtProject:
    """Where a dbt project is and how it reaches its warehouse.

    Making one reads nothing. The manifest that draws the DAG is a file of its own which no run ever
    writes: ``airflow-ext dbt index`` makes it, in CI or when the project is deployed.

    :param project_dir: Folder with ``dbt_project.yml``.
    :param manifest: The manifest that draws the DAG; ``None`` means ``target/manifest.json`` in the folder.
    :param profile_conn_id: Airflow connection (type ``postgres`` or ``duckdb``) to build with. Its secrets
        reach dbt through its environment only.
    :param profiles_dir: Folder with your own ``profiles.yml``, used instead of a connection; ``None``
        with no connection means the project's folder.
    :param target: Target of the profile; ``None`` means the profile's default, or ``airflow`` with a connection.
    :param schema: Schema to build into with a connection; ``None`` means ``public`` (PostgreSQL) or ``main``
        (DuckDB). Your own profiles name theirs.
    :raises ValueError: If both a connection and a profiles folder are given, or a schema without a connection.
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
    ) -> None:
        if profile_conn_id is not None and profiles_dir is not None:
            raise ValueError(
                f"profile_conn_id={profile_conn_id!r} and profiles_dir={str(profiles_dir)!r}: "
                "give the one or the other"
            )
        if schema is not None and profile_conn_id is None:
            raise ValueError(f"schema={schema!r}: only with profile_conn_id=, a profiles.yml names its own")
        self.project_dir = Path(project_dir).absolute()
        self.manifest = (
            Path(manifest).absolute() if manifest else self.project_dir / "target" / "manifest.json"
        )
        self.profile_conn_id = profile_conn_id
        self.profiles_dir = Path(profiles_dir).absolute() if profiles_dir else self.project_dir
        self.target = target
        self.schema = schema

    def __repr__(self) -> str:
        return f"DbtProject(project_dir={str(self.project_dir)!r})"

    @property
    def remedy(self) -> str:
        """The command that makes the manifest of this project."""
        command = ["airflow-ext", "dbt", "index", str(self.project_dir)]
        if self.profile_conn_id is None and self.profiles_dir != self.project_dir:
            command += ["--profiles-dir", str(self.profiles_dir)]
        if self.target is not None:
            command += ["--target", self.target]
        if self.manifest != self.project_dir / "target" / "manifest.json":
            command += ["--out", str(self.manifest)]
        if self.profile_conn_id is None or (self.project_dir / "profiles.yml").is_file():
            return shlex.join(command)
        return f"{shlex.join(command)} --adapter ADAPTER"

    def index(self) -> DbtIndex:
        """Return the project's graph; a few milliseconds once it is cached.

        :raises InvalidProjectError: If there is no usable manifest; the message names the command that
            makes one.
        """
        return load_index(self.manifest, read=read_index, remedy=self.remedy)
