"""Data promises for Apache Airflow 3: dbt, syncs, Vault-backed connections, contracts and SLAs.

Importing this package imports nothing of Airflow: provider discovery loads it while Airflow's own
configuration is still being built.
"""

__version__ = "0.1.0"
