"""A cached client for Vault-compatible servers; plain Python, no Airflow needed."""

from __future__ import annotations

from airflow_ext.vault.cache import Document
from airflow_ext.vault.check import VaultCheck
from airflow_ext.vault.client import VaultClient
from airflow_ext.vault.reading import Reading
from airflow_ext.vault.settings import BreakerPolicy, CachePolicy, Timeouts, VaultSettings

__all__ = [
    "BreakerPolicy",
    "CachePolicy",
    "Document",
    "Reading",
    "Timeouts",
    "VaultCheck",
    "VaultClient",
    "VaultSettings",
]
