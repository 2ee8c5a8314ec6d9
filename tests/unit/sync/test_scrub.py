from __future__ import annotations

import secrets
from urllib.parse import quote

import pytest

from airflow_ext.sync.scrub import scrub


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("cannot reach postgresql://user:{}@db:5432/x", id="URL"),
        pytest.param('connection failed: password="{}" host=db', id="key and value"),
        pytest.param("the server said {}", id="bare, when known"),
    ],
)
def test_no_password_stays_in_a_text(text: str) -> None:
    secret = secrets.token_urlsafe(12) + "/@ %"
    for form in (secret, quote(secret, safe="")):
        cleaned = scrub(text.format(form), [secret])
        assert form not in cleaned
        assert "***" in cleaned


def test_a_url_is_cleaned_even_if_its_password_is_not_known() -> None:
    assert scrub("mysql+pymysql://me:hunter2@db/x failed") == "mysql+pymysql://me:***@db/x failed"


def test_an_ordinary_message_stays_as_it_is() -> None:
    text = 'relation "flights" does not exist at 12:00:01, see https://docs.example.org/a@b'
    assert scrub(text, ["", "a"]) == text
