"""The monitor: writes down what is expected, judges what is due, and hands what broke to the outbox.

``airflow ext sla monitor`` runs :class:`airflow_ext.sla.monitor.service.Monitor`. It reads Airflow's tables and writes only
its own and one Variable; nothing of it runs in the scheduler.
"""
