"""Channels are written as strings and JSON, and hold no secrets."""

from __future__ import annotations

import secrets
from typing import Any

import pytest

from airflow_ext.exceptions import InvalidError
from airflow_ext.sla.channel import Channel, channels_from_json, channels_to_json, check_path
from airflow_ext.sla.event import SlaEvent

SMTP = "airflow.providers.smtp.notifications.smtp.SmtpNotifier"


def test_survives_its_own_json() -> None:
    channels = [Channel(SMTP, smtp_conn_id="mail", to=["a@x", "b@x"]), Channel("a.B")]
    assert channels_from_json(channels_to_json(channels)) == channels
    assert len({*channels, Channel("a.B")}) == 2


def test_label_is_the_class() -> None:
    assert Channel(SMTP).label == "SmtpNotifier"


@pytest.mark.parametrize("name", ["password", "slack_token", "api_key", "integration_key", "Authorization"])
def test_arguments_that_look_like_secrets_are_refused_and_not_shown(name: str) -> None:
    value = secrets.token_hex()
    with pytest.raises(InvalidError, match="connection") as caught:
        Channel(SMTP, **{name: value})
    assert value not in str(caught.value)


def test_repr_shows_no_values() -> None:
    assert repr(Channel(SMTP, to="me@example.com")) == f"Channel({SMTP!r}, to=...)"


@pytest.mark.parametrize(
    ("path", "error", "words"),
    [
        pytest.param("SmtpNotifier", InvalidError, "not a full path", id="no-module"),
        pytest.param("a b.C", InvalidError, "not a full path", id="blank"),
        pytest.param("a..C", InvalidError, "not a full path", id="empty-part"),
        pytest.param(SlaEvent, TypeError, "'airflow_ext.sla.event.SlaEvent'", id="class"),
        pytest.param(lambda: None, TypeError, "must be a string", id="lambda"),
    ],
)
def test_paths(path: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        check_path("notifier", path)


def test_context_is_not_theirs() -> None:
    with pytest.raises(InvalidError, match="context"):
        Channel(SMTP, context={})


def test_arguments_must_survive_json() -> None:
    with pytest.raises(TypeError, match="to=") as caught:
        Channel(SMTP, to={"a"})
    assert "is a set" in str(caught.value)
