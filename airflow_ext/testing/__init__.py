"""Local servers and a local Airflow, for tests, demos and trying things out."""
