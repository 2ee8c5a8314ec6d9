"""Pages that the plugin adds to Airflow's api-server, and the links to them."""
