"""The demo: one story on a real local Airflow, told by `make demo`. Not part of the installed package."""
