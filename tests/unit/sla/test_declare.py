"""What ``sla()`` gives to Airflow, through Airflow's own serialization and back."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from airflow.sdk import DAG
from airflow.serialization.encoders import encode_deadline_alert

from airflow_ext.exceptions import InvalidError
from airflow_ext.sla import Channel, sla
from airflow_ext.sla.reference import SlaDeadline

MAIL = Channel("airflow.providers.smtp.notifications.smtp.SmtpNotifier", smtp_conn_id="mail", to="ops@x")


def test_it_is_a_deadline_alert_with_flat_arguments() -> None:
    alert = sla(
        by="06:00",
        tz="Europe/Berlin",
        grace=timedelta(minutes=5),
        owner="a",
        severity="page",
        channels=[MAIL],
    )
    assert alert.name == "by-0600-Europe-Berlin"
    assert alert.interval == timedelta(minutes=5)
    assert alert.callback.path == "airflow_ext.notifications.sla.tell_missed_sla"
    assert not [value for value in alert.callback.kwargs.values() if isinstance(value, (dict, list))]
    assert alert.callback.kwargs["owner"] == "a"


def test_a_dag_takes_one_or_a_list() -> None:
    early, late = sla(by="06:00", tz="UTC", channels=[MAIL]), sla(within=timedelta(1), callback="a.b")
    assert DAG("one", deadline=early, schedule=None).deadline == [early]
    assert DAG("two", deadline=[early, late], schedule=None).deadline == [early, late]


def test_encoded_by_airflow_it_names_the_class_the_plugin_registers() -> None:
    encoded = json.loads(json.dumps(encode_deadline_alert(sla(by="06:00", tz="UTC", channels=[MAIL]))))
    reference = encoded["reference"]
    assert reference["__class_path"] == "airflow_ext.sla.reference.SlaDeadline"
    assert SlaDeadline.deserialize_reference(reference).serialize_reference().items() <= reference.items()


def test_references_compare_and_hash() -> None:
    one, same = (sla(by="06:00", tz="UTC", channels=[MAIL]).reference for _ in range(2))
    other = sla(by="07:00", tz="UTC", channels=[MAIL]).reference
    assert one == same
    assert hash(one) == hash(same)
    assert one != other


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        pytest.param({}, InvalidError, "tell nobody", id="nobody"),
        pytest.param({"channels": MAIL}, TypeError, r"channels=\[Channel", id="not-a-list"),
        pytest.param({"channels": "a.B"}, TypeError, r"channels=\[Channel", id="text"),
        pytest.param({"channels": ["a.B"]}, TypeError, "every item is a Channel", id="list-of-text"),
        pytest.param({"callback": "nowhere"}, InvalidError, "callback='nowhere'", id="callback-no-path"),
        pytest.param({"callback": print}, TypeError, "'builtins.print'", id="callback-function"),
    ],
)
def test_what_is_refused(arguments: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        sla(by="06:00", tz="UTC", **arguments)
