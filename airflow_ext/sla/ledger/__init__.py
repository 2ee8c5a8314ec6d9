"""The ledger: what was promised, what came of it, who was told, in tables of the metadata database.

``airflow db migrate`` makes and upgrades them, because provider info names
:class:`airflow_ext.sla.ledger.manager.LedgerManager` under ``db-managers``. Only the monitor, the commands and
the page touch them; tasks never do. :mod:`airflow_ext.sla.ledger.models` says what each table holds.
"""
