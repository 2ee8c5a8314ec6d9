"""What tests of triggers share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from airflow_ext.triggers import contract
from tests.unit.contracts.asset_state import AssetStateServer


@pytest.fixture
def server() -> Iterator[AssetStateServer]:
    """The state of assets, as Airflow keeps it; at the end nobody waits any more."""
    with AssetStateServer().serving() as server:
        yield server
    assert all(not board.wanted for board in contract._BOARDS.values())
