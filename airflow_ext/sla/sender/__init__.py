"""Sends what is in the outbox: each message until it is told, given up, or not worth telling any more.

:func:`airflow_ext.sla.sender.send.send_due` is the whole of it; how a channel is called comes from outside.
"""
