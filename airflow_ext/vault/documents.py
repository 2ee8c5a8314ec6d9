"""What a secret means to Airflow, and which texts in it must never be seen."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import parse_qsl, quote, quote_plus, unquote, urlsplit

from airflow_ext.exceptions import InvalidError
from airflow_ext.vault.cache import Document
from airflow_ext.vault.lease_model import Leased, LeaseSpec

CONNECTION_FIELDS = ("conn_type", "description", "host", "login", "password", "schema", "port", "extra")

PLACEHOLDER = "leased-per-task"
"""Login that a leased connection shows outside of tasks, where nothing is leased."""

SHORTEST_MASKED = 5
"""Characters; masking less would blot out ordinary words, and Airflow refuses it too."""

_PUBLIC_FIELDS = ("conn_type", "port")
_PLACE_FIELDS = ("host", "schema", "login")
_PUBLIC_WORDS = frozenset({"127.0.0.1", "localhost", "postgres", "public", "default", "airflow"})
"""Hosts, schemas and logins that tell nobody anything and would blot out half of every log."""


def connection_value(document: Document) -> str:
    """Return a connection as the text Airflow reads: the ``conn_uri``, else its fields as JSON.

    :raises InvalidError: If the document is neither; the message names keys of ours, never a value.
    """
    data = document.data
    uri = data.get("conn_uri")
    if uri:
        return _checked_uri(document, uri)
    return json.dumps(_fields(document))


def _fields(document: Document) -> dict[str, Any]:
    not_fields = ("conn_uri", "conn_id", "lease")
    fields = {key: value for key, value in document.data.items() if key not in not_fields}
    unknown = sorted(set(fields) - set(CONNECTION_FIELDS))
    if unknown:
        known = ", ".join(CONNECTION_FIELDS)
        raise InvalidError(
            f"{document.path} has keys no connection has ({', '.join(unknown)}): use conn_uri, or only {known};"
            " everything else belongs into extra"
        )
    if not any(fields.values()):
        raise InvalidError(
            f"{document.path} is empty: give conn_uri, or conn_type, host, login, password, ..."
        )
    _check_fields(document, fields)
    return fields


def lease_of(document: Document) -> LeaseSpec | None:
    """Return what a connection says about a lease, ``None`` when nothing.

    :raises InvalidError: If it cannot be used.
    """
    told = document.data.get("lease")
    return None if told is None else LeaseSpec.of(told, where=document.path)


def with_lease(document: Document, spec: LeaseSpec, leased: Leased | None) -> str:
    """Return a connection with leased credentials in it, as JSON or as a URI.

    :param leased: ``None`` where nothing is leased: then it shows that, in place of a login.
    :raises InvalidError: If the document or the credentials cannot be used.
    """
    given = leased.fields(spec) if leased is not None else {"login": PLACEHOLDER, "password": ""}
    uri = document.data.get("conn_uri")
    if not uri:
        return json.dumps({**_fields(document), **given})
    scheme, separator, rest = _checked_uri(document, uri).partition("://")
    place, slash, path = rest.partition("/")
    user, host = quote(given.get("login", ""), safe=""), place.rpartition("@")[2]
    return f"{scheme}{separator}{user}:{quote(given.get('password', ''), safe='')}@{host}{slash}{path}"


def _checked_uri(document: Document, uri: object) -> str:
    wrong = InvalidError(
        f"conn_uri of {document.path} is no connection URI: write type://user:password@host:port/schema and quote"
        " special characters of user and password (/ as %2F, # as %23, ? as %3F)"
    )
    if not isinstance(uri, str):
        raise wrong
    try:
        parts = urlsplit(uri.strip())
        _ = parts.port  # looked at here, because Airflow's own error shows the text around it
    except ValueError:
        raise wrong from None
    if not parts.scheme or "://" not in uri:
        raise wrong
    return uri.strip()


def _check_fields(document: Document, fields: Mapping[str, Any]) -> None:
    port = fields.get("port")
    if port not in (None, "") and not str(port).isdigit():
        raise InvalidError(f'port of {document.path} is no number: write it as 5432 or "5432"')
    for key in CONNECTION_FIELDS:
        value = fields.get(key)
        if key not in ("port", "extra") and not isinstance(value, str | None):
            raise InvalidError(f"{key} of {document.path} must be text, not {type(value).__name__}")
    extra = fields.get("extra")
    if isinstance(extra, str) and extra.strip():
        try:
            json.loads(extra)
        except ValueError:
            raise InvalidError(f"extra of {document.path} is text that is no JSON: write an object") from None
    elif extra and not isinstance(extra, dict | str):
        raise InvalidError(f"extra of {document.path} must be an object, not {type(extra).__name__}")


def plain_value(document: Document) -> str:
    """Return the value of a variable or a configuration option.

    :raises InvalidError: If the document has no key ``value``.
    """
    if "value" not in document.data:
        raise InvalidError(f"{document.path} has no key 'value': write the text below that key")
    value = document.data["value"]
    return value if isinstance(value, str) else json.dumps(value)


def checked(kind: str, document: Document) -> LeaseSpec | None:
    """Return what a document says about a lease, having looked at it as a lookup does, but leased nothing.

    :param kind: ``connection``, ``variable`` or ``config``.
    :raises InvalidError: If a lookup could not use the document.
    """
    if kind != "connection":
        plain_value(document)
        return None
    spec = lease_of(document)
    if spec is None:
        connection_value(document)
    else:
        with_lease(document, spec, None)
    return spec


def secret_texts(document: Document | Leased) -> list[str]:
    """Return all texts that must be masked: every leaf, in the forms it may be written.

    Left out are types, ports, and well-known names as host, schema or login.
    """
    found: dict[str, None] = {}
    for key, value in document.data.items():
        if key == "lease":
            continue  # names a path, and is no secret
        for leaf in _leaves(value, key):
            if key in _PUBLIC_FIELDS or (key in _PLACE_FIELDS and leaf.lower() in _PUBLIC_WORDS):
                continue
            for form in _forms(leaf):
                if len(form) >= SHORTEST_MASKED:
                    found[form] = None
    return list(found)


def _leaves(value: object, key: str) -> Iterator[str]:
    if isinstance(value, Mapping):
        for inner in value.values():
            yield from _leaves(inner, "")
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _leaves(inner, "")
    elif isinstance(value, str):
        yield value
        if key == "conn_uri":
            yield from _uri_leaves(value)
        elif value.lstrip()[:1] in ("{", "["):
            try:
                inner = json.loads(value)
            except ValueError:
                return
            yield from _leaves(inner, "")
    elif value is not None and not isinstance(value, bool):
        yield str(value)


def _uri_leaves(uri: str) -> Iterator[str]:
    # Split by hand: a URI that urlsplit refuses holds a password all the same.
    user, separator, _ = uri.partition("://")[2].rpartition("@")
    password = user.partition(":")[2]
    if separator and password:
        yield password
        yield unquote(password)
    for _, value in parse_qsl(uri.partition("?")[2]):
        yield from _leaves(value, "")


def _forms(text: str) -> Iterator[str]:
    yield text
    yield text.strip()
    yield quote(text)
    yield quote(text, safe="")
    yield quote_plus(text)
    yield json.dumps(text)[1:-1]
    yield json.dumps(text, ensure_ascii=False)[1:-1]
    yield repr(text)[1:-1]
    lines = text.splitlines()
    if len(lines) > 1:  # a private key is printed line by line
        yield from (line.strip() for line in lines if len(line.strip()) >= 16 and "-----" not in line)
