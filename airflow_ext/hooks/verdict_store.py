"""The verdict store of this Airflow."""

from __future__ import annotations

from airflow.sdk.execution_time.context import AssetStateStoreAccessor

from airflow_ext.contracts.store import AssetVerdictStore


def verdict_store() -> AssetVerdictStore:
    """Return the store that keeps verdicts in the state of the contracts' assets.

    It works in tasks and, by its ``a...`` methods, in triggers. An asset has state only while a parsed
    DAG names it as inlet, outlet or schedule.
    """
    return AssetVerdictStore(lambda name: AssetStateStoreAccessor(name=name))
