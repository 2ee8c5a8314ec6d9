"""Dataset contracts: the model, the judge and the verdict store; plain Python, no Airflow needed."""

from __future__ import annotations

from airflow_ext.contracts.model import Contract
from airflow_ext.contracts.ranges import ContractRange
from airflow_ext.contracts.tables import Column, Table
from airflow_ext.contracts.verdict import Reason, RunReference, Status, Verdict

__all__ = ["Column", "Contract", "ContractRange", "Reason", "RunReference", "Status", "Table", "Verdict"]
