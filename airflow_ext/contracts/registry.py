"""A folder of contract files as the list of all that exist, to tell a contract nobody has from one not yet published."""

from __future__ import annotations

import difflib
from pathlib import Path

from airflow_ext.contracts.model import Contract
from airflow_ext.contracts.ranges import ContractRange
from airflow_ext.contracts.verdict import Status
from airflow_ext.contracts.waiting import Seen

_NAMED = 3


def missing(wanted: ContractRange, folder: str | Path) -> Seen | None:
    """Say why nothing will ever be published, as far as a folder tells; ``None`` if it has such a contract.

    :param folder: Contract files, as :meth:`Contract.from_folder` reads them.
    :raises InvalidContractError: If the folder is not there, or a file of it cannot be used.
    """
    contracts = Contract.from_folder(folder)
    mine = [contract for contract in contracts if contract.id == wanted.id]
    if not mine:
        near = difflib.get_close_matches(wanted.id, {contract.id for contract in contracts}, n=_NAMED)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        return Seen(Status.UNKNOWN_CONTRACT, detail=f"no contract {wanted.id!r} in {folder}{hint}")
    if any(contract.version in wanted for contract in mine):
        return None
    found = ", ".join(contract.version for contract in mine)
    newest = mine[-1]
    return Seen(
        Status.VERSION_MISMATCH,
        detail=f"{folder} has version {found}",
        owner=newest.owner,
        support=newest.support,
    )
