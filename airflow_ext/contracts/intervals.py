"""Which partitions a consumer waits for: one, the newest, or all inside an interval."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from airflow_ext.contracts.partition import PartitionRule, key_of_run, partitions_of_events
from airflow_ext.contracts.terms import LATEST
from airflow_ext.exceptions import InvalidError

RUN = "run"
_COARSE = {
    r"\d{4}": "%Y",
    r"\d{4}-\d{2}": "%Y-%m",
    r"\d{4}-\d{2}-\d{2}": "%Y-%m-%d",
    r"\d{4}-\d{2}-\d{2}T\d{2}": "%Y-%m-%dT%H",
    r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}": "%Y-%m-%dT%H:%M",
}


@dataclass(frozen=True)
class Asked:
    """Partitions that a consumer asks for.

    :param several: Whether the answer is about many.
    :param derived: Whether points in time were turned into keys, so that the publisher's zone matters.
    """

    partitions: tuple[str, ...]
    several: bool = False
    derived: bool = False


def asked(
    rule: PartitionRule,
    context: Mapping[str, Any],
    *,
    contract: str,
    partition: str | None,
    interval: str | None,
) -> Asked:
    """Return the partitions that a run asks for.

    :param rule: How keys are written.
    :param context: The task's context.
    :param contract: Id of the contract, to find its events among those that started the run.
    :param partition: A key, ``latest``, or ``None`` for that of the run: its partition key, else the start of
        its data interval, else the partitions its triggering events are about.
    :param interval: ``run``, a span such as ``2013-01-05`` or ``2013-01``, or ``<start>/<end>`` in ISO 8601.
    :raises ValueError: If nothing tells the partition, or it does not fit.
    """
    if interval is not None:
        start, end = _bounds(rule, context, interval)
        return Asked(rule.keys_within(start, end), several=True, derived=start.tzinfo is not None)
    if partition == LATEST:
        return Asked((LATEST,))
    if partition is None and key_of_run(context) is None and context.get("data_interval_start") is None:
        own = [rule.check(rule.cut(key)) for key in partitions_of_events(context, contract)]
        if own:
            return Asked(tuple(dict.fromkeys(own)), several=len(set(own)) > 1)
    return Asked((rule.key_for(context, partition),), derived=rule.derives(context, partition))


def _bounds(rule: PartitionRule, context: Mapping[str, Any], interval: str) -> tuple[datetime, datetime]:
    if interval == RUN:
        start, end = context.get("data_interval_start"), context.get("data_interval_end")
        if start is not None and end is not None and start < end:
            return start, end
        key = key_of_run(context)
        if key is None:
            raise InvalidError(
                "interval='run': this run has neither a data interval nor a partition key. A plain cron schedule has "
                "none in Airflow 3: use schedule=CronDataIntervalTimetable('@daily', timezone='UTC') or [scheduler] "
                "create_cron_data_intervals, or give a span such as interval=\"{{ dag_run.conf['day'] }}\""
            )
        interval = key
    first, slash, second = interval.partition("/")
    if slash:
        try:
            return datetime.fromisoformat(first), datetime.fromisoformat(second)
        except ValueError:
            pass
    for pattern, form in _COARSE.items():
        if re.fullmatch(pattern, interval, re.ASCII):
            try:
                start, end = PartitionRule(form, rule.timezone).bounds(interval)
            except ValueError:
                break
            return start, end
    raise InvalidError(
        f"interval={interval[:80]!r}: expected 'run', a span such as '2013-01-05' or '2013-01', or "
        "'<start>/<end>' in ISO 8601"
    )
