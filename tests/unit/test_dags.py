from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import ROOT

FILES = sorted((ROOT / "dags").glob("*.py"))
PROGRAM = """
import sys
from airflow.dag_processing.dagbag import DagBag
from airflow.serialization.serialized_objects import DagSerialization
bag = DagBag(sys.argv[1])
assert not bag.import_errors, bag.import_errors
assert bag.dags, "no DAG"
for dag in bag.dags.values():
    DagSerialization.to_dict(dag)
"""


def test_there_are_dags() -> None:
    assert len(FILES) >= 4


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
@pytest.mark.usefixtures("flights_index")
def test_every_dag_file_loads_and_serializes(file: Path, tmp_path: Path) -> None:
    """In a home without connections, variables or a database: parsing must need none of them."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(file)],
        env={**os.environ, "AIRFLOW_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
