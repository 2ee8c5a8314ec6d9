from __future__ import annotations

import json
import pickle
import secrets
from typing import Any

import pytest
from airflow.sdk import Connection

from airflow_ext.dbt.profile_fields import ConnectionReader, Secret, guarded, looks_secret, merged
from airflow_ext.exceptions import InvalidProjectError


def reader(*, port: int | None = None, **extra: Any) -> ConnectionReader:
    """Return a reader of a connection with this extra."""
    connection = Connection(conn_id="wh", conn_type="postgres", port=port, extra=json.dumps(extra))
    return ConnectionReader(connection, adapter="postgres")


@pytest.mark.parametrize(
    "name",
    [
        "password",
        "PWD",
        "pass",
        "token",
        "http_token",
        "clientSecret",
        "client_secret",
        "private_key",
        "private_key_passphrase",
        "aws_secret_access_key",
        "fs.s3a.secret.key",
        "api-key",
        "storage_account_key",
    ],
)
def test_a_name_of_a_secret_is_known(name: str) -> None:
    assert looks_secret(name)


@pytest.mark.parametrize(
    "name",
    [
        "user",
        "passes",
        "private_key_path",
        "aws_access_key_id",
        "token_uri",
        "keepalives_idle",
        "keyfile",
        "",
        "-",
    ],
)
def test_a_name_that_says_where_a_secret_is_or_nothing_of_one_is_none(name: str) -> None:
    assert not looks_secret(name)


def test_a_secret_does_not_show_itself() -> None:
    value = secrets.token_urlsafe()
    kept = Secret(value)
    assert value not in repr(kept) + repr({"a": [kept]})
    assert kept == value == pickle.loads(pickle.dumps(kept))  # noqa: S301  # our own value


def test_secret_looking_texts_of_settings_become_secrets_at_any_depth() -> None:
    value = secrets.token_urlsafe()
    kept = guarded({"a": {"s3.secret.key": value, "b": [{"token": value}], "tokens": [value]}, "token": True})
    assert isinstance(kept["a"]["s3.secret.key"], Secret)
    assert isinstance(kept["a"]["b"][0]["token"], Secret)
    assert isinstance(kept["a"]["tokens"][0], Secret)
    assert kept["token"] is True


def test_settings_are_laid_on_each_other_mapping_into_mapping() -> None:
    base = {"a": {"x": 1, "y": 2}, "b": 1, "c": None, "d": {"e": 1}}
    over = {"a": {"y": None, "z": 3}, "b": {"n": 1}, "d": None}
    assert merged(base, over) == {"a": {"x": 1, "z": 3}, "b": {"n": 1}}
    assert base["a"] == {"x": 1, "y": 2}


def test_values_are_read_typed_or_as_text() -> None:
    read = reader(
        n="7",
        m=8,
        yes="Yes",
        off="0",
        on=True,
        one="a, b,",
        more=["c"],
        json='["d"]',
        map='{"e": 1}',
        t=9,
    )
    assert (read.integer("n"), read.integer("m"), read.integer("none")) == (7, 8, None)
    assert (read.flag("yes"), read.flag("off"), read.flag("on"), read.flag("none")) == (
        True,
        False,
        True,
        None,
    )
    assert [read.listing(key) for key in ("one", "more", "json", "none")] == [["a", "b"], ["c"], ["d"], None]
    assert (read.mapping("map"), read.mapping("none")) == ({"e": 1}, None)
    assert (read.text("t"), read.texts("t", "none"), read.integers("n", "none")) == (
        "9",
        {"t": "9"},
        {"n": 7},
    )
    assert read.secret("one") == "a, b,"


def test_an_empty_text_is_not_given() -> None:
    read = reader(a="", b=None)
    assert (read.text("a"), read.flag("a"), read.integer("a"), read.mapping("a"), read.listing("b")) == (
        None,
    ) * 5
    assert (read.login, read.password, read.port(5432)) == (None, None, 5432)


@pytest.mark.parametrize(
    ("method", "value", "message"),
    [
        pytest.param("integer", "1.5", r'extra "k" is to be a whole number, not \'1.5\'', id="number"),
        pytest.param("integer", True, "whole number, not True", id="bool"),
        pytest.param("flag", "maybe", r'extra "k" is to be true or false, not \'maybe\'', id="flag"),
        pytest.param("text", ["a"], r'extra "k" is to be text, not list', id="text"),
        pytest.param("mapping", "{a", r'extra "k" is to be a JSON object', id="torn-mapping"),
        pytest.param("mapping", "[1]", "JSON object, not list", id="mapping"),
        pytest.param("listing", "[1", r'extra "k" is to be a list', id="torn-list"),
        pytest.param("listing", [1], "list of texts", id="list"),
    ],
)
def test_what_is_not_of_its_kind_is_refused_by_name(method: str, value: Any, message: str) -> None:
    with pytest.raises(InvalidProjectError, match=rf"connection 'wh' .*postgres adapter: .*{message}"):
        getattr(reader(k=value), method)("k")


def test_all_that_is_missing_is_named_at_once() -> None:
    read = reader()
    assert read.need("there", "Host") == "there"
    assert read.need(None, "Login") is None
    assert read.need("", "Account") is None
    with pytest.raises(InvalidProjectError, match=r"it lacks Login, Account$") as caught:
        read.finish()
    assert caught.value.source == "wh"


def test_what_cannot_be_handed_on_is_refused_only_when_it_is_set() -> None:
    nothing: list[Any] = [None, "", False, "false", 0, [], {}]
    for value in nothing:
        reader(iam=value).refuse({"iam": "because"})
    with pytest.raises(InvalidProjectError, match=r'extra "iam" is set: because'):
        reader(iam="true").refuse({"iam": "because"})


def test_an_extra_that_is_no_object_is_refused() -> None:
    with pytest.raises(InvalidProjectError, match="its extra is not a JSON object"):
        ConnectionReader(Connection(conn_id="wh", conn_type="postgres", extra="[1]"), adapter="postgres")


SECRET = secrets.token_urlsafe()


@pytest.mark.parametrize(
    ("settings", "path"),
    [
        pytest.param({"password": SECRET}, "dbt.password", id="password"),
        pytest.param({"PWD": 42}, "dbt.PWD", id="number"),
        pytest.param({"a": [{"b": {"session_token": SECRET}}]}, "dbt.a.b.session_token", id="nested"),
        pytest.param({"tokens": [SECRET]}, "dbt.tokens", id="list"),
        pytest.param({"proxy": f"https://me:{SECRET}@proxy"}, "dbt.proxy", id="address"),
        pytest.param(
            {"connection_string_suffix": f"A=1;PWD={SECRET}"}, "connection_string_suffix", id="odbc"
        ),
        pytest.param(
            {"token_endpoint": {"data": f"client_secret={SECRET}"}}, "dbt.token_endpoint.data", id="form"
        ),
    ],
)
def test_a_secret_among_the_settings_is_refused_by_its_path(settings: Any, path: str) -> None:
    with pytest.raises(InvalidProjectError, match=f'{path}".*own field.*profiles_dir=') as caught:
        reader(dbt=settings).settings()
    assert SECRET not in str(caught.value)


def test_settings_without_a_secret_are_taken_as_they_are() -> None:
    settings = {
        "private_key_path": "/k",
        "use_token_cache": True,
        "proxy": "https://proxy:3128",
        "password": None,
    }
    assert reader(dbt=settings).settings() == settings
    assert reader(dbt=json.dumps(settings)).settings() == settings
    assert reader().settings() == {}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        pytest.param({"type": "oracle"}, "type of the connection decides", id="type"),
        pytest.param(["a"], "JSON object, not list", id="list"),
    ],
)
def test_settings_of_the_wrong_kind_are_refused(settings: Any, message: str) -> None:
    with pytest.raises(InvalidProjectError, match=message):
        reader(dbt=settings).settings()
