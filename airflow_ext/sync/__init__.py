"""Sync runs: the backend protocol and the embedded engine; plain Python, no Airflow needed."""
