"""Dataset contracts: the model, the judge and the verdict store; plain Python, no Airflow needed."""
