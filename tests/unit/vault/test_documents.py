"""What documents mean, and what in them must never be seen."""

from __future__ import annotations

import json
from typing import Any

import pytest

from airflow_ext.exceptions import InvalidError
from airflow_ext.vault import Document
from airflow_ext.vault.documents import connection_value, plain_value, secret_texts


def _document(**data: Any) -> Document:
    return Document("secret/connections/x", data)


def test_a_uri_is_returned_as_it_is() -> None:
    uri = "postgres://me:p%40ss@db:5432/app?sslmode=require"
    assert connection_value(_document(conn_uri=uri)) == uri


def test_fields_are_returned_as_json() -> None:
    fields = {"conn_type": "postgres", "host": "db", "port": 5432, "extra": {"sslmode": "require"}}
    assert json.loads(connection_value(_document(**fields))) == fields


def test_an_id_in_the_document_does_not_get_in_the_way() -> None:
    value = connection_value(_document(conn_id="x", conn_type="http", host="db"))
    assert json.loads(value) == {"conn_type": "http", "host": "db"}


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ({}, "is empty"),
        ({"host": ""}, "is empty"),
        ({"hots": "db-canary"}, r"has keys no connection has \(hots\)"),
        ({"conn_type": "x", "port": "canary"}, "port of .* is no number"),
        ({"conn_type": "x", "extra": "{canary"}, "extra of .* is text that is no JSON"),
        ({"conn_type": "x", "extra": ["canary"]}, "extra of .* must be an object, not list"),
        ({"conn_type": "x", "host": {"canary": "canary"}}, "host of .* must be text, not dict"),
        ({"conn_uri": "postgres://me:can/ary@db:5432/app"}, "conn_uri of .* is no connection URI"),
        ({"conn_uri": "canary"}, "conn_uri of .* is no connection URI"),
        ({"conn_uri": 123456}, "conn_uri of .* is no connection URI"),
    ],
    ids=[
        "nothing",
        "only empty",
        "typo",
        "port",
        "extra text",
        "extra list",
        "host",
        "slash",
        "no uri",
        "number",
    ],
)
def test_a_malformed_document_is_explained_without_its_values(data: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidError, match=told) as raised:
        connection_value(Document("secret/connections/x", data))
    assert "secret/connections/x" in str(raised.value)
    assert "canary" not in str(raised.value)
    assert raised.value.__cause__ is None


def test_a_plain_value_is_text() -> None:
    assert plain_value(_document(value="a")) == "a"
    assert json.loads(plain_value(_document(value={"a": 1}))) == {"a": 1}
    with pytest.raises(InvalidError, match="has no key 'value'"):
        plain_value(_document(val="a"))


@pytest.mark.parametrize(
    ("data", "masked"),
    [
        ({"password": "p@ss word/1"}, ["p@ss word/1", "p%40ss%20word%2F1", "p%40ss+word%2F1"]),
        ({"password": 'quo"ted'}, ['quo"ted', 'quo\\"ted']),
        ({"password": "pässwörd"}, ["pässwörd", "p%C3%A4ssw%C3%B6rd", "p\\u00e4ssw\\u00f6rd"]),
        ({"conn_uri": "pg://me:p%40ss1@db/x"}, ["pg://me:p%40ss1@db/x", "p%40ss1", "p@ss1"]),
        ({"conn_uri": "pg://me:p@ss1@db/x"}, ["p@ss1"]),
        ({"conn_uri": "pg://me:pa/ss1@db/x"}, ["pa/ss1"]),
        ({"conn_uri": "pg://me@db/x?token=abc%2Fdef"}, ["abc/def", "abc%2Fdef"]),
        ({"extra": {"deep": {"list": ["in-a-list"], "number": 1234567}}}, ["in-a-list", "1234567"]),
        ({"extra": '{"api_key": "in-json"}'}, ["in-json", '{"api_key": "in-json"}']),
        ({"key": "-----BEGIN KEY-----\nMIIEvQIBADANBgkqhki\n-----END KEY-----"}, ["MIIEvQIBADANBgkqhki"]),
        ({"login": "someone"}, ["someone"]),
    ],
    ids=["special", "quotes", "unicode", "uri", "at", "slash", "query", "nested", "json", "key", "login"],
)
def test_every_leaf_is_masked_in_the_forms_it_may_be_written(data: dict[str, Any], masked: list[str]) -> None:
    assert set(masked) <= set(secret_texts(_document(**data)))


def test_what_would_blot_out_every_log_is_not_masked() -> None:
    data = {
        "conn_type": "postgres",
        "host": "localhost",
        "port": 54321,
        "schema": "public",
        "password": "four",
    }
    assert secret_texts(_document(**data, login="", extra={"a": "", "b": True, "c": None})) == []
