"""The built wheel, alone, in an environment with plain Airflow and nothing else of ours."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.paths import ROOT

pytestmark = pytest.mark.timeout(600)
UV = str(Path(sys.executable).with_name("uv"))

PLAIN_DAG = """
from airflow.sdk import DAG, task
with DAG("plain", schedule="@daily"):
    @task
    def one(): return 1
    one()
"""
SERIALIZE = """
import json, sys
from airflow.dag_processing.dagbag import DagBag
from airflow.serialization.serialized_objects import DagSerialization
dag = DagBag(sys.argv[1]).dags["plain"]
print(json.dumps(DagSerialization.to_dict(dag), sort_keys=True, default=str))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build from a copy of the tracked tree, so that nothing of this folder leaks in."""
    source, out = tmp_path_factory.mktemp("source") / "tree", tmp_path_factory.mktemp("wheel")
    names = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in filter(None, names.stdout.decode().split("\0")):
        if (ROOT / name).exists() or (ROOT / name).is_symlink():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, source / name, follow_symlinks=False)
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(source)],
        check=True,
        capture_output=True,
    )
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with Airflow as the lock has it and none of our extras."""
    home = tmp_path_factory.mktemp("plain")
    subprocess.run([sys.executable, "-m", "venv", str(home / "venv")], check=True)
    pins = home / "constraints.txt"
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    pins.write_text("\n".join(line.rstrip(" \\") for line in lines if line and line[0].isalnum()))
    _install(home, "apache-airflow", "--constraint", str(pins))
    return home


def _install(home: Path, *words: str) -> None:
    subprocess.run(
        [UV, "pip", "install", "--quiet", "--python", str(home / "venv/bin/python"), *words],
        check=True,
        capture_output=True,
    )


def _run(home: Path, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "PYTHON"))
    }
    environment |= {
        "AIRFLOW_HOME": str(home / "airflow"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "COLUMNS": "250",
    }
    done = subprocess.run(
        [str(home / "venv/bin" / words[0]), *words[1:]],
        cwd=home,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
    )
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def test_the_wheel_holds_the_packages_and_nothing_top_level(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert "airflow_ext/operators/__init__.py" in names
    assert "airflow_ext/sensors/__init__.py" in names
    assert "airflow_ext/py.typed" in names
    assert {name.split("/")[0] for name in names} == {
        "airflow_ext",
        f"{wheel.name.split('-py3')[0]}.dist-info",
    }


def test_installing_the_wheel_into_a_plain_airflow_just_works(wheel: Path, plain: Path) -> None:
    """Provider and plugin are found, ``airflow db migrate`` works, and a DAG that does not use us stays as it was."""
    dags = plain / "dags"
    dags.mkdir()
    (dags / "plain.py").write_text(PLAIN_DAG)
    _run(plain, "airflow", "db", "migrate")
    before = _run(plain, "python", "-c", SERIALIZE, str(dags)).stdout.splitlines()[-1]

    _install(plain, "--no-deps", str(wheel))
    pins = plain / "constraints.txt"
    _install(plain, str(wheel), "--constraint", str(pins))  # its own requirements

    _run(plain, "airflow", "db", "migrate")
    assert "airflow-ext" in _run(plain, "airflow", "providers", "list").stdout
    assert "airflow_ext" in _run(plain, "airflow", "plugins").stdout
    assert _run(plain, "python", "-c", SERIALIZE, str(dags)).stdout.splitlines()[-1] == before
    _run(plain, "python", "-c", "import airflow_ext.operators, airflow_ext.sensors")
    assert _run(plain, "python", "-c", "import operators", check=False).returncode != 0
    doctor = _run(plain, "airflow-ext", "doctor", check=False)
    assert doctor.returncode in {0, 1}, doctor.stdout + doctor.stderr
    assert "Traceback" not in doctor.stdout + doctor.stderr
    assert _run(plain, "airflow", "ext", "doctor", "--help").stdout


def test_what_needs_an_extra_says_so(wheel: Path, plain: Path) -> None:
    """Without the extras the classes import, and using one names the extra to install."""
    assert wheel.exists()
    for module in (
        "operators.dbt",
        "operators.sync",
        "operators.contract",
        "sensors.contract",
        "sla",
        "contracts",
    ):
        _run(plain, "python", "-c", f"import airflow_ext.{module}")
    lookup = "from airflow_ext.secrets.vault import VaultBackend as B; B(token='x').get_conn_value('a')"
    assert "pip install 'airflow-ext[vault]'" in _run(plain, "python", "-c", lookup, check=False).stderr
    index = _run(plain, "airflow-ext", "dbt", "index", str(ROOT / "dags/dbt/flights"), check=False)
    assert index.returncode == 1
    assert "pip install 'airflow-ext[dbt]'" in index.stderr
    assert "Traceback" not in index.stderr
