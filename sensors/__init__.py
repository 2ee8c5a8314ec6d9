"""What DAG authors wait with."""
