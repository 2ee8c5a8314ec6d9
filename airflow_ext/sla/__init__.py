"""Promises about time: policies, due times and the deadline they become."""

from __future__ import annotations

from airflow_ext.sla.channel import Channel
from airflow_ext.sla.declare import sla
from airflow_ext.sla.escalation import Step
from airflow_ext.sla.event import SlaEvent

__all__ = ["Channel", "SlaEvent", "Step", "sla"]
