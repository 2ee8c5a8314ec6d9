"""A backend whose module is what a program imports first."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys

CLASS = "airflow_ext.secrets.vault.VaultBackend"


def test_the_configured_backend_may_be_the_first_import_of_all() -> None:
    code = (
        "import airflow_ext.secrets.vault, airflow.configuration as c;"
        " print(type(c.secrets_backend_list[0]).__name__)"
    )
    environment = {**os.environ, "AIRFLOW__SECRETS__BACKEND": CLASS, "VAULT_TOKEN": secrets.token_hex()}
    ran = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == ["VaultBackend"]
