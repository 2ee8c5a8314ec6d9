"""What a policy about data names: an asset, or the asset that stands for a contract."""

from __future__ import annotations

import re
from typing import Any

from airflow_ext.contracts.model import Contract
from airflow_ext.contracts.ranges import ContractRange, asset_name
from airflow_ext.exceptions import InvalidError

_CONTRACT = re.compile(r"contract/(.+)/v(\d+)")


def read_asset(asset: Any) -> tuple[str, str]:
    """Return name and URI of an asset given as ``Asset``, ``Asset.ref(...)`` or by its name.

    :raises TypeError: If it is none of them.
    """
    if isinstance(asset, str) and asset:
        return asset, ""
    name, uri = (getattr(asset, field, None) for field in ("name", "uri"))
    if isinstance(name, str) or isinstance(uri, str):
        return name or "", uri or ""
    raise TypeError(f"asset={asset!r} must be an Asset or the name of one")


def read_contract(contract: Any) -> tuple[str, str]:
    """Return name and URI of the asset that gets an event each time the contract is found to hold.

    :param contract: A :class:`~airflow_ext.contracts.Contract`, or a range of one major version: ``"orders>=1,<2"``.
    :raises TypeError: If it is neither.
    :raises InvalidError: If the range spans several major versions.
    """
    if isinstance(contract, Contract):
        return asset_name(contract.id, contract.major), ""
    found = ContractRange.parse(contract)
    if len(found.majors) != 1:
        raise InvalidError(
            f"contract={contract!r} spans major versions {', '.join(map(str, found.majors))}: "
            "an sla() is about one, write one for each"
        )
    return asset_name(found.id, found.majors[0]), ""


def contract_name(asset: str) -> str:
    """Return ``orders v2`` for the asset that stands for that contract, an empty string for any other asset."""
    match = _CONTRACT.fullmatch(asset)
    return f"{match[1]} v{match[2]}" if match else ""
