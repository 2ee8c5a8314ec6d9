"""What DAG authors write over a function: ``@task.contract_publish``."""
