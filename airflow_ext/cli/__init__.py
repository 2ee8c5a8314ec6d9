"""The commands airflow-ext and airflow ext."""
