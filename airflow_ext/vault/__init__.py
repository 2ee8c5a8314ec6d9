"""A cached client for Vault-compatible servers; plain Python, no Airflow needed."""
