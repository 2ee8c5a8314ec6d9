"""What DAG authors put into a DAG: dbt, syncs and contracts."""
