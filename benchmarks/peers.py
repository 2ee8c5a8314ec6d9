"""Environments for what we compare with, apart from ours: their requirements need not fit."""

from __future__ import annotations

import hashlib
import importlib.metadata
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

FOLDER = Path(__file__).parents[1] / ".cache" / "peers"


def peer_python(name: str, requirements: Sequence[str], *, airflow: bool = True) -> Path:
    """Return the interpreter of an environment with our version of Airflow and some packages.

    It is made once per list of requirements.

    :param name: Name of the environment.
    :param requirements: Requirements as pip takes them.
    :param airflow: Whether our version of Airflow is in it.
    :raises subprocess.CalledProcessError: If they cannot be installed.
    """
    ours = [f"apache-airflow=={importlib.metadata.version('apache-airflow')}"] if airflow else []
    wanted = [*ours, *requirements]
    key = hashlib.sha256("\n".join(wanted).encode()).hexdigest()[:8]
    folder = FOLDER / f"{name}-{key}"
    ready = folder / ".ready"
    if not ready.exists():
        uv = Path(sys.executable).with_name("uv")
        subprocess.run(
            [uv, "venv", "--quiet", "--clear", "--python", sys.executable, folder], check=True, timeout=120
        )
        subprocess.run(
            [uv, "pip", "install", "--quiet", "--python", folder / "bin" / "python", *wanted],
            check=True,
            timeout=900,
        )
        ready.touch()
    return folder / "bin" / "python"
