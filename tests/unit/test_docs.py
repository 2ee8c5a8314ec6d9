"""Every ```python block of a page runs, top to bottom, as one program."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if page.exists() and BLOCK.search(page.read_text())],
    ids=lambda page: page.stem,
)
@pytest.mark.usefixtures("flights_index")
def test_code_blocks_run(page: Path, tmp_path: Path) -> None:
    (tmp_path / "dags").symlink_to(ROOT / "dags")
    program = tmp_path / "page.py"
    program.write_text("\n\n".join(BLOCK.findall(page.read_text())))
    environment = {**os.environ, "AIRFLOW_HOME": str(tmp_path / "airflow"), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, str(program)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_names_no_machine(page: Path) -> None:
    assert not re.search(r"/(work|root|home/\w+)/", page.read_text())
