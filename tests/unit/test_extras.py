from __future__ import annotations

import pytest

from airflow_ext.exceptions import MissingExtraError
from airflow_ext.extras import require


@pytest.mark.parametrize("module", ["no_such_library", "no_such_library.part", "dbt.no_such_part"])
def test_a_missing_library_is_told_with_the_command_that_installs_it(module: str) -> None:
    with pytest.raises(MissingExtraError, match=r"pip install 'airflow-ext\[dbt\]'") as caught:
        require(module, extra="dbt")
    assert caught.value.extra == "dbt"


def test_a_library_that_is_there_is_fine() -> None:
    require("dbt.cli", extra="dbt")
    require("hvac", extra="vault")
