"""Make dbt projects of any size, the same ones each time, for PostgreSQL.

Counting is done with sequences: what ``nextval`` took stays taken when a model's transaction is rolled back, so
that attempts are seen, too.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from airflow_ext.cli.dbt import index
from airflow_ext.testing.postgres import LocalPostgres

TARGETS = ("bash", "group", "cosmos")
"""Targets of the profile: one schema each, so that nobody builds into another's tables."""

PASSWORD_VARIABLE = "DBT_ENV_SECRET_BENCH_PASSWORD"  # noqa: S105  # the name of a variable
PORT_VARIABLE = "BENCH_WAREHOUSE_PORT"
THREADS = 4
PARENTS = 3


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What a generated project looks like.

    :param name: Name of the project, of its folder and of its database.
    :param models: Number of models.
    :param layers: Layers; each model reads up to three of the layer before.
    :param tests: Whether each model has two tests, ``unique`` and ``not_null``.
    :param folders: Folders below ``models``; 0 puts all models beside each other.
    :param materialized: How dbt builds a model.
    :param seconds: Seconds that the warehouse takes for a model.
    :param audited: Count attempts and builds of models, and attempts of one test per model, in the warehouse.
    :param flaky: Number of the model whose first attempt fails; ``None`` means that none does.
    """

    name: str
    models: int
    layers: int = 8
    tests: bool = True
    folders: int = 0
    materialized: str = "table"
    seconds: float = 0.0
    audited: bool = False
    flaky: int | None = None

    def layer(self, number: int) -> int:
        """Return the layer of a model, both from 0."""
        return number * self.layers // self.models


def model_name(number: int) -> str:
    """Return the name of a model by its number, from 0."""
    return f"m{number:05d}"


def generate(shape: Shape, folder: Path) -> Path:
    """Write a project, make its manifest and return its folder.

    :param shape: What to write.
    :param folder: Where its folder is made, anew.
    """
    project = folder / shape.name
    shutil.rmtree(project, ignore_errors=True)
    (project / "models").mkdir(parents=True)
    (project / "dbt_project.yml").write_text(_project_yml(shape), encoding="utf-8")
    (project / "profiles.yml").write_text(_profiles_yml(shape), encoding="utf-8")
    layers: dict[int, list[int]] = {}
    for number in range(shape.models):
        layers.setdefault(shape.layer(number), []).append(number)
        above = layers.get(shape.layer(number) - 1, [])
        parents = {above[(number * 7 + step * 3) % len(above)] for step in range(PARENTS)} if above else set()
        place = project / "models"
        if shape.folders:
            place /= f"area_{number * shape.folders // shape.models:03d}"
            place.mkdir(exist_ok=True)
        (place / f"{model_name(number)}.sql").write_text(
            _model(shape, number, sorted(parents)), encoding="utf-8"
        )
    if shape.tests:
        (project / "models" / "schema.yml").write_text(_schema_yml(shape), encoding="utf-8")
    if shape.audited:
        (project / "tests").mkdir()
        for number in range(shape.models):
            test = f"t{number:05d}.sql"
            (project / "tests" / test).write_text(_counting_test(number), encoding="utf-8")
    index(project, adapter="postgres")
    return project


def prepare_warehouse(shape: Shape, server: LocalPostgres) -> None:
    """Make an empty database for a project, with what its counting needs."""
    server.execute(f'DROP DATABASE IF EXISTS "{shape.name}" WITH (FORCE)')
    server.create_database(shape.name)
    if not shape.audited:
        return
    made = ["CREATE TABLE built (model text, at timestamptz)"]
    for number in range(shape.models):
        made += [f"CREATE SEQUENCE tried_{number}", f"CREATE SEQUENCE tried_test_{number}"]
    server.execute(";".join(made), database=shape.name)


def empty_counts(shape: Shape, server: LocalPostgres) -> None:
    """Forget attempts and builds, so that the next run is counted alone."""
    reset = ["TRUNCATE built"]
    for number in range(shape.models):
        reset += [f"ALTER SEQUENCE tried_{number} RESTART", f"ALTER SEQUENCE tried_test_{number} RESTART"]
    server.execute(";".join(reset), database=shape.name)


def attempts(shape: Shape, server: LocalPostgres, *, of: str = "tried") -> dict[int, int]:
    """Return how often each model was begun, by its number.

    :param of: ``tried`` for models, ``tried_test`` for their tests.
    """
    counted = " UNION ALL ".join(
        f"SELECT {number}, CASE WHEN is_called THEN last_value ELSE 0 END FROM {of}_{number}"
        for number in range(shape.models)
    )
    return {int(number): int(count) for number, count in server.execute(counted, database=shape.name)}


def builds(shape: Shape, server: LocalPostgres) -> dict[str, list[float]]:
    """Return when each model was built and committed, as seconds of the epoch by its name."""
    rows = server.execute("SELECT model, extract(epoch FROM at) FROM built ORDER BY at", database=shape.name)
    found: dict[str, list[float]] = {}
    for model, at in rows:
        found.setdefault(model, []).append(float(at))
    return found


def _project_yml(shape: Shape) -> str:
    lines = [
        f"name: {shape.name}",
        'version: "1.0"',
        "profile: bench",
        "models:",
        f"  {shape.name}:",
        f"    +materialized: {shape.materialized}",
    ]
    return "\n".join(lines) + "\n"


def _profiles_yml(shape: Shape) -> str:
    lines = ["bench:", "  target: group", "  outputs:"]
    for target in TARGETS:
        lines += [
            f"    {target}:",
            "      type: postgres",
            "      host: 127.0.0.1",
            f"      port: \"{{{{ env_var('{PORT_VARIABLE}') | as_number }}}}\"",
            "      user: postgres",
            f"      password: \"{{{{ env_var('{PASSWORD_VARIABLE}') }}}}\"",
            f"      dbname: {shape.name}",
            f"      schema: {target}",
            f"      threads: {THREADS}",
        ]
    return "\n".join(lines) + "\n"


def _model(shape: Shape, number: int, parents: list[int]) -> str:
    name = model_name(number)
    head = ""
    if shape.audited:
        # The first is taken whatever follows; the second is there only if the model's transaction was committed.
        head = (
            "{{ config(\n"
            f"    pre_hook=\"select nextval('public.tried_{number}')\",\n"
            f"    post_hook=\"insert into public.built values ('{name}', clock_timestamp())\"\n"
            ") }}\n"
        )
    columns = ["id", f"'{name}' as made_by"]
    if number == shape.flaky:
        columns.append(
            f"1 / (case when (select last_value from public.tried_{number}) > 1 then 1 else 0 end) as flaky"
        )
    if parents:
        inputs = "\n    union\n".join(
            f"    select id from {{{{ ref('{model_name(one)}') }}}}" for one in parents
        )
    else:
        inputs = "    select id from generate_series(1, 10) as numbers (id)"
    waiting = f"\ncross join (select pg_sleep({shape.seconds})) as waiting" if shape.seconds else ""
    return f"{head}select {', '.join(columns)}\nfrom (\n{inputs}\n) as inputs{waiting}\n"


def _counting_test(number: int) -> str:
    return (
        f"-- depends_on: {{{{ ref('{model_name(number)}') }}}}\n"
        f"select * from (select nextval('public.tried_test_{number}') as attempt) as counted where attempt < 0\n"
    )


def _schema_yml(shape: Shape) -> str:
    lines = ["version: 2", "models:"]
    for number in range(shape.models):
        lines += [
            f"  - name: {model_name(number)}",
            f"    description: Model {number} in layer {shape.layer(number)}",
            "    columns:",
            "      - name: id",
            "        data_tests: [unique, not_null]",
        ]
    return "\n".join(lines) + "\n"
